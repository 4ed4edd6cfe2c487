"""The order of an asynchronous search, which a search that continues repeats."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.space import Architecture

from ..runtime.files import RunFolderError
from .algorithm import Algorithm
from .records import Record
from .study import Study


class FreeOrder:
    """When each architecture was proposed and its record told: the algorithm depends on nothing else.

    Args:
        algorithm: The algorithm, new.
        study: The study, which stores the order.
        most: Largest number of proposals.

    Attributes:
        told: Number of records that the algorithm knows; the caller counts it up.
        waiting: Proposals without a record, with their indices, in their order.
    """

    def __init__(self, algorithm: Algorithm, study: Study, most: int) -> None:
        self.told = 0
        self._algorithm = algorithm
        self._study = study
        self._most = most
        self._asked = 0
        self._is_done = False
        self._open: dict[str, tuple[int, Architecture]] = {}

    @property
    def waiting(self) -> list[tuple[int, Architecture]]:
        return list(self._open.values())

    def ask(self) -> tuple[int, Architecture] | None:
        """The next proposal, stored with what the algorithm knows; None if there is no other, now and from then on.

        An algorithm that had none is not asked again, as in a search by generations: asking draws random numbers, and
        what gave no proposal is not stored.
        """
        proposal = None if self._is_done else self._propose()
        if proposal is not None:
            self._study.add_ask(proposal[0], self.told)
        self._is_done = proposal is None
        return proposal

    def repeat(self) -> Iterator[Record]:
        """Ask for what was asked in earlier runs, and give each record at its time; the caller tells it.

        Raises:
            RunFolderError: The algorithm proposes something else now.
        """
        asks = self._study.asks
        finished = {record.finished: record for record in self._study.records}
        while True:
            while asks.get(self._asked) == self.told and (proposal := self._propose()) is not None:
                self._open[str(proposal[1])] = proposal
            record = finished.get(self.told)
            if record is None:
                return
            if self._open.pop(record.architecture, (None,))[0] != record.index:
                raise RunFolderError(
                    f"The study in {self._study.path} cannot be continued: evaluation {record.index} was "
                    f"{record.architecture}, which the algorithm does not propose now. Was it begun by another version "
                    "of this program?"
                )
            yield record

    def _propose(self) -> tuple[int, Architecture] | None:
        proposals = self._algorithm.ask(1) if self._asked < self._most else []
        if not proposals:
            return None
        self._asked += 1
        return self._asked - 1, proposals[0]
