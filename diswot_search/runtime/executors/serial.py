"""The executor without workers of its own: items are computed in the process that asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from .base import Executor, Placement, Program
from .placements import devices_of, threads_of


class SerialExecutor(Executor):
    """Computes each item at once, in this process, before `submit` returns.

    Args:
        threads: Number of threads that torch computes with until the executor is closed; by default as it is.
        devices: The one device, or none to leave it to the program.

    Raises:
        ValueError: A number or a device is not allowed, or there are several devices.
    """

    workers = 1

    def __init__(self, *, threads: int | None = None, devices: Sequence[str] | None = None) -> None:
        self.threads = None if threads is None else threads_of(1, threads)
        self.devices = devices_of(1, devices)
        self._compute: Callable[[Any], Any] | None = None
        self._threads_before: int | None = None

    def start(self, program: Program) -> None:
        if self._compute is not None:
            raise RuntimeError("The executor is started already; close it before it is started again.")
        if self.threads is not None:
            import torch  # heavy, and the caller may not need it

            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
        try:
            self._compute = program(Placement(0, self.threads, next(iter(self.devices), None)))
        except BaseException:
            self.close()
            raise

    def submit(self, worker: int, item: Any) -> Future[Any]:
        assert self._compute is not None, "the executor is not started"
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(self._compute(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def replace(self, worker: int) -> None:
        """Nothing to replace: an item that ends this process ends the job."""

    def close(self, *, at_once: bool = False) -> None:
        self._compute = None
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def name(self, worker: int) -> str:
        return "this process"
