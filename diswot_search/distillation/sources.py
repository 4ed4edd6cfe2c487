"""Sources: models of other tasks, each with the size, channels and normalisation of images that it was trained on."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import SearchSpace, create_space

from ..classifiers import classifier_names, replace_classifier
from ..networks import Network, NetworkLike, as_network, card_of, channels_of, pretrained_config
from ..readings.forward import ReadingError
from ..run_folder import as_json
from ..seeding import isolated_random_state
from ..splits import Splits
from ..student_files import DISTILLED, FOLDER, WEIGHTS, find_student, read_card
from ..study import Candidate, Study
from ..teacher import ConvertedTeacher, Teacher
from .features import FeatureReader
from .task import Normalised


class SourceError(ValueError):
    """A source that cannot be had, is given twice, or does not fit the data."""


@dataclass(frozen=True, kw_only=True)
class SourceModel(Network):
    """A model of another task. Make several with `as_sources`.

    Attributes:
        input_size: Channels, height and width that its weights were trained on; None takes those of the data.
        classifier: Whether it tells classes apart; else it gives features alone, and `num_classes` is 0.
    """

    input_size: tuple[int, int, int] | None = None
    classifier: bool = True

    def config(self) -> dict[str, Any]:
        """All that tells it from another source, as JSON values."""
        more = {"num_classes": self.num_classes, "mean": self.mean, "std": self.std, "input_size": self.input_size}
        return super().config() | as_json(more | {"classifier": self.classifier})


SourceLike = SourceModel | NetworkLike | Mapping[str, Any]


class SourceReading(NamedTuple):
    """What a source gives for a batch.

    Attributes:
        features: (B, d), float32: the input of its classifier.
        logits: (B, K), float32; None where it has no classifier.
    """

    features: Tensor
    logits: Tensor | None


def as_sources(sources: Sequence[SourceLike] | Mapping[str, SourceLike]) -> tuple[SourceModel, ...]:
    """The sources that are meant, with names of their own.

    Args:
        sources: A sequence, or a mapping of names. Each one is a text: the run folder of a training or pipeline, the
            folder or file of a student, or a timm name, with timm's pretrained weights where there are some; a module;
            anything else that stands for a network; or a mapping of "model", which is one of these, and "checkpoint",
            "pretrained", "num_classes" (0: features alone), "mean", "std", "input_size", and options of
            `timm.create_model`. What is not given comes from the card of the weights, else from what timm knows of
            the model, else from the data that it is used on.

    Warns:
        UserWarning: A source has random weights.

    Raises:
        SourceError: There is none, or one is given twice or wrongly.
        UnknownNameError: A text is nothing that is known; near names are given.
        FileNotFoundError: There is no such file or folder.
    """
    if isinstance(sources, str | os.PathLike | nn.Module | Teacher):
        raise SourceError("The sources are given as a single one; give a list, or a mapping of names.")
    if isinstance(sources, Mapping):
        given = [(str(name), source) for name, source in sources.items()]
    else:
        given = [("", source) for source in sources]
    if not given:
        raise SourceError("There are no sources; give at least one.")
    found = [_as_source(source) for _, source in given]
    names = _names([(name,) if name else source.names for (name, _), source in zip(given, found, strict=True)])
    named = tuple(replace(source.model, name=name) for source, name in zip(found, names, strict=True))
    _check_duplicates(named)
    for source in named:
        if not source.trained:
            warnings.warn(
                f"The source {source.name} has random weights, of which nothing can be learnt; give a checkpoint.",
                stacklevel=2,
            )
    return named


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
        SourceError: It does not take the data's images, or its weights cannot be had.
    """
    return FrozenSource(source, splits, device, channels_last=channels_last)


def source_teacher(source: SourceModel, splits: Splits) -> Teacher:
    """A source as the teacher of a search among students for the data.

    Its body has a new, random classifier for the data's classes; images of a probe are converted as a source's are.

    Args:
        source: The source.
        splits: The data.
    """

    def make() -> nn.Module:
        return replace_classifier(source.make(), splits.num_classes)

    settings = source.config() | {"new_classifier": splits.num_classes}
    return ConvertedTeacher(source.name, make, source.trained, settings, convert=lambda probe: probe)


class FrozenSource:
    """A source that is only looked at: in evaluation mode, in single precision, without gradients.

    It is given the data's images between 0 and 1, and converts them to those that it was trained on.

    Args:
        source: The source.
        splits: The data.
        device: Where to run it.
        channels_last: Keep feature maps in NHWC memory order.

    Attributes:
        source: What it was made of.
        model: The network.
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
        model = _built(source).float().eval().requires_grad_(False).to(self._device)
        self.model: Any = model.to(memory_format=torch.channels_last) if channels_last else model
        self.convert = _converter(source, model, splits, channels_last).to(self._device)
        example = torch.rand(2, *splits.input_size, generator=torch.Generator().manual_seed(0)).to(self._device)
        self._reader = self._read(self.convert(example)) if source.num_classes else None
        reading = self(example)
        self.num_features = reading.features.shape[1]
        self.num_classes = 0 if reading.logits is None else reading.logits.shape[1]

    def __call__(self, images: Tensor) -> SourceReading:
        """Its features and logits of images (B, C, H, W) between 0 and 1, on its device."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            converted = self.convert(images)
            if self._reader is None:
                features, logits = _averaged(self.model(converted)), None
            else:
                found = self._reader.read(converted)
                features = found.pooled if found.pooled is not None else found.logits
                logits = found.logits
        # Copies, which a graph may hold.
        return SourceReading(features.float().clone(), None if logits is None else logits.clone())

    def logits(self, images: Tensor) -> Tensor:
        """Its logits (B, K) of images (B, C, H, W) between 0 and 1.

        Raises:
            SourceError: It has no classifier.
        """
        logits = self(images).logits
        if logits is None:
            raise SourceError(f"The source {self.source.name} has no classifier, and so gives no predictions.")
        return logits

    def _read(self, example: Tensor) -> FeatureReader:
        try:
            reader = FeatureReader(self.model, example, f"The source {self.source.name}")
        except ReadingError as error:
            raise SourceError(str(error)) from error
        reader.want(("pooled",))
        return reader


class Converter(nn.Module):
    """Images of the data, between 0 and 1, as a source was trained to see them.

    Args:
        size: Height and width that it was trained on.
        mean: Of each channel that it takes.
        std: Likewise.
        channels_last: Give images in NHWC memory order.
    """

    def __init__(
        self, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], channels_last: bool = False
    ) -> None:
        super().__init__()
        self.size = size
        self.channels = len(mean)
        self.normalise = Normalised(mean, std, channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), converted."""
        if images.shape[1] != self.channels:  # of grey images all channels are equal
            images = images[:, :1].expand(-1, self.channels, -1, -1)
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.normalise(images)


def _converter(source: SourceModel, model: nn.Module, splits: Splits, channels_last: bool) -> Converter:
    channels = source.input_size[0] if source.input_size else channels_of(source) or splits.input_size[0]
    size = (source.input_size or splits.input_size)[1:]
    return Converter(
        size, (source.mean or splits.mean)[:channels], (source.std or splits.std)[:channels], channels_last
    )


def _built(source: SourceModel) -> nn.Module:
    try:
        return source.build()
    except TypeError as error:  # an option that it does not know, or of the wrong type
        raise SourceError(f"The source {source.name} cannot be built: {error}.") from error


def _averaged(output: Any) -> Tensor:
    """Features (B, d) as they are; the mean over positions of a feature map (B, d, H, W) or of tokens (B, N, d)."""
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


# -- what a source is given as ------------------------------------------------------------------


class _Found(NamedTuple):
    """A source with names that it may have, the shortest first."""

    model: SourceModel
    names: tuple[str, ...]


def _as_source(given: SourceLike) -> _Found:
    options = dict(given) if isinstance(given, Mapping) else {"model": given}
    if options.get("model") is None:
        raise SourceError(f"A source is given as {given!r}; it needs 'model', the network that is meant.")
    known = {key: options.pop(key, None) for key in ("mean", "std", "input_size")}
    found = _find(options.pop("model"), options)
    return found._replace(model=_with(found.model, **known))


def _find(model: Any, options: dict[str, Any]) -> _Found:
    if isinstance(model, str) and timm.is_model(model):
        return _from_timm(model, **options)
    if isinstance(model, str | os.PathLike) and "space" not in options and Path(model).exists():
        return _from_path(Path(model), options)
    if isinstance(model, Study):
        model = model.winner
    if isinstance(model, Candidate):
        return _from_space(model, model.study.space, options)
    if isinstance(model, SourceModel) and not options:
        return _Found(model, (model.name,))
    if isinstance(model, nn.Module | Teacher):
        return _as_it_is(model, options)
    if isinstance(space := options.pop("space", None), str):
        classes = options.get("num_classes")
        space = create_space(space, **({} if classes is None else {"num_classes": classes}))
    if space is not None:
        return _from_space(model, space, options)
    as_network(model, num_classes=1, role="source")  # which says why it is none
    raise SourceError(f"A source cannot be made of {model!r}.")


def _from_timm(
    name: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> _Found:
    known = pretrained_config(name, "source") or _config_when_built(name, options)
    has_weights = known.has_weights
    pretrained = pretrained if pretrained is not None else has_weights and checkpoint is None
    card = None if checkpoint is None else card_of(find_student(checkpoint))
    classes = num_classes if num_classes is not None else card.num_classes if card else known.num_classes
    if pretrained and num_classes not in (None, 0, known.num_classes):
        raise SourceError(
            f"The pretrained weights of the source {name} tell {known.num_classes} classes apart, not {num_classes}; "
            "leave num_classes out, or give 0 for features alone."
        )
    channels = options.get("in_chans", 3)
    network = as_network(
        name,
        num_classes=classes,
        in_chans=channels,
        role="student",
        checkpoint=checkpoint,
        pretrained=pretrained,
        **options,
    )
    height, width = _pair(options.get("img_size", known.input_size[1:]))
    size = card.input_size if card else (channels, height, width)
    source = _source(network, size)
    if known.url or known.hf_hub_id or known.file:
        source = _with_default(source, known, channels)
    return _Found(source, (name,) if checkpoint is None else _names_of_path(Path(checkpoint)))


def _config_when_built(name: str, options: Mapping[str, Any]) -> PretrainedCfg:
    """What a network says of itself, which timm knows no weights of."""
    with isolated_random_state(0):
        model: Any = timm.create_model(name, **options)
    return PretrainedCfg(input_size=model.pretrained_cfg["input_size"], num_classes=model.num_classes)


def _with_default(source: SourceModel, known: PretrainedCfg, channels: int) -> SourceModel:
    """The normalisation that timm knows, where no card says another."""
    if source.mean is not None:
        return source
    mean, std = tuple(known.mean), tuple(known.std)
    if channels != len(mean):
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return replace(source, mean=mean, std=std)


def _from_path(path: Path, options: dict[str, Any]) -> _Found:
    if Study.exists(path):
        winner = Study.load(path).winner
        return _from_space(winner, winner.study.space, options, _names_of_path(path))
    classes = options.pop("num_classes", None)
    try:
        card = read_card(path)
    except FileNotFoundError:
        as_network(path, num_classes=1, role="source", **options)  # which says what it is
        raise
    network = as_network(path, num_classes=card.num_classes, in_chans=card.input_size[0], role="source", **options)
    return _Found(_source(network, card.input_size, classes), _names_of_path(path))


def _from_space(
    model: Any, space: SearchSpace, options: dict[str, Any], names: tuple[str, ...] | None = None
) -> _Found:
    classes = options.pop("num_classes", None)
    channels, height, width = space.input_size
    if not isinstance(model, Candidate):
        options["space"] = space
    network = as_network(
        model, num_classes=space.num_classes, in_chans=channels, image_size=(height, width), role="source", **options
    )
    checkpoint = options.get("checkpoint")
    if checkpoint is not None:
        names = _names_of_path(Path(checkpoint))
    return _Found(_source(network, space.input_size, classes), names or (network.name,))


def _as_it_is(model: Teacher | nn.Module, options: dict[str, Any]) -> _Found:
    classes = options.pop("num_classes", None)
    declared = model.num_classes if isinstance(model, Network) else None
    if declared is None:
        declared = _classes_of(model if isinstance(model, nn.Module) else model.build())
    network = as_network(model, num_classes=declared, in_chans=_channels(model), role="source", **options)
    size = model.input_size if isinstance(model, SourceModel) else None
    return _Found(_source(network, size, classes), (network.name,))


def _channels(model: Any) -> int:
    return (channels_of(model) if isinstance(model, Network) else None) or 3


def _classes_of(module: nn.Module) -> int:
    """Classes that a module says to tell apart, or that its last layer does; 0 where it gives features."""
    declared = getattr(module, "num_classes", None)
    if isinstance(declared, int):
        return declared
    layers: list[Any] = [module.get_submodule(name) for name in classifier_names(module)]
    return len(layers[0].weight) if layers else 0


def _source(network: Network, input_size: tuple[int, int, int] | None, num_classes: int | None = None) -> SourceModel:
    """The network as a source, of these classes: None for its own, 0 for features alone."""
    if num_classes not in (None, 0, network.num_classes):
        raise SourceError(
            f"The source {network.name} tells {network.num_classes} classes apart, not {num_classes}; leave "
            "num_classes out, or give 0 for features alone."
        )
    values = {item.name: getattr(network, item.name) for item in fields(Network)}
    values["settings"] = {"network": network.name} | network.settings
    return SourceModel(**values, input_size=input_size, classifier=network.num_classes > 0 and num_classes != 0)


def _with(source: SourceModel, mean: Any, std: Any, input_size: Any) -> SourceModel:
    """The source with what is given of its images."""
    if (mean is None) != (std is None):
        raise SourceError(f"The source {source.name} has one of mean and std only; give both, or neither.")
    size = source.input_size if input_size is None else tuple(input_size)
    if mean is None:
        return replace(source, input_size=size)
    return replace(source, input_size=size, mean=tuple(mean), std=tuple(std))


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


# -- names and duplicates -----------------------------------------------------------------------


def _names_of_path(path: Path) -> tuple[str, ...]:
    """The name of a run folder or file, and that with its folder's."""
    parts = list(path.absolute().parts)
    while len(parts) > 1 and parts[-1] in (WEIGHTS, FOLDER, DISTILLED):
        parts.pop()
    stem = Path(parts[-1]).stem if path.is_file() and parts[-1] == path.name else parts[-1]
    return stem, "/".join((*parts[-2:-1], stem))


def _names(candidates: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for each: the first where it is the only one, else the next, else one with a number."""
    counts = Counter(names[0] for names in candidates)
    chosen = [names[0] if counts[names[0]] == 1 else names[-1] for names in candidates]
    taken: Counter[str] = Counter()
    unique = []
    for name in chosen:
        taken[name] += 1
        unique.append(name if taken[name] == 1 else f"{name} ({taken[name]})")
    return unique


def _check_duplicates(sources: Sequence[SourceModel]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        weights = source.settings.get("checkpoint_sha256") or source.settings.get("weights_sha256")
        identity = weights or json.dumps(as_json(source.settings), sort_keys=True)
        if identity in seen:
            raise SourceError(
                f"The sources {seen[identity]} and {source.name} have the same weights; drop one of them."
            )
        seen[identity] = source.name
