"""Sources: models of other tasks, each with the size, channels and normalisation of images that it was trained on."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import SearchSpace, create_space
from search_spaces.registry import UnknownNameError, near_names, unknown_name_message

from ..classifiers import ClassifierError, classifier_names, remove_classifier, replace_classifier
from ..data import Probe
from ..image_sets import ImageSet, ResidentSet
from ..networks import (
    Network,
    NetworkLike,
    as_network,
    card_of,
    channels_of,
    known_normalisation,
    pretrained_config,
    with_body,
)
from ..readings.forward import ReadingError, channels_first, first_given, is_linear
from ..run_folder import as_json
from ..seeding import isolated_random_state
from ..splits import Splits
from ..student_files import DISTILLED, FOLDER, WEIGHTS, find_student, read_card
from ..study import Candidate, Study
from ..teacher import ConvertedTeacher, Teacher
from .features import FeatureReader
from .task import Normalised

_LOOKED_AT = 64
"""Streamed images that are looked at to see whether all are grey."""


class SourceError(ValueError):
    """A source that cannot be had, is given twice, or does not fit the data."""


@dataclass(frozen=True, kw_only=True)
class SourceModel(Network):
    """A model of another task. Make several with `as_sources`.

    Attributes:
        input_size: Channels, height and width of the images that its weights were trained on; None takes the data's
            height and width.
        channels: Channels that it takes.
        classifier: Whether it tells classes apart; else it gives features alone, and `num_classes` is 0.
    """

    input_size: tuple[int, int, int] | None = None
    channels: int = 3
    classifier: bool = True

    def config(self) -> dict[str, Any]:
        """All that tells it from another source, as JSON values."""
        keys = ("num_classes", "mean", "std", "input_size", "channels", "classifier")
        return super().config() | as_json({key: getattr(self, key) for key in keys})


SourceLike = SourceModel | NetworkLike | Mapping[str, Any]

Sources = Sequence[SourceLike] | Mapping[str, SourceLike] | str | os.PathLike[str]
"""Several sources, or a mapping of names to them; or the text of one."""


class SourceReading(NamedTuple):
    """What a source gives for a batch.

    Attributes:
        features: (B, d), float32: what its classifier gets. Of one that is run on a map or on tokens, the mean over
            positions; without a linear classifier, the mean of the last feature map, or else the output itself.
        logits: (B, K), float32; None where it has no classifier.
    """

    features: Tensor
    logits: Tensor | None


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


def check_images(source: SourceModel, splits: Splits) -> None:
    """See that a source takes the data's images, as far as that can be told without building it.

    Raises:
        SourceError: Its channels do not fit.
    """
    _converter(source, splits)


def load_source(
    source: SourceModel, splits: Splits, device: torch.device | str = "cpu", *, channels_last: bool = False
) -> FrozenSource:
    """A source on its device, ready for the images of the data.

    Args:
        source: The source.
        splits: The data.
        device: Where to run it.
        channels_last: Keep feature maps in NHWC memory order.

    Raises:
        SourceError: It does not take the data's images, its weights do not fit or cannot be fetched, or it does not
            give what it should.
    """
    return FrozenSource(source, splits, device, channels_last=channels_last)


def source_teacher(source: SourceModel, splits: Splits) -> Teacher:
    """A source as the teacher of a search among students for the data.

    Its body has a new, random classifier for the data's classes, and it reads the images of a probe as the source
    would. A probe that does not say how it was normalised is taken to be as the data is.

    Args:
        source: The source.
        splits: The data.

    Raises:
        SourceError: It does not take the data's images.
    """
    converter = _converter(source, splits)
    seen = {"mean": converter.mean, "std": converter.std, "data_mean": splits.mean, "data_std": splits.std}
    settings = {**source.config(), "new_classifier": splits.num_classes, **as_json(seen)}

    def make() -> nn.Module:
        try:
            return replace_classifier(source.make(), splits.num_classes)
        except ClassifierError as error:
            raise SourceError(f"The source {source.name} cannot be the teacher of a search: {error}") from error

    def convert(probe: Probe) -> Probe:
        mean, std = (probe.origin.get(key) or given for key, given in (("mean", splits.mean), ("std", splits.std)))
        mean, std = (torch.tensor(values)[: probe.images.shape[1], None, None] for values in (mean, std))
        changed = f"{probe.fingerprint} {json.dumps(settings, sort_keys=True)}"
        return replace(
            probe,
            images=converter(probe.images * std + mean),
            fingerprint=hashlib.sha256(changed.encode()).hexdigest(),
            origin={**probe.origin, "converted": as_json({"size": converter.size, **seen})},
        )

    return ConvertedTeacher(name=source.name, make=make, trained=source.trained, settings=settings, convert=convert)


# -- what runs it -------------------------------------------------------------------------------


class Converter(nn.Module):
    """Images of the data, between 0 and 1, as a source was trained to see them.

    Images of another size are resized bilinearly, with antialiasing, and without regard to their proportions. Of grey
    images in three channels, which are equal, one is taken where the source has but one, and the other way round.

    Args:
        size: Height and width that the source was trained on; None leaves them as they are.
        mean: Of each channel that it takes.
        std: Likewise.
        channels_last: Give images in NHWC memory order.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.mean = mean
        self.std = std
        self.normalise = Normalised(mean, std, channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), converted."""
        channels = len(self.mean)
        if images.shape[1] != channels:
            images = images[:, :1].expand(-1, channels, -1, -1)
        if self.size is not None and images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.normalise(images)


class FrozenSource:
    """A source that is only looked at: in evaluation mode, in single precision, without gradients.

    It is given the data's images between 0 and 1, and converts them to those that it was trained on.

    Args:
        source, splits, device, channels_last: As for `load_source`.

    Attributes:
        source: What it was made of.
        model: The network.
        convert: Makes of the data's images those that the network takes.
        num_classes: Classes that it tells apart; 0 without a classifier.
        num_features: Width of its features.

    Raises:
        SourceError: As for `load_source`.
    """

    def __init__(
        self, source: SourceModel, splits: Splits, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> None:
        self.source = source
        self._device = torch.device(device)
        self.convert = _converter(source, splits, channels_last).to(self._device)
        model = _built(source).float().eval().requires_grad_(False).to(self._device)
        self.model: Any = model.to(memory_format=torch.channels_last) if channels_last else model
        example = torch.rand(2, *splits.input_size, generator=torch.Generator().manual_seed(0)).to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            prepare = _classified if source.classifier else _featured
            self._run = prepare(self.model, self.convert(example), source.name)
        found = self(example)
        self.num_features = found.features.shape[1]
        self.num_classes = 0 if found.logits is None else found.logits.shape[1]
        self._check(found)

    def __call__(self, images: Tensor) -> SourceReading:
        """Its features and logits of images (B, C, H, W) between 0 and 1, on its device."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            features, logits = self._run(self.convert(images))
        # Copies, which a graph may hold.
        return SourceReading(features.float().clone(), None if logits is None else logits.float().clone())

    def logits(self, images: Tensor) -> Tensor:
        """Its logits (B, K) of images (B, C, H, W) between 0 and 1.

        Raises:
            SourceError: It has no classifier.
        """
        logits = self(images).logits
        if logits is None:
            raise SourceError(f"The source {self.source.name} has no classifier, and so gives no predictions.")
        return logits

    def _check(self, found: SourceReading) -> None:
        """Refuse a network that does not give what its source is said to give."""
        source, logits = self.source, found.logits
        if logits is None:
            return
        if self.num_classes != source.num_classes:
            raise SourceError(
                f"The source {source.name} is said to tell {source.num_classes} classes apart, but gives "
                f"{self.num_classes} values; give its num_classes, 0 where these are features."
            )
        if self.num_classes > 1 and bool(((logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < 1e-3)).all()):
            raise SourceError(
                f"The source {source.name} gives probabilities where logits are needed; take off the softmax behind "
                "its last layer."
            )


_Run = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Gives features and logits of converted images."""


def _featured(model: Any, example: Tensor, name: str) -> _Run:
    """Of a network without a classifier, whose output is its features."""

    def run(images: Tensor) -> tuple[Tensor, None]:
        return _averaged(model(images), model), None

    try:
        output = model(example)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise SourceError(_unfit(name, f"cannot be run on images of {tuple(example.shape[1:])}: {error}")) from error
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or len(output) != len(example):
        raise SourceError(f"The source {name} must give one tensor of features, (batch, width); it gives another form.")
    return run


def _classified(model: Any, example: Tensor, name: str) -> _Run:
    """Of a classifier, whose features are what its last linear layer gets."""
    try:
        reader = FeatureReader(model, example, name)
    except ReadingError as error:
        what = str(error).removeprefix(f"{name} ")
        raise SourceError(_unfit(name, what) if error.__cause__ else f"The source {name} {what}") from error
    if reader.shapes.pooled is None and (layer := _scoring_layer(model, example, reader.shapes.classes)):
        return _scored(model, layer)
    reader.want(("features",) if reader.shapes.pooled is None else ("pooled",))

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        found = reader.read(images)
        mapped = None if found.features is None else found.features.mean((2, 3))
        return next(each for each in (found.pooled, mapped, found.logits) if each is not None), found.logits

    return run


def _scoring_layer(model: nn.Module, example: Tensor, classes: int) -> nn.Module | None:
    """Of the linear layers that give class scores, as of each position of a map or each token, the one run last."""
    ran: list[nn.Module] = []
    with ExitStack() as stack:
        for layer in model.modules():
            if is_linear(layer) and len(layer.weight) == classes:  # type: ignore[arg-type]
                stack.callback(layer.register_forward_hook(lambda module, *_: ran.append(module)).remove)
        model(example)
    return ran[-1] if ran else None


def _scored(model: Any, layer: nn.Module) -> _Run:
    """Of a classifier with such a layer, whose features are the mean of what the layer gets."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught[:] = [first_given(args, kwargs)]

    layer.register_forward_pre_hook(catch, with_kwargs=True)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        inputs = caught.pop()
        channels = -1 if isinstance(layer, nn.Linear) else 1
        return inputs.movedim(channels, 1).reshape(len(inputs), inputs.shape[channels], -1).mean(2), logits

    return run


def _unfit(name: str, why: str) -> str:
    return f"The source {name} {why.rstrip('.')}. Give the input_size (channels, height, width) that it was trained on."


def _averaged(output: Tensor, model: Any) -> Tensor:
    """Features (B, d) as they are; of a feature map or of tokens the mean over positions."""
    if isinstance(getattr(model, "num_features", None), int):
        return channels_first(output, model).mean(2)
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


def _converter(source: SourceModel, splits: Splits, channels_last: bool = False) -> Converter:
    channels = source.channels
    if channels not in (1, 3):
        raise SourceError(
            f"The source {source.name} takes images of {channels} channels; the data's can be given to it in 3, "
            "or in 1 where they are grey."
        )
    if channels == 1 and not _is_grey(splits.train):
        raise SourceError(
            f"The source {source.name} takes grey images, but those of {splits.name} are in colour; a source for them "
            "takes 3 channels."
        )
    size = None if source.input_size is None else source.input_size[1:]
    return Converter(size, source.mean or splits.mean[:channels], source.std or splits.std[:channels], channels_last)


def _is_grey(images: ImageSet) -> bool:
    """Whether the three channels of all images are equal; of images that are streamed, of some."""
    if isinstance(images, ResidentSet):
        pixels = images.images
    else:
        places = torch.linspace(0, len(images) - 1, min(_LOOKED_AT, len(images))).long()
        read = images.batches(places, len(places), device=torch.device("cpu"), augment=None, seed=0)
        pixels = next(iter(read)).images
    return pixels.shape[1] == 1 or all(torch.equal(pixels[:, 0], pixels[:, other]) for other in (1, 2))


def _built(source: SourceModel) -> nn.Module:
    try:
        return source.build()
    except TypeError as error:  # an option that it does not know, or of the wrong type
        raise _unbuildable(source.name, source.timm[1] if source.timm else {}, error) from error
    except ValueError as error:
        raise SourceError(f"The source {source.name}: {error}") from error
    except OSError as error:
        raise SourceError(
            f"The weights of the source {source.name} cannot be had: {str(error) or type(error).__name__}"
        ) from error


def _unbuildable(name: str, options: Mapping[str, Any], error: TypeError) -> SourceError:
    """What to say of a network that does not take its options, with the keys that a refused one comes near."""
    near = [key for option in options if f"'{option}'" in str(error) for key in near_names(option, _KEYS)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return SourceError(f"The source {name} cannot be built: {error}.{hint}")


# -- what a source is given as ------------------------------------------------------------------

_KEYS = ("model", "checkpoint", "pretrained", "num_classes", "mean", "std", "input_size", "space")
"""What a mapping may say of any source; of a timm name, it may have options of `timm.create_model` besides."""


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
        if key not in _KEYS:
            raise UnknownNameError(unknown_name_message("key of a source", key, _KEYS))


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
        raise _unbuildable(name, options, error) from error
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
