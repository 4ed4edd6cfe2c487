"""How near a model of another task is to the user's: measures of what it makes of labelled images, and its weight.

The measures are pure functions of arrays, in double precision: the features, probabilities or both that a source model
gives for n labelled images of the target task. They need no training, and for all of them higher is nearer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from search_spaces.registry import Registry, unknown_name_message

from ..seeding import stable_seed

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

COMPONENTS = 32
"""Principal components that features are reduced to before samples are compared; Source: Bolya et al., NeurIPS 2021."""

NEEDS = ("features", "probabilities", "reference")
SCALES = ("linear", "log")
WEIGHTINGS = ("weighted", "nearest", "uniform")

_NOISE = 1e-12  # of the largest variance: what single precision leaves behind where there is none


class RelatednessError(ValueError):
    """Features, probabilities, similarities or weights that say nothing of how near a source is."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a source makes of n labelled images of the target task.

    Attributes:
        features: (n, d), the input of its last linear layer.
        labels: n classes of the target, any integers.
        probabilities: (n, K) of the source's own classes; None for a source without a classifier.
        reference: (n, r), features of a reference model for the same images; None without one.

    Raises:
        RelatednessError: A shape that does not fit, values that are no numbers, or fewer than two classes.
    """

    features: Floats
    labels: Integers
    probabilities: Floats | None = None
    reference: Floats | None = None

    def __post_init__(self) -> None:
        labels = _checked_labels(self.labels)
        object.__setattr__(self, "labels", labels)
        for name in NEEDS:
            values = getattr(self, name)
            if values is not None or name == "features":
                object.__setattr__(self, name, _as_rows(name, values, len(labels)))

    def check(self, need: str) -> None:
        """See that there is what a measure needs, and that it says something; what it does not need may be anything.

        Args:
            need: One of `NEEDS`; with a reference, features are needed too.

        Raises:
            RelatednessError: It is not there; NaN or infinity; features that are the same for all images; or
                probabilities that are negative or do not sum to 1.
        """
        if getattr(self, need) is None:
            raise RelatednessError(_LACKING[need])
        if need == "probabilities":
            _check_probabilities(getattr(self, need))
        else:
            for name in dict.fromkeys(("features", need)):
                _check_features(name, getattr(self, name))


_LACKING = {
    "probabilities": "There are no class probabilities; this source has no classifier.",
    "reference": "There are no features of a reference model; none was given.",
}


# -- measures on features -----------------------------------------------------------------------


def parc(features: ArrayLike, labels: ArrayLike) -> float:
    """Rank correlation of distances between features with distances between labels, times 100.

    Features are reduced to their first 32 principal components where there are more images and features than that, and
    standardised. The distance of two images is 1 less the correlation of their features; that of two labels is the same
    of their one-hot codes, and so tells just whether they differ. Source: Bolya et al., NeurIPS 2021.

    Args:
        features: (n, d).
        labels: n classes.

    Returns:
        -100 to 100; 0 is what features unrelated to the labels give on average.

    Raises:
        RelatednessError: See `Evidence` and its `check`; or no two images are of one class, or all features are at the
            same distance.
    """
    evidence = _of_features(features, labels)
    same = _upper_triangle(evidence.labels[:, None] == evidence.labels)
    if not same.any():
        raise RelatednessError(f"No two of the {len(evidence.labels)} images are of one class; parc compares pairs.")
    return -100 * _rank_correlation_with_groups(_distances(evidence.features), same)


def rsa(features: ArrayLike, reference: ArrayLike) -> float:
    """Rank correlation of distances between features with those between a reference model's features, times 100.

    Both are treated like the features of `parc`. Source: Dwivedi and Roig, CVPR 2019.

    Args:
        features: (n, d).
        reference: (n, r), of the same images.

    Returns:
        -100 to 100.

    Raises:
        RelatednessError: See `Evidence` and its `check`; or all are at the same distance.
    """
    from scipy.stats import rankdata

    first, second = _checked_pair(features, reference)
    ranks = [rankdata(_distances(values)) for values in (first, second)]
    if any(np.ptp(side) == 0 for side in ranks):
        raise RelatednessError("All images are at the same distance from each other; rsa ranks distances.")
    return 100 * float(np.corrcoef(*ranks)[0, 1])


def cka(features: ArrayLike, other: ArrayLike) -> float:
    """Linear centred kernel alignment of features with labels, or with another model's features.

    Source: Kornblith et al., ICML 2019; the plain estimate, which is above 0 for unrelated features, the more so the
    fewer images there are for a feature.

    Args:
        features: (n, d).
        other: n classes, or (n, r) features of another model for the same images.

    Returns:
        0 to 1.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    if np.ndim(other) == 1:
        evidence = _of_features(features, other)
        first, second = evidence.features, _one_hot(evidence.labels)
    else:
        first, second = _checked_pair(features, other)
    first, second = _centred(first), _centred(second)
    cross = np.sum((first.T @ second) ** 2)
    return float(cross / (_gram_norm(first) * _gram_norm(second)))


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """Variance between classes in units of the variance of features, trace(cov(F)^-1 cov(E[F given y])).

    Source: Bao et al., ICIP 2019; with the covariance shrunk as by Ledoit and Wolf, and the one between classes by the
    same factor. Source: Ibrahim et al., 2021. Features that vary alike in all directions are so shrunk to nothing.

    Args:
        features: (n, d).
        labels: n classes.

    Returns:
        0 to the smaller of d and the number of classes less 1; above 0 for unrelated features too.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    evidence = _of_features(features, labels)
    vectors, kept = _shrunk_directions(evidence.features)
    member = _one_hot(evidence.labels)
    between = ((member.T @ vectors) ** 2 / member.sum(0)[:, None]).sum(0)
    return float(np.sum(kept * between))


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Logarithm of the maximum evidence of Bayesian linear regression onto the classes, per image, mean over classes.

    Source: You et al., ICML 2021. The precisions of weights and noise come from the same fixed-point iteration, started
    at the best of a grid and so at the right one of several maxima. Where there are fewer images than features, the
    missing eigenvalues are zeros; what they add to the evidence cancels.

    Args:
        features: (n, d); neither they nor the labels are centred.
        labels: n classes.

    Returns:
        A log density in nats, which may be positive.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    evidence = _of_features(features, labels)
    vectors, values = _left_vectors(_scaled(evidence.features))
    member = _one_hot(evidence.labels)
    return _log_evidence(values**2, (vectors.T @ member) ** 2, member.sum(0), len(member))


def knn(features: ArrayLike, labels: ArrayLike) -> float:
    """Share of images whose nearest other image, by the cosine of their features, is of the same class.

    One neighbour, so that two labelled images of a class suffice. Among several that are equally near it counts the
    share that is of the class.

    Args:
        features: (n, d).
        labels: n classes.

    Returns:
        0 to 1.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    evidence = _of_features(features, labels)
    rows = _unit_rows(evidence.features)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = cosine >= cosine.max(1, keepdims=True) - _NOISE
    right = nearest & (evidence.labels[:, None] == evidence.labels)
    return float(np.mean(right.sum(1) / nearest.sum(1)))


def logistic(features: ArrayLike, labels: ArrayLike, *, folds: int = 5) -> float:
    """Share of images that logistic regression on the other folds' features puts into the right class.

    Features are standardised and the weights L2-regularised as scikit-learn does by default; folds are stratified and
    fixed. An image that is alone in its class counts as wrong.

    Args:
        features: (n, d).
        labels: n classes.
        folds: Parts for cross-validation; fewer where the smallest class has fewer images, but at least two.

    Returns:
        0 to 1.

    Raises:
        RelatednessError: See `Evidence` and its `check`; or fewer than two classes have two images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    evidence = _of_features(features, labels)
    classes, counts = np.unique(evidence.labels, return_counts=True)
    usable = np.isin(evidence.labels, classes[counts > 1])
    if np.sum(counts > 1) < 2:
        raise RelatednessError("Fewer than two classes have two images; logistic needs some to learn and some to test.")
    parts = StratifiedKFold(max(2, min(folds, counts[counts > 1].min())), shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    values = evidence.features[:, _varying(evidence.features)]
    predicted = cross_val_predict(model, values[usable], evidence.labels[usable], cv=parts)
    return float(np.sum(predicted == evidence.labels[usable]) / len(usable))


# -- measures on probabilities ------------------------------------------------------------------


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: mean log probability of the class given the source's probabilities.

    A class is predicted by sum_z P(y given z) P(z given image), with P(y given z) counted on the same images. Source:
    Nguyen et al., ICML 2020.

    Args:
        probabilities: (n, K) of the source's classes.
        labels: n classes of the target.

    Returns:
        At most 0, in nats; minus the entropy of the labels for probabilities that are the same for all images.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    values, labels = _checked_predictions(probabilities, labels)
    joint = _one_hot(labels).T @ values
    seen = joint.sum(0) > 0
    conditional = joint[:, seen] / joint[:, seen].sum(0)
    predicted = values[:, seen] @ conditional.T
    return float(np.mean(np.log(predicted[np.arange(len(labels)), _codes(labels)])))


def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the class given the source's most probable one.

    Source: Tran et al., ICCV 2019.

    Args:
        probabilities: (n, K) of the source's classes.
        labels: n classes of the target.

    Returns:
        At most 0, in nats; minus the entropy of the labels for a source that says the same class of all images.

    Raises:
        RelatednessError: See `Evidence` and its `check`.
    """
    values, labels = _checked_predictions(probabilities, labels)
    predicted = np.eye(values.shape[1])[values.argmax(1)]
    joint = _one_hot(labels).T @ predicted
    places = joint > 0
    given = np.broadcast_to(joint.sum(0), joint.shape)
    return float(np.sum(joint[places] * np.log(joint[places] / given[places])) / len(labels))


# -- by name ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A named measure of how near a source is.

    Attributes:
        name: What it is called.
        function: Evidence to a value; higher is nearer.
        needs: What it is computed from: "features", "probabilities" or "reference".
        summary: One line on what it measures.
        chance: The value of a source that gives as much, but knows nothing of the labels: where it depends on what the
            source gives, the mean over all orders of the labels.
        scale: "linear", or "log" for a log-likelihood.

    Raises:
        RelatednessError: `needs` or `scale` is none of these.
    """

    name: str
    function: Callable[[Evidence], float]
    needs: str
    summary: str
    chance: Callable[[Evidence], float]
    scale: str = "linear"

    def __post_init__(self) -> None:
        for kind, value, known in (("need of a measure:", self.needs, NEEDS), ("scale", self.scale, SCALES)):
            if value not in known:
                raise RelatednessError(unknown_name_message(kind, value, known))

    def __call__(self, evidence: Evidence) -> float:
        """The value of a source.

        Raises:
            RelatednessError: The evidence lacks what it needs, that says nothing, or it gives no finite value.
        """
        evidence.check(self.needs)
        value = float(self.function(evidence))
        if not math.isfinite(value):
            raise RelatednessError(f"The measure {self.name!r} gave {value}.")
        return value

    def similarity(self, value: float, chance: float) -> float:
        """How far a value is above chance, of likelihoods their difference; what is not positive is no similarity.

        Args:
            value: Of this measure.
            chance: What `chance` gives for the same evidence.
        """
        return math.exp(value) - math.exp(chance) if self.scale == "log" else value - chance


MEASURES: Registry[Measure] = Registry("measure")


def register_measure(
    name: str,
    function: Callable[[Evidence], float],
    *,
    needs: Literal["features", "probabilities", "reference"] = "features",
    chance: Callable[[Evidence], float] = lambda evidence: 0.0,
    scale: Literal["linear", "log"] = "linear",
    summary: str = "",
) -> Measure:
    """Make a measure known by name.

    Args:
        name: What it is called.
        function, needs, chance, scale: See `Measure`.
        summary: One line on what it measures; by default the first line of the function's docstring.

    Raises:
        ValueError: The name is taken, or `needs` or `scale` is not known.
    """
    return MEASURES.register(name, Measure(name, function, needs, summary or _summary(function), chance, scale))


def get_measure(measure: str | Measure) -> Measure:
    """The measure of this name, or what is one already.

    Raises:
        UnknownNameError: No measure has this name; near names are given.
    """
    return measure if isinstance(measure, Measure) else MEASURES[measure]


def list_measures(pattern: str = "*") -> list[str]:
    """Names of the measures that match a shell pattern, in order of registration; the first is the default."""
    return [name for name in MEASURES if fnmatch(name, pattern)]


def _summary(function: Callable[..., float]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


# -- the images that are compared on, and weights -----------------------------------------------


def balanced_draws(labels: ArrayLike, images: int = 500, draws: int = 5, seed: int = 0) -> list[Integers]:
    """Several random choices of images with the classes as equal in number as can be.

    Where there are fewer than 1.25 times as many images as a draw is to have, it has 80 % of them, so that draws differ
    and their spread says something. Classes have at least two images each where they can: if a draw is too small for
    two of each, it has two of some classes, drawn anew each time.

    Args:
        labels: n classes.
        images: In a draw, at most.
        draws: How many; one is the same whatever their number.
        seed: Of the choice.

    Returns:
        Per draw the rising places of its images.

    Raises:
        RelatednessError: Labels that are none, fewer than two classes, fewer than four images or no draws asked for.
    """
    labels = _checked_labels(labels)
    for name, value, least in (("images", images, 4), ("draws", draws, 1)):
        if value < least:
            raise RelatednessError(f"{name} is {value}; it must be at least {least}.")
    codes, size = _codes(labels), images
    if len(labels) < 1.25 * images:
        size = min(len(labels), max(4, round(0.8 * len(labels))))
    return [_balanced_draw(codes, size, np.random.default_rng(stable_seed(seed, "draw", d))) for d in range(draws)]


def source_weights(
    similarities: Mapping[str, float], weighting: str | Mapping[str, float] = "weighted", power: float = 10.0
) -> dict[str, float]:
    """How much of each source a student is to learn from.

    Args:
        similarities: How near each source is; what is not above 0 is no similarity and has no weight, whatever the
            power. NaN is a source that could not be measured.
        weighting: "weighted": the similarity to the power, over the sum; "nearest": all of the most similar, of equals
            the first; "uniform": the same for all, measured or not; or weights by hand, of which those missing are 0.
        power: 0 makes all similar sources equal, infinity leaves the most similar, equals sharing alike.

    Returns:
        Weights that sum to 1, some of them 0.0; empty where no source is similar.

    Raises:
        RelatednessError: An unknown weighting, weights by hand of an unknown source (near names are given), a negative
            power or weight, one that is no number, weights that are all zero, or an infinite similarity.
    """
    if not isinstance(weighting, str):
        return _normalised_by_hand(weighting, similarities)
    if weighting not in WEIGHTINGS:
        raise RelatednessError(unknown_name_message("weighting", weighting, WEIGHTINGS))
    if not power >= 0:
        raise RelatednessError(f"power is {power}; it must be at least 0.")
    if weighting == "uniform":
        return {name: 1 / len(similarities) for name in similarities}
    near = {name: float(value) if value > 0 else 0.0 for name, value in similarities.items()}
    most = max(near.values(), default=0.0)
    if most == 0:
        return {}
    if math.isinf(most):
        raise RelatednessError(f"The similarity of {max(near, key=near.__getitem__)!r} is infinite.")
    if weighting == "nearest":
        nearest = max(near, key=near.__getitem__)
        return {name: float(name == nearest) for name in near}
    return _normalised({name: (value / most) ** power if value else 0.0 for name, value in near.items()})


def _normalised_by_hand(weights: Mapping[str, float], names: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in names:
            raise RelatednessError(unknown_name_message("source", name, names))
        if not (math.isfinite(weight) and weight >= 0):
            raise RelatednessError(f"The weight of {name!r} is {weight}; it must be at least 0.")
    most = max(weights.values(), default=0)
    if not most:
        raise RelatednessError("All weights of sources are 0; one must be above it.")
    return _normalised({name: weights.get(name, 0) / most for name in names})


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _balanced_draw(codes: Integers, size: int, rng: np.random.Generator) -> Integers:
    counts = np.bincount(codes)
    order, places = rng.permutation(len(counts)), rng.permutation(len(codes))
    quotas = zip(order, _quotas(counts[order], size), strict=True)
    return np.sort(np.concatenate([places[codes[places] == code][:quota] for code, quota in quotas]))


def _quotas(counts: Integers, size: int) -> Integers:
    """How many of each class to take; what cannot be shared out evenly goes to earlier ones."""
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


# -- parts of the measures ----------------------------------------------------------------------


def _distances(features: Floats) -> Floats:
    """1 less the correlation of each pair of rows, over the strict upper triangle, in units of `_NOISE`.

    A row without variance, which correlates with nothing, is at distance 1 of all.
    """
    columns = _principal_components(features)
    columns = columns[:, _varying(columns)]
    if columns.shape[1] < 2:
        raise RelatednessError("Only one feature differs between images; their correlation needs at least two.")
    columns = _centred(columns)
    columns /= columns.std(0)
    rows = _unit_rows(columns - columns.mean(1, keepdims=True))
    return np.rint(_upper_triangle(1 - rows @ rows.T) / _NOISE)  # equal distances differ by rounding


def _principal_components(features: Floats) -> Floats:
    """Scores of the first components where there are more samples and features, without those of no variance.

    Of each the largest score is positive: a correlation of rows depends on the signs of columns, and this choice
    depends neither on the basis of features nor on the order of samples.
    """
    if min(features.shape) <= COMPONENTS:
        return features
    centred = _centred(features)
    wide = centred.shape[1] > centred.shape[0]
    gram = centred @ centred.T if wide else centred.T @ centred
    last = len(gram) - 1
    values, vectors = linalg.eigh(gram, subset_by_index=[last - COMPONENTS + 1, last])
    kept = values > _NOISE * values[-1]
    scores = vectors[:, kept] * np.sqrt(values[kept]) if wide else centred @ vectors[:, kept]
    largest = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], 0)
    return scores * np.sign(largest)


def _rank_correlation_with_groups(values: Floats, member: NDArray[np.bool_]) -> float:
    """Spearman's correlation of values with being a member, ties at their mean rank.

    One sort instead of two rankings: a group has but two ranks, and only the ranks of its members are needed.
    """
    ordered, chosen = np.sort(values), np.sort(values[member])
    ranks = (np.searchsorted(ordered, chosen, "left") + np.searchsorted(ordered, chosen, "right") + 1) / 2
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1, [len(ordered)]])
    ties, size, members = np.diff(starts).astype(np.float64), float(len(ordered)), float(len(chosen))
    spread = (size**3 - size - np.sum(ties**3 - ties)) / 12
    if spread == 0 or members == size:
        raise RelatednessError("All pairs of images are alike; parc ranks their distances.")
    return float(np.sum(ranks - (size + 1) / 2) / math.sqrt(spread * members * (size - members) / size))


def _log_evidence(eigenvalues: Floats, projections: Floats, totals: Floats, samples: int) -> float:
    """Maximum log evidence per sample, mean over targets.

    With the weights' precision in units of the noise's, t, the best of the noise is known, and the evidence a function
    of t alone; eigenvalues and t are in units of the largest eigenvalue.

    Args:
        eigenvalues: (k,) of F F^T that are not zero.
        projections: (k, C) squares of the targets along its eigenvectors.
        totals: (C,) squared norms of the targets.
        samples: n.
    """
    values = (eigenvalues / eigenvalues.max())[:, None]
    rest = np.maximum(totals - projections.sum(0), 0)

    def evidence(ratio: Floats) -> Floats:
        shrunk = ratio / (values + ratio)
        noise = ((shrunk * projections).sum(0) + rest) / samples
        return 0.5 * (np.log(shrunk).sum(0) / samples - np.log(2 * np.pi * noise) - 1)

    grid = np.logspace(-12, 12, 49)  # of bounded t: a perfect fit would have infinite evidence
    starts = np.stack([evidence(np.full(len(totals), ratio)) for ratio in grid])
    ratio = grid[starts.argmax(0)]
    for _ in range(1000):
        kept, shrunk = values / (values + ratio), ratio / (values + ratio)
        with np.errstate(divide="ignore"):  # a target that no feature explains
            weights = kept.sum(0) / (projections * kept**2 / values).sum(0)
        noise = (samples - len(values) + shrunk.sum(0)) / ((projections * shrunk**2).sum(0) + rest)
        before, ratio = ratio, np.clip(weights / noise, grid[0], grid[-1])
        if np.all(np.abs(ratio - before) <= 1e-9 * before):
            break
    return float(np.mean(np.maximum(evidence(ratio), starts.max(0))))


def _left_vectors(matrix: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors (n, k) and singular values (k,) but for those that are zero."""
    if matrix.shape[1] > matrix.shape[0]:
        matrix = linalg.qr(matrix.T, mode="r")[0][: matrix.shape[0]].T
    vectors, values, _ = linalg.svd(matrix, full_matrices=False)
    kept = values > values[0] * max(matrix.shape) * np.finfo(np.float64).eps
    return vectors[:, kept], values[kept]


def _shrunk_directions(features: Floats) -> tuple[Floats, Floats]:
    """Principal directions of images (n, k), and the share of each one's variance that is left after shrinkage (k,)."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    centred = _centred(features)
    vectors, values = _left_vectors(centred)
    variances = values**2 / len(centred)
    shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    left = (1 - shrinkage) * variances
    return vectors, left / (left + shrinkage * variances.sum() / centred.shape[1])


def _gram_norm(centred: Floats) -> float:
    """Frobenius norm of X X^T, by the smaller side."""
    gram = centred.T @ centred if centred.shape[1] < centred.shape[0] else centred @ centred.T
    return float(np.linalg.norm(gram))


def _unit_rows(rows: Floats) -> Floats:
    """Rows of norm 1; those of no length stay zero."""
    rows = _scaled(rows)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > _NOISE * lengths.max())


def _upper_triangle(matrix: NDArray) -> NDArray:
    return matrix[np.triu(np.ones(matrix.shape, bool), 1)]


def _centred(values: Floats) -> Floats:
    """Columns of mean 0, scaled: no measure depends on that."""
    values = _scaled(values)
    return _scaled(values - values.mean(0))


def _scaled(values: Floats) -> Floats:
    """In units of the largest entry, so that no square is out of range."""
    return values / (np.abs(values).max() or 1.0)


def _varying(values: Floats) -> NDArray[np.bool_]:
    """Which columns differ between rows by more than the rounding of single precision."""
    return np.ptp(values, 0) > 1e-7 * np.abs(values).max(0)


def _codes(labels: Integers) -> Integers:
    return np.unique(labels, return_inverse=True)[1]


def _one_hot(labels: Integers) -> Floats:
    codes = _codes(labels)
    return np.eye(codes.max() + 1)[codes]


# -- chance: what they give on average for labels in another order ------------------------------


def _cka_by_chance(features: ArrayLike, labels: ArrayLike) -> float:
    """A centred Gram matrix of shuffled rows is on average a multiple of the centring matrix, of the same trace."""
    evidence = _of_features(features, labels)
    first, second = _centred(evidence.features), _centred(_one_hot(evidence.labels))
    traces = np.sum(first**2) * np.sum(second**2)
    return float(traces / ((len(first) - 1) * _gram_norm(first) * _gram_norm(second)))


def _h_score_by_chance(features: ArrayLike, labels: ArrayLike) -> float:
    """Of the n - 1 directions in which n centred images can differ, C - 1 are between classes."""
    evidence = _of_features(features, labels)
    _, kept = _shrunk_directions(evidence.features)
    images, classes = _one_hot(evidence.labels).shape
    return float((classes - 1) / (images - 1) * np.sum(kept))


def _leep_by_chance(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Nearly: within a hundredth of a nat of the mean over shuffled labels for 80 images or more.

    The probability of an image's class is a weighted share of images that are of it: its own weight, and the weights of
    those among the others, which are drawn without replacement. The mean of its logarithm is taken to be that of a
    log-normal variable of the same mean and variance.
    """
    values, labels = _checked_predictions(probabilities, labels)
    values, images = values[:, values.sum(0) > 0], len(labels)
    weights = values / values.sum(0) @ values.T  # rows sum to 1
    own = weights.diagonal()[:, None]
    others = (weights**2).sum(1, keepdims=True) - own**2
    counts = np.bincount(_codes(labels))
    share = (counts - 1) / (images - 1)
    mean = own + (1 - own) * share
    spread = (others - (1 - own) ** 2 / (images - 1)) * (images - 1) / max(images - 2, 1)
    logarithm = np.log(mean) - np.log1p(share * (1 - share) * spread / mean**2) / 2
    return float(np.mean(logarithm @ counts) / images)


def _nce_by_chance(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mutual information of independent classes is above 0. Source: Vinh et al., JMLR 2010."""
    from scipy.stats import entropy
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    values, labels = _checked_predictions(probabilities, labels)
    table = contingency_matrix(labels, values.argmax(1))
    return float(expected_mutual_information(table, len(labels)) - entropy(table.sum(1)))


def _logme_by_chance(labels: Integers) -> float:
    """What it gives for one feature that is the same for all images: what any source with a mean can do."""
    totals = _one_hot(labels).sum(0)
    return _log_evidence(np.ones(1), totals[None] ** 2 / len(labels), totals, len(labels))


def _largest_share(labels: Integers) -> float:
    """The accuracy of always saying the most frequent class; of labels in another order, at most about that."""
    return float(np.bincount(_codes(labels)).max() / len(labels))


# -- checks -------------------------------------------------------------------------------------


def _checked_labels(labels: ArrayLike) -> Integers:
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise RelatednessError(f"Labels are {values.shape} of {values.dtype}; they must be (images,) of integers.")
    classes = len(np.unique(values))
    if classes < 2:
        raise RelatednessError(f"The {len(values)} labelled images are of {classes} class; at least two are needed.")
    return values.astype(np.int64)


def _as_rows(name: str, values: ArrayLike, images: int | None = None) -> Floats:
    try:
        rows = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise RelatednessError(f"The {name} are no array of numbers: {error}") from None
    if rows.ndim != 2 or rows.shape[1] < 1 or (images is not None and len(rows) != images):
        expected = "images" if images is None else images
        raise RelatednessError(f"The {name} are {rows.shape}; they must be ({expected}, columns).")
    return rows


def _of_features(features: ArrayLike, labels: ArrayLike) -> Evidence:
    evidence = Evidence(features, labels)  # type: ignore[arg-type]  # it converts
    evidence.check("features")
    return evidence


def _checked_pair(features: ArrayLike, other: ArrayLike) -> tuple[Floats, Floats]:
    first = _as_rows("features", features)
    second = _as_rows("reference", other, len(first))
    _check_features("features", first)
    _check_features("reference", second)
    return first, second


def _checked_predictions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    classes = _checked_labels(labels)
    values = _as_rows("probabilities", probabilities, len(classes))
    _check_probabilities(values)
    return values, classes


def _check_features(name: str, values: Floats) -> None:
    _check_finite(name, values)
    if not _varying(values).any():
        raise RelatednessError(f"The {name} are the same for all {len(values)} images.")


def _check_probabilities(values: Floats) -> None:
    _check_finite("probabilities", values)
    sums = values.sum(1)
    if values.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise RelatednessError(
            f"Probabilities are at least {values.min():.3g} and sum to between {sums.min():.3g} and {sums.max():.3g}; "
            "they must not be negative and sum to 1. Apply a softmax to logits."
        )


def _check_finite(name: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(1).sum())
        raise RelatednessError(f"The {name} of {bad} of {len(values)} images have NaN or infinity.")


def _of(function: Callable[..., float], *names: str) -> Callable[[Evidence], float]:
    return lambda evidence: function(*(getattr(evidence, name) for name in names))


register_measure("parc", _of(parc, "features", "labels"), summary=_summary(parc))
register_measure(
    "cka", _of(cka, "features", "labels"), chance=_of(_cka_by_chance, "features", "labels"), summary=_summary(cka)
)
register_measure("rsa", _of(rsa, "features", "reference"), needs="reference", summary=_summary(rsa))
register_measure(
    "leep",
    _of(leep, "probabilities", "labels"),
    needs="probabilities",
    chance=_of(_leep_by_chance, "probabilities", "labels"),
    scale="log",
    summary=_summary(leep),
)
register_measure(
    "nce",
    _of(nce, "probabilities", "labels"),
    needs="probabilities",
    chance=_of(_nce_by_chance, "probabilities", "labels"),
    scale="log",
    summary=_summary(nce),
)
register_measure(
    "h_score",
    _of(h_score, "features", "labels"),
    chance=_of(_h_score_by_chance, "features", "labels"),
    summary=_summary(h_score),
)
register_measure(
    "logme",
    _of(logme, "features", "labels"),
    chance=_of(_logme_by_chance, "labels"),
    scale="log",
    summary=_summary(logme),
)
register_measure("knn", _of(knn, "features", "labels"), chance=_of(_largest_share, "labels"), summary=_summary(knn))
register_measure(
    "logistic", _of(logistic, "features", "labels"), chance=_of(_largest_share, "labels"), summary=_summary(logistic)
)
