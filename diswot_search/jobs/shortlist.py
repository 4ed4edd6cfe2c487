"""The job of a shortlist: the best of a study are distilled, shortly and then fully, and one of them is proven."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.names import short_name

from ..data.description import DataDescription, describe_splits
from ..data.splits import Splits
from ..networks.network import Network
from ..networks.saved import CONFIG as CARD
from ..networks.saved import FOLDER, WEIGHTS, load_student
from ..options.base import as_typed, changed, from_options, keywords
from ..options.shortlist import ChoiceOptions, ShortlistOptions
from ..options.training import TrainedTeacherOptions
from ..reports.shortlist import (
    contenders_csv,
    describe_shortlist,
    finalists_csv,
    format_shortlist,
    introduce_finalists,
    shortlist_report,
)
from ..reports.shortlist_figures import plot_shortlist
from ..reports.study import draw_finalists
from ..reports.style import format_count
from ..resolve.executors import as_executor
from ..resolve.folders import ShortlistFolder
from ..resolve.shortlists import Shortlist, read_shortlist, regret_of
from ..runtime.configuration import versions
from ..runtime.devices import resolve_device
from ..runtime.files import RunFolderError, as_json, check_writable
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE, INTERRUPTED
from ..runtime.typed_json import decode_stored, encode
from ..sources.ranking import SourceRanking
from ..study.finalists import Finalist
from ..study.halving import Rung
from ..study.study import Study
from ..training.folder import TrainingFolder
from ..training.recipe import Recipe
from ..training.result import Training, read_result, read_rows
from ..training.trainer import create_accelerator
from .choices import check_distinct, check_trained_teachers, distillers_of, teachers_of
from .dry_runs import baseline_warning, dry_run_error, reason_of
from .finalists import (
    Chooser,
    Entry,
    check_form,
    check_validation,
    idle_rungs,
    rungs_in,
    several,
    warn_of_short_rungs,
)
from .job import Job
from .pipeline_results import SEARCH
from .shortlist_stages import Part, Plan, Stages, smallest_of
from .supervision import source_objective
from .train import check_supervision, named_splits, named_teacher
from .training_cells import CellProgress, CellTrainer, Trainings, job_of
from .training_run import check_training

RESULT = "result.json"


@from_options(ShortlistOptions)
def shortlist(options: ShortlistOptions) -> Shortlist:
    """
    Returns:
        The finalists with their trainings, the pick, and the verdict on it.

    Raises:
        ValueError: A name, an option or a number is wrong, or no finalist can be distilled.
        NoScoreError: The study has no winner.
        ShortlistError: No finalist could be trained.
        RunFolderError: A run folder cannot be used, or holds another shortlist.
        OutOfMemory, MachineError: The machine failed; what was done is stored, and the same call continues.
    """
    return ShortlistJob(options).complete()


class ShortlistJob(Job[ShortlistOptions, Shortlist]):
    """The job of `shortlist`.

    Args:
        options, show: See `Job`.
        study: The study that the options name, if it is loaded already.
        splits: The data, if it is read already.
        teacher: The teacher that the options name, if it is resolved already.
        ranking: The ranking of the sources that the options name, likewise.
        told: Texts of warnings that are told already.
    """

    FOLDER = ShortlistFolder

    def __init__(
        self,
        options: ShortlistOptions,
        show: Callable[..., None] | None = None,
        *,
        study: Study | None = None,
        splits: Splits | None = None,
        teacher: Network | None = None,
        ranking: SourceRanking | None = None,
        told: Collection[str] = (),
    ) -> None:
        super().__init__(options, show)
        self._study = study
        self._splits = splits
        self._teacher = teacher
        self._ranking = ranking
        self._told = set(told)
        self.notices: list[str] = []

    # -- before anything is written -------------------------------------------------------------

    def check(self) -> None:
        options = self.options
        if options.out is None:
            raise ValueError("A shortlist needs a run folder: pass `out=`.")
        recipe = check_training(options)
        rungs = rungs_in(options)
        self.study = _as_study(options.study) if self._study is None else self._study
        self.splits = named_splits(options) if self._splits is None else self._splits
        check_validation(self.splits)
        check_form(self.study, self.splits)
        self.plan = self._plan(rungs, recipe.epochs)
        if recipe.schedule == "constant":
            self.notices.append("The learning rate is constant, so that short trainings do not end annealed.")
        if self.study.status != COMPLETE:
            scored = format_count(len(self.study), "evaluation")
            self.notices.append(f"The search is not finished: the finalists are the best of {scored} so far.")
        if self._splits is None:  # a pipeline says it at its start
            warn_of_short_rungs(rungs, recipe.epochs, len(self.splits.train) // recipe.batch_size)
        self.executor = as_executor(options, max(options.finalists, 2 * options.verdict_seeds))
        self.interruption = Interruption()
        self.plan = replace(self.plan, data={} if self.executor.is_isolated else self._data_here())
        self.plan = replace(self.plan, guide=self._guide_here())
        is_taught = self._is_taught(recipe)
        self.plan = replace(self.plan, compares=options.compare and is_taught)
        chooser = Chooser(self.study, self.splits, options, options.device)
        self.config = self._own_config(chooser)
        ShortlistFolder.check_place(self.plan.path, self.config)
        self.entries = self._entries(chooser)
        self.config |= {"training": self._training_config()}
        self._check_places()
        self.executor.check(CellTrainer.of(self.executor))
        self.reach(self.executor)

    def _is_taught(self, recipe: Recipe) -> bool:
        """Whether students learn from a teacher or a source; sources are prepared as each training does.

        Raises:
            ValueError, RunFolderError: A source does not take the data, or cannot be read.
        """
        if self.options.sources is None:
            return True
        device = create_accelerator(recipe, resolve_device(self.options.device)).device
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            objective = source_objective(self.options, self._ranking)
            objective.prepare(self.splits, recipe, self.options.seed, device, None)
        self._told |= {str(warning.message) for warning in caught}
        for warning in caught:
            warnings.warn(warning.message, warning.category, stacklevel=3)
        if not objective.weights:
            self.notices.append("No source teaches, so that the pick is not compared with itself trained alone.")
        return bool(objective.weights)

    def _check_places(self) -> None:
        """Refuse folders in which trainings cannot lie, or others do, of all stages before the first."""
        path, training = self.plan.path, self.config["training"]
        is_done = ShortlistFolder.has_begun(path) and self._is_done(ShortlistFolder.peek(path))
        if is_done or not path.is_dir():
            return
        check_writable(path / FOLDER)
        for entry in self.entries:
            if entry.finalist.reason is not None:
                continue
            student = entry.network(self.splits).config()
            for part in self.plan.parts(entry):
                own = {"student": student, "seed": part.trial.seed}
                own["recipe"] = training["recipe"] | {"epochs": part.trial.epochs}
                TrainingFolder.check_place(part.cell.path, own | {key: training[key] for key in ("data", "rule")})

    def _data_here(self) -> dict[str, Any]:
        """Options with the data that is read already, for trainings in this process."""
        return {"dataset": self.splits, "data_options": None, "labels": None, "labels_per_class": None}

    def _guide_here(self) -> dict[str, Any]:
        """Options with the teacher or the sources that are resolved already."""
        if self._teacher is not None:
            plain = dict.fromkeys(("teacher_checkpoint", "teacher_options", "teacher_classes"))
            return {"teacher": self._teacher, "teacher_pretrained": False, **plain}
        return {} if self._ranking is None else {"sources": self._ranking}

    def _plan(self, rungs: tuple[Rung, ...], epochs: int) -> Plan:
        """The plan, when teachers and distillers are known by name."""
        options = self.options
        check_supervision(options, "teacher", *keywords(ChoiceOptions), *keywords(TrainedTeacherOptions))
        teachers, names = self._teachers()
        distillers, self.terms, texts = distillers_of(options)
        return Plan(
            options=options,
            path=Path(os.fspath(options.out or "")),
            rungs=rungs,
            full_epochs=epochs,
            teachers=teachers,
            teacher_names=names,
            distillers=distillers if options.sources is None else [None],
            distiller_names=texts if options.sources is None else ["sources"],
            data={},
        )

    def _teachers(self) -> tuple[list[Any], list[str]]:
        """The teachers, and their names."""
        options = self.options
        if options.sources is not None:
            self.teacher_configs: list[object] = []
            return [None], ["sources"]
        if self._teacher is not None:
            self.teacher_configs = [self._teacher.config()]
            return [options.teacher], [short_name(self._teacher.name)]
        teachers = teachers_of(options)
        is_default = not changed(options, "teacher")
        if not teachers and (options.teacher is None or (is_default and not os.path.exists(str(options.teacher)))):
            missing = f" The default, {options.teacher}, does not exist." if options.teacher else ""
            raise ValueError(f"No teacher: pass `teacher=`, `teachers=` or `sources=`.{missing}")
        teachers = teachers or [options.teacher]
        networks = [named_teacher(self.splits, teacher, options) for teacher in teachers]
        self.teacher_configs = [network.config() for network in networks]
        check_distinct(self.teacher_configs)
        check_trained_teachers(networks, options)
        names = [
            os.fspath(teacher) if isinstance(teacher, str | os.PathLike) else short_name(network.name)
            for teacher, network in zip(teachers, networks, strict=True)
        ]
        return teachers, names

    def _own_config(self, chooser: Chooser) -> dict[str, Any]:
        """Everything that the choice of finalists depends on, as JSON values."""
        options, plan = self.options, self.plan
        return as_json(
            {
                "study": self.study.config,
                "teachers": self.teacher_configs,
                "distillers": [{term.name: term.config() for term in terms} for terms in self.terms],
                "finalists": options.finalists,
                "other_scores": list(chooser.others),
                "baselines": [network.config() for _, network in chooser.baselines],
                "rungs": [{"share": rung.share, "keep": rung.keep} for rung in plan.rungs],
                "seed": options.seed,
            }
        )

    def _entries(self, chooser: Chooser) -> list[Entry]:
        """The finalists: those of an earlier run, or chosen now and tried."""
        given = several(self.options.baselines)
        stored = self._stored()
        if stored is not None:
            return chooser.entries(stored, given)
        entries = self._tried(chooser.entries(chooser.finalists(), given))
        self.notices += [*chooser.notices, *self._idle_rungs(entries)]
        return entries

    def _idle_rungs(self, entries: Sequence[Entry]) -> Iterator[str]:
        finalists = [entry.finalist for entry in entries if entry.finalist.reason is None]
        candidates = sum(one.is_within_budget and not one.is_named for one in finalists)
        plan = self.plan
        return idle_rungs(plan.rungs, plan.full_epochs, candidates, chooses=len(plan.distillers) > 1)

    def _stored(self) -> list[Finalist] | None:
        """The finalists that an earlier run of this shortlist chose; None if there was none."""
        path = self.plan.path
        if not ShortlistFolder.has_begun(path):
            return None
        folder = ShortlistFolder.peek(path)
        if folder.finalists is None:
            return None
        store = path / ShortlistFolder.LAYOUT.store
        self.notices = list(folder.recall("notices") or ())
        return [decode_stored(Finalist, one, store, "start anew in another folder") for one in folder.finalists]

    def _tried(self, entries: list[Entry]) -> list[Entry]:
        """The finalists after a dry run of each under the first teacher and distiller; one that fails is out.

        The smallest within the budget is tried under all others as well, which have to be able to teach at all.

        Raises:
            ValueError: All of them within the budget fail, mostly with this error; or the smallest fails under another
                teacher or distiller.
        """
        tried: list[Entry] = []
        errors: list[Exception] = []
        failed: dict[str, str] = {}
        caught: dict[str, warnings.WarningMessage] = {}
        with CellProgress("checking", "finalists", len(entries), enabled=self.options.shows_progress) as bar:
            for entry in entries:
                with warnings.catch_warnings(record=True) as of_entry:
                    warnings.simplefilter("always", UserWarning)
                    error = _dry_run_error(self.plan.distilled(entry, self.plan.last))
                name = entry.network(self.splits).name
                for warning in of_entry:  # the same of each student is told of the first
                    caught.setdefault(str(warning.message).replace(name, ""), warning)
                if error is not None:
                    errors.append(error)
                    reason = reason_of(error)
                    if entry.finalist.is_named:
                        failed[entry.finalist.name] = reason
                    entry = replace(entry, finalist=replace(entry.finalist, reason=reason))
                tried.append(entry)
                bar.advance(replayed=False)
        alive = [entry for entry in tried if entry.finalist.reason is None]
        if not any(entry.finalist.is_within_budget for entry in alive):
            raise errors[0]
        smallest = smallest_of(alive)
        for part in self._other_parts(smallest):
            if (error := _dry_run_error(part)) is not None:
                raise ValueError(
                    f"Under {part.trial.teacher} with {part.trial.distiller}: {as_typed(error)}"
                ) from error
        for name, reason in failed.items():
            if (text := baseline_warning(name, reason)) not in self._told:
                warnings.warn(text, stacklevel=2)
        for warning in caught.values():  # each once, not once for each finalist
            if str(warning.message) not in self._told:
                warnings.warn(warning.message, warning.category, stacklevel=2)
        return tried

    def _other_parts(self, smallest: Entry) -> list[Part]:
        """Trainings of the smallest finalist under each other teacher, and with each other distiller."""
        plan = self.plan
        teachers = [plan.distilled(smallest, plan.last, teacher=place) for place in range(1, len(plan.teachers))]
        places = range(1, len(plan.distillers))
        return teachers + [plan.distilled(smallest, plan.last, distiller=place) for place in places]

    def _training_config(self) -> dict[str, Any]:
        """The configuration of the full trainings, apart from their students, seeds, teachers and distillers."""
        entry = next(entry for entry in self.entries if entry.finalist.reason is None)
        job = job_of(self.plan.distilled(entry, self.plan.last).cell, out=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            job.check_once()
        apart = ("student", "seed", "teacher", "distillers", "ce_weight")
        config: dict[str, Any] = as_json(job.training.config)
        return {key: value for key, value in config.items() if key not in apart} | {"ce_weight": self.options.ce_weight}

    def descriptions(self) -> Sequence[DataDescription]:
        return (describe_splits(self.splits),)

    # -- the work -------------------------------------------------------------------------------

    def open(self) -> ShortlistFolder:
        self.folder = ShortlistFolder(self.config, self.plan.path)
        with self.folder.released_on_failure():
            self.folder.choose([encode(entry.finalist) for entry in self.entries])
            self.folder.remember("notices", self.notices)
        return self.folder

    def run(self) -> Shortlist:
        folder = self.folder
        try:
            if self._is_done(folder):
                return read_shortlist(self.plan.path)
            # A training in this process takes signals itself, so that its step at hand is finished and stored.
            is_isolated = self.executor.is_isolated
            with self.interruption.postponed() if is_isolated else contextlib.nullcontext():
                folder.start()
                self.show(*introduce_finalists([entry.finalist for entry in self.entries], self.notices))
                try:
                    result = self._run_stages()
                except KeyboardInterrupt:
                    folder.end(INTERRUPTED)
                    raise
            self._write(result)
        finally:
            folder.release()
        return result

    @property
    def _request(self) -> dict[str, object]:
        """The options that a finished shortlist is extended by."""
        return {"verdict_seeds": self.options.verdict_seeds, "compare": self.options.compare}

    def _is_done(self, folder: ShortlistFolder) -> bool:
        """Whether a folder has the result that is asked for, with all of its files."""
        return folder.result is not None and folder.recall("request") == self._request and not folder.missing_files()

    def _run_stages(self) -> Shortlist:
        options, splits, folder = self.options, self.splits, self.folder
        trainings = Trainings(
            folder,
            self.executor,
            self.interruption,
            progress=options.shows_progress,
            show_workers=options.show_workers,
            timeout_s=options.candidate_timeout_s,
        )
        stages = Stages(self.plan, self.entries, trainings, folder, len(splits.val))
        with trainings.started():
            pick = stages.run()
            verdict = stages.prove(pick)
        trainings.time_students(stages.tested)
        finalists = tuple(stages.finalist(entry, pick) for entry in self.entries)
        return Shortlist(
            path=os.fspath(self.plan.path),
            study=None if self.study.path is None else os.fspath(self.study.path),
            space=self.study.space.name,
            proxy=str(self.study.config.get("proxy")),
            data=splits.name,
            measure=options.best_by,
            val_images=len(splits.val),
            test_images=len(splits.test),
            finalists=finalists,
            rungs=tuple(stages.rungs),
            teachers=stages.teachers,
            distillers=stages.distillers,
            verdict=verdict,
            cost=stages.cost(),
            regret=regret_of(finalists),
            notices=tuple(self.notices),
        )

    def trained(self, result: Shortlist, kind: str) -> Training | None:
        """The full training of the pick with the first seed that was tested; None without one of this kind."""
        pick = result.pick
        tested = [trial for trial in pick.trials if trial.kind == kind and trial.test_accuracy is not None]
        if not tested:
            return None
        path = self.plan.path / tested[0].name
        network = self.entries[pick.place - 1].network(self.splits)
        model = None if network.timm or network.space else network.build(tested[0].seed)
        rows = read_rows(TrainingFolder.peek(path))
        return Training(read_result(path), rows, path, load_student(path / FOLDER, model=model))

    def _write(self, result: Shortlist) -> None:
        folder, pick = self.folder, result.pick
        assert folder.path is not None
        (first, *_) = [trial for trial in pick.trials if trial.rung == len(result.rungs)]
        with folder.errors():
            for name in (WEIGHTS, CARD):
                target = folder.path / FOLDER / name
                target.parent.mkdir(exist_ok=True)
                folder.write(f"{FOLDER}/{name}", (folder.path / first.name / FOLDER / name).read_bytes())
        tables = {"finalists.csv": finalists_csv(result)}
        if result.teachers or result.distillers:
            tables["contenders.csv"] = contenders_csv(result)
        for name, table in tables.items():
            folder.write(name, table)
        folder.write("report.md", "\n".join(shortlist_report(result)) + "\n")
        pictures = plot_shortlist(result)
        for name, picture in pictures.items():
            folder.write(name, picture)
        folder.write_json(RESULT, {**result.to_json(), "versions": versions()})
        if self.study.path is not None:
            self._record(result)
        files = [*pictures, *tables, "report.md", RESULT, f"{FOLDER}/{WEIGHTS}", f"{FOLDER}/{CARD}"]
        folder.finish(result.to_json(), files, request=self._request)

    def _record(self, result: Shortlist) -> None:
        """Store the finalists in the study; a study that cannot be written does not undo the proof."""
        assert self.study.path is not None
        try:
            pictures = draw_finalists(self.study, result.finalists, result.path)
            self.study.record_finalists(result.finalists, result.path, pictures)
        except RunFolderError as error:
            warnings.warn(f"The finalists are not recorded in the study: {error}", stacklevel=2)

    def report(self, result: Shortlist) -> Iterable[object]:
        return (*format_shortlist(result), *describe_shortlist(result))


def _dry_run_error(part: Part) -> Exception | None:
    """The error of the check of a training, in no folder; None if it can be trained."""
    return dry_run_error(job_of(part.cell, out=None), part.cell.name)


def _as_study(study: Study | str | os.PathLike[str]) -> Study:
    """The study, or that of the run folder of a search or of a pipeline."""
    if isinstance(study, Study):
        return study
    of_pipeline = Path(study) / SEARCH
    return Study.load(of_pipeline if Study.exists(of_pipeline) and not Study.exists(study) else study)
