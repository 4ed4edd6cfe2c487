"""Do teachers of related tasks help where few images have labels? DistillNearest and DistillWeighted on real images.

Sources: ResNets trained by us on MNIST, Fashion-MNIST, USPS, CIFAR-10 and two halves of CIFAR-100, and four ResNets of
CIFAR-10 whose weights are given. Targets: USPS, digits, and 20 classes of CIFAR-100 that no source saw, one of each
coarse class. A source of the target's own data is left out. For each target and seed a student is trained on few
labels from scratch, from the nearest source's weights, by FixMatch, by DistillNearest, DistillWeighted and with equal
weights of all sources, and under each source alone. The gain under a source alone is compared with the source's
similarity by each measure. The last epoch counts: to choose one by validation would need more labels.

DATA holds mnist.npz, fashion_mnist.npz, usps.npz, cifar10-12k.npz and cifar100.npz, WEIGHTS the files
cifar10_resnet20-*.th to cifar10_resnet56-*.th of akamaster/pytorch_resnet_cifar10. What is trained already is not
trained again, so that a run that was stopped goes on.

    python experiments/related_tasks.py --data DATA --weights WEIGHTS
    python experiments/related_tasks.py --data DATA --weights WEIGHTS --size large --seeds 5 --device cuda
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    RESULTS,
    make_parser,
    options_text,
    parse,
    process_pool,
    spread,
    table,
    versions,
    write_csv,
    write_report,
)
from matplotlib.figure import Figure

import diswot_search as ds


@dataclass(frozen=True)
class Size:
    """The size of the experiment.

    Attributes:
        student: Blocks of each stage of the student, a CIFAR ResNet.
        source: The network of our own sources.
        longer: Factor of all epochs.
        threads: Threads of a training; None leaves them to torch.
    """

    student: str
    source: str
    longer: int
    threads: int | None


@dataclass(frozen=True)
class Source:
    """A task that a source is trained on: its data, the side of its images, its epochs."""

    data: str
    image_size: int
    epochs: int


@dataclass(frozen=True)
class Target:
    """A task with few labels.

    Attributes:
        title: The name of the task in the report.
        labels_per_class: The number of labelled images of each class.
        epochs: Passes over all images, labelled or not.
        same_data: The source that was trained on the same data.
    """

    title: str
    labels_per_class: int
    epochs: int
    same_data: str | None = None


SIZES = {"small": Size("1-1-1", "cifar_resnet20", 1, 1), "large": Size("3-3-3", "cifar_resnet56", 10, None)}
SOURCES = {
    "mnist": Source("mnist", 16, 10),
    "fashion_mnist": Source("fashion_mnist", 16, 15),
    "usps": Source("usps", 16, 12),
    "cifar10": Source("cifar10-12k", 32, 15),
    "cifar100_first_half": Source("cifar100", 32, 10),
    "cifar100_second_half": Source("cifar100", 32, 10),
}
HALVES = {"cifar100_first_half": range(10), "cifar100_second_half": range(10, 20)}
"""Coarse classes of CIFAR-100."""
GIVEN = {f"cifar10_resnet{layers}": f"cifar_resnet{layers}" for layers in (20, 32, 44, 56)}
GIVEN_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TARGETS = {
    "usps": Target("USPS", 5, 5, same_data="usps"),
    "digits": Target("digits", 5, 30),
    "cifar100": Target("CIFAR-100, unseen classes", 20, 5),
}
METHODS = {
    "scratch": "fine-tuning from scratch",
    "finetune": "fine-tuning from the nearest source",
    "fixmatch": "FixMatch",
    "nearest": "DistillNearest",
    "weighted": "DistillWeighted",
    "uniform": "all sources alike",
    "recalled": "DistillWeighted, lambda .8",
    "by_knn": "DistillWeighted by knn",
}
ALONE = {"usps": 2, "digits": 2, "cifar100": 1}
"""The number of seeds of a target on which each source alone teaches; there are many sources."""
VIEWED = ("usps", "digits")
"""Targets on which DistillNearest also has sources predict each augmented view; elsewhere that takes too long."""
LAM = 0.2
"""Chosen between .2 and .8 on CIFAR-100 with another seed; both validation and test accuracy were looked at."""
DISTILLATIONS: dict[str, dict[str, Any]] = {
    "nearest": {"weighting": "nearest"},
    "weighted": {"weighting": "weighted"},
    "uniform": {"weighting": "uniform"},
    "recalled": {"weighting": "weighted", "lam": 0.8},
    "by_knn": {"weighting": "weighted", "measure": "knn"},
    "views": {"weighting": "nearest", "source_view": "augmented"},
}
MEASURES = ("parc", "cka", "leep", "nce", "h_score", "logme", "knn", "logistic")
RECIPE = {"schedule": "cosine", "warmup": 0.05}
BATCH: dict[str, Any] = {"batch_size": 32}
UNLABELLED_BATCH: dict[str, Any] = {"unlabelled_batch_size": 96}
VAL_SHARE = 0.02
"""The share of the images that are only looked at while training."""


@dataclass(frozen=True)
class Setting:
    """The settings that all trainings share."""

    data: Path
    weights: Path
    out: Path
    size: str
    precision: str
    device: str

    def options(self, image_size: int) -> dict[str, Any]:
        """Return the options of every training on images of this size."""
        recipe = RECIPE | {"precision": self.precision, "padding": image_size // 8}
        return {"recipe_options": recipe, "rule": "last", "device": self.device, "progress": False}

    def limit_threads(self) -> None:
        if (threads := SIZES[self.size].threads) is not None:
            torch.set_num_threads(threads)


# The data


@cache
def source_data(name: str, folder: Path) -> ds.Splits:
    """Return the data that a source is trained on."""
    source = SOURCES[name]
    file = folder / f"{source.data}.npz"
    if name in HALVES:
        return cifar100(file, name, lambda coarse, held_out: np.isin(coarse, HALVES[name]) & ~held_out)
    return ds.create_splits(str(file), image_size=source.image_size, val_share=VAL_SHARE)


@cache
def target_data(name: str, folder: Path, seed: int) -> ds.Splits:
    """Return a target, with the labels of a seed."""
    return _whole_target(name, folder).with_labels(labels_per_class=TARGETS[name].labels_per_class, label_seed=seed)


@cache
def _whole_target(name: str, folder: Path) -> ds.Splits:
    if name == "cifar100":
        return cifar100(folder / "cifar100.npz", "cifar100_held_out", lambda coarse, held_out: held_out)
    if name == "digits":  # 1,797 images, of which too few are tested on by default to tell methods apart
        return ds.create_splits("digits", image_size=16, val_share=VAL_SHARE, test_share=0.4)
    return ds.create_splits(str(folder / f"{name}.npz"), val_share=VAL_SHARE)


def cifar100(file: Path, name: str, chooses: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> ds.Splits:
    """Return some fine classes of CIFAR-100, numbered anew.

    Args:
        file: The whole data set.
        name: The name of the new data set.
        chooses: Chooses fine classes, given the coarse class of each, and whether it is held out from all sources. The
            first fine class of each coarse one is held out.
    """
    with np.load(file) as arrays:
        coarse = arrays["fine_to_coarse"]
        held_out = np.isin(np.arange(100), np.unique(coarse, return_index=True)[1])
        chosen = np.flatnonzero(chooses(coarse, held_out))
        parts: dict[str, Any] = {}
        for part in ("train", "test"):
            labels = arrays[f"{part}_labels"]
            taken = np.isin(labels, chosen)
            parts[part] = (arrays[f"{part}_images"][taken], np.searchsorted(chosen, labels[taken]))
    return ds.Splits.from_arrays(**parts, name=name, val_share=VAL_SHARE)


# The trainings, each in a process of its own


def source_folder(name: str, setting: Setting) -> Path:
    return setting.out / "sources" / name


def given_weights(name: str, setting: Setting) -> str:
    (file,) = setting.weights.glob(f"{name}-*.th")
    return str(file)


def bank(target: str, setting: Setting) -> dict[str, Any]:
    """Return the sources for a target, as `rank_sources` takes them."""
    ours = {name: str(source_folder(name, setting)) for name in SOURCES if name != TARGETS[target].same_data}
    published = {
        name: {
            "model": model,
            "checkpoint": given_weights(name, setting),
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "shortcut": "identity",
            **GIVEN_STATISTICS,
        }
        for name, model in GIVEN.items()
    }
    return ours | published


def train_source(name: str, setting: Setting) -> dict[str, Any]:
    setting.limit_threads()
    source, size = SOURCES[name], SIZES[setting.size]
    training = ds.train(
        size.source,
        source_data(name, setting.data),
        epochs=size.longer * source.epochs,
        out=source_folder(name, setting),
        **setting.options(source.image_size),
    )
    return result_of(training)


def ranking_folder(target: str, seed: int, setting: Setting) -> Path:
    return setting.out / "rankings" / f"{target}-{seed}"


@dataclass(frozen=True)
class Similarities:
    """The similarities of the sources to a target, by measure and source, and the weights by the first measure."""

    values: dict[str, dict[str, float]]
    weights: dict[str, float]


def rank_target(target: str, seed: int, setting: Setting) -> Similarities:
    """Rank the sources on the labels of a seed."""
    setting.limit_threads()
    ranking = ds.rank_sources(
        bank(target, setting),
        target_data(target, setting.data, seed),
        measures=MEASURES,
        seed=seed,
        out=ranking_folder(target, seed, setting),
        device=setting.device,
        progress=False,
    )
    print(ranking, flush=True)
    return Similarities({measure: ranking.similarities(measure) for measure in MEASURES}, ranking.weights())


@dataclass(frozen=True)
class Run:
    """A training on a target: by a method, or under one source alone, whose name stands for the method."""

    target: str
    method: str
    seed: int


def train_student(run: Run, setting: Setting) -> dict[str, Any]:
    setting.limit_threads()
    splits, size = target_data(run.target, setting.data, run.seed), SIZES[setting.size]
    student, options = "cifar_resnet", {"arch": size.student}
    shared: dict[str, Any] = {
        "dataset": splits,
        "epochs": size.longer * TARGETS[run.target].epochs,
        "seed": run.seed,
        "out": setting.out / run.target / f"{run.method}-{run.seed}",
        **BATCH,
        **setting.options(splits.input_size[1]),
    }
    if run.method == "scratch":
        return result_of(ds.train(student, model_options=options, **shared))
    if run.method == "fixmatch":
        return result_of(ds.train(student, model_options=options, unlabelled="fixmatch", **UNLABELLED_BATCH, **shared))
    ranking = ranking_folder(run.target, run.seed, setting)
    if run.method == "finetune":
        nearest = ds.load_ranking(ranking).order()[0]
        return result_of(ds.train(**fine_tuned(nearest, setting), **shared))
    method = {"lam": LAM} | DISTILLATIONS.get(run.method, {"weighting": {run.method: 1.0}})
    return result_of(
        ds.distill(student, sources=ranking, student_options=options, **method, **UNLABELLED_BATCH, **shared)
    )


def fine_tuned(source: str, setting: Setting) -> dict[str, Any]:
    """Return the options of a training that starts from a source."""
    if source in GIVEN:
        weights = {"checkpoint": given_weights(source, setting), "shortcut": "identity"}
        return {"model": GIVEN[source], "model_options": weights | {"new_classifier": True}}
    return {"model": str(source_folder(source, setting)), "model_options": {"new_classifier": True}}


def further_methods(target: str, seed: int, setting: Setting) -> list[str]:
    """Return the trainings of a target other than the methods."""
    views = ["views"] if target in VIEWED else []
    return views + (list(bank(target, setting)) if seed < ALONE[target] else [])


def result_of(training: ds.Training) -> dict[str, Any]:
    seconds = training.result.timing.seconds
    print(f"{training.path}: {training.accuracy:.2f} %, {seconds:.0f} s", flush=True)
    return training.result.to_json()


# The results


@dataclass(frozen=True)
class Outcome:
    """All measured results."""

    seeds: range
    sources: dict[str, dict[str, Any]]
    similarities: dict[tuple[str, int], Similarities]
    students: dict[Run, dict[str, Any]]

    def accuracies(self, target: str, method: str) -> np.ndarray:
        """Return the test accuracy of each seed that was trained."""
        runs = (Run(target, method, seed) for seed in self.seeds)
        return np.array([self.students[run]["test"]["accuracy"] for run in runs if run in self.students])

    def averages(self, method: str) -> np.ndarray:
        """Return the mean over targets, of each seed."""
        return np.mean([self.accuracies(target, method) for target in TARGETS], axis=0)

    def bank(self, target: str) -> list[str]:
        """Return the sources of a target, the most similar first."""
        parc = self.similarity(target, MEASURES[0])
        return sorted(parc, key=lambda source: -parc[source])

    def gains(self, target: str, source: str) -> np.ndarray:
        """Return the gain under a source alone over training from scratch, of each seed with such a training."""
        accuracies = self.accuracies(target, source)
        return accuracies - self.accuracies(target, "scratch")[: len(accuracies)]

    def similarity(self, target: str, measure: str) -> dict[str, float]:
        """Return the mean over draws and seeds, by source."""
        by_seed = [self.similarities[target, seed].values[measure] for seed in self.seeds]
        return {source: statistics.fmean(each[source] for each in by_seed) for source in by_seed[0]}

    def weight(self, target: str, source: str) -> float:
        """Return the mean weight over seeds."""
        return statistics.fmean(self.similarities[target, seed].weights.get(source, 0.0) for seed in self.seeds)

    def correlation(self, target: str, measure: str) -> float:
        """Return Spearman's correlation of a measure with the gain under each source alone."""
        similarity = self.similarity(target, measure)
        return ds.spearman(list(similarity.values()), [self.gains(target, source).mean() for source in similarity])


def table_of_methods(outcome: Outcome) -> list[str]:
    def row(method: str) -> list[str]:
        ahead = outcome.averages("weighted") - outcome.averages(method)
        accuracies = [spread(outcome.accuracies(target, method)) for target in TARGETS]
        over = "" if method == "weighted" else spread(ahead, "+")
        return [METHODS[method], *accuracies, spread(outcome.averages(method)), over]

    head = ["", *(target.title for target in TARGETS.values()), "average", "DistillWeighted is ahead by"]
    return table(head, map(row, METHODS))


def table_of_views(outcome: Outcome) -> list[str]:
    """Return the table of DistillNearest with predictions made once, and made anew for each view."""

    def row(title: str, method: str) -> list[str]:
        accuracies = [spread(outcome.accuracies(target, method)) for target in VIEWED]
        results = [outcome.students[Run(target, method, seed)] for target in VIEWED for seed in outcome.seeds]
        return [title, *accuracies, f"{statistics.median(result['timing']['seconds'] for result in results):.0f}"]

    head = ["sources predict", *(TARGETS[target].title for target in VIEWED), "seconds of training, median"]
    return table(head, [row("each image once", "nearest"), row("each augmented view", "views")])


def table_of_correlations(outcome: Outcome) -> list[str]:
    def row(measure: str) -> list[str]:
        correlations = [outcome.correlation(target, measure) for target in TARGETS]
        return [measure, *(f"{value:.2f}" for value in [*correlations, statistics.fmean(correlations)])]

    return table(["", *(target.title for target in TARGETS.values()), "average"], map(row, MEASURES))


def table_of_sources(outcome: Outcome, target: str) -> list[str]:
    def row(source: str) -> list[str]:
        similarities = [f"{outcome.similarity(target, measure)[source]:.3g}" for measure in MEASURES]
        gain = spread(outcome.gains(target, source), "+")
        return [source, gain, f"{outcome.weight(target, source):.2f}", *similarities]

    return table(["source", "gain", "weight", *MEASURES], map(row, outcome.bank(target)))


TEST_METRICS = ("accuracy", "nll", "calibration_error")
CSV_HEAD = ["target", "method", "seed", "labels", "images", "steps", "seconds", *TEST_METRICS, *MEASURES]


def csv_rows(outcome: Outcome) -> Iterator[list[Any]]:
    """Yield a row per training."""
    for run, result in outcome.students.items():
        similarities = outcome.similarities[run.target, run.seed].values
        by_measure = [similarities[measure].get(run.method, "") for measure in MEASURES]
        labels = result["labels"]
        counts = [labels["labelled"], labels["images"], result["steps"], round(result["timing"]["seconds"], 1)]
        metrics = [round(result["test"][name], 4) for name in TEST_METRICS]
        yield [run.target, run.method, run.seed, *counts, *metrics, *by_measure]


def draw(outcome: Outcome, file: Path) -> None:
    """Draw the accuracy by method, and the gain under each source alone against its similarity."""
    figure = Figure(figsize=(4 * len(TARGETS) + 3, 7), layout="constrained")
    axes = figure.subplots(2, len(TARGETS), squeeze=False)
    for (above, below), (name, target) in zip(axes.T, TARGETS.items(), strict=True):
        for place, method in enumerate(METHODS):
            accuracies = outcome.accuracies(name, method)
            above.barh(place, accuracies.mean(), color="C1" if method in ("nearest", "weighted") else "C0", alpha=0.5)
            above.plot(accuracies, [place] * len(accuracies), "k.")
        first = name == next(iter(TARGETS))
        above.set_yticks(range(len(METHODS)), METHODS.values() if first else [""] * len(METHODS))
        above.invert_yaxis()
        lowest = min(outcome.accuracies(name, method).min() for method in METHODS)
        above.set(title=target.title, xlabel="test accuracy in percent", xlim=(0.9 * lowest, None))
        similarity = outcome.similarity(name, MEASURES[0])
        for source, value in similarity.items():
            gains = outcome.gains(name, source)
            below.errorbar(value, gains.mean(), gains.std(), fmt="o", color="C0")
            below.annotate(source, (value, gains.mean()), xytext=(4, 3), textcoords="offset points", fontsize=7)
        below.margins(x=0.25)  # room for the names
        below.axhline(0, color="grey", linewidth=0.8)
        below.set(xlabel=f"similarity by {MEASURES[0]}", ylabel="gained under the source alone" if first else None)
    figure.savefig(file, dpi=110)


def report(outcome: Outcome, setting: Setting, command: str) -> None:
    """Write the report, a row for each training, and the picture."""
    lines = [*describe_conditions(outcome, setting, command), *describe_results(outcome, setting)]
    name = f"related_tasks_{setting.size}"
    write_csv(RESULTS / f"{name}.csv", CSV_HEAD, csv_rows(outcome))
    draw(outcome, RESULTS / f"{name}.png")
    write_report(name, lines)


def describe_conditions(outcome: Outcome, setting: Setting, command: str) -> list[str]:
    size = SIZES[setting.size]
    first = next(iter(outcome.students.values()))
    trainings = [*outcome.sources.values(), *outcome.students.values()]
    tuned = [result["student"]["params"] for run, result in outcome.students.items() if run.method == "finetune"]
    least, most = min(tuned), max(tuned)
    minutes = sum(result["timing"]["seconds"] for result in trainings) / 60
    return [
        "# Teachers of related tasks",
        "",
        f"{len(outcome.seeds)} seeds, each with other labels and first weights. Test accuracy in percent; mean and "
        "standard deviation over seeds, of averages over the targets and of differences, too, which are taken seed by "
        "seed. The last epoch counts.",
        "",
        f"    {command}",
        "",
        f"{first['timing']['device']}, {first['timing']['threads']} thread(s) per training, "
        f"{versions()}; {len(trainings)} trainings of {minutes:.0f} minutes in all.",
        "",
        f"The student is a CIFAR ResNet of {size.student} blocks ({first['student']['params']:,} parameters), sources "
        f"of ours are {size.source}. Recipe `cifar` with the rate falling as a cosine after a warm-up of "
        f"{RECIPE['warmup']:.0%} of the steps, {setting.precision}; {BATCH['batch_size']} labelled images in a step, "
        f"and {UNLABELLED_BATCH['unlabelled_batch_size']} unlabelled ones for FixMatch and sources; as many steps for "
        f"all methods. Weights by parc with power 10; lambda {LAM} where nothing else is said, chosen on "
        "CIFAR-100 with another seed, by validation accuracy with test accuracy in sight; sources predict each image "
        "once, as it is, where "
        f"nothing else is said. Fine-tuning from the nearest source trains that source's own network, of {least:,} to "
        f"{most:,} parameters.",
        "",
        *table(
            ["target", "images", "labels", "of a class", "tested on", "steps", "sources"],
            [target_facts(outcome, name) for name in TARGETS],
        ),
        "",
    ]


def describe_results(outcome: Outcome, setting: Setting) -> list[str]:
    lines = [
        "| source | its own test accuracy |",
        "|---|---|",
        *(f"| {name} | {result['test']['accuracy']:.2f} |" for name, result in outcome.sources.items()),
        "",
        "## Accuracy",
        "",
        *table_of_methods(outcome),
        "",
        f"![Accuracy by method, and gain against similarity](related_tasks_{setting.size}.png)",
        "",
        "## Fixed or augmented views",
        "",
        *table_of_views(outcome),
        "",
        "## Does similarity tell which source helps?",
        "",
        "Spearman's rank correlation between a measure and the accuracy gained over fine-tuning from scratch when the "
        "student learns from that source alone, over all sources of a target. Similarities are means over all seeds, "
        f"gains over the first ones: {', '.join(f'{TARGETS[target].title} {ALONE[target]}' for target in TARGETS)}.",
        "",
        *table_of_correlations(outcome),
    ]
    for name, target in TARGETS.items():
        lines += ["", f"### {target.title}: each source alone", "", *table_of_sources(outcome, name)]
    return lines


def target_facts(outcome: Outcome, name: str) -> list[str]:
    result = outcome.students[Run(name, "scratch", outcome.seeds[0])]
    labels, target = result["labels"], TARGETS[name]
    counts = [labels["images"], labels["labelled"], target.labels_per_class, result["test"]["samples"], result["steps"]]
    return [target.title, *(f"{count:,}" for count in counts), str(len(outcome.bank(name)))]


def main() -> None:
    parser = make_parser(__doc__, "data", "weights")
    parser.add_argument("--size", default="small", choices=SIZES, help="large: larger networks, 10 times as long")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/related_tasks"))
    args = parse(parser)

    setting = Setting(args.data, args.weights, args.out, args.size, args.precision, args.device)
    seeds = range(args.seeds)
    with process_pool(args.jobs) as pool:

        def at_once(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
            return list(pool.map(function, *zip(*calls, strict=True), [setting] * len(calls)))

        sources = dict(zip(SOURCES, at_once(train_source, [(name,) for name in SOURCES]), strict=True))
        targets = [(target, seed) for seed in seeds for target in TARGETS]
        similarities = dict(zip(targets, at_once(rank_target, targets), strict=True))
        runs = [
            Run(target, method, seed)
            for target, seed in targets
            for method in (*METHODS, *further_methods(target, seed, setting))
        ]
        students = dict(zip(runs, at_once(train_student, [(run,) for run in runs]), strict=True))
    options = options_text(args, "size", "seeds", "precision", "jobs", "device")
    command = f"python experiments/related_tasks.py --data DATA --weights WEIGHTS {options}"
    report(Outcome(seeds, sources, similarities, students), setting, command)


if __name__ == "__main__":
    main()
