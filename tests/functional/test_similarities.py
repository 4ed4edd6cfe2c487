"""Closed forms against autograd, loops, NumPy, SciPy and scikit-learn.

Tolerances: 1e-10 where both sides are computed in double precision and differ by the order of sums only; 1e-5 of the
largest value in single precision, whose rounding is 6e-8 and adds up over the tens to hundreds of terms used here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigvalsh
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor
from torch.nn.functional import cross_entropy

from diswot_search.functional import similarities

few = settings(max_examples=25)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def class_indices(count: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-10 in double precision, to 1e-5 of the largest value in single precision."""
    tolerance = 1e-10 if actual.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


# -- gradients and maps of classes --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@few
@given(batch=sizes, classes=st.integers(2, 7), width=sizes, seed=seeds)
def test_label_gradient_is_that_of_autograd(
    dtype: torch.dtype, batch: int, classes: int, width: int, seed: int
) -> None:
    pooled, labels = normal(batch, width, seed=seed, dtype=dtype), class_indices(batch, classes, seed)
    weight = normal(classes, width, seed=seed + 1, dtype=dtype).requires_grad_()
    logits = pooled @ weight.T + normal(classes, seed=seed + 2, dtype=dtype)
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels), weight)
    assert_close(similarities.label_gradient(logits.detach(), labels, pooled), expected)


def maps_one_by_one(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps (N, B, P), each a loop over channels."""
    maps = torch.zeros(len(weight), len(features), features.shape[2], dtype=features.dtype)
    for n, row in enumerate(weight):
        for c, factor in enumerate(row):
            maps[n] += factor * features[:, c]
    return maps


@few
@given(batch=sizes, channels=sizes, positions=sizes, classes=sizes, seed=seeds)
def test_class_gram_is_that_of_the_maps(batch: int, channels: int, positions: int, classes: int, seed: int) -> None:
    features, weight = normal(batch, channels, positions, seed=seed), normal(classes, channels, seed=seed + 1)
    maps = maps_one_by_one(features, weight).flatten(1)
    expected = torch.stack([torch.stack([(a * b).sum() for b in maps]) for a in maps])
    assert_close(similarities.class_gram_of_maps(features, weight), expected)


def test_class_gram_is_that_of_grad_cam_up_to_the_number_of_positions() -> None:
    features, weight = normal(3, 4, 5).requires_grad_(), normal(6, 4, seed=1)
    logits = features.mean(2) @ weight.T
    maps = []
    for n in range(6):
        (gradient,) = torch.autograd.grad(logits[:, n].sum(), features, retain_graph=True)
        maps.append((gradient.mean(2, keepdim=True) * features.detach()).sum(1).flatten())  # Grad-CAM, unrectified
    grad_cam = torch.stack(maps)
    assert_close(similarities.class_gram_of_maps(features.detach(), weight), grad_cam @ grad_cam.T * 5**2)


# -- means, Gram matrices, cosines --------------------------------------------------------------


@few
@given(batch=st.integers(1, 12), classes=sizes, width=sizes, seed=seeds)
def test_class_prototypes_are_the_means_of_the_classes(batch: int, classes: int, width: int, seed: int) -> None:
    pooled, labels = normal(batch, width, seed=seed), class_indices(batch, classes, seed)
    rows, marks = pooled.numpy(), labels.numpy()
    expected = np.stack([rows[marks == label].mean(0) for label in sorted(set(marks.tolist()))])
    assert_close(similarities.class_prototypes(pooled, labels), torch.from_numpy(expected))


def test_gram_matrices_are_sums_of_products() -> None:
    features = normal(3, 4, 5)
    array = features.numpy()
    assert_close(similarities.second_moment(features), torch.from_numpy(np.einsum("bcp,bdp->cd", array, array)))
    assert_close(similarities.sample_gram(features), torch.from_numpy(np.einsum("acp,bcp->ab", array, array)))
    assert_close(similarities.channel_gram(features), torch.from_numpy(np.einsum("bcp,bdp->bcd", array, array)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@few
@given(rows=sizes, width=sizes, zero=st.booleans(), scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=seeds)
def test_cosines_are_scikit_learns(
    dtype: torch.dtype, rows: int, width: int, zero: bool, scale: float, seed: int
) -> None:
    vectors = scale * normal(rows, width, seed=seed, dtype=dtype)
    if zero:
        vectors[0] = 0  # by scikit-learn, too, the cosine to a zero vector is 0
    cosines = similarities.cosines(similarities.sample_gram(vectors))
    # In double precision, since scikit-learn takes norms below ten roundings of the given one for zero.
    expected = cosine_similarity(vectors.double().numpy())
    assert_close(cosines, torch.from_numpy(expected).to(dtype))
    assert float(cosines.abs().max()) <= 1 + 1e-5


# -- normalisation ------------------------------------------------------------------------------


@few
@given(groups=sizes, rows=sizes, width=sizes, seed=seeds)
def test_normalisation_is_division_by_the_norm(groups: int, rows: int, width: int, seed: int) -> None:
    matrices = normal(groups, rows, width, seed=seed)
    array = matrices.numpy()
    by_row = array / np.linalg.norm(array, axis=2, keepdims=True)
    by_matrix = array / np.linalg.norm(array, axis=(1, 2), keepdims=True)
    assert_close(similarities.row_normalise(matrices), torch.from_numpy(by_row))
    assert_close(similarities.frobenius_normalise(matrices), torch.from_numpy(by_matrix))


def test_what_is_zero_stays_zero() -> None:
    matrix = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert_close(similarities.row_normalise(matrix), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    zeros = torch.zeros(2, 3)
    for normalise in (similarities.row_normalise, similarities.frobenius_normalise):
        assert torch.equal(normalise(zeros), zeros)
    assert torch.equal(similarities.cosines(similarities.sample_gram(zeros)), torch.zeros(2, 2))


# -- distances ----------------------------------------------------------------------------------


@few
@given(rows=st.integers(2, 7), channels=st.integers(1, 6), seed=seeds)
def test_spectrum_is_numpys(rows: int, channels: int, seed: int) -> None:
    moment = similarities.second_moment(normal(rows, channels, 1, seed=seed))
    expected = np.linalg.eigvalsh(moment.numpy())[::-1].clip(0)
    values = similarities.spectrum(moment)
    assert_close(values, torch.from_numpy(expected / expected.sum()))
    assert torch.equal(values, values.sort(descending=True).values)
    assert float(values.sum()) == pytest.approx(1, abs=1e-12)


def test_spectrum_knows_rank_and_scale() -> None:
    moment = torch.diag(torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64))
    for scale in (1e-30, 1.0, 1e30):
        assert_close(similarities.spectrum(scale * moment), torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64))


@few
@given(samples=st.integers(1, 3), channels=st.integers(1, 12), positions=st.integers(1, 4), seed=seeds)
def test_the_smaller_gram_matrix_has_the_same_spectrum(samples: int, channels: int, positions: int, seed: int) -> None:
    features = normal(samples, channels, positions, seed=seed)
    values = similarities.channel_spectrum(features)
    assert len(values) == min(channels, samples * positions)
    whole = similarities.spectrum(similarities.second_moment(features))
    assert_close(values, whole[: len(values)])
    assert float(whole[len(values) :].sum()) == pytest.approx(0, abs=1e-10)


def test_zero_features_have_no_spectrum() -> None:
    with pytest.raises(ValueError, match="zero everywhere"):
        similarities.spectrum(torch.zeros(3, 3))


@few
@given(first=st.integers(1, 6), second=st.integers(1, 6), seed=seeds)
def test_hellinger_distance_is_that_of_the_definition(first: int, second: int, seed: int) -> None:
    p, q = (normal(n, seed=seed + n).abs() for n in (first, second))
    p, q = p / p.sum(), q / q.sum()
    padded = np.zeros((2, 6))
    padded[0, :first], padded[1, :second] = p.numpy(), q.numpy()
    expected = np.linalg.norm(np.sqrt(padded[0]) - np.sqrt(padded[1])) / np.sqrt(2)
    distance = float(similarities.hellinger_distance(p, q))
    # The distance is a square root: near zero, 1e-16 of rounding below it is 1e-8 above.
    assert distance == pytest.approx(expected, abs=2e-8)
    assert 0 <= distance <= 1
    assert distance == float(similarities.hellinger_distance(q, p))


def test_hellinger_distance_of_what_is_equal_and_of_what_shares_nothing() -> None:
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert float(similarities.hellinger_distance(p, p)) == pytest.approx(0, abs=2e-8)
    assert float(similarities.hellinger_distance(p, p.flip(0))) == pytest.approx(np.sqrt(0.5), abs=1e-12)
    assert float(similarities.hellinger_distance(p, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))) == 1


def test_hellinger_distance_compares_spectra_of_other_widths() -> None:
    moment = similarities.second_moment(normal(4, 3, 5))
    wider = torch.zeros(6, 6, dtype=torch.float64)
    wider[:3, :3] = moment
    assert float(
        similarities.hellinger_distance(similarities.spectrum(moment), similarities.spectrum(wider))
    ) == pytest.approx(0, abs=2e-8)


def test_spectrum_agrees_with_scipy_on_a_large_moment() -> None:
    moment = similarities.second_moment(normal(8, 64, 16))
    expected = eigvalsh(moment.numpy())[::-1]
    assert_close(similarities.spectrum(moment), torch.from_numpy(expected / expected.sum()))


@few
@given(rows=sizes, width=sizes, seed=seeds)
def test_root_mean_square_is_numpys(rows: int, width: int, seed: int) -> None:
    difference = normal(rows, width, seed=seed)
    assert float(similarities.root_mean_square(difference)) == pytest.approx(
        np.sqrt(np.mean(difference.numpy() ** 2)), abs=1e-12
    )


def outer_products(vectors: Tensor) -> Tensor:
    """The N x C x C outer products, each row over its norm, a zero row left as it is."""
    rows = []
    for vector in vectors:
        outer = torch.outer(vector, vector)
        rows.append(torch.stack([row / row.norm() if row.norm() > 0 else row for row in outer]))
    return torch.stack(rows)


@few
@given(classes=sizes, channels=st.integers(1, 6), zeros=st.lists(st.integers(0, 71), max_size=12), seed=seeds)
def test_outer_product_distance_is_that_of_the_outer_products(
    classes: int, channels: int, zeros: list[int], seed: int
) -> None:
    both = normal(2, classes, channels, seed=seed)
    both.view(-1)[[index % both.numel() for index in zeros]] = 0
    first, second = both
    expected = (outer_products(first) - outer_products(second)).square().mean()
    assert_close(similarities.outer_product_distance(first, second), expected)
    assert_close(similarities.outer_product_distance(second, first), expected)
    assert float(similarities.outer_product_distance(first, first)) == pytest.approx(0, abs=1e-12)


def test_outer_product_distance_of_a_zero_class() -> None:
    first, second = torch.zeros(2, 3), normal(2, 3, dtype=torch.float32)
    expected = (outer_products(first) - outer_products(second)).square().mean()
    assert float(expected) == pytest.approx(1 / 3)  # two times three rows of norm 1, over 2 x 3 x 3 entries
    assert_close(similarities.outer_product_distance(first, second), expected)


@pytest.mark.parametrize(
    ("batch", "outputs", "inputs", "positions"),
    [
        (3, 5, 7, 6),
        (3, 7, 5, 6),
        (2, 40, 30, 3),
        (2, 30, 40, 3),
        (8, 150, 140, 64),
        (8, 140, 150, 64),
        (4, 300, 200, 40),
    ],
    ids=[
        "many places",
        "fewer inputs",
        "few places",
        "few places, more inputs",
        "wide",
        "wide inputs",
        "wide, few places",
    ],
)
def test_mean_jacobian_gain_is_numpys_largest_singular_value(
    batch: int, outputs: int, inputs: int, positions: int
) -> None:
    sent = normal(batch, outputs, positions, dtype=torch.float32).sign()
    arrived = normal(batch, inputs, positions, seed=1, dtype=torch.float32)
    mean = np.einsum("bip,bop->io", arrived.double().numpy(), sent.double().numpy()) / (batch * positions)
    expected = np.linalg.svd(mean, compute_uv=False)[0]
    assert similarities.mean_jacobian_gain(sent, arrived) == pytest.approx(expected, rel=1e-5)
    # The order of memory does not matter, as in channels last.
    strided = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in (sent, arrived)]
    assert similarities.mean_jacobian_gain(*strided) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channels", [4, 200])
def test_the_gain_of_no_gradient_is_zero(channels: int) -> None:
    sent = torch.ones(4, channels, 100)
    assert similarities.mean_jacobian_gain(sent, torch.zeros_like(sent)) == 0
