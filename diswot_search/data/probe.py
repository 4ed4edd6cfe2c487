"""The probe: the one fixed, seeded mini-batch that every score of a study is computed on."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import MAX_CLASSES, WORKING_SHARE, check_memory, check_whole, expanded, listed
from ..options.base import as_data_name, from_options
from ..options.data import CreateProbeOptions, CreateProbesOptions
from .data_set import (
    DataSet,
    Statistics,
    check_labels,
    given_statistics,
    measured_statistics,
    per_channel,
    shuffled_by_class,
)
from .datasets import open_data_set
from .division import check_at_least_two, from_zero
from .errors import DataError, UnreadableImage, having_read
from .images import check_size, to_pixels
from .inventory import Inventory, inventory_of_arrays, named_classes
from .pictures import checked_range

_MAX_REDRAWS = 50
"""How often a probe is drawn anew because an image cannot be read."""


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
        classes: Names of the classes in order; empty if they have no names.
        inventory: What was found when the data set was opened; None if nothing is known.

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
    classes: tuple[str, ...] = field(default=(), repr=False)
    inventory: Inventory | None = field(default=None, repr=False)

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

    def config(self) -> dict[str, object]:
        """Everything that distinguishes this probe from another one, as JSON values."""
        return {
            "name": self.name,
            **self.origin,
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            "fingerprint": self.fingerprint,
        }


@from_options(CreateProbeOptions)
def create_probe(options: CreateProbeOptions) -> Probe:
    """
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
    return _create_probes(options, 1)[0]


@from_options(CreateProbesOptions)
def create_probes(options: CreateProbesOptions) -> list[Probe]:
    """
    Returns:
        `count` probes, in the order of their seeds.

    Raises:
        DataError: The same errors as `create_probe`, or a `count` below 1.

    Example:
        >>> [probe.origin["seed"] for probe in create_probes("digits", 3, seed=5)]
        [5, 6, 7]
    """
    return _create_probes(options, options.count)


_MANY_IMAGES = 10_000
"""Number of images above which their size in memory is checked before they are read."""


def _create_probes(options: CreateProbeOptions | CreateProbesOptions, count: int) -> list[Probe]:
    batch_size, image_size, num_classes = options.batch_size, options.image_size, options.num_classes
    for key, value, lowest in (("count", count, 1), ("batch_size", batch_size, 2), ("seed", options.seed, 0)):
        check_whole(key, value, least=lowest, error=DataError)
    for key, optional in (("image_size", image_size), ("num_classes", num_classes)):
        if optional is not None:
            check_whole(key, optional, least=1, most=MAX_CLASSES, error=DataError)
    name, balanced = as_data_name(options.name), options.balanced
    grey_range = checked_range(options.grey_range)
    if image_size is not None:
        what = f"{count} x {batch_size} images of {image_size} x {image_size} pixels (image_size)"
        check_memory(what, 12 * count * batch_size * image_size**2, share=WORKING_SHARE, error=DataError)
    statistics = given_statistics(options.mean, options.std)
    seeds = range(options.seed, options.seed + count)
    if name == "noise":
        return [_noise_probe(batch_size, image_size, balanced, s, num_classes, statistics) for s in seeds]

    root = None if options.root is None else expanded(options.root, error=DataError)
    data = open_data_set(name, root, options.split, options.download, grey_range=grey_range)
    with having_read(name or "folder", [data]):
        return _probes_of(data, name or "folder", options, seeds, statistics)


def _probes_of(
    data: DataSet,
    name: str,
    options: CreateProbeOptions | CreateProbesOptions,
    seeds: Sequence[int],
    statistics: Statistics | None,
) -> list[Probe]:
    """The probes of these seeds from an opened data set."""
    batch_size, image_size, num_classes = options.batch_size, options.image_size, options.num_classes
    grey_range = checked_range(options.grey_range)
    _check_enough(data, batch_size)
    (data,), _ = from_zero([data], num_classes)
    check_at_least_two(data, num_classes)
    classes = data.num_classes if num_classes is None else num_classes
    check_labels(data.labels.min(), data.labels.max(), classes, data.title)
    size = 32 if name == "digits" and image_size is None else image_size
    drawing = {"split": options.split, "batch_size": batch_size, "balanced": options.balanced, "image_size": size}
    if grey_range is not None:
        drawing["grey_range"] = list(grey_range)
    statistics = statistics or data.statistics
    if len(seeds) * batch_size > _MANY_IMAGES and image_size is None:
        shape = data.read(np.arange(1))[0].shape[1:] if size is None else (size, size)
        what = f"{len(seeds):,} probes of {batch_size:,} images of {' x '.join(map(str, shape))} pixels"
        check_memory(what, 12 * len(seeds) * batch_size * math.prod(shape), share=WORKING_SHARE)
    return [_draw_probe(data, name, classes, statistics, drawing | {"seed": s}) for s in seeds]


def _check_enough(data: DataSet, batch_size: int) -> None:
    if batch_size > len(data.labels):
        raise DataError(f"batch_size is {batch_size}, but {data.title} has only {len(data.labels)} images.")


def _check_tensors(images: Tensor, labels: Tensor, num_classes: int | None, name: str) -> None:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        kinds = f"{type(images).__name__} and {type(labels).__name__}"
        raise DataError(f"Images and labels of {name!r} are {kinds}; both must be tensors.")
    shape = tuple(images.shape)
    if images.ndim != 4 or min(shape) < 1:
        raise DataError(f"Images of {name!r} have the shape {shape}; it must be (batch, channels, height, width).")
    if not images.is_floating_point():
        raise DataError(f"Images of {name!r} are {images.dtype}; they must be floating point and normalised.")
    check_whole(f"The batch size of {name!r}", shape[0], least=2, error=DataError)
    broken = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise DataError(f"Pixels of {name!r} are NaN or infinite in {len(broken)} images: {listed(broken)}.")
    if labels.shape != shape[:1] or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"Labels of {name!r} are {labels.dtype} with the shape {tuple(labels.shape)}; "
            f"there must be one integer for each of the {shape[0]} images."
        )
    if num_classes is not None:
        check_whole("num_classes", num_classes, least=1, error=DataError)
    lowest, highest = int(labels.min()), int(labels.max())
    check_labels(lowest, highest, highest + 1 if num_classes is None else num_classes, repr(name))


def _draw_probe(
    data: DataSet, name: str, num_classes: int, statistics: Statistics | None, drawing: dict[str, Any]
) -> Probe:
    """Draw and normalise one probe; `drawing` holds the options of the draw, as they are recorded."""
    data, indices, raw = _draw_readable(data, num_classes, drawing)
    labels = data.labels[indices]
    pixels = _stack([to_pixels(image, drawing["image_size"]) for image in raw], data.title)
    # Raw pixels are hashed, because the last bit of the normalised ones may differ between machines.
    processing = {
        "num_classes": num_classes,
        "image_size": drawing["image_size"],
        "statistics": statistics and statistics[1:],
    }
    fingerprint = _fingerprint([*raw, labels], processing)
    statistics = statistics or _statistics_of(pixels, data.title)
    images = (pixels - per_channel(statistics.mean)) / per_channel(statistics.std)
    normalised = {"statistics": statistics.origin, "mean": list(statistics.mean), "std": list(statistics.std)}
    classes = data.classes or ()
    found = data.inventory
    if found is not None and not found.measured:
        found = replace(found, measured=len(raw), sizes=inventory_of_arrays("", 0, raw, "").sizes)
    if found is not None and data.notes_on is not None:
        found = replace(found, notes=(*found.notes, *data.notes_on(indices)))
    labels_of_probe = torch.from_numpy(labels)
    return Probe(images, labels_of_probe, num_classes, name, fingerprint, drawing | normalised, classes, found)


def _draw_readable(
    data: DataSet, num_classes: int, drawing: Mapping[str, Any]
) -> tuple[DataSet, np.ndarray, list[np.ndarray]]:
    """Indices of the drawn images and the images, all of which can be read, with the data set that they are drawn from.

    Where an image cannot be read, it is left out, and all are drawn anew, so that a probe without such images stays
    the same.
    """
    for redraws in itertools.count():
        rng = np.random.default_rng(drawing["seed"])
        indices = _draw(data, num_classes, drawing["batch_size"], drawing["balanced"], rng)
        try:
            return data, indices, data.read(indices)
        except UnreadableImage:
            if data.readable is None or redraws == _MAX_REDRAWS:
                raise
        data = data.readable(indices)
        _check_enough(data, drawing["batch_size"])
    raise AssertionError


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
    short = [
        f"{named_classes([c], data.classes)} ({class_counts[c]} of {shares[c]})"
        for c in np.flatnonzero(class_counts < shares).tolist()
    ]
    if short:
        raise DataError(
            f"{data.title} has too few images for a balanced batch of {batch_size} in the classes {listed(short)}. "
            "Give a smaller batch_size, or set balanced=False."
        )
    by_class = shuffled_by_class(data.labels, rng)
    starts = np.cumsum(class_counts) - class_counts
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def _even_shares(classes: np.ndarray, num_classes: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Number of images per class, shape (num_classes,); a remainder goes to random ones of `classes`."""
    each, extra = divmod(batch_size, len(classes))
    shares = np.zeros(num_classes, dtype=np.int64)
    shares[rng.permutation(classes)] = each + (np.arange(len(classes)) < extra)
    return shares


def _stack(images: Sequence[Tensor], title: str) -> Tensor:
    for image in images:
        check_size(image.shape, images[0].shape, title)
    return torch.stack(list(images))


def _statistics_of(pixels: Tensor, title: str) -> Statistics:
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3), correction=0)
    return measured_statistics("probe", mean, std, f"drawn images of {title}")


def _fingerprint(arrays: Iterable[np.ndarray], processing: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(processing, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
