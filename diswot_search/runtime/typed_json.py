"""The border between dataclasses and JSON: written by field, checked field by field when read."""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from .files import RunFolderError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A value that JSON can state."""


R = TypeVar("R")


class JsonError(ValueError):
    """A JSON value that does not fit its dataclass; the message names the key."""


def beside(prefix: str = "") -> Any:
    """A field whose entries stand in JSON beside the other fields, under keys that begin with a prefix.

    Without a prefix it collects all keys that no other field has.
    """
    return field(default_factory=dict, metadata={"beside": prefix})


def encode(value: object) -> Any:
    """Convert a dataclass, or any value in one, to JSON values; a number that is not finite becomes null.

    A class may define `to_json` for a layout of its own.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own: Callable[[], Json] | None = getattr(value, "to_json", None)
        return encode_fields(value) if own is None else own()
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode_fields(record: object) -> dict[str, Json]:
    """Convert a dataclass to a JSON object with a key for each field."""
    values: dict[str, Json] = {}
    for entry in fields(typing.cast(Any, record)):
        value = encode(getattr(record, entry.name))
        prefix = _prefix(entry)
        values |= {entry.name: value} if prefix is None else {prefix + key: item for key, item in value.items()}
    return values


def decode(kind: type[R], value: object) -> R:
    """Convert JSON values to a dataclass; the inverse of `encode`.

    Keys that the class does not have are ignored. A null that stands for a required number is NaN, since JSON has no
    numbers that are not finite.

    Args:
        kind: The dataclass.
        value: The JSON value.

    Raises:
        JsonError: A required key is missing, or a value is of another type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Size:
        ...     height: int
        ...     width: int
        >>> decode(Size, {"height": 3, "width": "wide"})
        Traceback (most recent call last):
        diswot_search.runtime.typed_json.JsonError: width is 'wide'; it must be a whole number
    """
    return typing.cast(R, _decode(kind, value, ""))


def decode_stored(kind: type[R], value: object, file: Path, repair: str) -> R:
    """Convert the content of a file of a run folder to a dataclass.

    Args:
        kind: The dataclass.
        value: The JSON value.
        file: The file, as the message names it.
        repair: The remedy if the file is damaged.

    Raises:
        RunFolderError: A key is missing, or a value is of another type; the message names file and key.
    """
    try:
        return decode(kind, value)
    except JsonError as error:
        raise RunFolderError(f"{file} is damaged: {error}; {repair}.") from error


def _decode(kind: Any, value: object, key: str) -> object:
    """Decode a value of any supported type; `key` is its dotted path."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(kind, value, key)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(parts, value, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mismatch(key, value, "a list")
        return tuple(_decode(parts[0], item, f"{key}.{place}") for place, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(key, value, "an object")
        return {str(name): _decode(parts[1], item, f"{key}.{name}") for name, item in value.items()}
    return _decode_plain(kind, value, key)


def _decode_union(parts: tuple[object, ...], value: object, key: str) -> object:
    if value is None and type(None) in parts:
        return None
    errors = []
    for part in parts:
        if part is type(None):
            continue
        try:
            return _decode(part, value, key)
        except JsonError as error:
            errors.append(error)
    raise errors[0]


def _decode_plain(kind: type, value: object, key: str) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float:
        if value is None:
            return math.nan
        if value == "inf":
            return math.inf
        if is_number:
            return value
        raise _mismatch(key, value, "a number")
    expected = {int: "a whole number", str: "a text", bool: "true or false"}[kind]
    if isinstance(value, kind) and (is_number or kind is not int):
        return value
    raise _mismatch(key, value, expected)


def _decode_fields(kind: type, value: object, key: str) -> object:
    if not isinstance(value, Mapping):
        raise _mismatch(key, value, "an object")
    hints, own = _field_types(kind)
    plain = {entry.name for entry in own if _prefix(entry) is None}
    prefixes = tuple(prefix for entry in own if (prefix := _prefix(entry)))
    values: dict[str, object] = {}
    for entry in own:
        prefix = _prefix(entry)
        path = f"{key}.{entry.name}" if key else entry.name
        if prefix is not None:
            rest = {name: item for name, item in value.items() if name not in plain and name.startswith(prefix)}
            if not prefix:
                rest = {name: item for name, item in rest.items() if not name.startswith(prefixes or "\0")}
            item = typing.get_args(hints[entry.name])[1]
            values[entry.name] = {
                name.removeprefix(prefix): _decode(item, entry_value, f"{key}.{name}" if key else name)
                for name, entry_value in rest.items()
            }
        elif entry.name in value:
            values[entry.name] = _decode(hints[entry.name], value[entry.name], path)
        elif _is_required(entry):
            raise JsonError(f"{path} is missing")
    return kind(**values)


@functools.cache
def _field_types(kind: type) -> tuple[dict[str, object], tuple[Field[object], ...]]:
    """The types of a class's fields by name, and its fields."""
    return typing.get_type_hints(kind), fields(typing.cast(Any, kind))


def _prefix(entry: Field[object]) -> str | None:
    return entry.metadata.get("beside")


def _is_required(entry: Field[object]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _mismatch(key: str, value: object, expected: str) -> JsonError:
    text = repr(value)
    return JsonError(f"{key or 'the value'} is {text[:60]}; it must be {expected}")
