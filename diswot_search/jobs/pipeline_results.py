"""The results of a pipeline: read from its run folder, summarised for it, and shown stage by stage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.table import Table

from ..networks.saved import DISTILLATION, SHORTLIST
from ..options.shared import POWER
from ..reports.shortlist import describe_shortlist, format_shortlist
from ..reports.sources import format_ranking
from ..reports.study import describe_study, format_parts, format_table
from ..reports.training import format_training
from ..resolve.folders import PipelineFolder
from ..resolve.runs import PipelineResult, StageResult
from ..resolve.shortlists import Shortlist
from ..runtime.configuration import versions
from ..runtime.files import read_json
from ..runtime.typed_json import encode
from ..sources.ranking import SourceRanking
from ..study.study import Study
from ..training.folder import TrainingFolder
from ..training.result import TrainingResult, read_result
from .rank_sources import load_ranking

TEACHER, SOURCES, SEARCH, TRAINING_ALONE = "teacher", "sources", "search", "alone"
"""The stages, apart from DISTILLATION and SHORTLIST, and their folders in the run folder."""


def read_trainings(path: str | os.PathLike[str]) -> dict[str, TrainingResult]:
    """Read the results of the student's trainings from the run folder of a pipeline; see `PipelineResult.compared`."""
    folders = {"student alone": Path(path) / TRAINING_ALONE, "distilled": Path(path) / DISTILLATION}
    return {name: read_result(folder) for name, folder in folders.items() if TrainingFolder.has_begun(folder)}


def read_ranking(path: str | os.PathLike[str]) -> tuple[SourceRanking, dict[str, float]] | None:
    """Read the ranking of a pipeline's sources and their weights from its run folder; None until it is finished.

    Raises:
        RunFolderError: The ranking cannot be read.
    """
    folder = Path(path)
    config = PipelineFolder.peek(folder).config["distillation"].get("unlabelled")
    done = folder / "result.json"
    repair = "Delete it and run the same again, which writes it anew."
    results = read_json(done, keys=("results",), repair=repair)["results"] if done.is_file() else {}
    place = folder / (results.get(SOURCES) or f"{SOURCES}/result.json")
    if config is None or not place.is_file():
        return None
    ranking = load_ranking(place.parent)
    power = float(config.get("power", POWER))
    return ranking, ranking.weights(config["weighting"], power, measure=config.get("measure"))


def show_stage(result: StageResult, weights: Mapping[str, float]) -> Iterable[Table | str]:
    """Tables and lines about a finished stage.

    Args:
        result: The result of the stage.
        weights: Weight of each source by name.
    """
    if isinstance(result, SourceRanking):
        return (format_ranking(result, weights),)
    if isinstance(result, Shortlist):
        return (*format_shortlist(result), *describe_shortlist(result, is_stage=True))
    if isinstance(result, Study):
        return (format_table(result), *format_parts(result), *describe_study(result, is_stage=True))
    return (format_training(result.result),)


def summarise(result: PipelineResult) -> dict[str, object]:
    """The content of the run folder's `result.json`."""
    trainings = {TEACHER: result.teacher, DISTILLATION: result.distilled, TRAINING_ALONE: result.alone}
    return {
        "status": "complete",
        "student": _summary_of_student(result),
        **({} if result.ranking is None else {SOURCES: _summary_of_sources(result, result.ranking)}),
        "test_accuracy": {name: training and training.accuracy for name, training in trainings.items()},
        "difference": result.difference,
        **({} if result.shortlist is None else {SHORTLIST: encode(result.shortlist.verdict)}),
        "results": {name: training and _file(result.path, training.path, name) for name, training in trainings.items()}
        | ({} if result.shortlist is None else {SHORTLIST: f"{SHORTLIST}/result.json"})
        | ({} if result.ranking is None else {SOURCES: _place(result.path, result.ranking)})
        | {SEARCH: f"{SEARCH}/result.json"},
        "versions": versions(),
    }


def _summary_of_student(result: PipelineResult) -> dict[str, object]:
    if result.shortlist is None:
        winner = result.study.winner
        costs: dict[str, object] = {"score": winner.score, "params": winner.params, "macs": winner.macs}
        return {"architecture": winner.record.architecture, **costs}
    pick = result.shortlist.pick
    costs = {"score": pick.score, "params": pick.params, "macs": pick.macs}
    return {"name": pick.name, "architecture": pick.architecture, **costs}


def _file(path: Path, folder: Path | None, name: str) -> str:
    """The place of a training's result, relative to the run folder."""
    inside = name if folder is None else folder.relative_to(path).as_posix()
    return f"{inside}/result.json"


def _summary_of_sources(result: PipelineResult, ranking: SourceRanking) -> dict[str, object]:
    sources = result.distilled.result.sources
    assert sources is not None
    values = sources.to_json()
    facts = {key: values[key] for key in ("weighting", "measure", "power", "lam", "view", "fallback")}
    similarities = {model.name: model.similarity for model in sources.models}
    return {"ranking": _place(result.path, ranking), **facts, "similarities": similarities, "weights": result.weights}


def _place(path: Path, ranking: SourceRanking) -> str | None:
    """The path of the ranking's result, relative to the run folder if it is in it; None if it is in memory only."""
    if ranking.path is None:
        return None
    if ranking.path == path / SOURCES:
        return f"{SOURCES}/result.json"
    return str(ranking.path.absolute() / "result.json")
