"""The item that a job works on, noted so that the next run knows which one ended the process."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from search_spaces.registry import shortened

FILE = "at_hand.txt"
"""Name of the file with the note. It is there while a job runs, and stays where a process came to an end by itself."""

UNEXPLAINED_ENDS = 2
"""Runs that ended at one item without a fatal signal, from which on the user is told."""


class AtHand:
    """The note of the item at hand, in a file of the run folder.

    A network or a library under it can end the whole process, as a segmentation fault does. Python cannot catch that,
    so the item is noted before it begins. A fatal signal adds its trace to the note. A run that continues then takes
    the item as failed, and goes on. A process that was killed from outside leaves a note without a trace, which says
    nothing about the item, so that it is computed again. If that happens more than once, the user is told of executors
    that survive an item which ends its process.

    The file is not flushed to the disk, since a machine that fails says nothing about the item at hand.

    Args:
        folder: The run folder, locked by this process; None notes nothing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> at_hand = AtHand(folder)
        >>> with at_hand.watching():
        ...     at_hand.begin("the first")
        ...     sorted(path.name for path in folder.iterdir())
        ['at_hand.txt']
        >>> sorted(folder.iterdir())
        []
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE
        self._file: int | None = None
        self._item: str | None = None
        self._runs = 0
        self._signal: str | None = None
        with contextlib.suppress(OSError, ValueError, TypeError):  # without a readable note nothing is known
            text = "" if self._path is None else self._path.read_text(encoding="utf-8", errors="replace")
            note, _, trace = text.partition("\n")
            self._item, self._runs = json.loads(note)
            match = re.search(r"^(?:Fatal Python error|Windows fatal exception): (.*)$", trace, re.MULTILINE)
            self._signal = match[1] if match else None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the note in this block. It is removed at the end, also after an exception, but not if the process ends.

        A fault handler that the caller has enabled stays in place; fatal signals then leave no trace in the note.
        """
        if self._path is None:
            yield
            return
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        traced = not faulthandler.is_enabled()
        try:
            if traced:
                faulthandler.enable(self._file, all_threads=False)
            yield
        finally:
            if traced:
                faulthandler.disable()
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)

    def begin(self, item: str) -> str | None:
        """Note an item, before it is computed.

        Args:
            item: Any text that stands for the item in every run.

        Returns:
            Why the item failed, if a fatal signal ended an earlier run at it; None if it can be computed.

        Warns:
            UserWarning: Several runs ended at the item for no reason that is known.
        """
        reason = self.ended(item)
        if reason is None and self._file is not None:
            runs = self._runs if item == self._item else 0
            if runs >= UNEXPLAINED_ENDS:
                warnings.warn(
                    f"{runs} runs ended at this item: {shortened(item)}. They were killed, perhaps for lack of memory. "
                    "It is computed again; with executor='processes' an item that ends its process fails alone.",
                    stacklevel=2,
                )
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{json.dumps([item, runs + 1])}\n".encode())
        return reason

    def ended(self, item: str) -> str | None:
        """Why an item failed, if a fatal signal ended the process at it; None if it can be computed."""
        if item == self._item and self._signal is not None:
            return f"it ended the process ({self._signal})"
        return None
