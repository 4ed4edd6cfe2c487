"""Architectures and search spaces: decisions, their choices, and the operations that every space has."""

from __future__ import annotations

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .cost import Cost, count_cost_of
from .input_spec import InputSpec, image_spec
from .registry import near_names

Choice = str | int | float | bool


_MAX_DRAWS = 1000
"""Most draws until choices go together."""


class ArchitectureError(ValueError):
    """A text or a list of choices that is not an architecture of the space."""


@dataclass(frozen=True)
class Architecture:
    """One choice per decision of a space: a value, never a module. `str` gives its text form.

    Attributes:
        choices: One choice per decision, in the order of the space's decisions.
        text: The form that `SearchSpace.parse` reads back.

    Example:
        >>> str(Architecture(choices=(1, 2), text="1-2"))
        '1-2'
        >>> Architecture((1, 2), "1-2") == Architecture((1, 2), "another text")  # choices alone are compared
        True
    """

    choices: tuple[Choice, ...]
    text: str = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


class SearchSpace(ABC):
    """Named decisions with their choices, and the networks that they make.

    A space defines `build`. It may override `cost` with a closed form, `canonical` if different choices compute the
    same function, and `format` with `split` for a text form of its own. Everything else is inherited. A space in which
    not all choices go together overrides `violation`, and with it `size`, `at` and `starts`.

    Args:
        name: Name of the space.
        decisions: Choices of each decision, in order. Choices of one decision differ in value and as text.
        num_classes: Number of classes of the networks.
        input_size: Channels, height and width of one image.

    Raises:
        ValueError: There are no decisions; a decision has no choices or a choice twice; `num_classes` is below 1; or
            `input_size` is not three whole numbers of at least 1.

    Example:
        >>> import torch
        >>> from search_spaces import SearchSpace
        >>> class Mlp(SearchSpace):
        ...     def __init__(self, num_classes=10, input_size=(1, 28, 28)):
        ...         super().__init__("mlp", {"width": [64, 128]}, num_classes=num_classes, input_size=input_size)
        ...
        ...     def build(self, architecture):
        ...         (width,), (channels, height, columns) = architecture.choices, self.input_size
        ...         hidden = torch.nn.Linear(channels * height * columns, width)
        ...         return torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.Linear(width, self.num_classes))
        >>> [str(architecture) for architecture in Mlp()]
        ['width=64', 'width=128']
    """

    recipe: dict[str, Any] | None = None
    """Name and options that `create_space` made this space from; a study stores them to make the space again."""

    def __init__(
        self,
        name: str,
        decisions: Mapping[str, Sequence[Choice]],
        *,
        num_classes: int,
        input_size: tuple[int, int, int],
    ) -> None:
        if not decisions:
            raise ValueError(f"The space {name!r} has no decisions.")
        for decision, choices in decisions.items():
            if len(choices) == 0:
                raise ValueError(f"Decision {decision!r} of {name!r} has no choices.")
            if min(len(set(choices)), len({str(c) for c in choices})) < len(choices):
                raise ValueError(f"Decision {decision!r} of {name!r} has a choice twice: {list(choices)}.")
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1.")
        spec = image_spec(input_size)
        self.name = name
        self.decisions: dict[str, tuple[Choice, ...]] = {k: tuple(v) for k, v in decisions.items()}
        self.num_classes = num_classes
        self.input_size = spec.size

    @property
    def input_spec(self) -> InputSpec:
        """The input that the networks of this space take."""
        return image_spec(self.input_size)

    # -- defined by each space -------------------------------------------------------------------

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """Make the network of an architecture, its weights drawn from torch's global generator."""

    def cost(self, architecture: Architecture) -> Cost:
        """Parameters and multiply-accumulates of one sample, counted on a network without weights by default."""
        return count_cost_of(lambda: self.build(architecture), self.input_spec)

    @property
    def has_closed_cost(self) -> bool:
        """Whether `cost` is computed in closed form, so that it takes no time; building a network takes 0.1 s."""
        return type(self).cost is not SearchSpace.cost

    def canonical(self, architecture: Architecture) -> Architecture:
        """The representative of all architectures that compute the same function; by default the argument itself."""
        return architecture

    def is_trainable(self, architecture: Architecture) -> bool:
        """Whether the output depends on the input at all; an architecture without that is never a winner."""
        return True

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]] | None:
        """Name and arguments with which `timm.create_model` builds the network; None if timm has no such name."""
        return None

    def member(self, architecture: Architecture) -> tuple[SearchSpace, Architecture]:
        """The space whose name the network of an architecture has, and the architecture there; a union has several."""
        return self, architecture

    def violation(self, choices: Sequence[Choice]) -> str | None:
        """Why choices that are allowed one by one make no architecture together; None if they make one.

        Args:
            choices: One choice per decision, in order.
        """
        return None

    @property
    def starts(self) -> list[Architecture]:
        """Architectures from which a descent in cost begins: the first choice of every decision."""
        return [self.architecture([choices[0] for choices in self.decisions.values()])]

    def at(self, index: int) -> Architecture:
        """The architecture at an index of the space's order, without going through those before it."""
        choices = []
        for allowed in reversed(self.decisions.values()):
            index, position = divmod(index, len(allowed))
            choices.append(allowed[position])
        return self.architecture(choices[::-1])

    def format(self, choices: tuple[Choice, ...]) -> str:
        """The text form of choices; they must be choices of this space."""
        return ",".join(f"{d}={c}" for d, c in zip(self.decisions, choices, strict=True))

    def split(self, text: str) -> Sequence[str]:
        """The choices in `text`, as text, in the order of the decisions: the inverse of `format`.

        Raises:
            ArchitectureError: The text does not have the form of this space.
        """
        choices: dict[str, str] = {}
        for part in text.split(","):
            decision, equals, choice = part.strip().partition("=")
            if not equals:
                raise ArchitectureError(f"{part!r} is not of the form decision=choice.")
            if decision not in self.decisions:
                near = near_names(decision, self.decisions) or list(self.decisions)
                raise ArchitectureError(f"there is no decision {decision!r}; near: {', '.join(near)}.")
            if decision in choices:
                raise ArchitectureError(f"decision {decision!r} is given twice.")
            choices[decision] = choice
        missing = [d for d in self.decisions if d not in choices]
        if missing:
            raise ArchitectureError(f"decisions without a choice: {', '.join(missing)}.")
        return [choices[d] for d in self.decisions]

    def config(self) -> dict[str, object]:
        """Everything that distinguishes this space from another, as JSON values."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            "decisions": {k: list(v) for k, v in self.decisions.items()},
        }

    # -- common to all spaces ----------------------------------------------------------------

    def architecture(self, choices: Sequence[Choice] | Mapping[str, Choice]) -> Architecture:
        """The architecture with these choices.

        Args:
            choices: One choice per decision, in order or by name.

        Raises:
            ArchitectureError: A choice is missing, unknown or too many.
        """
        if isinstance(choices, Mapping):
            if set(choices) != set(self.decisions):
                raise ArchitectureError(
                    f"{self.name} decides {', '.join(self.decisions)}; got {', '.join(map(str, choices))}."
                )
            choices = [choices[d] for d in self.decisions]
        if len(choices) != len(self.decisions):
            raise ArchitectureError(f"{self.name} has {len(self.decisions)} decisions; got {len(choices)} choices.")
        picked = []
        for (decision, allowed), choice in zip(self.decisions.items(), choices, strict=True):
            if choice not in allowed:
                raise ArchitectureError(
                    f"{choice!r} is no choice of {decision!r} in {self.name}; allowed: {_listed(allowed)}."
                )
            picked.append(
                allowed[allowed.index(choice)]
            )  # the space's own object: an equal one (1.0 for 1) may differ as text
        text = self.format(tuple(picked))
        if (reason := self.violation(picked)) is not None:
            raise ArchitectureError(f"{text!r} is no architecture of {self.name}: {reason}")
        return Architecture(tuple(picked), text)

    def with_choice(self, architecture: Architecture, position: int, choice: Choice) -> Architecture | None:
        """The architecture with one decision changed; None if its other choices do not go with that.

        Args:
            architecture: An architecture of this space.
            position: Index of the decision.
            choice: One of the choices of that decision.
        """
        choices = list(architecture.choices)
        choices[position] = choice
        return None if self.violation(choices) is not None else self.architecture(choices)

    def parse(self, text: str) -> Architecture:
        """Read an architecture from its text form.

        Raises:
            ArchitectureError: The text is malformed; the message says where and what is allowed.
        """
        try:
            parts = self.split(text)
            if len(parts) != len(self.decisions):
                raise ArchitectureError(f"{len(self.decisions)} choices are needed, got {len(parts)}.")
            choices = []
            for (decision, allowed), part in zip(self.decisions.items(), parts, strict=True):
                by_text = {str(c): c for c in allowed}
                if part not in by_text:
                    near = near_names(part, [c for c in allowed if isinstance(c, str)])
                    hint = f"near: {', '.join(near)}; " if near else ""
                    raise ArchitectureError(
                        f"{part!r} is no choice of {decision!r}; {hint}allowed: {_listed(allowed)}."
                    )
                choices.append(by_text[part])
        except ArchitectureError as error:
            example = self.starts[0]
            raise ArchitectureError(f"{text!r} is no architecture of {self.name}: {error} Example: {example}") from None
        return self.architecture(choices)

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture: each choice drawn uniformly, anew until all go together.

        Args:
            rng: The source of randomness; no other is used.
        """
        for _ in range(_MAX_DRAWS):
            drawn = [rng.choice(choices) for choices in self.decisions.values()]
            if self.violation(drawn) is None:
                return self.architecture(drawn)
        raise ArchitectureError(f"{self.name}: {_MAX_DRAWS:,} random draws made no architecture; override `sample`.")

    def mutate(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """The architecture with one decision changed to another of its choices, both drawn uniformly.

        An architecture without neighbours, as in a space whose decisions have a single choice each, is returned as it
        is.
        """
        open_decisions = [i for i, c in enumerate(self.decisions.values()) if len(c) > 1]
        if not open_decisions:
            return architecture
        all_choices = list(self.decisions.values())
        for _ in range(_MAX_DRAWS):
            position = rng.choice(open_decisions)
            others = [c for c in all_choices[position] if c != architecture.choices[position]]
            if (mutant := self.with_choice(architecture, position, rng.choice(others))) is not None:
                return mutant
        return rng.choice([*self.neighbours(architecture)] or [architecture])

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Uniform crossover: each choice is taken from one of two parents with equal probability.

        Choices are drawn anew until they go together.
        """
        for _ in range(_MAX_DRAWS):
            child = [rng.choice(pair) for pair in zip(first.choices, second.choices, strict=True)]
            if self.violation(child) is None:
                return self.architecture(child)
        return rng.choice([first, second])

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ from this one in one decision."""
        for position, allowed in enumerate(self.decisions.values()):
            for choice in allowed:
                if choice != architecture.choices[position]:
                    neighbour = self.with_choice(architecture, position, choice)
                    if neighbour is not None:
                        yield neighbour

    def __iter__(self) -> Iterator[Architecture]:
        """All architectures; the last decision changes fastest."""
        for choices in itertools.product(*self.decisions.values()):
            if self.violation(choices) is None:
                yield Architecture(choices, self.format(choices))

    @property
    def size(self) -> int:
        """Number of architectures, however large (`len` cannot pass 2^63)."""
        return math.prod(len(c) for c in self.decisions.values())

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True  # Python would ask `len`, which fails for a space beyond 2^63

    def __contains__(self, architecture: object) -> bool:
        if not isinstance(architecture, Architecture) or len(architecture.choices) != len(self.decisions):
            return False
        pairs = zip(architecture.choices, self.decisions.values(), strict=True)
        return all(c in allowed for c, allowed in pairs) and self.violation(architecture.choices) is None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.size} architectures, {self.num_classes} classes>"


def _listed(choices: Sequence[Choice], limit: int = 20) -> str:
    """The first choices as text for a message, and the number of the others."""
    more = f" and {len(choices) - limit} more" if len(choices) > limit else ""
    return ", ".join(map(str, choices[:limit])) + more
