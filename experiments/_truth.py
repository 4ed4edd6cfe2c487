"""The spaces whose students are really distilled, and where their tables are: for the tables and their readers."""

from __future__ import annotations

from pathlib import Path

from _common import RESULTS

import search_spaces

SPACES = ("nasbench201", "cifar_resnet", "timm/regnet_32", "timm/vit_32")
CUSTOMARY = {"cifar_resnet": ("1x16-1x32-1x64", "2x16-2x32-2x64", "3x16-3x32-3x64")}
"""Students that take part in any case: ResNet-8, -14 and -20."""
CELLS = 1
"""Cells in a stage; with the benchmark's 5, students learn little in a short training, the good ones least."""


def space_of(name: str, image_size: int) -> search_spaces.SearchSpace:
    """Return the space of a name, for CIFAR-100's classes."""
    options = {"cells": CELLS} if name == "nasbench201" else {}
    return search_spaces.create_space(name, num_classes=100, input_size=(3, image_size, image_size), **options)


def table_of(name: str) -> Path:
    """Return the file of a space's table."""
    return RESULTS / f"distilled_truth_{name.rpartition('/')[2]}.csv"
