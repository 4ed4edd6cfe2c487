"""Which item goes to which worker, and again after a failure: the one policy, whatever the executor."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..failures import MachineError, stop_if_machine_failed
from ..interruption import Interruption
from .base import Executor, Placement, Program, WorkerDied

Result = TypeVar("Result")

_POLL_SECONDS = 0.2
"""Longest wait before signals and time limits are looked at again."""

_GRACE_SECONDS = 3.0
"""After a signal, items at hand have so long to be finished."""

_READY = "diswot-search: is the worker ready?"
"""An item that is no item: it only waits until the program is made."""


class Interrupted(KeyboardInterrupt):
    """A signal came. What was finished in the meantime has been given out before."""


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """An item with its result.

    Attributes:
        key: Number of the item.
        result: Its result; None if the item was lost.
        worker: Name of the worker.
        lost: Why the item was lost, if it was.
    """

    key: int
    result: Result | None
    worker: str
    lost: str | None = None


@dataclass(frozen=True)
class Activity:
    """The work of one worker.

    Attributes:
        worker: Name of the worker.
        done: Number of items that it has finished.
        where: Place of the item at hand, as in messages; empty for none.
        seconds: Seconds since the item at hand was handed out.
    """

    worker: str
    done: int
    where: str = ""
    seconds: float = 0.0


@dataclass
class _Attempt:
    """An attempt at an item in a worker."""

    key: int
    item: Any
    where: str
    deaths: int = 0
    is_alone: bool = False
    worker: int = -1
    since: float = 0.0
    is_late: bool = False


@dataclass(frozen=True)
class _Answering:
    """A program that also answers whether it is ready."""

    program: Program

    def __call__(self, placement: Placement) -> Callable[[Any], Any]:
        compute = self.program(placement)
        return lambda item: None if isinstance(item, str) and item == _READY else compute(item)


class Dispatcher(Generic[Result]):
    """Hands items to the workers of an executor, each to one that is free, and gives out results as they come.

    An item whose worker died is tried once more in another; if that dies too, the item is lost. An item that takes too
    long is lost at once, and its worker is replaced. After a failure of the machine, such as a lack of memory, the item
    is tried again alone, in a new worker; only then the failure is raised.

    Args:
        executor: The executor.
        interruption: Looked at while results are waited for.
        timeout_s: Longest time of an item in seconds, without that for making a worker ready.

    Example:
        >>> from diswot_search.runtime.executors.serial import SerialExecutor
        >>> dispatcher = Dispatcher(SerialExecutor(), interruption=Interruption())
        >>> with dispatcher.started(lambda placement: abs):
        ...     dispatcher.submit(0, -3)
        ...     dispatcher.collect()
        Finished(key=0, result=3, worker='this process', lost=None)
    """

    def __init__(
        self,
        executor: Executor,
        *,
        interruption: Interruption,
        timeout_s: float | None = None,
    ) -> None:
        self.executor = executor
        self._interruption = interruption
        self._timeout_s = timeout_s if executor.is_isolated else None
        self._program: _Answering | None = None
        self._is_started = False
        self._running: dict[Future[Any], _Attempt] = {}
        self._again: deque[_Attempt] = deque()
        self._alone: deque[_Attempt] = deque()
        self._ready: set[int] = set()
        self._at_work: dict[int, _Attempt] = {}
        self._done: Counter[int] = Counter()

    @contextlib.contextmanager
    def started(self, program: Program) -> Iterator[None]:
        """Have the workers in this block, from the first item on, and none after it."""
        self._program = _Answering(program)
        try:
            yield
        except BaseException:
            self._close(at_once=True)
            raise
        else:
            self._close()
        finally:
            self._running.clear()
            self._again.clear()
            self._alone.clear()
            self._ready.clear()
            self._at_work.clear()

    def _start(self) -> None:
        """Start the executor, unless it is started. A job whose items are all stored has no use for workers."""
        if not self._is_started:
            assert self._program is not None, "items are submitted within `started`"
            self.executor.start(self._program)
            self._is_started = True

    def _close(self, *, at_once: bool = False) -> None:
        if self._is_started:
            self.executor.close(at_once=at_once)
        self._is_started, self._program = False, None

    def activities(self) -> list[Activity]:
        """The work of each worker at this moment; any thread may ask."""
        activities = []
        for worker in range(self.executor.workers):
            name, done, attempt = self.executor.name(worker), self._done[worker], self._at_work.get(worker)
            if attempt is None:
                activities.append(Activity(name, done))
            else:
                activities.append(Activity(name, done, attempt.where, time.monotonic() - attempt.since))
        return activities

    @property
    def has_room(self) -> bool:
        """Whether a worker is free for a new item."""
        return not self._again and not self._alone and len(self._running) < self.executor.workers

    @property
    def unfinished(self) -> int:
        """Number of items that have no result yet."""
        return len(self._running) + len(self._again) + len(self._alone)

    def submit(self, key: int, item: Any, where: str = "in an item") -> None:
        """Hand an item to a free worker.

        Args:
            key: Number of the item, which comes back with the result.
            item: The item, which pickles.
            where: Place of its errors in messages, such as "in the source 'near'".
        """
        assert self.has_room, "no worker is free"
        self._start()
        self._begin(_Attempt(key, item, where))

    def collect(self, idle: Callable[[], None] = lambda: None) -> Finished[Result]:
        """Wait for the next result.

        Args:
            idle: Called now and then while nothing is finished.

        Raises:
            Interrupted: A signal came, and nothing more was finished within a few seconds.
            OutOfMemory, MachineError: The machine failed at an item that was alone.
            Exception: What the program raised.
        """
        assert self.unfinished, "nothing was submitted"
        stop_at: float | None = None
        while True:
            if self._interruption.asked:
                stop_at = stop_at or time.monotonic() + _GRACE_SECONDS
                if not self._running or time.monotonic() > stop_at:
                    raise Interrupted
            else:
                self._begin_waiting()
            if (finished := self._next(idle)) is not None:
                return finished

    def _next(self, idle: Callable[[], None]) -> Finished[Result] | None:
        """The next result; None if there is none for a moment, or an item has to be tried again."""
        done = next((future for future in self._running if future.done()), None)
        if done is None:
            finished, _ = wait(self._running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            self._replace_late()
            if not finished:
                idle()
            done = next(iter(finished), None)
        return None if done is None else self._settle(self._running.pop(done), done)

    def _settle(self, attempt: _Attempt, future: Future[Any]) -> Finished[Result] | None:
        """The result of an attempt that has come to an end; None if the item is to be tried again."""
        worker = self.executor.name(attempt.worker)
        self._at_work.pop(attempt.worker, None)
        try:
            finished = Finished(attempt.key, future.result(), worker)
            self._done[attempt.worker] += 1
            return finished
        except WorkerDied as error:
            reason = self._after_death(attempt, error)
            return None if reason is None else Finished(attempt.key, None, worker, reason)
        except Exception as error:
            try:
                stop_if_machine_failed(error, attempt.where)
            except MachineError:
                if attempt.is_alone or not self.executor.is_isolated:
                    raise
                attempt.is_alone = True
                self._alone.append(attempt)
                return None
            raise

    def _after_death(self, attempt: _Attempt, error: WorkerDied) -> str | None:
        """Replace the worker of an attempt; gives the reason why the item is lost, or None if it is tried again."""
        if attempt.is_late:
            return f"it took longer than {self._timeout_s:g} s, and its worker was ended"
        self._replace(attempt.worker)
        attempt.deaths += 1
        if attempt.deaths > 1:
            return f"the worker died twice on it ({error})"
        self._again.append(attempt)
        return None

    def _begin_waiting(self) -> None:
        """Begin with items that are tried again, those that have to be alone when all others are done."""
        while self._again and len(self._running) < self.executor.workers:
            self._begin(self._again.popleft())
        if self._alone and not self._running:
            attempt = self._alone.popleft()
            self._replace(attempt.worker)
            self._begin(attempt)

    def _begin(self, attempt: _Attempt) -> None:
        at_work = {other.worker for other in self._running.values()}
        free = (worker for worker in range(self.executor.workers) if worker not in at_work)
        attempt.worker = next(free)
        if self._timeout_s is not None and attempt.worker not in self._ready:
            self._make_ready(attempt.worker)
        attempt.since = time.monotonic()
        self._at_work[attempt.worker] = attempt  # before an executor that computes here does so
        self._running[self.executor.submit(attempt.worker, attempt.item)] = attempt

    def _make_ready(self, worker: int) -> None:
        """Wait until a worker has made its program, so that the time is not taken for that of an item."""
        with contextlib.suppress(WorkerDied):  # the item will meet the same
            self.executor.submit(worker, _READY).result()
        self._ready.add(worker)

    def _replace(self, worker: int) -> None:
        self._ready.discard(worker)
        self.executor.replace(worker)

    def _replace_late(self) -> None:
        """End the workers whose items take too long."""
        if self._timeout_s is None:
            return
        for future, attempt in list(self._running.items()):
            if not future.done() and not attempt.is_late and time.monotonic() - attempt.since > self._timeout_s:
                attempt.is_late = True
                self._replace(attempt.worker)
