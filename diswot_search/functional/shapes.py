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
