"""Measures of transferability as pure functions of arrays, in double precision.

They compare the features or probabilities that a source model gives for n labelled images of the target task. They need
no training. Higher values mean better transfer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from .evidence import (
    Floats,
    Integers,
    TransferabilityError,
    checked_pair,
    checked_predictions,
    class_codes,
    features_evidence,
    varying_columns,
)

COMPONENTS = 32
"""Number of principal components to which features are reduced before samples are compared (Bolya et al., 2021)."""


_NOISE = 1e-12  # relative to the largest variance: the rounding error of single precision in a constant direction


# -- measures on features -----------------------------------------------------------------------


def parc(features: ArrayLike, labels: ArrayLike) -> float:
    """Rank correlation of distances between features with distances between labels, times 100.

    Features are reduced to their first 32 principal components if there are more images and features than that, and
    then standardised. The distance of two images is 1 minus the correlation of their features. The distance of two
    labels is 1 minus the correlation of their one-hot codes, so it depends only on whether the labels differ.
    Source: Bolya et al., "Scalable Diverse Model Selection for Accessible Transfer Learning", NeurIPS 2021.

    Args:
        features: Features (n, d) of the images.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A value from -100 to 100. Features unrelated to the labels give 0 on average.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`, no two images are of one class, or
            all images are at the same distance from each other.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(parc(features, [0, 0, 1, 1]), 1)
        82.8
    """
    evidence = features_evidence(features, labels)
    same = _upper_triangle(evidence.labels[:, None] == evidence.labels)
    if not same.any():
        raise TransferabilityError(
            f"No two of the {len(evidence.labels)} images are of one class; parc compares pairs."
        )
    return -100 * _rank_correlation_with_groups(_distances(evidence.features), same)


def rsa(features: ArrayLike, reference: ArrayLike) -> float:
    """Rank correlation of distances between features with those between a reference model's features, times 100.

    Distances are computed as in `parc`. Source: Dwivedi and Roig, "Representation Similarity Analysis for Efficient
    Task Taxonomy and Transfer Learning", CVPR 2019.

    Args:
        features: Features (n, d) of the images.
        reference: The reference model's features (n, r) of the same images.

    Returns:
        A value from -100 to 100.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`, or all images are at the same
            distance from each other.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(rsa(features, 2 * features + 1), 1)
        100.0
    """
    from scipy.stats import rankdata

    first, second = checked_pair(features, reference)
    ranks = [rankdata(_distances(values)) for values in (first, second)]
    if any(np.ptp(side) == 0 for side in ranks):
        raise TransferabilityError("All images are at the same distance from each other; rsa ranks distances.")
    return 100 * float(np.corrcoef(*ranks)[0, 1])


def cka(features: ArrayLike, other: ArrayLike) -> float:
    """Linear centred kernel alignment of features with labels, or with another model's features.

    This is the plain estimate. It is above 0 for unrelated features, the more so the fewer images there are per
    feature. Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.

    Args:
        features: Features (n, d) of the images.
        other: Target classes (n,), or another model's features (n, r), of the same images.

    Returns:
        A value from 0 to 1.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(cka(features, [0, 0, 1, 1]), 3), round(cka(features, 2 * features + 1), 3)
        (0.999, 1.0)
    """
    if np.ndim(other) == 1:
        evidence = features_evidence(features, other)
        first, second = evidence.features, _one_hot(evidence.labels)
    else:
        first, second = checked_pair(features, other)
    first, second = _centred(first), _centred(second)
    cross = np.sum((first.T @ second) ** 2)
    return float(cross / (_gram_norm(first) * _gram_norm(second)))


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """Variance between classes in units of the variance of features, trace(cov(F)^-1 cov(E[F given y])).

    The covariance is shrunk as by Ledoit and Wolf, and the covariance between classes by the same factor. Features
    with equal variance in all directions thus give a value near 0. Sources: Bao et al., "An Information-Theoretic
    Approach to Transferability in Task Transfer Learning", ICIP 2019; Ibrahim et al., "Newer is not always better:
    Rethinking transferability metrics, their peculiarities, stability and performance", 2021 (shrinkage).

    Args:
        features: Features (n, d) of the images.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A value from 0 to the smaller of d and the number of classes minus 1. It is above 0 for unrelated features
        too.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(h_score(features, [0, 0, 1, 1]), 3)
        0.998
    """
    evidence = features_evidence(features, labels)
    vectors, remaining = _shrunk_directions(evidence.features)
    membership = _one_hot(evidence.labels)
    between = ((membership.T @ vectors) ** 2 / membership.sum(0)[:, None]).sum(0)
    return float(np.sum(remaining * between))


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log maximum evidence of Bayesian linear regression from features onto classes, per image, mean over classes.

    The precisions of weights and noise come from the paper's fixed-point iteration. It starts at the best value of a
    grid, and so near the highest of several maxima. With fewer images than features the missing eigenvalues are zero,
    and their contributions to the evidence cancel. Source: You et al., "LogME: Practical Assessment of Pre-trained
    Models for Transfer Learning", ICML 2021.

    Args:
        features: Features (n, d) of the images. They are not centred, and neither are the labels.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A log density in nats; it can be positive.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(logme(features, [0, 0, 1, 1]), 3)
        0.08
    """
    evidence = features_evidence(features, labels)
    vectors, values = _left_vectors(_scaled(evidence.features))
    membership = _one_hot(evidence.labels)
    return _log_evidence(values**2, (vectors.T @ membership) ** 2, membership.sum(0), len(membership))


def knn(features: ArrayLike, labels: ArrayLike) -> float:
    """Share of images whose nearest other image, by the cosine of their features, is of the same class.

    A single neighbour is used, so that two labelled images of a class suffice. If several images are equally near, the
    share of them that is of the same class counts.

    Args:
        features: Features (n, d) of the images.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A value from 0 to 1.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> round(knn(features, [0, 0, 1, 1]), 3)
        1.0
    """
    evidence = features_evidence(features, labels)
    rows = _unit_rows(evidence.features)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = cosine >= cosine.max(1, keepdims=True) - _NOISE
    right = nearest & (evidence.labels[:, None] == evidence.labels)
    return float(np.mean(right.sum(1) / nearest.sum(1)))


def logistic(features: ArrayLike, labels: ArrayLike, *, folds: int = 5) -> float:
    """Share of images that logistic regression, fitted to the features of the other folds, classifies correctly.

    Features are standardised, and weights are L2-regularised with scikit-learn's default strength. Folds are
    stratified and fixed. An image that is the only one of its class counts as wrong.

    Args:
        features: Features (n, d) of the images.
        labels: Target classes (n,) of the images, any integers.
        folds: Number of folds of the cross-validation. There are fewer folds if the smallest class with several images
            has fewer images, but at least two.

    Returns:
        A value from 0 to 1.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`, or fewer than two classes have two
            images.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0.0, 1.0, 3.0], [0.1, 1.2, 2.9], [2.0, 0.1, 0.0], [2.2, 0.0, 0.3]])
        >>> logistic(features, [0, 0, 1, 1])
        1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    evidence = features_evidence(features, labels)
    classes, counts = np.unique(evidence.labels, return_counts=True)
    usable = np.isin(evidence.labels, classes[counts > 1])
    if np.sum(counts > 1) < 2:
        raise TransferabilityError(
            "Fewer than two classes have two images; logistic needs some to learn and some to test."
        )
    parts = StratifiedKFold(max(2, min(folds, counts[counts > 1].min())), shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    values = evidence.features[:, varying_columns(evidence.features)]
    predicted = cross_val_predict(model, values[usable], evidence.labels[usable], cv=parts)
    return float(np.sum(predicted == evidence.labels[usable]) / len(usable))


# -- measures on probabilities ------------------------------------------------------------------


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: mean log probability of the class given the source's probabilities.

    The probability of a class y is sum_z P(y given z) P(z given image) over the source's classes z, with
    P(y given z) counted on the same images. Source: Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of
    Learned Representations", ICML 2020.

    Args:
        probabilities: Probabilities (n, K) of the source's classes; rows sum to 1.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A value in nats, at most 0. It is minus the entropy of the labels if all images have the same probabilities.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> round(leep([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], [0, 0, 1, 1]), 3)
        -0.343
    """
    values, labels = checked_predictions(probabilities, labels)
    joint = _one_hot(labels).T @ values
    occurs = joint.sum(0) > 0
    conditional = joint[:, occurs] / joint[:, occurs].sum(0)
    predicted = values[:, occurs] @ conditional.T
    return float(np.mean(np.log(predicted[np.arange(len(labels)), class_codes(labels)])))


def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the class given the source's most probable one.

    Source: Tran et al., "Transferability and Hardness of Supervised Classification Tasks", ICCV 2019.

    Args:
        probabilities: Probabilities (n, K) of the source's classes; rows sum to 1.
        labels: Target classes (n,) of the images, any integers.

    Returns:
        A value in nats, at most 0. It is minus the entropy of the labels if the source predicts one class for all
        images.

    Raises:
        TransferabilityError: The input is refused by `Evidence` or its `check`.

    Example:
        >>> round(nce([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], [0, 0, 1, 1]), 3)
        -0.477
    """
    values, labels = checked_predictions(probabilities, labels)
    predicted = np.eye(values.shape[1])[values.argmax(1)]
    joint = _one_hot(labels).T @ predicted
    occurs = joint > 0
    totals = np.broadcast_to(joint.sum(0), joint.shape)
    return float(np.sum(joint[occurs] * np.log(joint[occurs] / totals[occurs])) / len(labels))


# -- parts of the measures ----------------------------------------------------------------------


def _distances(features: Floats) -> Floats:
    """Return 1 minus the correlation of each pair of rows, over the strict upper triangle, in units of `_NOISE`.

    A row without variance has no correlation with other rows; its distance is 1.
    """
    columns = _principal_components(features)
    columns = columns[:, varying_columns(columns)]
    if columns.shape[1] < 2:
        raise TransferabilityError("Only one feature differs between images; their correlation needs at least two.")
    columns = _centred(columns)
    columns /= columns.std(0)
    rows = _unit_rows(columns - columns.mean(1, keepdims=True))
    return np.rint(
        _upper_triangle(1 - rows @ rows.T) / _NOISE
    )  # rounded, since equal distances differ by rounding errors


def _principal_components(features: Floats) -> Floats:
    """Reduce features to the scores of their first `COMPONENTS` components; fewer samples or features stay as they are.

    Components without variance are left out. The largest score of each component is made positive: the correlation of
    rows depends on the signs of columns, and this choice depends neither on the basis of the features nor on the order
    of the samples.
    """
    if min(features.shape) <= COMPONENTS:
        return features
    centred = _centred(features)
    wide = centred.shape[1] > centred.shape[0]
    gram = centred @ centred.T if wide else centred.T @ centred
    last = len(gram) - 1
    values, vectors = linalg.eigh(gram, subset_by_index=[last - COMPONENTS + 1, last])
    varying = values > _NOISE * values[-1]
    scores = vectors[:, varying] * np.sqrt(values[varying]) if wide else centred @ vectors[:, varying]
    largest = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], 0)
    return scores * np.sign(largest)


def _rank_correlation_with_groups(values: Floats, member: NDArray[np.bool_]) -> float:
    """Return Spearman's correlation of values with membership of a group; ties have their mean rank.

    Sorting once replaces two rankings: membership has only two ranks, and only the members' ranks of values are needed.
    """
    ordered, member_values = np.sort(values), np.sort(values[member])
    ranks = (np.searchsorted(ordered, member_values, "left") + np.searchsorted(ordered, member_values, "right") + 1) / 2
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1, [len(ordered)]])
    ties, size, members = np.diff(starts).astype(np.float64), float(len(ordered)), float(len(member_values))
    spread = (size**3 - size - np.sum(ties**3 - ties)) / 12
    if spread == 0 or members == size:
        raise TransferabilityError("All pairs of images are alike; parc ranks their distances.")
    return float(np.sum(ranks - (size + 1) / 2) / math.sqrt(spread * members * (size - members) / size))


def _log_evidence(eigenvalues: Floats, projections: Floats, totals: Floats, samples: int) -> float:
    """Compute the maximum log evidence per sample, mean over targets.

    Let t be the precision of the weights in units of that of the noise. The best precision of the noise follows from
    t, so the evidence is a function of t alone. Eigenvalues and t are in units of the largest eigenvalue.

    Args:
        eigenvalues: The eigenvalues (k,) of F F^T that are not zero.
        projections: The squared projections (k, C) of the targets onto the eigenvectors.
        totals: The squared norms (C,) of the targets.
        samples: The number of samples, n.
    """
    values = (eigenvalues / eigenvalues.max())[:, None]
    rest = np.maximum(totals - projections.sum(0), 0)

    def evidence(ratio: Floats) -> Floats:
        shrunk = ratio / (values + ratio)
        noise = ((shrunk * projections).sum(0) + rest) / samples
        return 0.5 * (np.log(shrunk).sum(0) / samples - np.log(2 * np.pi * noise) - 1)

    grid = np.logspace(-12, 12, 49)  # t is bounded, since a perfect fit would have infinite evidence
    starts = np.stack([evidence(np.full(len(totals), ratio)) for ratio in grid])
    ratio = grid[starts.argmax(0)]
    for _ in range(1000):
        fitted, shrunk = values / (values + ratio), ratio / (values + ratio)
        with np.errstate(divide="ignore"):  # a target that no feature explains
            weights = fitted.sum(0) / (projections * fitted**2 / values).sum(0)
        noise = (samples - len(values) + shrunk.sum(0)) / ((projections * shrunk**2).sum(0) + rest)
        before, ratio = ratio, np.clip(weights / noise, grid[0], grid[-1])
        if np.all(np.abs(ratio - before) <= 1e-9 * before):
            break
    return float(np.mean(np.maximum(evidence(ratio), starts.max(0))))


def _left_vectors(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the left singular vectors (n, k) and singular values (k,) that are not zero."""
    if matrix.shape[1] > matrix.shape[0]:
        matrix = linalg.qr(matrix.T, mode="r")[0][: matrix.shape[0]].T
    vectors, values, _ = linalg.svd(matrix, full_matrices=False)
    nonzero = values > values[0] * max(matrix.shape) * np.finfo(np.float64).eps
    return vectors[:, nonzero], values[nonzero]


def _shrunk_directions(features: Floats) -> tuple[Floats, Floats]:
    """Return principal directions of images (n, k), and the share (k,) of their variance that shrinkage leaves."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    centred = _centred(features)
    vectors, values = _left_vectors(centred)
    variances = values**2 / len(centred)
    shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    remaining = (1 - shrinkage) * variances
    return vectors, remaining / (remaining + shrinkage * variances.sum() / centred.shape[1])


def _gram_norm(centred: Floats) -> float:
    """Return the Frobenius norm of X X^T, computed from the smaller of X X^T and X^T X."""
    gram = centred.T @ centred if centred.shape[1] < centred.shape[0] else centred @ centred.T
    return float(np.linalg.norm(gram))


def _unit_rows(rows: Floats) -> Floats:
    """Scale rows to norm 1; rows of length zero stay zero."""
    rows = _scaled(rows)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > _NOISE * lengths.max())


def _upper_triangle(matrix: NDArray) -> NDArray:
    return matrix[np.triu(np.ones(matrix.shape, bool), 1)]


def _centred(values: Floats) -> Floats:
    """Centre columns, and scale the matrix, on whose scale no measure depends."""
    values = _scaled(values)
    return _scaled(values - values.mean(0))


def _scaled(values: Floats) -> Floats:
    """Divide by the largest absolute entry, so that no square is out of range."""
    return values / (np.abs(values).max() or 1.0)


def _one_hot(labels: Integers) -> Floats:
    codes = class_codes(labels)
    return np.eye(codes.max() + 1)[codes]


# -- chance levels: means over permutations of the labels ---------------------------------------


def cka_by_chance(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the chance level of `cka`: its mean over permutations of the labels.

    The Gram matrix of permuted centred rows is, on average, a multiple of the centring matrix with the same trace.
    """
    evidence = features_evidence(features, labels)
    first, second = _centred(evidence.features), _centred(_one_hot(evidence.labels))
    traces = np.sum(first**2) * np.sum(second**2)
    return float(traces / ((len(first) - 1) * _gram_norm(first) * _gram_norm(second)))


def h_score_by_chance(features: ArrayLike, labels: ArrayLike) -> float:
    """Compute the chance level of `h_score`: its mean over permutations of the labels.

    The n centred images can differ in n - 1 directions, of which C - 1 are between classes.
    """
    evidence = features_evidence(features, labels)
    _, remaining = _shrunk_directions(evidence.features)
    images, classes = _one_hot(evidence.labels).shape
    return float((classes - 1) / (images - 1) * np.sum(remaining))


def leep_by_chance(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Compute the chance level of `leep`: its approximate mean over permutations of the labels.

    The error is below 0.01 nats for 80 images or more.

    The probability of an image's class is the sum of the weights of the images of that class: the image's own weight,
    and the weights of other images, which are drawn without replacement. The mean of its logarithm is approximated by
    that of a log-normal variable with the same mean and variance.
    """
    values, labels = checked_predictions(probabilities, labels)
    values, images = values[:, values.sum(0) > 0], len(labels)
    weights = values / values.sum(0) @ values.T  # rows sum to 1
    own = weights.diagonal()[:, None]
    others = (weights**2).sum(1, keepdims=True) - own**2
    counts = np.bincount(class_codes(labels))
    share = (counts - 1) / (images - 1)
    mean = own + (1 - own) * share
    spread = (others - (1 - own) ** 2 / (images - 1)) * (images - 1) / max(images - 2, 1)
    logarithm = np.log(mean) - np.log1p(share * (1 - share) * spread / mean**2) / 2
    return float(np.mean(logarithm @ counts) / images)


def nce_by_chance(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Compute the chance level of `nce`: its mean over permutations of the labels.

    It follows from the expected mutual information of independent classes. Source: Vinh, Epps and Bailey, "Information
    Theoretic Measures for Clusterings Comparison", JMLR 2010.
    """
    from scipy.stats import entropy
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    values, labels = checked_predictions(probabilities, labels)
    table = contingency_matrix(labels, values.argmax(1))
    return float(expected_mutual_information(table, len(labels)) - entropy(table.sum(1)))


def logme_by_chance(labels: Integers) -> float:
    """Compute the chance level of `logme`: its value for one constant feature, which most sources provide."""
    totals = _one_hot(labels).sum(0)
    return _log_evidence(np.ones(1), totals[None] ** 2 / len(labels), totals, len(labels))


def largest_share(labels: Integers) -> float:
    """Compute the chance level of `knn` and `logistic`: the accuracy of always predicting the most frequent class.

    Their means over permutations of the labels are at most about this accuracy.
    """
    return float(np.bincount(class_codes(labels)).max() / len(labels))
