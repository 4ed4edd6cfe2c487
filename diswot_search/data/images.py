"""Pixels: decoding, squares and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import DataError


def to_pixels(image: np.ndarray, size: int | None) -> Tensor:
    """Convert an image to RGB pixels between 0 and 1.

    Args:
        image: (H, W, 1) or (H, W, 3) uint8.
        size: Side in pixels of the square to centre-crop and resize (bicubic) to; None keeps the size.

    Returns:
        (3, size, size), or (3, H, W), float32.
    """
    pixels = torch.from_numpy(image if size is None else _middle(image)).permute(2, 0, 1)
    pixels = pixels.float().div(255).expand(3, -1, -1)
    if size is None or pixels.shape[1] == size:
        return pixels
    resized = F.interpolate(pixels[None], size=(size, size), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


def square(image: np.ndarray, size: int | None) -> Tensor:
    """Centre-crop an image to a square and resize it (bicubic).

    Args:
        image: (H, W, C) uint8.
        size: Side of the square in pixels; None keeps the size.

    Returns:
        (C, size, size), or (C, H, W), uint8.
    """
    image = image if size is None else _middle(image)
    if size is None or len(image) == size:
        return torch.from_numpy(image).permute(2, 0, 1)
    return to_pixels(image, size)[: image.shape[2]].mul(255).round().byte()


def _middle(image: np.ndarray) -> np.ndarray:
    """The largest centred square of an image H x W x C."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def check_size(shape: Sequence[int], first: Sequence[int], title: str) -> None:
    """Reject an image whose shape differs from that of the first image.

    Args:
        shape: (C, H, W) of the image.
        first: (C, H, W) of the first image.
        title: Description of the data set in the message.

    Raises:
        DataError: The shapes differ.
    """
    if tuple(shape) != tuple(first):
        sizes = " and ".join(" x ".join(map(str, each)) for each in (first, shape))
        raise DataError(
            f"Images of {title} differ in size: {sizes} (channels x height x width); give image_size to resize them."
        )
