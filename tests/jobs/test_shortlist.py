"""Shortlists: from a study to a proven student, whatever happens on the way."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

import diswot_search as ds
from diswot_search import cli
from diswot_search.data.image_sets import ResidentSet
from diswot_search.jobs.shortlist import ShortlistJob
from diswot_search.jobs.train import DistillJob
from diswot_search.jobs.training_cells import Cell, Outcome
from diswot_search.options.shortlist import ShortlistOptions
from diswot_search.options.training import DistillOptions
from diswot_search.reports.shortlist import describe_verdict
from diswot_search.reports.shortlist_figures import plot_regret, plot_rungs, plot_scores
from diswot_search.reports.study import draw_finalists, plot_study_finalists
from diswot_search.reports.style import format_count
from diswot_search.resolve.shortlists import regret_against
from diswot_search.runtime.executors.serial import SerialExecutor
from diswot_search.training.result import read_result
from diswot_search.training.seeds import Difference, paired_difference

from .any_order import AnyOrder
from .own_networks import SMALL

pytestmark = [
    pytest.mark.usefixtures("one_thread", "quick_trainings"),
    pytest.mark.filterwarnings("ignore:.*no more than chance"),
]

DATA = {"train_limit": 40, "image_size": 8}
TRAINING: dict[str, Any] = {
    "dataset": "digits",
    "data_options": DATA,
    "epochs": 2,
    "batch_size": 20,
    "device": "cpu",
    "progress": False,
}
SHORTLIST: dict[str, Any] = {
    **TRAINING,
    "finalists": 3,
    "other_scores": "nwot",
    "baselines": ["cifar_resnet20"],
    "rung_shares": [0.5, 1.0],
    "rung_keep": 1,
    "verdict_seeds": 2,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "t"
    ds.train("cifar_resnet", model_options={"arch": "1x4-1x4-1x8"}, **TRAINING, out=path)
    return str(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("search") / "s"
    search(path)
    return str(path)


SEARCH: dict[str, Any] = {
    "space_options": {"channels": 4, "cells": 1},
    "algorithm": "random",
    "evaluations": 8,
    "proxy": "effective_capacity",
    "max_params": 12_000,
    "device": "cpu",
    "progress": False,
}


def search(out: Path, **options: Any) -> None:
    probe = ds.create_probe("digits", batch_size=8, image_size=8)
    ds.search("nasbench201", None, probe, **{**SEARCH, "out": out, **options})


def shortlist(out: Path, study: str, teacher: str | None, **options: Any) -> ds.Shortlist:
    return ds.shortlist(study, teacher, **{**SHORTLIST, "out": out, **options})


@pytest.fixture(scope="module")
def whole(searched: str, teacher: str, tmp_path_factory: pytest.TempPathFactory) -> ds.Shortlist:
    """A shortlist that was never stopped."""
    return shortlist(tmp_path_factory.mktemp("whole") / "run", searched, teacher)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def timeless(value: Any) -> Any:
    """A result without times and places, which differ."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in ("seconds", "hours", "path")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def result_of(out: Path) -> Any:
    return timeless(read(out / "result.json"))


# -- what a user gets ---------------------------------------------------------------------------


def test_finalists_are_the_best_of_the_study_one_of_another_score_and_baselines(
    whole: ds.Shortlist, searched: str
) -> None:
    study = ds.Study.load(searched)
    by_score = [candidate.record.architecture for candidate in study.best(2)]
    largest = max(study.records, key=lambda record: record.params or 0).architecture
    assert [one.architecture for one in whole.finalists[:2]] == by_score
    assert whole.finalists[2].origin == "nwot"
    assert whole.finalists[2].architecture not in by_score
    assert [one.place for one in whole.finalists] == list(range(1, len(whole.finalists) + 1))
    assert whole.finalists[-1].name == "cifar_resnet20"
    assert whole.finalists[-1].origin == "baseline"
    assert not whole.finalists[-1].is_within_budget
    assert {one.architecture for one in whole.finalists if one.is_baseline} == {largest, None}
    assert any("over the budget" in notice for notice in whole.notices)


def test_rungs_are_trainings_of_their_own_and_the_pick_is_of_the_last(whole: ds.Shortlist) -> None:
    first, last = whole.rungs
    assert (first.epochs, last.epochs) == (1, 2)
    assert len(first.finalists) == len(whole.finalists)
    names = {one.name: one for one in whole.finalists}
    values = {name: names[name].value(1) for name in first.finalists}
    able = [name for name in first.finalists if names[name].is_within_budget]
    baselines = [name for name in able if names[name].is_baseline]
    best, rival = (max(some, key=lambda name: values[name] or 0) for some in (able, baselines))
    assert set(last.finalists) == {best, rival, "cifar_resnet20"}
    for finalist in whole.finalists:
        for trial in finalist.trials:
            result = read_result(Path(whole.path) / trial.name)
            assert result.is_complete
            assert result.epochs == trial.epochs == len(trial.curve)
            assert result.best is not None
            assert trial.val_accuracy == result.best.val_accuracy == trial.value
            assert trial.kept_epoch == result.best.epoch
            assert result.seed == trial.seed
            assert (result.test is None) == (trial.test_accuracy is None)
    assert whole.pick.last_rung == 2
    assert whole.pick.is_within_budget


def test_the_verdict_compares_the_pick_on_test_images_over_paired_seeds(whole: ds.Shortlist) -> None:
    verdict, pick = whole.verdict, whole.pick
    assert (verdict.student, verdict.seeds) == (pick.name, (0, 1))
    by_kind = {
        kind: [trial.test_accuracy for trial in pick.trials if trial.kind == kind and trial.test_accuracy is not None]
        for kind in ("distilled", "alone")
    }
    assert verdict.gain is not None
    interval = stats.ttest_rel(by_kind["distilled"], by_kind["alone"]).confidence_interval(0.95)
    assert (verdict.gain.low, verdict.gain.high) == pytest.approx((interval.low, interval.high))
    of_interval = "distil" if interval.low > 0 else "do not distil"
    assert verdict.advice == ("unknown" if interval.low == interval.high else of_interval)
    rivals = [one for one in whole.finalists if one.is_baseline and one.last_rung == 2 and not one.is_pick]
    assert list(verdict.against) == [one.name for one in rivals]
    assert "cifar_resnet20" in verdict.against  # which the user named, though it is over the budget
    for rival in rivals:
        mean = (verdict.distilled or 0) - (rival.test_accuracy() or 0)
        assert verdict.against[rival.name].mean == pytest.approx(mean)


def test_equal_differences_of_pairs_are_told_to_have_no_interval(whole: ds.Shortlist) -> None:
    equal, apart = paired_difference([52.0, 47.0], [50.0, 45.0]), paired_difference([52.0, 48.0], [50.0, 45.0])
    assert equal is not None
    assert apart is not None
    lines = list(describe_verdict(replace(whole.verdict, against={"equal": equal, "apart": apart})))
    of = {name: next(line for line in lines if f"against the baseline {name}:" in line) for name in ("equal", "apart")}
    assert "+2.00 points (no interval) over 2 pairs: this proves nothing, since the differences of all" in of["equal"]
    assert "[-3.85, +8.85], 95 % t interval" in of["apart"]


def test_the_guess_by_the_score_alone_is_measured_against_the_pick(whole: ds.Shortlist) -> None:
    guess, pick = whole.finalists[0], whole.pick
    assert whole.regret is not None
    assert whole.regret.name == guess.name
    rung = min(guess.last_rung, pick.last_rung)
    assert whole.regret.rung == rung
    values = [{trial.seed: trial.value for trial in one.trials if trial.rung == rung} for one in (pick, guess)]
    both = [seed for seed in values[0] if seed in values[1]]
    losses = [(values[0][seed] or 0.0) - (values[1][seed] or 0.0) for seed in both]
    assert whole.regret.loss == pytest.approx(sum(losses) / len(losses))
    assert read(Path(whole.path) / "result.json")["regret"]["loss"] == pytest.approx(whole.regret.loss)
    assert f"guess: {guess.name}" in (Path(whole.path) / "report.md").read_text().replace("\\", "")


def test_the_cost_counts_each_training_once(whole: ds.Shortlist) -> None:
    folders = [path.parent for path in Path(whole.path).rglob("training.sqlite")]
    assert whole.cost.trainings == len(folders)
    assert whole.cost.full_trainings == pytest.approx(sum(read_result(folder).epochs for folder in folders) / 2)
    assert whole.cost.hours > 0


def test_the_run_folder_stands_for_the_proven_student(
    whole: ds.Shortlist, searched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(whole.path)
    images = torch.randn(2, 3, 8, 8)
    first = next(trial for trial in whole.pick.trials if trial.rung == 2)
    expected = ds.load_student(out / first.name)(images)
    assert torch.equal(ds.load_student(out)(images), expected)
    network = ds.as_network(str(out), num_classes=10, image_size=(8, 8))
    assert network.trained
    assert torch.equal(network.build().eval()(images), expected)
    assert ds.read_shortlist(out) == whole
    assert cli.main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "full trainings" in shown
    assert whole.pick.name in shown
    with (out / "finalists.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value_1"]) for row in rows] == [one.value(1) for one in whole.finalists]
    report = (out / "report.md").read_text()
    assert whole.pick.name in report
    assert ds.Study.load(searched).finalists


def test_pictures_show_score_and_regret_against_training_and_the_curves_of_all_rungs(whole: ds.Shortlist) -> None:
    scores, regret, rungs = plot_scores(whole), plot_regret(whole), plot_rungs(whole)
    assert scores is not None
    assert regret is not None
    assert rungs is not None
    (axes,) = scores.axes
    by_name = {line.get_label(): line for line in axes.get_lines()}
    last = len(whole.rungs)
    expected = sorted((one.score, one.val_accuracy(1)) for one in whole.finalists if one.score is not None)
    assert sorted(zip(*by_name["rung 1: 1 epoch"].get_data(), strict=True)) == expected
    assert by_name["pick"].get_ydata() == [whole.pick.val_accuracy(last)]
    bars = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in regret.axes[0].patches}
    losses = {place: regret_against(whole.pick, one).loss for place, one in enumerate(whole.finalists)}
    assert bars == {place: loss for place, loss in losses.items() if loss is not None}
    assert whole.regret is not None
    assert bars[0] == whole.regret.loss  # that of the guess
    curves = [line.get_ydata() for line in rungs.axes[last - 1].get_lines()]
    trials = [trial for one in whole.finalists for trial in one.trials if trial.kind == "distilled"]
    assert sorted(map(tuple, curves)) == sorted(trial.curve for trial in trials if trial.rung == last)
    dots = [(line.get_ydata()[line.get_markevery()[0]]) for line in rungs.axes[last - 1].get_lines()]
    assert sorted(dots) == sorted(trial.val_accuracy or 0.0 for trial in trials if trial.rung == last)
    for name in ("scores.png", "regret.png", "rungs.png"):
        assert (Path(whole.path) / name).read_bytes().startswith(b"\x89PNG")


def test_a_pick_without_a_score_is_marked_in_the_picture_of_scores(whole: ds.Shortlist) -> None:
    picked = [replace(one, is_pick=one.name == "cifar_resnet20") for one in whole.finalists]
    figure = plot_scores(replace(whole, finalists=tuple(picked)))
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert "pick" not in lines
    assert set(lines["cifar_resnet20 (pick)"].get_ydata()) == {picked[-1].val_accuracy(2)}


def test_a_study_remembers_its_finalists(
    whole: ds.Shortlist, searched: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = ds.Study.load(searched)
    study.record_finalists(whole.finalists, whole.path, draw_finalists(study, whole.finalists, whole.path))
    again = ds.Study.load(searched)
    assert again.finalists == whole.finalists
    assert again.shortlist == whole.path
    assert again.status == "complete"
    assert (Path(searched) / "finalists.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["show", searched]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"the pick is {whole.pick.name}" in shown
    assert f"3 finalists and {format_count(len(whole.finalists) - 3, 'baseline')} of a shortlist" in shown
    figure = plot_study_finalists(again)
    assert figure is not None
    by_name = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(by_name["pick"].get_ydata()) == [whole.pick.val_accuracy(2)]
    assert [path.name for path in ds.plot_search(again, tmp_path)] == ["progress.png", "front.png", "finalists.png"]


def test_a_search_that_goes_on_after_a_shortlist_keeps_the_picture_of_its_finalists(
    whole: ds.Shortlist, searched: str, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(searched, study)
    ds.Study.load(study).record_finalists(whole.finalists, whole.path)
    assert not (study / "finalists.png").is_file() or (study / "finalists.png").unlink() is None
    search(study, evaluations=9)
    assert (study / "finalists.png").is_file()
    assert ds.Study.load(study).finalists == whole.finalists


def test_a_training_of_a_rung_runs_again_by_its_own_config(whole: ds.Shortlist, tmp_path: Path) -> None:
    trial = whole.finalists[0].trials[0]
    config = Path(whole.path) / trial.name / "config.yaml"
    assert cli.main(["distill", "--config", str(config), "--out", str(tmp_path / "again")]) == 0
    again = read_result(tmp_path / "again")
    assert again.best is not None
    assert again.best.val_accuracy == trial.val_accuracy


# -- test images --------------------------------------------------------------------------------


class Sealed(ResidentSet):
    """Images that raise when they are looked at."""

    def batches(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a test image was looked at")


def test_no_rung_looks_at_test_images(searched: str, teacher: str, tmp_path: Path) -> None:
    splits = ds.create_splits("digits", **DATA)
    assert isinstance(splits.test, ResidentSet)
    sealed = Sealed(splits.test.images, splits.test.labels, splits.test.title, splits.test.workers)
    options = {"dataset": replace(splits, test=sealed), "data_options": None, "verdict_seeds": 1}
    result = shortlist(tmp_path / "run", searched, teacher, **options)
    values = [trial.value for one in result.finalists for trial in one.trials if trial.rung == 1]
    assert all(value is not None for value in values)
    assert result.pick.name
    assert result.verdict.distilled is None
    assert result.verdict.advice == "unknown"


# -- what happens on the way --------------------------------------------------------------------


class Interrupting(SerialExecutor):
    """Computes here, counts the trainings, and is interrupted before one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.count, self._at = 0, at

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if self.count == self._at:
            raise KeyboardInterrupt
        self.count += 1
        return super().submit(worker, item)


@pytest.mark.parametrize("at", [0, 2, 5, 7])
def test_a_shortlist_stopped_anywhere_ends_the_same(
    at: int, whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        shortlist(out, searched, teacher, executor=Interrupting(at))
    assert cli.main(["show", str(out)]) == 0
    shortlist(out, searched, teacher)
    assert result_of(out) == result_of(Path(whole.path))


class Failing(SerialExecutor):
    """Computes here; trainings for which `fails` holds end as those of a dead worker.

    Args:
        fails: Whether a training fails.
        stops: Whether a signal comes after the first that failed.
    """

    def __init__(self, fails: Callable[[Cell], bool], *, stops: bool = False) -> None:
        super().__init__()
        self._fails, self._stops, self._failed = fails, stops, 0

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if self._failed and self._stops:
            raise KeyboardInterrupt
        if not self._fails(item):
            return super().submit(worker, item)
        self._failed += 1
        ended: Future[Any] = Future()
        ended.set_result(Outcome("the worker died"))
        return ended


def test_a_failure_while_testing_leaves_what_is_known_of_the_training(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        shortlist(out, searched, teacher, executor=Failing(lambda cell: cell.tests, stops=True))
    again = shortlist(out, searched, teacher)
    assert again.pick.name == whole.pick.name
    assert again.rungs == whole.rungs
    assert [one.value(2) for one in again.finalists] == [one.value(2) for one in whole.finalists]
    failed = next(trial for trial in again.pick.trials if trial.rung == 2 and trial.kind == "distilled")
    assert (failed.status, failed.reason, failed.test_accuracy) == ("failed", "the worker died", None)
    assert again.cost.failed == 1


def check_second_seeds(result: ds.Shortlist) -> None:
    """The pick has the best mean over two seeds, and no single seed is better."""
    last, number = result.rungs[-1], len(result.rungs)
    able = [one for one in result.finalists if one.last_rung == number and one.is_within_budget]
    seconds = [one for one in able if one.name in last.second_seeds]
    assert {one.name: len(one.val_accuracies(number)) for one in able} == {
        one.name: 1 + (one in seconds) for one in able
    }
    assert len(seconds) >= 2
    assert result.pick in seconds
    assert result.pick.value(number) == max(one.value(number) or 0.0 for one in able)
    accuracies = [one.val_accuracies(number) for one in able]
    assert last.seed_std == pytest.approx((ds.halving.seed_variance(accuracies) or 0.0) ** 0.5)
    report = (Path(result.path) / "report.md").read_text()
    assert f"one seed moves an accuracy by about {last.seed_std:.2g} points" in report


def test_a_finalist_that_fails_with_its_second_seed_is_out(searched: str, teacher: str, tmp_path: Path) -> None:
    options = {"rung_keep": 3, "baselines": None, "verdict_seeds": 1, "compare": False}
    usual = shortlist(tmp_path / "usual", searched, teacher, **options)
    check_second_seeds(usual)
    folder = next(trial.name for trial in usual.pick.trials if trial.rung == 2 and trial.seed == 1)
    executor = Failing(lambda cell: cell.name == folder)
    result = shortlist(tmp_path / "run", searched, teacher, **options, executor=executor)
    (out,) = [one for one in result.finalists if one.reason is not None]
    assert (out.name, out.reason) == (usual.pick.name, "the worker died")
    assert not out.is_pick
    assert "out: " in (tmp_path / "run" / "report.md").read_text()


def test_hours_count_the_whole_epochs_of_trainings_that_failed(searched: str, teacher: str, tmp_path: Path) -> None:
    (tmp_path / "own_networks.py").write_text(OWN + LATE)
    baselines = [f"{tmp_path / 'own_networks.py'}:DivergesLate"]
    options = {"baselines": baselines, "finalists": 1, "other_scores": "", "verdict_seeds": 1, "compare": False}
    result = shortlist(tmp_path / "run", searched, teacher, **options, rung_shares=1.0, rung_keep=[])
    (failed,) = [trial for one in result.finalists for trial in one.trials if trial.status == "failed"]
    seconds = [trial.seconds or 0.0 for one in result.finalists for trial in one.trials]
    assert len(failed.curve) == 1
    assert failed.seconds
    assert result.cost.hours == pytest.approx(sum(seconds) / 3600)
    assert "failed and count up to their last whole epoch" in (tmp_path / "run" / "report.md").read_text()


def test_a_failure_in_the_verdict_is_told_and_gives_no_advice(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    executor = Failing(lambda cell: cell.tests and cell.name.startswith("alone") and cell.options.seed == 1)
    verdict = shortlist(out, searched, teacher, executor=executor).verdict
    (failure,) = verdict.failures
    assert (failure.name, failure.kind, failure.seed) == (whole.pick.name, "alone", 1)
    assert verdict.gain is not None
    assert verdict.gain.count == 1
    assert verdict.advice == "unknown"
    assert verdict.because == "trainings of the pick failed: alone with seed 1"
    assert "alone, seed 1: the worker died" in (out / "report.md").read_text()


def test_equal_differences_give_no_advice(searched: str, teacher: str, tmp_path: Path) -> None:
    options = {"lr": 1e-12, "finalists": 1, "other_scores": "", "baselines": None}
    verdict = shortlist(tmp_path / "run", searched, teacher, **options).verdict
    assert verdict.gain is not None
    assert verdict.gain.low == verdict.gain.high == 0
    assert verdict.advice == "unknown"
    assert "differences of all 2 pairs are equal" in (tmp_path / "run" / "report.md").read_text()
    differences = {"equal": Difference(1.0, 1.0, 1.0, 2), "single": Difference(1.0, None, None, 1)}
    lines = list(describe_verdict(replace(verdict, against=differences)))
    assert any("baseline equal" in line and "proves nothing, since the differences of all 2" in line for line in lines)
    assert any("baseline single" in line and "proves nothing, since one pair of seeds has no" in line for line in lines)


def test_the_verdict_has_the_seeds_that_were_asked_for(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    fewer, out = tmp_path / "fewer", tmp_path / "copy"
    shutil.copytree(whole.path, out)
    shortlist(fewer, searched, teacher, verdict_seeds=1)
    shortlist(out, searched, teacher, verdict_seeds=1)
    assert result_of(out) == result_of(fewer)
    assert read(out / "result.json")["verdict"]["seeds"] == [0]


def test_a_seed_of_the_verdict_changes_no_accuracy_of_a_rung(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(whole.path, out)
    more = shortlist(out, searched, teacher, verdict_seeds=3)
    added = [trial for trial in more.pick.trials if trial.kind == "distilled" and trial.seed == 2]
    assert [trial.of_verdict for trial in added] == [True]
    assert more.verdict.seeds == (0, 1, 2)
    for one, other in zip(whole.finalists, more.finalists, strict=True):
        for rung in (1, 2):
            assert one.val_accuracy(rung) == other.val_accuracy(rung)


def test_a_finished_shortlist_is_read_and_nothing_is_trained(whole: ds.Shortlist, searched: str, teacher: str) -> None:
    executor = Interrupting()
    assert shortlist(Path(whole.path), searched, teacher, executor=executor) == whole
    assert executor.count == 0
    with pytest.raises(ds.RunFolderError, match=r"finalists is 3 there, 4 here"):
        shortlist(Path(whole.path), searched, teacher, finalists=4)


def test_workers_in_any_order_that_die_have_the_results_of_one(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shortlist(out, searched, teacher, executor=AnyOrder(3, seed=3, deaths=0.1))
    assert result_of(out) == result_of(Path(whole.path))


OWN = (
    SMALL
    + """

class Fails(Small):
    def forward(self, images):
        if self.training:
            raise ValueError("it cannot be trained")
        return super().forward(images)


class Diverges(Small):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.steps += 1
        return super().forward(images) / (self.steps < 2)
"""
)


LATE = """

class DivergesLate(Diverges):
    def forward(self, images):
        outputs = super(Diverges, self).forward(images)
        if self.training:
            self.steps += 1
        return outputs / (self.steps < 4)
"""


def test_what_cannot_be_trained_or_diverges_is_out_with_its_reason(searched: str, teacher: str, tmp_path: Path) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    baselines = [f"{tmp_path / 'own_networks.py'}:{name}" for name in ("Fails", "Diverges", "Small")]
    options = {"baselines": baselines, "finalists": 1, "verdict_seeds": 1, "compare": False}
    with pytest.warns(UserWarning, match="The baseline .*Fails cannot be trained, .*: .*it cannot be trained"):
        result = shortlist(tmp_path / "run", searched, teacher, **options)
    fails, diverges, small = result.finalists[-3:]
    assert fails.reason is not None
    assert "it cannot be trained" in fails.reason
    assert (fails.last_rung, fails.trials) == (0, ())
    assert diverges.reason is not None
    assert diverges.reason.startswith("DivergenceError")
    assert [trial.status for trial in diverges.trials] == ["failed"]
    assert small.reason is None
    assert result.cost.failed == 1
    assert result.verdict.alone is None
    assert "out: " in (tmp_path / "run" / "report.md").read_text()


def test_what_is_known_before_the_work_is_shown_before_it(searched: str, teacher: str, tmp_path: Path) -> None:
    study = ds.Study.load(searched)
    options = {**SHORTLIST, "study": study, "teacher": teacher, "out": tmp_path / "run"}
    shown: list[str] = []
    job = ShortlistJob(
        ShortlistOptions(**options, executor=Interrupting(0)), lambda *items: shown.extend(map(str, items))
    )
    with pytest.raises(KeyboardInterrupt):
        job.complete()
    text = "\n".join(shown)
    assert "finalists and " in text
    assert "cifar_resnet20 (baseline)" in text
    assert "cifar_resnet20 is over the budget" in text


def test_every_baseline_that_the_user_named_is_compared_with(searched: str, teacher: str, tmp_path: Path) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    study = ds.Study.load(searched)
    smallest = min(study.best(8), key=lambda one: one.record.params or 0).record.architecture
    baselines = [f"{tmp_path / 'own_networks.py'}:Small", "cifar_resnet20", smallest]
    options = {"baselines": baselines, "finalists": 1, "verdict_seeds": 1, "compare": False}
    result = shortlist(tmp_path / "run", searched, teacher, **options)
    named = [one for one in result.finalists if one.is_named]
    assert len(named) == 3
    assert {one.last_rung for one in named} == {2}
    assert set(result.verdict.against) >= {one.name for one in named if not one.is_pick}


def test_a_shortlist_of_failures_says_why(searched: str, teacher: str, tmp_path: Path) -> None:
    with pytest.raises(ds.ShortlistError, match="No finalist of rung 1 could be trained: DivergenceError"):
        shortlist(tmp_path / "run", searched, teacher, lr=1e30, baselines=None, other_scores="")


def test_a_rung_that_is_too_short_is_said(searched: str, teacher: str, tmp_path: Path) -> None:
    options = {"epochs": 200, "rung_shares": [0.01, 1.0], "baselines": "resnet181"}
    with (
        pytest.warns(UserWarning, match=r"Rung 1 trains for 4 steps \(2 epochs\).*; a share of 0.25 has enough"),
        pytest.raises(ValueError, match="Did you mean"),
    ):
        shortlist(tmp_path / "run", searched, teacher, **options)


def test_columns_of_finalists_have_names_that_say_what_they_are(whole: ds.Shortlist) -> None:
    out = Path(whole.path)
    beside = sum(one.origin in ("baseline", "largest") for one in whole.finalists)
    report = (out / "report.md").read_text()
    assert f"3 finalists and {format_count(beside, 'baseline')}" in report.splitlines()[0]
    assert "| place | name | chosen by |" in report
    assert ("and (baseline) where it is" in report) == ("(baseline) |" in report)
    with (out / "finalists.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    regrets = [regret_against(whole.pick, one) for one in whole.finalists]
    assert [row["lost"] for row in rows] == ["" if one.loss is None else str(one.loss) for one in regrets]
    assert "loss" not in rows[0]


# -- teachers and distillers --------------------------------------------------------------------


def test_the_best_teacher_and_the_best_distiller_are_chosen_on_one_student(
    searched: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "random_teacher": True,
        "teachers": [teacher, "cifar_resnet20"],
        "distillers": "kd,dkd",
        "finalists": 2,
        "verdict_seeds": 1,
    }
    options |= {"baselines": None, "compare": False}
    with pytest.warns(UserWarning, match="has random weights"):
        result = ds.shortlist(searched, **{**SHORTLIST, **options, "out": tmp_path / "run"})
    assert [one.name for one in result.teachers] == [teacher, "cifar_resnet20"]
    assert [one.name for one in result.distillers] == ["kd", "dkd"]
    for contenders in (result.teachers, result.distillers):
        chosen = next(one for one in contenders if one.is_chosen)
        assert chosen.value == max(one.value for one in contenders if one.value is not None)
        for one in contenders:
            assert [trial.seed for trial in one.trials] == [0, 1]
            assert one.value == pytest.approx(sum(trial.value or 0.0 for trial in one.trials) / 2)
    assert all(one.accuracy is not None for one in result.teachers)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "own accuracy: of the teacher itself, in percent (a teacher that was trained elsewhere may have" in report
    smallest = min(result.finalists, key=lambda one: one.params or 0)
    slug = f"{smallest.place:02d}-"
    assert all(trial.name.startswith(f"rungs/1/{slug}") for one in result.teachers for trial in one.trials)
    teacher_name = next(one.name for one in result.teachers if one.is_chosen)
    distiller_name = next(one.name for one in result.distillers if one.is_chosen)
    full = [trial for one in result.finalists for trial in one.trials if trial.rung == 2]
    assert {(trial.teacher, trial.distiller) for trial in full} == {(teacher_name, distiller_name)}
    check_tables_of_choices(result, capsys)


def check_tables_of_choices(result: ds.Shortlist, capsys: pytest.CaptureFixture[str]) -> None:
    """Trainings that were only for a choice are in tables of their own, and in no row of a finalist."""
    of_finalists = {trial.name for one in result.finalists for trial in one.trials}
    contenders = [*result.teachers, *result.distillers]
    of_choices = {trial.name: trial.epochs for one in contenders for trial in one.trials}
    only_choices = of_choices.keys() - of_finalists
    assert sum(not one.is_chosen for one in contenders) * 2 <= len(only_choices)
    assert result.cost.choices == pytest.approx(sum(of_choices[name] for name in only_choices) / 2)
    out = Path(result.path)
    with (out / "contenders.csv").open(newline="") as file:
        rows = {(row["kind"], row["name"]): row for row in csv.DictReader(file)}
    smallest = min(result.finalists, key=lambda one: one.params or 0)
    assert {row["student"] for (kind, _), row in rows.items() if kind == "teacher"} == {smallest.name}
    report = (out / "report.md").read_text().replace("\\", "")
    assert cli.main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    for kind, of_kind in (("teacher", result.teachers), ("distiller", result.distillers)):
        assert f"## 2 {kind}s to choose from" in report
        assert f"2 {kind}s to choose from" in shown
        (chosen,) = [one for one in of_kind if one.is_chosen]
        assert rows[kind, chosen.name]["is_chosen"] == "True"
        for one in of_kind:
            row = rows[kind, one.name]
            assert float(row["value"]) == one.value
            assert row["accuracy"] == ("" if one.accuracy is None else str(one.accuracy))
            line = next(line for line in report.splitlines() if f"| {one.name} |" in line)
            assert line.startswith("| chosen |") == one.is_chosen
            assert f"| {one.value:.2f} |" in line
            if one is not chosen:
                pairs = zip(one.trials, chosen.trials, strict=True)
                differences = [(a.value or 0.0) - (b.value or 0.0) for a, b in pairs]
                assert one.difference is not None
                assert one.difference.mean == pytest.approx(statistics.fmean(differences))
                assert one.difference.std == pytest.approx(statistics.stdev(differences))
                assert f"{one.difference.mean:+.2f} ± {one.difference.std:.2f}" in line
    with (out / "finalists.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [one.name for one in result.finalists]


REPEATS = """

class Repeats(Small):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.mix = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images):
        features = nn.functional.pad(images, (0, 0, 0, 0, 0, 1))
        for _ in range(30):
            features = self.mix(features)
        return super().forward(features[:, :3])
"""


def test_teacher_and_distiller_are_chosen_on_students_within_the_budget(
    teacher: str, searched: str, tmp_path: Path
) -> None:
    (tmp_path / "own_networks.py").write_text(OWN + REPEATS)
    study, out = tmp_path / "study", tmp_path / "run"
    space = {"space_options": {"channels": 4, "cells": 1}, "algorithm": "random", "evaluations": 4, "device": "cpu"}
    probe = ds.create_probe("digits", batch_size=8, image_size=8)
    ds.search("nasbench201", None, probe, **space, proxy="params", max_macs=140_000, progress=False, out=study)
    options = {
        "random_teacher": True,
        "teachers": [teacher, "cifar_resnet20"],
        "distillers": "kd,dkd",
        "finalists": 1,
        "verdict_seeds": 1,
    }
    options |= {"baselines": [f"{tmp_path / 'own_networks.py'}:Repeats"], "compare": False}
    with pytest.warns(UserWarning, match="has random weights"):
        result = ds.shortlist(study, **{**SHORTLIST, **options, "out": out})
    names = {trial.name for one in (*result.teachers, *result.distillers) for trial in one.trials}
    barred = next(one for one in result.finalists if not one.is_within_budget)
    assert barred.params == min(one.params or 0 for one in result.finalists)
    assert not any(name.startswith(f"rungs/1/{barred.place:02d}-") for name in names)


def test_a_shortlist_of_one_rung_goes_on_with_the_accuracy_of_each_teacher(
    searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = {
        "random_teacher": True,
        "teachers": [teacher, "cifar_resnet20"],
        "finalists": 1,
        "other_scores": "",
        "baselines": None,
    }
    options |= {"rung_shares": 1.0, "rung_keep": [], "verdict_seeds": 2, "compare": False, "epochs": 1}
    with pytest.warns(UserWarning, match="has random weights"):
        first = ds.shortlist(searched, **{**SHORTLIST, **options, "out": out})
    again = ds.shortlist(searched, **{**SHORTLIST, **options, "verdict_seeds": 1, "out": out})
    assert all(one.accuracy is not None for one in first.teachers)
    assert [one.accuracy for one in again.teachers] == [one.accuracy for one in first.teachers]
    assert all(trial.test_accuracy is None for one in again.teachers for trial in one.trials)


# -- baselines ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_params(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search by parameters, whose best is the largest."""
    path = tmp_path_factory.mktemp("by_params") / "s"
    search(path, proxy="params", evaluations=4)
    return str(path)


def test_a_named_baseline_takes_no_place_of_a_candidate(
    whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path
) -> None:
    able = [one for one in whole.finalists if one.is_within_budget]
    best = max(able, key=lambda one: (one.value(1) or 0.0, -one.place))
    options = {"baselines": best.architecture, "verdict_seeds": 1, "compare": False}
    result = shortlist(tmp_path / "run", searched, teacher, **options)
    others = [one for one in result.finalists if one.architecture != best.architecture]
    second = max(others, key=lambda one: (one.value(1) or 0.0, -one.place))
    assert {best.name, second.name} <= set(result.rungs[-1].finalists)


def test_a_baseline_that_the_study_scored_has_its_record(searched: str, teacher: str, tmp_path: Path) -> None:
    study = ds.Study.load(searched)
    last = study.best(8)[-1].record
    options = {"baselines": last.architecture, "finalists": 1, "verdict_seeds": 1, "compare": False}
    result = shortlist(tmp_path / "run", searched, teacher, **options)
    baseline = next(one for one in result.finalists if one.origin == "baseline")
    assert (baseline.index, baseline.score, baseline.params) == (last.index, last.score, last.params)
    assert baseline.is_named
    assert baseline.is_within_budget


@pytest.mark.parametrize(
    ("measured", "notice"),
    [
        (5.0, "cifar_resnet8 is over the budget (latency 5.00 ms, at most 1.00 ms)"),
        (0.1, None),
        (None, "cifar_resnet8 is taken to be within the budget without a check of its latency: no such operator"),
    ],
)
def test_the_latency_of_a_baseline_is_measured_as_that_of_candidates(
    measured: float | None, notice: str | None, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latencies: list[float | None] = [0.5]
    seen: list[dict[str, Any]] = []

    def measure(model: nn.Module, input_size: object, *, limit_ms: float | None, **conditions: Any) -> ds.Latency:
        seen.append(conditions)
        if latencies[0] is None:
            raise ValueError("no such operator")
        return ds.Latency(latencies[0], **conditions)

    monkeypatch.setattr("diswot_search.study.cost_kinds.measure_latency", measure)
    study = tmp_path / "study"
    search(study, evaluations=2, max_params=None, max_latency_ms=1, latency_runtime="eager")
    count, latencies[0] = len(seen), measured
    options = {"baselines": "cifar_resnet8", "finalists": 1, "verdict_seeds": 1, "compare": False}
    result = shortlist(tmp_path / "run", str(study), teacher, **options)
    baseline = result.finalists[-1]
    assert baseline.is_within_budget == (measured != 5.0)
    assert [one for one in result.notices if "cifar_resnet8" in one] == [
        one for one in result.notices if notice is not None and notice in one
    ]
    assert len(seen) > count
    assert seen[-1] == seen[0]


def test_seeds_that_chose_the_pick_are_told(whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path) -> None:
    options = {"rung_keep": 3, "baselines": None, "verdict_seeds": 2}
    chosen = shortlist(tmp_path / "run", searched, teacher, **options)
    pick = [trial.seed for trial in chosen.pick.trials if trial.rung == 2 and not trial.of_verdict]
    assert chosen.choice_seeds == tuple(pick) == (0, 1)
    told = "The trainings with seeds 0 and 1 chose the pick on validation images"
    assert told in (tmp_path / "run" / "report.md").read_text()
    (only,) = [one for one in whole.finalists if one.last_rung == 2 and one.is_within_budget]
    assert only.is_pick
    assert whole.choice_seeds == ()
    assert "chose the pick" not in (Path(whole.path) / "report.md").read_text()


def test_a_seed_of_a_choice_decides_nothing_in_a_verdict(by_params: str, teacher: str, tmp_path: Path) -> None:
    options = {
        "random_teacher": True,
        "teachers": [teacher, "cifar_resnet20"],
        "finalists": 1,
        "other_scores": "",
        "baselines": None,
    }
    options |= {"rung_shares": 1.0, "rung_keep": [], "verdict_seeds": 2, "compare": False, "epochs": 1}
    with pytest.warns(UserWarning, match="has random weights"):
        result = ds.shortlist(by_params, **{**SHORTLIST, **options, "out": tmp_path / "run"})
    assert [trial.of_verdict for trial in result.pick.trials] == [False, True]
    assert len(result.pick.values(1)) == 1
    assert (result.cost.choices, result.cost.rungs, result.cost.verdict) == (3, 1, 0)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": None}, "needs a run folder"),
        ({"finalists": 0}, "finalists is 0; it must be a whole number of at least 1"),
        ({"other_scores": "nwott"}, "Did you mean 'nwot'"),
        ({"other_scores": "log_rank(nwot, macs)"}, "name its proxies instead"),
        ({"baselines": "resnet181"}, "Did you mean"),
        ({"baselines": "cifar_resnet20,cifar_resnet20"}, "baselines has cifar_resnet20 twice"),
        ({"rung_shares": [0.5, 0.7]}, "of which the last is 1"),
        ({"rung_keep": [3, 2]}, "rung_keep is"),
        ({"verdict_seeds": 0}, "verdict_seeds is 0"),
        ({"teachers": "cifar_resnet20,cifar_resnet20"}, "a teacher twice, cifar_resnet20; leave"),
        ({"teachers": [{"model": "net.py:net", "checkpoint": "net.pt"}], "teacher": None}, "not of mappings"),
        ({"teachers": "[{model: net.py:net, checkpoint: net.pt}]", "teacher": None}, "not of mappings"),
        ({"teachers": ["cifar_resnet20"]}, "teacher and teachers are both given"),
        ({"teacher": nn.Conv2d(1, 10, 8)}, "Conv2d has random weights.* random_teacher=True"),
        ({"teachers": "cifar_resnet20", "teacher": None}, "cifar_resnet20 has random weights"),
        ({"rung_shares": "0.5,0.2"}, r"rung_shares is \[0.5, 0.2\]; it must be rising shares"),
        ({"baselines": "resnet8"}, "baseline 'resnet8'"),
        ({"distillers": "kd,kdd"}, "Did you mean 'kd'"),
        ({"distillers": "kd,kd"}, "distillers has kd twice"),
        ({"distiller": "kd", "distillers": "dkd"}, "distiller and distillers are both given"),
        ({"study": "nowhere"}, "There is no run folder nowhere"),
        ({"epochs": 0}, "epochs"),
        ({"workers": 0}, "workers is 0"),
        ({"sources": ["cifar_resnet20"], "distillers": "kd"}, "cannot be combined"),
        ({"data_options": {**DATA, "val_share": 0}}, "val"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(
    options: dict[str, Any], message: str, searched: str, teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = {"study": searched, "teacher": teacher, **SHORTLIST, "out": out, **options}
    if "twice" in message and "teachers" in options:
        del given["teacher"]
    with pytest.raises((ValueError, TypeError, ds.RunFolderError), match=message):
        ds.shortlist(**given)
    assert not out.exists()


def test_the_command_line_proves_a_student(
    searched: str, teacher: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    line = ["shortlist", "--study", searched, "--teacher", teacher, "--finalists", "1", "--verdict_seeds", "1"]
    line += [
        "--epochs",
        "1",
        "--batch_size",
        "20",
        "--data_options.train_limit",
        "40",
        "--data_options.image_size",
        "8",
    ]
    line += ["--rung_shares", "0.5,1", "--compare", "false", "--device", "cpu", "--out", str(out), "--quiet"]
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert "run folder" in shown
    assert cli.main(["shortlist", "--config", str(out / "config.yaml")]) == 0
    assert cli.main([*line, "--finalists", "x"]) == 2


# -- a training that is tested later ------------------------------------------------------------


def test_a_training_tested_later_is_that_of_one_tested_at_once(teacher: str, tmp_path: Path) -> None:
    options = DistillOptions("cifar_resnet20", teacher, **TRAINING)
    at_once = DistillJob(replace(options, out=tmp_path / "once")).complete()
    untested = DistillJob(replace(options, out=tmp_path / "later"), tests=False).complete()
    assert untested.result.test is None
    assert untested.result.agreement is None
    assert untested.result.teacher is not None
    assert untested.result.teacher.accuracy is None
    assert untested.result.teacher.val_accuracy is not None
    assert cli.main(["show", str(tmp_path / "later")]) == 0
    tested = DistillJob(replace(options, out=tmp_path / "later")).complete()
    assert tested.result.test == at_once.result.test
    assert tested.result.agreement == at_once.result.agreement
    assert at_once.result.teacher is not None
    known = {"val_accuracy": untested.result.teacher.val_accuracy}
    assert tested.result.teacher == replace(at_once.result.teacher, **known)
    weights = [(tmp_path / run / "student" / "student.safetensors").read_bytes() for run in ("once", "later")]
    assert weights[0] == weights[1]


def test_objects_of_python_are_taken(whole: ds.Shortlist, searched: str, teacher: str, tmp_path: Path) -> None:
    given = {"dataset": ds.create_splits("digits", **DATA), "data_options": None}
    result = ds.shortlist(
        ds.Study.load(searched), ds.load_student(teacher), **{**SHORTLIST, **given, "out": tmp_path / "run"}
    )
    first = next(iter(result.finalists)).trials[0]
    assert first.status == "complete"
    assert [one.name for one in result.finalists] == [one.name for one in whole.finalists]


def test_a_single_path_or_network_is_one_baseline(searched: str, teacher: str, tmp_path: Path) -> None:
    for name, baseline in (("path", Path(teacher)), ("module", nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))):
        options = {"baselines": baseline, "finalists": 1, "other_scores": "", "verdict_seeds": 1, "compare": False}
        result = shortlist(tmp_path / name, searched, teacher, **options)
        assert sum(one.is_named for one in result.finalists) == 1
