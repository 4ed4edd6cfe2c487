"""The page of a search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.names import full_name, short_name

from ...runtime.run_folder import COMPLETE
from ...runtime.typed_json import Json, encode
from ...study.budget import Budget
from ...study.cost_kinds import COSTS
from ...study.study import Study
from ..study import (
    describe_study,
    explain_winner,
    format_front,
    format_parts,
    format_study_finalists,
    front_unit,
    plot_front,
    plot_progress,
    plot_study_finalists,
)
from ..study_figures import plot_accuracies, plot_parts
from ..style import format_count, human_number
from .blocks import Block, Code, Grid, Page, Picture, Points, Section
from .common import again_section, data_blocks, filled
from .pictures import points_of, to_picture
from .tables import grid_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 10
"""Number of candidates that the table shows at once."""


def search_page(study: Study) -> Page:
    """The page of a study, finished or not."""
    path = study.path or Path("memory")
    proxy = str(study.config.get("proxy", "score"))
    winner = study.best(1)
    return Page(
        kind="search",
        title=f"{study.config['space']['name']}: {format_count(len(study), 'evaluation')} by {proxy}",
        verdict=_verdict(study, proxy),
        facts=search_facts(study) if winner else {},
        sections=[
            *search_sections(study),
            _measured(study),
            again_section("search", path, study.recall("versions") or {}),
        ],
        data=_numbers(study),
        path=str(path),
        is_final=study.status == COMPLETE,
    )


def _verdict(study: Study, proxy: str) -> str:
    best = study.best(1)
    if not best:
        return f"Nothing is scored yet: {study.failure_summary()}."
    winner = best[0]
    name = short_name(full_name(study.config["space"]["name"], winner.record.architecture))
    spread = f" ± {winner.record.score_std:.2g}" if winner.record.score_std else ""
    so_far = "" if study.status == COMPLETE else " so far"
    count = format_count(len(study), "candidate")
    text = f"{name} has the highest {proxy}{so_far}, {winner.score:.5g}{spread}, of {count}"
    pick = next((one for one in study.finalists if one.is_pick), None)
    if pick is None:
        return f"{text}; it was not trained, so that its accuracy is not known."
    accuracy = pick.test_accuracy()
    reached = "" if accuracy is None else f", which reaches {accuracy:.2f} % of the test images"
    return f"{text}; training then picked {pick.name}{reached}."


def search_facts(study: Study) -> dict[str, str]:
    """The facts of the winner, and what was tried."""
    winner = study.winner
    name = full_name(study.config["space"]["name"], winner.record.architecture)
    costs = {kind.heading: (kind, getattr(winner, kind.name)) for kind in COSTS.values()}
    budget = Budget.from_dict(study.config["budget"]) if study.config.get("budget") else Budget()
    limits = [f"{COSTS[cost].heading} {_limit(cost, limit)}" for cost, limit in budget.limits.items()]
    teachers = [short_name(one) for one, _ in study.teachers]
    return filled(
        {
            "winner": short_name(name),
            "score": f"{winner.score:.5g} ({study.config.get('proxy', 'score')})",
            **{
                heading: (kind.format(value) if kind.unit else human_number(value))
                for heading, (kind, value) in costs.items()
                if value is not None
            },
            "budget": ", ".join(limits) or "none",
            "tried": format_count(len(study), "candidate"),
            "failed": f"{sum(study.failures.values()):,}" if study.failures else "",
            "teacher" if len(teachers) < 2 else "teachers": ", ".join(teachers),
        }
    )


def _limit(cost: str, limit: float) -> str:
    kind = COSTS[cost]
    return f"at most {limit:,.10g} {kind.unit}" if kind.unit else f"at most {human_number(limit)}"


def search_sections(study: Study, *, finalists: bool = True, level: int = 2) -> Iterator[Section]:
    """The sections of a study: the winner, the picture with its table, its parts, its progress, its finalists.

    Args:
        study: The study.
        finalists: Whether to show what came of its shortlist.
        level: Level of the headings.
    """
    if not study.best(1):
        yield Section(title="The search", blocks=[*data_blocks(_path(study)), *describe_study(study)], level=level)
        return
    yield Section(title="How to load the winner", blocks=[*_loading(study)], level=level)
    grid = candidates(study)
    picture = front_picture(study, grid)
    fronts = [grid_of(format_front(study))] if len(study.objectives) > 1 else []
    yield Section(title="Score against cost", blocks=[picture, grid, *fronts], level=level)
    parts = plot_parts(study)
    if parts is not None:
        text = "Bars: the share of candidates whose part is lower than the winner's, and the winner's own values."
        blocks: list[Block] = [
            to_picture(parts, "parts", "Why this one: the winner's parts among all candidates", text)
        ]
        blocks += [grid_of(table) for table in format_parts(study, 5)]
        yield Section(title="Why this one", blocks=blocks, level=level)
    progress = to_picture(
        plot_progress(study),
        "progress",
        "The best score over the evaluations",
        f"The score of each of {format_count(len(study), 'evaluation')} in order, and the best so far as a line.",
        points=Points(),
    )
    blocks = [*data_blocks(_path(study)), *describe_study(study), progress]
    yield Section(title="What was tried", blocks=blocks, level=level)
    if finalists and study.finalists:
        yield Section(title="What training showed", blocks=[*_trained(study)], level=level)


def _path(study: Study) -> Path:
    return study.path or Path("memory")


def _loading(study: Study) -> Iterator[Block]:
    lines = list(explain_winner(study))
    code = [line for line in lines if line.startswith("import ")]
    yield from (line for line in lines if line not in code and not line.endswith(":"))
    if code:
        yield Code(text="\n".join(code), title="In Python")
    yield Code(text=study.winner.record.architecture, title="Its architecture in full")


def _trained(study: Study) -> Iterator[Block]:
    yield from (grid_of(table) for table in format_study_finalists(study))
    figures: tuple[tuple[str, str, Figure | None], ...] = (
        ("study-accuracies", "Accuracy against cost", plot_accuracies(study.finalists, f"of {study.shortlist}")),
        ("study-finalists", "What training showed of the scores", plot_study_finalists(study)),
    )
    for name, title, figure in figures:
        if figure is not None:
            yield to_picture(figure, name, title, f"{title}: {format_count(len(study.finalists), 'finalist')}.")


def candidates(study: Study) -> Grid:
    """All candidates with a score, the best first, of which the table shows a few at once."""
    space = study.config["space"]["name"]
    records = study.best(len(study))
    known = [kind for kind in COSTS.values() if any(getattr(one, kind.name) is not None for one in records)]
    rows = []
    for rank, one in enumerate(records, start=1):
        architecture = one.record.architecture
        costs = [(kind, getattr(one, kind.name)) for kind in known]
        spread = f" ± {one.record.score_std:.2g}" if one.record.score_std else ""
        cells = ["" if v is None else kind.format(v) if kind.unit else human_number(v) for kind, v in costs]
        name = short_name(full_name(space, architecture)) if rank <= _SHOWN else ""
        rows.append((str(rank), f"{one.score:.5g}{spread}", *cells, name, architecture))
    heads = ("rank", "score", *(kind.heading for kind in known), "name", "architecture")
    is_number = (True, True, *(True for _ in known), False, False)
    has_names = any(row[-2] != f"{space}:{row[-1]}" for row in rows[:_SHOWN])
    if not has_names:
        rows, heads, is_number = [(*row[:-2], row[-1]) for row in rows], (*heads[:-2], heads[-1]), is_number[:-1]
    return Grid(
        heads=heads,
        rows=tuple(rows),
        title=f"The best of {format_count(len(records), 'scored candidate')}",
        is_number=is_number,
        strong=frozenset([0]),
        shown=_SHOWN,
    )


def front_picture(study: Study, grid: Grid) -> Picture:
    """The picture of score against cost, whose marks are the rows of the table of candidates."""
    figure = plot_front(study)
    measure = study.objectives[0]
    axes = figure.axes[0]
    scale, _ = front_unit(study, measure)
    records = study.best(len(study))
    rows = [place for place, one in enumerate(records) if getattr(one, measure) is not None]
    x = [getattr(records[place], measure) * scale for place in rows]
    y = [records[place].score for place in rows]
    alt = (
        f"Score against {COSTS[measure].title}: {format_count(len(rows), 'candidate')}, the Pareto front as a line, "
        "the winner as a star; the table below has the best."
    )
    title = f"Score against {COSTS[measure].title}. A click on a mark shows its row in the table"
    points = points_of(figure, axes, x, y, grid, rows)
    return to_picture(figure, "front", title, alt, points=points)


def _measured(study: Study) -> Section:
    proxy = str(study.config.get("proxy", "score"))
    lines = [
        f"score: {proxy} of the untrained network on the probe; higher is better; its formula: diswot proxies.",
        "params: trainable parameters. MACs: multiply-accumulates of one image. Both are counted, not measured.",
    ]
    if any(cost.latency_ms is not None for cost in study.costs):
        budget = Budget.from_dict(study.config["budget"])
        lines.append(f"latency: the quickest pass; {budget.describe_latency()}, float32, on the machine of the search.")
    draws = len(study.config.get("seeds") or [0]) * len(study.config.get("probes") or [0])
    lines.append(
        f"score: a mean over {draws} draws of weights and probes; ± is the standard deviation over them."
        if draws > 1
        else "score: of one draw of the weights on one probe, so that it has no interval."
    )
    return Section(title="How each number was measured", blocks=lines)


def _numbers(study: Study) -> dict[str, Json]:
    """The numbers of the study as JSON values."""
    failures = study.failures
    return {
        "status": study.status,
        "proxy": study.config.get("proxy"),
        "evaluations": len(study),
        "failures": failures,
        "best": [asdict(one.record) for one in study.best(_SHOWN)],
        "front": [one.record.index for one in study.front],
        "finalists": [encode(finalist) for finalist in study.finalists],
    }
