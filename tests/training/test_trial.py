"""The trial before a training: what would fail in a step, or on one image, fails before anything is written."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diswot_search.data.splits import Splits
from diswot_search.jobs.train import distill, train
from diswot_search.training.result import Training

CLASSES = 3
USUAL: dict[str, Any] = {"epochs": 1, "batch_size": 6, "device": "cpu", "progress": False}
Outputs = namedtuple("Outputs", ["aux", "logits"])


def make_splits() -> Splits:
    generator = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % CLASSES

    return Splits.from_arrays(draw(12), draw(6), draw(6))


SPLITS = make_splits()


class Net(nn.Module):
    """A small network whose last values go through `change`."""

    def __init__(self, change: Callable[[Tensor, bool], Any] = lambda logits, training: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Linear(6, CLASSES)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.head(self.norm(self.body(x)).relu().mean((2, 3))), self.training)


def learn(model: nn.Module, out: Path | None = None, **changes: Any) -> Training:
    return train(model, SPLITS, out=out, **USUAL | changes)


SEVERAL: dict[str, Callable[[Tensor, bool], Any]] = {
    "tuple": lambda logits, training: (logits, logits.mean()) if training else logits,
    "named tuple": lambda logits, training: Outputs(-logits, logits) if training else logits,
    "mapping": lambda logits, training: {"aux": -logits, "out": logits} if training else logits,
}


@pytest.mark.parametrize("form", SEVERAL)
def test_of_several_outputs_while_it_trains_the_class_scores_are_learnt(form: str) -> None:
    expected = learn(Net()).student.state_dict()
    with pytest.warns(UserWarning, match="The student Net gives .* while it trains. Its class scores are learnt"):
        weights = learn(Net(SEVERAL[form])).student.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in expected.items())


class Deep(Net):
    """Has a weight of five dimensions, as networks with lambda layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.deep(x[:, None])[:, 0])


def test_weights_of_five_dimensions_are_trained_in_channels_last() -> None:
    assert learn(Deep(), recipe_options={"channels_last": True}).result.test is not None


class Paired(Net):
    """Normalises its scores over the batch, which a single image has not enough of."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


def fails(logits: Tensor, training: bool) -> Tensor:
    if training:
        raise KeyError("aux")
    return logits


FAILING: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "one image is squeezed": (
        lambda: Net(lambda logits, training: logits.squeeze()),
        {},
        r"The student Net fails on a single image: it gives shape \(3,\), not class scores",
    ),
    "steps of one image": (
        Paired,
        {"batch_size": 1},
        r"The student Paired fails in a training step of 1 image of 3 x 8 x 8: ValueError: Expected more than 1 value",
    ),
    "parts of one image": (Paired, {"recipe_options": {"accumulate": 6}}, "fails in a training step of 1 image"),
    "training mode": (lambda: Net(fails), {}, "fails in a training step of 2 images of 3 x 8 x 8: KeyError"),
    "no scores of all classes": (
        lambda: Net(lambda logits, training: (logits[:, :2],) if training else logits),
        {},
        "gives tuple while it trains, none of it scores of 3 classes",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_step_that_fails_stops_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    make, changes, message = FAILING[kind]
    with pytest.raises((ValueError, RuntimeError), match=message):
        learn(make(), tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_trial_leaves_networks_as_they_were() -> None:
    """The first step is one from the weights and the statistics of the start."""
    seen: list[Tensor] = []

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(copy.deepcopy(self.norm.running_mean))
            return super().forward(x)

    teacher = Net().eval()
    before = copy.deepcopy(teacher.state_dict())
    distill(Watched(), teacher, SPLITS, teacher_options={"trained": True}, **USUAL)
    assert not any(mean.any() for mean in (seen[0], seen[2]))  # two runs of the trial, then the first step
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
