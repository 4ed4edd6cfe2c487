"""How accurate do students become under a teacher? A table of cells, CIFAR ResNets, RegNets and vision transformers.

Each student is trained twice on CIFAR-100, with kd and alone, from the same first weights and on the same images in the
same order, by one short recipe; the last epoch counts, on all test images. The teacher, a ResNet-20, is trained by us
on all training images. Students are drawn at random, then thinned so that their parameter counts spread as those drawn
do; large ones are left out. The customary ResNets for CIFAR take part in their space. The best students of each space
are distilled again with further seeds, and all once more for few epochs, as a shortlist does. Each training is written
down when it is done, so that a run that was stopped goes on, and the tables can be written at any time. They are tables
that `search_spaces.read_table` and `diswot compare` read.

    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --images 10000 --epochs 8 --jobs 2
    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --image_size 32 --epochs 30 --seeds 3 \
        --best 1 --device cuda
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from _common import make_parser, options_text, parse, process_pool, replace_text, spread, table, write_report
from _truth import CELLS, CUSTOMARY, SPACES, space_of, table_of

import diswot_search as ds
import search_spaces

MACS = {16: 8e6, 32: 32e6}
"""The most multiply-accumulates of a student of a timm family, by the side of the images."""
MORE_MACS = 1.5
"""A CIFAR ResNet may have that many times as many; ResNet-20 has 1.3 times as many."""
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
    short_epochs: int
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
class Training:
    """A training of a student.

    Attributes:
        space: The space of the student.
        architecture: The student, as text.
        kind: "distilled", "alone", or "short": distilled for few epochs.
        seed: The seed.
    """

    space: str
    architecture: str
    kind: str = "distilled"
    seed: int = 0

    def file(self, setting: Setting) -> Path:
        safe = "".join(c if c.isalnum() or c in ".~" else "-" for c in f"{self.space}-{self.architecture}")
        return setting.out / "students" / f"{safe}-{self.kind}-{self.seed}.json"


Results = dict[Training, dict[str, Any]]


@cache
def cifar100(file: Path, images: int | None, image_size: int) -> ds.Splits:
    """Return the images; one of each class is held back, since splits have images to validate on."""
    return ds.create_splits(str(file), image_size=image_size, train_limit=images, val_share=0.002)


# Choosing the students


def choose(name: str, count: int, image_size: int) -> list[str]:
    """Choose different architectures, in random order, whose parameter counts spread as those of the space."""
    space, rng = space_of(name, image_size), random.Random(name)
    limit = {"nasbench201": float("inf"), "cifar_resnet": MORE_MACS * MACS[image_size]}.get(name, MACS[image_size])
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
    customary = list(CUSTOMARY.get(name, ()))[:count]
    return customary + [one for one in chosen if one not in customary][: count - len(customary)]


def in_turn(chosen: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return space and architecture of all students, the first of each space first."""
    return [
        (name, architectures[place])
        for place in range(max(map(len, chosen.values())))
        for name, architectures in chosen.items()
        if place < len(architectures)
    ]


def best_students(results: Results, share: float) -> list[tuple[str, str]]:
    """Return the best students of each space, by their accuracy with kd and the first seed."""
    best = []
    for name in SPACES:
        of_space = {
            training.architecture: result["accuracy"]
            for training, result in results.items()
            if (training.space, training.kind, training.seed) == (name, "distilled", 0)
        }
        ranked = sorted(of_space, key=lambda architecture: -of_space[architecture])
        best += [(name, architecture) for architecture in ranked[: math.ceil(share * len(ranked))]]
    return best


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


def train_student(training: Training, setting: Setting) -> dict[str, Any]:
    """Train a student, and store the result."""
    setting.limit_threads()
    space = space_of(training.space, setting.image_size)
    shared: dict[str, Any] = {
        "dataset": cifar100(setting.cifar100, setting.images, setting.image_size),
        "epochs": setting.short_epochs if training.kind == "short" else setting.epochs,
        "batch_size": setting.batch_size,
        "lr": setting.lr,
        "space": space,
        "seed": training.seed,
        **setting.options(RECIPE),
    }
    if training.kind == "alone":
        done = ds.train(training.architecture, **shared)
    else:
        done = ds.distill(training.architecture, str(setting.teacher), distiller="kd", **shared)
    cost = space.cost(space.parse(training.architecture))
    result = asdict(training) | {
        "params": cost.params,
        "macs": cost.macs,
        "accuracy": done.accuracy,
        "teacher_accuracy": teacher_accuracy(setting),
        "seconds": round(done.result.timing.seconds, 1),
        "device": done.result.timing.device,
        "torch": done.result.versions["torch"],
    }
    replace_text(training.file(setting), json.dumps(result))
    print(f"{training}: {done.accuracy:.2f} %", flush=True)
    return result


def teacher_accuracy(setting: Setting) -> float:
    """Return the teacher's accuracy on test images."""
    return float(json.loads((setting.teacher / "result.json").read_text())["test"]["accuracy"])


def train_all(trainings: Sequence[Training], setting: Setting, pool: ProcessPoolExecutor) -> int:
    """Do those trainings that are not done yet; return the number of those that failed."""
    todo = [training for training in trainings if training not in finished(trainings, setting)]
    running = {pool.submit(train_student, training, setting): training for training in todo}
    failed = 0
    for training in as_completed(running):
        if (error := training.exception()) is not None:  # a student may fail in any way; the others go on
            print(f"{running[training]} failed: {error!r}", flush=True)
            failed += 1
    return failed


# The report


def store_recipe(setting: Setting) -> None:
    """Store the recipe; refuse to mix the students of two."""
    file, text = setting.out / "recipe.json", json.dumps(setting.recipe(), indent=1)
    if file.exists() and file.read_text() != text:
        raise SystemExit(
            f"The students in {setting.out} were trained by another recipe, see {file}; give another --out."
        )
    replace_text(file, text)


def finished(trainings: Iterable[Training], setting: Setting) -> Results:
    files = {training: training.file(setting) for training in trainings}
    return {training: json.loads(file.read_text()) for training, file in files.items() if file.exists()}


def table_rows(name: str, results: Results) -> list[dict[str, Any]]:
    """Return the rows of a space's table: its students that were distilled, means over seeds."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for training, result in results.items():
        if training.space == name:
            runs.setdefault(training.architecture, {}).setdefault(training.kind, []).append(result)
    return [table_row(architecture, of_kind) for architecture, of_kind in runs.items() if "distilled" in of_kind]


def table_row(architecture: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a student's row; the gain is over the seeds that it was trained alone with."""
    distilled = {run["seed"]: run["accuracy"] for run in runs["distilled"]}
    alone = {run["seed"]: run["accuracy"] for run in runs.get("alone", ())}
    short = [run["accuracy"] for run in runs.get("short", ())]
    gains = [distilled[seed] - accuracy for seed, accuracy in alone.items() if seed in distilled]
    size = {"params": runs["distilled"][0]["params"], "macs": runs["distilled"][0]["macs"], "seeds": len(distilled)}
    accuracies = {
        "distilled_accuracy": mean_of(distilled.values()),
        "first_accuracy": mean_of([distilled[0]]) if 0 in distilled else "",
        "deviation": round(statistics.stdev(distilled.values()), 4) if len(distilled) > 1 else "",
        "short_accuracy": mean_of(short),
        "alone_accuracy": mean_of(alone.values()),
        "gain": mean_of(gains),
    }
    seconds = sum(run["seconds"] for of_kind in runs.values() for run in of_kind)
    return {"architecture": architecture, **accuracies, **size, "seconds": round(seconds, 1)}


def mean_of(values: Collection[float]) -> float | str:
    """Return the mean as tables have it; nothing if there are no values."""
    return round(statistics.fmean(values), 4) if values else ""


def describe(name: str, rows: list[dict[str, Any]], setting: Setting) -> dict[str, str]:
    """Return the row of the report on a space."""
    columns = {column: [row[column] for row in rows] for column in ("params", "macs")}
    for column in ("short_accuracy", "alone_accuracy"):
        if all(row[column] != "" for row in rows):
            columns[column] = [row[column] for row in rows]
    if name == "nasbench201" and setting.nasbench201:
        published = search_spaces.read_table(setting.nasbench201, "cifar100_test_accuracy")
        columns["published"] = [published[row["architecture"]] for row in rows]
    distilled = [row["distilled_accuracy"] for row in rows]
    alone = [row["alone_accuracy"] for row in rows if row["alone_accuracy"] != ""]
    gains = [row["gain"] for row in rows if row["gain"] != ""]
    ranks = {c: f"{ds.kendall(v, distilled):.2f} / {ds.spearman(v, distilled):.2f}" for c, v in columns.items()}
    deviations = [row["deviation"] for row in rows if row["deviation"] != ""]
    noise = statistics.fmean(deviation**2 for deviation in deviations) ** 0.5 if deviations else None
    return {
        "space": name,
        "students": str(len(rows)),
        "M params": between([row["params"] / 1e6 for row in rows]),
        "distilled": between(distilled),
        "spread": f"{statistics.stdev(distilled):.2f}",
        "noise": "" if noise is None else f"{noise:.2f} ({len(deviations)})",
        "alone": between(alone) if alone else "",
        "gain": spread(gains, "+") if gains else "",
        **{
            f"by {column.removesuffix('_accuracy')}": ranks.get(column, "")
            for column in ("params", "macs", "short_accuracy", "alone_accuracy", "published")
        },
    }


def between(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def report(results: Results, setting: Setting, command: str) -> None:
    """Write a table for each space, and the report with its conditions."""
    rows = {name: table_rows(name, results) for name in SPACES}
    spaces = [name for name in SPACES if len(rows[name]) > 1]
    if not spaces:
        raise SystemExit("A report needs two distilled students of one space; there are none yet.")
    for name in spaces:
        file = table_of(name)
        file.unlink(missing_ok=True)
        search_spaces.write_table(file, rows[name])
    described = [describe(name, rows[name], setting) for name in spaces]
    machines = ", ".join(sorted({f"{result['device']}, torch {result['torch']}" for result in results.values()}))
    teachers = Counter(f"{result['teacher_accuracy']:.2f} %" for result in results.values())
    kinds = Counter(training.kind for training in results)
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
        f"size, for {setting.teacher_epochs} epochs. Its test accuracy, with the number of trainings that it belongs "
        f"to: {', '.join(f'{accuracy} ({count})' for accuracy, count in teachers.items())}. Students of a space are "
        f"drawn at random, of timm families up to {MACS[setting.image_size] / 1e6:.0f} MMACs, CIFAR ResNets up to "
        f"{MORE_MACS * MACS[setting.image_size] / 1e6:.0f} and ResNet-8, -14 and -20 among them, and thinned so that "
        f"their sizes spread as those drawn do. Networks of NAS-Bench-201 have {CELLS} cell to a stage, where the "
        "benchmark has 5.",
        "",
        f"    {command}",
        "",
        f"{machines}, {setting.threads or 'all'} thread(s) per training, Python {platform.python_version()}; "
        f"{kinds['distilled']} trainings with kd, {kinds['short']} short ones with kd and {setting.short_epochs} "
        f"epoch(s), {kinds['alone']} alone, in {minutes:.0f} minutes of one training at a time.",
        "",
        "Accuracies in percent, means over the seeds of a student. Spread: standard deviation over students of the "
        "accuracy with kd; noise: that over seeds of one student, and of how many students it is known. Right: Kendall "
        "and Spearman correlation of parameters, multiply-accumulates, the short training, the accuracy alone"
        f"{published} with the accuracy with kd.",
        "",
        *table(list(described[0]), [list(row.values()) for row in described]),
    ]
    write_report("distilled_truth", lines)


STUDENTS = ("students", "seeds", "best", "jobs")


def command_of(args: argparse.Namespace) -> str:
    sizes = ("images", "image_size", "epochs", "short_epochs", "teacher_epochs", "batch_size", "lr", "precision")
    benchmark = " --nasbench201 TABLE" if args.nasbench201 else ""
    return (
        f"python experiments/distilled_truth.py --cifar100 CIFAR100{benchmark} {options_text(args, *sizes, *STUDENTS)}"
    )


def main() -> None:
    parser = make_parser(__doc__, "cifar100")
    parser.add_argument("--nasbench201", type=Path, help="table of the benchmark, to compare the cells with")
    parser.add_argument("--images", type=int, help="training images, the same number of each class; by default all")
    parser.add_argument("--image_size", type=int, default=16, choices=MACS)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--short_epochs", type=int, default=1, help="of the short trainings")
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--students", type=int, default=40, help="of each space")
    parser.add_argument("--seeds", type=int, default=2, help="of the best students; others have one")
    parser.add_argument("--best", type=float, default=0.25, help="share of those students of each space")
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
        students = in_turn(dict(zip(SPACES, chosen, strict=True)))
        stages = [[Training(*student, kind) for student in students] for kind in ("distilled", "short", "alone")]
        failed = 0
        if not args.only_report:
            print(f"teacher: {pool.submit(train_teacher, setting).result():.2f} %", flush=True)
            failed += sum(train_all(trainings, setting, pool) for trainings in stages[:2])
        best = best_students(finished(stages[0], setting), args.best)
        again = [Training(*student, seed=seed) for seed in range(1, args.seeds) for student in best]
        if not args.only_report:
            failed += sum(train_all(trainings, setting, pool) for trainings in (again, stages[2]))
    report(finished([*chain(*stages), *again], setting), setting, command_of(args))
    if failed:
        raise SystemExit(f"{failed} trainings failed; the same command tries them again.")


if __name__ == "__main__":
    main()
