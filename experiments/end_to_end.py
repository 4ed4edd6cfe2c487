"""One real run to its end: a trained teacher, two spaces under one latency budget, ten finalists, the verdict.

The teacher is a ResNet-20 for CIFAR-10 with published weights; students learn from 10,000 images. The search scores
candidates of both spaces within the budget. The best ten and the baselines are distilled shortly, the best of them in
full, and the pick is trained alone, too. Stopped anywhere, the same command continues.

    python experiments/end_to_end.py --cifar10 data/cifar10.npz --weights WEIGHTS
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from _common import RESULTS, cpu, make_parser, options_text, parse, versions, write_report

import diswot_search as ds

TEACHER = "cifar_resnet20"
TEACHER_OPTIONS = {"shortcut": "identity", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SPACES = ("cifar_resnet", "timm/resnet_32")
BASELINE = "cifar_resnet20"
"""What people take by hand. The budget is about its own latency."""


def teacher_file(weights: Path) -> Path:
    files = sorted(weights.glob(f"{TEACHER.replace('cifar_', 'cifar10_')}-*.th"))
    if not files:
        raise SystemExit(f"{weights} has no weights of {TEACHER} for CIFAR-10.")
    return files[0]


def main() -> None:
    parser = make_parser(__doc__, "cifar10", "weights")
    parser.add_argument("--evaluations", type=int, default=60, help="candidates that the search scores")
    parser.add_argument("--max_latency_ms", type=float, default=0.42)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
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
        recipe_options={"precision": args.precision, "lr": args.lr},
        finalists=args.finalists,
        baselines=[BASELINE],
        workers=args.workers,
        device="cpu",
        out=args.out,
    )
    minutes = (time.perf_counter() - started) / 60
    proof = result.shortlist
    assert proof is not None
    folder = Path(proof.path)
    for picture in ("scores", "rungs"):
        shutil.copyfile(folder / f"{picture}.png", RESULTS / f"end_to_end_{picture}.png")
    names = ("evaluations", "max_latency_ms", "epochs", "lr", "batch_size", "precision", "finalists", "workers")
    command = "python experiments/end_to_end.py --cifar10 data/cifar10.npz --weights WEIGHTS"
    lines = [
        "# From a trained teacher to a proven student",
        "",
        f"    {command} {options_text(args, *names)}",
        "",
        f"CIFAR-10, 10,000 images of which some validate, and 2,000 to test on. The teacher is {TEACHER} with its "
        f"published weights; students are of {' and '.join(SPACES)}, at most {args.max_latency_ms:g} ms in "
        "onnxruntime. "
        f"{versions()}, {cpu()}, {args.workers} workers; {minutes:.0f} minutes, with a load of {load:.1f} when it "
        "began. One run.",
        "",
        "![Score against accuracy](end_to_end_scores.png)",
        "![Accuracy over the rungs](end_to_end_rungs.png)",
        "",
        "#" + (folder / "report.md").read_text(),
    ]
    write_report("end_to_end", lines)


if __name__ == "__main__":
    main()
