"""The runtimes that a student may ship in, and how each makes a network ready to run."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.registry import unknown_name_message

from .onnx_graph import quick_graph, require_onnx

Pass = Callable[[], object]
"""One forward pass of a batch that is ready where it is computed; it returns when the pass is done."""


@dataclass(frozen=True)
class Runtime:
    """A way to run a network in float32.

    Attributes:
        name: The name, as options give it.
        device: "cpu" or "cuda".
        prepare: Makes the pass of a network in evaluation mode on the CPU, of a batch and a number of threads.
        require: Raises an error that says what is missing where the runtime cannot be used.
    """

    name: str
    device: str
    prepare: Callable[[nn.Module, Tensor, int], Pass]
    require: Callable[[], object]


# -- the runtimes -------------------------------------------------------------------------------


def onnx_pass(content: bytes, batch: Tensor, threads: int) -> Pass:
    """The pass of an ONNX graph in onnxruntime on the CPU.

    Args:
        content: The graph, whose one input takes the batch.
        batch: The input (N, ...).
        threads: Number of threads.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; its warnings are about speed
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = {item.name: batch.numpy() for item in session.get_inputs()}  # none if the output is constant
    return lambda: session.run(None, inputs)


def _onnxruntime(network: nn.Module, batch: Tensor, threads: int) -> Pass:
    return onnx_pass(quick_graph(network, batch), batch, threads)


def _eager(network: nn.Module, batch: Tensor, threads: int) -> Pass:
    return lambda: network(batch)


def _compiled(network: nn.Module, batch: Tensor, threads: int) -> Pass:
    torch.compiler.reset()  # else the graphs of all earlier networks stay in memory
    compiled = torch.compile(network, dynamic=False)
    return lambda: compiled(batch)


def _on_cuda(network: nn.Module, batch: Tensor, threads: int) -> Pass:
    network, batch = network.to("cuda"), batch.to("cuda")

    def run() -> None:
        network(batch)
        torch.cuda.synchronize()

    return run


def _nothing() -> None:
    pass


def _require_cuda() -> None:
    if not torch.cuda.is_available():
        raise ValueError("latency_runtime is 'cuda', but this machine has no CUDA device that torch can use.")


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("onnxruntime", "cpu", _onnxruntime, require_onnx),
        Runtime("compile", "cpu", _compiled, _nothing),
        Runtime("eager", "cpu", _eager, _nothing),
        Runtime("cuda", "cuda", _on_cuda, _require_cuda),
    )
}
"""The runtimes by name: onnxruntime on the CPU, torch.compile on the CPU, PyTorch on the CPU, and PyTorch with CUDA."""


# -- by name ------------------------------------------------------------------------------------


def get_runtime(name: str) -> Runtime:
    """The runtime of this name, which can be used here.

    Raises:
        ValueError: There is no such runtime, or this machine has no such device.
        ImportError: A package that it needs is missing.
    """
    if name not in RUNTIMES:
        raise ValueError(unknown_name_message("latency_runtime", str(name), RUNTIMES))
    RUNTIMES[name].require()
    return RUNTIMES[name]


def default_runtime() -> str:
    """The runtime that is meant where none is named: onnxruntime where its packages are installed, or else eager."""
    packages = ("onnxruntime", "onnxscript", "onnx")
    return "onnxruntime" if all(importlib.util.find_spec(package) for package in packages) else "eager"


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch compute on this number of threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shipped(network: nn.Module) -> nn.Module:
    """A copy of a network as it ships: on the CPU, in evaluation mode, without gradients."""
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)
