"""Every score that was ever computed in a folder, by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .run_folder import RunFolder

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


_SELECTION = """CREATE TEMPORARY TABLE selections (
    selection INTEGER NOT NULL, position INTEGER NOT NULL, architecture INTEGER NOT NULL,
    PRIMARY KEY (selection, position)
) WITHOUT ROWID"""


@dataclass(frozen=True)
class NewScore:
    """What one proxy gave for one architecture with one draw of weights.

    Attributes:
        score: The score; None where it failed.
        reason: Why it failed.
        seconds: What building, the passes it touches and its own work took, computed together with all else asked for.
        passes: Names of the readings that its seconds include.
    """

    score: float | None
    reason: str | None
    seconds: float
    passes: tuple[str, ...]


@dataclass(frozen=True)
class StoredScore:
    """What is stored of it.

    Attributes:
        score, reason, seconds: As for `NewScore`.
        conditions: What the seconds were measured on.
    """

    score: float | None
    reason: str | None
    seconds: float
    conditions: str


class ScoreStore(RunFolder):
    """Scores in series: one proxy in one context, over architectures and weight seeds.

    The context is all else that a score depends on, so that whatever is asked of the folder later, a score that is
    there is the one that would be computed.

    Args:
        out: The run folder; None keeps the scores in memory.

    Raises:
        StudyError: Another process works on the folder, it holds something else, its store is damaged, or its disk
            is full.
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
            self._store.execute(_SELECTION)
        self._selections = 0

    def series(self, proxy: str, context: Mapping[str, Any]) -> int:
        """The number of a series, new or known; a new one is kept for good with its first score.

        Args:
            proxy: Identity of the proxy.
            context: All else that its scores depend on besides architecture and seed, as JSON values.
        """
        content = json.dumps(context, sort_keys=True)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        with self.errors():
            self._store.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?)", (sha256, content))
            self._store.execute("INSERT OR IGNORE INTO series (proxy, context) VALUES (?, ?)", (proxy, sha256))
        return int(self._read("SELECT id FROM series WHERE proxy = ? AND context = ?", proxy, sha256)[0][0])

    def add(self, seed: int, scores: Mapping[str, Mapping[int, NewScore]], conditions: str) -> None:
        """Store scores in one transaction; one takes the place of a failure, and never that of a score.

        Args:
            seed: Seed of the weights.
            scores: By text of the architecture and number of the series.
            conditions: What their seconds were measured on.

        Raises:
            StudyError: The store cannot be written.
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
        """Architectures to ask for, each once; scores of others are not read.

        Args:
            architectures: Their texts.
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
        """Names of the readings that the seconds of a series include; none before there is a score."""
        found = self._read("SELECT passes FROM series WHERE id = ?", series)[0][0]
        return tuple(json.loads(found)) if found else ()


@dataclass(frozen=True)
class Selection:
    """Some architectures of a store, which alone are looked up.

    Attributes:
        store: The store.
        number: Its number there.
        architectures: Their texts, in the order of asking.
    """

    store: ScoreStore
    number: int
    architectures: tuple[str, ...]

    def scores(self, series: int, seed: int) -> dict[str, StoredScore]:
        """What is stored of a series with one seed, failures included, by architecture in order."""
        rows = self.store._read(
            "SELECT position, score, reason, seconds, conditions.text FROM selections "
            # CROSS JOIN keeps the order of the tables, so that a look-up by key follows each architecture
            "CROSS JOIN scores ON series = ? AND seed = ? AND scores.architecture = selections.architecture "
            "JOIN conditions ON conditions.id = scores.conditions WHERE selection = ? ORDER BY position",
            *(series, seed, self.number),
        )
        return {self.architectures[position]: StoredScore(*values) for position, *values in rows}

    def missing(self, series: int, seed: int, *, failed: bool = False) -> list[str]:
        """The architectures that a series has not stored with one seed, in order.

        Args:
            series: Number of the series.
            seed: Seed of the weights.
            failed: Count those that failed among them.
        """
        rows = self.store._read(
            "SELECT position FROM selections "
            "LEFT JOIN scores ON series = ? AND seed = ? AND scores.architecture = selections.architecture "
            "WHERE selection = ? AND (series IS NULL OR (? AND score IS NULL)) ORDER BY position",
            *(series, seed, self.number, failed),
        )
        return [self.architectures[position] for (position,) in rows]
