"""An executor that simulates workers in this process, so that tests choose the order in which they finish."""

from __future__ import annotations

import pickle
import random
import threading
from concurrent.futures import Future
from typing import Any

from diswot_search.runtime.executors.base import Executor, Placement, Program, WorkerDied


class AnyOrder(Executor):
    """Workers that finish in any order, and some of which die: threads of this process, with copies of everything."""

    is_isolated = True

    def __init__(self, workers: int, seed: int, deaths: float = 0.0) -> None:
        self.workers = workers
        self._random = random.Random(seed)
        self._deaths = deaths

    def start(self, program: Program) -> None:
        program = pickle.loads(pickle.dumps(program))
        self._compute = [program(Placement(worker)) for worker in range(self.workers)]
        self._open: list[tuple[Future[Any], int, bytes]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._finish, daemon=True)
        self._thread.start()

    def submit(self, worker: int, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            self._open.append((future, worker, pickle.dumps(item)))
            self._changed.notify()
        return future

    def _finish(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open)
                chosen = self._open.pop(self._random.randrange(len(self._open)))
            if chosen[1] < 0:
                return
            future, worker, item = chosen
            try:
                if self._random.random() < self._deaths:
                    raise WorkerDied("signal 11")
                future.set_result(pickle.loads(pickle.dumps(self._compute[worker](pickle.loads(item)))))
            except Exception as error:
                future.set_exception(error)

    def replace(self, worker: int) -> None:
        """All workers are as new."""

    def close(self, *, at_once: bool = False) -> None:
        self.submit(-1, None)
        self._thread.join()
