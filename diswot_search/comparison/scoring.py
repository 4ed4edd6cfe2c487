"""The scores of a comparison: the stored ones are read, the missing ones are computed and stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from search_spaces.space import Architecture

from ..data.probe import Probe
from ..proxies.proxy import Proxy
from ..runtime.at_hand import AtHand
from ..runtime.devices import device_name
from ..runtime.interruption import Interruption
from ..study.evaluator import NO_TEACHER, SIZES, Condition, ScoreTask, TaskEvaluator, WeightDraw, uses_teacher
from ..study.loop import SerialLoop
from ..study.records import NewScore
from .store import ScoreStore, Selection, StoredScore

_COSTS_AT_ONCE = 256
"""Number of costs that are stored in one transaction; a cost is counted sooner than a transaction ends."""


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
    """

    scores: NDArray[np.float64]
    seconds: float
    conditions: frozenset[str]
    reasons: dict[tuple[int, int], str]


@dataclass(frozen=True)
class _Work:
    """The missing scores of one architecture in one draw: what a process needs to compute them."""

    draw: int
    text: str
    architecture: Architecture
    series: tuple[ScoreSeries, ...]


class Scoring:
    """Fills a store with the scores of a comparison.

    Args:
        evaluator: Computes the scores.
        store: Stores the scores.
        seeds: Seed of the weights of each draw.
        versions: Versions of the packages that a score depends on.
        retry_failed: Whether stored failures are computed again.
        interruption: Asked before each architecture.
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
    ) -> None:
        self.evaluator = evaluator
        self.store = store
        self.seeds = tuple(seeds)
        self.versions = dict(versions)
        self.retry_failed = retry_failed
        self.interruption = interruption
        self.at_hand = AtHand(store.path)

    def series_of(self, proxy: Proxy, condition: Condition) -> ScoreSeries:
        """The series of a proxy under a condition, which holds all that its scores depend on."""
        evaluator = self.evaluator
        if not uses_teacher(proxy):
            condition = NO_TEACHER
        context: dict[str, object] = {"space": evaluator.space.config(), "versions": self.versions}
        if proxy.identity in SIZES:
            return ScoreSeries(proxy, condition, (self.store.series(proxy.identity, context),) * len(self.seeds))
        context |= {
            "device": evaluator.device.partition(":")[0],
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
        self, series: Iterable[ScoreSeries], architectures: Sequence[Architecture]
    ) -> dict[str, StoredScore]:
        """Count the costs that were never counted.

        Returns:
            The first of the sizes by architecture; its score is None if the cost cannot be counted.

        Raises:
            KeyboardInterrupt, OutOfMemory, MachineError: See `SerialLoop.run`.
        """
        sizes = [one for one in dict.fromkeys(series) if one.is_size]
        by_text = {str(architecture): architecture for architecture in architectures}
        chosen = self.store.select(by_text)
        pending: dict[str, dict[int, NewScore]] = {}

        def flush() -> None:
            if pending:
                self.store.add(0, pending, self._measured_on(0))
                pending.clear()

        def store(work: _Work, scores: dict[int, NewScore]) -> str:
            pending[work.text] = scores
            if len(pending) == _COSTS_AT_ONCE:
                flush()
            return work.text

        try:
            self._run(self._work(0, sizes, chosen, by_text), store, lambda replayed: None)
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
            KeyboardInterrupt, OutOfMemory, MachineError: See `SerialLoop.run`.
        """
        others = [one for one in dict.fromkeys(series) if not one.is_size]
        by_text = {str(scored): scored for scored in map(self.scored, architectures)}
        chosen = self.store.select(by_text)
        work = [one for draw in range(len(self.seeds)) for one in self._work(draw, others, chosen, by_text)]

        def store(work: _Work, scores: dict[int, NewScore]) -> str:
            self.store.add(self.seeds[work.draw], {work.text: scores}, self._measured_on(work.draw))
            return work.text

        self._run(work, store, show)

    def _run(
        self,
        work: Iterable[_Work],
        store: Callable[[_Work, dict[int, NewScore]], str],
        show: Callable[[bool], None],
    ) -> None:
        SerialLoop(
            stored=lambda one: None if one.series else one.text,
            compute=self._scores,
            store=store,
            show=lambda text, replayed: show(replayed),
            interruption=self.interruption,
            describe=lambda one: f"in {one.text}",
            begin=self._begin,
        ).run(work)

    def _begin(self, work: _Work) -> dict[int, NewScore] | None:
        """Note the work at hand; gives its failures if it ended the process in an earlier run.

        Any of its proxies may have done so. All of them fail, and `retry_failed` computes them again.
        """
        series = [one.numbers[work.draw] for one in work.series]
        reason = self.at_hand.begin(f"draw {work.draw} of series {series}: {work.text}")
        return None if reason is None else {number: NewScore(None, reason, 0.0, ()) for number in series}

    def _scores(self, work: _Work) -> dict[int, NewScore]:
        """The missing scores of an architecture by the number of their series."""
        draw = WeightDraw(self.seeds[work.draw], work.draw % len(self.evaluator.probes))
        tasks = [ScoreTask(one.proxy, one.condition, draw) for one in work.series]
        scores = self.evaluator.evaluate(work.architecture, tasks)
        return {one.numbers[work.draw]: score for one, score in zip(work.series, scores, strict=True)}

    def _work(
        self, draw: int, series: Sequence[ScoreSeries], chosen: Selection, architectures: Mapping[str, Architecture]
    ) -> list[_Work]:
        """The work of a draw, in the order of the architectures; it has no series where nothing is missing."""
        missing: dict[str, list[ScoreSeries]] = {text: [] for text in chosen.architectures}
        for one in series:
            for text in chosen.missing(one.numbers[draw], self._seed(one, draw), failed=self.retry_failed):
                missing[text].append(one)
        return [_Work(draw, text, architectures[text], tuple(some)) for text, some in missing.items()]

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
        images, threads = len(self._probe(draw).labels), torch.get_num_threads()
        number = "bfloat16 autocast" if self.evaluator.precision.bf16 else "float32"
        return f"{device_name(self.evaluator.device)}, {threads} thread(s), batch {images}, {number}"

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
        return SeriesScores(scores, seconds, frozenset(one.conditions for one in successes), reasons)
