"""Networks that code of a user's own makes: which arguments it gets, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from search_spaces.plugins import OwnCodeError, failure_of, load_code
from search_spaces.registry import near_names
from search_spaces.stored_options import check_sizes

from ..runtime.failures import stop_if_machine_failed
from ..runtime.seeding import isolated_random_state
from .sizes import check_weights_fit

DATA_ARGUMENTS = ("num_classes", "in_chans", "img_size")
"""Arguments that follow from the data; the user's own code need not take them."""


def factory_of_network(name: str) -> Callable[..., nn.Module]:
    """The class or function that a user names for a network; its module is imported.

    Raises:
        OwnCodeError: The code cannot be loaded, or is no class or function.
    """
    factory = load_code(name)
    if not callable(factory) or isinstance(factory, nn.Module):
        kind = type(factory).__name__
        raise OwnCodeError(f"{name} is a {kind}; a network is named by a class or function that makes it.")
    return factory


def accepted_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those of `DATA_ARGUMENTS` that the code does not take.

    The signature tells which it takes. Code that takes any keyword may hand it on to code that does not take it, which
    building the network tells.

    Args:
        name: The class or function, as `module:name` or `file.py:name`.
        arguments: Arguments by name.

    Raises:
        OwnCodeError: The code cannot be loaded, is no class or function, or does not take an argument.
        ValueError: A whole number among the arguments is too large for a network.
    """
    factory = factory_of_network(name)
    parameters = inspect.signature(factory).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    own = {
        key: value
        for key, value in arguments.items()
        if key in named or (takes_all and key != "img_size") or key not in DATA_ARGUMENTS
    }
    if unknown := [key for key in own if key not in named and not takes_all]:
        near = near_names(unknown[0], named)
        hint = f"did you mean {' or '.join(map(repr, near))}? It takes" if near else "it takes"
        raise OwnCodeError(f"{name} takes no {', '.join(unknown)}; {hint} {', '.join(sorted(named)) or 'nothing'}.")
    check_sizes(own, f"The network {name}")
    check_weights_fit(lambda: factory(**own), own, f"The network {name}")
    return _tried(factory, own, [key for key in DATA_ARGUMENTS if key in own and key not in named])


def _tried(factory: Callable[..., nn.Module], arguments: dict[str, Any], passed_on: list[str]) -> dict[str, Any]:
    """The arguments without those of `passed_on` that the code behind a keyword of any name refuses."""
    while passed_on:
        try:
            with isolated_random_state(0):
                factory(**arguments)
        except TypeError as error:
            if not (refused := [key for key in passed_on if f"'{key}'" in str(error)]):
                break
            passed_on = [key for key in passed_on if key not in refused]
            arguments = {key: value for key, value in arguments.items() if key not in refused}
        except Exception:  # a user's own code may fail in any way; building the network says so
            break
        else:
            break
    return arguments


def build_own(factory: object, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a class or function makes.

    Args:
        factory: The class or function.
        name: Its name, for messages.
        arguments: Its arguments by name.

    Raises:
        OwnCodeError: The code fails, or makes no module.
        MachineError: The machine fails, as for lack of memory.
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise OwnCodeError(f"{name} is a {type(factory).__name__}; a network is made by a class or function.")
    try:
        network = factory(**arguments)
    except Exception as error:  # a user's own code may fail in any way
        stop_if_machine_failed(error, f"in {name}")
        raise OwnCodeError(f"{name} fails with {dict(arguments)}: {failure_of(error)}.") from error
    if not isinstance(network, nn.Module):
        raise OwnCodeError(f"{name} makes a {type(network).__name__}; it must make a torch.nn.Module.")
    return network
