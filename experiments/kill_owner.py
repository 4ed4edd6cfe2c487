"""Does a search with workers end as a serial one, whenever it is killed? And how soon does a signal end it?

The process of a search with two workers is killed (SIGKILL) at 50 moments, each after a random number of further
records, and started again; then the search goes on to its end. Its records are compared with those of a serial search.
After each kill, the processes of its group are counted until none is left. Then SIGINT is sent, as by a terminal, to
all processes of a group: while the workers start, and while they compute.

    python experiments/kill_owner.py --kills 50
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _common import make_parser, parse, table, versions, write_report

import diswot_search as ds

SEARCH = ["search", "--space_options", "{channels: 4, cells: 1}", "--batch_size", "8", "--device", "cpu", "--quiet"]


def begin(out: Path, args: argparse.Namespace, workers: int = 2) -> subprocess.Popen[bytes]:
    """Begin or continue the search in a process group of its own."""
    numbers = {"evaluations": args.evaluations, "workers": workers, "threads": workers, "proxy": args.proxy}
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "diswot_search", *SEARCH, *options, "--out", str(out)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stored(out: Path) -> int:
    """Return the number of records that are stored so far."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{out / 'study.sqlite'}?mode=ro", uri=True)) as store:
            return int(store.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for(process: subprocess.Popen[bytes], out: Path, records: int) -> None:
    while stored(out) < records and process.poll() is None:
        time.sleep(0.01)


def seconds_until_gone(group: int, limit: float = 30.0) -> float:
    """Return after how many seconds no process of a group is left; infinite if some are after the limit."""
    started = time.monotonic()
    while time.monotonic() - started < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return time.monotonic() - started
        time.sleep(0.01)
    return float("inf")


def end(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate()
    if process.returncode not in (0, 130):
        raise SystemExit(errors.decode())
    return process.returncode


def kill_often(out: Path, args: argparse.Namespace) -> tuple[list[int], list[float]]:
    """Return the numbers of records that were stored at the kills, and the seconds until all processes were gone."""
    draw, counts, gone = random.Random(args.seed), list[int](), list[float]()
    for _ in range(args.kills):
        process = begin(out, args)
        wait_for(process, out, stored(out) + draw.randint(1, max(1, args.evaluations // (args.kills + 10))))
        if process.poll() is not None:
            raise SystemExit(f"The search ended after {len(counts)} kills; ask for more --evaluations.")
        process.kill()
        process.communicate()
        gone.append(seconds_until_gone(process.pid))
        counts.append(stored(out))
    end(begin(out, args))
    return counts, gone


def interrupt(out: Path, args: argparse.Namespace, records: int) -> tuple[int, float, float]:
    """Return exit code, seconds until the workers were gone, and until the command had ended."""
    shutil.rmtree(out, ignore_errors=True)
    process = begin(out, args)
    if records:
        wait_for(process, out, records)
    else:
        while not (out / "study.sqlite").exists():
            time.sleep(0.01)
        time.sleep(1.0)  # the workers load torch
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    while workers_of(process.pid):
        time.sleep(0.01)
    workers = time.monotonic() - started
    code = end(process)
    return code, workers, time.monotonic() - started


def workers_of(group: int) -> list[str]:
    """Return the processes of a group but its first."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [pid for pid, state in rows if int(pid) != group and "Z" not in state]


def records_of(out: Path) -> list[object]:
    return [dataclasses.replace(record, seconds=0.0, worker=None) for record in ds.Study.load(out).records]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--interruptions", type=int, default=5, help="signals of each kind")
    parser.add_argument("--evaluations", type=int, default=3000)
    parser.add_argument("--proxy", default="nwot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill_owner"))
    args = parse(parser)
    shutil.rmtree(args.out, ignore_errors=True)
    load = os.getloadavg()[0]
    counts, gone = kill_often(args.out / "killed", args)
    print("records at the kills", counts, flush=True)
    end(begin(args.out / "serial", args, workers=1))
    is_same = records_of(args.out / "killed") == records_of(args.out / "serial")
    rows = []
    for what, records in (("the workers start", 0), ("the workers compute", 100)):
        signals = [interrupt(args.out / "interrupted", args, records) for _ in range(args.interruptions)]
        codes, workers, whole = zip(*signals, strict=True)
        spans = [f"{statistics.median(one):.1f} (at most {max(one):.1f})" for one in (workers, whole)]
        rows.append([what, ", ".join(map(str, sorted(set(codes)))), *spans])
    steps = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    write_report(
        "kill_owner",
        [
            "# A search with two workers that is killed and interrupted",
            "",
            f"    python experiments/kill_owner.py --kills {args.kills}",
            "",
            f"{args.evaluations:,} evaluations of `{args.proxy}` on small cells, two worker processes; {versions()}, "
            f"{os.cpu_count()} cores, load {load:.1f} at the beginning and {os.getloadavg()[0]:.1f} at the end.",
            "",
            f"- **{args.kills} kills** of its process, each after {min(steps)} to {max(steps)} further records. All "
            f"processes of its group were gone within {max(gone):.1f} s of each.",
            f"- The {args.evaluations:,} records are {'**equal**' if is_same else '**not equal**'} to those of a "
            "serial search, but for times and names of workers.",
            "",
            "SIGINT to all processes of the group:",
            "",
            *table(["while", "exit code", "seconds until no worker is left", "until the command has ended"], rows),
        ],
    )


if __name__ == "__main__":
    main()
