"""The error of data that cannot be read or divided as asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable


class DataError(ValueError):
    """A data set that cannot be read, or a request to it that cannot be met."""


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
