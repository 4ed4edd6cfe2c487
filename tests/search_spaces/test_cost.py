"""Costs: closed forms against counting, sizes of weights, and memory against plain arithmetic."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search_spaces import SearchSpace, create_space
from search_spaces.cost import Memory, count_cost, count_cost_of, count_memory, count_memory_of
from search_spaces.timm_families import TIMM_FAMILIES
from search_spaces.timm_space import TimmSpace

SIZES: dict[bool, list[tuple[int, int, int]]] = {
    False: [(3, 224, 224), (1, 96, 80), (4, 131, 64)],
    True: [(3, 32, 32), (1, 40, 36), (4, 33, 64)],
}
"""Sizes of images by whether the family is for small ones."""


# -- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM_FAMILIES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 2), classes=st.integers(1, 1000))
def test_the_closed_form_of_a_family_is_what_counting_gives(name: str, seed: int, size: int, classes: int) -> None:
    space = create_space(name, num_classes=classes, input_size=SIZES[name.endswith("_32")][size])
    architecture = space.sample(random.Random(seed))
    counted = count_cost_of(lambda: space.build(architecture), space.input_spec)
    cost = space.cost(architecture)
    assert space.has_closed_cost
    assert (cost, cost.weight_bytes) == (counted, counted.weight_bytes)


@pytest.mark.parametrize("name", ["timm/vit_32", "timm/regnet_32"])
def test_a_closed_form_builds_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = create_space(name)
    monkeypatch.setattr(TimmSpace, "build", None)
    assert space.cost(next(iter(space))).params > 0


def test_a_closed_form_refuses_images_that_are_too_small() -> None:
    space = create_space("timm/vit", input_size=(3, 8, 8))
    with pytest.raises(ValueError, match="too small"):
        space.cost(next(iter(space)))


def test_a_space_of_ones_own_is_counted() -> None:
    space = TimmSpace("mine", "convnext_atto", {"depths.0": [1, 2]}, fixed={"depths": [1, 1, 2, 1]})
    assert not space.has_closed_cost
    assert space.cost(next(iter(space))).params > 0


class Other(SearchSpace):
    """A space with a cost of its own."""

    def build(self, architecture: Any) -> nn.Module:
        raise NotImplementedError

    def cost(self, architecture: Any) -> Any:
        return None


def test_a_space_with_a_cost_of_its_own_has_a_closed_form() -> None:
    assert Other("other", {"a": [1]}, num_classes=2, input_size=(3, 8, 8)).has_closed_cost


# -- size and memory ----------------------------------------------------------------------------


def test_weights_are_those_of_the_state() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert count_cost(network, (3, 8, 8)).weight_bytes == sum(v.nbytes for v in network.state_dict().values())


def in_floats(memory: Memory) -> float:
    return memory.activations / 4


def test_memory_is_what_is_alive_at_once() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1), nn.Conv2d(1, 2, 1))
    assert in_floats(count_memory(wide, (1, 10, 10))) == 500  # one map in and four out, and then the reverse
    assert in_floats(count_memory(wide, (1, 10, 10), batch_size=3)) == 1500


class Residual(nn.Module):
    """Two convolutions with an identity beside them."""

    def __init__(self, shortcut: bool) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return inner + x if self.shortcut else inner


def test_a_shortcut_is_kept_and_a_relu_takes_no_memory() -> None:
    assert in_floats(count_memory(Residual(shortcut=False), (1, 10, 10))) == 500
    assert in_floats(count_memory(Residual(shortcut=True), (1, 10, 10))) == 600


def test_a_value_behind_a_gate_is_kept() -> None:
    assert in_floats(count_memory(nn.Sequential(nn.Conv2d(1, 2, 1), nn.SiLU()), (1, 10, 10))) == 400


@pytest.mark.parametrize("name", ["timm/vit_32", "timm/mobilenetv3_32", "timm/resnet_32", "nasbench201"])
def test_memory_is_the_same_without_values(name: str) -> None:
    space = create_space(name)
    architecture = space.sample(random.Random(0))
    network = space.build(architecture)
    training = network.training
    assert count_memory_of(lambda: space.build(architecture), space.input_spec, 2) == count_memory(
        network, space.input_spec, 2
    )
    assert network.training == training
