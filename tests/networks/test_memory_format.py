"""Networks in channels last, and the layers that must keep the plain order there."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diswot_search import Probe, Readings, Splits, get_proxy, train
from diswot_search.networks.memory_format import to_channels_last, unsafe_layers
from diswot_search.readings.passes import Precision


class Calls(TorchFunctionMode):
    """Records the input and the weight of each convolution."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is nn.functional.conv2d:
            self.calls.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def network(channels: int = 3) -> nn.Sequential:
    """A strided 1x1 convolution on few channels, then a 3x3 convolution and a classifier."""
    torch.manual_seed(0)
    first = nn.Conv2d(channels, 8, 1, stride=2)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def is_channels_last(values: Tensor) -> bool:
    """Whether torch computes with a tensor as one in channels last, which one channel leaves open to strides."""
    return values.stride(1) == 1 and values.stride(0) != 1 and values.stride() != values.contiguous().clone().stride()


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(3, 8, 1, stride=2), True),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), True),
        (nn.Conv2d(1, 8, 1, stride=4), True),
        (nn.Conv2d(16, 8, 1, stride=2), False),
        (nn.Conv2d(3, 8, 1), False),
        (nn.Conv2d(3, 8, 3, stride=2), False),
        (nn.Conv2d(8, 8, 1, stride=2, groups=2), False),
    ],
)
def test_the_check_finds_strided_1x1_convolutions_on_few_channels(layer: nn.Conv2d, unsafe: bool) -> None:
    assert unsafe_layers(nn.Sequential(nn.ReLU(), layer)) == ([layer] if unsafe else [])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_unsafe_layer_computes_in_the_plain_order_and_all_others_in_channels_last(channels: int) -> None:
    model = to_channels_last(network(channels))
    images = torch.rand(4, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    with Calls() as recorded:
        model(images)
    (first, first_weight), (_, second_weight) = recorded.calls
    assert first.stride() == (64 * channels, 64, 8, 1)
    assert first_weight.stride() == (channels, 1, 1, 1)
    assert second_weight.is_contiguous(memory_format=torch.channels_last)


def test_copies_and_further_conversions_keep_the_plain_order_once() -> None:
    model = to_channels_last(to_channels_last(network()))
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert len(same[0]._forward_pre_hooks) == 1
    assert not model[2]._forward_pre_hooks
    assert list(model.state_dict()) == list(network().state_dict())


def test_tensors_of_five_dimensions_keep_their_order() -> None:
    model = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3))
    to_channels_last(model)
    assert model[0].weight.is_contiguous()
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_lambda_network_is_scored_and_trained_in_channels_last() -> None:
    """Its lambda layers convolve over the relative positions of tokens, with weights of five dimensions."""

    def lambda_network() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model("lambda_resnet26t", num_classes=2)

    assert any(weight.ndim == 5 for weight in lambda_network().parameters())
    probe = Probe.from_tensors(torch.rand(2, 3, 32, 32), torch.arange(2), num_classes=2)
    for name in ("nwot", "grad_norm"):
        values = [
            get_proxy(name)(Readings(lambda_network, probe, precision=Precision(channels_last=channels_last)), None)
            for channels_last in (True, False)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    generator = np.random.default_rng(0)
    draws = [(generator.integers(0, 256, (4, 32, 32, 3), np.uint8), np.arange(4) % 2) for _ in range(3)]
    splits = Splits.from_arrays(*draws)
    options = {"recipe_options": {"channels_last": True, "padding": 0, "flip": 0.0}, "progress": False}
    training = train(lambda_network(), splits, epochs=1, batch_size=4, device="cpu", **options)
    assert training.result.steps == 1
    assert not torch.equal(training.student.head.fc.weight, lambda_network().head.fc.weight)


def test_readings_put_unsafe_layers_into_the_plain_order() -> None:
    probe = Probe.from_tensors(torch.rand(4, 3, 8, 8), torch.arange(4) % 2, num_classes=2)
    readings = Readings(network, probe)
    assert not is_channels_last(readings.model[0].weight)
    plain = network()
    plain.eval()
    torch.testing.assert_close(readings.logits, plain(probe.images).detach())


DEADLY = """
import numpy as np, torch
from torch import nn
import diswot_search as ds

def network(channels):
    layers = nn.Conv2d(channels, 48, 1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2)
    return nn.Sequential(*layers)

for channels in (3, 8):
    probe = ds.Probe.from_tensors(torch.rand(16, channels, 128, 128), torch.arange(16) % 2, num_classes=2)
    for _ in range(4):
        readings = ds.Readings(lambda: network(channels), probe)
        assert all(map(torch.isfinite, (gradient.sum() for gradient in readings.gradients)))

images, labels = np.random.default_rng(0).integers(0, 256, (72, 128, 128, 3), np.uint8), np.arange(72) % 2
parts = {"train_images": images[8:], "train_labels": labels[8:], "test_images": images[:8], "test_labels": labels[:8]}
np.savez("data.npz", **parts)
recipe = {"padding": 0, "flip": 0.0}
training = ds.train(network(3), "data.npz", epochs=2, batch_size=16, recipe_options=recipe, device="cpu")
print("alive", training.path)
"""


@pytest.mark.faults
def test_scoring_and_training_survive_a_layer_that_torch_kills_the_process_at(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = subprocess.run([sys.executable, "-c", DEADLY], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith("alive")
