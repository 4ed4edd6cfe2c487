"""Reports of a training: progress and tables in a terminal, curves for TensorBoard, CSV, pictures."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ..distillation.base import get_distiller, list_distillers
from ..runtime.run_folder import csv_line, finite_only
from .style import format_count, human_number

Row = Mapping[str, Any]
"""The facts of one epoch: `epoch` from 1, `step` (optimiser steps done), `lr`, `loss`, `loss/NAME` of each weighted
term, `train_accuracy` and `val_accuracy` in percent, `val_loss`, `images_per_second` and `seconds`. Optional:
`val_class_accuracy`, a list of percentages with None for a class without images, and `confident`, the percentage of
unlabelled images that FixMatch learns from."""


TENSORBOARD_TAGS = {
    "loss": "loss/total",
    "lr": "lr",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "val_loss": "loss/val",
    "images_per_second": "images_per_second",
    "confident": "confident/unlabelled",
}
"""Names of the columns in TensorBoard; a term of the loss keeps its name."""


MAX_CLASSES = 100
"""Most classes that get curves and bars of their own; more could not be told apart."""


_MAX_TRAININGS_IN_COLUMNS = 3
"""Most trainings that are compared in columns; if there are more, each gets a row."""


Result = Mapping[str, Any]
"""The content of `result.json`; facts that are not known, or not yet, are None or missing."""


def class_names_of(classes: Sequence[str], count: int) -> Sequence[str]:
    """Names of the classes; their numbers if names are missing or not unique."""
    return classes if len(classes) == len(set(classes)) == count else [str(place) for place in range(count)]


def metrics_csv(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of `metrics.csv`: a row for each epoch, without lists; values that are not finite are empty.

    Args:
        rows: Rows of the epochs, in order.

    Example:
        >>> "".join(metrics_csv([{"epoch": 1, "loss": 2.5}])).split()
        ['epoch,loss', '1,2.5']
    """
    lists = {name for row in rows for name, value in row.items() if isinstance(value, (list, tuple))}
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in lists))
    yield csv_line(columns)
    for row in rows:
        values = finite_only(row)
        yield csv_line([values.get(name) for name in columns])


# -- tables -------------------------------------------------------------------------------------


def format_training(result: Result) -> Table:
    """Format a training: student, teacher or sources, labels, loss, accuracies, calibration, agreement, cost, time.

    Args:
        result: The content of `result.json`.
    """
    table = Table(title=Text(training_title(result)), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in _facts(result).items():
        if fact:
            table.add_row(name, fact if isinstance(fact, Table) else Text(fact))
    return table


def describe_training(result: Result, path: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Describe a training in lines: its end, the epoch of its numbers, and Python that loads the student.

    Args:
        result: The content of `result.json`.
        path: The run folder; None without one.
    """
    complete = result["status"] == "complete"
    if not complete:
        done = f"{_epochs(result)} done, {format_count(result['steps'], 'step')}"
        yield f"interrupted or running: {done}; the same command continues"
    if (teacher := result.get("teacher")) and teacher.get("trained") is False:
        yield f"the teacher {teacher['name']} has random weights: it was neither trained nor given a checkpoint"
    if reason := (result.get("sources") or {}).get("fallback"):
        yield f"{reason}; the student was trained on its labels alone"
    if test := result.get("test"):
        chosen = _RULE_WORDS[result["rule"]]
        yield f"the student is that of epoch {test['epoch']}, {chosen}; it was tested after it was chosen"
        yield (
            f"one of {test['samples']:,} test images is {100 / test['samples']:.2g} points of accuracy, and another "
            f"draw of as many would move it by about {_standard_error(test):.2g}"
        )
    if path is not None:
        yield f"run folder: {path}"
    if path is not None and complete:
        yield "to load the student in Python:"
        yield f"import diswot_search; model = diswot_search.load_student({str(path)!r})"


_RULE_WORDS = {"last": "the last", "best": "the best on validation images"}
"""Description of the epoch that a rule chooses, by rule."""


def compare_trainings(results: Mapping[str, Result]) -> Table:
    """Format trainings side by side, each number with its difference from the first training.

    Args:
        results: The content of `result.json` by name of the training, such as "student alone" and "distilled".

    Raises:
        ValueError: There are no trainings.
    """
    if not results:
        raise ValueError("There are no trainings to compare; give the results of at least one.")
    facts = {name: [value(result) for result in results.values()] for name, value in _COMPARED_FACTS.items()}
    stated = {name: [value or "-" for value in values] for name, values in facts.items() if any(values)}
    return (_in_columns if len(results) <= _MAX_TRAININGS_IN_COLUMNS else _in_rows)(results, stated)


def _in_columns(results: Mapping[str, Result], facts: Mapping[str, Sequence[str]]) -> Table:
    """A column for each training."""
    table = _comparison(_explain_comparison(results))
    table.add_column(no_wrap=True)
    for name in results:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, values in facts.items():
        table.add_row(name, *map(Text, values))
    table.add_section()
    for name in _COMPARED_NUMBERS:
        if cells := _compared(name, results):
            table.add_row(name, *map(Text, cells), style="bold" if name == "test accuracy" else "")
    return table


def _in_rows(results: Mapping[str, Result], facts: Mapping[str, Sequence[str]]) -> Table:
    """A row for each training, with its main facts and numbers; facts that all share are in the caption."""
    alike = [f"{name} {values[0]}" for name, values in facts.items() if len(set(values)) == 1]
    table = _comparison([*([f"all: {', '.join(alike)}"] if alike else []), *_explain_comparison(results)])
    table.add_column(overflow="fold")
    columns = [[Text(name) for name in results]]
    for name, values in facts.items():
        if len(set(values)) > 1:
            table.add_column(name, overflow="fold")
            columns.append([Text(value) for value in values])
    for name in ("test accuracy", "test loss"):
        if cells := _compared(name, results, differences=name == "test accuracy"):
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
            columns.append([Text(cell) for cell in cells])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _comparison(explanations: Iterable[str]) -> Table:
    return Table(caption=Text("\n".join(explanations), style="dim"), caption_justify="left")


def _compared(name: str, results: Mapping[str, Result], *, differences: bool = True) -> list[str]:
    """A number of each training, with its difference from the first one; empty if no training has it."""
    group, key, unit, digits = _COMPARED_NUMBERS[name]
    values = [_number(result, group, key) for result in results.values()]
    if all(value is None for value in values):
        return []
    return [
        _with_difference(value, values[0] if place and differences else None, unit, digits)
        for place, value in enumerate(values)
    ]


_COMPARED_FACTS: dict[str, Callable[[Result], str | None]] = {
    "student": lambda result: (result.get("student") or {}).get("name"),
    "teacher": lambda result: " and ".join(_teachers(result)),
    "labels": lambda result: _labelled(result),
    "loss": lambda result: " + ".join(_loss(result)),
    "epochs": lambda result: f"{result['epochs']:,}",
}
"""Facts above the numbers of a comparison, by name."""


_COMPARED_NUMBERS = {
    "test accuracy": ("test", "accuracy", " %", 2),
    "test accuracy, top 5": ("test", "top5", " %", 2),
    "test loss": ("test", "nll", "", 4),
    "calibration error": ("test", "calibration_error", " %", 2),
    "agreement with the teacher": ("agreement", "percent", " %", 2),
    "best validation accuracy": ("best", "val_accuracy", " %", 2),
    "seconds": ("timing", "seconds", "", 1),
}
"""Numbers of a comparison by name: group and key in a result, unit and decimal places."""


def format_distillers(pattern: str = "*") -> Table:
    """Format the distillers by name: features they read, usual weights of distiller and cross entropy, description.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No distiller matches the pattern; the message gives near names.
    """
    table = Table("name", "reads", title="Distillers")
    table.add_column("weight", justify="right")
    table.add_column("of cross entropy", justify="right")
    table.add_column("what it is")
    for name in list_distillers(pattern):
        distiller = get_distiller(name)
        summary = (inspect.getdoc(distiller) or "").partition("\n")[0]
        table.add_row(
            name, ", ".join(distiller.reads), f"{distiller.weight:g}", f"{distiller.ce_weight:g}", Text(summary)
        )
    return table


def training_title(result: Result) -> str:
    student = (result.get("student") or {}).get("name", "training")
    teachers = " and ".join(_teachers(result))
    with_what = f"under {teachers}" if teachers else "with FixMatch" if _uses_fixmatch(result) else "alone"
    status = "" if result["status"] == "complete" else ", unfinished"
    return f"{student} {with_what}: {_epochs(result)}{status}"


def _teachers(result: Result) -> list[str]:
    """Short names of the teacher and the sources that the student learns from."""
    teacher, sources = result.get("teacher") or {}, result.get("sources") or {}
    models = sources.get("models") or ()
    unused = sources.get("fallback") or sources.get("lam") == 1
    used = [] if unused else [model["name"] for model in models if model.get("weight")]
    names = [teacher["name"]] if teacher else []
    if len(used) == 1:
        names.append(used[0] if len(models) == 1 else f"{used[0]}, one of {len(models)} sources")
    elif used:
        names.append(f"{len(used)} sources ({_weighting(sources)})")
    return names


def _weighting(sources: Mapping[str, Any]) -> str:
    """The rule that weights the sources, in a few words."""
    weighting = sources.get("weighting")
    return weighting if isinstance(weighting, str) else "weights by hand"


def _uses_fixmatch(result: Result) -> bool:
    return result.get("unlabelled") == "fixmatch"


def _epochs(result: Result) -> str:
    """Number of finished epochs, with the planned number if it differs."""
    planned = result.get("planned_epochs", result["epochs"])
    of = "" if planned == result["epochs"] else f"{result['epochs']} of "
    return of + format_count(planned, "epoch")


def _facts(result: Result) -> dict[str, str | Table]:
    """Cells of the table by heading; empty if not known."""
    sources = result.get("sources") or {}
    part = {name: result.get(name) or {} for name in ("student", "teacher", "test", "agreement", "last", "best")}
    test, agreement = part["test"], part["agreement"]
    chosen = f"{format_count(test['samples'], 'image')}, epoch {test['epoch']}" if test else ""
    return {
        "student": _network(part["student"]),
        "teacher": _network(part["teacher"]),
        "data": result.get("data") or "",
        "labels": _labels(result),
        "sources": _sources_table(sources) if sources.get("models") else "",
        "  their weights": explain_weights(sources) if sources.get("models") else "",
        "loss": " + ".join(_loss(result)),
        "confident images": _format(
            part["last"].get("confident"), ".2f", " % of the unlabelled ones in the last epoch"
        ),
        "test accuracy": f"{test['accuracy']:.2f} % of {chosen}" if test else "",
        "  among the first five": _format(test.get("top5"), ".2f", " %"),
        "  of the teacher": _format(part["teacher"].get("accuracy"), ".2f", " %"),
        "validation accuracy": ", ".join(
            f"{name} {part[name]['val_accuracy']:.2f} % (epoch {part[name]['epoch']})"
            for name in ("last", "best")
            if part[name].get("val_accuracy") is not None
        ),
        "test loss": _format(test.get("nll"), ".4f", " nats"),
        "calibration error": _format(test.get("calibration_error"), ".2f", " %"),
        "agreement with the teacher": _format(agreement.get("percent"), ".2f", " % of test images"),
        "divergence from the teacher": _format(agreement.get("divergence"), ".4f", " nats"),
        "training": _work(result),
        "seed": _format(result.get("seed"), "d", ""),
    }


def _network(facts: Mapping[str, Any]) -> str:
    """Name and cost of a network, without facts that are not known."""
    parts = [
        facts.get("name", ""),
        f"{human_number(facts['params'])} parameters" if facts.get("params") else "",
        f"{human_number(facts['macs'])} MACs" if facts.get("macs") else "",
        _format(facts.get("latency_ms"), ".2f", " ms"),
    ]
    return ", ".join(filter(None, parts))


def _labels(result: Result) -> str:
    """Numbers of labelled images and classes; empty if all images are labelled."""
    labels = result.get("labels")
    if not labels:
        return ""
    validation = f", and all {labels['validation']:,} to validate on" if labels.get("validation") else ""
    return f"{_labelled(result)} images are labelled{validation}, {format_count(labels['classes'], 'class')}"


def _labelled(result: Result) -> str:
    labels = result.get("labels")
    return f"{labels['labelled']:,} of {labels['images']:,}" if labels else ""


def _sources_table(sources: Mapping[str, Any]) -> Table:
    """The sources by falling weight: similarity, weight, and last loss of the student against each."""
    measured = any(model.get("similarity") is not None for model in sources["models"])
    heading = f"similarity ({sources['measure']})" if measured and sources.get("measure") else "similarity"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", overflow="fold")
    for column in (heading, "weight", "last loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in sorted(sources["models"], key=lambda model: (-format_weight(model), -_similarity(model))):
        spread = f" ± {model['std']:.2g}" if model.get("std") is not None else ""
        similarity, loss = _format(model.get("similarity"), ".3g", spread), _format(model.get("loss"), ".4f", "")
        table.add_row(Text(model["name"]), similarity or "-", _short_weight(format_weight(model)), loss or "-")
    return table


def explain_weights(sources: Mapping[str, Any]) -> str:
    """The rule that weights the sources, and the views of the images that they see."""
    power = sources.get("power")
    parts = [
        _weighting(sources),
        f"power {float(power):g}" if power is not None and sources.get("weighting") == "weighted" else "",
        f"{sources['view']} views" if sources.get("view") else "",
        "not used" if sources.get("fallback") else "",
    ]
    return ", ".join(filter(None, parts))


def format_weight(model: Mapping[str, Any]) -> float:
    return float(model.get("weight") or 0.0)


def _similarity(model: Mapping[str, Any]) -> float:
    """The similarity of a source; minus infinity if not known."""
    similarity = model.get("similarity")
    return -math.inf if similarity is None else float(similarity)


def _short_weight(weight: float) -> str:
    return "0" if not weight else "< 0.001" if weight < 0.001 else f"{weight:.3f}"


def _loss(result: Result) -> list[str]:
    """The weighted terms of the loss."""
    weights = {"cross entropy": result.get("ce_weight", 1.0), **(result.get("distillers") or {})}
    sources = result.get("sources") or {}
    if sources and not sources.get("fallback"):
        weights["sources"] = round(1 - sources.get("lam", 0.0), 12)  # 1 - 0.8 is not 0.2
    if _uses_fixmatch(result):
        weights["FixMatch"] = 1
    return [name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items() if weight]


def _work(result: Result) -> str:
    """Steps, time and speed of a training, and its hardware."""
    timing = result.get("timing") or {}
    parts = [
        format_count(result["steps"], "step"),
        f"batch {timing['batch_size']}" if timing.get("batch_size") else "",
        _format(timing.get("seconds"), ",.1f", " s"),
        _format(timing.get("images_per_second"), ",.0f", " images/s"),
        str(timing.get("device") or ""),
        format_count(timing["processes"], "process") if timing.get("processes", 1) > 1 else "",
        format_count(timing["threads"], "thread") if timing.get("threads") else "",
        str(timing.get("precision") or ""),
    ]
    return ", ".join(filter(None, parts))


def _explain_comparison(results: Mapping[str, Result]) -> Iterator[str]:
    first, *others = results
    if others:
        yield f"in brackets: difference from {first}, of percentages in points"
    tests = [result["test"] for result in results.values() if result.get("test")]
    if tests:
        largest = max(map(_standard_error, tests))
        yield f"another draw of as many test images would move an accuracy by about {largest:.2g} points"


def _standard_error(test: Mapping[str, Any]) -> float:
    """Standard error of an accuracy in points; not zero even if every image is right.

    Source: Agresti and Coull, "Approximate is better than exact for interval estimation of binomial proportions", 1998,
    with two successes and two failures added.
    """
    samples = test["samples"] + 4
    share = (test["accuracy"] / 100 * test["samples"] + 2) / samples
    return 100 * math.sqrt(share * (1 - share) / samples)


def _number(result: Result, group: str, key: str) -> float | None:
    value = (result.get(group) or {}).get(key)
    return None if value is None else float(value)


def _with_difference(value: float | None, reference: float | None, unit: str, digits: int) -> str:
    if value is None:
        return "-"
    difference = "" if reference is None else f" ({value - reference:+.{digits}f})"
    return f"{value:,.{digits}f}{unit}{difference}"


def _format(value: float | None, how: str, unit: str) -> str:
    return "" if value is None else f"{value:{how}}{unit}"
