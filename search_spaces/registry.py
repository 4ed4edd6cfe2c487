"""A small registry: a mapping from names that refuses duplicates and suggests near names for unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from .plugins import hint_at_form, is_code, load_code, load_plugins

T = TypeVar("T")


LONGEST = 80
"""Length of the longest name or value that a message shows whole."""


def shortened(text: str, limit: int = LONGEST) -> str:
    """A text as messages show it: a long one without its middle.

    Example:
        >>> shortened("a" * 3000, limit=20)
        'aaaaaaaaaa...aaaaa (3,000 characters)'
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-(limit // 4) :]} ({len(text):,} characters)"


def near_names(name: str, allowed: Iterable[str], limit: int = 3) -> list[str]:
    """The allowed names that are spelt most like `name`, nearest first; case is ignored.

    Example:
        >>> near_names("resnet1", ["ResNet18", "vit"])
        ['ResNet18']
    """
    if len(name) > 4 * LONGEST:
        return []  # no name comes near, and comparing takes long
    by_folded = {candidate.lower(): candidate for candidate in allowed}
    matches = difflib.get_close_matches(name.lower(), list(by_folded), n=limit, cutoff=0.5)
    return [by_folded[match] for match in matches]


def unknown_name_message(kind: str, name: object, allowed: Iterable[str]) -> str:
    """The message for an unknown name: the name, and near names, or all allowed names if none comes near."""
    allowed = sorted(allowed)
    near = near_names(str(name), allowed)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(allowed)}."
    return f"Unknown {kind} {shortened(repr(name))}. {hint_at_form(str(name)) or hint}"


class UnknownNameError(ValueError, KeyError):
    """A name that a registry does not have; the message suggests near names.

    Example:
        >>> from search_spaces import describe_space
        >>> describe_space("nasbench2")
        Traceback (most recent call last):
        search_spaces.registry.UnknownNameError: Unknown ... Did you mean ...
    """

    __str__ = ValueError.__str__  # a KeyError would show its message in quotes


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names that refuses duplicates and suggests near names for unknown ones.

    A name that is not registered may be that of an installed plugin, or of code of the user's own, as `module:name` or
    `file.py:name`; see `plugins`.

    Args:
        kind: The kind of thing that is registered, for messages ("search space", "proxy", ...).
        adopt: Makes an entry of what a user's own code has under a name, given that name and the thing; it raises a
            ValueError for a thing of another kind. Without it the registry knows registered names only.
    """

    def __init__(self, kind: str, adopt: Callable[[str, object], T] | None = None) -> None:
        self.kind = kind
        self._adopt = adopt
        self._entries: dict[str, T] = {}
        self._adopted: dict[str, tuple[object, T]] = {}

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
        if name in self:
            return self._entries[name]
        if self._adopt is not None and is_code(name):
            return self.own(name, load_code(name))
        raise UnknownNameError(unknown_name_message(self.kind, str(name), self._entries))

    def own(self, name: str, value: object) -> T:
        """The entry of what the user's own code has under a name, the same one for as long as that has the same value.

        Raises:
            ValueError: It is a thing of another kind.
        """
        assert self._adopt is not None
        if name not in self._adopted or self._adopted[name][0] is not value:
            self._adopted[name] = value, self._adopt(name, value)
        return self._adopted[name][1]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)
