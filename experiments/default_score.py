"""Does the default score of a search deserve it? Effective capacity against known accuracies, and its parts left out.

Distinct cells of NAS-Bench-201 on CIFAR-10 and CIFAR-100, DisWOT's S0 by its distilled accuracies, and the students of
`distilled_truth.py`; every seed draws weights and a batch of its own. Scores are kept in --runs, so that an interrupted
run goes on. What a teacher adds is asked on the first cells, with the teacher exchanged, shuffled and taken away.

    python experiments/default_score.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import os
import platform
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import diswot_search as ds
from diswot_search.comparison.statistics import best_decile
from search_spaces import SearchSpace

RESULTS = Path(__file__).parent / "results"
SCORE = "effective_capacity"
PARTS = tuple(component.name for component in ds.get_proxy(SCORE).components)
TEACHER = "cifar_resnet110"
TEACHER_AWARE = ("semantic", "relation", "channel_relation", "diswot")
"""Likenesses between 0 and 1."""
SINGLE = ("params", "macs", "nwot", "synflow", "expressivity", "diswot", "diswot_paper")
"""What the score is compared with on tables that no other experiment has scored."""
TRUTH: dict[str, dict[str, Any]] = {"nasbench201": {"cells": 1}, "timm/regnet_32": {}, "timm/vit_32": {}}
"""Spaces of our own distilled students, and their options; those without a table are left out."""

Floats = NDArray[np.float64]
Row = tuple[str, Callable[[dict[str, Floats]], Floats]]


class Table:
    """Scores of one table: a dictionary of proxies' scores for each seed, accuracies and sizes."""

    def __init__(self, comparison: ds.Comparison) -> None:
        table = comparison.scores
        self.accuracies, self.params = table.accuracies, table.params
        self.seeds = [
            {name: scores[place] for name, scores in table.scores.items()}
            | {"log_macs": np.log(table.macs), "log_params": np.log(table.params)}
            for place in range(len(table.seeds))
        ]

    def measure(self, score: Callable[[dict[str, Floats]], Floats]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over seeds of what is asked of a score."""
        best = best_decile(self.accuracies)
        values: dict[str, list[float]] = {}
        for seed in self.seeds:
            scores = score(seed)
            for name, value in {
                "Spearman": ds.spearman(scores, self.accuracies),
                "Kendall": ds.kendall(scores, self.accuracies),
                "best 10 %": ds.spearman(scores[best], self.accuracies[best]),
                "regret": ds.regret_at_budget(scores, self.accuracies, self.params),
                "same size": ds.size_matched_agreement(scores, self.accuracies, self.params)[0],
            }.items():
                values.setdefault(name, []).append(value)
        return {
            name: (float(np.mean(found)), float(np.std(found, ddof=len(found) > 1))) for name, found in values.items()
        }


def compare(
    space: str | SearchSpace,
    table: Path,
    column: str,
    images: Path,
    runs: Path,
    draws: int,
    image_size: int = 32,
    **options: Any,
) -> ds.Comparison:
    probes = ds.create_probes(str(images), draws, batch_size=64, image_size=None if image_size == 32 else image_size)
    options = {"proxies": [SCORE, *PARTS], **options}
    return ds.compare(
        space, table=table, probe=probes, column=column, draws=draws, bootstrap=0, device="cpu", out=runs, **options
    )


def distinct_cells(count: int | None) -> tuple[list[str], set[str]]:
    """Cells that compute different functions, drawn at random, and those that were looked at while it was chosen.

    Looked at were those of `score_search.py`, and the 500 that an earlier form of the score was reported on.
    """
    space = ds.create_space("nasbench201")
    distinct = sorted({str(space.canonical(cell)) for cell in space})
    trainable = [cell for cell in distinct if space.is_trainable(space.parse(cell))]
    random.Random(0).shuffle(distinct)
    drawn = random.Random(0).sample(trainable, len(trainable))
    return drawn[:count], {*distinct[:500], *drawn[:500]}


def sum_of(*names: str) -> Callable[[dict[str, Floats]], Floats]:
    return lambda scores: np.sum([scores[name] for name in names], axis=0)


def log_ranks(*names: str) -> Callable[[dict[str, Floats]], Floats]:
    aggregate = ds.create_aggregate([*names])
    return lambda scores: aggregate.combine(scores)


def ablations() -> Iterator[Row]:
    """The score, its parts left out, alone, added and exchanged."""
    yield f"`{SCORE}`", sum_of(*PARTS)
    for part in PARTS:
        yield f"without `{part}`", sum_of(*(other for other in PARTS if other != part))
    for part in PARTS:
        yield f"`{part}` alone", sum_of(part)
    yield "`macs` for `params`", sum_of("log_macs", *PARTS[1:])
    yield "with `macs`", sum_of("log_macs", *PARTS)
    yield "the parts by log rank", log_ranks(*PARTS)


def teacher_rows(comparison: ds.Comparison) -> Iterator[Row]:
    """The score with a teacher-aware term added, by log, and the same with the teacher changed."""
    labels = ["", *(f" ({kind})" for kind in sorted({kind for _, kind in comparison.scores.controls.values()}))]
    yield f"`{SCORE}`", sum_of(SCORE)
    for name in TEACHER_AWARE:
        for label in labels:
            if name + label in comparison.scores.scores:
                yield f"+ `{name}`{label}", with_term(name + label)


def with_term(label: str) -> Callable[[dict[str, Floats]], Floats]:
    return lambda scores: scores[SCORE] + np.log(np.clip(scores[label], 1e-3, None))


def section(title: str, comparison: ds.Comparison, rows: Iterable[Row]) -> list[str]:
    """A heading and the table of a comparison, in Markdown."""
    table, columns = Table(comparison), ("Spearman", "Kendall", "best 10 %", "regret", "same size")
    lines = ["", title, "", "| score | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, score in rows:
        measured = table.measure(score)
        spread = len(table.seeds) > 1
        entries = [f"{mean:.3f}" + f" ± {std:.3f}" * spread for mean, std in (measured[column] for column in columns)]
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    return lines


def check_truth(space: SearchSpace, truth: Path) -> None:
    """The students of a table are those that will be scored."""
    for text, macs in ds.read_table(truth, "macs").items():
        if (scored := space.cost(space.parse(text)).macs) != macs:
            raise SystemExit(f"{text} in {truth} has {macs:.0f} MACs, and {scored} here: another --truth_size?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables of accuracies")
    parser.add_argument("--cifar10", type=Path, required=True, help="npz file with CIFAR-10's training images")
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100's training images")
    parser.add_argument("--cells", type=int, help="the first of them; by default all")
    parser.add_argument("--teacher_cells", type=int, default=300)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--truth_size", type=int, default=16, help="side of the images of distilled_truth.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/default_score"))
    args = parser.parse_args()
    cells, looked_at = distinct_cells(args.cells)
    unseen = [cell for cell in cells if cell not in looked_at]
    benchmark = args.tables / "nasbench201.csv.gz"
    lines = [
        "# Effective capacity, the default score of a search",
        "",
        "`python experiments/default_score.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz "
        f"--cells {len(cells)} --teacher_cells {args.teacher_cells} --draws {args.draws}`: batches of 64 training "
        f"images, of which the score reads 16, CPU float32, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores.",
        "",
        "Mean and standard deviation over seeds, each with its own weights and batch. *Best 10 %*: Spearman among the "
        "most accurate tenth. *Regret*: points lost by picking within ten budgets of parameters, mean. *Same size*: "
        "agreement in sign over pairs within 15 % of each other's parameters.",
    ]
    for dataset, images in (("cifar10", args.cifar10), ("cifar100", args.cifar100)):
        options: dict[str, Any] = {"space": "nasbench201", "table": benchmark, "column": f"{dataset}_test_accuracy"}
        options |= {"images": images, "runs": args.runs / f"nasbench201_{dataset}", "draws": args.draws}
        title = f"## NAS-Bench-201, {dataset.upper().replace('R', 'R-')}, {len(cells)} distinct cells"
        lines += section(title, compare(architectures=cells, **options), ablations())
        if unseen:
            title = f"### The {len(unseen)} among them that were in no sample by which it was chosen"
            lines += section(title, compare(architectures=unseen, **options), ablations())
    s0 = args.tables / "cifar_resnet_s0.csv"
    found = compare("cifar_resnet_s0", s0, "cifar100_kd_accuracy", args.cifar100, args.runs / "s0", args.draws)
    lines += section("## S0, distilled from ResNet-110", found, ablations())
    singles: list[Row] = [(f"`{single}`", sum_of(single)) for single in SINGLE]
    for name, of_space in TRUTH.items():
        truth, size = RESULTS / f"distilled_truth_{name.rpartition('/')[2]}.csv", args.truth_size
        if not truth.exists():
            continue
        space = ds.create_space(name, num_classes=100, input_size=(3, size, size), **of_space)
        check_truth(space, truth)
        found = compare(
            space,
            truth,
            "distilled_accuracy",
            args.cifar100,
            args.runs / f"truth_{space.name.replace('/', '_')}",
            args.draws,
            size,
            proxies=[SCORE, *PARTS, *SINGLE],
            teacher=TEACHER,
        )
        title = f"## Our own distilled students of {name}, {len(found.scores.architectures)}"
        lines += section(title, found, [*ablations(), *singles])
    found = compare(
        "nasbench201",
        benchmark,
        "cifar10_test_accuracy",
        args.cifar10,
        args.runs / "teacher",
        1,
        architectures=cells[: args.teacher_cells],
        proxies=[SCORE, *TEACHER_AWARE],
        teacher=TEACHER,
        controls=True,
    )
    title = f"## With a teacher: {len(found.scores.architectures)} cells, CIFAR-10, one seed"
    lines += section(title, found, teacher_rows(found))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "default_score.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
