"""Options of a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .base import DATA_NAME, Options
from .search import DEFAULT_PROXY, ProbeOptions
from .shared import ExecutorOptions, PrecisionOptions, RunOptions, SpaceOptions, TeacherOptions, WeightDrawOptions

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.space import Architecture, SearchSpace
    from search_spaces.tables import AccuracyTable, Frame

    from ..comparison.plan import ProxyLike
    from ..data.probe import Probe
    from ..networks.network import Network


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """How a table of accuracies is read.

    Args:
        column: The column of accuracies; it need not be named if there is only one.
        architecture_column: The column of architectures; by default architecture, arch or depths.
        where: Values that rows must have in other columns, such as --where.dataset cifar10.
        skip_missing: Leave out rows of the table that have no number in the column.
    """

    column: str | None = None
    architecture_column: str | None = None
    where: Mapping[str, str] | None = None
    skip_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(Options):
    """Which architectures of a table are compared.

    Args:
        architectures: The architectures to compare; by default all of the table.
        sample: Number of them to draw, without replacement; a larger sample contains a smaller one.
        include_untrainable: Compare architectures whose output does not depend on the input, too.
        canonical: Let architectures that compute the same function share the score of the simplest of them, as a search
            does. Otherwise every network is scored as it is written, dead and doubled layers included, as published
            comparisons do.
    """

    architectures: Iterable[str | Architecture] | None = None
    sample: int | None = None
    include_untrainable: bool = False
    canonical: bool = True


@dataclass(frozen=True, kw_only=True)
class ControlOptions(Options):
    """Which controls repeat the proxies that compare with a teacher.

    Args:
        controls: Repeat every proxy that may use the teacher with another teacher, with one of another depth, with the
            samples of the teacher's readings shuffled, and with noise in place of its activations.
        other_teacher: The other teacher; by default cifar_wrn_40_1 with random weights, or cifar_resnet56 if that is
            the teacher. Both end 64 channels wide: a proxy that needs students as wide as the teacher fails otherwise.
        other_depth: The teacher of another depth; by default cifar_resnet20, or cifar_resnet110 if that is the teacher.
    """

    controls: bool = False
    other_teacher: Network | nn.Module | Architecture | str | None = None
    other_depth: Network | nn.Module | Architecture | str | None = None


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions(Options):
    """How scores are compared with accuracies.

    Args:
        bootstrap: Number of resamples of the architectures for confidence intervals; 0 makes none.
        top_k: Number of architectures that count as the best; by default a tenth.
        bins: Number of parameter bins, equally filled.
    """

    bootstrap: int = 1000
    top_k: int | None = None
    bins: int = 5


@dataclass(frozen=True)
class CompareOptions(
    RunOptions,
    ExecutorOptions,
    PrecisionOptions,
    ProbeOptions,
    TeacherOptions,
    SpaceOptions,
    WeightDrawOptions,
    StatisticsOptions,
    ControlOptions,
    SelectionOptions,
    TableOptions,
):
    """Compare proxies with a table of known accuracies: correlation, regret and cost, with error bars.

    Nothing is trained. Parameters and multiply-accumulates are always compared too, and no sign is turned; each
    architecture has its own cost. Stopped at any moment, the same comparison with the same run folder continues. The
    folder keeps every score with all that it depends on, the versions of this package, torch and timm included: another
    comparison there computes only what was never computed. What failed stays so unless retry_failed is set, but a lack
    of memory is no property of an architecture: it ends the comparison and is not stored. On SIGINT the architecture at
    hand is finished; a second one stops at once. The run folder's config.yaml holds all options: `diswot compare
    --config RUN/config.yaml` runs it again.

    Args:
        space: The space that the table is about; `diswot spaces` lists the names. A name makes the space for the
            classes and images of the probe.
        proxies: The proxies to compare, such as '[nwot, "zen*", "log_rank(nwot, macs)"]'; `diswot proxies` lists the
            names. In Python also functions of the student's and the teacher's readings. A proxy that is not of this
            package is identified by its code, its defaults and the values that it closes over; if it closes over an
            object whose value cannot be seen, such as a network, its stored scores are never used again.
        table: Accuracies by architecture: a CSV file, a mapping of architectures to numbers or of columns to cells, or
            in Python a pandas.DataFrame or an AccuracyTable. `diswot import` makes a CSV file of an official benchmark
            file.
        probe: The batch that scores are computed on: the name of a data set (digits, PATH.npz, torch/cifar100, a folder
            of images, ...), a Probe, or one for each weight draw, so that the spread over draws includes the batch.
        teacher: The reference network for proxies that compare with a teacher, as for a search, but one network. Random
            weights unless there is a checkpoint.
        fresh_probes: Draw a probe for each weight draw, so that the spread over draws includes the batch.
        weight_draws: Number of weight draws, with the seeds seed, seed + 1 and so on.
        retry_failed: Compute again what failed in an earlier run of the folder.
    """

    OUT: ClassVar[str | None] = "runs/compare"

    space: SearchSpace | str | Sequence[str] = "nasbench201"
    proxies: ProxyLike | Sequence[ProxyLike] | Sequence[str] | str = DEFAULT_PROXY
    table: AccuracyTable | Frame | Mapping[str, object] | str | os.PathLike[str] | None = None
    probe: Probe | Sequence[Probe] | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    teacher: Network | nn.Module | Architecture | str | None = None
    fresh_probes: bool = False
    retry_failed: bool = False
