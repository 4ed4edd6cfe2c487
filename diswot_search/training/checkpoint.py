"""Checkpoints of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from ..runtime.checksums import CHECKSUM, fill_checksum, verify_checksum
from ..runtime.files import RunFolderError, as_json

LAST = "last.safetensors"


BEST = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training.

    Attributes:
        tensors: Tensors by name.
        values: Everything else, as JSON values.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def to_bytes(self) -> bytes:
        """A safetensors file with the values as JSON in its header, and a checksum of the whole file."""
        # Copied, since the format has no place for tensors that share memory, as tied weights do.
        order = torch.contiguous_format
        tensors = {
            name: tensor.detach().to("cpu", copy=True, memory_format=order) for name, tensor in self.tensors.items()
        }
        return fill_checksum(save(tensors, {"values": json.dumps({"checksum": CHECKSUM, "values": self.values})}))

    @classmethod
    def from_bytes(cls, content: bytes) -> Checkpoint:
        """The inverse of `to_bytes`.

        Raises:
            ValueError, KeyError, TypeError, SafetensorError: It is no checkpoint, or its checksum does not match.
        """
        verify_checksum(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        return cls(load(content), json.loads(header["__metadata__"]["values"])["values"])


def read_checkpoint(path: Path) -> Checkpoint | None:
    """A checkpoint from its file; None if the file does not exist.

    Raises:
        RunFolderError: The file is no checkpoint, or was changed after it was written.
    """
    if not path.is_file():
        return None
    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        message = f"{path} is damaged ({error}); restore it from a copy, or start anew in another folder."
        raise RunFolderError(message) from error


def checked_best(best: Checkpoint | None, epoch: int | None) -> Checkpoint:
    """The best checkpoint, which is seen to be of the best epoch.

    Raises:
        RunFolderError: The checkpoint is missing or of another epoch.
    """
    if best is None or best.values.get("epoch") != epoch:
        raise RunFolderError(
            f"{BEST} is missing or not of epoch {epoch}, which was the best; restore the folder from a copy, or start "
            "anew in another one."
        )
    return best


def load_shipped(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a network the weights that a finished training ships, from the checkpoint that holds them.

    Args:
        model: The network of the student.
        checkpoint: The best checkpoint, or the last one, whose moving average is shipped where there is one.

    Raises:
        RunFolderError: The weights are not those of this network.
    """
    start = "task/student."
    task = {name.removeprefix(start): t for name, t in checkpoint.tensors.items() if name.startswith(start)}
    shipped = without_prefix("student", checkpoint.tensors) or without_prefix("ema", checkpoint.tensors) or task
    try:
        model.load_state_dict(shipped)
    except RuntimeError as error:
        raise RunFolderError(
            f"The checkpoint does not fit this training ({' '.join(str(error).split())[:300]}); restore the folder "
            "from a copy, or start anew in another one."
        ) from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by names that begin with `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix/`, by the rest."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The state of an optimiser, its tensors apart from its other values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, object]] = {}
    for place, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{place}/{key}"] = value
            else:
                numbers.setdefault(str(place), {})[key] = value
    groups: list[dict[str, object]] = []
    for number, group in enumerate(state["param_groups"]):
        of_group = {key: value for key, value in group.items() if isinstance(value, Tensor)}  # such as a step count
        tensors |= {f"group {number}/{key}": value for key, value in of_group.items()}
        groups.append({key: value for key, value in group.items() if key not in of_group})
    return tensors, {"state": numbers, "param_groups": as_json(groups)}


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Give an optimiser the state that `optimizer_state` took."""
    state: dict[int, dict[str, object]] = {int(place): dict(numbers) for place, numbers in values["state"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = [
        {key: tuple(value) if isinstance(own.get(key), tuple) else value for key, value in group.items()}
        for own, group in zip(optimizer.param_groups, values["param_groups"], strict=True)
    ]
    for name, tensor in tensors.items():
        place, key = name.split("/", 1)
        if place.startswith("group "):
            groups[int(place.removeprefix("group "))][key] = tensor.to(parameters[0].device)
            continue
        like = parameters[int(place)]
        # In the memory order of the parameter, so that the optimiser stays as quick as it was.
        ordered = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(place), {})[key] = ordered
    optimizer.load_state_dict({"state": state, "param_groups": groups})
