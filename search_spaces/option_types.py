"""The one check of option types: a value against the annotation of its option, before anything is done with it.

The options of jobs, the options of a space and the keys of a source are declared with annotations. A value that was
written as text, in a file or on a command line, may be of any other type; so may one from Python.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from .registry import near_names, shortened

LARGEST_NUMBER = 2**63 - 1
"""The largest whole number that an option takes: the largest that torch, numpy and SQLite store."""

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "PathLike": "a path",
    "Mapping": "a mapping of names to values",
    "dict": "a mapping of names to values",
    "Sequence": "a list",
    "Iterable": "a list",
    "list": "a list",
    "tuple": "a list",
}
"""Types that text can express, in the words of messages."""

_PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set, range)
"""Types of values that files and the command line can give. Objects of other types come from Python."""


class OptionTypeError(TypeError, ValueError):
    """An option with a value of the wrong type, or with a name that is no text or that there is not."""


def check_types(values: Mapping[str, object], annotations: Mapping[str, object], where: str = "") -> None:
    """Refuse values that do not have the annotated types.

    A whole number is a number, but true and false are none. Objects that only Python has, such as modules and arrays,
    pass wherever the annotation names a class; the functions that use them say what they need.

    Args:
        values: Values by name. Names without an annotation pass.
        annotations: The annotation of each option, as its source text or as the type itself.
        where: What has these options, for messages, such as "Search space 'nasbench201': ".

    Raises:
        OptionTypeError: A value is of another type, or a whole number is too large to be stored.

    Example:
        >>> check_types({"channels": 16}, {"channels": "int | None"})
        >>> check_types({"channels": 1.5}, {"channels": "int | None"})
        Traceback (most recent call last):
        ...
        search_spaces.option_types.OptionTypeError: channels is 1.5; it must be a whole number.
    """
    for name, value in values.items():
        if name not in annotations:
            continue
        tree = _parsed(annotations[name])
        if tree is not None and not _fits(value, tree):
            raise OptionTypeError(_message(f"{where}{name}", value, tree))


def check_names(values: Mapping[str, object], where: str) -> None:
    """Refuse names of options that are no text.

    Args:
        values: Values by name.
        where: What has these options, for messages.

    Raises:
        OptionTypeError: They are no mapping, or a name is no text.
    """
    if not isinstance(values, Mapping):
        raise OptionTypeError(f"{where} must be a mapping of names to values, not {shown(values)}.")
    for name in values:
        if not isinstance(name, str):
            raise OptionTypeError(f"{where}: the name {shown(name)} is no text; names of options are.")


def check_call(function: Callable[..., object], values: Mapping[str, object], where: str) -> None:
    """Refuse options that a function does not take by name, or whose values do not have the types of its signature.

    Args:
        function: A function or class.
        values: The options by name.
        where: What has these options, for messages.

    Raises:
        OptionTypeError: A name is no text or no parameter, a parameter without a default has no value, or a value is of
            another type.
    """
    check_names(values, where)
    signature = inspect.signature(function)
    named = {p.name: p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in values if not takes_any else ():
        if name not in named:
            near = near_names(name, named)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise OptionTypeError(f"{where}: there is no option {shown(name)}; {hint}its options: {', '.join(named)}.")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in values]
    if missing:
        raise OptionTypeError(f"{where}: missing a required argument: {', '.join(map(repr, missing))}.")
    names = vars(sys.modules.get(function.__module__, object))
    annotations = {n: _expanded(p.annotation, names) for n, p in named.items() if p.annotation is not p.empty}
    check_types(values, annotations, f"{where}: ")


def _expanded(annotation: object, names: Mapping[str, object]) -> object:
    """The text of an annotation with its aliases written out, since an alias may stand for plain values."""

    def expand(match: re.Match[str]) -> str:
        meant = names.get(match[0])
        return match[0] if meant is None or inspect.isclass(meant) else str(meant).replace("typing.", "")

    return re.sub(r"\b[A-Z]\w*\b", expand, annotation) if isinstance(annotation, str) else annotation


def shown(value: object) -> str:
    """A value as messages show it, cut if it is long.

    Example:
        >>> len(shown("x" * 3000)) < 100
        True
    """
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"a number of about {value.bit_length() * math.log10(2):,.0f} digits"
    if isinstance(value, list | tuple) and not all(isinstance(entry, (*_PLAIN, type(None))) for entry in value):
        return f"a {type(value).__name__}"  # of objects, such as tensors, whose texts say nothing
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits within it, or something nested too deep
        return f"a {type(value).__name__} that is too long to show"


@functools.lru_cache(maxsize=1024)
def _parsed(annotation: object) -> ast.expr | None:
    """The annotation as a tree; None if it is no text and no class of Python's own."""
    if isinstance(annotation, type) and annotation.__module__ == "builtins":
        annotation = annotation.__name__
    if not isinstance(annotation, str):
        annotation = str(annotation).replace("typing.", "")
    try:
        return ast.parse(annotation.strip(), mode="eval").body
    except SyntaxError:
        return None


def _members(tree: ast.expr) -> Iterator[ast.expr]:
    """The members of a union, or the type itself."""
    if isinstance(tree, ast.BinOp):
        yield from _members(tree.left)
        yield from _members(tree.right)
    elif isinstance(tree, ast.Subscript) and _name(tree.value) in ("Optional", "Union"):
        for member in _arguments(tree):
            yield from _members(member)
    else:
        yield tree


def _name(tree: ast.expr) -> str:
    """The last part of a type's name; empty for anything else."""
    if isinstance(tree, ast.Subscript):
        return _name(tree.value)
    if isinstance(tree, ast.Attribute):
        return tree.attr
    return tree.id if isinstance(tree, ast.Name) else ""


def _arguments(tree: ast.Subscript) -> list[ast.expr]:
    return tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]


def _fits(value: object, tree: ast.expr, *, nested: bool = False) -> bool:
    """Whether a value has the type, as far as it can be told without the classes that the annotation names."""
    return any(_is_of(value, member, nested) for member in _members(tree))


def _is_of(value: object, kind: ast.expr, nested: bool) -> bool:
    name = _name(kind)
    if isinstance(kind, ast.Constant):
        return value is None if kind.value is None else True
    if name in ("object", "Any"):
        return True
    if name == "Literal" and isinstance(kind, ast.Subscript):
        return value in [ast.literal_eval(item) for item in _arguments(kind)]
    if not isinstance(value, _PLAIN) and value is not None:
        return _is_number(value, name) or name not in ("bool", "int", "float", "str")
    if name in _CHECKS:
        return _CHECKS[name](value, _arguments(kind) if isinstance(kind, ast.Subscript) else [])
    return nested or (name not in _WORDS and not name[:1].isupper())  # an alias may stand for plain values, a class not


def _is_number(value: object, name: str) -> bool:
    """Whether an object of another library is a number or a truth value, such as numpy's."""
    kinds = {"int": numbers.Integral, "float": numbers.Real}
    return (name in kinds and isinstance(value, kinds[name])) or (name == "bool" and type(value).__name__ == "bool_")


def _is_whole(value: object, arguments: Sequence[ast.expr]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _is_real(value: object, arguments: Sequence[ast.expr]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or value.bit_length() < 1024  # the largest float is just below 2 ** 1024


def _is_mapping(value: object, arguments: Sequence[ast.expr]) -> bool:
    if not isinstance(value, Mapping):
        return False
    if len(arguments) != 2:
        return True
    keys, entries = arguments
    return all(_fits(k, keys, nested=True) and _fits(v, entries, nested=True) for k, v in value.items())


def _is_sequence(value: object, arguments: Sequence[ast.expr]) -> bool:
    if isinstance(value, str | bytes | Mapping | set) or not isinstance(value, list | tuple | range):
        return False
    if len(arguments) > 1 and not (isinstance(arguments[1], ast.Constant) and arguments[1].value is ...):
        return len(arguments) == len(value) and all(map(_fits_nested, value, arguments))
    return not arguments or all(_fits_nested(entry, arguments[0]) for entry in value)


def _fits_nested(value: object, tree: ast.expr) -> bool:
    return _fits(value, tree, nested=True)


_CHECKS: dict[str, Callable[[object, Sequence[ast.expr]], bool]] = {
    "bool": lambda value, _: isinstance(value, bool),
    "int": _is_whole,
    "float": _is_real,
    "str": lambda value, _: isinstance(value, str),
    "PathLike": lambda value, _: isinstance(value, os.PathLike),
    "Mapping": _is_mapping,
    "dict": _is_mapping,
    "Sequence": _is_sequence,
    "Iterable": _is_sequence,
    "list": _is_sequence,
    "tuple": _is_sequence,
    "Callable": lambda value, _: callable(value),
}


def _message(name: str, value: object, tree: ast.expr) -> str:
    kinds = list(_members(tree))
    names = [_name(kind) for kind in kinds]
    if isinstance(value, Mapping) and {"Mapping", "dict"} & set(names):
        keys = [key for key in value if not isinstance(key, str)]
        if keys:
            return f"{name} has the name {shown(keys[0])}; names of options are texts."
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER and {"int", "float"} & set(names):
        return f"{name} is {shown(value)}; whole numbers to {LARGEST_NUMBER:,} are possible."
    choices = [ast.literal_eval(item) for kind in kinds if _name(kind) == "Literal" for item in _arguments(kind)]  # type: ignore[arg-type]
    words = [*map(repr, choices), *(_word(kind) for kind in kinds if _name(kind) not in ("Literal", "PathLike", ""))]
    return f"{name} is {shown(value)}; it must be {' or '.join(dict.fromkeys(words)) or 'an object of Python'}."


def _word(kind: ast.expr) -> str:
    """A type in the words of messages."""
    name = _name(kind)
    if name in ("Sequence", "list", "Iterable", "tuple") and isinstance(kind, ast.Subscript):
        entries = _arguments(kind)
        entry = _ENTRIES.get(_name(entries[0]))
        if len(entries) > 1 and not isinstance(entries[1], ast.Constant):
            return f"{len(entries)} {entry if len(set(map(_name, entries))) == 1 and entry else 'values'}"
        return f"a list of {entry}" if entry else "a list"
    name = name.removesuffix("Like")
    return _WORDS.get(name) or (name if name.endswith("s") else f"a {name}")


_ENTRIES = {"int": "whole numbers", "float": "numbers", "str": "texts"}
