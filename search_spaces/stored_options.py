"""Which options may reach a factory: names that a network's constructor takes, and from files plain values only.

Options reach functions such as `timm.create_model`, some of whose own options open files, fetch weights or unpickle.
All options of a model of timm pass `check_model_options`, whoever gives them: weights are loaded by this package, which
runs no code from a file. A recipe of a space, a YAML file and the card of a student come from anybody; their options
pass `check_stored_options` as well.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

import timm
from timm.models import build_model_with_cfg, model_entrypoint
from torch import nn

from .option_types import check_names, shown
from .registry import UnknownNameError, near_names


def _loader_options() -> frozenset[str]:
    """Options that timm's own loading code takes, in the version that is installed."""
    loaders: tuple[Callable[..., object], ...] = (timm.create_model, build_model_with_cfg)
    parameters = (p for loader in loaders for p in inspect.signature(loader).parameters.values())
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return frozenset(names - {"model_name", "model_cls", "variant"})  # what is built, which loads nothing


REFUSED_OPTIONS = _loader_options() | {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "features_only",
    "trust_remote_code",
}
"""Options that can load files, weights or code: all of timm's loaders in the installed version, and those above."""


class UnsafeOptionError(ValueError):
    """An option that could load files or code, or a stored one that is no plain value."""


def check_model_options(
    model: str, options: Mapping[str, object], where: str, others: Collection[str] = ("checkpoint", "pretrained")
) -> None:
    """Refuse options that are no arguments of a model's constructor, whether they are stored or given.

    Args:
        model: A name that `timm.list_models()` knows.
        options: Options by name; a name may be a path, as in `block_args.attn_layer`.
        where: The network or file that they belong to, for messages.
        others: Names that a user may set beside these options, which may be meant by a name that is not known.

    Raises:
        UnsafeOptionError: An option, at any depth, can load files or code.
        UnknownNameError: The model has no such option; near names are given.

    Example:
        >>> check_model_options("resnet18", {"drop_rate": 0.1}, "The teacher")
        >>> check_model_options("resnet18", {"checkpoint_path": "weights.pth"}, "The teacher")
        Traceback (most recent call last):
        ...
        search_spaces.stored_options.UnsafeOptionError: The teacher: the option 'checkpoint_path' can load files or ...
    """
    check_names(options, where)
    check_sizes(options, where)
    for name, value in options.items():
        _check_loads_nothing(name, where)
        _check_nested(value, where)
        head = name.split(".")[0]
        allowed = _arguments_of(model)
        if allowed is not None and head not in allowed:
            near = near_names(head, {*allowed, *others})
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UnknownNameError(f"{where}: timm's model {model} has no option {shown(head)}.{hint}")


def _check_loads_nothing(name: str, where: str) -> None:
    for part in name.split("."):
        if part in REFUSED_OPTIONS:
            raise UnsafeOptionError(
                f"{where}: the option {part!r} can load files or code, so it is not passed on. Trained weights are "
                "given by the option checkpoint, or by pretrained where a network has it."
            )


def _check_nested(value: object, where: str) -> None:
    """Refuse refused names within a value."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            _check_loads_nothing(str(name), where)
            _check_nested(entry, where)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_nested(entry, where)


@functools.cache
def _arguments_of(model: str) -> frozenset[str] | None:
    """Names that the constructors and builders in the module of a model take; None if the module is a user's own.

    A user's function may pass any name on, which its signature does not show.
    """
    entry = model_entrypoint(model)
    names = set(_parameters(entry))
    if entry.__module__.partition(".")[0] not in ("timm", "search_spaces"):
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(entry).parameters.values())
        return None if takes_any else frozenset(names)
    module = sys.modules[entry.__module__]
    for maker in _makers(module):
        names.update(_parameters(maker))
    return frozenset(names | _BATCH_NORM) - REFUSED_OPTIONS - {"self", "variant", "default_cfg"}


_BATCH_NORM = {"bn_eps", "bn_momentum"}
"""Options that timm's builders of EfficientNets take out of their keywords."""


def _makers(module: ModuleType) -> Iterator[Callable[..., object]]:
    """The constructors of networks and the builders of variants in a module."""
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, nn.Module):
            yield from (
                base.__init__ for base in value.__mro__ if issubclass(base, nn.Module) and base is not nn.Module
            )
        elif inspect.isfunction(value) and "variant" in inspect.signature(value).parameters:
            yield value


def _parameters(function: Callable[..., object]) -> Iterator[str]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield parameter.name


def check_stored_options(options: Mapping[str, object], where: str, *, documented: Collection[str] = ()) -> None:
    """Refuse stored options that are not plain values, or whose names can make a library load files or code.

    Args:
        options: Options by name, as read from a file. A name may be a path, as in `block_args.attn_layer`.
        where: The file or recipe that they come from, for messages.
        documented: Names that the factory documents as its own; they are allowed at the top level.

    Raises:
        UnsafeOptionError: A name is refused, at any depth, or a value is not text, a number, true, false, null, or a
            list or mapping of these.

    Example:
        >>> check_stored_options({"depths": [2, 2, 6, 2], "drop_rate": 0.1}, "tiny.yaml")
        >>> check_stored_options({"checkpoint_path": "weights.pth"}, "tiny.yaml")
        Traceback (most recent call last):
        ...
        search_spaces.stored_options.UnsafeOptionError: tiny.yaml: the option 'checkpoint_path' ...
    """
    if not isinstance(options, Mapping):
        raise UnsafeOptionError(f"{where}: options must be a mapping of names to values, not {options!r}.")
    for name, value in options.items():
        if name not in documented:
            _check_name(name, where)
        _check_value(value, f"{where}: {name!r}")


def _check_name(name: object, where: str) -> None:
    for part in str(name).split("."):
        if part in REFUSED_OPTIONS:
            raise UnsafeOptionError(
                f"{where}: the option {part!r} can load files or code, so a stored recipe cannot set it. Remove it; "
                "networks that are built from a file start with random weights."
            )


def _check_value(value: object, where: str) -> None:
    if value is None or isinstance(value, str | int | float | bool):
        return
    if isinstance(value, list | tuple):
        for entry in value:
            _check_value(entry, where)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, str | int | float | bool):
                raise UnsafeOptionError(f"{where} has the key {name!r}; keys must be text or numbers.")
            _check_name(name, where)
            _check_value(entry, f"{where}: {name!r}")
    else:
        raise UnsafeOptionError(
            f"{where} is {value!r} ({type(value).__name__}); a stored option must be text, a number, true, false, "
            "null, or a list or mapping of these."
        )


# -- sizes --------------------------------------------------------------------------------------

MAX_LAYERS = 2000
"""The largest number of layers that an option may ask for; a network of more takes minutes and gigabytes to make."""

MAX_SIZE = 1_000_000
"""The largest whole number of any other option, such as channels."""

_LAYERS = re.compile("depth|layer|block|repeat|stage")


def check_sizes(options: Mapping[str, object], where: str) -> None:
    """Refuse whole numbers that no network has, before it is made: making it would take all time and memory.

    Args:
        options: Options of a network by name, whether they are stored or given.
        where: The network or file that they belong to, for messages.

    Raises:
        ValueError: A number of layers is above `MAX_LAYERS`, or any other whole number except a seed above `MAX_SIZE`.

    Example:
        >>> check_sizes({"depth": 12, "embed_dim": 192}, "The student")
        >>> check_sizes({"depth": 100_000_000}, "The student")
        Traceback (most recent call last):
        ...
        ValueError: The student: depth is 100000000; a network has at most 2,000 layers.
    """
    for name, value in options.items():
        counts_layers = bool(_LAYERS.search(str(name).lower()))
        for number in _numbers_in(value, where):
            if counts_layers and isinstance(number, int) and number > MAX_LAYERS:
                raise ValueError(f"{where}: {name} is {shown(value)}; a network has at most {MAX_LAYERS:,} layers.")
            if isinstance(number, int) and abs(number) > MAX_SIZE and not str(name).lower().endswith("seed"):
                raise ValueError(
                    f"{where}: {name} is {shown(value)}; a whole number of a network is at most {MAX_SIZE:,}."
                )


def _numbers_in(value: object, where: str) -> Iterator[float]:
    """The numbers in a value; those in a mapping are checked by their own names."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers_in(entry, where)
    elif isinstance(value, Mapping):
        check_sizes(value, where)


# -- arguments of a user's own code -------------------------------------------------------------

_WEIGHTS = re.compile("pretrain|weights|checkpoint|ckpt|download|load|resume")
"""Parts of names of arguments that make code fetch trained weights, whatever their value."""

_PLACES = re.compile("weight|path|file|url|uri|root|state|dir|folder|cache|repo|hub|script|import")
"""Parts of names of arguments whose texts can name a file, an address or code; their numbers are harmless."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_+-]{1,64}( [A-Za-z0-9_+-]{1,64}){0,3}")

_MAX_ENTRIES = 100


def loads_weights(name: str) -> bool:
    """Whether an argument of this name makes code fetch trained weights, which a student has in a file of its own."""
    return bool(_WEIGHTS.search(str(name).lower()))


def storable_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of a user's own code that a card may hold, see `check_own_arguments`.

    Example:
        >>> storable_arguments({"width": 8, "act": "relu6", "weights": "IMAGENET1K_V1", "file": "a.yaml"})
        {'width': 8, 'act': 'relu6'}
    """
    return {name: value for name, value in arguments.items() if not _fault_of_argument(name, value)}


def check_own_arguments(arguments: Mapping[str, object], where: str) -> None:
    """Refuse stored arguments of a user's own code that could make it read a file or an address.

    The user trusts the code, not whoever wrote the card. An argument is a number, true, false, null, a plain word, or a
    short list or mapping of these. None whose name speaks of weights has a value, and none whose name speaks of a place
    has a text.

    Args:
        arguments: Arguments by name, as read from a file.
        where: The file that they come from, for messages.

    Raises:
        UnsafeOptionError: There is another one.
        ValueError: A whole number is too large for a network.

    Example:
        >>> check_own_arguments({"num_classes": 10, "act": "relu6"}, "config.json")
        >>> check_own_arguments({"weights": "IMAGENET1K_V1"}, "config.json")
        Traceback (most recent call last):
        ...
        search_spaces.stored_options.UnsafeOptionError: config.json: 'weights' ...
    """
    if not isinstance(arguments, Mapping):
        raise UnsafeOptionError(f"{where}: arguments must be a mapping of names to values, not {shown(arguments)}.")
    for name, value in arguments.items():
        if fault := _fault_of_argument(name, value):
            raise UnsafeOptionError(
                f"{where}: {shown(name)} {fault}. Code of your own does not run with it because a file says so; make "
                "the network or the space yourself, and give that."
            )
    check_sizes(arguments, where)


def _fault_of_argument(name: object, value: object) -> str:
    """Why a card may not hold an argument; empty if it may."""
    if not isinstance(name, str):
        return "is no name of an argument"
    if loads_weights(name) and value not in (None, False):
        return "can load trained weights or files"
    return _fault_of_value(value, is_place=bool(_PLACES.search(name.lower())))


def _fault_of_value(value: object, *, is_place: bool) -> str:
    if value is None or isinstance(value, int | float):
        return ""
    if isinstance(value, str):
        if is_place:
            return f"is {shown(value)}, which can name a file, an address or code"
        return "" if _PLAIN_WORD.fullmatch(value) else f"is {shown(value)}, which is no plain word"
    if isinstance(value, list | tuple | Mapping) and len(value) > _MAX_ENTRIES:
        return f"has {len(value):,} entries; it may have {_MAX_ENTRIES}"
    if isinstance(value, Mapping):
        faults = (_fault_of_argument(key, entry) for key, entry in value.items())
    elif isinstance(value, list | tuple):
        faults = (_fault_of_value(entry, is_place=is_place) for entry in value)
    else:
        return f"is a {type(value).__name__}, which is no plain value"
    return next(filter(None, faults), "")
