"""Find the student for a teacher without training: architecture search for knowledge distillation.

Everything here is imported when it is first used, so that `import diswot_search` and `diswot --help` are quick.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_spaces import create_space, list_spaces

    from .budget import Budget, BudgetError
    from .data import DataError, Probe, create_probe, create_probes
    from .evaluation import Evaluation, Evaluator, Record
    from .evolution import Algorithm, create_algorithm, list_algorithms, register_algorithm
    from .proxies import Proxy, get_proxy, list_proxies, register_proxy
    from .readings import Precision, Readings
    from .report import format_table, plot_search
    from .search import search
    from .study import Candidate, Study, StudyError
    from .teacher import Teacher, create_teacher

    __version__: str

_EXPORTS = {
    "search_spaces": ("create_space", "list_spaces"),
    "diswot_search.budget": ("Budget", "BudgetError"),
    "diswot_search.data": ("DataError", "Probe", "create_probe", "create_probes"),
    "diswot_search.evaluation": ("Evaluation", "Evaluator", "Record"),
    "diswot_search.evolution": ("Algorithm", "create_algorithm", "list_algorithms", "register_algorithm"),
    "diswot_search.proxies": ("Proxy", "get_proxy", "list_proxies", "register_proxy"),
    "diswot_search.readings": ("Precision", "Readings"),
    "diswot_search.report": ("format_table", "plot_search"),
    "diswot_search.search": ("search",),
    "diswot_search.study": ("Candidate", "Study", "StudyError"),
    "diswot_search.teacher": ("Teacher", "create_teacher"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "Algorithm",
    "Budget",
    "BudgetError",
    "Candidate",
    "DataError",
    "Evaluation",
    "Evaluator",
    "Precision",
    "Probe",
    "Proxy",
    "Readings",
    "Record",
    "Study",
    "StudyError",
    "Teacher",
    "create_algorithm",
    "create_probe",
    "create_probes",
    "create_space",
    "create_teacher",
    "format_table",
    "get_proxy",
    "list_algorithms",
    "list_proxies",
    "list_spaces",
    "plot_search",
    "register_algorithm",
    "register_proxy",
    "search",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("diswot-search")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps the function `search` visible when its module, which has the same name, is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
