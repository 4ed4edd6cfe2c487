"""The source files of the product, and what they import, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("search_spaces", "diswot_search")


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
"""The file of each module, by the module's name."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """Everything within `if TYPE_CHECKING:` at the top of a module."""
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for node in block.body for inner in ast.walk(node)}


def imports_of(module: str, path: Path) -> Iterator[str]:
    """Yield the modules of ours that a module imports, at its top or inside a function.

    `from x import y` imports the module `x.y` if there is one, and `x` if not. Option classes may name the types of any
    room for type checkers, who alone see these imports.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for_checkers = _for_type_checkers(parsed(path)) if module.startswith("diswot_search.options") else set()
    for node in ast.walk(parsed(path)):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (start, node.module) if part)
            imported = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else source for name in imported]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def functions_of(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the functions of a module with their full names, methods and inner functions included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}.{child.name}" if isinstance(child, ast.ClassDef | ast.FunctionDef) else prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, child
            yield from walk(child, name)

    yield from walk(parsed(FILES[module]), module)
