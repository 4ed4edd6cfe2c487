"""What a training learns beside its labels: from sources, weighted by how near they are, or from its own guesses."""

from __future__ import annotations

import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor

from search_spaces.registry import unknown_name_message

from ..run_folder import finite_only
from ..splits import Splits
from .base import Shapes
from .recipe import Recipe
from .relatedness import WEIGHTINGS, get_measure, source_weights
from .source_ranking import POWER, SourceRanking, load_ranking, rank_sources
from .sources import SourceLike, SourceModel, as_sources, load_source
from .unlabelled import (
    VIEWS,
    FixMatch,
    SourceDistillation,
    UnlabelledError,
    UnlabelledLoss,
    WeightedSource,
    check_between,
)

FIXMATCH_RATIO = 7
"""Unlabelled images for each labelled one of FixMatch. Source: Sohn et al., NeurIPS 2020."""

Bank = Sequence[SourceLike] | Mapping[str, SourceLike] | SourceRanking | str | os.PathLike[str]
"""Sources, or their ranking, or the run folder of that."""
Weighting = str | Mapping[str, float]
"""How much each source counts: one of `WEIGHTINGS`, or weights by name."""


class Lesson(ABC):
    """What is to be learnt from unlabelled images, with all that the data and the device decide of it.

    Attributes:
        ratio: Unlabelled images for each labelled one, by default.
        shared: Whether the loss may look at the labelled images of a step where all images are labelled.
        sources: Models that it learns from.
        weights: How much each of them counts, by name.
    """

    ratio: int = 1
    shared: bool = False
    sources: tuple[SourceModel, ...] = ()
    weights: Mapping[str, float] = {}

    @abstractmethod
    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: Any, known: Mapping[str, Any] | None) -> None:
        """Find out what there is to learn; what does not fit shows here, before anything is written.

        Args:
            splits: The data.
            recipe: How the student is trained.
            seed: Of the training.
            device: Where it is trained.
            known: What `remembered` gave in an earlier run of the same training.
        """

    @property
    @abstractmethod
    def create(self) -> Callable[[Shapes], UnlabelledLoss] | None:
        """Makes the loss for a student's shapes; None where nothing is left to learn."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that it was asked for, as JSON values."""

    def remembered(self) -> dict[str, Any]:
        """What was found out and is to stay the same when the training continues, as JSON values."""
        return {}

    @abstractmethod
    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What to say of it in `result.json`, given the epochs."""


class FixMatchLesson(Lesson):
    """FixMatch, in which a network teaches itself.

    Args:
        options: Options of `FixMatch`.

    Raises:
        UnlabelledError: An unknown option, or a value out of its range.
    """

    ratio = FIXMATCH_RATIO

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})
        for name in self.options:
            if name not in FixMatch.OPTIONS:
                raise UnlabelledError(unknown_name_message("option of fixmatch:", name, FixMatch.OPTIONS))
        FixMatch(**self.options)

    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: Any, known: Mapping[str, Any] | None) -> None:
        FixMatch(**self.options).augmentations(recipe.augmentation)  # where a wrong policy shows

    @property
    def create(self) -> Callable[[Shapes], UnlabelledLoss] | None:
        return lambda shapes: FixMatch(**self.options)

    def config(self) -> dict[str, Any]:
        return {"name": "fixmatch", **self.options}

    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"unlabelled": "fixmatch", "sources": None}


def unlabelled_lesson(name: str | None, options: Mapping[str, Any] | None) -> Lesson | None:
    """What is meant by `unlabelled` and its options.

    Raises:
        UnlabelledError: An unknown name or option, or options of nothing.
    """
    if name is None:
        if options:
            raise UnlabelledError("unlabelled_options are given, but not what is learnt from unlabelled images.")
        return None
    if name != "fixmatch":
        raise UnlabelledError(unknown_name_message("way to learn from unlabelled images:", name, ["fixmatch"]))
    return FixMatchLesson(options)


@dataclass(frozen=True)
class _Known:
    """How near a source is: the mean over draws, and the spread; None where it was not, or cannot be, measured."""

    similarity: float | None = None
    std: float | None = None


class SourceLesson(Lesson):
    """Sources, each of which teaches its own task on the target's images.

    Args:
        bank: The sources, or their ranking.
        weighting: One of `WEIGHTINGS`, or weights by name.
        measure: Name of the measure of similarity.
        power: p, at least 0; infinity means the nearest.
        lam: lambda, 0 to 1.
        view: One of `VIEWS`.

    Attributes:
        sources: The sources.
        weights: Their weights by name; empty where none of them is near the target.

    Raises:
        ValueError: A value out of its range, an unknown name, or sources that there are not.
        StudyError: The run folder holds no finished ranking.
    """

    shared = True

    def __init__(
        self,
        bank: Bank,
        *,
        weighting: Weighting = "weighted",
        measure: str = "parc",
        power: float = POWER,
        lam: float = 0.8,
        view: str = "fixed",
    ) -> None:
        check_between("lam", lam, 0, 1)
        check_between("power", power, 0, math.inf)
        if isinstance(weighting, str) and weighting not in WEIGHTINGS:
            raise UnlabelledError(unknown_name_message("weighting", weighting, WEIGHTINGS))
        if view not in VIEWS:
            raise UnlabelledError(unknown_name_message("source_view", view, VIEWS))
        get_measure(measure)
        if isinstance(bank, str | os.PathLike):
            bank = load_ranking(bank)
        self.ranking: SourceRanking | None = None
        if isinstance(bank, SourceRanking):
            self.ranking, self.sources = bank, bank.sources
        else:
            self.sources = as_sources(bank)
        self.weighting = weighting
        self.measure = measure
        self.power = power
        self.lam = lam
        self.view = view
        self.weights = {}
        self._known: dict[str, _Known] = {}
        self._taught: tuple[WeightedSource, ...] = ()
        self._seed = 0
        if isinstance(weighting, Mapping):
            self._weigh()  # where an unknown name shows

    @property
    def _measures(self) -> bool:
        """Whether the weights come from similarities."""
        return self.weighting in ("weighted", "nearest")

    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: Any, known: Mapping[str, Any] | None) -> None:
        self._seed = seed
        if known is not None:
            self._known = {name: _Known(**values) for name, values in known.items()}
        elif self._measures or self.ranking is not None:
            self._known = broadcast_object_list([self._ask(splits, seed, device.type)])[0]
        self._weigh()
        if not self.weights:
            warnings.warn(f"{self._fallback}; the student is trained on labels alone.", stacklevel=2)
        if self.lam == 1:
            return
        for source in self.sources:
            if weight := self.weights.get(source.name):
                self._taught += (self._load(source, weight, splits, device, recipe.channels_last),)

    def _ask(self, splits: Splits, seed: int, device: str) -> dict[str, _Known]:
        """How near the sources are."""
        ranking = self.ranking
        if ranking is None:
            ranking = rank_sources(
                self.sources, splits, measures=self.measure, seed=seed, device=device, progress=False
            )
        measure = self.measure if self._measures else ranking.measures[0]
        means, spreads = ranking.similarities(measure), ranking.spreads(measure)
        return {name: _Known(*map(_number, (mean, spreads[name]))) for name, mean in means.items()}

    def _weigh(self) -> None:
        similarities = {source.name: self._similarity(source.name) for source in self.sources}
        self.weights = source_weights(similarities, self.weighting, self.power)

    def _similarity(self, name: str) -> float:
        value = self._known.get(name, _Known()).similarity
        return math.nan if value is None else value

    def _load(
        self, source: SourceModel, weight: float, splits: Splits, device: Any, channels_last: bool
    ) -> WeightedSource:
        if not source.classifier:
            raise UnlabelledError(
                f"The source {source.name!r} has no classifier, so that it predicts nothing that a student could "
                "learn; leave it out, or give it weight 0."
            )
        frozen = load_source(source, splits, device, channels_last=channels_last)

        def predict(images: Tensor) -> Tensor:
            logits = frozen(images).logits
            assert logits is not None  # it has a classifier
            return logits

        identity = json.dumps([source.config(), list(splits.mean), list(splits.std)], sort_keys=True)
        return WeightedSource(source.name, source.num_classes, weight, predict, identity)

    @property
    def create(self) -> Callable[[Shapes], UnlabelledLoss] | None:
        if not self._taught:
            return None
        ranked_in = self.ranking and self.ranking.path
        folder = ranked_in / "predictions" if ranked_in else None

        def create(shapes: Shapes) -> SourceDistillation:
            return SourceDistillation(
                shapes, self._taught, lam=self.lam, view=self.view, seed=self._seed, folder=folder
            )

        return create

    @property
    def _fallback(self) -> str | None:
        return (
            None if self.weights else f"No source is near the target: by {self.measure}, none has a similarity above 0"
        )

    def config(self) -> dict[str, Any]:
        weighting = self.weighting if isinstance(self.weighting, str) else dict(self.weighting)
        return {
            "name": "sources",
            "models": {source.name: source.config() for source in self.sources},
            "weighting": weighting,
            **({"measure": self.measure} if self._measures else {}),
            **({"power": self.power if math.isfinite(self.power) else "inf"} if weighting == "weighted" else {}),
            "lam": self.lam,
            "view": self.view,
            "ranking": self.ranking and self.ranking.config,
        }

    def remembered(self) -> dict[str, Any]:
        return {name: vars(known) for name, known in self._known.items()}

    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        models = [
            {
                "name": source.name,
                **vars(self._known.get(source.name, _Known())),
                "weight": self.weights.get(source.name, 0.0),
                "loss": self._last_loss(source.name, rows),
            }
            for source in self.sources
        ]
        said = {key: value for key, value in self.config().items() if key in ("weighting", "lam", "view")}
        measured = {"measure": self.measure, "power": finite_only(self.power)}
        return {"unlabelled": "sources", "sources": {**said, **measured, "fallback": self._fallback, "models": models}}

    def _last_loss(self, name: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """Mean cross entropy with the source in the last epoch, without weights."""
        weighted = rows[-1].get(f"loss/source {name}") if rows else None
        return None if weighted is None else weighted / ((1 - self.lam) * self.weights[name])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def sources_lesson(sources: Bank | None, **options: Any) -> SourceLesson | None:
    """What is meant by `sources` and its options; None without sources."""
    return None if sources is None else SourceLesson(sources, view=options.pop("source_view"), **options)
