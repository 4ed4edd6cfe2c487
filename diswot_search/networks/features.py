"""Features: the one meaning of what is read off a network, and the reader that gives it.

Proxies (`readings`), distillers and sources all read networks by these definitions.

* **features**: the last feature map before pooling. A network of timm's contract gives it by `forward_features`. In any
  other network it is the last output of a module that has more than one position. A network without such a map, or with
  several, has the inputs of its classifier as a map with one position.
* **positions**: height x width of a map. Tokens lie on the grid that is in proportion to the image. Class tokens,
  distillation tokens and registers are no positions, unless a network gives nothing else. Tokens without a grid lie in
  one column, in their order: a text of L tokens is a map (C, L, 1), whose mask tells padding.
* **stages**: the last output of a block at each number of positions, from fine to coarse. Blocks of the head do not
  count, and neither does a map of one position if the features have several. See `blocks.find_blocks`.
* **pooled**: the input (B, D) of the classifier, which is the linear layer that gives the logits. If several layers are
  averaged, their inputs are concatenated and divided by their number. If the layer scores tokens, it is the token
  whose scores are the logits.
* **weight**: the classifier's weight (N, D), concatenated likewise: a linear head gives pooled @ weight^T + bias.
* **logits**: the output (B, N) in evaluation mode, with all averaging done.

`FeatureReader` runs a network many times. `forward.run_forward` runs it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy, HookPoint
from .contract import ReadingError, evaluation_mode, first_given, is_linear, pick_logits
from .layouts import FeatureMap, as_size, declared_layout, find_layout, first_map

Key = str | tuple[str, int]
"""The name of a tensor that a hook catches, with the number of its stage or classifier if there are several."""


READABLE = ("logits", "pooled", "features", "stages", "preactivations")
"""The kinds of features that a distiller can read from a network."""


@dataclass(frozen=True)
class Features:
    """One network's features for a batch, in single precision. Features that were not requested are None or empty.

    Attributes:
        logits: Logits (B, N).
        pooled: The classifier's input (B, D).
        weight: The classifier's weight (N, D); logits are a linear function of `pooled`.
        features: The last feature map before pooling (B, C, H, W). Class tokens are left out.
        stages: The last block output at each resolution, from fine to coarse, each (B, C, H, W).
        preactivations: The stages before the activation that ends their block, if there is one.
        mask: The tokens (B, L) of a text that hold something; None for images. `as_map` applies it.

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
    mask: Tensor | None = None

    def as_map(self, values: Tensor) -> FeatureMap:
        """The features or a stage with the mask, if its positions are the tokens of the mask."""
        has_mask = self.mask is not None and values.shape[2] * values.shape[3] == self.mask.shape[1]
        return FeatureMap(values, self.mask if has_mask else None)

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
            None if self.mask is None else self.mask[samples],
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

    Example:
        >>> Shapes("student", 10, 64, (64, 8, 8), ((16, 32, 32), (32, 16, 16), (64, 8, 8))).stages[-1]
        (64, 8, 8)
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
    """Runs a network and gives its features. Only the features that are asked for are hooked.

    One run on an example finds the network's anatomy.

    Args:
        model: Any classifier; its mode and its running statistics stay as they are.
        example: Images (B, C, H, W) as the network takes them, or texts (B, L), with B of at least 2. Later batches
            have the same size.
        name: The network's name in messages.

    Attributes:
        model: The network.
        shapes: The shapes of its features.
        norms: For each stage, the mean and standard deviation by channel, (2, C), that the last batch normalisation on
            the block's main path gives its features; None for a stage without one.

    Raises:
        ReadingError: The network gives no logits, or fails on the example.
    """

    def __init__(self, model: nn.Module, example: Tensor, name: str = "model") -> None:
        self.model: Any = model
        self._caught: dict[Key, Tensor] = {}
        self._calls: dict[Key, int] = {}
        self._reading = False
        self._forward: Callable[[Tensor], tuple[Tensor, Tensor | None, dict[Key, Tensor]]] = self._run
        self._hooks = ExitStack()
        self._wanted: frozenset[str] = frozenset()
        with evaluation_mode(model, batch_statistics=False), torch.no_grad():
            anatomy = Anatomy(model, example, name)
        self._stages = anatomy.stages
        self._heads = anatomy.heads
        self._layers: list[Any] = [head.point.module for head in anatomy.heads]
        self._features = anatomy.features
        self._layout = anatomy.features_layout
        self._by_contract = anatomy.features is None and anatomy.features_layout is not None
        self._changed = anatomy.features_changed
        self.norms = tuple(stage.norm for stage in anatomy.stages)
        pooled = sum(layer.weight.flatten(1).shape[1] for layer in self._layers) or None
        self.shapes = Shapes(
            name=name,
            classes=anatomy.classes,
            pooled=pooled,
            features=anatomy.features_shape or (None if pooled is None else (pooled, 1, 1)),
            stages=tuple(stage.shape for stage in anatomy.stages),
            before_activations=all(stage.before is not None for stage in anatomy.stages),
        )

    def want(self, reads: Iterable[str]) -> None:
        """Choose the features that `read` gives besides logits, and set the hooks for them.

        Args:
            reads: Names from `READABLE`.
        """
        self._hooks.close()
        self._wanted = frozenset(reads)
        if "pooled" in self._wanted or ("features" in self._wanted and self._layout is None):
            for place, head in enumerate(self._heads):
                self._hook(("pooled", place), head.point)
        if "features" in self._wanted and self._features is not None:
            self._hook("features", self._features)
        for place, stage in enumerate(self._stages):
            if "stages" in self._wanted:
                self._hook(("stages", place), stage.output)
            if "preactivations" in self._wanted and self.shapes.before_activations and stage.before is not None:
                self._hook(("preactivations", place), stage.before)

    def release(self) -> None:
        """Remove all hooks. Then `read` gives logits only."""
        self.want(())

    def compile(self) -> None:
        """Compile the network, hooks included, with torch at the next batch."""
        self._forward = torch.compile(self._run)

    def read(self, inputs: Tensor, mask: Tensor | None = None) -> Features:
        """Run the network.

        Args:
            inputs: Images (B, C, H, W) normalised for this network, or texts (B, L).
            mask: The tokens (B, L) of a text that hold something; None if all do.
        """
        self._reading = True
        try:
            logits, raw, caught = self._forward(inputs)
        finally:
            self._reading = False
            self._caught.clear()  # so that no graph outlives its step
        pooled = weight = features = None
        if ("pooled", 0) in caught:
            pooled, weight = self._classifier(caught)
        if "features" in self._wanted:
            if self._layout is not None:
                features = self._layout.to_map(raw if raw is not None else caught["features"])
            elif pooled is not None:
                features = (pooled * len(self._heads))[:, :, None, None]
        return Features(
            logits=logits.float(),
            pooled=pooled if "pooled" in self._wanted else None,
            weight=weight if "pooled" in self._wanted else None,
            features=features,
            stages=self._maps("stages", caught),
            preactivations=self._maps("preactivations", caught),
            mask=mask,
        )

    def set_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """Give the classifier other weights: logits are pooled @ weight^T + bias from then on.

        Args:
            weight: The weight (N, D), concatenated where several layers are averaged.
            bias: The bias (N,), which a classifier without bias leaves out.
        """
        start = 0
        with torch.no_grad():
            for layer in self._layers:
                width = layer.weight.flatten(1).shape[1]
                layer.weight.copy_(weight[:, start : start + width].reshape(layer.weight.shape))
                if layer.bias is not None:
                    layer.bias.copy_(bias)
                start += width

    def classifier_state(self) -> dict[str, Tensor]:
        """Copies of the classifier's parameters on the CPU, by their names in the network's state dict."""
        return {
            f"{name}.{key}" if name else key: value.detach().cpu().clone()
            for name, module in self.model.named_modules()
            if any(module is layer for layer in self._layers)
            for key, value in module.named_parameters()
        }

    @property
    def has_bias(self) -> bool:
        """Whether the classifier adds a bias."""
        return all(layer.bias is not None for layer in self._layers)

    def _maps(self, what: str, caught: dict[Key, Tensor]) -> tuple[Tensor, ...]:
        places = enumerate(self._stages)
        return tuple(stage.layout.to_map(caught[what, i]) for i, stage in places if (what, i) in caught)

    def _classifier(self, caught: dict[Key, Tensor]) -> tuple[Tensor, Tensor]:
        """The classifier's input and weight; those of several averaged layers are concatenated."""
        inputs = [head.pick(caught["pooled", place]).float() for place, head in enumerate(self._heads)]
        weights = [layer.weight.flatten(1).float() for layer in self._layers]
        if len(inputs) == 1:
            return inputs[0], weights[0]
        return torch.cat(inputs, 1) / len(inputs), torch.cat(weights, 1)

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, dict[Key, Tensor]]:
        self._caught.clear()
        self._calls.clear()
        raw = None
        if "features" in self._wanted and self._by_contract:
            features = self.model.forward_features(inputs)
            raw = features.clone() if self._changed else features
            logits = self.model.forward_head(features)
        else:
            logits = self.model(inputs)
        return pick_logits(logits, self.shapes.classes), raw, dict(self._caught)

    def _hook(self, key: Key, point: HookPoint) -> None:
        def keep(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: Any = None) -> None:
            if not self._reading:  # another run, or a run of a copy of the network, which has the same hooks
                return
            if point.shared:
                call = self._calls.get(key, 0)
                self._calls[key] = call + 1
                if call != point.call:
                    return
            value = first_given(args, kwargs) if point.of_input else output
            if isinstance(value, tuple | list):
                value = first_map(value, len(next(each for each in value if isinstance(each, Tensor))))
            self._caught[key] = value.clone() if point.changed else value

        register: Any = point.module.register_forward_pre_hook if point.of_input else point.module.register_forward_hook
        self._hooks.callback(register(keep, with_kwargs=True).remove)


# -- one embedding for each image ---------------------------------------------------------------


def embed_network(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Find the embeddings (B, d) of a network without a classifier.

    Args:
        model: The network, in evaluation mode.
        example: Images (B, C, H, W).

    Returns:
        A function from images to the network's output, or to the mean over positions if that is a map or tokens.

    Raises:
        ReadingError: The output is not one tensor (B, width), or a map or tokens. If the network fails on the example,
            the error has a cause.
    """

    def embed(images: Tensor) -> Tensor:
        output = model(images)
        layout = find_layout(output, model, as_size(images), model) or declared_layout(output, model)
        return FeatureMap(layout.to_map(output)).mean()

    try:
        output = model(example)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ReadingError(f"cannot be run on images of {tuple(example.shape[1:])}: {error}") from error
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or len(output) != len(example):
        raise ReadingError("must give one tensor of features, (batch, width); it gives another form.")
    return embed


def embed_classifier(model: nn.Module, example: Tensor, name: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Find the embeddings (B, d) of a classifier: its pooled features.

    A layer that scores each position of a map, or each token, gives the mean over positions of its input. A classifier
    without any linear layer gives the mean of its features, or else its logits.

    Args:
        model: The classifier, in evaluation mode.
        example: Images (B, C, H, W) with B of at least 2.
        name: The network's name in messages.

    Returns:
        A function from images to embeddings and logits.

    Raises:
        ReadingError: See `FeatureReader`.
    """
    reader = FeatureReader(model, example, name)
    if reader.shapes.pooled is None and (layer := _scoring_layer(model, example, reader.shapes.classes)):
        return _embed_scored(model, layer)
    reader.want(("features",) if reader.shapes.pooled is None else ("pooled",))

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        read = reader.read(images)
        mean = None if read.features is None else read.as_map(read.features).mean()
        return next(each for each in (read.pooled, mean, read.logits) if each is not None), read.logits

    return embed


def _scoring_layer(model: nn.Module, example: Tensor, classes: int) -> nn.Module | None:
    """The last linear layer that gives class scores, as for each position or token."""
    ran: list[nn.Module] = []
    with ExitStack() as stack:
        for layer in model.modules():
            if is_linear(layer) and len(layer.weight) == classes:  # type: ignore[arg-type]
                stack.callback(layer.register_forward_hook(lambda module, *_: ran.append(module)).remove)
        model(example)
    return ran[-1] if ran else None


def _embed_scored(model: nn.Module, layer: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        caught[:] = [first_given(args, kwargs)]

    layer.register_forward_pre_hook(catch, with_kwargs=True)

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        inputs = caught.pop()
        channels = -1 if isinstance(layer, nn.Linear) else 1
        return inputs.movedim(channels, 1).reshape(len(inputs), inputs.shape[channels], -1).mean(2), logits

    return embed
