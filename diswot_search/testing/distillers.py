"""The contract of distillers."""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ..distillation.base import Batch, Distiller, DistillerError, Setting
from ..networks.features import READABLE, Features, Shapes
from .randomness import random_state


def shapes_of(name: str, *stages: tuple[int, int, int], pooled: int | None = None, classes: int = 5) -> Shapes:
    """Return the shapes of a network with these stages; by default its classifier reads the last stage's channels."""
    return Shapes(name, classes, pooled or stages[-1][0], stages[-1], stages)


def features_of(shapes: Shapes, reads: tuple[str, ...], batch: int, seed: int, *, learns: bool = False) -> Features:
    """Return random features of a network, only those that are read; with `learns`, as leaves that get gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    before = [draw(batch, *shape) for shape in shapes.stages]
    weight = draw(shapes.classes, shapes.pooled or 1)
    pooled = draw(batch, shapes.pooled or 1).abs()

    def read(name: str, tensor: Tensor) -> Any:
        return tensor.clone().requires_grad_(learns) if name in reads else None

    return Features(
        logits=(pooled @ weight.T).requires_grad_(learns),
        pooled=read("pooled", pooled),
        weight=read("pooled", weight),
        features=read("features", before[-1].relu()),
        stages=tuple(read("stages", maps.relu()) for maps in before) if "stages" in reads else (),
        preactivations=tuple(read("preactivations", maps) for maps in before) if "preactivations" in reads else (),
    )


def tensors_of(features: Features) -> dict[str, list[Tensor]]:
    """Return the tensors behind each name that a distiller can read; the weight belongs to the pooled features."""
    tensors_by_name: dict[str, list[Tensor | None]] = {
        "logits": [features.logits],
        "pooled": [features.pooled, features.weight],
        "features": [features.features],
        "stages": [*features.stages],
        "preactivations": [*features.preactivations],
    }
    return {name: [tensor for tensor in tensors if tensor is not None] for name, tensors in tensors_by_name.items()}


def watched(features: Features, taken: set[str]) -> Features:
    """Return equal features that add the name of each that is read to `taken`."""
    names = {name: name for name in READABLE} | {"weight": "pooled"}

    class Watched(Features):
        def __getattribute__(self, name: str) -> object:
            if name in names:
                taken.add(names[name])
            return super().__getattribute__(name)

    return Watched(**vars(features))


class DistillerContract:
    """The tests that every distiller passes.

    Example:
        A file `test_my_distiller.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.distillers import DistillerContract
        >>> class TestMyDistiller(DistillerContract):
        ...     minimum = 0
        ...     wrong_options = {"temperature": (0, -1)}
        ...
        ...     def create(self, setting, **options):
        ...         return MyDistiller(setting, **options)
    """

    minimum: ClassVar[float | None] = None
    """The loss of a student that equals its teacher; None if a connector stands between them."""
    wrong_options: ClassVar[dict[str, tuple[object, ...]]] = {}
    """The values that each option refuses, in the order of the options; an option may refuse none."""
    pairs: ClassVar[dict[str, tuple[Shapes, Shapes]]] = {
        "equal": (shapes_of("net", (4, 8, 8), (6, 4, 4)), shapes_of("net", (4, 8, 8), (6, 4, 4))),
        "wider": (shapes_of("thin", (4, 8, 8), (6, 4, 4)), shapes_of("wide", (7, 8, 8), (9, 4, 4))),
        "coarser": (shapes_of("fine", (4, 8, 8), (6, 4, 4)), shapes_of("coarse", (4, 4, 4), (6, 2, 2))),
        "finer": (shapes_of("coarse", (4, 6, 4), (6, 3, 2)), shapes_of("fine", (4, 8, 8), (6, 4, 4))),
        "deeper": (
            shapes_of("short", (4, 8, 8), (6, 4, 4)),
            shapes_of("long", (3, 16, 16), (4, 8, 8), (6, 4, 4), (8, 1, 1)),
        ),
        "head": (shapes_of("plain", (4, 8, 8), (6, 4, 4)), shapes_of("head", (4, 8, 8), (6, 4, 4), pooled=10)),
        "tokens": (shapes_of("column", (8, 10, 1)), shapes_of("cnn", (4, 8, 8), (6, 4, 4))),
        "one_stage": (shapes_of("cnn", (4, 8, 8), (6, 4, 4)), shapes_of("grid", (8, 4, 4))),
    }
    """The students and teachers that it works for; leave out those that it does not."""

    def create(self, setting: Setting, **options: object) -> Distiller:
        """Create the distiller with these options, and the others at their defaults."""
        raise NotImplementedError

    @pytest.fixture(params=["equal", "wider", "coarser", "finer", "deeper", "head", "tokens", "one_stage"])
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        return self.setting_of(request.param)

    def setting_of(self, pair: str) -> Setting:
        if pair not in self.pairs:
            pytest.skip(f"not for {pair}")
        student, teacher = self.pairs[pair]
        return Setting(student, teacher, labels=torch.arange(40) % 5)

    @staticmethod
    def batch(size: int, *, mixed: bool = False, start: int = 0) -> Batch:
        """Return the batch of the training samples from `start` on."""
        indices = torch.arange(start, start + size)
        targets = torch.full((size, 5), 0.2) if mixed else None
        return Batch(torch.rand(size, 3, 8, 8), indices % 5, indices, targets)

    @staticmethod
    def loss(distiller: Distiller, batch: Batch, seed: int = 1) -> Tensor:
        """Return the loss of random features, with torch's generator at a seed."""
        shapes, size = distiller.setting, len(batch.labels)
        student = features_of(shapes.student, distiller.reads, size, seed, learns=True)
        teacher = features_of(shapes.teacher, distiller.reads, size, seed + 1)
        torch.manual_seed(seed)
        return distiller(student, teacher, batch)

    # -- the loss -------------------------------------------------------------------------------

    def test_loss_is_a_finite_number_in_single_precision(self, setting: Setting) -> None:
        for size, mixed in ((1, False), (2, False), (8, False), (8, True)):
            loss = self.loss(self.create(setting), self.batch(size, mixed=mixed))
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert loss.requires_grad

    def test_same_state_and_seed_same_loss(self) -> None:
        first = self.create(self.setting_of("wider"))
        second = copy.deepcopy(first)
        assert torch.equal(self.loss(first, self.batch(8)), self.loss(second, self.batch(8)))

    def test_features_tell_losses_apart(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        losses = {float(self.loss(distiller, self.batch(8), seed).detach()) for seed in (1, 2, 3)}
        assert len(losses) == 3

    def test_student_that_equals_its_teacher_costs_least(self) -> None:
        if self.minimum is None:
            pytest.skip("a connector stands between student and teacher")
        distiller = self.create(self.setting_of("equal"))
        features = features_of(distiller.setting.student, distiller.reads, 8, seed=1)
        least = float(distiller(features, features, self.batch(8)))
        others = [float(self.loss(distiller, self.batch(8), seed).detach()) for seed in range(5)]
        # Rounding in single precision, against what students cost that have nothing to do with their teacher.
        assert least == pytest.approx(self.minimum, abs=1e-4 * (min(others) - self.minimum))

    # -- what learns ----------------------------------------------------------------------------

    def test_student_and_connectors_get_gradients(self, setting: Setting) -> None:
        distiller = self.create(setting)
        assert self.reached(distiller)
        for name, parameter in distiller.named_parameters():
            assert parameter.grad is not None, f"{name} is not used"
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), f"none reaches {name}"

    def test_gradients_reach_everything_that_is_read(self) -> None:
        distillers = [self.create(self.setting_of(pair)) for pair in self.pairs]
        assert set.union(*map(self.reached, distillers)) == set(distillers[0].reads)

    def test_reads_only_what_it_declares(self) -> None:
        distiller = self.create(self.setting_of("wider"))
        taken: set[str] = set()
        student, teacher = (
            watched(features_of(shapes, READABLE, 8, seed=1), taken)
            for shapes in (distiller.setting.student, distiller.setting.teacher)
        )
        distiller(student, teacher, self.batch(8))
        undeclared = ", ".join(sorted(taken.difference(distiller.reads)))
        assert not undeclared, f"{type(distiller).__name__} reads {undeclared} but does not list it in `reads`"

    def test_learning_lowers_the_loss(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        student = features_of(distiller.setting.student, distiller.reads, 8, seed=1, learns=True)
        teacher = features_of(distiller.setting.teacher, distiller.reads, 8, seed=2)
        leaves = [tensor for tensors in tensors_of(student).values() for tensor in tensors]
        optimizer = torch.optim.Adam([*leaves, *distiller.parameters()], lr=0.01)
        losses = []
        for _ in range(20):
            torch.manual_seed(3)
            optimizer.zero_grad()
            losses.append(distiller(student, teacher, self.batch(8)))
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0]

    def reached(self, distiller: Distiller) -> set[str]:
        """Return the names of the student's features that gradients reach; check that the teacher's do not change."""
        student = features_of(distiller.setting.student, distiller.reads, 8, seed=1, learns=True)
        teacher = features_of(distiller.setting.teacher, distiller.reads, 8, seed=2)
        before = copy.deepcopy(teacher)
        distiller(student, teacher, self.batch(8)).backward()
        for name, tensors in tensors_of(teacher).items():
            assert all(torch.equal(*pair) for pair in zip(tensors, tensors_of(before)[name], strict=True))
        reached = {}
        for name, tensors in tensors_of(student).items():
            gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients)
            reached[name] = any(gradient.any() for gradient in gradients)
        return {name for name, is_reached in reached.items() if is_reached}

    def test_stored_state_goes_on_as_the_original(self) -> None:
        setting = self.setting_of("wider")
        first, second = self.create(setting), self.create(setting)
        optimizer = torch.optim.SGD([*first.parameters(), nn.Parameter(torch.zeros(1))], lr=1e-3)
        self.loss(first, self.batch(8)).backward()
        optimizer.step()
        assert second.load_state_dict(copy.deepcopy(first.state_dict())) == ([], [])
        for mode in (True, False):
            later = self.batch(8, start=4)
            assert torch.equal(
                self.loss(first.train(mode), later, seed=5), self.loss(second.train(mode), later, seed=5)
            )

    def test_evaluation_mode_changes_no_state(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        before = copy.deepcopy(distiller.state_dict())
        self.loss(distiller, self.batch(8))
        assert all(torch.equal(tensor, before[name]) for name, tensor in distiller.state_dict().items())

    def test_draws_from_torchs_generator_alone(self) -> None:
        setting = self.setting_of("wider")
        state = random_state()
        torch.manual_seed(1)
        first = self.create(setting)
        self.loss(first, self.batch(8))
        assert random_state()[:-1] == state[:-1]
        torch.manual_seed(1)
        second = self.create(setting)
        after = random_state()
        second.load_state_dict(second.state_dict())
        second.eval().train()
        assert random_state() == after
        self.loss(second, self.batch(8))
        assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in second.state_dict().items())

    # -- options and networks --------------------------------------------------------------------

    def test_has_a_summary_and_customary_numbers(self) -> None:
        distiller = self.create(self.setting_of("wider"))
        assert set(distiller.own_buffers) <= {name for name, _ in distiller.named_buffers()}
        kind = type(distiller)
        assert (kind.__doc__ or "").strip().splitlines()[0]
        assert all(math.isfinite(value) and value >= 0 for value in (kind.weight, kind.ce_weight))
        assert 0 <= kind.warmup < 1
        options = [p for p in inspect.signature(kind).parameters.values() if p.name != "setting"]
        assert all(json.loads(json.dumps(option.default)) == option.default for option in options)

    def test_wrong_options_are_refused_by_name(self) -> None:
        options = list(inspect.signature(type(self.create(self.setting_of("equal")))).parameters)
        assert [*self.wrong_options] == options[1:], "say what each option refuses"
        for name, values in self.wrong_options.items():
            for value in values:
                with pytest.raises(DistillerError, match=f"{name} is {re.escape(repr(value))}"):
                    self.create(self.setting_of("equal"), **{name: value})

    def test_network_without_what_it_reads_is_refused_by_name(self) -> None:
        good = shapes_of("whole", (4, 8, 8), (6, 4, 4))
        without = {
            "logits": Shapes("broken", 7, good.pooled, good.features, good.stages),
            "pooled": Shapes("broken", 5, None, good.features, good.stages),
            "features": Shapes("broken", 5, good.pooled, None, good.stages),
            "stages": Shapes("broken", 5, good.pooled, good.features, ()),
            "preactivations": Shapes("broken", 5, good.pooled, good.features, ()),
        }
        for name in self.create(self.setting_of("equal")).reads:
            for student, teacher in ((good, without[name]), (without[name], good)):
                with pytest.raises(DistillerError, match="broken"):
                    self.create(Setting(student, teacher, torch.arange(40) % 5))
