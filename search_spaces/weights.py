"""Load trained weights from a file into a model, all checks before the model changes."""

from __future__ import annotations

import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

State = dict[str, torch.Tensor]

_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
)
"""Keys that programs store a state dict under, averaged weights first."""

_PARALLEL = ("module.", "_orig_mod.")
"""Prefixes of parallel and of compiled models."""

_AVERAGED = "n_averaged"
"""The counter of torch's averaged models, beside the weights."""

_IGNORED = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Int32", "Int64", "UInt8", "Float16", "Float32", "Float64")),
    "argparse.Namespace",
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "timedelta", "timezone")),
    *(
        f"{module}.{kind}"
        for module in ("builtins", "__builtin__")
        for kind in ("bool", "dict", "float", "int", "list")
    ),
)
"""Kinds of values that are stored beside weights. An inert object is read in the place of each."""


_HEAD = 32
"""Number of bytes by which the kind of a file is told."""

_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number that torch's older files begin with; those of text protocols have it in decimal digits."""

_PICKLED = (
    "it was written by pickle, not by torch.save, and pickles can run code. If you trust it, load it by pickle in a "
    "program of your own, and save the state dict by torch.save(state_dict, PATH)"
)


class _Ignored:
    """Stands for a value beside the weights. Whatever a file asks of it, it does nothing."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, without: Collection[str] = ()) -> None:
    """Load the weights in `path` into `model`; if they do not fit, the model stays as it was.

    The file is safetensors or torch's own format: a state dict, bare, or under one of the customary keys ("state_dict",
    "model_state_dict", "model", "net", ...) beside an epoch, an accuracy or the state of an optimiser. Only tensors and
    plain values are read, and NumPy's scalars beside them are left out, so that no file can run code. Prefixes that all
    names have, such as those of parallel and compiled models, are dropped.

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
    present = model.state_dict()
    expected = {key: value for key, value in present.items() if not key.startswith(excluded)}
    state = {key: value for key, value in _read_for(path, present).items() if not key.startswith(excluded)}
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
    model.load_state_dict(present | state)


def classes_in_file(path: str | os.PathLike[str], model: nn.Module, classifier: Collection[str]) -> int | None:
    """Number of classes of the weights in a file, for a model whose own number may be another one.

    Args:
        path: The file, as for `load_checkpoint`.
        model: The model, which stays as it is.
        classifier: Names of the linear layers that give its logits.

    Returns:
        The number; None if the file has no such layer.

    Raises:
        FileNotFoundError, ValueError: See `load_checkpoint`.
    """
    state = _read_for(path, model.state_dict())
    counts = {len(state[f"{name}.weight"]) for name in classifier if f"{name}.weight" in state}
    return counts.pop() if len(counts) == 1 else None


def channels_in_file(path: str | os.PathLike[str], model: nn.Module, channels: int) -> int | None:
    """Number of image channels of the weights in a file, for a model whose own number may be another one.

    Args:
        path: The file, as for `load_checkpoint`.
        model: The model, which stays as it is.
        channels: The number that it was made for.

    Returns:
        The number; None if the model's first convolution does not read the image, or the file has none such.

    Raises:
        FileNotFoundError, ValueError: See `load_checkpoint`.
    """
    convolutions = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    name, first = next(convolutions, ("", None))
    if first is None or first.in_channels != channels or first.groups != 1:
        return None
    weight = _read_for(path, model.state_dict()).get(f"{name}.weight")
    return weight.shape[1] if weight is not None and weight.ndim == 4 else None


def _read_for(path: str | os.PathLike[str], expected: Mapping[str, torch.Tensor]) -> State:
    """The state dict in a file, with the names that a model has."""
    return _renamed(_without_prefix(_read_state(os.fspath(path)), expected), expected)


def _read_state(path: str) -> State:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        stored = load_file(path) if path.endswith(".safetensors") else _read_torch(path)
    except Exception as error:  # of a damaged file, the readers raise whatever its bytes lead them to
        raise ValueError(f"{path} cannot be read as a state dict: {_reason(error, path)}") from error
    state = _find_state(stored)
    if state is None:
        kind = type(stored).__name__
        holds = f"it holds {_first(list(map(str, stored)))}" if isinstance(stored, Mapping) and stored else kind
        raise ValueError(
            f"{path} cannot be read as a state dict: {holds}. Save one by torch.save(model.state_dict(), PATH), alone "
            f"or under one of {', '.join(_WRAPPERS)}."
        )
    if odd := [f"{key} ({kind})" for key, value in state.items() if (kind := _odd_kind(value))]:
        raise ValueError(f"{path} cannot be read as a state dict: it holds tensors of other kinds, {_first(odd)}.")
    return state


def _odd_kind(tensor: torch.Tensor) -> str:
    """The kind of a tensor whose values cannot be copied into a weight; empty for an ordinary one."""
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_quantized:
        return "quantised"
    return "" if tensor.layout == torch.strided and not tensor.is_nested else "sparse or nested"


def _read_torch(path: str) -> object:
    inert: list[Any] = [*((_Ignored, name) for name in _IGNORED), (_new_dict, "collections.defaultdict")]
    with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
        for message in ("Detected pickle protocol", ".*TorchScript archive"):  # where they matter, reading fails
            warnings.filterwarnings("ignore", message)
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign(path: str) -> str:
    """Say of a file that begins like none that is read by its name; empty for one that does, or that is damaged."""
    try:
        return _kind_of_file(path)
    except Exception:  # the readers of archives raise whatever damaged bytes lead them to
        return ""


def _kind_of_file(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    is_safetensors = head[8:9] == b"{"
    if path.endswith(".safetensors"):
        return "" if is_safetensors else "it is no file that safetensors wrote"
    if zipfile.is_zipfile(path):
        return _foreign_archive(path)
    if head.startswith((b"PK", b"L119547037146038801333356L")) or _TORCH_MAGIC in head or tarfile.is_tarfile(path):
        return ""
    if head.startswith(b"\x80"):  # a pickle of protocol 2 and later
        return _PICKLED if len(head) == _HEAD else ""
    if is_safetensors:
        return "it is a file of safetensors; give it a name that ends in .safetensors"
    return "it is no file that torch.save or safetensors wrote"


def _foreign_archive(path: str) -> str:
    """Say of a zip archive that holds a program or arrays instead of weights of torch; empty for any other."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a program of TorchScript, which is not run; save the state_dict() of the model instead"
    if any(name.endswith(".npy") for name in names):
        return "it is an archive of NumPy's arrays; save the weights by torch.save or as safetensors"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it is a zip archive of other files"
    return ""


def _new_dict(*args: object) -> dict[object, object]:
    """A plain dictionary, which torch fills, for one with a default."""
    return {}


def _reason(error: Exception, path: str) -> str:
    """The error of torch in short; it is long where a file asks for code."""
    if foreign := _foreign(path):
        return foreign
    text = str(error)
    if "Unsupported operand" in text:
        return "it was saved with another pickle protocol, or is damaged; save it by torch.save without pickle_protocol"
    if "Unsupported global" in text or "Unsupported class" in text:
        name = text.partition("GLOBAL ")[2].partition(" ")[0] or "an object of its own"
        return (
            f"it asks for code ({name}), which is not run. It may hold a whole model; save model.state_dict() instead"
        )
    if "WeightsUnpickler error:" in text:  # and not torch's advice to run the code
        text = text.partition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    text = text.partition("This is an internal miniz error")[0].partition("(Could this error message")[0]
    if isinstance(error, _TELLING):
        return _in_short(text) or "it ends too early"
    return f"it is damaged ({_in_short(f'{type(error).__name__}: {text}').rstrip(': ')})"


_TELLING = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError)
"""Errors of the readers whose text says what is wrong with a file."""


def _in_short(text: str, limit: int = 200) -> str:
    """A text of one line and at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _find_state(stored: Any) -> State | None:
    """The state dict of a file: the whole, the part under a customary key, or the only part that is one."""
    if not isinstance(stored, Mapping):
        return None
    tensors = {key: value for key, value in stored.items() if isinstance(value, torch.Tensor)}
    parts = {key: value for key, value in stored.items() if _is_state(value)}
    for key in (*_WRAPPERS, *(parts if len(parts) == 1 else ())):
        if key in parts:
            return dict(parts[key])
    for key in _WRAPPERS:  # wrapped twice, as by trainers that keep several models
        if isinstance(stored.get(key), Mapping) and (inner := _find_state(stored[key])) is not None:
            return inner
    wrapped = [
        value for value in stored.values() if isinstance(value, Mapping) and not value.keys().isdisjoint(_WRAPPERS)
    ]
    if len(wrapped) == 1 and (inner := _find_state(wrapped[0])) is not None:  # under a key of its own
        return inner
    return tensors if tensors and all(isinstance(key, str) for key in tensors) else None


def _is_state(value: object) -> bool:
    """Whether a value is a state dict: names with tensors, and nothing else."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(each, torch.Tensor) for key, each in value.items())
    )


def _without_prefix(state: State, expected: Mapping[str, torch.Tensor]) -> State:
    """The state dict without prefixes that no name of the model has: of parallel models, and of an owner of it all."""
    if _AVERAGED in state and _AVERAGED not in expected:  # a model of torch.optim.swa_utils
        state = {key: value for key, value in state.items() if key != _AVERAGED}
    changed = True
    while changed and not state.keys() & expected.keys():
        changed = False
        owners = {key.partition(".")[0] + "." for key in state}
        owner = owners.pop() if len(owners) == 1 else ""
        for prefix in (*_PARALLEL, owner):
            if prefix and any(key.startswith(prefix) for key in state) and not changed:
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                changed = True
    return state


def _renamed(state: State, expected: Mapping[str, torch.Tensor]) -> State:
    """The state dict with the model's keys: some public CIFAR ResNets name the classifier `linear`, not `fc`."""
    renamed = {}
    for key, value in state.items():
        other = key.replace("linear.", "fc.", 1) if key.startswith("linear.") else key
        renamed[other if key not in expected and other in expected else key] = value
    return renamed


def _first(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
