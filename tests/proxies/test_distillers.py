"""Distillation losses against plain loops in NumPy, and the proxies made of them on real pairs of networks.

Tolerances: 1e-9 where both sides are computed in double precision and differ by the order of sums only. Features
of networks are in single precision; where those of two runs are compared, losses agree to 1e-4 of their value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from diswot_search.data.probe import Probe
from diswot_search.functional import losses, shapes
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings
from diswot_search.testing.proxies import ProxyContract

from ..functional.plain_losses import NAMES, OF_MAPS, PLAIN, Array

Loss = Callable[[Tensor, Tensor], Tensor]

few = settings(max_examples=15)
seeds = st.integers(0, 2**32 - 1)
CLASSES = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOSSES: dict[str, Loss] = {name: getattr(losses, f"{name}_loss") for name in NAMES}


def draw(name: str, seed: int, *, wider: bool = False) -> tuple[Tensor, Tensor]:
    """The inputs of a loss: maps, or rows of features or logits, with a wider teacher if the loss allows it."""
    width = 7 if wider and name not in ("kd", "ickd") else 4
    shapes = [(5, channels, 6) if name in OF_MAPS else (5, channels) for channels in (4, width)]
    return normal(*shapes[0], seed=seed), normal(*shapes[1], seed=seed + 1)


@pytest.mark.parametrize("name", NAMES)
@few
@given(seed=seeds)
def test_loss_is_that_of_plain_loops(name: str, seed: int) -> None:
    student, teacher = draw(name, seed, wider=True)
    expected = PLAIN[name](student.numpy(), teacher.numpy())
    assert float(LOSSES[name](student, teacher)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@few
@given(seed=seeds)
def test_a_student_like_its_teacher_has_the_smallest_loss(name: str, seed: int) -> None:
    student, teacher = draw(name, seed)
    assert float(LOSSES[name](teacher, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(LOSSES[name](student, teacher)) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    student, teacher = draw(name, 7)
    assert gradcheck(LOSSES[name], (student.requires_grad_(), teacher), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_at_the_teacher_is_zero(name: str) -> None:
    teacher, _ = draw(name, 3)
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](student, teacher), student)
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_order_of_samples_does_not_matter(name: str) -> None:
    student, teacher = draw(name, 1, wider=True)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert float(LOSSES[name](student[order], teacher[order])) == pytest.approx(float(LOSSES[name](student, teacher)))
    assert float(LOSSES[name](student[order], teacher)) != pytest.approx(float(LOSSES[name](student, teacher)))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_channels_matters_to_those_only_that_compare_channels_by_place(name: str) -> None:
    student, teacher = draw(name, 2)
    before, after = (float(LOSSES[name](maps, teacher)) for maps in (student, student[:, [2, 0, 3, 1]]))
    assert (before == pytest.approx(after, rel=1e-9)) == (name not in ("kd", "ickd"))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"kd"}))
def test_scale_of_features_does_not_matter(name: str) -> None:
    student, teacher = draw(name, 4)
    assert float(LOSSES[name](3 * student, teacher)) == pytest.approx(float(LOSSES[name](student, teacher)), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_features_give_a_number_and_a_gradient(name: str) -> None:
    _, teacher = draw(name, 5)
    student = torch.zeros_like(teacher).requires_grad_()
    loss = LOSSES[name](student, teacher)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


def test_temperature_and_weights_are_taken() -> None:
    student, teacher = draw("kd", 6)
    expected = float(
        np.sum(
            softmax(teacher.numpy(), axis=1)
            * (log_softmax(teacher.numpy(), axis=1) - log_softmax(student.numpy(), axis=1))
        )
    )
    assert float(losses.kd_loss(student, teacher, temperature=1)) == pytest.approx(expected / len(student))
    parts = [float(losses.rkd_loss(student, teacher, *weights)) for weights in ((1.0, 0.0), (0.0, 1.0))]
    assert float(losses.rkd_loss(student, teacher)) == pytest.approx(25 * parts[0] + 50 * parts[1])
    assert float(losses.cc_loss(student, teacher, gamma=1e-9)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("positions", [4, 36], ids=["more channels", "more positions"])
def test_selectivity_is_the_same_by_outer_products_and_by_kernels(positions: int) -> None:
    student, teacher = normal(3, 5, positions).requires_grad_(), normal(3, 7, positions, seed=1)
    maps = [values / values.norm(dim=2, keepdim=True) for values in (student, teacher)]
    expected = torch.tensor(0.0, dtype=student.dtype)
    for sample in range(3):
        kernels = {}
        for place, (one, other) in enumerate(((0, 0), (1, 1), (0, 1))):
            pairs = itertools.product(maps[one][sample], maps[other][sample])
            kernels[place] = torch.stack([(x @ y) ** 2 for x, y in pairs]).mean()
        expected = expected + (kernels[0] + kernels[1] - 2 * kernels[2]) / 3
    # Doubles, and sums of some thousand terms below 1.
    loss = losses.nst_loss(student, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)
    assert float(losses.nst_loss(teacher, teacher)) == 0
    # In single precision near maps must not cancel: the true value is some 1e-9, one rounding of the kernel 1e-8.
    near = (teacher + 1e-4 * normal(3, 7, positions, seed=2)).float()
    exact = float(losses.nst_loss(near.double(), teacher.float().double()))
    assert float(losses.nst_loss(near, teacher.float())) == pytest.approx(exact, rel=1e-2)


def test_square_grids_are_averaged_to_the_smaller_one() -> None:
    fine, coarse = normal(2, 3, 16), normal(2, 5, 4, seed=1)
    averaged, same = shapes.match_positions(fine, coarse)
    grid = fine.unflatten(2, (4, 4))
    expected = torch.stack([grid[:, :, r : r + 2, c : c + 2].mean((2, 3)) for r in (0, 2) for c in (0, 2)], 2)
    torch.testing.assert_close(averaged, expected)
    assert torch.equal(same, coarse)
    for loss in (losses.at_loss, losses.nst_loss):
        assert float(loss(coarse, fine)) > 0
    with pytest.raises(ValueError, match="17 and 4 positions cannot be matched"):
        shapes.match_positions(normal(2, 3, 17), coarse)


@pytest.mark.parametrize(("name", "what"), [("kd", "classes"), ("ickd", "channels")])
def test_shapes_that_do_not_agree_are_refused(name: str, what: str) -> None:
    student, teacher = (normal(2, width, 3) if name == "ickd" else normal(2, width) for width in (4, 5))
    with pytest.raises(ValueError, match=rf"{what} in student and teacher, got \(2, 4.* and \(2, 5"):
        LOSSES[name](student, teacher)


# -- the proxies --------------------------------------------------------------------------------


def read(name: str, *, seed: int = 1, **options: Any) -> Readings:
    """A timm model with random weights, read on noise."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": CLASSES} | options)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Readings(lambda: model, Probe.from_tensors(images, torch.tensor([0, 1, 4, 1, 2, 3]), CLASSES))


@pytest.fixture(scope="module")
def pair() -> tuple[Readings, Readings]:
    """A student and a teacher of the same width, classes and size of the maps."""
    return read("cifar_resnet", arch="1-1-1"), read("cifar_resnet", arch="2-1-2", seed=2)


def stages(readings: Readings) -> list[Array]:
    """The output of the last block of each of a CIFAR ResNet's three stages, without the readings' recorder."""
    model: Any = readings.model
    maps: list[Array] = []
    blocks = [list(stage)[-1] for stage in (model.layer1, model.layer2, model.layer3)]
    hooks = [
        block.register_forward_hook(lambda _, __, out: maps.append(out.flatten(2).double().numpy())) for block in blocks
    ]
    model.train()
    with torch.no_grad():
        model(readings.images)
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize("name", NAMES)
def test_proxy_is_minus_the_loss_of_its_readings(name: str, pair: tuple[Readings, Readings]) -> None:
    student, teacher = pair
    if name in ("at", "nst"):
        expected = float(np.mean([PLAIN[name](s, t) for s, t in zip(stages(student), stages(teacher), strict=True)]))
    elif name in ("sp", "ickd"):
        expected = PLAIN[name](stages(student)[-1], stages(teacher)[-1])
    else:
        reading = "logits" if name == "kd" else "pooled"
        expected = PLAIN[name](*(getattr(one, reading).double().numpy() for one in pair))
    assert get_proxy(name)(student, teacher) == pytest.approx(-expected, rel=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_itself_is_the_best_student(name: str, pair: tuple[Readings, Readings]) -> None:
    proxy: Any = get_proxy(name)
    assert proxy(pair[1], pair[1]) == pytest.approx(0, abs=1e-7)
    assert proxy(pair[0], pair[1]) < -1e-7
    assert proxy.needs_teacher


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)}),
    ("cifar_resnet", {"arch": "1-1-1"}),
]


@pytest.mark.parametrize("second", FAMILIES, ids=[name for name, _ in FAMILIES])
@pytest.mark.parametrize("first", FAMILIES, ids=[name for name, _ in FAMILIES])
def test_families_are_compared_or_it_is_said_why_not(first: tuple[str, Any], second: tuple[str, Any]) -> None:
    student, teacher = read(first[0], **first[1]), read(second[0], seed=2, **second[1])
    cannot = set()
    if "convnext" in first[0] + second[0] and "vit" in first[0] + second[0]:
        cannot |= {"at", "nst"}  # the only stage of the ViT meets a map with one position
    if student.features.shape[1] != teacher.features.shape[1]:
        cannot |= {"ickd"}
    for name in NAMES:
        proxy: Any = get_proxy(name)
        if name in cannot:
            with pytest.raises(ReadingError, match=r"cannot be matched|needs as many channels|one position"):
                proxy(student, teacher)
        else:
            assert np.isfinite(proxy(student, teacher))
            assert proxy(student, teacher) < 0


def test_a_student_with_fewer_stages_is_compared_from_the_last() -> None:
    deep = read("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 48))
    shallow = read("cifar_resnet", arch="1-1-1")
    assert [maps.shape[2] for maps in deep.stage_features] == [64, 16, 4, 1]
    pairs = zip(deep.stage_features[1:3], shallow.stage_features[:2], strict=True)  # one position has no pattern
    squares = [[maps.unflatten(2, (math.isqrt(maps.shape[2]),) * 2) for maps in pair] for pair in pairs]
    grids = [min(maps.shape[2] for maps in pair) for pair in squares]
    pooled = [[F.adaptive_avg_pool2d(maps, grid) for maps in pair] for pair, grid in zip(squares, grids, strict=True)]
    expected = -np.mean([float(losses.at_loss(a.flatten(2), b.flatten(2))) for a, b in pooled])
    assert get_proxy("at")(deep, shallow) == pytest.approx(expected)  # type: ignore[operator]


def test_other_classes_are_no_reason_not_to_compare_features(pair: tuple[Readings, Readings]) -> None:
    other = read("cifar_resnet", arch="1-1-1", num_classes=9, seed=2)
    with pytest.raises(ReadingError, match=r"kd needs logits of the same classes .* \(6, 5\) and \(6, 9\)"):
        get_proxy("kd")(pair[0], other)  # type: ignore[operator]
    for name in NAMES[1:]:
        assert get_proxy(name)(pair[0], other) < 0  # type: ignore[operator]


def test_a_dead_student_has_a_score_or_a_reason(pair: tuple[Readings, Readings]) -> None:
    dead = read("nasbench201", arch="|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", cells=1)
    for name in NAMES:
        assert np.isfinite(get_proxy(name)(dead, pair[1]))  # type: ignore[operator]


class TestKD(ProxyContract):
    any_pair = False

    def create(self) -> str:
        return "kd"


class TestAT(ProxyContract):
    def create(self) -> str:
        return "at"


class TestRKD(ProxyContract):
    def create(self) -> str:
        return "rkd"


class TestNST(ProxyContract):
    def create(self) -> str:
        return "nst"
