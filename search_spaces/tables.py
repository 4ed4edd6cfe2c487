"""Tables of known accuracies by architecture, in one compact form of CSV.

The form: a header; one column of architectures as text (`architecture`, `arch` or `depths`); any number of columns of
numbers, such as accuracies in percent, costs or published scores; and columns of text, where one file holds several
data sets. A cell may be empty. The file may be compressed, then its name ends in `.csv.gz`:

    architecture,cifar10_test_accuracy,cifar100_test_accuracy
    |none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|,84.893333,53.833333
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from .registry import unknown_name_message
from .space import Architecture, ArchitectureError, SearchSpace

ARCHITECTURE_COLUMNS = ("architecture", "arch", "depths")
"""Names of the column of text forms; a table's first column among them is used."""


Row = dict[str, str]


class Frame(Protocol):
    """A table in memory, such as a pandas.DataFrame."""

    columns: Any
    index: Any

    def __getitem__(self, column: Any, /) -> Any:
        """The values of a column."""


class AccuracyTable(Mapping[str, float]):
    """Accuracies by the text form of an architecture; an `Architecture` is a valid key, too.

    Args:
        name: Name of the table, for messages.
        column: Name of the column that the numbers come from.
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

    def check(self, space: SearchSpace) -> list[Architecture]:
        """All architectures of the table as values of the space, in the table's order.

        Args:
            space: The space that they must be of.

        Raises:
            ArchitectureError: Some are not of the space, or not in the text form that the space gives them. The
                message names the first, counts them, and shows an example of the form.
        """
        architectures, wrong = [], []
        for text in self:
            try:
                architectures.append(_parse_exactly(space, text))
            except ArchitectureError as error:
                wrong.append(error)
        if wrong:
            raise ArchitectureError(
                f"{len(wrong)} of the {len(self)} architectures of {self.name} are not of {space.name}; the first: "
                f"{wrong[0]}"
            )
        return architectures

    def select(self, architectures: Iterable[str | Architecture]) -> AccuracyTable:
        """The table of these architectures only, in the order of the argument.

        Raises:
            ValueError: Some are not in the table. The message counts them and names the first three.
        """
        texts = [str(a) for a in architectures]
        if missing := [a for a in texts if a not in self._accuracies]:
            raise ValueError(
                f"{len(missing)} of the {len(texts)} architectures asked for are not among the {len(self)} of "
                f"{self.name}: {_first_few(missing)}."
            )
        return AccuracyTable(self.name, self.column, {a: self._accuracies[a] for a in texts})


def _parse_exactly(space: SearchSpace, text: str) -> Architecture:
    architecture = space.parse(text)
    if str(architecture) != text:  # otherwise a look-up by architecture would miss it
        raise ArchitectureError(f"{text!r} must be written {str(architecture)!r}.")
    return architecture


# -- reading ------------------------------------------------------------------------------------


def read_table(
    path: str | os.PathLike[str],
    column: str | None = None,
    architecture_column: str | None = None,
    *,
    where: Mapping[str, str] | None = None,
    skip_missing: bool = False,
) -> AccuracyTable:
    """Read one column of a CSV file of the form that this module describes.

    Args:
        path: The file; compressed where its name ends in `.gz`.
        column: The column of numbers; by default the only one, or the only one with `accuracy` in its name.
        architecture_column: The column of text forms; by default the first of `ARCHITECTURE_COLUMNS`.
        where: Values that a row must have in other columns, for example `{"dataset": "cifar10"}`.
        skip_missing: Leave out rows whose cell is empty or no finite number, such as a score that was not computed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No such column, none named where there are several, no row with such values, a row without a
            finite number, an architecture twice, or no CSV at all.

    Example:
        >>> import tempfile
        >>> from search_spaces import CifarResNetSpace, read_table
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     print("architecture,accuracy", "1x16-2x16-2x16,60.5", sep="\\n", file=file, flush=True)
        ...     table = read_table(file.name, "accuracy")
        >>> table[CifarResNetSpace(widths=([16, 32],) * 3).parse("1x16-2x16-2x16")]
        60.5
    """
    return _table(_read_sheet(Path(path), architecture_column), column, where or {}, skip_missing)


def table_of(
    values: Mapping[Any, Any] | Frame,
    column: str | None = None,
    architecture_column: str | None = None,
    *,
    where: Mapping[str, str] | None = None,
    skip_missing: bool = False,
) -> AccuracyTable:
    """Make a table of values in memory.

    Args:
        values: A mapping of architectures to numbers; a mapping of the names of columns to their cells; or a
            pandas.DataFrame, whose index holds the architectures if no column does.
        column: The column of numbers, as for `read_table`; the name of the numbers of a mapping, by default "accuracy".
        architecture_column: The column of text forms, as for `read_table`.
        where: Values that a row must have in other columns, as for `read_table`.
        skip_missing: Leave out rows without a finite number, as for `read_table`.

    Raises:
        ValueError: See `read_table`.

    Example:
        >>> table = table_of({"1-1-1": 70.5, "1-1-3": 71.0})
        >>> table.column, table["1-1-3"]
        ('accuracy', 71.0)
    """
    columns = _columns_in_memory(values, column or "accuracy", architecture_column)
    counts = {len(cells) for cells in columns.values()}
    if len(counts) > 1:
        lengths = ", ".join(f"{name} {len(cells):,}" for name, cells in columns.items())
        raise ValueError(f"The columns of the table have different numbers of cells: {lengths}.")
    rows = [dict(zip(columns, map(_text_of, cells), strict=True)) for cells in zip(*columns.values(), strict=True)]
    sheet = _sheet("table", list(columns), list(enumerate(rows, start=1)), architecture_column)
    if column is None and len(columns) == 2:  # whatever its cells are
        column = next(name for name in columns if name != sheet.key)
    return _table(sheet, column, where or {}, skip_missing)


def _columns_in_memory(
    values: Mapping[Any, Any] | Frame, column: str, architecture_column: str | None
) -> dict[str, list[Any]]:
    """The cells of each column, by name."""
    key = architecture_column or ARCHITECTURE_COLUMNS[0]
    if not isinstance(values, Mapping) and hasattr(values, "columns"):
        names = list(map(str, values.columns))
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"The table has two columns {' and two columns '.join(map(repr, twice))}.")
        cells = {str(name): list(values[name]) for name in values.columns}
        return cells if _has_key(cells, architecture_column) else {key: list(values.index)} | cells
    if not hasattr(values, "items"):
        raise ValueError(f"The table is a {type(values).__name__}; it must be a file, a mapping or a pandas.DataFrame.")
    pairs = dict(values.items())  # of a mapping, or of a pandas.Series
    if not pairs or not all(isinstance(one, Mapping | list | tuple) for one in pairs.values()):
        return {key: list(pairs), column: list(pairs.values())}
    cells = {str(name): list(one.values() if isinstance(one, Mapping) else one) for name, one in pairs.items()}
    index = next(iter(pairs.values()))
    has_key = _has_key(cells, architecture_column) or not isinstance(index, Mapping)
    return cells if has_key else {key: list(index)} | cells


def _has_key(columns: Iterable[str], architecture_column: str | None) -> bool:
    return bool({*([architecture_column] if architecture_column else ARCHITECTURE_COLUMNS)} & {*columns})


def _text_of(cell: object) -> str:
    """A cell as a file has it; nothing for one that is missing."""
    return "" if cell is None or cell != cell else str(cell)


def _table(sheet: _Sheet, column: str | None, where: Mapping[str, str], skip_missing: bool) -> AccuracyTable:
    """The column of a sheet as a table, named by where it comes from."""
    sheet = sheet.restricted(where)
    column = sheet.default_column() if column is None else sheet.column(column)
    if skip_missing:
        sheet = sheet.without_missing(column)
    rows = ", ".join(f"{name}={value}" for name, value in where.items())
    return AccuracyTable(f"{sheet.path} ({rows})" if rows else str(sheet.path), column, sheet.pairs(column))


def list_columns(path: str | os.PathLike[str], architecture_column: str | None = None) -> list[str]:
    """The columns of numbers of a table, in the order of the file; any of them can be read.

    Args:
        path: The file; compressed where its name ends in `.gz`.
        architecture_column: The column of text forms; by default the first of `ARCHITECTURE_COLUMNS`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a table.

    Example:
        >>> path = write_table("table.csv", [{"architecture": "a", "accuracy": 0.5}])
        >>> list_columns(path)
        ['accuracy']
    """
    return _read_sheet(Path(path), architecture_column).numeric_columns()


@dataclass(frozen=True)
class _Sheet:
    """A file's cells as text.

    Attributes:
        path: The file, or what stands for it in messages.
        key: The column of architectures.
        columns: The header.
        rows: Each row with the number of its line.
    """

    path: Path | str
    key: str
    columns: list[str]
    rows: list[tuple[int, Row]]

    def column(self, name: str) -> str:
        if name not in self.columns:
            raise ValueError(f"{self.path}: {unknown_name_message('column', name, self.columns)}")
        return name

    def restricted(self, where: Mapping[str, str]) -> _Sheet:
        """The sheet with only the rows that have these values."""
        rows = self.rows
        for column, value in where.items():
            values = {row[self.column(column)] or "" for _, row in rows}
            if str(value) not in values:
                raise ValueError(f"{self.path}: {unknown_name_message(column, str(value), values)}")
            rows = [(line, row) for line, row in rows if row[column] == str(value)]
        return replace(self, rows=rows)

    def is_numeric(self, column: str) -> bool:
        cells = [row[column] for _, row in self.rows if row[column]]
        return bool(cells) and not any(_is_text(cell) for cell in cells)

    def numeric_columns(self) -> list[str]:
        return [c for c in self.columns if c != self.key and self.is_numeric(c)]

    def default_column(self) -> str:
        columns = self.numeric_columns()
        accuracies = [c for c in columns if "accuracy" in c]
        for candidates in (columns, accuracies):
            if len(candidates) == 1:
                return candidates[0]
        if not columns:
            raise ValueError(f"{self.path} has no column of numbers.")
        others = len(columns) - len(accuracies)
        names = ", ".join(accuracies or columns) + (f", and {others} others" if accuracies and others else "")
        raise ValueError(f"{self.path} has several columns of numbers; name one: {names}.")

    def without_missing(self, column: str) -> _Sheet:
        """The sheet without rows that lack a finite number; rows with text in its place stay, to be reported."""
        rows = [(n, row) for n, row in self.rows if (cell := row[column]) and (_is_text(cell) or _is_finite(cell))]
        return replace(self, rows=rows)

    def pairs(self, column: str) -> dict[str, float]:
        """The number of each architecture."""
        first: dict[str, Row] = {}
        accuracies: dict[str, float] = {}
        for line, row in self.rows:
            architecture, text = row[self.key], row[column]
            if not architecture:
                raise ValueError(f"{self.path}, line {line} has nothing in column {self.key}.")
            if not text or not _is_finite(text):
                raise ValueError(f"{self.path}, line {line}: {architecture} {_what_is_wrong(column, text)}")
            if architecture in first:
                hint = self._difference(first[architecture], row)
                raise ValueError(f"{self.path}, line {line}: {architecture} is there twice{hint}.")
            first[architecture] = row
            accuracies[architecture] = float(text)
        return accuracies

    def _difference(self, first: Row, second: Row) -> str:
        """The `where` that would tell two rows of one architecture apart, for a message."""
        for column in self.columns:
            if first[column] and first[column] != second[column] and not self.is_numeric(column):
                return f"; the two differ in {column}, so choose the rows: where={{{column!r}: {first[column]!r}}}"
        return ""


def _read_sheet(path: Path, architecture_column: str | None) -> _Sheet:
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8-sig")  # with the mark that spreadsheets put at a file's beginning
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = list(reader.fieldnames or [])
        rows = [(reader.line_num, row) for row in reader]
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    if twice := [c for c in dict.fromkeys(columns) if columns.count(c) > 1]:
        raise ValueError(f"{path} has two columns {' and two columns '.join(map(repr, twice))}.")
    return _sheet(path, columns, rows, architecture_column)


def _sheet(
    path: Path | str, columns: list[str], rows: list[tuple[int, Row]], architecture_column: str | None
) -> _Sheet:
    """A sheet whose column of architectures is known."""
    key = architecture_column or next((c for c in ARCHITECTURE_COLUMNS if c in columns), None)
    if key is None:
        raise ValueError(f"{path} has no column {' or '.join(ARCHITECTURE_COLUMNS)}; name its architecture_column.")
    for line, row in rows:
        if None in row:
            raise ValueError(f"{path}, line {line} has more cells than the header has columns.")
    sheet = _Sheet(path, key, columns, rows)
    sheet.column(key)
    return sheet


def _is_text(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _is_finite(cell: str) -> bool:
    return not _is_text(cell) and math.isfinite(float(cell))


def _what_is_wrong(column: str, cell: str | None) -> str:
    """The end of a message about a cell without a finite number."""
    if cell and _is_text(cell):
        return f"has no number in column {column}, but {cell!r}."
    problem = f"no finite number in column {column}, but {cell}" if cell else f"no number in column {column}"
    return f"has {problem}; skip_missing leaves such rows out."


def _first_few(items: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


# -- writing ------------------------------------------------------------------------------------


def check_new_table(path: str | os.PathLike[str]) -> Path:
    """The path, once it is clear that a new table can be written there.

    Raises:
        ValueError: Its name does not end in `.csv` or `.csv.gz`.
        FileExistsError: There is something already.
    """
    path = Path(path)
    if not path.name.endswith((".csv", ".csv.gz")):
        raise ValueError(f"A table's name ends in .csv or .csv.gz; got {path}.")
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it or choose another name.")
    return path


def write_table(path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows as a CSV file that `read_table` reads, whole or not at all; equal rows give equal bytes.

    Args:
        path: A new file, `.csv` or `.csv.gz`; its folder is made where it is not there.
        rows: Cells by column. A column that a row has not, None, and a number that is not finite are empty cells.

    Raises:
        ValueError: No rows, no column of architectures, or another kind of file.
        FileExistsError: There is something already.

    Example:
        >>> path = write_table("table.csv", [{"architecture": "a", "accuracy": 0.5}])
        >>> path.read_text().split()
        ['architecture,accuracy', 'a,0.5']
    """
    path = check_new_table(path)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not any(c in columns for c in ARCHITECTURE_COLUMNS):
        raise ValueError(f"A table needs rows with a column {' or '.join(ARCHITECTURE_COLUMNS)}; got {columns}.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    content = text.getvalue().encode()
    _write_whole(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and not math.isfinite(value) else value
