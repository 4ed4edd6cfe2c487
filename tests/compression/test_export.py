"""Trained students as files: what is written is what was trained, for timm, onnxruntime and torch alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from timm.layers import SqueezeExcite
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

import diswot_search as ds
from diswot_search.cli import main
from diswot_search.compression.export import export, export_onnx, export_torch
from diswot_search.compression.exported import TOLERANCE, ExportError
from diswot_search.compression.quantisation import quantise_onnx
from diswot_search.data.splits import Splits
from diswot_search.networks.saved import ModelCard, find_student, load_student, read_card, save_student
from diswot_search.resolve.networks import as_network
from diswot_search.testing.randomness import random_state
from search_spaces import TimmSpace, UnknownNameError, create_space

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
SIZE = (3, 32, 32)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TINY_VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "cell": ("nasbench201", {"arch": CELL, "channels": 4, "cells": 1}),
    "resnet": ("cifar_resnet", {"arch": "1x4-1x8-1x8"}),
    "padded": ("cifar_resnet", {"arch": "1x4-1x8-1x8", "shortcut": "identity", "block": "preactivation"}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}),
    "vit": ("vit_tiny_patch16_224", TINY_VIT),
}


def student(name: str, num_classes: int = 7) -> tuple[nn.Module, ModelCard]:
    """A network in evaluation mode, with statistics of batch normalisation that are not those it began with."""
    model, arguments = NETWORKS[name]
    arguments = arguments | {"num_classes": num_classes}
    network = timm.create_model(model, **arguments)
    with torch.no_grad():
        network.train()(torch.randn(16, *SIZE))
    return network.eval(), ModelCard(name, num_classes, SIZE, MEAN, STD, timm=(model, arguments))


def excited() -> tuple[nn.Module, ModelCard]:
    """One block as MobileNetV3 has them, with hard swish, and squeeze and excitation."""
    block = InvertedResidual(8, 8, act_layer=nn.Hardswish, se_layer=SqueezeExcite)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), block, *head).eval(), ModelCard("excited", 7, SIZE, MEAN, STD)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def onnx_logits(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the stated tolerance: a share of the largest logit, for single precision summed in another order."""
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= TOLERANCE * float(expected.detach().abs().max())


# -- safetensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_student_is_read_back_bit_for_bit_by_us_and_by_timm(name: str, tmp_path: Path) -> None:
    network, card = student(name)
    file = save_student(network, card, tmp_path / "run" / "student")
    images = torch.randn(3, *SIZE)
    expected = network(images)
    for path in (file, file.parent, file.parent.parent):
        loaded = load_student(path)
        assert not loaded.training
        assert torch.equal(loaded(images), expected)
    assert card.timm is not None
    by_path = timm.create_model(card.timm[0], checkpoint_path=str(file), **card.timm[1]).eval()
    assert torch.equal(by_path(images), expected)


@pytest.mark.skipif(not hasattr(timm.models._hub, "load_model_config_from_path"), reason="timm before 1.0.16")
@pytest.mark.parametrize("name", NETWORKS)
def test_timm_makes_it_from_its_folder_alone_and_knows_its_images(name: str, tmp_path: Path) -> None:
    network, card = student(name)
    save_student(network, card, tmp_path)
    images = torch.randn(3, *SIZE)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images), network(images))
    data = resolve_data_config(model=loaded)
    assert (tuple(data["input_size"]), tuple(data["mean"]), tuple(data["std"])) == (SIZE, MEAN, STD)
    assert data["crop_pct"] == 1.0
    assert loaded.get_submodule(loaded.pretrained_cfg["classifier"]) is loaded.get_classifier()
    assert loaded.pretrained_cfg["num_classes"] == loaded.num_classes == 7


@pytest.mark.skipif(not hasattr(timm.models._hub, "load_model_config_from_path"), reason="timm before 1.0.16")
def test_timm_adapts_it_to_other_classes_and_channels(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=1).eval()
    assert loaded(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    kept = [key for key in network.state_dict() if key.endswith("conv2.weight")]
    assert kept
    assert all(torch.equal(loaded.state_dict()[key], network.state_dict()[key]) for key in kept)


@settings(max_examples=25)
@given(
    classes=st.integers(1, 5),
    values=st.lists(st.floats(0.01, 1), min_size=2, max_size=2),
    made_of=st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=3),
)
def test_a_card_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, classes: int, values: list[float], made_of: dict[str, Any]
) -> None:
    labels = tuple(f"class {i}" for i in range(classes))
    card = ModelCard("x", classes, (1, 4, 5), (values[0],), (values[1],), labels=labels, params=5, made_of=made_of)
    folder = tmp_path_factory.mktemp("card")
    save_student(nn.Linear(2, 2), card, folder)
    assert read_card(folder) == card


def test_an_architecture_without_a_name_in_timm_is_made_by_its_space(tmp_path: Path) -> None:
    space = create_space("timm/resnet_32", num_classes=4)
    architecture = next(iter(space))
    network = as_network(architecture, space=space, num_classes=4)
    assert network.timm is None
    model = network.build(1).eval()
    save_student(model, network.card(SIZE, MEAN, STD), tmp_path)
    images = torch.randn(2, *SIZE)
    assert torch.equal(load_student(tmp_path)(images), model(images))


def test_a_space_that_has_no_name_asks_for_the_module(tmp_path: Path) -> None:
    space = TimmSpace("own", timm.models.VisionTransformer, {"depth": [1]}, fixed={"embed_dim": 24, "num_heads": 2})
    network = as_network(next(iter(space)), space=space, num_classes=1000)
    model = network.build()
    save_student(model, network.card((3, 224, 224), MEAN, STD), tmp_path)
    with pytest.raises(ValueError, match=r"cannot be made again by name; build the architecture depth=1"):
        load_student(tmp_path)
    loaded = load_student(tmp_path, model=network.build(seed=9))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_module_of_ones_own_is_filled(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    model = make()
    save_student(model, ModelCard("mine", 3, (3, 2, 2), MEAN, STD), tmp_path)
    with pytest.raises(ValueError, match=r"mine is a module of its own; .*load_student\(path, model="):
        load_student(tmp_path)
    images = torch.randn(2, 3, 2, 2)
    assert torch.equal(load_student(tmp_path, model=make())(images), model(images))


def test_shared_and_strided_weights_are_written_whole(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last))
    model[1].weight = model[0].weight
    file = save_student(model, ModelCard("shared", 4, SIZE, MEAN, STD), tmp_path)
    state = load_file(file)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    before = random_state()
    load_student(tmp_path)
    assert random_state() == before


# -- what is refused ----------------------------------------------------------------------------


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    with pytest.raises(ValueError, match=r"student\.safetensors do not fit .*Tensors missing: .*unexpected: "):
        load_student(tmp_path, model=student("vit")[0])
    with pytest.raises(ValueError, match=r"of another shape: fc\.weight \(7, 8\) instead of \(9, 8\)"):
        load_student(tmp_path, model=student("resnet", num_classes=9)[0])


def damage(file: Path) -> None:
    """A card that contradicts itself, of weights that do not say which one is theirs."""
    weights = file.with_name("student.safetensors")
    save_file(load_file(weights), weights)
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"diswot": config["diswot"] | {"std": [0.0] * 3}}))


def test_weights_and_a_card_of_two_students_are_not_taken_for_one(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    old = (tmp_path / "config.json").read_text()
    save_student(network, replace(card, mean=(0.1, 0.1, 0.1)), tmp_path)
    assert read_card(tmp_path).mean == (0.1, 0.1, 0.1)
    (tmp_path / "config.json").write_text(old)  # as a process that is killed between the two files leaves it
    with pytest.raises(ValueError, match=r"config\.json is not of the weights in .*Save the student again"):
        load_student(tmp_path)
    (tmp_path / "student.safetensors").write_bytes(b"")
    save_file(network.state_dict(), tmp_path / "student.safetensors")  # which do not say whose they are
    assert read_card(tmp_path) == card


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda folder: (folder / "student.safetensors").unlink(), FileNotFoundError, "neither student.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, "weights alone do not say"),
        (lambda folder: (folder / "config.json").write_text("{"), ValueError, "is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), ValueError, "not the configuration of a student"),
        (lambda folder: (folder / "config.json").write_text('{"diswot": {}}'), ValueError, "is not of the weights"),
        (lambda folder: damage(folder / "config.json"), ValueError, r"config\.json is damaged: resnet: .* std is"),
        (lambda folder: (folder / "student.safetensors").write_bytes(b"x"), ValueError, "cannot be read"),
    ],
)
def test_what_is_missing_or_damaged_is_said(
    break_it: Callable[[Path], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    break_it(tmp_path)
    with pytest.raises(error, match=message):
        load_student(tmp_path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_student(tmp_path / "absent")


def test_a_name_that_timm_no_longer_has_is_answered_with_near_ones(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, replace(card, timm=("cifar_resnett", {})), tmp_path)
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'cifar_resnet'"):
        load_student(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, float("inf"), 0.2)},
        {"mean": (float("nan"),) * 3},
        {"mean": (0.5,)},
        {"std": (0.5,) * 4},
        {"input_size": (32, 32)},
        {"labels": ("a", "b")},
    ],
)
def test_a_card_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"x: "):
        replace(ModelCard("x", 7, SIZE, MEAN, STD), **wrong)


def test_a_card_that_json_cannot_say_leaves_no_files(tmp_path: Path) -> None:
    network, card = student("resnet")
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_student(network, replace(card, made_of={"x": object()}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- ONNX and torch.export ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cell", "padded", "excited", "vit"])
def test_an_onnx_file_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    network, card = excited() if name == "excited" else student(name)
    before = random_state()
    report = export_onnx(network, tmp_path / "x.onnx", card=card, normalise=name == "padded")
    assert random_state() == before
    assert report.difference is not None
    assert report.difference <= TOLERANCE
    assert report.bytes == (tmp_path / "x.onnx").stat().st_size
    for batch_size in (1, 3, 8):
        images = torch.rand(batch_size, *SIZE)
        given_images = images if name == "padded" else normalised(images)
        assert_close(onnx_logits(tmp_path / "x.onnx", given_images), network(normalised(images)))
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("name", ["cell", "vit"])
def test_a_program_of_torch_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    network, card = student(name)
    real = torch.rand(5, *SIZE)
    before = random_state()
    report = export_torch(network, tmp_path / "x.pt2", card=card, normalise=name == "cell", images=real)
    assert random_state() == before
    assert report.checked == 1 + 2 + 7 + 5
    program = torch.export.load(tmp_path / "x.pt2").module()
    for batch_size in (1, 3, 8):
        images = torch.rand(batch_size, *SIZE)
        given_images = images if name == "cell" else normalised(images)
        assert_close(program(given_images), network(normalised(images)))


def test_the_files_say_what_they_are(exported: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert metadata["name"] == "brightest"
    said = {key: json.loads(metadata[key]) for key in ("labels", "mean", "std", "input_size", "normalised")}
    assert said == {
        "labels": ["red", "green", "blue"],
        "mean": [0.4] * 3,
        "std": [0.25] * 3,
        "input_size": [3, 8, 8],
        "normalised": False,
    }


def test_the_module_that_is_exported_stays_as_it_is(tmp_path: Path) -> None:
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 7, 1), nn.BatchNorm2d(7), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    card = ModelCard("plain", 7, SIZE, MEAN, STD)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export_torch(network, tmp_path / "x.pt2", card=card)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class BatchBound(nn.Module):
    """Takes images one by one, as many as it was traced with."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([image.mean((1, 2)) for image in images])


class Random(nn.Module):
    """Is another function each time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) + torch.rand(3)


@pytest.mark.parametrize(
    ("function", "network"), [(export_onnx, BatchBound()), (export_torch, BatchBound()), (export_torch, Random())]
)
def test_what_cannot_be_exported_leaves_no_file(
    function: Callable[..., Any], network: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("before")
    with pytest.raises(ExportError) as caught:
        function(network, tmp_path / "x", card=ModelCard("odd", 3, SIZE, MEAN, STD))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "x").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


# -- int8 and accuracy --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured() -> Splits:
    """Images whose class is the brightest channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randint(0, 150, (240, 3, 8, 8), generator=generator)
    images[torch.arange(240), labels] += 100
    return Splits.from_arrays((images.to(torch.uint8), labels), mean=[0.4] * 3, std=[0.25] * 3)


def brightest(coloured: Splits) -> tuple[nn.Module, ModelCard]:
    """A convolution and a classifier that tell the brightest channel."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    state = {"0.weight": torch.eye(3)[:, :, None, None], "0.bias": torch.zeros(3), "3.bias": torch.zeros(3)}
    network.load_state_dict(state | {"3.weight": torch.eye(3)})
    return network.eval(), ModelCard("brightest", 3, coloured.input_size, coloured.mean, coloured.std)


@pytest.fixture(scope="module")
def exported(coloured: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network above as ONNX."""
    network, card = brightest(coloured)
    path = tmp_path_factory.mktemp("exported") / "x.onnx"
    export_onnx(network, path, card=replace(card, labels=("red", "green", "blue")))
    return path


def test_int8_is_within_its_steps_of_the_network(coloured: Splits, exported: Path, tmp_path: Path) -> None:
    network, _ = brightest(coloured)
    images = torch.rand(20, 3, 8, 8)
    report = quantise_onnx(exported, tmp_path / "q.onnx", images)
    assert (report.format, report.path, report.tolerance) == ("int8", tmp_path / "q.onnx", None)
    assert (report.bytes, report.float_bytes) == ((tmp_path / "q.onnx").stat().st_size, exported.stat().st_size)
    inputs = (images - 0.4) / 0.25
    with torch.no_grad():
        logits = network(inputs)
    difference = float((onnx_logits(tmp_path / "q.onnx", inputs) - logits).abs().max())
    assert report.difference == pytest.approx(difference / float(logits.abs().max()), rel=1e-3)
    # The input has 255 steps between its extremes, and so have the pooled values between theirs and zero; each is off
    # by half a step, the classifier's weights by half of 1/127.
    assert difference <= 0.5 * float(inputs.max() - inputs.min()) / 255 * 2 + float(logits.max()) / 254


@pytest.mark.parametrize(("format", "name"), [("onnx", "student.onnx"), ("torch", "student.pt2")])
def test_accuracy_is_that_of_the_file(
    format: str, name: str, coloured: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, card = brightest(coloured)
    with torch.no_grad():
        network.get_parameter("3.bias")[2] = -9
    read = []
    batches = coloured.test.batches
    monkeypatch.setattr(coloured.test, "batches", lambda *options, **more: read.append(1) or batches(*options, **more))
    report = export(network, format, f"{tmp_path}/new/", card=card, dataset=coloured)
    assert len(read) == 1  # for both of them
    order, device = torch.arange(len(coloured.test)), torch.device("cpu")
    images, labels, _ = next(iter(coloured.test.batches(order, 999, device=device, augment=None, seed=0)))
    expected = 100 * float((network((images - 0.4) / 0.25).argmax(1) == labels).double().mean())
    assert report.path == tmp_path / "new" / name
    assert report.accuracy == report.float_accuracy == pytest.approx(expected)
    assert expected < 100
    assert report.lost == 0


def test_int8_states_what_the_file_loses_and_is_calibrated_on_training_images(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 250, (60, 1, 1, 1), generator=generator).repeat(1, 3, 8, 8)
    images[torch.arange(60), labels, :4] += 1  # half a step of the pooled values, which int8 cannot tell
    images = images.to(torch.uint8)
    darker = (images.clamp(max=200), labels)
    darker[0][0] = torch.linspace(0, 200, 64).byte().view(8, 8)
    darker[0][:, :, -1, -1] = torch.arange(60)[:, None]  # none of them is one to test on
    splits = Splits.from_arrays(darker, val=(images, labels), test=(images, labels), mean=[0.4] * 3, std=[0.25] * 3)
    network, card = brightest(splits)
    report = export(network, "int8", tmp_path, card=card, dataset=splits, batch_size=5)
    path = tmp_path / "student.int8.onnx"
    inputs = (images / 255 - 0.4) / 0.25
    found = torch.cat([onnx_logits(path, batch) for batch in inputs.split(5)]).argmax(1)
    assert report.accuracy == pytest.approx(100 * float((found == labels).double().mean()))
    assert report.float_accuracy == 100.0
    assert report.lost == 100.0 - report.accuracy > 0
    assert report.samples == 60
    assert f"{report.lost:.2f} points lost" in str(report)
    assert "1.50 points gained" in str(replace(report, accuracy=99.5, float_accuracy=98.0))
    graph = onnx.load(path).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "images")
    scale = next(onnx.numpy_helper.to_array(value) for value in graph.initializer if value.name == first.input[1])
    # 255 steps from the darkest to the brightest training image; single precision.
    assert float(scale) * 255 == pytest.approx(200 / 255 / 0.25, rel=1e-5)


def test_a_student_is_exported_beside_its_weights(tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path / "student")
    report = export(tmp_path, "torch")
    assert report.path == tmp_path / "student" / "student.pt2"
    assert report.lost is None
    images = torch.randn(2, *SIZE)
    assert_close(torch.export.load(report.path).module()(images), network(images))
    assert torch.equal(load_student(tmp_path)(images), network(images))  # nothing there was disturbed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training on data that is divided in a way of its own."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diswot_search.jobs.training_run.plot_training", lambda rows, result: {})
        ds.train(
            *("cifar_resnet", "digits"),
            model_options={"arch": "1x4-1x8-1x8"},
            epochs=1,
            batch_size=40,
            data_options={"image_size": 8, "seed": 3, "test_share": 0.5, "train_limit": 80},
            seed=4,
            out=out,
            progress=False,
        )
    return out


def test_the_data_it_was_trained_on_is_divided_as_it_was_then(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = json.loads((trained / "result.json").read_text())["test"]
    report = export(trained, "torch", tmp_path / "x.pt2", dataset="digits")
    assert (report.float_accuracy, report.samples) == (pytest.approx(tested["accuracy"]), tested["samples"])
    assert tested["samples"] > 800  # half of them, which is not the usual share
    assert main(["export", str(trained), "--format=torch", f"--out={tmp_path / 'y.pt2'}", "--dataset=digits"]) == 0
    assert f"{tested['accuracy']:.2f} % in float32" in capsys.readouterr().out
    fewer = export(trained, "torch", tmp_path / "x.pt2", dataset="digits", data_options={"test_share": 0.1})
    assert 170 < fewer.samples < 190


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("photos", {"train_split": "."}),
        ("photos", {"root": "elsewhere", "resident_limit": 0}),
        ("folder/photos", {"mean": 0.4, "std": 0.2}),
    ],
)
def test_the_data_options_of_the_training_stand_again_for_its_own_data(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diswot_search.jobs.training_run.plot_training", lambda rows, result: {})
    drawn = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / options.get("root", "") / "photos" / label
        folder.mkdir(parents=True)
        for index in range(20):
            Image.fromarray(drawn.integers(0, 4000, (20, 22 + index % 3), dtype=np.uint16)).save(
                folder / f"{index}.png"
            )
    given = {"image_size": 16, "grey_range": [0, 4095], "train_limit": 20, "seed": 2, "test_share": 0.3, "workers": 0}
    ds.train(
        *("cifar_resnet", name),
        model_options={"arch": "1x4-1x4"},
        data_options=given | options,
        epochs=1,
        batch_size=10,
        out="run",
        progress=False,
    )
    tested = json.loads(Path("run/result.json").read_text())["test"]
    assert main(["export", "run", "--format=torch", f"--dataset={name}"]) == 0
    report = export("run", "torch", "again.pt2", dataset=name)
    assert (report.float_accuracy, report.samples) == (pytest.approx(tested["accuracy"]), tested["samples"])
    more = export("run", "torch", "again.pt2", dataset=name, data_options={"test_share": 0.4})
    assert more.samples == 16


def test_other_images_under_the_name_of_those_of_the_training_are_refused(trained: Path, tmp_path: Path) -> None:
    card = read_card(trained)
    data = card.made_of["data"] | {"fingerprint": "0" * 64}
    options: dict[str, Any] = {"card": replace(card, made_of={"data": data}), "dataset": "digits"}
    with pytest.raises(ValueError, match="not those that cifar_resnet was trained and tested on"):
        export(load_student(trained), "torch", tmp_path / "x.pt2", **options)
    assert not list(tmp_path.iterdir())


def test_other_data_is_of_the_size_of_the_networks_images(coloured: Splits, tmp_path: Path) -> None:
    network, card = brightest(coloured)
    members = {"train_images": np.zeros((30, 9, 9, 3), np.uint8), "train_labels": np.arange(30) % 3}
    np.savez(tmp_path / "set.npz", **members)
    options = {"root": tmp_path, "mean": 0.4, "std": 0.25}
    report = export(network, "torch", tmp_path / "x.pt2", card=card, dataset="set.npz", data_options=options)
    assert report.samples == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "Did you mean 'onnx'"),
        ({"format": "int8"}, "give `dataset`"),
        ({"card": None}, "needs a `card`"),
        ({"out": None}, "pass `out=`"),
        ({"data_options": {"seed": 1}}, "data_options are for a data set that is given by its name"),
        ({"format": "onnx", "opset": 99}, "opset is 99; the newest .* is"),
        ({"format": "onnx", "opset": 0}, "opset is 0"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
        ({"format": "int8", "dataset": "digits", "calibration": 0}, "calibration is 0"),
    ],
)
def test_a_call_that_cannot_be_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    network, card = student("resnet")
    given_options = {"format": "torch", "out": tmp_path / "x", "card": card} | options
    with pytest.raises(ValueError, match=message):
        export(network, **given_options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["student.safetensors", "config.json"])
def test_the_students_own_files_are_not_written_over(out: str, tmp_path: Path) -> None:
    network, card = student("resnet")
    save_student(network, card, tmp_path)
    with pytest.raises(ValueError, match=f"{out} is a file of the student itself"):
        export(tmp_path, "torch", tmp_path / "." / out)
    assert read_card(tmp_path) == card


def test_data_of_other_classes_is_refused(coloured: Splits, tmp_path: Path) -> None:
    network, card = student("resnet")
    with pytest.raises(ValueError, match=r"arrays has 3 classes, but resnet is for 7"):
        export(network, "onnx", tmp_path, card=card, dataset=coloured)
    others = replace(card, num_classes=3, input_size=(3, 9, 9))
    with pytest.raises(ValueError, match=r"arrays has images of \(3, 8, 8\), but resnet is for \(3, 9, 9\)"):
        export(network, "onnx", tmp_path, card=others, dataset=coloured)
    with pytest.raises(TypeError, match=r"dataset is a tuple; it must be Splits or a text"):
        export(network, "onnx", tmp_path, card=card, dataset=(torch.rand(2, 3, 8, 8), torch.zeros(2)))  # type: ignore[arg-type]


def test_an_opset_that_the_exporter_does_not_keep_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network, card = student("resnet")
    with pytest.raises(ExportError, match="cannot be exported with opset 3"):
        export_onnx(network, tmp_path / "x.onnx", card=card, opset=3)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network, card = student("resnet")
    monkeypatch.setattr(torch.export, "export", None)  # which is not come to
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "x.pt2"):
        with pytest.raises(ExportError, match=f"Cannot write {place}: "):
            export_torch(network, place, card=card)
    with pytest.raises(ExportError, match=r"Cannot write .*: Not a directory"):
        export(network, "torch", tmp_path / "file" / "sub" / "x.pt2", card=card)


def test_images_that_cannot_calibrate_are_refused(exported: Path, tmp_path: Path) -> None:
    for images in (torch.rand(0, 3, 8, 8), torch.rand(4, 3, 9, 9), torch.rand(3, 8, 8)):
        with pytest.raises(ValueError, match="images are of shape"):
            quantise_onnx(exported, tmp_path / "q.onnx", images)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    network, card = student("resnet")
    with pytest.raises(ImportError, match=r"pip install 'diswot-search\[onnx\]'"):
        export_onnx(network, tmp_path / "x.onnx", card=card)
    assert not list(tmp_path.iterdir())


def test_a_file_holds_weights_and_no_notes_of_this_machine(tmp_path: Path) -> None:
    network = ds.create_teacher("mobilenetv3_small_050", num_classes=10).build(0).eval()
    card = ModelCard("m", 10, (3, 64, 64), (0.5,) * 3, (0.5,) * 3)
    report = export_onnx(network, tmp_path / "m.onnx", card=card, check=False)
    content = (tmp_path / "m.onnx").read_bytes()
    graph = onnx.load_from_string(content).graph
    assert report.bytes == len(content) < report.float_bytes + 300 * len(graph.node)
    assert b"site-packages" not in content
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
