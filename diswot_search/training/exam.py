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
    """The test of a teacher on the test images, which is made once, before the student learns.

    Attributes:
        accuracy: Accuracy in percent.
        samples: Number of test images.
        logits: The logits of this process's share, batch by batch, for the comparison with the student; None if they
            are not kept, as in an exam of an earlier run.
    """

    accuracy: float
    samples: int
    logits: Sequence[Tensor] | None = field(default=None, repr=False, compare=False)


def examine(teacher: FrozenNetwork, splits: Splits, accelerator: Accelerator) -> TeacherExam:
    """Test a teacher of the data's classes on the test images."""
    sums = MetricSums(splits.num_classes, accelerator.device)
    keeps = 4 * len(splits.test) * splits.num_classes <= _KEPT_BYTES
    kept = []
    for part in in_order(splits.test, accelerator):
        logits = teacher.logits(part.images)
        sums.add(logits, part.labels)
        if keeps:
            kept.append(logits.cpu())
    metrics = metrics_of(sums, accelerator)
    return TeacherExam(metrics.accuracy, metrics.samples, kept if keeps else None)
