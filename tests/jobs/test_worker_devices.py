"""Workers whose devices this process lacks: results are computed, and described, by the workers' devices."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diswot_search as ds
from diswot_search.options.search import SearchOptions
from diswot_search.resolve.executors import JobDevice, device_of
from diswot_search.runtime.executors.processes import ProcessExecutor
from diswot_search.runtime.executors.ray import RayExecutor
from diswot_search.study.evaluator import Evaluator, TaskEvaluator

from .any_order import AnyOrder

SMALL: dict[str, Any] = {"space_options": {"channels": 4, "cells": 1}, "batch_size": 8, "progress": False}


@pytest.fixture(autouse=True)
def _no_card_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


class OnCards(AnyOrder):
    """Workers that say they have graphics cards, which this machine lacks."""

    devices = ("cuda",)


def search(**options: Any) -> ds.Study:
    return ds.search("nasbench201", **{"proxy": "params", "evaluations": 4, "algorithm": "random"} | SMALL | options)


def test_a_search_is_described_by_the_devices_of_its_workers(tmp_path: Path) -> None:
    study = search(executor=OnCards(2, seed=0), out=tmp_path / "run", proxy="diswot", teacher="cifar_resnet20")
    assert study.config["device"] == "cuda"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["timing"]["device"] == "cuda"
    assert study.recall("threads") is None  # those of processors, which computed nothing
    with pytest.raises(ds.RunFolderError, match="device"):
        search(device="cpu", out=tmp_path / "run", proxy="diswot", teacher="cifar_resnet20")


def test_scores_of_a_comparison_are_stored_by_the_devices_of_its_workers(tmp_path: Path) -> None:
    space = ds.create_space("nasbench201", channels=4, cells=1)
    architectures = dict.fromkeys(str(space.sample(random.Random(seed))) for seed in range(4))
    table = {architecture: float(place) for place, architecture in enumerate(architectures)}
    computed: list[int] = []

    def compare(**workers: Any) -> ds.Comparison:
        options: dict[str, Any] = {"bootstrap": 0, "include_untrainable": True, "out": tmp_path}
        return ds.compare("nasbench201", ["nwot"], table, **SMALL | options | workers)

    class Counting(OnCards):
        def submit(self, worker: int, item: Any) -> Any:
            computed.extend([worker] * (worker >= 0))  # or the end
            return super().submit(worker, item)

    compare(device="cpu")
    compare(executor=Counting(2, seed=0))
    assert json.loads((tmp_path / "config.json").read_text())["device"] == "cuda"
    assert len(computed) == len(architectures)  # those of the processor do not stand for them


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_a_ranking_names_the_devices_of_its_workers() -> None:
    data = {"train_limit": 40, "image_size": 8}
    ranking = ds.rank_sources(
        ["cifar_resnet20", "cifar_resnet8x4"], "digits", data_options=data, executor=OnCards(2, seed=0), progress=False
    )
    assert ranking.timing["device"] == "cuda"


@pytest.mark.parametrize(
    ("executor", "devices", "device", "expected"),
    [
        ("ray", "cuda", "auto", JobDevice("cpu", "cuda")),
        ("ray", "cuda", "cuda", JobDevice("cpu", "cuda")),
        ("ray", "cpu", "auto", JobDevice("cpu", "cpu")),
        ("ray", None, "cpu", JobDevice("cpu", "cpu")),
        ("processes", "cpu", "auto", JobDevice("cpu", "cpu")),
        (lambda: ProcessExecutor(2, devices=["cpu"]), None, "auto", JobDevice("cpu", "cpu")),
        (lambda: OnCards(2, seed=0), None, "auto", JobDevice("cpu", "cuda")),
    ],
)
def test_the_device_of_a_job(
    executor: str | Callable[[], Any], devices: str | None, device: str, expected: JobDevice
) -> None:
    made = executor() if callable(executor) else executor
    assert device_of(SearchOptions(executor=made, devices=devices, workers=2), device) == expected


def test_workers_of_this_machine_need_its_devices() -> None:
    for executor in (None, "processes"):
        with pytest.raises(ValueError, match="This machine has no 'cuda'"):
            device_of(SearchOptions(executor=executor, devices="cuda", workers=2), "auto")
    with pytest.raises(ValueError, match="device is 'cpu', but devices is cuda"):
        device_of(SearchOptions(executor=OnCards(2, seed=0)), "cpu")


def test_an_evaluator_says_what_its_scores_are_computed_on() -> None:
    space = ds.create_space("nasbench201", channels=4, cells=1)
    probe = ds.create_probe("digits", batch_size=8)
    for evaluator in (
        Evaluator(space, None, probe, "params", device="cpu", scored_on="cuda"),
        TaskEvaluator(space, [probe], device="cpu", scored_on="cuda"),
    ):
        assert (evaluator.device, evaluator.scored_on) == ("cpu", "cuda")
        assert evaluator.on(None).scored_on == "cuda"


def test_an_executor_on_ray_tells_its_device() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    assert RayExecutor(2, threads=2, devices=["cuda"]).devices == ("cuda",)
    assert RayExecutor(2, threads=2).devices == ()
