"""Configurations as JSON values: their canonical numbers, their hash, and how two of them differ."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence

_EXACT = 1 << 53
"""Floats below are whole numbers without a gap between them."""

PACKAGES = ("diswot-search", "torch", "timm")
"""Packages that decide what a score or a trained weight is."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score depends on."""
    return {"python": platform.python_version()} | score_versions()


def score_versions() -> dict[str, str]:
    """Versions of `PACKAGES`."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def canonical(value: object) -> object:
    """A JSON value in which equal numbers are written alike: a float without a fraction becomes an int.

    Example:
        >>> canonical({"max_params": 30000.0, "lr": 0.5})
        {'max_params': 30000, 'lr': 0.5}
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return value


def config_sha256(config: Mapping[str, object]) -> str:
    """SHA-256, in hex, of a configuration; equal for equal configurations, however their numbers are written."""
    return hashlib.sha256(_text(config).encode()).hexdigest()


def differences(
    stored: Mapping[str, object], current: Mapping[str, object], *, ignore: Sequence[str] = ()
) -> list[str]:
    """How two configurations differ, one line for each value, nested keys joined by dots.

    Args:
        stored: The configuration that is called "there".
        current: The configuration that is called "here".
        ignore: Dotted keys that may differ. A key that is missing counts as null.
    """
    old, new = _flatten(stored), _flatten(current)
    keys = [key for key in old | new if key not in ignore and _text(old.get(key)) != _text(new.get(key))]
    return [f"{key} is {_shown(old, key)} there, {_shown(new, key)} here" for key in keys]


def _text(value: object) -> str:
    return json.dumps(canonical(value), sort_keys=True, default=repr)


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings and lists of mappings as one mapping with dotted keys."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _shown(flat: Mapping[str, object], key: str) -> str:
    text = json.dumps(flat[key]) if key in flat else "not set"
    return text if len(text) <= 60 else text[:57] + "..."
