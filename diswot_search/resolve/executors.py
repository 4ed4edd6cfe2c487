"""From what a user says about workers to an executor."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from ..checks import check_number, check_whole, listed, user_options
from ..options.base import changed
from ..options.shared import ExecutorOptions
from ..runtime.devices import has_device, resolve_device
from ..runtime.executors.base import Executor
from ..runtime.executors.placements import device_names, threads_of
from ..runtime.executors.registry import create_executor

_COMMON = {
    "name": "by the option executor",
    "workers": "by the option workers",
    "threads": "by the option threads",
    "devices": "by the option devices",
}
"""Names that executor_options cannot set, and how they are set."""

_LOCAL = (None, "serial", "processes")
"""The executors whose workers have the devices of this machine."""

_OF_RAY = {"address": "by the option ray_address"}


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
        if names := changed(options, "workers", "ray_address", "executor_options", "devices", "threads"):
            raise ValueError(f"The executor is given as an object; {', '.join(names)} cannot be set.")
        executor = options.executor
    else:
        executor = _created(options, _name(options.executor, options.ray_address), max(1, items))
    if limit is not None and not executor.is_isolated:
        raise ValueError(
            f"candidate_timeout_s is {limit:g}, but the executor {options.executor!r} computes in this process, which "
            "cannot end a candidate. Choose the executor 'processes'."
        )
    return executor


def _name(name: str | None, ray_address: str | None) -> str | None:
    """The name of the executor, which is ray where there is an address of a cluster."""
    if ray_address is None or name in (None, "ray"):
        return name if ray_address is None else "ray"
    raise ValueError(f"ray_address is {ray_address!r}, but executor is {name!r}; leave one of them out.")


def _created(options: ExecutorOptions, name: str | None, items: int) -> Executor:
    """The executor of that name, with no more workers than items, each with its share of all threads."""
    workers = check_whole("workers", options.workers, least=1)
    threads, devices = options.threads, device_names(options.devices)
    if workers > items:
        threads = None if threads is None else items * threads_of(workers, threads)
        warnings.warn(f"workers is {workers:,}, but there is work for {items:,} only.", stacklevel=4)
        devices = devices[:items] if len(devices) <= workers else devices
        workers = items
    set_otherwise = _COMMON | (_OF_RAY if name == "ray" else {})
    has_limit = options.candidate_timeout_s is not None
    return create_executor(
        name or ("processes" if has_limit and workers == 1 else None),
        workers=None if devices and options.workers == 1 else workers,
        threads=threads,
        devices=devices or None,
        **user_options("executor_options", options.executor_options, **set_otherwise),
        **({} if options.ray_address is None else {"address": options.ray_address}),
    )


@dataclass(frozen=True)
class JobDevice:
    """Where a job computes.

    Attributes:
        here: The device of this process, which prepares and checks.
        of_results: The device that results are computed on, and by which they are described. Workers on other machines
            may have one that this machine lacks.
    """

    here: str
    of_results: str


def device_of(options: ExecutorOptions, device: str) -> JobDevice:
    """The device of a job: that of its workers, if devices are named for them.

    Args:
        options: The options of the workers.
        device: The option device.

    Raises:
        ValueError: The devices are of several kinds, or of another kind than `device`; or this machine has none of the
            kind, though the workers are to have theirs here.
    """
    executor = options.executor
    is_local = executor in _LOCAL and options.ray_address is None
    names = device_names(options.devices)
    if isinstance(executor, Executor):
        names = tuple(map(str, executor.devices))
    kinds = sorted({name.partition(":")[0] for name in names})
    if len(kinds) > 1:
        raise ValueError(
            f"devices is {listed(names)}; name devices of one kind, since scores of several kinds do not compare."
        )
    if names and device not in ("auto", *names) and device.partition(":")[0] != kinds[0]:
        raise ValueError(f"device is {device!r}, but devices is {listed(names)}; leave one of them out.")
    if not names:
        here = resolve_device(device)
        return JobDevice(here, here)
    if not is_local and not has_device(names[0]):
        return JobDevice("cpu", names[0])
    here = resolve_device(names[0])
    return JobDevice(here, here)
