"""Searches, comparisons and rankings by several workers: the results of one, whatever happens to the workers."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diswot_search as ds
from diswot_search.runtime.failures import OutOfMemory

from . import workers_parts as parts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

SPACE = {"channels": 4, "cells": 1}
FAST: dict[str, Any] = {"space_options": SPACE, "batch_size": 8, "device": "cpu", "progress": False}


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


@pytest.fixture(scope="module")
def serial() -> list[object]:
    return records_of(search(proxy="diswot", teacher="cifar_resnet20", algorithm="evolution"))


@pytest.mark.parametrize("workers", [2, 4])
def test_the_records_are_those_of_one_process(
    workers: int, serial: list[object], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    options = {"proxy": "diswot", "teacher": "cifar_resnet20", "algorithm": "evolution", "workers": workers}
    study = search(**options, out=tmp_path, threads=workers)
    assert records_of(study) == serial
    assert {record.worker for record in study.records} <= {f"worker {number}" for number in range(workers)}
    assert len({record.worker for record in study.records}) > 1
    again = search(**options | {"workers": 1, "evaluations": 14}, out=tmp_path)
    assert records_of(again)[:12] == serial


def test_the_order_of_completion_does_not_show(tmp_path: Path) -> None:
    studies = [search(proxy=parts.uneven, algorithm="random", workers=workers) for workers in (1, 2)]
    assert records_of(studies[0]) == records_of(studies[1])
    aggregates = [search(proxy="log_rank(nwot, params)", workers=workers) for workers in (1, 2)]
    assert records_of(aggregates[0]) == records_of(aggregates[1])


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
    for label, values in alone.scores.scores.items():
        np.testing.assert_array_equal(values, together.scores.scores[label], err_msg=label)


def test_a_ranking_has_the_values_of_one_process() -> None:
    options: dict[str, Any] = {"images": 40, "device": "cpu", "progress": False}
    with pytest.warns(UserWarning, match="random"):
        one, two = (
            ds.rank_sources(["cifar_resnet20", "cifar_resnet8x4"], "digits", workers=workers, **options)
            for workers in (1, 2)
        )
    assert one.result()["sources"] == two.result()["sources"]


# -- faults -------------------------------------------------------------------------------------


def test_a_candidate_that_ends_its_worker_twice_fails_and_no_other(tmp_path: Path) -> None:
    study = search(proxy=parts.deadly, algorithm="random", workers=2, evaluations=10, out=tmp_path)
    sound = search(algorithm="random", evaluations=10)
    assert [record.architecture for record in study.records] == [record.architecture for record in sound.records]
    for record in study.records:
        if record.params % 3 == 0:
            assert record.status == "failed"
            assert record.reason is not None
            assert record.reason.startswith("the worker died twice on it")
            assert "SIGSEGV" in record.reason
        else:
            assert record.score == record.params
    assert 0 < len(study.failures) < 10


def test_a_worker_that_died_once_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    study = search(proxy=parts.deadly_once, algorithm="random", workers=2)
    assert not study.failures
    assert [record.score for record in study.records] == [record.params for record in study.records]


def test_a_candidate_that_hangs_is_ended() -> None:
    study = search(proxy=parts.hanging, algorithm="random", workers=2, evaluations=6, candidate_timeout_s=2.0)
    late = [record for record in study.records if record.params % 3 == 0]
    assert late
    assert {record.reason for record in late} == {"it took longer than 2 s, and its worker was ended"}
    assert all(record.score == record.params for record in study.records if record not in late)


def test_a_candidate_without_memory_is_tried_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    study = search(proxy=parts.crowded, algorithm="random", workers=2, evaluations=4)
    assert not study.failures
    with pytest.raises(OutOfMemory, match="Out of memory"):
        search(proxy=parts.greedy, algorithm="random", workers=2, evaluations=4)


SCRIPT = """
import sys, torch
sys.path.insert(0, {root!r})
import diswot_search as ds
from tests.jobs import workers_parts as parts
if __name__ == "__main__":
    ds.search("nasbench201", proxy=parts.uneven, space_options={space!r}, batch_size=8, device="cpu", workers=2,
              progress=False, evaluations={evaluations}, algorithm="evolution", out=sys.argv[1])
"""


def begin(script: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, script, out], start_new_session=True, stderr=subprocess.PIPE)


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


@pytest.fixture
def script(tmp_path: Path) -> Path:
    root = str(Path(__file__).parents[2])
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(root=root, space=SPACE, evaluations=40))
    return file


def test_killed_at_random_moments_it_ends_as_the_serial_search_and_leaves_no_process(
    script: Path, tmp_path: Path
) -> None:
    draw, out = random.Random(0), tmp_path / "run"
    for _ in range(3):
        process = begin(script, out)
        store = out / "study.sqlite"
        while process.poll() is None and not store.exists():
            time.sleep(0.02)
        time.sleep(1.5 * draw.random())
        process.kill()
        process.communicate()
        assert group_is_gone(process.pid, 10.0)
    options = {"proxy": parts.uneven, "evaluations": 40, "algorithm": "evolution"}
    assert records_of(search(**options, workers=2, out=out)) == records_of(search(**options))


def test_a_signal_ends_the_search_and_its_workers_in_time(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = begin(script, out)
    while not (out / "study.sqlite").exists():
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (1, 130, -signal.SIGINT), errors.decode()
    assert group_is_gone(process.pid, 5.0)
    assert ds.Study.load(out).status == "interrupted"


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
