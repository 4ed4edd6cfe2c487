"""The kind of a run folder that a user names, and the folders of jobs that hold other folders.

They are pipelines, sweeps and shortlists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..runtime import run_folder
from ..runtime.run_folder import RunFolder
from ..runtime.store import Layout, Table
from ..sources.folder import RankingFolder
from ..study.study import Study
from ..training.folder import TrainingFolder


class PipelineFolder(RunFolder):
    """The run folder of a pipeline, which has a folder for each stage in it.

    Args:
        config: All that the result depends on, as JSON values.
        out: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or holds a pipeline of another configuration.
    """

    LAYOUT = Layout("pipeline", "pipeline.sqlite", version=2)


_CELLS = Table("cells", {"name": "TEXT PRIMARY KEY", "row": "TEXT NOT NULL"}, counted=True)

_GRID = "grid"
"""Key of the present grid in the store of a sweep."""


class CellsFolder(RunFolder):
    """A run folder that has the run folders of trainings in it, and stores the end of each."""

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """The stored row of each cell by its name."""
        return {name: json.loads(row) for name, row in self._read("SELECT name, row FROM cells ORDER BY name")}

    def add(self, name: str, row: Mapping[str, object]) -> None:
        """Store the row of a cell, as JSON values; it replaces an older one."""
        with self.errors(), self._store:
            self._delete(_CELLS, "name = ?", [(name,)])
            self._insert(_CELLS, [(name, json.dumps(row))])

    def forget(self, names: Iterable[str]) -> None:
        """Drop the rows of cells, which are to be trained as if they never had been."""
        with self.errors(), self._store:
            self._delete(_CELLS, "name = ?", [(name,) for name in names])


class SweepFolder(CellsFolder):
    """The run folder of a sweep, which has the run folder of each of its trainings in it.

    The grid may be another one with each run. Rows of cells that are in it no more stay. All cells are trained under
    the same versions of the packages that results depend on.

    Args:
        config: JSON values that are stored with the folder.
        out: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or belongs to other versions.
    """

    LAYOUT = Layout("sweep", "sweep.sqlite", version=1, tables=(_CELLS,), one_configuration=False)

    def begin(
        self,
        cells: Sequence[tuple[str, Mapping[str, object], Mapping[str, object]]],
        keys: Sequence[str],
        baseline: Mapping[str, object] | None,
    ) -> None:
        """Store the grid of this run.

        Args:
            cells: Name, options and values in the grid of each cell, in order, as JSON values.
            keys: Names of the options in the grid, apart from the seed.
            baseline: Values of the baseline, as JSON values.
        """
        self.start()
        self._update_meta({_GRID: {"cells": list(cells), "keys": list(keys), "baseline": baseline}})

    @property
    def grid(self) -> dict[str, Any]:
        """The grid of the last run, by the names of the arguments of `begin`."""
        return self.recall(_GRID) or {"cells": [], "keys": [], "baseline": None}


_FINALISTS, _RESULT = "finalists", "result"
"""Keys of the finalists, as they were chosen, and of the result in the store of a shortlist."""


class ShortlistFolder(CellsFolder):
    """The run folder of a shortlist, which has the run folder of each of its trainings in it.

    Args:
        config: All that the result depends on, as JSON values.
        out: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or holds a shortlist of another configuration.
    """

    LAYOUT = Layout("shortlist", "shortlist.sqlite", version=1, tables=(_CELLS,))

    @property
    def finalists(self) -> list[dict[str, Any]] | None:
        """The finalists as they were chosen, as JSON values; None before that."""
        return self.recall(_FINALISTS)

    def choose(self, finalists: Sequence[Mapping[str, object]]) -> None:
        """Store the finalists, which stay the same when the job continues."""
        self.remember(_FINALISTS, list(finalists))

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of a finished shortlist, as JSON values; None before its end."""
        return self.recall(_RESULT) if self.status == run_folder.COMPLETE else None

    def finish(self, result: Mapping[str, object], files: Sequence[str], **values: object) -> None:
        """Store the result, when all files are written; the shortlist is complete from then on.

        Args:
            result: The result, as JSON values.
            files: Names of the files.
            values: Other JSON values to store, by key.
        """
        self.end(run_folder.COMPLETE, files, **{_RESULT: result}, **values)


FOLDERS: tuple[type[RunFolder], ...] = (
    Study,
    TrainingFolder,
    RankingFolder,
    PipelineFolder,
    SweepFolder,
    ShortlistFolder,
)
"""Kinds of run folders that a network, a teacher or sources may come from."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind of a run folder, also of one that was stopped before it began or is damaged; None for any other path."""
    return run_folder.kind_of(path)
