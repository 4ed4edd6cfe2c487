"""How does the memory that a budget limits compare with what onnxruntime takes from the system?

Random networks of four families, with random weights, at batch 1 and 8. The count is that of `max_memory_mb`: weights
plus the peak of activations. Each network is exported, and run in a fresh process with one thread in onnxruntime, which
has run a tiny network before. The process notes by how much its resident memory has grown after ten batches: as it is;
without the memory that the loader has freed, and that the allocator of the system keeps; and the smallest need, at the
highest moment, with no arena and all freed memory given back at once.

    python experiments/memory.py
    python experiments/memory.py --networks 24 --seed 1

It needs Linux with glibc.
"""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from _common import make_parser, median_and_range, parse, table, versions, write_report

from search_spaces import count_memory, create_space

FAMILIES = ("timm/mobilenetv3_32", "timm/vit_32", "timm/convnext_32", "timm/resnet_32")
BATCHES = (1, 8)


def make_network(index: int, seed: int) -> torch.nn.Module:
    """Make a random network; the families take turns."""
    space = create_space(FAMILIES[index % len(FAMILIES)])
    torch.manual_seed(seed)
    return space.build(space.sample(random.Random(1000 * seed + index))).eval().requires_grad_(False)


def export(network: torch.nn.Module, batch: int, size: int, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.randn(batch, 3, size, size),), path, dynamo=False)


def in_own_process(path: Path, tiny: Path, what: str) -> list[float]:
    command = [sys.executable, str(Path(__file__).parent / "_resident.py"), str(path), str(tiny), what]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parse(parser)
    values: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny, path = Path(folder) / "tiny.onnx", Path(folder) / "network.onnx"
        export(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).eval(), 1, 8, tiny)
        for index in range(args.networks):
            network = make_network(index, args.seed)
            for batch in BATCHES:
                export(network, batch, 32, path)
                memory = count_memory(network, (3, 32, 32), batch)
                _, plain = in_own_process(path, tiny, "plain")
                _, trimmed = in_own_process(path, tiny, "trimmed")
                created, least = in_own_process(path, tiny, "least")
                counted = [memory.weights / 1e6, memory.activations / 1e6]
                row = [*counted, plain, trimmed, least, least - created]
                values.setdefault((FAMILIES[index % len(FAMILIES)], batch), []).append(row)

    rows, ratios = [], []
    for (family, batch), measured in values.items():
        weights, activations, plain, trimmed, least, alive = np.array(measured).T
        total = weights + activations
        parts = [total / plain, total / trimmed, total / least, activations / alive]
        ratios.append(np.stack(parts))
        mean = [f"{np.median(weights):.1f} + {np.median(activations):.1f}"]
        rows.append([family, str(batch), *mean, *(median_and_range(part.tolist()) for part in parts)])
    everything = np.concatenate(ratios, 1)
    rows.append(["all", "", "", *(median_and_range(part.tolist()) for part in everything)])
    head = ["family", "batch", "count, MB", "count / resident", "without freed memory of the loader"]
    head += ["count / smallest need", "activations / smallest need"]
    write_report(
        "memory",
        [
            "# The memory of a budget against resident memory in onnxruntime",
            "",
            f"{args.networks} random networks of {len(FAMILIES)} families, 32 x 32 pixels, one thread, float32, each "
            f"in fresh processes. {versions()}, onnxruntime {onnxruntime.__version__}. Medians, with the least and the "
            "largest in brackets.",
            "",
            f"    python experiments/memory.py --networks {args.networks} --seed {args.seed}",
            "",
            *table(head, rows),
            "",
            "The count is what must be there: weights, and activations that live at once. Resident memory is above it, "
            "probably for four reasons, which were not isolated one by one. The loader parses the file and copies the "
            "weights; about twice their size is freed, but "
            "kept by the allocator of the system until it is used or given back (`malloc_trim`). A session takes some "
            "2 MB of its own, which outweighs small networks. From the second batch on, the arena holds the room that "
            "the first batch was given and the room that is planned since. And some kernels copy what torch views: "
            "transposed and split tokens, reordered channels. Sums behind a convolution are folded into it, so that "
            "ResNets need less than is counted.",
        ],
    )


if __name__ == "__main__":
    main()
