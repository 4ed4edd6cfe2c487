"""Train a student under a teacher, or a network alone: what is asked for, checked, run, and written down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from search_spaces.cost import count_cost
from search_spaces.space import SearchSpace

from ..checks import check_whole
from ..data.labelled import Labels
from ..data.splits import Splits, check_division
from ..distillation.combination import Specification, Term, parse_distillers
from ..networks.network import Network
from ..networks.preprocessing import Preprocessor
from ..networks.saved import CONFIG, FOLDER, load_student, save_student
from ..reports.progress import TrainingCurves, TrainingProgress
from ..reports.training import metrics_csv
from ..reports.training_figures import plot_training
from ..resolve.data import as_splits
from ..resolve.networks import NetworkLike, network_for
from ..runtime.devices import device_name, resolve_device
from ..runtime.run_folder import RunFolderError, as_json, finite_only, versions
from ..runtime.seeding import isolated_random_state, stable_seed
from ..sources.ranking import POWER
from ..study.budget import measure_latency
from ..training.checkpoint import BEST, LAST, Checkpoint, load_shipped, read_checkpoint
from ..training.folder import TrainingFolder
from ..training.metrics import Metrics
from ..training.recipe import Recipe, RecipeError, create_recipe
from ..training.result import Training
from ..training.task import DistillationTask
from ..training.trainer import Trainer, create_accelerator
from .supervision import (
    LAM,
    MEMORY,
    OPTIONS_OF_SOURCES,
    PREDICTIONS,
    Bank,
    SourceObjective,
    UnlabelledObjective,
    Weighting,
    unlabelled_objective,
)

RULES = ("best", "last")


def distill(
    student: NetworkLike,
    teacher: NetworkLike | None = None,
    dataset: str | Splits = "digits",
    *,
    sources: Bank | None = None,
    weighting: Weighting = "weighted",
    measure: str | None = None,
    power: float = POWER,
    lam: float = LAM,
    source_view: str = "fixed",
    labels: Labels | None = None,
    labels_per_class: int | None = None,
    unlabelled_batch_size: int | None = None,
    distiller: Specification | None = None,
    ce_weight: float | None = None,
    recipe: str | Recipe = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    space: SearchSpace | str | None = None,
    student_options: Mapping[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
) -> Training:
    """Train a student under a teacher of its task, or under sources: models of related tasks.

    With `out` the state lives in a run folder: stopped at any moment, the same call continues, and on a CPU ends with
    the weights of an uninterrupted run, bit for bit. On SIGINT the step at hand is finished and the state stored
    before `KeyboardInterrupt` is raised; a second one raises at once. Under `accelerate launch` or torchrun all
    processes train one student.

    Args:
        student: Whom to train: the run folder of a search, whose winner is meant, an architecture of `space`, a timm
            name, a module, or all else that `as_network` takes.
        teacher: Whom to learn from: likewise, such as the run folder of a training or a timm name with
            `teacher_options={"pretrained": True}` or `{"checkpoint": FILE}`.
        dataset: The data: a name that `create_splits` knows, or the splits.
        sources: Models of other tasks to learn from in place of a teacher, as `as_sources` takes them, or their ranking
            as `rank_sources` gives it, or its run folder. Each teaches, on all training images, labelled or not, a head
            of its own, which is left out of what is shipped. If none of them is near the task, the student is trained
            on labels alone, with a warning.
        weighting: How much each source counts: "weighted" by similarity (DistillWeighted), "nearest" only
            (DistillNearest), "uniform", or weights by name.
        measure: What similarity is measured by, see `list_measures`; by default the first of a ranking, else "parc".
        power: p: weights are similarities to this power, as shares of their sum.
        lam: lambda: factor of the labelled images' cross entropy; that of the sources is 1 - lambda.
        source_view: "fixed": sources predict each image once, as it is; "augmented": the view that the student sees.
        labels: Which training images have labels, as for `create_splits`: "4%", how many, a file or indices; what
            needs labels, distillers included, looks at these alone. An epoch has as many steps as all training images
            fill batches.
        labels_per_class: How many of each class have labels.
        unlabelled_batch_size: Images beside the labelled ones of a step for the sources to teach on; by default as
            many as `batch_size`, or where all images are labelled the same ones.
        distiller: What is learnt from the teacher, "kd" unless said otherwise: names joined by "+", each with its
            weight before it if that is not the customary one, as in "kd+2*diswot"; or a mapping of names to weights or
            to mappings of `weight` and options.
        ce_weight: Factor of the cross entropy; by default the customary one of the distillers.
        recipe: How to train: its name, or a recipe.
        epochs: Epochs, if not the recipe's; its schedule is scaled to them.
        batch_size: Images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        recipe_options: Other fields of `Recipe` and of its augmentation.
        space: The space of an architecture.
        student_options: Options of the student, as `as_network` takes them.
        teacher_options: Options of the teacher, likewise.
        data_options: Options of `create_splits`.
        rule: Which weights are shipped and tested: "best" on validation data, or of the "last" epoch.
        seed: Decides the initial weights, the order of the images and the augmentation; what is kept back from the
            training images to validate and test on is the same for all seeds, see `data_options`.
        out: The run folder; None keeps everything in memory.
        device: "auto", "cpu", "cuda" or "mps".
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
        progress: Show a bar where standard error is a terminal.

    Returns:
        The finished training, with the student.

    Raises:
        ValueError: A name, an option or a weight is wrong, or student, teacher, data and distillers do not fit.
        RunFolderError: The run folder cannot be used, or holds another training.
        DivergenceError: The loss is no number any more.
    """
    return _run(distillation_options(locals()))


def train(
    model: NetworkLike,
    dataset: str | Splits = "digits",
    *,
    labels: Labels | None = None,
    labels_per_class: int | None = None,
    unlabelled: str | None = None,
    unlabelled_options: Mapping[str, Any] | None = None,
    unlabelled_batch_size: int | None = None,
    recipe: str | Recipe = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    space: SearchSpace | str | None = None,
    model_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
) -> Training:
    """Train a network on labels alone: a teacher, or a student to compare with. The loop is that of `distill`.

    Args:
        model: Whom to train; as the student of `distill`.
        model_options: Its options.
        labels, labels_per_class: As for `distill`.
        unlabelled: What is learnt from images without labels: "fixmatch", or nothing.
        unlabelled_options: Options of that, such as `{"threshold": 0.95}`.
        unlabelled_batch_size: Images of a step that it looks at; by default seven times `batch_size`.
        dataset, recipe, epochs, batch_size, lr, recipe_options, space, data_options: As for `distill`.
        rule, seed, out, device, checkpoint_minutes, progress: As for `distill`.

    Raises:
        ValueError, RunFolderError, DivergenceError: As for `distill`.
    """
    options = dict(locals())
    alone = {"student": options.pop("model"), "student_options": options.pop("model_options")}
    alone["lesson"] = unlabelled_objective(options.pop("unlabelled"), options.pop("unlabelled_options"))
    return _run(options | alone | {"teacher": None, "teacher_options": None, "terms": (), "ce_weight": None})


def distillation_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `distill` as those of `TrainingRun`.

    Raises:
        ValueError: There is neither a teacher nor sources, or both, or what belongs to one is given with the other.
    """
    rest = dict(options)
    of_sources = {name: rest.pop(name) for name in OPTIONS_OF_SOURCES}
    sources, distiller = rest.pop("sources"), rest.pop("distiller")
    if sources is None:
        if strange := [name for name, default in OPTIONS_OF_SOURCES.items() if of_sources[name] != default]:
            raise ValueError(f"{', '.join(strange)} says how to learn from sources, but there are none; give sources.")
        if rest["teacher"] is None:
            raise ValueError("There is nobody to learn from; give a teacher, or sources.")
        return rest | {"lesson": None, "terms": parse_distillers("kd" if distiller is None else distiller)}
    given = {"teacher": rest["teacher"], "distiller": distiller, "ce_weight": rest["ce_weight"]}
    refuse_beside_sources([name for name, value in given.items() if value is not None])
    return rest | {"lesson": SourceObjective(sources, **of_sources), "terms": ()}


def refuse_beside_sources(given: Sequence[str]) -> None:
    """Raise a ValueError if there are such arguments."""
    if given:
        raise ValueError(
            f"The student learns from sources; {', '.join(given)} cannot be given beside them. A teacher of the same "
            "task may be one of the sources, and lam is the factor of the cross entropy."
        )


def _run(options: dict[str, Any]) -> Training:
    return TrainingRun(**options).run()


class TrainingRun:
    """A training whose input is checked, ready to run.

    Args:
        terms: The distillers; none without a teacher.
        lesson: What is learnt from unlabelled images.
        labels, labels_per_class, unlabelled_batch_size: As for `distill`.
        student, teacher, dataset, ce_weight, recipe, epochs, batch_size, lr, recipe_options: As for `distill`.
        space, student_options, teacher_options, data_options, rule, seed: As for `distill`.
        out, device, checkpoint_minutes, progress: As for `distill`.

    Raises:
        ValueError: As for `distill`.
    """

    def __init__(
        self,
        *,
        student: NetworkLike,
        teacher: NetworkLike | None,
        dataset: str | Splits,
        terms: tuple[Term, ...],
        lesson: UnlabelledObjective | None = None,
        labels: Labels | None = None,
        labels_per_class: int | None = None,
        unlabelled_batch_size: int | None = None,
        ce_weight: float | None,
        recipe: str | Recipe,
        epochs: int | None,
        batch_size: int | None,
        lr: float | None,
        recipe_options: Mapping[str, Any] | None,
        space: SearchSpace | str | None,
        student_options: Mapping[str, Any] | None,
        teacher_options: Mapping[str, Any] | None,
        data_options: Mapping[str, Any] | None,
        rule: str,
        seed: int,
        out: str | os.PathLike[str] | None,
        device: str,
        checkpoint_minutes: float,
        progress: bool,
    ) -> None:
        check_whole("seed", seed, least=0)
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; it must be 'best', on validation data, or 'last'.")
        if not checkpoint_minutes > 0:
            raise ValueError(f"checkpoint_minutes is {checkpoint_minutes!r}; it must be above 0.")
        shorthand = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
        given = {name: value for name, value in shorthand.items() if value is not None}
        made = create_recipe(recipe, **(dict(recipe_options or {}) | given))
        self.device = resolve_device(device)
        self.accelerator = create_accelerator(made, self.device)
        if out is None and self.accelerator.num_processes > 1:
            raise ValueError("Several processes need a run folder; give out.")
        self.splits = as_splits(dataset, data_options, labels=labels, labels_per_class=labels_per_class)
        mirrored = self.splits.mirrored or "flip" in (recipe_options or {})
        self.recipe = made if mirrored else create_recipe(made, flip=0.0)
        if len(self.splits.train) < made.batch_size:
            raise RecipeError(
                f"batch_size is {made.batch_size}, but {self.splits.train.title} has only {len(self.splits.train)} "
                f"images to train on, beside {len(self.splits.val)} to validate and {len(self.splits.test)} to test on."
            )
        if rule == "best" and not len(self.splits.val):
            raise ValueError("There are no validation images, so no epoch is the best; give rule='last'.")
        of_student: dict[str, Any] = {} if space is None else {"space": space}
        self.student = self._network(student, "student", {**(student_options or {}), **of_student})
        self.teacher = None if teacher is None else self._network(teacher, "teacher", teacher_options)
        self.terms = terms
        self.rule = rule
        self.seed = seed
        self.out = None if out is None else Path(out)
        self.checkpoint_minutes = checkpoint_minutes
        self.show_progress = progress
        self.lesson = lesson
        self.unlabelled_batch_size = self._unlabelled_batch_size(unlabelled_batch_size)
        if lesson is not None:
            lesson.begin(self.splits, self.recipe, seed, self.accelerator.device, self.out)
        self.task, self.ema = self._create_task(ce_weight)
        self.config = {
            "student": self.student.config(),
            "teacher": self.teacher and self.teacher.config(),
            "data": self.splits.config(),
            "distillers": {term.name: term.config() for term in terms},
            "ce_weight": self.task.ce_weight,
            "recipe": self.recipe.config(),
            "rule": rule,
            "seed": seed,
        }
        if lesson is not None:
            batch = {"unlabelled_batch_size": self.unlabelled_batch_size}
            self.config["unlabelled"] = lesson.config() | batch

    def _unlabelled_batch_size(self, given: int | None) -> int | None:
        """How many unlabelled images a step has beside the labelled ones; None where those serve for all."""
        lesson, recipe = self.lesson, self.recipe
        if lesson is None:
            if given is not None:
                raise ValueError("unlabelled_batch_size is given, but nothing that is learnt from unlabelled images.")
            return None
        if given is None and lesson.shared and self.splits.labelled is None and not (recipe.mixup or recipe.cutmix):
            return None
        size = lesson.ratio * recipe.batch_size if given is None else given
        check_whole("unlabelled_batch_size", size, least=1)
        parts = recipe.accumulate * self.accelerator.num_processes
        if size % parts:
            raise RecipeError(
                f"unlabelled_batch_size is {size}, which {self.accelerator.num_processes} processes cannot share in "
                f"{recipe.accumulate} parts each; choose one that {parts} divides."
            )
        return size

    def _network(self, source: NetworkLike, role: str, options: Mapping[str, Any] | None) -> Network:
        network = network_for(self.splits, source, role, options)
        if network.trained_on is not None:
            check_division(f"The {role} {network.name}", network.trained_on, self.splits)
        return network

    def _create_task(self, ce_weight: float | None) -> tuple[DistillationTask, ModelEmaV3 | None]:
        """The task on its device; what does not fit shows here, before anything is written."""
        data = self.splits
        model = self._built(self.student)
        ema = None if self.recipe.ema is None else ModelEmaV3(model, decay=self.recipe.ema)
        teacher = None
        if self.teacher is not None:
            teacher = (self._built(self.teacher), self._normalised(self.teacher))
        with isolated_random_state(stable_seed(self.seed, "distillers")):
            task = DistillationTask(
                model,
                self._normalised(self.student),
                next(iter(self._images(2))),
                teacher=teacher,
                terms=self.terms,
                unlabelled=self.lesson.create if self.lesson and self.lesson.teaches else None,
                labels=_without_hidden(data),
                num_classes=data.num_classes,
                ce_weight=ce_weight,
                label_smoothing=self.recipe.label_smoothing,
                names=(self.student.name, self.teacher.name if self.teacher else ""),
            )
        if self.recipe.compile:
            task.compile()
        return task, ema

    def _normalised(self, network: Network) -> Preprocessor:
        """What its weights were trained with; of new weights, the statistics of the data."""
        mean, std = network.mean or self.splits.mean, network.std or self.splits.std
        return Preprocessor(mean, std, channels_last=self.recipe.channels_last).to(self.accelerator.device)

    def _built(self, network: Network) -> nn.Module:
        """A network on the device."""
        try:
            model = network.build(self.seed)
        except TypeError as error:  # an option that it does not know, or of the wrong type
            raise ValueError(f"{network.name} cannot be built: {error}") from error
        model = model.to(self.accelerator.device)
        return model.to(memory_format=torch.channels_last) if self.recipe.channels_last else model

    def _images(self, count: int) -> Any:
        order = torch.arange(min(count, len(self.splits.train)))
        batches = self.splits.train.batches(
            order, count, device=self.accelerator.device, augment=self.recipe.augmentation, seed=0
        )
        return (batch.images for batch in batches)

    def run(self, files: Mapping[str, str] | None = None) -> Training:
        """Train until done, evaluate on the test images, and write everything down.

        Args:
            files: More to write into the run folder, text by file name.
        """
        accelerator = self.accelerator
        folder = TrainingFolder(self.config, self.out) if accelerator.is_main_process else None
        try:
            if folder is not None:
                self._note_beginning(folder, files or {})
            accelerator.wait_for_everyone()
            if (finished := self._finished(folder)) is not None:
                return finished
            observer = None if folder is None else self._observer(folder)
            trainer = Trainer(
                self.task,
                self.splits,
                self.recipe,
                folder,
                accelerator,
                seed=self.seed,
                ema=self.ema,
                observer=observer,
                checkpoint_seconds=60 * self.checkpoint_minutes,
                checkpoint=self._checkpoint(folder, LAST),
                unlabelled_batch_size=self.unlabelled_batch_size,
            )
            if observer is None:
                trainer.run()
            else:
                with observer.watching(trainer.progress.step):
                    trainer.run()
            return self._finish(trainer, folder)
        finally:
            if folder is not None:
                folder.release()

    def _note_beginning(self, folder: TrainingFolder, files: Mapping[str, str]) -> None:
        """Store what is to stay the same, and write down what is given beside the configuration."""
        if self.lesson is not None:
            folder.remember(MEMORY, self.lesson.remembered())
        chosen = {} if self.splits.labelled is None else {"labels.txt": self.splits.labels_file()}
        for name, text in (chosen | dict(files)).items() if folder.path is not None else ():
            folder.write(name, text)

    def _observer(self, folder: TrainingFolder) -> _Observer:
        steps = len(self.splits.train) // self.recipe.batch_size * self.recipe.epochs
        weights = self.lesson.weights if self.lesson and self.lesson.teaches else {}
        return _Observer(folder, self.recipe, steps, self.show_progress, self.splits.classes, weights)

    def _checkpoint(self, folder: TrainingFolder | None, name: str) -> Checkpoint | None:
        """A checkpoint, which every process reads for itself."""
        if self.out is not None:
            return read_checkpoint(self.out / name)
        return folder.load(name) if folder is not None else None

    def _finished(self, folder: TrainingFolder | None) -> Training | None:
        """The training as an earlier run finished it, with files that were deleted made again."""
        (is_complete,) = broadcast_object_list([folder is not None and folder.result is not None])
        if not is_complete:
            return None
        if folder is not None:
            folder.check_result_file()
            if folder.missing_files():
                self._restore_files(folder)
        self.accelerator.wait_for_everyone()
        return self._stored(folder)

    def _restore_files(self, folder: TrainingFolder) -> None:
        """Write the student and all else of a finished training again, from its checkpoint and its stored result."""
        name = BEST if self.rule == "best" else LAST
        checkpoint = self._checkpoint(folder, name)
        if checkpoint is None:
            raise RunFolderError(
                f"{', '.join(folder.missing_files())} of {folder.path} cannot be made again, since {name} is missing; "
                "restore the folder from a copy, or start anew in another one."
            )
        load_shipped(self.task.student, checkpoint)
        self.task.release()
        model = self.task.student.cpu().eval().requires_grad_()
        with folder.errors():
            self._write(folder, model, folder.result or {})

    def _stored(self, folder: TrainingFolder | None) -> Training:
        """The training as it is stored, in all processes; only the main one has the store."""
        assert self.out is not None
        stored = None if folder is None else (folder.result, folder.rows)
        result, rows = broadcast_object_list([stored])[0]
        return Training(result, rows, self.out, self._reload())

    def _reload(self) -> nn.Module:
        assert self.out is not None
        model = None if self.student.timm or self.student.space else self.student.build(self.seed)
        return load_student(self.out / FOLDER, model=model)

    def _finish(self, trainer: Trainer, folder: TrainingFolder | None) -> Training:
        """Choose the weights, test them once, and write all that is to be taken away."""
        self.accelerator.wait_for_everyone()
        if self.rule == "best":
            trainer.take_best(self._checkpoint(folder, BEST))
        self.task.release()
        test, of_teacher = trainer.test()
        if folder is not None:
            model = trainer.evaluated.cpu().eval().requires_grad_()
            rows = folder.rows
            result = as_json(finite_only(self._result(trainer, model, rows, test, of_teacher)))
            if folder.path is None:
                return Training(result, rows, None, model)
            with folder.errors():
                self._write(folder, model, result)
            shutil.rmtree(folder.path / PREDICTIONS, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return self._stored(folder)

    def _result(
        self,
        trainer: Trainer,
        model: nn.Module,
        rows: list[dict[str, Any]],
        test: Metrics,
        of_teacher: Metrics | None,
    ) -> dict[str, Any]:
        state, splits = trainer.progress, self.splits
        cost = count_cost(model, splits.input_size)
        noted = {name: rows[-1][name] for name in trainer.notes}
        last = {"epoch": self.recipe.epochs, "val_accuracy": rows[-1]["val_accuracy"], **noted}
        best = {"epoch": state.best_epoch, "val_accuracy": state.best_accuracy}
        seconds = sum(row["seconds"] for row in rows)
        return {
            "status": "complete",
            "epochs": self.recipe.epochs,
            "steps": state.step,
            "rule": self.rule,
            "last": last,
            "best": best,
            "test": {
                "accuracy": test.accuracy,
                "top5": test.top5,
                "nll": test.nll,
                "calibration_error": test.calibration_error,
                "samples": test.samples,
                "epoch": best["epoch"] if self.rule == "best" else last["epoch"],
                "rule": self.rule,
                "bins": [vars(one) for one in test.bins],
                "class_accuracy": list(test.class_accuracy),
            },
            "teacher": of_teacher
            and {
                "name": self.teacher.name if self.teacher else None,
                "trained": self.teacher.trained if self.teacher else None,
                "accuracy": of_teacher.accuracy,
            },
            "agreement": of_teacher and {"percent": test.agreement, "divergence": test.divergence},
            "student": {
                "name": self.student.name,
                "params": cost.params,
                "macs": cost.macs,
                "latency_ms": measure_latency(model, splits.input_size, batch_size=1),
                "latency": "one image on the CPU, float32, median",
            },
            "data": splits.name,
            "classes": list(splits.classes),
            "labels": _label_counts(splits),
            **(self.lesson.result(rows) if self.lesson else {}),
            "distillers": {term.name: term.weight for term in self.terms},
            "ce_weight": self.task.ce_weight,
            "seed": self.seed,
            "timing": {
                "seconds": state.seconds,
                "preparation_seconds": trainer.preparation_seconds,
                "images_per_second": len(rows) * trainer.steps_per_epoch * trainer.images_per_step / seconds,
                "covers": "seconds: training and validation of all epochs; preparation_seconds: what sources predict "
                "before, in the last run; images_per_second: training alone",
                "device": device_name(self.device),
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "precision": self.recipe.precision,
                "batch_size": self.recipe.batch_size,
            },
            "versions": versions(),
        }

    def _write(self, folder: TrainingFolder, model: nn.Module, result: dict[str, Any]) -> None:
        assert folder.path is not None
        splits = self.splits
        card = self.student.card(
            splits.input_size,
            self.student.mean or splits.mean,
            self.student.std or splits.std,
            labels=splits.classes,
            params=result["student"]["params"],
            macs=result["student"]["macs"],
            made_of={
                "data": splits.config(),
                "teacher": result["teacher"],
                "distillers": result["distillers"],
                "test_accuracy": result["test"]["accuracy"],
                "rule": self.rule,
            },
        )
        weights = save_student(model, card, folder.path / FOLDER)
        folder.write("metrics.csv", metrics_csv(folder.rows))
        pictures = plot_training(folder.rows, result)
        for name, picture in pictures.items():
            folder.write(name, picture)
        student = [f"{FOLDER}/{name}" for name in (weights.name, CONFIG)]
        folder.finish(result, ["metrics.csv", *student, *pictures])


def _without_hidden(data: Splits) -> Tensor:
    """The class of each training image, one more class for those whose labels are not to be seen."""
    if data.labelled is None:
        return data.train.labels
    labels = torch.full_like(data.train.labels, data.num_classes)
    labels[data.labelled] = data.train.labels[data.labelled]
    return labels


def _label_counts(data: Splits) -> dict[str, int] | None:
    if data.labelled is None:
        return None
    counts = {"labelled": len(data.labelled), "images": len(data.train), "validation": len(data.val)}
    return counts | {"classes": data.num_classes}


class _Observer:
    """Shows and writes what happens in the main process."""

    def __init__(
        self,
        folder: TrainingFolder,
        recipe: Recipe,
        steps: int,
        progress: bool,
        classes: tuple[str, ...],
        source_weights: Mapping[str, float],
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._steps = steps
        self._progress = progress
        self._named: dict[str, Any] = {"classes": classes, "source_weights": source_weights}

    def watching(self, done: int) -> _Observer:
        """Open the bar and the curves, where so many steps are done."""
        folder = self._folder
        place = None if folder.path is None else folder.path / "curves"
        self._curves = TrainingCurves(place, folder.rows, **self._named)
        self._bar = TrainingProgress(self._recipe.epochs, self._steps, done=done, enabled=self._progress)
        return self

    def __enter__(self) -> None:
        self._bar.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._curves.__exit__(kind, error, trace)

    def stepped(self, epoch: int, losses: Mapping[str, Tensor], images: int) -> None:
        self._bar.add(epoch, losses, images)

    def finished_epoch(self, row: Mapping[str, Any]) -> None:
        self._curves.add(row)
        if row["val_accuracy"] is not None:
            self._bar.validated(row["val_accuracy"])
        if self._folder.path is not None:
            self._folder.write("metrics.csv", metrics_csv(self._folder.rows))
