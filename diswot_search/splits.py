"""A data set to train on: its training, validation and test images, made from each other where it lacks some."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    UNLABELLED_LIMIT,
    DataError,
    DataSet,
    Probe,
    Statistics,
    Whole,
    check_at_least,
    check_labels,
    check_size,
    data_set_of_arrays,
    given_statistics,
    listed,
    measured_statistics,
    no_random_access,
    open_data_set,
    shuffled_by_class,
    split_names,
    square,
)
from .image_sets import ImageSet, ResidentSet, StreamedSet
from .partial_labels import (
    LabelRequest,
    Labels,
    Numbering,
    choose_labelled,
    evenly,
    format_indices,
    label_request,
    ranks_in_class,
)
from .seeding import stable_seed

RESIDENT_LIMIT = 2**31
"""Bytes that the images of a data set may take to be held in memory."""

_READ_AT_ONCE = 64
"""Images that are decoded at a time, at their full size, on the way into memory."""

_KEYED_AT_ONCE = 4096
"""Images whose numbers are made at a time."""

_NOT_MIRRORED = ("digits", "mnist", "kmnist", "qmnist", "emnist", "usps", "svhn", "gtsrb", "omniglot", "renderedsst2")
"""Data sets whose images mean something else, or nothing, when left and right are exchanged."""


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set to train on, validate and test. Make one with `create_splits` or `Splits.from_arrays`.

    Attributes:
        name: The data set's name.
        num_classes: Classes of the data.
        input_size: Channels, height and width of an image.
        train: Images to train on.
        val: Images to choose the best epoch by; none of them is in `train`.
        test: Images to state the accuracy on, once.
        mean: Mean of each channel, as a share of the full scale.
        std: Standard deviation of each channel.
        mirrored: Whether an image means the same with left and right exchanged.
        source: How the splits were made, as JSON values.
        classes: Names of the classes, in order; empty where they have none.
        labelled: Places in `train` of the images that have labels, int64, ascending; None where all have.
        numbering: Where the images of `train` lie in the data set's training part; None where they are all of it.
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

    @classmethod
    def from_arrays(
        cls,
        train: tuple[Any, Any],
        val: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
        *,
        name: str = "arrays",
        image_size: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        train_limit: int | None = None,
        seed: int = 0,
        num_classes: int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        mirrored: bool = True,
        workers: int = 0,
        labels: Labels = None,
        labels_per_class: int | None = None,
        label_seed: int | None = None,
    ) -> Splits:
        """Splits of one's own images, each a pair of images and labels.

        Args:
            train: Images, uint8: arrays N x H x W or N x H x W x (1 or 3), or tensors N x H x W or
                N x (1 or 3) x H x W; and one integer label for each.
            val: The same to validate on; by default made from `train`.
            test: The same to test on; by default made from `train`.
            name: What to call it in records.
            mirrored: Whether an image means the same with left and right exchanged.
            image_size: As for `create_splits`, and so are all the others.

        Raises:
            DataError: As for `create_splits`, or arrays of another shape or kind.
        """
        request = _Request(
            name,
            image_size,
            val_share,
            test_share,
            train_limit,
            seed,
            num_classes,
            given_statistics(mean, std),
            label_request(labels, labels_per_class),
            label_seed,
        )
        given_val = None if val is None else _arrays(val, f"split 'val' of {name!r}")
        given_test = None if test is None else _arrays(test, f"split 'test' of {name!r}")
        given_train = _arrays(train, f"split 'train' of {name!r}")
        return _make_splits(given_train, given_val, given_test, request, {}, mirrored, math.inf, workers)

    def config(self) -> dict[str, Any]:
        """All that tells these splits from others, as JSON values.

        The fingerprint is of the images themselves, or, where they are streamed, of their choice and their labels.
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
        """The same splits, of whose training images some have labels only; with no argument, all have.

        Args:
            labels: As for `create_splits`, and so is `labels_per_class`.
            label_seed: Chooses the images; by default the seed that the splits were made with.

        Raises:
            DataError: As for `create_splits`.
        """
        request = label_request(labels, labels_per_class)
        seed = self.source.get("seed", 0) if label_seed is None else label_seed
        check_at_least("label_seed", seed, 0)
        labels_of_all, names = self.train.labels.numpy(), self.classes or range(self.num_classes)
        labelled, config = _choose_labelled(request, labels_of_all, self._numbering, seed, names)
        _check_unseen(self.train, labelled, self.test, self._numbering)
        return replace(self, labelled=labelled, source=self.source | {"labels": config})

    def labelled_indices(self) -> np.ndarray:
        """(n,) int64, ascending: the images with labels, counted in the data set's training part as it is on disk.

        That is before images to validate or to test on, or a `train_limit`, are taken out of it.
        """
        train = self._numbering.train
        return train if self.labelled is None else train[self.labelled.numpy()]

    def labels_file(self) -> str:
        """The `labelled_indices` as the text of a file that `labels` may name."""
        return format_indices(self.labelled_indices(), self.train.title)

    def probe(
        self,
        batch_size: int = 64,
        seed: int = 0,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Probe:
        """Training images that have labels, without augmentation, of each class as many as of others.

        Args:
            batch_size: How many, as far as there are enough of each class no more of one than of another.
            seed: Chooses them.
            mean: Of each channel, to normalise by; by default that of the data.
            std: Likewise.

        Raises:
            DataError: Fewer images have labels.
        """
        labelled = torch.arange(len(self.train)) if self.labelled is None else self.labelled
        check_at_least("batch_size", batch_size, 2)
        if batch_size > len(labelled):
            have = "" if self.labelled is None else " that have labels"
            raise DataError(
                f"A probe of {batch_size} images is asked for; there are only {len(labelled)} training images{have}."
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
        """SHA-256 in hex of what the sets are made of, whichever have labels; equal for equal splits."""
        prints = [part.fingerprint() for part in (self.train, self.val, self.test)]
        return hashlib.sha256(json.dumps([*prints, self.num_classes]).encode()).hexdigest()


def _by_turns(labels: Tensor, seed: int) -> Tensor:
    """All places, one of each class after the other, in random order otherwise."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stable_seed(seed, "probe")))
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        places = shuffled[labels[shuffled] == label]
        turn[places] = torch.arange(len(places))
    return shuffled[turn[shuffled].argsort(stable=True)]


def _arrays(pair: tuple[Any, Any], title: str) -> DataSet:
    images, labels = pair
    if isinstance(images, Tensor):
        images = (images.permute(0, 2, 3, 1) if images.ndim == 4 else images).cpu().numpy()
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    return data_set_of_arrays(np.asarray(images), labels, title, None)


@dataclass(frozen=True)
class _Request:
    """What is asked of a data set, checked."""

    name: str
    image_size: int | None
    val_share: float
    test_share: float
    train_limit: int | None
    seed: int
    num_classes: int | None
    statistics: Statistics | None
    labels: LabelRequest | None
    label_seed: int | None

    def __post_init__(self) -> None:
        check_at_least("seed", self.seed, 0)
        if self.label_seed is not None:
            check_at_least("label_seed", self.label_seed, 0)
        for key in ("image_size", "train_limit", "num_classes"):
            if getattr(self, key) is not None:
                check_at_least(key, getattr(self, key), 1)
        for key in ("val_share", "test_share"):
            if not 0 < getattr(self, key) < 1:
                raise DataError(f"{key} is {getattr(self, key)}; it must lie between 0 and 1.")


def as_splits(
    dataset: str | Splits,
    options: Mapping[str, Any] | None = None,
    *,
    labels: Labels = None,
    labels_per_class: int | None = None,
) -> Splits:
    """The data that is meant: splits as they are, or those that `create_splits` makes for a name.

    Args:
        dataset: The name, or the splits.
        options: Of `create_splits`, for a name.
        labels: As for `create_splits`; splits keep what is labelled unless this or `labels_per_class` is given.
        labels_per_class: As for `create_splits`.

    Raises:
        TypeError: It is neither.
        ValueError: There are options for splits, or labels are given among the options, too.
    """
    given = {"labels": labels, "labels_per_class": labels_per_class}
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(dataset, str):
        options = dict(options or {})
        if asked and (twice := [key for key in ("labels", "labels_per_class") if options.get(key) is not None]):
            raise ValueError(f"The data_options set {twice[0]}, and {next(iter(asked))} is given beside them.")
        return create_splits(dataset, **options | asked)
    if not isinstance(dataset, Splits):
        raise TypeError(
            f"The data is given as {type(dataset).__name__}; give a name that create_splits knows, or splits, which "
            "Splits.from_arrays makes of images and labels of one's own."
        )
    if options:
        raise ValueError("The data is given as it is; data_options cannot be set.")
    return dataset.with_labels(**asked) if asked else dataset


def create_splits(
    name: str = "digits",
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = None,
    val_share: float = 0.1,
    test_share: float = 0.2,
    train_limit: int | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resident_limit: int = RESIDENT_LIMIT,
    workers: int | None = None,
    labels: Labels = None,
    labels_per_class: int | None = None,
    label_seed: int | None = None,
) -> Splits:
    """Open a data set to train on, with a validation and a test set. Global random state is neither used nor changed.

    What the set does not have is made from its training images, with the same share of each class: first the test
    images, then, of the others, the validation images. A set with one other split only is tested on that one.

    Args:
        name: The data set, as for `create_probe`, but not `noise`.
        root: Its folder, where it has one.
        download: Let torchvision (or timm's reader) fetch what is missing.
        image_size: Side of the square that images are cut to (the middle) and resized to (bicubic). By default
            images keep their size; digits are 32 x 32.
        train_split: The part to train on.
        val_split: The part to validate on; by default the set's own, if it has one beside that to test on.
        test_split: The part to test on; by default the set's own.
        val_share: Share of the training images to validate on, where the set has no part for it.
        test_share: Share of the training images to test on, where the set has no part for it.
        train_limit: Train on so many images only, of each class as many as there are of others, as far as there are
            enough. Validation and test images stay the same, and a smaller limit takes a part of a larger one's images.
        seed: Chooses the images that are set apart, or left out.
        num_classes: Classes of the data, where they are more than the data shows.
        mean: Mean of each channel, as a share of the full scale; give `std` with it. By default those of CIFAR-10,
            CIFAR-100, MNIST, Fashion-MNIST and digits by name; ImageNet's for what timm and torchvision read; else
            those of the training images. `Splits.source["statistics"]` says which.
        std: Standard deviation of each channel.
        resident_limit: Bytes up to which the images of all parts are held in memory; beyond, they are streamed.
        workers: Processes that read streamed images, or augment one image at a time; by default one less than there
            are processor cores, but no more than 8 and at least one.
        labels: Which training images have labels; all by default. A share such as "4%", of each class to the nearest
            whole number but at least one image; a whole number of images, of each class as many as there are of
            others, as far as there are enough; or indices, or a file of them: .npy, or text with one on each line,
            where # begins a comment. Indices count the images of the training part as it is on disk, from 0: before
            images to validate or to test on, or a `train_limit`, are taken out of it.
        labels_per_class: So many training images of each class have labels; give this or `labels`.
        label_seed: Chooses the images that have labels, those of a smaller request among those of a larger one; by
            default `seed`.

    Raises:
        DataError: An unknown name or split, one that is asked for twice, an unreadable or empty data set, labels
            outside the classes, a class without images to train on, splits with different classes, or an argument out
            of range; labelled images that are not trained on, are given twice, are of fewer than two classes or are
            the test images again.
    """
    size = 32 if name == "digits" and image_size is None else image_size
    asked_labels = label_request(labels, labels_per_class)
    statistics = given_statistics(mean, std)
    request = _Request(
        name or "folder",
        size,
        val_share,
        test_share,
        train_limit,
        seed,
        num_classes,
        statistics,
        asked_labels,
        label_seed,
    )
    check_at_least("resident_limit", resident_limit, 0)
    workers = _usual_workers() if workers is None else workers
    check_at_least("workers", workers, 0)
    if name == "noise":
        raise DataError("The data set 'noise' has nothing to learn; it is for probes only.")
    folder = None if root is None else Path(root)

    def open_split(split: str) -> DataSet:
        return open_data_set(name, folder, split, download, Whole(size, resident_limit))

    train = open_split(train_split)
    known = split_names(name, folder)
    exact = known is not None and name.startswith("torch/")
    for asked in (train_split, val_split, test_split) if exact else ():
        _check_known(asked, known)
    test_split, test = _find(open_split, known, test_split, ("test", *EVAL_SPLITS), (train_split, val_split))
    val_split, val = _find(open_split, known, val_split, EVAL_SPLITS, (train_split, test_split))
    splits = {"train_split": train_split, "val_split": val_split, "test_split": test_split}
    return _make_splits(train, val, test, request, splits, _is_mirrored(name), resident_limit, workers)


def division(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the configuration of splits, what decides which images are validated and tested on."""
    keys = ("train_split", "val_split", "test_split", "val_share", "test_share")
    chosen = {key: config.get(key) for key in keys}
    drawn = chosen["val_share"] is not None or chosen["test_share"] is not None
    return chosen | ({"seed": config.get("seed")} if drawn else {})


def _usual_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


# Which splits there are


def _same_split(first: str, second: str | None) -> bool:
    """Whether two names may mean the same images, as synonyms do in folders and for torchvision."""
    return first == second or any({first, second} <= set(group) for group in (TRAIN_SPLITS, EVAL_SPLITS))


def _check_known(asked: str | None, known: Sequence[str] | None) -> None:
    if known is None or asked is None or asked in known:
        return
    if len(known) == 1:
        raise DataError(f"Unknown split {asked!r}; the data set has one only, {known[0]!r}.")
    raise DataError(f"Unknown split {asked!r}; the data set has {listed(known)}.")


def _find(
    open_split: Callable[[str], DataSet],
    known: Sequence[str] | None,
    asked: str | None,
    candidates: Sequence[str],
    taken: Sequence[str | None],
) -> tuple[str | None, DataSet | None]:
    """The split that was asked for, or the first candidate that the data set has, and it opened."""
    if asked is not None:
        if any(_same_split(asked, split) for split in taken):
            raise DataError(f"The split {asked!r} is asked for twice; train, val and test must be different ones.")
        if known == ("train",):
            # A folder without sub-folders for its splits would give the same images again.
            _check_known(asked, known)
        return asked, open_split(asked)
    if any(split in EVAL_SPLITS for split in taken):  # they are all one in some data sets
        candidates = [split for split in candidates if split not in EVAL_SPLITS]
    for split in candidates:
        if split in taken or (known is not None and split not in known):
            continue
        try:
            return split, open_split(split)
        except DataError as error:
            if known is not None or not isinstance(error.__cause__, ValueError):
                raise
    return None, None


def _is_mirrored(name: str) -> bool:
    stem = PurePath(name).stem.lower().replace("-", "_")
    return not any(stem == known or stem.startswith(f"{known}_") for known in _NOT_MIRRORED)


# Making splits


def _make_splits(
    train: DataSet,
    val: DataSet | None,
    test: DataSet | None,
    request: _Request,
    splits: dict[str, str | None],
    mirrored: bool,
    resident_limit: float,
    workers: int,
) -> Splits:
    classes = _count_classes([train, *(data for data in (val, test) if data is not None)], request.num_classes)
    parts = _divide(train, val, test, request, classes)
    names = train.classes if train.classes and len(train.classes) == classes else ()
    numbering = _numbering(parts)
    seed = request.seed if request.label_seed is None else request.label_seed
    labelled, label_config = _choose_labelled(
        request.labels, train.labels[numbering.train], numbering, seed, names or range(classes)
    )
    sets = _image_sets(parts, request.image_size, resident_limit, workers)
    _check_unseen(sets["train"], labelled, sets["test"], numbering)
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
    size = sets["train"].input_size
    return Splits(
        request.name,
        classes,
        size,
        sets["train"],
        sets["val"],
        sets["test"],
        mean=statistics.mean,
        std=statistics.std,
        mirrored=mirrored,
        source=source,
        classes=names,
        labelled=labelled,
        numbering=numbering,
    )


def _count_classes(opened: list[DataSet], num_classes: int | None) -> int:
    """The number of classes, after a check that all parts have the same and that each can be learnt."""
    train = opened[0]
    classes = num_classes or train.num_classes
    for data in opened:
        if not len(data.labels):
            raise DataError(f"{data.title} has no images.")
        if num_classes is None and data.num_classes != classes:
            raise DataError(
                f"{train.title} has {classes} classes, but {data.title} has {data.num_classes}. "
                "If the same labels mean the same classes, give num_classes."
            )
        check_labels(data.labels.min(), data.labels.max(), classes, data.title)
        if data.classes != train.classes:
            strange = sorted(set(data.classes or ()) ^ set(train.classes or ()))
            difference = listed(strange) or "their order differs"
            raise DataError(f"{train.title} and {data.title} do not have the same classes: {difference}.")
    empty = np.flatnonzero(np.bincount(train.labels, minlength=classes) == 0).tolist()
    if empty:
        raise DataError(f"{train.title} has no image of {len(empty)} of its {classes} classes: {listed(empty)}.")
    return classes


def _divide(
    train: DataSet, val: DataSet | None, test: DataSet | None, request: _Request, classes: int
) -> dict[str, tuple[DataSet, np.ndarray]]:
    """For each part, the data set that it is of, and which samples of that."""
    places = np.arange(len(train.labels))
    parts = {}
    for part, data, share in (("test", test, request.test_share), ("val", val, request.val_share)):
        if data is not None:
            parts[part] = (data, np.arange(len(data.labels)))
            continue
        apart = _stratified(train, places, part, share, request.seed)
        parts[part] = (train, places[apart])
        places = places[~apart]
    if request.train_limit is not None:
        places = _balanced(train, places, request.train_limit, request.seed, classes)
    return {"train": (train, places), "val": parts["val"], "test": parts["test"]}


def _stratified(data: DataSet, places: np.ndarray, part: str, share: float, seed: int) -> np.ndarray:
    """Which of these samples to set apart: this share of each class, to the nearest whole number but at least one."""
    labels = data.labels[places]
    held = np.bincount(labels)
    apart = np.maximum(1, np.rint(share * held)).astype(np.int64)
    short = [f"{label} ({held[label]})" for label in np.flatnonzero((held > 0) & (apart >= held))]
    if short:
        raise DataError(
            f"{data.title} has too few images to set {part}_share={share:g} apart and to train on others, in the "
            f"classes {listed(short)}. Give another {part}_share, or a {part}_split."
        )
    return _ranks(labels, stable_seed(seed, part)) < apart[labels]


def _balanced(data: DataSet, places: np.ndarray, limit: int, seed: int, classes: int) -> np.ndarray:
    """As many of these samples as the limit says, as evenly over the classes as there are enough of each."""
    if not classes <= limit <= len(places):
        raise DataError(
            f"train_limit is {limit}; with {classes} classes and {len(places)} images of {data.title} left to train "
            f"on, it must lie between {classes} and {len(places)}."
        )
    labels = data.labels[places]
    ranks = _ranks(labels, stable_seed(seed, "train_limit"))
    return np.sort(places[evenly(labels, ranks, limit, stable_seed(seed, "turn"))])


def _ranks(labels: np.ndarray, seed: int) -> np.ndarray:
    """Each sample's place among those of its class in a random order."""
    return ranks_in_class(labels, shuffled_by_class(labels, np.random.default_rng(seed)))


# Which images have labels


def _numbering(parts: dict[str, tuple[DataSet, np.ndarray]]) -> Numbering:
    train, places = parts["train"]
    apart = {part: chosen for part, (data, chosen) in parts.items() if part != "train" and data is train}
    return Numbering(train.title, places, len(train.labels), apart)


def _choose_labelled(
    request: LabelRequest | None, labels: np.ndarray, numbering: Numbering, seed: int, names: Sequence[object]
) -> tuple[Tensor | None, dict[str, Any] | None]:
    """Places of the training images that have labels, and what the configuration says of them; None for all.

    `labels` are those of the training images, `names` are those of the classes, or these themselves.
    """
    if request is None:
        return None, None
    chosen = choose_labelled(request, labels, numbering, seed)
    if missing := [names[label] for label in np.setdiff1d(np.arange(len(names)), labels[chosen])]:
        warnings.warn(
            f"{len(missing)} of the {len(names)} classes of {numbering.title} have no labelled image: "
            f"{listed(missing)}.",
            stacklevel=4,
        )
    if len(chosen) == len(labels):
        return None, None
    indices = numbering.train[chosen]
    return torch.from_numpy(chosen), {
        "request": request.config(),
        "seed": seed if request.indices is None else None,
        "count": len(chosen),
        "sha256": hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
    }


def _check_unseen(train: ImageSet, labelled: Tensor | None, test: ImageSet, numbering: Numbering) -> None:
    """Refuse labelled images that are the test images again, bit for bit, beyond the few that known data sets have.

    Where all images have labels, and those to test on were taken out of them, it is for the data set to have each once.
    """
    if not isinstance(train, ResidentSet) or not isinstance(test, ResidentSet):
        return
    if labelled is None and "test" in numbering.apart:
        return
    what = "training" if labelled is None else "labelled"
    shown = train.images if labelled is None else train.images[labelled]
    again, seen = _common(shown, test.images)
    if len(again) >= 2 and (len(again) > 0.01 * len(shown) or len(seen) > 0.01 * len(test)):
        indices = numbering.train[again if labelled is None else labelled.numpy()[again]]
        raise DataError(
            f"{what.capitalize()} and test images overlap: {len(again)} of the {len(shown)} {what} images of "
            f"{train.title} are bit for bit among the test images, those with the indices {listed(indices.tolist())}."
        )


def _common(images: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Places of images that are, bit for bit, among others, and of these others."""
    pair = images, others
    keys = list(map(_keys, pair))
    shared = np.intersect1d(keys[0], keys[1])
    places = [np.flatnonzero(np.isin(of_set, shared)) for of_set in keys]
    digests = [[_digest(of_set[place]) for place in at] for of_set, at in zip(pair, places, strict=True)]
    both = set(digests[0]) & set(digests[1])
    first, second = (at[[digest in both for digest in of_set]] for of_set, at in zip(digests, places, strict=True))
    return first, second


def _keys(images: Tensor) -> np.ndarray:
    """A number for each image, equal for equal ones, and as good as never for others; quicker had than a digest."""
    pixels = images.flatten(1).numpy()
    lacking = -pixels.shape[1] % 8
    weights = np.random.default_rng(0).integers(2**64, size=(pixels.shape[1] + lacking) // 8, dtype=np.uint64)
    keys = [
        (np.pad(part, ((0, 0), (0, lacking))) if lacking else part).view(np.uint64) @ weights
        for part in np.split(pixels, range(_KEYED_AT_ONCE, len(pixels), _KEYED_AT_ONCE))
    ]
    return np.concatenate(keys)


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()


# The images themselves


def _image_sets(
    parts: dict[str, tuple[DataSet, np.ndarray]], image_size: int | None, resident_limit: float, workers: int
) -> dict[str, ImageSet]:
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
    """Mean and standard deviation by channel of the training images, of a streamed set's evenly spaced ones."""
    count = len(train) if isinstance(train, ResidentSet) else min(len(train), UNLABELLED_LIMIT)
    chosen = torch.linspace(0, len(train) - 1, count, dtype=torch.float64).round().long()
    shown = train.batches(chosen, _READ_AT_ONCE, device=torch.device("cpu"), augment=None, seed=0)
    sums = [torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]) for x in (b.images.double() for b in shown)]
    mean, squares = torch.stack(sums).sum(0) / (count * train.input_size[1] * train.input_size[2])
    std = (squares - mean.square()).clamp(min=0).sqrt()
    return measured_statistics("train", mean, std, f"images of {train.title}")
