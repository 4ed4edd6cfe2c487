"""Losses against plain loops in NumPy and SciPy, their least values, gradients, invariances and degenerate inputs.

Those of `functional` are written out in test_distiller_proxies.py, with their gradients and invariances, and are held
here to single precision and degenerate inputs as well.

Tolerances: 1e-9 of the value where both sides are computed in double precision and differ by the order of sums, by a
quadrature or by SciPy's own rounding only; 1e-4 of it in single precision, whose rounding of 6e-8 is multiplied by up
to a few hundred where correlations and divergences are differences of nearly equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import softmax
from scipy.stats import beta, entropy, norm, pearsonr, truncnorm, zscore
from torch import Tensor
from torch.autograd import grad, gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from diswot_search.data.probe import Probe
from diswot_search.functional import losses, similarities
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings

from .plain_losses import OF_MAPS, PLAIN, Array

few = settings(max_examples=15)
seeds = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the losses, written out for one sample, class or entry at a time ----------------------------


def plain_kd_standardised(s: Array, t: Array, temperature: float = 2.0) -> float:
    p, q = (softmax(zscore(z, axis=1, ddof=1) / temperature, axis=1) for z in (s, t))
    return temperature**2 * float(np.mean([entropy(b, a) for a, b in zip(p, q, strict=True)]))


def plain_dkd(
    s: Array, t: Array, labels: Array, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> float:
    total = 0.0
    for p, q, label in zip(softmax(s / temperature, 1), softmax(t / temperature, 1), labels, strict=True):
        total += alpha * entropy([q[label], 1 - q[label]], [p[label], 1 - p[label]])
        total += beta * entropy(np.delete(q, label), np.delete(p, label))  # which scales both to a sum of one
    return temperature**2 * total / len(s)


def plain_dist(s: Array, t: Array, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> float:
    p, q = softmax(s / temperature, 1), softmax(t / temperature, 1)
    samples = [1 - pearsonr(a, b)[0] for a, b in zip(p, q, strict=True)]
    classes = [1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T, strict=True)]
    return temperature**2 * float(beta * np.mean(samples) + gamma * np.mean(classes))


def plain_fitnet(s: Array, t: Array) -> float:
    return sum(float(s[place] - t[place]) ** 2 for place in np.ndindex(s.shape)) / s.size


def plain_vid(s: Array, t: Array, raw: Array) -> float:
    std = np.sqrt(np.log(1 + np.exp(raw)) + 1e-5)
    likelihoods = [norm.logpdf(t[place], s[place], std[place[1]]) for place in np.ndindex(s.shape)]
    return float(-np.mean(likelihoods) - np.log(2 * np.pi) / 2)


def plain_ofd(s: Array, t: Array, margin: Array) -> float:
    total = 0.0
    for place in np.ndindex(s.shape):
        target = max(t[place], margin[place[1]])
        if target > 0 or s[place] > target:
            total += (s[place] - target) ** 2
    return total / len(s)


def plain_average(plane: Array, side: int) -> Array:
    """Averages over a grid of so many cells a side, which overlap where the plane cannot be divided."""

    def cell(index: int, size: int) -> slice:
        return slice(index * size // side, -(-(index + 1) * size // side))

    height, width = plane.shape
    return np.array([[plane[cell(i, height), cell(j, width)].mean() for j in range(side)] for i in range(side)])


def plain_reviewkd(s: Array, t: Array) -> float:
    total, weights, weight = float(np.mean((s - t) ** 2)), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= s.shape[2]:
            continue
        weight /= 2
        pairs = [(plain_average(s[b, c], side), plain_average(t[b, c], side)) for b, c in np.ndindex(s.shape[:2])]
        total += weight * float(np.mean([(a - b) ** 2 for a, b in pairs]))
        weights += weight
    return total / weights


def plain_cc_embedded(s: Array, t: Array) -> float:
    lacks = [[abs(a - b) for a, b in zip(*rows, strict=True)] for rows in zip(s, t, strict=True)]
    neighbours = list(pairwise(lacks))
    return float(sum(np.dot(a, b) for a, b in neighbours) / len(neighbours))


def plain_contrastive(cosines: Array, width: int, temperature: float = 0.07, samples: int = 1000) -> float:
    """As published: probabilities under an estimated normaliser against uniform noise over all samples."""

    def density(c: float) -> float:  # of the cosine of two random directions, up to a factor
        return (1 - c * c) ** ((width - 3) / 2)

    weighted, whole = (
        quad(f, -1, 1, epsabs=0, epsrel=1e-12)[0] for f in (lambda c: np.exp(c / temperature) * density(c), density)
    )
    normaliser, noise = samples * weighted / whole, (cosines.shape[1] - 1) / samples
    total = 0.0
    for row in np.exp(cosines / temperature) / normaliser:
        total -= np.log(row[0] / (row[0] + noise))
        total -= sum(np.log(noise / (each + noise)) for each in row[1:])
    return total / len(cosines)


def plain_distance(first: Array, second: Array) -> float:
    return float(np.linalg.norm(first / np.linalg.norm(first) - second / np.linalg.norm(second)) ** 2)


def plain_semantic(s: Array, s_weight: Array, t: Array, t_weight: Array) -> float:
    def gram(features: Array, weight: Array) -> Array:
        maps = [sum(w * channel for w, channel in zip(row, features.swapaxes(0, 1), strict=True)) for row in weight]
        return np.array([[np.vdot(a, b) for b in maps] for a in maps])

    return plain_distance(gram(s, s_weight), gram(t, t_weight))


def plain_relation(s: Array, t: Array) -> float:
    return plain_distance(*(np.array([[np.vdot(a, b) for b in rows] for a in rows]) for rows in (s, t)))


# -- one row for each loss -----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A loss, its inputs from a seed with the student's first, and the same in NumPy.

    `mirror` makes inputs of a student that equals its teacher; `least` is the loss there.
    """

    loss: Callable[..., Tensor]
    draw: Callable[[int], tuple[Tensor, ...]]
    plain: Callable[..., float]
    mirror: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = lambda inputs: (inputs[1], *inputs[1:])
    least: Callable[..., float] = lambda *_: 0.0


def pair(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda seed: (normal(*shape, seed=seed), normal(*shape, seed=seed + 1))


def draw_dkd(seed: int) -> tuple[Tensor, ...]:
    labels = torch.randint(6, (5,), generator=torch.Generator().manual_seed(seed))
    return (*pair(5, 6)(seed), labels)


def draw_semantic(seed: int) -> tuple[Tensor, ...]:
    shapes = [(3, 4, 6), (5, 4), (3, 7, 9), (5, 7)]
    return tuple(normal(*shape, seed=seed + place) for place, shape in enumerate(shapes))


def cosines(seed: int) -> tuple[Tensor, ...]:
    return (normal(4, 9, seed=seed).tanh(),)


WIDTH = 8

CASES: dict[str, Case] = {
    "kd_standardised": Case(losses.kd_standardised_loss, pair(5, 6), plain_kd_standardised),
    "dkd": Case(losses.dkd_loss, draw_dkd, plain_dkd),
    "dist": Case(losses.dist_loss, pair(5, 6), plain_dist),
    "fitnet": Case(losses.fitnet_loss, pair(3, 4, 2, 5), plain_fitnet),
    "vid": Case(
        losses.vid_loss,
        lambda seed: (*pair(3, 4, 2, 5)(seed), normal(4, seed=seed + 2)),
        plain_vid,
        least=lambda _, __, raw: float(np.mean(np.log(np.log1p(np.exp(raw)) + 1e-5)) / 2),
    ),
    "ofd": Case(losses.ofd_loss, lambda seed: (*pair(3, 4, 2, 5)(seed), -normal(4, seed=seed + 2).abs()), plain_ofd),
    "reviewkd": Case(losses.reviewkd_loss, pair(2, 3, 7, 7), plain_reviewkd),
    "cc_embedded": Case(losses.cc_embedded_loss, pair(5, 6), plain_cc_embedded),
    "contrastive": Case(
        lambda c: losses.contrastive_loss(c, width=WIDTH),
        cosines,
        lambda c: plain_contrastive(c, WIDTH),
        # Nothing is more like the sample than itself, nor less like it than its opposite.
        mirror=lambda inputs: (torch.cat([torch.ones(4, 1), -torch.ones(4, 8)], 1).double(),),
        least=lambda c: plain_contrastive(c, WIDTH),
    ),
    "semantic": Case(
        losses.semantic_loss, draw_semantic, plain_semantic, mirror=lambda inputs: (*inputs[2:], *inputs[2:])
    ),
    "relation": Case(
        losses.relation_loss, lambda s: (normal(5, 4, 6, seed=s), normal(5, 7, seed=s + 1)), plain_relation
    ),
}

every_loss = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def arrays(inputs: tuple[Tensor, ...]) -> list[Array]:
    return [values.numpy() for values in inputs]


@every_loss
@few
@given(seed=seeds)
def test_loss_is_that_of_plain_loops(case: Case, seed: int) -> None:
    inputs = case.draw(seed)
    assert float(case.loss(*inputs)) == pytest.approx(case.plain(*arrays(inputs)), rel=1e-9, abs=1e-12)


@every_loss
@few
@given(seed=seeds)
def test_single_precision_is_close_to_double(case: Case, seed: int) -> None:
    inputs = tuple(values.float() if values.is_floating_point() else values for values in case.draw(seed))
    loss = case.loss(*inputs)
    assert loss.dtype == torch.float32
    exact = case.plain(*(array.astype(float) if array.dtype.kind == "f" else array for array in arrays(inputs)))
    assert float(loss) == pytest.approx(exact, rel=1e-4, abs=1e-5)


@every_loss
@few
@given(seed=seeds)
def test_a_student_like_its_teacher_has_the_least_loss(case: Case, seed: int) -> None:
    inputs = case.draw(seed)
    same = case.mirror(inputs)
    least = float(case.loss(*same))
    assert least == pytest.approx(case.least(*arrays(same)), abs=1e-9)
    assert float(case.loss(*inputs)) > least


@every_loss
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    inputs = [values.requires_grad_(values.is_floating_point()) for values in case.draw(7)]
    if case.loss is losses.ofd_loss:
        inputs[1:] = [values.detach() for values in inputs[1:]]  # a constant: where it is positive is a jump
    assert gradcheck(case.loss, tuple(inputs))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"contrastive"}))
def test_gradient_at_the_teacher_is_zero(name: str) -> None:
    case = CASES[name]
    student, *others = case.mirror(case.draw(3))
    student = student.clone().requires_grad_()
    (gradient,) = grad(case.loss(student, *others), student)
    assert float(gradient.abs().max()) < 1e-9


class Operations(TorchDispatchMode):
    """Names of the operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@every_loss
def test_no_loss_waits_for_its_device(case: Case) -> None:
    inputs = [values.requires_grad_(values.is_floating_point()) for values in case.draw(7)]
    with Operations() as operations:
        case.loss(*inputs).backward()
    # A number that is made a tensor on the host and copied, a tensor that is made a number, and what depends on one.
    assert not operations.names & {"lift_fresh", "lift_fresh_copy", "_local_scalar_dense", "nonzero", "masked_select"}


# -- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(CASES) - {"contrastive", "semantic", "cc_embedded"}))
@few
@given(seed=seeds, order=st.permutations(range(5)))
def test_order_of_samples_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    case = CASES[name]
    student, teacher, *others = case.draw(seed)
    places = [place for place in order if place < len(student)]
    others = [values[places] if name == "dkd" else values for values in others]
    expected = case.plain(*arrays(case.draw(seed)))
    assert float(case.loss(student[places], teacher[places], *others)) == pytest.approx(expected, rel=1e-9)


@few
@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_standardised_logits_have_no_scale_and_no_origin(seed: int, scale: float, shift: float) -> None:
    student, teacher = pair(5, 6)(seed)
    moved = losses.kd_standardised_loss(scale * student + shift, teacher / scale - shift)
    assert float(moved) == pytest.approx(float(losses.kd_standardised_loss(student, teacher)), rel=1e-7)


@pytest.mark.parametrize("name", ["dkd", "dist"])
@few
@given(seed=seeds, shift=st.floats(-100, 100))
def test_logits_have_no_origin(name: str, seed: int, shift: float) -> None:
    student, teacher, *labels = CASES[name].draw(seed)
    shifts = shift * torch.arange(5.0)[:, None]
    moved = CASES[name].loss(student + shifts, teacher - shifts, *labels)
    assert float(moved) == pytest.approx(float(CASES[name].loss(student, teacher, *labels)), rel=1e-7)


@few
@given(seed=seeds)
def test_a_softer_student_has_the_same_correlations_when_classes_are_two(seed: int) -> None:
    # Two shares sum to one, so any student that ranks them alike is a linear function of its teacher.
    teacher = normal(5, 2, seed=seed)
    assert float(losses.dist_loss(0.3 * teacher, teacher, gamma=0)) == pytest.approx(0, abs=1e-9)
    assert float(losses.dist_loss(-teacher, teacher, gamma=0)) == pytest.approx(2 * 16)


@few
@given(seed=seeds, temperature=st.floats(0.5, 8))
def test_distillation_is_its_two_parts_with_the_teachers_doubt_as_weight(seed: int, temperature: float) -> None:
    student, teacher = pair(1, 6)(seed)
    doubt = 1 - float((teacher / temperature).softmax(1)[0, 2])
    parts = losses.dkd_loss(student, teacher, torch.tensor([2]), alpha=1, beta=doubt, temperature=temperature)
    assert float(parts) == pytest.approx(float(losses.kd_loss(student, teacher, temperature)), rel=1e-9)


@pytest.mark.parametrize("name", ["dkd", "dist", "kd_standardised"])
def test_weights_and_temperatures_are_taken(name: str) -> None:
    case = CASES[name]
    options = {"temperature": 1.5} | {"dkd": {"alpha": 0.3, "beta": 2.0}, "dist": {"beta": 2.0, "gamma": 0.5}}.get(
        name, {}
    )
    inputs = case.draw(5)
    assert float(case.loss(*inputs, **options)) == pytest.approx(case.plain(*arrays(inputs), **options), rel=1e-9)


@few
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_scale_and_basis_of_features_do_not_matter_to_diswots_terms(seed: int, scale: float) -> None:
    student, weight, teacher, teacher_weight = draw_semantic(seed)
    basis = torch.linalg.qr(normal(4, 4, seed=seed + 9)).Q
    turned, turned_weight = scale * torch.einsum("dc,bcp->bdp", basis, student), weight @ basis.T / scale**2
    assert float(losses.relation_loss(turned, teacher)) == pytest.approx(
        float(losses.relation_loss(student, teacher)), rel=1e-7
    )
    assert float(losses.semantic_loss(turned, turned_weight, teacher, teacher_weight)) == pytest.approx(
        float(losses.semantic_loss(student, weight, teacher, teacher_weight)), rel=1e-7
    )


@few
@given(seed=seeds, width=st.integers(1, 40))
def test_diswots_terms_are_two_less_twice_a_cosine_at_any_width(seed: int, width: int) -> None:
    student, teacher = normal(4, width, 6, seed=seed), normal(4, 7, 9, seed=seed + 1)
    first, second = (similarities.sample_gram(maps) for maps in (student, teacher))
    cosine = float((first * second).sum() / (first.norm() * second.norm()))
    assert float(losses.relation_loss(student, teacher)) == pytest.approx(2 - 2 * cosine, rel=1e-9, abs=1e-12)
    assert 0 <= float(losses.relation_loss(student, teacher)) <= 2
    weights = normal(5, width, seed=seed + 2), normal(5, 7, seed=seed + 3)
    assert 0 <= float(losses.semantic_loss(student, weights[0], teacher, weights[1])) <= 2


def read(arch: str, seed: int) -> Readings:
    """A CIFAR ResNet with random weights, read on noise."""
    torch.manual_seed(seed)
    model = timm.create_model("cifar_resnet", arch=arch, num_classes=5)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Readings(lambda: model, Probe.from_tensors(images, torch.tensor([0, 1, 4, 1, 2, 3]), 5))


def test_diswots_terms_are_the_squares_of_the_proxies() -> None:
    student, teacher = read("1-1-1", seed=0), read("2-1-2", seed=1)
    terms = {
        "semantic_paper": losses.semantic_loss(
            student.features, student.classifier_weight, teacher.features, teacher.classifier_weight
        ),
        "relation_paper": losses.relation_loss(student.features, teacher.features),
    }
    for name, loss in terms.items():
        proxy: Any = get_proxy(name)
        assert proxy(student, teacher) == pytest.approx(-(float(loss) ** 0.5), rel=1e-4)


# -- overhaul ------------------------------------------------------------------------------------


@few
@given(mean=st.floats(-5, 5), std=st.floats(0.1, 3))
def test_margin_is_the_mean_of_a_gaussian_where_it_is_negative(mean: float, std: float) -> None:
    margin = float(losses.ofd_margin(torch.tensor([mean]).double(), torch.tensor([std]).double()))
    if mean / std < 8:  # beyond, SciPy's own tail is rounding
        assert margin == pytest.approx(truncnorm.mean(-np.inf, -mean / std, mean, std), rel=1e-7, abs=1e-9)
    assert min(mean, 0) - std < margin < 0


def test_margin_holds_in_the_tails_and_without_spread() -> None:
    mean, std = torch.tensor([50.0, 1e4, -50.0, 2.0, 0.0, -2.0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    # Far above zero the mean of the tail is - std^2 / mean, but for terms of the order std^4 / mean^3.
    expected = torch.tensor([-0.02, -1e-4, -50.0, 0.0, 0.0, -2.0])
    torch.testing.assert_close(losses.ofd_margin(mean, std), expected, rtol=1e-3, atol=0)


def test_a_student_below_what_the_teacher_cuts_off_costs_nothing() -> None:
    teacher, margin = torch.tensor([[-3.0, -0.5, 2.0]]), torch.tensor([-1.0, -1.0, -1.0])
    below = torch.tensor([[-9.0, -0.6, 2.0]])
    assert float(losses.ofd_loss(below, teacher, margin)) == 0
    above = torch.tensor([[-0.8, -0.3, -1.0]])  # of the margin, of the teacher, and below a teacher that is positive
    assert float(losses.ofd_loss(above, teacher, margin)) == pytest.approx(0.2**2 + 0.2**2 + 3**2)


# -- review, hints, contrast ---------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
def test_pyramid_has_the_levels_that_are_smaller_than_the_maps(side: int) -> None:
    student, teacher = normal(2, 3, side, side), normal(2, 3, side, side, seed=1)
    expected = plain_reviewkd(student.numpy(), teacher.numpy())
    assert float(losses.reviewkd_loss(student, teacher)) == pytest.approx(expected, rel=1e-9)
    assert float(losses.reviewkd_loss(teacher + 3, teacher)) == pytest.approx(9)


def test_pyramid_of_a_column_of_tokens_is_a_column() -> None:
    student, teacher = normal(2, 3, 8, 1), normal(2, 3, 8, 1, seed=1)
    levels = [student - teacher]
    levels += [levels[0].unflatten(2, (side, 8 // side)).mean(3) for side in (4, 2, 1)]
    expected = sum(0.5**k * float(level.square().mean()) for k, level in enumerate(levels)) / 1.875
    assert float(losses.reviewkd_loss(student, teacher)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("width", [2, 16, 128, 2048])
def test_normaliser_is_that_of_random_directions(width: int) -> None:
    # (1 + c) / 2 of random directions is beta distributed. A cosine of 0 has odds of 1 to the mean, with one negative.
    shape = (width - 1) / 2
    mean = beta(shape, shape).expect(lambda share: np.exp((2 * share - 1) / 0.5))
    loss = float(losses.contrastive_loss(torch.zeros(1, 2).double(), width=width, temperature=0.5))
    assert loss == pytest.approx(np.log(1 + mean) + np.log(1 + 1 / mean), rel=1e-6)  # the quadrature's


def test_contrast_falls_with_the_positive_and_rises_with_each_negative() -> None:
    values = normal(1, 9).tanh().requires_grad_()
    (gradient,) = grad(losses.contrastive_loss(values, width=128), values)
    assert bool(gradient[0, 0] < 0)
    assert bool((gradient[0, 1:] > 0).all())


# -- degenerate and bad input --------------------------------------------------------------------


def assert_finite(loss: Callable[..., Tensor], student: Tensor, *others: Tensor) -> None:
    """A number, and a gradient that a training survives."""
    student = student.float().requires_grad_()
    value = loss(student, *(values.float() if values.is_floating_point() else values for values in others))
    assert torch.isfinite(value)
    (gradient,) = grad(value, student)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) < 1e6


ALL: dict[str, tuple[Callable[..., Tensor], Callable[[int], tuple[Tensor, ...]]]] = {
    **{name: (case.loss, case.draw) for name, case in CASES.items()},
    **{name: (getattr(losses, f"{name}_loss"), pair(5, 4, 6) if name in OF_MAPS else pair(5, 6)) for name in PLAIN},
}


@pytest.mark.parametrize("name", list(ALL))
def test_zeros_give_a_number_and_a_gradient(name: str) -> None:
    loss, draw = ALL[name]
    student, *others = draw(1)
    assert_finite(loss, torch.zeros_like(student), *others)
    assert_finite(loss, torch.zeros_like(student), *(torch.zeros_like(values) for values in others))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"contrastive"}))
@pytest.mark.parametrize("count", [1, 2])
def test_small_batches_give_a_number_and_a_gradient(name: str, count: int) -> None:
    loss, draw = ALL[name]
    student, *others = draw(2)
    by_sample = {"semantic": (1,), "dkd": (0, 1)}.get(name, (0,))
    others = [values[:count] if place in by_sample else values for place, values in enumerate(others)]
    assert_finite(loss, student[:count], *others)


@pytest.mark.parametrize("name", list(ALL))
def test_extreme_values_give_a_number_and_a_gradient(name: str) -> None:
    loss, draw = ALL[name]
    student, *others = draw(3)
    if name == "contrastive":
        assert_finite(loss, student.sign())  # cosines of plus and minus one
        return
    assert_finite(loss, 1e4 * student.sign(), *others)
    assert_finite(loss, 1e4 * student.sign(), 1e4 * others[0].sign(), *others[1:])


@pytest.mark.parametrize("name", sorted(set(ALL) - {"contrastive", "cc", "pkt", "sp"}))
def test_a_sample_of_zeros_among_others_gives_a_number_and_a_gradient(name: str) -> None:
    # Those left out divide by the norm of what is zero: their gradient is finite, but of the order 1e10. It is
    # nothing behind a ReLU, the only place where whole samples are zero.
    loss, draw = ALL[name]
    student, *others = draw(4)
    student[0] = 0
    assert_finite(loss, student, *others)


@pytest.mark.parametrize("name", ["kd_standardised", "dist"])
@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])  # the mean of seven of the last is rounded
def test_logits_that_are_all_the_same_have_no_gradient_rather_than_a_huge_one(name: str, value: float) -> None:
    _, teacher = pair(5, 7)(0)
    student = torch.full((5, 7), value, requires_grad=True)  # as a classifier gives that starts from zeros
    (gradient,) = grad(CASES[name].loss(student, teacher.float()), student)
    assert float(gradient.abs().max()) == 0


def test_a_batch_of_one_has_no_correlation_of_classes() -> None:
    student, teacher = pair(1, 6)(0)
    whole = float(losses.dist_loss(student, teacher, beta=0, gamma=1))
    assert whole == 16
    assert float(losses.cc_embedded_loss(student, teacher)) == 0


@pytest.mark.parametrize("name", ["kd_standardised", "dkd", "dist"])
def test_one_class_is_refused(name: str) -> None:
    _, _, *labels = CASES[name].draw(0)
    labels = [torch.zeros_like(values) for values in labels]
    with pytest.raises(ValueError, match=rf"{name} .* at least two; got 1"):
        CASES[name].loss(normal(5, 1), normal(5, 1, seed=1), *labels)


SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "kd_standardised": ((5, 6), (5, 7), "logits of the same classes"),
    "dist": ((5, 6), (5, 7), "logits of the same classes"),
    "fitnet": ((3, 4, 2), (3, 4, 3), "features of one shape"),
    "reviewkd": ((3, 4, 2, 2), (3, 5, 2, 2), "maps of one shape"),
    "cc_embedded": ((3, 4), (3, 5), "embeddings of one width"),
    "relation": ((3, 3), (2, 2), "as many samples"),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes_that_do_not_agree_are_refused(name: str) -> None:
    first, second, what = SHAPES[name]
    message = f"needs {what} in student and teacher, got ({', '.join(map(str, first))}) and"
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        CASES[name].loss(normal(*first), normal(*second))


def test_what_goes_by_channel_class_or_negative_must_be_there_for_each() -> None:
    maps = normal(3, 4, 2)
    with pytest.raises(ValueError, match=r"vid needs 4 variances, one per channel, got \(5,\)"):
        losses.vid_loss(maps, maps, normal(5))
    with pytest.raises(ValueError, match=r"ofd needs 4 margins, one per channel, got \(1,\)"):
        losses.ofd_loss(maps, maps, normal(1))
    with pytest.raises(ValueError, match=r"dkd needs logits of the same classes .* \(5, 6\) and \(5, 7\)"):
        losses.dkd_loss(normal(5, 6), normal(5, 7), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"semantic term needs as many classes .* \(5, 5\) and \(6, 6\)"):
        losses.semantic_loss(maps, normal(5, 4), maps, normal(6, 4))
    with pytest.raises(ValueError, match=r"at least one negative, got \(4, 1\)"):
        losses.contrastive_loss(normal(4, 1), width=WIDTH)
    with pytest.raises(ValueError, match=r"a temperature of 0\.001 is too small"):
        losses.contrastive_loss(normal(4, 3), width=WIDTH, temperature=0.001)


# -- single precision of the losses of `functional` ----------------------------------------------


@pytest.mark.parametrize("name", list(PLAIN))
@few
@given(seed=seeds)
def test_single_precision_of_functional_is_close_to_double(name: str, seed: int) -> None:
    loss, draw = ALL[name]
    student, teacher = (values.float() for values in draw(seed))
    exact = PLAIN[name](student.double().numpy(), teacher.double().numpy())
    assert float(loss(student, teacher)) == pytest.approx(exact, rel=1e-4, abs=1e-6)
