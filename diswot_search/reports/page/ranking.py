"""The page of a ranking of sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...runtime.typed_json import Json
from ...sources.ranking import SourceRanking
from ..sources import describe_ranking, format_ranking, plot_ranking
from ..style import format_count
from .blocks import Block, Page, Section
from .common import again_section, data_blocks, filled
from .pictures import to_picture
from .tables import grid_of


def ranking_page(path: Path, ranking: SourceRanking, versions: Mapping[str, str]) -> Page:
    """The page of a ranking, finished or not."""
    measure = ranking.measures[0]
    weights = ranking.weights() if not ranking.unfinished else {}
    target = str(ranking.facts["target"]["name"])
    nearest = ranking.order()[0] if ranking.found[measure] else None
    return Page(
        kind="ranking of sources",
        title=f"{format_count(len(ranking.names), 'source')} for {target}",
        verdict=_verdict(ranking, nearest, weights),
        facts=filled(
            {
                "nearest": nearest,
                "its weight": f"{weights[nearest]:.3f}" if nearest in weights else "",
                "measures": ", ".join(ranking.measures),
                "images of a draw": ", ".join(f"{count:,}" for count in dict.fromkeys(ranking.images)),
                "draws": str(len(ranking.images)),
            }
        ),
        sections=[
            ranking_section(ranking),
            Section(title="What was read", blocks=[*data_blocks(path), *describe_ranking(ranking)]),
            Section(
                title="How each number was measured",
                blocks=[
                    "measures: higher is nearer; mean ± standard deviation over the draws of labelled images.",
                    "weight: share of the source in a distillation, by the first measure, above what features "
                    "unrelated to the labels reach.",
                ],
            ),
            again_section("ranking of sources", path, versions),
        ],
        data=_numbers(ranking),
        path=str(path),
        is_final=not ranking.unfinished,
    )


def _verdict(ranking: SourceRanking, nearest: str | None, weights: Mapping[str, float]) -> str:
    measure, target = ranking.measures[0], ranking.facts["target"]["name"]
    if ranking.unfinished or nearest is None:
        done = len(ranking.names) - len(ranking.unfinished)
        return f"{done} of {format_count(len(ranking.names), 'source')} are measured; the same command continues."
    if not weights:
        return f"By {measure} no source tells more of {target} than chance does; distillation would use labels alone."
    return f"{nearest} is the nearest to {target} by {measure}, with a weight of {weights.get(nearest, 0):.3f}."


def ranking_section(ranking: SourceRanking, weights: Mapping[str, float] | None = None, *, level: int = 2) -> Section:
    """The table and the picture of a ranking."""
    blocks: list[Block] = []
    if not ranking.unfinished:
        text = "How far each source is above features unrelated to the labels, a panel for each measure."
        blocks.append(to_picture(plot_ranking(ranking), "ranking", "The sources by each measure", text))
        blocks.append(grid_of(format_ranking(ranking, weights)))
    else:
        blocks.append(f"not measured yet: {', '.join(ranking.unfinished)}")
    return Section(title="The sources", blocks=blocks, level=level)


def _numbers(ranking: SourceRanking) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for measure, sources in ranking.found.items():
        values[measure] = {name: list(measured.values) for name, measured in sources.items()}
    return {"measures": list(ranking.measures), "values": values, "unfinished": list(ranking.unfinished)}
