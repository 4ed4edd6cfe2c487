"""The losses of a training step: cross entropy, distillers, and the objective on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..distillation.base import Batch, DistillerError, Setting
from ..distillation.combination import Combination, Term
from ..networks.features import FeatureReader, Features, Shapes
from ..networks.frozen import FrozenNetwork
from ..networks.preprocessing import Preprocessor
from .class_weights import weighted_cross_entropy
from .unlabelled import UnlabelledLoss, Views


class StepLosses(NamedTuple):
    """The losses and outputs of a training step.

    Attributes:
        terms: The weighted terms of the loss by name, the cross entropy first; scalars.
        notes: Further measurements by name; scalars.
        logits: The student's logits of the labelled images (B, N).
    """

    terms: dict[str, Tensor]
    notes: dict[str, Tensor]
    logits: Tensor


class DistillationTask(nn.Module):
    """A student with its losses: cross entropy, the distillers under a teacher, and the loss on unlabelled images.

    Its parameters are those of the student, of the distillers' connectors, and of the heads for unlabelled images.

    Args:
        student: Any classifier.
        normalise: The normalisation of its images.
        example: Training images between 0 and 1, (B, C, H, W), at least 2, on the student's device.
        teacher: The teacher; None trains the student alone.
        terms: The distillers.
        unlabelled: Creates the loss on unlabelled images for the student's shapes; None leaves them out.
        labels: Class of each training sample, on the CPU.
        num_classes: Number of classes of the data.
        ce_weight: Factor of the cross entropy; by default the customary one.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: Weight of each class in the cross entropy, (N,); None for plain cross entropy.
        names: Names of student and teacher in messages.

    Attributes:
        student: The student.
        class_weights: Weight of each class in the cross entropy, on the device; None without.
        combination: The distillers; None without a teacher.
        unlabelled: The loss on unlabelled images; None without any.
        ce_weight: Factor of the cross entropy.

    Raises:
        DistillerError: A distiller does not fit, or there are distillers without a teacher.
        ReadingError: A network cannot be read.
        ValueError: The student has another number of classes than the data.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        student: nn.Module,
        normalise: Preprocessor,
        example: Tensor,
        *,
        teacher: tuple[nn.Module, Preprocessor] | None = None,
        terms: tuple[Term, ...] = (),
        unlabelled: Callable[[Shapes], UnlabelledLoss] | None = None,
        labels: Tensor,
        num_classes: int,
        ce_weight: float | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        names: tuple[str, str] = ("student", "teacher"),
    ) -> None:
        super().__init__()
        if bool(terms) != (teacher is not None):
            raise DistillerError("Distillers need a teacher, and a teacher needs distillers; one of them is missing.")
        self.student = student
        self.normalise = normalise
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else class_weights.to(example.device)
        self.register_buffer("class_weights", weights, persistent=False)
        self.combination: Combination | None = None
        self._teacher: tuple[FrozenNetwork, ...] = ()  # in a tuple, which hides it from the parameters
        self._reader = FeatureReader(student, normalise(example), names[0])
        _check_classes("student", self._reader.shapes, num_classes)
        self.unlabelled = None if unlabelled is None else unlabelled(self._reader.shapes).to(example.device)
        customary = 1.0 if self.unlabelled is None else self.unlabelled.ce_weight
        self.ce_weight = customary if ce_weight is None else ce_weight
        if self.unlabelled is not None:
            self._reader.want(self.unlabelled.reads)
        if teacher is not None:
            model, of_teacher = teacher
            reader = FeatureReader(model, of_teacher(example), names[1])
            setting = Setting(self._reader.shapes, reader.shapes, labels, reader.norms)
            self.combination = Combination(terms, setting, ce_weight).to(example.device)
            self.ce_weight = self.combination.ce_weight
            self._teacher = (FrozenNetwork(model, of_teacher, reader),)
            reads = self.combination.reads
            reader.want(reads)
            self._reader.want({*reads, *(self.unlabelled.reads if self.unlabelled else ())})

    @property
    def teacher(self) -> FrozenNetwork | None:
        """The teacher."""
        return self._teacher[0] if self._teacher else None

    @property
    def predicts_alike(self) -> bool:
        """Whether there is a teacher, and its classes are as many as the student's."""
        return bool(self._teacher) and self._teacher[0].reader.shapes.classes == self._reader.shapes.classes

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        distillers = () if self.combination is None else (term.name for term in self.combination.terms)
        return ("ce", *distillers, *(self.unlabelled.terms if self.unlabelled else ()))

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of the further measurements."""
        return self.unlabelled.notes if self.unlabelled else ()

    @property
    def _readers(self) -> tuple[FeatureReader, ...]:
        return (self._reader, *(teacher.reader for teacher in self._teacher))

    def own_buffers(self) -> list[str]:
        """Names of the buffers that the distillers themselves keep equal in all processes."""
        return [f"combination.{name}" for name in self.combination.own_buffers()] if self.combination else []

    def no_weight_decay(self) -> set[str]:
        """Names of the student's parameters without weight decay, which timm's optimisers ask for."""
        ask = getattr(self.student, "no_weight_decay", None)
        return {f"student.{name}" for name in ask()} if callable(ask) else set()

    def release(self) -> None:
        """Remove all hooks from student and teacher."""
        for reader in self._readers:
            reader.release()

    def compile(self, *args: object, **options: object) -> None:
        """Let torch compile student and teacher."""
        for reader in self._readers:
            reader.compile()

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        targets: Tensor | None,
        progress: float,
        views: Views | None = None,
    ) -> StepLosses:
        """The losses of a batch.

        Args:
            images: Labelled images, (B, C, H, W) between 0 and 1.
            labels, indices, targets: As in `Batch`.
            progress: Share of the training that is done.
            views: Unlabelled images; None if the loss on unlabelled images uses the labelled ones.
        """
        features, view_features = self._read(images, views)
        with torch.autocast(images.device.type, enabled=False):
            cross_entropy = weighted_cross_entropy(
                features.logits,
                labels if targets is None else targets,
                self.class_weights,
                label_smoothing=self.label_smoothing,
            )
            losses, notes = {"ce": self.ce_weight * cross_entropy}, {}
        if self.combination is not None and self.teacher is not None:
            teacher_features = self.teacher(images)
            with torch.autocast(images.device.type, enabled=False):
                batch = Batch(images, labels, indices, targets)
                losses |= self.combination(features, teacher_features, batch, progress)
        if self.unlabelled is not None:
            views = Views(images[None], indices) if views is None else views
            unlabelled_losses, notes = self.unlabelled(view_features, views)
            losses |= unlabelled_losses
        return StepLosses(losses, notes, features.logits)

    def _read(self, images: Tensor, views: Views | None) -> tuple[Features, Features]:
        """The student's features of labelled and of unlabelled images, from one pass."""
        if views is None:
            features = self._reader.read(self.normalise(images))
            return features, features
        stacked = torch.cat([images, views.images.flatten(0, 1)])
        return self._reader.read(self.normalise(stacked)).split(len(images))


def _check_classes(role: str, shapes: Shapes, num_classes: int) -> None:
    if shapes.classes != num_classes:
        raise ValueError(
            f"The {role} {shapes.name} tells {shapes.classes} classes apart, but the data has {num_classes} classes."
        )
