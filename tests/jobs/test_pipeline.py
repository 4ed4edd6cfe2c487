"""From a data set to a distilled student: stages, what they leave, how they go on, and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import diswot_search as ds
from diswot_search import Budget, DistillerError, RunFolderError, Splits, Study, cli
from diswot_search.cli import main
from diswot_search.data.image_sets import ImageSet
from diswot_search.jobs import rank_sources as source_ranking
from diswot_search.jobs import student_facts
from diswot_search.jobs import training_run as training
from diswot_search.jobs.pipeline import PipelineJob
from diswot_search.jobs.rank_sources import RankingRun
from diswot_search.networks.saved import save_student
from diswot_search.options.pipeline import PipelineOptions
from diswot_search.options.search import DEFAULT_PROXY
from diswot_search.resolve.networks import as_network
from diswot_search.runtime.seeding import isolated_random_state
from diswot_search.sources.evidence import Evidence
from diswot_search.sources.folder import RankingFolder
from diswot_search.sources.measuring import SourceMeasurer
from diswot_search.sources.ranking import RankingError
from diswot_search.sources.transferability import MEASURES, get_measure
from diswot_search.training.folder import TrainingFolder
from diswot_search.training.result import LabelCounts
from search_spaces import Architecture, NASBench201Space

from ..trained_weights import as_trained


def run_announcing(*, announce: Callable[[str, Any], None], **options: Any) -> ds.PipelineResult:
    return PipelineJob(PipelineOptions(**options), announce=announce).complete()


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
    "finalists": 0,
    "device": "cpu",
    "progress": False,
}

OF_A_TRAINED_TEACHER = TINY | {"teacher_options": None, "teacher_epochs": None, "teacher_data_options": None}


def source(seed: int, num_classes: int = 5) -> nn.Module:
    with isolated_random_state(seed):
        return as_trained(timm.create_model("cifar_resnet", arch="1x4-1x8", num_classes=num_classes))


BANK = {"first": source(1), "second": source(2, num_classes=3), "third": source(3, num_classes=2)}
STAGES_OF_SOURCES = ["sources", "search", "distilled", "alone"]
ABOUT_TEACHERS = ("teacher", "teacher_options", "teacher_epochs", "teacher_data_options")
OF_SOURCES = {key: value for key, value in TINY.items() if key not in ABOUT_TEACHERS}
OF_SOURCES |= {"sources": BANK, "labels_per_class": 2, "power": 1.0, "proxy": "diswot"}


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Pictures take most of the time, and are tested with what draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_training", lambda rows, result: {})
        patch.setattr(importlib.import_module("diswot_search.jobs.search"), "PICTURES", {})
        patch.setattr(source_ranking, "to_png", lambda figure: b"")
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """With another number of threads, as another process may have, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        "config.json", "config.yaml", "data.json", "lock", "pipeline.sqlite", "report.html", "report.md",
        "result.json", *STAGES,
    }  # fmt: skip
    winner = finished.study.winner
    assert winner.params <= 12_000
    for run in (finished.distilled, finished.alone):
        assert run is not None
        assert run.result.student.name.endswith(winner.record.architecture)
        assert run.result.epochs == 2
    assert finished.teacher is not None
    assert finished.teacher.result.epochs == 3
    assert finished.distilled.result.teacher.accuracy == finished.teacher.accuracy
    assert finished.teacher.result.steps == 3 * 60 // 20
    assert finished.alone.result.teacher is None


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
    assert "Parts of effective_capacity" in report
    assert "score: effective_capacity, which does not look at the teacher" in report


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
    again = run_announcing(out=finished.path, announce=lambda stage, result: told.append(stage), **TINY)
    assert told == STAGES
    assert {path: time for path, time in times(finished.path).items() if path in before} == before
    assert again.difference == finished.difference
    assert again.study.winner.record == finished.study.winner.record


@pytest.mark.parametrize(("stage", "command"), [("teacher", "train"), ("distilled", "distill"), ("alone", "train")])
def test_a_stage_runs_again_from_its_own_config(
    stage: str, command: str, finished: ds.PipelineResult, tmp_path: Path
) -> None:
    folder = finished.path / stage
    assert main([command, "--config", str(folder / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    weights = "student/student.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (folder / weights).read_bytes()
    assert TrainingFolder.peek(tmp_path / "again").config == TrainingFolder.peek(folder).config


def test_the_search_of_a_pipeline_is_run_again_with_the_pipeline(
    finished: ds.PipelineResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finished.path / "search/config.yaml"
    assert config.read_text().startswith("# Given in Python, so that --config cannot read this file: space, ")
    assert main(["search", "--config", str(config), "--out", str(tmp_path / "again")]) == 2
    assert "by the config.yaml of the pipeline" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    text = config.read_text()
    config.unlink()
    ds.run(out=finished.path, **TINY)
    assert config.read_text() == text


def test_another_configuration_is_refused_and_named(finished: ds.PipelineResult) -> None:
    before = times(finished.path)
    for changes, message in (
        ({"distiller": "kd+at"}, r"distillation.distillers.at.weight is not set there"),
        ({"seed": 1}, r"seed is 0 there, 1 here"),
        ({"evaluations": 5}, r"search.evaluations is 4 there, 5 here"),
        ({"teacher_epochs": 4}, r"teacher.recipe.epochs is 3 there, 4 here"),
        ({"search_teacher": "trained"}, r'search_teacher is "random" there, "trained" here'),
    ):
        with pytest.raises(RunFolderError, match=message):
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
    teacher = as_trained(ds.create_teacher("cifar_resnet", num_classes=3, arch="1x4-1x4-1x8").build())
    options = OF_A_TRAINED_TEACHER | {"data_options": None, "teacher": teacher, "epochs": 1}
    with pytest.raises(ValueError, match="cannot be built with random weights; give search_teacher='trained'"):
        ds.run(splits, out=tmp_path / "run", **options | {"proxy": "diswot"})
    assert not (tmp_path / "run").exists()
    result = ds.run(splits, out=tmp_path / "run", **options)  # with a score that looks at no teacher
    assert result.student(torch.randn(1, 3, 8, 8)).shape == (1, 3)
    assert result.teacher is None


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["teacher", "alone"])
def test_a_pipeline_stopped_between_stages_goes_on(stage: str, finished: ds.PipelineResult, tmp_path: Path) -> None:
    def stop(done: str, result: ds.Training | Study) -> None:
        if done == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_announcing(out=tmp_path / "run", announce=stop, **TINY)
    assert not (tmp_path / "run" / "result.json").exists()
    ds.run(out=tmp_path / "run", **TINY)
    assert contents(tmp_path / "run") == contents(finished.path)


def test_a_page_that_fails_does_not_fail_the_run(
    finished: ds.PipelineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Path) -> None:
        raise ZeroDivisionError("no points")

    monkeypatch.setattr("diswot_search.jobs.pipeline.write_page", fail)
    with pytest.warns(UserWarning, match="page of the run was not written: ZeroDivisionError: no points"):
        result = ds.run(out=tmp_path / "run", **TINY)
    assert result.study.winner.record.architecture == finished.study.winner.record.architecture
    assert (tmp_path / "run" / "result.json").is_file()
    assert not (tmp_path / "run" / "report.html").exists()


KILLED = """
import os, signal
import torch
import diswot_search as ds
from diswot_search.jobs import training_run
from diswot_search.data.image_sets import ImageSet
from diswot_search.training.folder import TrainingFolder
from tests.jobs.test_pipeline import TINY

torch.set_num_threads(1)
training_run.plot_training = lambda rows, result: {}
save = TrainingFolder.save

def save_and_die(folder, name, checkpoint):
    save(folder, name, checkpoint)
    if folder.path.name == "distilled":
        os.kill(os.getpid(), signal.SIGKILL)

TrainingFolder.save = save_and_die
ds.run(out="run", **TINY)
"""


@pytest.mark.faults
def test_a_pipeline_killed_within_a_stage_ends_the_same(finished: ds.PipelineResult, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
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
        ({"teacher_options": {"archh": "1x4-1x4-1x8"}}, "has no option 'archh'. Did you mean 'arch'?"),
        ({"space": "nasbench21"}, "Unknown search space 'nasbench21'. Did you mean 'nasbench201'"),
        ({"space_options": {"chanels": 3}}, "'chanels'"),
        ({"algorithm": "evolutio"}, "Unknown algorithm 'evolutio'. Did you mean 'evolution'"),
        ({"algorithm_options": {"size": 3}}, "'random' has no option 'size'"),
        ({"proxy": "diswott"}, "Unknown proxy 'diswott'. Did you mean 'diswot'"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"weight_draws": 0}, "weight_draws is 0"),
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

    options = OF_A_TRAINED_TEACHER | {"teacher": as_trained(Headless()), "search_teacher": "trained"}
    with pytest.raises(DistillerError, match="AT reads stages, which the teacher Headless does not have"):
        ds.run(out=tmp_path / "run", **options | {"distiller": "at", "proxy": "nwot"})
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused_by_a_distiller_that_compares_them(
    finished: ds.PipelineResult, tmp_path: Path
) -> None:
    images, labels = torch.randint(0, 255, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 3
    options = OF_A_TRAINED_TEACHER | {"data_options": None, "teacher": finished.path / "teacher"}
    with pytest.raises(
        ValueError, match=r"has 3 classes and the teacher .* has 10\. Three ways: teacher_classes='adapt'"
    ):
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
    with pytest.raises(RunFolderError, match=r"is no run folder: it holds notes.txt"):
        ds.run(out=tmp_path, **TINY)
    with pytest.raises(RunFolderError, match="is a file"):
        ds.run(out=tmp_path / "notes.txt", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_folder_of_a_pipeline_is_no_place_for_another_run(finished: ds.PipelineResult) -> None:
    with pytest.raises(RunFolderError, match="is the run folder of a pipeline"):
        ds.train("cifar_resnet20", "digits", epochs=1, out=finished.path, progress=False)


# -- labelled subset ----------------------------------------------------------------------------


def test_all_stages_look_at_the_same_labels(tmp_path: Path) -> None:
    options = TINY | {"labels_per_class": 2, "epochs": 1, "teacher_epochs": 1, "evaluations": 1}
    result = ds.run(out=tmp_path / "run", **options)
    for training_of, images in ((result.teacher, 60), (result.distilled, 40), (result.alone, 40)):
        assert training_of.result.labels == LabelCounts(labelled=20, images=images, validation=143, classes=10)
    own = {"train_limit": 60, "labels_per_class": None}
    taught = ds.run(out=tmp_path / "other", **options | {"teacher_data_options": own, "compare": False})
    assert taught.teacher.result.labels is None
    assert taught.distilled.result.labels.labelled == 20


@pytest.mark.parametrize("of_sources", [False, True])
def test_the_search_sees_labelled_images_only(of_sources: bool, finished: ds.PipelineResult, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def look(student: ds.Readings, teacher: ds.Readings | None) -> float:
        seen.append(student.probe.images)
        raise KeyboardInterrupt

    guide = {"sources": BANK} if of_sources else {"teacher": finished.path / "teacher"}
    options = (OF_SOURCES if of_sources else OF_A_TRAINED_TEACHER) | guide | {"proxy": look, "labels_per_class": 2}
    with pytest.raises(KeyboardInterrupt):
        ds.run(out=tmp_path / "run", **options | {"probe_size": None})
    (images,) = seen
    splits = ds.create_splits(**TINY["data_options"], labels_per_class=2)
    assert len(images) == 20  # all that have labels, since they are fewer than usual
    known = pictures(splits.train, splits)[splits.labelled]
    assert all((image - known).abs().amax((1, 2, 3)).min() < 1e-5 for image in images)
    with pytest.raises(ValueError, match="probe_size is 21, but there are only 20 training images that have labels"):
        ds.run(out=tmp_path / "other", **options | {"probe_size": 21})


# -- sources ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_sources(tmp_path_factory: pytest.TempPathFactory) -> ds.PipelineResult:
    """A pipeline under sources that was never stopped."""
    return ds.run(out=tmp_path_factory.mktemp("of_sources") / "run", **OF_SOURCES)


def outcome(folder: Path) -> dict[str, Any]:
    """What a pipeline under sources says and gives, but for times and files that are chosen by their moment."""
    names = ["config.json", "result.json", "sources/sources.csv"]
    names += [f"{stage}/student/student.safetensors" for stage in ("distilled", "alone")]
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in names}
    found["winner"] = json.loads((folder / "search/result.json").read_text())["winner"]["architecture"]
    return found


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_sources_are_ranked_searched_for_and_learnt_from(of_sources: ds.PipelineResult) -> None:
    assert {path.name for path in of_sources.path.iterdir()} == {
        "config.json", "config.yaml", "data.json", "lock", "pipeline.sqlite", "report.html", "report.md",
        "result.json", *STAGES_OF_SOURCES,
    }  # fmt: skip
    assert of_sources.teacher is None
    assert of_sources.distilled.result.teacher is None
    assert of_sources.distilled.result.unlabelled == "sources"
    assert of_sources.alone.result.unlabelled is None
    for training_of in (of_sources.distilled, of_sources.alone):
        assert training_of.result.labels.labelled == 20
        assert training_of.result.student.name.endswith(of_sources.study.winner.record.architecture)
    assert of_sources.difference == of_sources.distilled.accuracy - of_sources.alone.accuracy


def test_one_set_of_weights_serves_the_search_and_the_distillation(of_sources: ds.PipelineResult) -> None:
    similarities = of_sources.ranking.similarities()
    total = sum(max(value, 0) for value in similarities.values())
    by_definition = {name: max(value, 0) / total for name, value in similarities.items()}  # of power 1
    assert sum(weight > 0 for weight in by_definition.values()) > 1  # or the bank shows nothing
    assert of_sources.weights == pytest.approx(by_definition, rel=1e-12)
    searched = of_sources.study.config["teacher"]["teachers"]
    used = {name: weight for name, weight in of_sources.weights.items() if weight}
    assert {teacher["name"]: teacher["weight"] for teacher in searched} == used
    learnt = of_sources.distilled.result.sources.models
    assert {model.name: model.weight for model in learnt} == of_sources.weights
    assert all(teacher["trained"] for teacher in searched)


def test_the_students_are_those_of_distill_and_train(of_sources: ds.PipelineResult, tmp_path: Path) -> None:
    asked = ("epochs", "batch_size", "data_options", "labels_per_class", "device", "progress")
    options = {key: OF_SOURCES[key] for key in asked}
    distilled = ds.distill(of_sources.study, None, "digits", sources=BANK, power=1.0, **options)
    assert same(distilled.student, of_sources.student)
    assert same(ds.train(of_sources.study, "digits", **options).student, of_sources.alone.student)
    assert not same(distilled.student, of_sources.alone.student)
    assert same(ds.load_student(of_sources.path), of_sources.student)


def test_report_result_and_show_name_the_sources(
    of_sources: ds.PipelineResult, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((of_sources.path / "result.json").read_text())
    assert result["results"]["sources"] == result["sources"]["ranking"] == "sources/result.json"
    ranked = json.loads((of_sources.path / result["sources"]["ranking"]).read_text())
    assert {one["name"]: one["measures"]["parc"]["similarity"] for one in ranked["sources"]} == pytest.approx(
        result["sources"]["similarities"]
    )
    assert result["sources"]["weights"] == of_sources.weights
    assert result["sources"]["fallback"] is None
    report = (of_sources.path / "report.md").read_text()
    assert main(["show", str(of_sources.path)]) == 0
    shown = capsys.readouterr().out
    for text in (report, shown):
        lines = text.splitlines()
        for name, weight in of_sources.weights.items():
            assert any(f"{name} " in line and f" {weight:.3f} " in line for line in lines)
        for needed in ("student alone", "distilled", f"{of_sources.alone.accuracy:.2f} %", "3 sources (weighted)"):
            assert needed in text
    assert report.startswith("# nasbench201-")
    assert of_sources.distilled.result.student.name in report  # in full, once
    assert " under 3 sources on digits" in report
    assert "by parc to the power 1; labels count 0.8" in report


def test_a_finished_pipeline_of_sources_is_read(of_sources: ds.PipelineResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceMeasurer, "measure", None)  # which would be called to measure a source
    before = times(of_sources.path)
    told: list[str] = []
    again = run_announcing(out=of_sources.path, announce=lambda stage, result: told.append(stage), **OF_SOURCES)
    assert told == STAGES_OF_SOURCES
    after = times(of_sources.path)
    assert [path for path in before if path.endswith(".safetensors") and before[path] != after[path]] == []
    assert again.weights == of_sources.weights
    assert again.difference == of_sources.difference
    for changes, message in (
        ({"weighting": "nearest"}, r'distillation.unlabelled.weighting is "weighted" there, "nearest" here'),
        ({"lam": 0.5}, r"distillation.unlabelled.lam is 0.8 there, 0.5 here"),
        ({"labels_per_class": 3}, r"distillation.data.labels.count is 20 there, 30 here"),
        ({"sources": {"first": BANK["first"]}}, r"second"),
        ({"sources": None, "power": 10.0, "teacher": "cifar_resnet20"}, r"sources"),
    ):
        with pytest.raises(RunFolderError, match=message):
            ds.run(out=of_sources.path, **OF_SOURCES | changes)
    assert times(of_sources.path) == after


class Killed(BaseException):
    """Nobody answers to it, as to a kill."""


def test_a_pipeline_of_sources_killed_in_any_stage_ends_the_same(
    of_sources: ds.PipelineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, method in ((RankingFolder, "add"), (Study, "add"), (TrainingFolder, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(kind, method, _and_die(getattr(kind, method)))
            with pytest.raises(Killed):
                ds.run(out=tmp_path / "run", **OF_SOURCES)
        assert not (tmp_path / "run" / "result.json").exists()
    assert len(RankingFolder.peek(tmp_path / "run" / "sources").measured) == 3
    ds.run(out=tmp_path / "run", **OF_SOURCES)
    assert outcome(tmp_path / "run") == outcome(of_sources.path)


def _and_die(method: Callable[..., None]) -> Callable[..., None]:
    def call(*args: Any, **options: Any) -> None:
        method(*args, **options)
        raise Killed

    return call


def test_a_ranking_is_taken_as_it_is(of_sources: ds.PipelineResult, tmp_path: Path) -> None:
    told: list[str] = []
    options = OF_SOURCES | {"sources": of_sources.ranking, "weighting": "nearest", "epochs": 1, "evaluations": 1}
    result = run_announcing(out=tmp_path / "run", announce=lambda stage, found: told.append(stage), **options)
    assert told == ["search", "distilled", "alone"]
    assert not (tmp_path / "run" / "sources").exists()
    nearest = of_sources.ranking.order()[0]
    assert result.weights == {name: float(name == nearest) for name in BANK}
    assert result.study.config["teacher"]["name"] == nearest
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["results"]["sources"] == str(of_sources.path / "sources" / "result.json")
    other = Splits.from_arrays((torch.randint(0, 255, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 3))
    with pytest.raises(ValueError, match="are ranked for digits with 10 classes, but the data is arrays with 3"):
        ds.run(other, out=tmp_path / "other", **options | {"data_options": None})


@pytest.fixture
def contrary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parc that finds no source near."""
    parc = get_measure("parc")

    def turned(evidence: Evidence) -> float:
        return -abs(parc.function(evidence))

    monkeypatch.setitem(MEASURES._entries, "parc", replace(parc, function=turned))


@pytest.mark.usefixtures("contrary")
def test_a_faint_bank_is_compared_with_alike_and_nothing_is_learnt_from_it(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the student is trained on") as warned:
        result = ds.run(out=tmp_path / "run", **OF_SOURCES)
    first, *_ = (text for each in warned if "are too few" not in (text := str(each.message)))
    assert first.startswith("By parc no source tells more of digits than chance does")
    assert result.weights == {}
    searched = result.study.config["teacher"]["teachers"]
    assert {teacher["weight"] for teacher in searched} == {1 / 3}
    asked = ("epochs", "batch_size", "data_options", "labels_per_class", "device", "progress")
    alone = ds.train(result.study, "digits", **{key: OF_SOURCES[key] for key in asked})
    assert same(alone.student, result.student)
    assert result.alone is None
    assert result.difference is None
    assert not (tmp_path / "run" / "alone").exists()
    assert f"- {first}" in (tmp_path / "run" / "report.md").read_text().splitlines()
    stored = json.loads((tmp_path / "run" / "result.json").read_text())["sources"]
    assert stored["fallback"].startswith("No source is near")
    assert stored["weights"] == {}


def searched(out: Path, **changes: Any) -> Study:
    """The search of a pipeline under sources that is stopped after it."""

    def stop(stage: str, result: Any) -> None:
        if stage == "search":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_announcing(out=out, announce=stop, **OF_SOURCES | {"evaluations": 1, "epochs": 1} | changes)
    return Study.load(out / "search")


def test_a_proxy_that_compares_with_nobody_is_given_no_source(tmp_path: Path) -> None:
    def score(student: ds.Readings, teacher: ds.Readings | None) -> float:
        return float(student.pooled.std())

    by_hand = {"weighting": {"second": 1}}
    assert searched(tmp_path / "registered", proxy="nwot", **by_hand).config["teacher"] is None
    assert searched(tmp_path / "usual", proxy=DEFAULT_PROXY, **by_hand).config["teacher"] is None
    assert searched(tmp_path / "may_look", proxy=score, **by_hand).config["teacher"]["name"] == "second"


def features_only() -> dict[str, Any]:
    return {"first": BANK["first"], "features": {"model": source(4), "num_classes": 0}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "cifar_resnet20"}, "learns from sources; teacher cannot be combined with them"),
        (
            {"teacher_options": {"arch": "1x4"}, "teacher_epochs": 1},
            "teacher_options, teacher_epochs cannot be combined",
        ),
        ({"teacher_recipe_options": {"lr": 1}}, "teacher_recipe_options cannot be combined"),
        ({"teacher_data_options": {"train_limit": 60}}, "teacher_data_options cannot be combined"),
        ({"distiller": "kd", "ce_weight": 1.0}, "distiller, ce_weight cannot be combined"),
        ({"search_teacher": "trained"}, "search_teacher cannot be combined"),
        ({"sources": []}, "There are no sources"),
        ({"sources": ["resnet-18"]}, "Did you mean 'resnet18'"),
        ({"sources": {"first": BANK["first"], "same": source(1)}}, "first and same have the same weights"),
        ({"sources": {"many": {"model": source(4), "input_size": (4, 8, 8)}}}, "takes images of 4 channels"),
        ({"sources": features_only()}, "no classifier"),
        ({"sources": "none"}, "none"),
        ({"weighting": "nearst"}, "Unknown weighting 'nearst'. Did you mean 'nearest'"),
        ({"weighting": {"fourth": 1}}, "fourth"),
        ({"measure": "park"}, "Unknown measure 'park'. Did you mean 'parc'"),
        ({"measure": "rsa"}, "rsa compares with a reference"),
        ({"power": -1}, "power is -1"),
        ({"lam": 1.5}, "lam is 1.5"),
        ({"source_view": "fix"}, "Unknown source_view 'fix'"),
        ({"unlabelled_batch_size": 0}, "unlabelled_batch_size is 0"),
        ({"labels_per_class": None, "labels": "0%"}, "0%"),
        ({"labels": "50%"}, "labels_per_class"),
        ({"proxy": "diswott"}, "Unknown proxy 'diswott'"),
        ({"sources": None, "power": 10.0, "unlabelled_batch_size": 8}, "nothing is learnt from unlabelled images"),
    ],
)
def test_wrong_input_of_sources_is_refused_before_the_first_stage(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, RunFolderError)) as error:
        ds.run(out=tmp_path / "run", **OF_SOURCES | changes)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_students_without_a_linear_classifier_are_refused_before_the_first_stage(tmp_path: Path) -> None:
    class Convolved(nn.Module):
        """Its scores are means of a map of scores."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3)
            self.scores = nn.Conv2d(8, 10, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scores(self.body(images).relu()).mean((2, 3))

    class ConvolvedSpace(NASBench201Space):
        def build(self, architecture: Architecture) -> nn.Module:
            return Convolved()

    space = ConvolvedSpace(channels=4, cells=1, input_size=(3, 8, 8), num_classes=10)
    options = OF_SOURCES | {"space": space, "space_options": None, "proxy": "params"}
    with pytest.raises(ValueError, match="does not end in a linear classifier"):
        ds.run(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def failing(evidence: Evidence) -> float:
    raise ValueError("this measure is broken")


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_failed_ranking_leaves_nothing_or_what_the_same_command_goes_on_from(
    is_begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OF_SOURCES | {"measure": "cka", "evaluations": 1, "epochs": 1, "compare": False}
    out, working = tmp_path / "run", get_measure("cka")
    if is_begun:
        with monkeypatch.context() as patch:
            patch.setattr(RankingRun, "_measure_all", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ds.run(out=out, **options)
    with monkeypatch.context() as patch:
        patch.setitem(MEASURES._entries, "cka", replace(working, function=failing))
        with pytest.raises(RankingError, match="this measure is broken") as error:
            ds.run(out=out, **options)
    assert ("the same command goes on" in str(error.value)) == out.exists() == is_begun
    assert ds.run(out=out, **options).weights


def test_labels_that_no_measure_has_a_value_of_are_refused_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(RankingError, match="No two of the 8 images are of one class"):
        ds.run(out=tmp_path / "run", **OF_SOURCES | {"labels_per_class": 1})
    assert not (tmp_path / "run").exists()


def test_a_random_source_is_warned_of_once(tmp_path: Path) -> None:
    bank = {"first": BANK["first"], "random": {"model": source(5), "trained": False}}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        searched(tmp_path / "run", sources=bank, weighting={"first": 1})
    messages = [str(one.message) for one in warned if "are too few" not in str(one.message)]
    assert ["random has random weights" in message for message in messages] == [True]


def test_the_command_line_ranks_searches_and_distils(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("near", 1), ("far", 2)):
        network = as_network("cifar_resnet", num_classes=5, arch="1x4-1x8")
        save_student(network.build(seed).eval(), network.card((3, 8, 8), (0.5,) * 3, (0.2,) * 3), name)
    line = "run --sources '[near, far]' --labels_per_class 2 --data_options.image_size 8 --data_options.train_limit 40 "
    line += "--space_options.channels 4 --space_options.cells 1 --max_params 12e3 --evaluations 1 --algorithm random "
    line += "--epochs 1 --batch_size 20 --device cpu --compare false --finalists 0 --quiet --out all"
    assert main(shlex.split(line)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "Sources for digits by parc: 5 draws of 16 labelled images" in shown.out
    assert "distilled" in shown.out
    assert main(["run", "--config", "all/config.yaml"]) == 0
    assert capsys.readouterr().out == shown.out
    for command, stage, result in (
        ("sources", "sources", "sources.csv"),
        ("distill", "distilled", "student/student.safetensors"),
    ):
        assert main([command, "--config", f"all/{stage}/config.yaml", "--out", f"{stage} again"]) == 0
        assert Path(f"{stage} again", result).read_bytes() == Path("all", stage, result).read_bytes()
    capsys.readouterr()
    given = line.replace("'[near, far]'", "all/sources").replace("--out all", "--out again")
    assert main(shlex.split(given)) == 0
    assert "Sources for digits" not in capsys.readouterr().out
    assert main(["show", "again"]) == 0
    assert "Sources for digits by parc" in capsys.readouterr().out  # the ranking that was given
    assert main([*shlex.split(line), "--teacher", "cifar_resnet20"]) == 2
    assert "teacher cannot be combined with them" in capsys.readouterr().err


# -- finalists ----------------------------------------------------------------------------------


PROVEN = TINY | {"finalists": 2, "baselines": "cifar_resnet20", "rung_shares": [0.5, 1.0], "verdict_seeds": 2}


@pytest.fixture(scope="module")
def _one_latency() -> Iterator[None]:
    """Measuring takes longer than training here."""
    with pytest.MonkeyPatch.context() as patch:
        measured = student_facts.shipped_latency(nn.Flatten(), (3, 8, 8))
        patch.setattr(student_facts, "shipped_latency", lambda model, size: measured)
        yield


@pytest.fixture(scope="module")
def proven(_one_latency: None, tmp_path_factory: pytest.TempPathFactory) -> ds.PipelineResult:
    """A pipeline that trains finalists, which was never stopped."""
    return ds.run(out=tmp_path_factory.mktemp("proven") / "run", **PROVEN)


def test_the_student_of_a_pipeline_is_the_pick_of_its_finalists(proven: ds.PipelineResult) -> None:
    shortlist = proven.shortlist
    assert shortlist is not None
    assert {path.name for path in proven.path.iterdir() if path.is_dir()} == {"teacher", "search", "shortlist"}
    of_study = {candidate.record.architecture for candidate in proven.study.best(4)}
    assert {one.architecture for one in shortlist.finalists} <= of_study | {None}
    assert shortlist.pick.architecture in of_study
    full = next(trial for trial in shortlist.pick.trials if trial.rung == 2)
    assert proven.distilled.path == proven.path / "shortlist" / full.name
    assert proven.distilled.accuracy == full.test_accuracy
    assert proven.alone is not None
    assert proven.alone.result.seed == proven.distilled.result.seed == 0
    assert proven.alone.result.teacher is None
    assert proven.difference == shortlist.verdict.gain.mean
    assert ds.Study.load(proven.path / "search").finalists == shortlist.finalists
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(ds.load_student(proven.path)(images), proven.student(images))
    result = json.loads((proven.path / "result.json").read_text())
    assert result["student"]["architecture"] == shortlist.pick.architecture
    assert result["shortlist"]["gain"]["mean"] == proven.difference
    for path in result["results"].values():
        assert json.loads((proven.path / path).read_text())["status"] == "complete"
    assert shortlist.pick.name in (proven.path / "report.md").read_text()


def test_a_pipeline_ends_with_how_to_load_the_pick_of_its_finalists(
    proven: ds.PipelineResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proven.shortlist is not None
    assert cli.main(["show", str(proven.path)]) == 0
    shown = capsys.readouterr().out
    assert "to build the winner" not in shown
    assert shown.count("run folder:") == 1
    words = "".join(shown.split())
    assert f"diswotexport{proven.path}" in words
    assert words.endswith(f"model=diswot_search.load_student('{proven.path}')")
    report = (proven.path / "report.md").read_text()
    seeds = sorted(proven.shortlist.verdict.seeds)
    told = f"trainings with seed 0 alone; the verdict is over the seeds {', '.join(map(str, seeds))}"
    assert (told in report) == (len(seeds) > 1)
    assert f"load_student('{proven.path}')" in report


def test_a_pipeline_stopped_among_its_finalists_ends_the_same(
    proven: ds.PipelineResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    run_training = training.TrainingRun.run

    def stopping(self: training.TrainingRun, *args: Any) -> Any:
        trained.append(str(self.out))
        if len(trained) == 4:
            raise KeyboardInterrupt
        return run_training(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.TrainingRun, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            ds.run(out=tmp_path / "run", **PROVEN)
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "the same command as before continues the shortlist" in capsys.readouterr().out
    again = ds.run(out=tmp_path / "run", **PROVEN)
    ours, theirs = (json.loads((result.path / "result.json").read_text()) for result in (again, proven))
    assert ours == theirs
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "against the baseline" in capsys.readouterr().out


def test_more_seeds_extend_a_proof(proven: ds.PipelineResult) -> None:

    more = ds.run(out=proven.path, **PROVEN | {"verdict_seeds": 3})
    assert more.shortlist is not None
    assert more.shortlist.verdict.seeds == (0, 1, 2)
    assert more.shortlist.pick.architecture == proven.shortlist.pick.architecture

    with pytest.raises(RunFolderError, match=r"shortlist\.finalists is 2 there, 1 here"):
        ds.run(out=proven.path, **PROVEN | {"finalists": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finalists": -1}, "finalists is -1; it must be a whole number of at least 0"),
        ({"finalists": 0}, "finalists is 0, .* baselines, rung_shares, verdict_seeds would change nothing"),
        ({"baselines": "cifar_resnet20,cifar_resnet20"}, "baselines has cifar_resnet20 twice"),
        ({"baselines": "resnet181"}, "Did you mean"),
        ({"other_scores": "nwott"}, "Did you mean 'nwot'"),
        ({"rung_shares": [0.5]}, "of which the last is 1"),
        ({"verdict_seeds": 0}, "verdict_seeds is 0"),
    ],
)
def test_wrong_finalists_are_refused_before_the_first_stage(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ds.run(out=tmp_path / "run", **PROVEN | changes)
    assert not (tmp_path / "run").exists()


def test_the_time_limit_of_a_score_is_none_of_a_training(tmp_path: Path) -> None:
    options = PROVEN | {"finalists": 1, "rung_shares": 1.0, "baselines": None, "verdict_seeds": 1, "epochs": 1}
    ds.run(out=tmp_path / "run", **options, candidate_timeout_s=60, compare=False)
    stages = {stage: (tmp_path / "run" / stage / "config.yaml").read_text() for stage in ("search", "shortlist")}
    assert "candidate_timeout_s: 60" in stages["search"]
    assert "candidate_timeout_s: null" in stages["shortlist"]


def test_finalists_learn_from_sources(tmp_path: Path) -> None:
    options = OF_SOURCES | {"finalists": 1, "rung_shares": 1.0, "verdict_seeds": 1}
    result = ds.run(out=tmp_path / "run", **options)
    assert result.shortlist is not None
    assert result.distilled.result.unlabelled == "sources"
    assert result.alone is not None
    assert result.alone.result.unlabelled is None
