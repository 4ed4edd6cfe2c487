"""Does distillation help on real images? Students on CIFAR-100: alone, kd, kd+diswot, dkd, several seeds each.

The teacher, ResNet-56, is trained by us. Students are ResNet-20 and the CIFAR ResNet, of any depth and width, that a
search finds for a random ResNet-56 within ResNet-20's parameters and multiply-accumulates. All are trained by the
recipe `cifar` on the same images. Runs that were stopped are gone on with.

    python experiments/cifar100_distillation.py --cifar100 data/cifar100.npz --images 10000 --epochs 12 \
        --teacher_epochs 30 --precision bf16 --jobs 2
    python experiments/cifar100_distillation.py --cifar100 data/cifar100.npz --device cuda
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from _common import make_parser, options_text, parse, process_pool, spread, table, versions, write_report

import diswot_search as ds
import search_spaces

METHODS = {"alone": None, "kd": "kd", "kd+diswot": "kd+diswot", "dkd": "dkd"}


def search_student(args: argparse.Namespace) -> str:
    """Search a student that is not larger than ResNet-20; return its architecture's text."""
    space = search_spaces.create_space("cifar_resnet", num_classes=100)
    largest = space.cost(space.parse("3x16-3x32-3x64"))
    study = ds.search(
        space,
        "cifar_resnet56",
        ds.create_probe(str(args.cifar100), seed=0),
        proxy="diswot",
        evaluations=300,
        budget=ds.Budget(max_params=largest.params, max_macs=largest.macs),
        device=args.device,
        out=args.out / "search",
        progress=False,
    )
    return str(study.winner.architecture)


def train_one(run: dict[str, Any]) -> dict[str, Any]:
    """Run one training, in a process of its own; return its result."""
    if run["threads"]:
        torch.set_num_threads(run["threads"])
    shared = run["shared"] | {"seed": run["seed"], "out": run["out"]}
    if run["distiller"] is None:
        training = ds.train(run["student"], **shared)
    else:
        training = ds.distill(
            run["student"],
            run["teacher"],
            distiller=run["distiller"],
            **shared,
        )
    print(f"{run['out']}: {training.accuracy:.2f} %", flush=True)
    return training.result.to_json()


def describe(results: dict[tuple[str, str], list[dict[str, Any]]], teacher: dict[str, Any]) -> list[str]:
    """Return the table, as Markdown."""
    rows = []
    for (student, method), runs in results.items():
        accuracies = [run["test"]["accuracy"] for run in runs]
        alone = [run["test"]["accuracy"] for run in results[student, "alone"]]
        gain = statistics.mean(accuracies) - statistics.mean(alone)
        calibration = f"{statistics.mean(run['test']['calibration_error'] for run in runs):.1f}"
        row = [student, *size_of(runs[0]), method, spread(accuracies)]
        if method == "alone":
            rows.append([*row, "", calibration, ""])
        else:
            agreement = statistics.mean(run["agreement"]["percent"] for run in runs)
            rows.append([*row, f"{gain:+.2f}", calibration, f"{agreement:.1f}"])
    test = teacher["test"]
    row = ["resnet56 (teacher)", *size_of(teacher), "alone", f"{test['accuracy']:.2f}"]
    rows.append([*row, "", f"{test['calibration_error']:.1f}", ""])
    head = ["student", "params", "MMACs", "method", "test accuracy", "over alone", "calibration error"]
    return table([*head, "agrees with teacher"], rows)


def size_of(run: dict[str, Any]) -> list[str]:
    """Return parameters and multiply-accumulates as text."""
    return [f"{run['student']['params']:,}", f"{run['student']['macs'] / 1e6:.1f}"]


def main() -> None:
    parser = make_parser(__doc__, "cifar100")
    parser.add_argument("--images", type=int, help="training images, the same number of each class; by default all")
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--teacher_epochs", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, of one thread each if more than one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only_teacher", action="store_true", help="stop after the teacher")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100_distillation"))
    args = parse(parser)

    data = {"seed": 0, "val_share": 0.02, **({"train_limit": args.images} if args.images else {})}
    shared = {
        "dataset": str(args.cifar100),
        "data_options": data,
        "recipe_options": {"precision": args.precision},
        "rule": "last",
        "device": args.device,
        "progress": False,
    }
    base = {"threads": 1 if args.jobs > 1 else 0, "distiller": None}
    teacher_run = args.out / "teacher"
    teacher = train_one(
        base
        | {"student": "cifar_resnet56", "seed": 0, "out": teacher_run}
        | {"threads": 0, "shared": shared | {"epochs": args.teacher_epochs}}
    )
    if args.only_teacher:
        return
    students = {"resnet20": "cifar_resnet20", f"searched {search_student(args)}": str(args.out / "search")}
    shared["epochs"] = args.epochs
    runs = {
        (student, method, seed): base
        | {"student": source, "teacher": str(teacher_run), "distiller": distiller, "seed": seed}
        | {"shared": shared, "out": args.out / f"{student.replace(' ', '-')}-{method}-{seed}"}
        for seed in range(args.seeds)
        for student, source in students.items()
        for method, distiller in METHODS.items()
    }
    with process_pool(args.jobs) as pool:
        done = dict(zip(runs, pool.map(train_one, runs.values()), strict=True))
    results = {
        (student, method): [done[student, method, seed] for seed in range(args.seeds)]
        for student in students
        for method in METHODS
    }
    report(args, results, teacher)


def report(
    args: argparse.Namespace, results: dict[tuple[str, str], list[dict[str, Any]]], teacher: dict[str, Any]
) -> None:
    """Write the table with its conditions."""
    first = next(iter(results.values()))[0]
    timing = first["timing"]
    options = options_text(args, "images", "epochs", "teacher_epochs", "seeds", "precision", "jobs", "device")
    command = f"python experiments/cifar100_distillation.py --cifar100 data/cifar100.npz {options}"
    lines = [
        "# Distillation on CIFAR-100",
        "",
        f"{args.images or 'All'} images, {args.epochs} epochs (teacher {args.teacher_epochs}), recipe `cifar`, "
        f"batch {timing['batch_size']}, {timing['precision']}, last epoch, all 10,000 test images; mean and standard "
        f"deviation over {args.seeds} seeds; all losses with their customary weights (dkd: beta 8).",
        "",
        f"{timing['device']}, {timing['threads']} thread(s) per training, {versions()}.",
        "",
        f"    {command}",
        "",
        *describe(results, teacher),
    ]
    write_report(f"cifar100_distillation_{args.images or 'all'}_{args.epochs}", lines)


if __name__ == "__main__":
    main()
