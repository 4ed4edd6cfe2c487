"""The one serial loop of the jobs that score: search, comparison and ranking of sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..runtime.failures import stop_if_machine_failed
from ..runtime.interruption import Interruption

Item = TypeVar("Item")
Result = TypeVar("Result")
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class SerialLoop(Generic[Item, Result, Entry]):
    """Takes the result of each item from the store, or computes and stores it before the next item begins.

    A job says what the items are, what is stored and what is shown. A signal is noticed between two items only, so no
    item is half done when the loop ends early.

    Attributes:
        stored: Gives the stored entry of an item; None if the item has to be computed.
        compute: Computes the result of an item. It touches no store, so it can run anywhere.
        store: Stores a result and returns the entry for it.
        show: Shows an entry; the flag tells whether it was stored before.
        interruption: Checked before each item.
        describe: Names an item in messages, such as "in the source 'near'".
        begin: Called before an item is computed. It may give the result, if an earlier run ended at the item.

    Example:
        >>> squares: dict[int, int] = {2: 4}
        >>> def store(item: int, result: int) -> int:
        ...     return squares.setdefault(item, result)
        >>> loop = SerialLoop(
        ...     stored=squares.get, compute=lambda item: item * item, store=store,
        ...     show=lambda entry, replayed: print(entry, replayed), interruption=Interruption(), describe=str,
        ... )
        >>> loop.run([1, 2])
        1 False
        4 True
        [1, 4]
    """

    stored: Callable[[Item], Entry | None]
    compute: Callable[[Item], Result]
    store: Callable[[Item, Result], Entry]
    show: Callable[[Entry, bool], None]
    interruption: Interruption
    describe: Callable[[Item], str]
    begin: Callable[[Item], Result | None] | None = None

    def run(self, items: Iterable[Item]) -> list[Entry]:
        """Go through the items in order.

        Returns:
            The entries in the order of the items.

        Raises:
            KeyboardInterrupt: A signal came; everything computed before is stored.
            OutOfMemory, MachineError: The machine failed at an item, which has no entry then.
        """
        entries = []
        for item in items:
            self.interruption.check()
            entry = self.stored(item)
            replayed = entry is not None
            if entry is None:
                entry = self.store(item, self._computed(item))
            self.show(entry, replayed)
            entries.append(entry)
        return entries

    def _computed(self, item: Item) -> Result:
        result = None if self.begin is None else self.begin(item)
        if result is not None:
            return result
        try:
            return self.compute(item)
        except Exception as error:
            stop_if_machine_failed(error, self.describe(item))
            raise
