"""Data sets of arrays: scikit-learn's digits, NPZ files, and arrays of the user."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..checks import expanded, listed
from ..runtime.seeding import isolated_random_state
from .data_set import ArrayReader, DataSet, Statistics, known_statistics
from .errors import DataError, unknown_data
from .inventory import inventory_of_arrays


def open_digits(split: str) -> DataSet:
    with isolated_random_state(0):  # importing scikit-learn draws from the global random generator
        from sklearn.datasets import load_digits

    if split != "train":
        raise DataError(f"Unknown split {split!r} of 'digits'; it has only 'train'.")
    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return DataSet(
        "'digits'",
        labels,
        ArrayReader(images),
        10,
        known_statistics("digits"),
        inventory=inventory_of_arrays("digits of scikit-learn", len(labels), images, "array"),
    )


def open_npz(name: str, root: Path, split: str) -> DataSet:
    path = root / expanded(name, error=DataError)
    title = f"split {split!r} of {str(path)!r}"
    return data_set_of_arrays(*_read_npz(path, split), title, known_statistics(name))


def data_set_of_arrays(images: np.ndarray, labels: np.ndarray, title: str, statistics: Statistics | None) -> DataSet:
    """Make a data set of two arrays.

    Args:
        images: (N, H, W) or (N, H, W, 1 or 3) uint8.
        labels: (N,) or (N, 1) integers.
        title: Description of the data set in messages.
        statistics: Mean and standard deviation to normalise by; None to measure them on the images in use.

    Raises:
        DataError: An array has the wrong shape or dtype.
    """
    images = _checked_images(images, title)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"Labels of {title} are {labels.dtype} with the shape {labels.shape}; "
            f"there must be one integer for each of the {len(images)} images."
        )
    labels = labels.astype(np.int64)
    classes = int(labels.max(initial=-1)) + 1
    inventory = inventory_of_arrays(title, len(labels), images, "array")
    return DataSet(title, labels, ArrayReader(images), classes, statistics, inventory=inventory)


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one split, unchecked."""
    if not path.is_file():
        neighbours = [str(other) for other in path.parent.glob("*.npz")]
        if neighbours:
            raise unknown_data("file", str(path), neighbours)
        raise DataError(f"The file {str(path)!r} does not exist, and its folder has no other .npz file.")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file) and not _is_single_array(file):
                raise DataError(f"Cannot read {str(path)!r}: it is not a complete npz archive.")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} is a single array; it must be an archive written by numpy.savez.")
            members = archive.files
            splits = _splits_of_members(members)
            if split not in splits:
                raise DataError(
                    f"{str(path)!r} has no split {split!r}: '{split}_images' and '{split}_labels' are needed, "
                    f"but it has {listed(members) or 'no members'}. Its splits: {listed(splits) or 'none'}."
                )
            return archive[f"{split}_images"], archive[f"{split}_labels"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _is_single_array(file: BinaryIO) -> bool:
    """Whether `numpy.save` wrote the file."""
    file.seek(0)
    return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def splits_of_npz(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _splits_of_members([member.removesuffix(".npy") for member in archive.namelist()])
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}") from error


def _splits_of_members(members: list[str]) -> tuple[str, ...]:
    splits = (member.removesuffix("_images") for member in members if member.endswith("_images"))
    return tuple(split for split in splits if f"{split}_labels" in members)


def _checked_images(images: np.ndarray, title: str) -> np.ndarray:
    """The images as N x H x W x C, after a check of dtype and shape."""
    if images.dtype != np.uint8:
        broken = images.dtype.kind == "f" and not np.isfinite(images).all()
        kind = f"{images.dtype} with NaN or infinite values" if broken else str(images.dtype)
        raise DataError(f"Images of {title} are {kind}; they must be uint8, 0 to 255.")
    with_channels = images[..., None] if images.ndim == 3 else images
    if with_channels.ndim != 4 or with_channels.shape[-1] not in (1, 3) or min(with_channels.shape[1:]) < 1:
        raise DataError(
            f"Images of {title} have the shape {images.shape}; it must be N x H x W or N x H x W x (1 or 3)."
        )
    return with_channels
