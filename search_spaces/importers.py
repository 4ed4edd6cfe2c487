"""Convert official benchmark files to tables: read once, architecture by architecture, and written as one small CSV.

The files of NAS-Bench-201 and NATS-Bench are pickles, and reading a pickle can run any code that its maker put into it.
They are read only if the user states that the maker is trusted. They need the benchmarks' own packages, which
`pip install 'diswot-search[benchmarks]'` installs.

Columns, in percent, after the full training (200 epochs; 90 in NATS-Bench's size space), each the mean over the seeds
that exist: `cifar10_train_accuracy` and `cifar10_test_accuracy` (trained on all 50,000 images);
`cifar10_valid_accuracy` with `cifar10valid_train_accuracy` and `cifar10valid_test_accuracy` (trained on 25,000, the
others are for validation); train, valid and test of `cifar100` and `imagenet16_120`. The suffix `_12ep` marks the
validation accuracy after a separate training of 12 epochs. `_mmacs` and `_mparams` are millions of
multiply-accumulates and parameters. Numbers that a file lacks have no column.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .nasbench101_records import DISTINCT_CELLS, read_rows
from .nasbench201 import EDGES, format_cell
from .nasbench_macro import NASBenchMacroSpace
from .registry import UnknownNameError, unknown_name_message
from .tables import check_new_table, write_table

Row = dict[str, object]


ACCURACIES = {
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_120_valid": ("ImageNet16-120", "x-valid"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
    "cifar10_train": ("cifar10", "train"),
    "cifar10valid_train": ("cifar10-valid", "train"),
    "cifar10valid_test": ("cifar10-valid", "ori-test"),
    "cifar100_train": ("cifar100", "train"),
    "imagenet16_120_train": ("ImageNet16-120", "train"),
}
"""The benchmarks' data set and split behind each accuracy."""


COSTS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16_120": "ImageNet16-120"}
"""The benchmarks' data set behind each pair of costs."""


def import_table(
    kind: str,
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    trust: bool = False,
    progress: bool = True,
) -> int:
    """Turn an official benchmark file into a table.

    Args:
        kind: One of `IMPORTERS`.
        path: The official file, or folder for NATS-Bench.
        out: The new table, `.csv` or `.csv.gz`.
        trust: Whether the maker of a pickle is trusted; see this module's first lines.
        progress: Show a progress bar, where there is a terminal.

    Returns:
        The number of rows written.

    Raises:
        UnknownNameError: There is no such kind.
        PermissionError: The file is a pickle and `trust` is false.
        ModuleNotFoundError: The benchmark's package is not installed.
        FileNotFoundError: There is no such file.
        FileExistsError: The table is there already.
        ValueError: The file is of another kind, or damaged.
    """
    if kind not in IMPORTERS:
        raise UnknownNameError(unknown_name_message("kind of benchmark file", kind, IMPORTERS))
    return IMPORTERS[kind](path, out, trust=trust, progress=progress)


# -- NAS-Bench-101 ------------------------------------------------------------------------------


def import_nasbench101(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, trust: bool = False, progress: bool = True
) -> int:
    """Turn an official file of NAS-Bench-101 (`nasbench_only108.tfrecord` or `nasbench_full.tfrecord`) into a table.

    Columns, in percent, each the mean over the three trainings: `cifar10_valid_accuracy`, `cifar10_test_accuracy` and
    `cifar10_train_accuracy` after 108 epochs, and from the full file `cifar10_valid_accuracy_4ep`, `_12ep` and `_36ep`;
    and `cifar10_mparams`. TensorFlow is not needed. The file is data, which cannot run code, so `trust` changes
    nothing. Every checksum is verified: two to five MB of the file are read in a second. About 1 kB of each cell is
    held in memory.

    Args, returns and errors are those of `import_table`.

    Source: Ying et al., ICML 2019.
    """
    path, out = _check_paths(path, out, Path.is_file, "file")
    with (
        _progress_bar("importing", DISTINCT_CELLS, progress) as advance,
        _reading(path, "a NAS-Bench-101 TFRecord"),
        path.open("rb") as file,
    ):
        rows = read_rows(file, advance)
    if not rows:
        raise ValueError(f"{path} holds no architectures.")
    write_table(out, rows)
    return len(rows)


# -- NAS-Bench-201 ------------------------------------------------------------------------------


def import_nasbench201(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, trust: bool = False, progress: bool = True
) -> int:
    """Turn the official file of NAS-Bench-201 (`NAS-Bench-201-v1_1-096897.pth`) into a table.

    The file is one pickle of 4.7 GB, which takes some 28 GB of memory when it is loaded whole. Here each architecture
    is reduced to its row as soon as it is complete, and then forgotten: about 10 kB of each stays, however many epochs
    it was trained. About 15 MB of the file are read in a second. A file that was saved anew, in the zip format that
    torch writes today, is in memory as it is on disk, too.

    Args, returns and errors are those of `import_table`.

    Source: Dong and Yang, ICLR 2020.
    """
    path, out = _check_paths(path, out, Path.is_file, "file")
    _check_trust(path, trust)
    archive = _import_package("nas_201_api").ArchResults
    rows: dict[int, Row] = {}
    with _progress_bar("importing", 5 ** len(EDGES), progress) as advance:

        def take(entry: dict[str, object]) -> None:
            full, less = (archive.create_from_state_dict(entry[key]) for key in ("full", "less"))
            rows[full.arch_index] = _summary(full.arch_str, full, less)
            advance()

        with _reading(path, "a NAS-Bench-201 file"):
            content = _load_torch_file(path, take)
            expected = sorted(content["evaluated_indexes"])
    if sorted(rows) != expected or not rows:
        raise ValueError(f"{path} is damaged: it holds {len(rows)} of the {len(expected)} architectures that it names.")
    write_table(out, [rows[index] for index in expected])
    return len(rows)


def _load_torch_file(path: Path, take: Callable[[dict[str, object]], None]) -> Any:
    """The content of the file without the architectures; `take` is called with each of those."""

    class Unpickler(_EntryUnpickler):
        take_entry = staticmethod(take)

    module = types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=pickle.load)
    # The file is a pickle of the benchmark. It is read only because the user passed `trust=True`.
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)


_STEPS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
"""The unpickler's method for each instruction of a pickle."""


class _EntryUnpickler(pickle._Unpickler):
    """An unpickler that hands out the benchmark's entries one by one and forgets their numbers.

    An entry is the `{"full": ..., "less": ...}` of one architecture. A pickle builds inner things first and numbers all
    that it may need again (the memo), so an entry is complete once its two items are set, and what was numbered since
    it was begun is its own, but for classes and strings that later entries share. Only those are kept, less the
    strings made anew for each epoch (`x-valid@11`). The official file joins architectures that were saved apart, so
    they share nothing else; if they did, the read would end in an error, not in wrong numbers.

    The unpickler in C sets the items of a plain dict without telling anybody, so this is the one in Python.
    """

    memo: dict[int, object]
    stack: list[object]
    take_entry: Callable[[dict[str, object]], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_STEPS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._numbered = 0

    def load_setitems(self) -> None:
        _STEPS[pickle.SETITEMS[0]](self)
        entry = self.stack[-1]
        if isinstance(entry, dict) and entry.keys() == {"full", "less"}:
            self.take_entry(entry)
            self._forget(entry)
            entry.clear()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_memoize(self) -> None:
        """Number the value by a counter; protocol 4 uses the memo's size, which shrinks here."""
        self.memo[self._numbered] = self.stack[-1]
        self._numbered += 1

    dispatch[pickle.MEMOIZE[0]] = load_memoize

    def _forget(self, entry: dict[str, object]) -> None:
        own = []
        for number, value in reversed(self.memo.items()):
            if isinstance(value, (dict, list, tuple, np.generic, bytes)) or (isinstance(value, str) and "@" in value):
                own.append(number)
            if value is entry:
                break
        for number in own:
            del self.memo[number]


# -- NATS-Bench ---------------------------------------------------------------------------------


def import_nats_bench(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, trust: bool = False, progress: bool = True
) -> int:
    """Turn a folder of NATS-Bench (`NATS-tss-v1_0-3ffb9-simple`) into a table.

    The topology space (tss) is that of NAS-Bench-201. Architectures of the size space (sss) are the widths of five
    layers, as in `64:32:8:48:16`. One architecture at a time is in memory.

    Args, returns and errors are those of `import_table`.

    Source: Dong, Liu, Musial and Gabrys, TPAMI 2021.
    """
    path, out = _check_paths(path, out, Path.is_dir, "folder")
    _check_trust(path, trust)
    nats_bench = _import_package("nats_bench")
    if not (path / "meta.pickle.pbz2").is_file():
        raise ValueError(f"{path} is no folder of NATS-Bench: it has no meta.pickle.pbz2.")
    with _reading(path / "meta.pickle.pbz2", "NATS-Bench's list of architectures"):
        api = nats_bench.create(str(path), "topology", fast_mode=True, verbose=False)
        if "|" not in api.arch(0):
            api = nats_bench.create(str(path), "size", fast_mode=True, verbose=False)
    files = [path / f"{index:06d}.pickle.pbz2" for index in range(len(api))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{path} is not complete: {len(missing)} of {len(api)} files are missing, first {missing[0]}.")
    rows = []
    with _progress_bar("importing", len(api), progress) as advance:
        for index, file in enumerate(files):
            with _reading(file, "a file of NATS-Bench"):
                api.reload(str(path), index)
                results = api.arch2infos_dict.pop(index)
                rows.append(_summary(api.arch(index), results[str(api.full_train_epochs)], results.get("12")))
            advance()
    write_table(out, rows)
    return len(rows)


# -- both benchmarks ----------------------------------------------------------------------------


def _summary(architecture: str, full: Any, less: Any) -> Row:
    """One row: accuracies of the full training, validation accuracies of the 12 epochs, and costs.

    Args:
        architecture: The benchmark's string.
        full: `ArchResults` of the full training.
        less: `ArchResults` of the 12 epochs, or None.
    """
    row: Row = {"architecture": architecture}
    for name, (dataset, split) in ACCURACIES.items():
        row |= _mean_accuracy(f"{name}_accuracy", full, dataset, split)
    for name, (dataset, split) in ACCURACIES.items():
        if less is not None and split == "x-valid":
            row |= _mean_accuracy(f"{name}_accuracy_12ep", less, dataset, split)
    for name, dataset in COSTS.items():
        if dataset in full.get_dataset_names():
            costs = full.get_compute_costs(dataset)
            row |= {
                f"{name}_mmacs": round(float(costs["flops"]), 6),
                f"{name}_mparams": round(float(costs["params"]), 6),
            }
    return row


def _mean_accuracy(column: str, results: Any, dataset: str, split: str) -> Row:
    """The accuracy of the last epoch in percent, mean over seeds; no cell if no seed has it."""
    if dataset not in results.get_dataset_names():
        return {}
    runs = [r for r in results.query(dataset).values() if split == "train" or split in r.get_eval_set()]
    values = [(r.get_train() if split == "train" else r.get_eval(split))["accuracy"] for r in runs]
    return {column: round(float(sum(values) / len(values)), 6)} if values else {}


# -- NAS-Bench-Suite-Zero -----------------------------------------------------------------------

NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""Operations in the order of NASLib's indices."""


NASLIB_EDGES = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2))
"""(target node, source node) of each of NASLib's indices."""


TRANSNAS_DATASETS = {
    "autoencoder", "class_object", "class_scene", "jigsaw", "normal", "room_layout", "segmentsemantic"
}  # fmt: skip
"""Tasks of TransNAS-Bench-101, in whose files six indices stand for other operations."""


def import_suite_zero(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, trust: bool = False, progress: bool = True
) -> int:
    """Turn the NAS-Bench-201 file of NAS-Bench-Suite-Zero (`zc_nasbench201.json`) into a table.

    One row per data set and architecture, with the columns `dataset`, `architecture`, `val_accuracy` and one per proxy;
    read it with `where={"dataset": "cifar10"}`. It is JSON, which cannot run code, so `trust` changes nothing. The
    text of the file and its scores are held in memory.

    Args, returns and errors are those of `import_table`.

    Source: Krishnakumar et al., NeurIPS 2022.
    """
    path, out = _check_paths(path, out, Path.is_file, "file")
    with _reading(path, "a NAS-Bench-Suite-Zero JSON"):
        content = json.loads(path.read_bytes(), object_hook=_score_alone)
        total = sum(len(entries) for entries in content.values())
    if foreign := sorted(TRANSNAS_DATASETS.intersection(content)):
        raise ValueError(f"{path} is of TransNAS-Bench-101 ({', '.join(foreign)}), not of NAS-Bench-201.")
    rows = []
    with _progress_bar("importing", total, progress) as advance, _reading(path, "a NAS-Bench-Suite-Zero JSON"):
        for dataset, entries in content.items():
            for indices, values in entries.items():
                rows.append({"dataset": dataset, "architecture": _cell_of(indices), **_numbers(values)})
                advance()
    if not rows:
        raise ValueError(f"{path} holds no architectures.")
    write_table(out, rows)
    return len(rows)


def _score_alone(value: dict[str, object]) -> object:
    """The score of a proxy's score and seconds, as soon as they are read; any other object as it is."""
    return value.get("score", value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    scores = {name: score for name, score in values.items() if name not in ("val_accuracy", "id")}
    return {"val_accuracy": float(values["val_accuracy"])} | {k: float(v) for k, v in scores.items() if v is not None}


def _cell_of(indices: str) -> str:
    """The benchmark's string for NASLib's six indices, as in `(4, 0, 3, 1, 4, 3)`."""
    numbers = [int(number) for number in indices.strip("()").split(",")]
    if len(numbers) != len(NASLIB_EDGES) or not all(0 <= n < len(NASLIB_OPERATIONS) for n in numbers):
        raise ValueError(f"{indices!r} is no cell of NAS-Bench-201.")
    operations = {edge: NASLIB_OPERATIONS[n] for edge, n in zip(NASLIB_EDGES, numbers, strict=True)}
    return format_cell([operations[edge] for edge in EDGES])


# -- NAS-Bench-Macro ----------------------------------------------------------------------------


def import_nasbench_macro(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, trust: bool = False, progress: bool = True
) -> int:
    """Turn the file of NAS-Bench-Macro (`nas-bench-macro_cifar10.json`) into a table.

    Columns: `cifar10_test_accuracy`, the mean over the trainings in percent, and `cifar10_mparams`. It is JSON, which
    cannot run code, so `trust` changes nothing; it is read in a moment, without a progress bar.

    Args, returns and errors are those of `import_table`.

    Source: Su et al., CVPR 2021.
    """
    path, out = _check_paths(path, out, Path.is_file, "file")
    rows: list[Row] = []
    with _reading(path, "a NAS-Bench-Macro JSON"):
        space = NASBenchMacroSpace()
        for text, values in json.loads(path.read_bytes()).items():
            accuracies = [float(accuracy) for accuracy in values["test_acc"]]
            mean = round(sum(accuracies) / len(accuracies), 6)
            costs = {"cifar10_mparams": float(values["params"]) / 1e6}
            rows.append({"architecture": str(space.parse(text)), "cifar10_test_accuracy": mean, **costs})
    if not rows:
        raise ValueError(f"{path} holds no architectures.")
    write_table(out, rows)
    return len(rows)


# -- shared by all importers ----------------------------------------------------------------------


def _check_paths(
    path: str | os.PathLike[str], out: str | os.PathLike[str], is_there: Callable[[Path], bool], what: str
) -> tuple[Path, Path]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no {what} {path}.")
    if not is_there(path):
        raise ValueError(f"{path} is no {what}.")
    return path, check_new_table(out)


def _check_trust(path: Path, trust: bool) -> None:
    if not trust:
        raise PermissionError(
            f"{path} is a pickle, and reading a pickle can run any code that its maker put into it. If it is from the "
            "benchmark's authors, unaltered, say so: trust=True in Python, --trust true on the command line."
        )


def _import_package(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of an old package at its first import
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"Package {name} is needed to read this file: pip install 'diswot-search[benchmarks]'", name=name
        ) from None


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Name the file in any error: a damaged file can end a read in an error of any type."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(f"{path} cannot be read as {what}; it is of another kind, or damaged ({reason}).") from error


@contextlib.contextmanager
def _progress_bar(text: str, total: int, enabled: bool) -> Iterator[Callable[[], None]]:
    """A function that advances a progress bar by one; without a terminal it does nothing."""
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield lambda: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


IMPORTERS: dict[str, Callable[..., int]] = {
    "nasbench101": import_nasbench101,
    "nasbench201": import_nasbench201,
    "nasbench_macro": import_nasbench_macro,
    "nats_bench": import_nats_bench,
    "suite_zero": import_suite_zero,
}
"""Importers by kind of official file."""
