"""Commands whose options are not made from option classes yet."""

from __future__ import annotations

import os

from ..reports.terminal import show as _print


def distillers_command(pattern: str = "*") -> None:
    """List the distillers: what they read of a network, their customary weights, and what they are.

    Args:
        pattern: Which ones, such as "*kd*".
    """
    from ..reports.training import format_distillers

    _print(format_distillers(pattern))


def measures_command(pattern: str = "*") -> None:
    """List the measures of how near a source is: what they need, and what they measure.

    Args:
        pattern: Which ones, such as "*score".
    """
    from ..reports.sources import format_measures

    _print(format_measures(pattern))


def proxies_command(pattern: str = "*") -> None:
    """List the proxies: whether they need a teacher, what they read of a network, and what they measure.

    Args:
        pattern: Which ones, such as "zen*".
    """
    from ..reports.study import format_proxies

    _print(format_proxies(pattern))


def import_command(kind: str, path: str, out: str, trust: bool = False, progress: bool = True) -> None:
    """Turn an official benchmark file into a table that `diswot compare` reads.

    Args:
        kind: nasbench201, nats_bench or suite_zero.
        path: The official file, or folder for NATS-Bench.
        out: The new table, .csv or .csv.gz.
        trust: The makers of the file are trusted: the official files of NAS-Bench-201 and NATS-Bench are pickles, which
            can run any code when they are read.
        progress: Show a bar where standard error is a terminal.
    """
    from search_spaces.importers import import_table

    count = import_table(kind, path, out, trust=trust, progress=progress)
    _print(f"{count:,} rows: {out}")


def spaces_command(name: str | None = None) -> None:
    """List the search spaces, or the decisions of one.

    Args:
        name: The space to show; without it, all are listed.
    """
    from ..reports.study import format_space, format_spaces

    _print(format_spaces() if name is None else format_space(name))


def show_command(run: str, best: int = 10) -> None:
    """Show what a run folder holds: a search, a training, a ranking of sources, or a pipeline.

    Args:
        run: The run folder, of what is finished or goes on.
        best: How many architectures of a search to list.
    """
    if best < 1:
        raise ValueError(f"best is {best}; it must be at least 1.")
    from ..comparison.store import ScoreStore  # noqa: F401 - so that its folders are known
    from ..resolve.folders import kind_of
    from ..runtime.run_folder import RunFolderError

    shown = {
        "search": _show_study,
        "comparison": _show_comparison,
        "training": _show_training,
        "ranking of sources": _show_ranking,
        "pipeline": _show_pipeline,
    }
    if not os.path.exists(run):
        raise RunFolderError(f"There is no run folder {run}.")
    kind = kind_of(run)
    if kind not in shown:
        *kinds, last = shown
        raise RunFolderError(f"{run} is no run folder of a {', '.join(kinds)} or {last}: it has none of their stores.")
    shown[kind](run, best)


def _show_study(run: str, best: int) -> None:
    from ..reports.study import describe_study, explain_winner, format_front, format_parts, format_table
    from ..study.study import Study

    study = Study.load(run)
    front = [format_front(study)] if study.config["algorithm"]["name"] == "nsga2" else []
    tables = (format_table(study, best), *format_parts(study, best), *front)
    _print(*tables, *describe_study(study), *explain_winner(study))


def _show_comparison(run: str, best: int) -> None:
    from ..runtime.run_folder import RunFolderError

    raise RunFolderError(f"{run} is the run folder of a comparison; its table is in comparison.md.")


def _show_training(run: str, best: int) -> None:
    from ..reports.training import describe_training, format_training
    from ..training.result import read_result

    result = read_result(run)
    _print(format_training(result), *describe_training(result, run))


def _show_ranking(run: str, best: int) -> None:
    from ..jobs.rank_sources import load_ranking
    from ..reports.sources import describe_ranking, format_ranking

    ranking = load_ranking(run, unfinished=True)
    _print(format_ranking(ranking), *describe_ranking(ranking))


def _show_pipeline(run: str, best: int) -> None:
    """The stages that have begun."""
    from ..jobs.pipeline_results import SEARCH, read_ranking, read_trainings
    from ..reports.sources import format_ranking
    from ..reports.training import compare_trainings
    from ..study.study import Study

    if ranked := read_ranking(run):
        _print(format_ranking(*ranked))
    if Study.has_begun(search := os.path.join(run, SEARCH)):
        _show_study(search, best)
    if trainings := read_trainings(run):
        _print(compare_trainings(trainings))
    _print(f"run folder: {run}")
