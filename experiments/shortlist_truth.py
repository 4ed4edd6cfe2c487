"""Is the pick of a shortlist better than the guess, if students are really distilled? On the table of our own students.

The students are those of `distilled_truth.py`, which must have been run: each was distilled in full, and once for few
epochs. In each of its spaces, and in all of them together, the pick is sought within five budgets of parameters: by a
score alone, and by shortlists of ten, of which the best three after the short training are compared by the full one.
The rungs see accuracies with the noise of so many validation images; the true accuracy is the mean over seeds on all
test images. Beside the picks stand the ResNets for CIFAR that people take by hand.

    python experiments/shortlist_truth.py --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _common import RESULTS, cpu, make_parser, options_text, parse, spread, table, versions, write_csv, write_report
from _shortlists import Benchmark, Floats, Plan, Pool, Shortlist
from _truth import CUSTOMARY, SPACES, space_of, table_of

import diswot_search as ds
from diswot_search import halving

SCORE = "effective_capacity"
SCORES = (SCORE, "unit_capacity", "params", "macs", "nwot")
BUDGETS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""The budgets, as quantiles of the parameter counts of the students."""
OTHERS = ("params", "macs", "nwot")
"""The other scores that get a place each, as by default in `ds.shortlist`."""
BY_HAND = CUSTOMARY["cifar_resnet"]
ALL = "all spaces"

SHORTLIST = "shortlist, the default"
GUESS = f"`{SCORE}` alone"


# The students


def read_truth(name: str) -> list[dict[str, str]]:
    """Return the rows of a space's table that have a short training."""
    path = table_of(name)
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = [row for row in rows if row["short_accuracy"]]
    if len(done) < 2:
        raise SystemExit(f"{path} has fewer than two students with a short training; run distilled_truth.py first.")
    if len(done) < len(rows):
        print(f"{name}: {len(rows) - len(done)} of {len(rows)} students have no short training and are left out")
    return done


def read_scores(name: str, args: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """Score the students of a space, or read their stored scores: for each draw, by score and student."""
    size, draws = args.image_size, args.draws
    comparison = ds.compare(
        space_of(name, size),
        table=table_of(name),
        column="distilled_accuracy",
        probe=ds.create_probes(str(args.cifar100), draws, batch_size=64, image_size=size),
        proxies=list(SCORES),
        weight_draws=draws,
        bootstrap=0,
        device="cpu",
        out=args.runs / name.replace("/", "_"),
    )
    scores = comparison.scores
    return [
        {
            proxy: dict(zip(scores.architectures, np.nan_to_num(by_draw[draw], nan=-np.inf), strict=True))
            for proxy, by_draw in scores.scores.items()
        }
        for draw in range(draws)
    ]


def benchmark_of(rows: Sequence[dict[str, str]], scores: dict[str, dict[str, float]]) -> Benchmark:
    """Return the students of a space, with one draw of their scores."""

    def column(name: str) -> Floats:
        return np.array([float(row[name]) for row in rows])

    names = [row["architecture"] for row in rows]
    by_score = {score: np.array([values[name] for name in names]) for score, values in scores.items()}
    by_score |= {"params": column("params"), "macs": column("macs")}
    truth, first = column("distilled_accuracy"), column("first_accuracy")
    return Benchmark(names, truth, first, column("short_accuracy"), column("params"), by_score)


def joined(benchmarks: Sequence[Benchmark]) -> Benchmark:
    """Return the students of all spaces as one."""
    scores = {name: np.concatenate([one.scores[name] for one in benchmarks]) for name in SCORES}
    columns = (
        np.concatenate([getattr(one, name) for one in benchmarks]) for name in ("full", "seen", "short", "params")
    )
    return Benchmark([name for one in benchmarks for name in one.names], *columns, scores)


def with_noise(benchmark: Benchmark, images: int, rng: np.random.Generator) -> Benchmark:
    """Return the students as rungs see them, by the accuracy on so many validation images."""

    def seen(accuracies: Floats) -> Floats:
        deviations = [halving.standard_error(accuracy, images) for accuracy in accuracies]
        return np.asarray(accuracies + rng.normal(0, deviations))

    return replace(benchmark, seen=seen(benchmark.seen), short=seen(benchmark.short))


# The plans, measured


def plans(short: float) -> dict[str, Plan]:
    """Return what is compared, with the name of each.

    Args:
        short: The share of a full training that a short one costs.
    """

    def rungs(keep: int) -> tuple[halving.Rung, ...]:
        return (halving.Rung(short, keep), halving.Rung(1.0))

    default = Shortlist(SCORE, OTHERS, has_largest=True)
    alone = {f"`{name}` alone": Plan(Shortlist(name), 1) for name in SCORES}
    lists = {f"10 by `{name}`, then 3 in full": Plan(Shortlist(name), 10, rungs(3)) for name in (*SCORES, "random")}
    return {
        **alone,
        "random alone": Plan(Shortlist("random"), 1),
        SHORTLIST: Plan(default, 10, rungs(3)),
        "the same of 5, then 2 in full": Plan(default, 5, rungs(2)),
        **lists,
    }


@dataclass(frozen=True)
class Outcome:
    """A plan's picks: for each draw, and for each budget, the true accuracy and the regret; and the cost."""

    accuracies: Floats
    regrets: Floats
    cost: float


def measure(benchmarks: Sequence[Benchmark], named: dict[str, Plan], args: argparse.Namespace) -> dict[str, Outcome]:
    """Measure all plans on the same draws of noise, in turn over the draws of scores."""
    picked: dict[str, list[list[float]]] = {name: [] for name in named}
    lost: dict[str, list[list[float]]] = {name: [] for name in named}
    cost: dict[str, float] = {}
    for draw in range(args.repeats):
        rng = np.random.default_rng(draw)
        seen = with_noise(benchmarks[draw % len(benchmarks)], args.validation_images, rng)
        pool = Pool(seen, np.arange(len(seen.names)), BUDGETS, rng)
        for name, plan in named.items():
            picks = [plan.pick(seen, orders) for orders, _ in pool.budgets]
            cost[name] = picks[-1][1]
            picked[name].append([float(seen.full[pick]) for pick, _ in picks])
            lost[name].append(
                [best - float(seen.full[pick]) for (pick, _), (_, best) in zip(picks, pool.budgets, strict=True)]
            )
    return {name: Outcome(np.array(picked[name]), np.array(lost[name]), cost[name]) for name in named}


# The report


def by_hand(resnets: Sequence[dict[str, str]], params: float, macs: float) -> str:
    """Return the largest of the customary ResNets within parameters and MACs, with its true accuracy."""
    within = [
        row
        for row in resnets
        if row["architecture"] in BY_HAND and float(row["params"]) <= params and float(row["macs"]) <= macs
    ]
    if not within:
        return "none is as small"
    largest = max(within, key=lambda row: float(row["params"]))
    return f"{float(largest['distilled_accuracy']):.2f} (`{largest['architecture']}`)"


def budget_rows(
    rows: Sequence[dict[str, str]],
    resnets: Sequence[dict[str, str]],
    benchmark: Benchmark,
    outcomes: dict[str, Outcome],
) -> list[list[str]]:
    """Return a row for each budget: true accuracies of the picks, of the best, and of what is taken by hand."""
    limits = np.quantile(benchmark.params, BUDGETS)
    texts = []
    for place, limit in enumerate(limits):
        within = benchmark.params <= limit
        macs = max(float(row["macs"]) for row, fits in zip(rows, within, strict=True) if fits)
        columns = [spread(outcomes[name].accuracies[:, place]) for name in (SHORTLIST, GUESS, "`params` alone")]
        best = f"{benchmark.full[within].max():.2f}"
        texts.append([f"{limit / 1e6:.2f} M", f"{within.sum()}", *columns, best, by_hand(resnets, limit, macs)])
    return texts


def section(title: str, count: int, outcomes: dict[str, Outcome], budgets: list[list[str]]) -> list[str]:
    head = ["pick", "full trainings", "regret", *(f"at {budget:.0%}" for budget in BUDGETS)]
    rows = [
        [
            name,
            f"{outcome.cost:.1f}",
            spread(outcome.regrets.mean(axis=1)),
            *(f"{statistics.fmean(column):.2f}" for column in outcome.regrets.T),
        ]
        for name, outcome in outcomes.items()
    ]
    columns = ["budget", "students", SHORTLIST, GUESS, "largest", "best", "by hand"]
    return [
        "",
        f"## {title}, {count} students",
        "",
        *table(head, rows, align="---:"),
        "",
        *table(columns, budgets, align="---:"),
    ]


def ratio(outcomes: dict[str, Outcome]) -> float:
    """Return the shortlist's regret as a share of the guess's."""
    guess = float(outcomes[GUESS].regrets.mean())
    return float(outcomes[SHORTLIST].regrets.mean()) / guess if guess else float("nan")


def introduction(args: argparse.Namespace, truth: dict[str, list[dict[str, str]]]) -> list[str]:
    options = options_text(args, "image_size", "epochs", "short_epochs", "draws", "repeats", "validation_images")
    seeds = [sum(int(row["seeds"]) > 1 for row in rows) for rows in truth.values()]
    return [
        "# The pick of a shortlist, on really distilled students",
        "",
        f"`python experiments/shortlist_truth.py --cifar100 CIFAR100 {options}`: {versions()}, {cpu()}.",
        "",
        f"The students are those of [the table of distilled students](distilled_truth.md): {args.epochs} epochs in "
        f"full, {args.short_epochs} in a short training, whose schedule ends with it. The true accuracy is on all "
        f"10,000 test images, the mean over seeds; {sum(seeds)} students have two or more. A rung sees the accuracy of "
        f"the first seed with normal noise, whose deviation is that of {args.validation_images:,} independent "
        "validation images; where there is one seed, its luck is in the true accuracy as well. Entries are means and "
        f"standard deviations over {args.repeats} draws of the noise, in turn "
        f"over {args.draws} draws of weights and images for the scores.",
        "",
        "*Regret*: the best true accuracy within the budget less that of the pick, in points, mean over five budgets "
        "and then at each, a quantile of the parameter counts. *The default* is that of `ds.shortlist`: 10 finalists "
        f"by `{SCORE}`, of which `params`, `macs` and `nwot` fill a place each, and the largest within the budget as a "
        "baseline; the best three of the short rung, and the largest, are trained in full. *By hand*: the largest of "
        "ResNet-8, -14 and -20 within the budget that has no more MACs than the students within it.",
    ]


def main() -> None:
    parser = make_parser(__doc__, "cifar100")
    parser.add_argument("--image_size", type=int, default=16, help="that of distilled_truth.py, as all of these")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--short_epochs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=4, help="draws of weights and images for the scores")
    parser.add_argument("--repeats", type=int, default=100, help="draws of the noise of validation images")
    parser.add_argument("--validation_images", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/shortlist_truth"))
    args = parse(parser)
    truth = {name: read_truth(name) for name in SPACES}
    scores = {name: read_scores(name, args) for name in SPACES}
    by_space = {
        name: [benchmark_of(rows, scores[name][draw]) for draw in range(args.draws)] for name, rows in truth.items()
    }
    together = [joined([by_space[name][draw] for name in SPACES]) for draw in range(args.draws)]
    named = plans(args.short_epochs / args.epochs)
    lines: list[str] = []
    ratios, written = [], []
    for name, benchmarks in {**by_space, ALL: together}.items():
        rows = truth.get(name) or [row for space in SPACES for row in truth[space]]
        outcomes = measure(benchmarks, named, args)
        budgets = budget_rows(rows, truth["cifar_resnet"], benchmarks[0], outcomes)
        lines += section(f"`{name}`" if name in truth else name.capitalize(), len(rows), outcomes, budgets)
        ratios.append(
            [name, *(f"{outcomes[plan].regrets.mean():.2f}" for plan in (GUESS, SHORTLIST)), f"{ratio(outcomes):.2f}"]
        )
        written += [
            [name, plan, f"{outcome.cost:.2f}", f"{budget:g}", f"{regret:.4f}"]
            for plan, outcome in outcomes.items()
            for budget, regret in zip(BUDGETS, outcome.regrets.mean(axis=0), strict=True)
        ]
    summary = table(["regret", GUESS, SHORTLIST, "ratio"], ratios, align="---:")
    write_csv(RESULTS / "shortlist_truth.csv", ["space", "pick", "full_trainings", "budget", "regret"], written)
    write_report("shortlist_truth", [*introduction(args, truth), "", *summary, *lines])


if __name__ == "__main__":
    main()
