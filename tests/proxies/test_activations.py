"""Proxies of activations against naive second implementations, and the changes that must not affect them.

The naive forms loop over samples, channels and layers, or differentiate with autograd. Codes and counts are equal on
both sides, so what is made from them agrees to rounding, 1e-9. Gradients are those of a network in double precision,
and ours are single: the kernel is compared to 1e-4 of its largest value. `zen` divides by small differences, 1e-2 of
the input, so both sides are compared to 1e-3.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Callable
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
from diswot_search.networks.contract import ReadingError, evaluation_mode
from diswot_search.proxies import zen
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings import tangent
from diswot_search.runtime.seeding import stable_seed
from diswot_search.testing.proxies import ProxyContract
from diswot_search.testing.randomness import random_state

from ..readings.helpers import assert_close, assert_same, everything_about, read

CLASSES = 5
SAMPLES = 8
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DISCONNECTED = "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|none~2|"
NAMES = ("nwot", "swap", "linear_regions", "ntk", "meco", "zen")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws of `zen`, whose cost is that of its draws."""
    monkeypatch.setattr(zen, "WEIGHT_DRAWS", 3)


def make_probe(make: Callable[[], nn.Module] | None = None) -> Probe:
    """Noise, in the smallest size that a network accepts."""
    size = 32 if make in (convnext, mobilenet) else 16
    images = torch.randn(SAMPLES, 3, size, size, generator=torch.Generator().manual_seed(5))
    return Probe.from_tensors(images, torch.arange(SAMPLES) % CLASSES, CLASSES)


def cnn() -> nn.Sequential:
    first = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True)]
    second = [nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def nasbench(cell: str = CELL) -> nn.Module:
    return timm.create_model("nasbench201", arch=cell, channels=4, cells=1, num_classes=CLASSES)


def vit() -> nn.Module:
    shape = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **shape)


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=(1, 1, 2, 1), dims=(8, 12, 16, 24))


def mobilenet() -> nn.Module:
    """A network with depthwise convolutions, gates, and padding that depends on the input."""
    return timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=CLASSES)


NETWORKS = [cnn, nasbench, vit, convnext, mobilenet]


# -- codes --------------------------------------------------------------------------------------


def codes_of(network: nn.Sequential, images: Tensor) -> np.ndarray:
    """Whether the inputs of the rectifiers of a chain are above zero, one row per sample."""
    x, signs = images, []
    network = copy.deepcopy(network).train()
    for layer in network:
        if isinstance(layer, nn.ReLU):
            signs.append((x > 0).flatten(1).numpy())
            x = x.clone()
        x = layer(x)
    return np.concatenate(signs, 1)


def test_proxies_of_codes_are_what_counting_gives() -> None:
    network, probe = cnn(), make_probe()
    codes = codes_of(network, probe.images)
    student = read(network, probe)
    agreement = np.array([[int((a == b).sum()) for b in codes] for a in codes])
    assert get_proxy("nwot")(student) == pytest.approx(np.linalg.slogdet(agreement)[1], rel=1e-9)
    assert get_proxy("swap")(student) == len({tuple(column) for column in codes.T})
    chances = (agreement / codes.shape[1]) ** 16
    assert get_proxy("linear_regions")(student) == pytest.approx((1 / chances.sum(1)).sum(), rel=1e-9)


def test_expected_regions_are_those_that_drawing_neurons_gives() -> None:
    """One over the mean size of a region, by 20,000 drawings; three standard errors are below 1 %."""
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.random((6, 40)) > 0.5, [1, 1, 1, 1, 1, 2], axis=0)
    drawn = codes[:, rng.integers(0, 40, (20_000, 3))]
    sizes = np.mean((drawn[:, None] == drawn[None]).all(3), axis=2).sum(1)
    agreement = (codes[:, None] == codes[None]).mean(2)
    assert float(similarities.expected_regions(torch.from_numpy(agreement), 3)) == pytest.approx(
        (1 / sizes).sum(), rel=1e-2
    )


@given(st.integers(1, 6), st.integers(1, 5))
def test_regions_of_equal_and_of_opposite_codes(regions: int, each: int) -> None:
    """Samples in groups that have all neurons in common within and none between lie in as many regions as groups."""
    agreement = torch.block_diag(*[torch.ones(each, each, dtype=torch.float64)] * regions)
    assert float(similarities.expected_regions(agreement, 16)) == pytest.approx(regions)


@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_log_determinant_and_condition_number_are_those_of_numpy(size: int, columns: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((size, columns))
    gram = torch.from_numpy(rows @ rows.T)
    if columns < size:
        assert float(similarities.log_determinant(gram)) == -math.inf
        assert float(similarities.condition_number(gram)) == math.inf
    else:
        assert float(similarities.log_determinant(gram)) == pytest.approx(
            np.linalg.slogdet(gram)[1], rel=1e-6, abs=1e-6
        )
        assert float(similarities.condition_number(gram)) == pytest.approx(np.linalg.cond(gram), rel=1e-6)


def test_images_with_one_code_make_the_determinant_minus_infinity() -> None:
    probe = make_probe()
    twice = Probe.from_tensors(probe.images[[0, 1, 2, 3, 0]], probe.labels[[0, 1, 2, 3, 0]], CLASSES)
    assert get_proxy("nwot")(read(cnn(), twice)) == -math.inf
    assert get_proxy("nwot")(read(cnn(), probe)) > 0


# -- the tangent kernel -------------------------------------------------------------------------


def by_constants(x: Tensor, _: Any, __: Any, weight: Tensor, bias: Tensor, *options: Any) -> Tensor:
    """Batch normalisation by statistics of the batch that are not differentiated."""
    eps = options[-1]
    mean, variance = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
    scale = weight / (variance + eps).sqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def naive_kernel(network: nn.Module, images: Tensor, *, without: str = "") -> Tensor:
    """One backward pass through the whole network for each sample, in double precision."""
    network, images = copy.deepcopy(network).double(), images.double()
    layers = nn.modules.conv._ConvNd, nn.Linear
    weights = [m.weight for name, m in network.named_modules() if isinstance(m, layers) and name != without]
    rows = []
    with pytest.MonkeyPatch.context() as patch, evaluation_mode(network, batch_statistics=True):
        patch.setattr(F, "batch_norm", by_constants)
        logits = network(images)
    for sample in logits:
        gradients = torch.autograd.grad(sample.sum(), weights, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
    return torch.stack(rows) @ torch.stack(rows).T


@pytest.mark.parametrize("make", NETWORKS)
def test_the_kernel_is_that_of_gradients_sample_by_sample(make: Callable[[], nn.Module]) -> None:
    network, probe = make(), make_probe(make)
    expected = naive_kernel(network, probe.images)
    student = read(network, probe)
    assert_close(student.ntk.double(), expected)
    # Its smallest eigenvalue is known to 1e-5 of the largest one.
    values = np.linalg.eigvalsh(expected)
    if values[0] > 1e-3 * values[-1]:
        assert get_proxy("ntk")(student) == pytest.approx(-values[-1] / values[0], rel=3e-2)


class Products(nn.Module):
    """Convolutions of all kinds, a layer that is run twice, and one that no sample goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=3),
            nn.Conv2d(6, 6, (2, 3), padding="same", dilation=(1, 2)),
            nn.Conv2d(6, 4, 2, padding="valid"),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        )
        self.twice = nn.Conv2d(4, 4, 1)
        self.row = nn.Conv1d(4, 6, 3)
        self.table = nn.Linear(2, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x)
        x = self.twice(self.twice(x).relu())
        positions = self.table(x.new_ones(3, 2) * x.mean())
        x = self.row(x.flatten(2)) + positions.sum(0)[:, None]
        return self.head(x.relu().mean(2))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_every_kind_of_convolution_has_its_part_in_the_kernel() -> None:
    network = Products()
    images = torch.randn(8, 3, 9, 9)
    probe = Probe.from_tensors(images, torch.arange(8) % CLASSES, CLASSES)
    # The input of the table comes from all samples, from which the gradient of one sample is then cut off.
    with torch.no_grad():
        network.table.weight.zero_()
    assert_close(read(network, probe).ntk.double(), naive_kernel(network, images, without="table"))


def test_few_positions_and_many_give_the_same_kernel() -> None:
    """The two ways to inner products of gradients, on a convolution and on a linear map of tokens."""
    for layer, inputs in (
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), torch.randn(5, 8, 4, 4)),
        (nn.Linear(8, 12), torch.randn(5, 3, 8)),
        (nn.Linear(8, 12), torch.randn(5, 8)),
    ):
        with tangent.Products() as notes:
            output = layer(inputs.requires_grad_())
        gradient = torch.randn_like(output)
        gradients = notes.calls[0].weight_gradients(gradient, 5)
        assert_close(notes.calls[0].kernel(gradient, 5), gradients @ gradients.T, 1e-5)


def test_transposed_convolutions_are_refused() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ReadingError, match="transposed"):
        get_proxy("ntk")(read(nn.Sequential(*network, nn.Linear(4, CLASSES)), make_probe()))


# -- correlations of channels -------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_smallest_eigenvalues_of_correlations_are_those_of_numpy(
    channels: int, positions: int, constant: int, seed: int
) -> None:
    maps = np.random.default_rng(seed).standard_normal((3, channels, positions))
    maps[1, :constant] = 0.1
    with np.errstate(all="ignore"):
        expected = []
        for map_ in maps:
            rows = map_ - map_.mean(1, keepdims=True)
            matrix = np.atleast_2d(np.corrcoef(rows)) if positions > 1 else np.zeros((channels, channels))
            flat = np.ptp(map_, axis=1) == 0
            matrix[flat] = matrix[:, flat] = 0
            expected.append(max(0, np.linalg.eigvalsh(matrix)[0]))
    eigenvalues = similarities.smallest_correlation_eigenvalues(torch.from_numpy(maps))
    np.testing.assert_allclose(
        eigenvalues.numpy(), expected, atol=1e-7
    )  # of dependent channels it is zero but for rounding


def test_meco_adds_up_all_innermost_modules() -> None:
    network, probe = cnn(), make_probe()
    total, x = 0.0, probe.images
    for layer in copy.deepcopy(network).train():
        x = layer(x)
        if x.ndim == 4 and x[0, 0].numel() > 1:
            matrix = np.corrcoef(x[0].flatten(1).detach().double().numpy())
            total += max(0, np.linalg.eigvalsh(np.nan_to_num(matrix))[0])
        x = x.clone()
    assert get_proxy("meco")(read(network, probe)) == pytest.approx(total, rel=1e-5)


# -- zen ----------------------------------------------------------------------------------------


def naive_zen(run: Callable[[list[Tensor], Tensor, list[float]], Tensor], network: nn.Module) -> float:
    """The formula on a network that is written out: `run(weights, images, scales)` gives its last map."""
    shapes = [parameter.shape for parameter in network.parameters() if parameter.ndim > 1]
    first = next(network.parameters()).detach().numpy()
    generator = torch.Generator().manual_seed(stable_seed("zen", hashlib.sha256(first.tobytes()).hexdigest()))
    scores = []
    for _ in range(zen.WEIGHT_DRAWS):
        weights = [torch.randn(shape, generator=generator) for shape in shapes]
        images, change = torch.randn(2 * zen._IMAGES, 3, 16, 16, generator=generator).double().chunk(2)
        scales: list[float] = []
        maps = run([w.double() for w in weights], torch.cat([images, images + 0.01 * change]), scales)
        first, second = maps.chunk(2)
        scores.append(math.log((second - first).abs().mean()) + sum(scales))
    return float(np.mean(scores))


def normalised(x: Tensor, scales: list[float]) -> Tensor:
    rows = x.transpose(0, 1).flatten(1)
    scales.append(math.log(math.sqrt(float(rows.var(1).mean()))))
    spread = (rows.var(1, correction=0) + 1e-5).sqrt()
    return (x - rows.mean(1)[:, None, None]) / spread[:, None, None]


def test_zen_is_the_formula_written_out() -> None:
    def run(weights: list[Tensor], x: Tensor, scales: list[float]) -> Tensor:
        for weight in weights[:2]:
            x = normalised(F.conv2d(x, weight, stride=2), scales).relu()
        return x

    network = cnn()
    nn.init.constant_(network[1].weight, 3.0)  # scales and biases play no part
    expected = naive_zen(run, network)
    assert get_proxy("zen")(read(network, make_probe())) == pytest.approx(expected, rel=1e-3)


class Residual(nn.Module):
    """Residual links in all forms of addition, around branches that are no residual links."""

    def __init__(self, form: int) -> None:
        super().__init__()
        self.form = form
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        branches = self.b(x) + self.c(x)
        match self.form:
            case 0:
                x = x + branches
            case 1:
                x += branches
            case 2:
                branches += x
                x = branches
            case 3:
                x = torch.add(branches, x)
            case 4:
                x.add_(branches)
        return self.head(self.relu(x).mean((2, 3)))


def test_residual_links_are_left_out_and_branches_are_not() -> None:
    def run(weights: list[Tensor], x: Tensor, scales: list[float]) -> Tensor:
        x = F.conv2d(x, weights[0], padding=1)
        return (F.conv2d(x, weights[1], padding=1) + F.conv2d(x, weights[2], padding=1)).relu()

    for form in range(5):
        network = Residual(form)
        score = get_proxy("zen")(read(network, make_probe()))
        assert score == pytest.approx(naive_zen(run, network), rel=1e-3), form


def test_draws_of_zen_are_those_of_the_weights_alone() -> None:
    """Scales, biases, the probe, the layout in memory and earlier readings do not matter."""
    torch.manual_seed(0)
    networks = [cnn() for _ in range(4)]
    scores = [get_proxy("zen")(read(network, make_probe())) for network in networks]
    assert len(set(scores)) == 4
    assert np.std(scores) < 0.1 * abs(np.mean(scores))  # different draws of the same thing
    network, noise = networks[0], torch.randn(2, 3, 16, 16)
    other_probe = Probe.from_tensors(noise, torch.tensor([0, 1]), CLASSES)
    assert get_proxy("zen")(read(network, other_probe)) == scores[0]
    assert zen.draws_seed(copy.deepcopy(network).to(memory_format=torch.channels_last)) == zen.draws_seed(network)
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[0].bias)
    network[1].running_mean.normal_()
    readings = read(network, make_probe(), needs=("gradients", "code_gram"))
    _ = readings.gradients
    assert get_proxy("zen")(readings) == scores[0]


def test_a_sum_keeps_everything_but_ancestors() -> None:
    with zen.GaussianMode() as mode:
        x = mode.start(torch.tensor([1.0, 2.0]))
        twice, thrice = x * 2, x * 3
        assert (twice + thrice).tolist() == [5, 10]  # branches
        assert (x + twice).tolist() == (twice + x).tolist() == [2, 4]
        assert (x + x).tolist() == [2, 4]
        assert (x + 1).tolist() == [2, 3]
        assert (x + twice[:1]).tolist() == [3, 4]  # not of one shape
        assert ((x + twice) + thrice).tolist() == [5, 10]
        assert (x + (twice + thrice)).tolist() == [5, 10]
        first, second = x.chunk(2)
        assert (first + second).tolist() == [3]
        assert (x + torch.cat([second, first])).tolist() == [2, 1]
        other = torch.tensor([1.0, 1.0])
        assert (other + x).tolist() == [2, 3]
        x.add_(thrice)
        assert x.tolist() == [3, 6]


def test_cells_keep_their_branches() -> None:
    """Only what skips a computation is left out: cells that differ in such a link alone are equal."""
    template = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|{}~0|nor_conv_3x3~1|{}~2|"
    scores = {}
    for first, second in itertools.product(("none", "skip_connect"), repeat=2):
        torch.manual_seed(0)  # the same weights, and so the same draws
        scores[first, second] = get_proxy("zen")(read(nasbench(template.format(first, second)), make_probe()))
    assert scores["skip_connect", "none"] == scores["none", "none"]
    assert scores["skip_connect", "skip_connect"] == scores["none", "skip_connect"]
    assert scores["none", "skip_connect"] != scores["none", "none"]


# -- what must not change them ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", NETWORKS)
def test_all_networks_are_scored_and_left_alone(make: Callable[[], nn.Module], name: str) -> None:
    network, probe = make().train(), make_probe(make)
    before, state = everything_about(network), random_state()
    alone = get_proxy(name)(read(network, probe))
    assert math.isfinite(alone)
    assert_same(before, everything_about(network))
    assert random_state() == state
    needs = {need for other in NAMES for need in get_proxy(other).needs}
    together = read(network, probe, needs=needs)
    scores = {other: get_proxy(other)(together) for other in NAMES}
    assert scores[name] == alone


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this layer fails")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_fails_is_left_alone_too(name: str) -> None:
    network = nn.Sequential(cnn(), Failing()).train()
    before, state = everything_about(network), random_state()
    with pytest.raises(RuntimeError, match="this layer fails"):
        get_proxy(name)(read(network, make_probe()))
    assert_same(before, everything_about(network))
    assert random_state() == state


@settings(max_examples=5)
@given(st.permutations(range(SAMPLES)))
def test_the_order_of_the_batch_does_not_matter(order: list[int]) -> None:
    """`meco` is the exception: it reads the first sample."""
    torch.manual_seed(0)
    network, probe = cnn(), make_probe()
    other = Probe.from_tensors(probe.images[order], probe.labels[order], CLASSES)
    for name, tolerance in (("nwot", 1e-9), ("linear_regions", 1e-9), ("swap", 0), ("ntk", 1e-2)):
        first, second = (get_proxy(name)(read(network, one)) for one in (probe, other))
        assert first == pytest.approx(second, rel=tolerance), name


@settings(max_examples=5)
@given(st.permutations(range(6)))
def test_the_order_of_channels_does_not_matter(order: list[int]) -> None:
    """`zen` is the exception: its draws depend on it."""
    torch.manual_seed(0)
    network, probe = cnn(), make_probe()
    other = copy.deepcopy(network)
    other[0].weight.data, other[0].bias.data = network[0].weight[order].detach(), network[0].bias[order].detach()
    other[3].weight.data = network[3].weight[:, order].detach()
    for name, tolerance in (("nwot", 1e-6), ("linear_regions", 1e-6), ("swap", 1e-2), ("ntk", 1e-2), ("meco", 1e-4)):
        first, second = (get_proxy(name)(read(one, probe)) for one in (network, other))
        assert first == pytest.approx(second, rel=tolerance), name


# -- degenerate networks ------------------------------------------------------------------------


def status(name: str, network: nn.Module, probe: Probe | None = None) -> str:
    """The outcome of a score: "a number", a value that is not finite, or the reason why it is missing."""
    try:
        score = get_proxy(name)(read(network, probe or make_probe()))
    except (ReadingError, ValueError) as error:
        return str(error)
    return "a number" if math.isfinite(score) else str(score)


def linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def test_without_rectifiers_there_are_no_codes() -> None:
    for name in ("nwot", "swap", "linear_regions"):
        assert "no activation function" in status(name, linear())
    assert status("meco", linear()) == status("zen", linear()) == "a number"
    # Gradients of a linear network lie in few dimensions: 27 of the patches' means, and the classifier's.
    assert status("ntk", linear()) in ("a number", "-inf")


def test_without_convolutions() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    assert {name: status(name, network) for name in NAMES} == dict.fromkeys(NAMES, "a number")


def test_a_disconnected_cell_gives_a_status() -> None:
    statuses = {name: status(name, nasbench(DISCONNECTED)) for name in NAMES}
    assert statuses["ntk"] == statuses["zen"] == "-inf"
    assert "-inf" not in (statuses["linear_regions"], statuses["swap"], statuses["meco"])


def test_one_class() -> None:
    one_class = Probe.from_tensors(make_probe().images, torch.zeros(SAMPLES, dtype=torch.long), 1)
    network = cnn()
    network[-1] = nn.Linear(8, 1)
    assert {name: status(name, network, one_class) for name in NAMES} == dict.fromkeys(NAMES, "a number")


def test_activations_that_are_not_finite_have_no_kernel() -> None:
    network = cnn()
    nn.init.constant_(network[-1].bias, math.inf)
    assert "not finite" in status("ntk", network)


def test_images_that_are_equal_make_the_kernel_singular() -> None:
    images = make_probe().images[[0, 0, 1]]
    assert status("ntk", cnn(), Probe.from_tensors(images, torch.zeros(3, dtype=torch.long), CLASSES)) == "-inf"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "swap"])  # twelve images have all patterns
class TestContract(ProxyContract):
    @pytest.fixture
    def proxy(self, name: str) -> Any:
        return get_proxy(name)


def test_te_nas_is_the_mean_of_two_ranks() -> None:
    te_nas = get_proxy("te_nas")
    assert te_nas.component_names == ("ntk", "linear_regions")
    assert te_nas.combine({"ntk": [-3.0, -2.0], "linear_regions": [5.0, 4.0]}).tolist() == [0.75, 0.75]
