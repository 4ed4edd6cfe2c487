"""A source: a trained model of another task, with its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..networks.network import Network
from ..runtime.run_folder import as_json

EXAMINED_BATCH = 64
"""Streamed images that are looked at to see whether all are grey."""


class SourceError(ValueError):
    """A source that cannot be had, is given twice, or does not fit the data."""


@dataclass(frozen=True, kw_only=True)
class SourceModel(Network):
    """A model of another task. Make several with `as_sources`.

    Attributes:
        input_size: Channels, height and width of the images that its weights were trained on; None takes the data's
            height and width.
        channels: Channels that it takes.
        classifier: Whether it tells classes apart; else it gives features alone, and `num_classes` is 0.
    """

    input_size: tuple[int, int, int] | None = None
    channels: int = 3
    classifier: bool = True

    def config(self) -> dict[str, Any]:
        """All that tells it from another source, as JSON values."""
        keys = ("num_classes", "mean", "std", "input_size", "channels", "classifier")
        return super().config() | as_json({key: getattr(self, key) for key in keys})


# -- what a source is given as ------------------------------------------------------------------

SOURCE_KEYS = ("model", "checkpoint", "pretrained", "num_classes", "mean", "std", "input_size", "space")
"""What a mapping may say of any source; of a timm name, it may have options of `timm.create_model` besides."""
