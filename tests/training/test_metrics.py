"""Accuracy, likelihood, calibration, agreement: against scikit-learn, SciPy and plain loops, whole and in batches."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torch import Tensor

from diswot_search.training.metrics import Metrics, MetricSums

EXACT: dict[str, Any] = {"rel": 1e-12, "abs": 1e-12}
"""Both sides are in double precision and differ in the order of their sums alone."""

seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(2, 60), st.integers(2, 12))


def sample(seed: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student, labels, and logits of a teacher."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, generator=generator)
    labels = torch.randint(size[1], size[:1], generator=generator)
    return logits, labels, logits + torch.randn(size, generator=generator)


def evaluate(logits: Tensor, labels: Tensor, teacher: Tensor | None = None, bins: int = 15) -> Metrics:
    """The evaluation of one batch."""
    sums = MetricSums(logits.shape[1], bins=bins)
    sums.add(logits, labels, teacher)
    return sums.metrics()


def probabilities(logits: Tensor) -> NDArray[np.float64]:
    return softmax(logits.double().numpy(), axis=1)


def naive_calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Bin by bin and sample by sample, as the paper defines it."""
    total = 0.0
    chances = probabilities(logits)
    for place in range(bins):
        members = [i for i, p in enumerate(chances) if place / bins < p.max() <= (place + 1) / bins]
        if members:
            accuracy = sum(chances[i].argmax() == int(labels[i]) for i in members) / len(members)
            confidence = sum(chances[i].max() for i in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


# -- one batch ----------------------------------------------------------------------------------


@given(seed=seeds, size=sizes)
def test_accuracy_is_that_of_scikit_learn(seed: int, size: tuple[int, int]) -> None:
    logits, labels, _ = sample(seed, size)
    found = evaluate(logits, labels)
    assert found.accuracy == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)), **EXACT)
    if size[1] < 5:
        assert found.top5 is None
    elif size[1] == 5:  # scikit-learn wants k below the number of classes
        assert found.top5 == 100
    else:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=range(size[1]))
        assert found.top5 == pytest.approx(100 * expected, **EXACT)


def test_equal_logits_make_no_more_than_k_classes_right() -> None:
    logits, labels = torch.zeros(10, 10), torch.arange(10)
    found = evaluate(logits, labels)
    assert (found.accuracy, found.top5) == (10, 50)
    assert found.class_accuracy == (100, *[0] * 9)
    first = torch.zeros(10, dtype=torch.long)  # which counts as the largest
    assert evaluate(logits, first).accuracy == 100


@given(seed=seeds, size=sizes)
def test_accuracy_by_class_is_the_recall_of_scikit_learn(seed: int, size: tuple[int, int]) -> None:
    logits, labels, _ = sample(seed, size)
    found = evaluate(logits, labels)
    recall = recall_score(labels, logits.argmax(1), labels=range(size[1]), average=None, zero_division=np.nan)
    expected = [None if math.isnan(share) else pytest.approx(100 * share, **EXACT) for share in recall]
    assert list(found.class_accuracy) == expected
    samples = labels.bincount(minlength=size[1]).tolist()
    right = sum(count * share for count, share in zip(samples, found.class_accuracy, strict=True) if count)
    assert right / size[0] == pytest.approx(found.accuracy, **EXACT)


@given(seed=seeds, size=sizes)
def test_balanced_accuracy_and_macro_f1_are_those_of_scikit_learn(seed: int, size: tuple[int, int]) -> None:
    logits, labels, _ = sample(seed, size)
    found, predicted = evaluate(logits, labels), logits.argmax(1)
    recall = recall_score(labels, predicted, labels=labels.unique(), average="macro")
    assert found.balanced_accuracy == pytest.approx(100 * recall, **EXACT)
    if len(labels.unique()) > 1 and set(predicted.tolist()) <= set(labels.tolist()):  # scikit-learn warns otherwise
        assert found.balanced_accuracy == pytest.approx(100 * balanced_accuracy_score(labels, predicted), **EXACT)
    assert found.macro_f1 == pytest.approx(100 * f1_score(labels, predicted, average="macro"), **EXACT)


@given(seed=seeds, size=sizes)
def test_likelihood_is_that_of_scikit_learn(seed: int, size: tuple[int, int]) -> None:
    logits, labels, _ = sample(seed, size)
    expected = log_loss(labels, probabilities(logits), labels=range(size[1]))
    assert evaluate(logits, labels).nll == pytest.approx(expected, **EXACT)


@settings(max_examples=50)
@given(seed=seeds, size=sizes, bins=st.sampled_from([1, 2, 10, 15]))
def test_calibration_error_is_that_of_a_loop(seed: int, size: tuple[int, int], bins: int) -> None:
    logits, labels, _ = sample(seed, size)
    expected = 100 * naive_calibration_error(logits, labels, bins)
    assert evaluate(logits, labels, bins=bins).calibration_error == pytest.approx(expected, **EXACT)


def test_a_calibrated_network_has_no_calibration_error() -> None:
    logits = torch.tensor([0.75, 0.25]).log().repeat(4, 1)
    # 3 of 4 are right; the logits are in single precision, which the confidence of 0.75 inherits
    found, wrong = (evaluate(logits, torch.tensor(labels)).calibration_error for labels in ([0, 0, 0, 1], [1, 1, 1, 1]))
    assert found == pytest.approx(0, abs=1e-4)
    assert wrong == pytest.approx(75, abs=1e-4)


def test_the_upper_end_belongs_to_a_bin() -> None:
    sure, unsure = [1.0, 0.0], [0.0, 0.0]  # confidences of 0.73 and of exactly 0.5
    sums = MetricSums(2, bins=2)
    sums.add(torch.tensor([sure, unsure, unsure]), torch.tensor([0, 0, 1]))
    assert [part.samples for part in sums.metrics().bins] == [2, 1]


@given(seed=seeds, size=sizes)
def test_agreement_and_divergence_are_those_of_numpy_and_scipy(seed: int, size: tuple[int, int]) -> None:
    student, labels, teacher = sample(seed, size)
    found = evaluate(student, labels, teacher)
    equal = np.mean(student.numpy().argmax(1) == teacher.numpy().argmax(1))
    assert found.agreement == pytest.approx(100 * equal, **EXACT)
    expected = np.mean(entropy(probabilities(teacher), probabilities(student), axis=1))
    assert found.divergence == pytest.approx(expected, **EXACT)
    same = evaluate(student, labels, student)
    assert (same.agreement, same.divergence) == (100, 0)


def test_a_class_that_is_ruled_out_adds_nothing_to_the_divergence() -> None:
    logits, label = torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([1])
    assert evaluate(logits, label, logits).divergence == 0
    expected = entropy(probabilities(logits)[0], [1 / 3] * 3)
    assert evaluate(torch.zeros(1, 3), label, logits).divergence == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_precision_is_evaluated_in_double_precision(dtype: torch.dtype) -> None:
    logits, labels, _ = sample(1, (40, 6))
    logits = logits.to(dtype).requires_grad_()
    expected = log_loss(labels, probabilities(logits.detach()), labels=range(6))
    sums = MetricSums(6)
    sums.add(logits, labels, logits)
    assert sums.metrics().nll == pytest.approx(expected, **EXACT)
    assert not sums.sums.requires_grad


# -- sums ---------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seed=seeds, size=sizes, data=st.data())
def test_sums_over_batches_and_processes_say_what_one_batch_says(
    seed: int, size: tuple[int, int], data: st.DataObject
) -> None:
    logits, labels, teacher = sample(seed, size)
    cuts = sorted(data.draw(st.lists(st.integers(0, size[0]), max_size=4)))
    processes = [MetricSums(size[1]), MetricSums(size[1])]
    for place, batch in enumerate(torch.arange(size[0]).tensor_split(cuts)):
        processes[place % 2].add(logits[batch], labels[batch], teacher[batch])
    processes[0].sums += processes[1].sums
    whole = MetricSums(size[1])
    whole.add(logits, labels, teacher)
    assert processes[0].metrics().samples == size[0]
    assert whole.sums.shape == (9 + 3 * 15 + 3 * size[1],)
    torch.testing.assert_close(processes[0].sums, whole.sums, rtol=1e-12, atol=1e-12)


def test_the_bins_hold_the_accuracy_and_the_calibration_error() -> None:
    logits, labels, _ = sample(2, (60, 5))
    sums = MetricSums(5)
    sums.add(logits, labels)
    evaluation = sums.metrics()
    filled = [part for part in evaluation.bins if part.samples]
    assert len(evaluation.bins) == 15 > len(filled)  # confidence is never below 1/5
    assert sum(part.samples for part in filled) == 60
    assert sum(part.samples * part.accuracy for part in filled) / 60 == pytest.approx(evaluation.accuracy)
    gaps = [part.samples * abs(part.accuracy - part.confidence) for part in filled]
    assert sum(gaps) / 60 == pytest.approx(evaluation.calibration_error)
    for place, part in enumerate(evaluation.bins):
        if part.samples:
            assert 100 * place / 15 < part.confidence <= 100 * (place + 1) / 15
        else:
            assert (part.confidence, part.accuracy) == (None, None)


def test_without_a_teacher_there_is_no_agreement() -> None:
    logits, labels, _ = sample(3, (8, 5))
    sums = MetricSums(5)
    sums.add(logits, labels)
    assert (sums.metrics().agreement, sums.metrics().divergence) == (None, None)


def test_sums_from_a_checkpoint_go_on_bit_for_bit(tmp_path: Path) -> None:
    batches = [sample(seed, (30, 7)) for seed in range(4)]
    whole, before, after = MetricSums(7), MetricSums(7), MetricSums(7)
    for batch in batches:
        whole.add(*batch)
    for batch in batches[:2]:
        before.add(*batch)
    save_file({"sums": before.sums}, tmp_path / "sums.safetensors")
    after.sums.copy_(load_file(tmp_path / "sums.safetensors")["sums"])
    for batch in batches[2:]:
        after.add(*batch)
    assert torch.equal(whole.sums, after.sums)
    assert asdict(whole.metrics()) == asdict(after.metrics())


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_told(bad: float) -> None:
    logits, labels, teacher = sample(4, (6, 3))
    broken = logits.clone()
    broken[1:3, 0] = bad
    message = "logits of 2 of 6 samples are not numbers"
    for student, other in ((broken, None), (logits, broken), (broken, teacher)):
        sums = MetricSums(3)
        sums.add(student, labels, other)
        with pytest.raises(ValueError, match=message):
            sums.metrics()


def test_labels_that_are_no_classes_are_told() -> None:
    logits, labels, _ = sample(5, (6, 3))
    labels[0], labels[4] = 3, -1
    sums = MetricSums(3)
    sums.add(logits, labels)
    with pytest.raises(ValueError, match="2 labels are not from 0 to 2"):
        sums.metrics()


def test_nothing_cannot_be_evaluated() -> None:
    none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    sums = MetricSums(3)
    sums.add(*none)  # the last share of a process may be empty
    with pytest.raises(ValueError, match="no samples"):
        sums.metrics()


def test_shapes_that_do_not_fit_are_told() -> None:
    logits, labels, teacher = sample(6, (6, 3))
    with pytest.raises(ValueError, match=r"\(6, 3\) and labels \(5,\)"):
        MetricSums(3).add(logits, labels[:5])
    with pytest.raises(ValueError, match=r"\(6,\) and labels \(6,\)"):
        MetricSums(3).add(logits[:, 0], labels)
    with pytest.raises(ValueError, match=r"student are \(6, 3\) and of the teacher \(6, 2\)"):
        MetricSums(3).add(logits, labels, teacher[:, :2])
    with pytest.raises(ValueError, match="of 3 classes; 4 are evaluated"):
        MetricSums(4).add(logits, labels)
    with pytest.raises(ValueError, match=r"student are \(6, 3\) and of the teacher \(5, 3\)"):
        MetricSums(3).add(logits, labels, teacher[:5])


def test_numbers_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="bins is 0"):
        MetricSums(3, bins=0)
    with pytest.raises(ValueError, match="num_classes is 0"):
        MetricSums(0)
