"""What happens to images before a network sees them: normalisation, size and channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# -- what runs it -------------------------------------------------------------------------------


class Converter(nn.Module):
    """Images of the data, between 0 and 1, as a source was trained to see them.

    Images of another size are resized bilinearly, with antialiasing, and without regard to their proportions. Of grey
    images in three channels, which are equal, one is taken where the source has but one, and the other way round.

    Args:
        size: Height and width that the source was trained on; None leaves them as they are.
        mean: Of each channel that it takes.
        std: Likewise.
        channels_last: Give images in NHWC memory order.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.mean = mean
        self.std = std
        self.normalise = Normalised(mean, std, channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), converted."""
        channels = len(self.mean)
        if images.shape[1] != channels:
            images = images[:, :1].expand(-1, channels, -1, -1)
        if self.size is not None and images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.normalise(images)


class Normalised(nn.Module):
    """Images between 0 and 1 as a network was, or will be, trained to see them.

    Args:
        mean: Of each channel, as a share of the full scale.
        std: Likewise.
        channels_last: Give images in NHWC memory order.
    """

    def __init__(self, mean: Iterable[float], std: Iterable[float], channels_last: bool = False) -> None:
        super().__init__()
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), normalised."""
        return ((images - self.mean) / self.std).contiguous(memory_format=self.order)


class NormalisedLogits(nn.Module):
    """A network after the normalisation of its images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)
