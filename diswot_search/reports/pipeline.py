"""The report of a pipeline."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, RenderableType

from search_spaces.names import short_name

from ..resolve.runs import NEAR_ZERO_WEIGHT, PipelineResult
from ..sources.ranking import SourceRanking
from .shortlist import describe_shortlist, explain_seeds, format_shortlist
from .sources import format_ranking
from .study import describe_study, format_parts, format_table
from .style import escape_markdown
from .training import compare_trainings, explain_student


def pipeline_report(result: PipelineResult) -> Iterator[str]:
    facts = result.distilled.result
    teacher = short_name(facts.teacher.name) if facts.teacher else ""
    under = teacher if result.ranking is None else _count_sources(result.ranking)
    yield f"# {escape_markdown(f'{short_name(facts.student.name)} under {under} on {facts.data}')}"
    yield ""
    for role, name in (("student", facts.student.name), ("teacher", facts.teacher.name if facts.teacher else "")):
        if short_name(name) != name:
            yield f"- {role}: {escape_markdown(short_name(name))} is ``{' '.join(name.replace('`', chr(39)).split())}``"
            yield ""
    if result.teacher is not None:
        yield f"The teacher was trained first: {result.teacher.accuracy:.2f} % of the test images."
        yield ""
    if result.ranking is not None:
        yield "## Sources"
        yield ""
        yield from _as_code(format_ranking(result.ranking, result.weights))
        yield from (f"- {line}" for line in _describe_sources(result, result.ranking))
        yield ""
    yield "## Search"
    yield ""
    yield from _as_code(format_table(result.study))
    for table in format_parts(result.study):
        yield from _as_code(table)
    yield from (f"- {line}" for line in describe_study(result.study, is_stage=True))
    yield ""
    if result.shortlist is not None:
        yield "## Finalists"
        yield ""
        for table in format_shortlist(result.shortlist):
            yield from _as_code(table)
        yield from (f"- {escape_markdown(line)}" for line in describe_shortlist(result.shortlist, is_stage=True))
        yield ""
    yield "## Training"
    yield ""
    yield from _as_code(compare_trainings(compared := result.compared(), explain_seeds(result.shortlist, compared)))
    yield from (f"- {line}" for line in explain_student(result.path))


def _count_sources(ranking: SourceRanking) -> str:
    return "1 source" if len(ranking.names) == 1 else f"{len(ranking.names)} sources"


def _describe_sources(result: PipelineResult, ranking: SourceRanking) -> Iterator[str]:
    """The weights of the sources and their reasons, in lines."""
    sources = result.distilled.result.sources
    assert sources is not None
    if sources.fallback:
        yield NEAR_ZERO_WEIGHT.format(measure=sources.measure, data=result.distilled.result.data)
    else:
        how = {
            "weighted": f"by {sources.measure} to the power {sources.power or 0:g}",
            "nearest": f"the nearest by {sources.measure} alone",
            "uniform": "all alike",
        }
        weighting = how[sources.weighting] if isinstance(sources.weighting, str) else "by hand"
        stages = "of the search and of the distillation" if result.study.teachers else "of the distillation"
        yield f"weights {stages}: {weighting}; labels count {sources.lam:g}"
    for (source, measure), reason in ranking.reasons.items():
        yield f"no {measure} of {source}: {reason}"


def _as_code(table: RenderableType) -> Iterator[str]:
    """A table as it looks in a terminal: names of architectures have signs that a table in Markdown cannot hold."""
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    yield from ("```text", *(line.rstrip() for line in console.file.getvalue().splitlines()), "```", "")
