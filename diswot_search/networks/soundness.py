"""Networks that nothing can be learnt from: weights that are no numbers, and probabilities in place of logits."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

_ROUNDING = 1e-3
"""Largest difference of a sum of probabilities from 1."""

_STATISTICS = ("running_mean", "running_var")
"""The buffers that training fills. Others may hold infinity on purpose, such as masks of attention."""


def check_finite_weights(model: nn.Module, name: str) -> None:
    """Refuse a network whose weights or running statistics are NaN or infinite.

    Args:
        model: The network.
        name: How to call it in the message, such as "The teacher resnet18".

    Raises:
        ValueError: They are.
    """
    buffers = ((key, values) for key, values in model.named_buffers() if key.endswith(_STATISTICS))
    for key, values in chain(model.named_parameters(), buffers):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"{name} has weights that are no numbers: {key} holds NaN or infinity. Its training diverged; take "
                "weights from before that."
            )


def check_logits(logits: Tensor, name: str) -> None:
    """Refuse a network that gives probabilities, or NaN or infinity, where logits are needed.

    Args:
        logits: Its outputs (B, N) for some images.
        name: How to call it in the message, such as "The teacher resnet18".

    Raises:
        ValueError: It does.
    """
    check_finite_logits(logits, name)
    check_not_probabilities(logits, name)


def check_finite_logits(logits: Tensor, name: str) -> None:
    """Refuse logits (B, N) that are NaN or infinite; see `check_logits`."""
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"{name} gives NaN or infinity for images of the data.")


def check_not_probabilities(logits: Tensor, name: str) -> None:
    """Refuse probabilities (B, N) in place of logits; see `check_logits`."""
    if logits.shape[1] > 1 and bool(((logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < _ROUNDING)).all()):
        raise ValueError(
            f"{name} gives probabilities where logits are needed; take off the softmax behind its last layer."
        )
