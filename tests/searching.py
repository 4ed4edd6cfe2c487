"""A search of an evaluator with the defaults of the options of `search`."""

from __future__ import annotations

from typing import Any

from diswot_search.jobs.search import Search
from diswot_search.options.search import SearchOptions
from diswot_search.study.evaluator import Evaluator

_NAMES = ("algorithm", "algorithm_options", "evaluations", "budget", "seed", "out", "progress")


def create_search(evaluator: Evaluator, **options: Any) -> Search:
    """The search of an evaluator; options that are not given have their defaults."""
    defaults = SearchOptions()
    return Search(evaluator, **{name: getattr(defaults, name) for name in _NAMES} | options)
