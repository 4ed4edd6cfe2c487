"""How much of the bare limit of the hardware does the training loop reach, and what does each distiller cost?

The bare limit is ResNet-20's forward and backward pass, ResNet-56's forward pass, kd's loss and the optimiser's step on
tensors that lie ready: no data, no augmentation, no bookkeeping. Both sides run alternately in one process. Then the
loop runs with each distiller, alternating with kd.

    python experiments/bench_training.py --rounds 5
    python experiments/bench_training.py --rounds 5 --steps 200 --device cuda --precision bf16
"""

from __future__ import annotations

import contextlib
import statistics
import time

import timm
import torch
from _common import make_parser, median_and_range, noise_images, parse, table, versions, write_report
from torch.nn import functional as F

import diswot_search as ds
import search_spaces  # noqa: F401 - registers the networks with timm

BATCH = 64
CLASSES = 100


def bare_images_per_second(steps: int, device: str, precision: str) -> float:
    """Return the speed of forward, backward and optimiser alone."""
    torch.manual_seed(0)
    order = torch.channels_last
    student = timm.create_model("cifar_resnet20", num_classes=CLASSES).to(device).to(memory_format=order).train()
    teacher = timm.create_model("cifar_resnet56", num_classes=CLASSES).to(device).to(memory_format=order).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, 32, 32, device=device).contiguous(memory_format=order)
    labels = torch.randint(CLASSES, (BATCH,), device=device)
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def step() -> None:
        with autocast:
            logits = student(images).float()
            with torch.no_grad():
                teacher_logits = teacher(images).float()
        (0.1 * F.cross_entropy(logits, labels) + 0.9 * ds.losses.kd_loss(logits, teacher_logits)).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return steps * BATCH / (time.perf_counter() - started)


def make_teacher() -> torch.nn.Module:
    """Make a random ResNet-56 whose batch normalisation has seen images, so that its features have the usual size."""
    torch.manual_seed(0)
    teacher = timm.create_model("cifar_resnet56", num_classes=CLASSES).train()
    with torch.no_grad():
        for _ in range(20):
            teacher(torch.randn(BATCH, 3, 32, 32))
    return teacher.eval()


def loop_images_per_second(
    splits: ds.Splits, teacher: torch.nn.Module, distiller: str, device: str, precision: str
) -> float:
    """Return the speed of the second epoch of a distillation; the first one warms up."""
    training = ds.distill(
        "cifar_resnet20",
        teacher,
        splits,
        distiller=distiller,
        epochs=2,
        batch_size=BATCH,
        lr=1e-5,
        recipe_options={"precision": precision},
        rule="last",
        device=device,
        progress=False,
    )
    return training.rows[1].images_per_second


def make_images(steps: int) -> ds.Splits:
    """Make random images that fill so many steps."""
    return noise_images(steps * BATCH, 32, CLASSES, held=2 * CLASSES)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="steps of each measurement")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--distillers", nargs="*", default=ds.list_distillers())
    args = parse(parser)
    splits, teacher = make_images(args.steps), make_teacher()

    bare, loop = [], []
    for _ in range(args.rounds):
        bare.append(bare_images_per_second(args.steps, args.device, args.precision))
        loop.append(loop_images_per_second(splits, teacher, "kd", args.device, args.precision))
    shares = [b / a for a, b in zip(bare, loop, strict=True)]
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    lines = [
        f"# The training loop against the bare limit, {args.device}",
        "",
        f"resnet56 to resnet20, 32 x 32, batch {BATCH}, {args.precision}, {args.steps} steps, {args.rounds} "
        f"rounds in turn. Medians (range). {device}, {versions()}.",
        "",
        f"    python experiments/bench_training.py --rounds {args.rounds} --steps {args.steps} --device {args.device} "
        f"--precision {args.precision}",
        "",
        "The loop is timed in its second epoch, training alone: validation and storing are left out on both sides.",
        "",
        *table(
            ["", "images per second"],
            [
                ["bare", f"{statistics.median(bare):,.0f}"],
                ["loop, with augmentation", f"{statistics.median(loop):,.0f}"],
                ["share of the bare limit", median_and_range(shares, ".0%", bold=True)],
            ],
        ),
        "",
        "Time of a step with each distiller over that with kd alone, measured side by side over half as many steps:",
        "",
    ]
    rows = []
    splits = make_images(max(2, args.steps // 2))
    for name in args.distillers:
        if name != "kd":
            pairs = []
            for _ in range(max(2, args.rounds // 2)):
                with_kd = loop_images_per_second(splits, teacher, "kd", args.device, args.precision)
                pairs.append(with_kd / loop_images_per_second(splits, teacher, name, args.device, args.precision))
            rows.append([name, median_and_range(pairs)])
    write_report(f"bench_training_{args.device}", [*lines, *table(["distiller", "time of a step, kd = 1"], rows)])


if __name__ == "__main__":
    main()
