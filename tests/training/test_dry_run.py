"""The dry run before a training: what fails in its first step, or on one image, fails before anything is written."""

from __future__ import annotations

import copy
import math
import random
import re
from collections import deque, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diswot_search.data.splits import Splits
from diswot_search.distillation.base import Batch, Distiller, Setting, register_distiller
from diswot_search.jobs import training_run
from diswot_search.jobs.train import distill, train
from diswot_search.networks.features import Features
from diswot_search.runtime.failures import MachineError
from diswot_search.training.result import Training
from diswot_search.training.unlabelled import FixMatch, Views

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
        with torch.random.fork_rng():
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
    "training mode": (lambda: Net(fails), {}, "fails in a training step of 6 images of 3 x 8 x 8: KeyError"),
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


def test_a_dry_run_leaves_networks_as_they_were() -> None:
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
    assert len(seen) == 3  # one step of the dry run, and two of the training
    assert not any(mean.any() for mean in seen[:2])
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


# -- the loss of the dry run is that of the training ---------------------------------------------


class Tried(Distiller):
    """A distiller that a test lets fail, and that has all kinds of state."""

    reads = ("stages", "pooled")
    fault: ClassVar[Callable[[Tensor, Features], object]] = staticmethod(lambda loss, student: loss)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.calls, self.losses, self.tables = 0, deque(maxlen=9), {"first": None}
        self.drawn, self.noise = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.dice = random.Random(0)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        loss = (self.scale * student.pooled - teacher.pooled).square().mean()
        if self.tables["first"] is None:
            self.tables["first"] = loss.item()
        noise = torch.rand((), generator=self.drawn) + self.noise.random() + self.dice.random()
        self.mean.lerp_(loss.detach(), 0.5)
        self.calls += 1
        self.losses.append(loss.item())
        known = self.calls + len(self.losses) + self.tables["first"]
        return Tried.fault(loss * (1 + self.mean) * noise * known, student)


class Late(Tried):
    """The same, which joins in the middle of the training."""

    warmup = 0.5


register_distiller("tried", Tried)
register_distiller("tried_late", Late)


def follow(out: Path | None = None, **changes: Any) -> Training:
    changes = {"distiller": "tried", "dataset": SPLITS} | changes
    return distill(Net(), Net().eval(), teacher_options={"trained": True}, out=out, **USUAL | changes)


def of_source(source: nn.Module, **changes: Any) -> Training:
    bank = {"one": {"model": source.eval(), "trained": True}}
    return distill(Net(), sources=bank, weighting="uniform", dataset=SPLITS, **USUAL | changes)


def out_of_memory(loss: Tensor, student: Features) -> Tensor:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


STEP = "in a training step of 6 images of 3 x 8 x 8"
FAULTS: dict[str, tuple[Callable[[Tensor, Features], object], str]] = {
    "a stage that is not there": (lambda loss, student: student.stages[7], "The distiller 'tried' fails .IndexError"),
    "a feature that is not read": (
        lambda loss, student: student.features.mean(),
        "fails .AttributeError.* its `reads`",
    ),
    "shapes": (
        lambda loss, student: loss.expand(3) + torch.ones(2),
        f"The distiller 'tried' fails {STEP}: RuntimeError",
    ),
    "its own error": (lambda loss, student: {}["key"], f"The distiller 'tried' fails {STEP}: KeyError: 'key'"),
    "NaN": (lambda loss, student: loss * math.nan, f"The term tried of the loss is nan {STEP}"),
    "infinity": (lambda loss, student: loss * math.inf, f"The term tried of the loss is inf {STEP}"),
    "a slope": (lambda loss, student: loss + (0 * loss).sqrt(), f"The gradient of the loss has NaN or infinity {STEP}"),
    "no scalar": (lambda loss, student: student.pooled, "The loss of the distiller 'tried' must be a scalar"),
    "memory": (out_of_memory, "Out of memory in the dry run"),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_distiller_that_fails_on_the_first_batch_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, late: bool
) -> None:
    fault, message = FAULTS[kind]
    monkeypatch.setattr(Tried, "fault", staticmethod(fault))
    name = "tried_late" if late else "tried"
    with pytest.raises((ValueError, MachineError), match=re.sub(r"\btried\b", name, message)):
        follow(tmp_path / "run", distiller=f"kd+{name}")
    assert not (tmp_path / "run").exists()


def test_a_loss_on_unlabelled_images_that_fails_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: FixMatch, student: Features, views: Views) -> Any:
        raise RuntimeError(f"{len(views.images)} views")

    monkeypatch.setattr(FixMatch, "forward", fails)
    with pytest.raises(ValueError, match=f"The loss on unlabelled images fails {STEP}: RuntimeError: 2 views"):
        learn(Net(), tmp_path / "run", unlabelled="fixmatch")
    assert not (tmp_path / "run").exists()


def test_a_source_that_predicts_no_numbers_stops_before_anything_is_written(tmp_path: Path) -> None:
    source = Net(lambda logits, training: logits * (math.nan if len(logits) == 6 else 1))
    with pytest.raises(ValueError, match=rf"The term source one of the loss is nan {STEP}"):
        of_source(source, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


WAYS: dict[str, Callable[[], Training]] = {
    "a distiller with state": lambda: follow(distiller="kd+tried"),
    "crd": lambda: follow(distiller={"crd": {"negatives": 4, "width": 4}}),
    "a warm-up": lambda: follow(distiller="tried_late", epochs=2),
    "mixed images in parts": lambda: follow(batch_size=8, recipe_options={"accumulate": 2, "mixup": 0.5}),
    "fixmatch": lambda: learn(Net(), unlabelled="fixmatch"),
    "sources": lambda: of_source(Net()),
    "sources, augmented": lambda: of_source(Net(), source_view="augmented"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_training_is_bit_for_bit_the_same_without_its_dry_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    expected = WAYS[way]()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # type: ignore[index, union-attr]
    monkeypatch.setattr(training_run, "dry_run", lambda *given: None)
    untried = WAYS[way]()
    for key, value in expected.student.state_dict().items():
        assert torch.equal(value, untried.student.state_dict()[key])
    assert [row.terms for row in expected.rows] == [row.terms for row in untried.rows]


def test_a_dry_run_sees_the_batch_of_the_first_step() -> None:
    seen: list[Tensor] = []

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.detach().clone())
            return super().forward(x)

    learn(Watched())
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


# -- networks that nothing can be learnt from or by ----------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_student_whose_weights_are_no_numbers_is_refused(tmp_path: Path, value: float) -> None:
    student = Net()
    student.head.weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"has weights that are no numbers: head\.weight holds NaN or infinity"):
        learn(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    student = Net(lambda logits, training: logits / 0 if training else logits)
    with pytest.raises(ValueError, match="The student Net gives NaN or infinity for images of the data"):
        learn(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("always", [True, False])
def test_a_student_that_gives_probabilities_is_refused(tmp_path: Path, always: bool) -> None:
    student = Net(lambda logits, training: logits.softmax(1) if always or not training else logits)
    with pytest.raises(ValueError, match="The student Net gives probabilities where logits are needed"):
        learn(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()
