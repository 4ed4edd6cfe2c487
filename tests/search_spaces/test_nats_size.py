"""The size space of NATS-Bench: costs, cells that change channels, text."""

from __future__ import annotations

import random
from typing import Any

import pytest
import timm
import torch
from torch import nn

from diswot_search.networks.anatomy import Anatomy
from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import ArchitectureError, Cost, NATSBenchSizeNetwork, NATSBenchSizeSpace
from search_spaces.nasbench201 import Cell

from .test_nasbench201 import count_with_hooks


class TestNATSBenchSize(SearchSpaceContract):
    def create(self, **options: Any) -> NATSBenchSizeSpace:
        return NATSBenchSizeSpace(**options)

    def count(self, network: nn.Module, space: NATSBenchSizeSpace) -> Cost:
        return count_with_hooks(network, space.input_size)


@pytest.mark.parametrize("input_size", [(3, 32, 32), (1, 27, 30), (4, 9, 5)])
def test_cost_of_other_sizes_equals_the_counted_network(input_size: tuple[int, int, int]) -> None:
    space, rng = NATSBenchSizeSpace(120, input_size), random.Random(0)
    for architecture in [space.sample(rng) for _ in range(8)] + [space.parse("64:64:64:64:64")]:
        assert space.cost(architecture) == count_with_hooks(space.build(architecture), input_size)


def test_equal_widths_make_a_network_of_nasbench201s_cells() -> None:
    """Without a change of channels a cell has five convolutions of kernel 3."""
    space = NATSBenchSizeSpace()
    params = space.cost(space.parse("16:16:16:16:16")).params
    stem, cells = 3 * 9 * 16 + 32, 3 * 5 * (9 * 16 * 16 + 32)
    reductions = 2 * (2 * (9 * 16 * 16 + 32) + 16 * 16)
    assert params == stem + cells + reductions + 32 + 17 * 10


def test_a_skip_connection_changes_channels_without_an_activation() -> None:
    cell = Cell(["none", "none", "none", "skip_connect", "none", "none"], 5, in_channels=3).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = nn.functional.conv2d(x, cell.edges[3][0].weight) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(cell(x), expected)


def test_stages_are_found_at_their_ends() -> None:
    space = NATSBenchSizeSpace()
    anatomy = Anatomy(space.build(space.parse("8:16:24:32:40")).eval(), torch.randn(2, 3, 32, 32), "network")
    assert [stage.shape for stage in anatomy.stages] == [(8, 32, 32), (24, 16, 16), (40, 8, 8)]


@pytest.mark.parametrize(
    ("text", "message"), [("8:8:8:8", "5 widths joined by ':', this has 4"), ("8:8:8:8:9", "'9' is no choice of")]
)
def test_malformed_widths_say_where(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        NATSBenchSizeSpace().parse(text)


def test_timm_makes_the_network() -> None:
    network = timm.create_model("nats_bench_size", arch="8:16:24:32:40", num_classes=7, in_chans=1)
    space = NATSBenchSizeSpace(7, (1, 32, 32))
    assert count_with_hooks(network, (1, 32, 32)) == space.cost(space.parse("8:16:24:32:40"))
    with pytest.raises(ValueError, match="has 5 widths; got 2"):
        NATSBenchSizeNetwork([8, 8])
