"""A network as an ONNX graph: the packages that this needs, errors in one line, and a graph that is made quickly."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.seeding import isolated_random_state


class ExportError(RuntimeError):
    """A network that cannot be exported, or an exported file that does not compute what the network does."""


def require_onnx() -> Any:
    """Import onnx, and check that all packages of the extra are installed.

    Raises:
        ImportError: A package is missing.
    """
    try:
        for package in ("onnxruntime", "onnxscript"):
            importlib.import_module(package)
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError(f"ONNX needs more packages ({error}): pip install 'diswot-search[onnx]'") from error


@contextlib.contextmanager
def exporting(name: str | Path, target: str) -> Iterator[None]:
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


def quick_graph(network: nn.Module, batch: Tensor) -> bytes:
    """The ONNX graph of a network for one size of batch, to be run and not to be kept.

    The exporter that traces is used where it can, because it is some ten times as quick as the one that exported
    students are written with. onnxruntime makes the same of both graphs.

    Args:
        network: A network in evaluation mode on the CPU.
        batch: Its input (N, ...).

    Raises:
        ExportError: Neither exporter can export the network.
    """
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    with exporting(type(network).__name__, "ONNX"):
        try:
            file: Any = io.BytesIO()
            torch.onnx.export(network, (batch,), file, dynamo=False, **names)
            return bytes(file.getvalue())
        except Exception:  # whatever the quick one lacks, the other may have
            program = torch.onnx.export(network, (batch,), dynamo=True, verbose=False, **names)
            assert program is not None
            return bytes(program.model_proto.SerializeToString())
