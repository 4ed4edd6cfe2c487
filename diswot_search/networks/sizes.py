"""Networks that are too large for the machine, told before memory is taken for their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..checks import check_memory
from ..runtime.seeding import isolated_random_state

_LARGE = 4096
"""Options up to this number make layers of some 100 MB at most, so that building the network is no danger."""


class _TooLargeError(ValueError):
    """The weights so far take more than the memory."""


def check_weights_fit(build: Callable[[], nn.Module], options: Mapping[str, object], where: str) -> None:
    """Refuse a network whose weights the machine cannot hold, if an option is so large that this is possible.

    The network is built without memory for its weights, which are counted as they are made.

    Args:
        build: Makes the network.
        options: Its options.
        where: The network, for the message.

    Raises:
        ValueError: Its weights take more than the memory.
    """
    if not any(_is_large(value) for name, value in options.items() if name not in ("num_classes", "seed")):
        return
    taken = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal taken
        taken += 0 if parameter is None else parameter.numel() * parameter.element_size()
        check_memory(f"{where}: its weights", taken, error=_TooLargeError)

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), isolated_random_state(0):
            build()
    except _TooLargeError:
        raise
    except Exception:  # some code cannot be run without memory; building the network says what is wrong
        return
    finally:
        handle.remove()


def _is_large(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_large, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_large, value))
    return isinstance(value, int) and value > _LARGE
