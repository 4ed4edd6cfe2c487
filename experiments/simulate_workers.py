"""How many workers one owner of a run folder can serve, by simulation from the measured cost of its parts.

A study has one owner: it proposes candidates, hands them out, takes their results and stores the records. It does one
thing at a time. A worker gets its next candidate when the owner has taken its last result, and waits meanwhile. The
simulation goes from event to event: results arrive in the order of completion, the owner takes them one after another,
and the time of a candidate varies around its mean. Its own costs are measured here, or given as options:

* the owner's milliseconds for a candidate: a search with a run folder, without the time of its scores;
* the milliseconds of a commit, which stores all records since the last one, as often as a search does;
* the milliseconds to hand an item out and to take its result, by the executor of processes; and the bytes of both.

"saturated" is the number of workers from which twice as many bring less than a tenth more. A generation that has fewer
candidates than there are workers leaves workers idle, whatever the owner does; the simulation shows what the owner can
bear, as in a random or an asynchronous search.

    python experiments/simulate_workers.py
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import platform
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _common import make_parser, measure_owner, parse, table, versions, write_report

import diswot_search as ds

COMMIT_SHARE, COMMIT_SECONDS = 0.05, 1.0
"""A search commits when that takes no more than this share of the time, or after so many seconds."""


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a study.

    Attributes:
        owner: The owner's own work for a candidate.
        message: Handing out a candidate and taking its result.
        commit: A commit.
    """

    owner: float
    message: float
    commit: float


def simulate(workers: int, seconds: float, costs: Costs, candidates: int, spread: float, seed: int = 0) -> float:
    """Return the candidates per second of a study.

    Args:
        workers: Number of workers.
        seconds: Mean seconds of a candidate in a worker.
        costs: Seconds of the owner's parts.
        candidates: Number of candidates.
        spread: Standard deviation of the time of a candidate as a share of its mean; it is spread log-normally.
        seed: Seed of the times.
    """
    rng = random.Random(seed)
    now = committed = 0.0
    running: list[float] = []
    begun = finished = 0

    def begin() -> None:
        nonlocal now, begun
        now += costs.owner / 2 + costs.message / 2
        heapq.heappush(running, now + seconds * rng.lognormvariate(-(spread**2) / 2, spread))
        begun += 1

    while begun < min(workers, candidates):
        begin()
    while finished < candidates:
        now = max(now, heapq.heappop(running)) + costs.message / 2
        finished += 1
        if begun < candidates:
            begin()
        now += costs.owner / 2
        if now - committed >= min(COMMIT_SECONDS, costs.commit / COMMIT_SHARE):
            now += costs.commit
            committed = now
    return candidates / now


def saturated(speeds: dict[int, float]) -> int | None:
    """Return the least number of workers from which twice as many bring less than a tenth more; None if none is."""
    return next((n for n, speed in speeds.items() if 2 * n in speeds and speeds[2 * n] < 1.1 * speed), None)


def echo(placement: ds.Placement) -> Callable[[Any], Any]:
    """A program that sends back what it is given."""
    return returned


def returned(item: Any) -> Any:
    return item


def measure_message(payload: object, items: int) -> float:
    """Return the seconds to hand out an item of this content and to take it back."""
    executor = ds.create_executor("processes", workers=1, threads=1)
    executor.start(echo)
    try:
        executor.submit(0, payload).result()
        started = time.perf_counter()
        for _ in range(items):
            executor.submit(0, payload).result()
        return (time.perf_counter() - started) / items
    finally:
        executor.close()


def measure_commit(commits: int) -> float:
    """Return the seconds of a commit of a row to a file of SQLite here, the median."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        store = sqlite3.connect(os.path.join(folder, "store.sqlite"))
        store.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, content TEXT)")
        for number in range(commits):
            store.execute("INSERT INTO records VALUES (?, ?)", (number, "x" * 500))
            started = time.perf_counter()
            store.commit()
            seconds.append(time.perf_counter() - started)
        store.close()
    return sorted(seconds)[commits // 2]


def item_of(space: str) -> tuple[str, ds.Record]:
    """Return what travels for a candidate: its text, and a record as large as its result."""
    architecture = str(ds.create_space(space, num_classes=100).sample(random.Random(0)))
    parts = {f"part_{number}": number / 7 for number in range(6)}
    return architecture, ds.Record(
        "ok", None, 1 / 3, 0.0, parts, 0.1, index=0, architecture=architecture, canonical=architecture, params=1, macs=1
    )


def parse_options() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument(
        "--algorithm", default="random", help="asynchronous unless it is random; by default %(default)s"
    )
    parser.add_argument("--owner_ms", type=float, help="by default measured")
    parser.add_argument("--message_ms", type=float, help="by default measured")
    parser.add_argument("--commit_ms", type=float, help="by default measured")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.02, 0.1, 0.5, 2.0, 10.0])
    parser.add_argument("--spread", type=float, default=0.4)
    parser.add_argument("--most", type=int, default=1024, help="largest number of workers")
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--evaluations", type=int, default=500, help="of the search that the owner is measured on")
    return parse(parser)


def main() -> None:
    args = parse_options()
    torch.set_num_threads(1)
    item = item_of(args.space)
    costs = Costs(
        measure_owner(args.space, args.evaluations, algorithm=args.algorithm)
        if args.owner_ms is None
        else args.owner_ms / 1000,
        measure_message(item, 500) if args.message_ms is None else args.message_ms / 1000,
        measure_commit(50) if args.commit_ms is None else args.commit_ms / 1000,
    )
    numbers = [2**power for power in range(args.most.bit_length()) if 2**power <= args.most]
    speeds = {
        seconds: {n: simulate(n, seconds, costs, max(args.candidates, 100 * n), args.spread) for n in numbers}
        for seconds in args.seconds
    }
    rows = [[f"{n:,}", *(f"{speeds[s][n]:,.4g} ({speeds[s][n] * s / n:.0%})" for s in args.seconds)] for n in numbers]
    ends = [f"{number:,}" if (number := saturated(speeds[s])) else f"beyond {args.most:,}" for s in args.seconds]
    most = (1 - COMMIT_SHARE) / (costs.owner + costs.message)
    enough = {s: max((n for n in numbers if speeds[s][n] * s / n >= 0.9), default=1) for s in args.seconds}
    lines = [
        "# How many workers one owner can serve",
        "",
        f"`python experiments/simulate_workers.py`: simulated from measured parts; {versions()}, {os.cpu_count()} "
        f"cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}. For a candidate of {args.space}, algorithm "
        f"{args.algorithm}, the owner takes "
        f"{1000 * costs.owner:.2f} ms; handing it out and taking its result {1000 * costs.message:.2f} ms (by the "
        f"executor of processes; {len(pickle.dumps(item[0])):,} bytes there, {len(pickle.dumps(item[1])):,} back); a "
        f"commit, of all records since the last one, {1000 * costs.commit:.1f} ms.",
        "",
        f"One owner stores up to **{most:,.0f} candidates a second**, whatever they cost the workers.",
        "",
        "Candidates per second, and the share of the workers' time that goes into candidates, by the mean seconds of a "
        f"candidate (standard deviation {args.spread:.0%}):",
        "",
        *table(["workers", *(f"{s:g} s" for s in args.seconds)], [*rows, ["saturated from", *ends]]),
        "",
        "One owner is enough, with nine tenths of the workers' time in candidates, for up to "
        + ", ".join(f"{'more than ' * (n == numbers[-1])}{n:,} workers at {s:g} s" for s, n in enough.items())
        + ".",
    ]
    write_report("simulate_workers", lines)


if __name__ == "__main__":
    main()
