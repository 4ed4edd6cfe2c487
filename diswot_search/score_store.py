"""Every score that was ever computed in a folder, by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
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
    """CREATE TABLE scores (
        series INTEGER NOT NULL REFERENCES series, seed INTEGER NOT NULL,
        architecture INTEGER NOT NULL REFERENCES architectures,
        score REAL, reason TEXT, seconds REAL NOT NULL,
        PRIMARY KEY (series, seed, architecture)
    ) WITHOUT ROWID""",
)


@dataclass(frozen=True)
class StoredScore:
    """What one proxy gave for one architecture with one draw of weights.

    Attributes:
        score: The score; None where it failed.
        reason: Why it failed.
        seconds: What it costs when asked for alone.
    """

    score: float | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class NewScore(StoredScore):
    """A score to be stored: `passes` names the readings that its seconds include."""

    passes: tuple[str, ...]


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
    VERSION = 1
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

    def add(self, seed: int, scores: Mapping[str, Mapping[int, NewScore]]) -> None:
        """Store scores of architectures, by text and number of the series, in one transaction.

        Raises:
            StudyError: The store cannot be written.
        """
        with self.errors(), self._store:
            for architecture, of_series in scores.items():
                self._store.execute("INSERT OR IGNORE INTO architectures (text) VALUES (?)", (architecture,))
                rows = [(n, seed, s.score, s.reason, s.seconds, architecture) for n, s in of_series.items()]
                self._store.executemany(
                    "INSERT INTO scores (series, seed, score, reason, seconds, architecture) "
                    "SELECT ?, ?, ?, ?, ?, id FROM architectures WHERE text = ?",
                    rows,
                )
                self._store.executemany(
                    "UPDATE series SET passes = ? WHERE id = ? AND passes IS NULL",
                    [(json.dumps(s.passes), n) for n, s in of_series.items() if s.score is not None],
                )

    def scores(self, series: int, seed: int) -> dict[str, StoredScore]:
        """All of a series with one seed, failed ones included, by architecture."""
        query = (
            "SELECT text, score, reason, seconds FROM scores JOIN architectures ON architectures.id = architecture "
            "WHERE series = ? AND seed = ?"
        )
        return {text: StoredScore(*values) for text, *values in self._read(query, series, seed)}

    def passes(self, series: int) -> tuple[str, ...]:
        """Names of the readings that the seconds of a series include; none before there is a score."""
        found = self._read("SELECT passes FROM series WHERE id = ?", series)[0][0]
        return tuple(json.loads(found)) if found else ()
