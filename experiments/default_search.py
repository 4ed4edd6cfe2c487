"""Which student does a search pick under a budget? Scores end to end on NAS-Bench-201, by true CIFAR-100 accuracy.

For each of five budgets of parameters and five seeds, which decide weights, batch and the search's choices: evolution
by the default score, random search by it with the same number of evaluations, and evolution by the other scores. Beside
them stand the largest cells within the budget, the mean cell and the best one. A score belongs to its cell and seed, so
that it is computed once for all budgets; scores are kept in --runs, and an interrupted run goes on.

    python experiments/default_search.py --tables TABLES --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import (
    RESULTS,
    append_json,
    best_of,
    cpu,
    make_parser,
    parse,
    read_json_lines,
    replay,
    spread,
    table,
    versions,
    write_report,
)
from matplotlib.figure import Figure

import diswot_search as ds
import search_spaces
from search_spaces import Architecture, SearchSpace

BUDGETS = (0.2e6, 0.4e6, 0.6e6, 0.8e6, 1.1e6)
TEACHER = "cifar_resnet110"
SEARCHES = {
    "effective_capacity": ("evolution", "effective_capacity"),
    "random search": ("random", "effective_capacity"),
    "nwot": ("evolution", "nwot"),
    "diswot": ("evolution", "diswot"),
    "diswot_paper": ("evolution", "diswot_paper"),
}
"""The searches that are compared: the algorithm and the score of each."""


class Scores:
    """Scores of cells by one proxy and seed, computed when asked for and stored in a file; None for a failed cell."""

    def __init__(self, proxy: str, seed: int, space: SearchSpace, args: argparse.Namespace) -> None:
        self.space = space
        self.file = args.runs / f"{proxy}-{seed}.jsonl"
        self.scores: dict[str, float | None] = dict(read_json_lines(self.file))
        probe = ds.create_probe(str(args.cifar100), batch_size=64, seed=seed)
        teacher = ds.create_teacher(TEACHER, num_classes=100)
        self.evaluator = ds.Evaluator(space, teacher, probe, proxy, seeds=(seed,), device="cpu")

    def of(self, cell: Architecture) -> float | None:
        """Return the score of the canonical form of a cell."""
        if not self.space.is_trainable(cell):
            return None
        canonical = self.space.canonical(cell)
        if str(canonical) not in self.scores:
            self.scores[str(canonical)] = self.evaluator.evaluate([canonical])[0].score
            append_json(self.file, [str(canonical), self.scores[str(canonical)]])
        return self.scores[str(canonical)]


def search_all(args: argparse.Namespace, accuracy: Callable[[Architecture], float]) -> dict[str, np.ndarray]:
    """Return the true accuracies of the pick of each search, (seeds, budgets)."""
    space = search_spaces.create_space("nasbench201", num_classes=100)
    picks = {name: np.zeros((args.seeds, len(BUDGETS))) for name in SEARCHES}
    for seed in range(args.seeds):
        scores = {proxy: Scores(proxy, seed, space, args) for _, proxy in SEARCHES.values()}
        for name, (kind, proxy) in SEARCHES.items():
            for place, limit in enumerate(BUDGETS):

                def feasible(cell: Architecture, limit: float = limit) -> bool:
                    return space.cost(cell).params <= limit

                algorithm = ds.create_algorithm(kind, space, seed=seed, feasible=feasible)
                winner = best_of(replay(algorithm, scores[proxy].of, args.evaluations), space)
                picks[name][seed, place] = accuracy(winner)
            print(seed, name, picks[name][seed].round(2), flush=True)
    return picks


def draw(picks: dict[str, np.ndarray], references: dict[str, np.ndarray], path: Path) -> None:
    """Draw the accuracy of the picks over the budget."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    millions = np.array(BUDGETS) / 1e6
    for shift, (name, accuracies) in enumerate(picks.items()):
        places = millions + 0.006 * (shift - len(picks) / 2)
        deviations = accuracies.std(0, ddof=len(accuracies) > 1)
        axes.errorbar(places, accuracies.mean(0), deviations, marker="o", markersize=4, capsize=2, label=name)
    for (name, values), style in zip(references.items(), ("--", ":", "-."), strict=True):
        axes.plot(millions, values, style, color="black", linewidth=1, label=name)
    axes.set_ylim(60, 74)
    axes.set_xlabel("budget (millions of parameters)")
    axes.set_ylabel("CIFAR-100 test accuracy of the pick (%)")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--runs", type=Path, default=Path("runs/default_search"))
    args = parse(parser)
    args.runs.mkdir(parents=True, exist_ok=True)

    space = search_spaces.create_space("nasbench201", num_classes=100)
    accuracy_of = search_spaces.read_table(args.tables / "nasbench201.csv.gz", "cifar100_test_accuracy")
    cells = [cell for cell in space if space.is_trainable(cell)]
    params = np.array([space.cost(cell).params for cell in cells])
    accuracies = np.array([accuracy_of[str(cell)] for cell in cells])
    within = [params <= limit for limit in BUDGETS]
    references = {
        "best cell": np.array([accuracies[mask].max() for mask in within]),
        "largest cells": np.array([accuracies[params == params[mask].max()].mean() for mask in within]),
        "mean cell": np.array([accuracies[mask].mean() for mask in within]),
    }
    # The accuracy of a pick is of another training of the same function than that of its canonical cell.
    picks = search_all(args, lambda cell: accuracy_of[str(cell)])

    best = references["best cell"]
    rows = [[name, *map(spread, values.T), f"{(best - values).mean():.2f}"] for name, values in picks.items()]
    rows += [
        [name, *(f"{value:.2f}" for value in values), f"{(best - values).mean():.2f}"]
        for name, values in references.items()
    ]
    lines = [
        "# The student that a search picks, NAS-Bench-201 on CIFAR-100",
        "",
        f"`python experiments/default_search.py --tables TABLES --cifar100 data/cifar100.npz --seeds {args.seeds}`: "
        f"{args.evaluations} evaluations under each budget of parameters, batch 64 of training images, random "
        f"{TEACHER} for the scores that compare with a teacher, CPU float32, {versions()}, {cpu()}.",
        "",
        "True test accuracies after 200 epochs without distillation, in percent, from the benchmark: mean and "
        f"standard deviation over {args.seeds} seeds. *Regret*: the best cell within the budget less the pick, mean "
        "over budgets and seeds. *Largest*: mean of the cells with most parameters within the budget. Disconnected "
        "cells are left out.",
        "",
        *table(["picked by", *(f"{limit / 1e6:g} M" for limit in BUDGETS), "regret"], rows),
    ]
    write_report("default_search", lines)
    draw(picks, references, RESULTS / "default_search.png")


if __name__ == "__main__":
    main()
