"""The main job: from a teacher, a space, a probe and a budget to the best student, without training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from search_spaces.space import Architecture, SearchSpace

from ..checks import check_whole
from ..data.probe import Probe
from ..networks.network import Teacher, TeacherBank
from ..options.search import DEFAULT_PROXY
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..proxies.proxy import Proxy, ProxyFunction
from ..readings.passes import Precision
from ..reports.progress import Curves, SearchProgress
from ..reports.study import PICTURES
from ..reports.style import to_png
from ..resolve.searches import as_probes, as_space, as_teacher
from ..runtime.devices import device_name
from ..runtime.failures import MachineError, stop_if_machine_failed
from ..runtime.interruption import Interruption
from ..runtime.run_folder import RunFolderError
from ..study.algorithms import create_algorithm
from ..study.budget import Budget, BudgetError
from ..study.costs import Costs
from ..study.evaluator import Evaluator
from ..study.loop import SerialLoop
from ..study.pool import Pool
from ..study.records import Record, Score
from ..study.study import StoredCost, Study

DEFAULT_EVALUATIONS = 1000


MAX_UNIFORM_FAILURES = 32
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
        RunFolderError: The run folder cannot be used, or no architecture could be scored.
        OutOfMemory, MachineError: The machine failed; what was stored stays, and the same call continues.
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
        ValueError, BudgetError, RunFolderError: As for `search`.
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
        self.pool = Pool(evaluator.proxy) if isinstance(evaluator.proxy, RankAggregate) else None
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
        self.costs = Costs(self.evaluator, self.budget, self.study, self.interruption)
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
        Costs(self.evaluator, self.budget, trial, self.interruption).find_start()
        try:
            for readings in self.evaluator.read_teachers(self.evaluator.seeds[0], 0):
                for proxy in elementary_proxies(self.evaluator.proxy):
                    if proxy.needs_teacher:
                        proxy(readings, readings)
        except (RuntimeError, MemoryError) as error:
            stop_if_machine_failed(error, "in the teacher")
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
                except (KeyboardInterrupt, MachineError):
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
        count = 0
        curves = Curves(None if self.study.path is None else self.study.path / "curves")
        with SearchProgress(self.evaluations, enabled=self.progress) as progress, curves:

            def show(record: Record, replayed: bool) -> None:
                best = self.pool.best if self.pool else None
                curves.add(record, best=best)
                progress.add(record, replayed=replayed, best=best)

            loop = SerialLoop(
                stored=self._stored,
                compute=self._evaluate,
                store=self._store,
                show=show,
                interruption=self.interruption,
                describe=lambda proposal: f"in {proposal[1]}",
            )
            while count < self.evaluations and (asked := self.algorithm.ask()):
                # No name for the records, so that those of one generation go before the next one begins.
                count += self._tell(loop.run(enumerate(asked[: self.evaluations - count], start=count)))
                if self.algorithm_name != "exhaustive":
                    self._check_not_all_fail(count)

    def _tell(self, records: list[Record]) -> int:
        """Tell the algorithm the records of its proposals, and return their number."""
        if self.pool is None:
            self.algorithm.tell(records)
        else:
            self.algorithm.tell(records, scored=self.pool)
        return len(records)

    def _check_not_all_fail(self, evaluated: int) -> None:
        """Give up where the first evaluations failed for one reason: then the input is wrong, not the candidates.

        An exhaustive search goes on, since it begins with architectures that are all alike.
        """
        failures = self.study.failures
        if evaluated >= MAX_UNIFORM_FAILURES and len(failures) == 1 and sum(failures.values()) == evaluated:
            self._finish("interrupted")
            raise RunFolderError(
                f"The first {evaluated} evaluations all failed for one reason: {next(iter(failures))}. "
                "Nothing else was tried."
            )

    def _stored(self, proposal: tuple[int, Architecture]) -> Record | None:
        """The record of an earlier run."""
        index, architecture = proposal
        record = self.study.record(index)
        if record is not None and record.architecture != str(architecture):
            raise RunFolderError(
                f"The study in {self.study.path} cannot be continued: evaluation {index} was {record.architecture}, "
                f"but {architecture} is asked now. Was it begun by another version of this program?"
            )
        return record and self._ranked(record)

    def _evaluate(self, proposal: tuple[int, Architecture]) -> tuple[StoredCost, Score]:
        """Cost and score of an architecture."""
        _, architecture = proposal
        cost = self.costs.known(architecture)
        if cost.failure is not None:
            return cost, Score("failed", reason=cost.failure)
        if not self.evaluator.space.is_trainable(architecture):
            return cost, Score("failed", reason="not trainable: the output does not depend on the input")
        return cost, self.evaluator.evaluate([architecture])[0]

    def _store(self, proposal: tuple[int, Architecture], result: tuple[StoredCost, Score]) -> Record:
        """Store the record of an architecture at once."""
        (index, architecture), (cost, score) = proposal, result
        record = self._ranked(
            Record(
                **vars(score),
                index=index,
                architecture=str(architecture),
                canonical=str(self.evaluator.space.canonical(architecture)),
                params=cost.params,
                macs=cost.macs,
                latency_ms=cost.latency_ms,
            )
        )
        self.study.add([record], rescored=self.pool.scores if self.pool else None)
        return record

    def _ranked(self, record: Record) -> Record:
        """The record with its score; the score of an aggregate is its rank among all records so far."""
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
