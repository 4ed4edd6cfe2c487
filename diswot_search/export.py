"""A trained student in the formats of others: ONNX, torch.export and int8, checked, with what accuracy they lose."""

from __future__ import annotations

import contextlib
import copy
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
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.registry import unknown_name_message

from .run_folder import write_atomically
from .seeding import isolated_random_state
from .splits import ImageSet, Splits, create_splits
from .student_files import ModelCard, find_student, load_student, read_card

FORMATS = {"onnx": "student.onnx", "torch": "student.pt2", "int8": "student.int8.onnx"}
"""What a student can be exported to, and the name of the file."""

TOLERANCE = 1e-4
"""How far an exported network's logits may be off, as a share of the largest one.

Sums in single precision taken in another order differ by some 1e-6 of it; a wrong operator differs by far more.
"""

_DIVISION = (
    *("image_size", "train_split", "val_split", "test_split", "val_share", "test_share", "train_limit", "seed"),
    "num_classes",
)
"""What decides which images of a data set are test images, as `create_splits` takes it."""

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
                f"{self.lost:.2f} points lost over {self.samples} images"
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
    root: str | None = None,
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
        root: Where the data set lies.
        normalise: Let the file normalise its images, which are then between 0 and 1.
        batch_size: Images of a batch; by default any number.
        opset: Version of ONNX's operators.
        calibration: Training images that the ranges of int8 are taken from.
        seed: Draws these images.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        FileNotFoundError: There is no student.
        ValueError: An unknown format, or a data set that does not fit or is missing.
        ExportError: The network cannot be exported, or the file does not compute what the network does.
    """
    if format not in FORMATS:
        raise ValueError(unknown_name_message("format", format, FORMATS))
    if format == "int8" and dataset is None:
        raise ValueError("int8 is calibrated on training images; give `dataset`.")
    if format != "torch":
        _require_onnx()
    network, card = _read_source(source, card)
    path = _target(source, format, out)
    splits = _fitting_splits(dataset, root, card)
    if format == "torch":
        report = export_torch(network, path, card=card, normalise=normalise, batch_size=batch_size)
        run = _program_runner(path.read_bytes(), path)
    elif format == "onnx":
        report = export_onnx(network, path, card=card, normalise=normalise, batch_size=batch_size, opset=opset)
        run = _onnx_runner(path.read_bytes())
    else:
        assert splits is not None
        images = _draw(splits.train, calibration, seed)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / FORMATS["onnx"]
            export_onnx(network, whole, card=card, normalise=normalise, batch_size=batch_size, opset=opset)
            report = quantise_onnx(whole, path, images)
        run = _onnx_runner(path.read_bytes())
    if splits is None:
        return report
    return replace(
        report,
        accuracy=_accuracy(run, splits.test),
        float_accuracy=_accuracy(_network_runner(network, card), splits.test),
        samples=len(splits.test),
    )


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
    onnx = _require_onnx()
    network, card = _read_source(source, card)
    with _exporting(card.name, "ONNX"):
        model = onnx.load_from_string(_to_onnx(_prepared(network, card, normalise), card, batch_size, opset))
        onnx.helper.set_model_props(model, _metadata(card, normalise, batch_size))
        onnx.checker.check_model(model)
        content = model.SerializeToString()
    report = ExportReport("onnx", Path(path), len(content), _bytes_of(network), batch_size, normalise)
    if check:
        report = _checked(report, _network_runner(network, card), _onnx_runner(content), images)
    _write(report.path, content)
    return report


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
    network, card = _read_source(source, card)
    with _exporting(card.name, "torch.export"):
        model = _prepared(network, card, normalise)
        shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (_example(card, batch_size),), dynamic_shapes=shapes, strict=False)
        file = io.BytesIO()
        metadata = json.dumps(_metadata(card, normalise, batch_size))
        torch.export.save(program, file, extra_files={_METADATA: metadata})
    content = file.getvalue()
    report = ExportReport("torch", Path(path), len(content), _bytes_of(network), batch_size, normalise)
    if check:
        report = _checked(report, _network_runner(network, card), _program_runner(content, report.path), images)
    _write(report.path, content)
    return report


def quantise_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Tensor,
    *,
    method: str = "minmax",
    batch_size: int = 32,
) -> ExportReport:
    """Quantise an ONNX file of `export_onnx` to 8-bit integers after training, by onnxruntime.

    Convolutions and matrix products are quantised: their weights with a scale per channel, their inputs with one per
    tensor from the ranges on the images. Both are signed and stand between QuantizeLinear and DequantizeLinear.

    Args:
        source: The file in single precision.
        path: The quantised file.
        images: Training images, (N, C, H, W) between 0 and 1.
        method: How ranges are taken: "minmax", "entropy" or "percentile".
        batch_size: Images that are computed at a time.

    Raises:
        ImportError: The packages of the extra "onnx" are missing.
        ValueError: There are no images, or of another shape, an unknown method, or a file of something else.
        ExportError: onnxruntime cannot quantise the file.
    """
    _require_onnx()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    if method not in methods:
        raise ValueError(unknown_name_message("method", method, methods))
    content = Path(source).read_bytes()
    original = _onnx_runner(content)
    _check_images(images, original.input_size)
    with tempfile.TemporaryDirectory() as folder, _exporting(str(source), "int8"):
        whole, quantised = Path(folder) / "whole.onnx", Path(folder) / "quantised.onnx"
        # Folds batch normalisation into convolutions, whose ranges would be taken apart otherwise.
        quant_pre_process(str(source), str(whole), skip_symbolic_shape=True)
        quantize_static(
            str(whole),
            str(quantised),
            _calibration(original.prepare(images), original.batch_size or batch_size),
            op_types_to_quantize=_QUANTISED,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[methods[method]],
        )
        result = _with_metadata(quantised, content)
    run, some = _onnx_runner(result), images[:_LARGEST]
    difference = _difference(run(some), original(some))
    kind = (original.batch_size, original.normalised)
    report = ExportReport("int8", Path(path), len(result), len(content), *kind, difference, len(some))
    _write(report.path, result)
    return report


# -- how they are made --------------------------------------------------------------------------


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


def _checked(report: ExportReport, network: _Runner, exported: _Runner, images: Tensor | None) -> ExportReport:
    """The report with the difference, over random images and given ones.

    Raises:
        ExportError: It is larger than the tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (report.batch_size,) if report.batch_size else _BATCH_SIZES
    batches = [torch.rand(size, *network.input_size, generator=generator) for size in sizes]
    if images is not None:
        _check_images(images, network.input_size)
        batches.append(images[:_LARGEST])
    differences = []
    for batch in batches:
        with _exporting(report.path, f"{report.format} and run"):
            found = exported(batch, len(batch))
        differences.append(_difference(found, network(batch)))
    worst = max(differences, key=lambda difference: math.inf if math.isnan(difference) else difference)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"The exported network is not the network: logits are off by {worst:.2g} of the largest, {TOLERANCE:g} is "
            f"allowed. {report.path} was not written."
        )
    return replace(report, difference=worst, tolerance=TOLERANCE, checked=sum(map(len, batches)))


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
    return path / FORMATS[format] if path.is_dir() else path


def _fitting_splits(dataset: Splits | str | None, root: str | None, card: ModelCard) -> Splits | None:
    """The data set, for images of the network's size; the one that it was trained on is divided as it was then."""
    if isinstance(dataset, str):
        trained = card.made_of.get("data")
        options: dict[str, Any] = {"image_size": card.input_size[1]}
        if isinstance(trained, Mapping) and trained.get("name") == dataset:
            options = {key: trained[key] for key in _DIVISION if trained.get(key) is not None}
        dataset = create_splits(dataset, root=root, **options)
    if dataset is None:
        return None
    found, wanted = (dataset.num_classes, *dataset.input_size), (card.num_classes, *card.input_size)
    if found != wanted:
        raise ValueError(
            f"{dataset.name} has {found[0]} classes and images of {found[1:]}, but {card.name} is for {wanted[0]} "
            f"classes and {wanted[1:]}."
        )
    return dataset


def _batches(images: ImageSet, order: Tensor, batch_size: int = _LARGEST) -> Iterator[Any]:
    return images.batches(order, batch_size, device=torch.device("cpu"), augment=None, seed=0)


def _draw(images: ImageSet, number: int, seed: int) -> Tensor:
    """So many images of a set, or all."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:number]
    return torch.cat([batch.images for batch in _batches(images, order)])


def _accuracy(runner: _Runner, images: ImageSet) -> float:
    """Share of images whose class is found, in percent."""
    right = 0
    for batch in _batches(images, torch.arange(len(images))):
        right += int((runner(batch.images).argmax(1) == batch.labels).sum())
    return 100 * right / len(images)
