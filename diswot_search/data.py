"""Data sets by name, and the probe: the one fixed mini-batch that every score of a study is computed on."""

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
"""Samples that are read to learn their labels, where a data set gives no label without decoding its image."""

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")

_FOLDER_SPLITS = (*TRAIN_SPLITS, *EVAL_SPLITS, "test")

_TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
_TIMM_TORCH_NAMES = (*_TRAIN_AND_TEST, "imagenet", "places365", "inaturalist", "inat", "image_folder", "folder")
"""What `timm.data.create_dataset` knows under `torch/`."""

_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": ((0.2860,) * 3, (0.3530,) * 3),
    "digits": ((0.3053,) * 3, (0.3759,) * 3),
}
"""Mean and standard deviation by channel of the training images, as shares of the full scale."""


class DataError(ValueError):
    """A data set, or a request for a probe of it, that cannot be met."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The fixed mini-batch of a study. Make one with `create_probe` or `Probe.from_tensors`.

    Attributes:
        images: B x C x H x W, float32, normalised, on the CPU.
        labels: B class indices, int64, on the CPU.
        num_classes: Classes of the data, whether or not all of them are in the batch.
        name: The data set's name.
        fingerprint: SHA-256 in hex of what the probe was made of; equal for equal probes.
        source: How the probe was drawn and normalised, as JSON values.

    Raises:
        DataError: Images of another shape or kind, NaN or infinite pixels, fewer than two images, labels that
            are no integers, too few or too many, or outside the classes.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    num_classes: int
    name: str
    fingerprint: str
    source: dict[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        _check_tensors(self.images, self.labels, self.num_classes, self.name)

    @classmethod
    def from_tensors(
        cls, images: Tensor, labels: Tensor, num_classes: int | None = None, name: str = "tensors"
    ) -> Probe:
        """A probe of one's own batch, taken as it is: nothing is resized or normalised.

        Args:
            images: B x C x H x W, floating point.
            labels: B class indices, any integer type.
            num_classes: Classes of the data; the largest label plus one by default.
            name: What to call it in the study's records.

        Raises:
            DataError: As for the class.
        """
        _check_tensors(images, labels, num_classes, name)
        images = images.detach().to("cpu", torch.float32, copy=True).contiguous()
        labels = labels.detach().to("cpu", torch.int64, copy=True)
        count = num_classes or int(labels.max()) + 1
        fingerprint = _fingerprint([images.numpy(), labels.numpy()], {"num_classes": count})
        return cls(images, labels, count, name, fingerprint, {"batch_size": len(images)})

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def config(self) -> dict[str, Any]:
        """All that tells this probe from another, as JSON values."""
        return {
            "name": self.name,
            **self.source,
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
        `digits`: scikit-learn's 1,797 handwritten digits, as RGB; part of the installation, one split, `train`.
        `PATH.npz`: members `train_images`, `train_labels` (or `test_...`, as `split` says); uint8 images
            N x H x W or N x H x W x C with 1 or 3 channels. `root` goes before a relative path.
        `noise`: standard normal pixels; needs `num_classes`.
        `torch/NAME`: torchvision's, by timm's name (`torch/cifar100`) or by its class's in lower case
            (`torch/svhn`).
        `folder` or `folder/PATH`: a folder or tar file of images, one sub-folder per class, split folders above.
        `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/NAME`: as timm reads them.

    Where labels cannot be had without decoding images, the probe is drawn from at most `UNLABELLED_LIMIT` samples:
    the first of a stream, evenly spaced ones of a data set with random access.

    Args:
        name: The data set.
        root: Its folder, where it has one.
        split: The part of it to draw from.
        download: Let torchvision (or timm's reader) fetch what is missing.
        batch_size: Images to draw, at least 2.
        image_size: Side of the square that images are cut to (the middle) and resized to (bicubic). By default
            images keep their size; digits and noise are 32 x 32.
        balanced: Give every class the same number of images, to within one; where the batch is smaller than the
            number of classes, one image to each of `batch_size` classes. Otherwise draw all images alike.
        seed: Chooses the images and their order.
        num_classes: Classes of the data, where they are more than the data shows.
        mean: Mean of each channel, as a share of the full scale; give `std` with it. By default those of CIFAR-10,
            CIFAR-100, MNIST, Fashion-MNIST and digits by name; ImageNet's for what timm and torchvision read; else
            those of the drawn images. `Probe.source["statistics"]` says which.
        std: Standard deviation of each channel.

    Raises:
        DataError: An unknown name or split, an unreadable data set, labels outside the classes, an empty class
            when balanced, a batch larger than the data, or an argument out of range.
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
    """Draw several probes, with the seeds `seed`, `seed` + 1 and so on, opening the data set once.

    Args:
        name: As for `create_probe`, and so are all the others.
        count: Probes to draw.

    Raises:
        DataError: As for `create_probe`.
    """
    for key, value, lowest in (("count", count, 1), ("batch_size", batch_size, 2), ("seed", seed, 0)):
        check_at_least(key, value, lowest)
    for key, optional in (("image_size", image_size), ("num_classes", num_classes)):
        if optional is not None:
            check_at_least(key, optional, 1)
    given = given_statistics(mean, std)
    seeds = range(seed, seed + count)
    if name == "noise":
        return [_noise_probe(batch_size, image_size, balanced, s, num_classes, given) for s in seeds]

    data = open_data_set(name, None if root is None else Path(root), split, download)
    if batch_size > len(data.labels):
        raise DataError(f"batch_size is {batch_size}, but {data.title} has only {len(data.labels)} images.")
    classes = data.num_classes if num_classes is None else num_classes
    check_labels(data.labels.min(), data.labels.max(), classes, data.title)
    size = 32 if name == "digits" and image_size is None else image_size
    source = {"split": split, "batch_size": batch_size, "balanced": balanced, "image_size": size}
    return [_draw_probe(data, name or "folder", classes, given or data.statistics, source | {"seed": s}) for s in seeds]


# Checks


def check_at_least(key: str, value: int, lowest: int) -> None:
    """Refuse what is no whole number of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise DataError(f"{key} is {value!r}; it must be a whole number of at least {lowest}.")


def _check_tensors(images: Tensor, labels: Tensor, num_classes: int | None, name: str) -> None:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        kinds = f"{type(images).__name__} and {type(labels).__name__}"
        raise DataError(f"Images and labels of {name!r} are {kinds}; they must be tensors.")
    shape = tuple(images.shape)
    if images.ndim != 4 or min(shape) < 1:
        raise DataError(f"Images of {name!r} have the shape {shape}; it must be (batch, channels, height, width).")
    if not images.is_floating_point():
        raise DataError(f"Images of {name!r} are {images.dtype}; they must be floating point, normalised.")
    check_at_least(f"The batch size of {name!r}", shape[0], 2)
    broken = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise DataError(f"NaN or infinite pixels in {name!r}, in {len(broken)} images: {listed(broken)}.")
    if labels.shape != shape[:1] or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"Labels of {name!r} are {labels.dtype} of the shape {tuple(labels.shape)}; "
            f"there must be one integer for each of the {shape[0]} images."
        )
    if num_classes is not None:
        check_at_least("num_classes", num_classes, 1)
    lowest, highest = int(labels.min()), int(labels.max())
    check_labels(lowest, highest, highest + 1 if num_classes is None else num_classes, repr(name))


def check_labels(lowest: int, highest: int, num_classes: int, title: str) -> None:
    """Refuse labels of which the lowest or the highest is outside the classes."""
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"Labels of {title} run from {lowest} to {highest}; with {num_classes} classes "
            f"they must lie between 0 and {num_classes - 1}."
        )


def listed(values: Sequence[object], limit: int = 10) -> str:
    """The first values, and how many more there are."""
    shown = ", ".join(map(str, values[:limit]))
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"


def _unknown(kind: str, name: str, known: Iterable[str]) -> DataError:
    # Imported here, since search_spaces brings timm and timm brings torchvision.
    from search_spaces.registry import unknown_name_message

    return DataError(unknown_name_message(kind, name, known))


# Drawing and normalising


class Statistics(NamedTuple):
    """Mean and standard deviation of the three channels, and where they come from."""

    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DataSet:
    """An opened data set: all its labels at hand, its images read on demand.

    `read` takes indices of `labels` and gives uint8 images, each H x W x 1 or H x W x 3. `statistics` is None where
    they are to be those of the drawn images. Labels are `complete` unless only some samples were looked at. `classes`
    are their names, where they have any. A `stream` has no random access. `files` takes indices, too, and gives the
    names of their files, where images are files.
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
    """Reads images of a list."""

    images: list[np.ndarray]

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [self.images[i] for i in chosen.tolist()]


@dataclass(frozen=True)
class _ArrayReader:
    """Reads images of one array N x H x W x C, whole."""

    images: np.ndarray

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return list(self.images[chosen])


def _draw_probe(
    data: DataSet, name: str, num_classes: int, statistics: Statistics | None, source: dict[str, Any]
) -> Probe:
    rng = np.random.default_rng(source["seed"])
    indices = _draw(data, num_classes, source["batch_size"], source["balanced"], rng)
    raw, labels = data.read(indices), data.labels[indices]
    pixels = _stack([to_pixels(image, source["image_size"]) for image in raw], data.title)
    # Hashed before the arithmetic, which may differ in the last bit from machine to machine.
    made_of = {
        "num_classes": num_classes,
        "image_size": source["image_size"],
        "statistics": statistics and statistics[1:],
    }
    fingerprint = _fingerprint([*raw, labels], made_of)
    statistics = statistics or _statistics_of(pixels, data.title)
    images = (pixels - _per_channel(statistics.mean)) / _per_channel(statistics.std)
    normalised = {"statistics": statistics.origin, "mean": list(statistics.mean), "std": list(statistics.std)}
    return Probe(images, torch.from_numpy(labels), num_classes, name, fingerprint, source | normalised)


def _noise_probe(
    batch_size: int,
    image_size: int | None,
    balanced: bool,
    seed: int,
    num_classes: int | None,
    statistics: Statistics | None,
) -> Probe:
    if num_classes is None:
        raise DataError("The data set 'noise' has no classes of its own; give num_classes.")
    if statistics is not None:
        raise DataError("The data set 'noise' is standard normal as it is; mean and std do not apply.")
    rng = np.random.default_rng(seed)
    size = image_size or 32
    images = rng.standard_normal((batch_size, 3, size, size), dtype=np.float32)
    if balanced:
        shares = _even_shares(np.arange(num_classes), num_classes, batch_size, rng)
        labels = rng.permutation(np.repeat(np.arange(num_classes), shares))
    else:
        labels = rng.integers(num_classes, size=batch_size)
    fingerprint = _fingerprint([images, labels], {"num_classes": num_classes})
    source = {"batch_size": batch_size, "balanced": balanced, "image_size": size, "seed": seed}
    return Probe(torch.from_numpy(images), torch.from_numpy(labels), num_classes, "noise", fingerprint, source)


def _draw(data: DataSet, num_classes: int, batch_size: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """Indices of `batch_size` different samples, in random order."""
    if not balanced:
        return rng.choice(len(data.labels), batch_size, replace=False)
    held = np.bincount(data.labels, minlength=num_classes)
    empty = np.flatnonzero(held == 0).tolist()
    # Among some samples only, a class may be missing by chance, which does no harm if the batch needs fewer.
    if empty and (data.complete or num_classes - len(empty) < min(batch_size, num_classes)):
        raise DataError(
            f"{data.title} has no image of {len(empty)} of its {num_classes} classes: {listed(empty)}. "
            "Give balanced=False, or another num_classes."
        )
    shares = _even_shares(np.flatnonzero(held), num_classes, batch_size, rng)
    short = [f"{c} ({held[c]} of {shares[c]})" for c in np.flatnonzero(held < shares)]
    if short:
        raise DataError(
            f"{data.title} has too few images for a balanced batch of {batch_size}, in the classes {listed(short)}. "
            "Give a smaller batch_size, or balanced=False."
        )
    by_class = shuffled_by_class(data.labels, rng)
    starts = np.cumsum(held) - held
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def shuffled_by_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of all samples, class after class, those of a class in random order."""
    shuffled = rng.permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def _even_shares(classes: np.ndarray, num_classes: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """How many of the batch each class gets; chance says which of `classes` get one more than the others."""
    each, extra = divmod(batch_size, len(classes))
    shares = np.zeros(num_classes, dtype=np.int64)
    shares[rng.permutation(classes)] = each + (np.arange(len(classes)) < extra)
    return shares


def to_pixels(image: np.ndarray, size: int | None) -> Tensor:
    """A uint8 image H x W x C as RGB, 3 x size x size, between 0 and 1."""
    pixels = torch.from_numpy(image if size is None else _middle(image)).permute(2, 0, 1)
    pixels = pixels.float().div(255).expand(3, -1, -1)
    if size is None or pixels.shape[1] == size:
        return pixels
    resized = F.interpolate(pixels[None], size=(size, size), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


def square(image: np.ndarray, size: int | None) -> Tensor:
    """An image H x W x C, its middle cut out and resized to C x size x size, uint8."""
    image = image if size is None else _middle(image)
    if size is None or len(image) == size:
        return torch.from_numpy(image).permute(2, 0, 1)
    return to_pixels(image, size)[: image.shape[2]].mul(255).round().byte()


def _middle(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle of an image H x W x C."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _stack(images: Sequence[Tensor], title: str) -> Tensor:
    for image in images:
        check_size(image.shape, images[0].shape, title)
    return torch.stack(list(images))


def check_size(shape: Sequence[int], first: Sequence[int], title: str) -> None:
    """Refuse an image C x H x W of another shape than the first."""
    if tuple(shape) != tuple(first):
        sizes = " and ".join(" x ".join(map(str, each)) for each in (first, shape))
        raise DataError(f"Images of {title} differ in size, as {sizes} (channels, height, width); give image_size.")


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _statistics_of(pixels: Tensor, title: str) -> Statistics:
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3), correction=0)
    return measured_statistics("probe", mean, std, f"drawn images of {title}")


def measured_statistics(origin: str, mean: Tensor, std: Tensor, title: str) -> Statistics:
    """Statistics that were taken of images, as they are recorded.

    Raises:
        DataError: A channel is constant, so that it cannot be normalised.
    """
    if std.min() < 1e-6:
        raise DataError(f"All {title} have one and the same colour in a channel; give mean and std.")
    return Statistics(origin, *(tuple(round(value, 6) for value in values.tolist()) for values in (mean, std)))


def given_statistics(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Statistics | None:
    """What was given for both, checked; None where nothing was."""
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
    stem = PurePath(name).stem.lower().replace("-", "_")
    for known, (mean, std) in _STATISTICS.items():
        if stem == known or stem.startswith(f"{known}_"):
            return Statistics(known, mean, std)
    return None


def _fingerprint(arrays: Iterable[np.ndarray], made_of: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# Opening: what we read ourselves


class Whole(NamedTuple):
    """That all of a data set is wanted, how large its images are to be, and how many bytes they may take in memory."""

    image_size: int | None = None
    limit: float = math.inf


def open_data_set(name: str, root: Path | None, split: str, download: bool, whole: Whole | None = None) -> DataSet:
    """Open one split of a data set by its name.

    Args:
        name: As for `create_probe`, but not `noise`.
        root: Its folder, where it has one.
        split: The part of it.
        download: Fetch what is missing.
        whole: Learn all labels, even where that means to decode all images, and hold those of a stream in memory; by
            default the labels of `UNLABELLED_LIMIT` samples.

    Raises:
        DataError: An unknown name or split, an unreadable data set, or a stream that is too large. Where it was a
            library that did not know the split, the cause is its `ValueError`.
    """
    if name == "digits":
        return _open_digits(split)
    if name.endswith(".npz"):
        return _open_npz(name, root or Path(), split)
    return _open_with_timm(name, root, split, download, whole)


def split_names(name: str, root: Path | None) -> tuple[str, ...] | None:
    """The splits of a data set, as far as they can be told without opening it; None where they cannot."""
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
    # The splits of a WebDataset are its files.
    return None if prefix in ("hfds", "hfids", "tfds") else ()


def _open_digits(split: str) -> DataSet:
    with isolated_random_state(0):  # on its way scikit-learn imports what draws from the global generator
        from sklearn.datasets import load_digits

    if split != "train":
        raise DataError(f"Unknown split {split!r} of 'digits'; it has one only, 'train'.")
    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return DataSet("'digits'", labels, _ArrayReader(images), 10, _known_statistics("digits"))


def _open_npz(name: str, root: Path, split: str) -> DataSet:
    path = root / name
    title = f"split {split!r} of {str(path)!r}"
    return data_set_of_arrays(*_read_npz(path, split), title, _known_statistics(name))


def data_set_of_arrays(images: np.ndarray, labels: np.ndarray, title: str, statistics: Statistics | None) -> DataSet:
    """A data set of images N x H x W or N x H x W x (1 or 3), uint8, and as many integer labels.

    Raises:
        DataError: Arrays of another shape or kind.
    """
    images = _checked_images(images, title)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"Labels of {title} are {labels.dtype} of the shape {labels.shape}; "
            f"there must be one integer for each of the {len(images)} images."
        )
    labels = labels.astype(np.int64)
    classes = int(labels.max(initial=-1)) + 1
    return DataSet(title, labels, _ArrayReader(images), classes, statistics)


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one split, not checked."""
    if not path.is_file():
        beside = [str(other) for other in path.parent.glob("*.npz")]
        if beside:
            raise _unknown("file", str(path), beside)
        raise DataError(f"There is no file {str(path)!r}, nor any other .npz file in its folder.")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file) and not _is_single_array(file):
                raise DataError(f"Cannot read {str(path)!r}: it is no npz archive, or a part of one only.")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} is a single array; it must be an archive as numpy.savez writes it.")
            present = archive.files
            splits = _splits_of_members(present)
            if split not in splits:
                raise DataError(
                    f"No split {split!r} in {str(path)!r}: '{split}_images' and '{split}_labels' are needed, "
                    f"it has {listed(present) or 'no members'}. Its splits: {listed(splits) or 'none'}."
                )
            return archive[f"{split}_images"], archive[f"{split}_labels"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _is_single_array(file: BinaryIO) -> bool:
    """Whether the file is one that `numpy.save` writes."""
    file.seek(0)
    return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def _splits_of_npz(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _splits_of_members([member.removesuffix(".npy") for member in archive.namelist()])
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _splits_of_members(present: list[str]) -> tuple[str, ...]:
    splits = (member.removesuffix("_images") for member in present if member.endswith("_images"))
    return tuple(split for split in splits if f"{split}_labels" in present)


def _checked_images(images: np.ndarray, title: str) -> np.ndarray:
    """Images as N x H x W x C."""
    if images.dtype != np.uint8:
        broken = images.dtype.kind == "f" and not np.isfinite(images).all()
        found = f"{images.dtype} with NaN or infinite values" if broken else str(images.dtype)
        raise DataError(f"Images of {title} are {found}; they must be uint8, 0 to 255.")
    shaped = images[..., None] if images.ndim == 3 else images
    if shaped.ndim != 4 or shaped.shape[-1] not in (1, 3) or min(shaped.shape[1:]) < 1:
        raise DataError(
            f"Images of {title} have the shape {images.shape}; it must be N x H x W or N x H x W x (1 or 3)."
        )
    return shaped


# Opening: what timm and torchvision read


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
    """All images of a stream, each cut to its size as it comes, and their labels."""
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
    """What is said of a stream that does not fit into memory."""
    return DataError(
        f"{title} has no random access, so that it can only be held in memory, for which it is too large; "
        "give a smaller image_size or a larger resident_limit."
    )


def _labels_of(dataset: Any, limit: int | None, title: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions of the samples that were looked at, their labels, and whether these are all that there are."""
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
    """Reads images of a data set of timm or torchvision, `labels` being those at its `positions`."""

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
                raise DataError(f"{self.title} gave other labels with its images than before.")
            return [_as_rgb(image, self.title) for image, _ in rows]

    def files(self, chosen: np.ndarray) -> list[str]:
        """Names of the files, from the data set's folder on."""
        positions = self.positions[chosen].tolist()
        if hasattr(self.dataset, "reader"):
            return [str(self.dataset.filename(position)) for position in positions]
        samples = _samples_of(self.dataset)
        return [os.path.relpath(samples[position][0], self.dataset.root) for position in positions]


@contextmanager
def _naming(title: str | Callable[[], str]) -> Iterator[None]:
    """Say of which data set it was that timm, torchvision or Pillow could not make something."""
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
    import timm.data

    prefix, _, rest = name.partition("/")
    if prefix in ("", "folder"):
        return _create_folder("", _joined(root, rest), split)
    if prefix == "torch":
        return _create_torch(rest.lower(), root, split, download)
    if prefix in ("hfds", "hfids", "tfds", "wds") and rest:
        place = None if root is None else str(root)
        return timm.data.create_dataset(name, root=place, split=split, download=download)
    known = ("digits", "noise", "PATH.npz", "folder", "folder/PATH", "hfds/NAME", "hfids/NAME", "tfds/NAME", "wds/NAME")
    if (folder := _joined(root, name)) is not None and folder.is_dir():
        raise DataError(f"Unknown data set {name!r}. The folder {str(folder)!r} is read as 'folder/{name}'.")
    raise _unknown("data set", name, (*known, *(f"torch/{n}" for n in _TIMM_TORCH_NAMES)))


def _joined(root: Path | None, rest: str) -> Path | None:
    return (root or Path()) / rest if rest else root


def _existing(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"The data set {name!r} needs root, the folder that holds it.")
    if not root.exists():
        raise DataError(f"The folder {str(root)!r} of the data set {name!r} does not exist.")
    return root


def _create_folder(reader: str, root: Path | None, split: str) -> Any:
    """One folder per class, or a tar file of such, read by timm ("") or by torchvision ("torch/image_folder")."""
    import timm.data

    root = _folder_of_split(_existing(root, reader or "folder"), split)
    if root.is_dir():
        return timm.data.create_dataset(reader, root=str(root), search_split=False)
    if root.suffix != ".tar":
        raise DataError(f"{str(root)!r} is a file; a folder of images, or a .tar file of one, is needed.")
    # timm would keep the table of contents of a large tar file as a pickle beside it, and load that.
    return timm.data.create_dataset(reader, root=str(root), search_split=False, cache_tarinfo=False)


def _folder_of_split(root: Path, split: str) -> Path:
    """The sub-folder that holds the split, or `root` itself where it has no such sub-folders."""
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
        known = (*_TIMM_TORCH_NAMES, *classes)
        raise _unknown("data set", f"torch/{name}", (f"torch/{n}" for n in known))
    return _create_torchvision(classes[name], name, root, split, download)


def _is_training(split: str) -> bool:
    known = (*TRAIN_SPLITS, "test", *EVAL_SPLITS)
    if split not in known:
        raise _unknown("split", split, known)
    return split in TRAIN_SPLITS


def _torchvision_classes() -> dict[str, Callable[..., Any]]:
    """torchvision's data sets by their class's name in lower case, without those that timm names."""
    from torchvision import datasets

    taken = {name.replace("_", "") for name in _TIMM_TORCH_NAMES}
    found = {name.lower(): getattr(datasets, name) for name in datasets.__all__}
    return {name: cls for name, cls in found.items() if inspect.isclass(cls) and name not in taken}


def _splits_of_torch(name: str) -> tuple[str, ...] | None:
    if name in _TIMM_TORCH_NAMES:
        return ("train", "test") if name in _TRAIN_AND_TEST else ("train", "val")
    accepted = inspect.signature(_torchvision_classes()[name]).parameters
    if "split" in accepted:
        return None
    return ("train", "test") if "train" in accepted else ("train",)


def _create_torchvision(cls: Callable[..., Any], name: str, root: Path | None, split: str, download: bool) -> Any:
    """Call a class of torchvision with those of our arguments that it has."""
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
        raise DataError(f"Unknown split {split!r} of 'torch/{name}'; it has one only, 'train'.")
    return cls(**options)


# Rows of an opened timm or torchvision data set


def _labels_without_images(dataset: Any) -> np.ndarray | None:
    """One label per sample where the data set gives them without decoding images, else None."""
    for candidate in _label_candidates(getattr(dataset, "reader", dataset)):
        try:
            labels = np.asarray(candidate)
        except ValueError:  # a ragged list: annotations, not labels
            continue
        if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    return None


def _label_candidates(owner: Any) -> Iterator[Any]:
    """Where torchvision's data sets and timm's readers keep labels."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(owner, attribute):
            yield getattr(owner, attribute)
    for attribute in ("samples", "_samples"):
        if hasattr(owner, attribute):
            yield [sample[-1] for sample in getattr(owner, attribute)]
    if hasattr(owner, "label_key"):  # a Hugging Face data set: one column, images untouched
        yield list(owner.dataset[owner.label_key])


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    reader = getattr(dataset, "reader", None)
    for owner, attribute in ((dataset, "classes"), (reader, "class_to_idx"), (reader, "class_name_to_idx")):
        known = getattr(owner, attribute, None)
        if known:
            return tuple(map(str, known))
    return None


def _rows(dataset: Any, positions: list[int], title: str) -> list[tuple[Any, Any]]:
    """Image and label at each of the positions."""
    if not isinstance(dataset, IterableDataset):
        return [_named_row(dataset, i, title) for i in positions]
    wanted = set(positions)
    stream = enumerate(itertools.islice(dataset, max(positions) + 1))
    found = {i: (row[0], row[1]) for i, row in stream if i in wanted}
    if len(found) < len(wanted):
        raise EOFError("the stream is shorter than it was when its labels were read")
    return [found[i] for i in positions]


def _close_tar_files(dataset: Any) -> None:
    """Close those that timm's reader keeps open: worker processes that inherit one would read at each other's place."""
    states = getattr(getattr(dataset, "reader", None), "tar_state", {})
    open_ones = list(states.values()) if isinstance(states, dict) else [states]
    while open_ones:
        state = open_ones.pop()
        open_ones.extend(state.children.values())
        if state.tf is not None:
            state.tf.close()
        state.reset()


def _named_row(dataset: Any, position: int, title: str) -> tuple[Any, Any]:
    """Image, decoded, and label; what is said of an unreadable one names its file."""
    from PIL import Image

    with _naming(lambda: f"{_file_of(dataset, position)} of {title}"):
        try:
            image, label = _row(dataset, position)
            if isinstance(image, Image.Image):
                image.load()
        except (SyntaxError, Image.DecompressionBombError) as error:  # so, too, Pillow speaks of broken files
            raise OSError(str(error)) from error
        return image, label


def _file_of(dataset: Any, position: int) -> str:
    if hasattr(dataset, "reader"):
        file = dataset.filename(position, absolute=True)
    else:
        samples = _samples_of(dataset)
        file = samples[position][0] if isinstance(samples, list) else None
    return repr(str(file)) if isinstance(file, str | PurePath) else f"image {position}"


def _samples_of(dataset: Any) -> Any:
    return getattr(dataset, "samples", getattr(dataset, "_samples", None))


def _has_files(dataset: Any) -> bool:
    """Whether the names of the files are known without reading these."""
    samples = _samples_of(getattr(dataset, "reader", dataset))
    if hasattr(dataset, "reader"):
        return samples is not None
    return isinstance(samples, list) and bool(samples) and isinstance(samples[0][0], str | PurePath)


def _row(dataset: Any, position: int) -> tuple[Any, Any]:
    from PIL import Image

    if not hasattr(dataset, "reader"):
        image, label = dataset[position][:2]
        return image, label
    # Past timm's own indexing, which gives the next image in place of one that it cannot decode.
    file, label = dataset.reader[position][:2]
    with file:
        return Image.open(file).convert("RGB"), label


def _as_label(label: Any, title: str) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise DataError(f"Labels of {title} must be integers, got {type(label).__name__}.") from None


def _as_rgb(image: Any, title: str) -> np.ndarray:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise DataError(f"{title} must give images, got {type(image).__name__}.")
    return np.array(image.convert("RGB"))
