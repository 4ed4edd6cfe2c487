"""Load trained weights from a file into a model, all checks before the model changes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection

import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import nn


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, without: Collection[str] = ()) -> None:
    """Load the weights in `path` into `model`; if they do not fit, the model stays as it was.

    The file is safetensors or torch's own format: a state dict, bare or wrapped as by timm. Only tensors and plain
    values are read, so that no file can run code. Prefixes of parallel and compiled models are dropped.

    Args:
        model: Any model, on any device.
        path: The file; a name that ends in `.safetensors` means that format.
        without: Names of modules that keep their present weights; the file's tensors for them are ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no state dict, or one that does not fit. The message names the tensors that are
            missing, unexpected or of another shape.
    """
    excluded = tuple(f"{name}." for name in without)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith(excluded)}
    state = _renamed(_read_state(os.fspath(path)), model.state_dict())
    state = {key: value for key, value in state.items() if not key.startswith(excluded)}
    # Batch counters do not affect the output, and old files lack them.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    misshaped = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(problems.values()):
        details = "; ".join(f"{problem}: {_first(names)}" for problem, names in problems.items() if names)
        raise ValueError(f"The weights in {path} do not fit {type(model).__name__}. Tensors {details}.")
    model.load_state_dict(model.state_dict() | state)


def _read_state(path: str) -> dict[str, torch.Tensor]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        state = load_state_dict(path, weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, AttributeError, EOFError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as a state dict: {error}") from error
    others = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{path} is not a state dict; not tensors: {_first(others)}.")
    return state


def _renamed(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with the model's keys: some public CIFAR ResNets name the classifier `linear`, not `fc`."""
    renamed = {}
    for key, value in state.items():
        other = key.replace("linear.", "fc.", 1) if key.startswith("linear.") else key
        renamed[other if key not in expected and other in expected else key] = value
    return renamed


def _first(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
