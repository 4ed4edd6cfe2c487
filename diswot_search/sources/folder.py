"""The run folder of a ranking."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.run_folder import RunFolder, RunFolderError, as_json, differences, no_store
from .ranking import Measured, RankingError


class RankingFolder(RunFolder):
    """The run folder of a ranking: what was found of each source as soon as it is known. Without a folder, in memory.

    Args:
        config: All that the result depends on, as JSON values.
        given: How the sources were given by name, as JSON values; null for one that cannot be made again.
        facts: What is known without measuring, as JSON values.
        data: How the data was given, as JSON values; None where it cannot be made again.
        out: The folder.

    Raises:
        RunFolderError: The folder cannot be used, or holds a ranking of another configuration.
    """

    STORE = "sources.sqlite"
    VERSION = 2
    SCHEMA = (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE found (source TEXT PRIMARY KEY, measures TEXT NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID",
    )

    def __init__(
        self,
        config: Mapping[str, Any],
        given: Mapping[str, Any],
        facts: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config: dict[str, Any] = as_json(config)
        self.given: dict[str, Any] = as_json(given)
        self.facts: dict[str, Any] = as_json(facts)
        self.data: dict[str, Any] | None = as_json(data)
        self.path = None if out is None else Path(out)
        if self.path is None:
            self._connect(":memory:")
            self._begin()
        else:
            self._open_folder(self.path)

    @classmethod
    def peek(cls, path: str | os.PathLike[str]) -> RankingFolder:
        """A folder to read, finished or not.

        Raises:
            RunFolderError: It has no ranking, or is damaged.
        """
        folder = cls.__new__(cls)
        folder.path = Path(path)
        if not cls.exists(path):
            raise RunFolderError(no_store(folder.path, cls.STORE))
        folder._connect(str(folder.path / cls.STORE))
        folder._read("PRAGMA query_only = ON")
        if folder._is_empty():
            raise RunFolderError(f"The ranking in {path} was stopped before it began; run it again.")
        folder.config, folder.given, folder.facts, folder.data = map(folder._meta, _META)
        return folder

    @property
    def found(self) -> dict[str, dict[str, Measured]]:
        """What is known so far, by source and measure."""
        rows = self._read("SELECT source, measures FROM found")
        with self._legible():
            return {source: {name: _measured(of) for name, of in json.loads(text).items()} for source, text in rows}

    @property
    def seconds(self) -> float:
        """What all sources took."""
        return float(self._read("SELECT coalesce(sum(seconds), 0) FROM found")[0][0])

    def add(self, source: str, measured: Mapping[str, Measured], seconds: float) -> None:
        """Store what was found of a source."""
        text = json.dumps({name: vars(one) for name, one in measured.items()}, allow_nan=False)
        with self.errors(), self._store:
            self._store.execute("INSERT INTO found VALUES (?, ?, ?)", (source, text, seconds))

    def discard(self, before: Collection[str] | None) -> None:
        """Remove what a run wrote that has ended.

        Args:
            before: Names of the files that were there before it; None if there was no folder, which is removed, too.
        """
        if self.path is None:
            return
        with self.errors():
            self._store.close()
            for name in (ranking_files(self.path) or set()) - set(before or ()):
                (self.path / name).unlink()
            if before is None:
                self.path.rmdir()

    def _begin(self) -> None:
        if self._is_empty():
            self._create()
        else:
            self._check_same(self._meta("config"))
            with self.errors(), self._store:
                self._fill()
        if self.path is not None:
            self.write_json("config.json", self.config | {"given": self.given, "data": self.data})

    def _check_same(self, stored: dict[str, Any]) -> None:
        """Refuse another configuration, naming what differs; other sources beside those that are measured are none."""
        measured = {name: config for name, config in stored["sources"].items() if name in self.found}
        kept = {name: self.config["sources"][name] for name in measured if name in self.config["sources"]}
        if missing := [name for name in measured if name not in self.config["sources"]]:
            raise RunFolderError(
                f"{', '.join(missing)} of the ranking in {self.path} {'is' if len(missing) == 1 else 'are'} not among "
                "the sources given. Give all of its sources, and more if need be, or choose another run folder; where "
                "the ranking is used, weights by name leave sources out."
            )
        if lines := differences(stored | {"sources": measured}, self.config | {"sources": kept}):
            known = (
                "" if stored["measures"] == self.config["measures"] else "All measures of a source are had at once. "
            )
            raise RunFolderError(
                f"{self.path} holds a ranking of another configuration: {'; '.join(lines)}. {known}Choose another run "
                "folder."
            )

    def _fill(self) -> None:
        rows = ((key, json.dumps(getattr(self, key))) for key in _META)
        self._store.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def _meta(self, key: str) -> Any:
        rows = self._read("SELECT value FROM meta WHERE key = ?", key)
        with self._legible():
            return json.loads(rows[0][0])

    @contextmanager
    def _legible(self) -> Iterator[None]:
        """Say of a store that is whole, but does not hold what it should, that it is damaged."""
        try:
            yield
        except RankingError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"The store of {self.path} is damaged ({type(error).__name__}: {error}); nothing was changed. Rank the "
                "sources anew in another folder."
            ) from error


_META = ("config", "given", "facts", "data")
"""What is stored beside what was found."""


def ranking_files(path: Path) -> set[str] | None:
    """Names of what is in a folder; None where there is no folder."""
    return {entry.name for entry in path.iterdir()} if path.is_dir() else None


def _measured(values: Mapping[str, Any]) -> Measured:
    each = {key: tuple(values[key]) for key in ("values", "chances", "similarities")}
    return Measured(**each, reason=values["reason"])
