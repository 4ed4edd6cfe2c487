"""What a page about a run consists of, whatever its form: sections of tables, pictures, lines, code and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...runtime.typed_json import Json


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as text.

    Attributes:
        heads: Headings of the columns.
        rows: The cells of all rows.
        title: The title above it; empty for none.
        notes: Lines below it.
        is_number: Whether each column holds numbers, which are right-aligned.
        strong: Places of the rows that stand out.
        shown: Number of rows that are shown at once; the others can be had through a picture. None shows all.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    is_number: tuple[bool, ...] = ()
    strong: frozenset[int] = frozenset()
    shown: int | None = None


@dataclass(frozen=True, kw_only=True)
class Points:
    """Places in a picture that tell more when they are pointed at, in units of its view box.

    Attributes:
        x, y: Coordinates from the left and from the top.
        texts: What each of them tells; empty where `rows` does.
        rows: The row of `grid` that each of them is.
        grid: The table that the rows are in, which stands in the same section.
    """

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    grid: Grid | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        svg: The element `svg`.
        title: The caption.
        alt: What it shows, for those who do not see it.
        points: What can be pointed at.
        is_plain: Whether its colours stay the same on a dark page, on a white ground.
    """

    svg: str
    title: str
    alt: str
    points: Points | None = None
    is_plain: bool = False


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to be copied, such as a command or a configuration.

    Attributes:
        text: The text.
        title: What it is.
        is_folded: Whether it is shown only when it is asked for.
    """

    text: str
    title: str = ""
    is_folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image with a few words.

    Attributes:
        png: The content of its PNG file.
        alt: What it is.
        lines: Lines below it.
    """

    png: bytes = field(repr=False)
    alt: str
    lines: tuple[str, ...] = ()


Block = Grid | Picture | Code | Thumbnail | str
"""A part of a section; a text is a line of a list."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        blocks: Its content in order.
        level: Level of the heading, from 2.
    """

    title: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page about one run, or about several side by side.

    Attributes:
        kind: The kind of the run.
        title: The title.
        verdict: The outcome in one sentence.
        facts: What is to be known first, by name.
        sections: All else in order.
        data: The result as JSON values.
        path: The run folder, or several.
        is_final: Whether the run has come to its end.
    """

    kind: str
    title: str
    verdict: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    data: Json = None
    path: str = ""
    is_final: bool = True
