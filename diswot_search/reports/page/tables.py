"""Tables of a terminal as tables of a page, so that both come from the same functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .blocks import Block, Grid


def grid_of(table: Table) -> Grid:
    """A table of a terminal as a table of a page.

    Args:
        table: The table, whose cells are texts, or tables of their own.

    Example:
        >>> from rich.table import Table
        >>> table = Table("name", "accuracy", title="Two networks")
        >>> table.add_row("a", "71.5")
        >>> grid_of(table).rows
        (('a', '71.5'),)
    """
    columns = [tuple(map(_plain, column.cells)) for column in table.columns]
    rows = tuple(zip(*columns, strict=True))
    caption = _plain(table.caption)
    return Grid(
        heads=tuple(_plain(column.header).replace("\n", " ") if table.show_header else "" for column in table.columns),
        rows=rows,
        title=_plain(table.title),
        notes=tuple(line for line in caption.splitlines() if line.strip()),
        is_number=tuple(column.justify == "right" for column in table.columns),
        strong=frozenset(place for place, row in enumerate(table.rows) if "bold" in str(row.style)),
    )


def blocks_of(items: Iterable[object]) -> Iterator[Block]:
    """Tables and lines of a terminal as blocks of a page."""
    for item in items:
        yield grid_of(item) if isinstance(item, Table) else _plain(item).strip()


def _plain(cell: object) -> str:
    """The text of a cell, of a cell that is indented, and of one that is a table."""
    if cell is None:
        return ""
    if isinstance(cell, Text):
        return cell.plain
    if isinstance(cell, Padding):
        return f"↳ {_plain(cell.renderable)}"
    if isinstance(cell, Table):
        grid = grid_of(cell)
        heads = [f"{head}: " if head else "" for head in grid.heads]
        return "\n".join(
            ", ".join(f"{head}{value}" for head, value in zip(heads, row, strict=True) if value) for row in grid.rows
        )
    return str(cell)
