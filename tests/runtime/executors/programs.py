"""Programs that worker processes compute in tests. They import nothing heavy, so that workers start at once."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Container
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from diswot_search.runtime.executors.base import Placement


class OddError(ValueError):
    """An error that does not unpickle, because its constructor takes more than its message."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


class FaultyProgram:
    """Computes (name of an action, value)."""

    def __call__(self, placement: Placement) -> Callable[[Any], Any]:
        return compute

    @staticmethod
    def constant(function: Callable[[Any], Any], placement: Placement) -> Callable[[Any], Any]:
        """The program of one function."""
        return function


class StoringProgram(FaultyProgram):
    """Its items may take very long to store what they have."""

    grace_s: ClassVar[float] = 3600.0


class LateProgram(FaultyProgram):
    """Is killed while it is made, in the processes of some numbers.

    Args:
        path: File that counts the processes.
        dies_at: Their numbers, from 1.
    """

    def __init__(self, path: Path, dies_at: Container[int]) -> None:
        self.path = path
        self.dies_at = dies_at

    def __call__(self, placement: Placement) -> Callable[[Any], Any]:
        with self.path.open("a") as file:
            file.write("x")
        if self.path.stat().st_size in self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(placement)


def compute(item: tuple[str, Any]) -> Any:
    action, value = item
    return ACTIONS[action](value)


def segmentation_fault(value: object) -> None:
    ctypes.string_at(0)


def sleep_with_lock(seconds: float) -> None:
    """Sleep without giving the interpreter's lock to other threads, as a candidate in compiled code may."""
    ctypes.PyDLL(None).usleep(int(1e6 * seconds))


def killed_while_it_answers(size: int) -> bytes:
    """End when a part of the answer is written."""
    send_bytes = Connection.send_bytes

    def send_part(connection: Connection, data: bytes) -> None:
        if len(data) < size:
            send_bytes(connection, data)
        else:
            os.write(connection.fileno(), struct.pack("!i", len(data)) + data[:1000])
            os.kill(os.getpid(), signal.SIGKILL)

    Connection.send_bytes = send_part  # type: ignore[method-assign, assignment]
    return bytes(size)


def fork_and_exit(code: int) -> None:
    """End, but leave a child that keeps the files of this process open for a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
    os._exit(code)


def stopped(value: object) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stored_when_asked(path: Path) -> str:
    """Wait for SIGTERM and answer, as a training does that stores its state; the file says that the wait has begun."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    path.touch()
    while not asked.is_set():
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, before)
    return "stored"


def raise_odd(value: object) -> None:
    raise OddError(1, 2)


def raise_with_cause(value: object) -> None:
    try:
        raise MemoryError("no room")
    except MemoryError as error:
        raise ValueError("the cell") from error


def warn(text: str) -> str:
    warnings.warn(text, UserWarning, stacklevel=1)
    return text


def threads(value: object) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "same": lambda value: value,
    "pid": lambda value: os.getpid(),
    "exit": os._exit,
    "sys.exit": sys.exit,
    "segmentation fault": segmentation_fault,
    "killed while it answers": killed_while_it_answers,
    "fork and exit": fork_and_exit,
    "stopped": stopped,
    "stored when asked": stored_when_asked,
    "sleep": time.sleep,
    "sleep with lock": sleep_with_lock,
    "odd": raise_odd,
    "cause": raise_with_cause,
    "lambda": lambda value: lambda: value,
    "warn": warn,
    "threads": threads,
}
