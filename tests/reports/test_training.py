"""Progress, curves, tables and pictures of a training: that they show what the rows and the result say."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diswot_search.distillation import base
from diswot_search.distillation.base import Distiller, register_distiller
from diswot_search.networks.features import Features
from diswot_search.reports.progress import TrainingCurves, TrainingProgress
from diswot_search.reports.training import (
    compare_trainings,
    describe_training,
    format_distillers,
    format_training,
    metrics_csv,
)
from diswot_search.reports.training_figures import (
    plot_accuracy,
    plot_classes,
    plot_losses,
    plot_reliability,
    plot_training,
    plot_weights,
)
from diswot_search.runtime.typed_json import JsonError
from diswot_search.training.metrics import MetricSums
from diswot_search.training.result import EpochRow, TrainingResult
from search_spaces.registry import UnknownNameError


def make_rows(epochs: int = 4, **terms: float) -> list[EpochRow]:
    """Rows whose terms fall from 10 times these values to these."""
    terms = terms or {"ce": 0.25, "kd": 0.5}
    rows = []
    for epoch in range(1, epochs + 1):
        losses = {name: value * 10 ** (1 - epoch / epochs) for name, value in terms.items()}
        rows.append(
            EpochRow(
                epoch=epoch,
                step=5 * epoch,
                lr=0.1,
                loss=sum(losses.values()),
                terms=losses,
                train_accuracy=20.0 * epoch,
                val_accuracy=60.0 + 10 * (epoch % 3),
                val_loss=1 / epoch,
                images_per_second=800.0,
                seconds=1.25,
            )
        )
    return rows


def make_values(**changes: Any) -> dict[str, Any]:
    """The content of `result.json`."""
    torch.manual_seed(1)
    labels = torch.randint(10, (200,))
    logits = torch.randn(200, 10)
    logits[torch.arange(200), labels] += 3
    sums = MetricSums(10)
    sums.add(logits, labels, logits + torch.randn(200, 10))
    evaluation = sums.metrics()
    result = {
        "status": "complete",
        "epochs": 4,
        "steps": 20,
        "rule": "best",
        "last": {"epoch": 4, "val_accuracy": 70.0},
        "best": {"epoch": 2, "val_accuracy": 80.0},
        "test": asdict(evaluation) | {"epoch": 2, "rule": "best"},
        "teacher": {"name": "cifar_resnet56", "accuracy": 95.5},
        "agreement": {"percent": evaluation.agreement, "divergence": evaluation.divergence},
        "student": {"name": "cifar_resnet20", "params": 272474, "macs": 40813184, "latency_ms": 3.214},
        "timing": {"seconds": 61.25, "images_per_second": 812.3, "device": "cpu", "threads": 2}
        | {"processes": 1, "precision": "fp32", "batch_size": 64},
        "data": "digits",
        "distillers": {"kd": 0.9, "diswot": 1.0},
        "ce_weight": 0.1,
        "seed": 7,
    }
    return json.loads(json.dumps(result | changes))  # as it is read back


def make_result(**changes: Any) -> TrainingResult:
    return TrainingResult.from_json(make_values(**changes))


def make_unfinished(**changes: Any) -> TrainingResult:
    """What is known before the first epoch is over."""
    missing = dict.fromkeys(("last", "best", "test", "teacher", "agreement", "timing"))
    start = {"student": {"name": "cifar_resnet20"}, "distillers": {}, "epochs": 0, "steps": 3, "rule": "last"}
    return make_result(status="running", planned_epochs=4, **missing, **(start | changes))


def make_sources(**changes: Any) -> dict[str, Any]:
    """What is said of three sources, of which one is too far away and one is not measured."""
    models = [
        {"name": "usps", "similarity": -1.5, "std": 0.25, "weight": 0.0, "loss": None},
        {"name": "mnist", "similarity": 20.125, "std": 1.5, "weight": 0.9996, "loss": 0.75},
        {"name": "a [b] (2)", "similarity": None, "std": None, "weight": 0.0004, "loss": 2.0},
    ]
    sources = {"weighting": "weighted", "measure": "parc", "power": 10.0, "lam": 0.8, "view": "fixed"}
    return sources | {"fallback": None, "models": models} | changes


def make_related(**changes: Any) -> TrainingResult:
    """The result of a training with few labels and sources."""
    result: dict[str, Any] = {"teacher": None, "agreement": None, "distillers": {}, "ce_weight": 0.8}
    result |= {"labels": {"labelled": 400, "images": 10_000, "validation": 200, "classes": 20}}
    return make_result(**(result | {"unlabelled": "sources", "sources": make_sources()} | changes))


REASON = "no source is near: none has a similarity above 0"


def make_fallback() -> TrainingResult:
    """The result of a training whose sources are all too far away."""
    models = [model | {"similarity": -1.0, "weight": 0.0, "loss": None} for model in make_sources()["models"]]
    return make_related(sources=make_sources(fallback=REASON, models=models), ce_weight=1.0)


def shown(table: Table, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def cells_of(table: Table) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    lines = [line for line in shown(table, 160).splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {name: cells for name, *cells in rows}


# -- progress -----------------------------------------------------------------------------------


ROW = EpochRow(
    epoch=1, step=10, lr=0.1, loss=1.5, terms={"ce": 0.5, "kd": 1.0}, notes={}, train_accuracy=50.0,
    val_accuracy=63.25, images_per_second=100.0, seconds=1.0,
)  # fmt: skip


def run_bar(width: int = 100, done: int = 0, enabled: bool = True, **console: Any) -> tuple[str, TrainingProgress]:
    output = io.StringIO()
    shown_on = Console(file=output, width=width, color_system=None, **console)
    with TrainingProgress(3, 30, done=done, enabled=enabled, console=shown_on) as progress:
        for step in range(done, 30):
            loss = torch.tensor(1.5, requires_grad=True)  # as it comes from the loop
            progress.add(1 + step // 10, {"ce": 0.25, "kd": loss}, images=64)
            if step % 10 == 9:
                progress.finished_epoch(replace(ROW, epoch=1 + step // 10))
    return output.getvalue(), progress


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_steps_speed_accuracy_and_terms(width: int) -> None:
    output, _ = run_bar(width, force_terminal=True)
    for part in ("30/30", "images/s", "0:00:00 left", "epoch 3/3  validation 63.2 %  loss 1.75 = ce 0.25 + kd 1.5"):
        assert part in output


def test_the_bar_goes_on_from_the_steps_that_were_done() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, color_system=None, force_terminal=True)
    with TrainingProgress(3, 30, done=29, console=console) as progress:
        assert progress.state() == progress.details() == ""
        progress.add(3, {"ce": 0.25}, images=64)
    assert "29/30" in output.getvalue()
    assert "30/30" in output.getvalue()


def test_outside_a_terminal_each_epoch_is_a_line() -> None:
    output, _ = run_bar()
    lines = output.splitlines()
    told = "validation 63.2 %  loss 1.5 = ce 0.5 + kd 1"
    assert [line.partition(" images/s")[0].rpartition("  ")[0] for line in lines] == [
        f"training  epoch {epoch}/3  {told}" for epoch in (1, 2, 3)
    ]
    assert lines[-1].endswith("0:00:00 left")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_can_be_turned_off(is_terminal: bool) -> None:
    output, progress = run_bar(enabled=False, force_terminal=is_terminal)
    assert output == ""
    assert progress.details() == "epoch 3/3  validation 63.2 %  loss 1.75 = ce 0.25 + kd 1.5"


# -- curves and metrics -------------------------------------------------------------------------


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_have_every_value_by_step(tmp_path: Path) -> None:
    rows = make_rows()
    rows[1] = replace(rows[1], val_accuracy=None)
    with TrainingCurves(tmp_path / "run" / "curves") as curves:
        for row in rows:
            curves.add(row)
    columns = {
        "loss/total": "loss",
        "loss/ce": "loss/ce",
        "loss/kd": "loss/kd",
        "loss/val": "val_loss",
        "lr": "lr",
        "accuracy/train": "train_accuracy",
        "accuracy/val": "val_accuracy",
        "images_per_second": "images_per_second",
    }
    values = [row.to_json() for row in rows]
    expected = {
        tag: [(row["step"], row[name]) for row in values if row[name] is not None] for tag, name in columns.items()
    }
    assert read_curves(tmp_path / "run" / "curves") == expected


def test_curves_miss_nothing_and_have_nothing_twice_after_a_resume(tmp_path: Path) -> None:
    rows = make_rows(6)
    killed = TrainingCurves(tmp_path)
    for row in rows[:3]:
        killed.add(row)
    with TrainingCurves(tmp_path, rows[:2]) as curves:  # the store has two epochs: the third is computed again
        for row in rows[2:]:
            curves.add(row)
    killed._writer.close()
    assert [step for step, _ in read_curves(tmp_path)["loss/total"]] == [5, 10, 15, 20, 25, 30]
    with TrainingCurves(tmp_path, rows[:4]):
        pass
    assert [step for step, _ in read_curves(tmp_path)["accuracy/val"]] == [5, 10, 15, 20]


def test_an_epoch_is_on_the_disk_when_it_is_added(tmp_path: Path) -> None:
    with TrainingCurves(tmp_path) as curves:
        curves.add(make_rows()[0])
        assert [step for step, _ in read_curves(tmp_path)["lr"]] == [5]


def test_curves_without_a_folder_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TrainingCurves(None, make_rows()) as curves:
        curves.add(make_rows()[0])
    assert list(tmp_path.iterdir()) == []


def test_curves_have_the_accuracy_of_each_class_by_its_name(tmp_path: Path) -> None:
    rows = [replace(row, val_class_accuracy=(10.0, None, 30.0)) for row in make_rows(2)]
    with TrainingCurves(tmp_path / "named", rows[:1], classes=("T-shirt/top", "bag", "ankle boot")) as curves:
        curves.add(rows[1])
    with TrainingCurves(tmp_path / "numbered", rows):
        pass
    expected = {
        "named": {"class_accuracy/T-shirt/top": 10, "class_accuracy/ankle boot": 30},
        "numbered": {"class_accuracy/0": 10, "class_accuracy/2": 30},
    }
    for name, values in expected.items():
        read = read_curves(tmp_path / name).items()
        found = {tag: points for tag, points in read if tag.startswith("class_accuracy/")}
        assert found == {tag: [(5, value), (10, value)] for tag, value in values.items()}


def test_classes_of_one_name_are_numbered(tmp_path: Path) -> None:
    rows = [replace(row, val_class_accuracy=(10.0, 20.0)) for row in make_rows(1)]
    with TrainingCurves(tmp_path, rows, classes=("bag", "bag")):
        pass
    read = read_curves(tmp_path)
    assert (read["class_accuracy/0"], read["class_accuracy/1"]) == ([(5, 10)], [(5, 20)])


@pytest.mark.parametrize(("classes", "curves"), [(100, 100), (101, 0)])
def test_many_classes_have_no_curves(tmp_path: Path, classes: int, curves: int) -> None:
    with TrainingCurves(tmp_path, [replace(make_rows(1)[0], val_class_accuracy=(50.0,) * classes)]):
        pass
    assert len([tag for tag in read_curves(tmp_path) if tag.startswith("class_accuracy/")]) == curves


def test_curves_have_weights_and_losses_of_sources_and_the_share_of_confident_images(tmp_path: Path) -> None:
    row = replace(make_rows(1, **{"source a (2)": 0.25})[0], notes={"confident": 62.5})
    with TrainingCurves(tmp_path, source_weights={"a (2)": 0.75, "b": 0.25}) as curves:
        curves.add(row)
    read = read_curves(tmp_path)
    assert (read["source_weight/a (2)"], read["source_weight/b"]) == ([(0, 0.75)], [(0, 0.25)])
    assert (read["loss/source a (2)"], read["confident/unlabelled"]) == ([(5, 0.25)], [(5, 62.5)])


def test_the_csv_has_no_lists() -> None:
    plain = make_rows()
    rows = [replace(row, val_class_accuracy=(1.0, None) if row.epoch > 1 else None) for row in plain]
    assert list(metrics_csv(rows)) == list(metrics_csv(plain))


def test_the_csv_has_every_value_of_every_epoch() -> None:
    rows = make_rows()
    rows[0] = replace(rows[0], val_loss=math.nan)
    rows[3] = replace(rows[3], terms={**rows[3].terms, "cc": 0.125})  # a term of a later epoch
    read = list(csv.DictReader(io.StringIO("".join(metrics_csv(rows)))))
    columns = [name for name in rows[0].to_json() if name != "val_class_accuracy"]
    assert list(read[0]) == [*columns, "loss/cc"]
    assert (read[0]["val_loss"], read[0]["loss/cc"]) == ("", "")
    for line, row in list(zip(read, rows, strict=True))[1:]:
        assert EpochRow.from_json({name: float(value) for name, value in line.items() if value} | _whole(row)) == row


def _whole(row: EpochRow) -> dict[str, int]:
    return {"epoch": row.epoch, "step": row.step}


def test_a_row_comes_back_from_json() -> None:
    row = replace(make_rows(1)[0], notes={"confident": 62.5}, val_class_accuracy=(1.0, None))
    values = json.loads(json.dumps(row.to_json()))
    assert (values["loss/ce"], values["confident"]) == (row.terms["ce"], 62.5)
    assert EpochRow.from_json(values) == row


@pytest.mark.parametrize("sources", [None, "weighted", "by hand"])
def test_a_result_comes_back_from_json(sources: str | None) -> None:
    power = {"power": math.inf} if sources == "weighted" else {"weighting": {"mnist": 1.0}}
    values = {"unlabelled": "sources", "sources": make_sources()} if sources else {}
    result = make_result(**values)
    if result.sources is not None:
        result = replace(result, sources=replace(result.sources, **power))
    stored = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert TrainingResult.from_json(stored) == result
    assert ("sources" in stored) == (sources is not None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", ..., "seed is missing"),
        ("test.accuracy", "high", r"test\.accuracy is 'high'; it must be a number"),
        ("test.samples", 2.5, r"test\.samples is 2\.5; it must be a whole number"),
        ("test.bins.3.samples", True, r"test\.bins\.3\.samples is True; it must be a whole number"),
        ("student", [], r"student is \[\]; it must be an object"),
        ("distillers.kd", None, None),
        ("classes", "ab", r"classes is 'ab'; it must be a list"),
    ],
)
def test_a_wrong_or_missing_key_is_named(path: str, value: Any, message: str | None) -> None:
    values = make_values()
    *parents, last = path.split(".")
    place = values
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    if message is None:  # a number that JSON cannot state
        assert math.isnan(TrainingResult.from_json(values).distillers["kd"])
        return
    with pytest.raises(JsonError, match=f"^{message}"):
        TrainingResult.from_json(values)


# -- tables -------------------------------------------------------------------------------------


def test_the_table_says_what_the_result_says() -> None:
    result = make_result()
    test, agreed = result.test, result.agreement
    assert test is not None
    assert agreed is not None
    assert cells_of(format_training(result)) == {
        "student": ["cifar_resnet20, 272.5 k parameters, 40.81 M MACs, 3.21 ms"],
        "teacher": ["cifar_resnet56"],
        "data": ["digits"],
        "loss": ["0.1 cross entropy + 0.9 kd + diswot"],
        "test accuracy": [f"{test.accuracy:.2f} % of 200 images, epoch 2"],
        "balanced": [f"{test.balanced_accuracy:.2f} %, each class counts alike"],
        "macro-F1": [f"{test.macro_f1:.2f} %"],
        "of the classes": [", ".join(f"{place}: {share:.1f} %" for place, share in enumerate(test.class_accuracy))],
        "among the first five": [f"{test.top5:.2f} %"],
        "of the teacher": ["95.50 %"],
        "validation accuracy": ["last 70.00 % (epoch 4), best 80.00 % (epoch 2)"],
        "test loss": [f"{test.nll:.4f} nats"],
        "calibration error": [f"{test.calibration_error:.2f} %"],
        "agreement with the teacher": [f"{agreed.percent:.2f} % of test images"],
        "divergence from the teacher": [f"{agreed.divergence:.4f} nats"],
        "training": ["20 steps, batch 64, 61.2 s, 812 images/s, cpu, 2 threads, fp32"],
        "seed": ["7"],
    }
    assert "cifar_resnet20 under cifar_resnet56: 4 epochs" in shown(format_training(result))


def test_a_large_loss_is_short() -> None:
    result = make_result()
    assert result.test is not None
    result = replace(result, test=replace(result.test, nll=4693950793252864.0))
    assert cells_of(format_training(result))["test loss"] == ["4.694·10¹⁵ nats"]
    compared = shown(compare_trainings({"alone": make_result(), "diverged": result}))
    assert "4.694·10¹⁵ (+4.694·10¹⁵)" in compared
    assert "0000" not in compared


def test_a_student_alone_has_no_lines_of_a_teacher() -> None:
    alone = make_result(teacher=None, agreement=None, distillers={}, ce_weight=1.0)
    assert "cifar_resnet20 alone: 4 epochs" in shown(format_training(alone))
    assert not [name for name in cells_of(format_training(alone)) if "teacher" in name]
    assert cells_of(format_training(alone))["loss"] == ["cross entropy"]


def test_several_processes_are_told() -> None:
    several = make_result(timing=make_values()["timing"] | {"processes": 2, "threads": 1})
    assert "cpu, 2 processes, 1 thread, fp32" in cells_of(format_training(several))["training"][0]


def test_an_unfinished_training_is_shown_as_far_as_it_is_known() -> None:
    unfinished = make_unfinished()
    assert cells_of(format_training(unfinished)) == {
        "student": ["cifar_resnet20"],
        "data": ["digits"],
        "loss": ["0.1 cross entropy"],
        "training": ["3 steps"],
        "seed": ["7"],
    }
    assert "0 of 4 epochs, unfinished" in " ".join(shown(format_training(unfinished)).split())
    assert list(describe_training(unfinished, "runs/mine")) == [
        "interrupted or running: 0 of 4 epochs done, 3 steps; the same command continues",
        "run folder: runs/mine",  # there is no student to load yet
    ]


@pytest.mark.parametrize(("rule", "text"), [("last", "the last"), ("best", "the best on validation images")])
def test_the_explanation_tells_the_rule_the_spread_and_how_to_load(rule: str, text: str) -> None:
    lines = list(describe_training(make_result(rule=rule), "runs/mine"))
    assert lines[0] == f"the student is that of epoch 2, {text}; it was tested after it was chosen"
    assert "one of 200 test images is 0.5 points" in lines[1]
    assert lines[2] == "run folder: runs/mine"
    assert lines[-1].endswith("diswot_search.load_student('runs/mine')")


@pytest.mark.parametrize(
    ("accuracy", "samples", "points"),
    # sqrt(p (1 - p) / n) with two right and two wrong ones added
    [(50.0, 96, "5"), (100.0, 96, "1.4")],
)
def test_the_spread_of_an_accuracy_is_that_of_as_many_draws(accuracy: float, samples: int, points: str) -> None:
    test = make_values()["test"] | {"accuracy": accuracy, "samples": samples}
    assert list(describe_training(make_result(test=test)))[1].endswith(f"would move it by about {points}")


def test_the_table_says_labels_sources_and_their_weights() -> None:
    table = format_training(make_related())
    assert "cifar_resnet20 under 2 sources (weighted): 4 epochs" in shown(table)
    cells = cells_of(table)
    assert cells["labels"] == ["400 of 10,000 images are labelled, and all 200 to validate on, 20 classes"]
    assert cells["loss"] == ["0.8 cross entropy + 0.2 sources"]
    assert cells["their weights"] == ["weighted, power 10, fixed views"]
    lines = [" ".join(line.strip("│ ").split()) for line in shown(table).splitlines()]
    start = lines.index("sources │ name similarity (parc) weight last loss")
    assert lines[start + 1 : start + 4] == [
        "mnist 20.1 ± 1.5 1.000 0.7500",
        "a [b] (2) - < 0.001 2.0000",
        "usps -1.5 ± 0.25 0 -",
    ]


@pytest.mark.parametrize(
    ("changes", "title", "loss"),
    [
        ({"models": make_sources()["models"][1:2]}, "under mnist:", "0.8 cross entropy + 0.2 sources"),
        ({"models": make_sources()["models"][:2]}, "under mnist, one of 2 sources:", "0.8 cross entropy + 0.2 sources"),
        ({"weighting": {"usps": 1}}, "under 2 sources (weights by hand):", "0.8 cross entropy + 0.2 sources"),
        ({"lam": 1.0}, "cifar_resnet20 alone:", "cross entropy"),
    ],
)
def test_the_title_says_which_sources_were_learnt_from(changes: dict[str, Any], title: str, loss: str) -> None:
    sources = make_sources(**changes)
    table = format_training(make_related(sources=sources, ce_weight=sources["lam"]))
    assert title in shown(table)
    assert cells_of(table)["loss"] == [loss]


def test_sources_that_were_not_measured_have_no_measure() -> None:
    models = [{"name": "mnist", "weight": 1.0}]
    assert "parc" not in shown(format_training(make_related(sources=make_sources(models=models))))


def test_a_fallback_is_told() -> None:
    result = make_fallback()
    assert "cifar_resnet20 alone: 4 epochs" in shown(format_training(result))
    assert cells_of(format_training(result))["loss"] == ["cross entropy"]
    assert cells_of(format_training(result))["their weights"] == ["weighted, power 10, fixed views, not used"]
    assert next(describe_training(result)) == f"{REASON}; the student was trained on its labels alone"
    assert not any("alone" in line for line in describe_training(make_related()))


def test_fixmatch_says_how_many_images_it_was_confident_of() -> None:
    last = {"epoch": 4, "val_accuracy": 70.0, "confident": 62.5}
    table = format_training(make_related(sources=None, unlabelled="fixmatch", ce_weight=1.0, last=last))
    assert "cifar_resnet20 with FixMatch: 4 epochs" in shown(table)
    assert cells_of(table)["loss"] == ["cross entropy + FixMatch"]
    assert cells_of(table)["confident images"] == ["62.50 % of the unlabelled ones in the last epoch"]


def test_many_trainings_have_a_row_each() -> None:
    test = make_values()["test"]
    results = {
        "fine-tuning": make_related(sources=None, unlabelled=None, ce_weight=1.0, test=test | {"accuracy": 60.0}),
        "FixMatch": make_related(sources=None, unlabelled="fixmatch", ce_weight=1.0, test=test | {"accuracy": 62.0}),
        "weighted": make_related(test=test | {"accuracy": 64.5}),
        "unfinished": make_unfinished(epochs=4, ce_weight=1.0),
    }
    table = compare_trainings(results)
    loss = f"{test['nll']:.4f}"
    assert cells_of(table) == {
        "fine-tuning": ["-", "400 of 10,000", "cross entropy", "60.00 %", loss],
        "FixMatch": ["-", "400 of 10,000", "cross entropy + FixMatch", "62.00 % (+2.00)", loss],
        "weighted": [
            "2 sources (weighted)",
            "400 of 10,000",
            "0.8 cross entropy + 0.2 sources",
            "64.50 % (+4.50)",
            loss,
        ],
        "unfinished": ["-", "-", "cross entropy", "-", "-"],
    }
    assert "all: student cifar_resnet20, epochs 4" in shown(table)
    assert "difference from fine-tuning" in shown(table)
    assert max(map(len, shown(table, 80).splitlines())) == 80  # nothing is cut off


def test_a_column_for_each_of_few_trainings_says_labels_and_sources() -> None:
    cells = cells_of(compare_trainings({"alone": make_result(teacher=None), "sources": make_related()}))
    assert cells["teacher"] == ["-", "2 sources (weighted)"]
    assert cells["labels"] == ["-", "400 of 10,000"]


def test_trainings_stand_side_by_side_with_their_differences() -> None:
    test = make_values()["test"]
    alone = make_result(
        teacher=None, agreement=None, distillers={}, ce_weight=1.0, test=test | {"accuracy": 80.0, "nll": 0.7}
    )
    distilled = make_result(test=test | {"accuracy": 82.5, "nll": 0.5})
    table = compare_trainings({"student alone": alone, "distilled": distilled})
    assert "student alone" in shown(table)
    cells = cells_of(table)
    assert cells["teacher"] == ["-", "cifar_resnet56"]
    assert cells["loss"] == ["cross entropy", "0.1 cross entropy + 0.9 kd + diswot"]
    assert cells["test accuracy"] == ["80.00 %", "82.50 % (+2.50)"]
    assert cells["test loss"] == ["0.7000", "0.5000 (-0.2000)"]
    assert cells["agreement with the teacher"] == ["-", f"{distilled.agreement.percent:.2f} %"]
    assert "difference from student alone, of percentages in points" in shown(table)


def test_what_no_training_has_is_not_compared() -> None:
    table = compare_trainings({"a": make_unfinished(), "b": make_unfinished()})
    assert list(cells_of(table)) == ["student", "loss", "epochs"]
    with pytest.raises(ValueError, match="no trainings"):
        compare_trainings({})


class Nothing(Distiller):
    """Asks for nothing, [really]."""

    reads = ("pooled", "stages")
    weight = 2.5
    ce_weight = 0.5

    def forward(self, student: Features, teacher: Features, batch: Any) -> torch.Tensor:
        return 0 * student.logits.sum()


def test_distillers_are_listed_with_what_they_read_and_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base._DISTILLERS, "_entries", dict(base._DISTILLERS._entries))
    register_distiller("report_nothing", Nothing)
    assert cells_of(format_distillers("report_*")) == {
        "report_nothing": ["pooled, stages", "2.5", "0.5", "Asks for nothing, [really]."]
    }
    with pytest.raises(UnknownNameError, match="report_nothing"):
        format_distillers("report_nothin")


# -- pictures -----------------------------------------------------------------------------------


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def test_the_picture_of_the_loss_has_the_total_and_every_term() -> None:
    rows = make_rows()
    axes = only_axes(plot_losses(rows, make_result()))
    names = {"total": "loss", "ce": "loss/ce", "kd": "loss/kd", "validation, cross entropy": "val_loss"}
    epochs = [1, 2, 3, 4]
    assert lines_of(axes) == {label: (epochs, [row.to_json()[name] for row in rows]) for label, name in names.items()}


def test_a_loss_of_one_term_is_drawn_once() -> None:
    assert list(lines_of(only_axes(plot_losses(make_rows(ce=1.0), make_result())))) == [
        "ce",
        "validation, cross entropy",
    ]


def test_sources_that_add_next_to_nothing_are_not_drawn() -> None:
    rows = make_rows(**{"ce": 1.0, "source a": 0.25, "source b": 1e-7, "kd": 1e-7})
    assert list(lines_of(only_axes(plot_losses(rows, make_related())))) == [
        "total",
        "ce",
        "source a",
        "kd",  # which somebody asked for
        "validation, cross entropy",
    ]


def test_the_lines_of_many_sources_and_their_long_names_are_told_apart() -> None:
    names = [f"source {place} of a bank with a very long name indeed" for place in range(12)]
    figure = plot_losses(make_rows(**dict.fromkeys(names, 0.25)), make_related())
    lines = [line for line in only_axes(figure).lines if line.get_label().startswith("source")]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    figure.canvas.draw()
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert box.height < 0.5 * page.height


@pytest.mark.parametrize(
    ("terms", "scale"),
    [({"ce": 0.5, "kd": 0.01}, "log"), ({"ce": 0.25}, "linear"), ({"ce": 0.5, "vid": -1.0}, "linear")],
)
def test_the_axis_of_the_loss_is_logarithmic_where_that_shows_more(terms: dict[str, float], scale: str) -> None:
    assert only_axes(plot_losses(make_rows(**terms), make_result())).get_yscale() == scale


def test_the_picture_of_accuracy_has_training_validation_best_test_and_teacher() -> None:
    rows, result = make_rows(), make_result()
    rows[2] = replace(rows[2], val_accuracy=None)
    accuracy = result.test.accuracy
    lines = lines_of(only_axes(plot_accuracy(rows, result)))
    assert lines.pop("training, augmented") == ([1, 2, 3, 4], [20, 40, 60, 80])
    epochs, validation = lines.pop("validation")
    assert (epochs, validation[:2], validation[3]) == ([1, 2, 3, 4], [70, 80], 70)
    assert math.isnan(validation[2])
    assert lines == {
        "best, epoch 2: 80.00 %": ([2], [80]),
        f"test, epoch 2: {accuracy:.2f} %": ([0, 1], [accuracy, accuracy]),
        "test, teacher: 95.50 %": ([0, 1], [95.5, 95.5]),
    }


def test_the_best_epoch_lies_on_the_line_that_chose_it() -> None:
    rows = [replace(row, val_balanced_accuracy=50.0 + row.epoch) for row in make_rows()]
    best = {"epoch": 4, "val_accuracy": 70.0, "val_balanced_accuracy": 54.0}
    lines = lines_of(only_axes(plot_accuracy(rows, make_result(best=best, best_by="balanced_accuracy"))))
    assert lines["validation, balanced"] == ([1, 2, 3, 4], [51, 52, 53, 54])
    assert lines["best (balanced), epoch 4: 54.00 %"] == ([4], [54])
    lines = lines_of(only_axes(plot_accuracy(rows, make_result(best=best, best_by="loss"))))
    assert lines["best (loss), epoch 4: 70.00 %"] == ([4], [70])
    balanced = [replace(row, val_balanced_accuracy=row.val_accuracy) for row in rows]
    assert "validation, balanced" not in lines_of(only_axes(plot_accuracy(balanced, make_result())))


def bars_of(axes: Axes) -> list[tuple[float, float]]:
    """Middle and height of each bar."""
    (bars,) = [part for part in axes.containers if isinstance(part, BarContainer)]
    return [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars]


def test_the_picture_of_reliability_has_accuracy_confidence_and_samples_of_each_bin() -> None:
    result = make_result()
    filled = [(100 * (i + 0.5) / 15, part) for i, part in enumerate(result.test.bins) if part.samples]
    figure = plot_reliability([], result)
    upper, lower = figure.axes
    assert len(filled) > 5
    assert bars_of(upper) == [pytest.approx((middle, part.accuracy)) for middle, part in filled]
    assert bars_of(lower) == [pytest.approx((middle, part.samples)) for middle, part in filled]
    (marks,) = upper.collections
    assert [y for (_, y), _ in marks.get_segments()] == [part.confidence for _, part in filled]
    assert f"calibration error {result.test.calibration_error:.2f} %" in figure.get_suptitle()


def make_classes(accuracies: list[float | None], names: Sequence[str] = ()) -> TrainingResult:
    return make_result(test=make_values()["test"] | {"class_accuracy": accuracies}, classes=names)


def bars_by_name(axes: Axes) -> list[tuple[str, float]]:
    """Name and length of each bar from the top down."""
    (bars,) = [part for part in axes.containers if isinstance(part, BarContainer)]
    return list(zip([label.get_text() for label in axes.get_yticklabels()], [b.get_width() for b in bars], strict=True))


def test_the_picture_of_classes_has_a_bar_for_each_the_best_first() -> None:
    names = ["$a$", "one with a name that is far too long", "c", "d"]
    axes = only_axes(plot_classes([], make_classes([50.0, None, 87.5, 0.0], names)))
    assert bars_by_name(axes) == [("c", 87.5), ("$a$", 50), ("d", 0), ("one with a n...ar too long", 0)]
    assert [text.get_text() for text in axes.texts] == ["87.5", "50.0", "0.0", "-"]
    assert axes.yaxis_inverted()
    assert bars_by_name(only_axes(plot_classes([], make_classes([1.0, 2.0])))) == [("1", 2), ("0", 1)]


@pytest.mark.parametrize(("classes", "columns"), [(2, 1), (34, 1), (35, 2), (100, 3)])
def test_names_of_many_classes_do_not_overlap(classes: int, columns: int) -> None:
    names = [f"a rather long name of class {place}" for place in range(classes)]
    figure = plot_classes([], make_classes([float(place) for place in range(classes)], names))
    figure.canvas.draw()
    assert len(figure.axes) == columns
    lengths = [length for axes in figure.axes for _, length in bars_by_name(axes)]
    assert lengths == list(reversed(range(classes)))
    boxes = [label.get_window_extent() for axes in figure.axes for label in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_picture_of_weights_has_a_named_point_for_each_source() -> None:
    figure = plot_weights([], make_related())
    axes = only_axes(figure)
    found = {text.get_text(): text.xy for text in axes.texts}
    assert set(found) == {"usps", "mnist", "a [b] (2)"}
    assert (found["usps"], found["mnist"]) == ((-1.5, 0), (20.125, 0.9996))
    unknown, weight = found["a [b] (2)"]
    assert weight == 0.0004
    assert unknown < -1.5 - 0.25  # beside all that are measured
    places = {label.get_text().strip(): label.get_position()[0] for label in axes.get_xticklabels()}
    assert places["unknown"] == unknown
    assert places["10"] == 10
    assert [tuple(point) for point in axes.collections[-1].get_offsets()] == list(found.values())
    assert axes.get_xlabel() == "similarity to the data (parc)"
    assert "3 sources: weighted, power 10, fixed views" in figure.get_suptitle()


def test_sources_that_were_not_measured_are_drawn_by_weight_alone() -> None:
    models = [{"name": name, "weight": 0.5} for name in "ab"]
    axes = only_axes(plot_weights([], make_related(sources=make_sources(weighting={"a": 1, "b": 1}, models=models))))
    assert [text.xy for text in axes.texts] == [(0, 0.5), (0, 0.5)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["not measured"]
    assert axes.get_xlabel() == "similarity to the data"


def test_the_picture_of_weights_says_that_none_counts() -> None:
    title = plot_weights([], make_fallback()).get_suptitle()
    assert " ".join(title.split()).endswith(f"{REASON}; trained on labels alone")
    none = [model | {"weight": 0.0} for model in make_sources()["models"]]
    title = plot_weights([], make_related(sources=make_sources(models=none))).get_suptitle()
    assert title.endswith("no source has a weight; trained on labels alone")


def crosses(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two line segments, each (2, 2), cross in their interiors, by the sides that their ends lie on."""

    def side(line: np.ndarray, point: np.ndarray) -> float:
        (ax, ay), (bx, by) = line
        return float((bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax))

    sides = [(side(a, b[0]), side(a, b[1])) for a, b in ((one, other), (other, one))]
    return all(min(pair) < -1e-9 and max(pair) > 1e-9 for pair in sides)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 25), power=st.sampled_from([0, 1, 10]))
def test_names_of_sources_neither_overlap_nor_cross_their_lines(seed: int, count: int, power: int) -> None:
    similarities = np.random.default_rng(seed).uniform(1, 30, count)
    weights = similarities**power / np.sum(similarities**power)
    models = [
        {"name": f"a source with quite a long name {place}", "similarity": similarity, "weight": weight}
        for place, (similarity, weight) in enumerate(zip(similarities, weights, strict=True))
    ]
    figure = plot_weights([], make_related(sources=make_sources(models=models)))
    figure.canvas.draw()
    axes = only_axes(figure)
    lines = [
        np.array([axes.transData.transform(text.xy), axes.transAxes.transform(text.get_position())])
        for text in axes.texts
    ]
    assert not any(crosses(one, other) for one, other in itertools.combinations(lines, 2))
    heights = sorted(end[1] for _, end in lines)
    assert len(heights) == count
    assert axes.bbox.y0 < heights[0] <= heights[-1] <= axes.bbox.y1
    assert all(upper - lower > 8 * figure.dpi / 72 for lower, upper in itertools.pairwise(heights))  # the font's size


def test_pictures_are_drawn_of_what_is_there() -> None:
    pictures = plot_training(make_rows(), make_result())
    assert list(pictures) == ["loss.png", "accuracy.png", "reliability.png", "classes.png"]
    for content in pictures.values():
        assert imread(io.BytesIO(content)).std() > 0.05  # more than an empty page
    assert list(plot_training([], make_related()))[-1] == "weights.png"
    assert "classes.png" not in plot_training([], make_classes([50.0] * 101))
    assert list(plot_training(make_rows(1), make_unfinished())) == ["loss.png", "accuracy.png"]
    assert plot_training([], make_unfinished()) == {}


def test_a_teacher_with_random_weights_is_named_as_such() -> None:
    teacher = {"name": "resnet56", "trained": False, "accuracy": 1.0}
    assert "random weights" in next(describe_training(make_result(teacher=teacher)))
    assert not any(
        "random weights" in line for line in describe_training(make_result(teacher=teacher | {"trained": True}))
    )
