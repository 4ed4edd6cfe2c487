"""Write a trained student as ONNX, as a program of torch.export, or as ONNX in int8, and check it."""

from __future__ import annotations

import inspect
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from search_spaces.input_spec import ImageSpec
from search_spaces.registry import unknown_name_message
from search_spaces.yaml_files import read_yaml

from ..checks import check_options, check_whole
from ..data.image_sets import ImageSet
from ..data.splits import Splits, create_splits
from ..deployment.latency import check_batch
from ..deployment.onnx_graph import ExportError, exporting, require_onnx
from ..networks.saved import CONFIG, DISTILLATION, ModelCard, find_student, load_student, read_card
from ..options.base import from_options, keywords, options_in
from ..options.data import DATA_SET_NAMES, CreateSplitsOptions
from ..options.export import ExportOptions
from ..options.shared import LabelOptions
from ..resolve.data import as_splits
from ..runtime.files import RUN_OPTIONS
from .exported import (
    METADATA,
    Exported,
    ExportReport,
    accuracies,
    batches_of,
    bytes_of,
    check_call,
    checked_export,
    example_batch,
    latency_of,
    metadata_of,
    network_runner,
    onnx_runner,
    prepared_network,
    program_runner,
    write_exported,
)
from .quantisation import as_int8

FORMATS = {"onnx": "student.onnx", "torch": "student.pt2", "int8": "student.int8.onnx"}
"""The formats, with the name of the file."""


_DIVISION = tuple(key for key in keywords(CreateSplitsOptions) if key not in keywords(LabelOptions))
"""Options of `create_splits` that stand again for the data of a training, as far as `Splits.config` holds them."""

_OPENING = ("root", "resident_limit")
"""Options of `create_splits` that say where the images lie and how they are held, which no card tells."""

Student = str | os.PathLike[str] | nn.Module
"""A run folder of a training, the folder or file of a student, or a module."""


@from_options(ExportOptions)
def export(options: ExportOptions) -> ExportReport:
    """
    Returns:
        The report of the file: sizes, difference from the network, latency, accuracies.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        FileNotFoundError: There is no student.
        ValueError: An unknown format, a data set that does not fit or is missing, or one of the name of that which
            the student was trained on, but with other images.
        ExportError: The network cannot be exported, or the file does not compute what the network does, or cannot be
            written.
    """
    return write_export(options)


def export_lines(options: ExportOptions) -> tuple[str]:
    """Export a student; returns the report for a terminal."""
    return (str(write_export(options)),)


def write_export(options: ExportOptions) -> ExportReport:
    """Export a student; see `export`."""
    format, batch_size, normalise = options.format, options.batch_size, options.normalise
    if format not in FORMATS:
        raise ValueError(unknown_name_message("format", format, FORMATS))
    if format == "int8" and options.dataset is None:
        raise ValueError("int8 is calibrated on training images; give `dataset` (--dataset).")
    if format != "torch":
        require_onnx()
    check_whole("calibration", options.calibration, least=1)
    check_options("data set", options.data_options or {}, keywords(CreateSplitsOptions))
    network, card = _read_student(options.student, as_card(options.card))
    path = _target(options.student, format, options.out)
    check_call(path, batch_size, options.opset if format != "torch" else None)
    splits = _fitting_splits(options.dataset, options.data_options or {}, card, options.student)
    if format == "torch":
        made = checked_export(_as_program(network, path, card, normalise, batch_size), network, card)
    else:
        made = checked_export(_as_onnx(network, path, card, normalise, batch_size, options.opset), network, card)
    if format == "int8":
        assert splits is not None
        made = as_int8(made, path, _draw(splits.train, options.calibration, options.seed))
    write_exported(path, made.content)
    report = replace(made.report, latency=latency_of(made, card))
    if splits is None:
        return report
    float_accuracy, accuracy = accuracies([network_runner(network, card), made.run], splits.test)
    return replace(report, accuracy=accuracy, float_accuracy=float_accuracy, samples=len(splits.test))


def as_card(card: ModelCard | Mapping[str, object] | None) -> ModelCard | None:
    """The card; a mapping of its fields becomes one.

    Raises:
        ValueError: The mapping has no such field, or lacks one.
    """
    if not isinstance(card, Mapping):
        return card
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in card.items()}
    try:
        return ModelCard(**values)
    except TypeError as error:
        raise ValueError(f"card is no ModelCard: {error}.") from None


def export_onnx(
    student: Student,
    path: str | os.PathLike[str],
    *,
    card: ModelCard | None = None,
    normalise: bool = False,
    batch_size: int | None = None,
    opset: int = 18,
    images: Tensor | None = None,
    check: bool = True,
) -> ExportReport:
    """Write a student as ONNX: input "images" (N, C, H, W), output "logits" (N, classes).

    The metadata of the file describe it: name, classes, mean, std, input_size and whether it normalises.

    Args:
        student: See `export`.
        path: The file.
        card: Description of the network, for a module or in place of the student's own.
        normalise: Let the graph normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        opset: Version of ONNX's operators.
        images: Real images to check with, next to random ones, (N, C, H, W) between 0 and 1.
        check: Compare with the network through onnxruntime, at several batch sizes; see `TOLERANCE`.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        ExportError: The network cannot be exported, or the file does not compute what the network does.
    """
    require_onnx()
    check_call(Path(path), batch_size, opset)
    network, card = _read_student(student, card)
    made = _as_onnx(network, Path(path), card, normalise, batch_size, opset)
    if check:
        made = checked_export(made, network, card, images)
    write_exported(made.report.path, made.content)
    return made.report


def export_torch(
    student: Student,
    path: str | os.PathLike[str],
    *,
    card: ModelCard | None = None,
    normalise: bool = False,
    batch_size: int | None = None,
    images: Tensor | None = None,
    check: bool = True,
) -> ExportReport:
    """Write a student as a program of torch.export, which `torch.export.load(path).module()` runs without our code.

    The metadata lie in the file as the text `card.json`, which `extra_files` of `torch.export.load` reads.

    Args:
        student: See `export`.
        path: The file; torch wants it to end in `.pt2`.
        card: Description of the network, for a module or in place of the student's own.
        normalise: Let the program normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        images: Real images to check with, next to random ones, (N, C, H, W) between 0 and 1.
        check: Load the program again and compare it with the network, at several batch sizes; see `TOLERANCE`.

    Raises:
        ExportError: The network cannot be exported, or the program does not compute what the network does.
    """
    check_call(Path(path), batch_size)
    network, card = _read_student(student, card)
    made = _as_program(network, Path(path), card, normalise, batch_size)
    if check:
        made = checked_export(made, network, card, images)
    write_exported(made.report.path, made.content)
    return made.report


def _check_batch(card: ModelCard, batch_size: int | None) -> None:
    """Refuse a batch that cannot be held in memory."""
    if batch_size is not None:
        check_batch(ImageSpec(*card.input_size), batch_size, "batch_size")


def _as_onnx(
    network: nn.Module, path: Path, card: ModelCard, normalise: bool, batch_size: int | None, opset: int
) -> Exported:
    onnx = require_onnx()
    _check_batch(card, batch_size)
    with exporting(card.name, "ONNX"):
        model = onnx.load_from_string(_to_onnx(prepared_network(network, card, normalise), card, batch_size, opset))
        _remove_notes(model.graph)
        onnx.helper.set_model_props(model, metadata_of(card, normalise, batch_size))
        onnx.checker.check_model(model)
        content = model.SerializeToString()
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(
            f"{card.name} cannot be exported with opset {opset}: torch {torch.__version__} writes {written} instead. "
            f"Give opset {written}, or a later one that ONNX has."
        )
    report = ExportReport("onnx", path, len(content), bytes_of(network), batch_size, normalise)
    return Exported(report, content, lambda: onnx_runner(content))


def _as_program(network: nn.Module, path: Path, card: ModelCard, normalise: bool, batch_size: int | None) -> Exported:
    _check_batch(card, batch_size)
    with exporting(card.name, "torch.export"):
        model = prepared_network(network, card, normalise)
        shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (example_batch(card, batch_size),), dynamic_shapes=shapes, strict=False)
        file = io.BytesIO()
        metadata = json.dumps(metadata_of(card, normalise, batch_size))
        torch.export.save(program, file, extra_files={METADATA: metadata})
    content = file.getvalue()
    report = ExportReport("torch", path, len(content), bytes_of(network), batch_size, normalise)
    return Exported(report, content, lambda: program_runner(content, path))


def _remove_notes(graph: Any) -> None:
    """Remove what torch notes of each node: the lines of code, with paths of this machine, that it comes from.

    In a network of many small layers the notes take a quarter of the file.
    """
    for entry in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _remove_notes(inner)


def _to_onnx(network: nn.Module, card: ModelCard, batch_size: int | None, opset: int) -> bytes:
    """The graph, by the exporter that this version of torch prefers."""
    images = (example_batch(card, batch_size),)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "opset_version": opset}
    if inspect.signature(torch.onnx.export).parameters["dynamo"].default:
        shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(network, images, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        assert program is not None
        return program.model_proto.SerializeToString()
    axes = None if batch_size else {"images": {0: "batch"}, "logits": {0: "batch"}}
    file: Any = io.BytesIO()  # which all versions that prefer this exporter write to
    torch.onnx.export(network, images, file, dynamic_axes=axes, **names)
    return cast(bytes, file.getvalue())


def _read_student(student: Student, card: ModelCard | None) -> tuple[nn.Module, ModelCard]:
    if isinstance(student, nn.Module):
        if card is None:
            raise ValueError("A module needs a `card` that describes it; see ModelCard.")
        return student, card
    return load_student(student), card or read_card(student)


def _target(student: Student, format: str, out: str | os.PathLike[str] | None) -> Path:
    if out is None:
        if isinstance(student, nn.Module):
            raise ValueError("A module has no folder of its own; pass `out=`.")
        return find_student(student).with_name(FORMATS[format])
    path = Path(out)
    if path.is_dir() or os.fspath(out).endswith(("/", os.sep)):
        path = path / FORMATS[format]
    if not isinstance(student, nn.Module) and path.resolve() in _files_of(student):
        raise ValueError(f"{path} is a file of the student itself; give another `out`.")
    return path


def _files_of(student: str | os.PathLike[str]) -> set[Path]:
    weights = find_student(student)
    return {weights.resolve(), weights.with_name(CONFIG).resolve()}


def _fitting_splits(
    dataset: Splits | os.PathLike[str] | str | None,
    data_options: Mapping[str, object],
    card: ModelCard,
    student: Student,
) -> Splits | None:
    """The data set, for images of the network's size; the one that it was trained on is divided as it was then."""
    if isinstance(dataset, str):
        dataset = _as_in_training(dataset, data_options, card, student)
    elif data_options:
        raise ValueError("data_options are for a data set that is given by its name.")
    if dataset is None:
        return None
    splits = as_splits(dataset)
    if splits.num_classes != card.num_classes:
        raise ValueError(f"{splits.name} has {splits.num_classes} classes, but {card.name} is for {card.num_classes}.")
    if splits.input_size != card.input_size:
        raise ValueError(f"{splits.name} has images of {splits.input_size}, but {card.name} is for {card.input_size}.")
    return splits


def _as_in_training(name: str, data_options: Mapping[str, Any], card: ModelCard, student: Student) -> Splits:
    """Open the data set of this name; that of the training is divided as it was, unless the options differ."""
    trained = card.made_of.get("data")
    if not isinstance(trained, Mapping) or trained.get("name") != (name or "folder"):
        with options_in("data_options", DATA_SET_NAMES):
            return create_splits(name, **{"image_size": card.input_size[1], **data_options})
    stored = {key: trained[key] for key in _DIVISION if trained.get(key) is not None}
    splits = create_splits(name, **_opened_by(student, name) | stored | dict(data_options))
    divided_anew = any(data_options[key] != trained.get(key) for key in _DIVISION if key in data_options)
    if divided_anew or splits.fingerprint == trained.get("fingerprint"):
        return splits
    raise ValueError(
        f"The images of {name} are not those that {card.name} was trained and tested on, as their fingerprint tells; "
        "its accuracy would be of others. Give the data_options that it was trained with, such as root or "
        "resident_limit, or make splits and give those as `dataset`."
    )


def _opened_by(student: Student, name: str) -> dict[str, Any]:
    """Where and how the run of a training opened its data set, which only its config.yaml says; empty without one."""
    if isinstance(student, nn.Module):
        return {}
    run = find_student(student).absolute().parent.parent
    files = [run / RUN_OPTIONS, *([run.parent / RUN_OPTIONS] if run.name == DISTILLATION else [])]
    options = next((read_yaml(file) for file in files if file.is_file()), None)
    if not isinstance(options, Mapping) or options.get("dataset") != name:
        return {}
    given = options.get("data_options")
    return {key: given[key] for key in _OPENING if key in given} if isinstance(given, Mapping) else {}


def _draw(images: ImageSet, number: int, seed: int) -> Tensor:
    """So many images of a set, or all."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:number]
    return torch.cat([batch.images for batch in batches_of(images, order)])
