"""Options as data: each option of a job is a field of a dataclass, and everything that shows options is made from it.

A group of options that several jobs share is a dataclass of its own, which the options of these jobs inherit. The text
of an option stands in the "Args" section of the class that declares it. Signatures and docstrings of the public
functions, the command line with its help, and config.yaml are all made from these classes.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar

DATA_NAME: Mapping[str, bool] = {"data_name": True}
"""Metadata of a field that may be the name of a data set: a path object stands for the folder or file there."""


POSITIONAL: Mapping[str, bool] = {"positional": True}
"""Metadata of a field whose value follows a command without its name, also where the field has a default."""


ALIAS = "alias"
"""Key, in a field's metadata, of another name that the option has on the command line."""


SEVERAL: Mapping[str, bool] = {"several": True}
"""Metadata of a field with a list whose values follow a command one after the other."""


PYTHON_ONLY: Mapping[str, bool] = {"python_only": True}
"""Metadata of a field that no command has: its values cannot be written as text."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one job. Subclasses declare them as fields and describe them in their docstrings.

    Raises:
        OptionTypeError: A value has another type than its field.
    """

    OUT: ClassVar[str | None] = None
    """The run folder where the command line names none; Python then keeps everything in memory."""

    def prepare(self) -> None:
        """Do what has to be done before any name is resolved: import code of the user's own."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("data_name") and isinstance(value, os.PathLike):
                object.__setattr__(self, field.name, as_data_name(value))
            elif isinstance(value, str) and "," in value and _holds_numbers(str(field.type)):
                object.__setattr__(self, field.name, as_numbers(value))
        from search_spaces.option_types import check_types  # loads timm, which help does not need

        check_types({field.name: getattr(self, field.name) for field in fields(self)}, _annotations(type(self).__mro__))


def _holds_numbers(annotation: str) -> bool:
    """Whether an option is a list of numbers and no text, so that a text with commas can mean nothing else."""
    return "str" not in annotation and ("Sequence[float]" in annotation or "Sequence[int]" in annotation)


def as_numbers(text: str) -> list[int | float] | str:
    """The numbers of a text with commas; the text itself if it is none.

    Example:
        >>> as_numbers("0.1, 1"), as_numbers("a,b")
        ([0.1, 1], 'a,b')
    """
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in text.split(",")]
    except ValueError:
        return text


@functools.cache
def _annotations(classes: tuple[type, ...]) -> Mapping[str, object]:
    """The annotation of each field of a class, which is given with its bases."""
    return {field.name: field.type for field in fields(classes[0])}


def as_data_name(path: str | os.PathLike[str]) -> str:
    """A path as the name of a data set, which no data set of another kind has; a name as it is.

    Example:
        >>> from pathlib import Path
        >>> as_data_name(Path("digits")), as_data_name("digits")
        ('./digits', 'digits')
    """
    if isinstance(path, str):
        return path
    text = os.fspath(path)
    return text if os.path.isabs(text) or text[:1] in (".", "~") else os.path.join(".", text)


P = ParamSpec("P")
O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """One option, as the command line and the docstrings show it.

    Attributes:
        name: Name of the option.
        kind: Type of the values that can be written as text.
        default: The default value.
        text: The description.
        is_required: Whether there is no default.
        is_positional: Whether the value may follow a command without its name.
        aliases: Other names on the command line.
        takes_several: Whether several values may follow a command.
    """

    name: str
    kind: Any
    default: object
    text: str
    is_required: bool
    is_positional: bool
    aliases: tuple[str, ...] = ()
    takes_several: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All names on the command line."""
        return self.name, *self.aliases


def options_of(cls: type[Options]) -> Mapping[str, Option]:
    """The options of a class in the order of its constructor, those of inherited groups included, by name.

    Raises:
        TypeError: A field has no description, or no value of its type can be written as text.
    """
    texts = _described_in(cls)
    ordered = sorted(fields(cls), key=lambda field: bool(field.kw_only))
    options = {}
    for field in ordered:
        if field.name not in texts:
            raise TypeError(f"The option {field.name} of {cls.__name__} has no description in an Args section.")
        kind = written_type(str(field.type))
        kind = kind | str if _holds_numbers(str(field.type)) else kind
        if kind is type(None) and not field.metadata.get("python_only"):
            raise TypeError(f"No value of the option {field.name} of {cls.__name__} can be written as text.")
        is_required = field.default is MISSING
        options[field.name] = Option(
            name=field.name,
            kind=kind,
            default=None if is_required else field.default,
            text=texts[field.name],
            is_required=is_required,
            is_positional=is_required or bool(field.metadata.get("positional")),
            aliases=tuple(filter(None, [field.metadata.get(ALIAS)])),
            takes_several=bool(field.metadata.get("several")),
        )
    return options


def keywords(cls: type[Options]) -> list[str]:
    """Names of the options that can only be given by name."""
    return [field.name for field in fields(cls) if field.kw_only]


def shared(options: Options, *groups: type[Options]) -> dict[str, Any]:
    """The values of the options of some groups, by name: those that a stage of a job has in common with the job."""
    return {name: getattr(options, name) for group in groups for name in options_of(group)}


def changed(options: Options, *names: str) -> list[str]:
    """Those of the named options that do not have their default values."""
    defaults = options_of(type(options))
    return [name for name in names if not _equal(getattr(options, name), defaults[name].default)]


def _equal(value: object, default: object) -> bool:
    return value is default or (isinstance(value, bool | int | float | str) and value == default)


def check_names(cls: type[Options], names: Sequence[str], job: str) -> None:
    """Refuse names that are no options of a job.

    Raises:
        TypeError: A name is not an option; near names are given.
    """
    for name in names:
        if name not in options_of(cls):
            near = near_options(name, options_of(cls))
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise TypeError(f"{job} has no option {name!r}{hint}")


def near_options(name: str, allowed: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Allowed options that contain the words of `name`, or are spelt like it."""
    from search_spaces.registry import near_names

    containing = [option for option in allowed if name in option.split("_")]
    return containing or near_names(name, allowed)


def from_options(options: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Make a public function out of a function of an options class.

    Args:
        options: The class. Type checkers see its constructor's signature as that of the function.

    Returns:
        A decorator. The function's signature and docstring are made from the class: its summary and description, all
        options, and then the sections of the decorated function's own docstring.
    """

    def decorate(function: Callable[[O], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            check_names(cls, list(kwargs), function.__name__)
            chosen = options(*args, **kwargs)
            chosen.prepare()
            return function(chosen)

        returned = inspect.signature(function).return_annotation
        parameters = list(inspect.signature(cls).parameters.values())
        call.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": returned}
        call.__doc__ = _docstring(cls, inspect.getdoc(function) or "")
        del call.__wrapped__
        return call

    assert isinstance(options, type)
    cls: type[Options] = options
    return decorate


def summary(documented: object) -> str:
    """The first line of a docstring, such as that of a job's options."""
    return description(documented).partition("\n")[0]


def description(documented: object) -> str:
    """A docstring without its Args section and what follows it."""
    return (inspect.getdoc(documented) or "").partition("\nArgs:\n")[0].strip()


def own_docstring(documented: object) -> str:
    """The docstring that something has itself; that of a class is not the one of the class that it is made from."""
    return inspect.cleandoc(documented.__doc__ or "")


_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Warns|Example|Examples):")


def prose(documented: object) -> list[str]:
    """The paragraphs of something's own docstring, lines joined, without its sections (Args, Returns, Raises, ...)."""
    paragraphs: list[list[str]] = [[]]
    is_in_section = False
    for line in own_docstring(documented).splitlines():
        if _SECTION.fullmatch(line):
            is_in_section = True
        elif line and not line.startswith(" "):
            is_in_section = False
        if not line:
            paragraphs.append([])
        elif not is_in_section:
            paragraphs[-1].append(line)
    return [" ".join(lines) for lines in paragraphs if lines]


def arguments_of(documented: object) -> dict[str, str]:
    """The texts of the Args section of a function, or of a class and of those that it inherits, by argument."""
    if isinstance(documented, type):
        return _described_in(documented)
    return _args_section(inspect.getdoc(documented) or "")


def _docstring(cls: type[Options], sections: str) -> str:
    lines = [f"    {option.name}: {option.text}" for option in options_of(cls).values()]
    parts = [description(cls), "Args:\n" + "\n".join(lines), sections]
    return "\n\n".join(part for part in parts if part)


def _described_in(cls: type) -> dict[str, str]:
    """The texts of the Args sections of a class and of those that it inherits, by option."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= _args_section(base.__dict__.get("__doc__") or "")
    return texts


def _args_section(docstring: str) -> dict[str, str]:
    """The entries of an Args section, lines joined."""
    section = inspect.cleandoc(docstring).partition("Args:\n")[2].partition("\n\n")[0]
    texts: dict[str, str] = {}
    for entry in re.split(r"\n {4}(?! )", "\n" + section):
        name, colon, text = entry.partition(": ")
        if colon:
            texts[name] = " ".join(text.split())
    return texts


# -- options in a mapping of the command line ---------------------------------------------------


_GROUP = "option_group"
"""Attribute of an error with the mapping that the options which it names stand in."""

_BARE = r"(?<![\w./'\"-])"
_YAML_WORDS = {"True": "true", "False": "false", "None": "null"}
_VALUE = r"\[[^\]]*\]|'[^']*'|[\w.]*\w"


@contextlib.contextmanager
def options_in(group: str, names: Iterable[str]) -> Iterator[None]:
    """Note on an error that the options which it names stand in a mapping; `as_typed` reads it.

    Args:
        group: Name of the mapping, such as "data_options". Of blocks within each other the outermost counts.
        names: Names of the options in it.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        setattr(error, _GROUP, (group, tuple(names)))
        raise


def as_typed(error: Exception) -> str:
    """The message of an error with its options as they are typed on the command line.

    Example:
        >>> error = ValueError("val_share is 2; give val_share=0.1, or a val_split")
        >>> with contextlib.suppress(ValueError), options_in("data_options", ["val_share", "val_split"]):
        ...     raise error
        >>> as_typed(error)
        '--data_options.val_share is 2; give --data_options.val_share 0.1, or a --data_options.val_split'
    """
    message = str(error)
    group, names = getattr(error, _GROUP, ("", ()))
    for name in names:
        message = _renamed(message, name, f"--{group}.{name}")
    return message


def _renamed(message: str, name: str, typed: str) -> str:
    """A message with an option under another name: with a value, as the subject, and elsewhere.

    A name without an underscore is a word of English as well, so that it is no option anywhere else.
    """

    def with_value(match: re.Match[str]) -> str:
        value = match[1]  # of Python; a shell and YAML take it otherwise
        return f"{typed} '{value}'" if value.startswith("[") else f"{typed} {_YAML_WORDS.get(value, value)}"

    message = re.sub(rf"{_BARE}{name}=({_VALUE})", with_value, message)
    message = re.sub(rf"(^|[:;.)] ){name} is ", rf"\g<1>{typed} is ", message)
    return re.sub(rf"{_BARE}{name}(?![\w/'\"=-]|\.\w)", typed, message) if "_" in name else message


# -- types that can be written as text ----------------------------------------------------------

_KINDS: dict[str, Any] = {
    "Any": Any,
    "bool": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "Iterable": list,
    "list": list,
    "Mapping": dict,
    "object": Any,
    "Sequence": list,
    "str": str,
}
_ORDER = (dict, list, bool, int, float, str, type(None))
"""The order in which a text is tried as each of the types; any text is a str."""


def written_type(annotation: str) -> Any:
    """The part of a type whose values can be written as text: `Network | str | None` gives `str | None`.

    Args:
        annotation: The annotation as it stands in the source. Mappings become dict, sequences list; classes other than
            those that YAML has are left out.

    Example:
        >>> written_type("SearchSpace | Mapping[str, Any] | str") == dict[str, Any] | str
        True
    """
    members = _members(ast.parse(annotation, mode="eval").body)
    rank = {kind: place for place, kind in enumerate(_ORDER)}
    members = sorted(dict.fromkeys(members), key=lambda kind: rank.get(getattr(kind, "__origin__", kind), 0))
    return _union(members)


def _union(members: Sequence[Any]) -> Any:
    if not members:
        return type(None)
    union = members[0]
    for member in members[1:]:
        union = union | member
    return union


def _members(node: ast.expr) -> list[Any]:
    """The members of a union that can be written as text."""
    if isinstance(node, ast.BinOp):
        return _members(node.left) + _members(node.right)
    if isinstance(node, ast.Constant) and node.value is None:
        return [type(None)]
    if isinstance(node, ast.Name):
        return [_KINDS[node.id]] if node.id in _KINDS else []
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        return []
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if node.value.id == "Literal":
        return [Literal[tuple(ast.literal_eval(item) for item in items)]]
    if node.value.id not in _KINDS:
        return []
    inner = [_members(item) for item in items]
    return [_KINDS[node.value.id][tuple(map(_union, inner))]] if all(inner) else []


# -- values as YAML has them --------------------------------------------------------------------


_PLACEHOLDER_END = " that was given in Python>"


def to_yaml(options: Options) -> str:
    """All options as YAML; `--config` reads them.

    A value that only Python has, such as a module, is written as a text that no option accepts, and a comment in the
    first line says so.
    """
    import yaml

    values = {name: _plain(getattr(options, name)) for name in options_of(type(options))}
    names = only_in_python(values)
    comment = f"# Given in Python, so that --config cannot read this file: {', '.join(names)}\n" if names else ""
    return comment + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def only_in_python(values: Mapping[str, object]) -> list[str]:
    """Names of the options whose values, or parts of them, `to_yaml` could not write."""
    return [name for name, value in values.items() if _has_placeholder(value)]


def _has_placeholder(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_placeholder, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_placeholder, value))
    return isinstance(value, str) and value.startswith("<") and value.endswith(_PLACEHOLDER_END)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool):  # before int, which bool inherits from
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if callable(to_dict := getattr(value, "to_dict", None)):
        return _plain(to_dict())
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if callable(to_list := getattr(value, "tolist", None)):  # of arrays and tensors
        return _plain(to_list())
    text = _as_text(value)
    return f"<{type(value).__name__}{_PLACEHOLDER_END}" if text is None else text


def _as_text(value: object) -> str | None:
    """An architecture as its text, which parses back."""
    module = sys.modules.get("search_spaces.space")
    return str(value) if module is not None and isinstance(value, module.Architecture) else None
