"""Signals that end a run, answered when nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Lets signals that would raise `KeyboardInterrupt` wait for a moment when nothing is half done."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Take note of the first signal and raise on the second, in this block."""
        handled = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.default_int_handler:
                    handled[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in handled.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has come."""
        if self.asked:
            raise KeyboardInterrupt
