"""What a proxy is, and the registry of proxies by name."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from search_spaces.registry import Registry

from ..readings import Readings

ProxyFunction = Callable[[Readings, "Readings | None"], float]


@dataclass(frozen=True)
class Proxy:
    """A named proxy.

    Attributes:
        name: What it is called.
        function: (student's readings, teacher's readings or None) to a score; higher is better.
        needs_teacher: Whether it compares with a teacher.
        summary: One line on what it measures.
        terms: Names of the proxies that it is made of, reported beside it.
    """

    name: str
    function: ProxyFunction
    needs_teacher: bool
    summary: str
    terms: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What a study remembers it by: its name, and for a function that is not known by name its code as well."""
        registered = _PROXIES.get(self.name)
        return self.name if registered is self else f"{self.name} ({_fingerprint(self.function)})"

    def __call__(self, student: Readings, teacher: Readings | None = None) -> float:
        """The score of a student.

        Raises:
            ValueError: It needs a teacher and there is none.
        """
        if self.needs_teacher and teacher is None:
            raise ValueError(f"The proxy {self.name!r} compares with a teacher; none was given.")
        return float(self.function(student, teacher))


_PROXIES: Registry[Proxy] = Registry("proxy")


def register_proxy(
    name: str, function: ProxyFunction, *, needs_teacher: bool = False, terms: tuple[str, ...] = ()
) -> Proxy:
    """Make a proxy known by name; the first line of its docstring becomes its summary.

    Raises:
        ValueError: The name is taken.
        UnknownNameError: A term is not known.
    """
    for term in terms:
        get_proxy(term)
    summary = (function.__doc__ or "").strip().partition("\n")[0]
    return _PROXIES.register(name, Proxy(name, function, needs_teacher, summary, terms))


def _fingerprint(function: ProxyFunction) -> str:
    """Where a function comes from, and a hash of its source and code; what it closes over is not seen."""
    place = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    digest = hashlib.sha256()
    with contextlib.suppress(OSError, TypeError):  # typed in at a prompt, or no function
        digest.update(inspect.getsource(function).encode())
    code = getattr(function, "__code__", None)
    if code is not None:  # two lambdas of one line have the same source
        constants = [constant for constant in code.co_consts if not inspect.iscode(constant)]
        digest.update(code.co_code + repr((code.co_names, constants)).encode())
    return f"{place}, code {digest.hexdigest()[:12]}"


def get_proxy(proxy: str | Proxy | ProxyFunction) -> Proxy:
    """The proxy of this name; a function of two readings becomes one that may use the teacher.

    Raises:
        UnknownNameError: No proxy has this name; near names are given.
    """
    if isinstance(proxy, Proxy):
        return proxy
    if isinstance(proxy, str):
        return _PROXIES[proxy]
    name = getattr(proxy, "__name__", type(proxy).__name__)
    return Proxy(name, proxy, needs_teacher=False, summary=(proxy.__doc__ or "").strip().partition("\n")[0])


def list_proxies(pattern: str = "*") -> list[str]:
    """Names of the proxies that match a shell pattern, in order of registration."""
    return [name for name in _PROXIES if fnmatch(name, pattern)]
