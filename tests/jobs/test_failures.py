"""One policy of failures: the same error has the same consequence in a search, a comparison and a ranking of sources.

An error of the machine stops the job, what was stored stays, and the same call ends as if nothing had happened. Any
other error is a status of the candidate at hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search.jobs import rank_sources as source_ranking
from diswot_search.jobs.compare import compare
from diswot_search.jobs.search import search
from diswot_search.runtime.failures import MachineError, OutOfMemory
from diswot_search.sources.evidence import Evidence
from search_spaces import AccuracyTable, Architecture, CifarResNetSpace, Cost

from ..trained_weights import as_trained

CANDIDATES = 6
FAILS_AT = 4
"""The call of the proxy, or of the measure, that raises."""


class Trouble:
    """Calls of the functions below, where a function's identity does not see them, as it would see a global."""

    calls: ClassVar[int] = 0
    error: ClassVar[Exception | None] = None

    @classmethod
    def begin(cls, error: Exception | None) -> None:
        cls.calls, cls.error = 0, error

    @classmethod
    def count(cls) -> None:
        cls.calls += 1
        if cls.error is not None and cls.calls == FAILS_AT:
            raise cls.error


def troubled(student: ds.Readings, teacher: ds.Readings | None = None) -> float:
    """Spread of the logits."""
    Trouble.count()
    return float(student.logits.std())


def troubled_measure(evidence: Evidence) -> float:
    """Spread of the features."""
    Trouble.count()
    return float(evidence.features.std())


class Small(CifarResNetSpace):
    """Six tiny ResNets."""

    def __init__(self) -> None:
        super().__init__(
            4, (3, 8, 8), depths=[(1, 2, 3), (1,), (1, 2)], widths=[(4,), (8,), (8,)], stem=4, name="small"
        )


def make_probe() -> ds.Probe:
    return ds.create_probe("noise", batch_size=8, image_size=8, num_classes=4)


class Linear(nn.Module):
    """Features that are a linear function of the pixels, and a classifier."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features, self.fc = nn.Linear(192, 8), nn.Linear(8, 3)
        as_trained(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x.flatten(1)))


class FailsLater(Linear):
    """Fails once it is run on more images than an example has."""

    error: ClassVar[Exception] = ZeroDivisionError("by zero")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise self.error
        return super().forward(x)


def make_splits() -> ds.Splits:
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8), np.arange(count) % 4

    return ds.Splits.from_arrays(part(40), part(8), part(8), name="noise")


def run_search(out: Path) -> tuple[Any, list[str]]:
    study = search(
        Small(), None, make_probe(), proxy=troubled, algorithm="exhaustive", out=out, device="cpu", progress=False
    )
    return [(record.architecture, record.score) for record in study.records], list(study.failures)


def run_compare(out: Path) -> tuple[Any, list[str]]:
    table = AccuracyTable("t", "accuracy", {str(architecture): 60.0 + i for i, architecture in enumerate(Small())})
    comparison = compare(Small(), troubled, table, make_probe(), bootstrap=0, out=out, device="cpu", progress=False)
    scores = comparison.scores.scores["troubled"][0].tolist()
    return [None if score != score else score for score in scores], list(comparison.scores.failures["troubled"])


def run_rank(out: Path, sources: Mapping[str, nn.Module] | None = None) -> tuple[Any, list[str]]:
    measure = ds.Measure("troubled", troubled_measure, "features", "spread", lambda evidence: 0.0)
    sources = sources or {str(seed): Linear(seed) for seed in range(CANDIDATES)}
    ranking = source_ranking.rank_sources(
        sources, make_splits(), measures=measure, images=20, image_draws=1, out=out, device="cpu", progress=False
    )
    return ranking.values["troubled"], list(ranking.reasons.values())


JOBS: dict[str, Callable[[Path], tuple[Any, list[str]]]] = {
    "search": run_search,
    "compare": run_compare,
    "rank_sources": run_rank,
}


CALLS_BEFORE = {"search": 0, "compare": 0, "rank_sources": 1}
"""Calls before the first candidate: a ranking tries its first measure on random values."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr(sys.modules[compare.__module__], "COMPARISON_PICTURES", {})
    monkeypatch.setattr(sys.modules[search.__module__], "PICTURES", {})
    monkeypatch.setattr(source_ranking, "to_png", lambda figure: b"")
    Trouble.begin(None)


MACHINE = {
    "python": (MemoryError(), OutOfMemory, "Out of memory"),
    "gpu": (torch.cuda.OutOfMemoryError("out"), OutOfMemory, "Out of memory"),
    "cpu": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        OutOfMemory,
        "Out of memory",
    ),
    "device": (RuntimeError("CUDA error: unspecified launch failure"), MachineError, "The device failed"),
}


@pytest.mark.parametrize("kind", MACHINE)
@pytest.mark.parametrize("job", JOBS)
def test_a_failure_of_the_machine_stops_the_job_and_the_same_call_continues(
    job: str, kind: str, tmp_path: Path
) -> None:
    error, expected, message = MACHINE[kind]
    Trouble.begin(error)
    with pytest.raises(expected, match=rf"^{message} in the (proxy|measure) 'troubled' .*What was stored stays"):
        JOBS[job](tmp_path / "run")
    Trouble.begin(None)
    resumed, reasons = JOBS[job](tmp_path / "run")
    done = FAILS_AT - 1 - CALLS_BEFORE[job]
    assert Trouble.calls == CANDIDATES - done  # what was stored is not computed again
    assert reasons == []
    assert resumed == JOBS[job](tmp_path / "whole")[0]


@pytest.mark.parametrize("job", JOBS)
def test_any_other_error_is_a_status_of_the_candidate(job: str, tmp_path: Path) -> None:
    whole, _ = JOBS[job](tmp_path / "whole")
    Trouble.begin(ZeroDivisionError("by zero\nand more lines"))
    result, reasons = JOBS[job](tmp_path / "run")
    assert Trouble.calls == CANDIDATES + CALLS_BEFORE[job]
    assert reasons == ["ZeroDivisionError: by zero"]
    pairs = zip(*(list(one.items() if isinstance(one, dict) else one) for one in (result, whole)), strict=True)
    assert sum(one != other for one, other in pairs) == 1  # it disturbs no other
    assert JOBS[job](tmp_path / "run") == (result, reasons)
    assert Trouble.calls == CANDIDATES + CALLS_BEFORE[job]  # and is not tried again


def test_a_stopped_search_says_that_it_is_interrupted(tmp_path: Path) -> None:
    Trouble.begin(MemoryError())
    with pytest.raises(MemoryError):
        run_search(tmp_path / "run")
    study = ds.Study.load(tmp_path / "run")
    assert (study.status, len(study)) == ("interrupted", FAILS_AT - 1)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluations"]["failed"] == 0


class NoRoomForCosts(Small):
    """Has no memory to count what one architecture costs."""

    def cost(self, architecture: Architecture) -> Cost:
        if str(architecture) == "2-1-1":
            raise MemoryError("no room")
        return super().cost(architecture)


def test_a_cost_that_memory_does_not_allow_is_no_failure_either(tmp_path: Path) -> None:
    table = AccuracyTable("t", "accuracy", {str(architecture): 60.0 + i for i, architecture in enumerate(Small())})
    with pytest.raises(OutOfMemory, match=r"^Out of memory in the cost of 2-1-1 \(MemoryError: no room\)"):
        search(NoRoomForCosts(), None, make_probe(), proxy=troubled, algorithm="exhaustive", out=tmp_path / "search")
    with pytest.raises(OutOfMemory, match=r"^Out of memory in the proxy 'params'"):
        compare(NoRoomForCosts(), [], table, make_probe(), out=tmp_path / "compare")


@pytest.mark.parametrize("job", [search, compare])
def test_a_teacher_that_memory_does_not_allow_is_not_refused_as_input(job: Any, tmp_path: Path) -> None:
    def make() -> nn.Module:
        raise MemoryError("no room")

    teacher = ds.Network.from_factory("large", make, trained=True)
    table = {"table": AccuracyTable("t", "accuracy", {str(a): 60.0 for a in Small()})} if job is compare else {}
    proxy = {"proxies" if job is compare else "proxy": "relation"}
    with pytest.raises(OutOfMemory, match=r"^Out of memory in the teacher 'large'"):
        job(Small(), teacher=teacher, probe=make_probe(), out=tmp_path / "run", device="cpu", **proxy, **table)
    assert not (tmp_path / "run").exists()


def test_a_source_that_fails_on_the_images_has_a_reason_and_one_without_memory_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"near": Linear(0), "broken": FailsLater(1), "far": Linear(2)}
    values, reasons = run_rank(tmp_path / "run", sources)
    assert reasons == ["ZeroDivisionError: by zero"]
    assert [name for name, value in values.items() if value is None] == ["broken"]
    monkeypatch.setattr(FailsLater, "error", MemoryError("no room"))
    with pytest.raises(OutOfMemory, match=r"^Out of memory in the source 'broken'"):
        run_rank(tmp_path / "again", sources)
    with pytest.raises(ds.RunFolderError, match="1 of 3 sources are measured"):
        ds.load_ranking(tmp_path / "again")
