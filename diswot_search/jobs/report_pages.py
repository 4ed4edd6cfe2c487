"""The page of a run folder, by its kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..comparison.store import ScoreStore
from ..comparison.stored import read_comparison
from ..networks.saved import DISTILLATION, SHORTLIST
from ..reports.page.blocks import Page, Section
from ..reports.page.comparison import comparison_page, side_by_side, unfinished_comparison_page
from ..reports.page.ranking import ranking_page
from ..reports.page.search import search_page
from ..reports.page.several import join_pages
from ..reports.page.shortlist import Stages, pipeline_page, shortlist_page, unfinished_shortlist_page
from ..reports.page.sweep import sweep_page, sweep_section
from ..reports.page.training import compared_section, training_page
from ..resolve.folders import PipelineFolder, ShortlistFolder, SweepFolder, kind_of
from ..resolve.shortlists import Shortlist, read_shortlist
from ..runtime.files import RunFolderError
from ..runtime.lock import holds_only_lock
from ..runtime.run_folder import COMPLETE
from ..sources.folder import RankingFolder
from ..study.finalists import DISTILLED
from ..study.study import Study
from ..training.folder import TrainingFolder
from ..training.result import EpochRow, TrainingResult, read_result, read_rows
from .pipeline_results import SEARCH, read_ranking, read_trainings
from .rank_sources import load_ranking
from .training_table import table_of_sweep, tabulate


def page_of(runs: Sequence[str]) -> Page:
    """The page about run folders, all of one kind.

    Args:
        runs: The run folders.

    Raises:
        RunFolderError: One is no run folder, is damaged or of a newer version, or their kinds differ.
    """
    kinds = {run: kind_of_run(run) for run in dict.fromkeys(runs)}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{run} ({kind})" for run, kind in kinds.items())
        raise RunFolderError(f"The runs are of several kinds: {listed}. One page has runs of one kind.")
    pages = [_PAGES[kind](run) for run, kind in kinds.items()]
    if len(pages) == 1:
        return pages[0]
    return join_pages(pages, _tables(next(iter(kinds.values())), list(kinds)))


def kind_of_run(run: str) -> str:
    """The kind of a run folder.

    Raises:
        RunFolderError: It is none.
    """
    if not os.path.exists(run):
        raise RunFolderError(f"There is no run folder {run}.")
    kind = kind_of(run)
    if kind is None and holds_only_lock(run):
        raise RunFolderError(f"The run in {run} was stopped before it began; run it again.")
    if kind not in _PAGES:
        *kinds, last = _PAGES
        raise RunFolderError(f"{run} is no run folder of a {', '.join(kinds)} or {last}: it has none of their stores.")
    return kind


def _search(run: str) -> Page:
    return search_page(Study.load(run))


def _comparison(run: str) -> Page:
    store = ScoreStore.peek(run)
    if store.status != COMPLETE:
        return unfinished_comparison_page(Path(run), store.status, len(store))
    return comparison_page(Path(run), *read_comparison(run))


def _training(run: str) -> Page:
    folder = TrainingFolder.peek(run)
    command = "distill" if folder.config.get("teacher") or folder.config.get("unlabelled") else "train"
    return training_page(Path(run), *_trained(Path(run))[1:], command)


def _trained(path: Path) -> tuple[Path, TrainingResult, Sequence[EpochRow]]:
    return path, read_result(path), read_rows(TrainingFolder.peek(path))


def _ranking(run: str) -> Page:
    versions = RankingFolder.peek(run).recall("versions") or {}
    return ranking_page(Path(run), load_ranking(run, unfinished=True), versions)


def _sweep(run: str) -> Page:
    return sweep_page(Path(run), table_of_sweep(run).summary, SweepFolder.peek(run).recall("versions") or {})


def _shortlist(run: str) -> Page:
    folder = ShortlistFolder.peek(run)
    if folder.result is None:
        return unfinished_shortlist_page(Path(run), folder.status, folder.cells)
    return shortlist_page(Path(run), read_shortlist(run), folder.recall("versions") or {})


def _pipeline(run: str) -> Page:
    folder, path = PipelineFolder.peek(run), Path(run)
    study = Study.load(path / SEARCH) if Study.has_begun(path / SEARCH) else None
    shortlist, cells = None, None
    if ShortlistFolder.has_begun(path / SHORTLIST):
        stage = ShortlistFolder.peek(path / SHORTLIST)
        shortlist = None if stage.result is None else read_shortlist(path / SHORTLIST)
        cells = stage.cells if shortlist is None else None
    trainings = read_trainings(path)
    place = path / DISTILLATION if TrainingFolder.has_begun(path / DISTILLATION) else None
    if shortlist is not None:
        place = _first_seed(path / SHORTLIST, shortlist, DISTILLED)
        alone = _first_seed(path / SHORTLIST, shortlist, "alone")
        trainings |= {} if alone is None else {"student alone": read_result(alone)}
    return pipeline_page(
        Stages(
            path=path,
            is_final=folder.status == COMPLETE,
            ranking=read_ranking(path),
            study=study,
            shortlist=shortlist,
            cells=cells,
            trainings=trainings,
            trained=None if place is None else _trained(place),
            versions=folder.recall("versions") or {},
        )
    )


def _first_seed(path: Path, shortlist: Shortlist, kind: str) -> Path | None:
    """The run folder of the full training of the pick with the first seed that was tested; None without one."""
    trials = [one for one in shortlist.pick.trials if one.kind == kind and one.test_accuracy is not None]
    folders = [path / one.name for one in trials if TrainingFolder.has_begun(path / one.name)]
    return folders[0] if folders else None


_PAGES: dict[str, Callable[[str], Page]] = {
    "search": _search,
    "comparison": _comparison,
    "training": _training,
    "ranking of sources": _ranking,
    "pipeline": _pipeline,
    "sweep": _sweep,
    "shortlist": _shortlist,
}
"""The function that makes the page of a run folder, by its kind."""


def _tables(kind: str, runs: Sequence[str]) -> list[Section]:
    """The sections that compare runs of a kind."""
    if kind == "comparison" and all(ScoreStore.peek(run).status == COMPLETE for run in runs):
        return [side_by_side({run: read_comparison(run) for run in runs})]
    if kind == "training":
        return [compared_section({run: read_result(run) for run in runs})]
    if kind == "sweep":
        return [sweep_section(tabulate(list(runs)).summary)]
    return []
