"""Data sets, opened by name."""

from __future__ import annotations

from pathlib import Path

from .arrays import open_digits, open_npz, splits_of_npz
from .data_set import DataSet, Whole
from .with_timm import FOLDER_SPLITS, joined_names, open_with_timm, splits_of_torch


def open_data_set(name: str, root: Path | None, split: str, download: bool, whole: Whole | None = None) -> DataSet:
    """Open one split of a data set by its name.

    Args:
        name: One of the names that `create_probe` lists, except `noise`.
        root: Folder of the data set, if it has one.
        split: Split to open.
        download: Download missing files.
        whole: Read all labels, even if this decodes all images, and hold the images of a stream in memory. Without
            it, at most `UNLABELLED_LIMIT` samples are decoded for their labels.

    Raises:
        DataError: The name or split is unknown, the data set cannot be read, or a stream is too large. If a library
            rejected the split, the error's cause is the library's `ValueError`.

    Example:
        >>> digits = open_data_set("digits", None, "train", download=False)
        >>> len(digits.labels), digits.num_classes
        (1797, 10)
    """
    if name == "digits":
        return open_digits(split)
    if name.endswith(".npz"):
        return open_npz(name, root or Path(), split)
    return open_with_timm(name, root, split, download, whole)


def split_names(name: str, root: Path | None) -> tuple[str, ...] | None:
    """List the splits of a data set without opening it.

    Args:
        name: One of the names that `create_probe` lists, except `noise`.
        root: Folder of the data set, if it has one.

    Returns:
        The names of the splits, or None if only the library that reads the data set knows them.

    Raises:
        DataError: An archive cannot be read.
    """
    prefix, _, rest = name.partition("/")
    if name == "digits":
        return ("train",)
    if name.endswith(".npz"):
        return splits_of_npz((root or Path()) / name)
    if prefix in ("", "folder") or name in ("torch/folder", "torch/image_folder"):
        folder = joined_names(root, "" if prefix == "torch" else rest) or Path()
        return tuple(split for split in FOLDER_SPLITS if (folder / split).is_dir()) or ("train",)
    if prefix == "torch":
        return splits_of_torch(rest.lower())
    # A WebDataset has no named splits: its splits are its files.
    return None if prefix in ("hfds", "hfids", "tfds") else ()
