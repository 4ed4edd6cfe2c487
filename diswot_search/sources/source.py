"""Sources: networks that were trained on other tasks, with the facts about their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..networks.network import Network
from ..runtime.files import as_json

SOURCE_TYPES = {
    "checkpoint": "str | os.PathLike[str] | None",
    "pretrained": "bool | None",
    "space": "SearchSpace | str | None",
    "trained": "bool | None",
}
"""Types of keys of the mapping that describes a source; the others are checked where their values are."""

SOURCE_KEYS = ("model", "checkpoint", "pretrained", "num_classes", "mean", "std", "input_size", "space", "trained")
"""Keys of the mapping that describes a source. With a timm name, options of `timm.create_model` are allowed as well."""

_IMAGE_KEYS = ("num_classes", "mean", "std", "input_size", "channels", "classifier")
"""Settings that distinguish two sources with the same weights."""


class SourceError(ValueError):
    """A source that cannot be made, is given twice or wrongly, or does not fit the data."""


def as_source(network: Network) -> Network:
    """The network in the role of a source: its settings describe its classes and images as well.

    Args:
        network: A network whose number of classes and channels are known.
    """
    images = as_json({key: getattr(network, key) for key in _IMAGE_KEYS})
    return replace(network, settings={"network": network.name, **network.settings, **images})


def without_images(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings of a source without those of its classes and images."""
    return {key: value for key, value in settings.items() if key not in _IMAGE_KEYS}
