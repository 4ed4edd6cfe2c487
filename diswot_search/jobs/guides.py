"""The guide of a pipeline's stages: a teacher, which is trained first, or sources, which are ranked first."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from ..data.splits import Splits, check_division
from ..distillation.combination import Term
from ..networks.conversion import input_size_for, preprocessing_for
from ..networks.network import Network, TeacherBank, checkpoint_file
from ..networks.preprocessing import ProbeConversion
from ..networks.recipes import CardRecipe, WithFittedClassifier, WithNewClassifier, WithWeights
from ..networks.saved import find_student
from ..options.base import changed, keywords, options_in, shared
from ..options.pipeline import PipelineOptions
from ..options.shared import DataOptions, ExecutorOptions, LabelOptions, RunOptions
from ..options.shortlist import ShortlistOptions
from ..options.sources import RankSourcesOptions
from ..options.training import DistillOptions, TrainedTeacherOptions, TrainingOptions, TrainOptions
from ..proxies.aggregate import elementary_proxies
from ..proxies.registry import get_proxy
from ..resolve.networks import NetworkLike, network_for
from ..resolve.runs import NEAR_ZERO_WEIGHT, StageResult
from ..runtime.devices import resolve_device
from ..runtime.run_folder import RunFolder
from ..sources.folder import RankingFolder
from ..sources.frozen import source_teacher
from ..sources.ranking import SourceRanking
from ..sources.transferability import source_weights
from ..study.evaluator import uses_teacher
from ..training.folder import TrainingFolder
from ..training.result import Training
from ..training.steps import Steps
from .choices import check_distinct, distillers_of, teachers_of
from .pipeline_results import SOURCES, TEACHER
from .rank_sources import RankingRun, load_ranking
from .supervision import Bank, SourceObjective, source_objective
from .teachers import with_fitted_classifier
from .train import TrainJob, named_splits, named_teacher, teacher_options
from .training_run import TrainingSubjects, check_training

S = TypeVar("S", DistillOptions, ShortlistOptions)

Announce = Callable[[str, StageResult], None]
"""Is told the name and the result of each finished stage."""


@dataclass(frozen=True)
class Guide:
    """The teacher or the sources that the stages learn from.

    Attributes:
        of_search: The teacher or the sources that candidates are compared with; None if the proxy needs none.
        teacher: The teacher of the student; None with sources.
        terms: The distillers; empty with sources.
        objective: The objective on the sources; None without sources.
        trained: The training of the teacher, if it was trained here.
        ranking: The ranking of the sources; None without sources.
        weights: Weight of each source by name; empty if none is near the data.
        choices: The guide under each of the teachers to choose from, this one first; empty unless they are several.
    """

    of_search: Network | TeacherBank | None
    teacher: Network | None = None
    terms: tuple[Term, ...] = ()
    objective: SourceObjective | None = None
    trained: Training | None = None
    ranking: SourceRanking | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[Guide, ...] = ()

    @property
    def lacks_near_sources(self) -> bool:
        """Whether there are sources, but none that is near the data."""
        return self.ranking is not None and not self.weights


class Guides(ABC):
    """The first stage of a pipeline, which gives the guide of those that follow.

    Args:
        options: The options of the pipeline.
        splits: The data.

    Attributes:
        steps: The steps of the trainings of the first stage, set by `config`.
        items: Number of items that the first stage gives to workers.
    """

    steps: tuple[Steps, ...] = ()
    items: int = 0

    def __init__(self, options: PipelineOptions, splits: Splits) -> None:
        self.options = options
        self.splits = splits
        self.is_compared = any(map(uses_teacher, elementary_proxies(get_proxy(options.proxy))))

    @property
    def folder(self) -> Path:
        """The run folder of the pipeline."""
        return Path(os.fspath(self.options.out or ""))

    @abstractmethod
    def provisional(self) -> Guide:
        """A guide as far as it is known before the first stage, used to validate all stages before anything runs."""

    @abstractmethod
    def find(self, announce: Announce, folder: RunFolder) -> Guide:
        """Run the first stage unless it is done, and return the guide.

        Args:
            announce: Is told of the stage when it is done.
            folder: The open run folder of the pipeline.
        """

    @abstractmethod
    def named_in(self, stage: S, guide: Guide) -> S:
        """The options of the student's training with those that name the guide, such as the teacher's run folder."""

    def named_in_shortlist(self, stage: ShortlistOptions, guide: Guide) -> ShortlistOptions:
        """The options of the shortlist likewise, with all teachers if there are several."""
        return self.named_in(stage, guide)

    @abstractmethod
    def config(self, search: Mapping[str, object], distillation: Mapping[str, object]) -> dict[str, object]:
        """The configuration of the pipeline.

        Args:
            search: The configuration of the search under the provisional guide.
            distillation: That of the distillation.
        """

    @abstractmethod
    def check_places(self, config: Mapping[str, object]) -> None:
        """Refuse folders of the first stage that hold something else.

        Args:
            config: The configuration of the pipeline.
        """


class TeacherGuides(Guides):
    """A teacher, which is trained unless it has trained weights.

    Args:
        options, splits: See `Guides`.
        place: Name of the folder of its training in that of the pipeline.

    Raises:
        ValueError: The teacher is not known.
    """

    def __init__(self, options: PipelineOptions, splits: Splits, place: str = TEACHER) -> None:
        super().__init__(options, splits)
        if options.teacher is None:
            raise ValueError("No teacher: pass `teacher=` or `sources=`.")
        self.terms = distillers_of(options).terms[0]
        self.teacher = named_teacher(splits, options.teacher, options)
        self._place = self.folder / place

    def provisional(self) -> Guide:
        return Guide(self._with_random_weights(), self.teacher, self.terms)

    def _with_random_weights(self) -> Network:
        """The teacher's architecture with random weights."""
        teacher = self.teacher
        if not teacher.trained:
            return teacher
        if teacher.timm is None and teacher.space is None:
            if self.options.search_teacher == "random" and self.is_compared:
                raise ValueError(
                    f"The teacher {teacher.name} is a module, which cannot be built with random weights; give "
                    "search_teacher='trained'."
                )
            return self._of_search(teacher)
        splits = self.splits
        if input_size_for(teacher, splits) == splits.input_size:
            card = teacher.card(splits.input_size, splits.mean, splits.std)
            return self._of_search(Network(card.name, CardRecipe(card), num_classes=card.num_classes))
        own = teacher.preprocessing.filled(splits.mean, splits.std)
        card = teacher.card(input_size_for(teacher, splits), own.mean or splits.mean, own.std or splits.std)
        return self._of_search(Network(card.name, CardRecipe(card), num_classes=card.num_classes, preprocessing=own))

    def find(self, announce: Announce, folder: RunFolder) -> Guide:
        trained, teacher = None, self.teacher
        if not teacher.trained:
            trained = self._training(self._place).complete()
            teacher = self._trained(self._place)
            announce(TEACHER, trained)
        if self.options.search_teacher == "random":
            return Guide(self._with_random_weights(), teacher, self.terms, trained=trained)
        if not self.is_compared:
            return Guide(self._of_search(teacher), teacher, self.terms, trained=trained)
        if not isinstance(teacher.recipe, WithFittedClassifier):
            self._warn_of_new_classifier(teacher)
            return Guide(self._of_search(teacher), teacher, self.terms, trained=trained)
        teacher = self._adapted(teacher, folder)
        return Guide(self._of_search(teacher), teacher, self.terms, trained=trained)

    def _adapted(self, teacher: Network, folder: RunFolder) -> Network:
        """The teacher with its classifier fitted before the search: what candidates are compared with then teaches."""
        options = self.options
        device = torch.device(resolve_device(options.device))
        channels_last = check_training(options).channels_last
        return with_fitted_classifier(
            teacher, self.splits, folder, device, channels_last=channels_last, seed=options.seed
        )

    def _warn_of_new_classifier(self, teacher: Network) -> None:
        """Say that candidates are compared with a random classifier where the teacher's is one of other classes."""
        if teacher.num_classes != self.splits.num_classes:
            warnings.warn(
                f"The teacher {teacher.name} has {teacher.num_classes} classes and the data has "
                f"{self.splits.num_classes}, so the search compares with its features under a new classifier of random "
                "weights: scores of class maps, predictions or the classifier mean nothing. teacher_classes='adapt' "
                "fits the classifier before the search.",
                stacklevel=3,
            )

    def _trained(self, folder: Path) -> Network:
        """The teacher that was trained here; a module has no card to be built from, but it is at hand."""
        teacher = self.teacher
        if self.has_card:
            return network_for(self.splits, folder, "teacher")
        weights = checkpoint_file(find_student(folder))
        return replace(teacher, recipe=WithWeights(teacher.recipe, weights), trained=True)

    @property
    def has_card(self) -> bool:
        """Whether its trained weights have a card that says how to build it; a module has none."""
        teacher = self.teacher
        return any(built_by is not None for built_by in (teacher.timm, teacher.space, teacher.recipe.own))

    def _of_search(self, teacher: Network) -> Network:
        """The trained teacher as candidates are compared with it, for the classes and images of the data."""
        splits = self.splits
        if teacher.num_classes != splits.num_classes:
            recipe = WithNewClassifier(teacher.recipe, splits.num_classes)
            teacher = replace(teacher, recipe=recipe, num_classes=splits.num_classes)
        elif isinstance(teacher.recipe, WithFittedClassifier) and teacher.recipe.classifier is not None:
            fitted = hashlib.sha256(save(dict(teacher.recipe.classifier))).hexdigest()
            teacher = replace(teacher, settings={**teacher.settings, "classifier_sha256": fitted})
        if input_size_for(teacher, splits) == splits.input_size:
            return teacher
        conversion = ProbeConversion(preprocessing_for(teacher, splits, "teacher"), splits.mean, splits.std, "")
        teacher = replace(teacher, settings={**teacher.settings, **conversion.config()})
        identity = json.dumps(teacher.config(), sort_keys=True)
        return replace(teacher, conversion=replace(conversion, identity=identity))

    def _training(self, out: Path | None) -> TrainJob:
        """The training of the teacher, whose options go before those of the student."""
        options = self.options
        shorthand = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr}
        changes = {name: value for name, value in shorthand.items() if value is not None}
        own = {**(options.teacher_recipe_options or {})}
        if options.teacher_epochs is not None:
            own["epochs"] = options.teacher_epochs
        assert options.teacher is not None
        stage = replace(
            TrainOptions(options.teacher, options.dataset, **shared(options, TrainingOptions)),
            out=out,
            epochs=None,
            batch_size=None,
            lr=None,
            recipe_options={**(options.recipe_options or {}), **changes, **own},
            model_options=teacher_options(options) or None,
        )
        splits = self.splits
        if data := options.teacher_data_options:
            if data.keys() & set(keywords(LabelOptions)):
                stage = replace(stage, labels=None, labels_per_class=None)
            stage = replace(stage, data_options={**(options.data_options or {}), **data})
            with options_in("teacher_data_options", data):
                splits = named_splits(stage)
        return TrainJob(stage, subjects=TrainingSubjects(splits=splits, student=self.teacher))

    def named_in(self, stage: S, guide: Guide) -> S:
        if guide.trained is not None:
            return replace(stage, teacher=guide.trained.path)
        options = self.options
        return replace(stage, teacher=options.teacher, **shared(options, TrainedTeacherOptions))

    def config(self, search: Mapping[str, object], distillation: Mapping[str, object]) -> dict[str, object]:
        of_teacher = None
        if not self.teacher.trained:
            job = self._training(None)
            job.check_once()
            check_division(f"The teacher {self.teacher.name}", job.training.splits.config(), self.splits)
            of_teacher = job.training.config
            self.steps = (replace(job.training.steps, who=f"teacher {self.teacher.name}"),)
        return {
            "search": search,
            "search_teacher": self.options.search_teacher,
            "distillation": distillation,
            "teacher": of_teacher,
        }

    def check_places(self, config: Mapping[str, object]) -> None:
        of_teacher = config["teacher"]
        if isinstance(of_teacher, Mapping):
            TrainingFolder.check_place(self._place, of_teacher)


class SeveralTeachers(Guides):
    """Teachers to choose from, each trained unless it has trained weights; the search is given the first.

    Args:
        options, splits: See `Guides`.
        teachers: The teachers as the options give them.

    Raises:
        ValueError: A teacher is not known, or given twice.
    """

    def __init__(self, options: PipelineOptions, splits: Splits, teachers: Sequence[NetworkLike | str]) -> None:
        super().__init__(options, splits)
        self._guides = [
            TeacherGuides(replace(options, teacher=teacher, teachers=None), splits, f"{TEACHER}{number}")
            for number, teacher in enumerate(teachers, start=1)
        ]
        check_distinct([each.teacher.config() for each in self._guides])
        for each in self._guides[1:]:
            each.is_compared = False

    @property
    def networks(self) -> list[Network]:
        """The teachers."""
        return [each.teacher for each in self._guides]

    def provisional(self) -> Guide:
        return self._together([each.provisional() for each in self._guides])

    def find(self, announce: Announce, folder: RunFolder) -> Guide:
        return self._together([each.find(announce, folder) for each in self._guides])

    def _together(self, choices: Sequence[Guide]) -> Guide:
        return replace(choices[0], choices=tuple(choices))

    def named_in(self, stage: S, guide: Guide) -> S:
        return self._guides[0].named_in(stage, guide)

    def named_in_shortlist(self, stage: ShortlistOptions, guide: Guide) -> ShortlistOptions:
        named = [each.named_in(stage, choice) for each, choice in zip(self._guides, guide.choices, strict=True)]
        teachers: list[Any] = [
            one.teacher if choice.trained is None or each.has_card else choice.teacher
            for each, one, choice in zip(self._guides, named, guide.choices, strict=True)
        ]
        return replace(stage, teacher=None, teachers=teachers)

    def config(self, search: Mapping[str, object], distillation: Mapping[str, object]) -> dict[str, object]:
        configs = [each.config(search, distillation) for each in self._guides]
        self.steps = tuple(steps for each in self._guides for steps in each.steps)
        teachers = [
            {"network": each.teacher.config(), "training": config["teacher"]}
            for each, config in zip(self._guides, configs, strict=True)
        ]
        return configs[0] | {"teacher": None, "teachers": teachers}

    def check_places(self, config: Mapping[str, object]) -> None:
        teachers = config["teachers"]
        assert isinstance(teachers, list)
        for each, own in zip(self._guides, teachers, strict=True):
            each.check_places({"teacher": own["training"]})


class SourceGuides(Guides):
    """Sources, which are ranked unless their ranking is given.

    Raises:
        ValueError: A source is not known, or the ranking is of other data.
        RunFolderError: The ranking cannot be read, or is not finished.
    """

    def __init__(self, options: PipelineOptions, splits: Splits) -> None:
        super().__init__(options, splits)
        assert options.sources is not None
        self.ranking = self._as_ranking(options.sources)

    def _as_ranking(self, bank: Bank) -> SourceRanking | RankingRun:
        """The ranking that is given, or one to be made."""
        if isinstance(bank, str | os.PathLike):
            bank = load_ranking(bank)
        if isinstance(bank, SourceRanking):
            bank.check_target(self.splits.name, self.splits.num_classes)
            return bank
        options = self.options
        stage = RankSourcesOptions(
            bank,
            options.dataset,
            measures=options.measure or "parc",
            **shared(options, RunOptions, ExecutorOptions, LabelOptions, DataOptions) | {"out": self.folder / SOURCES},
        )
        job = RankingRun(stage, splits=self.splits)
        job.is_stage = True
        job.check_once()
        self.items = len(job.sources)
        return job

    def provisional(self) -> Guide:
        """A guide in which all sources that may have a weight count alike."""
        if isinstance(self.ranking, SourceRanking):
            return self._guide(self.ranking)
        sources, weighting = self.ranking.sources, self.options.weighting
        by_hand = weighting if isinstance(weighting, Mapping) else "uniform"
        weights = source_weights({source.name: math.nan for source in sources}, by_hand)
        objective = source_objective(self.options, sources, weights)
        return Guide(self._bank(sources, weights), objective=objective)

    def find(self, announce: Announce, folder: RunFolder) -> Guide:
        ranking = self.ranking
        if isinstance(ranking, RankingRun):
            ranking = ranking.complete()
            announce(SOURCES, ranking)
        guide = self._guide(ranking)
        if not guide.weights:
            measure = self.options.measure or ranking.measures[0]
            warnings.warn(NEAR_ZERO_WEIGHT.format(measure=measure, data=self.splits.name), stacklevel=2)
        return guide

    def weights(self, ranking: SourceRanking) -> dict[str, float]:
        """Weight of each source by name; empty if none is near the data."""
        return ranking.weights(self.options.weighting, self.options.power, measure=self._measure)

    @property
    def _measure(self) -> str | None:
        """The measure that weights come from; None for the first, and if they do not come from similarities."""
        return self.options.measure if self.options.weighting in ("weighted", "nearest") else None

    def _guide(self, ranking: SourceRanking) -> Guide:
        weights = self.weights(ranking)
        similarities = ranking.similarities(self._measure)
        alike = {name: 1.0 for name, value in similarities.items() if not math.isnan(value)}
        bank = self._bank(ranking.sources, weights or ranking.weights(alike))
        return Guide(bank, objective=source_objective(self.options, ranking), ranking=ranking, weights=weights)

    def _bank(self, sources: tuple[Network, ...], weights: Mapping[str, float]) -> TeacherBank | None:
        """The sources as candidates are compared with them; None if the proxy compares with nothing."""
        if not self.is_compared:
            return None
        used = [source for source in sources if weights[source.name]]
        teachers = tuple(source_teacher(source, self.splits) for source in used)
        return TeacherBank(teachers, tuple(weights[source.name] for source in used))

    def named_in(self, stage: S, guide: Guide) -> S:
        stored = None if guide.ranking is None else guide.ranking.path
        return stage if stored is None else replace(stage, sources=os.fspath(stored))

    def config(self, search: Mapping[str, object], distillation: Mapping[str, object]) -> dict[str, object]:
        ranking = self.ranking
        objective = source_objective(
            self.options, ranking if isinstance(ranking, SourceRanking) else ranking.sources
        ).config()
        stored = distillation["unlabelled"]
        assert isinstance(stored, Mapping)
        unlabelled = objective | {"unlabelled_batch_size": stored["unlabelled_batch_size"]}
        return {
            "search": {key: value for key, value in search.items() if key != "teacher"},
            "distillation": {**distillation, "unlabelled": unlabelled},
            "sources": ranking.config,
        }

    def check_places(self, config: Mapping[str, object]) -> None:
        if isinstance(self.ranking, RankingRun):
            RankingFolder.check_place(self.folder / SOURCES)


def guides_of(options: PipelineOptions, splits: Splits) -> Guides:
    """The first stage that the options describe.

    Raises:
        ValueError, RunFolderError: A teacher or a source is not known or does not fit; or options of the training of a
            teacher are set though there is none to train.
    """
    if options.sources is not None:
        return SourceGuides(options, splits)
    teachers = teachers_of(options)
    guides = SeveralTeachers(options, splits, teachers) if teachers else TeacherGuides(options, splits)
    networks = guides.networks if isinstance(guides, SeveralTeachers) else [guides.teacher]
    names = changed(options, "teacher_epochs", "teacher_recipe_options", "teacher_data_options")
    names = [name for name in names if getattr(options, name) != {}]
    if names and all(network.trained for network in networks):
        are_trained = " and ".join(network.name for network in networks) + (" is" if len(networks) == 1 else " are")
        raise ValueError(
            f"The teacher{'s' * (len(networks) > 1)} {are_trained} trained already; {', '.join(names)} cannot be set."
        )
    return guides
