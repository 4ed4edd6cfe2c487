"""Options of a ranking of sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Options
from .shared import DataSetOptions, ExecutorOptions, LabelOptions, RunOptions

if TYPE_CHECKING:
    from ..resolve.networks import NetworkLike
    from ..resolve.sources import Sources
    from ..sources.transferability import Measure


@dataclass(frozen=True)
class _SourceModels(Options):
    """The models to rank.

    Args:
        sources: The models, such as '[runs/mnist, resnet18, {model: cifar_resnet20, shortcut: identity, checkpoint:
            x.th, num_classes: 10, mean: [.485, .456, .406], std: [.229, .224, .225]}]': run folders of trainings,
            students, timm names, modules, or mappings with model, checkpoint, pretrained, num_classes, mean, std,
            input_size and options of the model; or a mapping of names to these.
    """

    sources: Sources | Mapping[str, str | Mapping[str, object]] | Sequence[str | Mapping[str, object]] | str | None = (
        None
    )


@dataclass(frozen=True)
class RankSourcesOptions(RunOptions, ExecutorOptions, LabelOptions, DataSetOptions, _SourceModels):
    """Rank models of other tasks by how near they are to a data set, without training.

    Each source is run once on the images of all draws, without augmentation; all measures share its features. Only
    labelled training images are used; they are held in memory as bytes, and one source at a time. Stopped at any
    moment, the same ranking with the same run folder continues, and one with more sources measures those alone. The run
    folder stands for the ranked sources in other jobs: `diswot distill --sources RUN`, `diswot search --teacher RUN`.
    Its config.yaml holds all options: `diswot sources --config RUN/config.yaml` runs it again.

    Args:
        measures: The measures, such as '[parc, knn]', the first of which orders the sources, or all, which leaves out
            those that need a reference if there is none; `diswot measures` lists the names.
        images: Number of labelled images in a draw, of each class as many as of others, as far as there are enough.
        image_draws: Number of draws of images, over which mean and spread are taken.
        reference: The model that rsa compares with: a model of the target, or one that is known to suit it.
    """

    OUT: ClassVar[str | None] = "runs/sources"

    _: KW_ONLY
    measures: str | Measure | Sequence[str | Measure] = "parc"
    images: int = 500
    image_draws: int = 5
    reference: NetworkLike | str | None = None
