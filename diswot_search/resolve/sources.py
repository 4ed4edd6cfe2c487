"""From what a user names to sources: trained models of related tasks."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
from torch import nn

from search_spaces.option_types import check_names, check_types
from search_spaces.plugins import hint_at_form, is_code
from search_spaces.recipes import create_space
from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.space import SearchSpace
from search_spaces.stored_options import check_model_options
from search_spaces.timm_models import create_timm_model
from search_spaces.weights import channels_in_file

from ..networks.network import Network, check_trained, create_teacher, warn_of_mode
from ..networks.recipes import ModuleRecipe, WithoutClassifier
from ..networks.saved import DISTILLATION, FOLDER, WEIGHTS, find_weights, read_card
from ..networks.trained import judge_weights
from ..runtime.files import as_json
from ..runtime.seeding import isolated_random_state
from ..sources.frozen import unbuildable
from ..sources.source import SOURCE_KEYS, SOURCE_TYPES, SourceError, as_source
from ..study.study import Candidate, Study
from .images import IMAGE_KEYS, channels_of_first, classes_of, with_images, with_normalisation, with_size
from .networks import (
    NetworkLike,
    as_network,
    card_of,
    pretrained_config,
    pretrained_normalisation,
    with_body,
)

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

SourceLike = NetworkLike | Mapping[str, object]
"""Values that stand for a source."""

Sources = Sequence[SourceLike] | Mapping[str, SourceLike] | str | os.PathLike[str]
"""Several sources, a mapping of names to sources, or the text of one source."""


def as_sources(sources: Sources) -> tuple[Network, ...]:
    """The sources that are meant, as networks with distinct names.

    The preprocessing of a source's images is taken from its description, else from the card of its weights, else from
    timm's configuration of the model; otherwise the source takes images as the data has them.

    Args:
        sources: A sequence, or a mapping of names; a text alone is one source. Each is a text: the run folder of a
            training or pipeline, the folder or file of a student, or a timm name, with timm's pretrained weights if
            there are some; a module; anything else that stands for a network; or a mapping with one
            of these as "model", and any of "checkpoint", "pretrained", "num_classes" (0: features alone; of a module,
            that is its output), "mean", "std", "input_size" (channels, height, width), "space", "trained" (of a module,
            whose weights tell by default) and options of `timm.create_model`.

    Warns:
        UserWarning: A source has random weights, or is a trained module in training mode.

    Raises:
        SourceError: There is no source, or one is given twice or wrongly.
        UnknownNameError: A text is not known; near names are given.
        FileNotFoundError: There is no such file or folder.
        ValueError: See `as_network`.

    Example:
        >>> (source,) = as_sources({"imagenet": "resnet18"})
        >>> source.name, source.num_classes, source.input_size
        ('imagenet', 1000, (3, 224, 224))
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if not isinstance(sources, Sequence | Mapping):
        raise SourceError(f"The sources are given as {type(sources).__name__}; give a list, or a mapping of names.")
    described = list(sources.items() if isinstance(sources, Mapping) else (("", source) for source in sources))
    if not described:
        raise SourceError("There are no sources; give at least one.")
    resolved = [_as_source(source) for _, source in described]
    names = _names([(name,) if name else one.names for (name, _), one in zip(described, resolved, strict=True)])
    named = tuple(replace(one.network, name=name) for one, name in zip(resolved, names, strict=True))
    _check_duplicates(named)
    for source in named:
        if not source.trained:
            warnings.warn(_why_random(source), stacklevel=2)
    return named


def _why_random(source: Network) -> str:
    hint = "give its checkpoint"
    if isinstance(source.recipe, ModuleRecipe):
        verdict = judge_weights(source.recipe.module)
        hint = f"{verdict.reason}. If it is trained, say so: {{'model': ..., 'trained': True}}"
        if verdict.trained:
            hint = "it is said to be untrained"
    return f"The source {source.name} has random weights, of which nothing can be learnt: {hint}."


class _Resolved(NamedTuple):
    """A source with names that it may have, the shortest first."""

    network: Network
    names: tuple[str, ...]


def _as_source(source: SourceLike) -> _Resolved:
    options = dict(source) if isinstance(source, Mapping) else {"model": source}
    if options.get("model") is None:
        keys = ", ".join(map(str, options)) or "nothing"
        raise SourceError(f"A source is given by {keys}; it needs 'model', which says what network it is.")
    model = options.pop("model")
    _check_keys(model, options)
    images = {key: options.pop(key, None) for key in IMAGE_KEYS}
    classes = options.get("num_classes")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 0):
        raise SourceError(f"num_classes of a source is {classes!r}; it must be a whole number, 0 for features alone.")
    trained = options.get("trained")
    if isinstance(model, nn.Module) and trained is None and model.training and judge_weights(model).trained:
        warn_of_mode(model, "source")
    network, names = _find(model, options)
    return _Resolved(as_source(with_images(network, "source", **images)), names)


def _check_keys(model: object, options: Mapping[str, object]) -> None:
    """Refuse values of other types, and keys that neither a source has nor its model of timm."""
    check_names(options, "A source")
    check_types(options, SOURCE_TYPES, "Of a source ")
    others = {key: value for key, value in options.items() if key not in SOURCE_KEYS}
    if isinstance(model, str) and timm.is_model(model):
        check_model_options(model, others, f"The source {model}", SOURCE_KEYS)
        return
    if isinstance(model, str) and not os.path.exists(model):
        return
    for key in others:
        raise UnknownNameError(unknown_name_message("key of a source", key, SOURCE_KEYS))


def _find(model: Any, options: dict[str, Any]) -> _Resolved:
    if isinstance(model, nn.Module):
        return _from_module(model, options)
    if isinstance(model, Network):
        return _from_network(model, options)
    if isinstance(model, Study):
        model = model.winner
    if isinstance(model, Candidate):
        return _from_space(model, model.study.space, options, ())
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(model, str) and timm.is_model(model):
        return _from_timm(model, **options)
    if (space := options.pop("space", None)) is not None:
        classes = {"num_classes": options["num_classes"]} if options.get("num_classes") else {}
        space = space if isinstance(space, SearchSpace) else create_space(space, **classes)
        return _from_space(model, space, options | {"space": space}, ())
    if isinstance(model, str) and model and not hint_at_form(model) and Path(model).exists():
        return _from_path(Path(model), options)
    if isinstance(model, str) and is_code(model):
        return _from_code(model, options)
    as_network(model, num_classes=1, role="source")  # which says why it is none
    raise SourceError(f"A source cannot be made of {model!r}.")


def _from_module(module: nn.Module, options: dict[str, Any]) -> _Resolved:
    classes = options.pop("num_classes", None)
    own = classes_of(module)
    network = as_network(module, num_classes=own, role="source", **options)
    # Whether the last layer of a module is its classifier is for its owner to say: nothing is removed from it.
    network = replace(_with_channels(network, module), num_classes=own if classes is None else classes)
    return _Resolved(network, (network.name,))


def _with_channels(network: Network, model: nn.Module) -> Network:
    """The network with the number of channels that its model takes."""
    return replace(network, preprocessing=replace(network.preprocessing, channels=channels_of_first(model)))


def _from_network(network: Network, options: dict[str, Any]) -> _Resolved:
    classes = options.pop("num_classes", None)
    if network.num_classes is None:
        model = network.build()
        network = replace(_with_channels(network, model), num_classes=classes_of(model))
    channels = network.channels or 3
    assert network.num_classes is not None
    network = as_network(network, num_classes=network.num_classes, in_chans=channels, role="source", **options)
    return _Resolved(_with_classes(network, classes, network.input_size, channels), (network.name,))


def _from_code(name: str, options: dict[str, Any]) -> _Resolved:
    """A source that code of the user's own makes; it has the classes and images that the code gives it."""
    classes = options.pop("num_classes", None)
    checkpoint = options.pop("checkpoint", None)
    file = None if checkpoint is None else find_weights(checkpoint, "source")
    network = create_teacher(name, num_classes=classes or None, **options)
    if file is not None:
        channels = options.get("in_chans", 3)
        if (of_file := channels_in_file(file, network.build(), channels)) not in (None, channels):
            options["in_chans"] = of_file
        network = create_teacher(name, num_classes=classes or None, checkpoint=file, **options)
    resolved = _from_network(network, {} if classes is None else {"num_classes": classes})
    return resolved if checkpoint is None else resolved._replace(names=_names_of_path(Path(checkpoint)))


def _from_space(model: Any, space: SearchSpace, options: dict[str, Any], names: tuple[str, ...]) -> _Resolved:
    """An architecture of a space; `options` hold the space unless the model knows it."""
    classes = options.pop("num_classes", None)
    checkpoint = options.get("checkpoint")
    card = None if checkpoint is None else card_of(find_weights(checkpoint, "source"))
    channels, height, width = card.input_size if card else space.input_size
    network = as_network(
        model,
        num_classes=card.num_classes if card else space.num_classes,
        in_chans=channels,
        image_size=(height, width),
        role="source",
        **options,
    )
    names = names if checkpoint is None else _names_of_path(Path(checkpoint))
    return _Resolved(_with_classes(network, classes, (channels, height, width)), names or (network.name,))


def _from_path(path: Path, options: dict[str, Any]) -> _Resolved:
    if Study.exists(path):
        winner = Study.load(path).winner
        return _from_space(winner, winner.study.space, options, _names_of_path(path))
    classes = options.pop("num_classes", None)
    try:
        card = read_card(path)
    except FileNotFoundError as error:
        if path.is_file():
            hint = f"say so: {{'model': NAME, 'checkpoint': '{path}'}}"
            raise FileNotFoundError(
                f"{error} Where {path} holds weights of a network that timm builds, {hint}."
            ) from error
        as_network(path, num_classes=1, role="source")  # which says what else it is
        raise
    network = as_network(path, num_classes=card.num_classes, in_chans=card.input_size[0], role="source", **options)
    return _Resolved(_with_classes(network, classes, card.input_size), _names_of_path(path))


def _from_timm(
    name: str,
    /,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool | None = None,
    num_classes: int | None = None,
    trained: bool | None = None,
    **options: Any,
) -> _Resolved:
    check_trained(trained, name, "source", has_weights=checkpoint is not None)
    config = pretrained_config(name, "source")
    file = None if checkpoint is None else find_weights(checkpoint, "source")
    card = None if file is None else card_of(file)
    if pretrained is None:
        pretrained = config is not None and config.has_weights and file is None
    own, size = _built_as(name, options) if config is None else (config.num_classes, config.input_size)
    if pretrained and num_classes not in (None, 0, own):
        raise SourceError(
            f"The pretrained weights of the source {name} tell {own} classes apart, not {num_classes}; leave "
            "num_classes out, or give 0 for features alone."
        )
    classes = card.num_classes if card else num_classes or own
    channels = card.input_size[0] if card else options.get("in_chans", 3)
    options = options | {"num_classes": classes, "in_chans": channels, "role": "source"}
    if file is not None and card is None and num_classes == 0:  # the classes of the weights do not matter
        network = with_body(as_network(name, **options), file)
    else:
        network = as_network(name, **options, checkpoint=file, pretrained=pretrained)
    if config is not None:
        network = _with_timm_config(network, config, channels)
    if card is not None:
        size = card.input_size
    elif size is not None:
        size = (channels, *_pair(options.get("img_size", size[1:])))
    source = _with_classes(network, None if num_classes == classes else num_classes, size, channels)
    return _Resolved(source, (name,) if checkpoint is None else _names_of_path(Path(checkpoint)))


def _built_as(name: str, options: dict[str, Any]) -> tuple[int, tuple[int, int, int] | None]:
    """Classes and images of a network that timm has no weights for."""
    try:
        with isolated_random_state(0):
            model: Any = create_timm_model(name, options)
    except TypeError as error:
        raise unbuildable(name, options, error) from error
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return model.num_classes, size and tuple(size)


def _with_timm_config(network: Network, config: PretrainedCfg, channels: int) -> Network:
    """The network with the full name of its pretrained weights, and with timm's statistics if no card has others."""
    if network.recipe.config().get("pretrained"):
        name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
        network = replace(network, settings={"network": name, **network.settings})
    if network.mean is not None:
        return network
    return with_normalisation(network, *pretrained_normalisation(config, channels))


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _with_classes(
    network: Network,
    num_classes: int | None = None,
    input_size: tuple[int, int, int] | None = None,
    channels: int | None = None,
) -> Network:
    """The network with its images, and without its classifier if features alone are asked for.

    Args:
        network: The network.
        num_classes: The number of classes that was asked for: None for the network's own, 0 for features alone.
        input_size: Channels, height and width of the images that its weights were trained on.
        channels: Number of channels that it takes, if `input_size` is None.
    """
    own = network.num_classes
    if num_classes not in (None, 0, own):
        raise SourceError(
            f"The source {network.name} tells {own} classes apart, not {num_classes}; leave num_classes out, or give 0 "
            "for features alone."
        )
    if input_size is None:
        network = with_size(network, channels or 3, None)
    else:
        network = with_size(network, input_size[0], input_size[1:])
    if num_classes != 0 or own == 0:
        return network
    return replace(network, recipe=WithoutClassifier(network.recipe), num_classes=0)


# -- names and duplicates -----------------------------------------------------------------------


def _names_of_path(path: Path) -> tuple[str, ...]:
    """The name of a run folder or file, alone and after the name of its parent folder."""
    parts = list(path.absolute().parts)
    while len(parts) > 1 and parts[-1] in (WEIGHTS, FOLDER, DISTILLATION):
        parts.pop()
    name = Path(parts[-1]).stem if parts[-1] == path.name and path.is_file() else parts[-1]
    return name, "/".join((*parts[-2:-1], name))


def _names(candidates: Sequence[tuple[str, ...]]) -> list[str]:
    """A distinct name for each: the shortest if no other has it, else the longest, with a number if needed."""
    shortest = Counter(names[0] for names in candidates)
    chosen = [names[0] if shortest[names[0]] == 1 else names[-1] for names in candidates]
    taken = set(chosen)
    for place, name in enumerate(chosen):
        if name in chosen[:place]:
            free = next(each for number in itertools.count(2) if (each := f"{name} ({number})") not in taken)
            chosen[place] = free
            taken.add(free)
    return chosen


def _check_duplicates(sources: Sequence[Network]) -> None:
    names: dict[str, str] = {}
    for source in sources:
        identity = _identity(source)
        if identity in names:
            raise SourceError(f"The sources {names[identity]} and {source.name} have the same weights; drop one.")
        names[identity] = source.name


def _identity(source: Network) -> str:
    """The identity of weights: their hash, the full name of weights that timm fetches, else the whole recipe."""
    config = source.recipe.config() | {"network": source.settings["network"]}
    if "structure_sha256" in config:
        return f"{config['weights_sha256']} {config['structure_sha256']}"
    if sha256 := config.get("checkpoint_sha256"):
        return sha256
    if config.get("pretrained"):
        config = {key: config.get(key) for key in ("network", "pretrained_cfg", "pretrained_cfg_overlay")}
    return json.dumps(as_json(config), sort_keys=True)
