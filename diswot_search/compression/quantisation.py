"""ONNX files in int8: calibration on training images, and the quantised graph."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..deployment.onnx_graph import exporting, require_onnx
from .exported import (
    LARGEST_BATCH,
    Exported,
    ExportReport,
    check_call,
    check_image_size,
    difference_to_network,
    filled_batch,
    onnx_runner,
    with_metadata,
    write_exported,
)

_QUANTISED = ["Conv", "Gemm", "MatMul"]  # where the work is; normalisations and attention's softmax lose too much


def quantise_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    batch_size: int = 32,
) -> ExportReport:
    """Quantise an ONNX file of `export_onnx` to 8-bit integers after training, by onnxruntime.

    Convolutions and matrix products are quantised: their weights with a scale per channel, their inputs with one per
    tensor from the ranges on the images. Both are signed and stand between QuantizeLinear and DequantizeLinear.

    Args:
        source: The file in single precision.
        path: The quantised file.
        images: Training images, (N, C, H, W) between 0 and 1.
        batch_size: Images that are computed at a time.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        ValueError: There are no images, or of another shape, or a file of something else.
        ExportError: onnxruntime cannot quantise the file.
    """
    require_onnx()
    check_call(Path(path), batch_size)
    content = Path(source).read_bytes()
    run = onnx_runner(content)
    report = ExportReport("onnx", Path(source), len(content), len(content), run.batch_size, run.normalised)
    made = as_int8(Exported(report, content, lambda: run), Path(path), images, batch_size)
    write_exported(made.report.path, made.content)
    return made.report


def as_int8(original: Exported, path: Path, images: Tensor, batch_size: int = 32) -> Exported:
    """A file of ONNX quantised, with ranges from these images."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    check_image_size(images, original.run.input_size)
    with tempfile.TemporaryDirectory() as folder, exporting(original.report.path, "int8"):
        source, whole, quantised = (Path(folder) / f"{name}.onnx" for name in ("source", "whole", "quantised"))
        source.write_bytes(original.content)
        # Folds batch normalisation into convolutions, whose ranges would be taken apart otherwise.
        quant_pre_process(str(source), str(whole), skip_symbolic_shape=True)
        quantize_static(
            str(whole),
            str(quantised),
            _calibration(original.run.prepare(images), original.run.batch_size or batch_size),
            op_types_to_quantize=_QUANTISED,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        content = with_metadata(quantised, original.content)
    run, some = onnx_runner(content), images[:LARGEST_BATCH]
    report = replace(
        original.report,
        format="int8",
        path=path,
        bytes=len(content),
        float_bytes=len(original.content),
        difference=difference_to_network(run(some), original.run(some)),
        checked=len(some),
        tolerance=None,
    )
    return Exported(report, content, lambda: run)


def _calibration(inputs: Tensor, batch_size: int) -> object:
    """A reader of whole batches for onnxruntime; images are repeated where they do not fill one."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = iter(filled_batch(batch, batch_size) for batch in inputs.split(batch_size))

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()
