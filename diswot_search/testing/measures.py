"""The contract of measures of transferability."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from ..sources.evidence import Evidence, TransferabilityError
from ..sources.transferability import Measure, get_measure
from .randomness import random_state


class MeasureContract:
    """The tests that every measure of transferability passes.

    Example:
        A file `test_my_measure.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.measures import MeasureContract
        >>> class TestSpread(MeasureContract):
        ...     def create(self):
        ...         return "spread"  # registered with `register_measure`, or the `Measure` itself
    """

    any_order: ClassVar[bool] = True
    """Whether the order of images does not matter; it does for a measure that divides them into folds."""

    def create(self) -> str | Measure:
        """Return the measure, or the name that it is registered under."""
        raise NotImplementedError

    @pytest.fixture
    def measure(self) -> Measure:
        return get_measure(self.create())

    @pytest.fixture
    def evidence(self) -> Evidence:
        """120 images of five classes, as seen by a source that tells them apart, though not perfectly."""
        rng = np.random.default_rng(0)
        codes = rng.permutation(np.arange(120) % 5)
        reference = rng.normal(size=(5, 12))[codes] + rng.normal(size=(120, 12))
        features = np.maximum(reference @ rng.normal(size=(12, 40)), 0)
        logits = (features - features.mean(0)) @ rng.normal(size=(40, 8)) / 20
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return Evidence(features, 3 * codes + 2, probabilities, reference)

    @staticmethod
    def reordered(evidence: Evidence, order: np.ndarray, *, labels: bool) -> Evidence:
        """Return the evidence with the source's output in another order, and with it the labels and the reference."""
        assert evidence.probabilities is not None
        assert evidence.reference is not None
        source = replace(evidence, features=evidence.features[order], probabilities=evidence.probabilities[order])
        if not labels:
            return source
        return replace(source, labels=evidence.labels[order], reference=evidence.reference[order])

    def test_has_a_name_and_a_summary(self, measure: Measure) -> None:
        assert measure.name
        assert measure.summary.strip()

    def test_value_and_chance_are_finite_and_reproducible(self, measure: Measure, evidence: Evidence) -> None:
        values = [(measure(evidence), float(measure.chance(evidence))) for _ in range(2)]
        assert all(math.isfinite(number) for number in values[0])
        assert values[0] == values[1]

    def test_leaves_evidence_and_random_state_alone(self, measure: Measure, evidence: Evidence) -> None:
        names = ("features", "labels", "probabilities", "reference")
        before, state = {name: getattr(evidence, name).copy() for name in names}, random_state()
        measure(evidence)
        measure.chance(evidence)
        assert random_state() == state
        for name in names:
            assert np.array_equal(getattr(evidence, name), before[name])

    def test_source_that_tells_classes_apart_is_above_one_that_does_not(
        self, measure: Measure, evidence: Evidence
    ) -> None:
        rng = np.random.default_rng(1)
        unrelated = [self.reordered(evidence, rng.permutation(120), labels=False) for _ in range(5)]
        similarities = [measure.similarity(measure(one), measure.chance(one)) for one in (evidence, *unrelated)]
        assert similarities[0] > 0
        assert similarities[0] > max(similarities[1:])

    def test_order_of_images_does_not_matter(self, measure: Measure, evidence: Evidence) -> None:
        if not self.any_order:
            pytest.skip("its value depends on the order of images")
        order = np.random.default_rng(1).permutation(120)
        assert measure(self.reordered(evidence, order, labels=True)) == pytest.approx(measure(evidence), rel=1e-6)

    def test_names_of_classes_do_not_matter(self, measure: Measure, evidence: Evidence) -> None:
        renamed = replace(evidence, labels=7 * evidence.labels + 40)
        assert measure(renamed) == pytest.approx(measure(evidence), rel=1e-6)

    def test_evidence_without_the_part_that_it_needs_is_refused(self, measure: Measure, evidence: Evidence) -> None:
        lacking = {
            "features": replace(evidence, features=np.ones_like(evidence.features)),
            "probabilities": replace(evidence, probabilities=None),
            "reference": replace(evidence, reference=None),
        }
        with pytest.raises(TransferabilityError, match=measure.needs):
            measure(lacking[measure.needs])
