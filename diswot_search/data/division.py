"""How data is divided into training, validation and test images, and which of them have labels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import check_whole, listed
from ..runtime.seeding import stable_seed
from .data_set import DataSet, Statistics, check_labels, shuffled_by_class
from .errors import DataError
from .labelled import LabelRequest, Numbering, choose_labelled, evenly, ranks_in_class
from .with_timm import EVAL_SPLITS, TRAIN_SPLITS


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


# Finding the splits of a data set


def same_split(first: str, second: str | None) -> bool:
    """Whether two names may stand for the same images: folders and torchvision treat some names as synonyms."""
    return first == second or any({first, second} <= set(group) for group in (TRAIN_SPLITS, EVAL_SPLITS))


def count_classes(opened: list[DataSet], num_classes: int | None) -> int:
    """The number of classes, after a check that all parts agree on them and that each has training images."""
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
            in_one_only = sorted(set(data.classes or ()) ^ set(train.classes or ()))
            difference = listed(in_one_only) or "their order differs"
            raise DataError(f"{train.title} and {data.title} do not have the same classes: {difference}.")
    empty = np.flatnonzero(np.bincount(train.labels, minlength=classes) == 0).tolist()
    if empty:
        raise DataError(f"{train.title} has no images of {len(empty)} of its {classes} classes: {listed(empty)}.")
    return classes


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
    short = [
        f"{label} ({class_counts[label]})" for label in np.flatnonzero((class_counts > 0) & (apart >= class_counts))
    ]
    if short:
        raise DataError(
            f"{data.title} has too few images to split off {part}_share={share:g} and to train on the rest in the "
            f"classes {listed(short)}. Give another {part}_share, or a {part}_split."
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
