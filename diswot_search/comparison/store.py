"""The store of all scores of a comparison's run folder, keyed by everything that a score depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.checksums import row_checksum
from ..runtime.configuration import canonical
from ..runtime.run_folder import RunFolder
from ..runtime.store import Layout, Table
from ..study.records import NewScore

_CONTEXTS = Table("contexts", {"sha256": "TEXT PRIMARY KEY", "content": "TEXT NOT NULL"})


_SERIES = Table(
    "series",
    {
        "id": "INTEGER PRIMARY KEY",
        "proxy": "TEXT NOT NULL",
        "context": "TEXT NOT NULL REFERENCES contexts",
        "passes": "TEXT",
    },
    constraints=("UNIQUE (proxy, context)",),
    rowid=True,
    apart=("passes",),
)


_ARCHITECTURES, _CONDITIONS, _WORKERS = (
    Table(name, {"id": "INTEGER PRIMARY KEY", "text": "TEXT NOT NULL UNIQUE"}, rowid=True)
    for name in ("architectures", "conditions", "workers")
)


_SCORES = Table(
    "scores",
    {
        "series": "INTEGER NOT NULL REFERENCES series",
        "seed": "INTEGER NOT NULL",
        "architecture": "INTEGER NOT NULL REFERENCES architectures",
        "score": "REAL",
        "reason": "TEXT",
        "seconds": "REAL NOT NULL",
        "conditions": "INTEGER NOT NULL REFERENCES conditions",
        "worker": "INTEGER REFERENCES workers",
    },
    constraints=("PRIMARY KEY (series, seed, architecture)",),
    verified=False,  # there can be millions; `Selection.scores` verifies those that it reads
)


_CREATE_SELECTIONS = """CREATE TEMPORARY TABLE selections (
    selection INTEGER NOT NULL, position INTEGER NOT NULL, architecture INTEGER NOT NULL,
    PRIMARY KEY (selection, position)
) WITHOUT ROWID"""


@dataclass(frozen=True)
class StoredScore:
    """A score as it is stored.

    Attributes:
        score: The score; None if scoring failed.
        reason: Reason for the failure; None for a score.
        seconds: Seconds for building, passes and the proxy's own work, as in `NewScore`.
        conditions: Conditions of the time measurement: device, batch, precision, threads.
        worker: Name of the worker that computed it; None for the process of the comparison itself.
    """

    score: float | None
    reason: str | None
    seconds: float
    conditions: str
    worker: str | None = None


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

    LAYOUT = Layout(
        "comparison",
        "scores.sqlite",
        version=4,
        tables=(_CONTEXTS, _SERIES, _ARCHITECTURES, _CONDITIONS, _WORKERS, _SCORES),
        one_configuration=False,  # a score's context holds its configuration
        one_set_of_versions=False,  # and its versions
    )

    def __init__(self, out: str | os.PathLike[str] | None = None) -> None:
        super().__init__({}, out)
        with self.errors():
            self._store.execute(_CREATE_SELECTIONS)
        self._selections = 0

    def __len__(self) -> int:
        """The number of stored scores and failures."""
        return int(self._read("SELECT count(*) FROM scores")[0][0])

    def series(self, proxy: str, context: Mapping[str, object]) -> int:
        """The number of a series; a new series becomes permanent with its first score.

        Args:
            proxy: Identity of the proxy.
            context: Everything that its scores depend on besides architecture and seed, as JSON values.

        Raises:
            RunFolderError: The store cannot be read or written.
        """
        content = json.dumps(canonical(context), sort_keys=True)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        query = "SELECT id FROM series WHERE proxy = ? AND context = ?"
        if rows := self._read(query, proxy, sha256):
            return int(rows[0][0])
        with self.errors():
            if not self._read("SELECT 1 FROM contexts WHERE sha256 = ?", sha256):
                self._insert(_CONTEXTS, [(sha256, content)])
            number = self._next_id(_SERIES)
            self._insert(_SERIES, [(number, proxy, sha256, None)])
        return number

    def add(
        self,
        seed: int,
        scores: Mapping[str, Mapping[int, NewScore]],
        conditions: str,
        workers: Mapping[str, str | None] | None = None,
    ) -> None:
        """Store scores, all or none. A new score replaces a failure, but never another score.

        Args:
            seed: Seed of the weights.
            scores: Scores by text of the architecture, then by number of the series.
            conditions: Conditions of the time measurements: device, batch, precision, threads.
            workers: Name of the worker that computed the scores, by text of the architecture; none for this process.

        Raises:
            RunFolderError: The store cannot be written.
        """
        names = dict.fromkeys(scores) | dict(workers or {})
        with self._change():
            (measured_on,) = self._ids(_CONDITIONS, [conditions])
            for text, of_series in scores.items():
                (number,) = self._ids(_ARCHITECTURES, [text])
                name = names[text]
                (worker,) = (None,) if name is None else self._ids(_WORKERS, [name])
                self._delete(
                    _SCORES,
                    "series = ? AND seed = ? AND architecture = ? AND score IS NULL",
                    [(n, seed, number) for n in of_series],
                )
                self._insert(
                    _SCORES,
                    [
                        (n, seed, number, s.score, s.reason, s.seconds, measured_on, worker)
                        for n, s in of_series.items()
                    ],
                )
                for n, score in of_series.items():
                    if score.score is not None:
                        self._note_passes(n, json.dumps(score.passes))

    def _note_passes(self, series: int, passes: str) -> None:
        """Store what the seconds of a series include, unless that is stored already."""
        self._store.execute(
            "UPDATE series SET passes = ?, passes_checksum = ? WHERE id = ? AND passes IS NULL",
            (passes, row_checksum((series, passes)), series),
        )

    def _ids(self, table: Table, texts: Iterable[str]) -> list[int]:
        """The numbers of texts in a table, where new ones are added, as a part of the caller's transaction."""
        numbers = []
        query = f"SELECT id FROM {table.name} WHERE text = ?"
        for text in texts:
            row = self._store.execute(query, (text,)).fetchone()
            if row is None:
                row = (self._next_id(table),)
                self._insert(table, [(*row, text)])
            numbers.append(int(row[0]))
        return numbers

    def _next_id(self, table: Table) -> int:
        return int(self._store.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table.name}").fetchone()[0])

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
            numbers = self._ids(_ARCHITECTURES, texts)
            self._store.executemany(
                "INSERT INTO selections VALUES (?, ?, ?)",
                [(self._selections, position, number) for position, number in enumerate(numbers)],
            )
        return Selection(self, self._selections, texts)

    def _check_scores(self, rows: Sequence[Sequence[object]], architectures: Sequence[str]) -> None:
        """Refuse scores that do not match their checksums; each row ends with the position of its architecture."""
        if (row := _SCORES.first_damaged(rows)) is not None:
            self._report_damage(f"the score of {architectures[row[-1]]} with seed {row[1]} does not match its checksum")

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
        """Stored scores and failures of a series with one seed, by architecture in the order of the request.

        Raises:
            RunFolderError: A score was changed after it was stored; the message names it.
        """
        rows = self._verified_rows(series, seed)
        conditions, workers = (
            dict(self.store._read(f"SELECT id, text FROM {table.name}")) for table in (_CONDITIONS, _WORKERS)
        )
        workers[None] = None  # the process of the comparison itself
        return {
            self.architectures[position]: StoredScore(score, reason, seconds, conditions[measured_on], workers[worker])
            for *_, score, reason, seconds, measured_on, worker, _, position in rows
        }

    def verify(self, series: int, seed: int) -> None:
        """Verify the stored scores of a series with one seed.

        Raises:
            RunFolderError: See `scores`.
        """
        self._verified_rows(series, seed)

    def _verified_rows(self, series: int, seed: int) -> list[Any]:
        names = ", ".join(f"scores.{name}" for name in (*_SCORES.columns, *_SCORES.checksums))
        rows = self.store._read(
            f"SELECT {names}, position FROM selections "
            # CROSS JOIN fixes the order of the tables, so that SQLite looks each architecture up by key
            "CROSS JOIN scores ON series = ? AND seed = ? AND scores.architecture = selections.architecture "
            "WHERE selection = ? ORDER BY position",
            *(series, seed, self.number),
        )
        self.store._check_scores(rows, self.architectures)
        return rows

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
