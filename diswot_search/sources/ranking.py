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
from ..runtime.run_folder import versions
from .frozen import source_teacher
from .transferability import source_weights

POWER = 10.0
"""How much the most similar sources are preferred, unless it is said otherwise."""


class RankingError(ValueError):
    """Sources that cannot be ranked as asked, or a ranking that cannot be used so."""


@dataclass(frozen=True)
class Measured:
    """What one measure says of one source.

    Attributes:
        values: The measure on each draw; empty where it cannot be had.
        chances: What it would be on each draw if the source knew nothing.
        similarities: How far each value is above that.
        reason: Why it cannot be had.
    """

    values: tuple[float, ...] = ()
    chances: tuple[float, ...] = ()
    similarities: tuple[float, ...] = ()
    reason: str | None = None

    def summary(self) -> dict[str, Any]:
        """All of it, with means and standard deviations over the draws, as JSON values."""
        known = bool(self.values)
        return {
            "mean": fmean(self.values) if known else None,
            "std": pstdev(self.values) if known else None,
            "chance": fmean(self.chances) if known else None,
            "similarity": fmean(self.similarities) if known else None,
            "similarity_std": pstdev(self.similarities) if known else None,
            "values": list(self.values),
            "chances": list(self.chances),
            "similarities": list(self.similarities),
            "reason": self.reason,
        }


@dataclass(frozen=True, eq=False)
class SourceRanking:
    """How near each source is to the target.

    Attributes:
        measures: What was measured; the first one orders the sources.
        found: What each measure says of each source, by measure and source.
        facts: What is known of target and sources without measuring, as JSON values.
        config: All that the ranking depends on, as JSON values.
        path: The run folder, if there is one.
        make: Makes the sources of these names.
        make_target: Makes the target.
        data: Name and options of the target, as `create_splits` takes them; None where it was given as splits.
        timing: What it took.
    """

    measures: tuple[str, ...]
    found: Mapping[str, Mapping[str, Measured]] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    path: Path | None
    make: Callable[[Collection[str]], tuple[Network, ...]] = field(repr=False)
    make_target: Callable[[], Splits] = field(repr=False)
    data: Mapping[str, Any] | None = field(default=None, repr=False)
    timing: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def sources(self) -> tuple[Network, ...]:
        """The sources, in the order in which they were given.

        Raises:
            RankingError: The ranking was read from its folder, and a source cannot be made again or is another one now.
        """
        return self.make(self.names)

    @cached_property
    def target(self) -> Splits:
        """The data that the sources were ranked on.

        Raises:
            RankingError: The ranking was read from its folder, and the data cannot be made again or is another now.
            DataError: It is not there any more.
        """
        return self.make_target()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the sources that are not measured yet, as of a ranking that was stopped."""
        return tuple(name for name in self.names if name not in self.found[self.measures[0]])

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names, in the order in which they were given."""
        return tuple(self.facts["sources"])

    @property
    def images(self) -> tuple[int, ...]:
        """How many images each draw has."""
        return tuple(self.facts["images"])

    @property
    def values(self) -> dict[str, dict[str, tuple[float, ...] | None]]:
        """Each measure of each source on each draw, by measure and source; None where it cannot be had."""
        return {m: {s: one.values or None for s, one in of_all.items()} for m, of_all in self.found.items()}

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """Why a measure cannot be had, by source and measure."""
        every = ((s, m, one.reason) for m, of_all in self.found.items() for s, one in of_all.items())
        return {(source, measure): reason for source, measure, reason in every if reason is not None}

    def similarities(self, measure: str | None = None) -> dict[str, float]:
        """How far each source is above one that knows nothing, mean over the draws; NaN where it cannot be had.

        Args:
            measure: By default the first.

        Raises:
            UnknownNameError: It was not measured; near names are given.
        """
        return {s: fmean(one.similarities) if one.values else math.nan for s, one in self._by(measure).items()}

    def spreads(self, measure: str | None = None) -> dict[str, float]:
        """Standard deviation of the similarity over the draws; NaN where it cannot be had."""
        return {s: pstdev(one.similarities) if one.values else math.nan for s, one in self._by(measure).items()}

    def order(self, measure: str | None = None) -> tuple[str, ...]:
        """The sources' names, the most similar first, those that have no similarity last."""
        similarities = self.similarities(measure)
        known = {name: -math.inf if math.isnan(value) else value for name, value in similarities.items()}
        return tuple(sorted(known, key=lambda name: -known[name]))

    def weights(
        self,
        weighting: str | Mapping[str, float] = "weighted",
        power: float = POWER,
        *,
        measure: str | None = None,
    ) -> dict[str, float]:
        """What each source counts; none of them where no similarity is above 0. They sum to 1.

        A source with random weights, from which there is nothing to learn, counts 0 by similarity. Whether it has a
        classifier does not matter here.

        Args:
            weighting: "weighted" by similarity to this power, "nearest" only, "uniform", or weights by name.
            power: Of similarities.
            measure: By default the first.

        Raises:
            TransferabilityError: As for `source_weights`.
        """
        trained = {name: facts["trained"] for name, facts in self.facts["sources"].items()}
        known = {name: value if trained[name] else math.nan for name, value in self.similarities(measure).items()}
        return source_weights(known, weighting, power)

    def teachers(
        self,
        splits: Splits | None = None,
        weighting: str | Mapping[str, float] = "weighted",
        power: float = POWER,
        *,
        measure: str | None = None,
    ) -> TeacherBank:
        """The sources as what the students of a search are compared with.

        Args:
            splits: The target; by default that which they were ranked on.
            weighting, power, measure: As for `weights`.

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
        """Refuse other data than that which the sources were ranked for.

        Args:
            name: Of the data; folders before its own name do not count.
            num_classes: Its classes.

        Raises:
            RankingError: The name or the classes are others.
        """
        target = self.facts["target"]
        if (PurePath(target["name"]).name, target["classes"]) != (PurePath(name).name, num_classes):
            raise RankingError(
                f"The sources of {self.path} are ranked for {target['name']} with {target['classes']} classes, but the "
                f"data is {name} with {num_classes}; rank them for it."
            )

    def result(self) -> dict[str, Any]:
        """All that was found, the most similar source first, as JSON values."""
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
