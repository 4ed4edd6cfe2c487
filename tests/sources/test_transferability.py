"""Measures of transferability: each against another implementation, its properties, and the input it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import entropy, spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import LeaveOneOut, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from diswot_search.sources.evidence import Evidence, TransferabilityError
from diswot_search.sources.measures import cka, h_score, knn, leep, logistic, logme, nce, parc, rsa
from diswot_search.sources.transferability import (
    MEASURES,
    Measure,
    balanced_draws,
    get_measure,
    list_measures,
    register_measure,
    source_weights,
)
from search_spaces.registry import UnknownNameError

NAN, INF = float("nan"), float("inf")
ON_FEATURES: dict[str, Callable[..., float]] = {
    "parc": parc,
    "cka": cka,
    "h_score": h_score,
    "logme": logme,
    "knn": knn,
    "logistic": logistic,
}
ON_PROBABILITIES: dict[str, Callable[..., float]] = {"leep": leep, "nce": nce}
few = settings(max_examples=25)
seeds = st.integers(0, 10_000)

Array = NDArray[Any]
Labels = NDArray[Any]


def sample(
    images: int = 60, features: int = 8, classes: int = 4, *, signal: float = 1.0, seed: int = 0
) -> tuple[Array, Labels]:
    """Positive features around a centre for each class, and labels whose numbers leave gaps."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(images) % classes)
    centres = rng.normal(size=(classes, features))
    return np.logaddexp(0, rng.normal(size=(images, features)) + signal * centres[codes]), 3 * codes - 2


def predictions(labels: Labels, classes: int = 5, *, signal: float = 1.0, seed: int = 0) -> Array:
    """Probabilities of source classes that go with the labels."""
    rng = np.random.default_rng(seed)
    _, codes = np.unique(labels, return_inverse=True)
    return softmax(rng.normal(size=(len(labels), classes)) + signal * rng.normal(size=(9, classes))[codes], axis=1)


def evidence(**changes: object) -> Evidence:
    features, labels = sample()
    parts = {"features": features, "labels": labels, "probabilities": predictions(labels), "reference": features[:, :3]}
    return Evidence(**{**parts, **changes})  # type: ignore[arg-type]


# -- against other implementations --------------------------------------------------------------


SHAPES = [(60, 8, 4), (90, 50, 5), (40, 100, 3), (20, 100, 2), (12, 2, 2)]
"""Images, features and classes: fewer features than components, more, fewer images than features, than components."""


def components(features: Array) -> Array:
    """scikit-learn's principal components, of each the largest score positive, standardised."""
    if min(features.shape) > 32:
        features = PCA(32, svd_solver="full").fit_transform(features)
        features = features * [np.sign(column[np.argmax(abs(column))]) for column in features.T]
    return StandardScaler().fit_transform(features)


def dissimilarities(rows: Array) -> list[float]:
    """By the definition, equal ones equal but for what rounding did to them."""
    matrix = 1 - np.corrcoef(rows)
    return [round(matrix[i, j], 12) for i, j in combinations(range(len(rows)), 2)]


def one_hot(labels: Labels) -> Array:
    return (labels[:, None] == np.unique(labels)).astype(float)


@pytest.mark.parametrize("shape", SHAPES)
def test_parc_is_spearmans_correlation_of_dissimilarities(shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape)
    expected = spearmanr(dissimilarities(components(features)), dissimilarities(one_hot(labels))).statistic
    # Rounding: 1e-9. With two features all distances are 0 or 2, so that ties are most of it.
    assert parc(features, labels) == pytest.approx(100 * expected, abs=1e-9)
    assert abs(expected) > 0.01


def test_parc_ranks_ties_like_scipy() -> None:
    features, labels = sample(24, 5, 3)
    features, labels = np.repeat(features, 3, 0), np.repeat(labels, 3)
    expected = spearmanr(dissimilarities(components(features)), dissimilarities(one_hot(labels))).statistic
    assert parc(features, labels) == pytest.approx(100 * expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_rsa_is_spearmans_correlation_of_dissimilarities(shape: tuple[int, int, int]) -> None:
    features, _ = sample(*shape)
    rng = np.random.default_rng(1)
    reference = features @ rng.normal(size=(features.shape[1], 40)) + rng.normal(size=(len(features), 40))
    expected = spearmanr(dissimilarities(components(features)), dissimilarities(components(reference))).statistic
    assert rsa(features, reference) == pytest.approx(100 * expected, abs=1e-9)
    assert rsa(features, features) == pytest.approx(100)


def alignment(first: Array, second: Array) -> float:
    """From the definition: Hilbert-Schmidt independence by centring matrices."""
    centre = np.eye(len(first)) - 1 / len(first)
    grams = [centre @ values @ values.T @ centre for values in (first, second)]

    def independence(k: Array, m: Array) -> float:
        return sum(float(k[i, j] * m[j, i]) for i in range(len(k)) for j in range(len(k)))

    return independence(*grams) / math.sqrt(independence(grams[0], grams[0]) * independence(grams[1], grams[1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_cka_is_normalised_independence(shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape)
    other = np.random.default_rng(1).normal(size=(len(features), 30)) + features[:, :1]
    assert cka(features, labels) == pytest.approx(alignment(features, one_hot(labels)), rel=1e-9)
    assert cka(features, other) == pytest.approx(alignment(features, other), rel=1e-9)
    assert cka(features, features) == pytest.approx(1)


def test_leep_from_its_definition() -> None:
    _, labels = sample()
    probabilities, images = predictions(labels), len(labels)
    joint = {
        (y, z): sum(probabilities[i, z] for i in range(images) if labels[i] == y) / images
        for y in set(labels.tolist())
        for z in range(5)
    }
    marginal = [sum(joint[y, z] for y in set(labels.tolist())) for z in range(5)]
    logs = [
        math.log(sum(joint[labels[i], z] / marginal[z] * probabilities[i, z] for z in range(5))) for i in range(images)
    ]
    assert leep(probabilities, labels) == pytest.approx(np.mean(logs), rel=1e-12)
    with_unused = np.insert(probabilities, 2, 0, axis=1)
    assert leep(with_unused, labels) == pytest.approx(np.mean(logs), rel=1e-12)


def test_nce_is_mutual_information_less_entropy() -> None:
    _, labels = sample()
    probabilities = predictions(labels)
    information = mutual_info_score(labels, probabilities.argmax(1))
    expected = information - entropy(np.unique(labels, return_counts=True)[1])
    assert nce(probabilities, labels) == pytest.approx(expected, rel=1e-12)
    assert information > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_is_a_trace_of_shrunk_covariances(shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape)
    shrunk = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(0) for label in labels])
    between = (1 - shrunk.shrinkage_) * np.cov(means, rowvar=False, bias=True)
    assert h_score(features, labels) == pytest.approx(np.trace(np.linalg.pinv(shrunk.covariance_) @ between), rel=1e-8)
    assert shrunk.shrinkage_ > 0


def test_h_score_leaves_out_what_has_no_variance() -> None:
    features, labels = sample(16, 1, 2)
    copies = np.repeat(features, 3, 1)  # one feature is not shrunk at all
    means = np.stack([features[labels == label].mean(0) for label in labels])
    assert h_score(features, labels) == pytest.approx(means.var() / features.var(), rel=1e-9)
    assert np.isfinite(h_score(copies, labels))


@pytest.mark.parametrize("shape", [(40, 6, 3), (60, 60, 2), (20, 100, 3), (24, 3, 4)])
@pytest.mark.parametrize("signal", [0.0, 2.0])
def test_logme_is_the_maximum_of_the_evidence(shape: tuple[int, int, int], signal: float) -> None:
    features, labels = sample(*shape, signal=signal)
    images = len(labels)

    def shortfall(log_precisions: Array, target: Array) -> float:
        alpha, beta = np.exp(log_precisions)
        covariance = np.eye(images) / beta + features @ features.T / alpha
        log_determinant = np.linalg.slogdet(2 * np.pi * covariance)[1]
        return float(log_determinant + target @ np.linalg.solve(covariance, target)) / 2 / images

    def best(target: Array) -> float:
        starts = [(a, b) for a in (-4.0, 2.0, 8.0) for b in (1.0, 4.0, 8.0)]
        return -min(
            minimize(shortfall, s, (target,), method="L-BFGS-B", bounds=[(-20, 25), (-5, 18)]).fun for s in starts
        )

    expected = np.mean([best(target) for target in one_hot(labels).T])
    assert logme(features, labels) == pytest.approx(expected, abs=1e-5)  # as near as the optimiser comes


def test_logme_pads_missing_eigenvalues_with_zeros() -> None:
    """The published iteration and formula in their own terms, over all d eigenvalues."""
    features, labels = sample(30, 70, 3, signal=0.5)
    images, width = features.shape
    eigenvalues, vectors = np.linalg.eigh(features.T @ features)
    eigenvalues = np.where(np.arange(width) < width - images, 0, eigenvalues)
    values = []
    for target in one_hot(labels).T:
        alpha, beta = 1.0, 1.0
        for _ in range(2000):
            mean = vectors @ (beta / (alpha + beta * eigenvalues) * (vectors.T @ (features.T @ target)))
            gamma = np.sum(beta * eigenvalues / (alpha + beta * eigenvalues))
            residual = np.sum((features @ mean - target) ** 2)
            alpha, beta = gamma / (mean @ mean), (images - gamma) / residual
        mean = vectors @ (beta / (alpha + beta * eigenvalues) * (vectors.T @ (features.T @ target)))
        residual = np.sum((features @ mean - target) ** 2)
        values.append(
            (width * np.log(alpha) + images * np.log(beta) - images * np.log(2 * np.pi)) / 2
            - (beta * residual + alpha * mean @ mean + np.sum(np.log(alpha + beta * eigenvalues))) / 2
        )
    assert logme(features, labels) == pytest.approx(np.mean(values) / images, abs=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_knn_is_that_of_scikit_learn(shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape)
    classifier = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    assert knn(features, labels) == pytest.approx(
        cross_val_score(classifier, features, labels, cv=LeaveOneOut()).mean()
    )


def test_knn_counts_equally_near_neighbours_by_their_share() -> None:
    features = np.array([[1, 0], [2, 0], [3, 0], [0, 1], [0, 2], [0, 4]])
    assert knn(features, [0, 0, 1, 1, 1, 1]) == pytest.approx((0.5 + 0.5 + 0 + 1 + 1 + 1) / 6)


def test_knn_of_features_that_are_all_zero() -> None:
    features = np.array([[0, 0], [1, 0], [2, 0], [0, 1]])
    # The first is as far from all others; the last is as near to the others as they are to the first: at a right angle.
    assert knn(features, [0, 1, 1, 0]) == pytest.approx((1 / 3 + 1 + 1 + 1 / 3) / 4)


@pytest.mark.parametrize("shape", [(60, 8, 4), (30, 40, 3), (23, 5, 2)])
def test_logistic_is_the_minimum_of_its_loss(shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape, signal=0.5)
    classes, codes = np.unique(labels, return_inverse=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    right = 0
    for learned, tested in folds.split(features, codes):
        mean, deviation = features[learned].mean(0), features[learned].std(0)
        values = (features - mean) / deviation
        weights = fit_logistic(values[learned], codes[learned], len(classes))
        right += int(np.sum((values[tested] @ weights[1:] + weights[0]).argmax(1) == codes[tested]))
    assert logistic(features, labels) == pytest.approx(right / len(labels))


def fit_logistic(values: Array, codes: Labels, classes: int) -> Array:
    """Weights, the first row being the biases, that minimise cross entropy and half their squares.

    Of two classes only one has weights: two that mirror each other would be decayed by half.
    """
    free = classes if classes > 2 else 1

    def full(weights: Array) -> Array:
        table = weights.reshape(-1, free)
        return table if classes > 2 else np.hstack([np.zeros_like(table), table])

    def loss(weights: Array) -> float:
        table = full(weights)
        logits = values @ table[1:] + table[0]
        return float(np.sum(logsumexp(logits, 1) - logits[np.arange(len(codes)), codes]) + np.sum(table[1:] ** 2) / 2)

    return full(minimize(loss, np.zeros((values.shape[1] + 1) * free), method="L-BFGS-B").x)


# -- chance -------------------------------------------------------------------------------------


def similarity(measure: Measure, data: Evidence) -> float:
    return measure.similarity(measure(data), measure.chance(data))


def standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("name", ["parc", "cka", "h_score", "leep", "nce"])
@pytest.mark.parametrize("shape", [(60, 8, 4, 5), (80, 50, 5, 200), (12, 100, 3, 5)])
@pytest.mark.parametrize("alike", [True, False])
def test_chance_is_the_mean_over_shuffled_labels(name: str, shape: tuple[int, int, int, int], alike: bool) -> None:
    """Images, features, classes, and classes of the source; classes alike in number or not.

    To within four standard errors of the mean of 200, which one in 15,000 exceeds; leep has an approximation.
    """
    images, width, classes, source_classes = shape
    features, labels = sample(images, width, classes)
    labels = labels if alike else np.where(np.arange(images) % 3, labels, labels[0])
    probabilities, rng = predictions(labels, source_classes, signal=2.0), np.random.default_rng(1)
    measure = get_measure(name)
    shuffled = [measure(Evidence(features, rng.permutation(labels), probabilities)) for _ in range(200)]
    tolerance = 4 * standard_error(shuffled) + (0.01 if name == "leep" else 0)
    chance = measure.chance(Evidence(features, labels, probabilities))
    assert chance == pytest.approx(np.mean(shuffled), rel=0, abs=tolerance)


@pytest.mark.parametrize("name", ["parc", "cka", "h_score", "nce"])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 1, 3]])
def test_chance_is_the_mean_over_all_orders_of_few_labels(name: str, labels: list[int]) -> None:
    features, probabilities = sample(6, 5, 2)[0], predictions(np.array(labels), 3)
    measure = get_measure(name)
    orders = set(permutations(labels))
    values = [measure(Evidence(features, np.array(order), probabilities)) for order in orders]
    chance = measure.chance(Evidence(features, np.array(labels), probabilities))
    assert chance == pytest.approx(np.mean(values), abs=1e-9)  # rounding


@pytest.fixture(scope="module")
def digits() -> Evidence:
    """As a network would see them: rectified random features, and a classifier of more classes than the target's."""
    pixels, labels = load_digits(return_X_y=True)
    places = balanced_draws(labels, 200, 1)[0]
    pixels, rng = pixels[places] / 16, np.random.default_rng(0)
    features = np.maximum(pixels @ rng.normal(size=(64, 100)), 0)
    logits = (features - features.mean(0)) @ rng.normal(size=(100, 300))
    return Evidence(features, labels[places], softmax(logits / 2, axis=1), pixels)


@pytest.mark.parametrize("name", list_measures())
def test_only_a_source_that_tells_something_is_similar(name: str, digits: Evidence) -> None:
    """Features that belong to other images have a similarity of 0 on average, or below, to four standard errors."""
    measure, rng = get_measure(name), np.random.default_rng(0)
    similarities = []
    for _ in range(5 if name == "logistic" else 40):
        order = rng.permutation(len(digits.labels))
        assert digits.probabilities is not None
        data = Evidence(digits.features[order], digits.labels, digits.probabilities[order], digits.reference)
        similarities.append(similarity(measure, data))
    assert np.mean(similarities) < 4 * standard_error(similarities)
    assert similarity(measure, digits) > 10 * np.std(similarities)


def test_a_source_of_many_classes_seems_to_tell_more_than_it_does(digits: Evidence) -> None:
    """Nearly every image has a class of the source to itself, so that labels are told apart by heart."""
    assert digits.probabilities is not None
    shuffled = np.random.default_rng(0).permutation(digits.probabilities)
    for measure in (leep, nce):
        assert measure(shuffled, digits.labels) > -math.log(10) + 0.5


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2, 5, 5], [0, 0, 0, 0, 0, 1, 1, 7]])
@pytest.mark.parametrize("name", ON_PROBABILITIES)
def test_probabilities_that_tell_nothing_give_minus_the_entropy(name: str, labels: list[int]) -> None:
    probabilities = np.broadcast_to([0.2, 0.5, 0.3], (8, 3))
    expected = -entropy(np.unique(labels, return_counts=True)[1])
    assert ON_PROBABILITIES[name](probabilities, labels) == pytest.approx(expected, rel=1e-12)
    measure, data = get_measure(name), Evidence(np.eye(8), np.array(labels), probabilities)
    assert measure.chance(data) == pytest.approx(expected, rel=1e-12)
    assert similarity(measure, data) == pytest.approx(0, abs=1e-12)
    assert measure.similarity(0.0, expected) == pytest.approx(1 - math.exp(expected))


@pytest.mark.parametrize("name", ["knn", "logistic"])
def test_the_chance_of_accuracies_is_the_largest_class(name: str) -> None:
    labels = np.repeat([4, 9, 2], [50, 20, 10])
    measure = get_measure(name)
    noise = [Evidence(np.random.default_rng(seed).normal(size=(80, 2)), labels) for seed in range(10)]
    assert {measure.chance(data) for data in noise} == {50 / 80}
    assert np.mean([measure(data) for data in noise]) <= 50 / 80 + 0.02


def test_the_chance_of_logme_is_what_a_feature_without_variance_explains() -> None:
    _, labels = sample(60, 2, 3)
    nearly_constant = Evidence(1 + 1e-5 * np.random.default_rng(0).normal(size=(60, 1)), labels)
    chance = get_measure("logme").chance(nearly_constant)
    assert get_measure("logme")(nearly_constant) == pytest.approx(chance, abs=1e-4)
    without = np.mean([(np.log(60 / total) - np.log(2 * np.pi) - 1) / 2 for total in one_hot(labels).sum(0)])
    assert chance > without  # the evidence with no feature at all


# -- properties ---------------------------------------------------------------------------------


@few
@given(seeds, st.sampled_from(sorted(set(ON_FEATURES) - {"logistic"})), st.sampled_from(SHAPES[:4]))
def test_the_order_of_images_does_not_matter(seed: int, name: str, shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape, seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    measure = ON_FEATURES[name]
    assert measure(features[order], labels[order]) == pytest.approx(measure(features, labels), rel=1e-6, abs=1e-6)


@few
@given(seeds, st.sampled_from(sorted(ON_PROBABILITIES)))
def test_the_order_of_images_and_source_classes_does_not_matter(seed: int, name: str) -> None:
    _, labels = sample(seed=seed)
    probabilities, rng = predictions(labels, seed=seed), np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    measure, shuffled = ON_PROBABILITIES[name], probabilities[order][:, rng.permutation(5)]
    assert measure(shuffled, labels[order]) == pytest.approx(measure(probabilities, labels), rel=1e-9)
    assert measure(probabilities, labels) <= 0


@few
@given(seeds, st.sampled_from(sorted(ON_FEATURES)), st.sampled_from(SHAPES[:4]))
def test_what_classes_are_called_does_not_matter(seed: int, name: str, shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape, seed=seed)
    names = np.random.default_rng(seed).permutation(labels.max() + 3)
    measure = ON_FEATURES[name]
    renamed = names[labels + 2] if name != "logistic" else 7 * labels + 40  # its folds go by the order of classes
    assert measure(features, renamed) == pytest.approx(measure(features, labels), rel=1e-6, abs=1e-6)


@few
@given(seeds, st.sampled_from(["parc", "cka", "h_score", "logme", "knn"]), st.sampled_from([(90, 50, 5), (40, 100, 3)]))
def test_a_rotation_of_features_does_not_matter(seed: int, name: str, shape: tuple[int, int, int]) -> None:
    """Of parc where it takes principal components: a correlation of rows is of a basis."""
    features, labels = sample(*shape, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[1], shape[1])))[0]
    measure = ON_FEATURES[name]
    # parc: components of nearly equal variance are known less well than others
    assert measure(features @ rotation, labels) == pytest.approx(measure(features, labels), rel=1e-5, abs=1e-5)


@few
@given(seeds, st.sampled_from(sorted(ON_FEATURES)), st.sampled_from(SHAPES[:4]), st.integers(-200, 200))
def test_the_scale_of_features_does_not_matter(
    seed: int, name: str, shape: tuple[int, int, int], exponent: int
) -> None:
    """Powers of two, which rounds nothing; all of the range of double precision but its ends."""
    features, labels = sample(*shape, seed=seed)
    measure = ON_FEATURES[name]
    expected = measure(features, labels)
    if name == "logistic":
        exponent //= 10  # scikit-learn squares what it is given
    assert measure(features * 2.0 ** (4 * exponent), labels) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("exponent", [-900, 900])
@pytest.mark.parametrize("name", sorted(set(ON_FEATURES) - {"logistic"}))
def test_features_whose_squares_are_out_of_range(name: str, exponent: int) -> None:
    features, labels = sample()
    measure = ON_FEATURES[name]
    assert measure(features * 2.0**exponent, labels) == pytest.approx(measure(features, labels), rel=1e-6)


@few
@given(seeds, st.sampled_from(["parc", "cka", "h_score"]), st.sampled_from(SHAPES[:4]))
def test_a_shift_of_features_does_not_matter(seed: int, name: str, shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape, seed=seed)
    shifted = features + np.random.default_rng(seed).normal(size=shape[1]) * 5
    measure = ON_FEATURES[name]
    assert measure(shifted, labels) == pytest.approx(measure(features, labels), rel=1e-5, abs=1e-5)


def test_features_that_are_the_classes_are_nearest() -> None:
    _, labels = sample(80, 2, 4)
    features = one_hot(labels) + 1e-3 * np.random.default_rng(0).normal(size=(80, 4))
    perfect = Evidence(features, labels, one_hot(labels), features)
    assert cka(features, labels) == pytest.approx(1, abs=1e-3)
    assert (knn(features, labels), logistic(features, labels)) == (1, 1)
    assert leep(one_hot(labels), labels) == pytest.approx(0, abs=1e-12)
    assert nce(one_hot(labels), labels) == pytest.approx(0, abs=1e-12)
    worse, _ = sample(80, 4, 4, signal=0.5)
    for name in list_measures():
        measure = get_measure(name)
        assert measure(perfect) > measure(Evidence(worse, labels, predictions(labels), features)), name


# -- degenerate input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.ones(60)}, r"features are \(60,\); they must be \(60, columns\)"),
        ({"features": np.ones((60, 0))}, r"\(60, 0\)"),
        ({"features": np.ones((59, 8))}, r"\(59, 8\); they must be \(60"),
        ({"features": [["a"] * 8] * 60}, "no array of numbers"),
        ({"features": None}, "no array of numbers|must be"),
        ({"labels": np.zeros(60, int)}, "60 labelled images are of 1 class; at least two"),
        ({"labels": np.zeros(0, int)}, "0 labelled images"),
        ({"labels": np.arange(60) % 2 + 0.5}, "of float64; they must be"),
        ({"labels": np.arange(60)[:, None]}, r"\(60, 1\)"),
        ({"probabilities": np.full((10, 2), 0.5)}, r"probabilities are \(10, 2\)"),
        ({"reference": np.ones((10, 2))}, r"reference are \(10, 2\)"),
    ],
)
def test_evidence_refuses_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TransferabilityError, match=message):
        evidence(**changes)


@pytest.mark.parametrize(
    ("changed", "values", "message"),
    [
        ("features", np.ones((60, 8)), "features are the same for all 60"),
        ("features", np.full((60, 8), 0.1, np.float32) + np.arange(8, dtype=np.float32), "the same for all"),
        ("features", np.zeros((60, 8)), "the same for all"),
        ("features", 3 + 1e-8 * sample()[0], "the same for all"),
        ("features", np.where(np.eye(60, 8) > 0, NAN, 1.0), "features of 8 of 60 images have NaN or infinity"),
        ("features", np.where(np.eye(60, 8) > 0, -INF, 1.0), "features of 8 of 60 images"),
        ("probabilities", np.full((60, 3), 0.5), "sum to between 1.5 and 1.5.*softmax"),
        ("probabilities", np.broadcast_to([-0.5, 1.5], (60, 2)), "at least -0.5"),
        ("probabilities", np.full((60, 2), NAN), "probabilities of 60 of 60"),
        ("probabilities", None, "no class probabilities; this source has no classifier"),
        ("reference", np.full((60, 2), INF), "reference of 60"),
        ("reference", np.full((60, 2), 3.0), "reference are the same"),
        ("reference", None, "no features of a reference model"),
    ],
)
def test_a_measure_is_refused_for_what_it_needs_alone(changed: str, values: Array | None, message: str) -> None:
    good, bad = evidence(), evidence(**{changed: values})
    for measure in MEASURES.values():
        if changed == measure.needs or (changed, measure.needs) == ("features", "reference"):
            with pytest.raises(TransferabilityError, match=message):
                measure(bad)
            with pytest.raises(TransferabilityError, match=message):
                bad.check(measure.needs)
        else:
            assert measure(bad) == measure(good)


def test_evidence_takes_what_models_give() -> None:
    data = evidence(features=sample()[0].astype(np.float16), labels=sample()[1].astype(np.uint8).tolist())
    assert (data.features.dtype, data.labels.dtype) == (np.float64, np.int64)
    half = predictions(sample()[1]).astype(np.float16)
    assert np.isfinite(get_measure("leep")(evidence(probabilities=half)))  # sums to 1 but for rounding


@pytest.mark.parametrize("measure", ON_FEATURES.values(), ids=ON_FEATURES)
@pytest.mark.parametrize("bad", [np.ones((60, 8)), np.full((60, 8), NAN), np.ones((6, 8)), np.full((60, 8), INF)])
def test_measures_refuse_what_evidence_refuses(measure: Callable[..., float], bad: Array) -> None:
    _, labels = sample()
    with pytest.raises(TransferabilityError):
        measure(bad, labels)
    with pytest.raises(TransferabilityError, match="at least two"):
        measure(sample()[0], np.ones(60, int))


@pytest.mark.parametrize("measure", ON_PROBABILITIES.values(), ids=ON_PROBABILITIES)
@pytest.mark.parametrize("bad", [np.ones((60, 8)), np.full((60, 8), NAN), np.full((6, 2), 0.5), -np.eye(60)])
def test_measures_refuse_bad_probabilities(measure: Callable[..., float], bad: Array) -> None:
    with pytest.raises(TransferabilityError):
        measure(bad, sample()[1])


@pytest.mark.parametrize("measure", [rsa, cka])
@pytest.mark.parametrize("bad", [np.ones((60, 8)), np.full((60, 8), NAN), np.ones((6, 8))])
def test_features_of_another_model_are_checked(measure: Callable[..., float], bad: Array) -> None:
    with pytest.raises(TransferabilityError, match="reference"):
        measure(sample()[0], bad)
    with pytest.raises(TransferabilityError):
        measure(bad, sample()[0])


@pytest.mark.parametrize("shape", [(60, 8, 4), (90, 50, 5), (40, 100, 3)])
@pytest.mark.parametrize("name", ["parc", "cka", "h_score", "knn", "logistic"])
def test_constant_features_add_nothing(name: str, shape: tuple[int, int, int]) -> None:
    """For the nearest neighbour a constant is part of the angle, so it is zero here."""
    features, labels = sample(*shape)
    rounding = 1 + 1e-8 * np.random.default_rng(0).normal(size=(len(labels), 2))
    constants = rounding * ([0, 0] if name == "knn" else [0.1, -3])
    more = np.hstack([features, constants])
    expected = ON_FEATURES[name](features, labels)
    if name == "h_score":  # the average variance that it shrinks to is lower
        assert ON_FEATURES[name](more, labels) == pytest.approx(expected, rel=0.2)
    else:
        assert ON_FEATURES[name](more, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(60, 8, 4), (90, 50, 5), (40, 100, 3)])
@pytest.mark.parametrize("name", ON_FEATURES)
def test_features_given_twice(name: str, shape: tuple[int, int, int]) -> None:
    features, labels = sample(*shape)
    value = ON_FEATURES[name](np.hstack([features, features]), labels)
    assert np.isfinite(value)
    if name in ("cka", "logme", "knn"):
        assert value == pytest.approx(ON_FEATURES[name](features, labels), rel=1e-6)


def test_directions_without_variance_are_no_components() -> None:
    """40 features of rank 5 have 5 components; 27 of rounding errors would be as long once standardised."""
    features, labels = sample(80, 5, 4)
    wide = features @ np.random.default_rng(0).normal(size=(5, 40))
    scores = PCA(5, svd_solver="full").fit_transform(wide)
    scores *= [np.sign(column[np.argmax(abs(column))]) for column in scores.T]
    expected = spearmanr(
        dissimilarities(StandardScaler().fit_transform(scores)), dissimilarities(one_hot(labels))
    ).statistic
    assert parc(wide, labels) == pytest.approx(100 * expected, abs=1e-6)


def test_an_image_of_average_features_is_at_distance_1_of_all() -> None:
    features = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1], [2, -2], [-2, 2]])  # two lie along all ones
    labels = [0, 0, 1, 1, 1, 0]
    distance = 1 - np.array([[0, 0, 1, -1, 1, -1]]).T * np.array([[0, 0, 1, -1, 1, -1]])
    pairs = list(combinations(range(6), 2))
    expected = spearmanr([distance[p] for p in pairs], [labels[i] != labels[j] for i, j in pairs]).statistic
    assert parc(features, labels) == pytest.approx(100 * expected, abs=1e-9)


def test_distances_that_cannot_be_ranked() -> None:
    features, _ = sample(6, 4, 2)
    with pytest.raises(TransferabilityError, match="No two of the 6 images are of one class"):
        parc(features, np.arange(6))
    with pytest.raises(TransferabilityError, match="at least two"):
        parc(features[:, :1], [0, 0, 0, 1, 1, 1])
    with pytest.raises(TransferabilityError, match="alike"):
        parc(np.eye(3), [0, 0, 1])
    with pytest.raises(TransferabilityError, match="same distance"):
        rsa(np.eye(3), features[:3])


def test_a_class_with_one_image() -> None:
    features, labels = sample(40, 6, 3)
    labels[0] = 99
    for name, measure in ON_FEATURES.items():
        assert np.isfinite(measure(features, labels)), name
    for name, measure in ON_PROBABILITIES.items():
        assert np.isfinite(measure(predictions(labels), labels)), name
    separate = one_hot(labels) + 1e-3 * np.random.default_rng(0).normal(size=(40, 4))
    assert logistic(separate, labels) == pytest.approx(39 / 40)
    assert knn(separate, labels) == pytest.approx(39 / 40)
    with pytest.raises(TransferabilityError, match="Fewer than two classes have two images"):
        logistic(features[:4], [0, 0, 0, 1])


def test_classes_with_fewer_images_than_folds() -> None:
    features, labels = one_hot(np.arange(9) % 3), np.arange(9) % 3
    assert logistic(features, labels) == 1
    assert logistic(features, labels, folds=2) == 1


def test_features_that_fit_the_labels_exactly_have_a_finite_evidence() -> None:
    _, labels = sample(60, 2, 3)
    assert 1 < logme(one_hot(labels), labels) < 20


# -- by name ------------------------------------------------------------------------------------


def test_measures_by_name() -> None:
    assert list_measures() == ["parc", "cka", "rsa", "leep", "nce", "h_score", "logme", "knn", "logistic"]
    assert list_measures("l*") == ["leep", "logme", "logistic"]
    assert get_measure("parc") is MEASURES["parc"]
    assert get_measure(MEASURES["cka"]) is MEASURES["cka"]
    assert {MEASURES[name].needs for name in ("leep", "nce")} == {"probabilities"}
    assert [name for name in MEASURES if MEASURES[name].needs == "reference"] == ["rsa"]
    assert all(measure.summary.endswith(".") for measure in MEASURES.values())
    with pytest.raises(UnknownNameError, match="Did you mean 'parc'"):
        get_measure("park")


def test_measures_by_name_are_the_functions() -> None:
    data = evidence()
    for name, function in ON_FEATURES.items():
        assert get_measure(name)(data) == function(data.features, data.labels)
    for name, function in ON_PROBABILITIES.items():
        assert get_measure(name)(data) == function(data.probabilities, data.labels)
    assert get_measure("rsa")(data) == rsa(data.features, data.reference)  # type: ignore[arg-type]
    for name in ("parc", "rsa"):
        assert get_measure(name).chance(data) == 0


def test_a_measure_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES))

    def spread(evidence: Evidence) -> float:
        """Standard deviation of features.

        More is nearer.
        """
        return float(evidence.features.std())

    measure = register_measure("spread", spread, chance=lambda evidence: 0.5)
    assert get_measure("spread") is measure
    assert (measure.summary, measure.needs) == ("Standard deviation of features.", "features")
    assert measure(evidence()) == pytest.approx(sample()[0].std())
    assert measure.similarity(0.75, measure.chance(evidence())) == 0.25
    with pytest.raises(TransferabilityError, match="the same for all"):
        measure(evidence(features=np.ones((60, 8))))
    with pytest.raises(ValueError, match="registered already"):
        register_measure("spread", spread)
    with pytest.raises(TransferabilityError, match="Did you mean 'probabilities'"):
        Measure("other", spread, "probability", "", lambda evidence: 0.0)
    with pytest.raises(TransferabilityError, match="Unknown scale 'exp'"):
        Measure("other", spread, "features", "", lambda evidence: 0.0, "exp")
    with pytest.raises(TransferabilityError, match="'other' gave nan"):
        Measure("other", lambda e: NAN, "features", "", lambda evidence: 0.0)(evidence())


# -- the images that are compared on ------------------------------------------------------------


counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=8)


def taken(labels: Labels, draw: Labels) -> list[int]:
    return [int(np.sum(labels[draw] == label)) for label in np.unique(labels)]


@few
@given(counts_of_classes, st.integers(4, 100), seeds)
def test_draws_have_as_many_of_each_class_as_there_are(counts: list[int], images: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 5, counts))
    enough = len(labels) >= 1.25 * images
    size = images if enough else min(len(labels), max(4, round(0.8 * len(labels))))
    for draw in balanced_draws(labels, images, 3, seed):
        assert (np.diff(draw) > 0).all()
        assert size - 1 <= len(draw) <= size
        found = taken(labels, draw)
        assert sum(number > 0 for number in found) >= 2
        short = [number for number, count in zip(found, counts, strict=True) if number < count and number]
        if size >= sum(min(count, 2) for count in counts):
            # A class that has more to give has as many as any other, but for one that is left over.
            assert not short or min(short) >= max(found) - 1
            assert all(number >= min(2, count) for number, count in zip(found, counts, strict=True))
        else:
            assert max(found) <= 2
            assert all(number in (0, min(2, count)) for number, count in zip(found, counts, strict=True))


def test_draws_are_equal_where_they_can_be() -> None:
    labels = np.repeat(np.arange(10), 100)
    draws = balanced_draws(labels, 500)
    assert [taken(labels, draw) for draw in draws] == [[50] * 10] * 5
    assert len({draw.tobytes() for draw in draws}) == 5


def test_few_images_are_drawn_by_four_fifths() -> None:
    labels = np.repeat(np.arange(10), 10)
    draws = balanced_draws(labels, 500)
    assert [taken(labels, draw) for draw in draws] == [[8] * 10] * 5
    assert len({draw.tobytes() for draw in draws}) == 5
    assert len(balanced_draws(labels, 80)[0]) == len(balanced_draws(labels, 81)[0]) == 80


def test_four_images_are_the_fewest_of_a_draw() -> None:
    assert balanced_draws([7, 7, 5, 5], draws=1)[0].tolist() == [0, 1, 2, 3]
    assert balanced_draws([7, 5, 5], draws=1)[0].tolist() == [0, 1, 2]


def test_a_draw_that_is_too_small_has_two_of_some_classes() -> None:
    labels = np.repeat(np.arange(100), 20)
    draws = balanced_draws(labels, 50)
    assert [sorted(set(taken(labels, draw))) for draw in draws] == [[0, 2]] * 5
    assert len({tuple(taken(labels, draw)) for draw in draws}) == 5
    assert all(parc(np.random.default_rng(0).normal(size=(50, 9)), labels[draw]) for draw in draws)


def test_a_draw_depends_on_nothing_but_its_number_and_the_seed() -> None:
    labels = sample(200, 2, 7)[1]
    many = balanced_draws(labels, 50, 6, seed=3)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    for one, other in zip(balanced_draws(labels, 50, 2, seed=3), many, strict=False):
        assert one.tolist() == other.tolist()
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]
    assert balanced_draws(labels, 50, 1, seed=4)[0].tolist() != many[0].tolist()
    assert balanced_draws(labels.tolist(), 50, 1, seed=-3)[0].dtype == np.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 3}, "images is 3"),
        ({"draws": 0}, "draws is 0"),
        ({"labels": [1, 1]}, "1 class"),
        ({"labels": [0.5, 1]}, "integers"),
    ],
)
def test_draws_that_cannot_be_had(options: dict[str, object], message: str) -> None:
    with pytest.raises(TransferabilityError, match=message):
        balanced_draws(**{"labels": [0, 0, 1, 1], **options})  # type: ignore[arg-type]


# -- weights ------------------------------------------------------------------------------------


similarities = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.one_of(st.floats(1e-3, 100), st.floats(-5, 0), st.just(NAN)),
    min_size=1,
    max_size=6,
)
powers = st.one_of(st.floats(0, 60), st.just(INF))


def near(values: dict[str, float]) -> set[str]:
    return {name for name, value in values.items() if value > 0}


@few
@given(similarities, powers)
def test_weights_sum_to_1_and_go_by_similarity(values: dict[str, float], power: float) -> None:
    weights = source_weights(values, power=power)
    if not near(values):
        assert weights == {}
        return
    assert list(weights) == list(values)
    assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-12)
    assert all(weights[name] == 0 for name in set(values) - near(values))
    in_order = sorted(near(values), key=values.__getitem__)
    assert [weights[name] for name in in_order] == sorted(weights[name] for name in in_order)


@few
@given(similarities, st.floats(0, 8))
def test_weights_from_their_definition(values: dict[str, float], power: float) -> None:
    if near(values):
        raised = {name: values[name] ** power if name in near(values) else 0.0 for name in values}
        expected = {name: value / sum(raised.values()) for name, value in raised.items()}
        assert source_weights(values, "weighted", power) == pytest.approx(expected, rel=1e-9)


@few
@given(similarities, st.floats(0, 60), st.floats(1e-3, 1e3), st.integers(-60, 60))
def test_weights_do_not_change_when_similarities_are_scaled(
    values: dict[str, float], power: float, factor: float, exponent: int
) -> None:
    scaled = {name: value * factor * 10.0**exponent for name, value in values.items()}
    assert source_weights(scaled, power=power) == pytest.approx(source_weights(values, power=power), abs=1e-9)


@few
@given(similarities)
def test_power_0_is_uniform_over_similar_sources_and_a_large_one_is_the_nearest(values: dict[str, float]) -> None:
    if not near(values):
        assert source_weights(values, "nearest") == {}
        return
    equal = {name: (name in near(values)) / len(near(values)) for name in values}
    assert source_weights(values, power=0) == pytest.approx(equal)
    best = max(near(values), key=values.__getitem__)
    nearest = source_weights(values, "nearest")
    assert sum(nearest.values()) == 1
    if sum(values[name] > 0.9 * values[best] for name in near(values)) == 1:
        assert nearest[best] == 1
        assert source_weights(values, power=INF) == nearest
        assert source_weights(values, power=1000) == pytest.approx(nearest, abs=1e-12)


@few
@given(similarities, powers)
def test_a_source_without_weight_changes_nothing(values: dict[str, float], power: float) -> None:
    without = {name: values[name] for name in values if name in near(values)}
    for weighting in ("weighted", "nearest"):
        weights = source_weights(values, weighting, power)
        assert {name: weights[name] for name in without} == source_weights(without, weighting, power)


def test_weights_at_the_ends_of_the_range() -> None:
    assert source_weights({"a": 1e300, "b": 5e299, "c": 1.0}, power=50) == pytest.approx(
        {"a": 1, "b": 2.0**-50, "c": 0}, rel=1e-12, abs=0
    )
    assert source_weights({"a": 5e-324, "b": 1e-323}, power=2) == pytest.approx({"a": 0.2, "b": 0.8})
    assert source_weights({"a": 1e-300, "b": 1e300}, power=0) == {"a": 0.5, "b": 0.5}
    assert source_weights({"a": 2.0, "b": 2.0, "c": 1.0}, power=INF) == {"a": 0.5, "b": 0.5, "c": 0}
    assert source_weights({"a": 2.0, "b": 2.0, "c": 1.0}, "nearest") == {"a": 1, "b": 0, "c": 0}
    assert source_weights({"b": -INF, "a": 2.0}) == {"b": 0, "a": 1}
    assert source_weights({"only": 1e-9}) == {"only": 1}
    assert source_weights({}) == source_weights({}, "uniform") == {}


def test_uniform_weights() -> None:
    values = {"a": 2.0, "b": -1.0, "c": NAN, "d": 0.0}
    assert source_weights(values, "uniform") == dict.fromkeys(values, 0.25)


def test_weights_by_hand() -> None:
    values = {"mnist": NAN, "usps": -1.0, "cifar10": 3.0}
    assert source_weights(values, {"usps": 3, "mnist": 1}) == {"mnist": 0.25, "usps": 0.75, "cifar10": 0}
    assert source_weights(values, {"usps": 1e308, "mnist": 1e308}) == {"mnist": 0.5, "usps": 0.5, "cifar10": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": -1.0}, "power is -1.0"),
        ({"power": NAN}, "power is nan"),
        ({"weighting": "uniform", "power": -1.0}, "power is -1.0"),
        ({"weighting": "weigted"}, "Unknown weighting 'weigted'. Did you mean 'weighted'"),
        ({"weighting": {"mnits": 1}}, "Unknown source 'mnits'. Did you mean 'mnist'"),
        ({"weighting": {"mnist": -1, "usps": 2}}, "weight of 'mnist' is -1"),
        ({"weighting": {"mnist": NAN}}, "weight of 'mnist' is nan"),
        ({"weighting": {"mnist": INF}}, "weight of 'mnist' is inf"),
        ({"weighting": {"mnist": 0}}, "All weights"),
        ({"weighting": {}}, "All weights"),
        ({"similarities": {"mnist": 1.0, "usps": INF}}, "similarity of 'usps' is infinite"),
    ],
)
def test_weights_that_cannot_be_had(options: dict[str, object], message: str) -> None:
    with pytest.raises(TransferabilityError, match=message):
        source_weights(**{"similarities": {"mnist": 1.0, "usps": 2.0}, **options})  # type: ignore[arg-type]
