"""The protocol of executors: places where the items of a job are computed, one at a time in each worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """The place of a worker.

    Attributes:
        worker: Number of the worker, from 0.
        threads: Number of threads that torch computes with; None leaves it.
        device: The device that it computes on; None leaves it to the program.

    Example:
        >>> Placement(worker=1, threads=2).device is None  # the device of the options
        True
    """

    worker: int = 0
    threads: int | None = None
    device: str | None = None


Program = Callable[[Placement], Callable[[Any], Any]]
"""Makes the function that computes an item, once in each worker. It pickles, and so do the items and their results.

A program whose items store what they have on SIGTERM says how long that takes at most, by an attribute `grace_s`: a
signal then ends them at once.
"""


def grace_of(program: object) -> float | None:
    """Seconds that the items of a program need after SIGTERM to store what they have; None if they store nothing."""
    grace: float | None = getattr(program, "grace_s", None)
    return grace


class WorkerDied(RuntimeError):
    """The worker came to an end at the item, by itself or because it was replaced. The message says how."""


class Executor(ABC):
    """Workers that compute items. Which item goes where, and again after a failure, is decided by the loop above.

    Attributes:
        workers: Number of workers.
        threads: Number of threads of each worker; None if the executor leaves it as it is.
        devices: The devices that workers compute on, all of one kind where scores are to compare; none if the executor
            leaves it to the program.
        is_isolated: Whether a worker can end without ending the job.
        while_waiting: Called now and then while `start` or `await_ready` waits for workers. It ends the wait by
            raising.

    Example:
        >>> from diswot_search.runtime.executors.serial import SerialExecutor
        >>> executor = SerialExecutor()
        >>> executor.start(lambda placement: abs)
        >>> executor.submit(0, -3).result()
        3
        >>> executor.close()
    """

    workers: int
    threads: int | None = None
    devices: Sequence[str] = ()
    is_isolated: bool = False
    while_waiting: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    def start(self, program: Program) -> None:
        """Make the program in each worker, and wait until all are ready. After `close` it can be started again.

        Raises:
            ValueError: The program does not pickle; the message names the part.
            MachineError: The workers cannot be made or reached.
            RuntimeError: The executor is started already.
            Exception: The program raised it while it was made. No worker is left.
        """

    def check(self, program: object) -> None:  # noqa: B027 - optional
        """Check before any work that a program, or a part of one, can be sent to the workers.

        Raises:
            ValueError: It does not pickle; the message names the part.
        """

    def connect(self) -> None:  # noqa: B027 - optional
        """Reach the machines of the workers before anything is written; `close` and `disconnect` let go of them.

        Raises:
            MachineError: They cannot be reached, or have no room.
        """

    def disconnect(self) -> None:  # noqa: B027 - optional
        """Let go of machines that `connect` has reached, unless there are workers."""

    @abstractmethod
    def submit(self, worker: int, item: Any) -> Future[Any]:
        """Compute an item in a worker, which is not at work on another.

        Args:
            worker: Number of the worker.
            item: The item.

        Returns:
            The future of the result. It is running from when the worker begins with the item, which may have to wait
            for a new process. It raises what the program raised; `WorkerDied` if the worker ended at the item; or
            `MachineError` if no worker can be made again, for which the item is not to blame.

        Raises:
            ValueError: The item does not pickle; the message names the part.
        """

    @abstractmethod
    def replace(self, worker: int) -> None:
        """End a worker, if it is still there, and make another in its place. Its open future raises `WorkerDied`."""

    def await_ready(self) -> None:  # noqa: B027 - optional
        """Wait until no worker is on its way to be made, so that nothing disturbs a measurement."""

    def neighbours(self, worker: int) -> Sequence[int]:
        """The workers that share their memory with a worker, itself included, such as those on one graphics card."""
        return (worker,)

    @abstractmethod
    def close(self, *, at_once: bool = False) -> None:
        """End all workers and wait until they are gone. Without a start, nothing happens.

        Args:
            at_once: Whether items at hand are given up.
        """

    def name(self, worker: int) -> str:
        """A name of a worker for messages and records, such as "worker 2" or, on other machines, with the machine's."""
        return f"worker {worker}"
