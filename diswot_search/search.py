"""The main job: from a teacher, a space, a probe and a budget to the best student, without training."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import timm
import torch
from torch import nn

from search_spaces import Architecture, ArchitectureError, Cost, SearchSpace, create_space
from search_spaces.registry import near_names

from .budget import Budget, BudgetError, cheapest, check_satisfiable, measure_latency
from .data import Probe, create_probe
from .defaults import DEFAULT_PROXY
from .evaluation import Evaluator, Record
from .evolution import create_algorithm
from .interruption import Interruption
from .proxies import Proxy, ProxyFunction, RankAggregate, elementary_proxies
from .readings import Precision
from .report import PICTURES, Curves, SearchProgress, to_png
from .run_folder import STORES, kind_of
from .seeding import isolated_random_state, stable_seed
from .study import StoredCost, Study, StudyError
from .teacher import Teacher, TeacherBank, create_teacher

DEFAULT_EVALUATIONS = 1000
HOPELESS = 32
"""Evaluations after which a search is given up if all of them failed for one reason."""


def search(
    space: SearchSpace | str,
    teacher: Teacher | TeacherBank | nn.Module | Architecture | str | None = None,
    probe: Probe | Sequence[Probe] | str = "digits",
    *,
    proxy: str | Proxy | RankAggregate | ProxyFunction = DEFAULT_PROXY,
    algorithm: str = "evolution",
    algorithm_options: Mapping[str, Any] | None = None,
    evaluations: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    draws: int = 1,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    channels_last: bool = True,
    bf16: bool = False,
    progress: bool = True,
) -> Study:
    """Search a space for the best student, of a teacher where the score compares with one. Nothing is trained.

    With `out` the study lives in a run folder: stopped at any moment, the same call continues it and ends as if
    it had never stopped; with more `evaluations`, a finished study is continued. On SIGINT the candidate at hand is
    finished and the state written before `KeyboardInterrupt` is raised; a second one raises at once.

    Args:
        space: Where to search; a name makes the space for the classes and images of the probe.
        teacher: Whom to fit, for proxies that compare with a teacher, as `diswot` does: a `Teacher`, a module, a timm
            name or an architecture of the space; the last two have random weights, and the classes of the probe. A
            `TeacherBank` is several with weights, and every score the weighted mean of those against each. The default
            proxy looks at none.
        probe: The batch that scores are computed on, several to average over, or the name of a data set.
        proxy: The score: a name, a function of the student's and the teacher's readings, or an aggregate, such as
            "log_rank(relation, macs)", which ranks all that has been scored anew after every evaluation. By default
            `effective_capacity`, in nats: how much of a network there is and how much of it can be used; its parts are
            kept with every candidate. "diswot" is how like the teacher's a student's features are.
        algorithm: Name of the algorithm.
        algorithm_options: Options of the algorithm.
        evaluations: Architectures to score at most, those of an earlier run included; by default 1000, for
            `exhaustive` all.
        budget: Limits that every candidate keeps.
        seed: Decides the algorithm's random choices and the weights.
        draws: Weight draws that each score is averaged over, with the seeds `seed`, `seed` + 1 and so on; studies
            whose seeds are less than `draws` apart share some of them.
        out: The run folder; None keeps the study in memory.
        device: "auto", "cpu", "cuda" or "mps".
        channels_last: Keep feature maps in NHWC memory order.
        bf16: Compute under bfloat16 autocast.
        progress: Show a bar where standard error is a terminal.

    Returns:
        The study, with its winner.

    Raises:
        ValueError: A name or an option is not known, or space, probe and teacher do not fit each other.
        BudgetError: No architecture of the space is within the budget.
        StudyError: The run folder cannot be used, or no architecture could be scored.
    """
    probes = as_probes(probe)
    space = as_space(space, probes[0])
    evaluator = Evaluator(
        space,
        as_teacher(teacher, space, probes[0]),
        probes,
        proxy,
        seeds=weight_seeds(seed, draws),
        device=device,
        precision=Precision(channels_last=channels_last, bf16=bf16),
    )
    return Search(
        evaluator,
        algorithm=algorithm,
        algorithm_options=algorithm_options,
        evaluations=evaluations,
        budget=budget,
        seed=seed,
        out=out,
        progress=progress,
    ).run()


def weight_seeds(seed: int, draws: int) -> range:
    """The seeds of `draws` weight draws.

    Raises:
        ValueError: A number that is not whole, a negative seed, or no draw.
    """
    check_whole("seed", seed, least=0)
    check_whole("draws", draws, least=1)
    return range(seed, seed + draws)


class Search:
    """A search whose input is checked and whose run folder is open, ready to run.

    Args:
        evaluator: Scores the architectures of its space.
        algorithm, algorithm_options, evaluations, budget, seed, out, progress: As for `search`.

    Attributes:
        study: The study, empty or with the evaluations of earlier runs.

    Raises:
        ValueError, BudgetError, StudyError: As for `search`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        algorithm: str = "evolution",
        algorithm_options: Mapping[str, Any] | None = None,
        evaluations: int | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        out: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> None:
        check_whole("seed", seed, least=0)
        if evaluations is None:
            evaluations = evaluator.space.size if algorithm == "exhaustive" else DEFAULT_EVALUATIONS
        check_whole("evaluations", evaluations, least=1)
        if not isinstance(budget, Budget | None):
            raise ValueError(f"budget is {budget!r}; it must be a Budget, such as Budget(max_params=1e6).")
        options = dict(algorithm_options or {})
        trial = create_algorithm(algorithm, evaluator.space, seed=seed, **options)  # a wrong name or option shows here
        self.pool = _Pool(evaluator.proxy) if isinstance(evaluator.proxy, RankAggregate) else None
        if self.pool is not None:
            trial.forget()  # and here, that the algorithm cannot
        self.evaluator = evaluator
        self.algorithm_name = algorithm
        self.evaluations = evaluations
        self.budget = budget or Budget()
        self.progress = progress
        config = evaluator.config() | {
            "algorithm": {"name": algorithm, "options": options},
            "seed": seed,
            "budget": self.budget.to_dict(),
            "evaluations": evaluations,
        }
        self.interruption = Interruption()
        self.study = self._open_study(config, out)
        self.costs = _Costs(self.evaluator, self.budget, self.study, self.interruption)
        self.algorithm = create_algorithm(
            algorithm,
            evaluator.space,
            seed=seed,
            feasible=self.costs.feasible,
            start=self.costs.find_start(),
            **options,
        )

    def _open_study(self, config: dict[str, Any], out: str | os.PathLike[str] | None) -> Study:
        """The study; before a new folder is made, what could still be wrong with the input is found out."""
        space = self.evaluator.space
        if out is not None and Study.exists(out):
            return Study(config, out=out, space=space)
        trial = Study(config, space=space)
        _Costs(self.evaluator, self.budget, trial, self.interruption).find_start()
        try:
            for readings in self.evaluator.read_teachers(self.evaluator.seeds[0], 0):
                for proxy in elementary_proxies(self.evaluator.proxy):
                    if proxy.needs_teacher:
                        proxy(readings, readings)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if out is None:
            return trial
        study = Study(config, out=out, space=space)
        study.add_costs_of(trial)
        return study

    def run(self) -> Study:
        """Evaluate until done, write the results, and let go of the run folder."""
        study = self.study
        try:
            with study.errors(), self.interruption.postponed():
                study.start()
                try:
                    self._evaluate_all()
                except KeyboardInterrupt:
                    self._finish("interrupted")
                    raise
                self._finish("complete")
        finally:
            study.release()
        if len(study) == 0:
            raise BudgetError(f"No trainable architecture of {study.space.name} within the budget was found.")
        _ = study.winner  # says why if there is none
        return study

    def _evaluate_all(self) -> None:
        index = 0
        curves = Curves(None if self.study.path is None else self.study.path / "curves")
        with SearchProgress(self.evaluations, enabled=self.progress) as progress, curves:
            while index < self.evaluations and (asked := self.algorithm.ask()):
                records = []
                for architecture in asked[: self.evaluations - index]:
                    self.interruption.check()
                    stored = self._stored(index, architecture)
                    record = self._ranked(stored) if stored else self._evaluate(index, architecture)
                    best = self.pool.best if self.pool else None
                    curves.add(record, best=best)
                    progress.add(record, replayed=stored is not None, best=best)
                    records.append(record)
                    index += 1
                if self.pool is None:
                    self.algorithm.tell(records)
                else:
                    self.algorithm.tell(records, scored=self.pool)
                if self.algorithm_name != "exhaustive":
                    self._check_not_all_fail(index)

    def _check_not_all_fail(self, evaluated: int) -> None:
        """Give up where the first evaluations failed for one reason: then the input is wrong, not the candidates.

        An exhaustive search goes on, since it begins with architectures that are all alike.
        """
        failures = self.study.failures
        if evaluated >= HOPELESS and len(failures) == 1 and sum(failures.values()) == evaluated:
            self._finish("interrupted")
            raise StudyError(
                f"The first {evaluated} evaluations all failed for one reason: {next(iter(failures))}. "
                "Nothing else was tried."
            )

    def _stored(self, index: int, architecture: Architecture) -> Record | None:
        """The record of an earlier run."""
        record = self.study.record(index)
        if record is not None and record.architecture != str(architecture):
            raise StudyError(
                f"The study in {self.study.path} cannot be continued: evaluation {index} was {record.architecture}, "
                f"but {architecture} is asked now. Was it begun by another version of this program?"
            )
        return record

    def _evaluate(self, index: int, architecture: Architecture) -> Record:
        """Score an architecture and store the record at once."""
        space = self.evaluator.space
        cost = self.costs.known(architecture)
        reason = cost.failure
        if reason is None and not space.is_trainable(architecture):
            reason = "not trainable: the output does not depend on the input"
        values: dict[str, Any] = {"status": "failed", "reason": reason}
        if reason is None:
            values = vars(self.evaluator.evaluate(architecture))
        record = self._ranked(
            Record(
                **values,
                index=index,
                architecture=str(architecture),
                canonical=str(space.canonical(architecture)),
                params=cost.params,
                macs=cost.macs,
                latency_ms=cost.latency_ms,
            )
        )
        self.study.add([record], rescored=self.pool.scores if self.pool else None)
        return record

    def _ranked(self, record: Record) -> Record:
        """The record with its score, which an aggregate gives it among all before it."""
        return record if self.pool is None else self.pool.add(record)

    def _finish(self, status: str) -> None:
        evaluator, study = self.evaluator, self.study
        study.finish(
            status,
            timing={
                "device": device_name(evaluator.device),
                "threads": torch.get_num_threads(),
                "batch_size": len(evaluator.probes[0].labels),
                "precision": "bfloat16 autocast" if evaluator.precision.bf16 else "float32",
            },
        )
        if study.path is not None and study.best(1):
            for name, draw in PICTURES.items():
                study.write(name, to_png(draw(study)))


class _Pool:
    """All that a search with an aggregate has scored, each architecture relative to the others.

    A search that continues fills it again record by record, so that its algorithm sees every generation as it was.
    Iterating gives the records with their scores of now, in the order of asking.

    Args:
        aggregate: Ranks them.
    """

    def __init__(self, aggregate: RankAggregate) -> None:
        self.aggregate = aggregate
        self._records: list[Record] = []
        self._parts: dict[str, list[float]] = {name: [] for name in aggregate.component_names}
        self._scores = np.empty(0)

    def add(self, record: Record) -> Record:
        """Rank all anew with one more; it is returned with its score. What failed is not ranked."""
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
        """The scores of now by index of the record."""
        return {record.index: score for record, score in zip(self._records, self._scores.tolist(), strict=True)}

    @property
    def best(self) -> Record | None:
        """What would win if the search ended now."""
        if not self._records:
            return None
        places = np.flatnonzero(self._scores == self._scores.max()).tolist()
        return self._at(min(places, key=lambda place: (self._records[place].params, place)))

    def _at(self, place: int) -> Record:
        return replace(self._records[place], score=float(self._scores[place]))


class _Costs:
    """Costs of architectures, each counted or measured once per study, however often the study is continued.

    Args:
        evaluator: Knows the space and the device.
        budget: Decides whether latency is measured, and what is feasible.
        study: Keeps the costs.
        interruption: Asked before work is done.
    """

    def __init__(self, evaluator: Evaluator, budget: Budget, study: Study, interruption: Interruption) -> None:
        self.evaluator = evaluator
        self.space = evaluator.space
        self.budget = budget
        self.study = study
        self.interruption = interruption
        self.timed = budget.max_latency_ms is not None or "latency_ms" in study.objectives

    def counted(self, architecture: Architecture) -> StoredCost:
        """Parameters and multiply-accumulates, or why they cannot be counted."""
        self.interruption.check()
        stored = self.study.cost(str(architecture))
        if stored is None:
            try:
                cost = self.space.cost(architecture)
                stored = StoredCost(cost.params, cost.macs)
            except Exception as error:  # a network may fail to be built in any way; it is recorded as failed
                stored = StoredCost(failure=f"cost: {type(error).__name__}: {error}"[:300])
            self.study.add_cost(str(architecture), stored)
        return stored

    def known(self, architecture: Architecture) -> StoredCost:
        """All costs that the study is about: latency is among them where it is limited or an objective."""
        stored = self.counted(architecture)
        if not self.timed or stored.failure is not None or stored.latency_ms is not None:
            return stored
        try:
            stored = StoredCost(stored.params, stored.macs, self._measure(architecture))
        except Exception as error:  # as above
            stored = StoredCost(stored.params, stored.macs, failure=f"latency: {type(error).__name__}: {error}"[:300])
        self.study.add_cost(str(architecture), stored)
        return stored

    def _measure(self, architecture: Architecture) -> float:
        with isolated_random_state(stable_seed(0, str(architecture))):
            model = self.space.build(architecture)
        return measure_latency(
            model, self.space.input_size, batch_size=self.budget.latency_batch_size, device=self.evaluator.device
        )

    def cost(self, architecture: Architecture) -> Cost:
        """The cost; infinite where it cannot be counted, so that no budget admits it."""
        counted = self.counted(architecture)
        if counted.failure is not None and counted.params is None:
            return Cost(math.inf, math.inf)  # type: ignore[arg-type]
        return Cost(counted.params or 0, counted.macs or 0)

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the budget admits it. One that cannot be built passes, to be recorded as failed."""
        if self.counted(architecture).failure is not None:
            return True
        cost = self.cost(architecture)
        if not self.budget.admits(cost) or self.budget.max_latency_ms is None:
            return self.budget.admits(cost)
        known = self.known(architecture)
        return known.failure is not None or self.budget.admits(cost, known.latency_ms)

    def find_start(self) -> Architecture | None:
        """An architecture within the budget, None where there are no limits.

        Latency is looked for at the architecture of fewest multiply-accumulates and its neighbours.

        Raises:
            BudgetError: None is found.
        """
        if self.budget.is_empty:
            return None
        start = check_satisfiable(self.space, self.budget, self.cost)
        if self.budget.max_latency_ms is None:
            return start
        fewest, _ = cheapest(self.space, "macs", self.cost)
        fastest = math.inf
        for architecture in itertools.chain([start, fewest], self.space.neighbours(fewest)):
            latency = self.known(architecture).latency_ms
            if latency is None:
                continue
            fastest = min(fastest, latency)
            if self.budget.admits(self.cost(architecture), latency):
                return architecture
        raise BudgetError(
            f"No architecture of {self.space.name} was found within max_latency_ms={self.budget.max_latency_ms:g}; "
            f"the lowest latency measured is {fastest:.3g} ms "
            f"(batch {self.budget.latency_batch_size}, {self.evaluator.device})."
        )


def check_whole(name: str, value: object, least: int) -> None:
    """Raise a ValueError unless an argument is a whole number of at least this."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def as_probes(probe: Probe | Sequence[Probe] | str) -> list[Probe]:
    """The probes; the name of a data set stands for one of it.

    Raises:
        ValueError: There is none, or something else among them.
    """
    if isinstance(probe, str):
        return [create_probe(probe)]
    probes = [probe] if isinstance(probe, Probe) else list(probe)
    if not probes or not all(isinstance(one, Probe) for one in probes):
        raise ValueError(
            "Scoring needs at least one probe, or the name of a data set; `Probe.from_tensors(images, labels)` "
            "makes one of your own batch."
        )
    return probes


def as_space(space: SearchSpace | str, probe: Probe, **options: Any) -> SearchSpace:
    """The space; one given by name is made for the classes and images of the probe unless `options` say otherwise."""
    if not isinstance(space, str):
        return space
    return create_space(space, **{"num_classes": probe.num_classes, "input_size": probe.input_size} | options)


@overload
def as_teacher(teacher: TeacherBank, space: SearchSpace, probe: Probe, **options: Any) -> TeacherBank: ...


@overload
def as_teacher(
    teacher: Teacher | nn.Module | Architecture | str | None, space: SearchSpace, probe: Probe, **options: Any
) -> Teacher | None: ...


def as_teacher(
    teacher: Teacher | TeacherBank | nn.Module | Architecture | str | None,
    space: SearchSpace,
    probe: Probe,
    **options: Any,
) -> Teacher | TeacherBank | None:
    """The teacher; a timm name is made for the classes and images of the probe unless `options` say otherwise.

    Any other text is an architecture of the space. A teacher or a bank is taken as it is.

    Raises:
        ValueError: It is a ranking of sources, or its folder.
        UnknownNameError: The text is neither, but comes near the name of a timm model.
        ArchitectureError: The text comes near no such name, and is malformed as an architecture.
    """
    if teacher is None or isinstance(teacher, Teacher | TeacherBank):
        return teacher
    if (at := _ranking_at(teacher)) is not None:
        raise ValueError(
            f"The teacher is a ranking of sources; {at}.teachers(weighting=..., power=...) gives what a search takes."
        )
    if isinstance(teacher, Architecture) or (isinstance(teacher, str) and _means_architecture(teacher, space)):
        try:
            return create_teacher(teacher, space=space, **options)
        except ArchitectureError as error:
            raise ArchitectureError(f"The teacher {str(teacher)!r} is no timm model, and {error}") from None
    if isinstance(teacher, str):
        fitting = {"num_classes": probe.num_classes}
        if probe.input_size[0] != 3:
            fitting["in_chans"] = probe.input_size[0]
        options = fitting | options
    return create_teacher(teacher, **options)


def _ranking_at(teacher: object) -> str | None:
    """How to call the ranking of sources that is given, itself or by its folder; None for anything else."""
    if isinstance(teacher, str | os.PathLike) and kind_of(teacher) == STORES["sources.sqlite"]:
        return f"ds.load_ranking({os.fspath(teacher)!r})"
    return "ranking" if callable(getattr(teacher, "teachers", None)) else None


def _means_architecture(text: str, space: SearchSpace) -> bool:
    """Whether a text is, or was meant to be, an architecture rather than the name of a timm model."""
    if timm.is_model(text):
        return False
    try:
        space.parse(text)
    except ArchitectureError:
        return not near_names(text, timm.list_models())
    return True


def device_name(device: str) -> str:
    """What a device calls itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
