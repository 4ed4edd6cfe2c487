"""Checkpoints: every optimiser of timm goes on as if nothing had been, and files are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from diswot_search.runtime.files import RunFolderError
from diswot_search.training.checkpoint import (
    LAST,
    Checkpoint,
    load_optimizer_state,
    optimizer_state,
    read_checkpoint,
    with_prefix,
    without_prefix,
)
from diswot_search.training.folder import TrainingFolder

OPTIMIZERS = ("momentum", "sgd", "adamw", "nadamw", "lamb", "lars", "lion", "adafactor", "adan", "rmsproptf", "muon")


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    return network.to(memory_format=torch.channels_last)


def step(network: nn.Module, optimizer: Any, number: int) -> None:
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(number))
    network(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def through_a_file(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint.from_bytes(checkpoint.to_bytes())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_goes_on_as_if_nothing_had_been(name: str) -> None:
    network = make_network()
    optimizer = create_optimizer_v2(network, opt=name, lr=0.01, weight_decay=0.1, filter_bias_and_bn=True)
    for number in range(3):
        step(network, optimizer, number)
    tensors, values = optimizer_state(optimizer)
    state = with_prefix("network", network.state_dict()) | with_prefix("optimizer", tensors)
    stored = through_a_file(Checkpoint(state, {"optimizer": values}))
    torch.manual_seed(1)
    other = make_network()
    resumed = create_optimizer_v2(other, opt=name, lr=0.5, weight_decay=0.1, filter_bias_and_bn=True)
    other.load_state_dict(without_prefix("network", stored.tensors))
    load_optimizer_state(resumed, without_prefix("optimizer", stored.tensors), stored.values["optimizer"])
    for number in range(3, 6):
        step(network, optimizer, number)
        step(other, resumed, number)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_state_keeps_the_memory_order_of_its_parameter() -> None:
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    step(network, optimizer, 0)
    tensors, values = optimizer_state(optimizer)
    load_optimizer_state(optimizer, through_a_file(Checkpoint(tensors, {})).tensors, values)
    kernel = next(network.parameters())
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[kernel]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)


def test_tensors_and_values_come_back_as_they_were() -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "a/double": torch.randn(2, dtype=torch.float64),
        "a/half": torch.randn(2).bfloat16(),
        "a/count": torch.tensor(7),
        "b/none": torch.empty(0, 3),
        "b/one": shared,
        "b/tied": shared.T,
    }
    values = {"progress": {"step": 3, "seconds": 0.1 + 0.2, "best": None}, "words": "ü"}
    found = through_a_file(Checkpoint(tensors, values))
    assert found.values == values
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert without_prefix("a", found.tensors).keys() == {"double", "half", "count"}


def test_weights_of_a_network_of_timm_come_back() -> None:
    network = timm.create_model("test_vit", img_size=16, num_classes=4)
    found = through_a_file(Checkpoint(network.state_dict(), {}))
    network.load_state_dict(found.tensors)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_folder_and_memory_keep_the_same(tmp_path: Path, place: str) -> None:
    folder = TrainingFolder({"seed": 0}, tmp_path / "run" if place == "folder" else None)
    assert folder.load(LAST) is None
    for number in (1.0, 2.0):
        folder.save(LAST, Checkpoint({"x": torch.tensor(number)}, {"number": number}))
    found = folder.load(LAST)
    assert found is not None
    assert (float(found.tensors["x"]), found.values) == (2.0, {"number": 2.0})
    for epoch in (1, 2, 2, 3):
        folder.add_row({"epoch": epoch, "loss": 0.5 * epoch})
    assert [row["epoch"] for row in folder.rows] == [1, 2, 3]
    folder.forget_epochs_after(1)
    assert folder.rows == [{"epoch": 1, "loss": 0.5}]
    folder.release()


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = TrainingFolder({"seed": 0}, tmp_path / "run")
    folder.save(LAST, Checkpoint({"x": torch.ones(2)}, {}))

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match="is full"):
            folder.save(LAST, Checkpoint({"x": torch.zeros(2)}, {}))
    found = folder.load(LAST)
    assert found is not None
    assert found.tensors["x"].tolist() == [1, 1]
    assert not list((tmp_path / "run").glob("*.tmp"))
    folder.release()


def damaged(content: bytes) -> dict[str, bytes]:
    header = json.dumps({"__metadata__": {"values": "{"}}).encode()
    return {
        "empty": b"",
        "cut": content[:-3],
        "short": content[:5],
        "zeros": bytes(len(content)),
        "a list": (2).to_bytes(8, "little") + b"[]",
        "no values": (2).to_bytes(8, "little") + b"{}",
        "no JSON": len(header).to_bytes(8, "little") + header,
        "a pickle": b"\x80\x04\x95",
    }


@pytest.mark.parametrize("kind", list(damaged(b"")))
def test_what_is_no_checkpoint_is_named(tmp_path: Path, kind: str) -> None:
    tensors: dict[str, Tensor] = {"x": torch.ones(4)}
    path = tmp_path / LAST
    path.write_bytes(damaged(Checkpoint(tensors, {"a": 1}).to_bytes())[kind])
    with pytest.raises(RunFolderError, match=r"last\.safetensors is damaged .* restore it from a copy"):
        read_checkpoint(path)


def test_a_folder_is_for_one_configuration(tmp_path: Path) -> None:
    TrainingFolder({"recipe": {"lr": 0.1}, "seed": 0}, tmp_path / "run").release()
    TrainingFolder({"recipe": {"lr": 0.1}, "seed": 0}, tmp_path / "run").release()
    with pytest.raises(RunFolderError, match=r"recipe\.lr is 0\.1 there, 0\.2 here"):
        TrainingFolder({"recipe": {"lr": 0.2}, "seed": 0}, tmp_path / "run")
    held = TrainingFolder({"recipe": {"lr": 0.1}, "seed": 0}, tmp_path / "run")
    with pytest.raises(RunFolderError, match="Another process works on"):
        TrainingFolder({"recipe": {"lr": 0.1}, "seed": 0}, tmp_path / "run")
    held.release()
