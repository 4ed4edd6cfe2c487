"""How well each algorithm finds the best of NAS-Bench-201, its scores read from an exhaustive run.

Every algorithm searches with each seed, at its defaults and without a budget. The rank of an architecture is its place
among all distinct trainable cells by score, 1 the best; a failed one is behind all.

    diswot search --space nasbench201 --algorithm exhaustive --evaluations 5000 --out runs/exhaustive ...
    python experiments/evolution_quality.py runs/exhaustive/architectures.csv

The surface matters, so other columns can be taken as the score too, such as the accuracies of the benchmark:

    python experiments/evolution_quality.py nasbench201.csv --column cifar100_test_accuracy --name accuracy
"""

from __future__ import annotations

import bisect
import csv
import gzip
import statistics
from pathlib import Path

from _common import RESULTS, make_parser, parse, replay, table, write_csv, write_report

import diswot_search as ds
from search_spaces import Architecture, NASBench201Space

ALGORITHMS = ("evolution", "ageing", "nsga2", "random")
CHECKPOINTS = (100, 300)
TOP_SHARE = 0.005


def read_scores(path: Path, column: str, space: NASBench201Space) -> dict[Architecture, float | None]:
    """Read the score of every distinct trainable cell by its canonical form; None for a cell that failed."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [(space.parse(row.get("architecture") or row["arch"]), row[column]) for row in csv.DictReader(file)]
    scores: dict[Architecture, float | None] = {}
    for architecture, text in rows:
        canonical = space.canonical(architecture)
        # Equal cells may have different numbers, as in the benchmark's own table; the canonical one's counts.
        if space.is_trainable(architecture) and (canonical not in scores or architecture == canonical):
            scores[canonical] = float(text) if text else None
    missing = len({space.canonical(a) for a in space if space.is_trainable(a)}) - len(scores)
    if missing:
        raise SystemExit(f"{path} does not hold an exhaustive run: {missing} distinct trainable cells are missing.")
    return scores


def ranks_of(scores: dict[Architecture, float | None]) -> dict[Architecture, int]:
    """Return the place of each architecture by score; equal scores share the first of their places."""
    ascending = sorted(score for score in scores.values() if score is not None)
    return {
        architecture: len(scores) if score is None else 1 + len(ascending) - bisect.bisect_right(ascending, score)
        for architecture, score in scores.items()
    }


def search(
    name: str, seed: int, space: NASBench201Space, scores: dict[Architecture, float | None]
) -> list[Architecture]:
    """Return the canonical forms of the cells that one search evaluates, in order."""
    algorithm = ds.create_algorithm(name, space, seed=seed)
    evaluated = replay(algorithm, lambda cell: scores[space.canonical(cell)], CHECKPOINTS[-1])
    return [space.canonical(cell) for cell, _ in evaluated]


def describe(best: dict[str, list[tuple[int, ...]]], cells: int, failed: int, source: str) -> list[str]:
    """Return the report, with one row per algorithm."""
    seeds, top, last = len(best["random"]), int(TOP_SHARE * cells), CHECKPOINTS[-1]
    rows = []
    for name, ranks in best.items():
        means = [f"{statistics.mean(column):.1f}" for column in zip(*ranks, strict=True)]
        final = [row[-1] for row in ranks]
        rows.append([name, *means, f"{max(final)}", f"{sum(rank <= top for rank in final)} of {seeds}"])
    head = [
        "algorithm",
        *(f"mean best rank at {count} evaluations" for count in CHECKPOINTS),
        f"worst of the seeds at {last}",
        f"seeds within the best {TOP_SHARE:.1%} at {last}",
    ]
    return [
        "# How well the algorithms search NAS-Bench-201",
        "",
        f"`experiments/evolution_quality.py`; score: {source}.",
        "",
        f"{cells:,} distinct trainable cells, {failed} of them failed; {seeds} seeds per algorithm, "
        f"default options, no budget. Rank 1 is the best; the best {TOP_SHARE:.1%} are ranks 1 to {top}.",
        "",
        *table(head, rows, align="---:"),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("scores", type=Path, help="CSV of an exhaustive run, one row per architecture")
    parser.add_argument("--column", default="score")
    parser.add_argument("--source", help="description of the score in the heading; by default the column and the file")
    parser.add_argument("--name", default="score", help="end of the names of the result files")
    parser.add_argument("--seeds", type=int, default=20)
    args = parse(parser)
    space = NASBench201Space(num_classes=100)
    scores = read_scores(args.scores, args.column, space)
    ranks = ranks_of(scores)
    best = {}
    for name in ALGORITHMS:
        searches = [search(name, seed, space, scores) for seed in range(args.seeds)]
        best[name] = [tuple(min(ranks[cell] for cell in cells[:n]) for n in CHECKPOINTS) for cells in searches]
    head = ["algorithm", "seed", *(f"best_rank_{count}" for count in CHECKPOINTS)]
    by_seed = ([name, seed, *seed_ranks] for name, rows in best.items() for seed, seed_ranks in enumerate(rows))
    write_csv(RESULTS / f"evolution_quality_{args.name}.csv", head, by_seed)
    failed = sum(score is None for score in scores.values())
    source = args.source or f"{args.column} of {args.scores.name}"
    write_report(f"evolution_quality_{args.name}", describe(best, len(scores), failed, source))


if __name__ == "__main__":
    main()
