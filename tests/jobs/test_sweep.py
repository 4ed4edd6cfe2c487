"""Sweeps: the trainings of their cells, whatever happens on the way, and one table of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats
from torch import nn

import diswot_search as ds
from diswot_search import cli
from diswot_search.deployment.latency import Latency
from diswot_search.jobs import student_facts, training_cells, training_run
from diswot_search.jobs.sweep_grid import cell_name
from diswot_search.options.training import TrainOptions
from diswot_search.reports.trainings import escape_latex, explain_trainings
from diswot_search.resolve.folders import SweepFolder
from diswot_search.runtime import run_folder
from diswot_search.runtime.executors.base import Executor, Placement, Program
from diswot_search.runtime.executors.serial import SerialExecutor

from .any_order import AnyOrder

pytestmark = [
    pytest.mark.usefixtures("one_thread", "quick_trainings"),
    pytest.mark.filterwarnings("ignore:.*too few for random weights"),
    pytest.mark.filterwarnings("ignore:.*no more than chance"),
]

TRAINING: dict[str, Any] = {
    "dataset": "digits",
    "data_options": {"train_limit": 40, "image_size": 8},
    "epochs": 1,
    "batch_size": 20,
    "device": "cpu",
    "progress": False,
}
NETWORK = {"student": "cifar_resnet", "student_options": {"arch": "1x4-1x4-1x8"}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "t"
    ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, **TRAINING, out=path)
    return str(path)


def both_kinds(teacher: str, seeds: list[int]) -> list[dict[str, Any]]:
    """A grid of trainings alone and of distillations."""
    return [
        {"teacher": [None], "seed": seeds},
        {"teacher": [teacher], "distiller": ["kd", "kd+2*dkd"], "seed": seeds},
    ]


def sweep(out: Path, **options: Any) -> ds.TrainingTable:
    return ds.sweep(**{**NETWORK, **TRAINING, "out": out, **options})


def accuracies(table: ds.TrainingTable) -> dict[str, float | None]:
    return {cell.name: cell.accuracy for cell in table.cells}


@pytest.fixture(scope="module")
def serial(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> ds.TrainingTable:
    out = tmp_path_factory.mktemp("serial") / "sweep"
    return sweep(out, grid=both_kinds(teacher, [0, 1]), baseline={"teacher": None})


# -- the table ----------------------------------------------------------------------------------


def test_the_table_puts_seeds_together_and_compares_with_the_baseline(serial: ds.TrainingTable, teacher: str) -> None:
    alone, kd, both = serial.rows
    assert [row.values for row in serial.rows] == [
        {"teacher": None, "distiller": None},
        {"teacher": teacher, "distiller": "kd"},
        {"teacher": teacher, "distiller": "kd+2*dkd"},
    ]
    values = [ds.TrainingResult.from_json(read(cell.path / "result.json")).test for cell in serial.cells]
    numbers = np.array([value.accuracy if value else np.nan for value in values]).reshape(3, 2)
    for row, own in zip((alone, kd, both), numbers, strict=True):
        assert row.accuracy is not None
        np.testing.assert_allclose([row.accuracy.mean, row.accuracy.std], [own.mean(), own.std(ddof=1)])
        assert row.balanced_accuracy is not None
        assert row.seconds is not None
    assert alone.is_baseline
    assert alone.teacher_accuracy is None
    expected = ds.TrainingResult.from_json(read(Path(teacher) / "result.json")).test
    assert expected is not None
    for row, own in ((kd, numbers[1]), (both, numbers[2])):
        assert row.teacher_accuracy == pytest.approx(expected.accuracy)
        interval = stats.ttest_rel(own, numbers[0]).confidence_interval(0.95)
        assert row.difference is not None
        assert (row.difference.low, row.difference.high) == pytest.approx((interval.low, interval.high))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_all_forms_of_the_table_are_written(serial: ds.TrainingTable) -> None:
    assert serial.path is not None
    with (serial.path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["distiller"] for row in rows] == ["", "kd", "kd+2*dkd"]
    assert [row["seeds"] for row in rows] == ["2", "2", "2"]
    assert float(rows[1]["accuracy_mean"]) == serial.rows[1].accuracy.mean  # type: ignore[union-attr]
    assert float(rows[1]["difference_low"]) == serial.rows[1].difference.low  # type: ignore[union-attr]
    markdown, latex = ((serial.path / f"table.{ending}").read_text() for ending in ("md", "tex"))
    assert "95 % t interval" in markdown
    assert r"kd+2\*dkd" in markdown
    assert latex.count(r"\\") == 4
    assert all(f"\\{rule}rule" in latex for rule in ("top", "mid", "bottom"))
    assert r"95 \% t interval" in latex
    result = read(serial.path / "result.json")
    assert result["level"] == 0.95
    assert [training["status"] for training in result["trainings"]] == ["complete"] * 6
    with Image.open(serial.path / "table.png") as picture:
        assert picture.width == 1350


def test_latex_reads_no_command_in_a_value() -> None:
    text = escape_latex(r"a_b & 5 % of \x {y} #1 ~ ^ $ ±")
    assert text == (r"a\_b \& 5 \% of \textbackslash{}x \{y\} \#1 \textasciitilde{} \textasciicircum{} \$ $\pm$")


def test_a_cell_runs_again_by_its_own_config(
    serial: ds.TrainingTable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kd = next(cell for cell in serial.cells if cell.values["distiller"] == "kd")
    assert cli.main(["distill", "--config", str(kd.path / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    again = read(tmp_path / "again" / "result.json")
    assert again["test"]["accuracy"] == kd.accuracy
    assert cli.main(["show", str(serial.path)]) == 0
    assert "kd+2*dkd" in capsys.readouterr().out


def test_a_table_is_made_of_any_run_folders(
    serial: ds.TrainingTable, teacher: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert serial.path is not None
    assert ds.tabulate([str(serial.path)]).to_csv() == serial.to_csv()
    runs = [str(cell.path) for cell in serial.cells]
    of_runs = ds.tabulate(runs, baseline={"teacher": None})
    assert of_runs.to_csv() == serial.to_csv()
    with pytest.warns(UserWarning, match="Left out"):
        mixed = ds.tabulate([str(serial.path), *runs, str(tmp_path)])  # each training once
    assert len(mixed.cells) == 6
    for form, text in (("csv", "accuracy_mean"), ("latex", "toprule"), ("markdown", "| ---"), ("terminal", "seeds")):
        assert cli.main(["table", str(serial.path), "--format", form]) == 0
        assert text in capsys.readouterr().out
    with pytest.raises(ds.RunFolderError, match="no run folder of a training or a sweep"):
        ds.tabulate([str(tmp_path)])
    with pytest.raises(ValueError, match="Did you mean 'latex'"):
        ds.tabulate(runs, format="latx")
    with pytest.raises(ValueError, match="in which the trainings do not differ; they differ in: teacher, distiller"):
        ds.tabulate(runs, baseline={"lr": 0.1})


def test_trackers_are_no_options_that_tell_trainings_apart(serial: ds.TrainingTable, tmp_path: Path) -> None:
    alone = [cell for cell in serial.cells if cell.values["teacher"] is None]
    for cell in alone:
        path = tmp_path / f"seed{cell.seed}"
        shutil.copytree(cell.path, path)
        config = yaml.safe_load((path / "config.yaml").read_text())
        own = {"trackers": ["wandb"], "tracker_options": {"wandb": {"name": f"seed {cell.seed}"}}}
        assert own.keys() <= config.keys()
        (path / "config.yaml").write_text(yaml.safe_dump(config | own))
    (row,) = ds.tabulate([str(tmp_path / "seed0"), str(tmp_path / "seed1")]).rows
    assert (row.accuracy, row.values) == (serial.rows[0].accuracy, {})
    cell = training_cells.Cell("a", {}, TrainOptions(model="resnet8"))
    tracked = training_cells.Cell("a", {}, TrainOptions(model="resnet8", trackers="wandb"))
    assert training_cells.options_sha256(cell) == training_cells.options_sha256(tracked)


def test_versions_that_differ_between_trainings_are_told_below_the_table(serial: ds.TrainingTable) -> None:
    first, *others = serial.cells
    assert first.result is not None
    older = dataclasses.replace(first.result, versions={**first.result.versions, "torch": "1.0.0", "python": "3.0"})
    mixed = dataclasses.replace(serial.summary, cells=(dataclasses.replace(first, result=older), *others))
    now = first.result.versions["torch"]
    sentence = f"Accuracies were reached under different versions, which change them as well: torch 1.0.0 and {now}."
    assert sentence in explain_trainings(mixed)
    assert not any("versions" in line for line in explain_trainings(serial.summary))


# -- workers, and what happens on the way -------------------------------------------------------


class Interrupting(SerialExecutor):
    """Computes here, counts the items, and is interrupted before one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.count, self._at = 0, at

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if self.count == self._at:
            raise KeyboardInterrupt
        self.count += 1
        return super().submit(worker, item)


def test_workers_in_any_order_that_die_have_the_results_of_one(
    serial: ds.TrainingTable, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = AnyOrder(3, seed=3, deaths=0.2)
    table = sweep(tmp_path / "sweep", grid=both_kinds(teacher, [0])[1], executor=executor)
    assert accuracies(table).items() <= accuracies(serial).items()
    assert len(table.cells) == 2
    assert "Seconds are those of a training with its validation, by 3 workers at once." in table.to_markdown()
    assert "with its validation." in serial.to_markdown()
    assert cli.main(["show", str(table.cells[0].path)]) == 0
    assert "1 thread, 3 workers at once, fp32" in " ".join(capsys.readouterr().out.split())


def test_a_cell_whose_worker_dies_twice_fails_alone(tmp_path: Path) -> None:
    table = sweep(tmp_path / "sweep", grid={"seed": [0]}, executor=AnyOrder(1, seed=0, deaths=1.0))
    (cell,) = table.cells
    assert (cell.status, cell.reason) == ("failed", "the worker died twice on it (signal 11)")
    assert not (tmp_path / "sweep" / "table.png").exists()
    assert "failed" in table.to_markdown()
    again = sweep(tmp_path / "sweep", grid={"seed": [0]}, retry_failed=True)
    assert again.cells[0].status == "complete"


def test_a_failed_cell_that_was_trained_by_its_own_config_since_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    (failed,) = sweep(out, grid={"seed": [0]}, executor=AnyOrder(1, seed=0, deaths=1.0)).cells
    trained = ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, **TRAINING, out=failed.path)
    assert trained.result.test is not None
    executor = Interrupting(at=0)
    for table in (ds.tabulate([str(out)]), sweep(out, grid={"seed": [0]}, executor=executor)):
        (cell,) = table.cells
        assert (cell.status, cell.reason, cell.accuracy) == ("complete", None, trained.result.test.accuracy)
        assert "failed" not in table.to_markdown()


def test_a_sweep_of_failures_alone_writes_its_table_and_then_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    options = ["--student", "cifar_resnet", "--student_options.arch", "1x4-1x4-1x8", "--grid", "{lr: [1e30, 1e31]}"]
    options += ["--dataset", "digits", "--data_options.train_limit", "40", "--data_options.image_size", "8"]
    options += ["--epochs", "1", "--batch_size", "20", "--device", "cpu", "--quiet", "--out", str(out)]
    assert cli.main(["sweep", *options]) == 2
    message = capsys.readouterr().err
    assert "error: All 2 trainings failed: DivergenceError: " in message
    assert message.rstrip().endswith("The table is stored; the same sweep with --retry_failed trains them again.")
    assert "failed: DivergenceError" in (out / "table.md").read_text()


def test_a_sweep_is_not_extended_under_other_versions(
    serial: ds.TrainingTable, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serial.path is not None
    versions = run_folder.score_versions()
    monkeypatch.setattr(run_folder, "score_versions", lambda: versions | {"torch": "3.0.0"})
    executor = Interrupting(at=0)
    with pytest.raises(ds.RunFolderError, match=r"was begun under torch .*, but torch 3\.0\.0 is installed"):
        sweep(serial.path, grid=both_kinds(teacher, [0, 1, 2]), baseline={"teacher": None}, executor=executor)
    assert ds.tabulate([str(serial.path)]).to_csv() == serial.to_csv()


def test_students_that_are_trained_beside_others_are_timed_when_no_worker_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = student_facts.shipped_latency(nn.Flatten(), (3, 8, 8))
    timed: list[threading.Thread] = []

    def measure(model: nn.Module, size: tuple[int, int, int]) -> Latency:
        timed.append(threading.current_thread())
        if len(timed) == 2:
            raise KeyboardInterrupt
        return dataclasses.replace(measured, ms=float(len(timed)))

    monkeypatch.setattr(student_facts, "shipped_latency", measure)
    grid = {"seed": [0, 1, 2]}
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "sweep", grid=grid, executor=AnyOrder(2, seed=0))
    table = sweep(tmp_path / "sweep", grid=grid, executor=Interrupting(at=0))  # which would have no worker to train
    assert {*timed} == {threading.main_thread()}
    latencies = [cell.result.student.latency_ms for cell in table.cells if cell.result is not None]
    assert latencies == [1.0, 3.0, 4.0]
    for cell, latency in zip(table.cells, latencies, strict=True):
        assert read(cell.path / "result.json")["student"]["latency_ms"] == latency


def test_an_interrupted_sweep_goes_on_and_a_finished_one_is_extended(
    serial: ds.TrainingTable, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    options: dict[str, Any] = {"baseline": {"teacher": None}}
    with pytest.raises(KeyboardInterrupt):
        sweep(out, grid=both_kinds(teacher, [0]), executor=Interrupting(2), **options)
    first = ds.tabulate([str(out)])
    assert [cell.status for cell in first.cells] == ["complete", "complete", "running"]
    assert "is not finished" in first.to_markdown()
    executor = Interrupting()
    table = sweep(out, grid=both_kinds(teacher, [0, 1]), executor=executor, **options)
    assert executor.count == 4
    assert accuracies(table) == accuracies(serial)
    contents = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.suffix != ".sqlite"}
    executor = Interrupting()
    sweep(out, grid=both_kinds(teacher, [0, 1]), executor=executor, **options)
    assert executor.count == 0
    assert all((out / name).read_bytes() == content for name, content in contents.items())
    with pytest.raises(ds.RunFolderError, match=r"of another configuration: recipe\.epochs is 1 there, 2 here"):
        sweep(out, grid={"seed": [0], "teacher": [None]}, epochs=2)


def test_a_cell_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"grid": {"lr": [1e30, 0.1]}, "baseline": {"lr": 0.1}}
    table = sweep(tmp_path / "sweep", **options)
    failed, sound = table.cells
    assert (failed.status, sound.status) == ("failed", "complete")
    assert failed.reason is not None
    assert failed.reason.startswith("DivergenceError")
    assert table.rows[0].difference is None
    assert (table.rows[0].failed, table.rows[1].failed) == (1, 0)
    assert f"{failed.name} failed: DivergenceError" in (tmp_path / "sweep" / "table.md").read_text()
    executor = Interrupting()
    assert sweep(tmp_path / "sweep", **options, executor=executor).to_csv() == table.to_csv()
    assert executor.count == 0


def test_cells_of_other_threads_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cells, "_train", lambda cell, **options: training_cells.Outcome())
    of_two, of_one = AnyOrder(2, seed=0), AnyOrder(2, seed=0)
    of_two.threads, of_one.threads = 2, 1
    sweep(tmp_path / "sweep", grid={"seed": [0]}, executor=of_two)
    with pytest.warns(UserWarning, match=r"by workers with 2 threads each; what is computed now has 1\."):
        sweep(tmp_path / "sweep", grid={"seed": [1]}, executor=of_one)


def test_a_failure_is_that_of_its_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying: dict[str, Any] = {"grid": {"seed": [0, 1]}, "executor": AnyOrder(2, seed=0, deaths=1.0)}
    table = sweep(tmp_path / "sweep", **dying)
    assert [cell.status for cell in table.cells] == ["failed", "failed"]
    executor = Interrupting()
    others = {"checkpoint_minutes": 3.0, "progress": True, "executor": executor}
    assert [cell.status for cell in sweep(tmp_path / "sweep", **dying | others).cells] == ["failed", "failed"]
    assert executor.count == 0
    changed: dict[str, Any] = {"grid": {"seed": [0, 1]}, "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "sweep", **changed, executor=Interrupting(1))
    assert [cell.status for cell in ds.tabulate([str(tmp_path / "sweep")]).cells] == ["complete", "running"]
    assert [cell.status for cell in sweep(tmp_path / "sweep", **changed).cells] == ["complete", "complete"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_that_lacks_memory_although_it_is_alone_fails_and_the_others_go_on(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def train(job: Any, show: Any) -> None:
        seed = job.options.seed
        tried.append(seed)
        job.folder.release()
        if seed == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTry less")
        if seed == 3:
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(training_run.TrainingRun, "run", train)
    options: dict[str, Any] = {"executor": AnyOrder(2, seed=0)} if workers == 2 else {}
    table = sweep(tmp_path / "sweep", grid={"seed": [0, 1, 2]}, **options)
    assert sorted(tried) == [0, 1, 2] if workers == 1 else [0, *[1] * 2, 2]
    reason = "it lacked memory, although it was alone (OutOfMemoryError: CUDA out of memory.)"
    rows = SweepFolder.peek(tmp_path / "sweep").cells
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "seed=0": ("complete", None),
        "seed=1": ("failed", reason),
        "seed=2": ("complete", None),
    }
    assert table.cells[1].reason == reason
    with pytest.raises(ds.MachineError, match="The device failed in the training seed=3"):
        sweep(tmp_path / "sweep", grid={"seed": [1, 3]}, **options)
    assert tried.count(1) == workers  # its failure is stored
    assert "seed=3" not in SweepFolder.peek(tmp_path / "sweep").cells


def test_a_cell_whose_worker_was_told_to_end_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun = training_run.TrainingRun.run, list[int]()

    def stopped_once(training: Any, show: Any) -> Any:
        begun.append(training.options.seed)
        if begun == [0]:
            training.folder.release()
            raise KeyboardInterrupt
        return run(training, show)

    monkeypatch.setattr(training_run.TrainingRun, "run", stopped_once)
    table = sweep(tmp_path / "sweep", grid={"seed": [0, 1]}, executor=AnyOrder(1, seed=0))
    assert begun == [0, 1, 0]
    assert [cell.status for cell in table.cells] == ["complete", "complete"]
    assert training_cells.CellTrainer.grace_s > 0


class FirstHeldUp(Executor):
    """Two workers; one is at work on the first item as long as the other has another, and then is interrupted."""

    workers = 2
    is_isolated = True

    def start(self, program: Program) -> None:
        self._compute, self.first = program(Placement()), Future[Any]()

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if worker == 0:
            return self.first
        future = Future[Any]()
        future.set_result(self._compute(item))
        return future

    def replace(self, worker: int) -> None:
        """Nothing ends here."""

    def close(self, *, at_once: bool = False) -> None:
        """Nothing to end."""


def test_a_slow_cell_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, executor = list(range(20)), FirstHeldUp()
    stored: list[int] = []

    def train(cell: Any, **options: Any) -> Any:
        stored.append(len(SweepFolder.peek(tmp_path / "sweep").cells))
        if cell.options.seed == seeds[-1]:
            executor.first.set_exception(KeyboardInterrupt())
        return training_cells.Outcome()

    monkeypatch.setattr(training_cells, "_train", train)
    grid = {"seed": seeds}
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "sweep", grid=grid, executor=executor, progress=True, show_workers=True)
    assert stored == list(range(19))  # each is stored before the next begins
    written = capsys.readouterr().err
    assert "training  18/20 cells" in written
    assert "worker 0: 0 done, in the training seed=0 for" in written


class AskedToEnd(FirstHeldUp):
    """The worker of the first item stores the state of the training when it is asked to end, and answers so."""

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if worker == 0:
            assert self.first.set_running_or_notify_cancel()  # raises the second time
        return super().submit(worker, item)

    def replace(self, worker: int) -> None:
        self.first.set_result(training_cells.Outcome(is_stopped=True))


def test_a_training_that_takes_too_long_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cells, "_train", lambda cell, **options: training_cells.Outcome())
    sweep(tmp_path / "sweep", grid={"seed": [0, 1]}, executor=AskedToEnd(), candidate_timeout_s=0.01)
    rows = SweepFolder.peek(tmp_path / "sweep").cells
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "seed=0": ("failed", "it took longer than 0.01 s, and its worker was ended"),
        "seed=1": ("complete", None),
    }


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="the same as elsewhere, and slow to start")
def test_processes_have_the_results_of_one(serial: ds.TrainingTable, tmp_path: Path) -> None:
    table = sweep(tmp_path / "sweep", grid={"teacher": [None], "seed": [0, 1]}, workers=2, threads=2)
    assert accuracies(table).items() <= accuracies(serial).items()
    assert "progress: false" in (table.cells[0].path / "config.yaml").read_text()


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": None}, "Which grid"),
        ({"grid": {}}, "The grid is empty"),
        ({"grid": []}, "The grid is an empty list"),
        ({"grid": {"seeds": [0]}}, "no option 'seeds'. Did you mean seed"),
        ({"grid": {"recipe_opions.lr": [0]}}, "Did you mean recipe_options"),
        ({"grid": {"workers": [1]}}, "no option 'workers'"),
        ({"grid": {"student.depth": [1]}}, "student holds no options of its own"),
        ({"grid": {"out": ["a"]}}, "it is the same for all cells"),
        ({"grid": {"seed": []}}, "seed is an empty list"),
        ({"grid": {"seed": 3}}, "must be a list of values"),
        ({"grid": {"seed": [0, 1, 0.0]}}, "seed has 0 twice"),
        ({"grid": {"epochs": [1, 2]}}, "epochs is in the grid and set outside of it"),
        ({"grid": {"data_options.image_size": [8, 16]}}, "data_options.image_size is in the grid and set outside"),
        ({"grid": {"recipe_options": [{"mixup": 0.1}], "recipe_options.mixup": [0.2]}}, "are both in the grid"),
        ({"grid": [{"seed": [0, 1]}, {"seed": [1]}]}, "The cell seed=1 occurs twice"),
        ({"grid": {"lr": ["fast"]}}, "The cell lr=fast: lr is 'fast'; it must be a number"),
        ({"grid": {"distiller": ["kd"]}}, "has no teacher and no sources, so that it has no distiller"),
        ({"grid": {"seed": [0]}, "distiller": "kd"}, "distiller: options of a distillation, but no cell has a teacher"),
        ({"grid": {"seed": [0]}, "student": None}, "Which student"),
        ({"grid": {"seed": [0]}, "out": None}, "needs a run folder"),
        ({"grid": {"seed": [0]}, "workers": 0}, "workers is 0"),
        ({"grid": {"device": ["cpu"]}, "device": "auto", "devices": ["cpu"]}, "devices gives each worker its own"),
        ({"grid": {"seed": [0]}, "student": nn.Linear(2, 2)}, "student: values that only Python has"),
        ({"grid": {"class_weights": [{1: nn.ReLU()}]}}, "grid: values that only Python has"),
        ({"grid": {"lr": [0.1]}, "baseline": {"lr": 0.2}}, "The baseline is no cell of the grid: lr 0.2"),
        ({"grid": {"lr": [0.1]}, "baseline": {"rl": 0.1}}, "did you mean lr"),
        ({"grid": {"seed": [0]}, "baseline": {"seed": 0}}, "The baseline has a seed"),
        ({"grid": {"recipe_options.mixap": [0.1]}}, "The cell recipe_options.mixap=0.1: .*Did you mean 'mixup'"),
        ({"grid": {"recipe": ["cifer"]}}, "The cell recipe=cifer: .*Did you mean 'cifar'"),
        ({"grid": {"distiller": ["kd", "0.9*kd"], "teacher": ["T"]}}, "are the same training"),
    ],
)
def test_bad_grids_are_refused_before_a_folder_is_made(
    options: dict[str, Any], message: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    grid = options["grid"]
    if isinstance(grid, dict) and "teacher" in grid:
        options = options | {"grid": grid | {"teacher": [teacher]}}
    with pytest.raises(ValueError, match=message):
        sweep(**{"out": out, **options})
    assert not out.exists()


def test_names_of_cells_are_those_of_their_values_alone() -> None:
    assert cell_name({"seed": range(3)[1], "lr": 1e-05, "teacher": None}) == "lr=1e-05-teacher=none-seed=1"
    slash, dash = cell_name({"teacher": "runs/t"}), cell_name({"teacher": "runs-t"})
    assert slash.startswith(dash)
    assert slash != dash
    assert len(cell_name({"student": "x" * 500})) < 120
