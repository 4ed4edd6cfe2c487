"""Whether an accelerator ranks candidates as the CPU does, and how many it scores in a second.

200 random trainable cells of NAS-Bench-201, teacher ResNet-110, batch 64 of noise; the target is a Kendall tau of at
least .99. Candidates per second include building.

    python experiments/device_agreement.py --device cuda
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from scipy.stats import kendalltau

import diswot_search as ds

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
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
        "| device | bf16 | candidates per second | Kendall to the CPU |",
        "|---|---|---|---|",
    ]
    reference: list[float | None] = []
    for device, bf16 in (("cpu", False), (args.device, False), (args.device, True)):
        evaluator = ds.Evaluator(space, teacher, probe, "diswot", device=device, precision=ds.Precision(bf16=bf16))
        evaluator.evaluate(cells[:5])  # reads the teacher and warms up
        started = time.perf_counter()
        scores = [score.score for score in evaluator.evaluate(cells)]
        seconds = time.perf_counter() - started
        reference = reference or scores
        name = torch.cuda.get_device_name() if evaluator.device.startswith("cuda") else evaluator.device
        tau = kendalltau(scores, reference).statistic
        lines.append(f"| {name} | {'yes' if bf16 else 'no'} | {len(cells) / seconds:.1f} | {tau:.4f} |")
        resolved = evaluator.device
    text = "\n".join(lines) + "\n"
    print(text)
    if resolved != "cpu":
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"device_agreement_{resolved.partition(':')[0]}.md").write_text(text)


if __name__ == "__main__":
    main()
