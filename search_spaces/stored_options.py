"""Which options a file may hand to a factory: plain values, and no name that makes a library load something.

A recipe of a space, a YAML file and the card of a student are read from disk and come from anybody. Their options reach
functions such as `timm.create_model`, some of whose options open files, fetch weights or unpickle. Options from disk
pass `check_stored_options` first; options from Python are the caller's own and pass unchecked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping

import timm
from timm.models import build_model_with_cfg


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
    """A stored option that could load files or code, or that is no plain value."""


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
