"""Students for ResNet-110 in NAS-Bench-201, found without training; their true accuracies looked up afterwards.

Real CIFAR-100 images, a random ResNet-110, the score `diswot`, 1,000 evaluations, three parameter budgets. Beside the
pick of `evolution` stand, within the same budget: random search with the same score and number of evaluations, the
largest cell, the cell that a uniform draw gives on average, and the best there is. With --exhaustive, the
`architectures.csv` of an exhaustive run on the same teacher, probe and seed, both searches are repeated with 20 seeds
on its scores.

    diswot search --space nasbench201 --teacher cifar_resnet110 --probe data/cifar100.npz --proxy diswot \
        --algorithm exhaustive --out runs/exhaustive
    python experiments/nasbench201_search.py --tables TABLES --cifar100 data/cifar100.npz \
        --exhaustive runs/exhaustive/architectures.csv
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import diswot_search as ds
import search_spaces
from search_spaces import Architecture

RESULTS = Path(__file__).parent / "results"
BUDGETS = (0.3e6, 0.6e6, 1.0e6)
EVALUATIONS = 1000
SEEDS = 20


def look_up_search(
    name: str,
    seed: int,
    space: search_spaces.SearchSpace,
    scores: dict[Architecture, float],
    feasible: Callable[[Architecture], bool],
) -> Architecture:
    """The winner of a search whose scores are known."""
    algorithm = ds.create_algorithm(name, space, seed=seed, feasible=feasible)
    done: list[tuple[float, int, Architecture]] = []
    while len(done) < EVALUATIONS and (asked := algorithm.ask()):
        records = []
        for architecture in asked:
            canonical, cost = space.canonical(architecture), space.cost(architecture)
            record = ds.Record(
                status="ok",
                score=scores[canonical],
                index=len(done),
                architecture=str(architecture),
                canonical=str(canonical),
                params=cost.params,
                macs=cost.macs,
            )
            records.append(record)
            done.append((scores[canonical], -cost.params, architecture))
        algorithm.tell(records)
    return max(done[:EVALUATIONS], key=lambda entry: entry[:2])[2]


def spread(accuracies: Sequence[float]) -> str:
    return f"{np.mean(accuracies):.2f} ± {np.std(accuracies):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder with nasbench201.csv.gz")
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100's training images")
    parser.add_argument("--exhaustive", type=Path, help="architectures.csv of an exhaustive run")
    parser.add_argument("--out", type=Path, default=Path("runs/nasbench201_search"))
    args = parser.parse_args()

    space = search_spaces.create_space("nasbench201", num_classes=100)
    probe = ds.create_probe(str(args.cifar100), batch_size=64, seed=0)
    teacher = ds.create_teacher("cifar_resnet110", num_classes=100)
    table = search_spaces.read_table(args.tables / "nasbench201.csv.gz", "cifar100_test_accuracy")
    cells = [cell for cell in space if space.is_trainable(cell)]
    params = np.array([space.cost(cell).params for cell in cells])
    accuracy = np.array([table[str(cell)] for cell in cells])

    scores: dict[Architecture, float] = {}
    if args.exhaustive:
        with args.exhaustive.open() as file:
            for row in csv.DictReader(file):
                if row["status"] == "ok":
                    scores[space.canonical(space.parse(row["architecture"]))] = float(row["score"])

    rows = []
    for limit in BUDGETS:
        study = ds.search(
            space,
            teacher,
            probe,
            proxy="diswot",
            evaluations=EVALUATIONS,
            budget=ds.Budget(max_params=limit),
            seed=0,
            out=args.out / f"{limit / 1e6:g}M",
        )
        winner = study.winner
        within = params <= limit
        seconds = sum(record.seconds for record in study.records)
        row = {
            "budget": f"{limit / 1e6:g} M",
            "winner": str(winner.architecture),
            "params": f"{winner.params / 1e6:.3f} M",
            "evolution": f"{table[str(winner.architecture)]:.2f}",
        }
        if scores:

            def feasible(architecture: Architecture, limit: float = limit) -> bool:
                return space.cost(architecture).params <= limit

            for name in ("evolution", "random"):
                picks = [look_up_search(name, seed, space, scores, feasible) for seed in range(SEEDS)]
                row[f"{name}, {SEEDS} seeds"] = spread([table[str(pick)] for pick in picks])
        row |= {
            "largest cell": spread(accuracy[params == params[within].max()]),
            "mean cell": spread(accuracy[within]),
            "best cell": f"{accuracy[within].max():.2f}",
            "better cells": f"{np.mean(accuracy[within] > table[str(winner.architecture)]):.1%}",
            "seconds": f"{seconds:.0f}",
        }
        rows.append(row)
    lines = [
        "# Students for ResNet-110 in NAS-Bench-201",
        "",
        "`python experiments/nasbench201_search.py --tables TABLES --cifar100 data/cifar100.npz --exhaustive "
        "runs/exhaustive/architectures.csv`: "
        f"score `diswot`, random ResNet-110, {len(probe.labels)} CIFAR-100 "
        f"training images, {EVALUATIONS} evaluations, CPU.",
        "",
        "Numbers are CIFAR-100 test accuracies after 200 epochs without distillation, in percent, from the benchmark. "
        f"*evolution* is one real search; *{SEEDS} seeds* (mean and standard deviation) vary the search alone, on the "
        "scores of the exhaustive run. *Largest cell*: the cells with most parameters within the budget. *Mean cell*: "
        "all cells within it. *Better cells*: share of the cells within the budget that are better than the winner. "
        "Disconnected cells are left out everywhere. "
        f"*Seconds*: building and scoring on a shared machine, torch threads: {torch.get_num_threads()}.",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(value.replace("|", "\\|") for value in row.values()) + " |" for row in rows),
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "nasbench201_search.md").write_text("\n".join(lines))
    middle = args.out / f"{BUDGETS[1] / 1e6:g}M"
    for picture in sorted(middle.glob("*.png")):
        shutil.copy(picture, RESULTS / f"nasbench201_search_{picture.name}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
