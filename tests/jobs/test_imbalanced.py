"""Training on classes of very different size: what is printed and stored, weights of classes, and the best epoch."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, f1_score

import diswot_search as ds
from diswot_search.cli import main
from diswot_search.data.splits import Splits
from diswot_search.networks.saved import read_card
from diswot_search.reports.training import compare_trainings, format_training
from diswot_search.training.result import Training, read_result

CLASSES = ("benign", "malignant")


def make_splits() -> Splits:
    """360 images of one class and 7 of the other to train on: a slightly darker grey, under noise."""
    generator = np.random.default_rng(0)

    def draw(benign: int, malignant: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0, 1], [benign, malignant])
        grey = np.where(labels == 0, 140, 105)[:, None, None, None]
        noise = generator.normal(0, 20, (len(labels), 1, 1, 1)) + generator.normal(0, 30, (len(labels), 8, 8, 3))
        return np.clip(grey + noise, 0, 255).astype(np.uint8), labels

    return replace(Splits.from_arrays(draw(360, 7), draw(90, 3), draw(40, 40)), classes=CLASSES)


SPLITS = make_splits()


def learn(out: Path | None = None, **changes: Any) -> Training:
    options: dict[str, Any] = {
        "model": "cifar_resnet",
        "model_options": {"arch": "1x8-1x8-1x16"},
        "epochs": 4,
        "batch_size": 32,
        "lr": 0.02,
        "device": "cpu",
        "progress": False,
    }
    return ds.train(dataset=SPLITS, out=out, **options | changes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return learn(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Training:
    out = tmp_path_factory.mktemp("weighted") / "run"
    return learn(out, class_weights="balanced", best_by="balanced_accuracy", epochs=8)


def predictions(training: Training) -> torch.Tensor:
    """The classes that the student predicts of the test images."""
    card = read_card(training.path)
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    order = torch.arange(len(SPLITS.test))
    batches = SPLITS.test.batches(order, len(order), device=torch.device("cpu"), augment=None, seed=0)
    with torch.no_grad():
        return training.student((next(iter(batches)).images - mean) / std).argmax(1)


def text_of(table: object) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_network_that_knows_one_class_is_seen_through(plain: Training) -> None:
    test = plain.result.test
    assert test.class_accuracy == (100, 0)
    assert (test.accuracy, test.balanced_accuracy) == (50, 50)
    assert test.macro_f1 == pytest.approx(100 / 3)
    assert plain.result.best.val_accuracy == pytest.approx(100 * 90 / 93)  # which looks good
    assert plain.result.best.val_balanced_accuracy == 50
    shown = text_of(format_training(plain.result))
    for part in ("benign: 100.0 %, malignant: 0.0 %", "50.00 %, each class counts alike", "33.33 %", "96.77 %"):
        assert part in shown


def test_balanced_weights_and_the_choice_by_balanced_accuracy_help(plain: Training, weighted: Training) -> None:
    test, labels = weighted.result.test, SPLITS.test.labels
    assert test.balanced_accuracy > plain.result.test.balanced_accuracy + 10
    predicted = predictions(weighted)
    assert test.balanced_accuracy == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert test.macro_f1 == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    assert weighted.result.class_weights == pytest.approx((367 / 720, 367 / 14))
    shown = text_of(format_training(weighted.result))
    assert "benign: 0.51, malignant: 26.2" in shown
    assert "best by balanced accuracy" in shown
    compared = text_of(compare_trainings({"plain": plain.result, "weighted": weighted.result}))
    assert "balanced test accuracy" in compared
    assert "test macro-F1" in compared


def test_all_is_stored(weighted: Training) -> None:
    result = json.loads((weighted.path / "result.json").read_text())
    assert result["best_by"] == "balanced_accuracy"
    assert result["test"]["balanced_accuracy"] == weighted.result.test.balanced_accuracy
    assert result["test"]["macro_f1"] == weighted.result.test.macro_f1
    assert read_result(weighted.path) == weighted.result
    rows = list(csv.DictReader((weighted.path / "metrics.csv").read_text().splitlines()))
    for line, row in zip(rows, weighted.rows, strict=True):
        assert float(line["val_balanced_accuracy"]) == row.val_balanced_accuracy
        assert float(line["val_macro_f1"]) == row.val_macro_f1
        assert [float(line[f"val_accuracy/{name}"]) for name in CLASSES] == list(row.val_class_accuracy)


@pytest.mark.parametrize(
    ("best_by", "column", "best"),
    [
        ("accuracy", "val_accuracy", max),
        ("balanced_accuracy", "val_balanced_accuracy", max),
        ("macro_f1", "val_macro_f1", max),
        ("loss", "val_loss", min),
    ],
)
def test_the_best_epoch_is_best_by_the_measure(best_by: str, column: str, best: Any) -> None:
    training = learn(class_weights={"malignant": 20}, best_by=best_by)
    values = [getattr(row, column) for row in training.rows]
    assert training.result.best.epoch == 1 + values.index(best(values))
    assert training.result.best == training.rows[training.result.best.epoch - 1].accuracy()
    assert training.result.test.epoch == training.result.best.epoch


def test_weights_of_one_change_nothing(plain: Training) -> None:
    equal = learn(class_weights=[1, 1])
    assert [row.val_class_accuracy for row in equal.rows] == [row.val_class_accuracy for row in plain.rows]
    for mine, other in zip(equal.rows, plain.rows, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-4)


def test_weights_work_with_smoothing_mixing_and_a_teacher() -> None:
    recipe = {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "accumulate": 2, "ema": 0.5}
    training = ds.distill(
        "cifar_resnet",
        "cifar_resnet",
        SPLITS,
        student_options={"arch": "1x8-1x8-1x16"},
        teacher_options={"arch": "1x8-1x16-1x16"},
        class_weights="balanced",
        recipe_options=recipe,
        epochs=1,
        batch_size=32,
        device="cpu",
        progress=False,
    )
    assert training.result.class_weights is not None
    assert np.isfinite(training.rows[0].loss)


def test_only_labelled_images_count() -> None:
    labels = [*range(30), *range(360, 366)]
    splits = replace(SPLITS, labelled=torch.tensor(labels))
    training = ds.train(
        "cifar_resnet",
        splits,
        model_options={"arch": "1x8-1x8-1x16"},
        class_weights="balanced",
        epochs=1,
        batch_size=32,
        device="cpu",
        progress=False,
    )
    assert training.result.class_weights == pytest.approx((36 / 60, 36 / 12))


def test_another_measure_or_other_weights_are_another_training(weighted: Training) -> None:
    with pytest.raises(ds.RunFolderError, match="class_weights"):
        learn(weighted.path, best_by="balanced_accuracy")
    with pytest.raises(ds.RunFolderError, match="best_by"):
        learn(weighted.path, class_weights="balanced")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--best_by", "balanced"], "balanced_accuracy"),
        (["--class_weights", "balance"], "class_weights is 'balance'"),
        (["--class_weights", "{11: 2}"], "class in class_weights: '11'"),
        (["--class_weights", "[1, 2]"], "has 2 weights, but the data has 10 classes"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = main(
        ["train", "--model", "cifar_resnet20", "--dataset", "digits", "--out", str(out), "--device", "cpu", *options]
    )
    assert code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
