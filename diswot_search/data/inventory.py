"""What was found when a data set was opened: sizes, modes and depths of its images, and what was left out and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import listed
from .pictures import Header

_EXAMPLES = 3
"""Number of names that are kept for each reason."""


@dataclass(frozen=True)
class Skipped:
    """Files or folders that were left out for one reason.

    Attributes:
        reason: What they are, in the plural, or why they cannot be read.
        count: Their number.
        examples: The first of them by name.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = self.count - len(self.examples)
        names = ", ".join(self.examples) + (f" and {more} more" if more else "")
        return f"{self.reason}: {self.count} ({names})"


@dataclass(frozen=True)
class Inventory:
    """What was found when one split of a data set was opened.

    Attributes:
        place: The folder, file or data set that was read.
        images: Number of images that can be read.
        measured: Number of images that the following counts are of.
        sizes: Number of images by height and width in pixels, such as "480 x 640"; upright.
        modes: Number of images by mode: RGB, L (grey), P (palette), CMYK, I;16 (16-bit grey) ...
        bits: Number of images by bits of one channel.
        formats: Number of images by file format.
        skipped: What was left out.
        notes: What was converted, merged or taken in some way.
    """

    place: str
    images: int
    measured: int
    sizes: Mapping[str, int]
    modes: Mapping[str, int]
    bits: Mapping[str, int]
    formats: Mapping[str, int]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The inventory as JSON values."""
        counts = {name: dict(getattr(self, name)) for name in ("sizes", "modes", "bits", "formats")}
        skipped = [{"reason": s.reason, "count": s.count, "examples": list(s.examples)} for s in self.skipped]
        numbers = {"place": self.place, "images": self.images, "measured": self.measured}
        return {**numbers, **counts, "skipped": skipped, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Inventory:
        """The inventory that `to_json` gave as these values."""
        skipped = (Skipped(s["reason"], s["count"], tuple(s["examples"])) for s in values["skipped"])
        return cls(**{**values, "skipped": tuple(skipped), "notes": tuple(values["notes"])})


@dataclass
class Tally:
    """Counts what is left out, by reason, and keeps the first names."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one file or folder.

        Args:
            reason: What it is, in the plural.
            name: Its name, relative to the folder of the data set.
        """
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < _EXAMPLES:
            names.append(printable(name))

    def copy(self) -> Tally:
        """A tally that goes on counting from here."""
        return Tally(self.counts.copy(), {reason: [*names] for reason, names in self.names.items()})

    def skipped(self) -> tuple[Skipped, ...]:
        """All that was counted, the most frequent reason first."""
        return tuple(Skipped(reason, count, tuple(self.names[reason])) for reason, count in self.counts.most_common())

    def __str__(self) -> str:
        return "; ".join(map(str, self.skipped()))


def printable(name: str) -> str:
    r"""A name that can be printed and stored: control characters and bytes that are no UTF-8 are shown escaped.

    Example:
        >>> print(printable(b"caf\xe9".decode("utf-8", "surrogateescape")))
        caf\xe9
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def quoted(name: str) -> str:
    """A name in quotation marks, for a message."""
    return f"'{printable(name)}'"


def inventory_of_headers(
    place: str, images: int, headers: Iterable[Header], skipped: tuple[Skipped, ...], notes: Iterable[str]
) -> Inventory:
    """The inventory of picture files, by what their headers say."""
    headers = list(headers)
    return Inventory(
        place=place,
        images=images,
        measured=len(headers),
        sizes=_by_count(f"{height} x {width}" for height, width in (header.size for header in headers)),
        modes=_by_count(header.mode for header in headers),
        bits=_by_count(str(header.bits) for header in headers),
        formats=_by_count(header.form for header in headers),
        skipped=skipped,
        notes=(*_conversions(headers), *notes),
    )


def inventory_of_arrays(place: str, images: int, measured: Iterable[np.ndarray], form: str) -> Inventory:
    """The inventory of images that are read already.

    Args:
        place: The data set.
        images: Number of images in it.
        measured: Some or all images, (H, W, 1 or 3) uint8.
        form: Where the images come from, such as "array".
    """
    shapes = [image.shape for image in measured]
    return Inventory(
        place=place,
        images=images,
        measured=len(shapes),
        sizes=_by_count(f"{shape[0]} x {shape[1]}" for shape in shapes),
        modes=_by_count("L" if shape[2] == 1 else "RGB" for shape in shapes),
        bits=_by_count("8" for _ in shapes),
        formats=_by_count(form for _ in shapes),
    )


def _by_count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _conversions(headers: list[Header]) -> list[str]:
    """What reading does to the pixels of these pictures."""
    deep_colour = sum(header.bits == 16 and not header.is_deep for header in headers)
    counts = {
        "turned upright, as EXIF says": sum(header.is_turned for header in headers),
        "of 16-bit colour, read at 8 bits": deep_colour,
        "with transparency, which is ignored": sum(header.has_alpha for header in headers),
        "in CMYK, converted to RGB without a colour profile": sum(header.mode == "CMYK" for header in headers),
        "of several frames or pages, whose first is read": sum(header.has_more for header in headers),
    }
    return [f"{counted(count, 'image')} {what}" for what, count in counts.items() if count]


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def named_classes(labels: Iterable[int], classes: tuple[str, ...] | None) -> str:
    """Classes for a message: by their names, if they have names, otherwise by their numbers."""
    return listed([quoted(classes[label]) if classes and label < len(classes) else str(label) for label in labels])
