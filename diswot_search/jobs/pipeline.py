"""From a data set to a distilled student, and the same student trained alone to compare."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from search_spaces.names import short_name
from search_spaces.space import Architecture

from ..checks import check_options, check_whole
from ..data.description import DataDescription, describe_splits
from ..data.probe import Probe
from ..networks.network import Network, TeacherBank
from ..networks.saved import DISTILLATION, SHORTLIST
from ..options.base import as_typed, changed, from_options, keywords, shared
from ..options.data import CreateSplitsOptions
from ..options.pipeline import PipelineOptions, TeacherTrainingOptions
from ..options.search import ProxyOptions, SearchOptions
from ..options.shared import (
    AlgorithmOptions,
    BudgetOptions,
    ExecutorOptions,
    RunOptions,
    SpaceOptions,
    TrackerOptions,
    WeightDrawOptions,
)
from ..options.shortlist import ChoiceOptions, RungOptions, ShortlistOptions
from ..options.training import (
    DistillerOptions,
    DistillOptions,
    SourceOptions,
    TrainingOptions,
    TrainOptions,
    UnlabelledBatchOptions,
)
from ..reports.pipeline import pipeline_report
from ..reports.shortlist import explain_seeds
from ..reports.training import compare_trainings, explain_student
from ..resolve.executors import as_executor
from ..resolve.folders import PipelineFolder, ShortlistFolder
from ..resolve.networks import network_for
from ..resolve.runs import PipelineResult, StageResult
from ..resolve.searches import as_budget, as_space
from ..resolve.shortlists import Shortlist
from ..runtime.run_folder import COMPLETE, entries_of
from ..sources.ranking import RankingError, SourceRanking
from ..study.finalists import ALONE, DISTILLED
from ..study.study import Study
from ..training.folder import TrainingFolder
from ..training.result import Training
from .choices import distillers_of, teachers_of
from .dry_runs import baseline_warning, dry_run_error, reason_of
from .finalists import (
    check_validation,
    named_baselines,
    other_scores,
    rungs_in,
    several,
    warn_of_short_rungs,
)
from .guides import Announce, Guide, SourceGuides, guides_of
from .job import CONFIG, Job
from .pipeline_results import SEARCH, TRAINING_ALONE, show_stage, summarise
from .report import write_page
from .search import SearchJob
from .shortlist import ShortlistJob
from .shortlist_stages import ShortlistError
from .subjects import options_of_space
from .teachers import PreparedTeacher, introduce_teacher, prepare_teacher
from .train import DistillJob, TrainJob, check_supervision, named_splits
from .training_run import TrainingSubjects, check_training

SEARCH_TEACHERS = ("random", "trained")

_PROBE_SIZE = 64
"""Number of images of a probe whose size is not set."""

_STAND_IN_SAMPLES = 20
"""Number of architectures that are sampled to find a trainable one within the budget."""


@from_options(PipelineOptions)
def run(options: PipelineOptions) -> PipelineResult:
    """
    Returns:
        The results of all stages, with the distilled student.

    Raises:
        ValueError: The input of any stage is wrong, or options of a teacher are combined with sources; raised before
            the first stage begins and anything is written.
        BudgetError: No architecture of the space is within the budget; likewise.
        RunFolderError: The run folder cannot be used, or holds a pipeline of another configuration.
        DivergenceError: The loss of a training is not a number.
        ShortlistError: No finalist could be trained.
    """
    return PipelineJob(options).complete()


class PipelineJob(Job[PipelineOptions, PipelineResult]):
    """The job of `run`.

    Args:
        options: The options.
        show: Prints the report of each stage when it is done; by default nothing.
        announce: Is told of each stage when it is done: its name and its result.

    Attributes:
        config: Everything that the result depends on, as JSON values.
    """

    FOLDER = PipelineFolder

    def __init__(
        self, options: PipelineOptions, show: Callable[..., None] | None = None, announce: Announce | None = None
    ) -> None:
        super().__init__(options, show)
        self._announce = announce or (lambda stage, result: None)

    def announce(self, stage: str, result: StageResult) -> None:
        """Tell the result of a stage, and show its report."""
        weights: Mapping[str, float] = {}
        if isinstance(result, SourceRanking) and isinstance(self.guides, SourceGuides):
            weights = self.guides.weights(result)
        self.show(*show_stage(result, weights))
        self._announce(stage, result)

    # -- before anything is written -------------------------------------------------------------

    def check(self) -> None:
        options = self.options
        if options.out is None:
            raise ValueError("A pipeline needs a run folder: pass `out=`.")
        if options.search_teacher not in SEARCH_TEACHERS:
            raise ValueError(f"search_teacher is {options.search_teacher!r}; it must be 'random' or 'trained'.")
        if options.probe_size is not None:
            check_whole("probe_size", options.probe_size, least=2)
        of_teacher = ("teacher", *keywords(TeacherTrainingOptions), *keywords(ChoiceOptions), "search_teacher")
        check_supervision(options, *of_teacher)
        check_options("data set", options.teacher_data_options or {}, keywords(CreateSplitsOptions))
        recipe = check_training(options)
        self.path = Path(options.out)
        self._check_finalists()
        options = self.options
        self.budget = as_budget(options)
        self.splits = named_splits(options)
        self.guides = guides_of(options, self.splits)
        self.space = as_space(options.space, self._probe(None), **options_of_space(options))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a stage repeats its warnings when it runs
            self.config = self._check_stages()
        self._check_places()
        if options.finalists:
            warn_of_short_rungs(rungs_in(options), recipe.epochs, len(self.splits.train) // recipe.batch_size)
        for text in self._of_baselines:
            warnings.warn(text, stacklevel=4)
        for steps in self._steps:
            steps.warn_if_few()
        self.reach(self.executor)

    def _check_finalists(self) -> None:
        """Check the options of finalists; a single teacher or distiller to choose from is taken as the one."""
        options = self.options
        check_whole("finalists", options.finalists, least=0)
        of_rungs = [name for name in keywords(RungOptions) if name != "finalists"]
        if not options.finalists and (vain := changed(options, *of_rungs)):
            raise ValueError(
                f"finalists is 0, so that the winner of the search is trained at once and {', '.join(vain)} would "
                "change nothing; give 1 or more finalists, or leave that out."
            )
        teachers, distillers = teachers_of(options), several(options.distillers)
        distillers_of(options)  # rejects unknown ones
        names = [name for name, given in (("teacher", teachers), ("distiller", distillers)) if len(given) > 1]
        if names and not options.finalists:
            raise ValueError(
                f"finalists is 0, so that no student is trained by which {'s and '.join(names)}s are chosen; give 1 or "
                f"more finalists, or a single {' and a single '.join(names)}."
            )
        if len(teachers) == 1:
            self.options = replace(self.options, teacher=teachers[0], teachers=None)
        if len(distillers) == 1:
            self.options = replace(self.options, distiller=distillers[0], distillers=None)

    def _check_stages(self) -> dict[str, object]:
        """Check every stage as far as it is known before those ahead of it; returns the configuration."""
        self._prepared: PreparedTeacher | None = None
        guide = self.guides.provisional()
        search = self._search(guide.of_search, None)
        search.check_once()
        self.executor = as_executor(self.options, max(search.evaluations, self._most_items()))
        student = self._network(_stand_in(search))
        job = self._distillation(student, guide, None)
        job.check_once()
        if job.training.accelerator.num_processes > 1:
            raise ValueError("A pipeline runs in one process; `diswot distill` trains its student in several.")
        is_introduced = guide.teacher is not None and guide.teacher.trained and not guide.choices
        self._checked = job.training if is_introduced else None
        distillation = {key: value for key, value in job.training.config.items() if key != "student"}
        config = self.guides.config(search.config, distillation)
        self._of_baselines: list[str] = []
        if self.options.finalists:
            config["shortlist"] = self._shortlist_config(guide)
            self._try_choices(student, guide)
        self._steps = (*self.guides.steps, replace(job.training.steps, who="student"))
        return config

    def _most_items(self) -> int:
        """The largest number of items that a stage other than the search computes at once."""
        options = self.options
        finalists = max(options.finalists, 2 * options.verdict_seeds) if options.finalists else 0
        return max(finalists, self.guides.items)

    def _shortlist_config(self, guide: Guide) -> dict[str, object]:
        """Check the options of the shortlist, and try the baselines; returns all that the choice depends on."""
        options = self.options
        check_validation(self.splits)
        rungs, scores = rungs_in(options), other_scores(options)
        baselines = [network for _, network in named_baselines(options, self.splits, self.space)]
        for network in baselines:
            name = short_name(network.name)
            error = dry_run_error(self._distillation(network, guide, None), f"the baseline {name}")
            if error is not None:
                self._of_baselines.append(baseline_warning(name, reason_of(error)))
        config = {
            "finalists": options.finalists,
            "other_scores": list(scores),
            "baselines": [network.config() for network in baselines],
            "rungs": [{"share": rung.share, "keep": rung.keep} for rung in rungs],
        }
        terms = distillers_of(options).terms
        distillers = [{term.name: term.config() for term in one} for one in terms]
        return config | ({"distillers": distillers} if len(terms) > 1 else {})

    def _try_choices(self, student: Network, guide: Guide) -> None:
        """Try the student under each other teacher and with each other distiller, as the shortlist does later.

        Raises:
            ValueError: One of them cannot teach it.
        """
        terms, names = distillers_of(self.options)[1:]
        others = [(choice, names[0]) for choice in guide.choices[1:]]
        others += [(replace(guide, terms=one), name) for one, name in zip(terms[1:], names[1:], strict=True)]
        for other, name in others:
            assert other.teacher is not None
            try:
                self._distillation(student, other, None).check_once()
            except ValueError as error:
                raise ValueError(f"Under {short_name(other.teacher.name)} with {name}: {as_typed(error)}") from error

    def _check_places(self) -> None:
        """Refuse folders of stages that hold something else, all of them before the first stage begins."""
        if not self.path.is_dir():
            return
        path, config = self.path, self.config
        PipelineFolder.check_place(path, config)
        search, distillation, shortlist = (config.get(key) for key in ("search", "distillation", SHORTLIST))
        assert isinstance(search, Mapping)
        assert isinstance(distillation, Mapping)
        self.guides.check_places(config)
        Study.check_place(path / SEARCH, {key: search[key] for key in ("space", "proxy", "seed")})
        if isinstance(shortlist, Mapping):
            ShortlistFolder.check_place(path / SHORTLIST, shortlist)
            return
        for stage in (DISTILLATION, TRAINING_ALONE):
            TrainingFolder.check_place(path / stage, {key: distillation[key] for key in ("data", "rule", "seed")})

    def descriptions(self) -> Sequence[DataDescription]:
        return (describe_splits(self.splits),)

    # -- the stages -----------------------------------------------------------------------------

    def open(self) -> PipelineFolder:
        self._has_begun, self._files_before = PipelineFolder.has_begun(self.path), entries_of(self.path)
        self.folder = PipelineFolder(self.config, self.path)
        return self.folder

    def run(self) -> PipelineResult:
        try:
            self.show(*map(str, self._steps))
            self._prepared = self._prepare_teacher()
            guide = self._find_guide()
            study = self._finished_search()
            if study is None:
                study = self._search(guide.of_search, self.path / SEARCH).complete()
            self.announce(SEARCH, study)
            stages = self._prove(study, guide) if self.options.finalists else self._train(study, guide)
            distilled, alone, shortlist = stages
            guided = (_chosen(guide, shortlist).trained, guide.ranking, guide.weights)
            result = PipelineResult(self.path, study, distilled, alone, *guided, shortlist)
            self.folder.write("report.md", "\n".join(pipeline_report(result)) + "\n")
            self.folder.write_json("result.json", summarise(result))
            self.folder.end(COMPLETE, ["report.md", "result.json"])
            self._write_page()
        finally:
            self.folder.release()
        return result

    def _write_page(self) -> None:
        """Write the page of the run; one that cannot be made does not undo what was found."""
        try:
            write_page(self.path)
        except Exception as error:
            warnings.warn(f"The page of the run was not written: {type(error).__name__}: {error}", stacklevel=2)

    def _train(self, study: Study, guide: Guide) -> tuple[Training, Training | None, None]:
        """Distil the winner of the search, and train it alone."""
        student = study.winner.architecture
        distilled = self._distillation(self._network(student), guide, self.path / DISTILLATION, student).complete()
        self.announce(DISTILLATION, distilled)
        if not self.options.compare or guide.lacks_near_sources:
            return distilled, None, None
        alone = self._training_alone(student).complete()
        self.announce(TRAINING_ALONE, alone)
        return distilled, alone, None

    def _prove(self, study: Study, guide: Guide) -> tuple[Training, Training | None, Shortlist]:
        """Train the best of the search, and prove the best of them."""
        job = self._shortlist(study, guide)
        shortlist = job.complete()
        self.announce(SHORTLIST, shortlist)
        distilled, alone = (job.trained(shortlist, kind) for kind in (DISTILLED, ALONE))
        if distilled is None:
            reasons = "; ".join(dict.fromkeys(failure.reason for failure in shortlist.verdict.failures))
            raise ShortlistError(f"The student {shortlist.pick.name} could not be tested: {reasons}")
        return distilled, alone, shortlist

    def _find_guide(self) -> Guide:
        """Run the first stage. One that failed leaves nothing, or what the same command goes on from."""
        try:
            return self.guides.find(self.announce, self.folder)
        except RankingError as error:
            if not self._has_begun:  # so that other options, too, may have the folder
                self.folder.discard(self._files_before)
                raise
            raise RankingError(
                f"{error} When the cause is gone, the same command goes on in {self.path}; other options need another "
                "run folder."
            ) from error

    def _prepare_teacher(self) -> PreparedTeacher | None:
        """Test a trained teacher and introduce it before the search; None for one that is trained here, and sources."""
        training, self._checked = self._checked, None  # its networks are in nobody's way during the search
        if training is None or training.teacher is None:
            return None
        where = (self.splits, self.folder, training.accelerator, self.options.seed)
        prepared = prepare_teacher(training.teacher, training.task, *where)
        self.show(introduce_teacher(training.teacher, training.task, self.splits, prepared))
        return prepared

    def report(self, result: PipelineResult) -> Iterable[object]:
        compared = result.compared()
        table = compare_trainings(compared, explain_seeds(result.shortlist, compared))
        return (table, f"run folder: {result.path}", *explain_student(result.path))

    def _distillation(
        self, student: Network, guide: Guide, out: Path | None, named: Architecture | None = None
    ) -> DistillJob:
        """The training of the student under the guide.

        Args:
            student: The student.
            guide: The guide.
            out: The run folder; None for a dry run.
            named: The student as an architecture of the space, for config.yaml.
        """
        options = self.options
        own = shared(options, TrainingOptions, SpaceOptions, DistillerOptions, SourceOptions, UnlabelledBatchOptions)
        stage = DistillOptions(named or student, dataset=options.dataset, space=options.space, **own | {"out": out})
        subjects = TrainingSubjects(
            splits=self.splits,
            student=student,
            teacher=guide.teacher,
            terms=guide.terms,
            ce_weight=options.ce_weight,
            objective=guide.objective,
            unlabelled_batch_size=options.unlabelled_batch_size,
            prepared=self._prepared,
        )
        return DistillJob(self.guides.named_in(stage, guide), subjects=subjects)

    def _shortlist(self, study: Study, guide: Guide) -> ShortlistJob:
        """The shortlist of the search under the guide."""
        options = self.options
        groups = (
            TrainingOptions,
            ExecutorOptions,
            DistillerOptions,
            SourceOptions,
            UnlabelledBatchOptions,
            RungOptions,
            ChoiceOptions,
        )
        own = shared(options, *groups) | {"out": self.path / SHORTLIST}
        own["compare"] = options.compare and not guide.lacks_near_sources
        own["candidate_timeout_s"] = None  # which is for a score; a training takes far longer
        stage = ShortlistOptions(self.path / SEARCH, None, dataset=options.dataset, **own)
        stage = self.guides.named_in_shortlist(stage, guide)
        teacher = None if guide.choices else guide.teacher
        job = ShortlistJob(
            stage,
            study=study,
            splits=self.splits,
            teacher=teacher,
            ranking=guide.ranking,
            told=self._of_baselines,
        )
        job.is_stage = True
        return job

    def _training_alone(self, student: Architecture) -> TrainJob:
        """The training of the student on labels alone."""
        options = self.options
        own = shared(options, TrainingOptions, SpaceOptions) | {"out": self.path / TRAINING_ALONE}
        return TrainJob(
            TrainOptions(student, options.dataset, space=options.space, **own),
            subjects=TrainingSubjects(splits=self.splits, student=self._network(student)),
        )

    def _network(self, student: Architecture) -> Network:
        """The network of an architecture for the classes and images of the data."""
        return network_for(self.splits, student, "student", {"space": self.space})

    def _search(self, teacher: Network | TeacherBank | None, out: Path | None) -> SearchJob:
        of_search = (RunOptions, ExecutorOptions, TrackerOptions, ProxyOptions, WeightDrawOptions, BudgetOptions)
        own = shared(self.options, *of_search, AlgorithmOptions)
        job = SearchJob(SearchOptions(self.space, teacher, self._probe(teacher), **own | {"out": out}))
        job.is_stage = True
        return job

    def _finished_search(self) -> Study | None:
        folder = self.path / SEARCH
        is_whole = Study.has_begun(folder) and (folder / CONFIG).is_file()
        study = Study.load(folder, space=self.space) if is_whole else None
        return study if study is not None and study.status == COMPLETE and not study.missing_files() else None

    def _probe(self, teacher: Network | TeacherBank | None) -> Probe:
        """Labelled images, normalised for the teacher, the same number of each class.

        Several teachers convert images that are normalised as the data is.
        """
        splits, size = self.splits, self.options.probe_size
        labelled = len(splits.train) if splits.labelled is None else len(splits.labelled)
        size = min(_PROBE_SIZE, labelled) if size is None else size
        if size > labelled:
            have = "" if splits.labelled is None else " that have labels"
            raise ValueError(f"probe_size is {size}, but there are only {labelled} training images{have}.")
        converts = getattr(teacher, "conversion", None) is not None  # images that are normalised as the data is
        mean, std = (None if converts else getattr(teacher, name, None) for name in ("mean", "std"))
        return splits.probe(size, self.options.seed, mean=mean, std=std)


def _chosen(guide: Guide, shortlist: Shortlist | None) -> Guide:
    """The guide under the teacher that the shortlist chose; the guide itself if there was no choice."""
    if not guide.choices or shortlist is None:
        return guide
    return next(choice for choice, one in zip(guide.choices, shortlist.teachers, strict=True) if one.is_chosen)


def _stand_in(search: SearchJob) -> Architecture:
    """An architecture within the budget that stands for the student before the search; trainable, if any is found."""
    space, rng = search.evaluator.space, random.Random(0)
    start = search.costs.find_start()
    sampled = (space.sample(rng) for _ in range(_STAND_IN_SAMPLES))
    affordable = itertools.chain([] if start is None else [start], filter(_within(search), sampled))
    candidates = list(itertools.islice(affordable, _STAND_IN_SAMPLES))
    return next(filter(space.is_trainable, candidates), candidates[0])


def _within(search: SearchJob) -> Callable[[Architecture], bool]:
    return lambda architecture: search.budget.admits(search.costs.cost(architecture))
