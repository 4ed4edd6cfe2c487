"""The life of a worker process. Nothing heavy is imported here: the program decides how soon a worker is ready."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TextIO

from .base import Placement
from .pickling import TOP_LEVEL, pickled, pickled_error

if TYPE_CHECKING:
    from search_spaces.plugins import OwnCode

END = b""
"""The message after which a worker ends. No pickle is empty."""

_WATCH_S = 0.5
_PR_SET_PDEATHSIG = 1

Filter = tuple[str, str, type[Warning], str, int]
"""Action, pattern of the message, category, pattern of the module, and line of a filter of warnings."""

Caught = tuple[str, type[Warning], str, int]
"""Text, category, file and line of a warning."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its program.

    Attributes:
        placement: The place of the worker.
        filters: The owner's filters of warnings, first those that decide first.
        own_code: The user's own code that the owner has imported, for `plugins.import_own_code`; None for none.
    """

    placement: Placement
    filters: tuple[Filter, ...]
    own_code: OwnCode | None


def warning_filters() -> tuple[Filter, ...]:
    """The filters of warnings of this process."""

    def pattern(value: object) -> str:
        return value.pattern if isinstance(value, re.Pattern) else value if isinstance(value, str) else ""

    return tuple(
        (action, pattern(message), category, pattern(module), line)
        for action, message, category, module, line in warnings.filters
        if isinstance(category, type)
    )


def own_code() -> OwnCode | None:
    """The user's own code that this process has imported. Without `plugins` it has imported none."""
    plugins = sys.modules.get("search_spaces.plugins")
    code: OwnCode | None = None if plugins is None else plugins.own_code()
    return code


def work(connection: Connection) -> None:
    """Compute items until the owner says so or is gone.

    The first two messages are the `Setup` and the program; each later one is an item. An answer is two messages: a
    pickled (whether it succeeded, warnings), then the pickled result or error. The program is answered with None.
    """
    _end_with_owner()
    _leave_interrupts_to_owner()
    caught: list[Caught] = []
    catch_warnings(caught)
    with contextlib.suppress(EOFError, OSError):  # the owner has closed its end
        setup, program = connection.recv_bytes(), connection.recv_bytes()
        compute = None
        try:
            compute = prepared(setup, program)
        except BaseException as error:
            _exit_if_asked(error)
            _answer(connection, False, pickled_error(error), caught)
        else:
            _answer(connection, True, pickle.dumps(None), caught)
        del setup, program
        while compute is not None and (item := connection.recv_bytes()) != END:
            succeeded, result = computed(compute, item)
            _answer(connection, succeeded, result, caught)
            del item, result
    gc.freeze()  # or Python looks through all objects of torch before the process is gone, which takes a second


def prepared(setup_data: bytes, program_data: bytes) -> Callable[[Any], Any]:
    """The function that computes items: what a worker makes of its setup and its program."""
    setup: Setup = pickle.loads(setup_data)
    warnings.resetwarnings()
    for action, message, category, module, line in reversed(setup.filters):
        warnings.filterwarnings(action, message, category, module, line)  # type: ignore[arg-type]
    if setup.own_code is not None:
        from search_spaces.plugins import import_own_code  # loads torch and timm, which other programs may not need

        import_own_code(setup.own_code)
    try:
        program = pickle.loads(program_data)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"A new process cannot load the program ({type(error).__name__}: {error}). {TOP_LEVEL}"
        ) from error
    torch_is_set = _set_threads(setup.placement.threads)
    compute: Callable[[Any], Any] = program(setup.placement)
    if torch_is_set:
        return compute

    def compute_with_threads(item: Any) -> Any:
        nonlocal torch_is_set
        torch_is_set = torch_is_set or _set_threads(setup.placement.threads)
        return compute(item)

    return compute_with_threads


def _set_threads(threads: int | None) -> bool:
    """Set the number of threads of torch, if it is loaded; until then, the environment sets at most that of cores."""
    torch = sys.modules.get("torch")
    if torch is not None and threads is not None:
        torch.set_num_threads(threads)
    return torch is not None


def computed(compute: Callable[[Any], Any], item: bytes) -> tuple[bool, bytes]:
    """Whether an item succeeded, and its pickled result or error."""
    try:
        return True, pickled("result", compute(pickle.loads(item)))
    except BaseException as error:
        _exit_if_asked(error)
        return False, pickled_error(error)


def _exit_if_asked(error: BaseException) -> None:
    """End the process on `sys.exit` and where SIGTERM asked the item to end: the owner's end is not for it to ask."""
    if isinstance(error, KeyboardInterrupt):  # SIGINT is ignored here
        error = SystemExit(128 + signal.SIGTERM)
    if isinstance(error, SystemExit):
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        code = error.code
        os._exit(code & 0xFF if isinstance(code, int) else 0 if code is None else 1)


def _answer(connection: Connection, succeeded: bool, payload: bytes, caught: list[Caught]) -> None:
    connection.send_bytes(header(succeeded, caught))
    connection.send_bytes(payload)


def header(succeeded: bool, caught: list[Caught]) -> bytes:
    """The first message of an answer. The warnings are taken out of the list."""
    try:
        data = pickle.dumps((succeeded, caught))
    except Exception:  # a category that does not pickle
        data = pickle.dumps((succeeded, [(text, UserWarning, *place) for text, _, *place in caught]))
    caught.clear()
    return data


def catch_warnings(caught: list[Caught]) -> None:
    """Collect the warnings of this process, each once, so that the owner shows them."""
    seen: set[Caught] = set()

    def catch(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        one = (str(message), category, filename, lineno)
        if one not in seen:
            seen.add(one)
            caught.append(one)

    warnings.showwarning = catch


def _leave_interrupts_to_owner() -> None:
    """Ignore SIGINT, which a terminal sends to all processes; the owner has started this one with SIGINT blocked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with_owner() -> None:
    """End this process when its owner is gone, in whatever way the owner came to its end."""
    owner = multiprocessing.parent_process()
    assert owner is not None, "a worker is started by another process"
    sentinel, owner_id = owner.sentinel, owner.pid

    def watch() -> None:
        while not multiprocessing.connection.wait([sentinel], timeout=_WATCH_S):
            if os.name == "posix" and os.getppid() != owner_id:
                break  # processes that the owner has forked may keep its end of the sentinel open
        os._exit(1)

    threading.Thread(target=watch, name="owner watch", daemon=True).start()
    if sys.platform == "linux":  # also where the watch cannot run, because an item holds the interpreter's lock
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
