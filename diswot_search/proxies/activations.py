"""Proxies made of activations: codes of neurons, feature maps, and the neural tangent kernel.

They do not use labels. Only `ntk` needs a backward pass. The code of a sample says which neurons are on, above zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..functional import similarities
from ..readings.core import Readings

_DRAWN_NEURONS = 16
"""The number of neurons by which `linear_regions` tells samples apart."""


def nwot(student: Readings, teacher: Readings | None = None) -> float:
    """Log determinant of the B x B matrix that counts, for two samples, the neurons that are on in both or off in both.

    It is minus infinity where the matrix is singular, as when two samples have the same code.

    Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021.
    """
    return float(similarities.log_determinant(student.code_gram))


def swap(student: Readings, teacher: Readings | None = None) -> float:
    """Number of distinct patterns, on or off, that neurons show over 16 samples; at most 2^16.

    Source: Peng et al., "SWAP-NAS", ICLR 2024; its regularisation by size is left out.
    """
    return float(student.sign_patterns)


def linear_regions(student: Readings, teacher: Readings | None = None) -> float:
    """Number of linear regions that the samples lie in, as seen by 16 neurons drawn at random.

    Two samples lie in the same region if they have the same code. In a wide network all codes differ, so TE-NAS counts
    the codes of a network of one channel on images of 3x3 pixels. This function keeps the network and draws 16 of its
    neurons instead. The share of neurons that agree on two samples, to the power of 16, is the chance that the two have
    the same code. The score is the sum over samples of one over the expected number of samples in their region.
    Between 16 and 256 neurons the ranking of NAS-Bench-201 does not change.

    Source: Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS), ICLR 2021, with the
    difference described above.
    """
    return float(similarities.expected_regions(student.code_gram / student.neurons, _DRAWN_NEURONS))


def ntk(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the condition number of the neural tangent kernel: how unevenly the batch would be learned.

    It is minus infinity where the kernel is singular.

    Source: Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS), ICLR 2021. The statistics
    of batch normalisation are treated as constants in the derivative.
    """
    return -float(similarities.condition_number(student.ntk))


def meco(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over feature maps of the smallest eigenvalue of the correlations of channels, on the first sample.

    Only the maps of innermost modules count. A constant channel has correlation zero with every channel, itself
    included, as in the original code, so a map with such a channel adds nothing.

    Source: Jiang et al., "MeCo: Zero-Shot NAS with One Data and Single Forward Pass via Minimum Eigenvalue of
    Correlation", NeurIPS 2023.
    """
    return float(sum(similarities.smallest_correlation_eigenvalues(maps).sum() for maps in _stacked(student.leaf_maps)))


def _stacked(maps: Iterable[Tensor]) -> list[Tensor]:
    """One tensor (maps, C, P) for all maps (C, P) of the same shape."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for map_ in maps:
        by_shape.setdefault(map_.shape, []).append(map_)
    return [torch.stack(group) for group in by_shape.values()]
