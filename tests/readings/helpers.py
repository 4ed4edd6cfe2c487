"""Probes, readings and comparisons of readings that several test files share."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from diswot_search.data.probe import Probe
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision

CLASSES = 5
SAMPLES = 4
PLAIN = Precision(channels_last=False)


def make_probe(size: int = 32, labels: tuple[int, ...] = (0, 1, 4, 1), num_classes: int = CLASSES) -> Probe:
    images = torch.randn(len(labels), 3, size, size, generator=torch.Generator().manual_seed(size))
    return Probe.from_tensors(images, torch.tensor(labels), num_classes)


def read(model: nn.Module, probe: Probe, **options: Any) -> Readings:
    return Readings(lambda: model, probe, **{"precision": PLAIN} | options)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to a share of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def small_volo() -> Any:
    """Its head is not linear, so it is differentiated; its classifier is frozen."""
    model = timm.create_model(
        "volo_d1_224", num_classes=CLASSES, img_size=32, drop_rate=0.5, drop_path_rate=0.5, attn_drop_rate=0.5
    )
    return model.train().requires_grad_(False)


def small_mobilenet() -> Any:
    return timm.create_model("mobilenetv3_small_050", num_classes=CLASSES, drop_rate=0.5).train()


def everything_about(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {f"state {key}": value.clone() for key, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = (parameter.requires_grad, parameter.grad)
    for name, module in model.named_modules():
        tracked = getattr(module, "track_running_stats", None)
        hooks = [len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        state[f"module {name}"] = (module.training, tracked, hooks, sorted(vars(module)))
    return state


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        equal = torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        assert equal, key
