"""Spaces over timm: declared ones from Python and YAML, the built-in families, and timm's models by name."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import Architecture, ArchitectureError, Cost, SearchSpace, UnknownNameError, count_cost
from search_spaces.timm_families import TIMM_FAMILIES
from search_spaces.timm_space import TimmSpace, load_space
from search_spaces.timm_zoo import TimmZoo

SMALL_IMAGES: dict[str, Any] = {"num_classes": 10, "input_size": (3, 32, 32)}


def smallest(space: SearchSpace) -> Architecture:
    """The architecture of the first choices."""
    return space.architecture([choices[0] for choices in space.decisions.values()])


def largest(space: SearchSpace) -> Architecture:
    """The architecture of the last choices."""
    return space.architecture([choices[-1] for choices in space.decisions.values()])


# -- the contract -------------------------------------------------------------------------------


class FamilyContract(SearchSpaceContract):
    family: ClassVar[str]
    builds = 1

    def create(self, **options: Any) -> SearchSpace:
        return TIMM_FAMILIES[self.family](**options)


class TestMobileNetV3(FamilyContract):
    family = "timm/mobilenetv3_32"


class TestConvNeXt(FamilyContract):
    family = "timm/convnext_32"


class TestViT(FamilyContract):
    family = "timm/vit_32"


class TestZoo(SearchSpaceContract):
    builds = 2

    def create(self, **options: Any) -> SearchSpace:
        return TimmZoo("resnet10t,vit_tiny_patch16_224,lcnet_035", **{**SMALL_IMAGES, **options})


# -- the built-in families ----------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM_FAMILIES)
def test_a_family_is_described_by_its_size(name: str) -> None:
    factory = TIMM_FAMILIES[name]
    space = factory()
    found = re.search(r"for (\S+): ([\d,]+) of (\S+) to (\S+) M params", (factory.__doc__ or "").splitlines()[0])
    assert found is not None
    image, size, low, high = found.groups()
    assert space.name == name
    assert image == "x".join(map(str, space.input_size[1:]))
    assert size == f"{space.size:,}"
    for architecture, said in ((smallest(space), low), (largest(space), high)):
        assert space.cost(architecture).params / 1e6 == pytest.approx(float(said), rel=0.05)


@pytest.mark.parametrize("name", TIMM_FAMILIES)
def test_a_family_runs_on_images_of_its_size(name: str) -> None:
    space = TIMM_FAMILIES[name](num_classes=7)
    network: Any = space.build(smallest(space)).eval()
    with torch.no_grad():
        features = network.forward_features(torch.randn(1, *space.input_size))
        assert network.forward_head(features).shape == (1, 7)
    if features.ndim == 4:
        assert features.shape[-2:] == ((4, 4) if name.endswith("_32") else (7, 7))


@settings(max_examples=6)
@given(
    name=st.sampled_from([name for name in TIMM_FAMILIES if name.endswith("_32")]),
    rng=st.randoms(use_true_random=False),
    input_size=st.tuples(st.sampled_from([1, 3]), st.sampled_from([32, 48]), st.sampled_from([32, 48])),
)
def test_any_architecture_has_the_cost_of_its_network(
    name: str, rng: random.Random, input_size: tuple[int, int, int]
) -> None:
    space = TIMM_FAMILIES[name](input_size=input_size)
    architecture = space.sample(rng)
    assert space.cost(architecture) == count_cost(space.build(architecture), input_size)


@pytest.mark.parametrize("name", ["timm/resnet_32", "timm/regnet_32", "timm/convnext_32"])
def test_no_block_is_hidden_by_its_start(name: str) -> None:
    """Residual branches that start at zero would make networks of all depths compute the same."""
    space = TIMM_FAMILIES[name]()
    network: Any = space.build(largest(space)).eval()
    images = torch.randn(2, *space.input_size)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        before = network(images)
        for convolution in convolutions[len(convolutions) // 2 :: 5]:
            kept = convolution.weight.clone()
            convolution.weight.zero_()
            assert not torch.allclose(network(images), before, rtol=1e-4)
            convolution.weight.copy_(kept)


# -- costs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attention_is_counted(pool: str) -> None:
    space = TIMM_FAMILIES["timm/vit_32"]()
    depth, width, ratio = 2, 128, 3
    spatial = (32 // 4) ** 2
    tokens = spatial + (pool == "token")
    patches = spatial * 3 * 4 * 4 * width
    projections = tokens * width * 3 * width + tokens * width * width
    products = 2 * tokens * tokens * width
    mlp = 2 * tokens * width * ratio * width
    macs = patches + depth * (projections + products + mlp) + width * 10

    architecture = space.parse(f"patch_size=4,heads=2,depth={depth},mlp_ratio={ratio},pool={pool}")
    assert space.cost(architecture).macs == macs
    assert count_cost(space.build(architecture), space.input_size).macs == macs


class TokenMixer(nn.Module):
    """A network on torch's own attention, whose fast path counters do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def test_torchs_own_attention_is_counted() -> None:
    tokens, width = 5, 16
    macs = tokens * width * 4 * width + 2 * tokens * tokens * width
    assert count_cost(TokenMixer(), (tokens, 4, 4)) == Cost(4 * (width * width + width), macs)


@pytest.mark.parametrize("model", ["resnet10t", "mobilenetv3_small_050", "convnextv2_atto", "vit_tiny_patch16_224"])
def test_skipping_normalisations_changes_no_count(model: str) -> None:
    space = TimmZoo(model)
    network = space.build(smallest(space)).eval()
    # Attention as matrix products, because not every torch version counts its fused kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *space.input_size))
    assert space.cost(smallest(space)).macs == counter.get_total_flops() // 2


# -- spaces of one's own ------------------------------------------------------------------------

YAML = """\
model: convnext_atto
num_classes: 10
input_size: [3, 32, 32]
decisions:
  depths.0: [1, 2]
  dims: [[8, 16, 32, 64], [16, 32, 64, 128]]
  norm: {before: {head_norm_first: true}, after: {head_norm_first: false}}
fixed: {depths: [1, 1, 2, 1], ls_init_value: 1.0}
attributes: {stem.0.stride: 1}
"""


def python_space(**options: Any) -> TimmSpace:
    decisions: dict[str, Any] = {
        "depths.0": [1, 2],
        "dims": [[8, 16, 32, 64], [16, 32, 64, 128]],
        "norm": {"before": {"head_norm_first": True}, "after": {"head_norm_first": False}},
    }
    fixed = {"depths": [1, 1, 2, 1], "ls_init_value": 1.0}
    attributes = {"stem.0.stride": 1}
    return TimmSpace(
        "tiny", "convnext_atto", decisions, fixed=fixed, attributes=attributes, **{**SMALL_IMAGES, **options}
    )


class TestPythonSpace(SearchSpaceContract):
    builds = 1

    def create(self, **options: Any) -> SearchSpace:
        return python_space(**options)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_python_and_yaml_declare_the_same_space(yaml_file: Callable[[str], Path]) -> None:
    space = load_space(yaml_file(YAML))
    assert space.config() == python_space().config()
    assert space.name == "tiny"
    architecture = space.parse("depths.0=2,dims=16-32-64-128,norm=before")
    assert space.arguments(architecture) == {
        "depths": [2, 1, 2, 1],
        "dims": [16, 32, 64, 128],
        "head_norm_first": True,
        "ls_init_value": 1.0,
    }
    network: Any = space.build(architecture)
    assert [len(stage.blocks) for stage in network.stages] == [2, 1, 2, 1]
    assert network.stem[0].stride == (1, 1)
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 3, 3)


def test_options_win_over_the_file(yaml_file: Callable[[str], Path]) -> None:
    space = load_space(yaml_file(YAML), num_classes=3, input_size=(1, 48, 48))
    assert (space.num_classes, space.input_size) == (3, (1, 48, 48))
    assert space.build(smallest(space))(torch.zeros(1, 1, 48, 48)).shape == (1, 3)


def test_a_list_is_made_of_its_entries() -> None:
    space = TimmSpace(
        "entries", "pit_ti_224", {"depth.0": [1], "depth.1": [2], "depth.2": [1, 3], "heads": {3: [1, 1, 2]}}
    )
    assert [space.arguments(a) for a in space] == [{"depth": [1, 2, d], "heads": [1, 1, 2]} for d in (1, 3)]


def test_an_entry_of_a_mapping_is_set() -> None:
    space = TimmSpace("attention", "resnet10t", {"block_args.attn_layer": ["se", "eca"]}, **SMALL_IMAGES)
    se, eca = (space.build(a) for a in space)
    assert {type(m).__name__ for m in se.modules()} - {type(m).__name__ for m in eca.modules()} >= {"SEModule"}


def test_architectures_do_not_share_arguments() -> None:
    space = python_space()
    space.arguments(smallest(space))["depths"].append(9)
    space.arguments(smallest(space))["dims"].append(9)
    assert space.arguments(smallest(space))["depths"] == [1, 1, 2, 1]
    assert space.arguments(smallest(space))["dims"] == [8, 16, 32, 64]


def plain_network(*, width: int, num_classes: int, in_chans: int) -> nn.Module:
    """A network that does not ask for the image's size."""
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )


def test_any_function_can_be_the_model() -> None:
    space = TimmSpace("plain", plain_network, {"width": [4, 8]}, **SMALL_IMAGES)
    assert space.cost(space.parse("width=8")).params == 3 * 9 * 8 + 8 + 8 * 10 + 10
    assert space.config()["model"] == f"{plain_network.__module__}.plain_network"
    assert space.timm_model(smallest(space)) is None


@pytest.mark.parametrize(
    "space",
    [
        TIMM_FAMILIES["timm/vit_32"](input_size=(1, 32, 48)),
        TIMM_FAMILIES["timm/convnext_32"](),
        TIMM_FAMILIES["timm/pit_32"](),
        TimmZoo("vit_tiny_patch16_224", **SMALL_IMAGES),
        TimmZoo("lcnet_035", **SMALL_IMAGES),
    ],
    ids=lambda space: space.name,
)
def test_timm_builds_the_same_network(space: Any) -> None:
    architecture = space.sample(random.Random(0))
    state = torch.get_rng_state()
    name, arguments = space.timm_model(architecture)
    assert torch.equal(state, torch.get_rng_state())
    assert json.loads(json.dumps(arguments)) == arguments
    theirs = timm.create_model(name, **arguments).state_dict()
    torch.set_rng_state(state)
    ours = space.build(architecture).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_timm_cannot_build_by_name_is_not_claimed() -> None:
    assert python_space().timm_model(smallest(python_space())) is None
    nothing = TimmSpace("nothing", "convnext_atto", {"depths.0": [1]}, fixed={"ls_init_value": None, "depths": [2] * 4})
    assert nothing.timm_model(smallest(nothing)) is None


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "resnet19"}, "Unknown timm model 'resnet19'. Did you mean 'resnet1"),
        ({"decisions": {}}, "has no decisions"),
        ({"decisions": {"depth": []}}, "'depth' of 'tiny' has no choices"),
        ({"decisions": {"depth": [2, 2]}}, "'depth' of 'tiny' has a choice twice"),
        ({"decisions": {"depth": "2,3"}}, "'depth' needs a list or a mapping of choices, not '2,3'"),
        ({"decisions": {"depth": 2}}, "'depth' needs a list or a mapping of choices, not 2"),
        ({"decisions": {"depth": [None]}}, "None of 'depth' is not text or a number"),
        ({"decisions": {"pool": ["a,b"]}}, "'a,b' of 'pool' has a comma"),
        ({"decisions": {"a=b": [1]}}, "cannot be called 'a=b'"),
        ({"decisions": {"num_classes": [10, 20]}}, "'num_classes' is an option of the space"),
        ({"decisions": {"size": {"small": {"img_size": 32}}}}, "'img_size' follows the space's input_size"),
        ({"fixed": {"pretrained": True}}, "'pretrained' does not apply"),
        ({"decisions": {"depth": [1], "size": {"s": {"depth": 2}}}}, "'depth' of 'size' is set by 'depth' too"),
        ({"decisions": {"depth": [1]}, "fixed": {"depth": 3}}, "'depth' of 'depth' is set by 'fixed' too"),
        ({"decisions": {"dims": [[1, 2]], "dims.0": [3]}}, "'dims.0' of 'dims.0' is set by 'dims' too"),
        ({"decisions": {"dims.1": [1]}}, "'1' is not an index into a list of 0 entries"),
        ({"decisions": {"dims.4": [1]}, "fixed": {"dims": [1, 2]}}, "'4' is not an index into a list of 2 entries"),
        ({"decisions": {"dims.0": [1]}, "fixed": {"dims": 8}}, "'0' is asked of 8, which is not a list"),
        ({"fixed": {"norm_layer": nn.ReLU()}}, "fixed: 'norm_layer' is ReLU()"),
    ],
)
def test_what_cannot_be_is_refused_at_once(changed: dict[str, Any], message: str) -> None:
    arguments = {"name": "tiny", "model": "resnet10t", "decisions": {"width": [1, 2]}, **changed}
    with pytest.raises(ValueError, match=re.escape(message)):
        TimmSpace.from_mapping(arguments)


def test_an_argument_that_the_model_lacks_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"typo: timm's model resnet10t has no option 'stemwidth'.*'stem_width'"):
        TimmSpace("typo", "resnet10t", {"stemwidth": [16, 32]}, **SMALL_IMAGES)
    space = TimmSpace("typo", timm.models.resnet10t, {"depht": [1, 2]}, **SMALL_IMAGES)
    for attempt in (space.build, space.cost):
        with pytest.raises(TypeError, match=r"resnet10t does not take the arguments depht: .*'depht'"):
            attempt(smallest(space))


def test_an_attribute_that_the_network_lacks_is_named() -> None:
    for path in ("stem.conv.stride", "maxpool.strides"):
        space = TimmSpace("typo", "resnet10t", {"layers.0": [1]}, fixed={"layers": [1] * 4}, attributes={path: 1})
        with pytest.raises(ValueError, match=f"ResNet has no attribute '{path}'"):
            space.build(smallest(space))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "is not a YAML file"),
        ("- model", "holds no mapping"),
        ("model: !!python/object/apply:os.getcwd []", "is not a YAML file"),
        ("model: resnet10t", "there is no decisions"),
        ("modle: resnet10t", "no 'modle'; near: model"),
        ("{model: resnet10t, decisions: [depth]}", "'decisions' of a timm space must be a mapping"),
        ("{model: resnet19, decisions: {a: [1]}}", "Unknown timm model 'resnet19'"),
        ("{model: resnet10t, decisions: {a: [1]}, num_classes: 0}", "num_classes is 0"),
    ],
)
def test_a_bad_file_is_refused_by_its_name(yaml_file: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"tiny\.yaml.*{re.escape(message)}"):
        load_space(yaml_file(text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_space(tmp_path / "none.yaml")


# -- timm's models by name ----------------------------------------------------------------------


def test_patterns_select_models() -> None:
    assert TimmZoo("resnet1*").decisions["model"] == tuple(timm.list_models("resnet1*"))
    both = TimmZoo("lcnet_*, tinynet_?", exclude="*_1*")
    assert both.decisions == TimmZoo(["lcnet_*", "tinynet_?"], exclude=["*_1*"]).decisions
    assert {"lcnet_035", "tinynet_e"} < set(both.decisions["model"])
    assert "lcnet_100" not in both.decisions["model"]
    assert TimmZoo().size == len(set(timm.list_models()) - {"searched_network"})


def test_a_model_is_written_as_its_name() -> None:
    space = TimmZoo("lcnet_*")
    assert str(space.parse("lcnet_050")) == "lcnet_050"
    with pytest.raises(ArchitectureError, match="'lcnet_051' is no choice of 'model'; near: lcnet_"):
        space.parse("lcnet_051")


def test_messages_do_not_list_a_thousand_models() -> None:
    for attempt in (lambda: TimmZoo().parse("qqqq"), lambda: TimmZoo().architecture(["qqqq"])):
        with pytest.raises(ArchitectureError, match=r"and \d+ more") as caught:
            attempt()
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("pattern", "exclude", "message"),
    [
        ("resnet19", (), "No timm model matches 'resnet19'. Did you mean 'resnet1"),
        ("lcnet_*,resnet19*", (), "No timm model matches 'resnet19*'"),
        ("lcnet_*", "lcnet*", "No timm model is left of lcnet_* without lcnet*"),
        ("", (), "needs a pattern"),
    ],
)
def test_a_pattern_without_models_is_refused(pattern: str, exclude: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TimmZoo(pattern, exclude)


def test_unknown_models_have_their_own_error() -> None:
    for attempt in (lambda: TimmZoo("resnet19"), lambda: TimmSpace("typo", "resnet19", {"depth": [1]})):
        with pytest.raises(UnknownNameError):
            attempt()
