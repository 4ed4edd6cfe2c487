"""The kind of a run folder that a user names, and the folder of a pipeline, whose stages are folders of other kinds."""

from __future__ import annotations

import os

from ..runtime import run_folder
from ..runtime.run_folder import RunFolder
from ..runtime.store import Layout
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


FOLDERS: tuple[type[RunFolder], ...] = (Study, TrainingFolder, RankingFolder, PipelineFolder)
"""Kinds of run folders that a network, a teacher or sources may come from."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind of a run folder, also of one that was stopped before it began or is damaged; None for any other path."""
    return run_folder.kind_of(path)
