"""Spaces by name, and from their recipes: the name and options that a run folder stores to make a space again."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .option_types import check_call
from .plugins import OwnCodeError, UntrustedCodeError, failure_of, is_code, stored_code
from .registry import Registry, near_names
from .space import SearchSpace
from .stored_options import UnsafeOptionError, check_own_arguments, check_stored_options
from .timm_space import load_space
from .union import UnionSpace

SpaceFactory = Callable[..., SearchSpace]
"""A class or function that makes a space."""


def _adopt(name: str, value: object) -> SpaceFactory:
    """The factory that a user's own code has under a name."""
    if isinstance(value, SearchSpace):
        return _Given(name, value)
    if not callable(value):
        raise OwnCodeError(f"{name} is a {type(value).__name__}; a search space is a class or function that makes one.")
    return value


class _Given:
    """The factory of a space that is an object already."""

    def __init__(self, name: str, space: SearchSpace) -> None:
        self.name, self.space, self.__doc__ = name, space, type(space).__doc__

    def __call__(self, num_classes: int | None = None, input_size: Sequence[int] | None = None) -> SearchSpace:
        space = self.space
        classes, size = num_classes or space.num_classes, tuple(input_size or space.input_size)
        if (classes, size) != (space.num_classes, space.input_size):
            raise ValueError(
                f"{self.name} is a space for {space.num_classes} classes of {space.input_size}, but {classes} classes "
                f"of {size} are needed; name a class or a function with num_classes and input_size instead."
            )
        return space


_SPACES: Registry[SpaceFactory] = Registry("search space", _adopt)


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


def create_space(name: str | Sequence[str], **options: object) -> SearchSpace:
    """Make a search space by name, or one of several.

    Args:
        name: One of `list_spaces()`; the path of a YAML file (`.yaml`, `.yml`) that `load_space` reads; a class or
            function of your own as `module:name` or `file.py:name`; or several of these, which make a `UnionSpace`.
        options: `num_classes`, `input_size` and the options of the space. Those of several spaces go to each that
            takes them; a mapping under the name of one of them holds options of that one alone.

    Returns:
        The space; its `recipe` holds the name and the options.

    Raises:
        UnknownNameError: No space has this name.
        FileNotFoundError: There is no such file.
        ValueError: The space has no such option, or the option cannot have this value.

    Example:
        >>> create_space("cifar_resnet_s0", num_classes=100)
        <CifarResNetSpace 'cifar_resnet_s0': 64 architectures, 100 classes>
        >>> create_space(["cifar_resnet_s0", "nasbench201"], num_classes=100, cells=1).size
        15689
    """
    names = check_names(name)
    factories = {one: None if is_file(one) else _SPACES[one] for one in names}
    return _built(factories, _shares(factories, options), options)


def is_file(name: str) -> bool:
    """Whether the name of a space is the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


def check_names(names: object) -> list[str]:
    """The names of one space or of several, each once.

    Raises:
        ValueError: There is none, one is given twice, or they are something else than names.
    """
    several = [names] if isinstance(names, str) else list(names) if isinstance(names, Sequence) else []
    if not several or not all(isinstance(name, str) for name in several):
        raise ValueError(f"{names!r} names no search space; give a name, or a list of names.")
    if twice := sorted({name for name in several if several.count(name) > 1}):
        raise ValueError(f"The search space {', '.join(twice)} is given twice.")
    return several


def _built(
    factories: Mapping[str, SpaceFactory | None],
    shares: Mapping[str, Mapping[str, object]],
    options: Mapping[str, object],
) -> SearchSpace:
    """The space, or the union of several, with its recipe; each space is made with its share of the options."""
    spaces = []
    for name, factory in factories.items():
        share: dict[str, Any] = dict(shares[name])
        space = load_space(name, **share) if factory is None else _make_space(name, factory, share)
        space.recipe = {"name": name, **share}
        spaces.append(space)
    if len(spaces) == 1:
        return spaces[0]
    union = UnionSpace(spaces)
    union.recipe = {"name": list(factories), **options}
    return union


def _shares(
    factories: Mapping[str, SpaceFactory | None], options: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """The options of each of several spaces: those that it takes, and those under its name. One space has them all."""
    if len(factories) == 1:
        return {name: dict(options) for name in factories}
    shares: dict[str, dict[str, object]] = {name: {} for name in factories}
    for option, value in options.items():
        if option in factories:
            continue
        takers = [name for name, factory in factories.items() if _takes(factory, option)]
        if not takers:
            known = {name for factory in factories.values() for name in _documented_options(factory)}
            near = near_names(option, known)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"they have {', '.join(sorted(known))}."
            raise ValueError(f"None of the search spaces {', '.join(factories)} has the option {option!r}; {hint}")
        for name in takers:
            shares[name][option] = value
    for name in factories:
        own = options.get(name, {})
        if not isinstance(own, Mapping):
            raise ValueError(f"The options of the space {name!r} are {own!r}; they must be a mapping.")
        shares[name] |= dict(own)
    return shares


def _takes(factory: SpaceFactory | None, option: str) -> bool:
    """Whether a space has an option; those of a file are what `load_space` takes."""
    parameters = inspect.signature(load_space if factory is None else factory).parameters.values()
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)


def _make_space(name: str, factory: SpaceFactory, options: Mapping[str, Any]) -> SearchSpace:
    check_call(factory, options, f"Search space {name!r}")
    try:
        space = factory(**options)
    except TypeError as error:
        raise ValueError(f"Search space {name!r}: an option has the wrong type: {error}.") from error
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # a user's own code may fail in any way
        raise OwnCodeError(f"Search space {name!r} cannot be made: {failure_of(error)}.") from error
    if not isinstance(space, SearchSpace):
        raise OwnCodeError(f"{name} makes a {type(space).__name__}; it must make a SearchSpace.")
    return space


def list_spaces(pattern: str = "*") -> list[str]:
    """Names of the registered spaces that match a shell pattern, sorted.

    Example:
        >>> list_spaces("cifar*")
        ['cifar_resnet', 'cifar_resnet_s0']
    """
    return sorted(fnmatch.filter(_SPACES, pattern))


def describe_space(name: str) -> str:
    """The first line of a space's own docstring.

    Raises:
        UnknownNameError: No space has this name.

    Example:
        >>> describe_space("nasbench201")
        'The cell space of NAS-Bench-201.'
    """
    return (_SPACES[name].__doc__ or "").strip().partition("\n")[0]


def space_factory(name: str) -> SpaceFactory:
    """The class or function that makes a space, registered or of the user's own; its docstring describes the space.

    Raises:
        UnknownNameError: No space has this name.
    """
    return _SPACES[name]


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
    """Make a space again from its recipe. No recipe can run code that the user did not name.

    The options of a recipe pass `check_stored_options`. Code of a user's own passes `plugins.stored_code`, and its
    options pass `check_own_arguments`.

    Args:
        recipe: The name of the space, or the names of several, and the options, as `SearchSpace.recipe` holds them.

    Returns:
        The space; None if there is no recipe, or its name, file or options are no longer valid.

    Raises:
        UnsafeOptionError: The recipe, or the YAML file that it names, sets an option that can load files or code, or an
            option that is no plain value.
        UntrustedCodeError: The recipe names code that the user did not name in this process, or hands it an option that
            may name a file or weights.
    """
    if not recipe:
        return None
    name = recipe.get("name") if isinstance(recipe, Mapping) else None
    names = [name] if isinstance(name, str) else name
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise UnsafeOptionError(f"A recipe of a space is a mapping with the space's name and options, not {recipe!r}.")
    options = {option: value for option, value in recipe.items() if option != "name"}
    try:
        factories = {one: _stored_factory(one) for one in names}
        shares = _shares(factories, options)
    except OwnCodeError:
        raise
    except ValueError:  # a space or an option is not there any more
        check_stored_options(options, f"The recipe of the space {name!r}")
        return None
    try:
        for one, share in shares.items():
            where = f"The recipe of the space {one!r}"
            if is_code(one):
                _check_own(share, where)
            else:
                check_stored_options(share, where, documented=_documented_options(factories[one]))
        return _built(factories, shares, options)
    except (UnsafeOptionError, OwnCodeError):
        raise
    except (ValueError, OSError):
        return None


def _check_own(options: Mapping[str, object], where: str) -> None:
    try:
        check_own_arguments(options, where)
    except UnsafeOptionError as error:
        raise UntrustedCodeError(str(error)) from error


def _stored_factory(name: str) -> SpaceFactory | None:
    """The factory that a recipe names; None for a file."""
    if is_code(name):
        return _SPACES.own(name, stored_code(name, "The search space"))
    return None if is_file(name) else _SPACES[name]


def _documented_options(factory: SpaceFactory | None) -> Collection[str]:
    """Options that a factory names in its signature."""
    parameters = inspect.signature(factory).parameters.values() if factory else ()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
