"""Every proxy against the known accuracies of DisWOT's S0: 64 CIFAR ResNets distilled from ResNet-110 on CIFAR-100.

Scores are kept in --runs, so that an interrupted run goes on and another one computes only what is missing. The same
table once more with the accuracies that the networks reach without distillation.

    python experiments/s0_proxies.py --tables TABLES --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import torch

import diswot_search as ds

RESULTS = Path(__file__).parent / "results"
TEACHER = "cifar_resnet110"
COLUMNS = {
    "cifar100_kd_accuracy": "distilled from ResNet-110",
    "cifar100_vanilla_accuracy": "trained alone",
}


def compare(column: str, args: argparse.Namespace) -> ds.Comparison:
    probes = ds.create_probes(str(args.cifar100), args.draws, batch_size=64, balanced=False)
    return ds.compare(
        ds.create_space("cifar_resnet_s0", num_classes=100),
        [*ds.list_proxies(), *ds.list_aggregates()],
        args.tables / "cifar_resnet_s0.csv",
        probes,
        column=column,
        teacher=TEACHER,
        draws=args.draws,
        controls=True,
        device="cpu",
        out=args.runs,
    )


def without_places(text: str, args: argparse.Namespace) -> str:
    """The text with the files named as in the command above, wherever they lie."""
    return text.replace(str(args.cifar100), "data/cifar100.npz").replace(str(args.tables), "TABLES")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the table")
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100's training images")
    parser.add_argument("--runs", type=Path, default=Path("runs/s0_proxies"))
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Every proxy on S0, 64 CIFAR ResNets on CIFAR-100",
        "",
        f"`python experiments/s0_proxies.py --tables TABLES --cifar100 data/cifar100.npz --draws {args.draws}`, batch "
        f"64 of training images, one batch and one draw of weights a seed, CPU float32, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores. Teacher: "
        f"random {TEACHER}.",
    ]
    for column, what in COLUMNS.items():
        comparison = compare(column, args)
        lines += ["", f"## Accuracy when {what}", "", comparison.to_markdown().rstrip()]
        (RESULTS / f"s0_proxies_{column}.csv").write_text(without_places(comparison.to_csv(), args))
        if column == next(iter(COLUMNS)):
            for picture, content in comparison.pictures():
                (RESULTS / f"s0_proxies_{picture}").write_bytes(content)
    (RESULTS / "s0_proxies.md").write_text(without_places("\n".join(lines) + "\n", args))


if __name__ == "__main__":
    main()
