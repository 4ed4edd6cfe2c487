"""The grid of a sweep: from lists of values to cells, each with all options of a training of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from search_spaces.registry import near_names

from ..comparison.trainings import as_text, describe_values, value_text
from ..options.base import as_typed, changed, only_in_python, options_of, to_yaml
from ..options.sweep import SweepOptions
from ..options.training import DistillOptions, TrainOptions
from .training_cells import Cell

SEED = "seed"

_OF_SWEEP = ("out", "imports", "progress", "quiet")
"""Options of a training that are those of the sweep, so that they are not in its grid."""

_OF_NETWORK = {"student": "model", "student_options": "model_options"}
"""Options of a sweep that have other names in a training on labels alone."""

_OF_TAUGHT = frozenset(options_of(DistillOptions)) - frozenset(options_of(TrainOptions)) - frozenset(_OF_NETWORK)
"""Options of trainings with a teacher or sources."""

_OF_ALONE = ("unlabelled", "unlabelled_options")
"""Options of trainings on labels alone."""

_IN_GRID = tuple(name for name in (*options_of(DistillOptions), *_OF_ALONE) if name not in _OF_SWEEP)

_MAX_NAME = 100
"""Most characters of the name of a cell's folder."""


class GridError(ValueError):
    """A grid that is no grid of trainings."""


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep.

    Attributes:
        cells: The cells in order.
        keys: Names of the options in the grid, apart from the seed, in order.
        baseline: Values of the baseline, as JSON values; None without one.
    """

    cells: tuple[Cell, ...]
    keys: tuple[str, ...]
    baseline: Mapping[str, object] | None


def grid_of(options: SweepOptions) -> Grid:
    """The cells of a sweep.

    Raises:
        GridError: The grid has unknown names, empty or repeated lists, options that are set beside it as well, or cells
            that occur twice; values cannot be written to a config.yaml; or options do not go with the cells.
        OptionTypeError: A value has another type than its option.
    """
    if options.grid is None:
        raise GridError("Which grid? --grid '{seed: [0, 1, 2]}' names options, each with a list of values.")
    plain = yaml.safe_load(to_yaml(options))
    _check_written(plain)
    grids = [plain["grid"]] if isinstance(options.grid, Mapping) else plain["grid"]
    if not grids:
        raise GridError("The grid is an empty list; give at least one mapping of options to lists of values.")
    for grid in grids:
        _check_grid(grid, options)
    cells = [_cell(plain, values) for grid in grids for values in _combinations(grid)]
    for cell, other in itertools.combinations(cells, 2):
        if cell.name == other.name:
            raise GridError(f"The cell {cell.name} occurs twice in the grid.")
    _check_use(options, cells)
    keys = tuple(dict.fromkeys(key for grid in grids for key in grid if key != SEED))
    return Grid(tuple(cells), keys, _baseline(plain["baseline"], grids, keys))


def _check_written(plain: Mapping[str, object]) -> None:
    """Refuse values that a config.yaml cannot hold."""
    if names := [name for name in only_in_python(plain) if name != "executor"]:
        raise GridError(
            f"{', '.join(names)}: values that only Python has, which no worker and no config.yaml can be given. Name "
            "networks, data and spaces: by a timm name, a file, a run folder, or my_file.py:name."
        )


def _check_grid(grid: Mapping[str, Any], options: SweepOptions) -> None:
    if not grid:
        raise GridError("The grid is empty; give at least one option with a list of values.")
    for key, values in grid.items():
        group, _, name = key.partition(".")
        if group not in _IN_GRID or (name and not group.endswith("_options")) or key.endswith("."):
            raise GridError(_unknown(key))
        if not isinstance(values, list):
            raise GridError(f"{key} is {value_text(values)} in the grid; it must be a list of values.")
        if not values:
            raise GridError(f"{key} is an empty list in the grid; give at least one value.")
        texts = [as_text(value) for value in values]
        if repeated := [value for value, text in zip(values, texts, strict=True) if texts.count(text) > 1]:
            raise GridError(f"{key} has {value_text(repeated[0])} twice in the grid, so that cells occur twice.")
        fixed = name in (getattr(options, group) or {}) if name else bool(changed(options, key))
        if fixed:
            raise GridError(f"{key} is in the grid and set outside of it as well; leave one of them out.")
        if key == "device" and options.devices is not None:
            raise GridError("device is in the grid, but devices gives each worker its own; leave one of them out.")
        if name and group in grid:
            raise GridError(f"{group} and {key} are both in the grid; leave one of them out.")


def _unknown(key: str) -> str:
    """The message about a name in the grid that there is not."""
    group, dot, _ = key.partition(".")
    if group in _OF_SWEEP:
        return f"{key} cannot be in the grid; it is the same for all cells."
    if group in _IN_GRID and dot:
        groups = ", ".join(name for name in _IN_GRID if name.endswith("_options"))
        return f"{key} cannot be in the grid: {group} holds no options of its own. Those that do: {groups}."
    near = near_names("student" if group == "model" else group, _IN_GRID)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" There are: {', '.join(_IN_GRID)}."
    return f"A training has no option {key!r}.{hint}"


def _combinations(grid: Mapping[str, Sequence[object]]) -> Iterator[dict[str, object]]:
    """The combinations of a grid, the last name changing first."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _cell(plain: Mapping[str, Any], values: Mapping[str, object]) -> Cell:
    """A cell with all of its options."""
    name = cell_name(values)
    chosen: dict[str, Any] = dict(plain)
    for key, value in values.items():
        group, _, inner = key.partition(".")
        chosen[group] = {**(chosen[group] or {}), inner: value} if inner else value
    if chosen["student"] is None:
        raise GridError("Which student? --student names the network to train, or give a list of students in the grid.")
    chosen["out"] = os.path.join(plain["out"], name)
    is_taught = chosen["teacher"] is not None or chosen["sources"] is not None
    excluded = _OF_ALONE if is_taught else _OF_TAUGHT
    names = {key: key.partition(".")[0] for key, value in values.items() if value is not None}
    if wrong := [key for key, option in names.items() if option in excluded]:
        why = "has a teacher or sources" if is_taught else "has no teacher and no sources"
        raise GridError(
            f"The cell {name} {why}, so that it has no {', '.join(wrong)}. A list of grids gives cells of both kinds."
        )
    own: DistillOptions | TrainOptions
    try:
        if is_taught:
            own = DistillOptions(**{option: chosen[option] for option in options_of(DistillOptions)})
        else:
            named = {_OF_NETWORK.get(option, option): value for option, value in chosen.items()}
            own = TrainOptions(**{option: named[option] for option in options_of(TrainOptions)})
    except ValueError as error:
        raise in_cell(name, error) from error
    return Cell(name, values, own)


def in_cell(name: str, error: ValueError) -> GridError:
    """An error of a cell that names the cell."""
    return GridError(f"The cell {name}: {as_typed(error)}")


def cell_name(values: Mapping[str, object]) -> str:
    """Name of the folder of a cell: its values, the seed last, in letters that every file system has.

    A hash follows where that is not the whole of the values.

    Example:
        >>> cell_name({"seed": 0, "lr": 0.1, "distiller": "kd+diswot"})
        'distiller=kd+diswot-lr=0.1-seed=0'
        >>> cell_name({"teacher": "runs/t"})
        'teacher=runs-t-bd8320'
    """
    keys = sorted(values, key=lambda key: (key == SEED, key))
    text = "-".join(f"{key}={'none' if values[key] is None else value_text(values[key])}" for key in keys)
    name = re.sub(r"[^\w.+=-]+", "-", text, flags=re.ASCII)
    if name == text and len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(as_text(dict(values)).encode()).hexdigest()[:6]
    return f"{name[:_MAX_NAME].rstrip('-')}-{digest}"


def _check_use(options: SweepOptions, cells: Sequence[Cell]) -> None:
    """Refuse options that no cell has a use for."""
    taught = [isinstance(cell.options, DistillOptions) for cell in cells]
    if not any(taught) and (names := changed(options, *sorted(_OF_TAUGHT))):
        raise GridError(
            f"{', '.join(names)}: options of a distillation, but no cell has a teacher or sources; pass `teacher=` or "
            "`sources=`, or give a list of teachers in the grid."
        )
    if all(taught) and (names := changed(options, *_OF_ALONE)):
        raise GridError(f"{', '.join(names)}: options of trainings without a teacher, but all cells have one.")


def _baseline(
    baseline: Mapping[str, object] | None, grids: Sequence[Mapping[str, Sequence[object]]], keys: Sequence[str]
) -> Mapping[str, object] | None:
    """The baseline, if it is one of the grid."""
    if baseline is None:
        return None
    if SEED in baseline:
        raise GridError("The baseline has a seed; differences are taken between trainings of the same seed.")
    for key in baseline:
        if key not in keys:
            near = near_names(key, keys)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(keys) or 'the seed alone'}."
            raise GridError(f"The baseline has {key}, which is not in the grid; {hint}")
    if not any(all(_is_in(value, grid.get(key, [None])) for key, value in baseline.items()) for grid in grids):
        raise GridError(f"The baseline is no cell of the grid: {describe_values(baseline)}.")
    return baseline


def _is_in(value: object, values: Sequence[object]) -> bool:
    return as_text(value) in map(as_text, values)


# -- options of a training as the columns of a table --------------------------------------------

_NOT_COMPARED = (*_OF_SWEEP, SEED, "checkpoint_minutes")


def flat_options(options: Mapping[str, Any]) -> dict[str, object]:
    """The options of a training that a table compares, by their names in a grid.

    Args:
        options: All options, as a config.yaml has them.
    """
    names = {model: student for student, model in _OF_NETWORK.items()}
    flat: dict[str, object] = {"teacher": None, "sources": None}  # which a training on labels alone has not
    for name, value in options.items():
        name = names.get(name, name)
        if name in _NOT_COMPARED:
            continue
        if name.endswith("_options"):
            flat |= {f"{name}.{key}": item for key, item in (value or {}).items()}
        else:
            flat[name] = value
    return flat


def plain_options(cell: Cell) -> dict[str, Any]:
    """All options of a cell as its config.yaml has them."""
    return {field.name: getattr(cell.options, field.name) for field in dataclasses.fields(cell.options)}
