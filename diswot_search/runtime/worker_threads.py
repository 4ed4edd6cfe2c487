"""The threads of each worker that computed the results of a run folder, since the last bits of sums depend on them."""

from __future__ import annotations

import warnings

import torch

from ..checks import listed
from .executors.base import Executor
from .run_folder import RunFolder

_KEY = "threads"


def threads_of_each(executor: Executor) -> int:
    """Number of threads that each worker computes with."""
    return executor.threads or torch.get_num_threads()


class WorkerThreads:
    """Stores with how many threads of each worker results were computed, and warns of other results beside them.

    Args:
        folder: The run folder.
        executor: Where the next results are computed.
        on_cpu: Whether the processors compute them; on other devices the threads change nothing.

    Example:
        >>> from diswot_search.runtime.executors.serial import SerialExecutor
        >>> from diswot_search.study.study import Study
        >>> study = Study({})
        >>> WorkerThreads(study, SerialExecutor(threads=1), on_cpu=True).note()
        >>> study.recall("threads")
        [1]
    """

    def __init__(self, folder: RunFolder, executor: Executor, *, on_cpu: bool) -> None:
        self._folder = folder
        self._workers, self._threads = executor.workers, threads_of_each(executor)
        self._is_compared = self._is_noted = not on_cpu

    def compare(self) -> None:
        """Compare with earlier results before the first new one is computed; later calls do nothing.

        Warns:
            UserWarning: They were computed with another number of threads.
        """
        if self._is_compared:
            return
        self._is_compared = True
        others = [threads for threads in self._folder.recall(_KEY) or () if threads != self._threads]
        if others:
            warnings.warn(
                f"What is stored in {self._folder.path} was computed by workers with {listed(others)} "
                f"thread{'s' * (others != [1])} each; what is computed now has {self._threads}. Sums of another number "
                f"of threads differ in their last bits. For the same bits, pass threads={others[0] * self._workers}: "
                "the option threads counts those of all workers together.",
                stacklevel=2,
            )

    def note(self) -> None:
        """Store the number with the first new result; later calls do nothing."""
        if not self._is_noted:
            self._is_noted = True
            self._folder.remember_also(_KEY, self._threads)
