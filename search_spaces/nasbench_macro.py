"""NAS-Bench-Macro: 6,561 networks of eight layers, each an identity or one of two inverted residual blocks.

Source: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import register_model
from torch import nn

from .contract import ClassifierMixin
from .cost import Cost
from .registry import unknown_name_message
from .space import Architecture, ArchitectureError, Choice, SearchSpace

BLOCKS = {"identity": None, "mb3_k3": (3, 3), "mb6_k5": (6, 5)}
"""Expansion and kernel of each block."""


STAGES = (2, 3, 3)
"""Layers of each stage; the first one halves the size and doubles the channels."""


STEM_CHANNELS = 32


FEATURES = 1280


class NASBenchMacroSpace(SearchSpace):
    """NAS-Bench-Macro: the blocks of eight layers.

    Text form, the benchmark's own: a digit for each layer, 0 for an identity, 1 for an inverted residual block of
    expansion 3 and kernel 3, 2 for one of expansion 6 and kernel 5, as in `21002210`. An identity at the begin of a
    stage is a convolution of kernel 1 that halves the size.

    Source: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.

    Example:
        >>> NASBenchMacroSpace().size
        6561
    """

    def __init__(self, num_classes: int = 10, input_size: tuple[int, int, int] = (3, 32, 32)) -> None:
        decisions = {f"layer{layer}": tuple(BLOCKS) for layer in range(1, sum(STAGES) + 1)}
        super().__init__("nasbench_macro", decisions, num_classes=num_classes, input_size=input_size)

    def build(self, architecture: Architecture) -> nn.Module:
        blocks = [str(block) for block in architecture.choices]
        return NASBenchMacroNetwork(blocks, num_classes=self.num_classes, in_chans=self.input_size[0])

    def cost(self, architecture: Architecture) -> Cost:
        """Closed form; multiply-accumulates of convolutions and of the classifier, as `count_cost` counts them."""
        before, height, width = self.input_size
        params, macs = (9 * before + 2) * STEM_CHANNELS, 9 * before * STEM_CHANNELS * height * width
        channels = STEM_CHANNELS
        layers = iter(architecture.choices)
        for count in STAGES:
            for layer in range(count):
                shape, before = BLOCKS[str(next(layers))], channels
                large = height * width
                if layer == 0:
                    channels, height, width = 2 * channels, (height + 1) // 2, (width + 1) // 2
                if shape is not None:
                    hidden, area = shape[0] * before, shape[1] ** 2
                    params += (before + area + channels + 4) * hidden + 2 * channels
                    macs += before * hidden * large + (area + channels) * hidden * height * width
                elif layer == 0:
                    params += (before + 2) * channels
                    macs += before * channels * height * width
        params += (channels + 2) * FEATURES + (FEATURES + 1) * self.num_classes
        return Cost(params, macs + channels * FEATURES * height * width + FEATURES * self.num_classes)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The architecture with the identities of each stage, but for its first layer, after the stage's blocks."""
        blocks, begin = list(architecture.choices), 0
        for count in STAGES:
            blocks[begin + 1 : begin + count] = sorted(
                blocks[begin + 1 : begin + count], key=lambda block: block == "identity"
            )
            begin += count
        return self.architecture(blocks)

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        shape = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return "nasbench_macro", {"arch": str(architecture), **shape}

    def format(self, choices: tuple[Choice, ...]) -> str:
        return "".join(str(list(BLOCKS).index(str(block))) for block in choices)

    def split(self, text: str) -> Sequence[str]:
        digits = text.strip()
        if len(digits) != sum(STAGES) or not set(digits) <= set("012"):
            raise ArchitectureError(f"an architecture is {sum(STAGES)} digits from 0 to 2.")
        return [list(BLOCKS)[int(digit)] for digit in digits]


def _normalised(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: wider, depthwise, narrower; the input is added where it has the same shape.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: Channels in between, as a multiple of the input's.
        kernel: Size of the depthwise convolution.
        stride: Its stride.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.layers = nn.Sequential(
            *_normalised(in_channels, hidden),
            nn.ReLU(),
            *_normalised(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            *_normalised(hidden, out_channels),
        )
        self.has_shortcut = in_channels == out_channels and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x if self.has_shortcut else self.layers(x)


class NASBenchMacroNetwork(ClassifierMixin, nn.Module):
    """The benchmark's network, under timm's model contract.

    Args:
        blocks: The blocks of the eight layers.
        num_classes: Classes of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: An unknown block, or not eight of them.

    Example:
        >>> import torch
        >>> network = NASBenchMacroNetwork([list(BLOCKS)[0]] * 8).eval()
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, blocks: Sequence[str], *, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if len(blocks) != sum(STAGES):
            raise ValueError(f"A network has {sum(STAGES)} blocks; got {len(blocks)}.")
        if unknown := [block for block in blocks if block not in BLOCKS]:
            raise ValueError(unknown_name_message("block", unknown[0], BLOCKS))
        channels = STEM_CHANNELS
        self.stem = nn.Sequential(*_normalised(in_chans, channels, 3), nn.ReLU())
        stages: list[nn.Module] = []
        remaining = iter(blocks)
        for count in STAGES:
            layers: list[nn.Module] = []
            for layer in range(count):
                shape, before = BLOCKS[next(remaining)], channels
                channels, stride = (channels, 1) if layer else (2 * channels, 2)
                if shape is not None:
                    layers.append(InvertedResidual(before, channels, *shape, stride))
                elif layer == 0:
                    layers.append(nn.Sequential(*_normalised(before, channels, stride=stride)))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.conv_head = nn.Sequential(*_normalised(channels, FEATURES), nn.ReLU())
        self._init_head(FEATURES, num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, 1280, H/8, W/8)."""
        return self.conv_head(self.stages(self.stem(x)))


@register_model
def nasbench_macro(pretrained: bool = False, arch: str = "22222222", **kwargs: object) -> NASBenchMacroNetwork:
    """NAS-Bench-Macro's network with the blocks `arch`, for `timm.create_model`.

    Raises:
        ArchitectureError: `arch` is not an architecture of the space.
        RuntimeError: `pretrained` is asked for without a source of weights, or `features_only`.
    """
    blocks = [str(block) for block in NASBenchMacroSpace().parse(arch).choices]
    return NASBenchMacroNetwork.for_timm("nasbench_macro", pretrained, kwargs, blocks=blocks)
