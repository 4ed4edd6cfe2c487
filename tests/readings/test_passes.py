"""What one forward pass notes down, and what is differentiated from it, against plain autograd and brute force.

Both sides compute in single precision on the same weights and images, so they agree but for the order of sums: 1e-4 of
the largest value. Counts are exact.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from diswot_search.networks.blocks import find_blocks
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision
from diswot_search.readings.timing import Timed, reading
from search_spaces import UnknownNameError

from .helpers import assert_close, assert_same, everything_about, make_probe, read, small_mobilenet, small_volo

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DERIVED = ("gradients", "hessian_gradients", "sensitivities", "input_jacobian", "block_gradients")
NOTED = ("code_gram", "neurons", "sign_patterns", "block_features", "stage_features", "leaf_maps")


def nasbench() -> nn.Module:
    return timm.create_model("nasbench201", arch=CELL, channels=4, cells=1, num_classes=5)


def resnet() -> nn.Module:
    return timm.create_model("cifar_resnet20", num_classes=5)


def vit() -> nn.Module:
    shape = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **shape)


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20))


def swin() -> nn.Module:
    shape = {
        "img_size": 32,
        "depths": (1, 1),
        "num_heads": (2, 4),
        "embed_dim": 12,
        "window_size": 4,
        "drop_path_rate": 0.0,
    }
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **shape)


NETWORKS = [nasbench, resnet, vit, convnext, swin]


def read_all(make: Callable[[], nn.Module], **options: Any) -> Readings:
    torch.manual_seed(3)
    return read(make(), make_probe(), **options)


def loss_and_layers(readings: Readings, images: Tensor) -> tuple[Tensor, list[tuple[nn.Module, Tensor]], Tensor]:
    """The cross entropy in training mode, what each layer gave out, and the logits, by hooks and plain autograd."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append((layer, output))

    handles = [layer.register_forward_hook(keep) for layer in readings.layers]
    logits = readings.model.train()(images)
    for handle in handles:
        handle.remove()
    return F.cross_entropy(logits, readings.labels), outputs, logits


@pytest.mark.parametrize("make", NETWORKS)
def test_first_derivatives_are_those_of_autograd(make: Callable[[], nn.Module]) -> None:
    readings = read_all(make, needs=DERIVED)
    found = {name: getattr(readings, name) for name in ("gradients", "sensitivities", "input_jacobian")}
    images = readings.images.clone().requires_grad_()
    loss, outputs, logits = loss_and_layers(readings, images)
    loss.backward(retain_graph=True)
    for layer, gradient in zip(readings.layers, found["gradients"], strict=True):
        expected = torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad  # type: ignore[arg-type]
        assert_close(gradient, expected)
    assert len(outputs) == len(found["sensitivities"])
    for (layer, output), sums in zip(outputs, found["sensitivities"], strict=True):
        product = (output * output.grad).detach()
        channel = product.ndim - 1 if isinstance(layer, nn.Linear) else 1
        others = [d for d in range(1, product.ndim) if d != channel]
        torch.testing.assert_close(sums, product.sum(others) if others else product, rtol=1e-3, atol=1e-6)
    (jacobian,) = torch.autograd.grad(logits.sum(), images)
    assert_close(found["input_jacobian"], jacobian.flatten(1))


@pytest.mark.parametrize("make", [nasbench, resnet])
def test_hessian_times_gradient_is_a_vector_hessian_product(make: Callable[[], nn.Module]) -> None:
    readings = read_all(make, needs=("hessian_gradients",))
    found = readings.hessian_gradients
    weights = [layer.weight for layer in readings.layers]
    loss, _, _ = loss_and_layers(readings, readings.images)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    expected = torch.autograd.grad(gradients, weights, [g.detach() for g in gradients], materialize_grads=True)
    largest = max(float(one.abs().max()) for one in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("make", [vit, convnext])
def test_hessian_times_gradient_is_a_difference_of_gradients(make: Callable[[], nn.Module]) -> None:
    """In double precision, where a central difference of step 1e-5 leaves an error of about 1e-6."""
    torch.manual_seed(3)
    model, probe = make().double(), make_probe()

    class Double(Readings):
        images = property(lambda self: self.probe.images.double())  # type: ignore[assignment]

    def gradients(step: list[Tensor] | None = None, size: float = 0.0) -> list[Tensor]:
        layers = Double(lambda: model, probe).layers
        with torch.no_grad():
            for layer, one in zip(layers, step or [], strict=False):
                layer.weight += size * one  # type: ignore[operator]
        found = Double(lambda: model, probe, precision=Precision(channels_last=False)).gradients
        with torch.no_grad():
            for layer, one in zip(layers, step or [], strict=False):
                layer.weight -= size * one  # type: ignore[operator]
        return found

    exact = Double(lambda: model, probe, needs=("hessian_gradients",)).hessian_gradients
    first = gradients()
    step = 1e-5 / max(float(one.abs().max()) for one in first)
    ahead, behind = gradients(first, step), gradients(first, -step)
    for found, plus, minus in zip(exact, ahead, behind, strict=True):
        expected = (plus - minus) / (2 * step)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * max(float(e.abs().max()) for e in exact))


@pytest.mark.parametrize("make", NETWORKS)
def test_what_is_announced_is_what_is_read_without_announcement(make: Callable[[], nn.Module]) -> None:
    announced = read_all(make, needs=(*DERIVED, *NOTED))
    for name in (*DERIVED, *NOTED):
        alone = getattr(read_all(make), name)
        together = getattr(announced, name)
        flat = [list(itertools.chain(*v)) if isinstance(v, list) and v and isinstance(v[0], tuple) else v
                for v in (alone, together)]  # fmt: skip
        if isinstance(alone, int):
            assert alone == together
        else:
            for one, other in zip(*(v if isinstance(v, list) else [v] for v in flat), strict=True):
                assert_close(other, one, tolerance=1e-4)


def test_one_forward_and_each_derivative_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, backwards = [], []
    original = torch.autograd.grad

    def counting(*arguments: Any, **options: Any) -> Any:
        backwards.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    readings = read_all(nasbench, needs=(*DERIVED, *NOTED))
    readings.model.stem[0].register_forward_hook(lambda *_: forwards.append(1))  # type: ignore[union-attr, index]
    for _ in range(2):
        for name in (*DERIVED, *NOTED):
            getattr(readings, name)
    blocks = len(readings.block_features)
    # The loss, its gradient's square, the logits, and from each block to the one before it or the stem.
    assert (len(forwards), len(backwards)) == (1, 3 + blocks)


def test_a_layer_that_no_gradient_reaches_has_no_sensitivity() -> None:
    class Idle(nn.Module):
        """Its first layer is run, but what it gives is not used."""

        def __init__(self) -> None:
            super().__init__()
            self.idle, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.head(x.flatten(1))

    idle, head = read(Idle(), make_probe(8), needs=("sensitivities",)).sensitivities
    assert torch.equal(idle, torch.zeros(4, 4))
    assert head.shape == (4, 5)
    assert head.any()


# -- codes --------------------------------------------------------------------------------------


class Codes(nn.Module):
    """Activations as modules, as functions and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4 * 36, 6)
        self.head = nn.Linear(6, 5)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.seen.append((x > 0).flatten(1))
        x = self.fc(self.relu(x).flatten(1))
        self.seen.append(x > 0)
        x = F.gelu(x)
        self.seen.append(x > 0)
        return self.head(torch.relu(x))


@given(samples=st.integers(2, 20), seed=st.integers(0, 99))
def test_codes_are_counted_as_by_hand(samples: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, probe = Codes(), make_probe(8, labels=tuple(i % 5 for i in range(samples)))
    readings = read(model, probe, needs=("code_gram", "sign_patterns"))
    gram = readings.code_gram
    codes = torch.cat(model.seen, 1)
    assert readings.neurons == codes.shape[1]
    assert torch.equal(gram, (codes[:, None] == codes[None]).sum(2).double())
    assert readings.sign_patterns == len({tuple(column.tolist()) for column in codes[:16].T})


def test_codes_are_counted_exactly_in_bfloat16() -> None:
    """More neurons than it has whole numbers, and as many samples as make all 2^16 patterns."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(30), nn.Flatten(), nn.Linear(8, 5))
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda *call: seen.append((call[2] > 0).flatten(1)))
    probe = make_probe(labels=tuple(i % 5 for i in range(20)))
    readings = read(model, probe, precision=Precision(channels_last=False, bf16=True))
    gram, patterns = readings.code_gram, readings.sign_patterns
    codes = seen[0]
    assert torch.equal(gram, (codes[:, None] == codes[None]).sum(2).double())
    assert gram.diagonal().unique().tolist() == [readings.neurons] == [8 * 30 * 30]
    assert patterns == len({tuple(column.tolist()) for column in codes[:16].T})


def test_sensitivities_of_bfloat16_are_products_in_single_precision() -> None:
    readings = read_all(resnet, precision=Precision(bf16=True), needs=("sensitivities",))
    outputs = [call.output for call in readings.forward_pass.notes.layers]
    loss = F.cross_entropy(readings.forward_pass.logits, readings.labels)
    gradients = torch.autograd.grad(loss, outputs, retain_graph=True)
    for sums, output, gradient in zip(readings.sensitivities, outputs, gradients, strict=True):
        product = output.detach().float() * gradient.float()
        assert output.dtype == torch.bfloat16
        assert_close(sums, product.flatten(2).sum(2) if product.ndim > 2 else product, tolerance=1e-5)


def test_a_network_without_activations_has_no_codes() -> None:
    readings = read(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), make_probe())
    for name in ("code_gram", "sign_patterns"):
        with pytest.raises(ReadingError, match="no activation function"):
            getattr(readings, name)


# -- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "blocks", "shapes"),
    [
        (nasbench, 5, [(4, 1024), (8, 256), (16, 64)]),  # three cells and the blocks between the stages
        (resnet, 9, [(16, 1024), (32, 256), (64, 64)]),
        (vit, 2, [(24, 16)]),  # the class token is no position
        (convnext, 4, [(8, 64), (12, 16), (16, 4), (20, 1)]),
        (swin, 2, [(12, 64), (24, 16)]),
    ],
)
def test_blocks_and_stages(make: Callable[[], nn.Module], blocks: int, shapes: list[tuple[int, int]]) -> None:
    readings = read_all(make)
    assert len(readings.block_features) == blocks
    assert [tuple(map_.shape[1:]) for map_ in readings.stage_features] == shapes


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("resnet18", ["BasicBlock"] * 8),
        ("regnetx_002", ["Bottleneck"] * 13),
        ("mixer_s32_224", ["MixerBlock"] * 8),
        ("efficientnet_b0", ["DepthwiseSeparableConv"] + ["InvertedResidual"] * 15),
        ("pit_ti_224", ["Block"] * 12),
        ("dla34", ["DlaTree"] * 4),
        ("vgg11", ["Conv2d"] * 8 + ["Conv2d", "Conv2d", "Linear"]),  # no blocks, so its layers
    ],
)
def test_blocks_of_timm_models(name: str, kinds: list[str]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert [type(block).__name__ for block in find_blocks(model)] == kinds


@pytest.mark.parametrize("make", NETWORKS)
def test_block_gradients_are_those_of_the_block_alone(make: Callable[[], nn.Module]) -> None:
    readings = read_all(make, needs=("block_gradients",))
    notes = readings.forward_pass.notes
    assert notes.entry is not None
    befores = [notes.entry, *notes.blocks[:-1]]
    for before, after, (sent, arrived) in zip(befores, notes.blocks, readings.block_gradients, strict=True):
        assert set(sent.unique().tolist()) == {-1.0, 1.0}
        before, after = before.raw, after.raw
        as_map = sent if after.ndim == 4 and make is not swin else sent.transpose(1, 2)
        (expected,) = torch.autograd.grad((as_map.reshape(after.shape) * after).sum(), before, retain_graph=True)
        assert_close(arrived.transpose(1, 2).flatten(), expected.flatten(1, -2).flatten()
                     if make in (vit, swin) else expected.flatten(2).transpose(1, 2).flatten())  # fmt: skip
        assert sent.shape[:2] == (len(after), after.shape[1] if make not in (vit, swin) else after.shape[-1])


# -- networks that are called in unusual ways ---------------------------------------------------


class Unit(nn.Module):
    """Two layers in a row, called by position or by name."""

    def __init__(self, width: int, by_name: bool) -> None:
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(width, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        if self.by_name:
            return self.last(input=self.act(input=self.conv(input=x)))
        return self.last(self.act(self.conv(x)))


class Unusual(nn.Module):
    """Centres its images, in place or not, and calls its parts by name or not."""

    def __init__(self, *, in_place: bool = False, by_name: bool = False) -> None:
        super().__init__()
        self.units = nn.ModuleList([Unit(3, by_name), Unit(4, by_name), Unit(4, by_name)])
        self.head = nn.Linear(4, 5)
        self.in_place, self.by_name = in_place, by_name

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).mul_(2) if self.in_place else x - 0.5 + x - 0.5
        for unit in self.units:
            x = unit(x=x) if self.by_name else unit(x)
        pooled = x.mean((2, 3))
        return self.head(input=pooled) if self.by_name else self.head(pooled)


ALONE = ("fisher_information", "ntk", "half_gradients")
SHOWN = ("features", "logits", "pooled", *DERIVED[:4], *NOTED, *ALONE)


def unusual(**form: bool) -> list[Tensor]:
    """All readings of such a network, as one list of tensors."""
    torch.manual_seed(0)
    readings, images = read(Unusual(**form), make_probe(8), needs=(*DERIVED, *NOTED)), make_probe(8).images
    found = [torch.as_tensor(leaf) for name in SHOWN for leaf in tree_leaves(getattr(readings, name))]
    assert torch.equal(readings.images, images)
    blocks = readings.block_gradients[-2:]  # images that are made anew count as what a stem gives
    return [*found, *tree_leaves(blocks), torch.tensor([get_proxy("fisher")(readings)])]


class Branches(nn.Module):
    """Two rows of two units side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.left = nn.Sequential(Unit(4, by_name=False), Unit(4, by_name=False))
        self.right = nn.Sequential(Unit(4, by_name=False), Unit(4, by_name=False))
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return self.head(torch.cat([self.left(x), self.right(x)], 1).mean((2, 3)))


def test_blocks_of_parallel_branches_are_not_behind_each_other() -> None:
    readings = read(Branches(), make_probe(8), needs=("block_gradients",))
    assert len(readings.forward_pass.notes.blocks) == 4
    pairs = readings.block_gradients
    assert len(pairs) == 3
    assert all(arrived.any() for _, arrived in pairs)


@pytest.mark.parametrize("form", [{"by_name": True}, {"in_place": True}, {"by_name": True, "in_place": True}])
def test_calls_by_name_and_changes_in_place_are_read_like_any(form: dict[str, bool]) -> None:
    found, expected = unusual(**form), unusual()
    assert len(found) == len(expected) > 40
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class FailsWithGraph(nn.Module):
    """As does a network that has no room for its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.runs = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        x = self.body(x)
        if x.requires_grad:
            raise RuntimeError("out of memory")
        return self.head(x.relu().mean((2, 3)))


def test_what_fails_for_one_reading_disturbs_no_other() -> None:
    model = FailsWithGraph()
    readings = read(model, make_probe(), needs=("gradients", "code_gram", "sign_patterns"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            _ = readings.gradients
    assert model.runs == 2  # for all that was announced, and for itself
    for _ in range(2):
        found = {name: getattr(readings, name) for name in ("features", "logits", "code_gram", "sign_patterns")}
    assert model.runs == 5
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(read(model, make_probe()), name))


def test_a_network_that_cannot_be_read_is_run_once() -> None:
    model = FailsWithGraph()
    nn.init.constant_(model.head.bias, float("nan"))
    readings = read(model, make_probe(), needs=("code_gram", "sign_patterns"))
    for name in ("code_gram", "sign_patterns", "features", "logits"):
        with pytest.raises(ReadingError, match="not finite"):
            getattr(readings, name)
    assert model.runs == 1


# -- what is left alone -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nasbench, vit, small_mobilenet, small_volo])
def test_taking_all_leaves_the_network_alone(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = everything_about(model)
    readings = read(model, make_probe(), needs=(*DERIVED, *NOTED))
    for name in (*DERIVED, *NOTED):
        getattr(readings, name)
    assert_same(before, everything_about(model))
    assert torch.is_grad_enabled()


def test_unknown_needs_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"gradientz.*gradients"):
        read(resnet(), make_probe(), needs=("gradientz",))


# -- times --------------------------------------------------------------------------------------


class Clocked(Timed):
    """Readings that take a known time on a clock of their own."""

    @reading
    def model(self) -> int:
        clock.now += 1
        return 1

    @reading
    def forward(self) -> int:
        parts = self.model
        self._charge("codes", 16)  # work for another reading that this pass does on the way
        clock.now += 16 + 2 * parts
        return 2

    @reading
    def codes(self) -> int:
        return self.forward

    @reading
    def broken(self) -> int:
        parts = self.model
        clock.now += 4 * parts
        raise ReadingError("broken")


class Clock:
    now = 0.0


clock = Clock()


def test_a_watch_shows_what_a_use_would_cost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    readings = Clocked()
    for _ in range(2):  # taken before or not, the cost is the same
        with readings.watch() as watch:
            parts = readings.forward
            clock.now += 8 + parts
        assert watch.seconds == 10 + 2 + 1
        assert watch.passes == ("forward", "model")
        with readings.watch() as watch:
            _ = readings.codes
        assert watch.seconds == 16 + 2 + 1
        assert watch.passes == ("codes", "forward", "model")
        with readings.watch() as watch, pytest.raises(ReadingError):
            _ = readings.broken
        assert watch.seconds == 4 + 1
    assert clock.now == 2 * 10 + 16 + 2 + 1 + 4


def test_what_failed_once_fails_again_at_no_cost() -> None:
    builds: list[int] = []

    def make() -> nn.Module:
        builds.append(1)
        raise RuntimeError("no such network")

    readings = Readings(make, make_probe())
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no such network"):
            _ = readings.features
    assert builds == [1]


# -- controls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NETWORKS)
def test_shuffled_readings_have_their_samples_in_another_order(make: Callable[[], nn.Module]) -> None:
    readings = read_all(make)
    shuffled = readings.shuffled(seed=1)
    order = [int((readings.features == one).flatten(1).all(1).nonzero()[0]) for one in shuffled.features]
    assert sorted(order) == list(range(len(order))) != order
    assert torch.equal(shuffled.logits, readings.logits[order])
    assert torch.equal(shuffled.pooled, readings.pooled[order])
    assert torch.equal(shuffled.labels, readings.labels)
    for one, other in zip(shuffled.stage_features, readings.stage_features, strict=True):
        assert torch.equal(one, other[order])
    assert torch.equal(readings.shuffled(seed=1).features, shuffled.features)


@pytest.mark.parametrize("make", NETWORKS)
def test_noise_has_the_shapes_of_what_it_replaces(make: Callable[[], nn.Module]) -> None:
    readings = read_all(make)
    noise = readings.replaced_by_noise()
    for name in ("features", "logits", "pooled", "classifier_weight"):
        assert getattr(noise, name).shape == getattr(readings, name).shape
    assert not torch.equal(noise.features, readings.features)
    assert noise.has_linear_head
    assert noise.has_mean_pooling == readings.has_mean_pooling
    assert [one.shape for one in noise.stage_features] == [one.shape for one in readings.stage_features]
    assert torch.equal(readings.replaced_by_noise().features, noise.features)
    assert get_proxy("diswot")(readings, noise) < get_proxy("diswot")(readings, readings)
    for name in ("gradients", "code_gram", "half_gradients", "ntk", "fisher_information"):
        with pytest.raises(ReadingError, match="activations alone"):
            getattr(noise, name)
