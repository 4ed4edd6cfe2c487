"""The one reader of features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy, HookPoint
from .contract import evaluation_mode, first_given

READABLE = ("logits", "pooled", "features", "stages", "preactivations")
"""The kinds of features that a distiller can read from a network."""


@dataclass(frozen=True)
class Features:
    """One network's features for a batch, in single precision. Features that were not requested are None or empty.

    Attributes:
        logits: Logits (B, N).
        pooled: The classifier's input (B, D).
        weight: The classifier's weight (N, D); logits are a linear function of `pooled`.
        features: The last feature map before pooling (B, C, H, W). Tokens lie on their grid, or in one column if the
            grid is unknown; class tokens and other extra tokens are left out.
        stages: The last block output at each resolution, from fine to coarse, each (B, C, H, W).
        preactivations: The stages before the activation that ends their block, if there is one.

    Example:
        >>> import torch
        >>> first, rest = Features(torch.zeros(5, 10), pooled=torch.zeros(5, 64)).split(2)
        >>> tuple(first.logits.shape), tuple(rest.pooled.shape)
        ((2, 10), (3, 64))
    """

    logits: Tensor
    pooled: Tensor | None = None
    weight: Tensor | None = None
    features: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    preactivations: tuple[Tensor, ...] = ()

    def split(self, count: int) -> tuple[Features, Features]:
        """Return the features of the first `count` samples and those of the remaining samples."""
        return self._part(slice(None, count)), self._part(slice(count, None))

    def _part(self, samples: slice) -> Features:
        return Features(
            self.logits[samples],
            None if self.pooled is None else self.pooled[samples],
            self.weight,
            None if self.features is None else self.features[samples],
            tuple(stage[samples] for stage in self.stages),
            tuple(stage[samples] for stage in self.preactivations),
        )


@dataclass(frozen=True)
class Shapes:
    """The shapes of a network's features without the batch dimension. Missing features are None or empty.

    Attributes:
        name: The network's name in messages.
        classes: The number of classes, N.
        pooled: The width of the classifier's input, D.
        features: The shape (C, H, W) of the last feature map.
        stages: The shape (C, H, W) of each stage.
        before_activations: Whether the stages can be read before their last activation.
    """

    name: str
    classes: int
    pooled: int | None
    features: tuple[int, int, int] | None
    stages: tuple[tuple[int, int, int], ...]
    before_activations: bool = True

    @property
    def preactivations(self) -> tuple[tuple[int, int, int], ...]:
        """The shape (C, H, W) of each preactivation: that of its stage. Empty if preactivations cannot be read."""
        return self.stages if self.before_activations else ()


class FeatureReader:
    """Runs a network and gives its features; where only logits are read, nothing is hooked.

    What there is to read, and where, is found out once, by a run on example images.

    Args:
        model: Any classifier; its mode and its running statistics are left as they are.
        example: Images, (B, C, H, W) with B of at least 2, as the network takes them; those that are read later are
            of the same size.
        name: What it is called in messages.

    Attributes:
        model: The network.
        shapes: What there is to read.
        norms: For each stage, mean and standard deviation by channel, (2, C), that the last batch normalisation of the
            block's main path gives its features; None where there is none.

    Raises:
        ReadingError: The network gives no logits, or fails on the images.
    """

    def __init__(self, model: nn.Module, example: Tensor, name: str = "model") -> None:
        self.model: Any = model
        self._caught: dict[Any, Tensor] = {}
        self._calls: dict[Any, int] = {}
        self._reading = False
        self._forward: Callable[[Tensor], Any] = self._run
        self._hooks = ExitStack()
        self._wanted: frozenset[str] = frozenset()
        with evaluation_mode(model, batch_statistics=False), torch.no_grad():
            found = Anatomy(model, example, name)
        self._stages = found.stages
        self._heads = found.heads
        self._layers: list[Any] = [tap.module for tap in found.heads]
        self._features = found.features
        self._layout = found.features_layout
        self._by_contract = found.features is None and found.features_layout is not None
        self._changed = found.features_changed
        self.norms = tuple(stage.norm for stage in found.stages)
        self.shapes = Shapes(
            name=name,
            classes=found.classes,
            pooled=sum(layer.weight.flatten(1).shape[1] for layer in self._layers) or None,
            features=found.features_shape,
            stages=tuple(stage.shape for stage in found.stages),
            before_activations=all(stage.before is not None for stage in found.stages),
        )

    def want(self, reads: Iterable[str]) -> None:
        """Say what `read` is to give beside logits; hooks are set for that alone."""
        self._hooks.close()
        self._wanted = frozenset(reads)
        if "pooled" in self._wanted:
            for place, tap in enumerate(self._heads):
                self._hook(("pooled", place), tap)
        if "features" in self._wanted and self._features is not None:
            self._hook("features", self._features)
        for place, stage in enumerate(self._stages):
            if "stages" in self._wanted:
                self._hook(("stages", place), stage.output)
            if "preactivations" in self._wanted and self.shapes.before_activations and stage.before is not None:
                self._hook(("preactivations", place), stage.before)

    def release(self) -> None:
        """Remove all hooks; `read` gives logits alone."""
        self.want(())

    def compile(self) -> None:
        """Let torch compile the network with its hooks, at the next batch."""
        self._forward = torch.compile(self._run)

    def read(self, images: Tensor) -> Features:
        """Run the network.

        Args:
            images: (B, C, H, W), normalised for this network.
        """
        self._reading = True
        try:
            logits, raw, caught = self._forward(images)
        finally:
            self._reading = False
            self._caught.clear()  # so that no graph outlives its step
        pooled = weight = features = None
        if "pooled" in self._wanted and self._heads:
            pooled, weight = self._classifier(caught)
        if "features" in self._wanted and self._layout is not None:
            features = self._layout.to_map(raw if raw is not None else caught["features"])
        return Features(
            logits=logits.float(),
            pooled=pooled,
            weight=weight,
            features=features,
            stages=self._maps("stages", caught),
            preactivations=self._maps("preactivations", caught),
        )

    def _maps(self, what: str, caught: dict[Any, Tensor]) -> tuple[Tensor, ...]:
        places = enumerate(self._stages)
        return tuple(stage.layout.to_map(caught[what, i]) for i, stage in places if (what, i) in caught)

    def _classifier(self, caught: dict[Any, Tensor]) -> tuple[Tensor, Tensor]:
        """The classifier's input and weight; those of several that are averaged stand side by side."""
        inputs = [caught["pooled", place].flatten(1).float() for place in range(len(self._heads))]
        weights = [layer.weight.flatten(1).float() for layer in self._layers]
        if len(inputs) == 1:
            return inputs[0], weights[0]
        return torch.cat(inputs, 1) / len(inputs), torch.cat(weights, 1)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor | None, dict[Any, Tensor]]:
        self._caught.clear()
        self._calls.clear()
        raw = None
        if "features" in self._wanted and self._by_contract:
            given = self.model.forward_features(images)
            raw = given.clone() if self._changed else given
            logits = self.model.forward_head(given)
        else:
            logits = self.model(images)
        return logits, raw, dict(self._caught)

    def _hook(self, key: Any, tap: HookPoint) -> None:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
            if not self._reading:  # a run by others, or of a copy of the network, which has the same hooks
                return
            if tap.shared:
                call = self._calls.get(key, 0)
                self._calls[key] = call + 1
                if call != tap.call:
                    return
            value = first_given(args, kwargs) if tap.of_input else output
            self._caught[key] = value.clone() if tap.changed else value

        register: Any = tap.module.register_forward_pre_hook if tap.of_input else tap.module.register_forward_hook
        self._hooks.callback(register(keep, with_kwargs=True).remove)
