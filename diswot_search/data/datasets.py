"""Data sets, opened by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from ..checks import expanded
from .arrays import open_digits, open_npz, splits_of_npz
from .data_set import DataSet, OpenRequest, Whole
from .errors import DataError
from .folders import open_folder, place_of
from .inventory import printable
from .pictures import GreyRange
from .trees import open_tree, split_like, splits_of_tree
from .with_timm import existing, open_with_timm, splits_of_torch

_OF_FOLDER = ("", "folder", "torch/folder", "torch/image_folder")
"""Names of the folder that `root` is."""

_PREFIXES = ("folder", "torch", "hfds", "hfids", "tfds", "wds")
"""What stands before the first slash of a name that is not a path."""


def open_data_set(
    name: str,
    root: Path | None,
    split: str,
    download: bool,
    whole: Whole | None = None,
    grey_range: GreyRange | None = None,
) -> DataSet:
    """Open one split of a data set by its name.

    Args:
        name: One of the names that `create_probe` lists, except `noise`.
        root: Folder of the data set, if it has one.
        split: Split to open.
        download: Download missing files.
        whole: Read all labels, even if this decodes all images, and hold the images of a stream in memory. Without
            it, at most `UNLABELLED_LIMIT` samples are decoded for their labels.
        grey_range: The values of 16- and 32-bit grey images that become black and white; None refuses such images.

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
    title = f"split {split!r} of {name or 'folder'!r}" + (f" in {str(root)!r}" if root else "")
    request = OpenRequest(download, whole, grey_range)
    if (folder := folder_of(name, root)) is not None:
        return open_folder(name, folder, split, title, request, plain_order=name.startswith("torch/"))
    return open_with_timm(name, root, split, title, request)


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
        return splits_of_npz((root or Path()) / expanded(name, error=DataError))
    if (folder := folder_of(name, root)) is not None:
        return splits_of_tree(open_tree(folder)[0])
    if prefix == "torch":
        return splits_of_torch(rest.lower())
    # A WebDataset has no named splits: its splits are its files.
    return None if prefix in ("hfds", "hfids", "tfds") else ()


def unread_splits(name: str, root: Path | None, read: Iterable[str]) -> list[str]:
    """The sub-folders of a data set that are splits, or look like ones, and are not read.

    Args:
        name: The name of a folder or tar file of images.
        root: Folder that a relative path starts at; by default the working folder.
        read: The folders of the splits that are read.
    """
    if (folder := folder_of(name, root)) is None:
        return []
    tree = open_tree(folder)[0]
    above = len(PurePath(place_of(tree)).parts)
    outermost = {part for each in read for part in PurePath(each).parts[above : above + 1]}
    return [printable(inner) for inner in split_like(tree) if inner not in outermost]


def folder_of(name: str, root: Path | None) -> Path | None:
    """The folder or tar file of images that a name means: folder/PATH, a path, or the name of one that is there.

    Args:
        name: The name of a data set.
        root: Folder that a relative path starts at; by default the working folder.

    Returns:
        The path; None if the name means another data set.

    Raises:
        DataError: The name means a folder, but there is none.
    """
    prefix, _, rest = name.partition("/")
    if name in (*_OF_FOLDER, "folder/"):
        return existing(root, name or "folder")
    if prefix == "folder":
        return existing((root or Path()) / expanded(rest, error=DataError), name)
    path = (root or Path()) / expanded(name, error=DataError)
    if is_path(name):
        return existing(path, name)
    if prefix in _PREFIXES or name in ("digits", "noise"):
        return None
    if path.is_dir() or (path.suffix == ".tar" and path.is_file()):
        return path
    return existing(path, name) if "/" in name and path.parent.is_dir() else None


def is_path(name: str) -> bool:
    """Whether a name is a path by its form: it is absolute, or begins with a dot or a tilde."""
    return PurePath(name).is_absolute() or name[:1] in (".", "~")


def needs_working_folder(name: str) -> bool:
    """Whether the name of a data set is a path that starts at the working folder, unless there is a root."""
    is_file = name.endswith(".npz") or name.startswith("folder/") or is_path(name)
    return is_file or (name.partition("/")[0] not in _PREFIXES and folder_of(name, None) is not None)
