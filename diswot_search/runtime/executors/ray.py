"""The executor on Ray: workers on this machine, or on all machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import platform
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from pathlib import Path
from typing import Any

from ...checks import check_number, listed
from ..failures import MachineError
from .base import Executor, Placement, Program, WorkerDied
from .pickling import loaded_error, pickled
from .placements import check_local_workers, check_workers, device_names, threads_of, torch_threads
from .ray_cluster import asked_address, checked_address, in_one_line, joined_ray, reason, require_ray
from .worker import Caught, Filter, Setup, own_code, warning_filters

_PLACE_S = 60.0
"""Seconds within which every worker must have a place, in a cluster that has room for all."""

_CHECK_S = 0.1
"""Seconds between two looks at whether a wait is to end."""

_LOOK_S = 1.0
"""Seconds between two looks at whether the cluster has room for a worker that waits for its place."""

_END_S = 5.0
"""Seconds within which a worker that was ended is gone."""


class RayExecutor(Executor):
    """Workers that are actors of Ray: on this machine, or on all machines of a cluster.

    Without an address, a small Ray of its own starts on this machine and ends with `close`. If this process is killed,
    the workers end at once, and Ray's last helpers after a minute. A Ray that this process has started or joined
    already is used as it is, and stays.

    Every machine of a cluster needs the same versions of Python, Ray, torch and diswot-search as this one, and the data
    and weights under the same paths. Code of your own is imported from the folders of `sys.path` and from the working
    folder, where a machine has them: all machines do on a shared file system. Without one, install the code on each, or
    join the cluster first: `ray.init("auto", runtime_env={"working_dir": "."})`.

    Args:
        workers: Number of workers.
        threads: Number of threads of all workers together, which it must divide. A worker asks Ray for a CPU for each
            of its own. By default those of torch, rounded down, at least one to each; with an address one to each.
        devices: The kind of device of all workers: "cpu", "cuda" or "mps"; None leaves it to the program. Ray hands out
            the graphics cards and shows a worker only its own, so each knows it as "cuda".
        address: Address of a cluster that this machine belongs to: "auto" or "HOST:PORT". None stays on this machine.
        resources: Other resources that each worker asks Ray for, by name, such as {"GPU": 0.25} for four workers on
            each graphics card. With the device "cuda" each asks for one graphics card if nothing else is given.

    Raises:
        ImportError: Ray is not installed.
        ValueError: An argument is not allowed.

    Example:
        >>> executor = RayExecutor(2)  # doctest: +SKIP
        >>> executor.start(lambda placement: abs)  # doctest: +SKIP
        >>> executor.submit(1, -3).result()  # doctest: +SKIP
        3
        >>> executor.close()  # doctest: +SKIP
    """

    is_isolated = True

    def __init__(
        self,
        workers: int,
        *,
        threads: int | None = None,
        devices: Sequence[str] | None = None,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self.workers = check_workers(workers) if address else check_local_workers(workers)
        self._address = checked_address(address)
        self.threads = 1 if threads is None and address else threads_of(workers, threads, is_local=not address)
        self._device = _checked_device(devices)
        self.devices = () if self._device is None else (self._device,)
        self._needs = _needs(self.threads, self._device, resources or {})
        self._ray = require_ray()
        self._opened = contextlib.ExitStack()
        self._is_connected = False
        self._program: Any = None
        self._actors: list[_Actor] = []
        self._seen: set[Caught] = set()
        self._filters: tuple[Filter, ...] = ()

    def check(self, program: object) -> None:
        pickled("program", program)

    def connect(self) -> None:
        """Start or join Ray, and check that it has room for the workers. `start` does it if it was not done.

        Raises:
            MachineError: The cluster does not answer, has other versions, or has no room.
            ValueError: This process belongs to another cluster already.
        """
        if self._is_connected:
            return
        try:
            if self._ray.is_initialized():
                self._check_joined()
            else:
                # A job with fewer items has fewer workers, which may have more threads together than these.
                cpus = max(self.workers * (self.threads or 1), torch_threads())
                self._opened.enter_context(joined_ray(self._ray, self._address, cpus))
            self._is_connected = True
            if (room := self._room(self._needs)) < self.workers:
                raise MachineError(
                    f"{self._where()} has room for {room:,} of {self.workers:,} workers: each asks for "
                    f"{_amounts(self._needs)}, and {self._machines()} {_amounts(self._total())}. Ask "
                    "for fewer workers, threads or resources."
                )
        except BaseException:
            self.close(at_once=True)
            raise

    def disconnect(self) -> None:
        if not self._actors:
            self.close()

    def start(self, program: Program) -> None:
        """Start or join Ray if it was not done, and make the program in each worker.

        Raises:
            ValueError: The program does not pickle; the message names the part.
            MachineError: See `connect`; or a worker ended before it was ready.
            Exception: The program raised it while it was made.
        """
        if self._actors:
            raise RuntimeError("The executor is started already; close it before it is started again.")
        pickled("program", program)
        self.connect()
        try:
            # Unlike pickle, Ray's own sends functions and classes of a script or a session along.
            self._program = self._ray.put(self._ray.cloudpickle.dumps(program))
            self._seen, self._filters = set(), warning_filters()
            for _ in range(self.workers):
                self._actors.append(self._new_actor(self._needs))
            self._wait_for_places()
            for future in [self._make(worker) for worker in range(self.workers)]:
                self._wait_for(future)
                future.result()
        except (WorkerDied, self._ray.exceptions.RayError) as error:
            self.close(at_once=True)
            raise MachineError(f"The workers cannot be made ready ({in_one_line(str(error))}).") from error
        except BaseException:
            self.close(at_once=True)
            raise

    def _wait_for(self, made: Future[Any]) -> None:
        while not wait([made], timeout=_CHECK_S).done:
            self.while_waiting()

    def await_ready(self) -> None:
        for actor in self._actors:
            self._wait_for(actor.made)

    def submit(self, worker: int, item: Any) -> Future[Any]:
        assert self._actors, "the executor is not started"
        data = pickled("item", item)
        actor = self._actors[worker]
        if actor.is_dead or (actor.is_here and _has_ended(actor.process)):
            self.replace(worker)  # the next item is not to blame
        return self._call(worker, "compute", data)

    def replace(self, worker: int) -> None:
        """End a worker and make another, on another machine if its own is gone.

        If the cluster has lost the room for it, the worker shares the CPUs of others, and a warning says so.

        Raises:
            MachineError: The cluster has lost the graphics card, or another resource, that the worker asks for.
        """
        self._end({worker: self._actors[worker]})
        self._actors[worker] = self._placed_again(worker)
        self._make(worker)

    def close(self, *, at_once: bool = False) -> None:
        if not at_once:
            wait([actor.future for actor in self._actors])
        self._end(dict(enumerate(self._actors)))
        self._actors, self._program, self._is_connected = [], None, False
        self._opened.close()

    def neighbours(self, worker: int) -> Sequence[int]:
        """The workers to which Ray gave parts of the same graphics card."""
        if not self._actors:
            return (worker,)
        mine, is_shared = self._actors[worker], self._device == "mps"  # of which a machine has one for all

        def is_near(other: _Actor) -> bool:
            return other.machine == mine.machine and (is_shared or bool(other.cards & mine.cards))

        return [place for place, other in enumerate(self._actors) if place == worker or is_near(other)]

    def name(self, worker: int) -> str:
        """The worker's number, with the name of its machine if that is another one."""
        actor = self._actors[worker] if self._actors else None
        return (
            f"worker {worker}"
            if actor is None or actor.is_here or not actor.host
            else f"worker {worker} on {actor.host}"
        )

    # -- Ray of our own, or of others -----------------------------------------------------------

    def _check_joined(self) -> None:
        """Refuse to be sent to a cluster by a process that belongs to another."""
        joined = self._ray.get_runtime_context().gcs_address
        if self._address not in (None, "auto", joined, asked_address()):
            raise ValueError(
                f"This process has joined the Ray at {joined} already, not {self._address}. Call ray.shutdown() first, "
                "or leave the address out."
            )

    def _where(self) -> str:
        return f"The Ray cluster at {self._ray.get_runtime_context().gcs_address}" if self._address else "Ray"

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each machine that is there."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, needs: Mapping[str, float]) -> int:
        """Number of workers with these needs that the machines have room for, if nobody else works there."""

        def fits(node: Mapping[str, float]) -> int:
            return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in needs.items())

        return sum(fits(node) for node in self._nodes()) if needs else self.workers

    # -- workers --------------------------------------------------------------------------------

    def _make(self, worker: int) -> Future[Any]:
        """Have the program made in a worker. Items that are sent to it meanwhile wait for that."""
        setup = Setup(Placement(worker, self.threads, self._device), self._filters, own_code())
        made = self._call(worker, "make", self.threads, pickled("set of options", setup), self._program)
        self._actors[worker].made = made
        return made

    def _new_actor(self, needs: Mapping[str, float]) -> _Actor:
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        options |= {names[name]: amount for name, amount in needs.items() if name in names}
        options["resources"] = {name: amount for name, amount in needs.items() if name not in names}
        paths = [os.path.abspath(path) for path in sys.path]
        return _Actor(self._ray.remote(_worker_class()).options(**options).remote(os.getcwd(), paths))

    def _wait_for_places(self) -> None:
        """Wait until all workers run, which they do not while others use what they ask for."""
        places = [actor.place for actor in self._actors]
        deadline, waiting = time.monotonic() + _PLACE_S, places
        while waiting and time.monotonic() < deadline:
            placed, waiting = self._ray.wait(places, num_returns=len(places), timeout=_CHECK_S)
            self.while_waiting()
        if waiting:
            raise MachineError(
                f"{self._where()} gave a place to only {len(placed):,} of {self.workers:,} workers in {_PLACE_S:g} s, "
                f"since other work uses it. Each asks for {_amounts(self._needs)}; "
                f"free are {_amounts(self._free())}."
            )
        for worker, actor in enumerate(self._actors):
            try:
                actor.learn(self._ray.get(actor.place))
            except self._ray.exceptions.RayError as error:
                raise MachineError(f"Worker {worker} cannot start: {reason(error)}") from error

    def _placed_again(self, worker: int) -> _Actor:
        """A new actor that has its place, with the CPUs of others if there is no room for its own."""
        needs, deadline = self._needs, time.monotonic() + _PLACE_S
        actor = self._new_actor(needs)
        while True:
            if self._is_placed(actor, min(deadline, time.monotonic() + _LOOK_S)):
                with contextlib.suppress(self._ray.exceptions.RayError):
                    actor.learn(self._ray.get(actor.place))
                    return actor
                actor = self._new_actor(needs)  # its machine was lost before this one knew
            without_cpus = {name: amount for name, amount in needs.items() if name != "CPU"}
            if self._room(needs) >= self.workers and time.monotonic() < deadline:
                continue
            self._end({worker: actor})
            if needs == without_cpus or self._room(without_cpus) < self.workers:
                raise MachineError(
                    f"{self._where()} has no room any more for worker {worker}, which asks for "
                    f"{_amounts(self._needs)}; {self._machines()} {_amounts(self._total())}. What was stored stays: "
                    "run the same again to continue, with fewer workers."
                )
            warnings.warn(
                f"The Ray cluster has lost the room for worker {worker}, which now shares the CPUs of others.",
                stacklevel=4,
            )
            needs, deadline = without_cpus, time.monotonic() + _PLACE_S
            actor = self._new_actor(needs)

    def _is_placed(self, actor: _Actor, deadline: float) -> bool:
        """Wait until an actor has its place, or its machine is lost; whether that was before the deadline."""
        try:
            while not self._ray.wait([actor.place], timeout=_CHECK_S)[0]:
                if time.monotonic() >= deadline:
                    return False
                self.while_waiting()
        except BaseException:
            self._ray.kill(actor.handle)  # or it would take a place later
            raise
        return True

    def _machines(self) -> str:
        number = len(self._nodes())
        return "1 machine has" if number == 1 else f"{number:,} machines have together"

    def _total(self) -> dict[str, float]:
        return {name: sum(node.get(name, 0) for node in self._nodes()) for name in self._needs}

    def _free(self) -> dict[str, float]:
        free = self._ray.available_resources()
        return {name: free.get(name, 0) for name in self._needs}

    def _call(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        """Call a method of an actor. The future has the answer, unpacked."""
        actor, name, errors = self._actors[worker], self.name(worker), self._ray.exceptions
        future: Future[Any] = Future()
        actor.future = future
        actor.made.add_done_callback(functools.partial(_begin, future))

        def settle(done: Future[Any]) -> None:
            result, error = None, None
            try:
                result, error = self._unpacked(done.result())
            except errors.RayTaskError as failure:  # of Ray or of this file: what programs raise is an answer
                error = MachineError(f"{name} cannot compute ({in_one_line(str(failure).strip().splitlines()[-1])}).")
            except errors.RayError as failure:
                actor.is_dead = True
                if future.running():
                    error = WorkerDied(f"{name} died at the item ({reason(failure)})")
                else:  # for which the item is not to blame
                    error = MachineError(f"{name} ended before it was ready ({reason(failure)}).")
            except BaseException as failure:
                error = failure
            _settle(future, result, error)

        getattr(actor.handle, method).remote(*arguments).future().add_done_callback(settle)
        return future

    def _unpacked(self, answer: tuple[bytes, bytes]) -> tuple[Any, BaseException | None]:
        succeeded, caught = pickle.loads(answer[0])
        for one in caught:
            if one not in self._seen:
                self._seen.add(one)
                warnings.warn_explicit(*one)
        return (pickle.loads(answer[1]), None) if succeeded else (None, loaded_error(answer[1]))

    def _end(self, actors: Mapping[int, _Actor]) -> None:
        """End actors, whose open futures raise, and wait until their processes are gone."""
        if not actors or not self._ray.is_initialized():
            return
        for worker, actor in actors.items():
            self._ray.kill(actor.handle)
            actor.is_dead = True
            _settle(actor.future, None, WorkerDied(f"{self.name(worker)} was ended at the item"))
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait(
                [actor.handle.where.remote() for actor in actors.values()], num_returns=len(actors), timeout=_END_S
            )
        while (
            any(actor.is_here and _is_running(actor.process) for actor in actors.values())
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)


class _Actor:
    """The handle of an actor, and what is known of it.

    Attributes:
        handle: Ray's handle.
        place: Reference to the actor's machine and process, which Ray knows once the actor runs.
        host: Name of its machine; empty while it is not known.
        process: Number of its process there.
        machine: Ray's name of its machine, which tells apart several on one host.
        cards: The graphics cards there that Ray gave it, or gave it a part of.
        made: The future of its program.
        future: Its last future.
        is_dead: Whether it is known to have died.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.place = handle.where.remote()
        self.host = ""
        self.process = 0
        self.machine = ""
        self.cards: frozenset[str] = frozenset()
        self.made: Future[Any] = Future()
        self.future: Future[Any] = Future()
        self.future.set_result(None)
        self.is_dead = False

    def learn(self, place: tuple[str, int, str, list[str]]) -> None:
        """Note the place that it has."""
        self.host, self.process, self.machine, cards = place
        self.cards = frozenset(cards)

    @property
    def is_here(self) -> bool:
        """Whether it is known to run on this machine."""
        return self.host == platform.node()


def _worker_class() -> type:
    """The class of the actors.

    It is made in a function so that Ray sends it as code: its own folders of imports are not set before it is there.
    """

    class Worker:
        def __init__(self, folder: str, paths: list[str]) -> None:
            import ray

            self._compute: Any = None
            self._error: BaseException | None = None
            self._caught: list[Any] = []
            sys.path += [path for path in paths if path not in sys.path and os.path.exists(path)]
            if not ray.get_runtime_context().runtime_env.get("working_dir") and os.path.isdir(folder):
                os.chdir(folder)

        def where(self) -> tuple[str, int, str, list[str]]:
            import ray

            cards = [str(number) for number in ray.get_gpu_ids()]
            return platform.node(), os.getpid(), ray.get_runtime_context().get_node_id(), cards

        def make(self, threads: int, setup: bytes, program: bytes) -> tuple[bytes, bytes]:
            from diswot_search.runtime.executors import processes, worker
            from diswot_search.runtime.executors.pickling import pickled_error

            os.environ.update(dict.fromkeys(processes.THREAD_VARIABLES, str(threads)))
            worker.catch_warnings(self._caught)
            try:
                self._compute = worker.prepared(setup, program)
                succeeded, payload = True, pickle.dumps(None)
            except Exception as error:
                self._error = error
                succeeded, payload = False, pickled_error(error)
            return worker.header(succeeded, self._caught), payload

        def compute(self, item: bytes) -> tuple[bytes, bytes]:
            from diswot_search.runtime.executors import worker

            succeeded, payload = worker.computed(self._compute or self._refuse, item)
            return worker.header(succeeded, self._caught), payload

        def _refuse(self, item: object) -> None:
            """Raise in place of an item, which is not to blame for a program that cannot be made again."""
            from diswot_search.runtime.failures import MachineError

            raise MachineError(
                f"The program cannot be made again in a new worker ({type(self._error).__name__}: {self._error})."
            )

    return Worker


# -- errors and answers -------------------------------------------------------------------------


def _begin(future: Future[Any], made: Future[Any]) -> None:
    """Say that a future runs once the program is made, unless it is settled or cancelled."""
    if made.exception() is None and not future.done():
        with contextlib.suppress(RuntimeError):  # it was settled meanwhile
            future.set_running_or_notify_cancel()


def _settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    """Settle a future, unless it is settled: a worker may be ended at the moment of its answer."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _has_ended(process: int) -> bool:
    """Whether a process computes no more. One that was killed keeps its number until Ray notices."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return not _is_running(process)


# -- arguments ----------------------------------------------------------------------------------


def _checked_device(devices: Sequence[str] | None) -> str | None:
    names = device_names(devices)
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("cpu", "cuda", "mps"):
        raise ValueError(
            f"devices is {listed(names)}; with Ray it must be one of cpu, cuda, mps. Ray hands out the graphics cards, "
            "and each worker knows its own as cuda: ask for cuda, and for a part of a card by the resource GPU."
        )
    return names[0]


def _needs(threads: int, device: str | None, resources: Mapping[str, float]) -> dict[str, float]:
    """The amount of each resource that a worker asks for.

    Raises:
        ValueError: A resource is not allowed.
    """
    needs: dict[str, float] = {"CPU": threads, "GPU": 1} if device == "cuda" else {"CPU": threads}
    for name, amount in resources.items():
        if name == "CPU":
            raise ValueError("The resource CPU is set by threads: a worker asks for one for each of its threads.")
        needs[name] = check_number(f"resources[{name!r}]", amount, above=0)
        if amount > 1 and amount != int(amount):
            raise ValueError(f"resources[{name!r}] is {amount:g}; above 1 it must be a whole number.")
    return needs


def _amounts(needs: Mapping[str, float]) -> str:
    """Amounts of resources as messages name them, such as "2 CPU and 1 GPU"."""
    return " and ".join(f"{amount:,g} {name}" for name, amount in needs.items())
