"""How large the files and functions of the product may be, and what they may not contain."""

from __future__ import annotations

import ast

import pytest

from .source_tree import FILES, functions_of, parsed

MAX_FILE_LINES = 600
MAX_CLI_LINES = 450
MAX_FUNCTION_LINES = 60
"""Without decorators and docstring."""
MAX_PARAMETERS = 12
MAX_ANY_PER_1000_LINES = 8


def line_count(module: str) -> int:
    return len(FILES[module].read_text().splitlines())


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function without its decorators and its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return len(named) + len(starred) - (bool(named) and named[0].arg in ("self", "cls"))


def calls_locals(module: str) -> bool:
    calls = (node.func for node in ast.walk(parsed(FILES[module])) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "locals" for function in calls)


def offenders(kind: str) -> set[str]:
    """Return the modules or functions that do not keep a limit."""
    functions = [pair for module in FILES for pair in functions_of(module)]
    if kind == "long files":
        limits = {module: MAX_CLI_LINES if module == "diswot_search.cli" else MAX_FILE_LINES for module in FILES}
        return {module for module, limit in limits.items() if line_count(module) > limit}
    if kind == "long functions":
        return {name for name, function in functions if function_lines(function) > MAX_FUNCTION_LINES}
    if kind == "many parameters":
        return {name for name, function in functions if parameter_count(function) > MAX_PARAMETERS}
    return {module for module in FILES if calls_locals(module)}


@pytest.mark.parametrize("kind", ["long files", "long functions", "many parameters", "locals()"])
def test_files_and_functions_keep_their_limits(kind: str) -> None:
    assert not offenders(kind)


def test_any_is_rare() -> None:
    uses = [
        node
        for path in FILES.values()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    share = 1000 * len(uses) / sum(map(line_count, FILES))
    assert share <= MAX_ANY_PER_1000_LINES, f"{share:.1f} Any per 1,000 lines"


def test_lines_and_parameters_are_counted_without_decorators_docstrings_and_self() -> None:
    code = '@cache\ndef f(self, a, /, b, *c, d, **e):\n    """One.\n\n    Two.\n    """\n    return a\n'
    function = ast.parse(code).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function_lines(function) == 2
    assert parameter_count(function) == 5
