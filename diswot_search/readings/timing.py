"""Readings: values that are computed once, on first use, with their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass
class Watch:
    """The cost of one use of readings.

    Attributes:
        seconds: The time of the use itself and of every reading that it touched, whether that was computed now or
            before. A forward pass that also makes records for other readings takes somewhat longer than it would alone.
        passes: The names of the readings that it touched, sorted.
    """

    seconds: float = 0.0
    passes: tuple[str, ...] = ()


@dataclass
class _Frame:
    """A reading that is being computed.

    Attributes:
        touched: The readings that it has used so far.
        inner: The time that they took, and the time of work that counts elsewhere.
    """

    touched: set[str] = field(default_factory=set)
    inner: float = 0.0


class Reading(Generic[T_co]):
    """A method whose value is computed once per `Timed` object and kept; so is its error. Made by `reading`.

    Attributes:
        kinds: The records that the forward pass must make for it.
        controlled: Whether a control may give it: it is computed from activations and the probe alone.
        name: The name of the method.
    """

    def __init__(self, function: Callable[[Any], T_co], kinds: frozenset[str] = frozenset(), controlled: bool = False):
        self.function = function
        self.kinds = kinds
        self.controlled = controlled
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type | None = None) -> Reading[T_co]: ...
    @overload
    def __get__(self, owner: Timed, kind: type | None = None) -> T_co: ...
    def __get__(self, owner: Timed | None, kind: type | None = None) -> Reading[T_co] | T_co:
        if owner is None:
            return self
        owner._admit(self)
        value: T_co = owner._take(self.name, self.function)
        return value


@overload
def reading(function: Callable[[Any], T], /) -> Reading[T]: ...
@overload
def reading(*kinds: str, controlled: bool = False) -> Callable[[Callable[[Any], T]], Reading[T]]: ...
def reading(*method_or_kinds: Any, controlled: bool = False) -> Any:
    """Declare a reading: `@reading`, `@reading("blocks")`, `@reading("blocks", controlled=True)`.

    Args:
        method_or_kinds: The method, or the records that the forward pass must make for it; see `recording.Recorder`.
        controlled: The reading is computed from activations and the probe alone, so that a control, which has changed
            activations and no network, can give it. Controls refuse every reading that does not declare this.
    """
    if len(method_or_kinds) == 1 and callable(method_or_kinds[0]):
        return Reading(method_or_kinds[0])
    return lambda function: Reading(function, frozenset(method_or_kinds), controlled)


def readings_of(owner: type[Timed]) -> dict[str, Reading[object]]:
    """The readings of a class, by name."""
    attributes = {name: getattr(owner, name) for name in dir(owner)}
    return {name: value for name, value in attributes.items() if isinstance(value, Reading)}


class Timed:
    """Keeps the values and times of readings, and the readings that each of them uses."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}
        self._own_seconds: dict[str, float] = {}
        self._made_from: dict[str, set[str]] = {}
        self._frames: list[_Frame] = []

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Measure the cost of a block that uses these readings; the watch holds it after the block."""
        watch, frame, started = Watch(), _Frame(), time.perf_counter()
        self._frames.append(frame)
        try:
            yield watch
        finally:
            self._frames.pop()
            self._wait()
            own = time.perf_counter() - started - frame.inner
            watch.seconds = own + sum(self._own_seconds[name] for name in frame.touched)
            watch.passes = tuple(sorted(frame.touched))
            if self._frames:
                self._frames[-1].touched |= frame.touched
                self._frames[-1].inner += time.perf_counter() - started

    def _admit(self, reading: Reading[object]) -> None:
        """Raise an error if these readings do not give this one."""

    def _give(self, name: str, value: object) -> None:
        """Set a reading whose value is known already."""
        self._values[name], self._own_seconds[name], self._made_from[name] = value, 0.0, set()

    def _take(self, name: str, function: Callable[[Any], T]) -> T:
        if name not in self._values and name not in self._errors:
            self._take_anew(name, function)
        if self._frames:
            self._frames[-1].touched |= {name} | self._made_from[name]
        if name in self._errors:
            raise self._errors[name]
        value: T = self._values[name]
        return value

    def _take_anew(self, name: str, function: Callable[[Any], object]) -> None:
        frame, started = _Frame(), time.perf_counter()
        self._frames.append(frame)
        try:
            self._values[name] = function(self)
        except Exception as error:  # whatever it is, computing the reading again would raise it again
            self._errors[name] = error
        finally:
            self._frames.pop()
        self._wait()
        seconds = time.perf_counter() - started
        self._own_seconds[name] = self._own_seconds.get(name, 0.0) + seconds - frame.inner
        self._made_from[name] = frame.touched
        if self._frames:
            self._frames[-1].inner += seconds

    def _charge(self, name: str, seconds: float) -> None:
        """Count some time of the current reading as that of another reading, for which it was spent."""
        self._own_seconds[name] = self._own_seconds.get(name, 0.0) + seconds
        if self._frames:
            self._frames[-1].inner += seconds

    def _wait(self) -> None:
        """Wait until the device has finished its work."""
