"""AZ-NAS and VKDNW against plain loops, NumPy's eigenvalues and gradients of one sample at a time.

Networks run in single precision and sums are over up to 10,000 terms, so scores of networks are compared at 1e-4 of
their value; what is computed in double precision from the same tensors, at 1e-9.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from diswot_search.data.probe import Probe
from diswot_search.functional import similarities
from diswot_search.functional.similarities import unshuffled
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision
from diswot_search.testing.proxies import ProxyContract

Array = np.ndarray

few = settings(max_examples=20)
CLASSES = 4
SAMPLES = 6
NAMES = ("expressivity", "progressivity", "trainability", "vkdnw")
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
IDENTITY = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_probe(num_classes: int = CLASSES, samples: int = SAMPLES) -> Probe:
    images = normal(samples, 3, 32, 32, dtype=torch.float32)
    return Probe.from_tensors(images, torch.arange(samples) % num_classes, num_classes)


def read(model: nn.Module | str, probe: Probe | None = None, *, trained: bool = False, **options: Any) -> Readings:
    """A module, or a timm model with random weights, read on noise."""
    torch.manual_seed(1)
    probe = probe or make_probe()
    made = timm.create_model(model, **{"num_classes": probe.num_classes} | options) if isinstance(model, str) else model
    return Readings(lambda: made, probe, precision=Precision(channels_last=False), trained=trained)


def score(name: str, readings: Readings) -> float:
    proxy: Any = get_proxy(name)
    return float(proxy(readings))


# -- AZ-NAS, written out ------------------------------------------------------------------------


def plain_entropy(maps: Array) -> float:
    """Entropy of the eigenvalues of the covariance of channels, of maps (B, C, P)."""
    values = np.linalg.eigvalsh(np.cov(np.concatenate(list(maps), axis=1)))
    shares = values[values > 1e-12] / values.sum()
    return float(-np.sum(shares * np.log(shares)))


def run_blocks(model: Any, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """A NAS-Bench-201 network's cells and reduction blocks, each with its input, with statistics of the batch."""
    model.train()
    x, steps = model.stem(images), []
    for block in (block for stage in model.stages for block in stage):
        steps.append((block, x.detach()))
        x = block(x)
    return [*steps, (nn.Identity(), x.detach())]


@pytest.fixture(scope="module")
def cells() -> Readings:
    return read("nasbench201", arch=CELL, cells=2)


def test_expressivity_and_progressivity_are_those_of_plain_covariances(cells: Readings) -> None:
    outputs = [x.flatten(2).double().numpy() for _, x in run_blocks(cells.model, cells.images)]
    entropies = [plain_entropy(maps) for maps in outputs]
    assert len(entropies) == 9  # of the stem, six cells and two reduction blocks
    assert score("expressivity", cells) == pytest.approx(sum(entropies), rel=1e-4)
    assert score("progressivity", cells) == pytest.approx(np.diff(entropies).min(), rel=1e-3)


def test_trainability_is_that_of_gradients_through_single_blocks(cells: Readings) -> None:
    steps = run_blocks(cells.model, cells.images)[:-1]
    assert len(cells.block_gradients) == len(steps) == 8
    terms = []
    for (block, x), (sent, _) in zip(steps, cells.block_gradients, strict=True):
        x.requires_grad_()
        y = block(x)
        assert set(sent.unique().tolist()) == {-1.0, 1.0}
        (arrived,) = torch.autograd.grad(y, x, sent.view_as(y))
        step = x.shape[2] // y.shape[2]
        matrix = np.zeros((x.shape[1] * step * step, y.shape[1]))
        for sample, row, column in itertools.product(range(len(y)), range(y.shape[2]), range(y.shape[3])):
            patch = arrived[sample, :, row * step : (row + 1) * step, column * step : (column + 1) * step]
            matrix += np.outer(patch.flatten(), sent.view_as(y)[sample, :, row, column])
        gain = np.linalg.svd(matrix / y[:, 0].numel(), compute_uv=False)[0]
        terms.append(2 - gain - 1 / (gain + 1e-6))
    assert score("trainability", cells) == pytest.approx(np.mean(terms), rel=1e-4)


@few
@given(samples=st.integers(1, 4), channels=st.integers(2, 9), positions=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_channel_entropy_is_numpys(samples: int, channels: int, positions: int, seed: int) -> None:
    maps = [normal(samples, c, positions, seed=seed + c) for c in (channels, 3, channels)]
    expected = [plain_entropy(one.numpy()) for one in maps]
    assert similarities.channel_entropies(maps) == pytest.approx(expected, rel=1e-9)


@few
@given(channels=st.integers(2, 8), seed=st.integers(0, 2**32))
def test_channel_entropy_knows_no_order_scale_or_mean(channels: int, seed: int) -> None:
    maps = normal(3, channels, 7, seed=seed)
    (expected,) = similarities.channel_entropies([maps])
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(size, generator=generator) for size in maps.shape]
    shuffled = maps[orders[0]][:, orders[1]][:, :, orders[2]]
    moved = 5 * maps + normal(channels, 1, seed=seed)
    assert similarities.channel_entropies([shuffled, moved]) == pytest.approx([expected, expected], rel=1e-9)
    assert 0 < expected <= np.log(channels) + 1e-9


def test_channel_entropy_is_the_log_of_independent_channels() -> None:
    orthogonal = torch.linalg.qr(torch.cat([torch.ones(12, 1).double(), normal(12, 5)], 1)).Q[:, 1:].T
    repeated = orthogonal[:1].expand(4, 12)
    assert similarities.channel_entropies([orthogonal[None], repeated[None]]) == pytest.approx([np.log(5), 0], abs=1e-9)


def test_constant_maps_have_no_entropy() -> None:
    constant = torch.linspace(0.1, 0.7, 5).view(1, 5, 1).expand(4, 5, 900)
    for maps in (constant, torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match="constant"):
            similarities.channel_entropies([normal(2, 3, 4), maps])


def test_finer_grids_are_cut_to_the_coarser_one() -> None:
    maps = torch.arange(2 * 3 * 36).view(2, 3, 36)
    cut = unshuffled(maps, 9)
    assert cut is not None
    assert cut.shape == (2, 12, 9)
    square, coarse = maps.view(2, 3, 6, 6), cut.view(2, 12, 3, 3)
    for row, column in itertools.product(range(3), repeat=2):
        patch = square[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(coarse[:, :, row, column], patch.flatten(1))
    assert unshuffled(maps, 36) is maps
    assert all(unshuffled(maps, positions) is None for positions in (16, 12, 49))


# -- VKDNW, written out -------------------------------------------------------------------------


@contextmanager
def constants_of_the_batch(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Batch normalisation by running statistics that are those of these images."""

    def set_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        norm.running_var, norm.running_mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    model.eval()
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    yield
    model.load_state_dict(buffers, strict=False)


def layer_weights(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Weights of convolutions and linear layers in the order of running."""
    called: dict[nn.Module, Tensor] = {}
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(lambda layer, *_: called.update({layer: layer.weight})) for layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    return list(called.values())


def plain_information(model: nn.Module, images: Tensor) -> Array:
    """Fisher information about the first weight of each layer, one sample and one class after the other."""
    weights = layer_weights(model, images)
    total = np.zeros((len(weights), len(weights)))
    for image in images:
        log_odds = model(image[None]).log_softmax(1)[0]
        for value in log_odds:
            gradients = torch.autograd.grad(value, weights, retain_graph=True)
            row = np.array([float(gradient.flatten()[0]) for gradient in gradients])
            total += float(value.detach().exp()) * np.outer(row, row)
    return total / len(images)


class Plain(nn.Module):
    """Groups, strides, dilation, biases, a layer that is used twice, and a linear layer on positions."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, padding_mode="reflect")
        self.mixed = nn.Linear(8, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        x = x + F.gelu(self.grouped(x))
        x = F.gelu(self.grouped(x))
        x = F.gelu(self.mixed(x.permute(0, 2, 3, 1)))
        return self.head(x.mean((1, 2)))


def assert_same_information(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_information_of_any_layer_is_that_of_single_samples() -> None:
    readings = read(Plain())
    assert_same_information(readings.fisher_information, plain_information(readings.model.eval(), readings.images))


@pytest.mark.parametrize("trained", [False, True])
def test_information_takes_statistics_of_the_batch_as_constants(trained: bool) -> None:
    readings = read("nasbench201", arch=CELL, cells=1, trained=trained)
    if trained:
        expected = plain_information(readings.model.eval(), readings.images)
    else:
        with constants_of_the_batch(readings.model, readings.images):
            expected = plain_information(readings.model, readings.images)
    assert_same_information(readings.fisher_information, expected)


def test_information_is_that_of_the_first_images() -> None:
    torch.manual_seed(2)
    model = Plain()
    many, first = (read(model, make_probe(samples=samples)) for samples in (24, 16))
    assert torch.equal(many.probe.images[:16], first.probe.images)
    assert torch.equal(many.fisher_information, first.fisher_information)


def test_many_classes_are_looked_at_through_random_combinations() -> None:
    """Unbiased, so that the trace, a mean of 10 x 16 products, is near: within a third."""
    torch.manual_seed(3)
    readings = read(Plain(classes=30), make_probe(30, samples=16))
    exact = plain_information(readings.model.eval(), readings.images)
    assert float(readings.fisher_information.trace()) == pytest.approx(np.trace(exact), rel=1 / 3)
    assert torch.equal(readings.fisher_information, read(readings.model, readings.probe).fisher_information)


def test_vkdnw_is_the_entropy_of_deciles_plus_layers(cells: Readings) -> None:
    information = cells.fisher_information.numpy()
    deciles = np.quantile(np.linalg.eigvalsh(information), np.arange(1, 10) / 10).clip(0)
    shares = deciles / deciles.sum()
    entropy = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
    assert len(information) == len(cells.layers) == 26
    assert score("vkdnw", cells) == pytest.approx(26 + entropy, abs=1e-6)
    assert 0 < entropy < np.log(9)


def test_vkdnw_does_not_depend_on_the_scale_of_the_information(cells: Readings) -> None:
    other = read(cells.model, cells.probe)
    other._values["fisher_information"] = 1e-6 * cells.fisher_information
    assert score("vkdnw", other) == pytest.approx(score("vkdnw", cells), abs=1e-9)


# -- any network --------------------------------------------------------------------------------

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)}),
    ("swin_tiny_patch4_window7_224", {"img_size": 32, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24}),
    ("swinv2_cr_tiny_224", {"img_size": 64, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24}),
    ("mobilenetv3_small_050", {}),
    ("resnet10t", {}),
]


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_families_have_scores(name: str, options: dict[str, Any]) -> None:
    side = options.get("img_size", 32)
    images = normal(SAMPLES, 3, side, side, dtype=torch.float32)
    readings = read(name, Probe.from_tensors(images, torch.arange(SAMPLES) % CLASSES, CLASSES), **options)
    entropy = score("vkdnw", readings) - len(readings.fisher_information)
    assert 0 < entropy < np.log(9)
    assert np.isfinite([score("expressivity", readings), score("progressivity", readings)]).all()
    if name.startswith(("swinv2", "convnext")):  # whose residual branches are drawn with a scale of 0 or 1e-6
        with pytest.raises(ReadingError, match="passes gradients on unchanged"):
            score("trainability", readings)
    else:
        assert -1e3 < score("trainability", readings) < 0


@pytest.mark.parametrize("name", ["expressivity", "progressivity", "vkdnw"])
def test_order_of_samples_does_not_matter(name: str) -> None:
    """It does to trainability, whose random gradients stay with their place in the batch."""
    readings = read("nasbench201", arch=CELL, cells=1)
    probe = readings.probe
    order = torch.tensor([3, 5, 0, 4, 2, 1])
    other = read(readings.model, Probe.from_tensors(probe.images[order], probe.labels[order], CLASSES))
    assert score(name, other) == pytest.approx(score(name, readings), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("arch", "reasons"), [(DISCONNECTED, "constant|no gradient|first weight of any layer")])
def test_disconnected_cells_have_a_reason_and_no_score(name: str, arch: str, reasons: str) -> None:
    readings = read("nasbench201", arch=arch, cells=2)
    with pytest.raises((ReadingError, ValueError), match=reasons):
        score(name, readings)


def test_cells_that_do_nothing_are_not_trainable() -> None:
    readings = read("nasbench201", arch=IDENTITY, cells=2)
    with pytest.raises(ReadingError, match="passes gradients on unchanged"):
        score("trainability", readings)
    assert score("progressivity", readings) <= 0


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))


def one_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES))


def test_networks_without_blocks_have_a_reason_and_no_score() -> None:
    with pytest.raises(ReadingError, match="no block that gives a feature map"):
        score("expressivity", read(linear()))
    with pytest.raises(ReadingError, match="has one only"):
        score("progressivity", read(one_convolution()))
    with pytest.raises(ReadingError, match="no two on matching grids"):
        score("trainability", read(one_convolution()))
    assert 1 < score("vkdnw", read(linear())) <= 1 + np.log(9) + 1e-9


def test_activations_that_are_not_finite_are_named() -> None:
    model = one_convolution()
    nn.init.constant_(model[0].weight, 1e38)  # type: ignore[index]
    with pytest.raises(ReadingError, match="not finite"):
        score("vkdnw", read(model))


def test_az_nas_is_made_of_its_four_parts() -> None:
    aggregate: Any = get_proxy("az_nas")
    assert aggregate.component_names == ("expressivity", "progressivity", "trainability", "macs")
    assert aggregate.needs == ("block_entropies", "block_gradients")
    assert aggregate.identity == get_proxy(f"log_rank({', '.join(aggregate.component_names)})").identity


def test_vkdnw_rank_is_made_of_five() -> None:
    aggregate: Any = get_proxy("vkdnw_rank")
    assert aggregate.component_names == ("vkdnw", "jacov", "expressivity", "trainability", "macs")
    assert aggregate.identity == get_proxy(f"log_rank({', '.join(aggregate.component_names)})").identity


class TestExpressivity(ProxyContract):
    def create(self) -> str:
        return "expressivity"


class TestProgressivity(ProxyContract):
    def create(self) -> str:
        return "progressivity"


class TestTrainability(ProxyContract):
    def create(self) -> str:
        return "trainability"


class TestVKDNW(ProxyContract):
    def create(self) -> str:
        return "vkdnw"
