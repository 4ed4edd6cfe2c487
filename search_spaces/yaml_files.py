"""YAML that anybody may have written: read within limits, so that no text takes the memory or the stack of a process.

A few lines of YAML can stand for billions of values, by aliases of aliases, and deep nesting exhausts the stack. The
limits are checked on the stream of events, before any value is made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .registry import near_names, shortened

MAX_VALUES = 1_000_000
"""Most values that a text may stand for, those behind aliases counted each time."""

MAX_DEPTH = 50
"""Deepest nesting of lists and mappings."""

MAX_CHARACTERS = 20_000_000
"""Longest text."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError, yaml.YAMLError):
    """A text that is no YAML, or that exceeds the limits."""


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """The values of a YAML text.

    Args:
        text: The text.
        load: Makes the values once the limits are known to be kept.

    Raises:
        YamlError: It is no YAML, makes other things than plain values, or exceeds the limits.

    Example:
        >>> load_yaml("{depth: [2, 3]}")
        {'depth': [2, 3]}
    """
    try:
        _check_limits(text)
        return load(text)
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    except (ValueError, RecursionError, OverflowError, ArithmeticError) as error:  # a number or a date that cannot be
        raise YamlError(f"a value cannot be read: {error}") from None


def read_yaml(path: str | Path) -> Any:
    """The values of a YAML file; see `load_yaml`.

    Raises:
        FileNotFoundError: There is no such file; the message names those that come near.
        YamlError: It is no YAML within the limits; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = near_names(str(path), beside)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise FileNotFoundError(f"There is no file {shortened(str(path))}.{hint}")
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        raise YamlError(f"{path} is not a YAML file: {error}") from None


def _check_limits(text: str) -> None:
    """Refuse nesting, aliases and lengths beyond the limits, from the events alone.

    Raises:
        YamlError: A limit is exceeded, or an alias stands for what it is part of.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read.")
    count = 0
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_LOADER):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == name for name, _ in open_nodes):
                raise YamlError(f"the alias *{anchor} stands for a value that it is part of.")
            count += sizes.get(str(anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_nodes.pop()
            if name is not None:
                sizes[name] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
        if len(open_nodes) > MAX_DEPTH:
            raise YamlError(f"it is nested more than {MAX_DEPTH} deep.")
        if count > MAX_VALUES:
            raise YamlError(f"it stands for more than {MAX_VALUES:,} values.")
