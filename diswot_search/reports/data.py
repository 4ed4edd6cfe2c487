"""Report of the data of a job: a table of images by class and part, and lines on what was read and left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..data.description import DataDescription, describe_opened
from ..data.errors import DataError, Warned
from ..data.inventory import Inventory, printable
from ..runtime.checksums import CHECKSUM, fill_checksum, verify_checksum
from ..runtime.files import RunFolderError
from .style import format_count

FILE = "data.json"
"""File of a run folder with the whole description of its data."""

_MAX_ROWS = 20
"""Most classes that get a row of their own."""

_MAX_KINDS = 4
"""Most sizes that are listed with their counts."""

_CHANNELS = {"1": 1, "L": 1, "P": 1, "I": 1, "F": 1, "LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
"""Channels by mode; modes of 16-bit grey have one, all others four."""

_MODE_WORDS = {"L": "grey", "1": "black and white", "P": "palette", "RGBA": "RGB and alpha", "F": "grey", "I": "grey"}


def data_report(descriptions: Sequence[DataDescription]) -> Iterator[object]:
    """The table and the lines of each data set; probes of one data set, which differ by their seeds, are shown once.

    Args:
        descriptions: What a job reads.
    """
    shown = set()
    for description in descriptions:
        if description.name not in shown:
            shown.add(description.name)
            sized = f"as {' x '.join(map(str, description.input_size or ()))} (channels x height x width)"
            yield f"data: {printable(description.name)}, {sized}"
            yield _table(description)
            yield from _lines(description)


def opened_report(error: DataError) -> Iterator[object]:
    """The table and the lines of what was read before an error; nothing if nothing was."""
    if error.read is not None:
        name, opened = error.read
        description = describe_opened(name, opened)
        yield f"data: {printable(name)}, as far as it was read"
        yield _table(description)
        yield from _lines(description)


def data_json(descriptions: Sequence[DataDescription]) -> str:
    """The content of data.json: its checksum, and a list of all descriptions."""
    values = {"checksum": CHECKSUM, "data": [description.to_json() for description in descriptions]}
    return fill_checksum((json.dumps(values, indent=2, allow_nan=False) + "\n").encode()).decode()


def read_descriptions(folder: str | os.PathLike[str]) -> list[DataDescription]:
    """The descriptions that a run folder has; none if it has no such file.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return []
    try:
        content = path.read_bytes()
        values = json.loads(content)
        if isinstance(values, dict):  # older versions wrote the list alone, without a checksum
            verify_checksum(content)
            values = values["data"]
        return [DataDescription.from_json(each) for each in values]
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged. The same command writes it again.") from error


def _table(description: DataDescription) -> Table:
    table = Table()
    table.add_column("class", overflow="fold")
    for part in description.parts:
        table.add_column(Text(f"{part.name}\n{part.origin}".rstrip()), justify="right")
    rows = len(description.classes)
    for label in range(rows if rows <= _MAX_ROWS else _MAX_ROWS - 1):
        counts = [f"{part.by_class[label]:,}" for part in description.parts]
        table.add_row(Text(description.classes[label]), *counts)
    if rows > _MAX_ROWS:
        rest = [part.by_class[_MAX_ROWS - 1 :] for part in description.parts]
        counts = [f"{min(counts):,} to {max(counts):,}" for counts in rest]
        table.add_row(Text(f"{rows - _MAX_ROWS + 1} more, each"), *counts)
    table.add_section()
    table.add_row(Text(format_count(rows, "class")), *(f"{part.images:,}" for part in description.parts))
    labelled = [part.labelled for part in description.parts]
    if any(count is not None for count in labelled):
        table.add_row("with labels", *("all" if count is None else f"{count:,}" for count in labelled))
    return table


def _lines(description: DataDescription) -> Iterator[str]:
    for inventory in description.found:
        yield f"{inventory.place}: {'; '.join(_facts(inventory))}"
        if inventory.skipped:
            yield f"  left out: {'; '.join(map(str, inventory.skipped))}"
        yield from (f"  {note}" for note in _unsaid(inventory.notes))
    yield from _unsaid(description.notes)


def _unsaid(notes: Sequence[str]) -> list[str]:
    """The notes that no warning of this process has said; of a stored description, all."""
    return [note for note in notes if not isinstance(note, Warned)]


def _facts(inventory: Inventory) -> Iterator[str]:
    yield format_count(inventory.images, "image")
    if inventory.measured < inventory.images and inventory.sizes:
        yield f"measured: {inventory.measured:,}"
    if inventory.sizes:
        yield _sizes(inventory.sizes)
    if inventory.modes:
        yield _counted({_mode(mode): count for mode, count in inventory.modes.items()})
    if inventory.bits:
        yield _counted({f"{bits} bits": count for bits, count in inventory.bits.items()})
    if inventory.formats:
        yield _counted(inventory.formats)


def _mode(mode: str) -> str:
    channels = 1 if mode.startswith("I;") else _CHANNELS.get(mode, 4)
    words = _MODE_WORDS.get(mode, "grey" if mode.startswith("I;") else mode)
    return f"{format_count(channels, 'channel')} ({words})"


def _counted(counts: Mapping[str, int]) -> str:
    """The only kind, or all kinds with their counts."""
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{kind}: {count:,}" for kind, count in counts.items())


def _sizes(sizes: Mapping[str, int]) -> str:
    """Heights and widths: all of them with their counts if they are few, otherwise the smallest and the largest."""
    if len(sizes) <= _MAX_KINDS:
        return _counted(sizes)
    by_area = sorted(sizes, key=_area)
    return f"{len(sizes)} sizes from {by_area[0]} to {by_area[-1]}, most often {next(iter(sizes))}"


def _area(size: str) -> int:
    height, width = map(int, size.split(" x "))
    return height * width
