"""timm's model contract for the networks of this package: pooling, classifier, and their methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg
from torch import nn

N = TypeVar("N", bound="ClassifierMixin")
M = TypeVar("M")


def build_for_timm(
    make: Callable[..., M], name: str, pretrained: bool, kwargs: Mapping[str, Any], config: object, **shape: Any
) -> M:
    """Make a network for an entry point of timm, by timm's own builder.

    Args:
        make: Makes the network from the arguments that timm leaves and `shape`.
        name: Name of the entry point.
        pretrained: Load the weights that `kwargs` name, as `timm.create_model("local-dir:...")` does.
        kwargs: Arguments that timm passes to the entry point.
        config: The network's `pretrained_cfg` where timm passes none.
        shape: The network's own arguments.

    Raises:
        RuntimeError: `pretrained` without a source of weights, or `features_only`, which these networks lack.
    """
    if kwargs.get("features_only"):
        raise RuntimeError(f"features_only is not for {name!r}; hook its modules to read feature maps on the way.")
    source = kwargs.get("pretrained_cfg")
    if pretrained and not source and not kwargs.get("pretrained_cfg_overlay"):
        raise RuntimeError(f"There are no pretrained weights for {name!r}; load a checkpoint instead.")
    build: Any = build_model_with_cfg
    network: M = build(make, name, pretrained, **{**kwargs, "pretrained_cfg": source or config}, **shape)
    return network


class ClassifierMixin:
    """Global average pooling and a linear classifier after `forward_features`, as in timm's models.

    A network defines `forward_features` and calls `_init_head` in its constructor.
    """

    training: bool
    num_features: int
    head_hidden_size: int
    num_classes: int
    drop_rate: float
    fc: nn.Module

    def _init_head(self, num_features: int, num_classes: int, drop_rate: float) -> None:
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes)

    @classmethod
    def for_timm(cls: type[N], name: str, pretrained: bool, kwargs: dict[str, Any], **shape: Any) -> N:
        """Make the network for an entry point of timm; see `build_for_timm`."""
        config = {"num_classes": 10, "input_size": (3, 32, 32), "crop_pct": 1.0, "classifier": "fc"}
        return build_for_timm(cls, name, pretrained, kwargs, config, **shape)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one; with 0 classes the pooled features are the output."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, channels, H, W) to the last feature map (B, num_features, h, w); each network defines it."""
        raise NotImplementedError

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """A feature map (B, C, H, W) to logits (B, classes), or to pooled features (B, C)."""
        x = x.mean((2, 3))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.forward_head(self.forward_features(x))
