"""What a student learns from a teacher: batches, features, distillers by name, and combinations of them."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from search_spaces.registry import Registry, UnknownNameError, near_names, unknown_name_message

READABLE = ("logits", "pooled", "features", "stages", "preactivations")
"""What a distiller can read of a network."""
RESERVED = ("ce", "total", "val")
"""Names of losses that no distiller can have: the cross entropy, the sum, and the loss on validation data."""


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

    def split(self, count: int) -> tuple[Features, Features]:
        """Those of the first `count` samples, and those of the others."""
        return self._part(slice(None, count)), self._part(slice(count, None))

    def _part(self, samples: slice) -> Features:
        return Features(
            self.logits[samples],
            None if self.pooled is None else self.pooled[samples],
            self.weight,
            None if self.features is None else self.features[samples],
            tuple(stage[samples] for stage in self.stages),
            tuple(stage[samples] for stage in self.preactivations),
        )


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
        labels: Class of each training sample, (samples,), on the CPU; the number of classes, which is none of them,
            where it is hidden: no batch has such samples.
        norms: For each stage of the teacher, mean and standard deviation by channel, (2, C), that its features have
            before the last activation, by the batch normalisation there; None where there is none.
    """

    student: Shapes
    teacher: Shapes
    labels: Tensor = field(repr=False)
    norms: tuple[Tensor | None, ...] = field(default=(), repr=False)


class Distiller(nn.Module, ABC):
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
        own_buffers: Names of buffers that all processes of a training keep equal themselves, having made them alike.
            Those of the main process are given to the others at each step, which for large ones takes its time.
        setting: What it is made for.

    Raises:
        DistillerError: A network lacks what it reads.
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
        """The loss, a scalar; the teacher's features have no graph."""


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
    unreadable = [str(what) for what in reads if what not in READABLE]
    if unreadable:
        raise DistillerError(f"{name} reads {', '.join(unreadable)}; a network has {', '.join(READABLE)}.")


# -- checks -------------------------------------------------------------------------------------


def check_number(what: str, value: Any, *, above: float | None = None, at_least: float | None = None) -> float:
    """A weight or an option that must be a finite number above, or of at least, a bound.

    Raises:
        DistillerError: It is none; the message names what is allowed.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (above is not None and value <= above) or (at_least is not None and value < at_least):
        bound = (
            f" above {above:g}" if above is not None else f" of at least {at_least:g}" if at_least is not None else ""
        )
        raise DistillerError(f"{what} is {value!r}; it must be a finite number{bound}.")
    return float(value)


def check_classes(setting: Setting, what: str) -> None:
    """Student and teacher must tell the same number of classes apart.

    Raises:
        DistillerError: They do not.
    """
    student, teacher = setting.student, setting.teacher
    if student.classes != teacher.classes:
        raise DistillerError(
            f"{what} compares classes, but the student {student.name} has {student.classes} classes and the teacher "
            f"{teacher.name} has {teacher.classes}."
        )


# -- by name ------------------------------------------------------------------------------------

_DISTILLERS: Registry[type[Distiller]] = Registry("distiller")


def register_distiller(name: str, distiller: type[Distiller]) -> type[Distiller]:
    """Make a distiller known by name.

    Args:
        name: A word of letters, digits and underscores.
        distiller: The class; the first line of its docstring says what it is.

    Raises:
        ValueError: The name is taken, reserved or no such word, or the class reads what no network has, or has no
            `forward`.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of a distiller; use letters, digits and underscores.")
    if name in RESERVED:
        raise ValueError(f"{name!r} cannot be the name of a distiller: {', '.join(RESERVED)} name other losses.")
    if not (inspect.isclass(distiller) and issubclass(distiller, Distiller)):
        raise ValueError(f"{distiller!r} is no distiller; it must be a class that inherits from Distiller.")
    if inspect.isabstract(distiller):
        raise ValueError(f"{distiller.__name__} has no forward; a distiller returns its loss from there.")
    _check_reads(distiller)
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
        DistillerError: A weight that is negative or not finite, a name twice, an option that is unknown or missing, or
            none at all.
        UnknownNameError: A name that no distiller has; near names are given.
    """
    if isinstance(specification, Mapping):
        given = list(specification.items())
    else:
        given = [_weighted(text) for text in _names(specification)]
    if not given:
        raise DistillerError("No distiller is given; name at least one, such as 'kd'.")
    terms = tuple(_term(name, value) for name, value in given)
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DistillerError(f"{', '.join(twice)} is given more than once.")
    return terms


_EXPONENT = re.compile(r"(^|\+)(\s*[\d.]+e)\+(?=\d+\s*\*)", re.IGNORECASE)
"""The start of a weight such as 1e+3, whose plus joins no names."""


def _names(specification: str | Iterable[str]) -> list[str]:
    """The names that are joined or listed, each with its weight."""
    if isinstance(specification, str):
        return _EXPONENT.sub(r"\1\2", specification).split("+") if specification.strip() else []
    if not isinstance(specification, Iterable):
        raise DistillerError(f"{specification!r} names no distillers; give text, a list of names, or a mapping.")
    return list(specification)


def _weighted(text: Any) -> tuple[str, float | None]:
    """A name and the weight before it, if there is one."""
    if not isinstance(text, str):
        raise DistillerError(f"{text!r} is no distiller; in a list each must be text, as 'kd' or '2*diswot'.")
    factor, star, name = (part.strip() for part in text.rpartition("*"))
    if not name:
        raise DistillerError(f"{text.strip()!r} names no distiller; write them as in 'kd+2*diswot'.")
    if not star:
        return name, None
    try:
        return name, float(factor)
    except ValueError:
        raise DistillerError(f"{text.strip()!r} is no distiller with a weight; write it as in '2*diswot'.") from None


def _term(name: Any, value: Any) -> Term:
    distiller = get_distiller(name)
    options: dict[str, Any] = {}
    if isinstance(value, Mapping):
        options = {key: option for key, option in value.items() if key != "weight"}
        value = value.get("weight")
    weight = distiller.weight if value is None else check_number(f"the weight of {name}", value, at_least=0)
    _check_options(name, options)
    return Term(name, weight, options)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Every option must be one of the distiller's, and those without a default must be there."""
    parameters = list(inspect.signature(get_distiller(name)).parameters.values())[1:]  # the first is the setting
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in allowed:
                known = [*allowed, "weight"]
                near = near_names(str(option), known)
                hint = f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
                raise DistillerError(f"The distiller {name!r} has no option {option!r}; {hint}: {', '.join(known)}.")
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise DistillerError(f"The distiller {name!r} needs the option {', '.join(missing)}; give it a value.")


class Combination(nn.Module):
    """Distillers whose weighted losses are added to the weighted cross entropy.

    A distiller that counts nothing, as it has no weight or its warm-up is still to begin, is not computed.

    Args:
        terms: The distillers.
        setting: What they are made for; connectors are drawn from the global generators.
        ce_weight: Factor of the cross entropy; by default the smallest customary one among distillers with a weight.

    Attributes:
        reads: What is read of both networks.
        ce_weight: Factor of the cross entropy.

    Raises:
        DistillerError: A distiller does not fit, a weight is negative or not finite, or all are zero.
    """

    def __init__(self, terms: Iterable[Term], setting: Setting, ce_weight: float | None = None) -> None:
        super().__init__()
        self.terms = tuple(terms)
        made = [_make(term, setting) for term in self.terms]
        self.distillers = nn.ModuleList(made)
        counting = [distiller for distiller, term in zip(made, self.terms, strict=True) if term.weight]
        customary = min((distiller.ce_weight for distiller in counting), default=1.0)
        self.ce_weight = customary if ce_weight is None else check_number("ce_weight", ce_weight, at_least=0)
        if not counting and not self.ce_weight:
            raise DistillerError("Neither a distiller nor the cross entropy has a weight, so that nothing is learnt.")
        self.reads = tuple(what for what in READABLE if any(what in distiller.reads for distiller in counting))

    def own_buffers(self) -> list[str]:
        """Names of the buffers that all processes keep equal themselves."""
        return [f"distillers.{place}.{name}" for place, each in enumerate(self._made()) for name in each.own_buffers]

    def forward(self, student: Features, teacher: Features, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The weighted loss of each distiller by name.

        Args:
            student: What the student gave.
            teacher: What the teacher gave.
            batch: The batch.
            progress: Share of the training that is done, 0 to 1.

        Raises:
            DistillerError: A distiller gives what is no scalar, or uses what it does not say that it reads.
        """
        losses = {}
        for term, distiller in zip(self.terms, self._made(), strict=True):
            ramp = min(1.0, progress / distiller.warmup) if distiller.warmup else 1.0
            if factor := term.weight * ramp:
                loss = _loss_of(term.name, distiller, student, teacher, batch)
                if not isinstance(loss, Tensor) or loss.ndim:
                    shown = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                    raise DistillerError(f"The loss of the distiller {term.name!r} must be a scalar; it is {shown}.")
                losses[term.name] = factor * loss
            else:
                losses[term.name] = _nothing(distiller, student.logits)
        return losses

    def _made(self) -> list[Distiller]:
        return cast("list[Distiller]", list(self.distillers))


def _make(term: Term, setting: Setting) -> Distiller:
    try:
        return get_distiller(term.name)(setting, **term.options)
    except DistillerError as error:
        raise DistillerError(f"The distiller {term.name!r} cannot be made: {error}") from error


def _loss_of(name: str, distiller: Distiller, student: Features, teacher: Features, batch: Batch) -> Any:
    """What a distiller gives; where it fails and does not read all, that may be why."""
    try:
        return distiller(student, teacher, batch)
    except (AttributeError, IndexError, TypeError) as error:
        if not set(READABLE) - set(distiller.reads):
            raise
        reads = ", ".join(distiller.reads) or "nothing"
        raise DistillerError(
            f"The distiller {name!r} fails ({type(error).__name__}: {error}). It reads {reads}, "
            "and all else of a network may be missing; what it uses must be among its `reads`."
        ) from error


def _nothing(distiller: Distiller, like: Tensor) -> Tensor:
    """A zero that gives each parameter a gradient of zero, which processes that share gradients wait for."""
    zeros = [parameter.flatten()[:0].sum() for parameter in distiller.parameters()]
    return torch.stack([like.new_zeros(()), *zeros]).sum()
