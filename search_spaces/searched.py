"""Networks of stored architectures, also for timm: those that no entry point of timm with arguments builds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import register_model
from torch import nn

from .contract import build_for_timm
from .recipes import space_from_recipe
from .space import SearchSpace


def stored_space(stored: Mapping[str, Any], name: str) -> SearchSpace:
    """The space of a stored architecture.

    Args:
        stored: Recipe, configuration and architecture, by the names `recipe`, `config` and `architecture`.
        name: Name of the network, for messages.

    Raises:
        UnsafeOptionError: The recipe sets an option that can load files or code.
        UntrustedCodeError: The recipe names code that the user did not name in this process.
        ValueError: The space cannot be made again, or is another one by now.
    """
    space = space_from_recipe(stored["recipe"])
    if space is None or json.loads(json.dumps(space.config())) != stored["config"]:
        raise ValueError(
            f"The space of {name} cannot be made again by name; build the architecture "
            f"{stored['architecture']} yourself and load its weights by load_student(path, model=...)."
        )
    return space


@register_model
def searched_network(pretrained: bool = False, space: Mapping[str, Any] | None = None, **kwargs: Any) -> nn.Module:
    """The network of an architecture in a search space, for `timm.create_model("local-dir:...")` of a saved student.

    Many architectures need more than arguments of one of timm's own models. timm builds those by this entry point.

    Args:
        pretrained: Load the weights of the folder.
        space: Recipe, configuration and architecture, as `stored_space` takes them.
        kwargs: Arguments that timm passes on; of the network's own ones, `num_classes` and `in_chans`.

    Raises:
        RuntimeError: `pretrained` without a source of weights, or `features_only`.
        TypeError: There is no `space`, or an argument that these networks do not take.
        ValueError: The space cannot be made again.
    """
    if not isinstance(space, Mapping) or {"recipe", "config", "architecture"} - space.keys():
        raise TypeError("searched_network needs `space`, as the config.json of a saved student holds it.")
    name = str(space["architecture"])
    made = stored_space(space, name)
    size = made.input_size

    def make(
        num_classes: int = made.num_classes, in_chans: int = size[0], img_size: int | Sequence[int] = size[1:]
    ) -> nn.Module:
        # timm names the size again for networks that are made for one.
        if ((img_size, img_size) if isinstance(img_size, int) else tuple(img_size)) != size[1:]:
            raise ValueError(f"{name} is made for images of {size[1:]}, not {img_size}.")
        recipe = {**space["recipe"], "input_size": [in_chans, *size[1:]]}
        of_channels = made if in_chans == size[0] else space_from_recipe(recipe)
        if of_channels is None:
            raise ValueError(f"The space of {name} cannot be made for images of {in_chans} channels.")
        network: Any = of_channels.build(of_channels.parse(name))
        if num_classes != made.num_classes:
            network.reset_classifier(num_classes)
        return network

    config = {"num_classes": made.num_classes, "input_size": size, "crop_pct": 1.0}
    return build_for_timm(make, "searched_network", pretrained, kwargs, config)
