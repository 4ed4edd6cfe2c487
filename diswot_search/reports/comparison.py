"""Reports of a comparison: a table in a terminal, CSV, JSON, Markdown, and pictures.

Every report is a function of a `ScoreTable` and of the results that `summarise` makes of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search_spaces.names import short_name

from ..comparison.results import Estimate, ProxyResult, ScoreTable, correlation_matrix
from ..runtime.files import finite_only
from .style import describe_workers, format_count

STATISTICS: dict[str, Callable[[ProxyResult], Estimate]] = {
    "Spearman": lambda result: result.spearman,
    "Kendall": lambda result: result.kendall,
    "Pearson": lambda result: result.pearson,
    "best\n10 %": lambda result: result.best_decile["spearman"],
    "in\nbins": lambda result: result.within_bins["spearman"],
    "given\nparams": lambda result: result.partial_spearman,
    "top\nk": lambda result: result.precision,
    "regret": lambda result: result.regret,
}
"""The statistics of a table, by column heading."""


PASS_NAMES = {
    "cost": "counting",
    "model": "building",
    "forward_pass": "forward",
    "code_gram": "activation codes",
    "sign_patterns": "activation codes",
    "backward_pass": "backward",
    "hessian_gradients": "double backward",
    "input_jacobian": "backward to the images",
    "block_gradients": "backward through each block",
    "block_gains": "backward through each block",
    "half_gradients": "forward and backward on each half of the batch",
    "ntk": "per-sample gradients",
    "fisher_information": "gradients of each class",
    "subsample": "forward and backward of the first images",
    "first_block_spectra": "forward of the first images",
}
"""Names in the legend of the readings that take time, in the order in which they run."""


# -- tables -------------------------------------------------------------------------------------


_MAX_LEGEND_REASONS = 3
"""Most reasons for failure that a legend lists; the CSV and JSON files list all."""


def format_comparison(table: ScoreTable, results: Sequence[ProxyResult]) -> Table:
    """Format the results for a terminal of 120 columns: the best Spearman first, each proxy's controls below it.

    A legend below the table explains the columns, the comparison, the times and the failures. Numbers are followed by
    their standard deviation if there are several seeds.

    Args:
        table: The scores of the comparison.
        results: The results of `summarise` for that table.
    """
    spread = len(table.seeds) > 1
    output = Table(
        title=Text(series_title(table)),
        caption=Text("\n".join(describe_comparison(table, results)), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0 if spread else 1, 0, 0),
        pad_edge=False,
    )
    headings = _headings()
    output.add_column(headings[0], overflow="fold", min_width=12)
    for heading in headings[1:]:
        output.add_column(heading, justify="right", no_wrap=True)
    for result in arrange_results(results):
        name = Text(result.label) if result.control is None else Padding(Text(result.control), (0, 0, 0, 2))
        cells = _cells(result, digits=2 if spread else 3, spread=spread)
        output.add_row(name, *map(Text, cells), style="dim" if result.control else "")
    return output


def to_text(table: ScoreTable, results: Sequence[ProxyResult], width: int = 120) -> str:
    """The table of `format_comparison` as plain text, wrapped at a width in characters."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(format_comparison(table, results))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def to_markdown(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as a Markdown table with its legend: the best Spearman first, each proxy's controls below it."""
    headings = [heading.replace("\n", " ") for heading in _headings()]
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for result in arrange_results(results):
        name = _code(result.label) if result.control is None else f"↳ {_escape(result.control)}"
        rows.append([name, *_cells(result, digits=3, spread=len(table.seeds) > 1, to=" to ")])
    lines = [f"**{_escape(series_title(table))}**", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += [f"- {_escape(line)}" for line in describe_comparison(table, results)]
    return "\n".join(lines) + "\n"


def to_csv(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as CSV, one row for each and one column for each number; undefined numbers are empty.

    The columns of a statistic end in `_std`, `_low` and `_high`. Columns of a bin begin with `bins_1_`, those of a
    budget with `regrets_1_`. Every row names the comparison, so that files of several comparisons can be joined.
    """
    rows = [_compared(table) | _flatten(_countable(asdict(result))) for result in results]
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite_only(row) for row in rows)
    return text.getvalue()


def to_json(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as JSON, with the facts of the comparison and the correlations between scores; NaN becomes null."""
    labels, correlations = correlation_matrix(table)
    content = _compared(table) | {
        "seeds": table.seeds,
        "left_out": table.left_out,
        "workers": _worker_counts(table),
        "results": [asdict(result) for result in results],
        "correlations": {"labels": labels, "spearman": correlations.tolist()},
    }
    return json.dumps(finite_only(content), indent=2, allow_nan=False) + "\n"


def describe_comparison(table: ScoreTable, results: Sequence[ProxyResult]) -> Iterator[str]:
    """The lines of the legend: the comparison, the columns, the contents of the times, ties, failures."""
    yield (
        f"compared: {format_count(len(table.architectures), 'architecture')} of {table.space} by column {table.column} "
        f"of {_file_name(table)}; {format_count(len(table.seeds), 'seed')} ({', '.join(map(str, table.seeds))}); "
        f"probe {table.probe}; teacher {table.teacher or 'none'}"
    )
    if table.left_out:
        yield f"left out: {', '.join(f'{_one_line(reason)} {count:,}' for reason, count in table.left_out.items())}"
    yield (
        "Spearman, Kendall, Pearson: correlation with accuracy, sign as it is; 95 %: bootstrap interval of Spearman "
        "over architectures" + ("; ±: standard deviation over seeds" if len(table.seeds) > 1 else "")
    )
    yield (
        "Spearman also: best 10 %: among the most accurate tenth; in bins: mean over bins of similar parameters; "
        "given params: with their ranks regressed out"
    )
    top_k, budgets = results[0].top_k, len(results[0].regrets)
    yield (
        f"top k: share of the k most accurate that are among the k with the highest scores, k = {top_k:,}; regret: "
        f"points of accuracy lost by trusting the score, mean over {format_count(budgets, 'parameter budget')}"
    )
    on = f"; {table.conditions}" if table.conditions else ""
    yield (
        "time: per architecture, median, of building, the passes that the proxy touches and its own work (an "
        "aggregate: sum of its members), all computed together, where a shared pass takes somewhat longer than one "
        f"alone{on}"
    )
    for passes, labels in _group(without_controls(results), _passes).items():
        yield f"time includes {passes}: {labels}"
    yield "scored: share of architectures and seeds that have a score, in %; failures rank below all scores"
    pairs = len(table.architectures) * len(table.seeds)
    yield from describe_workers(_worker_counts(table), pairs, "comparison", did="scored", noun="network")
    for ties, labels in _group(results, lambda result: result.ties or "").items():
        yield f"hardly tells architectures apart, being {ties}: {labels}"
    for reasons, labels in _group(results, _reasons).items():
        yield f"failed, {reasons}: {labels}"


def arrange_results(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    """Sort results by falling Spearman correlation, undefined ones last, each proxy's controls below it."""
    own = {result.label: (place, result.spearman.value) for place, result in enumerate(results)}

    def key(result: ProxyResult) -> tuple[float, int, bool, int]:
        place, value = own.get(result.proxy, own[result.label])
        return (math.inf if math.isnan(value) else -value), place, result.control is not None, own[result.label][0]

    return sorted(results, key=key)


def _headings() -> list[str]:
    first, *others = STATISTICS
    return ["proxy", first, "95 %", *others, "time", "scored"]


def _cells(result: ProxyResult, *, digits: int, spread: bool, to: str = " ") -> list[str]:
    """The cells of a row except its name; `to` separates the ends of an interval."""
    estimates = {heading: statistic(result) for heading, statistic in STATISTICS.items()}
    cells = []
    for heading, estimate in estimates.items():
        places = 2 if heading == "regret" else digits
        cells.append(format_number(estimate.value, places))
        if spread and not math.isnan(estimate.value):
            cells[-1] += f"±{format_number(estimate.std, places)}"
    interval = to.join(format_number(end, digits) for end in (result.spearman.low, result.spearman.high))
    cells.insert(1, "" if math.isnan(result.spearman.low) else interval)
    return [*cells, _seconds(result.seconds), f"{math.floor(1000 * result.scored) / 10:g}"]


def format_number(value: float, digits: int) -> str:
    """A number without the zero before its point: .762, -.031, 12.01; a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # adding zero turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _seconds(value: float) -> str:
    """A time with two digits, in seconds or milliseconds."""
    if math.isnan(value):
        return "-"
    if value >= 0.9995:
        return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"
    milliseconds = 1000 * value
    if milliseconds < 0.01:
        return "<.01 ms"
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{format_number(milliseconds, 2)} ms"


def _group(results: Sequence[ProxyResult], text_of: Callable[[ProxyResult], str]) -> dict[str, str]:
    """Labels of the results by a text that they share; results with an empty text are left out."""
    groups: dict[str, list[str]] = {}
    for result in results:
        groups.setdefault(text_of(result), []).append(result.label)
    return {text: ", ".join(labels) for text, labels in groups.items() if text}


def _passes(result: ProxyResult) -> str:
    return " + ".join(dict.fromkeys(name for reading, name in PASS_NAMES.items() if reading in result.passes))


def _reasons(result: ProxyResult) -> str:
    """The most frequent reasons for failure, and the number of other failures.

    The others are counted together, since a message can hold a different number each time.
    """
    most_frequent = sorted(result.failures.items(), key=lambda pair: -pair[1])
    listed = [f"{_one_line(reason)} ({count:,})" for reason, count in most_frequent[:_MAX_LEGEND_REASONS]]
    others = sum(count for _, count in most_frequent[_MAX_LEGEND_REASONS:])
    return ", ".join(listed) + (f" and {others:,} for other reasons" if others else "")


def _worker_counts(table: ScoreTable) -> dict[str, int]:
    """Number of networks that each worker scored, by its name; each seed makes a network of an architecture."""
    return dict(Counter(name for names in table.workers.values() for name in names))


def _compared(table: ScoreTable) -> dict[str, object]:
    """The facts of the comparison that every row of a file repeats."""
    names = {name: getattr(table, name) for name in ("table", "column", "space", "teacher", "probe", "conditions")}
    return names | {"architectures": len(table.architectures), "seeds": len(table.seeds)}


def _countable(values: dict[str, Any]) -> dict[str, object]:
    """A result with its lists of texts as one text each: passes joined, failures as JSON."""
    failures = values["failures"]
    return values | {
        "passes": " + ".join(values["passes"]),
        "failures": json.dumps(failures) if failures else "",
        "failed": sum(failures.values()),
    }


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings and lists as one mapping; the value of an estimate takes the name of the estimate."""
    if isinstance(value, (list, tuple)):
        value = {str(place): item for place, item in enumerate(value, start=1)}
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flatten(item, "_".join(part for part in (prefix, "" if key == "value" else key) if part))
    return flat


def series_title(table: ScoreTable) -> str:
    parts = [format_count(len(table.architectures), "architecture"), format_count(len(table.seeds), "seed")]
    parts += [f"teacher {short_name(table.teacher)}"] if table.teacher else []
    return f"{_file_name(table)}, {table.column}: {', '.join(parts)}"


def _file_name(table: ScoreTable) -> str:
    """The table's name; the last part of a path, since its folders mean nothing to other people."""
    return PurePath(table.table).name


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    return f"`{_one_line(text).replace('`', chr(39))}`".replace("|", "\\|")


def _escape(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    return "".join(f"\\{letter}" if letter in r"\`*_<>|[]~" else letter for letter in _one_line(text))


def without_controls(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    return [result for result in results if result.control is None]
