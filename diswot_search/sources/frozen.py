"""A source as a ranking or a training runs it: built, never changed, given the data's images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from search_spaces.registry import near_names

from ..data.image_sets import ImageSet, ResidentSet
from ..data.probe import Probe
from ..data.splits import Splits
from ..networks.classifiers import ClassifierError, replace_classifier
from ..networks.contract import ReadingError
from ..networks.features import embed_classifier, embed_network
from ..networks.network import ConvertedTeacher, Teacher
from ..networks.preprocessing import Converter
from ..runtime.run_folder import as_json
from .source import EXAMINED_BATCH, SOURCE_KEYS, SourceError, SourceModel


class SourceReading(NamedTuple):
    """What a source gives for a batch.

    Attributes:
        features: (B, d), float32: what its classifier gets. Of one that is run on a map or on tokens, the mean over
            positions; without a linear classifier, the mean of the last feature map, or else the output itself.
        logits: (B, K), float32; None where it has no classifier.
    """

    features: Tensor
    logits: Tensor | None


def check_images(source: SourceModel, splits: Splits) -> None:
    """See that a source takes the data's images, as far as that can be told without building it.

    Raises:
        SourceError: Its channels do not fit.
    """
    converter_for(source, splits)


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
    converter = converter_for(source, splits)
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
        self.convert = converter_for(source, splits, channels_last).to(self._device)
        model = build_source(source).float().eval().requires_grad_(False).to(self._device)
        self.model: Any = model.to(memory_format=torch.channels_last) if channels_last else model
        example = torch.rand(2, *splits.input_size, generator=torch.Generator().manual_seed(0)).to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            self._run = _embed(self.model, self.convert(example), source)
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


def _embed(model: nn.Module, example: Tensor, source: SourceModel) -> _Run:
    name = source.name
    try:
        if source.classifier:
            return embed_classifier(model, example, name)
        embed = embed_network(model, example)
    except ReadingError as error:
        what = str(error).removeprefix(f"{name} ")
        raise SourceError(_unfit(name, what) if error.__cause__ else f"The source {name} {what}") from error
    return lambda images: (embed(images), None)


def _unfit(name: str, why: str) -> str:
    return f"The source {name} {why.rstrip('.')}. Give the input_size (channels, height, width) that it was trained on."


def converter_for(source: SourceModel, splits: Splits, channels_last: bool = False) -> Converter:
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
        places = torch.linspace(0, len(images) - 1, min(EXAMINED_BATCH, len(images))).long()
        read = images.batches(places, len(places), device=torch.device("cpu"), augment=None, seed=0)
        pixels = next(iter(read)).images
    return pixels.shape[1] == 1 or all(torch.equal(pixels[:, 0], pixels[:, other]) for other in (1, 2))


def build_source(source: SourceModel) -> nn.Module:
    try:
        return source.build()
    except TypeError as error:  # an option that it does not know, or of the wrong type
        raise unbuildable(source.name, source.timm[1] if source.timm else {}, error) from error
    except ValueError as error:
        raise SourceError(f"The source {source.name}: {error}") from error
    except OSError as error:
        raise SourceError(
            f"The weights of the source {source.name} cannot be had: {str(error) or type(error).__name__}"
        ) from error


def unbuildable(name: str, options: Mapping[str, Any], error: TypeError) -> SourceError:
    """What to say of a network that does not take its options, with the keys that a refused one comes near."""
    near = [key for option in options if f"'{option}'" in str(error) for key in near_names(option, SOURCE_KEYS)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return SourceError(f"The source {name} cannot be built: {error}.{hint}")
