"""What scoring one candidate costs, as a ratio to one plain forward of the same network on the same batch.

Sides alternate within one run, on 50 random architectures of each of four spaces, batch 64:

* plain forward: the built network in evaluation mode with batch statistics, no gradients, in both memory layouts;
* score: the default proxy, and `diswot` against a teacher that was read before (building excluded), in the memory
  layout of the plain forward (contiguous), in channels_last, which is the default, and both under bf16 autocast;
* official protocol: a fresh random ResNet-56 teacher and the student, each forward and backward, for every candidate.

Kendall's tau of the other formats' ranking to the contiguous float32 one stands beside them.

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
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch.nn import functional as F

import search_spaces
from diswot_search.data.probe import create_probe
from diswot_search.networks.contract import evaluation_mode
from diswot_search.networks.network import create_teacher
from diswot_search.proxies.aggregate import elementary_proxies
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision
from diswot_search.runtime.devices import resolve_device
from diswot_search.study.evaluator import Evaluator

RESULTS = Path(__file__).parent / "results"
PROXIES = ("effective_capacity", "diswot")
FORWARD = ("forward", "forward, channels_last")
FORMATS = {
    "contiguous": Precision(channels_last=False),
    "channels_last": Precision(),
    "contiguous bf16": Precision(channels_last=False, bf16=True),
    "channels_last bf16": Precision(bf16=True),
}


def timed(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds of one call, and what it gave."""
    kind = device.partition(":")[0]
    synchronise = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    synchronise()
    started = time.perf_counter()
    result = function()
    synchronise()
    return time.perf_counter() - started, result


def measure(space: search_spaces.SearchSpace, count: int, batch_size: int, device: str) -> dict[str, float]:
    """Medians over the architectures, in seconds and as ratios, and Kendall's tau of the fast formats."""
    probe = create_probe("noise", num_classes=space.num_classes, batch_size=batch_size, image_size=32)
    teacher = create_teacher("cifar_resnet56", num_classes=space.num_classes)
    evaluators = {
        (proxy, name): Evaluator(space, teacher, probe, proxy, device=device, precision=precision)
        for proxy in PROXIES
        for name, precision in FORMATS.items()
    }
    scored = {(proxy, name): f"{proxy}, {name}" for proxy, name in evaluators}
    images, labels = probe.images.to(device), probe.labels.to(device)
    rng = random.Random(0)
    candidates = [a for a in (space.sample(rng) for _ in range(4 * count)) if space.is_trainable(a)][: count + 2]
    seconds: dict[str, list[float]] = {key: [] for key in ("build", *FORWARD, "official", *scored.values())}
    scores: dict[str, list[float]] = {name: [] for name in scored.values()}

    def forward_backward(network: torch.nn.Module) -> None:
        network.train()
        F.cross_entropy(network(images), labels).backward()

    for position, architecture in enumerate(candidates):
        warm_up = position < 2
        row: dict[str, float] = {}
        readings = {}
        for key, evaluator in evaluators.items():
            readings[key] = evaluator.read_student(architecture)
            build_seconds, _ = timed(partial(getattr, readings[key], "model"), device)
            row.setdefault("build", build_seconds)
        plain = readings[PROXIES[0], "contiguous"], readings[PROXIES[0], "channels_last"]
        network = plain[0].model

        def forward(of: Readings) -> None:
            with torch.no_grad(), evaluation_mode(of.model, batch_statistics=True):
                of.model(of.images)

        def score(key: tuple[str, str], readings: dict[tuple[str, str], Readings] = readings) -> float:
            evaluator = evaluators[key]
            # The terms are reported beside the score, as in a search.
            values = [
                one(readings[key], evaluator.read_teacher(0, 0))
                for one in (*evaluator.proxy.components, *elementary_proxies(evaluator.proxy))
            ]
            return values[-1]

        def official(teacher: torch.nn.Module, student: torch.nn.Module) -> None:
            forward_backward(teacher)
            forward_backward(student)

        sides: list[tuple[str, Callable[[], object]]] = [
            *((name, partial(forward, one)) for name, one in zip(FORWARD, plain, strict=True)),
            *((label, partial(score, key)) for key, label in scored.items()),
            ("official", partial(official, teacher.build(position).to(device), network)),
        ]
        for one in plain:
            forward(one)  # so that no side pays for the first touch of this network's memory
        for name, side in sides if position % 2 else reversed(sides):
            row[name], result = timed(side, device)
            if name in scores and not warm_up:
                scores[name].append(float(result))  # type: ignore[arg-type]
        if not warm_up:
            for name, value in row.items():
                seconds[name].append(value)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    result = {f"{name} (ms)": 1000 * value for name, value in medians.items()}
    for name in (*scored.values(), "official"):
        for layout in FORWARD:
            ratios = np.array(seconds[name]) / np.array(seconds[layout])
            result[f"{name} / {layout}"] = float(np.median(ratios))
    ratios = np.array(seconds["official"]) / np.array(seconds[f"{PROXIES[1]}, channels_last"])
    result[f"official / {PROXIES[1]}, channels_last"] = float(np.median(ratios))
    for proxy in PROXIES:
        first, *others = (scored[proxy, name] for name in FORMATS)
        for name in others:
            result[f"Kendall of {name} to contiguous"] = float(kendalltau(scores[name], scores[first]).statistic)
    default = medians["build"] + medians[f"{PROXIES[0]}, channels_last"]
    result["candidates per second by the default, building included"] = 1 / default
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = resolve_device(args.device)
    columns = {
        name: measure(search_spaces.create_space(name, num_classes=100), args.count, args.batch_size, device)
        for name in ("nasbench201", "cifar_resnet_s0", "timm/regnet_32", "timm/vit_32")
    }
    lines = [
        "# What scoring one candidate costs",
        "",
        f"`python experiments/bench_scoring.py --count {args.count} --batch_size {args.batch_size} --device {device}`, "
        f"medians over {args.count} architectures, sides alternating in one run; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key in next(iter(columns.values())):
        lines.append(f"| {key} | " + " | ".join(f"{column[key]:.3f}" for column in columns.values()) + " |")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"bench_scoring_{device.partition(':')[0]}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
