"""What holds of every training with few labels: what is hidden stays hidden, and what does not count changes nothing.

All that is compared here is the same bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diswot_search.data.splits import Splits
from diswot_search.distillation.crd import OtherClasses
from diswot_search.jobs.rank_sources import rank_sources
from diswot_search.jobs.train import distill, train
from diswot_search.training.checkpoint import LAST, read_checkpoint, without_prefix
from diswot_search.training.folder import TrainingFolder
from diswot_search.training.result import EpochRow, Training

from ..trained_weights import as_trained

CLASSES = 4
HARD: dict[str, Any] = {"accumulate": 2, "ema": 0.5, "mixup": 0.2, "cutmix": 1.0, "precision": "bf16"}
"""All of a recipe that has a state, draws at random, or rounds."""


class Net(nn.Module):
    """A small network with batch statistics and dropout."""

    def __init__(self, classes: int = CLASSES, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.body = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(F.relu(self.norm(self.body(F.relu(self.stem(x))))).mean((2, 3))))


def make(seed: int = 0, classes: int = CLASSES) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(classes)


def make_splits() -> Splits:
    """Noisy pictures of 16 x 16, a pattern for each class."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(60, 196, (CLASSES, 16, 16, 3))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % CLASSES
        return (patterns[labels] + generator.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8), labels

    return Splits.from_arrays(draw(48), draw(24), draw(24))


ALL = make_splits()
FEW = ALL.with_labels(labels_per_class=3)
BANK = {"near": as_trained(make(11, 3)), "far": as_trained(make(12, 5)), "other": as_trained(make(13, 2))}
BY_HAND = {"near": 0.7, "far": 0.3, "other": 0.0}
USUAL: dict[str, Any] = {"epochs": 2, "batch_size": 12, "rule": "last", "device": "cpu", "progress": False}


def learn(**changes: Any) -> Training:
    """Learn from sources."""
    return distill(make(), **{"dataset": FEW, "sources": BANK, "weighting": BY_HAND, **USUAL, **changes})


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rows_of(training: Training) -> list[EpochRow]:
    """The epochs, without times."""
    return [dataclasses.replace(row, seconds=0.0, images_per_second=0.0) for row in training.rows]


def assert_same(first: Training, second: Training) -> None:
    assert rows_of(first) == rows_of(second)
    assert same(first.student.state_dict(), second.student.state_dict())


def state_in(folder: Path) -> dict[str, Tensor]:
    """The tensors of the last checkpoint."""
    last = read_checkpoint(folder / LAST)
    assert last is not None
    return last.tensors


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """With another number of threads, as another process may have, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- hidden labels --------------------------------------------------------------------------------


def lied_to(splits: Splits) -> Splits:
    """The same images, those without a label of another class."""
    lied = copy.deepcopy(splits)
    hidden = np.setdiff1d(np.arange(len(FEW.train)), FEW.labelled)
    lied.train.labels[hidden] = (lied.train.labels[hidden] + 1) % CLASSES
    return lied


def learn_from_teacher(dataset: Splits, **changes: Any) -> Training:
    distillers = {"kd": None, "crd": {"width": 8}}
    return distill(make(), as_trained(make(5)), dataset, distiller=distillers, **{**USUAL, "rule": "best", **changes})


WAYS: dict[str, Callable[[Splits], Training]] = {
    "measured": lambda data: learn(dataset=data, weighting="weighted", rule="best"),
    "measured, hard": lambda data: learn(
        dataset=data, weighting="weighted", rule="best", source_view="augmented", recipe_options=HARD
    ),
    "teacher": learn_from_teacher,
    "teacher, hard": lambda data: learn_from_teacher(data, recipe_options=HARD),
}


@pytest.mark.parametrize("way", WAYS)
def test_hidden_labels_decide_nothing(way: str) -> None:
    honest, lied = WAYS[way](FEW), WAYS[way](lied_to(FEW))
    assert_same(honest, lied)
    for part in ("test", "best", "sources"):
        assert getattr(honest.result, part) == getattr(lied.result, part)


def test_labels_that_are_not_hidden_decide() -> None:
    """Else the tests beside this one would say nothing."""
    first, second = (WAYS["measured"](dataclasses.replace(data, labelled=None)) for data in (FEW, lied_to(FEW)))
    assert first.result.sources != second.result.sources
    first, second = (WAYS["teacher"](dataclasses.replace(data, labelled=None)) for data in (FEW, lied_to(FEW)))
    assert not same(first.student.state_dict(), second.student.state_dict())


def test_hidden_labels_rank_no_sources() -> None:
    def values(data: Splits) -> Any:
        return rank_sources(BANK, data, measures=["parc", "leep", "logme"], device="cpu", progress=False).values

    assert values(FEW) == values(lied_to(FEW))
    everything = dataclasses.replace(FEW, labelled=None), dataclasses.replace(lied_to(FEW), labelled=None)
    assert values(everything[0]) != values(everything[1])


def test_labelled_images_are_contrasted_with_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[int] = set()
    forward = OtherClasses.forward

    def watched(self: OtherClasses, indices: Tensor, number: int) -> Tensor:
        found = forward(self, indices, number)
        drawn.update(found.flatten().tolist())
        return found

    monkeypatch.setattr(OtherClasses, "forward", watched)
    rows = learn_from_teacher(FEW, epochs=4, rule="last").rows
    assert FEW.labelled is not None
    assert drawn == set(FEW.labelled.tolist())
    assert rows[-1].terms["crd"] < rows[0].terms["crd"]


# -- what does not count --------------------------------------------------------------------------

CONDITIONS: dict[str, dict[str, Any]] = {
    "hard": {"recipe_options": HARD},
    "augmented": {"recipe_options": HARD, "source_view": "augmented", "unlabelled_batch_size": 24},
    "shared": {"dataset": ALL, "recipe_options": {"accumulate": 2, "ema": 0.5}},
    "shared, augmented": {"dataset": ALL, "source_view": "augmented"},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_source_of_zero_weight_changes_nothing(condition: str) -> None:
    without = {"sources": {name: BANK[name] for name in ("near", "far")}, "weighting": {"near": 0.7, "far": 0.3}}
    changes = CONDITIONS[condition]
    assert_same(learn(**changes), learn(**changes, **without))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_lambda_of_one_is_plain_training(condition: str) -> None:
    changes = CONDITIONS[condition]
    known = {name: changes[name] for name in ("dataset", "recipe_options") if name in changes}
    assert_same(learn(**changes, lam=1.0), train(make(), **{"dataset": FEW, **USUAL, **known}))


@pytest.mark.filterwarnings("ignore:lam is 0")
@pytest.mark.parametrize("data", ["few labels", "all labels"])
def test_lambda_of_zero_leaves_the_classifier_alone(tmp_path: Path, data: str) -> None:
    """Only the body and the sources' heads learn."""
    options = {"dataset": FEW if data == "few labels" else ALL, "lam": 0.0, "recipe_options": {"weight_decay": 0.0}}
    taught = learn(out=tmp_path / "taught", **options)
    learn(out=tmp_path / "start", **options, lr=1e-30)  # with which no weight changes, the first ones of heads included
    parameters = [dict(student.named_parameters()) for student in (make(), taught.student)]
    changed = {name for name, value in parameters[0].items() if not torch.equal(value, parameters[1][name])}
    assert changed == {name for name in parameters[0] if not name.startswith("head.")}
    start, end = (without_prefix("task", state_in(tmp_path / name)) for name in ("start", "taught"))
    heads = [name for name in start if ".heads." in name]
    assert len(heads) == 4  # weight and bias of those with a weight
    assert not any(torch.equal(start[name], end[name]) for name in heads)
    assert [row.terms["ce"] for row in taught.rows] == [0.0, 0.0]


# -- killed, and gone on --------------------------------------------------------------------------


def learn_in(out: Path, **changes: Any) -> Training:
    options: dict[str, Any] = {"weighting": "weighted", "source_view": "fixed", "recipe_options": HARD}
    return learn(out=out, **options, **changes)


def learn_until(out: str, count: int) -> None:
    """Learn, stored after each step, and be killed when it is stored the `count`th time."""
    torch.set_num_threads(1)
    write, written = TrainingFolder.write, 0

    def killing(self: TrainingFolder, name: str, content: Any) -> None:
        nonlocal written
        write(self, name, content)
        written += name == LAST
        if written == count:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingFolder.write = killing
    learn_in(Path(out), checkpoint_minutes=1e-9)


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_a_training_from_sources_ends_as_one_that_was_not(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["diswot_search.jobs.train", "torch.utils.tensorboard", "matplotlib.figure"])
    whole, reached = learn_in(tmp_path / "whole"), []
    for count in (1, 6):
        process = processes.Process(target=learn_until, args=(str(tmp_path / "killed"), count))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        last = read_checkpoint(tmp_path / "killed" / LAST)
        assert last is not None
        reached.append(last.values["progress"]["step"])
    assert reached[0] == 1
    assert 4 < reached[1] < 8  # within the second epoch of four steps
    resumed = learn_in(tmp_path / "killed")
    assert_same(whole, resumed)
    assert whole.result.sources == resumed.result.sources
    assert same(state_in(tmp_path / "whole"), state_in(tmp_path / "killed"))
