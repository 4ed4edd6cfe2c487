"""Models of other tasks: what they may be given as, and that they see images as they were trained to."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn
from torchvision.transforms import v2

import diswot_search as ds
from diswot_search.data.splits import Splits
from diswot_search.networks.network import Network
from diswot_search.networks.saved import save_student
from diswot_search.readings.network import read_network
from diswot_search.resolve.networks import as_network
from diswot_search.resolve.sources import SourceLike, as_sources
from diswot_search.runtime.seeding import isolated_random_state
from diswot_search.sources.frozen import load_source, source_teacher
from diswot_search.sources.source import SourceError
from search_spaces import UnknownNameError, create_space

from ..trained_weights import as_trained

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
TOKENS: dict[str, Any] = {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2}
SWIN: dict[str, Any] = {
    "img_size": 32,
    "window_size": 1,
    "embed_dim": 6,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 1, 1),
}
VIT: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "depth": 1,
    "embed_dim": 12,
    "num_heads": 2,
    "pretrained": False,
}
SMALL: dict[str, Any] = {"model": "cifar_resnet", "arch": "1x4-1x8"}


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_splits(size: int = 16, channels: int = 3, name: str = "target") -> Splits:
    pixels = random_pixels(40, size, size, channels)
    return Splits.from_arrays((pixels, np.arange(40) % 4), name=name, mean=(0.45,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return make_splits()


@pytest.fixture(scope="module")
def grey() -> Splits:
    return make_splits(channels=1)


def small(seed: int = 0, **options: Any) -> nn.Module:
    with isolated_random_state(seed):
        return as_trained(timm.create_model("cifar_resnet", arch="1x4-1x8", **options))


def saved(folder: Path, seed: int = 0, num_classes: int = 7, size: tuple[int, int, int] = (3, 16, 16)) -> nn.Module:
    """A student in `folder`."""
    options: dict[str, Any] = {"arch": "1x4-1x8", "in_chans": size[0]}
    network = as_network("cifar_resnet", num_classes=num_classes, **options)
    model = network.build(seed).eval()
    save_student(model, network.card(size, MEAN[: size[0]], STD[: size[0]]), folder)
    return model


def one(source: SourceLike) -> Network:
    return as_sources([source])[0]


def quiet(source: SourceLike) -> Network:
    """A source, of whose random weights nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return one(source)


def by_hand(model: nn.Module, images: Tensor, size: tuple[int, int], mean: Any, std: Any) -> Tensor:
    """What a model gives for images between 0 and 1 that torchvision prepares."""
    prepare = v2.Compose([v2.Resize(size, v2.InterpolationMode.BILINEAR, antialias=True), v2.Normalize(mean, std)])
    with torch.no_grad():
        return model(prepare(images))


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -- what a source may be given as --------------------------------------------------------------


@pytest.mark.parametrize("form", ["mnist", "mnist/student", "mnist/student/student.safetensors"])
def test_a_student_tells_all_of_itself(tmp_path: Path, form: str) -> None:
    model = saved(tmp_path / "mnist" / "student", size=(3, 20, 24))
    source = one(str(tmp_path / form))
    assert (source.name, source.num_classes, source.classifier, source.trained) == ("mnist", 7, True, True)
    assert (source.input_size, source.channels, source.mean, source.std) == ((3, 20, 24), 3, MEAN, STD)
    assert same(source.build(), model)


def test_the_run_folder_of_a_pipeline_is_called_as_the_folder(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "distilled" / "student")
    assert one(tmp_path / "run").name == "run"


def test_a_name_of_timm_is_known_with_its_weights() -> None:
    source = one("resnet10t")
    known = timm.get_pretrained_cfg("resnet10t")
    assert (source.name, source.num_classes, source.trained) == ("resnet10t", 1000, True)
    assert (source.input_size, source.mean, source.std) == (known.input_size, known.mean, known.std)
    without = one({"model": "resnet10t", "num_classes": 0})
    assert (without.num_classes, without.classifier) == (0, False)
    grey = one({"model": "resnet10t", "in_chans": 1})
    assert (grey.input_size, grey.channels) == ((1, *known.input_size[1:]), 1)
    assert grey.mean == pytest.approx((np.mean(known.mean),))


def test_pretrained_weights_are_loaded_with_what_is_known_of_them(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with isolated_random_state(1):
        model = as_trained(timm.create_model("resnet10t"))
    torch.save(model.state_dict(), tmp_path / "resnet10t.pth")
    images = torch.rand(3, 3, 16, 16)
    known = timm.get_pretrained_cfg("resnet10t")
    in_file = replace(known, file=str(tmp_path / "resnet10t.pth"))  # in place of timm's own, which are fetched
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, f"resnet10t.{known.tag}", in_file)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "resnet10t", in_file)
    found = load_source(one("resnet10t"), splits)(images)
    assert found.logits is not None
    # As the sums of matrix products are ordered by the libraries beneath.
    torch.testing.assert_close(found.logits, by_hand(model, images, (176, 176), known.mean, known.std))
    features = load_source(one({"model": "resnet10t", "num_classes": 0}), splits)(images)
    assert features.logits is None
    torch.testing.assert_close(features.features, found.features)


@pytest.mark.parametrize("name", ["student.safetensors", "bare.pth"])
def test_a_checkpoint_of_a_network_of_timm(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path / "first", size=(3, 20, 20))
    torch.save(model.state_dict(), tmp_path / "first" / "bare.pth")
    source = one({**SMALL, "checkpoint": str(tmp_path / "first" / name), "num_classes": 7})
    with_card = name == "student.safetensors"
    assert source.name == ("first" if with_card else "bare")
    assert (source.mean, source.std) == ((MEAN, STD) if with_card else (None, None))
    assert source.input_size == ((3, 20, 20) if with_card else (3, 32, 32))
    assert same(source.build(), model)
    given = one(
        {**SMALL, "checkpoint": tmp_path / "first" / name, "num_classes": 7, "mean": 0.5, "std": [0.1, 0.2, 0.3]}
    )
    assert (given.mean, given.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("name", ["student.safetensors", "bare.pth"])
def test_of_any_checkpoint_the_features_alone_may_be_wanted(tmp_path: Path, splits: Splits, name: str) -> None:
    torch.save(saved(tmp_path).state_dict(), tmp_path / "bare.pth")
    whole = {**SMALL, "checkpoint": tmp_path / name, "num_classes": 7, "input_size": (3, 16, 16)}
    images = torch.rand(3, 3, 16, 16)
    features, logits = load_source(one(whole), splits)(images)
    assert logits is not None
    source = one({**whole, "num_classes": 0})
    assert (source.num_classes, source.classifier) == (0, False)
    alone = load_source(source, splits)(images)
    assert alone.logits is None
    assert torch.equal(alone.features, features)
    if name == "student.safetensors":
        assert torch.equal(load_source(one({"model": tmp_path, "num_classes": 0}), splits)(images).features, features)


def test_a_module_is_taken_as_the_data_is_unless_it_is_said_otherwise() -> None:
    model = small(num_classes=5)
    source = one(model)
    assert (source.name, source.num_classes, source.trained) == ("CifarResNet", 5, True)
    assert (source.input_size, source.channels, source.mean, source.std) == (None, 3, None, None)
    given = one({"model": model, "input_size": [3, 24, 24], "mean": MEAN, "std": STD})
    assert (given.input_size, given.mean, given.std) == ((3, 24, 24), MEAN, STD)
    assert one(small(num_classes=5, in_chans=1)).channels == 1


def test_architectures_networks_and_teachers_are_sources(tmp_path: Path) -> None:
    space = create_space("nasbench201", num_classes=6, input_size=(3, 16, 16), channels=4, cells=1)
    network = as_network(CELL, space=space, num_classes=6)
    torch.save(network.build().state_dict(), tmp_path / "cell.pth")
    for model in (CELL, space.parse(CELL)):
        source = one({"model": model, "space": space, "checkpoint": tmp_path / "cell.pth"})
        assert (source.name, source.num_classes, source.input_size) == ("cell", 6, (3, 16, 16))
        assert same(source.build(), network.build())
    assert quiet(network).num_classes == 6
    assert quiet({"model": network, "num_classes": 0}).num_classes == 0
    teacher = ds.create_teacher("cifar_resnet", arch="1x4-1x8", num_classes=5)
    assert quiet(teacher).num_classes == quiet(replace(teacher, num_classes=None)).num_classes == 5
    by_name = quiet({"model": "1-1-1", "space": "cifar_resnet_s0", "num_classes": 3})
    assert by_name.num_classes == 3


def test_sources_are_sources() -> None:
    first = as_sources({"a": small(1), "b": small(2)})
    assert [source.name for source in first] == ["a", "b"]
    again = as_sources(first)
    assert [source.config() for source in again] == [source.config() for source in first]
    assert as_sources([{"model": first[0], "num_classes": 0}])[0].num_classes == 0


def test_the_run_folder_of_a_training_is_a_source_and_the_start_of_another_training(
    splits: Splits, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "progress": False}
    other = Splits.from_arrays((random_pixels(40, 20, 20, 3), np.arange(40) % 3), name="other")
    ds.train("cifar_resnet", other, model_options={"arch": "1x4-1x8"}, out=tmp_path / "other", **options)
    source = one(tmp_path / "other")
    assert (source.name, source.num_classes, source.input_size) == ("other", 3, (3, 20, 20))
    assert (source.mean, source.std) == (other.mean, other.std)
    assert source.trained_on == other.config()
    for place, model in enumerate((tmp_path / "other", source)):
        out = tmp_path / f"target{place}"
        ds.train(model, splits, model_options={"new_classifier": True}, out=out, **options)
        student = one(out)
        assert (student.num_classes, student.mean) == (4, other.mean)
        assert ds.load_student(out)(torch.rand(2, 3, 16, 16)).shape == (2, 4)


# -- names, duplicates and warnings -------------------------------------------------------------


def test_names_are_told_apart_by_folders_and_else_by_numbers(tmp_path: Path) -> None:
    for seed, run in enumerate(("x/mnist", "y/mnist", "usps")):
        saved(tmp_path / run, seed)
    paths = [tmp_path / "x/mnist", tmp_path / "y/mnist", tmp_path / "usps"]
    modules = [small(seed) for seed in range(3)]
    named = as_sources([*paths, *modules])
    assert [source.name for source in named] == [
        *("x/mnist", "y/mnist", "usps"),
        *("CifarResNet", "CifarResNet (2)", "CifarResNet (3)"),
    ]


def test_modules_of_equal_weights_and_other_layers_are_two_sources() -> None:
    plain = as_trained(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
    rectified = nn.Sequential(*plain, nn.ReLU()).eval()
    sources = as_sources({"plain": plain, "rectified": rectified})
    assert [source.name for source in sources] == ["plain", "rectified"]
    with pytest.raises(SourceError, match="The sources plain and again have the same weights"):
        as_sources({"plain": plain, "again": plain})


def test_what_is_there_twice_is_refused_by_both_names(tmp_path: Path) -> None:
    model = saved(tmp_path / "run" / "student")
    file = tmp_path / "run" / "student" / "student.safetensors"
    pairs: list[tuple[SourceLike, SourceLike]] = [
        (tmp_path / "run", file),
        (tmp_path / "run", {**SMALL, "checkpoint": file, "num_classes": 7, "mean": 0.5, "std": 0.5}),
        (model, {"model": model, "num_classes": 0}),
        ("resnet10t", "resnet10t.c3_in1k"),
        ("resnet10t", {"model": "resnet10t", "num_classes": 0}),
        (SMALL, {**SMALL}),
    ]
    for first, second in pairs:
        with pytest.raises(SourceError, match="The sources one and other have the same weights"):
            as_sources({"one": first, "other": second})
    assert len(as_sources(["resnet10t", "resnet18.a1_in1k", "resnet18.a2_in1k"])) == 3


def test_random_weights_are_warned_of_by_name(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="The source resnet18 has random weights") as caught:
        as_sources(["resnet10t", {"model": "resnet18", "pretrained": False}])
    assert len(caught) == 1
    with pytest.warns(
        UserWarning, match="The source mine has random weights.*those of an init.*say so: .*'trained': True"
    ):
        as_sources({"mine": nn.Linear(3, 4)})
    assert as_sources({"mine": {"model": nn.Linear(3, 4), "trained": True}})[0].trained
    with pytest.warns(UserWarning, match="The source CifarResNet comes in training mode; it is taken as trained"):
        assert as_sources({"mine": small().train()})[0].trained
    with pytest.warns(UserWarning, match="The source cifar_resnet20 has random weights"):
        as_sources(["cifar_resnet20"])


# -- what it sees -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (24, 20), (9, 9)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_gives_what_the_network_gives_for_images_prepared_by_hand(
    splits: Splits, size: tuple[int, int], channels_last: bool
) -> None:
    model = small(num_classes=5)
    source = one({"model": model, "input_size": (3, *size), "mean": MEAN, "std": STD})
    frozen = load_source(source, splits, channels_last=channels_last)
    images = torch.rand(5, 3, 16, 16)
    found = frozen(images)
    expected = by_hand(model, images, size, MEAN, STD)
    assert found.logits is not None
    assert found.features.shape == (5, frozen.num_features) == (5, 8)
    assert found.logits.shape == (5, frozen.num_classes) == (5, 5)
    # The same operations in the same order; in another memory order, sums are added in another one.
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if channels_last else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(found.logits, expected, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(model.get_submodule("fc")(found.features), found.logits)
    assert torch.equal(frozen.logits(images), found.logits)


@pytest.mark.parametrize("size", [(24, 20), (9, 9), (32, 32)])
def test_images_are_resized_as_pillow_does_it(splits: Splits, size: tuple[int, int]) -> None:
    frozen = load_source(one({"model": small(), "input_size": (3, *size), "mean": 0.0, "std": 1.0}), splits)
    images = torch.rand(2, 3, 16, 16)
    planes = [
        Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BILINEAR) for plane in images.flatten(0, 1)
    ]
    expected = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).unflatten(0, (2, 3))
    # Pillow's weights are in double precision, torch's in single.
    torch.testing.assert_close(frozen.convert(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [16, 24, 9])
def test_images_are_prepared_as_timm_prepares_them(splits: Splits, size: int) -> None:
    source = one({"model": small(), "input_size": (3, size, size), "mean": MEAN, "std": STD})
    prepare: Any = create_transform((3, size, size), mean=MEAN, std=STD, interpolation="bilinear", crop_pct=1.0)
    pixels = random_pixels(2, 16, 16, 3)
    expected = torch.stack([prepare(Image.fromarray(image)) for image in pixels])
    found = load_source(source, splits).convert(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    # Resized by timm, an image is rounded to whole grey levels, by Pillow once in each direction.
    level = 0.0 if size == 16 else 1 / 255 / min(STD)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 + level)


def test_without_words_on_its_images_it_sees_them_as_the_data_is(splits: Splits) -> None:
    model = small(num_classes=5)
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = model((images - 0.45) / 0.25)
    torch.testing.assert_close(load_source(one(model), splits).logits(images), expected, rtol=0, atol=1e-6)


def test_a_transformer_of_one_size_is_given_images_of_that_size(splits: Splits) -> None:
    source = quiet({**VIT, "num_classes": 6})
    assert source.input_size == (3, 224, 224)
    model = source.build().eval()
    images = torch.rand(2, 3, 16, 16)
    expected = by_hand(model, images, (224, 224), (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(load_source(source, splits).logits(images), expected)
    of_32 = quiet({**VIT, "img_size": 32})
    assert of_32.input_size == (3, 32, 32)
    assert load_source(of_32, splits).num_classes == 1000


def test_a_source_of_one_channel_sees_grey_images(splits: Splits, grey: Splits, tmp_path: Path) -> None:
    model = saved(tmp_path / "grey", size=(1, 16, 16))
    source = one(tmp_path / "grey")
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        expected = model((images - MEAN[0]) / STD[0])
    for given in (images, images.expand(-1, 3, -1, -1)):
        torch.testing.assert_close(load_source(source, grey).logits(given), expected, rtol=0, atol=1e-6)
    module = one(small(in_chans=1))
    assert load_source(module, grey).num_classes == 10
    for each in (source, module):
        with pytest.raises(
            SourceError, match=f"source {each.name} takes grey images, but those of target are in colour"
        ):
            load_source(each, splits)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_pixel_of_colour_is_colour(channel: int) -> None:
    pixels = random_pixels(40, 16, 16, 1).repeat(3, axis=3)
    source = one(small(in_chans=1))
    assert load_source(source, Splits.from_arrays((pixels, np.arange(40) % 4))).num_classes == 10
    pixels[:, 3, 5, channel] ^= 1
    with pytest.raises(SourceError, match="takes grey images"):
        load_source(source, Splits.from_arrays((pixels, np.arange(40) % 4)))


def test_streamed_images_are_looked_at_for_their_colour(tmp_path: Path) -> None:
    for name, channels in (("grey", 1), ("colour", 3)):
        for place in range(16):
            file = tmp_path / name / "train" / f"class{place % 2}" / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_pixels(12, 12, channels, seed=place).squeeze()).save(file)
    grey, colour = (
        ds.create_splits("folder", root=tmp_path / name, resident_limit=0, workers=0, val_share=0.25)
        for name in ("grey", "colour")
    )
    source = one(small(in_chans=1))
    assert load_source(source, grey).num_classes == 10
    with pytest.raises(SourceError, match="takes grey images"):
        load_source(source, colour)


def test_a_reading_may_stand_in_a_graph_and_costs_the_source_none(splits: Splits) -> None:
    frozen = load_source(one(small(num_classes=5)), splits)
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    features, logits = frozen(torch.rand(4, 3, 16, 16))
    assert logits is not None
    head = nn.Linear(8, 5)
    nn.functional.cross_entropy(head(features), logits.softmax(1)).backward()
    assert head.weight.grad is not None


def test_it_is_in_single_precision_under_autocast_too(splits: Splits) -> None:
    frozen = load_source(one({"model": small(num_classes=5).half(), "input_size": (3, 16, 16)}), splits)
    images = torch.rand(4, 3, 16, 16)
    plain = frozen(images)
    with torch.autocast("cpu", torch.bfloat16):
        under = frozen(images)
    assert plain.features.dtype == under.features.dtype == torch.float32
    assert torch.equal(plain.features, under.features)


def test_a_source_in_training_mode_is_run_in_evaluation_mode(splits: Splits) -> None:
    model = small(num_classes=5)
    images = torch.rand(4, 3, 16, 16)
    expected = load_source(one(model), splits).logits(images)
    assert torch.equal(load_source(quiet(model.train()), splits).logits(images), expected)
    assert model.training


def test_random_weights_depend_on_the_name_alone(splits: Splits) -> None:
    state = torch.get_rng_state()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (load_source(quiet(SMALL), splits).logits(images) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


# -- features -----------------------------------------------------------------------------------


class Averaged(nn.Module):
    """Gives the mean of the scores of positions, or of tokens."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 1)  # which is as wide as there are classes, but no classifier
        self.scores: nn.Module = nn.Linear(5, 5) if tokens else nn.Conv2d(5, 5, 1)

    def map_of(self, images: Tensor) -> Tensor:
        found = self.body(images).relu()
        return found.flatten(2).transpose(1, 2) if isinstance(self.scores, nn.Linear) else found

    def forward(self, images: Tensor) -> Tensor:
        scores = self.scores(self.map_of(images))
        return scores.mean(1) if scores.ndim == 3 else scores.mean((2, 3))


@pytest.mark.parametrize("tokens", [False, True])
def test_of_a_classifier_that_is_run_on_positions_the_mean_of_its_inputs_counts(splits: Splits, tokens: bool) -> None:
    model: Any = as_trained(Averaged(tokens))
    images = torch.rand(3, 3, 16, 16)
    source = one({"model": model, "num_classes": 5, "mean": 0.0, "std": 1.0})
    frozen = load_source(source, splits)
    features, logits = frozen(images)
    with torch.no_grad():
        mapped = model.map_of(images)
        torch.testing.assert_close(features, mapped.mean(1) if tokens else mapped.mean((2, 3)))
        assert torch.equal(frozen.logits(images), model(images))
        layer = model.scores
        torch.testing.assert_close(features @ layer.weight.flatten(1).T + layer.bias, logits)


def test_a_convolution_of_torchvision_is_a_classifier(splits: Splits) -> None:
    model = as_trained(torchvision.models.squeezenet1_1(num_classes=6))
    frozen = load_source(one({"model": model, "input_size": (3, 32, 32)}), splits)
    assert (frozen.num_features, frozen.num_classes) == (512, 6)


class Cosine(nn.Module):
    """Compares the mean of its last map, or its flat input, with prototypes, of which no linear layer knows."""

    num_classes = 5

    def __init__(self, mapped: bool) -> None:
        super().__init__()
        self.body: nn.Module = nn.Conv2d(3, 4, 3) if mapped else nn.Flatten()
        self.prototypes = nn.Parameter(torch.randn(5, 4 if mapped else 768))

    def forward(self, images: Tensor) -> Tensor:
        found = self.body(images)
        found = found.mean((2, 3)) if found.ndim == 4 else found
        return nn.functional.cosine_similarity(found[:, None], self.prototypes, dim=2)


def test_without_a_linear_classifier_features_are_the_mean_of_the_last_map_or_the_output(splits: Splits) -> None:
    images = torch.rand(3, 3, 16, 16)
    for mapped in (True, False):
        model = as_trained(Cosine(mapped))
        features, logits = load_source(one({"model": model, "mean": 0.0, "std": 1.0}), splits)(images)
        with torch.no_grad():
            assert logits is not None
            assert torch.equal(logits, model(images))
            torch.testing.assert_close(features, model.body(images).mean((2, 3)) if mapped else logits)


def test_the_mean_of_two_classifiers_is_that_of_their_features(splits: Splits) -> None:
    source = quiet({**VIT, "model": "deit_tiny_distilled_patch16_224", "img_size": 32, "num_classes": 6})
    frozen = load_source(source, splits)
    assert (frozen.num_features, frozen.num_classes) == (24, 6)


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=0), 512),
        (lambda: timm.create_model("resnet10t", num_classes=0, global_pool=""), 512),
        (lambda: timm.create_model("convnext_atto", num_classes=0, global_pool=""), 320),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN, num_classes=0, global_pool=""), 48),
        (lambda: timm.create_model("vit_tiny_patch16_224", **TOKENS, num_classes=0, global_pool=""), 12),
        (lambda: nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9)), 9),
        (lambda: nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Flatten(2)), 196),
    ],
)
def test_of_a_network_without_a_classifier_the_output_is_its_features(
    make: Callable[[], nn.Module], width: int, splits: Splits
) -> None:
    model = as_trained(make())
    source = one({"model": model, "input_size": (3, 32, 32) if hasattr(model, "num_features") else (3, 16, 16)})
    assert not source.classifier
    frozen = load_source(source, splits)
    assert (frozen.num_features, frozen.num_classes) == (width, 0)
    assert frozen(torch.rand(3, 3, 16, 16)).features.shape == (3, width)
    with pytest.raises(SourceError, match="has no classifier, and so gives no predictions"):
        frozen.logits(torch.rand(3, 3, 16, 16))


def test_real_weights_of_cifar10_know_their_task(shared_data: Path) -> None:
    file = next((shared_data / "weights").glob("cifar10_resnet20-*.th"))
    options = {"model": "cifar_resnet20", "shortcut": "identity", "num_classes": 10}
    source = one({**options, "checkpoint": file, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    assert source.name == file.stem
    frozen = load_source(source, make_splits(32))
    assert (frozen.num_features, frozen.num_classes) == (64, 10)
    student = as_network(source, num_classes=4, new_classifier=True)
    assert student.mean == (0.485, 0.456, 0.406)
    assert student.build()(torch.rand(2, 3, 32, 32)).shape == (2, 4)


# -- as the teacher of a search -----------------------------------------------------------------


def test_as_a_teacher_it_has_a_new_classifier_and_sees_a_probe_as_a_source_does(splits: Splits) -> None:
    model = small(num_classes=7)
    source = one({"model": model, "input_size": (3, 24, 20), "mean": MEAN, "std": STD})
    teacher = source_teacher(source, splits)
    images = torch.rand(6, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    labels = torch.arange(6) % 4
    probe = ds.Probe.from_tensors((images - mean) / std, labels, 4)
    probe = replace(probe, origin={**probe.origin, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]})
    readings = read_network(teacher, probe, seed=3)
    features = load_source(source, splits)(images).features
    # As the probe's normalisation is undone in single precision.
    torch.testing.assert_close(readings.pooled, features, rtol=1e-4, atol=1e-5)


def test_a_search_takes_a_source_as_its_teacher(splits: Splits, tmp_path: Path) -> None:
    space = create_space("nasbench201", num_classes=4, input_size=(3, 16, 16), channels=4, cells=1)
    probe = ds.Probe.from_tensors(torch.randn(8, 3, 16, 16), torch.arange(8) % 4, 4)
    teacher = source_teacher(one(as_trained(saved(tmp_path))), splits)
    study = ds.search(
        space, teacher, probe, proxy="diswot", algorithm="random", evaluations=2, seed=0, out=None, progress=False
    )
    assert study.winner.score is not None


def test_a_teacher_says_all_that_tells_it_from_others(splits: Splits) -> None:
    model = small(num_classes=7)
    configs = [
        source_teacher(one({"model": model, **images}), data).config()
        for images, data in (
            ({}, splits),
            ({}, replace(splits, mean=(0.3,) * 3)),
            ({}, replace(splits, num_classes=5)),
            ({"input_size": (3, 24, 24)}, splits),
            ({"mean": MEAN, "std": STD}, splits),
        )
    ]
    assert all(configs.count(config) == 1 for config in configs)
    assert source_teacher(one(model), splits).config() == configs[0]


def test_a_source_whose_body_takes_no_classifier_is_no_teacher(splits: Splits) -> None:
    teacher = source_teacher(one(as_trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))), splits)
    with pytest.raises(SourceError, match="source Sequential cannot be the teacher of a search"):
        teacher.build()


# -- what is refused ----------------------------------------------------------------------------


def test_a_text_alone_is_one_source() -> None:
    (source,) = as_sources("resnet18")
    assert source.config() == one("resnet18").config()


@pytest.mark.parametrize("sources", [nn.Flatten(), None, 3])
def test_a_single_object_is_no_bank(sources: Any) -> None:
    with pytest.raises(SourceError, match="give a list, or a mapping of names"):
        as_sources(sources)


@pytest.mark.parametrize("sources", [[], {}, ()])
def test_an_empty_bank_is_refused(sources: Any) -> None:
    with pytest.raises(SourceError, match="There are no sources"):
        as_sources(sources)


def bad(**options: Any) -> dict[str, Any]:
    return {"model": small(num_classes=5), **options}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("resnet10", UnknownNameError, r"source 'resnet10' is no timm model.*'resnet10t'"),
        ("resnet18.a1_in2k", UnknownNameError, r"source 'resnet18\.a1_in2k'.*'resnet18\.a1_in1k'"),
        ("runs/absent", FileNotFoundError, "source runs/absent is neither a file nor a folder"),
        ({**SMALL, "checkpoint": "absent.pth"}, FileNotFoundError, r"absent\.pth"),
        ({"model": "cifar_resnet20", "pretrained": True}, ValueError, "timm has no pretrained weights for the source"),
        (
            {"model": "resnet10t", "num_classes": 10},
            SourceError,
            "tell 1000 classes apart, not 10; leave num_classes out",
        ),
        (Path("runs/absent"), FileNotFoundError, "source runs/absent is neither a file nor a folder"),
        ("", ValueError, "The source is an empty text"),
        (create_space("cifar_resnet_s0").parse("1-1-1"), ValueError, "give the space that it belongs to"),
        ({"checkpoint": "x.pth"}, SourceError, "needs 'model'"),
        (bad(mean=0.5), SourceError, "mean is 0.5 and std is None; give both"),
        (bad(mean=123.7, std=0.2), SourceError, "mean of the source CifarResNet is 123.7.* full scale: 0 to 1"),
        (bad(mean=0.5, std=0.0), SourceError, r"std of the source CifarResNet is 0\.0"),
        (bad(mean=0.5, std=float("nan")), SourceError, "std of the source CifarResNet is nan"),
        (bad(mean="half", std=0.5), SourceError, "mean of the source CifarResNet is 'half'"),
        (bad(mean=(0.5, 0.5), std=(0.5, 0.5)), SourceError, "it takes 3 channels"),
        (bad(input_size=32), SourceError, "input_size of the source CifarResNet is 32"),
        (bad(input_size=(32, 32)), SourceError, "it must be channels, height and width"),
        (bad(input_size=(3, 0, 32)), SourceError, "it must be channels, height and width"),
        (bad(num_classes=-1), SourceError, "num_classes of a source is -1; it must be a whole number"),
        (bad(checkpoint="x.pth"), ValueError, "The source is an object, not a name"),
        (3, TypeError, "A source cannot be made of int"),
    ],
)
def test_a_source_that_is_given_wrongly_is_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        one(source)


def test_a_student_is_held_to_its_card(tmp_path: Path) -> None:
    saved(tmp_path)
    for model in (tmp_path, {**SMALL, "checkpoint": tmp_path}):
        given = model if isinstance(model, dict) else {"model": model}
        with pytest.raises(SourceError, match="tells 7 classes apart, not 9; leave num_classes out"):
            one({**given, "num_classes": 9})
    with pytest.raises(ValueError, match="has trained weights; checkpoint cannot be set"):
        one({"model": tmp_path, "checkpoint": "x"})
    (tmp_path / "empty").mkdir()
    torch.save({}, tmp_path / "empty" / "bare.pth")
    with pytest.raises(
        FileNotFoundError, match=r"weights alone do not say.*\{'model': NAME, 'checkpoint': '.*bare\.pth'\}"
    ):
        one(tmp_path / "empty" / "bare.pth")
    with pytest.raises(FileNotFoundError, match="holds no network"):
        one(tmp_path / "empty")


def test_what_shows_when_it_is_built_names_the_source(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(timm.get_pretrained_cfg("resnet10t"), file=str(tmp_path / "absent.pth"))
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "resnet10t", absent)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, f"resnet10t.{absent.tag}", absent)
    torch.save(small(num_classes=7).state_dict(), tmp_path / "bare.pth")
    cases: list[tuple[SourceLike, str]] = [
        (
            {**SMALL, "checkpoint": tmp_path / "bare.pth"},
            r"do not fit CifarResNet.*fc\.weight \(7, 8\) instead of \(10, 8\)",
        ),
        ({**VIT, "proj_drop_rate": "x"}, "cannot be built: "),
        ({"model": "resnet10t"}, "The weights of the source mine cannot be loaded: FileNotFoundError"),
        (
            bad(input_size=(3, 1, 1), model=as_trained(timm.create_model("vit_tiny_patch16_224"))),
            "cannot be run on .*Give the input_size",
        ),
        (
            bad(model=as_trained(timm.create_model("vit_tiny_patch16_224", num_classes=0))),
            "cannot be run on .*Give the input_size",
        ),
        (bad(input_size=(2, 16, 16)), "takes images of 2 channels; the data's can be given to it in 3, or in 1"),
        (bad(model=nn.Sequential(small(), nn.Softmax(1)).eval(), num_classes=10), "gives probabilities where logits"),
        (bad(model=nn.Sequential(small(), nn.Unflatten(1, (5, 2)).eval()).eval(), num_classes=10), r"must give logits"),
        (bad(model=Pair(), num_classes=0), "must give one tensor of features"),
        (
            bad(model=as_trained(nn.Sequential(nn.Flatten(), nn.Linear(768, 9))), num_classes=4),
            "declares 4 classes, but returns 9 values",
        ),
    ]
    for source, message in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            named = as_sources({"mine": source})[0]
        with pytest.raises(SourceError, match=f"source mine.*{message}|{message}") as caught:
            load_source(named, splits)
        assert "source mine" in str(caught.value)


class Pair(nn.Module):
    """Gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def test_near_keys_are_named_where_one_is_not_known() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown key of a source 'chekpoint'\. Did you mean 'checkpoint'"):
        as_sources([{"model": nn.Linear(2, 2).eval(), "chekpoint": "x.th"}])
    given = {"model": "resnet18", "pretrained": False, "num_classes": 4, "chekpoint": "x.th"}
    with pytest.raises(UnknownNameError, match=r"'chekpoint'.*Did you mean 'checkpoint'"):
        as_sources([given])
