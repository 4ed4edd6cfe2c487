"""Does the default score of a search deserve it? Effective capacity against known accuracies, and its parts left out.

Distinct cells of NAS-Bench-201 on CIFAR-10 and CIFAR-100, DisWOT's S0 by its distilled accuracies, and the students of
`distilled_truth.py`; every seed draws weights and a batch of its own. Scores are kept in --runs, so that an interrupted
run goes on. What a teacher adds is asked on the first cells, with the teacher exchanged, shuffled and taken away.

    python experiments/default_score.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpu, distinct_cells, make_parser, parse, table, versions, write_report
from _truth import SPACES, space_of, table_of
from numpy.typing import NDArray

import diswot_search as ds
from search_spaces import SearchSpace

SCORE = "effective_capacity"
PARTS = tuple(component.name for component in ds.get_proxy(SCORE).components)
TEACHER = "cifar_resnet110"
TEACHER_AWARE = ("semantic", "relation", "channel_relation", "diswot")
"""Proxies between 0 and 1 that compare with the teacher."""
SINGLE = ("params", "macs", "nwot", "synflow", "expressivity", "diswot", "diswot_paper")
"""The proxies that the score is compared with on tables that no other experiment has scored."""

Floats = NDArray[np.float64]
Row = tuple[str, Callable[[dict[str, Floats]], Floats]]


class Scores:
    """The scores of one comparison by seed and proxy, with accuracies and sizes."""

    def __init__(self, comparison: ds.Comparison) -> None:
        scores = comparison.scores
        self.accuracies, self.params = scores.accuracies, scores.params
        self.seeds = [
            {name: by_seed[place] for name, by_seed in scores.scores.items()}
            | {"log_macs": np.log(scores.macs), "log_params": np.log(scores.params)}
            for place in range(len(scores.seeds))
        ]

    def measure(self, score: Callable[[dict[str, Floats]], Floats]) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation over seeds of each statistic of a score."""
        best = ds.best_decile(self.accuracies)
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
            name: (float(np.mean(by_seed)), float(np.std(by_seed, ddof=len(by_seed) > 1)))
            for name, by_seed in values.items()
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
        space,
        table=table,
        probe=probes,
        column=column,
        weight_draws=draws,
        bootstrap=0,
        device="cpu",
        out=runs,
        **options,
    )


def sum_of(*names: str) -> Callable[[dict[str, Floats]], Floats]:
    return lambda scores: np.sum([scores[name] for name in names], axis=0)


def log_ranks(*names: str) -> Callable[[dict[str, Floats]], Floats]:
    aggregate = ds.create_aggregate([*names])
    return lambda scores: aggregate.combine(scores)


def ablations() -> Iterator[Row]:
    """Yield the score, its parts left out, alone, added and exchanged."""
    yield f"`{SCORE}`", sum_of(*PARTS)
    for part in PARTS:
        yield f"without `{part}`", sum_of(*(other for other in PARTS if other != part))
    for part in PARTS:
        yield f"`{part}` alone", sum_of(part)
    yield "`macs` for `params`", sum_of("log_macs", *PARTS[1:])
    yield "with `macs`", sum_of("log_macs", *PARTS)
    yield "the parts by log rank", log_ranks(*PARTS)


def teacher_rows(comparison: ds.Comparison) -> Iterator[Row]:
    """Yield the score with the log of a teacher-aware term added, and the same under each control."""
    labels = ["", *(f" ({kind})" for kind in sorted({kind for _, kind in comparison.scores.controls.values()}))]
    yield f"`{SCORE}`", sum_of(SCORE)
    for name in TEACHER_AWARE:
        for label in labels:
            if name + label in comparison.scores.scores:
                yield f"+ `{name}`{label}", with_term(name + label)


def with_term(label: str) -> Callable[[dict[str, Floats]], Floats]:
    return lambda scores: scores[SCORE] + np.log(np.clip(scores[label], 1e-3, None))


def section(title: str, comparison: ds.Comparison, rows: Iterable[Row]) -> list[str]:
    """Return a heading and the table of a comparison, in Markdown."""
    scores, columns = Scores(comparison), ("Spearman", "Kendall", "best 10 %", "regret", "same size")
    cells = []
    for name, score in rows:
        statistics = scores.measure(score)
        pairs = (statistics[column] for column in columns)
        cells.append([name, *(f"{mean:.3f}" + f" ± {std:.3f}" * (len(scores.seeds) > 1) for mean, std in pairs)])
    return ["", title, "", *table(["score", *columns], cells, align="---:")]


def check_truth(space: SearchSpace, truth: Path) -> None:
    """Check that the students of a table are those that will be scored."""
    for text, macs in ds.read_table(truth, "macs").items():
        if (scored := space.cost(space.parse(text)).macs) != macs:
            raise SystemExit(f"{text} in {truth} has {macs:.0f} MACs, and {scored} here: another --truth_size?")


def benchmark_sections(args: argparse.Namespace, cells: list[str], chosen_on: set[str]) -> Iterator[str]:
    """Yield the sections on NAS-Bench-201: all cells, and those that the score was not chosen on."""
    unseen = [cell for cell in cells if cell not in chosen_on]
    for dataset, images in (("cifar10", args.cifar10), ("cifar100", args.cifar100)):
        options: dict[str, Any] = {"space": "nasbench201", "table": args.tables / "nasbench201.csv.gz"}
        options |= {"column": f"{dataset}_test_accuracy", "images": images, "draws": args.draws}
        options |= {"runs": args.runs / f"nasbench201_{dataset}"}
        title = f"## NAS-Bench-201, {dataset.upper().replace('R', 'R-')}, {len(cells)} distinct cells"
        yield from section(title, compare(architectures=cells, **options), ablations())
        if unseen:
            title = f"### The {len(unseen)} among them that were in no sample by which it was chosen"
            yield from section(title, compare(architectures=unseen, **options), ablations())


def truth_sections(args: argparse.Namespace) -> Iterator[str]:
    """Yield the sections on the students of distilled_truth.py."""
    rows = [*ablations(), *((f"`{name}`", sum_of(name)) for name in SINGLE)]
    for name in SPACES:
        truth, size = table_of(name), args.truth_size
        if truth.exists():
            space = space_of(name, size)
            check_truth(space, truth)
            comparison = compare(
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
            title = f"## Our own distilled students of {name}, {len(comparison.scores.architectures)}"
            yield from section(title, comparison, rows)


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar10", "cifar100")
    parser.add_argument("--cells", type=int, help="the first of them; by default all")
    parser.add_argument("--teacher_cells", type=int, default=300)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--truth_size", type=int, default=16, help="side of the images of distilled_truth.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/default_score"))
    args = parse(parser)
    cells, chosen_on = distinct_cells(args.cells)
    lines = [
        "# Effective capacity, the default score of a search",
        "",
        "`python experiments/default_score.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz "
        f"--cells {len(cells)} --teacher_cells {args.teacher_cells} --draws {args.draws}`: batches of 64 training "
        f"images, of which the score reads 16, CPU float32, {versions()}, {cpu()}.",
        "",
        "Mean and standard deviation over seeds, each with its own weights and batch. *Best 10 %*: Spearman among the "
        "most accurate tenth. *Regret*: points lost by picking within ten budgets of parameters, mean. *Same size*: "
        "agreement in sign over pairs within 15 % of each other's parameters.",
        *benchmark_sections(args, cells, chosen_on),
    ]
    s0 = args.tables / "cifar_resnet_s0.csv"
    comparison = compare("cifar_resnet_s0", s0, "cifar100_kd_accuracy", args.cifar100, args.runs / "s0", args.draws)
    lines += section("## S0, distilled from ResNet-110", comparison, ablations())
    lines += truth_sections(args)
    comparison = compare(
        "nasbench201",
        args.tables / "nasbench201.csv.gz",
        "cifar10_test_accuracy",
        args.cifar10,
        args.runs / "teacher",
        1,
        architectures=cells[: args.teacher_cells],
        proxies=[SCORE, *TEACHER_AWARE],
        teacher=TEACHER,
        controls=True,
    )
    title = f"## With a teacher: {len(comparison.scores.architectures)} cells, CIFAR-10, one seed"
    lines += section(title, comparison, teacher_rows(comparison))
    write_report("default_score", lines)


if __name__ == "__main__":
    main()
