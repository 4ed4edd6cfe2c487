"""How accurate do students become under a teacher? A table of cells of NAS-Bench-201 and of students of timm families.

Each student is trained twice on CIFAR-100, alone and with kd, from the same first weights and on the same images in the
same order, by one short recipe; the last epoch counts, on all test images. The teacher, a ResNet-20, is trained by us
on all training images. Students are drawn at random, then thinned so that their parameter counts spread as those drawn
do; large ones are left out. Each student is written down when it is done, so that a run that was stopped goes on, and
the tables can be written at any time. They are tables that `search_spaces.read_table` and `diswot compare` read.

    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --images 10000 --epochs 8 --jobs 2
    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --image_size 32 --epochs 30 --seeds 3 \
        --device cuda
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, make_parser, options_text, parse, process_pool, replace_text, table, write_report

import diswot_search as ds
import search_spaces

SPACES = {"nasbench201": 2, "timm/regnet_32": 1, "timm/vit_32": 1}
"""Share of each space in the trainings, in quarters: a stopped run has twice as many cells as other students."""
CELLS = 1
"""Cells in a stage; with the benchmark's 5, students learn little in a short training, the good ones least."""
MACS = {16: 8e6, 32: 32e6}
"""The most multiply-accumulates of a student of a timm family, by the side of the images."""
DRAWN = 2
"""The number of different students that are drawn for each one that is trained; a space may have fewer."""
TRIES = 8
"""The largest number of draws for each student that is trained."""
RECIPE = {"optimizer": "muon", "weight_decay": 0.05, "decay_all": False, "schedule": "cosine", "warmup": 0.1}
TEACHER = "cifar_resnet20"
TEACHER_RECIPE = {"lr": 0.1, "batch_size": 128, "schedule": "cosine", "warmup": 0.05}


@dataclass(frozen=True)
class Setting:
    """The settings that all trainings share."""

    cifar100: Path
    nasbench201: Path | None
    out: Path
    images: int | None
    image_size: int
    epochs: int
    teacher_epochs: int
    batch_size: int
    lr: float
    precision: str
    device: str
    threads: int | None

    @property
    def teacher(self) -> Path:
        return self.out / "teacher"

    def limit_threads(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the accuracies, apart from student and seed."""
        places = ("cifar100", "nasbench201", "out", "device", "threads")
        settings = {name: value for name, value in asdict(self).items() if name not in places}
        return settings | {"cells": CELLS, "students": RECIPE, "teacher": TEACHER, "teacher_recipe": TEACHER_RECIPE}

    def options(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a training."""
        more = {"precision": self.precision, "padding": self.image_size // 8}
        return {"recipe_options": recipe | more, "rule": "last", "device": self.device, "progress": False}


@dataclass(frozen=True)
class Student:
    """An architecture of a space, as text."""

    space: str
    architecture: str
    seed: int

    def file(self, setting: Setting) -> Path:
        safe = "".join(c if c.isalnum() or c in ".~" else "-" for c in f"{self.space}-{self.architecture}")
        return setting.out / "students" / f"{safe}-{self.seed}.json"


@cache
def cifar100(file: Path, images: int | None, image_size: int) -> ds.Splits:
    """Return the images; one of each class is held back, since splits have images to validate on."""
    return ds.create_splits(str(file), image_size=image_size, train_limit=images, val_share=0.002)


@cache
def space_of(name: str, image_size: int) -> search_spaces.SearchSpace:
    options = {"cells": CELLS} if name == "nasbench201" else {}
    return search_spaces.create_space(name, num_classes=100, input_size=(3, image_size, image_size), **options)


# Choosing the students


def choose(name: str, count: int, image_size: int) -> list[str]:
    """Choose different architectures, in random order, whose parameter counts spread as those of the space."""
    space, rng = space_of(name, image_size), random.Random(name)
    limit = float("inf") if name == "nasbench201" else MACS[image_size]
    drawn: dict[search_spaces.Architecture, int] = {}
    for _ in range(TRIES * count):
        architecture = space.canonical(space.sample(rng))
        if space.is_trainable(architecture) and space.cost(architecture).macs <= limit:
            drawn[architecture] = space.cost(architecture).params
        if len(drawn) == DRAWN * count:
            break
    if len(drawn) < count:
        raise SystemExit(f"{name} has too few students of at most {limit / 1e6:.0f} MMACs; ask for fewer --students.")
    by_size = sorted(drawn, key=lambda architecture: (drawn[architecture], str(architecture)))
    chosen = [str(by_size[(2 * place + 1) * len(by_size) // (2 * count)]) for place in range(count)]
    rng.shuffle(chosen)
    return chosen


def in_turn(chosen: dict[str, list[str]], seeds: int) -> list[Student]:
    """Order the students so that any beginning has its share of each space; each further seed starts half-way."""
    turns = [
        (place / SPACES[name] + seed * len(architectures) / 2, Student(name, architecture, seed))
        for name, architectures in chosen.items()
        for place, architecture in enumerate(architectures)
        for seed in range(seeds)
    ]
    return [student for _, student in sorted(turns, key=lambda turn: turn[0])]


# The trainings, each student in a process of its own


def train_teacher(setting: Setting) -> float:
    """Train the teacher on all images; return its test accuracy."""
    setting.limit_threads()
    training = ds.train(
        TEACHER,
        cifar100(setting.cifar100, None, setting.image_size),
        epochs=setting.teacher_epochs,
        out=setting.teacher,
        **setting.options(TEACHER_RECIPE),
    )
    return training.accuracy


def train_student(student: Student, setting: Setting) -> dict[str, Any]:
    """Train a student alone and with kd, and store the results."""
    setting.limit_threads()
    space = space_of(student.space, setting.image_size)
    shared: dict[str, Any] = {
        "dataset": cifar100(setting.cifar100, setting.images, setting.image_size),
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "lr": setting.lr,
        "space": space,
        "seed": student.seed,
        **setting.options(RECIPE),
    }
    alone = ds.train(student.architecture, **shared)
    distilled = ds.distill(student.architecture, str(setting.teacher), distiller="kd", **shared)
    cost = space.cost(space.parse(student.architecture))
    timing = alone.result.timing
    result = asdict(student) | {
        "params": cost.params,
        "macs": cost.macs,
        "alone_accuracy": alone.accuracy,
        "distilled_accuracy": distilled.accuracy,
        "seconds": round(timing.seconds + distilled.result.timing.seconds, 1),
        "device": timing.device,
        "torch": alone.result.versions["torch"],
    }
    replace_text(student.file(setting), json.dumps(result))
    print(f"{student}: alone {alone.accuracy:.2f} %, with kd {distilled.accuracy:.2f} %", flush=True)
    return result


# The report


def store_recipe(setting: Setting) -> None:
    """Store the recipe; refuse to mix the students of two."""
    file, text = setting.out / "recipe.json", json.dumps(setting.recipe(), indent=1)
    if file.exists() and file.read_text() != text:
        raise SystemExit(
            f"The students in {setting.out} were trained by another recipe, see {file}; give another --out."
        )
    replace_text(file, text)


def finished(students: Sequence[Student], setting: Setting) -> dict[Student, dict[str, Any]]:
    files = {student: student.file(setting) for student in students}
    return {student: json.loads(file.read_text()) for student, file in files.items() if file.exists()}


def by_architecture(name: str, results: dict[Student, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the results of a space's students, of all seeds."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for student, result in results.items():
        if student.space == name:
            runs.setdefault(student.architecture, []).append(result)
    return runs


def table_row(architecture: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of a space's table: means over seeds."""
    alone, distilled = (statistics.fmean(run[f"{how}_accuracy"] for run in runs) for how in ("alone", "distilled"))
    return {
        "architecture": architecture,
        "distilled_accuracy": round(distilled, 4),
        "alone_accuracy": round(alone, 4),
        "gain": round(distilled - alone, 4),
        "params": runs[0]["params"],
        "macs": runs[0]["macs"],
        "seeds": len(runs),
        "seconds": round(sum(run["seconds"] for run in runs), 1),
    }


def describe(name: str, results: dict[Student, dict[str, Any]], setting: Setting) -> dict[str, str]:
    """Return the row of the report on a space."""
    runs = by_architecture(name, results)
    rows = [table_row(architecture, of_seeds) for architecture, of_seeds in runs.items()]
    columns = {column: [row[column] for row in rows] for column in ("params", "macs", "alone_accuracy")}
    if name == "nasbench201" and setting.nasbench201:
        published = search_spaces.read_table(setting.nasbench201, "cifar100_test_accuracy")
        columns["published"] = [published[row["architecture"]] for row in rows]
    distilled = [row["distilled_accuracy"] for row in rows]
    gains = [row["gain"] for row in rows]
    params = [value / 1e6 for value in columns["params"]]
    ranks = {c: f"{ds.kendall(v, distilled):.2f} / {ds.spearman(v, distilled):.2f}" for c, v in columns.items()}
    repeats = [[run["distilled_accuracy"] for run in of_seeds] for of_seeds in runs.values() if len(of_seeds) > 1]
    deviation = statistics.fmean(map(statistics.variance, repeats)) ** 0.5 if repeats else None
    return {
        "space": name,
        "students": str(len(rows)),
        "M params": between(params),
        "alone": between(columns["alone_accuracy"]),
        "distilled": between(distilled),
        "gain": f"{statistics.fmean(gains):+.2f} ± {statistics.stdev(gains):.2f}",
        "spread": f"{statistics.stdev(distilled):.2f}",
        "noise": "" if deviation is None else f"{deviation:.2f} ({len(repeats)})",
        **{f"by {column.removesuffix('_accuracy')}": ranks.get(column, "") for column in (*columns, "published")},
    }


def between(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def report(results: dict[Student, dict[str, Any]], asked: int, setting: Setting, command: str) -> None:
    """Write a table for each space, and the report with its conditions."""
    spaces = [name for name in SPACES if len(by_architecture(name, results)) > 1]
    if not spaces:
        raise SystemExit("A report needs two trained students of one space; there are none yet.")
    teacher = json.loads((setting.teacher / "result.json").read_text())
    for name in spaces:
        file = RESULTS / f"distilled_truth_{name.rpartition('/')[2]}.csv"
        file.unlink(missing_ok=True)
        runs = by_architecture(name, results)
        search_spaces.write_table(file, [table_row(architecture, runs[architecture]) for architecture in runs])
    described = [describe(name, results, setting) for name in spaces]
    machines = ", ".join(sorted({f"{result['device']}, torch {result['torch']}" for result in results.values()}))
    left = f"; {asked - len(results)} of those asked for are not trained yet" if asked > len(results) else ""
    minutes = sum(result["seconds"] for result in results.values()) / 60
    published = " and of the benchmark's own accuracy after 200 epochs" if setting.nasbench201 else ""
    lines = [
        "# Accuracies of distilled students",
        "",
        f"CIFAR-100, {setting.images or 'all'} training images of {setting.image_size} x {setting.image_size}, all "
        f"10,000 test images, {setting.epochs} epochs, the last counts. Muon (AdamW for biases and norms), rate "
        f"{setting.lr:g} after a warm-up of {RECIPE['warmup']:.0%}, then falling as a cosine, weight decay "
        f"{RECIPE['weight_decay']}, batch {setting.batch_size}, crop and flip, {setting.precision}; kd with its "
        f"customary weights (T 4, .1 cross entropy, .9 kd). The teacher, {TEACHER}, was trained on all images, of this "
        f"size, for {setting.teacher_epochs} epochs: {teacher['test']['accuracy']:.2f} %. Students of a space are "
        f"drawn at random, of timm families up to {MACS[setting.image_size] / 1e6:.0f} MMACs, and thinned so that "
        f"their sizes spread as those drawn do. Networks of NAS-Bench-201 have {CELLS} cell to a stage, where the "
        "benchmark has 5.",
        "",
        f"    {command}",
        "",
        f"{machines}, {setting.threads or 'all'} thread(s) per training, Python "
        f"{platform.python_version()}; {len(results)} times a student was trained alone and with kd, in "
        f"{minutes:.0f} minutes of one training at a time{left}.",
        "",
        "Accuracies in percent, means over the seeds of a student. Spread: standard deviation over students of the "
        "accuracy with kd; noise: that over seeds of one student, and of how many students it is known. Right: Kendall "
        "and Spearman correlation of parameters, multiply-accumulates, the accuracy alone"
        f"{published} with the accuracy with kd.",
        "",
        *table(list(described[0]), [list(row.values()) for row in described]),
    ]
    write_report("distilled_truth", lines)


def command_of(args: argparse.Namespace) -> str:
    names = ("images", "image_size", "epochs", "teacher_epochs", "batch_size", "lr", "students", "seeds", "precision")
    benchmark = " --nasbench201 TABLE" if args.nasbench201 else ""
    return f"python experiments/distilled_truth.py --cifar100 CIFAR100{benchmark} {options_text(args, *names, 'jobs')}"


def main() -> None:
    parser = make_parser(__doc__, "cifar100")
    parser.add_argument("--nasbench201", type=Path, help="table of the benchmark, to compare the cells with")
    parser.add_argument("--images", type=int, help="training images, the same number of each class; by default all")
    parser.add_argument("--image_size", type=int, default=16, choices=MACS)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--students", type=int, default=40, help="of each space")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--jobs", type=int, default=1, help="students at once, of one thread each if more than one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only_report", action="store_true", help="write the tables of what is trained")
    parser.add_argument("--out", type=Path, default=Path("runs/distilled_truth"))
    args = parse(parser)

    options = {field.name: getattr(args, field.name) for field in fields(Setting) if field.name != "threads"}
    setting = Setting(**options, threads=1 if args.jobs > 1 else None)
    store_recipe(setting)
    with process_pool(args.jobs) as pool:
        sizes = [args.image_size] * len(SPACES)
        chosen = pool.map(choose, SPACES, [args.students] * len(SPACES), sizes)
        students = in_turn(dict(zip(SPACES, chosen, strict=True)), args.seeds)
        done = finished(students, setting)
        failed = 0
        if not args.only_report:
            print(f"teacher: {pool.submit(train_teacher, setting).result():.2f} %", flush=True)
            todo = [student for student in students if student not in done]
            trainings = {pool.submit(train_student, student, setting): student for student in todo}
            for training in as_completed(trainings):
                if (error := training.exception()) is not None:  # a student may fail in any way; the others go on
                    print(f"{trainings[training]} failed: {error!r}", flush=True)
                    failed += 1
            done = finished(students, setting)
    report(done, len(students), setting, command_of(args))
    if failed:
        raise SystemExit(f"{failed} students failed; the same command tries them again.")


if __name__ == "__main__":
    main()
