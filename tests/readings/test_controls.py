"""Controls: every reading is changed or refused, those of a user's subclass included, and none reaches the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.registry import get_proxy, list_proxies
from diswot_search.readings.controls import Controlled
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Pass, Precision
from diswot_search.readings.timing import reading, readings_of

from .test_readings import make_probe, small_cnn

PROBE_ONLY = {"images", "labels"}
"""Readings of the probe, which no control changes."""

WITHOUT_ORDER = {"channel_spectrum", "classifier_weight", "has_linear_head", "has_mean_pooling"} | {
    *("class_map_gram", "block_entropies", "block_spectra")
}
"""Readings that do not depend on the order of samples, so that shuffling leaves them equal up to rounding."""

ABOUT_THE_FORM = {"has_linear_head", "has_mean_pooling"}
"""Readings that tell how the head works; noise is pooled and classified in the same way."""


def vit() -> nn.Module:
    shape = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **shape)


def resnet() -> nn.Module:
    return timm.create_model("cifar_resnet", arch="1-1-1", num_classes=5)


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20))


NETWORKS = [resnet, vit, convnext, small_cnn]


class Mine(Readings):
    """A user's readings: some tell how a control changes them, and some try to reach the network."""

    @reading(controlled=True)
    def mean_logits(self) -> Tensor:
        """The mean of the logits of each sample."""
        return self.logits.mean(1)

    @reading("blocks", controlled=True)
    def block_energies(self) -> Tensor:
        """The energy of each block and sample."""
        return torch.stack([block.square().mean((1, 2)) for block in self.block_features])

    @reading
    def undeclared(self) -> Tensor:
        """A reading that does not say what a control does to it."""
        return self.logits.mean(1)

    @reading(controlled=True)
    def of_model(self) -> Tensor:
        """A wrong declaration: it runs the network."""
        with torch.no_grad():
            return self.model(self.images)

    @reading(controlled=True)
    def of_make(self) -> Any:
        """A wrong declaration: it builds the network."""
        return self._make()

    @reading("graph", controlled=True)
    def of_graph(self) -> Any:
        """A wrong declaration: it needs the graph of the network."""
        return self._pass_for("of_graph").logits

    @reading(controlled=True)
    def of_layers(self) -> Any:
        """A wrong declaration: it reads the weights."""
        return self._weights

    @property
    def plain_property(self) -> Tensor:
        """No reading at all."""
        return next(self.model.parameters())


def read(make: Callable[[], nn.Module], kind: type[Readings] = Mine) -> Any:
    torch.manual_seed(3)
    model = make()
    labels = (0, 1, 4, 1, 0, 4)  # at least four images, which halves need
    return kind(lambda: model, make_probe(labels=labels), precision=Precision(channels_last=False))


CONTROLS: dict[str, Callable[[Readings], Any]] = {
    "shuffled": lambda readings: readings.shuffled(1),
    "noise": lambda readings: readings.replaced_by_noise(1),
}


def leaves(value: Any) -> list[Any]:
    """The numbers and tensors in a value."""
    if isinstance(value, Pass):
        return [value.logits, *(block.raw for block in value.notes.blocks)]
    if hasattr(value, "rows"):
        return [value.rows]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


def same(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=True)
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) if isinstance(a, Tensor) else a == pytest.approx(b, rel=1e-4)
        for a, b in pairs
    )


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("control", CONTROLS)
def test_every_reading_is_changed_or_refused(control: str, make: Callable[[], nn.Module]) -> None:
    original = read(make)
    names = readings_of(type(original))
    assert {"undeclared", "of_model", "mean_logits", "model", "cost", "subsample"} <= set(names)
    for name, declared in names.items():
        controlled = CONTROLS[control](original)
        if not declared.controlled or name.startswith("of_"):
            with pytest.raises(ReadingError, match="activations alone"):
                getattr(controlled, name)
            continue
        try:
            expected = getattr(original, name)
            value = getattr(controlled, name)
        except ReadingError:  # the network, or noise, does not have it
            continue
        if name in PROBE_ONLY or (control == "shuffled" and name in WITHOUT_ORDER) or name in ABOUT_THE_FORM:
            continue
        assert not same(value, expected), f"{name} is that of the untouched network"
    for name in ("logits", "features"):
        assert not same(getattr(controlled, name), getattr(original, name))


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_no_reading_does_not_reach_the_network_either(control: str) -> None:
    controlled = CONTROLS[control](read(resnet))
    for reach in (
        lambda: controlled.plain_property,
        lambda: controlled._make(),
        lambda: controlled._run(frozenset({"graph"})),
        lambda: controlled._weights,
        lambda: Readings.model.function(controlled),
    ):
        with pytest.raises(ReadingError, match="activations alone"):
            reach()
    held = [value for value in vars(controlled).values() if isinstance(value, nn.Module | Readings)]
    assert held == []


def test_a_reading_that_is_added_later_is_refused_until_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    def sharpness(self: Readings) -> float:
        return float(self.logits.std())

    original = read(resnet, Readings)
    monkeypatch.setattr(Readings, "sharpness", reading(sharpness), raising=False)
    with pytest.raises(ReadingError, match=r"'sharpness'.*@reading\(controlled=True\)"):
        _ = original.replaced_by_noise().sharpness
    monkeypatch.setattr(Readings, "sharpness", reading(controlled=True)(sharpness))
    assert original.replaced_by_noise().sharpness != original.sharpness  # type: ignore[attr-defined]


def test_a_proxy_that_runs_the_teacher_is_refused_under_controls() -> None:
    def peeks(student: Readings, teacher: Readings | None = None) -> float:
        assert teacher is not None
        with torch.no_grad():
            return float((student.logits - teacher.model(teacher.images)).square().mean())

    student, teacher = read(resnet, Readings), read(convnext, Readings)
    assert peeks(student, teacher) > 0
    for control in CONTROLS.values():
        with pytest.raises(ReadingError, match="'model'"):
            peeks(student, control(teacher))


def test_a_control_of_a_control_is_one() -> None:
    once = read(resnet).shuffled(1)
    twice = once.replaced_by_noise(2)
    assert isinstance(once, Mine)
    assert type(twice) is type(once)
    assert isinstance(twice, Controlled)
    assert not torch.equal(twice.features, once.features)


@pytest.mark.parametrize("make", NETWORKS)
def test_registered_proxies_keep_working_under_controls(make: Callable[[], nn.Module]) -> None:
    """Whatever compares a student with a teacher also compares it with a shuffled one."""
    student, teacher = read(resnet, Readings), read(make, Readings)
    for proxy in map(get_proxy, list_proxies()):
        if not proxy.needs_teacher:
            continue
        try:
            proxy(student, teacher)  # type: ignore[operator]
        except ReadingError:
            continue
        assert isinstance(proxy(student, teacher.shuffled(1)), float)  # type: ignore[operator]
