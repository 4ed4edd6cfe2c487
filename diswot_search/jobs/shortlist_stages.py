"""The stages of a shortlist: which trainings there are, what follows from their results, and what they cost."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..comparison.trainings import FAILED
from ..options.base import shared
from ..options.shortlist import ShortlistOptions
from ..options.training import (
    DistillerOptions,
    DistillOptions,
    SourceOptions,
    TrainedTeacherOptions,
    TrainingOptions,
    TrainOptions,
    UnlabelledBatchOptions,
)
from ..resolve.folders import ShortlistFolder
from ..resolve.shortlists import (
    Contender,
    ShortlistCost,
    ShortlistRung,
    Verdict,
    verdict_on,
)
from ..runtime.run_folder import COMPLETE
from ..runtime.typed_json import encode
from ..study.finalists import ALONE, DISTILLED, Finalist, Trial
from ..study.halving import Rung, going_on, in_doubt, leaders, order, seed_variance
from ..training.best_epoch import BEST_BY
from ..training.folder import TrainingFolder
from ..training.result import TrainingResult, read_result, read_rows
from ..training.seeds import Spread, spread
from .finalists import Entry, epochs_of
from .training_cells import Cell, Trainings

CHOICE_SEEDS = 2
"""Number of paired seeds that teachers and distillers are chosen with."""

_CHOICES, _RUNGS, _VERDICT = "choices", "rungs", "verdict"
"""Purposes of a training. One that a rung needs counts for the rungs, and else for what needed it first."""

_MAX_NAME = 40
"""Most characters of a finalist's name in that of a folder."""


class ShortlistError(RuntimeError):
    """A shortlist without a pick, because no finalist could be trained."""


@dataclass(frozen=True)
class Part:
    """A training of a shortlist.

    Attributes:
        cell: The training.
        trial: Its facts before it is trained: name, rung, seed and epochs.
    """

    cell: Cell
    trial: Trial


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trainings of a shortlist.

    Attributes:
        options: The options of the shortlist.
        path: Its run folder.
        rungs: The rungs.
        full_epochs: Epochs of a full training.
        teachers: The teachers to choose from, or the one; None alone with sources.
        teacher_names: Their names.
        distillers: The distillers to choose from, or the one.
        distiller_names: Their names.
        data: Options of the data that are objects in this process, in the place of names.
        guide: Options of a teacher or sources that are objects, likewise.
        compares: Whether the pick is trained alone as well.
    """

    options: ShortlistOptions
    path: Path
    rungs: tuple[Rung, ...]
    full_epochs: int
    teachers: Sequence[Any]
    teacher_names: Sequence[str]
    distillers: Sequence[Any]
    distiller_names: Sequence[str]
    data: Mapping[str, Any] = field(default_factory=dict)
    guide: Mapping[str, Any] = field(default_factory=dict)
    compares: bool = True

    @property
    def last(self) -> int:
        """Number of the last rung."""
        return len(self.rungs)

    def epochs(self, rung: int) -> int:
        """Epochs of the trainings of a rung, at least one."""
        return epochs_of(self.rungs[rung - 1], self.full_epochs)

    def parts(self, entry: Entry) -> Iterator[Part]:
        """All trainings that a finalist may get, whatever is chosen."""
        rungs, numbers = range(1, self.last + 1), range(max(CHOICE_SEEDS, self.options.verdict_seeds))
        guides = itertools.product(range(len(self.teachers)), range(len(self.distillers)))
        for (teacher, distiller), rung, number in itertools.product(guides, rungs, numbers):
            yield self.distilled(entry, rung, number, teacher=teacher, distiller=distiller)
        for number in numbers:
            yield self.alone(entry, number)

    def distilled(
        self, entry: Entry, rung: int, number: int = 0, *, teacher: int = 0, distiller: int = 0, tests: bool = False
    ) -> Part:
        """A distillation.

        Args:
            entry: The student.
            rung: The rung, which decides the epochs.
            number: Number of its seed.
            teacher, distiller: Places of the teacher and the distiller among those to choose from.
            tests: Whether the test images are looked at.
        """
        marks = [f"-teacher{teacher + 1}"] * (len(self.teachers) > 1) if self.teachers[teacher] is not None else []
        marks += [f"-distiller{distiller + 1}"] * (len(self.distillers) > 1)
        own = shared(
            self.options,
            TrainingOptions,
            UnlabelledBatchOptions,
            TrainedTeacherOptions,
            DistillerOptions,
            SourceOptions,
        )
        seed = self.options.seed + number
        name = f"rungs/{rung}/{_folder_name(entry.finalist)}{''.join(marks)}-seed={seed}"
        own |= {"out": os.path.join(self.path, name), "seed": seed, "epochs": self.epochs(rung)}
        own["distiller"] = self.distillers[distiller]
        options = DistillOptions(entry.student, self.teachers[teacher], dataset=self.options.dataset, **own)
        trial = Trial(
            name=name,
            kind=DISTILLED,
            rung=rung,
            seed=seed,
            epochs=self.epochs(rung),
            teacher=self.teacher_names[teacher],
            distiller=self.distiller_names[distiller],
        )
        written = replace(options, **entry.space_options)
        here = replace(options, space=entry.space, **self.data, **self.guide)
        return Part(Cell(name, {}, here, written, tests), trial)

    def alone(self, entry: Entry, number: int) -> Part:
        """A full training on labels alone, tested."""
        seed = self.options.seed + number
        name = f"alone/{_folder_name(entry.finalist)}-seed={seed}"
        own = shared(self.options, TrainingOptions)
        own |= {"out": os.path.join(self.path, name), "seed": seed, "epochs": self.full_epochs}
        options = TrainOptions(entry.student, dataset=self.options.dataset, **own)
        trial = Trial(name=name, kind=ALONE, rung=self.last, seed=seed, epochs=self.full_epochs)
        written = replace(options, **entry.space_options)
        return Part(Cell(name, {}, replace(options, space=entry.space, **self.data), written), trial)


def _folder_name(finalist: Finalist) -> str:
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in finalist.name)
    return f"{finalist.place:02d}-{letters[:_MAX_NAME].strip('-')}"


def smallest_of(entries: Sequence[Entry]) -> Entry:
    """The finalist of fewest parameters among those within the budget, which may be the pick."""
    within_budget = [entry for entry in entries if entry.finalist.is_within_budget]
    return min(within_budget, key=lambda entry: (entry.finalist.params or 0, entry.finalist.place))


# -- what became of a training ------------------------------------------------------------------


def read_trial(part: Part, rows: Mapping[str, Mapping[str, Any]], best_by: str, rule: str) -> Trial:
    """The trial of a training, as far as it is done. What was tested for another purpose has no test accuracy here.

    Args:
        part: The training.
        rows: The rows in the store of the shortlist by their keys.
        best_by: The measure on validation images.
        rule: The rule that chooses the epoch.
    """
    trial, path = part.trial, part.cell.path
    epochs = read_rows(TrainingFolder.peek(path)) if TrainingFolder.has_begun(path) else ()
    trial = replace(trial, curve=tuple(epoch.val_accuracy for epoch in epochs if epoch.val_accuracy is not None))
    row = rows.get(part.cell.name)
    if row is None:
        return trial
    if row["status"] == FAILED:
        return replace(trial, status=FAILED, reason=row["reason"], seconds=sum(epoch.seconds for epoch in epochs))
    result = read_result(path)
    epoch = result.best if rule == "best" else result.last
    assert epoch is not None
    end = rows.get(part.cell.key, row)  # that of its test, if it has one of its own
    return replace(
        trial,
        status=end["status"],
        reason=end["reason"],
        value=BEST_BY[best_by].merit(encode(epoch)),
        val_accuracy=epoch.val_accuracy,
        kept_epoch=epoch.epoch,
        test_accuracy=result.test.accuracy if result.test and part.cell.tests else None,
        teacher_accuracy=result.teacher.val_accuracy if result.teacher else None,
        seconds=_seconds(result),
    )


def _seconds(result: TrainingResult) -> float | None:
    return result.timing.seconds + result.timing.preparation_seconds if result.timing else None


# -- the stages ---------------------------------------------------------------------------------


class Stages:
    """Runs the stages of a shortlist one after another; what is done is read from the store.

    Args:
        plan: The trainings.
        entries: The finalists in order of their places.
        trainings: Trains them.
        folder: Stores the end of each.
        val_images: Number of validation images.
    """

    def __init__(
        self, plan: Plan, entries: Sequence[Entry], trainings: Trainings, folder: ShortlistFolder, val_images: int
    ) -> None:
        self.plan = plan
        self.entries = list(entries)
        self.trainings = trainings
        self.folder = folder
        self.val_images = val_images
        self.teacher = self.distiller = 0
        self.teachers: tuple[Contender, ...] = ()
        self.distillers: tuple[Contender, ...] = ()
        self.rungs: list[ShortlistRung] = []
        self._parts: dict[str, Part] = {}
        self._of_finalist: dict[int, dict[str, Part]] = {entry.finalist.place: {} for entry in entries}
        self._reasons: dict[int, str] = {}
        self._last_rung: dict[int, int] = {}
        self._purposes: dict[str, str] = {}

    def run(self) -> Entry:
        """Choose the teacher, go through the rungs, and give the pick.

        Raises:
            ShortlistError: No finalist of a rung could be trained.
        """
        plan = self.plan
        alive = [entry for entry in self.entries if entry.finalist.reason is None]
        smallest = smallest_of(alive)
        if len(plan.teachers) > 1:
            self._choose_teacher(smallest)
        if plan.last == 1 and len(plan.distillers) > 1:
            self._choose_distiller(smallest)
        for rung in range(1, plan.last):
            values = self._train_rung(alive, rung)
            if rung == 1 and len(plan.distillers) > 1:
                best = order(values)
                self._choose_distiller(alive[next(p for p in best if alive[p].finalist.is_within_budget)])
            keep = plan.rungs[rung - 1].keep
            assert keep is not None
            baselines = [place for place, entry in enumerate(alive) if entry.finalist.is_baseline]
            barred = [place for place, entry in enumerate(alive) if not entry.finalist.is_within_budget]
            named = [place for place, entry in enumerate(alive) if entry.finalist.is_named]
            alive = [alive[place] for place in going_on(values, keep, baselines, barred, named)]
        return self._pick(alive)

    def _train(self, parts: Sequence[Part], what: str, purpose: str) -> list[Trial]:
        self._parts |= {part.cell.name: part for part in parts}
        for part in parts:
            if purpose == _RUNGS or part.cell.name not in self._purposes:
                self._purposes[part.cell.name] = purpose
        self.trainings.train([part.cell for part in parts], what, "trainings")
        return self._trials(parts)

    def _part(self, entry: Entry, rung: int, number: int = 0, *, tests: bool = False) -> Part:
        """A distillation by the chosen teacher and distiller, which counts for its finalist."""
        part = self.plan.distilled(entry, rung, number, teacher=self.teacher, distiller=self.distiller, tests=tests)
        if tests and part.cell.name in self._parts:
            part = replace(part, cell=replace(part.cell, end=f"{part.cell.name}#test"))
        self._of_finalist[entry.finalist.place][part.cell.name] = part
        return part

    def _train_counted(self, entries: Sequence[Entry], rung: int, number: int, what: str) -> list[Trial]:
        """Train finalists with one seed; those that fail are out with their reasons."""
        trials = self._train([self._part(entry, rung, number) for entry in entries], what, _RUNGS)
        for entry, trial in zip(entries, trials, strict=True):
            if trial.reason is not None:
                self._reasons.setdefault(entry.finalist.place, trial.reason)
        return trials

    def _train_rung(self, alive: Sequence[Entry], rung: int) -> list[float | None]:
        """Train the finalists of a rung with the first seed; gives their values, None for one that failed."""
        trials = self._train_counted(alive, rung, 0, f"rung {rung}")
        self._last_rung |= {entry.finalist.place: rung for entry in alive}
        values = [trial.value for trial in trials]
        if all(
            value is None or not entry.finalist.is_within_budget for value, entry in zip(values, alive, strict=True)
        ):
            reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason is not None))
            within = " that is within the budget" if order(values) else ""
            raise ShortlistError(f"No finalist of rung {rung}{within} could be trained: {reasons}.")
        plan = self.plan
        self.rungs.append(
            ShortlistRung(
                share=plan.rungs[rung - 1].share,
                epochs=plan.epochs(rung),
                keep=plan.rungs[rung - 1].keep,
                finalists=tuple(entry.finalist.name for entry in alive),
            )
        )
        return values

    # -- teacher and distiller ------------------------------------------------------------------

    def _choose_teacher(self, student: Entry) -> None:
        names = self.plan.teacher_names
        parts = [
            [self.plan.distilled(student, 1, number, teacher=place) for number in range(CHOICE_SEEDS)]
            for place in range(len(names))
        ]
        self.teacher, self.teachers = self._choose(student, names, parts, "teachers")

    def _choose_distiller(self, student: Entry) -> None:
        names = self.plan.distiller_names
        parts = [
            [
                self.plan.distilled(student, 1, number, teacher=self.teacher, distiller=place)
                for number in range(CHOICE_SEEDS)
            ]
            for place in range(len(names))
        ]
        self.distiller, self.distillers = self._choose(student, names, parts, "distillers")

    def _choose(
        self, student: Entry, names: Sequence[str], parts: Sequence[Sequence[Part]], what: str
    ) -> tuple[int, tuple[Contender, ...]]:
        """The place of the best contender, and all of them. One that failed with any seed is out."""
        trials = iter(self._train([part for own in parts for part in own], what, _CHOICES))
        of_each = [tuple(next(trials) for _ in own) for own in parts]
        values = [_mean_of_all([trial.value for trial in own]) for own in of_each]
        best = order(values)
        if not best:
            reasons = "; ".join(dict.fromkeys(trial.reason or "" for own in of_each for trial in own))
            raise ShortlistError(f"None of the {what} could be tried: {reasons}.")
        chosen = of_each[best[0]]
        contenders = tuple(
            Contender(
                name=name,
                student=student.finalist.name,
                value=value,
                difference=_difference_to(chosen, own) if place != best[0] else None,
                accuracy=next((trial.teacher_accuracy for trial in own if what == "teachers"), None),
                is_chosen=place == best[0],
                trials=own,
            )
            for place, (name, value, own) in enumerate(zip(names, values, of_each, strict=True))
        )
        return best[0], contenders

    # -- the last rung --------------------------------------------------------------------------

    def _pick(self, alive: Sequence[Entry]) -> Entry:
        """The best of the last rung, after the second seeds of all that may be it; see `in_doubt`."""
        last = self.plan.last
        self._train_rung(alive, last)
        able = [entry for entry in alive if entry.finalist.is_within_budget]
        seeded: list[Entry] = []
        while able := [entry for entry in able if entry.finalist.place not in self._reasons]:
            finalists = [self.finalist(entry) for entry in able]
            values = [list(one.values(last).values()) for one in finalists]
            accuracies = [one.val_accuracies(last) for one in finalists]
            of_seeds = seed_variance(accuracies)
            names = tuple(entry.finalist.name for entry in alive if entry in seeded)
            seed_std = None if of_seeds is None else math.sqrt(of_seeds)
            self.rungs[-1] = replace(self.rungs[-1], second_seeds=names, seed_std=seed_std)
            waiting = [able[place] for place in in_doubt(values, accuracies, self.val_images)]
            if not waiting:
                return able[leaders(values, accuracies, self.val_images)[0]]
            self._train_counted(waiting, last, 1, "second seeds")
            seeded += waiting
        raise ShortlistError("No finalist within the budget could be trained in full.")

    # -- the verdict ----------------------------------------------------------------------------

    def prove(self, pick: Entry) -> Verdict:
        """Train the pick and what it is compared with on all seeds, test them all, and compare them."""
        options, last = self.plan.options, self.plan.last
        rivals = [
            entry
            for entry in self.entries
            if entry.finalist.is_baseline
            and self._last_rung.get(entry.finalist.place) == last
            and entry.finalist.place not in (pick.finalist.place, *self._reasons)
        ]
        parts = []
        for number in range(options.verdict_seeds):
            parts += [self._part(entry, last, number, tests=True) for entry in (pick, *rivals)]
            if self.plan.compares:
                part = self.plan.alone(pick, number)
                self._of_finalist[pick.finalist.place][part.cell.name] = part
                parts.append(part)
        self._train(parts, "verdict", _VERDICT)
        return verdict_on(self.finalist(pick), [self.finalist(entry) for entry in rivals], last)

    # -- the result -----------------------------------------------------------------------------

    @property
    def tested(self) -> list[Cell]:
        """The trainings of the verdict."""
        return [part.cell for part in self._parts.values() if part.cell.tests]

    def finalist(self, entry: Entry, pick: Entry | None = None) -> Finalist:
        """The finalist with what became of it."""
        place = entry.finalist.place
        return replace(
            entry.finalist,
            reason=self._reasons.get(place, entry.finalist.reason),
            last_rung=self._last_rung.get(place, 0),
            is_pick=pick is not None and place == pick.finalist.place,
            trials=tuple(
                replace(trial, of_verdict=self._purposes.get(trial.name) != _RUNGS)
                for trial in self._trials(self._of_finalist[place].values())
            ),
        )

    def _trials(self, parts: Iterable[Part]) -> list[Trial]:
        rows, options = self.folder.cells, self.plan.options
        return [read_trial(part, rows, options.best_by, options.rule) for part in parts]

    def cost(self) -> ShortlistCost:
        """The cost of all trainings so far."""
        trials = dict(zip(self._parts, self._trials(self._parts.values()), strict=True))
        full = {
            name: (trial.epochs if trial.status == COMPLETE else len(trial.curve)) / self.plan.full_epochs
            for name, trial in trials.items()
        }
        shares = dict.fromkeys((_CHOICES, _RUNGS, _VERDICT), 0.0)
        for name, share in full.items():
            shares[self._purposes[name]] += share
        return ShortlistCost(
            full_epochs=self.plan.full_epochs,
            rungs=shares[_RUNGS],
            choices=shares[_CHOICES],
            verdict=shares[_VERDICT],
            hours=sum(trial.seconds or 0.0 for trial in trials.values()) / 3600,
            trainings=len(trials),
            failed=sum(trial.status == FAILED for trial in trials.values()),
        )


def _difference_to(chosen: Sequence[Trial], own: Sequence[Trial]) -> Spread | None:
    """The values of trainings less those of the chosen contender with the same seeds."""
    pairs = zip(own, chosen, strict=True)
    return spread([a.value - b.value for a, b in pairs if a.value is not None and b.value is not None])


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is missing, since means over other seeds are not compared."""
    complete = [value for value in values if value is not None]
    return fmean(complete) if complete and len(complete) == len(values) else None
