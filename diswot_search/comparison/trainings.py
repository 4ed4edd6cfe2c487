"""Trainings side by side: means over seeds, and paired differences to a baseline with t intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from ..runtime.configuration import canonical
from ..runtime.run_folder import COMPLETE
from ..training.result import TrainingResult
from ..training.seeds import LEVEL, Difference, Spread, paired_difference, spread

FAILED = "failed"
"""Status of a training that came to an end without a result."""


# -- trainings and their rows -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainingCell:
    """A training as a table takes it.

    Attributes:
        name: Its name in messages.
        path: Its run folder.
        values: Values of the options that differ between the trainings, apart from the seed, as JSON values.
        seed: Its seed.
        status: "complete", "failed", or "running" if it has not come to its end.
        reason: Why it failed, if it did.
        result: Its result; None unless it is complete.
    """

    name: str
    path: Path
    values: Mapping[str, object]
    seed: int
    status: str
    reason: str | None = None
    result: TrainingResult | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy in percent; None without a result."""
        return self.result.test.accuracy if self.result is not None and self.result.test is not None else None


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """Trainings that differ in their seeds alone.

    Attributes:
        values: Values of their options by name, as JSON values.
        accuracy: Test accuracy, in percent; None if no training is complete, as all below.
        balanced_accuracy: Mean of the classes' test accuracies, in percent; None as well where a result lacks it.
        teacher_accuracy: Mean test accuracy of the teacher, in percent; None without one of the data's classes.
        seconds: Mean time of a training with its validation.
        difference: Test accuracy less that of the baseline, in points, over the seeds that both have; None for a
            baseline itself, and where there is none.
        is_baseline: Whether others are compared with this row.
        failed: Number of trainings that failed.
        unfinished: Number of trainings that have not come to their end.
    """

    values: Mapping[str, object]
    accuracy: Spread | None
    balanced_accuracy: Spread | None
    teacher_accuracy: float | None
    seconds: float | None
    difference: Difference | None = None
    is_baseline: bool = False
    failed: int = 0
    unfinished: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """Trainings, and the rows of a table of them.

    Attributes:
        cells: The trainings.
        rows: Their combinations in the order in which they occur.
        keys: Names of the options that differ, in the order of columns.
        baseline: Values of the trainings that others are compared with; None if there are none.
        level: Confidence of the intervals.
    """

    cells: tuple[TrainingCell, ...]
    rows: tuple[TrainingRow, ...]
    keys: tuple[str, ...]
    baseline: Mapping[str, object] | None = None
    level: float = LEVEL


class BaselineError(ValueError):
    """A baseline that is none of the trainings."""


def summarise_trainings(
    cells: Sequence[TrainingCell],
    keys: Sequence[str],
    baseline: Mapping[str, object] | None = None,
    *,
    level: float = LEVEL,
) -> TrainingSummary:
    """Put trainings together that differ in their seeds alone, and compare them with a baseline.

    Args:
        cells: The trainings.
        keys: Names of the options that differ, apart from the seed.
        baseline: Values of the trainings that others are compared with. A row is compared with the baseline that has
            the same values otherwise, where an option that the baseline does not have may have any value.
        level: Confidence of the intervals.

    Raises:
        BaselineError: The baseline is no training.
        ValueError: Two trainings have the same values and the same seed.
    """
    groups: dict[str, list[TrainingCell]] = {}
    for cell in cells:
        group = groups.setdefault(as_text(cell.values), [])
        if twin := next((other for other in group if other.seed == cell.seed), None):
            raise ValueError(
                f"{twin.name} and {cell.name} are the same training: their options are alike, and both have the seed "
                f"{cell.seed}. Leave one of them out."
            )
        group.append(cell)
    members = list(groups.values())
    bases = [] if baseline is None else _baselines(members, keys, baseline)
    rows = []
    for group in members:
        base = None if any(group is one for one in bases) else _base_of(group, bases, baseline or {})
        rows.append(_row(group, base, is_baseline=any(group is one for one in bases), level=level))
    return TrainingSummary(cells=tuple(cells), rows=tuple(rows), keys=tuple(keys), baseline=baseline, level=level)


def as_text(value: object) -> str:
    """A JSON value as text that is the same for equal values."""
    return json.dumps(canonical(value), sort_keys=True)


def _baselines(
    groups: Sequence[list[TrainingCell]], keys: Sequence[str], baseline: Mapping[str, object]
) -> list[list[TrainingCell]]:
    """The trainings that have the values of the baseline.

    Raises:
        BaselineError: There are none.
    """
    for key, value in baseline.items():
        if key not in keys:
            raise BaselineError(
                f"The baseline has {key}, in which the trainings do not differ; they differ in: "
                f"{', '.join(keys) or 'nothing but their seeds'}."
            )
        values = {as_text(group[0].values[key]): group[0].values[key] for group in groups}
        if as_text(value) not in values:
            raise BaselineError(
                f"The baseline has {key} {value_text(value)}, but no training has; there are: "
                f"{', '.join(map(value_text, values.values()))}."
            )
    wanted = {key: as_text(value) for key, value in baseline.items()}
    bases = [group for group in groups if all(as_text(group[0].values[key]) == text for key, text in wanted.items())]
    if not bases:
        raise BaselineError(f"No training has all values of the baseline: {describe_values(baseline)}.")
    return bases


def _base_of(
    group: Sequence[TrainingCell], bases: Sequence[list[TrainingCell]], baseline: Mapping[str, object]
) -> Sequence[TrainingCell] | None:
    """The baseline that a group is compared with; None if there is none, or more than one."""
    if len(bases) == 1:
        return bases[0]
    values = group[0].values

    def agrees(base: Sequence[TrainingCell]) -> bool:
        others = {key: value for key, value in base[0].values.items() if key not in baseline and value is not None}
        return all(as_text(value) == as_text(values[key]) for key, value in others.items())

    agreeing = [base for base in bases if agrees(base)]
    return agreeing[0] if len(agreeing) == 1 else None


def _row(
    group: Sequence[TrainingCell], base: Sequence[TrainingCell] | None, *, is_baseline: bool, level: float
) -> TrainingRow:
    results = [cell.result for cell in group if cell.result is not None]
    tests = [result.test for result in results if result.test is not None]
    balanced = [test.balanced_accuracy for test in tests if test.balanced_accuracy is not None]
    teachers = [result.teacher.accuracy for result in results if result.teacher and result.teacher.accuracy is not None]
    seconds = [result.timing.seconds for result in results if result.timing is not None]
    return TrainingRow(
        values=group[0].values,
        accuracy=spread([test.accuracy for test in tests]),
        balanced_accuracy=spread(balanced) if len(balanced) == len(tests) else None,
        teacher_accuracy=fmean(teachers) if teachers else None,
        seconds=fmean(seconds) if seconds else None,
        difference=None if base is None else _difference(group, base, level),
        is_baseline=is_baseline,
        failed=sum(cell.status == FAILED for cell in group),
        unfinished=sum(cell.status not in (FAILED, COMPLETE) for cell in group),
    )


def _difference(group: Sequence[TrainingCell], base: Sequence[TrainingCell], level: float) -> Difference | None:
    """The difference of two groups over the seeds that both have."""
    of_base = {cell.seed: cell.accuracy for cell in base if cell.accuracy is not None}
    pairs = [
        (cell.accuracy, of_base[cell.seed]) for cell in group if cell.accuracy is not None and cell.seed in of_base
    ]
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs], level)


# -- values in words ----------------------------------------------------------------------------


def value_text(value: object) -> str:
    """A value of an option as a table shows it; "-" for none.

    Example:
        >>> [value_text(value) for value in (None, True, 0.1, "kd", {"kd": 2})]
        ['-', 'true', '0.1', 'kd', '{kd: 2}']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return str(value)


def describe_values(values: Mapping[str, object]) -> str:
    """Values of options in words; those that are none are left out if others are not.

    Example:
        >>> describe_values({"distiller": "kd", "lr": 0.1, "teacher": None})
        'distiller kd, lr 0.1'
    """
    chosen = {key: value for key, value in values.items() if value is not None} or values
    return ", ".join(f"no {key}" if value is None else f"{key} {value_text(value)}" for key, value in chosen.items())
