"""The cost of scoring one candidate, as a ratio to one plain forward of the same network on the same batch.

Sides alternate within one run, on 50 random architectures of each of five spaces, batch 64:

* plain forward: the built network in evaluation mode with batch statistics, no gradients, in both memory layouts;
* score: the default proxy, `unit_capacity`, and `diswot` against a teacher that was read before (building excluded),
  in the memory layout of the plain forward (contiguous), in channels_last, which is the default, and both under bf16
  autocast;
* official protocol: a fresh random ResNet-56 teacher and the student, each forward and backward, for every candidate.

Kendall's tau of the other formats' ranking to the contiguous float32 one is given as well.

By `--clock cpu` the processor time of all threads is measured in place of the time that passes: other jobs change it
less, but it does not show that one thread waits for another.

    python experiments/bench_scoring.py
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import make_parser, parse, table, write_report
from torch.nn import functional as F

import diswot_search as ds
from search_spaces import Architecture, SearchSpace

SPACES = {"nasbench201": 32, "cifar_resnet_s0": 32, "timm/regnet_32": 32, "timm/mobilenetv3_32": 64, "timm/vit_32": 32}
"""The spaces, and the side of their images."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PROXIES = ("effective_capacity", "diswot", "unit_capacity")
FORWARD = ("forward", "forward, channels_last")
FORMATS = {
    "contiguous": ds.Precision(channels_last=False),
    "channels_last": ds.Precision(),
    "contiguous bf16": ds.Precision(channels_last=False, bf16=True),
    "channels_last bf16": ds.Precision(bf16=True),
}
LABELS = {(proxy, name): f"{proxy}, {name}" for proxy in PROXIES for name in FORMATS}


def timed(function: Callable[[], Any], device: str, clock: Callable[[], float]) -> tuple[float, Any]:
    """Return the seconds of one call, and its result."""
    kind = device.partition(":")[0]
    synchronise = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    synchronise()
    started = clock()
    result = function()
    synchronise()
    return clock() - started, result


def run_forward(readings: ds.Readings) -> None:
    with torch.no_grad(), ds.evaluation_mode(readings.model, batch_statistics=True):
        readings.model(readings.images)


def needs_of(evaluator: ds.Evaluator) -> tuple[str, ...]:
    """Return the readings that a search announces for its proxy."""
    assert isinstance(evaluator.proxy, ds.Proxy)
    return evaluator.proxy.needs


def run_score(evaluator: ds.Evaluator, student: ds.Readings) -> float:
    """Score as a search does: the components of the proxy are computed with it."""
    assert isinstance(evaluator.proxy, ds.Proxy)
    teacher = evaluator.read_teacher(0, 0)
    return [proxy(student, teacher) for proxy in (*evaluator.proxy.components, evaluator.proxy)][-1]


class Bench:
    """The networks of one space, and all sides that are timed on them."""

    def __init__(self, space: SearchSpace, args: argparse.Namespace) -> None:
        self.space, self.clock, side = space, CLOCKS[args.clock], space.input_size[-1]
        probe = ds.create_probe("noise", num_classes=space.num_classes, batch_size=args.batch_size, image_size=side)
        self.teacher = ds.create_teacher("cifar_resnet56", num_classes=space.num_classes)
        self.evaluators = {
            (proxy, name): ds.Evaluator(space, self.teacher, probe, proxy, device=args.device, precision=FORMATS[name])
            for proxy, name in LABELS
        }
        self.device = self.evaluators[PROXIES[0], "contiguous"].device
        self.images, self.labels = probe.images.to(self.device), probe.labels.to(self.device)

    def run_official(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        for network in (teacher, student):
            network.train()
            F.cross_entropy(network(self.images), self.labels).backward()

    def time(self, architecture: Architecture, position: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return the seconds of each side and the score in each format; every second network reverses the order."""
        readings = {
            key: evaluator.read_student(architecture, needs=needs_of(evaluator))
            for key, evaluator in self.evaluators.items()
        }
        builds = [timed(partial(getattr, one, "model"), self.device, self.clock)[0] for one in readings.values()]
        plain = readings[PROXIES[0], "contiguous"], readings[PROXIES[0], "channels_last"]
        official_teacher = self.teacher.build(position).to(self.device)
        sides: list[tuple[str, Callable[[], Any]]] = [
            *((name, partial(run_forward, one)) for name, one in zip(FORWARD, plain, strict=True)),
            *((label, partial(run_score, self.evaluators[key], readings[key])) for key, label in LABELS.items()),
            ("official", partial(self.run_official, official_teacher, plain[0].model)),
        ]
        for one in plain:
            run_forward(one)  # so that no side pays for the first touch of this network's memory
        seconds, scores = {"build": builds[0]}, {}
        for name, side in sides if position % 2 else reversed(sides):
            seconds[name], result = timed(side, self.device, self.clock)
            if name in LABELS.values():
                scores[name] = float(result)
        return seconds, scores


def measure(bench: Bench, count: int) -> dict[str, float]:
    """Return medians over the architectures, in seconds and as ratios, and Kendall's tau of the fast formats."""
    rng = random.Random(0)
    draws = (bench.space.sample(rng) for _ in range(4 * count))
    candidates = [architecture for architecture in draws if bench.space.is_trainable(architecture)][: count + 2]
    measured = [bench.time(architecture, position) for position, architecture in enumerate(candidates)][2:]  # warm-up
    seconds = {name: np.array([row[name] for row, _ in measured]) for name in ("build", *FORWARD, "official")}
    seconds |= {label: np.array([row[label] for row, _ in measured]) for label in LABELS.values()}
    medians = {name: float(np.median(seconds[name])) for name in ("build", *FORWARD, "official", *LABELS.values())}
    result = {f"{name} (ms)": 1000 * value for name, value in medians.items()}
    for name in (*LABELS.values(), "official"):
        for layout in FORWARD:
            result[f"{name} / {layout}"] = float(np.median(seconds[name] / seconds[layout]))
    fast = f"{PROXIES[1]}, channels_last"
    result[f"official / {fast}"] = float(np.median(seconds["official"] / seconds[fast]))
    for proxy in PROXIES:
        first, *others = (LABELS[proxy, name] for name in FORMATS)
        for name in others:
            pairs = ([scores[label] for _, scores in measured] for label in (name, first))
            result[f"Kendall of {name} to contiguous"] = ds.kendall(*pairs)
    default = medians["build"] + medians[f"{PROXIES[0]}, channels_last"]
    result["candidates per second by the default, building included"] = 1 / default
    return result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parse(parser)
    columns = {}
    for name, side in SPACES.items():
        bench = Bench(ds.create_space(name, num_classes=100, input_size=(3, side, side)), args)
        columns[name] = measure(bench, args.count)
    rows = [[key, *(f"{column[key]:.3f}" for column in columns.values())] for key in next(iter(columns.values()))]
    lines = [
        "# What scoring one candidate costs",
        "",
        f"`python experiments/bench_scoring.py --count {args.count} --batch_size {args.batch_size} --device "
        f"{bench.device}`, medians over {args.count} architectures, sides alternating in one run; torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}.",
        "",
        *table(["", *columns], rows),
    ]
    write_report(f"bench_scoring_{bench.device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
