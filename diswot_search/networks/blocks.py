"""Blocks and weighted layers of a network."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTAINERS = (nn.Sequential, nn.ModuleList)


ACTIVATIONS = frozenset(
    {
        *(F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.prelu, F.rrelu, F.elu, F.selu, F.celu),
        *(F.gelu, F.silu, F.mish, F.hardswish, F.softplus),
        *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    }
)
"""Activation functions whose input's sign is a code. Gates, such as a sigmoid that scales channels, do not count."""


def weighted_layers(model: nn.Module) -> list[nn.Module]:
    """Convolutions and linear layers, in the order of the model's modules."""
    return [module for module in model.modules() if _is_weighted(module)]


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and isinstance(module.weight, Tensor)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that a network is a chain of: residual blocks, cells, transformer layers.

    A block is an outermost composite module in one of the model's containers. A stage is searched for blocks if it
    holds them as `blocks`, as timm's stages do, or consists of modules of one kind. A network without such a structure
    has its convolutions and linear layers as blocks.
    """
    blocks = [block for child in model.children() for block in _blocks_within(child, least_layers=2)]
    return blocks if len(blocks) > 1 else weighted_layers(model)


def find_stage_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks whose outputs are feature maps; empty if their tokens are in an order of their own, as Hiera's are."""
    unrolled = any(type(module).__name__ == "Unroll" for module in model.modules())
    return [] if unrolled else find_blocks(model)


def _blocks_within(module: nn.Module, least_layers: int) -> list[nn.Module]:
    children = list(module.children())
    parts: list[nn.Module] = []
    if isinstance(module, CONTAINERS):
        parts = children
    elif isinstance(blocks := getattr(module, "blocks", None), CONTAINERS):
        parts = [blocks]
    elif len({type(child) for child in children}) == 1 and not isinstance(children[0], CONTAINERS):
        parts = [child for child in children if _has_layers(child, 2)]
    blocks_within = [block for part in parts for block in _blocks_within(part, least_layers=0)]
    if blocks_within or isinstance(module, CONTAINERS):
        return blocks_within
    return [module] if children and _has_layers(module, least_layers) else []


def _has_layers(module: nn.Module, least: int) -> bool:
    """Whether a module has so many `weighted_layers`; the search ends when they are found."""
    layers = (each for each in module.modules() if _is_weighted(each))
    return len(list(itertools.islice(layers, least))) == least
