"""Files of a run folder: written whole or not at all, read with an error that names the file and its repair."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_OPTIONS = "config.yaml"
"""The file in a run folder with all options of its run."""


class RunFolderError(RuntimeError):
    """A run folder that cannot be used as asked: taken, damaged, of another configuration, or on a full disk."""


def check_writable(path: Path) -> None:
    """Refuse a folder that can neither be written nor made, as the place where it is to lie tells.

    A new folder is tried: one is made in that place and taken away at once.

    Args:
        path: The folder, which need not exist.

    Raises:
        RunFolderError: It lies in a file, or permissions forbid it.
    """
    place = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise RunFolderError(f"Cannot use {path}: {place} is {'a file' if place.exists() else 'a broken link'}.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunFolderError(f"Cannot use {path}: {place} cannot be written.")
    if place != path:  # permissions allow folders that the system refuses, such as those in /proc
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".diswot-", dir=place))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise RunFolderError(f"Cannot use {path}: no folder can be made in {place} ({reason}).") from error


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace a file by one with this content, or leave it as it was.

    Args:
        path: The file.
        content: The whole content, or its pieces in order.

    Raises:
        OSError: The file cannot be written.
    """
    pieces = [content] if isinstance(content, (str, bytes)) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | os.PathLike[str], *, keys: Collection[str] = (), repair: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        keys: Keys that the object must have.
        repair: Sentence that says how to get the file back, for the error.

    Raises:
        RunFolderError: The file is missing, cannot be read, is no JSON object, or lacks one of the keys.

    Example:
        >>> read_json("absent.json", repair="Run the same again.")
        Traceback (most recent call last):
        ...
        diswot_search.runtime.files.RunFolderError: absent.json is missing. Run the same again.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing. {repair}") from None
    except OSError as error:
        raise RunFolderError(f"Cannot read {path}: {error}. {repair}") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}). {repair}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged (it holds a {type(content).__name__}, not an object). {repair}")
    if missing := [key for key in keys if key not in content]:
        raise RunFolderError(f"{path} is damaged (it lacks {', '.join(missing)}). {repair}")
    return content


def as_json(value: object) -> Any:
    """The value as JSON gives it back, so that it compares equal to what was stored."""
    return json.loads(json.dumps(value))


def finite_only(value: object) -> Any:
    """The value with every number that JSON cannot express replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(item) for item in value]
    return value


def csv_line(values: Sequence[object]) -> str:
    """One line of a CSV file."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
