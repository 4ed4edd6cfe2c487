"""Code of a user's own: named as `module:name` or `file.py:name`, imported by request, or installed as a plugin.

Naming code, or asking for its import, loads it: the user did so. What is read from disk (the recipe of a space, the
card of a student) never loads code; it may only use what the user named in this process, see `stored_code`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .paths import expanded

GROUP = "diswot_search.plugins"
"""Entry points of this group are loaded when a registry is listed, or is asked for a name that it does not have."""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

_named: dict[tuple[str, str], dict[Path | None, object]] = {}
"""What the user named in this process, by the last part of the module's name and the name in it, then by its file."""

_modules_of_names: dict[tuple[tuple[str, str], Path | None], str] = {}
"""The module of each name in `_named`, by its key there and its file."""

_modules: dict[str, Path | None] = {}
"""The modules that the user named in this process, in order, each with its file if that was named."""

_plugins_are_loaded = False


class OwnCodeError(ValueError):
    """Code of a user's own cannot be loaded, lacks a name, or has another kind of thing under it."""


class UntrustedCodeError(OwnCodeError):
    """A file names code that the user did not name in this process."""


def is_code(text: object) -> bool:
    """Whether a text has the form `module:name` or `file.py:name`.

    Example:
        >>> [is_code(text) for text in ("my_spaces:Narrow", "own/spaces.py:Narrow", "timm/vit", "kd", "a:b=1")]
        [True, True, False, False, False]
    """
    if not isinstance(text, str):
        return False
    module, _, name = text.rpartition(":")
    return bool(_NAME.fullmatch(name)) and (module.endswith(".py") or bool(_NAME.fullmatch(module)))


def hint_at_form(text: str) -> str:
    """How something in a file of code is named, for a text that is the file alone; empty for any other text.

    The file is read, not run.

    Example:
        >>> hint_at_form("my_code.py"), hint_at_form("my_code")
        ('Something in a file of your own is written my_code.py:NAME; there is no file my_code.py.', '')
    """
    if not text.endswith(".py"):
        return ""
    form = f"Something in a file of your own is written {text}:NAME"
    path = expanded(text, error=OwnCodeError)
    if not path.is_file():
        return f"{form}; there is no file {text}."
    try:
        statements = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return f"{form}."
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = [each.name for each in statements if isinstance(each, kinds) and not each.name.startswith("_")]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    written = ", ".join(f"{text}:{name}" for name in names[:10])
    return f"{form}; it defines {written}{more}." if names else f"{form}; it defines no class or function."


def load_code(text: str) -> object:
    """What `module:name` or `file.py:name` names; the module or the file is imported.

    Args:
        text: The name. Modules are found where Python finds them and in the working folder; a file is a path.

    Raises:
        OwnCodeError: There is no such file or module, it fails when it is imported, or it lacks the name.
    """
    source, _, name = text.rpartition(":")
    module = _import(source)
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise OwnCodeError(_without_name(source, name, module))
        value = getattr(value, part)
    key, file = _key(text), _file_of(module)
    _named.setdefault(key, {})[file] = value
    _modules_of_names[key, file] = module.__name__
    return value


def stored_code(text: str, where: str) -> object:
    """What a file on disk names, if the user named it in this process; nothing is imported.

    Args:
        text: `module:name` or `file.py:name`. A file that is not there any more may have moved to another folder.
        where: What the file describes, for the message.

    Raises:
        UntrustedCodeError: The user did not name it, but perhaps other files of its name.
    """
    named = _named.get(_key(text), {})
    source = text.rpartition(":")[0]
    path = Path(source).expanduser().resolve() if source.endswith(".py") else None
    if path in named:
        return named[path]
    if named and (len(named) > 1 or (path is not None and path.is_file())):
        others = ", ".join(sorted(map(str, named)))
        raise UntrustedCodeError(
            f"{where} is made by {text}, but you named {others}, so that it is not clear which is meant; name {text} "
            "itself where it is, or only the one file that it has become."
        )
    if not named:
        raise UntrustedCodeError(
            f"{where} is made by {text}. That code does not run because a file names it: if you trust it, name it "
            f"yourself, by --import {text}, or diswot_search.import_code({text!r}) in Python."
        )
    return next(iter(named.values()))


def import_code(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None) -> None:
    """Import code of your own, so that what it registers is known by name.

    Args:
        sources: Modules, files ending in .py, or names in them (`module:name`, `file.py:name`); one or several. A name
            may afterwards be used by the files of a run, such as the card of a student whose network it makes.

    Raises:
        OwnCodeError: There is no such module or file, it fails when it is imported, or it lacks a name.

    Example:
        import diswot_search as ds

        ds.import_code("my_proxies.py")
        ds.search("nasbench201", proxy="my_proxy")
    """
    if sources is None:
        return
    for source in [sources] if isinstance(sources, str | os.PathLike) else sources:
        text = os.fspath(source)
        if is_code(text):
            load_code(text)
        else:
            _import(text)


@dataclass(frozen=True)
class OwnCode:
    """What the user named in a process, as a value that another process imports again.

    Attributes:
        modules: Names of modules in order of import, each with the path of its file; None finds it by its name.
        names: Keys of the names in them, each with the file and the name of its module.
    """

    modules: tuple[tuple[str, str | None], ...]
    names: tuple[tuple[tuple[str, str], str | None, str], ...]


def own_code() -> OwnCode | None:
    """What the user named in this process; None for nothing."""
    modules = tuple(
        (name, None if path is None else str(path)) for name, path in _modules.items() if name in sys.modules
    )
    names = tuple(
        (key, None if file is None else str(file), name)
        for (key, file), name in _modules_of_names.items()
        if name in sys.modules
    )
    return OwnCode(modules, names) if modules else None


def import_own_code(code: OwnCode) -> None:
    """Import in this process what the user named in another, under the same names.

    Raises:
        OwnCodeError: It cannot be imported any more.
    """
    for name, path in code.modules:
        if name in sys.modules:
            continue
        if path is None:
            _import(name)
        else:
            _run_file(name, Path(path), path)
        _modules[name] = None if path is None else Path(path)
    for key, file, module_name in code.names:
        value: object = sys.modules.get(module_name)
        for part in key[1].split("."):
            value = getattr(value, part, None)
        place = None if file is None else Path(file)
        _named.setdefault(key, {})[place], _modules_of_names[key, place] = value, module_name


def load_plugins() -> None:
    """Load the installed plugins, once: the modules, or functions without arguments, of the group's entry points.

    Warns:
        UserWarning: A plugin fails; the others are loaded.
    """
    global _plugins_are_loaded
    if _plugins_are_loaded:
        return
    _plugins_are_loaded = True  # first, because plugins look up names while they are loaded
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        try:
            plugin = entry_point.load()
            if callable(plugin):
                plugin()
        except (Exception, SystemExit) as error:  # code of others may fail in any way
            warnings.warn(f"The plugin {entry_point.name!r} cannot be loaded: {failure_of(error)}.", stacklevel=2)


# -- importing ----------------------------------------------------------------------------------


def _import(source: str) -> ModuleType:
    """The module of this name, or that of a file."""
    module = _find_and_import(source)
    file = getattr(module, "__file__", None)
    _modules.setdefault(module.__name__, Path(file).resolve() if source.endswith(".py") and file else None)
    return module


def _find_and_import(source: str) -> ModuleType:
    if source.endswith(".py"):
        return _import_file(expanded(source, error=OwnCodeError).resolve(), source)
    if not _NAME.fullmatch(source):
        raise OwnCodeError(
            f"{source!r} names no code; give a module, a file ending in .py, or a name in one, as in my_code.py:name."
        )
    _find_also_in(os.getcwd())
    try:
        spec = None if source in sys.modules else importlib.util.find_spec(source)
        if (
            spec is not None
            and spec.origin is not None
            and (module := _imported_from(Path(spec.origin).resolve())) is not None
        ):
            return module  # from its file, by another name; what it registers cannot be registered twice
        return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{source}.".startswith(f"{error.name}."):
            hint = f" A file is given by its path: {source}.py." if Path(f"{source}.py").is_file() else ""
            raise OwnCodeError(f"There is no module {error.name}.{hint}") from error
        raise OwnCodeError(f"The module {source} fails when it is imported: {failure_of(error)}.") from error


def _import_file(path: Path, source: str) -> ModuleType:
    if not path.is_file():
        raise OwnCodeError(f"There is no file {source}.")
    if (module := _imported_from(path)) is not None:
        return module
    name = path.stem
    if not name.isidentifier() or name in sys.modules or _is_elsewhere(name, path):
        name = f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    return _run_file(name, path, source)


def _run_file(name: str, path: Path, source: str) -> ModuleType:
    """The module of a file, under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    _find_also_in(str(path.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise OwnCodeError(f"The file {source} fails when it is imported: {failure_of(error)}.") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported_from(path: Path) -> ModuleType | None:
    """The module that was imported from a file, by whatever name."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path:
            return module
    return None


def _is_elsewhere(name: str, path: Path) -> bool:
    """Whether a module of this name comes from another file."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _find_also_in(folder: str) -> None:
    """Let imports find the modules of a folder, after all others; processes that are started from here do so, too."""
    if folder not in sys.path:
        sys.path.append(folder)


def _file_of(module: ModuleType) -> Path | None:
    """The file of a module; None for a module without one."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _key(text: str) -> tuple[str, str]:
    """The last part of the module's name, without its folder, and the name in it."""
    source, _, name = text.rpartition(":")
    return (Path(source).stem if source.endswith(".py") else source.rpartition(".")[2]), name


def failure_of(error: BaseException) -> str:
    """The kind and message of an error, with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _without_name(source: str, name: str, module: ModuleType) -> str:
    import difflib

    own = [key for key in vars(module) if not key.startswith("_")]
    near = difflib.get_close_matches(name, own, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else f" It has {', '.join(own[:20]) or 'nothing'}."
    return f"{source} has no {name!r}.{hint}"
