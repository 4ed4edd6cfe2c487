"""The store of all scores of a comparison's run folder, keyed by everything that a score depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.run_folder import RunFolder
from ..study.records import NewScore

_SCHEMA = (
    "CREATE TABLE contexts (sha256 TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE series (
        id INTEGER PRIMARY KEY, proxy TEXT NOT NULL, context TEXT NOT NULL REFERENCES contexts, passes TEXT,
        UNIQUE (proxy, context)
    )""",
    "CREATE TABLE architectures (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
    "CREATE TABLE conditions (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
    """CREATE TABLE scores (
        series INTEGER NOT NULL REFERENCES series, seed INTEGER NOT NULL,
        architecture INTEGER NOT NULL REFERENCES architectures,
        score REAL, reason TEXT, seconds REAL NOT NULL, conditions INTEGER NOT NULL REFERENCES conditions,
        PRIMARY KEY (series, seed, architecture)
    ) WITHOUT ROWID""",
)


_CREATE_SELECTIONS = """CREATE TEMPORARY TABLE selections (
    selection INTEGER NOT NULL, position INTEGER NOT NULL, architecture INTEGER NOT NULL,
    PRIMARY KEY (selection, position)
) WITHOUT ROWID"""


@dataclass(frozen=True)
class StoredScore:
    """A score as it is stored.

    Attributes:
        score: The score; None where it failed.
        reason: Reason for the failure; None for a score.
        seconds: Seconds for building, passes and the proxy's own work, as in `NewScore`.
        conditions: Conditions of the time measurement: device, batch, precision, threads.
    """

    score: float | None
    reason: str | None
    seconds: float
    conditions: str


class ScoreStore(RunFolder):
    """Scores in series: one proxy in one context, over architectures and weight seeds.

    The context holds everything else that a score depends on, so that a stored score always equals the score that would
    be computed again.

    Args:
        out: The run folder; None keeps the scores in memory.

    Raises:
        RunFolderError: Another process works on the folder, it holds something else, its store is damaged, or its disk
            is full.

    Example:
        >>> store = ScoreStore()
        >>> series = store.series("synflow", {"probe": "random"})
        >>> store.add(0, {"1-1-1": {series: NewScore(2.5, None, 0.01, ("model",))}}, "cpu")
        >>> selection = store.select(["1-1-1", "1-1-2"])
        >>> selection.scores(series, seed=0)["1-1-1"].score
        2.5
        >>> selection.missing(series, seed=0)
        ['1-1-2']
    """

    STORE = "scores.sqlite"
    VERSION = 2
    SCHEMA = _SCHEMA

    def __init__(self, out: str | os.PathLike[str] | None = None) -> None:
        self.path = None if out is None else Path(out)
        if self.path is None:
            self._connect(":memory:")
            self._begin()
        else:
            self._open_folder(self.path)

    def _begin(self) -> None:
        if self._is_empty():
            self._create()
        with self.errors():
            self._store.execute(_CREATE_SELECTIONS)
        self._selections = 0

    def series(self, proxy: str, context: Mapping[str, Any]) -> int:
        """The number of a series; a new series becomes permanent with its first score.

        Args:
            proxy: Identity of the proxy.
            context: Everything that its scores depend on besides architecture and seed, as JSON values.

        Raises:
            RunFolderError: The store cannot be read or written.
        """
        content = json.dumps(context, sort_keys=True)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        with self.errors():
            self._store.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?)", (sha256, content))
            self._store.execute("INSERT OR IGNORE INTO series (proxy, context) VALUES (?, ?)", (proxy, sha256))
        return int(self._read("SELECT id FROM series WHERE proxy = ? AND context = ?", proxy, sha256)[0][0])

    def add(self, seed: int, scores: Mapping[str, Mapping[int, NewScore]], conditions: str) -> None:
        """Store scores in one transaction. A new score replaces a failure, but never another score.

        Args:
            seed: Seed of the weights.
            scores: Scores by text of the architecture, then by number of the series.
            conditions: Conditions of the time measurements: device, batch, precision, threads.

        Raises:
            RunFolderError: The store cannot be written.
        """
        with self.errors(), self._store:
            self._store.execute("INSERT OR IGNORE INTO conditions (text) VALUES (?)", (conditions,))
            for architecture, of_series in scores.items():
                self._store.execute("INSERT OR IGNORE INTO architectures (text) VALUES (?)", (architecture,))
                self._store.executemany(
                    "DELETE FROM scores WHERE series = ? AND seed = ? AND score IS NULL "
                    "AND architecture = (SELECT id FROM architectures WHERE text = ?)",
                    [(n, seed, architecture) for n in of_series],
                )
                self._store.executemany(
                    "INSERT INTO scores (series, seed, score, reason, seconds, architecture, conditions) "
                    "SELECT ?, ?, ?, ?, ?, architectures.id, conditions.id FROM architectures, conditions "
                    "WHERE architectures.text = ? AND conditions.text = ?",
                    [(n, seed, s.score, s.reason, s.seconds, architecture, conditions) for n, s in of_series.items()],
                )
                self._store.executemany(
                    "UPDATE series SET passes = ? WHERE id = ? AND passes IS NULL",
                    [(json.dumps(s.passes), n) for n, s in of_series.items() if s.score is not None],
                )

    def select(self, architectures: Iterable[str]) -> Selection:
        """Select the architectures whose scores are to be read.

        Args:
            architectures: Texts of the architectures; repeated ones count once.

        Raises:
            RunFolderError: The store cannot be written.
        """
        texts = tuple(dict.fromkeys(architectures))
        self._selections += 1
        with self.errors():
            self._store.executemany("INSERT OR IGNORE INTO architectures (text) VALUES (?)", [(t,) for t in texts])
            self._store.executemany(
                "INSERT INTO selections SELECT ?, ?, id FROM architectures WHERE text = ?",
                [(self._selections, position, text) for position, text in enumerate(texts)],
            )
        return Selection(self, self._selections, texts)

    def passes(self, series: int) -> tuple[str, ...]:
        """Names of the readings that the seconds of a series include; empty before its first score."""
        names = self._read("SELECT passes FROM series WHERE id = ?", series)[0][0]
        return tuple(json.loads(names)) if names else ()


@dataclass(frozen=True)
class Selection:
    """Selected architectures of a store, whose scores can be read.

    Attributes:
        store: The store.
        number: Number of the selection in the store.
        architectures: Texts of the architectures, in the order of the request.
    """

    store: ScoreStore
    number: int
    architectures: tuple[str, ...]

    def scores(self, series: int, seed: int) -> dict[str, StoredScore]:
        """Stored scores and failures of a series with one seed, by architecture in the order of the request."""
        rows = self.store._read(
            "SELECT position, score, reason, seconds, conditions.text FROM selections "
            # CROSS JOIN fixes the order of the tables, so that SQLite looks each architecture up by key
            "CROSS JOIN scores ON series = ? AND seed = ? AND scores.architecture = selections.architecture "
            "JOIN conditions ON conditions.id = scores.conditions WHERE selection = ? ORDER BY position",
            *(series, seed, self.number),
        )
        return {self.architectures[position]: StoredScore(*values) for position, *values in rows}

    def missing(self, series: int, seed: int, *, failed: bool = False) -> list[str]:
        """The architectures without a stored score in a series with one seed, in the order of the request.

        Args:
            series: Number of the series.
            seed: Seed of the weights.
            failed: Whether a stored failure counts as missing.
        """
        rows = self.store._read(
            "SELECT position FROM selections "
            "LEFT JOIN scores ON series = ? AND seed = ? AND scores.architecture = selections.architecture "
            "WHERE selection = ? AND (series IS NULL OR (? AND score IS NULL)) ORDER BY position",
            *(series, seed, self.number, failed),
        )
        return [self.architectures[position] for (position,) in rows]
