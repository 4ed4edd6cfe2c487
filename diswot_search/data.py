"""Data sets opened by name, and the probe: the one fixed mini-batch that every score of a study is computed on."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import operator
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from .seeding import isolated_random_state

UNLABELLED_LIMIT = 4096
"""Number of samples read for their labels when a data set cannot give a label without decoding its image."""

TRAIN_SPLITS = ("train", "training")
"""Synonyms for the training split."""

EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
"""Synonyms for the validation split."""

_FOLDER_SPLITS = (*TRAIN_SPLITS, *EVAL_SPLITS, "test")

_TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
_TIMM_TORCH_NAMES = (*_TRAIN_AND_TEST, "imagenet", "places365", "inaturalist", "inat", "image_folder", "folder")
"""Names that `timm.data.create_dataset` accepts after `torch/`."""

_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": ((0.2860,) * 3, (0.3530,) * 3),
    "digits": ((0.3053,) * 3, (0.3759,) * 3),
}
"""Mean and standard deviation per channel of the training images, on a scale from 0 to 1."""


class DataError(ValueError):
    """A data set that cannot be read, or a request to it that cannot be met."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The fixed mini-batch of a study. Make one with `create_probe` or `Probe.from_tensors`.

    Attributes:
        images: (B, C, H, W) float32, normalised, on the CPU.
        labels: (B,) int64 class indices, on the CPU.
        num_classes: Number of classes of the data set; the batch need not contain all of them.
        name: Name of the data set.
        fingerprint: SHA-256 in hex of the raw images, the labels and the processing; equal for equal probes.
        origin: How the probe was drawn and normalised, as JSON values.

    Raises:
        DataError: The images have the wrong shape or dtype, NaN or infinite pixels, or number fewer than two; or
            the labels are not integers, not one per image, or outside the classes.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    num_classes: int
    name: str
    fingerprint: str
    origin: dict[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        _check_tensors(self.images, self.labels, self.num_classes, self.name)

    @classmethod
    def from_tensors(
        cls, images: Tensor, labels: Tensor, num_classes: int | None = None, name: str = "tensors"
    ) -> Probe:
        """Make a probe from a batch as it is, without resizing or normalising it.

        Args:
            images: (B, C, H, W) floating point.
            labels: (B,) class indices of any integer dtype.
            num_classes: Number of classes of the data; by default the largest label plus one.
            name: Name of the probe in the study's records.

        Raises:
            DataError: The tensors break one of the rules of the class.

        Example:
            >>> probe = Probe.from_tensors(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1]))
            >>> probe.num_classes, probe.input_size
            (3, (3, 8, 8))
        """
        _check_tensors(images, labels, num_classes, name)
        images = images.detach().to("cpu", torch.float32, copy=True).contiguous()
        labels = labels.detach().to("cpu", torch.int64, copy=True)
        count = num_classes or int(labels.max()) + 1
        fingerprint = _fingerprint([images.numpy(), labels.numpy()], {"num_classes": count})
        return cls(images, labels, count, name, fingerprint, {"batch_size": len(images)})

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image, in pixels."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def config(self) -> dict[str, Any]:
        """Everything that distinguishes this probe from another one, as JSON values."""
        return {
            "name": self.name,
            **self.origin,
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            "fingerprint": self.fingerprint,
        }


def create_probe(
    name: str = "digits",
    *,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    download: bool = False,
    batch_size: int = 64,
    image_size: int | None = None,
    balanced: bool = True,
    seed: int = 0,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Probe:
    """Draw a probe from a data set. Global random state is neither used nor changed.

    Names:
        `digits`: scikit-learn's 1,797 handwritten digits as RGB images. They are part of the installation and have
            one split, `train`.
        `PATH.npz`: an archive with the members `train_images` and `train_labels` (or `test_...`, depending on
            `split`). Images are uint8, N x H x W or N x H x W x C with 1 or 3 channels. A relative path starts at
            `root`.
        `noise`: standard normal pixels; needs `num_classes`.
        `torch/NAME`: a data set of torchvision, by timm's name (`torch/cifar100`) or by its class name in lower
            case (`torch/svhn`).
        `folder` or `folder/PATH`: a folder or tar file of images with one sub-folder per class; folders for splits
            may stand above these.
        `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/NAME`: a data set as timm reads it.

    If a data set cannot give labels without decoding images, the probe is drawn from at most `UNLABELLED_LIMIT`
    samples: the first ones of a stream, or evenly spaced ones of a data set with random access.

    Args:
        name: Name of the data set.
        root: Folder of the data set, if it has one.
        split: Split to draw from.
        download: Let torchvision (or timm's reader) download missing files.
        batch_size: Number of images to draw, at least 2.
        image_size: Side in pixels of the square that each image is centre-cropped and resized (bicubic) to. By
            default images keep their size; digits and noise are 32 x 32.
        balanced: Draw the same number of images from every class, to within one. A batch smaller than the number of
            classes gets one image from each of `batch_size` classes. Otherwise images are drawn uniformly.
        seed: Seed that chooses the images and their order.
        num_classes: Number of classes, if the data set has more than its labels show.
        mean: Mean of each channel on a scale from 0 to 1; needs `std` as well. The default depends on the name:
            known values for CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and digits; ImageNet's values for data that
            timm or torchvision reads; otherwise the values of the drawn images.
            `Probe.origin["statistics"]` records which.
        std: Standard deviation of each channel on the same scale.

    Returns:
        A probe with images of shape (batch_size, 3, H, W).

    Raises:
        DataError: The name or split is unknown, the data set cannot be read, labels lie outside the classes, a
            class is empty although `balanced` is set, the batch is larger than the data set, or an argument is out
            of range.

    Example:
        >>> probe = create_probe("digits", batch_size=20, seed=1)
        >>> tuple(probe.images.shape), probe.num_classes
        ((20, 3, 32, 32), 10)
    """
    return create_probes(
        name,
        1,
        root=root,
        split=split,
        download=download,
        batch_size=batch_size,
        image_size=image_size,
        balanced=balanced,
        seed=seed,
        num_classes=num_classes,
        mean=mean,
        std=std,
    )[0]


def create_probes(
    name: str = "digits",
    count: int = 1,
    *,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    download: bool = False,
    batch_size: int = 64,
    image_size: int | None = None,
    balanced: bool = True,
    seed: int = 0,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> list[Probe]:
    """Draw several probes with the seeds `seed`, `seed + 1`, ... while opening the data set only once.

    Args:
        name: Name of the data set. This and all other arguments have the same meaning as in `create_probe`.
        count: Number of probes to draw, at least 1.

    Returns:
        `count` probes, in the order of their seeds.

    Raises:
        DataError: The same errors as `create_probe`, or a `count` below 1.

    Example:
        >>> [probe.origin["seed"] for probe in create_probes("digits", 3, seed=5)]
        [5, 6, 7]
    """
    for key, value, lowest in (("count", count, 1), ("batch_size", batch_size, 2), ("seed", seed, 0)):
        check_at_least(key, value, lowest)
    for key, optional in (("image_size", image_size), ("num_classes", num_classes)):
        if optional is not None:
            check_at_least(key, optional, 1)
    statistics = given_statistics(mean, std)
    seeds = range(seed, seed + count)
    if name == "noise":
        return [_noise_probe(batch_size, image_size, balanced, s, num_classes, statistics) for s in seeds]

    data = open_data_set(name, None if root is None else Path(root), split, download)
    if batch_size > len(data.labels):
        raise DataError(f"batch_size is {batch_size}, but {data.title} has only {len(data.labels)} images.")
    classes = data.num_classes if num_classes is None else num_classes
    check_labels(data.labels.min(), data.labels.max(), classes, data.title)
    size = 32 if name == "digits" and image_size is None else image_size
    drawing = {"split": split, "batch_size": batch_size, "balanced": balanced, "image_size": size}
    statistics = statistics or data.statistics
    return [_draw_probe(data, name or "folder", classes, statistics, drawing | {"seed": s}) for s in seeds]


# Checks


def check_at_least(key: str, value: int, lowest: int) -> None:
    """Reject a value that is not a whole number of at least `lowest`.

    Args:
        key: Name of the option, for the message.
        value: Value of the option.
        lowest: Smallest value that is allowed.

    Raises:
        DataError: The value is a bool, not an int, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise DataError(f"{key} is {value!r}; it must be a whole number of at least {lowest}.")


def _check_tensors(images: Tensor, labels: Tensor, num_classes: int | None, name: str) -> None:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        kinds = f"{type(images).__name__} and {type(labels).__name__}"
        raise DataError(f"Images and labels of {name!r} are {kinds}; both must be tensors.")
    shape = tuple(images.shape)
    if images.ndim != 4 or min(shape) < 1:
        raise DataError(f"Images of {name!r} have the shape {shape}; it must be (batch, channels, height, width).")
    if not images.is_floating_point():
        raise DataError(f"Images of {name!r} are {images.dtype}; they must be floating point and normalised.")
    check_at_least(f"The batch size of {name!r}", shape[0], 2)
    broken = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise DataError(f"Pixels of {name!r} are NaN or infinite in {len(broken)} images: {listed(broken)}.")
    if labels.shape != shape[:1] or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"Labels of {name!r} are {labels.dtype} with the shape {tuple(labels.shape)}; "
            f"there must be one integer for each of the {shape[0]} images."
        )
    if num_classes is not None:
        check_at_least("num_classes", num_classes, 1)
    lowest, highest = int(labels.min()), int(labels.max())
    check_labels(lowest, highest, highest + 1 if num_classes is None else num_classes, repr(name))


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


def listed(values: Sequence[object], limit: int = 10) -> str:
    """Format the first values for a message, with the number of further ones.

    Example:
        >>> listed([1, 2, 3, 4], limit=2)
        '1, 2 and 2 more'
    """
    text = ", ".join(map(str, values[:limit]))
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"


def _unknown(kind: str, name: str, names: Iterable[str]) -> DataError:
    # A late import, because search_spaces imports timm, which imports torchvision.
    from search_spaces.registry import unknown_name_message

    return DataError(unknown_name_message(kind, name, names))


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


@dataclass(frozen=True)
class _ListReader:
    """Reads images from a list."""

    images: list[np.ndarray]

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [self.images[i] for i in chosen.tolist()]


@dataclass(frozen=True)
class _ArrayReader:
    """Reads images from one array N x H x W x C."""

    images: np.ndarray

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return list(self.images[chosen])


def _draw_probe(
    data: DataSet, name: str, num_classes: int, statistics: Statistics | None, drawing: dict[str, Any]
) -> Probe:
    """Draw and normalise one probe; `drawing` holds the options of the draw, as they are recorded."""
    rng = np.random.default_rng(drawing["seed"])
    indices = _draw(data, num_classes, drawing["batch_size"], drawing["balanced"], rng)
    raw, labels = data.read(indices), data.labels[indices]
    pixels = _stack([to_pixels(image, drawing["image_size"]) for image in raw], data.title)
    # Raw pixels are hashed, because the last bit of the normalised ones may differ between machines.
    processing = {
        "num_classes": num_classes,
        "image_size": drawing["image_size"],
        "statistics": statistics and statistics[1:],
    }
    fingerprint = _fingerprint([*raw, labels], processing)
    statistics = statistics or _statistics_of(pixels, data.title)
    images = (pixels - _per_channel(statistics.mean)) / _per_channel(statistics.std)
    normalised = {"statistics": statistics.origin, "mean": list(statistics.mean), "std": list(statistics.std)}
    return Probe(images, torch.from_numpy(labels), num_classes, name, fingerprint, drawing | normalised)


def _noise_probe(
    batch_size: int,
    image_size: int | None,
    balanced: bool,
    seed: int,
    num_classes: int | None,
    statistics: Statistics | None,
) -> Probe:
    if num_classes is None:
        raise DataError("The data set 'noise' has no classes; give num_classes.")
    if statistics is not None:
        raise DataError("The data set 'noise' is already standard normal; mean and std do not apply.")
    rng = np.random.default_rng(seed)
    size = image_size or 32
    images = rng.standard_normal((batch_size, 3, size, size), dtype=np.float32)
    if balanced:
        shares = _even_shares(np.arange(num_classes), num_classes, batch_size, rng)
        labels = rng.permutation(np.repeat(np.arange(num_classes), shares))
    else:
        labels = rng.integers(num_classes, size=batch_size)
    fingerprint = _fingerprint([images, labels], {"num_classes": num_classes})
    origin = {"batch_size": batch_size, "balanced": balanced, "image_size": size, "seed": seed}
    return Probe(torch.from_numpy(images), torch.from_numpy(labels), num_classes, "noise", fingerprint, origin)


def _draw(data: DataSet, num_classes: int, batch_size: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """Indices of `batch_size` distinct samples, in random order."""
    if not balanced:
        return rng.choice(len(data.labels), batch_size, replace=False)
    class_counts = np.bincount(data.labels, minlength=num_classes)
    empty = np.flatnonzero(class_counts == 0).tolist()
    # A sample of the data set may miss a class by chance; this is harmless if the batch does not need that class.
    if empty and (data.complete or num_classes - len(empty) < min(batch_size, num_classes)):
        raise DataError(
            f"{data.title} has no images of {len(empty)} of its {num_classes} classes: {listed(empty)}. "
            "Set balanced=False, or give another num_classes."
        )
    shares = _even_shares(np.flatnonzero(class_counts), num_classes, batch_size, rng)
    short = [f"{c} ({class_counts[c]} of {shares[c]})" for c in np.flatnonzero(class_counts < shares)]
    if short:
        raise DataError(
            f"{data.title} has too few images for a balanced batch of {batch_size} in the classes {listed(short)}. "
            "Give a smaller batch_size, or set balanced=False."
        )
    by_class = shuffled_by_class(data.labels, rng)
    starts = np.cumsum(class_counts) - class_counts
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return rng.permutation(np.concatenate(chosen))


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


def _even_shares(classes: np.ndarray, num_classes: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Number of images per class, shape (num_classes,); a remainder goes to random ones of `classes`."""
    each, extra = divmod(batch_size, len(classes))
    shares = np.zeros(num_classes, dtype=np.int64)
    shares[rng.permutation(classes)] = each + (np.arange(len(classes)) < extra)
    return shares


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


def _stack(images: Sequence[Tensor], title: str) -> Tensor:
    for image in images:
        check_size(image.shape, images[0].shape, title)
    return torch.stack(list(images))


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


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _statistics_of(pixels: Tensor, title: str) -> Statistics:
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3), correction=0)
    return measured_statistics("probe", mean, std, f"drawn images of {title}")


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


def _known_statistics(name: str) -> Statistics | None:
    """The statistics of the data set that the last part of a name or path begins with, if they are listed here."""
    stem = PurePath(name).stem.lower().replace("-", "_")
    for data_set, (mean, std) in _STATISTICS.items():
        if stem == data_set or stem.startswith(f"{data_set}_"):
            return Statistics(data_set, mean, std)
    return None


def _fingerprint(arrays: Iterable[np.ndarray], processing: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(processing, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# Opening: data sets that are read here


class Whole(NamedTuple):
    """A request to open a data set in full, rather than a sample of it.

    Attributes:
        image_size: Side in pixels of the square that images are resized to; None keeps their size.
        limit: Number of bytes that images held in memory may take.
    """

    image_size: int | None = None
    limit: float = math.inf


def open_data_set(name: str, root: Path | None, split: str, download: bool, whole: Whole | None = None) -> DataSet:
    """Open one split of a data set by its name.

    Args:
        name: One of the names that `create_probe` lists, except `noise`.
        root: Folder of the data set, if it has one.
        split: Split to open.
        download: Download missing files.
        whole: Read all labels, even if this decodes all images, and hold the images of a stream in memory. Without
            it, at most `UNLABELLED_LIMIT` samples are decoded for their labels.

    Raises:
        DataError: The name or split is unknown, the data set cannot be read, or a stream is too large. If a library
            rejected the split, the error's cause is the library's `ValueError`.

    Example:
        >>> digits = open_data_set("digits", None, "train", download=False)
        >>> len(digits.labels), digits.num_classes
        (1797, 10)
    """
    if name == "digits":
        return _open_digits(split)
    if name.endswith(".npz"):
        return _open_npz(name, root or Path(), split)
    return _open_with_timm(name, root, split, download, whole)


def split_names(name: str, root: Path | None) -> tuple[str, ...] | None:
    """List the splits of a data set without opening it.

    Args:
        name: One of the names that `create_probe` lists, except `noise`.
        root: Folder of the data set, if it has one.

    Returns:
        The names of the splits, or None if only the library that reads the data set knows them.

    Raises:
        DataError: An archive cannot be read.
    """
    prefix, _, rest = name.partition("/")
    if name == "digits":
        return ("train",)
    if name.endswith(".npz"):
        return _splits_of_npz((root or Path()) / name)
    if prefix in ("", "folder") or name in ("torch/folder", "torch/image_folder"):
        folder = _joined(root, "" if prefix == "torch" else rest) or Path()
        return tuple(split for split in _FOLDER_SPLITS if (folder / split).is_dir()) or ("train",)
    if prefix == "torch":
        return _splits_of_torch(rest.lower())
    # A WebDataset has no named splits: its splits are its files.
    return None if prefix in ("hfds", "hfids", "tfds") else ()


def _open_digits(split: str) -> DataSet:
    with isolated_random_state(0):  # importing scikit-learn draws from the global random generator
        from sklearn.datasets import load_digits

    if split != "train":
        raise DataError(f"Unknown split {split!r} of 'digits'; it has only 'train'.")
    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return DataSet("'digits'", labels, _ArrayReader(images), 10, _known_statistics("digits"))


def _open_npz(name: str, root: Path, split: str) -> DataSet:
    path = root / name
    title = f"split {split!r} of {str(path)!r}"
    return data_set_of_arrays(*_read_npz(path, split), title, _known_statistics(name))


def data_set_of_arrays(images: np.ndarray, labels: np.ndarray, title: str, statistics: Statistics | None) -> DataSet:
    """Make a data set of two arrays.

    Args:
        images: (N, H, W) or (N, H, W, 1 or 3) uint8.
        labels: (N,) or (N, 1) integers.
        title: Description of the data set in messages.
        statistics: Mean and standard deviation to normalise by; None to measure them on the images in use.

    Raises:
        DataError: An array has the wrong shape or dtype.
    """
    images = _checked_images(images, title)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"Labels of {title} are {labels.dtype} with the shape {labels.shape}; "
            f"there must be one integer for each of the {len(images)} images."
        )
    labels = labels.astype(np.int64)
    classes = int(labels.max(initial=-1)) + 1
    return DataSet(title, labels, _ArrayReader(images), classes, statistics)


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one split, unchecked."""
    if not path.is_file():
        neighbours = [str(other) for other in path.parent.glob("*.npz")]
        if neighbours:
            raise _unknown("file", str(path), neighbours)
        raise DataError(f"The file {str(path)!r} does not exist, and its folder has no other .npz file.")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file) and not _is_single_array(file):
                raise DataError(f"Cannot read {str(path)!r}: it is not a complete npz archive.")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} is a single array; it must be an archive written by numpy.savez.")
            members = archive.files
            splits = _splits_of_members(members)
            if split not in splits:
                raise DataError(
                    f"{str(path)!r} has no split {split!r}: '{split}_images' and '{split}_labels' are needed, "
                    f"but it has {listed(members) or 'no members'}. Its splits: {listed(splits) or 'none'}."
                )
            return archive[f"{split}_images"], archive[f"{split}_labels"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _is_single_array(file: BinaryIO) -> bool:
    """Whether `numpy.save` wrote the file."""
    file.seek(0)
    return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def _splits_of_npz(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _splits_of_members([member.removesuffix(".npy") for member in archive.namelist()])
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _splits_of_members(members: list[str]) -> tuple[str, ...]:
    splits = (member.removesuffix("_images") for member in members if member.endswith("_images"))
    return tuple(split for split in splits if f"{split}_labels" in members)


def _checked_images(images: np.ndarray, title: str) -> np.ndarray:
    """The images as N x H x W x C, after a check of dtype and shape."""
    if images.dtype != np.uint8:
        broken = images.dtype.kind == "f" and not np.isfinite(images).all()
        kind = f"{images.dtype} with NaN or infinite values" if broken else str(images.dtype)
        raise DataError(f"Images of {title} are {kind}; they must be uint8, 0 to 255.")
    with_channels = images[..., None] if images.ndim == 3 else images
    if with_channels.ndim != 4 or with_channels.shape[-1] not in (1, 3) or min(with_channels.shape[1:]) < 1:
        raise DataError(
            f"Images of {title} have the shape {images.shape}; it must be N x H x W or N x H x W x (1 or 3)."
        )
    return with_channels


# Opening: data sets that timm or torchvision reads


def _open_with_timm(name: str, root: Path | None, split: str, download: bool, whole: Whole | None) -> DataSet:
    title = f"split {split!r} of {name or 'folder'!r}" + (f" in {str(root)!r}" if root else "")
    reader: Callable[[np.ndarray], list[np.ndarray]]
    files, complete = None, True
    with _naming(title):
        dataset = _create_dataset(name, root, split, download)
        stream = isinstance(dataset, IterableDataset)
        if stream and whole is not None:
            images, labels = _read_stream(dataset, whole, title)
            reader = _ListReader(images)
        else:
            limit = None if whole else UNLABELLED_LIMIT
            positions, labels, complete = (_labels_of_stream if stream else _labels_of)(dataset, limit, title)
            reader = _Reader(dataset, positions, labels, title)
            files = reader.files if _has_files(dataset) else None
    statistics = _known_statistics(name) or _imagenet_statistics()
    classes = _class_names(dataset)
    count = len(classes) if classes else int(labels.max(initial=-1)) + 1
    return DataSet(title, labels, reader, count, statistics, complete, classes, stream, files)


def _labels_of_stream(dataset: Any, limit: int | None, title: str) -> tuple[np.ndarray, np.ndarray, bool]:
    labels = np.array([_as_label(row[1], title) for row in itertools.islice(dataset, limit)], int)
    return np.arange(len(labels)), labels, limit is None or len(labels) < limit


def _read_stream(dataset: Any, whole: Whole, title: str) -> tuple[list[np.ndarray], np.ndarray]:
    """All images of a stream, each resized as it is read, and their labels."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for image, label, *_ in dataset:
        pixels = square(_as_rgb(image, title), whole.image_size).permute(1, 2, 0).contiguous().numpy()
        if (len(images) + 1) * pixels.nbytes > whole.limit:
            raise no_random_access(title)
        images.append(pixels)
        labels.append(_as_label(label, title))
    return images, np.array(labels, int)


def no_random_access(title: str) -> DataError:
    """The error for a stream whose images exceed the memory limit."""
    return DataError(
        f"{title} has no random access, so its images must be held in memory, but they exceed resident_limit; "
        "give a smaller image_size or a larger resident_limit."
    )


def _labels_of(dataset: Any, limit: int | None, title: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions of the samples whose labels were read, these labels, and whether the samples are all of them."""
    size = len(dataset)
    labels = _labels_without_images(dataset)
    if labels is not None:
        return np.arange(size), labels, True
    count = size if limit is None else min(size, limit)
    positions = np.linspace(0, size - 1, count).round().astype(int)
    labels = np.array([_as_label(_named_row(dataset, i, title)[1], title) for i in positions.tolist()], int)
    return positions, labels, count == size


@dataclass(frozen=True)
class _Reader:
    """Reads images of a timm or torchvision data set; `labels` are those of the samples at `positions`."""

    dataset: Any
    positions: np.ndarray
    labels: np.ndarray
    title: str

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        with _naming(self.title):
            try:
                rows = _rows(self.dataset, self.positions[chosen].tolist(), self.title)
            finally:
                _close_tar_files(self.dataset)
            if [_as_label(label, self.title) for _, label in rows] != self.labels[chosen].tolist():
                raise DataError(f"Labels of {self.title} changed between two reads.")
            return [_as_rgb(image, self.title) for image, _ in rows]

    def files(self, chosen: np.ndarray) -> list[str]:
        """File names of the images, relative to the folder of the data set."""
        positions = self.positions[chosen].tolist()
        if hasattr(self.dataset, "reader"):
            return [str(self.dataset.filename(position)) for position in positions]
        samples = _samples_of(self.dataset)
        return [os.path.relpath(samples[position][0], self.dataset.root) for position in positions]


@contextmanager
def _naming(title: str | Callable[[], str]) -> Iterator[None]:
    """Turn an error of timm, torchvision or Pillow into a `DataError` that names the data set."""
    try:
        yield
    except DataError:
        raise
    except (
        *(AssertionError, ImportError, LookupError, OSError, RuntimeError),
        *(TypeError, ValueError, EOFError, tarfile.TarError),
    ) as error:
        title = title() if callable(title) else title
        raise DataError(f"Cannot read {title}: {str(error) or type(error).__name__}") from error


def _imagenet_statistics() -> Statistics:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return Statistics("imagenet", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _create_dataset(name: str, root: Path | None, split: str, download: bool) -> Any:
    """The data set object of timm or torchvision."""
    import timm.data

    prefix, _, rest = name.partition("/")
    if prefix in ("", "folder"):
        return _create_folder("", _joined(root, rest), split)
    if prefix == "torch":
        return _create_torch(rest.lower(), root, split, download)
    if prefix in ("hfds", "hfids", "tfds", "wds") and rest:
        folder_name = None if root is None else str(root)
        return timm.data.create_dataset(name, root=folder_name, split=split, download=download)
    names = ("digits", "noise", "PATH.npz", "folder", "folder/PATH", "hfds/NAME", "hfids/NAME", "tfds/NAME", "wds/NAME")
    if (folder := _joined(root, name)) is not None and folder.is_dir():
        raise DataError(f"Unknown data set {name!r}. To read the folder {str(folder)!r}, give 'folder/{name}'.")
    raise _unknown("data set", name, (*names, *(f"torch/{n}" for n in _TIMM_TORCH_NAMES)))


def _joined(root: Path | None, rest: str) -> Path | None:
    return (root or Path()) / rest if rest else root


def _existing(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"The data set {name!r} needs root, the folder that contains it.")
    if not root.exists():
        raise DataError(f"The folder {str(root)!r} of the data set {name!r} does not exist.")
    return root


def _create_folder(reader: str, root: Path | None, split: str) -> Any:
    """A folder or tar file with one folder per class, read by timm ("") or torchvision ("torch/image_folder")."""
    import timm.data

    root = _folder_of_split(_existing(root, reader or "folder"), split)
    if root.is_dir():
        return timm.data.create_dataset(reader, root=str(root), search_split=False)
    if root.suffix != ".tar":
        raise DataError(f"{str(root)!r} is a file; it must be a folder of images, or a .tar file of such a folder.")
    # timm would store the table of contents of a large tar file as a pickle next to it, and later unpickle that.
    return timm.data.create_dataset(reader, root=str(root), search_split=False, cache_tarinfo=False)


def _folder_of_split(root: Path, split: str) -> Path:
    """The sub-folder of the split, or `root` itself if it has no sub-folders for splits."""
    synonyms = next((group for group in (TRAIN_SPLITS, EVAL_SPLITS) if split in group), ())
    for folder in (split, *synonyms):
        if (root / folder).is_dir():
            return root / folder
    present = [k for k in _FOLDER_SPLITS if (root / k).is_dir()]
    if present or split not in _FOLDER_SPLITS:
        raise _unknown(f"split in {str(root)!r}:", split, present or _FOLDER_SPLITS)
    return root


def _create_torch(name: str, root: Path | None, split: str, download: bool) -> Any:
    import timm.data

    if name in ("folder", "image_folder"):
        return _create_folder("torch/image_folder", root, split)
    if name in _TIMM_TORCH_NAMES:
        if name in _TRAIN_AND_TEST:
            _is_training(split)
        root = root if download and root else _existing(root, f"torch/{name}")
        return timm.data.create_dataset(f"torch/{name}", root=str(root), split=split, download=download)
    classes = _torchvision_classes()
    if name not in classes:
        names = (*_TIMM_TORCH_NAMES, *classes)
        raise _unknown("data set", f"torch/{name}", (f"torch/{n}" for n in names))
    return _create_torchvision(classes[name], name, root, split, download)


def _is_training(split: str) -> bool:
    splits = (*TRAIN_SPLITS, "test", *EVAL_SPLITS)
    if split not in splits:
        raise _unknown("split", split, splits)
    return split in TRAIN_SPLITS


def _torchvision_classes() -> dict[str, Callable[..., Any]]:
    """Data sets of torchvision by class name in lower case, except those that timm names."""
    from torchvision import datasets

    taken = {name.replace("_", "") for name in _TIMM_TORCH_NAMES}
    members = {name.lower(): getattr(datasets, name) for name in datasets.__all__}
    return {name: cls for name, cls in members.items() if inspect.isclass(cls) and name not in taken}


def _splits_of_torch(name: str) -> tuple[str, ...] | None:
    """The splits of a torchvision data set; None if only its class knows them."""
    if name in _TIMM_TORCH_NAMES:
        return ("train", "test") if name in _TRAIN_AND_TEST else ("train", "val")
    accepted = inspect.signature(_torchvision_classes()[name]).parameters
    if "split" in accepted:
        return None
    return ("train", "test") if "train" in accepted else ("train",)


def _create_torchvision(cls: Callable[..., Any], name: str, root: Path | None, split: str, download: bool) -> Any:
    """Call a torchvision class with the arguments that its signature accepts."""
    accepted = inspect.signature(cls).parameters
    options: dict[str, Any] = {}
    if "root" in accepted:
        options["root"] = str(root if download and root else _existing(root, f"torch/{name}"))
    if "download" in accepted:
        options["download"] = download
    if "split" in accepted:
        options["split"] = split
    elif "train" in accepted:
        options["train"] = _is_training(split)
    elif split != "train":
        raise DataError(f"Unknown split {split!r} of 'torch/{name}'; it has only 'train'.")
    return cls(**options)


# Rows of an opened timm or torchvision data set


def _labels_without_images(dataset: Any) -> np.ndarray | None:
    """(N,) int64 labels of all samples, or None if the data set cannot give them without decoding images."""
    for candidate in _label_candidates(getattr(dataset, "reader", dataset)):
        try:
            labels = np.asarray(candidate)
        except ValueError:  # a ragged list holds annotations, not labels
            continue
        if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    return None


def _label_candidates(owner: Any) -> Iterator[Any]:
    """The attributes in which torchvision data sets and timm readers keep labels."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(owner, attribute):
            yield getattr(owner, attribute)
    for attribute in ("samples", "_samples"):
        if hasattr(owner, attribute):
            yield [sample[-1] for sample in getattr(owner, attribute)]
    if hasattr(owner, "label_key"):  # a Hugging Face data set: reading one column decodes no image
        yield list(owner.dataset[owner.label_key])


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    reader = getattr(dataset, "reader", None)
    for owner, attribute in ((dataset, "classes"), (reader, "class_to_idx"), (reader, "class_name_to_idx")):
        names = getattr(owner, attribute, None)
        if names:
            return tuple(map(str, names))
    return None


def _rows(dataset: Any, positions: list[int], title: str) -> list[tuple[Any, Any]]:
    """Image and label at each of the positions."""
    if not isinstance(dataset, IterableDataset):
        return [_named_row(dataset, i, title) for i in positions]
    distinct = set(positions)
    stream = enumerate(itertools.islice(dataset, max(positions) + 1))
    rows = {i: (row[0], row[1]) for i, row in stream if i in distinct}
    if len(rows) < len(distinct):
        raise EOFError("the stream is shorter than it was when its labels were read")
    return [rows[i] for i in positions]


def _close_tar_files(dataset: Any) -> None:
    """Close the tar files of timm's reader.

    Worker processes that inherit an open file share its position, so that one would read at the place of another.
    """
    states = getattr(getattr(dataset, "reader", None), "tar_state", {})
    pending = list(states.values()) if isinstance(states, dict) else [states]
    while pending:
        state = pending.pop()
        pending.extend(state.children.values())
        if state.tf is not None:
            state.tf.close()
        state.reset()


def _named_row(dataset: Any, position: int, title: str) -> tuple[Any, Any]:
    """The decoded image and the label of a sample; an error names the file."""
    from PIL import Image

    with _naming(lambda: f"{_file_of(dataset, position)} of {title}"):
        try:
            image, label = _row(dataset, position)
            if isinstance(image, Image.Image):
                image.load()
        except (SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises these for broken files as well
            raise OSError(str(error)) from error
        return image, label


def _file_of(dataset: Any, position: int) -> str:
    """The file of a sample, or its position if it has no file, for a message."""
    if hasattr(dataset, "reader"):
        file = dataset.filename(position, absolute=True)
    else:
        samples = _samples_of(dataset)
        file = samples[position][0] if isinstance(samples, list) else None
    return repr(str(file)) if isinstance(file, str | PurePath) else f"image {position}"


def _samples_of(dataset: Any) -> Any:
    return getattr(dataset, "samples", getattr(dataset, "_samples", None))


def _has_files(dataset: Any) -> bool:
    """Whether each image is a file whose name is known without reading it."""
    samples = _samples_of(getattr(dataset, "reader", dataset))
    if hasattr(dataset, "reader"):
        return samples is not None
    return isinstance(samples, list) and bool(samples) and isinstance(samples[0][0], str | PurePath)


def _row(dataset: Any, position: int) -> tuple[Any, Any]:
    from PIL import Image

    if not hasattr(dataset, "reader"):
        image, label = dataset[position][:2]
        return image, label
    # This bypasses timm's own indexing, which replaces an image that it cannot decode by the next one.
    file, label = dataset.reader[position][:2]
    with file:
        return Image.open(file).convert("RGB"), label


def _as_label(label: Any, title: str) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise DataError(f"Labels of {title} are {type(label).__name__}; they must be integers.") from None


def _as_rgb(image: Any, title: str) -> np.ndarray:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise DataError(f"Samples of {title} are {type(image).__name__}; they must be images.")
    return np.array(image.convert("RGB"))
