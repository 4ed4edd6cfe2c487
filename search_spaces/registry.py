"""One small registry: names to things, no name twice, near names when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


def near_names(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Names of `known` that `name` may have been meant to be, nearest first."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    hits = difflib.get_close_matches(name.lower(), list(by_folded), n=limit, cutoff=0.5)
    return [by_folded[hit] for hit in hits]


def unknown_name_message(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the name, what comes near, else what is allowed."""
    known = sorted(known)
    near = near_names(name, known)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
    return f"Unknown {kind} {name!r}. {hint}"


class UnknownNameError(ValueError, KeyError):
    """A name that no registry entry has."""

    __str__ = ValueError.__str__  # a KeyError would show its message in quotes


class Registry(Mapping[str, T], Generic[T]):
    """A mapping of names that refuses a name twice and suggests near names.

    Args:
        kind: What the names stand for, used in messages ("search space", "proxy", ...).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add `entry` under `name` and return it.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._entries:
            raise ValueError(f"The {self.kind} {name!r} is registered already; choose another name.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(unknown_name_message(self.kind, str(name), self._entries)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
