"""The teacher of a training: of other classes, adapted to those of the data, and checked before the first step."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from search_spaces.registry import unknown_name_message

from ..data.splits import Splits
from ..distillation.base import DistillerError, OtherClassesError, get_distiller
from ..distillation.combination import Term
from ..networks.conversion import preprocessing_for
from ..networks.features import FeatureReader
from ..networks.frozen import FrozenNetwork
from ..networks.memory_format import to_channels_last
from ..networks.network import Network
from ..networks.recipes import WithClasses, WithFittedClassifier
from ..runtime.run_folder import RunFolder
from ..sources.transferability import balanced_draws
from ..training.exam import EXAMS, MAY_HAVE_SEEN, TeacherExam, examine
from ..training.task import DistillationTask

ADAPT = "adapt"
"""The value of `teacher_classes` that asks for a new classifier."""

CLASSIFIER = "teacher_classifier"
"""Key of the fitted classifier of a teacher in the store of a training."""

WAYS = (
    "Three ways: teacher_classes='adapt' first fits a new classifier of the teacher to the data's classes; "
    "teacher_classes='[4, 0, ...]' names the teacher's class for each of the data's; and sources= in place of the "
    "teacher lets the student learn the teacher's own classes. Distillers that read features alone, such as at or "
    "fitnet, work as they are."
)
"""What can be done where classes are compared that are not the same."""

FITTED_IMAGES = 20_000
"""Largest number of labelled images that a classifier is fitted to."""

_BATCH_SIZE = 64
"""Images that the teacher is run on at a time, and that its accuracy is estimated on before the first step."""

_CHANCE = 0.01
"""Probability that guessing is as often right, above which an accuracy is called one of chance."""

_FAINT = 0.05
"""Share of the way from chance to an accuracy of 1, below which a teacher is said to know hardly more than chance."""


def with_classes(teacher: Network, classes: object, splits: Splits) -> Network:
    """The teacher for the classes of the data.

    Args:
        teacher: The teacher.
        classes: None leaves it as it is; "adapt" gives it a new classifier, which is fitted before the first step; or
            the teacher's class for each of the data's, in order or by name.
        splits: The data.

    Raises:
        ValueError: They are given in another form, or for a teacher without trained weights.
    """
    if classes is None:
        return teacher
    if not teacher.trained:
        raise ValueError(
            f"teacher_classes is given, but the teacher {teacher.name} has random weights, which know no classes."
        )
    if classes == ADAPT:
        recipe = WithFittedClassifier(teacher.recipe, splits.num_classes)
        return replace(teacher, recipe=recipe, num_classes=splits.num_classes)
    chosen = _in_order(classes, splits)
    own = teacher.num_classes
    wrong = [each for each in chosen if type(each) is not int or each < 0 or (own and each >= own)]
    if len(chosen) != splits.num_classes or wrong:
        raise ValueError(
            f"teacher_classes has {len(chosen)} classes{f', {wrong[0]!r} among them' if wrong else ''}; it must have "
            f"one for each of the {splits.num_classes} of the data, whole numbers from 0"
            f"{f' to {own - 1}, those of the teacher {teacher.name}' if own else ''}."
        )
    return replace(teacher, recipe=WithClasses(teacher.recipe, chosen), num_classes=len(chosen))


def _in_order(classes: object, splits: Splits) -> tuple[Any, ...]:
    if isinstance(classes, Mapping) and not splits.classes:
        raise ValueError("The classes of the data have no names; give teacher_classes as a list, in their order.")
    if isinstance(classes, Mapping):
        for name in classes:
            if name not in splits.classes:
                raise ValueError(unknown_name_message("class of the data", str(name), splits.classes))
        return tuple(classes[name] for name in splits.classes if name in classes)
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return tuple(classes)
    raise ValueError(
        f"teacher_classes is {classes!r}; it must be 'adapt', a list of the teacher's classes, or a mapping of the "
        "data's classes to them."
    )


# -- a new classifier ---------------------------------------------------------------------------


class Classifier(NamedTuple):
    """A linear classifier: weight (N, D) and bias (N,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def encoded(self) -> dict[str, object]:
        """The classifier as JSON values."""
        return {
            "shape": list(self.weight.shape),
            "weight": base64.b64encode(self.weight.tobytes()).decode(),
            "bias": base64.b64encode(self.bias.tobytes()).decode(),
        }

    @classmethod
    def decoded(cls, stored: Mapping[str, Any]) -> Classifier:
        """The classifier from `encoded`."""
        weight, bias = (np.frombuffer(base64.b64decode(stored[key]), np.float32) for key in ("weight", "bias"))
        return cls(weight.reshape(stored["shape"]), bias)


def fit_classifier(teacher: FrozenNetwork, splits: Splits, device: torch.device, seed: int) -> Classifier:
    """Fit a new classifier of a teacher to the data's classes, by logistic regression on its pooled features.

    It sees the labelled training images without augmentation, at most `FITTED_IMAGES` of them.

    Args:
        teacher: The teacher.
        splits: The data.
        device: The teacher's device.
        seed: Seed of the choice of images, where there are more.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    places = _labelled(splits)
    if len(places) > FITTED_IMAGES:
        (draw,) = balanced_draws(splits.train.labels[places].numpy(), FITTED_IMAGES, 1, seed)
        places = places[torch.from_numpy(draw)]
    with torch.no_grad():
        first = next(splits.train.batches(places[:2], 2, device=device, augment=None, seed=0))
        reader = FeatureReader(teacher.model, teacher.preprocessor(first.images), "the teacher")
        reader.want(("pooled",))
        pooled = [
            reader.read(teacher.preprocessor(batch.images)).pooled
            for batch in splits.train.batches(places, _BATCH_SIZE, device=device, augment=None, seed=0)
        ]
        reader.release()
    features = torch.cat([part for part in pooled if part is not None]).double().cpu().numpy()
    labels = splits.train.labels[places].numpy()
    has_bias = reader.has_bias
    fit = make_pipeline(
        StandardScaler(with_mean=has_bias), LogisticRegression(max_iter=1000, fit_intercept=has_bias)
    ).fit(features, labels)
    scaler, regression = fit[0], fit[1]
    rows = regression.coef_ / scaler.scale_
    offsets = np.broadcast_to(regression.intercept_, len(rows)) - (rows @ scaler.mean_ if has_bias else 0)
    if len(regression.classes_) == 2:  # one row, the difference of both classes
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight = np.zeros((splits.num_classes, features.shape[1]), np.float32)
    bias = np.full(splits.num_classes, offsets.min() - 10, np.float32)  # of classes without an image
    weight[regression.classes_], bias[regression.classes_] = rows, offsets
    return Classifier(weight, bias)


def set_classifier(teacher: FrozenNetwork, classifier: Classifier) -> None:
    """Give a teacher a fitted classifier."""
    device = next(teacher.model.parameters()).device
    weight, bias = (torch.tensor(part, device=device) for part in classifier)
    teacher.reader.set_classifier(weight, bias)


def with_fitted_classifier(
    network: Network,
    splits: Splits,
    folder: RunFolder,
    device: torch.device,
    *,
    channels_last: bool,
    seed: int,
) -> Network:
    """The teacher with its new classifier fitted, or with that of an earlier run, as a training would fit it.

    Args:
        network: A teacher whose recipe is a `WithFittedClassifier`.
        splits: The data.
        folder: The run folder in which the classifier is stored.
        device: The device to run the teacher on.
        channels_last: Keep feature maps in NHWC memory order.
        seed: Seed of the training.
    """
    recipe = network.recipe
    assert isinstance(recipe, WithFittedClassifier)
    model = network.build(seed).to(device)
    model = to_channels_last(model) if channels_last else model
    preprocessor = preprocessing_for(network, splits, "teacher").preprocessor(channels_last).to(device)
    first = next(splits.train.batches(_labelled(splits)[:2], 2, device=device, augment=None, seed=0))
    reader = FeatureReader(model, preprocessor(first.images), network.name)
    teacher = FrozenNetwork(model, preprocessor, reader)
    stored = folder.recall(CLASSIFIER)
    if stored is None:
        stored = fit_classifier(teacher, splits, device, seed).encoded()
        folder.remember(CLASSIFIER, stored)
    set_classifier(teacher, Classifier.decoded(stored))
    return replace(network, recipe=replace(recipe, classifier=reader.classifier_state()))


# -- before the first step ----------------------------------------------------------------------


def check_classes(teacher: Network, terms: Sequence[Term], num_classes: int) -> None:
    """Refuse a teacher of other classes for distillers that compare classes, before its weights are fetched.

    Raises:
        DistillerError: There is such a distiller; the ways out are named.
    """
    if teacher.num_classes in (None, num_classes):
        return
    names = [term.name for term in terms if "logits" in get_distiller(term.name).reads]
    if names:
        raise DistillerError(
            f"The distiller {names[0]!r} compares classes, but the data has {num_classes} classes and the teacher "
            f"{teacher.name} has {teacher.num_classes}. {WAYS}"
        )


@contextmanager
def naming_ways() -> Iterator[None]:
    """Name the ways out where a distiller compares classes that are not the same."""
    try:
        yield
    except DistillerError as error:
        if isinstance(error.__cause__, OtherClassesError):
            raise DistillerError(f"{error} {WAYS}") from error
        raise


class PreparedTeacher(NamedTuple):
    """A teacher that is ready to teach.

    Attributes:
        exam: Its exam; None if its classes are not those of the data.
        classifier: Its fitted classifier; None without one.
    """

    exam: TeacherExam | None
    classifier: Classifier | None

    def remember(self, folder: RunFolder) -> None:
        """Store it in a run folder, whose job then computes nothing of it again."""
        if self.classifier is not None:
            folder.remember(CLASSIFIER, self.classifier.encoded())
        if self.exam is not None:
            folder.remember(EXAMS[self.exam.part], {"accuracy": self.exam.accuracy, "samples": self.exam.samples})


def prepare_teacher(
    network: Network,
    task: DistillationTask,
    splits: Splits,
    folder: RunFolder | None,
    accelerator: Accelerator,
    seed: int,
    *,
    part: str = "test",
) -> PreparedTeacher:
    """Fit the new classifier of a teacher, and examine it, or take both from an earlier run.

    Args:
        network: The teacher.
        task: The task that learns from it.
        splits: The data.
        folder: The run folder; None in all processes but the main one.
        accelerator: The processes of the training.
        seed: Seed of the training.
        part: The images of the exam: "test", or "val" where no test image may be looked at.
    """
    teacher = task.teacher
    assert teacher is not None
    stored = [None, None] if folder is None else [folder.recall(CLASSIFIER), folder.recall(EXAMS[part])]
    classifier, exam = None, None
    if isinstance(network.recipe, WithFittedClassifier) and network.recipe.classifier is None:
        if folder is not None and stored[0] is None:
            stored[0] = fit_classifier(teacher, splits, accelerator.device, seed).encoded()
        stored = broadcast_object_list(stored)
        classifier = Classifier.decoded(stored[0])
        set_classifier(teacher, classifier)
    if task.predicts_alike:
        (facts,) = broadcast_object_list(stored[1:])
        exam = examine(teacher, splits, accelerator, part) if facts is None else TeacherExam(**facts, part=part)
    prepared = PreparedTeacher(exam, classifier)
    if folder is not None:
        prepared.remember(folder)
    return prepared


def accuracies_of(exam: TeacherExam | None, folder: RunFolder | None) -> dict[str, float]:
    """The accuracies of a teacher by part: that of this run's exam, and that of an earlier one on validation images.

    Args:
        exam: The exam of this run; None without one.
        folder: The run folder, which an earlier run may have stored an exam in before test images were looked at; None
            without one.
    """
    earlier = None if folder is None else folder.recall(EXAMS["val"])
    known = {} if exam is None else {exam.part: exam.accuracy}
    return known if earlier is None else {"val": earlier["accuracy"]} | known


def introduce_teacher(network: Network, task: DistillationTask, splits: Splits, prepared: PreparedTeacher) -> str:
    """The teacher in a line: which weights it has, and how good it is.

    Warns:
        UserWarning: It is trained, but knows hardly more of the data's classes than chance does.
    """
    assert task.teacher is not None
    exam = prepared.exam
    weights = f"trained weights ({network.weights})" if network.weights else "trained weights"
    words = f"teacher: {network.name}, {weights if network.trained else 'random weights'}"
    if prepared.classifier is not None:
        words += ", under a new classifier for the classes of the data"
    if exam is None:
        classes = task.teacher.reader.shapes.classes
        return f"{words}: it tells {classes} other classes apart, so that it has no accuracy here"
    if network.trained:
        warn_of_chance(task.teacher, network.name, splits, exam)
    caution = f" ({MAY_HAVE_SEEN})" if exam.part == "val" and network.trained else ""
    return f"{words}: {exam.accuracy:.2f} % of {exam.samples:,} {exam.images} are right{caution}"


def warn_of_random(teacher: Network) -> None:
    """Say that a teacher that is to teach has random weights."""
    if not teacher.trained:
        warnings.warn(
            f"The teacher {teacher.name} has random weights, so that the student learns from noise: give its "
            "checkpoint or pretrained weights; or, of a module whose weights are trained, "
            "teacher_options={'trained': True}.",
            stacklevel=5,
        )


def warn_of_chance(teacher: FrozenNetwork, name: str, splits: Splits, exam: TeacherExam) -> None:
    """Say that a trained teacher knows hardly more of the data's classes than chance does.

    Its exam tells; if there are few test images, some training images do.
    """
    labels, images = (splits.test if exam.part == "test" else splits.val).labels, exam.images
    right = round(exam.accuracy * exam.samples / 100)
    if exam.samples < _BATCH_SIZE:
        places = _labelled(splits)
        places = places[torch.linspace(0, len(places) - 1, min(_BATCH_SIZE, len(places))).long()]
        device = next(teacher.model.parameters()).device
        (batch,) = splits.train.batches(places, len(places), device=device, augment=None, seed=0)
        right = int((teacher.logits(batch.images).argmax(1) == batch.labels).sum())
        labels, images = batch.labels, "training images"
    share = float(torch.bincount(labels).max()) / len(labels)
    by_chance = binom.sf(right - 1, len(labels), share) > _CHANCE
    if by_chance or right / len(labels) < share + _FAINT * (1 - share):
        warnings.warn(
            f"The teacher {name} is right on {right:,} of {len(labels):,} {images}, "
            f"{'no' if by_chance else 'hardly'} more than chance. Are its classes in another order, its images "
            "normalised otherwise (teacher_options mean and std), or its classifier new?",
            stacklevel=5,
        )


def _labelled(splits: Splits) -> Tensor:
    """The places of the labelled training images."""
    return torch.arange(len(splits.train)) if splits.labelled is None else splits.labelled
