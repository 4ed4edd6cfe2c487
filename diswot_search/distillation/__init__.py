"""Training a student: under a teacher by distillers, or alone; and the distillers by name."""

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
from .trainer import DivergenceError
from .training import Training, TrainingRun, distill, train

__all__ = [
    "Batch",
    "Distiller",
    "DistillerError",
    "DivergenceError",
    "Features",
    "Recipe",
    "RecipeError",
    "Setting",
    "Shapes",
    "Training",
    "TrainingRun",
    "create_recipe",
    "distill",
    "get_distiller",
    "list_distillers",
    "parse_distillers",
    "register_distiller",
    "train",
]
