"""A training whose input is checked: run, resumed, tested and written down."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..checks import WORKING_SHARE, check_memory, check_whole
from ..data.splits import Splits, check_division
from ..distillation.combination import Term
from ..networks.conversion import preprocessing_for
from ..networks.memory_format import to_channels_last
from ..networks.network import Network
from ..networks.preprocessing import Preprocessor
from ..networks.saved import CONFIG, FOLDER, WEIGHTS, load_student, save_student
from ..networks.soundness import check_finite_weights
from ..options.base import options_in
from ..options.training import TrainingOptions
from ..reports.trackers import Trackers, check_trackers
from ..reports.training import metrics_csv
from ..reports.training_figures import plot_training
from ..runtime.configuration import versions
from ..runtime.devices import device_name, resolve_device
from ..runtime.files import RunFolderError
from ..runtime.seeding import isolated_random_state, stable_seed
from ..training.batches import Batches
from ..training.best_epoch import check_best_by
from ..training.checkpoint import BEST, LAST, Checkpoint, checked_best, load_shipped, read_checkpoint
from ..training.class_weights import check_class_weights, class_weights
from ..training.dry_run import dry_run
from ..training.exam import TeacherExam
from ..training.folder import TrainingFolder
from ..training.metrics import Metrics
from ..training.recipe import Recipe, RecipeError, create_recipe
from ..training.result import (
    Agreement,
    EpochAccuracy,
    EpochRow,
    FinalMetrics,
    LabelCounts,
    TeacherFacts,
    Timing,
    Training,
    TrainingResult,
    read_rows,
    stored_result,
)
from ..training.steps import Steps
from ..training.task import DistillationTask
from ..training.trainer import Trainer, create_accelerator
from .student_facts import student_facts
from .supervision import PREDICTIONS, STATE, UnlabelledObjective, unlabelled_batch_size
from .teachers import PreparedTeacher, accuracies_of, check_classes, introduce_teacher, naming_ways, prepare_teacher
from .training_observer import TrainingObserver

_STUDENT_FILES = (f"{FOLDER}/{WEIGHTS}", f"{FOLDER}/{CONFIG}")

RULES = ("best", "last")
"""The rules that choose the epoch of the student."""


@dataclass(frozen=True, kw_only=True)
class TrainingSubjects:
    """The resolved subjects of a training.

    Attributes:
        splits: The data.
        student: The network to train.
        teacher: The network to learn from; None without one.
        terms: The distillers; empty without a teacher.
        ce_weight: Factor of the cross entropy; None for the customary one of the distillers.
        objective: The objective on unlabelled images; None without one.
        unlabelled_batch_size: Number of unlabelled images in a step; None for the default of the objective.
        prepared: The teacher as a pipeline has prepared and introduced it; None lets the training do both.
    """

    splits: Splits
    student: Network
    teacher: Network | None = None
    terms: tuple[Term, ...] = ()
    ce_weight: float | None = None
    objective: UnlabelledObjective | None = None
    unlabelled_batch_size: int | None = None
    prepared: PreparedTeacher | None = None


def check_training(options: TrainingOptions) -> Recipe:
    """Check the options that need no data; returns the recipe.

    Raises:
        ValueError: An option is wrong, or the device is not there.
    """
    check_whole("seed", options.seed, least=0)
    check_trackers(options.trackers, options.tracker_options, has_folder=options.out is not None)
    if options.rule not in RULES:
        raise ValueError(f"rule is {options.rule!r}; it must be 'best', on validation data, or 'last'.")
    check_best_by(options.best_by)
    check_class_weights(options.class_weights)
    if not options.checkpoint_minutes > 0:
        raise ValueError(f"checkpoint_minutes is {options.checkpoint_minutes!r}; it must be above 0.")
    shorthand = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr}
    changes = {name: value for name, value in shorthand.items() if value is not None}
    with options_in("recipe_options", (str(name) for name in options.recipe_options or () if name not in shorthand)):
        recipe = create_recipe(options.recipe, **{**(options.recipe_options or {}), **changes})
    resolve_device(options.device)
    return recipe


class TrainingRun:
    """A training whose input is checked, ready to run.

    Args:
        options: The options.
        subjects: The resolved subjects of the options.
        timed: Whether the student's latency is measured at the end. It is not where other work runs beside the
            training; `time_student` measures it later.
        workers: Number of workers that train at the same time.
        tests: Test the student and its teacher on the test images. Without it no test image is looked at, and a
            finished training is tested when the same one is run with it.

    Attributes:
        steps: The steps of the training.
        exam: The exam of the teacher; None before `run`, and if its classes are not those of the data.
        folder: The open run folder, or the state in memory; None before `open`, and in all processes but the main one.

    Raises:
        ValueError: An option is wrong, or student, teacher, data and distillers do not fit.
    """

    def __init__(
        self,
        options: TrainingOptions,
        subjects: TrainingSubjects,
        *,
        timed: bool = True,
        workers: int = 1,
        tests: bool = True,
    ) -> None:
        self._timed, self._workers = timed, workers
        recipe = check_training(options)
        self.tests = tests
        self.device = resolve_device(options.device)
        self.accelerator = create_accelerator(recipe, self.device)
        self.options = options
        self.subjects = subjects
        self.splits = subjects.splits
        self.student, self.teacher, self.objective = subjects.student, subjects.teacher, subjects.objective
        self.out = None if options.out is None else Path(options.out)
        self.folder: TrainingFolder | None = None
        self.exam: TeacherExam | None = None
        self._check_fit(recipe)
        mirrored = self.splits.mirrored or "flip" in (options.recipe_options or {})
        self.recipe = recipe if mirrored else create_recipe(recipe, flip=0.0)
        self.steps = Steps(
            f"student {self.student.name}",
            len(self.splits.train),
            recipe.batch_size,
            recipe.epochs,
            is_trained=self.student.trained,
        )
        self.unlabelled_batch_size = unlabelled_batch_size(
            self.objective,
            subjects.unlabelled_batch_size,
            self.recipe,
            processes=self.accelerator.num_processes,
            all_labelled=self.splits.labelled is None,
        )
        if self.objective is not None:
            self.objective.prepare(self.splits, self.recipe, options.seed, self.accelerator.device, self.out)
        labels, labelled = self.splits.train.labels, self.splits.labelled
        labels = labels if labelled is None else labels[labelled]
        classes = self.splits.classes or tuple(map(str, range(self.splits.num_classes)))
        self.class_weights = class_weights(options.class_weights, labels, classes)
        self.task, self.ema = self._create_task(subjects.ce_weight)
        self.config = self._config()

    def _check_fit(self, recipe: Recipe) -> None:
        """Reject networks and options that do not fit the data."""
        splits = self.splits
        if self.out is None and self.accelerator.num_processes > 1:
            raise ValueError("Several processes need a run folder: pass `out=`.")
        if len(splits.train) < recipe.batch_size:
            raise RecipeError(
                f"batch_size is {recipe.batch_size}, but {splits.train.title} has only {len(splits.train)} images to "
                f"train on, {len(splits.val)} to validate and {len(splits.test)} to test on."
            )
        size = " x ".join(map(str, splits.input_size))
        for option, images in (
            ("batch_size", recipe.batch_size),
            ("unlabelled_batch_size", self.subjects.unlabelled_batch_size or 0),
        ):
            batch = images // recipe.accumulate
            what = f"A batch of {batch} images of {size} ({option}, image_size)"
            with options_in("data_options", ["image_size"]):
                check_memory(what, 4 * batch * math.prod(splits.input_size), share=WORKING_SHARE, error=RecipeError)
        if self.options.rule == "best" and not len(splits.val):
            raise ValueError("There are no validation images, so no epoch is the best; pass rule='last'.")
        if self.options.best_by != "accuracy" and not len(splits.val):
            raise ValueError(f"best_by is {self.options.best_by!r}, but there are no validation images.")
        for role, network in (("student", self.student), ("teacher", self.teacher)):
            if network is not None and network.trained_on is not None:
                check_division(f"The {role} {network.name}", network.trained_on, splits)
        if self.teacher is not None:
            check_classes(self.teacher, self.subjects.terms, splits.num_classes)

    def _config(self) -> dict[str, object]:
        """Everything that the result depends on, as JSON values."""
        config: dict[str, object] = {
            "student": self.student.config(),
            "teacher": self.teacher and self.teacher.config(),
            "data": self.splits.config(),
            "distillers": {term.name: term.config() for term in self.subjects.terms},
            "ce_weight": self.task.ce_weight,
            "recipe": self.recipe.config(),
            "rule": self.options.rule,
            "seed": self.options.seed,
        }
        if self.objective is not None:
            batch = {"unlabelled_batch_size": self.unlabelled_batch_size}
            config["unlabelled"] = self.objective.config() | batch
        # Left out by default, so that folders of older versions continue.
        if self.options.best_by != "accuracy":
            config["best_by"] = self.options.best_by
        if self.class_weights is not None:
            config["class_weights"] = list(self.class_weights)
        return config

    def _create_task(self, ce_weight: float | None) -> tuple[DistillationTask, ModelEmaV3 | None]:
        """The task on its device; networks and distillers that do not fit are rejected before anything is written."""
        data = self.splits
        model = self._built(self.student, "student")
        ema = None if self.recipe.ema is None else ModelEmaV3(model, decay=self.recipe.ema)
        of_student = self._normalised(self.student, "student")
        teacher = None
        if self.teacher is not None:
            teacher = (self._built(self.teacher, "teacher"), self._normalised(self.teacher, "teacher"))
        names = (self.student.name, self.teacher.name if self.teacher else "")
        with isolated_random_state(stable_seed(self.options.seed, "distillers")), naming_ways():
            task = DistillationTask(
                model,
                of_student,
                self._example(),
                teacher=teacher,
                terms=self.subjects.terms,
                unlabelled=self.objective.create if self.objective and self.objective.is_active else None,
                labels=_without_hidden(data),
                num_classes=data.num_classes,
                ce_weight=ce_weight,
                label_smoothing=self.recipe.label_smoothing,
                class_weights=None if self.class_weights is None else torch.tensor(self.class_weights),
                names=names,
            )
        if self.out is None or not TrainingFolder.exists(self.out):  # else it passed when the training began
            self._run_dry(task, names)
        if self.recipe.compile:
            task.compile()
        return task, ema

    def _run_dry(self, task: DistillationTask, names: tuple[str, str]) -> None:
        """Run the first step of training and a single image dry: nothing of it stays."""
        batches = Batches(
            self.splits,
            self.recipe,
            self.accelerator,
            seed=self.options.seed,
            unlabelled=task.unlabelled,
            unlabelled_size=self.unlabelled_batch_size,
        )
        device = self.accelerator.device
        with (
            isolated_random_state(stable_seed(self.options.seed, "dry run")),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            dry_run(task, batches, names, self.accelerator.autocast())

    def _normalised(self, network: Network, role: str) -> Preprocessor:
        """The preprocessing of its weights' training; for new weights, the statistics of the data."""
        preprocessing = preprocessing_for(network, self.splits, role)
        if role == "student":  # which is made for images of the data's size
            preprocessing = replace(preprocessing, size=None)
        return preprocessing.preprocessor(self.recipe.channels_last).to(self.accelerator.device)

    def _built(self, network: Network, role: str) -> nn.Module:
        """Build a network on the device."""
        try:
            model = network.build(self.options.seed)
        except TypeError as error:  # an option that it does not know, or of the wrong type
            raise ValueError(f"{network.name} cannot be built: {error}") from error
        check_finite_weights(model, f"The {role} {network.name}")
        model = model.to(self.accelerator.device)
        return to_channels_last(model) if self.recipe.channels_last else model

    def _example(self) -> Tensor:
        """The first training images, at most 2, augmented."""
        order, device = torch.arange(min(2, len(self.splits.train))), self.accelerator.device
        batches = self.splits.train.batches(order, 2, device=device, augment=self.recipe.augmentation, seed=0)
        return next(iter(batches)).images

    @property
    def _student_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the student takes."""
        channels, height, width = self.splits.input_size
        return self.student.channels or channels, height, width

    def open(self) -> TrainingFolder | None:
        """Open the run folder in the main process, and write the labelled subset into it.

        Returns:
            The folder; None in all processes but the main one.

        Raises:
            RunFolderError: The run folder cannot be used, or holds another training.
        """
        if not self.accelerator.is_main_process:
            return None
        self.folder = TrainingFolder(self.config, self.out)
        with self.folder.released_on_failure():
            if self.objective is not None:
                self.folder.remember(STATE, self.objective.state())
            if self.folder.path is not None and self.splits.labelled is not None:
                self.folder.write("labels.txt", self.splits.labels_file())
        return self.folder

    def run(self, show: Callable[[str], None] = lambda line: None) -> Training:
        """Train to the end, evaluate on the test images, write everything, and release the run folder.

        Args:
            show: Prints what is known before the first step, in the main process.

        Raises:
            RunFolderError: The run folder cannot be written.
            DivergenceError: The loss is not a number.
            KeyboardInterrupt: A signal came; the state is stored.
        """
        folder = self.folder
        try:
            self.accelerator.wait_for_everyone()
            if (finished := self._finished(folder)) is not None:
                return finished
            if self.teacher is not None:
                self._prepare_teacher(self.teacher, folder, show)
            observer = None if folder is None else self._observer(folder)
            trainer = self._trainer(folder, observer)
            self._check_best(trainer, folder)
            with contextlib.nullcontext() if observer is None else observer.watching(trainer.progress.step):
                trainer.run()
            return self._finish(trainer, folder)
        finally:
            if folder is not None:
                folder.release()

    def _prepare_teacher(self, teacher: Network, folder: TrainingFolder | None, show: Callable[[str], None]) -> None:
        """Make the teacher ready, and introduce it before the first step unless a pipeline has done so."""
        given = self.subjects.prepared
        if given is not None and folder is not None:
            given.remember(folder)
        where = (self.splits, folder, self.accelerator, self.options.seed)
        prepared = prepare_teacher(teacher, self.task, *where, part="test" if self.tests else "val")
        self.exam = prepared.exam
        if given is not None and given.exam == prepared.exam:
            self.exam = given.exam  # which may have kept its logits
        elif folder is not None:
            show(introduce_teacher(teacher, self.task, self.splits, prepared))

    def _trainer(self, folder: TrainingFolder | None, observer: TrainingObserver | None) -> Trainer:
        return Trainer(
            self.task,
            self.splits,
            self.recipe,
            folder,
            self.accelerator,
            seed=self.options.seed,
            ema=self.ema,
            observer=observer,
            checkpoint_seconds=60 * self.options.checkpoint_minutes,
            checkpoint=self._checkpoint(folder, LAST),
            unlabelled_batch_size=self.unlabelled_batch_size,
            best_by=self.options.best_by,
        )

    def _check_best(self, trainer: Trainer, folder: TrainingFolder | None) -> None:
        """Check the weights of the best epoch so far before any further epoch is trained."""
        if self.options.rule == "best" and trainer.progress.best_epoch is not None:
            self.accelerator.wait_for_everyone()  # the main process may have saved them just now
            checked_best(self._checkpoint(folder, BEST), trainer.progress.best_epoch)

    def _observer(self, folder: TrainingFolder) -> TrainingObserver:
        weights = self.objective.weights if self.objective and self.objective.is_active else {}
        options = self.options
        names = check_trackers(options.trackers, options.tracker_options, has_folder=folder.path is not None)
        trackers = Trackers(names, options.tracker_options, folder=folder.path, config=folder.config)
        return TrainingObserver(
            folder, self.recipe, self.steps.total, options.shows_progress, self.splits.classes, weights, trackers
        )

    def _checkpoint(self, folder: TrainingFolder | None, name: str) -> Checkpoint | None:
        """A checkpoint, which every process reads for itself."""
        if self.out is not None:
            return read_checkpoint(self.out / name)
        return folder.load(name) if folder is not None else None

    def _finished(self, folder: TrainingFolder | None) -> Training | None:
        """The training as an earlier run finished it; files that were deleted are written again."""
        stored = None if folder is None else folder.result
        is_whole = stored is not None and (not self.tests or stored["test"] is not None)
        (is_complete,) = broadcast_object_list([is_whole])
        if not is_complete:
            return None
        if folder is not None:
            folder.mend_result_file()
            if folder.missing_files():
                self._restore_files(folder)
        self.accelerator.wait_for_everyone()
        return self._stored(folder)

    def _restore_files(self, folder: TrainingFolder) -> None:
        """Write the files of a finished training again; only a missing student needs its checkpoint."""
        result = stored_result(folder)
        assert result is not None  # since the training is complete
        with folder.errors():
            if any(name in folder.missing_files() for name in _STUDENT_FILES):
                self._write_student(folder, self._shipped(folder), result)
            self._write_reports(folder, read_rows(folder), result)

    def _shipped(self, folder: TrainingFolder) -> nn.Module:
        """The trained student, from its checkpoint."""
        name = BEST if self.options.rule == "best" else LAST
        checkpoint = self._checkpoint(folder, name)
        if checkpoint is None:
            raise RunFolderError(
                f"{', '.join(folder.missing_files())} of {folder.path} cannot be made again, since {name} is missing; "
                "restore the folder from a copy, or start anew in another one."
            )
        load_shipped(self.task.student, checkpoint)
        self.task.release()
        return self.task.student.cpu().eval().requires_grad_()

    def _stored(self, folder: TrainingFolder | None) -> Training:
        """The training as it is stored, in all processes; only the main one has the store."""
        assert self.out is not None
        stored = None if folder is None else (stored_result(folder), read_rows(folder))
        result, rows = broadcast_object_list([stored])[0]
        return Training(result, rows, self.out, self._reload())

    def _reload(self) -> nn.Module:
        assert self.out is not None
        model = None if self.student.timm or self.student.space else self.student.build(self.options.seed)
        return load_student(self.out / FOLDER, model=model)

    def _finish(self, trainer: Trainer, folder: TrainingFolder | None) -> Training:
        """Choose the weights, test them once, and write the result."""
        self.accelerator.wait_for_everyone()
        if self.options.rule == "best":
            trainer.take_best(self._checkpoint(folder, BEST))
        self.task.release()
        test = trainer.test(self.exam) if self.tests else None
        if folder is not None:
            model = trainer.evaluated.cpu().eval().requires_grad_()
            rows = read_rows(folder)
            result = self._result(trainer, model, rows, test)
            if folder.path is None:
                return Training(result, rows, None, model)
            with folder.errors():
                self._write_student(folder, model, result)
                self._write_reports(folder, rows, result)
            shutil.rmtree(folder.path / PREDICTIONS, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return self._stored(folder)

    # -- the result -----------------------------------------------------------------------------

    def _result(
        self,
        trainer: Trainer,
        model: nn.Module,
        rows: tuple[EpochRow, ...],
        test: Metrics | None,
    ) -> TrainingResult:
        progress, splits, objective = trainer.progress, self.splits, self.objective
        last = rows[-1].accuracy()
        best = EpochAccuracy(None, None) if progress.best_epoch is None else rows[progress.best_epoch - 1].accuracy()
        teacher = None
        if self.teacher is not None:
            accuracies = accuracies_of(self.exam, self.folder)
            facts = (self.teacher.name, self.teacher.trained, accuracies.get("test"), accuracies.get("val"))
            teacher = TeacherFacts(*facts)
        return TrainingResult(
            status="complete",
            epochs=self.recipe.epochs,
            steps=progress.step,
            rule=self.options.rule,
            last=last,
            best=best,
            best_by=self.options.best_by,
            test=self._test_metrics(test, best.epoch if self.options.rule == "best" else last.epoch),
            teacher=teacher,
            agreement=Agreement(test.agreement, test.divergence) if test and test.agreement is not None else None,
            student=student_facts(self.student.name, model, self._student_size, timed=self._timed),
            data=splits.name,
            classes=splits.classes,
            class_weights=self.class_weights,
            labels=_label_counts(splits),
            unlabelled=None if objective is None else objective.name,
            sources=None if objective is None else objective.sources_result(rows),
            distillers={term.name: term.weight for term in self.subjects.terms},
            ce_weight=self.task.ce_weight,
            seed=self.options.seed,
            timing=self._timing(trainer, rows),
            versions=versions(),
        )

    def _test_metrics(self, test: Metrics | None, epoch: int | None) -> FinalMetrics | None:
        if test is None:
            return None
        return FinalMetrics(
            accuracy=test.accuracy,
            top5=test.top5,
            nll=test.nll,
            calibration_error=test.calibration_error,
            samples=test.samples,
            epoch=epoch,
            rule=self.options.rule,
            bins=test.bins,
            class_accuracy=test.class_accuracy,
            balanced_accuracy=test.balanced_accuracy,
            macro_f1=test.macro_f1,
        )

    def _timing(self, trainer: Trainer, rows: tuple[EpochRow, ...]) -> Timing:
        images = len(rows) * trainer.steps_per_epoch * trainer.images_per_step
        return Timing(
            seconds=trainer.progress.seconds,
            preparation_seconds=trainer.preparation_seconds,
            images_per_second=images / sum(row.seconds for row in rows),
            covers="seconds: training and validation of all epochs; preparation_seconds: what sources predict before, "
            "in the last run; images_per_second: training alone",
            device=device_name(self.device),
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
            workers=self._workers,
            precision=self.recipe.precision,
            batch_size=self.recipe.batch_size,
        )

    def _write_student(self, folder: TrainingFolder, model: nn.Module, result: TrainingResult) -> None:
        assert folder.path is not None
        if (
            result.test is not None and result.teacher is not None
        ):  # so that the student is that of a run tested at once
            result = replace(result, teacher=replace(result.teacher, val_accuracy=None))
        splits, values = self.splits, result.to_json()
        images = self.student.preprocessing.filled(splits.mean, splits.std)
        card = self.student.card(
            self._student_size,
            images.mean or splits.mean,
            images.std or splits.std,
            labels=splits.classes,
            params=result.student.params,
            macs=result.student.macs,
            made_of={
                "data": splits.config(),
                "teacher": values["teacher"],
                "distillers": values["distillers"],
                "test_accuracy": result.test.accuracy if result.test else None,
                "rule": self.options.rule,
            },
        )
        save_student(model, card, folder.path / FOLDER)

    def _write_reports(self, folder: TrainingFolder, rows: tuple[EpochRow, ...], result: TrainingResult) -> None:
        """Write what is made of the stored rows and the result; the training is complete from then on."""
        folder.write("metrics.csv", metrics_csv(rows, self.splits.classes))
        pictures = plot_training(rows, result)
        for name, picture in pictures.items():
            folder.write(name, picture)
        folder.finish(result.to_json(), ["metrics.csv", *_STUDENT_FILES, *pictures])


def _without_hidden(data: Splits) -> Tensor:
    """The class of each training image; images without a label get a class of their own."""
    if data.labelled is None:
        return data.train.labels
    labels = torch.full_like(data.train.labels, data.num_classes)
    labels[data.labelled] = data.train.labels[data.labelled]
    return labels


def _label_counts(data: Splits) -> LabelCounts | None:
    if data.labelled is None:
        return None
    return LabelCounts(len(data.labelled), len(data.train), len(data.val), data.num_classes)
