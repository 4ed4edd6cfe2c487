"""NAS-Bench-201: against the benchmark's table and string form, and by what its cells compute."""

from __future__ import annotations

import csv
import functools
import gzip
import random
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import Architecture, ArchitectureError, Cost, NASBench201Network, NASBench201Space
from search_spaces.nasbench201 import EDGES, OPERATIONS, Cell

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"


def work_per_value(module: nn.Module) -> int:
    """The benchmark's multiply-accumulates of one module for each value that it gives out."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return module.weight[0].numel()
    if isinstance(module, nn.AvgPool2d):
        return int(module.kernel_size) ** 2
    return 3 if isinstance(module, nn.BatchNorm2d) else 0


def count_with_hooks(network: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Counts as the benchmark does, by the sizes of what the modules give out.

    The benchmark computes every edge of a cell, that of a zero input too; ours leaves those out, so a cell's
    edges are counted from the size of its output, which all of them share.
    """
    macs = 17 * network.num_features

    def add(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal macs
        parts = module.modules() if isinstance(module, Cell) else [module]
        macs += output.numel() * sum(map(work_per_value, parts))

    in_cells = {part for cell in network.modules() if isinstance(cell, Cell) for part in cell.edges.modules()}
    handles = [m.register_forward_hook(add) for m in network.modules() if m not in in_cells]
    with torch.no_grad():
        network.eval()(torch.zeros(1, *input_size))
    for handle in handles:
        handle.remove()
    return Cost(sum(p.numel() for p in network.parameters()), macs)


class TestNASBench201(SearchSpaceContract):
    changes = (*SearchSpaceContract.changes, {"channels": 8}, {"cells": 1})

    def create(self, **options: Any) -> NASBench201Space:
        return NASBench201Space(**options)

    def count(self, network: nn.Module, space: NASBench201Space) -> Cost:
        return count_with_hooks(network, space.input_size)


# -- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_every_cost_equals_the_benchmarks_table(shared_data: Path, dataset: str, num_classes: int) -> None:
    space = NASBench201Space(num_classes)
    with gzip.open(shared_data / "nasbench201.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15_625
    for row in rows:
        cost = space.cost(space.parse(row["arch"]))
        assert cost.macs == round(float(row[f"{dataset}_mmacs"]) * 1e6)
        assert cost.params == round(float(row[f"{dataset}_mparams"]) * 1e6)


@pytest.mark.parametrize(
    ("num_classes", "input_size", "channels", "cells"),
    [(120, (3, 16, 16), 16, 5), (7, (1, 27, 30), 8, 1), (3, (3, 33, 65), 4, 2), (1, (4, 9, 5), 1, 1)],
)
def test_cost_of_other_sizes_equals_the_counted_network(
    num_classes: int, input_size: tuple[int, int, int], channels: int, cells: int
) -> None:
    space = NASBench201Space(num_classes, input_size, channels, cells)
    rng = random.Random(0)
    for architecture in [space.sample(rng) for _ in range(8)] + [space.parse(DISCONNECTED)]:
        assert space.cost(architecture) == count_with_hooks(space.build(architecture), input_size)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"cells": 0}])
def test_networks_of_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is 0"):
        NASBench201Space(**wrong)


# -- canonical form -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def canonical() -> dict[Architecture, Architecture]:
    space = NASBench201Space()
    return {architecture: space.canonical(architecture) for architecture in space}


def test_there_are_4930_classes_and_one_of_them_is_disconnected(canonical: dict[Architecture, Architecture]) -> None:
    space = NASBench201Space()
    assert len(canonical) == 15_625
    assert len(set(canonical.values())) == 4_930
    disconnected = [a for a in canonical if not space.is_trainable(a)]
    assert len(disconnected) == 341
    assert {str(canonical[a]) for a in disconnected} == {"|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"}
    assert all(space.is_trainable(canonical[a]) for a in set(canonical) - set(disconnected))


def test_canonical_forms_are_their_own_and_never_cost_more(canonical: dict[Architecture, Architecture]) -> None:
    space = NASBench201Space()
    cost = {architecture: space.cost(architecture) for architecture in canonical}
    for architecture, form in canonical.items():
        assert canonical[form] == form
        assert str(form) == str(space.parse(str(form)))
        assert cost[form].params <= cost[architecture].params
        assert cost[form].macs <= cost[architecture].macs


def edge_values(choices: tuple[Any, ...]) -> list[str]:
    """A name for what each edge computes: equal where operation and summands of the source are equal."""
    summands: list[Counter[str]] = [Counter(["input"]), Counter(), Counter(), Counter()]
    names = []
    for (target, source), operation in zip(EDGES, choices, strict=True):
        value = "+".join(sorted(summands[source].elements()))
        names.append(f"{operation}({value})")
        if operation == "skip_connect":
            summands[target] += summands[source]
        elif operation != "none" and value:
            summands[target][names[-1]] += 1
    return names


def logits_with_shared_weights(space: NASBench201Space, architecture: Architecture, seed: int) -> torch.Tensor:
    """Output of the network whose edges have weights by what they compute, so that equal edges are the same."""
    network = space.build(architecture).double()
    names = edge_values(architecture.choices)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            shared = re.sub(r"edges\.(\d)", lambda match: names[int(match[1])], key)
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {shared}".encode()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4 + 0.1)
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return network(images)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_canonical_forms_compute_the_same(seed: int) -> None:
    space = NASBench201Space(num_classes=3, input_size=(3, 8, 8), channels=3, cells=1)
    architecture = space.sample(random.Random(seed))
    logits = logits_with_shared_weights(space, architecture, seed)
    torch.testing.assert_close(logits, logits_with_shared_weights(space, space.canonical(architecture), seed))


@pytest.mark.parametrize(
    ("cell", "form"),
    [  # a dead convolution; a chain of skips; two paths in the other order
        (
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
            "|none~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
        ),
        (
            "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|",
            "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
        ),
        (
            "|avg_pool_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|skip_connect~1|skip_connect~2|",
            "|nor_conv_1x1~0|+|avg_pool_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|",
        ),
    ],
)
def test_cells_that_are_equal_share_their_form(cell: str, form: str) -> None:
    space = NASBench201Space(num_classes=3, input_size=(3, 8, 8), channels=3, cells=1)
    first, second = space.parse(cell), space.parse(form)
    assert space.canonical(first) == space.canonical(second)
    torch.testing.assert_close(
        logits_with_shared_weights(space, first, 0), logits_with_shared_weights(space, second, 0)
    )


def test_cells_that_differ_in_a_live_operation_do_not_share_their_form() -> None:
    space = NASBench201Space()
    best = space.parse(BEST)
    assert all(space.canonical(n) != space.canonical(best) for n in space.neighbours(best))


@pytest.mark.parametrize("text", [DISCONNECTED, BEST])
def test_only_disconnected_cells_ignore_the_images(text: str) -> None:
    space = NASBench201Space(channels=4, cells=1)
    architecture = space.parse(text)
    network = space.build(architecture).eval()
    with torch.no_grad():
        first, second = network(torch.randn(2, *space.input_size))
    assert torch.equal(first, second) != space.is_trainable(architecture)


# -- text ---------------------------------------------------------------------------------------


def test_text_is_read_as_the_benchmark_reads_it() -> None:
    api = pytest.importorskip("nas_201_api", reason="the extra `benchmarks` is not installed").NASBench201API
    space = NASBench201Space()
    rng = random.Random(0)
    for architecture in [space.sample(rng) for _ in range(200)]:
        nodes = api.str2lists(str(architecture))
        assert [edge for node in nodes for edge in node] == [
            (operation, source) for operation, (_, source) in zip(architecture.choices, EDGES, strict=True)
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|none~0|+|none~0|none~1|", "a cell has 3 nodes joined by '+', this has 2"),
        (
            BEST.replace("conv_3x3~2", "conv_3x4~2"),
            "'nor_conv_3x4' is no choice of 'node3_from_node2'; near: nor_conv_3x3",
        ),
        (BEST.replace("~2", "~1"), "edge 2 of node 3 must end in '~2', got 'nor_conv_3x3~1'"),
        (BEST.replace("~2", ""), "edge 2 of node 3 must end in '~2', got 'nor_conv_3x3'"),
        (BEST[1:], "node 1 must be 1 edges between '|'"),
        ("|" + BEST, "node 1 must be 1 edges between '|'"),
        ("|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1"),
    ],
)
def test_malformed_cells_say_where(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        NASBench201Space().parse(text)
    assert message in str(caught.value)


# -- the network --------------------------------------------------------------------------------


def test_timm_makes_the_network_of_a_cell() -> None:
    network = timm.create_model("nasbench201", arch=DISCONNECTED, num_classes=7, in_chans=1, channels=4, cells=2)
    assert isinstance(network, NASBench201Network)
    space = NASBench201Space(7, (1, 32, 32), channels=4, cells=2)
    assert count_with_hooks(network, (1, 32, 32)) == space.cost(space.parse(DISCONNECTED))
    assert timm.create_model("nasbench201").num_classes == 10
    with pytest.raises(ArchitectureError, match="nasbench201"):
        timm.create_model("nasbench201", arch="3-3-3")
    with pytest.raises(RuntimeError, match="no pretrained weights for 'nasbench201'"):
        timm.create_model("nasbench201", pretrained=True)
    with pytest.raises(RuntimeError, match="features_only is not for 'nasbench201'"):
        timm.create_model("nasbench201", features_only=True)


def test_dropout_acts_in_training_only() -> None:
    network = timm.create_model("nasbench201", channels=2, cells=1, drop_rate=0.5)
    features = torch.rand(50, 8, 2, 2) + 1
    pooled = features.mean((2, 3))
    dropped = network.forward_head(features, pre_logits=True)
    assert torch.equal(dropped[dropped != 0], 2 * pooled[dropped != 0])
    assert 100 < (dropped == 0).sum() < 300
    assert torch.equal(network.eval().forward_head(features, pre_logits=True), pooled)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (32, 31)])
def test_images_of_any_size_pass(size: tuple[int, int]) -> None:
    space = NASBench201Space(num_classes=3, input_size=(2, *size), channels=2, cells=1)
    network = space.build(space.parse(BEST)).eval()
    height, width = (functools.reduce(lambda n, _: (n + 1) // 2, range(2), n) for n in size)
    assert network.forward_features(torch.randn(2, 2, *size)).shape == (2, 8, height, width)
    assert network(torch.randn(2, 2, *size)).shape == (2, 3)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_cell_of_one_path_is_its_operation(operation: str) -> None:
    cell = Cell(["none", "none", "none", operation, "none", "none"], channels=3).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        y = cell(x)
        if operation == "none":
            expected = torch.zeros_like(x)
        elif operation == "skip_connect":
            expected = x
        elif operation == "avg_pool_3x3":
            ones = torch.ones(3, 1, 3, 3)
            total = nn.functional.conv2d(x, ones, padding=1, groups=3)
            expected = total / nn.functional.conv2d(torch.ones_like(x), ones, padding=1, groups=3)
        else:
            kernel = cell.edges[3][1].weight
            expected = nn.functional.conv2d(x.relu(), kernel, padding=kernel.shape[-1] // 2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(y, expected)


def test_cells_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="6 operations; got 5"):
        NASBench201Network(["none"] * 5)
    with pytest.raises(ValueError, match=r"Unknown operation 'nor_conv_3x4'\. Did you mean 'nor_conv_3x3'"):
        NASBench201Network(["nor_conv_3x4"] * 6)
