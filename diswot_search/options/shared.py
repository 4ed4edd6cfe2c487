"""Groups of options that several jobs share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from .base import Options

if TYPE_CHECKING:
    import numpy as np

    from ..data.splits import Splits
    from ..study.budget import Budget


@dataclass(frozen=True, kw_only=True)
class SeedOptions(Options):
    """The random choices of a job.

    Args:
        seed: Seed of all random choices of the job.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ProgressOptions(Options):
    """How a job shows that it goes on.

    Args:
        progress: Show a progress bar where standard error is a terminal.
    """

    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(Options):
    """Where a job runs, and where its results go.

    Args:
        out: The run folder. Stopped at any moment, the same job with the same folder continues. By default the command
            line writes to a folder in runs/, and Python keeps everything in memory.
        device: auto, cpu, cuda or mps.
    """

    out: str | os.PathLike[str] | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class RunOptions(ProgressOptions, PlaceOptions, SeedOptions):
    """The options that every long job has: its seed, its places and its progress."""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(Options):
    """How networks compute scores.

    Args:
        channels_last: Keep feature maps in NHWC memory order.
        bf16: Compute under bfloat16 autocast.
    """

    channels_last: bool = True
    bf16: bool = False


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """The most that an architecture may cost.

    Args:
        budget: All limits at once: a Budget, or a mapping with the names of the four options below, which then cannot
            be set.
        max_params: Largest number of trainable parameters.
        max_macs: Largest number of multiply-accumulates of one image.
        max_latency_ms: Largest median time of one forward pass, in milliseconds, on the device of the study.
        latency_batch_size: Number of images in that pass.
    """

    budget: Budget | Mapping[str, object] | None = None
    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    latency_batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class SpaceOptions(Options):
    """How a search space is made that is given by its name.

    Args:
        space_options: Options of the space, such as --space_options.channels 8.
    """

    space_options: Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(Options):
    """How a teacher is made that is given by its name.

    Args:
        teacher_checkpoint: File of the teacher's trained weights.
        teacher_options: Options of the teacher's model. With trained true or false a module is taken as such, whatever
            its weights tell.
    """

    teacher_checkpoint: str | os.PathLike[str] | None = None
    teacher_options: Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class WeightDrawOptions(Options):
    """How often the weights of a network are drawn.

    Args:
        weight_draws: Number of weight draws that each score is averaged over, with the seeds seed, seed + 1 and so on.
            Studies whose seeds are less than weight_draws apart share some of them.
    """

    weight_draws: int = 1


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """The labelled subset of the training images.

    Args:
        labels: Which training images have labels: a share such as 4%, a number of images, a file of their indices, or
            the indices.
        labels_per_class: Number of labelled training images of each class; give this or labels.
    """

    labels: int | str | Sequence[int] | np.ndarray | os.PathLike[str] | None = None
    labels_per_class: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """How a data set is opened that is given by its name.

    Args:
        data_options: Options of the data set, such as --data_options.root data.
    """

    data_options: Mapping[str, object] | None = None


@dataclass(frozen=True)
class DataSetOptions(DataOptions):
    """The data set of a job.

    Args:
        dataset: The data set: digits, PATH.npz, torch/cifar100, folder/PATH, ..., or splits.
    """

    dataset: str | Splits = "digits"
    _: KW_ONLY


POWER = 10.0
"""Default exponent of the similarities. The larger it is, the more the most similar sources count."""


@dataclass(frozen=True, kw_only=True)
class WeightingOptions(Options):
    """How much each ranked source counts.

    Args:
        weighting: weighted by similarity, nearest source only, uniform, or a mapping of names to weights.
        measure: The measure that similarities are taken from; `diswot measures` lists the names. By default the first
            measure of the ranking, or parc.
        power: Weights are similarities to this power, as shares of their sum.
    """

    weighting: Mapping[str, float] | str = "weighted"
    measure: str | None = None
    power: float = POWER


@dataclass(frozen=True, kw_only=True)
class AlgorithmOptions(Options):
    """How the space is searched.

    Args:
        algorithm: evolution, ageing, nsga2, random or exhaustive.
        algorithm_options: Options of the algorithm, such as --algorithm_options.population 50.
        evaluations: Largest number of architectures to score, those of an earlier run included; by default 1000, for
            exhaustive all.
    """

    algorithm: str = "evolution"
    algorithm_options: Mapping[str, object] | None = None
    evaluations: int | None = None
