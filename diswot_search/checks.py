"""The validators: whole numbers, numbers in a range, and lists as messages name them."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar


def check_whole(
    name: str, value: object, *, least: int, most: int | None = None, error: type[ValueError] = ValueError
) -> int:
    """The value, if it is a whole number of at least `least`, and at most `most`.

    Args:
        name: Name of the option, as the message shows it.
        value: The value that was given; a bool is no number.
        least: The smallest allowed value.
        most: The largest allowed value; by default the largest that can be stored.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`.
    """
    from search_spaces.option_types import LARGEST_NUMBER, shown  # loads timm, which data of our own does not need

    most = LARGEST_NUMBER if most is None else most
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f" and at most {most:,}" if isinstance(value, int) and value > most else ""
        raise error(f"{name} is {shown(value)}; it must be a whole number of at least {least}{limit}.")
    return value


MAX_CLASSES = 1_000_000
"""The largest number of classes; the classifier of more takes gigabytes."""


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_parallel(name: str, value: object, *, least: int, error: type[ValueError] = ValueError) -> int:
    """The value, if this machine can run so many threads or processes: the one bound of all options that start them.

    Four for each core are possible, and 32 on a small machine: more are slower, and many thousands stop the machine.

    Args:
        name: Name of the option, as the message shows it.
        value: The value that was given.
        least: The smallest allowed value.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`.
    """
    most = max(32, 4 * cores())
    if isinstance(value, int) and value > most:
        from search_spaces.option_types import shown  # loads timm, which data of our own does not need

        raise error(f"{name} is {shown(value)}; this machine has {cores()} cores, so at most {most} are possible.")
    return check_whole(name, value, least=least, error=error)


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    error: type[ValueError] = ValueError,
) -> float:
    """The value as a float, if it is a finite number above, or of at least, a bound.

    Args:
        name: Name of the option, as the message shows it.
        value: The value that was given; a bool is no number.
        above: Bound that the value must exceed.
        at_least: Bound that the value must reach.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`.
    """
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    is_above = above is None or number > above
    if math.isfinite(number) and is_above and (at_least is None or number >= at_least):
        return number
    bound = f" above {above:g}" if above is not None else f" of at least {at_least:g}" if at_least is not None else ""
    raise error(f"{name} is {value!r}; it must be a finite number{bound}.")


def check_options(kind: str, options: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse options that a thing does not have.

    Args:
        kind: The thing, as the message shows it ("probe", "data set").
        options: Names of the options that were given.
        allowed: Names of the options that there are.

    Raises:
        ValueError: An option is not allowed; near names are given.
    """
    from search_spaces.option_types import shown  # loads timm, which data of our own does not need
    from search_spaces.registry import near_names

    for option in options:
        if option not in allowed:
            near = near_names(str(option), allowed)
            hint = f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
            hint = f"{hint}: {', '.join(allowed)}" if allowed else "it has none"
            article = "An" if kind[0] in "aeiou" else "A"
            raise ValueError(f"{article} {kind} has no option {shown(option)}; {hint}.")


def expanded(path: str | os.PathLike[str], *, error: type[ValueError] = ValueError) -> Path:
    """A path whose leading `~` or `~user` is replaced by that user's home folder; see `search_spaces.paths`.

    Raises:
        ValueError: Or its subclass `error`: there is no such user, or the user has no home folder.
    """
    if not os.fspath(path).startswith("~"):
        return Path(path)
    from search_spaces import paths  # loads timm, which data of our own does not need

    return paths.expanded(path, error=error)


C = TypeVar("C", bound=type)


def with_near_names(cls: C) -> C:
    """Decorate a class so that a keyword that its constructor does not have is answered with those that come near."""
    construct = cls.__init__  # type: ignore[misc]

    @functools.wraps(construct)
    def checked(self: object, *args: object, **kwargs: object) -> None:
        names = inspect.signature(construct).parameters
        for name in kwargs:
            if name not in names:
                from search_spaces.registry import near_names  # loads timm, which data of our own does not need

                near = near_names(name, names)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names)}."
                raise TypeError(f"{cls.__name__} has no option {name!r}; {hint}")
        construct(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def user_options(option: str, given: Mapping[str, Any] | None, **taken: str) -> dict[str, Any]:
    """A copy of the options that a user gave in a mapping, to be passed on beside those that a job sets.

    Args:
        option: Name of the mapping, such as "algorithm_options".
        given: The mapping; None is an empty one.
        taken: Names that the job sets, each with a text that says how it is set.

    Raises:
        ValueError: The mapping sets one of these names, or a name that is no text.

    Example:
        >>> user_options("algorithm_options", {"population": 20}, seed="by the job's seed")
        {'population': 20}
    """
    from search_spaces.option_types import check_names

    check_names(given or {}, option)
    for name in given or {}:
        if name in taken:
            raise ValueError(f"{option} cannot set {name!r}: it is set {taken[name]}.")
    return dict(given or {})


WORKING_SHARE = 1 / 8
"""Share of the memory that the images of one batch may take, for a network holds many times as much for each."""


TOO_LARGE = "Choose smaller sizes."
"""The end of the message about sizes beyond the memory."""


@functools.cache
def memory_size() -> int | None:
    """Bytes of memory that this process can have at most; None if the system does not say."""
    sizes = []
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # there is no limit
            continue
    return min((size for size in sizes if size > 0), default=None)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if 1e12 <= size < 1e15 else f"{size / 1e9:.3g} GB"


def check_memory(what: str, size: float, *, share: float = 1.0, error: type[ValueError] = ValueError) -> None:
    """Refuse what cannot be held in memory, before any of it is made: the one rule for sizes.

    Args:
        what: The thing with the options that make it so large, as the subject of the message.
        size: Its size in bytes.
        share: The part of the memory that it may take, where more is needed to work with it.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`.
    """
    memory = memory_size()
    if memory is not None and size > share * memory:
        limit = "" if share == 1 else f", of which it may take {share * memory / 1e9:.3g}"
        has = f"this machine has {memory / 1e9:.3g} GB of memory{limit}"
        raise error(f"{what} would take {_gigabytes(size)}; {has}. {TOO_LARGE}")


def listed(values: Sequence[object], limit: int = 10) -> str:
    """The first values, comma-separated, and the number of those left out."""
    text = ", ".join(map(str, values[:limit]))
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"
