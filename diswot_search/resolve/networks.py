"""From what a user names (a name, a path, a module, an architecture) to a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from search_spaces.input_spec import ImageSpec
from search_spaces.option_types import OptionTypeError, check_types
from search_spaces.plugins import hint_at_form, is_code
from search_spaces.recipes import create_space, list_spaces
from search_spaces.registry import UnknownNameError, near_names, unknown_name_message
from search_spaces.space import Architecture, ArchitectureError, SearchSpace
from search_spaces.stored_options import check_model_options
from search_spaces.weights import channels_in_file, classes_in_file

from ..checks import check_whole
from ..data.splits import Splits
from ..networks.classifiers import classifier_names
from ..networks.network import (
    WEIGHTS_TYPES,
    Network,
    check_trained,
    checkpoint_file,
    create_teacher,
    from_module,
    warn_of_mode,
)
from ..networks.preprocessing import Preprocessing
from ..networks.recipes import StudentRecipe, WithBody, WithNewClassifier
from ..networks.saved import CONFIG, WEIGHTS, ModelCard, find_student, find_weights, load_student, read_card
from ..sources.source import without_images
from ..study.study import Candidate, Study
from .folders import kind_of
from .images import (
    IMAGE_KEYS,
    channels_of_first,
    checked_input_size,
    classes_by_run,
    classes_of,
    with_images,
    with_normalisation,
    with_size,
)

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

NetworkLike = Network | nn.Module | Candidate | Study | Architecture | str | os.PathLike[str]
"""Values that stand for a network."""


def as_network(
    source: NetworkLike,
    *,
    num_classes: int,
    in_chans: int = 3,
    image_size: tuple[int, int] | None = None,
    role: str = "student",
    space: SearchSpace | str | Sequence[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    new_classifier: bool = False,
    **options: object,
) -> Network:
    """The network that a name, a path, a module or an architecture stands for.

    Args:
        source: A network or module, which is taken as it is; a study (its winner) or one of its candidates; an
            architecture of `space`; or a text: a timm name, the text of an architecture of `space`, the run folder of
            a search (its winner, untrained), of a training, a shortlist or a pipeline (its student, trained), or the
            folder or file of a student that `save_student` wrote. A folder with the name of a timm model is given as
            "./NAME". A class or function of your own is named as `module:name` or `file.py:name`; of num_classes,
            in_chans and img_size it gets those that it takes.
        num_classes: Number of classes of the data. A trained teacher may have others.
        in_chans: Number of channels of its images.
        image_size: Height and width of its images, for networks that depend on it.
        role: "student", "baseline", "teacher" or "source", for messages. Images are converted for a trained teacher.
        space: The space of an architecture, or its name. A space for other classes or images is made again for those
            of the data.
        checkpoint: Trained weights for a timm name or an architecture: a file, or a folder with a student.
        pretrained: Let timm fetch its pretrained weights. A student gets a new classifier if the classes differ.
        new_classifier: Keep the weights of a trained student except those of its classifier, which is made anew for
            the classes of the data. Images keep the normalisation that its weights were trained with.
        options: Options of `timm.create_model`, for a timm name; arguments of code of your own. Of a teacher or a
            module also "trained", whether its weights are trained, which by default they tell; and of a teacher
            "mean", "std" and "input_size" (channels, height, width) of its images, to which those of the data are
            converted.

    Warns:
        UserWarning: The weights of a module tell otherwise than its mode.

    Raises:
        UnknownNameError: The text is not known; near names are given.
        ArchitectureError: The architecture is not one of the space.
        FileNotFoundError: There is no such file or folder.
        RunFolderError: A run folder cannot be read.
        NoScoreError: The study has no winner.
        ValueError: The arguments contradict each other; a trained network is damaged, has other classes, or does not
            take images of the data's size; or a network that is to have a new classifier has no weights to keep.

    Example:
        >>> as_network("cifar_resnet20", num_classes=10).build(seed=0).num_classes
        10
    """
    if not isinstance(new_classifier, bool):
        raise ValueError(f"new_classifier of the {role} is {new_classifier!r}; it must be true or false.")
    check_types({"checkpoint": checkpoint, "pretrained": pretrained}, WEIGHTS_TYPES, f"Of the {role} ")
    data = _Data(role, num_classes, in_chans, image_size)
    images = {key: options.pop(key, None) for key in IMAGE_KEYS} if role == "teacher" else {}
    weights = {"checkpoint": checkpoint, "pretrained": pretrained, **options}
    make = _with_new_classifier if new_classifier else _resolve
    if (size := images.get("input_size")) is not None:  # the network is made for the images that it takes
        channels, *sides = checked_input_size(size, f"{role} {source}" if isinstance(source, str) else role)
        data = replace(data, in_chans=channels, image_size=(sides[0], sides[1]))
    network = make(source, data, space, weights)
    return with_images(network, role, **images) if images else network


def _resolve(
    source: NetworkLike, data: _Data, space: SearchSpace | str | Sequence[str] | None, weights: dict[str, Any]
) -> Network:
    if not isinstance(source, Network | nn.Module):
        trained = weights.pop("trained", None)
        check_trained(trained, source, data.role, has_weights=weights["checkpoint"] is not None)
        weights |= {} if trained is None else {"trained": trained}
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
    trained = weights.pop("trained", None)
    if space is not None or weights != {"checkpoint": None, "pretrained": False}:
        raise ValueError(
            f"The {data.role} is an object, not a name; space, checkpoint, pretrained and options cannot be set."
        )
    return _as_given(source, data, trained)


def _with_new_classifier(
    source: NetworkLike, data: _Data, space: SearchSpace | str | Sequence[str] | None, weights: dict[str, Any]
) -> Network:
    """A trained student with a new classifier for the classes of the data."""
    if data.role not in ("student", "baseline"):
        raise ValueError(f"new_classifier is for students; a {data.role} with a random classifier knows no classes.")
    if weights["pretrained"]:
        return _resolve(source, data, space, weights)
    checkpoint = weights["checkpoint"]
    file = None if checkpoint is None else find_weights(checkpoint, data.role)
    card = _card_of_student(source) if file is None else card_of(file)
    if file is not None and card is None:  # the classes of the weights are not known
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
    """Number of classes that a network or module declares; None if it declares none."""
    classes = getattr(source, "num_classes", None)
    return classes if isinstance(classes, int) else None


def _reclassified(network: Network, num_classes: int) -> Network:
    """The network with a new classifier. What a source says of its images is not said of the student."""
    return replace(
        network,
        recipe=WithNewClassifier(network.recipe, num_classes),
        num_classes=num_classes,
        preprocessing=replace(network.preprocessing, size=None),
        settings=without_images(network.settings),
    )


def with_body(network: Network, file: Path) -> Network:
    """The network with the weights of a file except those of its classifier, which stay its own."""
    assert network.num_classes is not None
    recipe = WithBody(network.recipe, checkpoint_file(file), network.num_classes)
    return replace(network, recipe=recipe, trained=True)


def network_for(splits: Splits, source: NetworkLike, role: str, options: Mapping[str, Any] | None = None) -> Network:
    """The network for the classes and images of the data.

    Args:
        splits: The data.
        source: The network in any form that `as_network` takes.
        role: "student", "baseline" or "teacher", for messages.
        options: Other options of `as_network`. With `in_chans` the network takes other channels than the data has, to
            which images are converted.

    Raises:
        ValueError: One of the options comes from the data; and the errors of `as_network`.
    """
    channels, height, width = splits.input_size
    of_data: dict[str, Any] = {"num_classes": splits.num_classes, "in_chans": channels, "image_size": (height, width)}
    options = dict(options or {})
    if "in_chans" in options:
        of_data["in_chans"] = check_whole(f"in_chans of the {role}", options.pop("in_chans"), least=1)
    if set_twice := [name for name in of_data if name in options]:
        raise ValueError(f"{', '.join(set_twice)} of the {role} comes from the data and cannot be set.")
    if reserved := [name for name in ("role", "source") if name in options]:
        raise ValueError(f"{', '.join(reserved)} is no option of the {role}.")
    return as_network(source, role=role, **of_data, **options)


@dataclass(frozen=True)
class _Data:
    """The classes and images that a network is for."""

    role: str
    num_classes: int
    in_chans: int
    image_size: tuple[int, int] | None

    def space(self, space: SearchSpace | str | Sequence[str]) -> SearchSpace:
        """The space for these classes and images; one for others is made again."""
        if not isinstance(space, SearchSpace):
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
        """Refuse a network for other classes or channels."""
        for what, own, needed in (("classes", num_classes, self.num_classes), ("channels", in_chans, self.in_chans)):
            if own is not None and own != needed:
                hint = f" With in_chans {own} among its options it gets their images in grey." if own == 1 else ""
                raise ValueError(f"The {self.role} {name} is for {own} {what}, but the data has {needed} {what}.{hint}")

    def of(self, card: ModelCard) -> _Data:
        """The classes and images of trained weights, for a teacher, for which those of the data are converted."""
        if self.role != "teacher":
            return self
        channels, height, width = card.input_size
        size = (height, width) if self.image_size is not None else None
        return replace(self, num_classes=card.num_classes, in_chans=channels, image_size=size)

    def sized(self, network: Network, data: _Data) -> Network:
        """The network, for which images of the data are resized to these if they have another size."""
        if self.image_size == data.image_size:
            return network
        return with_size(network, self.in_chans, self.image_size)

    def converts(self, network: Network) -> bool:
        """Whether the network may have other classes and images than the data: those of the data are converted."""
        return self.role == "teacher" and network.trained

    @property
    def spec(self) -> ImageSpec | None:
        """The images of the data, if their size is known."""
        return None if self.image_size is None else ImageSpec(self.in_chans, *self.image_size)


def _as_given(source: Network | nn.Module, data: _Data, trained: bool | None) -> Network:
    if not isinstance(source, Network | nn.Module):
        raise OptionTypeError(f"A {data.role} cannot be made of {type(source).__name__}.")
    if isinstance(source, nn.Module):
        if trained is None and data.role == "teacher":
            warn_of_mode(source, data.role)
        source = _from_module(source, data, trained)
    elif trained is not None:
        source = replace(source, trained=trained)
    if data.converts(source):
        return source if source.num_classes is not None else replace(source, num_classes=classes_of(source.build()))
    data.check(source.name, source.num_classes, source.channels)
    return source if source.num_classes is not None else replace(source, num_classes=data.num_classes)


def _from_module(module: nn.Module, data: _Data, trained: bool | None) -> Network:
    """The network of a module, with the channels and classes that it has if they are others than those of the data."""
    network = replace(from_module(module, trained), input_spec=data.spec)
    return network if data.role == "source" else _told_by_run(network, module, data)


def _told_by_run(network: Network, module: nn.Module, data: _Data) -> Network:
    """The network with the classes and channels that its module has when it is run on images of the data's size."""
    if data.spec is None:
        return network
    for channels in dict.fromkeys((data.in_chans, channels_of_first(module))):
        classes = classes_by_run(module, (channels, data.spec.height, data.spec.width))
        if classes is not None:
            preprocessing = replace(network.preprocessing, channels=channels)
            return replace(network, preprocessing=preprocessing, num_classes=classes)
    return network


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
    if (hint := hint_at_form(text)) and not Path(text).is_dir():
        raise UnknownNameError(f"The {data.role} {text!r} names a file of code. {hint}")
    if Path(text).exists():
        return _from_path(Path(text), data, weights)
    if is_code(text):
        return _from_code(text, data, **weights)
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
    """A hint for an architecture as reports print it, or for timm's name with a prefix; else nothing."""
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
    others = ("checkpoint", "pretrained", *(IMAGE_KEYS if data.role == "teacher" else ()))
    check_model_options(name, options, f"The network {name}", others)
    config = pretrained_config(name, data.role)
    if pretrained and (config is None or not config.has_weights):
        raise ValueError(f"timm has no pretrained weights for the {data.role} {name}.")
    file, card = (None, None) if checkpoint is None else _read_checkpoint(checkpoint, data)
    own = data if card is None else data.of(card)
    if own.in_chans != 3:
        options.setdefault("in_chans", own.in_chans)
    if data.role == "teacher" and card is None:
        own = _of_trained_teacher(name, own, file, pretrained, config, options)
    if own.image_size is not None and config is not None and config.fixed_input_size:
        options.setdefault("img_size", list(own.image_size))
    classes = options.pop("num_classes", own.num_classes)
    own.check(name, classes)
    network = create_teacher(name, num_classes=classes, checkpoint=file, pretrained=pretrained, **options)
    if config is not None and (pretrained or (file is not None and card is None and own is not data)):
        network = with_normalisation(network, *pretrained_normalisation(config, options.get("in_chans", 3)))
    return _with_card(own.sized(replace(network, input_spec=own.spec), data), card)


def _of_trained_teacher(
    name: str,
    data: _Data,
    file: Path | None,
    pretrained: bool,
    config: PretrainedCfg | None,
    options: dict[str, Any],
) -> _Data:
    """The classes and images that the weights of a teacher are for, if they are other ones than those of the data.

    Channels that a file has are set among the options. A file without a card is of the weights that timm
    has if it is of as many classes, which the data has not.
    """
    if "img_size" in options or config is None or not (pretrained or file):
        size = data.image_size
    else:
        size = config.input_size[1:]
    if pretrained and config is not None:
        return replace(data, num_classes=config.num_classes, image_size=size)
    if file is None:
        return data
    model = create_teacher(name, num_classes=data.num_classes, **options).build()
    channels = channels_in_file(file, model, data.in_chans)
    if channels not in (None, data.in_chans):
        options["in_chans"] = channels
        data = replace(data, in_chans=channels)
    classes = classes_in_file(file, model, classifier_names(model))
    if classes in (None, data.num_classes):
        return data
    assert classes is not None
    is_timms = config is not None and config.num_classes == classes
    return replace(data, num_classes=classes, image_size=size if is_timms else data.image_size)


def _from_code(
    name: str,
    data: _Data,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    **options: Any,
) -> Network:
    """The network that code of the user's own makes for the classes and images of the data."""
    size = {} if data.image_size is None else {"img_size": list(data.image_size)}
    options = {"num_classes": data.num_classes, "in_chans": data.in_chans, **size, **options}
    file, card = (None, None) if checkpoint is None else _read_checkpoint(checkpoint, data)
    if data.role == "teacher" and file is not None and card is None:
        model = create_teacher(name, **options).build()
        options["num_classes"] = classes_in_file(file, model, classifier_names(model)) or options["num_classes"]
        options["in_chans"] = channels_in_file(file, model, options["in_chans"]) or options["in_chans"]
    network = create_teacher(name, checkpoint=file, pretrained=pretrained, **options)
    if network.channels is None:  # the code does not take a number of channels, so it has one of its own
        run = _told_by_run(network, network.build(), data)
        network = run if network.num_classes is None else replace(run, num_classes=network.num_classes)
    if data.converts(network):
        classes = classes_of(network.build()) if network.num_classes is None else network.num_classes
    else:
        data.check(name, network.num_classes, network.channels)
        classes = data.num_classes
    return _with_card(replace(network, num_classes=classes, input_spec=data.spec), card)


def pretrained_config(name: str, role: str) -> PretrainedCfg | None:
    """timm's configuration of the pretrained weights of a model; None if there are no weights.

    Raises:
        UnknownNameError: timm has the model, but no weights with this tag.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # there are no weights of this tag
        architecture = name.partition(".")[0]
        names = [architecture, *timm.list_pretrained(f"{architecture}.*")]
        raise UnknownNameError(unknown_name_message(role, name, names)) from error


def pretrained_normalisation(config: PretrainedCfg, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pretrained weights; for another number of channels, the average of theirs."""
    statistics = tuple(config.mean), tuple(config.std)
    if channels == len(config.mean):
        return statistics
    mean, std = ((sum(values) / len(values),) * channels for values in statistics)
    return mean, std


def _from_space(
    architecture: Architecture,
    space: SearchSpace,
    data: _Data,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Network:
    file, card = (None, None) if checkpoint is None else _read_checkpoint(checkpoint, data)
    own = data if card is None else data.of(card)
    network = create_teacher(architecture, space=own.space(space), checkpoint=file, **options)
    return _with_card(own.sized(network, data), card)


def _from_path(path: Path, data: _Data, weights: dict[str, Any]) -> Network:
    if Study.exists(path):
        winner = Study.load(path).winner
        return _from_space(winner.architecture, winner.study.space, data, **weights)
    if path.is_file() and not path.with_name(CONFIG).is_file():
        option = "--teacher_checkpoint" if data.role == "teacher" else "the option checkpoint"
        raise FileNotFoundError(
            f"The {data.role} {path} is a file without a {CONFIG} that says which network its weights are of. Give "
            f"that network as the {data.role}, by a timm name or as file.py:NAME, and {path} as its weights: {option}."
        )
    if any(value not in (None, False) for value in weights.values()):
        names = ", ".join(key for key, value in weights.items() if value not in (None, False))
        raise ValueError(f"The {data.role} {path} has trained weights; {names} cannot be set.")
    try:
        file = find_student(path)
    except FileNotFoundError as error:
        kind = kind_of(path)
        reason = f"It is the run folder of a {kind} without a finished student." if kind else error
        raise FileNotFoundError(f"The {data.role} {path} holds no network. {reason}") from error
    card = read_card(file)
    own = data.of(card)
    own.check(str(path), card.num_classes, card.input_size[0])
    recipe = StudentRecipe(card, checkpoint_file(file))
    if own is data:
        _check_size(file, card, path, data)
    network = Network(
        card.name,
        recipe,
        trained=True,
        num_classes=own.num_classes,
        preprocessing=Preprocessing(channels=card.input_size[0]),
        input_spec=ImageSpec(*card.input_size),
    )
    return _with_card(own.sized(network, data), card)


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


def _read_checkpoint(checkpoint: str | os.PathLike[str], data: _Data) -> tuple[Path, ModelCard | None]:
    """The file of trained weights, and their card if they have one."""
    file = find_weights(checkpoint, data.role)
    card = card_of(file)
    if card is not None:
        data.of(card).check(f"checkpoint {checkpoint}", card.num_classes, card.input_size[0])
    return file, card


def card_of(file: Path) -> ModelCard | None:
    """The card of trained weights; None if they have none."""
    if file.name != WEIGHTS:  # a configuration next to it may be of other weights
        return None
    try:
        return read_card(file)
    except FileNotFoundError:
        return None


def _with_card(network: Network, card: ModelCard | None) -> Network:
    """The network with what the card of its weights says of the data that they were trained on."""
    if card is None:
        return network
    data = card.made_of.get("data")
    network = replace(network, trained_on=data if isinstance(data, dict) else None)
    return with_normalisation(network, card.mean, card.std)
