"""The way of an engineer: photos in a folder, a network in own code with its weights, and a student that is quick.

The photos lie in a folder for each class, those to test on apart. The teacher is a class in a file of its own, trained
by a plain loop; its weights are what such a loop leaves: a state dict under "model" with "module." before each name,
beside an epoch and an accuracy. Then one call of `run` searches three families at once for a student within a latency
in onnxruntime, distils it and trains it alone to compare; `export` writes it for onnxruntime, which reads photos from
the folder and is timed by the wall clock, without this package.

    python experiments/own_teacher.py --cifar10 data/cifar10.npz
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from _common import cpu, make_parser, parse, table, versions, write_report
from _own_network import network
from torch import Tensor
from torch.nn import functional as F

import diswot_search as ds

FAMILIES = ["timm/mobilenetv3_32", "timm/regnet_32", "timm/vit_32"]
NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes in its order."""

CLASSES = sorted(NAMES)
"""The classes in the order of their folders, which is that of the labels."""

MEAN, STD = 0.5, 0.25
"""How the teacher's own loop normalises its images."""

Photos = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images (B, 32, 32, 3) and labels of "train" and "test"."""


def read_photos(file: Path, train: int, test: int) -> Photos:
    """Return the first images of a file, as many of each part."""
    arrays = np.load(file)
    order = np.array([CLASSES.index(name) for name in NAMES])
    counts = {"train": train, "test": test}
    return {part: (arrays[f"{part}_images"][:n], order[arrays[f"{part}_labels"][:n]]) for part, n in counts.items()}


def write_photos(photos: Photos, folder: Path) -> None:
    """Write the photos as PNG files, in a folder for each class in one for each part."""
    from matplotlib.image import imsave

    shutil.rmtree(folder, ignore_errors=True)
    for part, (images, labels) in photos.items():
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            imsave(folder / part / CLASSES[label] / f"{number:05}.png", image)


def as_tensor(images: np.ndarray) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def shifted(images: Tensor, most: int) -> Tensor:
    """Shift each image by up to so many pixels in both directions, as the student's recipe does.

    A teacher that was trained without it is right on 82 % of the photos that it was trained on, but on 65 % of the
    shifted ones that the student is shown.
    """
    padded = F.pad(images, (most,) * 4)
    rows, columns = (torch.randint(2 * most + 1, (len(images), 1, 1)) for _ in range(2))
    size = images.shape[2]
    rows, columns = rows + torch.arange(size)[None, :, None], columns + torch.arange(size)[None, None, :]
    return padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows, columns].permute(0, 3, 1, 2)


def train_teacher(photos: Photos, file: Path, epochs: int, shift: int) -> float:
    """Train the teacher by a loop without this package, and write its weights; returns its test accuracy in percent."""
    torch.manual_seed(0)
    model = network(len(CLASSES)).train()
    images, labels = as_tensor(photos["train"][0]), torch.from_numpy(photos["train"][1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * (len(images) // 64))
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(64)[: len(images) // 64]:
            batch = shifted(images[places], shift) if shift else images[places]
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            F.cross_entropy(model(batch), labels[places]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in as_tensor(photos["test"][0]).split(256)])
    accuracy = 100 * float((logits.argmax(1).numpy() == photos["test"][1]).mean())
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": weights, "epoch": epochs, "acc": np.float64(accuracy)}, file)
    return accuracy


def run_exported(file: Path, folder: Path) -> tuple[float, list[float]]:
    """Run a file on the test photos in onnxruntime; returns the accuracy in percent, and the milliseconds by photo."""
    from matplotlib.image import imread

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    photos = [(label, path) for label, group in enumerate(CLASSES) for path in (folder / "test" / group).iterdir()]
    images = [imread(path)[None, :, :, :3].transpose(0, 3, 1, 2).astype(np.float32) for _, path in photos]
    for image in images[:50]:  # the first passes are slower
        session.run(None, {name: image})
    right, seconds = [], []
    for (label, _), image in zip(photos, images, strict=True):
        started = time.perf_counter()
        (logits,) = session.run(None, {name: image})
        seconds.append(time.perf_counter() - started)
        right.append(int(logits.argmax()) == label)
    return 100 * statistics.fmean(right), [1000 * value for value in seconds]


def main() -> None:
    parser = make_parser(__doc__, "cifar10")
    parser.add_argument("--photos", type=int, default=4000, help="photos to train on")
    parser.add_argument("--tests", type=int, default=1000, help="photos to test on")
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--shift", type=int, default=4, help="pixels by which the teacher's photos are shifted at most")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the student")
    parser.add_argument("--evaluations", type=int, default=60, help="students that the search scores")
    parser.add_argument("--max_latency_ms", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("runs/own_teacher"))
    args = parse(parser)
    started = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    folder, weights = args.out / "photos", args.out / "teacher.pt"
    photos = read_photos(args.cifar10, args.photos, args.tests)
    write_photos(photos, folder)
    teacher_accuracy = train_teacher(photos, weights, args.teacher_epochs, args.shift)
    before = time.perf_counter()
    result = ds.run(
        folder,
        teacher=f"{Path(__file__).with_name('_own_network.py')}:network",
        teacher_checkpoint=weights,
        teacher_options={"mean": [MEAN] * 3, "std": [STD] * 3},
        space=FAMILIES,
        max_latency_ms=args.max_latency_ms,
        evaluations=args.evaluations,
        epochs=args.epochs,
        finalists=0,
        out=args.out / "run",
    )
    exported = ds.export(result.path, normalise=True)
    seconds = time.perf_counter() - before
    accuracy, times = run_exported(Path(exported.path), folder)
    assert result.alone is not None
    winner = result.study.winner
    rows = [
        ["teacher, own code, by its own loop", f"{teacher_accuracy:.1f}", "", ""],
        ["student, trained alone", f"{result.alone.accuracy:.1f}", f"{winner.params:,}", ""],
        ["student, distilled", f"{result.distilled.accuracy:.1f}", f"{winner.params:,}", f"{winner.latency_ms:.2f}"],
        [
            "its file in onnxruntime, without this package",
            f"{accuracy:.1f}",
            "",
            f"{min(times):.2f} ({statistics.median(times):.2f})",
        ],
    ]
    command = (
        f"python experiments/own_teacher.py --cifar10 data/cifar10.npz --photos {args.photos} --tests {args.tests} "
        f"--teacher_epochs {args.teacher_epochs} --shift {args.shift} --epochs {args.epochs} "
        f"--evaluations {args.evaluations} --max_latency_ms {args.max_latency_ms:g}"
    )
    lines = [
        "# From photos and a network in own code to a student for onnxruntime",
        "",
        f"    {command}",
        "",
        f"{args.photos} photos of 32 x 32 pixels, of {len(CLASSES)} classes, to train on, and {args.tests} to test on; "
        f"one run; {cpu()}, {versions()}, onnxruntime {onnxruntime.__version__}.",
        "",
        *table(["", "test accuracy, %", "parameters", "ms for one photo, one thread (median)"], rows),
        "",
        f"The student is `{winner.record.architecture}`, of {len(result.study)} that were scored in "
        f"{', '.join(FAMILIES)}; the limit is {args.max_latency_ms:g} ms in onnxruntime. `run` and `export` took "
        f"{seconds:.0f} s, the whole script {time.perf_counter() - started:.0f} s. The file's logits are within "
        f"{exported.difference:.0e} of the network's, as a share of the largest.",
    ]
    write_report("own_teacher", lines)


if __name__ == "__main__":
    main()
