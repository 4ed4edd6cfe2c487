"""Trained students on disk: whatever is damaged is named, and nothing is read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from diswot_search.networks.network import create_teacher
from diswot_search.networks.saved import ModelCard, load_student, read_card, save_student
from diswot_search.resolve.networks import as_network
from diswot_search.resolve.sources import as_sources
from search_spaces import UntrustedCodeError, create_space, list_spaces

REPAIR = r"delete the folder of the student and run the same training again, which makes it anew from best\.safetensors"


def saved(folder: Path, seed: int = 0) -> nn.Module:
    network = as_network("cifar_resnet", num_classes=3, arch="1x2-1x2")
    model = network.build(seed).eval()
    save_student(model, network.card((3, 16, 16), (0.5,) * 3, (0.25,) * 3), folder)
    return model


def flip(file: Path, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def bits_of(file: Path) -> int:
    return 8 * file.stat().st_size


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_anywhere_in_the_weights_is_noticed(share: float, tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "student.safetensors"
    flip(file, int(share * bits_of(file)))
    with pytest.raises(ValueError, match=r"student\.safetensors"):
        load_student(tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_damaged_tensor_is_named_by_every_way_to_the_student(share: float, tmp_path: Path) -> None:
    saved(tmp_path / "run" / "student")
    file = tmp_path / "run" / "student" / "student.safetensors"
    start = int.from_bytes(file.read_bytes()[:8], "little") + 8
    flip(file, int(8 * start + share * (bits_of(file) - 8 * start)))
    message = rf"student\.safetensors is damaged: its checksum does not match its content\..* {REPAIR}"
    arch = {"arch": "1x2-1x2"}
    for read in (
        lambda: load_student(tmp_path / "run"),
        lambda: load_student(file, model=as_network("cifar_resnet", num_classes=3, **arch).build()),
        lambda: as_network(tmp_path / "run", num_classes=3),
        lambda: as_network(tmp_path / "run", num_classes=5, new_classifier=True),
        lambda: as_network("cifar_resnet", num_classes=3, checkpoint=tmp_path / "run", **arch),
        lambda: create_teacher("cifar_resnet", num_classes=3, checkpoint=file, **arch),
        lambda: as_sources([tmp_path / "run"]),
    ):
        before = file.read_bytes()
        with pytest.raises(ValueError, match=message):
            read()
        assert file.read_bytes() == before


@pytest.mark.parametrize("length", [0, 7, 100, -8, -1])
def test_a_file_that_was_cut_is_damaged(length: int, tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "student.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"student\.safetensors is damaged: it cannot be read: .* {REPAIR}"):
        load_student(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"diswot": 3}'])
def test_a_damaged_card_is_named(content: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*\. Nothing was read from it\. .* {REPAIR}"):
        read_card(tmp_path)


def test_a_changed_value_that_timm_reads_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config, indent=1))  # the same values, spaced otherwise
    read_card(tmp_path)
    config["pretrained_cfg"]["mean"][0] = 0.51
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: the part that timm reads .*checksum.* {REPAIR}"):
        load_student(tmp_path)


def test_a_card_that_was_changed_is_not_of_the_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["diswot"]["mean"][0] = 0.51
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="one of them was replaced or damaged"):
        load_student(tmp_path)


def test_a_student_of_version_0_1_0_is_read(tmp_path: Path) -> None:
    model = saved(tmp_path)
    file = tmp_path / "student.safetensors"
    with safe_open(file, "pt") as opened:
        hashes = json.loads(opened.metadata()["diswot"])
    save_file(load_file(file), file, {"card_sha256": hashes["card_sha256"]})
    loaded = load_student(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


def test_equal_students_are_equal_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        saved(tmp_path / name)
    for file in ("student.safetensors", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


# -- timm ---------------------------------------------------------------------------------------

FAMILIES = [name for name in list_spaces() if name.endswith("_32")]
SPACES: list[str | list[str]] = [
    *FAMILIES,
    *("nasbench201", "cifar_resnet", "cifar_resnet_s0"),
    ["cifar_resnet_s0", "timm/resnet_32"],
    ["timm/mobilenetv3_32", "nasbench201"],
]


def saved_from_space(name: str | list[str], folder: Path, **options: Any) -> nn.Module:
    space = create_space(name, num_classes=4, **options)
    architecture = next(iter(space.starts))
    if isinstance(name, list):  # of the space whose networks timm builds by no model of its own
        architecture = next(start for start in space.starts if start.choices[-1].startswith("timm/"))
    network = space.build(architecture).eval()
    stored = json.loads(json.dumps({"recipe": space.recipe, "config": space.config()}))
    card = ModelCard(
        str(architecture),
        *(4, space.input_size, (0.5,) * space.input_size[0], (0.2,) * space.input_size[0]),
        timm=space.timm_model(architecture),
        space=stored | {"architecture": str(architecture)},
    )
    save_student(network, card, folder)
    return network


@pytest.mark.skipif(not hasattr(timm.models._hub, "load_model_config_from_path"), reason="timm before 1.0.16")
@pytest.mark.parametrize("name", SPACES, ids=str)
def test_timm_loads_the_students_of_every_space(name: str | list[str], tmp_path: Path) -> None:
    network = saved_from_space(name, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images), network(images))
    assert torch.equal(load_student(tmp_path)(images), network(images))
    assert loaded.pretrained_cfg["mean"] == [0.5] * 3
    if name in FAMILIES:
        other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2, in_chans=1).eval()
        assert other(images[:, :1]).shape == (2, 2)


def test_an_entry_point_for_stored_architectures_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="searched_network needs `space`"):
        timm.create_model("searched_network")
    saved_from_space("timm/resnet_32", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "searched_network"
    stored = config["model_args"]["space"]
    assert timm.create_model("searched_network", space=stored).get_classifier().out_features == 4
    with pytest.raises(RuntimeError, match="no pretrained weights"):
        timm.create_model("searched_network", pretrained=True, space=stored)
    with pytest.raises(ValueError, match="cannot be made again by name"):
        timm.create_model("searched_network", space=stored | {"recipe": {"name": "no_space"}})
    with pytest.raises(UntrustedCodeError, match=r"os:getcwd"):
        timm.create_model("searched_network", space=stored | {"recipe": {"name": "os:getcwd"}})
    with pytest.raises(ValueError, match="made for images of"):
        timm.create_model("searched_network", space=stored, img_size=64)
