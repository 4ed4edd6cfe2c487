"""Weights of the classes in the cross entropy, for data whose classes differ in size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from search_spaces.registry import unknown_name_message

BALANCED = "balanced"


ClassWeights = Mapping[str, float] | Sequence[float] | str
"""Values that stand for weights of classes."""


def check_class_weights(weights: object) -> None:
    """Check what can be checked without data.

    Raises:
        ValueError: It is neither "balanced" nor a mapping, list, array or tensor of numbers of at least 0.
    """
    weights = _plain(weights)
    if weights is None or weights == BALANCED:
        return
    if isinstance(weights, str) or not isinstance(weights, Mapping | Sequence):
        raise ValueError(
            f"class_weights is {weights!r}; it must be 'balanced', a mapping of classes to weights, or a list with a "
            "weight for each class."
        )
    pairs = weights.items() if isinstance(weights, Mapping) else enumerate(weights)
    for name, value in pairs:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise ValueError(f"The weight of class {name!r} is {value!r}; it must be a finite number of at least 0.")


def _plain(weights: Any) -> Any:
    """Weights in arrays, tensors and series as lists and mappings of Python's numbers."""
    if isinstance(weights, Mapping):
        return {name: _plain(value) for name, value in weights.items()}
    if isinstance(weights, list | tuple):
        return [_plain(value) for value in weights]
    if callable(to_dict := getattr(weights, "to_dict", None)):
        return to_dict()
    return weights.tolist() if callable(getattr(weights, "tolist", None)) else weights


def class_weights(weights: ClassWeights | None, labels: Tensor, classes: Sequence[str]) -> tuple[float, ...] | None:
    """The weight of each class.

    Args:
        weights: "balanced"; a mapping of names of classes to weights, where others have weight 1; or a weight for each
            class, in order, also as an array or tensor.
        labels: Class of each labelled training image, (N,).
        classes: Names of the classes, in order.

    Returns:
        The weights in the order of the classes; None if all classes count alike. Balanced ones are
        `N / (number of classes * images of the class)`, as scikit-learn defines them: their mean over the images is 1.

    Raises:
        ValueError: A weight is wrong or of no class of the data, or no class counts; or a class without labelled images
            is to be balanced.

    Example:
        >>> import torch
        >>> class_weights("balanced", torch.tensor([0, 0, 0, 1]), ("benign", "malignant"))
        (0.6666666666666666, 2.0)
    """
    check_class_weights(weights)
    weights = _plain(weights)
    if weights is None:
        return None
    if isinstance(weights, str):
        return _balanced(labels, classes)
    values = _by_name(weights, classes) if isinstance(weights, Mapping) else [float(value) for value in weights]
    if len(values) != len(classes):
        raise ValueError(f"class_weights has {len(values)} weights, but the data has {len(classes)} classes.")
    if not any(values):
        raise ValueError("class_weights is 0 for all classes, with which nothing is learnt from labels.")
    return tuple(values)


def _balanced(labels: Tensor, classes: Sequence[str]) -> tuple[float, ...]:
    counts = labels.bincount(minlength=len(classes)).tolist()
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise ValueError(
            f"class_weights is 'balanced', but no labelled training image is of class {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; give labels of it, or weights by class."
        )
    return tuple(len(labels) / (len(classes) * count) for count in counts)


def _by_name(weights: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """The weights in the order of the classes, which are numbered if two of them have the same name."""
    names = classes if len(set(classes)) == len(classes) else [str(place) for place in range(len(classes))]
    given = {str(name): float(value) for name, value in weights.items()}
    for name in given:
        if name not in names:
            raise ValueError(unknown_name_message("class in class_weights:", name, names))
    return [given.get(name, 1.0) for name in names]


def weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, *, label_smoothing: float = 0.0
) -> Tensor:
    """The mean over images of the cross entropy, in which each class has a weight.

    Without smoothing and mixing it is the mean of each image's cross entropy times the weight of its class. The mean is
    over the number of images, not over their weights, so that it does not depend on how a batch is divided, and images
    mixed of two classes count as much of each weight as they have of the class.

    Args:
        logits: Logits (B, N).
        targets: Classes (B,), or shares of the classes (B, N).
        weights: Weight of each class, (N,); None for plain cross entropy.
        label_smoothing: Share of the target that is spread over all classes.

    Example:
        >>> import torch
        >>> weighted_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([1.0, 3.0])).item()
        1.3862943649291992
    """
    if weights is not None and targets.ndim == 1:  # with classes torch would divide by the sum of their weights
        targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    weights = None if weights is None else weights.to(logits.dtype)
    return F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing)
