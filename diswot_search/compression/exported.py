"""A student as a file of another runtime: written, run, and compared with the network."""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..checks import check_whole
from ..data.image_sets import Images, ImageSet
from ..deployment.latency import Latency, time_passes
from ..deployment.onnx_graph import ExportError, exporting, require_onnx
from ..deployment.runtimes import RUNTIMES, onnx_pass
from ..networks.preprocessing import Preprocessed, Preprocessor
from ..networks.saved import ModelCard
from ..runtime.files import write_atomically

TOLERANCE = 1e-4
"""How far an exported network's logits may be off, as a share of the largest one.

Sums in single precision taken in another order differ by some 1e-6 of it; a wrong operator differs by far more.
"""


METADATA = "card.json"


_BATCH_SIZES = (1, 2, 7)  # the network is traced with 2


LARGEST_BATCH = 256


@dataclass(frozen=True)
class ExportReport:
    """The report of an exported file.

    Attributes:
        format: A name of `FORMATS`.
        path: The file.
        bytes: Its size.
        float_bytes: Size in single precision: of the ONNX file for int8, else of the weights.
        batch_size: Number of images in a batch; None for any number.
        normalised: Whether the file normalises its images itself.
        difference: Largest difference of a logit from the network's, as a share of the largest logit.
        checked: Number of images that were compared; 0 without a check.
        tolerance: The largest difference that is allowed; None for int8, which is another function.
        accuracy: Share of test images that the file gets right, in percent.
        float_accuracy: The same of the network in single precision.
        samples: Test images.
        latency: Time of one batch, or of one image for any number: of an ONNX file in onnxruntime, of a program in
            PyTorch, with one thread; None if it was not measured.
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
    latency: Latency | None = None

    @property
    def lost(self) -> float | None:
        """Points of accuracy that the file loses against the network; None without test images."""
        if self.accuracy is None or self.float_accuracy is None:
            return None
        return self.float_accuracy - self.accuracy

    def __str__(self) -> str:
        text = f"{self.path}: {self.bytes / 1e6:.2f} MB ({self.float_bytes / 1e6:.2f} MB in float32)"
        if self.difference is not None:
            text += f"; logits within {self.difference:.1e} of the network's largest, over {self.checked} images"
        if self.latency is not None:
            text += f"; {self.latency}"
        if self.lost is not None:
            text += (
                f"; test accuracy {self.accuracy:.2f} %, {self.float_accuracy:.2f} % in float32: "
                f"{abs(self.lost):.2f} points {'lost' if self.lost >= 0 else 'gained'} over {self.samples} images"
            )
        return text


# -- how they are made --------------------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    """A file before it is written: its report, its content, and how to run it."""

    report: ExportReport
    content: bytes
    load: Callable[[], _Runner]

    @cached_property
    def run(self) -> _Runner:
        return self.load()


def prepared_network(network: nn.Module, card: ModelCard, normalise: bool) -> nn.Module:
    """Copy a network for its export: on the CPU, in evaluation mode."""
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    return Preprocessed(network, Preprocessor(card.mean, card.std)).eval() if normalise else network


def example_batch(card: ModelCard, batch_size: int | None) -> Tensor:
    return torch.rand(batch_size or 2, *card.input_size)


def metadata_of(card: ModelCard, normalise: bool, batch_size: int | None) -> dict[str, str]:
    """The metadata of an exported file as texts; all but the name are JSON."""
    values = asdict(card) | {"normalised": normalise, "batch_size": batch_size}
    return {key: value if key == "name" else json.dumps(value) for key, value in values.items()}


def with_metadata(path: Path, original: bytes) -> bytes:
    """A quantised file with the metadata of the one that it was made from, which quantising drops."""
    onnx = require_onnx()
    model = onnx.load(path)
    properties = onnx.load_from_string(original).metadata_props
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in properties})
    return cast(bytes, model.SerializeToString())


def filled_batch(images: Tensor, batch_size: int) -> Tensor:
    """A batch of the size, made full by images that it has."""
    return images[torch.arange(batch_size) % len(images)]


def latency_of(made: Exported, card: ModelCard) -> Latency:
    """The time of one pass of an exported file, with one thread on the CPU."""
    batch_size = made.report.batch_size or 1
    batch = example_batch(card, batch_size)
    if made.report.format == "torch":
        compute = made.run.compute
        return time_passes(lambda: compute(batch), RUNTIMES["eager"], threads=1, batch_size=batch_size)
    run = onnx_pass(made.content, batch, 1)
    return time_passes(run, RUNTIMES["onnxruntime"], threads=1, batch_size=batch_size)


def bytes_of(network: nn.Module) -> int:
    return sum(value.nbytes for value in network.state_dict().values())


def write_exported(path: Path, content: bytes) -> None:
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
        return Preprocessor(self.mean, self.std)(images)

    def __call__(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Logits of any number of images, computed in batches."""
        size = self.batch_size or batch_size
        logits = []
        with torch.no_grad():
            for batch in self.prepare(images).split(size):
                whole = batch if self.batch_size is None else filled_batch(batch, size)
                logits.append(self.compute(whole)[: len(batch)])
        return torch.cat(logits)


def network_runner(network: nn.Module, card: ModelCard) -> _Runner:
    network = copy.deepcopy(network).cpu().eval()
    return _Runner(network, card.input_size, card.mean, card.std)


def onnx_runner(content: bytes) -> _Runner:
    """A file of `export_onnx` or `quantise_onnx` in onnxruntime.

    Raises:
        ValueError: The file is of something else.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only; its warnings are about speed
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def compute(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return _described(compute, session.get_modelmeta().custom_metadata_map)


def program_runner(content: bytes, path: Path) -> _Runner:
    """A file of `export_torch`."""
    texts = {METADATA: ""}
    with exporting(path, "torch.export and loaded"):
        program = torch.export.load(io.BytesIO(content), extra_files=texts).module()
    return _described(program, json.loads(texts[METADATA]))


def _described(compute: Callable[[Tensor], Tensor], metadata: Mapping[str, str]) -> _Runner:
    try:
        size, mean, std = (tuple(json.loads(metadata[key])) for key in ("input_size", "mean", "std"))
        return _Runner(compute, size, mean, std, json.loads(metadata["normalised"]), json.loads(metadata["batch_size"]))
    except KeyError as error:
        raise ValueError(
            f"The file has no metadata of ours ({error} is missing); it was not exported by this package."
        ) from None


def checked_export(made: Exported, network: nn.Module, card: ModelCard, images: Tensor | None = None) -> Exported:
    """Measure the difference of the file from the network, over random images and the given ones.

    Raises:
        ExportError: It is larger than the tolerance.
    """
    report, expected = made.report, network_runner(network, card)
    generator = torch.Generator().manual_seed(0)
    sizes = (report.batch_size,) if report.batch_size else _BATCH_SIZES
    batches = [torch.rand(size, *card.input_size, generator=generator) for size in sizes]
    if images is not None:
        check_image_size(images, card.input_size)
        batches.append(images[:LARGEST_BATCH])
    differences = []
    for batch in batches:
        with exporting(report.path, f"{report.format} and run"):
            logits = made.run(batch, len(batch))
        differences.append(difference_to_network(logits, expected(batch)))
    worst = max(differences, key=lambda difference: math.inf if math.isnan(difference) else difference)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"The exported network is not the network: logits are off by {worst:.2g} of the largest, {TOLERANCE:g} is "
            f"allowed. {report.path} was not written."
        )
    checked = replace(report, difference=worst, tolerance=TOLERANCE, checked=sum(map(len, batches)))
    return Exported(checked, made.content, lambda: made.run)


def difference_to_network(logits: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude; NaN where either is not finite."""
    difference = (logits - expected).abs().max()
    return float(difference / expected.abs().max()) if difference else 0.0


def check_image_size(images: Tensor, input_size: Sequence[int]) -> None:
    if images.ndim != 4 or not len(images) or tuple(images.shape[1:]) != tuple(input_size):
        raise ValueError(
            f"images are of shape {tuple(images.shape)}; needed are some of (N, {', '.join(map(str, input_size))})."
        )


# -- arguments of the exports -------------------------------------------------------------------


def check_call(path: Path, batch_size: int | None, opset: int | None = None) -> None:
    """Reject, before any work, numbers out of range and a file that cannot be written."""
    if batch_size is not None:
        check_whole("batch_size", batch_size, least=1)
    if opset is not None:
        check_whole("opset", opset, least=1)
        newest = require_onnx().defs.onnx_opset_version()
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


def batches_of(images: ImageSet, order: Tensor, batch_size: int = LARGEST_BATCH) -> Iterator[Images]:
    return images.batches(order, batch_size, device=torch.device("cpu"), augment=None, seed=0)


def accuracies(runners: Sequence[_Runner], images: ImageSet) -> list[float]:
    """The accuracy of each of the networks, in percent."""
    right = [0] * len(runners)
    for batch in batches_of(images, torch.arange(len(images))):
        for place, run in enumerate(runners):
            right[place] += int((run(batch.images).argmax(1) == batch.labels).sum())
    return [100 * count / len(images) for count in right]
