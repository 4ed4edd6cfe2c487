"""Scores of architectures: one engine for searches and comparisons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import nn

from search_spaces.space import Architecture, SearchSpace

from ..data.probe import Probe
from ..networks.network import Network, TeacherBank
from ..options.search import DEFAULT_PROXY
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy
from ..readings.core import Readings
from ..readings.network import read_network
from ..readings.passes import Precision
from ..runtime.devices import resolve_device
from ..runtime.seeding import isolated_random_state, stable_seed
from .records import Evaluation, NewScore


class Evaluator:
    """Scores architectures of one space: by themselves, or against a teacher, which is read once, or a bank of them.

    Against a bank a score is the weighted mean of those against each teacher, and so is every part of it; what needs
    no teacher is computed once.

    A score belongs to its architecture alone: weights are drawn from a seed made of the weight seed and the
    canonical architecture, so it is the same in any order, in any process and after any resume.

    Args:
        space: Where the architectures come from.
        teacher: What they are compared with: a teacher or a bank of them; None for proxies that need none. The
            teachers of a bank have the classes of the probes.
        probes: One or more batches; scores are averaged over them.
        proxy: A name, a function of the student's and the teacher's readings, or an aggregate. The default,
            `effective_capacity`, looks at no teacher.
        seeds: Weight seeds; scores are averaged over them. A random teacher is drawn anew for each.
        device: "auto", "cpu", "cuda" or "mps".
        precision: Memory layout and number format.

    Raises:
        UnknownNameError: No proxy has this name.
        ValueError: The proxy needs a teacher, or space, probes and teacher do not fit each other.
    """

    def __init__(
        self,
        space: SearchSpace,
        teacher: Network | TeacherBank | None,
        probes: Probe | Sequence[Probe],
        proxy: str | Proxy | RankAggregate | ProxyFunction = DEFAULT_PROXY,
        *,
        seeds: Sequence[int] = (0,),
        device: str = "auto",
        precision: Precision | None = None,
    ) -> None:
        self.space = space
        self.teacher = teacher
        self.probes = (probes,) if isinstance(probes, Probe) else tuple(probes)
        self.proxy = get_proxy(proxy)
        self.seeds = tuple(seeds)
        self.device = resolve_device(device)
        self.precision = precision or Precision()
        self._check()
        self._bank: TeacherBank | None = TeacherBank((teacher,), (1.0,)) if isinstance(teacher, Network) else teacher
        self._teacher_readings: dict[tuple[int, int, int], Readings] = {}

    def _check(self) -> None:
        if not self.probes or not self.seeds:
            raise ValueError("Scoring needs at least one probe and one weight seed.")
        if self.proxy.needs_teacher and self.teacher is None:
            raise ValueError(
                f"The proxy {self.proxy.name!r} compares with a teacher; none was given. Name a teacher, such "
                f"as cifar_resnet56, or take a proxy that needs none, such as {DEFAULT_PROXY}."
            )
        for probe in self.probes:
            if probe.input_size != self.space.input_size:
                raise ValueError(
                    f"The probe {probe.name!r} has images of {_size(probe.input_size)}, but the space "
                    f"{self.space.name!r} is made for {_size(self.space.input_size)}; create one to fit the other."
                )
            if probe.num_classes != self.space.num_classes:
                raise ValueError(
                    f"The probe {probe.name!r} has {probe.num_classes} classes, but the networks of "
                    f"{self.space.name!r} have {self.space.num_classes}; create the space with "
                    f"num_classes={probe.num_classes}."
                )

    def read_teacher(self, seed: int, probe_index: int) -> Readings | None:
        """The readings of the one teacher, as `read_teachers` gives them; None where there is no teacher.

        Raises:
            RuntimeError: The teacher cannot be built or read on this probe.
            ValueError: There are several teachers.
        """
        if self._bank is None:
            return None
        if len(self._bank.teachers) > 1:
            raise ValueError(f"There are {len(self._bank.teachers)} teachers; `read_teachers` reads them all.")
        return self.read_teachers(seed, probe_index)[0]

    def read_teachers(self, seed: int, probe_index: int) -> tuple[Readings, ...]:
        """Every teacher's readings, taken once for each probe and, where its weights are random, each weight seed.

        Raises:
            RuntimeError: A teacher cannot be built or read on this probe, or is one of several with other classes.
        """
        teachers = self._bank.teachers if self._bank else ()
        found = []
        for place, teacher in enumerate(teachers):
            key = (place, 0 if teacher.trained else seed, probe_index)
            if key not in self._teacher_readings:
                readings = self._read(teacher, key[1], self.probes[probe_index])
                if len(teachers) > 1:
                    _check_classes(teacher, readings, self.probes[probe_index])
                self._teacher_readings[key] = readings
            found.append(self._teacher_readings[key])
        return tuple(found)

    def _read(self, teacher: Network, seed: int, probe: Probe) -> Readings:
        """The readings of a teacher that is seen to be built and to take the probe."""
        failure = f"The teacher {teacher.name!r} cannot be read on the probe {probe.name!r} ({_size(probe.input_size)})"
        try:
            readings = read_network(teacher, probe, seed, device=self.device, precision=self.precision)
        except (RuntimeError, ValueError) as error:  # it does not convert such a probe
            raise RuntimeError(f"{failure}: {error}") from error
        try:
            _ = readings.model
        except Exception as error:  # a network may fail to be built in any way
            raise RuntimeError(f"The teacher {teacher.name!r} cannot be built: {error}") from error
        try:
            _ = readings.features
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise RuntimeError(f"{failure}: {error}") from error
        return readings

    def read_student(
        self,
        architecture: Architecture,
        seed: int = 0,
        probe_index: int = 0,
        needs: Collection[str] = (),
        canonical: bool = True,
    ) -> Readings:
        """The readings of an architecture with the weights that its score is computed from.

        Args:
            architecture: Whose network is read.
            seed: The weight seed.
            probe_index: Which of the probes it is read on.
            needs: Names of readings that will be taken, so that one forward pass serves them all.
            canonical: Read the network that stands for all with the same function; otherwise the one as written.
        """
        built = self.space.canonical(architecture) if canonical else architecture

        def make() -> nn.Module:
            with isolated_random_state(stable_seed(seed, str(built))):
                return self.space.build(built)

        return Readings(
            make,
            self.probes[probe_index],
            device=self.device,
            precision=self.precision,
            cost=lambda: self.space.cost(architecture),
            needs=needs,
        )

    def evaluate(self, architecture: Architecture) -> Evaluation:
        """Score one architecture. What goes wrong with a candidate is a status, never an exception.

        Raises:
            RuntimeError: A teacher cannot be read; nothing can be scored then.
        """
        pairs = [(seed, index) for seed in self.seeds for index in range(len(self.probes))]
        needs = {need for proxy in (*self.proxy.components, *elementary_proxies(self.proxy)) for need in proxy.needs}
        readings = {pair: self.read_teachers(*pair) for pair in pairs}
        started = time.perf_counter()
        parts: dict[str, list[float]] = {component.name: [] for component in self.proxy.components}
        scores: list[float] = []
        try:
            for pair in pairs:
                student, teachers = self.read_student(architecture, *pair, needs=needs), readings[pair]
                for proxy in self.proxy.components:
                    parts[proxy.name].append(self._part(proxy, student, teachers))
                if isinstance(self.proxy, Proxy):
                    scores.append(_finite(self._mean(self.proxy, student, teachers)))
        except Exception as error:  # a candidate may fail in any way that a network can
            return Evaluation("failed", reason=failure_reason(error), seconds=time.perf_counter() - started)
        seconds = time.perf_counter() - started
        means = {name: fmean(values) for name, values in parts.items()}
        if not scores:
            return Evaluation("ok", parts=means, seconds=seconds)
        return Evaluation("ok", None, fmean(scores), pstdev(scores), means, seconds)

    def _part(self, proxy: Proxy, student: Readings, teachers: Sequence[Readings]) -> float:
        """The value of a term, or of a member of an aggregate, which is named if it fails."""
        if isinstance(self.proxy, Proxy):
            return self._mean(proxy, student, teachers)
        try:
            return _finite(self._mean(proxy, student, teachers))
        except Exception as error:  # as in `evaluate`
            raise _NoScore(f"{proxy.name}: {failure_reason(error)}") from error

    def _mean(self, proxy: Proxy, student: Readings, teachers: Sequence[Readings]) -> float:
        """The value of a proxy, the weighted mean over several teachers where it may depend on them."""
        if len(teachers) <= 1:
            return proxy(student, *teachers)
        if not uses_teacher(proxy):
            return proxy(student)
        assert self._bank is not None
        values = []
        for teacher, readings in zip(self._bank.teachers, teachers, strict=True):
            try:
                values.append(_finite(proxy(student, readings)))
            except Exception as error:  # as in `evaluate`
                raise _NoScore(f"against {teacher.name}: {failure_reason(error)}") from error
        return math.fsum(weight * value for weight, value in zip(self._bank.weights, values, strict=True))

    def config(self) -> dict[str, Any]:
        """All that a score depends on, as JSON values."""
        return {
            "space": self.space.config(),
            "teacher": self.teacher.config() if self.teacher else None,
            "probes": [probe.config() for probe in self.probes],
            "proxy": self.proxy.identity,
            "seeds": list(self.seeds),
            "device": self.device.partition(":")[0],
            "channels_last": self.precision.channels_last,
            "bf16": self.precision.bf16,
        }


def uses_teacher(proxy: Proxy) -> bool:
    """Whether its score may depend on the teacher: that of a function may, whatever is said of it."""
    return proxy.needs_teacher or not proxy.is_registered


class _NoScore(Exception):
    """Says why there is no score, in the words of a reason."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise _NoScore(f"the score is {value}")
    return value


def failure_reason(error: Exception) -> str:
    """What is recorded of an error: its kind and the first line of its message."""
    if isinstance(error, _NoScore):
        return str(error)[:300]
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}"[:300]


def _check_classes(teacher: Network, readings: Readings, probe: Probe) -> None:
    """Refuse a teacher of a bank that has other classes: what is averaged must be about the same task."""
    classes = readings.logits.shape[1]
    if classes != probe.num_classes:
        raise RuntimeError(
            f"The teacher {teacher.name!r} has {classes} classes, but the probe {probe.name!r} has "
            f"{probe.num_classes}; the teachers of a bank must have those of the probe: give it a classifier for them."
        )


def _size(input_size: tuple[int, int, int]) -> str:
    channels, height, width = input_size
    return f"{height}x{width} with {channels} channels"


SIZES = ("params", "macs")
"""What stands beside every proxy. It belongs to the architecture's own text, not to what it computes."""


@dataclass(frozen=True, eq=False)
class Condition:
    """Whom proxies compare students with: a teacher as it is, or with its readings spoilt, or nobody.

    Attributes:
        teacher: The teacher.
        treatment: What is done to its readings: "shuffled", "no teacher" for noise in their place, or nothing.
        control: What is said of it beside a proxy, None for the teacher that was asked for.
    """

    teacher: Network | None = None
    treatment: str | None = None
    control: str | None = None

    def context(self) -> dict[str, Any]:
        """What a score depends on, as JSON values."""
        return {"teacher": self.teacher.config() if self.teacher else None, "treatment": self.treatment}

    def apply(self, readings: Readings | None, seed: int) -> Readings | None:
        """The teacher's readings as proxies get them."""
        if readings is None or self.treatment is None:
            return readings
        return readings.shuffled(seed) if self.treatment == "shuffled" else readings.replaced_by_noise(seed)


NO_TEACHER = Condition()


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """A proxy against an condition: what is computed and stored.

    Attributes:
        proxy: The proxy.
        condition: Whom it compares with.
        series: Number of its series in the store, for each draw.
    """

    proxy: Proxy
    condition: Condition
    series: tuple[int, ...]


class Scorer:
    """Computes the scores of one draw; its teachers' readings are taken once, and go with it.

    Args:
        evaluator_for: Gives the evaluator that reads this teacher, and students, on the draw's probe.
        draw: Number of the draw.
        seed: Seed of its weights.
        canonical: Score the architecture that stands for all with the same function; otherwise each as written.
    """

    def __init__(
        self, evaluator_for: Callable[[Network | None], Evaluator], draw: int, seed: int, canonical: bool = True
    ) -> None:
        self.evaluator_for = evaluator_for
        self.draw = draw
        self.seed = seed
        self.canonical = canonical
        self._reader = evaluator_for(None)
        self._readings: dict[Condition, Readings | None] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def scores(self, architecture: Architecture, units: Sequence[ScoreTask]) -> dict[int, NewScore]:
        """New scores of an architecture by the number of their series. A failure is recorded and disturbs no other."""
        needs = {name for unit in units if unit.proxy.is_registered for name in unit.proxy.needs}
        shared = self._reader.read_student(architecture, self.seed, needs=needs, canonical=self.canonical)
        found = {}
        for unit in units:
            student = shared
            if not unit.proxy.is_registered:  # who knows what it does to the network
                needs = set(unit.proxy.needs)
                student = self._reader.read_student(architecture, self.seed, needs=needs, canonical=self.canonical)
            found[unit.series[self.draw]] = score_of(unit.proxy, student, self._against(unit.condition))
        return found

    def _against(self, condition: Condition) -> Readings | None:
        if condition not in self._readings:
            evaluator = self._evaluator(condition.teacher)
            self._readings[condition] = condition.apply(read_teacher(evaluator, self.seed), self.seed)
        return self._readings[condition]

    def _evaluator(self, teacher: Network | None) -> Evaluator:
        """One for all that is done to a teacher's readings."""
        key = repr(teacher and teacher.config())
        if key not in self._evaluators:
            self._evaluators[key] = self.evaluator_for(teacher)
        return self._evaluators[key]


def read_teacher(evaluator: Evaluator, seed: int) -> Readings | None:
    """The teacher's readings.

    Raises:
        ValueError: It cannot be built, or read on this probe.
    """
    try:
        return evaluator.read_teacher(seed, 0)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def score_of(proxy: Proxy, student: Readings, teacher: Readings | None) -> NewScore:
    """A score, or why there is none: an architecture may fail in any way that a network can.

    Raises:
        MemoryError: There was not enough memory, which says nothing about the architecture.
    """
    score, reason = None, None
    with student.watch() as watch:
        try:
            score = proxy(student, teacher)
        except Exception as error:
            reason = failure_reason(error)
            if _is_out_of_memory(error):
                raise MemoryError(
                    f"Out of memory in the proxy {proxy.name!r} ({reason}). What was stored stays: make room, or take "
                    "a smaller batch or another device, and run the same again."
                ) from error
    if score is not None and not math.isfinite(score):
        score, reason = None, f"the score is {score}"
    return NewScore(score, reason, watch.seconds, watch.passes)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left; for the CPU and for MPS torch has no class of its own."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in message or "out of memory" in message)
