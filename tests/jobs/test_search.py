"""The search: what it checks, what it finds, and that nothing stops it from ending where it would have ended."""

from __future__ import annotations

import csv
import gc
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import diswot_search as ds
from diswot_search.reports.progress import SearchProgress
from diswot_search.reports.study import describe_study, format_table
from diswot_search.study.evaluator import Evaluator
from diswot_search.study.records import Record, Score
from search_spaces import Architecture, CifarResNetSpace, Cost, SearchSpace, create_space
from search_spaces.cost import count_cost_of

from ..killing import killed_when
from ..searching import create_search

SMALL = {"channels": 4, "cells": 1}
"""Options that make NAS-Bench-201 small enough for tests."""


@pytest.fixture(scope="module")
def probe() -> ds.Probe:
    return ds.create_probe(batch_size=8)


@pytest.fixture(scope="module")
def cells() -> SearchSpace:
    return create_space("nasbench201", **SMALL)


def without_seconds(study: ds.Study) -> list[Record]:
    return [replace(record, seconds=0.0) for record in study.records]


class Tabular(Evaluator):
    """An evaluator that needs no network: scores are a fixed function of the architecture's text.

    Args:
        space: The space.
        probe: The probe, which no network sees.
        before: Called with the number of earlier evaluations before each one.
    """

    def __init__(self, space: SearchSpace, probe: ds.Probe, before: Callable[[int], None] = lambda count: None) -> None:
        super().__init__(space, None, probe, "params")
        self.before = before
        self.count = 0

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Score]:
        return [self.score(architecture) for architecture in architectures]

    def score(self, architecture: Architecture) -> Score:
        self.before(self.count)
        self.count += 1
        rng = random.Random(str(self.space.canonical(architecture)))
        if rng.random() < 0.1:
            return Score("failed", reason="RuntimeError: one in ten")
        return Score("ok", None, rng.gauss(0, 1), 0.0, {"half": rng.random()}, 0.001)


# -- the main job -------------------------------------------------------------------------------


def test_a_search_of_real_networks_finds_the_best_it_saw_within_the_budget(cells: SearchSpace, probe: ds.Probe) -> None:
    budget = ds.Budget(max_params=9000, max_macs=1.4e6)
    study = ds.search(cells, "cifar_resnet20", probe, evaluations=45, budget=budget, seed=1)
    records = list(study.records)
    assert [r.index for r in records] == list(range(45))
    assert len({r.canonical for r in records}) == 45
    for record in records:
        architecture = cells.parse(record.architecture)
        assert (record.params, record.macs) == (cells.cost(architecture).params, cells.cost(architecture).macs)
        assert budget.admits(cells.cost(architecture))
    scores = [r.score for r in records if r.score is not None]
    assert study.winner.score == max(scores)
    assert study.status == "complete"
    network = study.winner.build()
    assert network(probe.images).shape == (8, 10)
    assert sum(p.numel() for p in network.parameters()) == study.winner.params


def test_the_winners_score_is_what_the_evaluator_says_of_it(cells: SearchSpace, probe: ds.Probe) -> None:
    study = ds.search(cells, "cifar_resnet20", probe, proxy="relation", evaluations=6, seed=3, weight_draws=2)
    teacher = ds.create_teacher("cifar_resnet20", num_classes=10)
    (evaluation,) = Evaluator(cells, teacher, probe, "relation", seeds=(3, 4)).evaluate([study.winner.architecture])
    assert (study.winner.score, study.winner.parts) == (evaluation.score, evaluation.parts)


def test_the_usual_score_needs_no_teacher_and_is_kept_part_by_part(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"probe": probe, "algorithm": "random", "evaluations": 4}
    study = ds.search(cells, out=tmp_path / "run", **options)
    assert (study.config["proxy"], study.config["teacher"]) == ("effective_capacity", None)
    assert without_seconds(ds.search(cells, proxy="effective_capacity", **options)) == without_seconds(study)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["winner"]["parts"] == study.winner.parts
    assert sum(study.winner.parts.values()) == pytest.approx(study.winner.score, rel=1e-12)
    assert (result["proxy"], result["teachers"], result["ignores_teacher"]) == ("effective_capacity", [], False)
    with (tmp_path / "run" / "architectures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for record, row in zip(study.records, rows, strict=True):
        assert {name: float(row[f"part_{name}"]) for name in record.parts} == record.parts


def test_a_study_says_whether_its_score_looks_at_the_teacher(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    def mine(student: ds.Readings, teacher: ds.Readings | None) -> float:
        return float(student.cost.params)

    def ignores(proxy: Any, teacher: str | None = "cifar_resnet20") -> bool:
        return ds.search(cells, teacher, probe, proxy=proxy, algorithm="random", evaluations=1).ignores_teacher

    assert ignores("effective_capacity")
    assert ignores("log_rank(params, macs)")
    assert not ignores("effective_capacity", teacher=None)
    assert not ignores("diswot")
    assert not ignores("log_rank(relation, macs)")
    assert not ignores(mine)  # which may


def test_a_study_by_diswot_goes_on_where_that_is_said(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"algorithm": "random", "out": tmp_path / "run"}
    ds.search(cells, "cifar_resnet20", probe, proxy="diswot", evaluations=2, **options)
    study = ds.search(cells, "cifar_resnet20", probe, proxy="diswot", evaluations=4, **options)
    assert len(study) == 4
    assert set(study.winner.parts) == {"semantic", "relation", "channel_relation"}
    with pytest.raises(ds.RunFolderError, match='proxy is "diswot" there, "effective_capacity" here'):
        ds.search(cells, "cifar_resnet20", probe, evaluations=4, **options)


def test_a_front_by_the_usual_score_is_the_same_after_a_stop_and_in_any_order(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> ds.Study:
        options: dict[str, Any] = {"algorithm_options": {"population": 4}, "evaluations": 10, "device": "cpu"}
        return ds.search(cells, probe=probe, algorithm="nsga2", seed=2, out=tmp_path / name, **options)

    whole = run("whole")
    evaluate, left = Evaluator.evaluate, iter(range(6))

    def interrupted(self: Evaluator, architectures: Sequence[Architecture]) -> list[Score]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return evaluate(self, architectures)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    assert 6 <= len(ds.Study.load(tmp_path / "parts")) < 10
    parts = run("parts")
    assert without_seconds(parts) == without_seconds(whole)
    assert [one.record.index for one in parts.front] == [one.record.index for one in whole.front]
    front = whole.front
    assert all(a.score < b.score and a.params < b.params for a, b in itertools.pairwise(front))
    assert front[-1].score == whole.winner.score
    alone = Evaluator(cells, None, probe, device="cpu", seeds=(2,))
    for record in reversed(list(whole.records)):
        if record.status == "ok":
            (score,) = alone.evaluate([cells.parse(record.architecture)])
            assert score.score == record.score


def test_names_stand_for_what_fits_the_probe() -> None:
    probe = ds.create_probe("noise", num_classes=3, batch_size=4, image_size=16)
    study = ds.search("cifar_resnet_s0", "cifar_resnet20", [probe, probe], evaluations=2)
    assert study.space.num_classes == 3
    assert study.space.input_size == (3, 16, 16)
    assert study.config["teacher"]["num_classes"] == 3
    assert len(study.config["probes"]) == 2


def test_a_teacher_may_be_an_architecture_its_text_or_a_module(probe: ds.Probe) -> None:
    space = create_space("cifar_resnet_s0")
    largest = space.parse("7-7-7")
    by_value = ds.search(space, largest, probe, algorithm="random", evaluations=2)
    by_text = ds.search(space, "7-7-7", probe, algorithm="random", evaluations=2)
    by_module = ds.search(space, space.build(largest), probe, algorithm="random", evaluations=2)
    assert without_seconds(by_value) == without_seconds(by_text)
    assert by_module.config["teacher"]["module"] == "CifarResNet"
    without = ds.search(space, None, probe, proxy="params", algorithm="random", evaluations=2)
    assert without.config["teacher"] is None


def test_the_seed_decides_all_and_global_random_states_neither_matter_nor_change(
    cells: SearchSpace, probe: ds.Probe
) -> None:
    def run(seed: int) -> ds.Study:
        return ds.search(cells, "cifar_resnet20", probe, evaluations=12, seed=seed, algorithm="random")

    first = run(0)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    second = run(0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert without_seconds(first) == without_seconds(second)
    assert without_seconds(first) != without_seconds(run(1))


def test_exhaustive_ends_when_the_space_does(probe: ds.Probe) -> None:
    space = create_space("cifar_resnet_s0")
    study = create_search(Tabular(space, probe), algorithm="exhaustive", evaluations=1000).run()
    assert [r.architecture for r in study.records] == [str(a) for a in space]
    assert study.status == "complete"


def test_exhaustive_is_exhaustive_without_a_number(probe: ds.Probe, cells: SearchSpace) -> None:
    study = create_search(Tabular(cells, probe), algorithm="exhaustive").run()
    assert len(study) == 4_929
    assert create_search(Tabular(cells, probe), algorithm="random").evaluations == 1000


def test_another_function_of_the_same_name_is_another_proxy(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    def proxies() -> list[Any]:
        return [lambda student, teacher: student.cost.params, lambda student, teacher: -student.cost.params]

    first, second = proxies()
    options: dict[str, Any] = {"evaluations": 3, "out": tmp_path / "run"}
    ds.search(cells, None, probe, proxy=first, **options)
    assert len(ds.search(cells, None, probe, proxy=proxies()[0], **options)) == 3
    with pytest.raises(ds.RunFolderError, match="proxy is"):
        ds.search(cells, None, probe, proxy=second, **options)

    def diswot(student: ds.Readings, teacher: ds.Readings | None) -> float:
        return float(student.cost.macs)

    with pytest.raises(ds.RunFolderError, match="proxy is"):
        ds.search(cells, None, probe, proxy=diswot, **options)


# -- failures -----------------------------------------------------------------------------------


class Fragile(CifarResNetSpace):
    """A space some of whose architectures cannot be built, counted, or trained."""

    def build(self, architecture: Architecture) -> nn.Module:
        if architecture.choices[0] == 3:
            raise RuntimeError("a depth of 3 cannot be built")
        return super().build(architecture)

    def cost(self, architecture: Architecture) -> Cost:
        if architecture.choices[0] == 5:
            raise KeyError("no cost for a depth of 5")
        return super().cost(architecture)


@pytest.fixture
def fragile() -> SearchSpace:
    return Fragile(depths=((1, 3, 5), (1,), (1, 2)), widths=((4,), (4,), (4,)), stem=4)


def test_candidates_that_fail_are_recorded_with_the_reason_and_never_win(
    fragile: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    def is_nan_for_deep(student: Any, teacher: Any) -> float:
        """Not a number for the deeper of two."""
        score = float(student.logits.std())
        return math.nan if student.cost.params > 1300 else score

    budget = ds.Budget(max_params=1e6)
    study = ds.search(
        fragile, None, probe, proxy=is_nan_for_deep, algorithm="exhaustive", budget=budget, out=tmp_path / "run"
    )
    by_text = {record.architecture: record for record in study.records}
    assert len(by_text) == 6
    assert by_text["3-1-1"].reason == "RuntimeError: a depth of 3 cannot be built"
    assert by_text["5-1-1"].reason == "cost: KeyError: 'no cost for a depth of 5'"
    assert by_text["5-1-1"].params is None
    assert "nan" in (by_text["1-1-2"].reason or "")
    assert all(r.score is None and r.status == "failed" for text, r in by_text.items() if text != "1-1-1")
    assert study.winner.record == by_text["1-1-1"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluations"]["failed"] == 5


def test_what_makes_every_candidate_fail_ends_a_search_early(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    def hopeless(student: ds.Readings, teacher: ds.Readings | None) -> float:
        return math.nan

    with pytest.raises(ds.NoScoreError, match="evaluations all failed for one reason"):
        ds.search(cells, None, probe, proxy=hopeless, evaluations=300, out=tmp_path / "run")
    study = ds.Study.load(tmp_path / "run")
    assert 32 <= len(study) < 100
    assert study.status == "interrupted"


def test_a_probe_of_one_class_is_refused_before_anything_is_made(cells: SearchSpace, tmp_path: Path) -> None:
    one_class = ds.Probe.from_tensors(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), num_classes=10)
    with pytest.raises(ValueError, match="one class only"):
        ds.search(cells, "cifar_resnet20", one_class, proxy="diswot", evaluations=3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_algorithm_cannot_make_an_untrainable_architecture_win(
    cells: SearchSpace, probe: ds.Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_search(Tabular(cells, probe), algorithm="random", evaluations=3)
    nothing = cells.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    some = cells.parse("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
    answers = iter([[nothing, some], []])
    monkeypatch.setattr(run.algorithm, "ask", lambda most: next(answers))
    monkeypatch.setattr(run.algorithm, "tell", lambda records: None)
    first, second = run.run().records
    assert (first.status, first.reason) == ("failed", "not trainable: the output does not depend on the input")
    assert second.architecture == str(some)


def test_a_search_that_scores_nothing_says_why_and_keeps_its_folder(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    def broken(student: Any, teacher: Any) -> float:
        """Fails."""
        raise ValueError("no such luck")

    with pytest.raises(ds.NoScoreError, match="5 of 5 evaluations failed \\(5 x ValueError: no such luck\\)"):
        ds.search(cells, None, probe, proxy=broken, evaluations=5, out=tmp_path / "run")
    assert len(ds.Study.load(tmp_path / "run")) == 5
    assert json.loads((tmp_path / "run" / "result.json").read_text())["winner"] is None


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "nasbench"}, "Unknown search space 'nasbench'. Did you mean 'nasbench201'"),
        ({"teacher": "cifar_resnet55"}, "Unknown teacher 'cifar_resnet55'. Did you mean 'cifar_resnet"),
        ({"teacher": "|nor_conv_3x3~0|+|none"}, "is no architecture of nasbench201: a cell has 3 nodes joined by"),
        ({"teacher": "qqq"}, "The teacher 'qqq' is no timm model, and 'qqq' is no architecture of nasbench201"),
        ({"teacher": None, "proxy": "diswot"}, "'diswot' compares with a teacher; none was given"),
        ({"probe": "digit"}, "Unknown data set 'digit'. Did you mean 'digits'"),
        ({"probe": []}, "at least one probe"),
        ({"proxy": "diswott"}, "Unknown proxy 'diswott'. Did you mean 'diswot'"),
        ({"algorithm": "evolve"}, "Unknown algorithm 'evolve'. Did you mean 'evolution'"),
        ({"algorithm_options": {"populaton": 3}}, "no option 'populaton'; near: population"),
        ({"algorithm_options": {"tournament": 0}}, "tournament is 0"),
        ({"evaluations": 0}, "evaluations is 0; it must be a whole number of at least 1"),
        ({"evaluations": 1.5}, "evaluations is 1.5"),
        ({"weight_draws": 0}, "weight_draws is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"budget": ds.Budget(max_params=100)}, "the smallest cost of the space is 73,306 params"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"space": "nasbench201", "teacher": "cifar_resnet20", "probe": "digits", "out": tmp_path / "run"} | changes
    with pytest.raises(ValueError, match=message.replace("|", "\\|")):
        ds.search(**given)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_together_is_refused(probe: ds.Probe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="has 10 classes, but the networks of 'nasbench201' have 7"):
        ds.search(create_space("nasbench201", num_classes=7), "cifar_resnet20", probe, out=out)
    with pytest.raises(ValueError, match="32x32 with 3 channels, but the space 'nasbench201' is made for 16x16"):
        ds.search(create_space("nasbench201", input_size=(3, 16, 16)), "cifar_resnet20", probe, out=out)
    with pytest.raises(ValueError, match=r"teacher .* cannot be read on the probe"):
        ds.search("nasbench201", "vit_tiny_patch16_224", probe, out=out)
    assert not out.exists()


# -- budgets on latency -------------------------------------------------------------------------


class Stopwatch:
    """Stands for the clock: it says 0.1 ms more than the time before, and begins anew after 1 ms."""

    def __init__(self) -> None:
        self.calls = 0
        self.conditions: list[dict[str, Any]] = []

    def __call__(
        self, model: nn.Module, input_size: object, *, limit_ms: float | None, **conditions: Any
    ) -> ds.Latency:
        self.calls += 1
        self.conditions.append(conditions)
        return ds.Latency((self.calls - 1) % 10 / 10 + 0.1, **conditions)


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr("diswot_search.study.cost_kinds.measure_latency", watch)
    return watch


def test_latency_is_measured_once_and_is_the_same_after_a_stop(
    cells: SearchSpace, probe: ds.Probe, stopwatch: Stopwatch, tmp_path: Path
) -> None:
    def stop_at_20(count: int) -> None:
        if count == 20:
            raise KeyboardInterrupt

    def run(out: Path, evaluator: Evaluator) -> ds.Study:
        budget = ds.Budget(max_latency_ms=0.75)
        return create_search(evaluator, algorithm="ageing", evaluations=45, budget=budget, out=out).run()

    whole = run(tmp_path / "whole", Tabular(cells, probe))
    measured = stopwatch.calls
    stopwatch.calls = 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Tabular(cells, probe, stop_at_20))
    parts = run(tmp_path / "parts", Tabular(cells, probe))
    assert stopwatch.calls == measured
    assert without_seconds(parts) == without_seconds(whole)
    assert all(r.latency_ms is not None and r.latency_ms <= 0.75 for r in parts.records)


def test_latency_as_an_objective_is_measured_for_every_candidate(
    cells: SearchSpace, probe: ds.Probe, stopwatch: Stopwatch
) -> None:
    options = {"objectives": ["score", "latency_ms"], "population": 8}
    study = create_search(Tabular(cells, probe), algorithm="nsga2", algorithm_options=options, evaluations=20).run()
    assert [r.latency_ms for r in study.records] == [pytest.approx(i / 10) for i in (*range(1, 11), *range(1, 11))]
    assert study.objectives == ("latency_ms",)
    assert study.front[-1].score == study.winner.score


def test_a_latency_that_nothing_meets_is_refused_with_the_lowest_measured(
    cells: SearchSpace, probe: ds.Probe, stopwatch: Stopwatch, tmp_path: Path
) -> None:
    with pytest.raises(
        ds.BudgetError, match=r"max_latency_ms=0.05; the lowest latency measured is 0.1 ms \(\w+, 1 thread, batch 4"
    ):
        create_search(
            Tabular(cells, probe), budget=ds.Budget(max_latency_ms=0.05, latency_batch_size=4), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("exact_latency")
def test_a_real_latency_budget_is_kept(cells: SearchSpace, probe: ds.Probe) -> None:
    study = create_search(
        Tabular(cells, probe), algorithm="random", evaluations=3, budget=ds.Budget(max_latency_ms=1000)
    ).run()
    assert all(0 < r.latency_ms < 1000 for r in study.records)


def test_a_latency_near_the_limit_is_measured_again_and_the_second_counts(
    cells: SearchSpace, probe: ds.Probe, stopwatch: Stopwatch
) -> None:
    budget = ds.Budget(max_latency_ms=0.32, latency_threads=2, latency_runtime="eager")
    search = create_search(Tabular(cells, probe), algorithm="random", evaluations=4, budget=budget)
    study = search.run()
    measured = [cost for cost in study.costs if cost.latency_ms is not None]
    twice = [cost for cost in measured if cost.details["latency_ms"]["measurements"] == 2]
    assert len(measured) + len(twice) == stopwatch.calls
    assert twice
    assert all(record.latency_ms <= 0.32 for record in study.records)
    assert {tuple(sorted(conditions.items())) for conditions in stopwatch.conditions} == {
        (("batch_size", 1), ("runtime", "eager"), ("threads", 2))
    }
    assert any(
        "max_latency_ms 0.32 (latency: eager, 2 threads, batch 1, float32)" in line for line in describe_study(study)
    )


def test_limits_on_memory_and_size_are_kept_together(probe: ds.Probe) -> None:
    space = create_space("cifar_resnet_s0")
    budget = ds.Budget(max_memory_mb=3.5, max_size_mb=2.0, latency_batch_size=8)
    study = create_search(Tabular(space, probe), algorithm="random", evaluations=8, budget=budget).run()
    for record in study.records:
        cost = count_cost_of(lambda a=record.architecture: space.build(space.parse(a)), space.input_spec)
        assert record.size_mb == cost.weight_bytes / 1e6 <= 2.0  # type: ignore[operator]
        assert record.size_mb < record.memory_mb <= 3.5  # type: ignore[operator]
    assert "memory\nsize" in [column.header for column in format_table(study).columns]
    with pytest.raises(ds.BudgetError, match=r"within max_memory_mb=0.1; the lowest memory counted is [\d.]+ MB"):
        create_search(Tabular(space, probe), budget=ds.Budget(max_memory_mb=0.1))


def test_the_size_of_the_weights_is_counted_with_the_parameters(
    probe: ds.Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = create_space("cifar_resnet_s0")
    counted: list[str] = []

    def count(architecture: ds.Architecture) -> Cost:
        counted.append(str(architecture))
        return count_cost_of(lambda: space.build(architecture), space.input_spec)

    monkeypatch.setattr(space, "cost", count)
    study = create_search(Tabular(space, probe), evaluations=3, budget=ds.Budget(max_size_mb=2.0)).run()
    assert len(counted) == len(set(counted))
    for record in study.records:
        cost = count_cost_of(lambda a=record.architecture: space.build(space.parse(a)), space.input_spec)
        assert record.size_mb == cost.weight_bytes / 1e6  # type: ignore[operator]


def test_a_tight_budget_asks_about_few_architectures_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    space = create_space("timm/vit", num_classes=10)
    shown: list[str] = []
    tried = SearchProgress.tried

    def note(progress: SearchProgress, *numbers: int) -> None:
        tried(progress, *numbers)
        shown.append(progress.state())

    monkeypatch.setattr(SearchProgress, "tried", note)
    pixels = ds.Probe.from_tensors(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]), num_classes=10)
    search = create_search(Tabular(space, pixels), evaluations=10, budget=ds.Budget(max_params=1e6))
    assert len(search.run()) == 10
    assert search.costs.tried < 250
    assert f"{search.costs.tried} architectures tried, {search.costs.within} within the budget" in shown[-1]


# -- stopping and going on ----------------------------------------------------------------------


ALGORITHMS = {"evolution": {"population": 12}, "ageing": {}, "nsga2": {"population": 8}, "random": {}, "exhaustive": {}}


@given(st.sampled_from(sorted(ALGORITHMS)), st.lists(st.integers(0, 30), max_size=3), st.integers(0, 3))
@settings(max_examples=10)
def test_a_search_stopped_anywhere_ends_as_one_that_was_not(
    cells: SearchSpace, probe: ds.Probe, algorithm: str, stops: list[int], seed: int
) -> None:
    def run(evaluator: Evaluator, out: str | None, evaluations: int = 30) -> ds.Study:
        return create_search(
            evaluator,
            algorithm=algorithm,
            algorithm_options=ALGORITHMS[algorithm],
            evaluations=evaluations,
            budget=ds.Budget(max_params=12_000),
            seed=seed,
            out=out,
        ).run()

    whole = run(Tabular(cells, probe), None)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        for stop in stops:

            def stop_there(count: int, stop: int = stop) -> None:
                if count == stop:
                    raise KeyboardInterrupt

            try:
                run(Tabular(cells, probe, stop_there), out)
            except KeyboardInterrupt:
                assert ds.Study.load(out).status == "interrupted"
        last = Tabular(cells, probe)
        parts = run(last, out)
        assert last.count + min(sum(stops), 30) == 30
        assert without_seconds(parts) == without_seconds(whole)
        assert parts.winner.record == whole.winner.record
        steps = curves_in(Path(out))
        assert steps["cost/params"] == list(range(30))
        assert steps["score/best"] == [r.index for r in whole.records if r.status == "ok"]


def curves_in(folder: Path) -> dict[str, list[int]]:
    """The steps of every curve in the run folder."""
    events = EventAccumulator(str(folder / "curves"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_more_evaluations_continue_a_finished_search(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    for evaluations in (10, 33):
        study = create_search(Tabular(cells, probe), evaluations=evaluations, out=tmp_path / "run").run()
    assert without_seconds(study) == without_seconds(create_search(Tabular(cells, probe), evaluations=33).run())


def test_a_finished_search_evaluates_nothing_again(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    first = create_search(Tabular(cells, probe), evaluations=10, out=tmp_path / "run").run()
    again = Tabular(cells, probe, lambda count: pytest.fail("evaluated again"))
    assert list(create_search(again, evaluations=10, out=tmp_path / "run").run().records) == list(first.records)


def test_records_that_the_algorithm_would_not_ask_for_are_noticed(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    run = create_search(Tabular(cells, probe), evaluations=5, out=tmp_path / "run")
    text = str(cells.parse("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"))
    values = {"status": "ok", "score": 1.0, "params": 1, "macs": 1}
    run.study.add([Record(index=0, architecture=text, canonical=text, **values)])
    with pytest.raises(ds.RunFolderError, match=r"evaluation 0 was .* Was it begun by another version"):
        run.run()


# -- other processes ----------------------------------------------------------------------------


def search_small(out: str, evaluations: int) -> ds.Study:
    torch.set_num_threads(1)
    return ds.search(
        create_space("nasbench201", **SMALL),
        probe=ds.create_probe(batch_size=8),
        evaluations=evaluations,
        budget=ds.Budget(max_params=12_000),
        seed=5,
        out=out,
        device="cpu",
    )


def search_in_child(out: str, evaluations: int) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        search_small(out, evaluations)
    except KeyboardInterrupt:
        os._exit(130)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have everything imported, from a server that never ran anything else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.jobs.search", "torch.utils.tensorboard", "matplotlib.figure"])
    return context


def records_in(out: Path) -> int:
    try:
        return len(ds.Study.load(out))
    except ds.RunFolderError:
        return 0


def has_records(out: Path, count: int) -> bool:
    return records_in(out) >= count


def wait_for_records(out: Path, count: int, process: Any) -> None:
    while process.is_alive() and records_in(out) < count:
        time.sleep(0.002)


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_search_killed_again_and_again_ends_as_one_that_was_not(processes: Any, tmp_path: Path) -> None:
    out, evaluations = tmp_path / "killed", 60
    kills, count = 0, 0
    for target in (0, 1, 14, 28, 42):
        reached = partial(has_records, out, target)
        arguments = (reached, target, search_in_child, str(out), evaluations)
        process = processes.Process(target=killed_when, args=arguments)
        process.start()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert records_in(out) >= count
        count = records_in(out)
    assert kills >= 3
    assert count > 0
    resumed = search_small(str(out), evaluations)
    whole = search_small(str(tmp_path / "whole"), evaluations)
    assert without_seconds(resumed) == without_seconds(whole)
    assert replace(resumed.winner.record, seconds=0.0) == replace(whole.winner.record, seconds=0.0)
    assert [c.record.index for c in resumed.front] == [c.record.index for c in whole.front]
    assert curves_in(out) == curves_in(tmp_path / "whole")
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_search_with_its_state_written(processes: Any, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    process = processes.Process(target=search_in_child, args=(str(out), 4000))
    process.start()
    wait_for_records(out, 3, process)
    with pytest.raises(ds.RunFolderError, match="Another process works on"):
        search_small(str(out), 4000)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    study = ds.Study.load(out)
    assert study.status == "interrupted"
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["evaluations"]["all"] == len(study) >= 3
    assert result["winner"]["architecture"] == study.winner.record.architecture
    assert (out / "front.png").exists()


def test_signals_are_left_alone_outside_of_the_main_thread(cells: SearchSpace, probe: ds.Probe) -> None:
    studies: list[ds.Study] = []
    thread = threading.Thread(target=lambda: studies.append(create_search(Tabular(cells, probe), evaluations=4).run()))
    thread.start()
    thread.join()
    assert len(studies[0]) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_of_the_caller_are_kept(cells: SearchSpace, probe: ds.Probe, number: signal.Signals) -> None:
    def mine(number: int, frame: Any) -> None:
        """A handler of the caller's own."""

    before = signal.signal(number, mine)
    seen: list[Any] = []
    try:
        evaluator = Tabular(cells, probe, lambda count: seen.append(signal.getsignal(number)))
        create_search(evaluator, evaluations=3).run()
        assert signal.getsignal(number) is mine
        assert set(seen) == {mine}
    finally:
        signal.signal(number, before)


def test_a_second_interrupt_does_not_wait(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    def interrupt_twice(count: int) -> None:
        if count == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        create_search(Tabular(cells, probe, interrupt_twice), evaluations=9, out=tmp_path / "run").run()
    assert len(ds.Study.load(tmp_path / "run")) == 2


def test_one_interrupt_lets_the_candidate_at_hand_finish(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        if count == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        create_search(Tabular(cells, probe, interrupt), evaluations=9, out=tmp_path / "run").run()
    assert len(ds.Study.load(tmp_path / "run")) == 3
    assert ds.Study.load(tmp_path / "run").status == "interrupted"


def test_a_disk_that_fills_up_stops_the_search_and_loses_nothing(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path
) -> None:
    run = create_search(Tabular(cells, probe), evaluations=100, out=tmp_path / "run")
    run.study._store.execute("PRAGMA max_page_count = 14")
    with pytest.raises(ds.RunFolderError, match="is full"):
        run.run()
    stored = records_in(tmp_path / "run")
    assert 0 < stored < 100
    resumed = create_search(Tabular(cells, probe), evaluations=100, out=tmp_path / "run").run()
    assert without_seconds(resumed) == without_seconds(create_search(Tabular(cells, probe), evaluations=100).run())


# -- memory -------------------------------------------------------------------------------------


class Listing:
    """An algorithm that remembers nothing: what a real one does, so as to ask nothing twice, is not looked at here."""

    def __init__(self, space: SearchSpace) -> None:
        self.rest = (a for a in space if space.canonical(a) == a and space.is_trainable(a))

    def ask(self, most: int | None = None) -> list[Architecture]:
        return list(itertools.islice(self.rest, 16))

    def tell(self, records: Sequence[Record]) -> None:
        """Learn nothing."""


def test_memory_does_not_grow_with_evaluations(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    """Memory grows by less than 75 bytes for each of 600 evaluations; a record alone has more than 500."""
    held: list[int] = []

    def weigh(count: int) -> None:
        if count == 100:
            tracemalloc.start()
        if count == 700:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    run = create_search(Tabular(cells, probe, weigh), evaluations=701, out=tmp_path / "run")
    run.algorithm = Listing(cells)  # type: ignore[assignment]
    try:
        run.run()
    finally:
        tracemalloc.stop()
    assert held[0] / 600 < 75
