"""Executors by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, UnknownNameError, unknown_name_message

from ...checks import check_options, cores
from .base import Executor
from .placements import check_workers, device_names
from .processes import ProcessExecutor
from .ray import RayExecutor
from .serial import SerialExecutor

ExecutorFactory = Callable[..., Executor]
"""Makes an executor from `workers`, `threads=`, `devices=` and options of its own; mostly the class itself."""

_COMMON = ("workers", "threads", "devices")


def _serial(workers: int, *, threads: int | None = None, devices: Sequence[str] | None = None) -> Executor:
    if workers > 1:
        raise ValueError(
            f"workers is {workers:,}, but the executor 'serial' computes in this process alone. Choose the executor "
            "'processes', or workers=1."
        )
    return SerialExecutor(threads=threads, devices=devices)


def _adopt(name: str, value: object) -> ExecutorFactory:
    """The executor that a user's own code has under a name."""
    is_class = isinstance(value, type)
    if callable(value) and (not is_class or (issubclass(value, Executor) and not inspect.isabstract(value))):  # type: ignore[arg-type]
        return value
    raise OwnCodeError(f"{name} is no executor; it must be a class that inherits from Executor, or make one.")


_executors: Registry[ExecutorFactory] = Registry("executor", _adopt)

_executors.register("serial", _serial)
_executors.register("processes", ProcessExecutor)
_executors.register("ray", RayExecutor)


def list_executors(pattern: str = "*") -> list[str]:
    """Names of the executors that match a shell pattern, in order of registration.

    Raises:
        UnknownNameError: No name matches; the message lists near names.

    Example:
        >>> "serial" in list_executors()
        True
    """
    names = [name for name in _executors if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("executor", pattern, _executors))
    return names


def register_executor(name: str, executor: ExecutorFactory) -> None:
    """Make an executor known by name.

    Args:
        name: The new name.
        executor: A subclass of `Executor`, or a function that makes one. It takes the number of workers first, then
            `threads=` and `devices=`; its other keyword arguments become options.

    Raises:
        ValueError: The name is taken.
    """
    _executors.register(name, executor)


def create_executor(
    name: str | None = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    devices: Sequence[str] | None = None,
    **options: object,
) -> Executor:
    """Make an executor by name.

    Args:
        name: One of `list_executors()`, or a class of your own as `module:name` or `file.py:name`. None takes "serial"
            for one worker and "processes" for more.
        workers: Number of workers; by default one for each device, or one.
        threads: Number of threads of all workers together, which it must divide; by default those of torch.
        devices: Names of devices, each once, or joined by commas. Workers are laid out over them in turns.
        options: Options of the executor, which its class documents.

    Returns:
        The executor, ready to `start`.

    Raises:
        UnknownNameError: There is no such executor; the message names those that come near.
        ValueError: The executor has no such option, or a value is not allowed.

    Warns:
        UserWarning: There are more workers than cores.

    Example:
        >>> from diswot_search.runtime.executors.registry import create_executor
        >>> create_executor("processes", workers=2, threads=2).workers
        2
    """
    names = device_names(devices)
    number = check_workers(max(1, len(names)) if workers is None else workers)
    name = ("processes" if number > 1 else "serial") if name is None else name
    factory = _executors[name]
    parameters = inspect.signature(factory).parameters.values()
    allowed = [one.name for one in parameters if one.name not in _COMMON and one.kind is not one.VAR_KEYWORD]
    check_options(f"executor {name!r}", options, allowed)
    executor = factory(number, threads=threads, devices=names or None, **options)
    on_processors = not any(device.startswith(("cuda", "mps")) for device in names) and not options.get("address")
    if executor.is_isolated and on_processors and number > cores():
        warnings.warn(
            f"{number:,} workers share {cores():,} cores, which is seldom faster than {cores():,} workers.",
            stacklevel=2,
        )
    return executor
