"""Preprocessing of images before a network sees them: channels, size and normalisation.

`Preprocessing` says in values what a network needs, `Preprocessor` does it to batches, and `ProbeConversion` to probes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.probe import Probe
from ..runtime.files import as_json


@dataclass(frozen=True)
class Preprocessing:
    """The form of images that a network needs; an attribute that is None is left to the data.

    Attributes:
        channels: Number of channels, 1 or 3 where images are converted.
        size: Height and width that images are resized to.
        mean: Mean of each channel that its weights were trained with, as a share of the full scale.
        std: Standard deviation of each channel, likewise.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def filled(self, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """The same with the data's statistics in place of missing ones, as many as there are channels.

        Args:
            mean: Mean of each channel of the data.
            std: Standard deviation of each channel of the data.
        """
        own_mean, own_std = self.mean or self._per_channel(mean), self.std or self._per_channel(std)
        return replace(self, mean=own_mean, std=own_std)

    def _per_channel(self, values: Sequence[float]) -> tuple[float, ...]:
        """As many of the values as there are channels; those of a single channel are repeated."""
        return tuple(values) * (self.channels or 1) if len(values) == 1 else tuple(values)[: self.channels]

    def preprocessor(self, channels_last: bool = False) -> Preprocessor:
        """The module that does this to images between 0 and 1. Mean and standard deviation must be known.

        Args:
            channels_last: Return images in NHWC memory order.
        """
        assert self.mean is not None
        assert self.std is not None
        return Preprocessor(self.mean, self.std, self.size, channels_last)


class Preprocessor(nn.Module):
    """Converts images between 0 and 1 to the channels, size and normalisation that a network takes.

    Images with another number of channels are greyscale: their first channel is repeated over the channels that the
    network takes. Images of another size are resized bilinearly with antialiasing, regardless of their proportions.

    Args:
        mean: Mean of each channel that the network takes, as a share of the full scale.
        std: Standard deviation of each channel, likewise.
        size: Height and width to resize to; None leaves images as they are.
        channels_last: Return images in NHWC memory order.

    Example:
        >>> import torch
        >>> Preprocessor((0.5,) * 3, (0.25,) * 3, size=(16, 16))(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        mean: Iterable[float],
        std: Iterable[float],
        size: tuple[int, int] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), converted."""
        channels = len(self.mean)
        if images.shape[1] != channels:
            images = images[:, :1].expand(-1, channels, -1, -1)
        if self.size is not None and images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return ((images - self.mean) / self.std).contiguous(memory_format=self.order)


class Preprocessed(nn.Module):
    """A network that takes images between 0 and 1 and preprocesses them itself.

    Args:
        network: The network.
        preprocessor: Run before it.
    """

    def __init__(self, network: nn.Module, preprocessor: Preprocessor) -> None:
        super().__init__()
        self.network = network
        self.preprocessor = preprocessor

    def forward(self, images: Tensor) -> Tensor:
        """The output of the network for images (B, C, H, W)."""
        return self.network(self.preprocessor(images))


@dataclass(frozen=True)
class ProbeConversion:
    """Converts a probe to a network's images; sample count and labels are unchanged.

    Attributes:
        preprocessing: The input that the network needs; mean and standard deviation are known.
        mean: Mean of each channel that a probe is taken to be normalised by if its origin does not say.
        std: Standard deviation of each channel, likewise.
        identity: A text that distinguishes this conversion from others; it is part of the new fingerprint.
    """

    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str

    def config(self) -> dict[str, object]:
        """Statistics of the network's and of the data's images, as JSON values."""
        network = self.preprocessing
        return as_json({"mean": network.mean, "std": network.std, "data_mean": self.mean, "data_std": self.std})

    def __call__(self, probe: Probe) -> Probe:
        """The probe as the network sees it."""
        mean, std = (
            torch.tensor(probe.origin.get(key) or default)[: probe.images.shape[1], None, None]
            for key, default in (("mean", self.mean), ("std", self.std))
        )
        images = self.preprocessing.preprocessor()(probe.images * std + mean)
        fingerprint = hashlib.sha256(f"{probe.fingerprint} {self.identity}".encode()).hexdigest()
        converted = {"size": as_json(self.preprocessing.size), **self.config()}
        return replace(
            probe, images=images, fingerprint=fingerprint, origin={**probe.origin, "converted": as_json(converted)}
        )
