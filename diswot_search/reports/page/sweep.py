"""The page of a sweep, and of several trainings as one table."""

from __future__ import annotations

from pathlib import Path

from ...comparison.trainings import TrainingRow, TrainingSummary, describe_values
from ...runtime.run_folder import COMPLETE
from ...runtime.typed_json import Json, encode
from ..style import format_count
from ..trainings import describe_difference, format_trainings, plot_trainings
from .blocks import Block, Page, Section
from .common import again_section, data_blocks, filled
from .pictures import to_picture
from .tables import grid_of


def sweep_page(path: Path, summary: TrainingSummary, versions: dict[str, str]) -> Page:
    """The page of the last grid of a sweep, finished or not."""
    done = [cell for cell in summary.cells if cell.status == COMPLETE]
    best = _best(summary)
    return Page(
        kind="sweep",
        title=f"A sweep of {format_count(len(summary.cells), 'training')}",
        verdict=_verdict(summary, best),
        facts=filled(
            {
                "best": describe_values(best.values) if best is not None else "",
                "test accuracy": _spread(best),
                "trainings": f"{len(done)} of {len(summary.cells)} done",
                "options that differ": ", ".join(summary.keys),
                "baseline": describe_values(summary.baseline) if summary.baseline else "",
            }
        ),
        sections=[
            sweep_section(summary),
            Section(title="What was read", blocks=[*data_blocks(path)]),
            again_section("sweep", path, versions),
        ],
        data=sweep_numbers(summary),
        path=str(path),
        is_final=len(done) == len(summary.cells),
    )


def sweep_section(summary: TrainingSummary, *, level: int = 2) -> Section:
    """The picture and the table of trainings with their seeds put together."""
    blocks: list[Block] = []
    figure = plot_trainings(summary)
    if figure is not None:
        text = "Mean test accuracy of each combination of options, with its standard deviation over seeds."
        blocks.append(to_picture(figure, "trainings", "The trainings by their test accuracy", text))
    blocks.append(grid_of(format_trainings(summary)))
    return Section(title="The trainings", blocks=blocks, level=level)


def sweep_numbers(summary: TrainingSummary) -> Json:
    """The rows of the table as JSON values."""
    return {"level": summary.level, "options": list(summary.keys), "rows": [encode(row) for row in summary.rows]}


def _best(summary: TrainingSummary) -> TrainingRow | None:
    rows = [row for row in summary.rows if row.accuracy is not None]
    return max(rows, key=lambda row: row.accuracy.mean if row.accuracy else 0.0, default=None)


def _spread(row: TrainingRow | None) -> str:
    if row is None or row.accuracy is None:
        return ""
    std = "" if row.accuracy.std is None else f" ± {row.accuracy.std:.2f}"
    return f"{row.accuracy.mean:.2f}{std} %, {format_count(row.accuracy.count, 'seed')}"


def _verdict(summary: TrainingSummary, best: TrainingRow | None) -> str:
    done = sum(cell.status == COMPLETE for cell in summary.cells)
    if best is None:
        return f"No training is complete yet: {done} of {len(summary.cells)}."
    text = (
        f"{describe_values(best.values) or 'The only combination'} reaches the highest test accuracy, {_spread(best)}"
    )
    if best.difference is not None:
        text += f"; {describe_difference(best.difference, summary.level)} against the baseline"
    if done < len(summary.cells):
        text += f"; {len(summary.cells) - done} of {len(summary.cells)} trainings are not done"
    return f"{text}."
