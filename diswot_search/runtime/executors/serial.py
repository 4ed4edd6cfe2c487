"""The executor without workers of its own: items are computed in the process that asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .base import Executor, Placement, Program


class SerialExecutor(Executor):
    """Computes each item at once, in this process, before `submit` returns."""

    workers = 1

    def __init__(self) -> None:
        self._compute: Callable[[Any], Any] | None = None

    def start(self, program: Program) -> None:
        self._compute = program(Placement())

    def submit(self, worker: int, item: Any) -> Future[Any]:
        assert self._compute is not None, "the executor is not started"
        future: Future[Any] = Future()
        try:
            future.set_result(self._compute(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def replace(self, worker: int) -> None:
        """Nothing to replace: an item that ends this process ends the job."""

    def close(self, *, at_once: bool = False) -> None:
        self._compute = None

    def name(self, worker: int) -> str:
        return "this process"
