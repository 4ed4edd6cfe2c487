"""The job of `compare`: how well proxies rank the architectures of a table of known accuracies."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.tables import AccuracyTable, read_table, table_of

from ..checks import check_whole
from ..comparison.plan import (
    MIN_ARCHITECTURES,
    as_table,
    choose_architectures,
    create_conditions,
    members_of,
    resolve_proxies,
)
from ..comparison.results import ProxyResult, ScoreTable, check_resamples, summarise
from ..comparison.scoring import ScoreSeries, Scoring, SeriesScores
from ..comparison.store import ScoreStore, StoredScore
from ..data.description import DataDescription, describe_probe
from ..networks.network import Network, TeacherBank
from ..options.base import changed, from_options, shared
from ..options.compare import CompareOptions, TableOptions
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..proxies.proxy import Proxy
from ..readings.passes import Precision
from ..reports.comparison import format_comparison, to_csv, to_json, to_markdown, to_text
from ..reports.comparison_figures import COMPARISON_PICTURES
from ..reports.progress import CostProgress, ProgressBar, worker_lines
from ..reports.style import to_png
from ..resolve.executors import as_executor, device_of
from ..resolve.searches import as_teacher
from ..runtime.configuration import versions
from ..runtime.files import csv_line
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE
from ..study.evaluator import (
    NO_TEACHER,
    SIZES,
    Condition,
    TaskEvaluator,
    WeightDraw,
    check_teacher_readable,
    uses_teacher,
)
from .job import Job
from .search import weight_seeds
from .subjects import named_probes, named_space, named_teacher


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        scores: The raw scores and the accuracies.
        results: The statistics of each proxy and its controls, in the order of the options.
        path: The run folder, if there is one.
    """

    scores: ScoreTable
    results: list[ProxyResult] = field(repr=False)
    path: Path | None = None

    def __getitem__(self, label: str) -> ProxyResult:
        """The result with this label.

        Raises:
            UnknownNameError: No result has this label; near labels are named.
        """
        by_label = {result.label: result for result in self.results}
        if label not in by_label:
            raise UnknownNameError(unknown_name_message("label", label, by_label))
        return by_label[label]

    def __repr__(self) -> str:
        table = self.scores
        return (
            f"<Comparison of {len(self.results)} scores on {len(table.architectures)} architectures of {table.space} "
            f"by {table.column}, {self.path or 'in memory'}>"
        )

    def __str__(self) -> str:
        return to_text(self.scores, self.results)

    def to_markdown(self) -> str:
        """The table with its legend for a README, the best Spearman first, each proxy's controls beneath it."""
        return to_markdown(self.scores, self.results)

    def _repr_markdown_(self) -> str:
        """The table in a notebook."""
        return self.to_markdown()

    def to_csv(self) -> str:
        """All results, one row each and every number in a column of its own."""
        return to_csv(self.scores, self.results)

    def to_json(self) -> str:
        """All results, with the correlations between the scores; NaN is null."""
        return to_json(self.scores, self.results)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """PNG files by name: scatter, correlations, heat map, regret over budgets, correlation against cost."""
        for name, draw in COMPARISON_PICTURES.items():
            yield name, to_png(draw(self.scores, self.results))


@from_options(CompareOptions)
def compare(options: CompareOptions) -> Comparison:
    """
    Returns:
        Scores and results. The seconds of an aggregate are the sum of its members'.

    Raises:
        ValueError: A name, an option or a column is unknown; the table is empty or of another space; a proxy needs a
            teacher and there is none, or the teacher is a bank; or space, probe and teacher do not fit each other.
        FileNotFoundError: The file of the table does not exist.
        OutOfMemory, MachineError: The machine failed; what was stored stays, and the same call continues.
        RunFolderError: The run folder cannot be used.
    """
    return ComparisonRun(options).complete()


@dataclass(frozen=True, eq=False)
class _Label:
    """One name in the table of scores: a proxy or an aggregate, or a control of it, and the series that make it."""

    text: str
    proxy: Proxy | RankAggregate
    condition: Condition
    series: tuple[ScoreSeries, ...]


MAX_BINS = 1000
"""The largest number of bins of sizes."""


class ComparisonRun(Job[CompareOptions, Comparison]):
    """The job of `compare`."""

    FOLDER = ScoreStore

    def check(self) -> None:
        options = self.options
        self.seeds = tuple(weight_seeds(options.seed, options.weight_draws))
        check_whole("bootstrap", options.bootstrap, least=0)
        if options.top_k is not None:
            check_whole("top_k", options.top_k, least=1)
        check_whole("bins", options.bins, least=1, most=MAX_BINS)
        self.table = _read_table(options)
        others = self._resolve_subjects()
        self.precision = Precision(channels_last=options.channels_last, bf16=options.bf16)
        self.bootstrap, self.top_k, self.bins = options.bootstrap, options.top_k, options.bins
        self.canonical = options.canonical
        self.retry_failed = options.retry_failed
        self.progress = options.shows_progress
        self.interruption = Interruption()
        requested = None if options.architectures is None else list(map(str, options.architectures))
        self.architectures, self.left_out = choose_architectures(
            self.space, self.table, requested, options.sample, options.seed, options.include_untrainable
        )
        check_resamples(self.bootstrap, len(self.architectures))
        self.versions = {name: version for name, version in versions().items() if name != "python"}
        self._proxies = resolve_proxies(options.proxies)
        self._conditions_compared = create_conditions(
            self._proxies,
            self.space,
            self.probes[0],
            teacher=self.teacher,
            controls=options.controls,
            other=others[0],
            depth=others[1],
        )
        device = device_of(options, options.device)
        self.evaluator = TaskEvaluator(
            self.space,
            self.probes,
            device=device.here,
            scored_on=device.of_results,
            precision=self.precision,
            canonical=self.canonical,
        )
        self.executor = as_executor(options, len(self.architectures) * len(self.seeds))
        self.executor.check(self.evaluator)
        compared = self._conditions_compared
        self._check_readable(compared if any(map(uses_teacher, members_of(self._proxies))) else [NO_TEACHER])
        if self.top_k is not None and self.top_k > len(self.architectures):
            raise ValueError(f"top_k is {self.top_k}, but {len(self.architectures)} architectures are compared.")
        self.config = self._config(self._proxies, compared) | {
            "architectures": requested,
            "sample": options.sample,
            "seed": options.seed,
            "weight_draws": options.weight_draws,
            "include_untrainable": options.include_untrainable,
        }
        self.reach(self.executor)

    def descriptions(self) -> Sequence[DataDescription]:
        return [describe_probe(probe) for probe in self.probes]

    def open(self) -> ScoreStore:
        self.store = ScoreStore(self.options.out)
        self.scoring = Scoring(
            self.evaluator,
            self.store,
            self.seeds,
            versions=self.versions,
            retry_failed=self.retry_failed,
            interruption=self.interruption,
            executor=self.executor,
            timeout_s=self.options.candidate_timeout_s,
        )
        with self.store.released_on_failure():
            self.labels = self._plan(self._proxies, self._conditions_compared)
            self.scoring.verify(self._series, self.architectures)  # before anything is written
        return self.store

    def report(self, result: Comparison) -> Iterable[object]:
        return (format_comparison(result.scores, result.results), f"run folder: {result.path}")

    def _resolve_subjects(self) -> tuple[Network | None, Network | None]:
        """Set the space, the teacher and the probes; returns the teachers of the controls."""
        options = self.options
        draws = options.weight_draws
        self.probes = named_probes(options, options.probe, draws if options.fresh_probes else 1)
        if len(self.probes) not in (1, draws):
            raise ValueError(f"There are {len(self.probes)} probes for {draws} draws; give one, or one for each draw.")
        self.space = named_space(options, self.probes[0])
        teacher = named_teacher(options, self.space, self.probes[0])
        other, depth = (
            as_teacher(one, self.space, self.probes[0]) for one in (options.other_teacher, options.other_depth)
        )
        if isinstance(teacher, TeacherBank) or isinstance(other, TeacherBank) or isinstance(depth, TeacherBank):
            raise ValueError(
                "A comparison has one teacher; compare with each of the bank in the same run folder. The scores of "
                "`search` against the bank are the weighted means of those."
            )
        self.teacher = teacher
        return other, depth

    # -- before any work ------------------------------------------------------------------------

    def _config(self, proxies: Sequence[Proxy | RankAggregate], conditions: Sequence[Condition]) -> dict[str, object]:
        """Everything needed to run the comparison again, and hashes of its architectures and accuracies.

        The table does not name the rows of its file that it was made of. The hash of the accuracies stands for them.
        """
        texts = [str(architecture) for architecture in self.architectures]
        return {
            "space": self.space.config(),
            "table": self.table.name,
            "column": self.table.column,
            "compared": {
                "count": len(texts),
                "left_out": self.left_out,
                "architectures_sha256": _sha256(texts),
                "accuracies_sha256": _sha256([self.table[text] for text in texts]),
            },
            "proxies": [proxy.name for proxy in proxies],
            "identities": [proxy.identity for proxy in proxies],
            "teacher": self.teacher.config() if self.teacher else None,
            "controls": {
                condition.control: condition.context() for condition in conditions if condition.control is not None
            },
            "probes": [probe.config() for probe in self.probes],
            "canonical": self.canonical,
            "bootstrap": self.bootstrap,
            "top_k": self.top_k,
            "bins": self.bins,
            "device": self.evaluator.scored_on.partition(":")[0],
            "channels_last": self.precision.channels_last,
            "bf16": self.precision.bf16,
            "versions": versions(),
        }

    def _check_readable(self, conditions: Sequence[Condition]) -> None:
        """Check before a folder is made that every teacher can be read on the first probe."""
        for condition in conditions:
            if condition.treatment is None:
                check_teacher_readable(self.evaluator, condition, WeightDraw(self.seeds[0]))

    def _plan(self, proxies: Sequence[Proxy | RankAggregate], conditions: Sequence[Condition]) -> list[_Label]:
        """The labels in order, each proxy followed by its controls, which share what does not use the teacher."""
        series: dict[tuple[int, ...], ScoreSeries] = {}
        labels = []
        for proxy in proxies:
            for condition in conditions:
                if condition.control and not any(map(uses_teacher, elementary_proxies(proxy))):
                    continue
                text = f"{proxy.name} ({condition.control})" if condition.control else proxy.name
                members = [self.scoring.series_of(member, condition) for member in elementary_proxies(proxy)]
                members = [series.setdefault(member.numbers, member) for member in members]
                labels.append(_Label(text, proxy, condition, tuple(members)))
        return labels

    # -- the work -------------------------------------------------------------------------------

    def run(self) -> Comparison:
        """Compute what is missing, write the results, and let go of the run folder."""
        store = self.store
        try:
            with self.interruption.postponed():
                store.start()
                if store.path is not None:
                    store.write_json("config.json", self.config)
                with store.errors(), self.scoring.at_hand.watching():
                    self._compute()
            table = self._score_table()
            comparison = Comparison(table, self._summarise(table), store.path)
            if store.path is not None:
                self._write(comparison)
        finally:
            store.release()
        return comparison

    def _summarise(self, table: ScoreTable) -> list[ProxyResult]:
        with ProgressBar("summarising", "scores", len(table.scores), enabled=self.progress) as bar:
            return summarise(
                table,
                bootstrap=self.bootstrap,
                top_k=self.top_k,
                bins=self.bins,
                progress=partial(bar.advance, replayed=False),
            )

    @property
    def _series(self) -> list[ScoreSeries]:
        return list(dict.fromkeys(series for label in self.labels for series in label.series))

    def _leave_out_what_has_no_cost(self, counted: Mapping[str, StoredScore]) -> None:
        has_cost = [counted[str(architecture)].score is not None for architecture in self.architectures]
        if all(has_cost):
            return
        for architecture, countable in zip(self.architectures, has_cost, strict=True):
            if not countable:
                reason = f"no cost: {counted[str(architecture)].reason}"
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
        if sum(has_cost) < MIN_ARCHITECTURES:
            raise ValueError(f"Fewer than {MIN_ARCHITECTURES} architectures can be built: {_counted(self.left_out)}.")
        self.architectures = [a for a, countable in zip(self.architectures, has_cost, strict=True) if countable]

    def _compute(self) -> None:
        with CostProgress("counting costs", "architectures", len(self.architectures), enabled=self.progress) as bar:
            counted = self.scoring.count_costs(
                self._series, self.architectures, lambda replayed: bar.advance(replayed=replayed)
            )
        self._leave_out_what_has_no_cost(counted)
        total = len(self.seeds) * len(set(map(self.scoring.scored, self.architectures)))
        below = (lambda: worker_lines(self.scoring.activities())) if self.options.show_workers else None
        with ProgressBar("comparing", "architectures", total, enabled=self.progress, below=below) as bar:
            self.scoring.compute(self._series, self.architectures, lambda replayed: bar.advance(replayed=replayed))

    # -- results ---------------------------------------------------------------------------------

    def _score_table(self) -> ScoreTable:
        read = self.scoring.read(self._series, self.architectures)
        scores = {label.text: _combine(label, read) for label in self.labels}
        own = {label.proxy.name: label.text for label in self.labels if not label.condition.control}
        return ScoreTable(
            table=self.table.name,
            column=self.table.column,
            space=self.space.name,
            teacher=self.teacher.name if self.teacher else None,
            probe=self.probes[0].name,
            architectures=tuple(map(str, self.architectures)),
            accuracies=np.array([self.table[a] for a in self.architectures]),
            params=scores["params"][0],
            macs=scores["macs"][0],
            seeds=self.seeds,
            scores=scores,
            seconds={label.text: sum(read[series].seconds for series in label.series) for label in self.labels},
            passes={label.text: self._passes(label) for label in self.labels},
            failures={label.text: _failures(label, read) for label in self.labels},
            controls={
                label.text: (own[label.proxy.name], label.condition.control)
                for label in self.labels
                if label.condition.control
            },
            left_out=self.left_out,
            conditions="; ".join(sorted({text for scores in read.values() for text in scores.conditions})),
            workers=_workers(read),
        )

    def _passes(self, label: _Label) -> tuple[str, ...]:
        return tuple(sorted({name for series in label.series for name in self.store.passes(series.numbers[0])}))

    def _write(self, comparison: Comparison) -> None:
        write = self.store.write
        write("scores.csv", _scores_csv(comparison.scores))
        write("comparison.csv", comparison.to_csv())
        self.store.warn_if_damaged("comparison.json")
        write("comparison.json", comparison.to_json())
        write("comparison.md", comparison.to_markdown())
        names = ["scores.csv", "comparison.csv", "comparison.json", "comparison.md"]
        for name, picture in comparison.pictures():
            write(name, picture)
            names.append(name)
        self.store.end(COMPLETE, names)


def _combine(label: _Label, read: Mapping[ScoreSeries, SeriesScores]) -> NDArray[np.float64]:
    """The scores of a label, (S, K). An aggregate ranks, per seed, the architectures that all members score."""
    if isinstance(label.proxy, Proxy):
        return read[label.series[0]].scores
    members = np.stack([read[series].scores for series in label.series])
    combined = np.full(members.shape[1:], math.nan)
    for draw in range(members.shape[1]):
        scored = np.isfinite(members[:, draw]).all(axis=0)
        of_member = dict(zip(label.proxy.component_names, members[:, draw, scored], strict=True))
        combined[draw, scored] = label.proxy.combine(of_member)
    return combined


def _failures(label: _Label, read: Mapping[ScoreSeries, SeriesScores]) -> dict[str, int]:
    """Number of pairs of architecture and seed without a score, by reason, the most frequent first.

    The reason of an aggregate is the one of its first member without a score.
    """
    reasons: dict[tuple[int, int], str] = {}
    for series in reversed(label.series):
        member = "" if isinstance(label.proxy, Proxy) else f"{series.proxy.name}: "
        reasons |= {pair: member + reason for pair, reason in read[series].reasons.items()}
    return dict(Counter(reasons.values()).most_common())


def _workers(read: Mapping[ScoreSeries, SeriesScores]) -> dict[tuple[int, int], tuple[str, ...]]:
    """Names of the workers that computed scores other than sizes, by draw and place of the architecture."""
    names: dict[tuple[int, int], tuple[str, ...]] = {}
    for series, scores in read.items():
        if series.is_size:
            continue
        for s, row in enumerate(scores.workers):
            for k, worker in enumerate(row):
                others = names.get((s, k), ())
                if worker is not None and worker not in others:
                    names[s, k] = (*others, worker)
    return names


def _scores_csv(table: ScoreTable) -> Iterator[str]:
    """All raw scores, one row for each architecture and seed. A missing score is an empty field."""
    labels = [label for label in table.scores if label not in SIZES]
    yield csv_line(["architecture", table.column, *SIZES, "seed", *labels, "worker"])
    for k, architecture in enumerate(table.architectures):
        own = [architecture, table.accuracies[k], int(table.params[k]), int(table.macs[k])]
        for s, seed in enumerate(table.seeds):
            scores = (table.scores[label][s, k] for label in labels)
            workers = " + ".join(table.workers.get((s, k), ()))
            yield csv_line([*own, seed, *("" if math.isnan(score) else score for score in scores), workers])


def _read_table(options: CompareOptions) -> AccuracyTable:
    """The table, read from its file or made of values in memory unless it is an `AccuracyTable` already."""
    if options.table is None:
        raise ValueError("Which table? --table names a CSV file of accuracies by architecture.")
    if not isinstance(options.table, AccuracyTable):
        read: Callable[..., AccuracyTable] = read_table if isinstance(options.table, str | os.PathLike) else table_of
        return read(options.table, **shared(options, TableOptions))
    if names := changed(options, "architecture_column", "where", "skip_missing"):
        raise ValueError(f"The table is an AccuracyTable, not a file; {', '.join(names)} cannot be set.")
    return as_table(options.table, options.column)


def _counted(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())


def _sha256(values: Sequence[str | float]) -> str:
    """SHA-256 of the values, serialised as JSON in order."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
