"""NAS-Bench-101: against what is published of its cells, and by what its cells compute."""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diswot_search.networks.anatomy import Anatomy
from diswot_search.study.budget import Budget, cheapest, check_satisfiable
from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import ArchitectureError, NASBench101Network, NASBench101Space, count_cost, create_space
from search_spaces.nasbench101 import CHEAPEST, INCEPTION, OPERATIONS, Cell, CellModule, vertex_channels

# The authors' example, as given and as their file has it; and the first cell of the file with its key and parameters.
GIVEN = ["0111010", "0000001", "0000001", "0000100", "0000001", "0000001", "0000000"]
GIVEN_OPERATIONS = ["input", "conv1x1", "conv3x3", "conv3x3", "conv3x3", "maxpool3x3", "output"]
STORED = ["0111100", "0000001", "0000001", "0000001", "0000010", "0000001", "0000000"]
STORED_OPERATIONS = ["input", "conv3x3", "conv1x1", "maxpool3x3", "conv3x3", "conv3x3", "output"]
FIRST = ["0100110", "0010000", "0001001", "0000010", "0000010", "0000001", "0000000"]
FIRST_OPERATIONS = ["input", *(f"{op}-bn-relu" for op in ("conv3x3", "?", "conv3x3", "conv3x3", "conv1x1")), "output"]
FIRST_OPERATIONS[2] = "maxpool3x3"
FIRST_KEY, FIRST_PARAMETERS = "00005c142e6f48ac74fdcf73e3439874", 8_555_530


def rows(matrix: list[str]) -> list[list[int]]:
    return [[int(one) for one in row] for row in matrix]


def sample_of(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "tables" / "nasbench101_sample.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def space() -> NASBench101Space:
    return NASBench101Space()


class TestNASBench101(SearchSpaceContract):
    changes = (*SearchSpaceContract.changes, {"channels": 24}, {"cells": 1})
    mutates_one_decision = False

    def create(self, **options: Any) -> NASBench101Space:
        return NASBench101Space(**{"channels": 16, "cells": 2} | options)


# -- what is published --------------------------------------------------------------------------


def test_the_published_example(space: NASBench101Space) -> None:
    given = space.from_matrix(rows(GIVEN), GIVEN_OPERATIONS)
    assert str(given) == INCEPTION
    assert space.cost(given).params == 2_694_282
    assert sum(p.numel() for p in space.build(given).parameters()) == 2_694_282
    assert space.canonical(given) == space.from_matrix(rows(STORED), STORED_OPERATIONS)


def test_a_published_key(space: NASBench101Space) -> None:
    architecture = space.from_matrix(rows(FIRST), FIRST_OPERATIONS)
    assert space.module_hash(architecture) == FIRST_KEY
    assert space.cost(architecture).params == FIRST_PARAMETERS
    assert space.canonical(architecture) == architecture


def test_costs_equal_those_of_published_cells(shared_data: Path, space: NASBench101Space) -> None:
    table = sample_of(shared_data)
    assert len(table) == 239
    for row in table:
        architecture = space.from_matrix(rows(row["matrix"].split("|")), row["ops"].split(","))
        assert space.cost(architecture).params == round(float(row["params_m"]) * 1e6)


@pytest.mark.parametrize(("vertices", "expected"), [(2, 1), (3, 7), (4, 91)])
def test_the_number_of_distinct_cells(space: NASBench101Space, vertices: int, expected: int) -> None:
    """Counted by brute force over all matrices; the benchmark's 423,624 cells take too long."""
    pairs = list(itertools.combinations(range(vertices), 2))
    keys, forms = set(), set()
    for bits in itertools.product((0, 1), repeat=len(pairs)):
        matrix = [[0] * vertices for _ in range(vertices)]
        for (source, target), bit in zip(pairs, bits, strict=True):
            matrix[source][target] = bit
        for operations in itertools.product(OPERATIONS, repeat=vertices - 2):
            try:
                architecture = space.from_matrix(matrix, ["input", *operations, "output"])
            except ArchitectureError:
                continue
            keys.add(space.module_hash(architecture))
            forms.add(space.canonical(architecture))
    assert len(keys) == len(forms) == expected


# -- cells --------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_orders_of_one_graph_share_form_and_key(seed: int) -> None:
    """Vertices are renumbered at random, and dead ones are added."""
    space, rng = NASBench101Space(), random.Random(seed)
    architecture = space.sample(rng)
    cell = space.cell(architecture)
    last, labels = len(cell.sources), ["input", *cell.operations, "output"]
    order = [0]
    while len(order) <= last:
        ready = [v for v in range(1, last + 1) if v not in order and set(cell.sources[v - 1]) <= set(order)]
        order.append(rng.choice([v for v in ready if v != last] or ready))
    places = {vertex: place for place, vertex in enumerate(order)}
    matrix = [[0] * (last + 1) for _ in order]
    for source, target in cell.edges:
        matrix[places[source]][places[target]] = 1
    other = space.from_matrix(matrix, [labels[vertex] for vertex in order])
    assert space.canonical(other) == space.canonical(architecture)
    assert space.module_hash(other) == space.module_hash(architecture)
    form = space.canonical(architecture)
    assert space.cell(form).operations == form.choices[21 : 21 + last - 1]


def test_cells_with_other_operations_have_other_keys(space: NASBench101Space) -> None:
    architecture = space.parse(INCEPTION)
    keys = {space.module_hash(n) for n in space.neighbours(architecture)}
    assert space.module_hash(architecture) not in keys


def test_only_valid_cells_are_architectures(space: NASBench101Space) -> None:
    with pytest.raises(ArchitectureError, match="nasbench101: no path leads from the input to the output"):
        space.architecture([0] * 21 + ["conv3x3"] * 5)
    with pytest.raises(ArchitectureError, match="21 edges are on paths; at most 9 may be"):
        space.architecture([1] * 21 + ["conv3x3"] * 5)
    with pytest.raises(ArchitectureError, match=r"upper triangular; got the edge \(1, 0\)"):
        space.from_matrix([[0, 1], [1, 0]], ["input", "output"])
    with pytest.raises(ArchitectureError, match="has 2 to 7 vertices"):
        space.from_matrix([[0, 1]], ["input", "output"])
    for seed in range(200):
        rng = random.Random(seed)
        first, second = space.sample(rng), space.sample(rng)
        for architecture in (first, space.mutate(first, rng), space.crossover(first, second, rng)):
            assert 1 <= len(space.cell(architecture).edges) <= 9
            assert architecture in space


def test_dead_vertices_come_to_life(space: NASBench101Space) -> None:
    rng, architecture, sizes = random.Random(0), space.parse("output~0"), set()
    for _ in range(300):
        mutant = space.mutate(architecture, rng)
        assert space.cell(mutant) != space.cell(architecture)
        architecture = space.canonical(mutant)
        sizes.add(len(space.cell(architecture).operations))
    assert sizes >= {1, 2, 3, 4, 5}


def test_indices_are_those_of_the_order(space: NASBench101Space) -> None:
    for index, architecture in enumerate(itertools.islice(space, 500)):
        assert space.at(index) == architecture
    assert space.at(space.size - 1) in space


def test_the_cheapest_cell_is_found(space: NASBench101Space) -> None:
    architecture, params = cheapest(space, "params")
    assert str(architecture) == CHEAPEST
    rng = random.Random(0)
    assert all(space.cost(space.sample(rng)).params >= params for _ in range(200))
    assert space.cost(check_satisfiable(space, Budget(max_params=500_000))).params <= 500_000


def test_it_is_a_member_of_a_union() -> None:
    union = create_space(["nasbench101", "nasbench201"])
    rng = random.Random(0)
    for _ in range(30):
        architecture = union.mutate(union.sample(rng), rng)
        assert architecture in union
        assert union.parse(str(architecture)) == architecture
    with pytest.raises(ArchitectureError, match="Example: nasbench101:maxpool3x3~0"):
        union.parse("?")


# -- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv3x3~0", "the last of these 1 is 'conv3x3~0'"),
        ("|".join(["conv3x3~0"] * 6) + "|output~1", "the last of these 7 is 'output~1'"),
        ("conv3x3~0|output~2", "vertex 2, 'output~2', must be an operation and"),
        ("conv3x3~0|output~1~0", "from 0 to 1 in rising order"),
        ("conv3x3~x|output~1", "vertex 1, 'conv3x3~x'"),
        ("conv3x4~0|output~1", "'conv3x4' is no choice of 'node1_operation'; near: conv3x3"),
        ("conv3x3|output~1", "no path leads from the input to the output"),
    ],
)
def test_malformed_cells_say_where(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        NASBench101Space().parse(text)
    assert message in str(caught.value)
    assert "nasbench101" in str(caught.value)


# -- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_classes", "input_size", "channels", "cells"),
    [(100, (3, 32, 32), 128, 1), (7, (1, 27, 30), 10, 2), (3, (3, 33, 5), 5, 3), (1, (4, 1, 1), 7, 1)],
)
def test_cost_of_other_sizes_equals_the_counted_network(
    num_classes: int, input_size: tuple[int, int, int], channels: int, cells: int
) -> None:
    space = NASBench101Space(num_classes, input_size, channels, cells)
    rng = random.Random(0)
    for architecture in [space.sample(rng) for _ in range(6)] + space.starts:
        assert space.cost(architecture) == count_cost(space.build(architecture), input_size)


@pytest.mark.parametrize("wrong", [{"channels": 4}, {"cells": 0}, {"cells": 1001}])
def test_impossible_networks_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        NASBench101Space(**wrong)


def test_channels_follow_the_benchmarks_rule() -> None:
    """One vertex leads to two of the three branches, which are 43, 43 and 42 wide, and one to a vertex of 42."""
    cell = Cell(((0,), (0,), (1, 2), (1,), (2,), (3, 4, 5)), ("conv3x3",) * 5)
    assert vertex_channels(cell, 128) == [43, 43, 43, 43, 42]


def test_a_cell_adds_truncates_and_joins() -> None:
    cell = Cell(((0,), (0, 1), (1,), (0, 2, 3)), ("maxpool3x3", "conv1x1", "conv3x3"))
    module = CellModule(cell, 4, 7).eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        one = nn.functional.max_pool2d(module.projections["1"](x), 3, 1, 1)
        two = module.operations[1](one + module.projections["2"](x))
        three = module.operations[2](one[:, :3])
        expected = torch.cat([two, three], 1) + module.projections["4"](x)
        assert (one.shape[1], two.shape[1], three.shape[1]) == (4, 4, 3)
        torch.testing.assert_close(module(x), expected)


def test_stages_are_found_at_their_ends() -> None:
    space = NASBench101Space(channels=8, cells=1)
    network = space.build(space.parse(INCEPTION)).eval()
    anatomy = Anatomy(network, torch.randn(2, 3, 32, 32), "network")
    assert [stage.shape for stage in anatomy.stages] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]


def test_timm_makes_the_network_of_a_cell() -> None:
    network = timm.create_model("nasbench101", arch="output~0", num_classes=7, in_chans=1, channels=8, cells=2)
    assert isinstance(network, NASBench101Network)
    space = NASBench101Space(7, (1, 32, 32), channels=8, cells=2)
    assert count_cost(network, (1, 32, 32)) == space.cost(space.parse("output~0"))
    with pytest.raises(ArchitectureError, match="nasbench101"):
        timm.create_model("nasbench101", arch="3-3-3")
    with pytest.raises(RuntimeError, match="no pretrained weights for 'nasbench101'"):
        timm.create_model("nasbench101", pretrained=True)
