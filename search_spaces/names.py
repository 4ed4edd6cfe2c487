"""Short names of architectures, for titles, tables and legends, where the full text has no place."""

from __future__ import annotations

import functools
import hashlib

from .recipes import create_space, list_spaces
from .space import ArchitectureError, SearchSpace

MAX_PLAIN_LENGTH = 32
"""Most characters of a name that needs no shorter one."""


_LETTERS = 6
"""Letters of the hash: among 1,000 architectures two get the same name with a probability of 3 %."""


def full_name(space: str, architecture: str) -> str:
    """The name of an architecture with its space, as networks have it.

    Args:
        space: Name of the space; the names of several spaces are joined by " + ".
        architecture: Text of the architecture, which begins with its own space's name if there are several.
    """
    members = space.split(" + ")
    has_space = len(members) > 1 and architecture.startswith(tuple(f"{member}:" for member in members))
    return architecture if has_space else f"{space}:{architecture}"


def short_name(name: str) -> str:
    """The family of an architecture and a few letters of a hash of its canonical form.

    Architectures that compute the same function have the same short name where their space can tell. A name that is
    short already, one of no space, and one that ends in a single word, as models of a zoo and code of the user's do, is
    returned as it is.

    Args:
        name: A name as `full_name` gives it: SPACE:ARCHITECTURE.

    Example:
        >>> short_name("nasbench201:|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")
        'nasbench201-234a50'
        >>> short_name("cifar_resnet_s0:3-5-7")
        'cifar_resnet_s0:3-5-7'
    """
    family, colon, text = name.partition(":")
    is_word = all(part.isidentifier() for part in text.split("."))
    if len(name) <= MAX_PLAIN_LENGTH or not colon or not family or is_word:
        return name
    digest = hashlib.sha256(_canonical(family, text).encode(errors="surrogatepass")).hexdigest()
    return f"{family}-{digest[:_LETTERS]}"


def _canonical(family: str, text: str) -> str:
    """The canonical form of an architecture; the text itself if no registered space knows it."""
    space = _registered_space(family)
    if space is None:
        return text
    try:
        return str(space.canonical(space.parse(text)))
    except ArchitectureError:  # the space had options
        return text


@functools.lru_cache(maxsize=64)
def _registered_space(name: str) -> SearchSpace | None:
    if name not in list_spaces():  # no file and no code of the user's is loaded for a name
        return None
    try:
        return create_space(name)
    except (TypeError, ValueError):  # it needs options
        return None
