"""Groups of options that several jobs share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from .base import ALIAS, DATA_NAME, Options

if TYPE_CHECKING:
    import numpy as np

    from ..data.splits import Splits
    from ..runtime.executors.base import Executor
    from ..study.budget import Budget


@dataclass(frozen=True, kw_only=True)
class CodeOptions(Options):
    """Code of the user's own.

    Args:
        imports: Code of your own to import first, so that what it registers is known by name: modules or files, such as
            my_code or '[my_space.py, my_proxy.py]'. On the command line also --import, as often as needed. Without it,
            my_module:name and my_file.py:name name what is in a module or file wherever the name of a space, a network,
            a proxy, a distiller, an algorithm, a measure or a recipe is taken.
    """

    imports: str | Sequence[str] | None = field(default=None, metadata={ALIAS: "import"})

    def prepare(self) -> None:
        """Import the user's code.

        Raises:
            OwnCodeError: There is no such code, or it fails.
        """
        if self.imports is not None:
            from search_spaces.plugins import import_code

            import_code(self.imports)


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
        progress: Show the progress on standard error: a bar in a terminal, lines anywhere else: one for each epoch, one
            for 100 candidates or 30 seconds.
        quiet: Show no progress at all, like progress false.
    """

    progress: bool = True
    quiet: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether progress is shown, in whatever form."""
        return self.progress and not self.quiet


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
class RunOptions(ProgressOptions, PlaceOptions, SeedOptions, CodeOptions):
    """The options that every long job has: its code, its seed, its places and its progress."""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(Options):
    """How networks compute scores.

    Args:
        channels_last: Keep feature maps in NHWC memory order. On a CPU, strided 1x1 convolutions with fewer than 16
            input channels keep the plain order, since torch (2.14 at least) would write over foreign memory there.
        bf16: Compute under bfloat16 autocast.
    """

    channels_last: bool = True
    bf16: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions(Options):
    """Where the work is computed. Its results are the same for any number of workers with the same threads in each.

    Args:
        workers: Number of worker processes. One computes in this process, unless there is a time limit.
        executor: How workers are made: serial, processes, ray, a name that is registered, or an Executor. By default
            serial for one worker, and processes for more.
        ray_address: Address of a Ray cluster that this machine belongs to, auto or HOST:PORT; the executor is then ray,
            which without an address stays on this machine.
        executor_options: Options of the executor, such as --executor_options.resources '{GPU: 0.25}' for ray.
        devices: Devices that the workers are laid out over in turns, such as cuda:0,cuda:1; by default all use device.
        threads: Number of CPU threads of all workers together, which it has to divide among them; by default as many as
            torch uses.
        candidate_timeout_s: Longest time in seconds of one candidate, or of one training of a sweep or a shortlist. One
            that takes longer fails, and its worker is replaced. The trainings of a pipeline have no limit.
        show_workers: Show a line for each worker with the progress: how many candidates it has finished, the one at
            hand, and for how long.
    """

    workers: int = 1
    executor: str | Executor | None = None
    ray_address: str | None = None
    executor_options: Mapping[str, Any] | None = None
    devices: str | Sequence[str] | None = None
    threads: int | None = None
    candidate_timeout_s: float | None = None
    show_workers: bool = False


@dataclass(frozen=True, kw_only=True)
class TrackerOptions(Options):
    """Where curves go besides the run folder.

    Args:
        trackers: Trackers that accelerate knows and that are installed, such as wandb or '[wandb, mlflow]'. Each call
            begins a new run there, with all curves from the start. Those for TensorBoard are in the run folder anyway.
        tracker_options: Arguments of each tracker by its name, such as --tracker_options.wandb.name first.
    """

    trackers: str | Sequence[str] | None = None
    tracker_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """The limits of a budget and the conditions that they are measured under: the one place that declares them.

    Args:
        max_params: Largest number of trainable parameters.
        max_macs: Largest number of multiply-accumulates of one image.
        max_latency_ms: Largest time of one forward pass where the student ships, in milliseconds, in float32.
        latency_batch_size: Number of images in that pass, and in the one whose memory is counted.
        latency_runtime: Runtime of that pass: onnxruntime, compile, eager or cuda; by default onnxruntime on the CPU
            where it is installed, or else eager.
        latency_threads: Number of threads of that pass.
        max_memory_mb: Largest memory of weights and the peak of activations of one batch, in MB (10^6 bytes): what must
            be there, without what a runtime takes for itself.
        max_size_mb: Largest size of the weights in float32, in MB.
    """

    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    latency_batch_size: int = 1
    latency_runtime: str | None = None
    latency_threads: int = 1
    max_memory_mb: float | None = None
    max_size_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(BudgetLimits, Options):
    """The most that an architecture may cost.

    Args:
        budget: All limits at once: a Budget, or a mapping with the names of the limits, which then cannot be set.
    """

    budget: Budget | Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class SpaceOptions(Options):
    """How a search space is made that is given by its name.

    Args:
        space_options: Options of the space, such as --space_options.channels 8. Each of several spaces gets those that
            it has; a mapping under the name of one holds options of that one alone.
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
        dataset: The data set: digits, PATH.npz, torch/cifar100, a folder of images, ..., or splits.
    """

    dataset: str | os.PathLike[str] | Splits = field(default="digits", metadata=DATA_NAME)
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
        algorithm: evolution, ageing, nsga2, random, exhaustive, or another that `diswot algorithms` lists.
        algorithm_options: Options of the algorithm, such as --algorithm_options.population 50.
        evaluations: Largest number of architectures to score, those of an earlier run included; by default 1000, for
            exhaustive all.
    """

    algorithm: str = "evolution"
    algorithm_options: Mapping[str, object] | None = None
    evaluations: int | None = None
