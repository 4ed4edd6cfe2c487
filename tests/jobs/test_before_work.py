"""The needs of later stages of a shortlist and a pipeline are checked before the first training; nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search import cli
from diswot_search.jobs import shortlist as shortlist_job
from diswot_search.jobs.guides import TeacherGuides
from diswot_search.jobs.pipeline import PipelineJob
from diswot_search.jobs.training_run import TrainingRun
from diswot_search.options.pipeline import PipelineOptions
from diswot_search.sources.transferability import MEASURES, get_measure
from diswot_search.training.result import read_result

from ..trained_weights import as_trained
from .own_networks import SMALL

pytestmark = [
    pytest.mark.usefixtures("one_thread", "quick_trainings"),
    pytest.mark.filterwarnings("ignore:.*no more than chance"),
]

TRAINING: dict[str, Any] = {
    "dataset": "digits",
    "data_options": {"train_limit": 40, "image_size": 8},
    "epochs": 2,
    "batch_size": 20,
    "device": "cpu",
    "progress": False,
}
RUNGS: dict[str, Any] = {
    "finalists": 1,
    "other_scores": "",
    "rung_shares": [0.5, 1.0],
    "rung_keep": 1,
    "verdict_seeds": 1,
}
SEARCH: dict[str, Any] = {
    "space": "nasbench201",
    "space_options": {"channels": 4, "cells": 1},
    "algorithm": "random",
    "evaluations": 4,
    "max_params": 12_000,
    "device": "cpu",
    "progress": False,
}
RUN: dict[str, Any] = TRAINING | RUNGS | SEARCH | {"probe_size": 8}

OWN = (
    SMALL
    + """

class Flat(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        self.layer = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1))


class Large(Small):
    def forward(self, images):
        if images.shape[-1] < 16:
            raise ValueError("it takes images of 16 x 16 and more")
        return super().forward(images)
"""
)


class Begun(BaseException):
    """A training began, which nothing answers to."""


@pytest.fixture
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*args: Any) -> None:
        raise Begun

    monkeypatch.setattr(TrainingRun, "run", begin)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with networks of the user's own."""
    path = tmp_path_factory.mktemp("own") / "own_networks.py"
    path.write_text(OWN)
    return str(path)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "t"
    ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, **TRAINING, out=path)
    return str(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("search") / "s"
    ds.search(teacher=None, probe=ds.create_probe("digits", batch_size=8, image_size=8), **SEARCH, out=path)
    return str(path)


@pytest.fixture(scope="module")
def whole(searched: str, teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a shortlist that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ds.shortlist(searched, teacher, **TRAINING, **RUNGS, out=out)
    return out


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arrays(num_classes: int, size: int = 8) -> ds.Splits:
    labels = torch.arange(60) % num_classes
    return ds.Splits.from_arrays((torch.randint(0, 255, (60, 3, size, size), dtype=torch.uint8), labels))


# -- the study and the data ---------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_is_trained")
def test_data_of_another_form_than_that_of_the_study_is_refused(searched: str, teacher: str, tmp_path: Path) -> None:
    own = {"data_options": None}
    for data, message in (
        (
            {"data_options": {"train_limit": 40, "image_size": 16}},
            r"scored students for images of 3 x 8 x 8 and 10 classes, but digits has images of 3 x 16 x 16 and 10 "
            r"classes.* or give the data image_size=8\.",
        ),
        ({"dataset": arrays(3), **own}, r"but arrays has images of 3 x 8 x 8 and 3 classes.* probe of this data\.$"),
        ({"dataset": arrays(10, 12), **own}, r"but arrays has images of 3 x 12 x 12 and 10 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            ds.shortlist(searched, teacher, **{**TRAINING, **RUNGS, **data, "out": tmp_path / "run"})
    grey = ds.Probe.from_tensors(torch.rand(8, 1, 8, 8), torch.arange(8) % 10, num_classes=10)
    study = ds.search(teacher=None, probe=grey, **SEARCH | {"proxy": "params"})
    with pytest.raises(ValueError, match=r"images of 1 x 8 x 8 and 10 classes, but digits has images of 3 x 8 x 8"):
        ds.shortlist(study, teacher, **TRAINING, **RUNGS, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_is_trained")
def test_the_command_line_says_how_the_data_fits_the_study(
    searched: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["shortlist", "--study", searched, "--teacher", teacher, "--out", str(out), "--quiet"]) == 2
    assert "give the data --data_options.image_size 8" in capsys.readouterr().err
    assert not out.exists()


# -- folders ------------------------------------------------------------------------------------


def a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def replaced(path: Path) -> None:
    """A file in the place of a folder."""
    shutil.rmtree(path)
    path.write_text("mine")


def other_things(path: Path) -> None:
    shutil.rmtree(path)
    a_file(path / "notes.txt")


def other_seed(path: Path) -> None:
    """The run folder of another training."""
    shutil.rmtree(path)
    ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, **TRAINING, seed=7, out=path)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("rungs", replaced, "rungs is a file"),
        ("rungs/2", replaced, "rungs/2 is a file"),
        ("alone", replaced, "alone is a file"),
        ("student", replaced, "student is a file"),
        ("rungs/2/*-seed=0", other_things, "is no run folder: it holds notes.txt"),
        ("alone/*-seed=0", other_things, "is no run folder: it holds notes.txt"),
        ("alone/*-seed=0", other_seed, "holds a training of another configuration: .*seed is 7 there, 0 here"),
    ],
)
def test_folders_of_later_trainings_are_looked_at_before_the_first(
    place: str,
    change: Callable[[Path], None],
    message: str,
    whole: Path,
    searched: str,
    teacher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "report.md").unlink()  # so that there is work
    shutil.rmtree(next(out.glob("rungs/1/*-seed=0")))
    (path,) = list(out.glob(place))[:1]
    change(path)
    before = files_in(out)
    monkeypatch.setattr(TrainingRun, "run", lambda *args: pytest.fail("a training began"))
    with pytest.raises(ds.RunFolderError, match=message):
        ds.shortlist(searched, teacher, **TRAINING, **RUNGS, out=out)
    assert files_in(out) == before


@pytest.mark.usefixtures("nothing_is_trained")
def test_a_run_folder_is_looked_at_before_anything_is_read(teacher: str, searched: str, tmp_path: Path) -> None:
    a_file(tmp_path / "mine/notes.txt")
    wrong: dict[str, Any] = {"dataset": "digitz", "device": "cpu", "progress": False}
    calls: list[Callable[[Any], Any]] = [
        lambda out: ds.shortlist("nowhere", "nobody", **wrong, out=out),
        lambda out: ds.run(**wrong, out=out),
        lambda out: ds.train("nobody", **wrong, out=out),
        lambda out: ds.distill("nobody", "nobody", **wrong, out=out),
        lambda out: ds.search("nothing", probe="digitz", device="cpu", progress=False, out=out),
        lambda out: ds.rank_sources(["nobody"], **wrong, out=out),
        lambda out: ds.sweep("nobody", "nobody", "digitz", grid={"seed": [0]}, out=out),
    ]
    before = files_in(tmp_path)
    refused = r"Cannot use /proc/nowhere/run: no folder can be made in /proc \(.+\)|/proc cannot be written"
    in_proc = [(Path("/proc/nowhere/run"), refused)] * Path("/proc/self").is_dir()
    for call in calls:
        for out, message in (
            (tmp_path / "mine", "is no run folder: it holds notes.txt"),
            (tmp_path / "mine/notes.txt", "is a file"),
            (tmp_path / "mine/notes.txt/below/it", "notes.txt is a file"),
            *in_proc,
        ):
            with pytest.raises(ds.RunFolderError, match=message):
                call(out)
    for call, folder, kind in ((calls[0], searched, "search"), (calls[1], teacher, "training")):
        with pytest.raises(ds.RunFolderError, match=f"is the run folder of a {kind}"):
            call(folder)
    assert files_in(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ds.RunFolderError, match="cannot be written"):
        ds.shortlist("nowhere", "nobody", "digitz", out=tmp_path / "run")


def test_another_shortlist_is_refused_before_finalists_are_tried(
    whole: Path, searched: str, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(whole)
    monkeypatch.setattr(shortlist_job, "dry_run_error", lambda *args: pytest.fail("a finalist was tried"))
    for changes, message in (
        ({"finalists": 2}, "finalists is 1 there, 2 here"),
        ({"distillers": "kd,dkd"}, "distillers"),
        ({"seed": 3}, "seed is 0 there, 3 here"),
    ):
        with pytest.raises(ds.RunFolderError, match=message):
            ds.shortlist(searched, teacher, **{**TRAINING, **RUNGS, **changes}, out=whole)
    assert files_in(whole) == before


# -- sources ------------------------------------------------------------------------------------


def source(num_classes: int = 5, channels: int = 3) -> nn.Module:
    return as_trained(
        nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
    )


@pytest.mark.usefixtures("nothing_is_trained")
@pytest.mark.parametrize(
    "given",
    [
        {"sources": ["nowhere"]},
        {"sources": []},
        {"sources": {"many": {"model": source(channels=4), "input_size": (4, 8, 8)}}},
        {"sources": {"features": {"model": source(), "num_classes": 0}}, "weighting": "uniform"},
        {"sources": {"one": source()}, "measure": "park"},
        {"sources": {"one": source()}, "weighting": {"two": 1}},
    ],
)
def test_sources_are_refused_at_once_and_as_by_distill(
    given: dict[str, Any], searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as of_distill:
        ds.distill(searched, None, **TRAINING, **given)
    monkeypatch.setattr(shortlist_job, "Chooser", lambda *args: pytest.fail("finalists were chosen"))
    with pytest.raises(type(of_distill.value)) as of_shortlist:
        ds.shortlist(searched, None, **TRAINING, **RUNGS, **given, out=tmp_path / "run")
    assert str(of_shortlist.value) == str(of_distill.value)
    assert not (tmp_path / "run").exists()


def test_sources_that_are_all_far_are_told_at_once_and_nothing_is_trained_alone(
    searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parc = get_measure("parc")
    far = replace(parc, function=lambda evidence: -abs(parc.function(evidence)))
    monkeypatch.setitem(MEASURES._entries, "parc", far)
    with pytest.warns(UserWarning, match="No source is near the target: by parc") as told:
        result = ds.shortlist(searched, None, **TRAINING, **RUNGS, sources={"one": source()}, out=tmp_path / "run")
    assert sum("No source is near" in str(warning.message) for warning in told) == 1
    assert result.verdict.alone is None
    assert not (tmp_path / "run/alone").exists()
    assert any(notice.startswith("No source teaches") for notice in result.notices)


# -- a pipeline ---------------------------------------------------------------------------------


@pytest.fixture
def no_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*args: Any) -> None:
        raise Begun

    monkeypatch.setattr(TeacherGuides, "find", begin)


@pytest.mark.usefixtures("no_first_stage")
def test_a_pipeline_tries_baselines_before_its_first_stage(own: str, teacher: str, tmp_path: Path) -> None:
    options = {**RUN, "teacher": teacher, "out": tmp_path / "run"}
    with (
        pytest.warns(UserWarning, match=r"The baseline .*Large cannot be trained, .*: .*images of 16 x 16"),
        pytest.raises(Begun),
    ):
        ds.run(**options, baselines=[f"{own}:Large", f"{own}:Small"])


def test_a_pipeline_tells_of_a_baseline_once(own: str, teacher: str, tmp_path: Path) -> None:
    options = {**RUN, "teacher": teacher, "evaluations": 1, "epochs": 1, "compare": False, "out": tmp_path / "run"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ds.run(**options, baselines=f"{own}:Large")
    assert sum("Large cannot be trained" in str(warning.message) for warning in caught) == 1
    assert result.shortlist is not None
    assert any(one.reason and "16 x 16" in one.reason for one in result.shortlist.finalists)


@pytest.mark.usefixtures("no_first_stage")
def test_a_pipeline_says_of_short_rungs_before_its_first_stage(teacher: str, tmp_path: Path) -> None:
    options = {**RUN, "teacher": teacher, "epochs": 200, "rung_shares": [0.01, 1.0], "out": tmp_path / "run"}
    with pytest.warns(UserWarning, match=r"Rung 1 trains for 4 steps \(2 epochs\)"), pytest.raises(Begun):
        ds.run(**options)


@pytest.mark.usefixtures("no_first_stage")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"other_scores": "diswot"}, "other_scores has diswot, which compares with a teacher"),
        ({"distillers": "kd,kdd"}, "Did you mean 'kd'"),
        ({"distillers": "kd,kd"}, "distillers has kd twice"),
        ({"distiller": "kd", "distillers": "dkd"}, "distiller and distillers are both given"),
        ({"teacher": "cifar_resnet20", "teachers": "cifar_resnet20,cifar_resnet32"}, "teacher and teachers are both"),
        ({"teachers": "cifar_resnet20,cifar_resnet20"}, "a teacher twice"),
        ({"teachers": "cifar_resnet20,cifar_resnet201"}, "Did you mean"),
        (
            {"teachers": "cifar_resnet20,cifar_resnet32", "teacher_options": {"arch": "1x4"}},
            "There are 2 teachers; teacher_options cannot be set for all of them",
        ),
        ({"teachers": "cifar_resnet20,OWN:Flat", "distiller": "at"}, "Under .*Flat with at: "),
        ({"teacher": "cifar_resnet20", "distillers": "kd,at"}, None),
        ({"sources": ["cifar_resnet20"], "teachers": "a,b"}, "teachers cannot be combined"),
        ({"sources": ["cifar_resnet20"], "distillers": "kd,at"}, "distillers cannot be combined"),
        (
            {"finalists": 0, "teachers": "cifar_resnet20,cifar_resnet32", "distillers": "kd,dkd"},
            "finalists is 0, so that no student is trained by which teachers and distillers are chosen; give 1 or more "
            "finalists, or a single teacher and a single distiller",
        ),
    ],
)
def test_choices_of_a_pipeline_are_checked_before_its_first_stage(
    changes: dict[str, Any], message: str | None, own: str, tmp_path: Path
) -> None:
    options = {key: value for key, value in RUN.items() if key not in RUNGS} if changes.get("finalists") == 0 else RUN
    changes = {key: value.replace("OWN", own) if isinstance(value, str) else value for key, value in changes.items()}
    if message is None:
        with pytest.raises(Begun):
            ds.run(**{**options, **changes, "out": tmp_path / "run"})
        return
    with pytest.raises(ValueError, match=message):
        ds.run(**{**options, **changes, "out": tmp_path / "run"})
    assert not (tmp_path / "run").exists()


def test_folders_of_later_stages_are_looked_at_before_the_first(tmp_path: Path) -> None:
    options = {**RUN, "teacher": "cifar_resnet20", "out": tmp_path / "run"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherGuides, "find", lambda *args: (_ for _ in ()).throw(Begun()))
        with pytest.raises(Begun):
            ds.run(**options)
        for stage, message in (("teacher", "notes.txt"), ("search", "notes.txt"), ("shortlist", "notes.txt")):
            a_file(tmp_path / "run" / stage / "notes.txt")
            before = files_in(tmp_path)
            with pytest.raises(ds.RunFolderError, match=f"{stage} is no run folder: it holds {message}"):
                ds.run(**options)
            assert files_in(tmp_path) == before
            shutil.rmtree(tmp_path / "run" / stage)


# -- teachers and distillers of a pipeline ------------------------------------------------------


def test_a_pipeline_trains_its_teachers_and_the_finalists_choose_among_them(
    own: str, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"teachers": [teacher, f"{own}:Small"], "distillers": "kd,dkd", "teacher_epochs": 1, "compare": False}
    out = tmp_path / "run"

    def stop(stage: str, result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # when the second teacher is trained
        PipelineJob(PipelineOptions(**RUN, **given, out=out), announce=stop).complete()
    result = ds.run(**RUN, **given, out=out)
    shortlist = result.shortlist
    assert shortlist is not None
    assert [one.name for one in shortlist.teachers] == [teacher, str(out / "teacher2")]
    assert [one.name for one in shortlist.distillers] == ["kd", "dkd"]
    assert read_result(out / "teacher2").epochs == 1
    assert not (out / "teacher1").exists()
    names = [next(one.name for one in some if one.is_chosen) for some in (shortlist.teachers, shortlist.distillers)]
    full = [trial for one in shortlist.finalists for trial in one.trials if trial.rung == 2]
    assert {(trial.teacher, trial.distiller) for trial in full} == {tuple(names)}
    is_second = names[0] == str(out / "teacher2")
    assert (result.teacher is not None) == is_second
    summary = json.loads((out / "result.json").read_text())
    assert summary["results"]["teacher"] == ("teacher2/result.json" if is_second else None)
    assert "2 teachers to choose from" in (out / "report.md").read_text()
    with pytest.raises(ds.RunFolderError, match=r"distillers"):
        ds.run(**RUN, **given | {"distillers": "kd,at"}, out=out)
    with pytest.raises(ds.RunFolderError, match=r"teachers"):
        ds.run(**RUN, **given | {"teachers": [teacher, "cifar_resnet20"]}, out=out)
    monkeypatch.setattr("diswot_search.jobs.training_run.Trainer", None)  # nothing is trained
    again = ds.run(**RUN, **given, out=out)
    assert again.shortlist == shortlist


def test_one_teacher_and_one_distiller_to_choose_from_are_the_ones(teacher: str, tmp_path: Path) -> None:
    options = {key: value for key, value in RUN.items() if key not in RUNGS} | {"finalists": 0, "compare": False}
    result = ds.run(**options, teachers=[teacher], distillers="dkd", out=tmp_path / "run")
    assert list(result.distilled.result.distillers) == ["dkd"]
    alike = ds.run(**options, teacher=teacher, distiller="dkd", out=tmp_path / "alike")
    assert alike.distilled.accuracy == result.distilled.accuracy
    assert ds.run(**options, teacher=teacher, distiller="dkd", out=tmp_path / "run").path == result.path


def test_a_module_that_a_pipeline_trains_may_be_one_of_the_teachers(teacher: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    result = ds.run(**RUN, teachers=[module, teacher], compare=False, out=tmp_path / "run")
    assert result.shortlist is not None
    assert len(result.shortlist.teachers) == 2
    assert read_result(tmp_path / "run/teacher1").epochs == 2
