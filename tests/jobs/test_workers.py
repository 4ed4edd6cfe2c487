"""Searches, comparisons and rankings by several workers: the results of one, whatever happens to the workers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import diswot_search as ds
from diswot_search.options.search import SearchOptions
from diswot_search.reports.progress import ProgressBar, SearchProgress, worker_lines
from diswot_search.reports.study import describe_study
from diswot_search.resolve import executors
from diswot_search.resolve.executors import as_executor
from diswot_search.runtime.executors.dispatch import Activity
from diswot_search.runtime.executors.processes import ProcessExecutor
from diswot_search.runtime.failures import OutOfMemory
from diswot_search.study import cost_kinds

from ..source_tree import ROOT
from . import workers_parts as parts
from .any_order import AnyOrder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

SPACE = {"channels": 4, "cells": 1}
FAST: dict[str, Any] = {"space_options": SPACE, "batch_size": 8, "device": "cpu", "progress": False}


LONG: dict[str, Any] = {"evaluations": 400, "algorithm": "evolution"}
"""A search that takes a few seconds."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As many threads in this process as in each worker, so that sums have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def search(**options: Any) -> ds.Study:
    return ds.search("nasbench201", **{"proxy": parts.size, "evaluations": 12, **FAST, **options})


def records_of(study: ds.Study) -> list[object]:
    """Return the records without times and workers, which alone may differ."""
    return [dataclasses.replace(record, seconds=0.0, worker=None) for record in study.records]


TAUGHT: dict[str, Any] = {"proxy": "diswot", "teacher": "cifar_resnet20", "algorithm": "evolution"}


@pytest.fixture(scope="module")
def serial() -> list[object]:
    return records_of(search(**TAUGHT))


@settings(max_examples=6)
@given(workers=st.integers(1, 4), seed=st.integers(0, 99), proxy=st.sampled_from(["nwot", "log_rank(nwot, params)"]))
def test_the_order_of_completion_does_not_show(workers: int, seed: int, proxy: str) -> None:
    options = {"proxy": proxy, "algorithm": "evolution", "algorithm_options": {"population": 4, "tournament": 2}}
    study = search(**options, executor=AnyOrder(workers, seed))
    assert records_of(study) == records_of(search(**options))


def test_what_dies_twice_fails_in_any_order_and_nothing_else() -> None:
    options = {"algorithm": "random", "evaluations": 40}
    study, sound = search(**options, executor=AnyOrder(3, seed=0, deaths=0.4)), search(**options)
    pairs = list(zip(records_of(study), records_of(sound), strict=True))
    failed = [record for record, _ in pairs if record.status == "failed"]
    assert {record.reason for record in failed} == {"the worker died twice on it (signal 11)"}
    assert all(record == other for record, other in pairs if record.status == "ok")
    assert 0 < len(failed) < 20


class Stopping(AnyOrder):
    """Workers in any order, which are interrupted after a number of items."""

    def __init__(self, workers: int, seed: int, items: int) -> None:
        super().__init__(workers, seed)
        self._left = items

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if worker >= 0:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return super().submit(worker, item)


@settings(max_examples=5)
@given(workers=st.integers(1, 4), seed=st.integers(0, 99), items=st.integers(1, 11), later=st.integers(1, 4))
def test_an_asynchronous_search_repeats_its_order(workers: int, seed: int, items: int, later: int) -> None:
    options = {
        "proxy": "nwot",
        "algorithm": "evolution",
        "algorithm_options": {"population": 4, "tournament": 2},
        "asynchronous": True,
    }
    with tempfile.TemporaryDirectory() as out:
        with pytest.raises(KeyboardInterrupt):
            search(**options, executor=Stopping(workers, seed, items), out=out)
        stored = records_of(ds.Study.load(out))
        study = search(**options, executor=AnyOrder(later, seed + 1), out=out)
        assert len(study) == 12
        by_index = {record.index: record for record in records_of(study)}
        assert all(by_index[record.index] == record for record in stored)
        assert sorted(record.finished for record in by_index.values()) == list(range(12))
        order = [(record.index, record.finished) for record in by_index.values()]
        asks = study.asks
        again = search(**options, evaluations=14, out=out)  # which replays the whole order
        assert [(r.index, r.finished) for r in again.records][:12] == order
        assert list(asks.items()) == list(again.asks.items())[:12]


def test_one_worker_is_the_same_asynchronous_or_not_where_nothing_is_learnt() -> None:
    options = {"algorithm": "random"}
    free, study = search(**options, asynchronous=True), search(**options)
    assert [r.architecture for r in free.records] == [r.architecture for r in study.records]
    with pytest.raises(ValueError, match="latency is measured while nothing else is at work"):
        search(**options, asynchronous=True, max_latency_ms=5)


def test_the_records_of_processes_are_those_of_one(serial: list[object], tmp_path: Path) -> None:
    study = search(**TAUGHT, workers=2, threads=2, out=tmp_path)
    assert records_of(study) == serial
    assert {record.worker for record in study.records} == {"worker 0", "worker 1"}
    again = search(**TAUGHT, evaluations=14, out=tmp_path)  # by one worker now
    assert records_of(again)[:12] == serial


@pytest.mark.faults
def test_a_comparison_has_the_scores_of_one_process(tmp_path: Path) -> None:
    space = ds.create_space("nasbench201", **SPACE)
    draw = random.Random(0)
    table = {str(space.canonical(space.sample(draw))): draw.random() for _ in range(8)}
    options: dict[str, Any] = {**FAST, "teacher": "cifar_resnet20", "controls": True, "weight_draws": 2, "bootstrap": 0}
    options["include_untrainable"] = True
    alone, together = (
        ds.compare("nasbench201", ["diswot", "nwot"], table, workers=workers, **options) for workers in (1, 2)
    )
    assert alone.scores.scores.keys() == together.scores.scores.keys()
    assert together.scores.conditions == f"{alone.scores.conditions}, 2 workers at once"
    assert set(together.scores.workers.values()) == {("worker 0",), ("worker 1",)}
    for label, values in alone.scores.scores.items():
        np.testing.assert_array_equal(values, together.scores.scores[label], err_msg=label)


@pytest.mark.faults
def test_a_ranking_has_the_values_of_one_process() -> None:
    options: dict[str, Any] = {"images": 40, "device": "cpu", "progress": False}
    with pytest.warns(UserWarning, match="random"):
        one, two = (
            ds.rank_sources(["cifar_resnet20", "cifar_resnet8x4"], "digits", workers=workers, **options)
            for workers in (1, 2)
        )
    assert one.result()["sources"] == two.result()["sources"]
    assert sorted(two.workers.values()) == ["worker 0", "worker 1"]


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.faults
def test_candidates_that_end_hang_or_crowd_their_workers_take_no_other_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    options = {"algorithm": "random", "evaluations": 12}
    sound = list(search(**options).records)
    chosen = [record.macs for record in sound]
    single = [place for place, macs in enumerate(chosen) if chosen.count(macs) == 1]
    deadly, _, hanging, _ = single[:4]
    for name, place in zip(parts.TROUBLES, single, strict=False):
        monkeypatch.setenv(name, str(chosen[place]))
    study = search(proxy=parts.troubled, workers=2, candidate_timeout_s=3.0, **options)
    for record, other in zip(study.records, sound, strict=True):
        if record.index == deadly:
            assert record.reason is not None
            assert record.reason.startswith("the worker died twice on it")
            assert "SIGSEGV" in record.reason
        elif record.index == hanging:
            assert record.reason == "it took longer than 3 s, and its worker was ended"
        else:
            assert dataclasses.replace(record, seconds=0.0, worker=None) == dataclasses.replace(other, seconds=0.0)


def test_a_lack_of_memory_that_stays_stops_the_search(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="Out of memory"):
        search(proxy=parts.greedy, algorithm="random", executor=AnyOrder(2, 0), evaluations=4, out=tmp_path)
    assert len(ds.Study.load(tmp_path)) == 0


def begin(out: Path) -> subprocess.Popen[bytes]:
    """Begin the search of `LONG` in a process group of its own."""
    options = {"proxy": f"{parts.__file__}:uneven", **LONG, "workers": 2, "threads": 2, "out": str(out), **FAST}
    config = out.with_suffix(".yaml")
    config.write_text(json.dumps({"space": "nasbench201", "probe": "digits", **options}))
    command = [sys.executable, "-m", "diswot_search", "search", "--config", config]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, cwd=ROOT)


def stored(out: Path) -> int:
    """The number of records that a search has stored so far."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{out / 'study.sqlite'}?mode=ro", uri=True)) as store:
            return int(store.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for_records(process: subprocess.Popen[bytes], out: Path, number: int) -> None:
    while stored(out) < number:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.02)


def group_is_gone(group: int, seconds: float) -> bool:
    """Whether no process of a group is left after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.faults
def test_killed_at_random_moments_it_ends_as_the_serial_search_and_leaves_no_process(tmp_path: Path) -> None:
    draw, out = random.Random(0), tmp_path / "run"
    for _ in range(2):
        before = stored(out)
        process = begin(out)
        wait_for_records(process, out, before + draw.randint(1, 60))
        process.kill()
        process.communicate()
        assert group_is_gone(process.pid, 10.0)
        assert before < stored(out) < LONG["evaluations"]
    process = begin(out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert records_of(ds.Study.load(out)) == records_of(search(proxy=parts.uneven, **LONG))


@pytest.mark.faults
def test_a_signal_ends_the_search_and_its_workers_with_everything_stored(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = begin(out)
    wait_for_records(process, out, 20)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert group_is_gone(process.pid, 5.0)
    study = ds.Study.load(out)
    assert study.status == "interrupted"
    assert 20 <= len(study) < LONG["evaluations"]


def test_no_more_workers_are_made_than_there_is_work_for() -> None:
    with pytest.warns(UserWarning, match="workers is 3, but there is work for 1 only"):
        study = search(evaluations=1, workers=3)
    assert [record.worker for record in study.records] == [None]  # one computes in this process


def test_fewer_workers_than_asked_for_keep_their_threads_and_devices() -> None:
    options = SearchOptions(workers=4, threads=4, devices="cpu")
    with pytest.warns(UserWarning, match="workers is 4, but there is work for 2 only"):
        executor = as_executor(options, 2)
    assert isinstance(executor, ProcessExecutor)
    assert (executor.workers, executor.threads, executor.devices) == (2, 1, ("cpu",))


def test_an_address_of_ray_makes_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(executors, "create_executor", lambda name, **options: made.append({"name": name, **options}))
    with contextlib.suppress(AttributeError):  # there is no executor
        as_executor(SearchOptions(workers=3, ray_address="head:6379"), 10)
    assert (made[0]["name"], made[0]["workers"], made[0]["address"]) == ("ray", 3, "head:6379")


class Logged(AnyOrder):
    """Workers in any order, and when they rest and are at work."""

    def __init__(self, workers: int, seed: int) -> None:
        super().__init__(workers, seed, deaths=0.3)
        self.log: list[str] = []

    def submit(self, worker: int, item: Any) -> Future[Any]:
        self.log.append("work")
        return super().submit(worker, item)

    def await_ready(self) -> None:
        self.log.append("rest")


def test_latency_is_measured_while_no_worker_is_at_work_or_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Logged(2, seed=0)

    def measure(*arguments: Any, **options: Any) -> ds.Latency:
        executor.log.append("measure")
        return ds.Latency(1.0, runtime="eager", threads=1, batch_size=1)

    monkeypatch.setattr(cost_kinds, "measure_latency", measure)
    search(
        executor=executor,
        max_latency_ms=5.0,
        algorithm="evolution",
        algorithm_options={"population": 4, "tournament": 2},
    )
    assert executor.log.count("measure") >= 12
    before = [next((one for one in executor.log[place::-1] if one != "measure"), "rest") for place in range(200)]
    assert {one for one, entry in zip(before, executor.log, strict=False) if entry == "measure"} == {"rest"}


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"workers": -2}, "workers is -2"),
        ({"workers": 2, "executor": "serial"}, "computes in this process alone"),
        ({"workers": 2, "executor": "proceses"}, "Did you mean 'processes'"),
        ({"workers": 2, "threads": 3}, "threads"),
        ({"devices": ["cpu", "cpu"]}, "cpu"),
        ({"devices": ["cuda:7"]}, "cuda:7"),
        ({"devices": "cpu,cpu", "workers": 2}, "devices is cpu, cpu; cpu is named more than once"),
        ({"devices": ["cpu", "cuda:0"], "device": "auto"}, "name devices of one kind"),
        ({"devices": ["mps"]}, "device is 'cpu', but devices is mps"),
        ({"ray_address": "auto", "executor": "processes"}, "ray_address is 'auto', but executor is 'processes'"),
        ({"executor": "ray", "executor_options": {"address": "auto"}}, "by the option ray_address"),
        ({"workers": 40, "threads": 41}, "threads is 41 for 40 workers together"),
        ({"executor": "processes", "workers": 2, "executor_options": {"foo": 3}}, "has no option 'foo'; it has none"),
        ({"candidate_timeout_s": 0}, "candidate_timeout_s is 0"),
        ({"candidate_timeout_s": 5, "executor": "serial"}, "Choose the executor 'processes'"),
        ({"workers": 2, "executor_options": {"threads": 2}}, "by the option threads"),
        ({"workers": 2, "proxy": lambda student, teacher=None: 1.0}, "does not pickle"),
    ],
)
def test_bad_options_are_refused_before_a_folder_is_made(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        search(**options, out=out)
    assert not out.exists()


@pytest.mark.faults
def test_the_result_says_how_many_workers_with_how_many_threads(tmp_path: Path) -> None:
    study = search(workers=2, threads=2, algorithm="random", out=tmp_path / "run")
    timing = json.loads((tmp_path / "run" / "result.json").read_text())["timing"]
    assert (timing["workers"], timing["threads"]) == (2, 1)
    assert sum(study.workers.values()) == 12
    assert set(study.workers) == {"worker 0", "worker 1"}
    assert any(re.match(r"workers: 2 made 12 records, \d+ to \d+ each", line) for line in describe_study(study))


def search_more(out: Path, items: int, executor: AnyOrder) -> None:
    search(evaluations=items, executor=executor, out=out)


def compare_more(out: Path, items: int, executor: AnyOrder) -> None:
    space = ds.create_space("nasbench201", **SPACE)
    architectures = [str(space.sample(random.Random(seed))) for seed in range(6)]
    table = {architecture: float(place) for place, architecture in enumerate(dict.fromkeys(architectures))}
    options: dict[str, Any] = {**FAST, "bootstrap": 0, "include_untrainable": True, "out": out}
    ds.compare("nasbench201", ["nwot", "synflow"][: items // 4], table, executor=executor, **options)


def rank_more(out: Path, items: int, executor: AnyOrder) -> None:
    sources = ["cifar_resnet20", "cifar_resnet8x4"][: items // 4]
    options: dict[str, Any] = {"images": 20, "device": "cpu", "progress": False, "out": out}
    ds.rank_sources(sources, "digits", measures="parc", executor=executor, **options)


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize("more", [search_more, compare_more, rank_more])
def test_another_number_of_threads_of_each_worker_is_told_once(
    more: Callable[[Path, int, AnyOrder], None], tmp_path: Path
) -> None:
    of_two, of_one = AnyOrder(2, seed=0), AnyOrder(2, seed=0)
    of_two.threads, of_one.threads = 2, 1
    out = tmp_path / "run"
    more(out, 4, of_two)
    more(out, 4, of_one)  # computes nothing, so that nothing is mixed
    with pytest.warns(UserWarning, match="threads") as caught:
        more(out, 8, of_one)
    (told,) = [str(one.message) for one in caught if "threads" in str(one.message)]
    assert told == (
        f"What is stored in {out} was computed by workers with 2 threads each; what is computed now has 1. Sums of "
        "another number of threads differ in their last bits. For the same bits, pass threads=4: the option threads "
        "counts those of all workers together."
    )


def test_a_search_alone_names_no_workers(tmp_path: Path) -> None:
    study = search(out=tmp_path / "run")
    timing = json.loads((tmp_path / "run" / "result.json").read_text())["timing"]
    assert (timing["workers"], timing["threads"]) == (1, 1)
    assert study.workers == {}
    assert not any(line.startswith("workers") for line in describe_study(study))


def test_a_line_for_each_worker_is_written_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SearchProgress, "ITEMS_PER_LINE", 6)
    for shown in (True, False):
        search(executor=AnyOrder(2, seed=0), progress=True, show_workers=shown)
        lines = capsys.readouterr().err
        assert ("12 of 12 candidates scored" in lines, "candidates/s" in lines) == (True, True)
        assert bool(re.search(r"worker 0: \d+ done, ", lines)) == shown
        assert bool(re.search(r"worker 1: \d+ done, ", lines)) == shown


def test_a_terminal_shows_the_workers_below_the_bar() -> None:
    console = Console(force_terminal=True, width=100, file=io.StringIO())
    activities = [Activity("worker 0", 3, "in 1-2-2", 0.5), Activity("worker 1", 1200)]
    with ProgressBar("comparing", "scores", 4, console=console, below=lambda: worker_lines(activities)) as bar:
        bar.advance(replayed=False)
    text = console.file.getvalue()
    assert "worker 0: 3 done, in 1-2-2 for 0.5 s" in text
    assert "worker 1: 1,200 done, waiting" in text
