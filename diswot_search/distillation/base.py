"""What a student learns from a teacher: batches, features, distillers by name, and combinations of them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, ClassVar

from torch import Tensor, nn

from search_spaces.registry import Registry, UnknownNameError, unknown_name_message

READABLE = ("logits", "pooled", "features", "stages", "preactivations")
"""What a distiller can read of a network."""


class DistillerError(ValueError):
    """A distiller that does not fit its student and teacher, or is asked for wrongly."""


@dataclass(frozen=True)
class Batch:
    """What a training step is computed on.

    Attributes:
        images: B x C x H x W, augmented, between 0 and 1: each network normalises them in its own way.
        labels: B class indices; of mixed images the class with the largest share.
        indices: B places in the training set.
        targets: B x N class shares of mixed images; None where nothing is mixed.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """What one network gave for a batch, in single precision; what was not asked for is None or empty.

    Attributes:
        logits: (B, N).
        pooled: The classifier's input, (B, D).
        weight: The classifier's weight, (N, D), such that logits are a linear function of `pooled`.
        features: The last feature map before pooling, (B, C, H, W). Tokens lie on their grid, or in a column; class
            tokens and their like are left out.
        stages: The last output of a block at each resolution, from fine to coarse, each (B, C, H, W).
        preactivations: The same before the activation that ends the block, where it ends in one.
    """

    logits: Tensor
    pooled: Tensor | None = None
    weight: Tensor | None = None
    features: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    preactivations: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Shapes:
    """The shapes of a network's features, without the batch; None or empty where it has none.

    Attributes:
        name: What the network is called in messages.
        classes: N.
        pooled: D.
        features: (C, H, W) of the last feature map.
        stages: (C, H, W) of each stage.
        before_activations: Whether what comes before the activations at the end of stages can be read.
    """

    name: str
    classes: int
    pooled: int | None
    features: tuple[int, int, int] | None
    stages: tuple[tuple[int, int, int], ...]
    before_activations: bool = True

    @property
    def preactivations(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of each: those of the stages, or none."""
        return self.stages if self.before_activations else ()


@dataclass(frozen=True)
class Setting:
    """What a distiller is made for.

    Attributes:
        student: Shapes of the student.
        teacher: Shapes of the teacher.
        labels: Class of each training sample, (samples,), on the CPU.
        norms: For each stage of the teacher, mean and standard deviation by channel, (2, C), that its features have
            before the last activation, by the batch normalisation there; None where there is none.
    """

    student: Shapes
    teacher: Shapes
    labels: Tensor = field(repr=False)
    norms: tuple[Tensor | None, ...] = field(default=(), repr=False)


class Distiller(nn.Module):
    """A loss of a student's and a teacher's features, with the connectors that it needs, which are trained.

    To add one: inherit, say what it `reads`, make connectors in `__init__` after `super().__init__(setting)`, return
    the loss from `forward`, and pass the class to `register_distiller`. Options are keyword arguments of `__init__`.

    Args:
        setting: What it is made for.

    Attributes:
        reads: Names of `READABLE`.
        weight: The customary factor of its loss.
        ce_weight: The customary factor of the cross entropy beside it.
        warmup: Share of the training over which the factor rises from zero.
        setting: What it is made for.

    Raises:
        DistillerError: A network lacks what it reads.
    """

    reads: ClassVar[tuple[str, ...]] = ("logits",)
    weight: ClassVar[float] = 1.0
    ce_weight: ClassVar[float] = 1.0
    warmup: ClassVar[float] = 0.0

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        student, teacher = setting.student, setting.teacher
        if "logits" in self.reads and student.classes != teacher.classes:
            raise DistillerError(
                f"{type(self).__name__} compares logits, but the student {student.name} has {student.classes} classes "
                f"and the teacher {teacher.name} has {teacher.classes}."
            )
        for shapes, role in ((student, "student"), (teacher, "teacher")):
            missing = [name for name in self.reads if not getattr(shapes, _SHAPE_OF[name])]
            if missing:
                raise DistillerError(
                    f"{type(self).__name__} reads {', '.join(missing)}, which the {role} {shapes.name} does not have."
                )

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The loss, a scalar; the teacher's features have no graph."""
        raise NotImplementedError


_SHAPE_OF = {
    "logits": "classes",
    "pooled": "pooled",
    "features": "features",
    "stages": "stages",
    "preactivations": "preactivations",
}

_DISTILLERS: Registry[type[Distiller]] = Registry("distiller")


def register_distiller(name: str, distiller: type[Distiller]) -> type[Distiller]:
    """Make a distiller known by name.

    Args:
        name: A word of letters, digits and underscores.
        distiller: The class; the first line of its docstring says what it is.

    Raises:
        ValueError: The name is taken or no such word, or the class reads what no network has.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of a distiller; use letters, digits and underscores.")
    if not (inspect.isclass(distiller) and issubclass(distiller, Distiller)):
        raise ValueError(f"{distiller!r} is no distiller; it must be a class that inherits from Distiller.")
    unreadable = [what for what in distiller.reads if what not in READABLE]
    if unreadable:
        raise ValueError(f"{name!r} reads {', '.join(unreadable)}; a network has {', '.join(READABLE)}.")
    return _DISTILLERS.register(name, distiller)


def get_distiller(name: str) -> type[Distiller]:
    """The distiller of this name.

    Raises:
        UnknownNameError: There is none; near names are given.
    """
    return _DISTILLERS[name]


def list_distillers(pattern: str = "*") -> list[str]:
    """Names of the distillers that match a shell pattern, in order of registration.

    Raises:
        UnknownNameError: None does; near names are given.
    """
    names = [name for name in _DISTILLERS if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("distiller", pattern, _DISTILLERS))
    return names


# -- combinations -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One distiller of a combination.

    Attributes:
        name: The distiller.
        weight: Factor of its loss.
        options: Its options.
    """

    name: str
    weight: float
    options: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """All that tells it from another term, as JSON values."""
        return {"weight": self.weight, **({"options": self.options} if self.options else {})}


Specification = str | Iterable[str] | Mapping[str, "float | Mapping[str, Any] | None"]
"""How distillers are asked for; see `parse_distillers`."""


def parse_distillers(specification: Specification) -> tuple[Term, ...]:
    """The distillers that are asked for, with their weights.

    Args:
        specification: Names joined by "+", each with its weight before it if that is not the customary one, as in
            "kd+2*diswot"; a list of names; or a mapping of names to weights, or to mappings of `weight` and options.

    Raises:
        DistillerError: A weight that is negative or not finite, a name twice, an unknown option, or none at all.
        UnknownNameError: A name that no distiller has; near names are given.
    """
    given: list[tuple[str, Any]] = []
    if isinstance(specification, Mapping):
        given = list(specification.items())
    else:
        texts = specification.split("+") if isinstance(specification, str) else list(specification)
        for text in texts:
            factor, star, name = text.rpartition("*")
            given.append((name.strip(), _as_number(factor, text) if star else None))
    terms = tuple(_term(name, value) for name, value in given)
    if not terms:
        raise DistillerError("No distiller is given; name at least one, such as 'kd'.")
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DistillerError(f"{', '.join(twice)} is given more than once.")
    return terms


def _term(name: str, value: Any) -> Term:
    distiller = get_distiller(name)
    options: dict[str, Any] = {}
    if isinstance(value, Mapping):
        options = {key: option for key, option in value.items() if key != "weight"}
        value = value.get("weight")
    weight = distiller.weight if value is None else _check_weight(f"the weight of {name}", value)
    allowed = [p for p in inspect.signature(distiller).parameters if p != "setting"]
    for option in options:
        if option not in allowed:
            known = f"allowed: {', '.join(allowed)}" if allowed else "it has none"
            raise DistillerError(f"The distiller {name!r} has no option {option!r}; {known}.")
    return Term(name, weight, options)


def _as_number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DistillerError(f"{whole.strip()!r} is no distiller with a weight; write it as in '2*diswot'.") from None


def _check_weight(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DistillerError(f"{what} is {value!r}; it must be a finite number of at least 0.")
    return float(value)


class Combination(nn.Module):
    """Distillers whose weighted losses are added to the weighted cross entropy.

    Args:
        terms: The distillers.
        setting: What they are made for; connectors are drawn from the global generators.
        ce_weight: Factor of the cross entropy; by default the smallest customary one among the distillers.

    Attributes:
        reads: What is read of both networks.
        ce_weight: Factor of the cross entropy.

    Raises:
        DistillerError: A distiller does not fit, or a weight is negative or not finite.
    """

    def __init__(self, terms: Iterable[Term], setting: Setting, ce_weight: float | None = None) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.distillers = nn.ModuleList(get_distiller(term.name)(setting, **term.options) for term in self.terms)
        self.ce_weight = customary_ce_weight(self.terms) if ce_weight is None else _check_weight("ce_weight", ce_weight)
        wanted = {what for term in self.terms for what in get_distiller(term.name).reads}
        self.reads = tuple(what for what in READABLE if what in wanted)

    def forward(self, student: Features, teacher: Features, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The weighted loss of each distiller by name.

        Args:
            student: What the student gave.
            teacher: What the teacher gave.
            batch: The batch.
            progress: Share of the training that is done, 0 to 1.
        """
        losses = {}
        for term, distiller in zip(self.terms, self.distillers, strict=True):
            warmup = get_distiller(term.name).warmup
            ramp = min(1.0, progress / warmup) if warmup else 1.0
            losses[term.name] = term.weight * ramp * distiller(student, teacher, batch)
        return losses


def customary_ce_weight(terms: Iterable[Term]) -> float:
    """The factor of the cross entropy that goes with these distillers."""
    return min((get_distiller(term.name).ce_weight for term in terms), default=1.0)
