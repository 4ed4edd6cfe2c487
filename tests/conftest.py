"""Shared fixtures: where the real data lies, and one thread per test process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark tables and image sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("DISWOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"benchmark data not found at {folder}; set DISWOT_SHARED_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def _unchanged_random_state():
    """Nothing that a test calls may leave torch's global generator changed unless it draws on purpose."""
    torch.manual_seed(0)
    yield
