"""A data set as the rest sees it: images by index, labels, and statistics of its channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import DataError
from .inventory import Inventory
from .pictures import GreyRange

_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": ((0.2860,) * 3, (0.3530,) * 3),
    "digits": ((0.3053,) * 3, (0.3759,) * 3),
}
"""Mean and standard deviation per channel of the training images, on a scale from 0 to 1."""


def check_labels(lowest: int, highest: int, num_classes: int, title: str) -> None:
    """Reject labels if the lowest or the highest of them lies outside the classes.

    Args:
        lowest: Smallest label.
        highest: Largest label.
        num_classes: Number of classes.
        title: Description of the data set in the message.

    Raises:
        DataError: A label is negative, or not below `num_classes`.
    """
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"Labels of {title} run from {lowest} to {highest}; with {num_classes} classes "
            f"they must lie between 0 and {num_classes - 1}."
        )


# Drawing and normalising


class Statistics(NamedTuple):
    """Mean and standard deviation of the three channels on a scale from 0 to 1, and their origin.

    Attributes:
        origin: Where the values come from: the name of a data set, "imagenet", "given", "probe" or "train".
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DataSet:
    """An opened data set: its labels are in memory, its images are read on demand.

    Attributes:
        title: Description of the data set in messages.
        labels: (N,) int64 class indices.
        read: Reads the images at an array of indices into `labels`; each image is uint8, H x W x 1 or H x W x 3.
        num_classes: Number of classes.
        statistics: Mean and standard deviation to normalise by; None to measure them on the images in use.
        complete: Whether `labels` covers all samples, rather than those that were sampled for their labels.
        classes: Names of the classes in order, if they have names.
        stream: Whether the data set lacks random access.
        files: Returns the file names of the images at an array of indices; None unless each image is a file.
        inventory: What was found when it was opened; None if nothing is known before images are read.
        folder: The folder or tar file of this split; None for other data sets.
        keys: (N,) numbers of the images' files, equal for the same file; None for other data sets.
        advice: What helps if there is one class only, for a message.
        problems: Reasons why its images cannot be used as asked, for one message with those of other splits.
        readable: Returns the data set without images that cannot be read, those at these indices among them; None if
            its images are no files.
        notes_on: Returns notes on the images at these indices, if there is anything to note once they are read.
    """

    title: str
    labels: np.ndarray
    read: Callable[[np.ndarray], list[np.ndarray]]
    num_classes: int
    statistics: Statistics | None
    complete: bool = True
    classes: tuple[str, ...] | None = None
    stream: bool = False
    files: Callable[[np.ndarray], list[str]] | None = None
    inventory: Inventory | None = None
    folder: str | None = None
    keys: np.ndarray | None = None
    advice: str = ""
    problems: tuple[str, ...] = ()
    readable: Callable[[np.ndarray], DataSet] | None = None
    notes_on: Callable[[np.ndarray], list[str]] | None = None


@dataclass(frozen=True)
class ListReader:
    """Reads images from a list."""

    images: list[np.ndarray]

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [self.images[i] for i in chosen.tolist()]


@dataclass(frozen=True)
class ArrayReader:
    """Reads images from one array N x H x W x C."""

    images: np.ndarray

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return list(self.images[chosen])


def shuffled_by_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of all samples, ordered by class, and in random order within a class.

    Args:
        labels: (N,) class indices.
        rng: Generator that decides the order.

    Returns:
        (N,) permutation of the indices.
    """
    shuffled = rng.permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def measured_statistics(origin: str, mean: Tensor, std: Tensor, title: str) -> Statistics:
    """Round measured statistics to the six digits that are recorded and used.

    Args:
        origin: Where the values come from, such as "probe" or "train".
        mean: (3,) mean of each channel on a scale from 0 to 1.
        std: (3,) standard deviation of each channel.
        title: Description of the images in the message.

    Raises:
        DataError: A channel is constant, so that it cannot be normalised.
    """
    if std.min() < 1e-6:
        raise DataError(f"A channel is constant over all {title} and cannot be normalised; give mean and std.")
    return Statistics(origin, *(tuple(round(value, 6) for value in values.tolist()) for values in (mean, std)))


def given_statistics(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Statistics | None:
    """Check a mean and a standard deviation that the user gave.

    Args:
        mean: One value, or one for each of three channels, on a scale from 0 to 1; None for the default.
        std: The standard deviation, in the same form; above 0.

    Returns:
        The statistics, or None if neither is given.

    Raises:
        DataError: Only one of the two is given, or a value is not finite or out of range.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise DataError(f"mean is {mean} and std is {std}; give both or neither.")
    return Statistics("given", _three("mean", mean, -math.inf), _three("std", std, 0.0))


def _three(key: str, value: float | Sequence[float], above: float) -> tuple[float, ...]:
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(math.isfinite(v) and v > above for v in values):
        bound = "" if above < 0 else f" above {above:g}"
        raise DataError(f"{key} is {value}; it must be one or three finite numbers{bound}.")
    return values


def known_statistics(name: str) -> Statistics | None:
    """The statistics of the data set that the last part of a name or path begins with, if they are listed here."""
    stem = PurePath(name).stem.lower().replace("-", "_")
    for data_set, (mean, std) in _STATISTICS.items():
        if stem == data_set or stem.startswith(f"{data_set}_"):
            return Statistics(data_set, mean, std)
    return None


def imagenet_statistics() -> Statistics:
    """The statistics of ImageNet, for data that timm or torchvision read as well."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return Statistics("imagenet", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


# Opening


class Whole(NamedTuple):
    """A request to open a data set in full, rather than a sample of it.

    Attributes:
        image_size: Side in pixels of the square that images are resized to; None keeps their size.
        limit: Number of bytes that images held in memory may take.
    """

    image_size: int | None = None
    limit: float = math.inf


class OpenRequest(NamedTuple):
    """How a data set is opened.

    Attributes:
        download: Download missing files.
        whole: Open it in full; None opens a sample for a probe.
        grey_range: The values of 16- and 32-bit grey images that become black and white; None refuses such images.
    """

    download: bool = False
    whole: Whole | None = None
    grey_range: GreyRange | None = None
