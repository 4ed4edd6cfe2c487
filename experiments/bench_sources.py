"""The cost of ranking sources, as a ratio to the cost of running them.

Twenty networks on 500 labelled images of 32 x 32: `rank_sources` with parc, which copies each of them, finds where its
features are, runs it and compares five draws of images, in turn with the bare forward passes of the same networks on as
many images in the same batches, in evaluation and inference mode. The networks are built before on both sides. CIFAR
ResNets have the weights that --weights holds, as far as it does, else random ones; they cost the same.

    python experiments/bench_sources.py --weights ../shared/data/weights
"""

from __future__ import annotations

import platform
import time
import warnings
from pathlib import Path

import timm
import torch
from _common import make_parser, median_and_range, noise_images, parse, table, versions, write_report
from torch import nn

import diswot_search as ds
import search_spaces

DEPTHS = (20, 32, 44, 56)
RANDOM_DRAWS = 2
SMALL = (
    "resnet10t", "regnetx_002", "mobilenetv2_050", "mobilenetv3_small_050", "lcnet_050", "tinynet_e", "mnasnet_small",
    "efficientnet_lite0",
)  # fmt: skip
IMAGES, SIZE, CLASSES, BATCH = 500, 32, 10, 125


def make_networks(weights: Path) -> dict[str, nn.Module]:
    """Make four CIFAR ResNets with the weights of files if there are any, eight random ones, and eight of timm's."""
    networks = {}
    for depth in DEPTHS:
        for draw in range(RANDOM_DRAWS + 1):
            torch.manual_seed(draw)
            network = timm.create_model(f"cifar_resnet{depth}", num_classes=CLASSES, shortcut="identity")
            if draw == 0 and (files := sorted(weights.glob(f"cifar10_resnet{depth}-*.th"))):
                search_spaces.load_checkpoint(network, files[0])
            networks[f"cifar_resnet{depth} ({draw})"] = network.eval()
    for name in SMALL:
        torch.manual_seed(0)
        networks[name] = timm.create_model(name).eval()
    return networks


def run_bare(networks: dict[str, nn.Module], images: torch.Tensor) -> float:
    """Return the seconds of the forward passes alone."""
    started = time.perf_counter()
    with torch.inference_mode():
        for network in networks.values():
            for batch in images.split(BATCH):
                network(batch)
    return time.perf_counter() - started


def run_ranking(networks: dict[str, nn.Module], splits: ds.Splits) -> float:
    """Return the seconds of the whole call."""
    started = time.perf_counter()
    ds.rank_sources(networks, splits, measures="parc", device="cpu", progress=False)
    return time.perf_counter() - started


def main() -> None:
    parser = make_parser(__doc__, "weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parse(parser)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="The source .* has random weights")
    networks, splits = make_networks(args.weights), noise_images(IMAGES, SIZE, CLASSES, held=CLASSES)
    images = torch.rand(IMAGES, 3, SIZE, SIZE)
    run_bare(networks, images)
    bare, ranking = [], []
    for _ in range(args.rounds):
        bare.append(run_bare(networks, images))
        ranking.append(run_ranking(networks, splits))
    ratios = [b / a for a, b in zip(bare, ranking, strict=True)]
    lines = [
        "# Ranking 20 sources against running them, cpu",
        "",
        f"{len(networks)} networks, {IMAGES} images of {SIZE} x {SIZE}, batch {BATCH}, float32, 5 draws, parc, "
        f"{args.rounds} rounds in turn. Medians (range). CPU, {platform.machine()}, {args.threads} thread(s), "
        f"{versions()}.",
        "",
        f"    python experiments/bench_sources.py --rounds {args.rounds} --threads {args.threads}",
        "",
        f"CIFAR ResNets of depth {', '.join(map(str, DEPTHS))}, {RANDOM_DRAWS + 1} of each, and {', '.join(SMALL)}. "
        "All are built before, on both sides; ranking includes the reading of the images, a copy of each network, the "
        "runs that find its features, and the measure.",
        "",
        *table(
            ["", "seconds"],
            [
                ["bare forward passes", median_and_range(bare)],
                ["rank_sources", median_and_range(ranking)],
                ["ratio, at most 1.3", median_and_range(ratios, bold=True)],
            ],
        ),
    ]
    write_report("bench_sources_cpu", lines)


if __name__ == "__main__":
    main()
