"""The validators: whole numbers, numbers in a range, and lists as messages name them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence


def check_whole(name: str, value: object, *, least: int, error: type[ValueError] = ValueError) -> int:
    """The value, if it is a whole number of at least `least`.

    Args:
        name: Name of the option, as the message shows it.
        value: The value that was given; a bool is no number.
        least: The smallest allowed value.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return value


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
    from search_spaces.registry import near_names  # loads timm, which data of our own does not need

    for option in options:
        if option not in allowed:
            near = near_names(option, allowed)
            hint = f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
            raise ValueError(f"A {kind} has no option {option!r}; {hint}: {', '.join(allowed)}.")


def listed(values: Sequence[object], limit: int = 10) -> str:
    """The first values, comma-separated, and the number of those left out."""
    text = ", ".join(map(str, values[:limit]))
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"
