"""Effective capacity, component by component, against plain autograd, NumPy and networks whose Jacobians are known.

Networks run in single precision and sums are over up to 10,000 terms, so what is read off them is compared at 1e-4.
"""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from timm.layers import GatedMlp
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock
from torch import Tensor, nn
from torch.nn import functional as F

import diswot_search as ds
from diswot_search.networks.contract import ReadingError
from diswot_search.options.search import DEFAULT_PROXY
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings import core
from diswot_search.readings.core import Readings
from diswot_search.readings.gates import open_gates
from diswot_search.readings.passes import Precision
from diswot_search.runtime.seeding import isolated_random_state
from diswot_search.study.evaluator import Evaluator
from diswot_search.study.records import Score
from diswot_search.testing.proxies import ProxyContract
from search_spaces import Architecture, NASBench201Space, create_space

CLASSES, SAMPLES = 4, 16
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
PARTS = ("log_params", "position_entropy", "layer_entropy", "channel_entropy", "gradient_flow")


def make_probe(side: int = 32, samples: int = SAMPLES) -> ds.Probe:
    images = torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ds.Probe.from_tensors(images, torch.arange(samples) % CLASSES, CLASSES)


def make(name: str, **options: Any) -> nn.Module:
    with isolated_random_state(1):
        if name in ("mixer", "gmlp"):  # whose sizes timm's names have fixed
            return MlpMixer(CLASSES, **options)
        return timm.create_model(name, **{"num_classes": CLASSES} | options)


def read(model: str | nn.Module, probe: ds.Probe | None = None, *, trained: bool = False, **options: Any) -> Readings:
    """A module, or a timm model with random weights, read on noise."""
    return Readings(
        (lambda: make(model, **options)) if isinstance(model, str) else lambda: model,
        probe or make_probe(),
        precision=Precision(channels_last=False),
        trained=trained,
    )


def score(readings: Readings, name: str = DEFAULT_PROXY) -> float:
    proxy: Any = get_proxy(name)
    return float(proxy(readings))


@pytest.fixture(scope="module")
def cells() -> Readings:
    return read("nasbench201", arch=CELL, cells=1)


# -- the parts, written out ---------------------------------------------------------------------


def test_the_score_is_the_sum_of_its_parts(cells: Readings) -> None:
    assert tuple(component.name for component in get_proxy(DEFAULT_PROXY).components) == PARTS
    assert score(cells) == math.fsum(score(cells, part) for part in PARTS)


def test_log_params_is_the_log_of_what_torch_counts(cells: Readings) -> None:
    count = sum(p.numel() for p in cells.model.parameters() if p.requires_grad)
    assert score(cells, "log_params") == math.log(count)


def plain_saliency(readings: Readings) -> list[np.ndarray]:
    """|W g| of each layer summed over what an output channel is made from."""
    model = make("nasbench201", arch=CELL, cells=1).train()
    F.cross_entropy(model(readings.probe.images), readings.probe.labels).backward()
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    products = [(layer.weight.detach() * layer.weight.grad).double().abs().numpy() for layer in layers]
    return [product.reshape(len(product), -1).sum(1) for product in products]


def test_layer_entropy_is_that_of_plain_gradients(cells: Readings) -> None:
    expected = stats.entropy([channels.sum() for channels in plain_saliency(cells)])
    assert score(cells, "layer_entropy") == pytest.approx(expected, rel=1e-4)


def test_channel_entropy_is_that_of_numpys_singular_values_and_plain_gradients(cells: Readings) -> None:
    model = make("nasbench201", arch=CELL, cells=1).train()
    carried: list[float] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        values = np.linalg.svd(output.detach().double().transpose(0, 1).flatten(1).numpy(), compute_uv=False)
        carried.append(float(stats.entropy(values**2)))

    for block in (model.stem, *(block for stage in model.stages for block in stage)):
        block.register_forward_hook(note)
    model(cells.probe.images)
    assert len(carried) == 6
    saliency = plain_saliency(cells)  # a layer without a gradient has neither
    entropies = [stats.entropy(channels) if channels.any() else 0.0 for channels in saliency]
    expected = (np.mean(carried) + np.average(entropies, weights=[channels.sum() for channels in saliency])) / 2
    assert score(cells, "channel_entropy") == pytest.approx(expected, rel=1e-4)


def test_unit_entropy_is_that_of_plain_gradients(cells: Readings) -> None:
    expected = stats.entropy(np.concatenate(plain_saliency(cells)))
    assert score(cells, "unit_entropy") == pytest.approx(expected, rel=1e-4)


def test_unit_capacity_is_the_sum_of_its_parts(cells: Readings) -> None:
    parts = tuple(component.name for component in get_proxy("unit_capacity").components)
    assert parts == ("log_placed_params", "position_entropy", "unit_entropy", "gradient_flow")
    assert score(cells, "unit_capacity") == math.fsum(score(cells, part) for part in parts)


@pytest.mark.parametrize("name", ["nasbench201", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet10t"])
def test_log_placed_params_is_a_sum_over_weights(name: str) -> None:
    """Each weight times the cube root of the number of places of its layer's output; anything else once."""
    options = {"arch": CELL, "cells": 1, "channels": 4} if name == "nasbench201" else FAMILIES[name]
    readings = read(name, make_probe(samples=4), **options)
    model = make(name, **options)
    placed = dict.fromkeys(model.parameters(), 1.0)

    def note(module: Any, inputs: Any, output: Tensor) -> None:
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        placed[module.weight] = (output.movedim(axis, 0)[0].numel() / 4) ** (1 / 3)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    model(readings.probe.images)
    expected = math.log(sum(parameter.numel() * root for parameter, root in placed.items()))
    assert score(readings, "log_placed_params") == pytest.approx(expected, rel=1e-12)


class Shared(nn.Module):
    """A layer that is called twice, one that transposes, one that is frozen, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.alias = nn.Conv2d(3, 3, 3, padding=1, stride=2, bias=False)
        self.alias.weight = self.twice.weight
        self.up = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False)
        self.frozen = nn.Conv2d(2, 2, 1, bias=False)
        self.frozen.weight.requires_grad_(False)
        self.unused = nn.Linear(7, 11)
        self.head = nn.Linear(2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.alias(self.twice(self.twice(images)))
        return self.head(self.frozen(self.up(x)).mean((2, 3)))


def test_placed_params_add_up_calls_and_leave_out_what_is_frozen() -> None:
    with isolated_random_state(2):
        model = Shared()
    twice = 81 * (2 * 64 + 16) ** (1 / 3)  # twice at 8 x 8, and once more at 4 x 4
    up, unused, head = 24 * 16 ** (1 / 3), 7 * 11 + 11, 2 * CLASSES + CLASSES
    expected = math.log(twice + up + unused + head)
    assert score(read(model, make_probe(8)), "log_placed_params") == pytest.approx(expected, rel=1e-12)
    model.requires_grad_(False)
    with pytest.raises(ReadingError, match="no parameter is trainable"):
        score(read(model, make_probe(8)), "log_placed_params")


def test_spectra_of_blocks_are_the_same_whether_announced_or_not() -> None:
    announced, alone = (
        Readings(lambda: make("nasbench201", arch=CELL, cells=1), make_probe(), needs=needs)
        for needs in (("first_block_spectra",), ())
    )
    _ = announced.subsample, alone.subsample
    assert alone.subsample.block_spectra is None
    for one, other in zip(announced.first_block_spectra, alone.first_block_spectra, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class Chain(nn.Module):
    """Linear maps of the channels of each position, one behind the other.

    Args:
        maps: Their matrices, each C x C.
        between: The module before each of them.
    """

    def __init__(self, *maps: Tensor, between: Callable[[Tensor], Tensor] = torch.clone) -> None:
        super().__init__()
        width = len(maps[0])
        self.stem = nn.Conv2d(3, width, 1, bias=False)
        self.maps = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in maps)
        self.head = nn.Linear(width, CLASSES)
        self.between = between
        with torch.no_grad():
            for layer, matrix in zip(self.maps, maps, strict=True):
                layer.weight.copy_(matrix[:, :, None, None])  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for layer in self.maps:
            x = layer(self.between(x))
        return self.head(x.mean((2, 3)))


WIDTH = 4
SAME = torch.eye(WIDTH)
OFF_BY = 2 * math.log1p(math.sqrt(WIDTH / (SAMPLES * 32 * 32)))
"""How far the log of a gain may be from its true one: the second moment of n random gradients of C channels, one for
each sample and position, is no identity but has eigenvalues up to about (1 + sqrt(C / n))^2."""


@pytest.mark.parametrize(
    ("maps", "between", "expected"),
    [
        ([SAME, SAME / 2, SAME * 8], torch.clone, [1.0]),
        ([torch.diag(torch.tensor([0.3, 0.1, 0.1, 0.2]))], torch.clone, [1.0]),
        ([SAME], torch.relu, [0.5**0.5]),
        ([SAME / 2, SAME * 8], torch.relu, [0.5**0.5, 0.5]),
        ([SAME], torch.detach, [1e-3]),
    ],
    ids=["linear of any scale", "linear", "half open", "open for one sign", "no less than a share"],
)
def test_gradient_flow_is_that_of_known_maps(
    maps: list[Tensor], between: Callable[[Tensor], Tensor], expected: list[float]
) -> None:
    """ReLU passes half of the gradients, and of noise half of the energy: a root mean square of 0.5^0.5."""
    with isolated_random_state(2):
        model = Chain(*maps, between=between)
    flow = score(read(model), "gradient_flow")
    assert flow == pytest.approx(np.log(expected).mean(), abs=OFF_BY)
    assert flow <= 0


def test_gradient_flow_is_that_of_numpys_singular_values() -> None:
    """From the definition: the mean over samples and places of arrived x sent, of a network with strides and ReLU."""
    options: dict[str, Any] = {"arch": CELL, "cells": 1, "channels": 4}
    plain = Readings(
        lambda: make("nasbench201", **options),
        make_probe(),
        precision=Precision(channels_last=False),
        needs=("block_gradients", "block_features"),
    )
    entry = plain.forward_pass.notes.entry
    assert entry is not None
    maps = [map_.double().numpy() for map_ in (entry.rows, *plain.block_features)]
    logs = []
    for (sent, back), before, after in zip(plain.block_gradients, maps[:-1], maps[1:], strict=True):
        side, factor = math.isqrt(back.shape[2]), math.isqrt(back.shape[2] // sent.shape[2])
        squares = back.double().numpy().reshape(*back.shape[:2], side // factor, factor, side // factor, factor)
        arrived = squares.transpose(0, 1, 3, 5, 2, 4).reshape(len(back), -1, sent.shape[2])
        mean = np.einsum("bip,bop->io", arrived, sent.double().numpy()) / (len(sent) * sent.shape[2])
        gain = np.linalg.svd(mean, compute_uv=False)[0] * np.sqrt((before**2).mean() / (after**2).mean())
        logs.append(min(math.log(max(gain, 1e-3)), 0.0))
    assert min(logs) < -0.1
    assert score(read("nasbench201", **options), "gradient_flow") == pytest.approx(np.mean(logs), rel=1e-4)


def test_places_that_are_mixed_pass_less() -> None:
    with isolated_random_state(2):
        model = Chain(SAME, SAME, between=nn.AvgPool2d(3, stride=1, padding=1))
    assert score(read(model), "gradient_flow") < -1


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_scale_that_normalisation_undoes_changes_no_part(factor: float) -> None:
    def build(scale: float) -> nn.Module:
        layers: list[nn.Module] = []
        with isolated_random_state(4):
            for place in range(6):
                conv = nn.Conv2d(8 if place else 3, 8, 3, padding=1)
                if place % 2:
                    conv.weight.data *= scale
                    conv.bias.data *= scale  # type: ignore[union-attr]
                layers += [conv, nn.BatchNorm2d(8, eps=1e-12), nn.ReLU()]
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

    plain, scaled = read(build(1.0)), read(build(factor))
    for part in PARTS:
        assert score(scaled, part) == pytest.approx(score(plain, part), abs=1e-3)
    assert score(plain, "gradient_flow") < -0.1


def test_wide_blocks_on_few_positions_seem_to_pass_more_than_they_do() -> None:
    """The bias of the estimate, and why shares are not compared between grids: 256 channels at 64 positions."""
    with isolated_random_state(2):
        model = Chain(torch.eye(256), torch.eye(256), between=torch.relu)
    assert score(read(model, make_probe(side=2)), "gradient_flow") == 0


@pytest.mark.parametrize(
    ("side", "square", "expected"), [(2, 1, math.log(4)), (8, 4, math.log(4 * 64) / 2), (8, 8, math.log(64) / 2)]
)
def test_position_entropy_counts_positions_and_squares_of_one_value(side: int, square: int, expected: float) -> None:
    """Off by about a quarter of 4 positions / (16 samples x 3 colours), as entropies of few samples are."""
    with isolated_random_state(2):
        model = Chain(SAME)
    coarse = make_probe(side // square)
    images = coarse.images.repeat_interleave(square, 2).repeat_interleave(square, 3)
    readings = read(model, ds.Probe.from_tensors(images, coarse.labels, CLASSES))
    assert score(readings, "position_entropy") == pytest.approx(expected, abs=0.04)


PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "nasbench201": lambda raw: raw.flatten(2).permute(2, 0, 1),
    "swin_tiny_patch4_window7_224": lambda raw: raw.flatten(1, 2).transpose(0, 1),
    "vit_tiny_patch16_224": lambda raw: raw[:, 1:].transpose(0, 1),  # the token of the class is of no place
}
LAST: dict[str, Callable[[Any], Any]] = {
    "nasbench201": lambda model: model.stages[-1],
    "swin_tiny_patch4_window7_224": lambda model: model.layers[-1].blocks,
    "vit_tiny_patch16_224": lambda model: model.blocks,
}


@pytest.mark.parametrize("name", PLACES)
def test_position_entropy_is_that_of_numpys_singular_values(name: str) -> None:
    changed = {"vit_tiny_patch16_224": {"patch_size": 4}, "swin_tiny_patch4_window7_224": {"drop_path_rate": 0.0}}
    options = FAMILIES[name] | changed.get(name, {})
    model = make(name, **options).train()
    expected: list[float] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        places = PLACES[name](output.detach().double()).flatten(1).numpy()
        assert 1 < len(places) <= 64
        held = float(stats.entropy(np.linalg.svd(places, compute_uv=False) ** 2))
        expected.append((math.log(len(places)) + held) / 2)

    for block in LAST[name](model):
        block.register_forward_hook(note)
    readings = read(name, **options)
    model(readings.probe.images)
    assert score(readings, "position_entropy") == pytest.approx(np.mean(expected), rel=1e-4)


# -- any network --------------------------------------------------------------------------------

TRANSFORMER = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "nasbench201": {"arch": CELL, "cells": 1, "channels": 4},
    "cifar_resnet": {"arch": "1x4-1x4-1x8"},
    "resnet10t": {"zero_init_last": True},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48), "ls_init_value": 1e-6},
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)},
    "fastvit_t8": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)},
    "vit_tiny_patch16_224": TRANSFORMER,
    "deit3_small_patch16_224": TRANSFORMER,
    "cait_xxs24_224": TRANSFORMER,
    "pit_ti_224": {
        "img_size": 32,
        "patch_size": 4,
        "stride": 4,
        "base_dims": (8, 8, 8),
        "depth": (1, 1, 1),
        "heads": (1, 2, 4),
    },
    "swin_tiny_patch4_window7_224": {"img_size": 32, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24},
    "mixer": {"img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 24},
    "mobilevit_xxs": {},
    "tnt_s_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "inner_dim": 8},
    "gmlp": {
        "img_size": 32,
        "patch_size": 8,
        "num_blocks": 2,
        "embed_dim": 24,
        "mlp_ratio": 2,
        "block_layer": SpatialGatingBlock,
        "mlp_layer": GatedMlp,
    },
    "crossvit_tiny_240": {"depth": ((1, 2, 0), (1, 2, 0))},
}
SIDES = {"mobilevit_xxs": 64, "crossvit_tiny_240": 240}
"""Sizes of the images, where they are not 32."""
COARSE = ("resnet10t", "mobilenetv3_small_050", "regnetx_002", "convnext_atto", "convnextv2_atto", "fastvit_t8")
"""Families that leave one position of 32 x 32."""


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_finite_parts(name: str) -> None:
    readings = read(name, make_probe(SIDES.get(name, 32), samples=4), **FAMILIES[name])
    values = {part: score(readings, part) for part in PARTS}
    assert all(math.isfinite(value) for value in values.values())
    layers = len(readings.subsample.saliency)
    assert 0 < values["layer_entropy"] <= math.log(layers)
    assert values["channel_entropy"] > 0
    spectra = readings.subsample.position_spectra
    assert (values["position_entropy"] == 0) == (name in COARSE) == (len(spectra[0]) == 1)
    assert values["position_entropy"] <= math.log(readings.subsample.positions)
    assert math.log(1e-3) <= values["gradient_flow"] <= 0
    assert score(readings) == math.fsum(values.values())


def test_bfloat16_gives_nearly_the_same() -> None:
    exact, rounded = (
        Readings(lambda: make("nasbench201", arch=CELL, cells=1), make_probe(), precision=Precision(bf16=bf16))
        for bf16 in (False, True)
    )
    assert score(rounded) == pytest.approx(score(exact), abs=0.1)
    assert score(rounded) != score(exact)


def test_only_the_first_images_are_read() -> None:
    few, enough, many = (
        score(read("nasbench201", make_probe(samples=count), arch=CELL, cells=1)) for count in (5, 16, 24)
    )
    assert math.isfinite(few)
    images = make_probe(samples=24)
    first = ds.Probe.from_tensors(images.images[:16], images.labels[:16], CLASSES)
    assert many == score(read("nasbench201", first, arch=CELL, cells=1))
    assert few != enough


def test_what_is_kept_holds_neither_graph_nor_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    gates: list[weakref.ref[nn.Parameter]] = []

    @contextmanager
    def watched(model: nn.Module) -> Iterator[None]:
        before = {id(parameter) for parameter in model.parameters()}
        with open_gates(model):
            gates.extend(weakref.ref(each) for each in model.parameters() if id(each) not in before)
            yield

    monkeypatch.setattr(core, "open_gates", watched)
    readings = read("resnet10t")
    subsample = readings.subsample
    tensors = [*subsample.saliency, *readings.first_block_spectra, *subsample.position_spectra]
    assert len(tensors) > 10
    assert not any(tensor.requires_grad or tensor.grad_fn for tensor in tensors)
    gc.collect()
    assert gates
    assert not any(gate() is not None for gate in gates)


# -- gates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "closed", "open_"),
    [
        ("resnet10t", {"zero_init_last": True}, {"zero_init_last": False}),
        ("convnext_atto", {"ls_init_value": 1e-6}, {"ls_init_value": 1.0}),
        ("cait_xxs24_224", {**TRANSFORMER, "init_values": 1e-5}, {**TRANSFORMER, "init_values": 1.0}),
    ],
)
def test_branches_that_begin_closed_count_as_open(name: str, closed: dict[str, Any], open_: dict[str, Any]) -> None:
    small = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)} if name == "convnext_atto" else {}
    probe = make_probe(samples=4)
    scores = [score(read(name, probe, **small, **options)) for options in (closed, open_)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_head_of_zeros_is_drawn() -> None:
    model = make("mixer", **FAMILIES["mixer"])
    head: Any = model.head
    assert not head.weight.any()
    with open_gates(model):
        assert float(head.weight.detach().std()) == pytest.approx(head.in_features**-0.5, rel=0.2)
    assert not head.weight.any()


def test_gates_of_nearly_nothing_are_drawn() -> None:
    """gMLP mixes tokens by weights that begin at 1e-6."""
    model: Any = make("gmlp", **FAMILIES["gmlp"])
    weights = [block.mlp_channels.gate.proj for block in model.blocks]
    assert all(0 < layer.weight.abs().max() < 1e-4 for layer in weights)
    with open_gates(model):
        assert all(float(layer.weight.detach().std()) == pytest.approx(16**-0.5, rel=0.2) for layer in weights)
    assert all(0 < layer.weight.abs().max() < 1e-4 for layer in weights)


class Kept(nn.Module):
    """A network that cannot be copied, since it keeps what it gave last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        nn.init.zeros_(self.norm.weight)

    def forward(self, images: Tensor) -> Tensor:
        self.last = self.norm(self.conv(images))
        return self.last


def test_a_network_that_cannot_be_copied_has_gates_too() -> None:
    model = Kept()
    model(torch.randn(2, 3, 4, 4))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    with open_gates(model):
        assert bool((model.norm.weight == 1).all())
    assert not model.norm.weight.any()


def test_a_frozen_gate_stays_closed() -> None:
    model = make("resnet10t")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = list(model.parameters())
    with open_gates(model):
        assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


def test_gates_close_again_after_an_error() -> None:
    model = make("resnet10t")
    before = list(model.parameters())
    with pytest.raises(ValueError, match="in between"), open_gates(model):
        raise ValueError("in between")
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


def test_a_gate_that_two_modules_share_stays_shared() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].weight = model[0].weight
    nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
    with open_gates(model):
        assert model[0].weight is model[1].weight
        assert bool((model[0].weight == 1).all())
    assert model[0].weight is model[1].weight


def test_a_graph_made_before_the_gates_opened_stays_valid() -> None:
    model = make("resnet10t").train()
    loss = model(make_probe(samples=4).images).square().mean()
    with open_gates(model):
        pass
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("again", [True, False], ids=["made again", "given"])
def test_the_network_stays_as_it_is(again: bool) -> None:
    model = make("resnet10t")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    readings = Readings((lambda: make("resnet10t")) if again else (lambda: model), make_probe(samples=4))
    network = readings.model
    score(readings)
    assert readings.model is network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Gated(nn.Module):
    """Gates, and parameters that only look like gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU()
        self.gamma = nn.Parameter(torch.full((4, 1, 1), 1e-5))
        self.wide_gamma = nn.Parameter(torch.full((1, 4, 1, 1), 1e-5))
        self.gain = nn.Parameter(torch.tensor(0.0))
        self.beta = nn.Parameter(torch.zeros(4))
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.scale = nn.Parameter(torch.full((4,), 0.9))
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)


def test_gates_open_and_nothing_else_does() -> None:
    model = Gated()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with open_gates(model):
        after = {name: value.clone() for name, value in model.state_dict().items()}
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"norm.weight", "gamma", "wide_gamma", "gain"}
    assert all(bool((after[name] == 1).all()) for name in changed)


def test_a_network_without_closed_gates_stays_as_it_is() -> None:
    model = make("cifar_resnet", arch="1x4-1x4-1x8")
    before = list(model.parameters())
    with open_gates(model):
        assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


def test_a_trained_network_is_taken_as_it_is() -> None:
    """Zeros that were learnt are meant."""
    mixer = FAMILIES["mixer"]
    with pytest.raises(ReadingError, match="no gradient reaches any layer"):
        score(read("mixer", make_probe(samples=4), trained=True, **mixer))
    model = make("resnet10t").eval()
    saliency = read(model, make_probe(samples=4), trained=True).subsample.saliency
    probe = make_probe(samples=4)
    F.cross_entropy(model(probe.images), probe.labels).backward()
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for sums, layer in zip(saliency, layers, strict=True):
        expected = (layer.weight * layer.weight.grad).detach().abs().flatten(1).sum(1).double()
        torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-9)


# -- as the score of an evaluator ---------------------------------------------------------------


class BrokenSpace(NASBench201Space):
    def build(self, architecture: Architecture) -> nn.Module:
        raise OSError("no room")


def evaluate(text: str, space: Any = None, **options: Any) -> Score:
    space = space or create_space("nasbench201", num_classes=CLASSES, channels=4, cells=1)
    return Evaluator(space, None, make_probe(), device="cpu", **options).evaluate([space.parse(text)])[0]


def test_it_is_the_default_and_reports_its_parts() -> None:
    evaluation = evaluate(CELL, seeds=(0, 1))
    assert evaluation.status == "ok", evaluation.reason
    assert tuple(evaluation.parts) == PARTS
    assert evaluation.score == pytest.approx(math.fsum(evaluation.parts.values()), rel=1e-12)
    assert evaluation.score_std is not None
    assert evaluation.score_std > 0
    named = evaluate(CELL, seeds=(0, 1), proxy="effective_capacity")
    assert (named.score, named.parts) == (evaluation.score, evaluation.parts)


@pytest.mark.parametrize(
    ("text", "space", "reason"),
    [
        (DISCONNECTED, None, "zero everywhere|no gradient reaches any layer"),
        (CELL, BrokenSpace(CLASSES, (3, 32, 32)), "OSError: no room"),
    ],
)
def test_what_cannot_be_scored_has_a_reason(text: str, space: Any, reason: str) -> None:
    evaluation = evaluate(text, space)
    assert (evaluation.status, evaluation.score, evaluation.parts) == ("failed", None, {})
    assert evaluation.reason is not None
    assert any(part in evaluation.reason for part in reason.split("|")), evaluation.reason


def test_a_network_with_nothing_to_train_has_no_score() -> None:
    model = make("cifar_resnet", arch="1x4-1x4-1x8").requires_grad_(False)
    with pytest.raises(ReadingError, match="no parameter is trainable"):
        score(read(model))


@pytest.mark.parametrize("width", [15, 16, 17])
def test_images_need_not_be_square(width: int) -> None:
    """A block's map of 16 rows and 16 channels is not taken for one with its channels last."""
    model = nn.Sequential(nn.Conv2d(3, width, 1), nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()))
    model = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    images = torch.randn(SAMPLES, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    probe = ds.Probe.from_tensors(images, torch.arange(SAMPLES) % CLASSES, CLASSES)
    assert [map_.shape[1:] for map_ in read(model, probe).block_features] == [(width, 512)] * 2


def test_one_token_of_many_is_no_coarser_grid() -> None:
    """CaiT's last blocks look from the token of the class at those of the patches."""
    readings = read("cait_xxs24_224", **TRANSFORMER)
    shapes = [map_.shape[2] for map_ in readings.block_features]
    assert shapes == [16, 16, 1, 1]
    assert len(readings.subsample.block_gains) == 3
    assert [len(spectrum) for spectrum in readings.subsample.position_spectra] == [16, 16]


def test_a_convolution_behind_pooling_has_no_positions_to_count() -> None:
    """A classifier, which is the last layer of a network without blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, CLASSES, 1), nn.Flatten())
    subsample = read(model, make_probe(8)).subsample
    assert (subsample.positions, len(subsample.position_spectra)) == (64, 2)


def test_the_class_is_counted_out_where_the_model_does_not_name_it() -> None:
    """PiT halves the grid twice, from 32 x 32 patches here, and gives the classifier the token of the class alone."""
    options = FAMILIES["pit_ti_224"] | {"img_size": 128}
    subsample = read("pit_ti_224", make_probe(128, samples=2), **options).subsample
    assert subsample.positions == 64
    assert [len(spectrum) for spectrum in subsample.position_spectra] == [64]


def test_of_fine_grids_one_map_is_enough() -> None:
    with isolated_random_state(2):
        model = Chain(SAME, SAME)
    coarse, fine = (read(model, make_probe(side)).subsample for side in (16, 17))
    assert (len(coarse.position_spectra), len(fine.position_spectra)) == (3, 1)


def test_networks_without_feature_maps_are_refused_with_a_reason() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES))
    with pytest.raises(ReadingError, match="no block that gives a feature map"):
        score(read(model))


class TestEffectiveCapacity(ProxyContract):
    def create(self) -> str:
        return "effective_capacity"


class TestUnitCapacity(ProxyContract):
    def create(self) -> str:
        return "unit_capacity"
