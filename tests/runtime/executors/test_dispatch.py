"""The policy of the dispatcher: deadlines, time limits, and items that are tried again, in a time that tests set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from diswot_search.runtime.executors import dispatch
from diswot_search.runtime.executors.base import Executor, Placement, Program, WorkerDied
from diswot_search.runtime.executors.dispatch import Dispatcher, Finished, Interrupted
from diswot_search.runtime.failures import MachineError
from diswot_search.runtime.interruption import Interruption

NEVER = 1e9


@dataclass
class Work:
    """An item that the simulated workers compute: it begins and ends so many seconds after it was handed out."""

    name: str
    seconds: float = 1.0
    delay: float = 0.0
    failures: list[BaseException] = field(default_factory=list)


class Workers(Executor):
    """Simulated workers, and their time."""

    is_isolated = True

    def __init__(self, workers: int, neighbours: Sequence[int] | None = None) -> None:
        self.workers = workers
        self.now = 0.0
        self.log: list[tuple[str, int]] = []
        self._open: list[tuple[float, float, Future[Any], Work, int]] = []
        self._neighbours = neighbours

    def start(self, program: Program) -> None:
        self.log.append(("start", 0))

    def submit(self, worker: int, item: Work) -> Future[Any]:
        self.log.append((item.name, worker))
        future: Future[Any] = Future()
        self._open.append((self.now + item.delay, self.now + item.delay + item.seconds, future, item, worker))
        return future

    def neighbours(self, worker: int) -> Sequence[int]:
        return (worker,) if self._neighbours is None else self._neighbours

    def replace(self, worker: int) -> None:
        self.log.append(("replace", worker))
        for *_, future, _, place in self._open:
            if place == worker and not future.done():
                future.set_exception(WorkerDied("ended"))

    def close(self, *, at_once: bool = False) -> None:
        self.log.append(("close at once" if at_once else "close", 0))

    def wait(self, futures: Iterable[Future[Any]], timeout: float, return_when: str) -> tuple[set[Future[Any]], None]:
        """Let time pass, as `concurrent.futures.wait` does."""
        self.now += timeout
        for begins, ends, future, item, _ in self._open:
            if begins <= self.now and not future.running() and not future.done():
                future.set_running_or_notify_cancel()
            if ends <= self.now and not future.done():
                if item.failures:
                    future.set_exception(item.failures.pop())
                else:
                    future.set_result(item.name)
        return {future for future in futures if future.done()}, None


def program(placement: Placement) -> Callable[[Any], Any]:
    raise AssertionError("simulated workers make no program")


class Storing:
    """A program whose items store what they have when they are asked to end."""

    grace_s: ClassVar[float] = 4.0
    __call__ = staticmethod(program)


def dispatcher_of(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Dispatcher[str], Interruption]:
    monkeypatch.setattr(dispatch, "wait", workers.wait)
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: workers.now))
    interruption = Interruption()
    return Dispatcher(workers, interruption=interruption, **options), interruption


def collect_all(dispatcher: Dispatcher[str]) -> list[Finished[str]]:
    finished = []
    while dispatcher.unfinished:
        finished.append(dispatcher.collect())
    return finished


def interrupt_at(dispatcher: Dispatcher[str], interruption: Interruption, items: Iterable[Work]) -> list[str | None]:
    """Hand out items, let a signal come, and give the names of those that are finished nevertheless."""
    names: list[str | None] = []
    try:
        for key, item in enumerate(items):
            dispatcher.submit(key, item)
        interruption.asked = True
        while True:
            names.append(dispatcher.collect().result)
    except Interrupted:
        return names


def test_a_signal_leaves_all_items_at_hand_one_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(4)
    dispatcher, interruption = dispatcher_of(workers, monkeypatch)
    with dispatcher.started(program):
        items = [Work(f"{seconds:g} s", seconds) for seconds in (2.0, 4.0, 6.0, 8.0)]
        assert interrupt_at(dispatcher, interruption, items) == ["2 s"]
    assert 2.0 < workers.now < 4.0


def test_items_that_store_what_they_have_are_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(1)
    dispatcher, interruption = dispatcher_of(workers, monkeypatch)
    with dispatcher.started(Storing()):
        assert interrupt_at(dispatcher, interruption, [Work("training", 100.0)]) == []
    assert workers.now == 0.0


def test_the_time_limit_counts_from_when_the_worker_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2)
    dispatcher, _ = dispatcher_of(workers, monkeypatch, timeout_s=2.0)
    with dispatcher.started(program):
        dispatcher.submit(0, Work("in a new worker", seconds=1.0, delay=60.0))
        dispatcher.submit(1, Work("hanging", seconds=NEVER))
        first, second = collect_all(dispatcher)
    assert (first.key, first.lost) == (1, "it took longer than 2 s, and its worker was ended")
    assert (second.key, second.result) == (0, "in a new worker")
    assert workers.log.count(("replace", 1)) == 1


@pytest.mark.parametrize("answer", ["its state is stored", MemoryError()])
def test_an_item_that_took_too_long_is_lost_whatever_it_answers_when_it_is_ended(
    answer: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answering(Workers):
        def replace(self, worker: int) -> None:
            self.log.append(("replace", worker))
            ((*_, future, _, _),) = self._open
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    workers = Answering(1)
    dispatcher, _ = dispatcher_of(workers, monkeypatch, timeout_s=2.0)
    with dispatcher.started(Storing()):
        dispatcher.submit(0, Work("training", seconds=NEVER))
        (finished,) = collect_all(dispatcher)
    assert finished == Finished(0, None, "worker 0", "it took longer than 2 s, and its worker was ended")
    assert workers.log == [("start", 0), ("training", 0), ("replace", 0), ("close", 0)]


def test_a_record_names_the_worker_that_was_late_not_the_one_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnMachines(Workers):
        def name(self, worker: int) -> str:
            return f"worker {worker} on machine {self.log.count(('replace', worker))}"

    workers = OnMachines(1)
    dispatcher, _ = dispatcher_of(workers, monkeypatch, timeout_s=2.0)
    with dispatcher.started(program):
        dispatcher.submit(0, Work("hanging", seconds=NEVER))
        late = dispatcher.collect()
        dispatcher.submit(1, Work("sound"))
        sound = dispatcher.collect()
    assert (late.worker, sound.worker) == ("worker 0 on machine 0", "worker 0 on machine 1")


@pytest.mark.parametrize("neighbours", [None, (1, 3)])
def test_what_lacks_memory_is_tried_alone_where_it_was(
    neighbours: Sequence[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(4, neighbours)
    dispatcher, _ = dispatcher_of(workers, monkeypatch)
    with dispatcher.started(program):
        dispatcher.submit(0, Work("long", 10.0))
        dispatcher.submit(1, Work("large", failures=[MemoryError()]))
        first = dispatcher.collect()  # only then the large one is alone
        assert not dispatcher.has_room
        second = dispatcher.collect()
    assert (first.result, second.result) == ("long", "large")
    replaced = [("replace", worker) for worker in neighbours or (1,)]
    assert workers.log == [("start", 0), ("long", 0), ("large", 1), *replaced, ("large", 1), ("close", 0)]


def test_nothing_begins_beside_an_item_that_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2)
    dispatcher, _ = dispatcher_of(workers, monkeypatch)
    rooms = []
    with dispatcher.started(program):
        dispatcher.submit(0, Work("large", 5.0, failures=[MemoryError()]))
        dispatcher.collect(lambda: rooms.append(dispatcher.has_room) if workers.log.count(("large", 0)) == 2 else None)
    assert rooms
    assert not any(rooms)


@pytest.mark.parametrize(
    ("error", "loses", "is_lost"),
    [
        (MemoryError("no room"), True, True),
        (MemoryError("no room"), False, False),
        (RuntimeError("CUDA error: unspecified launch failure"), True, False),
    ],
)
def test_what_lacks_memory_even_alone_ends_the_job_or_is_lost_alone(
    error: Exception, loses: bool, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher, _ = dispatcher_of(Workers(2), monkeypatch, loses_what_lacks_memory=loses)
    with dispatcher.started(program):
        dispatcher.submit(0, Work("large", failures=[error, error]), "at the large one")
        if is_lost:
            assert dispatcher.collect().lost == "it lacked memory, although it was alone (MemoryError: no room)"
            dispatcher.submit(1, Work("small"))
            assert dispatcher.collect().result == "small"
        else:
            with pytest.raises(MachineError):
                dispatcher.collect()


def test_a_start_that_is_interrupted_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(Workers):
        def start(self, program: Program) -> None:
            while True:
                interruption.asked = True
                self.while_waiting()

    dispatcher, interruption = dispatcher_of(Starting(1), monkeypatch)
    with pytest.raises(KeyboardInterrupt), dispatcher.started(program):
        dispatcher.submit(0, Work("never"))


def test_workers_of_the_new_place_are_replaced_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moving(Workers):
        """Worker 0 shares a card with worker 1, and when it is replaced, one with worker 2."""

        def neighbours(self, worker: int) -> Sequence[int]:
            return (0, 2) if ("replace", 0) in self.log else (0, 1)

    workers = Moving(3)
    dispatcher, _ = dispatcher_of(workers, monkeypatch)
    with dispatcher.started(program):
        dispatcher.submit(0, Work("large", failures=[MemoryError()]))
        assert dispatcher.collect().result == "large"
    replaced = [("replace", worker) for worker in (0, 2)]
    assert workers.log == [("start", 0), ("large", 0), *replaced, ("large", 0), ("close", 0)]


def test_a_worker_that_dies_after_a_signal_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2)
    dispatcher, interruption = dispatcher_of(workers, monkeypatch)
    with dispatcher.started(program):
        items = [Work("dies", 1.0, failures=[WorkerDied("signal 9")]), Work("2 s", 2.0)]
        assert interrupt_at(dispatcher, interruption, items) == ["2 s"]
    assert [what for what, _ in workers.log if what == "replace"] == []
