"""Latency: how it is timed, in which runtimes, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search.deployment import runtimes
from diswot_search.deployment.latency import AGREEMENT, shipped_latency, time_passes
from diswot_search.deployment.onnx_graph import ExportError
from diswot_search.deployment.runtimes import Runtime, default_runtime

pytestmark = pytest.mark.usefixtures("exact_latency")

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


# -- the clock ----------------------------------------------------------------------------------


class Clock:
    """A clock that stands still but for what passes take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passing(self, seconds: Iterator[float]) -> Callable[[], None]:
        """A pass that takes the next of these times."""

        def run() -> None:
            self.now += next(seconds)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.thread_time", clock)
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def timed(clock: Clock, seconds: Iterator[float], runtime: Runtime, **options: float) -> ds.Latency:
    return time_passes(clock.passing(seconds), runtime, threads=1, batch_size=1, **options)  # type: ignore[arg-type]


def runtime_of(clock: Clock, reference: Iterator[float]) -> Runtime:
    """A runtime in which the reference network takes these times."""
    return Runtime("eager", "cpu", lambda network, batch, threads: clock.passing(reference), lambda: None)


def test_it_is_the_quickest_pass_once_the_quickest_rounds_agree(clock: Clock) -> None:
    disturbed = itertools.chain([1.0, 1.0], [0.30, 0.20, 0.25, 0.101, 0.22], itertools.repeat(0.10))
    latency = timed(clock, disturbed, runtime_of(clock, itertools.repeat(0.004)))
    assert latency.ms == latency.min_ms == pytest.approx(100.0)
    assert latency.rounds == 8  # the least number; by then three are within 3 % of each other
    assert latency.is_stable
    assert latency.median_ms == pytest.approx(150.5)


def test_what_does_not_become_stable_says_so(clock: Clock) -> None:
    growing = (0.1 * 1.1**k for k in itertools.count())
    latency = timed(clock, growing, runtime_of(clock, itertools.repeat(0.004)))
    assert not latency.is_stable
    assert latency.spread == pytest.approx(0.21)
    assert "unstable: the quickest rounds differ by 21%" in str(latency)


def test_other_work_that_slows_the_memory_is_waited_for_and_said(clock: Clock) -> None:
    read = [0.004]
    runtime = runtime_of(clock, (read[0] for _ in itertools.count()))
    quiet = timed(clock, itertools.repeat(0.010), runtime)
    read[0] = 0.005
    disturbed = timed(clock, itertools.repeat(0.012), runtime)
    assert quiet.is_stable
    assert disturbed.disturbance == pytest.approx(0.25)
    assert disturbed.rounds > quiet.rounds
    assert "unstable: other work slowed the memory by 25%" in str(disturbed)


def test_a_machine_that_is_slower_than_it_was_is_corrected_by_the_reference(clock: Clock) -> None:
    pace = [0.004]
    runtime = runtime_of(clock, (pace[0] for _ in itertools.count()))
    before = timed(clock, itertools.repeat(0.010), runtime)
    pace[0] = 0.008
    after = timed(clock, itertools.repeat(0.020), runtime)
    assert before.ms == pytest.approx(10.0) == after.ms
    assert after.min_ms == pytest.approx(20.0)


def test_a_network_far_above_its_limit_is_measured_roughly(clock: Clock) -> None:
    runtime = runtime_of(clock, itertools.repeat(0.004))
    above = timed(clock, itertools.repeat(0.010), runtime, limit_ms=5.0)
    near = timed(clock, itertools.repeat(0.010), runtime, limit_ms=9.5)
    assert above.rounds == 2 < near.rounds


# -- the runtimes -------------------------------------------------------------------------------


class Noting(nn.Module):
    """A network that notes how it is called, also when a copy of it is."""

    calls: ClassVar[list[tuple[torch.Size, bool, bool, int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.frozen(x))
        self.calls.append((x.shape, self.training, x.requires_grad, torch.get_num_threads()))
        return x


@pytest.mark.parametrize("runtime", ["eager", "compile", pytest.param("onnxruntime", marks=needs_onnx)])
def test_every_runtime_of_the_cpu_measures_and_leaves_no_trace(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)  # it takes long, and a compiler
    Noting.calls.clear()
    network = Noting()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    latency = ds.measure_latency(network, (3, 8, 8), runtime=runtime, batch_size=5, threads=2)
    assert latency.ms > 0
    assert latency.conditions == f"{runtime}, 2 threads, batch 5"
    assert Noting.calls
    assert not any(training or gradient for _, training, gradient, _ in Noting.calls)
    if runtime != "onnxruntime":  # which calls the network once, to see what it does
        assert {(shape, used) for shape, _, _, used in Noting.calls} == {(torch.Size([5, 4, 6, 6]), 2)}
    assert torch.equal(random_state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert network.training
    assert not network.frozen.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@needs_onnx
def test_the_default_is_onnxruntime() -> None:
    assert ds.measure_latency(nn.Conv2d(3, 4, 3), (3, 8, 8)).runtime == "onnxruntime" == default_runtime()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, r"Unknown latency_runtime 'onnx'\. Did you mean 'onnxruntime'"),
        ({"threads": 0}, "threads is 0"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ds.measure_latency(nn.Conv2d(3, 4, 3), (3, 8, 8), **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="this machine has no CUDA device"):
        ds.measure_latency(nn.Conv2d(3, 4, 3), (3, 8, 8), runtime="cuda")


def test_without_its_package_onnxruntime_is_refused_and_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'diswot-search\[onnx\]'"):
        ds.measure_latency(nn.Conv2d(3, 4, 3), (3, 8, 8), runtime="onnxruntime")
    assert ds.measure_latency(nn.Conv2d(3, 4, 3), (3, 8, 8)).runtime == "eager"


class Bound(nn.Module):
    """A network that no exporter takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real.sum((1, 2))


@needs_onnx
def test_a_network_that_cannot_be_exported_says_so_and_is_timed_in_eager_pytorch() -> None:
    with pytest.raises(ExportError, match="Bound cannot be exported to ONNX"):
        ds.measure_latency(Bound(), (3, 8, 8))
    assert shipped_latency(Bound(), (3, 8, 8)).runtime == "eager"


@needs_onnx
def test_a_network_without_a_path_from_its_input_is_timed() -> None:
    space = ds.create_space("nasbench201", channels=4, cells=1, num_classes=3)
    cell = space.parse("|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|none~1|none~2|")
    torch.manual_seed(0)
    assert shipped_latency(space.build(cell), space.input_size).runtime == "onnxruntime"


def test_a_stable_measurement_is_one_whose_rounds_agree() -> None:
    latency = ds.Latency(1.0, spread=AGREEMENT, runtime="eager", threads=1, batch_size=1)
    assert latency.is_stable
    assert str(latency) == "1 ms (eager, 1 thread, batch 1)"
