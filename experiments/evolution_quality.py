"""How well each algorithm finds the best of NAS-Bench-201, its scores read from an exhaustive run.

Every algorithm searches with each seed, at its defaults and without a budget. The rank of an architecture is its place
among all distinct trainable cells by score, 1 the best; a failed one is behind all.

    diswot search --space nasbench201 --algorithm exhaustive --evaluations 5000 --out runs/exhaustive ...
    python experiments/evolution_quality.py runs/exhaustive/architectures.csv

The surface matters, so other columns can be taken as the score too, such as the accuracies of the benchmark:

    python experiments/evolution_quality.py nasbench201.csv --column cifar100_test_accuracy --name accuracy
"""

from __future__ import annotations

import argparse
import bisect
import csv
import gzip
import statistics
from pathlib import Path

from diswot_search.study.algorithms import create_algorithm
from diswot_search.study.records import Record
from search_spaces import Architecture, NASBench201Space

RESULTS = Path(__file__).parent / "results"
ALGORITHMS = ("evolution", "ageing", "nsga2", "random")
CHECKPOINTS = (100, 300)
TOP_SHARE = 0.005


def read_scores(path: Path, column: str, space: NASBench201Space) -> dict[Architecture, float | None]:
    """The score of every distinct trainable cell by its canonical form; None where it failed."""
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
        raise SystemExit(f"{path} is not of an exhaustive run: {missing} distinct trainable cells are missing.")
    return scores


def ranks_of(scores: dict[Architecture, float | None]) -> dict[Architecture, int]:
    """Place of each architecture by score, the first place for all that share it."""
    ascending = sorted(score for score in scores.values() if score is not None)
    return {
        architecture: len(scores) if score is None else 1 + len(ascending) - bisect.bisect_right(ascending, score)
        for architecture, score in scores.items()
    }


def search(
    name: str, seed: int, space: NASBench201Space, scores: dict[Architecture, float | None], evaluations: int
) -> list[Architecture]:
    """Canonical forms of what one search evaluates, in order."""
    algorithm = create_algorithm(name, space, seed=seed)
    done: list[Architecture] = []
    while len(done) < evaluations:
        records = []
        for architecture in algorithm.ask():
            canonical, cost = space.canonical(architecture), space.cost(architecture)
            score = scores[canonical]
            records.append(
                Record(
                    status="failed" if score is None else "ok",
                    score=score,
                    index=len(done),
                    architecture=str(architecture),
                    canonical=str(canonical),
                    params=cost.params,
                    macs=cost.macs,
                )
            )
            done.append(canonical)
        algorithm.tell(records)
    return done[:evaluations]


def write_csv(best: dict[str, list[tuple[int, ...]]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["algorithm", "seed", *(f"best_rank_{n}" for n in CHECKPOINTS)])
        writer.writerows([name, seed, *ranks] for name, rows in best.items() for seed, ranks in enumerate(rows))


def to_markdown(best: dict[str, list[tuple[int, ...]]], cells: int, failed: int, source: str) -> str:
    """The table, one row per algorithm."""
    seeds, top = len(best["random"]), int(TOP_SHARE * cells)
    lines = [
        "# How well the algorithms search NAS-Bench-201",
        "",
        f"`experiments/evolution_quality.py`; score: {source}.",
        "",
        f"{cells:,} distinct trainable cells, {failed} of them failed; {seeds} seeds per algorithm, "
        f"default options, no budget. Rank 1 is the best; the best {TOP_SHARE:.1%} are ranks 1 to {top}.",
        "",
        "| algorithm | "
        + " | ".join(f"mean best rank at {n} evaluations" for n in CHECKPOINTS)
        + f" | worst of the seeds at {CHECKPOINTS[-1]} | seeds within the best {TOP_SHARE:.1%} at {CHECKPOINTS[-1]} |",
        "|---|" + "---:|" * (len(CHECKPOINTS) + 2),
    ]
    for name, rows in best.items():
        means = " | ".join(f"{statistics.mean(column):.1f}" for column in zip(*rows, strict=True))
        last = [row[-1] for row in rows]
        lines.append(f"| {name} | {means} | {max(last)} | {sum(rank <= top for rank in last)} of {seeds} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="CSV of an exhaustive run, one row per architecture")
    parser.add_argument("--column", default="score")
    parser.add_argument("--source", help="what the score is, for the heading; by default the column and the file")
    parser.add_argument("--name", default="score", help="end of the names of the result files")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    space = NASBench201Space(num_classes=100)
    scores = read_scores(args.scores, args.column, space)
    ranks = ranks_of(scores)
    best = {}
    for name in ALGORITHMS:
        searches = [search(name, seed, space, scores, CHECKPOINTS[-1]) for seed in range(args.seeds)]
        best[name] = [tuple(min(ranks[a] for a in done[:n]) for n in CHECKPOINTS) for done in searches]
    failed = sum(score is None for score in scores.values())
    text = to_markdown(best, len(scores), failed, args.source or f"{args.column} of {args.scores.name}")
    RESULTS.mkdir(exist_ok=True)
    write_csv(best, RESULTS / f"evolution_quality_{args.name}.csv")
    (RESULTS / f"evolution_quality_{args.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
