"""Shared fixtures: where the real data lies, and a fixed start for tests that draw from torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from diswot_search.deployment import latency

# Like test files, the helpers show the values of an assertion that fails.
pytest.register_assert_rewrite("tests.data.helpers", "tests.readings.helpers")

settings.register_profile("suite", deadline=None)  # a slow or a busy machine must not fail a test
settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark tables and image sets; a test that needs it is skipped if there is none."""
    folder = Path(os.environ.get("DISWOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"benchmark data not found at {folder}; set DISWOT_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _rough_latency() -> Iterator[dict[str, float]]:
    """Latency is measured roughly: every training does so at its end, and tests make hundreds; gives what is usual."""
    rough = {"_BLOCK_SECONDS": 0.005, "_REFERENCE_SECONDS": 0.003, "_MAX_SECONDS": 0.2, "_MAX_SECONDS_FOR_QUIET": 0.1}
    usual = {name: float(getattr(latency, name)) for name in rough}
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in rough.items():
            patch.setattr(latency, name, seconds)
        yield usual


@pytest.fixture
def exact_latency(_rough_latency: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured as it is for users."""
    for name, seconds in _rough_latency.items():
        monkeypatch.setattr(latency, name, seconds)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test starts from the same state of torch's global generator."""
    torch.manual_seed(0)
