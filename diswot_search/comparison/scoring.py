"""The scores of a comparison: the stored ones are read, the missing ones are computed and stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Architecture

from ..data.probe import Probe
from ..proxies.proxy import Proxy
from ..runtime.at_hand import AtHand
from ..runtime.devices import device_name
from ..runtime.executors.base import Executor, Placement
from ..runtime.executors.dispatch import Activity, Dispatcher
from ..runtime.executors.serial import SerialExecutor
from ..runtime.interruption import Interruption
from ..runtime.store import SECONDS_UNTIL_STORED
from ..runtime.worker_threads import WorkerThreads, threads_of_each
from ..study.evaluator import NO_TEACHER, SIZES, Condition, ScoreTask, TaskEvaluator, WeightDraw, uses_teacher
from ..study.loop import Loop
from ..study.records import NewScore
from .store import ScoreStore, Selection, StoredScore

_COSTS_AT_ONCE = 256
"""Most costs that are stored in one transaction, since many a cost is counted sooner than a transaction ends."""


@dataclass(frozen=True, eq=False)
class ScoreSeries:
    """The scores of one proxy under one condition, over all architectures and weight draws.

    Attributes:
        proxy: The proxy.
        condition: The condition; `NO_TEACHER` for a proxy that uses no teacher.
        numbers: Number of the stored series for each weight draw.
    """

    proxy: Proxy
    condition: Condition
    numbers: tuple[int, ...]

    @property
    def is_size(self) -> bool:
        """Whether the scores depend on the architecture as written alone, not on its weights."""
        return self.proxy.identity in SIZES


@dataclass(frozen=True, eq=False)
class SeriesScores:
    """The scores of one series, read from the store.

    Attributes:
        scores: (S, K) scores of S draws and K architectures; NaN where a score failed.
        seconds: Median seconds of a score; NaN without scores.
        conditions: Conditions of the time measurements.
        reasons: Reasons of the failures by (s, k).
        workers: Names of the workers that computed the S rows of K scores; None for the process of the comparison
            itself.
    """

    scores: NDArray[np.float64]
    seconds: float
    conditions: frozenset[str]
    reasons: dict[tuple[int, int], str]
    workers: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class ComparisonTask:
    """The missing scores of one architecture in one draw.

    Attributes:
        draw: Number of the draw.
        architecture: The architecture as text.
        numbers: Numbers of the series; none if nothing is missing.
    """

    draw: int
    architecture: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ComparisonProgram:
    """The program of a comparison.

    Attributes:
        evaluator: Computes the scores.
        seeds: Seed of the weights of each draw.
        series: All series that a task may name.
    """

    evaluator: TaskEvaluator
    seeds: tuple[int, ...]
    series: tuple[ScoreSeries, ...]

    def __call__(self, placement: Placement) -> Callable[[ComparisonTask], dict[int, NewScore]]:
        evaluator = self.evaluator.on(placement.device)
        by_number = {number: one for one in self.series for number in one.numbers}

        def compute(task: ComparisonTask) -> dict[int, NewScore]:
            draw = WeightDraw(self.seeds[task.draw], task.draw % len(evaluator.probes))
            chosen = [by_number[number] for number in task.numbers]
            tasks = [ScoreTask(one.proxy, one.condition, draw) for one in chosen]
            scores = evaluator.evaluate(evaluator.space.parse(task.architecture), tasks)
            return dict(zip(task.numbers, scores, strict=True))

        return compute


class Scoring:
    """Fills a store with the scores of a comparison.

    Args:
        evaluator: Computes the scores.
        store: Stores the scores.
        seeds: Seed of the weights of each draw.
        versions: Versions of the packages that a score depends on.
        retry_failed: Whether stored failures are computed again.
        interruption: Asked before each architecture.
        executor: Where the scores are computed.
        timeout_s: Longest time of one architecture in seconds.
    """

    def __init__(
        self,
        evaluator: TaskEvaluator,
        store: ScoreStore,
        seeds: Sequence[int],
        *,
        versions: Mapping[str, str],
        retry_failed: bool,
        interruption: Interruption,
        executor: Executor | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.store = store
        self.seeds = tuple(seeds)
        self.versions = dict(versions)
        self.retry_failed = retry_failed
        self.interruption = interruption
        self.executor = executor or SerialExecutor()
        self.timeout_s = timeout_s
        self.at_hand = AtHand(store.path)
        self._threads = WorkerThreads(store, self.executor, on_cpu=evaluator.scored_on == "cpu")
        self._dispatcher: Dispatcher[dict[int, NewScore]] | None = None

    def series_of(self, proxy: Proxy, condition: Condition) -> ScoreSeries:
        """The series of a proxy under a condition, which holds all that its scores depend on."""
        evaluator = self.evaluator
        if not uses_teacher(proxy):
            condition = NO_TEACHER
        context: dict[str, object] = {"space": evaluator.space.config(), "versions": self.versions}
        if proxy.identity in SIZES:
            return ScoreSeries(proxy, condition, (self.store.series(proxy.identity, context),) * len(self.seeds))
        context |= {
            "device": evaluator.scored_on.partition(":")[0],
            "channels_last": evaluator.precision.channels_last,
            "bf16": evaluator.precision.bf16,
            **condition.context(),
        }
        numbers = [
            self.store.series(proxy.identity, context | {"probe": self._probe(draw).fingerprint})
            for draw in range(len(self.seeds))
        ]
        return ScoreSeries(proxy, condition, tuple(numbers))

    # -- computing ------------------------------------------------------------------------------

    def count_costs(
        self,
        series: Iterable[ScoreSeries],
        architectures: Sequence[Architecture],
        show: Callable[[bool], None] = lambda replayed: None,
    ) -> dict[str, StoredScore]:
        """Count the costs that were never counted, and store them within `SECONDS_UNTIL_STORED`.

        Args:
            series: The series.
            architectures: The architectures.
            show: Called for each architecture; the flag tells whether its cost was stored before.

        Returns:
            The first of the sizes by architecture; its score is None if the cost cannot be counted.

        Raises:
            KeyboardInterrupt, OutOfMemory, MachineError: See `Loop.run`.
        """
        sizes = [one for one in dict.fromkeys(series) if one.is_size]
        by_text = {str(architecture): architecture for architecture in architectures}
        chosen = self.store.select(by_text)
        pending: dict[str, dict[int, NewScore]] = {}
        workers: dict[str, str | None] = {}
        since = time.monotonic()

        def flush() -> None:
            nonlocal since
            if pending:
                self.store.add(0, pending, self._measured_on(0), workers)
                pending.clear()
                workers.clear()
            since = time.monotonic()

        def store(task: ComparisonTask, scores: dict[int, NewScore], worker: str | None) -> str:
            pending[task.architecture] = scores
            workers[task.architecture] = worker
            if len(pending) == _COSTS_AT_ONCE or time.monotonic() - since > SECONDS_UNTIL_STORED:
                flush()
            return task.architecture

        # Costs in closed form are counted sooner than they are sent to a worker.
        executor = SerialExecutor() if self.evaluator.space.has_closed_cost else self.executor
        try:
            self._run(executor, sizes, self._tasks(0, sizes, chosen), store, show)
        finally:
            flush()
        return chosen.scores(sizes[0].numbers[0], 0)

    def compute(
        self,
        series: Iterable[ScoreSeries],
        architectures: Sequence[Architecture],
        show: Callable[[bool], None],
    ) -> None:
        """Compute and store every missing score that is not a size, draw by draw.

        Args:
            series: The series.
            architectures: The architectures.
            show: Called for each pair of draw and distinct network; the flag tells whether all of it was stored before.

        Raises:
            KeyboardInterrupt, OutOfMemory, MachineError: See `Loop.run`.
        """
        others = [one for one in dict.fromkeys(series) if not one.is_size]
        by_text = {str(scored): scored for scored in map(self.scored, architectures)}
        chosen = self.store.select(by_text)
        tasks = [task for draw in range(len(self.seeds)) for task in self._tasks(draw, others, chosen)]

        def store(task: ComparisonTask, scores: dict[int, NewScore], worker: str | None) -> str:
            self._threads.note()
            text, seed = task.architecture, self.seeds[task.draw]
            self.store.add(seed, {text: scores}, self._measured_on(task.draw), {text: worker})
            return task.architecture

        self._run(self.executor, others, tasks, store, show)

    def _run(
        self,
        executor: Executor,
        series: Sequence[ScoreSeries],
        tasks: Sequence[ComparisonTask],
        store: Callable[[ComparisonTask, dict[int, NewScore], str | None], str],
        show: Callable[[bool], None],
    ) -> None:
        if not any(task.numbers for task in tasks):  # then no worker is needed
            executor = SerialExecutor()
        dispatcher: Dispatcher[dict[int, NewScore]] = Dispatcher(
            executor, interruption=self.interruption, timeout_s=self.timeout_s
        )
        self._dispatcher = dispatcher
        note = self.at_hand.ended if executor.is_isolated else self.at_hand.begin

        def begin(task: ComparisonTask) -> dict[int, NewScore] | None:
            """Note the task at hand; gives its failures if it ended the process in an earlier run."""
            if not all(one.is_size for one in series):
                self._threads.compare()
            reason = note(f"draw {task.draw} of series {list(task.numbers)}: {task.architecture}")
            return None if reason is None else _lost(task, reason)

        loop = Loop(
            dispatcher=dispatcher,
            stored=lambda task: None if task.numbers else task.architecture,
            store=store,
            lost=_lost,
            show=lambda text, replayed: show(replayed),
            interruption=self.interruption,
            describe=lambda task: f"in {task.architecture}",
            begin=begin,
            idle=self.store.settle,
        )
        with (
            self.store.gathering(enabled=executor.is_isolated),
            dispatcher.started(ComparisonProgram(self.evaluator, self.seeds, tuple(series))),
        ):
            loop.run(tasks)

    def activities(self) -> list[Activity]:
        """The work of each worker at this moment."""
        return [] if self._dispatcher is None else self._dispatcher.activities()

    def _tasks(self, draw: int, series: Sequence[ScoreSeries], chosen: Selection) -> list[ComparisonTask]:
        """The tasks of a draw, in the order of the architectures."""
        missing: dict[str, list[int]] = {text: [] for text in chosen.architectures}
        for one in series:
            number = one.numbers[draw]
            for text in chosen.missing(number, self._seed(one, draw), failed=self.retry_failed):
                missing[text].append(number)
        return [ComparisonTask(draw, text, tuple(numbers)) for text, numbers in missing.items()]

    def scored(self, architecture: Architecture) -> Architecture:
        """The architecture whose network is scored in place of this one."""
        return self.evaluator.space.canonical(architecture) if self.evaluator.canonical else architecture

    def _seed(self, series: ScoreSeries, draw: int) -> int:
        """The seed that a score is stored with; sizes do not depend on the weights."""
        return 0 if series.is_size else self.seeds[draw]

    def _probe(self, draw: int) -> Probe:
        return self.evaluator.probes[draw % len(self.evaluator.probes)]

    def _measured_on(self, draw: int) -> str:
        """Conditions under which this run measures the seconds of a draw."""
        images, threads = len(self._probe(draw).labels), threads_of_each(self.executor)
        number = "bfloat16 autocast" if self.evaluator.precision.bf16 else "float32"
        beside = f", {self.executor.workers:,} workers at once" if self.executor.workers > 1 else ""
        return f"{device_name(self.evaluator.scored_on)}, {threads} thread(s), batch {images}, {number}{beside}"

    # -- reading --------------------------------------------------------------------------------

    def verify(self, series: Iterable[ScoreSeries], architectures: Sequence[Architecture]) -> None:
        """Verify the checksums of the stored scores of each series.

        Raises:
            RunFolderError: A score was changed after it was stored; the message names it.
        """
        written = self.store.select(map(str, architectures))
        scored = self.store.select(str(self.scored(architecture)) for architecture in architectures)
        for one in dict.fromkeys(series):
            chosen = written if one.is_size else scored
            for draw, number in enumerate(one.numbers):
                chosen.verify(number, self._seed(one, draw))

    def read(
        self, series: Iterable[ScoreSeries], architectures: Sequence[Architecture]
    ) -> dict[ScoreSeries, SeriesScores]:
        """The stored scores of each series, in the order of the architectures."""
        written = [str(architecture) for architecture in architectures]
        scored = [str(self.scored(architecture)) for architecture in architectures]
        chosen_written, chosen_scored = self.store.select(written), self.store.select(scored)
        return {
            one: self._read(one, *((chosen_written, written) if one.is_size else (chosen_scored, scored)))
            for one in dict.fromkeys(series)
        }

    def _read(self, series: ScoreSeries, chosen: Selection, texts: Sequence[str]) -> SeriesScores:
        by_draw = [chosen.scores(number, self._seed(series, draw)) for draw, number in enumerate(series.numbers)]
        rows = [[of_draw[text] for text in texts] for of_draw in by_draw]
        scores = np.array([[math.nan if one.score is None else one.score for one in row] for row in rows])
        successes = [one for row in rows for one in row if one.score is not None]  # a failure may come early
        seconds = float(np.median([one.seconds for one in successes])) if successes else math.nan
        reasons = {(s, k): one.reason for s, row in enumerate(rows) for k, one in enumerate(row) if one.reason}
        workers = tuple(tuple(one.worker for one in row) for row in rows)
        return SeriesScores(scores, seconds, frozenset(one.conditions for one in successes), reasons, workers)


def _lost(task: ComparisonTask, reason: str) -> dict[int, NewScore]:
    """The failures of a task that ended its process.

    Any of its proxies may have done so. All of them fail, and `retry_failed` computes them again.
    """
    return {number: NewScore(None, reason, 0.0, ()) for number in task.numbers}
