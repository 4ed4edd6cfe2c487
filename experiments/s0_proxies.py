"""Every proxy against the known accuracies of DisWOT's S0: 64 CIFAR ResNets distilled from ResNet-110 on CIFAR-100.

Scores are kept in --runs, so that an interrupted run goes on and another one computes only what is missing. The same
table once more with the accuracies that the networks reach without distillation.

    python experiments/s0_proxies.py --tables TABLES --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import RESULTS, cpu, make_parser, parse, versions, without_paths, write_report

import diswot_search as ds

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


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar100")
    parser.add_argument("--runs", type=Path, default=Path("runs/s0_proxies"))
    parser.add_argument("--draws", type=int, default=4)
    args = parse(parser)
    lines = [
        "# Every proxy on S0, 64 CIFAR ResNets on CIFAR-100",
        "",
        f"`python experiments/s0_proxies.py --tables TABLES --cifar100 data/cifar100.npz --draws {args.draws}`, batch "
        f"64 of training images, one batch and one draw of weights a seed, CPU float32, {versions()}, {cpu()}. "
        f"Teacher: random {TEACHER}.",
    ]
    for column, what in COLUMNS.items():
        comparison = compare(column, args)
        lines += ["", f"## Accuracy when {what}", "", comparison.to_markdown().rstrip()]
        (RESULTS / f"s0_proxies_{column}.csv").write_text(without_paths(comparison.to_csv(), args))
        if column == next(iter(COLUMNS)):
            for picture, content in comparison.pictures():
                (RESULTS / f"s0_proxies_{picture}").write_bytes(content)
    write_report("s0_proxies", [without_paths(line, args) for line in lines])


if __name__ == "__main__":
    main()
