"""Checksums of files and of rows, written with them and verified when they are read."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

CHECKSUM = "content-sha256:" + 64 * "0"
"""Text that stands for the checksum in the content of a file until `fill_checksum` replaces it."""

_FILLED = re.compile(rb"content-sha256:([0-9a-f]{64})")

_PIECE, _HEAD = 1 << 20, 1 << 24
"""Bytes that are read at a time, and bytes at the start of a file in which its checksum stands."""


class ChecksumError(ValueError):
    """Content that differs from what its checksum was made of, or that has none."""


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: The file cannot be read.
    """
    sha256 = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_PIECE):
            sha256.update(piece)
    return sha256.hexdigest()


def fill_checksum(content: bytes) -> bytes:
    """Put the checksum of a file's content where the text `CHECKSUM` stands in it.

    The checksum covers the whole content, so that a format with a text field, such as the header of a safetensors
    file, can carry the checksum of everything in the file.

    Args:
        content: The file's content with `CHECKSUM` in it; its first occurrence is replaced.

    Raises:
        ValueError: `CHECKSUM` is not in the content.

    Example:
        >>> content = fill_checksum(b"weights " + CHECKSUM.encode())
        >>> verify_checksum(content)
        >>> verify_checksum(content.replace(b"weights", b"weight5"))
        Traceback (most recent call last):
        ...
        diswot_search.runtime.checksums.ChecksumError: its checksum does not match its content
    """
    start = content.find(CHECKSUM.encode())
    if start < 0:
        raise ValueError("The content has no place for its checksum.")
    digest = hashlib.sha256(content).hexdigest().encode()
    start, end = start + len(CHECKSUM) - 64, start + len(CHECKSUM)
    return b"".join((memoryview(content)[:start], digest, memoryview(content)[end:]))


def verify_checksum(content: bytes) -> None:
    """See that content is what `fill_checksum` gave.

    Raises:
        ChecksumError: The content has no checksum, or another one.
    """
    _verify(content, ())


def verify_file(path: str | os.PathLike[str]) -> None:
    """See that the content of a file is what `fill_checksum` gave, without holding all of it in memory.

    Raises:
        ChecksumError: The file has no checksum, or another one.
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        _verify(file.read(_HEAD), iter(lambda: file.read(_PIECE), b""))


def _verify(head: bytes, rest: Iterable[bytes]) -> None:
    """Verify the checksum that stands in the head of a content."""
    place = _FILLED.search(head)
    if place is None:
        raise ChecksumError("it has no checksum")
    view = memoryview(head)
    sha256 = hashlib.sha256(view[: place.start(1)])
    sha256.update(64 * b"0")
    sha256.update(view[place.end(1) :])
    for piece in rest:
        sha256.update(piece)
    if sha256.hexdigest().encode() != place.group(1):
        raise ChecksumError("its checksum does not match its content")


def row_checksum(values: tuple[int | float | str | bytes | None, ...]) -> int:
    """Checksum of the values of a row, as a database gives them back.

    CRC-32 finds every flipped bit and costs little: a search can read or change thousands of rows at a time.
    """
    return zlib.crc32(repr(values).encode())
