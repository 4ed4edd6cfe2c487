"""Images that stand in two splits, found by their digests."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..checks import listed
from .data_set import DataSet
from .errors import DataError
from .image_sets import ImageSet, ResidentSet
from .inventory import quoted
from .labelled import Numbering

_KEYED_AT_ONCE = 4096
"""Number of images whose keys are computed at a time."""


def check_apart(opened: Sequence[DataSet]) -> None:
    """Reject splits in folders that contain each other, or that have the same files.

    Args:
        opened: The splits of one data set.

    Raises:
        DataError: A file would be read for two splits.
    """
    for first, second in itertools.combinations(opened, 2):
        if first.folder is None or second.folder is None or first.keys is None or second.keys is None:
            continue
        paths = [os.path.realpath(data.folder) for data in (first, second) if data.folder is not None]
        shared = np.intersect1d(first.keys[first.keys != 0], second.keys)
        if os.path.commonpath(paths) in paths:
            folders = " and ".join(map(repr, (first.folder, second.folder)))
            raise DataError(f"A split is used twice: of the folders {folders}, one contains the other.")
        if not len(shared):
            continue
        place = int(np.flatnonzero(np.isin(first.keys, shared))[0])
        file = quoted(first.files(np.array([place]))[0]) if first.files else str(place)
        raise DataError(
            f"A split is used twice: {len(shared)} files, such as {file}, are in both {first.title} and "
            f"{second.title}. Name other splits, or remove the links."
        )


def check_unseen(train: ImageSet, labelled: Tensor | None, test: ImageSet, numbering: Numbering) -> None:
    """Reject labelled images that occur among the test images bit for bit.

    Fewer than two, or up to 1% of either set, are tolerated, because established data sets contain a few duplicates.
    If all images have labels and the test images were split off them, duplicates are a property of the data set.
    """
    if not isinstance(train, ResidentSet) or not isinstance(test, ResidentSet):
        return
    if labelled is None and "test" in numbering.apart:
        return
    kind = "training" if labelled is None else "labelled"
    images = train.images if labelled is None else train.images[labelled]
    duplicates, test_duplicates = _common(images, test.images)
    if len(duplicates) >= 2 and (len(duplicates) > 0.01 * len(images) or len(test_duplicates) > 0.01 * len(test)):
        indices = numbering.train[duplicates if labelled is None else labelled.numpy()[duplicates]]
        raise DataError(
            f"{kind.capitalize()} and test images overlap: {len(duplicates)} of the {len(images)} {kind} images of "
            f"{train.title} occur bit for bit among the test images. Their indices are {listed(indices.tolist())}."
        )


def _common(images: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Places of the images that occur bit for bit in both sets, in the first and in the second set."""
    # Equal images have equal keys, so only those whose key occurs in both sets need the slower digest.
    pair = images, others
    keys = list(map(_keys, pair))
    shared = np.intersect1d(keys[0], keys[1])
    places = [np.flatnonzero(np.isin(of_set, shared)) for of_set in keys]
    digests = [[_digest(of_set[place]) for place in at] for of_set, at in zip(pair, places, strict=True)]
    both = set(digests[0]) & set(digests[1])
    first, second = (at[[digest in both for digest in of_set]] for of_set, at in zip(digests, places, strict=True))
    return first, second


def _keys(images: Tensor) -> np.ndarray:
    """(N,) uint64 keys, equal for equal images and almost never equal otherwise; faster than a digest."""
    pixels = images.flatten(1).numpy()
    padding = -pixels.shape[1] % 8
    weights = np.random.default_rng(0).integers(2**64, size=(pixels.shape[1] + padding) // 8, dtype=np.uint64)
    keys = [
        (np.pad(part, ((0, 0), (0, padding))) if padding else part).view(np.uint64) @ weights
        for part in np.split(pixels, range(_KEYED_AT_ONCE, len(pixels), _KEYED_AT_ONCE))
    ]
    return np.concatenate(keys)


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()
