"""CIFAR ResNets: against published sizes and trained weights, and by what their blocks compute."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import nn

from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import (
    ArchitectureError,
    CifarResNet,
    CifarResNetSpace,
    SearchSpace,
    count_cost,
    create_space,
    load_checkpoint,
)


class TestCifarResNet(SearchSpaceContract):
    changes = (
        *SearchSpaceContract.changes,
        {"block": "bottleneck"},
        {"shortcut": "identity"},
        {"stem": 8},
        {"widths": (16, 32, 64)},
        {"widths": (16, 32, 128)},
        {"depths": ((1, 2), (1, 2), (1, 2))},
    )

    def create(self, **options: Any) -> SearchSpace:
        return create_space("cifar_resnet", **options)


class TestCifarResNetS0(SearchSpaceContract):
    changes = (*SearchSpaceContract.changes, {"shortcut": "identity"})

    def create(self, **options: Any) -> SearchSpace:
        return create_space("cifar_resnet_s0", **options)


# -- the space ----------------------------------------------------------------------------------


def test_s0_is_the_published_space() -> None:
    space = create_space("cifar_resnet_s0", num_classes=100)
    assert space.size == 64
    assert {str(a) for a in space} == {f"{a}-{b}-{c}" for a in (1, 3, 5, 7) for b in (1, 3, 5, 7) for c in (1, 3, 5, 7)}
    assert space.cost(space.parse("7-1-3")).params == 259_892  # published as 259.89 k
    assert space.cost(space.parse("3-3-3")).params == 278_324  # ResNet-20, published as 278.32 k


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preactivation"])
@pytest.mark.parametrize("shortcut", ["projection", "identity"])
@pytest.mark.parametrize("input_size", [(3, 32, 32), (1, 27, 30)])
def test_cost_equals_the_counted_network(block: str, shortcut: str, input_size: tuple[int, int, int]) -> None:
    space = CifarResNetSpace(
        num_classes=7,
        input_size=input_size,
        depths=((1, 2), (1, 3), (1, 2), (1, 2)),
        widths=((4, 8, 32), (2, 8), (8, 16), (16, 6)),
        stem=8,
        block=block,
        shortcut=shortcut,
    )
    rng = random.Random(0)
    for architecture in [space.sample(rng) for _ in range(8)]:
        assert space.cost(architecture) == count_cost(space.build(architecture), input_size)


def test_one_number_for_a_stage_leaves_no_choice() -> None:
    space = CifarResNetSpace(depths=[(1, 2), 3], widths=[4, (8, 16)])
    assert space.size == 4
    assert str(next(iter(space))) == "1x4-3x8"


def test_depths_alone_are_written_where_widths_are_fixed() -> None:
    space = CifarResNetSpace(depths=((1, 2), (3, 4)), widths=((8,), (24,)))
    assert [str(a) for a in space] == ["1-3", "1-4", "2-3", "2-4"]
    network = space.build(space.parse("2-3"))
    assert [len(network.get_submodule(f"layer{i}")) for i in (1, 2)] == [2, 3]
    assert network.num_features == 24


@pytest.mark.parametrize(
    ("space", "text", "message"),
    [
        ("cifar_resnet_s0", "5-5", "there are 3 stages joined by '-', this has 2"),
        ("cifar_resnet_s0", "5-5-4", "'4' is no choice of 'depth3'; allowed: 1, 3, 5, 7"),
        ("cifar_resnet_s0", "5-5-7x64", "'7x64' is no choice of 'depth3'"),
        ("cifar_resnet", "5-5-7", "a stage is blocks x width, such as '3x16'; got '5'"),
        ("cifar_resnet", "5x16-5x32-7x60", "'60' is no choice of 'width3'; allowed: 32, 64, 96, 128"),
    ],
)
def test_malformed_text_says_where(space: str, text: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        create_space(space).parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "basics"}, r"Unknown block 'basics'\. Did you mean 'basic'"),
        ({"shortcut": "none"}, r"Unknown shortcut 'none'\. Known: identity, projection"),
        ({"stem": 0}, "stem: got 0; whole numbers of at least 1"),
        ({"depths": (1, 2)}, "2 depths and 3 widths"),
        ({"depths": (), "widths": ()}, "0 depths and 0 widths"),
        ({"depths": (1, 0, 1)}, r"depths.*: got .*0.*; whole numbers"),
        ({"widths": (16, 32, 1.5)}, r"widths.*: got .*1\.5; whole numbers"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CifarResNet(**({"depths": (1, 1, 1)} | options))
    with pytest.raises(ValueError, match=message):
        CifarResNetSpace(**options)


# -- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "num_features"),
    [  # parameters with 100 classes, as published for the models of the distillation literature
        ("cifar_resnet8", 83_892, 64),
        ("cifar_resnet14", 181_108, 64),
        ("cifar_resnet20", 278_324, 64),
        ("cifar_resnet32", 472_756, 64),
        ("cifar_resnet44", 667_188, 64),
        ("cifar_resnet56", 861_620, 64),
        ("cifar_resnet110", 1_736_564, 64),
        ("cifar_resnet8x4", 1_233_540, 256),
        ("cifar_resnet32x4", 7_433_860, 256),
        ("cifar_wrn_16_1", 180_916, 64),
        ("cifar_wrn_16_2", 703_284, 128),
        ("cifar_wrn_40_1", 569_780, 64),
        ("cifar_wrn_40_2", 2_255_156, 128),
    ],
)
def test_teachers_are_timm_models_of_the_published_size(name: str, params: int, num_features: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=100)
        grey = timm.create_model(name, num_classes=0, in_chans=1, shortcut="identity")
    assert count_cost(model, (3, 32, 32)).params == params
    assert grey(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, model.num_features) == (2, num_features)
    with pytest.raises(RuntimeError, match=f"no pretrained weights for '{name}'"):
        timm.create_model(name, pretrained=True)
    with pytest.raises(RuntimeError, match=f"features_only is not for '{name}'"):
        timm.create_model(name, features_only=True)
    assert resolve_data_config(model=model)["crop_pct"] == 1.0  # small images have no border to cut off


def test_timm_makes_any_architecture() -> None:
    space = create_space("cifar_resnet_s0", num_classes=100)
    torch.manual_seed(1)
    built = space.build(space.parse("5-5-7")).state_dict()
    torch.manual_seed(1)
    made = timm.create_model("cifar_resnet", arch="5-5-7", num_classes=100).state_dict()
    assert built.keys() == made.keys()
    assert all(torch.equal(built[k], made[k]) for k in built)

    free = create_space("cifar_resnet", block="bottleneck", stem=8)
    architecture = free.parse("1x8-2x48-3x32")
    model = timm.create_model("cifar_resnet", arch=str(architecture), block="bottleneck", stem=8)
    assert count_cost(model, (3, 32, 32)) == free.cost(architecture)


@pytest.mark.parametrize("arch", ["", "5-5-", "5x16-5", "0-1-1", "5-x3-1", "a", "5x16x3"])
def test_timm_gets_a_clear_error_for_a_malformed_architecture(arch: str) -> None:
    with pytest.raises(ArchitectureError, match="it must be like '5-5-7' or '5x16-5x32-7x64'"):
        timm.create_model("cifar_resnet", arch=arch)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preactivation"])
def test_shortcuts_without_parameters_subsample_and_pad(block: str) -> None:
    network = CifarResNet((1, 1), (2, 7), stem=4, block=block, shortcut="identity").eval()
    expansion = 4 if block == "bottleneck" else 1
    assert not any("downsample" in key for key in network.state_dict())
    assert count_cost(CifarResNet((1, 1), (2, 7), stem=4, block=block), (3, 8, 8)) != count_cost(network, (3, 8, 8))
    for name, parameter in network.named_parameters():
        if name.startswith("layer"):
            nn.init.zeros_(parameter)  # the residual branch gives zero, and only the shortcut is left
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        features = network.forward_features(x)
        stem = network.act1(network.bn1(network.conv1(x)))
    padding = (7 * expansion - 2 * expansion) // 2
    first = stem[:, 1:3] if expansion == 1 else nn.functional.pad(stem, (0, 0, 0, 0, 2, 2))
    expected = torch.zeros(2, 7 * expansion, 5, 5)
    expected[:, padding : padding + 2 * expansion] = first[:, :, ::2, ::2]
    torch.testing.assert_close(features, network.norm(expected))


def test_a_block_adds_a_projection_to_its_branch() -> None:
    network = CifarResNet((1,), (6,), stem=4).double().eval()
    block = network.layer1[0]
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5  # fresh batch normalisation
    branch = nn.functional.conv2d(x, block.conv1.weight, padding=1) * scale
    branch = nn.functional.conv2d(branch.relu(), block.conv2.weight, padding=1) * scale
    projection = nn.functional.conv2d(x, block.downsample[0].weight) * scale
    torch.testing.assert_close(block(x), (branch + projection).relu())


def test_a_preactivation_block_projects_the_rectified_input() -> None:
    network = CifarResNet((1,), (6,), stem=4, block="preactivation").double().eval()
    block = network.layer1[0]
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5  # fresh batch normalisation
    start = (x * scale).relu()
    branch = nn.functional.conv2d(start, block.conv1.weight, padding=1) * scale
    branch = nn.functional.conv2d(branch.relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), branch + nn.functional.conv2d(start, block.downsample.weight))


def test_weights_are_drawn_by_fan_out() -> None:
    network = CifarResNet((2, 2), (64, 128), stem=64)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name


# -- trained weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar10_test(shared_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """2,000 of CIFAR-10's test images as the trained networks expect them, with their labels."""
    packed = np.load(shared_data / "cifar10-12k.webp.npz")
    stream, offsets = packed["test_webp"].tobytes(), packed["test_offsets"]
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(stream[a:b])).convert("RGB")) for a, b in itertools.pairwise(offsets)]
    )
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalised = (images.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy()), torch.from_numpy(packed["test_labels"]).long()


@pytest.mark.parametrize(
    ("layers", "published", "count"),
    [(20, 91.73, 2000), (32, 92.63, 500), (44, 93.10, 500), (56, 93.39, 500)],
)
def test_trained_weights_reach_their_published_accuracy(
    shared_data: Path, cifar10_test: tuple[torch.Tensor, torch.Tensor], layers: int, published: float, count: int
) -> None:
    """The published figures are on all 10,000 test images; `count` of them stray by 3 binomial deviations at most."""
    (path,) = shared_data.glob(f"weights/cifar10_resnet{layers}-*.th")
    model = timm.create_model(f"cifar_resnet{layers}", shortcut="identity").eval()
    load_checkpoint(model, path)
    images, labels = (t[:count] for t in cifar10_test)
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in images.split(250)])
    accuracy = 100 * (predicted == labels).double().mean().item()
    assert accuracy == pytest.approx(published, abs=3 * (published * (100 - published) / count) ** 0.5)


def test_trained_weights_with_other_shortcuts_do_not_fit(shared_data: Path) -> None:
    (path,) = shared_data.glob("weights/cifar10_resnet20-*.th")
    with pytest.raises(ValueError, match=r"missing: layer2\.0\.downsample\.0\.weight"):
        load_checkpoint(timm.create_model("cifar_resnet20"), path)
