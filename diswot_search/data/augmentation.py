"""Random augmentation of training images: on batches of tensors, or on single images with timm's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_whole
from ..runtime.seeding import stable_seed
from .errors import DataError

KINDS = ("crop_flip", "random_resized_crop", "none")
"""The kinds of augmentation; see `Augmentation.kind`."""


_ERASED_AREA = (0.02, 1 / 3)
"""Smallest and largest share of the area that random erasing fills."""


_ERASED_RATIO = (0.3, 1 / 0.3)
"""Smallest and largest ratio of height to width of an erased rectangle."""


MAX_PADDING = 1024
"""The widest black border, in pixels; images with a wider one take gigabytes."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Padded crops, flips and erased rectangles are applied to whole batches on the device. The other changes are
    transforms of timm, which worker processes apply to one image at a time.

    Attributes:
        kind: `crop_flip` crops each image, at its own size, from the image with a black border;
            `random_resized_crop` crops a random part and resizes it to the size of the image; `none` changes nothing.
        padding: Width of the black border in pixels.
        flip: Probability of exchanging left and right.
        erase: Probability of filling a rectangle of 2% to 33% of the area with one random colour.
            Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
        auto_augment: A policy in timm's notation, such as `rand-m9-mstd0.5` or `augmix-m5-w4`; None for none.
        color_jitter: Strength of random brightness, contrast and saturation, at least 0. As in timm, it has no effect
            together with `auto_augment`.
        scale: Smallest and largest share of the area that a `random_resized_crop` takes.
        ratio: Smallest and largest ratio of width to height of a `random_resized_crop`.

    Raises:
        DataError: The kind or the policy is unknown, or a value is out of range.

    Example:
        >>> augment = Augmentation(padding=2, erase=0.25)
        >>> images = torch.rand(4, 3, 32, 32)
        >>> augment.apply(images, augment.draw(seed=0, number=0, first=0, last=4, height=32, width=32)).shape
        torch.Size([4, 3, 32, 32])
    """

    kind: str = "crop_flip"
    padding: int = 4
    flip: float = 0.5
    erase: float = 0.0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"Unknown augmentation {self.kind!r}. Known: {', '.join(KINDS)}.")
        check_whole("padding", self.padding, least=0, most=MAX_PADDING, error=DataError)
        for key, value in (("flip", self.flip), ("erase", self.erase)):
            if not 0 <= value <= 1:
                raise DataError(f"{key} is {value}; it must be a probability between 0 and 1.")
        if not 0 <= self.color_jitter < math.inf:
            raise DataError(f"color_jitter is {self.color_jitter}; it must be a finite number of at least 0.")
        _check_range("scale", self.scale, 1.0)
        _check_range("ratio", self.ratio, math.inf)
        if self.kind == "none" and (self.erase or self.auto_augment or self.color_jitter):
            raise DataError(
                "The augmentation 'none' changes nothing; erase, auto_augment and color_jitter need another kind."
            )
        if self.auto_augment is not None:
            try:
                self.transform(32, 32)
            except (AssertionError, LookupError, TypeError, ValueError) as error:
                raise DataError(
                    f"auto_augment is {self.auto_augment!r}, which timm does not accept: {error}"
                ) from error

    @property
    def by_image(self) -> bool:
        """Whether timm's transforms are needed, which process one image at a time."""
        return self.kind == "random_resized_crop" or self.auto_augment is not None or self.color_jitter > 0

    def config(self) -> dict[str, object]:
        """All settings as JSON values."""
        return asdict(self) | {"scale": list(self.scale), "ratio": list(self.ratio)}

    def transform(self, height: int, width: int) -> Callable[[object], object]:
        """timm's transform of a Pillow image to an array (3, height, width), uint8.

        The transform draws from the global random generators. Unless the kind is `random_resized_crop`, the image
        must already have this size, and keeps it.

        Args:
            height: Height of the result in pixels.
            width: Width of the result in pixels.
        """
        from timm.data import create_transform

        # A crop of the whole area at the ratio of the image is the image itself.
        whole = self.kind != "random_resized_crop"
        jitter: Any = self.color_jitter or None
        return create_transform(
            (3, height, width),
            is_training=True,
            use_prefetcher=True,  # makes the result uint8
            scale=(1.0, 1.0) if whole else self.scale,
            ratio=(width / height, width / height) if whole else self.ratio,
            hflip=0.0,
            color_jitter=jitter,
            auto_augment=self.auto_augment,
            interpolation="bicubic",
        )

    def draw(self, seed: int, number: int, first: int, last: int, height: int, width: int) -> Tensor:
        """Draw the random parameters of the images at the places `first` to `last` (exclusive) of a batch.

        They depend only on the seed, the number of the batch and the place in it.

        Args:
            seed: Seed of the random changes.
            number: Number of the batch.
            first: Place of the first image.
            last: Place after the last image.
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Returns:
            (last - first, 10) int64. For each image: row and column of the corner of its crop, relative to the
            image; 1 if it is flipped; first row, end row, first column and end column (exclusive) of the erased
            rectangle; and three colour values from 0 to 255.
        """
        uniform = np.random.default_rng(stable_seed(seed, number)).random((last, 11))[first:].T
        padding = self.padding if self.kind == "crop_flip" else 0
        corner = np.floor(uniform[:2] * (2 * padding + 1)) - padding
        flipped = uniform[2] < self.flip
        area = height * width * _between(uniform[4], *_ERASED_AREA)
        ratio = np.exp(_between(uniform[5], *map(math.log, _ERASED_RATIO)))
        erased = uniform[3] < self.erase
        tall = np.minimum(np.round(np.sqrt(area * ratio)), height) * erased
        wide = np.minimum(np.round(np.sqrt(area / ratio)), width) * erased
        top, left = np.floor(uniform[6] * (height - tall + 1)), np.floor(uniform[7] * (width - wide + 1))
        colour = np.floor(uniform[8:] * 256)
        drawn = np.stack([*corner, flipped, top, top + tall, left, left + wide, *colour], axis=1)
        return torch.from_numpy(drawn.astype(np.int64))

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop, flip and erase images on their device.

        Args:
            images: (B, C, H, W) floating point, between 0 and 1.
            drawn: (B, 10) int64 parameters from `draw`, on the same device.

        Returns:
            Images of the same shape.
        """
        if self.kind == "none":
            return images
        top, left, flipped = drawn.T[:3]
        border = self.padding if self.kind == "crop_flip" else 0
        images = _crop_and_flip(images, top + border, left + border, flipped.bool(), border)
        return _erase(images, drawn[:, 3:7], drawn[:, 7:]) if self.erase else images


def _check_range(key: str, values: tuple[float, float], highest: float) -> None:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= highest or not math.isfinite(values[1]):
        bound = f", at most {highest:g}" if math.isfinite(highest) else ""
        raise DataError(f"{key} is {values}; it must be two numbers above 0{bound}, the smaller one first.")


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniform


def _crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, border: int) -> Tensor:
    """Crop images at their own size from these corners, (B,) each, of the images with a black border."""
    _, channels, height, width = images.shape
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    padded = F.pad(images, [border] * 4)
    # Two gathers along one axis each are several times faster than indexing with four index tensors.
    padded = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    return padded.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def _erase(images: Tensor, rectangles: Tensor, colours: Tensor) -> Tensor:
    """Fill a rectangle of each image: (B, 4) top, bottom, left, right, with a colour (B, 3) from 0 to 255."""
    top, bottom, left, right = rectangles.T[..., None]
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    rows, columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    fill = colours[:, : images.shape[1], None, None].to(images.dtype).div(255)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], fill, images)
