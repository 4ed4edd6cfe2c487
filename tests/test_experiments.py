"""The experiments use what a user has: the public API, and parts that are written once."""

from __future__ import annotations

import ast
import inspect
import shlex
import sys
from pathlib import Path

import pytest

import diswot_search
import search_spaces
from diswot_search import cli
from diswot_search.jobs.sweep_grid import grid_of
from diswot_search.options.sweep import SweepOptions

from .source_tree import ROOT

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
SCRIPTS = [path for path in EXPERIMENTS if not path.name.startswith("_")]
THIRD_PARTY = {"matplotlib", "numpy", "onnxruntime", "scipy", "timm", "torch", "torchvision"}
SWEEPS = sorted((ROOT / "experiments").glob("*.yaml"))
by_name = pytest.mark.parametrize("path", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])


@by_name
def test_an_experiment_imports_the_public_api_alone(path: Path) -> None:
    packages = {"diswot_search": diswot_search.__all__, "search_spaces": search_spaces.__all__}
    helpers = {one.stem for one in EXPERIMENTS if one.name.startswith("_")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for module in (alias.name for alias in node.names):
                root = module.partition(".")[0]
                assert module in packages or root in sys.stdlib_module_names | THIRD_PARTY, module
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            root = node.module.partition(".")[0]
            if root in packages:
                assert node.module == root, f"{node.module} is no part of the public API"
                assert {alias.name for alias in node.names} <= set(packages[root])
            else:
                assert root in sys.stdlib_module_names | THIRD_PARTY | helpers, node.module


@by_name
def test_an_experiment_uses_names_that_exist(path: Path) -> None:
    packages = {"ds": diswot_search.__all__, "search_spaces": search_spaces.__all__}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
            assert node.attr in packages[node.value.id], f"{node.value.id}.{node.attr} is not exported"


@by_name
def test_an_experiment_passes_options_that_exist(path: Path) -> None:
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "ds":
            parameters = inspect.signature(getattr(diswot_search, function.attr)).parameters
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                names = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                assert names <= set(parameters), f"{path.name}:{call.lineno} passes {names - set(parameters)}"


@by_name
def test_an_experiment_is_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600
    assert path.read_text().startswith('"""')


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_script_parses_its_options_with_the_shared_parts(path: Path) -> None:
    text = path.read_text()
    assert "make_parser(__doc__" in text
    assert "argparse.ArgumentParser" not in text
    assert f"python experiments/{path.name}" in text


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_a_sweep_is_a_config_file_that_says_how_it_is_run(path: Path) -> None:
    head = path.read_text().partition("\ndataset:")[0]
    assert all(line.startswith("#") for line in head.strip().splitlines())
    assert f"diswot sweep --config experiments/{path.name}" in head
    commands = head.replace("\\\n#", "").splitlines()
    for words in (shlex.split(line[1:]) for line in commands if line.startswith("#     diswot ")):
        words = [str(path) if word == f"experiments/{path.name}" else word for word in words]
        command, options = cli._parse(words[1:])
        if command == "sweep":
            grid = grid_of(SweepOptions(**options))
            assert len(grid.cells) > 1
            assert grid.baseline is not None
