"""Proxies that a worker process can import: sound ones, and ones that end, hang or run out of memory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch


def size(student: Any, teacher: Any = None) -> float:
    """Return the number of parameters."""
    return float(student.cost.params)


def uneven(student: Any, teacher: Any = None) -> float:
    """Return the number of parameters, later for some than for others."""
    time.sleep(0.02 * (student.cost.params % 3))
    return float(student.cost.params)


def smallest_first(student: Any) -> bool:
    """Whether the network is one of the smallest: about a third of those drawn."""
    return bool(student.cost.params % 3 == 0)


def deadly(student: Any, teacher: Any = None) -> float:
    """End the process at some networks, as a segmentation fault does."""
    if smallest_first(student):
        os.kill(os.getpid(), signal.SIGSEGV)
    return float(student.cost.params)


def deadly_once(student: Any, teacher: Any = None) -> float:
    """End the process at the first network that any process meets; FOLDER remembers that it was met."""
    try:
        (Path(os.environ["FOLDER"]) / "met").touch(exist_ok=False)
    except FileExistsError:
        return float(student.cost.params)
    os._exit(9)


def hanging(student: Any, teacher: Any = None) -> float:
    """Hang at some networks."""
    if smallest_first(student):
        time.sleep(3600)
    return float(student.cost.params)


def crowded(student: Any, teacher: Any = None) -> float:
    """Run out of memory once for each network, as two at a time may do where one alone would fit."""
    try:
        (Path(os.environ["FOLDER"]) / str(student.cost.params)).touch(exist_ok=False)
    except FileExistsError:
        return float(student.cost.params)
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def greedy(student: Any, teacher: Any = None) -> float:
    """Run out of memory always."""
    raise MemoryError("no room")
