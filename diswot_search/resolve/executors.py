"""From what a user says about workers to an executor."""

from __future__ import annotations

from ..options.shared import ExecutorOptions
from ..runtime.executors.base import Executor
from ..runtime.executors.serial import SerialExecutor


def as_executor(options: ExecutorOptions) -> Executor:
    """The executor that the options describe."""
    if isinstance(options.executor, Executor):
        return options.executor
    return SerialExecutor()
