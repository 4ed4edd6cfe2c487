"""Devices by name."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> str:
    """The device that "auto" stands for here, or the device given.

    Raises:
        ValueError: The device is unknown, or this machine does not have it.
    """
    number = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if number[name])
    kind, colon, index = device.partition(":")
    if kind not in number or (colon and not index.isdecimal()):
        raise ValueError(f"Unknown device {device!r}; allowed: auto, cpu, cuda, mps; cuda:1 is the second of its kind.")
    if int(index or 0) >= number[kind]:
        present = ", ".join(f"{name} ({count})" for name, count in number.items() if count)
        raise ValueError(f"This machine has no {device!r} that torch can use; it has: {present}.")
    return device


def has_device(device: str) -> bool:
    """Whether this machine has a device of the same kind."""
    kind = device.partition(":")[0]
    return kind == "cpu" or (torch.cuda if kind == "cuda" else torch.backends.mps).is_available()


def device_name(device: str) -> str:
    """The name of a device, such as that of a graphics card; the device itself for others, and for one elsewhere."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") and has_device(device) else device
