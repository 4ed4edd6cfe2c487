"""What travels between processes, as bytes: programs, items, results and errors."""

from __future__ import annotations

import builtins
import io
import itertools
import pickle
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

TOP_LEVEL = "Define functions and classes at the top level of a module, and keep open files, locks and generators out."
"""The advice for whatever does not pickle."""

MAX_DEPTH = 50
"""Levels below the top at which the search for the part that does not pickle ends."""


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text. It is the last cause of the error."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


# -- values -------------------------------------------------------------------------------------


def pickled(kind: str, value: object) -> bytes:
    """A value as bytes.

    Args:
        kind: The thing, as the message shows it ("program", "item").
        value: The value.

    Raises:
        ValueError: It does not pickle. The message names the part.
        MemoryError: The memory does not hold the bytes.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        raise
    except Exception as error:
        path, part = _unpicklable_part(value)
        raise ValueError(
            f"The {kind} cannot be sent to another process: {_described(path, part)} does not pickle "
            f"({type(error).__name__}: {error}). {TOP_LEVEL}"
        ) from error


def pickled_program(program: object) -> bytes:
    """A program as bytes that a new process can load.

    Raises:
        ValueError: It does not pickle, or it is defined where a new process cannot find it.
    """
    data = pickled("program", program)
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None:
        _Pickler(io.BytesIO(), protocol=pickle.HIGHEST_PROTOCOL).dump(program)
    return data


class _Pickler(pickle.Pickler):
    """Refuses what is defined in a session or a text, which new processes do not see."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            raise ValueError(
                f"The program cannot be sent to another process: {value.__qualname__} is defined in this session, not "
                "in a file. Define it at the top level of a module, and import it."
            )
        return NotImplemented


def _unpicklable_part(value: object) -> tuple[str, object]:
    """The innermost part that does not pickle, with the way to it, such as ".proxy.function"."""
    path = ""
    for _ in range(MAX_DEPTH):
        for name, part in _parts(value):
            if not _pickles(part):
                path, value = path + name, part
                break
        else:
            break
    return path, value


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return False
    return True


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The values that a value is pickled from, each with its name in it."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
        return
    if isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
        return
    if isinstance(value, type | FunctionType):
        return
    owner = getattr(value, "__self__", None)
    if owner is not None:
        yield "", owner  # of a method
    try:
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:
        return
    if not isinstance(reduced, tuple):
        return
    arguments, state = reduced[1], reduced[2] if len(reduced) > 2 else None
    states = state if isinstance(state, tuple) else (state,)
    for mapping in states:
        if isinstance(mapping, dict):
            yield from ((f".{key}", part) for key, part in mapping.items())
        elif mapping is not None:
            yield "", mapping
    yield from (("", part) for part in arguments if part is not value)


def _described(path: str, part: object) -> str:
    name = getattr(part, "__qualname__", None)
    kind = type(part).__name__
    thing = f"the {kind} {name}" if isinstance(name, str) else f"a {kind}"
    return f"{path}, {thing}," if path else thing


# -- errors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StandIn:
    """An error whose class or values do not pickle: the same name, message and built-in kind."""

    name: str
    kind: str
    message: str

    def error(self) -> BaseException:
        base = getattr(builtins, self.kind)
        made = type(self.name, (base,), {"__str__": lambda error: self.message, "__module__": "a worker"})
        return base.__new__(made, self.message)  # no constructor of the base, which may ask for more


def pickled_error(error: BaseException) -> bytes:
    """An error as bytes, with the errors that caused it and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    chain: list[bytes | _StandIn] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < MAX_DEPTH:
        chain.append(_carried(cause))
        cause = cause.__cause__
    return pickle.dumps((chain, text))


def _carried(error: BaseException) -> bytes | _StandIn:
    try:
        data = pickle.dumps(error)
        copy = pickle.loads(data)
        if type(copy) is type(error) and str(copy) == str(error):
            return data
    except Exception:  # constructors with arguments of their own often do not unpickle
        pass
    kind = next(base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base)
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    return _StandIn(type(error).__name__, kind, message)


def loaded_error(data: bytes) -> BaseException:
    """The error of `pickled_error`. Its last cause is a `WorkerTraceback`."""
    chain, text = pickle.loads(data)
    errors = []
    for carried in chain:
        try:
            errors.append(carried.error() if isinstance(carried, _StandIn) else pickle.loads(carried))
        except Exception as error:  # its class can be loaded there, but not here
            errors.append(RuntimeError(f"{type(error).__name__}: {error}; the error of the worker cannot be loaded"))
    errors.append(WorkerTraceback(text))
    for effect, cause in itertools.pairwise(errors):
        effect.__cause__ = cause
    return errors[0]
