"""The teachers and the distillers that a shortlist chooses among, as its options or those of a pipeline give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from search_spaces.names import short_name
from search_spaces.option_types import OptionTypeError

from ..comparison.trainings import value_text
from ..distillation.combination import Term, parse_distillers
from ..networks.network import Network
from ..options.base import changed
from ..options.pipeline import PipelineOptions
from ..options.shortlist import ShortlistOptions
from ..runtime.failures import MAX_REASON
from .finalists import several

_ONE_TEACHER = ("teacher_checkpoint", "teacher_options", "teacher_pretrained", "teacher_classes")
"""Options of a single teacher."""


class Distillers(NamedTuple):
    """The distillers to choose among, or the one.

    Attributes:
        given: Each as the options give it; None for the default.
        terms: The terms of each.
        names: The name of each.
    """

    given: list[Any]
    terms: list[tuple[Term, ...]]
    names: list[str]


def distillers_of(options: ShortlistOptions | PipelineOptions) -> Distillers:
    """The distillers of the options.

    Raises:
        ValueError: One of them is unknown or given twice, or `distiller` is given as well.
    """
    distillers = several(options.distillers)
    if distillers and options.distiller is not None:
        raise ValueError("distiller and distillers are both given; give one of them.")
    distillers = distillers or [options.distiller]
    terms = [parse_distillers("kd" if one is None else one) for one in distillers]
    names = ["kd" if one is None else value_text(one) for one in distillers]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"distillers has {repeated[0]} twice; leave one of them out.")
    return Distillers(distillers, terms, names)


def teachers_of(options: ShortlistOptions | PipelineOptions) -> list[Any]:
    """The teachers that the options give in the place of one; none if they do not.

    Raises:
        OptionTypeError: A teacher is a mapping, or a text that holds one.
        ValueError: `teacher` is given as well, or an option of a single one for several.
    """
    teachers = several(options.teachers)
    if any(_holds_mapping(teacher) for teacher in teachers):
        raise OptionTypeError(
            f"teachers is {str(options.teachers)[:MAX_REASON]}; it must be a list of names, run folders or modules, "
            "not of mappings. For a teacher with a checkpoint name a function of your own that loads it, such as "
            "my_network.py:trained."
        )
    if teachers and options.teacher is not None and changed(options, "teacher"):
        raise ValueError("teacher and teachers are both given; give one of them.")
    if len(teachers) > 1 and (names := changed(options, *_ONE_TEACHER)):
        raise ValueError(f"There are {len(teachers)} teachers; {', '.join(names)} cannot be set for all of them.")
    return teachers


def _holds_mapping(teacher: object) -> bool:
    return isinstance(teacher, Mapping) or (isinstance(teacher, str) and teacher.startswith(("{", "[")))


def check_trained_teachers(teachers: Sequence[Network], options: ShortlistOptions) -> None:
    """Refuse teachers with random weights, unless the options say that they are meant.

    Args:
        teachers: The teachers.
        options: The options; `random_teacher`, or trained: false among the teacher_options, says it.

    Raises:
        ValueError: A teacher has random weights.
    """
    if options.random_teacher or (options.teacher_options or {}).get("trained") is False:
        return
    for teacher in teachers:
        if not teacher.trained:
            raise ValueError(
                f"The teacher {short_name(teacher.name)} has random weights, so that its students would prove nothing: "
                "give its checkpoint or pretrained weights; or, of a module whose weights are trained, "
                "teacher_options={'trained': True}. If random weights are meant, say random_teacher=True."
            )


def check_distinct(configs: Sequence[object]) -> None:
    """Refuse a teacher that is given twice.

    Args:
        configs: The configuration of each teacher.
    """
    for place, config in enumerate(configs):
        if config in configs[:place]:
            name = config.get("name", config) if isinstance(config, Mapping) else config
            raise ValueError(f"teachers has a teacher twice, {str(name)[:MAX_REASON]}; leave one of them out.")
