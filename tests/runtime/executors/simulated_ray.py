"""A stand-in for the package ray, so that tests decide which workers have a place, and where."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

Place = tuple[str, int, str, list[str]]


class RayError(Exception):
    """The base of Ray's errors."""


class RayTaskError(RayError):
    """An error of the code in a worker."""


class _Method:
    """A method of an actor: `where` gives the actor itself as a reference, others their answer at once."""

    def __init__(self, actor: _Handle, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Any:
        if self._name == "where":
            return self._actor
        self._actor.ray.calls.append((self._name, self._actor.number))
        answer: Future[tuple[bytes, bytes]] = Future()
        answer.set_result((pickle.dumps((True, [])), pickle.dumps(self._actor.number)))
        return SimpleNamespace(future=lambda: answer)


class _Handle:
    """The handle of an actor."""

    def __init__(self, ray: SimulatedRay, number: int) -> None:
        self.ray, self.number = ray, number

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)


class SimulatedRay:
    """A Ray that computes nothing. The actors have numbers in the order in which they are made.

    Args:
        places: Place of each actor, in this order; those beyond wait for one.
        resources: Those of its one machine; `init` sets its CPUs.
    """

    cloudpickle = pickle
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, places: Sequence[Place], resources: dict[str, float] | None = None) -> None:
        self.places = list(places)
        self.resources = resources or {"CPU": 8.0, "GPU": 8.0}
        self._private = SimpleNamespace(worker=SimpleNamespace())
        self.killed: list[int] = []
        self.calls: list[tuple[str, int]] = []
        self.looks = 0
        self.is_begun = False
        self._made = 0

    # -- what the executor asks of it ---------------------------------------------------------------

    def is_initialized(self) -> bool:
        return self.is_begun

    def init(self, **options: Any) -> None:
        self.is_begun = True
        self.calls.append(("init", options.get("num_cpus", 0)))
        self.resources |= {"CPU": options["num_cpus"]} if "num_cpus" in options else {}

    def shutdown(self) -> None:
        self.is_begun = False
        self.calls.append(("shutdown", 0))

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address="10.0.0.1:6379")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.resources}]

    def available_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: Any) -> Any:
        return value

    def remote(self, actor: type) -> SimpleNamespace:
        def make(*arguments: Any) -> _Handle:
            self._made += 1
            return _Handle(self, self._made - 1)

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=make))

    def wait(self, references: Sequence[_Handle], **options: Any) -> tuple[list[_Handle], list[_Handle]]:
        self.looks += 1
        placed = [one for one in references if one.number < len(self.places) or one.number in self.killed]
        return placed, [one for one in references if one not in placed]

    def get(self, reference: _Handle) -> Place:
        return self.places[reference.number]

    def kill(self, handle: _Handle) -> None:
        self.killed.append(handle.number)
