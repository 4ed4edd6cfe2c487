"""Every proxy against the known accuracies of 239 random cells of NAS-Bench-101, a space that no score was chosen on.

The cells and the scores that NAS-Bench-Suite-Zero published for them are in `nasbench101_sample.csv`. The report has
correlations with intervals, regret at a budget, what the teacher adds (controls) and what a score costs, with pictures;
whether the parameters of every cell are those of the table; and our scores beside the published ones, cell by cell.
Scores are kept in --runs, so that an interrupted run goes on and another one computes only what is missing.

    python experiments/nasbench101_proxies.py --tables TABLES/tables --cifar10 data/cifar10.npz
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from _common import DATA, RESULTS, cpu, make_parser, options_text, parse, table, versions, without_paths, write_report
from scipy.stats import kendalltau

import diswot_search as ds
from search_spaces import NASBench101Space

TEACHER = "cifar_resnet110"
PUBLISHED = ("snip", "jacov", "grad_norm", "epe_nas", "fisher", "grasp", "l2_norm", "synflow")
"""Columns of scores by NAS-Bench-Suite-Zero."""
HIGHEST = "InTrain (CVPR 2026) reports a Kendall of 0.56 on NAS-Bench-101, the highest published one of a single score."

Rows = dict[str, dict[str, str]]


def read_cells(args: argparse.Namespace) -> Rows:
    """Read the rows of the sample by the text of their cell, as many as are asked for."""
    space = NASBench101Space()
    with (args.tables / "nasbench101_sample.csv").open() as file:
        rows = list(csv.DictReader(file))[: args.cells]
    return {str(space.from_matrix(matrix_of(row), row["ops"].split(","))): row for row in rows}


def matrix_of(row: dict[str, str]) -> list[list[int]]:
    return [[int(digit) for digit in line] for line in row["matrix"].split("|")]


def equal_parameters(rows: Rows) -> int:
    """Return the number of cells whose parameters are those of the table."""
    space = NASBench101Space()
    return sum(
        space.cost(space.parse(text)).params == round(float(row["params_m"]) * 1e6) for text, row in rows.items()
    )


def compare(rows: Rows, args: argparse.Namespace) -> ds.Comparison:
    """Compare proxies on the sample; scores of earlier runs are used again."""
    return ds.compare(
        ds.create_space("nasbench101"),
        args.proxies or [*ds.list_proxies(), *ds.list_aggregates()],
        {text: float(row["val_accuracy"]) for text, row in rows.items()},
        ds.create_probes(str(args.cifar10), args.draws, batch_size=args.batch_size, balanced=False),
        teacher=TEACHER,
        weight_draws=args.draws,
        controls=True,
        device="cpu",
        out=args.runs,
    )


def beside_published(comparison: ds.Comparison, rows: Rows) -> list[str]:
    """Return a table of Kendall's tau with the accuracy, and of Spearman between our scores and the published ones."""
    scores = comparison.scores
    lines = []
    for name in PUBLISHED:
        if name not in scores.scores:
            continue
        ours = scores.scores[name].mean(axis=0).tolist()
        theirs = [float(rows[cell][name]) for cell in scores.architectures]
        taus = [kendalltau(values, scores.accuracies).statistic for values in (ours, theirs)]
        lines.append([f"`{name}`", *(f"{tau:+.3f}" for tau in taus), f"{ds.spearman(ours, theirs):+.3f}"])
    return table(["proxy", "ours", "published scores of these cells", "Spearman of the two"], lines)


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar10")
    parser.set_defaults(tables=DATA / "tables")
    parser.add_argument("--runs", type=Path, default=Path("runs/nasbench101_proxies"))
    parser.add_argument("--cells", type=int, default=239, help="the first cells of the sample")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--proxies", nargs="+", help="by default all proxies and aggregates")
    args = parse(parser)
    rows = read_cells(args)
    comparison = compare(rows, args)
    for picture, content in comparison.pictures():
        (RESULTS / f"nasbench101_proxies_{picture}").write_bytes(content)
    (RESULTS / "nasbench101_proxies.csv").write_text(without_paths(comparison.to_csv(), args))
    lines = [
        f"# Every proxy on {len(rows)} cells of NAS-Bench-101, CIFAR-10",
        "",
        "`python experiments/nasbench101_proxies.py --tables TABLES/tables --cifar10 data/cifar10.npz "
        f"{options_text(args, 'cells', 'draws', 'batch_size', 'proxies')}`, training images, one batch and one draw of "
        f"weights a seed, CPU float32, {versions()}, {cpu()}. Teacher: random {TEACHER}. Validation accuracy after 108 "
        f"epochs. No score was chosen on this space. {HIGHEST}",
        "",
        f"The parameters of {equal_parameters(rows)} of {len(rows)} cells are those of the table.",
        "",
        comparison.to_markdown().rstrip(),
        "",
        "## Beside the scores published per architecture",
        "",
        "Kendall's tau with the accuracy, by our scores and by those of NAS-Bench-Suite-Zero, and Spearman of the two. "
        "Weights, images and initialisation differ.",
        "",
        *beside_published(comparison, rows),
        "",
    ]
    write_report("nasbench101_proxies", [without_paths(line, args) for line in lines])


if __name__ == "__main__":
    main()
