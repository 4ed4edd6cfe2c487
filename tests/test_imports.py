"""Which room may import which, read from the imports themselves, and what is imported only when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_origin

import pytest

import diswot_search
from diswot_search import cli
from diswot_search.options.base import options_of, summary

from .source_tree import FILES, ROOT, imports_of

ROOMS = [
    "search_spaces",
    "diswot_search.options",
    "diswot_search.checks",
    "diswot_search.runtime",
    "diswot_search.functional",
    "diswot_search.data",
    "diswot_search.networks",
    "diswot_search.deployment",
    "diswot_search.readings",
    "diswot_search.proxies",
    "diswot_search.distillation",
    "diswot_search.sources",
    "diswot_search.training",
    "diswot_search.study",
    "diswot_search.resolve",
    "diswot_search.comparison",
    "diswot_search.compression",
    "diswot_search.reports",
    "diswot_search.jobs",
    "diswot_search.testing",
    "diswot_search.cli",
    "diswot_search.__main__",
]
"""From the ground up: a room imports only from itself and from rooms before it."""

HEAVY = ("torch", "accelerate", "timm", "torchvision", "matplotlib", "tensorboard", "sklearn", "scipy")

MODULES = [module for module in FILES if module != "diswot_search"]
"""All modules but the lazy package itself, which is above all rooms."""

IMPORTS = {module: sorted(set(imports_of(module, FILES[module]))) for module in MODULES}


def room_of(module: str) -> str:
    """Return the room that a module belongs to, or the module itself if it belongs to none."""
    return next((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), module)


def test_every_module_has_a_room() -> None:
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_rooms_before_it(module: str) -> None:
    room = room_of(module)
    for imported in IMPORTS[module]:
        source = room_of(imported)
        assert source in ROOMS, f"{module} imports {imported} from the lazy package instead of from its room"
        assert ROOMS.index(source) <= ROOMS.index(room), f"{module} imports {imported}"


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_init_of_a_room(module: str) -> None:
    """Names come from the modules that define them. An `__init__` only registers the parts of its own room."""
    for imported in IMPORTS[module]:
        assert FILES[imported].name != "__init__.py", f"{module} imports the package {imported}"


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import search_spaces\nfrom .study.study import Study\ndef f():\n    from . import cli\n    import os\n"
    )
    imported = set(imports_of("diswot_search.report", path))
    assert imported == {"search_spaces", "diswot_search.study.study", "diswot_search.cli"}
    assert set(imports_of("diswot_search.jobs.search", path)) >= {"diswot_search.jobs.study.study"}


# -- what is imported when ----------------------------------------------------------------------


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after this code."""
    report = f"import sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return ast.literal_eval(result.stderr)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import diswot_search; dir(diswot_search); diswot_search.__version__") == []


@pytest.mark.parametrize(
    "arguments",
    ["--help", "search --print_config", "run --print_config", *(f"{name} --help" for name in cli.COMMANDS)],
)
def test_what_the_command_line_says_of_itself_loads_nothing_heavy(arguments: str) -> None:
    call = f"cli.main({arguments.split()!r})"
    assert loaded_by(f"from diswot_search import cli\ntry: {call}\nexcept SystemExit as end: assert not end.code") == []


def test_names_of_the_package_are_what_they_say() -> None:
    for name in diswot_search.__all__:
        value = getattr(diswot_search, name)
        is_alias = get_origin(value) is not None  # such as Program, whose name is that of its origin
        assert is_alias or value.__name__.rpartition(".")[2] == name
        assert name in dir(diswot_search)
    assert diswot_search.__version__
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        _ = diswot_search.serch  # type: ignore[attr-defined]


def test_functions_do_not_share_the_names_of_modules() -> None:
    package = {path.stem for path in (ROOT / "diswot_search").iterdir()}
    assert not package & set(diswot_search.__all__)


def test_the_names_for_type_checkers_are_those_that_are_exported() -> None:
    tree = ast.parse((ROOT / "diswot_search" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == diswot_search.__all__


def test_the_commands_say_what_they_do() -> None:
    for command in cli.COMMANDS.values():
        assert summary(command.options)
        assert options_of(command.options)
