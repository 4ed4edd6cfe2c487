"""Write a page about runs."""

from __future__ import annotations

import os
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces.registry import unknown_name_message

from ..options.base import from_options
from ..options.report import ReportOptions
from ..reports.page.render import FORMS, to_html
from ..runtime.files import RunFolderError, check_writable, write_atomically
from .report_pages import kind_of_run, page_of

PAGE = "report.html"
"""The page in a run folder."""


@dataclass(frozen=True)
class Report:
    """A page that was made.

    Attributes:
        content: The content of the file.
        format: "html", "md" or "json".
        path: The file; None if it was not written.
        is_final: Whether all runs have come to their end.

    Example:
        >>> Report("# Runs", format="md").path is None  # it was not written
        True
    """

    content: str = field(repr=False)
    format: str
    path: Path | None = None
    is_final: bool = True


@from_options(ReportOptions)
def report(options: ReportOptions) -> Report:
    """
    Returns:
        The page, and the file that it was written to.

    Raises:
        RunFolderError: A folder has no run, is damaged or of a newer version, the runs are of several kinds, or the
            file cannot be written.
        ValueError: There is no such format.

    Example:
        >>> import diswot_search as ds
        >>> ds.report("runs/search").path  # doctest: +SKIP
        PosixPath('runs/search/report.html')
    """
    return _report(options)


def report_lines(options: ReportOptions) -> Sequence[object]:
    """The report as the command line prints it: the place of the file, or the text itself."""
    made = _report(options)
    return [made.content.rstrip("\n")] if made.path is None else [f"report: {made.path}"]


def _report(options: ReportOptions) -> Report:
    runs, target = _checked(options)
    made = _write(runs, options.format, target, refresh=options.watch)
    if options.open and made.path is not None:
        webbrowser.open(made.path.absolute().as_uri())
    return _watch(options, runs, made) if options.watch else made


def write_page(run: str | os.PathLike[str]) -> Path:
    """Write the page of a run folder into it.

    Raises:
        RunFolderError: The run cannot be read, or the file cannot be written.
    """
    made = _write([os.fspath(run)], "html", Path(run) / PAGE, refresh=False)
    assert made.path is not None
    return made.path


def _checked(options: ReportOptions) -> tuple[list[str], Path | None]:
    """The run folders and the file, checked before any work."""
    if options.format not in FORMS:
        raise ValueError(unknown_name_message("format", options.format, FORMS))
    if not options.watch_seconds > 0:
        raise ValueError(f"watch_seconds is {options.watch_seconds}; it must be above 0.")
    given = [options.runs] if isinstance(options.runs, str | os.PathLike) else options.runs
    runs = list(dict.fromkeys(os.fspath(run) for run in given))
    if not runs:
        raise ValueError("No run folder is given; name at least one.")
    for run in runs:
        kind_of_run(run)
    target = None if options.out is None else Path(options.out)
    if target is None and options.format == "html":
        target = Path(runs[0]) / PAGE if len(runs) == 1 else Path(PAGE)
    if target is None:
        if options.open or options.watch:
            raise ValueError("open and watch need a file; name it by out.")
        return runs, None
    _check_target(target)
    return runs, target


def _check_target(target: Path) -> None:
    """Refuse a file that cannot be written, before any work."""
    if target.is_dir():
        raise RunFolderError(f"{target} is a folder; out names a file, such as {target / PAGE}.")
    if not target.parent.is_dir():
        raise RunFolderError(f"There is no folder {target.parent} to write {target.name} into.")
    check_writable(target.parent)


def _write(runs: Sequence[str], form: str, target: Path | None, *, refresh: bool) -> Report:
    page = page_of(runs)
    content = to_html(page, refresh=refresh and not page.is_final) if form == "html" else FORMS[form](page)
    if target is not None:
        try:
            write_atomically(target, content.encode("utf-8", "replace"))
        except OSError as error:
            raise RunFolderError(f"Cannot write {target}: {error.strerror or error}.") from error
    return Report(content, form, target, page.is_final)


def _watch(options: ReportOptions, runs: Sequence[str], made: Report) -> Report:
    """Write the page anew until the runs end, or until the user stops it."""
    try:
        while not made.is_final:
            time.sleep(options.watch_seconds)
            made = _write(runs, options.format, made.path, refresh=True)
    except KeyboardInterrupt:
        return made
    return made
