"""DisWOT's terms against plain double-precision forms of the formulas, and the promises of the default for any pair.

Networks run in single precision, and so do the Gram matrices and gradients read off them; compared with the same
formulas in double precision on the same features, scores differ by the rounding of sums, 1e-5.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diswot_search.data.probe import Probe
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.proxy import Proxy
from diswot_search.proxies.registry import get_proxy, list_proxies, register_proxy
from diswot_search.readings.core import Readings
from diswot_search.testing.proxies import ProxyContract
from search_spaces import UnknownNameError

CLASSES = 5
DEFAULTS = ("semantic", "relation", "channel_relation", "diswot")
LABELS = torch.tensor([0, 1, 4, 1, 0, 3, 4, 1])


def make_probe(size: int = 32, num_classes: int = CLASSES) -> Probe:
    images = torch.randn(len(LABELS), 3, size, size, generator=torch.Generator().manual_seed(size))
    return Probe.from_tensors(images, LABELS, num_classes)


def read(name: str, probe: Probe | None = None, *, seed: int = 1, **options: Any) -> Readings:
    """A timm model with random weights, read on a probe."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": CLASSES} | options)
    return Readings(lambda: model, probe or make_probe())


@pytest.fixture(scope="module")
def pair() -> tuple[Readings, Readings]:
    """A student and a teacher of the same width, classes and size of the last map."""
    return read("cifar_resnet", arch="1-1-1"), read("cifar_resnet", arch="2-1-2", seed=2)


# -- the formulas, written out ------------------------------------------------------------------

Array = np.ndarray


class Plain:
    """The values by which networks are compared, in double precision: features, logits and classifier weight."""

    def __init__(self, readings: Readings) -> None:
        self.features = readings.features.double().numpy()  # samples x channels x positions
        self.logits = readings.logits.double().numpy()
        model: Any = readings.model
        self.weight = model.get_classifier().weight.detach().double().numpy()
        self.pooled = self.features.mean(2)
        self.labels = readings.labels.numpy()

    def class_maps(self) -> Array:
        return np.einsum("nc,bcp->nbp", self.weight, self.features).reshape(len(self.weight), -1)

    def label_gradient(self) -> Array:
        odds = np.exp(self.logits - self.logits.max(1, keepdims=True))
        gradient = np.zeros_like(self.weight)
        for label, features, p in zip(self.labels, self.pooled, odds / odds.sum(1, keepdims=True), strict=True):
            error = p - np.eye(len(p))[label]
            gradient += np.outer(error, features) / len(self.labels)
        return gradient

    def samples(self) -> Array:
        return self.features.reshape(len(self.features), -1)

    def class_means(self) -> Array:
        return np.stack([self.pooled[self.labels == label].mean(0) for label in sorted(set(self.labels.tolist()))])

    def spectrum(self) -> Array:
        channels = self.features.transpose(1, 0, 2).reshape(self.features.shape[1], -1)
        energy = np.linalg.svd(channels, compute_uv=False) ** 2
        return energy / energy.sum()


def gram(rows: Array) -> Array:
    return rows @ rows.T


def cosines(rows: Array) -> Array:
    return gram(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def rows_of_norm_one(matrix: Array) -> Array:
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


def rms(difference: Array) -> float:
    return float(np.sqrt(np.mean(difference**2)))


def of_norm_one(matrix: Array) -> Array:
    return matrix / np.linalg.norm(matrix)


def semantic(s: Plain, t: Plain) -> float:
    return 1 - rms(cosines(s.class_means()) - cosines(t.class_means()))


def relation(s: Plain, t: Plain) -> float:
    return 1 - rms(cosines(s.samples()) - cosines(t.samples()))


def channel_relation(s: Plain, t: Plain) -> float:
    first, second = np.zeros((2, 4096))
    first[: len(s.spectrum())], second[: len(t.spectrum())] = s.spectrum(), t.spectrum()
    return 1 - float(np.linalg.norm(np.sqrt(first) - np.sqrt(second)) / np.sqrt(2))


def semantic_paper(s: Plain, t: Plain) -> float:
    return -float(np.linalg.norm(of_norm_one(gram(s.class_maps())) - of_norm_one(gram(t.class_maps()))))


def relation_paper(s: Plain, t: Plain) -> float:
    return -float(np.linalg.norm(of_norm_one(gram(s.samples())) - of_norm_one(gram(t.samples()))))


def channel_relation_paper(s: Plain, t: Plain) -> float:
    pairs = zip(s.features, t.features, strict=True)
    return -float(np.mean([np.linalg.norm(of_norm_one(gram(a)) - of_norm_one(gram(b))) for a, b in pairs]))


def semantic_readme(s: Plain, t: Plain) -> float:
    def outer(vectors: Array) -> Array:
        return rows_of_norm_one(np.einsum("ni,nj->nij", vectors, vectors))

    return -float(np.mean((outer(s.label_gradient()) - outer(t.label_gradient())) ** 2))


def relation_readme(s: Plain, t: Plain) -> float:
    return -float(np.mean((rows_of_norm_one(gram(s.samples())) - rows_of_norm_one(gram(t.samples()))) ** 2))


def channel_relation_readme(s: Plain, t: Plain) -> float:
    pairs = zip(s.features, t.features, strict=True)
    return -float(np.mean([(rows_of_norm_one(gram(a)) - rows_of_norm_one(gram(b))) ** 2 for a, b in pairs]))


FORMULAS: dict[str, Callable[[Plain, Plain], float]] = {
    "semantic": semantic,
    "relation": relation,
    "channel_relation": channel_relation,
    "semantic_paper": semantic_paper,
    "relation_paper": relation_paper,
    "channel_relation_paper": channel_relation_paper,
    "semantic_readme": semantic_readme,
    "relation_readme": relation_readme,
    "channel_relation_readme": channel_relation_readme,
    "diswot": lambda s, t: (semantic(s, t) + relation(s, t) + channel_relation(s, t)) / 3,
    "diswot_paper": lambda s, t: semantic_paper(s, t) + relation_paper(s, t),
    "diswot_readme": lambda s, t: semantic_readme(s, t) + relation_readme(s, t),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_are_those_of_the_formulas(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    expected = FORMULAS[name](Plain(student), Plain(teacher))
    score = get_proxy(name)(student, teacher)
    assert score == pytest.approx(expected, abs=1e-5, rel=1e-4)
    assert abs(score) > 1e-4  # far from what rounding alone would give


def test_every_form_is_checked() -> None:
    here = {name for name in list_proxies() if get_proxy(name).function.__module__.endswith((".similarity", ".size"))}
    assert here == {*FORMULAS, "params", "macs"}
    assert list_proxies("semantic*") == ["semantic", "semantic_paper", "semantic_readme"]


def test_sizes_are_those_of_the_network(pair: tuple[Readings, Readings]) -> None:
    student = pair[0]
    assert get_proxy("params")(student) == sum(p.numel() for p in student.model.parameters())
    assert get_proxy("macs")(student) == student.cost.macs > 0


# -- the same network, and changes that change nothing ------------------------------------------


@pytest.mark.parametrize("name", FORMULAS)
def test_a_network_is_most_like_itself(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    proxy = get_proxy(name)
    best = 1.0 if name in DEFAULTS else 0.0
    # A Hellinger distance is the root of a rounding error of 1e-16; distances of single precision are about 1e-7.
    assert proxy(student, student) == pytest.approx(best, abs=2e-7)
    assert proxy(student, teacher) < best - 1e-4


class Altered(nn.Module):
    """A network with a changed last map and a classifier that compensates for it."""

    def __init__(self, network: Any, permutation: Tensor, scale: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.network.fc.weight.data = network.fc.weight.data[:, permutation] / scale
        self.num_features = network.num_features
        self.permutation = permutation
        self.scale = scale

    def get_classifier(self) -> nn.Module:
        return self.network.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return self.network.forward_features(x)[:, self.permutation] * self.scale

    def forward_head(self, x: Tensor) -> Tensor:
        return self.network.forward_head(x)


def altered(readings: Readings, *, permuted: bool = False, scale: float = 1.0) -> Readings:
    width = readings.features.shape[1]
    order = torch.arange(width).roll(7) if permuted else torch.arange(width)
    model = Altered(readings.model, order, scale)
    return Readings(lambda: model, readings.probe)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_does_not_depend_on_the_order_of_channels(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    permuted = altered(student, permuted=True)
    torch.testing.assert_close(permuted.logits, student.logits)
    assert get_proxy(name)(permuted, teacher) == pytest.approx(get_proxy(name)(student, teacher), abs=1e-5)


@pytest.mark.parametrize("name", ["semantic_readme", "channel_relation_paper", "channel_relation_readme"])
def test_other_forms_depend_on_the_order_of_channels(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    difference = get_proxy(name)(altered(student, permuted=True), teacher) - get_proxy(name)(student, teacher)
    assert abs(difference) > 1e-5 * abs(get_proxy(name)(student, teacher)) > 0


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scores_do_not_depend_on_the_scale_of_features(
    name: str, scale: float, pair: tuple[Readings, Readings]
) -> None:
    student, teacher = pair
    score = get_proxy(name)(student, teacher)
    assert get_proxy(name)(altered(student, scale=scale), teacher) == pytest.approx(score, abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_student_and_teacher_may_change_places(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    assert get_proxy(name)(student, teacher) == pytest.approx(get_proxy(name)(teacher, student), abs=1e-7)


def test_diswot_weighs_its_terms_alike(pair: tuple[Readings, Readings]) -> None:
    terms = tuple(component.name for component in get_proxy("diswot").components)
    assert terms == ("semantic", "relation", "channel_relation")
    values = [get_proxy(term)(*pair) for term in terms]
    assert all(0 < value < 1 for value in values)
    assert get_proxy("diswot")(*pair) == pytest.approx(sum(values) / 3, abs=1e-12)


# -- any pair -----------------------------------------------------------------------------------

TINY_SWIN = {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24, "window_size": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "mobilenetv3_small_050": {"num_classes": 7},
    "convnext_atto": {},
    "dla46_c": {"num_classes": 11},
    "cifar_resnet20": {"num_classes": 100},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 2, "num_classes": 9},
    "swin_tiny_patch4_window7_224": TINY_SWIN,
    "pit_ti_224": {"img_size": 64},
    "crossvit_tiny_240": {"img_size": 120},
    "gmlp_ti16_224": {"img_size": 64},
    "mobilevit_xxs": {},
    "levit_128s": {"img_size": 64, "num_classes": 6},
    "volo_d1_224": {"img_size": 64, "num_classes": 8},
}
"""Networks that differ in family, layout, width, resolution of the last map, and number of classes."""


@pytest.fixture(scope="module")
def families() -> dict[str, Readings]:
    probes = {size: make_probe(size) for size in (64, 120)}
    return {name: read(name, probes[o.get("img_size", 64)], **o) for name, o in FAMILIES.items()}


def test_the_families_differ(families: dict[str, Readings]) -> None:
    assert len({r.features.shape[1] for r in families.values()}) >= 8
    assert len({r.features.shape[2] for r in families.values()}) >= 5
    assert len({r.logits.shape[1] for r in families.values()}) >= 6


def test_the_default_is_defined_for_every_pair(families: dict[str, Readings]) -> None:
    for (first, student), (second, teacher) in itertools.product(families.items(), repeat=2):
        scores = {name: get_proxy(name)(student, teacher) for name in DEFAULTS}
        for name, score in scores.items():
            assert -1 <= score <= 1 + 1e-6, (first, second, name)
            assert (score > 1 - 2e-6) == (first == second), (first, second, name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "semantic_paper",
            {"num_classes": 7},
            r"'semantic' needs as many classes .* \(5, 5\) and \(7, 7\); the proxy 'semantic'",
        ),
        ("semantic_readme", {"num_classes": 7}, r"as many classes and classifier inputs .* \(5, 64\) and \(7, 64\)"),
        ("semantic_readme", {"num_classes": 3}, r"\(5, 64\) and \(3, 64\); the proxy 'semantic' without a suffix"),
        ("semantic_readme", {"arch": "1x4-1x8"}, r"\(5, 64\) and \(5, 8\); the proxy 'semantic' without a suffix"),
        ("channel_relation_paper", {"arch": "1x4-1x8"}, "the proxy 'channel_relation' without a suffix is defined"),
        ("channel_relation_readme", {"arch": "1x4-1x8"}, "'channel_relation' needs as many channels"),
    ],
)
def test_other_forms_name_the_default_where_they_are_not_defined(
    name: str, options: dict[str, Any], message: str, pair: tuple[Readings, Readings]
) -> None:
    with pytest.raises(ReadingError, match=message):
        get_proxy(name)(pair[0], read("cifar_resnet", **{"arch": "1-1-1"} | options))


def test_features_that_are_zero_have_no_score() -> None:
    teacher = read("cifar_resnet", arch="1-1-1")
    dead = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(ValueError, match="zero everywhere"):
        get_proxy("diswot")(read("nasbench201", arch=dead, cells=1), teacher)


# -- by name, and one's own ---------------------------------------------------------------------


@pytest.fixture
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the registry of proxies after the test."""
    from diswot_search.proxies import registry

    monkeypatch.setattr(registry._PROXIES, "_entries", dict(registry._PROXIES._entries))


def spread(student: Readings, teacher: Readings | None = None) -> float:
    """Standard deviation of the logits.

    More text.
    """
    return student.logits.std().item()


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown proxy 'diswott'\. Did you mean 'diswot'"):
        get_proxy("diswott")
    with pytest.raises(UnknownNameError, match=r"Unknown proxy 'xyz'\. Known: at, .*zico"):
        get_proxy("xyz")


@pytest.mark.usefixtures("restored_registry")
def test_a_registered_function_is_known_by_name(pair: tuple[Readings, Readings]) -> None:
    proxy = register_proxy("spread", spread, components=("params",))
    assert get_proxy("spread") is proxy
    assert get_proxy(proxy) is proxy
    assert list_proxies()[-1] == "spread"
    assert (proxy.summary, proxy.needs_teacher, proxy.components) == (
        "Standard deviation of the logits.",
        False,
        (get_proxy("params"),),
    )
    assert proxy(pair[0]) == proxy(*pair) == pytest.approx(float(pair[0].logits.std()))


@pytest.mark.usefixtures("restored_registry")
def test_a_name_is_given_once_and_terms_must_be_known() -> None:
    with pytest.raises(ValueError, match="proxy 'params' is registered already"):
        register_proxy("params", spread)
    with pytest.raises(UnknownNameError, match="Did you mean 'params'"):
        register_proxy("spread", spread, components=("parms",))
    assert "spread" not in list_proxies()


def test_a_plain_function_is_a_proxy(pair: tuple[Readings, Readings]) -> None:
    proxy = get_proxy(spread)
    assert (proxy.name, proxy.summary) == ("spread", "Standard deviation of the logits.")
    assert proxy(*pair) == float(pair[0].logits.std())
    assert get_proxy(lambda student, teacher: np.float32(2)).name == "<lambda>"
    assert type(get_proxy(lambda student, teacher: np.float32(2))(*pair)) is float


def test_what_is_no_number_is_no_score(pair: tuple[Readings, Readings]) -> None:
    with pytest.raises(TypeError):
        get_proxy(lambda student, teacher: None)(*pair)  # type: ignore[arg-type,return-value]


# -- the contract -------------------------------------------------------------------------------


class TestAnyPair(ProxyContract):
    @pytest.fixture(params=[*DEFAULTS, "relation_paper", "relation_readme", "params", "macs"])
    def proxy(self, request: pytest.FixtureRequest) -> Proxy:
        return get_proxy(request.param)


class TestEqualShapes(ProxyContract):
    any_pair = False

    @pytest.fixture(
        params=sorted(set(FORMULAS) - {*DEFAULTS, "relation_paper", "relation_readme"}),
    )
    def proxy(self, request: pytest.FixtureRequest) -> Proxy:
        return get_proxy(request.param)


class TestPlainFunction(ProxyContract):
    def create(self) -> Callable[..., float]:
        return spread


# -- identities ---------------------------------------------------------------------------------


def holding(value: Any) -> Callable[..., float]:
    return lambda student, teacher=None: float(value)


def defaulting(value: Any) -> Callable[..., float]:
    def proxy(student: Readings, teacher: Readings | None = None, *, given: Any = value) -> float:
        return float(given)

    return proxy


def scaled(factor: Any, student: Readings, teacher: Readings | None = None) -> float:
    return float(factor)


def partly(value: Any) -> Callable[..., float]:
    return functools.partial(scaled, value)


def identity(function: Callable[..., float]) -> str:
    return get_proxy(function).identity


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("make", [holding, defaulting, partly])
@given(PLAIN, PLAIN)
def test_functions_that_hold_plain_values_are_known_by_them(
    make: Callable[[Any], Callable[..., float]], first: Any, second: Any
) -> None:
    assert identity(make(first)) == identity(make(copy.deepcopy(first)))
    assert (identity(make(first)) == identity(make(second))) == (repr(first) == repr(second))


ARRAY = np.arange(6.0)


@pytest.mark.parametrize(
    ("value", "others"),
    [
        (
            torch.arange(3.0),
            [torch.arange(3.0) + 1, torch.arange(3.0)[None], torch.arange(3).int(), nn.Parameter(torch.arange(3.0))],
        ),
        (ARRAY, [ARRAY + 1, ARRAY.reshape(2, 3), ARRAY.astype("float32"), list(ARRAY)]),
        (np.float32(2), [np.float64(2), np.float32(3), 2.0]),
        ({1, "a"}, [{1, "b"}, frozenset({1, "a"})]),
        (holding(1), [holding(2), defaulting(1), partly(1)]),
        (torch.relu, [torch.sigmoid]),
        (math.sin, [math.cos]),
        ("abc".count, ["abd".count, "abc".index]),
        (np, [math]),
        (get_proxy("snip"), [get_proxy("grasp"), get_proxy("log_rank(snip, macs)")]),
        (Readings, [Proxy]),
        (torch.float32, [torch.float64]),
    ],
)
def test_functions_that_hold_other_things_are_known_by_what_can_be_seen(value: Any, others: list[Any]) -> None:
    expected = identity(holding(value))
    assert identity(holding(value)) == expected
    assert identity(holding([value])) != expected
    assert expected not in {identity(holding(other)) for other in others}


class Weighted:
    """A proxy that is an object."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, student: Readings, teacher: Readings | None = None) -> float:
        return self.weight


OPAQUE = [
    Weighted(1.0),
    Weighted(1.0).__call__,
    holding(nn.Linear(1, 1)),
    holding([Weighted(1.0)]),
    holding(np.array([None])),
    holding(torch.eye(2).to_sparse()),
    holding(iter([])),
    defaulting(Weighted(1.0)),
    partly(Weighted(1.0)),
]


@pytest.mark.parametrize("function", OPAQUE)
def test_what_holds_an_object_that_cannot_be_seen_is_never_the_same_again(function: Callable[..., float]) -> None:
    proxy = get_proxy(function)
    assert proxy.identity == proxy.identity
    assert proxy.identity != identity(function)


def test_a_function_that_holds_itself_has_an_identity() -> None:
    def endless(depth: int) -> Callable[..., float]:
        def proxy(student: Readings, teacher: Readings | None = None) -> float:
            return depth and proxy(student, teacher)

        return proxy

    assert identity(endless(1)) == identity(endless(1)) != identity(endless(2))


@pytest.mark.usefixtures("restored_registry")
def test_only_proxies_of_this_package_are_known_by_their_bare_names() -> None:
    assert [name for name in list_proxies() if get_proxy(name).identity != name] == []
    mine = register_proxy("spread", spread)
    assert (mine.is_registered, mine.identity) == (True, identity(spread))
    assert mine.identity.startswith("spread (")
    borrowed = register_proxy("borrowed", get_proxy("snip").function)  # tomorrow it may be another one
    assert borrowed.identity not in ("borrowed", "snip")
    copied = Proxy("snip", spread, needs_teacher=False, summary="")
    assert not copied.is_registered
    assert copied.identity not in ("snip", mine.identity)
    changed = dataclasses.replace(get_proxy("snip"), function=spread)
    assert not changed.is_registered
    assert changed.identity not in ("snip", mine.identity)


@pytest.mark.parametrize("component", ["macs", get_proxy("log_rank(snip, macs)")])
def test_a_component_must_be_a_proxy(component: Any) -> None:
    with pytest.raises(TypeError, match="it must be a Proxy"):
        Proxy("mine", spread, needs_teacher=False, summary="", components=(component,))


MODULE = """
def make(values, *, lists={"a": [1, 2.5]}):
    def proxy(student, teacher=None, *, names=frozenset(("x", "y", "z"))):
        inner = lambda value: value in {"p", "q", "r", values}
        return 0.0
    return proxy
"""
SHOW = "import mine; from diswot_search.proxies import get_proxy; print(get_proxy(mine.make({'u', 'v', 'w'})).identity)"


@pytest.mark.faults
def test_an_identity_is_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    here = identity(importlib.import_module("mine").make({"u", "v", "w"}))
    there = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "1"},  # sets have another order
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == f"{here}\n"


factor = 1.0


def helper(value: float) -> float:
    return factor * value


def scaled_spread(student: Readings, teacher: Readings | None = None) -> float:
    """Standard deviation of the logits, by a helper that uses a global."""
    return helper(float(student.logits.std()))


def test_a_function_is_another_one_when_a_global_that_it_uses_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_proxy(scaled_spread).identity
    assert get_proxy(scaled_spread).identity == before
    monkeypatch.setattr(sys.modules[__name__], "factor", -1.0)
    assert get_proxy(scaled_spread).identity != before
    monkeypatch.undo()
    assert get_proxy(scaled_spread).identity == before
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda value: -value)
    assert get_proxy(scaled_spread).identity != before


@pytest.mark.parametrize("nonsense", [3, None, [1]])
def test_what_cannot_be_called_is_no_proxy(nonsense: object) -> None:
    with pytest.raises(ValueError, match="is no proxy; it must be a name, a proxy, or a function"):
        get_proxy(nonsense)  # type: ignore[arg-type]
