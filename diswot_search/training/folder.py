"""The run folder of a training."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..runtime.files import RunFolderError, finite_only, read_json
from ..runtime.run_folder import COMPLETE, RUNNING, RunFolder
from ..runtime.store import Layout, Table
from .best_epoch import Progress
from .checkpoint import Checkpoint, read_checkpoint
from .exam import EXAM

RESULT = "result.json"

_EPOCHS = Table("epochs", {"epoch": "INTEGER PRIMARY KEY", "row": "TEXT NOT NULL"}, rowid=True, counted=True)


class TrainingFolder(RunFolder):
    """A training that goes on or is done, in a folder or, without one, in memory.

    Args:
        config: All that the result depends on, as JSON values.
        out: The folder; None keeps everything in memory.

    Attributes:
        config: The configuration.
        path: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or holds a training of another configuration.
    """

    LAYOUT = Layout("training", "training.sqlite", version=2, tables=(_EPOCHS,))

    def __init__(self, config: Mapping[str, object], out: str | os.PathLike[str] | None = None) -> None:
        self._checkpoints: dict[str, bytes] = {}
        super().__init__(config, out)

    @classmethod
    def recall_from(cls, path: Path, key: str) -> object:
        """A value that `remember` stored in a folder; None if there is no such value or no readable store."""
        try:
            return cls.peek(path).recall(key) if cls.exists(path) else None
        except RunFolderError:  # who opens the folder to write is told what to do
            return None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Losses, accuracies and times of each epoch, in order."""
        return [json.loads(row) for (row,) in self._read("SELECT row FROM epochs ORDER BY epoch")]

    def add_row(self, row: Mapping[str, object]) -> None:
        """Store the row of an epoch; it replaces the row that an interrupted run stored."""
        with self.errors(), self._store:
            self._delete(_EPOCHS, "epoch = ?", [(row["epoch"],)])
            self._insert(_EPOCHS, [(row["epoch"], json.dumps(row))])

    def forget_epochs_after(self, epoch: int) -> None:
        """Drop the rows of epochs that will be trained again."""
        with self.errors(), self._store:
            self._delete(_EPOCHS, "epoch > ?", [(epoch,)])

    @property
    def result(self) -> dict[str, object] | None:
        """The result of a finished training; None before its end."""
        return self.recall("result") if self.status == COMPLETE else None

    def finish(self, result: Mapping[str, object], files: Collection[str]) -> None:
        """Write `result.json` and store the result; the training is complete from then on.

        Args:
            result: The result, as JSON values.
            files: Names of the other files that are written and can be written again.
        """
        self.write_json(RESULT, result)
        self.end(COMPLETE, [*files, RESULT], result=result)

    def replace_result(self, result: Mapping[str, object]) -> None:
        """Put another result in the place of that of a finished training.

        Args:
            result: The result, as JSON values.
        """
        self.write_json(RESULT, result)
        self.end(COMPLETE, self.recall("files"), result=result)

    def mend_result_file(self) -> None:
        """Write a `result.json` that does not hold the stored result again; a warning names it.

        Raises:
            RunFolderError: The file cannot be written.
        """
        if self.path is None or not (self.path / RESULT).exists():
            return
        with contextlib.suppress(RunFolderError):  # which writing the file tells in a warning
            if read_json(self.path / RESULT, repair="") == finite_only(self.result):
                return
            warnings.warn(
                f"{self.path / RESULT} is damaged (it differs from the stored result). It is made again from the "
                "store.",
                stacklevel=2,
            )
        self.write_json(RESULT, self.result)

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Replace a checkpoint, whole or not at all.

        Raises:
            RunFolderError: It cannot be written; the one that was there is untouched.
        """
        content = checkpoint.to_bytes()
        if self.path is None:
            self._checkpoints[name] = content
        else:
            self.write(name, content)

    def load(self, name: str) -> Checkpoint | None:
        """A checkpoint; None if it was never stored.

        Raises:
            RunFolderError: The file is no checkpoint.
        """
        if self.path is None:
            return Checkpoint.from_bytes(self._checkpoints[name]) if name in self._checkpoints else None
        return read_checkpoint(self.path / name)


def read_training(path: str | os.PathLike[str]) -> dict[str, object]:
    """The result of the training in a run folder, or its state before the end. Nothing is changed.

    Args:
        path: The run folder, also while a training writes it.

    Raises:
        RunFolderError: The folder has no training, or it is damaged.
    """
    folder = TrainingFolder.peek(path)
    if (result := folder.result) is not None:
        return result
    config, rows = folder.config, folder.rows
    validated = [row for row in rows if row["val_accuracy"] is not None]
    best_by = config.get("best_by", "accuracy")
    progress = Progress()
    for row in rows:
        progress.note(row, best_by)
    best = next((row for row in rows if row["epoch"] == progress.best_epoch), None)
    return {
        "status": RUNNING,
        "epochs": len(rows),
        "planned_epochs": config["recipe"]["epochs"],
        "steps": rows[-1]["step"] if rows else 0,
        "last": validated[-1] if validated else None,
        "best": best,
        "best_by": best_by,
        "class_weights": config.get("class_weights"),
        "student": {"name": config["student"]["name"]},
        "teacher": config["teacher"] and _teacher_so_far(config["teacher"], folder.recall(EXAM)),
        "data": config["data"]["name"],
        "distillers": {name: term["weight"] for name, term in config["distillers"].items()},
        "ce_weight": config["ce_weight"],
        "rule": config["rule"],
        "seed": config["seed"],
    }


def _teacher_so_far(config: Mapping[str, Any], exam: Mapping[str, Any] | None) -> dict[str, object]:
    """The facts about a teacher in a training that is not done."""
    accuracy = exam and exam["accuracy"]
    return {"name": config["name"], "trained": config["trained"], "accuracy": accuracy}
