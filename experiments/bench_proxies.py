"""The cost of all proxies of one network together, as a ratio to the sum of their costs alone.

On random cells of NAS-Bench-201 with a batch of 64. Asked for alone, a proxy builds its network and runs the passes
that it needs; together they share one network, one forward pass and one of each derivative. The sides alternate within
one run, in another order for every network. The teacher is read before. Those that compare with a teacher add little
together and a forward pass each alone, so the others are also shown by themselves.

    python experiments/bench_proxies.py
"""

from __future__ import annotations

import os
import platform
import random
import time

import numpy as np
import torch
from _common import make_parser, parse, table, value_of, write_report

import diswot_search as ds
from search_spaces import Architecture


def seconds_of(evaluator: ds.Evaluator, architecture: Architecture, proxies: list[ds.Proxy]) -> float:
    """Return the seconds to build one network and score it with these proxies; one that fails counts like any other."""
    teacher = evaluator.read_teacher(0, 0)
    started = time.perf_counter()
    needs = {need for proxy in proxies for need in proxy.needs}
    student = evaluator.read_student(architecture, needs=needs)
    for proxy in proxies:
        value_of(proxy.name, student, teacher)
    return time.perf_counter() - started


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parse(parser)
    space = ds.create_space("nasbench201", num_classes=10)
    probe = ds.create_probe("noise", num_classes=10, batch_size=args.batch_size, image_size=32)
    teacher = ds.create_teacher("cifar_resnet20", num_classes=10)
    evaluator = ds.Evaluator(space, teacher, probe, "params", device="cpu")
    proxies = [proxy for proxy in map(ds.get_proxy, ds.list_proxies()) if isinstance(proxy, ds.Proxy)]
    groups = {"all": proxies, "without a teacher": [proxy for proxy in proxies if not proxy.needs_teacher]}
    rng = random.Random(0)
    cells = [cell for cell in (space.sample(rng) for _ in range(4 * args.count)) if space.is_trainable(cell)]
    together: dict[str, list[float]] = {group: [] for group in groups}
    alone: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    by_name = {proxy.name: [proxy] for proxy in proxies}
    seconds_of(evaluator, cells[-1], proxies)  # the first use of anything is slow
    for cell in cells[: args.count]:
        sides = [*groups, *alone]
        for side in rng.sample(sides, len(sides)):
            if side in groups:
                together[side].append(seconds_of(evaluator, cell, groups[side]))
            else:
                alone[side].append(seconds_of(evaluator, cell, by_name[side]))
    write_report("bench_proxies", describe(args.count, args.batch_size, groups, together, alone))


def describe(
    count: int,
    batch_size: int,
    groups: dict[str, list[ds.Proxy]],
    together: dict[str, list[float]],
    alone: dict[str, list[float]],
) -> list[str]:
    """Return the report: the groups of proxies, and each proxy by itself."""
    sums = {group: np.sum([alone[proxy.name] for proxy in members], axis=0) for group, members in groups.items()}
    ratios = {group: np.array(together[group]) / sums[group] for group in groups}
    by_group = [
        [
            f"{group} ({len(members)})",
            f"{np.median(together[group]):.2f}",
            f"{np.median(sums[group]):.2f}",
            f"**{np.median(ratios[group]):.2f}** ({ratios[group].min():.2f} to {ratios[group].max():.2f})",
        ]
        for group, members in groups.items()
    ]
    by_proxy = [
        [f"`{name}`", f"{1000 * np.median(seconds):.0f}", f"{np.median(np.array(seconds) / sums['all']):.1%}"]
        for name, seconds in sorted(alone.items(), key=lambda item: -float(np.median(item[1])))
    ]
    return [
        "# What all proxies of one network cost together",
        "",
        f"`python experiments/bench_proxies.py --count {count} --batch_size {batch_size}`, medians over {count} random "
        f"cells of NAS-Bench-201, sides alternating in one run; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}.",
        "",
        *table(["proxies", "together (s)", "sum of each alone (s)", "together / sum"], by_group),
        "",
        *table(["proxy", "alone (ms)", "of the sum of all"], by_proxy),
    ]


if __name__ == "__main__":
    main()
