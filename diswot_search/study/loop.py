"""The one loop of the jobs that score: search, comparison and ranking of sources."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..runtime.executors.dispatch import Dispatcher, Finished
from ..runtime.interruption import Interruption

Item = TypeVar("Item")
Result = TypeVar("Result")
Entry = TypeVar("Entry")

_AHEAD = 8
"""Items for each worker that may be begun before the first of them is stored."""


@dataclass(frozen=True)
class Loop(Generic[Item, Result, Entry]):
    """Takes the result of each item from the store, or has it computed and stores it.

    A job says what the items are, what is stored and what is shown. Items are stored and shown in their order, in
    whatever order the workers finish them, so the store is the same for any number of workers. A signal ends the loop
    after the items at hand.

    Attributes:
        dispatcher: Hands items to workers that run the job's program.
        stored: Gives the stored entry of an item; None if the item has to be computed.
        store: Stores a result with the name of its worker, None for this process, and returns the entry for it.
        lost: Gives the result of an item whose workers ended at it, with the reason.
        show: Shows an entry; the flag tells whether it was stored before.
        interruption: Looked at before each item.
        describe: Names an item in messages, such as "in the source 'near'".
        begin: Called before an item is computed. It may give the result, if an earlier run ended at the item.
        task: What the program gets for an item; by default the item itself.
        idle: Called now and then while nothing is finished, so that what is stored can be committed.

    Example:
        >>> from diswot_search.runtime.executors.serial import SerialExecutor
        >>> squares: dict[int, int] = {2: 4}
        >>> def store(item: int, result: int, worker: str | None) -> int:
        ...     return squares.setdefault(item, result)
        >>> interruption = Interruption()
        >>> dispatcher = Dispatcher(SerialExecutor(), interruption=interruption)
        >>> loop = Loop(
        ...     dispatcher=dispatcher, stored=squares.get, store=store, lost=lambda item, reason: -1,
        ...     show=lambda entry, replayed: print(entry, replayed), interruption=interruption, describe=str,
        ... )
        >>> with dispatcher.started(lambda placement: lambda item: item * item):
        ...     loop.run([1, 2])
        1 False
        4 True
        [1, 4]
    """

    dispatcher: Dispatcher[Result]
    stored: Callable[[Item], Entry | None]
    store: Callable[[Item, Result, str | None], Entry]
    lost: Callable[[Item, str], Result]
    show: Callable[[Entry, bool], None]
    interruption: Interruption
    describe: Callable[[Item], str]
    begin: Callable[[Item], Result | None] | None = None
    task: Callable[[Item], Any] = lambda item: item
    idle: Callable[[], None] = lambda: None
    _keys: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def run(self, items: Iterable[Item]) -> list[Entry]:
        """Go through the items in order.

        Returns:
            The entries in the order of the items.

        Raises:
            KeyboardInterrupt: A signal came; everything that was finished in order before is stored.
            OutOfMemory, MachineError: The machine failed at an item, which has no entry then.
        """
        entries: list[Entry] = []
        places: deque[_Place[Item, Result, Entry]] = deque()
        begun: dict[int, _Place[Item, Result, Entry]] = {}
        remaining = iter(items)
        # A worker of its own gets its next item before the result of the last one is stored.
        is_isolated = self.dispatcher.executor.is_isolated
        while True:
            while self._may_begin(len(places)):
                try:
                    place = self._begin_next(remaining, begun)
                except BaseException:
                    self._store_finished(places, entries)
                    raise
                if place is None:
                    break
                places.append(place)
                self._store_finished(places, entries)
            self._store_finished(places, entries)
            if not begun:
                if self.interruption.asked and next(remaining, None) is not None:
                    raise KeyboardInterrupt
                return entries
            finished = self.dispatcher.collect(self.idle)
            begun.pop(finished.key).finish(finished, self.lost)
            if not is_isolated or not self._may_begin(len(places)):
                self._store_finished(places, entries)

    def _may_begin(self, open_places: int) -> bool:
        """Whether another item may begin now."""
        ahead = _AHEAD * self.dispatcher.executor.workers
        return self.dispatcher.has_room and open_places < ahead and not self.interruption.asked

    def _begin_next(
        self, remaining: Iterator[Item], begun: dict[int, _Place[Item, Result, Entry]]
    ) -> _Place[Item, Result, Entry] | None:
        """The place of the next item, whose computing has begun unless it is stored; None if there is no other."""
        for item in remaining:
            place = _Place[Item, Result, Entry](item, entry=self.stored(item))
            if place.entry is None and self.begin is not None:
                place.result = self.begin(item)
            if place.is_open:
                key = next(self._keys)
                begun[key] = place
                self.dispatcher.submit(key, self.task(item), self.describe(item))
            return place
        return None

    def _store_finished(self, places: deque[_Place[Item, Result, Entry]], entries: list[Entry]) -> None:
        """Store and show what is finished and has no open place before it."""
        while places and not places[0].is_open:
            place = places.popleft()
            entry = place.entry
            is_replayed = entry is not None
            if entry is None:
                assert place.result is not None
                entry = self.store(place.item, place.result, place.worker)
            self.show(entry, is_replayed)
            entries.append(entry)


@dataclass
class _Place(Generic[Item, Result, Entry]):
    """An item with its entry, if it is stored, or its result, once there is one."""

    item: Item
    entry: Entry | None = None
    result: Result | None = None
    worker: str | None = None

    @property
    def is_open(self) -> bool:
        return self.entry is None and self.result is None

    def finish(self, finished: Finished[Result], lost: Callable[[Item, str], Result]) -> None:
        self.result = finished.result if finished.lost is None else lost(self.item, finished.lost)
        self.worker = finished.worker


@dataclass(frozen=True)
class FreeLoop(Generic[Item, Result]):
    """Asks for one more item whenever a worker is free, and tells each result as it comes.

    Attributes:
        dispatcher: Hands items to workers that run the job's program.
        ask: Gives the next item; None if there is no other.
        tell: Takes an item with its result and the name of its worker, None for this process.
        lost: Gives the result of an item whose workers ended at it, with the reason.
        interruption: Looked at before each item.
        describe: Names an item in messages.
        begin: Called before an item is computed. It may give the result, if an earlier run ended at the item.
        task: What the program gets for an item.
        idle: Called now and then while nothing is finished, so that what is told can be committed.
    """

    dispatcher: Dispatcher[Result]
    ask: Callable[[], Item | None]
    tell: Callable[[Item, Result, str | None], None]
    lost: Callable[[Item, str], Result]
    interruption: Interruption
    describe: Callable[[Item], str]
    begin: Callable[[Item], Result | None]
    task: Callable[[Item], Any]
    idle: Callable[[], None] = lambda: None
    _keys: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def run(self, waiting: Iterable[Item] = ()) -> None:
        """Go on until nothing is asked for any more and everything is told.

        Args:
            waiting: Items that were asked for in an earlier run and have no result.

        Raises:
            KeyboardInterrupt: A signal came; everything that was finished before is told.
            OutOfMemory, MachineError: The machine failed at an item, which is not told then.
        """
        queue = deque(waiting)
        begun: dict[int, Item] = {}
        while True:
            while self.dispatcher.has_room and not self.interruption.asked:
                item = queue.popleft() if queue else self.ask()
                if item is None:
                    break
                self._begin(item, begun)
            if not begun:
                self.interruption.check()
                return
            finished = self.dispatcher.collect(self.idle)
            item = begun.pop(finished.key)
            result = self.lost(item, finished.lost) if finished.lost is not None else finished.result
            assert result is not None
            self.tell(item, result, finished.worker)

    def _begin(self, item: Item, begun: dict[int, Item]) -> None:
        if (result := self.begin(item)) is not None:
            self.tell(item, result, None)
            return
        key = next(self._keys)
        begun[key] = item
        self.dispatcher.submit(key, self.task(item), self.describe(item))
