"""What a proxy is, and the registry of proxies by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property

from search_spaces.registry import Registry, UnknownNameError, unknown_name_message

from ..readings import Readings, check_needs
from .aggregate import RankAggregate
from .identity import belongs_here, fingerprint

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
        needs: Names of the student's readings that it uses and a plain forward pass does not give, such as
            "gradients"; what several proxies need is then recorded in one pass.

    Raises:
        UnknownNameError: `needs` has a name that is no reading.
    """

    name: str
    function: ProxyFunction
    needs_teacher: bool
    summary: str
    terms: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_needs(self.needs)

    @property
    def members(self) -> tuple[Proxy, ...]:
        """Itself: what an aggregate has several of."""
        return (self,)

    @property
    def parts(self) -> tuple[Proxy, ...]:
        """The terms as proxies."""
        return tuple(_known_proxy(term) for term in self.terms)

    @property
    def is_registered(self) -> bool:
        """Whether it is known by name in this process."""
        return _PROXIES.get(self.name) is self

    @cached_property
    def identity(self) -> str:
        """What a run folder remembers it by: its name and, unless this package has it, what its function computes.

        Two functions have the same only where all that they hold can be seen and is equal. A function that holds an
        object of another kind, a network for instance, has another identity each time it becomes a proxy: what it gave
        is never taken for what it would give. Global names that a function uses are not seen.
        """
        if self.is_registered and belongs_here(self.function, self.name):
            return self.name
        return f"{self.name} ({fingerprint(self.function)})"

    def __call__(self, student: Readings, teacher: Readings | None = None) -> float:
        """The score of a student.

        Raises:
            ValueError: It needs a teacher and there is none.
        """
        if self.needs_teacher and teacher is None:
            raise ValueError(f"The proxy {self.name!r} compares with a teacher; none was given.")
        return float(self.function(student, teacher))


_PROXIES: Registry[Proxy | RankAggregate] = Registry("proxy")


def register_proxy(
    name: str,
    function: ProxyFunction,
    *,
    needs_teacher: bool = False,
    terms: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Proxy:
    """Make a proxy known by name; the first line of its docstring becomes its summary.

    Args:
        name: What it is called.
        function, needs_teacher, terms, needs: See `Proxy`.

    Raises:
        ValueError: The name is taken, or a term is an aggregate.
        UnknownNameError: A term or a reading is not known.
    """
    for term in terms:
        _known_proxy(term)
    proxy = Proxy(name, function, needs_teacher, _summary(function), terms, needs)
    _PROXIES.register(name, proxy)
    return proxy


def register_aggregate(
    name: str, members: Sequence[str | Proxy | ProxyFunction], method: str, summary: str
) -> RankAggregate:
    """Make an aggregate known by name.

    Args:
        name: What it is called.
        members: The proxies, by name or as functions.
        method, summary: See `RankAggregate`.

    Raises:
        UnknownNameError: A member or the method is not known.
        ValueError: The name is taken, or the members make no aggregate.
    """
    aggregate = create_aggregate(members, method, name=name, summary=summary)
    _PROXIES.register(name, aggregate)
    return aggregate


def create_aggregate(
    members: Sequence[str | Proxy | ProxyFunction],
    method: str = "log_rank",
    *,
    name: str | None = None,
    summary: str = "",
) -> RankAggregate:
    """Proxies combined by rank.

    Args:
        members: The proxies, by name or as functions.
        method: "log_rank" or "mean_rank".
        name: What it is called; by default the method and its members, as `get_proxy` reads them.
        summary: One line on what it measures.

    Raises:
        UnknownNameError: A member or the method is not known.
        ValueError: The members make no aggregate.
    """
    found = [get_proxy(member) for member in members]
    name = name or f"{method}({', '.join(member.name for member in found)})"
    return RankAggregate(name, tuple(found), method, summary)  # type: ignore[arg-type]  # aggregates are refused there


def get_proxy(proxy: str | Proxy | RankAggregate | ProxyFunction) -> Proxy | RankAggregate:
    """The proxy or aggregate of this name; a function of two readings becomes a proxy that may use the teacher.

    Args:
        proxy: A name, "log_rank(nwot, macs)" or "mean_rank(nwot, macs)" of any names, a function, or what is one
            already.

    Raises:
        UnknownNameError: No proxy or method has this name; near names are given.
        ValueError: The text is malformed, or its names make no aggregate.
    """
    if isinstance(proxy, Proxy | RankAggregate):
        return proxy
    if isinstance(proxy, str):
        return _parse_aggregate(proxy) if "(" in proxy else _PROXIES[proxy]
    if not callable(proxy):
        raise ValueError(f"{proxy!r} is no proxy; it must be a name, a proxy, or a function of two readings.")
    name = getattr(proxy, "__name__", type(proxy).__name__)
    return Proxy(name, proxy, needs_teacher=False, summary=_summary(proxy))


def list_proxies(pattern: str = "*") -> list[str]:
    """Names of the proxies that match a shell pattern, in order of registration."""
    return [name for name, proxy in _PROXIES.items() if isinstance(proxy, Proxy) and fnmatch(name, pattern)]


def list_aggregates(pattern: str = "*") -> list[str]:
    """Names of the aggregates that match a shell pattern, in order of registration."""
    return [name for name, proxy in _PROXIES.items() if isinstance(proxy, RankAggregate) and fnmatch(name, pattern)]


def match_proxies(pattern: str = "*") -> list[str]:
    """Names of the proxies, then of the aggregates, that match a shell pattern.

    Raises:
        UnknownNameError: None does; near names are given.
    """
    names = [*list_proxies(pattern), *list_aggregates(pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("proxy", pattern, _PROXIES))
    return names


def _parse_aggregate(text: str) -> RankAggregate:
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    members = [name.strip() for name in match[2].split(",")] if match else []
    if match is None or "" in members:
        raise ValueError(
            f"{text!r} is no aggregate; write a method and the names of proxies, as in 'log_rank(nwot, macs)'."
        )
    return create_aggregate(members, match[1])


def _known_proxy(name: str) -> Proxy:
    """The proxy of this name, which scores a network by itself."""
    proxy = _PROXIES[name]
    if isinstance(proxy, RankAggregate):
        raise ValueError(f"{name!r} is an aggregate, which gives a network no value by itself; it cannot be a term.")
    return proxy


def _summary(function: ProxyFunction) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
