"""NAS-Bench-Macro: costs, equal networks, text."""

from __future__ import annotations

import random
from typing import Any

import pytest
import timm
import torch

from diswot_search.networks.anatomy import Anatomy
from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import ArchitectureError, NASBenchMacroNetwork, NASBenchMacroSpace, count_cost


class TestNASBenchMacro(SearchSpaceContract):
    def create(self, **options: Any) -> NASBenchMacroSpace:
        return NASBenchMacroSpace(**options)


@pytest.mark.parametrize("input_size", [(1, 27, 30), (4, 9, 5)])
def test_cost_of_other_sizes_equals_the_counted_network(input_size: tuple[int, int, int]) -> None:
    space, rng = NASBenchMacroSpace(120, input_size), random.Random(0)
    for architecture in [space.sample(rng) for _ in range(6)] + [space.parse("00000000"), space.parse("22222222")]:
        assert space.cost(architecture) == count_cost(space.build(architecture), input_size)


@pytest.mark.parametrize(
    ("text", "form"), [("00102012", "00120012"), ("21000000", "21000000"), ("10200002", "10200020")]
)
def test_identities_within_a_stage_come_last(text: str, form: str) -> None:
    space = NASBenchMacroSpace()
    architecture = space.parse(text)
    assert str(space.canonical(architecture)) == form
    networks = []
    for one in (text, form):
        torch.manual_seed(1)
        networks.append(space.build(space.parse(one)).eval())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(networks[0](images), networks[1](images))


def test_the_number_of_distinct_networks() -> None:
    """A stage of n layers has 3 first ones, and 2^k orders of each number k of other blocks."""
    space = NASBenchMacroSpace()
    assert len({space.canonical(architecture) for architecture in space}) == (3 * 3) * (3 * 7) * (3 * 7)


def test_stages_are_found_at_their_ends() -> None:
    space = NASBenchMacroSpace()
    network = space.build(space.parse("21102202")).eval()
    anatomy = Anatomy(network, torch.randn(2, 3, 32, 32), "network")
    assert [stage.shape[1:] for stage in anatomy.stages][-3:] == [(16, 16), (8, 8), (4, 4)]


def test_malformed_text_and_blocks_are_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"nasbench_macro: an architecture is 8 digits from 0 to 2"):
        NASBenchMacroSpace().parse("00003000")
    with pytest.raises(ValueError, match="has 8 blocks; got 1"):
        NASBenchMacroNetwork(["identity"])
    with pytest.raises(ValueError, match=r"Unknown block 'mb3_k4'\. Did you mean 'mb3_k3'"):
        NASBenchMacroNetwork(["mb3_k4"] * 8)
    assert timm.create_model("nasbench_macro", arch="00000000", num_classes=7).num_classes == 7
