"""Latency: the time of one pass where a network ships, taken in rounds that alternate with a reference network."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from search_spaces.input_spec import InputSpec, as_input_spec

from ..checks import WORKING_SHARE, check_memory, check_parallel, check_whole
from .onnx_graph import ExportError
from .reference import Paces, Reference, reference_in
from .runtimes import Pass, Runtime, default_runtime, get_runtime, shipped, torch_threads

AGREEMENT = 0.03
"""The three quickest rounds agree within this share where a measurement is stable."""

QUIET = 0.05
"""In a quiet round, the weights of the reference networks are read within this share of their quickest time."""

_AGREEING = 3
_MIN_ROUNDS = 8
_MAX_ROUNDS = 60
_MAX_SECONDS = 5.0
_MAX_SECONDS_FOR_QUIET = 2.0
"""Rounds that agree wait so long for the machine to be quiet."""

_BLOCK_SECONDS = 0.05
"""The references leave the caches to their own weights; a block is so long that the network has them back for most."""

_REFERENCE_SECONDS = 0.02
"""The same for a reference, which the network has driven out of the caches: one that is read cold looks disturbed."""

_MAX_BLOCK = 200
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
        disturbance: How much longer memory and caches took in the quietest rounds than at their quickest, as a share.
        rounds: Number of rounds.
        runtime: Name of the runtime.
        threads: Number of threads.
        batch_size: Number of samples in the batch.

    Example:
        >>> Latency(1.5, runtime="torch", threads=1, batch_size=8).ms
        1.5
    """

    ms: float
    median_ms: float = field(default=math.nan, kw_only=True)
    min_ms: float = field(default=math.nan, kw_only=True)
    spread: float = field(default=0.0, kw_only=True)
    disturbance: float = field(default=0.0, kw_only=True)
    rounds: int = field(default=0, kw_only=True)
    runtime: str = field(kw_only=True)
    threads: int = field(kw_only=True)
    batch_size: int = field(kw_only=True)

    @property
    def is_stable(self) -> bool:
        """Whether the quickest rounds agree, and the machine was quiet in as many."""
        return self.spread <= AGREEMENT and self.disturbance <= QUIET

    @property
    def instability(self) -> str:
        """Why the measurement is not stable, in words; empty if it is.

        Example:
            >>> Latency(0.34, disturbance=0.2, runtime="onnxruntime", threads=1, batch_size=1).instability
            'other work slowed the memory by 20%'
        """
        reasons = []
        if self.spread > AGREEMENT:
            reasons.append(f"the quickest rounds differ by {self.spread:.0%}")
        if self.disturbance > QUIET:
            reasons.append(f"other work slowed the memory by {self.disturbance:.0%}")
        return " and ".join(reasons)

    @property
    def conditions(self) -> str:
        """The conditions in words.

        Example:
            >>> Latency(0.34, runtime="onnxruntime", threads=1, batch_size=1).conditions
            'onnxruntime, 1 thread, batch 1'
        """
        return latency_conditions(self.runtime, self.threads, self.batch_size)

    def __str__(self) -> str:
        unstable = "" if self.is_stable else f", unstable: {self.instability}"
        return f"{self.ms:.3g} ms ({self.conditions}{unstable})"


def latency_conditions(runtime: str, threads: int, batch_size: int) -> str:
    """The conditions of a latency in words: runtime, threads and batch."""
    return f"{runtime}, {threads} thread{'s' * (threads != 1)}, batch {batch_size}"


def check_batch(spec: InputSpec, batch_size: int, option: str) -> None:
    """Refuse a batch that cannot be held in memory beside what a network makes of it.

    Args:
        spec: The input of the network.
        batch_size: Number of samples.
        option: Name of the option, for the message.

    Raises:
        ValueError: The batch is too large, or no positive whole number.
    """
    check_whole(option, batch_size, least=1)
    sample = spec.example(1)
    size = batch_size * sample.numel() * sample.element_size()
    check_memory(f"A batch of {batch_size:,} samples ({option})", size, share=WORKING_SHARE)


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

    Passes are timed in rounds that alternate with reference networks in the same runtime: a small one, which tells how
    quick the processor is, and two wide ones, which tell whether something else uses the caches or the memory. Rounds
    go on until three of them were quiet and the three quickest agree, for two seconds if only the quiet is missing, or
    for five; `Latency.is_stable` tells which. If the small reference is slower than it was at its quickest, so is the
    machine, and the latency is less by as much. With one thread on the CPU, time in which the machine ran something
    else is not counted. The model is left as it was.

    Args:
        model: The network.
        input_size: The input spec, or channels, height and width of one image.
        runtime: onnxruntime, compile, eager or cuda; by default onnxruntime where it is installed, or else eager.
        threads: Number of threads.
        batch_size: Number of samples in the batch.
        limit_ms: A limit; a network that is far above it is measured roughly.

    Raises:
        ValueError: There is no such runtime, a number is too small, or the machine has too few cores or too little
            memory.
        ImportError: onnxruntime is asked for and not installed.
        ExportError: The network cannot be exported.

    Example:
        >>> import diswot_search as ds
        >>> ds.measure_latency(nn.Conv2d(3, 8, 3), (3, 32, 32), runtime="eager").conditions
        'eager, 1 thread, batch 1'
    """
    spec = as_input_spec(input_size)
    check_parallel("threads", threads, least=1)
    check_batch(spec, batch_size, "batch_size")
    used = get_runtime(default_runtime() if runtime is None else runtime)
    batch = spec.example(batch_size)
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
        reference = reference_in(runtime, threads)
        for warm_up in (reference.compute, reference.cache, reference.memory, run, run):
            warm_up()
        rounds: list[_Round] = []
        started = time.perf_counter()
        while not _is_enough(rounds, reference.quickest, time.perf_counter() - started):
            paces = _take_paces(reference, clock)
            reference.note(paces)
            rounds.append(_Round(paces, _block(run, clock, _BLOCK_SECONDS)))
            if limit_ms is not None and 1000 * min(r.quickest for r in rounds) > _BEYOND * limit_ms and len(rounds) > 1:
                break
    quickest = sorted(r.quickest for r in rounds)
    pace = min(r.paces.compute for r in rounds)
    return Latency(
        1000 * quickest[0] * (reference.quickest.compute / pace if pace else 1.0),
        median_ms=1000 * statistics.median(seconds for r in rounds for seconds in r.passes),
        min_ms=1000 * quickest[0],
        spread=_spread(quickest),
        disturbance=_disturbance(rounds, reference.quickest),
        rounds=len(rounds),
        runtime=runtime.name,
        threads=threads,
        batch_size=batch_size,
    )


@dataclass(frozen=True)
class _Round:
    """One round: the quickest pass of each reference, and all passes of the network after them."""

    paces: Paces
    passes: list[float]

    @property
    def quickest(self) -> float:
        return min(self.passes)


def _is_enough(rounds: list[_Round], quickest: Paces, seconds: float) -> bool:
    if len(rounds) < _MIN_ROUNDS:
        return False
    if len(rounds) >= _MAX_ROUNDS or seconds >= _MAX_SECONDS:
        return True
    agree = _spread(sorted(r.quickest for r in rounds)) <= AGREEMENT
    return agree and (_disturbance(rounds, quickest) <= QUIET or seconds >= _MAX_SECONDS_FOR_QUIET)


def _disturbance(rounds: list[_Round], quickest: Paces) -> float:
    """The disturbance of the quietest rounds, of as many as have to agree."""
    disturbances = sorted(r.paces.disturbance(quickest) for r in rounds)
    return disturbances[min(_AGREEING, len(disturbances)) - 1]


def _take_paces(reference: Reference, clock: Callable[[], float]) -> Paces:
    """The quickest pass of each reference network now."""
    networks = (reference.compute, reference.cache, reference.memory)
    return Paces(*(min(_block(network, clock, _REFERENCE_SECONDS)) for network in networks))


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
