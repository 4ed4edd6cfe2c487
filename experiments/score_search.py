"""The search for the default score: statistics of random networks, alone, in sums, and added to the sum.

Statistics of 400 distinct connected cells of NAS-Bench-201 on CIFAR-10 images, and of the 64 CIFAR ResNets of S0 on
CIFAR-100 images, are measured first, one line of JSON each, and stored in --runs: an interrupted run goes on, and any
number of processes can share the work (--part 1/2, --part 2/2, then once without). The report is made from these lines.

The cells are in a seeded random order. Those at even places are half A, by which everything is ordered; the others are
half B, which shows how much of that order is chance. S0 shows what holds for these cells only.

    python experiments/score_search.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import itertools
import math
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from _common import RESULTS, append_json, cpu, make_parser, parse, read_json_lines, table, versions, write_report
from _score_judges import COLUMNS, PIXELS, SUMMED, Judges, Line, Pool, Tried, changes, plain
from _score_statistics import CHOSEN, GROUPS, likeness, references

import diswot_search as ds
import search_spaces

TEACHERS = ("cifar_resnet110", "cifar_wrn_40_2", "resnet18")
TEACHER_SEEDS = (0, 1)
DRAWS = {"first": (0, 0), "other weights": (1, 0), "other images": (0, 1)}
"""The seeds of weights and images. Halves A and B are of the first draw; the others show how much is chance."""

Key = tuple[str, str, str]
"""Architecture, set and draw."""
Row = Sequence[str | float]

# -- measuring ----------------------------------------------------------------------------------

FORWARD_NEEDS = ("block_entropies", "block_features", "stage_features", "code_gram", "sign_patterns", "leaf_maps")
BACKWARD_NEEDS = ("gradients", "block_gradients", "input_jacobian")


def choose(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return architectures and known accuracies: distinct connected cells in a seeded order, and S0."""
    cells = search_spaces.create_space("nasbench201", num_classes=10)
    distinct = sorted({str(cells.canonical(cell)) for cell in cells})
    random.Random(0).shuffle(distinct)
    connected = (text for text in distinct if cells.is_trainable(cells.parse(text)))
    trained = ds.read_table(args.tables / "nasbench201.csv.gz", "cifar10_test_accuracy")
    distilled = ds.read_table(args.tables / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    return {"cells": dict(trained.select(itertools.islice(connected, args.cells))), "s0": dict(distilled)}


def plan(args: argparse.Namespace, accuracies: Mapping[str, Mapping[str, float]]) -> list[Key]:
    """Return the networks to measure."""
    first = [(text, name, "first") for name, of_set in accuracies.items() for text in of_set]
    again = list(accuracies["cells"])[: args.again]
    return first + [(text, "cells", draw) for draw in list(DRAWS)[1:] for text in again]


class Bench:
    """The space, the images and the teachers of one set in one draw."""

    def __init__(self, name: str, draw: str, args: argparse.Namespace) -> None:
        self.seed, images = DRAWS[draw]
        space, data = {"cells": ("nasbench201", args.cifar10), "s0": ("cifar_resnet_s0", args.cifar100)}[name]
        probe = ds.create_probe(str(data), batch_size=64, seed=images)
        self.space = search_spaces.create_space(space, num_classes=probe.num_classes)
        first = ds.Probe.from_tensors(probe.images[:32], probe.labels[:32], probe.num_classes)
        self.evaluator = ds.Evaluator(self.space, None, (probe, first), "params", device="cpu")
        self.teachers = {
            f"{teacher} {seed}": ds.read_network(ds.create_teacher(teacher, num_classes=probe.num_classes), probe, seed)
            for teacher in TEACHERS
            for seed in TEACHER_SEEDS
        }
        self.references = references(probe, self.teachers)

    def measure(self, text: str, names: Sequence[str]) -> Line:
        """Measure a network: statistics by group and name, processor seconds by group, and why a group failed."""
        student, part = (
            self.evaluator.read_student(self.space.parse(text), self.seed, index, needs)
            for index, needs in enumerate((FORWARD_NEEDS, BACKWARD_NEEDS))
        )
        groups = GROUPS | {"teacher": lambda student, _: likeness(student, self.teachers, self.references)}
        line: Line = {"values": {}, "seconds": {}, "failed": {}}
        for name in names:
            started = time.process_time()
            try:
                line["values"][name] = groups[name](student, part)
            except Exception as error:  # a network may fail in any way
                line["failed"][name] = repr(error)
            line["seconds"][name] = time.process_time() - started
        return line


def measure(args: argparse.Namespace, work: Sequence[Key]) -> None:
    """Measure the networks of this process's part that no line holds yet."""
    index, parts = (int(number) for number in args.part.split("/"))
    lines = read_lines(args.runs)
    benches: dict[tuple[str, str], Bench] = {}
    for key in work[index - 1 :: parts]:
        text, name, draw = key
        measured = {} if args.anew or key not in lines else lines[key]["seconds"]
        missing = [group for group in args.groups if group not in measured]
        if not missing:
            continue
        if (name, draw) not in benches:
            benches = {(name, draw): Bench(name, draw, args)}
        line = {"key": key} | benches[name, draw].measure(text, missing)
        append_json(args.runs / f"statistics-{index}-{parts}.jsonl", line)


def read_lines(folder: Path) -> dict[Key, Line]:
    """Return the measurements of each network, from the lines of all processes."""
    lines: dict[Key, Line] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in read_json_lines(path):
            merged = lines.setdefault(tuple(line["key"]), {"values": {}, "seconds": {}, "failed": {}})
            for part in merged:
                merged[part] |= line[part]
    return lines


# -- the report ---------------------------------------------------------------------------------


def as_table(titles: Sequence[str], rows: Iterable[Row]) -> list[str]:
    return [*table(titles, [[*map(as_text, titles, row)] for row in rows]), ""]


def as_text(title: str, cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return ""
    return f"{cell:.2f}" if "regret" in title else f"{cell:+.3f}"


def describe_sums(judges: Judges, kind: str) -> list[str]:
    """Describe all sums, and those that order S0 as well as size does: their number, quantiles and the best on A."""
    tried = judges.try_sums(kind)
    of_size = ds.kendall(judges.s0.params, judges.s0.accuracies)
    lines = []
    for which, sums in (("All", tried), ("As good as parameters on S0", [one for one in tried if one[3] >= of_size])):
        lines += [f"### {which}: {len(sums):,}", "", *describe_best(judges, kind, sums), ""] if sums else []
    return lines


def describe_best(judges: Judges, kind: str, tried: Sequence[Tried]) -> list[str]:
    on_a, on_b = np.array([one[1:3] for one in tried]).T
    quantiles = ", ".join(f"{np.quantile(on_a, share):.3f}" for share in (0.05, 0.25, 0.5, 0.75, 0.95))
    default = [pool.correlate([pool.sum(plain(CHOSEN), kind)])[0] for pool in (judges.a, judges.b)]
    places = [1 + int((values > own).sum()) for values, own in zip((on_a, on_b), default, strict=True)]
    best: list[Row] = [(" + ".join(names), *judges.values(plain(names), kind)) for names, *_ in tried[:15]]
    return [
        f"Spearman on A: quantiles 5, 25, 50, 75 and 95 % {quantiles}, best {on_a[0]:.3f}. Mean of the best 15: "
        f"{on_a[:15].mean():.3f} on A, {on_b[:15].mean():.3f} on B. Rank correlation, over all these sums, of Spearman "
        f"on A and on B: {ds.spearman(on_a, on_b):.3f}.",
        f"The default's {len(CHOSEN)} terms have {default[0]:.3f} and {default[1]:.3f}: among these they would be "
        f"number {places[0]} on A, {places[1]} on B.",
        "",
        *as_table(("sum", *COLUMNS), best),
    ]


def describe_draws(lines: Mapping[Key, Line], accuracies: Mapping[str, float], count: int) -> list[str]:
    """Describe how much of a statistic is chance: rank correlation of two draws, and Spearman of each draw."""
    cells = [text for text in accuracies if all((text, "cells", draw) in lines for draw in DRAWS)][:count]
    pools = [Pool([lines[text, "cells", draw] for text in cells], [accuracies[t] for t in cells]) for draw in DRAWS]
    terms = {"**the chosen sum**": CHOSEN} | {name: (name,) for name in dict.fromkeys((*CHOSEN, *SUMMED))}
    rows: list[Row] = []
    for label, names in terms.items():
        if any(name not in pool.natural for name in names for pool in pools):
            continue
        first, *others = (pool.sum(plain(names)) for pool in pools)
        alone = [ds.spearman(scores, pools[0].accuracies) for scores in (first, *others)]
        mean = ds.spearman(np.mean([first, *others], axis=0), pools[0].accuracies)
        rows.append((label, *(ds.spearman(first, other) for other in others), *alone, mean))
    titles = ("statistic", "first and other weights", "first and other images", *DRAWS, "mean of the three")
    return [
        "## How much is chance",
        "",
        f"Rank correlation of two draws of the same {len(cells)} cells, Spearman with the accuracy in each draw, and "
        "of the mean.",
        "",
        *as_table(titles, rows),
    ]


def compare_on_cells(judges: Judges, best: Sequence[str]) -> str:
    """Return intervals of the chosen sum, and of its difference to the best sum on A."""
    parts = []
    for label, pool in (("A", judges.a), ("B", judges.b)):
        scores = np.stack([pool.sum(plain(names)) for names in (CHOSEN, best)])
        counts = ds.draw_resamples(len(pool.accuracies), 1000, 0)
        chosen, other = ds.bootstrap_correlations(scores, pool.accuracies, pool.params, counts)["spearman"]
        intervals = [" to ".join(f"{end:+.3f}" for end in ds.percentile_interval(x)) for x in (chosen, other - chosen)]
        parts.append(f"on {label} {intervals[0]}, and the best sum on A has {intervals[1]} more")
    return f"95 % intervals over cells of the chosen sum's Spearman: {'; '.join(parts)}."


def describe_work(args: argparse.Namespace, lines: Sequence[Line]) -> list[str]:
    """Return the beginning of the report: the networks, and the cost of a cell."""
    seconds = {group: statistics.median(line["seconds"][group] for line in lines) for group in lines[0]["seconds"]}
    untried = [group for group in GROUPS if group not in seconds]
    failed = sorted({f"{group} ({why})" for line in lines for group, why in line["failed"].items()})
    return [
        "# What was tried on the way to the default score",
        "",
        "`python experiments/score_search.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz "
        f"--cells {args.cells} --again {args.again}`, batch 64 of training images (gradients: the first 32), CPU "
        f"float32, {versions()}, {cpu()}.",
        "",
        f"{len(lines)} distinct connected cells of NAS-Bench-201, test accuracy on CIFAR-10. Those at even places of "
        "a seeded order are half A, by which all tables are ordered, the others half B. S0: 64 CIFAR ResNets, accuracy "
        "on CIFAR-100 when distilled from ResNet-110. One draw of weights and images.",
        "",
        "*Regret*: points of accuracy lost by picking with the score, mean over ten parameter budgets. *Given params*: "
        "Spearman with the ranks of the parameter count regressed out. *Best tenth*: Spearman among the most accurate "
        "tenth. *Same size*: agreement in sign on pairs within 15 % of each other's parameters, -1 to 1. Nothing is "
        "fitted: all terms of a sum have weight one, unless its label says otherwise.",
        "",
        f"Processor time of a cell, median: {', '.join(f'{g} {1000 * time_:.0f} ms' for g, time_ in seconds.items())}. "
        f"Not tried, for their cost: {', '.join(['ntk', 'grasp', 'zen', *untried])}. Groups that failed on a "
        f"cell: {'; '.join(failed) or 'none'}.",
        "",
    ]


def describe_statistics(judges: Judges, groups: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[str]]:
    """Return the tables of all statistics alone, and added to the chosen sum."""
    alone: list[str] = []
    added: list[str] = []
    partial = (f"{half}: given {what}" for what in ("the sum", "sum and pixels") for half in "AB")
    titles = ("statistic", *partial, *COLUMNS)
    for group, values in groups.items():
        rows: list[Row] = [(name, *judges.judge("alone", name, plain([name]))) for name in values]
        more: list[Row] = [
            (name, *judges.beyond(name), *judges.judge("added", f"sum + {name}", plain([*CHOSEN, name])))
            for name in values
            if name not in CHOSEN
        ]
        if rows:
            alone += [f"### {group}", "", *as_table(("statistic", *COLUMNS), sorted(rows, key=on_a))]
        if more:
            added += [f"### {group}", "", *as_table(titles, sorted(more, key=on_a))]
    return alone, added


def report(args: argparse.Namespace, accuracies: Mapping[str, Mapping[str, float]], lines: Mapping[Key, Line]) -> None:
    """Write both result files."""

    def pool(name: str, texts: Sequence[str]) -> Pool:
        return Pool([lines[text, name, "first"] for text in texts], [accuracies[name][text] for text in texts])

    cells = list(accuracies["cells"])
    judges = Judges(pool("cells", cells[::2]), pool("cells", cells[1::2]), pool("s0", list(accuracies["s0"])))
    changed: list[Row] = [(label, *judges.judge("changed", label, terms)) for label, terms in changes().items()]
    sums = {kind: describe_sums(judges, kind) for kind in ("natural", "ranks")}
    best = max((row for row in judges.rows if row[0] == "sum"), key=lambda row: row[2][0])[1].split(" + ")
    alone, added = describe_statistics(judges, lines[cells[0], "cells", "first"]["values"])
    text = [
        *describe_work(args, [lines[cell, "cells", "first"] for cell in cells]),
        f"The default score is the sum of {', '.join(CHOSEN)}. {compare_on_cells(judges, best)} In all, "
        f"{len(judges.rows):,} scores were tried; each is a row of score_search.csv.gz.",
        "",
        "## The chosen sum, and one thing changed",
        "",
        *as_table(("sum", *COLUMNS), changed),
        "## Sums of two to four statistics, as they are",
        "",
        f"Of {', '.join(name for name in SUMMED if name in judges.a.natural)}.",
        "",
        *sums["natural"],
        "## The same sums, of the logs of ranks among the cells of a half",
        "",
        *sums["ranks"],
        "## Every statistic alone",
        "",
        *alone,
        "## Every statistic added to the chosen sum",
        "",
        "*Given the sum*: Spearman with the ranks of the sum regressed out; *given sum and pixels*: with those of "
        f"`{PIXELS}` as well, which needs no teacher. The number behind a random teacher is its seed; pixels, labels "
        "and noise take a teacher's place for control.",
        "",
        *added,
        *(describe_draws(lines, accuracies["cells"], args.again) if args.again else ()),
    ]
    write_report("score_search", text)
    write_rows(judges.rows, RESULTS / "score_search.csv.gz")


def write_rows(rows: Iterable[tuple[str, str, list[float]]], path: Path) -> None:
    """Write all judgements to a compressed table, which is the same for the same rows."""
    with (
        path.open("wb") as packed,
        gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as unpacked,
        io.TextIOWrapper(unpacked, newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tried as", "score", *COLUMNS))
        for kind, label, values in rows:
            writer.writerow((kind, label, *("" if math.isnan(value) else f"{value:.3f}" for value in values)))


def on_a(row: Row) -> float:
    """Return the key that sorts by Spearman on A, the best first, constants last."""
    spearman = float(row[-len(COLUMNS)])
    return math.inf if math.isnan(spearman) else -spearman


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar10", "cifar100")
    parser.add_argument("--runs", type=Path, default=Path("runs/score_search"))
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--again", type=int, default=100, help="cells that are measured with other weights and images")
    parser.add_argument(
        "--groups", nargs="+", default=[*GROUPS, "teacher"], help="the groups to measure; the others later"
    )
    parser.add_argument("--anew", action="store_true", help="measure these groups again; the last line counts")
    parser.add_argument("--part", default="1/1", help="the share of the work that this process does, as 1/2")
    args = parse(parser)
    args.runs.mkdir(parents=True, exist_ok=True)
    accuracies = choose(args)
    work = plan(args, accuracies)
    measure(args, work)
    lines = read_lines(args.runs)
    if all(key in lines for key in work):
        report(args, accuracies, lines)


if __name__ == "__main__":
    main()
