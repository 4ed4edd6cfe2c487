"""Options of a sweep, many trainings over a grid of options, and of the table of trainings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .base import DATA_NAME, SEVERAL, Options
from .shared import CodeOptions, ExecutorOptions
from .training import (
    DistillerOptions,
    NetworkSpaceOptions,
    SourceOptions,
    TrainedTeacherOptions,
    TrainingOptions,
    UnlabelledBatchOptions,
)

if TYPE_CHECKING:
    from ..data.splits import Splits
    from ..resolve.networks import NetworkLike


@dataclass(frozen=True, kw_only=True)
class BaselineOptions(Options):
    """The row of a table of trainings that all others are compared with.

    Args:
        baseline: Values of the trainings to compare with, such as '{distiller: kd}'. Each row is compared with the
            baseline that has its other values, over the seeds that both have.
    """

    baseline: Mapping[str, object] | None = None


@dataclass(frozen=True)
class SweepOptions(
    TrainingOptions,
    ExecutorOptions,
    UnlabelledBatchOptions,
    NetworkSpaceOptions,
    TrainedTeacherOptions,
    DistillerOptions,
    SourceOptions,
    BaselineOptions,
):
    """Train a network many times over a grid of options, and compare the trainings in one table.

    Each combination of the grid is a cell: a distillation, as `diswot distill` makes it, or, without a teacher and
    sources, a training on labels alone, as of `diswot train`. A cell has a run folder of its own in the run folder of
    the sweep, named after its values: `diswot distill --config RUN/CELL/config.yaml` runs it again. All cells are
    checked before the first one is trained. A cell that fails is reported with its reason, and the others go on.

    The table has a row for each combination without the seed: mean and standard deviation over the seeds, and paired
    differences to a baseline. It is written as table.csv, table.md, table.tex, table.png and result.json. Stopped at
    any moment, the same sweep continues, and more values or seeds extend a finished one.

    Args:
        student: The network to train, as `diswot distill` takes it: such as a timm name or the run folder of a search.
        teacher: The network to learn from, likewise. By default there is none, and networks are trained on labels
            alone, unless there are sources or the grid has teachers.
        grid: Options by name, each with a list of values, such as '{distiller: [kd, dkd], seed: [0, 1, 2]}'. All
            options of the trainings may be in it, those in a mapping too: recipe_options.label_smoothing. A list of
            grids has the cells of each of them: '[{teacher: [null], seed: [0, 1]}, {teacher: [runs/t], seed: [0, 1]}]'.
        out: The run folder. Stopped at any moment, the same sweep with the same folder continues. Python has no
            default.
        student_options: Options of the student's model.
        unlabelled: An objective on images without labels, for cells without a teacher: fixmatch. By default none.
        unlabelled_options: Options of that objective, such as --unlabelled_options.threshold 0.9.
        retry_failed: Train again what failed in an earlier run of the folder.
    """

    OUT: ClassVar[str | None] = "runs/sweep"

    student: NetworkLike | str | None = None
    teacher: NetworkLike | str | None = None
    dataset: Splits | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    grid: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None
    student_options: Mapping[str, object] | None = None
    unlabelled: str | None = None
    unlabelled_options: Mapping[str, object] | None = None
    retry_failed: bool = False


@dataclass(frozen=True)
class TabulateOptions(CodeOptions, BaselineOptions):
    """Show trainings in one table: mean and standard deviation over seeds, and differences to a baseline.

    Rows are the combinations of the options that differ between the trainings, apart from their seeds.

    Args:
        runs: Run folders of trainings and of sweeps. Other folders and files are left out and named.
        format: terminal, csv, markdown or latex.
    """

    runs: Sequence[str] = field(metadata=SEVERAL)
    _: KW_ONLY
    format: str = "terminal"
