"""The file of events that TensorBoard reads."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..runtime.files import RunFolderError
from ..runtime.store import explain


class EventFile:
    """The one file of a folder that TensorBoard reads, written at once and without a thread, so that errors are ours.

    Args:
        folder: The folder; it is created if needed, and files of earlier runs in it are removed.

    Raises:
        RunFolderError: The file cannot be written, because the disk is full for instance.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import scalar

        self._folder, self._event, self._scalar = folder, Event, scalar
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = RecordWriter((folder / name).open("wb", buffering=0))
        self._write(file_version="brain.Event:2")

    def add(self, tag: str, value: float, step: int) -> None:
        """Write a scalar."""
        self._write(summary=self._scalar(tag, value), step=step)

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: object) -> None:
        with self._errors():
            self._file.write(self._event(wall_time=time.time(), **content).SerializeToString())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(explain(error, self._folder)) from error
