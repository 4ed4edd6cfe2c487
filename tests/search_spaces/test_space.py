"""Architectures and what every search space can do, on spaces that a user might write."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diswot_search.testing.spaces import SearchSpaceContract, decisions_apart
from search_spaces import Architecture, ArchitectureError, Cost, SearchSpace, count_cost
from search_spaces.contract import ClassifierMixin


class OneLayer(ClassifierMixin, nn.Module):
    def __init__(self, kernel: int, width: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, kernel)
        self._init_head(width, num_classes, drop_rate=0.0)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class OneLayerSpace(SearchSpace):
    """The least that a space of one's own defines."""

    def __init__(self, num_classes: int = 4, input_size: tuple[int, int, int] = (3, 8, 8)) -> None:
        decisions = {"kernel": (1, 3), "width": (4, 6, 8)}
        super().__init__("one_layer", decisions, num_classes=num_classes, input_size=input_size)

    def build(self, architecture: Architecture) -> nn.Module:
        kernel, width = map(int, architecture.choices)
        return OneLayer(kernel, width, self.num_classes, self.input_size[0])


class TestOneLayerSpace(SearchSpaceContract):
    def create(self, **options: Any) -> SearchSpace:
        return OneLayerSpace(**options)

    def test_cost_without_a_closed_form(self) -> None:
        space = self.create()
        params = 3 * 9 * 6 + 6 + 6 * 4 + 4
        assert space.cost(space.parse("kernel=3,width=6")) == Cost(params, 3 * 9 * 6 * 36 + 6 * 4)


class AnySpace(SearchSpace):
    """A space of any decisions; its networks do not matter."""

    def __init__(self, decisions: dict[str, list[Any]]) -> None:
        super().__init__("any", decisions, num_classes=2, input_size=(3, 8, 8))

    def build(self, architecture: Architecture) -> nn.Module:
        raise NotImplementedError


words = st.text("abcdefghij_", min_size=1, max_size=6)
choices = (
    st.lists(st.integers(-5, 300), min_size=1, max_size=5, unique=True)
    | st.lists(st.floats(allow_nan=False), min_size=1, max_size=4, unique=True)
    | st.lists(words, min_size=1, max_size=4, unique=True)
    | st.just([True, False])
)
spaces = st.dictionaries(words, choices, min_size=1, max_size=5).map(AnySpace)


@given(space=spaces, rng=st.randoms(use_true_random=False))
def test_any_decisions_make_a_space(space: SearchSpace, rng: random.Random) -> None:
    first, second = space.sample(rng), space.sample(rng)
    is_open = any(len(c) > 1 for c in space.decisions.values())
    assert space.parse(str(first)) == first
    assert space.mutate(first, rng) in space
    assert decisions_apart(first, space.mutate(first, rng)) == is_open
    child = space.crossover(first, second, rng)
    assert decisions_apart(child, first) + decisions_apart(child, second) == decisions_apart(first, second)
    assert len(set(space)) == space.size == len(space)


@given(space=spaces)
def test_iteration_changes_the_last_decision_fastest(space: SearchSpace) -> None:
    listed = list(space)
    assert listed[0].choices == tuple(c[0] for c in space.decisions.values())
    assert listed[-1].choices == tuple(c[-1] for c in space.decisions.values())
    last = list(space.decisions.values())[-1]
    assert [a.choices[-1] for a in listed[: len(last)]] == list(last)


def test_mutation_reaches_every_neighbour() -> None:
    space = OneLayerSpace()
    start = space.parse("kernel=1,width=4")
    rng = random.Random(0)
    assert {space.mutate(start, rng) for _ in range(100)} == set(space.neighbours(start))


def test_crossover_draws_evenly_from_both_parents() -> None:
    space = OneLayerSpace()
    first, second = space.parse("kernel=1,width=4"), space.parse("kernel=3,width=8")
    rng = random.Random(0)
    children = [str(space.crossover(first, second, rng)) for _ in range(2000)]
    assert set(children) == {f"kernel={k},width={w}" for k in (1, 3) for w in (4, 8)}
    assert all(abs(children.count(c) - 500) < 100 for c in set(children))  # 5 standard deviations


def test_sampling_is_even() -> None:
    space = OneLayerSpace()
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(3000)]
    assert all(abs(drawn.count(a) - 500) < 100 for a in space)  # 5 standard deviations


def test_equal_choices_of_another_type_are_ours() -> None:
    space = OneLayerSpace()
    architecture = space.architecture([3.0, 6.0])
    assert str(architecture) == "kernel=3,width=6"
    assert space.parse(str(architecture)) == architecture


def test_a_space_too_large_for_len_is_a_space() -> None:
    space = AnySpace({f"d{i}": list(range(10)) for i in range(30)})
    assert space.size == 10**30
    assert space
    assert space.sample(random.Random(0)) in space


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({}, "no decisions"),
        ({"a": []}, "'a' of 'any' has no choices"),
        ({"a": [1, 1]}, "'a' of 'any' has a choice twice"),
        ({"a": [1, "1"]}, "'a' of 'any' has a choice twice"),
        ({"a": [1, 1.0]}, "'a' of 'any' has a choice twice"),
    ],
)
def test_decisions_that_decide_nothing_are_refused(decisions: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnySpace(decisions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel", "'kernel' is not of the form decision=choice"),
        ("kernl=3,width=6", "no decision 'kernl'; near: kernel"),
        ("kernel=3,kernel=3", "'kernel' is given twice"),
        ("kernel=3", "without a choice: width"),
        ("kernel=5,width=6", "'5' is no choice of 'kernel'; allowed: 1, 3"),
        ("kernel=3,width=66", "'66' is no choice of 'width'; allowed: 4, 6, 8"),
    ],
)
def test_malformed_text_says_where_and_shows_an_example(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        OneLayerSpace().parse(text)
    assert message in str(caught.value)
    assert "Example: kernel=1,width=4" in str(caught.value)


def test_a_split_of_the_wrong_length_is_an_architecture_error() -> None:
    class Dashed(OneLayerSpace):
        def split(self, text: str) -> list[str]:
            return text.split("-")

    with pytest.raises(ArchitectureError, match="2 choices are needed, got 3"):
        Dashed().parse("1-4-4")


def test_choices_by_name_must_be_those_of_the_space() -> None:
    with pytest.raises(ArchitectureError, match="one_layer decides kernel, width; got kernel, depth"):
        OneLayerSpace().architecture({"kernel": 1, "depth": 2})


def test_architectures_of_another_shape_are_not_in_a_space() -> None:
    space = OneLayerSpace()
    assert Architecture((3, 6), "") in space
    assert Architecture((3, 5), "") not in space
    assert Architecture((3,), "") not in space
    assert "kernel=3,width=6" not in space


class Moody(OneLayer):
    """A network that needs real numbers, which there are none of on the meta device."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward_features(x) * (1 if self.conv.weight.sum().item() > -1e9 else 0)


def test_networks_that_need_real_numbers_are_counted_too() -> None:
    class MoodySpace(OneLayerSpace):
        def build(self, architecture: Architecture) -> nn.Module:
            return Moody(3, 6, self.num_classes, self.input_size[0])

    state = torch.get_rng_state()
    cost = MoodySpace().cost(OneLayerSpace().parse("kernel=3,width=6"))
    assert cost == OneLayerSpace().cost(OneLayerSpace().parse("kernel=3,width=6"))
    assert torch.equal(state, torch.get_rng_state())


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.Flatten(), nn.Linear(4 * 36, 2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network[0].weight.requires_grad_(False)
    cost = count_cost(network, (3, 8, 8))
    assert cost == Cost(params=4 + 8 + 288 + 2, macs=27 * 4 * 36 + 288)
    assert [m.training for m in network] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
