"""Weights of classes: balanced ones and the weighted cross entropy against scikit-learn, and wrong input named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from diswot_search.training.class_weights import check_class_weights, class_weights, weighted_cross_entropy

counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@given(counts=counts_of_classes)
def test_balanced_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = labels_of(counts)
    weights = class_weights("balanced", labels, [f"class {place}" for place in range(len(counts))])
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels.numpy())
    assert weights == pytest.approx(list(expected), rel=1e-12)


@given(counts=counts_of_classes, seed=st.integers(0, 1000))
def test_the_loss_is_scikit_learns_log_loss_of_weighted_samples(counts: list[int], seed: int) -> None:
    labels = labels_of(counts)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), len(counts), generator=generator, dtype=torch.float64)
    weights = torch.rand(len(counts), generator=generator, dtype=torch.float64) + 0.1
    total = log_loss(
        labels, logits.softmax(1), labels=range(len(counts)), normalize=False, sample_weight=weights[labels].numpy()
    )
    assert weighted_cross_entropy(logits, labels, weights).item() == pytest.approx(total / len(labels), rel=1e-9)


def test_smoothing_mixing_and_weights_follow_one_formula() -> None:
    logits, weights = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    labels, others = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 2, 0, 0, 2, 1])
    hard = F.one_hot(labels, 3).double()
    mixed = 0.7 * hard + 0.3 * F.one_hot(others, 3)
    for targets, shares in ((labels, hard), (mixed, mixed)):
        smoothed = 0.9 * shares + 0.1 / 3
        expected = -(weights * smoothed * logits.log_softmax(1)).sum(1).mean()
        loss = weighted_cross_entropy(logits, targets, weights, label_smoothing=0.1)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    parts = [weighted_cross_entropy(logits[half], labels[half], weights) for half in (slice(3), slice(3, 6))]
    assert torch.stack(parts).mean().item() == pytest.approx(weighted_cross_entropy(logits, labels, weights).item())


def test_without_weights_the_loss_is_the_plain_one_bit_for_bit() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(weighted_cross_entropy(logits, labels, None, label_smoothing=0.1), plain)


def test_weights_by_name_or_in_order() -> None:
    labels, classes = torch.tensor([0, 1, 1]), ("benign", "malignant")
    assert class_weights(None, labels, classes) is None
    assert class_weights({"malignant": 20}, labels, classes) == (1.0, 20.0)
    assert class_weights([0.5, 3], labels, classes) == (0.5, 3.0)
    assert class_weights({1: 2}, labels, ("0", "1")) == (1.0, 2.0)  # as YAML reads digits
    assert class_weights({"1": 2}, labels, ("same", "same")) == (1.0, 2.0)


@pytest.mark.parametrize(
    "weights",
    [np.array([0.5, 3]), np.array([0.5, 3], np.float32), torch.tensor([0.5, 3.0]), (np.float32(0.5), np.int64(3))],
)
def test_weights_may_be_arrays_and_tensors(weights: Any) -> None:
    labels, classes = torch.tensor([0, 1, 1]), ("benign", "malignant")
    check_class_weights(weights)
    assert class_weights(weights, labels, classes) == (0.5, 3.0)
    assert class_weights({"malignant": weights[1]}, labels, classes) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([[1.0, 2.0]]), r"weight of class 0 is \[1.0, 2.0\]"),
        (torch.tensor(3.0), r"class_weights is 3\.0; it must be"),
        (np.array([1, -1]), "weight of class 1 is -1"),
        ("balance", "class_weights is 'balance'; it must be 'balanced', a mapping of classes to weights, or a list"),
        (3, "class_weights is 3"),
        ({"malignent": 2}, "malignent.*malignant"),
        ({"malignant": -1}, "weight of class 'malignant' is -1"),
        ({"malignant": "two"}, "weight of class 'malignant' is 'two'"),
        ([1, math.nan], "weight of class 1 is nan"),
        ([1, True], "weight of class 1 is True"),
        ([1, 2, 3], "has 3 weights, but the data has 2 classes"),
        ([0, 0], "is 0 for all classes"),
    ],
)
def test_wrong_weights_are_named(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(weights, torch.tensor([0, 1]), ("benign", "malignant"))


def test_a_class_without_labels_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match=r"no labelled training image is of class malignant; give labels of it"):
        class_weights("balanced", torch.tensor([0, 0]), ("benign", "malignant"))
