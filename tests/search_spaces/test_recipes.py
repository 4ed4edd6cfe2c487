"""Recipes of spaces and other stored options: what comes back from them, and what no file can do."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import search_spaces.recipes
from diswot_search.networks.saved import ModelCard, load_student, save_student
from search_spaces import NASBench201Space, SearchSpace, create_space, load_space, register_space
from search_spaces.recipes import recipe_of, space_from_recipe
from search_spaces.registry import Registry
from search_spaces.stored_options import REFUSED_OPTIONS, UnsafeOptionError, check_stored_options

LOADERS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
FLAGS = ("scriptable", "exportable")

# -- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nasbench201", {"num_classes": 7, "cells": 1}),
        ("cifar_resnet", {"depths": [[1, 2], 3], "widths": [16, [16, 32]]}),
        ("timm/vit_32", {"input_size": (1, 32, 32)}),
        ("timm/zoo", {"pattern": "lcnet_*"}),
    ],
)
def test_a_space_comes_back_from_its_stored_recipe(name: str, options: dict[str, Any]) -> None:
    space = create_space(name, **options)
    again = space_from_recipe(json.loads(recipe_of(space)))
    assert again is not None
    assert again.config() == space.config()


def test_a_space_of_a_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("model: resnet10t\ndecisions: {stem_width: [16, 32], variant: {a: {channels: [8, 8, 8, 8]}}}\n")
    space = create_space(str(path), num_classes=3)
    again = space_from_recipe(json.loads(recipe_of(space)))
    assert again is not None
    assert again.config() == space.config()
    path.unlink()
    assert space_from_recipe(json.loads(recipe_of(space))) is None


def test_there_may_be_no_recipe() -> None:
    assert recipe_of(None) == "null"
    assert recipe_of(NASBench201Space()) == "null"
    space = NASBench201Space()
    space.recipe = {"name": "mine", "block": nn.ReLU}
    assert recipe_of(space) == "null"
    assert space_from_recipe(None) is None
    assert space_from_recipe({}) is None


@pytest.mark.parametrize("recipe", [{"name": "nasbench102"}, {"name": "nasbench201", "width": 3}])
def test_a_recipe_that_is_not_valid_any_more_makes_no_space(recipe: dict[str, Any]) -> None:
    assert space_from_recipe(recipe) is None


@pytest.mark.parametrize("recipe", [["nasbench201"], "nasbench201", {"cells": 1}, {"name": 3}])
def test_a_damaged_recipe_is_an_error(recipe: Any) -> None:
    with pytest.raises(UnsafeOptionError, match="is a mapping with the space's name and options"):
        space_from_recipe(recipe)


# -- what no file can do ------------------------------------------------------------------------


class Payload:
    """An object whose reading leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def trap(tmp_path: Path) -> tuple[str, Path]:
    """A checkpoint that runs code when it is unpickled, and the file which that code would write."""
    mark = tmp_path / "mark"
    path = tmp_path / "trap.pth"
    path.write_bytes(pickle.dumps(Payload(mark)))
    pickle.loads(path.read_bytes())
    assert mark.exists()
    mark.unlink()
    return str(path), mark


@pytest.mark.parametrize(
    "place",
    [
        lambda options: {"fixed": options},
        lambda options: {"decisions": {"size": {"small": options}}},
        lambda options: {"attributes": options},
        lambda options: {"fixed": {"block_args": options}},
        lambda options: {"fixed": {f"{name}.file": value for name, value in options.items()}},
        lambda options: options,
    ],
    ids=["fixed", "choice", "attribute", "nested", "path", "top"],
)
@pytest.mark.parametrize("name", [*LOADERS, *FLAGS])
def test_a_file_cannot_make_timm_load(
    name: str, place: Callable[[dict[str, Any]], dict[str, Any]], trap: tuple[str, Path], tmp_path: Path
) -> None:
    checkpoint, mark = trap
    content = {"model": "resnet10t", "decisions": {"stem_width": [16, 32]}, **place({name: checkpoint})}
    path = tmp_path / "evil.yaml"
    path.write_text(json.dumps(content))
    for attempt in (lambda: load_space(path), lambda: space_from_recipe({"name": str(path)})):
        with pytest.raises(UnsafeOptionError, match=rf"evil\.yaml.*option {name!r} can load files or code"):
            attempt()
    recipe = {"name": "some.yaml", **content}
    with pytest.raises(UnsafeOptionError, match=rf"some\.yaml.*option {name!r} can load files or code"):
        space_from_recipe(recipe)
    assert not mark.exists()


def test_all_options_of_timms_loaders_are_refused() -> None:
    assert {*LOADERS, *FLAGS, "features_only", "pretrained_filter_fn", "trust_remote_code"} <= REFUSED_OPTIONS
    assert not {"num_classes", "in_chans", "img_size", "depths", "variant", "name"} & REFUSED_OPTIONS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nn.ReLU, "'act' is <class 'torch.nn.modules.activation.ReLU'> (type)"),
        ([1, {"a": torch.zeros}], "'act': 'a' is <built-in"),
        ({("a",): 1}, "'act' has the key ('a',)"),
        (b"relu", "'act' is b'relu' (bytes)"),
        ({1, 2}, "'act' is {1, 2} (set)"),
    ],
)
def test_stored_options_are_plain_values(value: Any, message: str) -> None:
    with pytest.raises(UnsafeOptionError, match=re.escape(f"here: {message}")):
        check_stored_options({"act": value}, "here")
    check_stored_options({"act": [1, 2.5, "a", None, {"b": (True,), 3: []}]}, "here")
    with pytest.raises(UnsafeOptionError, match="options must be a mapping"):
        check_stored_options([value], "here")  # type: ignore[arg-type]


def test_values_that_only_yaml_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dated.yaml"
    path.write_text("model: resnet10t\ndecisions: {stem_width: [16]}\nfixed: {act_layer: 2024-01-01}\n")
    with pytest.raises(UnsafeOptionError, match=r"dated\.yaml.*'act_layer' is datetime\.date.* \(date\)"):
        load_space(path)


def test_a_space_may_document_such_a_name_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_spaces.recipes, "_SPACES", Registry("search space"))

    def documented(num_classes: int = 10, cache_dir: str = "") -> SearchSpace:
        """Small cells; `cache_dir` is where they are kept."""
        return NASBench201Space(num_classes, channels=2, cells=1)

    def anything(**options: Any) -> SearchSpace:
        """Small cells."""
        return NASBench201Space(channels=2, cells=1)

    register_space("documented", documented)
    register_space("anything", anything)
    assert space_from_recipe({"name": "documented", "cache_dir": "here"}) is not None
    for recipe in ({"name": "documented", "pretrained": True}, {"name": "anything", "cache_dir": "here"}):
        with pytest.raises(UnsafeOptionError, match="can load files or code"):
            space_from_recipe(recipe)


@pytest.mark.parametrize("name", [*LOADERS, *FLAGS])
def test_the_card_of_a_student_cannot_make_timm_load(name: str, trap: tuple[str, Path], tmp_path: Path) -> None:
    checkpoint, mark = trap
    arguments = {"num_classes": 10, name: checkpoint}
    card = ModelCard("evil", 10, (3, 32, 32), (0.5,) * 3, (0.2,) * 3, timm=("resnet10t", arguments))
    save_student(nn.Linear(2, 2), card, tmp_path / "student")
    with pytest.raises(UnsafeOptionError, match=rf"config\.json.*'resnet10t'.*option {name!r} can load files or code"):
        load_student(tmp_path / "student")
    assert not mark.exists()


def test_models_registered_by_name_take_no_loader_of_a_recipe() -> None:
    assert timm.is_model("resnet10t")
    with pytest.raises(UnsafeOptionError, match=r"recipe of the space 'timm/zoo'.*'pretrained'"):
        space_from_recipe({"name": "timm/zoo", "pattern": "resnet10t", "pretrained": True})
