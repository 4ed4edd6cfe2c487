"""What all proxies of one network cost together, as a ratio to the sum of what each costs when asked for alone.

On random cells of NAS-Bench-201 with a batch of 64. Asked for alone, a proxy builds its network and runs the passes
that it needs; together they share one network, one forward pass and one of each derivative. The sides alternate within
one run, in another order for every network. The teacher is read before. Those that compare with a teacher add little
together and a forward pass each alone, so the others are also shown by themselves.

    python experiments/bench_proxies.py
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from pathlib import Path

import numpy as np
import torch

import diswot_search as ds
from search_spaces import Architecture

RESULTS = Path(__file__).parent / "results"


def score(evaluator: ds.Evaluator, architecture: Architecture, proxies: list[ds.Proxy]) -> float:
    """Seconds to build one network and score it with these proxies; one that fails on it counts like any other."""
    teacher = evaluator.read_teacher(0, 0)
    started = time.perf_counter()
    needs = {need for proxy in proxies for need in proxy.needs}
    student = evaluator.read_student(architecture, needs=needs)
    for proxy in proxies:
        value_of(proxy, student, teacher)
    return time.perf_counter() - started


def value_of(proxy: ds.Proxy, student: ds.Readings, teacher: ds.Readings | None) -> float:
    try:
        return proxy(student, teacher)
    except (RuntimeError, ValueError):
        return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    space = ds.create_space("nasbench201", num_classes=10)
    probe = ds.create_probe("noise", num_classes=10, batch_size=args.batch_size, image_size=32)
    teacher = ds.create_teacher("cifar_resnet20", num_classes=10)
    evaluator = ds.Evaluator(space, teacher, probe, "params", device="cpu")
    proxies = [proxy for proxy in map(ds.get_proxy, ds.list_proxies()) if isinstance(proxy, ds.Proxy)]
    without_teacher = [proxy for proxy in proxies if not proxy.needs_teacher]
    rng = random.Random(0)
    cells = [cell for cell in (space.sample(rng) for _ in range(4 * args.count)) if space.is_trainable(cell)]
    by_name = {proxy.name: proxy for proxy in proxies}
    groups = {"all": proxies, "without a teacher": without_teacher}
    together: dict[str, list[float]] = {group: [] for group in groups}
    alone: dict[str, list[float]] = {name: [] for name in by_name}
    score(evaluator, cells[-1], proxies)  # the first use of anything is slow
    for cell in cells[: args.count]:
        sides = [*groups, *alone]
        for side in rng.sample(sides, len(sides)):
            if side in groups:
                together[side].append(score(evaluator, cell, groups[side]))
            else:
                alone[side].append(score(evaluator, cell, [by_name[side]]))
    sums = {group: np.sum([alone[p.name] for p in members], axis=0) for group, members in groups.items()}
    ratios = {group: np.array(together[group]) / sums[group] for group in groups}
    lines = [
        "# What all proxies of one network cost together",
        "",
        f"`python experiments/bench_proxies.py --count {args.count} --batch_size {args.batch_size}`, medians over "
        f"{args.count} random cells of NAS-Bench-201, sides alternating in one run; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}.",
        "",
        "| proxies | together (s) | sum of each alone (s) | together / sum |",
        "|---|---|---|---|",
        *(
            f"| {group} ({len(members)}) | {np.median(together[group]):.2f} | {np.median(sums[group]):.2f} | "
            f"**{np.median(ratios[group]):.2f}** ({ratios[group].min():.2f} to {ratios[group].max():.2f}) |"
            for group, members in groups.items()
        ),
        "",
        "| proxy | alone (ms) | of the sum of all |",
        "|---|---|---|",
    ]
    for name, seconds in sorted(alone.items(), key=lambda item: -float(np.median(item[1]))):
        lines.append(
            f"| `{name}` | {1000 * np.median(seconds):.0f} | {np.median(np.array(seconds) / sums['all']):.1%} |"
        )
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench_proxies.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
