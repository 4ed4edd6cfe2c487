"""Networks of a user's own code: what they are taken for, which arguments they get, and what a card may hand them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import diswot_search as ds
from diswot_search import checks
from diswot_search.cli import main
from diswot_search.networks.saved import read_card
from search_spaces import plugins
from search_spaces.plugins import UntrustedCodeError
from search_spaces.recipes import space_from_recipe
from search_spaces.stored_options import check_own_arguments, check_sizes, storable_arguments

CODE = """
from pathlib import Path

import torch
from torch import nn


def net(num_classes=10, in_chans=3, width=4, weights=None, act="relu", config_file=None):
    if weights is not None or config_file is not None:
        Path("mark").touch()
    body = nn.Conv2d(in_chans, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(width, num_classes))


def seeded(num_classes=10):
    torch.manual_seed(0)
    return net(num_classes)


def loaded(num_classes=10):
    network = seeded(num_classes)
    network[0].weight.data += torch.randn(network[0].weight.shape)
    network[1].running_mean += 0.5
    network[1].weight.data += torch.rand(4)
    return network


def passing(**keywords):
    return net(**keywords)


def classes_only(num_classes=10):
    return net(num_classes)


def passing_classes(width=4, **keywords):
    return classes_only(**keywords)


def swallowing(num_classes=10, **keywords):
    return net(num_classes)


def wide(num_classes=10, width=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, width), nn.Linear(width, width))


def needing(num_classes, width):
    return net(num_classes, width=width)


def failing(num_classes=10):
    raise KeyError("weights")
"""

DATA = "--data_options.image_size 8 --data_options.train_limit 40 --batch_size 20 --epochs 1 --device cpu --quiet"


@pytest.fixture(autouse=True)
def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with own.py in it, whose code is forgotten after the test."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_named", {})
    monkeypatch.setattr(checks, "memory_size", lambda: 25 * 10**9)
    monkeypatch.setattr("diswot_search.jobs.training_run.plot_training", lambda rows, result: {})
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CODE)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("own", "net")):
            del sys.modules[name]


def run(line: str) -> int:
    return main(shlex.split(line))


# -- trained or not -----------------------------------------------------------------------------


def test_code_that_sets_a_seed_is_not_trained() -> None:
    trained = {name: ds.create_teacher(f"own.py:{name}").trained for name in ("net", "seeded", "loaded")}
    assert trained == {"net": False, "seeded": False, "loaded": True}
    assert ds.create_teacher("own.py:seeded", trained=True).trained
    assert not ds.create_teacher("own.py:loaded", trained=False).trained
    assert [source.trained for source in ds.as_sources(["own.py:loaded"])] == [True]


def test_a_seeded_teacher_is_said_to_be_random(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"distill {DATA} --student cifar_resnet20 --teacher own.py:seeded --out run"
    assert run(line) == 0
    assert "random weights" in capsys.readouterr().out
    assert run(f"{line}2 --teacher_options.trained true") == 0
    assert "random weights" not in capsys.readouterr().out


def test_a_batch_of_unlabelled_images_fits_into_memory(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"distill {DATA} --student cifar_resnet20 --sources '[own.py:loaded]' --unlabelled_batch_size 1000000000"
    assert run(line) == 2
    assert "(unlabelled_batch_size, --data_options.image_size) would take 768 GB" in capsys.readouterr().err


# -- arguments that follow from the data --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels"),
    [("passing", 1), ("passing", 3), ("passing_classes", 3), ("swallowing", 3), ("classes_only", 3)],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_keywords_that_code_hands_on_reach_what_takes_them(name: str, channels: int, role: str) -> None:
    network = ds.as_network(f"own.py:{name}", num_classes=5, in_chans=channels, image_size=(8, 8), role=role)
    assert (network.num_classes, network.channels) == (5, channels)
    assert network.build(0)(torch.zeros(2, channels, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("name", ["passing_classes", "swallowing"])
def test_a_network_of_three_channels_is_not_taken_for_one_of_one(name: str) -> None:
    with pytest.raises(ValueError, match="is for 3 channels, but the data has 1"):
        ds.as_network(f"own.py:{name}", num_classes=5, in_chans=1, image_size=(8, 8))


def test_networks_of_torchvision_are_named_in_every_role() -> None:
    pytest.importorskip("torchvision")
    name = "torchvision.models:squeezenet1_1"
    for role in ("student", "teacher"):
        network = ds.as_network(name, num_classes=5, image_size=(32, 32), role=role)
        assert (network.num_classes, network.channels) == (5, 3)
    (source,) = ds.as_sources([{"model": name, "num_classes": 4, "trained": True}])
    assert source.num_classes == 4


def test_a_network_of_torchvision_is_trained_on_the_command_line() -> None:
    pytest.importorskip("torchvision")
    assert run(f"train {DATA} --model torchvision.models:resnet18 --out run") == 0
    assert read_card("run").own == {"name": "torchvision.models:resnet18", "arguments": {"num_classes": 10}}
    assert isinstance(ds.load_student("run"), nn.Module)


def test_the_channels_of_a_teacher_are_those_of_its_file() -> None:
    torch.save(ds.as_network("own.py:net", num_classes=4, in_chans=1).build(3).state_dict(), "grey.pt")
    options: dict[str, Any] = {"role": "teacher", "checkpoint": "grey.pt", "image_size": (8, 8)}
    for name in ("own.py:net", "own.py:passing"):
        network = ds.as_network(name, num_classes=10, **options)
        assert (network.channels, network.num_classes) == (1, 4)
        assert network.build()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    (source,) = ds.as_sources([{"model": "own.py:net", "checkpoint": "grey.pt", "num_classes": 4}])
    assert source.channels == 1
    torch.save(ds.as_network("resnet10t", num_classes=4, in_chans=1).build(3).state_dict(), "timm.pt")
    network = ds.as_network("resnet10t", num_classes=10, **options | {"checkpoint": "timm.pt"})
    assert (network.channels, network.num_classes) == (1, 4)
    assert network.build()(torch.zeros(2, 1, 64, 64)).shape == (2, 4)


# -- what a card hands to code ------------------------------------------------------------------


def crafted(own: object) -> None:
    """The student of another program, without checksums, that code of the user's own makes."""
    model = ds.as_network("own.py:net", num_classes=10).build(0)
    card = ds.ModelCard("s", 10, (3, 8, 8), (0.5,) * 3, (0.5,) * 3, own={"name": "own.py:net", "arguments": {}})
    weights = ds.save_student(model, card, "student")
    config = json.loads(Path("student/config.json").read_text())
    config["diswot"]["own"] = own
    Path("student/config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "IMAGENET1K_V1"}, "'weights' can load trained weights or files"),
        ({"weights": 1}, "'weights' can load trained weights or files"),
        ({"config_file": "a"}, "'config_file' is 'a', which can name a file, an address or code"),
        ({"config_file": ["a"]}, "'config_file' is 'a', which can name a file"),
        ({"act": "../relu"}, "'act' is '../relu', which is no plain word"),
        ({"act": "https://host/x"}, "which is no plain word"),
        ({"act": {"checkpoint": True}}, "'act' can load trained weights or files"),
        ({"act": [1] * 101}, "'act' has 101 entries; it may have 100"),
        ({"width": 10**8}, "width is 100000000; a whole number of a network is at most 1,000,000"),
        ([1], "arguments must be a mapping"),
    ],
)
def test_a_card_hands_code_plain_values_only(
    arguments: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    crafted({"name": "own.py:net", "arguments": arguments})
    ds.import_code("own.py:net")
    with pytest.raises(ValueError, match=re.escape(message)):
        ds.load_student("student")
    assert run("export student --imports own.py:net") == 2
    assert message in capsys.readouterr().err
    assert not Path("mark").exists()


def test_plain_arguments_of_a_card_reach_the_code() -> None:
    plain = {"num_classes": 10, "width": 4, "weights": None, "act": "relu6", "config_file": None}
    crafted({"name": "own.py:net", "arguments": plain})
    ds.import_code("own.py:net")
    assert isinstance(ds.load_student("student"), nn.Sequential)
    check_own_arguments({"drop_path_rate": 0.1, "depths": [2, 2], "stages": {"state_dim": 16}, "bias": True}, "It")


@pytest.mark.parametrize("name", ["own.py:net", "torchvision.models:resnet18"])
def test_the_recipe_of_a_space_hands_code_plain_values_only(name: str) -> None:
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    ds.import_code(name)
    with pytest.raises(UntrustedCodeError, match="'weights' can load trained weights"):
        space_from_recipe({"name": name, "weights": "IMAGENET1K_V1"})
    assert not Path("mark").exists()


def test_a_card_is_written_without_arguments_that_it_may_not_hold() -> None:
    assert storable_arguments({"weights": "x", "width": 4, "act": "a/b"}) == {"width": 4}
    network = ds.as_network("own.py:net", num_classes=3, in_chans=3, weights="IMAGENET1K_V1", width=6)
    arguments = {"num_classes": 3, "in_chans": 3, "width": 6}
    assert network.card((3, 8, 8), (0.5,) * 3, (0.5,) * 3).own == {"name": "own.py:net", "arguments": arguments}
    other = ds.as_network("own.py:net", num_classes=3, config_file="a.yaml")
    with pytest.warns(UserWarning, match="does not hold its argument config_file"):
        other.card((3, 8, 8), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "own.py:failing fails with {}: KeyError: 'weights' (own.py, line"),
        ("needing", "own.py:needing fails with {}: TypeError: needing() missing 2 required"),
        ("torch", "own.py:torch is a module; a network is made by a class or function"),
    ],
)
def test_code_of_a_card_that_fails_is_one_line(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    crafted({"name": f"own.py:{name}", "arguments": {}})
    assert run(f"export student --imports own.py:{name}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    with pytest.raises(ds.OwnCodeError, match=re.escape(message)):
        ds.load_student("student")


# -- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model vit_tiny_patch16_224 --model_options.depth 100000000", "depth is 100000000; a network has at most"),
        ("--model vit_tiny_patch16_224 --model_options.embed_dim 100000000", "embed_dim is 100000000; a whole number"),
        (
            "--model vit_tiny_patch16_224 --model_options '{embed_dim: 90000, num_heads: 3}'",
            "The network vit_tiny_patch16_224: its weights would take",
        ),
        ("--model own.py:wide --model_options.width 90000", "The network own.py:wide: its weights would take 32.4 GB"),
        ("--model own.py:net --model_options.width 100000000", "width is 100000000; a whole number of a network"),
        ("--model resnet18 --model_options.block_args '{reduction: 5000000}'", "reduction is 5000000; a whole number"),
    ],
)
def test_whole_numbers_beyond_any_network_are_refused(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"train {DATA} {line}") == 2
    assert message in capsys.readouterr().err


def test_sizes_are_bounded_at_any_depth_but_seeds_are_not() -> None:
    check_sizes({"depth": 2000, "embed_dim": 1_000_000, "seed": 2**40, "layer_seed": 2000, "rate": 1e9}, "It")
    for options in ({"depths": [2, 2001]}, {"a": {"num_layers": 20_000}}, {"a": [[1_000_001]]}):
        with pytest.raises(ValueError, match=r"at most [12],"):
            check_sizes(options, "It")
    with pytest.raises(ValueError, match="depth is 100000000; a network has at most 2,000 layers"):
        ds.ModelCard(
            "s", 10, (3, 8, 8), (0.5,) * 3, (0.5,) * 3, timm=("vit_tiny_patch16_224", {"depth": 10**8})
        ).build()
