"""Candidates that end the process: the next run records them as failed, and goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import diswot_search as ds
from diswot_search.runtime.at_hand import FILE, AtHand
from diswot_search.study import cost_kinds
from search_spaces import create_space

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")]

SPACE: dict[str, Any] = {"channels": 4, "cells": 1}

ENDS = {"abort": os.abort, "fault": lambda: os.kill(os.getpid(), signal.SIGSEGV)}
"""Ways in which a candidate ends the process."""

DEADLY = 2
"""The number of the candidate that does."""


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have everything imported, from a server that never ran anything else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.jobs.search", "diswot_search.jobs.compare", "matplotlib.figure"])
    return context


@pytest.fixture(scope="module")
def candidates() -> list[str]:
    """The candidates of the search below, in order."""
    study = ds.search(create_space("nasbench201", **SPACE), proxy="params", algorithm="random", evaluations=5)
    return [record.architecture for record in study.records]


def deadly(params: int, how: str) -> Any:
    """A proxy that ends the process at a network of this size."""

    def proxy(student: Any, teacher: Any = None) -> float:
        if student.cost.params == params:
            ENDS[how]()
        return float(student.cost.params)

    return proxy


def search(out: str, params: int, how: str, evaluations: int = 5) -> None:
    torch.set_num_threads(1)
    space = create_space("nasbench201", **SPACE)
    ds.search(space, proxy=deadly(params, how), algorithm="random", evaluations=evaluations, out=out, device="cpu")


def compare(out: str, params: int, how: str, table: dict[str, float]) -> None:
    torch.set_num_threads(1)
    space, proxies = create_space("nasbench201", **SPACE), [deadly(params, how), "l2_norm"]
    accuracies = ds.AccuracyTable("toy", "accuracy", table)
    ds.compare(space, proxies, accuracies, out=out, device="cpu", bootstrap=0)


def exit_code(processes: Any, function: Any, *args: Any) -> int:
    process = processes.Process(target=function, args=args)
    process.start()
    process.join()
    return int(process.exitcode)


def params_of(architecture: str) -> int:
    space = create_space("nasbench201", **SPACE)
    return space.cost(space.parse(architecture)).params


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("abort", -signal.SIGABRT, "it ended the process (Aborted)"),
        ("fault", -signal.SIGSEGV, "it ended the process (Segmentation fault)"),
    ],
)
def test_a_resumed_search_records_what_ended_the_process_and_goes_on(
    processes: Any, candidates: list[str], tmp_path: Path, how: str, code: int, reason: str
) -> None:
    out, params = tmp_path / "run", params_of(candidates[DEADLY])
    assert exit_code(processes, search, str(out), params, how) == code
    assert len(ds.Study.load(out)) == DEADLY
    assert (out / FILE).exists()
    assert exit_code(processes, search, str(out), params, how) == 0
    study = ds.Study.load(out)
    records = list(study.records)
    assert [record.architecture for record in records] == candidates
    assert [record.status for record in records] == ["ok", "ok", "failed", "ok", "ok"]
    assert (records[DEADLY].reason, records[DEADLY].score) == (reason, None)
    assert study.failures == {reason: 1}
    assert not (out / FILE).exists()
    assert exit_code(processes, search, str(out), params, how, 6) == 0


def test_an_end_without_a_signal_says_nothing_about_the_candidate(tmp_path: Path) -> None:
    """Each run may have been killed from outside, so the result is that of a search that was not."""
    for _ in range(2):
        at_hand = AtHand(tmp_path)
        with contextlib.suppress(FileNotFoundError), at_hand.watching():  # as a kill leaves it
            assert at_hand.begin("one") is None
            shutil.copy(tmp_path / FILE, tmp_path / "kept")
        shutil.move(tmp_path / "kept", tmp_path / FILE)
    at_hand = AtHand(tmp_path)
    with at_hand.watching(), pytest.warns(UserWarning, match="2 runs ended at this item: one.*executor='processes'"):
        assert at_hand.begin("one") is None


def deadly_latency(out: str, params: int) -> None:
    """A search in which measuring the latency of a network of this size ends the process."""
    torch.set_num_threads(1)
    measure = cost_kinds.measure_latency

    def measured(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        if sum(parameter.numel() for parameter in model.parameters()) == params:
            os.abort()
        return measure(model, *args, **options)

    cost_kinds.measure_latency = measured
    options: dict[str, Any] = {"max_latency_ms": 1000, "latency_runtime": "eager", "device": "cpu", "evaluations": 5}
    ds.search(create_space("nasbench201", **SPACE), proxy="params", algorithm="random", out=out, **options)


def test_a_candidate_that_ends_the_process_while_it_is_measured_fails(
    processes: Any, candidates: list[str], tmp_path: Path
) -> None:
    out, params = str(tmp_path / "run"), params_of(candidates[DEADLY])
    assert exit_code(processes, deadly_latency, out, params) == -signal.SIGABRT
    while exit_code(processes, deadly_latency, out, params) != 0:
        assert len(list(ds.Study.load(out).costs)) < 40
    study = ds.Study.load(out)
    assert len(study) == 5
    assert set(study.failures) <= {"it ended the process (Aborted)"}


def test_a_resumed_comparison_leaves_out_what_ended_the_process(
    processes: Any, candidates: list[str], tmp_path: Path
) -> None:
    out, params = tmp_path / "run", params_of(candidates[DEADLY])
    table = {text: 50.0 + number for number, text in enumerate(candidates)}
    assert exit_code(processes, compare, str(out), params, "abort", table) == -signal.SIGABRT
    assert exit_code(processes, compare, str(out), params, "abort", table) == 0
    scores = (out / "scores.csv").read_text().splitlines()
    assert len(scores) == 6
    assert [row.split(",")[-2:] == ["", ""] for row in scores[1:]] == [
        text == candidates[DEADLY] for text in candidates
    ]
    assert "it ended the process (Aborted)" in (out / "comparison.md").read_text().replace("\\", "")


def test_an_exception_leaves_no_note_behind(tmp_path: Path) -> None:
    def stop_at(item: str) -> None:
        at_hand = AtHand(tmp_path)
        with at_hand.watching():
            assert at_hand.begin(item) is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_at("one")
    assert AtHand(tmp_path).begin("one") is None


@pytest.mark.parametrize("content", ["", "no note", "[1]\n", '["one"', "\udcff"])
def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_bytes(content.encode(errors="surrogateescape"))
    assert AtHand(tmp_path).begin("one") is None


def test_a_note_outlives_a_run_that_does_not_reach_its_item(tmp_path: Path) -> None:
    note = '["one", 1]\nFatal Python error: Aborted\n\nCurrent thread'
    (tmp_path / FILE).write_text(note)
    at_hand = AtHand(tmp_path)
    context = at_hand.watching()
    context.__enter__()
    assert (tmp_path / FILE).read_text().startswith(note)
    assert at_hand.begin("one") == "it ended the process (Aborted)"
    assert at_hand.begin("two") is None
    assert (tmp_path / FILE).read_text() == '["two", 1]\n'
    context.__exit__(None, None, None)
