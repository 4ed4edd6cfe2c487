"""What is compared: which architectures of the table, which proxies, and against whom."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from search_spaces import AccuracyTable, Architecture, SearchSpace, read_table

from .data import Probe
from .evaluation import uses_teacher
from .proxies import Proxy, ProxyFunction, RankAggregate, elementary_proxies, get_proxy, match_proxies
from .scoring import SIZES, Opponent
from .search import as_teacher, check_whole
from .seeding import stable_seed
from .teacher import Teacher

OTHER_TEACHERS = ("cifar_wrn_40_1", "cifar_resnet56")
OTHER_DEPTHS = ("cifar_resnet20", "cifar_resnet110")
"""What controls compare with by default: the first that is not the teacher. All end 64 channels wide, as the customary
CIFAR ResNets do, since proxies that need a student and a teacher of one width have no value otherwise."""

FEWEST = 3
"""Architectures that a correlation says anything about."""

ProxyLike = str | Proxy | RankAggregate | ProxyFunction


def resolve_proxies(proxies: ProxyLike | Sequence[ProxyLike]) -> list[Proxy | RankAggregate]:
    """The proxies asked for, each once, and the two sizes behind them if they are not among them.

    Raises:
        UnknownNameError: No proxy has this name, or none matches this pattern; near names are given.
        ValueError: Two different ones have the same name.
    """
    given = [proxies] if isinstance(proxies, str | Proxy | RankAggregate) or callable(proxies) else list(proxies)
    found: dict[str, Proxy | RankAggregate] = {}
    for one in [name for item in [*given, *SIZES] for name in _matching(item)]:
        proxy = get_proxy(one)
        known = found.setdefault(proxy.name, proxy)
        if known != proxy and known.identity != proxy.identity:
            raise ValueError(f"Two different proxies are called {proxy.name!r}; give one of them another name.")
    return list(found.values())


def _matching(proxy: ProxyLike) -> list[Any]:
    """The names that a pattern stands for; anything else stands for itself."""
    if not isinstance(proxy, str) or "(" in proxy or not any(sign in proxy for sign in "*?["):
        return [proxy]
    return match_proxies(proxy)


def as_table(table: AccuracyTable | str | os.PathLike[str], column: str | None) -> AccuracyTable:
    """The table; one given as a path is read.

    Raises:
        FileNotFoundError, ValueError: As for `read_table`; or the table is of another column.
    """
    if not isinstance(table, AccuracyTable):
        return read_table(table, column)
    if column not in (None, table.column):
        raise ValueError(f"The table {table.name!r} holds {table.column!r}, not the column {column!r}.")
    return table


def choose_architectures(
    space: SearchSpace,
    table: AccuracyTable,
    asked: Iterable[str | Architecture] | None,
    sample: int | None,
    seed: int,
    include_untrainable: bool,
) -> tuple[list[Architecture], dict[str, int]]:
    """The architectures to compare, and how many of the table are left out, by reason.

    Args:
        space, table, sample, seed, include_untrainable: As for `compare`.
        asked: Those to choose from; by default all of the table.

    Raises:
        ValueError: The table or what is asked of it is not what it must be.
    """
    if not table:
        raise ValueError(f"The table {table.name} has no architectures.")
    if asked is not None:
        given = [str(architecture) for architecture in asked]
        twice = [text for text, count in Counter(given).items() if count > 1]
        if twice:
            raise ValueError(f"Asked for twice: {listed(twice)}.")
        table = table.select(given)
    broken = [text for text, accuracy in table.items() if not math.isfinite(accuracy)]
    if broken:
        raise ValueError(f"The table {table.name} has no finite accuracy for {listed(broken)}.")
    chosen = table.check(space)
    if sample is not None:
        check_whole("sample", sample, least=1)
        chosen.sort(key=str)  # so that the order of the table's rows does not matter
        random.Random(stable_seed(seed, "sample")).shuffle(chosen)
    left_out = {}
    if not include_untrainable:  # after the shuffle: the sample with them is nearly the same
        trainable = [architecture for architecture in chosen if space.is_trainable(architecture)]
        left_out["not trainable"] = len(chosen) - len(trainable)
        chosen = trainable
    if sample is not None:
        if sample > len(chosen):
            raise ValueError(f"sample is {sample}, but {table.name} has {len(chosen)} architectures to compare.")
        left_out["not drawn"] = len(chosen) - sample
        chosen = chosen[:sample]
    if len(chosen) < FEWEST:
        raise ValueError(f"A comparison needs at least {FEWEST} architectures, got {len(chosen)} from {table.name}.")
    return chosen, {reason: count for reason, count in left_out.items() if count}


def members_of(proxies: Sequence[Proxy | RankAggregate]) -> list[Proxy]:
    """The proxies themselves and the members of aggregates, in order."""
    return [member for proxy in proxies for member in elementary_proxies(proxy)]


def create_opponents(
    asked: Sequence[Proxy | RankAggregate],
    space: SearchSpace,
    probe: Probe,
    *,
    teacher: Teacher | None = None,
    controls: bool = False,
    other: Teacher | None = None,
    depth: Teacher | None = None,
) -> list[Opponent]:
    """The teacher, and what the controls put in its place.

    Args:
        asked: The proxies.
        space, probe: What the teachers of the controls are made for.
        teacher: The teacher asked for.
        controls: Whether there are controls.
        other: Another teacher; by default the first of `OTHER_TEACHERS` that is not the teacher.
        depth: One of another depth; by default the first of `OTHER_DEPTHS` likewise.

    Raises:
        ValueError: A proxy needs a teacher and there is none, or there is nothing to control.
    """
    lacking = [proxy.name for proxy in asked if proxy.needs_teacher and teacher is None]
    if lacking:
        raise ValueError(f"{listed(lacking)}: compared with a teacher, and none was given.")
    opponents = [Opponent(teacher)]
    if not controls:
        if other or depth:
            raise ValueError("other_teacher and other_depth are controls; ask for them with controls=True.")
        return opponents
    if teacher is None or not any(map(uses_teacher, members_of(asked))):
        shown = listed([proxy.name for proxy in asked])
        raise ValueError(f"Controls repeat proxies that compare with a teacher, but none of these does: {shown}.")
    for kind, given, names in (("other teacher", other, OTHER_TEACHERS), ("other depth", depth, OTHER_DEPTHS)):
        name = next(name for name in names if name != teacher.name)
        another = given or as_teacher(name, space, probe)
        assert another is not None
        if another.config() == teacher.config():
            raise ValueError(f"The {kind} is {another.name!r}, which is the teacher itself.")
        opponents.append(Opponent(another, None, f"{kind}: {another.name}"))
    opponents += [Opponent(teacher, kind, kind) for kind in ("shuffled", "no teacher")]
    return opponents


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
