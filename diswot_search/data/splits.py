"""Training, validation and test images of one data set."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_parallel, check_whole, cores, expanded, listed
from ..options.base import as_data_name, from_options
from ..options.data import ArraySplitsOptions, CreateSplitsOptions, DivisionOptions
from ..runtime.configuration import differences
from ..runtime.seeding import stable_seed
from . import with_timm
from .arrays import data_set_of_arrays
from .data_set import DataSet, Statistics, Whole, given_statistics, measured_statistics
from .datasets import open_data_set, split_names, unread_splits
from .division import SplitRequest, divide, division, labelled_by_request, numbering_of, reconcile
from .errors import DataError, UnreadableClass, UnreadableImage, having_read, together
from .image_sets import ImageSet, ResidentSet, StreamedSet
from .images import check_size, square
from .inventory import Inventory
from .labelled import Labels, Numbering, format_indices, label_request
from .overlap import check_apart, check_unseen
from .pictures import checked_range
from .probe import Probe
from .split_names import (
    EVAL_SPLITS,
    EVALUATION_SPLITS,
    TEST_SPLITS,
    VALIDATION_SPLITS,
    WHOLE_FOLDER,
    has_evaluation_apart,
    same_split,
    tests_on_evaluation,
)
from .with_timm import no_random_access


def same_data(config: Mapping[str, Any], splits: Splits) -> bool:
    """Whether the data of a configuration has the same name as the splits, in whatever folder it lies."""
    return PurePath(config.get("name", "")).name == PurePath(splits.name).name


def check_division(who: str, trained_on: Mapping[str, object], splits: Splits, how: str = "trained on") -> None:
    """Refuse a network that may have seen the validation or test images of the same data.

    Args:
        who: The network, as the subject of a message.
        trained_on: The data that the network has seen, as `Splits.config()`.
        splits: The data at hand.
        how: The use of that data, such as "trained on".

    Raises:
        ValueError: The data is the same by name, but its validation and test images are chosen otherwise.
    """
    if not same_data(trained_on, splits):
        return
    if lines := differences(division(trained_on), division(splits.config())):
        raise ValueError(
            f"{who} is {how} {splits.name} divided otherwise, so that it may know images to validate or test on: "
            f"{'; '.join(lines)}. Divide the data alike for both."
        )


_READ_AT_ONCE = 64
"""Number of images that are decoded at a time, at full size, while they are loaded into memory."""


_NOT_MIRRORED = ("digits", "mnist", "kmnist", "qmnist", "emnist", "usps", "svhn", "gtsrb", "omniglot", "renderedsst2")
"""Data sets whose images change their meaning when left and right are exchanged."""


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set to train on, validate and test. Make one with `create_splits` or `Splits.from_arrays`.

    Attributes:
        name: Name of the data set.
        num_classes: Number of classes.
        input_size: Channels, height and width of an image, in pixels.
        train: Training images.
        val: Validation images, which choose the best epoch; disjoint from `train`.
        test: Test images, which the final accuracy is measured on, once.
        mean: Mean of each of the three channels, on a scale from 0 to 1.
        std: Standard deviation of each channel, on the same scale.
        mirrored: Whether an image keeps its meaning when left and right are exchanged.
        source: How the splits were made, as JSON values.
        classes: Names of the classes in order; empty if they have no names.
        labelled: (n,) int64 places in `train` of the labelled subset, ascending; None if all images have labels.
        numbering: Indices of the images of `train` in the training part on disk; None if they are all of it.
        inventories: What was found in each split of the data set that was opened.
        notes: What was changed to give all splits the same classes, which classes a split lacks, and which split is
            read as the test split under another name.
    """

    name: str
    num_classes: int
    input_size: tuple[int, int, int]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrored: bool
    source: dict[str, Any] = field(repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    labelled: Tensor | None = field(default=None, repr=False)
    numbering: Numbering | None = field(default=None, repr=False)
    inventories: tuple[Inventory, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @staticmethod
    @from_options(ArraySplitsOptions)
    def from_arrays(options: ArraySplitsOptions) -> Splits:
        """
        Raises:
            DataError: An array has the wrong shape or dtype, or one of the errors of `create_splits` occurs.

        Example:
            >>> images = torch.randint(256, (60, 3, 8, 8), dtype=torch.uint8)
            >>> splits = Splits.from_arrays((images, torch.arange(60) % 3))
            >>> len(splits.train), len(splits.val), len(splits.test)
            (42, 6, 12)
        """
        name = options.name
        check_parallel("workers", options.workers, least=0, error=DataError)
        request = _request(options, name, options.image_size)
        val = None if options.val is None else _arrays(options.val, f"split 'val' of {name!r}")
        test = None if options.test is None else _arrays(options.test, f"split 'test' of {name!r}")
        train = _arrays(options.train, f"split 'train' of {name!r}")
        return _make_splits(train, val, test, request, {}, options.mirrored, math.inf, options.workers)

    def config(self) -> dict[str, Any]:
        """Everything that distinguishes these splits from others, as JSON values.

        The fingerprint covers the pixels of images in memory. For streamed images, it covers their indices, file
        names and labels instead.
        """
        return {
            "name": self.name,
            **self.source,
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            "fingerprint": self.fingerprint,
        }

    def with_labels(
        self, labels: Labels = None, labels_per_class: int | None = None, label_seed: int | None = None
    ) -> Splits:
        """The same splits with another labelled subset; without arguments, all training images have labels.

        Args:
            labels: The labelled subset, in one of the forms of `create_splits`.
            labels_per_class: Number of labelled images of each class; give this or `labels`.
            label_seed: Seed that chooses the images; by default the seed that the splits were made with.

        Raises:
            DataError: The request cannot be met, or the labelled images occur among the test images.

        Example:
            >>> splits = create_splits("digits").with_labels(labels_per_class=4)
            >>> len(splits.labelled), len(splits.train)
            (40, 1295)
        """
        request = label_request(labels, labels_per_class)
        seed = self.source.get("seed", 0) if label_seed is None else label_seed
        check_whole("label_seed", seed, least=0, error=DataError)
        labels_of_all, names = self.train.labels.numpy(), self.classes or range(self.num_classes)
        labelled, config = labelled_by_request(request, labels_of_all, self._numbering, seed, names)
        check_unseen(self.train, labelled, self.test, self._numbering)
        return replace(self, labelled=labelled, source=self.source | {"labels": config})

    def labelled_indices(self) -> np.ndarray:
        """Indices of the labelled images in the training part of the data set on disk.

        Indices start at 0, and count the images before validation images, test images or a `train_limit` are taken
        out.

        Returns:
            (n,) int64, ascending.
        """
        train = self._numbering.train
        return train if self.labelled is None else train[self.labelled.numpy()]

    def labels_file(self) -> str:
        """The `labelled_indices` as the text of a file, which the argument `labels` accepts by its path."""
        return format_indices(self.labelled_indices(), self.train.title)

    def probe(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Probe:
        """Draw a probe of labelled training images, without augmentation and balanced over the classes.

        Args:
            batch_size: Number of images, at least 2, spread over the classes as evenly as their sizes allow.
            seed: Seed that chooses the images.
            mean: Mean of each channel to normalise by; by default that of the data set.
            std: Standard deviation of each channel to normalise by; by default that of the data set.

        Returns:
            A probe with images of shape (batch_size, 3, H, W).

        Raises:
            DataError: Fewer than `batch_size` training images have labels.
        """
        labelled = torch.arange(len(self.train)) if self.labelled is None else self.labelled
        check_whole("batch_size", batch_size, least=2, error=DataError)
        if batch_size > len(labelled):
            restriction = "" if self.labelled is None else " that have labels"
            raise DataError(
                f"The probe needs {batch_size} images, but there are only {len(labelled)} training images{restriction}."
            )
        order = labelled[_by_turns(self.train.labels[labelled], seed)[:batch_size]]
        batch = next(iter(self.train.batches(order, batch_size, device=torch.device("cpu"), augment=None, seed=0)))
        shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean or self.mean, std or self.std))
        return Probe.from_tensors((batch.images - shift) / scale, batch.labels, self.num_classes, self.name)

    @property
    def _numbering(self) -> Numbering:
        if self.numbering is not None:
            return self.numbering
        return Numbering(self.train.title, np.arange(len(self.train)), len(self.train))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the three image sets, whatever the labelled subset; equal for equal splits."""
        prints = [part.fingerprint() for part in (self.train, self.val, self.test)]
        return hashlib.sha256(json.dumps([*prints, self.num_classes]).encode()).hexdigest()


def _by_turns(labels: Tensor, seed: int) -> Tensor:
    """All places in random order, but so that the classes take turns."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stable_seed(seed, "probe")))
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        places = shuffled[labels[shuffled] == label]
        turn[places] = torch.arange(len(places))
    return shuffled[turn[shuffled].argsort(stable=True)]


def _arrays(pair: tuple[object, object], title: str) -> DataSet:
    """A data set of a pair of images and labels, each an array or a tensor."""
    images, labels = pair
    if isinstance(images, Tensor):
        images = (images.permute(0, 2, 3, 1) if images.ndim == 4 else images).cpu().numpy()
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    return data_set_of_arrays(np.asarray(images), labels, title, None)


@from_options(CreateSplitsOptions)
def create_splits(options: CreateSplitsOptions) -> Splits:
    """
    Returns:
        The splits.

    Raises:
        DataError: A name or split is unknown; a split is used twice; the data set is empty or cannot be read; labels
            lie outside the classes; a class has no training images; splits have different classes; an argument is
            out of range; or labelled images are not among the training images, are repeated, belong to fewer than
            two classes, or occur among the test images.

    Example:
        >>> splits = create_splits("digits", train_limit=200, labels="10%")
        >>> len(splits.train), len(splits.labelled), len(splits.test)
        (200, 20, 359)
    """
    name = as_data_name(options.name)
    grey_range = checked_range(options.grey_range)
    size = 32 if name == "digits" and options.image_size is None else options.image_size
    request = _request(options, name or "folder", size)
    check_whole("resident_limit", options.resident_limit, least=0, error=DataError)
    workers = _usual_workers() if options.workers is None else options.workers
    check_parallel("workers", workers, least=0, error=DataError)
    if name == "noise":
        raise DataError("The data set 'noise' cannot be learnt; it is for probes only.")
    root = None if options.root is None else expanded(options.root, error=DataError)
    whole = Whole(request.image_size, options.resident_limit)

    opened: list[DataSet] = []

    def open_split(split: str) -> DataSet:
        opened.append(open_data_set(name, root, split, options.download, whole, grey_range))
        return opened[-1]

    requested = (options.train_split, options.val_split, options.test_split)
    ranged = {} if grey_range is None else {"grey_range": list(grey_range)}
    mirrored, limit = _is_mirrored(name), options.resident_limit
    with having_read(name or "folder", opened):
        splits, (train, val, test) = _open_parts(open_split, name, root, requested)
        try:
            made = _make_splits(train, val, test, request, {**splits, **ranged}, mirrored, limit, workers)
        except UnreadableImage:  # whose header is good; one pass over all pixels finds it and its like
            if train.readable is None:
                raise
            val, test = (None if data is None else _readable(data) for data in (val, test))
            made = _make_splits(_readable(train), val, test, request, {**splits, **ranged}, mirrored, limit, workers)
    if options.test_split is None and splits["val_split"] and splits["test_split"] in EVALUATION_SPLITS:
        note = f"no split is named test: {splits['val_split']!r} validates, and {splits['test_split']!r} tests"
        made = replace(made, notes=(*made.notes, note))
    return made


def _request(options: DivisionOptions, name: str, image_size: int | None) -> SplitRequest:
    """The requested division, checked as far as it can be without the data."""
    return SplitRequest(
        name,
        image_size,
        options.val_share,
        options.test_share,
        options.train_limit,
        options.seed,
        options.num_classes,
        labels=label_request(options.labels, options.labels_per_class),
        statistics=given_statistics(options.mean, options.std),
        label_seed=options.label_seed,
    )


def _open_parts(
    open_split: Callable[[str], DataSet],
    name: str,
    root: Path | None,
    requested: tuple[str, str | None, str | None],
) -> tuple[dict[str, str | None], tuple[DataSet, DataSet | None, DataSet | None]]:
    """Open the training, validation and test splits, as far as the data set has them, and say which they are."""
    train_split, val_split, test_split = requested
    train = open_split(train_split)
    names = split_names(name, root)
    for split in requested if names is not None and name.startswith("torch/") else ():
        _check_known(split, names)
    is_folder = train.folder is not None
    if train_split == WHOLE_FOLDER:
        names = ("train",)
    on_evaluation = tests_on_evaluation(names)
    of_val = VALIDATION_SPLITS if on_evaluation else EVAL_SPLITS
    of_test = EVALUATION_SPLITS if on_evaluation else (*TEST_SPLITS, *EVAL_SPLITS)
    test_split, test = _find(open_split, names, test_split, of_test, (train_split, val_split), is_folder)
    val_split, val = _find(open_split, names, val_split, of_val, (train_split, test_split), is_folder)
    check_apart([data for data in (train, val, test) if data is not None])
    read = [data.folder for data in (train, val, test) if data is not None and data.folder]
    if is_folder and train_split != WHOLE_FOLDER and (unread := unread_splits(name, root, read)):
        warnings.warn(
            f"Folders of {name or 'folder'!r} look like splits, but are not read: {listed(unread)}.", stacklevel=5
        )
    return {"train_split": train_split, "val_split": val_split, "test_split": test_split}, (train, val, test)


def _usual_workers() -> int:
    """The default number of worker processes: one less than the processor cores, from 1 to 8."""
    return max(1, min(8, cores() - 1))


def _check_known(split: str | None, names: Sequence[str] | None) -> None:
    """Reject a split that is not among the names of the data set, if both are known."""
    if names is None or split is None or split in names:
        return
    if len(names) == 1:
        raise DataError(f"Unknown split {split!r}; the data set has only {names[0]!r}.")
    raise DataError(f"Unknown split {split!r}; the data set has {listed(names)}.")


def _find(
    open_split: Callable[[str], DataSet],
    names: Sequence[str] | None,
    requested: str | None,
    candidates: Sequence[str],
    taken: Sequence[str | None],
    is_folder: bool,
) -> tuple[str | None, DataSet | None]:
    """Open the requested split, or else the first candidate that the data set has; None if it has none of them."""
    if requested is not None:
        if any(same_split(requested, split, names) for split in taken):
            raise DataError(f"The split {requested!r} is used twice; train, val and test must be different splits.")
        if names == ("train",) and not is_folder:
            _check_known(requested, names)
        return requested, open_split(requested)
    if not has_evaluation_apart(names) and any(split is not None and split.lower() in EVAL_SPLITS for split in taken):
        # Some data sets treat all these names as one split.
        candidates = [split for split in candidates if split not in EVAL_SPLITS]
    for split in candidates:
        if any(same_split(split, other, names) for other in taken) or (names is not None and split not in names):
            continue
        try:
            return split, open_split(split)
        except DataError as error:
            # If only the library knows its splits, its ValueError means that it does not have this one.
            if names is not None or not isinstance(error.__cause__, ValueError):
                raise
    return None, None


def _is_mirrored(name: str) -> bool:
    """Whether images of a data set keep their meaning when left and right are exchanged, judged by its name."""
    stem = PurePath(name).stem.lower().replace("-", "_")
    return not any(stem == prefix or stem.startswith(f"{prefix}_") for prefix in _NOT_MIRRORED)


# Making splits


def _make_splits(
    train: DataSet,
    val: DataSet | None,
    test: DataSet | None,
    request: SplitRequest,
    splits: Mapping[str, object],
    mirrored: bool,
    resident_limit: float,
    workers: int,
) -> Splits:
    """Divide opened data sets into parts, choose the labelled subset, and read or prepare the images."""
    given = [data for data in (train, val, test) if data]
    problems = [problem for data in given for problem in data.problems]
    if any(isinstance(problem, UnreadableClass) for problem in problems):
        raise together([*problems, *_differing_sizes(given, request)])
    try:
        (train, *others), classes, notes = reconcile(given, request.num_classes)
        val, test = (None if data is None else others.pop(0) for data in (val, test))
        parts = divide(train, val, test, request, classes)
    except DataError as error:
        problems.append(str(error))
        raise together([*problems, *_differing_sizes(given, request)]) from error
    if problems:
        raise together([*problems, *_differing_sizes(given, request)])
    names = train.classes if train.classes and len(train.classes) == classes else ()
    numbering = numbering_of(parts)
    seed = request.seed if request.label_seed is None else request.label_seed
    labelled, label_config = labelled_by_request(
        request.labels, train.labels[numbering.train], numbering, seed, names or range(classes)
    )
    sets = _image_sets(parts, request.image_size, resident_limit, workers)
    check_unseen(sets["train"], labelled, sets["test"], numbering)
    statistics = request.statistics or train.statistics or _statistics_of(sets["train"])
    source = {
        **splits,
        "val_share": None if val else request.val_share,
        "test_share": None if test else request.test_share,
        "train_limit": request.train_limit,
        "seed": request.seed,
        "image_size": request.image_size,
        "samples": {part: len(images) for part, images in sets.items()},
        "statistics": statistics.origin,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "labels": label_config,
    }
    return Splits(
        request.name,
        classes,
        sets["train"].input_size,
        **sets,
        mean=statistics.mean,
        std=statistics.std,
        mirrored=mirrored,
        source=source,
        classes=names,
        labelled=labelled,
        numbering=numbering,
        inventories=tuple(data.inventory for data in (train, val, test) if data is not None and data.inventory),
        notes=tuple(notes),
    )


def _readable(data: DataSet) -> DataSet:
    """The data set without the images that cannot be read, as far as it can leave images out."""
    return data if data.readable is None else data.readable(np.arange(len(data.labels)))


def _differing_sizes(given: Sequence[DataSet], request: SplitRequest) -> list[str]:
    """The problem of images of several sizes, as far as it shows before they are read."""
    sizes = list(dict.fromkeys(size for data in given if data.inventory for size in data.inventory.sizes))
    if request.image_size is not None or len(sizes) < 2:
        return []
    return [f"Images differ in size: {listed(sizes, 3)} (height x width); give image_size to resize them."]


# Image sets


def _image_sets(
    parts: dict[str, tuple[DataSet, np.ndarray]], image_size: int | None, resident_limit: float, workers: int
) -> dict[str, ImageSet]:
    """The images of each part: all in memory if they fit into the limit, otherwise all streamed."""
    data, places = parts["train"]
    shape = tuple(square(data.read(places[:1])[0], image_size).shape)
    needed = sum(len(places) for _, places in parts.values()) * math.prod(shape)
    if needed > resident_limit:
        return {part: _streamed(data, places, image_size, shape, workers) for part, (data, places) in parts.items()}
    return {part: _resident(data, places, image_size, shape, workers) for part, (data, places) in parts.items()}


def _resident(
    data: DataSet, places: np.ndarray, image_size: int | None, shape: tuple[int, ...], workers: int
) -> ResidentSet:
    images = torch.empty(len(places), *shape, dtype=torch.uint8)
    for start in range(0, len(places), _READ_AT_ONCE):
        for i, image in enumerate(data.read(places[start : start + _READ_AT_ONCE]), start):
            pixels = square(image, image_size)
            check_size(pixels.shape, shape, data.title)
            images[i] = pixels
    return ResidentSet(images, torch.from_numpy(data.labels[places]), data.title, workers)


def _streamed(
    data: DataSet, places: np.ndarray, image_size: int | None, shape: tuple[int, ...], workers: int
) -> StreamedSet:
    if data.stream:
        raise no_random_access(data.title)
    images = StreamedSet(data, places, image_size, workers)
    check_size(images.input_size, (3, *shape[1:]), data.title)
    return images


def _statistics_of(train: ImageSet) -> Statistics:
    """Mean and standard deviation per channel of the training images; a streamed set is sampled evenly."""
    count = len(train) if isinstance(train, ResidentSet) else min(len(train), with_timm.UNLABELLED_LIMIT)
    chosen = torch.linspace(0, len(train) - 1, count, dtype=torch.float64).round().long()
    batches = train.batches(chosen, _READ_AT_ONCE, device=torch.device("cpu"), augment=None, seed=0)
    sums = [torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]) for x in (b.images.double() for b in batches)]
    mean, squares = torch.stack(sums).sum(0) / (count * train.input_size[1] * train.input_size[2])
    std = (squares - mean.square()).clamp(min=0).sqrt()
    return measured_statistics("train", mean, std, f"images of {train.title}")
