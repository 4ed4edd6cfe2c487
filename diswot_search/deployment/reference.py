"""The reference networks that tell how quick and how undisturbed a machine is, and their quickest times on it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from search_spaces.input_spec import as_input_spec

from ..runtime.files import write_atomically
from ..runtime.seeding import isolated_random_state
from .runtimes import Pass, Runtime, shipped

FILE = "latency_reference.json"
"""Name of the file with the quickest times, in the user's folder for caches."""

_KEPT_SECONDS = 7 * 24 * 3600.0
"""Times that are older than this are measured anew, since a machine changes."""

_WIDTHS = {"cache": 2000, "memory": 6000}
"""Outputs of the wide networks: 16 MB of weights, which a large cache holds, and 49 MB, which most do not."""


@dataclass(frozen=True)
class Paces:
    """The quickest passes of the reference networks in one round, in seconds.

    Attributes:
        compute: Of a few convolutions, which tells how quick the processor is.
        cache: Of 16 MB of weights, which tells whether something else uses the caches.
        memory: Of 49 MB of weights, which tells whether something else uses the memory.
    """

    compute: float = math.inf
    cache: float = math.inf
    memory: float = math.inf

    def quicker(self, other: Paces) -> Paces:
        """The quicker of each."""
        return Paces(min(self.compute, other.compute), min(self.cache, other.cache), min(self.memory, other.memory))

    def disturbance(self, quickest: Paces) -> float:
        """How much longer the weights took to be read than at their quickest, as a share of that."""
        pairs = ((self.cache, quickest.cache), (self.memory, quickest.memory))
        return max((own / least - 1 for own, least in pairs if least), default=0.0)


@dataclass
class Reference:
    """The reference networks in one runtime, with the quickest pass of each so far on this machine.

    Attributes:
        compute, cache, memory: One pass of each network; see `Paces`.
        quickest: The quickest pass of each, in this process and in earlier ones.
        file: The file that the quickest times are kept in.
        key: The conditions that they belong to.
    """

    compute: Pass
    cache: Pass
    memory: Pass
    quickest: Paces
    file: Path
    key: str

    def note(self, paces: Paces) -> None:
        """Note the times of one round."""
        self.quickest = self.quickest.quicker(paces)

    def keep(self) -> None:
        """Write the quickest times for other processes, if they are quicker than those that are kept.

        A cache that cannot be written is left as it is: other processes then know their own times only.
        """
        entries = _read(self.file)
        entry = entries.get(self.key)
        kept = _paces(entry)
        paces = self.quickest.quicker(kept)
        if paces == kept:
            return
        since = time.time() if kept == Paces() or not isinstance(entry, dict) else entry["since"]
        entries[self.key] = {"since": since, **vars(paces)}
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(entries, indent=2))


@functools.cache
def reference_in(runtime: Runtime, threads: int) -> Reference:
    """The references in a runtime, made once per process."""
    with isolated_random_state(0):
        small = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU()),
            *(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 128)),
        )
        wide = {
            name: nn.Sequential(nn.Flatten(), nn.Linear(48, 2048), nn.ReLU(), nn.Linear(2048, width))
            for name, width in _WIDTHS.items()
        }
    images = as_input_spec((3, 64, 64)).example(1)
    corner = images[:, :, :4, :4].contiguous()
    file, key = cache_folder() / FILE, _key(runtime, threads)
    return Reference(
        runtime.prepare(shipped(small), images, threads),
        runtime.prepare(shipped(wide["cache"]), corner, threads),
        runtime.prepare(shipped(wide["memory"]), corner, threads),
        _paces(_read(file).get(key)),
        file,
        key,
    )


def cache_folder() -> Path:
    """The user's folder for files that can be made again; XDG_CACHE_HOME moves it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "diswot-search"


def _key(runtime: Runtime, threads: int) -> str:
    """Everything that the times of the references depend on, as a hash."""
    installed = [str(torch.__version__)]
    with contextlib.suppress(PackageNotFoundError):
        installed.append(version("onnxruntime"))
    machine = (platform.node(), platform.machine(), platform.processor(), os.cpu_count())
    facts = [runtime.name, threads, *installed, *machine, *_WIDTHS.values()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[str, object]:
    """The entries of a file; none if it is not there or not readable."""
    with contextlib.suppress(OSError, ValueError):
        entries = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(entries, dict):
            return entries
    return {}


def _paces(entry: object) -> Paces:
    """The times of an entry; infinite if there is none, if it is old or if it is damaged."""
    if not isinstance(entry, dict):
        return Paces()
    values = [entry.get(name) for name in ("compute", "cache", "memory", "since")]
    numbers = [value for value in values if isinstance(value, float) and 0 < value < math.inf]
    if len(numbers) < len(values):
        return Paces()
    compute, cache, memory, since = numbers
    return Paces(compute, cache, memory) if 0 <= time.time() - since <= _KEPT_SECONDS else Paces()
