"""The trial before a training: one step and one single image, of which nothing stays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from ..data.image_sets import Images
from ..distillation.base import DistillerError
from ..networks.contract import ReadingError, describe
from ..networks.soundness import check_logits
from ..runtime.failures import failure_reason
from .task import DistillationTask

TRIAL_IMAGES = 2
"""Largest number of images of the trial step; a step of one image is tried with one."""


def try_task(task: DistillationTask, part: Images, names: tuple[str, str], precision: AbstractContextManager) -> None:
    """Run a single image and one step of training, so that what fails there fails before anything is written.

    Weights, running statistics, modes and gradients are the same afterwards; random numbers are drawn from torch's
    global generators. The cross entropy is tried alone: distillers and losses on unlabelled images may count calls.

    Args:
        task: The task, on its device.
        part: Labelled images of a step, as many as the step has, or `TRIAL_IMAGES`.
        names: Names of student and teacher in messages.
        precision: The context of the precision that training computes in.

    Warns:
        UserWarning: The student gives several outputs while it trains, of which one is learnt.

    Raises:
        ValueError: A network fails, or the teacher gives probabilities, NaN or infinity.
    """
    student, teacher = (f"The {role} {name}" for role, name in zip(("student", "teacher"), names, strict=True))
    single = part.images[:1]
    with _unchanged(task):
        task.student.eval()
        with torch.no_grad():
            _check_single(f"{student} fails on a single image", lambda: task.student(task.normalise(single)))
            if task.teacher is not None:
                of_teacher = task.teacher
                _check_single(f"{teacher} fails on a single image", lambda: of_teacher.logits(single))
                check_logits(of_teacher.logits(part.images), teacher)
        size = " x ".join(map(str, part.images.shape[1:]))
        images = "1 image" if len(part.images) == 1 else f"{len(part.images)} images"
        task.student.train()
        with _explained(f"{student} fails in a training step of {images} of {size}"):
            with precision:
                output = task.student(task.normalise(part.images))
                losses = task(part.images, part.labels, part.indices, None, 0.0).terms
            torch.stack(list(losses.values())).sum().backward()
    if not isinstance(output, Tensor):
        warnings.warn(
            f"{student} gives {describe(output)} while it trains. Its class scores are learnt; auxiliary outputs are "
            "not.",
            stacklevel=5,
        )


def _check_single(what: str, run: object) -> None:
    assert callable(run)
    with _explained(what):
        output = run()
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        raise ValueError(f"{what}: it gives {describe(output)}, not class scores of shape (1, classes).")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn any error of a network into one that says where it failed."""
    try:
        yield
    except (DistillerError, ReadingError):
        raise
    except Exception as error:  # a network may fail in any way
        raise ValueError(f"{what}: {failure_reason(error, 'in the trial step')}") from error


@contextmanager
def _unchanged(task: DistillationTask) -> Iterator[None]:
    """Leave a task as it was: its modes, buffers and gradients. All losses but the cross entropy are put aside."""
    modes = [(module, module.training) for module in task.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in task.buffers()]
    combination, unlabelled = task.combination, task.unlabelled
    task.combination = task.unlabelled = None
    try:
        yield
    finally:
        task.combination, task.unlabelled = combination, unlabelled
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
        for parameter in task.parameters():
            parameter.grad = None
        for module, training in modes:
            module.training = training
