"""A trained student in the formats of others: ONNX, torch.export and int8, checked, with what accuracy they lose."""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import inspect
import io
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.registry import unknown_name_message

from .run_folder import write_atomically
from .search import check_whole
from .seeding import isolated_random_state
from .splits import ImageSet, Splits, as_splits, create_splits
from .student_files import CONFIG, ModelCard, find_student, load_student, read_card

FORMATS = {"onnx": "student.onnx", "torch": "student.pt2", "int8": "student.int8.onnx"}
"""What a student can be exported to, and the name of the file."""

TOLERANCE = 1e-4
"""How far an exported network's logits may be off, as a share of the largest one.

Sums in single precision taken in another order differ by some 1e-6 of it; a wrong operator differs by far more.
"""

_DIVISION = (
    *("image_size", "train_split", "val_split", "test_split", "val_share", "test_share", "train_limit", "seed"),
    *("num_classes", "mean", "std"),
)
"""What a data set is divided by, and normalised, as `create_splits` takes it and `Splits.config` says it."""

_QUANTISED = ["Conv", "Gemm", "MatMul"]  # where the work is; normalisations and attention's softmax lose too much
_METADATA = "card.json"
_BATCH_SIZES = (1, 2, 7)  # the network is traced with 2
_LARGEST = 256


class ExportError(RuntimeError):
    """A network that cannot be exported, or an exported file that does not compute what the network does."""


@dataclass(frozen=True)
class ExportReport:
    """An exported file and what is known of it.

    Attributes:
        format: A name of `FORMATS`.
        path: The file.
        bytes: Its size.
        float_bytes: Size of what it was made from, in single precision: of the ONNX file for int8, of the weights else.
        batch_size: Images of a batch that it takes; None takes any number.
        normalised: Whether the file normalises its images itself.
        difference: Largest difference of a logit from the network's, as a share of the largest logit.
        checked: Images that it was taken over; none where it was not checked.
        tolerance: What the difference was held against; None of int8, which is not the same function.
        accuracy: Share of test images that the file gets right, in percent.
        float_accuracy: The same of the network in single precision.
        samples: Test images.
    """

    format: str
    path: Path
    bytes: int
    float_bytes: int
    batch_size: int | None
    normalised: bool
    difference: float | None = None
    checked: int = 0
    tolerance: float | None = None
    accuracy: float | None = None
    float_accuracy: float | None = None
    samples: int = 0

    @property
    def lost(self) -> float | None:
        """Points of accuracy that the file has less than the network; None where no test images were given."""
        if self.accuracy is None or self.float_accuracy is None:
            return None
        return self.float_accuracy - self.accuracy

    def __str__(self) -> str:
        text = f"{self.path}: {self.bytes / 1e6:.2f} MB ({self.float_bytes / 1e6:.2f} MB in float32)"
        if self.difference is not None:
            text += f"; logits within {self.difference:.1e} of the network's largest, over {self.checked} images"
        if self.lost is not None:
            text += (
                f"; test accuracy {self.accuracy:.2f} %, {self.float_accuracy:.2f} % in float32: "
                f"{abs(self.lost):.2f} points {'lost' if self.lost >= 0 else 'gained'} over {self.samples} images"
            )
        return text


Source = str | os.PathLike[str] | nn.Module


def export(
    source: Source,
    format: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    card: ModelCard | None = None,
    dataset: Splits | str | None = None,
    data_options: Mapping[str, Any] | None = None,
    normalise: bool = False,
    batch_size: int | None = None,
    opset: int = 18,
    calibration: int = 512,
    seed: int = 0,
) -> ExportReport:
    """Write a trained student in another format, check it, and state the accuracy that it loses.

    Args:
        source: The run folder of a training, the folder or file of a student, or a module with its `card`.
        format: "onnx", "torch" (a .pt2 file of torch.export) or "int8" (ONNX, quantised).
        out: The file; by default beside the weights, under the name that `FORMATS` has.
        card: What a module is.
        dataset: Data set, or its name, whose test images the accuracy is taken on; int8 is calibrated on its
            training images. Given by name, the one that the student was trained on is divided as it was then.
        data_options: Options of `create_splits` for a name, such as `root`; they go before how it was divided then.
        normalise: Let the file normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        opset: Version of ONNX's operators.
        calibration: Training images that the ranges of int8 are taken from, at least 1.
        seed: Draws these images.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        FileNotFoundError: There is no student.
        ValueError: An unknown format, a data set that does not fit or is missing, or one of the name of that which
            the student was trained on, but with other images.
        ExportError: The network cannot be exported, or the file does not compute what the network does, or cannot be
            written.
    """
    if format not in FORMATS:
        raise ValueError(unknown_name_message("format", format, FORMATS))
    if format == "int8" and dataset is None:
        raise ValueError("int8 is calibrated on training images; give `dataset` (--dataset).")
    if format != "torch":
        _require_onnx()
    check_whole("calibration", calibration, least=1)
    network, card = _read_source(source, card)
    path = _target(source, format, out)
    _check_call(path, batch_size, opset if format != "torch" else None)
    splits = _fitting_splits(dataset, data_options or {}, card)
    if format == "torch":
        made = _checked(_as_program(network, path, card, normalise, batch_size), network, card)
    else:
        made = _checked(_as_onnx(network, path, card, normalise, batch_size, opset), network, card)
    if format == "int8":
        assert splits is not None
        made = _as_int8(made, path, _draw(splits.train, calibration, seed))
    _write(path, made.content)
    if splits is None:
        return made.report
    float_accuracy, accuracy = _accuracies([_network_runner(network, card), made.run], splits.test)
    return replace(made.report, accuracy=accuracy, float_accuracy=float_accuracy, samples=len(splits.test))


def export_onnx(
    source: Source,
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

    The metadata of the file say what it is: name, classes, mean, std, input_size and whether it normalises.

    Args:
        source: As for `export`.
        path: The file.
        card: What a module is.
        normalise: Let the graph normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        opset: Version of ONNX's operators.
        images: Real images to check with beside random ones, (N, C, H, W) between 0 and 1.
        check: Compare with the network through onnxruntime, at several batch sizes; see `TOLERANCE`.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        ExportError: The network cannot be exported, or the file does not compute what the network does.
    """
    _require_onnx()
    _check_call(Path(path), batch_size, opset)
    network, card = _read_source(source, card)
    made = _as_onnx(network, Path(path), card, normalise, batch_size, opset)
    if check:
        made = _checked(made, network, card, images)
    _write(made.report.path, made.content)
    return made.report


def export_torch(
    source: Source,
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
        source: As for `export`.
        path: The file; torch wants it to end in `.pt2`.
        card: What a module is.
        normalise: Let the program normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        images: Real images to check with beside random ones, (N, C, H, W) between 0 and 1.
        check: Load the program again and compare it with the network, at several batch sizes; see `TOLERANCE`.

    Raises:
        ExportError: The network cannot be exported, or the program does not compute what the network does.
    """
    _check_call(Path(path), batch_size)
    network, card = _read_source(source, card)
    made = _as_program(network, Path(path), card, normalise, batch_size)
    if check:
        made = _checked(made, network, card, images)
    _write(made.report.path, made.content)
    return made.report


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
    _require_onnx()
    _check_call(Path(path), batch_size)
    content = Path(source).read_bytes()
    run = _onnx_runner(content)
    report = ExportReport("onnx", Path(source), len(content), len(content), run.batch_size, run.normalised)
    made = _as_int8(_Exported(report, content, lambda: run), Path(path), images, batch_size)
    _write(made.report.path, made.content)
    return made.report


# -- how they are made --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exported:
    """A file before it is written: what is known of it, what it holds, and how it is run, once somebody asks."""

    report: ExportReport
    content: bytes
    load: Callable[[], _Runner]

    @cached_property
    def run(self) -> _Runner:
        return self.load()


def _as_onnx(
    network: nn.Module, path: Path, card: ModelCard, normalise: bool, batch_size: int | None, opset: int
) -> _Exported:
    onnx = _require_onnx()
    with _exporting(card.name, "ONNX"):
        model = onnx.load_from_string(_to_onnx(_prepared(network, card, normalise), card, batch_size, opset))
        onnx.helper.set_model_props(model, _metadata(card, normalise, batch_size))
        onnx.checker.check_model(model)
        content = model.SerializeToString()
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(
            f"{card.name} cannot be exported with opset {opset}: torch {torch.__version__} writes {written} instead. "
            f"Give opset {written}, or a later one that ONNX has."
        )
    report = ExportReport("onnx", path, len(content), _bytes_of(network), batch_size, normalise)
    return _Exported(report, content, lambda: _onnx_runner(content))


def _as_program(network: nn.Module, path: Path, card: ModelCard, normalise: bool, batch_size: int | None) -> _Exported:
    with _exporting(card.name, "torch.export"):
        model = _prepared(network, card, normalise)
        shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (_example(card, batch_size),), dynamic_shapes=shapes, strict=False)
        file = io.BytesIO()
        metadata = json.dumps(_metadata(card, normalise, batch_size))
        torch.export.save(program, file, extra_files={_METADATA: metadata})
    content = file.getvalue()
    report = ExportReport("torch", path, len(content), _bytes_of(network), batch_size, normalise)
    return _Exported(report, content, lambda: _program_runner(content, path))


def _as_int8(original: _Exported, path: Path, images: Tensor, batch_size: int = 32) -> _Exported:
    """A file of ONNX quantised, with ranges from these images."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _check_images(images, original.run.input_size)
    with tempfile.TemporaryDirectory() as folder, _exporting(original.report.path, "int8"):
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
        content = _with_metadata(quantised, original.content)
    run, some = _onnx_runner(content), images[:_LARGEST]
    report = replace(
        original.report,
        format="int8",
        path=path,
        bytes=len(content),
        float_bytes=len(original.content),
        difference=_difference(run(some), original.run(some)),
        checked=len(some),
        tolerance=None,
    )
    return _Exported(report, content, lambda: run)


class _Normalised(nn.Module):
    """A network after the normalisation of its images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def _prepared(network: nn.Module, card: ModelCard, normalise: bool) -> nn.Module:
    """The network as it is exported: a copy on the CPU, in evaluation mode."""
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    return _Normalised(network, card.mean, card.std).eval() if normalise else network


def _example(card: ModelCard, batch_size: int | None) -> Tensor:
    return torch.rand(batch_size or 2, *card.input_size)


def _to_onnx(network: nn.Module, card: ModelCard, batch_size: int | None, opset: int) -> bytes:
    """The graph, by the exporter that this version of torch prefers."""
    images = (_example(card, batch_size),)
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


def _metadata(card: ModelCard, normalise: bool, batch_size: int | None) -> dict[str, str]:
    """What an exported file says of itself, as texts; all but the name are JSON."""
    values = asdict(card) | {"normalised": normalise, "batch_size": batch_size}
    return {key: value if key == "name" else json.dumps(value) for key, value in values.items()}


def _with_metadata(path: Path, original: bytes) -> bytes:
    """A quantised file with the metadata of the one that it was made from, which quantising drops."""
    onnx = _require_onnx()
    model = onnx.load(path)
    properties = onnx.load_from_string(original).metadata_props
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in properties})
    return cast(bytes, model.SerializeToString())


def _calibration(inputs: Tensor, batch_size: int) -> Any:
    """A reader of whole batches for onnxruntime; images are repeated where they do not fill one."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = iter(_filled(batch, batch_size) for batch in inputs.split(batch_size))

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()


def _filled(images: Tensor, batch_size: int) -> Tensor:
    """A batch of the size, made full by images that it has."""
    return images[torch.arange(batch_size) % len(images)]


def _bytes_of(network: nn.Module) -> int:
    return sum(value.nbytes for value in network.state_dict().values())


@contextlib.contextmanager
def _exporting(name: str | Path, target: str) -> Iterator[None]:
    """Errors of an exporter in one line, no warnings of its own code, and the random state left as it was."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # onnxruntime writes to this logger, which would otherwise configure itself for good
    of_torch = logging.getLogger("torch.onnx")
    level = of_torch.level
    of_torch.setLevel(logging.ERROR)
    with isolated_random_state(0), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|onnx\w*)\b")
        try:
            yield
        except Exception as error:  # exporters fail in any way, some with pages of text
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            raise ExportError(
                f"{name} cannot be exported to {target}: {type(error).__name__}: {first.strip()[:300]}"
            ) from error
        finally:
            root.removeHandler(handler)
            of_torch.setLevel(level)


def _require_onnx() -> Any:
    """The package onnx, once all of the extra are known to be there."""
    try:
        for package in ("onnxruntime", "onnxscript"):
            importlib.import_module(package)
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError(f"ONNX needs more packages ({error}): pip install 'diswot-search[onnx]'") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


# -- how they are checked -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Runner:
    """A network, in whatever form, that gives logits of images between 0 and 1."""

    compute: Callable[[Tensor], Tensor]
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalised: bool = False
    batch_size: int | None = None

    def prepare(self, images: Tensor) -> Tensor:
        """The images as the network takes them."""
        if self.normalised:
            return images
        return (images - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def __call__(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Logits of any number of images, computed in batches."""
        size = self.batch_size or batch_size
        logits = []
        with torch.no_grad():
            for batch in self.prepare(images).split(size):
                whole = batch if self.batch_size is None else _filled(batch, size)
                logits.append(self.compute(whole)[: len(batch)])
        return torch.cat(logits)


def _network_runner(network: nn.Module, card: ModelCard) -> _Runner:
    network = copy.deepcopy(network).cpu().eval()
    return _Runner(network, card.input_size, card.mean, card.std)


def _onnx_runner(content: bytes) -> _Runner:
    """A file of `export_onnx` or `quantise_onnx` in onnxruntime.

    Raises:
        ValueError: The file is of something else.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; what it warns of is how fast it is
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def compute(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return _described(compute, session.get_modelmeta().custom_metadata_map)


def _program_runner(content: bytes, path: Path) -> _Runner:
    """A file of `export_torch`."""
    texts = {_METADATA: ""}
    with _exporting(path, "torch.export and loaded"):
        program = torch.export.load(io.BytesIO(content), extra_files=texts).module()
    return _described(program, json.loads(texts[_METADATA]))


def _described(compute: Callable[[Tensor], Tensor], metadata: Mapping[str, str]) -> _Runner:
    try:
        size, mean, std = (tuple(json.loads(metadata[key])) for key in ("input_size", "mean", "std"))
        return _Runner(compute, size, mean, std, json.loads(metadata["normalised"]), json.loads(metadata["batch_size"]))
    except KeyError as error:
        raise ValueError(f"The file does not say what it is ({error} is missing); it was not exported here.") from None


def _checked(made: _Exported, network: nn.Module, card: ModelCard, images: Tensor | None = None) -> _Exported:
    """The file with its difference from the network, over random images and given ones.

    Raises:
        ExportError: It is larger than the tolerance.
    """
    report, expected = made.report, _network_runner(network, card)
    generator = torch.Generator().manual_seed(0)
    sizes = (report.batch_size,) if report.batch_size else _BATCH_SIZES
    batches = [torch.rand(size, *card.input_size, generator=generator) for size in sizes]
    if images is not None:
        _check_images(images, card.input_size)
        batches.append(images[:_LARGEST])
    differences = []
    for batch in batches:
        with _exporting(report.path, f"{report.format} and run"):
            found = made.run(batch, len(batch))
        differences.append(_difference(found, expected(batch)))
    worst = max(differences, key=lambda difference: math.inf if math.isnan(difference) else difference)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"The exported network is not the network: logits are off by {worst:.2g} of the largest, {TOLERANCE:g} is "
            f"allowed. {report.path} was not written."
        )
    checked = replace(report, difference=worst, tolerance=TOLERANCE, checked=sum(map(len, batches)))
    return _Exported(checked, made.content, lambda: made.run)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude; NaN where either is not finite."""
    difference = (found - expected).abs().max()
    return float(difference / expected.abs().max()) if difference else 0.0


def _check_images(images: Tensor, input_size: Sequence[int]) -> None:
    if images.ndim != 4 or not len(images) or tuple(images.shape[1:]) != tuple(input_size):
        raise ValueError(
            f"images are of shape {tuple(images.shape)}; needed are some of (N, {', '.join(map(str, input_size))})."
        )


# -- what a call is about -----------------------------------------------------------------------


def _check_call(path: Path, batch_size: int | None, opset: int | None = None) -> None:
    """Refuse, before any work, numbers that cannot be, and a file that cannot be written."""
    if batch_size is not None:
        check_whole("batch_size", batch_size, least=1)
    if opset is not None:
        check_whole("opset", opset, least=1)
        newest = _require_onnx().defs.onnx_opset_version()
        if opset > newest:
            raise ValueError(f"opset is {opset}; the newest that this version of ONNX has is {newest}.")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell
            pass
    except OSError as error:
        raise ExportError(f"Cannot write {path}: {error.strerror or error}.") from error


def _read_source(source: Source, card: ModelCard | None) -> tuple[nn.Module, ModelCard]:
    if isinstance(source, nn.Module):
        if card is None:
            raise ValueError("A module is exported with the `card` that says what it is; see ModelCard.")
        return source, card
    return load_student(source), card or read_card(source)


def _target(source: Source, format: str, out: str | os.PathLike[str] | None) -> Path:
    if out is None:
        if isinstance(source, nn.Module):
            raise ValueError("Where a module is exported to is not known; give `out`.")
        return find_student(source).with_name(FORMATS[format])
    path = Path(out)
    if path.is_dir() or os.fspath(out).endswith(("/", os.sep)):
        path = path / FORMATS[format]
    if not isinstance(source, nn.Module) and path.resolve() in _files_of(source):
        raise ValueError(f"{path} is a file of the student itself; give another `out`.")
    return path


def _files_of(source: str | os.PathLike[str]) -> set[Path]:
    weights = find_student(source)
    return {weights.resolve(), weights.with_name(CONFIG).resolve()}


def _fitting_splits(dataset: Splits | str | None, data_options: Mapping[str, Any], card: ModelCard) -> Splits | None:
    """The data set, for images of the network's size; the one that it was trained on is divided as it was then."""
    if isinstance(dataset, str):
        dataset = _as_in_training(dataset, data_options, card)
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


def _as_in_training(name: str, data_options: Mapping[str, Any], card: ModelCard) -> Splits:
    """The data set of this name; that of the training is divided as then, but for what the options say."""
    trained = card.made_of.get("data")
    if not isinstance(trained, Mapping) or trained.get("name") != (name or "folder"):
        return create_splits(name, **{"image_size": card.input_size[1], **data_options})
    stored = {key: trained[key] for key in _DIVISION if trained.get(key) is not None}
    splits = create_splits(name, **stored | dict(data_options))
    divided_anew = any(data_options[key] != trained.get(key) for key in _DIVISION if key in data_options)
    if divided_anew or splits.fingerprint == trained.get("fingerprint"):
        return splits
    raise ValueError(
        f"The images of {name} are not those that {card.name} was trained and tested on, as their fingerprint tells; "
        "its accuracy would be of others. Give the data_options that it was trained with, such as root or "
        "resident_limit, or make splits and give those as `dataset`."
    )


def _batches(images: ImageSet, order: Tensor, batch_size: int = _LARGEST) -> Iterator[Any]:
    return images.batches(order, batch_size, device=torch.device("cpu"), augment=None, seed=0)


def _draw(images: ImageSet, number: int, seed: int) -> Tensor:
    """So many images of a set, or all."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:number]
    return torch.cat([batch.images for batch in _batches(images, order)])


def _accuracies(runners: Sequence[_Runner], images: ImageSet) -> list[float]:
    """Share of images whose class each of the networks finds, in percent."""
    right = [0] * len(runners)
    for batch in _batches(images, torch.arange(len(images))):
        for place, run in enumerate(runners):
            right[place] += int((run(batch.images).argmax(1) == batch.labels).sum())
    return [100 * count / len(images) for count in right]
