"""Banks of teachers: what a search says against several is the weighted mean of what it says against each."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import diswot_search as ds
from diswot_search.cli import main
from diswot_search.networks.network import Network, TeacherBank, create_teacher
from diswot_search.networks.recipes import ChangedRecipe
from diswot_search.proxies import registry
from diswot_search.proxies.proxy import Proxy
from diswot_search.proxies.registry import create_aggregate, get_proxy
from diswot_search.readings.core import Readings
from diswot_search.reports.study import plot_front
from diswot_search.study.evaluator import Evaluator
from diswot_search.study.records import Record, Score
from search_spaces import Architecture, CifarResNetSpace, SearchSpace, create_space

WEIGHTS = (0.5, 0.2, 0.3)
REL = 1e-12
"""The numbers that are added are the same, in another order: all that may differ are the last bits of float64."""


SPACE: dict[str, Any] = {
    "num_classes": 4,
    "input_size": (3, 8, 8),
    "depths": ((1, 2), (1, 2)),
    "widths": ((4, 6), 8),
    "stem": 4,
}
"""Options of a space of eight small networks."""


def make_space() -> SearchSpace:
    return create_space("cifar_resnet", **SPACE)


def make_probe(seed: int = 0) -> ds.Probe:
    return ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4, seed=seed)


def random_teacher(**options: Any) -> Network:
    arguments: dict[str, Any] = {"arch": "1x4-1x8", "num_classes": 4} | options
    return create_teacher("cifar_resnet", **arguments)


def trained_teacher() -> Network:
    """Its batch normalisation has seen images, and uses what it has seen."""
    model = random_teacher(arch="1x4-2x8").build(3)
    model(make_probe(9).images)
    return create_teacher(model, trained=True)


def enlarged(probe: ds.Probe) -> ds.Probe:
    images = F.interpolate(probe.images, size=(12, 12), mode="bilinear", antialias=True)
    return ds.Probe.from_tensors(images, probe.labels, probe.num_classes)


def converted(teacher: Network) -> Network:
    return replace(teacher, name="enlarged", settings={"conversion": "12x12"}, conversion=enlarged)


def make_bank(weights: Sequence[float] = WEIGHTS) -> TeacherBank:
    """A random teacher, one with trained statistics, and one that sees larger images."""
    return TeacherBank((random_teacher(), trained_teacher(), converted(random_teacher(arch="1x6-1x8"))), tuple(weights))


def without_seconds(study: ds.Study) -> list[Record]:
    return [replace(record, seconds=0.0) for record in study.records]


def evaluator_of(teacher: Network | TeacherBank | None, **options: Any) -> Evaluator:
    about: dict[str, Any] = {"space": make_space(), "probes": make_probe(), "proxy": "diswot", "device": "cpu"}
    arguments = about | options
    return Evaluator(teacher=teacher, **arguments)


def evaluate(teacher: Network | TeacherBank, architecture: Architecture, **options: Any) -> Score:
    (score,) = evaluator_of(teacher, **options).evaluate([architecture])
    return replace(score, seconds=0.0)


# -- the weighted mean --------------------------------------------------------------------------

SEEDS = (4, 5)


def by_hand(name: str, architecture: Architecture, bank: TeacherBank, probes: Sequence[ds.Probe]) -> list[float]:
    """The value of a proxy for each seed and probe, each pair of student and teacher by itself."""
    reader = Evaluator(make_space(), None, probes, "params", device="cpu")
    proxy = get_proxy(name)
    assert isinstance(proxy, Proxy)
    values = []
    for seed in SEEDS:
        for index, probe in enumerate(probes):
            value = 0.0
            for teacher, weight in zip(bank.teachers, bank.weights, strict=True):
                seen = probe if teacher.conversion is None else enlarged(probe)
                model = teacher.build(0 if teacher.trained else seed)
                readings = Readings(lambda model=model: model, seen, trained=teacher.trained)  # type: ignore[misc]
                value += weight * proxy(reader.read_student(architecture, seed, index), readings)
            values.append(value)
    return values


@pytest.mark.parametrize("proxy", ["diswot", "relation", "kd", "sp", "l2_norm", "params"])
def test_a_search_against_a_bank_gives_the_weighted_means_of_separate_ones(proxy: str) -> None:
    probes, bank = [make_probe(0), make_probe(1)], make_bank()
    options: Any = {
        "algorithm": "exhaustive",
        "proxy": proxy,
        "seed": SEEDS[0],
        "weight_draws": len(SEEDS),
        "device": "cpu",
    }
    together = list(ds.search(make_space(), bank, probes, **options).records)
    assert len(together) == 8
    separate = [list(ds.search(make_space(), teacher, probes, **options).records) for teacher in bank.teachers]
    for record, *singles in zip(together, *separate, strict=True):
        assert record.score == pytest.approx(sum(w * s.score for w, s in zip(WEIGHTS, singles, strict=True)), rel=REL)
        for term, value in record.parts.items():
            weighted = sum(w * s.parts[term] for w, s in zip(WEIGHTS, singles, strict=True))
            assert value == pytest.approx(weighted, rel=REL)
        if proxy not in ("l2_norm", "params"):
            assert len({single.score for single in singles}) == 3


@pytest.mark.parametrize("proxy", ["diswot", "kd", "l2_norm"])
def test_score_spread_and_parts_are_those_computed_pair_by_pair(proxy: str) -> None:
    space, probes, bank = make_space(), [make_probe(0), make_probe(1)], make_bank()
    evaluator = Evaluator(space, bank, probes, proxy, seeds=SEEDS, device="cpu")
    for architecture in list(space)[::3]:
        evaluation, expected = evaluator.evaluate([architecture])[0], by_hand(proxy, architecture, bank, probes)
        assert evaluation.score == pytest.approx(fmean(expected), rel=REL)
        # A spread is a difference of numbers that are a thousand times larger, at most.
        assert evaluation.score_std == pytest.approx(pstdev(expected), rel=1e3 * REL)
        assert evaluation.score_std
        for term, value in evaluation.parts.items():
            assert value == pytest.approx(fmean(by_hand(term, architecture, bank, probes)), rel=REL)


def test_an_aggregate_ranks_the_weighted_means_of_its_members() -> None:
    members = ["relation", "kd", "macs"]
    bank, probe = make_bank(), make_probe()
    options: Any = {"algorithm": "exhaustive", "device": "cpu"}
    study = ds.search(make_space(), bank, probe, proxy=f"log_rank({', '.join(members)})", **options)
    values = {
        name: [
            sum(w * r.score for w, r in zip(WEIGHTS, of_one, strict=True))
            for of_one in zip(
                *(ds.search(make_space(), teacher, probe, proxy=name, **options).records for teacher in bank.teachers),
                strict=True,
            )
        ]
        for name in members
    }
    records = list(study.records)
    for name in members:
        assert [record.parts[name] for record in records] == pytest.approx(values[name], rel=REL)
    assert [record.score for record in records] == create_aggregate(members).combine(values).tolist()


@given(st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any), st.permutations(range(3)))
@settings(max_examples=15)
def test_any_weights_in_any_order(shares: list[int], order: list[int]) -> None:
    architecture = list(make_space())[5]
    teachers = make_bank().teachers
    weights = [share / sum(shares) for share in shares]
    singles = [evaluate(teacher, architecture).score for teacher in teachers]
    expected = sum(weight * score for weight, score in zip(weights, singles, strict=True) if score is not None)
    bank = TeacherBank(teachers, tuple(weights))
    other = TeacherBank(tuple(teachers[i] for i in order), tuple(weights[i] for i in order))
    assert evaluate(bank, architecture).score == pytest.approx(expected, rel=REL)
    assert evaluate(other, architecture) == evaluate(bank, architecture)
    assert evaluator_of(other).config() == evaluator_of(bank).config()


@pytest.mark.parametrize("which", range(3))
def test_a_bank_of_one_teacher_is_that_teacher(which: int) -> None:
    def never() -> nn.Module:
        raise AssertionError("a teacher of weight zero was built")

    alone = make_bank().teachers[which]
    absent = Network.from_factory("absent", never, trained=True)
    banks = [TeacherBank((alone,), (1.0,)), TeacherBank((absent, alone), (0.0, 1.0))]
    for bank in banks:
        assert (bank.name, bank.trained, bank.config()) == (alone.name, alone.trained, alone.config())
        assert evaluator_of(bank).config() == evaluator_of(alone).config()
        for architecture in list(make_space())[:3]:
            assert evaluate(bank, architecture, seeds=(0, 1)) == evaluate(alone, architecture, seeds=(0, 1))


def test_a_teacher_of_weight_zero_changes_nothing() -> None:
    bank = make_bank()
    more = TeacherBank((random_teacher(arch="1x4-1x4"), *bank.teachers), (0, *bank.weights))
    architecture = list(make_space())[2]
    assert evaluate(more, architecture) == evaluate(bank, architecture)
    assert evaluator_of(more).config() == evaluator_of(bank).config()


# -- how often ----------------------------------------------------------------------------------


class CountingSpace(CifarResNetSpace):
    """Counts the networks that it builds."""

    built = 0

    def build(self, architecture: Architecture) -> nn.Module:
        self.built += 1
        return super().build(architecture)


@dataclass(frozen=True)
class Counted(ChangedRecipe):
    """Counts how often the network of a name is built."""

    name: str
    built: dict[str, int]

    def build(self) -> nn.Module:
        self.built[self.name] = self.built.get(self.name, 0) + 1
        return self.recipe.build()


def counted(teacher: Network, built: dict[str, int]) -> Network:
    return replace(teacher, recipe=Counted(teacher.recipe, teacher.name, built))


def test_students_are_read_once_for_all_teachers_and_each_teacher_once_for_all_students() -> None:
    space = CountingSpace(**SPACE)
    built: dict[str, int] = {}
    bank = make_bank()
    teachers = tuple(
        counted(replace(teacher, name=name), built) for name, teacher in zip("abc", bank.teachers, strict=True)
    )
    evaluator = Evaluator(
        space, TeacherBank(teachers, WEIGHTS), [make_probe(0), make_probe(1)], seeds=(0, 1), device="cpu"
    )
    for number, architecture in enumerate(list(space)[:3], start=1):
        assert evaluator.evaluate([architecture])[0].status == "ok"
        assert space.built == number * 4  # seeds x probes
    assert built == {"a": 4, "b": 2, "c": 4}  # what is trained does not depend on the seed


@pytest.mark.parametrize(("needs_teacher", "expected"), [(True, ["a teacher"] * 3), (False, ["nobody"])])
def test_what_needs_no_teacher_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, needs_teacher: bool, expected: list[str]
) -> None:
    calls: list[str] = []

    def watch(student: ds.Readings, teacher: ds.Readings | None) -> float:
        calls.append("nobody" if teacher is None else "a teacher")
        return 1.0

    monkeypatch.setattr(registry._PROXIES, "_entries", dict(registry._PROXIES._entries))
    ds.register_proxy("watch", watch, needs_teacher=needs_teacher)
    for proxy, times in (("watch", expected), ("log_rank(watch, kd)", expected), (watch, ["a teacher"] * 3)):
        calls.clear()  # a function that is not registered may use the teacher, whatever is said of it
        evaluation = evaluate(make_bank(), next(iter(make_space())), proxy=proxy)
        assert evaluation.status == "ok", evaluation.reason
        assert calls == times


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_failure_names_the_teacher() -> None:
    def fails_against_the_enlarged(student: ds.Readings, teacher: ds.Readings | None) -> float:
        assert teacher is not None
        return answers[teacher.probe.input_size[1]]()

    answers: dict[int, Any] = {8: lambda: 1.0, 12: lambda: float("nan")}
    architecture = next(iter(make_space()))
    evaluation = evaluate(make_bank(), architecture, proxy=fails_against_the_enlarged)
    assert evaluation == Score("failed", reason="against enlarged: the score is nan")
    answers[12] = lambda: 1 / 0
    evaluation = evaluate(make_bank(), architecture, proxy=fails_against_the_enlarged)
    assert evaluation.reason == "against enlarged: ZeroDivisionError: division by zero"
    member = Proxy("member", fails_against_the_enlarged, needs_teacher=True, summary="")
    evaluation = evaluate(make_bank(), architecture, proxy=create_aggregate(["kd", member]))
    assert evaluation.reason == "member: against enlarged: ZeroDivisionError: division by zero"


def test_teachers_of_other_classes_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    mixed = TeacherBank((random_teacher(), random_teacher(num_classes=7, arch="1x6-1x8")), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"'cifar_resnet' has 7 classes, but the probe 'noise' has 4; .*a classifier"):
        ds.search(make_space(), mixed, make_probe(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    alone = TeacherBank(mixed.teachers, (0, 1))
    assert ds.search(make_space(), alone, make_probe(), algorithm="random", evaluations=1).winner.score


def test_a_probe_that_a_teacher_cannot_convert_is_refused() -> None:
    def refuse(probe: ds.Probe) -> ds.Probe:
        raise ValueError("colour images are not made grey")

    grey = replace(random_teacher(), name="grey", conversion=refuse)
    bank = TeacherBank((random_teacher(), grey), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"'grey' cannot be read on the probe 'noise' .*: colour images are not"):
        ds.search(make_space(), bank, make_probe())


def test_one_teachers_readings_are_not_asked_of_several() -> None:
    with pytest.raises(ValueError, match="3 teachers; `read_teachers` reads them all"):
        evaluator_of(make_bank()).read_teacher(0, 0)


@pytest.mark.parametrize("role", ["teacher", "other_teacher"])
def test_a_comparison_has_one_teacher(role: str) -> None:
    space = make_space()
    table = ds.AccuracyTable("mine", "accuracy", {str(architecture): 50.0 + i for i, architecture in enumerate(space)})
    teachers: Any = {"teacher": random_teacher(), role: make_bank()}
    with pytest.raises(ValueError, match="A comparison has one teacher; compare with each of the bank"):
        ds.compare(space, "kd", table, make_probe(), controls=True, **teachers)


# -- studies ------------------------------------------------------------------------------------


def search_bank(out: Path | None, bank: TeacherBank | None = None, **options: Any) -> ds.Study:
    torch.set_num_threads(1)
    arguments: dict[str, Any] = {"seed": 3, "evaluations": 6, "algorithm": "random", "device": "cpu"} | options
    return ds.search(make_space(), bank or make_bank(), make_probe(), out=out, **{"proxy": "diswot"} | arguments)


def search_and_hang(out: Path) -> None:
    """Search, and never end the third evaluation."""
    evaluate, count = Evaluator.evaluate, itertools.count()

    def evaluate_or_hang(self: Evaluator, architectures: Sequence[Architecture]) -> list[Score]:
        if next(count) == 2:
            time.sleep(600)
        return evaluate(self, architectures)

    Evaluator.evaluate = evaluate_or_hang  # type: ignore[method-assign]
    search_bank(out)


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_search_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=search_and_hang, args=(tmp_path / "killed",))
    process.start()
    while process.is_alive() and evaluations_in(tmp_path / "killed") < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert evaluations_in(tmp_path / "killed") == 2
    resumed, whole = search_bank(tmp_path / "killed"), search_bank(None)
    assert resumed.config == whole.config
    assert without_seconds(resumed) == without_seconds(whole)


def evaluations_in(out: Path) -> int:
    try:
        return len(ds.Study.load(out))
    except ds.RunFolderError:
        return 0


def test_a_study_belongs_to_its_bank_in_any_order(tmp_path: Path) -> None:
    bank, out = make_bank(), tmp_path / "run"
    search_bank(out, bank, evaluations=2)
    turned = TeacherBank(bank.teachers[::-1], bank.weights[::-1])
    more = TeacherBank((random_teacher(arch="1x4-1x4"), *bank.teachers), (0, *bank.weights))
    for same in (turned, more):
        assert len(search_bank(out, same, evaluations=3)) == 3
    with pytest.raises(ds.RunFolderError, match=r"teacher\.teachers\.0\.weight is 0\.5 there, 0\.6 here"):
        search_bank(out, make_bank((0.6, 0.1, 0.3)), evaluations=3)
    with pytest.raises(ds.RunFolderError, match=r"teacher\.teachers"):
        search_bank(out, TeacherBank(bank.teachers[:1], (1.0,)), evaluations=3)


def test_nsga2_weighs_the_mean_against_the_cost() -> None:
    study = search_bank(None, algorithm="nsga2", algorithm_options={"population": 4}, evaluations=8)
    evaluator = evaluator_of(make_bank(), seeds=(3,))
    for record in study.records:
        assert record.score == evaluator.evaluate([study.space.parse(record.architecture)])[0].score
    assert study.front


def test_what_people_read_of_a_study_names_the_teachers_and_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = search_bank(tmp_path / "run", evaluations=2)
    expected = [("cifar_resnet", 0.5), ("enlarged", 0.3), ("CifarResNet", 0.2)]
    assert study.teachers == expected
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["teachers"] == [{"name": name, "weight": weight} for name, weight in expected]
    assert study.config["teacher"]["name"] == "0.5 cifar_resnet + 0.3 enlarged + 0.2 CifarResNet"
    assert "3 teachers" in plot_front(study).get_suptitle()
    assert main(["show", str(tmp_path / "run")]) == 0
    line = "teachers: cifar_resnet (weight 0.5), enlarged (weight 0.3), CifarResNet (weight 0.2)"
    assert line in " ".join(capsys.readouterr().out.split())
