"""Scores combined by rank, and searches that such a ranking guides."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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

import diswot_search as ds
from diswot_search import cli
from diswot_search.proxies import registry
from diswot_search.proxies.aggregate import RankAggregate
from diswot_search.proxies.proxy import Proxy
from diswot_search.proxies.registry import (
    create_aggregate,
    get_proxy,
    list_aggregates,
    list_proxies,
    register_aggregate,
    register_proxy,
)
from diswot_search.study import algorithms as evolution
from diswot_search.study.evaluator import Evaluator
from diswot_search.study.records import Record, Score
from search_spaces import Architecture, SearchSpace, UnknownNameError, create_space

from ..killing import killed_when
from ..searching import create_search

SMALL = {"channels": 4, "cells": 1}
"""Options that make NAS-Bench-201 small enough for tests."""


def ranked_by_hand(method: str, scores: Mapping[str, Sequence[float]]) -> list[float]:
    """The definition, pair by pair."""
    combined = []
    for place in range(len(next(iter(scores.values())))):
        shares = []
        for values in scores.values():
            below = sum(value < values[place] for value in values)
            equal = sum(value == values[place] for value in values)
            shares.append((below + (equal + 1) / 2) / len(values))
        combined.append(sum(map(math.log, shares)) if method == "log_rank" else sum(shares) / len(shares))
    return combined


def noise(name: str) -> Proxy:
    """A component that is only a name."""
    return Proxy(name, lambda student, teacher: 0.0, needs_teacher=False, summary="")


def aggregate_of(scores: Mapping[str, Any], method: str) -> RankAggregate:
    return create_aggregate([noise(name) for name in scores], method)


# -- the ranking --------------------------------------------------------------------------------

METHODS = st.sampled_from(["log_rank", "mean_rank"])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[float]]:
    """Scores of two to four components for one to twelve architectures; ties are frequent."""
    value = st.integers(-3, 3).map(float) | st.floats(-1e300, 1e300)
    size = draw(st.integers(1, 12))
    components = draw(st.integers(2, 4))
    return {f"p{i}": draw(st.lists(value, min_size=size, max_size=size)) for i in range(components)}


@given(tables(), METHODS)
def test_scores_are_those_of_the_definition(scores: dict[str, list[float]], method: str) -> None:
    combined = aggregate_of(scores, method).combine(scores)
    assert combined.tolist() == pytest.approx(ranked_by_hand(method, scores), abs=1e-12)


def test_a_ranking_that_can_be_checked_by_eye() -> None:
    scores = {"a": [10.0, 30.0, 20.0, 20.0], "b": [1.0, 4.0, 2.0, 3.0]}
    log_rank = get_proxy(aggregate_of(scores, "log_rank")).combine(scores)
    assert np.exp(log_rank) == pytest.approx([1 / 16, 1, 5 / 16, 7.5 / 16])
    assert aggregate_of(scores, "mean_rank").combine(scores) == pytest.approx([0.25, 1, 4.5 / 8, 5.5 / 8])


@given(tables(), METHODS, st.randoms(use_true_random=False))
def test_only_the_order_within_a_component_matters(
    scores: dict[str, list[float]], method: str, rng: random.Random
) -> None:
    stretched = {}
    for name, values in scores.items():
        levels = sorted(set(values))
        rising = dict(zip(levels, sorted(rng.sample(range(-1000, 1000), len(levels))), strict=True))
        stretched[name] = [rising[value] for value in values]
    aggregate = aggregate_of(scores, method)
    assert aggregate.combine(stretched).tolist() == aggregate.combine(scores).tolist()


@given(tables(), METHODS, st.randoms(use_true_random=False))
def test_neither_the_order_of_architectures_nor_that_of_components_matters(
    scores: dict[str, list[float]], method: str, rng: random.Random
) -> None:
    order = list(range(len(scores["p0"])))
    rng.shuffle(order)
    shuffled = {name: [values[place] for place in order] for name, values in reversed(scores.items())}
    combined = aggregate_of(scores, method).combine(scores)
    assert aggregate_of(shuffled, method).combine(shuffled).tolist() == combined[order].tolist()


@pytest.mark.parametrize("method", ["log_rank", "mean_rank"])
def test_equal_ranks_from_other_components_are_equal_scores(method: str) -> None:
    order = np.random.default_rng(0).permutation(97)
    scores = {"a": order, "b": np.roll(order, 1), "c": np.roll(order, 2)}
    turned = {"a": scores["c"], "b": scores["a"], "c": scores["b"]}
    aggregate = aggregate_of(scores, method)
    assert aggregate.combine(turned).tolist() == aggregate.combine(scores).tolist()


@given(tables(), METHODS)
def test_what_is_best_in_all_has_the_highest_score_there_is(scores: dict[str, list[float]], method: str) -> None:
    best = {name: [*values, max(values) + abs(max(values)) + 1.0] for name, values in scores.items()}
    combined = aggregate_of(best, method).combine(best)
    assert combined[-1] == {"log_rank": 0.0, "mean_rank": 1.0}[method]
    assert (combined[:-1] < combined[-1]).all()


def test_nothing_is_ranked_as_nothing() -> None:
    assert get_proxy("log_rank(params, macs)").combine({"params": [], "macs": []}).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"params": [1.0]}, "no scores of macs"),
        ({"params": [1.0, 2.0], "macs": [1.0]}, r"shapes are params \(2,\), macs \(1,\)"),
        ({"params": [[1.0]], "macs": [[1.0]]}, r"shapes are params \(1, 1\)"),
        ({"params": [1.0, 2.0], "macs": [1.0, math.nan]}, "scores of macs are not finite"),
        ({"params": [-math.inf, 2.0], "macs": [1.0, 2.0]}, "scores of params are not finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"log_rank\(params, macs\): .*" + message):
        get_proxy("log_rank(params, macs)").combine(scores)


# -- names --------------------------------------------------------------------------------------


@pytest.fixture
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the registry of proxies after the test."""
    monkeypatch.setattr(registry._PROXIES, "_entries", dict(registry._PROXIES._entries))


def test_an_aggregate_is_written_as_its_method_and_components() -> None:
    aggregate = get_proxy(" mean_rank( relation,macs , params) ")
    assert isinstance(aggregate, RankAggregate)
    assert (aggregate.method, aggregate.component_names) == ("mean_rank", ("relation", "macs", "params"))
    assert aggregate.name == aggregate.identity == "mean_rank(relation, macs, params)"
    assert aggregate.components == tuple(map(get_proxy, aggregate.component_names))
    assert aggregate.needs_teacher
    assert not get_proxy("log_rank(params, macs)").needs_teacher
    assert get_proxy(aggregate) is aggregate
    assert get_proxy(aggregate.name) == aggregate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_rnk(params, macs)", "Unknown method of aggregation 'log_rnk'. Did you mean 'log_rank'"),
        ("log_rank(params, mcas)", "Unknown proxy 'mcas'. Did you mean 'macs'"),
        ("log_rank(params)", "at least two components, not 1"),
        ("log_rank(params, macs, params)", "the component 'params' is there twice"),
        ("log_rank(params, macs", "is no aggregate; write a method and the names of proxies"),
        ("log_rank()", "is no aggregate"),
        ("log_rank(params,, macs)", "is no aggregate"),
        ("log_rank(params, log_rank(params, macs))", "is no aggregate"),
        ("(params, macs)", "is no aggregate"),
    ],
)
def test_text_that_is_no_aggregate_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_proxy(text)


@pytest.mark.usefixtures("restored_registry")
def test_a_registered_aggregate_is_known_by_name() -> None:
    plain = list_proxies()
    aggregate = register_aggregate("both", ["params", "macs"], "mean_rank", "Size and work.")
    assert get_proxy("both") is aggregate
    assert (aggregate.name, aggregate.summary) == ("both", "Size and work.")
    assert aggregate.identity == "mean_rank(params, macs)"
    assert list_aggregates("bo*") == ["both"]
    assert list_proxies() == plain
    with pytest.raises(UnknownNameError, match="Did you mean 'both'"):
        get_proxy("bothh")
    with pytest.raises(ValueError, match="'params' is registered already"):
        register_aggregate("params", ["params", "macs"], "mean_rank", "")
    with pytest.raises(ValueError, match=r"'both' is an aggregate, and .*; its components are params, macs"):
        get_proxy("log_rank(both, relation)")
    with pytest.raises(ValueError, match=r"'both' is an aggregate, .* cannot be a component"):
        register_proxy("more", lambda student, teacher: 0.0, components=("both",))
    assert "more" not in list_proxies()


def test_components_say_which_readings_they_need() -> None:
    first = Proxy("first", noise("a").function, False, "", needs=("gradients", "block_gradients"))
    second = Proxy("second", noise("a").function, False, "", needs=("block_gradients",))
    assert create_aggregate([first, second]).needs == ("gradients", "block_gradients")
    with pytest.raises(UnknownNameError, match=r"Unknown reading 'gradient'. Did you mean 'gradients'"):
        register_proxy("third", noise("a").function, needs=("gradient",))
    assert "third" not in list_proxies()


def test_a_function_of_ones_own_is_remembered_by_its_code() -> None:
    def mine(student: ds.Readings, teacher: ds.Readings | None) -> float:
        return 1.0

    aggregate = create_aggregate([mine, "macs"], name="my ranking")
    assert aggregate.identity == f"log_rank({get_proxy(mine).identity}, macs)"
    assert "code" in aggregate.identity


# -- a search -----------------------------------------------------------------------------------

RANKING = "log_rank(params, macs)"
"""Two components that need no network; `Tabular` gives them other values."""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Pictures are looked at elsewhere, and would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["diswot_search.jobs.search"], "PICTURES", {})
        yield


@pytest.fixture(scope="module")
def probe() -> ds.Probe:
    return ds.create_probe(batch_size=8)


@pytest.fixture(scope="module")
def cells() -> SearchSpace:
    return create_space("nasbench201", **SMALL)


class Tabular(Evaluator):
    """Components have values that are a fixed function of the architecture's text, with ties and failures.

    Args:
        space: The space.
        probe: The probe, which no network sees.
        before: Called with the number of earlier evaluations before each one.
    """

    def __init__(self, space: SearchSpace, probe: ds.Probe, before: Callable[[int], None] = lambda count: None) -> None:
        super().__init__(space, None, probe, RANKING)
        self.before = before
        self.count = 0

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Score]:
        return [self.score(architecture) for architecture in architectures]

    def score(self, architecture: Architecture) -> Score:
        self.before(self.count)
        self.count += 1
        rng = random.Random(str(self.space.canonical(architecture)))
        if rng.random() < 0.1:
            return Score("failed", reason="macs: the score is nan")
        return Score("ok", parts={"params": rng.randrange(30) / 7, "macs": rng.gauss(0, 1)}, seconds=0.001)


ALGORITHMS = {
    "evolution": {"population": 10, "tournament": 3},
    "ageing": {"population": 10, "sample": 3},
    "nsga2": {"population": 8},
    "random": {},
    "exhaustive": {},
}


def ranked(records: Sequence[Record]) -> list[Record]:
    """The records with the scores that they have among each other."""
    scored = [record for record in records if record.status == "ok"]
    if not scored:
        return list(records)
    parts = {name: [record.parts[name] for record in scored] for name in scored[0].parts}
    scores = dict(zip((record.index for record in scored), ranked_by_hand("log_rank", parts), strict=True))
    return [replace(record, score=scores.get(record.index), seconds=0.0) for record in records]


def assert_ranked(records: Sequence[Record]) -> None:
    """Every score is the one that its architecture has among all of these."""
    for record, expected in zip(records, ranked(records), strict=True):
        assert replace(record, score=None, seconds=0.0) == replace(expected, score=None)
        assert record.score == pytest.approx(expected.score, abs=1e-12)


def without_seconds(study: ds.Study) -> list[Record]:
    return [replace(record, seconds=0.0) for record in study.records]


def search(evaluator: Evaluator, algorithm: str = "evolution", out: Any = None, evaluations: int = 60) -> ds.Study:
    return create_search(
        evaluator, algorithm=algorithm, algorithm_options=ALGORITHMS[algorithm], evaluations=evaluations, out=out
    ).run()


class Watched:
    """Keeps what an algorithm is told, and what it has learned then."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm
        self.told: list[Record] = []
        self.generations: list[tuple[list[Record], list[Record], list[tuple[str, tuple[float, ...]]]]] = []

    def ask(self, most: int | None = None) -> list[Architecture]:
        return self.algorithm.ask(most)

    def tell(self, records: Sequence[Record], *, scored: Any) -> None:
        scored = list(scored)
        self.told += records
        self.algorithm.tell(records, scored=scored)
        learned = [(str(i.architecture), i.fitness.values) for i in getattr(self.algorithm, "individuals", [])]
        self.generations.append((list(self.told), scored, learned))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stopped", [False, True])
def test_every_generation_is_told_the_ranking_of_all_that_was_scored_until_then(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path, algorithm: str, stopped: bool
) -> None:
    out = tmp_path / "run" if stopped else None
    if stopped:
        search(Tabular(cells, probe), algorithm, out, evaluations=41)
    options = {"algorithm": algorithm, "algorithm_options": ALGORITHMS[algorithm], "out": out}
    run = create_search(Tabular(cells, probe), evaluations=60, **options)
    run.algorithm = watched = Watched(run.algorithm)  # type: ignore[assignment]
    run.run()
    assert len(watched.generations) >= 3
    for told, scored, learned in watched.generations:
        now = [record for record in ranked(told) if record.status == "ok"]
        assert [record.index for record in scored] == [record.index for record in now]
        scores = {record.architecture: pytest.approx(record.score, abs=1e-12) for record in now}
        assert [record.score for record in scored] == list(scores.values())
        assert [fitness[0] for _, fitness in learned] == [scores[architecture] for architecture, _ in learned]
        if algorithm == "evolution":
            best = sorted((record.score for record in now), reverse=True)[:10]
            assert [fitness[0] for _, fitness in learned] == pytest.approx(best, abs=1e-12)
        if algorithm == "ageing":
            assert [architecture for architecture, _ in learned] == list(scores)[-10:]
        if algorithm == "nsga2":
            front = [r for r in now if not any(beats(other, r) for other in now)]
            assert len(front) > 8 or {r.architecture for r in front} <= {architecture for architecture, _ in learned}


def beats(one: Record, other: Record) -> bool:
    """Whether one has no lower score and no more parameters, and is not the same in both."""
    mine, theirs = (one.score, -one.params), (other.score, -other.params)
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def test_the_store_is_right_at_every_moment(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    seen: list[int] = []

    def look(count: int) -> None:
        if count:
            records = list(ds.Study.load(tmp_path / "run").records)
            assert_ranked(records)
            seen.append(len(records))

    search(Tabular(cells, probe, look), out=tmp_path / "run", evaluations=30)
    assert seen == list(range(1, 30))


@given(st.sampled_from(sorted(ALGORITHMS)), st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=8)
def test_a_search_stopped_anywhere_ends_as_one_that_was_not(
    cells: SearchSpace, probe: ds.Probe, algorithm: str, stops: list[int]
) -> None:
    whole = search(Tabular(cells, probe), algorithm, evaluations=40)
    with tempfile.TemporaryDirectory() as folder:
        for stop in stops:

            def stop_there(count: int, stop: int = stop) -> None:
                if count == stop:
                    raise KeyboardInterrupt

            try:
                search(Tabular(cells, probe, stop_there), algorithm, f"{folder}/run", evaluations=40)
            except KeyboardInterrupt:
                assert_ranked(list(ds.Study.load(f"{folder}/run").records))
        parts = search(Tabular(cells, probe), algorithm, f"{folder}/run", evaluations=40)
        assert without_seconds(parts) == without_seconds(whole)
        assert parts.winner.record == whole.winner.record


def test_the_curves_do_not_show_where_a_search_was_stopped(cells: SearchSpace, probe: ds.Probe, tmp_path: Path) -> None:
    search(Tabular(cells, probe), out=tmp_path / "whole", evaluations=40)
    for evaluations in (17, 40):
        search(Tabular(cells, probe), out=tmp_path / "parts", evaluations=evaluations)
    curves = curves_in(tmp_path / "whole")
    assert curves == curves_in(tmp_path / "parts")
    records = list(ds.Study.load(tmp_path / "whole").records)
    for count in range(1, 41):
        now = [record for record in ranked(records[:count]) if record.status == "ok"]
        if records[count - 1].status == "ok":
            best = max(now, key=lambda record: (round(record.score, 12), -record.params))
            assert curves["score/evaluation"][count - 1] == pytest.approx(now[-1].score, abs=1e-6)
            assert curves["score/best"][count - 1] == pytest.approx(best.score, abs=1e-6)
            assert curves["best/macs"][count - 1] == pytest.approx(best.parts["macs"], abs=1e-6)
    assert list(curves["best/params"]) == [record.index for record in records if record.status == "ok"]


def curves_in(folder: Path) -> dict[str, dict[int, float]]:
    """Every curve of the run folder but that of the time: values by step."""
    events = EventAccumulator(str(folder / "curves"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("seconds")]
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def test_the_result_is_that_of_the_last_ranking(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(Tabular(cells, probe), "nsga2", tmp_path / "run")
    study = ds.Study.load(tmp_path / "run")
    records = list(study.records)
    assert_ranked(records)
    assert study.config["proxy"] == RANKING
    scored = [record for record in records if record.status == "ok"]
    assert 0 < len(scored) < len(records)
    winner = min(scored, key=lambda record: (-record.score, record.params, record.index))
    assert study.winner.record == winner
    front = {r.index for r in scored if not any(beats(other, r) for other in scored)}
    assert {candidate.record.index for candidate in study.front} == front
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["winner"]["score"] == winner.score
    assert result["evaluations"]["failures"] == {"macs: the score is nan": len(records) - len(scored)}
    with (tmp_path / "run" / "architectures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == ["" if r.score is None else repr(r.score) for r in records]
    assert [row["part_macs"] for row in rows] == [repr(r.parts["macs"]) if r.parts else "" for r in records]
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    assert f"{winner.score:.5g}" in capsys.readouterr().out


def test_an_algorithm_that_cannot_forget_is_refused_before_anything_is_made(
    cells: SearchSpace, probe: ds.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stubborn(evolution.RandomSearch):
        def learn(self, evaluated: Any) -> None:
            """Remember what cannot be forgotten."""

    monkeypatch.setattr(evolution._algorithms, "_entries", dict(evolution._algorithms._entries))
    evolution.register_algorithm("stubborn", Stubborn)
    with pytest.raises(ValueError, match="Stubborn defines `learn` but not `forget`"):
        create_search(Tabular(cells, probe), algorithm="stubborn", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(ds.search(cells, None, probe, proxy="params", algorithm="stubborn", evaluations=3)) == 3


def test_a_member_that_cannot_read_the_teacher_is_refused_before_anything_is_made(
    cells: SearchSpace, tmp_path: Path
) -> None:
    one_class = ds.Probe.from_tensors(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long), num_classes=1)
    space = create_space("nasbench201", num_classes=1, **SMALL)
    with pytest.raises(ValueError, match="class"):
        ds.search(space, "cifar_resnet20", one_class, proxy="log_rank(params, semantic)", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- real networks, real kills ------------------------------------------------------------------


def search_small(out: str) -> ds.Study:
    torch.set_num_threads(1)
    return ds.search(
        create_space("nasbench201", **SMALL),
        "cifar_resnet20",
        ds.create_probe(batch_size=8),
        proxy="mean_rank(relation, semantic, macs)",
        algorithm_options={"population": 10},
        evaluations=40,
        seed=5,
        out=out,
        device="cpu",
    )


def search_in_child(out: str) -> None:
    search_small(out)


def records_in(out: Path) -> list[Record]:
    try:
        return list(ds.Study.load(out).records)
    except ds.RunFolderError:
        return []


def has_records(out: Path, count: int) -> bool:
    return len(records_in(out)) >= count


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have everything imported, from a server that never ran anything else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.jobs.search", "torch.utils.tensorboard", "matplotlib.figure"])
    return context


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_search_killed_again_and_again_ends_as_one_that_was_not(processes: Any, tmp_path: Path) -> None:
    out, kills = tmp_path / "killed", 0
    for target in (3, 22):
        arguments = (partial(has_records, out, target), target, search_in_child, str(out))
        process = processes.Process(target=killed_when, args=arguments)
        process.start()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        records = records_in(out)
        scores = get_proxy("mean_rank(relation, semantic, macs)").combine(
            {name: [record.parts[name] for record in records] for name in ("relation", "semantic", "macs")}
        )
        assert [record.score for record in records] == scores.tolist()
    assert kills >= 1
    resumed, whole = search_small(str(out)), search_small(str(tmp_path / "whole"))
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.winner.record.architecture == whole.winner.record.architecture
    assert curves_in(out) == curves_in(tmp_path / "whole")
