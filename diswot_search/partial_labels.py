"""Partial labels: which training images have a label, drawn by a seed or told by their indices."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .data import DataError, check_at_least, listed
from .seeding import stable_seed

LABELS_MAY_BE = (
    "a share such as '4%', a whole number of images such as 200, a file of indices (.npy, or text with one on each "
    "line), or indices themselves"
)

Labels = int | str | os.PathLike[str] | Sequence[int] | np.ndarray | None
"""What partial labels are given as; see `LABELS_MAY_BE`. None: all images have labels."""


@dataclass(frozen=True, eq=False)
class Numbering:
    """Where the images that are trained on lie in the data set's training part, as it is on disk.

    Attributes:
        title: What that part is called in messages.
        train: Their indices in it, ascending.
        total: Number of all its images.
        apart: Indices of those that were taken out of it to validate ("val") or to test on ("test").
    """

    title: str
    train: np.ndarray
    total: int
    apart: Mapping[str, np.ndarray] = field(default_factory=dict)

    def places(self, indices: np.ndarray) -> np.ndarray:
        """Places among the images that are trained on, ascending, of these indices.

        Raises:
            DataError: An index is out of range, there twice, or of an image that is not trained on.
        """
        if len(strange := indices[(indices < 0) | (indices >= self.total)]):
            raise DataError(
                f"Labelled images have the indices {listed(strange.tolist())}; of the {self.total} images of "
                f"{self.title} they must lie between 0 and {self.total - 1}."
            )
        ordered = np.sort(indices)
        if len(twice := np.unique(ordered[1:][ordered[1:] == ordered[:-1]])):
            raise DataError(f"Labelled images are given twice: {listed(twice.tolist())}.")
        for part, use in (("test", "tested"), ("val", "validated")):
            if len(shared := np.intersect1d(ordered, self.apart.get(part, ()))):
                raise DataError(
                    f"Labelled images overlap with those that are {use} on, which were taken out of {self.title}: "
                    f"{listed(shared.tolist())}. Leave them out, or give a {part}_split."
                )
        if len(left_out := np.setdiff1d(ordered, self.train)):
            raise DataError(
                f"Of the labelled images, train_limit leaves {len(left_out)} out: {listed(left_out.tolist())}. Give "
                "a larger train_limit, or none."
            )
        return np.searchsorted(self.train, ordered)


@dataclass(frozen=True, eq=False)
class LabelRequest:
    """Which images are to have labels. Make one with `label_request`; one of the attributes is set.

    Attributes:
        percent: Share of the images of each class.
        count: Images in all, as evenly over the classes as there are enough of each.
        per_class: Images of each class.
        indices: The images themselves.
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
    """The request that is meant, read and checked as far as it can be without the images; None for all labels.

    Args:
        labels: A share of each class ("4%"), a whole number of images (200 or "200"), a file of indices, or these.
        labels_per_class: Images of each class.

    Raises:
        DataError: Both are given, or one that is out of range or cannot be read.
    """
    if labels_per_class is not None:
        if labels is not None:
            raise DataError(f"labels ({_shown(labels)}) and labels_per_class ({labels_per_class}) are both given.")
        check_at_least("labels_per_class", labels_per_class, 1)
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
    """Places of the images that have labels, ascending.

    Of each class the seed puts all images of the training part on disk into one order, and takes from its start: so
    10 images of each class include 5 of each, a larger share a smaller one, and an image that is among the first of
    its class stays so when others are left out (`train_limit`) or set apart.

    Args:
        request: Which are wanted.
        classes: (N,) class of each image that is trained on.
        numbering: Where these images lie in the training part.
        seed: Of the order; indices need none.

    Raises:
        DataError: Fewer than two classes would have labels, there are too few images of a class or in all, or
            indices do not fit the numbering.
    """
    if request.indices is not None:
        chosen = numbering.places(request.indices)
    else:
        order = np.random.default_rng(stable_seed(seed, "labels")).permutation(numbering.total)[numbering.train]
        ranks = ranks_in_class(classes, np.lexsort((order, classes)))
        chosen = _draw(request, classes, ranks, numbering.title, seed)
    if len(labelled := np.unique(classes[chosen])) < 2:
        raise DataError(
            f"All {len(chosen)} labelled images of {numbering.title} are of class {labelled[0]}; at least two classes "
            "must have some."
        )
    return chosen


def _draw(request: LabelRequest, classes: np.ndarray, ranks: np.ndarray, title: str, seed: int) -> np.ndarray:
    held = np.bincount(classes)
    if request.percent is not None:
        wanted = np.maximum(1, np.rint(request.percent / 100 * held)).astype(np.int64)
        return np.flatnonzero(ranks < wanted[classes])
    if request.per_class is not None:
        if len(short := np.flatnonzero(held < request.per_class)):
            shown = listed([f"{label} ({held[label]})" for label in short])
            raise DataError(
                f"labels_per_class is {request.per_class}; {title} has fewer images to train on of the classes {shown}."
            )
        return np.flatnonzero(ranks < request.per_class)
    assert request.count is not None
    present = np.count_nonzero(held)
    if not present <= request.count <= len(classes):
        raise DataError(
            f"labels is {request.count}; with {present} classes and {len(classes)} images of {title} to train on, it "
            f"must lie between {present} and {len(classes)}."
        )
    return np.sort(evenly(classes, ranks, request.count, stable_seed(seed, "labels", "turn")))


def ranks_in_class(classes: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Each sample's place among those of its class, given all samples class after class."""
    held = np.bincount(classes)
    ranks = np.empty(len(classes), dtype=np.int64)
    ranks[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(held) - held, held)
    return ranks


def evenly(classes: np.ndarray, ranks: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many samples, the first of their classes, as evenly over these as there are enough of each.

    The seed decides which classes get one more where the count is not divisible.
    """
    turn = np.random.default_rng(seed).permutation(int(classes.max()) + 1)
    return np.lexsort((turn[classes], ranks))[:count]


# Files of indices


def read_indices(path: str | os.PathLike[str]) -> np.ndarray:
    """Indices of a file: .npy, or text with one on each line, where # begins a comment.

    Raises:
        DataError: There is no such file, or it has no indices.
    """
    path = Path(path)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise DataError(f"labels is {str(path)!r}, which {what}.{_near(path)} It may be {LABELS_MAY_BE}.")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _parsed(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"Cannot read indices of labelled images from {str(path)!r}: {error}") from error
    return _as_indices(values, f"{str(path)!r} holds {_shown(values)}")


def _near(path: Path) -> str:
    # Imported here, since search_spaces brings timm and timm brings torchvision.
    from search_spaces.registry import near_names

    beside = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = near_names(path.name, beside)
    return f" Did you mean {' or '.join(repr(str(path.with_name(name))) for name in near)}?" if near else ""


def format_indices(indices: np.ndarray, title: str) -> str:
    """Text that `read_indices` reads."""
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


# What is given


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
        raise DataError(f"labels is {text!r}; a share must be more than 0% and at most 100%.")
    return percent


def _checked_count(count: int) -> int:
    if count < 1:
        raise DataError(f"labels is {count}; a number of images must be at least 1.")
    return count


def _as_whole(value: Any) -> int | None:
    if isinstance(value, bool) or getattr(value, "ndim", 0) > 0:  # a tensor of one index would pass for a number
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_indices(values: Any, given: str) -> np.ndarray:
    """(n,) int64, after a check that these are whole numbers, and some."""
    try:
        indices = np.asarray(values)
    except (TypeError, ValueError):  # ragged, or on another device
        indices = np.empty((0, 0))
    if indices.shape == (0,):
        raise DataError(f"{given}; no image would have a label.")
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise DataError(f"{given}; labels may be {LABELS_MAY_BE}.")
    return indices.astype(np.int64)


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
