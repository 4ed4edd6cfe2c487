"""Shapes of a student's and a teacher's tensors: checked, and brought to the same positions."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def check_logits(loss: str, student: Tensor, teacher: Tensor) -> None:
    check_shapes(loss, "logits of the same classes", student, teacher)
    if student.shape[1] < 2:
        raise ValueError(f"{loss} compares classes with each other, so it needs at least two; got {student.shape[1]}")


def match_positions(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two batches of maps to the same number of positions, by averaging the larger square grid to the smaller.

    Args:
        first: Feature maps, (B, C, P).
        second: Feature maps, (B, C', P').

    Returns:
        Both batches with min(P, P') positions, unchanged if P = P'.

    Raises:
        ValueError: The numbers of positions differ, and one of them is not a square number.
    """
    counts = (first.shape[2], second.shape[2])
    if counts[0] == counts[1]:
        return first, second
    sides = [math.isqrt(count) for count in counts]
    if any(side**2 != count for side, count in zip(sides, counts, strict=True)):
        raise ValueError(f"maps of {counts[0]} and {counts[1]} positions cannot be matched: they are no square grids")
    resized = [
        F.adaptive_avg_pool2d(maps.unflatten(2, (side, side)), min(sides)).flatten(2)
        for maps, side in zip((first, second), sides, strict=True)
    ]
    return resized[0], resized[1]


def match_grids(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average two batches of maps to a common grid, that of the smaller height and the smaller width.

    Tokens with an unknown grid lie in one column. They are thus compared with the rows of the other map.

    Args:
        first: Maps (B, C, H, W).
        second: Maps (B, C', H', W').

    Returns:
        Maps (B, C, min(H, H'), min(W, W')) and (B, C', min(H, H'), min(W, W')).

    Example:
        >>> import torch
        >>> first, second = match_grids(torch.zeros(2, 16, 8, 8), torch.zeros(2, 64, 4, 4))
        >>> tuple(first.shape)
        (2, 16, 4, 4)
    """
    grid = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    matched = [maps if maps.shape[2:] == grid else F.adaptive_avg_pool2d(maps, grid) for maps in (first, second)]
    return matched[0], matched[1]


def match_in_rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Match the grids of two batches of maps, and flatten positions: (B, C, P) and (B, C', P)."""
    first, second = match_grids(first, second)
    return first.flatten(2), second.flatten(2)


def check_shapes(loss: str, what: str, first: Tensor, second: Tensor) -> None:
    """Check that student and teacher have the same shape.

    Args:
        loss: Name of the loss, for the message.
        what: The equal things that the loss needs, for the message, such as "as many channels".
        first: Tensor of the student.
        second: Tensor of the teacher.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"{loss} needs {what} in student and teacher, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
