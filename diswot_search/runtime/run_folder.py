"""A run folder: a store that survives any end of the process, a lock, and files that are whole or not there.

A class that inherits from `RunFolder` declares by its `LAYOUT` what its folders hold. Opening, the lock, the
configuration, the status, the files and reading while another process writes are the same for all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import time
import warnings
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .configuration import differences, score_versions
from .files import RunFolderError, as_json, check_writable, finite_only, read_json, write_atomically
from .lock import LOCK, lock_folder
from .store import (
    APPLICATION_ID,
    COMMIT_SHARE,
    META,
    SECONDS_UNTIL_STORED,
    Layout,
    Table,
    connect,
    damaged,
    explain,
    marked_kind,
    other_format,
    with_journals,
)

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG = "config.json"

RUNNING, COMPLETE, INTERRUPTED = "running", "complete", "interrupted"
"""Values of `RunFolder.status`."""

_LAYOUTS: dict[str, Layout] = {}
"""Layouts by the name of the store's file, as the classes that inherit from `RunFolder` declare them."""


def entries_of(path: Path) -> set[str] | None:
    """Names of the entries of a folder; None if it does not exist."""
    return {entry.name for entry in path.iterdir()} if path.is_dir() else None


class RunFolder:
    """A store in a folder that one process at a time may write, or in memory.

    A class that inherits sets `LAYOUT`. It names in `FACTS` what else a new store begins with, and may refine `_facts`,
    `_set_facts`, `_continue`, `_check_same` and `_config_file`.

    Args:
        config: All that the result depends on, as JSON values.
        out: The folder; None keeps the store in memory.

    Attributes:
        config: The configuration.
        path: The folder; None in memory.

    Raises:
        RunFolderError: Another process works on the folder, it holds something else or belongs to another
            configuration or other versions of torch or timm, its store is damaged, or its disk is full.
    """

    LAYOUT: ClassVar[Layout]
    FACTS: ClassVar[tuple[str, ...]] = ()

    config: dict[str, Any]
    path: Path | None
    _lock: sqlite3.Connection | None = None
    _is_gathering = False
    _committed_at = -math.inf
    _commit_seconds = 0.0

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "LAYOUT" in cls.__dict__:
            _LAYOUTS[cls.LAYOUT.store] = cls.LAYOUT

    def __init__(self, config: Mapping[str, object], out: str | os.PathLike[str] | None = None) -> None:
        self.config = as_json(dict(config))
        self.path = None if out is None else Path(out)
        if self.path is None:
            self._connect(":memory:")
            self._create()
            return
        self._check_folder(self.path)
        with self.errors():
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        weakref.finalize(self, self._lock.close)
        try:
            self._connect(str(self.path / self.LAYOUT.store))
            self._begin()
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a folder has a store of this kind, which a process may have left empty."""
        return os.path.isfile(os.path.join(path, cls.LAYOUT.store))  # which any text may be asked for

    @classmethod
    def has_begun(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a folder has a store of this kind with a configuration in it.

        Raises:
            RunFolderError: The store is damaged.
        """
        return cls.exists(path) and not cls._reader(path)._has_no_tables()

    @classmethod
    def peek(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder to read it, finished or not, also while another process writes it. Nothing is changed.

        Raises:
            RunFolderError: The folder has no store of this kind, it was never begun, or it is damaged.
        """
        if not cls.exists(path):
            raise RunFolderError(no_store(Path(path), cls.LAYOUT))
        folder = cls._reader(path)
        if folder._is_empty():
            raise RunFolderError(f"The {cls.LAYOUT.kind} in {path} was stopped before it began; run it again.")
        folder._verify()
        folder.config = folder.recall("config")
        folder._set_facts({name: folder.recall(name) for name in cls.FACTS})
        return folder

    @classmethod
    def check_place(cls, path: str | os.PathLike[str], known: Mapping[str, object] | None = None) -> None:
        """Refuse a folder that a run is to use later, before any work; nothing is written.

        Args:
            path: The folder, which need not exist.
            known: Values of the configuration that are known already, by key, as JSON has them.

        Raises:
            RunFolderError: It cannot be written, or holds something else, or a run with other values.
        """
        folder = cls.__new__(cls)
        folder.path = Path(path)
        with folder.errors():
            folder._check_folder(folder.path)
            check_writable(folder.path)
        if not known or not cls.has_begun(path):
            return
        stored = cls.peek(path).config
        if lines := differences({key: stored.get(key) for key in known}, as_json(dict(known))):
            raise other_configuration(path, cls.LAYOUT, lines)

    @classmethod
    def _reader(cls, path: str | os.PathLike[str]) -> Self:
        folder = cls.__new__(cls)
        folder.path = Path(path)
        folder._connect(str(folder.path / cls.LAYOUT.store))
        folder._read("PRAGMA query_only = ON")
        return folder

    @classmethod
    def amend(cls, path: str | os.PathLike[str], values: Mapping[str, object], files: Mapping[str, bytes]) -> None:
        """Store JSON values by their keys in a folder that was made before, under whatever versions that was.

        Args:
            path: The folder.
            values: The values by key.
            files: Content of files by name, which are written as well.

        Raises:
            RunFolderError: The folder has no store of this kind, another process works on it, or it cannot be written.
        """
        cls.peek(path)
        folder = cls.__new__(cls)
        folder.path = Path(path)
        with contextlib.closing(lock_folder(folder.path)):
            folder._connect(str(folder.path / cls.LAYOUT.store))
            folder._update_meta(values)
            for name, content in files.items():
                folder.write(name, content)
            folder._store.close()

    # -- files ----------------------------------------------------------------------------------

    def write(self, name: str, content: str | bytes | Iterable[str]) -> None:
        """Write a file of the run folder, whole or not at all.

        Args:
            name: Name of the file.
            content: The whole content, or its pieces in order.

        Raises:
            RunFolderError: The file cannot be written, or the run is kept in memory and has no folder. An older file of
                this name is untouched.
        """
        if self.path is None:
            raise RunFolderError(f"This {type(self).__name__} is kept in memory; it has no folder for {name}.")
        with self.errors():
            write_atomically(self.path / name, content)

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file of the run folder, whole or not at all; numbers that are not finite become null.

        Args:
            name: Name of the file.
            content: JSON values.

        Raises:
            RunFolderError: The file cannot be written, or the run is kept in memory and has no folder.
        """
        self.warn_if_damaged(name)
        self.write(name, json.dumps(finite_only(content), indent=2, allow_nan=False) + "\n")

    def warn_if_damaged(self, name: str) -> None:
        """Name a damaged JSON file, which is about to be replaced, in a warning."""
        if self.path is not None and (self.path / name).is_file():
            try:
                read_json(self.path / name, repair="It is made again from the store.")
            except RunFolderError as error:
                warnings.warn(str(error), stacklevel=3)

    def missing_files(self) -> list[str]:
        """Names of the files that were passed to `end` and are missing in the folder."""
        if self.path is None:
            return []
        return [name for name in self.recall("files") or () if not (self.path / name).is_file()]

    # -- status and values ----------------------------------------------------------------------

    @property
    def status(self) -> str:
        """ "complete", "interrupted", or "running": not ended yet, or killed."""
        return str(self.recall("status"))

    def start(self) -> None:
        """Set the status to "running"."""
        self._set_meta({"status": RUNNING})

    def end(self, status: str, files: Collection[str] = (), **values: object) -> None:
        """Set the status, when all that belongs to it is stored and written.

        Args:
            status: "complete" or "interrupted".
            files: Names of the files that the job has written and can write again.
            values: JSON values to store with the status, by key.
        """
        self._set_meta({"status": status, "files": sorted(files), **values})

    def remember(self, key: str, value: object) -> None:
        """Store a JSON value that is to stay the same when the job continues, unless there is one already."""
        if not self._read("SELECT 1 FROM meta WHERE key = ?", key):
            self._set_meta({key: value})

    def remember_also(self, key: str, value: object) -> None:
        """Add a JSON value to the list that is stored under a key, unless it is in it."""
        values = self.recall(key) or []
        if value not in values:
            self._set_meta({key: [*values, value]})

    def recall(self, key: str) -> Any:
        """A JSON value of the store by its key; None if the store has no such key.

        Raises:
            RunFolderError: The store cannot be read.
        """
        rows = self._read("SELECT value FROM meta WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    @contextlib.contextmanager
    def gathering(self, *, enabled: bool = True) -> Iterator[None]:
        """Commit the changes of this block together, since a commit can take longer than a candidate.

        A commit comes at once only where it takes no more than `COMMIT_SHARE` of the time, and else within
        `SECONDS_UNTIL_STORED` of the last one. Whoever waits in the block calls `settle` now and then.

        Args:
            enabled: False commits each change at once, for work that can end this process.

        Raises:
            RunFolderError: The store cannot be written.
        """
        self._is_gathering = enabled
        try:
            yield
        finally:
            self._is_gathering = False
        self.settle()

    def settle(self) -> None:
        """Commit what is gathered.

        Raises:
            RunFolderError: The store cannot be written.
        """
        started = time.monotonic()
        with self.errors():
            self._store.commit()
        self._committed_at = time.monotonic()
        self._commit_seconds = self._committed_at - started

    def release(self) -> None:
        """Let other processes work on the run folder; its store can still be read.

        Nothing is raised if the disk is full. Values that are not committed yet are then dropped, and the next run
        computes them again.
        """
        try:
            self._store.commit()
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.ProgrammingError):  # of a store that is closed
                self._store.rollback()  # what is pending can be had again: all else is committed when it is stored
        if self._lock is not None:
            self._lock.close()

    def discard(self, before: Collection[str] | None) -> None:
        """Remove the files of a run that has ended without a result; folders in it stay.

        Args:
            before: Names of the entries that the folder had before the run, as `entries_of` gives them; None if it did
                not exist and is removed as well.
        """
        if self.path is None:
            return
        with self.errors():
            self._store.close()
            names = {name for name in entries_of(self.path) or () if not (self.path / name).is_dir()}
            removed = names - set(before or ()) | names & self.LAYOUT.files
            for name in removed - {LOCK}:
                (self.path / name).unlink()
            if self._lock is not None and os.name == "nt":  # where an open file cannot be removed
                self._lock.close()
            for name in removed & {LOCK}:
                (self.path / name).unlink()
            if before is None:
                with contextlib.suppress(OSError):  # another process has begun in it
                    self.path.rmdir()

    @contextlib.contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """Release the folder if the block fails, without what is not committed yet."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._store.rollback()
            self.release()
            raise

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what a disk or a store can raise into messages that say what to do."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise RunFolderError(explain(error, self.path)) from error

    # -- what a kind of folder may refine -------------------------------------------------------

    def _facts(self) -> dict[str, object]:
        """The JSON values that a new store begins with, for each name in `FACTS`."""
        return {}

    def _set_facts(self, facts: Mapping[str, object]) -> None:
        """Take the values of `FACTS` from a store."""

    def _continue(self) -> None:
        """Take up a store whose configuration may be continued; by default its facts stay those of its beginning."""
        self._set_facts({name: self.recall(name) for name in self.FACTS})

    def _check_same(self, stored: Mapping[str, object]) -> None:
        """Refuse a folder of another configuration than `config`, naming what differs."""
        if lines := differences(stored, self.config):
            raise other_configuration(self.path, self.LAYOUT, lines)

    def _config_file(self) -> Mapping[str, object]:
        """Content of config.json."""
        return self.config

    # -- opening --------------------------------------------------------------------------------

    def _connect(self, name: str) -> None:
        with self.errors():
            self._store = connect(name)
        weakref.finalize(self, self._store.close)

    def _check_folder(self, path: Path) -> None:
        """Refuse a path that is no folder, and a folder of other things.

        A process may be killed at any moment, so a folder with nothing but the lock, the store and their journals is
        ours, whatever is in them.
        """
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; a run folder is needed.")
        if not path.is_dir() or self.exists(path):
            return
        others = sorted({entry.name for entry in path.iterdir()} - with_journals(LOCK) - self.LAYOUT.files)
        kind = kind_of(path)
        if CONFIG in others and not any(other.endswith(".sqlite") for other in others):
            raise RunFolderError(damaged(path, f"{self.LAYOUT.store} is missing"))
        if kind is not None:
            raise RunFolderError(f"{path} is the run folder of a {kind}. Choose a new or an empty folder.")
        if others:
            raise RunFolderError(
                f"{path} is no run folder: it holds {', '.join(others[:3])}"
                f"{' and more' if len(others) > 3 else ''}. Choose a new or an empty folder."
            )

    def _begin(self) -> None:
        """Create an empty store, or see that the one there is intact and may be continued."""
        if self._is_empty():
            self._create()
        else:
            self._verify()
            if self.LAYOUT.one_set_of_versions:
                self._check_versions()
            if self.LAYOUT.one_configuration:
                self._check_same(self.recall("config"))
                self._update_meta({"config": self.config})
                self._continue()
        if self.LAYOUT.one_configuration:
            self.write_json(CONFIG, self._config_file())

    def _create(self) -> None:
        """Make all tables and first rows in one transaction, so that a store is empty or whole."""
        first = {"kind": self.LAYOUT.kind, "config": self.config, "versions": score_versions(), "status": RUNNING}
        with self.errors(), self._store:
            self._store.execute("BEGIN")
            for table in (META, *self.LAYOUT.tables):
                self._store.execute(table.creation)
            self._put_meta(first | self._facts() | {_count_key(t): 0 for t in self.LAYOUT.tables if t.counted})
            self._store.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._store.execute(f"PRAGMA user_version = {self.LAYOUT.version}")

    def _has_no_tables(self) -> bool:
        return not self._read("SELECT count(*) FROM sqlite_master")[0][0]

    def _is_empty(self) -> bool:
        """Whether the store has no tables yet.

        Raises:
            RunFolderError: It has been emptied, or is of another format.
        """
        if self._has_no_tables():
            if self.path is not None and (self.path / CONFIG).exists():
                raise RunFolderError(damaged(self.path, "it is empty"))
            return True
        version = self._read("PRAGMA user_version")[0][0]
        if version != self.LAYOUT.version:
            assert self.path is not None
            raise other_format(self.path, version, self.LAYOUT.version)
        return False

    def _check_versions(self) -> None:
        """Refuse to add results of other versions of the packages that they depend on."""
        now, stored = score_versions(), self.recall("versions")
        there, here = ({name: of[name] for name in now if now[name] != stored.get(name)} for of in (stored, now))
        if here:
            raise RunFolderError(
                f"{self.path} was begun under {_listed(there)}, but {_listed(here)} is installed, and results of both "
                "must not be mixed: choose a new run folder, or install the former; `diswot show` reads it as it is."
            )

    # -- rows -----------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Verify the checksums of all rows, as far as their readers do not, and their number where it is stored.

        Raises:
            RunFolderError: A row was changed or lost; the message names it.
        """
        with self.errors():
            self._store.execute("BEGIN")  # so that all is read as of one moment, whatever another process writes
        try:
            for table in (META, *self.LAYOUT.tables):
                if table.verified:
                    self._verify_rows(table)
            stored = {key for (key,) in self._read("SELECT key FROM meta")}
            for key in ("kind", "config", "versions", "status", *self.FACTS):
                if key not in stored:
                    self._report_damage(f"{key} is missing")
            for table in self.LAYOUT.tables:
                if not table.counted:
                    continue
                rows, expected = self._read(f"SELECT count(*) FROM {table.name}")[0][0], self.recall(_count_key(table))
                if rows != expected:
                    self._report_damage(f"there are {rows} {table.name}, but {expected} were stored")
        finally:
            self._store.rollback()

    def _verify_rows(self, table: Table) -> None:
        """Verify the checksums of all rows of a table.

        Raises:
            RunFolderError: A row was changed; the message names it.
        """
        with self.errors():
            row = table.first_damaged(self._store.execute(table.selection))
        if row is not None:
            self._report_damage(f"row {row[0]!r} of {table.name} does not match its checksum")

    def _report_damage(self, how: str) -> NoReturn:
        raise RunFolderError(damaged(self.path, f"{self.LAYOUT.store}: {how}"))

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Store all that the block writes, or nothing if it fails; see `gathering` for when it is committed."""
        with self.errors():
            if not self._store.in_transaction:
                self._store.execute("BEGIN")
            self._store.execute("SAVEPOINT change")
            try:
                yield
            except BaseException:
                if self._store.in_transaction:  # a full disk ends it
                    self._store.execute("ROLLBACK TO change")
                    self._store.execute("RELEASE change")
                raise
            self._store.execute("RELEASE change")
        waited = time.monotonic() - self._committed_at
        if not self._is_gathering or waited >= min(SECONDS_UNTIL_STORED, self._commit_seconds / COMMIT_SHARE):
            self.settle()

    def _insert(self, table: Table, rows: Sequence[Sequence[object]]) -> None:
        """Add rows with their checksums, as a part of the caller's transaction."""
        self._store.executemany(table.insertion, table.sealed(rows))
        self._count(table, len(rows))

    def _delete(self, table: Table, condition: str, rows: Iterable[Sequence[object]]) -> None:
        """Remove the rows that a condition with these values selects, as a part of the caller's transaction."""
        removed = self._store.executemany(f"DELETE FROM {table.name} WHERE {condition}", rows).rowcount
        self._count(table, -max(removed, 0))

    def _count(self, table: Table, more: int) -> None:
        if table.counted and more:
            self._put_meta({_count_key(table): self.recall(_count_key(table)) + more})

    def _put_meta(self, values: Mapping[str, object]) -> None:
        self._store.executemany("DELETE FROM meta WHERE key = ?", [(key,) for key in values])
        self._store.executemany(META.insertion, META.sealed((key, json.dumps(value)) for key, value in values.items()))

    def _set_meta(self, values: Mapping[str, object]) -> None:
        with self.errors(), self._store:
            self._put_meta(values)

    def _update_meta(self, values: Mapping[str, object]) -> None:
        """Store those values that are others now, or in another order."""
        changed = {key: value for key, value in values.items() if json.dumps(value) != json.dumps(self.recall(key))}
        if changed:
            self._set_meta(changed)

    def _read(self, query: str, *values: object) -> list[Any]:
        with self.errors():
            return self._store.execute(query, values).fetchall()


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind of a run folder in the words of its layout, such as "study"; None if the path is no run folder."""
    if not os.path.isdir(path):
        return None
    for store in sorted(Path(path).glob("*.sqlite")):
        layout = _LAYOUTS.get(store.name)
        kind = marked_kind(store) if layout is None else layout.kind
        if kind is not None:
            return kind
    return None


def other_configuration(path: str | os.PathLike[str] | None, layout: Layout, lines: Sequence[str]) -> RunFolderError:
    """The error for a folder of another configuration, with what differs."""
    return RunFolderError(
        f"{path} holds a {layout.kind} of another configuration: {'; '.join(lines)}. Choose another run folder."
    )


def no_store(path: Path, layout: Layout) -> str:
    """The message about a folder that does not have the store of this layout."""
    if not path.exists():
        return f"There is no run folder {path}."
    if (kind := kind_of(path)) is not None:
        return f"{path} is the run folder of a {kind}, not of a {layout.kind}."
    return f"{path} is no run folder of a {layout.kind}: it has no {layout.store}."


def _count_key(table: Table) -> str:
    return f"{table.name} counted"


def _listed(of_packages: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in of_packages.items())
