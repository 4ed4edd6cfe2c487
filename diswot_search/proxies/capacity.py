"""Effective capacity: how much of a network there is, and how much of it can be used.

Each part is the logarithm of a number of something, or of a share that passes, in nats. Their sum is the logarithm of a
product, so there is nothing to weigh; it needs neither a teacher nor other candidates to be ranked among.

What is not a count is read off the first 16 images of the probe with gates open (see `readings.gates`), so that
residual branches that begin switched off count as if they were on. Blocks are residual blocks, cells, transformer
layers (see `readings.recording.find_blocks`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import functional as fn
from ..readings import ReadingError, Readings


def effective_capacity(student: Readings, teacher: Readings | None = None) -> float:
    """Log of parameters x effective positions, layers and channels x the share of gradients that passes."""
    return math.fsum(component(student) for component in COMPONENTS)


def log_params(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the number of trainable parameters.

    Raises:
        ReadingError: There is none.
    """
    if not student.cost.params:
        raise ReadingError("no parameter is trainable")
    return math.log(student.cost.params)


def position_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of positions: mean of the log of their number and of an entropy.

    The positions, or tokens, are those of the last grid. The entropy is that of the spectrum of their second moment,
    mean over the blocks there: the log of their number where each holds something of its own, and lower where places
    were averaged, as by pooling. What is nowhere below zero, as behind ReLU, shares a mean, so that such networks seem
    coarser than those whose blocks end in anything else: by 0.4 at 8 x 8 positions, more on finer grids.
    """
    spectra = student.excerpt.position_spectra
    held = math.fsum(float(fn.entropy(spectrum)) for spectrum in spectra) / len(spectra)
    return (math.log(student.excerpt.positions) + held) / 2


def layer_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of layers: entropy of the layers' shares in the sum of |W g|.

    W is the weight of a convolution or linear layer, g its gradient of the cross entropy. It is the log of the number
    of layers where each has the same say in the loss, and lower where few layers decide it.

    Source of |W g|: Lee et al., "SNIP", ICLR 2019, which prunes by it.
    """
    return float(fn.entropy(_layer_shares(_saliency(student))))


def channel_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of channels: mean of two entropies, of what channels carry and of their say.

    The first is that of the spectrum of the channels' second moment, mean over stem and blocks: 0 where all channels
    follow one pattern, and the log of their number where they share the energy of the feature map evenly. The second is
    that of the output channels' shares in a layer's sum of |W g|, mean over layers, each weighted by its own share.
    The spectrum has no more values than there are samples and positions.

    Source: after the expressivity of Lee and Ham, "AZ-NAS", CVPR 2024, and SNIP, Lee et al., ICLR 2019.
    """
    spectra = student.excerpt.block_spectra
    carried = math.fsum(float(fn.entropy(spectrum)) for spectrum in spectra) / len(spectra)
    saliency = _saliency(student)
    # A layer without a gradient has no shares, and no weight either.
    say = torch.stack([fn.entropy(layer / layer.sum().clamp_min(torch.finfo(layer.dtype).tiny)) for layer in saliency])
    return (carried + float((_layer_shares(saliency) * say).sum())) / 2


def _saliency(student: Readings) -> list[Tensor]:
    """Sums of |W g| by layer and output channel.

    Raises:
        ReadingError: No gradient reaches any layer.
    """
    saliency = student.excerpt.saliency
    if not any(layer.any() for layer in saliency):
        raise ReadingError("no gradient reaches any layer")
    return saliency


def _layer_shares(saliency: list[Tensor]) -> Tensor:
    sums = torch.stack([layer.sum() for layer in saliency])
    return sums / sums.sum()


LEAST_SHARE = 1e-3
"""Shares below count as this one, so that one closed path does not decide a score."""


def gradient_flow(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the share of a gradient that passes a block in the same way for all samples, mean over blocks; at most 0.

    The share is the largest singular value of the mean map from the gradient at the output of a block to the one at its
    input at the same position, times the root mean square of the input over that of the output: 1 for a linear map of
    each position's channels, whatever its scale, and lower where samples are treated differently, as behind one
    activation function after the other, or places are mixed, as by convolution and pooling, without a residual link.
    Above 1 it counts as 1, and so does a block between whose grids of positions there is no whole factor. It is an
    estimate from above: where blocks have as many channels as there are samples and positions, small losses are not
    seen.

    Source: after the trainability of Lee and Ham, "AZ-NAS", CVPR 2024, which takes the same map as it is, and holds a
    gain against a block as well.
    """
    gains = [1.0 if gain is None else gain for gain in student.excerpt.block_gains]
    return math.fsum(min(math.log(max(gain, LEAST_SHARE)), 0.0) for gain in gains) / max(len(gains), 1)


COMPONENTS = (log_params, position_entropy, layer_entropy, channel_entropy, gradient_flow)
