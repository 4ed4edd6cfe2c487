"""From what a user says about workers to an executor."""

from __future__ import annotations

import warnings

from ..checks import check_number, check_whole, user_options
from ..options.base import changed
from ..options.shared import ExecutorOptions
from ..runtime.executors.base import Executor
from ..runtime.executors.registry import create_executor

_COMMON = {
    "name": "by the option executor",
    "workers": "by the option workers",
    "threads": "by the option threads",
    "devices": "by the option devices",
}
"""Names that executor_options cannot set, and how they are set."""


def as_executor(options: ExecutorOptions, items: int) -> Executor:
    """The executor that the options describe.

    A time limit needs a worker that can be ended, so a process even for one worker.

    Args:
        options: The options.
        items: Number of items that there are to compute; more workers are not made.

    Raises:
        ValueError: A name or a number is not allowed, options do not fit each other, or the executor cannot keep a time
            limit.

    Warns:
        UserWarning: There are more workers than items, or than cores.
    """
    limit = options.candidate_timeout_s
    if limit is not None:
        check_number("candidate_timeout_s", limit, above=0)
    if isinstance(options.executor, Executor):
        if names := changed(options, "workers", "executor_options", "devices", "threads"):
            raise ValueError(f"The executor is given as an object; {', '.join(names)} cannot be set.")
        executor = options.executor
    else:
        workers = check_whole("workers", options.workers, least=1)
        if workers > items:
            warnings.warn(f"workers is {workers:,}, but there is work for {items:,} only.", stacklevel=2)
            workers = max(1, items)
        executor = create_executor(
            options.executor or ("processes" if limit is not None and workers == 1 else None),
            workers=None if options.devices is not None and options.workers == 1 else workers,
            threads=options.threads,
            devices=options.devices,
            **user_options("executor_options", options.executor_options, **_COMMON),
        )
    if limit is not None and not executor.is_isolated:
        raise ValueError(
            f"candidate_timeout_s is {limit:g}, but the executor {options.executor!r} computes in this process, which "
            "cannot end a candidate. Choose the executor 'processes'."
        )
    return executor
