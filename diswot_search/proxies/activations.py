"""Proxies made of activations: codes of neurons, feature maps, and how far a small change of the input carries.

None of them looks at labels, so that classes play no part. `ntk` alone needs a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .. import functional as fn
from ..readings import Readings

THIN = 16
"""Neurons that `linear_regions` tells samples apart by."""


def nwot(student: Readings, teacher: Readings | None = None) -> float:
    """Log determinant of the matrix of neurons that agree on two samples, on in both or off in both.

    Minus infinity where it is singular, as when two samples have one code.

    Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021.
    """
    return float(fn.log_determinant(student.code_gram))


def swap(student: Readings, teacher: Readings | None = None) -> float:
    """Number of distinct patterns, on or off, that neurons show over 16 samples; at most 2^16.

    Source: Peng et al., "SWAP-NAS", ICLR 2024 (without its regularisation by size).
    """
    return float(student.sign_patterns)


def linear_regions(student: Readings, teacher: Readings | None = None) -> float:
    """Number of linear regions that the samples lie in, as seen by 16 neurons drawn at random.

    Two samples lie in one region where they have one code. All codes of a wide network differ, so TE-NAS counts those
    of a network of one channel on images of 3x3 pixels. Here the network stays as it is, and 16 of its neurons are
    drawn: the share of neurons that agree on two samples, to the power of 16, is the chance that they have one code.
    The number is the sum over samples of one over the expected number of samples in their region. Between 16 and 256
    neurons the ranking of NAS-Bench-201 stays what it is.

    Source: Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS), ICLR 2021; see above for
    what is different.
    """
    return float(fn.expected_regions(student.code_gram / student.neurons, THIN))


def ntk(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the condition number of the neural tangent kernel: how unevenly the batch would be learned.

    Minus infinity where the kernel is singular.

    Source: Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS), ICLR 2021, with
    batch normalisation differentiated as if its statistics were constants.
    """
    return -float(fn.condition_number(student.ntk))


def meco(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over feature maps of the smallest eigenvalue of the correlations of channels, on the first sample.

    Maps of innermost modules alone are looked at. A constant channel has no correlation with any, and zero with
    itself, as in the original code, so that a map with such a channel counts nothing.

    Source: Jiang et al., "MeCo: Zero-Shot NAS with One Data and Single Forward Pass via Minimum Eigenvalue of
    Correlation", NeurIPS 2023.
    """
    return float(sum(fn.smallest_correlation_eigenvalues(maps).sum() for maps in _stacked(student.leaf_maps)))


def _stacked(maps: Iterable[Tensor]) -> list[Tensor]:
    """Maps (C, P) of one shape as one tensor (maps, C, P)."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for map_ in maps:
        by_shape.setdefault(map_.shape, []).append(map_)
    return [torch.stack(same) for same in by_shape.values()]
