"""Students for ResNet-110 in NAS-Bench-201, found without training; their true accuracies looked up afterwards.

Real CIFAR-100 images, a random ResNet-110, the score `diswot`, 1,000 evaluations, three parameter budgets. The pick of
`evolution` is compared, within the same budget, with random search by the same score and number of evaluations, the
largest cell, the mean of a uniform draw, and the best cell. With --exhaustive, the `architectures.csv` of an exhaustive
run on the same teacher, probe and seed, both searches are repeated with 20 seeds on its scores.

    diswot search --space nasbench201 --teacher cifar_resnet110 --probe data/cifar100.npz --proxy diswot \
        --algorithm exhaustive --out runs/exhaustive
    python experiments/nasbench201_search.py --tables TABLES --cifar100 data/cifar100.npz \
        --exhaustive runs/exhaustive/architectures.csv
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _common import RESULTS, best_of, make_parser, parse, replay, table, write_report

import diswot_search as ds
import search_spaces
from search_spaces import Architecture, SearchSpace

BUDGETS = (0.3e6, 0.6e6, 1.0e6)
EVALUATIONS = 1000
SEEDS = 20


class Benchmark:
    """The trainable cells of NAS-Bench-201 with their accuracies, and the scores of an exhaustive run."""

    def __init__(self, tables: Path, exhaustive: Path | None) -> None:
        self.space = search_spaces.create_space("nasbench201", num_classes=100)
        self.accuracies = search_spaces.read_table(tables / "nasbench201.csv.gz", "cifar100_test_accuracy")
        cells = [cell for cell in self.space if self.space.is_trainable(cell)]
        self.params = np.array([self.space.cost(cell).params for cell in cells])
        self.accuracy = np.array([self.accuracies[str(cell)] for cell in cells])
        self.scores = read_scores(exhaustive, self.space) if exhaustive else {}

    def replay(self, name: str, seed: int, limit: float) -> float:
        """Return the accuracy of the winner of a search on the scores of the exhaustive run."""
        space, scores = self.space, self.scores
        algorithm = ds.create_algorithm(name, space, seed=seed, feasible=lambda cell: space.cost(cell).params <= limit)
        evaluated = replay(algorithm, lambda cell: scores[space.canonical(cell)], EVALUATIONS)
        return self.accuracies[str(best_of(evaluated, space))]


def read_scores(path: Path, space: SearchSpace) -> dict[Architecture, float]:
    """Read the scores of an exhaustive run by canonical form, without failed ones."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    return {space.canonical(space.parse(row["architecture"])): float(row["score"]) for row in rows}


def mean_and_deviation(accuracies: Sequence[float] | np.ndarray) -> str:
    return f"{np.mean(accuracies):.2f} ± {np.std(accuracies):.2f}"


def describe_search(study: ds.Study, limit: float, benchmark: Benchmark) -> dict[str, str]:
    """Return a row of the report: the winner of one search, and the cells within its budget."""
    winner, within = study.winner, benchmark.params <= limit
    accuracy = benchmark.accuracies[str(winner.architecture)]
    row = {
        "budget": f"{limit / 1e6:g} M",
        "winner": str(winner.architecture).replace("|", "\\|"),
        "params": f"{winner.params / 1e6:.3f} M",
        "evolution": f"{accuracy:.2f}",
    }
    for name in ("evolution", "random") if benchmark.scores else ():
        picks = [benchmark.replay(name, seed, limit) for seed in range(SEEDS)]
        row[f"{name}, {SEEDS} seeds"] = mean_and_deviation(picks)
    largest = benchmark.params == benchmark.params[within].max()
    return row | {
        "largest cell": mean_and_deviation(benchmark.accuracy[largest]),
        "mean cell": mean_and_deviation(benchmark.accuracy[within]),
        "best cell": f"{benchmark.accuracy[within].max():.2f}",
        "better cells": f"{np.mean(benchmark.accuracy[within] > accuracy):.1%}",
        "seconds": f"{sum(record.seconds for record in study.records):.0f}",
    }


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar100")
    parser.add_argument("--exhaustive", type=Path, help="architectures.csv of an exhaustive run")
    parser.add_argument("--out", type=Path, default=Path("runs/nasbench201_search"))
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help="of the searches that are run")
    args = parse(parser)
    benchmark = Benchmark(args.tables, args.exhaustive)
    probe = ds.create_probe(str(args.cifar100), batch_size=64, seed=0)
    rows = []
    for limit in BUDGETS:
        study = ds.search(
            benchmark.space,
            ds.create_teacher("cifar_resnet110", num_classes=100),
            probe,
            proxy="diswot",
            evaluations=args.evaluations,
            budget=ds.Budget(max_params=limit),
            seed=0,
            out=args.out / f"{limit / 1e6:g}M",
        )
        rows.append(describe_search(study, limit, benchmark))
    lines = [
        "# Students for ResNet-110 in NAS-Bench-201",
        "",
        "`python experiments/nasbench201_search.py --tables TABLES --cifar100 data/cifar100.npz --exhaustive "
        "runs/exhaustive/architectures.csv`: "
        f"score `diswot`, random ResNet-110, {len(probe.labels)} CIFAR-100 "
        f"training images, {args.evaluations} evaluations, CPU.",
        "",
        "Numbers are CIFAR-100 test accuracies after 200 epochs without distillation, in percent, from the benchmark. "
        f"*evolution* is one real search; *{SEEDS} seeds* (mean and standard deviation) vary the search alone, on the "
        "scores of the exhaustive run. *Largest cell*: the cells with most parameters within the budget. *Mean cell*: "
        "all cells within it. *Better cells*: share of the cells within the budget that are better than the winner. "
        "Disconnected cells are left out everywhere. "
        f"*Seconds*: building and scoring on a shared machine, torch threads: {torch.get_num_threads()}.",
        "",
        *table(list(rows[0]), [list(row.values()) for row in rows]),
    ]
    write_report("nasbench201_search", lines)
    middle = args.out / f"{BUDGETS[1] / 1e6:g}M"
    for picture in sorted(middle.glob("*.png")):
        shutil.copy(picture, RESULTS / f"nasbench201_search_{picture.name}")


if __name__ == "__main__":
    main()
