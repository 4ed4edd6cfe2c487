"""Interruption of a run by signals, postponed to a moment when nothing is half done."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar


class Interruption:
    """Postpones SIGINT and SIGTERM until the run reaches a moment when nothing is half done.

    Args:
        grace: Seconds within which several signals count as one. A launcher of several processes repeats a signal that
            the terminal has already sent to each of them.

    Attributes:
        asked: Whether a signal has come.
        notice: Line that is written to standard error at the first signal; the command line sets it, and by default
            nothing is.

    Example:
        A loop that ends between two steps, and at once on a second signal::

            interruption = Interruption()
            with interruption.postponed():
                for step in steps:
                    interruption.check()
                    step()
    """

    notice: ClassVar[str] = ""

    def __init__(self, grace: float = 0.0) -> None:
        self.asked = False
        self._grace = grace
        self._asked_at = 0.0

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """In this block, remember the first signal and raise `KeyboardInterrupt` on the second.

        Handlers that the caller has set stay in place. Outside the main thread nothing changes, because only the main
        thread can set handlers.
        """
        previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    previous[number] = signal.signal(number, self._remember)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = True, now
            if self.notice:
                with contextlib.suppress(OSError):
                    os.write(2, f"{self.notice}\n".encode())  # a handler may have interrupted a print
        elif now - self._asked_at >= self._grace:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has come."""
        if self.asked:
            raise KeyboardInterrupt
