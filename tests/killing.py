"""Processes that are killed at random moments, also on a machine that is busy with other work."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any


def killed_when(reached: Callable[[], bool], seed: int, function: Callable[..., Any], *args: Any) -> None:
    """Run a function, and kill this process up to 30 ms after it has reached a state.

    The process watches itself. Another process that watched it could get its share of the processor too late, when the
    function has ended.

    Args:
        reached: Returns whether the state is reached.
        seed: Seed of the moment.
        function: The function to run.
        args: Its arguments.
    """

    def watch() -> None:
        while not reached():
            time.sleep(0.001)
        time.sleep(random.Random(seed).uniform(0, 0.03))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    function(*args)
