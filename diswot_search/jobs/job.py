"""A job: checked, then opened, then run, then reported. The order stands here, once."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from ..data.description import DataDescription
from ..data.errors import DataError
from ..data.trees import is_run_folder
from ..options.base import Options, to_yaml
from ..reports.data import FILE, data_json, data_report, opened_report
from ..runtime.executors.base import Executor
from ..runtime.files import RUN_OPTIONS
from ..runtime.run_folder import RunFolder

O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")


CONFIG = RUN_OPTIONS
"""The file of a run folder that holds all options."""


class Folder(Protocol):
    """A run folder, as far as every job needs it."""

    path: Path | None

    def write(self, name: str, content: str, /) -> None:
        """Write a file, whole or not at all."""

    def release(self) -> None:
        """Let other processes work on the folder."""


class Job(ABC, Generic[O, R]):
    """A job of a user, from options to a report. A subclass says how options are checked, opened, run and reported.

    Args:
        options: The options. They are checked by `complete`, not here.
        show: Prints tables and lines of a stage that is done while others are still to come; by default nothing.

    Attributes:
        is_stage: Whether it is a stage of a job that reaches the machines of the workers for all its stages.
    """

    FOLDER: ClassVar[type[RunFolder] | None] = None
    """The kind of its run folder; None for a job without one."""

    def __init__(self, options: O, show: Callable[..., None] | None = None) -> None:
        self.options = options
        self.show = show or (lambda *items: None)
        self.is_stage = False
        self._is_checked = False
        self._reached: Executor | None = None

    @abstractmethod
    def check(self) -> None:
        """Resolve and check all that the user named, for all stages, before any file or costly step.

        Raises:
            ValueError: A name or a value is not allowed, or values do not fit each other.
        """

    @abstractmethod
    def open(self) -> Folder | None:
        """Open the run folder, new or of an earlier run.

        Returns:
            The folder; None if this process does not write files.

        Raises:
            RunFolderError: The folder cannot be used.
        """

    @abstractmethod
    def run(self) -> R:
        """Do the work that is left, write the results, and let go of the run folder."""

    @abstractmethod
    def report(self, result: R) -> Iterable[object]:
        """Tables and lines for a terminal."""

    def check_result(self, result: R) -> None:
        """Refuse a result that is reported but holds nothing of what was asked for; the command line calls it last.

        Raises:
            RuntimeError: All of the work failed.
        """

    def descriptions(self) -> Sequence[DataDescription]:
        """What the job reads, after it is checked; shown and stored before any work."""
        return ()

    def written(self) -> Options:
        """The options that config.yaml gets; by default those of the job."""
        return self.options

    def check_once(self) -> None:
        """Check, unless that is done: a job with stages checks them all before it runs the first.

        A run folder that holds something else, or cannot be written, is refused before anything is read.
        """
        if not self._is_checked:
            out = getattr(self.options, "out", None)
            if out is not None and self.FOLDER is not None:
                self.FOLDER.check_place(out)
            self.check()
            self._is_checked = True

    def reach(self, executor: Executor) -> None:
        """Reach the machines of the workers, as the last part of `check`; a stage leaves it to the job around it.

        Raises:
            MachineError: They cannot be reached, or have no room.
        """
        if not self.is_stage:
            self._reached = executor
            executor.connect()

    def let_go(self) -> None:
        """Let go of the machines that `check` has reached. `complete` does it, however it ends."""
        if self._reached is not None:
            self._reached.disconnect()
            self._reached = None

    def complete(self) -> R:
        """Check, open and run.

        The run folder gets all options as config.yaml, which `--config` reads, and what is read as data.json.
        """
        try:
            self._check_and_open()
            return self.run()
        finally:
            self.let_go()  # a job that failed before its workers were at work, or had no use for them, does not

    def _check_and_open(self) -> None:
        """Check and open, and write down the options and what is read."""
        try:
            self.check_once()
        except DataError as error:
            self.show(*opened_report(error))
            raise
        text = to_yaml(self.written())  # before a folder is made, so that none is left if it fails
        descriptions = self.descriptions()
        _warn_of_run_among_images(getattr(self.options, "out", None), descriptions)
        folder = self.open()
        if folder is not None:
            try:
                if folder.path is not None:
                    folder.write(CONFIG, text)
                    if descriptions:
                        folder.write(FILE, data_json(descriptions))
                self.show(*data_report(descriptions))
            except BaseException:
                folder.release()
                raise


def _warn_of_run_among_images(out: object, descriptions: Iterable[DataDescription]) -> None:
    """Warn of a run folder in a folder that images are read from; a pipeline says it for all its stages."""
    if not isinstance(out, str | os.PathLike):
        return
    above = Path(out).parent
    if above.is_dir() and os.access(above, os.R_OK) and is_run_folder(os.listdir(above)):
        return
    path = Path(os.path.realpath(out))
    places = dict.fromkeys(inventory.place for each in descriptions for inventory in each.found)
    for place in places:
        if os.path.isdir(place) and path.is_relative_to(os.path.realpath(place)):
            warnings.warn(
                f"The run folder {os.fspath(out)!r} lies among the images in {place!r}. It is left out when they are "
                "read again; give another out to keep them apart.",
                stacklevel=4,
            )
