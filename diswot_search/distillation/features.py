"""The features that distillers read, off any classifier: by timm's contract, and hooks on the last block of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..readings.forward import ReadingError, evaluation_mode, has_timm_contract, is_linear
from ..readings.recording import find_blocks
from .base import Features, Shapes

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus),
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class FeatureReader:
    """Runs a network and gives its features; where only logits are read, nothing is hooked.

    What there is to read is found out by one run on example images.

    Args:
        model: Any classifier; its mode and its running statistics are left as they are.
        example: Images, (B, C, H, W) with B of at least 2, as the network takes them.
        name: What it is called in messages.

    Attributes:
        model: The network.
        shapes: What there is to read.
        norms: For each stage, mean and standard deviation by channel, (2, C), that the block's last batch
            normalisation gives its features; None where there is none.

    Raises:
        ReadingError: The network gives no logits, or fails on the images.
    """

    def __init__(self, model: nn.Module, example: Tensor, name: str = "model") -> None:
        self.model: Any = model
        self._caught: dict[Any, Tensor] = {}
        self._forward: Callable[[Tensor], Any] = self._run
        self._hooks = ExitStack()
        self._wanted: frozenset[str] = frozenset()
        with evaluation_mode(model, batch_statistics=False), torch.no_grad():
            found = _Survey(model, example, name)
        self._stages = found.stages
        self._heads = found.heads
        self._by_contract = found.by_contract
        self.norms = tuple(found.norms)
        features = as_map(found.features, model).shape[1:] if found.features is not None else None
        stages = tuple(tuple(as_map(output, model).shape[1:]) for output in found.outputs)
        pooled = sum(layer.weight.flatten(1).shape[1] for layer in self._heads) or None
        self.shapes = Shapes(
            name=name,
            classes=found.classes,
            pooled=pooled,
            features=tuple(features) if features is not None else (stages[-1] if stages else None),  # type: ignore[arg-type]
            stages=stages,  # type: ignore[arg-type]
        )

    def want(self, reads: Iterable[str]) -> None:
        """Say what `read` is to give beside logits; hooks are set for that alone."""
        self._hooks.close()
        self._wanted = frozenset(reads)
        if "pooled" in self._wanted:
            for layer in self._heads:
                self._hook_input(layer, layer)
        if "stages" in self._wanted or ("features" in self._wanted and not self._by_contract):
            for place, (block, _) in enumerate(self._stages):
                self._hook_output(block, ("stage", place))
        if "preactivations" in self._wanted:
            for place, (block, activation) in enumerate(self._stages):
                if activation is None:
                    self._hook_output(block, ("preactivation", place))
                else:
                    self._hook_input(activation, ("preactivation", place))

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
        logits, raw, caught = self._forward(images)
        stages = tuple(
            as_map(caught["stage", i], self.model) for i in range(len(self._stages)) if ("stage", i) in caught
        )
        pooled = weight = features = None
        if "pooled" in self._wanted and self._heads:
            share = 1 / len(self._heads)
            pooled = torch.cat([caught[layer].flatten(1) for layer in self._heads], 1).float() * share
            weight = torch.cat([layer.weight.flatten(1) for layer in self._heads], 1).float()
        if "features" in self._wanted:
            features = as_map(raw, self.model) if raw is not None else stages[-1]
        return Features(
            logits=logits.float(),
            pooled=pooled,
            weight=weight,
            features=features,
            stages=stages if "stages" in self._wanted else (),
            preactivations=self._maps("preactivation", caught),
        )

    def _maps(self, what: str, caught: dict[Any, Tensor]) -> tuple[Tensor, ...]:
        places = [(what, place) for place in range(len(self._stages))]
        return tuple(as_map(caught[key], self.model) for key in places if key in caught)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor | None, dict[Any, Tensor]]:
        self._caught.clear()
        raw = None
        if "features" in self._wanted and self._by_contract:
            raw = self.model.forward_features(images)
            logits = self.model.forward_head(raw)
        else:
            logits = self.model(images)
        caught = dict(self._caught)
        self._caught.clear()  # so that no graph outlives its step
        return logits, raw, caught

    def _hook_output(self, module: nn.Module, key: Any) -> None:
        def keep(_: nn.Module, args: Any, output: Tensor) -> None:
            self._caught[key] = output

        self._hooks.callback(module.register_forward_hook(keep).remove)

    def _hook_input(self, module: nn.Module, key: Any) -> None:
        # What works in place would change what was kept.
        in_place = getattr(module, "inplace", False) is True

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._caught[key] = args[0].clone() if in_place else args[0]

        self._hooks.callback(module.register_forward_pre_hook(keep).remove)


def as_map(raw: Tensor, model: Any) -> Tensor:
    """A feature map of a model as (B, C, H, W) in single precision; class tokens and their like are left out."""
    raw = raw.float()
    if raw.ndim == 2:
        return raw[:, :, None, None]
    if raw.ndim == 4:
        last = str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return raw.permute(0, 3, 1, 2) if last else raw
    width = getattr(model, "num_features", raw.shape[2])
    tokens = raw.transpose(1, 2) if raw.shape[1] == width != raw.shape[2] else raw
    extra = getattr(model, "num_prefix_tokens", 0)
    if isinstance(extra, int) and 0 < extra < tokens.shape[1]:
        tokens = tokens[:, extra:]
    return tokens.transpose(1, 2).unflatten(2, _grid(tokens.shape[1], model))


def _grid(count: int, model: Any) -> tuple[int, int]:
    """Height and width of the grid that tokens lie on; a column where that is not known."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is not None and len(grid) == 2 and grid[0] * grid[1] == count:
        return int(grid[0]), int(grid[1])
    side = math.isqrt(count)
    return (side, side) if side * side == count else (count, 1)


class _Survey:
    """One run of a network that finds its stages, their activations and the layers that make its logits."""

    def __init__(self, model: Any, example: Tensor, name: str) -> None:
        self._model = model
        self._samples = len(example)
        self._order: list[tuple[nn.Module, Tensor]] = []
        self._blocks: list[tuple[nn.Module, Tensor]] = []
        blocks = find_blocks(model)
        with ExitStack() as stack:
            for module in model.modules():
                if isinstance(module, _ACTIVATIONS + _NORMS) or is_linear(module):
                    stack.callback(module.register_forward_hook(self._note).remove)
            for block in blocks:
                stack.callback(block.register_forward_hook(self._note_block).remove)
            try:
                logits = model(example.clone())
            except (RuntimeError, AssertionError, ValueError, TypeError) as error:
                message = f"{name} cannot be run on images of {tuple(example.shape[1:])}: {error}"
                raise ReadingError(message) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
            raise ReadingError(f"{name} must give logits (batch, classes); it gives {_describe(logits)}.")
        self.classes = logits.shape[1]
        self.heads = self._heads_of(model, logits)
        self.stages: list[tuple[nn.Module, nn.Module | None]] = []
        self.outputs: list[Tensor] = []
        self.norms: list[Tensor | None] = []
        for block, output in self._last_at_each_resolution():
            activation = self._activation_of(block, output)
            self.stages.append((block, activation))
            self.outputs.append(output)
            self.norms.append(None if activation is None else self._norm_of(block, output))
        self.features: Tensor | None = None
        self.by_contract = False
        if has_timm_contract(model):
            raw = model.forward_features(example.clone())
            if isinstance(raw, Tensor) and raw.ndim in (2, 3, 4):
                self.by_contract = torch.allclose(model.forward_head(raw), logits, rtol=1e-3, atol=1e-4)
            self.features = raw if self.by_contract else None

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        self._order.append((module, output))

    def _note_block(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == self._samples:
            self._blocks.append((module, output))

    def _last_at_each_resolution(self) -> list[tuple[nn.Module, Tensor]]:
        positions = [as_map(output, self._model).shape[2:].numel() for _, output in self._blocks]
        return [
            found
            for found, here, after in zip(self._blocks, positions, [*positions, None][1:], strict=True)
            if here != after
        ]

    def _activation_of(self, block: nn.Module, output: Tensor) -> nn.Module | None:
        """The activation whose output is the block's output."""
        within = set(block.modules())
        found = [m for m, out in self._order if m in within and isinstance(m, _ACTIVATIONS) and out is output]
        return found[-1] if found else None

    def _norm_of(self, block: nn.Module, output: Tensor) -> Tensor | None:
        """What the last batch normalisation within the block makes of its channels: means and deviations."""
        within = set(block.modules())
        for module, _ in reversed(self._order):
            if module in within and isinstance(module, _NORMS) and module.affine:
                if module.num_features == as_map(output, self._model).shape[1]:
                    return torch.stack([module.bias.detach(), module.weight.detach().abs()]).float().cpu()
                return None
        return None

    def _heads_of(self, model: Any, logits: Tensor) -> list[Any]:
        """The linear layers that make the logits, in order; those of several averaged classifiers."""
        inside: set[nn.Module] | None = None
        if has_timm_contract(model):
            head = model.get_classifier()
            parts = head if isinstance(head, tuple | list) else (head,)
            inside = {m for part in parts if isinstance(part, nn.Module) for m in part.modules()}
        made = [
            module
            for module, output in self._order
            if is_linear(module) and isinstance(output, Tensor) and output.flatten(1).shape == logits.shape
        ]
        if inside is None:
            return made[-1:]
        return [module for module in made if module in inside]


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
