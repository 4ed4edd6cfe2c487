"""The page of a shortlist, and that of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces.names import short_name

from ...resolve.shortlists import DISTIL, DO_NOT_DISTIL, Shortlist, Verdict
from ...runtime.typed_json import Json
from ...sources.ranking import SourceRanking
from ...study.finalists import ALONE
from ...study.study import Study
from ...training.result import EpochRow, TrainingResult
from ..shortlist import describe_shortlist, format_shortlist
from ..shortlist_figures import SHORTLIST_PICTURES
from ..study_figures import plot_accuracies
from ..style import format_count, human_number
from ..trainings import describe_difference
from .blocks import Block, Grid, Page, Section
from .common import again_section, data_blocks, filled
from .pictures import to_picture
from .ranking import ranking_section
from .search import search_facts, search_sections
from .tables import grid_of
from .training import compared_section, training_facts, training_sections, training_verdict

_CAPTIONS = {
    "scores.png": ("What training showed of the scores", "Validation accuracy of each finalist against its score."),
    "regret.png": ("What each finalist would have lost", "Bars: points lost against the pick, the guess among them."),
    "rungs.png": ("The rungs", "Validation accuracy of every distillation by epoch, a panel for each rung."),
}
"""Caption and description of each picture of a shortlist."""


def shortlist_page(path: Path, shortlist: Shortlist, versions: Mapping[str, str]) -> Page:
    """The page of a finished shortlist."""
    return Page(
        kind="shortlist",
        title=f"{shortlist.pick.name}, of {format_count(len(shortlist.finalists), 'finalist')} on {shortlist.data}",
        verdict=shortlist_verdict(shortlist),
        facts=shortlist_facts(shortlist),
        sections=[
            *shortlist_sections(shortlist),
            Section(title="What was read", blocks=[*data_blocks(path)]),
            _measured(shortlist),
            again_section("shortlist", path, versions),
        ],
        data=shortlist.to_json(),
        path=str(path),
    )


def shortlist_verdict(shortlist: Shortlist) -> str:
    """The verdict of a shortlist in a sentence."""
    return verdict_sentence(shortlist.verdict)


def verdict_sentence(verdict: Verdict) -> str:
    """A verdict in a sentence, with the interval of the gain."""
    if verdict.distilled is None:
        return f"{verdict.student} was picked; its test failed{_because(verdict)}."
    reached = f"it reaches {verdict.distilled:.2f} % of the test images distilled"
    if verdict.gain is None or verdict.alone is None:
        return f"Pick {verdict.student}: {reached}{_because(verdict)}."
    advice = {DISTIL: f"Distil {verdict.student}", DO_NOT_DISTIL: f"Train {verdict.student} without a teacher"}
    head = advice.get(verdict.advice, f"Pick {verdict.student}")
    gain = f"{verdict.alone:.2f} % alone: a difference of {describe_difference(verdict.gain, verdict.level)}"
    close = {
        DO_NOT_DISTIL: ", which includes zero or less, so that a gain is not shown",
        DISTIL: "",
    }.get(verdict.advice, _because(verdict))
    return f"{head}: {reached} and {gain}{close}."


def _because(verdict: Verdict) -> str:
    return f"; no advice, since {verdict.because}" if verdict.because else ""


def shortlist_facts(shortlist: Shortlist) -> dict[str, str]:
    """The facts of the pick, and what it took to find it."""
    pick, cost = shortlist.pick, shortlist.cost
    accuracies = {kind: pick.test_accuracy(*kind) for kind in ((), (ALONE,))}
    teacher = next((trial.teacher for trial in pick.trials if trial.teacher), None)
    taught = [trial.teacher_accuracy for trial in pick.trials if trial.teacher_accuracy is not None]
    return filled(
        {
            "pick": pick.name,
            "test accuracy, distilled": "" if accuracies[()] is None else f"{accuracies[()]:.2f} %",
            "test accuracy, alone": "" if accuracies[(ALONE,)] is None else f"{accuracies[(ALONE,)]:.2f} %",
            "teacher": short_name(teacher) if teacher else "",
            "teacher's validation accuracy": f"{taught[0]:.2f} %" if taught else "",
            "params": "" if pick.params is None else human_number(pick.params),
            "MACs": "" if pick.macs is None else human_number(pick.macs),
            "size": "" if pick.params is None else f"{4 * pick.params / 1e6:.2f} MB in float32",
            "finalists": f"{len(shortlist.finalists)}, of {shortlist.proxy}",
            "cost": f"{cost.full_trainings:.3g} full trainings\n{cost.hours:.3g} hours",
        }
    )


def shortlist_sections(shortlist: Shortlist, *, level: int = 2) -> Iterator[Section]:
    """The sections of a shortlist: accuracy against cost, the finalists, the rungs, and the verdict in lines."""
    blocks: list[Block] = []
    figure = plot_accuracies(shortlist.finalists, f"on {shortlist.data}")
    if figure is not None:
        text = "Validation accuracy of each finalist against its multiply-accumulates, the pick as a star."
        blocks.append(to_picture(figure, "accuracies", "Accuracy against cost of the finalists", text))
    blocks += [grid_of(table) for table in format_shortlist(shortlist)]
    yield Section(title="The finalists", blocks=blocks, level=level)
    figures = {name: plot(shortlist) for name, plot in SHORTLIST_PICTURES.items()}
    pictures = [to_picture(one, name, *_CAPTIONS[name]) for name, one in figures.items() if one is not None]
    if pictures:
        yield Section(title="Rungs and curves", blocks=pictures, level=level)
    yield Section(title="The verdict in full", blocks=[*describe_shortlist(shortlist)], level=level)


def unfinished_shortlist_page(path: Path, status: str, cells: Mapping[str, Mapping[str, object]]) -> Page:
    """The page of a shortlist that goes on or was interrupted.

    Args:
        path: The run folder.
        status: Its status.
        cells: The stored ends of its trainings by name.
    """
    return Page(
        kind="shortlist",
        title=f"A shortlist: {format_count(len(cells), 'training')} done",
        verdict=unfinished_verdict(status, len(cells)),
        facts={},
        sections=[
            unfinished_section(cells),
            Section(title="What was read", blocks=[*data_blocks(path)]),
            again_section("shortlist", path, {}),
        ],
        data={"status": status, "trainings": sorted(cells)},
        path=str(path),
        is_final=False,
    )


def unfinished_verdict(status: str, done: int) -> str:
    """The state of a shortlist that has not come to its end, in a sentence."""
    return f"The shortlist is {status}: {format_count(done, 'training')} done; the same command as before continues it."


def unfinished_section(cells: Mapping[str, Mapping[str, object]], *, level: int = 2) -> Section:
    """The trainings so far."""
    rows = tuple((name, str(row.get("status") or ""), str(row.get("reason") or "")) for name, row in cells.items())
    grid = Grid(heads=("training", "status", "reason"), rows=rows, title="Trainings so far")
    return Section(title="The finalists", blocks=[grid] if rows else ["No training is done yet."], level=level)


def _measured(shortlist: Shortlist) -> Section:
    return Section(
        title="How each number was measured",
        blocks=[
            f"rungs: accuracy on {format_count(shortlist.val_images, 'validation image')}, each training with a "
            "schedule of its own that ends with the rung.",
            f"verdict: accuracy on {format_count(shortlist.test_images, 'test image')}, which were looked at once, "
            "after the pick was known; means over seeds.",
            "interval: Student's t, over differences of trainings with the same seed.",
            "params and MACs: counted for one image of the data's size.",
        ],
    )


# -- a pipeline ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of a pipeline, as far as they have begun.

    Attributes:
        path: The run folder.
        is_final: Whether all of them are done.
        ranking: The ranking of the sources with their weights.
        study: The search.
        shortlist: The finished shortlist.
        cells: The trainings of a shortlist that is not finished, with their ends; None without one.
        trainings: Results of the student's trainings by name.
        trained: Run folder, result and epochs of the distilled student's training.
        versions: Versions of Python and of packages.
    """

    path: Path
    is_final: bool
    ranking: tuple[SourceRanking, Mapping[str, float]] | None = None
    study: Study | None = None
    shortlist: Shortlist | None = None
    cells: Mapping[str, Mapping[str, object]] | None = None
    trainings: Mapping[str, TrainingResult] = field(default_factory=dict)
    trained: tuple[Path, TrainingResult, Sequence[EpochRow]] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def pipeline_page(stages: Stages) -> Page:
    """The page of a pipeline, finished or not."""
    trained = stages.trained
    results = dict(stages.trainings)
    if trained is not None:
        results.setdefault("distilled", trained[1])
    student = short_name(trained[1].student.name) if trained is not None else None
    title = f"{student} on {trained[1].data}" if trained is not None else f"A pipeline in {stages.path}"
    sections: list[Section] = []
    if stages.shortlist is not None:
        sections += shortlist_sections(stages.shortlist)
    elif stages.cells is not None:
        sections.append(unfinished_section(stages.cells))
    if results:
        sections.append(compared_section(results))
    if trained is not None:
        path, result, rows = trained
        sections.append(Section(title="The distilled student", blocks=[training_verdict(result)]))
        sections += training_sections(path, result, rows, level=3, prefix="student-")
    if stages.ranking is not None:
        sections.append(ranking_section(*stages.ranking))
    if stages.study is not None:
        sections.append(Section(title="The search", blocks=[f"{stages.study.path}"]))
        sections += search_sections(stages.study, finalists=False, level=3)
    sections.append(Section(title="What was read", blocks=[*data_blocks(stages.path)]))
    if stages.shortlist is not None:
        sections.append(_measured(stages.shortlist))
    sections.append(again_section("pipeline", stages.path, stages.versions))
    return Page(
        kind="pipeline",
        title=title,
        verdict=_pipeline_verdict(stages, results),
        facts=_pipeline_facts(stages),
        sections=sections,
        data=_data(stages, results),
        path=str(stages.path),
        is_final=stages.is_final,
    )


def _pipeline_verdict(stages: Stages, results: Mapping[str, TrainingResult]) -> str:
    if stages.shortlist is not None:
        return shortlist_verdict(stages.shortlist)
    if stages.cells is not None:
        return unfinished_verdict("running", len(stages.cells))
    tests = {name: result.test for name, result in results.items()}
    distilled, alone = tests.get("distilled"), tests.get("student alone")
    if distilled is not None and alone is not None:
        gain = distilled.accuracy - alone.accuracy
        return (
            f"{short_name(results['distilled'].student.name)} reaches {distilled.accuracy:.2f} % distilled and "
            f"{alone.accuracy:.2f} % alone: {gain:+.2f} points, of one seed each, which is no interval; --finalists "
            "with --verdict_seeds gives one."
        )
    if results:
        return training_verdict(list(results.values())[-1])
    if stages.study is not None:
        return f"The search has {format_count(len(stages.study), 'evaluation')}; the student is not trained yet."
    return "No stage has begun that could be shown."


def _pipeline_facts(stages: Stages) -> dict[str, str]:
    facts: dict[str, str] = {}
    if stages.shortlist is not None:
        facts |= shortlist_facts(stages.shortlist)
    if stages.trained is not None:
        own = training_facts(stages.trained[1])
        kept = (
            "student",
            "test accuracy",
            "teacher's accuracy",
            "latency of what ships",
            "params",
            "MACs",
            "size",
            "data",
        )
        facts |= {name: own[name] for name in kept if name in own and not (name == "student" and facts)}
        if stages.shortlist is not None and "test accuracy" in facts:
            facts["test accuracy, distilled, of the seed that ships"] = facts.pop("test accuracy")
    if stages.study is not None and stages.study.best(1):
        own = search_facts(stages.study)
        facts |= {name: own[name] for name in ("budget", "tried", "failed") if name in own}
    return facts


def _data(stages: Stages, results: Mapping[str, TrainingResult]) -> Json:
    return {
        "shortlist": None if stages.shortlist is None else stages.shortlist.to_json(),
        "trainings": {name: result.to_json() for name, result in results.items()},
    }
