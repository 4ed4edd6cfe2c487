"""Candidates per second of a search by two workers over those of one, and what a worker costs.

* Scaling: whole searches, by one worker on one thread (this process), by two processes with one thread each, and, where
  Ray is installed, by two workers of a local Ray. All score the same candidates, in turn within one run; networks are
  built, and records stored in a run folder, in all of them. "Scoring" is the time from when the workers are ready to
  when the last record is stored; "with start" adds making the workers ready and ending them; "whole call" is all of
  `ds.search`, with its checks, pictures and files.
* Overhead: time of an item that takes no time, in each executor; and what the owner of the run folder does for a
  candidate, without its score.
* Memory: the highest resident memory of a worker process after many candidates, over that after 50.

Measured runs are added to the file of --runs as they end, so that a later call goes on.

    python experiments/bench_workers.py --repeats 3
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from _common import (
    TimedExecutor,
    append_json,
    make_parser,
    measure_owner,
    median_and_range,
    options_text,
    parse,
    read_json_lines,
    seconds_of,
    table,
    versions,
    write_report,
)

import diswot_search as ds

SPACES = ("nasbench201", "timm/vit_32")
ONE, TWO, RAY = "this process", "2 processes", "2 workers of Ray"
SIDES: dict[str, tuple[str, int]] = {ONE: ("serial", 1), TWO: ("processes", 2), RAY: ("ray", 2)}
"""Name of the executor and number of workers of each side; each worker has one thread."""
ITEMS = 1000
FIRST = 50
TIMES = ("scoring", "with start", "whole call")


class Watched(TimedExecutor):
    """An executor of one worker process, whose highest resident memory is noted in kB by the number of items."""

    def __init__(self, executor: ds.Executor) -> None:
        super().__init__(executor)
        self.peaks: dict[int, int] = {}

    def submit(self, worker: int, item: Any) -> Future[Any]:
        if self.items == FIRST:
            self.note_peak()
        return super().submit(worker, item)

    def close(self, *, at_once: bool = False) -> None:
        self.note_peak()
        super().close(at_once=at_once)

    def note_peak(self) -> None:
        for process in multiprocessing.active_children():
            status = Path(f"/proc/{process.pid}/status")
            if status.exists():
                line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                self.peaks[self.items] = int(line.split()[1])


def trivial(placement: ds.Placement) -> Callable[[Any], Any]:
    """A program whose items take no time."""
    return str


def search(
    executor: TimedExecutor, space: str, proxy: str, evaluations: int, seed: int, args: argparse.Namespace
) -> float:
    """Run a search with a run folder, and return its seconds."""
    probe = ds.create_probe("noise", num_classes=100, batch_size=args.batch_size, image_size=32)
    with tempfile.TemporaryDirectory() as folder:
        return seconds_of(
            lambda: ds.search(
                space,
                probe=probe,
                proxy=proxy,
                algorithm=args.algorithm,
                asynchronous=args.asynchronous,
                evaluations=evaluations,
                seed=seed,
                executor=executor,
                device="cpu",
                out=os.path.join(folder, "run"),
                progress=False,
            )
        )


def measure_scaling(space: str, side: str, repeat: int, args: argparse.Namespace) -> dict[str, float]:
    """Return candidates per second by what the time includes."""
    name, workers = SIDES[side]
    executor = TimedExecutor(ds.create_executor(name, workers=workers, threads=workers))
    whole = search(executor, space, args.proxy, args.evaluations, repeat, args)
    times = zip(TIMES, (executor.working, executor.whole, whole), strict=True)
    return {name: executor.items / seconds for name, seconds in times}


def measure_overhead(side: str, items: int) -> dict[str, float]:
    """Return the milliseconds of an item that takes no time: of one after another, and of all workers together."""
    name, workers = SIDES[side]
    executor = ds.create_executor(name, workers=workers, threads=workers)
    executor.start(trivial)
    try:
        for worker in range(workers):
            executor.submit(worker, 0).result()
        alone = seconds_of(lambda: [executor.submit(0, item).result() for item in range(items)])

        def together() -> None:
            for item in range(0, items, workers):
                for future in [executor.submit(worker, item) for worker in range(workers)]:
                    future.result()

        return {"alone": 1000 * alone / items, "together": 1000 * seconds_of(together) / items}
    finally:
        executor.close()


def measure_owners(space: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the owner's milliseconds for a candidate, with workers of their own and without."""
    return {
        name: 1000 * measure_owner(space, args.owner_evaluations, is_isolated=is_isolated)
        for name, is_isolated in (("workers", True), ("alone", False))
    }


def measure_memory(space: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the peaks of a worker process in MB, after the first candidates and after all."""
    executor = Watched(ds.create_executor("processes", workers=1, threads=1))
    search(executor, space, args.proxy, args.memory_evaluations, 0, args)
    peaks = [peak / 1000 for peak in executor.peaks.values()]
    return {"first": peaks[0], "all": peaks[-1]} if len(peaks) > 1 else {}


def tasks_of(args: argparse.Namespace, sides: Iterable[str]) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what is to be measured, by a name that stands for it in the file of runs."""
    tasks: dict[str, Callable[[], dict[str, float]]] = {}
    order = list(sides)
    for repeat in range(args.repeats):
        for space in SPACES:
            for side in order if repeat % 2 == 0 else order[::-1]:
                tasks[f"scaling|{space}|{side}|{repeat}"] = lambda s=space, o=side, r=repeat: measure_scaling(
                    s, o, r, args
                )
            tasks[f"owner|{space}|{repeat}"] = lambda s=space: measure_owners(s, args)
        for side in order:
            tasks[f"overhead|{side}|{repeat}"] = lambda o=side: measure_overhead(o, args.items)
    for space in SPACES if args.memory_evaluations > FIRST else ():
        tasks[f"memory|{space}"] = lambda s=space: measure_memory(s, args)
    return tasks


def report(runs: dict[str, dict[str, float]], sides: list[str], args: argparse.Namespace) -> list[str]:
    """Return the lines of the report."""

    def over_repeats(name: str, key: str) -> list[float]:
        return [runs[f"{name}|{repeat}"][key] for repeat in range(args.repeats)]

    speeds, ratios, costs = [], [], []
    for space in SPACES:
        for side in sides:
            values = [over_repeats(f"scaling|{space}|{side}", key) for key in TIMES]
            speeds.append([space, side, *(median_and_range(one, ".1f") for one in values)])
            if side != ONE:
                singles = [over_repeats(f"scaling|{space}|{ONE}", key) for key in TIMES]
                pairs = [[a / b for a, b in zip(*both, strict=True)] for both in zip(values, singles, strict=True)]
                ratios.append([space, f"{side} / {ONE}", *(median_and_range(one, bold=True) for one in pairs)])
    for side in sides:
        alone, together = (over_repeats(f"overhead|{side}", key) for key in ("alone", "together"))
        costs.append([f"an item without work, {side}", median_and_range(alone, ".3f"), f"{min(together):.3f}"])
    for space in SPACES:
        for key, name in (("workers", "with workers"), ("alone", "this process alone, which commits each record")):
            costs.append(
                [f"the owner, {space}, {name}", median_and_range(over_repeats(f"owner|{space}", key), ".2f"), ""]
            )
    memory = [
        [space, f"{peaks['first']:.0f}", f"{peaks['all']:.0f}", f"**{peaks['all'] / peaks['first']:.3f}**"]
        for space in SPACES
        if (peaks := runs.get(f"memory|{space}"))
    ]
    names = ("repeats", "evaluations", "algorithm", "proxy", "batch_size")
    kind = "an asynchronous search" if args.asynchronous else "a search"
    return [
        "# Two workers over one, and what a worker costs",
        "",
        f"`python experiments/bench_workers.py {options_text(args, *names)}{' --asynchronous' * args.asynchronous}`: "
        f"{kind} of {args.evaluations} evaluations, one thread to each worker, medians over {args.repeats} repeats "
        f"with the least and the largest in brackets, sides in turn in one run; {versions()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        'Candidates per second; "scoring" without the start of the workers, "with start" with it, and the whole call:',
        "",
        *table(["space", "workers", *TIMES], speeds),
        "",
        "Ratios within a repeat:",
        "",
        *table(["space", "ratio", *TIMES], ratios),
        "",
        f"Milliseconds of {args.items:,} items that take no time, one after another, and the least with all workers at "
        "once; and what the owner of the run folder does for a candidate (ask, costs, record, curves, commits):",
        "",
        *table(["", "one after another", "all at once"], costs),
        "",
        f"Highest resident memory of a worker process in MB, after {FIRST} and after {args.memory_evaluations} "
        "candidates:",
        "",
        *table(["space", f"after {FIRST}", f"after {args.memory_evaluations}", "ratio"], memory),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--owner_evaluations", type=int, default=500)
    parser.add_argument("--memory_evaluations", type=int, default=500, help="none are measured unless more than 50")
    parser.add_argument("--items", type=int, default=ITEMS, help="items without work")
    parser.add_argument("--algorithm", default="random")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--proxy", default="effective_capacity")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--no_ray", action="store_true", help="leave Ray out, although it is installed")
    parser.add_argument("--runs", type=Path, help="file of measured runs, to which those that are missing are added")
    args = parse(parser)
    torch.set_num_threads(1)
    sides = [ONE, TWO, *([RAY] if importlib.util.find_spec("ray") and not args.no_ray else [])]
    runs: dict[str, dict[str, float]] = dict(read_json_lines(args.runs)) if args.runs else {}
    for name, measure in tasks_of(args, sides).items():
        if name not in runs:
            runs[name] = measure()
            print(name, runs[name], flush=True)
            if args.runs:
                append_json(args.runs, [name, runs[name]])
    write_report("bench_workers", report(runs, sides, args))


if __name__ == "__main__":
    main()
