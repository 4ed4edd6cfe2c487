"""Tables of known accuracies by architecture."""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .registry import unknown_name_message
from .space import Architecture

ARCHITECTURE_COLUMNS = ("architecture", "arch", "depths")
"""Columns that are taken for the architecture's text form, the first that is there."""


class AccuracyTable(Mapping[str, float]):
    """Accuracies by the text form of an architecture; an `Architecture` serves as key too.

    Args:
        name: What the table is called in messages.
        column: What the numbers are.
        accuracies: The number of each architecture.
    """

    def __init__(self, name: str, column: str, accuracies: Mapping[str, float]) -> None:
        self.name = name
        self.column = column
        self._accuracies = dict(accuracies)

    def __getitem__(self, architecture: str | Architecture) -> float:
        try:
            return self._accuracies[str(architecture)]
        except KeyError:
            raise KeyError(f"{architecture} is not among the {len(self)} architectures of {self.name}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._accuracies)

    def __len__(self) -> int:
        return len(self._accuracies)


def read_table(path: str | os.PathLike[str], column: str, architecture_column: str | None = None) -> AccuracyTable:
    """Read one column of a CSV file with a header, compressed where its name ends in `.gz`.

    Args:
        path: The file.
        column: The column of numbers.
        architecture_column: The column of text forms; by default the first of `ARCHITECTURE_COLUMNS`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No such column, a row without a finite number, an architecture twice, or no CSV at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            accuracies = _read_rows(file, path, column, architecture_column)
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return AccuracyTable(str(path), column, accuracies)


def _read_rows(lines: Iterator[str], path: Path, column: str, architecture_column: str | None) -> dict[str, float]:
    rows = csv.DictReader(lines)
    known = list(rows.fieldnames or [])
    key = architecture_column or next((c for c in ARCHITECTURE_COLUMNS if c in known), None)
    if key is None:
        raise ValueError(f"{path} has no column {' or '.join(ARCHITECTURE_COLUMNS)}; name its architecture_column.")
    for wanted in (key, column):
        if wanted not in known:
            raise ValueError(f"{path}: {unknown_name_message('column', wanted, known)}")
    accuracies: dict[str, float] = {}
    for row in rows:
        architecture, text = row[key], row[column]
        if not architecture or not math.isfinite(number := _number(text)):
            raise ValueError(f"{path}, line {rows.line_num}: {key} {architecture!r} and {column} {text!r} are no pair.")
        if architecture in accuracies:
            raise ValueError(f"{path}, line {rows.line_num}: {architecture} is there twice.")
        accuracies[architecture] = number
    return accuracies


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
