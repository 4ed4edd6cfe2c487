"""Names: of registries in general, and of search spaces."""

from __future__ import annotations

from pathlib import Path

import pytest

import search_spaces.recipes
from search_spaces import SearchSpace, UnknownNameError, create_space, describe_space, list_spaces, register_space
from search_spaces.registry import Registry, near_names


def test_a_name_is_registered_once() -> None:
    fruits: Registry[int] = Registry("fruit")
    assert fruits.register("apple", 1) == 1
    with pytest.raises(ValueError, match="The fruit 'apple' is registered already"):
        fruits.register("apple", 2)
    assert dict(fruits) == {"apple": 1}


def test_an_unknown_name_gets_near_ones_or_all() -> None:
    fruits: Registry[int] = Registry("fruit")
    fruits.register("apple", 1)
    fruits.register("Banana", 2)
    with pytest.raises(UnknownNameError) as caught:
        fruits["aple"]
    assert str(caught.value) == "Unknown fruit 'aple'. Did you mean 'apple'?"
    with pytest.raises(UnknownNameError, match=r"Unknown fruit 'xyz'\. Known: Banana, apple"):
        fruits["xyz"]


def test_a_registry_is_a_mapping() -> None:
    fruits: Registry[int] = Registry("fruit")
    fruits.register("apple", 1)
    assert fruits.get("pear") is None
    assert "pear" not in fruits
    assert list(fruits.items()) == [("apple", 1)]


def test_near_names_ignore_case_and_come_nearest_first() -> None:
    assert near_names("RESNET18", ["resnet10", "ResNet18", "vit"]) == ["ResNet18", "resnet10"]
    assert near_names("q", ["resnet10"]) == []


def test_every_space_is_made_by_name_and_described() -> None:
    assert {"nasbench201", "cifar_resnet", "cifar_resnet_s0", "timm/vit", "timm/zoo"} <= set(list_spaces())
    assert list_spaces("cifar*") == ["cifar_resnet", "cifar_resnet_s0"]
    for name in list_spaces():
        assert describe_space(name).endswith(".")
    assert (
        create_space("nasbench201", num_classes=7, channels=8).config()
        == create_space("nasbench201", channels=8, num_classes=7).config()
    )


def test_unknown_spaces_come_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown search space 'nasbench102'\. Did you mean .*'nasbench201'"):
        create_space("nasbench102")
    with pytest.raises(UnknownNameError, match="cifar_resnet"):
        describe_space("cifar_resnets")


def test_unknown_options_come_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"'nasbench201'.*'width'.*num_classes, input_size, channels, cells\."):
        create_space("nasbench201", width=3)


def test_a_space_of_ones_own_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_spaces.recipes, "_SPACES", Registry("search space"))

    def tiny(num_classes: int, input_size: tuple[int, int, int] = (3, 8, 8)) -> SearchSpace:
        """Small cells.

        More.
        """
        return search_spaces.NASBench201Space(num_classes, input_size, channels=2, cells=1)

    register_space("tiny", tiny)
    assert list_spaces() == ["tiny"]
    assert describe_space("tiny") == "Small cells."
    assert create_space("tiny", num_classes=3).num_classes == 3
    with pytest.raises(ValueError, match=r"'tiny'.*missing a required argument: 'num_classes'"):
        create_space("tiny")
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register_space("tiny", tiny)


def test_a_yaml_file_is_a_name_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("model: resnet18\ndecisions: {stem_width: [16, 32]}\n")
    space = create_space(str(path), num_classes=3)
    assert (space.name, space.size, space.num_classes) == ("tiny", 2, 3)
    assert space.recipe == {"name": str(path), "num_classes": 3}
    with pytest.raises(ValueError, match=r"tiny\.yaml.*'channels'"):
        create_space(str(path), channels=8)
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        create_space(str(tmp_path / "absent.yaml"))


def test_a_space_can_be_made_again_from_its_recipe() -> None:
    for name in ("nasbench201", "cifar_resnet", "cifar_resnet_s0"):
        space = create_space(name, num_classes=7)
        assert space.recipe == {"name": name, "num_classes": 7}
        assert create_space(**space.recipe).config() == space.config()
