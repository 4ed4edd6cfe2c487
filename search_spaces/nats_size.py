"""The size space of NATS-Bench: 32,768 widths of the five layers of one network of NAS-Bench-201's cells.

Source: Dong, Liu, Musial and Gabrys, "NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size",
TPAMI 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import register_model
from torch import nn

from .contract import ClassifierMixin
from .cost import Cost
from .nasbench201 import Cell, ReductionBlock, split_cell
from .space import Architecture, ArchitectureError, Choice, SearchSpace

WIDTHS = tuple(range(8, 65, 8))


LAYERS = 5


CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
"""The cell of all networks: the best one on CIFAR-100 among those of NAS-Bench-201."""


class NATSBenchSizeSpace(SearchSpace):
    """The size space of NATS-Bench: widths of five layers, from 8 to 64.

    Text form, the benchmark's own: `64:32:8:48:16`. The layers are a cell, a residual block that halves the size, a
    cell, a second such block, and a cell.

    Source: Dong et al., "NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size", TPAMI 2021.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.

    Example:
        >>> NATSBenchSizeSpace(num_classes=100).size
        32768
    """

    def __init__(self, num_classes: int = 10, input_size: tuple[int, int, int] = (3, 32, 32)) -> None:
        decisions = {f"layer{layer}_width": WIDTHS for layer in range(1, LAYERS + 1)}
        super().__init__("nats_bench_size", decisions, num_classes=num_classes, input_size=input_size)

    def build(self, architecture: Architecture) -> nn.Module:
        widths = [int(width) for width in architecture.choices]
        return NATSBenchSizeNetwork(widths, num_classes=self.num_classes, in_chans=self.input_size[0])

    def cost(self, architecture: Architecture) -> Cost:
        """Closed form; multiply-accumulates are counted as in `NASBench201Space.cost`."""
        in_chans, height, width = self.input_size
        widths = [int(one) for one in architecture.choices]
        before = widths[0]
        params = (9 * in_chans + 2) * before
        macs = (9 * in_chans + 3) * before * height * width
        for layer, channels in enumerate(widths):
            norms = 2
            if layer % 2:
                height, width = (height + 1) // 2, (width + 1) // 2
                weights = (9 * before + 9 * channels + before) * channels
                macs += 4 * before * height * width
            else:
                weights = (2 * 9 * before + 3 * 9 * channels) * channels
                norms = 5
                if before != channels:  # the skip connection changes the channels
                    weights += before * channels
                    norms = 6
            params += weights + 2 * norms * channels
            macs += (weights + 3 * norms * channels) * height * width
            before = channels
        params += 2 * before + (before + 1) * self.num_classes
        macs += 3 * before * height * width + 17 * before + before * self.num_classes
        return Cost(params, macs)

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        shape = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return "nats_bench_size", {"arch": str(architecture), **shape}

    def format(self, choices: tuple[Choice, ...]) -> str:
        return ":".join(map(str, choices))

    def split(self, text: str) -> Sequence[str]:
        widths = text.strip().split(":")
        if len(widths) != LAYERS:
            raise ArchitectureError(f"a network has {LAYERS} widths joined by ':', this has {len(widths)}.")
        return widths


class NATSBenchSizeNetwork(ClassifierMixin, nn.Module):
    """The benchmark's network with five widths, under timm's model contract.

    Args:
        widths: Channels of the five layers.
        num_classes: Classes of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: Not five widths.

    Example:
        >>> import torch
        >>> NATSBenchSizeNetwork([8, 8, 8, 8, 8])(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, widths: Sequence[int], *, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if len(widths) != LAYERS:
            raise ValueError(f"A network has {LAYERS} widths; got {len(widths)}.")
        before = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(in_chans, before, 3, padding=1, bias=False), nn.BatchNorm2d(before))
        stages: list[list[nn.Module]] = [[]]
        for layer, width in enumerate(widths):
            if layer % 2:
                stages.append([ReductionBlock(before, width)])
            else:
                stages[-1].append(Cell(split_cell(CELL), width, before))
            before = width
        self.stages = nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages))
        self.norm = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self._init_head(before, num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, C, H/4, W/4)."""
        return self.norm(self.stages(self.stem(x)))


@register_model
def nats_bench_size(pretrained: bool = False, arch: str = "64:64:64:64:64", **kwargs: object) -> NATSBenchSizeNetwork:
    """The network of NATS-Bench's size space with the widths `arch`, for `timm.create_model`.

    Raises:
        ArchitectureError: `arch` is not an architecture of the space.
        RuntimeError: `pretrained` is asked for without a source of weights, or `features_only`.
    """
    widths = [int(width) for width in NATSBenchSizeSpace().parse(arch).choices]
    return NATSBenchSizeNetwork.for_timm("nats_bench_size", pretrained, kwargs, widths=widths)
