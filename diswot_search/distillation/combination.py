"""Several distillers as one loss: parsing `kd+2*at`, weights, and their sum."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from search_spaces.registry import near_names

from ..checks import check_number
from ..networks.features import READABLE, Features
from .base import Batch, Distiller, DistillerError, Setting, get_distiller

# -- combinations -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One distiller of a combination.

    Attributes:
        name: The distiller's name.
        weight: The factor of its loss.
        options: The keyword arguments of its constructor, without the setting.
    """

    name: str
    weight: float
    options: dict[str, object] = field(default_factory=dict)

    def config(self) -> dict[str, object]:
        """Return the weight and the options, as JSON values."""
        return {"weight": self.weight, **({"options": self.options} if self.options else {})}


Specification = str | Iterable[str] | Mapping[str, "float | Mapping[str, object] | None"]
"""The forms in which distillers can be specified; see `parse_distillers`."""


def parse_distillers(specification: Specification) -> tuple[Term, ...]:
    """Parse a specification of distillers into terms with weights.

    Args:
        specification: Names joined by "+", such as "kd+2*diswot", where a weight before a name replaces the
            customary one; or a list of names, with or without weights; or a mapping from names to weights, or to
            mappings of `weight` and options.

    Returns:
        One term for each distiller, in order.

    Raises:
        DistillerError: A weight is negative or not finite, a name occurs twice, an option is unknown or missing, or
            no distiller is specified.
        UnknownNameError: No distiller has a name; the message lists near names.

    Example:
        >>> from diswot_search.distillation import parse_distillers
        >>> [(term.name, term.weight) for term in parse_distillers("kd+3*diswot")]
        [('kd', 0.9), ('diswot', 3.0)]
    """
    entries: list[tuple[str, float | Mapping[str, object] | None]]
    if isinstance(specification, Mapping):
        entries = list(specification.items())
    else:
        entries = [_weighted(text) for text in _names(specification)]
    if not entries:
        raise DistillerError("No distiller is given; name at least one, such as 'kd'.")
    terms = tuple(_term(name, value) for name, value in entries)
    names = [term.name for term in terms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DistillerError(f"{', '.join(repeated)} is given more than once.")
    return terms


_EXPONENT = re.compile(r"(^|\+)(\s*[\d.]+e)\+(?=\d+\s*\*)", re.IGNORECASE)
"""The start of a weight such as 1e+3, in which the plus does not separate names."""


def _names(specification: str | Iterable[str]) -> list[str]:
    """Split a specification into names, each still with its weight before it."""
    if isinstance(specification, str):
        return _EXPONENT.sub(r"\1\2", specification).split("+") if specification.strip() else []
    if not isinstance(specification, Iterable):
        raise DistillerError(f"{specification!r} names no distillers; give text, a list of names, or a mapping.")
    return list(specification)


def _weighted(text: object) -> tuple[str, float | None]:
    """Split "2*diswot" into the name and the weight; the weight of a plain name is None."""
    if not isinstance(text, str):
        raise DistillerError(f"{text!r} is no distiller; in a list each must be text, such as 'kd' or '2*diswot'.")
    factor, star, name = (part.strip() for part in text.rpartition("*"))
    if not name:
        raise DistillerError(f"{text.strip()!r} names no distiller; write them as in 'kd+2*diswot'.")
    if not star:
        return name, None
    try:
        return name, float(factor)
    except ValueError:
        raise DistillerError(f"{text.strip()!r} is no distiller with a weight; write it as in '2*diswot'.") from None


def _term(name: str, value: float | Mapping[str, Any] | None) -> Term:
    distiller = get_distiller(name)
    options: dict[str, object] = {}
    if isinstance(value, Mapping):
        options = {key: option for key, option in value.items() if key != "weight"}
        value = value.get("weight")
    weight = distiller.weight
    if value is not None:
        weight = check_number(f"the weight of {name}", value, at_least=0, error=DistillerError)
    _check_options(name, options)
    return Term(name, weight, options)


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Check that the distiller has every option, and that no option without a default is missing."""
    parameters = list(inspect.signature(get_distiller(name)).parameters.values())[1:]  # the first is the setting
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in allowed:
                choices = [*allowed, "weight"]
                near = near_names(str(option), choices)
                hint = f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
                raise DistillerError(f"The distiller {name!r} has no option {option!r}; {hint}: {', '.join(choices)}.")
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise DistillerError(f"The distiller {name!r} needs the option {', '.join(missing)}; give it a value.")


class Combination(nn.Module):
    """Several distillers whose weighted losses are added to the weighted cross entropy.

    A distiller is not computed while its factor is zero: its weight is zero, or its warm-up has not begun.

    Args:
        terms: The distillers with their weights and options.
        setting: The networks and training labels. Connectors are initialised from torch's global generators.
        ce_weight: The factor of the cross entropy; by default the smallest customary factor among the distillers
            that have a weight above zero.

    Attributes:
        reads: The features that are read from both networks.
        ce_weight: The factor of the cross entropy.

    Raises:
        DistillerError: A distiller does not fit the networks, a weight is negative or not finite, or all weights are
            zero.
    """

    def __init__(self, terms: Iterable[Term], setting: Setting, ce_weight: float | None = None) -> None:
        super().__init__()
        self.terms = tuple(terms)
        distillers = [_make(term, setting) for term in self.terms]
        self.distillers = nn.ModuleList(distillers)
        active = [distiller for distiller, term in zip(distillers, self.terms, strict=True) if term.weight]
        customary = min((distiller.ce_weight for distiller in active), default=1.0)
        self.ce_weight = customary
        if ce_weight is not None:
            self.ce_weight = check_number("ce_weight", ce_weight, at_least=0, error=DistillerError)
        if not active and not self.ce_weight:
            raise DistillerError("The weights of all distillers and of the cross entropy are zero; nothing is learnt.")
        self.reads = tuple(kind for kind in READABLE if any(kind in distiller.reads for distiller in active))

    def own_buffers(self) -> list[str]:
        """List the buffers that the distillers keep equal on all processes themselves."""
        return [
            f"distillers.{index}.{name}"
            for index, distiller in enumerate(self._members())
            for name in distiller.own_buffers
        ]

    def forward(self, student: Features, teacher: Features, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Compute the weighted loss of each distiller.

        Args:
            student: The student's features.
            teacher: The teacher's features.
            batch: The batch that both networks were given.
            progress: The share of the training that is done, 0 to 1.

        Returns:
            A scalar for each distiller's name, weight and warm-up included.

        Raises:
            DistillerError: A distiller returns something other than a scalar, or uses features that it does not list
                in `reads`.
        """
        losses = {}
        for term, distiller in zip(self.terms, self._members(), strict=True):
            ramp = min(1.0, progress / distiller.warmup) if distiller.warmup else 1.0
            if factor := term.weight * ramp:
                loss = _loss_of(term.name, distiller, student, teacher, batch)
                if not isinstance(loss, Tensor) or loss.ndim:
                    kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                    raise DistillerError(f"The loss of the distiller {term.name!r} must be a scalar; it is {kind}.")
                losses[term.name] = factor * loss
            else:
                losses[term.name] = _nothing(distiller, student.logits)
        return losses

    def _members(self) -> list[Distiller]:
        return cast("list[Distiller]", list(self.distillers))


def _make(term: Term, setting: Setting) -> Distiller:
    try:
        return get_distiller(term.name)(setting, **term.options)
    except DistillerError as error:
        raise DistillerError(f"The distiller {term.name!r} cannot be made: {error}") from error


def _loss_of(name: str, distiller: Distiller, student: Features, teacher: Features, batch: Batch) -> object:
    """Call a distiller. If it fails, explain that features outside its `reads` may be missing."""
    try:
        return distiller(student, teacher, batch)
    except (AttributeError, IndexError, TypeError) as error:
        if not set(READABLE) - set(distiller.reads):
            raise
        reads = ", ".join(distiller.reads) or "nothing"
        raise DistillerError(
            f"The distiller {name!r} fails ({type(error).__name__}: {error}). It reads {reads}, "
            "and other features may be missing; list all features that it uses in its `reads`."
        ) from error


def _nothing(distiller: Distiller, like: Tensor) -> Tensor:
    """Return a zero loss that gives each parameter a zero gradient; distributed training waits for all gradients."""
    zeros = [parameter.flatten()[:0].sum() for parameter in distiller.parameters()]
    return torch.stack([like.new_zeros(()), *zeros]).sum()
