"""Every store says which worker made which record, and no result depends on it."""

from __future__ import annotations

import csv
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diswot_search as ds
from diswot_search.jobs.compare import ComparisonRun
from diswot_search.options.compare import CompareOptions
from diswot_search.reports.sources import describe_ranking
from diswot_search.reports.study import describe_study
from diswot_search.runtime.at_hand import FILE

from . import workers_parts as parts
from .any_order import AnyOrder

SPACE = {"channels": 4, "cells": 1}
FAST: dict[str, Any] = {"space_options": SPACE, "batch_size": 8, "device": "cpu", "progress": False}
SOURCES = ["cifar_resnet8", "cifar_resnet14", "cifar_resnet20"]

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As many threads in this process as in each worker, so that sums have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table_of(architectures: int) -> dict[str, float]:
    space, draw = ds.create_space("nasbench201", **SPACE), random.Random(0)
    return {str(space.canonical(space.sample(draw))): float(place) for place in range(architectures)}


def compare(architectures: int = 6, proxies: tuple[str, ...] = ("nwot",), **options: Any) -> ds.Comparison:
    small: dict[str, Any] = {**FAST, "weight_draws": 2, "bootstrap": 0, "include_untrainable": True}
    return ds.compare("nasbench201", list(proxies), table_of(architectures), **small | options)


def rank(**options: Any) -> ds.SourceRanking:
    small: dict[str, Any] = {"images": 20, "measures": "parc", "device": "cpu", "progress": False}
    return ds.rank_sources(SOURCES, "digits", **small | options)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def worker_lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("workers:")]


def test_a_comparison_says_which_worker_scored_what(tmp_path: Path) -> None:
    alone, together = compare(), compare(executor=AnyOrder(2, seed=0), out=tmp_path)
    table = together.scores
    for label, values in alone.scores.scores.items():
        np.testing.assert_array_equal(values, table.scores[label], err_msg=label)
    pairs = {(s, k) for s in range(2) for k in range(len(table.architectures))}
    assert table.workers.keys() == pairs
    counts = Counter(name for names in table.workers.values() for name in names)
    assert counts.keys() == {"worker 0", "worker 1"}
    rows = rows_of(tmp_path / "scores.csv")
    order = [table.workers[s, k] for k in range(len(table.architectures)) for s in range(2)]
    assert [row["worker"] for row in rows] == [name for (name,) in order]
    assert json.loads((tmp_path / "comparison.json").read_text())["workers"] == dict(counts)
    least, most = min(counts.values()), max(counts.values())
    line = f"workers: 2 scored {len(pairs)} networks, {least} to {most} each"
    assert worker_lines_of(str(together)) == [line]
    assert f"- {line}" in (tmp_path / "comparison.md").read_text().splitlines()


def test_scores_of_several_runs_keep_their_workers(tmp_path: Path) -> None:
    first = compare(6, executor=AnyOrder(1, seed=0), out=tmp_path)
    count = len(first.scores.architectures)
    more = compare(9, ("nwot", "params"), out=tmp_path)  # what is new is computed in this process
    assert more.scores.workers == {(s, k): ("worker 0",) for s in range(2) for k in range(count)}
    own = 2 * (len(more.scores.architectures) - count)
    assert worker_lines_of(str(more)) == [
        f"workers: 1 scored {2 * count} networks, all of them; the comparison's own process scored {own}"
    ]
    rows = rows_of(tmp_path / "scores.csv")
    assert [row["worker"] for row in rows] == ["worker 0"] * 2 * count + [""] * own
    third = compare(9, ("nwot", "synflow"), executor=Renamed(1, seed=0), out=tmp_path)
    assert third.scores.workers[0, 0] == ("worker 0", "worker 0 on far")
    assert rows_of(tmp_path / "scores.csv")[0]["worker"] == "worker 0 + worker 0 on far"


class Renamed(AnyOrder):
    """Workers on another machine."""

    def name(self, worker: int) -> str:
        return f"worker {worker} on far"


def test_a_ranking_says_which_worker_measured_which_source(tmp_path: Path) -> None:
    alone, together = rank(out=tmp_path / "alone"), rank(executor=AnyOrder(2, seed=0), out=tmp_path / "together")
    assert alone.result()["sources"] == together.result()["sources"]
    assert set(together.workers) == set(SOURCES)
    assert set(together.workers.values()) == {"worker 0", "worker 1"}
    assert ds.load_ranking(tmp_path / "together").workers == together.workers
    assert {row["name"]: row["worker"] for row in rows_of(tmp_path / "together/sources.csv")} == together.workers
    assert json.loads((tmp_path / "together/result.json").read_text())["workers"] == together.workers
    assert "workers: 2 measured 3 sources, 1 to 2 each" in describe_ranking(together)


def test_jobs_alone_name_no_workers(tmp_path: Path) -> None:
    comparison, ranking = compare(out=tmp_path / "comparison"), rank(out=tmp_path / "ranking")
    assert (comparison.scores.workers, ranking.workers) == ({}, {})
    assert worker_lines_of(str(comparison)) == worker_lines_of("\n".join(describe_ranking(ranking))) == []
    for file in ("comparison/scores.csv", "ranking/sources.csv"):
        assert {row["worker"] for row in rows_of(tmp_path / file)} == {""}


def test_what_no_worker_was_given_has_no_worker(tmp_path: Path) -> None:
    options: dict[str, Any] = {"proxy": parts.size, "algorithm": "random", **FAST, "out": tmp_path}
    study = ds.search("nasbench201", evaluations=4, **options)
    planned = ds.search("nasbench201", evaluations=8, **options | {"out": None})
    (fatal,) = (record for record in planned.records if record.index == 5)
    note = json.dumps([f"evaluation 5: {fatal.architecture}", 1])  # as a candidate leaves it that ends its process
    (tmp_path / FILE).write_text(f"{note}\nFatal Python error: Segmentation fault\n")
    study = ds.search("nasbench201", evaluations=8, executor=AnyOrder(2, seed=0), **options)
    failed = study.record(5)
    assert failed is not None
    assert (failed.reason, failed.worker) == ("it ended the process (Segmentation fault)", None)
    assert set(study.workers) <= {"worker 0", "worker 1"}
    assert sum(study.workers.values()) == 3
    (line,) = worker_lines_of("\n".join(describe_study(study)))
    assert line.endswith("; the search's own process made 5")


def test_each_draw_of_weights_is_work_for_a_worker() -> None:
    options = CompareOptions(
        space="nasbench201",
        proxies=["nwot"],
        table=table_of(3),
        workers=4,
        threads=4,
        **FAST | {"weight_draws": 2, "include_untrainable": True},
    )
    run = ComparisonRun(options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.check()
    assert run.executor.workers == 4
    assert not any("there is work for" in str(one.message) for one in caught)
