"""Features read off networks of every layout, against timm's own calls and against hooks set by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
from timm.models.gcvit import GlobalContextVit
from timm.models.vgg import VGG
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.distillation.base import DistillerError, Setting
from diswot_search.distillation.distillers import OFD
from diswot_search.networks.contract import ReadingError
from diswot_search.networks.features import READABLE, FeatureReader
from diswot_search.networks.forward import run_forward
from diswot_search.networks.frozen import FrozenNetwork
from diswot_search.networks.preprocessing import Preprocessor

NETWORKS: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"arch": "1x4-1x8-1x8"},
    "test_resnet": {"zero_init_last": False},
    "test_byobnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_nfnet": {},
    "test_vit": {"img_size": 32},
    "test_vit2": {"img_size": 32},
    "test_mambaout": {},
    "resnetv2_50": {"layers": (1, 1), "channels": (8, 16), "stem_chs": 8},
    "mobilenetv3_small_050": {},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (1, 1),
        "num_heads": (2, 2),
    },
}
"""Feature maps as NCHW and NHWC, tokens with and without a class token, two averaged heads, several stages."""
TOKENS = ("test_vit", "test_vit2", "deit_tiny_distilled_patch16_224")


class Foreign(nn.Module):
    """What torchvision's networks are like: no contract, in place, a classifier that is called anything."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def make(name: str) -> Any:
    torch.manual_seed(0)
    return Foreign() if name == "foreign" else timm.create_model(name, num_classes=5, **NETWORKS[name])


def as_map(raw: Tensor, layout: str = "NCHW", skipped: int = 0, height: int | None = None) -> Tensor:
    """A feature map whose layout is known, as (B, C, H, W)."""
    if layout == "NHWC":
        return raw.permute(0, 3, 1, 2)
    if layout == "NCHW":
        return raw
    tokens = raw[:, skipped:]
    height = math.isqrt(tokens.shape[1]) if height is None else height
    return tokens.transpose(1, 2).reshape(len(raw), raw.shape[2], height, tokens.shape[1] // height)


def map_of(raw: Tensor, model: Any) -> Tensor:
    """The same by what timm says of its model."""
    if raw.ndim == 4:
        return as_map(raw, str(getattr(model, "output_fmt", "NCHW")))
    return as_map(raw, "tokens", getattr(model, "num_prefix_tokens", 0))


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*NETWORKS, "foreign"])
@pytest.mark.parametrize("training", [False, True])
def test_reading_changes_no_output_and_no_statistic(name: str, training: bool) -> None:
    model, twin = make(name).train(training), make(name).train(training)
    reader = FeatureReader(model, IMAGES, name)
    reader.want(READABLE)
    torch.manual_seed(3)
    found = reader.read(IMAGES)
    torch.manual_seed(3)
    expected = twin(IMAGES)
    expected = expected if isinstance(expected, Tensor) else sum(expected) / len(expected)
    assert torch.equal(found.logits, expected)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    # The gradient passes through all that was read, as through the network itself.
    parts = [found.logits, found.pooled, found.features, *found.stages, *found.preactivations]
    total = torch.stack([part.square().mean() for part in parts if part is not None]).sum()
    total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_timm(name: str) -> None:
    model = make(name).eval()
    reader = FeatureReader(model, IMAGES, name)
    reader.want(READABLE)
    found, shapes = reader.read(IMAGES), reader.shapes
    with torch.no_grad():
        raw = model.forward_features(IMAGES)
        pooled = model.forward_head(raw, pre_logits=True)
    assert found.features is not None
    assert torch.equal(found.features, map_of(raw, model))
    assert found.features.shape[1:] == shapes.features
    assert found.features.flatten(2).shape[1] == model.num_features
    head = model.get_classifier()
    heads = list(head) if isinstance(head, tuple | list) else [head]
    assert found.pooled is not None
    assert found.weight is not None
    assert found.weight.shape == (5, shapes.pooled)
    if len(heads) == 1:
        assert torch.allclose(found.pooled, pooled.flatten(1), atol=1e-6)
        assert torch.equal(found.weight, heads[0].weight.flatten(1))
    bias = torch.stack([each.bias for each in heads]).mean(0)
    assert torch.allclose(found.pooled @ found.weight.T + bias, found.logits, atol=1e-5)
    assert shapes.classes == 5
    assert tuple(tuple(stage.shape[1:]) for stage in found.stages) == shapes.stages
    assert tuple(tuple(stage.shape[1:]) for stage in found.preactivations) == shapes.stages
    sizes = [stage[1] * stage[2] for stage in shapes.stages]
    assert sizes == sorted(set(sizes), reverse=True)  # one at each resolution, first to last


@pytest.mark.parametrize("name", [*NETWORKS, "foreign"])
def test_a_stage_is_what_a_block_gives_at_that_moment(name: str) -> None:
    """Nothing that works in place later has changed it."""
    model = make(name).eval()
    given: list[Tensor] = []
    for module in model.modules():
        if module is not model:
            module.register_forward_hook(
                lambda _, args, output: given.append(output.clone()) if isinstance(output, Tensor) else None
            )
    reader = FeatureReader(model, IMAGES, name)
    reader.want(["stages", "preactivations"])
    given.clear()
    with torch.no_grad():
        found = reader.read(IMAGES)
    assert found.stages
    maps = [map_of(output, model) for output in given if output.ndim == 4 or (output.ndim == 3 and name in TOKENS)]
    for stage in found.stages:
        assert any(stage.shape == output.shape and torch.equal(stage, output) for output in maps)


@pytest.mark.parametrize("name", ["cifar_resnet", "test_resnet"])
def test_what_an_activation_gets_becomes_the_stage(name: str) -> None:
    reader = FeatureReader(make(name).eval(), IMAGES)
    reader.want(["stages", "preactivations"])
    found = reader.read(IMAGES)
    assert len(found.stages) > 1
    for stage, before, norm in zip(found.stages, found.preactivations, reader.norms, strict=True):
        assert torch.equal(before.relu(), stage)
        assert before.min() < 0
        assert norm is not None
        assert norm.shape == (2, stage.shape[1])
        assert norm[1].min() >= 0


def test_only_what_is_wanted_is_read_and_hooks_go() -> None:
    model = make("cifar_resnet")
    reader = FeatureReader(model, IMAGES)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    assert hooks() == 0
    found = reader.read(IMAGES)
    assert (found.pooled, found.weight, found.features, found.stages, found.preactivations) == (
        *(None, None, None),
        *((), ()),
    )
    reader.want(["pooled"])
    assert hooks() == 1
    assert reader.read(IMAGES).pooled is not None
    reader.want(["stages"])
    assert hooks() == len(reader.shapes.stages) == len(reader.read(IMAGES).stages) == 3
    assert reader.read(IMAGES).pooled is None
    reader.release()
    assert hooks() == 0
    assert reader.read(IMAGES).stages == ()


def test_a_compiled_network_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile = torch.compile

    def traced(function: Any) -> Any:
        compiled.append(function)
        return compile(function, backend="aot_eager")  # all but the C++ compiler

    monkeypatch.setattr(torch, "compile", traced)
    model = make("cifar_resnet").eval()
    reader = FeatureReader(model, IMAGES)
    reader.want(READABLE)
    plain = reader.read(IMAGES)
    reader.compile()
    found = reader.read(IMAGES)
    assert len(compiled) == 1
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert found.pooled is not None
    assert plain.pooled is not None
    assert torch.allclose(found.pooled, plain.pooled, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found.stages, plain.stages, strict=True))
    found.stages[0].sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


# -- layouts ------------------------------------------------------------------------------------

GCVIT = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "embed_dim": 8, "window_ratio": (16, 16, 16, 32)}
LAYOUTS: dict[str, tuple[Any, tuple[int, int], list[Any]]] = {
    "NCHW": (("test_resnet", {}), (32, 64), ["NCHW"] * 4),
    "NHWC": (
        ("swin_tiny_patch4_window7_224", {**NETWORKS["swin_tiny_patch4_window7_224"], "img_size": (32, 64)}),
        *((32, 64), ["NHWC"] * 2),
    ),
    "NHWC within NCHW": ((GlobalContextVit, {"img_size": 64, **GCVIT}), (64, 64), ["NCHW"] * 4),
    "tokens within NCHW": (
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 10, 16)}),
        *((64, 128), ["NCHW"] * 4),
    ),
    "convolutions, then NHWC": (
        ("tiny_vit_5m_224", {"embed_dims": (8, 16, 32, 32), "depths": (1,) * 4, "num_heads": (1,) * 4}),
        *((64, 64), ["NCHW"] * 4),
    ),
    "class token": (("test_vit", {"img_size": 32}), (32, 32), [("tokens", 1, 2)]),
    "class token, wide image": (("test_vit", {"dynamic_img_size": True}), (32, 64), [("tokens", 1, 2)]),
    # 9 tokens would fit a grid, too.
    "registers": (
        ("vit_tiny_patch16_224", {"img_size": 32, "reg_tokens": 4, "depth": 2, "embed_dim": 32, "num_heads": 2}),
        *((32, 32), [("tokens", 5, 2)]),
    ),
    "class token joins later": (
        ("cait_xxs24_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}),
        *((32, 32), [("tokens", 0, 4)]),
    ),
}
"""A network, the size of its images, and how the modules that timm takes features from give them."""


@pytest.mark.parametrize("case", LAYOUTS)
def test_stages_are_the_features_of_timm(case: str) -> None:
    (name, options), size, layouts = LAYOUTS[case]
    torch.manual_seed(0)
    create = name if callable(name) else lambda **given: timm.create_model(name, **given)
    model = create(num_classes=5, **options).eval()
    for part in getattr(model, "stages", ()):
        part.norm = nn.Identity()  # which some have after their last block
    images = torch.randn(2, 3, *size)
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        reader = FeatureReader(model, images, case)
        reader.want(["stages"])
        for place in [info["module"] for info in model.feature_info][-len(layouts) :]:
            model.get_submodule(place).register_forward_hook(
                lambda _, args, output, place=place: expected.__setitem__(place, output.clone())
            )
        found = reader.read(images)
    assert len(expected) == len(layouts)
    stages = found.stages[-len(layouts) :]
    for stage, layout, raw in zip(stages, layouts, expected.values(), strict=True):
        assert torch.equal(stage, as_map(raw, *((layout,) if isinstance(layout, str) else layout)))
    assert tuple(tuple(stage.shape[1:]) for stage in found.stages) == reader.shapes.stages


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([model])
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def test_a_class_token_that_nobody_declares_is_left_out() -> None:
    options = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    xcit = timm.create_model("xcit_nano_12_p8_224", num_classes=5, **options)
    assert FeatureReader(xcit, torch.randn(2, 3, 64, 64)).shapes.stages == ((16, 8, 8),)
    vit = Wrapped(timm.create_model("test_vit", img_size=32))
    assert FeatureReader(vit, IMAGES).shapes.stages == ((64, 2, 2),)


def test_tokens_in_an_order_of_their_own_are_no_stage() -> None:
    hiera = timm.create_model("hiera_tiny_224", img_size=(64, 64), stages=(1, 1, 1, 1), embed_dim=16, num_classes=5)
    shapes = FeatureReader(hiera, torch.randn(2, 3, 64, 64)).shapes
    assert shapes.stages == shapes.preactivations == ()
    assert shapes.features == (128, 2, 2)


@pytest.mark.parametrize("size", [32, 16])
def test_what_follows_pooling_is_no_stage(size: int) -> None:
    vgg = VGG([8, "M", 8, "M", 16, "M", 16, "M"], num_classes=5)
    images = torch.randn(2, 3, size, size)
    shapes = FeatureReader(vgg, images).shapes
    assert shapes.pooled == 4096
    assert shapes.stages[-1] == (16, size // 8, size // 8)


# -- networks without timm's contract -----------------------------------------------------------


class Block(nn.Module):
    """A residual block that ends in an activation, given from outside."""

    def __init__(self, channels: int, width: int, activation: Any, residual: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, 2), nn.BatchNorm2d(width))
        self.activation = activation
        self.residual = residual
        nn.init.uniform_(self.bn2.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        return self.activation(y + self.shortcut(x) if self.residual else y)


class Chain(nn.Module):
    """Blocks, a map that no block gives, and a classifier that is called by keyword."""

    def __init__(self, activation: Any, residual: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(3, 4, activation, residual), Block(4, 6, activation, residual))
        self.neck = nn.Conv2d(6, 7, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.pool(self.neck(self.blocks(x))).flatten(1))


@pytest.mark.parametrize(
    ("activation", "residual"),
    [(nn.ReLU(), True), (nn.ReLU(inplace=True), True), (F.relu, False), (torch.relu_, False), (Tensor.relu, False)],
)
def test_an_activation_is_found_however_it_is_called(activation: Any, residual: bool) -> None:
    model = Chain(activation, residual)
    reader = FeatureReader(model.train(), IMAGES)
    assert reader.shapes.preactivations == reader.shapes.stages == ((4, 16, 16), (6, 8, 8))
    reader.want(READABLE)
    found = reader.read(IMAGES)
    for stage, before, norm, block in zip(found.stages, found.preactivations, reader.norms, model.blocks, strict=True):
        assert torch.equal(before.relu(), stage)
        assert before.min() < 0
        assert norm is not None
        assert torch.equal(norm[0], block.bn2.bias)
    found.logits.sum().backward()  # nothing that a graph needs was changed


@pytest.mark.parametrize("activation", [F.relu, lambda x: x.clamp(min=0)])
def test_an_activation_that_cannot_be_found_is_owned_up_to(activation: Any) -> None:
    reader = FeatureReader(Chain(activation), IMAGES, "chain")
    assert len(reader.shapes.stages) == 2
    assert reader.shapes.preactivations == ()
    reader.want(READABLE)
    assert reader.read(IMAGES).preactivations == ()
    with pytest.raises(DistillerError, match=r"reads preactivations, which the student chain does not have"):
        OFD(Setting(reader.shapes, reader.shapes, torch.zeros(3, dtype=torch.long)))


def test_without_the_contract_features_are_the_last_map_of_any_module() -> None:
    model = Chain(nn.ReLU()).eval()
    reader = FeatureReader(model, IMAGES)
    reader.want(["features", "pooled"])
    found, expected = reader.read(IMAGES), run_forward(model, IMAGES)
    assert found.features is not None
    assert reader.shapes.features == found.features.shape[1:] == (7, 8, 8)
    assert torch.equal(found.features.flatten(2), expected.features.rows)
    assert found.pooled is not None
    assert torch.equal(found.pooled, expected.calls[0].inputs)


class Twice(nn.Module):
    """One layer that is run at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layer = nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(self.stem(x)).relu_()).mean((2, 3)))


def test_a_module_that_is_used_twice_is_read_at_the_right_call() -> None:
    model = Twice()
    reader = FeatureReader(model, IMAGES)
    reader.want(["stages"])
    stem = model.stem(IMAGES)
    first = model.layer(stem)
    found = reader.read(IMAGES).stages
    for stage, expected in zip(found, (stem, first, model.layer(first.relu())), strict=True):
        assert torch.equal(stage, expected)


def test_runs_by_others_are_not_kept() -> None:
    model = make("cifar_resnet").eval()
    reader = FeatureReader(model, IMAGES)
    reader.want(READABLE)
    expected = reader.read(IMAGES)
    twin = copy.deepcopy(model)
    model(IMAGES + 1)
    twin(IMAGES + 1)
    assert not reader._caught
    again = reader.read(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(again.stages, expected.stages, strict=True))
    with pytest.raises(RuntimeError):
        reader.read(IMAGES[:, :2])
    assert not reader._caught
    assert not reader._reading


def test_a_teachers_weight_is_not_copied() -> None:
    model = make("cifar_resnet")
    reader = FeatureReader(model, IMAGES)
    reader.want(["pooled", "stages"])
    found = FrozenNetwork(model, Preprocessor((0.0,) * 3, (1.0,) * 3), reader)(IMAGES)
    assert found.weight is not None
    assert found.weight.data_ptr() == model.get_classifier().weight.data_ptr()
    assert found.pooled is not None
    assert not any(each.is_inference() for each in (found.weight, found.pooled, found.logits, *found.stages))


# -- what cannot be read ------------------------------------------------------------------------


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(ReadingError, match=r"pair must give logits \(batch, classes\); it gives tuple"):
        FeatureReader(Pair(), IMAGES, "pair")
    with pytest.raises(ReadingError, match=r"it gives shape \(3, 4, 30, 30\)"):
        FeatureReader(nn.Conv2d(3, 4, 3), IMAGES)
    with pytest.raises(ReadingError, match=r"narrow cannot be run on images of \(3, 32, 32\)"):
        FeatureReader(nn.Linear(7, 2), IMAGES, "narrow")
