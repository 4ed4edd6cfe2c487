"""The examples of public docstrings run, and say what they show."""

from __future__ import annotations

import doctest
import inspect
from types import ModuleType

import pytest

import diswot_search
import search_spaces

PACKAGES = (diswot_search, search_spaces)


def _public() -> dict[str, object]:
    """Everything public that has a docstring of its own, by its full name; the functions of public modules, too."""
    objects: dict[str, object] = {}
    for package in PACKAGES:
        for name in package.__all__:
            member = getattr(package, name)
            if isinstance(member, ModuleType):
                functions = inspect.getmembers(member, inspect.isfunction)
                own = {one: function for one, function in functions if function.__module__ == member.__name__}
                objects.update({f"{name}.{one}": function for one, function in own.items() if one[0] != "_"})
            elif inspect.isclass(member) or inspect.isfunction(member):
                objects[f"{package.__name__}.{name}"] = member
    return objects


PUBLIC = _public()
EXAMPLES = sorted(name for name, member in PUBLIC.items() if ">>>" in (inspect.getdoc(member) or ""))
WITHOUT_EXAMPLE = set()
"""What has no example yet. A name may leave this list, and none may join it."""


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore")
def test_an_example_runs(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    member = PUBLIC[name]
    module = inspect.getmodule(member)
    globs = {**vars(module), "ds": diswot_search}
    for example in doctest.DocTestFinder(recurse=False).find(member, name, module=module, globs=globs):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
        assert result.failed == 0


def test_what_is_public_has_an_example() -> None:
    assert {name for name in PUBLIC if name not in EXAMPLES} == WITHOUT_EXAMPLE
