"""Options of a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

from .base import SEVERAL
from .shared import CodeOptions


@dataclass(frozen=True)
class ReportOptions(CodeOptions):
    """Write one page about a run, or about several of a kind side by side: a single file that needs no network.

    Args:
        runs: Run folders of searches, shortlists, comparisons, trainings, rankings of sources, pipelines or sweeps, all
            of one kind. They may be finished, interrupted or still running.
        format: html, md or json.
        out: The file. By default, HTML is report.html in the run folder, or in this folder for several runs; Markdown
            and JSON are printed.
        open: Open the page in a browser.
        watch: Write the page anew while the run goes on, and end with the run. An open page loads itself again.
        watch_seconds: Seconds between two writings.
    """

    runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str] = field(metadata=SEVERAL)
    _: KW_ONLY
    format: str = "html"
    out: str | os.PathLike[str] | None = None
    open: bool = False
    watch: bool = False
    watch_seconds: float = 10.0
