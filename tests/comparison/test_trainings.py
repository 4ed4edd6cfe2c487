"""Trainings side by side: the statistics are those of SciPy, and baselines are found as a reader would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diswot_search.comparison.trainings import (
    BaselineError,
    TrainingCell,
    describe_values,
    paired_difference,
    spread,
    summarise_trainings,
)
from diswot_search.reports.trainings import explain_trainings, trainings_markdown

numbers = st.floats(-100, 100).map(lambda value: round(value, 6))


def cell(seed: int, accuracy: float | None, status: str = "complete", **values: object) -> TrainingCell:
    test = SimpleNamespace(accuracy=accuracy, balanced_accuracy=None)
    result: Any = SimpleNamespace(test=test, teacher=None, timing=None, versions={}) if status == "complete" else None
    name = f"{values}-{seed}"
    return TrainingCell(name=name, path=Path(name), values=values, seed=seed, status=status, result=result)


def differences(cells: list[TrainingCell], baseline: Mapping[str, object]) -> list[float | None]:
    summary = summarise_trainings(cells, list(cells[0].values), baseline)
    return [row.difference and round(row.difference.mean, 9) for row in summary.rows]


@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20), level=st.floats(0.5, 0.99))
def test_a_paired_difference_has_the_t_interval_of_scipy(pairs: list[tuple[float, float]], level: float) -> None:
    values, others = map(list, zip(*pairs, strict=True))
    difference = paired_difference(values, others, level)
    gaps = np.subtract(values, others)
    assert difference is not None
    assert difference.count == len(pairs)
    np.testing.assert_allclose(difference.mean, gaps.mean(), atol=1e-9)
    error = stats.sem(gaps)
    low, high = stats.t.interval(level, len(gaps) - 1, gaps.mean(), error) if error else (gaps.mean(), gaps.mean())
    np.testing.assert_allclose([difference.low, difference.high], [low, high], rtol=1e-6, atol=1e-7)
    one = spread(values)
    assert one is not None
    np.testing.assert_allclose([one.mean, one.std], [np.mean(values), np.std(values, ddof=1)], rtol=1e-9, atol=1e-9)


def test_one_seed_has_neither_a_deviation_nor_an_interval() -> None:
    one, difference = spread([3.0]), paired_difference([3.0], [1.0])
    assert one is not None
    assert difference is not None
    assert one.std is None
    assert (difference.mean, difference.low, difference.high, difference.count) == (2.0, None, None, 1)
    assert spread([]) is None
    assert paired_difference([], []) is None


def test_equal_differences_of_pairs_have_no_interval_in_a_table() -> None:
    cells = [cell(seed, 10.0 + seed, distiller="kd") for seed in (0, 1)]
    cells += [cell(seed, 12.0 + seed, distiller="dkd") for seed in (0, 1)]
    cells += [cell(seed, 12.0 + 2 * seed, distiller="at") for seed in (0, 1)]
    lines = trainings_markdown(summarise_trainings(cells, ["distiller"], {"distiller": "kd"})).splitlines()
    by_name = {name: next(line for line in lines if line.startswith(f"| {name} ")) for name in ("dkd", "at")}
    assert "+2.00, equal in all pairs" in by_name["dkd"]
    assert "+2.50 \\[-3.85, +8.85\\]" in by_name["at"]


def test_pairs_are_the_seeds_that_both_have() -> None:
    cells = [
        *(cell(seed, 10.0 + seed, distiller="kd") for seed in (0, 1, 2)),
        cell(0, 11.0, distiller="dkd"),
        cell(2, 15.0, distiller="dkd"),
        cell(7, 50.0, distiller="dkd"),
        cell(1, None, "failed", distiller="dkd"),
    ]
    kd, dkd = summarise_trainings(cells, ["distiller"], {"distiller": "kd"}).rows
    assert kd.is_baseline
    assert kd.difference is None
    assert dkd.difference is not None
    assert dkd.accuracy is not None
    assert (dkd.difference.mean, dkd.difference.count, dkd.accuracy.count, dkd.failed) == (2.0, 2, 3, 1)


def test_a_row_is_compared_with_the_baseline_of_its_other_values() -> None:
    cells = [
        cell(0, accuracy, distiller=distiller, lr=lr)
        for distiller, lr, accuracy in (("kd", 0.1, 1.0), ("kd", 0.2, 2.0), ("dkd", 0.1, 4.0), ("dkd", 0.2, 8.0))
    ]
    assert differences(cells, {"distiller": "kd"}) == [None, None, 3.0, 6.0]
    assert differences(cells, {"distiller": "kd", "lr": 0.1}) == [None, 1.0, 3.0, 7.0]


def test_a_single_baseline_of_other_values_is_not_compared_with() -> None:
    cells = [
        cell(0, 1.0, distiller="kd", lr=0.1),
        cell(0, 4.0, distiller="dkd", lr=0.1),
        cell(0, 8.0, distiller="dkd", lr=0.2),
    ]
    assert differences(cells, {"distiller": "kd"}) == [None, 3.0, None]
    assert differences(cells, {"distiller": "kd", "lr": 0.1}) == [None, 3.0, 7.0]  # which leaves no other choice
    text = " ".join(explain_trainings(summarise_trainings(cells, ["distiller", "lr"], {"distiller": "kd"})))
    assert "Differences to trainings with distiller kd and the same lr (where they have one): mean" in text
    assert "Rows without a difference have no such baseline, more than one, or none of the same seed." in text
    whole = summarise_trainings(cells, ["distiller", "lr"], {"distiller": "kd", "lr": 0.1})
    text = " ".join(explain_trainings(whole))
    assert "Differences to trainings with distiller kd, lr 0.1: mean over pairs" in text
    assert "Rows without" not in text


def test_a_training_alone_is_the_baseline_of_its_student() -> None:
    """Its distiller is none, which is no value that others would have to share."""
    cells = [
        cell(0, 1.0, student="a", teacher=None, distiller=None),
        cell(0, 2.0, student="b", teacher=None, distiller=None),
        cell(0, 5.0, student="a", teacher="t", distiller="kd"),
        cell(0, 9.0, student="b", teacher="t", distiller="dkd"),
        cell(0, 9.0, student="c", teacher="t", distiller="dkd"),
    ]
    assert differences(cells, {"teacher": None}) == [None, None, 4.0, 7.0, None]


def test_what_is_no_baseline_is_said() -> None:
    cells = [cell(0, 1.0, distiller="kd", lr=0.1), cell(0, 1.0, distiller="dkd", lr=0.2)]
    for baseline, message in (
        ({"epochs": 3}, "they differ in: distiller, lr"),
        ({"lr": 0.3}, "there are: 0.1, 0.2"),
        ({"distiller": "kd", "lr": 0.2}, "No training has all values of the baseline: distiller kd, lr 0.2"),
    ):
        with pytest.raises(BaselineError, match=message):
            summarise_trainings(cells, ["distiller", "lr"], baseline)
    with pytest.raises(ValueError, match="are the same training"):
        summarise_trainings([cells[0], cells[0]], ["distiller", "lr"])
    assert describe_values({"teacher": None, "lr": 0.1}) == "lr 0.1"
    assert describe_values({"teacher": None}) == "no teacher"
