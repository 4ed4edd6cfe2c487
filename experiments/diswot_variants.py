"""Every form of DisWOT's score against known accuracies, with parameters and MACs for comparison.

Tables: CIFAR-100 accuracy of 64 CIFAR ResNets after distillation from ResNet-110 (DisWOT's S0, Kendall), and of 1,000
random NAS-Bench-201 cells (200 epochs, test, Spearman). Students and teachers have random weights; each seed draws
weights and a probe of 64 CIFAR-100 training images anew. The teacher is a ResNet-110, and for control a ResNet-56, a
ResNet-8 and noise in the shape of a feature map. Scores are kept in --cache, so an interrupted run goes on.

    python experiments/diswot_variants.py --tables TABLES --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    RESULTS,
    append_json,
    make_parser,
    parse,
    process_pool,
    read_json_lines,
    rounded,
    table,
    versions,
    write_csv,
    write_report,
)
from timm.models import register_model
from torch import nn

import diswot_search as ds
import search_spaces

Row = dict[str, Any]
TEACHERS = ("ResNet-110", "ResNet-56", "ResNet-8", "noise")
SIZE = ("params", "macs")
FORMS = ("semantic*", "relation*", "channel_relation*", "diswot*", *SIZE)


class NoiseNetwork(search_spaces.ClassifierMixin, nn.Module):
    """A "teacher" that does not look at its images: rectified noise in the shape of ResNet-110's last map."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._init_head(64, num_classes, drop_rate=0.0)
        self.noise = torch.randn(1024, 64, 8, 8).relu()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.noise[: len(x)].to(x.device)


@register_model
def diswot_noise(pretrained: bool = False, *, num_classes: int = 100, **options: Any) -> NoiseNetwork:
    return NoiseNetwork(num_classes)


def make_teacher(name: str) -> ds.Network:
    if name == "noise":
        return ds.create_teacher("diswot_noise", num_classes=100)
    if name == "ResNet-8":
        return ds.create_teacher("cifar_resnet", arch="1-1-1", num_classes=100)
    return ds.create_teacher("cifar_" + name.lower().replace("-", ""), num_classes=100)


def spaces(tables: Path) -> dict[str, tuple[search_spaces.SearchSpace, dict[str, float]]]:
    """Return the space and the known accuracies of each table; the cells are a fixed sample of 1,000.

    Disconnected cells are left out, for every score alike, because no search proposes them.
    """
    s0 = search_spaces.create_space("cifar_resnet_s0", num_classes=100)
    cells = search_spaces.create_space("nasbench201", num_classes=100)
    distilled = dict(search_spaces.read_table(tables / "cifar_resnet_s0.csv", "cifar100_kd_accuracy"))
    trained = dict(search_spaces.read_table(tables / "nasbench201.csv.gz", "cifar100_test_accuracy"))
    sample = [text for text in random.Random(0).sample(sorted(trained), 1000) if cells.is_trainable(cells.parse(text))]
    return {"s0": (s0, distilled), "nasbench201": (cells, {text: trained[text] for text in sample})}


def score_all(space_name: str, seed: int, tables: Path, cifar100: Path, cache: Path) -> None:
    """Score every architecture of one table with one seed; one line of JSON each."""
    torch.set_num_threads(1)
    path = cache / f"{space_name}-{seed}.jsonl"
    done = {row["architecture"] for row in read_json_lines(path)}
    space, accuracies = spaces(tables)[space_name]
    probe = ds.create_probe(str(cifar100), batch_size=64, seed=seed)
    named = (ds.get_proxy(name) for pattern in FORMS for name in ds.list_proxies(pattern))
    proxies = [proxy for proxy in named if isinstance(proxy, ds.Proxy)]
    evaluators = {name: ds.Evaluator(space, make_teacher(name), probe, seeds=[seed], device="cpu") for name in TEACHERS}
    students = evaluators[TEACHERS[0]]
    for text in accuracies:
        if text in done:
            continue
        started = time.perf_counter()
        student = students.read_student(space.parse(text), seed)
        row: Row = {"architecture": text}
        for name, evaluator in evaluators.items():
            teacher = evaluator.read_teacher(seed, 0)
            for proxy in proxies:
                key = f"{proxy.name}|{name}" if proxy.needs_teacher else proxy.name
                row[key] = proxy(student, teacher)
        row["seconds"] = time.perf_counter() - started
        append_json(path, row)


def read_scores(path: Path, architectures: list[str]) -> dict[str, np.ndarray]:
    rows = {row["architecture"]: row for row in read_json_lines(path)}
    keys = [key for key in rows[architectures[0]] if key != "architecture"]
    return {key: np.array([rows[text][key] for text in architectures], dtype=float) for key in keys}


def summarise(space_name: str, seeds: list[int], tables: Path, cache: Path) -> list[Row]:
    """Return one row per proxy and teacher: correlations and regret, mean and spread over seeds."""
    accuracies = spaces(tables)[space_name][1]
    texts = list(accuracies)
    truth = np.array([accuracies[text] for text in texts])
    by_seed = [read_scores(cache / f"{space_name}-{seed}.jsonl", texts) for seed in seeds]
    params = by_seed[0]["params"]
    best = truth >= np.quantile(truth, 0.9)
    correlation = ds.kendall if space_name == "s0" else ds.spearman
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "correlation": lambda draw: correlation(draw, truth),
        "regret": lambda draw: ds.regret_at_budget(draw, truth, params),
        "size_matched": lambda draw: ds.size_matched_agreement(draw, truth, params)[0],
        "partial": lambda draw: ds.partial_spearman(draw, truth, params),
        "best_decile": lambda draw: ds.spearman(draw[best], truth[best]),
    }
    rows = []
    for key in by_seed[0]:
        if key == "seconds":
            continue
        draws = [scores[key] for scores in by_seed]
        mean = np.mean(draws, axis=0)
        proxy, _, teacher = key.partition("|")
        row: Row = {"table": space_name, "proxy": proxy, "teacher": teacher or "-"}
        for name, measure in measures.items():
            values = [measure(draw) for draw in draws]
            row |= {name: float(np.mean(values)), f"{name}_std": float(np.std(values))}
            if name in ("correlation", "regret"):
                row[f"{name}_of_mean_score"] = float(measure(mean))
        rows.append(row)
    return rows


def sentences_on_teacher(rows: list[Row]) -> str:
    """Return sentences on `diswot`: whether its teacher adds anything over another one, over noise, over size."""
    of = {(row["proxy"], row["teacher"]): row for row in rows}
    real, best_size = of["diswot", TEACHERS[0]], max(of[name, "-"]["correlation"] for name in SIZE)
    sentences = []
    for other in TEACHERS[1:]:
        row = of["diswot", other]
        gain = real["correlation"] - row["correlation"]
        if abs(gain) <= real["correlation_std"] + row["correlation_std"]:
            verdict = "no different"
        else:
            verdict = "better" if gain > 0 else "worse"
        sentences.append(
            f"with {TEACHERS[0]} it orders the table {verdict} than with {other} ({real['correlation']:+.2f}, "
            f"{row['correlation']:+.2f}; regret {real['regret']:.2f}, {row['regret']:.2f})".replace(
                "no different than", "no differently from how it does"
            )
        )
    against = "above" if real["correlation"] > best_size else "below"
    sentences.append(f"it is {against} the better one of parameters and MACs ({best_size:+.2f})")
    if abs(real["correlation"] - of["diswot", "noise"]["correlation"]) <= real["correlation_std"] * 2:
        sentences.append("**so on this table the teacher adds nothing that noise does not**")
    return "The proxy `diswot`: " + "; ".join(sentences) + "."


def with_spread(row: Row, key: str, digits: int = 2, sign: str = "+") -> str:
    return f"{row[key]:{sign}.{digits}f} ± {row[key + '_std']:.{digits}f}"


def table_of_scores(rows: list[Row]) -> list[str]:
    cells = [
        [
            row["proxy"],
            with_spread(row, "correlation", 3),
            f"{row['correlation_of_mean_score']:+.3f}",
            with_spread(row, "regret", sign=""),
            f"{row['regret_of_mean_score']:.2f}",
            *(with_spread(row, key) for key in ("size_matched", "partial", "best_decile")),
        ]
        for row in rows
        if row["teacher"] in ("-", TEACHERS[0])
    ]
    head = ["score", "one draw", "averaged", "regret", "regret averaged", "same size", "given params", "best decile"]
    return table(head, cells)


def table_of_teachers(rows: list[Row]) -> list[str]:
    of = {(row["proxy"], row["teacher"]): row for row in rows}
    cells = [
        [
            proxy,
            *(with_spread(of[proxy, teacher], "correlation") for teacher in TEACHERS),
            *(with_spread(of[proxy, teacher], "regret", sign="") for teacher in TEACHERS),
        ]
        for proxy in dict.fromkeys(row["proxy"] for row in rows if row["teacher"] != "-")
    ]
    return table(["score", *TEACHERS, *(f"regret, {teacher}" for teacher in TEACHERS)], cells)


def describe(rows: list[Row], seeds: list[int], seconds: dict[str, float]) -> list[str]:
    titles = {
        "s0": "S0: 64 CIFAR ResNets, CIFAR-100 accuracy after distillation from ResNet-110 (Kendall)",
        "nasbench201": "NAS-Bench-201: 1,000 random cells, CIFAR-100 test accuracy after 200 epochs (Spearman)",
    }
    lines = [
        "# Every form of DisWOT's score, against known accuracies",
        "",
        "`python experiments/diswot_variants.py --tables TABLES --cifar100 data/cifar100.npz`, "
        f"seeds {seeds}, batch 64 of CIFAR-100 training images, CPU float32, "
        f"{versions()}.",
        "",
        "Mean and standard deviation over the seeds of one draw, except *averaged*: the score averaged over the seeds. "
        "*Regret*: accuracy points lost by picking with the score under a parameter budget, mean over ten budgets. "
        "*Same size*: sign agreement (-1 to 1) on pairs within 15 % of each other's parameters. *Given params*: "
        "Spearman with the ranks of the parameter count regressed out. *Best decile*: Spearman among the best tenth. "
        "Disconnected cells are left out, for every score alike; 976 of the 1,000 remain.",
        "",
    ]
    for name, title in titles.items():
        of_table = [row for row in rows if row["table"] == name]
        lines += [f"## {title}", "", sentences_on_teacher(of_table), ""]
        lines += [f"Teacher: random {TEACHERS[0]}.", "", *table_of_scores(of_table), ""]
        lines += ["The same with the teacher swapped:", "", *table_of_teachers(of_table), ""]
        lines += [
            f"One student, all forms and teachers: {seconds[name]:.2f} s (median, one thread, shared machine).",
            "",
        ]
    return lines


def main() -> None:
    parser = make_parser(__doc__, "tables", "cifar100")
    parser.add_argument("--cache", type=Path, default=Path("runs/diswot_variants"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    args = parse(parser)
    args.cache.mkdir(parents=True, exist_ok=True)
    seeds = list(range(args.seeds))
    with process_pool(args.workers) as pool:
        jobs = [
            pool.submit(score_all, name, seed, args.tables, args.cifar100, args.cache)
            for name in ("s0", "nasbench201")
            for seed in seeds
        ]
        for job in jobs:
            job.result()
    rows, seconds = [], {}
    for name in ("s0", "nasbench201"):
        rows += summarise(name, seeds, args.tables, args.cache)
        texts = list(spaces(args.tables)[name][1])
        seconds[name] = float(np.median(read_scores(args.cache / f"{name}-0.jsonl", texts)["seconds"]))
    head = ["table", "proxy", "teacher", "correlation", "correlation_std", "correlation_of_mean_score", "regret"]
    head += ["regret_std", "regret_of_mean_score", "size_matched", "size_matched_std", "partial", "partial_std"]
    head += ["best_decile", "best_decile_std"]
    write_csv(RESULTS / "diswot_variants.csv", head, ([rounded(row)[name] for name in head] for row in rows))
    write_report("diswot_variants", describe(rows, seeds, seconds))


if __name__ == "__main__":
    main()
