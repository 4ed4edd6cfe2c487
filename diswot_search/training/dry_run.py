"""The dry run before a training: the loss of its first step and one single image, of which nothing stays."""

from __future__ import annotations

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..distillation.base import DistillerError
from ..networks.contract import ReadingError, describe
from ..networks.soundness import check_finite_logits, check_logits, check_not_probabilities
from ..runtime.failures import failure_reason
from .batches import Batches
from .task import DistillationTask, StepLosses
from .unlabelled import UnlabelledError

_JUDGED = 8
"""Largest number of images by which logits are told from probabilities."""


def dry_run(
    task: DistillationTask, batches: Batches, names: tuple[str, str], precision: AbstractContextManager[object]
) -> None:
    """Run a single image and the first step of a training, so that what fails there fails before anything is written.

    The step has the images, the random numbers and all terms of the loss of the first step. Distillers that warm up
    have their full factor in it. With `accumulate` it is the first part of the step. Weights, buffers (running
    statistics and the memories of `crd` among them), attributes, modes and gradients are the same afterwards. The
    caller isolates the global random state.

    Args:
        task: The task, on its device.
        batches: The batches of the training.
        names: Names of student and teacher in messages.
        precision: The context of the precision that training computes in.

    Warns:
        UserWarning: The student gives several outputs while it trains, of which one is learnt.

    Raises:
        ValueError: A network or a loss fails; a network gives probabilities, NaN or infinity; or a loss or its gradient
            is not a number.
    """
    student, teacher = (f"The {role} {name}" for role, name in zip(("student", "teacher"), names, strict=True))
    part = batches.first()
    images = part.labelled.images
    number = "1 image" if len(images) == 1 else f"{len(images)} images"
    step = f"in a training step of {number} of {' x '.join(map(str, images.shape[1:]))}"
    outputs: list[object] = []
    with _unchanged(task):
        task.eval()
        with torch.no_grad():
            _check_single(student, lambda inputs: task.student(task.normalise(inputs)), images)
            check_not_probabilities(task.student(task.normalise(images[:_JUDGED])), student)
            if task.teacher is not None:
                _check_single(teacher, task.teacher.logits, images)
                check_logits(task.teacher.logits(images[:_JUDGED]), teacher)
        task.train()
        batches.seed_step(0)
        mixed, targets = batches.mixed(part.labelled)
        labels = part.labelled.labels if targets is None else targets.argmax(1)
        with ExitStack() as stack:
            blame = stack.enter_context(_blaming(task, student, teacher))
            stack.enter_context(_explained(lambda: f"{blame[-1]} fails {step}"))
            stack.callback(task.student.register_forward_hook(lambda *call: outputs.append(call[-1])).remove)
            with precision, task.unlabelled.in_dry_run() if task.unlabelled is not None else ExitStack():
                losses = task(mixed, labels, part.labelled.indices, targets, 1.0, part.views)
                is_scaled = _is_scaled(images.device)
            blame.append("The gradient of the loss")
            torch.stack(list(losses.terms.values())).sum().backward()
        _check_losses(losses, student, step)
        if not is_scaled:  # else the gradient of the scaled loss is what counts
            _check_gradient(task, step)
    if outputs and not isinstance(outputs[-1], Tensor):
        warnings.warn(
            f"{student} gives {describe(outputs[-1])} while it trains. Its class scores are learnt; auxiliary outputs "
            "are not.",
            stacklevel=5,
        )


def _check_single(who: str, run: Callable[[Tensor], object], images: Tensor) -> None:
    what = f"{who} fails on a single image"
    with _explained(lambda: what):
        output = run(images[:1])
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        raise ValueError(f"{what}: it gives {describe(output)}, not class scores of shape (1, classes).")


def _is_scaled(device: torch.device) -> bool:
    """Whether the loss is scaled before it is differentiated, as in half precision."""
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16


def _check_losses(losses: StepLosses, student: str, step: str) -> None:
    """Refuse losses that are no numbers."""
    check_finite_logits(losses.logits, student)
    for name, value in losses.terms.items():
        if not bool(value.isfinite()):
            raise ValueError(f"The term {name} of the loss is {value.item():g} {step}, so that nothing can be learnt.")


def _check_gradient(task: DistillationTask, step: str) -> None:
    """Refuse a gradient that is no number, though the loss is one."""
    gradients = {name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None}
    if not gradients:
        return
    finite = torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).tolist()
    for name, is_finite in zip(gradients, finite, strict=True):
        if not is_finite:
            raise ValueError(
                f"The gradient of the loss has NaN or infinity {step}, though the loss is a number: that of {name}."
            )


# -- errors -------------------------------------------------------------------------------------


@contextmanager
def _explained(what: Callable[[], str]) -> Iterator[None]:
    """Turn any error of a network or a loss into one that says where it failed."""
    try:
        yield
    except (DistillerError, ReadingError, UnlabelledError):
        raise
    except Exception as error:  # a network may fail in any way
        raise ValueError(f"{what()}: {failure_reason(error, 'in the dry run')}") from error


@contextmanager
def _blaming(task: DistillationTask, student: str, teacher: str) -> Iterator[list[str]]:
    """A list whose last entry names what runs at the moment, for messages."""
    blame = [student]
    modules: list[tuple[nn.Module, str]] = []
    if task.teacher is not None and task.combination is not None:
        modules = [(task.teacher.model, teacher), (task.combination, "The sum of the distillers")]
        modules += [
            (module, f"The distiller {term.name!r}")
            for module, term in zip(task.combination.distillers, task.combination.terms, strict=True)
        ]
    if task.unlabelled is not None:
        modules.append((task.unlabelled, "The loss on unlabelled images"))
    with ExitStack() as stack:
        for module, name in modules:
            note = module.register_forward_pre_hook(lambda *call, name=name: blame.append(name))
            stack.callback(note.remove)
        yield blame


# -- nothing stays ------------------------------------------------------------------------------


@contextmanager
def _unchanged(task: DistillationTask) -> Iterator[None]:
    """Leave a task as it was: its weights, buffers and attributes, modes among them; gradients are removed."""
    modules = [*task.modules(), *(task.teacher.model.modules() if task.teacher is not None else ())]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*task.parameters(), *task.buffers())]
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    restorers = [restore for _, values in attributes for value in values.values() for restore in _restorers(value)]
    try:
        yield
    finally:
        for restore in restorers:
            restore()
        for now, values in attributes:
            for name in now.keys() - values.keys():
                del now[name]
            now.update((name, value) for name, value in values.items() if now.get(name) is not value)
        with torch.no_grad():
            for tensor, content in tensors:
                tensor.copy_(content)
        for parameter in task.parameters():
            parameter.grad = None


def _restorers(value: object) -> Iterator[Callable[[], object]]:
    """Functions that give a container or a random generator the content that it has now."""
    if type(value).__module__ in ("builtins", "collections"):
        if isinstance(value, list | deque):
            yield from (value.clear, partial(value.extend, list(value)))
        elif isinstance(value, dict | set):
            yield from (value.clear, partial(value.update, value.copy()))
    elif isinstance(value, torch.Generator):
        yield partial(value.set_state, value.get_state())
    elif isinstance(value, np.random.Generator):
        yield partial(setattr, value.bit_generator, "state", copy.deepcopy(value.bit_generator.state))
    elif isinstance(value, random.Random):
        yield partial(value.setstate, value.getstate())
