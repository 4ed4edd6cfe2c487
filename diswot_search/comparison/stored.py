"""A finished comparison, read from the files of its run folder."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.files import RunFolderError, read_json
from ..runtime.typed_json import JsonError, decode
from .results import BinResult, BudgetRegret, Estimate, ProxyResult, ScoreTable

SCORES, RESULTS = "scores.csv", "comparison.json"
"""Files of a comparison's run folder: all scores, and the results."""

_REPAIR = "The same comparison writes it again from its store."

_FIRST = ("params", "macs", "seed")
"""Columns of the scores between the accuracy and the proxies."""


def read_comparison(path: str | os.PathLike[str]) -> tuple[ScoreTable, list[ProxyResult]]:
    """Read the scores and the results of a finished comparison. Nothing is changed.

    Args:
        path: The run folder.

    Returns:
        The scores without the conditions of the times, which the results have, and the results.

    Raises:
        RunFolderError: A file is missing or damaged, as they are before the comparison is finished.
    """
    values = read_json(Path(path) / RESULTS, keys=("results", "table", "column", "seeds"), repair=_REPAIR)
    try:
        results = [_result(one) for one in values["results"]]
        return _read_scores(Path(path) / SCORES, values, results), results
    except (JsonError, KeyError, TypeError, ValueError, IndexError) as error:
        raise RunFolderError(f"{SCORES} or {RESULTS} of {path} is damaged ({error}). {_REPAIR}") from error
    except OSError as error:
        raise RunFolderError(f"Cannot read {Path(path) / SCORES}: {error.strerror or error}. {_REPAIR}") from error


_ESTIMATES = ("kendall", "spearman", "pearson", "precision", "regret", "partial_spearman", "agreement")
_ESTIMATES_BY_NAME = ("best_decile", "within_bins")


def _result(values: dict[str, Any]) -> ProxyResult:
    """A result; a null stands for a number that is not defined."""
    estimates = {name: decode(Estimate, values[name]) for name in _ESTIMATES}
    by_name = {name: {key: decode(Estimate, one) for key, one in values[name].items()} for name in _ESTIMATES_BY_NAME}
    lists: dict[str, Any] = {
        "bins": [decode(BinResult, one) for one in values["bins"]],
        "regrets": [decode(BudgetRegret, one) for one in values["regrets"]],
        "passes": tuple(values["passes"]),
        "seconds": math.nan if values["seconds"] is None else float(values["seconds"]),
    }
    return ProxyResult(**{**values, **estimates, **by_name, **lists})


def _read_scores(file: Path, values: dict[str, Any], results: list[ProxyResult]) -> ScoreTable:
    with file.open(newline="", encoding="utf-8") as lines:
        heads, *rows = list(csv.reader(lines))
    seeds = tuple(int(seed) for seed in values["seeds"])
    first = {name: heads.index(name, 2) for name in _FIRST}
    count = len(rows) // len(seeds)
    if count * len(seeds) != len(rows) or any(len(row) != len(heads) for row in rows):
        raise ValueError(f"{len(rows)} rows do not fit {len(seeds)} seeds")

    def column(place: int) -> NDArray[np.float64]:
        """(S, K) values of a column."""
        cells = [float(row[place]) if row[place] else math.nan for row in rows]
        return np.array(cells).reshape(count, len(seeds)).T

    sizes = {name: column(first[name]) for name in ("params", "macs")}
    places = {name: place for place, name in enumerate(heads) if place > first["seed"]}
    scores = {one.label: sizes[one.label] if one.label in sizes else column(places[one.label]) for one in results}
    return ScoreTable(
        table=str(values["table"]),
        column=str(values["column"]),
        space=str(values["space"]),
        teacher=values["teacher"],
        probe=str(values["probe"]),
        architectures=tuple(row[0] for row in rows[:: len(seeds)]),
        accuracies=column(1)[0],
        params=sizes["params"][0],
        macs=sizes["macs"][0],
        seeds=seeds,
        scores=scores,
        seconds={one.label: one.seconds for one in results},
        passes={one.label: one.passes for one in results},
        failures={one.label: one.failures for one in results},
        controls={one.label: (one.proxy, one.control) for one in results if one.control is not None},
        left_out=dict(values.get("left_out") or {}),
        conditions=str(values.get("conditions") or ""),
    )
