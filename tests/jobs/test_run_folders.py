"""Run folders as jobs use them: what is damaged stops a job and is not built upon, what is derived is made again."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diswot_search as ds
from diswot_search import Budget, RunFolderError, Study
from diswot_search.cli import main
from diswot_search.resolve.folders import PipelineFolder
from diswot_search.runtime.lock import lock_folder
from diswot_search.sources.folder import RankingFolder
from diswot_search.study.costs import Costs
from diswot_search.training.checkpoint import BEST, LAST, Checkpoint, read_checkpoint
from diswot_search.training.folder import TrainingFolder

from ..trained_weights import as_trained

SEARCH = (
    "search --space_options.channels 4 --space_options.cells 1 --batch_size 8 --probe_options.image_size 8 "
    "--proxy macs --device cpu --evaluations 4 --algorithm random --out run"
)
TRAIN: dict[str, Any] = {
    "dataset": "digits",
    "data_options": {"image_size": 8, "train_limit": 40},
    "epochs": 2,
    "batch_size": 20,
    "device": "cpu",
    "progress": False,
}
SEARCHED: dict[str, Any] = {
    "probe": "noise",
    "probe_options": {"batch_size": 8, "image_size": 8, "num_classes": 4},
    "proxy": "macs",
    "algorithm": "random",
    "evaluations": 2,
    "device": "cpu",
    "progress": False,
}
RUN: dict[str, Any] = TRAIN | {
    "teacher": "cifar_resnet",
    "teacher_options": {"arch": "1x4-1x4-1x8"},
    "space_options": {"channels": 4, "cells": 1},
    "evaluations": 3,
    "algorithm": "random",
    "proxy": "macs",
    "probe_size": 8,
    "epochs": 1,
    "finalists": 0,
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that take no time, since others test what is on them."""
    training = importlib.import_module("diswot_search.jobs.training_run")
    searching = importlib.import_module("diswot_search.jobs.search")
    monkeypatch.setattr(training, "plot_training", lambda rows, result: {"loss.png": b"loss"})
    monkeypatch.setattr(searching, "to_png", lambda figure: figure)
    monkeypatch.setattr(searching, "PICTURES", {"progress.png": lambda study: b"progress"})


def command(line: str) -> int:
    return main(shlex.split(line))


def train(out: str, **changes: Any) -> Any:
    return ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, out=out, **TRAIN | changes)


def tiny_space() -> Any:
    return ds.create_space("nasbench201", channels=4, cells=1, num_classes=4, input_size=(3, 8, 8))


def files_in(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0b1000
    path.write_bytes(content)


# -- a search -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("damage", ["bit", "end"])
def test_a_damaged_search_ends_with_2_and_its_results_stay(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(SEARCH) == 0
    store = Path("run/study.sqlite")
    if damage == "bit":
        flip(store, store.read_bytes().find(str(Study.load("run").winner.record.architecture).encode()) + 3)
    else:
        store.write_bytes(store.read_bytes()[:-8])
    before = files_in("run")
    for line in (SEARCH, f"{SEARCH} --evaluations 6", "show run"):
        assert command(line) == 2
        assert "The store of run is damaged (study.sqlite" in capsys.readouterr().err
    assert files_in("run") == before


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.filterwarnings("always:run/result.json is damaged")
def test_the_deleted_files_of_a_search_are_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(SEARCH) == 0
    before = files_in("run")
    names = ["result.json", "architectures.csv", "progress.png", "config.json"]
    for name in names:
        Path("run", name).unlink()
    assert Study.load("run").missing_files() == ["architectures.csv", "progress.png", "result.json"]
    assert command(SEARCH) == 0
    after = files_in("run")
    for name in names:
        assert after[f"run/{name}"] == before[f"run/{name}"]
    Path("run/result.json").write_text('{"status": ')
    capsys.readouterr()
    assert command(SEARCH) == 0
    assert re.search(r"run/result\.json is damaged .* It is made again from the store\.", capsys.readouterr().err)
    assert files_in("run")["run/result.json"] == before["run/result.json"]


@pytest.mark.usefixtures("few_pictures")
def test_a_search_is_complete_when_its_pictures_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(study: Study) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("diswot_search.jobs.search"), "PICTURES", {"progress.png": stop})
        assert command(SEARCH) == 130
    assert Study.load("run").status == "running"
    assert not Path("run/result.json").exists()
    assert command(SEARCH) == 0
    assert Study.load("run").status == "complete"
    assert Path("run/progress.png").exists()


def test_a_search_that_cannot_be_opened_lets_go_of_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    find_start = Costs.find_start

    def fail_in_a_folder(costs: Costs) -> Any:
        if costs.study.path is not None:
            raise MemoryError("no memory is left")
        return find_start(costs)

    with monkeypatch.context() as patch:
        patch.setattr(Costs, "find_start", fail_in_a_folder)
        with pytest.raises(MemoryError, match="no memory is left") as failure:
            ds.search(tiny_space(), out="run", **SEARCHED)
    assert ds.search(tiny_space(), out="run", **SEARCHED).status == "complete"
    assert failure.tb is not None  # it is held, as an interactive session holds it, and the folder with it


# -- a training ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("rule", ["best", "last"])
def test_the_deleted_files_of_a_training_are_made_again(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("run", rule=rule, recipe_options={"ema": 0.5})
    before = files_in("run")
    shutil.rmtree("run/student")
    for name in ("result.json", "metrics.csv", "loss.png"):
        Path("run", name).unlink()
    monkeypatch.setattr("diswot_search.jobs.training_run.Trainer", None)  # nothing is trained or tested again
    again = train("run", rule=rule, recipe_options={"ema": 0.5})
    assert again.result == whole.result
    after = files_in("run")
    assert {name: content for name, content in after.items() if "sqlite" not in name} == {
        name: content for name, content in before.items() if "sqlite" not in name
    }
    weights, expected = again.student.state_dict(), whole.student.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    shutil.rmtree("run/student")
    Path("run", BEST if rule == "best" else LAST).unlink()
    with pytest.raises(RunFolderError, match=r"student/student.safetensors of run cannot be made again, since"):
        train("run", rule=rule, recipe_options={"ema": 0.5})


@pytest.mark.usefixtures("few_pictures")
def test_files_that_need_no_student_are_made_again_without_a_checkpoint() -> None:
    train("run")
    before = files_in("run")
    Path("run", BEST).unlink()
    for name in ("metrics.csv", "loss.png"):
        Path("run", name).unlink()
    train("run")
    after = files_in("run")
    for name in ("metrics.csv", "loss.png", "result.json", "student/student.safetensors", "student/config.json"):
        assert after[f"run/{name}"] == before[f"run/{name}"]


def test_a_folder_with_nothing_but_a_lock_was_stopped_before_it_began(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    assert command("show run") == 2
    assert "run is no run folder of a" in capsys.readouterr().err
    lock_folder(Path("run")).close()
    assert command("show run") == 2
    assert "The run in run was stopped before it began; run it again." in capsys.readouterr().err


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("content", ['{"status": "complete", ', "[]", "{}", "", '{"status": "complete"}'])
def test_a_damaged_result_of_a_training_is_named_and_made_again(content: str) -> None:
    whole = train("run")
    result = Path("run/result.json").read_bytes()
    Path("run/result.json").write_text(content)
    with pytest.warns(UserWarning, match=r"^run/result\.json is damaged .* It is made again from the store\.$"):
        assert train("run").result == whole.result
    assert Path("run/result.json").read_bytes() == result


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("name", [LAST, BEST])
@pytest.mark.parametrize("place", ["header", "weights", "end"])
def test_a_flipped_bit_of_a_checkpoint_is_named(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = TrainingFolder.finish

    # With such a learning rate the first epoch is the best, so that its weights are not those of the last checkpoint.
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingFolder, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        train("run", lr=1e-9)
    monkeypatch.setattr(TrainingFolder, "finish", finish)
    shutil.rmtree("run/student")
    path = Path("run", name)
    flip(path, {"header": 100, "weights": len(path.read_bytes()) - 60, "end": -1}[place])
    before = files_in("run")
    with pytest.raises(RunFolderError, match=rf"{name} is damaged \(.*checksum.*\); restore it from a copy"):
        train("run", lr=1e-9)
    after = files_in("run")
    assert not Path("run/student").exists()
    assert not Path("run/result.json").exists()
    assert {file: after[file] for file in (f"run/{name}", "run/config.json")} == {
        file: before[file] for file in (f"run/{name}", "run/config.json")
    }


@pytest.mark.usefixtures("few_pictures")
def test_a_training_that_cannot_be_opened_lets_go_of_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    write = TrainingFolder.write

    def full(folder: TrainingFolder, name: str, content: Any) -> None:
        if name == "labels.txt":
            raise RunFolderError("The disk is full")
        write(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "write", full)
        with pytest.raises(RunFolderError, match="disk is full") as failure:
            train("run", labels=20)
    assert train("run", labels=20).result.is_complete
    assert failure.tb is not None  # it is held, as an interactive session holds it, and the folder with it


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("damage", ["bit", "missing", "other epoch"])
def test_a_lost_best_checkpoint_is_named_before_training_goes_on(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save = TrainingFolder.save

    def stop(folder: TrainingFolder, name: str, checkpoint: Any) -> None:
        save(folder, name, checkpoint)
        if name == LAST and len(folder.rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train("run", epochs=3, lr=1e-9)  # the first epoch stays the best
    if damage == "bit":
        flip(Path("run", BEST), -1)
    elif damage == "missing":
        Path("run", BEST).unlink()
    else:
        best = read_checkpoint(Path("run", BEST))
        assert best is not None
        Path("run", BEST).write_bytes(Checkpoint(best.tensors, best.values | {"epoch": 2}).to_bytes())
    monkeypatch.setattr("diswot_search.jobs.training_run.Trainer.run", None)  # nothing is trained
    with pytest.raises(RunFolderError, match=rf"{BEST} is (damaged .*checksum|missing or not of epoch 1)"):
        train("run", epochs=3, lr=1e-9)


def test_a_changed_prediction_of_a_source_is_named(tmp_path: Path) -> None:
    from diswot_search.training.unlabelled import _load, _store

    table = torch.softmax(torch.randn(8, 3), 1).half()
    _store(tmp_path / "predictions" / "table.safetensors", table)
    file = tmp_path / "predictions" / "table.safetensors"
    assert torch.equal(_load(file, (8, 3)), table)
    flip(file, -1)
    with pytest.raises(RunFolderError, match=r"table\.safetensors is damaged \(its checksum .* remove it"):
        _load(file, (8, 3))


# -- a pipeline ---------------------------------------------------------------------------------


LEFT: dict[str, Callable[[Path, str], None]] = {
    "the lock": lambda stage, store: (stage / "lock-journal").write_bytes(bytes(512)),
    "an empty store": lambda stage, store: (stage / store).touch(),
    "a journal": lambda stage, store: (stage / f"{store}-journal").write_bytes(bytes(512)),
}


@pytest.mark.faults
@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("left", LEFT)
def test_a_pipeline_whose_stages_were_killed_before_they_began_goes_on(
    left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diswot_search.jobs.guides.TeacherGuides.find", stop)
        with pytest.raises(KeyboardInterrupt):
            ds.run(out="run", **RUN)
    stages = {"teacher": TrainingFolder, "search": Study, "distilled": TrainingFolder, "alone": TrainingFolder}
    for stage, kind in stages.items():
        folder = Path("run", stage)
        folder.mkdir()
        (folder / "lock").touch()
        LEFT[left](folder, kind.LAYOUT.store)
    result = ds.run(out="run", **RUN)
    assert result.study.status == "complete"
    assert PipelineFolder.peek("run").status == "complete"
    assert PipelineFolder.peek("run").missing_files() == []


@pytest.mark.usefixtures("few_pictures")
def test_a_ranking_of_sources_that_was_killed_before_it_began_goes_on() -> None:
    Path("run/sources").mkdir(parents=True)
    for name in ("lock", "lock-journal", RankingFolder.LAYOUT.store):
        Path("run/sources", name).touch()
    sources = {"one": as_trained(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 6)))}
    ranking = ds.rank_sources(
        sources,
        "digits",
        data_options=TRAIN["data_options"],
        images=20,
        image_draws=1,
        out="run/sources",
        progress=False,
    )
    assert ranking.names == ("one",)
    assert RankingFolder.peek("run/sources").status == "complete"


@pytest.mark.usefixtures("few_pictures")
def test_a_pipeline_makes_the_files_of_its_stages_again(capsys: pytest.CaptureFixture[str]) -> None:
    whole = ds.run(out="run", budget=Budget(max_params=30000), **RUN)
    before = files_in("run")
    names = ["run/search/progress.png", "run/search/result.json", "run/distilled/student/config.json"]
    names += ["run/teacher/loss.png", "run/result.json", "run/report.md", "run/alone/result.json"]
    for name in names:
        Path(name).unlink()
    again = ds.run(out="run", budget=Budget(max_params=30000.0), **RUN)
    assert again.difference == whole.difference
    after = files_in("run")
    for name in names:
        assert after[name] == before[name], name
    flip(Path("run/search/study.sqlite"), after["run/search/study.sqlite"].find(b"nor_conv"))
    with pytest.raises(RunFolderError, match=r"The store of run/search is damaged \(study\.sqlite"):
        ds.run(out="run", budget=Budget(max_params=30000), **RUN)
    assert command("show run") == 2
    assert "The store of run/search is damaged" in capsys.readouterr().err
