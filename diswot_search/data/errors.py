"""The error of data that cannot be read or divided as asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class DataError(ValueError):
    """A data set that cannot be read, or a request to it that cannot be met.

    Attributes:
        read: The name of the data set and those of its splits that were opened before; None if none was.
    """

    read: tuple[str, tuple[Any, ...]] | None = None


class UnreadableImage(DataError):
    """An image of a data set that cannot be read, although others can."""


@contextmanager
def having_read(name: str, opened: Sequence[object]) -> Iterator[None]:
    """Note on a `DataError` what was read before it.

    Args:
        name: Name of the data set.
        opened: Its splits as `DataSet`; the block may add some.
    """
    try:
        yield
    except DataError as error:
        error.read = (name, tuple(opened)) if opened else None
        raise


class UnreadableClass(str):
    """The problem of a class of which no image can be read, so that the classes are not known."""


def together(problems: Sequence[str]) -> DataError:
    """One error of problems that do not depend on each other."""
    sentences = [f"{problem.rstrip('.')}." for problem in dict.fromkeys(problems)]
    if len(sentences) == 1:
        return DataError(problems[0])
    return DataError(f"{len(sentences)} problems: " + " ".join(f"({n}) {each}" for n, each in enumerate(sentences, 1)))


def unknown_data(kind: str, name: str, names: Iterable[str]) -> DataError:
    # A late import, because search_spaces imports timm, which imports torchvision.
    from search_spaces.registry import unknown_name_message

    return DataError(unknown_name_message(kind, name, names))


class Warned(str):
    """A note that a warning has said, so that the report of the same job does not say it again."""


def warn_of(note: str) -> Warned:
    """Warn the user of something in the data, by a note that begins with a small letter and has no full stop."""
    warnings.warn(f"{note[:1].upper()}{note[1:]}.", stacklevel=2)
    return Warned(note)
