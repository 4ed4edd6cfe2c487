"""The facts about a trained student: its costs, and its latency, which is measured while nothing else runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from search_spaces.cost import count_cost
from search_spaces.input_spec import InputSpec

from ..deployment.latency import shipped_latency
from ..networks.saved import FOLDER, load_student, read_card
from ..training.folder import TrainingFolder
from ..training.result import StudentFacts, stored_result


def student_facts(
    name: str, model: nn.Module, input_size: InputSpec | Sequence[int], *, timed: bool = True
) -> StudentFacts:
    """The facts about a student.

    Args:
        name: Its name.
        model: The network.
        input_size: The input spec, or channels, height and width of one image.
        timed: Whether the latency is measured.
    """
    cost = count_cost(model, input_size)
    latency = _latency_facts(model, input_size) if timed else {}
    return StudentFacts(name=name, params=cost.params, macs=cost.macs, **latency)


def _latency_facts(model: nn.Module, input_size: InputSpec | Sequence[int]) -> dict[str, Any]:
    latency = shipped_latency(model, input_size)
    return {
        "latency_ms": latency.ms,
        "latency": f"{latency.conditions}, float32",
        "latency_median_ms": latency.median_ms,
        "latency_instability": latency.instability,
    }


def is_untimed(path: str | os.PathLike[str]) -> bool:
    """Whether a run folder holds a finished training whose student's latency was not measured."""
    if not TrainingFolder.has_begun(path):
        return False
    result = stored_result(TrainingFolder.peek(path))
    return result is not None and result.is_complete and result.student.latency_ms is None


def time_student(path: str | os.PathLike[str]) -> None:
    """Measure the latency of the student of a finished training, and add it to its result.

    Args:
        path: The run folder of the training.

    Raises:
        RunFolderError: The folder cannot be used.
        ValueError: The student cannot be loaded.
    """
    folder = TrainingFolder(TrainingFolder.peek(path).config, path)
    try:
        result = stored_result(folder)
        assert result is not None  # since the training is complete
        facts = _latency_facts(load_student(Path(path) / FOLDER), read_card(path).input_size)
        timed = dataclasses.replace(result, student=dataclasses.replace(result.student, **facts))
        folder.replace_result(timed.to_json())
    finally:
        folder.release()
