"""Small data sets whose images hold their own numbers, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image, ImageFile

from diswot_search.data.image_sets import ImageSet

SEEDS = st.integers(0, 10_000)


def pixels(images: ImageSet) -> torch.Tensor:
    """All images of a set, uint8, N x 3 x H x W."""
    order = torch.arange(len(images))
    batches = images.batches(order, len(order), device=torch.device("cpu"), augment=None, seed=0)
    return next(iter(batches)).images.mul(255).round().byte()


def numbers(images: ImageSet) -> list[int]:
    """The numbers that images are filled with."""
    return pixels(images)[:, 0, 0, 0].tolist()


def counts(images: ImageSet, classes: int) -> list[int]:
    return torch.bincount(images.labels, minlength=classes).tolist()


def filled(labels: list[int], first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey 4 x 4 images, each filled with its own number, with these labels."""
    index = np.arange(first, first + len(labels), dtype=np.uint8)
    return np.broadcast_to(index[:, None, None], (len(labels), 4, 4)), np.array(labels)


SKEWED = filled([0] * 30 + [1] * 60 + [2] * 10)


def save(path: Path, **splits: tuple[np.ndarray, np.ndarray]) -> str:
    images = {f"{split}_images": pair[0] for split, pair in splits.items()}
    labels = {f"{split}_labels": pair[1] for split, pair in splits.items()}
    members: dict[str, Any] = images | labels
    np.savez(path, **members)
    return str(path)


def write_images(folder: Path, classes: Sequence[str] = "ab", each: int = 10, first: int = 0) -> Path:
    """Write one sub-folder per class; the red channel holds the number of the image."""
    for i in range(each * len(classes)):
        path = folder / classes[i // each] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4 + i % 2), (first + i, 0, 0)).save(path)
    return folder


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that collects each picture that Pillow decodes from now on; headers do not count."""
    decoded: list[object] = []
    load = ImageFile.ImageFile.load

    def counting(image: ImageFile.ImageFile) -> object:
        if image.tile:
            decoded.append(image)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    return decoded
