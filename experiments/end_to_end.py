"""One real run to its end: a trained teacher, two spaces under one latency budget, ten finalists, the verdict.

The teacher is a ResNet for CIFAR-10 with published weights, its pupils learn from 10,000 images. The search scores
candidates of both spaces within the budget; the best ten and the baselines are distilled shortly, the best of them and
the baselines in full, and the pick is trained alone, too. Stopped anywhere, the same command continues.

    python experiments/end_to_end.py --cifar10 data/cifar10.npz --weights WEIGHTS
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from _common import RESULTS, cpu, make_parser, options_text, parse, table, versions, write_report

import diswot_search as ds
from diswot_search.reports.shortlist import describe_shortlist

TEACHER = "cifar_resnet20"
TEACHER_OPTIONS = {"shortcut": "identity", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SPACES = ("cifar_resnet", "timm/mobilenetv3_32")
BASELINES = ("cifar_resnet8", "cifar_resnet14")
"""What people take by hand."""


def teacher_file(weights: Path) -> Path:
    files = sorted(weights.glob(f"{TEACHER.replace('cifar_', 'cifar10_')}-*.th"))
    if not files:
        raise SystemExit(f"{weights} has no weights of {TEACHER} for CIFAR-10.")
    return files[0]


def stage_rows(seconds: dict[str, float]) -> list[list[str]]:
    return [[stage, f"{value / 60:.1f}"] for stage, value in seconds.items()]


def main() -> None:
    parser = make_parser(__doc__, "cifar10", "weights")
    parser.add_argument("--evaluations", type=int, default=100, help="candidates that the search scores")
    parser.add_argument("--max_latency_ms", type=float, default=0.6)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--finalists", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/end_to_end"))
    args = parse(parser)
    started, load = time.perf_counter(), os.getloadavg()[0]
    result = ds.run(
        args.cifar10,
        teacher=TEACHER,
        teacher_checkpoint=teacher_file(args.weights),
        teacher_options=TEACHER_OPTIONS,
        space=SPACES,
        max_latency_ms=args.max_latency_ms,
        evaluations=args.evaluations,
        epochs=args.epochs,
        batch_size=args.batch_size,
        finalists=args.finalists,
        baselines=BASELINES,
        workers=args.workers,
        device="cpu",
        out=args.out,
    )
    minutes = (time.perf_counter() - started) / 60
    proof = result.shortlist
    assert proof is not None
    for picture in ("scores", "rungs"):
        shutil.copyfile(proof.path / f"{picture}.png", RESULTS / f"end_to_end_{picture}.png")
    options = options_text(args, "evaluations", "max_latency_ms", "epochs", "batch_size", "finalists", "workers")
    lines = [
        "# From a trained teacher to a proven student",
        "",
        f"    python experiments/end_to_end.py --cifar10 data/cifar10.npz --weights WEIGHTS {options}",
        "",
        f"{versions()}, {cpu()}, {args.workers} workers; {minutes:.0f} minutes, with a load of {load:.1f} when it began. "
        f"CIFAR-10, 10,000 images with the validation images among them, and 2,000 to test on. The teacher, {TEACHER} with published weights; spaces "
        f"{' and '.join(SPACES)} at most {args.max_latency_ms:g} ms in onnxruntime.",
        "",
        *(f"- {line}" for line in describe_shortlist(proof)),
        "",
    ]
    write_report("end_to_end", lines)


if __name__ == "__main__":
    main()
