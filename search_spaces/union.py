"""Several spaces as one: each architecture belongs to one of them, and keeps that space's name."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from .cost import Cost
from .input_spec import InputSpec
from .registry import near_names
from .space import Architecture, ArchitectureError, Choice, SearchSpace

SPACE = "space"
"""The decision that says which space an architecture belongs to."""


class UnionSpace(SearchSpace):
    """All architectures of several spaces.

    The text of an architecture is the name of its space, a colon, and its text there: `timm/vit:depth=6,...`. Its
    network, its cost and its name as a student are those that it has there.

    The decisions are those of all spaces, each after the name of its space and a dot, and `space` as the last. Those of
    the spaces that an architecture does not belong to have their first choice. `sample` draws the space evenly, then
    the architecture, so that a small space is searched as well as a large one.

    Args:
        spaces: The spaces, for the same classes and images.

    Raises:
        ValueError: There are fewer than two spaces, two have the same name, or they differ in classes or images.

    Example:
        >>> from search_spaces import create_space
        >>> space = create_space(["cifar_resnet_s0", "nasbench201"])
        >>> space.size
        15689
        >>> str(space.parse("cifar_resnet_s0:1-3-5"))
        'cifar_resnet_s0:1-3-5'
    """

    def __init__(self, spaces: Sequence[SearchSpace]) -> None:
        self.spaces = {space.name: space for space in spaces}
        if len(spaces) < 2 or len(self.spaces) < len(spaces):
            names = ", ".join(space.name for space in spaces) or "none"
            raise ValueError(f"A union is of two or more spaces with different names; these are given: {names}.")
        first = spaces[0]
        for space in spaces:
            if (space.num_classes, space.input_size) != (first.num_classes, first.input_size):
                sizes = [f"{one.name} for {one.num_classes} classes of {one.input_size}" for one in (first, space)]
                raise ValueError(f"The spaces are made for different data: {' and '.join(sizes)}.")
        decisions: dict[str, Sequence[Choice]] = {
            f"{space.name}.{name}": choices for space in spaces for name, choices in space.decisions.items()
        }
        decisions[SPACE] = list(self.spaces)
        super().__init__(" + ".join(self.spaces), decisions, num_classes=first.num_classes, input_size=first.input_size)
        ends = list(itertools.accumulate(len(space.decisions) for space in spaces))
        self._slices = {
            space.name: slice(end - len(space.decisions), end) for space, end in zip(spaces, ends, strict=True)
        }
        self._firsts = tuple(choices[0] for choices in self.decisions.values())

    def member(self, architecture: Architecture) -> tuple[SearchSpace, Architecture]:
        name = str(architecture.choices[-1])
        space = self.spaces[name]
        return space.member(space.architecture(architecture.choices[self._slices[name]]))

    def _wrap(self, space: SearchSpace, architecture: Architecture) -> Architecture:
        """An architecture of one of the spaces as one of the union."""
        choices: list[Choice] = [*self._firsts[:-1], space.name]
        choices[self._slices[space.name]] = architecture.choices
        return Architecture(tuple(choices), f"{space.name}:{architecture}")

    def _unwrap(self, architecture: Architecture) -> tuple[SearchSpace, Architecture]:
        """The space among those of the union that an architecture belongs to, and the architecture there."""
        name = str(architecture.choices[-1])
        return self.spaces[name], self.spaces[name].architecture(architecture.choices[self._slices[name]])

    # -- choices and text -----------------------------------------------------------------------

    def violation(self, choices: Sequence[Choice]) -> str | None:
        name = str(choices[-1])
        return self.spaces[name].violation(choices[self._slices[name]])

    def architecture(self, choices: Sequence[Choice] | Mapping[str, Choice]) -> Architecture:
        return self._wrap(*self._unwrap(super().architecture(choices)))

    def format(self, choices: tuple[Choice, ...]) -> str:
        name = str(choices[-1])
        return f"{name}:{self.spaces[name].format(choices[self._slices[name]])}"

    def parse(self, text: str) -> Architecture:
        name, colon, inner = text.partition(":")
        while colon and name not in self.spaces:  # the name of a space may have a colon, as own code has
            part, colon, inner = inner.partition(":")
            name = f"{name}:{part}"
        if not colon:
            near = near_names(text.partition(":")[0], self.spaces) or list(self.spaces)
            raise ArchitectureError(
                f"{text!r} is no architecture of {self.name}: it must begin with the name of its space and a colon; "
                f"near: {', '.join(near)}. Example: {self.starts[0]}"
            )
        try:
            return self._wrap(self.spaces[name], self.spaces[name].parse(inner))
        except ArchitectureError as error:
            raise ArchitectureError(f"{text!r} is no architecture of {self.name}: {error}") from None

    def __contains__(self, architecture: object) -> bool:
        if not isinstance(architecture, Architecture) or not super().__contains__(architecture):
            return False
        return self.architecture(architecture.choices) == architecture

    # -- moves ----------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture: its space drawn evenly, then each choice uniformly."""
        space = rng.choice(list(self.spaces.values()))
        return self._wrap(space, space.sample(rng))

    def mutate(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """The architecture with one decision changed, or a random one of another space.

        All decisions of its space, and the space as one more, are as likely.
        """
        space, inner = self._unwrap(architecture)
        open_decisions = sum(len(choices) > 1 for choices in space.decisions.values())
        if rng.randrange(open_decisions + 1) < open_decisions:
            return self._wrap(space, space.mutate(inner, rng))
        other = rng.choice([one for one in self.spaces.values() if one is not space])
        return self._wrap(other, other.sample(rng))

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Uniform crossover of parents of one space; for parents of two spaces, one of them."""
        (space, inner), (other, other_inner) = self._unwrap(first), self._unwrap(second)
        if space is not other:
            return rng.choice([first, second])
        return self._wrap(space, space.crossover(inner, other_inner, rng))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures of its space that differ in one decision, and the first one of each other space."""
        space, inner = self._unwrap(architecture)
        for neighbour in space.neighbours(inner):
            yield self._wrap(space, neighbour)
        yield from (start for start in self.starts if start.choices[-1] != space.name)

    def __iter__(self) -> Iterator[Architecture]:
        for space in self.spaces.values():
            for architecture in space:
                yield self._wrap(space, architecture)

    @property
    def starts(self) -> list[Architecture]:
        return [self._wrap(space, start) for space in self.spaces.values() for start in space.starts]

    def at(self, index: int) -> Architecture:
        for space in self.spaces.values():
            if index < space.size:
                return self._wrap(space, space.at(index))
            index -= space.size
        raise IndexError(f"{self.name} has only {self.size} architectures.")

    @property
    def size(self) -> int:
        return sum(space.size for space in self.spaces.values())

    # -- what is built --------------------------------------------------------------------------

    def build(self, architecture: Architecture) -> nn.Module:
        space, inner = self._unwrap(architecture)
        return space.build(inner)

    def cost(self, architecture: Architecture) -> Cost:
        space, inner = self._unwrap(architecture)
        return space.cost(inner)

    @property
    def has_closed_cost(self) -> bool:
        return all(space.has_closed_cost for space in self.spaces.values())

    def canonical(self, architecture: Architecture) -> Architecture:
        space, inner = self._unwrap(architecture)
        return self._wrap(space, space.canonical(inner))

    def is_trainable(self, architecture: Architecture) -> bool:
        space, inner = self._unwrap(architecture)
        return space.is_trainable(inner)

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]] | None:
        space, inner = self._unwrap(architecture)
        return space.timm_model(inner)

    @property
    def input_spec(self) -> InputSpec:
        return next(iter(self.spaces.values())).input_spec

    def config(self) -> dict[str, object]:
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            "spaces": [space.config() for space in self.spaces.values()],
        }

    def __repr__(self) -> str:
        return f"<UnionSpace {self.name!r}: {self.size} architectures, {self.num_classes} classes>"
