"""Readings: values that proxies read off one network on one probe. Each is computed once, on first use.

Features, stages, pooled features and logits are those of `networks.features`. To add a reading, write a method of a
subclass of `Readings` under the decorator `reading`. It declares the records that the forward pass must make for it,
and whether a control may give it; see `timing.reading`.

Shapes: B samples, N classes, C channels, P positions (height x width, or tokens), D inputs of the classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.probe import Probe
from ..functional import similarities
from ..networks.contract import ReadingError
from ..networks.forward import close, mean_pooled
from .controls import noise, other_order, under_control
from .derivatives import Derivatives
from .gates import open_gates
from .modes import ConstantStatistics
from .timing import reading, readings_of

SUBSAMPLE_IMAGES = 16
"""The number of images that `Readings.subsample` reads. Its passes cost about 2 to 4 forward passes of 64 images."""


MAX_SPECTRUM_POSITIONS = 256
"""Above this number of positions, the position spectrum is that of the last map only: its cost is cubic in them."""


@dataclass(frozen=True)
class Subsample:
    """Readings of the first images only.

    Attributes:
        saliency: For each convolution and linear layer, the sum of |weight x gradient| over the inputs of each output
            channel, (channels,) in double precision. The gradient is that of the mean cross entropy.
        layer_positions: See the reading of this name.
        block_spectra: See the reading of this name; None unless `Readings.first_block_spectra` was announced.
        block_gains: See the reading of this name.
        positions: The number of positions, or tokens, of the maps of `Readings.last_stage`.
        position_spectra: See `functional.position_spectrum`; for each of these maps, or for the last one only if it
            has more than `MAX_SPECTRUM_POSITIONS` positions.
    """

    saliency: list[Tensor]
    layer_positions: list[float]
    block_spectra: list[Tensor] | None
    block_gains: list[float | None]
    positions: int
    position_spectra: list[Tensor]


class Readings(Derivatives):
    """The readings of one network on one probe.

    Args:
        make: Builds the network lazily, on first use.
        probe: The batch.
        device: The device that the network runs on.
        precision: Memory layout and number format.
        trained: Whether batch normalisation uses the running statistics of training. Otherwise it uses those of the
            batch, as suits random weights. Dropout is off in both cases.
        cost: Gives the network's cost; by default it is counted.
        needs: Names of readings that will be taken. One forward pass then makes the records for all of them. Any other
            reading can be taken too, at the price of a forward pass of its own.

    Raises:
        UnknownNameError: `needs` has a name that is not that of a reading.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from diswot_search import Probe, Readings
        >>> probe = Probe.from_tensors(torch.rand(4, 3, 8, 8), torch.arange(4) % 2, num_classes=2)
        >>> network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
        >>> readings = Readings(lambda: network, probe)
        >>> readings.features.shape, readings.pooled.shape
        (torch.Size([4, 6, 16]), torch.Size([4, 6]))
    """

    @reading(controlled=True)
    def pooled(self) -> Tensor:
        """The input of the classifier, (B, D). Inputs of several averaged classifiers are concatenated."""
        return torch.cat([call.inputs for call in self._forward.calls], 1) / len(self._forward.calls)

    @reading(controlled=True)
    def classifier_weight(self) -> Tensor:
        """The classifier's weight, (N, D): for a linear head, logits = pooled @ weight^T + bias."""
        forward = self._forward
        return forward.head_weight if forward.other_weight is None else forward.other_weight

    @reading(controlled=True)
    def has_linear_head(self) -> bool:
        """Whether the logits are a linear function of `pooled`, or an average of several."""
        return close(torch.stack([call.output for call in self._forward.calls]).mean(0), self.logits)

    @reading(controlled=True)
    def has_mean_pooling(self) -> bool:
        """Whether `pooled` is the plain mean of `features` over positions."""
        return mean_pooled(self.features, self.pooled)

    # -- the network as it will be once it learns -----------------------------------------------

    @reading
    def subsample(self) -> Subsample:
        """Readings of the first `SUBSAMPLE_IMAGES` images with all gates open; see `gates.open_gates`.

        The gates of a trained network stay as they are.

        Raises:
            ReadingError: The probe has labels that the network has no class for, or no block of the network gives a
                feature map.
        """
        spectra = ("block_spectra",) if "first_block_spectra" in self.needs else ()
        with self._first_images("gradients", "layer_positions", "block_gains", "last_stage", *spectra) as readings:
            pairs = zip(readings.layers, readings.gradients, strict=True)
            stage = readings.last_stage
            last = stage if stage[-1].shape[2] <= MAX_SPECTRUM_POSITIONS else stage[-1:]
            return Subsample(
                [_by_output((layer.weight.detach() * gradient).abs(), layer) for layer, gradient in pairs],  # type: ignore[operator]
                readings.layer_positions,
                readings.block_spectra if spectra else None,
                readings.block_gains,
                last[-1].shape[2],
                [similarities.position_spectrum(maps) for maps in last],
            )

    @reading
    def first_block_spectra(self) -> list[Tensor]:
        """The `block_spectra` of the first `SUBSAMPLE_IMAGES` images with all gates open; see `subsample`.

        If it is announced by `needs`, `subsample` computes it, too; otherwise it takes a forward pass of its own.
        """
        if "first_block_spectra" in self.needs and self.subsample.block_spectra is not None:
            return self.subsample.block_spectra
        with self._first_images("block_spectra") as readings:
            return readings.block_spectra

    @contextmanager
    def _first_images(self, *needs: str) -> Iterator[Readings]:
        """Readings of the first images with all gates open, whose graph is freed with them."""
        part = slice(SUBSAMPLE_IMAGES)
        probe = Probe.from_tensors(self.probe.images[part], self.probe.labels[part], self.probe.num_classes)
        readings = Readings(
            lambda: self.model,
            probe,
            device=self.device,
            precision=self.precision,
            trained=self.trained,
            needs=needs,
        )
        readings._give("model", self.model)
        readings._give("layers", self.layers)
        with nullcontext() if self.trained else open_gates(self.model):
            yield readings

    # -- derived readings -------------------------------------------------------------------------

    @reading(controlled=True)
    def label_gradient(self) -> Tensor:
        """Gradient of the cross entropy with respect to the classifier's weight, (N, D).

        Linear heads have a closed form. Any other head is run and differentiated alone.

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

    @reading(controlled=True)
    def class_map_gram(self) -> Tensor:
        """Gram matrix of the class activation maps, summed over samples and positions, (N, N).

        Networks that end in mean pooling and a linear layer have a closed form (CAM). Any other head needs Grad-CAM
        without its ReLU: one backward pass of the head alone for each class. The gradient of class tokens then counts
        in the weights of channels, and the maps have the positions of `features`.

        Raises:
            ReadingError: The head cannot be run alone.
        """
        if self.has_linear_head and self.has_mean_pooling:
            return similarities.class_gram_of_maps(self.features, self._forward.head_weight)
        forward = self._forward
        if not isinstance(forward.raw, Tensor) or forward.layout is None:
            raise ReadingError("class maps need one feature map; this network gives several, or none of its own")
        leaf = forward.raw.detach().requires_grad_(True)
        with torch.enable_grad(), ConstantStatistics():
            logits = self._rerun_head(leaf)
        maps = []
        for index in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), leaf, retain_graph=True)
            weights = forward.layout.to_rows(gradient).sum(2, keepdim=True)
            maps.append((weights * self.features).sum(1).flatten())
        stacked = torch.stack(maps)
        return stacked @ stacked.T

    @reading(controlled=True)
    def sample_gram(self) -> Tensor:
        """Inner products of the samples' flattened features, (B, B)."""
        return similarities.sample_gram(self.features)

    @reading(controlled=True)
    def channel_gram(self) -> Tensor:
        """Inner products of each sample's channels, (B, C, C)."""
        return similarities.channel_gram(self.features)

    @reading(controlled=True)
    def sample_cosines(self) -> Tensor:
        """Cosine similarities of the samples' flattened features, (B, B)."""
        return similarities.cosines(self.sample_gram)

    @reading(controlled=True)
    def class_cosines(self) -> Tensor:
        """Cosine similarities of the mean pooled features of the classes in the probe, (classes, classes).

        Raises:
            ReadingError: The probe has one class only.
        """
        prototypes = similarities.class_prototypes(self.pooled, self.labels)
        if len(prototypes) < 2:
            raise ReadingError("the probe has samples of one class only, so classes cannot be compared")
        return similarities.cosines(similarities.sample_gram(prototypes))

    @reading(controlled=True)
    def channel_spectrum(self) -> Tensor:
        """Eigenvalues of the channels' second moment as shares of their sum, largest first, (min(C, B P),)."""
        return similarities.channel_spectrum(self.features)

    # -- controls -------------------------------------------------------------------------------

    def shuffled(self, seed: int = 0) -> Readings:
        """The same readings with the samples of every activation in another order. The labels keep theirs.

        The activations are read when this is called, those of blocks in a pass of their own unless `needs` has them.
        Readings of the network itself are refused with a `ReadingError`; see `readings.controls`.
        """
        controlled: Readings = under_control(self, *other_order(self, seed))
        return controlled

    def replaced_by_noise(self, seed: int = 0) -> Readings:
        """Readings of the same shapes with standard normal noise in place of every feature map and of the classifier.

        Logits are those of the classifier for noise, because noise has no predictions.

        The activations are read when this is called, those of blocks in a pass of their own unless `needs` has them.
        Readings of the network itself are refused with a `ReadingError`; see `readings.controls`.
        """
        controlled: Readings = under_control(self, *noise(seed))
        return controlled


def _by_output(values: Tensor, layer: nn.Module) -> Tensor:
    """Sums of values in the shape of a layer's weight, for each output channel."""
    outputs = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
    return similarities.exact(values.transpose(0, outputs).flatten(1).sum(1))


RECORDED = {name: one.kinds for name, one in readings_of(Readings).items() if one.kinds}
"""The records that readings need from the forward pass. All other readings need the plain pass or none."""
