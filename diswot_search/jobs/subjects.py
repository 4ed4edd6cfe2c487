"""The subjects of a search or a comparison: the space, the teacher and the probes that its options name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.space import SearchSpace

from ..checks import check_options, check_whole, user_options
from ..data.probe import Probe, create_probes
from ..data.splits import Splits
from ..networks.network import Network, TeacherBank
from ..options.base import Options, changed, keywords, options_in
from ..options.compare import CompareOptions
from ..options.data import PROBE_NAMES, CreateProbeOptions
from ..options.search import SearchOptions
from ..options.shared import SpaceOptions
from ..resolve.data import as_splits
from ..resolve.searches import as_probes, as_space, as_teacher
from ..sources.folder import RankingFolder
from ..sources.ranking import SourceRanking
from .rank_sources import load_ranking

PROBE_IMAGES = 64
"""Number of images in a probe unless an option says otherwise."""

ScoringOptions = SearchOptions | CompareOptions
"""Options of a job that scores architectures."""

_TEACHER_NAMES = {"teacher": "by the option teacher", "source": "by the option teacher"} | {
    "space": "by the option space",
    "probe": "by the option probe",
}
"""Names that teacher_options cannot set, and how they are set."""

_RANKING_OPTIONS = ("weighting", "measure", "power", "labels", "labels_per_class", "data_options")


@dataclass(frozen=True)
class Subjects:
    """The resolved subjects: the space, the teacher if there is one, and the probes."""

    space: SearchSpace
    teacher: Network | TeacherBank | None
    probes: list[Probe]


def search_subjects(options: SearchOptions) -> Subjects:
    """Resolve what the options of a search name.

    Raises:
        ValueError: A name or an option is unknown, options do not fit each other, or the data set cannot be read.
    """
    ranking = _as_ranking(options.teacher)
    if ranking is not None:
        return _ranked_subjects(options, ranking)
    if names := changed(options, *_RANKING_OPTIONS):
        raise ValueError(f"The teacher is no ranking of sources; {', '.join(names)} cannot be set.")
    probes = named_probes(options, options.probe, options.probes)
    space = named_space(options, probes[0])
    return Subjects(space, named_teacher(options, space, probes[0]), probes)


def named_probes(
    options: ScoringOptions, probe: Probe | Sequence[Probe] | os.PathLike[str] | str | None, count: int
) -> list[Probe]:
    """The probes: those that are given, or `count` of the data set that is named.

    Args:
        options: Options with the groups of probes and of runs.
        probe: The option `probe`.
        count: Number of probes to draw.
    """
    if probe is not None and not isinstance(probe, str | os.PathLike):
        _refuse_with(
            "The probe is an object, not the name of a data set", options, "probes", "batch_size", "probe_options"
        )
        return as_probes(probe)
    batch_size = PROBE_IMAGES if options.batch_size is None else options.batch_size
    probe_options = {"batch_size": batch_size, "seed": options.seed, **(options.probe_options or {})}
    with options_in("probe_options", PROBE_NAMES):
        check_options("probe", probe_options, keywords(CreateProbeOptions))
        return create_probes("digits" if probe is None else probe, count, **probe_options)


def named_space(options: ScoringOptions, probe: Probe) -> SearchSpace:
    """The space; one that is named is made for the classes and images of the probe unless its options say otherwise."""
    if isinstance(options.space, SearchSpace):
        _refuse_with("The space is an object, not a name", options, "space_options")
    with options_in("space_options", map(str, options.space_options or ())):
        return as_space(options.space, probe, **options_of_space(options))


def options_of_space(options: SpaceOptions) -> dict[str, Any]:
    """The options of a space that is given by its name.

    Raises:
        ValueError: One of them is no text, or the name itself.
    """
    return user_options("space_options", options.space_options, name="by the option space")


def named_teacher(options: ScoringOptions, space: SearchSpace, probe: Probe) -> Network | TeacherBank | None:
    """The teacher; one that is named is made for the classes and images of the probe unless its options say so."""
    teacher = options.teacher
    names = [name for name in ("teacher_checkpoint", "teacher_options") if getattr(options, name)]
    if teacher is None and names:
        raise ValueError(f"There is no teacher; {', '.join(names)} cannot be set without one.")
    if isinstance(teacher, Network | TeacherBank):
        if names:
            raise ValueError(f"The teacher is an object, not a name; {', '.join(names)} cannot be set.")
        return teacher
    teacher_options = user_options("teacher_options", options.teacher_options, **_TEACHER_NAMES)
    if options.teacher_checkpoint:
        teacher_options = {"checkpoint": options.teacher_checkpoint, **teacher_options}
    return as_teacher(teacher, space, probe, **teacher_options)


def _refuse_with(reason: str, options: Options, *names: str) -> None:
    if refused := changed(options, *(name for name in names if hasattr(options, name))):
        raise ValueError(f"{reason}; {', '.join(refused)} cannot be set.")


def _as_ranking(teacher: object) -> SourceRanking | None:
    """The ranking of sources that is given as a teacher, itself or by its folder."""
    if isinstance(teacher, SourceRanking):
        return teacher
    if isinstance(teacher, str | os.PathLike) and RankingFolder.exists(teacher):
        return load_ranking(teacher)
    return None


def _ranked_subjects(options: SearchOptions, ranking: SourceRanking) -> Subjects:
    """The subjects where the teachers are ranked sources: probes are of images that have labels for the ranking."""
    names = [name for name in ("teacher_checkpoint", "teacher_options", "probe_options") if getattr(options, name)]
    if names:
        raise ValueError(
            f"The teacher is a ranking of sources; {', '.join(names)} cannot be set. Options of its data, where it is "
            "given anew, are data_options."
        )
    check_whole("probes", options.probes, least=1)
    splits = _ranked_splits(options, ranking)
    bank = ranking.teachers(splits, weighting=options.weighting, power=options.power, measure=options.measure)
    if options.probe is None or isinstance(options.probe, str):
        labelled = len(splits.train) if splits.labelled is None else len(splits.labelled)
        images = min(PROBE_IMAGES, labelled) if options.batch_size is None else options.batch_size
        probes = [splits.probe(images, options.seed + number) for number in range(options.probes)]
    else:
        probes = named_probes(options, options.probe, options.probes)
    return Subjects(named_space(options, probes[0]), bank, probes)


def _ranked_splits(options: SearchOptions, ranking: SourceRanking) -> Splits:
    """The data of a ranking, or that which is named anew."""
    named = options.probe if isinstance(options.probe, str) else None
    if named is None and not changed(options, "data_options", "labels", "labels_per_class"):
        return ranking.target
    name = named or (ranking.data or {}).get("name") or "digits"
    splits = as_splits(name, options.data_options, labels=options.labels, labels_per_class=options.labels_per_class)
    ranking.check_target(splits.name, splits.num_classes)
    return splits
