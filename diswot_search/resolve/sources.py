"""From what a user names to sources: trained models of related tasks."""

from __future__ import annotations

import itertools
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import nn

from search_spaces.recipes import create_space
from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.space import SearchSpace

from ..networks.classifiers import classifier_names, remove_classifier
from ..networks.network import Network, Teacher
from ..networks.saved import DISTILLED, FOLDER, WEIGHTS, find_student, read_card
from ..runtime.run_folder import as_json
from ..runtime.seeding import isolated_random_state
from ..sources.frozen import unbuildable
from ..sources.source import SOURCE_KEYS, SourceError, SourceModel
from ..study.study import Candidate, Study
from .networks import NetworkLike, as_network, card_of, channels_of, known_normalisation, pretrained_config, with_body

SourceLike = SourceModel | NetworkLike | Mapping[str, Any]


Sources = Sequence[SourceLike] | Mapping[str, SourceLike] | str | os.PathLike[str]
"""Several sources, or a mapping of names to them; or the text of one."""


def as_sources(sources: Sources) -> tuple[SourceModel, ...]:
    """The sources that are meant, with names of their own.

    Whatever is not said of a source's images comes from the card of its weights, else from what timm knows of the
    model; else they are taken as the data's are.

    Args:
        sources: A sequence, or a mapping of names; a text alone is one source. Each is a text: the run folder of a
            training or pipeline, the folder or file of a student, or a timm name, with timm's pretrained weights where
            it knows some; a module, in evaluation mode; anything else that stands for a network; or a mapping with one
            of these as "model", and any of "checkpoint", "pretrained", "num_classes" (0: features alone; of a module,
            that is its output), "mean", "std", "input_size" (channels, height, width), "space" and options of
            `timm.create_model`.

    Warns:
        UserWarning: A source has random weights.

    Raises:
        SourceError: There is no source, or one is given twice or wrongly.
        UnknownNameError: A text is nothing that is known; near names are given.
        FileNotFoundError: There is no such file or folder.
        ValueError: As for `as_network`.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if not isinstance(sources, Sequence | Mapping):
        raise SourceError(f"The sources are given as {type(sources).__name__}; give a list, or a mapping of names.")
    given = list(sources.items() if isinstance(sources, Mapping) else (("", source) for source in sources))
    if not given:
        raise SourceError("There are no sources; give at least one.")
    found = [_as_source(source) for _, source in given]
    names = _names([(str(name),) if name else source.names for (name, _), source in zip(given, found, strict=True)])
    named = tuple(replace(source.model, name=name) for source, name in zip(found, names, strict=True))
    _check_duplicates(named)
    for source in named:
        if not source.trained:
            warnings.warn(_why_random(source), stacklevel=2)
    return named


def _why_random(source: SourceModel) -> str:
    hint = "give its checkpoint"
    if "module" in source.settings:
        hint = "it is in training mode, as a new module is; if it is trained, give it after eval()"
    return f"The source {source.name} has random weights, of which nothing can be learnt: {hint}."


class _Found(NamedTuple):
    """A source with names that it may have, the shortest first."""

    model: SourceModel
    names: tuple[str, ...]


def _as_source(given: SourceLike) -> _Found:
    options = dict(given) if isinstance(given, Mapping) else {"model": given}
    if options.get("model") is None:
        keys = ", ".join(map(str, options)) or "nothing"
        raise SourceError(f"A source is given by {keys}; it needs 'model', which says what network it is.")
    images = {key: options.pop(key, None) for key in ("mean", "std", "input_size")}
    classes = options.get("num_classes")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 0):
        raise SourceError(f"num_classes of a source is {classes!r}; it must be a whole number, 0 for features alone.")
    model = options.pop("model")
    _check_keys(model, options)
    found = _find(model, options)
    return found._replace(model=_with_images(found.model, **images))


def _check_keys(model: Any, options: Mapping[str, Any]) -> None:
    """Refuse other keys than those of all sources, unless timm may know them."""
    if isinstance(model, str) and (timm.is_model(model) or not Path(model).exists()):
        return
    for key in options:
        if key not in SOURCE_KEYS:
            raise UnknownNameError(unknown_name_message("key of a source", key, SOURCE_KEYS))


def _find(model: Any, options: dict[str, Any]) -> _Found:
    if isinstance(model, SourceModel) and not options:
        return _Found(model, (model.name,))
    if isinstance(model, nn.Module):
        return _from_module(model, options)
    if isinstance(model, Teacher):
        return _from_teacher(model, options)
    if isinstance(model, Study):
        model = model.winner
    if isinstance(model, Candidate):
        return _from_space(model, model.study.space, options, ())
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(model, str) and timm.is_model(model):
        return _from_timm(model, **options)
    if (space := options.pop("space", None)) is not None:
        classes = {"num_classes": options["num_classes"]} if options.get("num_classes") else {}
        space = create_space(space, **classes) if isinstance(space, str) else space
        return _from_space(model, space, options | {"space": space}, ())
    if isinstance(model, str) and model and Path(model).exists():
        return _from_path(Path(model), options)
    as_network(model, num_classes=1, role="source")  # which says why it is none
    raise SourceError(f"A source cannot be made of {model!r}.")


def _from_module(module: nn.Module, options: dict[str, Any]) -> _Found:
    given = options.pop("num_classes", None)
    declared = getattr(module, "num_classes", None)
    classes = declared if isinstance(declared, int) else _scores_of(module)
    network = as_network(module, num_classes=classes, role="source", **options)
    source = _source(network, channels=_channels_of_first(module))
    # Whether the last layer of a module of one's own is its classifier is for its owner to say.
    given = classes if given is None else given
    return _Found(replace(source, num_classes=given, classifier=given > 0), (network.name,))


def _scores_of(module: nn.Module) -> int:
    """How many values the last layer of a module gives, if it is linear; else 0."""
    layers: list[Any] = [module.get_submodule(name) for name in classifier_names(module)]
    return len(layers[-1].weight) if layers else 0


def _channels_of_first(module: nn.Module) -> int:
    """Channels that a module takes, as its first convolution tells; some work on patches, of which it tells nothing."""
    first = next((layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)), 3)
    return 1 if first == 1 else 3


def _from_teacher(teacher: Teacher, options: dict[str, Any]) -> _Found:
    classes = options.pop("num_classes", None)
    if not isinstance(teacher, Network):
        model = teacher.build()
        declared = getattr(model, "num_classes", None)
        has = declared if isinstance(declared, int) else _scores_of(model)
        network = as_network(teacher, num_classes=has, in_chans=_channels_of_first(model), role="source", **options)
        return _Found(_source(network, classes, channels=_channels_of_first(model)), (teacher.name,))
    channels = teacher.channels if isinstance(teacher, SourceModel) else channels_of(teacher) or 3
    network = as_network(teacher, num_classes=teacher.num_classes, in_chans=channels, role="source", **options)
    size = teacher.input_size if isinstance(teacher, SourceModel) else None
    return _Found(_source(network, classes, size, channels), (teacher.name,))


def _from_space(model: Any, space: SearchSpace, options: dict[str, Any], names: tuple[str, ...]) -> _Found:
    """An architecture of a space; `options` hold the space where that is not known from the model."""
    wanted = options.pop("num_classes", None)
    checkpoint = options.get("checkpoint")
    card = None if checkpoint is None else card_of(find_student(checkpoint))
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
    return _Found(_source(network, wanted, (channels, height, width)), names or (network.name,))


def _from_path(path: Path, options: dict[str, Any]) -> _Found:
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
    return _Found(_source(network, classes, card.input_size), _names_of_path(path))


def _from_timm(
    name: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> _Found:
    known = pretrained_config(name, "source")
    file = None if checkpoint is None else find_student(checkpoint)
    card = None if file is None else card_of(file)
    if pretrained is None:
        pretrained = known is not None and known.has_weights and file is None
    has, size = _built_as(name, options) if known is None else (known.num_classes, known.input_size)
    if pretrained and num_classes not in (None, 0, has):
        raise SourceError(
            f"The pretrained weights of the source {name} tell {has} classes apart, not {num_classes}; leave "
            "num_classes out, or give 0 for features alone."
        )
    classes = card.num_classes if card else num_classes or has
    channels = card.input_size[0] if card else options.get("in_chans", 3)
    options = options | {"num_classes": classes, "in_chans": channels, "role": "source"}
    if file is not None and card is None and num_classes == 0:  # whatever classes the weights are of
        network = with_body(as_network(name, **options), file)
    else:
        network = as_network(name, **options, checkpoint=file, pretrained=pretrained)
    if known is not None:
        network = _with_known(network, known, channels)
    if card is not None:
        size = card.input_size
    elif size is not None:
        size = (channels, *_pair(options.get("img_size", size[1:])))
    source = _source(network, None if num_classes == classes else num_classes, size, channels)
    return _Found(source, (name,) if checkpoint is None else _names_of_path(Path(checkpoint)))


def _built_as(name: str, options: dict[str, Any]) -> tuple[int, tuple[int, int, int] | None]:
    """Classes and images that a network is for of which timm knows no weights."""
    try:
        with isolated_random_state(0):
            model: Any = timm.create_model(name, **options)
    except TypeError as error:
        raise unbuildable(name, options, error) from error
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return model.num_classes, size and tuple(size)


def _with_known(network: Network, known: Any, channels: int) -> Network:
    """The network with what timm knows of its weights, and with its normalisation where no card says another."""
    if "pretrained" in network.settings:
        name = f"{known.architecture}.{known.tag}" if known.tag else known.architecture
        network = replace(network, settings={"network": name, **network.settings})
    return network if network.mean is not None else replace(network, **known_normalisation(known, channels))


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _source(
    network: Network,
    num_classes: int | None = None,
    input_size: tuple[int, int, int] | None = None,
    channels: int | None = None,
) -> SourceModel:
    """The network as a source.

    Args:
        network: The network.
        num_classes: As it was given: None for the network's own, 0 for features alone.
        input_size: What its weights were trained on.
        channels: Channels that it takes, where `input_size` is None.
    """
    has = network.num_classes
    if num_classes not in (None, 0, has):
        raise SourceError(
            f"The source {network.name} tells {has} classes apart, not {num_classes}; leave num_classes out, or give 0 "
            "for features alone."
        )
    values = {item.name: getattr(network, item.name) for item in fields(Network)}
    values["settings"] = {"network": network.name, **network.settings}
    channels = input_size[0] if input_size else channels or 3
    source = SourceModel(**values, input_size=input_size, channels=channels, classifier=has > 0)
    if num_classes != 0 or has == 0:
        return source
    return replace(source, make=lambda: remove_classifier(network.make()), num_classes=0, classifier=False)


def _with_images(source: SourceModel, mean: Any, std: Any, input_size: Any) -> SourceModel:
    """The source with what is given of its images."""
    if input_size is not None:
        size = tuple(input_size) if isinstance(input_size, Sequence) else (input_size,)
        if len(size) != 3 or not all(isinstance(part, int) and part > 0 for part in size):
            raise SourceError(
                f"input_size of the source {source.name} is {input_size!r}; it must be channels, height and width."
            )
        source = replace(source, input_size=size, channels=size[0])
    if (mean is None) != (std is None):
        raise SourceError(f"Of the source {source.name} mean is {mean} and std is {std}; give both or neither.")
    if mean is not None:
        source = replace(source, mean=_per_channel("mean", mean, source), std=_per_channel("std", std, source))
    for key in ("mean", "std"):
        if (values := getattr(source, key)) is not None and len(values) != source.channels:
            raise SourceError(f"{key} of the source {source.name} is {values}; it takes {source.channels} channels.")
    return source


def _per_channel(key: str, given: Any, source: SourceModel) -> tuple[float, ...]:
    """One share of the full scale for each channel, of one number or as many."""
    try:
        values = tuple(map(float, given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)))
    except (TypeError, ValueError):
        values = ()
    lowest = 0.0 if key == "mean" else math.ulp(0)
    if not values or not all(lowest <= value <= 1 for value in values):
        bound = "0 to 1" if key == "mean" else "above 0, at most 1"
        raise SourceError(
            f"{key} of the source {source.name} is {given!r}; it must be a number, or one for each channel, as a share "
            f"of the full scale: {bound}."
        )
    return values * source.channels if len(values) == 1 else values


# -- names and duplicates -----------------------------------------------------------------------


def _names_of_path(path: Path) -> tuple[str, ...]:
    """The name of a run folder or file, and that with its folder's."""
    parts = list(path.absolute().parts)
    while len(parts) > 1 and parts[-1] in (WEIGHTS, FOLDER, DISTILLED):
        parts.pop()
    name = Path(parts[-1]).stem if parts[-1] == path.name and path.is_file() else parts[-1]
    return name, "/".join((*parts[-2:-1], name))


def _names(candidates: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each: the shortest where no other has it, else the longest, with a number if need be."""
    shortest = Counter(names[0] for names in candidates)
    chosen = [names[0] if shortest[names[0]] == 1 else names[-1] for names in candidates]
    taken = set(chosen)
    for place, name in enumerate(chosen):
        if name in chosen[:place]:
            free = next(each for number in itertools.count(2) if (each := f"{name} ({number})") not in taken)
            chosen[place] = free
            taken.add(free)
    return chosen


def _check_duplicates(sources: Sequence[SourceModel]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        identity = _identity(source.settings)
        if identity in seen:
            raise SourceError(f"The sources {seen[identity]} and {source.name} have the same weights; drop one.")
        seen[identity] = source.name


def _identity(settings: Mapping[str, Any]) -> str:
    """What tells weights from others: their hash, the name of those that timm fetches, else all that is known."""
    if hashed := settings.get("checkpoint_sha256") or settings.get("weights_sha256"):
        return hashed
    if settings.get("pretrained"):
        settings = {key: settings.get(key) for key in ("network", "pretrained_cfg", "pretrained_cfg_overlay")}
    return json.dumps(as_json(settings), sort_keys=True)
