"""Comparisons of proxies with known accuracies: what is computed, what is stored, and what controls show."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import diswot_search as ds
from diswot_search.comparison.store import ScoreStore, StoredScore
from diswot_search.jobs.compare import Comparison, compare
from diswot_search.proxies.aggregate import RankAggregate
from diswot_search.proxies.registry import create_aggregate
from diswot_search.readings.core import Readings
from diswot_search.reports.comparison_figures import COMPARISON_PICTURES
from diswot_search.study.records import NewScore
from search_spaces import AccuracyTable, Architecture, CifarResNetSpace, NASBench201Space, create_space, read_table

TEACHER = "cifar_resnet20"


class Built(CifarResNetSpace):
    """Eight tiny ResNets; counts the networks that are built."""

    def __init__(self) -> None:
        super().__init__(4, (3, 8, 8), depths=[(1, 2)] * 3, widths=[(4,), (8,), (8,)], stem=4, name="tiny")
        self.built: list[str] = []

    def build(self, architecture: Architecture) -> nn.Module:
        self.built.append(str(architecture))
        return super().build(architecture)


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The pictures of a run folder: none, since they take longer than all else; a test may add some."""
    chosen: dict[str, Any] = {}
    monkeypatch.setattr(sys.modules[compare.__module__], "COMPARISON_PICTURES", chosen)
    return chosen


@pytest.fixture
def space() -> Built:
    return Built()


@pytest.fixture(scope="module")
def probe() -> ds.Probe:
    return ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4)


@pytest.fixture(scope="module")
def table() -> AccuracyTable:
    """Accuracies that grow with the depths, but not quite."""
    rng = random.Random(3)
    texts = [str(architecture) for architecture in Built()]
    return AccuracyTable(
        "known.csv", "accuracy", {text: 60 + sum(map(int, text[::2])) + rng.random() for text in texts}
    )


@pytest.fixture(scope="module")
def cells() -> NASBench201Space:
    return NASBench201Space(num_classes=4, input_size=(3, 8, 8), channels=4, cells=1)


@pytest.fixture
def run(space: Built, probe: ds.Probe, table: AccuracyTable) -> Callable[..., Comparison]:
    """Compares on the tiny space, without a teacher and without resamples unless said otherwise."""

    def run(proxies: Any = (), **options: Any) -> Comparison:
        return compare(space, proxies, table, probe, **{"bootstrap": 0, "device": "cpu"} | options)

    return run


def scores_of(comparison: Comparison, *labels: str) -> dict[str, list[list[float]]]:
    """The scores of some labels, by default of all, so that they can be compared with ==."""
    return {label: comparison.scores.scores[label].tolist() for label in labels or comparison.scores.scores}


# -- what is computed ---------------------------------------------------------------------------


def test_scores_are_those_of_a_search(space: Built, probe: ds.Probe, table: AccuracyTable, run) -> None:
    scores = run(["semantic", "grad_norm"], teacher=TEACHER, seed=3, weight_draws=2).scores
    teacher = ds.create_teacher(TEACHER, num_classes=4)
    assert scores.seeds == (3, 4)
    assert scores.architectures == tuple(table)
    assert scores.accuracies.tolist() == list(table.values())
    for name in ("semantic", "grad_norm"):
        for draw, seed in enumerate(scores.seeds):
            evaluator = ds.Evaluator(space, teacher, probe, name, seeds=(seed,), device="cpu")
            expected = [score.score for score in evaluator.evaluate([space.parse(text) for text in table])]
            np.testing.assert_allclose(scores.scores[name][draw], expected, rtol=1e-5)


def test_the_sizes_are_always_there_and_labels_stand_in_the_order_of_asking(space: Built, run) -> None:
    assert [result.label for result in run().results] == ["params", "macs"]
    comparison = run(["macs", "synflow", "synflow"], weight_draws=2)
    assert [result.label for result in comparison.results] == ["macs", "synflow", "params"]
    scores = comparison.scores
    costs = [space.cost(space.parse(text)) for text in scores.architectures]
    assert scores.params.tolist() == [cost.params for cost in costs]
    assert scores.macs.tolist() == [cost.macs for cost in costs]
    assert scores.scores["params"].tolist() == [scores.params.tolist()] * 2
    assert comparison["macs"].spearman.std == 0
    with pytest.raises(ds.UnknownNameError, match=r"Unknown label 'synflo'\. Did you mean 'synflow'"):
        _ = comparison["synflo"]
    assert repr(comparison) == "<Comparison of 3 scores on 8 architectures of tiny by accuracy, in memory>"


def test_patterns_and_single_proxies_are_understood(run) -> None:
    by_pattern = run("*_norm")
    assert set(scores_of(by_pattern)) == {*ds.list_proxies("*_norm"), "params", "macs"}
    assert scores_of(by_pattern, "l2_norm") == scores_of(run("l2_norm"), "l2_norm")


def test_equal_functions_share_one_score_and_have_their_own_cost(cells: NASBench201Space, probe: ds.Probe) -> None:
    conv, skip, none = "nor_conv_3x3", "skip_connect", "none"
    first = f"|{conv}~0|+|{none}~0|{none}~1|+|{skip}~0|{none}~1|{none}~2|"
    second = f"|{none}~0|+|{none}~0|{none}~1|+|{skip}~0|{none}~1|{none}~2|"  # the convolution leads nowhere
    third = f"|{conv}~0|+|{none}~0|{none}~1|+|{skip}~0|{conv}~1|{none}~2|"
    assert cells.canonical(cells.parse(first)) == cells.canonical(cells.parse(second))
    Calls.made.clear()
    table = AccuracyTable("t", "accuracy", {first: 50.0, second: 51.0, third: 80.0})
    scores = compare(cells, ["l2_norm", counted], table, probe, bootstrap=0, device="cpu").scores
    assert len(Calls.made) == 2
    assert scores.scores["l2_norm"][0, 0] == scores.scores["l2_norm"][0, 1] != scores.scores["l2_norm"][0, 2]
    assert scores.params.tolist() == [cells.cost(cells.parse(text)).params for text in (first, second, third)]
    assert scores.params[0] > scores.params[1]


def test_networks_are_scored_as_written_where_that_is_asked_for(
    cells: NASBench201Space, probe: ds.Probe, tmp_path: Path
) -> None:
    dead = "|none~0|+|none~0|nor_conv_3x3~1|+|nor_conv_3x3~0|none~1|none~2|"
    canonical = str(cells.canonical(cells.parse(dead)))
    other = "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
    accuracies = AccuracyTable("cells", "accuracy", {dead: 70.0, canonical: 72.0, other: 60.0})
    Calls.made.clear()
    options = {"probe": probe, "seed": 1, "out": tmp_path / "run"}
    merged = ds.compare(cells, counted, accuracies, **options).scores.scores["counted"][0]
    assert len(Calls.made) == 2
    written = ds.compare(cells, counted, accuracies, canonical=False, **options).scores.scores["counted"][0]
    assert len(Calls.made) == 4  # the canonical cell is there already; the other two are not written as they are scored
    assert merged[0] == merged[1] == written[1] == written[0] - 3  # a dead convolution in each of the three cells


def test_what_does_not_depend_on_its_input_is_left_out_unless_asked_for(
    cells: NASBench201Space, probe: ds.Probe
) -> None:
    cut = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    ops = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
    whole = [f"|{op}~0|+|none~0|{op}~1|+|skip_connect~0|none~1|{op}~2|" for op in ops]
    table = AccuracyTable("t", "accuracy", {cut: 10.0} | {text: 60.0 + i for i, text in enumerate(whole)})
    without = compare(cells, "l2_norm", table, probe, bootstrap=0, device="cpu").scores
    assert without.architectures == tuple(whole)
    assert without.left_out == {"not trainable": 1}
    together = compare(cells, "l2_norm", table, probe, bootstrap=0, device="cpu", include_untrainable=True).scores
    assert together.architectures == (cut, *whole)
    assert together.left_out == {}


def test_samples_with_and_without_what_is_left_out_are_nearly_the_same(
    cells: NASBench201Space, probe: ds.Probe
) -> None:
    texts = [str(a) for a in (*itertools.islice(cells, 4), *itertools.islice(cells, 8000, None, 900))]
    cut = {text for text in texts if not cells.is_trainable(cells.parse(text))}
    table = AccuracyTable("t", "accuracy", {text: 60.0 + i for i, text in enumerate(texts)})
    shares = []
    for seed in range(6):
        options = {"sample": 4, "seed": seed, "bootstrap": 0}
        drawn = compare(cells, [], table, probe, include_untrainable=True, **options).scores.architectures
        alive = [text for text in drawn if text not in cut]
        assert list(compare(cells, [], table, probe, **options).scores.architectures[: len(alive)]) == alive
        shares.append(len(alive) / 4)
    assert len(set(shares)) > 1


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_whatever_the_order_of_rows(probe: ds.Probe) -> None:
    space = Built()
    accuracies = {str(architecture): float(i) for i, architecture in enumerate(space)}

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 5), sizes=st.tuples(st.integers(3, 8), st.integers(3, 8)), order=st.randoms())
    def check(seed: int, sizes: tuple[int, int], order: random.Random) -> None:
        shuffled = list(accuracies.items())
        order.shuffle(shuffled)
        drawn = [
            compare(space, [], AccuracyTable("t", "a", rows), probe, sample=size, seed=seed, bootstrap=0).scores
            for size, rows in zip(sorted(sizes), (accuracies, dict(shuffled)), strict=True)
        ]
        assert drawn[0].architectures == drawn[1].architectures[: min(sizes)]
        assert drawn[1].accuracies.tolist() == [accuracies[text] for text in drawn[1].architectures]
        assert drawn[0].left_out.get("not drawn", 0) == 8 - min(sizes)
        assert len(set(drawn[1].architectures)) == max(sizes)

    check()


def test_a_sample_depends_on_the_seed(run) -> None:
    samples = [run(sample=4, seed=seed).scores.architectures for seed in range(4)]
    assert len(set(samples)) > 1


def test_named_architectures_are_compared_in_their_order(space: Built, table: AccuracyTable, run) -> None:
    asked = ["2-1-1", space.parse("1-1-2"), "1-2-1"]
    scores = run("l2_norm", architectures=asked).scores
    assert scores.architectures == ("2-1-1", "1-1-2", "1-2-1")
    assert scores.accuracies.tolist() == [table[text] for text in scores.architectures]


def test_each_draw_may_have_a_batch_of_its_own(probe: ds.Probe, run, space: Built, table: AccuracyTable) -> None:
    other = ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4, seed=1)
    both = compare(space, "grad_norm", table, [probe, other], weight_draws=2, bootstrap=0, device="cpu")
    assert both.scores.scores["grad_norm"][0].tolist() == scores_of(run("grad_norm"), "grad_norm")["grad_norm"][0]
    second = compare(space, "grad_norm", table, other, seed=1, bootstrap=0, device="cpu")
    assert both.scores.scores["grad_norm"][1].tolist() == second.scores.scores["grad_norm"][0].tolist()
    same = run("grad_norm", weight_draws=2)
    assert both.scores.scores["grad_norm"][1].tolist() != same.scores.scores["grad_norm"][1].tolist()


def test_an_aggregate_ranks_all_that_is_compared_seed_by_seed(run) -> None:
    text = "log_rank(l2_norm, grad_norm, macs)"
    comparison = run([text], weight_draws=2)
    assert list(comparison.scores.scores) == [text, "params", "macs"]
    members = run(["l2_norm", "grad_norm"], weight_draws=2).scores
    aggregate = ds.get_proxy(text)
    assert isinstance(aggregate, RankAggregate)
    for draw in range(2):
        values = {name: scores[draw] for name, scores in members.scores.items()}
        assert comparison.scores.scores[text][draw].tolist() == aggregate.combine(values).tolist()
    seconds = comparison.scores.seconds[text]
    assert seconds > 0
    assert set(comparison.scores.passes[text]) >= {"gradients", "cost"}


def test_seconds_are_those_of_the_proxy_asked_for_alone(run) -> None:
    comparison = run(["semantic", "grad_norm"], teacher=TEACHER)
    assert comparison["semantic"].passes == comparison.scores.passes["semantic"]
    assert "forward_pass" in comparison["semantic"].passes
    assert "gradients" not in comparison["semantic"].passes
    assert {"model", "forward_pass", "gradients"} <= set(comparison["grad_norm"].passes)
    assert comparison["params"].passes == ("cost",)
    assert all(seconds > 0 for seconds in comparison.scores.seconds.values())


def test_global_random_state_is_left_alone(run) -> None:
    states = [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]
    run(["semantic", "grad_norm"], teacher=TEACHER, sample=3, controls=True)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert [np.random.get_state()[1].tolist(), random.getstate()] == states[1:]


# -- failures -----------------------------------------------------------------------------------


class Calls:
    """Calls of the functions below, where a function's identity does not see them, as it would see a global list."""

    made: ClassVar[list[int]] = []


def counted(student: Readings, teacher: Readings | None = None) -> float:
    """Number of layers; its calls are counted."""
    Calls.made.append(len(student.layers))
    return float(Calls.made[-1])


def picky(student: Readings, teacher: Readings | None = None) -> float:
    """Raises for some, and gives no number for others."""
    layers = len(student.layers)
    if layers == 10:
        raise RuntimeError("ten\nlayers")
    return {14: math.nan, 16: math.inf}.get(layers, 1.0 / layers)


def picky_at_first(student: Readings, teacher: Readings | None = None) -> float:
    """Fails now and then among its first calls."""
    Calls.made.append(0)
    if len(Calls.made) in (2, 3, 8, 9, 16):
        raise ValueError("not yet")
    return float(len(student.layers))


def destructive(student: Readings, teacher: Readings | None = None) -> float:
    """Leaves a network of zeros behind, in another mode."""
    student.model.train()
    with torch.no_grad():
        for weight in student.model.parameters():
            weight.zero_()
    return float(student.logits.sum())


def test_a_failure_is_recorded_with_its_reason_and_disturbs_no_other_score(run) -> None:
    alone = run(["grad_norm"])
    comparison = run(["log_rank(grad_norm, macs)", picky, create_aggregate([picky, "macs"], name="both"), "grad_norm"])
    layers = count_layers()
    scores, failures = comparison.scores.scores, comparison.scores.failures
    assert scores_of(comparison, "grad_norm") == scores_of(alone, "grad_norm")
    bad = [count in (10, 14, 16) for count in layers]
    assert 0 < sum(bad) < len(bad)
    assert np.isnan(scores["picky"][0]).tolist() == bad
    expected = {
        "the score is nan": layers.count(14),
        "RuntimeError: ten": layers.count(10),
        "the score is inf": layers.count(16),
    }
    assert next(iter(failures["picky"].items())) == ("the score is nan", 3)
    assert failures["picky"] == expected
    assert comparison["picky"].failures == failures["picky"]
    assert comparison["picky"].scored == pytest.approx(1 - sum(bad) / len(bad))
    assert np.isnan(scores["both"][0]).tolist() == bad
    assert failures["both"] == {f"picky: {reason}": count for reason, count in expected.items()}
    assert failures["grad_norm"] == {}


def count_layers() -> list[int]:
    """Convolutions and linear layers of each architecture of the tiny space."""
    models = [Built().build(architecture) for architecture in Built()]
    return [sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) for model in models]


def test_a_proxy_that_always_fails_has_no_time_and_no_score(run) -> None:
    def broken(student: Readings, teacher: Readings | None = None) -> float:
        raise ValueError("never")

    result = run([broken, "l2_norm"])["broken"]
    assert (result.scored, result.failures) == (0.0, {"ValueError: never": 8})
    assert math.isnan(result.seconds)


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_proxy_does_to_the_network_stays_with_it(run, order: int) -> None:
    names = ["l2_norm", "synflow", "semantic"]
    together = run([destructive, *names][::order], teacher=TEACHER)
    assert scores_of(together, *names) == scores_of(run(names, teacher=TEACHER), *names)


def test_an_architecture_that_cannot_be_built_is_left_out(probe: ds.Probe, table: AccuracyTable) -> None:
    class Unbuildable(Built):
        def cost(self, architecture: Architecture) -> Any:
            if str(architecture) == "2-2-2":
                raise RuntimeError("too deep")
            return super().cost(architecture)

    scores = compare(Unbuildable(), "l2_norm", table, probe, bootstrap=0, device="cpu").scores
    assert scores.architectures == tuple(text for text in table if text != "2-2-2")
    assert scores.left_out == {"no cost: RuntimeError: too deep": 1}
    assert np.isfinite(scores.scores["l2_norm"]).all()


# -- controls -----------------------------------------------------------------------------------


CONTROLS = ("other teacher: cifar_wrn_40_1", "other depth: cifar_resnet110", "shuffled", "no teacher")


def ignorant(student: Readings, teacher: Readings | None = None) -> float:
    """Does not look at the teacher it asks for."""
    return float(student.logits.std())


def test_a_proxy_that_ignores_its_teacher_has_equal_numbers_under_all_controls(run) -> None:
    proxy = ds.Proxy("ignorant", ignorant, needs_teacher=True, summary="")
    comparison = run([proxy, "relation", "l2_norm"], teacher=TEACHER, controls=True, weight_draws=2)
    labels = [f"ignorant ({control})" for control in CONTROLS]
    assert list(comparison.scores.scores) == [
        *("ignorant", *labels),
        *("relation", *(f"relation ({control})" for control in CONTROLS)),
        *("l2_norm", "params", "macs"),
    ]
    own = scores_of(comparison, "ignorant")["ignorant"]
    assert all(scores == own for scores in scores_of(comparison, *labels).values())
    assert comparison.scores.controls[labels[0]] == ("ignorant", CONTROLS[0])
    assert comparison[labels[3]].control == "no teacher"
    # One that does look at it sees other numbers each time.
    of_relation = scores_of(comparison, "relation", *(f"relation ({control})" for control in CONTROLS))
    assert len({json.dumps(scores) for scores in of_relation.values()}) == 5


def test_other_teachers_are_teachers_like_any(run) -> None:
    controlled = run(
        "semantic", teacher="cifar_resnet56", controls=True, other_teacher="cifar_resnet32", weight_draws=2
    )
    assert list(controlled.scores.controls.values())[:2] == [
        ("semantic", "other teacher: cifar_resnet32"),
        ("semantic", "other depth: cifar_resnet20"),
    ]
    for name, label in (
        ("cifar_resnet56", "semantic"),
        ("cifar_resnet32", "semantic (other teacher: cifar_resnet32)"),
        ("cifar_resnet20", "semantic (other depth: cifar_resnet20)"),
    ):
        alone = scores_of(run("semantic", teacher=name, weight_draws=2), "semantic")["semantic"]
        assert scores_of(controlled, label)[label] == alone


def test_aggregates_have_controls_of_the_members_that_use_the_teacher(run) -> None:
    text = "mean_rank(relation, macs)"
    comparison = run([text, "mean_rank(l2_norm, macs)"], teacher=TEACHER, controls=True)
    shuffled = scores_of(run("relation", teacher=TEACHER, controls=True), "relation (shuffled)")
    aggregate = ds.get_proxy(text)
    assert isinstance(aggregate, RankAggregate)
    members = {"relation": shuffled["relation (shuffled)"][0], "macs": comparison.scores.macs}
    assert comparison.scores.scores[f"{text} (shuffled)"][0].tolist() == aggregate.combine(members).tolist()
    assert "mean_rank(l2_norm, macs) (shuffled)" not in comparison.scores.scores


# -- nothing twice ------------------------------------------------------------------------------


def test_nothing_is_computed_twice_over_runs(space: Built, probe: ds.Probe, run, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def built(*proxies: Any, **options: Any) -> int:
        """Networks that one more run in the folder builds."""
        space.built.clear()
        run(list(proxies), out=out, **options)
        return len(space.built)

    assert built("l2_norm", "semantic", sample=4, teacher=TEACHER) == 4
    assert built("l2_norm", "semantic", sample=4, teacher=TEACHER) == 0
    assert built("semantic", "l2_norm", sample=3, teacher=TEACHER) == 0  # fewer, and in another order
    assert built("l2_norm", "semantic", sample=6, teacher=TEACHER) == 2
    assert built("l2_norm", "relation", sample=6, teacher=TEACHER) == 6
    assert built("mean_rank(l2_norm, relation, macs)", sample=6, teacher=TEACHER) == 0
    assert built("l2_norm", "relation", sample=6, teacher=TEACHER, weight_draws=3) == 12
    assert built("l2_norm", sample=6, weight_draws=3) == 0  # what needs no teacher does not depend on it
    assert built("l2_norm", sample=6, teacher="cifar_resnet56") == 0
    assert built("semantic", sample=6, teacher="cifar_resnet110") == 6
    assert built("semantic", sample=6, teacher=TEACHER, controls=True) == 6
    space.built.clear()
    other = ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4, seed=1)
    elsewhere = AccuracyTable("other.csv", "vanilla", {str(a): float(i) for i, a in enumerate(space)})
    compare(space, "l2_norm", elsewhere, other, sample=6, out=out, bootstrap=0, device="cpu")
    assert len(space.built) == 6
    compare(space, "l2_norm", elsewhere, probe, sample=6, out=out, bootstrap=0, device="cpu")
    assert len(space.built) == 6


def test_a_function_is_called_once_for_each_architecture_and_seed(run, tmp_path: Path) -> None:
    Calls.made.clear()
    first = run(counted, out=tmp_path / "run", weight_draws=2)
    assert len(Calls.made) == 16
    again = run(["l2_norm", counted], out=tmp_path / "run", weight_draws=2)
    assert len(Calls.made) == 16
    assert scores_of(again, "counted") == scores_of(first, "counted")
    assert again.scores.seconds["counted"] == first.scores.seconds["counted"]
    assert again.scores.passes["counted"] == first.scores.passes["counted"] == ("layers", "model")


def test_a_failure_is_not_tried_again(run, tmp_path: Path) -> None:
    def broken(student: Readings, teacher: Readings | None = None) -> float:
        Calls.made.append(0)
        raise ValueError("never")

    Calls.made.clear()
    first, second = (run(broken, out=tmp_path / "run") for _ in range(2))
    assert len(Calls.made) == 8
    assert first.scores.failures == second.scores.failures


def test_a_failure_is_tried_again_where_that_is_asked_for(run, space: Built, tmp_path: Path) -> None:
    Calls.made.clear()
    first = run([picky_at_first, "l2_norm"], out=tmp_path / "run", weight_draws=2)
    assert first.scores.failures["picky_at_first"] == {"ValueError: not yet": 5}
    space.built.clear()
    second = run([picky_at_first, "l2_norm"], out=tmp_path / "run", weight_draws=2, retry_failed=True)
    assert len(Calls.made) == 16 + 5
    assert second.scores.failures["picky_at_first"] == {}
    assert scores_of(second, "l2_norm") == scores_of(first, "l2_norm")
    failed = np.isnan(first.scores.scores["picky_at_first"])
    np.testing.assert_array_equal(
        second.scores.scores["picky_at_first"][~failed], first.scores.scores["picky_at_first"][~failed]
    )
    run([picky_at_first, "l2_norm"], out=tmp_path / "run", weight_draws=2, retry_failed=True)
    assert len(Calls.made) == 16 + 5


def out_of_memory(kind: str) -> Exception:
    """What Python, a GPU and the CPU's allocator raise."""
    message = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"
    kinds = {"python": MemoryError(), "gpu": torch.cuda.OutOfMemoryError("out"), "cpu": RuntimeError(message)}
    return kinds[kind]


@pytest.mark.parametrize("kind", ["python", "gpu", "cpu"])
def test_a_lack_of_memory_ends_the_comparison_and_is_not_stored(run, tmp_path: Path, kind: str) -> None:
    Calls.made.clear()

    def hungry(student: Readings, teacher: Readings | None = None) -> float:
        Calls.made.append(0)
        if len(Calls.made) == 4:
            raise out_of_memory(kind)
        return float(len(Calls.made))

    with pytest.raises(MemoryError, match=r"Out of memory in the proxy 'hungry' .* a smaller batch or another device"):
        run(hungry, out=tmp_path / "run")
    resumed = run(hungry, out=tmp_path / "run")
    assert resumed.scores.scores["hungry"][0].tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert resumed.scores.failures["hungry"] == {}


def test_scores_of_other_versions_are_not_taken_for_those_of_this_one(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Calls.made.clear()
    for version, expected in (("1.0", 8), ("1.0", 8), ("1.1", 16), ("1.0", 16)):
        monkeypatch.setattr(sys.modules[compare.__module__], "versions", lambda v=version: {"python": "3", "timm": v})
        run(counted, out=tmp_path / "run")
        assert len(Calls.made) == expected


def test_times_come_with_what_they_were_taken_on(run, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    here = f"cpu, {threads} thread(s), batch 8, float32"
    assert run("l2_norm", out=tmp_path / "run", sample=4).scores.conditions == here
    try:
        torch.set_num_threads(threads + 1)
        there = f"cpu, {threads + 1} thread(s), batch 8, float32"
        with pytest.warns(UserWarning, match=f"{threads + 1}.* Sums of another number of threads differ"):
            larger = run("l2_norm", out=tmp_path / "run", sample=6)
        same = run("l2_norm", out=tmp_path / "run", sample=4)
        assert run("l2_norm", bf16=True).scores.conditions == there.replace("float32", "bfloat16 autocast")
    finally:
        torch.set_num_threads(threads)
    assert larger.scores.conditions == "; ".join(sorted([here, there]))
    assert same.scores.conditions == here  # nothing was measured, and nothing is shown that was measured otherwise


def make_scaled(scale: Any) -> Callable[..., float]:
    def scaled(student: Readings, teacher: Readings | None = None) -> float:
        Calls.made.append(0)
        return float(scale * len(student.layers))

    return scaled


def test_functions_that_hold_other_values_are_other_proxies(run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Two different proxies are called 'scaled'"):
        run([make_scaled(1), make_scaled(-1)])
    Calls.made.clear()
    run([make_scaled(2), make_scaled(2)], out=tmp_path / "run")
    up, down = (run(make_scaled(scale), out=tmp_path / "run") for scale in (2, -2))
    assert len(Calls.made) == 16
    assert scores_of(down, "scaled")["scaled"] == [[-score for score in scores_of(up, "scaled")["scaled"][0]]]


class Opaque(float):
    """A number that might hold more than can be seen."""


def test_what_holds_an_object_is_computed_anew_each_time(run, tmp_path: Path) -> None:
    Calls.made.clear()
    function = make_scaled(Opaque(2))
    for count in (1, 2):
        scores = run([function, function], out=tmp_path / "run").scores
        assert len(Calls.made) == count * 8
        assert np.isfinite(scores.scores["scaled"]).all()


def test_a_small_sample_reads_no_other_architectures(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "run")
    first, second = (store.series(name, {"space": "s"}) for name in ("p", "q"))
    texts = [f"a{i}" for i in range(50)]
    for place, text in enumerate(texts):
        failed = place % 5 == 0
        new = NewScore(None if failed else place, "no" if failed else None, 1.0, ())
        store.add(3, {text: {first: new}}, "here" if place % 2 else "there")
    rows = []
    store._store.set_progress_handler(lambda: rows.append(0), 1)
    chosen = store.select(["a7", "new", "a10", "a7"])
    assert chosen.architectures == ("a7", "new", "a10")
    assert chosen.scores(first, 3) == {
        "a7": StoredScore(7, None, 1, "here"),
        "a10": StoredScore(None, "no", 1, "there"),
    }
    assert chosen.missing(first, 3) == ["new"]
    assert chosen.missing(first, 3, failed=True) == ["new", "a10"]
    assert chosen.missing(second, 3) == chosen.missing(first, 2) == list(chosen.architectures)
    store._store.set_progress_handler(None, 0)
    assert len(rows) < 1000  # steps of the database
    assert store.select(texts).missing(first, 3, failed=True) == texts[::5]


def test_a_score_is_for_good_and_a_failure_is_not(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "run")
    series = store.series("p", {"space": "s"})
    store.add(0, {"a": {series: NewScore(None, "no", 1.0, ())}}, "here")
    store.add(0, {"a": {series: NewScore(2.0, None, 3.0, ("model",))}}, "there")
    assert store.select("a").scores(series, 0) == {"a": StoredScore(2.0, None, 3.0, "there")}
    with pytest.raises(sqlite3.IntegrityError):
        store.add(0, {"a": {series: NewScore(4.0, None, 1.0, ())}}, "here")
    assert store.select("a").scores(series, 0) == {"a": StoredScore(2.0, None, 3.0, "there")}


def test_a_folder_gives_what_memory_gives(run, tmp_path: Path) -> None:
    options = {"teacher": TEACHER, "controls": True}
    in_memory = run(["semantic", picky], **options)
    run(["semantic"], out=tmp_path / "run", sample=5, **options)
    in_parts = run(["semantic", picky], out=tmp_path / "run", **options)
    for label, scores in in_memory.scores.scores.items():
        np.testing.assert_array_equal(scores, in_parts.scores.scores[label])
    assert in_memory.scores.failures == in_parts.scores.failures
    assert in_parts.path == tmp_path / "run"


# -- ends of a process --------------------------------------------------------------------------


def fragile(student: Readings, teacher: Readings | None = None) -> float:
    """Kills its process at a call that the environment names."""
    Calls.made.append(0)
    if len(Calls.made) == int(os.environ.get("DISWOT_TEST_KILL_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return float(student.features.mean())


def compare_small(out: Path) -> Comparison:
    space = Built()
    accuracies = {str(architecture): 60.0 + i for i, architecture in enumerate(space)}
    probe = ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4)
    table = AccuracyTable("known.csv", "accuracy", accuracies)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with another number of them, as another process may have, sums are rounded otherwise
    try:
        return compare(space, ["l2_norm", fragile], table, probe, weight_draws=2, bootstrap=0, out=out, device="cpu")
    finally:
        torch.set_num_threads(threads)


def compare_and_be_killed(out: Path, at: int) -> None:
    os.environ["DISWOT_TEST_KILL_AT"] = str(at)
    compare_small(out)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_what_was_stored_before_a_kill_is_not_computed_again(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.jobs.compare"])
    process = context.Process(target=compare_and_be_killed, args=(tmp_path / "run", 11))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "comparison.json").exists()
    Calls.made.clear()
    resumed = compare_small(tmp_path / "run")
    assert len(Calls.made) == 16 - 10
    whole = compare_small(tmp_path / "whole")
    assert scores_of(resumed) == scores_of(whole)
    assert (tmp_path / "run/scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_one_interrupt_lets_the_architecture_at_hand_finish(run, space: Built, tmp_path: Path) -> None:
    def interrupting(student: Readings, teacher: Readings | None = None) -> float:
        Calls.made.append(0)
        if len(Calls.made) == 3:
            signal.raise_signal(signal.SIGINT)
        return 1.0 + len(Calls.made)

    Calls.made.clear()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run([interrupting, "l2_norm"], out=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    space.built.clear()
    finished = run([interrupting, "l2_norm"], out=tmp_path / "run")
    assert len(Calls.made) == 8
    assert space.built == [str(architecture) for architecture in space][3:]
    assert finished.scores.failures["interrupting"] == {}


def test_a_folder_is_used_by_one_process_at_a_time(run, tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "run")
    with pytest.raises(ds.RunFolderError, match="Another process works on"):
        run("l2_norm", out=tmp_path / "run")
    store.release()
    run("l2_norm", out=tmp_path / "run")


def test_a_damaged_result_is_named_and_made_again(run, tmp_path: Path) -> None:
    run("l2_norm", out=tmp_path)
    file = tmp_path / "comparison.json"
    content = file.read_bytes()
    file.write_bytes(content[:20])
    with pytest.warns(UserWarning, match=r"comparison\.json is damaged .* It is made again from the store\.$"):
        run("l2_norm", out=tmp_path)
    assert file.read_bytes() == content


def test_a_changed_score_is_named_before_anything_is_written(run, space: Built, tmp_path: Path) -> None:
    texts = [str(architecture) for architecture in space]
    out = tmp_path / "run"
    run("l2_norm", out=out, architectures=texts[:5])
    with sqlite3.connect(out / "scores.sqlite") as store:
        store.execute("UPDATE scores SET score = score + 1 WHERE seed = 0 AND reason IS NULL")
    store.close()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for requested in (texts[:5], texts):
        with pytest.raises(ds.RunFolderError, match=r"the score of .* with seed 0 does not match its checksum"):
            run("l2_norm", out=out, architectures=requested)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_of_other_things_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").touch()
    with pytest.raises(ds.RunFolderError, match="is the run folder of a search"):
        run("l2_norm", out=tmp_path)
    with pytest.raises(ds.RunFolderError, match="is a file"):
        run("l2_norm", out=tmp_path / "study.sqlite")


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "run")
    series = store.series("p", {"space": "s"})
    store.add(0, {"a": {series: NewScore(1.5, None, 0.25, ("model",))}}, "cpu")
    pages = store._store.execute("PRAGMA page_count").fetchone()[0]
    store._store.execute(f"PRAGMA max_page_count = {pages}")
    rows: Mapping[str, Any] = {f"{i:0500}": {series: NewScore(2.0, None, 1.0, ())} for i in range(500)}
    with pytest.raises(ds.RunFolderError, match=r"disk of .* is full\. What was stored is safe"):
        store.add(0, rows, "cpu")
    store.release()
    again = ScoreStore(tmp_path / "run")
    assert again.series("p", {"space": "s"}) == series
    chosen = again.select(["a", *rows])
    assert chosen.scores(series, 0) == {"a": StoredScore(1.5, None, 0.25, "cpu")}
    assert chosen.missing(series, 0) == list(rows)
    assert again.passes(series) == ("model",)
    again.release()


# -- files --------------------------------------------------------------------------------------


def test_a_run_folder_has_the_scores_the_results_and_pictures(
    run, table: AccuracyTable, pictures: dict[str, Any], tmp_path: Path
) -> None:
    pictures.update(COMPARISON_PICTURES)
    comparison = run(["semantic", picky], teacher=TEACHER, weight_draws=2, out=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "scores.sqlite", "lock", "config.json", "config.yaml", "data.json", "scores.csv", "comparison.csv",
        "comparison.json", "comparison.md", *COMPARISON_PICTURES,
    }  # fmt: skip
    with (tmp_path / "run/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == [text for text in table for _ in range(2)]
    assert [row["seed"] for row in rows] == ["0", "1"] * 8
    for name in ("semantic", "picky"):
        written = [float(row[name] or "nan") for row in rows]
        np.testing.assert_array_equal(written, comparison.scores.scores[name].T.flatten())
    assert [float(row["accuracy"]) for row in rows[::2]] == list(table.values())
    assert [int(row["params"]) for row in rows[::2]] == comparison.scores.params.tolist()
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["teacher"]["name"] == TEACHER
    assert (config["seed"], config["weight_draws"]) == (0, 2)
    assert config["proxies"][0] == "semantic"
    results = json.loads((tmp_path / "run/comparison.json").read_text())
    assert "semantic" in json.dumps(results)
    assert "semantic" in (tmp_path / "run/comparison.md").read_text()


def test_the_config_is_enough_to_do_it_again(run, space: Built, table: AccuracyTable, tmp_path: Path) -> None:
    def config_of(**options: Any) -> dict[str, Any]:
        run(["semantic", picky, "log_rank(l2_norm, macs)"], teacher=TEACHER, out=tmp_path / "run", **options)
        return json.loads((tmp_path / "run/config.json").read_text())

    options = {
        "sample": 4,
        "seed": 2,
        "weight_draws": 2,
        "bootstrap": 3,
        "bins": 2,
        "top_k": 1,
        "include_untrainable": True,
    }
    given = config_of(**options, canonical=False, controls=True, other_teacher="cifar_resnet32", architectures=None)
    assert given.items() >= options.items()
    assert given["canonical"] is False
    assert given["architectures"] is None
    assert (given["table"], given["column"]) == ("known.csv", "accuracy")
    assert given["proxies"] == ["semantic", "picky", "log_rank(l2_norm, macs)", "params", "macs"]
    other = given["controls"]["other teacher: cifar_resnet32"]
    assert other == {"teacher": ds.create_teacher("cifar_resnet32", num_classes=4).config(), "treatment": None}
    assert given["controls"]["shuffled"] == {"teacher": given["teacher"], "treatment": "shuffled"}
    assert given["compared"]["count"] == 4
    assert config_of(**options)["compared"] == given["compared"]
    assert config_of(**options)["controls"] == {}
    listed = ["2-1-1", "1-1-2", "1-2-1"]
    some = config_of(architectures=(space.parse(text) for text in listed))
    assert some["architectures"] == listed
    assert some["compared"]["architectures_sha256"] == hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    values = json.dumps([table[text] for text in listed])
    assert some["compared"]["accuracies_sha256"] == hashlib.sha256(values.encode()).hexdigest()


def test_bins_are_as_many_as_are_asked_for(probe: ds.Probe) -> None:
    space = create_space("cifar_resnet_s0", num_classes=4, input_size=(3, 8, 8))
    table = AccuracyTable("t", "accuracy", {str(a): float(i) for i, a in enumerate(space)})
    for bins in (2, 4):
        assert len(compare(space, [], table, probe, bootstrap=0, bins=bins)["macs"].bins) == bins


def test_a_table_is_read_from_its_file(space: Built, probe: ds.Probe, table: AccuracyTable, tmp_path: Path) -> None:
    path = tmp_path / "known.csv"
    path.write_text("architecture,accuracy,other\n" + "".join(f"{a},{v},{-v}\n" for a, v in table.items()))
    first = compare(space, [], path, probe, column="accuracy", bootstrap=0)
    second = compare(space, [], path, probe, column="other", bootstrap=0)
    assert first["macs"].kendall.value == -second["macs"].kendall.value != 0
    assert second.scores.column == "other"


def test_a_table_may_be_a_mapping_or_name_its_column_of_architectures(
    space: Built, probe: ds.Probe, table: AccuracyTable, tmp_path: Path
) -> None:
    path, out = tmp_path / "known.csv", tmp_path / "run"
    path.write_text("net,accuracy\n" + "".join(f"{a},{v}\n" for a, v in table.items()))
    given = compare(space, [], table, probe, bootstrap=0)
    for values, options in ((dict(table), {}), (path, {"architecture_column": "net"})):
        result = compare(space, [], values, probe, bootstrap=0, **options)
        assert result["macs"].kendall.value == given["macs"].kendall.value
    compare(space, [], dict(table), probe, bootstrap=0, out=out)
    assert yaml.safe_load((out / "config.yaml").read_text())["table"] == dict(table)
    with pytest.raises(ValueError, match="name its architecture_column"):
        compare(space, [], path, probe)


def test_costs_are_stored_as_they_are_counted_and_shown(
    space: Built, probe: ds.Probe, table: AccuracyTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("diswot_search.comparison.scoring.SECONDS_UNTIL_STORED", 0.0)
    monkeypatch.setattr("diswot_search.reports.progress.CostProgress.SECONDS_PER_LINE", 0.0)
    stored: list[list[str]] = []
    add = ScoreStore.add

    def watched(store: ScoreStore, seed: int, scores: Mapping[str, Any], *others: Any) -> None:
        stored.append(list(scores))
        add(store, seed, scores, *others)

    monkeypatch.setattr(ScoreStore, "add", watched)
    compare(space, [], table, probe, bootstrap=0)
    assert stored == [[architecture] for architecture in table]
    assert f"counting costs  {len(table)}/{len(table)} architectures" in capsys.readouterr().err


# -- bad input ----------------------------------------------------------------------------------


ROWS = {str(architecture): 60.0 + i for i, architecture in enumerate(Built())}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxies": "synflo"}, "Unknown proxy 'synflo'. Did you mean 'synflow'"),
        ({"proxies": ["l2_norm", "synfl*w?"]}, "Unknown proxy 'synfl"),
        ({"proxies": "log_rank(l2_norm, mac)"}, "Unknown proxy 'mac'. Did you mean 'macs'"),
        ({"proxies": [picky, ds.Proxy("picky", ignorant, False, "")]}, "Two different proxies are called 'picky'"),
        ({"proxies": ["l2_norm", "diswot"]}, "No teacher for 'diswot': pass"),
        ({"proxies": "log_rank(diswot, macs)"}, "pass `teacher=`, or leave out proxies that need one"),
        ({"controls": True}, "none of these does: 'l2_norm', 'params', 'macs'"),
        ({"controls": True, "teacher": TEACHER}, "Controls repeat proxies that compare with a teacher, but none"),
        ({"other_teacher": TEACHER}, "ask for them with controls=True"),
        (
            {"proxies": "diswot", "teacher": TEACHER, "controls": True, "other_depth": TEACHER},
            "The other depth is 'cifar_resnet20', which is the teacher itself",
        ),
        ({"teacher": "cifar_resnet21"}, "Unknown teacher 'cifar_resnet21'. Did you mean"),
        ({"table": {}}, "has no architectures"),
        ({"table": ROWS | {"1-1-3": 3.0, "x": 4.0}}, "2 of the 10 architectures of known.csv are not of tiny"),
        ({"table": ROWS | {"1-1-1": math.nan}}, "no finite accuracy for '1-1-1'"),
        ({"table": dict(list(ROWS.items())[:2])}, "at least 3 architectures, got 2"),
        ({"column": "accuracies"}, "holds 'accuracy', not the column 'accuracies'"),
        ({"sample": 9}, "sample is 9, but known.csv has 8 architectures to compare"),
        ({"sample": 0}, "sample is 0; it must be a whole number of at least 1"),
        ({"architectures": ["1-1-1", "1-1-2", "1-1-9"]}, "not among the 8 of known.csv: 1-1-9"),
        ({"architectures": ["1-1-1", "1-1-2", "1-1-1"]}, "Architectures given more than once: '1-1-1'"),
        ({"weight_draws": 0}, "weight_draws is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"bins": 0}, "bins is 0; it must be a whole number of at least 1"),
        ({"top_k": 9}, "top_k is 9, but 8 architectures are compared"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"space": "cifar_resne"}, "Unknown search space 'cifar_resne'. Did you mean"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(
    options: dict[str, Any], message: str, probe: ds.Probe, tmp_path: Path
) -> None:
    given = {"space": Built(), "proxies": "l2_norm", "table": ROWS, "bootstrap": 0, "out": tmp_path / "run"} | options
    space, proxies, rows = (given.pop(name) for name in ("space", "proxies", "table"))
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("?", r"\?")):
        compare(space, proxies, AccuracyTable("known.csv", "accuracy", rows), probe, **given)
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_wrong_kind_is_refused(space: Built, probe: ds.Probe, tmp_path: Path) -> None:
    path = tmp_path / "known.csv"
    path.write_text("architecture,accuracy\n1-1-1,60\n1-1-2,61\n1-1-1,62\n")
    with pytest.raises(ValueError, match="1-1-1 is there twice"):
        compare(space, "l2_norm", path, probe, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"Unknown column 'acuracy'\. Did you mean 'accuracy'"):
        compare(space, "l2_norm", path, probe, column="acuracy", out=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="There is no table"):
        compare(space, "l2_norm", tmp_path / "none.csv", probe, out=tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["known.csv"]


def test_probes_fit_the_draws_and_the_space(space: Built, probe: ds.Probe, table: AccuracyTable) -> None:
    with pytest.raises(ValueError, match="There are 2 probes for 3 draws"):
        compare(space, "l2_norm", table, [probe, probe], weight_draws=3)
    wrong = ds.create_probe("noise", batch_size=8, image_size=16, num_classes=4)
    with pytest.raises(ValueError, match="16x16 with 3 channels, but the space 'tiny' is made for 8x8"):
        compare(space, "l2_norm", table, wrong)


def test_a_teacher_that_cannot_be_read_is_refused(space: Built, probe: ds.Probe, run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The teacher 'vit_tiny_patch16_224' cannot be read"):
        run("semantic", teacher="vit_tiny_patch16_224", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_real_tables_are_read(shared_data: Path, probe: ds.Probe) -> None:
    table = read_table(shared_data / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    space = create_space("cifar_resnet_s0", num_classes=4, input_size=(3, 8, 8))
    comparison = compare(space, [], table, probe, bootstrap=0)
    assert len(comparison.scores.architectures) == 64
    assert comparison["params"].kendall.value == pytest.approx(0.873, abs=0.002)
    assert comparison["macs"].kendall.value == pytest.approx(0.657, abs=0.05)
