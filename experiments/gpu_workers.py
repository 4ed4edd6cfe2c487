"""Candidates per second on one device by one worker and by several, and whether it ranks as the CPU does.

200 random trainable cells of NAS-Bench-201 and 200 ViTs, batch 64 of noise, by the default score. On the device each
space is scored by one worker and by four worker processes, in turn; the CPU's scores of the same candidates come from
one worker. Candidates per second include building and the store, but not the start of the workers, which is given
beside them. The target is a Kendall tau of at least .99 to the CPU's ranking.

    python experiments/gpu_workers.py --device cuda:0
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable

import torch
from _common import TimedExecutor, make_parser, median_and_range, options_text, parse, table, versions, write_report

import diswot_search as ds

SPACES = ("nasbench201", "timm/vit_32")


def score(space: str, device: str, workers: int, args: argparse.Namespace) -> tuple[TimedExecutor, dict[str, float]]:
    """Return the executor with its times, and the scores by architecture."""
    executor = TimedExecutor(ds.create_executor("processes", workers=workers, threads=workers, devices=[device]))
    with tempfile.TemporaryDirectory() as folder:
        study = ds.search(
            space,
            probe=ds.create_probe("noise", num_classes=100, batch_size=args.batch_size, image_size=32),
            proxy=args.proxy,
            algorithm="random",
            evaluations=args.count,
            executor=executor,
            device=device.partition(":")[0],
            out=os.path.join(folder, "run"),
            progress=False,
        )
        return executor, {one.architecture: one.score for one in study.records if one.score is not None}


def agreement(scores: dict[str, float], reference: dict[str, float]) -> float:
    """Return Kendall's tau over the candidates that both have scored."""
    both = [name for name in reference if name in scores]
    return ds.kendall([scores[name] for name in both], [reference[name] for name in both])


def measure(space: str, args: argparse.Namespace) -> list[list[str]]:
    """Return the rows of a space, the CPU first."""
    on_cpu, reference = score(space, "cpu", 1, args)
    rows = [[space, "cpu", "1", f"{len(reference) / on_cpu.working:.1f}", f"{on_cpu.starting:.1f}", "", "1.0000"]]
    sides: dict[int, list[TimedExecutor]] = {workers: [] for workers in args.workers}
    taus: dict[int, float] = {}
    singles = sides[args.workers[0]]
    for repeat in range(args.repeats):
        for workers in args.workers if repeat % 2 == 0 else args.workers[::-1]:
            executor, scores = score(space, args.device, workers, args)
            sides[workers].append(executor)
            taus[workers] = min(agreement(scores, reference), taus.get(workers, 1.0))
    per_second: Callable[[TimedExecutor], float] = lambda executor: args.count / executor.working  # noqa: E731
    for workers, runs in sides.items():
        ratios = [first.working / one.working for first, one in zip(singles, runs, strict=True)]
        rows.append(
            [
                space,
                args.device,
                f"{workers}",
                median_and_range([per_second(one) for one in runs], ".1f"),
                median_and_range([one.starting for one in runs], ".1f"),
                median_and_range(ratios, bold=True),
                f"{taus[workers]:.4f}",
            ]
        )
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4], help="numbers of workers, the first is one")
    parser.add_argument("--count", type=int, default=200, help="candidates of each space")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--proxy", default="effective_capacity")
    parser.add_argument("--batch_size", type=int, default=64)
    args = parse(parser)
    kind = args.device.partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        parser.error(f"the device {args.device} is not there; --device names one, such as cpu to try it out.")
    name = torch.cuda.get_device_name(args.device) if kind == "cuda" else args.device
    rows = [row for space in SPACES for row in measure(space, args)]
    lines = [
        "# One and several workers on one device",
        "",
        f"`python experiments/gpu_workers.py {options_text(args, 'device', 'count', 'repeats', 'batch_size')}`: "
        f"{name}, {args.count} candidates of each space, score {args.proxy}, {versions()}, {os.cpu_count()} cores. "
        "Medians over repeats in turn, with the least and the largest in brackets; Kendall to the CPU "
        "is the lowest of the repeats.",
        "",
        *table(
            ["space", "device", "workers", "candidates per second", "start, s", "ratio", "Kendall to the CPU"], rows
        ),
    ]
    if kind != "cpu":
        write_report(f"gpu_workers_{kind}", lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
