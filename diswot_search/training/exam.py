"""Networks on all images of a set in every process, and the test of a teacher before it teaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.image_sets import Images, ImageSet
from ..data.splits import Splits
from ..networks.frozen import FrozenNetwork
from .metrics import Metrics, MetricSums

EVALUATION_BATCH = 256

EXAM = "teacher_exam"
"""Key of the exam of a teacher in the store of a training or of a pipeline."""

EXAMS = {"test": EXAM, "val": "teacher_val_exam"}
"""Keys of the exams by the part of the data that they are made on."""

MAY_HAVE_SEEN = "a teacher that was trained elsewhere may have seen these images"
"""The caution beside the accuracy of a teacher on validation images, which come out of the training images."""

_KEPT_BYTES = 2**28
"""Largest size of the logits that are kept until the student is tested."""


def in_order(images: ImageSet, accelerator: Accelerator) -> Iterator[Images]:
    """This process's share of the images, in batches."""
    batches = images.batches(
        torch.arange(len(images)),
        EVALUATION_BATCH,
        device=accelerator.device,
        augment=None,
        seed=0,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    return (part for part in batches if len(part.labels))


def summed(sums: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over processes."""
    return accelerator.reduce(sums.clone()) if accelerator.num_processes > 1 else sums


def metrics_of(sums: MetricSums, accelerator: Accelerator) -> Metrics:
    """The metrics of the samples of all processes."""
    sums.sums = summed(sums.sums, accelerator)
    return sums.metrics()


@dataclass(frozen=True)
class TeacherExam:
    """The test of a teacher, which is made once, before the student learns.

    Attributes:
        accuracy: Accuracy in percent.
        samples: Number of images.
        logits: The logits of this process's share, batch by batch, for the comparison with the student; None if they
            are not kept, as in an exam of an earlier run.
        part: The part of the data that it is made on: "test" or "val".
    """

    accuracy: float
    samples: int
    logits: Sequence[Tensor] | None = field(default=None, repr=False, compare=False)
    part: str = "test"

    @property
    def images(self) -> str:
        """The images in words."""
        return {"test": "test images", "val": "validation images"}[self.part]


def examine(teacher: FrozenNetwork, splits: Splits, accelerator: Accelerator, part: str = "test") -> TeacherExam:
    """Test a teacher of the data's classes on the test images, or on the part "val"."""
    sums = MetricSums(splits.num_classes, accelerator.device)
    images = splits.test if part == "test" else splits.val
    keeps = part == "test" and 4 * len(images) * splits.num_classes <= _KEPT_BYTES
    kept = []
    for batch in in_order(images, accelerator):
        logits = teacher.logits(batch.images)
        sums.add(logits, batch.labels)
        if keeps:
            kept.append(logits.cpu())
    metrics = metrics_of(sums, accelerator)
    return TeacherExam(metrics.accuracy, metrics.samples, kept if keeps else None, part)
