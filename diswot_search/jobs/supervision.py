"""What a training learns beside its labels: from sources, weighted by how near they are, or from its own guesses."""

from __future__ import annotations

import inspect
import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from search_spaces.registry import unknown_name_message

from ..data.splits import Splits, check_division, same_data
from ..networks.features import Shapes
from ..networks.network import Network
from ..resolve.sources import SourceLike, as_sources
from ..runtime.run_folder import RunFolderError
from ..sources.frozen import load_source
from ..sources.ranking import POWER, SourceRanking
from ..sources.transferability import WEIGHTINGS, get_measure, source_weights
from ..training.folder import TrainingFolder
from ..training.recipe import Recipe
from ..training.unlabelled import (
    VIEWS,
    FixMatch,
    Predictor,
    SourceDistillation,
    UnlabelledError,
    UnlabelledLoss,
    WeightedSource,
    check_between,
)
from .rank_sources import load_ranking, rank_sources

LAM = 0.8
"""Factor of the labelled images' loss beside that of sources, unless it is said otherwise."""


FIXMATCH_RATIO = 7
"""Unlabelled images for each labelled one of FixMatch. Source: Sohn et al., NeurIPS 2020."""


MEMORY = "lesson"
"""What a training's store calls what a lesson found out."""


PREDICTIONS = "predictions"
"""The folder of sources' predictions, beside a ranking or in a run folder."""


Bank = Sequence[SourceLike] | Mapping[str, SourceLike] | SourceRanking | str | os.PathLike[str]
"""Sources, or their ranking, or the run folder of that."""


Weighting = str | Mapping[str, float]
"""How much each source counts: one of `WEIGHTINGS`, or weights by name."""


class UnlabelledObjective(ABC):
    """What is to be learnt from unlabelled images, with all that the data and the device decide of it.

    Attributes:
        ratio: Unlabelled images for each labelled one, by default.
        shared: Whether the loss may look at the labelled images of a step where all images are labelled.
        sources: Models that it learns from.
        weights: How much each of them counts, by name.
    """

    ratio: int = 1
    shared: bool = False
    sources: tuple[Network, ...] = ()
    weights: Mapping[str, float] = {}

    @abstractmethod
    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        """Find out what there is to learn; what does not fit shows here, before anything is written.

        Args:
            splits: The data.
            recipe: How the student is trained.
            seed: Of the training.
            device: Where it is trained.
            out: The run folder of the training, which may hold what `remembered` gave in an earlier run.
        """

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn."""
        return True

    @abstractmethod
    def create(self, student: Shapes) -> UnlabelledLoss:
        """The loss for a student of these shapes."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that it was asked for, as JSON values."""

    def remembered(self) -> dict[str, Any] | None:
        """What was found out and is to stay the same when the training continues, as JSON values."""
        return None

    @abstractmethod
    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What to say of it in `result.json`, given the epochs."""


class FixMatchObjective(UnlabelledObjective):
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

    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        FixMatch(**self.options).augmentations(recipe.augmentation)  # where a wrong policy shows

    def create(self, student: Shapes) -> FixMatch:
        return FixMatch(**self.options)

    def config(self) -> dict[str, Any]:
        return {"name": "fixmatch", **self.options}

    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"unlabelled": "fixmatch", "sources": None}


def unlabelled_objective(name: str | None, options: Mapping[str, Any] | None) -> UnlabelledObjective | None:
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
    return FixMatchObjective(options)


@dataclass(frozen=True)
class _Known:
    """How near a source is: the mean over draws, and the spread; None where it was not, or cannot be, measured."""

    similarity: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class _Found:
    """What decides how much each source counts.

    Attributes:
        measure: What similarity was measured by; None where it was not.
        known: How near each source is, by name.
    """

    measure: str | None = None
    known: Mapping[str, _Known] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> _Found:
        return cls(values["measure"], {name: _Known(**known) for name, known in values["known"].items()})

    def to_json(self) -> dict[str, Any]:
        return {"measure": self.measure, "known": {name: vars(known) for name, known in self.known.items()}}

    def of(self, name: str) -> _Known:
        return self.known.get(name, _Known())


class SourceObjective(UnlabelledObjective):
    """Sources, each of which teaches its own task on the target's images.

    Args:
        bank: The sources, or their ranking.
        weighting: One of `WEIGHTINGS`, or weights by name.
        measure: Name of the measure of similarity; by default the ranking's first, or parc where there is none yet.
        power: p, at least 0; infinity means the nearest.
        lam: lambda, 0 to 1.
        source_view: One of `VIEWS`.

    Attributes:
        sources: The sources.
        weights: Their weights by name; empty where none of them is near the target.

    Raises:
        ValueError: A value out of its range, an unknown name, or sources that there are not.
        RunFolderError: The run folder holds no finished ranking.
    """

    shared = True

    def __init__(
        self,
        bank: Bank,
        *,
        weighting: Weighting = "weighted",
        measure: str | None = None,
        power: float = POWER,
        lam: float = LAM,
        source_view: str = "fixed",
    ) -> None:
        check_between("lam", lam, 0, 1)
        check_between("power", power, 0, math.inf)
        if isinstance(weighting, str) and weighting not in WEIGHTINGS:
            raise UnlabelledError(unknown_name_message("weighting", weighting, WEIGHTINGS))
        if source_view not in VIEWS:
            raise UnlabelledError(unknown_name_message("source_view", source_view, VIEWS))
        if measure is not None:
            get_measure(measure)
        if isinstance(bank, str | os.PathLike):
            bank = load_ranking(bank)
        self.ranking: SourceRanking | None = None
        if isinstance(bank, SourceRanking):
            self.ranking, self.sources = bank, bank.sources
            self.measure = measure or bank.measures[0]
        else:
            self.sources = as_sources(bank)
            self.measure = measure or "parc"
        self.weighting = weighting
        self.power = power
        self.lam = lam
        self.source_view = source_view
        self.weights = {}
        self._found = _Found()
        self._teaching: tuple[WeightedSource, ...] = ()
        self._seed = 0
        self._folder: Path | None = None
        if isinstance(weighting, Mapping):
            self._weigh()  # where an unknown name shows

    @property
    def _measures(self) -> bool:
        """Whether the weights come from similarities."""
        return self.weighting in ("weighted", "nearest")

    def begin(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        for source in self.sources:
            if source.trained_on is not None:
                check_division(f"The source {source.name}", source.trained_on, splits)
                _warn_of_labels(f"The source {source.name} learnt", source.trained_on, splits)
        if self.ranking is not None:
            _check_target(self.ranking, splits)
        self._found = _from_main_process(lambda: self._find(splits, seed, device, out))
        self._weigh()
        self._seed = seed
        self._folder = self._choose_folder(out)
        self._warn()
        weighed = [source for source in self.sources if self.weights.get(source.name)] if self.lam < 1 else []
        self._teaching = tuple(self._teacher(source, splits, recipe, device) for source in weighed)

    def _find(self, splits: Splits, seed: int, device: torch.device, out: Path | None) -> _Found:
        """How near the sources are: as an earlier run of this training found, as the ranking says, or measured now."""
        if out is not None and (stored := TrainingFolder.recall_from(out, MEMORY)) is not None:
            return _Found.from_json(stored)
        ranking, measure = self.ranking, self.measure
        if ranking is None:
            if not self._measures:
                return _Found()
            ranking = rank_sources(
                self.sources, splits, measures=measure, seed=seed, device=device.type, progress=False
            )
        elif not self._measures:
            measure = ranking.measures[0]
        means, spreads = ranking.similarities(measure), ranking.spreads(measure)
        return _Found(measure, {name: _Known(*map(_number, (means[name], spreads[name]))) for name in means})

    def _weigh(self) -> None:
        similarities = {source.name: self._similarity(source) for source in self.sources}
        self.weights = source_weights(similarities, self.weighting, self.power)

    def _similarity(self, source: Network) -> float:
        """How near a source is that can teach; NaN, which gives no weight, of others."""
        value = self._found.of(source.name).similarity
        return math.nan if value is None or not source.trained or not source.classifier else value

    def _warn(self) -> None:
        if self._measures:
            for source in self.sources:
                if source.trained and source.classifier:
                    continue
                lacks = "has random weights" if source.classifier else "has no classifier"
                warnings.warn(f"The source {source.name} {lacks}, so that it teaches nothing.", stacklevel=3)
        if not self.weights:
            warnings.warn(f"{self._fallback}; the student is trained on labels alone.", stacklevel=3)
        elif self.lam == 0:
            warnings.warn(
                "lam is 0, so that no label is learnt and the student's classifier stays random.", stacklevel=3
            )

    def _choose_folder(self, out: Path | None) -> Path | None:
        """Where predictions are kept: beside the ranking, for other trainings as well, or in the run folder."""
        if self.ranking is not None and self.ranking.path is not None and os.access(self.ranking.path, os.W_OK):
            return self.ranking.path / PREDICTIONS
        return None if out is None else out / PREDICTIONS

    def _teacher(self, source: Network, splits: Splits, recipe: Recipe, device: torch.device) -> WeightedSource:
        if not source.classifier:
            raise UnlabelledError(
                f"The source {source.name!r} has no classifier, so that it predicts nothing that a student could "
                "learn; leave it out, or give it weight 0."
            )

        def load() -> Predictor:
            return load_source(source, splits, device, channels_last=recipe.channels_last).logits

        load()  # where it shows that it does not take these images; it is let go of until it is needed
        identity = json.dumps([source.config(), list(splits.mean), list(splits.std)], sort_keys=True)
        return WeightedSource(source.name, source.num_classes or 0, self.weights[source.name], load, identity)

    @property
    def teaches(self) -> bool:
        return bool(self._teaching)

    def create(self, student: Shapes) -> SourceDistillation:
        return SourceDistillation(
            student, self._teaching, lam=self.lam, view=self.source_view, seed=self._seed, folder=self._folder
        )

    @property
    def _fallback(self) -> str | None:
        if self.weights:
            return None
        if not any(source.trained and source.classifier for source in self.sources):
            return "No source can teach: none has trained weights and a classifier"
        return f"No source is near the target: by {self.measure}, none that can teach has a similarity above 0"

    def config(self) -> dict[str, Any]:
        weighting = self.weighting if isinstance(self.weighting, str) else dict(self.weighting)
        return {
            "name": "sources",
            "models": {source.name: source.config() for source in self.sources},
            "weighting": weighting,
            **({"measure": self.measure} if self._measures else {}),
            **({"power": self._shown_power} if weighting == "weighted" else {}),
            "lam": self.lam,
            "view": self.source_view,
            "ranking": self.ranking and self.ranking.config,
        }

    @property
    def _shown_power(self) -> float | str:
        return self.power if math.isfinite(self.power) else "inf"  # of which JSON knows nothing

    def remembered(self) -> dict[str, Any]:
        return self._found.to_json()

    def result(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        models = [
            {
                "name": source.name,
                **vars(self._found.of(source.name)),
                "weight": self.weights.get(source.name, 0.0),
                "loss": self._last_loss(source.name, rows),
            }
            for source in self.sources
        ]
        said = {key: value for key, value in self.config().items() if key in ("weighting", "power", "lam", "view")}
        measured = {"measure": self._found.measure, "fallback": self._fallback}
        return {"unlabelled": "sources", "sources": {"power": None, **said, **measured, "models": models}}

    def _last_loss(self, name: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """Mean cross entropy with the source in the last epoch, without weights."""
        weighted = rows[-1].get(f"loss/source {name}") if rows else None
        return None if not weighted else weighted / ((1 - self.lam) * self.weights[name])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_target(ranking: SourceRanking, splits: Splits) -> None:
    """Refuse a ranking of other data, or one that looked at images to be tested on."""
    ranking.check_target(splits.name, splits.num_classes)
    target = ranking.config["target"]
    check_division("The ranking of the sources", target, splits, "made of")
    _warn_of_labels("The sources were ranked by", target, splits)


def _warn_of_labels(what: str, known: Mapping[str, Any], splits: Splits) -> None:
    """Say so where other labels of the same data were looked at, some of which may be hidden here."""
    chosen = [(config.get("labels") or {}).get("sha256") for config in (known, splits.config())]
    if same_data(known, splits) and chosen[0] != chosen[1]:
        warnings.warn(f"{what} other labels of {splits.name} than those that are learnt here.", stacklevel=4)


def _from_main_process(find: Callable[[], _Found]) -> _Found:
    """What the main process finds, or its error, in all processes."""
    found: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            found[0] = find()
        except (ValueError, RunFolderError, OSError) as error:
            found[1] = error
    result, failure = broadcast_object_list(found)
    if failure is not None:
        raise failure
    return result


OPTIONS_OF_SOURCES = {
    name: parameter.default
    for name, parameter in inspect.signature(SourceObjective).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
"""The options of learning from sources, with their defaults."""
