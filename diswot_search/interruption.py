"""Signals that end a run, answered when nothing is half done."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Lets signals that would end the process wait for a moment when nothing is half done.

    Args:
        grace: Seconds within which signals count as one. A launcher of several processes passes on to them what the
            terminal sent them already.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.asked = False
        self._grace = grace
        self._asked_at = 0.0

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Take note of the first signal and raise `KeyboardInterrupt` on the second, in this block.

        Handlers that the caller has set are left alone.
        """
        handled = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    handled[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in handled.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = True, now
        elif now - self._asked_at >= self._grace:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has come."""
        if self.asked:
            raise KeyboardInterrupt
