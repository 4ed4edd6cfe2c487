"""The programs that the contract of executors computes. Workers load them soon, since they import nothing heavy."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from ..runtime.executors.base import Placement

Item = tuple[str, Any]
"""The name of an action, and its value."""


class ActionProgram:
    """Computes items by the name of their action.

    Args:
        burden: Anything that travels with the program.
        error: An exception that is raised while the program is made.
    """

    def __init__(self, burden: object = None, error: Exception | None = None) -> None:
        self.burden = burden
        self.error = error

    def __call__(self, placement: Placement) -> Callable[[Item], Any]:
        if self.error is not None:
            raise self.error
        return _Actions(placement, self.burden)


class _Actions:
    def __init__(self, placement: Placement, burden: object) -> None:
        self.placement = placement
        self.burden = burden
        self.count = 0

    def __call__(self, item: Item) -> Any:
        action, value = item
        self.count += 1
        return getattr(self, action)(value)

    def root(self, value: float) -> float:
        """A number of which every bit matters."""
        return float(value**0.5)

    def late_root(self, value: float) -> float:
        """The same, the later the smaller the value."""
        time.sleep(max(0.0, 0.02 - 0.002 * value))
        return self.root(value)

    def fail(self, message: str) -> None:
        try:
            raise MemoryError(message)
        except MemoryError as error:
            raise LookupError(message) from error

    def where(self, value: object) -> tuple[Placement, int, int]:
        """The placement, the number of the process, and how many items it has computed."""
        return self.placement, os.getpid(), self.count

    def large(self, size: int) -> bytes:
        return bytes(range(256)) * (size // 256)

    def carried(self, value: object) -> object:
        return self.burden

    def die(self, value: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def end(self, value: object) -> None:
        """What an item does that was asked to end by a signal."""
        raise KeyboardInterrupt

    def hang(self, seconds: float) -> str:
        time.sleep(seconds)
        return "awake"
