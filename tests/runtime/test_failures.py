"""Which errors are failures of a candidate, and which are failures of the machine."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from diswot_search.runtime.failures import MachineError, OutOfMemory, failure_reason, stop_if_machine_failed

NO_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3 GiB"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
DEVICE = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: unspecified launch failure", 719),
]
CANDIDATE = [
    ValueError("out of memory"),  # a word in a message of the user's own
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)"),
    OSError(errno.ENOENT, "No such file"),
    ZeroDivisionError("by zero"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_a_lack_of_memory_is_no_failure_of_the_candidate(error: Exception) -> None:
    message = r"^Out of memory in the proxy 'zen' \(\w*Error: .*\)\. What was stored stays"
    with pytest.raises(OutOfMemory, match=message):
        failure_reason(error, "in the proxy 'zen'")
    assert issubclass(OutOfMemory, MemoryError)


@pytest.mark.parametrize("error", DEVICE, ids=repr)
def test_a_device_error_is_no_failure_of_the_candidate(error: Exception) -> None:
    with pytest.raises(MachineError, match=r"^The device failed in the proxy 'zen' .* in a new process to continue"):
        failure_reason(error, "in the proxy 'zen'")


def test_a_dead_worker_is_no_failure_of_the_candidate() -> None:
    with pytest.raises(MachineError, match=r"^A worker process died in 1-1-1 .* with fewer workers"):
        failure_reason(BrokenProcessPool("terminated abruptly"), "in 1-1-1")


@pytest.mark.parametrize("error", CANDIDATE, ids=repr)
def test_every_other_error_is_a_reason(error: Exception) -> None:
    stop_if_machine_failed(error, "here")
    assert failure_reason(error, "here") == f"{type(error).__name__}: {error}"


def test_a_reason_is_the_first_line_of_the_message_and_not_long() -> None:
    assert failure_reason(ValueError("one\ntwo"), "here") == "ValueError: one"
    assert failure_reason(ValueError(), "here") == "ValueError: "
    assert len(failure_reason(ValueError("x" * 1000), "here")) == 300


def test_the_cause_of_an_error_counts() -> None:
    def wrap(error: Exception) -> Exception:
        try:
            raise ValueError("the source cannot be run") from error
        except ValueError as wrapped:
            return wrapped

    with pytest.raises(OutOfMemory, match=r"Out of memory here \(MemoryError: no room\)") as caught:
        stop_if_machine_failed(wrap(MemoryError("no room")), "here")
    with pytest.raises(OutOfMemory, match="Out of memory here") as again:
        stop_if_machine_failed(wrap(caught.value), "elsewhere")
    assert again.value is caught.value  # explained once
    stop_if_machine_failed(wrap(KeyError("no room")), "here")
