"""The result of a shortlist: finalists that were trained, the pick among them, and the verdict on it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..runtime.files import RunFolderError
from ..runtime.typed_json import Json, decode_stored, encode_fields
from ..study.finalists import ALONE, DISTILLED, SCORE, Finalist, Trial
from ..training.seeds import Difference, Spread, paired_difference
from .folders import ShortlistFolder

DISTIL, DO_NOT_DISTIL, UNKNOWN = "distil", "do not distil", "unknown"
"""Values of `Verdict.advice`."""


@dataclass(frozen=True, kw_only=True)
class ShortlistRung:
    """A rung of a shortlist.

    Attributes:
        share: Share of the epochs of a full training.
        epochs: The epochs of each of its trainings, whose schedule ends with them.
        keep: Number of finalists that went on; None for the last rung.
        finalists: Names of those that took part, in order of their places.
        second_seeds: Names of those of the last rung that got a second seed before the pick, since they might be the
            best.
        seed_std: Standard deviation of an accuracy of the last rung over seeds, in points, pooled over those that have
            several; None for other rungs, and where no finalist has several.
    """

    share: float
    epochs: int
    keep: int | None = None
    finalists: tuple[str, ...] = ()
    second_seeds: tuple[str, ...] = ()
    seed_std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A teacher or a distiller that was tried on one finalist.

    Attributes:
        name: Its name.
        student: Name of the finalist that was trained.
        value: Mean over the seeds of the values that the student reached with it, where higher is better; None if
            one of its trainings failed.
        difference: Its values less those of the chosen one with the same seeds; None if they have no seed in common.
        accuracy: The own accuracy of a teacher on the validation images, in percent; None for a distiller, and for a
            teacher of other classes.
        is_chosen: Whether the students of the later stages learnt from it.
        trials: The trainings. Those of a rung are trials of the finalist as well; others count for the choice alone.
    """

    name: str
    student: str = ""
    value: float | None = None
    difference: Spread | None = None
    accuracy: float | None = None
    is_chosen: bool = False
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerdictFailure:
    """A training of the verdict that failed, or whose test did.

    Attributes:
        name: Name of the finalist.
        kind: "distilled" or "alone".
        seed: Its seed.
        reason: Why it failed.
    """

    name: str
    kind: str
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The proof of the pick, on test images.

    Attributes:
        student: Name of the pick.
        seeds: Seeds of its full trainings.
        distilled: Mean test accuracy of the distilled student, in percent.
        alone: Mean test accuracy of the same student trained on labels alone, in percent; None if it was not.
        gain: Test accuracy distilled less alone, in points, over seeds that both have; None likewise.
        against: Test accuracy of the distilled pick less that of each baseline that was distilled in full, by name.
        advice: "distil"; "do not distil" where the interval of the gain includes zero or less; "unknown" where the gain
            has no interval of some width, or where a training of the pick failed.
        because: Why the advice is unknown; None if it is not.
        failures: The trainings that failed, of the pick and of the baselines. Their seeds are in no mean and no pair.
        level: Confidence of the intervals.
    """

    student: str
    seeds: tuple[int, ...] = ()
    distilled: float | None = None
    alone: float | None = None
    gain: Difference | None = None
    against: Mapping[str, Difference] = field(default_factory=dict)
    advice: str = UNKNOWN
    because: str | None = None
    failures: tuple[VerdictFailure, ...] = ()
    level: float = 0.95


@dataclass(frozen=True, kw_only=True)
class Regret:
    """What a finalist would have lost against the pick, on validation images.

    Attributes:
        name: Name of the finalist.
        rung: The last rung that both were trained on; None if it could not be trained.
        loss: Value of the pick less its value on that rung, over the seeds that both have: points of accuracy unless
            `best_by` says otherwise; None likewise. It is below 0 where later epochs or seeds turned the order.
    """

    name: str
    rung: int | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class ShortlistCost:
    """The cost of a shortlist.

    Attributes:
        full_epochs: Epochs of one full training.
        rungs: Full trainings that the rungs took: their epochs as a share of those of one full training, whatever the
            size of the network.
        choices: Full trainings that only the choices of teacher and distiller took.
        verdict: Full trainings that only the verdict took.
        hours: Hours of all trainings one after another, with their validation. Of a training that failed, the time of
            training in its finished epochs is counted.
        trainings: Number of trainings.
        failed: Number of those that failed.
    """

    full_epochs: int
    rungs: float
    verdict: float
    hours: float
    trainings: int
    choices: float = 0.0
    failed: int = 0

    @property
    def full_trainings(self) -> float:
        """Full trainings that all of it took."""
        return self.rungs + self.choices + self.verdict


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """A finished shortlist: from a study to a proven student.

    Attributes:
        path: The run folder, which stands for the proven student wherever a network is named.
        study: Run folder of the study; None for one in memory.
        space: Name of its space.
        proxy: Name of its score.
        data: Name of the data set.
        measure: The measure on validation images that ordered the finalists.
        val_images, test_images: Number of images that accuracies were measured on.
        finalists: The finalists in order of their places, those that are out included.
        rungs: The rungs.
        teachers: The teachers that were ranked; empty for a single one.
        distillers: The distillers that were ranked; likewise.
        verdict: The verdict.
        cost: The cost.
        regret: What the study's best by its score would have lost against the pick; None if it is no finalist.
        notices: What was left out or done otherwise, in sentences.
    """

    path: str
    study: str | None
    space: str
    proxy: str
    data: str
    measure: str
    val_images: int
    test_images: int
    finalists: tuple[Finalist, ...]
    rungs: tuple[ShortlistRung, ...]
    teachers: tuple[Contender, ...] = ()
    distillers: tuple[Contender, ...] = ()
    verdict: Verdict
    cost: ShortlistCost
    regret: Regret | None = None
    notices: tuple[str, ...] = ()

    @property
    def pick(self) -> Finalist:
        """The proven student."""
        return next(finalist for finalist in self.finalists if finalist.is_pick)

    @property
    def choice_seeds(self) -> tuple[int, ...]:
        """Seeds of the verdict whose trainings chose the pick among others in the last rung."""
        last = len(self.rungs)
        able = [one for one in self.finalists if one.is_within_budget and one.values(last)]
        seeds = [trial.seed for trial in self.pick.of_rung(last)] if len(able) > 1 else []
        return tuple(seed for seed in seeds if seed in self.verdict.seeds)

    def __repr__(self) -> str:
        return f"<Shortlist of {len(self.finalists)} finalists, pick {self.pick.name}, {self.path}>"

    def to_json(self) -> dict[str, Json]:
        """Convert to the content of `result.json`."""
        return {"status": "complete", "pick": self.pick.name, **encode_fields(self)}


def read_shortlist(path: str | os.PathLike[str]) -> Shortlist:
    """Read the result of a finished shortlist from its run folder. Nothing is changed.

    Raises:
        RunFolderError: The folder has no shortlist, it is not finished, or it is damaged.
    """
    folder = ShortlistFolder.peek(path)
    if folder.result is None:
        raise RunFolderError(f"The shortlist in {path} is not finished; the same command as before continues it.")
    store = Path(path) / ShortlistFolder.LAYOUT.store
    shortlist = decode_stored(Shortlist, folder.result, store, "restore the folder from a copy, or start anew")
    return replace(shortlist, path=os.fspath(path))


# -- the guess ----------------------------------------------------------------------------------


def regret_of(finalists: Sequence[Finalist]) -> Regret | None:
    """What the study's best by its score would have lost against the pick; None if it is no finalist.

    Args:
        finalists: The finalists with their trials, one of which is the pick.
    """
    pick = next(finalist for finalist in finalists if finalist.is_pick)
    guess = next((finalist for finalist in finalists if finalist.origin == SCORE), None)
    return None if guess is None else regret_against(pick, guess)


def regret_against(pick: Finalist, other: Finalist) -> Regret:
    """What a finalist would have lost against the pick, on the last rung that both were trained on.

    Args:
        pick, other: The pick and the finalist with their trials.
    """
    for rung in range(min(pick.last_rung, other.last_rung), 0, -1):
        difference = _difference(pick.values(rung), other.values(rung))
        if difference is not None:
            return Regret(name=other.name, rung=rung, loss=difference.mean)
    return Regret(name=other.name)


# -- the verdict --------------------------------------------------------------------------------


def verdict_on(pick: Finalist, baselines: Sequence[Finalist], rung: int) -> Verdict:
    """The verdict on the pick, from test accuracies of trainings with the same seeds.

    Args:
        pick: The pick with its trials.
        baselines: The baselines, of which those are compared that have test accuracies.
        rung: Number of the last rung.
    """
    distilled, alone = (_tested(pick, kind, rung) for kind in (DISTILLED, ALONE))
    gain = _difference(distilled, alone)
    failures = tuple(
        VerdictFailure(name=one.name, kind=trial.kind, seed=trial.seed, reason=trial.reason)
        for one in (pick, *baselines)
        for trial in one.trials
        if trial.rung == rung and trial.reason is not None
    )
    of_pick = [failure for failure in failures if failure.name == pick.name]
    because = why_unknown(gain, of_pick)
    against = {one.name: _difference(distilled, _tested(one, DISTILLED, rung)) for one in baselines}
    return Verdict(
        student=pick.name,
        seeds=tuple(distilled),
        distilled=pick.test_accuracy(),
        alone=pick.test_accuracy(ALONE),
        gain=gain,
        against={name: difference for name, difference in against.items() if difference is not None},
        advice=UNKNOWN if because is not None else advice_on(gain),
        because=because,
        failures=failures,
    )


def why_unknown(gain: Difference | None, failures: Sequence[VerdictFailure] = ()) -> str | None:
    """Why a gain gives no advice; None if it gives one.

    Args:
        gain: Test accuracy distilled less alone; None without pairs.
        failures: The trainings of the pick that failed.

    Example:
        >>> why_unknown(Difference(1.0, None, None, 1))
        'one pair of seeds has no interval'
        >>> why_unknown(Difference(1.0, 0.2, 1.8, 3)) is None
        True
    """
    if failures:
        seeds = ", ".join(f"{failure.kind} with seed {failure.seed}" for failure in failures)
        return f"trainings of the pick failed: {seeds}"
    if gain is None:
        return "the pick was not trained alone"
    if gain.low is None or gain.high is None or math.isnan(gain.low):
        return "one pair of seeds has no interval"
    if gain.has_equal_values:
        return f"the differences of all {gain.count} pairs are equal, which says nothing of their spread"
    return None


def advice_on(gain: Difference | None) -> str:
    """The advice that a gain gives.

    Example:
        >>> advice_on(Difference(1.0, 0.2, 1.8, 3)), advice_on(Difference(1.0, -0.2, 2.2, 3)), advice_on(None)
        ('distil', 'do not distil', 'unknown')
        >>> advice_on(Difference(1.0, 1.0, 1.0, 3))
        'unknown'
    """
    if gain is None or gain.low is None or why_unknown(gain) is not None:
        return UNKNOWN
    return DISTIL if gain.low > 0 else DO_NOT_DISTIL


def _tested(finalist: Finalist, kind: str, rung: int) -> dict[int, float]:
    """The test accuracies of the full trainings of a kind by seed."""
    trials = (trial for trial in finalist.trials if trial.kind == kind and trial.rung == rung)
    return {trial.seed: trial.test_accuracy for trial in trials if trial.test_accuracy is not None}


def _difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    seeds = [seed for seed in values if seed in others]
    return paired_difference([values[seed] for seed in seeds], [others[seed] for seed in seeds])
