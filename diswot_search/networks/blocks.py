"""Blocks and weighted layers of a network."""

from __future__ import annotations

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
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [module for module in model.modules() if isinstance(module, kinds) and isinstance(module.weight, Tensor)]


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
        parts = [child for child in children if len(weighted_layers(child)) > 1]
    inner = [block for part in parts for block in _blocks_within(part, least_layers=0)]
    if inner or isinstance(module, CONTAINERS):
        return inner
    return [module] if children and len(weighted_layers(module)) >= least_layers else []
