"""Images that stand in two splits, found by their digests."""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor

from ..checks import listed
from .errors import DataError
from .image_sets import ImageSet, ResidentSet
from .labelled import Numbering

_KEYED_AT_ONCE = 4096
"""Number of images whose keys are computed at a time."""


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
