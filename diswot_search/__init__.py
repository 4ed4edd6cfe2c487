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
    from search_spaces import (
        AccuracyTable,
        ArchitectureError,
        UnknownNameError,
        create_space,
        import_table,
        list_spaces,
        read_table,
        register_space,
    )

    from .augmentation import Augmentation
    from .budget import Budget, BudgetError, measure_latency
    from .compare import Comparison, compare
    from .comparison import Estimate, ProxyResult, ScoreTable
    from .data import DataError, Probe, create_probe, create_probes
    from .distillation import (
        Batch,
        Distiller,
        DistillerError,
        DivergenceError,
        Evidence,
        Features,
        Measure,
        Recipe,
        RecipeError,
        Setting,
        Shapes,
        SourceError,
        SourceModel,
        SourceRanking,
        Training,
        TransferabilityError,
        as_sources,
        create_recipe,
        distill,
        get_distiller,
        get_measure,
        list_distillers,
        list_measures,
        load_ranking,
        rank_sources,
        register_distiller,
        register_measure,
        source_weights,
        train,
    )
    from .evaluation import Evaluation, Evaluator, Record
    from .evolution import Algorithm, create_algorithm, list_algorithms, register_algorithm
    from .export import ExportError, ExportReport, export
    from .networks import Network, as_network
    from .pipeline import PipelineResult, run
    from .proxies import (
        Proxy,
        RankAggregate,
        create_aggregate,
        get_proxy,
        list_aggregates,
        list_proxies,
        register_aggregate,
        register_proxy,
    )
    from .ranking import (
        kendall,
        partial_spearman,
        pearson,
        precision_at_k,
        regret_at_budget,
        regret_curve,
        size_matched_agreement,
        spearman,
    )
    from .readings import Precision, ReadingError, Readings
    from .report import format_table, plot_search
    from .search import search
    from .splits import Splits, create_splits
    from .student_files import load_student, save_student
    from .study import Candidate, Study, StudyError
    from .teacher import ConvertedTeacher, Teacher, TeacherBank, create_teacher

    __version__: str

_EXPORTS = {
    "search_spaces": (
        "AccuracyTable",
        "ArchitectureError",
        "UnknownNameError",
        "create_space",
        "import_table",
        "list_spaces",
        "read_table",
        "register_space",
    ),
    "diswot_search.budget": ("Budget", "BudgetError", "measure_latency"),
    "diswot_search.compare": ("Comparison", "compare"),
    "diswot_search.comparison": ("Estimate", "ProxyResult", "ScoreTable"),
    "diswot_search.data": ("DataError", "Probe", "create_probe", "create_probes"),
    "diswot_search.distillation": (
        "Batch",
        "Distiller",
        "DistillerError",
        "DivergenceError",
        "Evidence",
        "Features",
        "Measure",
        "Recipe",
        "RecipeError",
        "Setting",
        "Shapes",
        "SourceError",
        "SourceModel",
        "SourceRanking",
        "Training",
        "TransferabilityError",
        "as_sources",
        "create_recipe",
        "distill",
        "get_distiller",
        "get_measure",
        "list_distillers",
        "list_measures",
        "load_ranking",
        "rank_sources",
        "register_distiller",
        "register_measure",
        "source_weights",
        "train",
    ),
    "diswot_search.augmentation": ("Augmentation",),
    "diswot_search.splits": ("Splits", "create_splits"),
    "diswot_search.export": ("ExportError", "ExportReport", "export"),
    "diswot_search.networks": ("Network", "as_network"),
    "diswot_search.evaluation": ("Evaluation", "Evaluator", "Record"),
    "diswot_search.evolution": ("Algorithm", "create_algorithm", "list_algorithms", "register_algorithm"),
    "diswot_search.pipeline": ("PipelineResult", "run"),
    "diswot_search.proxies": (
        "Proxy",
        "RankAggregate",
        "create_aggregate",
        "get_proxy",
        "list_aggregates",
        "list_proxies",
        "register_aggregate",
        "register_proxy",
    ),
    "diswot_search.ranking": (
        "kendall",
        "partial_spearman",
        "pearson",
        "precision_at_k",
        "regret_at_budget",
        "regret_curve",
        "size_matched_agreement",
        "spearman",
    ),
    "diswot_search.readings": ("Precision", "ReadingError", "Readings"),
    "diswot_search.report": ("format_table", "plot_search"),
    "diswot_search.search": ("search",),
    "diswot_search.student_files": ("load_student", "save_student"),
    "diswot_search.study": ("Candidate", "Study", "StudyError"),
    "diswot_search.teacher": ("ConvertedTeacher", "Teacher", "TeacherBank", "create_teacher"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "AccuracyTable",
    "Algorithm",
    "ArchitectureError",
    "Augmentation",
    "Batch",
    "Budget",
    "BudgetError",
    "Candidate",
    "Comparison",
    "ConvertedTeacher",
    "DataError",
    "Distiller",
    "DistillerError",
    "DivergenceError",
    "Estimate",
    "Evaluation",
    "Evaluator",
    "Evidence",
    "ExportError",
    "ExportReport",
    "Features",
    "Measure",
    "Network",
    "PipelineResult",
    "Precision",
    "Probe",
    "Proxy",
    "ProxyResult",
    "RankAggregate",
    "ReadingError",
    "Readings",
    "Recipe",
    "RecipeError",
    "Record",
    "ScoreTable",
    "Setting",
    "Shapes",
    "SourceError",
    "SourceModel",
    "SourceRanking",
    "Splits",
    "Study",
    "StudyError",
    "Teacher",
    "TeacherBank",
    "Training",
    "TransferabilityError",
    "UnknownNameError",
    "as_network",
    "as_sources",
    "compare",
    "create_aggregate",
    "create_algorithm",
    "create_probe",
    "create_probes",
    "create_recipe",
    "create_space",
    "create_splits",
    "create_teacher",
    "distill",
    "export",
    "format_table",
    "get_distiller",
    "get_measure",
    "get_proxy",
    "import_table",
    "kendall",
    "list_aggregates",
    "list_algorithms",
    "list_distillers",
    "list_measures",
    "list_proxies",
    "list_spaces",
    "load_ranking",
    "load_student",
    "measure_latency",
    "partial_spearman",
    "pearson",
    "plot_search",
    "precision_at_k",
    "rank_sources",
    "read_table",
    "register_aggregate",
    "register_algorithm",
    "register_distiller",
    "register_measure",
    "register_proxy",
    "register_space",
    "regret_at_budget",
    "regret_curve",
    "run",
    "save_student",
    "search",
    "size_matched_agreement",
    "source_weights",
    "spearman",
    "train",
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
    """Keeps functions such as `search` visible when their modules, of the same names, are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
