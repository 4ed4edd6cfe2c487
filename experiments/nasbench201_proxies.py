"""Every proxy against the known accuracies of 1,000 random cells of NAS-Bench-201, on CIFAR-10 and on CIFAR-100.

The cells are the random ones that NAS-Bench-Suite-Zero published scores for (724 or 725), filled up with a seeded draw.
Each data set has its table of correlations with intervals, regret at a budget, what the teacher adds (controls) and
what a score costs, with pictures; and two checks of the proxies themselves: the correlation published for all 15,625
cells beside ours on the sample, disconnected cells included as there, and the rank correlation of our scores with those
published per architecture by NAS-Bench-Suite-Zero. Scores are kept in --runs, so that an interrupted run goes on and
another one computes only what is missing. The two data sets can be scored side by side with --datasets first.

    python experiments/nasbench201_proxies.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, cpu, make_parser, parse, table, versions, without_paths, write_report

import diswot_search as ds

CLASSES = {"cifar10": 10, "cifar100": 100}
TEACHER = "cifar_resnet110"
PROXIES = [*ds.list_proxies(), *ds.list_aggregates()]

# Published Spearman correlations, CIFAR-10 and CIFAR-100. Tybl and Neumann (CVPR 2025), mean of five runs, on the cells
# without dead edges: their value for MACs is that of those 9,444 cells. Lee and Ham (CVPR 2024) likewise.
Values = dict[str, list[tuple[float, float]]]
ON_LIVE_CELLS: Values = {
    "macs": [(0.799, 0.763)],
    "grad_norm": [(0.438, 0.451)],
    "grasp": [(0.505, 0.498)],
    "snip": [(0.591, 0.597)],
    "synflow": [(0.758, 0.750)],
    "jacov": [(0.800, 0.820)],
    "nwot": [(0.762, 0.799)],
    "zico": [(0.802, 0.809)],
    "te_nas": [(0.722, 0.723)],
    "az_nas": [(0.892, 0.880), (0.913, 0.900)],
    "vkdnw": [(0.815, 0.829)],
    "vkdnw_rank": [(0.919, 0.919)],
}
# Abdelfattah et al. (ICLR 2021), on all 15,625 cells.
ON_ALL_CELLS: Values = {
    "grad_norm": [(0.594, 0.637)],
    "snip": [(0.596, 0.637)],
    "grasp": [(0.514, 0.547)],
    "fisher": [(0.360, 0.385)],
    "synflow": [(0.737, 0.763)],
    "jacov": [(0.731, 0.704)],
}
PER_ARCHITECTURE = (
    *("params", "flops", "l2_norm", "synflow", "nwot", "snip", "grad_norm", "grasp", "fisher", "plain", "jacov"),
    "epe_nas",
)
"""Columns of scores by NAS-Bench-Suite-Zero for each cell; their FLOPs are MACs."""
AS_WRITTEN = ["l2_norm", "synflow", "grad_norm", "snip", "plain", "fisher", "nwot", "jacov", "epe_nas"]
"""Proxies scored a second time on the networks as they are written, dead and doubled layers included."""

Scores = dict[str, float]


def choose_cells(dataset: str, args: argparse.Namespace) -> list[str]:
    """Return the sample: cells with published scores, and random others up to its size."""
    published = ds.read_table(args.tables / "nasbench201_proxies.csv.gz", "params", where={"dataset": dataset})
    others = set(ds.read_table(args.tables / "nasbench201.csv.gz", f"{dataset}_test_accuracy")) - set(published)
    missing = args.sample - len(published)
    return [*published, *random.Random(0).sample(sorted(others), missing)] if missing > 0 else list(published)


def compare(dataset: str, args: argparse.Namespace, **options: Any) -> ds.Comparison:
    """Compare proxies on the sample; scores of earlier runs are used again.

    Images are drawn at random, as in the published protocols: among 64 that are balanced over 100 classes no two would
    be of one class.
    """
    images = {"cifar10": args.cifar10, "cifar100": args.cifar100}[dataset]
    common: dict[str, Any] = {
        "proxies": PROXIES,
        "table": args.tables / "nasbench201.csv.gz",
        "column": f"{dataset}_test_accuracy",
        "teacher": TEACHER,
        "architectures": choose_cells(dataset, args),
        "draws": args.draws,
        "device": "cpu",
        "out": args.runs / dataset,
    }
    common |= options
    probes = ds.create_probes(str(images), common["draws"], batch_size=64, balanced=False)
    space = ds.create_space("nasbench201", num_classes=CLASSES[dataset])
    return ds.compare(space, probe=probes, **common)


def has_no_dead_edge(cell: str) -> bool:
    """Return whether there are edges with an operation, and all lie on a path from the cell's input to its output."""
    nodes = [[term.split("~") for term in node.strip("|").split("|")] for node in cell.split("+")]
    edges = [(int(start), end) for end, terms in enumerate(nodes, 1) for op, start in terms if op != "none"]
    reached, needed = {0}, {3}
    for start, end in edges:
        reached |= {end} if start in reached else set()
    for start, end in reversed(edges):
        needed |= {start} if end in needed else set()
    return bool(edges) and all(start in reached and end in needed for start, end in edges)


def read_published(dataset: str, tables: Path) -> dict[str, Scores]:
    """Read the published scores of each cell, by our name of the proxy."""
    path, rows = tables / "nasbench201_proxies.csv.gz", {"dataset": dataset}
    read = {name: ds.read_table(path, name, where=rows, skip_missing=True) for name in PER_ARCHITECTURE}
    return {"macs" if name == "flops" else name: dict(table) for name, table in read.items()}


def scores_of(table: ds.ScoreTable) -> dict[str, Scores]:
    """Return the scores of each cell, the mean over the seeds, by proxy."""
    return {
        name: dict(zip(table.architectures, scores.mean(axis=0).tolist(), strict=True))
        for name, scores in table.scores.items()
    }


def correlation(scores: Scores | None, others: Scores, cells: list[str]) -> str:
    """Return Spearman over the cells that both name, as text; cells without a score rank last."""
    shared = [cell for cell in cells if scores and cell in scores and cell in others]
    if scores is None or not shared:
        return ""
    return f"{ds.spearman([scores[cell] for cell in shared], [others[cell] for cell in shared]):+.3f}"


def against_published(
    dataset: str, comparison: ds.Comparison, written: dict[str, Scores], published: dict[str, Scores], values: Values
) -> list[str]:
    """Return a table of correlations with accuracy: ours on the sample, and the published ones."""
    place, scores = list(CLASSES).index(dataset), comparison.scores
    accuracies = dict(zip(scores.architectures, scores.accuracies.tolist(), strict=True))
    cells = list(accuracies)
    rows = []
    for name, pairs in values.items():
        ours = comparison[name].spearman
        theirs = [pair[place] for pair in pairs]
        nearest = min(theirs, key=lambda value: abs(value - ours.value))
        rows.append(
            [
                f"`{name}`",
                f"{ours.value:+.3f}",
                f"{ours.low:+.3f} to {ours.high:+.3f}",
                correlation(written.get(name), accuracies, cells),
                correlation(published.get(name), accuracies, cells),
                ", ".join(f"{value:.3f}" for value in theirs),
                f"{ours.value - nearest:+.3f}",
            ]
        )
    head = ["proxy", "ours", "95 % interval", "as written", "published scores of these cells", "published"]
    return table([*head, "difference"], rows)


def agreement_of_draws(dataset: str, args: argparse.Namespace, cells: list[str]) -> dict[str, str]:
    """Return Spearman between two draws of weights and images of ours, on the networks as they are written."""
    options: dict[str, Any] = {"architectures": cells, "canonical": False, "draws": 2, "bootstrap": 0}
    scores = compare(dataset, args, proxies=[*AS_WRITTEN, "grasp"], **options).scores.scores
    return {name: f"{ds.spearman(*draws):+.3f}" for name, draws in scores.items() if name not in ("params", "macs")}


def per_architecture(
    ours: dict[str, Scores], written: dict[str, Scores], published: dict[str, Scores], draws: dict[str, str]
) -> list[str]:
    """Return a table of Spearman of our scores with the published ones, and between two draws of ours."""
    rows = []
    for name, scores in published.items():
        cells = [cell for cell in scores if np.isfinite(scores[cell]) and np.isfinite(ours[name].get(cell, np.nan))]
        both = [correlation(of.get(name), scores, cells) for of in (ours, written)]
        rows.append([f"`{name}`", *both, str(len(cells)), draws.get(name, "")])
    return table(["proxy", "canonical", "as written", "cells", "two draws of ours"], rows)


def spread_over_draws(dataset: str, args: argparse.Namespace) -> list[str]:
    """Return a table of Spearman and regret on some cells, over three draws of weights and images."""
    cells = choose_cells(dataset, args)[: args.thrice]
    comparison = compare(dataset, args, architectures=cells, draws=3, bootstrap=0)
    rows = []
    for result in sorted(comparison.results, key=lambda one: -one.spearman.value):
        spearman, regret = result.spearman, result.regret
        cells_of_row = (f"{spearman.value:+.3f} ± {spearman.std:.3f}", f"{regret.value:.2f} ± {regret.std:.2f}")
        rows.append([f"`{result.label}`", *cells_of_row])
    return table(["proxy", "Spearman", "regret"], rows)


def report(dataset: str, args: argparse.Namespace) -> None:
    """Compare all proxies on one data set, and write the report, the table of results and the pictures."""
    comparison = compare(dataset, args, controls=True)
    name = f"nasbench201_proxies_{dataset}"
    for picture, content in comparison.pictures():
        (RESULTS / f"{name}_{picture}").write_bytes(content)
    (RESULTS / f"{name}.csv").write_text(without_paths(comparison.to_csv(), args))
    everything = compare(dataset, args, include_untrainable=True)
    alive = [cell for cell in everything.scores.architectures if has_no_dead_edge(cell)]
    live = compare(dataset, args, architectures=alive)
    again = compare(dataset, args, proxies=AS_WRITTEN, canonical=False, include_untrainable=True, bootstrap=0)
    written, published = scores_of(again.scores), read_published(dataset, args.tables)
    draws = agreement_of_draws(dataset, args, list(published["synflow"])[: args.twice])
    lines = [
        f"# Every proxy on NAS-Bench-201, {dataset.upper().replace('CIFAR', 'CIFAR-')}",
        "",
        f"`python experiments/nasbench201_proxies.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 "
        f"data/cifar100.npz --sample {args.sample} --draws {args.draws}`, batch 64 of training images, CPU float32, "
        f"{versions()}, {cpu()}. Teacher: random {TEACHER}.",
        "",
        comparison.to_markdown().rstrip(),
        "",
        "## Beside what is published",
        "",
        "Spearman with the accuracy. *Ours*: cells that compute the same function share a score. *As written*: every "
        "network is scored as the benchmark writes it, dead and doubled layers included. *Published scores of these "
        "cells*: the scores of NAS-Bench-Suite-Zero, on those of the cells that it covers. *Difference*: ours, less "
        "the nearest published value.",
        "",
        f"On the {len(alive)} sampled cells without dead edges, beside values published for all such cells:",
        "",
        *against_published(dataset, live, written, published, ON_LIVE_CELLS),
        "",
        f"On all {len(everything.scores.architectures)} sampled cells, disconnected ones included and ranked last "
        "where they have no score, beside values published for all 15,625:",
        "",
        *against_published(dataset, everything, written, published, ON_ALL_CELLS),
        "",
        "## Beside the scores published per architecture",
        "",
        "Spearman of our scores with those of NAS-Bench-Suite-Zero, cell by cell. Weights, images and initialisation "
        "differ: *two draws of ours* is how well two draws of weights and images agree, as written, on "
        f"{args.twice} of these cells.",
        "",
        *per_architecture(scores_of(everything.scores), written, published, draws),
        "",
        "## Spread over draws",
        "",
        f"On the first {args.thrice} of the cells, mean and standard deviation over three draws of weights and images.",
        "",
        *spread_over_draws(dataset, args),
        "",
    ]
    write_report(name, [without_paths(line, args) for line in lines])


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar10", "cifar100")
    parser.add_argument("--runs", type=Path, default=Path("runs/nasbench201_proxies"))
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--twice", type=int, default=60, help="cells that are scored with a second draw")
    parser.add_argument("--thrice", type=int, default=120, help="cells that are scored with three draws")
    parser.add_argument("--datasets", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    args = parse(parser)
    for dataset in args.datasets:
        report(dataset, args)


if __name__ == "__main__":
    main()
