"""ResNets for small images: a space over the depth and width of each stage, and the customary teachers.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (blocks and shortcuts);
Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (pre-activation); Dong, Li and Wei, "DisWOT",
CVPR 2023 (the space S0).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import nn

from .contract import ClassifierMixin
from .cost import Cost
from .registry import unknown_name_message
from .space import Architecture, ArchitectureError, Choice, SearchSpace

SHORTCUTS = ("projection", "identity")
"""The shortcut of a block that changes the shape: a 1x1 convolution, or subsampling and zero channels without
parameters."""


# -- the space ----------------------------------------------------------------------------------


class CifarResNetSpace(SearchSpace):
    """ResNets for small images: number of blocks and width of each stage.

    Text form: blocks x width of each stage, `5x16-5x32-7x64`. If every stage has a single width to choose from, only
    the blocks: `5-5-7`.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.
        depths: Numbers of blocks to choose from, for each stage; a single number leaves no choice.
        widths: Widths to choose from, for each stage; a single number leaves no choice.
        stem: Width of the first convolution.
        block: "basic", "bottleneck" (its output is 4 times the width) or "preactivation".
        shortcut: "projection" or "identity", see `SHORTCUTS`.
        name: Name of the space.

    Raises:
        ValueError: An unknown block or shortcut, a number below 1, or not as many widths as depths.

    Example:
        >>> space = CifarResNetSpace(depths=([1, 2], 3), widths=(16, 32))
        >>> [str(architecture) for architecture in space]
        ['1-3', '2-3']
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: tuple[int, int, int] = (3, 32, 32),
        depths: Sequence[int | Sequence[int]] = ((1, 2, 3, 5, 7, 9),) * 3,
        widths: Sequence[int | Sequence[int]] = ((8, 16, 24, 32), (16, 32, 48, 64), (32, 64, 96, 128)),
        stem: int = 16,
        block: str = "basic",
        shortcut: str = "projection",
        name: str = "cifar_resnet",
    ) -> None:
        _check_options(block, shortcut, stem)
        _check_stages(depths, widths)
        self.depths = tuple(_as_choices(choices) for choices in depths)
        self.widths = tuple(_as_choices(choices) for choices in widths)
        self.decides_width = any(len(choices) > 1 for choices in self.widths)
        decisions: dict[str, Sequence[Choice]] = {}
        for stage, (stage_depths, stage_widths) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            _check_positive(f"depths of stage {stage}", stage_depths)
            _check_positive(f"widths of stage {stage}", stage_widths)
            decisions[f"depth{stage}"] = stage_depths
            if self.decides_width:
                decisions[f"width{stage}"] = stage_widths
        super().__init__(name, decisions, num_classes=num_classes, input_size=input_size)
        self.stem = stem
        self.block = block
        self.shortcut = shortcut

    def stages(self, architecture: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Number of blocks of each stage, and width of each stage."""
        numbers = tuple(int(choice) for choice in architecture.choices)
        if self.decides_width:
            return numbers[::2], numbers[1::2]
        return numbers, tuple(choices[0] for choices in self.widths)

    def build(self, architecture: Architecture) -> nn.Module:
        depths, widths = self.stages(architecture)
        return CifarResNet(
            depths,
            widths,
            stem=self.stem,
            block=self.block,
            shortcut=self.shortcut,
            num_classes=self.num_classes,
            in_chans=self.input_size[0],
        )

    def cost(self, architecture: Architecture) -> Cost:
        """Parameters and multiply-accumulates in closed form: convolutions and the linear layer, as in `count_cost`."""
        in_chans, height, width = self.input_size
        c, area = self.stem, height * width
        params, macs = 9 * in_chans * c, 9 * in_chans * c * area
        for stage, (depth, channels) in enumerate(zip(*self.stages(architecture), strict=True)):
            area_before = area
            if stage:
                height, width = (height + 1) // 2, (width + 1) // 2
                area = height * width
            c_out = channels * BLOCKS[self.block].expansion
            projects = self.shortcut == "projection" and (stage > 0 or c != c_out)
            first = _block_cost(self.block, c, channels, area_before, area, projects)
            other = _block_cost(self.block, c_out, channels, area, area, projects=False)
            params += first.params + (depth - 1) * other.params
            macs += first.macs + (depth - 1) * other.macs
            c = c_out
        norm = c if self.block == "preactivation" else self.stem
        return Cost(params + 2 * norm + (c + 1) * self.num_classes, macs + c * self.num_classes)

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        arch = "-".join(f"{d}x{w}" for d, w in zip(*self.stages(architecture), strict=True))
        shape = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        kind = {"stem": self.stem, "block": self.block, "shortcut": self.shortcut}
        return "cifar_resnet", {"arch": arch, **shape, **kind}

    def format(self, choices: tuple[Choice, ...]) -> str:
        if self.decides_width:
            return "-".join(f"{d}x{w}" for d, w in zip(choices[::2], choices[1::2], strict=True))
        return "-".join(map(str, choices))

    def split(self, text: str) -> Sequence[str]:
        stages = text.strip().split("-")
        if len(stages) != len(self.widths):
            raise ArchitectureError(f"there are {len(self.widths)} stages joined by '-', this has {len(stages)}.")
        if not self.decides_width:
            return stages
        parts = [stage.partition("x") for stage in stages]
        for stage, (_, x, _) in zip(stages, parts, strict=True):
            if not x:
                raise ArchitectureError(f"a stage is blocks x width, such as '3x16'; got {stage!r}.")
        return [number for depth, _, width in parts for number in (depth, width)]

    def config(self) -> dict[str, object]:
        options = {"stem": self.stem, "block": self.block, "shortcut": self.shortcut}
        return super().config() | options | {"widths": [list(choices) for choices in self.widths]}


def cifar_resnet_s0(
    num_classes: int = 10, input_size: tuple[int, int, int] = (3, 32, 32), shortcut: str = "projection"
) -> CifarResNetSpace:
    """DisWOT's S0: 64 CIFAR ResNets with 1, 3, 5 or 7 basic blocks in each of three stages.

    Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.
        shortcut: "projection" or "identity", see `SHORTCUTS`.
    """
    return CifarResNetSpace(
        num_classes,
        input_size,
        depths=((1, 3, 5, 7),) * 3,
        widths=(16, 32, 64),
        shortcut=shortcut,
        name="cifar_resnet_s0",
    )


def _block_cost(block: str, c_in: int, width: int, area_in: int, area: int, projects: bool) -> Cost:
    """Cost of one block, from maps of `area_in` values per channel to maps of `area` values."""
    c_out = width * BLOCKS[block].expansion
    before_stride, after_stride, norms = 0, 9 * c_in * width + 9 * width * width, 2 * width
    if block == "bottleneck":
        before_stride, after_stride, norms = c_in * width, 9 * width * width + width * c_out, 2 * width + c_out
    elif block == "preactivation":
        norms = c_in + width
    if projects:
        after_stride += c_in * c_out
        norms += 0 if block == "preactivation" else c_out
    return Cost(before_stride + after_stride + 2 * norms, before_stride * area_in + after_stride * area)


def _as_choices(choices: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(choices) if isinstance(choices, Sequence) else (choices,)


def _check_options(block: str, shortcut: str, stem: int) -> None:
    if block not in BLOCKS:
        raise ValueError(unknown_name_message("block", block, BLOCKS))
    if shortcut not in SHORTCUTS:
        raise ValueError(unknown_name_message("shortcut", shortcut, SHORTCUTS))
    _check_positive("stem", [stem])


def _check_stages(depths: Sequence[object], widths: Sequence[object]) -> None:
    if not depths or len(depths) != len(widths):
        raise ValueError(f"There are {len(depths)} depths and {len(widths)} widths; each stage needs one of both.")


def _check_positive(what: str, numbers: Sequence[int]) -> None:
    if any(not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(f"{what}: got {', '.join(map(str, numbers))}; whole numbers of at least 1 are allowed.")


# -- the network --------------------------------------------------------------------------------


class PadShortcut(nn.Module):
    """The shortcut without parameters: takes every `stride`-th value and pads (or cuts) channels on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        more = out_channels - in_channels
        self.padding = (more // 2, more - more // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)


def _make_shortcut(in_channels: int, out_channels: int, stride: int, shortcut: str) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "identity":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the sum with the shortcut is rectified."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _make_shortcut(in_channels, width, stride, shortcut)
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the last to 4 times the width; the sum with the shortcut is rectified."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _make_shortcut(in_channels, out_channels, stride, shortcut)
        self.act3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.act3(self.bn3(self.conv3(y)) + self.downsample(x))


class PreactivationBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU; a projection starts from the rectified input."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.conv2 = _conv(width, width, 3)
        self.projects = shortcut == "projection" and (stride != 1 or in_channels != width)
        self.downsample = (
            _conv(in_channels, width, 1, stride)
            if self.projects
            else _make_shortcut(in_channels, width, stride, shortcut)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.bn1(x))
        shortcut = self.downsample(y if self.projects else x)
        return self.conv2(self.act2(self.bn2(self.conv1(y)))) + shortcut


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck] | type[PreactivationBlock]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preactivation": PreactivationBlock,
}


class CifarResNet(ClassifierMixin, nn.Module):
    """A ResNet for small images, under timm's model contract; every stage but the first halves the size.

    Args:
        depths: Blocks of each stage.
        widths: Width of each stage.
        stem: Width of the first convolution.
        block: "basic", "bottleneck" or "preactivation".
        shortcut: "projection" or "identity", see `SHORTCUTS`.
        num_classes: Classes of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: An unknown block or shortcut, a number below 1, or not as many widths as depths.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (16, 32, 64),
        *,
        stem: int = 16,
        block: str = "basic",
        shortcut: str = "projection",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        _check_options(block, shortcut, stem)
        _check_stages(depths, widths)
        _check_positive("depths", depths)
        _check_positive("widths", widths)
        super().__init__()
        preactivation = block == "preactivation"
        self.conv1 = _conv(in_chans, stem, 3)
        self.bn1 = nn.Identity() if preactivation else nn.BatchNorm2d(stem)
        self.act1 = nn.Identity() if preactivation else nn.ReLU()
        channels = stem
        self.num_stages = len(depths)
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(BLOCKS[block](channels, width, stride, shortcut))
                channels = width * BLOCKS[block].expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if preactivation else nn.Identity()
        self._init_head(channels, num_classes, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, num_features, H/4, W/4 for three stages)."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.norm(x)


# -- entries for timm.create_model --------------------------------------------------------------


def read_stages(text: str) -> dict[str, tuple[int, ...]]:
    """Read stages from text: `depths` from `5-5-7`, or `depths` and `widths` from `5x16-5x32-7x64`.

    Example:
        >>> read_stages("5x16-5x32-7x64")
        {'depths': (5, 5, 7), 'widths': (16, 32, 64)}

    Raises:
        ArchitectureError: The text has neither form.
    """
    matches = [re.fullmatch(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]{0,6}))?", stage) for stage in text.strip().split("-")]
    stages = [match.groups() for match in matches if match]
    if len(stages) < len(matches) or len({width is None for _, width in stages}) != 1:
        raise ArchitectureError(f"{text!r} is not a CIFAR ResNet; it must be like '5-5-7' or '5x16-5x32-7x64'.")
    depths = tuple(int(depth) for depth, _ in stages)
    widths = tuple(int(width) for _, width in stages if width)
    return {"depths": depths, "widths": widths} if widths else {"depths": depths}


def _create(name: str, pretrained: bool, kwargs: dict[str, object], **shape: object) -> CifarResNet:
    return CifarResNet.for_timm(name, pretrained, kwargs, **shape)


@register_model
def cifar_resnet(pretrained: bool = False, arch: str = "3-3-3", **kwargs: object) -> CifarResNet:
    """The ResNet with the stages `arch`: `5-5-7` (16, 32 and 64 wide) or `5x16-5x32-7x64`.

    Raises:
        ArchitectureError: `arch` has neither form.
        RuntimeError: `pretrained` is asked for without a source of weights, or `features_only`.
    """
    return _create("cifar_resnet", pretrained, kwargs, **read_stages(arch))


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-8: 1 basic block in each of three stages."""
    return _create("cifar_resnet8", pretrained, kwargs, depths=(1, 1, 1))


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-14: 2 basic blocks in each of three stages."""
    return _create("cifar_resnet14", pretrained, kwargs, depths=(2, 2, 2))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-20: 3 basic blocks in each of three stages."""
    return _create("cifar_resnet20", pretrained, kwargs, depths=(3, 3, 3))


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-32: 5 basic blocks in each of three stages."""
    return _create("cifar_resnet32", pretrained, kwargs, depths=(5, 5, 5))


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-44: 7 basic blocks in each of three stages."""
    return _create("cifar_resnet44", pretrained, kwargs, depths=(7, 7, 7))


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-56: 9 basic blocks in each of three stages."""
    return _create("cifar_resnet56", pretrained, kwargs, depths=(9, 9, 9))


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-110: 18 basic blocks in each of three stages."""
    return _create("cifar_resnet110", pretrained, kwargs, depths=(18, 18, 18))


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-8, 4 times as wide after a stem of 32."""
    return _create("cifar_resnet8x4", pretrained, kwargs, depths=(1, 1, 1), widths=(64, 128, 256), stem=32)


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """ResNet-32, 4 times as wide after a stem of 32."""
    return _create("cifar_resnet32x4", pretrained, kwargs, depths=(5, 5, 5), widths=(64, 128, 256), stem=32)


def _create_wide(name: str, pretrained: bool, kwargs: dict[str, object], layers: int, factor: int) -> CifarResNet:
    depths, widths = ((layers - 4) // 6,) * 3, tuple(factor * width for width in (16, 32, 64))
    return _create(name, pretrained, kwargs, depths=depths, widths=widths, block="preactivation")


@register_model
def cifar_wrn_16_1(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """Wide ResNet-16-1: pre-activation blocks, widths 16/32/64."""
    return _create_wide("cifar_wrn_16_1", pretrained, kwargs, 16, 1)


@register_model
def cifar_wrn_16_2(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """Wide ResNet-16-2: pre-activation blocks, widths 32/64/128."""
    return _create_wide("cifar_wrn_16_2", pretrained, kwargs, 16, 2)


@register_model
def cifar_wrn_40_1(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """Wide ResNet-40-1: pre-activation blocks, widths 16/32/64."""
    return _create_wide("cifar_wrn_40_1", pretrained, kwargs, 40, 1)


@register_model
def cifar_wrn_40_2(pretrained: bool = False, **kwargs: object) -> CifarResNet:
    """Wide ResNet-40-2: pre-activation blocks, widths 32/64/128."""
    return _create_wide("cifar_wrn_40_2", pretrained, kwargs, 40, 2)
