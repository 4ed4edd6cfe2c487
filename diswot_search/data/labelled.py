"""Labelled subsets: the training images that have a label, drawn by a seed or listed by their indices."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_whole, listed
from ..runtime.seeding import stable_seed
from .errors import DataError

LABELS_MAY_BE = (
    "a share such as '4%', a whole number of images such as 200, a file of indices (.npy, or text with one index on "
    "each line), or the indices themselves"
)
"""The forms that a labelled subset may be given in, for messages."""


Labels = int | str | os.PathLike[str] | Sequence[int] | np.ndarray | None
"""A labelled subset as a user gives it; see `LABELS_MAY_BE`. None means that all images have labels."""


@dataclass(frozen=True, eq=False)
class Numbering:
    """Maps the images to train on to their indices in the training part of the data set on disk.

    Attributes:
        title: Description of that part in messages.
        train: (N,) ascending indices of the images to train on.
        total: Number of images in that part.
        apart: Indices of the images that were set apart from it for validation ("val") or testing ("test").
    """

    title: str
    train: np.ndarray
    total: int
    apart: Mapping[str, np.ndarray] = field(default_factory=dict)

    def places(self, indices: np.ndarray) -> np.ndarray:
        """Convert indices on disk to places among the images to train on.

        Args:
            indices: (n,) indices in the training part on disk, in any order.

        Returns:
            (n,) places, ascending.

        Raises:
            DataError: An index is out of range, repeated, or of an image that is not trained on.

        Example:
            >>> numbering = Numbering("split 'train'", np.array([0, 2, 5]), 6, {"test": np.array([1, 3, 4])})
            >>> numbering.places(np.array([5, 0])).tolist()
            [0, 2]
        """
        if len(outside := indices[(indices < 0) | (indices >= self.total)]):
            raise DataError(
                f"Labelled images have the indices {listed(outside.tolist())}; {self.title} has {self.total} images, "
                f"so indices must lie between 0 and {self.total - 1}."
            )
        ordered = np.sort(indices)
        if len(repeated := np.unique(ordered[1:][ordered[1:] == ordered[:-1]])):
            raise DataError(f"Labelled images are given more than once: {listed(repeated.tolist())}.")
        for part, use in (("test", "test"), ("val", "validation")):
            if len(shared := np.intersect1d(ordered, self.apart.get(part, ()))):
                raise DataError(
                    f"Labelled images overlap with the {use} images, which were set apart from {self.title}: "
                    f"{listed(shared.tolist())}. Leave them out, or give a {part}_split."
                )
        if len(omitted := np.setdiff1d(ordered, self.train)):
            raise DataError(
                f"train_limit omits {len(omitted)} of the labelled images: {listed(omitted.tolist())}. Give a larger "
                "train_limit, or none."
            )
        return np.searchsorted(self.train, ordered)


@dataclass(frozen=True, eq=False)
class LabelRequest:
    """A request for a labelled subset. Make one with `label_request`; exactly one attribute is set.

    Attributes:
        percent: Share of the images of each class, in percent.
        count: Total number of images, spread over the classes as evenly as their sizes allow.
        per_class: Number of images of each class.
        indices: (n,) indices of the images in the training part on disk.
    """

    percent: float | None = None
    count: int | None = None
    per_class: int | None = None
    indices: np.ndarray | None = None

    def config(self) -> str | int:
        """The request as a JSON value."""
        if self.percent is not None:
            return f"{self.percent:.12g}%"
        if self.per_class is not None:
            return f"{self.per_class} per class"
        return "indices" if self.count is None else self.count


def label_request(labels: Labels = None, labels_per_class: int | None = None) -> LabelRequest | None:
    """Read a request for a labelled subset, and check whatever can be checked without the images.

    Args:
        labels: A share of each class ("4%"), a total number of images (200 or "200"), a file of indices, or the
            indices themselves.
        labels_per_class: Number of images of each class.

    Returns:
        The request, or None if all images have labels.

    Raises:
        DataError: Both arguments are given, one is out of range, or a file cannot be read.

    Example:
        >>> label_request("4%").percent, label_request(200).count, label_request(labels_per_class=5).per_class
        (4.0, 200, 5)
    """
    if labels_per_class is not None:
        if labels is not None:
            raise DataError(
                f"labels ({_shown(labels)}) and labels_per_class ({labels_per_class}) are both given; give only one."
            )
        check_whole("labels_per_class", labels_per_class, least=1, error=DataError)
        return LabelRequest(per_class=labels_per_class)
    if labels is None:
        return None
    if isinstance(labels, str):
        return _request_of_text(labels)
    if isinstance(labels, os.PathLike):
        return LabelRequest(indices=read_indices(labels))
    if (count := _as_whole(labels)) is not None:
        return LabelRequest(count=_checked_count(count))
    return LabelRequest(indices=_as_indices(labels, f"labels is {_shown(labels)}"))


def choose_labelled(request: LabelRequest, classes: np.ndarray, numbering: Numbering, seed: int) -> np.ndarray:
    """Choose the labelled subset of the images to train on.

    The seed puts all images of the training part on disk into one order, and each class takes its images from the
    start of that order. A larger request therefore contains a smaller one, and an image among the first of its class
    stays there when other images are omitted (`train_limit`) or set apart.

    Args:
        request: The request to meet.
        classes: (N,) class of each image to train on.
        numbering: Indices of these images in the training part on disk.
        seed: Seed of the order; unused for a request by indices.

    Returns:
        (n,) places among the images to train on, ascending.

    Raises:
        DataError: Fewer than two classes would have labels, a class or the whole set has too few images, or
            indices do not fit the numbering.

    Example:
        >>> numbering = Numbering("split 'train'", np.arange(6), 6)
        >>> chosen = choose_labelled(LabelRequest(per_class=1), np.array([0, 0, 0, 1, 1, 1]), numbering, seed=0)
        >>> len(chosen)
        2
    """
    if request.indices is not None:
        chosen = numbering.places(request.indices)
    else:
        order = np.random.default_rng(stable_seed(seed, "labels")).permutation(numbering.total)[numbering.train]
        ranks = ranks_in_class(classes, np.lexsort((order, classes)))
        chosen = _draw(request, classes, ranks, numbering.title, seed)
    if len(labelled_classes := np.unique(classes[chosen])) < 2:
        raise DataError(
            f"All {len(chosen)} labelled images of {numbering.title} are of class {labelled_classes[0]}; at least two "
            "classes must have labelled images."
        )
    return chosen


def _draw(request: LabelRequest, classes: np.ndarray, ranks: np.ndarray, title: str, seed: int) -> np.ndarray:
    """Places of the images that a share, a total or a number per class asks for, given their ranks in the order."""
    class_counts = np.bincount(classes)
    if request.percent is not None:
        targets = np.maximum(1, np.rint(request.percent / 100 * class_counts)).astype(np.int64)
        return np.flatnonzero(ranks < targets[classes])
    if request.per_class is not None:
        if len(short := np.flatnonzero(class_counts < request.per_class)):
            classes_text = listed([f"{label} ({class_counts[label]})" for label in short])
            raise DataError(
                f"labels_per_class is {request.per_class}; {title} has fewer images to train on in the classes "
                f"{classes_text}."
            )
        return np.flatnonzero(ranks < request.per_class)
    assert request.count is not None
    class_total = np.count_nonzero(class_counts)
    if not class_total <= request.count <= len(classes):
        raise DataError(
            f"labels is {request.count}; with {class_total} classes and {len(classes)} images of {title} to train on, "
            f"it must lie between {class_total} and {len(classes)}."
        )
    return np.sort(evenly(classes, ranks, request.count, stable_seed(seed, "labels", "turn")))


def ranks_in_class(classes: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Rank each sample within its class.

    Args:
        classes: (N,) class of each sample.
        by_class: (N,) indices of all samples, ordered by class.

    Returns:
        (N,) int64 ranks, from 0.

    Example:
        >>> ranks_in_class(np.array([1, 0, 1]), np.array([1, 2, 0])).tolist()
        [1, 0, 0]
    """
    class_counts = np.bincount(classes)
    ranks = np.empty(len(classes), dtype=np.int64)
    ranks[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(class_counts) - class_counts, class_counts)
    return ranks


def evenly(classes: np.ndarray, ranks: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Take a number of samples, spread over the classes as evenly as their sizes allow.

    Args:
        classes: (N,) class of each sample.
        ranks: (N,) rank of each sample within its class; samples of low rank are taken first.
        count: Number of samples to take.
        seed: Seed that decides which classes get one sample more if the count is not divisible.

    Returns:
        (count,) indices of the samples, in no particular order.
    """
    turn = np.random.default_rng(seed).permutation(int(classes.max()) + 1)
    return np.lexsort((turn[classes], ranks))[:count]


# Files of indices


def read_indices(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the indices of a labelled subset from a file.

    Args:
        path: A .npy file, or a text file with one index on each line, where # begins a comment.

    Returns:
        (n,) int64, in the order of the file.

    Raises:
        DataError: The file does not exist, or does not hold whole numbers.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"labels is {str(path)!r}, which {problem}.{_near(path)} It may be {LABELS_MAY_BE}.")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _parsed(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"Cannot read indices of labelled images from {str(path)!r}: {error}") from error
    return _as_indices(values, f"{str(path)!r} holds {_shown(values)}")


def _near(path: Path) -> str:
    """A hint at files with a similar name in the same folder; empty if there are none."""
    # A late import, because search_spaces imports timm, which imports torchvision.
    from search_spaces.registry import near_names

    neighbours = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = near_names(path.name, neighbours)
    return f" Did you mean {' or '.join(repr(str(path.with_name(name))) for name in near)}?" if near else ""


def format_indices(indices: np.ndarray, title: str) -> str:
    """Write indices as the text of a file that `read_indices` reads.

    Args:
        indices: (n,) indices of the labelled images.
        title: Description of the data set, for the comment in the first line.
    """
    comment = f"# The {len(indices)} labelled images of {title}: their indices, from 0, in the whole of it."
    return "\n".join([comment, *map(str, indices.tolist()), ""])


def _parsed(path: Path) -> list[int]:
    indices = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise ValueError(f"line {number} is {line.strip()[:40]!r}; it must be one whole number.")
        indices.append(int(text))
    return indices


# Parsing a request


def _request_of_text(text: str) -> LabelRequest:
    if text.strip().endswith("%"):
        return LabelRequest(percent=_percent(text))
    if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        return LabelRequest(count=_checked_count(int(text)))
    return LabelRequest(indices=read_indices(text))


def _percent(text: str) -> float:
    try:
        percent = float(text.strip()[:-1])
    except ValueError:
        raise DataError(f"labels is {text!r}; it may be {LABELS_MAY_BE}.") from None
    if not 0 < percent <= 100:
        raise DataError(f"labels is {text!r}; a share must be above 0% and at most 100%.")
    return percent


def _checked_count(count: int) -> int:
    if count < 1:
        raise DataError(f"labels is {count}; a number of images must be at least 1.")
    return count


def _as_whole(value: Any) -> int | None:
    if isinstance(value, bool) or getattr(value, "ndim", 0) > 0:  # else a tensor of one index passes for a number
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_indices(values: object, description: str) -> np.ndarray:
    """The values as (n,) int64, after a check that they are whole numbers and at least one."""
    try:
        indices = np.asarray(values)
    except (TypeError, ValueError):  # a ragged list, or a tensor on another device
        indices = np.empty((0, 0))
    if indices.shape == (0,):
        raise DataError(f"{description}; no image would have a label.")
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise DataError(f"{description}; labels may be {LABELS_MAY_BE}.")
    return indices.astype(np.int64)


def _shown(value: object) -> str:
    """The value for a message, in one line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
