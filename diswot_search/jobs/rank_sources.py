"""How near is each source to the target? All of them are measured on the same labelled images, one after the other."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_whole
from ..data.datasets import needs_working_folder
from ..data.description import DataDescription, describe_splits
from ..data.image_sets import ResidentSet
from ..data.splits import Splits, create_splits
from ..networks.network import Network
from ..options.base import from_options
from ..options.sources import RankSourcesOptions
from ..reports.progress import ProgressBar, worker_lines
from ..reports.sources import LABELS, describe_ranking, format_ranking, plot_ranking
from ..reports.style import to_png
from ..resolve.data import as_splits
from ..resolve.executors import as_executor, device_of
from ..resolve.sources import Sources, as_sources
from ..runtime.configuration import differences
from ..runtime.devices import device_name
from ..runtime.executors.dispatch import Dispatcher
from ..runtime.files import RunFolderError, as_json, csv_line, finite_only
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE, entries_of
from ..runtime.worker_threads import WorkerThreads, threads_of_each
from ..sources.evidence import LACKING, Evidence, TransferabilityError
from ..sources.folder import RankingFolder
from ..sources.frozen import check_images
from ..sources.measuring import BATCH_SIZE, SourceMeasurer
from ..sources.ranking import Measured, RankingError, SourceRanking
from ..sources.transferability import Measure, balanced_draws, get_measure, list_measures
from ..study.loop import Loop
from ..study.study import NoScoreError
from .job import Job

_TRIAL_WIDTH = 8
"""Features and classes of the random evidence that a measure is tried on."""


@from_options(RankSourcesOptions)
def rank_sources(options: RankSourcesOptions) -> SourceRanking:
    """
    Returns:
        The ranking.

    Raises:
        UnknownNameError: A measure, a source or the data is unknown; near names are given.
        RankingError: No source has a value of the first measure; the message says why for each.
        ValueError: A source does not take the data's images, or is given twice; an argument is out of its range.
        RunFolderError: The run folder cannot be used, or holds a ranking of another configuration.
        OutOfMemory, MachineError: The machine failed; what was stored stays, and the same call continues.
    """
    return RankingRun(options).complete()


class RankingRun(Job[RankSourcesOptions, SourceRanking]):
    """The job of `rank_sources`.

    Args:
        options, show: See `Job`.
        splits: The data of the options, if it is open already; by default `check` opens it.
    """

    FOLDER = RankingFolder

    def __init__(
        self, options: RankSourcesOptions, show: Callable[..., None] | None = None, *, splits: Splits | None = None
    ) -> None:
        super().__init__(options, show)
        self._splits = splits

    def check(self) -> None:
        options = self.options
        if options.sources is None:
            raise ValueError("Which sources? --sources '[runs/mnist, resnet18]' names trained models of other tasks.")
        check_whole("images", options.images, least=4)
        check_whole("image_draws", options.image_draws, least=1)
        check_whole("seed", options.seed, least=0)
        self.device = device_of(options, options.device)
        self.measures = _resolve_measures(options.measures, options.reference is not None)
        self.splits = self._splits or as_splits(
            options.dataset, options.data_options, labels=options.labels, labels_per_class=options.labels_per_class
        )
        self.sources = as_sources(options.sources)
        self.reference = None if options.reference is None else as_sources([options.reference])[0]
        self.given = dict(
            zip((source.name for source in self.sources), _describe_sources(options.sources), strict=True)
        )
        self.data = _describe_data(options.dataset, options.data_options)
        self.out = options.out
        self.show_progress = options.shows_progress
        self._draw(options.images, options.image_draws, options.seed)
        self.config = {
            "sources": {source.name: source.config() for source in self.sources},
            "target": self.splits.config(),
            "measures": [measure.name for measure in self.measures],
            "images": options.images,
            "image_draws": options.image_draws,
            "seed": options.seed,
            "reference": self.reference and self.reference.config(),
        }
        for source in self.sources:
            check_images(source, self.splits)
        self.executor = as_executor(options, len(self.sources))
        self.measurer = SourceMeasurer(
            self.splits,
            self.sources,
            self.reference,
            self.measures,
            self.images,
            self.labels,
            self.draws,
            torch.device(self.device.here),
        )
        self.executor.check(self.measurer)
        self._has_begun = self.out is not None and RankingFolder.has_begun(self.out)
        if not self._has_begun:
            self._check_first_measure()
        if self.out is not None and not self._has_begun:
            for source in self.sources:  # one at a time: weights that do not fit show here
                self.measurer.load(source)
            _ = self.measurer.reference_features
        self.reach(self.executor)

    def _check_first_measure(self) -> None:
        """Refuse labels and sources of which the first measure can have no value, whatever the sources give.

        Raises:
            RankingError: There can be none; the message says why for each source.
        """
        measure, rng = self.measures[0], np.random.default_rng(0)
        reasons = {}
        for source in self.sources:
            if measure.needs == "probabilities" and not source.classifier:
                reasons[source.name] = LACKING["probabilities"]
        if len(reasons) < len(self.sources):
            try:
                for draw in self.draws:
                    values, size = self.labels[draw], (len(draw), _TRIAL_WIDTH)
                    shares = rng.dirichlet(np.ones(_TRIAL_WIDTH), len(draw))
                    measure(Evidence(rng.normal(size=size), values, shares, rng.normal(size=size)))
            except TransferabilityError as error:
                reasons = {source.name: reasons.get(source.name, str(error)) for source in self.sources}
            except Exception:  # a measure of the user's, which may not take random values
                return
        if len(reasons) == len(self.sources):
            raise _no_value(measure.name, reasons)

    def _draw(self, images: int, draws: int, seed: int) -> None:
        """Choose the images of each draw among those that have labels, and read them."""
        train, labelled = self.splits.train, self.splits.labelled
        places = np.arange(len(train)) if labelled is None else labelled.numpy()
        labels = train.labels.numpy()[places]
        chosen = balanced_draws(labels, images, draws, seed)
        union, inverse = np.unique(np.concatenate(chosen), return_inverse=True)
        self.draws = np.split(inverse, np.cumsum([len(draw) for draw in chosen])[:-1])
        self.labels: NDArray[np.int64] = labels[union]
        self.images = _resident(self.splits, torch.from_numpy(places[union]))
        self.facts = {
            "target": {
                "name": self.splits.name,
                "classes": self.splits.num_classes,
                "labelled": len(places),
                "images": len(train),
            },
            "images": [len(draw) for draw in self.draws],
            "sources": {source.name: _facts_of(source) for source in self.sources},
        }

    def descriptions(self) -> Sequence[DataDescription]:
        return (describe_splits(self.splits),)

    def open(self) -> RankingFolder:
        self._files_before = None if self.out is None else entries_of(Path(self.out))
        self.folder = RankingFolder(self.config, self.given, self.facts, self.data, self.out)
        return self.folder

    def run(self) -> SourceRanking:
        try:
            return self._complete(self.folder)
        except RankingError:
            if self._has_begun:
                self.folder.forget_without(self.measures[0].name)  # the cause may be gone when it runs again
            else:  # or the next attempt has another configuration
                self.folder.discard(self._files_before)
            raise
        finally:
            self.folder.release()

    def report(self, result: SourceRanking) -> Iterable[object]:
        return (format_ranking(result), *describe_ranking(result))

    def _complete(self, folder: RankingFolder) -> SourceRanking:
        """Complete the ranking of a folder."""
        interruption = Interruption()
        with interruption.postponed():
            if folder.path is not None and self.splits.labelled is not None:
                folder.write(LABELS, self.splits.labels_file())
            self._measure_all(folder, interruption)
        ranking = self._ranking(folder)
        if folder.path is not None:
            _write(folder, ranking)
        return ranking

    def _measure_all(self, folder: RankingFolder, interruption: Interruption) -> None:
        stored = folder.measured
        threads = WorkerThreads(folder, self.executor, on_cpu=self.device.of_results == "cpu")

        def begin(source: Network) -> None:
            threads.compare()

        def store(
            source: Network, result: tuple[dict[str, Measured], float], worker: str | None
        ) -> dict[str, Measured]:
            threads.note()
            folder.add(source.name, *result, worker)
            return result[0]

        def lost(source: Network, reason: str) -> tuple[dict[str, Measured], float]:
            return {measure.name: Measured(reason=reason) for measure in self.measures}, 0.0

        dispatcher: Dispatcher[tuple[dict[str, Measured], float]] = Dispatcher(
            self.executor, interruption=interruption, timeout_s=self.options.candidate_timeout_s
        )
        below = (lambda: worker_lines(dispatcher.activities())) if self.options.show_workers else None
        with ProgressBar("ranking", "sources", len(self.sources), enabled=self.show_progress, below=below) as bar:
            loop = Loop(
                dispatcher=dispatcher,
                stored=lambda source: stored.get(source.name),
                store=store,
                lost=lost,
                show=lambda measured, replayed: bar.advance(replayed=replayed),
                interruption=interruption,
                describe=lambda source: f"in the source {source.name!r}",
                begin=begin,
                task=lambda source: source.name,
            )
            with dispatcher.started(self.measurer):
                loop.run(self.sources)

    def _ranking(self, folder: RankingFolder) -> SourceRanking:
        timing = {
            "seconds": folder.seconds,
            "covers": "building and running of all sources, and all measures",
            "device": device_name(self.device.of_results),
            "workers": self.executor.workers,
            "threads": threads_of_each(self.executor),
            "batch_size": BATCH_SIZE,
        }
        return _ranking_of(folder, self._chosen, lambda: self.splits, timing)

    def _chosen(self, names: Collection[str]) -> tuple[Network, ...]:
        return tuple(source for source in self.sources if source.name in names)


def load_ranking(path: str | os.PathLike[str], *, unfinished: bool = False) -> SourceRanking:
    """A ranking from its run folder. Its sources and its data are made again when they are asked for.

    Args:
        path: The run folder.
        unfinished: Accept a ranking that was stopped, with the sources that are measured so far.

    Raises:
        RunFolderError: The folder has no ranking, it is damaged, or not finished.
        RankingError: No source has a value of the first measure.
    """
    folder = RankingFolder.peek(path)
    ranking = _ranking_of(folder, partial(_make_again, folder), partial(_make_target, folder))
    if ranking.unfinished and not unfinished:
        done, planned = len(ranking.names) - len(ranking.unfinished), len(ranking.names)
        raise RunFolderError(
            f"The ranking in {path} is not finished: {done} of {planned} sources are measured; run the same again."
        )
    return ranking


def _ranking_of(
    folder: RankingFolder,
    make: Callable[[Collection[str]], tuple[Network, ...]],
    make_target: Callable[[], Splits],
    timing: Mapping[str, object] | None = None,
) -> SourceRanking:
    """The ranking of a folder.

    Raises:
        RankingError: No source has a value of the first measure, though all are measured.
    """
    values = _by_measure(folder)
    ranking = SourceRanking(
        tuple(values),
        values,
        folder.facts,
        folder.config,
        folder.path,
        make,
        make_target,
        folder.data,
        timing or {},
        folder.workers,
    )
    first = ranking.measures[0]
    if not ranking.unfinished and all(math.isnan(value) for value in ranking.similarities().values()):
        raise _no_value(first, {name: values[first][name].reason for name in ranking.names})
    return ranking


def _no_value(measure: str, reasons: Mapping[str, str | None]) -> RankingError:
    """The error of a measure that has no value of any source, with the reason of each."""
    why = "; ".join(f"{name}: {str(reason).rstrip('.')}" for name, reason in reasons.items())
    return RankingError(
        f"No source has a value of {measure}. {why}. Try more labelled images or another "
        "measure; a distillation with the weighting 'uniform' needs no value."
    )


def _make_again(folder: RankingFolder, names: Collection[str]) -> tuple[Network, ...]:
    """Sources from their descriptions, checked to be the same as when they were ranked."""
    return tuple(_make_source(folder, name) for name in folder.given if name in names)


def _make_source(folder: RankingFolder, name: str) -> Network:
    description = folder.given[name]
    if description is None:
        raise RankingError(
            f"The source {name} of the ranking in {folder.path} cannot be made again, since it was given as an object; "
            "give the sources themselves, or rank them from files."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # random weights: the ranking has warned of them
            (source,) = as_sources({name: description})
    except (ValueError, OSError, RunFolderError, NoScoreError) as error:
        raise RankingError(
            f"The source {name} of the ranking in {folder.path} cannot be made again: {error} Was it moved? Then rank "
            "the sources from where they are."
        ) from error
    if lines := differences(folder.config["sources"][name], as_json(source.config())):
        raise RankingError(
            f"The source {name} of the ranking in {folder.path} is another one now than when it was ranked: "
            f"{'; '.join(lines)}."
        )
    return source


def _make_target(folder: RankingFolder) -> Splits:
    """The data from its name and options, checked to be the same as when the sources were ranked."""
    if folder.data is None:
        raise RankingError(f"The ranking in {folder.path} is of data that was given as splits; give these again.")
    assert folder.path is not None
    partly = folder.config["target"]["labels"] is not None
    splits = create_splits(
        folder.data["name"], **folder.data["options"], labels=folder.path / LABELS if partly else None
    )
    now = as_json(splits.config())
    if lines := differences(folder.config["target"], now, ignore=("labels.request", "labels.seed")):
        raise RankingError(
            f"The data of the ranking in {folder.path} is another now than when the sources were ranked: "
            f"{'; '.join(lines)}."
        )
    return splits


def _resolve_measures(measures: str | Measure | Sequence[str | Measure], reference: bool) -> tuple[Measure, ...]:
    """The measures by their names, each once; "all" leaves out those that need a missing reference."""
    if measures == "all":
        every = map(get_measure, list_measures())
        return tuple(measure for measure in every if reference or measure.needs != "reference")
    names = [measures] if isinstance(measures, str | Measure) else list(measures)
    if not names:
        raise RankingError(f"measures is empty; allowed: all, {', '.join(list_measures())}.")
    chosen = tuple({measure.name: measure for measure in map(get_measure, names)}.values())
    compared = [measure.name for measure in chosen if measure.needs == "reference"]
    if compared and not reference:
        raise RankingError(f"{', '.join(compared)} compares with a reference model; give reference.")
    if reference and not compared:
        raise RankingError("A reference is given, but no measure compares with it.")
    return chosen


def _by_measure(folder: RankingFolder) -> dict[str, dict[str, Measured]]:
    """The values by measure, then by source, in the order of the sources."""
    stored = folder.measured
    return {
        measure: {source: stored[source][measure] for source in folder.config["sources"] if source in stored}
        for measure in folder.config["measures"]
    }


def _resident(splits: Splits, places: Tensor) -> ResidentSet:
    """The training images at these places, without augmentation, as bytes in memory."""
    batches = splits.train.batches(places, BATCH_SIZE, device=torch.device("cpu"), augment=None, seed=0)
    images = torch.cat([batch.images.mul(255).round_().to(torch.uint8) for batch in batches])
    return ResidentSet(images, splits.train.labels[places], splits.train.title)


def _facts_of(source: Network) -> dict[str, object]:
    """The facts about a source that tables show next to its measures."""
    return {
        "trained": bool(source.trained),
        "trained_on": source.trained_on and source.trained_on.get("name"),
        "classes": source.num_classes if source.classifier else None,
    }


def _describe_sources(sources: Sources) -> list[object]:
    """Descriptions from which the sources can be made again, as JSON values; None for a source that is an object."""
    if isinstance(sources, str | os.PathLike):
        return [_describe_source(sources)]
    return [_describe_source(source) for source in (sources.values() if isinstance(sources, Mapping) else sources)]


def _describe_source(source: object) -> object:
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return text if timm.is_model(text) or not os.path.exists(text) else os.path.abspath(text)
    if isinstance(source, Mapping):
        description = {
            key: _describe_source(value) if key in ("model", "checkpoint") else value for key, value in source.items()
        }
        try:
            return None if description.get("model") is None else as_json(description)
        except TypeError:
            return None
    return None


def _describe_data(
    dataset: str | os.PathLike[str] | Splits, options: Mapping[str, Any] | None
) -> dict[str, object] | None:
    """Name and options of the data, as JSON values, for use in any folder; None if the data is an object."""
    if not isinstance(dataset, str):
        return None
    chosen = {key: value for key, value in (options or {}).items() if not key.startswith("label")}
    if chosen.get("root") is not None:
        chosen["root"] = os.path.abspath(chosen["root"])
    elif needs_working_folder(dataset):
        chosen["root"] = os.getcwd()
    try:
        return {"name": dataset, "options": as_json(chosen)}
    except TypeError:
        return None


def _write(folder: RankingFolder, ranking: SourceRanking) -> None:
    result = finite_only(ranking.result())
    folder.write("sources.csv", _csv(result))
    folder.write("ranking.png", to_png(plot_ranking(ranking)))
    folder.write_json("result.json", result)
    folder.end(COMPLETE, ["ranking.png", "result.json", "sources.csv"])


def _csv(result: Mapping[str, Any]) -> Iterator[str]:
    """One row for each source, the most similar first. A missing value is an empty field."""
    numbers = ("mean", "std", "chance", "similarity", "similarity_std", "reason")
    measures = list(result["sources"][0]["measures"])
    facts = ("name", "trained", "trained_on", "classes", "weight")
    yield csv_line([*facts, *(f"{measure}_{number}" for measure in measures for number in numbers), "worker"])
    for source in result["sources"]:
        values = (source["measures"][measure][number] for measure in measures for number in numbers)
        yield csv_line([*(source[fact] for fact in facts), *values, result["workers"].get(source["name"])])
