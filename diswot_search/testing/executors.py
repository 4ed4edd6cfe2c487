"""The contract of executors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..runtime.executors.base import Executor, WorkerDied
from ..runtime.executors.serial import SerialExecutor
from .executor_programs import ActionProgram, Item
from .randomness import random_state


def compute_all(executor: Executor, items: Sequence[Item]) -> list[Any]:
    """Compute items, one more whenever a worker is free; return the results in the order of the items."""
    results: list[Any] = [None] * len(items)
    free = list(range(executor.workers))
    at_work: dict[Future[Any], tuple[int, int]] = {}
    for index, item in enumerate(items):
        if not free:
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                done_index, worker = at_work.pop(future)
                results[done_index] = future.result()
                free.append(worker)
        worker = free.pop()
        at_work[executor.submit(worker, item)] = index, worker
    for future, (index, _) in at_work.items():
        results[index] = future.result()
    return results


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def computes(process: int) -> bool:
    """Whether a process is there, and has not ended without being noticed."""
    try:
        has_ended = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return not has_ended or len(os.listdir(f"/proc/{process}/task")) > 1  # its other threads may end later
    except OSError:
        return is_running(process) and not Path("/proc").is_dir()


def wait_until(reached: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a state, which a busy machine may reach late."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {seconds:g} seconds"
        time.sleep(0.01)


class ExecutorContract:
    """The tests that every executor passes.

    Example:
        A file `test_my_executor.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.executors import ExecutorContract
        >>> class TestMyExecutor(ExecutorContract):
        ...     def create(self, workers):
        ...         return MyExecutor(workers)
    """

    workers: ClassVar[int] = 2
    """The number of workers that the tests ask for; 1 for an executor that never has more."""

    def create(self, workers: int) -> Executor:
        """Create the executor; it is not started."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """The executor, started with an `ActionProgram`."""
        executor = self.create(self.workers)
        executor.start(ActionProgram("burden"))
        yield executor
        executor.close(at_once=True)

    @pytest.fixture
    def isolated(self, executor: Executor) -> Executor:
        if not executor.is_isolated:
            pytest.skip("its workers share the process of the job")
        return executor

    @staticmethod
    def processes(executor: Executor) -> list[int]:
        """Return the number of the process of each worker."""
        return [executor.submit(worker, ("where", None)).result()[1] for worker in range(executor.workers)]

    def test_results_are_those_of_the_serial_executor_in_any_order_of_completion(self, executor: Executor) -> None:
        items = [("late_root", float(value)) for value in range(40)]
        serial = SerialExecutor()
        serial.start(ActionProgram())
        expected = [serial.submit(0, item).result() for item in items]
        assert compute_all(executor, items) == expected
        assert compute_all(executor, items[::-1]) == expected[::-1]

    def test_many_items_are_computed_by_a_program_that_is_made_once_in_each_worker(self, executor: Executor) -> None:
        results = compute_all(executor, [("root", float(value)) for value in range(500)])
        assert results == [value**0.5 for value in range(500)]
        counts = [executor.submit(worker, ("where", None)).result()[2] for worker in range(executor.workers)]
        assert sum(counts) == 500 + executor.workers

    def test_each_worker_knows_its_place(self, executor: Executor) -> None:
        places = [executor.submit(worker, ("where", None)).result()[0] for worker in range(executor.workers)]
        assert [place.worker for place in places] == list(range(self.workers))
        assert len({executor.name(worker) for worker in range(executor.workers)}) == executor.workers

    def test_large_items_and_results_come_back_whole(self, executor: Executor) -> None:
        expected = bytes(range(256)) * (1 << 14)
        assert executor.submit(0, ("large", len(expected))).result() == expected
        assert executor.submit(0, ("root", 4.0)).result() == 2.0

    def test_errors_come_back_as_they_are_and_the_worker_goes_on(self, executor: Executor) -> None:
        error = executor.submit(0, ("fail", "no room")).exception()
        assert type(error) is LookupError
        assert error.args == ("no room",)
        assert type(error.__cause__) is MemoryError
        assert executor.submit(0, ("root", 4.0)).result() == 2.0

    def test_error_of_the_making_of_the_program_is_raised_by_the_start(self) -> None:
        executor = self.create(self.workers)
        with pytest.raises(LookupError, match="no teacher"):
            executor.start(ActionProgram(error=LookupError("no teacher")))
        executor.start(ActionProgram())  # nothing is left of the first start
        assert executor.submit(0, ("root", 4.0)).result() == 2.0
        executor.close()

    def test_it_can_be_closed_at_any_time_and_started_again(self, executor: Executor) -> None:
        before = self.processes(executor)
        executor.close()
        executor.close()
        assert executor.is_isolated is not any(map(is_running, before))
        executor.start(ActionProgram("another"))
        with pytest.raises(RuntimeError, match="started already"):
            executor.start(ActionProgram())
        assert executor.submit(self.workers - 1, ("carried", None)).result() == "another"
        self.create(self.workers).close()

    def test_global_random_states_are_left_alone(self, executor: Executor) -> None:
        state = random_state()
        compute_all(executor, [("root", float(value)) for value in range(10)])
        executor.replace(0)
        executor.close()
        assert random_state() == state

    def test_close_waits_for_items_at_hand(self, executor: Executor) -> None:
        future = executor.submit(self.workers - 1, ("hang", 0.05))
        executor.close()
        assert future.done()
        assert future.result() == "awake"

    # -- executors whose workers can end without ending the job ----------------------------------

    def test_a_worker_that_is_killed_takes_only_its_item_with_it(self, isolated: Executor) -> None:
        other = isolated.submit(1, ("hang", 0.3))
        with pytest.raises(WorkerDied, match=isolated.name(0)):
            isolated.submit(0, ("die", None)).result()
        assert other.result() == "awake"
        isolated.replace(0)
        assert isolated.submit(0, ("where", None)).result()[0].worker == 0

    def test_an_item_that_is_asked_to_end_takes_its_worker_with_it_but_not_the_job(self, isolated: Executor) -> None:
        with pytest.raises(WorkerDied):
            isolated.submit(0, ("end", None)).result()
        isolated.replace(0)
        isolated.await_ready()
        assert isolated.submit(0, ("root", 4.0)).result() == 2.0

    def test_a_worker_that_was_killed_between_two_items_loses_nothing(self, isolated: Executor) -> None:
        (process, *_) = self.processes(isolated)
        os.kill(process, 9)
        wait_until(lambda: not computes(process))
        assert isolated.submit(0, ("root", 4.0)).result() == 2.0

    def test_a_worker_that_hangs_is_replaced(self, isolated: Executor) -> None:
        before = self.processes(isolated)
        future = isolated.submit(0, ("hang", 600.0))
        wait_until(future.running)
        isolated.replace(0)
        with pytest.raises(WorkerDied):
            future.result()
        assert not is_running(before[0])
        after = self.processes(isolated)
        assert after[0] != before[0]
        assert after[1:] == before[1:]

    def test_close_at_once_gives_up_items_at_hand(self, isolated: Executor) -> None:
        before = self.processes(isolated)
        futures = [isolated.submit(worker, ("hang", 600.0)) for worker in range(isolated.workers)]
        isolated.close(at_once=True)
        for future in futures:
            with pytest.raises(WorkerDied):
                future.result()
        assert not any(map(is_running, before))

    def test_program_that_does_not_pickle_is_refused_by_the_name_of_its_part(self) -> None:
        executor = self.create(self.workers)
        if not executor.is_isolated:
            pytest.skip("its programs do not travel")
        with pytest.raises(ValueError, match=r"burden.*lambda.*top level of a module"):
            executor.start(ActionProgram({"objective": lambda value: value}))
        executor.close()
