"""The executor of worker processes on this machine."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from .base import Executor, Placement, Program, WorkerDied, grace_of
from .main_guard import check_main_is_guarded, importable_main
from .pickling import loaded_error, pickled, pickled_program
from .placements import check_local_workers, devices_of, threads_of
from .worker import END, Caught, Setup, own_code, warning_filters, work

MAX_STARTS = 3
"""Processes that may be killed, one after another, before they are ready."""

GRACE_S = 0.5
"""Seconds from the request to end (SIGTERM) to the kill (SIGKILL), unless the program needs longer."""

_LEAVE_S = 5.0
"""Seconds in which a worker without an item ends by itself."""

_POLL_S = 1.0

_CHECK_S = 0.1
"""Seconds between two looks at whether a wait is to end."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_starting = threading.Lock()
"""Held while a process starts, since it takes its number of threads from the environment of this one."""


class ProcessExecutor(Executor):
    """Workers that are processes of this machine, each started anew ("spawned").

    The program is pickled once, and loaded and made once in each worker. A worker that dies takes only its item with
    it: the future raises `WorkerDied`, and the next item of that worker starts another process. Workers ignore SIGINT,
    show their warnings here, and end by themselves if this process is gone.

    `concurrent.futures.ProcessPoolExecutor` is not used, because it waits forever for a worker that is killed while it
    writes a large result.

    Args:
        workers: Number of workers.
        threads: Number of threads of all workers together, which it must divide; by default those of torch, rounded
            down, at least one to each worker.
        devices: Names of devices, each once. Workers are laid out over them in turns.

    Raises:
        ValueError: A number is not allowed, or a device is unknown, not there, or named twice.

    Example:
        In a script, under `if __name__ == "__main__":`::

            executor = ProcessExecutor(2)
            executor.start(program)
            futures = [executor.submit(worker, item) for worker, item in enumerate(items)]
            results = [future.result() for future in futures]
            executor.close()
    """

    is_isolated = True

    def __init__(self, workers: int, *, threads: int | None = None, devices: Sequence[str] | None = None) -> None:
        self.workers = check_local_workers(workers)
        self.threads = threads_of(workers, threads)
        self.devices = devices_of(workers, devices)
        self._workers: list[_Worker] = []
        self._is_on_cards = any(device != "cpu" for device in self.devices)
        self._program = b""
        self._grace_s = GRACE_S
        self._seen: set[Caught] = set()
        self._showing = threading.Lock()

    def check(self, program: object) -> None:
        """Check that this process can start others, and that a program can be sent to them; see `Executor.check`."""
        check_main_is_guarded()
        pickled_program(program)

    def start(self, program: Program) -> None:
        """Start the workers and wait until the program is made in each.

        Raises:
            ValueError: The program does not pickle; the message names the part.
            UnguardedScriptError: The script that calls would run again in each worker.
            MachineError: A worker ended before it was ready.
            Exception: The program raised it while it was made.
        """
        if self._workers:
            raise RuntimeError("The executor is started already; close it before it is started again.")
        check_main_is_guarded()
        self._program = pickled_program(program)
        self._grace_s = grace_of(program) or GRACE_S
        self._seen = set()
        atexit.register(self.close, at_once=True)  # before multiprocessing waits for its processes
        try:
            for number in range(self.workers):
                self._workers.append(self._made(number))
            for worker in self._workers:
                self._wait_for(worker)
                worker.ready.result()
        except BaseException:
            self.close(at_once=True)
            raise

    def _wait_for(self, worker: _Worker) -> None:
        """Wait until the program is made in a worker, or cannot be made."""
        while not wait([worker.ready], timeout=_CHECK_S).done:
            self.while_waiting()

    def await_ready(self) -> None:
        for worker in self._workers:
            self._wait_for(worker)

    def neighbours(self, worker: int) -> Sequence[int]:
        cards = max(1, len(self.devices))
        return range(worker % cards, self.workers, cards) if self._is_on_cards else (worker,)

    def submit(self, worker: int, item: Any) -> Future[Any]:
        assert self._workers, "the executor is not started"
        return self._workers[worker].submit(pickled("item", item))

    def replace(self, worker: int) -> None:
        old = self._workers[worker]
        old.end_at_once()
        old.wait(GRACE_S)
        self._workers[worker] = self._made(worker)

    def close(self, *, at_once: bool = False) -> None:
        for worker in self._workers:
            if at_once:
                worker.end_at_once()
            else:
                worker.end()
        deadline = time.monotonic() + self._grace_s
        for worker in self._workers:
            worker.wait(max(0.0, deadline - time.monotonic()) if at_once else None)
        self._workers = []
        self._program = b""
        atexit.unregister(self.close)

    def _made(self, number: int) -> _Worker:
        device = self.devices[number % len(self.devices)] if self.devices else None
        placement = Placement(number, self.threads, device)
        setup = Setup(placement, warning_filters(), own_code())
        return _Worker(self.name(number), placement, pickled("set of options", setup), self._program, self._show)

    def _show(self, caught: Sequence[Caught]) -> None:
        """Show the warnings of workers here, each once."""
        for one in caught:
            with self._showing:
                is_new = one not in self._seen
                self._seen.add(one)
            if is_new:
                text, category, file, line = one
                try:
                    warnings.warn_explicit(text, category, file, line)
                except Warning as warning:  # warnings are errors by now; in the worker this one was none
                    warnings.showwarning(warning, category, file, line)


class _Worker:
    """The process of a worker, the next one after it died, and the thread that talks to it.

    The thread starts the process and outlives it: Linux ends a process together with the thread that started it.
    """

    def __init__(
        self,
        name: str,
        placement: Placement,
        setup: bytes,
        program: bytes,
        show: Callable[[Sequence[Caught]], None],
    ) -> None:
        self.ready: Future[None] = Future()
        self._name = name
        self._placement = placement
        self._messages = setup, program
        self._show = show
        self._orders: queue.SimpleQueue[tuple[bytes, Future[Any]] | None] = queue.SimpleQueue()
        self._is_ended = False
        self._changing = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: bytes) -> Future[Any]:
        future: Future[Any] = Future()
        self._orders.put((item, future))
        return future

    def end(self) -> None:
        """Ask for the end, after the item at hand."""
        self._orders.put(None)

    def end_at_once(self) -> None:
        """Ask for the end, without the item at hand."""
        with self._changing:
            self._is_ended = True
            if self._process is not None:
                self._process.terminate()
        self._orders.put(None)

    def wait(self, grace: float | None) -> None:
        """Wait until the process is gone. After `grace` seconds it is killed; None waits as long as it takes."""
        self._thread.join(grace)
        if self._thread.is_alive():
            with self._changing:
                if self._process is not None:
                    self._process.kill()
            self._thread.join()

    # -- in the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # the process inherits it, and unblocks when it ignores the signal
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        _settle(self.ready, self._begin)
        while (order := self._orders.get()) is not None:
            item, future = order
            _settle(future, functools.partial(self._compute, item, future))
            del order, item, future  # a large result is not kept until the next
        self._leave()

    def _begin(self) -> None:
        """Start a process and wait until its program is made."""
        reason = ""
        for _ in range(MAX_STARTS):
            self._start_process()
            answer = self._exchange(*self._messages)
            if answer is not None:
                try:
                    self._load(answer)
                except BaseException:
                    self._leave()
                    raise
                return
            reason, was_killed = self._discard()
            if self._is_ended:
                raise WorkerDied(f"{self._name} was ended before it was ready")
            if not was_killed:
                raise _machine_error(f"{self._name} ended before it was ready ({reason}); its messages say why.")
        raise _machine_error(f"{MAX_STARTS} processes of {self._name} ended before they were ready, by {reason}.")

    def _begin_again(self) -> None:
        """Start a process in place of one that died. An item is not to blame for a program that cannot be made now."""
        try:
            self._begin()
        except WorkerDied:
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise _machine_error(f"The program cannot be made again in {self._name} ({message}).") from error

    def _compute(self, item: bytes, future: Future[Any]) -> Any:
        if self._process is not None and self._process.exitcode is not None:
            self._discard()  # it was killed between two items
        if self._process is None:
            self._begin_again()
        if not future.set_running_or_notify_cancel():
            return None
        answer = self._exchange(item)
        if answer is None:
            reason, _ = self._discard()
            ended = "was ended" if self._is_ended else "died"
            raise WorkerDied(f"{self._name} {ended} at the item ({reason})")
        return self._load(answer)

    def _start_process(self) -> None:
        context = multiprocessing.get_context("spawn")
        with self._changing:
            if self._is_ended:
                raise WorkerDied(f"{self._name} was ended before it was ready")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=work, args=(theirs,), name=f"diswot-search {self._name}")
            try:
                with _starting, _environment(self._placement.threads), importable_main():
                    self._process.start()
            except OSError as error:
                self._process = None
                raise _machine_error(f"{self._name} cannot be started ({error}).") from error
            finally:
                theirs.close()  # its end is known when nobody else holds it

    def _exchange(self, *messages: bytes) -> tuple[bytes, bytes] | None:
        """Send messages and wait for the answer; None if the process ended."""
        assert self._process is not None
        assert self._connection is not None
        try:
            for message in messages:
                self._connection.send_bytes(message)
            while not self._connection.poll(_POLL_S):
                # Processes that the worker has forked may keep its end open.
                if self._process.exitcode is not None and not self._connection.poll(0):
                    return None
            return self._connection.recv_bytes(), self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def _load(self, answer: tuple[bytes, bytes]) -> Any:
        succeeded, caught = pickle.loads(answer[0])
        self._show(caught)
        if not succeeded:
            raise loaded_error(answer[1])
        return pickle.loads(answer[1])

    def _discard(self) -> tuple[str, bool]:
        """Wait for the end of a process that ends by itself; the reason, and whether a signal killed it."""
        process = self._process
        assert process is not None
        assert self._connection is not None
        process.join(_LEAVE_S)
        if process.exitcode is None:  # it lives, but does not answer any more
            process.kill()
            process.join()
        code = process.exitcode
        with self._changing:
            self._process = None
            self._connection.close()
            process.close()
        return exit_reason(code), code is not None and code < 0

    def _leave(self) -> None:
        """Let the process end, after its last item.

        After SIGTERM it may be there as well: an item caught the signal, stored its state and answered, and its process
        waits for the next item.
        """
        if self._process is None:
            return
        assert self._connection is not None
        with contextlib.suppress(OSError):  # it is gone
            self._connection.send_bytes(END)
        if self._is_ended:
            self._process.terminate()  # sooner than Python takes leave
        self._discard()


def _settle(future: Future[Any], compute: Callable[[], Any]) -> None:
    """Give a future what a function returns or raises."""
    try:
        result = compute()
    except BaseException as error:
        with contextlib.suppress(InvalidStateError):  # it was cancelled
            future.set_exception(error)
    else:
        if not future.cancelled():
            future.set_result(result)


def _machine_error(message: str) -> Exception:
    from ..failures import MachineError  # loads torch, which programs may not need

    return MachineError(message)


def exit_reason(code: int | None) -> str:
    """Why a process ended, from its exit code.

    Example:
        >>> exit_reason(3), exit_reason(-9)
        ('exit code 3', 'signal 9 (SIGKILL)')
    """
    if code is None:
        return "for a reason that is not known"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


@contextlib.contextmanager
def _environment(threads: int | None) -> Iterator[None]:
    """Set the number of threads of libraries that are loaded in a process that starts in this block."""
    if threads is None:
        yield
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
