"""Options of a pipeline: from a data set to a distilled student."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .base import DATA_NAME
from .search import ProxyOptions
from .shared import AlgorithmOptions, BudgetOptions, ExecutorOptions, SpaceOptions, WeightDrawOptions
from .shortlist import ChoiceOptions, RungOptions
from .training import (
    DistillerOptions,
    SourceOptions,
    TrainedTeacherOptions,
    TrainingOptions,
    UnlabelledBatchOptions,
)

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

    from ..data.splits import Splits
    from ..resolve.networks import NetworkLike


@dataclass(frozen=True, kw_only=True)
class TeacherTrainingOptions(TrainedTeacherOptions):
    """How a teacher without trained weights is trained.

    Args:
        teacher_epochs: Number of epochs of the teacher, if not those of the student.
        teacher_recipe_options: Fields of the recipe that differ for the teacher, batch_size and lr among them.
        teacher_data_options: Options of the data that differ for the teacher: with {train_limit: null} it sees all
            images of which the student sees a part, with {labels: null} all labels. Validation and test images should
            stay the same.
    """

    teacher_epochs: int | None = None
    teacher_recipe_options: Mapping[str, object] | None = None
    teacher_data_options: Mapping[str, object] | None = None


@dataclass(frozen=True)
class PipelineOptions(
    TrainingOptions,
    ExecutorOptions,
    TeacherTrainingOptions,
    DistillerOptions,
    SourceOptions,
    UnlabelledBatchOptions,
    SpaceOptions,
    BudgetOptions,
    ProxyOptions,
    AlgorithmOptions,
    WeightDrawOptions,
    RungOptions,
    ChoiceOptions,
):
    """Train a teacher or rank sources, search their student, and prove it: distilled, and alone to compare.

    A teacher is trained, unless it has trained weights, or sources, models of other tasks, are ranked by their
    similarity to the data; students are searched for them within a budget; the best candidates are distilled, shortly
    and then in full, as `diswot shortlist` does, and the best of them is the student. It is compared with itself
    trained alone and with the baselines, over several seeds. With `finalists` 0 the winner of the search is the
    student, by its score alone; it is distilled once, and trained alone once. Each stage has a folder of its own in the
    run folder: stopped at any moment, the same pipeline continues, skips finished stages, and ends as if it had never
    stopped. The run folder has report.md, and config.yaml with all options: `diswot run --config RUN/config.yaml` runs
    it again.

    The default proxy looks at the student alone, whatever it will learn from. One that compares with the teacher, as
    `diswot` does, gets it in the form that `search_teacher` sets.

    Of several `teachers` each is trained unless it has trained weights, in a folder of its own, and a proxy that
    compares with a teacher gets the first. Which of them teaches, and which of several `distillers` is the loss, the
    finalists decide, so that neither goes with `finalists` 0.

    With sources one set of weights, from their ranking, serves twice: the student learns from each by its weight, and
    where the proxy compares with a teacher, a candidate's score is the weighted mean of those against each source. The
    search sees the body of a source, which reads images as it was trained to, under a new classifier for the classes of
    the data with random weights, the same in all draws. So `diswot`, `relation`, `channel_relation` and all other
    proxies that look at features depend on the source's training, while those that look at class maps, predictions or
    the classifier, as `semantic_paper` and `kd` do, compare with a random classifier.

    If no source is near the data, all similarities being 0 or less, the pipeline warns and goes on: a proxy that
    compares with sources weights all alike, and the student is trained on its labels alone, once.

    Args:
        teacher: The network to learn from: a timm name, the CIFAR ResNets included, the run folder of a training, or
            anything else that `as_network` takes. One whose weights are not trained is trained first. The default is
            not used if there are teachers or sources.
        labels: Which training images have labels: a share such as 4%, a number of images, a file of their indices, or
            the indices. The ranking, the search and all trainings, that of a teacher included, look at no other labels;
            for the teacher, teacher_data_options may say otherwise.
        space: The space to search; `diswot spaces` lists the names, and several make one space: '[timm/mobilenetv3,
            timm/vit]'. A name makes the space for the classes and images of the data.
        probe_size: Number of labelled training images that candidates are scored on; by default 64, or all if they are
            fewer.
        search_teacher: The form of the teacher in the search, for proxies that compare with it: random, its
            architecture with random weights, as in DisWOT, or trained. Sources keep their weights. With
            teacher_classes='adapt', the classifier of a trained teacher is fitted before the search.
        finalists: Number of candidates of the search that are trained, those of other scores included; 0 takes the
            winner by its score alone, under one teacher with one distiller.
        compare: Train the student alone as well.
        out: The run folder. Stopped at any moment, the same pipeline with the same folder continues. Python has no
            default.
    """

    OUT: ClassVar[str | None] = "runs/run"

    dataset: Splits | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    teacher: NetworkLike | str | None = "cifar_resnet56"
    space: SearchSpace | str | Sequence[str] = "nasbench201"
    probe_size: int | None = None
    search_teacher: str = "random"
    compare: bool = True
