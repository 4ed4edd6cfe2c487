"""What is a second stage worth? Shortlists of NAS-Bench-201, trained shortly and then fully, on the benchmark's tables.

Pools of distinct cells; in each the pick is sought within ten budgets of parameters. A shortlist holds the best k cells
within the budget by a score; each is trained for 12 epochs, which the benchmark anneals to their end, and then the best
few in full. The accuracies are the benchmark's, the scores are computed here, and the rule is successive halving.

The other part trains students by a step schedule and by an annealed one, and asks when their order is that of the end.
Scores and trainings are kept in --runs, so that an interrupted run goes on.

    python experiments/shortlist_tables.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _common import (
    RESULTS,
    cpu,
    distinct_cells,
    make_parser,
    options_text,
    parse,
    spread,
    table,
    versions,
    write_csv,
    write_report,
)
from _schedules import Curves, draw_curves, schedule_section, train_students, write_trainings
from _shortlists import SEEN, SIZES, Benchmark, Plan, Pool, Shortlist
from matplotlib.figure import Figure

import diswot_search as ds
from diswot_search import halving

SCORE = "effective_capacity"
BUDGETS = tuple(np.arange(1, 11) / 10)
"""The budgets of a pool, as quantiles of its parameter counts."""
MIXED = f"`{SCORE}`, 3 places for others"
SHORT, FULL = 12, 200
"""Epochs of the benchmark's short trainings and of its full ones."""
DRAWN = (f"`{SCORE}`", "`params`", "`macs`", "`nwot`", "`random`", MIXED, "`params`, 3 places for others")
"""The shortlists in the picture."""
CURVE = (1, 2, 3, 5, 10, 15, 20, 40, 80)
"""The lengths of shortlists in the curves."""
DATA_SETS = ("cifar10", "cifar100")
TITLES = ("CIFAR-10", "CIFAR-100")
PROXIES = {SCORE: 64, "nwot": 16}
"""The proxies and the images of their probes, of which the first reads 16."""
OTHERS = (*SIZES, "nwot")
"""The other scores that get a place each, as by default in `ds.shortlist`."""

# The tables


def read_benchmark(data_set: str, cells: list[str], args: argparse.Namespace) -> Benchmark:
    """Score cells, or read their stored scores, and look their accuracies up."""
    path = args.tables / "nasbench201.csv.gz"

    def scored(proxy: str, images: int) -> ds.ScoreTable:
        comparison = ds.compare(
            "nasbench201",
            table=path,
            column=f"{data_set}_test_accuracy",
            architectures=cells,
            probe=ds.create_probes(str(getattr(args, data_set)), 1, batch_size=images),
            proxies=[proxy],
            bootstrap=0,
            device="cpu",
            out=args.runs / f"{data_set}_{proxy}",
        )
        return comparison.scores

    by_proxy = {proxy: scored(proxy, images) for proxy, images in PROXIES.items()}
    main = by_proxy[SCORE]
    cells = list(main.architectures)
    scores = {"params": main.params, "macs": main.macs}
    for proxy, one in by_proxy.items():
        by_cell = dict(zip(one.architectures, np.nan_to_num(one.scores[proxy][0], nan=-np.inf), strict=True))
        scores[proxy] = np.array([by_cell[cell] for cell in cells])
    short = ds.read_table(path, f"{data_set}_valid_accuracy_12ep")
    return Benchmark(cells, main.accuracies, main.accuracies, np.array([short[c] for c in cells]), main.params, scores)


def read_noise(data_set: str, args: argparse.Namespace) -> float:
    """Return by how much the validation accuracy of a good cell misleads on its test accuracy, in points.

    It is the standard deviation about the line that fits test accuracies by the published validation accuracies after
    200 epochs, over the better half of the cells that have both.
    """
    path, where = args.tables / "nasbench201_proxies.csv.gz", {"dataset": data_set}
    validation = ds.read_table(path, "valid_accuracy_200ep", where=where)
    test = ds.read_table(args.tables / "nasbench201.csv.gz", f"{data_set}_test_accuracy")
    pairs = np.array([(validation[cell], test[cell]) for cell in validation])
    seen, true = pairs[pairs[:, 0] >= np.median(pairs[:, 0])].T
    return float((true - np.polyval(np.polyfit(seen, true, 1), seen)).std(ddof=2))


# The plans, measured


@dataclass(frozen=True)
class Outcome:
    """The regrets of a plan in each pool, and its cost in full trainings."""

    regrets: list[float]
    cost: float


Outcomes = dict[Plan, dict[str, Outcome]]


def measure_all(
    plans: Sequence[Plan],
    benchmarks: dict[str, Benchmark],
    pools: int,
    cells_of_pool: int,
    noise: dict[str, float] | None = None,
) -> Outcomes:
    """Measure plans in the same pools of each data set.

    Args:
        plans: The plans.
        benchmarks: The cells of each data set.
        pools: The number of pools.
        cells_of_pool: The number of cells in each.
        noise: Standard deviation of normal noise on the accuracies that a full rung sees, in points.
    """
    outcomes: Outcomes = {plan: {} for plan in plans}
    for data_set, benchmark in benchmarks.items():
        measured: dict[Plan, list[tuple[float, float]]] = {plan: [] for plan in plans}
        for seed in range(pools):
            rng = np.random.default_rng(seed)
            pool = Pool(benchmark, rng.choice(len(benchmark.names), cells_of_pool, replace=False), BUDGETS, rng)
            if noise is not None:
                seen = benchmark.full + rng.normal(0, noise[data_set], len(benchmark.names))
                pool.benchmark = replace(benchmark, seen=seen)
            for plan in plans:
                measured[plan].append(pool.measure(plan))
        for plan, pairs in measured.items():
            outcomes[plan][data_set] = Outcome([regret for regret, _ in pairs], pairs[0][1])
    return outcomes


# The plans


def after_short(shortlist: Shortlist, count: int) -> Plan:
    return Plan(shortlist, count, (halving.Rung(SHORT / FULL),))


def then_full(shortlist: Shortlist, count: int, keep: int = 3) -> Plan:
    return Plan(shortlist, count, (halving.Rung(SHORT / FULL, keep), halving.Rung(1.0)))


def stages(pool: int) -> dict[str, Plan]:
    """Return plans that differ in their stages, with the name of each."""
    score = Shortlist(SCORE)
    plans = {"no second stage": Plan(score, 1)}
    plans |= {f"best of {count} after {SHORT} epochs": after_short(score, count) for count in (5, 10, 20, 40, 80)}
    plans[f"all {pool} for {SHORT} epochs"] = after_short(Shortlist("random"), pool)
    plans |= {
        f"{count} in full, without a short rung": Plan(score, count, (halving.Rung(1.0),)) for count in (3, 4, 10)
    }
    pairs = ((5, 3), (10, 2), (10, 3), (10, 5), (15, 3), (20, 3), (20, 5), (40, 3), (40, 5))
    return plans | {f"{count}, then {keep} in full": then_full(score, count, keep) for count, keep in pairs}


def shortlists() -> dict[str, Shortlist]:
    """Return the shortlists that are compared, with the name of each."""
    single = {f"`{name}`": Shortlist(name) for name in (SCORE, "params", "macs", "nwot", "random")}
    return single | {
        f"`{SCORE}`, a place for `nwot`": Shortlist(SCORE, ("nwot",)),
        MIXED: Shortlist(SCORE, OTHERS),
        f"{MIXED}, and the largest": Shortlist(SCORE, OTHERS, has_largest=True),
        "`params`, 3 places for others": Shortlist("params", (SCORE, "macs", "nwot")),
    }


def cells_of(by_data: dict[str, Outcome]) -> list[str]:
    return [spread(by_data[data_set].regrets) for data_set in DATA_SETS]


def unseen_pool(args: argparse.Namespace, unseen: set[str]) -> int:
    """Return the size of pools of unseen cells: as others, but at most half of the cells."""
    return min(args.pool, len(unseen) // 2)


def table_sections(
    benchmarks: dict[str, Benchmark], unseen: set[str], args: argparse.Namespace
) -> tuple[list[str], Outcomes]:
    """Return the sections on the tables, and the outcomes of all plans."""
    named, lists = stages(args.pool), shortlists()
    noise = {data_set: read_noise(data_set, args) for data_set in DATA_SETS}
    curves = [make(one, count) for one in lists.values() for count in CURVE for make in (after_short, then_full)]
    by_score = {name: [Plan(one, 1), after_short(one, 10), then_full(one, 10)] for name, one in lists.items()}
    plans = list(dict.fromkeys([*named.values(), *curves, *(plan for three in by_score.values() for plan in three)]))
    outcomes = measure_all(plans, benchmarks, args.pools, args.pool)
    parts = {data_set: benchmark.subset(unseen) for data_set, benchmark in benchmarks.items()}
    again = measure_all(list(named.values()), parts, args.pools, unseen_pool(args, unseen))
    head = [*TITLES, *(f"{name}, unseen" for name in TITLES)]
    noisy = measure_all(
        [plan for plan in named.values() if halving.Rung(1.0) in plan.rungs], benchmarks, args.pools, args.pool, noise
    )

    def row(plan: Plan) -> list[str]:
        return cells_of(outcomes[plan]) + cells_of(again[plan])

    rows = [[name, f"{outcomes[plan][DATA_SETS[0]].cost:.1f}", *row(plan)] for name, plan in named.items()]
    lines = ["", f"## Stages, shortlist by `{SCORE}`", ""]
    lines += table(["stages", "full trainings", *head], rows, align="---:")
    lines += ["", "### A last rung that sees validation accuracy", ""]
    deviations = " and ".join(f"{noise[data_set]:.2f}" for data_set in DATA_SETS)
    lines += [
        "The same where normal noise is on what a full rung sees. Its standard deviation is that of test accuracies "
        "about the line that fits them by validation accuracies, over the better half of the 725 cells for which "
        f"NAS-Bench-Suite-Zero published those after {FULL} epochs: {deviations} points.",
        "",
    ]
    rows = [[name, *cells_of(noisy[plan])] for name, plan in named.items() if plan in noisy]
    lines += table(["stages", *TITLES], rows, align="---:")
    lines += ["", "## Shortlists by other scores", ""]
    kinds = ("no second stage", f"10, then the best after {SHORT} epochs", "10, then 3 in full")
    rows = [[name, *(cell for plan in three for cell in cells_of(outcomes[plan]))] for name, three in by_score.items()]
    lines += table(["shortlist", *(f"{kind}, {name}" for kind in kinds for name in TITLES)], rows, align="---:")
    lines += ["", "## The curve over k", "", "![Regret over the length of the shortlist](shortlist_tables.png)"]
    for title, make in ((f"The best of k after {SHORT} epochs", after_short), ("k, then 3 in full", then_full)):
        names = [f"`{SCORE}`", "`params`", "`random`", MIXED]
        rows = [[f"{count}", *(_means(outcomes[make(lists[name], count)]) for name in names)] for count in CURVE]
        lines += ["", f"{title}, {' / '.join(TITLES)}:", "", *table(["k", *names], rows, align="---:")]
    return lines, outcomes


def _means(by_data: dict[str, Outcome]) -> str:
    return " / ".join(f"{statistics.fmean(by_data[data_set].regrets):.2f}" for data_set in DATA_SETS)


def write_outcomes(outcomes: Outcomes) -> None:
    """Write every plan's mean and standard deviation of regret as CSV."""
    head = ["shortlist", "others", "k", "shares_and_kept", "full_trainings", "data_set", "regret", "deviation"]
    rows = [
        [
            plan.shortlist.score,
            " ".join([*plan.shortlist.others, *["largest"] * plan.shortlist.has_largest]),
            plan.count,
            " ".join(f"{rung.share:g}:{rung.keep or 1}" for rung in plan.rungs),
            f"{outcome.cost:.2f}",
            data_set,
            f"{statistics.fmean(outcome.regrets):.4f}",
            f"{statistics.stdev(outcome.regrets):.4f}",
        ]
        for plan, by_data in outcomes.items()
        for data_set, outcome in by_data.items()
    ]
    write_csv(RESULTS / "shortlist_tables.csv", head, rows)


# The report


def draw(outcomes: Outcomes, curves: Curves | None, path: Path) -> None:
    """Draw regret over the length of the shortlist for each data set, and the correlations over epochs."""
    figure = Figure(figsize=(13.5 if curves else 9, 4.2), layout="constrained")
    panels, lists = figure.subplots(1, 3 if curves else 2), shortlists()
    for axes, data_set, title in zip(panels, DATA_SETS, TITLES, strict=False):
        for place, (name, one) in enumerate((name, lists[name]) for name in DRAWN):
            for make, style in ((then_full, "-"), (after_short, ":")):
                values = [statistics.fmean(outcomes[make(one, count)][data_set].regrets) for count in CURVE]
                label = name.replace("`", "") if make is then_full else None
                axes.plot(CURVE, values, style, color=f"C{place}", marker=".", label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(CURVE, [f"{count}" for count in CURVE])
        axes.minorticks_off()
        axes.set_xlabel("k, length of the shortlist")
        axes.set_ylabel("regret (points)")
        axes.set_title(f"{title}: solid, 3 in full; dotted, {SHORT} epochs", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8)
    if curves:
        draw_curves(curves, panels[2])
    figure.savefig(path, dpi=130)


def introduction(args: argparse.Namespace, count: int, unseen: set[str]) -> Iterator[str]:
    """Yield the head of the report: command, conditions and definitions."""
    command = options_text(args, "cells", "pools", "pool", "students", "seeds", "epochs", "lr")
    yield "# A shortlist in place of a guess, on the tables of NAS-Bench-201"
    yield ""
    yield (
        "`python experiments/shortlist_tables.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 "
        f"data/cifar100.npz {command}`: {versions()}, {cpu()}."
    )
    yield ""
    yield (
        f"{args.pools} pools of {args.pool} cells each, out of {count} distinct cells drawn at random; the same pools "
        f"for every row. Scores: one draw of weights; `{SCORE}` reads 16 training images, and so does `nwot`, to save "
        "time. In each pool the pick is sought within ten budgets, the deciles of its parameter counts. *Regret*: the "
        "best test accuracy within the budget less that of the pick, in points, mean over the budgets; entries are "
        "mean and standard deviation over pools. *Full trainings*: the cost under one budget, where "
        f"{SHORT} of {FULL} epochs cost {SHORT / FULL:g}. The accuracies are the benchmark's: on validation images "
        f"after {SHORT} epochs that it anneals to their end, and on test images after {FULL}, mean of its seeds, which "
        "is also what the last rung sees unless the text says otherwise. A place for another score goes to the best "
        f"cell by that score that is not on the list yet, `nwot` among the best {SEEN} by the first. *And the "
        "largest*: the largest cell within the budget takes part and is trained in full in any case, as a baseline, "
        "which is the default of `ds.shortlist`."
    )
    yield ""
    yield (
        f"*Unseen*: pools of {unseen_pool(args, unseen)} of the {len(unseen)} cells that were in no sample by which "
        "the score was chosen; a smaller pool has less to lose."
    )


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar10", "cifar100", "data")
    parser.add_argument("--cells", type=int, help="distinct cells to draw pools from; by default all")
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--pool", type=int, default=800, help="cells of a pool")
    parser.add_argument("--students", type=int, default=12, help="students of the two schedules; 0 for none")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each of them by each schedule")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of a full one")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--only_report", dest="train", action="store_false", help="train nothing more")
    parser.add_argument("--runs", type=Path, default=Path("runs/shortlist_tables"))
    args = parse(parser)
    args.runs.mkdir(parents=True, exist_ok=True)
    cells, chosen_on = distinct_cells(args.cells)
    unseen = {*cells} - chosen_on
    benchmarks = {data_set: read_benchmark(data_set, cells, args) for data_set in DATA_SETS}
    trainings = train_students(args) if args.students else {}
    curves = Curves(trainings) if trainings else None
    write_trainings(trainings, RESULTS / "shortlist_tables_schedules.csv")
    lines, outcomes = table_sections(benchmarks, unseen, args)
    write_outcomes(outcomes)
    draw(outcomes, curves, RESULTS / "shortlist_tables.png")
    lines = [*introduction(args, len(cells), unseen), *lines]
    write_report("shortlist_tables", lines + (schedule_section(curves, args) if curves else []))


if __name__ == "__main__":
    main()
