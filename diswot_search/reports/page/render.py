"""The three forms of a page: HTML, Markdown and JSON."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

from ...runtime.files import finite_only
from ..style import escape_markdown
from .blocks import Block, Code, Grid, Page, Picture, Section, Thumbnail

if TYPE_CHECKING:
    from jinja2 import Environment

_REFRESH_S = 10
"""Seconds after which the page of a run that goes on is loaded again."""

_MAX_TEXT = 2_000_000
"""Most characters of the rows of a table that are not shown at once."""


def to_html(page: Page, *, refresh: bool = False) -> str:
    """A page as one file that needs nothing else: no network, no other file.

    Its policy of contents lets a browser run only its own script and load nothing.

    Args:
        page: The page.
        refresh: Whether a browser is to load it again every few seconds.
    """
    numbered = _Numbered()
    sections = [
        {"id": f"s{place}", "title": section.title, "level": section.level, "blocks": list(numbered.items(section))}
        for place, section in enumerate(page.sections)
    ]
    script = _template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            sections=sections,
            points=numbered.points,
            style=_template("page.css"),
            script=script,
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
            refresh=_REFRESH_S if refresh else None,
        )
    )


def as_script(value: object) -> str:
    """A value as JSON that can stand in an element of HTML: no character in it can end the element.

    Example:
        >>> as_script({"name": "</script>"})
        '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(finite_only(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


@dataclass
class _Numbered:
    """Blocks with numbers of their own, by which pictures find their tables."""

    points: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def items(self, section: Section) -> Iterator[dict[str, object]]:
        names: dict[int, str] = {}
        blocks = list(_grouped(section.blocks))
        for block in blocks:
            if isinstance(block, Grid):
                names[id(block)] = self._name("t")
        for block in blocks:
            if isinstance(block, Grid):
                yield self._grid(block, names[id(block)])
            elif isinstance(block, Picture):
                yield self._picture(block, names)
            elif isinstance(block, Code):
                yield {"is": "code", "it": block}
            elif block and isinstance(block[0], Thumbnail):
                images = [
                    {"data": base64.b64encode(one.png).decode(), "it": one}
                    for one in block
                    if isinstance(one, Thumbnail)
                ]
                yield {"is": "images", "images": images}
            else:
                yield {"is": "lines", "lines": block}

    def _name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def _grid(self, grid: Grid, name: str) -> dict[str, object]:
        shown = len(grid.rows) if grid.shown is None else grid.shown
        numbers = grid.is_number or (False,) * len(grid.heads)
        hidden = grid.rows[shown:]
        if hidden:
            self.points.append((f"{name}-rows", as_script(_fitting(hidden))))
        rows = [
            (place in grid.strong, list(zip(row, numbers, strict=True))) for place, row in enumerate(grid.rows[:shown])
        ]
        return {
            "is": "grid",
            "id": name,
            "it": grid,
            "heads": list(zip(grid.heads, numbers, strict=True)),
            "rows": rows,
            "hidden": len(hidden),
        }

    def _picture(self, picture: Picture, names: dict[int, str]) -> dict[str, object]:
        name, points = self._name("p"), picture.points
        if points is not None:
            values: dict[str, object] = {"x": points.x, "y": points.y}
            if points.grid is None:
                values["texts"] = points.texts
            else:
                values |= {"rows": points.rows, "grid": names.get(id(points.grid))}
            self.points.append((f"{name}-points", as_script(values)))
        return {"is": "picture", "id": name, "it": picture, "has_points": points is not None}


def _grouped(blocks: Sequence[Block]) -> Iterator[Grid | Picture | Code | list[Thumbnail] | list[str]]:
    """Blocks in order, with lines that follow each other as one list, and small images likewise."""
    lines: list[str] = []
    images: list[Thumbnail] = []
    for block in blocks:
        if isinstance(block, str):
            lines.append(block)
            continue
        if lines:
            yield lines
            lines = []
        if isinstance(block, Thumbnail):
            images.append(block)
            continue
        if images:
            yield images
            images = []
        yield block
    if images:
        yield images
    if lines:
        yield lines


def _fitting(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Rows, of which the long texts of the last are cut where all together are too large for a page."""
    room, fitting = _MAX_TEXT, list[Sequence[str]]()
    for row in rows:
        room -= sum(map(len, row))
        fitting.append(row if room > 0 else [cell if len(cell) <= 40 else f"{cell[:30]} ..." for cell in row])
    return fitting


@functools.cache
def _template(name: str) -> str:
    return resources.files(__package__).joinpath("templates").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    return Environment(
        loader=DictLoader({"page.html": _template("page.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# -- Markdown -----------------------------------------------------------------------------------


def to_markdown(page: Page) -> str:
    """A page as Markdown, without its pictures."""
    lines = [f"# {escape_markdown(page.title)}", "", escape_markdown(page.verdict), ""]
    if page.facts:
        lines += ["| | |", "| --- | --- |"]
        lines += [f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in page.facts.items()]
        lines.append("")
    for section in page.sections:
        lines += [f"{'#' * section.level} {escape_markdown(section.title)}", ""]
        for block in _grouped(section.blocks):
            lines += [*_markdown_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(block: Grid | Picture | Code | list[Thumbnail] | list[str]) -> Iterator[str]:
    if isinstance(block, Grid):
        yield from _markdown_grid(block)
    elif isinstance(block, Picture):
        yield f"Picture: {escape_markdown(block.title)}. {escape_markdown(block.alt)}"
    elif isinstance(block, Code):
        fence = "`" * max(3, max((len(run) for run in _ticks(block.text)), default=0) + 1)
        yield from (f"{fence}text", *block.text.splitlines(), fence)
    else:
        for line in block:
            text = line if isinstance(line, str) else f"{line.alt}: {', '.join(line.lines)}"
            yield f"- {escape_markdown(text)}"


def _ticks(text: str) -> list[str]:
    return [run for run in "".join(letter if letter == "`" else " " for letter in text).split() if run]


def _markdown_grid(grid: Grid) -> Iterator[str]:
    if grid.title:
        yield f"**{escape_markdown(grid.title)}**"
        yield ""
    numbers = grid.is_number or (False,) * len(grid.heads)
    yield f"| {' | '.join(map(escape_markdown, grid.heads))} |"
    yield f"| {' | '.join('---:' if number else '---' for number in numbers)} |"
    for row in grid.rows[: grid.shown]:
        yield f"| {' | '.join(map(escape_markdown, row))} |"
    if grid.notes:
        yield ""
        yield from (f"- {escape_markdown(line)}" for line in grid.notes)


# -- JSON ---------------------------------------------------------------------------------------


def to_json(page: Page) -> str:
    """A page as JSON: what it says, its tables as text, and the result of the run with all of its numbers."""
    content = {
        "kind": page.kind,
        "path": page.path,
        "is_final": page.is_final,
        "title": page.title,
        "verdict": page.verdict,
        "facts": dict(page.facts),
        "sections": [
            {
                "title": section.title,
                "lines": [block for block in section.blocks if isinstance(block, str)],
                "tables": [
                    {"title": one.title, "heads": one.heads, "rows": one.rows[: one.shown], "notes": one.notes}
                    for one in section.blocks
                    if isinstance(one, Grid)
                ],
            }
            for section in page.sections
        ],
        "result": page.data,
    }
    return json.dumps(finite_only(content), indent=2, allow_nan=False) + "\n"


FORMS: dict[str, Callable[[Page], str]] = {"html": to_html, "md": to_markdown, "json": to_json}
"""The forms of a page by name."""
