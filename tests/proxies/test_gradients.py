"""Proxies of weights and gradients against naive second implementations, and the changes that must not affect them.

The naive forms run a copy of the network in double precision and differentiate it with `backward`, loops and finite
differences. Networks are read in single precision, whose rounding grows through a few layers to about 1e-5 of the
largest value; sums are compared to 1e-3 of the sum of their terms' magnitudes. `zico` divides by differences that may
be as small as that rounding, so it is compared on gradients of single precision on both sides.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from torch.nn import functional as F

from diswot_search.data.probe import Probe
from diswot_search.functional import similarities
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.proxy import Proxy
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings
from diswot_search.readings.gates import open_gates
from diswot_search.study.evaluator import Evaluator
from diswot_search.testing.proxies import ProxyContract
from diswot_search.testing.randomness import random_state
from search_spaces import create_space

from ..readings.helpers import assert_same, everything_about, read

CLASSES = 5
LABELS = [0, 1, 4, 1, 0, 3, 4, 1]
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DEAD_BRANCH = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
DISCONNECTED = "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|none~2|"
SIGNED = ("plain", "grasp")


def make_probe(labels: list[int] = LABELS, num_classes: int = CLASSES, size: int = 16) -> Probe:
    images = torch.randn(len(labels), 3, size, size, generator=torch.Generator().manual_seed(5))
    return Probe.from_tensors(images, torch.tensor(labels), num_classes)


def cnn(num_classes: int = CLASSES) -> nn.Sequential:
    first = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()]
    second = [nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def nasbench(cell: str = CELL) -> nn.Module:
    return timm.create_model("nasbench201", arch=cell, channels=4, cells=1, num_classes=CLASSES)


def dead_branch() -> nn.Module:
    return nasbench(DEAD_BRANCH)


def vit() -> nn.Module:
    shape = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **shape)


NETWORKS = [cnn, nasbench, dead_branch, vit]


# -- the formulas, written out ------------------------------------------------------------------


class Naive:
    """A copy of a network in double precision, and what is differentiated from it step by step."""

    def __init__(self, network: nn.Module, probe: Probe, dtype: torch.dtype = torch.float64) -> None:
        self.network = copy.deepcopy(network).to(dtype).train()
        self.images, self.labels = probe.images.to(dtype), probe.labels
        self.layers = [m for m in self.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    def gradients(self, part: slice = slice(None)) -> list[np.ndarray]:
        self.network.zero_grad()
        F.cross_entropy(self.network(self.images[part]), self.labels[part]).backward()
        return [
            np.zeros(layer.weight.shape) if layer.weight.grad is None else layer.weight.grad.clone().numpy()
            for layer in self.layers
        ]

    def weights(self) -> list[np.ndarray]:
        return [layer.weight.detach().clone().numpy() for layer in self.layers]

    def products(self) -> np.ndarray:
        return flat(w * g for w, g in zip(self.weights(), self.gradients(), strict=True))

    def hessian_products(self, step: float = 1e-8) -> np.ndarray:
        """Each W (H g), the Hessian times the gradient as the gradient's change along itself.

        The step is small enough for no rectified neuron to switch, and large enough for double precision.
        """
        weights, gradients = self.weights(), self.gradients()
        sides = []
        for sign in (1, -1):
            for layer, weight, gradient in zip(self.layers, weights, gradients, strict=True):
                layer.weight.data = torch.from_numpy(weight + sign * step * gradient)
            sides.append(self.gradients())
        return flat(w * (plus - minus) / (2 * step) for w, plus, minus in zip(weights, *sides, strict=True))

    def jacobian(self) -> np.ndarray:
        images = self.images.clone().requires_grad_()
        self.network(images).backward(torch.ones(len(images), self.network(images).shape[1]).to(images))
        assert images.grad is not None
        return images.grad.flatten(1).numpy()


def flat(arrays: Any) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def l2_norm(naive: Naive, probe: Probe) -> float:
    return sum(math.sqrt((weight**2).sum()) for weight in naive.weights())


def grad_norm(naive: Naive, probe: Probe) -> float:
    return sum(math.sqrt((gradient**2).sum()) for gradient in naive.gradients())


def plain(naive: Naive, probe: Probe) -> float:
    return float(naive.products().sum())


def snip(naive: Naive, probe: Probe) -> float:
    return float(abs(naive.products()).sum())


def grasp(naive: Naive, probe: Probe) -> float:
    return -float(naive.hessian_products().sum())


def fisher(naive: Naive, probe: Probe) -> float:
    total, outputs = 0.0, []
    for layer in naive.layers:
        layer.register_forward_hook(lambda _, __, output: outputs.append((_, output)))
    logits = naive.network(naive.images)
    for _, output in outputs:
        output.retain_grad()
    F.cross_entropy(logits, naive.labels).backward()
    for layer, output in outputs:
        if output.grad is None:
            continue
        product = (output * output.grad).detach().numpy()
        product = np.moveaxis(product, -1, 1) if isinstance(layer, nn.Linear) else product
        for channel in range(product.shape[1]):
            per_image = [product[image, channel].sum() for image in range(len(product))]
            total += float(np.mean([0.5 * value**2 for value in per_image]))
    return total


def synflow(naive: Naive, probe: Probe) -> float:
    network = naive.network.eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.LayerNorm):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        parameter.data.abs_()
    network.zero_grad()
    network(torch.ones(1, *probe.input_size, dtype=torch.float64)).sum().backward()
    flows = [layer.weight.detach() * layer.weight.grad for layer in naive.layers if layer.weight.grad is not None]
    return math.log(sum(float(abs(flow).sum()) for flow in flows))


def jacov(naive: Naive, probe: Probe) -> float:
    values = np.linalg.eigvals(np.corrcoef(naive.jacobian())).real
    return -float(np.sum(np.log(values + 1e-5) + 1 / (values + 1e-5)))


def epe_nas(naive: Naive, probe: Probe) -> float:
    rows, scores = naive.jacobian(), {}
    for label in sorted(set(naive.labels.tolist())):
        own = [row for row, other in zip(rows, naive.labels.tolist(), strict=True) if other == label]
        values = [math.log(abs(np.corrcoef(a, b)[0, 1]) + 1e-5) for a in own for b in own]
        if probe.num_classes <= 100:
            scores[label] = sum(values)
        elif len(own) > 1:
            scores[label] = sum(values) / len(own)
    if probe.num_classes <= 100:
        return sum(abs(score) for score in scores.values())
    return sum(abs(a - b) for a in scores.values() for b in scores.values()) / len(scores)


def zico(naive: Naive, probe: Probe) -> float:
    half = len(naive.images) // 2
    total = 0.0
    for pair in zip(naive.gradients(slice(half)), naive.gradients(slice(half, None)), strict=True):
        values = np.stack(pair).reshape(2, -1).astype(np.float64)
        deviation, magnitude = values.std(0), abs(values).mean(0)
        ratio = sum(m / d for m, d in zip(magnitude, deviation, strict=True) if d > 0)
        total += math.log(ratio) if ratio else 0.0
    return total


FORMULAS: dict[str, Callable[[Naive, Probe], float]] = {
    formula.__name__: formula
    for formula in (l2_norm, grad_norm, plain, snip, grasp, fisher, synflow, jacov, epe_nas, zico)
}
NEEDS = {need for name in FORMULAS for need in get_proxy(name).needs}


def score(name: str, network: nn.Module, probe: Probe | None = None, **options: Any) -> float:
    proxy = get_proxy(name)
    assert isinstance(proxy, Proxy)
    return proxy(read(network, probe or make_probe(), **{"needs": proxy.needs} | options))


def magnitude(name: str, network: nn.Module, probe: Probe) -> float:
    """The scale of a score's rounding error: the sum of its terms' magnitudes, or the score itself."""
    naive = Naive(network, probe)
    if name == "plain":
        return float(abs(naive.products()).sum())
    if name == "grasp":
        return float(abs(naive.hessian_products()).sum())
    return abs(FORMULAS[name](naive, probe))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_proxy_is_its_formula(name: str, make: Callable[[], nn.Module]) -> None:
    network, probe = make(), make_probe()
    expected = FORMULAS[name](Naive(network, probe, torch.float32 if name == "zico" else torch.float64), probe)
    tolerance = 1e-3 * magnitude(name, network, probe)
    assert score(name, network, probe) == pytest.approx(expected, rel=0, abs=tolerance)


def test_many_classes_are_compared_and_few_are_added_up() -> None:
    labels = [7, 3, 100, 7, 3, 100, 7, 50]
    scores = []
    for num_classes in (100, 101):
        network, probe = cnn(num_classes), make_probe([label % num_classes for label in labels], num_classes)
        scores.append(score("epe_nas", network, probe))
        assert scores[-1] == pytest.approx(epe_nas(Naive(network, probe), probe), rel=1e-3)
    assert scores[0] > 2 * scores[1]


@settings(max_examples=50)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 9)), elements=st.integers(-9, 9)))
def test_correlations_are_those_of_numpy(rows: np.ndarray) -> None:
    if (rows.std(1) == 0).any():
        with pytest.raises(ValueError, match=f"of {len(rows)} rows are constant"):
            similarities.correlations(torch.from_numpy(rows))
    else:
        expected = np.atleast_2d(np.corrcoef(rows))
        np.testing.assert_allclose(similarities.correlations(torch.from_numpy(rows)).numpy(), expected, atol=1e-12)


def test_a_constant_row_is_known_by_the_rounding_of_its_numbers() -> None:
    rows = torch.randn(3, 1000)
    rows[1] = 0.1
    with pytest.raises(ValueError, match="1 of 3 rows"):
        similarities.correlations(rows)
    rows[1] = 0.1 + 1e-5 * torch.randn(1000)
    assert similarities.correlations(rows).isfinite().all()


# -- what must not change a score ---------------------------------------------------------------


def reordered(probe: Probe, order: list[int]) -> Probe:
    return Probe.from_tensors(probe.images[order], probe.labels[order], probe.num_classes)


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"zico"}))
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    network, probe = nasbench(), make_probe()
    tolerance = 1e-3 * magnitude(name, network, probe)
    other = score(name, network, reordered(probe, torch.randperm(len(LABELS)).tolist()))
    assert other == pytest.approx(score(name, network, probe), rel=0, abs=tolerance)


def test_of_the_batch_zico_sees_which_half_an_image_is_in_and_no_more() -> None:
    network, probe = nasbench(), make_probe()
    expected = score("zico", network, probe)
    for order in ([4, 5, 6, 7, 0, 1, 2, 3], [2, 0, 3, 1, 7, 5, 4, 6]):
        assert score("zico", network, reordered(probe, order)) == pytest.approx(expected, rel=1e-3)
    assert score("zico", network, reordered(probe, [0, 4, 1, 5, 2, 6, 3, 7])) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_order_of_hidden_channels_does_not_matter(name: str) -> None:
    network, probe = cnn(), make_probe()
    other = copy.deepcopy(network)
    order = torch.randperm(6)
    with torch.no_grad():
        for parameter in (other[0].weight, other[0].bias):
            parameter.copy_(parameter[order])
        other[3].weight.copy_(other[3].weight[:, order])
    tolerance = 1e-3 * magnitude(name, network, probe)
    assert score(name, other, probe) == pytest.approx(score(name, network, probe), rel=0, abs=tolerance)


def all_scores(readings: Readings, names: list[str]) -> dict[str, float]:
    return {name: get_proxy(name)(readings) for name in names}


@pytest.mark.parametrize("make", [nasbench, vit])
def test_a_score_is_the_same_alone_and_with_all_others(make: Callable[[], nn.Module]) -> None:
    network, probe = make(), make_probe()
    forwards = all_scores(read(network, probe, needs=NEEDS), list(FORMULAS))
    backwards = all_scores(read(network, probe, needs=NEEDS), list(FORMULAS)[::-1])
    unannounced = all_scores(read(network, probe), list(FORMULAS))
    for name in FORMULAS:
        alone = score(name, network, probe)
        tolerance = 1e-4 * magnitude(name, network, probe)  # attention that is differentiated twice runs otherwise
        for together in (forwards, backwards, unannounced):
            assert together[name] == pytest.approx(alone, rel=0, abs=tolerance)


def test_all_of_them_share_one_pass_of_the_whole_batch() -> None:
    network: Any = nasbench()
    batches: list[int] = []
    network.stem.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    all_scores(read(network, make_probe(), needs=NEEDS), list(FORMULAS))
    half = len(LABELS) // 2
    assert sorted(batches) == [1, half, half, len(LABELS)]


def test_the_norm_of_the_weights_runs_nothing() -> None:
    first = nn.Linear(4, 3)
    expected = float(first.weight.detach().norm())
    assert score("l2_norm", nn.Sequential(first, Failing())) == pytest.approx(expected)


# -- synflow ------------------------------------------------------------------------------------


def chain() -> nn.Sequential:
    """Three layers without bias, so that each carries all of the flow."""
    body = [nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES, bias=False))


@given(st.integers(0, 2), st.floats(0.01, 100), st.integers(0, 2**20))
@settings(max_examples=20)
def test_synflow_is_of_magnitudes_alone_and_conserved(index: int, factor: float, seed: int) -> None:
    torch.manual_seed(0)
    network, probe = chain(), make_probe()
    weights = [layer.weight for layer in network if hasattr(layer, "weight")]
    before = score("synflow", network, probe)
    # Each layer's share of the flow is the whole: what reaches the output.
    positive = copy.deepcopy(network).double()
    for parameter in positive.parameters():
        parameter.data.abs_()
    with torch.no_grad():
        flow = float(positive(torch.ones(1, *probe.input_size).double()).sum())
    assert before == pytest.approx(math.log(len(weights) * flow), rel=1e-9)
    signs = torch.randint(0, 2, weights[index].shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    weights[index].data *= signs
    assert score("synflow", network, probe) == before
    weights[index].data *= factor
    assert score("synflow", network, probe) == pytest.approx(before + math.log(factor), rel=1e-5, abs=1e-5)


def test_synflow_sees_neither_the_images_nor_the_normalisation() -> None:
    network, probe = cnn(), make_probe()
    before = score("synflow", network, probe)
    for norm in (network[1], network[4]):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.fill_(3.0)
    other = Probe.from_tensors(torch.zeros_like(probe.images), probe.labels.flip(0), CLASSES)
    assert score("synflow", network, other) == before
    assert score("synflow", network, probe, trained=True) == before


class Cached(nn.Module):
    """Keeps a table made from its parameter in evaluation, under the name that timm's LeViT gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = cnn()
        self.bias = nn.Parameter(-torch.ones(CLASSES))
        self.attention_bias_cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.attention_bias_cache.setdefault("bias", 2 * self.bias)
        return self.cnn(x) + self.attention_bias_cache["bias"]


def test_synflow_neither_uses_nor_leaves_what_attention_has_cached() -> None:
    network, probe = Cached(), make_probe()
    fresh = score("synflow", network, probe)
    assert network.attention_bias_cache == {}
    logits = read(network, probe).logits
    table = network.attention_bias_cache["bias"]
    assert score("synflow", network, probe) == fresh
    assert network.attention_bias_cache["bias"] is table
    assert torch.equal(read(copy.deepcopy(network), probe).logits, logits)


# -- what is left alone -------------------------------------------------------------------------


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this layer fails")


def partly_frozen(network: nn.Module) -> nn.Module:
    network.train()
    network[0].requires_grad_(False)
    network[1].eval()
    network[1].running_mean.fill_(0.5)
    network[-1].weight.grad = torch.ones_like(network[-1].weight)
    return network


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_network_is_left_as_it_was(name: str, trained: bool) -> None:
    network = partly_frozen(cnn())
    before, state = everything_about(network), random_state()
    gradient = network[-1].weight.grad.clone()
    assert math.isfinite(score(name, network, trained=trained))
    assert_same(before, everything_about(network))
    assert torch.equal(network[-1].weight.grad, gradient)
    assert random_state() == state
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"l2_norm"}))
def test_a_network_that_fails_is_left_as_it_was(name: str) -> None:
    network = partly_frozen(cnn())
    network.insert(3, Failing())
    before = everything_about(network)
    with pytest.raises(RuntimeError, match="this layer fails"):
        score(name, network)
    assert_same(before, everything_about(network))
    assert torch.is_grad_enabled()


# -- networks and batches that are none ---------------------------------------------------------


@pytest.mark.parametrize("name", FORMULAS)
def test_a_disconnected_cell_is_a_status(name: str) -> None:
    space = create_space("nasbench201", num_classes=CLASSES, input_size=(3, 16, 16), channels=4, cells=1)
    evaluation = Evaluator(space, None, make_probe(), name, device="cpu").evaluate([space.parse(DISCONNECTED)])[0]
    reasons = {
        "l2_norm": None,
        "synflow": "the score is -inf",
        "jacov": "ValueError: 8 of 8 rows are constant",
        "epe_nas": "ValueError: 2 of 2 rows are constant",
        "zico": "ReadingError: no weight has a gradient that differs",
    }
    expected = reasons.get(name, "ReadingError: no layer gets a gradient")
    assert (evaluation.reason or "").startswith(expected or "")
    assert evaluation.status == ("failed" if expected else "ok")


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))


@pytest.mark.parametrize("name", FORMULAS)
def test_one_linear_layer_has_a_score(name: str) -> None:
    network, probe = linear(), make_probe()
    dtype = torch.float32 if name == "zico" else torch.float64
    tolerance = 1e-3 * magnitude(name, network, probe)
    expected = FORMULAS[name](Naive(network, probe, dtype), probe)
    assert score(name, network, probe) == pytest.approx(expected, rel=0, abs=tolerance)


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"l2_norm", "synflow", "jacov", "epe_nas"}))
def test_one_class_gives_no_gradient(name: str) -> None:
    with pytest.raises(ReadingError, match="gradient"):
        score(name, cnn(1), make_probe([0] * 8, 1))


@pytest.mark.parametrize("name", ["l2_norm", "synflow", "jacov", "epe_nas"])
def test_what_needs_no_loss_needs_no_second_class(name: str) -> None:
    assert math.isfinite(score(name, cnn(1), make_probe([0] * 8, 1)))


@pytest.mark.parametrize("name", ["jacov", "epe_nas"])
def test_a_classifier_of_zeros_is_an_error(name: str) -> None:
    network = cnn()
    nn.init.zeros_(network[-1].weight)
    with pytest.raises(ValueError, match="rows are constant"):
        score(name, network)


def test_classes_must_have_pairs() -> None:
    with pytest.raises(ReadingError, match="at least 1 classes, it has in 0"):
        score("epe_nas", cnn(), make_probe([0, 1, 2, 3]))
    with pytest.raises(ReadingError, match="at least 2 classes, it has in 1"):
        score("epe_nas", cnn(101), make_probe([0, 1, 2, 2], 101))


def test_a_batch_must_have_halves_that_differ() -> None:
    with pytest.raises(ReadingError, match="two images each, and this batch has 3"):
        score("zico", cnn(), make_probe([0, 1, 2]))
    half = make_probe([0, 1, 2, 3])
    twice = Probe.from_tensors(half.images.repeat(2, 1, 1, 1), half.labels.repeat(2), CLASSES)
    with pytest.raises(ReadingError, match="no weight has a gradient that differs"):
        score("zico", cnn(), twice)


@pytest.mark.parametrize("name", ["grad_norm", "plain", "snip", "grasp", "fisher", "zico"])
def test_labels_beyond_the_networks_classes_are_refused(name: str) -> None:
    with pytest.raises(ReadingError, match="labels go up to 4"):
        score(name, cnn(3))


class TestGradientProxies(ProxyContract):
    @pytest.fixture(params=list(FORMULAS))
    def proxy(self, request: pytest.FixtureRequest) -> Proxy:
        requested = get_proxy(request.param)
        assert isinstance(requested, Proxy)
        return requested


@pytest.mark.parametrize("name", ["synflow", "zen"])
def test_modules_with_several_names_keep_their_weights(name: str) -> None:
    """CoaT holds its position encodings in a list and in every block."""
    shape = {"embed_dims": (8, 16, 16, 16), "serial_depths": (1, 1, 1, 1), "num_heads": 8, "img_size": 32}
    model = timm.create_model("coat_lite_tiny", num_classes=CLASSES, **shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    readings = read(model, make_probe(size=32))
    assert math.isfinite(get_proxy(name)(readings))  # type: ignore[operator]
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    assert bool(readings.logits.isfinite().all())  # later passes work


@pytest.mark.parametrize("name", ["mobilevit_xxs", "efficientvit_b0", "dpn68", "coat_lite_tiny", "pit_ti_224"])
def test_synflow_is_finite_wherever_a_forward_is(name: str) -> None:
    """These multiply values many times, and dpn68 changes them in place."""
    size = {"img_size": 32} if name.startswith("coat") else {"img_size": 64} if name.startswith("pit") else {}
    model = timm.create_model(name, num_classes=CLASSES, **size)
    value = score("synflow", model, make_probe(size=size.get("img_size", 64)))
    assert math.isfinite(value)
    assert score("synflow", model, make_probe(size=size.get("img_size", 64))) == value


class Gated(nn.Module):
    """Blocks whose gate is brought to the shape of what it multiplies, as in ECA."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1, groups=3, bias=False) for _ in range(depth))
        self.head = nn.Linear(3, 1, bias=False)
        for layer in (*self.blocks, self.head):
            nn.init.constant_(layer.weight, 2.0**20)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
            x = x * x.mean((2, 3), keepdim=True).sigmoid().expand_as(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("depth", [3, 60, 300])
def test_synflow_of_gates_is_its_closed_form_at_any_depth(depth: int) -> None:
    """All gates are saturated at one, so that the response is 3 (2^20)^(n + 1), which each of n + 1 weights has."""
    ones = Probe.from_tensors(torch.ones(2, 3, 4, 4), torch.arange(2), 2)
    expected = math.log(3 * (depth + 1)) + 20 * (depth + 1) * math.log(2)
    assert score("synflow", Gated(depth), ones) == pytest.approx(expected, rel=1e-6)


def test_synflow_names_the_sizes_where_a_network_fails() -> None:
    with pytest.raises(RuntimeError, match=r"the network fails on images of 36x36 \(AssertionError\)"):
        score("synflow", timm.create_model("halonet26t", num_classes=CLASSES), make_probe(size=36))


def test_synflow_says_where_values_of_one_tensor_are_too_far_apart() -> None:
    """With these weights, no image token of CoaT is seen by its class tokens, which alone are classified."""
    torch.manual_seed(1)
    model = timm.create_model("coat_tiny", num_classes=CLASSES, img_size=64)
    with pytest.raises(
        ReadingError, match=r"values within one tensor .* differ by more than double precision can hold"
    ):
        score("synflow", model, make_probe(size=64))


@given(st.integers(1, 400), st.floats(1e-3, 1e12))
@settings(max_examples=20)
def test_synflow_of_a_residual_chain_is_its_closed_form_at_any_depth(depth: int, factor: float) -> None:
    """With x + w x in each of n blocks, the response is 3 (1 + w)^n, of which a block's weight has w / (1 + w)."""
    network = Residual(depth, factor)
    ones = Probe.from_tensors(torch.ones(2, 3, 4, 4), torch.arange(2), 2)
    log_response = math.log(3) + depth * math.log1p(factor)
    expected = log_response + math.log(1 + depth * factor / (1 + factor))
    assert score("synflow", network, ones) == pytest.approx(expected, rel=1e-6)


class Residual(nn.Module):
    """Blocks of one channel that add a multiple of their input to it, and a classifier of ones."""

    def __init__(self, depth: int, factor: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1, groups=3, bias=False) for _ in range(depth))
        self.head = nn.Linear(3, 1, bias=False)
        for block in self.blocks:
            nn.init.constant_(block.weight, -factor)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_synflow_of_a_classifier_that_starts_at_zero_is_that_with_open_gates() -> None:
    network, probe = chain(), make_probe()
    network[-1].weight.data.zero_()
    closed = score("synflow", network, probe)
    with open_gates(network):
        assert network[-1].weight.any()
        assert closed == score("synflow", network, probe)
    assert not network[-1].weight.any()


@given(st.floats(1e-3, 1e200))
@settings(max_examples=20)
def test_synflow_grows_with_the_log_of_its_weights(factor: float) -> None:
    network, probe = chain().double(), make_probe()
    before = score("synflow", network, probe)
    for layer in network:
        if hasattr(layer, "weight"):
            layer.weight.data *= factor
    assert score("synflow", network, probe) == pytest.approx(before + 3 * math.log(factor), rel=1e-5, abs=1e-5)


def test_saturated_attention_passes_on_the_flow_and_no_rounding_errors() -> None:
    """Equal tokens have equal scores, so that queries and keys get no gradient, however large the scores are."""
    torch.manual_seed(0)
    attention = Attention().double()
    for weight in (attention.query.weight, attention.key.weight):
        weight.data *= 1e9
    probe = make_probe()
    flow = attention.response(torch.ones(1, *probe.input_size).double())
    assert score("synflow", attention, probe) == pytest.approx(math.log(2 * flow), rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_queries_that_share_keys_have_the_flow_of_repeated_keys(scale: float) -> None:
    torch.manual_seed(0)
    shared = GroupedAttention(scale, is_shared=True).double()
    repeated = GroupedAttention(scale, is_shared=False).double()
    repeated.load_state_dict(shared.state_dict())
    probe = make_probe()
    assert score("synflow", shared, probe) == score("synflow", repeated, probe)


class GroupedAttention(nn.Module):
    """Attention of four heads of queries over two of keys and values, shared by torch or repeated beforehand."""

    def __init__(self, scale: float, is_shared: bool) -> None:
        super().__init__()
        self.query = nn.Linear(3, 8, bias=False)
        self.key, self.value = (nn.Linear(3, 4, bias=False) for _ in range(2))
        self.head = nn.Linear(8, CLASSES, bias=False)
        self.scale, self.is_shared = scale, is_shared

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        query, key, value = (
            layer(tokens).unflatten(2, (-1, 2)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if not self.is_shared:
            key, value = (each.repeat_interleave(2, dim=1) for each in (key, value))
        output = F.scaled_dot_product_attention(
            query, key, value, scale=self.scale, **({"enable_gqa": True} if self.is_shared else {})
        )
        return self.head(output.transpose(1, 2).flatten(2).mean(1))


class Attention(nn.Module):
    """Attention over positions, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 4, bias=False) for _ in range(3))
        self.head = nn.Linear(4, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        weights = (self.query(tokens) @ self.key(tokens).mT).softmax(-1)
        return self.head((weights @ self.value(tokens)).mean(1))

    def response(self, ones: Tensor) -> float:
        """The response of weights without signs, where all tokens are equal."""
        token = ones.flatten(2).mT[0, 0]
        return float((self.head.weight.abs() @ (self.value.weight.abs() @ token)).sum().detach())
