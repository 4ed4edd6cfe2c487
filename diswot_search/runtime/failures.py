"""The one policy of failures: an error of a candidate is a status, an error of the machine stops the job.

A lack of memory, a device error or a dead worker says nothing about the candidate at hand, so it is never stored as a
result of that candidate.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor

import torch

MAX_REASON = 300
"""Longest recorded reason, in characters."""


class MachineError(RuntimeError):
    """The machine failed, not the candidate. Everything stored so far stays, and the same call continues the job."""


class OutOfMemory(MachineError, MemoryError):
    """The host or a device has no memory left."""


def failure_reason(error: Exception, where: str) -> str:
    """The recorded reason for the failure of a candidate: the kind of the error and the first line of its message.

    Args:
        error: The error that the candidate caused.
        where: Place of the error in messages, such as "in the proxy 'zen'".

    Raises:
        OutOfMemory: The host or a device had no memory left.
        MachineError: A device or a worker process failed.
    """
    stop_if_machine_failed(error, where)
    return first_line(error)


def stop_if_machine_failed(error: Exception, where: str) -> None:
    """Raise if an error, or an error that caused it, is a failure of the machine.

    Args:
        error: Any error.
        where: Place of the error in messages, such as "in the proxy 'zen'".

    Raises:
        OutOfMemory: The host or a device had no memory left.
        MachineError: A device or a worker process failed.
    """
    for cause in _causes(error):
        if isinstance(cause, MachineError):
            raise cause
        if _is_out_of_memory(cause):
            raise OutOfMemory(
                f"Out of memory {where} ({first_line(cause)}). What was stored stays: make room and run the same "
                "again to continue, or begin anew with a smaller batch or another device."
            ) from error
        if _is_device_error(cause):
            raise MachineError(
                f"The device failed {where} ({first_line(cause)}). What was stored stays: run the same again in a new "
                "process to continue, or begin anew with another device."
            ) from error
        if isinstance(cause, BrokenExecutor) or _is_dead_data_worker(cause):
            raise MachineError(
                f"A worker process died {where} ({first_line(cause)}), perhaps for lack of memory. What was stored "
                "stays: run the same again to continue, or with fewer workers."
            ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on: an error of our own may wrap one of the machine."""
    while error is not None:
        yield error
        error = error.__cause__


def first_line(error: BaseException) -> str:
    r"""The kind of an error and the first line of its message.

    Example:
        >>> first_line(ValueError("no way\nout"))
        'ValueError: no way'
    """
    message = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {message}"[:MAX_REASON]


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # For the CPU, for MPS and for the libraries of CUDA, torch has no class of its own.
    texts = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def _is_dead_data_worker(error: BaseException) -> bool:
    """Whether a process that reads images for torch's DataLoader has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _is_device_error(error: BaseException) -> bool:
    accelerator_error = getattr(torch, "AcceleratorError", None)  # versions of torch before 2.8 have none
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    texts = ("CUDA error", "STATUS_NOT_INITIALIZED", "STATUS_EXECUTION_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
