"""Folders and tar files of images with one sub-folder for each class, whatever the formats of the images."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..checks import listed
from .data_set import DataSet, OpenRequest, imagenet_statistics, known_statistics
from .errors import DataError, UnreadableClass, UnreadableImage, Warned, together, warn_of
from .inventory import Inventory, Tally, counted, inventory_of_headers, printable, quoted
from .pictures import (
    DeepGreyError,
    GreyRange,
    Header,
    grey_extent,
    is_foreign_picture,
    looks_like_picture,
    picture_suffixes,
    range_advice,
    read_header,
    read_pixels,
)
from .split_names import WHOLE_FOLDER, folds, lookalikes
from .trees import Entry, Tree, enter_split, open_tree

MAX_HEADERS = 200_000
"""Number of image files whose headers are read before any work; of more files, evenly spaced ones are taken."""

MAX_HEADERS_OF_PROBE = 10_000
"""Number of image files up to which all headers are read once an image that is drawn for a probe cannot be read."""

_MAX_DEEP = 256
"""Number of deep grey images whose values are measured."""

_READ_AT_ONCE = 16
"""Number of bytes by which a format is recognised."""


@dataclass
class _Listing:
    """The images below a folder: `entries` in order, the class of each, and what is left out."""

    tree: Tree
    place: str
    entries: list[Entry]
    labels: np.ndarray
    folders: list[str]
    tally: Tally
    notes: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def keep(self, mask: np.ndarray) -> None:
        self.entries = [entry for entry, kept in zip(self.entries, mask, strict=True) if kept]
        self.labels = self.labels[mask]


@dataclass(frozen=True)
class FolderReader:
    """Reads images of a folder or tar file."""

    tree: Tree
    entries: Sequence[Entry]
    title: str
    grey_range: GreyRange | None

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [self._read(self.entries[place]) for place in chosen.tolist()]

    def _read(self, entry: Entry) -> np.ndarray:
        try:
            return read_pixels(functools.partial(self.tree.open, entry), self.grey_range)
        except (OSError, DeepGreyError) as error:
            kind = DataError if isinstance(error, DeepGreyError) else UnreadableImage
            raise kind(f"Cannot read {quoted(self.tree.shown(entry))} of {self.title}: {error}") from error

    def files(self, chosen: np.ndarray) -> list[str]:
        """File names of the images, relative to the folder of the split."""
        return [self.entries[place].name for place in chosen.tolist()]


def open_folder(
    name: str, path: Path, split: str, title: str, request: OpenRequest, *, plain_order: bool = False
) -> DataSet:
    """Open one split of a folder or tar file of images.

    The first level below the split is the class; deeper levels are read into it. Hidden files and folders are left
    out, links are followed, and a file that is found twice in a class counts once.

    Args:
        name: Name of the data set, as it was given.
        path: The folder or tar file.
        split: The split; see `enter_split`.
        title: Description of the split in messages.
        request: How it is opened. In full, the header of each image is read, and images that cannot be read are left
            out, with a warning.
        plain_order: Order classes and images as torchvision does, instead of by the numbers in their names.

    Raises:
        DataError: There are no images, or no classes; all images of a class are unreadable; a link leads back to its
            folder; a file is in two classes; or images are deep grey and no range is given.
    """
    outer, note = open_tree(path)
    tree, neighbours = enter_split(outer, str(path), split)
    listing = _list_images(tree, place_of(tree), plain_order)
    listing.notes += filter(None, (note, neighbours))
    _check_inner_splits(listing, split, is_whole=tree == outer)
    _drop_repeated(listing)
    opened = _Opened(name, listing, title, request)
    if request.whole is None:
        if listing.problems:
            raise together(listing.problems)
        inventory = _by_suffix(listing)
    else:
        inventory = _inspect(listing, request.grey_range, _evenly(len(listing.entries), MAX_HEADERS))
    return opened.data_set(inventory)


@dataclass(frozen=True)
class _Opened:
    """An opened folder, with what it takes to leave out more of its images."""

    name: str
    listing: _Listing
    title: str
    request: OpenRequest

    def data_set(self, inventory: Inventory) -> DataSet:
        """The data set of the images that are left, after the warnings on the others; an error may follow."""
        listing = self.listing
        for text in () if listing.problems else listing.warned:
            warn_of(f"{self.title}: {text}")
        is_sample = self.request.whole is None
        return DataSet(
            self.title,
            listing.labels,
            self._reader,
            len(listing.folders),
            known_statistics(self.name) or imagenet_statistics(),
            classes=tuple(map(printable, listing.folders)),
            files=self._reader.files,
            inventory=inventory,
            folder=place_of(listing.tree),
            keys=np.array([entry.key for entry in listing.entries], np.uint64),
            advice=_advice(listing),
            problems=tuple(listing.problems),
            readable=self.readable,
            notes_on=self.notes_on if is_sample and self.request.grey_range is not None else None,
        )

    @property
    def _reader(self) -> FolderReader:
        return FolderReader(self.listing.tree, self.listing.entries, self.title, self.request.grey_range)

    def readable(self, drawn: np.ndarray) -> DataSet:
        """The data set without the images that cannot be read: those at these indices, and others whose headers say so.

        Of a large folder that a probe is drawn from, only the headers at these indices are read.
        """
        old, is_sample = self.listing, self.request.whole is None
        listing = replace(old, tally=old.tally.copy(), notes=[*old.notes], warned=[])
        broken = {}
        for place in drawn.tolist():
            open_file = functools.partial(listing.tree.open, listing.entries[place])
            header = read_header(open_file)
            try:
                if isinstance(header, Header):
                    read_pixels(open_file, self.request.grey_range)
            except OSError as error:
                header = str(error)
            if isinstance(header, str):
                broken[place] = header
        total = len(listing.entries)
        if is_sample:
            places = np.arange(total) if total <= MAX_HEADERS_OF_PROBE else drawn
        else:
            places = np.union1d(_evenly(total, MAX_HEADERS), np.array([*broken], int))
        inventory = _inspect(listing, self.request.grey_range, places, broken)
        if listing.problems:
            raise together(listing.problems)
        if is_sample and total > MAX_HEADERS_OF_PROBE:
            inventory = _by_suffix(listing)
        return replace(self, listing=listing).data_set(inventory)

    def notes_on(self, drawn: np.ndarray) -> list[str]:
        """The notes on how the grey range changes the images at these indices; warns of values that it cuts."""
        listing = replace(self.listing, notes=[], warned=[], problems=[])
        entries = [listing.entries[place] for place in drawn.tolist()]
        headers = [read_header(functools.partial(listing.tree.open, entry)) for entry in entries]
        pairs = zip(entries, headers, strict=True)
        if deep := [entry for entry, header in pairs if isinstance(header, Header) and header.is_deep]:
            _check_deep(listing, deep, self.request.grey_range)
        for text in listing.warned:
            warn_of(f"{self.title}: {text}")
        return listing.notes


def _evenly(total: int, limit: int) -> np.ndarray:
    """At most `limit` of so many places, evenly spaced."""
    return np.linspace(0, total - 1, min(total, limit)).round().astype(int)


def place_of(tree: Tree) -> str:
    """The path of a folder, or of one in a tar file as if that were a folder."""
    return os.path.join(tree.path, *getattr(tree, "above", ()))


# Listing


def _list_images(tree: Tree, place: str, plain_order: bool) -> _Listing:
    """The images below the class folders, in order."""
    tally = Tally()
    images, loose = [], []
    of_class: dict[str, Counter[str]] = {}
    for entry in tree.entries(tally):
        suffix = os.path.splitext(entry.name)[1].lower()
        kinds = of_class.setdefault(entry.folders[0], Counter()) if entry.folders else Counter[str]()
        if not _is_image(tree, entry, suffix):
            kinds[suffix] += 1
            tally.add(f"files that are no image that Pillow reads, {printable(suffix) or 'without suffix'}", entry.name)
        elif entry.folders:
            kinds["image"] += 1
            images.append(entry)
        else:
            loose.append(entry)
    folders = [folder for folder, kinds in of_class.items() if kinds["image"]]
    _check_found(place, folders, len(loose), tally)
    for entry in loose:
        tally.add("images outside the class folders", entry.name)
    foreign = Counter[str]()
    problems: list[str] = []
    for folder in tree.folders():
        kinds = of_class.get(folder, Counter())
        of_folder = Counter({suffix: count for suffix, count in kinds.items() if is_foreign_picture(suffix)})
        foreign += of_folder
        if of_folder and not kinds["image"]:
            formats = [f"{count} {suffix}" for suffix, count in of_folder.items()]
            problems.append(_unreadable_class(place, folder, formats))
        if not kinds["image"]:
            tally.add("folders without images", folder)
    folder_order, image_order = (_plain_orders if plain_order else _natural_orders)()
    folders.sort(key=folder_order)
    images.sort(key=image_order)
    numbers = {folder: number for number, folder in enumerate(folders)}
    labels = np.array([numbers[entry.folders[0]] for entry in images], np.int64)
    listing = _Listing(tree, place, images, labels, folders, tally, problems=problems)
    if foreign:
        counts = listed([f"{count} {suffix}" for suffix, count in foreign.most_common()])
        listing.warned.append(f"images in formats that Pillow does not read are left out: {counts}")
    return listing


def _is_image(tree: Tree, entry: Entry, suffix: str) -> bool:
    """Whether a file is an image, by its suffix, or else by its first bytes."""
    if suffix in picture_suffixes():
        return True
    try:
        with tree.open(entry) as file:
            start = file.read(_READ_AT_ONCE)
    except OSError:
        return False
    return len(start) == _READ_AT_ONCE and looks_like_picture(start)


def _check_found(place: str, folders: list[str], loose: int, tally: Tally) -> None:
    if folders:
        return
    if loose:
        raise DataError(
            f"The images ({loose}) of {quoted(place)} lie in the folder itself. Each class needs a sub-folder of "
            "its own, at least two; if this folder is a class and no split, give train_split='.' (split='.' for a "
            "probe) for the folder above it."
        )
    left_out = f" Left out: {tally}." if tally.counts else ""
    raise DataError(f"Found 0 images in sub-folders of {quoted(place)}.{left_out}")


def _unreadable_class(place: str, folder: str, reasons: list[str]) -> UnreadableClass:
    return UnreadableClass(
        f"No image of the class {quoted(folder)} in {quoted(place)} can be read: {listed(reasons, 3)}. Convert "
        "them, or remove the folder."
    )


Order = Callable[[str], object]


def _natural_orders() -> tuple[Callable[[str], tuple[object, str]], Callable[[Entry], tuple[object, str]]]:
    """Orders by the numbers in names, as timm has them; names that differ by case alone keep one order."""
    from timm.utils.misc import natural_key

    return lambda folder: (natural_key(folder), folder), lambda entry: (natural_key(entry.name), entry.name)


def _plain_orders() -> tuple[Callable[[str], str], Callable[[Entry], tuple[str, str, str]]]:
    """Orders by the characters of names, folder by folder, as torchvision has them."""
    return lambda folder: folder, lambda entry: (entry.folders[0], *os.path.split(entry.name))


def _drop_repeated(listing: _Listing) -> None:
    """Leave out files that are found a second time in their class.

    Raises:
        DataError: A file is found in two classes.
    """
    keys = np.array([entry.key for entry in listing.entries], np.uint64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    repeated = np.flatnonzero((original != np.arange(len(keys))) & (keys != 0))
    if not len(repeated):
        return
    for place in repeated.tolist():
        entry, other = listing.entries[place], listing.entries[original[place]]
        if entry.folders[0] != other.folders[0]:
            names = " and ".join(quoted(each.name) for each in (other, entry))
            raise DataError(
                f"{names} of {quoted(listing.place)} are the same file, by a link, in two classes. Remove one."
            )
        listing.tally.add("links to a file that is read already", entry.name)
    mask = np.ones(len(keys), bool)
    mask[repeated] = False
    listing.keep(mask)
    listing.warned.append(f"{counted(len(repeated), 'link')} to a file that is read already: it counts once")


def _advice(listing: _Listing) -> str:
    """What helps if there is one class only."""
    inner = sorted({entry.folders[1] for entry in listing.entries if len(entry.folders) > 1})
    if len(listing.folders) != 1 or not inner:
        return ""
    path = quoted(os.path.join(listing.place, listing.folders[0]))
    return f" If the classes are its sub-folders, {listed([printable(name) for name in inner])}, give {path}."


def _check_inner_splits(listing: _Listing, split: str, *, is_whole: bool) -> None:
    """Refuse folders within classes that look like splits, or say that they are read together.

    Args:
        listing: The images.
        split: The split that was asked for.
        is_whole: Whether that is all of the data set.

    Raises:
        DataError: There are such folders, and the user did not name the split that they lie in.
    """
    of_folder: dict[tuple[str, ...], dict[str, None]] = {}
    for folders in dict.fromkeys(entry.folders for entry in listing.entries):
        for depth in range(1, len(folders)):
            of_folder.setdefault(folders[:depth], {})[folders[depth]] = None
    inner = {folders: lookalikes(names) or folds(names) for folders, names in of_folder.items()}
    similar = [printable("/".join((*folders, name))) for folders, names in inner.items() for name in names]
    if not similar:
        return
    if split == WHOLE_FOLDER or not is_whole:
        text = f"folders within classes look like splits and are read together: {listed(similar)}"
        listing.notes.append(text)
        if split != WHOLE_FOLDER:
            listing.warned.append(text)
        return
    owners = [folders for folders, names in inner.items() if names]
    deeper = f" If they divide all images, give {quoted(os.path.join(listing.place, *owners[0]))}."
    raise DataError(
        f"Folders within folders of {quoted(listing.place)} look like splits: {listed(similar)}."
        f"{deeper if len(owners) == 1 else ''} If each class is divided by itself, put the splits above the classes, "
        f"as in train/{printable(owners[0][0])}. To read them together, and divide all images anew, give "
        f"train_split={WHOLE_FOLDER!r} (split={WHOLE_FOLDER!r} for a probe)."
    )


# Reading headers


def _inspect(
    listing: _Listing, grey_range: GreyRange | None, places: np.ndarray, broken: Mapping[int, str] | None = None
) -> Inventory:
    """Read the headers of the images, and leave out those that cannot be read.

    Args:
        listing: The images.
        grey_range: The values that become black and white.
        places: The images whose headers are read.
        broken: Images whose pixels could not be read, and why.
    """
    broken = broken or {}
    headers: dict[int, Header] = {}
    unreadable: dict[int, str] = {}
    for place in places.tolist():
        entry = listing.entries[place]
        header = broken.get(place) or read_header(functools.partial(listing.tree.open, entry))
        if isinstance(header, str):
            unreadable[place] = header
            listing.tally.add("images that cannot be read", f"{entry.name}: {header}")
        else:
            headers[place] = header
    deep = [listing.entries[place] for place, header in headers.items() if header.is_deep]
    if deep:
        _check_deep(listing, deep, grey_range)
    if unreadable:
        _drop_unreadable(listing, unreadable)
    return inventory_of_headers(
        printable(listing.place), len(listing.entries), headers.values(), listing.tally.skipped(), listing.notes
    )


def _drop_unreadable(listing: _Listing, unreadable: dict[int, str]) -> None:
    mask = np.ones(len(listing.entries), bool)
    mask[list(unreadable)] = False
    shown = [f"{printable(listing.entries[place].name)} ({why})" for place, why in unreadable.items()]
    counts = np.bincount(listing.labels[mask], minlength=len(listing.folders))
    for label in np.flatnonzero(counts == 0).tolist():
        of_class = [text for place, text in zip(unreadable, shown, strict=True) if listing.labels[place] == label]
        listing.problems.append(_unreadable_class(listing.place, listing.folders[label], of_class))
    if listing.problems:
        return  # so that other problems show as well
    listing.keep(mask)
    listing.warned.append(_left_out(shown))


def _left_out(shown: Sequence[str]) -> str:
    """Say which images cannot be read."""
    are = "is" if len(shown) == 1 else "are"
    return f"{counted(len(shown), 'image')} cannot be read and {are} left out: {listed(shown, 3)}"


def _check_deep(listing: _Listing, deep: list[Entry], grey_range: GreyRange | None) -> None:
    """Note deep grey images without a range as a problem, and say what a range cuts."""
    chosen = [deep[place] for place in _evenly(len(deep), _MAX_DEEP)]
    openers: list[Callable[[], BinaryIO]] = [functools.partial(listing.tree.open, entry) for entry in chosen]
    try:
        low, high = grey_extent(openers)
    except OSError as error:
        raise DataError(f"Cannot read the 16- or 32-bit images of {quoted(listing.place)}: {error}") from error
    of_some = "" if len(chosen) == len(deep) else f" in {len(chosen)} of them"
    measured = f"{counted(len(deep), 'image')} with 16- or 32-bit grey values, from {low:g} to {high:g}{of_some}"
    if grey_range is None:
        listing.problems.append(
            f"{quoted(listing.place)}: {measured}, such as {quoted(deep[0].name)}. {range_advice(low, high)}."
        )
        return
    listing.notes.append(f"{measured}; {grey_range[0]:g} to {grey_range[1]:g} are read as black to white")
    if low < grey_range[0] or high > grey_range[1]:
        cut = f"grey values from {low:g} to {high:g} are cut at {grey_range[0]:g} and {grey_range[1]:g}"
        listing.notes.append(Warned(cut))
        listing.warned.append(cut)


def _by_suffix(listing: _Listing) -> Inventory:
    """The inventory of images whose headers were not read: formats by suffix."""
    formats = Counter(os.path.splitext(entry.name)[1].lower() for entry in listing.entries)
    found = inventory_of_headers(
        printable(listing.place), len(listing.entries), (), listing.tally.skipped(), listing.notes
    )
    return replace(found, formats={printable(suffix): count for suffix, count in formats.most_common()})
