"""Options of a search."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from .base import DATA_NAME, Options
from .shared import (
    AlgorithmOptions,
    BudgetOptions,
    DataOptions,
    ExecutorOptions,
    LabelOptions,
    PrecisionOptions,
    RunOptions,
    SpaceOptions,
    TeacherOptions,
    TrackerOptions,
    WeightDrawOptions,
    WeightingOptions,
)

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.space import Architecture, SearchSpace

    from ..data.probe import Probe
    from ..networks.network import Network, TeacherBank
    from ..proxies.aggregate import RankAggregate
    from ..proxies.proxy import Proxy, ProxyFunction
    from ..sources.ranking import SourceRanking

DEFAULT_PROXY = "effective_capacity"
"""The score: it needs no teacher and works on every kind of network; see `proxies.capacity`."""


@dataclass(frozen=True, kw_only=True)
class ProxyOptions(Options):
    """The score of an architecture.

    Args:
        proxy: The score: a name that `diswot proxies` lists, such as diswot, which needs a teacher; an aggregate such
            as "log_rank(nwot, macs)", which ranks all that has been scored; or a function of the student's and the
            teacher's readings. The default, effective_capacity, needs no teacher: it is how much of a network there is
            and how much of it can be used, in nats.
    """

    proxy: str | Proxy | RankAggregate | ProxyFunction = DEFAULT_PROXY


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(Options):
    """How a probe is drawn that is given by the name of a data set.

    Args:
        batch_size: Number of images in the probe; by default 64, or all labelled images of a ranking's data if they
            are fewer.
        probes: Number of probes that each score is averaged over.
        probe_options: Options of the probe, such as --probe_options.root data.
    """

    batch_size: int | None = None
    probes: int = 1
    probe_options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SearchOptions(
    RunOptions,
    ExecutorOptions,
    TrackerOptions,
    PrecisionOptions,
    DataOptions,
    LabelOptions,
    WeightingOptions,
    ProbeOptions,
    TeacherOptions,
    SpaceOptions,
    WeightDrawOptions,
    BudgetOptions,
    AlgorithmOptions,
    ProxyOptions,
):
    """Search a space for the best student, without training.

    Stopped at any moment, the same search with the same run folder continues and ends as if it had never stopped; with
    more evaluations, a finished search is continued. The run folder's config.yaml holds all options: `diswot search
    --config RUN/config.yaml` runs it again. On SIGINT the candidate at hand is finished and the state written; a second
    one stops at once.

    Args:
        space: The space to search; `diswot spaces` lists the names, and several make one space: '[timm/mobilenetv3,
            timm/vit]'. A name makes the space for the classes and images of the probe.
        teacher: The reference network for proxies that compare with a teacher: a timm name, the CIFAR ResNets included,
            an architecture of the space, a module, a Network, or a TeacherBank, which is several with weights. Networks
            that are given by name have random weights unless there is a checkpoint. It may also be a ranking of sources
            or its run folder: scores are then weighted means of those against each source, on labelled training images
            of the ranking's data. The default proxy needs no teacher.
        probe: The batch that scores are computed on: the name of a data set (digits, PATH.npz, torch/cifar100, a folder
            of images, ...), a Probe, or several to average over. By default digits, or the data and labels of the
            ranking.
        asynchronous: Propose one more candidate whenever a worker is free, rather than a generation when all of the one
            before are scored. No worker waits, but the candidates depend on the order in which workers finish. That
            order is stored, so a search that continues repeats it.
    """

    OUT: ClassVar[str | None] = "runs/search"

    space: SearchSpace | str | Sequence[str] = "nasbench201"
    teacher: Network | TeacherBank | SourceRanking | nn.Module | Architecture | str | None = None
    probe: Probe | Sequence[Probe] | os.PathLike[str] | str | None = field(default=None, metadata=DATA_NAME)
    _: KW_ONLY
    asynchronous: bool = False
