"""Options of an export: from a trained student to a file of another runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from .base import DATA_NAME
from .shared import CodeOptions, DataOptions, SeedOptions

if TYPE_CHECKING:
    from torch import nn

    from ..data.splits import Splits
    from ..networks.saved import ModelCard


@dataclass(frozen=True)
class ExportOptions(DataOptions, SeedOptions, CodeOptions):
    """Write a trained student in another format, check it, and state the accuracy that it loses.

    Args:
        student: The run folder of a training, the folder or file of a student, or a module with its card.
        format: onnx, torch (a .pt2 file of torch.export) or int8 (ONNX, quantised).
        out: The file; by default next to the student's weights, as student.onnx, student.pt2 or student.int8.onnx.
        card: Description of the network, for a module or in place of the student's own: a ModelCard, or a mapping of
            its fields.
        dataset: Data set, or its name, for test accuracy; int8 is calibrated on its training images. The name of the
            data that the student was trained on stands for the same images, sizes, grey values and division; its
            data_options need not be given again, and those that are given go before.
        normalise: Let the file normalise its images, which are then between 0 and 1.
        batch_size: Number of images in a batch; by default any number.
        opset: Version of ONNX's operators.
        calibration: Number of training images that the ranges of int8 are taken from; the seed chooses them.
    """

    student: nn.Module | os.PathLike[str] | str
    format: str = "onnx"
    out: str | os.PathLike[str] | None = None
    _: KW_ONLY
    card: ModelCard | Mapping[str, object] | None = None
    dataset: Splits | os.PathLike[str] | str | None = field(default=None, metadata=DATA_NAME)
    normalise: bool = False
    batch_size: int | None = None
    opset: int = 18
    calibration: int = 512
