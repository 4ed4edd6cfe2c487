"""From what a user names (a name, a path, a module, an architecture) to a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from search_spaces.recipes import create_space, list_spaces, space_from_recipe
from search_spaces.registry import UnknownNameError, near_names, unknown_name_message
from search_spaces.space import Architecture, ArchitectureError, SearchSpace
from search_spaces.weights import load_checkpoint

from ..data.splits import Splits
from ..networks.classifiers import classifier_names, replace_classifier
from ..networks.network import Network, Teacher, create_teacher, file_sha256
from ..networks.saved import WEIGHTS, ModelCard, find_student, load_student, read_card
from ..runtime.files import as_json
from ..study.study import Candidate, Study
from .folders import kind_of

NetworkLike = Teacher | nn.Module | Candidate | Study | Architecture | str | os.PathLike[str]


def as_network(
    source: NetworkLike,
    *,
    num_classes: int,
    in_chans: int = 3,
    image_size: tuple[int, int] | None = None,
    role: str = "student",
    space: SearchSpace | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    new_classifier: bool = False,
    **options: Any,
) -> Network:
    """The network that is meant.

    Args:
        source: A network or teacher as it is; a module; the winner of a study, or another of its candidates; an
            architecture of `space`; or a text: a timm name, the text of an architecture of `space`, the run folder of
            a search (its winner, untrained), or of a training or pipeline (its student, trained), or the folder or file
            of a student that `save_student` wrote. A folder that is called like a timm model is given as "./NAME".
        num_classes: Classes of the data.
        in_chans: Channels of its images.
        image_size: Height and width of its images, for networks that depend on it.
        role: What it is called in messages, "student" or "teacher".
        space: The space of an architecture, or its name. One whose classes or images are others is made again for
            those of the data.
        checkpoint: Trained weights for a timm name or an architecture: a file, or a folder with a student.
        pretrained: Let timm fetch its pretrained weights. A student gets a new classifier where the classes differ.
        new_classifier: Keep of a trained student all weights but those of its classifier, which is made anew, whatever
            classes it told apart. It sees images in the normalisation that its weights were trained with.
        options: Passed on to `timm.create_model` with a timm name.

    Raises:
        UnknownNameError: The text is none of these; near names are given.
        ArchitectureError: An architecture is given that is none of the space.
        FileNotFoundError: There is no such file or folder.
        RunFolderError: A run folder cannot be read, or its study has no winner.
        ValueError: The arguments contradict each other, or a trained network tells other classes apart or does not take
            images of the data's size; a network that is to have a new classifier has no weights to keep, or no
            classifier.
    """
    if not isinstance(new_classifier, bool):
        raise ValueError(f"new_classifier of the {role} is {new_classifier!r}; it must be true or false.")
    data = _Data(role, num_classes, in_chans, image_size)
    weights = {"checkpoint": checkpoint, "pretrained": pretrained, **options}
    make = _with_new_classifier if new_classifier else _resolve
    return make(source, data, space, weights)


def _resolve(source: NetworkLike, data: _Data, space: SearchSpace | str | None, weights: dict[str, Any]) -> Network:
    if isinstance(source, Study):
        source = source.winner
    if isinstance(source, Candidate):
        return _from_space(source.architecture, source.study.space, data, **weights)
    if isinstance(source, Architecture):
        if space is None:
            raise ValueError(f"The {data.role} is given as an architecture; give the space that it belongs to as well.")
        return _from_space(source, data.space(space), data, **weights)
    if isinstance(source, str | os.PathLike):
        return _from_text(os.fspath(source), data, data.space(space) if space is not None else None, weights)
    if space is not None or weights != {"checkpoint": None, "pretrained": False}:
        raise ValueError(f"The {data.role} is given as it is; space, checkpoint, pretrained and options cannot be set.")
    return _as_given(source, data)


def _with_new_classifier(
    source: NetworkLike, data: _Data, space: SearchSpace | str | None, weights: dict[str, Any]
) -> Network:
    """A trained student whose classifier is made anew for the classes of the data."""
    if data.role != "student":
        raise ValueError(f"new_classifier is for students; a {data.role} with a random classifier knows no classes.")
    if weights["pretrained"]:
        return _resolve(source, data, space, weights)
    checkpoint = weights["checkpoint"]
    file = None if checkpoint is None else find_student(checkpoint)
    card = _card_of_student(source) if file is None else card_of(file)
    if file is not None and card is None:  # which does not say what classes they are of
        return with_body(_resolve(source, data, space, weights | {"checkpoint": None}), file)
    classes = card.num_classes if card else _classes_of(source)
    network = _resolve(source, data if classes is None else replace(data, num_classes=classes), space, weights)
    if not network.trained and not isinstance(source, nn.Module):
        raise ValueError(
            f"The student {network.name} has no trained weights to keep, so new_classifier cannot be set; without it, "
            "it is made for the classes of the data."
        )
    return _reclassified(network, data.num_classes)


def _card_of_student(source: NetworkLike) -> ModelCard | None:
    """The card of a trained student that is given by its path; None for anything else."""
    if not isinstance(source, str | os.PathLike) or timm.is_model(os.fspath(source)):
        return None
    try:
        return read_card(source)
    except FileNotFoundError:
        return None


def _classes_of(source: NetworkLike) -> int | None:
    """Classes that a network or module says to tell apart; None where it does not say it."""
    if isinstance(source, Teacher) and not isinstance(source, Network):
        settings = source.settings | source.settings.get("space", {})
        return settings.get("num_classes")
    found = getattr(source, "num_classes", None)
    return found if isinstance(found, int) else None


def _reclassified(network: Network, num_classes: int) -> Network:
    """The network with a new classifier, and what builds it with as many classes."""

    def make() -> nn.Module:
        return replace_classifier(network.make(), num_classes)

    values = {item.name: getattr(network, item.name) for item in fields(Network)}
    if network.timm is not None:
        name, arguments = network.timm
        values["timm"] = (name, {**arguments, "num_classes": num_classes})
    if network.space is not None:
        values["space"] = _space_for(network.space, num_classes)
    values["settings"] = {**network.settings, "new_classifier": num_classes}
    return Network(**values | {"make": make, "num_classes": num_classes})


def _space_for(built: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Recipe, configuration and architecture of the space, made again for other classes."""
    recipe = built["recipe"] and {**built["recipe"], "num_classes": num_classes}
    space = space_from_recipe(recipe)
    config = {**built["config"], "num_classes": num_classes} if space is None else as_json(space.config())
    return {**built, "recipe": recipe, "config": config}


def with_body(network: Network, file: Path) -> Network:
    """The network with the weights of a file, but for those of its classifier, which are its own."""

    def make() -> nn.Module:
        model = network.make()
        load_checkpoint(model, file, without=classifier_names(model))
        return model

    settings = {**network.settings, "checkpoint_sha256": file_sha256(file), "new_classifier": network.num_classes}
    return replace(network, make=make, trained=True, settings=settings)


def network_for(splits: Splits, source: NetworkLike, role: str, options: Mapping[str, Any] | None = None) -> Network:
    """The network that is meant, for the classes and images of the data.

    Args:
        splits: The data.
        source: As for `as_network`.
        role: What it is called in messages, "student" or "teacher".
        options: The other options of `as_network`.

    Raises:
        ValueError: One of the options comes from the data; and the errors of `as_network`.
    """
    channels, height, width = splits.input_size
    known: dict[str, Any] = {"num_classes": splits.num_classes, "in_chans": channels, "image_size": (height, width)}
    options = options or {}
    if set_twice := [name for name in known if name in options]:
        raise ValueError(f"{', '.join(set_twice)} of the {role} comes from the data and cannot be set.")
    if reserved := [name for name in ("role", "source") if name in options]:
        raise ValueError(f"{', '.join(reserved)} is no option of the {role}.")
    return as_network(source, role=role, **known, **options)


@dataclass(frozen=True)
class _Data:
    """What a network is to be trained on."""

    role: str
    num_classes: int
    in_chans: int
    image_size: tuple[int, int] | None

    def space(self, space: SearchSpace | str) -> SearchSpace:
        """The space for these classes and images, made again where it is for others."""
        if isinstance(space, str):
            space = create_space(space, num_classes=self.num_classes)
        size = (self.in_chans, *(self.image_size or space.input_size[1:]))
        if (space.num_classes, space.input_size) == (self.num_classes, size):
            return space
        if space.recipe is not None:
            return create_space(**space.recipe | {"num_classes": self.num_classes, "input_size": size})
        if (space.num_classes, space.input_size[0]) != (self.num_classes, self.in_chans):
            raise ValueError(
                f"The space {space.name} is for {space.num_classes} classes and {space.input_size[0]} channels, the "
                f"data has {self.num_classes} and {self.in_chans}; make it for those of the data."
            )
        return space

    def check(self, name: str, num_classes: int | None, in_chans: int | None = None) -> None:
        """Refuse a network of other classes or channels."""
        for what, has, wanted in (("classes", num_classes, self.num_classes), ("channels", in_chans, self.in_chans)):
            if has is not None and has != wanted:
                raise ValueError(f"The {self.role} {name} is for {has} {what}, but the data has {wanted} {what}.")


def _as_given(source: Teacher | nn.Module, data: _Data) -> Network:
    if isinstance(source, Network):
        data.check(source.name, source.num_classes, channels_of(source))
        return source
    if isinstance(source, nn.Module):
        found = getattr(source, "num_classes", None)
        data.check(type(source).__name__, found if isinstance(found, int) else None)
        return _network(create_teacher(source), data)
    if isinstance(source, Teacher):
        settings = source.settings | source.settings.get("space", {})
        data.check(source.name, settings.get("num_classes"), settings.get("in_chans"))
        return _network(source, data)
    raise TypeError(f"A {data.role} cannot be made of {type(source).__name__}.")


def channels_of(network: Network) -> int | None:
    """Channels of its images, as far as it says how it is built."""
    if network.timm is not None:
        return int(network.timm[1].get("in_chans", 3))
    return None if network.space is None else int(network.space["config"]["input_size"][0])


def _from_text(text: str, data: _Data, space: SearchSpace | None, weights: dict[str, Any]) -> Network:
    if not text:
        raise ValueError(f"The {data.role} is an empty text; give a name, or '.' for the folder at hand.")
    if timm.is_model(text):
        return _from_timm(text, data, **weights)
    malformed = None
    if space is not None:
        try:
            return _from_space(space.parse(text), space, data, **weights)
        except ArchitectureError as error:
            malformed = error
    if Path(text).exists():
        return _from_path(Path(text), data, weights)
    if hint := _hint_at_form(text, data.role):
        raise UnknownNameError(f"The {data.role} {text!r} is no timm model, run folder or file. {hint}")
    if text.endswith(".safetensors") or os.sep in text:
        raise FileNotFoundError(f"The {data.role} {text} is neither a file nor a folder.")
    near = near_names(text, timm.list_models())
    if malformed is not None and not near:
        raise malformed
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "`timm.list_models()` knows the names."
    raise UnknownNameError(
        f"The {data.role} {text!r} is no timm model, run folder or file"
        f"{f', nor an architecture of {space.name}' if space else ''}. {hint}"
    )


def _hint_at_form(text: str, role: str) -> str:
    """What is meant by an architecture as reports print it, or by timm's name with a prefix."""
    space, colon, architecture = text.partition(":")
    if colon and space in list_spaces():
        return f"To mean an architecture, give {architecture!r} as the {role} and {space!r} as the space."
    name = text.removeprefix("timm/")
    return f"Did you mean {name!r}?" if name != text and timm.is_model(name) else ""


def _from_timm(
    name: str,
    data: _Data,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    **options: Any,
) -> Network:
    known = pretrained_config(name, data.role)
    if data.in_chans != 3:
        options.setdefault("in_chans", data.in_chans)
    if data.image_size is not None and known is not None and known.fixed_input_size:
        options.setdefault("img_size", list(data.image_size))
    file: Path | None = None
    known_of_weights: dict[str, Any] = {}
    if pretrained:
        if known is None or not known.has_weights:
            raise ValueError(f"timm has no pretrained weights for the {data.role} {name}.")
        if data.role == "teacher":  # of a student the new classifier is trained
            data.check(f"{name} with its pretrained weights", known.num_classes)
        known_of_weights = known_normalisation(known, options.get("in_chans", 3))
    if checkpoint is not None:
        file, known_of_weights = _read_checkpoint(checkpoint, data)
    classes = options.pop("num_classes", data.num_classes)
    data.check(name, classes)
    teacher = create_teacher(name, num_classes=classes, checkpoint=file, pretrained=pretrained, **options)
    arguments = (name.partition(".")[0], {"num_classes": classes, **options})
    return _network(teacher, data, timm=arguments, **known_of_weights)


def pretrained_config(name: str, role: str) -> Any:
    """What timm knows of the weights of a model; None where it knows of none.

    Raises:
        UnknownNameError: It knows the model, but no weights of this tag.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # there are no weights of this tag
        architecture = name.partition(".")[0]
        known = [architecture, *timm.list_pretrained(f"{architecture}.*")]
        raise UnknownNameError(unknown_name_message(role, name, known)) from error


def known_normalisation(known: Any, channels: int) -> dict[str, Any]:
    """Mean and standard deviation of what timm knows of weights; those of other channels than theirs are the mean."""
    found = {"mean": tuple(known.mean), "std": tuple(known.std)}
    if channels == len(known.mean):
        return found
    return {key: (sum(values) / len(values),) * channels for key, values in found.items()}


def _from_space(
    architecture: Architecture,
    space: SearchSpace,
    data: _Data,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Network:
    space = data.space(space)
    file: Path | None = None
    known_of_weights: dict[str, Any] = {}
    if checkpoint is not None:
        file, known_of_weights = _read_checkpoint(checkpoint, data)
    teacher = create_teacher(architecture, space=space, checkpoint=file, **options)
    built = {"recipe": space.recipe, "config": as_json(space.config()), "architecture": str(architecture)}
    return _network(teacher, data, timm=space.timm_model(architecture), space=built, **known_of_weights)


def _from_path(path: Path, data: _Data, weights: dict[str, Any]) -> Network:
    if Study.exists(path):
        winner = Study.load(path).winner
        return _from_space(winner.architecture, winner.study.space, data, **weights)
    if any(value not in (None, False) for value in weights.values()):
        given = ", ".join(key for key, value in weights.items() if value not in (None, False))
        raise ValueError(f"The {data.role} {path} has trained weights; {given} cannot be set.")
    try:
        file = find_student(path)
    except FileNotFoundError as error:
        held = kind_of(path)
        what = f"It is the run folder of a {held} without a finished student." if held else ""
        raise FileNotFoundError(f"The {data.role} {path} holds no network. {what or error}") from error
    card = read_card(file)
    data.check(str(path), card.num_classes, card.input_size[0])
    _check_size(file, card, path, data)
    settings = {"student": card.name, "checkpoint_sha256": file_sha256(file)}
    teacher = Teacher(card.name, lambda: load_student(file), trained=True, settings=settings)
    return _network(teacher, data, timm=card.timm, space=card.space, **_known_of_weights(card))


def _check_size(file: Path, card: ModelCard, path: Path, data: _Data) -> None:
    """Refuse a trained network that does not take images of the data's size, as a vision transformer may not."""
    if data.image_size in (None, card.input_size[1:]):
        return
    assert data.image_size is not None
    model = load_student(file)
    try:
        with torch.no_grad():
            model(torch.zeros(1, card.input_size[0], *data.image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        sizes = [" x ".join(map(str, size)) for size in (card.input_size[1:], data.image_size)]
        raise ValueError(
            f"The {data.role} {path} was trained on images of {sizes[0]} and does not take those of the data, "
            f"{sizes[1]}: {error}"
        ) from error


def _read_checkpoint(checkpoint: str | os.PathLike[str], data: _Data) -> tuple[Path, dict[str, Any]]:
    """The file of the weights, and what they were trained with where a card says it."""
    file = find_student(checkpoint)
    card = card_of(file)
    if card is None:
        return file, {}
    data.check(f"checkpoint {checkpoint}", card.num_classes, card.input_size[0])
    return file, _known_of_weights(card)


def card_of(file: Path) -> ModelCard | None:
    """The card of weights; None where they have none."""
    if file.name != WEIGHTS:  # a configuration beside it may be of other weights
        return None
    try:
        return read_card(file)
    except FileNotFoundError:
        return None


def _known_of_weights(card: ModelCard) -> dict[str, Any]:
    """What a card says of the data that the weights were trained on."""
    data = card.made_of.get("data")
    return {"mean": card.mean, "std": card.std, "trained_on": data if isinstance(data, dict) else None}


def _network(teacher: Teacher, data: _Data, **more: Any) -> Network:
    values = {item.name: getattr(teacher, item.name) for item in fields(Teacher)}
    return Network(**values, num_classes=data.num_classes, **more)
