"""Several scores as one ranking: the value of an architecture among those that were scored with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.registry import UnknownNameError, unknown_name_message

from .proxy import Proxy

Floats = NDArray[np.float64]


def log_rank(ranks: Floats) -> Floats:
    """Sum log(rank / m) over components. The best in every component scores 0, and one bad rank costs much.

    Args:
        ranks: (components, m), from 1 for the worst of m architectures to m for the best.

    Returns:
        (m,), in nats, at most 0.

    Source: Lee and Ham, "AZ-NAS", CVPR 2024.
    """
    # Sorting makes the sum the same to the last bit when two components swap their ranks.
    return np.asarray(np.sort(np.log(ranks / ranks.shape[1]), axis=0).sum(axis=0))


def mean_rank(ranks: Floats) -> Floats:
    """Average rank / m over components. The best in every component scores 1.

    Args:
        ranks: (components, m), from 1 for the worst of m architectures to m for the best.

    Returns:
        (m,), above 0 and at most 1.

    Source: Chen et al., "TE-NAS", ICLR 2021, which adds the ranks.
    """
    return np.asarray(ranks.sum(axis=0) / ranks.size)


METHODS: dict[str, Callable[[Floats], Floats]] = {"log_rank": log_rank, "mean_rank": mean_rank}
"""How ranks become one score, by name; higher is better."""


@dataclass(frozen=True)
class RankAggregate:
    """Several proxies combined by rank. It orders architectures among each other and scores no single network.

    Attributes:
        name: The name that users type and that reports print.
        components: The proxies to combine.
        method: How ranks are combined: "log_rank" or "mean_rank".
        summary: One line on what the aggregate measures.

    Raises:
        UnknownNameError: There is no such method.
        ValueError: There are fewer than two components, two share a name, or one is an aggregate.

    Example:
        >>> from diswot_search.proxies import create_aggregate
        >>> sizes = create_aggregate(["params", "macs"], "mean_rank")
        >>> sizes.combine({"params": [10, 20, 30], "macs": [5, 9, 7]}).round(2).tolist()
        [0.33, 0.83, 0.83]
    """

    name: str
    components: tuple[Proxy, ...]
    method: str = "log_rank"
    summary: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError(unknown_name_message("method of aggregation", self.method, METHODS))
        for component in self.components:
            if isinstance(component, RankAggregate):
                raise ValueError(
                    f"{self.name}: {component.name!r} is an aggregate, and aggregates are not made of aggregates; "
                    f"its components are {', '.join(component.component_names)}."
                )
        if len(self.components) < 2:
            raise ValueError(f"{self.name}: an aggregate has at least two components, not {len(self.components)}.")
        names = self.component_names
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"{self.name}: the component {repeated!r} is there twice.")

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the components, in order."""
        return tuple(component.name for component in self.components)

    @property
    def needs_teacher(self) -> bool:
        """Whether a component compares with a teacher."""
        return any(component.needs_teacher for component in self.components)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the readings that the components use, each once."""
        return tuple(dict.fromkeys(need for component in self.components for need in component.needs))

    @property
    def identity(self) -> str:
        """The text by which a study tells this aggregate from others: method and components, not its name."""
        return f"{self.method}({', '.join(component.identity for component in self.components)})"

    def combine(self, scores: Mapping[str, ArrayLike]) -> Floats:
        """Score m architectures relative to each other. Tied architectures share the mean of their ranks.

        Args:
            scores: The m values of every component, by its name. Other entries are ignored.

        Returns:
            (m,), in the order of the values; higher is better.

        Raises:
            ValueError: A component is missing, a value is not finite, or components differ in their number of values.
        """
        from scipy.stats import rankdata  # slow to import, and most searches do not rank

        values = self._values(scores)
        if values.shape[1] == 0:
            return np.empty(0)
        return METHODS[self.method](rankdata(values, axis=1))

    def _values(self, scores: Mapping[str, ArrayLike]) -> Floats:
        """The scores as (components, m)."""
        names = self.component_names
        missing = [name for name in names if name not in scores]
        if missing:
            raise ValueError(f"{self.name}: there are no scores of {', '.join(missing)}.")
        rows = [np.asarray(scores[name], dtype=np.float64) for name in names]
        if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
            shapes = ", ".join(f"{name} {row.shape}" for name, row in zip(names, rows, strict=True))
            raise ValueError(f"{self.name}: every component needs one score per architecture; shapes are {shapes}.")
        for name, row in zip(names, rows, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(f"{self.name}: scores of {name} are not finite; leave those architectures out.")
        return np.stack(rows)


def elementary_proxies(proxy: Proxy | RankAggregate) -> tuple[Proxy, ...]:
    """The proxies that score networks for this one: the components of an aggregate, or the proxy itself."""
    return proxy.components if isinstance(proxy, RankAggregate) else (proxy,)
