"""The registry of proxies and aggregates by name, and what becomes a proxy without a name in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, UnknownNameError, unknown_name_message

from .aggregate import RankAggregate
from .proxy import Proxy, ProxyFunction


def _adopt(name: str, value: object) -> Proxy | RankAggregate:
    """The proxy that a user's own code has under a name."""
    if isinstance(value, type) or not (callable(value) or isinstance(value, Proxy | RankAggregate)):
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise OwnCodeError(f"{name} is {kind}; a proxy is a function of the student's and the teacher's readings.")
    return get_proxy(value)


_PROXIES: Registry[Proxy | RankAggregate] = Registry("proxy", _adopt)


def register_proxy(
    name: str,
    function: ProxyFunction,
    *,
    needs_teacher: bool = False,
    components: Sequence[str | Proxy] = (),
    needs: tuple[str, ...] = (),
) -> Proxy:
    """Make a proxy known by name. The first line of its docstring becomes its summary.

    One file with a function and this call is all that a proxy of your own takes. The function reads whatever it likes
    off `Readings`. Readings that a plain forward pass does not give are named in `needs`, which only saves time: all
    that the proxies of a run need is then recorded in one pass.

    Args:
        name: The new name.
        function: Maps (student's readings, teacher's readings or None) to a score; higher is better.
        needs_teacher: Whether the function compares the student with a teacher.
        components: The proxies that the score is made of, by name or as proxies. Their values are reported next to it.
        needs: Names of the readings that the function uses beyond a plain forward pass, such as "gradients".

    Returns:
        The proxy.

    Raises:
        ValueError: The name is taken, or a component is an aggregate.
        UnknownNameError: A component or a reading is not known.

    Example:
        The file `spread.py`::

            import diswot_search as ds

            def spread(student, teacher=None):
                '''Standard deviation of the logits, over samples and classes.'''
                return float(student.logits.std())

            ds.register_proxy("spread", spread)

        After `import spread` every function that takes a proxy takes "spread", as in
        `ds.search("nasbench201", proxy="spread")`. A proxy for one call needs no name: `proxy=spread` works as well.
    """
    proxies = tuple(_known_proxy(component) for component in components)
    proxy = Proxy(name, function, needs_teacher, _summary(function), proxies, needs)
    _PROXIES.register(name, proxy)
    object.__setattr__(proxy, "is_registered", True)  # the one change that a proxy ever sees
    return proxy


def register_aggregate(
    name: str, components: Sequence[str | Proxy | ProxyFunction], method: str, summary: str
) -> RankAggregate:
    """Make an aggregate known by name.

    Args:
        name: The new name.
        components: The proxies to combine, by name or as functions.
        method: How ranks are combined: "log_rank" or "mean_rank".
        summary: One line on what the aggregate measures.

    Returns:
        The aggregate.

    Raises:
        UnknownNameError: A component or the method is not known.
        ValueError: The name is taken, or the components cannot be combined; see `RankAggregate`.
    """
    aggregate = create_aggregate(components, method, name=name, summary=summary)
    _PROXIES.register(name, aggregate)
    return aggregate


def create_aggregate(
    components: Sequence[str | Proxy | ProxyFunction],
    method: str = "log_rank",
    *,
    name: str | None = None,
    summary: str = "",
) -> RankAggregate:
    """Combine proxies by rank.

    Args:
        components: The proxies to combine, by name or as functions.
        method: How ranks are combined: "log_rank" or "mean_rank".
        name: The name of the aggregate; by default the text from which `get_proxy` makes it again.
        summary: One line on what the aggregate measures.

    Returns:
        The aggregate.

    Raises:
        UnknownNameError: A component or the method is not known.
        ValueError: The components cannot be combined; see `RankAggregate`.

    Example:
        >>> from diswot_search.proxies import create_aggregate
        >>> create_aggregate(["nwot", "macs"]).name
        'log_rank(nwot, macs)'
    """
    proxies = [get_proxy(component) for component in components]
    name = name or f"{method}({', '.join(proxy.name for proxy in proxies)})"
    return RankAggregate(name, tuple(proxies), method, summary)  # type: ignore[arg-type]  # it refuses aggregates


def get_proxy(proxy: str | Proxy | RankAggregate | ProxyFunction) -> Proxy | RankAggregate:
    """Find a proxy or an aggregate by name, or make one from a text or a function.

    Args:
        proxy: A registered name; a function of your own as `module:name` or `file.py:name`; a text such as
            "log_rank(nwot, macs)" or "mean_rank(nwot, macs)"; a function of two readings, which becomes a proxy that
            may use the teacher; or a proxy or an aggregate, which is returned.

    Returns:
        The proxy or the aggregate.

    Raises:
        UnknownNameError: No proxy or method has this name; the message names those that come near.
        ValueError: The text is malformed, its proxies cannot be combined, or the value is nothing of the above.

    Example:
        >>> from diswot_search.proxies import get_proxy
        >>> get_proxy("macs").summary
        'Number of multiply-accumulates of one image.'
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
    """List the names of the proxies that match a shell pattern, in order of registration.

    Example:
        >>> "diswot" in list_proxies("dis*")
        True
    """
    return [name for name, proxy in _PROXIES.items() if isinstance(proxy, Proxy) and fnmatch(name, pattern)]


def list_aggregates(pattern: str = "*") -> list[str]:
    """List the names of the aggregates that match a shell pattern, in order of registration.

    Example:
        >>> isinstance(list_aggregates(), list)
        True
    """
    return [name for name, proxy in _PROXIES.items() if isinstance(proxy, RankAggregate) and fnmatch(name, pattern)]


def match_proxies(pattern: str = "*") -> list[str]:
    """List the names of the proxies, then of the aggregates, that match a shell pattern.

    Raises:
        UnknownNameError: No name matches; the message names those that come near.
    """
    names = [*list_proxies(pattern), *list_aggregates(pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("proxy", pattern, _PROXIES))
    return names


def _parse_aggregate(text: str) -> RankAggregate:
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    names = [name.strip() for name in match[2].split(",")] if match else []
    if match is None or "" in names:
        raise ValueError(
            f"{text!r} is no aggregate; write a method and the names of proxies, as in 'log_rank(nwot, macs)'."
        )
    return create_aggregate(names, match[1])


def _known_proxy(component: str | Proxy) -> Proxy:
    """The component as a proxy, which gives a single network a value."""
    proxy = _PROXIES[component] if isinstance(component, str) else component
    if isinstance(proxy, RankAggregate):
        raise ValueError(
            f"{proxy.name!r} is an aggregate, which gives a single network no value; it cannot be a component of a "
            "proxy."
        )
    return proxy


def _summary(function: ProxyFunction) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
