"""Is the latency that a budget limits that of what ships, and is it the same when it is measured again?

Random networks of four families, with random weights. `ds.measure_latency` measures all of them twice, each time in a
process of its own. In turn with it two processes measure them without this package: the exporter that torch prefers,
onnxruntime with one thread, the wall clock. Their difference is that of the machine. PyTorch without onnxruntime is
measured as well, to show what a budget in eager PyTorch would compare.

    python experiments/latency.py
    python experiments/latency.py --networks 60 --seed 1
"""

from __future__ import annotations

import io
import logging
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import onnxruntime
import torch
from _common import make_parser, parse, table, versions, write_report
from scipy.stats import kendalltau

import diswot_search as ds
from search_spaces import create_space

FAMILIES = ("timm/mobilenetv3_32", "timm/vit_32", "timm/convnext_32", "timm/resnet_32")
PASSES = 200
SECONDS = 2.0


def make_network(index: int, seed: int) -> torch.nn.Module:
    """Make a random network; the families take turns."""
    space = create_space(FAMILIES[index % len(FAMILIES)])
    torch.manual_seed(seed)
    return space.build(space.sample(random.Random(1000 * seed + index))).eval().requires_grad_(False)


def by_budget(index: int, seed: int, runtime: str) -> tuple[float, float, bool]:
    """Return the number that a budget limits, the median of its passes, and whether the measurement is stable."""
    latency = ds.measure_latency(make_network(index, seed), (3, 32, 32), runtime=runtime)
    return latency.ms, latency.median_ms, latency.is_stable


def by_hand(index: int, seed: int) -> tuple[float, float]:
    """Return the quickest and the median pass in onnxruntime by the wall clock, in milliseconds."""
    network, images = make_network(index, seed), torch.randn(1, 3, 32, 32)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
    file = io.BytesIO(program.model_proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    for _ in range(5):
        session.run(None, inputs)
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < PASSES or time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, inputs)
        times.append(1000 * (time.perf_counter() - started))
    return min(times), statistics.median(times)


def in_own_process(function: Callable[..., tuple[float, ...]], networks: int, *arguments: object) -> np.ndarray:
    """Return the results for all networks, (networks, values), from one fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return np.array([process.submit(function, index, *arguments).result() for index in range(networks)])


def agreement(first: np.ndarray, second: np.ndarray) -> str:
    return f"{kendalltau(first, second).statistic:.3f}"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parse(parser)
    load = os.getloadavg()[0]
    first = in_own_process(by_budget, args.networks, args.seed, "onnxruntime")
    hand = in_own_process(by_hand, args.networks, args.seed)
    second = in_own_process(by_budget, args.networks, args.seed, "onnxruntime")
    again = in_own_process(by_hand, args.networks, args.seed)
    eager = in_own_process(by_budget, args.networks, args.seed, "eager")

    ratios, medians = _apart(first[:, 0], second[:, 0]), _apart(first[:, 1], second[:, 1])
    settled = np.logical_and(first[:, 2], second[:, 2])
    rows = []
    for place, family in enumerate(FAMILIES):
        times = eager[place :: len(FAMILIES), 0] / first[place :: len(FAMILIES), 0]
        own = first[place :: len(FAMILIES), 0]
        rows.append([family, f"{own.min():.2f} to {own.max():.2f} ms", f"{times.min():.1f} to {times.max():.1f}"])
    write_report(
        "latency",
        [
            "# The latency of a budget against onnxruntime by hand",
            "",
            f"{args.networks} random networks of {len(FAMILIES)} families, 32 x 32 pixels, batch 1, one thread, "
            f"float32. {versions()}, onnxruntime {onnxruntime.__version__}. The load of the machine of "
            f"{os.cpu_count()} cores was {load:.1f} when it began and {os.getloadavg()[0]:.1f} when it "
            "ended.",
            "",
            f"    python experiments/latency.py --networks {args.networks} --seed {args.seed}",
            "",
            *table(
                ["agreement in order (Kendall) of", "with onnxruntime by hand, quickest pass", "median pass"],
                [
                    ["the budget's number", agreement(first[:, 0], hand[:, 0]), agreement(first[:, 0], hand[:, 1])],
                    [
                        "the budget's number again",
                        agreement(second[:, 0], hand[:, 0]),
                        agreement(second[:, 0], hand[:, 1]),
                    ],
                    ["eager PyTorch", agreement(eager[:, 0], hand[:, 0]), agreement(eager[:, 0], hand[:, 1])],
                ],
            ),
            "",
            *table(
                ["difference of two measurements of a network", "median", "largest", "within 10 %"],
                [
                    ["the budget's number", *_differences(ratios)],
                    ["of those called stable twice", *_differences(ratios[settled])],
                    ["the median of its passes", *_differences(medians)],
                    ["the quickest pass by hand", *_differences(_apart(hand[:, 0], again[:, 0]))],
                    ["the median pass by hand", *_differences(_apart(hand[:, 1], again[:, 1]))],
                ],
            ),
            "",
            f"The budget's number over the quickest pass by hand: {np.median(first[:, 0] / hand[:, 0]):.2f} in the "
            f"median. {np.sum(first[:, 2] == 0)} and {np.sum(second[:, 2] == 0)} of the {args.networks} "
            "measurements called themselves unstable.",
            "",
            "What a budget in eager PyTorch would compare:",
            "",
            *table(["family", "latency in onnxruntime", "eager PyTorch, times that"], rows),
        ],
    )


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return by how much the larger of two times is above the smaller, as a share of it."""
    return np.asarray(np.maximum(first, second) / np.minimum(first, second) - 1)


def _differences(ratios: np.ndarray) -> list[str]:
    """Return the median and the largest difference, and how many are small."""
    if not len(ratios):
        return ["", "", "0 of 0"]
    return [f"{np.median(ratios):.1%}", f"{ratios.max():.1%}", f"{np.sum(ratios <= 0.1)} of {len(ratios)}"]


if __name__ == "__main__":
    main()
