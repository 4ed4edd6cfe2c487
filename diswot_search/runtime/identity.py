"""The identity of a function across processes: where it comes from, and a hash of what it computes."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import logging
import pathlib
import types
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

PACKAGE = __name__.partition(".")[0]


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device)


def belongs_here(function: Callable[..., object], name: str) -> bool:
    """Whether a function has this name in this package, so that the package's version determines what it computes."""
    if not isinstance(function, types.FunctionType) or function.__closure__:
        return False
    package = str(function.__globals__.get("__name__", "")).partition(".")[0]
    return package == PACKAGE and function.__qualname__ == name


def fingerprint(function: Callable[..., object]) -> str:
    """Where a function comes from, and a hash of everything visible that it computes with.

    The hash covers the function's source and code, its defaults, its closure, the globals that it names, and what a
    `functools.partial` or a method is bound to. The values among these may be plain values, containers of them, paths,
    members of enumerations, tensors, arrays, proxies, and functions, which are hashed by the same rule. Functions of
    other modules and loggers count by name only. An object of any other kind may hold anything, so it makes the hash
    differ each time.

    Returns:
        A text such as "mymodule.spread, code 0123456789abcdef".
    """
    return f"{_place(function)}, code {_hash(_describe(function, ()).encode())[:16]}"


def _describe(value: object, above: tuple[int, ...]) -> str:
    """A text that two values share only if they are equal; `above` holds the ids of the values around this one."""
    kind = type(value)
    if kind in _PLAIN:
        return f"{kind.__name__} {value!r}"
    if isinstance(value, np.generic):
        return f"{kind.__name__} {_describe_array(np.asarray(value), above)}"
    if id(value) in above:  # a function that closes over itself
        return f"number {above.index(id(value))} from the top"
    if isinstance(value, type):
        return f"class {_place(value)} {_source(value)}"
    if kind in _DESCRIPTIONS:
        return f"{kind.__name__} {_DESCRIPTIONS[kind](value, (*above, id(value)))}"
    if kind.__module__.partition(".")[0] == PACKAGE and isinstance(identity := getattr(value, "identity", None), str):
        return f"{kind.__name__} {identity}"
    if isinstance(value, enum.Enum):
        return f"{_place(kind)} {value.name} {_describe(value.value, above)}"
    return _opaque(value)


def _opaque(value: object) -> str:
    return f"{_place(type(value))} {uuid.uuid4().hex}"


def _describe_all(values: Iterable[object], above: tuple[int, ...]) -> str:
    return f"({', '.join(_describe(value, above) for value in values)})"


def _describe_function(function: types.FunctionType, above: tuple[int, ...]) -> str:
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    values = (function.__code__, function.__defaults__, function.__kwdefaults__, cells)
    return f"{_place(function)} {_source(function)} {_describe_all(values, above)} {_describe_globals(function, above)}"


def _describe_globals(function: types.FunctionType, above: tuple[int, ...]) -> str:
    values = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    described = []
    for name, value in values.items():
        is_foreign = getattr(value, "__module__", None) != function.__module__
        if callable(value) and hasattr(value, "__name__") and is_foreign:
            described.append(f"{name} {_place(value)} {value.__name__}")
        else:
            described.append(f"{name} {_describe(value, above)}")
    return f"({', '.join(described)})"


def _names(code: types.CodeType) -> list[str]:
    """The names, sorted, that code and the functions within it may look up among the globals."""
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return sorted({*code.co_names, *inner})


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return ...


def _describe_code(code: types.CodeType, above: tuple[int, ...]) -> str:
    # Needed in addition to the source, which is the same for two lambdas on one line.
    return _describe_all((code.co_code, code.co_names, code.co_consts), above)


def _describe_builtin(function: types.BuiltinFunctionType, above: tuple[int, ...]) -> str:
    owner = function.__self__
    return f"{_place(function)} {'' if isinstance(owner, types.ModuleType) else _describe(owner, above)}"


def _describe_set(values: Iterable[object], above: tuple[int, ...]) -> str:
    return f"({', '.join(sorted(_describe(value, above) for value in values))})"


def _describe_tensor(tensor: torch.Tensor, above: tuple[int, ...]) -> str:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return _opaque(tensor)
    raw = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    return f"{tensor.dtype} {tuple(tensor.shape)} {_hash(raw.numpy().tobytes())}"


def _describe_array(array: np.ndarray[Any, Any], above: tuple[int, ...]) -> str:
    return _opaque(array) if array.dtype.hasobject else f"{array.dtype} {array.shape} {_hash(array.tobytes())}"


_DESCRIPTIONS: dict[type, Callable[[Any, tuple[int, ...]], str]] = {
    list: _describe_all,
    tuple: _describe_all,
    dict: lambda values, above: _describe_all([item for pair in values.items() for item in pair], above),
    set: _describe_set,
    frozenset: _describe_set,
    types.FunctionType: _describe_function,
    types.CodeType: _describe_code,
    types.MethodType: lambda method, above: _describe_all((method.__func__, method.__self__), above),
    types.BuiltinFunctionType: _describe_builtin,
    types.ModuleType: lambda module, above: module.__name__,
    functools.partial: lambda call, above: _describe_all((call.func, call.args, call.keywords), above),
    torch.Tensor: _describe_tensor,
    torch.nn.Parameter: _describe_tensor,
    np.ndarray: _describe_array,
    pathlib.PosixPath: lambda path, above: str(path),
    pathlib.WindowsPath: lambda path, above: str(path),
    logging.Logger: lambda logger, above: logger.name,
}
"""How values are described, by exact type, because a subclass may hold more."""


def _place(value: object) -> str:
    kind = type(value)
    return f"{getattr(value, '__module__', kind.__module__)}.{getattr(value, '__qualname__', kind.__qualname__)}"


def _source(value: Any) -> str:
    with contextlib.suppress(OSError, TypeError):  # typed at a prompt, or generated
        return inspect.getsource(value)
    return ""


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
