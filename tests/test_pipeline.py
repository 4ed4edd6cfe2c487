"""From a data set to a distilled student: stages, what they leave, how they go on, and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search import Budget, DistillerError, Splits, Study, StudyError
from diswot_search.distillation import training
from diswot_search.image_sets import ImageSet

STAGES = ["teacher", "search", "distilled", "alone"]
TINY = {
    "teacher": "cifar_resnet",
    "teacher_options": {"arch": "1x4-1x4-1x8"},
    "space": "nasbench201",
    "space_options": {"channels": 4, "cells": 1},
    "budget": Budget(max_params=12_000),
    "evaluations": 4,
    "algorithm": "random",
    "probe_size": 8,
    "epochs": 2,
    "teacher_epochs": 3,
    "batch_size": 20,
    "data_options": {"image_size": 8, "train_limit": 40},
    "teacher_data_options": {"train_limit": 60},
    "device": "cpu",
    "progress": False,
}

OF_A_TRAINED_TEACHER = TINY | {"teacher_options": None, "teacher_epochs": None, "teacher_data_options": None}


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Pictures take most of the time, and are tested with what draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_training", lambda rows, result: {})
        patch.setattr(importlib.import_module("diswot_search.search"), "PICTURES", {})
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """What a pipeline says and gives, by path, but for times, which differ."""
    names = ["result.json", "config.json", "teacher/student/student.safetensors", "search/result.json"]
    names += ["distilled/student/student.safetensors", "alone/student/student.safetensors"]
    found = {name: (folder / name).read_bytes() for name in names}
    study = json.loads(found["search/result.json"])
    found["search/result.json"] = study["winner"]["architecture"].encode()
    return found


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ds.PipelineResult:
    """A pipeline of all stages that was never stopped."""
    return ds.run(out=tmp_path_factory.mktemp("finished") / "run", **TINY)


def test_the_stages_follow_each_other_and_leave_a_folder_each(finished: ds.PipelineResult) -> None:
    assert {path.name for path in finished.path.iterdir()} == {
        "config.json", "lock", "pipeline.sqlite", "report.md", "result.json", *STAGES,
    }  # fmt: skip
    winner = finished.study.winner
    assert winner.params <= 12_000
    for run in (finished.distilled, finished.alone):
        assert run is not None
        assert run.result["student"]["name"].endswith(winner.record.architecture)
        assert run.result["epochs"] == 2
    assert finished.teacher is not None
    assert finished.teacher.result["epochs"] == 3
    assert finished.distilled.result["teacher"]["accuracy"] == finished.teacher.accuracy
    assert finished.teacher.result["steps"] == 3 * 60 // 20
    assert finished.alone.result["teacher"] is None


def test_result_and_report_hold_the_student_against_itself_alone(finished: ds.PipelineResult) -> None:
    result = json.loads((finished.path / "result.json").read_text())
    assert result["student"]["architecture"] == finished.study.winner.record.architecture
    assert result["test_accuracy"] == {
        "teacher": finished.teacher.accuracy,
        "distilled": finished.distilled.accuracy,
        "alone": finished.alone.accuracy,
    }
    assert result["difference"] == finished.difference == finished.distilled.accuracy - finished.alone.accuracy
    for path in result["results"].values():
        assert json.loads((finished.path / path).read_text())["status"] == "complete"
    report = (finished.path / "report.md").read_text()
    for shown in ("student alone", "distilled", f"{finished.alone.accuracy:.2f} %", "Best 4 of 4", "max_params 12,000"):
        assert shown in report


def test_the_student_is_given_and_can_be_loaded(finished: ds.PipelineResult) -> None:
    loaded = ds.load_student(finished.path / "distilled")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), finished.student(images))
    assert torch.equal(ds.load_student(finished.path)(images), loaded(images))


def test_the_search_sees_training_images_and_a_teacher_with_random_weights(
    finished: ds.PipelineResult, tmp_path: Path
) -> None:
    assert finished.study.config["teacher"]["trained"] is False
    seen: list[torch.Tensor] = []

    def look(student: ds.Readings, teacher: ds.Readings | None) -> float:
        seen.append(student.probe.images)
        raise KeyboardInterrupt

    options = OF_A_TRAINED_TEACHER | {"teacher": finished.path / "teacher", "proxy": look}
    with pytest.raises(KeyboardInterrupt):
        ds.run(out=tmp_path / "run", **options)
    splits = ds.create_splits(**TINY["data_options"])
    (images,) = seen
    assert images.shape == (8, 3, 8, 8)
    known = {part: pictures(getattr(splits, part), splits) for part in ("train", "val", "test")}
    for image in images:
        near = {part: (image - all_of).abs().amax((1, 2, 3)).min() < 1e-5 for part, all_of in known.items()}
        assert near == {"train": True, "val": False, "test": False}


def pictures(images: ImageSet, splits: Splits) -> torch.Tensor:
    """All images of a set, normalised."""
    order = torch.arange(len(images))
    batch = next(iter(images.batches(order, len(images), device=torch.device("cpu"), augment=None, seed=0)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.mean, splits.std))
    return (batch.images - mean) / std


def test_a_finished_pipeline_is_read_and_no_stage_runs_again(finished: ds.PipelineResult) -> None:
    before = {path: time for path, time in times(finished.path).items() if path.endswith((".safetensors", ".csv"))}
    told: list[str] = []
    again = ds.run(out=finished.path, announce=lambda stage, result: told.append(stage), **TINY)
    assert told == STAGES
    assert {path: time for path, time in times(finished.path).items() if path in before} == before
    assert again.difference == finished.difference
    assert again.study.winner.record == finished.study.winner.record


def test_another_configuration_is_refused_and_named(finished: ds.PipelineResult) -> None:
    before = times(finished.path)
    for changes, message in (
        ({"distiller": "kd+at"}, r"distillation.distillers.at.weight is not set there"),
        ({"seed": 1}, r"seed is 0 there, 1 here"),
        ({"evaluations": 5}, r"search.evaluations is 4 there, 5 here"),
        ({"teacher_epochs": 4}, r"teacher.recipe.epochs is 3 there, 4 here"),
        ({"search_teacher": "trained"}, r'search_teacher is "random" there, "trained" here'),
    ):
        with pytest.raises(StudyError, match=message):
            ds.run(out=finished.path, **TINY | changes)
    assert times(finished.path) == before


def test_a_trained_teacher_is_taken_as_it_is(finished: ds.PipelineResult, tmp_path: Path) -> None:
    options = OF_A_TRAINED_TEACHER | {"teacher": finished.path / "teacher", "compare": False}
    first = ds.run(out=tmp_path / "run", **options)
    assert first.teacher is None
    assert first.alone is None
    assert first.difference is None
    assert not (tmp_path / "run" / "teacher").exists()
    assert not (tmp_path / "run" / "alone").exists()
    assert "student alone" not in (tmp_path / "run" / "report.md").read_text()
    assert first.study.config["teacher"]["trained"] is False
    assert first.distilled.accuracy == finished.distilled.accuracy  # all is as if it had been trained here
    distilled = times(tmp_path / "run" / "distilled" / "student")
    then = ds.run(out=tmp_path / "run", **options | {"compare": True})  # a comparison can be added
    assert then.alone.accuracy == finished.alone.accuracy
    assert times(tmp_path / "run" / "distilled" / "student") == distilled


def test_a_search_may_compare_with_the_trained_teacher(tmp_path: Path) -> None:
    options = TINY | {"search_teacher": "trained", "compare": False, "epochs": 1, "teacher_epochs": 1}
    study = ds.run(out=tmp_path / "run", **options).study
    assert study.config["teacher"]["trained"] is True
    assert "checkpoint_sha256" in study.config["teacher"]


def test_ones_own_arrays_and_module(tmp_path: Path) -> None:
    labels = torch.arange(60) % 3
    images = (torch.rand(60, 3, 8, 8) * 100 + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    splits = Splits.from_arrays((images, labels))
    teacher = ds.create_teacher("cifar_resnet", num_classes=3, arch="1x4-1x4-1x8").build().eval()
    options = OF_A_TRAINED_TEACHER | {"data_options": None, "teacher": teacher, "epochs": 1}
    with pytest.raises(ValueError, match="cannot be built with random weights; give search_teacher='trained'"):
        ds.run(splits, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    result = ds.run(splits, out=tmp_path / "run", **options | {"search_teacher": "trained"})
    assert result.student(torch.randn(1, 3, 8, 8)).shape == (1, 3)
    assert result.teacher is None


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["teacher", "alone"])
def test_a_pipeline_stopped_between_stages_goes_on(stage: str, finished: ds.PipelineResult, tmp_path: Path) -> None:
    def stop(done: str, result: ds.Training | Study) -> None:
        if done == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ds.run(out=tmp_path / "run", announce=stop, **TINY)
    assert not (tmp_path / "run" / "result.json").exists()
    ds.run(out=tmp_path / "run", **TINY)
    assert contents(tmp_path / "run") == contents(finished.path)


KILLED = """
import os, signal
import torch
import diswot_search as ds
from diswot_search.distillation import training
from diswot_search.image_sets import ImageSet
from diswot_search.distillation.checkpoint import TrainingFolder
from test_pipeline import TINY

torch.set_num_threads(1)
training.draw_training = lambda rows, result: {}
save = TrainingFolder.save

def save_and_die(folder, name, checkpoint):
    save(folder, name, checkpoint)
    if folder.path.name == "distilled":
        os.kill(os.getpid(), signal.SIGKILL)

TrainingFolder.save = save_and_die
ds.run(out="run", **TINY)
"""


def test_a_pipeline_killed_within_a_stage_ends_the_same(finished: ds.PipelineResult, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert (tmp_path / "run" / "distilled" / "last.safetensors").exists()
    assert not (tmp_path / "run" / "result.json").exists()
    ds.run(out=tmp_path / "run", **TINY)
    assert contents(tmp_path / "run") == contents(finished.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distiller": "kdd"}, "Unknown distiller 'kdd'. Did you mean 'kd'"),
        ({"distiller": {"kd": -1.0}}, "the weight of kd is -1.0"),
        ({"distiller": {"kd": {"temprature": 2.0}}}, "'kd' has no option 'temprature'"),
        ({"ce_weight": float("nan")}, "ce_weight is nan"),
        ({"budget": Budget(max_params=10)}, "the smallest cost of the space is"),
        ({"budget": 10}, "budget is 10; it must be a Budget"),
        ({"teacher": "cifar_resnet9", "teacher_options": None}, "'cifar_resnet9' is no timm model"),
        ({"teacher_options": {"num_classes": 7}}, "num_classes of the teacher comes from the data"),
        ({"teacher_options": {"archh": "1x4-1x4-1x8"}}, "cannot be built"),
        ({"space": "nasbench21"}, "Unknown search space 'nasbench21'. Did you mean 'nasbench201'"),
        ({"space_options": {"chanels": 3}}, "'chanels'"),
        ({"algorithm": "evolutio"}, "Unknown algorithm 'evolutio'. Did you mean 'evolution'"),
        ({"algorithm_options": {"size": 3}}, "'random' has no option 'size'"),
        ({"proxy": "diswott"}, "Unknown proxy 'diswott'. Did you mean 'diswot'"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"probe_size": 1}, "probe_size is 1"),
        ({"probe_size": 41}, "probe_size is 41, but there are only 40 training images"),
        ({"search_teacher": "both"}, "search_teacher is 'both'"),
        ({"recipe": "cifarr"}, "Unknown recipe 'cifarr'. Did you mean 'cifar'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"teacher_epochs": 0}, "epochs is 0"),
        ({"teacher_recipe_options": {"lrr": 1}}, "'lrr'. Did you mean 'lr'"),
        ({"batch_size": 41}, "batch_size is 41, but"),
        ({"rule": "worst"}, "rule is 'worst'"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"dataset": "digitz"}, "Unknown data set 'digitz'. Did you mean 'digits'"),
        ({"data_options": {"train_limit": 5}}, "train_limit is 5"),
        ({"teacher_data_options": {"train_limit": 5}}, "train_limit is 5"),
        ({"teacher_data_options": {"seed": 1}}, "is trained on digits divided otherwise"),
    ],
)
def test_wrong_input_of_any_stage_is_refused_before_the_first(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared
        ds.run(out=tmp_path / "run", **TINY | changes)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_distiller_that_does_not_fit_the_students_is_refused_before_the_first_stage(tmp_path: Path) -> None:
    class Headless(nn.Module):
        """Has neither stages nor a classifier that its contract tells."""

        num_classes = 10

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 8 * 8, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1))

    options = OF_A_TRAINED_TEACHER | {"teacher": Headless().eval(), "search_teacher": "trained"}
    with pytest.raises(DistillerError, match="AT reads stages, which the teacher Headless does not have"):
        ds.run(out=tmp_path / "run", **options | {"distiller": "at", "proxy": "nwot"})
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(finished: ds.PipelineResult, tmp_path: Path) -> None:
    images, labels = torch.randint(0, 255, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 3
    options = OF_A_TRAINED_TEACHER | {"data_options": None, "teacher": finished.path / "teacher"}
    with pytest.raises(ValueError, match="is for 10 classes, but the data has 3"):
        ds.run(Splits.from_arrays((images, labels)), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_how_to_train_a_teacher_is_not_said_of_a_trained_one(finished: ds.PipelineResult, tmp_path: Path) -> None:
    given = {"teacher_epochs": 3, "teacher_recipe_options": {"lr": 0.1}, "teacher_data_options": {"train_limit": 60}}
    for name, value in given.items():
        options = OF_A_TRAINED_TEACHER | {"teacher": finished.path / "teacher", name: value}
        with pytest.raises(ValueError, match=f"is trained already; {name} cannot be set"):
            ds.run(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"is no run folder: it holds notes.txt"):
        ds.run(out=tmp_path, **TINY)
    with pytest.raises(StudyError, match="is a file"):
        ds.run(out=tmp_path / "notes.txt", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_folder_of_a_pipeline_is_no_place_for_another_run(finished: ds.PipelineResult) -> None:
    with pytest.raises(StudyError, match="is the run folder of a pipeline"):
        ds.train("cifar_resnet20", "digits", epochs=1, out=finished.path, progress=False)
