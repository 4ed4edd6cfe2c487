"""What can be a student: search spaces over networks that follow timm's model contract.

Importing this package registers our networks with timm (`timm.create_model("nasbench201", arch=...)`).
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

from .cifar_resnet import CifarResNet, CifarResNetSpace, cifar_resnet_s0
from .cost import Cost, count_cost
from .importers import import_table
from .nasbench201 import NASBench201Network, NASBench201Space
from .registry import Registry, UnknownNameError
from .space import Architecture, ArchitectureError, SearchSpace
from .tables import AccuracyTable, list_columns, read_table, write_table
from .timm_families import TIMM_FAMILIES
from .timm_space import TimmSpace, load_space
from .timm_zoo import TimmZoo
from .weights import load_checkpoint

__all__ = [
    "AccuracyTable",
    "Architecture",
    "ArchitectureError",
    "CifarResNet",
    "CifarResNetSpace",
    "Cost",
    "NASBench201Network",
    "NASBench201Space",
    "SearchSpace",
    "TimmSpace",
    "TimmZoo",
    "UnknownNameError",
    "count_cost",
    "create_space",
    "describe_space",
    "import_table",
    "list_columns",
    "list_spaces",
    "load_checkpoint",
    "load_space",
    "read_table",
    "register_space",
    "write_table",
]

_SPACES: Registry[Callable[..., SearchSpace]] = Registry("search space")


def register_space(name: str, factory: Callable[..., SearchSpace]) -> None:
    """Make a space known to `create_space` and to the command line.

    Args:
        name: A new name.
        factory: A class or function that makes the space; takes `num_classes`, `input_size` and options of
            its own by keyword, and its docstring opens with one line that says what the space is.

    Raises:
        ValueError: The name is taken.
    """
    _SPACES.register(name, factory)


def create_space(name: str, **options: Any) -> SearchSpace:
    """Make a search space by name.

    Args:
        name: One of `list_spaces()`, or the path of a YAML file (`.yaml`, `.yml`) that `load_space` reads.
        options: `num_classes`, `input_size` and the options of the space.

    Raises:
        UnknownNameError: No space has this name.
        FileNotFoundError: There is no such file.
        ValueError: The space has no such option, or not such a value of it.
    """
    space = load_space(name, **options) if name.endswith((".yaml", ".yml")) else _make_space(name, options)
    space.recipe = {"name": name, **options}
    return space


def _make_space(name: str, options: dict[str, Any]) -> SearchSpace:
    factory = _SPACES[name]
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        allowed = ", ".join(signature.parameters)
        raise ValueError(f"Search space {name!r}: {error}; its options: {allowed}.") from None
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"Search space {name!r}: an option has the wrong type: {error}.") from error


def list_spaces(pattern: str = "*") -> list[str]:
    """Names of the known spaces that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_SPACES, pattern))


def describe_space(name: str) -> str:
    """What a space is, in one line.

    Raises:
        UnknownNameError: No space has this name.
    """
    return (inspect.getdoc(_SPACES[name]) or "").partition("\n")[0]


register_space("nasbench201", NASBench201Space)
register_space("cifar_resnet", CifarResNetSpace)
register_space("cifar_resnet_s0", cifar_resnet_s0)
for _name, _family in TIMM_FAMILIES.items():
    register_space(_name, _family)
register_space("timm/zoo", TimmZoo)
