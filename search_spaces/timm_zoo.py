"""timm's own models as a space: one decision, the model's name."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import nn

from .input_spec import image_spec
from .registry import UnknownNameError
from .searched import searched_network
from .space import Architecture, Choice, SearchSpace
from .timm_models import entry_point, make_network, near_models


class TimmZoo(SearchSpace):
    """The models of timm whose names match a pattern, with random weights.

    Models that you register with timm are included. A model for a certain image size is built for `input_size` if timm
    can do that; otherwise building or running the network fails.

    Text form: the model's name.

    Args:
        pattern: Shell patterns of names, as for `timm.list_models`; several in a list or separated by commas.
        exclude: Patterns of names to leave out, in the same form.
        num_classes: Number of classes of the networks.
        input_size: Channels, height and width of one image.

    Raises:
        UnknownNameError: A pattern matches no model, or `exclude` leaves none.
        ValueError: There is no pattern.

    Example:
        >>> len(TimmZoo("resnet18,resnet34"))
        2
    """

    def __init__(
        self,
        pattern: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        num_classes: int = 1000,
        input_size: tuple[int, int, int] = (3, 224, 224),
    ) -> None:
        patterns, excluded = _split_patterns(pattern), _split_patterns(exclude)
        # This entry point is no model: it needs an architecture of another space.
        without = [*excluded, searched_network.__name__]
        if not patterns:
            raise ValueError("The timm zoo needs a pattern of names; '*' stands for all.")
        for each in patterns:
            if not timm.list_models(each):
                raise UnknownNameError(f"No timm model matches {each!r}. {near_models(each.strip('*'))}")
        models = timm.list_models(patterns, exclude_filters=without)
        if not models:
            raise UnknownNameError(f"No timm model is left of {', '.join(patterns)} without {', '.join(without)}.")
        super().__init__("timm/zoo", {"model": models}, num_classes=num_classes, input_size=input_size)

    def build(self, architecture: Architecture) -> nn.Module:
        return self._build(architecture)[0]

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        with torch.random.fork_rng(devices=[]):
            return str(architecture), self._build(architecture)[1]

    def _build(self, architecture: Architecture) -> tuple[nn.Module, dict[str, object]]:
        return make_network(entry_point(str(architecture)), self.num_classes, image_spec(self.input_size), {})

    def format(self, choices: tuple[Choice, ...]) -> str:
        return str(choices[0])

    def split(self, text: str) -> Sequence[str]:
        return [text.strip()]


def _split_patterns(patterns: str | Sequence[str]) -> list[str]:
    parts = patterns.split(",") if isinstance(patterns, str) else patterns
    return [part.strip() for part in parts if part.strip()]
