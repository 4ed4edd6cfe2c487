"""A ranking of sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from statistics import fmean, pstdev
from typing import Any

from search_spaces.registry import UnknownNameError, unknown_name_message

from ..data.splits import Splits
from ..networks.network import Network, TeacherBank
from ..options.shared import POWER
from ..runtime.configuration import versions
from .frozen import source_teacher
from .transferability import source_weights


class RankingError(ValueError):
    """Sources that cannot be ranked as asked, or a ranking that cannot be used as asked."""


@dataclass(frozen=True)
class Measured:
    """The values of one measure for one source.

    Attributes:
        values: The measure on each draw; empty if it cannot be computed.
        chances: The value of an uninformative source on each draw.
        similarities: How far each value lies above that.
        reason: Why the measure cannot be computed.
    """

    values: tuple[float, ...] = ()
    chances: tuple[float, ...] = ()
    similarities: tuple[float, ...] = ()
    reason: str | None = None

    def summary(self) -> dict[str, object]:
        """All values, with means and standard deviations over the draws, as JSON values."""
        has_values = bool(self.values)
        return {
            "mean": fmean(self.values) if has_values else None,
            "std": pstdev(self.values) if has_values else None,
            "chance": fmean(self.chances) if has_values else None,
            "similarity": fmean(self.similarities) if has_values else None,
            "similarity_std": pstdev(self.similarities) if has_values else None,
            "values": list(self.values),
            "chances": list(self.chances),
            "similarities": list(self.similarities),
            "reason": self.reason,
        }


@dataclass(frozen=True, eq=False)
class SourceRanking:
    """Similarities of each source to the target.

    Attributes:
        measures: Names of the measures; the first one orders the sources.
        found: Values by measure, then by source.
        facts: Facts about target and sources that need no measuring, as JSON values.
        config: All that the ranking depends on, as JSON values.
        path: The run folder, if there is one.
        make: Makes the sources of these names.
        make_target: Makes the target.
        data: Name and options of the target, as `create_splits` takes them; None if the target was passed as `Splits`.
        timing: Seconds of the ranking, with device, threads and batch.
        workers: Name of the worker that measured a source, by source; without those that the process of the ranking
            itself measured.
    """

    measures: tuple[str, ...]
    found: Mapping[str, Mapping[str, Measured]] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    path: Path | None
    make: Callable[[Collection[str]], tuple[Network, ...]] = field(repr=False)
    make_target: Callable[[], Splits] = field(repr=False)
    data: Mapping[str, Any] | None = field(default=None, repr=False)
    timing: Mapping[str, object] = field(default_factory=dict, repr=False)
    workers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def sources(self) -> tuple[Network, ...]:
        """The sources, in the order in which they were given.

        Raises:
            RankingError: The ranking was read from its folder, and a source cannot be made again or has changed.
        """
        return self.make(self.names)

    @cached_property
    def target(self) -> Splits:
        """The data that the sources were ranked on.

        Raises:
            RankingError: The ranking was read from its folder, and the data cannot be made again or has changed.
            DataError: The data does not exist any more.
        """
        return self.make_target()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the sources that are not measured yet, where the ranking was stopped."""
        return tuple(name for name in self.names if name not in self.found[self.measures[0]])

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names, in the order in which they were given."""
        return tuple(self.facts["sources"])

    @property
    def images(self) -> tuple[int, ...]:
        """Number of images of each draw."""
        return tuple(self.facts["images"])

    @property
    def values(self) -> dict[str, dict[str, tuple[float, ...] | None]]:
        """Values on each draw by measure, then by source; None if a measure cannot be computed."""
        return {m: {s: one.values or None for s, one in of_all.items()} for m, of_all in self.found.items()}

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """Why a measure cannot be computed, by source and measure."""
        every = ((s, m, one.reason) for m, of_all in self.found.items() for s, one in of_all.items())
        return {(source, measure): reason for source, measure, reason in every if reason is not None}

    def similarities(self, measure: str | None = None) -> dict[str, float]:
        """Mean similarity over the draws by source; NaN where the measure cannot be computed.

        Args:
            measure: Name of the measure; by default the first.

        Raises:
            UnknownNameError: The measure was not computed; the message gives near names.
        """
        return {s: fmean(one.similarities) if one.values else math.nan for s, one in self._by(measure).items()}

    def spreads(self, measure: str | None = None) -> dict[str, float]:
        """Standard deviation of the similarity over the draws by source; NaN where it cannot be computed."""
        return {s: pstdev(one.similarities) if one.values else math.nan for s, one in self._by(measure).items()}

    def order(self, measure: str | None = None) -> tuple[str, ...]:
        """The sources' names, the most similar first, sources without a similarity last."""
        similarities = self.similarities(measure)
        ranks = {name: -math.inf if math.isnan(value) else value for name, value in similarities.items()}
        return tuple(sorted(ranks, key=lambda name: -ranks[name]))

    def weights(
        self,
        weighting: str | Mapping[str, float] = "weighted",
        power: float = POWER,
        *,
        measure: str | None = None,
    ) -> dict[str, float]:
        """Weight of each source, summing to 1; empty where no similarity is above 0.

        A source with random weights, from which there is nothing to learn, has the weight 0 by similarity. Whether it
        has a classifier does not matter here.

        Args:
            weighting: "weighted" by similarity to this power, "nearest" only, "uniform", or weights by name.
            power: Exponent of the similarities.
            measure: Name of the measure; by default the first.

        Raises:
            TransferabilityError: See `source_weights`.
        """
        trained = {name: facts["trained"] for name, facts in self.facts["sources"].items()}
        similarities = self.similarities(measure)
        of_trained = {name: value if trained[name] else math.nan for name, value in similarities.items()}
        return source_weights(of_trained, weighting, power)

    def teachers(
        self,
        splits: Splits | None = None,
        weighting: str | Mapping[str, float] = "weighted",
        power: float = POWER,
        *,
        measure: str | None = None,
    ) -> TeacherBank:
        """The sources as the teachers that a search compares students with.

        Args:
            splits: The target; by default the one that the sources were ranked on.
            weighting, power, measure: See `weights`.

        Raises:
            RankingError: No similarity is above 0, or a source of some weight or the target cannot be made again.
        """
        weights = self.weights(weighting, power, measure=measure)
        if not weights:
            if not any(source["trained"] for source in self.facts["sources"].values()):
                raise RankingError("None of the sources has trained weights.")
            raise RankingError(f"By {measure or self.measures[0]} no source tells more of the target than chance does.")
        splits = splits or self.target
        used = self.make([name for name in self.names if weights[name]])
        return TeacherBank(
            tuple(source_teacher(source, splits) for source in used), tuple(weights[source.name] for source in used)
        )

    def check_target(self, name: str, num_classes: int) -> None:
        """Refuse other data than the sources were ranked for.

        Args:
            name: Name of the data; folders before its own name do not count.
            num_classes: Number of its classes.

        Raises:
            RankingError: The name or the number of classes differs.
        """
        target = self.facts["target"]
        if (PurePath(target["name"]).name, target["classes"]) != (PurePath(name).name, num_classes):
            raise RankingError(
                f"The sources of {self.path} are ranked for {target['name']} with {target['classes']} classes, but the "
                f"data is {name} with {num_classes}; rank them for it."
            )

    def result(self) -> dict[str, object]:
        """The complete ranking, the most similar source first, as JSON values."""
        weights = self.weights()
        return {
            "status": "complete",
            "target": self.facts["target"],
            "measure": self.measures[0],
            "images": list(self.images),
            "power": POWER,
            "sources": [
                {
                    "name": name,
                    **self.facts["sources"][name],
                    "weight": weights.get(name, 0.0),
                    "measures": {measure: self.found[measure][name].summary() for measure in self.measures},
                }
                for name in self.order()
            ],
            "timing": dict(self.timing),
            "workers": dict(self.workers),
            "versions": versions(),
        }

    def __repr__(self) -> str:
        first = next(iter(self.order()), "none")
        return (
            f"<SourceRanking of {len(self.names)} sources for {self.facts['target']['name']} by {self.measures[0]}, "
            f"{first} first, {self.path or 'in memory'}>"
        )

    def _by(self, measure: str | None) -> Mapping[str, Measured]:
        measure = self.measures[0] if measure is None else measure
        if measure not in self.found:
            raise UnknownNameError(unknown_name_message("measure of this ranking", measure, self.found))
        return self.found[measure]
