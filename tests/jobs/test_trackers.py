"""Trackers of accelerate: what they are sent by a search and by a training, and which names are taken."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, ClassVar

import accelerate.logging
import accelerate.tracking
import numpy as np
import pytest
from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker

import diswot_search as ds
from diswot_search.reports.progress import Curves
from diswot_search.reports.trackers import Trackers

SMALL: dict[str, Any] = {"space_options": {"channels": 4, "cells": 1}, "batch_size": 8, "proxy": "params"}
FAST: dict[str, Any] = {"device": "cpu", "progress": False}
SPOKEN = accelerate.logging.get_logger(__name__)


class Noted(GeneralTracker):
    """Notes what it is sent, instead of a service."""

    name = "noted"
    requires_logging_directory = False
    runs: ClassVar[list[Noted]] = []
    fails_at: ClassVar[int | None] = None

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.run_name, self.options = run_name, options
        self.config: dict[str, Any] = {}
        self.logged: list[tuple[int | None, dict[str, Any]]] = []
        self.is_finished = False
        Noted.runs.append(self)

    @property
    def tracker(self) -> object:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        SPOKEN.debug("as the trackers of accelerate do, which need its state for it")
        if self.options.get("refuses"):
            raise ConnectionError("no network")
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if step is not None and step == Noted.fails_at:
            raise ConnectionError("no network")
        SPOKEN.debug("logged")
        self.logged.append((step, values))

    def finish(self) -> None:
        SPOKEN.debug("finished")
        self.is_finished = True


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """Make the tracker known, as `accelerate.tracking.register_tracker_class` does in later versions."""
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "noted", Noted)
    Noted.runs, Noted.fails_at = [], None
    return Noted.runs


def search(**options: Any) -> ds.Study:
    return ds.search("nasbench201", **{"evaluations": 6, **SMALL, **FAST, **options})


def test_a_search_sends_the_scalars_of_every_evaluation_and_its_configuration(noted: list[Noted]) -> None:
    study = search(trackers="noted", tracker_options={"noted": {"mode": "offline"}})
    (run,) = noted
    assert [step for step, _ in run.logged] == list(range(6))
    assert [values["score/evaluation"] for _, values in run.logged] == [record.score for record in study.records]
    assert [values["cost/params"] for _, values in run.logged] == [record.params for record in study.records]
    assert (run.run_name, run.options, run.is_finished) == ("diswot-search", {"mode": "offline"}, True)
    assert run.config["proxy"] == study.config["proxy"]
    assert run.config["budget.max_params"] == "null"


def test_trackers_leave_no_state_of_accelerate_behind() -> None:
    PartialState._reset_state()
    search(trackers="noted")
    assert not PartialState._shared_state


def test_a_search_that_continues_sends_what_is_stored_again(noted: list[Noted], tmp_path: Path) -> None:
    search(trackers="noted", out=tmp_path / "run")
    search(trackers="noted", out=tmp_path / "run", evaluations=8)
    assert [step for step, _ in noted[1].logged] == list(range(8))
    assert [values["score/evaluation"] for _, values in noted[1].logged][:6] == [
        values["score/evaluation"] for _, values in noted[0].logged
    ]


def test_a_tracker_changes_no_result() -> None:
    plain, tracked = search(), search(trackers=["noted"])
    assert [record.score for record in plain.records] == [record.score for record in tracked.records]


def test_a_training_sends_the_scalars_of_every_epoch(noted: list[Noted]) -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), np.arange(n) % 4) for n in (64, 16, 16)]
    splits = ds.Splits.from_arrays(parts[0], val=parts[1], test=parts[2], name="noise", num_classes=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few images and steps
        training = ds.train("cifar_resnet8x4", splits, trackers="noted", epochs=2, batch_size=32, **FAST)
    (run,) = noted
    assert [values["accuracy/val"] for _, values in run.logged] == [row.val_accuracy for row in training.rows]
    assert run.is_finished


def test_a_pipeline_sends_every_stage(noted: list[Noted], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few images and steps
        ds.run(
            "digits",
            teacher="cifar_resnet",
            teacher_options={"arch": "1x4-1x4-1x8"},
            space_options=SMALL["space_options"],
            evaluations=2,
            probe_size=8,
            epochs=1,
            batch_size=20,
            data_options={"image_size": 8, "train_limit": 40},
            finalists=0,
            trackers="noted",
            out=tmp_path / "run",
            **FAST,
        )
    teacher, search, distilled, alone = noted
    assert [step for step, _ in search.logged] == [0, 1]
    assert all("accuracy/val" in run.logged[0][1] for run in (teacher, distilled, alone))


def test_several_trackers_get_the_same_and_those_that_write_files_do_so_in_the_run_folder(
    noted: list[Noted], tmp_path: Path
) -> None:
    search(trackers=["tensorboard", "noted"], out=tmp_path / "run")
    assert list((tmp_path / "run" / "trackers" / "diswot-search").glob("events.out.tfevents.*"))
    assert list((tmp_path / "run" / "curves").glob("events.out.tfevents.*"))
    assert len(noted[0].logged) == 6


def test_a_tracker_that_fails_is_left_out_with_a_warning(noted: list[Noted]) -> None:
    Noted.fails_at = 2
    with pytest.warns(UserWarning, match=r"'noted' failed and is left out \(ConnectionError: no network\)"):
        study = search(trackers="noted")
    assert len(study) == 6
    assert [step for step, _ in noted[0].logged] == [0, 1]


def test_a_tracker_that_cannot_start_is_no_failure_of_the_trainings_of_a_sweep(
    noted: list[Noted], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": "cifar_resnet",
        "student_options": {"arch": "1x4-1x4-1x8"},
        "dataset": "digits",
    }
    options |= {"data_options": {"train_limit": 40, "image_size": 8}, "epochs": 1, "batch_size": 20, **FAST}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = ds.sweep(
            **options,
            grid={"seed": [0]},
            out=tmp_path / "sweep",
            trackers=["noted", "tensorboard"],
            tracker_options={"noted": {"refuses": True}},
        )
    assert [(cell.status, cell.reason) for cell in table.cells] == [("complete", None)]
    message = "seed=0 is trained without trackers: The tracker 'noted' cannot be started (ConnectionError: no network)."
    assert [str(one.message) for one in caught].count(message) == 1
    assert "noted" in (table.cells[0].path / "config.yaml").read_text()


def test_the_steps_of_an_asynchronous_search_go_in_the_order_of_completion(noted: list[Noted]) -> None:
    records = list(search().records)
    order = [3, 0, 5, 1, 2, 4]
    with Trackers(["noted"]) as trackers, Curves(None, trackers) as curves:
        for finished, index in enumerate(order):
            curves.add(dataclasses.replace(records[index], finished=finished))
    logged = noted[0].logged
    assert [step for step, _ in logged] == list(range(6))
    assert [values["score/evaluation"] for _, values in logged] == [records[index].score for index in order]
    best = [max(values["score/evaluation"] for _, values in logged[: place + 1]) for place in range(6)]
    assert [values["score/best"] for _, values in logged] == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trackers": "notd"}, "Unknown tracker 'notd'. Did you mean 'noted'"),
        ({"trackers": ["noted", "noted"]}, "name each once"),
        ({"trackers": "tensorboard"}, "writes files; give a run folder"),
        ({"trackers": "aim"}, "'aim' is not installed"),
        ({"trackers": "noted", "tracker_options": {"wandb": {}}}, "tracker_options are for wandb; trackers is noted"),
        ({"trackers": "noted", "tracker_options": {"noted": 1}}, "must map names of options"),
        ({"trackers": "noted", "tracker_options": {"noted": {"refuses": True}}}, "cannot be started .ConnectionError"),
    ],
)
def test_what_cannot_track_is_refused(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ValueError, match=message):
        search(**options)
