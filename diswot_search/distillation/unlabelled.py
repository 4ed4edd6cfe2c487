"""What a student learns from images without their labels: sources' predictions of them, or its own."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import Augmentation
from ..image_sets import ImageSet
from ..run_folder import StudyError, write_atomically
from ..seeding import isolated_random_state, stable_seed
from .base import Features, Shapes

VIEWS = ("fixed", "augmented")
_READ_AT_ONCE = 256
_PREDICTIONS = "probabilities"
_ON_DEVICE = 2**30
"""Bytes up to which predictions lie where the student is trained; more stay in the machine's memory."""


class UnlabelledError(ValueError):
    """What is to be learnt from unlabelled images is asked for wrongly, or cannot be learnt by this student."""


@dataclass(frozen=True)
class Views:
    """Unlabelled images of a training step.

    Attributes:
        images: V x B x C x H x W between 0 and 1: each image in V views.
        indices: B places in the training set.
    """

    images: Tensor
    indices: Tensor


class UnlabelledLoss(nn.Module, ABC):
    """A loss on images whose labels are not looked at, with what it trains beside the student.

    Attributes:
        terms: Names of the parts of the loss.
        notes: Names of what else is measured.
        reads: What it reads of the student, names of `READABLE`.
        ce_weight: Factor of the labelled images' cross entropy beside it.
    """

    terms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("logits",)
    ce_weight: float = 1.0

    @abstractmethod
    def augmentations(self, usual: Augmentation) -> tuple[Augmentation, ...]:
        """How the images are changed for each view.

        Args:
            usual: What is done to labelled images.
        """

    def prepare(self, images: ImageSet, accelerator: Accelerator) -> None:
        """Compute what is needed once.

        Args:
            images: Those that the views are of.
            accelerator: Knows the device and the processes.
        """

    @abstractmethod
    def forward(self, student: Features, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted parts of the loss by name, and what else is measured, by name.

        Args:
            student: What it gave for all views, one after the other.
            views: The images.
        """


Predictor = Callable[[Tensor], Tensor]
"""Gives frozen logits (B, K) for images (B, C, H, W) between 0 and 1."""


@dataclass(frozen=True)
class WeightedSource:
    """A source that a student learns from.

    Attributes:
        name: What it is called.
        classes: Classes that it tells apart.
        weight: Its share of all sources' loss, above 0.
        load: Brings it to the device.
        identity: Tells it from all others, by its weights and by how it sees images.
    """

    name: str
    classes: int
    weight: float
    load: Callable[[], Predictor]
    identity: str = ""


class SourceDistillation(UnlabelledLoss):
    """Sources teach a student their own tasks on the target's images, each through a head of its own.

    The loss is (1 - lam) sum_s alpha_s L_s beside lam times the cross entropy of the labelled images. L_s is the mean
    cross entropy between a source's softmax and that of its head, a linear layer on the classifier's input.
    Source: Borup, Phoo and Hariharan, "Distilling from Similar Tasks for Transfer Learning on a Budget", ICCV 2023.

    Where the view is fixed, a source is on the device only while it predicts all images, and its predictions are kept.

    Args:
        student: Shapes of the student.
        sources: The sources, at least one; their weights alpha_s sum to 1.
        lam: Factor lambda of the labelled images' loss, 0 to 1.
        view: "fixed": a source predicts each image once, as it is; "augmented": it predicts the view that the student
            sees.
        seed: Of the heads' first weights, which depend on it and on the source's name alone.
        folder: Where predictions are kept for other runs on the same images, if anywhere.

    Raises:
        UnlabelledError: The student has no linear classifier.
    """

    reads = ("pooled",)

    def __init__(
        self,
        student: Shapes,
        sources: Sequence[WeightedSource],
        *,
        lam: float = 0.8,
        view: str = "fixed",
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if student.pooled is None:
            raise UnlabelledError(
                f"{student.name} does not end in a linear classifier, so that there are no features that further "
                "heads could share with it; choose another student."
            )
        self.ce_weight = lam
        self.sources = tuple(sources)
        self.terms = tuple(f"source {source.name}" for source in sources)
        self.view = view
        self.folder = folder
        self.heads = nn.ModuleList(
            _linear(student.pooled, source.classes, stable_seed(seed, "head", source.name)) for source in sources
        )
        self._tables: list[Tensor] = []
        self._predictors: list[Predictor] = []

    def augmentations(self, usual: Augmentation) -> tuple[Augmentation, ...]:
        return (usual,)

    def prepare(self, images: ImageSet, accelerator: Accelerator) -> None:
        """Predict all images once, where the view is fixed; processes share the work.

        Raises:
            UnlabelledError: A source gives no probabilities for some of the images.
            StudyError: Predictions that were kept are damaged.
        """
        if self.view == "augmented":
            self._predictors = [source.load() for source in self.sources]
            return
        fingerprint = images.fingerprint() if self.folder is not None else ""
        tables = [self._table(source, images, fingerprint, accelerator) for source in self.sources]
        needed = sum(table.nbytes for table in tables)
        place = accelerator.device if needed <= _ON_DEVICE else torch.device("cpu")
        self._tables = [table.to(place) for table in tables]

    def _table(self, source: WeightedSource, images: ImageSet, fingerprint: str, accelerator: Accelerator) -> Tensor:
        """A source's probabilities of all images, (images, K), on the CPU."""
        file = None
        if self.folder is not None:
            digest = hashlib.sha256(f"{source.identity} {fingerprint}".encode()).hexdigest()
            file = self.folder / f"{digest[:32]}.safetensors"
            if _all_see(file, accelerator):
                return _load(file, (len(images), source.classes))
        table = _predict(source, images, accelerator)
        if file is not None and accelerator.is_main_process:
            _store(file, table)
        return table

    def forward(self, student: Features, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert student.pooled is not None
        targets, losses = list(self._targets(views)), {}
        with torch.autocast(student.pooled.device.type, enabled=False):
            for term, source, head, target in zip(self.terms, self.sources, self.heads, targets, strict=True):
                loss = F.cross_entropy(head(student.pooled), target)
                losses[term] = (1 - self.ce_weight) * source.weight * loss
        return losses, {}

    def _targets(self, views: Views) -> Iterator[Tensor]:
        """Each source's probabilities of the images."""
        for table in self._tables:
            yield table[views.indices.to(table.device)].to(views.images.device, torch.float32)
        for predict in self._predictors:
            yield predict(views.images[0]).float().softmax(1)


def _all_see(file: Path, accelerator: Accelerator) -> bool:
    """Whether there is such a file for every process."""
    seen = torch.tensor([float(file.is_file())], device=accelerator.device)
    together = accelerator.num_processes > 1
    return float(accelerator.reduce(seen, "mean") if together else seen) == 1


def _predict(source: WeightedSource, images: ImageSet, accelerator: Accelerator) -> Tensor:
    """A source's probabilities of all images, (images, K), on the CPU."""
    predict = source.load()
    # Half precision, which is exact to .05 %: there may be many images and classes.
    table = torch.zeros(len(images), source.classes, dtype=torch.float16, device=accelerator.device)
    shares = images.batches(
        torch.arange(len(images)),
        _READ_AT_ONCE,
        device=accelerator.device,
        augment=None,
        seed=0,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    for share in shares:
        if len(share.indices):
            table[share.indices] = predict(share.images).softmax(1).half()
    if accelerator.num_processes > 1:
        table = accelerator.reduce(table)
    if strange := int((~table.isfinite()).any(1).sum()):
        raise UnlabelledError(
            f"The source {source.name!r} gives no probabilities for {strange:,} of {len(images):,} images, but NaN or "
            "infinity; leave it out, or give it weight 0."
        )
    return table.cpu()


def _store(file: Path, table: Tensor) -> None:
    """Keep a table; a folder that cannot be written costs other runs the same work again, but not this run."""
    mine = file.with_suffix(f".{os.getpid()}")  # another training may write the same at this moment
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomically(mine, save({_PREDICTIONS: table}))
        mine.replace(file)
    except OSError as error:
        warnings.warn(f"Predictions cannot be kept in {file.parent} ({error}); they are made anew.", stacklevel=2)


def _load(file: Path, shape: tuple[int, int]) -> Tensor:
    try:
        table = load_file(file)[_PREDICTIONS]
    except (SafetensorError, KeyError, OSError) as error:
        raise StudyError(f"{file} is damaged ({error}); remove it, and it is made again.") from error
    if table.shape != shape or not table.isfinite().all():
        raise StudyError(f"{file} does not hold probabilities of {shape[0]:,} images; remove it, and it is made again.")
    return table


def _linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    with isolated_random_state(seed):
        return nn.Linear(inputs, outputs)


class FixMatch(UnlabelledLoss):
    """A student teaches itself: the class it is sure of in a weakly augmented view is that of a strongly augmented one.

    The weak view is augmented as labelled images are; the strong one by RandAugment and an erased rectangle, too. All
    views go through the student together, so that batch statistics are of all of them.
    Source: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020.

    Args:
        threshold: Probability from which on the student is sure of a class, 0 to 1.
        weight: Factor of the loss, at least 0.
        strong: The policy of the strong view, in timm's words.
        erase: Probability that a rectangle of the strong view is erased.

    Raises:
        UnlabelledError: A value out of its range.
    """

    OPTIONS = ("threshold", "weight", "strong", "erase")

    terms = ("fixmatch",)
    notes = ("confident",)

    def __init__(
        self,
        threshold: float = 0.95,
        weight: float = 1.0,
        strong: str = "rand-m10-n2-mstd101-inc1",
        erase: float = 1.0,
    ) -> None:
        super().__init__()
        check_between("threshold", threshold, 0, 1)
        check_between("weight", weight, 0, math.inf)
        self.threshold = threshold
        self.weight = weight
        self.strong = strong
        self.erase = erase

    def augmentations(self, usual: Augmentation) -> tuple[Augmentation, ...]:
        moved = usual if usual.kind != "none" else replace(usual, kind="crop_flip", padding=0, flip=0.0)
        return usual, replace(moved, auto_augment=self.strong, erase=self.erase)

    def forward(self, student: Features, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weak, strong = student.logits.chunk(2)
        confidence, classes = weak.detach().softmax(1).max(1)
        sure = (confidence >= self.threshold).to(strong.dtype)
        loss = (sure * F.cross_entropy(strong, classes, reduction="none")).mean()
        return {"fixmatch": self.weight * loss}, {"confident": 100 * sure.mean()}


def check_between(name: str, value: Any, lowest: float, highest: float) -> None:
    """Raise an error unless an argument is a number within these bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest:
        allowed = f"at least {lowest:g}" if math.isinf(highest) else f"between {lowest:g} and {highest:g}"
        raise UnlabelledError(f"{name} is {value!r}; it must be a number {allowed}.")
