"""Controls: every reading is changed or refused, those of a user's subclass included, and none reaches the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType, TracebackType
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

from .helpers import make_probe, small_cnn

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


def neighbours(value: Any) -> Iterator[Any]:
    """Everything that a value refers to: items, attributes, and the bound parts of functions, errors and frames."""
    if isinstance(value, dict):
        yield from (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType | BuiltinFunctionType):
        yield from (value.__self__, getattr(value, "__func__", None))
    elif isinstance(value, FunctionType):
        cells = (cell.cell_contents for cell in value.__closure__ or ())
        yield from (*cells, value.__defaults__, value.__kwdefaults__, value.__dict__)
    elif isinstance(value, BaseException):
        yield from (value.args, value.__traceback__, value.__cause__, value.__context__)
    elif isinstance(value, TracebackType):
        yield from (value.tb_frame, value.tb_next)
    elif isinstance(value, FrameType):
        yield value.f_locals
    elif isinstance(value, Tensor):
        yield from (value.grad_fn, value._backward_hooks, value.grad)
    if not isinstance(value, type):
        yield from vars(value).values() if hasattr(value, "__dict__") else ()
        yield from (getattr(value, name) for name in getattr(value, "__slots__", ()) if hasattr(value, name))


def reachable(*starts: Any) -> list[Any]:
    """Everything that can be reached from values, each object once; Python modules and code are left out."""
    seen: dict[int, Any] = {}
    pending = list(starts)
    while pending:
        value = pending.pop()
        if id(value) not in seen and not isinstance(value, ModuleType | CodeType):
            seen[id(value)] = value  # which also keeps it alive, so that no other object gets its id
            pending += neighbours(value)
    return list(seen.values())


class Leaky(Mine):
    """A user's readings that hand out whatever the readings hold."""

    @reading(controlled=True)
    def everything(self) -> Any:
        """All attributes of the readings, and functions that are bound to them."""
        return [*vars(self).values(), self._rerun_head, partial(self._run, frozenset()), lambda: self]

    @reading("blocks", controlled=True)
    def block_pass(self) -> Pass:
        """The pass with the records of blocks."""
        return self._pass_for("block_pass")

    @reading(controlled=True)
    def of_head(self) -> Tensor:
        """A wrong declaration: it runs the head."""
        return self._rerun_head(self.forward_pass.forward.raw)


class Broken(nn.Module):
    """A network whose forward pass fails, with itself in the frames of the error."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("make", [*NETWORKS, Broken])
@pytest.mark.parametrize("control", [*CONTROLS, "both"])
def test_neither_the_network_nor_the_original_is_reachable(control: str, make: Callable[[], nn.Module]) -> None:
    original = read(make, Leaky)
    modules = set(map(id, original.model.modules()))
    chain = list(CONTROLS.values()) if control == "both" else [CONTROLS[control]]
    controlled = original
    for change in chain:
        controlled = change(controlled)
    values: list[Any] = [controlled, *(list(vars(kind).values()) for kind in type(controlled).__mro__)]
    for name in [*readings_of(type(controlled)), "feature_map", "features", "logits"]:
        try:
            values.append(getattr(controlled, name))
        except (ReadingError, RuntimeError):
            continue
    found = reachable(*values)
    assert [each for each in found if id(each) in modules or isinstance(each, nn.Module)] == []
    others = [each for each in found if isinstance(each, Readings) and each is not controlled]
    assert others == []
    assert any(isinstance(each, Pass) for each in found) or make is Broken


def test_the_search_for_networks_finds_them_wherever_they_hide() -> None:
    network, original = nn.Linear(2, 2), read(resnet, Leaky)

    def default(given: object = network) -> None: ...

    error = RuntimeError(network)
    for hiding in (
        {"a": [(network,)]},
        partial(print, 1, end=network),
        partial(network.forward),
        lambda: network,
        network.parameters,
        default,
        error,
        Precision(network),  # type: ignore[arg-type]
    ):
        assert any(each is network for each in reachable(hiding))
    assert any(each is original.model for each in reachable(original))


@pytest.mark.parametrize("control", CONTROLS)
def test_the_forward_pass_of_a_control_hands_out_no_head(control: str) -> None:
    controlled = CONTROLS[control](read(convnext, Leaky))
    assert not hasattr(controlled.forward_pass, "head")
    with pytest.raises(ReadingError, match="activations alone"):
        _ = controlled.of_head


def test_class_maps_of_a_head_that_is_not_linear_are_those_of_the_shuffled_features() -> None:
    """The head runs while the control is made, so that DisWOT's score has a control for every network."""
    original = read(convnext, Readings)
    assert not original.has_mean_pooling
    shuffled = original.shuffled(1)
    torch.testing.assert_close(shuffled.class_map_gram, original.class_map_gram, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(shuffled.label_gradient, original.label_gradient, atol=1e-6)


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
