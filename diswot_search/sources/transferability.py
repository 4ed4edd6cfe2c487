"""Measures of transferability by name, balanced draws of labelled images, and the weights of sources."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, unknown_name_message

from ..runtime.seeding import stable_seed
from . import measures
from .evidence import NEEDS, Evidence, Integers, TransferabilityError, checked_labels, class_codes

SCALES = ("linear", "log")
"""The scales of measures."""


WEIGHTINGS = ("weighted", "nearest", "uniform")
"""The ways to compute weights from similarities; see `source_weights`."""


@dataclass(frozen=True)
class Measure:
    """A named measure of transferability.

    Attributes:
        name: The name of the measure.
        function: Computes the value from the evidence. Higher values mean better transfer.
        needs: The part of the evidence that the function needs: "features", "probabilities" or "reference".
        summary: One line that describes the measure.
        chance: Computes the chance level from the evidence: the value of a source that is unrelated to the labels. If
            it depends on the source's output, it is the mean over all permutations of the labels.
        scale: "linear", or "log" for a log-likelihood.

    Raises:
        TransferabilityError: `needs` or `scale` is unknown; the message lists near names.
    """

    name: str
    function: Callable[[Evidence], float]
    needs: str
    summary: str
    chance: Callable[[Evidence], float]
    scale: str = "linear"

    def __post_init__(self) -> None:
        for kind, value, choices in (("need of a measure:", self.needs, NEEDS), ("scale", self.scale, SCALES)):
            if value not in choices:
                raise TransferabilityError(unknown_name_message(kind, value, choices))

    def __call__(self, evidence: Evidence) -> float:
        """Compute the value of a source.

        Raises:
            TransferabilityError: The evidence is refused by its `check` for this measure, or the value is not finite.
        """
        evidence.check(self.needs)
        value = float(self.function(evidence))
        if not math.isfinite(value):
            raise TransferabilityError(f"The measure {self.name!r} gave {value}.")
        return value

    def similarity(self, value: float, chance: float) -> float:
        """Return how far a value is above the chance level; on the log scale, as a difference of likelihoods.

        A result that is not above 0 means no similarity.

        Args:
            value: A value of this measure.
            chance: The chance level for the same evidence.
        """
        return math.exp(value) - math.exp(chance) if self.scale == "log" else value - chance


def no_chance(evidence: Evidence) -> float:
    """The chance level of a measure whose unrelated sources have the value 0."""
    return 0.0


def _adopt(name: str, value: object) -> Measure:
    """The measure that a user's own code has under a name."""
    if isinstance(value, Measure):
        return value
    if isinstance(value, type) or not callable(value):
        raise OwnCodeError(f"{name} is no measure; it must be a function of the evidence, or a Measure.")
    return Measure(name, value, "features", _summary(value), no_chance, "linear")


MEASURES: Registry[Measure] = Registry("measure", _adopt)


def register_measure(
    name: str,
    function: Callable[[Evidence], float],
    *,
    needs: Literal["features", "probabilities", "reference"] = "features",
    chance: Callable[[Evidence], float] = no_chance,
    scale: Literal["linear", "log"] = "linear",
    summary: str = "",
) -> Measure:
    """Register a measure under a name.

    Args:
        name: The name of the measure.
        function: Computes the value from the evidence. Higher values mean better transfer.
        needs: The part of the evidence that the function needs.
        chance: Computes the chance level from the evidence; 0 by default.
        scale: "linear", or "log" for a log-likelihood.
        summary: One line that describes the measure; by default the first line of the function's docstring.

    Returns:
        The measure.

    Raises:
        ValueError: The name is taken, or `needs` or `scale` is unknown.
    """
    return MEASURES.register(name, Measure(name, function, needs, summary or _summary(function), chance, scale))


def get_measure(measure: str | Measure) -> Measure:
    """Return the measure that is registered under a name; a measure is returned as it is.

    A measure of your own is named as `module:name` or `file.py:name`: a `Measure`, or a function of the evidence whose
    chance level is 0.

    Raises:
        UnknownNameError: No measure has this name; the message lists near names.

    Example:
        >>> get_measure("logme").needs
        'features'
    """
    return measure if isinstance(measure, Measure) else MEASURES[measure]


def list_measures(pattern: str = "*") -> list[str]:
    """List the names of measures that match a shell pattern, in order of registration.

    The first measure is the default of rankings.

    Example:
        >>> list_measures("l*")
        ['leep', 'logme', 'logistic']
    """
    return [name for name in MEASURES if fnmatch(name, pattern)]


def _summary(function: Callable[..., float]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


# -- draws of images and weights of sources -----------------------------------------------------


def balanced_draws(labels: ArrayLike, images: int = 500, draws: int = 5, seed: int = 0) -> list[Integers]:
    """Draw several random subsets of the images, with as equal numbers of images per class as possible.

    If there are fewer than 1.25 times as many images as requested for a draw, a draw has 80 % of them, so that draws
    differ and their spread is informative. A class has at least two images in a draw if it has two. If a draw is too
    small for two images of each class, it has two of some classes, which are drawn anew each time.

    Args:
        labels: Classes (n,) of the images, any integers.
        images: The largest number of images in a draw, at least 4.
        draws: The number of draws, at least 1. A draw does not depend on the number of draws.
        seed: The seed of the draws.

    Returns:
        The positions of the images of each draw, in rising order.

    Raises:
        TransferabilityError: The labels are no integers or of fewer than two classes, or `images` or `draws` is too
            small.

    Example:
        >>> [draw.tolist() for draw in balanced_draws([7, 7, 5, 5], draws=1)]
        [[0, 1, 2, 3]]
    """
    labels = checked_labels(labels)
    for name, value, smallest in (("images", images, 4), ("draws", draws, 1)):
        if value < smallest:
            raise TransferabilityError(f"{name} is {value}; it must be at least {smallest}.")
    codes, size = class_codes(labels), images
    if len(labels) < 1.25 * images:
        size = min(len(labels), max(4, round(0.8 * len(labels))))
    return [_balanced_draw(codes, size, np.random.default_rng(stable_seed(seed, "draw", d))) for d in range(draws)]


def source_weights(
    similarities: Mapping[str, float], weighting: str | Mapping[str, float] = "weighted", power: float = 10.0
) -> dict[str, float]:
    """Compute the weights with which a student learns from its sources.

    Args:
        similarities: The similarity of each source's task. A source whose similarity is not above 0 has weight 0 for
            every power. NaN stands for a source that could not be measured.
        weighting: "weighted" for weights proportional to the similarity to the power; "nearest" for the most similar
            source alone, the first of equals; "uniform" for equal weights of all sources, measured or not; or a mapping
            from names to weights, in which missing sources have weight 0.
        power: The exponent of similarities, at least 0. With 0 all similar sources weigh the same; with infinity only
            the most similar ones have a weight.

    Returns:
        A weight for each source. The weights sum to 1, and some can be 0.0. Empty if no source is similar.

    Raises:
        TransferabilityError: The weighting is unknown, the weights name an unknown source (the message lists near
            names), a power or weight is negative or NaN, a weight is infinite, all weights are zero, or a similarity is
            infinite.

    Example:
        >>> source_weights({"mnist": 3.0, "usps": 1.0, "cifar10": -0.5}, power=1)
        {'mnist': 0.75, 'usps': 0.25, 'cifar10': 0.0}
    """
    if not isinstance(weighting, str):
        return _custom_weights(weighting, similarities)
    if weighting not in WEIGHTINGS:
        raise TransferabilityError(unknown_name_message("weighting", weighting, WEIGHTINGS))
    if not power >= 0:
        raise TransferabilityError(f"power is {power}; it must be at least 0.")
    if weighting == "uniform":
        return {name: 1 / len(similarities) for name in similarities}
    positive = {name: float(value) if value > 0 else 0.0 for name, value in similarities.items()}
    largest = max(positive.values(), default=0.0)
    if largest == 0:
        return {}
    nearest = max(positive, key=positive.__getitem__)
    if math.isinf(largest):
        raise TransferabilityError(f"The similarity of {nearest!r} is infinite; it must be finite.")
    if weighting == "nearest":
        return {name: float(name == nearest) for name in positive}
    return _normalised({name: (value / largest) ** power if value else 0.0 for name, value in positive.items()})


def _custom_weights(weights: Mapping[str, float], names: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in names:
            raise TransferabilityError(unknown_name_message("source", name, names))
        if not (math.isfinite(weight) and weight >= 0):
            raise TransferabilityError(f"The weight of {name!r} is {weight}; it must be at least 0.")
    largest = max(weights.values(), default=0)
    if not largest:
        raise TransferabilityError("All weights of sources are 0; at least one must be above 0.")
    return _normalised({name: weights.get(name, 0) / largest for name in names})


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _balanced_draw(codes: Integers, size: int, rng: np.random.Generator) -> Integers:
    counts = np.bincount(codes)
    order, places = rng.permutation(len(counts)), rng.permutation(len(codes))
    quotas = zip(order, _quotas(counts[order], size), strict=True)
    return np.sort(np.concatenate([places[codes[places] == code][:quota] for code, quota in quotas]))


def _quotas(counts: Integers, size: int) -> Integers:
    """Share out the size of a draw over classes; images that cannot be shared evenly go to the earlier classes."""
    pairs = np.minimum(counts, 2)
    if size < pairs.sum():
        order = np.argsort(-pairs, kind="stable")
        quotas = np.zeros_like(counts)
        quotas[order] = np.where(pairs[order].cumsum() <= size, pairs[order], 0)
        return quotas
    levels = range(1, int(counts.max()) + 1)
    level = bisect_right(levels, size, key=lambda level: np.minimum(counts, level).sum())
    quotas = np.minimum(counts, level)
    quotas[np.flatnonzero(counts > level)[: size - quotas.sum()]] += 1
    return quotas


# -- the built-in measures ----------------------------------------------------------------------


def _of(function: Callable[..., float], *names: str) -> Callable[[Evidence], float]:
    """Turn a function of named parts of the evidence into a function of the evidence, with the same docstring."""
    measure = partial(_compute, function, names)  # which pickles
    measure.__doc__ = function.__doc__
    return measure


def _compute(function: Callable[..., float], names: Sequence[str], evidence: Evidence) -> float:
    return function(*(getattr(evidence, name) for name in names))


register_measure("parc", _of(measures.parc, "features", "labels"))


register_measure(
    "cka", _of(measures.cka, "features", "labels"), chance=_of(measures.cka_by_chance, "features", "labels")
)


register_measure("rsa", _of(measures.rsa, "features", "reference"), needs="reference")


register_measure(
    "leep",
    _of(measures.leep, "probabilities", "labels"),
    needs="probabilities",
    chance=_of(measures.leep_by_chance, "probabilities", "labels"),
    scale="log",
)


register_measure(
    "nce",
    _of(measures.nce, "probabilities", "labels"),
    needs="probabilities",
    chance=_of(measures.nce_by_chance, "probabilities", "labels"),
    scale="log",
)


register_measure(
    "h_score", _of(measures.h_score, "features", "labels"), chance=_of(measures.h_score_by_chance, "features", "labels")
)


register_measure(
    "logme", _of(measures.logme, "features", "labels"), chance=_of(measures.logme_by_chance, "labels"), scale="log"
)


register_measure("knn", _of(measures.knn, "features", "labels"), chance=_of(measures.largest_share, "labels"))


register_measure("logistic", _of(measures.logistic, "features", "labels"), chance=_of(measures.largest_share, "labels"))
