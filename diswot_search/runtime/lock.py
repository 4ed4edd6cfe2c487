"""The lock of a run folder, which one process at a time may hold."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from .files import RunFolderError
from .store import explain, with_journals

LOCK = "lock"
"""File of the lock, which stays empty."""


def holds_only_lock(path: str | os.PathLike[str]) -> bool:
    """Whether a folder has nothing in it but a lock, as a job leaves it that is killed before it makes its store."""
    names = set(os.listdir(path)) if os.path.isdir(path) else set()
    return LOCK in names and names <= with_journals(LOCK)


def lock_folder(path: Path) -> sqlite3.Connection:
    """Hold a folder until the connection is closed or the process ends, however it ends.

    SQLite's own file lock is used because it works on every platform.

    Raises:
        RunFolderError: Another process holds the folder, or the lock cannot be written.
    """
    lock = sqlite3.connect(path / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if "locked" not in str(error):
            raise RunFolderError(explain(error, path)) from error
        raise RunFolderError(
            f"Another process works on {path}; wait until it ends, or choose another run folder."
        ) from None
    return lock
