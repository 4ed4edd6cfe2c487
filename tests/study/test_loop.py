"""The one loop: what is stored is not computed, what is computed is stored before anything else begins."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from diswot_search.runtime.executors.base import Executor, Placement, Program
from diswot_search.runtime.executors.dispatch import Activity, Dispatcher
from diswot_search.runtime.executors.serial import SerialExecutor
from diswot_search.runtime.failures import MachineError, OutOfMemory
from diswot_search.runtime.interruption import Interruption
from diswot_search.study.loop import Loop


class Squares:
    """A job: squares of numbers, with everything that happens to them."""

    def __init__(self, compute: Callable[[int], int] = lambda item: item * item, **stored: int) -> None:
        self.entries = {int(name[1:]): entry for name, entry in stored.items()}
        self.events: list[str] = []
        self.interruption = Interruption()
        self._compute = compute

    def compute(self, item: int) -> int:
        self.events.append(f"compute {item}")
        return self._compute(item)

    def store(self, item: int, result: int, worker: str) -> int:
        self.events.append(f"store {item}")
        return self.entries.setdefault(item, result)

    def show(self, entry: int, replayed: bool) -> None:
        self.events.append(f"show {entry}{' replayed' if replayed else ''}")

    def run(self, *items: int, executor: Executor | None = None) -> list[int]:
        dispatcher: Dispatcher[int] = Dispatcher(executor or SerialExecutor(), interruption=self.interruption)
        loop = Loop(
            dispatcher=dispatcher,
            stored=self.entries.get,
            store=self.store,
            lost=lambda item, reason: -item,
            show=self.show,
            interruption=self.interruption,
            describe=lambda item: f"at {item}",
        )
        with dispatcher.started(lambda placement: self.compute):
            return loop.run(items)


def test_each_item_is_replayed_or_computed_and_stored_in_order() -> None:
    job = Squares(_2=4)
    assert job.run(3, 2, 0) == [9, 4, 0]
    assert job.events == [
        *("compute 3", "store 3", "show 9"),
        "show 4 replayed",
        *("compute 0", "store 0", "show 0"),
    ]
    assert job.run(3, 2, 0) == [9, 4, 0]
    assert job.events[-3:] == ["show 9 replayed", "show 4 replayed", "show 0 replayed"]


def test_a_signal_ends_the_loop_before_the_next_item() -> None:
    def interrupting(item: int) -> int:
        job.interruption.asked = item == 2
        return item

    job = Squares(interrupting)
    with pytest.raises(KeyboardInterrupt):
        job.run(1, 2, 3)
    assert job.entries == {1: 1, 2: 2}
    assert job.events[-1] == "show 2"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), OutOfMemory, "Out of memory at 2"),
        (RuntimeError("CUDA error: unspecified launch failure"), MachineError, "The device failed at 2"),
        (ValueError("a mistake of the job"), ValueError, "^a mistake of the job$"),
    ],
)
def test_an_error_ends_the_loop_and_what_was_stored_stays(
    error: Exception, kind: type[Exception], message: str
) -> None:
    def fail_once(item: int) -> int:
        if item == 2 and errors:
            raise errors.pop()
        return item

    errors, job = [error], Squares(fail_once)
    with pytest.raises(kind, match=message):
        job.run(1, 2, 3)
    assert job.entries == {1: 1}
    assert job.run(1, 2, 3) == [1, 2, 3]


class LastFirst(Executor):
    """Two workers of their own, that are done with an item when the next one is handed out, or when nothing is."""

    workers = 2
    is_isolated = True

    def start(self, program: Program) -> None:
        self._compute = program(Placement())

    def submit(self, worker: int, item: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(self._compute(item))
        return future

    def replace(self, worker: int) -> None:
        """Nothing ends here."""

    def close(self, *, at_once: bool = False) -> None:
        """Nothing to end."""


def test_workers_of_their_own_get_their_next_item_before_the_result_of_the_last_is_stored() -> None:
    job = Squares()
    assert job.run(1, 2, 3, 4, executor=LastFirst()) == [1, 4, 9, 16]
    assert job.events.index("compute 3") < job.events.index("store 1")
    assert [event for event in job.events if "store" in event] == ["store 1", "store 2", "store 3", "store 4"]


def test_what_is_finished_is_stored_although_the_next_item_cannot_begin() -> None:
    def stop_at_3(item: int) -> int:
        if item == 3:
            raise KeyboardInterrupt
        return item

    job = Squares(stop_at_3)
    with pytest.raises(KeyboardInterrupt):
        job.run(1, 2, 3, executor=LastFirst())
    assert job.entries == {1: 1}


def test_no_worker_is_started_if_everything_is_stored() -> None:
    class Unneeded(SerialExecutor):
        def start(self, program: Program) -> None:
            raise AssertionError("nothing is to be computed")

    assert Squares(_2=4).run(2, executor=Unneeded()) == [4]


def test_the_dispatcher_says_what_each_worker_does() -> None:
    dispatcher: Dispatcher[int] = Dispatcher(LastFirst(), interruption=Interruption())
    with dispatcher.started(lambda placement: abs):
        dispatcher.submit(0, -3, "in three")
        first, second = dispatcher.activities()
        assert (first.worker, first.done, first.where) == ("worker 0", 0, "in three")
        assert second == Activity("worker 1", 0)
        dispatcher.collect()
        assert dispatcher.activities() == [Activity("worker 0", 1), Activity("worker 1", 0)]
