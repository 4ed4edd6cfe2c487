"""How accurate do students become under a teacher? A table of cells of NAS-Bench-201 and of students of timm families.

Each student is trained twice on CIFAR-100, alone and with kd, from the same first weights and on the same images in the
same order, by one short recipe; the last epoch counts, on all test images. The teacher, a ResNet-20, is trained by us
on all training images. Students are drawn at random, then thinned so that their parameter counts spread evenly; large
ones are left out. Each student is written down when it is done, so that a run that was stopped goes on, and the tables
can be written at any time. They are tables that `search_spaces.read_table` and `diswot compare` read.

    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --images 10000 --epochs 4 --jobs 2
    python experiments/distilled_truth.py --cifar100 data/cifar100.npz --image_size 32 --epochs 30 --seeds 3 \
        --device cuda
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diswot_search as ds
import search_spaces

RESULTS = Path(__file__).parent / "results"
SPACES = {"nasbench201": 2, "timm/regnet_32": 1, "timm/vit_32": 1}
"""Students of each space among four that are trained: a run that is stopped has twice as many cells as others."""
MACS = {16: 12e6, 32: 48e6}
"""Most multiply-accumulates of a student of a timm family, by the side of the images."""
DRAWN = 2
"""Students drawn for each one that is trained."""
RECIPE = {"optimizer": "adamw", "weight_decay": 0.05, "decay_all": False, "schedule": "cosine", "warmup": 0.1}
TEACHER = "cifar_resnet20"
TEACHER_RECIPE = {"lr": 0.1, "batch_size": 128, "schedule": "cosine", "warmup": 0.05}


@dataclass(frozen=True)
class Setting:
    """What all trainings share."""

    cifar100: Path
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
            import torch

            torch.set_num_threads(self.threads)

    def recipe(self) -> dict[str, Any]:
        """What decides the accuracies, beside student and seed."""
        apart = ("cifar100", "out", "device", "threads")
        own = {name: value for name, value in asdict(self).items() if name not in apart}
        return own | {"students": RECIPE, "teacher": TEACHER, "teacher_recipe": TEACHER_RECIPE}

    def options(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Those of a training."""
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
    """The images; one of each class is kept back, since splits have images to validate on."""
    return ds.create_splits(str(file), image_size=image_size, train_limit=images, val_share=0.002)


@cache
def space_of(name: str, image_size: int) -> search_spaces.SearchSpace:
    return search_spaces.create_space(name, num_classes=100, input_size=(3, image_size, image_size))


# Whom to train


def choose(name: str, count: int, image_size: int) -> list[str]:
    """Architectures of a space that differ, in random order, of parameter counts that spread as those of the space."""
    space, rng = space_of(name, image_size), random.Random(name)
    limit = float("inf") if name == "nasbench201" else MACS[image_size]
    drawn: dict[search_spaces.Architecture, int] = {}
    while len(drawn) < DRAWN * count:
        architecture = space.canonical(space.sample(rng))
        if space.is_trainable(architecture) and space.cost(architecture).macs <= limit:
            drawn[architecture] = space.cost(architecture).params
    by_size = sorted(drawn, key=lambda architecture: (drawn[architecture], str(architecture)))
    chosen = [str(architecture) for architecture in by_size[DRAWN // 2 :: DRAWN]]
    rng.shuffle(chosen)
    return chosen


def in_turn(chosen: dict[str, list[str]], seeds: int) -> list[Student]:
    """The students in an order in which any beginning has its share of each space; a seed sets in half-way."""
    turns = [
        (place / SPACES[name] + seed * len(architectures) / 2, Student(name, architecture, seed))
        for name, architectures in chosen.items()
        for place, architecture in enumerate(architectures)
        for seed in range(seeds)
    ]
    return [student for _, student in sorted(turns, key=lambda turn: turn[0])]


# The trainings, each student in a process of its own


def train_teacher(setting: Setting) -> float:
    """Test accuracy of the teacher, which is trained on all images."""
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
    """Train a student alone and with kd, and write down what came of it."""
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
    timing = alone.result["timing"]
    result = asdict(student) | {
        "params": cost.params,
        "macs": cost.macs,
        "alone_accuracy": alone.accuracy,
        "distilled_accuracy": distilled.accuracy,
        "seconds": round(timing["seconds"] + distilled.result["timing"]["seconds"], 1),
        "device": timing["device"],
        "torch": alone.result["versions"]["torch"],
    }
    replace_text(student.file(setting), json.dumps(result))
    print(f"{student}: alone {alone.accuracy:.2f} %, with kd {distilled.accuracy:.2f} %", flush=True)
    return result


def replace_text(file: Path, text: str) -> None:
    """Write a file that is whole at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}")
    new.write_text(text)
    new.replace(file)


# What came of it


def keep_recipe(setting: Setting) -> None:
    """Write the recipe down; refuse to mix the students of two."""
    file, text = setting.out / "recipe.json", json.dumps(setting.recipe(), indent=1)
    if file.exists() and file.read_text() != text:
        raise SystemExit(
            f"The students in {setting.out} are trained by another recipe, see {file}; give another --out."
        )
    replace_text(file, text)


def finished(students: Sequence[Student], setting: Setting) -> dict[Student, dict[str, Any]]:
    files = {student: student.file(setting) for student in students}
    return {student: json.loads(file.read_text()) for student, file in files.items() if file.exists()}


def rows(name: str, results: dict[Student, dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of a space, one row for each architecture, of means over its seeds."""
    by_architecture: dict[str, list[dict[str, Any]]] = {}
    for student, result in results.items():
        if student.space == name:
            by_architecture.setdefault(student.architecture, []).append(result)
    made = []
    for architecture, runs in by_architecture.items():
        alone, distilled = (statistics.fmean(r[f"{how}_accuracy"] for r in runs) for how in ("alone", "distilled"))
        row = {
            "architecture": architecture,
            "distilled_accuracy": round(distilled, 4),
            "alone_accuracy": round(alone, 4),
        }
        cost = {"params": runs[0]["params"], "macs": runs[0]["macs"]}
        seconds = round(sum(run["seconds"] for run in runs), 1)
        made.append(row | {"gain": round(distilled - alone, 4)} | cost | {"seeds": len(runs), "seconds": seconds})
    return made


def noise(name: str, results: dict[Student, dict[str, Any]], column: str) -> list[float]:
    """Standard deviations over seeds, of each architecture with several."""
    by_architecture: dict[str, list[float]] = {}
    for student, result in results.items():
        if student.space == name:
            by_architecture.setdefault(student.architecture, []).append(result[column])
    return [statistics.stdev(values) for values in by_architecture.values() if len(values) > 1]


def describe(name: str, results: dict[Student, dict[str, Any]]) -> list[str]:
    """The cells of a space's row in the report."""
    table = rows(name, results)
    columns = {column: [row[column] for row in table] for column in table[0] if column != "architecture"}
    distilled = columns["distilled_accuracy"]
    ranked = [
        f"{ds.kendall(columns[column], distilled):.2f} / {ds.spearman(columns[column], distilled):.2f}"
        for column in ("params", "macs", "alone_accuracy")
    ]
    gains = columns["gain"]
    return [
        name,
        str(len(table)),
        f"{min(columns['params']) / 1e6:.2f} to {max(columns['params']) / 1e6:.2f}",
        between(columns["alone_accuracy"]),
        between(distilled),
        f"{statistics.fmean(gains):+.2f} ± {statistics.stdev(gains):.2f}",
        f"{statistics.stdev(distilled):.2f}",
        repeated(noise(name, results, "distilled_accuracy")),
        *ranked,
    ]


def between(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def repeated(deviations: Sequence[float]) -> str:
    """Standard deviation of one seed's accuracy, and of how many students it is known."""
    return f"{statistics.fmean(d * d for d in deviations) ** 0.5:.2f} ({len(deviations)})" if deviations else ""


HEAD = [
    "space",
    "students",
    "M params",
    "alone",
    "distilled",
    "gain",
    "spread",
    "of one seed",
    "params",
    "macs",
    "alone, ranks",
]


def write_report(results: dict[Student, dict[str, Any]], asked: int, setting: Setting, command: str) -> None:
    """A table for each space, and the report with its conditions."""
    teacher = json.loads((setting.teacher / "result.json").read_text())
    spaces = [name for name in SPACES if len(rows(name, results)) > 1]
    for name in spaces:
        table = RESULTS / f"distilled_truth_{name.rpartition('/')[2]}.csv"
        table.unlink(missing_ok=True)
        search_spaces.write_table(table, rows(name, results))
    first = next(iter(results.values()))
    left = f"; {asked - len(results)} more were not trained" if asked > len(results) else ""
    minutes = sum(result["seconds"] for result in results.values()) / 60
    lines = [
        "# Accuracies of distilled students",
        "",
        f"CIFAR-100, {setting.images or 'all'} training images of {setting.image_size} x {setting.image_size}, all "
        f"10,000 test images, {setting.epochs} epochs, the last counts. AdamW, rate {setting.lr:g} after a warm-up of "
        f"{RECIPE['warmup']:.0%}, then falling as a cosine, weight decay {RECIPE['weight_decay']}, batch "
        f"{setting.batch_size}, crop and flip, {setting.precision}; kd with its customary weights (T 4, .1 cross "
        f"entropy, .9 kd). The teacher, {TEACHER}, was trained on all images, of this size, for "
        f"{setting.teacher_epochs} epochs: {teacher['test']['accuracy']:.2f} %. Of a space, students are drawn at "
        f"random, of timm families up to {MACS[setting.image_size] / 1e6:.0f} MMACs, and thinned evenly by size.",
        "",
        f"    {command}",
        "",
        f"{first['device']}, {setting.threads or 'all'} thread(s) per training, torch {first['torch']}, Python "
        f"{platform.python_version()}; {len(results)} students trained twice, {minutes:.0f} minutes of one training "
        f"at a time{left}.",
        "",
        "Accuracies in percent. Spread: standard deviation over students of the accuracy with kd; of one seed: that "
        "over seeds of one student, and of how many students it is known. Right: Kendall and Spearman correlation of "
        "the parameters, the multiply-accumulates and the accuracy alone with the accuracy with kd.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *(describe(n, results) for n in spaces))),
    ]
    (RESULTS / "distilled_truth.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100")
    parser.add_argument("--images", type=int, help="training images, the same number of each class; by default all")
    parser.add_argument("--image_size", type=int, default=16, choices=MACS)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--students", type=int, default=40, help="of each space")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--jobs", type=int, default=1, help="students at once, of one thread each if more than one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only_report", action="store_true", help="write the tables of what is trained")
    parser.add_argument("--out", type=Path, default=Path("runs/distilled_truth"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    shared = ("cifar100", "out", "images", "image_size", "epochs", "teacher_epochs", "batch_size", "lr", "precision")
    given = {name: getattr(args, name) for name in (*shared, "device")}
    setting = Setting(**given, threads=1 if args.jobs > 1 else None)
    keep_recipe(setting)
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        sizes = [args.image_size] * len(SPACES)
        chosen = pool.map(choose, SPACES, [args.students] * len(SPACES), sizes)
        students = in_turn(dict(zip(SPACES, chosen, strict=True)), args.seeds)
        done = finished(students, setting)
        if not args.only_report:
            print(f"teacher: {pool.submit(train_teacher, setting).result():.2f} %", flush=True)
            todo = [student for student in students if student not in done]
            for training in as_completed([pool.submit(train_student, student, setting) for student in todo]):
                training.result()
            done = finished(students, setting)
    options = {"images": args.images, "image_size": args.image_size, "epochs": args.epochs}
    options |= {"teacher_epochs": args.teacher_epochs, "batch_size": args.batch_size, "lr": args.lr}
    options |= {"students": args.students, "seeds": args.seeds, "precision": args.precision, "jobs": args.jobs}
    said = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    write_report(done, len(students), setting, f"python experiments/distilled_truth.py --cifar100 CIFAR100 {said}")


if __name__ == "__main__":
    main()
