"""The one evaluator: architectures x (proxy, condition, weight draw) -> scores, for searches and comparisons alike."""

from __future__ import annotations

import copy
import itertools
import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, pstdev

from torch import nn

from search_spaces.space import Architecture, SearchSpace

from ..data.probe import Probe
from ..networks.network import Network, TeacherBank
from ..networks.soundness import check_finite_weights
from ..options.search import DEFAULT_PROXY
from ..proxies.aggregate import RankAggregate
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy
from ..readings.core import Readings
from ..readings.network import read_network
from ..readings.passes import Precision
from ..runtime.devices import resolve_device
from ..runtime.failures import MAX_REASON, MachineError, failure_reason, stop_if_machine_failed
from ..runtime.seeding import isolated_random_state, stable_seed
from .records import NewScore, Score

SIZES = ("params", "macs")
"""The proxies that every comparison includes. They belong to the architecture as written, not to what it computes."""


# -- what is computed ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Condition:
    """The comparison condition: a teacher, a control derived from it, or none.

    Attributes:
        teacher: The reference network; None for none.
        treatment: Treatment of its readings: "shuffled", "no teacher" for noise instead of them, or None.
        control: Name of the control in tables; None for the requested teacher itself.
    """

    teacher: Network | None = None
    treatment: str | None = None
    control: str | None = None

    def context(self) -> dict[str, object]:
        """Everything about the condition that a score depends on, as JSON values."""
        return {"teacher": self.teacher.config() if self.teacher else None, "treatment": self.treatment}

    @cached_property
    def identity(self) -> str:
        """The context as text; equal conditions share their readings."""
        return json.dumps(self.context(), sort_keys=True)

    @cached_property
    def untreated(self) -> Condition:
        """The condition of the same teacher without a treatment."""
        return self if self.treatment is None else Condition(self.teacher)

    def apply(self, readings: Readings, seed: int) -> Readings:
        """The teacher's readings as proxies get them; the seed decides the order or the noise."""
        if self.treatment is None:
            return readings
        return readings.shuffled(seed) if self.treatment == "shuffled" else readings.replaced_by_noise(seed)


NO_TEACHER = Condition()


@dataclass(frozen=True)
class WeightDraw:
    """One draw of random weights, read on one probe.

    Attributes:
        seed: Seed of the weights.
        probe: Index of the probe.
    """

    seed: int
    probe: int = 0


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """The smallest unit of scoring: one proxy under one condition with one draw of weights."""

    proxy: Proxy
    condition: Condition
    draw: WeightDraw


def uses_teacher(proxy: Proxy) -> bool:
    """Whether a score may depend on the teacher. An unregistered function may, whatever it declares."""
    return proxy.needs_teacher or not proxy.is_registered


# -- the engine ---------------------------------------------------------------------------------


class TaskEvaluator:
    """Computes any set of score tasks on architectures of one space.

    The weights of a network come from a seed made of the weight seed and the canonical architecture, so a score is the
    same in any order, in any process and after any resume. Teachers are read once per process; a pickled copy reads
    them again.

    Args:
        space: Space of the architectures.
        probes: One or more batches, which a `WeightDraw` refers to by index.
        device: "auto", "cpu", "cuda" or "mps".
        precision: Memory layout and number format.
        canonical: Whether the canonical network is scored in place of each with the same function.
        scored_on: The device that scores are computed on, if workers have another than this process.

    Attributes:
        scored_on: The device that scores are computed on, and by which they are described.

    Raises:
        ValueError: There is no probe, a probe does not fit the space, or the device does not exist here.
    """

    def __init__(
        self,
        space: SearchSpace,
        probes: Sequence[Probe],
        *,
        device: str = "auto",
        precision: Precision | None = None,
        canonical: bool = True,
        scored_on: str | None = None,
    ) -> None:
        self.space = space
        self.probes = tuple(probes)
        self.device = resolve_device(device)
        self.scored_on = scored_on or self.device
        self.precision = precision or Precision()
        self.canonical = canonical
        self._teachers: dict[tuple[str, int | None, int], Readings] = {}
        if not self.probes:
            raise ValueError("Scoring needs at least one probe.")
        for probe in self.probes:
            _check_fit(probe, space)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_teachers": {}}

    def on(self, device: str | None) -> TaskEvaluator:
        """This evaluator on another device; itself if there is none, or if it is on it."""
        if device is None or device == self.device:
            return self
        moved = copy.copy(self)
        moved.device, moved._teachers = resolve_device(device), {}
        moved.scored_on = moved.device
        return moved

    def evaluate(self, architecture: Architecture, tasks: Sequence[ScoreTask]) -> Iterator[NewScore]:
        """Compute scores of one architecture, one at a time as they are taken.

        Registered proxies of one draw share one network and its readings. Any other has a network of its own, because
        what it does to the network is unknown.

        Args:
            architecture: The architecture.
            tasks: The tasks, those of one draw next to each other.

        Returns:
            The scores in the order of the tasks. The failure of a candidate is a score with a reason.

        Raises:
            RuntimeError: A teacher cannot be read; nothing can be scored then.
            OutOfMemory, MachineError: The machine failed, which says nothing about the architecture.
        """
        self._release(task.draw for task in tasks)
        teachers = [self.read_teacher(task.condition, task.draw) for task in tasks]
        for draw, group in itertools.groupby(zip(tasks, teachers, strict=True), key=lambda pair: pair[0].draw):
            pairs = list(group)
            needs = {need for task, _ in pairs if task.proxy.is_registered for need in task.proxy.needs}
            shared = self.read_student(architecture, draw, needs)
            for task, teacher in pairs:
                alone = not task.proxy.is_registered
                student = self.read_student(architecture, draw, task.proxy.needs) if alone else shared
                yield self._score(task.proxy, student, teacher)

    def _score(self, proxy: Proxy, student: Readings, teacher: Readings | None) -> NewScore:
        score, reason = None, None
        with student.watch() as watch:
            try:
                score = proxy(student, teacher)
            except Exception as error:  # a candidate may fail in any way that a network can
                try:
                    reason = failure_reason(error, f"in the proxy {proxy.name!r}")
                except MachineError:
                    self._teachers.clear()  # their readings hold memory, and perhaps this error
                    raise
        if score is not None and not math.isfinite(score):
            score, reason = None, f"the score is {score}"
        return NewScore(score, reason, watch.seconds, watch.passes)

    def read_student(self, architecture: Architecture, draw: WeightDraw, needs: Collection[str] = ()) -> Readings:
        """The readings of an architecture with the weights that its scores are computed from.

        Args:
            architecture: The architecture, whose own cost the readings have.
            draw: The weights and the probe.
            needs: Names of readings that will be taken, so that one forward pass serves them all.
        """
        built = self.space.canonical(architecture) if self.canonical else architecture

        def make() -> nn.Module:
            with isolated_random_state(stable_seed(draw.seed, str(built))):
                return self.space.build(built)

        return Readings(
            make,
            self.probes[draw.probe],
            device=self.device,
            precision=self.precision,
            cost=lambda: self.space.cost(architecture),
            needs=needs,
        )

    def read_teacher(self, condition: Condition, draw: WeightDraw) -> Readings | None:
        """The teacher's readings under a condition, taken once; None without a teacher.

        Those of trained weights do not depend on the weight seed.

        Raises:
            RuntimeError: The teacher cannot be built, or cannot be read on the probe.
            OutOfMemory, MachineError: The machine failed.
        """
        teacher = condition.teacher
        if teacher is None:
            return None
        fixed = teacher.trained and condition.treatment is None
        key = condition.identity, None if fixed else draw.seed, draw.probe
        if key not in self._teachers:
            if condition.treatment is None:
                readings = self._read(teacher, 0 if fixed else draw.seed, self.probes[draw.probe])
            else:
                untreated = self.read_teacher(condition.untreated, draw)
                assert untreated is not None
                readings = condition.apply(untreated, draw.seed)
            self._teachers[key] = readings
        return self._teachers[key]

    def _release(self, draws: Iterable[WeightDraw]) -> None:
        """Let go of teachers' readings that belong to other draws: a comparison goes from one draw to the next."""
        present = {(draw.seed, draw.probe) for draw in draws}
        probes = {probe for _, probe in present}
        self._teachers = {
            (identity, seed, probe): readings
            for (identity, seed, probe), readings in self._teachers.items()
            if (probe in probes if seed is None else (seed, probe) in present)
        }

    def _read(self, teacher: Network, seed: int, probe: Probe) -> Readings:
        """The readings of a teacher that can be built and that accepts the probe."""
        where = f"in the teacher {teacher.name!r}"
        failure = f"The teacher {teacher.name!r} cannot be read on the probe {probe.name!r} ({_size(probe.input_size)})"
        try:
            readings = read_network(teacher, probe, seed, device=self.device, precision=self.precision)
        except (RuntimeError, ValueError) as error:  # it does not convert such a probe
            stop_if_machine_failed(error, where)
            raise RuntimeError(f"{failure}: {error}") from error
        try:
            _ = readings.model
        except Exception as error:  # a network may fail to be built in any way
            stop_if_machine_failed(error, where)
            raise RuntimeError(f"The teacher {teacher.name!r} cannot be built: {error}") from error
        try:
            check_finite_weights(readings.model, f"The teacher {teacher.name}")
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        try:
            _ = readings.features
        except (RuntimeError, ValueError, TypeError, AssertionError, MemoryError) as error:
            stop_if_machine_failed(error, where)
            raise RuntimeError(f"{failure}: {error}") from error
        return readings


def _check_fit(probe: Probe, space: SearchSpace) -> None:
    if probe.input_size != space.input_size:
        raise ValueError(
            f"The probe {probe.name!r} has images of {_size(probe.input_size)}, but the space "
            f"{space.name!r} is made for {_size(space.input_size)}; create one to fit the other."
        )
    if probe.num_classes != space.num_classes:
        raise ValueError(
            f"The probe {probe.name!r} has {probe.num_classes} classes, but the networks of "
            f"{space.name!r} have {space.num_classes}; create the space with num_classes={probe.num_classes}."
        )


def _size(input_size: tuple[int, int, int]) -> str:
    channels, height, width = input_size
    return f"{height}x{width} with {channels} channels"


# -- the scores of a search ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """The value of a proxy for one weight draw: the weighted mean of its tasks, one task for each teacher."""

    proxy: Proxy
    tasks: tuple[ScoreTask, ...]
    weights: tuple[float, ...]

    def take(self, scores: Iterator[NewScore]) -> tuple[float | None, str | None]:
        """The value, or None and a reason, from the next scores."""
        values = []
        for task in self.tasks:
            result = next(scores)
            if result.score is None:
                teacher = task.condition.teacher
                named = f"against {teacher.name}: " if teacher and len(self.tasks) > 1 else ""
                return None, f"{named}{result.reason}"
            values.append(result.score)
        if len(values) == 1:
            return values[0], None
        return math.fsum(weight * value for weight, value in zip(self.weights, values, strict=True)), None


class Evaluator:
    """Scores architectures of one space with one proxy, averaged over weight seeds, probes and teachers.

    A score is the mean over seeds and probes. With a bank of teachers it is the weighted mean of the scores against
    each teacher, and so is every part of it; proxies that need no teacher are computed once.

    Args:
        space: Space of the architectures.
        teacher: The reference network of teacher-based proxies, or a bank of them; None for other proxies. The
            teachers of a bank have the classes of the probes.
        probes: One or more batches.
        proxy: A name, a function of the student's and the teacher's readings, or an aggregate. The default,
            `effective_capacity`, uses no teacher.
        seeds: Seeds of the weights. A teacher with random weights is drawn anew for each.
        device: "auto", "cpu", "cuda" or "mps".
        precision: Memory layout and number format.
        scored_on: The device that scores are computed on, if workers have another than this process.

    Raises:
        UnknownNameError: No proxy has this name.
        ValueError: The proxy needs a teacher, or space, probes and teacher do not fit each other.

    Example:
        >>> import diswot_search as ds
        >>> space = ds.create_space("nasbench201", channels=4, cells=1)
        >>> evaluator = ds.Evaluator(space, None, ds.create_probe("digits", batch_size=8), "params", device="cpu")
        >>> cell = "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
        >>> [score.status for score in evaluator.evaluate([space.parse(cell)])]
        ['ok']
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
        scored_on: str | None = None,
    ) -> None:
        self.teacher = teacher
        self.proxy = get_proxy(proxy)
        self.seeds = tuple(seeds)
        if not self.seeds:
            raise ValueError("Scoring needs at least one weight seed.")
        if self.proxy.needs_teacher and teacher is None:
            raise ValueError(
                f"The proxy {self.proxy.name!r} compares with a teacher; none was given. Name a teacher, such "
                f"as cifar_resnet56, or take a proxy that needs none, such as {DEFAULT_PROXY}."
            )
        batches = (probes,) if isinstance(probes, Probe) else probes
        self._tasks = TaskEvaluator(space, batches, device=device, precision=precision, scored_on=scored_on)
        self.space, self.probes = space, self._tasks.probes
        self.device, self.precision = self._tasks.device, self._tasks.precision
        self.scored_on = self._tasks.scored_on
        bank = TeacherBank((teacher,), (1.0,)) if isinstance(teacher, Network) else teacher
        self._conditions = tuple(map(Condition, bank.teachers)) if bank else ()
        self._weights = bank.weights if bank else ()
        self._draws = [WeightDraw(seed, index) for seed in self.seeds for index in range(len(self.probes))]
        self._plan = [value for draw in self._draws for value in self._values_of(draw)]

    def _values_of(self, draw: WeightDraw) -> Iterator[_Value]:
        """The values of one draw: the components, followed by the proxy itself unless it is an aggregate."""
        whole = (self.proxy,) if isinstance(self.proxy, Proxy) else ()
        for proxy in (*self.proxy.components, *whole):
            against = self._conditions if uses_teacher(proxy) and self._conditions else (NO_TEACHER,)
            tasks = tuple(ScoreTask(proxy, condition, draw) for condition in against)
            yield _Value(proxy, tasks, self._weights if len(tasks) > 1 else (1.0,))

    def on(self, device: str | None) -> Evaluator:
        """This evaluator on another device; itself if there is none, or if it is on it."""
        if device is None or device == self.device:
            return self
        moved = copy.copy(self)
        moved._tasks = self._tasks.on(device)
        moved.device, moved.scored_on = moved._tasks.device, moved._tasks.scored_on
        return moved

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Score architectures. The failure of a candidate is a status, never an exception.

        Returns:
            The scores in the order of the architectures.

        Raises:
            RuntimeError: A teacher cannot be read; nothing can be scored then.
            OutOfMemory, MachineError: The machine failed, which says nothing about the architecture.
        """
        return [self._score(architecture) for architecture in architectures]

    def _score(self, architecture: Architecture) -> Score:
        for draw in self._draws:
            self.read_teachers(draw.seed, draw.probe)
        started = time.perf_counter()
        results = self._tasks.evaluate(architecture, [task for value in self._plan for task in value.tasks])
        parts: dict[str, list[float]] = {component.name: [] for component in self.proxy.components}
        scores: list[float] = []
        for planned in self._plan:
            value, reason = planned.take(results)
            if value is None:
                component = "" if isinstance(self.proxy, Proxy) else f"{planned.proxy.name}: "
                reason = f"{component}{reason}"[:MAX_REASON]
                return Score("failed", reason=reason, seconds=time.perf_counter() - started)
            (scores if planned.proxy is self.proxy else parts[planned.proxy.name]).append(value)
        seconds = time.perf_counter() - started
        means = {name: fmean(values) for name, values in parts.items()}
        if not scores:
            return Score("ok", parts=means, seconds=seconds)
        return Score("ok", None, fmean(scores), pstdev(scores), means, seconds)

    def read_student(
        self, architecture: Architecture, seed: int = 0, probe_index: int = 0, needs: Collection[str] = ()
    ) -> Readings:
        """The readings of an architecture with the weights that its score is computed from.

        Args:
            architecture: The architecture; the canonical one with the same function is built.
            seed: Seed of the weights.
            probe_index: Index of the probe.
            needs: Names of readings that will be taken, so that one forward pass serves them all.
        """
        return self._tasks.read_student(architecture, WeightDraw(seed, probe_index), needs)

    def read_teacher(self, seed: int, probe_index: int) -> Readings | None:
        """The readings of the one teacher, as `read_teachers` gives them; None without a teacher.

        Raises:
            RuntimeError: The teacher cannot be built or read on this probe.
            ValueError: There are several teachers.
        """
        if len(self._conditions) > 1:
            raise ValueError(f"There are {len(self._conditions)} teachers; `read_teachers` reads them all.")
        return next(iter(self.read_teachers(seed, probe_index)), None)

    def read_teachers(self, seed: int, probe_index: int) -> tuple[Readings, ...]:
        """Every teacher's readings, taken once for each probe and, for random weights, each weight seed.

        Raises:
            RuntimeError: A teacher cannot be built or read on this probe, or is one of several with other classes.
        """
        teachers = []
        for condition in self._conditions:
            readings = self._tasks.read_teacher(condition, WeightDraw(seed, probe_index))
            assert readings is not None
            if len(self._conditions) > 1:
                _check_classes(condition, readings, self.probes[probe_index])
            teachers.append(readings)
        return tuple(teachers)

    def config(self) -> dict[str, object]:
        """Everything that a score depends on, as JSON values."""
        return {
            "space": self.space.config(),
            "teacher": self.teacher.config() if self.teacher else None,
            "probes": [probe.config() for probe in self.probes],
            "proxy": self.proxy.identity,
            "seeds": list(self.seeds),
            "device": self.scored_on.partition(":")[0],
            "channels_last": self.precision.channels_last,
            "bf16": self.precision.bf16,
        }


def _check_classes(condition: Condition, readings: Readings, probe: Probe) -> None:
    """Refuse a teacher of a bank with other classes: the scores that are averaged must be about the same task."""
    classes = readings.logits.shape[1]
    if classes != probe.num_classes:
        name = condition.teacher.name if condition.teacher else None
        raise RuntimeError(
            f"The teacher {name!r} has {classes} classes, but the probe {probe.name!r} has "
            f"{probe.num_classes}; the teachers of a bank must have those of the probe: give it a classifier for them."
        )


def check_teacher_readable(evaluator: TaskEvaluator, condition: Condition, draw: WeightDraw) -> None:
    """Read a teacher before any score is computed.

    Raises:
        ValueError: The teacher cannot be built, or cannot be read on the probe.
        OutOfMemory, MachineError: The machine failed.
    """
    try:
        evaluator.read_teacher(condition, draw)
    except MachineError:
        raise
    except RuntimeError as error:
        raise ValueError(str(error)) from error
