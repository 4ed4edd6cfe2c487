"""Options of a shortlist: the best of a study are trained, and one of them is proven."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .base import DATA_NAME, Options
from .shared import ExecutorOptions
from .training import (
    DistillerOptions,
    SourceOptions,
    TrainedTeacherOptions,
    TrainingOptions,
    UnlabelledBatchOptions,
)

if TYPE_CHECKING:
    from ..data.splits import Splits
    from ..distillation.combination import Specification
    from ..resolve.networks import NetworkLike
    from ..study.study import Study


@dataclass(frozen=True, kw_only=True)
class RungOptions(Options):
    """How candidates of a study are shortened to one that is proven.

    Args:
        finalists: Number of the study's candidates that are trained, those of other scores included.
        other_scores: Other scores whose best candidates get a place each, at most one of three places: params, macs, or
            proxies that need no teacher, such as params,nwot or '[]'. They are a safety net, since a bad score sinks a
            shortlist. Proxies are computed on the best 50 of the study. By default params, macs and nwot.
        baselines: Networks that take part beside the finalists, such as resnet18,mobilenetv3_small_100: timm names, run
            folders, or anything else that `as_network` takes; the text of an architecture that has commas stays whole
            in a YAML list, such as '["w0=16,wm=2.25,depth=12,group_size=8,se_ratio=0"]'. Each of them gets a full
            training and is compared with the pick, whatever its budget and its place in rung 1. The largest candidate
            within the budget takes part as well; it gets a full training if it is the best baseline of rung 1.
        rung_shares: Shares of the epochs that the trainings of each rung have, the last one 1, such as 0.1,0.3,1.
            Each training is one of its own, whose schedule ends with its epochs. By default 0.06 and 1.
        rung_keep: Number of candidates that go on from each rung but the last, beside the baselines that you named,
            such as 5,2 for three rungs; by default 3.
        verdict_seeds: Number of full trainings of the pick, distilled and alone, and of the baselines that were trained
            in full; differences have an interval from 2 on.
    """

    finalists: int = 10
    other_scores: Sequence[str] | str | None = None
    baselines: Sequence[NetworkLike | str] | NetworkLike | str | None = None
    rung_shares: Sequence[float] | float | None = None
    rung_keep: Sequence[int] | int | None = None
    verdict_seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(Options):
    """Teachers and distillers to choose from by short trainings, before the finalists are trained in full.

    Args:
        teachers: Several teachers to choose from, in place of the one, such as runs/t1,runs/t2, or
            my_networks.py:small,my_networks.py:large, functions of your own that load the weights of their network. The
            smallest finalist within the budget is distilled by each for the epochs of rung 1, with two seeds, and the
            best teacher teaches all.
        distillers: Several distillers to choose from, in place of the one, such as kd,dkd. The first is that of
            rung 1; its best finalist within the budget is distilled with each, with two seeds, and the best distiller
            is that of the later rungs.
    """

    teachers: Sequence[NetworkLike | str] | str | None = None
    distillers: Sequence[Specification | Mapping[str, object] | str] | str | None = None


@dataclass(frozen=True)
class ShortlistOptions(
    TrainingOptions,
    ExecutorOptions,
    UnlabelledBatchOptions,
    TrainedTeacherOptions,
    DistillerOptions,
    SourceOptions,
    RungOptions,
    ChoiceOptions,
):
    """Train the best candidates of a search, shortly and then fully, and prove the best of them.

    The finalists are the best of the study, by its score and by others, and the baselines. Rung 1 distils each of them
    for a share of the epochs; the best 3 are distilled in full, and beside them each baseline that the user named and
    the best of all baselines. Each rung is ordered by validation images alone. In the last rung, all that might be the
    best get a second seed: the best two, and those whose mean accuracies differ from the best by no more than the
    spread of images and seeds. The best mean is the pick. The verdict is made on test images, which nothing has looked
    at before: the pick distilled against the same network trained alone, and against each of those baselines, with
    intervals over paired seeds.

    Each training has a run folder of its own in that of the shortlist: stopped at any moment, the same shortlist
    continues and ends as if it had never stopped. A candidate that cannot be trained is out with its reason. The run
    folder has report.md, pictures, finalists.csv, contenders.csv (teachers and distillers that were chosen from) and
    result.json, and stands for the distilled student wherever a network is named. The study's run folder remembers the
    finalists, and has a picture of them.

    Args:
        study: The search whose candidates are trained: its run folder, or the study. It scored them for images of one
            size and a number of classes, which the data must have as well, since its costs and its budget hold for
            these alone.
        teacher: The network to learn from: such as the run folder of a training, or a timm name with pretrained
            weights or a checkpoint. The default is not used if there are teachers or sources.
        compare: Train the pick alone as well.
        random_teacher: A teacher with random weights is meant, such as a control; otherwise it is refused, since a
            student that learns from noise proves nothing.
        out: The run folder. Stopped at any moment, the same shortlist with the same folder continues. Python has no
            default.
    """

    OUT: ClassVar[str | None] = "runs/shortlist"

    study: Study | str | os.PathLike[str] = "runs/search"
    teacher: NetworkLike | str | None = "runs/train"
    dataset: Splits | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    compare: bool = True
    random_teacher: bool = False
