"""Whether an accelerator ranks candidates as the CPU does, and how many it scores in a second.

200 random trainable cells of NAS-Bench-201, teacher ResNet-110, batch 64 of noise; the target is a Kendall tau of at
least .99. Candidates per second include building.

    python experiments/device_agreement.py --device cuda
"""

from __future__ import annotations

import random
import time

import torch
from _common import make_parser, parse, table, write_report

import diswot_search as ds
from search_spaces import Architecture


def score_of(evaluator: ds.Evaluator, cell: Architecture) -> float:
    """Return the score of a cell, or NaN if it failed."""
    score = evaluator.evaluate([cell])[0].score
    return float("nan") if score is None else score


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--count", type=int, default=200)
    args = parse(parser)
    space = ds.create_space("nasbench201", num_classes=100)
    probe = ds.create_probe("noise", num_classes=100, batch_size=64)
    teacher = ds.create_teacher("cifar_resnet110", num_classes=100)
    rng = random.Random(0)
    draws = (space.sample(rng) for _ in range(2 * args.count))
    cells = [cell for cell in draws if space.is_trainable(cell)][: args.count]

    lines = [
        "# Agreement of devices",
        "",
        f"`python experiments/device_agreement.py --device {args.device}`: {len(cells)} cells of NAS-Bench-201, "
        f"ResNet-110, batch 64, torch {torch.__version__}.",
        "",
    ]
    rows: list[list[str]] = []
    reference: list[float] = []
    for device, bf16 in (("cpu", False), (args.device, False), (args.device, True)):
        evaluator = ds.Evaluator(space, teacher, probe, "diswot", device=device, precision=ds.Precision(bf16=bf16))
        evaluator.evaluate(cells[:5])  # reads the teacher and warms up
        started = time.perf_counter()
        scores = [score_of(evaluator, cell) for cell in cells]
        seconds = time.perf_counter() - started
        reference = reference or scores
        name = torch.cuda.get_device_name() if evaluator.device.startswith("cuda") else evaluator.device
        tau = ds.kendall(scores, reference)
        rows.append([name, "yes" if bf16 else "no", f"{len(cells) / seconds:.1f}", f"{tau:.4f}"])
        resolved = evaluator.device
    lines += table(["device", "bf16", "candidates per second", "Kendall to the CPU"], rows)
    if resolved != "cpu":
        write_report(f"device_agreement_{resolved.partition(':')[0]}", lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
