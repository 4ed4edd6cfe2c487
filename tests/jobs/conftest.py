"""Fixtures of tests that train in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from diswot_search.jobs import student_facts, training_run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As many threads in this process as in each worker, so that sums have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def quick_trainings() -> Iterator[None]:
    """Trainings in this process draw nothing, and have the latency of the first one, since both take a second."""
    with pytest.MonkeyPatch.context() as patch:
        measured = student_facts.shipped_latency(nn.Flatten(), (3, 8, 8))
        patch.setattr(student_facts, "shipped_latency", lambda model, size: measured)
        patch.setattr(training_run, "plot_training", lambda rows, result: {})
        yield
