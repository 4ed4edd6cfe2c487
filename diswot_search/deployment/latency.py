"""Latency: the time of one pass where a network ships, taken in rounds that alternate with a reference network."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from search_spaces.input_spec import InputSpec, as_input_spec

from ..checks import check_whole
from ..runtime.seeding import isolated_random_state
from .onnx_graph import ExportError
from .runtimes import Pass, Runtime, default_runtime, get_runtime, shipped, torch_threads

AGREEMENT = 0.03
"""The three quickest rounds agree within this share where a measurement is stable."""

_QUIET = 1.05
"""On a quiet machine, the wide reference network takes at most this many times what it took at its quickest."""

_AGREEING = 3
_MIN_ROUNDS = 8
_MAX_ROUNDS = 60
_MAX_SECONDS = 5.0
_BLOCK_SECONDS = 0.01
_REFERENCE_SECONDS = 0.003
_MAX_BLOCK = 50
_BEYOND = 1.3
"""A network that is slower than its limit by this factor needs no exact number."""


@dataclass(frozen=True)
class Latency:
    """The time of one pass of a network over one batch, in float32, with its conditions.

    Attributes:
        ms: The latency in milliseconds: that of the quickest pass, as it would be on the machine at its quickest, which
            the reference network tells.
        median_ms: The median of all passes as they were.
        min_ms: The quickest pass as it was.
        spread: Difference between the quickest rounds, as a share of the quickest.
        rounds: Number of rounds.
        runtime: Name of the runtime.
        threads: Number of threads.
        batch_size: Number of samples in the batch.
    """

    ms: float
    median_ms: float = field(default=math.nan, kw_only=True)
    min_ms: float = field(default=math.nan, kw_only=True)
    spread: float = field(default=0.0, kw_only=True)
    rounds: int = field(default=0, kw_only=True)
    runtime: str = field(kw_only=True)
    threads: int = field(kw_only=True)
    batch_size: int = field(kw_only=True)

    @property
    def is_stable(self) -> bool:
        """Whether the quickest rounds agree."""
        return self.spread <= AGREEMENT

    @property
    def conditions(self) -> str:
        """The conditions in words.

        Example:
            >>> Latency(0.34, runtime="onnxruntime", threads=1, batch_size=1).conditions
            'onnxruntime, 1 thread, batch 1'
        """
        return latency_conditions(self.runtime, self.threads, self.batch_size)

    def __str__(self) -> str:
        unstable = "" if self.is_stable else f", unstable: the quickest rounds differ by {self.spread:.0%}"
        return f"{self.ms:.3g} ms ({self.conditions}{unstable})"


def latency_conditions(runtime: str, threads: int, batch_size: int) -> str:
    """The conditions of a latency in words: runtime, threads and batch."""
    return f"{runtime}, {threads} thread{'s' * (threads != 1)}, batch {batch_size}"


def measure_latency(
    model: nn.Module,
    input_size: InputSpec | Sequence[int],
    *,
    runtime: str | None = None,
    threads: int = 1,
    batch_size: int = 1,
    limit_ms: float | None = None,
) -> Latency:
    """Measure the time of one forward pass where a network ships, in evaluation mode, without gradients, in float32.

    Passes are timed in rounds that alternate with two reference networks in the same runtime: a small one, which tells
    how quick the processor is, and a wide one, which tells whether something else uses its caches. Rounds go on until
    three of them were quiet and the three quickest agree, or for five seconds; `Latency.is_stable` tells which. If the
    small reference is slower than it was at its quickest, so is the machine, and the latency is less by as much. With
    one thread on the CPU, time in which the machine ran something else is not counted. The model is left as it was.

    Args:
        model: The network.
        input_size: The input spec, or channels, height and width of one image.
        runtime: onnxruntime, compile, eager or cuda; by default onnxruntime where it is installed, or else eager.
        threads: Number of threads.
        batch_size: Number of samples in the batch.
        limit_ms: A limit; a network that is far above it is measured roughly.

    Raises:
        ValueError: There is no such runtime, or a number is too small.
        ImportError: onnxruntime is asked for and not installed.
        ExportError: The network cannot be exported.

    Example:
        >>> import diswot_search as ds
        >>> ds.measure_latency(nn.Conv2d(3, 8, 3), (3, 32, 32), runtime="eager").conditions
        'eager, 1 thread, batch 1'
    """
    check_whole("threads", threads, least=1)
    check_whole("batch_size", batch_size, least=1)
    used = get_runtime(default_runtime() if runtime is None else runtime)
    batch = as_input_spec(input_size).example(batch_size)
    with torch_threads(threads), torch.no_grad():
        run = used.prepare(shipped(model), batch, threads)
        return time_passes(run, used, threads=threads, batch_size=batch_size, limit_ms=limit_ms)


def shipped_latency(model: nn.Module, input_size: InputSpec | Sequence[int]) -> Latency:
    """The latency of one sample in the default runtime, or in eager PyTorch for a network that cannot be exported."""
    try:
        return measure_latency(model, input_size)
    except ExportError:
        return measure_latency(model, input_size, runtime="eager")


def time_passes(
    run: Pass, runtime: Runtime, *, threads: int, batch_size: int, limit_ms: float | None = None
) -> Latency:
    """Time passes that are ready to run; see `measure_latency`.

    Args:
        run: One pass.
        runtime: The runtime that it runs in, in which the reference network runs, too.
        threads, batch_size: The conditions.
        limit_ms: A limit; far above it the time is taken roughly.
    """
    clock = time.thread_time if threads == 1 and runtime.device == "cpu" else time.perf_counter
    with torch_threads(threads), torch.no_grad():
        reference = _reference(runtime, threads)
        for warm_up in (reference.small, reference.wide, run, run):
            warm_up()
        rounds: list[_Round] = []
        started = time.perf_counter()
        while not _is_enough(rounds, reference, time.perf_counter() - started):
            pace = min(_block(reference.small, clock, _REFERENCE_SECONDS))
            wide = min(_block(reference.wide, clock, _REFERENCE_SECONDS))
            reference.note(pace, wide)
            rounds.append(_Round(pace, wide, _block(run, clock, _BLOCK_SECONDS)))
            if limit_ms is not None and 1000 * min(r.quickest for r in rounds) > _BEYOND * limit_ms and len(rounds) > 1:
                break
    quickest = sorted(r.quickest for r in rounds)
    pace = min(r.pace for r in rounds)
    return Latency(
        1000 * quickest[0] * (reference.pace / pace if pace else 1.0),
        median_ms=1000 * statistics.median(seconds for r in rounds for seconds in r.passes),
        min_ms=1000 * quickest[0],
        spread=_spread(quickest),
        rounds=len(rounds),
        runtime=runtime.name,
        threads=threads,
        batch_size=batch_size,
    )


@dataclass(frozen=True)
class _Round:
    """One round: the quickest pass of each reference, and all passes of the network after them."""

    pace: float
    wide: float
    passes: list[float]

    @property
    def quickest(self) -> float:
        return min(self.passes)


def _is_enough(rounds: list[_Round], reference: _Reference, seconds: float) -> bool:
    if len(rounds) < _MIN_ROUNDS:
        return False
    quiet = sum(r.wide <= _QUIET * reference.width for r in rounds)
    agree = _spread(sorted(r.quickest for r in rounds)) <= AGREEMENT
    return (agree and quiet >= _AGREEING) or len(rounds) >= _MAX_ROUNDS or seconds >= _MAX_SECONDS


def _spread(quickest: Sequence[float]) -> float:
    """The difference between the quickest rounds, of times in rising order, as a share of the quickest."""
    if not quickest[0]:
        return 0.0
    return quickest[min(_AGREEING, len(quickest)) - 1] / quickest[0] - 1


def _block(run: Pass, clock: Callable[[], float], seconds: float) -> list[float]:
    """Times of passes one after the other, for so long."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < _MAX_BLOCK):
        started = clock()
        run()
        times.append(clock() - started)
    return times


# -- the reference ------------------------------------------------------------------------------


@dataclass
class _Reference:
    """The reference networks in one runtime, with the quickest pass of each so far."""

    small: Pass
    wide: Pass
    pace: float = math.inf
    width: float = math.inf

    def note(self, pace: float, wide: float) -> None:
        self.pace, self.width = min(self.pace, pace), min(self.width, wide)


@functools.cache
def _reference(runtime: Runtime, threads: int) -> _Reference:
    """The references, made once per process: a few convolutions, and 8 MB of weights, which have to be read."""
    with isolated_random_state(0):
        small = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU()),
            *(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 128)),
        )
        wide = nn.Sequential(nn.Flatten(), nn.Linear(48, 2048), nn.ReLU(), nn.Linear(2048, 1024))
    images = as_input_spec((3, 64, 64)).example(1)
    return _Reference(
        runtime.prepare(shipped(small), images, threads),
        runtime.prepare(shipped(wide), images[:, :, :4, :4].contiguous(), threads),
    )
