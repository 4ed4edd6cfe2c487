"""Train a student under a teacher or under sources, or a network on labels alone."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from search_spaces.recipes import create_space
from search_spaces.space import SearchSpace

from ..checks import check_options
from ..data.description import DataDescription, describe_splits
from ..data.splits import Splits
from ..distillation.combination import Term, parse_distillers
from ..networks.network import Network
from ..options.base import changed, from_options, keywords
from ..options.data import CreateSplitsOptions
from ..options.training import (
    DistillerOptions,
    DistillOptions,
    NetworkSpaceOptions,
    SourceOptions,
    TrainedTeacherOptions,
    TrainingOptions,
    TrainOptions,
)
from ..reports.training import describe_training, format_training
from ..resolve.data import as_splits
from ..resolve.networks import NetworkLike, network_for
from ..training.folder import TrainingFolder
from ..training.result import Training
from .job import Job
from .subjects import options_of_space
from .supervision import source_objective, unlabelled_objective
from .teachers import warn_of_random, with_classes
from .training_run import TrainingRun, TrainingSubjects, check_training

O = TypeVar("O", bound=TrainingOptions)  # noqa: E741


@from_options(DistillOptions)
def distill(options: DistillOptions) -> Training:
    """
    Returns:
        The finished training, with the student.

    Raises:
        ValueError: A name, an option or a weight is wrong, or student, teacher, data and distillers do not fit.
        RunFolderError: The run folder cannot be used, or holds another training.
        DivergenceError: The loss is not a number.
    """
    return DistillJob(options).complete()


@from_options(TrainOptions)
def train(options: TrainOptions) -> Training:
    """
    Returns:
        The finished training, with the network.

    Raises:
        ValueError: A name, an option or a weight is wrong, or network and data do not fit.
        RunFolderError: The run folder cannot be used, or holds another training.
        DivergenceError: The loss is not a number.
    """
    return TrainJob(options).complete()


class TrainingJob(Job[O, Training]):
    """A job that is one training.

    Args:
        options, show: See `Job`.
        subjects: What the options name, if it is resolved already; by default `check` resolves it.
        written: The options for config.yaml, where a sweep trains with others in the place of a worker.
        timed, workers, tests: See `TrainingRun`.
    """

    FOLDER = TrainingFolder

    def __init__(
        self,
        options: O,
        show: Callable[..., None] | None = None,
        *,
        subjects: TrainingSubjects | None = None,
        written: O | None = None,
        timed: bool = True,
        workers: int = 1,
        tests: bool = True,
    ) -> None:
        super().__init__(options, show)
        self._subjects = subjects
        self._written = written or options
        self._timed, self._workers, self._tests = timed, workers, tests

    def written(self) -> O:
        return self._written

    def check(self) -> None:
        check_training(self.options)
        subjects = self._subjects or self._resolve()
        self.training = TrainingRun(self.options, subjects, timed=self._timed, workers=self._workers, tests=self._tests)
        if self._subjects is None:  # a pipeline says it for all its stages
            self.training.steps.warn_if_few()

    @abstractmethod
    def _resolve(self) -> TrainingSubjects:
        """Resolve everything that the options name."""

    def descriptions(self) -> Sequence[DataDescription]:
        return (describe_splits(self.training.splits),)

    def open(self) -> TrainingFolder | None:
        return self.training.open()

    def run(self) -> Training:
        if self.training.accelerator.is_main_process:
            self.show(f"{self.training.steps}")
        return self.training.run(self.show)

    def report(self, result: Training) -> Iterable[object]:
        if not self.training.accelerator.is_main_process:
            return ()
        return (format_training(result.result), *describe_training(result.result, result.path))


class TrainJob(TrainingJob[TrainOptions]):
    """The job of `train`."""

    def _resolve(self) -> TrainingSubjects:
        options = self.options
        objective = unlabelled_objective(options.unlabelled, options.unlabelled_options)
        splits = named_splits(options)
        model_options = {**(options.model_options or {}), **named_space(options)}
        return TrainingSubjects(
            splits=splits,
            student=network_for(splits, options.model, "student", model_options),
            objective=objective,
            unlabelled_batch_size=options.unlabelled_batch_size,
        )


class DistillJob(TrainingJob[DistillOptions]):
    """The job of `distill`."""

    def _resolve(self) -> TrainingSubjects:
        options = self.options
        check_supervision(options, "teacher", *keywords(TrainedTeacherOptions))
        has_sources = options.sources is not None
        objective = source_objective(options) if has_sources else None
        terms = () if has_sources else named_distillers(options)
        splits = named_splits(options)
        student_options = {**(options.student_options or {}), **named_space(options)}
        student = network_for(splits, options.student, "student", student_options)
        teacher = None if has_sources else self._teacher(splits)
        if teacher is not None:
            warn_of_random(teacher)
        return TrainingSubjects(
            splits=splits,
            student=student,
            teacher=teacher,
            terms=terms,
            ce_weight=options.ce_weight,
            objective=objective,
            unlabelled_batch_size=options.unlabelled_batch_size,
        )

    def _teacher(self, splits: Splits) -> Network:
        teacher = self.options.teacher
        if teacher is None or (not changed(self.options, "teacher") and not os.path.exists(str(teacher))):
            missing = "" if teacher is None else f" The default, {teacher}, does not exist."
            raise ValueError(f"No teacher: pass `teacher=` or `sources=`.{missing}")
        return named_teacher(splits, teacher, self.options)


# -- subjects that the options of several jobs name ---------------------------------------------


def named_splits(options: TrainingOptions) -> Splits:
    """The splits, or the data set that is named."""
    check_options("data set", options.data_options or {}, keywords(CreateSplitsOptions))
    return as_splits(
        options.dataset, options.data_options, labels=options.labels, labels_per_class=options.labels_per_class
    )


def named_space(options: NetworkSpaceOptions) -> dict[str, SearchSpace]:
    """The space of an architecture as an option of `network_for`; empty if there is none.

    Raises:
        ValueError: There are options of a space, but no name of a space.
    """
    if options.space is None:
        if options.space_options:
            raise ValueError("space_options are given, but no space.")
        return {}
    if not isinstance(options.space, SearchSpace):
        return {"space": create_space(options.space, **options_of_space(options))}
    if options.space_options:
        raise ValueError("The space is an object, not a name; space_options cannot be set.")
    return {"space": options.space}


def named_distillers(options: DistillerOptions) -> tuple[Term, ...]:
    """The distillers."""
    return parse_distillers("kd" if options.distiller is None else options.distiller)


def named_teacher(splits: Splits, teacher: NetworkLike | str, options: TrainedTeacherOptions) -> Network:
    """The teacher, with the classes that it is to teach."""
    network = network_for(splits, teacher, "teacher", teacher_options(options))
    return with_classes(network, options.teacher_classes, splits)


def teacher_options(options: TrainedTeacherOptions) -> dict[str, object]:
    """The options of the teacher as those of `network_for`."""
    weights = {"checkpoint": options.teacher_checkpoint, "pretrained": options.teacher_pretrained}
    return {name: value for name, value in weights.items() if value} | dict(options.teacher_options or {})


def check_supervision(options: SourceOptions, *of_teacher: str) -> None:
    """Reject options of a teacher when sources are given, and options of sources without sources.

    Args:
        options: The options, of a teacher and its distillers as well.
        of_teacher: Names of the options that need a teacher, apart from those of the distillers.

    Raises:
        ValueError: There are such options.
    """
    if options.sources is None:
        if names := changed(options, *(name for name in keywords(SourceOptions) if name != "sources")):
            raise ValueError(f"{', '.join(names)}: options of sources, but there are none; pass `sources=`.")
        return
    needs_teacher = (*of_teacher, *keywords(DistillerOptions))
    names = [name for name in changed(options, *needs_teacher) if not _is_empty(getattr(options, name))]
    if names:
        raise ValueError(
            f"The student learns from sources; {', '.join(names)} cannot be combined with them. A teacher of the same "
            "task may be one of the sources, and lam is the factor of the cross entropy."
        )


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, Mapping) and not value)
