"""From what a user names for a search to spaces, probes and teachers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, overload

import timm
from torch import nn

from search_spaces.plugins import hint_at_form, is_code
from search_spaces.recipes import create_space
from search_spaces.registry import near_names
from search_spaces.space import Architecture, ArchitectureError, SearchSpace

from ..data.probe import Probe, create_probe
from ..networks.network import Network, TeacherBank, create_teacher
from ..options.base import changed
from ..options.shared import BudgetOptions
from ..sources.folder import RankingFolder
from ..sources.ranking import SourceRanking
from ..study.budget import Budget


def as_budget(options: BudgetOptions) -> Budget:
    """The budget, given as a whole or limit by limit.

    Raises:
        ValueError: It is given both ways, or a limit is out of range.
    """
    limits = changed(options, *(f.name for f in fields(Budget)))
    if options.budget is None:
        return Budget.from_dict({name: getattr(options, name) for name in limits})
    if limits:
        raise ValueError(f"The budget is given as a whole; {', '.join(limits)} cannot be set.")
    if isinstance(options.budget, Mapping):
        return Budget.from_dict(options.budget)
    if isinstance(options.budget, Budget):
        return options.budget
    raise ValueError(f"budget is {options.budget!r}; it must be a Budget, such as Budget(max_params=1e6).")


def as_probes(probe: Probe | Sequence[Probe] | os.PathLike[str] | str) -> list[Probe]:
    """The probes; the name of a data set stands for one of it.

    Raises:
        ValueError: There is none, or something else among them.
    """
    if isinstance(probe, str | os.PathLike):
        return [create_probe(probe)]
    probes = [probe] if isinstance(probe, Probe) else list(probe)
    if not probes or not all(isinstance(one, Probe) for one in probes):
        raise ValueError(
            "Scoring needs at least one probe, or the name of a data set; `Probe.from_tensors(images, labels)` "
            "makes one of your own batch."
        )
    return probes


def as_space(space: SearchSpace | str | Sequence[str], probe: Probe, **options: object) -> SearchSpace:
    """The space; one given by name is made for the classes and images of the probe unless `options` say otherwise."""
    if isinstance(space, SearchSpace):
        return space
    return create_space(space, **{"num_classes": probe.num_classes, "input_size": probe.input_size} | options)


@overload
def as_teacher(teacher: TeacherBank, space: SearchSpace, probe: Probe, **options: object) -> TeacherBank: ...


@overload
def as_teacher(
    teacher: Network | SourceRanking | nn.Module | Architecture | str | None,
    space: SearchSpace,
    probe: Probe,
    **options: object,
) -> Network | None: ...


def as_teacher(
    teacher: Network | TeacherBank | SourceRanking | nn.Module | Architecture | str | None,
    space: SearchSpace,
    probe: Probe,
    **options: Any,
) -> Network | TeacherBank | None:
    """The teacher; a timm name is made for the classes and images of the probe unless `options` say otherwise.

    Any other text is an architecture of the space. A teacher or a bank is taken as it is.

    Raises:
        ValueError: It is a ranking of sources, or its folder.
        UnknownNameError: The text is neither, but comes near the name of a timm model.
        ArchitectureError: The text comes near no such name, and is malformed as an architecture.
    """
    if teacher is None or isinstance(teacher, Network | TeacherBank):
        return teacher
    if (at := _ranking_at(teacher)) is not None:
        raise ValueError(
            f"The teacher is a ranking of sources; {at}.teachers(weighting=..., power=...) has its teachers; a "
            "comparison takes one of them."
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
    assert not isinstance(teacher, SourceRanking)
    return create_teacher(teacher, **options)


def _ranking_at(teacher: object) -> str | None:
    """How to call the ranking of sources that is given, itself or by its folder; None for anything else."""
    if isinstance(teacher, str | os.PathLike) and RankingFolder.exists(teacher):
        return f"ds.load_ranking({os.fspath(teacher)!r})"
    return "ranking" if isinstance(teacher, SourceRanking) else None


def _means_architecture(text: str, space: SearchSpace) -> bool:
    """Whether a text is, or was meant to be, an architecture rather than the name of a timm model."""
    if timm.is_model(text) or is_code(text) or hint_at_form(text):
        return False
    try:
        space.parse(text)
    except ArchitectureError:
        return not near_names(text, timm.list_models())
    return True
