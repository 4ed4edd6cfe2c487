"""Spaces by name, and from their recipes: the name and options that a run folder stores to make a space again."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Callable, Collection, Mapping

from .option_types import check_call
from .registry import Registry
from .space import SearchSpace
from .stored_options import UnsafeOptionError, check_stored_options
from .timm_space import load_space

_SPACES: Registry[Callable[..., SearchSpace]] = Registry("search space")


# -- by name ------------------------------------------------------------------------------------


def register_space(name: str, factory: Callable[..., SearchSpace]) -> None:
    """Make a space known to `create_space` and to the command line.

    Args:
        name: A new name.
        factory: A class or function that makes the space. It takes `num_classes`, `input_size` and options of its own
            by keyword. The first line of its docstring describes the space.

    Raises:
        ValueError: The name is taken.
    """
    _SPACES.register(name, factory)


def create_space(name: str, **options: object) -> SearchSpace:
    """Make a search space by name.

    Args:
        name: One of `list_spaces()`, or the path of a YAML file (`.yaml`, `.yml`) that `load_space` reads.
        options: `num_classes`, `input_size` and the options of the space.

    Returns:
        The space; its `recipe` holds the name and the options.

    Raises:
        UnknownNameError: No space has this name.
        FileNotFoundError: There is no such file.
        ValueError: The space has no such option, or the option cannot have this value.

    Example:
        >>> create_space("cifar_resnet_s0", num_classes=100)
        <CifarResNetSpace 'cifar_resnet_s0': 64 architectures, 100 classes>
    """
    space = load_space(name, **options) if _is_file(name) else _make_space(name, options)
    space.recipe = {"name": name, **options}
    return space


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _make_space(name: str, options: dict[str, object]) -> SearchSpace:
    factory = _SPACES[name]
    check_call(factory, options, f"Search space {name!r}")
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"Search space {name!r}: an option has the wrong type: {error}.") from error


def list_spaces(pattern: str = "*") -> list[str]:
    """Names of the registered spaces that match a shell pattern, sorted.

    Example:
        >>> list_spaces("cifar*")
        ['cifar_resnet', 'cifar_resnet_s0']
    """
    return sorted(fnmatch.filter(_SPACES, pattern))


def describe_space(name: str) -> str:
    """The first line of a space's docstring.

    Raises:
        UnknownNameError: No space has this name.
    """
    return (inspect.getdoc(_SPACES[name]) or "").partition("\n")[0]


# -- by recipe ----------------------------------------------------------------------------------


def recipe_of(space: SearchSpace | None) -> str:
    """The recipe of a space as JSON text.

    Returns:
        The text; `null` where there is no space, no recipe, or an option that JSON cannot hold.
    """
    try:
        return json.dumps(space.recipe if space else None)
    except TypeError:
        return "null"


def space_from_recipe(recipe: Mapping[str, object] | None) -> SearchSpace | None:
    """Make a space again from its recipe. No recipe can run code: its options pass `check_stored_options`.

    Args:
        recipe: The name of the space and its options, as `SearchSpace.recipe` holds them.

    Returns:
        The space; None if there is no recipe, or its name, file or options are no longer valid.

    Raises:
        UnsafeOptionError: The recipe, or the YAML file that it names, sets an option that can load files or code, or an
            option that is no plain value.
    """
    if not recipe:
        return None
    name = recipe.get("name") if isinstance(recipe, Mapping) else None
    if not isinstance(name, str):
        raise UnsafeOptionError(f"A recipe of a space is a mapping with the space's name and options, not {recipe!r}.")
    options = {option: value for option, value in recipe.items() if option != "name"}
    check_stored_options(options, f"The recipe of the space {name!r}", documented=_documented_options(name))
    try:
        return create_space(name, **options)
    except UnsafeOptionError:
        raise
    except (ValueError, OSError):
        return None


def _documented_options(name: str) -> Collection[str]:
    """Options that the factory of a registered space names in its signature."""
    factory = _SPACES.get(name)
    parameters = inspect.signature(factory).parameters.values() if factory else ()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
