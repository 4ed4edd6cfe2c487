"""The machines of the workers: reached once by a job, for all its stages, and let go of however it ends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import diswot_search as ds
from diswot_search.jobs.job import Job
from diswot_search.jobs.pipeline import PipelineJob
from diswot_search.options.pipeline import PipelineOptions
from diswot_search.options.search import SearchOptions
from diswot_search.runtime.executors import ray as ray_module

from ..runtime.executors.simulated_ray import SimulatedRay
from .any_order import AnyOrder

SEARCH: dict[str, Any] = {
    "space_options": {"channels": 4, "cells": 1},
    "proxy": "params",
    "algorithm": "random",
    "device": "cpu",
    "progress": False,
}
RUN: dict[str, Any] = SEARCH | {
    "dataset": "digits",
    "data_options": {"train_limit": 40, "image_size": 8},
    "space": "nasbench201",
    "epochs": 1,
    "batch_size": 20,
    "finalists": 0,
    "compare": False,
}


class Reached(AnyOrder):
    """Workers on machines that have to be reached, and what was done to reach them."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, seed=0)
        self.log: list[str] = []

    def connect(self) -> None:
        self.log.append("connect")

    def disconnect(self) -> None:
        self.log.append("disconnect")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    ray = SimulatedRay([])
    monkeypatch.setattr(ray_module, "require_ray", lambda: ray)
    return ray


class Failing(Job[SearchOptions, str]):
    """A job that fails in one of its steps."""

    def __init__(self, executor: Reached, step: str) -> None:
        super().__init__(SearchOptions())
        self.executor, self.step = executor, step

    def _fail_in(self, step: str) -> None:
        if step == self.step:
            raise ds.RunFolderError(f"no {step}")

    def check(self) -> None:
        self._fail_in("check before")
        self.reach(self.executor)
        self._fail_in("check")

    def descriptions(self) -> list[Any]:
        self._fail_in("descriptions")
        return []

    def open(self) -> None:
        self._fail_in("open")

    def run(self) -> str:
        self._fail_in("run")
        return "done"

    def report(self, result: str) -> Iterable[object]:
        return ()


@pytest.mark.parametrize("step", ["check", "descriptions", "open", "run"])
def test_a_job_that_fails_lets_go_of_the_machines(step: str) -> None:
    executor = Reached(2)
    with pytest.raises(ds.RunFolderError, match=f"no {step}"):
        Failing(executor, step).complete()
    assert executor.log == ["connect", "disconnect"]


def test_a_job_lets_go_of_the_machines_it_has_reached_and_of_no_others() -> None:
    executor = Reached(2)
    job = Failing(executor, "nowhere")
    assert job.complete() == "done"
    assert executor.log == ["connect", "disconnect"]
    with pytest.raises(ds.RunFolderError, match="no check before"):
        Failing(executor, "check before").complete()
    job = Failing(executor, "nowhere")
    job.is_stage = True
    job.complete()
    assert executor.log == ["connect", "disconnect"]


def test_a_search_that_is_refused_leaves_no_ray(tmp_path: Path, simulated: SimulatedRay) -> None:
    ds.search("nasbench201", evaluations=2, batch_size=8, out=tmp_path / "run", **SEARCH)
    for _ in range(2):
        with pytest.raises(ds.RunFolderError, match="seed"):
            ds.search(
                "nasbench201", evaluations=2, batch_size=8, seed=5, executor="ray", out=tmp_path / "run", **SEARCH
            )
        assert not simulated.is_begun


def test_a_search_whose_scores_are_stored_leaves_no_ray(tmp_path: Path, simulated: SimulatedRay) -> None:
    for executor in ("serial", "ray"):
        ds.search("nasbench201", evaluations=2, batch_size=8, executor=executor, out=tmp_path / "run", **SEARCH)
    assert [name for name, _ in simulated.calls] == ["init", "shutdown"]


@pytest.mark.filterwarnings("ignore:.*(random weights|work for)")
@pytest.mark.parametrize("guide", [{"teacher": "cifar_resnet20"}, {"sources": ["cifar_resnet20", "cifar_resnet8x4"]}])
def test_a_pipeline_has_one_ray_for_all_its_stages(
    guide: dict[str, Any], tmp_path: Path, simulated: SimulatedRay
) -> None:
    workers = {"executor": "ray", "workers": 3, "threads": 3}
    job = PipelineJob(PipelineOptions(**RUN | guide | workers, evaluations=6, out=tmp_path / "run"))
    job.check_once()
    assert simulated.calls == [("init", max(3, torch.get_num_threads()))]
    job.let_go()
    assert not simulated.is_begun


@pytest.mark.filterwarnings("ignore:.*(random weights|chance|No source can teach)")
def test_a_pipeline_reaches_the_machines_once(tmp_path: Path) -> None:
    executor = Reached(2)
    ds.run(**RUN, sources=["cifar_resnet20", "cifar_resnet8x4"], evaluations=4, executor=executor, out=tmp_path / "run")
    assert executor.log == ["connect", "disconnect"]
