"""Architectures in, scored records out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import nn

from search_spaces import Architecture, SearchSpace

from .data import Probe
from .defaults import DEFAULT_PROXY
from .proxies import Proxy, ProxyFunction, RankAggregate, elementary_proxies, get_proxy
from .readings import Precision, Readings
from .seeding import isolated_random_state, stable_seed
from .teacher import Teacher, TeacherBank


@dataclass(frozen=True)
class Evaluation:
    """What scoring one architecture gave.

    Attributes:
        status: "ok", or "failed" with a `reason` and no score.
        reason: Why it failed.
        score: Mean over weight seeds and probes; higher is better. An aggregate gives none to an architecture by
            itself; in the records of a study its score is relative to all that the study has scored.
        score_std: Standard deviation over seeds and probes, 0 for one; None for aggregates.
        parts: Mean value of each term of the score or member of the aggregate, by name.
        seconds: Time of building and scoring.
    """

    status: str
    reason: str | None = None
    score: float | None = None
    score_std: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Record(Evaluation):
    """One evaluated architecture of a study: its place, its cost and its evaluation.

    Attributes:
        index: Order of asking, from 0.
        architecture: Text form.
        canonical: Text form of the architecture that stands for all with the same function.
        params: Trainable parameters; None where a failed one could not be counted.
        macs: Multiply-accumulates of one image; None likewise.
        latency_ms: Median latency, where the study measures it.
    """

    index: int = field(kw_only=True)
    architecture: str = field(kw_only=True)
    canonical: str = field(kw_only=True)
    params: int | None = field(kw_only=True)
    macs: int | None = field(kw_only=True)
    latency_ms: float | None = field(default=None, kw_only=True)


def resolve_device(device: str) -> str:
    """The device that "auto" stands for here, or the device given.

    Raises:
        ValueError: It is not known, or this machine does not have it.
    """
    number = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if number[name])
    kind, colon, index = device.partition(":")
    if kind not in number or (colon and not index.isdecimal()):
        raise ValueError(f"Unknown device {device!r}; allowed: auto, cpu, cuda, mps; cuda:1 is the second of its kind.")
    if int(index or 0) >= number[kind]:
        present = ", ".join(f"{name} ({count})" for name, count in number.items() if count)
        raise ValueError(f"This machine has no {device!r} that torch can use; it has: {present}.")
    return device


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
        teacher: Teacher | TeacherBank | None,
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
        self._bank: TeacherBank | None = TeacherBank((teacher,), (1.0,)) if isinstance(teacher, Teacher) else teacher
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

    def _read(self, teacher: Teacher, seed: int, probe: Probe) -> Readings:
        """The readings of a teacher that is seen to be built and to take the probe."""
        failure = f"The teacher {teacher.name!r} cannot be read on the probe {probe.name!r} ({_size(probe.input_size)})"
        try:
            readings = teacher.read(probe, seed, device=self.device, precision=self.precision)
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


def _check_classes(teacher: Teacher, readings: Readings, probe: Probe) -> None:
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
