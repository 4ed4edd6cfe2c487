"""From a data set to a distilled student, and the same student trained alone to compare.

Whom it learns from is a teacher, which is trained first, or sources, models of other tasks, which are ranked first.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.space import Architecture, SearchSpace

from ..checks import check_whole
from ..data.labelled import Labels
from ..data.probe import Probe
from ..data.splits import Splits, check_division
from ..distillation.combination import Specification, Term, parse_distillers
from ..networks.network import Network, Teacher, TeacherBank
from ..networks.saved import DISTILLED
from ..options.search import DEFAULT_PROXY
from ..options.sources import RankSourcesOptions
from ..proxies.aggregate import RankAggregate, elementary_proxies
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy
from ..reports.pipeline import pipeline_report
from ..resolve.data import as_splits
from ..resolve.networks import NetworkLike, network_for
from ..resolve.runs import NEAR_ZERO_WEIGHT, PipelineResult, StageResult
from ..resolve.searches import as_space
from ..runtime.run_folder import RunFolder, RunFolderError, as_json, differences, versions
from ..sources.frozen import source_teacher
from ..sources.ranking import POWER, SourceRanking
from ..sources.source import SourceModel
from ..sources.transferability import source_weights
from ..study.budget import Budget
from ..study.evaluator import Evaluator, uses_teacher
from ..study.study import Study
from ..training.folder import TrainingFolder, read_training
from ..training.recipe import Recipe
from ..training.result import Training
from .rank_sources import RankingRun, load_ranking
from .search import Search, weight_seeds
from .supervision import Bank, SourceObjective, Weighting
from .train import TrainingRun, refuse_beside_sources

TEACHER, SOURCES, SEARCH, ALONE = "teacher", "sources", "search", "alone"
"""The stages beside DISTILLED, and the folders of the run folder that they live in."""


SEARCH_TEACHERS = ("random", "trained")


_USUAL_TEACHER = "cifar_resnet56"


_PROBE_SIZE = 64


_TRIED = 20


def run(
    dataset: str | Splits = "digits",
    *,
    out: str | os.PathLike[str],
    teacher: NetworkLike | None = None,
    sources: Bank | None = None,
    weighting: Weighting = "weighted",
    measure: str | None = None,
    power: float = POWER,
    lam: float = 0.8,
    source_view: str = "fixed",
    labels: Labels | None = None,
    labels_per_class: int | None = None,
    unlabelled_batch_size: int | None = None,
    space: SearchSpace | str = "nasbench201",
    distiller: Specification | None = None,
    budget: Budget | None = None,
    proxy: str | Proxy | RankAggregate | ProxyFunction = DEFAULT_PROXY,
    algorithm: str = "evolution",
    algorithm_options: Mapping[str, Any] | None = None,
    evaluations: int | None = None,
    probe_size: int | None = None,
    draws: int = 1,
    search_teacher: str = "random",
    ce_weight: float | None = None,
    recipe: str | Recipe = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    teacher_epochs: int | None = None,
    teacher_recipe_options: Mapping[str, Any] | None = None,
    compare: bool = True,
    space_options: Mapping[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    teacher_data_options: Mapping[str, Any] | None = None,
    rule: str = "best",
    seed: int = 0,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
    announce: Callable[[str, StageResult], None] | None = None,
) -> PipelineResult:
    """From a data set to a distilled student.

    A teacher is trained, unless it is given trained, or sources, models of other tasks, are ranked by how near they
    are to the data; a student is searched for them within a budget; the winner is distilled, and trained alone in the
    same way, to compare. Each stage has a folder of its own in `out`: stopped at any moment, the same call continues,
    skips what is done, and ends as if it had never stopped.

    The default proxy looks at the student alone, whomever it will learn from. One that compares with the teacher, as
    `diswot` does, is given it as `search_teacher` says.

    With sources one set of weights, from their ranking, serves twice: the student learns from each by its weight, and
    where the proxy compares with a teacher, a candidate's score is the weighted mean of those against each source. What
    the search sees of a source is its body, which reads images as it was trained to, under a new classifier for the
    classes of the data with random weights, the same in all draws. So `diswot`, `relation`, `channel_relation` and all
    else that looks at features depends on what the source has learnt, while what looks at class maps, predictions or
    the classifier, as `semantic_paper` and `kd` do, compares with a random classifier.

    Where no source is near the data, all similarities being 0 or less, the pipeline warns and goes on: a proxy that
    compares with sources is given all alike, and the student is trained on its labels alone, once.

    Args:
        dataset: The data: a name that `create_splits` knows, or the splits.
        out: The run folder.
        teacher: Whom to learn from: whatever `as_network` takes; without sources "cifar_resnet56". One whose weights
            are not trained is trained first.
        sources: Models of other tasks to learn from in place of a teacher, as for `distill`. They are ranked as
            `rank_sources` does by default; of a ranking, or its run folder, that is done.
        weighting, measure, power, lam, source_view, unlabelled_batch_size: Of learning from sources, as for `distill`.
        labels: Which training images have labels, as for `distill`. The ranking, the search and all trainings, that of
            a teacher included, look at no other labels; for the teacher, teacher_data_options may say otherwise.
        labels_per_class: How many of each class have labels; likewise.
        space: Where to search; a name makes the space for the classes and images of the data.
        distiller: What is learnt from the teacher, as for `distill`.
        budget: Limits that the student keeps.
        proxy, algorithm, algorithm_options, evaluations, draws: Of the search, as for `search`.
        probe_size: Training images with labels that candidates are scored on; by default 64, or all if they are fewer.
        search_teacher: Whether a proxy that compares with the teacher is given its architecture with "random" weights,
            as DisWOT does, or the "trained" teacher. Sources are compared with as they are.
        ce_weight: Factor of the cross entropy beside the distillers; by default their customary one.
        recipe, epochs, batch_size, lr, recipe_options: How the student is trained, as for `distill`; the teacher, too.
        teacher_epochs: Epochs of the teacher, if not those of the student.
        teacher_recipe_options: Fields of `Recipe` that are others for the teacher, batch_size and lr among them.
        compare: Train the student alone as well.
        space_options: Options of the space, if it is given by name.
        teacher_options: Options of the teacher, as `as_network` takes them.
        data_options: Options of `create_splits`.
        teacher_data_options: Those that are others where the teacher is trained: with `{"train_limit": None}` it sees
            all images of which the student sees a part, with `{"labels": None}` all labels. Validation and test images
            should stay the same.
        rule, seed, device, checkpoint_minutes, progress: As for `distill`.
        announce: Is told of each stage when it is done: its name and what it gave.

    Raises:
        ValueError: The input of any stage is wrong, or what is of a teacher is given beside sources; found out before
            the first stage begins and anything is written.
        BudgetError: No architecture of the space is within the budget; likewise.
        RunFolderError: The run folder cannot be used, or holds a pipeline of another configuration.
        DivergenceError: The loss of a training is no number any more.
    """
    options = dict(locals())
    given = options.pop("announce")
    return Pipeline(**options).run(announce=given)


class PipelineFolder(RunFolder):
    """The run folder of a pipeline, with a folder for each stage in it.

    Args:
        config: All that the result depends on, as JSON values.
        out: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or holds a pipeline of another configuration.
    """

    STORE = "pipeline.sqlite"
    VERSION = 1
    SCHEMA = ("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",)

    path: Path

    def __init__(self, config: Mapping[str, Any], out: Path) -> None:
        self.config: dict[str, Any] = as_json(dict(config))
        self.path = out
        self._open_folder(out)

    def _begin(self) -> None:
        if self._is_empty():
            self._create()
        else:
            stored = json.loads(self._read("SELECT value FROM meta WHERE key = 'config'")[0][0])
            if lines := differences(stored, self.config):
                raise RunFolderError(
                    f"{self.path} holds a pipeline of another configuration: {'; '.join(lines)}. "
                    "Choose another run folder."
                )
        self.write_json("config.json", self.config)

    def _fill(self) -> None:
        self._store.execute("INSERT INTO meta VALUES ('config', ?)", (json.dumps(self.config),))


@dataclass(kw_only=True, eq=False)
class Pipeline:
    """A pipeline whose input is checked, that of every stage, ready to run.

    Attributes:
        dataset, out, teacher, sources, weighting, measure, power, lam, source_view, labels: As for `run`.
        labels_per_class, unlabelled_batch_size, space, distiller, budget, proxy, algorithm, algorithm_options: As for
            `run`.
        evaluations, probe_size, draws, search_teacher, ce_weight, recipe, epochs, batch_size, lr: As for `run`.
        recipe_options, teacher_epochs, teacher_recipe_options, compare, space_options, teacher_options: As for `run`.
        data_options, teacher_data_options, rule, seed, device, checkpoint_minutes, progress: As for `run`.
        config: All that the result depends on, as JSON values.

    Raises:
        ValueError, BudgetError: As for `run`.
    """

    dataset: str | Splits
    out: str | os.PathLike[str]
    teacher: NetworkLike | None
    sources: Bank | None
    weighting: Weighting
    measure: str | None
    power: float
    lam: float
    source_view: str
    labels: Labels | None
    labels_per_class: int | None
    unlabelled_batch_size: int | None
    space: SearchSpace | str
    distiller: Specification | None
    budget: Budget | None
    proxy: str | Proxy | RankAggregate | ProxyFunction
    algorithm: str
    algorithm_options: Mapping[str, Any] | None
    evaluations: int | None
    probe_size: int | None
    draws: int
    search_teacher: str
    ce_weight: float | None
    recipe: str | Recipe
    epochs: int | None
    batch_size: int | None
    lr: float | None
    recipe_options: Mapping[str, Any] | None
    teacher_epochs: int | None
    teacher_recipe_options: Mapping[str, Any] | None
    compare: bool
    space_options: Mapping[str, Any] | None
    teacher_options: Mapping[str, Any] | None
    data_options: Mapping[str, Any] | None
    teacher_data_options: Mapping[str, Any] | None
    rule: str
    seed: int
    device: str
    checkpoint_minutes: float
    progress: bool

    def __post_init__(self) -> None:
        if self.search_teacher not in SEARCH_TEACHERS:
            raise ValueError(f"search_teacher is {self.search_teacher!r}; it must be 'random' or 'trained'.")
        if self.probe_size is not None:
            check_whole("probe_size", self.probe_size, least=2)
        self._splits = as_splits(self.dataset, self.data_options, **self._labels)
        self._teacher: Network | None = None
        self._ranking: SourceRanking | RankingRun | None = None
        self._terms: tuple[Term, ...] = ()
        if self.sources is None:
            self._terms = parse_distillers("kd" if self.distiller is None else self.distiller)
            teacher = _USUAL_TEACHER if self.teacher is None else self.teacher
            self._teacher = network_for(self._splits, teacher, "teacher", self.teacher_options)
            self._check_teacher_options(self._teacher)
        else:
            self._check_alone()
            self._ranking = self._as_ranking(self.sources)
        self._space = as_space(self.space, self._probe(self._teacher), **(self.space_options or {}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what a stage warns of is said when it runs
            self.config = self._check()

    @property
    def _labels(self) -> dict[str, Any]:
        return {"labels": self.labels, "labels_per_class": self.labels_per_class}

    # -- before anything is written -------------------------------------------------------------

    def _check_teacher_options(self, teacher: Network) -> None:
        """Refuse what says how to train a teacher that is trained."""
        names = ("teacher_epochs", "teacher_recipe_options", "teacher_data_options")
        if teacher.trained and (given := self._given(*names)):
            raise ValueError(f"The teacher {teacher.name} is trained already; {', '.join(given)} cannot be set.")

    def _check_alone(self) -> None:
        """Refuse what is said of a teacher beside sources."""
        of_teacher = ("teacher", "teacher_options", "teacher_epochs", "teacher_recipe_options", "teacher_data_options")
        given = self._given(*of_teacher, "distiller", "ce_weight")
        refuse_beside_sources(given + (["search_teacher"] if self.search_teacher == "trained" else []))

    def _given(self, *names: str) -> list[str]:
        values = ((name, getattr(self, name)) for name in names)
        return [name for name, value in values if value is not None and value != {}]

    def _as_ranking(self, bank: Bank) -> SourceRanking | RankingRun:
        """The ranking that is given, or one to be made."""
        if isinstance(bank, str | os.PathLike):
            bank = load_ranking(bank)
        if isinstance(bank, SourceRanking):
            bank.check_target(self._splits.name, self._splits.num_classes)
            return bank
        ranking = RankingRun(
            RankSourcesOptions(
                bank,
                self._splits,
                measures=self.measure or "parc",
                seed=self.seed,
                out=Path(self.out) / SOURCES,
                device=self.device,
                progress=self.progress,
            )
        )
        ranking.check()
        return ranking

    def _check(self) -> dict[str, Any]:
        """Make every stage as far as it can be made without those before it; returns the configuration."""
        guide = self._trial_guide()
        search = self._make_search(guide.of_search, None)
        stand_in = self._make_training(_stand_in(search), guide, None)
        if stand_in.accelerator.num_processes > 1:
            raise ValueError("A pipeline runs in one process; `diswot distill` trains its student in several.")
        of_student = {key: value for key, value in stand_in.config.items() if key != "student"}
        of_search = search.study.config
        if self._ranking is not None:
            asked = self._lesson(self._ranking).config()
            of_student["unlabelled"] = asked | {"unlabelled_batch_size": stand_in.unlabelled_batch_size}
            of_search = {key: value for key, value in of_search.items() if key != "teacher"}
            return {"search": of_search, "distillation": of_student, "sources": self._ranking.config}
        assert self._teacher is not None
        of_teacher = None
        if not self._teacher.trained:
            training = self._make_teacher_training(self._teacher, None)
            check_division(f"The teacher {self._teacher.name}", training.splits.config(), self._splits)
            of_teacher = training.config
        return {
            "search": of_search,
            "search_teacher": self.search_teacher,
            "distillation": of_student,
            "teacher": of_teacher,
        }

    def _trial_guide(self) -> _Guide:
        """Whom the stages would learn from, as far as that is known: of sources, all that may have a weight."""
        if self._teacher is not None:
            return _Guide(self._random_teacher(self._teacher), self._teacher)
        if isinstance(self._ranking, SourceRanking):
            return self._guide_of(self._ranking)
        assert self._ranking is not None
        sources = self._ranking.sources
        by_hand = self.weighting if isinstance(self.weighting, Mapping) else "uniform"
        weights = source_weights({source.name: math.nan for source in sources}, by_hand)
        return _Guide(self._bank(sources, weights), lesson=self._lesson(self._ranking, weights))

    def _random_teacher(self, teacher: Network) -> Teacher:
        """The teacher's architecture with random weights."""
        if not teacher.trained:
            return teacher
        if teacher.timm is None and teacher.space is None:
            if self.search_teacher == "random" and self._compares:
                raise ValueError(
                    f"The teacher {teacher.name} is a module, which cannot be built with random weights; give "
                    "search_teacher='trained'."
                )
            return teacher
        card = teacher.card(self._splits.input_size, self._splits.mean, self._splits.std)
        return Teacher(card.name, card.build, trained=False, settings={"timm": teacher.timm, "space": teacher.space})

    # -- whom the stages learn from -------------------------------------------------------------

    def weights(self, ranking: SourceRanking) -> dict[str, float]:
        """What each source counts, by name; empty where none is near the data."""
        return ranking.weights(self.weighting, self.power, measure=self._measure)

    @property
    def _measure(self) -> str | None:
        """What weights come from, if it was said; None where they do not come from similarities, too."""
        return self.measure if self.weighting in ("weighted", "nearest") else None

    def _guide_of(self, ranking: SourceRanking) -> _Guide:
        weights = self.weights(ranking)
        known = {name: 1.0 for name, value in ranking.similarities(self._measure).items() if not math.isnan(value)}
        bank = self._bank(ranking.sources, weights or ranking.weights(known))
        return _Guide(bank, lesson=self._lesson(ranking), ranking=ranking, weights=weights)

    @property
    def _compares(self) -> bool:
        """Whether the score of a candidate may depend on whom it will learn from."""
        return any(map(uses_teacher, elementary_proxies(get_proxy(self.proxy))))

    def _bank(self, sources: tuple[SourceModel, ...], weights: Mapping[str, float]) -> TeacherBank | None:
        """The sources as candidates are compared with them; None where the proxy compares with nobody."""
        if not self._compares:
            return None
        used = [source for source in sources if weights[source.name]]
        teachers = tuple(source_teacher(source, self._splits) for source in used)
        return TeacherBank(teachers, tuple(weights[source.name] for source in used))

    def _lesson(self, ranking: SourceRanking | RankingRun, weighting: Weighting | None = None) -> SourceObjective:
        return SourceObjective(
            ranking if isinstance(ranking, SourceRanking) else ranking.sources,
            weighting=self.weighting if weighting is None else weighting,
            measure=self.measure,
            power=self.power,
            lam=self.lam,
            source_view=self.source_view,
        )

    def _find_guide(self, tell: Callable[[str, StageResult], None]) -> _Guide:
        """Train the teacher or rank the sources, unless that is done."""
        if self._ranking is not None:
            return self._rank(self._ranking, tell)
        assert self._teacher is not None
        trained, teacher = None, self._teacher
        if not teacher.trained:
            folder = Path(self.out) / TEACHER
            trained = self._make_teacher_training(teacher, folder).run()
            teacher = network_for(self._splits, folder, "teacher")
            tell(TEACHER, trained)
        of_search = teacher if self.search_teacher == "trained" else self._random_teacher(self._teacher)
        return _Guide(of_search, teacher, trained=trained)

    def _rank(self, ranking: SourceRanking | RankingRun, tell: Callable[[str, StageResult], None]) -> _Guide:
        if isinstance(ranking, RankingRun):
            ranking.open()
            ranking = ranking.run()
            tell(SOURCES, ranking)
        guide = self._guide_of(ranking)
        if not guide.weights:
            measure = self.measure or ranking.measures[0]
            warnings.warn(NEAR_ZERO_WEIGHT.format(measure=measure, data=self._splits.name), stacklevel=2)
        return guide

    # -- the stages -----------------------------------------------------------------------------

    def _make_teacher_training(self, teacher: Network, out: Path | None) -> TrainingRun:
        splits = self._splits
        if own := self.teacher_data_options:
            labels = {} if own.keys() & self._labels.keys() else self._labels
            splits = as_splits(self.dataset, {**(self.data_options or {}), **own}, **labels)
        changes = {"epochs": self.teacher_epochs} if self.teacher_epochs is not None else {}
        changes = {**(self.teacher_recipe_options or {}), **changes}
        return self._make_training(teacher, None, out, splits=splits, changes=changes)

    def _make_training(
        self,
        student: NetworkLike,
        guide: _Guide | None,
        out: Path | None,
        *,
        splits: Splits | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        shorthand = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}
        given = {name: value for name, value in shorthand.items() if value is not None}
        return TrainingRun(
            student=student,
            teacher=None if guide is None else guide.teacher,
            dataset=splits or self._splits,
            terms=() if guide is None else self._terms,
            lesson=None if guide is None else guide.lesson,
            unlabelled_batch_size=None if guide is None else self.unlabelled_batch_size,
            ce_weight=None if guide is None else self.ce_weight,
            recipe=self.recipe,
            epochs=None,
            batch_size=None,
            lr=None,
            recipe_options={**(self.recipe_options or {}), **given, **(changes or {})},
            space=self._space if isinstance(student, Architecture) else None,
            student_options=None,
            teacher_options=None,
            data_options=None,
            rule=self.rule,
            seed=self.seed,
            out=out,
            device=self.device,
            checkpoint_minutes=self.checkpoint_minutes,
            progress=self.progress,
        )

    def _make_search(self, teacher: Teacher | TeacherBank | None, out: Path | None) -> Search:
        seeds = weight_seeds(self.seed, self.draws)
        evaluator = Evaluator(self._space, teacher, [self._probe(teacher)], self.proxy, seeds=seeds, device=self.device)
        return Search(
            evaluator,
            algorithm=self.algorithm,
            algorithm_options=self.algorithm_options,
            evaluations=self.evaluations,
            budget=self.budget,
            seed=self.seed,
            out=out,
            progress=self.progress,
        )

    def _probe(self, teacher: Teacher | TeacherBank | None) -> Probe:
        """Labelled images as the teacher was trained to see them, of each class as many as of others.

        Several teachers are given them as the data is normalised, of which each makes what it is to see.
        """
        splits = self._splits
        labelled = len(splits.train) if splits.labelled is None else len(splits.labelled)
        size = min(_PROBE_SIZE, labelled) if self.probe_size is None else self.probe_size
        if size > labelled:
            have = "" if splits.labelled is None else " that have labels"
            raise ValueError(f"probe_size is {size}, but there are only {labelled} training images{have}.")
        mean, std = (getattr(teacher, name, None) for name in ("mean", "std"))
        return splits.probe(size, self.seed, mean=mean, std=std)

    def run(
        self,
        *,
        announce: Callable[[str, StageResult], None] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> PipelineResult:
        """Run all stages that are not done, and write what came of them.

        Args:
            announce: As for `run`.
            files: More to write into the run folder, text by file name.
        """
        tell = announce or (lambda stage, result: None)
        path = Path(self.out)
        folder = PipelineFolder(self.config, path)
        try:
            for name, text in (files or {}).items():
                folder.write(name, text)
            guide = self._find_guide(tell)
            study = self._search(guide)
            tell(SEARCH, study)
            student = study.winner.architecture
            distilled = self._make_training(student, guide, path / DISTILLED).run()
            tell(DISTILLED, distilled)
            alone = None
            if self.compare and not guide.is_faint:
                alone = self._make_training(student, None, path / ALONE).run()
                tell(ALONE, alone)
            result = PipelineResult(path, study, distilled, alone, guide.trained, guide.ranking, guide.weights)
            folder.write("report.md", "\n".join(pipeline_report(result)) + "\n")
            folder.write_json("result.json", _summary(result))
        finally:
            folder.release()
        return result

    def _search(self, guide: _Guide) -> Study:
        out = Path(self.out) / SEARCH
        if Study.exists(out):
            done = Study.load(out, space=self._space)
            if done.status == "complete":
                return done
        return self._make_search(guide.of_search, out).run()


@dataclass(frozen=True)
class _Guide:
    """Whom the stages learn from.

    Attributes:
        of_search: Whom candidates are compared with; None where the proxy compares with nobody.
        teacher: Whom the student learns from; None with sources.
        lesson: What it learns from sources; None without any.
        trained: The training of the teacher, where it was trained here.
        ranking: The ranking of the sources.
        weights: What each of them counts; empty where none is near the data.
    """

    of_search: Teacher | TeacherBank | None
    teacher: Network | None = None
    lesson: SourceObjective | None = None
    trained: Training | None = None
    ranking: SourceRanking | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_faint(self) -> bool:
        """Whether there are sources, but none that is near the data."""
        return self.ranking is not None and not self.weights


def read_trainings(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What is known of the student's trainings in the run folder of a pipeline, as `PipelineResult.compared` has it."""
    folders = {"student alone": Path(path) / ALONE, "distilled": Path(path) / DISTILLED}
    return {name: read_training(folder) for name, folder in folders.items() if TrainingFolder.exists(folder)}


def read_ranking(path: str | os.PathLike[str]) -> tuple[SourceRanking, dict[str, float]] | None:
    """The ranking of the sources of a pipeline and what each counts, from its run folder; None until it is finished.

    Raises:
        RunFolderError: The ranking cannot be read.
    """
    folder = Path(path)
    config = json.loads((folder / "config.json").read_text())["distillation"].get("unlabelled")
    done = folder / "result.json"
    results = json.loads(done.read_text())["results"] if done.is_file() else {}
    place = folder / (results.get(SOURCES) or f"{SOURCES}/result.json")
    if config is None or not place.is_file():
        return None
    ranking = load_ranking(place.parent)
    power = float(config.get("power", POWER))
    return ranking, ranking.weights(config["weighting"], power, measure=config.get("measure"))


def _stand_in(search: Search) -> Architecture:
    """Some architecture within the budget, to see whether such a student can be distilled: a trainable one if found."""
    space, rng = search.evaluator.space, random.Random(0)
    start = search.costs.find_start()
    sampled = (space.sample(rng) for _ in range(_TRIED))
    found = itertools.chain([] if start is None else [start], filter(_within(search), sampled))
    candidates = list(itertools.islice(found, _TRIED))
    return next(filter(space.is_trainable, candidates), candidates[0])


def _within(search: Search) -> Callable[[Architecture], bool]:
    return lambda architecture: search.budget.admits(search.costs.cost(architecture))


# -- what came of it ----------------------------------------------------------------------------


def _summary(result: PipelineResult) -> dict[str, Any]:
    winner = result.study.winner
    trainings = {TEACHER: result.teacher, DISTILLED: result.distilled, ALONE: result.alone}
    return {
        "status": "complete",
        "student": {
            "architecture": winner.record.architecture,
            "score": winner.score,
            "params": winner.params,
            "macs": winner.macs,
        },
        **({} if result.ranking is None else {SOURCES: _summary_of_sources(result, result.ranking)}),
        "test_accuracy": {name: training and training.accuracy for name, training in trainings.items()},
        "difference": result.difference,
        "results": {name: training and f"{name}/result.json" for name, training in trainings.items()}
        | ({} if result.ranking is None else {SOURCES: _place(result.path, result.ranking)})
        | {SEARCH: f"{SEARCH}/result.json"},
        "versions": versions(),
    }


def _summary_of_sources(result: PipelineResult, ranking: SourceRanking) -> dict[str, Any]:
    facts = result.distilled.result["sources"]
    shown = {key: facts[key] for key in ("weighting", "measure", "power", "lam", "view", "fallback")}
    similarities = {model["name"]: model["similarity"] for model in facts["models"]}
    return {"ranking": _place(result.path, ranking), **shown, "similarities": similarities, "weights": result.weights}


def _place(path: Path, ranking: SourceRanking) -> str | None:
    """Where the ranking's result is, seen from the run folder; None where it is in memory only."""
    if ranking.path is None:
        return None
    if ranking.path == path / SOURCES:
        return f"{SOURCES}/result.json"
    return str(ranking.path.absolute() / "result.json")
