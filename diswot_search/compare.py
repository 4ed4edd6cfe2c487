"""The third job: how far can a score be trusted, measured against a table of known accuracies."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from search_spaces import AccuracyTable, Architecture, SearchSpace, UnknownNameError, read_table
from search_spaces.registry import unknown_name_message

from .comparison import ProxyResult, ScoreTable, summarise
from .comparison_report import COMPARISON_PICTURES, to_csv, to_json, to_markdown
from .data import Probe
from .evaluation import Evaluator, failure_reason
from .proxies import Proxy, ProxyFunction, RankAggregate, get_proxy, match_proxies
from .readings import Precision, Readings
from .report import ProgressBar, to_png
from .run_folder import csv_line, versions
from .score_store import NewScore, ScoreStore, StoredScore
from .search import Interruption, as_probes, as_space, as_teacher, check_whole, weight_seeds
from .seeding import stable_seed
from .teacher import Teacher

SIZES = ("params", "macs")
"""What stands beside every proxy. It belongs to the architecture's own text, not to what it computes."""

OTHER_TEACHERS = ("cifar_wrn_16_2", "cifar_resnet56")
OTHER_DEPTHS = ("cifar_resnet20", "cifar_resnet110")
"""What controls compare with by default: the first that is not the teacher."""

FEWEST = 3
"""Architectures that a correlation says anything about."""

_COSTS_AT_ONCE = 256

ProxyLike = str | Proxy | RankAggregate | ProxyFunction
TeacherLike = Teacher | nn.Module | Architecture | str | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        scores: The raw scores beside the accuracies.
        results: How far each proxy can be trusted, in the order of asking.
        path: The run folder, if there is one.
    """

    scores: ScoreTable
    results: list[ProxyResult] = field(repr=False)
    path: Path | None = None

    def __getitem__(self, label: str) -> ProxyResult:
        """The result of this label.

        Raises:
            UnknownNameError: There is none; near ones are given.
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


def compare(
    space: SearchSpace | str,
    proxies: ProxyLike | Sequence[ProxyLike],
    table: AccuracyTable | str | os.PathLike[str],
    probe: Probe | Sequence[Probe] | str = "digits",
    *,
    teacher: TeacherLike = None,
    column: str | None = None,
    architectures: Iterable[str | Architecture] | None = None,
    sample: int | None = None,
    seed: int = 0,
    draws: int = 1,
    controls: bool = False,
    other_teacher: TeacherLike = None,
    other_depth: TeacherLike = None,
    include_untrainable: bool = False,
    bootstrap: int = 1000,
    top_k: int | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    channels_last: bool = True,
    bf16: bool = False,
    progress: bool = True,
) -> Comparison:
    """Compare proxies with known accuracies. Nothing is trained.

    Parameters and multiply-accumulates are always compared too, and no sign is turned. Architectures that compute the
    same function share their scores; each has its own cost. With `out` every score is stored as soon as it is known,
    with all that it depends on: stopped at any moment, the same call continues, and any other call with that folder
    computes only what was never computed there. On SIGINT the architecture at hand is finished before
    `KeyboardInterrupt` is raised; a second one raises at once.

    Args:
        space: What the table is about; a name makes the space for the classes and images of the probe.
        proxies: Names, patterns such as "zen*", aggregates as "log_rank(nwot, macs)", or functions of the student's
            and the teacher's readings. A proxy that is not known by name is remembered by its code; it has readings of
            its own, so that what it does to the network stays with it.
        table: Accuracies by architecture, or the path of a CSV file.
        probe: The batch that scores are computed on, or the name of a data set; several stand for one each draw, so
            that the spread over draws includes the batch.
        teacher: Whom to compare with: as for `search`. None for proxies that need none.
        column: The column of the file; it need not be named where there is one only.
        architectures: Those to compare; by default all of the table.
        sample: How many of them to draw, without replacement; those of a smaller sample are among those of a larger.
        seed: Decides the sample and the weights.
        draws: Weight draws, with the seeds `seed`, `seed` + 1 and so on.
        controls: Repeat every proxy that may use the teacher with another one, with one of another depth, with the
            samples of the teacher's readings shuffled, and with noise in the place of its activations.
        other_teacher: The other one; by default a CIFAR ResNet of this package with random weights.
        other_depth: The one of another depth; likewise.
        include_untrainable: Compare architectures whose output does not depend on the input, too.
        bootstrap: Resamples of the architectures for confidence intervals; 0 makes none.
        top_k: How many count as the best; by default a tenth.
        out: The run folder; None keeps everything in memory.
        device: "auto", "cpu", "cuda" or "mps".
        channels_last: Keep feature maps in NHWC memory order.
        bf16: Compute under bfloat16 autocast.
        progress: Show a bar where standard error is a terminal.

    Returns:
        Scores and results. The seconds of an aggregate are the sum of its members', each as if asked for alone.

    Raises:
        ValueError: A name, an option or a column is not known; the table is empty or not about the space; a proxy needs
            a teacher and there is none; or space, probe and teacher do not fit each other.
        FileNotFoundError: There is no such table.
        StudyError: The run folder cannot be used.
    """
    probes = as_probes(probe)
    space = as_space(space, probes[0])
    made_teacher, other, depth = (as_teacher(one, space, probes[0]) for one in (teacher, other_teacher, other_depth))
    return ComparisonRun(
        space,
        proxies,
        _as_table(table, column),
        probes,
        teacher=made_teacher,
        architectures=architectures,
        sample=sample,
        seed=seed,
        draws=draws,
        controls=controls,
        other_teacher=other,
        other_depth=depth,
        include_untrainable=include_untrainable,
        bootstrap=bootstrap,
        top_k=top_k,
        out=out,
        device=device,
        precision=Precision(channels_last=channels_last, bf16=bf16),
        progress=progress,
    ).run()


@dataclass(frozen=True, eq=False)
class _Opponent:
    """Whom proxies compare students with: a teacher as it is, or with its readings spoilt, or nobody."""

    teacher: Teacher | None = None
    treatment: str | None = None
    control: str | None = None

    def context(self) -> dict[str, Any]:
        return {"teacher": self.teacher.config() if self.teacher else None, "treatment": self.treatment}

    def spoil(self, readings: Readings | None, seed: int) -> Readings | None:
        if readings is None or self.treatment is None:
            return readings
        return readings.shuffled(seed) if self.treatment == "shuffled" else readings.replaced_by_noise(seed)


_NOBODY = _Opponent()


@dataclass(frozen=True, eq=False)
class _Unit:
    """A proxy against an opponent: what is computed and stored, with the number of its series for each draw."""

    proxy: Proxy
    opponent: _Opponent
    series: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _Label:
    """One name in the table of scores: a proxy or an aggregate, or a control of it, and the units that make it."""

    text: str
    proxy: Proxy | RankAggregate
    opponent: _Opponent
    units: tuple[_Unit, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """What a unit gave: (S, K) scores, median seconds, how many failed by reason."""

    scores: NDArray[np.float64]
    seconds: float
    failures: dict[str, int]


class ComparisonRun:
    """A comparison whose input is checked and whose run folder is open, ready to run.

    Args:
        space, proxies, table, probes, teacher, architectures, sample, seed, draws, controls, other_teacher,
            other_depth, include_untrainable, bootstrap, top_k, out, device, precision, progress: As for `compare`.

    Attributes:
        store: The scores, none or those of earlier runs.

    Raises:
        ValueError, StudyError: As for `compare`.
    """

    def __init__(
        self,
        space: SearchSpace,
        proxies: ProxyLike | Sequence[ProxyLike],
        table: AccuracyTable,
        probes: Sequence[Probe],
        *,
        teacher: Teacher | None = None,
        architectures: Iterable[str | Architecture] | None = None,
        sample: int | None = None,
        seed: int = 0,
        draws: int = 1,
        controls: bool = False,
        other_teacher: Teacher | None = None,
        other_depth: Teacher | None = None,
        include_untrainable: bool = False,
        bootstrap: int = 1000,
        top_k: int | None = None,
        out: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: Precision | None = None,
        progress: bool = True,
    ) -> None:
        self.space = space
        self.table = table
        self.probes = list(probes)
        self.teacher = teacher
        self.seeds = tuple(weight_seeds(seed, draws))
        self.device = device
        self.precision = precision or Precision()
        self.bootstrap = bootstrap
        self.top_k = top_k
        self.progress = progress
        self.interruption = Interruption()
        check_whole("bootstrap", bootstrap, least=0)
        if top_k is not None:
            check_whole("top_k", top_k, least=1)
        if len(self.probes) not in (1, draws):
            raise ValueError(f"There are {len(self.probes)} probes for {draws} draws; give one, or one for each draw.")
        self.architectures, self.left_out = _choose(space, table, architectures, sample, seed, include_untrainable)
        self.canonical = [str(space.canonical(architecture)) for architecture in self.architectures]
        asked = resolve_proxies(proxies)
        opponents = self._opponents(asked, controls, other_teacher, other_depth)
        self._check_readable(opponents if any(map(_uses_teacher, _members(asked))) else [_NOBODY])
        if top_k is not None and top_k > len(self.architectures):
            raise ValueError(f"top_k is {top_k}, but {len(self.architectures)} architectures are compared.")
        self.config = {
            "space": space.config(),
            "table": table.name,
            "column": table.column,
            "architectures": len(self.architectures),
            "left_out": self.left_out,
            "proxies": [proxy.identity for proxy in asked],
            "teacher": teacher.config() if teacher else None,
            "controls": [opponent.control for opponent in opponents if opponent.control],
            "probes": [probe.config() for probe in self.probes],
            "seeds": list(self.seeds),
            "sample": sample,
            "bootstrap": bootstrap,
            "top_k": top_k,
            "device": self.device.partition(":")[0],
            "channels_last": self.precision.channels_last,
            "bf16": self.precision.bf16,
            "versions": versions(),
        }
        self.store = ScoreStore(out)
        try:
            self.labels = self._plan(asked, opponents)
        except BaseException:
            self.store.release()
            raise

    # -- before any work ------------------------------------------------------------------------

    def _opponents(
        self, asked: Sequence[Proxy | RankAggregate], controls: bool, other: Teacher | None, depth: Teacher | None
    ) -> list[_Opponent]:
        """The teacher, and what the controls put in its place."""
        lacking = [proxy.name for proxy in asked if proxy.needs_teacher and self.teacher is None]
        if lacking:
            raise ValueError(f"{_listed(lacking)}: compared with a teacher, and none was given.")
        opponents = [_Opponent(self.teacher)]
        if not controls:
            if other or depth:
                raise ValueError("other_teacher and other_depth are controls; ask for them with controls=True.")
            return opponents
        if self.teacher is None or not any(map(_uses_teacher, _members(asked))):
            shown = _listed([proxy.name for proxy in asked])
            raise ValueError(f"Controls repeat proxies that compare with a teacher, but none of these does: {shown}.")
        for kind, given, names in (
            ("other teacher", other, OTHER_TEACHERS),
            ("other depth", depth, OTHER_DEPTHS),
        ):
            name = next(name for name in names if name != self.teacher.name)
            teacher = given or as_teacher(name, self.space, self.probes[0])
            assert teacher is not None
            if teacher.config() == self.teacher.config():
                raise ValueError(f"The {kind} is {teacher.name!r}, which is the teacher itself.")
            opponents.append(_Opponent(teacher, None, f"{kind}: {teacher.name}"))
        opponents += [_Opponent(self.teacher, kind, kind) for kind in ("shuffled", "no teacher")]
        return opponents

    def _check_readable(self, opponents: Sequence[_Opponent]) -> None:
        """Find out before a folder is made whether space, probes and teachers fit each other."""
        for opponent in opponents:
            evaluator = Evaluator(
                self.space, opponent.teacher, self.probes, SIZES[0], device=self.device, precision=self.precision
            )
            self.device = evaluator.device
            if opponent.treatment is None:
                _read_teacher(evaluator, self.seeds[0])

    def _plan(self, asked: Sequence[Proxy | RankAggregate], opponents: Sequence[_Opponent]) -> list[_Label]:
        """The labels in order, each proxy's controls behind it; all the controls of one proxy share what they can."""
        units: dict[tuple[int, ...], _Unit] = {}
        labels = []
        for proxy in asked:
            for opponent in opponents:
                if opponent.control and not any(map(_uses_teacher, proxy.members)):
                    continue
                text = f"{proxy.name} ({opponent.control})" if opponent.control else proxy.name
                members = [self._unit(member, opponent) for member in proxy.members]
                members = [units.setdefault(unit.series, unit) for unit in members]
                labels.append(_Label(text, proxy, opponent, tuple(members)))
        return labels

    def _unit(self, proxy: Proxy, opponent: _Opponent) -> _Unit:
        if not _uses_teacher(proxy):
            opponent = _NOBODY
        context: dict[str, Any] = {"space": self.space.config()}
        if proxy.identity in SIZES:
            return _Unit(proxy, opponent, (self.store.series(proxy.identity, context),) * len(self.seeds))
        context |= {
            "device": self.device.partition(":")[0],
            "channels_last": self.precision.channels_last,
            "bf16": self.precision.bf16,
            **opponent.context(),
        }
        series = [
            self.store.series(proxy.identity, context | {"probe": self._probe(draw).fingerprint})
            for draw in range(len(self.seeds))
        ]
        return _Unit(proxy, opponent, tuple(series))

    def _probe(self, draw: int) -> Probe:
        return self.probes[draw % len(self.probes)]

    # -- the work -------------------------------------------------------------------------------

    def run(self) -> Comparison:
        """Compute what is missing, write the results, and let go of the run folder."""
        store = self.store
        try:
            with self.interruption.postponed():
                if store.path is not None:
                    store.write_json("config.json", self.config)
                self._count_costs()
                self._compute()
            table = self._score_table()
            results = summarise(table, bootstrap=self.bootstrap, top_k=self.top_k)
            if store.path is not None:
                self._write(table, results)
        finally:
            store.release()
        return Comparison(table, results, store.path)

    def _count_costs(self) -> None:
        """Count what was never counted; an architecture that cannot be built is left out."""
        units = [unit for label in self.labels for unit in label.units if unit.proxy.identity in SIZES]
        stored = {unit: self.store.scores(unit.series[0], 0) for unit in units}
        missing = [a for a in self.architectures if any(str(a) not in scores for scores in stored.values())]
        reader = self._evaluator(0, None)
        pieces = iter(missing)
        while some := list(islice(pieces, _COSTS_AT_ONCE)):
            found = {}
            for architecture in some:
                self.interruption.check()
                student = reader.read_student(architecture)
                new = [unit for unit in stored if str(architecture) not in stored[unit]]
                found[str(architecture)] = {unit.series[0]: _score(unit.proxy, student, None) for unit in new}
            self.store.add(0, found)
        self._leave_out_what_has_no_cost(units[0])

    def _leave_out_what_has_no_cost(self, unit: _Unit) -> None:
        counted = self.store.scores(unit.series[0], 0)
        kept = [counted[str(architecture)].score is not None for architecture in self.architectures]
        if all(kept):
            return
        for architecture, keep in zip(self.architectures, kept, strict=True):
            if not keep:
                reason = f"no cost: {counted[str(architecture)].reason}"
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
        if sum(kept) < FEWEST:
            raise ValueError(f"Fewer than {FEWEST} architectures can be built: {_counted(self.left_out)}.")
        self.architectures = [a for a, keep in zip(self.architectures, kept, strict=True) if keep]
        self.canonical = [c for c, keep in zip(self.canonical, kept, strict=True) if keep]

    def _compute(self) -> None:
        units = list(dict.fromkeys(u for label in self.labels for u in label.units if u.proxy.identity not in SIZES))
        architectures = {
            canonical: self.space.canonical(architecture)
            for canonical, architecture in zip(self.canonical, self.architectures, strict=True)
        }
        missing = [self._missing(draw, units, list(architectures)) for draw in range(len(self.seeds))]
        total = len(self.seeds) * len(architectures)
        with ProgressBar("comparing", "architectures", total, enabled=self.progress) as bar:
            for _ in range(total - sum(map(len, missing))):
                bar.advance(replayed=True)
            for draw, of_draw in enumerate(missing):
                if not of_draw:
                    continue
                computer = _Computer(self, draw)
                for canonical, its_units in of_draw.items():
                    self.interruption.check()
                    found = computer.scores(architectures[canonical], its_units)
                    self.store.add(self.seeds[draw], {canonical: found})
                    bar.advance(replayed=False)

    def _missing(self, draw: int, units: Sequence[_Unit], architectures: Sequence[str]) -> dict[str, list[_Unit]]:
        """What is still to be computed of a draw: units by architecture, in the order of both."""
        missing: dict[str, list[_Unit]] = {architecture: [] for architecture in architectures}
        for unit in units:
            stored = self.store.scores(unit.series[draw], self.seeds[draw])
            for architecture, of_architecture in missing.items():
                if architecture not in stored:
                    of_architecture.append(unit)
        return {architecture: its_units for architecture, its_units in missing.items() if its_units}

    def _evaluator(self, draw: int, teacher: Teacher | None) -> Evaluator:
        return Evaluator(self.space, teacher, self._probe(draw), SIZES[0], device=self.device, precision=self.precision)

    # -- what it gives --------------------------------------------------------------------------

    def _score_table(self) -> ScoreTable:
        read = {unit: self._read(unit) for label in self.labels for unit in label.units}
        scores = {label.text: _combine(label, read) for label in self.labels}
        own = {label.proxy.name: label.text for label in self.labels if not label.opponent.control}
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
            seconds={label.text: sum(read[unit].seconds for unit in label.units) for label in self.labels},
            passes={label.text: self._passes(label) for label in self.labels},
            failures={label.text: _failures(label, read, scores[label.text]) for label in self.labels},
            controls={
                label.text: (own[label.proxy.name], label.opponent.control)
                for label in self.labels
                if label.opponent.control
            },
            left_out=self.left_out,
        )

    def _read(self, unit: _Unit) -> _Found:
        rows = [self._stored(unit, draw) for draw in range(len(self.seeds))]
        scores = np.array([[math.nan if stored.score is None else stored.score for stored in row] for row in rows])
        # Of what has a score, since a failure may come early.
        seconds = [stored.seconds for row in rows for stored in row if stored.score is not None]
        reasons = Counter(stored.reason for row in rows for stored in row if stored.reason is not None)
        return _Found(scores, float(np.median(seconds)) if seconds else math.nan, dict(reasons.most_common()))

    def _stored(self, unit: _Unit, draw: int) -> list[StoredScore]:
        """The stored scores in the order of the architectures."""
        if unit.proxy.identity in SIZES:
            stored = self.store.scores(unit.series[draw], 0)
            return [stored[str(architecture)] for architecture in self.architectures]
        stored = self.store.scores(unit.series[draw], self.seeds[draw])
        return [stored[canonical] for canonical in self.canonical]

    def _passes(self, label: _Label) -> tuple[str, ...]:
        return tuple(sorted({name for unit in label.units for name in self.store.passes(unit.series[0])}))

    def _write(self, table: ScoreTable, results: list[ProxyResult]) -> None:
        self.store.write("scores.csv", _scores_csv(table))
        for name, to_text in _FILES.items():
            self.store.write(name, to_text(table, results))
        for name, draw in COMPARISON_PICTURES.items():
            self.store.write(name, to_png(draw(table, results)))


_FILES: dict[str, Callable[[ScoreTable, Sequence[ProxyResult]], str]] = {
    "comparison.csv": to_csv,
    "comparison.json": to_json,
    "comparison.md": to_markdown,
}


class _Computer:
    """Computes the scores of one draw; its teachers' readings are taken once, and go with it."""

    def __init__(self, run: ComparisonRun, draw: int) -> None:
        self.run = run
        self.draw = draw
        self.seed = run.seeds[draw]
        self.reader = run._evaluator(draw, None)
        self.readings: dict[_Opponent, Readings | None] = {}
        self.teachers: dict[str, Evaluator] = {}

    def scores(self, architecture: Architecture, units: Sequence[_Unit]) -> dict[int, NewScore]:
        """New scores of an architecture by the number of their series. A failure is recorded and disturbs no other."""
        shared = [unit for unit in units if _is_known(unit.proxy)]
        needs = {name for unit in shared for name in unit.proxy.needs}
        student = self.reader.read_student(architecture, self.seed, needs=needs)
        found = {}
        for unit in units:
            if unit not in shared:
                student_of_its_own = self.reader.read_student(architecture, self.seed, needs=unit.proxy.needs)
                found[unit] = _score(unit.proxy, student_of_its_own, self._against(unit.opponent))
            else:
                found[unit] = _score(unit.proxy, student, self._against(unit.opponent))
        return {unit.series[self.draw]: score for unit, score in found.items()}

    def _against(self, opponent: _Opponent) -> Readings | None:
        if opponent not in self.readings:
            evaluator = self._evaluator(opponent.teacher)
            self.readings[opponent] = opponent.spoil(_read_teacher(evaluator, self.seed), self.seed)
        return self.readings[opponent]

    def _evaluator(self, teacher: Teacher | None) -> Evaluator:
        """The evaluator that reads a teacher, one for all that is done to its readings."""
        name = repr(teacher and teacher.config())
        return self.teachers.setdefault(name, self.run._evaluator(self.draw, teacher))


# -- the pieces ---------------------------------------------------------------------------------


def resolve_proxies(proxies: ProxyLike | Sequence[ProxyLike]) -> list[Proxy | RankAggregate]:
    """The proxies asked for, each once, and the two sizes behind them if they are not among them.

    Raises:
        UnknownNameError: No proxy has this name, or none matches this pattern; near names are given.
        ValueError: Two different ones have the same name.
    """
    given = [proxies] if isinstance(proxies, str | Proxy | RankAggregate) or callable(proxies) else list(proxies)
    found: dict[str, Proxy | RankAggregate] = {}
    for one in [name for item in [*given, *SIZES] for name in _matching(item)]:
        proxy = get_proxy(one)
        if found.setdefault(proxy.name, proxy).identity != proxy.identity:
            raise ValueError(f"Two different proxies are called {proxy.name!r}; give one of them another name.")
    return list(found.values())


def _matching(proxy: ProxyLike) -> list[Any]:
    """The names that a pattern stands for; anything else stands for itself."""
    if not isinstance(proxy, str) or "(" in proxy or not any(sign in proxy for sign in "*?["):
        return [proxy]
    return match_proxies(proxy)


def _as_table(table: AccuracyTable | str | os.PathLike[str], column: str | None) -> AccuracyTable:
    if not isinstance(table, AccuracyTable):
        return read_table(table, column)
    if column not in (None, table.column):
        raise ValueError(f"The table {table.name!r} holds {table.column!r}, not the column {column!r}.")
    return table


def _choose(
    space: SearchSpace,
    table: AccuracyTable,
    asked: Iterable[str | Architecture] | None,
    sample: int | None,
    seed: int,
    include_untrainable: bool,
) -> tuple[list[Architecture], dict[str, int]]:
    """The architectures to compare, and how many of the table are left out, by reason."""
    if not table:
        raise ValueError(f"The table {table.name} has no architectures.")
    if asked is not None:
        given = [str(architecture) for architecture in asked]
        twice = [text for text, count in Counter(given).items() if count > 1]
        if twice:
            raise ValueError(f"Asked for twice: {_listed(twice)}.")
        table = table.select(given)
    broken = [text for text, accuracy in table.items() if not math.isfinite(accuracy)]
    if broken:
        raise ValueError(f"The table {table.name} has no finite accuracy for {_listed(broken)}.")
    chosen = table.check(space)
    if sample is not None:
        check_whole("sample", sample, least=1)
        chosen.sort(key=str)  # so that the order of the table's rows does not matter
        random.Random(stable_seed(seed, "sample")).shuffle(chosen)
    left_out = {}
    if not include_untrainable:  # after the shuffle: the sample with them is nearly the same
        trainable = [architecture for architecture in chosen if space.is_trainable(architecture)]
        left_out["not trainable"] = len(chosen) - len(trainable)
        chosen = trainable
    if sample is not None:
        if sample > len(chosen):
            raise ValueError(f"sample is {sample}, but {table.name} has {len(chosen)} architectures to compare.")
        left_out["not drawn"] = len(chosen) - sample
        chosen = chosen[:sample]
    if len(chosen) < FEWEST:
        raise ValueError(f"A comparison needs at least {FEWEST} architectures, got {len(chosen)} from {table.name}.")
    return chosen, {reason: count for reason, count in left_out.items() if count}


def _is_known(proxy: Proxy) -> bool:
    """Whether it is a registered one."""
    return proxy.identity == proxy.name


def _members(proxies: Sequence[Proxy | RankAggregate]) -> list[Proxy]:
    return [member for proxy in proxies for member in proxy.members]


def _uses_teacher(proxy: Proxy) -> bool:
    """Whether its score may depend on the teacher: that of a function may, whatever is said of it."""
    return proxy.needs_teacher or not _is_known(proxy)


def _read_teacher(evaluator: Evaluator, seed: int) -> Readings | None:
    try:
        return evaluator.read_teacher(seed, 0)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _score(proxy: Proxy, student: Readings, teacher: Readings | None) -> NewScore:
    """A score, or why there is none: an architecture may fail in any way that a network can."""
    score, reason = None, None
    with student.watch() as watch:
        try:
            score = proxy(student, teacher)
        except Exception as error:
            reason = failure_reason(error)
    if score is not None and not math.isfinite(score):
        score, reason = None, f"the score is {score}"
    return NewScore(score, reason, watch.seconds, watch.passes)


def _combine(label: _Label, read: Mapping[_Unit, _Found]) -> NDArray[np.float64]:
    """The scores of a label, (S, K). An aggregate ranks, seed by seed, what has a score of every member."""
    if isinstance(label.proxy, Proxy):
        return read[label.units[0]].scores
    members = np.stack([read[unit].scores for unit in label.units])
    combined = np.full(members.shape[1:], math.nan)
    for draw in range(members.shape[1]):
        scored = np.isfinite(members[:, draw]).all(axis=0)
        of_member = dict(zip(label.proxy.terms, members[:, draw, scored], strict=True))
        combined[draw, scored] = label.proxy.combine(of_member)
    return combined


def _failures(label: _Label, read: Mapping[_Unit, _Found], scores: NDArray[np.float64]) -> dict[str, int]:
    """How many pairs of architecture and seed have no score, by reason, the most frequent first."""
    if isinstance(label.proxy, Proxy):
        return read[label.units[0]].failures
    count = int(np.isnan(scores).sum())
    return {"a member has no score": count} if count else {}


def _scores_csv(table: ScoreTable) -> Iterator[str]:
    """All raw scores, one row for each architecture and seed; empty where there is none."""
    labels = [label for label in table.scores if label not in SIZES]
    yield csv_line(["architecture", table.column, *SIZES, "seed", *labels])
    for k, architecture in enumerate(table.architectures):
        own = [architecture, table.accuracies[k], int(table.params[k]), int(table.macs[k])]
        for s, seed in enumerate(table.seeds):
            scores = (table.scores[label][s, k] for label in labels)
            yield csv_line([*own, seed, *("" if math.isnan(score) else score for score in scores)])


def _listed(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _counted(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
