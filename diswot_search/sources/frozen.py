"""A source as a ranking or a training runs it: built, never changed, given the data's images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_spaces.registry import near_names

from ..data.splits import Splits
from ..networks.classifiers import ClassifierError
from ..networks.contract import ReadingError
from ..networks.conversion import preprocessing_for
from ..networks.features import embed_classifier, embed_network
from ..networks.memory_format import to_channels_last
from ..networks.network import Network
from ..networks.preprocessing import Preprocessing, ProbeConversion
from ..networks.recipes import WithNewClassifier
from ..networks.soundness import check_finite_weights, check_logits
from .source import SOURCE_KEYS, SourceError


class SourceReading(NamedTuple):
    """The outputs of a source for a batch.

    Attributes:
        features: The input of its classifier (B, d), float32, averaged over positions if the classifier is run on a map
            or on tokens. Without a linear classifier, the mean of the last feature map, or else the output itself.
        logits: Logits (B, K), float32; None if it has no classifier.
    """

    features: Tensor
    logits: Tensor | None


def check_images(source: Network, splits: Splits) -> None:
    """Check that a source takes the data's images, as far as that shows before it is built.

    Raises:
        SourceError: Its channels do not fit.
    """
    _preprocessing(source, splits)


def _preprocessing(source: Network, splits: Splits) -> Preprocessing:
    with _refused():
        return preprocessing_for(source, splits, "source")


def load_source(
    source: Network, splits: Splits, device: torch.device | str = "cpu", *, channels_last: bool = False
) -> FrozenSource:
    """A source on its device, ready for the images of the data.

    Args:
        source: The source.
        splits: The data.
        device: The device to run it on.
        channels_last: Keep feature maps in NHWC memory order.

    Raises:
        SourceError: It does not take the data's images, its weights do not fit or cannot be fetched, or its output is
            not that of a source.
    """
    return FrozenSource(source, splits, device, channels_last=channels_last)


def source_teacher(source: Network, splits: Splits) -> Network:
    """A source as the teacher of a search among students for the data.

    Its body has a new, random classifier for the data's classes, and it reads the images of a probe as the source
    would. A probe that does not say how it was normalised is taken to be normalised as the data is.

    Args:
        source: The source.
        splits: The data.

    Raises:
        SourceError: It does not take the data's images.
    """
    preprocessing = _preprocessing(source, splits)
    conversion = ProbeConversion(preprocessing, splits.mean, splits.std, identity="")
    teacher = replace(
        source,
        recipe=_TeacherRecipe(source.recipe, splits.num_classes, source.name),
        num_classes=splits.num_classes,
        settings={**source.settings, **conversion.config()},
    )
    identity = json.dumps(teacher.config(), sort_keys=True)
    return replace(teacher, conversion=replace(conversion, identity=identity))


@dataclass(frozen=True)
class _TeacherRecipe(WithNewClassifier):
    """A source with a new classifier; `source` is its name, for messages."""

    source: str

    def build(self) -> nn.Module:
        try:
            return super().build()
        except ClassifierError as error:
            raise SourceError(f"The source {self.source} cannot be the teacher of a search: {error}") from error


class FrozenSource:
    """A source that is only read: in evaluation mode, in single precision, without gradients.

    It takes the data's images between 0 and 1 and converts them to those that it was trained on.

    Args:
        source, splits, device, channels_last: See `load_source`.

    Attributes:
        source: The network that it was built from.
        model: The module.
        convert: Converts the data's images to those that the module takes.
        num_classes: Number of classes; 0 without a classifier.
        num_features: Width of its features.

    Raises:
        SourceError: See `load_source`.
    """

    def __init__(
        self, source: Network, splits: Splits, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> None:
        self.source = source
        self._device = torch.device(device)
        self.convert = _preprocessing(source, splits).preprocessor(channels_last).to(self._device)
        model = build_source(source)
        with _refused():
            check_finite_weights(model, f"The source {source.name}")
        model = model.float().eval().requires_grad_(False).to(self._device)
        self.model: nn.Module = to_channels_last(model) if channels_last else model
        example = torch.rand(2, *splits.input_size, generator=torch.Generator().manual_seed(0)).to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            self._run = _embed(self.model, self.convert(example), source)
        reading = self(example)
        self.num_features = reading.features.shape[1]
        self.num_classes = 0 if reading.logits is None else reading.logits.shape[1]
        self._check(reading)

    def __call__(self, images: Tensor) -> SourceReading:
        """The features and logits of images (B, C, H, W) between 0 and 1, on its device."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            features, logits = self._run(self.convert(images))
        # Copies outside of inference mode, which a graph may hold.
        return SourceReading(features.float().clone(), None if logits is None else logits.float().clone())

    def logits(self, images: Tensor) -> Tensor:
        """The logits (B, K) of images (B, C, H, W) between 0 and 1.

        Raises:
            SourceError: It has no classifier.
        """
        logits = self(images).logits
        if logits is None:
            raise SourceError(f"The source {self.source.name} has no classifier, and so gives no predictions.")
        return logits

    def _check(self, reading: SourceReading) -> None:
        """Refuse a network whose output is not what its source declares."""
        source, logits = self.source, reading.logits
        if logits is None:
            return
        if self.num_classes != source.num_classes:
            raise SourceError(
                f"The source {source.name} declares {source.num_classes} classes, but returns {self.num_classes} "
                "values; set its num_classes, or 0 if the values are features."
            )
        with _refused():
            check_logits(logits, f"The source {source.name}")


@contextmanager
def _refused() -> Iterator[None]:
    """Turn the error of a check of any network into that of a source."""
    try:
        yield
    except ValueError as error:
        raise SourceError(str(error)) from error


_Run = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Gives features and logits of converted images."""


def _embed(model: nn.Module, example: Tensor, source: Network) -> _Run:
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


def build_source(source: Network) -> nn.Module:
    """The module of a source.

    Raises:
        SourceError: It cannot be built, or its weights do not fit or cannot be fetched.
    """
    try:
        return source.build()
    except TypeError as error:  # an option that it does not know, or of the wrong type
        raise unbuildable(source.name, source.timm[1] if source.timm else {}, error) from error
    except ValueError as error:
        raise SourceError(f"The source {source.name}: {error}") from error
    except OSError as error:
        raise SourceError(
            f"The weights of the source {source.name} cannot be loaded: {str(error) or type(error).__name__}"
        ) from error


def unbuildable(name: str, options: Mapping[str, object], error: TypeError) -> SourceError:
    """The error of a network that does not take its options, with keys near to the one that it refused."""
    near = [key for option in options if f"'{option}'" in str(error) for key in near_names(option, SOURCE_KEYS)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return SourceError(f"The source {name} cannot be built: {error}.{hint}")
