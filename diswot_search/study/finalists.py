"""The finalists of a study: candidates that were trained, and what came of each training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

DISTILLED, ALONE = "distilled", "alone"
"""Values of `Trial.kind`."""

SCORE, BASELINE, LARGEST = "score", "baseline", "largest"
"""Values of `Finalist.origin` apart from the names of other scores."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a finalist.

    Attributes:
        name: Its name; the place of its run folder in that of the shortlist.
        kind: "distilled", or "alone" on labels only.
        rung: Number of the rung whose epochs it has, from 1.
        seed: Its seed.
        epochs: Its epochs.
        teacher: Name of its teacher; None without one.
        distiller: Its distillers as they were named; None without a teacher.
        status: "complete", "failed", or "running" if it has not come to its end.
        reason: Why it failed, if it did.
        value: The measure on validation images that chose its epoch, where higher is better: an accuracy in percent
            unless `best_by` says otherwise; None until it is complete.
        val_accuracy: Accuracy of that epoch on the validation images, in percent; likewise.
        kept_epoch: That epoch, whose weights are kept, from 1; likewise.
        test_accuracy: Accuracy on the test images, in percent; None for trainings that no verdict is made of.
        teacher_accuracy: Accuracy of its teacher on the validation images, in percent; None if it was not measured.
        of_verdict: Whether it was made for the verdict alone, after the pick was known, so that it decided nothing.
        seconds: Time of its epochs with their validation; of a training that failed, that of training in its finished
            epochs.
        curve: Accuracy on the validation images after each epoch, in percent.
    """

    name: str
    kind: str
    rung: int
    seed: int
    epochs: int
    teacher: str | None = None
    distiller: str | None = None
    status: str = "running"
    reason: str | None = None
    value: float | None = None
    val_accuracy: float | None = None
    kept_epoch: int | None = None
    test_accuracy: float | None = None
    teacher_accuracy: float | None = None
    of_verdict: bool = False
    seconds: float | None = None
    curve: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A candidate that was chosen for training, or a baseline.

    Attributes:
        name: Its name, short and unique among the finalists.
        place: Its place among them, from 1: the best of the study first, baselines last.
        origin: Why it was chosen: "score" for the study's own, the name of another score, "largest" for the one of most
            parameters within the budget, or "baseline" for a network that the user named.
        is_baseline: Whether others are compared with it: the user's baselines, and the largest within the budget.
        is_named: Whether the user named it as a baseline. Such a one takes part in each rung and in the verdict.
        architecture: Its architecture as text; None for a network of no space.
        index: The index of its record in the study; None for a network that the study did not score.
        params: Trainable parameters.
        macs: Multiply-accumulates of one image.
        score: Its score in the study; None for a network that the study did not score.
        other_scores: Its other scores, as far as they were computed, by name.
        is_within_budget: Whether it may be the pick.
        reason: Why it is out without a training, or why its training failed; None while it is in.
        last_rung: The last rung that it took part in, from 1; 0 if it was never trained.
        is_pick: Whether it is the proven student.
        trials: Its trainings.
    """

    name: str
    place: int
    origin: str
    is_baseline: bool = False
    is_named: bool = False
    architecture: str | None = None
    index: int | None = None
    params: int | None = None
    macs: int | None = None
    score: float | None = None
    other_scores: Mapping[str, float] = field(default_factory=dict)
    is_within_budget: bool = True
    reason: str | None = None
    last_rung: int = 0
    is_pick: bool = False
    trials: tuple[Trial, ...] = ()

    def of_rung(self, rung: int) -> list[Trial]:
        """Its distillations of a rung that decided there, without those that were made for the verdict."""
        return [
            trial for trial in self.trials if trial.rung == rung and trial.kind == DISTILLED and not trial.of_verdict
        ]

    def values(self, rung: int) -> dict[int, float]:
        """The values of its distillations of a rung by seed."""
        return {trial.seed: trial.value for trial in self.of_rung(rung) if trial.value is not None}

    def value(self, rung: int) -> float | None:
        """The mean over seeds of the values of its distillations of a rung; None without any."""
        return _mean(list(self.values(rung).values()))

    def val_accuracies(self, rung: int) -> list[float]:
        """The validation accuracies of its distillations of a rung, one for each seed, in percent."""
        return [trial.val_accuracy for trial in self.of_rung(rung) if trial.val_accuracy is not None]

    def val_accuracy(self, rung: int) -> float | None:
        """The mean over seeds of the validation accuracies of its distillations of a rung, in percent."""
        return _mean(self.val_accuracies(rung))

    def test_accuracy(self, kind: str = DISTILLED) -> float | None:
        """The mean over seeds of its test accuracies, in percent; None if none was measured."""
        trials = [trial for trial in self.trials if trial.kind == kind]
        return _mean([trial.test_accuracy for trial in trials if trial.test_accuracy is not None])


def epochs_of_rungs(finalists: Iterable[Finalist]) -> dict[int, int]:
    """The epochs of the distillations of each rung by its number, the first one first."""
    trials = (trial for finalist in finalists for trial in finalist.trials if trial.kind == DISTILLED)
    return dict(sorted({trial.rung: trial.epochs for trial in trials}.items()))


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
