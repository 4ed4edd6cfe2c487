"""Print reports to a terminal."""

from __future__ import annotations


def show(*items: object) -> None:
    """Print tables and lines to standard output; lines are broken at a terminal's edge only."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    for item in items:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))
