"""Several spaces as one: every architecture is one of theirs, with its name, cost and network there."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search.networks.saved import read_card
from diswot_search.study.budget import cheapest, check_satisfiable
from diswot_search.testing.spaces import SearchSpaceContract
from search_spaces import SearchSpace, UnionSpace, create_space
from search_spaces.recipes import recipe_of, space_from_recipe
from search_spaces.space import Architecture, ArchitectureError
from search_spaces.stored_options import UnsafeOptionError

NAMES = ["cifar_resnet_s0", "nasbench201"]


def union(**options: object) -> UnionSpace:
    space = create_space(NAMES, **{"cells": 1, "channels": 4, **options})
    assert isinstance(space, UnionSpace)
    return space


class TestUnion(SearchSpaceContract):
    def create(self, **options: object) -> SearchSpace:
        return union(**options)

    def test_mutation_changes_one_decision(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        """One of its space, or the space itself."""
        changed = set()
        for seed, architecture in enumerate(sampled):
            mutant = space.mutate(architecture, random.Random(seed))
            assert mutant in space
            assert mutant == space.mutate(architecture, random.Random(seed)) != architecture
            (own, one), (other, another) = space.member(architecture), space.member(mutant)
            changed.add(own is other)
            if own is other:
                assert sum(a != b for a, b in zip(one.choices, another.choices, strict=True)) == 1
        assert changed == {True, False}

    def test_cost_is_that_of_the_network(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        """By the convention of its space, of which NAS-Bench-201 has one of its own."""
        for architecture in sampled[: self.builds]:
            own, inner = space.member(architecture)
            assert space.cost(architecture) == own.cost(inner)
            assert space.cost(architecture).params == self.count(space.build(architecture), space).params

    def test_neighbours_are_all_one_decision_away(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled[: self.builds]:
            own, inner = space.member(architecture)
            neighbours = list(space.neighbours(architecture))
            inside = [space.member(one)[1] for one in neighbours if space.member(one)[0] is own]
            assert inside == list(own.neighbours(inner))
            assert len(neighbours) == len(inside) + 1 == len(set(neighbours))


def test_an_architecture_has_the_name_the_cost_and_the_network_of_its_own_space() -> None:
    space, single = union(num_classes=7), create_space("nasbench201", num_classes=7, cells=1, channels=4)
    rng = random.Random(0)
    for _ in range(5):
        inner = single.sample(rng)
        architecture = space.parse(f"nasbench201:{inner}")
        assert space.member(architecture)[1] == inner
        assert space.cost(architecture) == single.cost(inner)
        assert space.timm_model(architecture) == single.timm_model(inner)
        assert space.is_trainable(architecture) == single.is_trainable(inner)
        assert str(space.canonical(architecture)) == f"nasbench201:{single.canonical(inner)}"
        torch.manual_seed(0)
        own = nn.utils.parameters_to_vector(single.build(inner).parameters())
        torch.manual_seed(0)
        assert torch.equal(nn.utils.parameters_to_vector(space.build(architecture).parameters()), own)
        assert ds.create_teacher(architecture, space=space).name == f"nasbench201:{inner}"


def test_all_architectures_are_those_of_the_spaces_in_order() -> None:
    space = union()
    texts = [str(architecture) for architecture in itertools.islice(space, 66)]
    assert texts[:64] == [f"cifar_resnet_s0:{one}" for one in create_space("cifar_resnet_s0")]
    assert texts[64].startswith("nasbench201:|")
    assert [str(space.at(index)) for index in (0, 63, 64)] == [texts[0], texts[63], texts[64]]
    assert space.size == 64 + 15_625
    with pytest.raises(IndexError, match="has only 15689"):
        space.at(space.size)


def test_spaces_of_any_size_are_drawn_alike_often() -> None:
    space, rng = union(), random.Random(0)
    names = [space.member(space.sample(rng))[0].name for _ in range(400)]
    assert 150 < names.count("cifar_resnet_s0") < 250


def test_the_least_cost_is_that_of_the_cheapest_space() -> None:
    for order in (NAMES, NAMES[::-1]):
        space = create_space(order, cells=1, channels=4)
        architecture, params = cheapest(space, "params")
        assert isinstance(space, UnionSpace)
        least = min(cheapest(one, "params")[1] for one in space.spaces.values())
        assert params == least
        assert space.member(architecture)[0].name == "nasbench201"
        assert check_satisfiable(space, ds.Budget(max_params=least)) == architecture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1-1-1", "must begin with the name of its space and a colon"),
        ("nasbench21:x", "near: nasbench201"),
        ("cifar_resnet_s0:1-1-2", "cifar_resnet_s0"),
    ],
)
def test_text_without_a_space_of_the_union_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        union().parse(text)


def test_options_go_to_the_spaces_that_take_them() -> None:
    space = create_space(NAMES, num_classes=3, cells=2, nasbench201={"channels": 8})
    assert isinstance(space, UnionSpace)
    assert space.spaces["nasbench201"].recipe == {"name": "nasbench201", "num_classes": 3, "cells": 2, "channels": 8}
    assert space.spaces["cifar_resnet_s0"].recipe == {"name": "cifar_resnet_s0", "num_classes": 3}
    with pytest.raises(ValueError, match="has the option 'chanels'; did you mean 'channels'"):
        create_space(NAMES, chanels=3)
    with pytest.raises(ValueError, match="options of the space 'nasbench201' are 3; they must be a mapping"):
        create_space(NAMES, nasbench201=3)
    assert create_space(["nasbench201"], cells=1).recipe == {"name": "nasbench201", "cells": 1}
    with pytest.raises(ValueError, match=r"\[3\] names no search space"):
        create_space([3])  # type: ignore[list-item]


def test_spaces_that_do_not_go_together_are_refused() -> None:
    one, other = create_space("nasbench201", num_classes=3), create_space("cifar_resnet_s0", num_classes=4)
    with pytest.raises(ValueError, match="made for different data: nasbench201 for 3 classes"):
        UnionSpace([one, other])
    for spaces in ([], [one], [one, one]):
        with pytest.raises(ValueError, match="two or more spaces with different names"):
            UnionSpace(spaces)


def test_a_union_comes_back_from_its_recipe() -> None:
    space = union(num_classes=3, nasbench201={"channels": 8})
    again = space_from_recipe(json.loads(recipe_of(space)))
    assert again is not None
    assert again.config() == space.config()
    assert space_from_recipe({"name": NAMES, "width": 3}) is None
    for unsafe in ({"pretrained": True, "num_classes": 3}, {"timm/zoo": {"pretrained": True}}):
        with pytest.raises(UnsafeOptionError, match="'pretrained'"):
            space_from_recipe({"name": ["nasbench201", "timm/zoo"], **unsafe})


def test_a_union_is_searched_continued_and_gives_a_student(tmp_path: Path) -> None:
    options = {"cells": 1, "channels": 4}
    common: dict[str, Any] = {
        "space_options": options,
        "batch_size": 4,
        "algorithm": "random",
        "device": "cpu",
        "quiet": True,
    }
    whole = ds.search(NAMES, evaluations=10, **common)
    ds.search(NAMES, evaluations=6, out=tmp_path / "run", **common)
    study = ds.search(NAMES, evaluations=10, out=tmp_path / "run", **common)
    assert [(r.architecture, r.score) for r in study.records] == [(r.architecture, r.score) for r in whole.records]
    assert {record.architecture.partition(":")[0] for record in study.records} == set(NAMES)
    assert study.winner.architecture == ds.Study.load(tmp_path / "run").winner.architecture
    data = {"image_size": 8, "train_limit": 40}
    ds.train(tmp_path / "run", out=tmp_path / "student", epochs=1, batch_size=20, data_options=data, quiet=True)
    card = read_card(tmp_path / "student")
    name, _, _ = study.winner.record.architecture.partition(":")
    assert card.name == study.winner.record.architecture
    assert card.space is not None
    assert card.space["recipe"]["name"] == name
    assert ds.load_student(tmp_path / "student").num_classes == 10
