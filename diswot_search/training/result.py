"""The result of a training, in Python and as `result.json`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from torch import nn

from search_spaces.names import short_name

from ..runtime.run_folder import COMPLETE, RUNNING
from ..runtime.typed_json import Json, beside, decode, decode_stored, encode, encode_fields
from .folder import TrainingFolder, read_training
from .metrics import ConfidenceBin


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """The measurements of one epoch.

    Attributes:
        epoch: The epoch, from 1.
        step: Optimiser steps done at its end.
        lr: Learning rate of its last step.
        loss: Mean loss over its steps.
        terms: Mean of each weighted term of the loss, by name; in JSON under `loss/NAME`.
        notes: Further measurements by name, such as `confident`, the percentage of unlabelled images that FixMatch
            learns from; in JSON under their names.
        train_accuracy: Accuracy on the augmented training images, in percent.
        val_accuracy: Accuracy on the validation images, in percent; None without validation images.
        val_loss: Mean cross entropy of the validation images, in nats; likewise.
        val_balanced_accuracy: Mean of the classes' accuracies on the validation images, in percent; likewise.
        val_macro_f1: Mean of the classes' F1 on them, in percent; likewise.
        val_class_accuracy: Accuracy of each class on them, in percent; None for a class without images.
        images_per_second: Training speed; validation is not included.
        seconds: Training time; validation is not included.
    """

    epoch: int
    step: int
    lr: float
    loss: float
    terms: Mapping[str, float] = beside("loss/")
    notes: Mapping[str, float] = beside()
    train_accuracy: float
    val_accuracy: float | None = None
    val_loss: float | None = None
    val_balanced_accuracy: float | None = None
    val_macro_f1: float | None = None
    val_class_accuracy: tuple[float | None, ...] | None = None
    images_per_second: float
    seconds: float

    @classmethod
    def from_json(cls, values: object) -> EpochRow:
        """Convert JSON values to a row.

        Raises:
            JsonError: A key is missing, or a value is of another type.
        """
        return decode(cls, values)

    def to_json(self) -> dict[str, Json]:
        """Convert the row to a flat JSON object."""
        return encode_fields(self)

    def accuracy(self) -> EpochAccuracy:
        """The measurements of the epoch on validation images."""
        return EpochAccuracy(
            self.epoch,
            self.val_accuracy,
            self.notes,
            val_loss=self.val_loss,
            val_balanced_accuracy=self.val_balanced_accuracy,
            val_macro_f1=self.val_macro_f1,
        )


@dataclass(frozen=True)
class EpochAccuracy:
    """The measurements of one epoch on validation images.

    Attributes:
        epoch: The epoch, from 1; None if no epoch was validated.
        val_accuracy: Accuracy on the validation images, in percent; None without validation images.
        notes: Further measurements by name, as in `EpochRow`.
        val_loss, val_balanced_accuracy, val_macro_f1: As in `EpochRow`.
    """

    epoch: int | None
    val_accuracy: float | None
    notes: Mapping[str, float] = beside()
    _: KW_ONLY
    val_loss: float | None = None
    val_balanced_accuracy: float | None = None
    val_macro_f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class FinalMetrics:
    """The metrics of the trained student on the test images, which are read once, after the weights are chosen.

    Attributes:
        accuracy, top5, nll, calibration_error, samples, bins, class_accuracy: As in `Metrics`.
        balanced_accuracy, macro_f1: Likewise; None in results of older versions.
        epoch: The epoch that the tested weights are from.
        rule: The rule that chose it, "best" or "last".
    """

    accuracy: float
    top5: float | None
    nll: float
    calibration_error: float
    samples: int
    epoch: int | None
    rule: str
    bins: tuple[ConfidenceBin, ...] = ()
    class_accuracy: tuple[float | None, ...] = ()
    balanced_accuracy: float | None = None
    macro_f1: float | None = None


@dataclass(frozen=True)
class Agreement:
    """The agreement of the student with its teacher on the test images.

    Attributes:
        percent: Share of images that both assign to the same class, in percent.
        divergence: Mean Kullback-Leibler divergence KL(teacher || student), in nats.
    """

    percent: float | None
    divergence: float | None


@dataclass(frozen=True)
class StudentFacts:
    """The trained network.

    Attributes:
        name: Its name.
        params: Number of parameters; None until the training is complete, as all below.
        macs: Multiply-accumulate operations for one image.
        latency_ms: Time of one image where the student ships, in milliseconds.
        latency: The conditions of that measurement: runtime, threads, batch, precision.
        latency_median_ms: The median of the passes of that measurement; `latency_ms` is that of the quickest.
        latency_instability: Why the measurement is not stable, in words; empty if it is.
    """

    name: str
    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    latency: str | None = None
    latency_median_ms: float | None = None
    latency_instability: str | None = None


@dataclass(frozen=True)
class TeacherFacts:
    """The teacher.

    Attributes:
        name: Its name.
        trained: Whether its weights are trained; None in an unfinished training of an older version.
        accuracy: Accuracy on the test images, in percent, measured before the first step; None before that, if its
            classes are not those of the data, and in a training that looks at no test image.
        val_accuracy: Accuracy on the validation images, in percent; None but in a training that looks at no test image,
            or looked at none at first.
    """

    name: str
    trained: bool | None = None
    accuracy: float | None = None
    val_accuracy: float | None = None


@dataclass(frozen=True)
class LabelCounts:
    """The labelled subset of the training images.

    Attributes:
        labelled: Number of training images with labels.
        images: Number of training images.
        validation: Number of validation images.
        classes: Number of classes.
    """

    labelled: int
    images: int
    validation: int
    classes: int


@dataclass(frozen=True)
class SourceFacts:
    """A source in a training.

    Attributes:
        name: Its name.
        similarity: Mean similarity to the data over the draws of images; None if it was not, or cannot be, measured.
        std: Standard deviation of the similarity over the draws.
        weight: Share of the source in the loss of all sources.
        loss: Mean cross entropy of the student with the source in the last epoch, in nats, without weights; None for a
            source that is not used.
    """

    name: str
    similarity: float | None = None
    std: float | None = None
    weight: float = 0.0
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceWeighting:
    """The sources of a training and how they were weighted.

    Attributes:
        power: Power of the similarities; None if the weights do not come from one.
        weighting: The rule, or the weights that were given by name.
        lam: Factor lambda of the cross entropy; the factor of the sources is 1 - lambda.
        view: The views of the images that sources predict, "fixed" or "augmented".
        measure: Measure of similarity; None if none was measured.
        fallback: Reason why no source is used, so that the student learns from labels alone; else None.
        models: The sources.
    """

    power: float | None = None
    weighting: str | Mapping[str, float]
    lam: float
    view: str
    measure: str | None
    fallback: str | None
    models: tuple[SourceFacts, ...]

    def to_json(self) -> dict[str, Json]:
        """Convert to a JSON object; an infinite power is the text "inf"."""
        infinite: dict[str, Json] = {"power": "inf"} if self.power == math.inf else {}
        return encode_fields(self) | infinite


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The time of a training and its conditions.

    Attributes:
        seconds: Training and validation of all epochs.
        preparation_seconds: Preparation of the unlabelled objective in the last run, such as predictions of sources.
        images_per_second: Training speed; validation is not included.
        covers: The same in words.
        device: Name of the device.
        processes: Number of processes.
        threads: Number of CPU threads of each process.
        workers: Number of workers of a sweep, each of which may have had a training at the same time, in the last run.
        precision: Numeric precision of the training.
        batch_size: Labelled images of a step.
    """

    seconds: float
    preparation_seconds: float = 0.0
    images_per_second: float
    covers: str = ""
    device: str
    processes: int
    threads: int
    workers: int = 1
    precision: str
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The facts and numbers of a training: the content of `result.json`.

    Attributes:
        status: "complete" or "running".
        epochs: Number of epochs that are done.
        planned_epochs: Number of epochs in all; None once the training is complete.
        steps: Optimiser steps that are done.
        rule: The rule that chooses the epoch of the student, "best" or "last".
        last: The last epoch; None before the first one.
        best: The epoch that is best on validation images; likewise.
        best_by: The measure that it is best by: "accuracy", "balanced_accuracy", "macro_f1" or "loss".
        test: Metrics of the student on the test images; None until the training is complete.
        teacher: The teacher; None without one.
        agreement: Agreement with the teacher; None without one, and until the training is complete.
        student: The student.
        data: Name of the data set.
        classes: Names of the classes.
        class_weights: Weight of each class in the cross entropy; None if all count alike.
        labels: The labelled subset; None if all training images are labelled.
        unlabelled: Name of the unlabelled objective, "sources" or "fixmatch"; None without one.
        sources: The sources and their weights; None without sources.
        distillers: Weight of each distiller by name.
        ce_weight: Factor of the cross entropy.
        seed: Seed of the training.
        timing: Time and its conditions; None until the training is complete.
        versions: Versions of Python and of packages by name.
    """

    status: str
    epochs: int
    planned_epochs: int | None = None
    steps: int
    rule: str
    last: EpochAccuracy | None = None
    best: EpochAccuracy | None = None
    best_by: str = "accuracy"
    test: FinalMetrics | None = None
    teacher: TeacherFacts | None = None
    agreement: Agreement | None = None
    student: StudentFacts
    data: str
    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None
    labels: LabelCounts | None = None
    unlabelled: str | None = None
    sources: SourceWeighting | None = None
    distillers: Mapping[str, float] = field(default_factory=dict)
    ce_weight: float = 1.0
    seed: int
    timing: Timing | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the training is complete."""
        return self.status == COMPLETE

    @classmethod
    def from_json(cls, values: object) -> TrainingResult:
        """Convert the content of `result.json`.

        Raises:
            JsonError: A key is missing, or a value is of another type; the message names the key.
        """
        return decode(cls, values)

    def to_json(self) -> dict[str, Json]:
        """Convert to the content of `result.json`; facts of an unlabelled objective are left out without one."""
        left_out = set() if self.unlabelled else {"unlabelled", "sources"}
        left_out |= set() if self.planned_epochs else {"planned_epochs"}
        return {key: value for key, value in encode_fields(self).items() if key not in left_out}


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        result: Accuracies with the rule of the epoch, calibration, agreement, cost, timing.
        rows: The measurements of each epoch, in order.
        path: The run folder; None in memory.
        student: The trained network, on the CPU, in evaluation mode.
    """

    result: TrainingResult
    rows: tuple[EpochRow, ...]
    path: Path | None
    student: nn.Module

    def __repr__(self) -> str:
        name = short_name(self.result.student.name)
        return f"Training({name}, {len(self.rows)} epochs, test accuracy {self.accuracy:.2f} %, path={self.path})"

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent."""
        assert self.result.test is not None
        return self.result.test.accuracy


def read_result(path: str | os.PathLike[str]) -> TrainingResult:
    """Read the result of the training in a run folder, or its progress. Nothing is changed.

    Args:
        path: The run folder, also while a training writes it.

    Raises:
        RunFolderError: The folder has no training, or it is damaged.
    """
    values, store = dict(read_training(path)), Path(path) / TrainingFolder.LAYOUT.store
    if values.get("status") == RUNNING:
        for name in ("last", "best"):
            if values.get(name) is not None:
                row = decode_stored(EpochRow, values[name], store, _RESTORE)
                values[name] = encode(row.accuracy())
    return decode_stored(TrainingResult, values, store, _RESTORE)


def stored_result(folder: TrainingFolder) -> TrainingResult | None:
    """The stored result of a finished training; None before its end.

    Raises:
        RunFolderError: The result is damaged.
    """
    return None if folder.result is None else decode_stored(TrainingResult, folder.result, _store_of(folder), _RESTORE)


def read_rows(folder: TrainingFolder) -> tuple[EpochRow, ...]:
    """Read the stored rows of a training.

    Raises:
        RunFolderError: A row is damaged.
    """
    return tuple(decode_stored(EpochRow, row, _store_of(folder), _RESTORE) for row in folder.rows)


def _store_of(folder: TrainingFolder) -> Path:
    return (folder.path or Path("memory")) / TrainingFolder.LAYOUT.store


_RESTORE = "restore the folder from a copy, or start anew in another one"
