"""Train a student under a teacher or under sources, or a network on labels alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.space import SearchSpace

from ..data.labelled import Labels
from ..data.splits import Splits
from ..distillation.combination import Specification, parse_distillers
from ..resolve.networks import NetworkLike
from ..sources.ranking import POWER
from ..training.recipe import Recipe
from ..training.result import Training
from .supervision import LAM, OPTIONS_OF_SOURCES, Bank, SourceObjective, Weighting, unlabelled_objective
from .training_run import TrainingRun


def distill(
    student: NetworkLike,
    teacher: NetworkLike | None = None,
    dataset: str | Splits = "digits",
    *,
    sources: Bank | None = None,
    weighting: Weighting = "weighted",
    measure: str | None = None,
    power: float = POWER,
    lam: float = LAM,
    source_view: str = "fixed",
    labels: Labels | None = None,
    labels_per_class: int | None = None,
    unlabelled_batch_size: int | None = None,
    distiller: Specification | None = None,
    ce_weight: float | None = None,
    recipe: str | Recipe = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    space: SearchSpace | str | None = None,
    student_options: Mapping[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
) -> Training:
    """Train a student under a teacher of its task, or under sources: models of related tasks.

    With `out` the state lives in a run folder: stopped at any moment, the same call continues, and on a CPU ends with
    the weights of an uninterrupted run, bit for bit. On SIGINT the step at hand is finished and the state stored
    before `KeyboardInterrupt` is raised; a second one raises at once. Under `accelerate launch` or torchrun all
    processes train one student.

    Args:
        student: The network to train: the run folder of a search (its winner), an architecture of `space`, a timm
            name, a module, or anything else that `as_network` takes.
        teacher: The network to learn from, likewise: such as the run folder of a training, or a timm name with
            `teacher_options={"pretrained": True}` or `{"checkpoint": FILE}`.
        dataset: The data: a name that `create_splits` knows, or the splits.
        sources: Models of other tasks to learn from in place of a teacher, as `as_sources` takes them, or their ranking
            as `rank_sources` gives it, or its run folder. Each teaches, on all training images, labelled or not, a head
            of its own, which is left out of what is shipped. If none of them is near the task, the student is trained
            on labels alone, with a warning.
        weighting: How much each source counts: "weighted" by similarity (DistillWeighted), "nearest" only
            (DistillNearest), "uniform", or weights by name.
        measure: What similarity is measured by, see `list_measures`; by default the first of a ranking, else "parc".
        power: p: weights are similarities to this power, as shares of their sum.
        lam: lambda: factor of the labelled images' cross entropy; that of the sources is 1 - lambda.
        source_view: "fixed": sources predict each image once, as it is; "augmented": the view that the student sees.
        labels: Which training images have labels, as for `create_splits`: "4%", how many, a file or indices; what
            needs labels, distillers included, looks at these alone. An epoch has as many steps as all training images
            fill batches.
        labels_per_class: How many of each class have labels.
        unlabelled_batch_size: Images beside the labelled ones of a step for the sources to teach on; by default as
            many as `batch_size`, or where all images are labelled the same ones.
        distiller: What is learnt from the teacher, "kd" unless said otherwise: names joined by "+", each with its
            weight before it if that is not the customary one, as in "kd+2*diswot"; or a mapping of names to weights or
            to mappings of `weight` and options.
        ce_weight: Factor of the cross entropy; by default the customary one of the distillers.
        recipe: How to train: its name, or a recipe.
        epochs: Epochs, if not the recipe's; its schedule is scaled to them.
        batch_size: Images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        recipe_options: Other fields of `Recipe` and of its augmentation.
        space: The space of an architecture.
        student_options: Options of the student, as `as_network` takes them.
        teacher_options: Options of the teacher, likewise.
        data_options: Options of `create_splits`.
        rule: Which weights are shipped and tested: "best" on validation data, or of the "last" epoch.
        seed: Decides the initial weights, the order of the images and the augmentation; what is kept back from the
            training images to validate and test on is the same for all seeds, see `data_options`.
        out: The run folder; None keeps everything in memory.
        device: "auto", "cpu", "cuda" or "mps".
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
        progress: Show a bar where standard error is a terminal.

    Returns:
        The finished training, with the student.

    Raises:
        ValueError: A name, an option or a weight is wrong, or student, teacher, data and distillers do not fit.
        RunFolderError: The run folder cannot be used, or holds another training.
        DivergenceError: The loss is no number any more.
    """
    return _run(distillation_options(locals()))


def train(
    model: NetworkLike,
    dataset: str | Splits = "digits",
    *,
    labels: Labels | None = None,
    labels_per_class: int | None = None,
    unlabelled: str | None = None,
    unlabelled_options: Mapping[str, Any] | None = None,
    unlabelled_batch_size: int | None = None,
    recipe: str | Recipe = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    space: SearchSpace | str | None = None,
    model_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
) -> Training:
    """Train a network on labels alone: a teacher, or a student to compare with. The loop is that of `distill`.

    Args:
        model: The network to train; as the student of `distill`.
        model_options: Its options.
        labels, labels_per_class: As for `distill`.
        unlabelled: What is learnt from images without labels: "fixmatch", or nothing.
        unlabelled_options: Options of that, such as `{"threshold": 0.95}`.
        unlabelled_batch_size: Images of a step that it looks at; by default seven times `batch_size`.
        dataset, recipe, epochs, batch_size, lr, recipe_options, space, data_options: As for `distill`.
        rule, seed, out, device, checkpoint_minutes, progress: As for `distill`.

    Raises:
        ValueError, RunFolderError, DivergenceError: As for `distill`.
    """
    options = dict(locals())
    alone = {"student": options.pop("model"), "student_options": options.pop("model_options")}
    alone["objective"] = unlabelled_objective(options.pop("unlabelled"), options.pop("unlabelled_options"))
    return _run(options | alone | {"teacher": None, "teacher_options": None, "terms": (), "ce_weight": None})


def distillation_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the arguments of `distill` to those of `TrainingRun`.

    Raises:
        ValueError: There is neither a teacher nor sources, or both, or options of one are given with the other.
    """
    rest = dict(options)
    of_sources = {name: rest.pop(name) for name in OPTIONS_OF_SOURCES}
    sources, distiller = rest.pop("sources"), rest.pop("distiller")
    if sources is None:
        if strange := [name for name, default in OPTIONS_OF_SOURCES.items() if of_sources[name] != default]:
            raise ValueError(f"{', '.join(strange)}: options of sources, but there are none; pass `sources=`.")
        if rest["teacher"] is None:
            raise ValueError("No teacher: pass `teacher=` or `sources=`.")
        return rest | {"objective": None, "terms": parse_distillers("kd" if distiller is None else distiller)}
    teacher_options = {"teacher": rest["teacher"], "distiller": distiller, "ce_weight": rest["ce_weight"]}
    reject_teacher_options([name for name, value in teacher_options.items() if value is not None])
    return rest | {"objective": SourceObjective(sources, **of_sources), "terms": ()}


def reject_teacher_options(names: Sequence[str]) -> None:
    """Reject teacher options when sources are given.

    Args:
        names: Names of the teacher options that are given.

    Raises:
        ValueError: There are any.
    """
    if names:
        raise ValueError(
            f"The student learns from sources; {', '.join(names)} cannot be combined with them. A teacher of the same "
            "task may be one of the sources, and lam is the factor of the cross entropy."
        )


def _run(options: dict[str, Any]) -> Training:
    return TrainingRun(**options).run()
