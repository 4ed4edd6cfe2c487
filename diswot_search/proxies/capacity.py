"""Effective capacity: how large a network is, and how much of it can be used.

Each component is the logarithm, in nats, of a number of things or of a share that passes. Their sum is the logarithm of
a product, so no weights are needed. The score needs neither a teacher nor other candidates to be ranked among.

Everything but the parameter count is read off the first 16 images of the probe with gates open (see `readings.gates`):
residual branches that start switched off count as if they were on. Blocks are residual blocks, cells or transformer
layers (see `readings.recording.find_blocks`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional import similarities
from ..networks.contract import ReadingError
from ..readings.core import Readings


def effective_capacity(student: Readings, teacher: Readings | None = None) -> float:
    """Log of parameters x effective positions, layers and channels x the share of gradients that passes.

    It is the sum of the five components below.

    Raises:
        ReadingError: The network has no trainable parameter, or no gradient reaches any layer.

    Example:
        >>> from diswot_search.proxies import get_proxy
        >>> [component.name for component in get_proxy("effective_capacity").components][:2]
        ['log_params', 'position_entropy']
    """
    return math.fsum(component(student) for component in COMPONENTS)


def log_params(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the number of trainable parameters.

    Raises:
        ReadingError: No parameter is trainable.
    """
    if not student.cost.params:
        raise ReadingError("no parameter is trainable")
    return math.log(student.cost.params)


_PLACE_EXPONENT = 1 / 3
"""The power of the positions of a parameter, between 0, as for parameters, and 1, as for multiply-accumulates."""


def log_placed_params(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the number of trainable parameters, each times the cube root of the number of positions it is used at.

    A weight of a convolution or linear layer is used at each position, or token, of the layer's output. With the power
    0 in place of 1/3 the sum would be that of parameters, with 1 that of multiply-accumulates. Any other parameter,
    such as a bias, is counted once, and so is the weight of a layer that is not called as a module.

    Raises:
        ReadingError: No parameter is trainable.
    """
    counted = {id(parameter): parameter.numel() for parameter in student.model.parameters() if parameter.requires_grad}
    if not counted:
        raise ReadingError("no parameter is trainable")
    positions: dict[int, float] = {}
    for layer, count in zip(student.layers, student.subsample.layer_positions, strict=True):
        positions[id(layer.weight)] = positions.get(id(layer.weight), 0.0) + count
    return math.log(math.fsum(n * (positions.get(key, 0.0) or 1.0) ** _PLACE_EXPONENT for key, n in counted.items()))


def position_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of positions: mean of the log of their number and of an entropy.

    The positions, or tokens, are those of the last grid. The entropy is that of the spectrum of their second moment,
    averaged over the blocks on that grid. It is the log of the number of positions if each carries something of its
    own, and lower if positions were averaged, as by pooling. Features that are never negative, as behind ReLU, share a
    mean, so networks whose blocks end in ReLU seem coarser than others: by 0.4 at 8 x 8 positions, by more on finer
    grids.
    """
    spectra = student.subsample.position_spectra
    entropy = math.fsum(float(similarities.entropy(spectrum)) for spectrum in spectra) / len(spectra)
    return (math.log(student.subsample.positions) + entropy) / 2


def layer_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of layers: entropy of the layers' shares in the sum of |W g|.

    W is the weight of a convolution or linear layer, and g is the gradient of the cross entropy with respect to it. The
    score is the log of the number of layers if all influence the loss equally, and lower if few layers decide it.

    Raises:
        ReadingError: No gradient reaches any layer.

    Source: |W g| is from Lee et al., "SNIP", ICLR 2019, which prunes by it.
    """
    return float(similarities.entropy(_layer_shares(_saliency(student))))


def channel_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of channels: mean of an entropy of the features and one of the influence on the loss.

    The first is the entropy of the spectrum of the channels' second moment, averaged over stem and blocks. It is 0 if
    all channels follow one pattern, and the log of their number if they share the energy of the feature map evenly. The
    spectrum has at most as many values as there are samples times positions. The second is the entropy of the output
    channels' shares in a layer's sum of |W g|, averaged over layers, each weighted by its own share in the network's
    sum.

    Raises:
        ReadingError: No gradient reaches any layer.

    Source: after the expressivity of Lee and Ham, "AZ-NAS", CVPR 2024, and SNIP, Lee et al., ICLR 2019.
    """
    spectra = student.first_block_spectra
    feature_entropy = math.fsum(float(similarities.entropy(spectrum)) for spectrum in spectra) / len(spectra)
    # The mean entropy of channels within a layer is the entropy of all channels less that of the layers.
    return (feature_entropy + unit_entropy(student) - layer_entropy(student)) / 2


def _saliency(student: Readings) -> list[Tensor]:
    """Sums of |W g| for each output channel, one tensor (output channels,) per layer.

    Raises:
        ReadingError: No gradient reaches any layer.
    """
    saliency = student.subsample.saliency
    if not any(layer.any() for layer in saliency):
        raise ReadingError("no gradient reaches any layer")
    return saliency


def _layer_shares(saliency: list[Tensor]) -> Tensor:
    sums = torch.stack([layer.sum() for layer in saliency])
    return sums / sums.sum()


_SMALLEST_SHARE = 1e-3
"""Smaller shares count as this one, so that a single closed path does not decide a score."""


def unit_entropy(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the effective number of output channels in all layers: entropy of their shares in the sum of |W g|.

    W is the weight of a convolution or linear layer, and g is the gradient of the cross entropy with respect to it. It
    is `layer_entropy` plus the mean entropy of the channels within a layer, weighted by the layers' shares.

    Raises:
        ReadingError: No gradient reaches any layer.

    Source: |W g| is from Lee et al., "SNIP", ICLR 2019, which prunes by it.
    """
    channels = torch.cat(_saliency(student))
    return float(similarities.entropy(channels / channels.sum()))


def gradient_flow(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the share of a gradient that passes a block in the same way for all samples, mean over blocks; at most 0.

    The share is a singular value times a ratio. The singular value is the largest one of the mean map from the gradient
    at the output of a block to the gradient at its input, at the same position. The ratio is the root mean square of
    the input over that of the output. The share is 1 for a linear map of each position's channels, whatever its scale.
    It is lower if the block treats samples differently, as a chain of activation functions does, or mixes positions, as
    convolution and pooling do without a residual link. A share above 1 counts as 1, and so does a block whose grids of
    positions are not whole multiples of each other. The share is an overestimate: if blocks have as many channels as
    there are samples times positions, small losses do not show.

    Source: after the trainability of Lee and Ham, "AZ-NAS", CVPR 2024, which uses the same map without the ratio and
    penalises gains as well as losses.
    """
    gains = [1.0 if gain is None else gain for gain in student.subsample.block_gains]
    return math.fsum(min(math.log(max(gain, _SMALLEST_SHARE)), 0.0) for gain in gains) / max(len(gains), 1)


COMPONENTS = (log_params, position_entropy, layer_entropy, channel_entropy, gradient_flow)
"""The functions that `effective_capacity` adds up, in the order of reports."""


def unit_capacity(student: Readings, teacher: Readings | None = None) -> float:
    """Log of placed parameters x effective positions x effective units x the share of gradients that passes.

    It is the sum of the four components below: `effective_capacity` with parameters that count by the positions they
    are used at, and with the output channels of all layers in place of layers and of channels of blocks. So it needs no
    spectrum of channels, which depends on the activation that ends a block more than on its use.

    Raises:
        ReadingError: The network has no trainable parameter, or no gradient reaches any layer.

    Example:
        >>> from diswot_search.proxies import get_proxy
        >>> [component.name for component in get_proxy("unit_capacity").components]
        ['log_placed_params', 'position_entropy', 'unit_entropy', 'gradient_flow']
    """
    return math.fsum(component(student) for component in UNIT_COMPONENTS)


UNIT_COMPONENTS = (log_placed_params, position_entropy, unit_entropy, gradient_flow)
"""The functions that `unit_capacity` adds up, in the order of reports."""
