"""The contract of distillers, and their registry."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import ClassVar

from torch import Tensor, nn

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, UnknownNameError, unknown_name_message

from ..networks.features import READABLE, Features, Shapes

RESERVED = ("ce", "total", "val")
"""Names that no distiller can have; they stand for the cross entropy, the total loss and the validation loss."""


class DistillerError(ValueError):
    """A distiller does not fit its student and teacher, or its specification is wrong.

    Example:
        >>> issubclass(DistillerError, ValueError)  # so `except ValueError` catches it
        True
    """


class OtherClassesError(DistillerError):
    """A distiller compares classes, but student and teacher have different numbers of them."""


@dataclass(frozen=True)
class Batch:
    """The labelled images of one training step.

    Attributes:
        images: Augmented images (B, C, H, W) with values between 0 and 1. Each network normalises them itself.
        labels: Class indices (B,); the class with the largest share for a mixed image.
        indices: Positions (B,) of the images in the training set.
        targets: Class shares (B, N) of mixed images; None without mixing.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True)
class Setting:
    """The networks and training labels that a distiller is created for.

    Attributes:
        student: The shapes of the student's features.
        teacher: The shapes of the teacher's features.
        labels: The class of each training sample, (samples,), on the CPU. A hidden class is stored as the number of
            classes, which is no valid class index; no batch has samples of hidden classes.
        norms: The channel means and standard deviations (2, C) of each teacher stage before its last activation,
            taken from the batch normalisation there; None for a stage without one.
    """

    student: Shapes
    teacher: Shapes
    labels: Tensor = field(repr=False)
    norms: tuple[Tensor | None, ...] = field(default=(), repr=False)


class Distiller(nn.Module, ABC):
    """A loss on a student's and a teacher's features, together with its trainable connectors.

    To add a distiller, inherit from this class, list the features that it needs in `reads`, create connectors in
    `__init__` after `super().__init__(setting)`, return the loss from `forward`, and pass the class to
    `register_distiller`. Options are keyword arguments of `__init__`.

    Args:
        setting: The networks and training labels that the distiller is created for.

    Attributes:
        reads: The features that the distiller needs; names from `READABLE`.
        weight: The customary factor of the loss.
        ce_weight: The customary factor of the cross entropy that is added to the loss.
        warmup: The share of the training over which the factor of the loss rises from zero.
        own_buffers: Names of buffers that start equal and are kept equal by the distiller on all processes. All
            other buffers are copied from the main process at each step, which is slow for large buffers.
        setting: The networks and training labels that the distiller is created for.

    Raises:
        DistillerError: A network lacks features that the distiller reads.
    """

    reads: ClassVar[tuple[str, ...]] = ("logits",)
    weight: ClassVar[float] = 1.0
    ce_weight: ClassVar[float] = 1.0
    warmup: ClassVar[float] = 0.0
    own_buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        _check_reads(type(self))
        self.setting = setting
        if "logits" in self.reads:
            check_classes(setting, type(self).__name__)
        for shapes, role in ((setting.student, "student"), (setting.teacher, "teacher")):
            missing = [name for name in self.reads if not getattr(shapes, _SHAPE_OF[name])]
            if missing:
                raise DistillerError(
                    f"{type(self).__name__} reads {', '.join(missing)}, which the {role} {shapes.name} does not have."
                )

    @abstractmethod
    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Compute the loss.

        Args:
            student: The student's features.
            teacher: The teacher's features, detached from any graph.
            batch: The batch that both networks were given.

        Returns:
            A scalar.
        """


_SHAPE_OF = {
    "logits": "classes",
    "pooled": "pooled",
    "features": "features",
    "stages": "stages",
    "preactivations": "preactivations",
}


def _check_reads(distiller: type[Distiller]) -> None:
    reads, name = distiller.reads, distiller.__name__
    if not isinstance(reads, tuple):
        raise DistillerError(f"{name}.reads is {reads!r}; it must be a tuple, such as ('stages',) with its comma.")
    unreadable = [str(kind) for kind in reads if kind not in READABLE]
    if unreadable:
        raise DistillerError(f"{name} reads {', '.join(unreadable)}; a network has {', '.join(READABLE)}.")


def check_classes(setting: Setting, what: str) -> None:
    """Check that student and teacher have the same number of classes.

    Args:
        setting: The two networks.
        what: The name, in the message, of the distiller that compares classes.

    Raises:
        OtherClassesError: The numbers of classes differ.
    """
    student, teacher = setting.student, setting.teacher
    if student.classes != teacher.classes:
        raise OtherClassesError(
            f"{what} compares classes, but the student {student.name} has {student.classes} classes and the teacher "
            f"{teacher.name} has {teacher.classes}."
        )


# -- by name ------------------------------------------------------------------------------------


def _adopt(name: str, value: object) -> type[Distiller]:
    """The distiller that a user's own code has under a name."""
    try:
        return _check_distiller(value)
    except ValueError as error:
        raise OwnCodeError(f"{name}: {error}") from error


_DISTILLERS: Registry[type[Distiller]] = Registry("distiller", _adopt)


def register_distiller(name: str, distiller: type[Distiller]) -> type[Distiller]:
    """Register a distiller under a name.

    Args:
        name: A word of letters, digits and underscores that does not start with a digit.
        distiller: The class. The first line of its docstring describes it.

    Returns:
        The class, unchanged.

    Raises:
        ValueError: The name is taken, reserved or not such a word; or the class is no distiller, reads features that
            no network has, or lacks `forward`.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of a distiller; use letters, digits and underscores.")
    if name in RESERVED:
        raise ValueError(f"{name!r} cannot be the name of a distiller: {', '.join(RESERVED)} name other losses.")
    return _DISTILLERS.register(name, _check_distiller(distiller))


def _check_distiller(distiller: object) -> type[Distiller]:
    """Refuse all but distillers."""
    if not (inspect.isclass(distiller) and issubclass(distiller, Distiller)):
        what = getattr(distiller, "__name__", None) or f"A {type(distiller).__name__}"
        raise ValueError(f"{what} is not a distiller; it must be a class that inherits from Distiller.")
    if inspect.isabstract(distiller):
        raise ValueError(f"{distiller.__name__} has no forward; a distiller computes its loss there.")
    _check_reads(distiller)
    return distiller


def get_distiller(name: str) -> type[Distiller]:
    """Return the distiller class that is registered under a name, or that `module:name` or `file.py:name` names.

    Raises:
        UnknownNameError: No distiller has this name; the message lists near names.

    Example:
        >>> get_distiller("kd").__name__
        'KD'
    """
    return _DISTILLERS[name]


def list_distillers(pattern: str = "*") -> list[str]:
    """List the names of distillers that match a shell pattern, in order of registration.

    Raises:
        UnknownNameError: No name matches; the message lists near names.

    Example:
        >>> from diswot_search import list_distillers
        >>> list_distillers("kd*")
        ['kd', 'kd_standardised']
    """
    names = [name for name in _DISTILLERS if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("distiller", pattern, _DISTILLERS))
    return names
