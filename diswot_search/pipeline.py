"""From a data set to a distilled student: train a teacher, search its student, distil it, train it alone to compare."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from torch import nn

from search_spaces import Architecture, SearchSpace

from .budget import Budget
from .data import Probe
from .distillation import Recipe, Training
from .distillation.base import Specification, parse_distillers
from .distillation.checkpoint import TrainingFolder, read_training
from .distillation.training import TrainingRun, check_division
from .distillation.training_report import compare_trainings
from .evaluation import Evaluator
from .networks import Network, NetworkLike, network_for
from .proxies import Proxy, ProxyFunction, RankAggregate
from .report import describe_study, format_table
from .run_folder import RunFolder, StudyError, as_json, differences, versions
from .search import Search, as_space, check_whole, weight_seeds
from .seeding import stable_seed
from .splits import Splits, as_splits
from .student_files import DISTILLED
from .study import Study
from .teacher import Teacher

TEACHER, SEARCH, ALONE = "teacher", "search", "alone"
"""The stages beside DISTILLED, and the folders of the run folder that they live in."""

SEARCH_TEACHERS = ("random", "trained")
_TRIED = 20


@dataclass(frozen=True)
class PipelineResult:
    """A finished pipeline.

    Attributes:
        path: The run folder.
        study: The search, whose winner is the student.
        distilled: The student, trained under the teacher.
        alone: The same student, trained alone; None where no comparison was asked for.
        teacher: The training of the teacher; None where it was given trained.
        difference: Points of test accuracy that the distilled student has more than the one alone.
    """

    path: Path
    study: Study
    distilled: Training
    alone: Training | None
    teacher: Training | None

    @property
    def student(self) -> nn.Module:
        """The distilled student, on the CPU, in evaluation mode."""
        return self.distilled.student

    @property
    def difference(self) -> float | None:
        return None if self.alone is None else self.distilled.accuracy - self.alone.accuracy

    def compared(self) -> dict[str, dict[str, Any]]:
        """The results to hold against each other, by what they are called in a table."""
        alone = {} if self.alone is None else {"student alone": self.alone.result}
        return {**alone, "distilled": self.distilled.result}


def run(
    dataset: str | Splits = "digits",
    *,
    out: str | os.PathLike[str],
    teacher: NetworkLike = "cifar_resnet56",
    space: SearchSpace | str = "nasbench201",
    distiller: Specification = "kd",
    budget: Budget | None = None,
    proxy: str | Proxy | RankAggregate | ProxyFunction = "diswot",
    algorithm: str = "evolution",
    algorithm_options: Mapping[str, Any] | None = None,
    evaluations: int | None = None,
    probe_size: int = 64,
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
    announce: Callable[[str, Training | Study], None] | None = None,
) -> PipelineResult:
    """From a data set to a distilled student.

    A teacher is trained, unless it is given trained; a student is searched for it within a budget; the winner is
    distilled, and trained alone in the same way, to compare. Each stage has a folder of its own in `out`: stopped at
    any moment, the same call continues, skips what is done, and ends as if it had never stopped.

    Args:
        dataset: The data: a name that `create_splits` knows, or the splits.
        out: The run folder.
        teacher: Whom to learn from: whatever `as_network` takes. One whose weights are not trained is trained first.
        space: Where to search; a name makes the space for the classes and images of the data.
        distiller: What is learnt from the teacher, as for `distill`.
        budget: Limits that the student keeps.
        proxy, algorithm, algorithm_options, evaluations, draws: Of the search, as for `search`.
        probe_size: Training images that candidates are scored on.
        search_teacher: Whether the search compares candidates with the teacher's architecture with "random" weights,
            as DisWOT does, or with the "trained" teacher.
        ce_weight: Factor of the cross entropy beside the distillers; by default their customary one.
        recipe, epochs, batch_size, lr, recipe_options: How the student is trained, as for `distill`; the teacher, too.
        teacher_epochs: Epochs of the teacher, if not those of the student.
        teacher_recipe_options: Fields of `Recipe` that are others for the teacher, batch_size and lr among them.
        compare: Train the student alone as well.
        space_options: Options of the space, if it is given by name.
        teacher_options: Options of the teacher, as `as_network` takes them.
        data_options: Options of `create_splits`.
        teacher_data_options: Those that are others where the teacher is trained: with `{"train_limit": None}` it sees
            all images of which the student sees a part. Validation and test images should stay the same.
        rule, seed, device, checkpoint_minutes, progress: As for `distill`.
        announce: Is told of each stage when it is done: its name and what it gave.

    Raises:
        ValueError: The input of any stage is wrong; found out before the first begins and anything is written.
        BudgetError: No architecture of the space is within the budget; likewise.
        StudyError: The run folder cannot be used, or holds a pipeline of another configuration.
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
        StudyError: The folder cannot be used, or holds a pipeline of another configuration.
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
                raise StudyError(
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
        dataset, out, teacher, space, distiller, budget, proxy, algorithm, algorithm_options, evaluations: As for `run`.
        probe_size, draws, search_teacher, ce_weight, recipe, epochs, batch_size, lr, recipe_options: As for `run`.
        teacher_epochs, teacher_recipe_options, compare, space_options, teacher_options, data_options: As for `run`.
        teacher_data_options, rule, seed, device, checkpoint_minutes, progress: As for `run`.
        config: All that the result depends on, as JSON values.

    Raises:
        ValueError, BudgetError: As for `run`.
    """

    dataset: str | Splits
    out: str | os.PathLike[str]
    teacher: NetworkLike
    space: SearchSpace | str
    distiller: Specification
    budget: Budget | None
    proxy: str | Proxy | RankAggregate | ProxyFunction
    algorithm: str
    algorithm_options: Mapping[str, Any] | None
    evaluations: int | None
    probe_size: int
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
        check_whole("probe_size", self.probe_size, least=2)
        self._terms = parse_distillers(self.distiller)
        self._splits = as_splits(self.dataset, self.data_options)
        self._teacher = network_for(self._splits, self.teacher, "teacher", self.teacher_options)
        self._check_teacher_options()
        self._space = as_space(self.space, self._probe(self._teacher), **(self.space_options or {}))
        self.config = self._check()

    # -- before anything is written -------------------------------------------------------------

    def _check_teacher_options(self) -> None:
        """Refuse what says how to train a teacher that is trained."""
        names = ("teacher_epochs", "teacher_recipe_options", "teacher_data_options")
        given = [name for name in names if getattr(self, name) not in (None, {})]
        if self._teacher.trained and given:
            raise ValueError(f"The teacher {self._teacher.name} is trained already; {', '.join(given)} cannot be set.")

    def _check(self) -> dict[str, Any]:
        """Make every stage as far as it can be made without those before it; returns the configuration."""
        search = self._make_search(self._random_teacher(), None)
        stand_in = self._make_training(_stand_in(search), self._teacher, None)
        if stand_in.accelerator.num_processes > 1:
            raise ValueError("A pipeline runs in one process; `diswot distill` trains its student in several.")
        of_student = {key: value for key, value in stand_in.config.items() if key != "student"}
        of_teacher = None
        if not self._teacher.trained:
            training = self._make_teacher_training(None)
            check_division(f"The teacher {self._teacher.name}", training.splits.config(), self._splits)
            of_teacher = training.config
        return {
            "search": search.study.config,
            "search_teacher": self.search_teacher,
            "distillation": of_student,
            "teacher": of_teacher,
        }

    def _random_teacher(self) -> Teacher:
        """The teacher's architecture with random weights."""
        teacher = self._teacher
        if not teacher.trained:
            return teacher
        if teacher.timm is None and teacher.space is None:
            if self.search_teacher == "random":
                raise ValueError(
                    f"The teacher {teacher.name} is a module, which cannot be built with random weights; give "
                    "search_teacher='trained'."
                )
            return teacher
        card = teacher.card(self._splits.input_size, self._splits.mean, self._splits.std)
        return Teacher(card.name, card.build, trained=False, settings={"timm": teacher.timm, "space": teacher.space})

    # -- the stages -----------------------------------------------------------------------------

    def _make_teacher_training(self, out: Path | None) -> TrainingRun:
        splits = self._splits
        if self.teacher_data_options:
            splits = as_splits(self.dataset, {**(self.data_options or {}), **self.teacher_data_options})
        changes = {"epochs": self.teacher_epochs} if self.teacher_epochs is not None else {}
        changes = {**(self.teacher_recipe_options or {}), **changes}
        return self._make_training(self._teacher, None, out, splits=splits, changes=changes)

    def _make_training(
        self,
        student: NetworkLike,
        teacher: Network | None,
        out: Path | None,
        *,
        splits: Splits | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        shorthand = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}
        given = {name: value for name, value in shorthand.items() if value is not None}
        return TrainingRun(
            student=student,
            teacher=teacher,
            dataset=splits or self._splits,
            terms=self._terms if teacher is not None else (),
            ce_weight=self.ce_weight if teacher is not None else None,
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

    def _make_search(self, teacher: Teacher, out: Path | None) -> Search:
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

    def _probe(self, teacher: Teacher) -> Probe:
        """Training images as the teacher was trained to see them, of each class as many as of others."""
        splits, size = self._splits, self.probe_size
        if size > len(splits.train):
            raise ValueError(f"probe_size is {size}, but there are only {len(splits.train)} training images.")
        mean, std = (getattr(teacher, name, None) or getattr(splits, name) for name in ("mean", "std"))
        order = _balanced_order(splits.train.labels, self.seed)[:size]
        batch = next(iter(splits.train.batches(order, size, device=torch.device("cpu"), augment=None, seed=0)))
        images = (batch.images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        return Probe.from_tensors(images, batch.labels, splits.num_classes, splits.name)

    def run(
        self,
        *,
        announce: Callable[[str, Training | Study], None] | None = None,
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
            trained, teacher = None, self._teacher
            if not teacher.trained:
                trained = self._make_teacher_training(path / TEACHER).run()
                teacher = network_for(self._splits, path / TEACHER, "teacher")
                tell(TEACHER, trained)
            study = self._search(teacher)
            tell(SEARCH, study)
            student = study.winner.architecture
            distilled = self._make_training(student, teacher, path / DISTILLED).run()
            tell(DISTILLED, distilled)
            alone = None
            if self.compare:
                alone = self._make_training(student, None, path / ALONE).run()
                tell(ALONE, alone)
            result = PipelineResult(path, study, distilled, alone, trained)
            folder.write("report.md", "\n".join(_report(result)) + "\n")
            folder.write_json("result.json", _summary(result))
        finally:
            folder.release()
        return result

    def _search(self, teacher: Network) -> Study:
        out = Path(self.out) / SEARCH
        if Study.exists(out):
            done = Study.load(out, space=self._space)
            if done.status == "complete":
                return done
        return self._make_search(teacher if self.search_teacher == "trained" else self._random_teacher(), out).run()


def read_trainings(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What is known of the student's trainings in the run folder of a pipeline, as `PipelineResult.compared` has it."""
    folders = {"student alone": Path(path) / ALONE, "distilled": Path(path) / DISTILLED}
    return {name: read_training(folder) for name, folder in folders.items() if TrainingFolder.exists(folder)}


def _balanced_order(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """All places, one of each class after the other, in random order otherwise."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stable_seed(seed, "probe")))
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        places = shuffled[labels[shuffled] == label]
        turn[places] = torch.arange(len(places))
    return shuffled[turn[shuffled].argsort(stable=True)]


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
        "test_accuracy": {name: training and training.accuracy for name, training in trainings.items()},
        "difference": result.difference,
        "results": {name: training and f"{name}/result.json" for name, training in trainings.items()}
        | {SEARCH: f"{SEARCH}/result.json"},
        "versions": versions(),
    }


def _report(result: PipelineResult) -> Iterator[str]:
    facts = result.distilled.result
    yield f"# {facts['student']['name']} under {facts['teacher']['name']} on {facts['data']}"
    yield ""
    if result.teacher is not None:
        yield f"The teacher was trained first: {result.teacher.accuracy:.2f} % of the test images."
        yield ""
    yield "## Search"
    yield ""
    yield from _as_code(format_table(result.study))
    yield from (f"- {line}" for line in describe_study(result.study))
    yield ""
    yield "## Training"
    yield ""
    yield from _as_code(compare_trainings(result.compared()))


def _as_code(table: RenderableType) -> Iterator[str]:
    """A table as it looks in a terminal: names of architectures have signs that a table in Markdown cannot hold."""
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    yield from ("```text", *(line.rstrip() for line in console.file.getvalue().splitlines()), "```", "")
