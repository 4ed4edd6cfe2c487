"""A table of trainings with their seeds put together, of a sweep or of any run folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from search_spaces.registry import unknown_name_message
from search_spaces.yaml_files import read_yaml

from ..checks import listed
from ..comparison.trainings import (
    FAILED,
    TrainingCell,
    TrainingRow,
    TrainingSummary,
    as_text,
    summarise_trainings,
)
from ..options.base import from_options
from ..options.sweep import TabulateOptions
from ..reports.style import to_png
from ..reports.trainings import (
    format_trainings,
    plot_trainings,
    trainings_csv,
    trainings_latex,
    trainings_markdown,
)
from ..resolve.folders import SweepFolder, kind_of
from ..runtime.files import RunFolderError
from ..runtime.run_folder import COMPLETE, RUNNING
from ..runtime.typed_json import encode
from ..training.folder import TrainingFolder
from ..training.result import read_result
from .job import CONFIG
from .sweep_grid import SEED, flat_options

FORMATS = ("terminal", "csv", "markdown", "latex")

PICTURE = "table.png"


@dataclass(frozen=True)
class TrainingTable:
    """Trainings side by side: means over seeds, and differences to a baseline.

    Attributes:
        summary: All numbers.
        path: The run folder of the sweep, if the trainings are those of one.
    """

    summary: TrainingSummary
    path: Path | None = None

    @property
    def cells(self) -> tuple[TrainingCell, ...]:
        """The trainings, each with its run folder, status and result."""
        return self.summary.cells

    @property
    def rows(self) -> tuple[TrainingRow, ...]:
        """The combinations of options, with the seeds put together."""
        return self.summary.rows

    def __repr__(self) -> str:
        return f"<TrainingTable of {len(self.cells)} trainings in {len(self.rows)} rows, {self.path or 'in memory'}>"

    def format(self) -> Table:
        """The table for a terminal."""
        return format_trainings(self.summary)

    def to_csv(self) -> str:
        """A row for each combination, every number in a column of its own."""
        return "".join(trainings_csv(self.summary))

    def to_markdown(self) -> str:
        """The table with what its numbers are."""
        return trainings_markdown(self.summary)

    def to_latex(self) -> str:
        """The table for LaTeX with the package booktabs."""
        return trainings_latex(self.summary)

    def _repr_markdown_(self) -> str:
        """The table in a notebook."""
        return self.to_markdown()

    def to_json(self) -> dict[str, Any]:
        """All numbers, and the accuracy or the failure of each training, as JSON values."""
        summary = self.summary
        return {
            "level": summary.level,
            "baseline": summary.baseline,
            "options": list(summary.keys),
            "rows": [encode(row) for row in summary.rows],
            "trainings": [
                {
                    "name": cell.name,
                    "values": cell.values,
                    "seed": cell.seed,
                    "status": cell.status,
                    "reason": cell.reason,
                    "accuracy": cell.accuracy,
                }
                for cell in summary.cells
            ],
        }

    def files(self) -> Iterator[tuple[str, str | bytes]]:
        """Contents of files by name: CSV, Markdown, LaTeX and, if a training is complete, a picture."""
        yield "table.csv", self.to_csv()
        yield "table.md", self.to_markdown()
        yield "table.tex", self.to_latex()
        figure = plot_trainings(self.summary)
        if figure is not None:
            yield PICTURE, to_png(figure)


@from_options(TabulateOptions)
def tabulate(options: TabulateOptions) -> TrainingTable:
    """
    Returns:
        The table. Without a baseline of its own, the table of a sweep has that of the sweep.

    Raises:
        RunFolderError: There is no training in the folders, or one is damaged.
        BaselineError: The baseline is none of the trainings.
        ValueError: Two trainings have the same options and the same seed, or a format is unknown.

    Warns:
        UserWarning: Folders and files are left out.
    """
    return _tabulate(options)


def _tabulate(options: TabulateOptions) -> TrainingTable:
    if options.format not in FORMATS:
        raise ValueError(unknown_name_message("format", options.format, FORMATS))
    kinds = {run: _kind(run) for run in dict.fromkeys(map(os.fspath, options.runs))}
    chosen = {run: kind for run, kind in kinds.items() if kind in ("training", "sweep")}
    others = [f"{run} ({kind or 'no run folder'})" for run, kind in kinds.items() if run not in chosen]
    if not chosen:
        raise RunFolderError(f"There is no run folder of a training or a sweep among: {listed(others)}.")
    if others:
        warnings.warn(f"Left out, since they are no trainings and no sweeps: {listed(others)}.", stacklevel=2)
    if list(chosen.values()) == ["sweep"]:
        return table_of_sweep(next(iter(chosen)), options.baseline)
    return _table_of(_trainings(chosen), options.baseline)


def table(options: TabulateOptions) -> list[object]:
    """The table in the form that the options name."""
    trainings = _tabulate(options)
    forms = {
        "terminal": trainings.format,
        "csv": trainings.to_csv,
        "markdown": trainings.to_markdown,
        "latex": trainings.to_latex,
    }
    content = forms[options.format]()
    return [content.rstrip("\n") if isinstance(content, str) else content]


def table_of_sweep(path: str | os.PathLike[str], baseline: Mapping[str, object] | None = None) -> TrainingTable:
    """The table of the last grid of a sweep, finished or not.

    Args:
        path: The run folder.
        baseline: Values of the baseline; by default that of the sweep.

    Raises:
        RunFolderError: The folder has no sweep, or it is damaged.
    """
    folder = SweepFolder.peek(path)
    grid, rows = folder.grid, folder.cells
    keys = list(grid["keys"])
    cells = []
    for name, options, values in grid["cells"]:
        row = rows.get(name, {"status": RUNNING, "reason": None})
        flat = flat_options(options) | values
        cells.append(_cell(name, Path(path) / name, {key: flat.get(key) for key in keys}, options[SEED], row))
    baseline = grid["baseline"] if baseline is None else baseline
    return TrainingTable(summarise_trainings(cells, keys, baseline), Path(path))


def _cell(
    name: str, path: Path, values: Mapping[str, object], seed: int, row: Mapping[str, Any] | None = None
) -> TrainingCell:
    """A training with its result, if it is complete.

    Args:
        name: Name of the training.
        path: Its run folder.
        values: Values of its options.
        seed: Its seed.
        row: Its status and the reason of a failure, as a sweep stores them; by default they are those of the folder. A
            training that failed in the sweep may have been completed since, by its own config.yaml.
    """
    status, reason = (row["status"], row["reason"]) if row is not None else (RUNNING, None)
    result = read_result(path) if TrainingFolder.has_begun(path) else None
    if result is not None and (status != FAILED or result.is_complete):
        status, reason = result.status, None
    result = result if result is not None and result.is_complete else None
    if status == COMPLETE and result is None:
        status = RUNNING  # its folder is gone
    return TrainingCell(name=name, path=path, values=values, seed=seed, status=status, reason=reason, result=result)


# -- trainings of any run folders ---------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A training of a run folder, with all of its options."""

    path: str
    options: Mapping[str, object]
    seed: int
    row: Mapping[str, Any] | None = None


def _kind(run: str) -> str | None:
    if not os.path.exists(run):
        raise RunFolderError(f"There is no run folder {run}.")
    return kind_of(run)


def _trainings(kinds: Mapping[str, str | None]) -> list[_Run]:
    """The trainings of run folders, those of sweeps included; each once."""
    runs: dict[str, _Run] = {}
    for path, kind in kinds.items():
        if kind == "training":
            runs.setdefault(os.path.realpath(path), _training(path))
            continue
        folder = SweepFolder.peek(path)
        rows = folder.cells
        for name, options, _ in folder.grid["cells"]:
            inner = os.path.join(path, name)
            runs.setdefault(os.path.realpath(inner), _Run(inner, flat_options(options), options[SEED], rows.get(name)))
    return list(runs.values())


def _training(path: str) -> _Run:
    file = Path(path) / CONFIG
    options = read_yaml(file) if file.is_file() else {}
    if not isinstance(options, Mapping):
        raise RunFolderError(f"{file} is damaged: it holds no options. Delete it and run the training again.")
    return _Run(path, flat_options(options), read_result(path).seed)


def _table_of(runs: Sequence[_Run], baseline: Mapping[str, object] | None) -> TrainingTable:
    """The table of trainings whose rows are the options that differ."""
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    keys = [
        name
        for name in names
        if len({as_text(run.options.get(name)) for run in runs if name in run.options or "." in name}) > 1
    ]
    cells = [
        _cell(run.path, Path(run.path), {key: run.options.get(key) for key in keys}, run.seed, run.row) for run in runs
    ]
    return TrainingTable(summarise_trainings(cells, keys, baseline))
