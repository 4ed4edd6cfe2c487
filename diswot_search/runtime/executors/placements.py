"""The numbers of workers and threads, and the devices, as users give them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...checks import check_parallel, check_whole, listed


def check_workers(workers: int) -> int:
    """The number of workers, if it is at least one."""
    return _whole("workers", workers)


def check_local_workers(workers: int) -> int:
    """The number of workers on this machine, if it is at least one and the machine can bear it."""
    return check_parallel("workers", check_workers(workers), least=1)


def _whole(name: str, value: int) -> int:
    # What is right needs no message, and so not the packages that messages are made with.
    return value if type(value) is int and 1 <= value < 1_000_000 else check_whole(name, value, least=1)


def threads_of(workers: int, threads: int | None, *, is_local: bool = True) -> int:
    """Number of threads of each worker.

    Args:
        workers: Number of workers.
        threads: Number of threads of all together; None takes those of torch, rounded down, at least one to each.
        is_local: Whether they are threads of this machine, whose cores bound them.

    Raises:
        ValueError: The number is not positive, the workers do not divide it, or it is beyond this machine.

    Example:
        >>> threads_of(2, 6)
        3
    """
    if threads is None:
        return max(1, torch_threads() // workers)
    _whole("threads", threads)
    each, rest = divmod(threads, workers)
    if rest:
        smaller = f"{each * workers:,} ({each:,} each) or " if each else ""
        raise ValueError(
            f"threads is {threads:,} for {workers:,} workers together, and each worker gets the same number: give "
            f"{smaller}{(each + 1) * workers:,} ({each + 1:,} each)."
        )
    return check_parallel("threads of each worker", each, least=1) if is_local else each


def torch_threads() -> int:
    """Number of threads that torch computes with in this process."""
    import torch  # heavy, and seldom needed here

    return torch.get_num_threads()


def device_names(devices: Sequence[str] | str | None) -> tuple[str, ...]:
    """The names of devices, given one by one or joined by commas.

    Example:
        >>> device_names("cuda:0,cuda:1")
        ('cuda:0', 'cuda:1')
    """
    names = devices.split(",") if isinstance(devices, str) else devices or ()
    return tuple(name.strip() for name in names)


def devices_of(workers: int, devices: Sequence[str] | str | None) -> tuple[str, ...]:
    """The devices that workers are laid out over, in turns; none leaves the device to the program.

    Raises:
        ValueError: A device is unknown, not there, or named twice, or there are more devices than workers.
    """
    names = device_names(devices)
    if not names:
        return ()
    from ..devices import resolve_device  # loads torch

    resolved = [resolve_device(name) for name in names]
    counts = Counter(name if ":" in name or name == "cpu" else f"{name}:0" for name in resolved)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"devices is {listed(names)}; {listed(twice)} is named more than once. Name each device once: workers are "
            "laid out over the devices in turns, so workers=2 gives one device two workers."
        )
    if len(resolved) > workers:
        raise ValueError(
            f"devices names {len(resolved)} devices for {workers} worker{'s' * (workers > 1)}; each device needs at "
            f"least one: give workers={len(resolved)} or more."
        )
    return tuple(resolved)
