"""Which item goes to which worker, and again after a failure: the one policy, whatever the executor."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..failures import MachineError, OutOfMemory, first_line, stop_if_machine_failed
from ..interruption import Interruption
from .base import Executor, Program, WorkerDied, grace_of

Result = TypeVar("Result")

_POLL_SECONDS = 0.2
"""Longest wait before signals and time limits are looked at again."""

_GRACE_SECONDS = 2.5
"""After a signal, items at hand have so long to be finished."""


class Interrupted(KeyboardInterrupt):
    """A signal came. What was finished in the meantime has been given out before."""


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """An item with its result.

    Attributes:
        key: Number of the item.
        result: Its result; None if the item was lost.
        worker: Name of the worker; None for the process of the job itself.
        lost: Why the item was lost, if it was.
    """

    key: int
    result: Result | None
    worker: str | None
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
    began: float | None = None
    is_late: bool = False
    late_worker: str | None = None


class Dispatcher(Generic[Result]):
    """Hands items to the workers of an executor, each to one that is free, and gives out results as they come.

    An item whose worker died is tried once more in another; if that dies too, the item is lost. An item that takes too
    long is lost, whatever its worker answers when it is asked to end, and the worker is replaced. After a failure of
    the machine, such as a lack of memory, the item is tried again alone, in a new worker; only then the failure is
    raised.

    Args:
        executor: The executor.
        interruption: Looked at while results are waited for.
        timeout_s: Longest time of an item in seconds, from when its worker begins with it.
        loses_what_lacks_memory: Whether an item that lacks memory although it is alone is lost, and the others go on.

    Example:
        >>> from diswot_search.runtime.executors.serial import SerialExecutor
        >>> dispatcher = Dispatcher(SerialExecutor(), interruption=Interruption())
        >>> with dispatcher.started(lambda placement: abs):
        ...     dispatcher.submit(0, -3)
        ...     dispatcher.collect()
        Finished(key=0, result=3, worker=None, lost=None)
    """

    def __init__(
        self,
        executor: Executor,
        *,
        interruption: Interruption,
        timeout_s: float | None = None,
        loses_what_lacks_memory: bool = False,
    ) -> None:
        self.executor = executor
        self._loses_what_lacks_memory = loses_what_lacks_memory
        self._interruption = interruption
        self._timeout_s = timeout_s if executor.is_isolated else None
        self._program: Program | None = None
        self._stop_at: float | None = None
        self._is_started = False
        self._running: dict[Future[Any], _Attempt] = {}
        self._again: deque[_Attempt] = deque()
        self._alone: deque[_Attempt] = deque()
        self._at_work: dict[int, _Attempt] = {}
        self._done: Counter[int] = Counter()

    @contextlib.contextmanager
    def started(self, program: Program) -> Iterator[None]:
        """Have the workers in this block, from the first item on, and none after it."""
        self._program, self._stop_at = program, None
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
            self._at_work.clear()

    def _start(self) -> None:
        """Start the executor, unless it is started. A job whose items are all stored has no use for workers."""
        if not self._is_started:
            assert self._program is not None, "items are submitted within `started`"
            self.executor.while_waiting = self._interruption.check
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
        return not self._again and not self._alone and self._has_free_worker

    @property
    def _has_free_worker(self) -> bool:
        is_alone = any(attempt.is_alone for attempt in self._running.values())
        return not is_alone and len(self._running) < self.executor.workers

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
        while True:
            if self._interruption.asked:
                if self._stop_at is None:
                    # Items that store what they have are ended at once, and have the time for that.
                    stores = self.executor.is_isolated and grace_of(self._program) is not None
                    self._stop_at = time.monotonic() + (0.0 if stores else _GRACE_SECONDS)
                if not self._running or time.monotonic() >= self._stop_at:
                    raise Interrupted
            else:
                self._begin_waiting()
            if (finished := self._next(idle)) is not None:
                return finished

    def rest(self) -> None:
        """Wait until no worker is at work, its own start included, so that nothing disturbs a measurement."""
        assert not self.unfinished, "items are at work"
        if self._is_started:
            self.executor.await_ready()

    def _next(self, idle: Callable[[], None]) -> Finished[Result] | None:
        """The next result; None if there is none for a moment, or an item has to be tried again."""
        done = next((future for future in self._running if future.done()), None)
        if done is None:
            finished, _ = wait(self._running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            if not finished:
                idle()
            done = next(iter(finished), None)
        self._replace_late()
        return None if done is None else self._settle(self._running.pop(done), done)

    def _settle(self, attempt: _Attempt, future: Future[Any]) -> Finished[Result] | None:
        """The result of an attempt that has come to an end; None if the item is to be tried again."""
        worker = self.executor.name(attempt.worker) if self.executor.is_isolated else None
        self._at_work.pop(attempt.worker, None)
        if attempt.is_late:  # also where it has stored its state and answered, when its worker was asked to end
            reason = f"it took longer than {self._timeout_s:g} s, and its worker was ended"
            return Finished(attempt.key, None, attempt.late_worker, reason)
        try:
            finished = Finished(attempt.key, future.result(), worker)
            self._done[attempt.worker] += 1
            return finished
        except WorkerDied as error:
            lost = self._after_death(attempt, error)
            return None if lost is None else Finished(attempt.key, None, worker, lost)
        except Exception as error:
            try:
                stop_if_machine_failed(error, attempt.where)
            except MachineError as failure:
                if attempt.is_alone or not self.executor.is_isolated:
                    if self._loses_what_lacks_memory and isinstance(failure, OutOfMemory):
                        cause = first_line(failure.__cause__ or failure)
                        return Finished(attempt.key, None, worker, f"it lacked memory, although it was alone ({cause})")
                    raise
                attempt.is_alone = True
                self._alone.append(attempt)
                return None
            raise

    def _after_death(self, attempt: _Attempt, error: WorkerDied) -> str | None:
        """Replace the worker of an attempt; gives the reason why the item is lost, or None if it is tried again."""
        if not self._interruption.asked:  # or nothing more is begun, and a new worker may take long to have a place
            self.executor.replace(attempt.worker)
        attempt.deaths += 1
        if attempt.deaths > 1:
            return f"the worker died twice on it ({error})"
        self._again.append(attempt)
        return None

    def _begin_waiting(self) -> None:
        """Begin with items that are tried again, those that have to be alone when all others are done."""
        while self._again and self._has_free_worker:
            self._begin(self._again.popleft())
        if self._alone and not self._running:
            attempt = self._alone.popleft()
            self._renew(attempt.worker)
            self._begin(attempt, attempt.worker)

    def _renew(self, worker: int) -> None:
        """Replace a worker and its neighbours, those of its new place included: a new one may be elsewhere."""
        renewed: set[int] = set()
        while others := [other for other in self.executor.neighbours(worker) if other not in renewed]:
            self.executor.replace(others[0])
            renewed.add(others[0])

    def _begin(self, attempt: _Attempt, worker: int | None = None) -> None:
        """Begin with an attempt, in this worker or in one that is free."""
        at_work = {other.worker for other in self._running.values()}
        free = (number for number in range(self.executor.workers) if number not in at_work)
        attempt.worker = next(free) if worker is None else worker
        attempt.since, attempt.began = time.monotonic(), None
        self._at_work[attempt.worker] = attempt  # before an executor that computes here does so
        self._running[self.executor.submit(attempt.worker, attempt.item)] = attempt

    def _replace_late(self) -> None:
        """End the workers whose items take too long. The time that a new worker needs to begin is not theirs."""
        if self._timeout_s is None:
            return
        now = time.monotonic()
        for future, attempt in list(self._running.items()):
            if attempt.began is None:
                attempt.began = now if future.running() else None
            elif not future.done() and not attempt.is_late and now - attempt.began > self._timeout_s:
                attempt.is_late = True
                attempt.late_worker = self.executor.name(attempt.worker)  # the one in its place may be elsewhere
                self.executor.replace(attempt.worker)
