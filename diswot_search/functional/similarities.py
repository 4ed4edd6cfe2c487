"""Similarities, Gram matrices and spectra as pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, svds
from torch import Tensor
from torch.nn import functional as F


def exact(values: Tensor) -> Tensor:
    """Floating-point values in double precision, on the CPU if the device has no such type (mps); others unchanged.

    Example:
        >>> exact(torch.ones(2)).dtype
        torch.float64
    """
    values = values.cpu() if values.device.type == "mps" else values
    return values.double() if values.is_floating_point() else values


def label_gradient(logits: Tensor, labels: Tensor, pooled: Tensor) -> Tensor:
    """Gradient of the mean cross entropy with respect to the weight of a linear classifier.

    The closed form is (softmax(logits) - onehot(labels))^T pooled / B, so no backward pass is needed.

    Args:
        logits: Predictions, (B, N).
        labels: Class indices below N, (B,).
        pooled: The classifier's input, (B, D).

    Returns:
        (N, D).

    Example:
        >>> label_gradient(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[4.0]])).tolist()
        [[-2.0], [2.0]]
    """
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    return error.T @ pooled / len(labels)


def class_prototypes(pooled: Tensor, labels: Tensor) -> Tensor:
    """Mean of the pooled features of each class that is present, in order of the labels.

    Args:
        pooled: Pooled features, (B, D).
        labels: Class indices, (B,).

    Returns:
        (classes present, D).

    Example:
        >>> class_prototypes(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 5])).tolist()
        [[2.0], [7.0]]
    """
    _, groups = labels.unique(return_inverse=True)
    membership = F.one_hot(groups).to(pooled.dtype)
    return (membership / membership.sum(0)).T @ pooled


def class_gram_of_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Gram matrix of the class activation maps of a network that ends in mean pooling and a linear layer.

    The map of class n is sum_c weight[n, c] features[:, c], and the Gram matrix sums over samples and positions. It
    equals weight S weight^T with the channels' second moment S, so the maps themselves are never computed.

    Args:
        features: The last feature map, (B, C, P).
        weight: The weight of the classifier, (N, C).

    Returns:
        (N, N).

    Source: Dong et al., CVPR 2023 (M_s); Zhou et al., CVPR 2016 (class activation maps).

    Example:
        >>> class_gram_of_maps(torch.ones(1, 1, 4), torch.tensor([[1.0], [2.0]])).tolist()
        [[4.0, 8.0], [8.0, 16.0]]
    """
    return weight @ second_moment(features) @ weight.T


def second_moment(features: Tensor) -> Tensor:
    """Inner products of channels over all samples and positions: (B, C, P) to (C, C).

    Example:
        >>> second_moment(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])).tolist()
        [[5.0, 3.0], [3.0, 9.0]]
    """
    channels = features.transpose(0, 1).flatten(1)
    return channels @ channels.T


def channel_spectrum(features: Tensor) -> Tensor:
    """Spectrum of the channels' second moment, (B, C, P) to (min(C, B P),), largest share first.

    The smaller of the two Gram matrices is decomposed. Both have the same eigenvalues apart from zeros.

    Raises:
        ValueError: The features are zero everywhere.

    Example:
        >>> channel_spectrum(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]))
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    channels = features.transpose(0, 1).flatten(1)
    smaller = channels if channels.shape[0] <= channels.shape[1] else channels.T
    return spectrum(smaller @ smaller.T)


def position_spectrum(features: Tensor) -> Tensor:
    """Spectrum of the positions' second moment, (B, C, P) to (min(P, B C),), largest share first.

    Raises:
        ValueError: The features are zero everywhere.

    Example:
        >>> position_spectrum(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]))
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    return channel_spectrum(features.transpose(1, 2))


def sample_gram(features: Tensor) -> Tensor:
    """Inner products of flattened samples: (B, ...) to (B, B).

    Example:
        >>> sample_gram(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist()
        [[5.0, 3.0], [3.0, 9.0]]
    """
    flat = features.flatten(1)
    return flat @ flat.T


def channel_gram(features: Tensor) -> Tensor:
    """Inner products of the channels of each sample: (B, C, P) to (B, C, C).

    Example:
        >>> channel_gram(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])).tolist()
        [[[5.0, 3.0], [3.0, 9.0]]]
    """
    return features @ features.transpose(1, 2)


def cosines(gram: Tensor) -> Tensor:
    """Cosine similarities from a Gram matrix, (R, R) to (R, R). The cosines of a zero vector are zero.

    Example:
        >>> cosines(torch.tensor([[4.0, 3.0], [3.0, 9.0]])).tolist()  # 3 / (2 * 3)
        [[1.0, 0.5], [0.5, 1.0]]
    """
    norms = gram.diagonal().clamp_min(0).sqrt()
    scale = torch.where(norms > 0, norms.reciprocal(), torch.zeros_like(norms))
    return gram * scale * scale[:, None]


def correlations(rows: Tensor) -> Tensor:
    """Pearson correlations of the rows, (R, K) to (R, R) in double precision.

    Raises:
        ValueError: A row is constant up to rounding, so its correlations are not defined.

    Example:
        >>> correlations(torch.tensor([[1.0, 2.0, 3.0], [6.0, 4.0, 2.0]]))[0].round(decimals=6).tolist()
        [1.0, -1.0]
    """
    values = exact(rows)
    centred = values - values.mean(1, keepdim=True)
    constant = centred.norm(dim=1) <= torch.finfo(rows.dtype).eps * values.norm(dim=1)
    if constant.any():
        raise ValueError(f"{int(constant.sum())} of {len(rows)} rows are constant, so they have no correlations")
    return cosines(centred @ centred.T)


def frobenius_normalise(matrix: Tensor) -> Tensor:
    """Divide each matrix (..., R, K) by its Frobenius norm. A zero matrix stays zero.

    Example:
        >>> frobenius_normalise(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([[0.6000, 0.0000],
                [0.0000, 0.8000]])
    """
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def row_normalise(matrix: Tensor) -> Tensor:
    """Divide each row of (..., R, K) by its L2 norm. A zero row stays zero, and its gradient is finite.

    Example:
        >>> row_normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    norms = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)
    return matrix / norms.masked_fill(norms == 0, 1)


def spectrum(moment: Tensor) -> Tensor:
    """Eigenvalues of positive semi-definite matrices as shares of their sum, largest first, (..., C, C) to (..., C).

    The shares are in double precision.

    Raises:
        ValueError: A matrix is zero.

    Example:
        >>> spectrum(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
        [0.75, 0.25]
    """
    values = torch.linalg.eigvalsh(exact(moment)).clamp_min(0).flip(-1)
    total = values.sum(-1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError("the features are zero everywhere, so they have no spectrum")
    return values / total


def channel_entropies(maps: Sequence[Tensor]) -> list[float]:
    """Entropy, in nats, of the spectrum of each map's channel covariance over samples and positions.

    It is 0 if all channels follow one pattern, and the log of their number if they share the variance evenly.

    Args:
        maps: Feature maps, each (B, C, P) with a C and P of its own.

    Returns:
        One entropy per map.

    Raises:
        ValueError: A map is constant.

    Example:
        >>> one_pattern = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
        >>> round(abs(channel_entropies([one_pattern])[0]), 6)
        0.0
    """
    moments = [_covariance(map_) for map_ in maps]
    entropies = [0.0] * len(moments)
    for size in {len(moment) for moment in moments}:  # matrices of one size are decomposed in one call
        indices = [index for index, moment in enumerate(moments) if len(moment) == size]
        shares = spectrum(torch.stack([moments[index] for index in indices]))
        for index, value in zip(indices, entropy(shares).tolist(), strict=True):
            entropies[index] = value
    return entropies


def _covariance(features: Tensor) -> Tensor:
    """The smaller of two matrices that share the non-zero eigenvalues of the channels' covariance."""
    rows = features.transpose(1, 2).flatten(0, 1)
    centred = rows - rows.mean(0)
    # A constant minus its mean is not exactly zero, because the mean is rounded.
    if not bool(centred.abs().amax() > 1e-5 * rows.abs().amax()):
        raise ValueError("a feature map is constant, so its channels have no spectrum")
    product = centred.T @ centred if rows.shape[0] >= rows.shape[1] else centred @ centred.T
    return product / len(rows)


def mean_jacobian_gain(sent: Tensor, arrived: Tensor) -> float:
    """Largest singular value of the mean over samples and positions of the outer products arrived x sent.

    It overestimates the largest singular value of the mean Jacobian: for D channels and K samples times positions,
    chance adds a factor of up to about (1 + sqrt(D / K))^2.

    Args:
        sent: Random signs at the output of a block, (B, C, P).
        arrived: The gradient that they cause at its input, (B, D, P).

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.

    Example:
        >>> round(mean_jacobian_gain(torch.ones(1, 1, 4), 2 * torch.ones(1, 1, 4)), 6)
        2.0
    """
    outputs, inputs = (each.transpose(0, 1).flatten(1) for each in (sent, arrived))
    places = outputs.shape[1]
    if places < min(len(outputs), len(inputs)):
        # The sum of few outer products, A S^T, has the singular values of A R^T, where S = Q R.
        triangle = torch.linalg.qr(exact(outputs).cpu(), mode="r").R
        matrix = exact(inputs).cpu() @ triangle.T / places
    else:
        matrix = exact(inputs @ outputs.T / places).cpu()
    return _largest_singular_value(matrix)


_MAX_DENSE = 128
"""Up to this size it is quicker to decompose a matrix than to iterate for its largest singular value."""


def _largest_singular_value(matrix: Tensor) -> float:
    """Largest singular value of a matrix in double precision on the CPU, exact up to rounding in either way."""
    if min(matrix.shape) > _MAX_DENSE and bool(matrix.any()) and bool(matrix.isfinite().all()):
        start = np.random.default_rng(0).standard_normal(min(matrix.shape))
        with suppress(ArpackNoConvergence):
            return float(svds(matrix.numpy(), k=1, v0=start, return_singular_vectors=False)[0])
    smaller = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return float(torch.linalg.eigvalsh(smaller)[-1].clamp_min(0).sqrt())


def unshuffled(maps: Tensor, positions: int) -> Tensor | None:
    """Rearrange square maps to a coarser square grid, stacking the positions of a coarse cell as channels.

    Args:
        maps: Feature maps, (B, C, P).
        positions: Number of positions of the coarser grid, Q.

    Returns:
        (B, C P/Q, Q), or None if the finer grid is not a whole multiple of the coarser one.

    Example:
        >>> unshuffled(torch.zeros(2, 3, 16), positions=4).shape
        torch.Size([2, 12, 4])
    """
    if maps.shape[2] == positions:
        return maps
    fine, coarse = math.isqrt(maps.shape[2]), math.isqrt(positions)
    if (fine**2, coarse**2) != (maps.shape[2], positions) or fine % coarse:
        return None
    return torch.pixel_unshuffle(maps.unflatten(2, (fine, fine)), fine // coarse).flatten(2)


def entropy(shares: Tensor) -> Tensor:
    """Shannon entropy, in nats, of distributions, (..., K) to (...).

    Example:
        >>> entropy(torch.tensor([0.5, 0.5]))  # log 2
        tensor(0.6931)
    """
    return torch.special.entr(shares).sum(-1)


def hellinger_distance(first: Tensor, second: Tensor) -> Tensor:
    """Hellinger distance, 0 to 1, of two distributions (K,) and (M,). The shorter one is padded with zeros.

    Example:
        >>> hellinger_distance(torch.tensor([1.0]), torch.tensor([0.25, 0.75]))  # sqrt(1 - sqrt(0.25))
        tensor(0.7071)
    """
    short = min(len(first), len(second))
    affinity = (first[:short] * second[:short]).sqrt().sum()
    return (1 - affinity).clamp_min(0).sqrt()


def root_mean_square(difference: Tensor) -> Tensor:
    """Square root of the mean of squares over all entries.

    Example:
        >>> float(root_mean_square(torch.tensor([1.0, 7.0])))  # sqrt((1 + 49) / 2)
        5.0
    """
    return difference.square().mean().sqrt()


def outer_product_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised outer products g_n g_n^T of two sets of vectors.

    Row i of `g g^T` over its norm is `sign(g_i) g / |g|`. The mean over the N x C x C entries is therefore
    2 / C (1 - mean_n (s_n . s'_n / C) (u_n . u'_n)), with signs s and unit vectors u. Zeros may occur.

    Args:
        first: One vector per class, (N, C).
        second: One vector per class, (N, C).

    Returns:
        A scalar.

    Source: the README of the official code of Dong et al., CVPR 2023 (semantic term).

    Example:
        >>> float(outer_product_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])))
        0.5
    """
    classes, channels = first.shape
    sign_1, sign_2 = first.sign(), second.sign()
    unit_1, unit_2 = row_normalise(first), row_normalise(second)
    own = sign_1.square().sum(1) * unit_1.square().sum(1) + sign_2.square().sum(1) * unit_2.square().sum(1)
    cross = (sign_1 * sign_2).sum(1) * (unit_1 * unit_2).sum(1)
    return (own - 2 * cross).sum() / (classes * channels * channels)


def cosines_of_rows(features: Tensor) -> Tensor:
    """Cosine similarities of the rows, (B, D) to (B, B). The cosines of a zero row are zero.

    Example:
        >>> cosines_of_rows(torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])
    """
    return sample_gram(row_normalise(features))


def log_determinant(gram: Tensor) -> Tensor:
    """Log of the determinant of a positive semi-definite matrix (B, B), or minus infinity if it is singular.

    Example:
        >>> log_determinant(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))  # log 2
        tensor(0.6931, dtype=torch.float64)
    """
    return _eigenvalues(gram).log().sum()


def condition_number(gram: Tensor) -> Tensor:
    """Largest over smallest eigenvalue of a positive semi-definite matrix (B, B), or infinity if it is singular.

    Example:
        >>> float(condition_number(torch.tensor([[1.0, 0.0], [0.0, 4.0]])))
        4.0
    """
    values = _eigenvalues(gram)
    return values[-1] / values[0] if values[0] > 0 else values.new_full((), torch.inf)


def _eigenvalues(gram: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, smallest first; those within rounding of zero are zero."""
    values = torch.linalg.eigvalsh(exact(gram))
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return torch.where(values > rounding, values, torch.zeros_like(values))


def expected_regions(agreement: Tensor, neurons: int) -> Tensor:
    """Estimate the number of linear regions that the samples lie in, as seen by a few neurons.

    Args:
        agreement: Share of neurons with the same state, on or off, for two samples, (B, B).
        neurons: Number of neurons that are drawn, with repetition, to tell samples apart.

    Returns:
        A scalar, 1 to B: the sum over samples of one over the expected number of samples with the same code.

    Example:
        >>> float(expected_regions(torch.eye(3), neurons=4))  # every sample lies in a region of its own
        3.0
    """
    return agreement.pow(neurons).sum(1).reciprocal().sum()


def smallest_correlation_eigenvalues(maps: Tensor) -> Tensor:
    """Smallest eigenvalue of the correlations of channels, (..., C, P) to (...).

    A constant channel has correlation zero with every channel, itself included, so the value is zero. It is also zero
    if there are no more positions than channels, because centred channels are linearly dependent then.

    Source: Jiang et al., "MeCo", NeurIPS 2023.

    Example:
        >>> uncorrelated = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
        >>> round(float(smallest_correlation_eigenvalues(uncorrelated)), 6)
        1.0
    """
    if maps.shape[-2] >= maps.shape[-1]:
        return exact(maps.new_zeros(maps.shape[:-2]))
    values = exact(maps)
    centred = values - values.mean(-1, keepdim=True)
    varies = (values != values[..., :1]).any(-1, keepdim=True)  # the rounded mean of equal numbers need not equal them
    rows = row_normalise(centred * varies)
    return torch.linalg.eigvalsh(rows @ rows.mT)[..., 0].clamp_min(0)
