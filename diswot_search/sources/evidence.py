"""The evidence that a transferability measure is computed from: features, labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]


Integers = NDArray[np.integer[Any]]


NEEDS = ("features", "probabilities", "reference")
"""The parts of the evidence that a measure can need."""


class TransferabilityError(ValueError):
    """Features, probabilities, similarities or weights do not allow a statement on the transferability of a source."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A source model's output for n labelled images of the target task.

    Attributes:
        features: The input (n, d) of the source's last linear layer.
        labels: The target classes (n,), any integers.
        probabilities: The probabilities (n, K) of the source's own classes; None for a source without a classifier.
        reference: The features (n, r) of a reference model for the same images; None without one.

    Raises:
        TransferabilityError: A shape does not fit, values are not numbers, or there are fewer than two classes.

    Example:
        >>> evidence = Evidence([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1]], [4, 4, 7])
        >>> evidence.check("features")
    """

    features: Floats
    labels: Integers
    probabilities: Floats | None = None
    reference: Floats | None = None

    def __post_init__(self) -> None:
        labels = checked_labels(self.labels)
        object.__setattr__(self, "labels", labels)
        for name in NEEDS:
            values = getattr(self, name)
            if values is not None or name == "features":
                object.__setattr__(self, name, _as_rows(name, values, len(labels)))

    def check(self, need: str) -> None:
        """Check the part of the evidence that a measure needs; other parts are not checked.

        Args:
            need: One of `NEEDS`. With "reference", the features are checked too.

        Raises:
            TransferabilityError: The part is missing, has NaN or infinity, has features that are the same for all
                images, or has probabilities that are negative or do not sum to 1.
        """
        if getattr(self, need) is None:
            raise TransferabilityError(LACKING[need])
        if need == "probabilities":
            _check_probabilities(getattr(self, need))
        else:
            for name in dict.fromkeys(("features", need)):
                _check_features(name, getattr(self, name))


LACKING = {
    "probabilities": "There are no class probabilities; this source has no classifier.",
    "reference": "There are no features of a reference model; give a reference.",
}
"""The reason why a part that may be missing is."""


# -- checks -------------------------------------------------------------------------------------


def checked_labels(labels: ArrayLike) -> Integers:
    """Return labels (n,) as integers.

    Raises:
        TransferabilityError: The labels have another shape, are no integers, or are of fewer than two classes.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise TransferabilityError(
            f"Labels are {values.shape} of {values.dtype}; they must be integers of shape (images,)."
        )
    classes = len(np.unique(values))
    if classes < 2:
        raise TransferabilityError(
            f"The {len(values)} labelled images are of {classes} class; at least two classes are needed."
        )
    return values.astype(np.int64)


def _as_rows(name: str, values: ArrayLike, images: int | None = None) -> Floats:
    """Return values as an array (images, columns) in double precision; `name` is the array's name in messages."""
    try:
        rows = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TransferabilityError(f"The {name} are no array of numbers: {error}.") from None
    if rows.ndim != 2 or rows.shape[1] < 1 or (images is not None and len(rows) != images):
        expected = "images" if images is None else images
        raise TransferabilityError(f"The {name} are {rows.shape}; they must be ({expected}, columns).")
    return rows


def features_evidence(features: ArrayLike, labels: ArrayLike) -> Evidence:
    """Return checked evidence of features (n, d) and labels (n,).

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.
    """
    evidence = Evidence(features, labels)  # type: ignore[arg-type]  # it converts
    evidence.check("features")
    return evidence


def checked_pair(features: ArrayLike, other: ArrayLike) -> tuple[Floats, Floats]:
    """Return features (n, d) and another model's features (n, r) in double precision.

    Raises:
        TransferabilityError: A shape does not fit, or features have NaN or infinity or are the same for all images.
    """
    first = _as_rows("features", features)
    second = _as_rows("reference", other, len(first))
    _check_features("features", first)
    _check_features("reference", second)
    return first, second


def checked_predictions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    """Return probabilities (n, K) in double precision and labels (n,) as integers.

    Raises:
        TransferabilityError: A shape does not fit, there are fewer than two classes, or probabilities are not finite,
            are negative or do not sum to 1.
    """
    classes = checked_labels(labels)
    values = _as_rows("probabilities", probabilities, len(classes))
    _check_probabilities(values)
    return values, classes


def _check_features(name: str, values: Floats) -> None:
    _check_finite(name, values)
    if not varying_columns(values).any():
        raise TransferabilityError(f"The {name} are the same for all {len(values)} images.")


def _check_probabilities(values: Floats) -> None:
    _check_finite("probabilities", values)
    sums = values.sum(1)
    if values.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise TransferabilityError(
            f"The probabilities of an image are at least {values.min():.3g} and sum to between {sums.min():.3g} and "
            f"{sums.max():.3g}; "
            "they must be at least 0 and sum to 1. Apply a softmax to logits."
        )


def _check_finite(name: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        invalid = int((~np.isfinite(values)).any(1).sum())
        raise TransferabilityError(f"The {name} of {invalid} of {len(values)} images have NaN or infinity.")


def varying_columns(values: Floats) -> NDArray[np.bool_]:
    """Mark the columns that differ between rows by more than the rounding of single precision."""
    return np.ptp(values, 0) > 1e-7 * np.abs(values).max(0)


def class_codes(labels: Integers) -> Integers:
    """Number the classes that occur from 0 upwards, and return the number of each label's class."""
    return np.unique(labels, return_inverse=True)[1]
