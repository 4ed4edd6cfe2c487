"""Options of trainings: of a network on labels alone, and of a student under a teacher or under sources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from .base import DATA_NAME, Options
from .shared import (
    DataOptions,
    LabelOptions,
    RunOptions,
    SpaceOptions,
    TeacherOptions,
    TrackerOptions,
    WeightingOptions,
)

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

    from ..data.splits import Splits
    from ..distillation.combination import Specification
    from ..resolve.networks import NetworkLike
    from ..resolve.sources import Sources
    from ..sources.ranking import SourceRanking
    from ..training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """How a network is trained.

    Args:
        recipe: cifar, imagenet, finetune, or a Recipe.
        epochs: Number of epochs, if not the recipe's; its schedule is scaled to them.
        batch_size: Number of images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        recipe_options: Other fields of the recipe and of its augmentation, such as --recipe_options.precision bf16.
        rule: Which weights are shipped and tested: best on validation images, or those of the last epoch.
        best_by: The measure on validation images that chooses the best epoch: accuracy, balanced_accuracy, macro_f1 or
            loss.
        class_weights: Weights of the classes in the cross entropy: balanced, as in scikit-learn, in inverse proportion
            to their numbers of labelled training images; or a weight for each class, by name, as in
            '{malignant: 20}', where others have weight 1, or in order. By default all classes count alike.
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
    """

    recipe: Recipe | str = "cifar"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    recipe_options: Mapping[str, object] | None = None
    rule: str = "best"
    best_by: str = "accuracy"
    class_weights: Mapping[Any, Any] | Sequence[Any] | str | None = None
    checkpoint_minutes: float = 10.0


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions, TrackerOptions, DataOptions, LabelOptions, RecipeOptions):
    """A training, whatever the network learns from.

    Losses that need labels, distillers included, see the labelled subset alone; an epoch has as many steps as all
    training images fill batches. Classes that inherit declare the field `dataset`, at its position in their function.

    Args:
        dataset: The data: digits, PATH.npz, torch/cifar100, a folder of images or another name that create_splits
            knows, or the splits.
        seed: Seed of the initial weights, the order of the images and the augmentation. The images to validate and to
            test on depend on --data_options.seed instead.
    """

    if TYPE_CHECKING:

        @property
        def dataset(self) -> Splits | os.PathLike[str] | str: ...


@dataclass(frozen=True, kw_only=True)
class UnlabelledBatchOptions(Options):
    """How many unlabelled images are looked at.

    Args:
        unlabelled_batch_size: Number of unlabelled images in a step. By default as many as labelled ones for sources,
            or the same images if all are labelled, and seven times as many for fixmatch.
    """

    unlabelled_batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkSpaceOptions(SpaceOptions):
    """The space of an architecture that is to be trained.

    Args:
        space: The space of an architecture; `diswot spaces` lists the names.
    """

    space: SearchSpace | str | Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class DistillerOptions(Options):
    """The losses that a student learns from a teacher by.

    Args:
        distiller: Names that `diswot distillers` lists, joined by "+", each with its weight before it if that is not
            the customary one, as in kd+2*diswot; or a mapping of names to weights or to mappings of weight and
            options. By default kd.
        ce_weight: Factor of the cross entropy; by default the customary one of the distillers.
    """

    distiller: Specification | Mapping[str, object] | Sequence[str] | str | None = None
    ce_weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions(WeightingOptions):
    """How a student learns from sources, each through a head of its own that is not shipped.

    Args:
        sources: Models of other tasks to learn from in place of a teacher: a ranking or its run folder, or such as
            '[runs/mnist, resnet18, {model: cifar_resnet20, checkpoint: FILE, num_classes: 10}]', or a mapping of names
            to these. Sources teach on all training images. If none of them is near the task, the student is trained on
            labels alone, with a warning.
        lam: Lambda, the factor of the labelled images' cross entropy; that of the sources is 1 - lambda.
        source_view: The views that sources predict: fixed, each image once and as it is, or augmented, the view that
            the student sees.
    """

    sources: Sources | SourceRanking | Mapping[str, Any] | Sequence[Any] | str | None = None
    lam: float = 0.8
    source_view: str = "fixed"


@dataclass(frozen=True, kw_only=True)
class TrainedTeacherOptions(TeacherOptions):
    """How the teacher of a training is made.

    Args:
        teacher_pretrained: Let timm fetch its pretrained weights of the teacher.
        teacher_options: Options of the teacher's model. With trained true or false a module is taken as such, whatever
            its weights tell; mean, std and input_size (channels, height, width) describe the images of a trained
            teacher, to which those of the data are converted.
        teacher_classes: Which classes a teacher of other classes than those of the data teaches: adapt fits a new
            classifier to its features of the labelled images first; a list names the teacher's class for each of the
            data's, and a mapping does so by name, as in '{cat: 281}'. By default its own: distillers that read
            features alone need no others.
    """

    teacher_pretrained: bool = False
    teacher_classes: Mapping[str, int] | Sequence[int] | str | None = None


@dataclass(frozen=True)
class TrainOptions(TrainingOptions, UnlabelledBatchOptions, NetworkSpaceOptions):
    """Train a network on labels alone: a teacher, or a student to compare with.

    Stopped at any moment, the same training with the same run folder continues, and on a CPU it ends with the weights
    of an uninterrupted run, bit for bit. The run folder's config.yaml holds all options: `diswot train --config
    RUN/config.yaml` runs it again. On SIGINT the step at hand is finished and the state stored; a second one stops at
    once. Under `accelerate launch` or torchrun all processes train one network.

    Args:
        model: The network to train: a timm name, the CIFAR ResNets included, the run folder of a search (its winner),
            an architecture of the space, a module, or anything else that `as_network` takes. With
            --model_options.new_classifier true the run folder of a training on other classes, to go on from.
        model_options: Options of the model, such as --model_options.pretrained true.
        unlabelled: An objective on images without labels: fixmatch. By default none.
        unlabelled_options: Options of that objective, such as --unlabelled_options.threshold 0.9.
    """

    OUT: ClassVar[str | None] = "runs/train"

    model: NetworkLike | str = "cifar_resnet56"
    dataset: Splits | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    model_options: Mapping[str, object] | None = None
    unlabelled: str | None = None
    unlabelled_options: Mapping[str, object] | None = None


@dataclass(frozen=True)
class DistillOptions(
    TrainingOptions,
    UnlabelledBatchOptions,
    NetworkSpaceOptions,
    TrainedTeacherOptions,
    DistillerOptions,
    SourceOptions,
):
    """Train a student under a teacher of its task, or under sources: models of related tasks.

    Stopped at any moment, the same training with the same run folder continues, and on a CPU it ends with the weights
    of an uninterrupted run, bit for bit. The run folder's config.yaml holds all options: `diswot distill --config
    RUN/config.yaml` runs it again. On SIGINT the step at hand is finished and the state stored; a second one stops at
    once. Under `accelerate launch` or torchrun all processes train one student.

    Args:
        student: The network to train: the run folder of a search (its winner), an architecture of the space, a timm
            name, a module, or anything else that `as_network` takes.
        teacher: The network to learn from, likewise: such as the run folder of a training, or a timm name with
            pretrained weights or a checkpoint. The default is not used if there are sources.
        student_options: Options of the student's model.
    """

    OUT: ClassVar[str | None] = "runs/distill"

    student: NetworkLike | str = "runs/search"
    teacher: NetworkLike | str | None = "runs/train"
    dataset: Splits | os.PathLike[str] | str = field(default="digits", metadata=DATA_NAME)
    _: KW_ONLY
    student_options: Mapping[str, object] | None = None
