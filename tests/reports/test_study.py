"""Tables, progress, curves and pictures: that they show what the study says."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diswot_search import Budget, Record, Study, format_table, plot_search
from diswot_search.proxies.registry import get_proxy
from diswot_search.proxies.ties import describe_ties
from diswot_search.reports.progress import Curves, SearchProgress
from diswot_search.reports.study import describe_study, format_parts, plot_front, plot_progress
from diswot_search.reports.style import human_number
from diswot_search.study.cost_kinds import StoredCost
from diswot_search.study.study import NoScoreError
from search_spaces import create_space

SPACE = create_space("cifar_resnet_s0")
SCORES = (2.0, None, 1.0, 3.0, 2.5, 0.5)
PARAMS = (2_000_000, 9, 1_000_000, 4_000_000, 3_000_000, 5_000_000)


def make_study(latency: bool = False, **config: Any) -> Study:
    study = Study({"space": SPACE.config(), "proxy": "relation", "teacher": {"name": "cifar_resnet20"}} | config)
    for index, (architecture, score, params) in enumerate(zip(SPACE, SCORES, PARAMS, strict=False)):
        study.add(
            [
                Record(
                    index=index,
                    architecture=str(architecture),
                    canonical=str(architecture),
                    params=params,
                    macs=1234 * params,
                    latency_ms=1.5 + index if latency else None,
                    status="failed" if score is None else "ok",
                    reason="RuntimeError: no" if score is None else None,
                    score=score,
                    seconds=0.25,
                )
            ]
        )
    return study


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


# -- tables -------------------------------------------------------------------------------------


def test_the_table_ranks_the_best() -> None:
    lines = [line for line in shown(format_table(make_study(), 3)).splitlines() if " │ " in line]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert cells == [
        ["1", "3", "4 M", "4.936 G", "1-1-7"],
        ["2", "2.5", "3 M", "3.702 G", "1-3-1"],
        ["3", "2", "2 M", "2.468 G", "1-1-1"],
    ]


def test_scores_that_hardly_tell_candidates_apart_are_said() -> None:
    study = make_study(proxy="effective_capacity", budget={}, evaluations=12)
    assert study.ties == {}
    for index in (9, 10, 11):
        record = replace(study.winner.record, index=index, architecture=f"7-7-{index}", canonical=f"7-7-{index}")
        study.add([replace(record, score=3.0, score_std=0.0, parts={"gradient_flow": 0.0, "other": float(index)})])
    assert study.ties == {
        "effective_capacity": "3 for all 3 candidates",
        "gradient_flow": "0 for all 3 candidates",
    }
    counts = [78_561_536.0, 78_561_536.0, 2.5]
    assert describe_ties(counts) == "78,561,536, the highest, for 2 of 3 scores"
    lines = [line for line in describe_study(study) if "apart" in line]
    assert "hardly tells the candidates apart: gradient_flow, which is 0 for all 3 candidates" in lines


def test_a_space_without_others_is_told_from_a_budget_without_others() -> None:
    for budget, place in (({}, "in the space"), ({"max_params": 1e6}, "within the budget")):
        study = make_study(proxy="effective_capacity", budget=budget, evaluations=100)
        study.finish("complete")
        assert any(line.startswith(f"no other architectures {place}: ") for line in describe_study(study))


def test_the_parts_of_scores_fit_a_terminal() -> None:
    study = make_study(proxy="effective_capacity")
    parts = [component.name for component in get_proxy("effective_capacity").components]
    assert list(format_parts(study)) == []
    scored = {name: -10000 / (place + 3) for place, name in enumerate(parts)}
    record = replace(study.winner.record, index=9, architecture="7-7-7", canonical="7-7-7", score=4.0, parts=scored)
    study.add([record])
    (table,) = format_parts(study, 1)
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    names = next(line for line in lines if "rank" in line)
    assert [name.strip() for name in names.strip("┃").split("┃")] == ["rank", "score", *parts]
    values = next(line for line in lines if " │ " in line)
    shown_values = [cell.strip() for cell in values.strip("│").split("│")]
    assert shown_values == ["1", "4", *(f"{value:.5g}" for value in scored.values())]


def test_the_table_has_latency_where_it_is_known() -> None:
    assert "4.50 ms" in shown(format_table(make_study(latency=True), 1))
    assert "latency" not in shown(format_table(make_study(), 1))


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (999, "999"), (73306, "73.31 k"), (1.531546e6, "1.532 M"), (4.1e9, "4.1 G")]
)
def test_numbers_are_easy_to_read(value: float, text: str) -> None:
    assert human_number(value) == text


# -- progress -----------------------------------------------------------------------------------


def progress_of(**console: Any) -> tuple[str, SearchProgress]:
    output = io.StringIO()
    with SearchProgress(8, console=Console(file=output, width=120, **console)) as progress:
        for index, record in enumerate(make_study().records):
            progress.add(record, replayed=index < 2)
    return output.getvalue(), progress


def test_progress_outside_a_terminal_is_a_line_for_many_candidates_or_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, last = progress_of()[0].splitlines()  # of few candidates, in no time, the beginning and the end
    assert first == "searching  8 candidates to score"
    assert last.split("  ")[:3] == ["searching", "6 of 8 candidates scored", "best 3"]
    monkeypatch.setattr(SearchProgress, "ITEMS_PER_LINE", 2)
    begins, *lines = progress_of()[0].splitlines()
    assert begins == first
    assert [line.split("  ")[:3] for line in lines] == [
        ["searching", "4 of 8 candidates scored", "best 3"],
        ["searching", "6 of 8 candidates scored", "best 3"],
    ]
    assert "candidates/s" in lines[0]
    monkeypatch.setattr(SearchProgress, "ITEMS_PER_LINE", 100)
    monkeypatch.setattr(SearchProgress, "SECONDS_PER_LINE", 0.0)
    assert len(progress_of()[0].splitlines()) == 7


def test_a_line_is_told_while_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    progress = SearchProgress(8, console=Console(file=output, width=120))
    progress.tried(20, 3)
    assert output.getvalue() == ""
    monkeypatch.setattr(SearchProgress, "SECONDS_PER_LINE", 0.0)
    progress.tried(1153, 32)
    line = "searching  0 of 8 candidates scored  1,153 architectures tried, 32 within the budget\n"
    assert output.getvalue() == line


def test_progress_shows_evaluations_best_speed_and_time_left() -> None:
    output, progress = progress_of(force_terminal=True)
    for part in ("6/8", "best 3", "candidates/s", "left"):
        assert part in output
    assert progress.state().startswith("best 3  ")


def test_progress_can_be_turned_off_in_a_terminal() -> None:
    output = io.StringIO()
    for is_terminal in (True, False):
        console = Console(file=output, force_terminal=is_terminal)
        with SearchProgress(8, enabled=False, console=console) as progress:
            progress.add(next(make_study().records), replayed=False)
            progress.refresh(is_due=True)
    assert output.getvalue() == ""


def test_what_is_replayed_says_nothing_of_the_speed() -> None:
    progress = SearchProgress(8, console=Console(file=io.StringIO()))
    for record in make_study().records:
        progress.add(record, replayed=True)
    assert progress.state() == "best 3  1 failed"


# -- curves -------------------------------------------------------------------------------------


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_have_every_step_once_however_often_they_are_written(tmp_path: Path) -> None:
    records = list(make_study(latency=True).records)
    for count in (2, 4, len(records)):
        with Curves(tmp_path / "curves") as curves:
            for record in records[:count]:
                curves.add(record)
    read = read_curves(tmp_path / "curves")
    assert read["score/evaluation"] == [(i, s) for i, s in enumerate(SCORES) if s is not None]
    assert read["score/best"] == [(0, 2.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]
    assert read["cost/params"] == list(enumerate(map(float, PARAMS)))
    assert read["cost/latency_ms"] == [(i, 1.5 + i) for i in range(6)]
    assert read["seconds per evaluation"] == [(i, 0.25) for i in range(6)]
    assert [step for step, _ in read["cost/macs"]] == list(range(6))


# -- pictures -----------------------------------------------------------------------------------


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def lines_of(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes_of(figure).lines}


def dots_of(figure: Figure) -> list[tuple[float, float]]:
    (dots,) = axes_of(figure).collections
    return [tuple(pair) for pair in dots.get_offsets().tolist()]


def test_the_picture_of_progress_shows_each_score_and_the_best_so_far() -> None:
    figure = plot_progress(make_study())
    scored = [(i, s) for i, s in enumerate(SCORES, start=1) if s is not None]
    places, scores = zip(*scored, strict=True)
    assert dots_of(figure) == scored
    assert lines_of(figure)["best so far"] == (list(places), list(itertools.accumulate(scores, max)))
    assert lines_of(figure)["winner"] == ([4], [3.0])
    assert axes_of(figure).get_xlabel() == "evaluations"
    assert axes_of(figure).get_ylabel() == "score (relation)"
    assert figure.get_suptitle() == "cifar_resnet_s0, teacher cifar_resnet20: 6 evaluations"


@pytest.mark.parametrize(
    ("reasons", "unstable"),
    [(("", ""), 0), (("the quickest rounds differ by 20%", ""), 1), (("", "other work slowed the memory by 9%"), 1)],
)
def test_the_winners_latency_is_told_with_its_median_and_unstable_ones_are_counted(
    reasons: tuple[str, str], unstable: int
) -> None:
    budget = Budget(max_latency_ms=9).to_dict()
    study = make_study(latency=True, budget=budget, evaluations=6)
    other = study.best(2)[1]
    for candidate, reason in zip((study.winner, other), reasons, strict=True):
        facts = {"instability": reason, "median_ms": 1.75}
        study.add_cost(candidate.record.architecture, StoredCost(latency_ms=1.5, details={"latency_ms": facts}))
    lines = [line for line in describe_study(study) if "latency: " in line and "budget" not in line]
    stability = f"unstable: {reasons[0]}" if reasons[0] else "stable"
    assert lines[0] == (
        f"winner's latency: 1.5 ms, that of the quickest pass; the median of its passes was 1.75 ms ({stability})"
    )
    counted = f"latency: {unstable} of 2 measurements are unstable, since the machine did something else"
    assert lines[1:] == [counted] * bool(unstable)


def test_a_score_that_grows_with_size_says_so_where_there_is_no_budget() -> None:
    config = {"budget": {"max_params": None}, "evaluations": 6}
    lines = [list(describe_study(make_study(proxy=name, **config))) for name in ("effective_capacity", "nwot")]
    assert "budget: none, and without one the largest candidates win" in lines[0]
    assert "budget: none" in lines[1]


def test_the_picture_of_the_front_shows_front_winner_and_budget() -> None:
    figure = plot_front(make_study(budget={"max_params": 4.5e6}))
    lines = lines_of(figure)
    assert lines["Pareto front"] == (pytest.approx([1, 2, 3, 4]), [1.0, 2.0, 2.5, 3.0])
    assert lines["winner"] == (pytest.approx([4]), [3.0])
    assert lines["budget"][0] == pytest.approx([4.5, 4.5])
    assert axes_of(figure).get_xlabel() == "parameters (million)"
    assert len(dots_of(figure)) == 5
    assert "budget" not in lines_of(plot_front(make_study()))


def test_the_front_is_drawn_against_the_objective_of_the_search() -> None:
    algorithm = {"name": "nsga2", "options": {"objectives": ["score", "latency_ms"]}}
    figure = plot_front(make_study(latency=True, algorithm=algorithm, budget={"max_latency_ms": 9}))
    assert axes_of(figure).get_xlabel() == "latency (ms)"
    assert lines_of(figure)["Pareto front"] == ([1.5, 4.5], [2.0, 3.0])
    assert lines_of(figure)["budget"][0] == [9, 9]


def test_pictures_are_written_as_png(tmp_path: Path) -> None:
    files = plot_search(make_study(), tmp_path / "new")
    assert sorted(path.name for path in files) == ["front.png", "progress.png"]
    for path in files:
        picture = imread(path)
        assert picture.shape == (630, 1050, 4)
        assert picture.std() > 0.01


def test_a_study_without_scores_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(NoScoreError, match="has a score"):
        plot_search(Study({"space": SPACE.config()}), tmp_path)


def test_tables_of_a_loaded_study_are_those_of_the_study(tmp_path: Path) -> None:
    study = Study(json.loads(json.dumps({"space": SPACE.config(), "evaluations": 6})), out=tmp_path / "run")
    study.add(list(make_study().records))
    study.release()
    assert shown(format_table(Study.load(tmp_path / "run"))) == shown(format_table(make_study()))
