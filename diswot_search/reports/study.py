"""Reports of a study: tables and progress in a terminal, curves for TensorBoard, pictures.

It also holds what all reports share: colours, number formats, progress bars and the set-up of figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from search_spaces.cost import Cost
from search_spaces.names import full_name, short_name
from search_spaces.recipes import create_space, describe_space, list_spaces
from search_spaces.space import SearchSpace

from ..options.base import summary
from ..options.search import DEFAULT_PROXY
from ..proxies.aggregate import RankAggregate
from ..proxies.registry import get_proxy, match_proxies
from ..runtime.files import RunFolderError, write_atomically
from ..study.algorithms import get_algorithm, list_algorithms, option_names
from ..study.budget import Budget, cheapest
from ..study.cost_kinds import COSTS
from ..study.finalists import Finalist
from ..study.study import Candidate, Study
from .shortlist import LOST, count_finalists, explain_origins, format_finalists
from .shortlist_figures import plot_finalists
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    add_legend,
    axis_number,
    describe_workers,
    drawable,
    format_count,
    human_number,
    legend_entries,
    new_figure,
    set_title,
    shortened,
    style_axes,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MEASURE_NAMES = {kind.name: kind.title for kind in COSTS.values()}
"""Names of the measures on an axis."""


# -- tables -------------------------------------------------------------------------------------


_MAX_LISTED_CHOICES = 40
"""Most choices of a decision that a table lists; a space over a model zoo has far more."""


def format_table(study: Study, n: int = 5) -> Table:
    """Format the best candidates: rank, score, parameters, multiply-accumulates, other known costs, architecture.

    A score that is a mean over weight draws or probes is followed by its standard deviation.

    Args:
        study: The study.
        n: Number of candidates; fewer if the study has fewer.

    Example:
        >>> from rich import print
        >>> print(format_table(Study.load("runs/study"), n=3))  # doctest: +SKIP
    """
    best = study.best(n)
    return _table_of(study, best, f"Best {len(best)} of {format_count(len(study), 'evaluation')}")


def format_parts(study: Study, n: int = 5) -> Iterator[Table]:
    """Format the parts of the best `n` scores, in the order of `format_table`; no table for scores without parts."""
    best = study.best(n)
    if not best or not best[0].parts:
        return
    proxy = study.config.get("proxy", "the score")
    caption = "Logs, which add up to the score." if proxy == DEFAULT_PROXY else None
    table = Table(title=f"Parts of {proxy}", caption=caption)
    for column in ("rank", "score", *best[0].parts):
        table.add_column(column, justify="right", overflow="fold")
    for rank, candidate in enumerate(best, start=1):
        values = (candidate.score, *candidate.parts.values())
        table.add_row(str(rank), *(f"{value:.5g}" for value in values))
    yield table


def format_front(study: Study) -> Table:
    """Format the Pareto front of a study, the smallest first, with the columns of `format_table`."""
    front = study.front
    return _table_of(study, front, f"Pareto front of score against {', '.join(study.objectives)}: {len(front)}")


def _table_of(study: Study, best: Sequence[Candidate], title: str) -> Table:
    space = study.config["space"]["name"]
    names = [full_name(space, candidate.record.architecture) for candidate in best]
    has_short_names = any(short_name(name) != name for name in names)
    further = [kind for kind in COSTS.values() if kind.unit]
    known = [kind for kind in further if any(getattr(c, kind.name) is not None for c in best)]
    spread = any(candidate.record.score_std for candidate in best)
    timed = any(kind.name == "latency_ms" for kind in known) and study.config.get("budget")
    conditions = Budget.from_dict(study.config["budget"]).describe_latency() if timed else ""
    caption = f"latency of the quickest pass: {conditions}, float32" if timed else None
    table = Table(title=title, caption=caption)
    for column in ("rank", "score", "params", "MACs"):
        table.add_column(column, justify="right", no_wrap=True)
    if known:  # one column, so that several leave room for the architecture
        table.add_column("\n".join(kind.heading for kind in known), justify="right", no_wrap=True)
    if has_short_names:
        table.add_column("name", overflow="fold")
    table.add_column("architecture", overflow="fold")
    for rank, (candidate, name) in enumerate(zip(best, names, strict=True), start=1):
        values = ((kind, getattr(candidate, kind.name)) for kind in known)
        costs = "\n".join("" if value is None else kind.format(value) for kind, value in values)
        table.add_row(
            str(rank),
            f"{candidate.score:.5g}" + (f" ± {candidate.record.score_std:.2g}" if spread else ""),
            human_number(candidate.params),
            human_number(candidate.macs),
            *([costs] if known else []),
            *([Text(short_name(name))] if has_short_names else []),
            Text(candidate.record.architecture),
        )
    return table


def format_study_finalists(study: Study) -> Iterator[Table]:
    """Format the finalists that a study remembers, with what came of their trainings; no table without any."""
    if finalists := study.finalists:
        title = f"{count_finalists(finalists)} of a shortlist"
        caption = (
            f"Rungs: accuracy on validation images in percent, distilled; {explain_origins(finalists)}{LOST}; test and "
            "alone: on test images."
        )
        yield format_finalists(finalists, title, caption)


def describe_study(study: Study, *, is_stage: bool = False) -> Iterator[str]:
    """Describe a study in lines: its images, score, teachers if there are several, budget, status and run folder.

    Args:
        study: The study.
        is_stage: Whether it is a stage of a pipeline, whose report names the run folder at its end.
    """
    images = dict.fromkeys(str(probe["name"]) for probe in study.config.get("probes", ()) if probe.get("name"))
    if images:
        yield f"images: {', '.join(images)}"
    if study.ignores_teacher:
        names = ", ".join(name for name, _ in study.teachers)
        yield f"score: {study.config['proxy']}, which does not look at the teacher ({names})"
    elif len(study.teachers) > 1:
        yield "teachers: " + ", ".join(f"{short_name(name)} (weight {weight:.3g})" for name, weight in study.teachers)
    budget = study.config["budget"]
    limits = {name: value for name, value in budget.items() if name.startswith("max_") and value}
    grows = ", and without one the largest candidates win" * (study.config.get("proxy") == DEFAULT_PROXY)
    text = ", ".join(f"{name} {value:,.10g}" for name, value in limits.items()) or f"none{grows}"
    timed = "max_latency_ms" in limits or "latency_ms" in study.objectives
    if timed:
        text += f" (latency: {Budget.from_dict(budget).describe_latency()}, float32)"
    elif "max_memory_mb" in limits:
        text += f" (memory: batch {budget['latency_batch_size']}, float32)"
    yield f"budget: {text}"
    if timed:
        yield from _describe_measurements(study)
    if study.config.get("asynchronous"):
        yield "asynchronous: the candidates depend on the order in which workers finished, which is stored"
    yield f"status: {study.status}, {study.failure_summary()}"
    yield from describe_workers(study.workers, len(study), "search", did="made", noun="record")
    for name, ties in study.ties.items():
        yield f"hardly tells the candidates apart: {name}, which is {ties}"
    requested = study.config["evaluations"]
    if study.status == "complete" and len(study) < requested:
        place = "within the budget" if limits else "in the space"
        yield (
            f"no other architectures {place}: {len(study):,} of {format_count(requested, 'evaluation')} "
            f"{'was' if requested == 1 else 'were'} made"
        )
    yield from _describe_finalists(study)
    if not is_stage:
        yield f"run folder: {study.path}"


def _describe_finalists(study: Study) -> Iterator[str]:
    """The finalists of the last shortlist: the pick with its place by the score, and what it reached."""
    finalists = study.finalists
    for pick in (one for one in finalists if one.is_pick):
        of_study = [one.record.index for one in study.best(pick.place + len(finalists))]
        place = f", place {of_study.index(pick.index) + 1} by the score" if pick.index in of_study else ""
        accuracy = pick.test_accuracy()
        reached = "" if accuracy is None else f"; it reaches {accuracy:.2f} % of the test images distilled"
        yield f"shortlist: {count_finalists(finalists)} in {study.shortlist}; the pick is {pick.name}{place}{reached}"


def _describe_measurements(study: Study) -> Iterator[str]:
    """The median of the winner's passes, how many latencies did not become stable, and whether the winner's did."""
    measured = [facts for cost in study.costs if (facts := cost.details.get("latency_ms"))]
    unstable = [facts for facts in measured if facts["instability"]]
    for winner in study.best(1):
        cost = study.cost(winner.record.architecture)
        if cost is not None and (facts := cost.details.get("latency_ms")):
            stability = f"unstable: {facts['instability']}" if facts["instability"] else "stable"
            yield (
                f"winner's latency: {cost.latency_ms:.3g} ms, that of the quickest pass; the median of its passes was "
                f"{facts['median_ms']:.3g} ms ({stability})"
            )
    if unstable:
        yield (
            f"latency: {len(unstable):,} of {len(measured):,} measurements are unstable, since the machine did "
            "something else"
        )


def explain_winner(study: Study) -> Iterator[str]:
    """The lines of Python that build the winner."""
    winner = study.winner
    try:
        call = study.space.timm_model(winner.architecture)
    except RunFolderError as error:
        yield str(error)
        return
    yield "to build the winner in Python:"
    if call is not None:
        name, arguments = call
        options = "".join(f", {key}={value!r}" for key, value in arguments.items())
        yield f"import timm, search_spaces; model = timm.create_model({name!r}{options})"
    yield f"import diswot_search; model = diswot_search.Study.load({str(study.path)!r}).winner.build()"


def format_spaces() -> Table:
    """Format all search spaces by name: number of architectures, range of parameters, description.

    The range is empty for spaces that have to build a network to count its parameters.
    """
    table = Table("name", "architectures", "params", "what it is", title="Search spaces")
    for name in list_spaces():
        try:
            space = create_space(name)
            size, params = f"{space.size:,}", _params_range(space)
        except Exception as error:  # a user's own space may fail in any way; the others are listed
            table.add_row(name, "", "", Text(str(error)))
        else:
            table.add_row(name, size, params, describe_space(name))
    return table


def format_space(name: str) -> Table:
    """Format the decisions of a search space with their choices.

    Args:
        name: Name of the search space.

    Raises:
        UnknownNameError: No space has this name; the message gives near names.
    """
    space = create_space(name)
    table = Table("decision", "choices", title=f"{name}: {space.size:,} architectures", min_width=60)
    for decision, choices in space.decisions.items():
        first, more = ", ".join(map(str, choices[:_MAX_LISTED_CHOICES])), len(choices) - _MAX_LISTED_CHOICES
        table.add_row(decision, f"{first} and {more:,} more" if more > 0 else first)
    return table


def format_proxies(pattern: str = "*") -> Table:
    """Format the proxies by name: need of a teacher, readings besides a forward pass, description.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No proxy matches the pattern; the message gives near names.
    """
    names = match_proxies(pattern)
    caption = (
        f"A search uses {DEFAULT_PROXY} by default. Ranks of several proxies: log_rank(nwot, macs)."
        if DEFAULT_PROXY in names
        else None
    )
    table = Table("name", "teacher", "reads", "what it measures; higher is better", title="Proxies", caption=caption)
    for name in names:
        proxy = get_proxy(name)
        reads = ", ".join(proxy.needs)
        if isinstance(proxy, RankAggregate):
            reads = f"{proxy.method} of {', '.join(proxy.component_names)}"
        table.add_row(name, "needed" if proxy.needs_teacher else "", reads, proxy.summary)
    return table


def format_algorithms(pattern: str = "*") -> Table:
    """Format the algorithms by name, with their options and a description.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No algorithm matches the pattern; the message gives near names.
    """
    table = Table("name", "options", "what it does", title="Algorithms of a search")
    for name in list_algorithms(pattern):
        algorithm = get_algorithm(name)
        table.add_row(name, ", ".join(option_names(algorithm)), Text(summary(algorithm)))
    return table


def _params_range(space: SearchSpace) -> str:
    if not space.has_closed_cost:
        return ""
    _, least = cheapest(space, "params")
    _, most = cheapest(space, "params", lambda architecture: Cost(-space.cost(architecture).params, 0))
    return f"{human_number(least)} to {human_number(-most)}"


# -- pictures -----------------------------------------------------------------------------------


def plot_search(study: Study, path: str | os.PathLike[str]) -> list[Path]:
    """Plot a study: `progress.png`, best score over evaluations; `front.png`, score against cost; `finalists.png`.

    The last one has the score of the finalists of a shortlist against their accuracies, if there was a shortlist.

    Args:
        study: A study with at least one score.
        path: Folder for the pictures; created if it does not exist.

    Returns:
        Paths of the files written.

    Raises:
        NoScoreError: No architecture has a score.

    Example:
        >>> plot_search(Study.load("runs/study"), "pictures")  # doctest: +SKIP
        [PosixPath('pictures/progress.png'), PosixPath('pictures/front.png')]
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in PICTURES.items():
        figure = plot(study)
        if figure is not None:
            write_atomically(folder / name, to_png(figure))
            files.append(folder / name)
    return files


def plot_study_finalists(study: Study) -> Figure | None:
    """Plot the scores of the finalists that a study remembers against their accuracies; None if it remembers none."""
    return _plot_finalists(study, study.finalists, study.shortlist or "")


def draw_finalists(study: Study, finalists: Sequence[Finalist], shortlist: str) -> dict[str, bytes]:
    """The content of the picture of a study's finalists by its file name; empty if none of them has an accuracy.

    Args:
        study: The study.
        finalists: The finalists with their trials, which it need not remember yet.
        shortlist: The run folder of the shortlist.
    """
    figure = _plot_finalists(study, finalists, shortlist)
    return {} if figure is None else {FINALISTS: to_png(figure)}


def _plot_finalists(study: Study, finalists: Sequence[Finalist], shortlist: str) -> Figure | None:
    return plot_finalists(finalists, str(study.config.get("proxy")), f"trained in {shortlist}")


def plot_progress(study: Study) -> Figure:
    """Plot the score of each evaluation and the best score so far."""
    from matplotlib.ticker import MaxNLocator

    winner = study.winner
    places, scores = _columns(study, "index")
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    _scatter(axes, places + 1, scores)
    axes.step(places + 1, np.maximum.accumulate(scores), where="post", color=BLUE, linewidth=2, label="best so far")
    axes.plot(winner.record.index + 1, winner.score, "*", color=ORANGE, markersize=14, label="winner")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    count = len(study)
    axes.set_xlim(1 - max(0.5, 0.03 * count), count + max(0.5, 0.03 * count))
    axes.set_xlabel("evaluations")
    _finish(figure, axes, study)
    return figure


def plot_front(study: Study) -> Figure:
    """Plot the score against the study's first objective, with the Pareto front, the winner and the budget."""
    winner, measure = study.winner, study.objectives[0]
    costs, scores = _columns(study, measure)
    limit = study.config.get("budget", {}).get(f"max_{measure}")
    unit, unit_name = front_unit(study, measure)
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    _scatter(axes, costs * unit, scores)
    front = study.pareto_front(measure)
    axes.step(
        [getattr(candidate, measure) * unit for candidate in front],
        [candidate.score for candidate in front],
        "o-", where="post", color=BLUE, markersize=4, linewidth=1.5, label="Pareto front",
    )  # fmt: skip
    winner_cost = getattr(winner, measure)
    if winner_cost is not None:
        axes.plot(winner_cost * unit, winner.score, "*", color=ORANGE, markersize=14, label="winner")
    if limit is not None and limit <= _FAR * costs.max(initial=0):
        axes.axvline(limit * unit, color=GREEN, linestyle="--", linewidth=1.5, label="budget")
    elif limit is not None:  # in the picture it would push all points into a corner
        axes.plot([], [], color=GREEN, linestyle="--", linewidth=1.5, label=f"budget {axis_number(limit)}, far right")
    axes.set_xlabel(f"{MEASURE_NAMES[measure]} ({unit_name})" if unit_name else MEASURE_NAMES[measure])
    _finish(figure, axes, study)
    return figure


def front_unit(study: Study, measure: str) -> tuple[float, str]:
    """The factor of the costs on the axis of `plot_front`, and the name of the unit that they then have."""
    costs, _ = _columns(study, measure)
    unit = COSTS[measure].unit
    return (1.0, unit) if unit else _unit(costs.max(initial=0))


FINALISTS = "finalists.png"
"""The picture of the finalists of a study."""

PICTURES: dict[str, Callable[[Study], Figure | None]] = {
    "progress.png": plot_progress,
    "front.png": plot_front,
    FINALISTS: plot_study_finalists,
}
"""The functions that plot the pictures of a search, by file name."""


def _columns(study: Study, x: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A field of all scored records that have it, and their scores, (K,) each."""
    points = ((getattr(r, x), r.score) for r in study.records if r.status == "ok" and getattr(r, x) is not None)
    pairs: NDArray[Any] = np.fromiter(points, dtype=np.dtype((np.float64, 2)))
    return pairs[:, 0], pairs[:, 1]


def _scatter(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    is_dense = len(x) > _MANY  # in an SVG, points of their own would make a large file
    axes.scatter(x, y, s=14, color=GREY, alpha=0.7, linewidths=0, label="evaluated", rasterized=is_dense)


def _finish(figure: Figure, axes: Axes, study: Study) -> None:
    config = study.config
    proxy = shortened(drawable(str(config.get("proxy", "higher is better"))), 34)
    axes.set_ylabel(f"score ({proxy})", parse_math=False)
    teachers = [] if study.ignores_teacher else study.teachers
    roles = [f"{len(teachers)} teachers"] if len(teachers) > 1 else [f"teacher {short_name(n)}" for n, _ in teachers]
    names = [config["space"]["name"], *roles]
    set_title(figure, f"{', '.join(names)}: {format_count(len(study), 'evaluation')}")
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries))


_MANY = 2000
"""Number of points beyond which an SVG has them as an image."""


_FAR = 2.0
"""Multiple of the largest cost beyond which a budget is named instead of drawn."""


def _unit(largest: float) -> tuple[float, str]:
    """The factor that makes counts easy to read, and the name of the resulting unit."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if largest >= size:
            return 1 / size, name
    return 1.0, ""
