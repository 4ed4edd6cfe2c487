"""One page about several runs of a kind, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .blocks import Grid, Page, Section


def join_pages(pages: Sequence[Page], tables: Sequence[Section] = ()) -> Page:
    """One page about several runs of the same kind: their facts side by side, then each in full.

    Args:
        pages: The pages, two or more.
        tables: Sections that compare the runs, which come first.
    """
    names = list(dict.fromkeys(name for page in pages for name in page.facts))
    rows = tuple((name, *(page.facts.get(name, "") for page in pages)) for name in names)
    facts = Grid(heads=("", *(page.path for page in pages)), rows=rows, title="The runs side by side")
    sections = [Section(title="The verdicts", blocks=[f"{page.path}: {page.verdict}" for page in pages])]
    sections += [Section(title="The facts", blocks=[facts])] if rows else []
    sections += tables
    for page in pages:
        sections.append(Section(title=page.path, blocks=[page.title, page.verdict]))
        sections += [replace(section, level=section.level + 1) for section in page.sections]
    return Page(
        kind=pages[0].kind,
        title=f"{len(pages)} {_PLURALS.get(pages[0].kind, f'{pages[0].kind}s')} side by side",
        verdict=_verdict(pages),
        facts={},
        sections=sections,
        data=[{"path": page.path, "verdict": page.verdict, "result": page.data} for page in pages],
        path=", ".join(page.path for page in pages),
        is_final=all(page.is_final for page in pages),
    )


_PLURALS = {"search": "searches", "ranking of sources": "rankings of sources"}
"""Plurals of kinds that do not end in a mere s."""


def _verdict(pages: Sequence[Page]) -> str:
    running = sum(not page.is_final for page in pages)
    state = f"; {running} of them are not finished" if running else ""
    return f"{len(pages)} runs of the same kind{state}; the first: {pages[0].verdict}"
