"""Several scores as one ranking: what an architecture is worth among those scored with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.registry import UnknownNameError, unknown_name_message

if TYPE_CHECKING:
    from .base import Proxy

Floats = NDArray[np.float64]


def log_rank(ranks: Floats) -> Floats:
    """Sum over members of log(rank / m): 0 for what is best in all, and one bad rank costs much.

    Args:
        ranks: Members x m architectures, from 1 for the worst to m for the best.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    # Sorted, so that the same ranks from other members give the same sum to the last bit.
    return np.asarray(np.sort(np.log(ranks / ranks.shape[1]), axis=0).sum(axis=0))


def mean_rank(ranks: Floats) -> Floats:
    """Mean over members of rank / m: 1 for what is best in all.

    Args:
        ranks: Members x m architectures, from 1 for the worst to m for the best.

    Source: Chen et al., "TE-NAS", ICLR 2021, which adds the ranks.
    """
    return np.asarray(ranks.sum(axis=0) / ranks.size)


METHODS: dict[str, Callable[[Floats], Floats]] = {"log_rank": log_rank, "mean_rank": mean_rank}
"""How ranks become one score, by name; higher is better."""


@dataclass(frozen=True)
class RankAggregate:
    """Several proxies combined by rank. It scores no network by itself, only architectures among each other.

    Attributes:
        name: What it is called.
        members: The proxies that it combines.
        method: "log_rank" or "mean_rank".
        summary: One line on what it measures.

    Raises:
        UnknownNameError: There is no such method.
        ValueError: Fewer than two members, two of one name, or an aggregate among them.
    """

    name: str
    members: tuple[Proxy, ...]
    method: str = "log_rank"
    summary: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError(unknown_name_message("method of aggregation", self.method, METHODS))
        for member in self.members:
            if isinstance(member, RankAggregate):
                raise ValueError(
                    f"{self.name}: {member.name!r} is an aggregate, and aggregates are not made of aggregates; "
                    f"its members are {', '.join(member.terms)}."
                )
        if len(self.members) < 2:
            raise ValueError(f"{self.name}: an aggregate has at least two members, not {len(self.members)}.")
        twice = next((name for name in self.terms if self.terms.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self.name}: the member {twice!r} is there twice.")

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.name for member in self.members)

    @property
    def parts(self) -> tuple[Proxy, ...]:
        """The members: what is reported beside the score."""
        return self.members

    @property
    def needs_teacher(self) -> bool:
        """Whether a member compares with a teacher."""
        return any(member.needs_teacher for member in self.members)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the readings that the members use, each once."""
        return tuple(dict.fromkeys(need for member in self.members for need in member.needs))

    @property
    def identity(self) -> str:
        """What a study remembers it by: what it is made of, whatever it is called."""
        return f"{self.method}({', '.join(member.identity for member in self.members)})"

    def combine(self, scores: Mapping[str, ArrayLike]) -> Floats:
        """One score for each of m architectures, relative to the others. Ties have the mean of their ranks.

        Args:
            scores: The m values of every member, by name; others are not looked at.

        Raises:
            ValueError: A member is missing, values are not finite, or some members have more of them than others.
        """
        from scipy.stats import rankdata  # slow to import, and most searches need none of it

        values = self._values(scores)
        if values.shape[1] == 0:
            return np.empty(0)
        return METHODS[self.method](rankdata(values, axis=1))

    def _values(self, scores: Mapping[str, Any]) -> Floats:
        """Members x m architectures."""
        missing = [name for name in self.terms if name not in scores]
        if missing:
            raise ValueError(f"{self.name}: there are no scores of {', '.join(missing)}.")
        rows = [np.asarray(scores[name], dtype=np.float64) for name in self.terms]
        if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
            shapes = ", ".join(f"{name} {row.shape}" for name, row in zip(self.terms, rows, strict=True))
            raise ValueError(f"{self.name}: every member needs one score for each architecture; shapes are {shapes}.")
        for name, row in zip(self.terms, rows, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(f"{self.name}: scores of {name} are not finite; leave those architectures out.")
        return np.stack(rows)
