"""What does it cost to rank sources, beside running them?

Twenty networks on 500 labelled images of 32 x 32: `rank_sources` with parc, which copies each of them, finds where its
features are, runs it and compares five draws of images, in turn with the bare forward passes of the same networks on as
many images in the same batches, in evaluation and inference mode. The networks are built before on both sides. CIFAR
ResNets have the weights that --weights holds, as far as it does, else random ones; they cost the same.

    python experiments/bench_sources.py --weights ../shared/data/weights
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

import diswot_search as ds
from search_spaces.weights import load_checkpoint

RESULTS = Path(__file__).parent / "results"
DEPTHS = (20, 32, 44, 56)
DRAWN = 2
SMALL = (
    "resnet10t", "regnetx_002", "mobilenetv2_050", "mobilenetv3_small_050", "lcnet_050", "tinynet_e", "mnasnet_small",
    "efficientnet_lite0",
)  # fmt: skip
IMAGES, SIZE, CLASSES, BATCH = 500, 32, 10, 125


def make_networks(weights: Path) -> dict[str, nn.Module]:
    """Four CIFAR ResNets with given weights where there are some, eight with random ones, and eight of timm's."""
    networks = {}
    for depth in DEPTHS:
        for draw in range(DRAWN + 1):
            torch.manual_seed(draw)
            network = timm.create_model(f"cifar_resnet{depth}", num_classes=CLASSES, shortcut="identity")
            if draw == 0 and (found := sorted(weights.glob(f"cifar10_resnet{depth}-*.th"))):
                load_checkpoint(network, found[0])
            networks[f"cifar_resnet{depth} ({draw})"] = network.eval()
    for name in SMALL:
        torch.manual_seed(0)
        networks[name] = timm.create_model(name).eval()
    return networks


def make_images() -> ds.Splits:
    """Noise: 500 images to train on, all labelled, and some to validate and test on."""
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), np.arange(count) % CLASSES

    return ds.Splits.from_arrays(part(IMAGES), val=part(CLASSES), test=part(CLASSES), name="noise")


def run_bare(networks: dict[str, nn.Module], images: torch.Tensor) -> float:
    """Seconds of the forward passes alone."""
    started = time.perf_counter()
    with torch.inference_mode():
        for network in networks.values():
            for batch in images.split(BATCH):
                network(batch)
    return time.perf_counter() - started


def run_ranking(networks: dict[str, nn.Module], splits: ds.Splits) -> float:
    """Seconds of the whole call."""
    started = time.perf_counter()
    ds.rank_sources(networks, splits, measures="parc", device="cpu", progress=False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, default=Path("../shared/data/weights"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="The source .* has random weights")
    networks, splits = make_networks(args.weights), make_images()
    images = torch.rand(IMAGES, 3, SIZE, SIZE)
    run_bare(networks, images)
    bare, ranking = [], []
    for _ in range(args.rounds):
        bare.append(run_bare(networks, images))
        ranking.append(run_ranking(networks, splits))
    ratios = [b / a for a, b in zip(bare, ranking, strict=True)]
    lines = [
        "# Ranking 20 sources beside running them, cpu",
        "",
        f"{len(networks)} networks, {IMAGES} images of {SIZE} x {SIZE}, batch {BATCH}, float32, 5 draws, parc, "
        f"{args.rounds} rounds in turn. Medians (range). CPU, {platform.machine()}, {args.threads} thread(s), torch "
        f"{torch.__version__}, Python {platform.python_version()}.",
        "",
        f"    python experiments/bench_sources.py --rounds {args.rounds} --threads {args.threads}",
        "",
        f"CIFAR ResNets of depth {', '.join(map(str, DEPTHS))}, {DRAWN + 1} of each, and {', '.join(SMALL)}. All are "
        "built before, on both sides; ranking includes the reading of the images, a copy of each network, the runs "
        "that find its features, and the measure.",
        "",
        "| | seconds |",
        "|---|---|",
        f"| bare forward passes | {statistics.median(bare):.2f} ({min(bare):.2f} to {max(bare):.2f}) |",
        f"| rank_sources | {statistics.median(ranking):.2f} ({min(ranking):.2f} to {max(ranking):.2f}) |",
        f"| ratio, at most 1.3 | **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |",
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "bench_sources_cpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
