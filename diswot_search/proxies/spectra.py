"""Proxies made from spectra: AZ-NAS's three, of features and of gradients, and VKDNW, of Fisher information.

Their authors score images of noise. On natural images, whose neighbouring pixels are alike, progressivity ranks worse.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .. import functional as fn
from ..readings import ReadingError, Readings

# -- AZ-NAS -------------------------------------------------------------------------------------


def expressivity(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over stem and blocks of the entropy of the channel covariance's spectrum.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    return math.fsum(student.block_entropies)


def progressivity(student: Readings, teacher: Readings | None = None) -> float:
    """Smallest increase from block to block of the entropy of the channel covariance's spectrum.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    entropies = student.block_entropies
    if len(entropies) < 2:
        raise ReadingError("progressivity compares successive blocks, and the network has one only")
    return min(after - before for before, after in itertools.pairwise(entropies))


def trainability(student: Readings, teacher: Readings | None = None) -> float:
    """Mean over pairs of successive blocks of 2 - s - 1 / s, with s how much a random gradient grows on its way back.

    s is the largest singular value of the matrix that maps the gradient at the output of the later block to the one
    at the output of the earlier block; the mean is largest, 0, where all s are 1. Pairs between whose grids of
    positions there is no whole factor are left out. A network with a block that passes gradients on unchanged, and so
    has s = 1 without doing anything, or passes none on, has no score. That is so of families whose residual branches
    are drawn with a scale near zero, as ConvNeXt's.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    pairs = [(sent, fn.unshuffled(arrived, sent.shape[2])) for sent, arrived in student.block_gradients]
    gains = [_gain(sent, arrived) for sent, arrived in pairs if arrived is not None]
    if not gains:
        raise ReadingError("trainability compares successive blocks, and the network has no two on matching grids")
    return math.fsum(2 - gain - 1 / (gain + 1e-6) for gain in gains) / len(gains)


def _gain(sent: Tensor, arrived: Tensor) -> float:
    """`mean_jacobian_gain` of a block that does something to a gradient."""
    if torch.equal(sent, arrived):
        raise ReadingError(
            "a block passes gradients on unchanged, being an identity or one up to a residual branch that starts at "
            "zero, so trainability is not defined"
        )
    if not arrived.any():
        raise ReadingError("no gradient passes through a block, so trainability is not defined")
    return fn.mean_jacobian_gain(sent, arrived)


# -- VKDNW --------------------------------------------------------------------------------------


def vkdnw(student: Readings, teacher: Readings | None = None) -> float:
    """Number of layers plus the entropy of the deciles of the Fisher information's spectrum.

    The information is that of the predictions about one weight of each convolution and linear layer; the nine inner
    deciles of its eigenvalues are scaled to sum to one. The entropy is below log 9, so the number of layers comes
    first.

    Source: Tybl and Neumann, "Training-free Neural Architecture Search through Variance of Knowledge of Deep Network
    Weights", CVPR 2025.
    """
    information = student.fisher_information
    if not information.any():
        raise ReadingError("the predictions do not depend on the first weight of any layer")
    spectrum = fn.spectrum(information)
    deciles = torch.quantile(spectrum, torch.arange(1, 10).to(spectrum) / 10)
    if not deciles.sum() > 0:
        raise ReadingError("nine tenths of the Fisher information's spectrum are zero")
    return len(information) + float(fn.entropy(deciles / deciles.sum()))
