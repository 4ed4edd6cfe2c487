"""By how much the resident memory of this process grows with a session of onnxruntime; `memory.py` starts it."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 10
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def highest(since: float) -> float:
    """Return the highest resident memory since the mark was cleared, in MB above `since`."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6 - since


def measure(path: Path, tiny: Path, what: str) -> list[float]:
    """Return the growth in MB after the session is created and after the runs.

    Args:
        path: The network.
        tiny: A network to run before, so that the growth is not that of onnxruntime's own code.
        what: "plain"; "trimmed", without what the loader has freed; or "least", the highest growth in a run without the
            arena, where all freed memory is given back at once.
    """
    is_least = what == "least"
    libc = ctypes.CDLL("libc.so.6")
    if is_least:
        libc.mallopt(_MMAP_THRESHOLD, 4096)
        libc.mallopt(_TRIM_THRESHOLD, 0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not is_least

    def run(file: Path, runs: int) -> list[float]:
        before = resident()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        if what != "plain":
            libc.malloc_trim(0)
        created = resident() - before
        given = session.get_inputs()[0]
        images = np.random.default_rng(0).random(given.shape, np.float32)
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(runs):
            session.run(None, {given.name: images})
        return [created, highest(before) if is_least else resident() - before]

    run(tiny, 1)
    gc.collect()
    libc.malloc_trim(0)
    return run(path, RUNS)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
