"""A search of an evaluator with the defaults of the options of `search`."""

from __future__ import annotations

from typing import Any

from diswot_search.jobs.search import SearchJob
from diswot_search.options.search import SearchOptions
from diswot_search.study.evaluator import Evaluator


def create_search(evaluator: Evaluator, **options: Any) -> SearchJob:
    """The search of an evaluator, checked and open; options that are not given have their defaults."""
    job = SearchJob(SearchOptions(**options), evaluator=evaluator)
    job.check_once()
    job.open()
    return job
