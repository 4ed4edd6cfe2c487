"""Folders and tar files of images: what lies where, and which folders are splits."""

from __future__ import annotations

import errno
import functools
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..checks import listed
from ..runtime.lock import LOCK
from ..runtime.run_folder import CONFIG
from .errors import DataError, unknown_data
from .inventory import Tally, printable, quoted
from .split_names import (
    TRAIN_SPLITS,
    WHOLE_FOLDER,
    folds,
    is_split_name,
    lookalikes,
    resembles_split,
    synonyms,
)

_OF_SYSTEMS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
"""Folders that operating systems put anywhere, such as those for thumbnails and deleted files."""


_CONFIGS = (CONFIG, "config.yaml")
"""Files of which each run folder has one; that of a comparison has the second alone."""


class Entry(NamedTuple):
    """A visible file below a folder of images.

    Attributes:
        name: Its name relative to that folder, as the system or the tar file writes it.
        folders: The folders that it lies in, from the first level down.
        key: A number that is the same for the same file under another name; 0 if there is none.
        start: Where it begins in the tar file, in bytes.
        size: Its size in the tar file, in bytes.
    """

    name: str
    folders: tuple[str, ...]
    key: int = 0
    start: int = 0
    size: int = 0


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not meant to be seen."""
    return name.startswith(".") or name in _OF_SYSTEMS


def is_run_folder(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is a run folder of ours, whose pictures are no images to read."""
    names = set(names)
    return not names.isdisjoint(_CONFIGS) and any(map(_is_mark, names))


def _is_mark(name: str) -> bool:
    """Whether a file of this name is a lock or a store."""
    return name == LOCK or name.endswith(".sqlite")


def is_output(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a run folder, or holds such ones at any depth and no other visible file."""
    pending, found = [os.fspath(path)], False
    while pending:
        folder = pending.pop()
        try:
            # A folder of images may hold millions, so that its names are listed only if it looks like a run folder.
            if any(os.path.isfile(os.path.join(folder, name)) for name in _CONFIGS):
                if not is_run_folder(os.listdir(folder)):
                    return False
                found = True
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if not entry.is_dir(follow_symlinks=False):
                        return False
                    pending.append(entry.path)
        except OSError:
            return False
    return found


@dataclass(frozen=True)
class Directory:
    """A folder on disk."""

    path: Path

    def folders(self) -> list[str]:
        """Names of the visible folders in it, in order, without those of runs."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if not is_hidden(entry.name) and _is_folder(entry)]
            return sorted(name for name in names if not is_output(self.path / name))
        except OSError as error:
            raise DataError(f"Cannot open the folder {str(self.path)!r}: {error.strerror or error}.") from error

    def inside(self, folder: str) -> Directory | None:
        """A folder in it that is none of a run, by its name or relative path; None if there is none."""
        path = self.path / folder
        return Directory(path) if path.is_dir() and not is_output(path) else None

    def entries(self, tally: Tally) -> Iterator[Entry]:
        """All visible files below it. Links are followed.

        Args:
            tally: Counts what is left out.

        Raises:
            DataError: A link leads back to a folder that contains it.
        """
        real = Path(os.path.realpath(self.path))
        above = frozenset(_identity(os.stat(path)) for path in (real, *real.parents))
        pending: list[tuple[tuple[str, ...], frozenset[tuple[int, int]]]] = [((), above)]
        while pending:
            folders, above = pending.pop()
            path = self.path.joinpath(*folders)
            try:
                device = os.stat(path).st_dev
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            except PermissionError:
                tally.add("folders that may not be opened", os.path.join(*folders, ""))
                continue
            for entry in entries:
                name = os.path.join(*folders, entry.name)
                kind, status = self._kind(entry, name)
                if is_hidden(entry.name):
                    tally.add(f"hidden {kind}s", name)
                elif kind == "folder" and is_output(entry.path):
                    tally.add("folders of runs", name)
                elif kind == "folder":
                    identity = _identity(status or entry.stat())
                    if identity in above:
                        raise self._loop(name)
                    pending.append(((*folders, entry.name), above | {identity}))
                elif kind == "file":
                    key = _identity(status) if status else (device, entry.inode())
                    yield Entry(name, folders, _number(key))
                else:
                    tally.add(f"{kind}s", name)

    def _kind(self, entry: os.DirEntry[str], name: str) -> tuple[str, os.stat_result | None]:
        """The kind of an entry, and its status if it is a link."""
        try:
            status = entry.stat() if entry.is_symlink() else None
            kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "special file"
        except FileNotFoundError:
            return "broken link", None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._loop(name) from None
            raise DataError(f"Cannot open {str(self.path / name)!r}: {error.strerror or error}.") from error
        return kind, status

    def _loop(self, name: str) -> DataError:
        return DataError(
            f"The link {quoted(name)} in {str(self.path)!r} leads back to a folder that contains it, so that its "
            "files would be read again and again. Remove the link."
        )

    def open(self, entry: Entry) -> BinaryIO:
        """Open a file below it."""
        return open(os.path.join(self.path, entry.name), "rb")

    def shown(self, entry: Entry) -> str:
        """The path of a file below it, for a message."""
        return os.path.join(self.path, entry.name)


@dataclass(frozen=True)
class Archive:
    """A folder in a tar file, without compression; a tar file within it counts as a folder."""

    path: Path
    above: tuple[str, ...] = ()

    def folders(self) -> list[str]:
        """Names of the visible folders in it, in order, without those of runs."""
        depth = len(self.above)
        inner = (folders for _, folders, *_ in _members_of(self.path) if folders[:depth] == self.above)
        members = (folders for folders in inner if not self._is_of_run(folders))
        return sorted({folders[depth] for folders in members if len(folders) > depth and not is_hidden(folders[depth])})

    def inside(self, folder: str) -> Archive | None:
        """A folder in it that is none of a run, by its name or relative path; None if there is none."""
        inner = Archive(self.path, (*self.above, *_parts(folder)))
        depth = len(inner.above)
        is_there = any(entry.folders[:depth] == inner.above for entry in _members_of(self.path))
        return inner if is_there and not self._is_of_run(inner.above) else None

    def entries(self, tally: Tally) -> Iterator[Entry]:
        """All visible files below it; links are left out.

        Args:
            tally: Counts what is left out.
        """
        depth = len(self.above)
        for entry in _members_of(self.path):
            if entry.folders[:depth] != self.above:
                continue
            if any(map(is_hidden, (*entry.folders[depth:], os.path.basename(entry.name)))):
                tally.add("hidden files", entry.name)
            elif self._is_of_run(entry.folders):
                tally.add("files in folders of runs", entry.name)
            elif entry.start < 0:
                tally.add("links and special files in the tar file", entry.name)
            else:
                yield entry._replace(folders=entry.folders[depth:])

    def _is_of_run(self, folders: tuple[str, ...]) -> bool:
        """Whether one of these folders, below this one, is a run folder."""
        runs = self._runs
        return bool(runs) and any(folders[:depth] in runs for depth in range(len(self.above) + 1, len(folders) + 1))

    @functools.cached_property
    def _runs(self) -> frozenset[tuple[str, ...]]:
        """The run folders in the tar file."""
        members = _members_of(self.path)
        names = {entry.folders: set[str]() for entry in members if os.path.basename(entry.name) in _CONFIGS}
        for entry in members if names else ():
            if entry.folders in names:
                names[entry.folders].add(os.path.basename(entry.name))
        return frozenset(folders for folders, of_folder in names.items() if is_run_folder(of_folder))

    def open(self, entry: Entry) -> BinaryIO:
        """Read a file of it into memory and open that."""
        # The tar file is opened anew, because processes that share an open file share its position, too.
        with open(self.path, "rb") as archive:
            archive.seek(entry.start)
            return io.BytesIO(archive.read(entry.size))

    def shown(self, entry: Entry) -> str:
        """The path of a file below it, for a message."""
        return os.path.join(self.path, entry.name)


Tree = Directory | Archive
"""A folder of images, on disk or in a tar file."""


def open_tree(path: Path) -> tuple[Tree, str]:
    """The folder or tar file at a path, and a note on the folder in a tar file that is read instead; may be empty.

    Raises:
        DataError: It is another kind of file, or a tar file that cannot be read.
    """
    if path.is_dir():
        return Directory(path), ""
    if path.suffix.lower() != ".tar":
        raise DataError(f"{str(path)!r} is a file; it must be a folder of images, or a .tar file of such a folder.")
    tree, members = Archive(path), _members_of(path)
    while len(names := tree.folders()) == 1 and not is_split_name(names[0]):
        inner = tree.inside(names[0])
        is_loose = any(entry.folders == tree.above and not is_hidden(entry.name) for entry in members)
        if inner is None or is_loose or not inner.folders():
            break
        tree = inner
    return tree, f"the folder {'/'.join(tree.above)!r} of the tar file is read" if tree.above else ""


def splits_of_tree(tree: Tree) -> tuple[str, ...]:
    """The names of the folders that are splits, in lower case; only "train" if there are none."""
    return tuple(dict.fromkeys(name.lower() for name in tree.folders() if is_split_name(name))) or ("train",)


def enter_split(tree: Tree, place: str, split: str) -> tuple[Tree, str]:
    """The folder of a split, and a note on the folders next to it that are no splits; may be empty.

    A split is the folder of exactly that name or relative path, or else of that name or a synonym in any case; "." is
    the whole tree. Where no folder is a split, the training split is the whole tree.

    Args:
        tree: The folder or tar file.
        place: Its path, for messages.
        split: The name.

    Raises:
        DataError: There is no such folder, or several; or there are only folders that look like splits.
    """
    if split == WHOLE_FOLDER:
        return tree, ""
    names = tree.folders()
    known = [name for name in names if is_split_name(name)]
    folder = _matching(names, place, split)
    inner = tree.inside(folder or split)
    if inner is not None and inner != tree:
        others = [name for name in names if name not in known and name != (folder or Path(split).parts[0])]
        return inner, f"folders next to the splits are not read: {_shown(others)}" if others and known else ""
    if known:
        unknown = unknown_data(f"split in {place!r}:", split, known)
        raise DataError(f"{unknown} If these folders are classes, {_AS_CLASSES}.")
    if split.lower() not in TRAIN_SPLITS:
        hint = unknown_data("split", split, [*TRAIN_SPLITS[:1], *names]).args[0].rpartition(". ")[2]
        raise DataError(
            f"Unknown split {split!r}; the data set has only 'train': no folder of {place!r} is a split. {hint}"
        )
    if similar := lookalikes(names) or folds(names):
        kind = "splits" if lookalikes(names) else "folds of a cross-validation"
        example = next((name for name in similar if "train" in name.lower()), similar[0])
        raise DataError(
            f"Folders of {place!r} look like {kind}: {_shown(similar)}. Name them by train_split, val_split and "
            f"test_split (split for a probe), such as train_split='{printable(example)}'. If they are classes, "
            f"{_AS_CLASSES}."
        )
    return tree, ""


_AS_CLASSES = f"give train_split={WHOLE_FOLDER!r} (split={WHOLE_FOLDER!r} for a probe)"


def split_like(tree: Tree) -> list[str]:
    """The names of the folders that are splits, or look like ones, as they are written."""
    names = tree.folders()
    numbered = folds(names)
    return [name for name in names if is_split_name(name) or resembles_split(name) or name in numbered]


def _matching(names: list[str], place: str, split: str) -> str | None:
    """The folder with the name of a split, or a synonym, in any case; None if there is none."""
    if split in names:
        return split
    for name in synonyms(split):
        matching = [folder for folder in names if folder.lower() == name]
        if name in matching:
            return name
        if len(matching) > 1:
            raise DataError(f"Folders of {place!r} have the same name but for case: {_shown(matching)}. Name one.")
        if matching:
            return matching[0]
    return None


def _shown(names: list[str]) -> str:
    return listed([printable(name) for name in names])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which `Directory.entries` names
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _number(identity: tuple[int, int]) -> int:
    """A 64-bit number of a file, different for different files but for rare accidents."""
    device, inode = identity
    return (inode + 0x9E3779B97F4A7C15 * device) % 2**64


# Tar files


def _members_of(path: Path) -> tuple[Entry, ...]:
    """All members of a tar file that are no folders, those of tar files in it included."""
    try:
        status = path.stat()
        return _read_members(str(path), status.st_mtime_ns, status.st_size)
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}. It must be a tar file without compression.") from error


@functools.lru_cache(maxsize=4)
def _read_members(path: str, modified: int, size: int) -> tuple[Entry, ...]:
    with tarfile.open(path, "r:") as archive:
        return tuple(_entries_of(archive, "", (), 0))


def _entries_of(archive: tarfile.TarFile, prefix: str, above: tuple[str, ...], offset: int) -> Iterator[Entry]:
    for member in archive:
        *folders, base = _parts(member.name) or ("",)
        place, name = (*above, *folders), prefix + member.name
        is_whole = member.isfile() and not member.issparse()
        if is_whole and base.lower().endswith(".tar") and not is_hidden(base):
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                yield from _entries_of(inner, f"{name}/", (*place, base[:-4]), offset + member.offset_data)
        elif not member.isdir():
            yield Entry(name, place, start=offset + member.offset_data if is_whole else -1, size=member.size)


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a member's name."""
    return tuple(part for part in name.split("/") if part not in ("", "."))
