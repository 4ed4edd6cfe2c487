"""The run folder of a training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.run_folder import RunFolder, RunFolderError, as_json, differences, no_store
from .checkpoint import Checkpoint, read_checkpoint


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

    STORE = "training.sqlite"
    VERSION = 1
    SCHEMA = (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, row TEXT NOT NULL)",
    )

    def __init__(self, config: Mapping[str, Any], out: str | os.PathLike[str] | None = None) -> None:
        self.config: dict[str, Any] = as_json(dict(config))
        self.path = None if out is None else Path(out)
        self._kept: dict[str, bytes] = {}
        if self.path is None:
            self._connect(":memory:")
            self._begin()
        else:
            self._open_folder(self.path)

    @classmethod
    def peek(cls, path: Path) -> TrainingFolder:
        """A folder to read, finished or not."""
        folder = cls.__new__(cls)
        folder.path, folder._kept = path, {}
        folder._connect(str(path / cls.STORE))
        folder._read("PRAGMA query_only = ON")
        if not folder._read("SELECT count(*) FROM sqlite_master")[0][0]:
            raise RunFolderError(f"The training in {path} was stopped before it began; run it again.")
        folder.config = folder._stored_config()
        return folder

    def _stored_config(self) -> dict[str, Any]:
        return json.loads(self._read("SELECT value FROM meta WHERE key = 'config'")[0][0])

    def _begin(self) -> None:
        if self._is_empty():
            self._create()
        else:
            if lines := differences(self._stored_config(), self.config):
                raise RunFolderError(
                    f"{self.path} holds a training of another configuration: {'; '.join(lines)}. "
                    "Choose another run folder."
                )
        if self.path is not None:
            self.write_json("config.json", self.config)

    def _fill(self) -> None:
        self._store.execute("INSERT INTO meta VALUES ('config', ?)", (json.dumps(self.config),))

    def remember(self, key: str, value: Any) -> None:
        """Store a JSON value that is to stay the same when the training continues, unless there is one already."""
        with self.errors(), self._store:
            self._store.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    @classmethod
    def recall(cls, path: Path, key: str) -> Any:
        """What `remember` stored in a folder; None where it stored nothing, or there is no store that can be read."""
        if not cls.exists(path):
            return None
        try:
            found = cls.peek(path)._read("SELECT value FROM meta WHERE key = ?", key)
        except RunFolderError:  # of which those who open it to write will say what to do
            return None
        return json.loads(found[0][0]) if found else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is known of each epoch, in order."""
        return [json.loads(row) for (row,) in self._read("SELECT row FROM epochs ORDER BY epoch")]

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Store what is known of an epoch in place of what an interrupted run knew of it."""
        with self.errors(), self._store:
            self._store.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?)", (row["epoch"], json.dumps(row)))

    def forget_epochs_after(self, epoch: int) -> None:
        """Drop the rows of epochs that will be trained again."""
        with self.errors(), self._store:
            self._store.execute("DELETE FROM epochs WHERE epoch > ?", (epoch,))

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Replace a checkpoint, whole or not at all.

        Raises:
            RunFolderError: It cannot be written; the one that was there is untouched.
        """
        content = checkpoint.to_bytes()
        if self.path is None:
            self._kept[name] = content
        else:
            self.write(name, content)

    def load(self, name: str) -> Checkpoint | None:
        """A checkpoint; None where there is none.

        Raises:
            RunFolderError: The file is no checkpoint.
        """
        if self.path is None:
            return Checkpoint.from_bytes(self._kept[name]) if name in self._kept else None
        return read_checkpoint(self.path / name)


def read_training(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known of the training in a run folder: its result, or how far it is. Nothing is changed.

    Args:
        path: The run folder, also while a training writes it.

    Raises:
        RunFolderError: The folder has no training, or it is damaged.
    """
    path = Path(path)
    if not TrainingFolder.exists(path):
        raise RunFolderError(no_store(path, TrainingFolder.STORE))
    if (path / "result.json").is_file():
        return json.loads((path / "result.json").read_text())
    stored = TrainingFolder.peek(path)
    config, rows = stored.config, stored.rows
    known = [row for row in rows if row["val_accuracy"] is not None]
    best = max(known, key=lambda row: row["val_accuracy"], default=None)
    return {
        "status": "running",
        "epochs": len(rows),
        "planned_epochs": config["recipe"]["epochs"],
        "steps": rows[-1]["step"] if rows else 0,
        "last": known[-1] if known else None,
        "best": best,
        "student": {"name": config["student"]["name"]},
        "teacher": config["teacher"] and {"name": config["teacher"]["name"]},
        "data": config["data"]["name"],
        "distillers": {name: term["weight"] for name, term in config["distillers"].items()},
        "ce_weight": config["ce_weight"],
        "rule": config["rule"],
        "seed": config["seed"],
    }
