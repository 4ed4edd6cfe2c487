"""Trained students on disk: whatever is damaged is named, and nothing is read from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from diswot_search.networks.network import create_teacher
from diswot_search.networks.saved import load_student, read_card, save_student
from diswot_search.resolve.networks import as_network
from diswot_search.resolve.sources import as_sources

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
