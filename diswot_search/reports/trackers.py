"""Trackers of experiments that accelerate knows, such as Weights & Biases and MLflow."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ..checks import listed

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from typing_extensions import Self

PROJECT = "diswot-search"
"""Name of the project, or of the experiment, that runs belong to."""

FOLDER = "trackers"
"""Folder, within the run folder, of trackers that write files."""

_NOT_IN_NAMES = re.compile(r"[^\w./ -]")


class TrackerError(ValueError):
    """A tracker is unknown or not installed, lacks a folder, or cannot be started."""


def check_trackers(
    names: str | Sequence[str] | None, options: Mapping[str, Any] | None, *, has_folder: bool
) -> tuple[str, ...]:
    """The names of trackers, checked against what accelerate knows and what is installed.

    Args:
        names: One or several names.
        options: Arguments by name of the tracker.
        has_folder: Whether there is a run folder.

    Raises:
        UnknownNameError: accelerate knows no such tracker.
        TrackerError: It is not installed or named twice, writes files but there is no run folder, or has no options.

    Example:
        >>> check_trackers("tensorboard", None, has_folder=True)
        ('tensorboard',)
    """
    chosen = (names,) if isinstance(names, str) else tuple(names or ())
    if not chosen and not options:
        return ()
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    from search_spaces.registry import UnknownNameError, unknown_name_message

    known, built_in = set(map(str, LOGGER_TYPE_TO_CLASS)), _built_in()
    installed = {str(name) for name in get_available_trackers()} | (known - built_in)
    for name in chosen:
        if name not in known:
            raise UnknownNameError(unknown_name_message("tracker", name, known))
        if name not in installed:
            others = f" Installed: {', '.join(sorted(installed))}." if installed else ""
            raise TrackerError(f"The tracker {name!r} is not installed; install its package.{others}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and not has_folder:
            raise TrackerError(f"The tracker {name!r} writes files; give a run folder, out.")
    if len(set(chosen)) < len(chosen):
        raise TrackerError(f"trackers is {listed(chosen)}; name each once.")
    if wrong := [name for name in options or () if name not in chosen]:
        raise TrackerError(f"tracker_options are for {listed(wrong)}; trackers is {listed(chosen) or 'empty'}.")
    if wrong := [name for name, given in (options or {}).items() if not isinstance(given, Mapping)]:
        raise TrackerError(f"tracker_options.{wrong[0]} must map names of options to values.")
    return chosen


def _built_in() -> set[str]:
    """Names of the trackers that accelerate has itself; others were registered, and so are installed."""
    from accelerate.utils import LoggerType

    return {kind.value for kind in LoggerType}


class Trackers:
    """Sends the scalars of a run to trackers, in the one process that writes files.

    Every call of a job begins a new run of each tracker, to which what is stored is sent again first, as to
    TensorBoard. A tracker that fails while the job runs is left out from then on, with a warning.

    Args:
        names: Names that `check_trackers` gives.
        options: Arguments of their constructors by name, such as {"wandb": {"name": "first"}}.
        folder: The run folder; None if no tracker writes files.
        config: What the run depends on, as JSON values.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        *,
        folder: Path | None = None,
        config: Mapping[str, object] | None = None,
    ) -> None:
        self._names, self._options = tuple(names), options or {}
        self._folder, self._config = folder, config or {}
        self._started: dict[str, GeneralTracker] = {}

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                self._started[name] = self._start(name)
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send scalars of a step; characters that not every tracker takes in names become "_"."""
        if self._started:
            renamed = {_NOT_IN_NAMES.sub("_", name): value for name, value in values.items()}
            self._each(lambda tracker: tracker.log(renamed, step=step))

    def _start(self, name: str) -> GeneralTracker:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        cls = cast("type[GeneralTracker]", LOGGER_TYPE_TO_CLASS[name])
        options = dict(self._options.get(name, {}))
        if cls.requires_logging_directory:
            assert self._folder is not None
            options = {"logging_dir": str(self._folder / FOLDER)} | options
        try:
            with _accelerate_state():
                tracker = cls(PROJECT, **options)
                getattr(tracker, "start", lambda: None)()  # before accelerate 1.8 the constructor starts it
                tracker.store_init_configuration(_flat(self._config))
        except Exception as error:  # a tracker may fail in any way
            raise TrackerError(f"The tracker {name!r} cannot be started ({type(error).__name__}: {error}).") from error
        return tracker

    def _finish(self) -> None:
        self._each(lambda tracker: tracker.finish())
        self._started = {}

    def _each(self, use: Callable[[GeneralTracker], None]) -> None:
        for name, tracker in list(self._started.items()):
            try:
                with _accelerate_state():
                    use(tracker)
            except Exception as error:  # what is tracked elsewhere must not end the work
                warnings.warn(
                    f"The tracker {name!r} failed and is left out ({type(error).__name__}: {error}).", stacklevel=4
                )
                del self._started[name]


@contextmanager
def _accelerate_state() -> Iterator[None]:
    """The state that accelerate's trackers ask for their process; one that was missing goes again afterwards.

    A search has none, and a training that follows makes one of its own, for its own device.
    """
    from accelerate.state import PartialState

    is_missing = not PartialState._shared_state
    if is_missing:
        PartialState(cpu=True)
    try:
        yield
    finally:
        if is_missing:
            PartialState._reset_state()


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested JSON values by their path; lists and nulls become text, which every tracker takes.

    Example:
        >>> _flat({"budget": {"max_params": None, "max_macs": 5}, "seeds": [0, 1]})
        {'budget.max_params': 'null', 'budget.max_macs': 5, 'seeds': '[0, 1]'}
    """
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{name}"] = cast("bool | int | float | str", value) if is_plain else json.dumps(value)
    return flat
