"""What pages of all kinds have: conditions and versions, the command that runs it again, and the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...runtime.files import RUN_OPTIONS, RunFolderError
from ..data import data_report, read_descriptions
from .blocks import Block, Code, Section
from .tables import blocks_of

COMMANDS = {
    "search": "search",
    "shortlist": "shortlist",
    "comparison": "compare",
    "training": "train",
    "ranking of sources": "sources",
    "pipeline": "run",
    "sweep": "sweep",
}
"""The command that runs a run of each kind again."""


def again_section(kind: str, path: Path, versions: Mapping[str, str], command: str | None = None) -> Section:
    """The section with the versions, the command that runs the same again, and its options.

    Args:
        kind: The kind of the run.
        path: The run folder.
        versions: Versions of Python and of packages; empty if they are not known.
        command: The command, if the kind does not tell it.
    """
    blocks: list[Block] = []
    if versions:
        blocks.append(f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    config = path / RUN_OPTIONS
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        blocks.append(Code(text=f"diswot {command or COMMANDS[kind]} --config {config}", title="The same again"))
        blocks.append(Code(text=text, title=f"{RUN_OPTIONS}: all options of this run", is_folded=True))
    else:
        blocks.append("The options of this run are not in its folder: it was started in Python, or is a stage.")
    return Section(title="Conditions, and how to run it again", blocks=blocks)


def data_blocks(path: Path) -> Iterator[Block]:
    """The section on the data that were read. A damaged description becomes a note, and the page goes on."""
    try:
        yield from blocks_of(data_report(read_descriptions(path)))
    except RunFolderError as error:
        yield f"data: not shown. {error}"


def filled(facts: Mapping[str, str | None]) -> dict[str, str]:
    """The facts that are known."""
    return {name: value for name, value in facts.items() if value}


def drawn(make: Callable[[], Block | None]) -> Iterator[Block]:
    """A picture, if there is one."""
    picture = make()
    if picture is not None:
        yield picture
