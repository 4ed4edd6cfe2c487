"""The built-in families: spaces over timm's own model classes, each for 224x224 and for 32x32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from . import timm_costs
from .space import Choice
from .timm_models import entry_point
from .timm_space import Assignments, TimmSpace

# A residual branch that starts at zero (the last normalisation of timm's ResNets and RegNets) or near zero (ConvNeXt's
# layer scale) hides depth and kernels from a score at initialisation. All families switch such starts off.

Size = tuple[int, int, int]


def _widths(*bases: int) -> dict[str, list[int]]:
    """Four stages, each twice as wide as the one before, named by the first."""
    return {f"w{base}": [base, 2 * base, 4 * base, 8 * base] for base in bases}


def resnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """ResNets for 224x224: 6,144 of 1.5 to 78 M params, by block, width and depths.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return TimmSpace(
        "timm/resnet",
        ResNet,
        {
            "block": {"basic": BasicBlock, "bottleneck": Bottleneck},
            "channels": _widths(32, 48, 64, 80),
            "layers.0": [1, 2, 3, 4],
            "layers.1": [1, 2, 3, 4, 6, 8],
            "layers.2": [1, 2, 4, 6, 9, 12, 18, 23],
            "layers.3": [1, 2, 3, 4],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.resnet,
    )


def resnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """ResNets for 32x32: 2,560 of 0.32 to 26 M params, by block, width and depths.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return TimmSpace(
        "timm/resnet_32",
        _small_image_resnet,
        {
            "block": {"basic": BasicBlock, "bottleneck": Bottleneck},
            "channels": _widths(16, 24, 32, 48, 64),
            "layers.0": [1, 2, 3, 4],
            "layers.1": [1, 2, 3, 4],
            "layers.2": [1, 2, 3, 4],
            "layers.3": [1, 2, 3, 4],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=functools.partial(timm_costs.resnet, small=True),
    )


def _small_image_resnet(**arguments: Any) -> nn.Module:
    """timm's ResNet with the stem that is customary for CIFAR: 3x3, stride 1, no pooling."""
    network: Any = ResNet(**arguments)
    stem = network.conv1
    network.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _per_stage(decision: str, stages: int, choices: Sequence[Choice]) -> dict[str, Sequence[Choice]]:
    """The same choices for each stage, as decisions `name.0`, `name.1` and so on."""
    return {f"{decision}.{stage}": choices for stage in range(stages)}


_MBCONV = {**_per_stage("depth", 5, [2, 3, 4]), **_per_stage("kernel", 5, [3, 5, 7])}


_MOBILENETV3 = {"width": [0.5, 0.75, 1.0, 1.25], **_MBCONV, **_per_stage("expansion", 5, [3, 4, 6])}


_EFFICIENTNET = {"width": [0.5, 0.75, 1.0, 1.25], **_MBCONV, **_per_stage("expansion", 5, [4, 6])}


def mobilenetv3(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """MobileNetV3s for 224x224: 57,395,628 of 2.1 to 11 M params, by width, depths, kernels and expansions.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019.
    """
    return TimmSpace(
        "timm/mobilenetv3",
        _mobilenetv3,
        _MOBILENETV3,
        fixed={"strides": [2, 2, 2, 1, 2]},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.mobilenetv3,
    )


def mobilenetv3_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """MobileNetV3s for 32x32: 57,395,628 of 0.87 to 9.7 M params, by width, depths, kernels and expansions.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019.
    """
    return TimmSpace(
        "timm/mobilenetv3_32",
        _mobilenetv3,
        _MOBILENETV3,
        fixed={"strides": [1, 2, 2, 1, 2]},
        attributes={"conv_stem.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=functools.partial(timm_costs.mobilenetv3, stem_stride=1),
    )


def efficientnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """EfficientNets for 224x224: 7,558,272 of 1.2 to 8.9 M params, by width, depths, kernels and expansions.

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019.
    """
    return TimmSpace(
        "timm/efficientnet",
        _efficientnet,
        _EFFICIENTNET,
        fixed={"strides": [2, 2, 2, 1, 2]},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.efficientnet,
    )


def efficientnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """EfficientNets for 32x32: 7,558,272 of 0.53 to 7.3 M params, by width, depths, kernels and expansions.

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019.
    """
    return TimmSpace(
        "timm/efficientnet_32",
        _efficientnet,
        _EFFICIENTNET,
        fixed={"strides": [1, 2, 2, 1, 2]},
        attributes={"conv_stem.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=functools.partial(timm_costs.efficientnet, stem_stride=1),
    )


def _inverted_residuals(
    channels: Sequence[int],
    tails: Sequence[str],
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
) -> list[list[str]]:
    """Stages of inverted residual blocks in timm's block notation; `tails` are the options of each stage."""
    stages = zip(channels, tails, depth, kernel, expansion, strides, strict=True)
    return [[f"ir_r{d}_k{k}_s{s}_e{e}_c{c}{tail}"] for c, tail, d, k, e, s in stages]


def _mobilenetv3(
    *,
    width: float,
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
    **arguments: Any,
) -> nn.Module:
    """MobileNetV3-Large with other depths, kernels and expansions. Source: Howard et al., ICCV 2019, table 1."""
    tails = ("_nre", "_se0.25_nre", "", "_se0.25", "_se0.25")
    body = _inverted_residuals((24, 40, 80, 112, 160), tails, depth, kernel, expansion, strides)
    return MobileNetV3(
        decode_arch_def([["ds_r1_k3_s1_e1_c16_nre"], *body, ["cn_r1_k1_s1_c960"]]),
        num_features=1280,
        stem_size=16,
        round_chs_fn=functools.partial(round_channels, multiplier=width),
        act_layer=nn.Hardswish,
        se_layer=functools.partial(
            SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
        ),
        **arguments,
    )


def _efficientnet(
    *,
    width: float,
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
    **arguments: Any,
) -> nn.Module:
    """EfficientNet-B0 with other depths, kernels and expansions. Source: Tan and Le, ICML 2019, table 1."""
    body = _inverted_residuals((24, 40, 80, 112, 192), ("_se0.25",) * 5, depth, kernel, expansion, strides)
    round_width = functools.partial(round_channels, multiplier=width)
    return EfficientNet(
        decode_arch_def([["ds_r1_k3_s1_e1_c16_se0.25"], *body, ["ir_r1_k3_s1_e6_c320_se0.25"]]),
        num_features=round_width(1280),
        round_chs_fn=round_width,
        act_layer=nn.SiLU,
        **arguments,
    )


def regnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """RegNets X and Y for 224x224: 840 of 0.7 to 82 M params, by first width, growth, depth and group size.

    Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020.
    """
    return TimmSpace(
        "timm/regnet",
        _regnet,
        {
            "w0": [24, 32, 48, 64, 80],
            "wm": [2.0, 2.25, 2.5, 2.75],
            "depth": [12, 14, 16, 18, 20, 22, 24],
            "group_size": [8, 16, 24],
            "se_ratio": [0.0, 0.25],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.regnet,
    )


def regnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """RegNets X and Y for 32x32: 432 of 0.2 to 14 M params, by first width, growth, depth and group size.

    Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020.
    """
    return TimmSpace(
        "timm/regnet_32",
        _regnet,
        {
            "w0": [16, 24, 32, 48],
            "wm": [2.0, 2.25, 2.5],
            "depth": [10, 12, 14, 16, 18, 20],
            "group_size": [4, 8, 16],
            "se_ratio": [0.0, 0.25],
        },
        fixed={"zero_init_last": False},
        attributes={"stem.conv.stride": 1, "s1.b1.conv2.conv.stride": 1, "s1.b1.downsample.conv.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=functools.partial(timm_costs.regnet, strides=(1, 1)),
    )


def _regnet(*, w0: int, wm: float, depth: int, **arguments: object) -> nn.Module:
    """A RegNet whose block widths grow in a line from `w0` to `w0 * wm**3`, quantised to four stages.

    Source: Radosavovic et al., CVPR 2020, section 3.3. The slope follows from the other numbers here, because timm
    builds no other number of stages than four.
    """
    slope = w0 * (wm**3 - 1) / (depth - 1)
    return entry_point("regnety_002")(w0=w0, wa=slope, wm=wm, depth=depth, **arguments)


def convnext(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """ConvNeXts V1 and V2 for 224x224: 131,220 of 1.3 to 29 M params, by width, depths and kernels.

    Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022.
    """
    return TimmSpace(
        "timm/convnext",
        "convnext_atto",
        {
            "dims": _widths(32, 40, 48, 64, 80, 96),
            "depths.0": [1, 2, 3],
            "depths.1": [1, 2, 3],
            "depths.2": [2, 4, 6, 8, 9],
            "depths.3": [1, 2, 3],
            **_per_stage("kernel_sizes", 4, [3, 5, 7]),
            "use_grn": [False, True],
        },
        fixed={"ls_init_value": 1.0},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.convnext,
    )


def convnext_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """ConvNeXts V1 and V2 for 32x32: 87,480 of 0.22 to 6.2 M params, by width, depths and kernels.

    Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022.
    """
    return TimmSpace(
        "timm/convnext_32",
        "convnext_atto",
        {
            "dims": _widths(16, 24, 32, 40, 48),
            "depths.0": [1, 2, 3],
            "depths.1": [1, 2, 3],
            "depths.2": [1, 2, 4, 6],
            "depths.3": [1, 2, 3],
            **_per_stage("kernel_sizes", 4, [3, 5, 7]),
            "use_grn": [False, True],
        },
        fixed={"ls_init_value": 1.0, "patch_size": 1},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.convnext,
    )


def _vit_widths(*heads: int) -> dict[int, Assignments]:
    """Widths by number of heads of 64 channels."""
    return {h: {"num_heads": h, "embed_dim": 64 * h} for h in heads}


_VIT_POOL = {"token": {"global_pool": "token"}, "avg": {"global_pool": "avg", "class_token": False}}


def vit(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """Vision transformers for 224x224: 1,872 of 0.77 to 53 M params, by patch, heads, depth, MLP ratio and pooling.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
    """
    return TimmSpace(
        "timm/vit",
        "vit_tiny_patch16_224",
        {
            "patch_size": [14, 16, 28, 32],
            "heads": _vit_widths(2, 3, 4, 5, 6, 8),
            "depth": list(range(4, 17)),
            "mlp_ratio": [2, 3, 4],
            "pool": _VIT_POOL,
        },
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.vit,
    )


def vit_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """Vision transformers for 32x32: 704 of 0.059 to 9.5 M params, by patch, heads, depth, MLP ratio and pooling.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
    """
    return TimmSpace(
        "timm/vit_32",
        "vit_tiny_patch16_224",
        {
            "patch_size": [4, 8],
            "heads": _vit_widths(1, 2, 3, 4),
            "depth": list(range(2, 13)),
            "mlp_ratio": [1, 2, 3, 4],
            "pool": _VIT_POOL,
        },
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.vit,
    )


def _pit_heads(*first: int) -> dict[str, list[int]]:
    """Heads of the three stages, doubling, named by the first."""
    return {f"h{h}": [h, 2 * h, 4 * h] for h in first}


def pit(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """Pooling vision transformers for 224x224: 1,296 of 2 to 105 M params, by widths, heads, MLP ratio and depths.

    Source: Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021.
    """
    return TimmSpace(
        "timm/pit",
        "pit_ti_224",
        {
            "base_dims": {d: [d, d, d] for d in (32, 48, 64)},
            "heads": _pit_heads(2, 3, 4),
            "mlp_ratio": [2, 3, 4],
            "depth.0": [1, 2, 3],
            "depth.1": [4, 5, 6, 8],
            "depth.2": [2, 3, 4, 6],
        },
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.pit,
    )


def pit_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """Pooling vision transformers for 32x32: 2,880 of 0.042 to 23 M params, by widths, heads, MLP ratio and depths.

    Source: Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021.
    """
    return TimmSpace(
        "timm/pit_32",
        "pit_ti_224",
        {
            "base_dims": {d: [d, d, d] for d in (16, 24, 32, 48)},
            "heads": _pit_heads(1, 2, 3),
            "mlp_ratio": [1, 2, 3, 4],
            "depth.0": [1, 2, 3],
            "depth.1": [1, 2, 3, 4, 6],
            "depth.2": [1, 2, 3, 4],
        },
        fixed={"patch_size": 4, "stride": 2},
        num_classes=num_classes,
        input_size=input_size,
        closed_form=timm_costs.pit,
    )


TIMM_FAMILIES: dict[str, Callable[..., TimmSpace]] = {
    "timm/resnet": resnet,
    "timm/resnet_32": resnet_32,
    "timm/mobilenetv3": mobilenetv3,
    "timm/mobilenetv3_32": mobilenetv3_32,
    "timm/efficientnet": efficientnet,
    "timm/efficientnet_32": efficientnet_32,
    "timm/regnet": regnet,
    "timm/regnet_32": regnet_32,
    "timm/convnext": convnext,
    "timm/convnext_32": convnext_32,
    "timm/vit": vit,
    "timm/vit_32": vit_32,
    "timm/pit": pit,
    "timm/pit_32": pit_32,
}
"""The built-in families by name; those that end in `_32` are for images of about 32x32."""
