"""The training loop: deterministic, resumable at any step, in one process or several."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.image_sets import ImageSet
from ..data.splits import Splits
from ..networks.frozen import FrozenNetwork
from ..runtime.files import RunFolderError
from ..runtime.interruption import Interruption
from ..runtime.seeding import isolated_random_state, stable_seed
from .batches import Batches, Part
from .best_epoch import Progress
from .checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    checked_best,
    load_optimizer_state,
    optimizer_state,
    with_prefix,
    without_prefix,
)
from .exam import TeacherExam, in_order, metrics_of, summed
from .folder import TrainingFolder
from .metrics import Metrics, MetricSums
from .recipe import Recipe, RecipeError
from .result import EpochRow
from .task import DistillationTask

GRACE = 5.0
"""Seconds within which signals that a launcher, or the owner of workers, sends to its processes count as one."""


CHECKED_EVERY = 50
"""Steps between two checks of the loss on a device that computes ahead; each check waits for the device."""


ASKED_EVERY = 10
"""Steps between two exchanges of signals among several processes on such devices."""


class DivergenceError(RuntimeError):
    """The loss, or a weight, is not a number."""


class Observer(Protocol):
    """Follows a training in the main process."""

    def stepped(self, epoch: int, losses: Mapping[str, Tensor], images: int) -> None:
        """Take note of a finished step.

        Args:
            epoch: The epoch of the step, from 1.
            losses: The weighted terms of the loss by name.
            images: Number of images of the step.
        """

    def finished_epoch(self, row: EpochRow) -> None:
        """Take note of an epoch that is trained, evaluated and stored."""


def create_accelerator(recipe: Recipe, device: str) -> Accelerator:
    """The accelerator of a training.

    Args:
        recipe: The recipe, which sets the precision and the batch size.
        device: "cpu", "cuda" or "mps", as `resolve_device` gives it.

    Raises:
        RecipeError: The device cannot compute in this precision, or the batch cannot be shared among the processes.
    """
    if recipe.precision == "fp16" and not device.startswith("cuda"):
        raise RecipeError(f"fp16 needs a CUDA device, the device is {device}; choose bf16 or fp32.")
    if PartialState._shared_state:
        # The precision and the device of an earlier training in this process must not be those of this one.
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    mixed = "no" if recipe.precision == "fp32" else recipe.precision
    accelerator = Accelerator(mixed_precision=mixed, cpu=device == "cpu")
    parts = recipe.accumulate * accelerator.num_processes
    if recipe.batch_size % parts:
        raise RecipeError(
            f"A batch of {recipe.batch_size} cannot be shared among {accelerator.num_processes} processes in "
            f"{recipe.accumulate} parts each; choose a batch_size that {parts} divides."
        )
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size // parts % 2:
        raise RecipeError(
            f"Images are mixed in pairs, but parts of a batch of {recipe.batch_size} have {recipe.batch_size // parts} "
            f"of them; choose a batch_size that {2 * parts} divides."
        )
    return accelerator


class Trainer:
    """Trains a student's task on data by a recipe, from where its run folder stands.

    Args:
        task: Student and losses, on the accelerator's device.
        splits: The data.
        recipe: How to train.
        folder: The folder of the state; None in all processes but the main one.
        accelerator: The accelerator, which has devices and processes.
        seed: Seed of the order of images, the augmentation, and all other random choices.
        observer: Follows the training in the main process.
        checkpoint_seconds: Time after which the state is stored within an epoch.
        checkpoint: The state to go on from; None starts anew.
        unlabelled_batch_size: Unlabelled images in a step; None lets the loss on them look at the labelled ones alone.
        best_by: The measure that chooses the best epoch; one of `BEST_BY`.

    Attributes:
        progress: The progress.
        steps_per_epoch: Steps of the optimiser in an epoch: as many as all training images fill batches, labelled or
            not, so that trainings which differ in that alone take equally many.
        images_per_step: Views of images that the student sees in a step.
        preparation_seconds: Time of the preparation of the objective on unlabelled images.

    Raises:
        RunFolderError: The checkpoint is of another network.
    """

    def __init__(
        self,
        task: DistillationTask,
        splits: Splits,
        recipe: Recipe,
        folder: TrainingFolder | None,
        accelerator: Accelerator,
        *,
        seed: int,
        ema: ModelEmaV3 | None = None,
        observer: Observer | None = None,
        checkpoint_seconds: float = 600.0,
        checkpoint: Checkpoint | None = None,
        unlabelled_batch_size: int | None = None,
        best_by: str = "accuracy",
    ) -> None:
        self.splits = splits
        self.recipe = recipe
        self.folder = folder
        self.accelerator = accelerator
        self.seed = seed
        self.observer = observer
        self.checkpoint_seconds = checkpoint_seconds
        self._batches = Batches(
            splits,
            recipe,
            accelerator,
            seed=seed,
            unlabelled=task.unlabelled,
            unlabelled_size=unlabelled_batch_size,
        )
        self.steps_per_epoch = self._batches.steps_per_epoch
        self.images_per_step = self._batches.images_per_step
        self.steps = self.steps_per_epoch * recipe.epochs
        self.ema = ema
        self.best_by = best_by
        is_repeated = accelerator.num_processes > 1 or multiprocessing.parent_process() is not None
        self.interruption = Interruption(GRACE if is_repeated else 0.0)
        self.terms, self.notes = task.terms, task.notes
        optimizer = recipe.create_optimizer(task)
        self.schedule = recipe.create_schedule(optimizer, self.steps)
        self._task = task
        # The main process would otherwise send them to the others at each step, however large they are.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, task.own_buffers())
        self._run_task, self._optimizer = accelerator.prepare(task, optimizer)
        self._parameters = list(task.parameters())
        self._place = torch.device("cpu") if accelerator.device.type == "mps" else accelerator.device
        self._sums = torch.zeros(len(self.terms) + len(self.notes) + 3, dtype=torch.float64, device=self._place)
        self._unchecked: list[tuple[int, Tensor]] = []
        self.preparation_seconds = 0.0
        self.progress = Progress()
        if checkpoint is not None:
            self._restore(checkpoint)
        if folder is not None:
            folder.forget_epochs_after(self.progress.step // self.steps_per_epoch)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and shipped: the student, or the moving average of its weights."""
        return self._task.student if self.ema is None else self.ema.module

    @property
    def teacher(self) -> FrozenNetwork | None:
        """The teacher."""
        return self._task.teacher

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises:
            DivergenceError: The loss, or a weight, is not a number.
            KeyboardInterrupt: A signal came; the state is stored.
            RunFolderError: The state cannot be stored.
        """
        with self._own_random_state():
            if self._task.unlabelled is not None and self.progress.step < self.steps:
                started = time.perf_counter()
                self._task.unlabelled.prepare(self.splits.train, self.accelerator)
                self.preparation_seconds = time.perf_counter() - started
        with self.interruption.postponed(), self._own_random_state():
            self._stored_at = time.monotonic()
            while self.progress.step < self.steps:
                self._train_epoch(self.progress.step // self.steps_per_epoch)

    def _train_epoch(self, epoch: int) -> None:
        progress = self.progress
        self._task.train()
        self._clock = time.perf_counter()
        for parts in self._batches.of_epoch(epoch, progress.step - epoch * self.steps_per_epoch):
            losses = self._step(progress.step, parts)
            progress.step += 1
            if self.observer is not None:
                named = dict(zip(self.terms, losses.unbind(), strict=True))
                self.observer.stepped(epoch + 1, named, self.images_per_step)
            if progress.step % CHECKED_EVERY == 0:
                self._check_finite()
            if progress.step % self.steps_per_epoch:
                self._pause()
        self._tick()
        self._check_state()
        self._share_statistics()
        self._finish_epoch(epoch + 1)
        self._pause()

    def _tick(self) -> None:
        """Count the time since the last call as the epoch's, all that was computed in it included."""
        self._check_finite()  # which waits for a device that computes ahead
        now = time.perf_counter()
        self.progress.epoch_seconds += now - self._clock
        self._clock = now

    def _step(self, step: int, parts: list[Part]) -> Tensor:
        """One step of the optimiser; returns the terms of the loss."""
        self._batches.seed_step(step)
        self.schedule.step_update(step)
        share = 1 / len(parts)
        values = torch.zeros(1 + len(self.terms) + len(self.notes), device=self.accelerator.device)
        for place, (part, views) in enumerate(parts):
            images, targets = self._batches.mixed(part)
            labels = part.labels if targets is None else targets.argmax(1)
            last = place == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self._run_task):
                losses, notes, logits = self._run_task(images, labels, part.indices, targets, step / self.steps, views)
                total = torch.stack(list(losses.values())).sum()
                values += share * torch.stack([total, *losses.values(), *notes.values()]).detach()
                if last:
                    self._note(step, values[: 1 + len(self.terms)])
                self.accelerator.backward(total * share)
            self._count(logits.detach(), labels)
        if self.recipe.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self._parameters, self.recipe.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self._task.student, step)
        self._sums[: len(values)] += values.to(self._place, torch.float64) / self.accelerator.num_processes
        return values[1 : 1 + len(self.terms)]

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        right = (logits.argmax(1) == labels).sum()
        self._sums[-2] += right.to(self._place)
        self._sums[-1] += len(labels)

    # -- failures and pauses ----------------------------------------------------------------------

    def _note(self, step: int, values: Tensor) -> None:
        """Keep the losses of a step until they are looked at; at once where that costs nothing."""
        self._unchecked.append((step, values))
        if self.accelerator.device.type == "cpu":
            self._check_finite()

    def _check_finite(self) -> None:
        if not self._unchecked:
            return
        steps, values = zip(*self._unchecked, strict=True)
        self._unchecked = []
        stacked = self._mean(torch.stack(values))
        broken = (~stacked.isfinite()).any(1).nonzero().flatten().tolist()
        if broken:
            loss, *terms = stacked[broken[0]].tolist()
            parts = ", ".join(f"{name} {value:g}" for name, value in zip(self.terms, terms, strict=True))
            self._report_divergence(steps[broken[0]], f"the loss is {loss:g} ({parts})")

    def _check_state(self) -> None:
        """Check that all stored values are numbers: a finite loss may have gradients that are not."""
        self._check_finite()
        for name, tensor in self._task.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                self._report_divergence(self.progress.step - 1, f"{name} is not a number")

    def _report_divergence(self, step: int, what: str) -> None:
        good = "There is no checkpoint before it."
        if self.folder is not None and (last := self.folder.load(LAST)) is not None:
            place = "memory" if self.folder.path is None else self.folder.path / LAST
            good = f"The last good checkpoint is {place}, of step {last.values['progress']['step']}."
        raise DivergenceError(
            f"The training diverged at step {step + 1} (epoch {step // self.steps_per_epoch + 1}): {what}. {good} "
            f"Start anew in another folder with a lower lr (it is {self.recipe.lr:g}) or with clip_grad."
        )

    def _pause(self) -> None:
        """Answer a signal between two steps, and store the state if the last time is long ago."""
        accelerator, step = self.accelerator, self.progress.step
        together = accelerator.num_processes > 1
        if together and accelerator.device.type != "cpu" and step % ASKED_EVERY and step % self.steps_per_epoch:
            return  # asking waits for all queued work
        interrupted = self.interruption.asked
        late = time.monotonic() - self._stored_at > self.checkpoint_seconds
        if together:
            flags = torch.tensor([float(interrupted), float(late)], device=accelerator.device)
            interrupted, late = (accelerator.reduce(flags) > 0).tolist()
        if interrupted or late:
            self._tick()
            self._check_state()
            self._save()
        if interrupted:
            accelerator.wait_for_everyone()  # a launcher ends all processes when one of them has ended
            raise KeyboardInterrupt

    # -- epochs ---------------------------------------------------------------------------------

    def _finish_epoch(self, epoch: int) -> None:
        progress = self.progress
        started = time.perf_counter()
        evaluation = self.evaluate(self.splits.val) if len(self.splits.val) else None
        seconds = progress.epoch_seconds
        progress.seconds += seconds + time.perf_counter() - started
        totals = (summed(self._sums, self.accelerator) / self.steps_per_epoch).tolist()
        means = totals[1:-2]
        row = EpochRow(
            epoch=epoch,
            step=progress.step,
            lr=max(group["lr"] for group in self._optimizer.param_groups),
            loss=totals[0],
            terms=dict(zip(self.terms, means, strict=False)),
            notes=dict(zip(self.notes, means[len(self.terms) :], strict=True)),
            train_accuracy=100 * totals[-2] / totals[-1],
            val_accuracy=evaluation.accuracy if evaluation else None,
            val_loss=evaluation.nll if evaluation else None,
            val_class_accuracy=evaluation.class_accuracy if evaluation else None,
            val_balanced_accuracy=evaluation.balanced_accuracy if evaluation else None,
            val_macro_f1=evaluation.macro_f1 if evaluation else None,
            images_per_second=self.steps_per_epoch * self.images_per_step / seconds,
            seconds=seconds,
        )
        values = row.to_json()
        progress.note(values, self.best_by)
        self._sums.zero_()
        progress.epoch_seconds = 0.0
        if self.folder is not None:
            self.folder.add_row(values)
        self._save()
        if progress.best_epoch == epoch:
            self._save_best()
        if self.observer is not None:
            self.observer.finished_epoch(row)
        self._clock = time.perf_counter()

    def evaluate(self, images: ImageSet) -> Metrics:
        """Evaluate the network that is shipped, in the precision of the training."""
        sums = MetricSums(self.splits.num_classes, self.accelerator.device)
        with self.accelerator.autocast():
            for part in in_order(images, self.accelerator):
                sums.add(self._student_logits(part.images), part.labels)
        return metrics_of(sums, self.accelerator)

    def test(self, exam: TeacherExam | None = None) -> Metrics:
        """Evaluate the shipped network on the test images, compared with a teacher of its classes.

        The evaluation is in single precision, as the weights are stored, whatever the precision of the training.

        Args:
            exam: The exam of the teacher; the logits that it has kept are not computed again.
        """
        sums = MetricSums(self.splits.num_classes, self.accelerator.device)
        teacher = self.teacher if self._task.predicts_alike else None
        kept = iter(exam.logits) if exam is not None and exam.logits is not None else None
        for part in in_order(self.splits.test, self.accelerator):
            teacher_logits = None
            if teacher is not None:
                teacher_logits = teacher.logits(part.images) if kept is None else next(kept)
            sums.add(self._student_logits(part.images), part.labels, teacher_logits)
        return metrics_of(sums, self.accelerator)

    @torch.inference_mode()
    def _student_logits(self, images: Tensor) -> Tensor:
        return self.evaluated.eval()(self._task.normalise(images)).float()

    # -- state ----------------------------------------------------------------------------------

    def _save(self) -> None:
        sums = summed(self._sums, self.accelerator)
        self._stored_at = time.monotonic()
        if self.folder is None:
            return
        tensors, values = optimizer_state(self._optimizer.optimizer)
        scaler = self.accelerator.scaler
        state = {
            **with_prefix("task", self._task.state_dict()),
            **with_prefix("optimizer", tensors),
            **({} if self.ema is None else with_prefix("ema", self.ema.module.state_dict())),
            "sums": sums,
        }
        self.folder.save(
            LAST,
            Checkpoint(
                state,
                {
                    "progress": asdict(self.progress),
                    "optimizer": values,
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
            ),
        )

    def _save_best(self) -> None:
        if self.folder is not None:
            values = {"epoch": self.progress.best_epoch, "val_accuracy": self.progress.best_accuracy}
            self.folder.save(BEST, Checkpoint(with_prefix("student", self.evaluated.state_dict()), values))

    def _restore(self, checkpoint: Checkpoint) -> None:
        tensors, values = checkpoint.tensors, checkpoint.values
        with _fitting(LAST):
            self._task.load_state_dict(without_prefix("task", tensors))
            if self.ema is not None:
                self.ema.module.load_state_dict(without_prefix("ema", tensors))
            load_optimizer_state(self._optimizer.optimizer, without_prefix("optimizer", tensors), values["optimizer"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(values["scaler"])
            self.progress = Progress.restored(values["progress"])
            if self.accelerator.is_main_process:
                self._sums.copy_(tensors["sums"])
        if self.progress.best_epoch and self.progress.step == self.progress.best_epoch * self.steps_per_epoch:
            self._save_best()  # the process may have ended before it was saved

    def take_best(self, best: Checkpoint | None) -> None:
        """Load the weights that were best on validation data into the shipped network.

        Raises:
            RunFolderError: The checkpoint is missing or of another epoch.
        """
        best = checked_best(best, self.progress.best_epoch)
        with _fitting(BEST):
            self.evaluated.load_state_dict(without_prefix("student", best.tensors))

    # -- several processes ----------------------------------------------------------------------

    def _share_statistics(self) -> None:
        """Give all processes the main one's buffers, as the next step would: each has seen images of its own."""
        if self.accelerator.num_processes > 1:
            for buffer in self.evaluated.buffers():
                broadcast(buffer)

    def _mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        return self.accelerator.reduce(values, "mean") if self.accelerator.num_processes > 1 else values

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Leave the generators that training seeds as they were, those of the device included."""
        device = self.accelerator.device
        devices = [device] if device.type == "cuda" else []
        with isolated_random_state(stable_seed(self.seed, "training")), torch.random.fork_rng(devices=devices):
            yield


@contextmanager
def _fitting(name: str) -> Iterator[None]:
    """Turn the errors of a checkpoint of another network into a message."""
    try:
        yield
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{name} does not fit this training ({' '.join(str(error).split())[:300]}); restore the folder from a "
            "copy, or start anew in another one."
        ) from error
