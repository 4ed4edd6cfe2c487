"""Students trained by a step schedule and by an annealed one: when is their order that of the end?

Part of shortlist_tables.py. Each training is stored when it is done, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _common import append_json, distinct_cells, read_json_lines, spread, table, write_csv
from numpy.typing import NDArray

import diswot_search as ds
import search_spaces

CELLS, IMAGES, IMAGE_SIZE = 1, 1500, 8
"""Cells in a stage, training images, and their side."""
VALIDATED = 1000
"""Validation images, a tenth of the training images on disk."""
PARTS = (8, 4, 2)
"""The short annealed trainings have one of so many parts of the epochs of a full one."""
RECIPES: dict[str, dict[str, Any]] = {"step": {"schedule": "multistep"}, "annealed": {"schedule": "cosine"}}
"""The customary step schedule, whose rate falls to a tenth after 5, 6 and 7 eighths; and a cosine to zero."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """The training of a student by a schedule of a number of epochs."""

    architecture: str
    seed: int
    schedule: str
    epochs: int


def choose_students(count: int, tables: Path) -> list[str]:
    """Return distinct trainable cells: half at random, half spread evenly over the order of published accuracies."""
    published = ds.read_table(tables / "nasbench201.csv.gz", "cifar10_test_accuracy")
    drawn, spread_count = distinct_cells(None)[0], (count + 1) // 2
    ranked = sorted(drawn, key=lambda cell: published[cell])
    even = [ranked[(2 * place + 1) * len(ranked) // (2 * spread_count)] for place in range(spread_count)]
    random.Random(0).shuffle(even)
    return list(dict.fromkeys([*drawn[: count // 2], *even]))


def train_students(args: argparse.Namespace) -> dict[Job, dict[str, Any]]:
    """Train what is not trained yet; return validation accuracies by epoch and the test accuracy of each training."""
    kinds = [*((schedule, args.epochs) for schedule in RECIPES), *(("annealed", args.epochs // part) for part in PARTS)]
    jobs = [
        Job(architecture, seed, *kind)
        for seed, architecture, kind in product(range(args.seeds), choose_students(args.students, args.tables), kinds)
    ]
    file = args.runs / "schedules.jsonl"
    done = {Job(**line["job"]): line for line in read_json_lines(file)}
    shape = {"num_classes": 10, "input_size": (1, IMAGE_SIZE, IMAGE_SIZE)}
    space = search_spaces.create_space("nasbench201", cells=CELLS, **shape)
    images = str(args.data / "fashion_mnist.npz")
    data = ds.create_splits(images, image_size=IMAGE_SIZE, train_limit=IMAGES, val_share=0.1)
    for job in jobs if args.train else []:
        if job not in done:
            training = ds.train(
                job.architecture,
                data,
                space=space,
                epochs=job.epochs,
                lr=args.lr,
                recipe_options=RECIPES[job.schedule] | {"padding": IMAGE_SIZE // 8},
                rule="last",
                seed=job.seed,
                device="cpu",
                progress=False,
            )
            line: dict[str, Any] = {"job": asdict(job), "val": [row.val_accuracy for row in training.rows]}
            line |= {"test": training.accuracy, "seconds": training.result.timing.seconds}
            append_json(file, line)
            done[job] = line
            print(f"{job}: {training.accuracy:.2f} % in {line['seconds']:.0f} s", flush=True)
    return {job: done[job] for job in jobs if job in done}


class Curves:
    """Rank correlations of accuracies on validation images, epoch by epoch, with the final test accuracy.

    The final accuracy of a student is the mean of its full trainings, by both schedules and over seeds.
    """

    def __init__(self, trainings: dict[Job, dict[str, Any]]) -> None:
        kinds = {(job.schedule, job.epochs) for job in trainings}
        self.epochs = max(job.epochs for job in trainings)
        self.lengths = [self.epochs // part for part in PARTS]
        self.seeds = sorted({job.seed for job in trainings})
        self.students = [
            one
            for one in dict.fromkeys(job.architecture for job in trainings)
            if all(Job(one, seed, *kind) in trainings for seed in self.seeds for kind in kinds)
        ]
        self.trainings = trainings
        self.tests = {kind: self._collect(kind, lambda line: [line["test"]])[..., 0] for kind in kinds}
        full = [tests for (_, epochs), tests in self.tests.items() if epochs == self.epochs]
        self.final = np.mean(full, axis=(0, 1))

    def _collect(self, kind: tuple[str, int], read: Callable[[dict[str, Any]], list[float]]) -> Floats:
        """Return numbers of all trainings of a kind, (seeds, students, numbers)."""
        rows = [[read(self.trainings[Job(one, seed, *kind)]) for one in self.students] for seed in self.seeds]
        return np.array(rows)

    def correlations(self, schedule: str, epochs: int | None = None) -> Floats:
        """Return Spearman of the accuracies after each epoch of a training with the final ones, (seeds, epochs).

        Args:
            schedule: The schedule of the training.
            epochs: Its epochs; by default those of a full one.
        """
        accuracies = self._collect((schedule, epochs or self.epochs), lambda line: line["val"])
        places = range(accuracies.shape[-1])
        return np.array([[ds.spearman(seed[:, place], self.final) for place in places] for seed in accuracies])


def schedule_section(curves: Curves, args: argparse.Namespace) -> list[str]:
    """Return the section on the two schedules."""
    step, annealed = curves.correlations("step"), curves.correlations("annealed")
    complete = {length: curves.correlations("annealed", length)[:, -1] for length in curves.lengths}
    drops = [round(share * curves.epochs) for share in ds.create_recipe().milestones]
    epochs = sorted({*curves.lengths, curves.epochs, *(epoch for drop in drops for epoch in (drop, drop + 1))})
    rows = [
        [
            f"{epoch}",
            f"{0.1 ** sum(epoch > drop for drop in drops):g}",
            spread(step[:, epoch - 1]),
            spread(annealed[:, epoch - 1]),
            spread(complete[epoch]) if epoch in complete else "",
        ]
        for epoch in epochs
    ]
    full = [curves.tests[schedule, curves.epochs] for schedule in RECIPES]
    deviation = f"standard deviation {curves.final.std(ddof=1):.1f} over students"
    if len(curves.seeds) > 1:
        deviation += f" and {np.sqrt(np.mean([tests.var(0, ddof=1) for tests in full])):.1f} over seeds of one"
    head = ["epoch", "rate of the step schedule", "within the step training", "within the annealed training"]
    return [
        "",
        "## A beginning is no short training",
        "",
        f"{len(curves.students)} cells of NAS-Bench-201, {CELLS} to a stage, half of them drawn at random and half "
        f"spread evenly over the order of the benchmark's accuracies, {len(curves.seeds)} seed(s), trained on "
        f"{IMAGES:,} images of Fashion-MNIST of {IMAGE_SIZE} x {IMAGE_SIZE} without a teacher: SGD "
        f"with momentum, batch 64, rate {args.lr:g}, {curves.epochs} epochs. The step schedule is the customary one: "
        f"a tenth of the rate after epochs {', '.join(map(str, drops))}, as after 150, 180 and 210 of 240; the other "
        f"falls as a cosine to zero. Entries are Spearman, over students, of the accuracy on {VALIDATED:,} validation "
        "images after an epoch with the final test accuracy, mean and standard deviation over seeds. The final "
        "accuracy of a student is the mean of its full trainings by both schedules and all seeds: "
        f"{curves.final.min():.1f} to {curves.final.max():.1f} %, {deviation}.",
        "",
        *table([*head, "annealed training of that length"], rows, align="---:"),
    ]


def write_trainings(trainings: dict[Job, dict[str, Any]], path: Path) -> None:
    """Write every training as a row of CSV, with its validation accuracies in the order of epochs."""
    head = ["architecture", "seed", "schedule", "epochs", "test_accuracy", "validation_accuracies"]
    rows = [
        [*asdict(job).values(), line["test"], " ".join(f"{accuracy:.1f}" for accuracy in line["val"])]
        for job, line in trainings.items()
    ]
    write_csv(path, head, rows)


def draw_curves(curves: Curves, axes: Any) -> None:
    epochs = np.arange(1, curves.epochs + 1)
    for schedule, color in (("step", "C3"), ("annealed", "C0")):
        axes.plot(epochs, curves.correlations(schedule).mean(0), color=color, label=f"within the {schedule} training")
    complete = [curves.correlations("annealed", length)[:, -1].mean() for length in curves.lengths]
    axes.plot(curves.lengths, complete, "o", color="black", label="annealed trainings of that length")
    for share in ds.create_recipe().milestones:
        axes.axvline(round(share * curves.epochs) + 0.5, color="grey", linewidth=0.6, linestyle="--")
    axes.set_xlabel("epoch")
    axes.set_ylabel("Spearman with the final accuracy")
    axes.legend(fontsize=7)
