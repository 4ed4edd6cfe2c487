"""Commands that list, show or convert: each gives the tables and lines to print."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from search_spaces.importers import import_table
from search_spaces.plugins import is_code
from search_spaces.recipes import check_names, is_file

from ..checks import check_whole
from ..comparison.store import ScoreStore  # noqa: F401 - so that its folders are known
from ..networks.saved import SHORTLIST, find_student
from ..options.lists import (
    ImportOptions,
    ListAlgorithmsOptions,
    ListDistillersOptions,
    ListMeasuresOptions,
    ListProxiesOptions,
    ListSpacesOptions,
    ShowOptions,
)
from ..reports.data import data_report, read_descriptions
from ..reports.details import (
    describe_algorithm,
    describe_distiller,
    describe_measure,
    describe_options_of_space,
    describe_proxy,
)
from ..reports.shortlist import describe_shortlist, explain_seeds, format_shortlist
from ..reports.sources import describe_ranking, format_measures, format_ranking
from ..reports.study import (
    describe_study,
    explain_winner,
    format_algorithms,
    format_front,
    format_parts,
    format_proxies,
    format_space,
    format_spaces,
    format_study_finalists,
    format_table,
)
from ..reports.style import format_count
from ..reports.training import (
    compare_trainings,
    describe_training,
    explain_student,
    format_distillers,
    format_training,
)
from ..resolve.folders import PipelineFolder, ShortlistFolder, kind_of
from ..resolve.shortlists import read_shortlist
from ..runtime.files import RunFolderError
from ..runtime.lock import holds_only_lock
from ..runtime.run_folder import COMPLETE
from ..study.study import Study
from ..training.result import read_result
from .pipeline_results import SEARCH, read_ranking, read_trainings
from .rank_sources import load_ranking
from .training_table import table_of_sweep

Lines = Iterable[object]
"""Tables and lines for a terminal."""


def spaces(options: ListSpacesOptions) -> Lines:
    """All search spaces, or those that are named."""
    if options.name is None:
        return [format_spaces()]
    names = check_names(options.name)
    return [line for name in names for line in (format_space(name), *_options_of_space(name))]


def _options_of_space(name: str) -> Lines:
    return () if is_file(name) else describe_options_of_space(name)


def proxies(options: ListProxiesOptions) -> Lines:
    """The proxies whose names match."""
    return _one_or_several(options.pattern, describe_proxy, format_proxies)


def distillers(options: ListDistillersOptions) -> Lines:
    """The distillers whose names match."""
    return _one_or_several(options.pattern, describe_distiller, format_distillers)


def measures(options: ListMeasuresOptions) -> Lines:
    """The measures whose names match."""
    return _one_or_several(options.pattern, describe_measure, format_measures)


def algorithms(options: ListAlgorithmsOptions) -> Lines:
    """The algorithms whose names match."""
    return _one_or_several(options.pattern, describe_algorithm, format_algorithms)


def _one_or_several(pattern: str, describe: Callable[[str], Lines], format_all: Callable[[str], object]) -> Lines:
    """The description of the one that has this name, or the table of those that match the pattern."""
    if set(pattern) & set("*?["):
        return [format_all(pattern)]
    return [*([] if is_code(pattern) else [format_all(pattern)]), *describe(pattern)]


def import_file(options: ImportOptions) -> Lines:
    """Convert a benchmark file."""
    count = import_table(options.kind, options.path, options.out, trust=options.trust, progress=options.shows_progress)
    return [f"{count:,} rows: {options.out}"]


def show(options: ShowOptions) -> Lines:
    """The report of a run folder, by its kind."""
    check_whole("best", options.best, least=1)
    run = options.run
    reports: dict[str, Callable[[], Lines]] = {
        "search": lambda: _study(run, options.best),
        "comparison": lambda: _comparison(run),
        "training": lambda: _training(run),
        "ranking of sources": lambda: _ranking(run),
        "pipeline": lambda: _pipeline(run, options.best),
        "sweep": lambda: [table_of_sweep(run).format(), f"run folder: {run}"],
        "shortlist": lambda: _shortlist(run),
    }
    if not os.path.exists(run):
        raise RunFolderError(f"There is no run folder {run}.")
    kind = kind_of(run)
    if kind is None and holds_only_lock(run):
        raise RunFolderError(f"The run in {run} was stopped before it began; run it again.")
    if kind not in reports:
        *kinds, last = reports
        raise RunFolderError(f"{run} is no run folder of a {', '.join(kinds)} or {last}: it has none of their stores.")
    return (*_data(run), *reports[kind]())


def _data(run: str) -> Lines:
    """The report of the data; of a damaged description, a note, since nothing else in the folder depends on it."""
    try:
        return tuple(data_report(read_descriptions(run)))
    except RunFolderError as error:
        return (f"data: not shown. {error}",)


def _study(run: str, best: int, *, is_stage: bool = False, is_result: bool = True) -> Lines:
    """The report of a search.

    Args:
        run: Its run folder.
        best: Number of candidates.
        is_stage: Whether it is a stage of a pipeline, which tells of finalists and run folder itself.
        is_result: Whether its winner is what the run ends with, so that it is said how to build it.
    """
    study = Study.load(run)
    if study.status != COMPLETE and not study.best(1):
        return [f"Nothing is scored yet: {study.failure_summary()}. The same command as before continues the search."]
    front = [format_front(study)] if study.config["algorithm"]["name"] == "nsga2" else []
    tables = (format_table(study, best), *format_parts(study, best), *front)
    trained = () if is_stage else format_study_finalists(study)
    ending = explain_winner(study) if is_result else ()
    return (*tables, *trained, *describe_study(study, is_stage=is_stage), *ending)


def _comparison(run: str) -> Lines:
    raise RunFolderError(f"{run} is the run folder of a comparison; its table is in comparison.md.")


def _training(run: str) -> Lines:
    result = read_result(run)
    return (format_training(result), *describe_training(result, run))


def _ranking(run: str) -> Lines:
    ranking = load_ranking(run, unfinished=True)
    return (format_ranking(ranking), *describe_ranking(ranking))


def _shortlist(run: str, *, is_stage: bool = False) -> Lines:
    """The result, or the trainings so far; those of a stage without the run folder."""
    folder = ShortlistFolder.peek(run)
    if folder.result is None:
        done = format_count(len(folder.cells), "training")
        return [
            f"{folder.status}: {done} done; the same command as before continues the shortlist.",
            *([] if is_stage else [f"run folder: {run}"]),
        ]
    shortlist = read_shortlist(run)
    return (*format_shortlist(shortlist), *describe_shortlist(shortlist, is_stage=is_stage))


def _pipeline(run: str, best: int) -> Lines:
    """The stages that have begun."""
    lines: list[object] = []
    if ranked := read_ranking(run):
        lines.append(format_ranking(*ranked))
    if Study.has_begun(search := os.path.join(run, SEARCH)):
        has_finalists = SHORTLIST in PipelineFolder.peek(run).config
        lines.extend(_study(search, best, is_stage=True, is_result=not has_finalists))
    result = None
    if ShortlistFolder.has_begun(folder := os.path.join(run, SHORTLIST)):
        lines.extend(_shortlist(folder, is_stage=True))
        result = read_shortlist(folder) if ShortlistFolder.peek(folder).result is not None else None
    if trainings := read_trainings(run):
        lines.append(compare_trainings(trainings, explain_seeds(result, trainings)))
    try:
        find_student(run)
    except FileNotFoundError:  # no stage has a student yet
        return [*lines, f"run folder: {run}"]
    return [*lines, f"run folder: {run}", *explain_student(run)]
