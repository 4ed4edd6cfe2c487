"""The main job: from a teacher, a space, a probe and a budget to the best student, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from search_spaces.space import Architecture

from ..checks import TOO_LARGE, check_whole, user_options
from ..data.description import DataDescription, describe_probe
from ..deployment.latency import check_batch
from ..options.base import from_options, options_in
from ..options.search import SearchOptions
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..readings.passes import Precision
from ..reports.progress import Curves, SearchProgress, worker_lines
from ..reports.study import PICTURES, describe_study, format_parts, format_table
from ..reports.style import to_png
from ..reports.trackers import Trackers, check_trackers
from ..resolve.executors import as_executor, device_of
from ..resolve.searches import as_budget
from ..runtime.at_hand import AtHand
from ..runtime.devices import device_name
from ..runtime.executors.dispatch import Dispatcher
from ..runtime.failures import MachineError, stop_if_machine_failed
from ..runtime.files import RunFolderError
from ..runtime.interruption import Interruption
from ..runtime.worker_threads import WorkerThreads, threads_of_each
from ..study.algorithm import Algorithm
from ..study.algorithms import create_algorithm
from ..study.budget import BudgetError
from ..study.cost_kinds import StoredCost
from ..study.costs import Costs
from ..study.evaluator import Evaluator
from ..study.free_order import FreeOrder
from ..study.loop import FreeLoop, Loop
from ..study.pool import Pool
from ..study.records import Record, Score
from ..study.scoring import ScoringProgram, ScoringTask
from ..study.study import NoScoreError, Study
from .job import Job
from .subjects import search_subjects

DEFAULT_EVALUATIONS = 1000

Scored = tuple[StoredCost, Score]
"""What a worker gives for a candidate."""


_ALGORITHM_NAMES = {
    "name": "by the option algorithm",
    "space": "by the option space",
    "seed": "by the option seed",
    "feasible": "by the budget",
    "start": "by the budget",
}
"""Names that algorithm_options cannot set, and how they are set."""


MAX_UNIFORM_FAILURES = 32
"""Evaluations after which a search is given up if all of them failed for one reason."""


@from_options(SearchOptions)
def search(options: SearchOptions) -> Study:
    """
    Returns:
        The study, with its winner.

    Raises:
        ValueError: A name or an option is unknown, or space, probe and teacher do not fit each other.
        BudgetError: No architecture of the space is within the budget.
        RunFolderError: The run folder cannot be used.
        NoScoreError: No architecture could be scored.
        OutOfMemory, MachineError: The machine failed; what was stored stays, and the same call continues.
    """
    return SearchJob(options).complete()


class SearchJob(Job[SearchOptions, Study]):
    """The job of `search`.

    Args:
        options, show: See `Job`.
        evaluator: Scores the architectures of its space; by default the one that the options describe.

    Attributes:
        study: The study, empty or with the evaluations of earlier runs; set by `open`.
    """

    FOLDER = Study

    def __init__(
        self, options: SearchOptions, show: Callable[..., None] | None = None, *, evaluator: Evaluator | None = None
    ) -> None:
        super().__init__(options, show)
        self._evaluator = evaluator

    def check(self) -> None:
        options = self.options
        check_whole("seed", options.seed, least=0)
        self.trackers = check_trackers(options.trackers, options.tracker_options, has_folder=options.out is not None)
        self.budget = as_budget(options).settled(timed=_weighs_latency(options))
        self.evaluator = self._evaluator or self._create_evaluator()
        check_batch(self.evaluator.space.input_spec, self.budget.latency_batch_size, "latency_batch_size")
        self.evaluations = self._resolve_evaluations()
        self.executor = as_executor(options, self.evaluations)
        self.executor.check(self.evaluator)
        algorithm = self._create_algorithm()  # a wrong name or option shows here
        if algorithm.has_budgets:
            raise ValueError(
                f"The algorithm {options.algorithm!r} proposes candidates again with a larger share of a budget, but a "
                "score without training has no budget; `diswot shortlist` trains the best of a search in this way."
            )
        self.pool = Pool(self.evaluator.proxy) if isinstance(self.evaluator.proxy, RankAggregate) else None
        if self.pool is not None:
            algorithm.forget()  # and here, that the algorithm cannot
        if options.asynchronous and (self.budget.max_latency_ms is not None or _weighs_latency(options)):
            raise ValueError(
                "asynchronous never lets all workers rest, but latency is measured while nothing else is at work; "
                "search by generations, or limit params, macs, memory or size."
            )
        self.config = (
            self.evaluator.config()
            | ({"asynchronous": True} if options.asynchronous else {})
            | {
                "algorithm": {"name": options.algorithm, "options": dict(options.algorithm_options or {})},
                "seed": options.seed,
                "budget": self.budget.to_dict(),
                "evaluations": self.evaluations,
            }
        )
        self.interruption = Interruption()
        self._draft: Study | None = None
        if options.out is None or not Study.has_begun(options.out):
            self._draft = self._try_out()
        self.reach(self.executor)

    def _create_evaluator(self) -> Evaluator:
        """The evaluator that the options describe."""
        options = self.options
        seeds = weight_seeds(options.seed, options.weight_draws)
        device = device_of(options, options.device)
        subjects = search_subjects(options)
        return Evaluator(
            subjects.space,
            subjects.teacher,
            subjects.probes,
            options.proxy,
            seeds=seeds,
            device=device.here,
            scored_on=device.of_results,
            precision=Precision(channels_last=options.channels_last, bf16=options.bf16),
        )

    def _resolve_evaluations(self) -> int:
        """The number of evaluations; by default the whole space if the search is exhaustive."""
        evaluations = self.options.evaluations
        if evaluations is None:
            is_exhaustive = self.options.algorithm == "exhaustive"
            evaluations = self.evaluator.space.size if is_exhaustive else DEFAULT_EVALUATIONS
        check_whole("evaluations", evaluations, least=1)
        return evaluations

    def _create_algorithm(self, costs: Costs | None = None) -> Algorithm:
        """The algorithm; with costs it proposes what the budget admits."""
        options = self.options
        own = user_options("algorithm_options", options.algorithm_options, **_ALGORITHM_NAMES)
        start = None if costs is None else costs.find_start()
        with options_in("algorithm_options", own):
            algorithm = create_algorithm(
                options.algorithm,
                self.evaluator.space,
                seed=options.seed,
                feasible=None if costs is None else costs.feasible,
                start=start,
                **own,
            )
        algorithm.patience = None if costs is None else costs.patience
        return algorithm

    def _try_out(self) -> Study:
        """A study in memory with the costs that show that the budget can be met, after a run of each teacher."""
        draft = Study(self.config, space=self.evaluator.space)
        self.costs = Costs(self.evaluator, self.budget, draft, self.interruption)
        self.costs.find_start()
        self._check_sizes()
        try:
            for readings in self.evaluator.read_teachers(self.evaluator.seeds[0], 0):
                for proxy in elementary_proxies(self.evaluator.proxy):
                    if proxy.needs_teacher:
                        proxy(readings, readings)
        except (RuntimeError, MemoryError) as error:
            stop_if_machine_failed(error, "in the teacher")
            raise ValueError(str(error)) from error
        return draft

    def descriptions(self) -> Sequence[DataDescription]:
        return [describe_probe(probe) for probe in self.evaluator.probes]

    def _check_sizes(self) -> None:
        """Refuse a space whose networks are too large for the memory, at both ends of its choices.

        Raises:
            ValueError: Their weights alone do not fit.
        """
        space = self.evaluator.space
        corners = [[choices[end] for choices in space.decisions.values()] for end in (0, -1)]
        ends = [space.architecture(corner) for corner in corners if space.violation(corner) is None] or space.starts
        failures = [self.costs.counted(architecture).failure for architecture in ends]
        if all(failure is not None and TOO_LARGE in failure for failure in failures):
            raise ValueError(f"The networks of {space.name} are too large: {failures[0]}")

    def open(self) -> Study:
        self.study = self._open_study()
        self.at_hand = AtHand(self.study.path)
        self.threads = WorkerThreads(self.study, self.executor, on_cpu=self.evaluator.scored_on == "cpu")
        with self.study.released_on_failure(), self.at_hand.watching():
            self.costs = Costs(self.evaluator, self.budget, self.study, self.interruption)
            self.costs.note = self.at_hand.begin
            self.algorithm = self._create_algorithm(self.costs)
        return self.study

    def _open_study(self) -> Study:
        if self.options.out is None and self._draft is not None:
            return self._draft
        study = Study(self.config, out=self.options.out, space=self.evaluator.space)
        if self._draft is not None:
            with study.released_on_failure():
                study.add_costs_of(self._draft)
        return study

    def report(self, result: Study) -> Iterable[object]:
        return (format_table(result), *format_parts(result), *describe_study(result))

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
        trackers = Trackers(
            self.trackers, self.options.tracker_options, folder=self.study.path, config=self.study.config
        )
        curves = Curves(None if self.study.path is None else self.study.path / "curves", trackers)
        dispatcher: Dispatcher[Scored] = Dispatcher(
            self.executor, interruption=self.interruption, timeout_s=self.options.candidate_timeout_s
        )
        below = (lambda: worker_lines(dispatcher.activities())) if self.options.show_workers else None
        bar = SearchProgress(self.evaluations, enabled=self.options.shows_progress, below=below)
        program = ScoringProgram(self.evaluator, self.costs.counter)
        together = self.study.gathering(enabled=self.executor.is_isolated)
        with together, trackers, bar as progress, curves, self.at_hand.watching(), dispatcher.started(program):

            def show(record: Record, replayed: bool) -> None:
                best = self.pool.best if self.pool else None
                curves.add(record, best=best)
                progress.add(record, replayed=replayed, best=best)

            self.costs.watch = progress.tried
            progress.begin()
            if self.options.asynchronous:
                self._evaluate_freely(dispatcher, show)
            else:
                self._evaluate_generations(dispatcher, show)

    def _evaluate_generations(self, dispatcher: Dispatcher[Scored], show: Callable[[Record, bool], None]) -> None:
        """Evaluate what the algorithm proposes, all of it before it is asked again."""
        loop = Loop(
            dispatcher=dispatcher,
            stored=self._stored,
            store=self._store,
            lost=self._lost,
            show=show,
            interruption=self.interruption,
            describe=_describe,
            begin=self._begin,
            task=self._task,
            idle=self.study.settle,
        )
        count = 0
        while count < self.evaluations:
            if self._is_timed:
                dispatcher.rest()
            if not (proposals := self.algorithm.ask(self.evaluations - count)):
                break
            self._measure_alone(proposals)
            # No name for the records, so that those of one generation go before the next one begins.
            count += self._tell(loop.run(enumerate(proposals, start=count)))
            if self.options.algorithm != "exhaustive":
                self._check_not_all_fail(count)

    def _evaluate_freely(self, dispatcher: Dispatcher[Scored], show: Callable[[Record, bool], None]) -> None:
        """Ask the algorithm whenever a worker is free, after repeating what an earlier run asked and was told."""
        order = FreeOrder(self.algorithm, self.study, self.evaluations)

        def learn(record: Record, replayed: bool) -> None:
            self._tell([record])
            order.told += 1
            show(record, replayed)

        for record in order.repeat():
            learn(self._ranked(record), True)

        def tell(proposal: tuple[int, Architecture], result: Scored, worker: str | None) -> None:
            learn(self._store(proposal, result, worker, finished=order.told), False)
            if self.options.algorithm != "exhaustive":
                self._check_not_all_fail(order.told)

        loop = FreeLoop(
            dispatcher=dispatcher,
            ask=order.ask,
            tell=tell,
            lost=self._lost,
            interruption=self.interruption,
            describe=_describe,
            begin=self._begin,
            task=self._task,
            idle=self.study.settle,
        )
        loop.run(order.waiting)

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
            raise NoScoreError(
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
                f"but the algorithm proposes {architecture} now. Was it begun by another version of this program?"
            )
        return record and self._ranked(record)

    def _begin(self, proposal: tuple[int, Architecture]) -> Scored | None:
        """Note the candidate at hand; gives its failure if it ended the process in an earlier run.

        A worker of its own can end without this process, so there is nothing to note.
        """
        self.threads.compare()
        index, architecture = proposal
        note = self.at_hand.ended if self.executor.is_isolated else self.at_hand.begin
        reason = note(f"evaluation {index}: {architecture}")
        return None if reason is None else self._lost(proposal, reason)

    def _lost(self, proposal: tuple[int, Architecture], reason: str) -> Scored:
        """The failure of a candidate that ended its process."""
        return self.study.cost(str(proposal[1])) or StoredCost(), Score("failed", reason=reason)

    def _measure_alone(self, proposals: Iterable[Architecture]) -> None:
        """Measure what must not be measured beside other work, while no worker is at work."""
        if self._is_timed:
            for architecture in proposals:
                self.costs.stored(architecture)

    @property
    def _is_timed(self) -> bool:
        """Whether costs are measured that must not be measured beside the workers."""
        return self.executor.is_isolated and any(kind.is_measured for kind in self.costs.computed)

    def _task(self, proposal: tuple[int, Architecture]) -> ScoringTask:
        """The architecture with the costs that are known; a worker counts the others."""
        _, architecture = proposal
        known = self.study.cost(str(architecture)) if self.executor.is_isolated else self.costs.stored(architecture)
        return ScoringTask(str(architecture), known)

    def _store(
        self, proposal: tuple[int, Architecture], result: Scored, worker: str | None, finished: int | None = None
    ) -> Record:
        """Store the costs and the record of an architecture at once."""
        (index, architecture), (cost, score) = proposal, result
        self.threads.note()
        self.costs.store(architecture, cost)
        record = self._ranked(
            Record(
                **vars(score),
                index=index,
                architecture=str(architecture),
                canonical=str(self.evaluator.space.canonical(architecture)),
                worker=worker,
                finished=finished,
                **cost.costs(),
            )
        )
        self.study.add([record], rescored=self.pool.scores if self.pool else None)
        return record

    def _ranked(self, record: Record) -> Record:
        """The record with its score; the score of an aggregate is its rank among all records so far."""
        return record if self.pool is None else self.pool.add(record)

    def _finish(self, status: str) -> None:
        evaluator, study = self.evaluator, self.study
        drawn = PICTURES if study.path is not None and study.best(1) else {}
        figures = {name: draw(study) for name, draw in drawn.items()}
        study.finish(
            status,
            pictures={name: to_png(figure) for name, figure in figures.items() if figure is not None},
            timing={
                "device": device_name(evaluator.scored_on),
                "workers": self.executor.workers,
                "threads": threads_of_each(self.executor),
                "batch_size": len(evaluator.probes[0].labels),
                "precision": "bfloat16 autocast" if evaluator.precision.bf16 else "float32",
            },
        )


def _describe(proposal: tuple[int, Architecture]) -> str:
    return f"in {proposal[1]}"


def _weighs_latency(options: SearchOptions) -> bool:
    """Whether the algorithm weighs latency against the score."""
    objectives = (options.algorithm_options or {}).get("objectives", ())
    return isinstance(objectives, list | tuple) and "latency_ms" in objectives


def weight_seeds(seed: int, weight_draws: int) -> range:
    """The seeds of a number of weight draws.

    Raises:
        ValueError: A number that is not whole, a negative seed, or no draw.
    """
    check_whole("seed", seed, least=0)
    check_whole("weight_draws", weight_draws, least=1)
    return range(seed, seed + weight_draws)
