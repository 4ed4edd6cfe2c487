"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str], *, error: type[ValueError] = ValueError) -> Path:
    """A path whose leading `~` or `~user` is replaced by that user's home folder.

    Args:
        path: The path.
        error: Class of the exception.

    Raises:
        ValueError: Or its subclass `error`: there is no such user, or the user has no home folder.

    Example:
        >>> expanded("photos/cats").as_posix()
        'photos/cats'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        text = os.fspath(path)
        user = Path(text).parts[0]
        raise error(
            f"{text!r} begins with {user}, but the home folder that this means cannot be found. Give the whole path, "
            f"or ./{text} if it lies in the working folder."
        ) from None
