"""Every picture with names of any length and any letters: nothing is cut or covered, and every axis has numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from diswot_search.reports.comparison_figures import COMPARISON_PICTURES
from diswot_search.reports.shortlist_figures import SHORTLIST_PICTURES, plot_finalists
from diswot_search.reports.sources import plot_ranking
from diswot_search.reports.study import FINALISTS, PICTURES, plot_front, plot_progress
from diswot_search.reports.style import axis_number, drawable, label_log_axis, new_figure, style_axes, to_png
from diswot_search.reports.training import training_title
from diswot_search.reports.training_figures import TRAINING_PICTURES
from diswot_search.resolve.shortlists import Shortlist, ShortlistCost, ShortlistRung, Verdict
from diswot_search.sources.ranking import Measured, SourceRanking
from diswot_search.study.finalists import Finalist, Trial
from diswot_search.study.records import Record
from diswot_search.study.study import Study
from search_spaces.names import full_name, short_name

from .test_comparison import make_table, summary
from .test_training import make_related, make_result, make_rows, make_sources

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|"
NAMES = {
    "architecture": f"nasbench201:{CELL}",
    "long": "verylongname" * 60,
    "odd": "_$\\frac{a}{b}$ <b>&amp; [bold]x[/bold] %s {x:g} ~|`* gr\u00fcn \u732b \U0001f600 \u202eabc \udcff\n\t\x00",
}


def studies(name: str) -> Iterator[tuple[str, Study]]:
    """A study of several evaluations with enormous scores and sizes, and one of a single evaluation."""
    config = {"space": {"name": name}, "proxy": name, "teacher": {"name": name}, "budget": {"max_params": 3 * 10**9}}
    for kind, count in (("many", 12), ("one", 1)):
        study = Study(config)
        for index in range(count):
            size = (index + 1) * 10**8
            record = Record(
                index=index, architecture=CELL, canonical=f"{CELL}{index}", params=size, macs=1000 * size,
                latency_ms=None, status="ok", reason=None, score=-3e8 + 4e7 * ((7 * index) % 12), seconds=0.1,
            )  # fmt: skip
            study.add([record])
        yield kind, study


def ranking(name: str) -> SourceRanking:
    names = [f"{name} {place}" for place in range(5)]
    rng = np.random.default_rng(0)

    def measured() -> dict[str, Measured]:
        values = {n: tuple(1e-6 * rng.normal(size=3)) for n in names}
        found = {n: Measured(v, v, v) for n, v in values.items()}
        return found | {names[0]: Measured(reason="none")}

    facts = {
        "sources": {n: {"trained_on": name, "classes": 3, "trained": True} for n in names},
        "target": {"name": f"folder/{name}"},
    }
    measures = ("parc", "leep", "h_score", "logme")

    class Facts(SourceRanking):
        names = property(lambda self: tuple(self.facts["sources"]))
        images = property(lambda self: (100,) * 3)

    nothing: Any = lambda *_: ()  # noqa: E731
    return Facts(measures, {m: measured() for m in measures}, facts, {}, None, nothing, nothing)


def shortlist(name: str, count: int) -> Shortlist:
    """A shortlist of three rungs, with baselines that have no score, and one finalist that failed."""

    def trial(place: int, rung: int, seed: int = 0) -> Trial:
        epochs = (1, 3, 20)[rung - 1]
        curve = tuple(50.0 + 30 * (epoch + 1) / epochs - place + seed for epoch in range(epochs))
        values = {"value": curve[-1], "val_accuracy": curve[-1], "curve": curve}
        return Trial(name=f"{name} {place} {rung}", kind="distilled", rung=rung, seed=seed, epochs=epochs, **values)

    finalists = []
    for place in range(1, count + 1):
        last = 3 if place <= 2 or place > count - 2 else 1 + place % 2
        trials = [trial(place, rung) for rung in range(1, last + 1)] + [trial(place, 3, 1)] * (place <= 2)
        is_baseline = place > count - 2
        finalists.append(
            Finalist(
                name=f"{name} {place}",
                place=place,
                origin="baseline" if is_baseline else "score",
                is_pick=place == 2,
                is_baseline=is_baseline,
                score=None if is_baseline and count > 3 else -3e8 + 1e7 * place,
                last_rung=last,
                trials=tuple(trials),
            )
        )
    failed = Trial(name="failed", kind="distilled", rung=1, seed=0, epochs=1, status="failed", reason=name)
    finalists.append(Finalist(name=f"{name} 0", place=count + 1, origin="nwot", reason=name, trials=(failed,)))
    shares = zip((0.05, 0.15, 1.0), (1, 3, 20), strict=True)
    return Shortlist(
        path=name, study=name, space=name, proxy=name, data=name, measure="accuracy", val_images=100, test_images=100,
        finalists=tuple(finalists), rungs=tuple(ShortlistRung(share=share, epochs=epochs) for share, epochs in shares),
        verdict=Verdict(student=name), cost=ShortlistCost(full_epochs=20, rungs=1, verdict=1, hours=1, trainings=1),
    )  # fmt: skip


def pictures(name: str) -> dict[str, Callable[[], Figure]]:
    """The functions that draw all pictures of the product, with this name wherever a name can be."""
    made: dict[str, Callable[[], Figure]] = {}
    for (kind, study), (file, plot) in itertools.product(studies(name), PICTURES.items()):
        if file != FINALISTS:
            made[f"study {kind} {file}"] = lambda study=study, plot=plot: plot(study)
    for kind, of_shortlist in (("few", shortlist(name, 3)), ("many", shortlist(name, 14))):
        for file, plot_of_shortlist in SHORTLIST_PICTURES.items():
            made[f"shortlist {kind} {file}"] = lambda plot=plot_of_shortlist, one=of_shortlist: plot(one)
        made[f"study {kind} {FINALISTS}"] = lambda one=of_shortlist: plot_finalists(one.finalists, name, f"in {name}")
    rows = make_rows(3, ce=0.25, **{name: 0.5, f"source {name} b": 0.3})
    models = [{**model, "name": f"{name} {place}"} for place, model in enumerate(make_sources()["models"])]
    sources = make_sources(models=models, fallback=None)
    facts: dict[str, Any] = {"student": {"name": name}, "classes": [f"{name} {place}" for place in range(10)]}
    results = {
        "teacher": make_result(**facts, teacher={"name": name, "accuracy": 90.0}, best_by="balanced_accuracy"),
        "sources": make_related(**facts, sources=sources),
    }
    for (kind, result), (file, plot_of) in itertools.product(results.items(), TRAINING_PICTURES.items()):
        if (file, kind) != ("weights.png", "teacher"):
            made[f"training {kind} {file}"] = lambda plot=plot_of, result=result: plot(rows, result)
    table = make_table(4, table=f"{name}.csv", column=name, teacher=name, space=name)
    labels = {label: label if label in ("params", "macs") else f"{name} {label}" for label in table.scores}
    changes = {
        kind: {labels[k]: v for k, v in getattr(table, kind).items()} for kind in ("scores", "seconds", "passes")
    }
    changes["scores"][labels["p1"]] = np.exp(9 * changes["scores"][labels["p1"]])  # crowded, and enormous
    renamed = make_table(
        4, table=f"{name}.csv", column=name, teacher=name, space=name, **changes,
        controls={labels["p0 (no teacher)"]: (labels["p0"], "no teacher")},
    )  # fmt: skip
    for file, compare in COMPARISON_PICTURES.items():
        made[f"comparison {file}"] = lambda compare=compare: compare(renamed, summary(renamed))
    made["ranking"] = lambda: plot_ranking(ranking(name))
    return made


def visible_labels(axis: Axis) -> list[str]:
    """The numbers or names of an axis within its range."""
    low, high = sorted(axis.get_view_interval())
    margin = 1e-9 * (high - low)
    ticks = axis.get_major_ticks()
    return [
        (tick.label1.get_text() or tick.label2.get_text())
        for tick in ticks
        if low - margin <= tick.get_loc() <= high + margin and (tick.label1.get_text() or tick.label2.get_text())
    ]


def check(figure: Figure) -> None:
    """Nothing is cut or covered, every axis has numbers, and none is raw."""
    figure.canvas.draw()
    page, hidden = figure.bbox, _ticks_out_of_sight(figure)
    assert figure.get_figheight() < 14
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible()):
        if not text.get_text() or (text.axes is not None and text in text.axes.texts and text.get_clip_on()):
            continue
        box = text.get_window_extent()
        if text in hidden:
            continue
        inside = page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1
        assert inside, (text.get_text(), box, page)
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_tightbbox()), "a legend covers an axis"
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert min(box.width, box.height) > (5 if axes.get_label() == "<colorbar>" else 25)
        for axis in (axes.xaxis, axes.yaxis):
            if any(label.get_visible() for label in axis.get_ticklabels()) and axes.has_data():
                assert visible_labels(axis), (axes.get_title(), axis.axis_name)
                assert not any(re.fullmatch(r"-?[\d.]+e[+-]?\d+", label) for label in visible_labels(axis))
            assert not axis.get_offset_text().get_text()
            labels = [text for text in axis.get_ticklabels() if text.get_text() and text not in hidden]
            boxes = [text.get_window_extent() for text in labels if text.get_visible()]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), labels


def _ticks_out_of_sight(figure: Figure) -> set[Text]:
    """Labels of ticks outside the range of their axis, which are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            out = [tick for tick in ticks if not low <= tick.get_loc() <= high or not tick.label1.get_visible()]
            hidden |= {label for tick in out for label in (tick.label1, tick.label2)}
            hidden |= {tick.label2 for tick in ticks}
    return hidden


KINDS = sorted(pictures("net"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_cuts_or_covers_anything(kind: str, name: str) -> None:
    figure = pictures(NAMES[name])[kind]()
    check(figure)
    assert to_png(figure)


def test_names_are_drawn_as_they_are() -> None:
    name = "$a$ _b_ <c> & \\d"
    figure = pictures(name)["training teacher loss.png"]()
    assert figure.get_suptitle().startswith(f"{name} under {name}")
    labels = [text for legend in figure.legends for text in legend.get_texts()]
    assert name in [text.get_text() for text in labels]
    assert not any(text.get_parse_math() for text in labels)


def test_names_with_an_underscore_in_front_are_in_the_legend() -> None:
    figures = [pictures("_name")[kind]() for kind in ("training teacher loss.png", "comparison regret.png")]
    for figure, count in zip(figures, (1, 4), strict=True):
        (legend,) = figure.legends
        assert len([text for text in legend.get_texts() if text.get_text().startswith(" _name")]) == count


@settings(max_examples=20)
@given(name=st.text(min_size=1, max_size=80))
def test_any_text_is_a_title(name: str) -> None:
    (_, study), _ = studies(name)
    check(plot_progress(study))


@given(text=st.text(st.characters(exclude_categories=())))
def test_what_is_drawn_has_no_letters_that_the_font_lacks(text: str) -> None:
    drawn = drawable(text)
    assert drawn.isprintable() or not drawn
    assert drawable(drawn) == drawn
    if text.isascii() and text.isprintable():
        assert drawn == text


# -- axes -----------------------------------------------------------------------------------------


def test_evaluations_are_whole_and_one_is_one() -> None:
    for count, (_, study) in zip((12, 1), studies("net"), strict=True):
        figure = plot_progress(study)
        figure.canvas.draw()
        assert all(re.fullmatch(r"\d+", label) for label in visible_labels(figure.axes[0].xaxis))
        assert figure.get_suptitle().endswith(f": {count} evaluation{'s' * (count > 1)}")


def test_a_budget_far_from_all_sizes_is_named_and_not_drawn() -> None:
    (_, study), _ = studies("net")
    study.config["budget"]["max_params"] = 10**12
    figure = plot_front(study)
    assert figure.axes[0].get_xlim()[1] < 2
    assert "budget 1 T, far right" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("limits", [(0.26, 0.45), (0.9, 1.1), (1e-12, 1e9), (1, 10), (3e-4, 2e-1), (999, 1001)])
def test_a_logarithmic_axis_has_numbers_in_every_range(limits: tuple[float, float]) -> None:
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    axes.plot(limits, limits)
    axes.set_yscale("log")
    label_log_axis(axes.yaxis)
    check(figure)
    labels = visible_labels(axes.yaxis)
    assert len(labels) == len(set(labels)) >= 2


@given(value=st.floats(allow_nan=False, allow_infinity=False), digits=st.integers(2, 10))
def test_a_number_on_an_axis_has_no_raw_exponent(value: float, digits: int) -> None:
    text = axis_number(value, digits)
    assert "e" not in text
    assert len(text) < 10 + digits


def test_numbers_close_to_each_other_are_told_apart() -> None:
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    axes.plot([0, 1], [100_000_000, 100_000_003])
    check(figure)
    labels = visible_labels(axes.yaxis)
    assert len(labels) == len(set(labels)) > 2


# -- short names ------------------------------------------------------------------------------------


def test_an_architecture_has_a_short_name_in_titles() -> None:
    name = full_name("nasbench201", CELL)
    assert re.fullmatch(r"nasbench201-[0-9a-f]{6}", short_name(name))
    title = training_title(make_result(student={"name": name}, teacher={"name": name}))
    assert title == f"{short_name(name)} under {short_name(name)}: 4 epochs"
