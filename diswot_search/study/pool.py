"""The ranking of everything that a search with an aggregate has scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..proxies.aggregate import RankAggregate
from .records import Record


class Pool:
    """Everything that a search with an aggregate has scored, each architecture relative to the others.

    A search that continues fills the pool again record by record, so that its algorithm sees every generation as it
    was. Iteration gives the records with their current scores, in the order of the proposals.

    Args:
        aggregate: The aggregate that ranks the records.
    """

    def __init__(self, aggregate: RankAggregate) -> None:
        self.aggregate = aggregate
        self._records: list[Record] = []
        self._parts: dict[str, list[float]] = {name: [] for name in aggregate.component_names}
        self._scores = np.empty(0)

    def add(self, record: Record) -> Record:
        """Rank everything anew with one more record and return it with its score. A failed one is not ranked."""
        if record.status != "ok":
            return record
        self._records.append(record)
        for name, values in self._parts.items():
            values.append(record.parts[name])
        self._scores = self.aggregate.combine(self._parts)
        return self._at(-1)

    def __iter__(self) -> Iterator[Record]:
        return map(self._at, range(len(self._records)))

    @property
    def scores(self) -> dict[int, float]:
        """The current scores, by index of the record."""
        return {record.index: score for record, score in zip(self._records, self._scores.tolist(), strict=True)}

    @property
    def best(self) -> Record | None:
        """The record that would win if the search ended now."""
        if not self._records:
            return None
        places = np.flatnonzero(self._scores == self._scores.max()).tolist()
        return self._at(min(places, key=lambda place: (self._records[place].params, place)))

    def _at(self, place: int) -> Record:
        return replace(self._records[place], score=float(self._scores[place]))
