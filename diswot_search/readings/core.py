"""Readings: what is read off one network on one probe, each pass run once, on first use.

Any model under timm's contract (`forward_features`, `forward_head`, `get_classifier`) is read through it, in NCHW,
NHWC and token layouts alike. Any other `nn.Module` is read through hooks: its classifier is the last linear layer
that makes its output, its features are the last output before that with more than one position.

Shapes: B samples, N classes, C channels, P positions (height x width, or tokens), D inputs of the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.probe import Probe
from ..functional import similarities
from ..networks.contract import ReadingError, channels_first, has_timm_contract
from .controls import Altered, noise, other_order
from .derivatives import Derivatives
from .forward import ConstantStatistics, close, mean_pooled
from .gates import with_open_gates
from .timing import reading, readings_of

SUBSAMPLE_IMAGES = 16
"""Images that `Readings.subsample` reads: its passes over them cost about two to four forward passes of 64 images."""


MAX_SPECTRUM_POSITIONS = 256
"""Positions above which the spectrum of positions is that of the last map alone: it costs their number cubed."""


@dataclass(frozen=True)
class Subsample:
    """What is read off the first images alone.

    Attributes:
        saliency: Of each convolution and linear layer, the sum of |weight x gradient| over what each of its output
            channels is made from, (channels,) as doubles; the gradient is that of the mean cross entropy.
        block_spectra: See the reading of this name.
        block_gains: See the reading of this name.
        positions: Positions, or tokens, of the maps of `Readings.last_stage`.
        position_spectra: See `functional.position_spectrum`; of each of these maps, or of the last one alone where it
            is finer than `MAX_SPECTRUM_POSITIONS`.
    """

    saliency: list[Tensor]
    block_spectra: list[Tensor]
    block_gains: list[float | None]
    positions: int
    position_spectra: list[Tensor]


class Readings(Derivatives):
    """What is read off one network on one probe.

    Args:
        make: Makes the network; called on first use, so that nothing is built for what needs no network.
        probe: The batch.
        device: Where the network runs.
        precision: Memory layout and number format.
        trained: Normalise with the running statistics of training. Otherwise, as fits random weights, batch
            normalisation takes the statistics of the batch. Dropout and its like are off in both cases.
        cost: Gives the network's cost; by default it is counted.
        needs: Names of readings that will be taken, so that one forward pass notes down what all of them are made
            from. Any other reading can be taken too, at the price of a forward pass of its own.

    Raises:
        UnknownNameError: `needs` has a name that is no reading.
    """

    @reading
    def pooled(self) -> Tensor:
        """The input of the classifier, (B, D); inputs of several averaged classifiers stand side by side."""
        return torch.cat([call.inputs for call in self._forward.calls], 1) / len(self._forward.calls)

    @reading
    def classifier_weight(self) -> Tensor:
        """The classifier's weight, (N, D), such that logits = pooled @ weight^T + bias for a linear head."""
        weights = [call.weight.detach().float().flatten(1) for call in self._forward.calls]
        return torch.cat(weights, 1)

    @reading
    def has_linear_head(self) -> bool:
        """Whether the logits are a linear function of `pooled` (an average of several such ones included)."""
        return close(torch.stack([call.output for call in self._forward.calls]).mean(0), self.logits)

    @reading
    def has_mean_pooling(self) -> bool:
        """Whether `pooled` is the plain mean of `features` over positions."""
        return mean_pooled(self.features, self.pooled)

    # -- the network as it will be once it learns -----------------------------------------------

    @reading
    def subsample(self) -> Subsample:
        """Capacity of the first `SUBSAMPLE_IMAGES` images with all gates open; see `gates.with_open_gates`.

        A network whose weights were trained is taken as it is.

        Raises:
            ReadingError: The probe has labels that the network has no class for, or the network no block that gives a
                feature map.
        """
        part = slice(SUBSAMPLE_IMAGES)
        opened = self.model if self.trained else with_open_gates(self.model, self._make)
        # Readings of their own, which go with their graph once these are taken.
        readings = Readings(
            lambda: opened,
            Probe.from_tensors(self.probe.images[part], self.probe.labels[part], self.probe.num_classes),
            device=self.device,
            precision=self.precision,
            trained=self.trained,
            needs=("block_spectra", "gradients", "block_gains", "last_stage"),
        )
        pairs = zip(readings.layers, readings.gradients, strict=True)
        stage = readings.last_stage
        last = stage if stage[-1].shape[2] <= MAX_SPECTRUM_POSITIONS else stage[-1:]
        return Subsample(
            [_by_output((layer.weight.detach() * gradient).abs(), layer) for layer, gradient in pairs],  # type: ignore[operator]
            readings.block_spectra,
            readings.block_gains,
            last[-1].shape[2],
            [similarities.position_spectrum(maps) for maps in last],
        )

    # -- what follows from it -------------------------------------------------------------------

    @reading
    def label_gradient(self) -> Tensor:
        """Gradient of the cross entropy with respect to the classifier's weight, (N, D).

        A closed form for linear heads; for any other the head alone is differentiated.

        Raises:
            ReadingError: The probe has labels that the network has no class for.
        """
        self._check_labels()
        if self.has_linear_head:
            return similarities.label_gradient(self.logits, self.labels, self.pooled)
        weight = self._forward.calls[0].weight
        required = weight.requires_grad
        weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = F.cross_entropy(self._rerun_head(self._forward.raw), self.labels)
            (gradient,) = torch.autograd.grad(loss, weight)
        finally:
            weight.requires_grad_(required)
        return gradient.float().flatten(1)

    @reading
    def class_map_gram(self) -> Tensor:
        """Gram matrix of the class activation maps, summed over samples and positions, (N, N).

        CAM by a closed form where the network ends in mean pooling and a linear layer. For any other head, Grad-CAM
        through the head alone, one backward pass of the head for each class.
        """
        if self.has_linear_head and self.has_mean_pooling:
            return similarities.class_gram_of_maps(self.features, self.classifier_weight)
        raw = self._forward.raw
        if not isinstance(raw, Tensor):
            raise ReadingError("class maps need one feature map; this network gives several, or none of its own")
        leaf = raw.detach().requires_grad_(True)
        with torch.enable_grad(), ConstantStatistics():
            logits = self._rerun_head(leaf)
        maps = []
        for index in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), leaf, retain_graph=True)
            weights = channels_first(gradient, self.model).float().sum(2, keepdim=True)
            maps.append((weights * self.features).sum(1).flatten())
        stacked = torch.stack(maps)
        return stacked @ stacked.T

    def _rerun_head(self, raw: Any) -> Tensor:
        if not has_timm_contract(self.model):
            raise ReadingError("the head of a module without `forward_head` cannot be differentiated alone")
        model: Any = self.model
        with self._run_mode():
            return model.forward_head(raw).float()

    @reading
    def sample_gram(self) -> Tensor:
        """Inner products of the samples' flattened features, (B, B)."""
        return similarities.sample_gram(self.features)

    @reading
    def channel_gram(self) -> Tensor:
        """Inner products of each sample's channels, (B, C, C)."""
        return similarities.channel_gram(self.features)

    @reading
    def sample_cosines(self) -> Tensor:
        """Cosine similarities of the samples' flattened features, (B, B)."""
        return similarities.cosines(self.sample_gram)

    @reading
    def class_cosines(self) -> Tensor:
        """Cosine similarities of the mean pooled features of the classes in the probe, (classes, classes).

        Raises:
            ReadingError: The probe has one class only.
        """
        prototypes = similarities.class_prototypes(self.pooled, self.labels)
        if len(prototypes) < 2:
            raise ReadingError("the probe has samples of one class only, so classes cannot be compared")
        return similarities.cosines(similarities.sample_gram(prototypes))

    @reading
    def channel_spectrum(self) -> Tensor:
        """Eigenvalues of the channels' second moment as shares of their sum, largest first, (min(C, B P),)."""
        return similarities.channel_spectrum(self.features)

    # -- controls -------------------------------------------------------------------------------

    def shuffled(self, seed: int = 0) -> Readings:
        """The same readings with the samples of every activation in another order; the labels stay where they are."""
        return _Altered(self, *other_order(self, seed))

    def replaced_by_noise(self, seed: int = 0) -> Readings:
        """Readings of the same shapes with standard normal noise in place of every feature map."""
        return _Altered(self, *noise(seed))


def _by_output(values: Tensor, layer: nn.Module) -> Tensor:
    """Sums over all but the output channels of a layer's weight."""
    outputs = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
    return similarities.exact(values.transpose(0, outputs).flatten(1).sum(1))


class _Altered(Altered, Readings):
    """Readings whose activations are made from those of another network."""


RECORDED = {name: one.kinds for name, one in readings_of(Readings).items() if one.kinds}
"""What the forward pass must note down for a reading to be taken from it. All others need the plain pass or none."""
