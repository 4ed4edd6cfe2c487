"""Training a student: with a teacher and distillers, with sources weighted by similarity, or alone."""

from __future__ import annotations

from . import distillers  # noqa: F401 - registers those that are built in
from .base import (
    Batch,
    Distiller,
    DistillerError,
    Features,
    Setting,
    Shapes,
    get_distiller,
    list_distillers,
    parse_distillers,
    register_distiller,
)
from .recipe import Recipe, RecipeError, create_recipe
from .relatedness import Measure, get_measure, list_measures, register_measure, source_weights
from .relatedness_evidence import Evidence, TransferabilityError
from .source_ranking import SourceRanking, load_ranking, rank_sources
from .sources import SourceError, SourceModel, as_sources
from .trainer import DivergenceError
from .training import Training, TrainingRun, distill, train

__all__ = [
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
    "TrainingRun",
    "TransferabilityError",
    "as_sources",
    "create_recipe",
    "distill",
    "get_distiller",
    "get_measure",
    "list_distillers",
    "list_measures",
    "load_ranking",
    "parse_distillers",
    "rank_sources",
    "register_distiller",
    "register_measure",
    "source_weights",
    "train",
]
