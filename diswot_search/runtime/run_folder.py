"""A run folder: a store that survives any end of the process, a lock, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import csv
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import sqlite3
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

_LOCK = "lock"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used as asked: taken, damaged, of another configuration, or on a full disk."""


STORES = {
    "study.sqlite": "search",
    "scores.sqlite": "comparison",
    "training.sqlite": "training",
    "sources.sqlite": "ranking of sources",
    "pipeline.sqlite": "pipeline",
}
"""What a run folder holds, by its store."""


class RunFolder(ABC):
    """A store in a folder that one process at a time may write, or in memory.

    A class that inherits sets the store's file name, version and schema, and says how it begins.

    Attributes:
        path: The folder; None in memory.
    """

    STORE: ClassVar[str]
    VERSION: ClassVar[int]
    SCHEMA: ClassVar[tuple[str, ...]]

    path: Path | None
    _lock: sqlite3.Connection | None = None

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a folder has a store of this kind."""
        return (Path(path) / cls.STORE).is_file()

    def write(self, name: str, content: str | bytes | Iterable[str]) -> None:
        """Write a file of the run folder, whole or not at all.

        Args:
            name: Name of the file.
            content: All of it, or its pieces in order.

        Raises:
            RunFolderError: The file cannot be written; one that was there is untouched.
        """
        if self.path is None:
            raise RunFolderError(f"This {type(self).__name__} is kept in memory; it has no folder for {name}.")
        with self.errors():
            write_atomically(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run folder, whole or not at all; numbers that are not finite become null."""
        self.write(name, json.dumps(finite_only(content), indent=2, allow_nan=False) + "\n")

    def release(self) -> None:
        """Let other processes work on the run folder; its store can still be read."""
        try:
            self._store.commit()
        except sqlite3.Error:
            self._store.rollback()  # what is pending can be had again: all else is committed when it is stored
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what a disk or a store can throw into messages that say what to do."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise RunFolderError(_explain(error, self.path)) from error

    # -- the store ------------------------------------------------------------------------------

    def _connect(self, name: str) -> None:
        with self.errors():
            self._store = sqlite3.connect(name, timeout=30, check_same_thread=False)
            weakref.finalize(self, self._store.close)
            if (found := self._store.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)

    def _open_folder(self, path: Path) -> None:
        """Make the folder if need be, hold it, connect to its store and begin."""
        self._check_folder(path)
        with self.errors():
            path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(path)
        weakref.finalize(self, self._lock.close)
        try:
            self._connect(str(path / self.STORE))
            self._begin()
        except BaseException:
            self._lock.close()
            raise

    def _check_folder(self, path: Path) -> None:
        """Refuse what is no folder, and a folder of other things."""
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; a run folder is needed.")
        if not path.is_dir() or self.exists(path):
            return
        others = sorted(entry.name for entry in path.iterdir() if entry.name != _LOCK)
        if "config.json" in others and not any(other.endswith(".sqlite") for other in others):
            raise RunFolderError(_damaged(path, f"{self.STORE} is missing"))
        if STORES.keys() & set(others) - {self.STORE}:
            kind = next(STORES[other] for other in others if other in STORES)
            raise RunFolderError(f"{path} is the run folder of a {kind}. Choose a new or an empty folder.")
        if others:
            raise RunFolderError(
                f"{path} is no run folder: it holds {', '.join(others[:3])}"
                f"{' and more' if len(others) > 3 else ''}. Choose a new or an empty folder."
            )

    def _create(self) -> None:
        """All tables and first rows in one transaction, so that a store is empty or whole."""
        with self.errors(), self._store:
            self._store.execute("BEGIN")
            for statement in self.SCHEMA:
                self._store.execute(statement)
            self._fill()
            self._store.execute(f"PRAGMA user_version = {self.VERSION}")

    @abstractmethod
    def _begin(self) -> None:
        """Create an empty store, or see that the one there can be used."""

    def _fill(self) -> None:  # noqa: B027 - some begin with nothing
        """Add what a new store begins with."""

    def _is_empty(self) -> bool:
        """Whether the store has no tables yet.

        Raises:
            RunFolderError: It has been emptied, or is of another version.
        """
        if not self._read("SELECT count(*) FROM sqlite_master")[0][0]:
            if self.path is not None and (self.path / "config.json").exists():
                raise RunFolderError(_damaged(self.path, "it is empty"))
            return True
        version = self._read("PRAGMA user_version")[0][0]
        if version != self.VERSION:
            raise RunFolderError(f"The store of {self.path} has format {version}; this version reads {self.VERSION}.")
        return False

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self.errors():
            return self._store.execute(query, values).fetchall()


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """What a run folder holds, as `STORES` calls it; None where it is none."""
    return next((kind for store, kind in STORES.items() if os.path.isfile(os.path.join(path, store))), None)


def no_store(path: Path, store: str) -> str:
    """What to say of a folder that does not have this store."""
    if not path.exists():
        return f"There is no run folder {path}."
    if (found := kind_of(path)) is not None:
        return f"{path} is the run folder of a {found}, not of a {STORES[store]}."
    kinds = list(STORES.values())
    return f"{path} is no run folder of a {', '.join(kinds[:-1])} or {kinds[-1]}: it has none of their stores."


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace a file by one with this content, or leave it as it was."""
    pieces = [content] if isinstance(content, (str, bytes)) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def csv_line(values: Sequence[Any]) -> str:
    """One line of a CSV file."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def as_json(value: Any) -> Any:
    """The value as JSON gives it back, so that it compares equal to what was stored."""
    return json.loads(json.dumps(value))


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], *, ignore: Sequence[str] = ()) -> list[str]:
    """What differs between two configurations, one line each, nested keys joined by dots."""
    old, new = _flatten(stored), _flatten(given)
    keys = [key for key in old | new if key not in ignore and old.get(key) != new.get(key)]
    return [f"{key} is {_shown(old, key)} there, {_shown(new, key)} here" for key in keys]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as one mapping with dotted keys."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    text = json.dumps(flat[key]) if key in flat else "not set"
    return text if len(text) <= 60 else text[:57] + "..."


def versions() -> dict[str, str]:
    """Of Python and of the packages that a score depends on."""
    packages = ("diswot-search", "torch", "timm")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def _lock_folder(path: Path) -> sqlite3.Connection:
    """Hold the folder until the connection is closed or the process ends, however it ends.

    SQLite's own file lock is used because it knows every platform; the file stays empty.
    """
    lock = sqlite3.connect(path / _LOCK, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if "locked" not in str(error):
            raise RunFolderError(_explain(error, path)) from error
        raise RunFolderError(
            f"Another process works on {path}; wait until it ends, or choose another run folder."
        ) from None
    return lock


def _explain(error: Exception, path: Path | None) -> str:
    """What went wrong with the folder, and what to do."""
    if "is full" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {path} is full. What was stored is safe: make room and run the same again to continue."
    if isinstance(error, OSError):
        return f"Cannot use {path}: {error}."
    if isinstance(error, sqlite3.OperationalError):
        return f"Cannot use the store of {path}: {error}."
    return _damaged(path, str(error))


def _damaged(path: Path | None, how: str) -> str:
    return (
        f"The store of {path} is damaged ({' '.join(how.split())}); nothing was changed. "
        "Restore the folder from a copy, or start anew in another one."
    )


def finite_only(value: Any) -> Any:
    """The value with every number that JSON cannot say replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(item) for item in value]
    return value
