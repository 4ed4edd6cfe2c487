"""Find the student for a teacher without training: architecture search for knowledge distillation.

Everything here is imported when it is first used, so that `import diswot_search` and `diswot --help` are quick.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_spaces import (
        AccuracyTable,
        ArchitectureError,
        OwnCodeError,
        UnknownNameError,
        UntrustedCodeError,
        create_space,
        import_code,
        import_table,
        list_spaces,
        read_table,
        register_space,
    )

    from .comparison.results import Estimate, ProxyResult, ScoreTable
    from .comparison.statistics import (
        best_decile,
        bootstrap_correlations,
        draw_resamples,
        kendall,
        partial_spearman,
        pearson,
        percentile_interval,
        precision_at_k,
        regret_at_budget,
        regret_curve,
        size_matched_agreement,
        spearman,
    )
    from .compression.export import export
    from .compression.exported import ExportReport
    from .data.augmentation import Augmentation
    from .data.errors import DataError
    from .data.probe import Probe, create_probe, create_probes
    from .data.splits import Splits, create_splits
    from .deployment.latency import Latency, measure_latency
    from .deployment.onnx_graph import ExportError
    from .distillation.base import (
        Batch,
        Distiller,
        DistillerError,
        Setting,
        get_distiller,
        list_distillers,
        register_distiller,
    )
    from .functional import losses, similarities
    from .jobs.compare import Comparison, compare
    from .jobs.pipeline import run
    from .jobs.rank_sources import load_ranking, rank_sources
    from .jobs.report import Report, report
    from .jobs.search import search
    from .jobs.shortlist import shortlist
    from .jobs.shortlist_stages import ShortlistError
    from .jobs.sweep import sweep
    from .jobs.train import distill, train
    from .jobs.training_table import TrainingTable, tabulate
    from .networks.contract import ReadingError, evaluation_mode
    from .networks.features import Features, Shapes
    from .networks.network import Network, TeacherBank, create_teacher
    from .networks.saved import ModelCard, load_student, read_card, save_student
    from .proxies.aggregate import RankAggregate
    from .proxies.proxy import Proxy
    from .proxies.registry import (
        create_aggregate,
        get_proxy,
        list_aggregates,
        list_proxies,
        register_aggregate,
        register_proxy,
    )
    from .readings.core import Readings
    from .readings.network import read_network
    from .readings.passes import Precision
    from .reports.study import format_table, plot_search
    from .resolve.networks import as_network
    from .resolve.runs import PipelineResult
    from .resolve.shortlists import Shortlist, Verdict, read_shortlist
    from .resolve.sources import as_sources
    from .runtime.executors.base import Executor, Placement, Program, WorkerDied
    from .runtime.executors.processes import ProcessExecutor
    from .runtime.executors.ray import RayExecutor
    from .runtime.executors.registry import create_executor, list_executors, register_executor
    from .runtime.executors.serial import SerialExecutor
    from .runtime.failures import MachineError
    from .runtime.files import RunFolderError
    from .sources.evidence import Evidence, TransferabilityError
    from .sources.ranking import SourceRanking
    from .sources.source import SourceError
    from .sources.transferability import Measure, get_measure, list_measures, register_measure, source_weights
    from .study import halving
    from .study.algorithm import Algorithm
    from .study.algorithms import create_algorithm, list_algorithms, register_algorithm
    from .study.budget import Budget, BudgetError
    from .study.evaluator import Evaluator
    from .study.finalists import Finalist, Trial
    from .study.records import Record, Score
    from .study.study import Candidate, NoScoreError, Study
    from .training.recipe import Recipe, RecipeError, create_recipe
    from .training.result import EpochRow, Training, TrainingResult
    from .training.trainer import DivergenceError

    __version__: str

_EXPORTS = {
    "diswot_search.comparison.results": (
        "Estimate",
        "ProxyResult",
        "ScoreTable",
    ),
    "diswot_search.resolve.shortlists": (
        "Shortlist",
        "Verdict",
        "read_shortlist",
    ),
    "diswot_search.comparison.statistics": (
        "best_decile",
        "bootstrap_correlations",
        "draw_resamples",
        "kendall",
        "partial_spearman",
        "pearson",
        "percentile_interval",
        "precision_at_k",
        "regret_at_budget",
        "regret_curve",
        "size_matched_agreement",
        "spearman",
    ),
    "diswot_search.compression.export": ("export",),
    "diswot_search.compression.exported": ("ExportReport",),
    "diswot_search.data.augmentation": ("Augmentation",),
    "diswot_search.data.errors": ("DataError",),
    "diswot_search.data.probe": (
        "Probe",
        "create_probe",
        "create_probes",
    ),
    "diswot_search.data.splits": (
        "Splits",
        "create_splits",
    ),
    "diswot_search.deployment.latency": (
        "Latency",
        "measure_latency",
    ),
    "diswot_search.deployment.onnx_graph": ("ExportError",),
    "diswot_search.distillation.base": (
        "Batch",
        "Distiller",
        "DistillerError",
        "Setting",
        "get_distiller",
        "list_distillers",
        "register_distiller",
    ),
    "diswot_search.jobs.compare": (
        "Comparison",
        "compare",
    ),
    "diswot_search.jobs.pipeline": ("run",),
    "diswot_search.jobs.rank_sources": (
        "load_ranking",
        "rank_sources",
    ),
    "diswot_search.jobs.report": ("Report", "report"),
    "diswot_search.jobs.search": ("search",),
    "diswot_search.jobs.shortlist": ("shortlist",),
    "diswot_search.jobs.shortlist_stages": ("ShortlistError",),
    "diswot_search.jobs.sweep": ("sweep",),
    "diswot_search.jobs.train": (
        "distill",
        "train",
    ),
    "diswot_search.jobs.training_table": ("TrainingTable", "tabulate"),
    "diswot_search.networks.contract": (
        "ReadingError",
        "evaluation_mode",
    ),
    "diswot_search.networks.features": (
        "Features",
        "Shapes",
    ),
    "diswot_search.networks.network": (
        "Network",
        "TeacherBank",
        "create_teacher",
    ),
    "diswot_search.networks.saved": (
        "ModelCard",
        "load_student",
        "read_card",
        "save_student",
    ),
    "diswot_search.proxies.aggregate": ("RankAggregate",),
    "diswot_search.proxies.proxy": ("Proxy",),
    "diswot_search.proxies.registry": (
        "create_aggregate",
        "get_proxy",
        "list_aggregates",
        "list_proxies",
        "register_aggregate",
        "register_proxy",
    ),
    "diswot_search.readings.core": ("Readings",),
    "diswot_search.readings.network": ("read_network",),
    "diswot_search.readings.passes": ("Precision",),
    "diswot_search.reports.study": (
        "format_table",
        "plot_search",
    ),
    "diswot_search.resolve.networks": ("as_network",),
    "diswot_search.resolve.runs": ("PipelineResult",),
    "diswot_search.resolve.sources": ("as_sources",),
    "diswot_search.runtime.executors.base": (
        "Executor",
        "Placement",
        "Program",
        "WorkerDied",
    ),
    "diswot_search.runtime.executors.processes": ("ProcessExecutor",),
    "diswot_search.runtime.executors.ray": ("RayExecutor",),
    "diswot_search.runtime.executors.registry": (
        "create_executor",
        "list_executors",
        "register_executor",
    ),
    "diswot_search.runtime.executors.serial": ("SerialExecutor",),
    "diswot_search.runtime.failures": ("MachineError",),
    "diswot_search.runtime.run_folder": ("RunFolderError",),
    "diswot_search.sources.evidence": (
        "Evidence",
        "TransferabilityError",
    ),
    "diswot_search.sources.ranking": ("SourceRanking",),
    "diswot_search.sources.source": ("SourceError",),
    "diswot_search.sources.transferability": (
        "Measure",
        "get_measure",
        "list_measures",
        "register_measure",
        "source_weights",
    ),
    "diswot_search.study.algorithm": ("Algorithm",),
    "diswot_search.study.algorithms": (
        "create_algorithm",
        "list_algorithms",
        "register_algorithm",
    ),
    "diswot_search.study.budget": (
        "Budget",
        "BudgetError",
    ),
    "diswot_search.study.evaluator": ("Evaluator",),
    "diswot_search.study.finalists": ("Finalist", "Trial"),
    "diswot_search.study.records": (
        "Record",
        "Score",
    ),
    "diswot_search.study.study": (
        "Candidate",
        "NoScoreError",
        "Study",
    ),
    "diswot_search.training.recipe": (
        "Recipe",
        "RecipeError",
        "create_recipe",
    ),
    "diswot_search.training.result": ("EpochRow", "Training", "TrainingResult"),
    "diswot_search.training.trainer": ("DivergenceError",),
    "search_spaces": (
        "AccuracyTable",
        "ArchitectureError",
        "OwnCodeError",
        "UnknownNameError",
        "UntrustedCodeError",
        "create_space",
        "import_code",
        "import_table",
        "list_spaces",
        "read_table",
        "register_space",
    ),
}
_MODULES = {
    "halving": "diswot_search.study.halving",
    "losses": "diswot_search.functional.losses",
    "similarities": "diswot_search.functional.similarities",
}
"""Modules that are exported whole: pure tensor functions, and the rule of successive halving."""

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
    "DataError",
    "Distiller",
    "DistillerError",
    "DivergenceError",
    "EpochRow",
    "Estimate",
    "Evaluator",
    "Evidence",
    "Executor",
    "ExportError",
    "ExportReport",
    "Features",
    "Finalist",
    "Latency",
    "MachineError",
    "Measure",
    "ModelCard",
    "Network",
    "NoScoreError",
    "OwnCodeError",
    "PipelineResult",
    "Placement",
    "Precision",
    "Probe",
    "ProcessExecutor",
    "Program",
    "Proxy",
    "ProxyResult",
    "RankAggregate",
    "RayExecutor",
    "ReadingError",
    "Readings",
    "Recipe",
    "RecipeError",
    "Record",
    "Report",
    "RunFolderError",
    "Score",
    "ScoreTable",
    "SerialExecutor",
    "Setting",
    "Shapes",
    "Shortlist",
    "ShortlistError",
    "SourceError",
    "SourceRanking",
    "Splits",
    "Study",
    "TeacherBank",
    "Training",
    "TrainingResult",
    "TrainingTable",
    "TransferabilityError",
    "Trial",
    "UnknownNameError",
    "UntrustedCodeError",
    "Verdict",
    "WorkerDied",
    "as_network",
    "as_sources",
    "best_decile",
    "bootstrap_correlations",
    "compare",
    "create_aggregate",
    "create_algorithm",
    "create_executor",
    "create_probe",
    "create_probes",
    "create_recipe",
    "create_space",
    "create_splits",
    "create_teacher",
    "distill",
    "draw_resamples",
    "evaluation_mode",
    "export",
    "format_table",
    "get_distiller",
    "get_measure",
    "get_proxy",
    "halving",
    "import_code",
    "import_table",
    "kendall",
    "list_aggregates",
    "list_algorithms",
    "list_distillers",
    "list_executors",
    "list_measures",
    "list_proxies",
    "list_spaces",
    "load_ranking",
    "load_student",
    "losses",
    "measure_latency",
    "partial_spearman",
    "pearson",
    "percentile_interval",
    "plot_search",
    "precision_at_k",
    "rank_sources",
    "read_card",
    "read_network",
    "read_shortlist",
    "read_table",
    "register_aggregate",
    "register_algorithm",
    "register_distiller",
    "register_executor",
    "register_measure",
    "register_proxy",
    "register_space",
    "regret_at_budget",
    "regret_curve",
    "report",
    "run",
    "save_student",
    "search",
    "shortlist",
    "similarities",
    "size_matched_agreement",
    "source_weights",
    "spearman",
    "sweep",
    "tabulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("diswot-search")
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
