"""Unlabelled objectives: losses on images without labels, from the predictions of sources or of the student."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.augmentation import Augmentation
from ..data.image_sets import ImageSet
from ..networks.features import Features, Shapes
from ..runtime.checksums import CHECKSUM, ChecksumError, fill_checksum, verify_file
from ..runtime.files import RunFolderError, write_atomically
from ..runtime.seeding import isolated_random_state, stable_seed

VIEWS = ("fixed", "augmented")
"""The views of an image that sources can predict; see `SourceDistillation`."""


_PREDICTION_BATCH = 256


_PREDICTIONS = "probabilities"


_MAX_BYTES_ON_DEVICE = 2**30
"""Predictions up to this size are kept on the device of the student, larger ones in main memory."""


class UnlabelledError(ValueError):
    """An unlabelled objective has a wrong option, or does not fit the student."""


@dataclass(frozen=True)
class Views:
    """The unlabelled images of one training step.

    Attributes:
        images: V views of each image (V, B, C, H, W) with values between 0 and 1.
        indices: Positions (B,) of the images in the training set.
    """

    images: Tensor
    indices: Tensor


class UnlabelledLoss(nn.Module, ABC):
    """A loss on images whose labels are not used, together with its trainable parts.

    Attributes:
        terms: The names of the terms of the loss.
        notes: The names of further measured values.
        reads: The student's features that the loss needs; names from `READABLE`.
        ce_weight: The factor of the cross entropy of labelled images, which is added to the loss.
    """

    terms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("logits",)
    ce_weight: float = 1.0

    @abstractmethod
    def augmentations(self, usual: Augmentation) -> tuple[Augmentation, ...]:
        """Return the augmentation of each view.

        Args:
            usual: The augmentation of labelled images.
        """

    def prepare(self, images: ImageSet, accelerator: Accelerator) -> None:
        """Prepare the loss before training; does nothing by default.

        Args:
            images: The training images from which views are taken.
            accelerator: Gives the device and the processes of the training.
        """

    def in_dry_run(self) -> AbstractContextManager[object]:
        """A context in which the loss can be computed before `prepare`; by default it can be anyway."""
        return nullcontext()

    @abstractmethod
    def forward(self, student: Features, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the loss.

        Args:
            student: The student's features of all views: those of the first view (B, ...), then of the next.
            views: The images.

        Returns:
            The weighted terms of the loss by name, and further measured values by name; all are scalars.
        """


Predictor = Callable[[Tensor], Tensor]
"""A frozen network: computes logits (B, K) of images (B, C, H, W) with values between 0 and 1."""


@dataclass(frozen=True)
class WeightedSource:
    """A source that a student learns from.

    Attributes:
        name: The source's name.
        classes: The number of its classes, K.
        weight: The share of this source in the loss of all sources, above 0.
        load: Loads the source onto the device.
        identity: A string that identifies the source's weights and preprocessing.
    """

    name: str
    classes: int
    weight: float
    load: Callable[[], Predictor]
    identity: str = ""


class SourceDistillation(UnlabelledLoss):
    """The student learns the sources' own tasks on the target's images, with one linear head per source.

    The loss is (1 - lam) sum_s alpha_s L_s, added to lam times the cross entropy of the labelled images. L_s is the
    mean cross entropy between a source's softmax and that of its head, which is a linear layer on the classifier's
    input. Source: Borup, Phoo and Hariharan, "Distilling from Similar Tasks for Transfer Learning on a Budget",
    ICCV 2023.

    With the fixed view, a source is on the device only while it predicts all images. Its predictions are stored.

    Args:
        student: The shapes of the student's features.
        sources: At least one source. The weights alpha_s sum to 1.
        lam: The factor lambda of the labelled images' loss, 0 to 1.
        view: One of `VIEWS`. With "fixed", a source predicts each unchanged image once. With "augmented", it predicts
            the view that the student is given.
        seed: The seed of the heads' initial weights, which depend on it and on the source's name alone.
        folder: The folder in which predictions are stored for other runs on the same images; None to store none.

    Raises:
        UnlabelledError: The student does not end in a linear classifier.
    """

    reads = ("pooled",)

    def __init__(
        self,
        student: Shapes,
        sources: Sequence[WeightedSource],
        *,
        lam: float,
        view: str,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if student.pooled is None:
            raise UnlabelledError(
                f"{student.name} does not end in a linear classifier, so it has no features for the heads of the "
                "sources; choose another student."
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
        """Predict all images once if the view is fixed, with the work divided among processes.

        Raises:
            UnlabelledError: A source gives no probabilities for some of the images.
            RunFolderError: Stored predictions are damaged.
        """
        if self.view == "augmented":
            self._predictors = [source.load() for source in self.sources]
            return
        fingerprint = images.fingerprint() if self.folder is not None else ""
        tables = [self._table(source, images, fingerprint, accelerator) for source in self.sources]
        size = sum(table.nbytes for table in tables)
        device = accelerator.device if size <= _MAX_BYTES_ON_DEVICE else torch.device("cpu")
        self._tables = [table.to(device) for table in tables]

    @contextmanager
    def in_dry_run(self) -> Iterator[None]:
        """In this block, each source is loaded when it predicts the images of a step, and dropped after that."""
        tables, predictors = self._tables, self._predictors
        self._tables, self._predictors = [], [_loaded_anew(source) for source in self.sources]
        try:
            yield
        finally:
            self._tables, self._predictors = tables, predictors

    def _table(self, source: WeightedSource, images: ImageSet, fingerprint: str, accelerator: Accelerator) -> Tensor:
        """Load or compute a source's probabilities of all images, (images, K), on the CPU."""
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
        """Yield each source's probabilities (B, K) of the images of a step."""
        for table in self._tables:
            yield table[views.indices.to(table.device)].to(views.images.device, torch.float32)
        for predict in self._predictors:
            yield predict(views.images[0]).float().softmax(1)


def _loaded_anew(source: WeightedSource) -> Predictor:
    return lambda images: source.load()(images)


def _all_see(file: Path, accelerator: Accelerator) -> bool:
    """Return whether the file exists for every process."""
    exists = torch.tensor([float(file.is_file())], device=accelerator.device)
    if accelerator.num_processes > 1:
        exists = accelerator.reduce(exists, "mean")
    return float(exists) == 1


def _predict(source: WeightedSource, images: ImageSet, accelerator: Accelerator) -> Tensor:
    """Compute a source's probabilities of all images, (images, K), on the CPU."""
    predict = source.load()
    # Half precision has a relative error of 0.05 % and saves memory: there can be many images and classes.
    table = torch.zeros(len(images), source.classes, dtype=torch.float16, device=accelerator.device)
    shares = images.batches(
        torch.arange(len(images)),
        _PREDICTION_BATCH,
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
    if invalid := int((~table.isfinite()).any(1).sum()):
        raise UnlabelledError(
            f"The source {source.name!r} gives no probabilities for {invalid:,} of {len(images):,} images, but NaN or "
            "infinity; leave it out, or give it weight 0."
        )
    return table.cpu()


def _store(file: Path, table: Tensor) -> None:
    """Store a table. If this fails, a warning is given: other runs then have to repeat the work."""
    temporary = file.with_suffix(f".{os.getpid()}")  # another training can write the same file at this moment
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomically(temporary, fill_checksum(save({_PREDICTIONS: table}, {"checksum": CHECKSUM})))
        temporary.replace(file)
    except OSError as error:
        warnings.warn(
            f"Predictions cannot be kept in {file.parent} ({error}); other runs compute them again.", stacklevel=2
        )


def _load(file: Path, shape: tuple[int, int]) -> Tensor:
    try:
        verify_file(file)
        table = load_file(file)[_PREDICTIONS]
    except (ChecksumError, SafetensorError, KeyError, OSError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); remove it, and it is made again.") from error
    if table.shape != shape or not table.isfinite().all():
        raise RunFolderError(
            f"{file} does not hold probabilities of {shape[0]:,} images; remove it, and it is made again."
        )
    return table


def _linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    with isolated_random_state(seed):
        return nn.Linear(inputs, outputs)


class FixMatch(UnlabelledLoss):
    """Confident predictions of weakly augmented views are the targets of strongly augmented views.

    The weak view is augmented like labelled images. The strong view is augmented further, by RandAugment and an erased
    rectangle. All views are passed through the student together, so that batch statistics include all of them.
    Source: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020.

    Args:
        threshold: The probability from which a prediction is confident, 0 to 1.
        weight: The factor of the loss, at least 0.
        strong: The policy of the strong view, in timm's notation.
        erase: The probability that a rectangle of the strong view is erased, 0 to 1.

    Raises:
        UnlabelledError: The threshold or the weight is out of its range.
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
        base = usual if usual.kind != "none" else replace(usual, kind="crop_flip", padding=0, flip=0.0)
        return usual, replace(base, auto_augment=self.strong, erase=self.erase)

    def forward(self, student: Features, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weak, strong = student.logits.chunk(2)
        confidence, classes = weak.detach().softmax(1).max(1)
        confident = (confidence >= self.threshold).to(strong.dtype)
        loss = (confident * F.cross_entropy(strong, classes, reduction="none")).mean()
        return {"fixmatch": self.weight * loss}, {"confident": 100 * confident.mean()}


def check_between(name: str, value: object, lowest: float, highest: float) -> None:
    """Check that an option is a number between two bounds, both included.

    Args:
        name: The option's name in the message.
        value: The option's value.
        lowest: The lower bound.
        highest: The upper bound; infinity for none.

    Raises:
        UnlabelledError: The value is not such a number.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest:
        return
    allowed = f"at least {lowest:g}" if math.isinf(highest) else f"between {lowest:g} and {highest:g}"
    raise UnlabelledError(f"{name} is {value!r}; it must be a number {allowed}.")
