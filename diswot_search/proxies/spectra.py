"""Proxies made from spectra: AZ-NAS's three, of features and gradients, and VKDNW, of the Fisher information.

Their authors use images of noise as the probe. On natural images, whose neighbouring pixels are similar, progressivity
ranks worse.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..functional import similarities
from ..networks.contract import ReadingError
from ..readings.core import Readings

# -- AZ-NAS -------------------------------------------------------------------------------------


def expressivity(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over stem and blocks of the entropy, in nats, of the channel covariance's spectrum.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    return math.fsum(student.block_entropies)


def progressivity(student: Readings, teacher: Readings | None = None) -> float:
    """Smallest increase from block to block of the entropy, in nats, of the channel covariance's spectrum.

    Raises:
        ReadingError: The network has one block only.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    entropies = student.block_entropies
    if len(entropies) < 2:
        raise ReadingError("progressivity compares successive blocks, and the network has one only")
    return min(after - before for before, after in itertools.pairwise(entropies))


def trainability(student: Readings, teacher: Readings | None = None) -> float:
    """Mean over pairs of successive blocks of 2 - s - 1 / s, with s the gain of a random gradient on its way back.

    s is the largest singular value of the matrix that maps the gradient at the output of the later block to the one
    at the output of the earlier block. The mean is largest, 0, if all s are 1. Pairs of blocks whose grids of positions
    are not whole multiples of each other are left out. A block that passes gradients on unchanged has s = 1 without
    doing anything, so a network with such a block has no score. Families whose residual branches start with a scale
    near zero, such as ConvNeXt, consist of such blocks.

    Raises:
        ReadingError: No two successive blocks have matching grids, or a block passes on gradients unchanged or none.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    pairs = [(sent, similarities.unshuffled(arrived, sent.shape[2])) for sent, arrived in student.block_gradients]
    gains = [_gain(sent, arrived) for sent, arrived in pairs if arrived is not None]
    if not gains:
        raise ReadingError("trainability compares successive blocks, and the network has no two on matching grids")
    return math.fsum(2 - gain - 1 / (gain + 1e-6) for gain in gains) / len(gains)


def _gain(sent: Tensor, arrived: Tensor) -> float:
    """The `mean_jacobian_gain` of a block that changes gradients without stopping them."""
    if torch.equal(sent, arrived):
        raise ReadingError(
            "a block passes gradients on unchanged: it is an identity, or its residual branch starts at zero, so "
            "trainability is not defined"
        )
    if not arrived.any():
        raise ReadingError("no gradient passes through a block, so trainability is not defined")
    return similarities.mean_jacobian_gain(sent, arrived)


# -- VKDNW --------------------------------------------------------------------------------------


def vkdnw(student: Readings, teacher: Readings | None = None) -> float:
    """Number of layers plus the entropy of the deciles of the Fisher information's spectrum.

    The Fisher information matrix is that of the predictions for one weight of each convolution and linear layer. The
    nine inner deciles of its eigenvalues are scaled to sum to one. Their entropy is at most log 9, about 2.2, so the
    number of layers matters most.

    Raises:
        ReadingError: Predictions depend on none of these weights, or nine tenths of the spectrum are zero.

    Source: Tybl and Neumann, "Training-free Neural Architecture Search through Variance of Knowledge of Deep Network
    Weights", CVPR 2025.
    """
    information = student.fisher_information
    if not information.any():
        raise ReadingError("the predictions do not depend on the first weight of any layer")
    spectrum = similarities.spectrum(information)
    deciles = torch.quantile(spectrum, torch.arange(1, 10).to(spectrum) / 10)
    if not deciles.sum() > 0:
        raise ReadingError("nine tenths of the Fisher information's spectrum are zero")
    return len(information) + float(similarities.entropy(deciles / deciles.sum()))
