"""The result of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..sources.ranking import SourceRanking
from ..study.study import Study
from ..training.result import Training, TrainingResult
from .shortlists import Shortlist

NEAR_ZERO_WEIGHT = (
    "By {measure} no source tells more of {data} than chance does: where the score compares with sources, all count "
    "alike, and the student is trained on its labels alone, so that there is no other training to compare it with."
)


StageResult = Training | Study | SourceRanking | Shortlist
"""The result of a stage."""


@dataclass(frozen=True)
class PipelineResult:
    """A finished pipeline.

    Attributes:
        path: The run folder.
        study: The search, whose winner is the student if there is no shortlist.
        distilled: The student, trained under the teacher or the sources; with a shortlist, its training with the first
            seed, as `alone` is.
        alone: The same student, trained alone; None without `compare`, and if no source is near the data, so that the
            distilled student learnt from labels alone, too.
        teacher: The training of the teacher, of several that of the chosen one; None if it was given trained, or there
            are sources.
        ranking: The ranking of the sources; None without any.
        weights: Weight of each source, in the search and in the distillation, by name; empty without sources, and if
            none is near the data.
        shortlist: The finalists, the pick among them, which is the student, and the verdict on it; None without
            finalists.
        difference: Points of test accuracy that the distilled student has more than the one alone; with a shortlist,
            the mean over its seeds.
    """

    path: Path
    study: Study
    distilled: Training
    alone: Training | None
    teacher: Training | None
    ranking: SourceRanking | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    shortlist: Shortlist | None = None

    @property
    def student(self) -> nn.Module:
        """The distilled student, on the CPU, in evaluation mode."""
        return self.distilled.student

    @property
    def difference(self) -> float | None:
        """Points of test accuracy that distillation adds to the student alone; None if that was not trained."""
        if self.shortlist is not None and self.shortlist.verdict.gain is not None:
            return self.shortlist.verdict.gain.mean
        return None if self.alone is None else self.distilled.accuracy - self.alone.accuracy

    def compared(self) -> dict[str, TrainingResult]:
        """The results to compare, by their names in a table."""
        alone = {} if self.alone is None else {"student alone": self.alone.result}
        return {**alone, "distilled": self.distilled.result}
