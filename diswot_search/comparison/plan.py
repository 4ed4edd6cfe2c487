"""Plan of a comparison: its architectures, its proxies and its conditions."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from search_spaces.space import Architecture, SearchSpace
from search_spaces.tables import AccuracyTable, read_table

from ..checks import check_whole
from ..data.probe import Probe
from ..networks.network import Network
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy, match_proxies
from ..resolve.searches import as_teacher
from ..runtime.seeding import stable_seed
from ..study.evaluator import SIZES, Condition, uses_teacher

OTHER_TEACHERS = ("cifar_wrn_40_1", "cifar_resnet56")


OTHER_DEPTHS = ("cifar_resnet20", "cifar_resnet110")
"""Default teachers of the controls, the first that is not the teacher itself. All have 64 channels in their last stage,
as the usual CIFAR ResNets have, because some proxies need a student and a teacher of equal width."""


MIN_ARCHITECTURES = 3
"""Fewest architectures of a comparison: with fewer, a correlation has no meaning."""


ProxyLike = str | Proxy | RankAggregate | ProxyFunction


def resolve_proxies(proxies: ProxyLike | Sequence[ProxyLike]) -> list[Proxy | RankAggregate]:
    """The requested proxies, each once, followed by the sizes `SIZES` unless they were requested.

    Args:
        proxies: One proxy or several: names, shell patterns such as `"grad*"`, expressions such as
            `"log_rank(nwot, macs)"`, proxy objects or functions.

    Raises:
        UnknownNameError: No proxy has this name or matches this pattern; the message gives near names.
        ValueError: Two different proxies have one name.

    Example:
        >>> [proxy.name for proxy in resolve_proxies("synflow")]
        ['synflow', 'params', 'macs']
    """
    requested = [proxies] if isinstance(proxies, str | Proxy | RankAggregate) or callable(proxies) else list(proxies)
    by_name: dict[str, Proxy | RankAggregate] = {}
    for proxy in (get_proxy(name) for item in [*requested, *SIZES] for name in _matching(item)):
        namesake = by_name.setdefault(proxy.name, proxy)
        if namesake != proxy and namesake.identity != proxy.identity:
            raise ValueError(f"Two different proxies are called {proxy.name!r}; give one of them another name.")
    return list(by_name.values())


def _matching(proxy: ProxyLike) -> Sequence[ProxyLike]:
    """The names that match a pattern; anything but a pattern as it is."""
    if not isinstance(proxy, str) or "(" in proxy or not any(sign in proxy for sign in "*?["):
        return [proxy]
    return match_proxies(proxy)


def as_table(table: AccuracyTable | str | os.PathLike[str], column: str | None) -> AccuracyTable:
    """The accuracy table, read from its file if it is given as a path.

    Args:
        table: A table, or the path of one.
        column: Name of its column; None for the table's own or, in a file, its only one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no valid table, or the table holds another column.
    """
    if not isinstance(table, AccuracyTable):
        return read_table(table, column)
    if column not in (None, table.column):
        raise ValueError(f"The table {table.name!r} holds {table.column!r}, not the column {column!r}.")
    return table


def choose_architectures(
    space: SearchSpace,
    table: AccuracyTable,
    architectures: Iterable[str | Architecture] | None,
    sample: int | None,
    seed: int,
    include_untrainable: bool,
) -> tuple[list[Architecture], dict[str, int]]:
    """Select the architectures to compare.

    Args:
        space: The search space of the architectures.
        table: Their accuracies.
        architectures: The architectures to choose from; None for all of the table.
        sample: Number of architectures to draw at random; None for all.
        seed: Seed of that draw.
        include_untrainable: Whether to keep architectures that the space calls not trainable.

    Returns:
        The architectures, and the number of the others by the reason for leaving them out.

    Raises:
        ValueError: The table is empty or not finite, an architecture is requested twice or is not in the table, the
            sample is larger than the table, or fewer than `MIN_ARCHITECTURES` architectures remain.
    """
    if not table:
        raise ValueError(f"The table {table.name} has no architectures.")
    if architectures is not None:
        requested = [str(architecture) for architecture in architectures]
        repeated = [text for text, count in Counter(requested).items() if count > 1]
        if repeated:
            raise ValueError(f"Architectures given more than once: {listed(repeated)}; give each once.")
        table = table.select(requested)
    broken = [text for text, accuracy in table.items() if not math.isfinite(accuracy)]
    if broken:
        raise ValueError(f"The table {table.name} has no finite accuracy for {listed(broken)}.")
    chosen = table.check(space)
    if sample is not None:
        check_whole("sample", sample, least=1)
        chosen.sort(key=str)  # makes the sample independent of the order of the rows
        random.Random(stable_seed(seed, "sample")).shuffle(chosen)
    left_out = {}
    if not include_untrainable:  # after the shuffle, so that samples with and without them overlap
        trainable = [architecture for architecture in chosen if space.is_trainable(architecture)]
        left_out["not trainable"] = len(chosen) - len(trainable)
        chosen = trainable
    if sample is not None:
        if sample > len(chosen):
            raise ValueError(f"sample is {sample}, but {table.name} has {len(chosen)} architectures to compare.")
        left_out["not drawn"] = len(chosen) - sample
        chosen = chosen[:sample]
    if len(chosen) < MIN_ARCHITECTURES:
        raise ValueError(
            f"A comparison needs at least {MIN_ARCHITECTURES} architectures, got {len(chosen)} from {table.name}."
        )
    return chosen, {reason: count for reason, count in left_out.items() if count}


def members_of(proxies: Sequence[Proxy | RankAggregate]) -> list[Proxy]:
    """The proxies in order, each aggregate replaced by its components."""
    return [component for proxy in proxies for component in elementary_proxies(proxy)]


def create_conditions(
    proxies: Sequence[Proxy | RankAggregate],
    space: SearchSpace,
    probe: Probe,
    *,
    teacher: Network | None = None,
    controls: bool = False,
    other: Network | None = None,
    depth: Network | None = None,
) -> list[Condition]:
    """The conditions of a comparison: the teacher, followed by the controls derived from it.

    Args:
        proxies: The requested proxies.
        space: The search space, whose images the teachers of the controls must accept.
        probe: The probe that those teachers must accept.
        teacher: The reference network of teacher-based proxies; None for proxies without a teacher.
        controls: Whether to add the controls: another teacher, a teacher of another depth, shuffled readings and noise.
        other: Another teacher; None for the first of `OTHER_TEACHERS` that is not the teacher.
        depth: A teacher of another depth; None for the first of `OTHER_DEPTHS` that is not the teacher.

    Raises:
        ValueError: A proxy needs a teacher and there is none, a control equals the teacher, controls are requested for
            proxies that use no teacher, or teachers of controls are given without `controls`.
    """
    lacking = [proxy.name for proxy in proxies if proxy.needs_teacher and teacher is None]
    if lacking:
        raise ValueError(f"No teacher for {listed(lacking)}: pass `teacher=`, or leave out proxies that need one.")
    conditions = [Condition(teacher)]
    if not controls:
        if other or depth:
            raise ValueError("other_teacher and other_depth are controls; ask for them with controls=True.")
        return conditions
    if teacher is None or not any(map(uses_teacher, members_of(proxies))):
        names = listed([proxy.name for proxy in proxies])
        raise ValueError(f"Controls repeat proxies that compare with a teacher, but none of these does: {names}.")
    for kind, alternative, defaults in (
        ("other teacher", other, OTHER_TEACHERS),
        ("other depth", depth, OTHER_DEPTHS),
    ):
        name = next(name for name in defaults if name != teacher.name)
        another = alternative or as_teacher(name, space, probe)
        assert another is not None
        if another.config() == teacher.config():
            raise ValueError(f"The {kind} is {another.name!r}, which is the teacher itself; give another one.")
        conditions.append(Condition(another, None, f"{kind}: {another.name}"))
    conditions += [Condition(teacher, kind, kind) for kind in ("shuffled", "no teacher")]
    return conditions


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names for a message, and the number of the others.

    Example:
        >>> listed(["a", "b", "c"], limit=2)
        "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
