"""The store of a run folder: what a kind of folder declares of it, and its rows with their checksums."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from .checksums import row_checksum
from .files import RunFolderError

APPLICATION_ID = 0x64697374
"""Number in the header of an SQLite file that marks it as a store of ours."""

SECONDS_UNTIL_STORED = 1.0
"""Seconds after which small changes are committed, so that a process that is killed loses no more than these."""

COMMIT_SHARE = 0.05
"""Largest share of the time that goes into commits of small changes, unless `SECONDS_UNTIL_STORED` have passed."""

_LARGEST = 1 << 63
"""Whole numbers from here on do not fit into SQLite's integers."""

_JOURNALS = ("-journal", "-wal", "-shm")


@dataclass(frozen=True)
class Table:
    """A table of a store, each of whose rows carries checksums of its values.

    Attributes:
        name: Name of the table.
        columns: SQL type and constraints by name of the column, the key first.
        constraints: Constraints of the table.
        rowid: Whether SQLite numbers the rows; otherwise they lie in the order of the primary key.
        apart: Columns that change often; they have a checksum of their own, which covers the key as well.
        counted: Whether the number of rows is stored, so that a lost row shows.
        verified: Whether all rows are verified when the store is opened; otherwise the reader of a row verifies it.

    Example:
        >>> table = Table("points", {"place": "INTEGER PRIMARY KEY", "score": "REAL"})
        >>> table.insertion
        'INSERT INTO points ("place", "score", "checksum") VALUES (?, ?, ?)'
    """

    name: str
    columns: Mapping[str, str]
    constraints: tuple[str, ...] = ()
    rowid: bool = False
    apart: tuple[str, ...] = ()
    counted: bool = False
    verified: bool = True

    @property
    def checksums(self) -> dict[str, tuple[str, ...]]:
        """The columns that each checksum covers, by the checksum's own column."""
        names = tuple(self.columns)
        covered = {"checksum": tuple(name for name in names if name not in self.apart)}
        return covered | ({f"{self.apart[0]}_checksum": (names[0], *self.apart)} if self.apart else {})

    @property
    def creation(self) -> str:
        """Statement that makes the table."""
        columns = [f'"{name}" {kind}' for name, kind in self.columns.items()]
        columns += [f'"{name}" INTEGER NOT NULL' for name in self.checksums]
        ending = "" if self.rowid else " WITHOUT ROWID"
        return f"CREATE TABLE {self.name} ({', '.join([*columns, *self.constraints])}){ending}"

    @property
    def selection(self) -> str:
        """Start of the statement that gives rows as `first_damaged` takes them."""
        names = ", ".join(f'"{name}"' for name in (*self.columns, *self.checksums))
        return f"SELECT {names} FROM {self.name}"

    @property
    def insertion(self) -> str:
        """Statement that adds one of the rows that `sealed` gives."""
        names = [*self.columns, *self.checksums]
        quoted = ", ".join(f'"{name}"' for name in names)
        return f"INSERT INTO {self.name} ({quoted}) VALUES ({', '.join('?' * len(names))})"

    def sealed(self, rows: Iterable[Sequence[object]]) -> Iterator[tuple[object, ...]]:
        """Rows with their checksums, to be stored by `insertion`.

        Args:
            rows: Values in the order of `columns`.
        """
        covered, kinds = self._covered(), [kind.split()[0] for kind in self.columns.values()]
        for row in rows:
            stored = tuple(map(_as_stored, kinds, row))
            yield (*stored, *(row_checksum(values(stored)) for values in covered))

    def first_damaged(self, rows: Iterable[Sequence[object]]) -> Sequence[Any] | None:
        """The first row that does not match its checksums; None if all rows match.

        Args:
            rows: Values in the order of `columns`, then the checksums; more may follow.
        """
        covered = list(enumerate(self._covered(), len(self.columns)))
        for row in rows:
            for place, values in covered:
                if row_checksum(values(row)) != row[place]:
                    return row
        return None

    def _covered(self) -> list[itemgetter[object]]:
        """For each checksum, the function that takes the covered values from a row."""
        order = list(self.columns)
        return [itemgetter(*map(order.index, names)) for names in self.checksums.values()]


def as_real(value: float) -> float:
    """A number as SQLite gives it back from a column of floats, where -0.0 loses its sign."""
    return float(value) + 0.0


def _as_stored(kind: str, value: Any) -> object:
    """A value as SQLite gives it back from a column of this type; NaN comes back as null."""
    if value is None or value != value:
        return None
    if kind == "REAL":
        return as_real(value)
    if isinstance(value, float):
        whole = kind == "INTEGER" and value.is_integer() and abs(value) < _LARGEST
        return int(value) if whole else float(value)
    return int(value) if isinstance(value, bool) else value


META = Table("meta", {"key": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL"})
"""JSON values by key, which every store has: what the folder holds, its configuration, the versions, the status."""


@dataclass(frozen=True)
class Layout:
    """The content of a kind of run folder, declared by the class that uses it.

    Attributes:
        kind: The content of the folder in words, such as "training".
        store: Name of the store's file; no other kind has the same.
        version: Version of the store's format.
        tables: The tables besides `META`.
        one_configuration: Whether the folder belongs to one configuration.
        one_set_of_versions: Whether it belongs to one set of versions of the packages that its results depend on.
    """

    kind: str
    store: str
    version: int
    tables: tuple[Table, ...] = field(default=(), repr=False)
    one_configuration: bool = True
    one_set_of_versions: bool = True

    @property
    def files(self) -> frozenset[str]:
        """Files that SQLite writes for the store."""
        return with_journals(self.store)


def with_journals(name: str) -> frozenset[str]:
    """A file of SQLite and the journals that a killed process may leave beside it."""
    return frozenset({name, *(name + ending for ending in _JOURNALS)})


def connect(name: str) -> sqlite3.Connection:
    """Connect to a store whose structure is intact.

    Raises:
        sqlite3.Error: The file is no store, or is damaged.
    """
    store = sqlite3.connect(name, timeout=30, check_same_thread=False)
    try:
        report = store.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if report != "ok":
            raise sqlite3.DatabaseError(report)
        if name != ":memory:" and (left := os.path.getsize(name) % store.execute("PRAGMA page_size").fetchone()[0]):
            raise sqlite3.DatabaseError(f"{os.path.basename(name)} ends {left} bytes into a page")
    except BaseException:
        store.close()
        raise
    return store


def marked_kind(path: Path) -> str | None:
    """The kind that a store is marked with; None if it has no mark or cannot be read."""
    try:
        store = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    except sqlite3.Error:
        return None
    try:
        if store.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            return None
        rows = store.execute("SELECT json_extract(value, '$') FROM meta WHERE key = 'kind'").fetchall()
    except sqlite3.Error:
        return None
    finally:
        store.close()
    return str(rows[0][0]) if rows else None


def explain(error: Exception, path: Path | None) -> str:
    """Say what went wrong with a folder, and what to do."""
    if "is full" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {path} is full. What was stored is safe: make room and run the same again to continue."
    if isinstance(error, OSError):
        return f"Cannot use {path}: {error}."
    if isinstance(error, sqlite3.OperationalError):
        return f"Cannot use the store of {path}: {error}."
    return damaged(path, str(error))


def damaged(path: Path | None, how: str) -> str:
    """Say that the store of a folder is damaged, and what to do."""
    return (
        f"The store of {path} is damaged ({' '.join(how.split())}); nothing was changed. "
        "Restore the folder from a copy, or start anew in another one."
    )


def other_format(path: Path, version: int, read: int) -> RunFolderError:
    """The error for a store of another format than the one that is read."""
    way_out = (
        "An earlier version of diswot-search wrote it; use that version for it, or choose a new folder."
        if version < read
        else "A later version of diswot-search wrote it; use that version for it, or choose a new folder."
    )
    return RunFolderError(f"The store of {path} has format {version}; this version reads {read}. {way_out}")
