"""Shared parts of the experiments: options, data files, facts on the machine, replayed searches, tables and files."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import diswot_search as ds
from search_spaces import Architecture, SearchSpace

RESULTS = Path(__file__).parent / "results"

DATA = Path(os.environ.get("DISWOT_SHARED_DATA", "../shared/data"))
"""The folder of data files; each file can also be given by an option."""

FILES = {
    "tables": ("", "TABLES", "folder of the tables of accuracies"),
    "weights": ("weights", "WEIGHTS", "folder of the weights of CIFAR-10 ResNets"),
    "data": ("", "DATA", "folder of the images"),
    "cifar10": ("cifar10-12k.npz", "data/cifar10.npz", "npz file with CIFAR-10's images"),
    "cifar100": ("cifar100.npz", "data/cifar100.npz", "npz file with CIFAR-100's images"),
}
"""Each option for data: its default within DATA, the name that stands for it in reports, and its help."""


# -- options ------------------------------------------------------------------------------------


def make_parser(description: str | None, *files: str) -> argparse.ArgumentParser:
    """Make the parser of an experiment.

    Args:
        description: The docstring of the experiment.
        files: The data that it needs, names from `FILES`; each becomes an option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in files:
        place, _, text = FILES[name]
        parser.add_argument(f"--{name}", type=Path, default=DATA / place, help=f"{text}; by default %(default)s")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, check that the data exist, and make the folder of results."""
    args = parser.parse_args()
    for name in FILES:
        path = getattr(args, name, None)
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist; give --{name}, or set DISWOT_SHARED_DATA to the folder of the data.")
    RESULTS.mkdir(exist_ok=True)
    return args


def without_paths(text: str, args: argparse.Namespace) -> str:
    """Replace the paths of data files in a text by the names that stand for them."""
    paths = {str(getattr(args, name)): symbol for name, (_, symbol, _) in FILES.items() if hasattr(args, name)}
    for path in sorted(paths, key=len, reverse=True):  # a file before its folder
        text = text.replace(path, paths[path])
    return text


def options_text(args: argparse.Namespace, *names: str) -> str:
    """Write options as on the command line; those without a value are left out."""
    values = {name: getattr(args, name) for name in names}
    return " ".join(f"--{name} {_value_text(value)}" for name, value in values.items() if value is not None)


def _value_text(value: object) -> str:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(shlex.quote(str(part)) for part in parts)


# -- facts --------------------------------------------------------------------------------------


def versions() -> str:
    return f"torch {torch.__version__}, Python {platform.python_version()}"


def cpu() -> str:
    """Describe the threads that torch uses."""
    return f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} cores"


def spread(values: Iterable[float], sign: str = "", digits: int = 2) -> str:
    """Return the mean as text, with the standard deviation of several values."""
    numbers = [float(value) for value in values]
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):{sign}.{digits}f}{deviation}"


def median_and_range(values: Sequence[float], form: str = ".2f", bold: bool = False) -> str:
    """Return the median as text, with the smallest and largest value."""
    median = f"{statistics.median(values):{form}}"
    return f"{f'**{median}**' if bold else median} ({min(values):{form}} to {max(values):{form}})"


# -- networks and searches ----------------------------------------------------------------------


def draw_cells(count: int | None, seed: int) -> list[str]:
    """Return cells that compute different functions and can be trained, drawn at random; all of them for None."""
    space = ds.create_space("nasbench201")
    trainable = [cell for cell in _all_distinct_cells(space) if space.is_trainable(space.parse(cell))]
    return random.Random(seed).sample(trainable, len(trainable) if count is None else count)


def _all_distinct_cells(space: SearchSpace) -> list[str]:
    return sorted({str(space.canonical(cell)) for cell in space})


def distinct_cells(count: int | None) -> tuple[list[str], set[str]]:
    """Return cells that compute different functions, drawn at random, and the cells that the score was chosen on.

    These are the cells of `score_search.py`, and 500 cells that an earlier form of the score was reported on.
    """
    distinct = _all_distinct_cells(ds.create_space("nasbench201"))
    random.Random(0).shuffle(distinct)
    drawn = draw_cells(None, seed=0)
    return drawn[:count], {*distinct[:500], *drawn[:500]}


def value_of(name: str, student: ds.Readings, teacher: ds.Readings | None = None) -> float:
    """Return the value of a proxy, or NaN if the proxy fails on the network."""
    proxy = ds.get_proxy(name)
    assert isinstance(proxy, ds.Proxy)
    try:
        return proxy(student, teacher)
    except (RuntimeError, ValueError):
        return float("nan")


def noise_images(count: int, side: int, classes: int, held: int) -> ds.Splits:
    """Return random images: `count` to train on, and `held` each to validate and to test on."""
    import numpy as np

    rng = np.random.default_rng(0)

    def part(size: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8), np.arange(size) % classes

    return ds.Splits.from_arrays(part(count), val=part(held), test=part(held), name="noise", num_classes=classes)


def replay(
    algorithm: ds.Algorithm, score: Callable[[Architecture], float | None], evaluations: int
) -> Iterator[tuple[Architecture, float | None]]:
    """Run a search on scores that are looked up.

    Args:
        algorithm: The search algorithm.
        score: Returns the score of an architecture, or None for a failed one.
        evaluations: The number of architectures to evaluate; fewer if the algorithm runs out of them.

    Yields:
        Each architecture and its score, in the order of evaluation.
    """
    count = 0
    while count < evaluations and (batch := algorithm.ask()):
        records = []
        for architecture in batch[: evaluations - count]:
            value = score(architecture)
            records.append(record_of(algorithm.space, architecture, value, count))
            count += 1
            yield architecture, value
        algorithm.tell(records)


def record_of(space: SearchSpace, architecture: Architecture, score: float | None, index: int) -> ds.Record:
    cost = space.cost(architecture)
    return ds.Record(
        status="failed" if score is None else "ok",
        score=score,
        index=index,
        architecture=str(architecture),
        canonical=str(space.canonical(architecture)),
        params=cost.params,
        macs=cost.macs,
    )


def best_of(evaluated: Iterable[tuple[Architecture, float | None]], space: SearchSpace) -> Architecture:
    """Return the architecture with the highest score; the smaller one of equals."""
    scored = [
        (score, -space.cost(architecture).params, architecture)
        for architecture, score in evaluated
        if score is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2]


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Start worker processes that share nothing with this one; their idle threads do not take processor time."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


class TimedExecutor(ds.Executor):
    """An executor that notes its times in seconds.

    Args:
        executor: The executor.

    Attributes:
        items: Number of items.
        starting: Reaching the workers' machines, and making all workers ready.
        working: From when the workers are ready to when the last result is dealt with.
        closing: Ending the workers.
    """

    def __init__(self, executor: ds.Executor) -> None:
        self.executor = executor
        self.workers, self.threads, self.is_isolated = executor.workers, executor.threads, executor.is_isolated
        self.items = 0
        self.starting = self.working = self.closing = 0.0
        self._ready = 0.0

    @property
    def whole(self) -> float:
        """All of these times."""
        return self.starting + self.working + self.closing

    def check(self, program: object) -> None:
        self.executor.check(program)

    def connect(self) -> None:
        self.starting += seconds_of(self.executor.connect)

    def start(self, program: ds.Program) -> None:
        self.starting += seconds_of(lambda: self.executor.start(program))
        self._ready = time.perf_counter()

    def submit(self, worker: int, item: Any) -> Future[Any]:
        self.items += 1
        return self.executor.submit(worker, item)

    def replace(self, worker: int) -> None:
        self.executor.replace(worker)

    def close(self, *, at_once: bool = False) -> None:
        self.working = time.perf_counter() - self._ready
        self.closing = seconds_of(lambda: self.executor.close(at_once=at_once))

    def name(self, worker: int) -> str:
        return self.executor.name(worker)


class ComputesHere(ds.Executor):
    """Stands for workers, but computes in this process and notes how long that takes.

    Args:
        is_isolated: Whether it stands for workers of their own, whose records are committed together.
    """

    workers = 1

    def __init__(self, *, is_isolated: bool = True) -> None:
        self.is_isolated = is_isolated
        self.computing = self.whole = 0.0
        self.items = 0

    def start(self, program: ds.Program) -> None:
        self._compute = program(ds.Placement())
        self._started = time.perf_counter()

    def submit(self, worker: int, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        started = time.perf_counter()
        future.set_result(self._compute(item))
        self.computing += time.perf_counter() - started
        self.items += 1
        return future

    def replace(self, worker: int) -> None:
        """Nothing ends here."""

    def close(self, *, at_once: bool = False) -> None:
        self.whole = time.perf_counter() - self._started


def measure_owner(space: str, evaluations: int, *, algorithm: str = "random", is_isolated: bool = True) -> float:
    """Return the owner's seconds for a candidate: asking, costs, record, curves, and its share of commits.

    Args:
        space: Name of the space.
        evaluations: Number of candidates.
        algorithm: The algorithm, which is asked for one candidate at a time unless it is "random".
        is_isolated: Whether the workers are of their own; otherwise each record is committed at once.
    """
    probe = ds.create_probe("noise", num_classes=100, batch_size=4, image_size=32)
    options: dict[str, Any] = {"proxy": "params", "algorithm": algorithm, "device": "cpu", "progress": False}
    options["asynchronous"] = algorithm != "random"
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("warm-up", 20), ("measured", evaluations)):
            executor = ComputesHere(is_isolated=is_isolated)
            ds.search(
                space, probe=probe, evaluations=count, executor=executor, out=os.path.join(folder, name), **options
            )
    return (executor.whole - executor.computing) / executor.items


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


# -- tables and files ---------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---") -> list[str]:
    """Return the lines of a Markdown table; the cells of columns after the first are aligned by `align`."""
    lines = ["| " + " | ".join(head) + " |", "|---" + f"|{align}" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def write_report(name: str, lines: Iterable[str]) -> None:
    """Write a report to the folder of results, and print it."""
    text = "\n".join(lines).rstrip("\n") + "\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text, end="")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def replace_text(file: Path, text: str) -> None:
    """Write a file that is complete at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}")
    new.write_text(text)
    new.replace(file)


def append_json(path: Path, value: Any) -> None:
    """Add a line of JSON to a file; a line that was cut off before does not spoil it."""
    with path.open("a") as file:
        file.write("\n" + json.dumps(value))


def read_json_lines(path: Path) -> Iterator[Any]:
    """Read the lines of JSON of a file, without a line that was cut off; nothing if there is no file."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def rounded(row: Mapping[str, Any], digits: int = 4) -> dict[str, Any]:
    """Return a row with its floats as text of so many digits."""
    return {key: f"{value:.{digits}f}" if isinstance(value, float) else value for key, value in row.items()}
