"""Code of a user's own: found by module or file and name, by import and by entry points, and never run by a file."""

from __future__ import annotations

import importlib.metadata
import itertools
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import diswot_search as ds
from search_spaces import plugins
from search_spaces.plugins import (
    OwnCodeError,
    UntrustedCodeError,
    import_code,
    import_own_code,
    is_code,
    load_code,
    load_plugins,
    own_code,
    stored_code,
)
from search_spaces.recipes import space_from_recipe
from search_spaces.registry import Registry, UnknownNameError

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("_named", "_modules", "_modules_of_names"):
        monkeypatch.setattr(plugins, name, {})
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a module of a name that no test had before, in the working folder; returns the name."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> str:
        name = f"own_module_{next(_numbers)}"
        Path(f"{name}.py").write_text(code)
        return name

    return write


@pytest.mark.parametrize("text", ["a:b", "a.b:c.d", "x.py:f", "/tmp/a b/x.py:f", "../x.py:f", "C:\\x.py:f", "ä:ö"])
def test_code_is_a_module_or_a_file_and_a_name(text: str) -> None:
    assert is_code(text)


@pytest.mark.parametrize(
    "text",
    ["", "kd", "timm/vit", "x.py", "x.py:", ":f", "a:1", "a b:c", "nasbench201:|none~0|", "timm/vit:depth=3", "a-b:c"],
)  # fmt: skip
def test_other_texts_are_no_code(text: object) -> None:
    assert not is_code(text)


def test_files_and_modules_are_found_and_imported_once(write: Callable[..., str], tmp_path: Path) -> None:
    name = write("class Thing:\n    part = 3\n")
    thing = load_code(f"{name}.py:Thing")
    assert load_code(f"{tmp_path}/{name}.py:Thing") is thing
    assert load_code(f"{name}:Thing") is thing
    assert load_code(f"{name}:Thing.part") == 3
    assert getattr(sys.modules[name], "Thing") is thing  # noqa: B009


def test_a_file_may_have_the_name_of_an_installed_module(write: Callable[..., str], tmp_path: Path) -> None:
    write("")
    for name in ("random", "my-code"):
        (tmp_path / f"{name}.py").write_text("value = 3\n")
        assert load_code(f"{name}.py:value") == 3
    assert not hasattr(sys.modules["random"], "value")


def test_a_file_imports_its_neighbours(write: Callable[..., str]) -> None:
    neighbour = write("value = 3\n")
    assert load_code(f"{write(f'from {neighbour} import value')}.py:value") == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1 +", "SyntaxError"),
        ("x = y", "NameError: name 'y' is not defined (NAME.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
    ],
)
def test_code_that_fails_is_told_with_its_line(write: Callable[..., str], code: str, message: str) -> None:
    for form in ("{}.py:x", "{}:x"):
        name = write(code)
        expected = re.escape(message.replace("NAME", name))
        with pytest.raises(OwnCodeError, match=rf"{name}.* fails when it is imported: .*{expected}"):
            load_code(form.format(name))
        assert name not in sys.modules


def test_what_is_missing_is_told_with_what_comes_near(write: Callable[..., str]) -> None:
    name = write("def spread(): ...\n")
    with pytest.raises(OwnCodeError, match=f"{name} has no 'spraed'. Did you mean 'spread'"):
        load_code(f"{name}:spraed")
    with pytest.raises(OwnCodeError, match=r"There is no file nowhere\.py"):
        load_code("nowhere.py:x")
    with pytest.raises(OwnCodeError, match="There is no module nowhere"):
        load_code("nowhere:x")
    with pytest.raises(OwnCodeError, match="There is no module nowhere"):
        load_code("nowhere.at.all:x")
    with pytest.raises(OwnCodeError, match="'a b' names no code"):
        import_code("a b")


def test_another_process_imports_the_same_code_under_the_same_names(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_code() is None
    file, module, unnamed = write("class A:\n    part = 3\n"), write("b = 4\n"), write("")
    (tmp_path / "random.py").write_text("c = 5\n")
    load_code(f"{file}.py:A.part")
    import_code([f"{module}:b", f"{unnamed}.py", "random.py"])
    code = pickle.loads(pickle.dumps(own_code()))
    names = [name for name, _ in code.modules]
    assert names[:3] == [file, module, unnamed]
    for name in names:  # as in a process that has imported nothing
        del sys.modules[name]
    assert own_code() is None
    for name in ("_named", "_modules", "_modules_of_names"):
        monkeypatch.setattr(plugins, name, {})
    import_own_code(code)
    assert own_code() == code
    assert sys.modules[names[3]].c == 5
    assert stored_code(f"elsewhere/{file}.py:A.part", "the card") == 3
    assert stored_code(f"{module}:b", "the card") == 4
    (tmp_path / f"{unnamed}.py").unlink()
    del sys.modules[unnamed]
    with pytest.raises(OwnCodeError, match=f"{unnamed}.py fails when it is imported: FileNotFoundError"):
        import_own_code(code)


# -- registries ---------------------------------------------------------------------------------


def test_a_registry_adopts_code_and_lists_what_is_registered(write: Callable[..., str]) -> None:
    registry: Registry[int] = Registry("number", lambda name, value: int(value))  # type: ignore[call-overload]
    registry.register("one", 1)
    name = write("two = '2'\n")
    assert registry[f"{name}:two"] == 2
    assert list(registry) == ["one"]
    with pytest.raises(UnknownNameError, match=rf"Something in a file of your own is written {name}\.py:NAME"):
        registry[f"{name}.py"]
    closed: Registry[int] = Registry("number")
    with pytest.raises(UnknownNameError):
        closed[f"{name}:two"]


def entry_points(*values: tuple[str, str]) -> Callable[..., list[importlib.metadata.EntryPoint]]:
    def find(group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint(name, value, group) for name, value in values]

    return find


def test_installed_plugins_are_loaded_when_a_name_is_asked_for(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry: Registry[int] = Registry("number")
    sys.modules["registry_of_the_test"] = registry  # type: ignore[assignment]
    monkeypatch.syspath_prepend(tmp_path)
    module = write("import registry_of_the_test as r\nr.register('one', 1)\n")
    function = write("import registry_of_the_test as r\ndef plug():\n    r.register('two', r['one'] + 1)\n")
    broken = write("x = y\n")
    leaving = write("import sys\nsys.exit(3)\n")
    points = entry_points(("a", module), ("b", broken), ("exit", leaving), ("c", f"{function}:plug"))
    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    monkeypatch.setattr(plugins, "_plugins_are_loaded", False)
    with (
        pytest.warns(UserWarning, match="The plugin 'b' cannot be loaded: NameError: name 'y' is not defined"),
        pytest.warns(UserWarning, match="The plugin 'exit' cannot be loaded: SystemExit: 3"),
    ):
        assert registry["two"] == 2
    assert list(registry) == ["one", "two"]
    load_plugins()  # nothing is loaded twice
    assert plugins.GROUP == "diswot_search.plugins"


# -- what a file cannot do ----------------------------------------------------------------------


def test_a_file_uses_only_code_that_the_user_named(write: Callable[..., str], tmp_path: Path) -> None:
    name = write(
        "from pathlib import Path\nPath('mark').touch()\nfrom search_spaces import NASBench201Space as Space\n"
    )
    recipe = {"name": f"{name}.py:Space", "cells": 1}
    for text in (f"{name}.py:Space", f"{name}:Space", "os:system"):
        with pytest.raises(UntrustedCodeError, match=rf"--import {re.escape(text)}, or diswot_search\.import_code"):
            space_from_recipe({"name": text})
    assert not (tmp_path / "mark").exists()
    import_code(f"{name}.py")
    with pytest.raises(UntrustedCodeError):  # a module that is trusted may hold functions that are not meant
        space_from_recipe(recipe)
    import_code([f"{name}.py:Space"])
    space = space_from_recipe(recipe)
    assert space is not None
    assert space.config() == ds.create_space("nasbench201", cells=1).config()
    moved = space_from_recipe({"name": f"elsewhere/{name}.py:Space", "cells": 1})
    assert moved is not None
    assert stored_code(f"{name}:Space", "It") is type(space)
    with pytest.raises(UntrustedCodeError):
        space_from_recipe({"name": ["nasbench201", "os:system"]})


def test_files_of_one_name_in_two_folders_do_not_replace_each_other(write: Callable[..., str], tmp_path: Path) -> None:
    name = write("")
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(f"value = {value}\n")
    a, b, moved = (f"{folder}/{name}.py:value" for folder in ("a", "b", "moved"))
    import_code(b)
    with pytest.raises(UntrustedCodeError, match=rf"It is made by {re.escape(a)}, but you named .*{re.escape(b[:-6])}"):
        stored_code(a, "It")
    assert stored_code(moved, "It") == 2
    import_code(a)
    assert [stored_code(text, "It") for text in (a, b)] == [1, 2]
    for ambiguous in (moved, f"{name}:value"):
        with pytest.raises(UntrustedCodeError, match="not clear which is meant"):
            stored_code(ambiguous, "It")
