"""Which room may import which, read from the imports themselves, and what is imported only when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import diswot_search
from diswot_search import cli
from diswot_search.options.base import options_of, summary

ROOT = Path(__file__).resolve().parents[1]

ROOMS = [
    "search_spaces.registry",
    "search_spaces.input_spec",
    "search_spaces.cost",
    "search_spaces.space",
    "search_spaces.contract",
    "search_spaces.nasbench201",
    "search_spaces.cifar_resnet",
    "search_spaces.stored_options",
    "search_spaces.timm_models",
    "search_spaces.timm_space",
    "search_spaces.timm_families",
    "search_spaces.timm_zoo",
    "search_spaces.recipes",
    "search_spaces.tables",
    "search_spaces.importers",
    "search_spaces.weights",
    "search_spaces",
    "diswot_search.options",
    "diswot_search.checks",
    "diswot_search.runtime",
    "diswot_search.functional",
    "diswot_search.data",
    "diswot_search.networks",
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
"""From the ground up: a room imports only from rooms before it. A folder of modules is one room."""

PENDING: set[tuple[str, str]] = set()
"""Walls that still have a hole: each goes with the mechanism behind it."""

HEAVY = ("torch", "accelerate", "timm", "torchvision", "matplotlib", "tensorboard", "sklearn", "scipy")


def room_of(module: str) -> str:
    """The room that a module belongs to; the lazy package itself is above all rooms."""
    return next((room for room in sorted(ROOMS, key=len, reverse=True) if f"{module}.".startswith(f"{room}.")), module)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("search_spaces", "diswot_search"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(module: str, path: Path) -> Iterator[str]:
    """All modules of ours that a module imports, at its top or within.

    Option classes may name types of any room for type checkers, who alone see these imports.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    if room_of(module) == "diswot_search.options":
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            source = start + node.module if node.module else start.rstrip(".")
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("search_spaces", "diswot_search"))


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


MODULES = [(module, path) for module, path in modules() if module != "diswot_search"]


def test_every_module_has_a_room() -> None:
    assert {room_of(module) for module, _ in MODULES} == set(ROOMS)


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_a_room_imports_only_from_rooms_before_it(module: str, path: Path) -> None:
    room = room_of(module)
    for imported in imports_of(module, path):
        source = room_of(imported)
        assert source in ROOMS, f"{module} imports {imported} from the lazy package instead of from its room"
        if (room, source) in PENDING:
            continue
        assert source == room or ROOMS.index(source) < ROOMS.index(room), f"{module} imports {imported}"


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import search_spaces\nfrom .study import Study\ndef f():\n    from . import cli\n    import os\n")
    found = set(imports_of("diswot_search.report", path))
    assert found == {"search_spaces", "diswot_search.study.Study", "diswot_search.cli"}
    assert set(imports_of("diswot_search.proxies.size", path)) >= {"diswot_search.proxies.study.Study"}


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
        assert getattr(diswot_search, name).__name__ == name
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
