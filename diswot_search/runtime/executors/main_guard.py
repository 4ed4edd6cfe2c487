"""The check that a script can be imported by the processes that it starts."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class UnguardedScriptError(RuntimeError):
    """A script would run again in each process that it starts."""


def check_main_is_guarded() -> None:
    """Refuse to start processes from a script that calls at its top level, outside `if __name__ == "__main__":`.

    New processes import the script to find its functions, so it would run again in each of them.

    Raises:
        UnguardedScriptError: The script is called so; the message shows what to write.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if file is None or name == "__main__" or name.endswith(".__main__"):
        return  # new processes import nothing of it
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if (
            code.co_name == "<module>"
            and frame.f_globals is vars(main)
            and Path(code.co_filename).name == Path(file).name
        ):
            _check_line(Path(file), frame.f_lineno)
        frame = frame.f_back


@contextlib.contextmanager
def importable_main() -> Iterator[None]:
    """In this block, a program that was read from standard input names no file, which new processes would look for."""
    main = vars(sys.modules["__main__"])
    file = main.get("__file__")
    if file is None or Path(file).name != "<stdin>" or Path(file).exists():
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = file


def _check_line(file: Path, line: int) -> None:
    """Refuse a line of a script unless it is within an `if` on the name of the module."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for statement in statements:
        if statement.lineno <= line <= (statement.end_lineno or line):
            if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
                return
            raise UnguardedScriptError(
                f"{file.name}, line {line}, starts worker processes, and each of them would run the script again. Put "
                'what the script does into `if __name__ == "__main__":`, below its functions:\n\n'
                'if __name__ == "__main__":\n'
                f"    {ast.unparse(statement).splitlines()[0]}"
            )
