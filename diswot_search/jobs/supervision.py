"""Objectives on unlabelled images: predictions of sources, weighted by similarity, or the student's own."""

from __future__ import annotations

import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from search_spaces.registry import unknown_name_message

from ..checks import check_whole
from ..data.splits import Splits, check_division, same_data
from ..networks.features import Shapes
from ..networks.network import Network
from ..options.training import SourceOptions
from ..resolve.sources import SourceLike, as_sources
from ..runtime.files import RunFolderError
from ..runtime.typed_json import decode_stored, encode_fields
from ..sources.frozen import load_source
from ..sources.ranking import SourceRanking
from ..sources.transferability import WEIGHTINGS, get_measure, source_weights
from ..training.folder import TrainingFolder
from ..training.recipe import Recipe, RecipeError
from ..training.result import EpochRow, SourceFacts, SourceWeighting
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

FIXMATCH_RATIO = 7
"""Unlabelled images for each labelled one of FixMatch. Source: Sohn et al., NeurIPS 2020."""


STATE = "objective"
"""Key of an objective's state in the store of a training."""


PREDICTIONS = "predictions"
"""The folder of sources' predictions, in the run folder of a ranking or of a training."""


Bank = Sequence[SourceLike] | Mapping[str, SourceLike] | SourceRanking | str | os.PathLike[str]
"""Sources, their ranking, or the run folder of a ranking."""


Weighting = str | Mapping[str, float]
"""The weighting of sources: one of `WEIGHTINGS`, or weights by name."""


class UnlabelledObjective(ABC):
    """An objective on unlabelled images, bound to a data set and a device by `prepare`.

    Attributes:
        name: Its name in `result.json`.
        ratio: Default number of unlabelled images for each labelled one.
        shared: Whether the loss may use the labelled images of a step if all images are labelled.
        sources: The models that it learns from.
        weights: Weight of each of them, by name.
    """

    name: ClassVar[str]
    ratio: int = 1
    shared: bool = False
    sources: tuple[Network, ...] = ()
    weights: Mapping[str, float] = {}

    @abstractmethod
    def prepare(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        """Bind the objective; options that do not fit the data are rejected before anything is written.

        Args:
            splits: The data.
            recipe: The recipe of the student.
            seed: Seed of the training.
            device: Device of the training.
            out: The run folder of the training, which may hold the `state` of an earlier run.
        """

    @property
    def is_active(self) -> bool:
        """Whether there is anything to learn."""
        return True

    @abstractmethod
    def create(self, student: Shapes) -> UnlabelledLoss:
        """Create the loss for a student of these shapes."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """All options, as JSON values."""

    def state(self) -> Mapping[str, object] | None:
        """The measurements that must stay the same when the training continues, as JSON values."""
        return None

    def sources_result(self, rows: Sequence[EpochRow]) -> SourceWeighting | None:
        """The sources and their weights for the result of a training; None without sources.

        Args:
            rows: The epochs of the training.
        """
        return None


class FixMatchObjective(UnlabelledObjective):
    """FixMatch: the student's confident predictions are its targets.

    Args:
        options: Options of `FixMatch`.

    Raises:
        UnlabelledError: An unknown option, or a value out of its range.
    """

    name = "fixmatch"
    ratio = FIXMATCH_RATIO

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})
        for name in self.options:
            if name not in FixMatch.OPTIONS:
                raise UnlabelledError(unknown_name_message("option of fixmatch:", name, FixMatch.OPTIONS))
        FixMatch(**self.options)

    def prepare(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        FixMatch(**self.options).augmentations(recipe.augmentation)  # rejects a wrong policy

    def create(self, student: Shapes) -> FixMatch:
        return FixMatch(**self.options)

    def config(self) -> dict[str, object]:
        return {"name": self.name, **self.options}


def unlabelled_objective(name: str | None, options: Mapping[str, object] | None) -> UnlabelledObjective | None:
    """Create the objective that `unlabelled` names; None for None.

    Raises:
        UnlabelledError: A name or an option is unknown, or there are options but no objective.
    """
    if name is None:
        if options:
            raise UnlabelledError("unlabelled_options are given, but no objective: pass `unlabelled=` as well.")
        return None
    if name != "fixmatch":
        raise UnlabelledError(unknown_name_message("unlabelled objective", name, ["fixmatch"]))
    return FixMatchObjective(options)


def unlabelled_batch_size(
    objective: UnlabelledObjective | None,
    requested: int | None,
    recipe: Recipe,
    *,
    processes: int,
    all_labelled: bool,
) -> int | None:
    """The number of unlabelled images in a step; None if the labelled images serve for both losses.

    Args:
        objective: The objective on unlabelled images; None without one.
        requested: The number that was asked for; None for the default of the objective.
        recipe: The recipe of the student.
        processes: Number of processes that train.
        all_labelled: Whether all training images have labels.

    Raises:
        ValueError: A number is asked for without an objective, or one that processes cannot share.
    """
    if objective is None:
        if requested is not None:
            raise ValueError(
                "unlabelled_batch_size is given, but nothing is learnt from unlabelled images: pass `sources=`, or "
                "`unlabelled=` to `train`."
            )
        return None
    is_mixed = recipe.mixup or recipe.cutmix
    if requested is None and objective.shared and all_labelled and not is_mixed:
        return None
    size = objective.ratio * recipe.batch_size if requested is None else requested
    check_whole("unlabelled_batch_size", size, least=1)
    parts = recipe.accumulate * processes
    if size % parts:
        raise RecipeError(
            f"unlabelled_batch_size is {size}, which {processes} processes cannot share in {recipe.accumulate} parts "
            f"each; choose one that {parts} divides."
        )
    return size


def source_objective(
    options: SourceOptions, bank: Bank | None = None, weighting: Weighting | None = None
) -> SourceObjective:
    """Create the objective on the sources of the options.

    Args:
        options: The options.
        bank: Other sources, or their ranking; None for those of the options.
        weighting: Another weighting; None for that of the options.

    Raises:
        ValueError, RunFolderError: See `SourceObjective`.
    """
    sources = options.sources if bank is None else bank
    if sources is None:
        raise UnlabelledError("There are no sources; pass `sources=`.")
    return SourceObjective(
        sources,
        weighting=options.weighting if weighting is None else weighting,
        measure=options.measure,
        power=options.power,
        lam=options.lam,
        source_view=options.source_view,
    )


@dataclass(frozen=True)
class _Similarity:
    """The similarity of a source: mean over draws, and standard deviation; None if not, or not to be, measured."""

    similarity: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class _Similarities:
    """The similarities that weights come from.

    Attributes:
        measure: The measure of similarity; None if none was measured.
        known: Similarity of each source by name; the key is part of the stored format.
    """

    measure: str | None = None
    known: Mapping[str, _Similarity] = field(default_factory=dict)

    def __getitem__(self, name: str) -> _Similarity:
        return self.known.get(name, _Similarity())


class SourceObjective(UnlabelledObjective):
    """The sources' own tasks on the target's images, each with a weight.

    Args:
        bank: The sources, or their ranking.
        weighting: One of `WEIGHTINGS`, or weights by name.
        measure: Name of the measure of similarity; by default the first of the ranking, or parc without one.
        power: p, at least 0; infinity means the nearest.
        lam: lambda, 0 to 1.
        source_view: One of `VIEWS`.

    Attributes:
        sources: The sources.
        weights: Their weights by name; empty if none of them is near the target.

    Raises:
        ValueError: A value is out of its range, or a name or a source is unknown.
        RunFolderError: The run folder holds no finished ranking.
    """

    name = "sources"
    shared = True

    def __init__(
        self,
        bank: Bank,
        *,
        weighting: Weighting,
        measure: str | None,
        power: float,
        lam: float,
        source_view: str,
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
        self._similarities = _Similarities()
        self._teaching: tuple[WeightedSource, ...] = ()
        self._seed = 0
        self._folder: Path | None = None
        if isinstance(weighting, Mapping):
            self._weigh()  # rejects an unknown name

    @property
    def _measures(self) -> bool:
        """Whether the weights come from similarities."""
        return self.weighting in ("weighted", "nearest")

    def prepare(self, splits: Splits, recipe: Recipe, seed: int, device: torch.device, out: Path | None) -> None:
        for source in self.sources:
            if source.trained_on is not None:
                check_division(f"The source {source.name}", source.trained_on, splits)
                _warn_of_labels(f"The source {source.name} learnt", source.trained_on, splits)
        if self.ranking is not None:
            _check_target(self.ranking, splits)
        self._similarities = _from_main_process(lambda: self._measure_similarities(splits, seed, device, out))
        self._weigh()
        self._seed = seed
        self._folder = self._choose_folder(out)
        self._warn()
        used = [source for source in self.sources if self.weights.get(source.name)] if self.lam < 1 else []
        self._teaching = tuple(self._weighted_source(source, splits, recipe, device) for source in used)

    def _measure_similarities(self, splits: Splits, seed: int, device: torch.device, out: Path | None) -> _Similarities:
        """The similarities: those of an earlier run of this training, else of the ranking, else measured now."""
        if out is not None and (stored := TrainingFolder.recall_from(out, STATE)) is not None:
            repair = "restore the folder from a copy, or start anew in another one"
            return decode_stored(_Similarities, stored, out / TrainingFolder.LAYOUT.store, repair)
        ranking, measure = self.ranking, self.measure
        if ranking is None:
            if not self._measures:
                return _Similarities()
            ranking = rank_sources(
                self.sources, splits, measures=measure, seed=seed, device=device.type, progress=False
            )
        elif not self._measures:
            measure = ranking.measures[0]
        means, spreads = ranking.similarities(measure), ranking.spreads(measure)
        similarities = {name: _Similarity(_finite(means[name]), _finite(spreads[name])) for name in means}
        return _Similarities(measure, similarities)

    def _weigh(self) -> None:
        similarities = {source.name: self._similarity(source) for source in self.sources}
        self.weights = source_weights(similarities, self.weighting, self.power)

    def _similarity(self, source: Network) -> float:
        """The similarity of a source that can teach; NaN, which gives no weight, for others."""
        value = self._similarities[source.name].similarity
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
        """The folder of predictions: that of the ranking, for other trainings as well, or the run folder."""
        if self.ranking is not None and self.ranking.path is not None and os.access(self.ranking.path, os.W_OK):
            return self.ranking.path / PREDICTIONS
        return None if out is None else out / PREDICTIONS

    def _weighted_source(self, source: Network, splits: Splits, recipe: Recipe, device: torch.device) -> WeightedSource:
        if not source.classifier:
            raise UnlabelledError(
                f"The source {source.name!r} has no classifier, so that it predicts nothing that a student could "
                "learn; leave it out, or give it weight 0."
            )

        def load() -> Predictor:
            return load_source(source, splits, device, channels_last=recipe.channels_last).logits

        load()  # rejects a source that does not take these images; it is loaded again when it is needed
        identity = json.dumps([source.config(), list(splits.mean), list(splits.std)], sort_keys=True)
        return WeightedSource(source.name, source.num_classes or 0, self.weights[source.name], load, identity)

    @property
    def is_active(self) -> bool:
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

    def config(self) -> dict[str, object]:
        weighting = self.weighting if isinstance(self.weighting, str) else dict(self.weighting)
        return {
            "name": self.name,
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
        return self.power if math.isfinite(self.power) else "inf"  # JSON has no infinity

    def state(self) -> Mapping[str, object]:
        return encode_fields(self._similarities)

    def sources_result(self, rows: Sequence[EpochRow]) -> SourceWeighting:
        models = tuple(
            SourceFacts(
                source.name,
                self._similarities[source.name].similarity,
                self._similarities[source.name].std,
                self.weights.get(source.name, 0.0),
                self._last_loss(source.name, rows),
            )
            for source in self.sources
        )
        return SourceWeighting(
            power=self.power if self.weighting == "weighted" else None,
            weighting=self.weighting if isinstance(self.weighting, str) else dict(self.weighting),
            lam=self.lam,
            view=self.source_view,
            measure=self._similarities.measure,
            fallback=self._fallback,
            models=models,
        )

    def _last_loss(self, name: str, rows: Sequence[EpochRow]) -> float | None:
        """The mean cross entropy with the source in the last epoch, without weights."""
        weighted = rows[-1].terms.get(f"source {name}") if rows else None
        return None if not weighted else weighted / ((1 - self.lam) * self.weights[name])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_target(ranking: SourceRanking, splits: Splits) -> None:
    """Reject a ranking of other data, or one that has seen test images."""
    ranking.check_target(splits.name, splits.num_classes)
    target = ranking.config["target"]
    check_division("The ranking of the sources", target, splits, "made of")
    _warn_of_labels("The sources were ranked by", target, splits)


def _warn_of_labels(what: str, config: Mapping[str, Any], splits: Splits) -> None:
    """Warn if other labels of the same data were used, some of which may be hidden here.

    Args:
        what: Beginning of the message.
        config: Configuration of the splits that were used.
        splits: The data.
    """
    subsets = [(splits_config.get("labels") or {}).get("sha256") for splits_config in (config, splits.config())]
    if same_data(config, splits) and subsets[0] != subsets[1]:
        warnings.warn(f"{what} other labels of {splits.name} than those that are learnt here.", stacklevel=4)


def _from_main_process(measure: Callable[[], _Similarities]) -> _Similarities:
    """Return what the main process measures, or raise its error, in all processes."""
    outcome: list[_Similarities | Exception | None] = [None]
    if PartialState().is_main_process:
        try:
            outcome[0] = measure()
        except (ValueError, RunFolderError, OSError) as error:
            outcome[0] = error
    similarities = broadcast_object_list(outcome)[0]
    if isinstance(similarities, Exception):
        raise similarities
    return similarities
