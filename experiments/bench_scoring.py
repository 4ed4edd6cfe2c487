"""The cost of scoring one candidate, as a ratio to one plain forward of the same network on the same batch.

Sides alternate within one run, on 50 random architectures of each of five spaces, batch 64:

* plain forward: the built network in evaluation mode with batch statistics, no gradients, in both memory layouts;
* score: the default proxy, `unit_capacity`, and `diswot` against a teacher that was read before (building excluded),
  in the memory layout of the plain forward (contiguous), in channels_last, which is the default, and both under bf16
  autocast;
* official protocol: a fresh random ResNet-56 teacher and the student, each forward and backward, for every candidate.

Kendall's tau of the other formats' ranking to the contiguous float32 one is given as well.

Each side is run once before it is timed, so that none pays for the kernels that are made for shapes of its own.

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
from _common import make_parser, options_text, parse, table, write_report
from torch.nn import functional as F

import diswot_search as ds
from search_spaces import Architecture, SearchSpace

SPACES = {"nasbench201": 32, "cifar_resnet_s0": 32, "timm/regnet_32": 32, "timm/mobilenetv3_32": 64, "timm/vit_32": 32}
"""The spaces, and the side of their images."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COMPARED = "diswot"
"""The proxy that the official protocol is compared with."""
PROXIES = ("effective_capacity", COMPARED, "unit_capacity")
FORWARD = ("forward", "forward, channels_last")
FORMATS = {
    "contiguous": ds.Precision(channels_last=False),
    "channels_last": ds.Precision(),
    "contiguous bf16": ds.Precision(channels_last=False, bf16=True),
    "channels_last bf16": ds.Precision(bf16=True),
}


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
            for proxy in args.proxies
            for name in args.formats
        }
        self.labels = {key: ", ".join(key) for key in self.evaluators}
        self.plain = {
            side: ds.Evaluator(space, None, probe, "params", device=args.device, precision=FORMATS[name])
            for side, name in zip(FORWARD, FORMATS, strict=False)
        }
        self.device = self.plain[FORWARD[0]].device
        self.images, self.targets = probe.images.to(self.device), probe.labels.to(self.device)
        self.has_official = COMPARED in args.proxies

    def run_official(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        for network in (teacher, student):
            network.train()
            F.cross_entropy(network(self.images), self.targets).backward()

    def time(self, architecture: Architecture, position: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return the seconds of each side and the score in each format; every second network reverses the order."""
        for evaluator in self.evaluators.values():
            run_score(evaluator, evaluator.read_student(architecture, needs=needs_of(evaluator)))
        readings = {
            key: evaluator.read_student(architecture, needs=needs_of(evaluator))
            for key, evaluator in self.evaluators.items()
        }
        plain = [evaluator.read_student(architecture) for evaluator in self.plain.values()]
        builds = [timed(partial(getattr, one, "model"), self.device, self.clock)[0] for one in readings.values()]
        sides: list[tuple[str, Callable[[], Any]]] = [
            *((name, partial(run_forward, one)) for name, one in zip(FORWARD, plain, strict=True)),
            *((label, partial(run_score, self.evaluators[key], readings[key])) for key, label in self.labels.items()),
        ]
        if self.has_official:
            official = partial(self.run_official, self.teacher.build(position).to(self.device), plain[0].model)
            official()
            sides.append(("official", official))
        for one in plain:
            run_forward(one)
        seconds, scores = {"build": builds[0]}, {}
        for name, side in sides if position % 2 else reversed(sides):
            seconds[name], result = timed(side, self.device, self.clock)
            if name in self.labels.values():
                scores[name] = float(result)
        return seconds, scores


def measure(bench: Bench, count: int) -> dict[str, float]:
    """Return medians over the architectures, in seconds and as ratios, and Kendall's tau of the fast formats."""
    rng = random.Random(0)
    draws = (bench.space.sample(rng) for _ in range(4 * count))
    candidates = [architecture for architecture in draws if bench.space.is_trainable(architecture)][: count + 2]
    measured = [bench.time(architecture, position) for position, architecture in enumerate(candidates)][2:]  # warm-up
    seconds = {name: np.array([row[name] for row, _ in measured]) for name in measured[0][0]}
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    result = {f"{name} (ms)": 1000 * medians[name] for name in sorted(medians)}
    labels = bench.labels
    for name in (*labels.values(), *(["official"] if bench.has_official else [])):
        for layout in FORWARD:
            result[f"{name} / {layout}"] = float(np.median(seconds[name] / seconds[layout]))
    if (fast := labels.get((COMPARED, "channels_last"))) is not None:
        result[f"official / {fast}"] = float(np.median(seconds["official"] / seconds[fast]))
    for (proxy, name), label in labels.items():
        if name != "contiguous" and (proxy, "contiguous") in labels:
            pairs = ([scores[one] for _, scores in measured] for one in (label, labels[proxy, "contiguous"]))
            result[f"Kendall of {label} to contiguous"] = ds.kendall(*pairs)
    if (default := labels.get((PROXIES[0], "channels_last"))) is not None:
        result["candidates per second by the default, building included"] = 1 / (medians["build"] + medians[default])
    return result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=tuple(SPACES))
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=PROXIES)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=tuple(FORMATS))
    parser.add_argument("--name", default="bench_scoring_cpu", help="name of the report")
    args = parse(parser)
    columns = {}
    for name in args.spaces:
        bench = Bench(ds.create_space(name, num_classes=100, input_size=(3, SPACES[name], SPACES[name])), args)
        columns[name] = measure(bench, args.count)
    rows = [[key, *(f"{column[key]:.3f}" for column in columns.values())] for key in next(iter(columns.values()))]
    options = options_text(args, "count", "batch_size", "device", "clock", "spaces", "proxies", "formats", "name")
    threads = f"OMP_NUM_THREADS={given} " if (given := os.environ.get("OMP_NUM_THREADS")) else ""
    lines = [
        "# Cost of scoring one candidate",
        "",
        f"`{threads}python experiments/bench_scoring.py {options}`, medians over {args.count} architectures, sides "
        f"alternating in one run; torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
        f"{os.cpu_count()} cores, {platform.machine()}. Images: "
        + ", ".join(f"{name} {side} x {side}" for name, side in SPACES.items() if name in columns)
        + ".",
        "",
        *table(["", *columns], rows),
    ]
    write_report(args.name, lines)


if __name__ == "__main__":
    main()
