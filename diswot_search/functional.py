"""Pure tensor functions: class gradients and maps, Gram and cosine matrices, spectra, and their distances.

Shapes: B samples, N classes, C channels, P positions (height x width, or tokens), D inputs of the classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_gradient(logits: Tensor, labels: Tensor, pooled: Tensor) -> Tensor:
    """Gradient of the mean cross entropy with respect to the weight of a linear classifier.

    Closed form (softmax(logits) - onehot(labels))^T pooled / B; no backward pass.

    Args:
        logits: (B, N).
        labels: (B,) class indices below N.
        pooled: (B, D), the classifier's input.

    Returns:
        (N, D).
    """
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    return error.T @ pooled / len(labels)


def class_prototypes(pooled: Tensor, labels: Tensor) -> Tensor:
    """Mean of the pooled features of each class that is present, in order of the labels.

    Args:
        pooled: (B, D).
        labels: (B,).

    Returns:
        (classes present, D).
    """
    _, groups = labels.unique(return_inverse=True)
    members = F.one_hot(groups).to(pooled.dtype)
    return (members / members.sum(0)).T @ pooled


def class_gram_of_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Gram matrix of the class activation maps of a network that ends in mean pooling and a linear layer.

    The map of class n is sum_c weight[n, c] features[:, c]; the Gram matrix sums over samples and positions. It
    equals weight S weight^T with the channels' second moment S, so no map is ever made.

    Args:
        features: (B, C, P).
        weight: (N, C).

    Returns:
        (N, N).

    Source: Dong et al., CVPR 2023 (M_s); Zhou et al., CVPR 2016 (class activation maps).
    """
    return weight @ second_moment(features) @ weight.T


def second_moment(features: Tensor) -> Tensor:
    """Inner products of channels over all samples and positions: (B, C, P) to (C, C)."""
    channels = features.transpose(0, 1).flatten(1)
    return channels @ channels.T


def channel_spectrum(features: Tensor) -> Tensor:
    """Spectrum of the channels' second moment, (B, C, P) to (min(C, B P),), largest share first.

    The smaller one of the two Gram matrices is decomposed; their eigenvalues that are not zero are the same.

    Raises:
        ValueError: The features are zero everywhere.
    """
    channels = features.transpose(0, 1).flatten(1)
    smaller = channels if channels.shape[0] <= channels.shape[1] else channels.T
    return spectrum(smaller @ smaller.T)


def sample_gram(features: Tensor) -> Tensor:
    """Inner products of flattened samples: (B, ...) to (B, B)."""
    flat = features.flatten(1)
    return flat @ flat.T


def channel_gram(features: Tensor) -> Tensor:
    """Inner products of the channels of each sample: (B, C, P) to (B, C, C)."""
    return features @ features.transpose(1, 2)


def cosines(gram: Tensor) -> Tensor:
    """Cosine similarities from a Gram matrix (R, R); those of a zero vector are zero."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    scale = torch.where(norms > 0, norms.reciprocal(), torch.zeros_like(norms))
    return gram * scale * scale[:, None]


def correlations(rows: Tensor) -> Tensor:
    """Pearson correlations of the rows (R, K), as (R, R) in double precision.

    Raises:
        ValueError: A row is constant up to rounding, so that it is correlated with nothing.
    """
    if rows.device.type == "mps":  # which knows no double precision
        rows = rows.cpu()
    exact = rows.double()
    centred = exact - exact.mean(1, keepdim=True)
    constant = centred.norm(dim=1) <= torch.finfo(rows.dtype).eps * exact.norm(dim=1)
    if constant.any():
        raise ValueError(f"{int(constant.sum())} of {len(rows)} rows are constant, so they have no correlations")
    return cosines(centred @ centred.T)


def frobenius_normalise(matrix: Tensor) -> Tensor:
    """Each matrix (..., R, K) over its Frobenius norm; a zero matrix stays zero."""
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def row_normalise(matrix: Tensor) -> Tensor:
    """Each row (..., R, K) over its L2 norm; a zero row stays zero."""
    return F.normalize(matrix, dim=-1)


def spectrum(moment: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix (C, C) as shares of their sum, largest first.

    Raises:
        ValueError: The matrix is zero.
    """
    if moment.device.type == "mps":  # which knows neither double precision nor eigenvalues
        moment = moment.cpu()
    values = torch.linalg.eigvalsh(moment.double()).clamp_min(0).flip(0)
    total = values.sum()
    if not total > 0:
        raise ValueError("the features are zero everywhere, so they have no spectrum")
    return values / total


def hellinger_distance(first: Tensor, second: Tensor) -> Tensor:
    """Hellinger distance, 0 to 1, of two distributions (K,), (M,); the shorter one is filled up with zeros."""
    short = min(len(first), len(second))
    affinity = (first[:short] * second[:short]).sqrt().sum()
    return (1 - affinity).clamp_min(0).sqrt()


def root_mean_square(difference: Tensor) -> Tensor:
    """Square root of the mean of squares over all entries."""
    return difference.square().mean().sqrt()


def outer_product_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised outer products g_n g_n^T of two sets of vectors.

    Row i of g g^T over its norm is sign(g_i) g / |g|, so the mean over the N x C x C entries is
    2 / C (1 - mean_n (s_n . s'_n / C) (u_n . u'_n)) with signs s and unit vectors u; zeros are allowed for.

    Args:
        first: (N, C).
        second: (N, C).

    Returns:
        A scalar.

    Source: the README of the official code of Dong et al., CVPR 2023 (semantic term).
    """
    classes, channels = first.shape
    sign_1, sign_2 = first.sign(), second.sign()
    unit_1, unit_2 = row_normalise(first), row_normalise(second)
    own = sign_1.square().sum(1) * unit_1.square().sum(1) + sign_2.square().sum(1) * unit_2.square().sum(1)
    cross = (sign_1 * sign_2).sum(1) * (unit_1 * unit_2).sum(1)
    return (own - 2 * cross).sum() / (classes * channels * channels)


def log_determinant(gram: Tensor) -> Tensor:
    """Log of the determinant of a positive semi-definite matrix (B, B); minus infinity where it is singular."""
    return _eigenvalues(gram).log().sum()


def condition_number(gram: Tensor) -> Tensor:
    """Largest over smallest eigenvalue of a positive semi-definite matrix (B, B); infinity where it is singular."""
    values = _eigenvalues(gram)
    return values[-1] / values[0] if values[0] > 0 else values.new_full((), torch.inf)


def _eigenvalues(gram: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, smallest first; those within rounding of zero are zero."""
    if gram.device.type == "mps":  # which knows neither double precision nor eigenvalues
        gram = gram.cpu()
    values = torch.linalg.eigvalsh(gram.double())
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return torch.where(values > rounding, values, torch.zeros_like(values))


def expected_regions(agreement: Tensor, neurons: int) -> Tensor:
    """Number of linear regions that samples lie in, by what the region of each is expected to hold.

    Args:
        agreement: Share of all neurons that have one state, on or off, for two samples, (B, B).
        neurons: How many neurons are drawn, with repetition, to tell samples apart by.

    Returns:
        A scalar, 1 to B: the sum over samples of one over the expected number of samples with the same code.
    """
    return agreement.pow(neurons).sum(1).reciprocal().sum()


def smallest_correlation_eigenvalues(maps: Tensor) -> Tensor:
    """Smallest eigenvalue of the correlations of channels, (..., C, P) to (...).

    A constant channel correlates with none, itself included, so the value is zero. It is zero as well where there are
    no more positions than channels, since centred channels are dependent then.

    Source: Jiang et al., "MeCo", NeurIPS 2023.
    """
    if maps.shape[-2] >= maps.shape[-1]:
        return maps.new_zeros(maps.shape[:-2], dtype=torch.float64)
    if maps.device.type == "mps":  # which knows neither double precision nor eigenvalues
        maps = maps.cpu()
    centred = maps.double() - maps.double().mean(-1, keepdim=True)
    varies = (maps != maps[..., :1]).any(-1, keepdim=True)  # the mean of equal numbers need not equal them
    rows = row_normalise(centred * varies)
    return torch.linalg.eigvalsh(rows @ rows.mT)[..., 0].clamp_min(0)
