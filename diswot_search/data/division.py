"""How data is divided into training, validation and test images, and which of them have labels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..checks import WORKING_SHARE, check_memory, check_whole, listed
from ..runtime.seeding import stable_seed
from .data_set import DataSet, Statistics, check_labels, shuffled_by_class
from .errors import DataError, warn_of
from .inventory import named_classes, quoted
from .labelled import LabelRequest, Numbering, choose_labelled, evenly, ranks_in_class


@dataclass(frozen=True)
class SplitRequest:
    """The options of splits that do not depend on where the data set comes from, checked."""

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
        check_whole("seed", self.seed, least=0, error=DataError)
        if self.label_seed is not None:
            check_whole("label_seed", self.label_seed, least=0, error=DataError)
        for key in ("image_size", "train_limit", "num_classes"):
            if getattr(self, key) is not None:
                check_whole(key, getattr(self, key), least=1, error=DataError)
        if self.image_size is not None:
            what = f"An image of {self.image_size} x {self.image_size} pixels (image_size)"
            check_memory(what, 12 * self.image_size**2, share=WORKING_SHARE, error=DataError)
        for key in ("val_share", "test_share"):
            if not 0 < getattr(self, key) < 1:
                raise DataError(f"{key} is {getattr(self, key)}; it must lie between 0 and 1, exclusive.")


def division(config: Mapping[str, object]) -> dict[str, object]:
    """The part of a split configuration that fixes its validation and test images.

    Args:
        config: The configuration, as `Splits.config` returns it.
    """
    keys = ("train_split", "val_split", "test_split", "val_share", "test_share")
    chosen = {key: config.get(key) for key in keys}
    drawn = chosen["val_share"] is not None or chosen["test_share"] is not None
    return chosen | ({"seed": config.get("seed")} if drawn else {})


# The classes of the splits of a data set


def reconcile(opened: Sequence[DataSet], num_classes: int | None) -> tuple[list[DataSet], int, list[str]]:
    """Give all parts of a data set the same classes.

    Labels that start at 1 are shifted to start at 0. Classes with names are matched by their names, so that a part may
    lack some.

    Args:
        opened: The parts, the training part first.
        num_classes: Number of classes, if it is given.

    Returns:
        The parts, the number of classes, and what was changed or is missing, for the user.

    Raises:
        DataError: A part has no images; there are fewer than two classes; the parts do not agree on the classes; labels
            lie outside them; or a class has no training images.
    """
    for data in opened:
        if not len(data.labels):
            raise DataError(f"{data.title} has no images.")
    parts, note = from_zero(opened, num_classes)
    parts = [parts[0], *(_with_classes_of(parts[0], data) for data in parts[1:])]
    classes = num_classes or parts[0].num_classes
    check_at_least_two(parts[0], num_classes)
    for data in parts:
        _check_classes(parts[0], data, classes, num_classes is not None)
    if len(empty := _empty(parts[0], classes)):
        raise DataError(
            f"{parts[0].title} has no images of {len(empty)} of its {classes} classes: {listed(empty)}. Add images of "
            "them, or number the classes without gaps."
        )
    notes = [note] if note else []
    for data in parts[1:]:
        if len(empty := _empty(data, classes)):
            missing = named_classes(empty, parts[0].classes)
            text = f"{data.title} has no images of {len(empty)} of the {classes} classes: {missing}"
            notes.append(warn_of(text) if num_classes is None else text)
    return parts, classes, notes


def from_zero(opened: Sequence[DataSet], num_classes: int | None = None) -> tuple[list[DataSet], str]:
    """Number the classes from 0 where the labels start at 1, with a warning.

    Args:
        opened: The parts of a data set, the training part first; none is empty.
        num_classes: Number of classes, if it is given.

    Returns:
        The parts, and a note if they are changed.
    """
    train = opened[0]
    lowest = min(int(data.labels.min()) for data in opened)
    highest = max(int(data.labels.max()) for data in opened)
    has_first = train.classes is not None and len(train.classes) != highest + 1
    is_partial = not all(data.complete for data in opened)
    if lowest != 1 or int(train.labels.min()) != 1 or num_classes not in (None, highest) or has_first or is_partial:
        return list(opened), ""
    names = train.classes and train.classes[1:]
    unused = f" ('{train.classes[0]}')" if train.classes else ""
    shifted = [
        replace(data, labels=data.labels - 1, num_classes=data.num_classes - 1, classes=names) for data in opened
    ]
    note = (
        f"labels of {train.title} start at 1, and no image has the label 0{unused}: labels 1 to {highest} are read as "
        f"0 to {highest - 1}"
    )
    return shifted, warn_of(note)


def check_at_least_two(data: DataSet, num_classes: int | None) -> None:
    """Refuse a data set of a single class.

    Raises:
        DataError: There is one class only.
    """
    if (num_classes or data.num_classes) < 2:
        name = named_classes([0], data.classes)
        raise DataError(
            f"All {len(data.labels)} images of {data.title} are of one class, {name}; at least two classes are needed."
            f"{data.advice}"
        )


def _with_classes_of(train: DataSet, data: DataSet) -> DataSet:
    """A part with the classes of the training part, matched by their names."""
    if data.classes is None or train.classes is None or data.classes == train.classes:
        return data
    if unknown := [name for name in data.classes if name not in train.classes]:
        used = [name for name in unknown if np.any(data.labels == data.classes.index(name))]
        raise DataError(
            f"{data.title} has classes that {train.title} does not have: {listed(list(map(quoted, used)))}; "
            f"that has {listed(list(map(quoted, train.classes)))}. Rename or remove them, or add training images."
        )
    numbers = np.array([train.classes.index(name) for name in data.classes])
    return replace(data, labels=numbers[data.labels], num_classes=train.num_classes, classes=train.classes)


def _check_classes(train: DataSet, data: DataSet, classes: int, is_given: bool) -> None:
    """Refuse a part with other classes than the training part."""
    if not is_given and data.num_classes != classes:
        fewer, more = sorted((data, train), key=lambda part: part.num_classes)
        missing = listed(range(fewer.num_classes, more.num_classes))
        raise DataError(
            f"{train.title} has {classes} classes, but {data.title} has {data.num_classes}: {fewer.title} has no "
            f"images of the classes {missing}. If the same labels mean the same classes, give "
            f"num_classes={more.num_classes}."
        )
    check_labels(data.labels.min(), data.labels.max(), classes, data.title)
    if (data.classes is None) != (train.classes is None):
        raise DataError(f"{train.title} and {data.title} do not have the same classes: only one of them names them.")


def _empty(data: DataSet, classes: int) -> list[int]:
    """The classes without images."""
    return np.flatnonzero(np.bincount(data.labels, minlength=classes) == 0).tolist()


def divide(
    train: DataSet, val: DataSet | None, test: DataSet | None, request: SplitRequest, classes: int
) -> dict[str, tuple[DataSet, np.ndarray]]:
    """Each part as a data set and the indices of its samples in that data set."""
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
    """A mask of the samples to split off: this share of each class, rounded, but at least one sample."""
    labels = data.labels[places]
    class_counts = np.bincount(labels)
    apart = np.maximum(1, np.rint(share * class_counts)).astype(np.int64)
    short = np.flatnonzero((class_counts > 0) & (apart >= class_counts))
    if len(short):
        counts = listed([f"{named_classes([label], data.classes)} ({class_counts[label]})" for label in short.tolist()])
        single = named_classes(np.flatnonzero(class_counts == 1).tolist(), data.classes)
        advice = (
            f"A class of one image cannot be divided: add images of {single}, or remove these classes, or give a "
            f"{part}_split."
            if single
            else f"Give a smaller {part}_share, or a {part}_split."
        )
        raise DataError(
            f"{data.title} has too few images to split off {part}_share={share:g} and to train on the rest in the "
            f"classes {counts}. {advice}"
        )
    return _ranks(labels, stable_seed(seed, part)) < apart[labels]


def _balanced(data: DataSet, places: np.ndarray, limit: int, seed: int, classes: int) -> np.ndarray:
    """`limit` of these samples, ascending, spread over the classes as evenly as their sizes allow."""
    if not classes <= limit <= len(places):
        raise DataError(
            f"train_limit is {limit}; with {classes} classes and {len(places)} images of {data.title} to train on, "
            f"it must lie between {classes} and {len(places)}."
        )
    labels = data.labels[places]
    ranks = _ranks(labels, stable_seed(seed, "train_limit"))
    return np.sort(places[evenly(labels, ranks, limit, stable_seed(seed, "turn"))])


def _ranks(labels: np.ndarray, seed: int) -> np.ndarray:
    """The rank of each sample within its class in a random order."""
    return ranks_in_class(labels, shuffled_by_class(labels, np.random.default_rng(seed)))


# The labelled subset


def numbering_of(parts: dict[str, tuple[DataSet, np.ndarray]]) -> Numbering:
    train, places = parts["train"]
    apart = {part: chosen for part, (data, chosen) in parts.items() if part != "train" and data is train}
    return Numbering(train.title, places, len(train.labels), apart)


def labelled_by_request(
    request: LabelRequest | None, labels: np.ndarray, numbering: Numbering, seed: int, names: Sequence[object]
) -> tuple[Tensor | None, dict[str, object] | None]:
    """The places of the labelled subset among the training images, and its entry in the configuration.

    Both are None if all training images have labels. `labels` are the classes of the training images; `names` are
    the names of the classes, or their indices.
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
