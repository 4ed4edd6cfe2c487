"""Which student does a search pick under a budget? Scores end to end on NAS-Bench-201, by true CIFAR-100 accuracy.

For each of five budgets of parameters and five seeds, which decide weights, batch and the search's choices: evolution
by the default score, random search by it with the same number of evaluations, and evolution by the other scores. Beside
them stand the largest cells within the budget, the mean cell and the best one. A score belongs to its cell and seed, so
that it is computed once for all budgets; scores are kept in --runs, and an interrupted run goes on.

    python experiments/default_search.py --tables TABLES --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import diswot_search as ds
import search_spaces
from search_spaces import Architecture

RESULTS = Path(__file__).parent / "results"
BUDGETS = (0.2e6, 0.4e6, 0.6e6, 0.8e6, 1.1e6)
EVALUATIONS = 300
TEACHER = "cifar_resnet110"
SEARCHES = {
    "effective_capacity": ("evolution", "effective_capacity"),
    "random search": ("random", "effective_capacity"),
    "nwot": ("evolution", "nwot"),
    "diswot": ("evolution", "diswot"),
    "diswot_paper": ("evolution", "diswot_paper"),
}
"""What is compared: algorithm and score."""


class Scores:
    """Scores of cells by one proxy and seed, computed when asked for and kept in a file; None where it failed."""

    def __init__(self, proxy: str, seed: int, space: search_spaces.SearchSpace, args: argparse.Namespace) -> None:
        self.file = args.runs / f"{proxy}-{seed}.jsonl"
        self.known: dict[str, float | None] = {}
        if self.file.exists():
            self.known = dict(map(json.loads, self.file.read_text().splitlines()))
        probe = ds.create_probe(str(args.cifar100), batch_size=64, seed=seed)
        self.evaluator = ds.Evaluator(
            space, ds.create_teacher(TEACHER, num_classes=100), probe, proxy, seeds=(seed,), device="cpu"
        )

    def of(self, cell: Architecture) -> float | None:
        if str(cell) not in self.known:
            self.known[str(cell)] = self.evaluator.evaluate([cell])[0].score
            with self.file.open("a") as file:
                file.write(json.dumps([str(cell), self.known[str(cell)]]) + "\n")
        return self.known[str(cell)]


def search(
    algorithm: str, scores: Scores, space: search_spaces.SearchSpace, seed: int, limit: float, evaluations: int
) -> Architecture:
    """The winner: the highest score, the smaller cell of equal ones."""
    asking = ds.create_algorithm(algorithm, space, seed=seed, feasible=lambda cell: space.cost(cell).params <= limit)
    done: list[tuple[float, int, Architecture]] = []
    evaluated = 0
    while evaluated < evaluations and (asked := asking.ask()):
        records = []
        for cell in asked[: evaluations - evaluated]:
            canonical, params = space.canonical(cell), space.cost(cell).params
            score = scores.of(canonical) if space.is_trainable(cell) else None
            records.append(
                ds.Record(
                    status="failed" if score is None else "ok",
                    score=score,
                    index=evaluated,
                    architecture=str(cell),
                    canonical=str(canonical),
                    params=params,
                    macs=space.cost(cell).macs,
                )
            )
            evaluated += 1
            if score is not None:
                done.append((score, -params, cell))
        asking.tell(records)
    return max(done, key=lambda entry: entry[:2])[2]


def picks(args: argparse.Namespace, accuracy: Callable[[Architecture], float]) -> dict[str, np.ndarray]:
    """True accuracies of what each search picks, (seeds, budgets)."""
    space = search_spaces.create_space("nasbench201", num_classes=100)
    found = {name: np.zeros((args.seeds, len(BUDGETS))) for name in SEARCHES}
    for seed in range(args.seeds):
        scores = {proxy: Scores(proxy, seed, space, args) for _, proxy in SEARCHES.values()}
        for name, (algorithm, proxy) in SEARCHES.items():
            for place, limit in enumerate(BUDGETS):
                winner = search(algorithm, scores[proxy], space, seed, limit, EVALUATIONS)
                found[name][seed, place] = accuracy(winner)
            print(seed, name, found[name][seed].round(2), flush=True)
    return found


def draw(found: dict[str, np.ndarray], references: dict[str, list[float]]) -> bytes:
    """Accuracy of the picks over the budget."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    millions = np.array(BUDGETS) / 1e6
    for shift, (name, accuracies) in enumerate(found.items()):
        place = millions + 0.006 * (shift - len(found) / 2)
        axes.errorbar(
            place,
            accuracies.mean(0),
            accuracies.std(0, ddof=len(accuracies) > 1),
            marker="o",
            markersize=4,
            capsize=2,
            label=name,
        )
    for (name, values), style in zip(references.items(), ("--", ":", "-."), strict=True):
        axes.plot(millions, values, style, color="black", linewidth=1, label=name)
    axes.set_ylim(60, 74)
    axes.set_xlabel("budget (millions of parameters)")
    axes.set_ylabel("CIFAR-100 test accuracy of the pick (%)")
    axes.legend(fontsize=7, ncols=2)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder with nasbench201.csv.gz")
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100's training images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/default_search"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)

    space = search_spaces.create_space("nasbench201", num_classes=100)
    table = search_spaces.read_table(args.tables / "nasbench201.csv.gz", "cifar100_test_accuracy")
    cells = [cell for cell in space if space.is_trainable(cell)]
    params = np.array([space.cost(cell).params for cell in cells])
    accuracies = np.array([table[str(cell)] for cell in cells])
    within = [params <= limit for limit in BUDGETS]
    references = {
        "best cell": [accuracies[mask].max() for mask in within],
        "largest cells": [accuracies[params == params[mask].max()].mean() for mask in within],
        "mean cell": [accuracies[mask].mean() for mask in within],
    }
    # The pick's own entry is another training of the same function as that of its canonical cell.
    found = picks(args, lambda cell: table[str(cell)])

    header = [f"{limit / 1e6:g} M" for limit in BUDGETS]
    lines = [
        "# The student that a search picks, NAS-Bench-201 on CIFAR-100",
        "",
        f"`python experiments/default_search.py --tables TABLES --cifar100 data/cifar100.npz --seeds {args.seeds}`: "
        f"{EVALUATIONS} evaluations under each budget of parameters, batch 64 of training images, random {TEACHER} for "
        f"the scores that compare with a teacher, CPU float32, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores.",
        "",
        "True test accuracies after 200 epochs without distillation, in percent, from the benchmark: mean and "
        f"standard deviation over {args.seeds} seeds. *Regret*: the best cell within the budget less the pick, mean "
        "over budgets and seeds. *Largest*: mean of the cells with most parameters within the budget. Disconnected "
        "cells are left out.",
        "",
        "| picked by | " + " | ".join(header) + " | regret |",
        "|" + "---|" * (len(header) + 2),
    ]
    best = np.array(references["best cell"])
    for name, values in found.items():
        entries = [
            f"{mean:.2f} ± {std:.2f}"
            for mean, std in zip(values.mean(0), values.std(0, ddof=len(values) > 1), strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(entries) + f" | {(best - values).mean():.2f} |")
    for name, reference in references.items():
        entries = [f"{value:.2f}" for value in reference]
        lines.append(f"| {name} | " + " | ".join(entries) + f" | {(best - np.array(reference)).mean():.2f} |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "default_search.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "default_search.png").write_bytes(draw(found, references))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
