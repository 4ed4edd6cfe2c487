"""What all proxies of one network cost together, as a ratio to the sum of what each costs when asked for alone.

On random cells of NAS-Bench-201 with a batch of 64. Asked for alone, a proxy builds its network and runs the passes
that it needs; together they share one network, one forward pass and one of each derivative. The sides alternate within
one run, and the proxies alone are timed in another order for every network. The teacher is read before.

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

import search_spaces
from diswot_search.data import create_probe
from diswot_search.evaluation import Evaluator
from diswot_search.proxies import Proxy, get_proxy, list_proxies
from diswot_search.readings import Readings
from diswot_search.teacher import create_teacher

RESULTS = Path(__file__).parent / "results"


def score(evaluator: Evaluator, architecture: search_spaces.Architecture, proxies: list[Proxy]) -> float:
    """Seconds to build one network and score it with these proxies; one that fails on it counts like any other."""
    teacher = evaluator.read_teacher(0, 0)
    started = time.perf_counter()
    needs = {need for proxy in proxies for need in proxy.needs}
    student = evaluator.read_student(architecture, needs=needs)
    for proxy in proxies:
        value_of(proxy, student, teacher)
    return time.perf_counter() - started


def value_of(proxy: Proxy, student: Readings, teacher: Readings | None) -> float:
    try:
        return proxy(student, teacher)
    except (RuntimeError, ValueError):
        return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    space = search_spaces.create_space("nasbench201", num_classes=10)
    probe = create_probe("noise", num_classes=10, batch_size=args.batch_size, image_size=32)
    evaluator = Evaluator(space, create_teacher("cifar_resnet20", num_classes=10), probe, "params", device="cpu")
    proxies = [proxy for proxy in map(get_proxy, list_proxies()) if isinstance(proxy, Proxy)]
    rng = random.Random(0)
    cells = [cell for cell in (space.sample(rng) for _ in range(4 * args.count)) if space.is_trainable(cell)]
    together: list[float] = []
    alone: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    score(evaluator, cells[-1], proxies)  # the first use of anything is slow
    for position, cell in enumerate(cells[: args.count]):
        if position % 2:
            together.append(score(evaluator, cell, proxies))
        for proxy in rng.sample(proxies, len(proxies)):
            alone[proxy.name].append(score(evaluator, cell, [proxy]))
        if not position % 2:
            together.append(score(evaluator, cell, proxies))
    sums = np.sum(list(alone.values()), axis=0)
    ratios = np.array(together) / sums
    lines = [
        "# What all proxies of one network cost together",
        "",
        f"`python experiments/bench_proxies.py --count {args.count} --batch_size {args.batch_size}`, medians over "
        f"{args.count} random cells of NAS-Bench-201, sides alternating in one run; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}.",
        "",
        f"- {len(proxies)} proxies together: {np.median(together):.2f} s",
        f"- the sum of the {len(proxies)} alone: {np.median(sums):.2f} s",
        f"- together / sum: **{np.median(ratios):.2f}** (from {ratios.min():.2f} to {ratios.max():.2f})",
        "",
        "| proxy | alone (ms) | of the sum |",
        "|---|---|---|",
    ]
    for name, seconds in sorted(alone.items(), key=lambda item: -float(np.median(item[1]))):
        lines.append(f"| `{name}` | {1000 * np.median(seconds):.0f} | {np.median(np.array(seconds) / sums):.1%} |")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench_proxies.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
