"""A job: checked, then opened, then run, then reported. The order stands here, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from ..options.base import Options, to_yaml

O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")


class Writable(Protocol):
    """A run folder as far as a job needs it to write a file."""

    def write(self, name: str, content: str, /) -> None:
        """Write a file, whole or not at all."""


class Job(ABC, Generic[O, R]):
    """What a user starts. A subclass says how its options are checked, opened, run and reported.

    Args:
        options: The options. They are checked by `complete`, not here.
    """

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def check(self) -> None:
        """Resolve and check all that the user named, for all stages, before any file or costly step.

        Raises:
            ValueError: A name or a value is not allowed, or values do not fit each other.
        """

    @abstractmethod
    def open(self) -> None:
        """Open the run folder and write config.yaml into it, or keep the state in memory.

        Raises:
            RunFolderError: The folder cannot be used.
        """

    @abstractmethod
    def run(self) -> R:
        """Do what is left to do, write the results, and let go of the run folder."""

    @abstractmethod
    def report(self, result: R) -> Iterable[Any]:
        """Tables and lines for a terminal."""

    def write_options(self, folder: Writable) -> None:
        """Write config.yaml, which `--config` reads, into a run folder that is open."""
        folder.write("config.yaml", to_yaml(self.options))

    def complete(self) -> R:
        """Check, open and run."""
        self.check()
        self.open()
        return self.run()
