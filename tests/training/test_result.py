"""The result of a training in its run folder: read as it was stored, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diswot_search.runtime.files import RunFolderError
from diswot_search.training.folder import TrainingFolder
from diswot_search.training.result import EpochRow, StudentFacts, TrainingResult, read_result, read_rows

CONFIG: dict[str, Any] = {
    "student": {"name": "small"},
    "teacher": None,
    "data": {"name": "digits"},
    "distillers": {},
    "ce_weight": 1.0,
    "recipe": {"epochs": 3},
    "rule": "best",
    "seed": 7,
}
RESULT = TrainingResult(
    status="complete", epochs=3, steps=6, rule="best", student=StudentFacts("small"), data="digits", seed=7
)


def make_row(epoch: int, accuracy: float | None) -> EpochRow:
    return EpochRow(
        epoch=epoch,
        step=2 * epoch,
        lr=0.1,
        loss=1.0,
        terms={"ce": 1.0},
        notes={"confident": 50.0},
        train_accuracy=40.0,
        val_accuracy=accuracy,
        images_per_second=10.0,
        seconds=1.0,
    )


def test_a_running_training_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    folder = TrainingFolder(CONFIG, tmp_path)
    rows = (make_row(1, 60.0), make_row(2, 50.0))
    for row in rows:
        folder.add_row(row.to_json())
    assert read_rows(folder) == rows
    folder.release()
    result = read_result(tmp_path)
    assert (result.status, result.epochs, result.planned_epochs, result.steps) == ("running", 2, 3, 4)
    assert result.last is not None
    assert (result.last.epoch, result.last.val_accuracy, result.last.notes) == (2, 50.0, {"confident": 50.0})
    assert result.best is not None
    assert (result.best.epoch, result.best.val_accuracy) == (1, 60.0)
    assert (result.student, result.test, result.seed) == (StudentFacts("small"), None, 7)


def test_a_finished_training_is_read_as_it_was_stored(tmp_path: Path) -> None:
    folder = TrainingFolder(CONFIG, tmp_path)
    folder.finish(RESULT.to_json(), [])
    folder.release()
    assert read_result(tmp_path) == RESULT


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": "seven"}, "seed is 'seven'"), ({"student": {}}, r"student\.name is missing")],
)
def test_a_result_that_does_not_fit_is_damaged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = TrainingFolder(CONFIG, tmp_path)
    folder.finish({**RESULT.to_json(), **changes}, [])
    folder.release()
    with pytest.raises(RunFolderError, match=rf"training\.sqlite is damaged: {message}"):
        read_result(tmp_path)
