"""The finalists of a shortlist: the best of a study by its score and by others, and the baselines."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.cost import count_cost
from search_spaces.input_spec import as_input_spec
from search_spaces.names import full_name, short_name
from search_spaces.space import Architecture, ArchitectureError, SearchSpace

from ..checks import check_whole
from ..data.probe import Probe
from ..data.splits import Splits
from ..networks.network import Network
from ..options.base import options_in
from ..options.shortlist import RungOptions
from ..proxies.aggregate import RankAggregate
from ..proxies.registry import get_proxy
from ..reports.style import format_count
from ..resolve.networks import NetworkLike, network_for
from ..runtime.failures import MAX_REASON, stop_if_machine_failed
from ..study.budget import Budget
from ..study.cost_kinds import COSTS, CostSubject, CostValues, computed_kinds
from ..study.costs import compute
from ..study.evaluator import Evaluator
from ..study.finalists import BASELINE, LARGEST, SCORE, Finalist
from ..study.halving import KEEP, SHARES, Rung, rungs_of
from ..study.records import Record
from ..study.study import Study
from ..training.steps import FEWEST_STEPS

OTHER_SCORES = ("params", "macs", "nwot")
"""The other scores by default."""

SCORED = 50
"""Number of the study's best candidates that proxies are computed on."""

_PLACES_PER_OTHER = 3
"""Another score gets at most one place in so many."""

_OF_RECORDS = ("params", "macs")


@dataclass(frozen=True)
class Entry:
    """A finalist, and how its trainings name it.

    Attributes:
        finalist: The finalist, without trials.
        student: The network in a form that `as_network` takes.
        space: The space of an architecture; None for other networks.
    """

    finalist: Finalist
    student: NetworkLike | str
    space: SearchSpace | None = None

    @property
    def space_options(self) -> dict[str, Any]:
        """Name and options of the space as options of a training; the space itself if it has no name."""
        if self.space is None:
            return {}
        recipe = dict(self.space.recipe or {})
        if "name" not in recipe:
            return {"space": self.space}
        of_data = ("name", "num_classes", "input_size")
        return {
            "space": recipe["name"],
            "space_options": {key: value for key, value in recipe.items() if key not in of_data} or None,
        }

    def network(self, splits: Splits) -> Network:
        """The network for the classes and images of the data."""
        return network_for(splits, self.student, "student", {} if self.space is None else {"space": self.space})


def several(values: object) -> list[Any]:
    """The values of an option that is a list, a text with commas, or a single value that is neither.

    Example:
        >>> several("kd, dkd"), several(["kd"]), several({"kd": 1}), several(None)
        (['kd', 'dkd'], ['kd'], [{'kd': 1}], [])
    """
    if isinstance(values, str):
        texts = re.split(r",(?![^(]*\))", values)  # a comma in brackets is a part of its text
        return [text.strip() for text in texts if text.strip()]
    if values is None:
        return []
    return list(values) if isinstance(values, Sequence) else [values]


def rungs_in(options: RungOptions) -> tuple[Rung, ...]:
    """The rungs that the options describe.

    Raises:
        ValueError: A number, a share or the name of another score is wrong.
    """
    check_whole("finalists", options.finalists, least=1)
    check_whole("verdict_seeds", options.verdict_seeds, least=1)
    other_scores(options)
    shares = SHARES if options.rung_shares is None else options.rung_shares
    shares = shares if isinstance(shares, Sequence) else [shares]
    keep = options.rung_keep if options.rung_keep is not None else KEEP * (len(shares) - 1)
    return rungs_of(shares, keep if isinstance(keep, Sequence) else [keep])


def other_scores(options: RungOptions) -> tuple[str, ...]:
    """The names of the other scores, each once.

    Raises:
        ValueError: One of them is an aggregate, needs a teacher, or is unknown.
    """
    names = OTHER_SCORES if options.other_scores is None else several(options.other_scores)
    for name in names:
        if name in _OF_RECORDS:
            continue
        proxy = get_proxy(name)
        if isinstance(proxy, RankAggregate):
            raise ValueError(f"other_scores has {name}, which ranks many at once; name its proxies instead.")
        if proxy.needs_teacher:
            raise ValueError(f"other_scores has {name}, which compares with a teacher; name scores that need none.")
    return tuple(dict.fromkeys(names))


def epochs_of(rung: Rung, full_epochs: int) -> int:
    """Epochs of the trainings of a rung, at least one.

    Args:
        rung: The rung.
        full_epochs: Epochs of a full training.
    """
    return max(1, round(rung.share * full_epochs))


def warn_of_short_rungs(rungs: Sequence[Rung], full_epochs: int, steps_per_epoch: int) -> None:
    """Say which rungs are too short to tell networks with random weights apart; of the last one its check tells.

    Args:
        rungs: The rungs.
        full_epochs: Epochs of a full training.
        steps_per_epoch: Steps of an epoch.
    """
    full = steps_per_epoch * full_epochs
    for number, rung in enumerate(rungs[:-1], start=1):
        epochs = epochs_of(rung, full_epochs)
        if (steps := steps_per_epoch * epochs) < FEWEST_STEPS:
            share = f"; a share of {math.ceil(100 * FEWEST_STEPS / full) / 100:g} has enough" * (full > FEWEST_STEPS)
            warnings.warn(
                f"Rung {number} trains for {format_count(steps, 'step')} ({format_count(epochs, 'epoch')}), too few "
                f"for random weights to be told apart, which often stay near chance below {FEWEST_STEPS}{share}.",
                stacklevel=4,
            )


def idle_rungs(rungs: Sequence[Rung], full_epochs: int, candidates: int, *, chooses: bool = False) -> Iterator[str]:
    """Say which rungs decide nothing, but take their time.

    Args:
        rungs: The rungs.
        full_epochs: Epochs of a full training.
        candidates: Number of finalists that may be the pick, those that the user named apart.
        chooses: Whether distillers are chosen by the first rung.

    Example:
        >>> list(idle_rungs((Rung(0.06, 3), Rung(1.0)), 50, candidates=2))
        ['Rung 1 keeps 3 and has 2 candidates, so that all of them go on.']
        >>> list(idle_rungs((Rung(0.06, 3), Rung(1.0)), 1, candidates=10))
        ['Rung 1 trains for as many epochs as rung 2, 1.']
    """
    for number, (rung, later) in enumerate(itertools.pairwise(rungs), start=1):
        keep, epochs = rung.keep or candidates, epochs_of(rung, full_epochs)
        if keep >= candidates and not (chooses and number == 1):
            has = format_count(candidates, "candidate")
            yield f"Rung {number} keeps {keep} and has {has}, so that all of them go on."
        if epochs == epochs_of(later, full_epochs):
            yield f"Rung {number} trains for as many epochs as rung {number + 1}, {epochs}."
        candidates = min(candidates, keep)


def check_form(study: Study, splits: Splits) -> None:
    """Refuse data of other images or classes than those that a study scored students for.

    Its students could be made anew for them, but its scores, their costs and the budget hold for those alone.

    Raises:
        ValueError: Channels, height, width or the number of classes differ.
    """
    scored, given = ((one.input_size, one.num_classes) for one in (study.space, splits))
    if scored == given:
        return
    where = "" if study.path is None else f" in {study.path}"
    (channels, height, width), classes = scored
    may_resize = (channels, classes) == (given[0][0], given[1]) and height == width
    hint = f", or give the data image_size={height}" * may_resize
    with options_in("data_options", ["image_size"]):
        raise ValueError(
            f"The study{where} scored students for {_form(*scored)}, but {splits.name} has {_form(*given)}. Its "
            f"scores, costs and budget say nothing of students for those: search again with a probe of this data{hint}."
        )


def _form(input_size: tuple[int, int, int], num_classes: int) -> str:
    return f"images of {' x '.join(map(str, input_size))} and {num_classes} classes"


def check_validation(splits: Splits) -> None:
    """Refuse data without validation images, by which finalists are chosen."""
    if not len(splits.val):
        raise ValueError("There are no validation images, by which finalists are chosen; give a val_share.")


def named_baselines(
    options: RungOptions, splits: Splits, space: SearchSpace
) -> list[tuple[Architecture | None, Network]]:
    """The baselines that the options name: the architecture, if it is one of the space, and the network.

    Raises:
        ValueError: One is not known, does not fit the data, or is given twice.
    """
    baselines: list[tuple[Architecture | None, Network]] = []
    known: list[object] = []
    for source in several(options.baselines):
        architecture, network = _baseline(source, splits, space)
        mark = network.config() if architecture is None else space.canonical(architecture)
        if mark in known:
            raise ValueError(f"baselines has {short_name(network.name)} twice; leave one of them out.")
        known.append(mark)
        baselines.append((architecture, network))
    return baselines


def _baseline(source: NetworkLike | str, splits: Splits, space: SearchSpace) -> tuple[Architecture | None, Network]:
    architecture = source if isinstance(source, Architecture) else None
    if isinstance(source, str) and not os.path.exists(source):
        try:
            architecture = space.parse(source)
        except ArchitectureError:
            architecture = None
    of_space = {} if architecture is None else {"space": space}
    return architecture, network_for(splits, architecture or source, "baseline", of_space)


class Chooser:
    """Chooses the finalists of a study.

    Args:
        study: The study.
        splits: The data that they are trained on.
        options: How many, and by which other scores.
        device: The device that other scores are computed on.

    Attributes:
        notices: What was left out, in sentences; set by `finalists`.

    Raises:
        ValueError: An option is wrong, or a baseline is not known.
        NoScoreError: The study has no winner.
    """

    def __init__(self, study: Study, splits: Splits, options: RungOptions, device: str) -> None:
        self.study = study
        self.splits = splits
        self.count = options.finalists
        self.device = device
        self.notices: list[str] = []
        self._budget = Budget.from_dict(study.config.get("budget") or {})
        self.others = other_scores(options)
        self.baselines = named_baselines(options, splits, study.space)
        _ = study.winner  # says why if there is none

    # -- the networks ---------------------------------------------------------------------------

    def entries(self, finalists: Iterable[Finalist], given: Sequence[NetworkLike | str]) -> list[Entry]:
        """The finalists with the networks that they stand for.

        Args:
            finalists: The finalists.
            given: The baselines of the user.
        """
        of_no_space = iter(
            source for source, (architecture, _) in zip(given, self.baselines, strict=True) if architecture is None
        )
        space = self.study.space
        return [
            Entry(finalist, next(of_no_space))
            if finalist.architecture is None
            else Entry(finalist, space.parse(finalist.architecture), space)
            for finalist in finalists
        ]

    # -- the choice -----------------------------------------------------------------------------

    def finalists(self) -> list[Finalist]:
        """The finalists in order of their places: the study's best, those of other scores, baselines."""
        values: dict[str, dict[int, float]] = {}
        others = self._of_other_scores(values)
        apart = {record.canonical for record, _ in others}
        best = [one.record for one in self.study.best(self.count) if one.record.canonical not in apart]
        chosen = [*((record, SCORE) for record in best[: self.count - len(others)]), *others]
        (largest,) = self._largest_by(lambda record: record.params, 1)
        if all(record.canonical != largest.canonical for record, _ in chosen):
            chosen.append((largest, LARGEST))
        return self._with_baselines(
            [self._finalist(record, origin, values, is_largest=record == largest) for record, origin in chosen], values
        )

    def _of_other_scores(self, values: dict[str, dict[int, float]]) -> list[tuple[Record, str]]:
        """The best candidate by each other score, as far as there are places, without those that have one already."""
        places = min(self.count // _PLACES_PER_OTHER, len(self.others))
        taken = {one.record.canonical for one in self.study.best(self.count - places)}
        chosen: list[tuple[Record, str]] = []
        for name in self.others:
            if len(chosen) == places:
                break
            ranked = self._ranked_by(name, values)
            best = next((record for record in ranked if record.canonical not in taken), None)
            if best is not None:
                chosen.append((best, name))
                taken.add(best.canonical)
        return chosen

    def _may_be(self, record: Record) -> bool:
        return record.status == "ok" and self._budget.admits(record)

    def _largest_by(self, value: Callable[[Record], float | None], count: int) -> list[Record]:
        """The records with the largest values; among equals those of the best score, then those asked first."""
        records = (record for record in self.study.records if self._may_be(record) and value(record) is not None)
        return heapq.nlargest(count, records, key=lambda record: (value(record), record.score or 0.0, -record.index))

    def _ranked_by(self, name: str, values: dict[str, dict[int, float]]) -> list[Record]:
        """The best records by another score, whose values are added; none if it cannot be computed."""
        if name in _OF_RECORDS:
            return self._largest_by(lambda record: getattr(record, name), self.count + 1)
        if name == self.study.config.get("proxy"):
            self._note(f"other_scores has {name}, which is the score of the study itself")
            return []
        ranked = self._largest_by(lambda record: record.parts.get(name), self.count + 1)
        if ranked:
            values[name] = {record.index: record.parts[name] for record in ranked}
            return ranked
        scored = self._computed(name)
        values[name] = {record.index: value for record, value in scored}
        return [record for record, _ in sorted(scored, key=lambda pair: (-pair[1], pair[0].index))]

    def _computed(self, name: str) -> list[tuple[Record, float]]:
        """The values of a proxy on the best of the study, on a probe of as many images as the study's."""
        records = [candidate.record for candidate in self.study.best(SCORED) if self._may_be(candidate.record)]
        try:
            space = self.study.space
            evaluator = Evaluator(
                space, None, self._probe(), name, seeds=self.study.config.get("seeds") or (0,), device=self.device
            )
        except ValueError as error:
            self._note(f"{name} is left out of the other scores: {error}")
            return []
        scores = evaluator.evaluate([space.parse(record.architecture) for record in records])
        values = [
            (record, score.score)
            for record, score in zip(records, scores, strict=True)
            if score.status == "ok" and score.score is not None
        ]
        if not values:
            self._note(f"{name} is left out of the other scores: {scores[0].reason}")
        return values

    def _probe(self) -> Probe:
        """Labelled training images, as many as the study's probe has."""
        splits, study = self.splits, self.study.config
        sizes = [probe["batch_size"] for probe in study.get("probes", ()) if probe.get("batch_size")]
        labelled = len(splits.train) if splits.labelled is None else len(splits.labelled)
        return splits.probe(min(next(iter(sizes), 64), labelled), study.get("seed", 0))

    def _note(self, notice: str) -> None:
        self.notices.append(f"{notice.rstrip('.')}.")

    # -- finalists of records, and baselines ----------------------------------------------------

    def _finalist(
        self, record: Record, origin: str, values: Mapping[str, Mapping[int, float]], *, is_largest: bool
    ) -> Finalist:
        others = {name: of_index[record.index] for name, of_index in values.items() if record.index in of_index}
        return Finalist(
            name=short_name(full_name(self.study.space.name, record.architecture)),
            place=0,
            origin=origin,
            is_baseline=is_largest,
            architecture=record.architecture,
            index=record.index,
            params=record.params,
            macs=record.macs,
            score=record.score,
            other_scores=others,
        )

    def _with_baselines(self, finalists: list[Finalist], values: Mapping[str, Mapping[int, float]]) -> list[Finalist]:
        """The finalists and the user's baselines, with places and names of their own."""
        space = self.study.space
        for architecture, network in self.baselines:
            if architecture is not None:
                same = [space.parse(one.architecture or "") for one in finalists if one.architecture]
                equal = [space.canonical(one) == space.canonical(architecture) for one in same]
                if any(equal):
                    same_one = finalists[equal.index(True)]
                    finalists[equal.index(True)] = replace(same_one, is_baseline=True, is_named=True)
                    continue
            finalists.append(self._named(architecture, network, values))
        return list(_with_places(finalists))

    def _named(
        self, architecture: Architecture | None, network: Network, values: Mapping[str, Mapping[int, float]]
    ) -> Finalist:
        """The finalist of a baseline: with its record, if the study has scored it."""
        name = short_name(network.name)
        record = None if architecture is None else self._record_of(architecture)
        costs: CostValues | None = self._costs(name, network) if record is None else record
        if network.trained:
            self._note(f"The baseline {name} begins with trained weights, while the others begin with random ones")
        finalist = (
            Finalist(
                name=name,
                place=0,
                origin=BASELINE,
                architecture=None if architecture is None else str(architecture),
                params=None if costs is None else costs.params,
                macs=None if costs is None else costs.macs,
            )
            if record is None
            else self._finalist(record, BASELINE, values, is_largest=False)
        )
        is_within = costs is None or self._is_within(name, costs)
        return replace(finalist, is_baseline=True, is_named=True, is_within_budget=is_within)

    def _record_of(self, architecture: Architecture) -> Record | None:
        """The study's record of an architecture, or of one with the same function, if it has a score."""
        canonical = str(self.study.space.canonical(architecture))
        records = (record for record in self.study.records if record.canonical == canonical)
        return next((record for record in records if record.status == "ok"), None)

    def _is_within(self, name: str, costs: CostValues) -> bool:
        """Whether a baseline is within the budget; what it is over is noted."""
        limits = self._budget.limits.items()
        values = {cost: value for cost, value in costs.costs().items() if value is not None}
        over = [(COSTS[cost], values[cost], limit) for cost, limit in limits if cost in values and values[cost] > limit]
        if not over:
            return True
        texts = (f"{kind.heading} {kind.format(value)}, at most {kind.format(limit)}" for kind, value, limit in over)
        self._note(
            f"The baseline {name} is over the budget ({'; '.join(texts)}), so that it is compared with but cannot be "
            "the pick"
        )
        return False

    def _costs(self, name: str, network: Network) -> CostValues | None:
        """The costs of a baseline that have a limit; None if it cannot be counted, of which its dry run says more.

        Those that take long are left out if it is over another limit already.
        """
        channels, height, width = self.splits.input_size
        subject = CostSubject(network.build, as_input_spec((network.channels or channels, height, width)))
        try:
            counted = count_cost(network.build(), subject.input_spec)
        except Exception as error:  # a network may fail to be built or run in any way
            stop_if_machine_failed(error, f"in the baseline {network.name}")
            return None
        costs = CostValues(params=counted.params, macs=counted.macs)
        for kind in computed_kinds(self._budget.limits):
            if not self._budget.admits(costs):
                break
            try:
                costs = replace(costs, **{kind.name: compute(kind, subject, self._budget).value})  # type: ignore[arg-type]
            except Exception as error:  # as above
                stop_if_machine_failed(error, f"in the baseline {network.name}")
                self._note(
                    f"The baseline {name} is taken to be within the budget without a check of its {kind.title}: "
                    f"{' '.join(str(error).split())[:MAX_REASON]}"
                )
        return costs


def _with_places(finalists: Sequence[Finalist]) -> Iterator[Finalist]:
    names = [finalist.name for finalist in finalists]
    for place, finalist in enumerate(finalists, start=1):
        name = finalist.name if names.count(finalist.name) == 1 else f"{finalist.name} ({place})"
        yield replace(finalist, place=place, name=name)
