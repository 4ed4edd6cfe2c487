"""Every distiller by the contract, what each makes of stages, grids and memories, and real pairs of networks.

Tolerances: 1e-5 of the value, in single precision, where two ways of computing one loss differ by the order of sums.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces  # noqa: F401  (registers our networks with timm)
from diswot_search.data.splits import Splits
from diswot_search.distillation import base
from diswot_search.distillation.base import Batch, Distiller, DistillerError, Setting, get_distiller, list_distillers
from diswot_search.distillation.combination import Combination, parse_distillers
from diswot_search.distillation.connectors import AttentionFusion, conv_connector, required
from diswot_search.distillation.crd import CRD, OtherClasses
from diswot_search.distillation.distillers import DKD, OFD, VID, DisWOT, FitNet, ReviewKD
from diswot_search.functional import losses, similarities
from diswot_search.functional.shapes import match_grids
from diswot_search.jobs.train import distill
from diswot_search.networks.features import READABLE, FeatureReader, Features, Shapes
from diswot_search.testing.distillers import DistillerContract, features_of, shapes_of
from search_spaces.registry import Registry, UnknownNameError

few = settings(max_examples=20)
NAMES = (
    *("kd", "kd_standardised", "fitnet", "at", "sp", "cc", "rkd", "pkt", "vid", "crd", "ofd", "reviewkd"),
    *("dkd", "dist", "ickd", "nst", "diswot", "diswot_relation", "diswot_semantic"),
)
"""All distillers in order."""
NOT_POSITIVE = (0, -1.0, math.nan, math.inf, "4", True, None)
NEGATIVE = (-1, math.nan, math.inf, "1", False, None)
NO_COUNT = (0, -3, 2.0, "8", True, None)
NO_STAGE = (0, 1, -3, True, "last", 1.0)
NO_STAGES: tuple[Any, ...] = ([], [0], [-1, -1], [-3], -1, "-1", [None])


class NamedDistiller(DistillerContract):
    """The contract of what is registered under a name."""

    name: ClassVar[str]

    def create(self, setting: Setting, **options: Any) -> Distiller:
        return get_distiller(self.name)(setting, **options)


class TestKD(NamedDistiller):
    name = "kd"
    minimum = 0.0
    wrong_options: ClassVar = {"temperature": NOT_POSITIVE}


class TestStandardisedKD(NamedDistiller):
    name = "kd_standardised"
    minimum = 0.0
    wrong_options: ClassVar = {"temperature": NOT_POSITIVE}


class TestDKD(NamedDistiller):
    name = "dkd"
    minimum = 0.0
    wrong_options: ClassVar = {"alpha": NEGATIVE, "beta": NEGATIVE, "temperature": NOT_POSITIVE}


class TestDIST(NamedDistiller):
    name = "dist"
    minimum = 0.0
    wrong_options: ClassVar = {"beta": NEGATIVE, "gamma": NEGATIVE, "temperature": NOT_POSITIVE}


class TestFitNet(NamedDistiller):
    name = "fitnet"
    wrong_options: ClassVar = {"stage": NO_STAGE}


class TestAT(NamedDistiller):
    name = "at"
    minimum = 0.0
    wrong_options: ClassVar = {"stages": NO_STAGES}


class TestSP(NamedDistiller):
    name = "sp"
    minimum = 0.0
    wrong_options: ClassVar = {"stage": (*NO_STAGE, None)}


class TestCC(NamedDistiller):
    name = "cc"
    wrong_options: ClassVar = {"width": NO_COUNT}


class TestRKD(NamedDistiller):
    name = "rkd"
    minimum = 0.0
    wrong_options: ClassVar = {"distance_weight": NEGATIVE, "angle_weight": NEGATIVE}


class TestPKT(NamedDistiller):
    name = "pkt"
    minimum = 0.0


class TestVID(NamedDistiller):
    name = "vid"
    wrong_options: ClassVar = {"stages": NO_STAGES, "initial_variance": NOT_POSITIVE}


class TestCRD(NamedDistiller):
    name = "crd"
    wrong_options: ClassVar = {
        "width": NO_COUNT,
        "negatives": NO_COUNT,
        "temperature": (*NOT_POSITIVE, 0.001),
        "momentum": (*NEGATIVE, 1, 2.0),
    }


class TestOFD(NamedDistiller):
    name = "ofd"
    wrong_options: ClassVar = {"stages": NO_STAGES}


class TestReviewKD(NamedDistiller):
    name = "reviewkd"
    wrong_options: ClassVar = {"stages": NO_STAGES, "width": NO_COUNT[:-1]}


class TestICKD(NamedDistiller):
    name = "ickd"
    wrong_options: ClassVar = {"stage": (*NO_STAGE, None)}


class TestNST(NamedDistiller):
    name = "nst"
    minimum = 0.0
    wrong_options: ClassVar = {"stages": NO_STAGES}


class TestDisWOT(NamedDistiller):
    name = "diswot"
    minimum = 0.0
    wrong_options: ClassVar = {"semantic": NEGATIVE, "relation": NEGATIVE}


class TestDisWOTRelation(NamedDistiller):
    name = "diswot_relation"
    minimum = 0.0


class TestDisWOTSemantic(NamedDistiller):
    name = "diswot_semantic"
    minimum = 0.0


class LastStage(Distiller):
    """One's own: squared difference of the last stages."""

    reads = ("stages",)
    weight = 10.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.connector = nn.Conv2d(setting.student.stages[-1][0], setting.teacher.stages[-1][0], 1)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        first, second = match_grids(self.connector(student.stages[-1]), teacher.stages[-1])
        return (first - second).square().mean()


class TestLastStage(DistillerContract):
    def create(self, setting: Setting, **options: Any) -> Distiller:
        return LastStage(setting, **options)


def test_the_contract_names_what_is_read_without_saying_so() -> None:
    class Forgetful(LastStage):
        reads = ("logits",)

    class Suite(DistillerContract):
        def create(self, setting: Setting, **options: Any) -> Distiller:
            return Forgetful(setting, **options)

    with pytest.raises(AssertionError, match="Forgetful reads stages but does not list it in `reads`"):
        Suite().test_reads_only_what_it_declares()


def test_all_are_registered_and_held_to_the_contract() -> None:
    assert list_distillers()[: len(NAMES)] == list(NAMES)  # other tests may have added their own
    assert {suite.name for suite in NamedDistiller.__subclasses__()} == set(NAMES)


def test_a_distiller_without_a_loss_is_refused() -> None:
    class Forgetful(Distiller):
        """Says nothing."""

    with pytest.raises(ValueError, match="Forgetful has no forward"):
        base.register_distiller("forgetful", Forgetful)
    assert "forgetful" not in list_distillers()


# -- by name and in combination -----------------------------------------------------------------


class Given(Distiller):
    """The mean of the student's logits times an option."""

    def __init__(self, setting: Setting, scale: float = 1.0) -> None:
        super().__init__(setting)
        self.factor = nn.Parameter(torch.tensor(scale))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return self.changed(self.factor * student.logits.mean())

    def changed(self, loss: Tensor) -> Any:
        return loss


class Forwarding(Given):
    """Hands its options on, and needs one of its own."""

    def __init__(self, setting: Setting, shift: float, **options: Any) -> None:
        super().__init__(setting, **options)
        self.shift = shift


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`given` and `forwarding` are known, for one test."""
    known = Registry[type[Distiller]]("distiller")
    for name in list_distillers():
        known.register(name, get_distiller(name))
    monkeypatch.setattr(base, "_DISTILLERS", known)
    base.register_distiller("given", Given)
    base.register_distiller("forwarding", Forwarding)


def given_as(change: Callable[[Tensor], Any], warmup: float = 0.0) -> type[Given]:
    """The same with a loss that is changed so."""
    return type("Changed", (Given,), {"changed": lambda self, loss: change(loss), "warmup": warmup})


@pytest.mark.parametrize("name", ["ce", "total", "val"])
def test_names_of_other_losses_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be .* name other losses"):
        base.register_distiller(name, LastStage)


def test_what_is_read_must_be_a_tuple_of_what_a_network_has() -> None:
    class Forgetful(LastStage):
        reads = "stages"  # type: ignore[assignment]

    class Greedy(LastStage):
        reads = ("stages", "weights")  # type: ignore[assignment]

    for distiller, message in (
        (Forgetful, r"reads is 'stages'; it must be a tuple"),
        (Greedy, "Greedy reads weights;"),
    ):
        with pytest.raises(DistillerError, match=message):
            base.register_distiller("mine", distiller)
        with pytest.raises(DistillerError, match=message):
            distiller(pair_of(DEEP, DEEP)[0])


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("kd", {"kd": 0.9}),
        ("kd + 2*diswot", {"kd": 0.9, "diswot": 2.0}),
        ("1e+1*kd", {"kd": 10.0}),
        ("sp+1.5e+2 * kd+1E+1*at+1e-1*cc", {"sp": 3000.0, "kd": 150.0, "at": 10.0, "cc": 0.1}),
        (["1e+1*kd", "at"], {"kd": 10.0, "at": 1000.0}),
        ({"kd": None, "at": 3, "fitnet": {"stage": -1}}, {"kd": 0.9, "at": 3.0, "fitnet": 100.0}),
    ],
)
def test_weights_are_those_asked_for_or_customary(specification: Any, expected: dict[str, float]) -> None:
    assert {term.name: term.weight for term in parse_distillers(specification)} == expected


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("", "No distiller is given"),
        (" ", "No distiller is given"),
        ([], "No distiller is given"),
        ({}, "No distiller is given"),
        ("kd+", "'' names no distiller"),
        ("kd++at", "'' names no distiller"),
        ("2*", r"'2\*' names no distiller"),
        (["kd", 2], "2 is no distiller; in a list each must be text"),
        (3, "3 names no distillers"),
        ("x*kd", r"'x\*kd' is no distiller with a weight"),
        ("-1*kd", "the weight of kd is -1.0"),
        ({"kd": "2"}, "the weight of kd is '2'"),
        ("kd+kd", "kd is given more than once"),
        ({"kd": {"temprature": 2}}, r"no option 'temprature'; did you mean 'temperature'\? Allowed: temperature"),
        ({"kd": {"wieght": 2}}, r"no option 'wieght'; did you mean 'weight'\? Allowed: temperature, weight"),
        ({"pkt": {"x": 2}}, "no option 'x'; allowed: weight"),
    ],
)
def test_wrong_specifications_are_told(specification: Any, message: str) -> None:
    with pytest.raises(DistillerError, match=message):
        parse_distillers(specification)


def test_unknown_distillers_come_with_near_names() -> None:
    for specification in ("fitnets", {"fitnets": 1}, {3: 1}):
        with pytest.raises(UnknownNameError, match="Unknown distiller"):
            parse_distillers(specification)  # type: ignore[arg-type]


@pytest.mark.usefixtures("registered")
def test_options_may_be_handed_on_and_those_without_a_default_are_needed() -> None:
    with pytest.raises(DistillerError, match="'forwarding' needs the option shift"):
        parse_distillers({"forwarding": {"scale": 2.0}})
    terms = parse_distillers({"forwarding": {"shift": 1, "scale": 2.0}})
    made = Combination(terms, pair_of(DEEP, DEEP)[0]).distillers[0]
    assert isinstance(made, Forwarding)
    assert (made.shift, made.factor.item()) == (1, 2.0)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_counts_nothing_is_not_computed_and_its_connectors_get_zero_gradients(weight: float) -> None:
    base.register_distiller("infinite", given_as(lambda loss: loss * math.inf, warmup=0.5))
    setting, student, teacher = pair_of(DEEP, DEEP)
    combination = Combination(parse_distillers({"infinite": weight, "kd": 2.0}), setting)
    found = combination(student, teacher, batch_of(), progress=0.0)
    torch.stack(list(found.values())).sum().backward()
    assert found["infinite"].item() == 0
    assert found["kd"].isfinite()
    gradients = [parameter.grad for parameter in combination.parameters()]
    assert [gradient is not None and float(gradient) for gradient in gradients] == [0.0]
    later = combination(student, teacher, batch_of(), progress=1.0)["infinite"]
    assert bool(later.isinf()) == (weight > 0)


@pytest.mark.usefixtures("registered")
def test_only_what_counts_is_read_and_lowers_the_cross_entropy() -> None:
    setting, *_ = pair_of(DEEP, DEEP)

    def made(specification: Any) -> tuple[float, tuple[str, ...]]:
        combination = Combination(parse_distillers(specification), setting)
        return combination.ce_weight, combination.reads

    assert made("kd+fitnet") == (0.1, ("logits", "stages"))
    assert made("0*kd+fitnet") == (1.0, ("stages",))
    assert made("0*kd+0*fitnet") == (1.0, ())
    assert Combination(parse_distillers("kd"), setting, ce_weight=0.0).ce_weight == 0
    with pytest.raises(DistillerError, match="nothing is learnt"):
        Combination(parse_distillers("0*kd"), setting, ce_weight=0.0)


@pytest.mark.usefixtures("registered")
def test_a_loss_that_is_no_scalar_is_told_by_name() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    for place, (hook, shown) in enumerate(((lambda loss: loss[None], r"shape \(1,\)"), (Tensor.item, "float"))):
        base.register_distiller(f"odd{place}", given_as(hook))
        combination = Combination(parse_distillers(f"odd{place}"), setting)
        with pytest.raises(DistillerError, match=f"'odd{place}' must be a scalar; it is {shown}"):
            combination(student, teacher, batch_of(), progress=0.0)


@pytest.mark.usefixtures("registered")
def test_what_is_used_without_being_read_is_told_by_name() -> None:
    class Careless(LastStage):
        reads = ("logits",)

    class Broken(Given):
        reads = base.READABLE

        def changed(self, loss: Tensor) -> Any:
            return [][0]

    setting, student, teacher = pair_of(DEEP, DEEP)
    without = replace(student, stages=()), replace(teacher, stages=())
    base.register_distiller("careless", Careless)
    base.register_distiller("broken", Broken)
    with pytest.raises(DistillerError, match=r"'careless' fails \(IndexError: .*\)\. It reads logits, "):
        Combination(parse_distillers("careless"), setting)(*without, batch_of(), progress=0.0)
    with pytest.raises(IndexError, match="list index"):  # which is no matter of what it reads
        Combination(parse_distillers("broken"), setting)(student, teacher, batch_of(), progress=0.0)


@pytest.mark.usefixtures("registered")
def test_a_distiller_may_set_its_numbers_when_it_is_made() -> None:
    class Slow(Given):
        """Warms up as long as its option says."""

        def __init__(self, setting: Setting, share: float = 0.5) -> None:
            super().__init__(setting)
            self.warmup = share  # type: ignore[misc]
            self.ce_weight = share  # type: ignore[misc]
            self.reads = ("logits", "pooled")  # type: ignore[misc]

    base.register_distiller("slow", Slow)
    setting, student, teacher = pair_of(DEEP, DEEP)
    combination = Combination(parse_distillers({"slow": {"share": 0.25}}), setting)
    assert (combination.ce_weight, combination.reads) == (0.25, ("logits", "pooled"))
    half, whole = (combination(student, teacher, batch_of(), p)["slow"] for p in (0.125, 0.25))
    torch.testing.assert_close(half, whole / 2)


# -- stages and grids ---------------------------------------------------------------------------

DEEP = shapes_of("deep", (3, 16, 16), (4, 8, 8), (6, 4, 4))
"""Three stages of more than one position."""


def pair_of(
    student: Shapes, teacher: Shapes, size: int = 4, labels: Tensor | None = None
) -> tuple[Setting, Features, Features]:
    """A setting, and all random features of both."""
    setting = Setting(student, teacher, torch.arange(40) % 5 if labels is None else labels)
    return setting, features_of(student, READABLE, size, 1, learns=True), features_of(teacher, READABLE, size, 2)


def batch_of(size: int = 4) -> Batch:
    indices = torch.arange(size)
    return Batch(torch.rand(size, 3, 8, 8), indices % 5, indices)


def stages_reached(distiller: Callable[..., Tensor], student: Features, teacher: Features) -> list[int]:
    """Stages, counted from the last, that the gradient reaches."""
    distiller(student, teacher, batch_of()).backward()
    pairs = zip(student.stages, student.preactivations, strict=True)
    found = [any(maps.grad is not None and maps.grad.any() for maps in pair) for pair in pairs]
    return [place - len(found) for place, reached in enumerate(found) if reached]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fitnet", {}, [-2]),
        ("fitnet", {"stage": -3}, [-3]),
        ("at", {}, [-3, -2, -1]),
        ("at", {"stages": [-1, -3]}, [-3, -1]),
        ("sp", {}, [-1]),
        ("sp", {"stage": -2}, [-2]),
        ("ickd", {}, [-1]),
        ("ickd", {"stage": -3}, [-3]),
        ("nst", {}, [-3, -2, -1]),
        ("nst", {"stages": [-2]}, [-2]),
        ("vid", {}, [-3, -2, -1]),
        ("vid", {"stages": [-2]}, [-2]),
        ("ofd", {}, [-3, -2, -1]),
        ("ofd", {"stages": [-1]}, [-1]),
        ("reviewkd", {}, [-3, -2, -1]),
        ("reviewkd", {"stages": [-2, -1]}, [-2, -1]),
    ],
)
def test_stages_are_counted_from_the_last(name: str, options: dict[str, Any], expected: list[int]) -> None:
    setting, student, teacher = pair_of(DEEP, shapes_of("deeper", (2, 32, 32), *DEEP.stages))
    assert stages_reached(get_distiller(name)(setting, **options), student, teacher) == expected


@pytest.mark.parametrize(("count", "middle"), [(1, -1), (2, -1), (3, -2), (4, -2), (5, -3)])
def test_hint_is_the_middle_stage(count: int, middle: int) -> None:
    shapes = shapes_of("net", *[(4, 2, 2)] * count)
    assert FitNet(Setting(shapes, shapes, torch.arange(4))).stage == middle


def test_stages_of_one_position_have_no_patterns() -> None:
    narrow = shapes_of("narrow", (3, 8, 8), (4, 2, 2), (6, 1, 1))
    setting, _, teacher = pair_of(narrow, DEEP)
    point = shapes_of("point", (6, 1, 1))
    for name in ("nst", "at"):
        make: Any = get_distiller(name)
        student = pair_of(narrow, DEEP)[1]  # whose gradients are still to come
        assert stages_reached(make(setting), student, teacher) == [-3, -2]
        with pytest.raises(DistillerError, match="one position only in narrow or deep"):
            make(setting, stages=[-1])
        with pytest.raises(DistillerError, match="one position only in deep or point"):
            get_distiller(name)(Setting(DEEP, point, torch.arange(4)))
        with pytest.raises(DistillerError, match=f"'{name}' cannot be made: Patterns .* one position only"):
            Combination(parse_distillers(name), Setting(DEEP, point, torch.arange(4)))


def test_wrong_stages_name_those_that_both_have() -> None:
    setting, *_ = pair_of(shapes_of("short", (4, 8, 8), (6, 4, 4)), DEEP)
    for name, options in (("fitnet", {"stage": -3}), ("at", {"stages": [-3]})):
        with pytest.raises(DistillerError, match="short and deep both have -1, -2"):
            get_distiller(name)(setting, **options)


def test_options_come_with_the_specification() -> None:
    setting, *_ = pair_of(DEEP, DEEP)
    combination = Combination(parse_distillers({"fitnet": {"weight": 3, "stage": -1}, "kd": None}), setting)
    fitnet = combination.distillers[0]
    assert isinstance(fitnet, FitNet)
    assert fitnet.stage == -1
    with pytest.raises(DistillerError, match="Allowed: stages, initial_variance, weight"):
        parse_distillers({"vid": {"stage": -1}})


@few
@given(st.lists(st.integers(1, 3), min_size=2, max_size=2), st.lists(st.integers(1, 3), min_size=2, max_size=2))
def test_the_larger_grid_is_averaged(grid: list[int], times: list[int]) -> None:
    height, width = grid
    small, large = torch.randn(2, 3, height, width), torch.randn(2, 5, height * times[0], width * times[1])
    for first, second in (match_grids(small, large), match_grids(large, small)[::-1]):
        assert torch.equal(first, small)
        cells = large.reshape(2, 5, height, times[0], width, times[1])
        torch.testing.assert_close(second, cells.mean((3, 5)))


def test_a_column_of_tokens_is_compared_with_rows() -> None:
    first, second = match_grids(torch.randn(2, 3, 10, 1), maps := torch.randn(2, 3, 4, 4))
    assert first.shape == second.shape == (2, 3, 4, 1)
    torch.testing.assert_close(second, maps.mean(3, keepdim=True))


# -- what each distiller computes ---------------------------------------------------------------


@pytest.mark.parametrize(("name", "loss"), [("at", losses.at_loss), ("nst", losses.nst_loss)])
def test_patterns_are_summed_over_stages(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    pairs = zip(student.stages, teacher.stages, strict=True)
    expected = sum(loss(first.flatten(2), second.flatten(2)) for first, second in pairs)
    torch.testing.assert_close(get_distiller(name)(setting)(student, teacher, batch_of()), expected)


def test_mixed_images_count_as_their_largest_class() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    batch = batch_of()
    mixed = replace(batch, targets=torch.full((4, 5), 0.2))
    expected = losses.dkd_loss(student.logits, teacher.logits, batch.labels, 1, 8, 4)
    torch.testing.assert_close(DKD(setting)(student, teacher, mixed), expected)


@pytest.mark.parametrize("variance", [1e-3, 3.0, 1e3])
def test_variance_of_the_teacher_starts_as_asked(variance: float) -> None:
    setting, *_ = pair_of(DEEP, DEEP)
    for raw in VID(setting, initial_variance=variance).raw_variances:
        torch.testing.assert_close(F.softplus(raw), torch.full_like(raw, variance))


def test_margin_is_that_of_the_normalisation_or_of_the_batch() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP, size=8)
    norms: Any = (None, torch.stack([torch.full((4,), 0.5), torch.full((4,), 2.0)]), None)
    distiller = OFD(replace(setting, norms=norms))
    expected: Any = 0.0
    for stage, factor in ((-3, 0.25), (-2, 0.5), (-1, 1.0)):
        maps = teacher.preactivations[stage]
        if stage == -2:
            margin = losses.ofd_margin(*norms[1])
        else:
            margin = torch.stack([channel[channel < 0].mean() for channel in maps.unbind(1)])
        connected = distiller.connectors[stage](student.preactivations[stage])
        expected += factor * losses.ofd_loss(connected, maps, margin)
    torch.testing.assert_close(distiller(student, teacher, batch_of(8)), torch.as_tensor(expected))


def test_margin_without_negative_responses_is_zero() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    positive = replace(teacher, preactivations=tuple(maps.abs() for maps in teacher.preactivations))
    distiller = OFD(setting, stages=[-1])
    connected = distiller.connectors[0](student.preactivations[-1])
    expected = losses.ofd_loss(connected, positive.preactivations[-1], torch.zeros(6))
    torch.testing.assert_close(distiller(student, positive, batch_of()), expected)


def test_review_goes_from_the_pooled_features_to_the_first_stage() -> None:
    setting, student, teacher = pair_of(DEEP, shapes_of("wide", (5, 8, 8), (6, 8, 8), (7, 4, 4)))
    distiller = ReviewKD(setting, width=4)
    own, wanted = ([required(each.pooled)[:, :, None, None], *each.preactivations[::-1]] for each in (student, teacher))
    expected: Any = 0.0
    later = None
    fusions: Any = distiller.fusions
    for fusion, stage, target in zip(fusions, own, wanted, strict=True):
        fused = fusion.reduce(stage)
        if later is not None:
            later = F.interpolate(later, fused.shape[2:])
            weights = torch.sigmoid(fusion.attend[0](torch.cat([fused, later], 1)))
            fused = weights[:, [0]] * fused + weights[:, [1]] * later
        expected += losses.reviewkd_loss(match_grids(fusion.expand(fused), target)[0], target)
        later = fused
    torch.testing.assert_close(distiller(student, teacher, batch_of()), torch.as_tensor(expected))


@pytest.mark.parametrize(("width", "option", "expected"), [(20, None, 20), (600, None, 512), (20, 4, 4)])
def test_a_review_passes_on_as_much_as_the_student_is_wide(width: int, option: int | None, expected: int) -> None:
    student = shapes_of("student", (width, 8, 8), (6, 4, 4))
    fusions: Any = ReviewKD(Setting(student, DEEP, torch.arange(4)), width=option).fusions
    assert {fusion.reduce[0].out_channels for fusion in fusions} == {expected}


def test_convolutions_of_a_review_start_with_unit_gain() -> None:
    for layer in AttentionFusion(40, 50, 60, last=True).modules():
        if isinstance(layer, nn.Conv2d):
            # Weights are even between bounds that keep the variance of what comes in; of over a thousand weights, the
            # largest is nearer to the bound than 1 % but for a chance of 1e-9.
            bound = math.sqrt(3 / layer.weight[0].numel())
            assert 0.99 * bound < layer.weight.abs().max().item() <= bound


def test_one_value_is_normalised_by_the_running_statistics() -> None:
    connector = conv_connector(3, 4)
    for _ in range(5):
        connector(torch.randn(8, 3, 2, 2))
    one = torch.randn(1, 3, 1, 1)
    before = copy.deepcopy(connector.state_dict())
    learning = connector(one)
    assert all(torch.equal(values, before[name]) for name, values in connector.state_dict().items())
    torch.testing.assert_close(learning, connector.eval()(one))


def test_buffers_have_names_without_signs() -> None:
    setting, *_ = pair_of(DEEP, DEEP)
    norms = (None, torch.ones(2, 4), torch.ones(2, 6))
    names = [name for name, _ in OFD(replace(setting, norms=norms), stages=[-2, -1]).named_buffers()]
    assert [name for name in names if "margin" in name] == ["margins.0.value", "margins.1.value"]


def test_diswot_adds_its_two_terms() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    semantic, relation = (
        get_distiller(f"diswot_{term}")(setting)(student, teacher, batch_of()) for term in ("semantic", "relation")
    )
    both = DisWOT(setting, semantic=3, relation=0.5)(student, teacher, batch_of())
    torch.testing.assert_close(both, 3 * semantic + 0.5 * relation)


def test_terms_of_diswot_are_the_squares_of_its_proxies_distances() -> None:
    setting, student, teacher = pair_of(DEEP, shapes_of("wide", (9, 4, 4)))
    grams = []
    for each in (student, teacher):
        maps = torch.einsum("nc,bchw->nbhw", each.weight, each.features).flatten(1)
        grams.append(
            (
                maps @ maps.T / (maps @ maps.T).norm(),
                similarities.frobenius_normalise(similarities.sample_gram(required(each.features))),
            )
        )
    for name, first, second in zip(("semantic", "relation"), *grams, strict=True):
        found = get_distiller(f"diswot_{name}")(setting)(student, teacher, batch_of())
        torch.testing.assert_close(found, (first - second).square().sum())


def test_classes_without_maps_are_compared_by_their_scores() -> None:
    setting, student, teacher = pair_of(DEEP, shapes_of("head", (6, 4, 4), pooled=10))
    scores = [required(each.weight) @ required(each.pooled).T for each in (student, teacher)]
    first, second = (similarities.frobenius_normalise(rows @ rows.T) for rows in scores)
    found = get_distiller("diswot_semantic")(setting)(student, teacher, batch_of())
    torch.testing.assert_close(found, (first - second).square().sum())


@pytest.mark.parametrize("name", ["diswot", "diswot_semantic"])
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(DistillerError, match=re.escape("has 5 classes and the teacher other has 7")):
        get_distiller(name)(Setting(DEEP, shapes_of("other", (6, 4, 4), classes=7), torch.arange(4)))


def test_features_that_were_not_read_are_missed() -> None:
    setting, student, teacher = pair_of(DEEP, DEEP)
    with pytest.raises(DistillerError, match="lack"):
        get_distiller("rkd")(setting)(replace(student, pooled=None), teacher, batch_of())


# -- contrast with a memory ---------------------------------------------------------------------

UNEVEN = torch.tensor([1] * 5 + [2] * 3 + [4] * 12)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
"""Labels of 20 samples in no order, 12 of them of one class."""
HIDDEN = 5
"""The label of samples whose class, one of five, is hidden."""


def contrast(**options: Any) -> tuple[CRD, Features, Features]:
    setting, student, teacher = pair_of(DEEP, shapes_of("wide", (9, 4, 4)), labels=UNEVEN)
    return CRD(setting, width=8, **options), student, teacher


def test_negatives_are_of_other_classes_and_all_as_likely() -> None:
    draw = OtherClasses(UNEVEN, 5)
    assert draw.fewest == 8
    indices = torch.arange(20)
    drawn = draw(indices, 2000)
    assert (UNEVEN[drawn] != UNEVEN[indices, None]).all()
    for sample, row in zip(indices, drawn, strict=True):
        counts = row.bincount(minlength=20)[UNEVEN[sample] != UNEVEN].double()
        # Binomial with at least 2000 / 17 expected: its relative deviation is below 9.3 %, and six of them are allowed.
        assert ((counts / counts.mean() - 1).abs() < 6 * counts.mean() ** -0.5).all()


def test_loss_is_that_of_each_sample_against_its_draws() -> None:
    distiller, student, teacher = contrast(negatives=5, temperature=0.2)
    batch = batch_of()
    embeddings = [
        F.normalize(layer(features.pooled), dim=1).detach()
        for layer, features in ((distiller.student_projection, student), (distiller.teacher_projection, teacher))
    ]
    memories = distiller.teacher_memory.clone(), distiller.student_memory.clone()
    torch.manual_seed(3)
    drawn = distiller.draw(batch.indices, 5)
    expected: Any = 0.0
    for embedding, memory in zip(embeddings, memories, strict=True):
        rows = [[float(embedding[i] @ memory[j]) for j in (i, *drawn[i].tolist())] for i in range(4)]
        expected += losses.contrastive_loss(torch.tensor(rows), width=8, temperature=0.2)
    torch.manual_seed(3)
    found = distiller(student, teacher, batch)
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected))


def test_memory_moves_towards_the_embeddings_of_the_batch() -> None:
    distiller, student, teacher = contrast(momentum=0.75)
    batch = replace(batch_of(), indices=torch.tensor([11, 3, 0, 17]), targets=torch.full((4, 5), 0.2))
    before = distiller.student_memory.clone()
    distiller(student, teacher, batch)
    new = F.normalize(distiller.student_projection(student.pooled), dim=1)
    expected = before.clone()
    expected[batch.indices] = F.normalize(0.75 * before[batch.indices] + 0.25 * new.detach(), dim=1)
    torch.testing.assert_close(distiller.student_memory, expected)
    assert not torch.equal(distiller.student_memory, before)


def test_negatives_are_at_most_what_there_is() -> None:
    assert contrast()[0].negatives == 8
    assert contrast(negatives=3)[0].negatives == 3
    with pytest.raises(DistillerError, match="at least 2 classes; there are 9 labelled samples, of 1"):
        CRD(Setting(DEEP, DEEP, torch.zeros(9, dtype=torch.int64)))


@few
@given(st.lists(st.integers(0, HIDDEN), min_size=2, max_size=30), st.integers(0, 2**32))
def test_samples_whose_class_is_hidden_are_never_drawn(classes: list[int], seed: int) -> None:
    labels, known = torch.tensor(classes), {place for place, label in enumerate(classes) if label != HIDDEN}
    others = {place: {other for other in known if classes[other] != classes[place]} for place in known}
    if len({classes[place] for place in known}) < 2:
        with pytest.raises(DistillerError, match=f"there are {len(known)} labelled samples"):
            OtherClasses(labels, HIDDEN)
        return
    draw = OtherClasses(labels, HIDDEN)
    assert draw.fewest == min(map(len, others.values()))
    torch.manual_seed(seed)
    drawn = draw(torch.tensor(sorted(known)), 1000)
    # Each of at most 29 is missed by a row with probability below (1 - 1 / 29) ^ 1000 < 1e-15.
    assert [set(row) for row in drawn.tolist()] == [others[place] for place in sorted(known)]


def test_few_labels_among_many_images_are_contrasted_with_what_is_learnt() -> None:
    """Two networks' embeddings of the same ten samples come to agree, whatever else there is without a label."""
    features = torch.randn(10, DEEP.pooled or 0, generator=torch.Generator().manual_seed(0))
    student, teacher = (Features(torch.zeros(10, 5), pooled=pooled) for pooled in (features, features.flip(1)))
    places, classes = torch.arange(0, 1000, 100), torch.arange(10) % 5
    labels = torch.full((1000,), HIDDEN).scatter(0, places, classes)
    distiller = CRD(Setting(DEEP, DEEP, labels), width=8)
    assert distiller.negatives == 8
    before = distiller.teacher_memory.clone()
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)

    def gap() -> float:
        """How much nearer a sample is to its own place of the memory than to those of other classes."""
        with torch.no_grad():
            cosines = distiller.student_projection(features) @ distiller.teacher_memory[places].T
        return float(cosines.diagonal().mean() - cosines[classes[:, None] != classes].mean())

    start = gap()
    for _ in range(60):
        optimizer.zero_grad()
        distiller(student, teacher, Batch(torch.zeros(10, 3, 8, 8), classes, places)).backward()
        optimizer.step()
    assert gap() > start + 0.5
    changed = (distiller.teacher_memory != before).any(1).nonzero().flatten()
    assert torch.equal(changed, places)


def memories_of(rank: int, world: int, store: str) -> list[list[list[float]]]:
    """The memories after a step, of this process's share of the batch."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    shapes = shapes_of("net", (6, 1, 1))
    torch.manual_seed(0)
    distiller = CRD(Setting(shapes, shapes, torch.arange(12) % 3), width=4)
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    pooled = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
    student, teacher = (Features(torch.zeros(0), features[share]) for features in pooled)
    indices = torch.tensor([5, 1, 0, 11, 7, 2, 9, 4])[share]
    distiller(student, teacher, replace(batch_of(), indices=indices))
    if world > 1:
        torch.distributed.destroy_process_group()
    return [distiller.student_memory.tolist(), distiller.teacher_memory.tolist()]


@pytest.mark.faults
def test_processes_keep_one_memory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.distillation.distillers", "timm"])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        started = [pool.submit(memories_of, rank, 2, str(tmp_path / "store")) for rank in (0, 1)]
        first, second = (torch.tensor(process.result()) for process in started)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor(memories_of(0, 1, "")))


def test_what_processes_keep_equal_themselves_is_sent_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, list[int]] = {}

    def keep(module: nn.Module, names: list[str]) -> None:
        kept.update({name: [*module.get_buffer(name).shape] for name in names})

    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_set_params_and_buffers_to_ignore_for_model", keep)
    parts = [(torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 4) for _ in range(3)]
    splits = Splits.from_arrays(*parts)
    options: dict[str, Any] = {"student_options": {"arch": "1x8-1x8"}, "teacher_options": {"arch": "1x8-1x8"}}
    crd = {"kd": None, "crd": {"width": 4, "negatives": 4}}
    distill("cifar_resnet", "cifar_resnet", splits, distiller=crd, epochs=1, batch_size=20, progress=False, **options)
    sizes = {name.removeprefix("combination.distillers.1."): shape for name, shape in kept.items()}
    assert set(sizes) == set(CRD.own_buffers)
    assert [sizes["student_memory"], sizes["teacher_memory"]] == [[40, 4], [40, 4]]


# -- real networks ------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"arch": "1-1-1"},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
}
PAIRS = [
    ("cifar_resnet", "cifar_resnet20"),
    ("cifar_resnet", "vit_tiny_patch16_224"),
    ("vit_tiny_patch16_224", "cifar_resnet"),
    ("convnext_atto", "mobilenetv3_small_050"),
    ("mobilenetv3_small_050", "regnetx_002"),
    ("regnetx_002", "convnext_atto"),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_real_networks_learn_from_each_other(student: str, teacher: str) -> None:
    images = torch.randn(4, 3, 32, 32)
    learner, master = (timm.create_model(name, num_classes=5, **OPTIONS.get(name, {})) for name in (student, teacher))
    readers = FeatureReader(learner.train(), images, student), FeatureReader(master.eval(), images, teacher)
    setting = Setting(readers[0].shapes, readers[1].shapes, torch.arange(40) % 5, readers[1].norms)
    combination = Combination(parse_distillers(NAMES), setting)
    for reader in readers:
        reader.want(combination.reads)
    with torch.no_grad():
        known = readers[1].read(images)
    losses = combination(readers[0].read(images), known, batch_of(), progress=0.5)
    torch.stack(list(losses.values())).sum().backward()
    assert list(losses) == list(NAMES)
    for name, loss in losses.items():
        assert loss.isfinite(), name
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert required(
        next(learner.parameters()).grad
    ).any()  # of the first layer: some others are behind a factor of zero
    assert all(p.grad is not None for p in combination.parameters())
