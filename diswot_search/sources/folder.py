"""The run folder of a ranking."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..runtime.configuration import differences
from ..runtime.files import RunFolderError, as_json
from ..runtime.run_folder import RunFolder
from ..runtime.store import Layout, Table
from .ranking import Measured

_MEASURED = Table(
    "measured",
    {"source": "TEXT PRIMARY KEY", "measures": "TEXT NOT NULL", "seconds": "REAL NOT NULL", "worker": "TEXT"},
    counted=True,
)


class RankingFolder(RunFolder):
    """The run folder of a ranking: the measures of each source as soon as they are computed.

    Args:
        config: All that the result depends on, as JSON values.
        given: Description of each source by its name, as JSON values; null for a source that cannot be made again.
        facts: Facts about target and sources that need no measuring, as JSON values.
        data: Name and options of the data, as JSON values; None if it cannot be made again.
        out: The folder; None keeps the store in memory.

    Raises:
        RunFolderError: The folder cannot be used, or holds a ranking of another configuration.
    """

    LAYOUT = Layout("ranking of sources", "sources.sqlite", version=4, tables=(_MEASURED,))
    FACTS = ("given", "facts", "data")

    def __init__(
        self,
        config: Mapping[str, object],
        given: Mapping[str, object],
        facts: Mapping[str, object],
        data: Mapping[str, object] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        self._set_facts(as_json({"given": given, "facts": facts, "data": data}))
        super().__init__(config, out)

    @property
    def measured(self) -> dict[str, dict[str, Measured]]:
        """The measures so far, by source and measure."""
        rows = self._read("SELECT source, measures FROM measured")
        return {source: {name: _measured(of) for name, of in json.loads(text).items()} for source, text in rows}

    @property
    def workers(self) -> dict[str, str]:
        """Name of the worker that measured a source, by source; without those of the process of the ranking itself."""
        return dict(self._read("SELECT source, worker FROM measured WHERE worker IS NOT NULL"))

    @property
    def seconds(self) -> float:
        """Seconds that all sources took."""
        return float(self._read("SELECT coalesce(sum(seconds), 0) FROM measured")[0][0])

    def add(self, source: str, measured: Mapping[str, Measured], seconds: float, worker: str | None = None) -> None:
        """Store the measures of a source, the seconds that they took, and the worker, None for this process."""
        text = json.dumps({name: vars(of) for name, of in measured.items()}, allow_nan=False)
        with self.errors(), self._store:
            self._insert(_MEASURED, [(source, text, seconds, worker)])

    def forget_without(self, measure: str) -> None:
        """Drop the sources without a value of a measure, so that the next run measures them anew."""
        missing = [(source,) for source, measured in self.measured.items() if not measured[measure].values]
        with self.errors(), self._store:
            self._delete(_MEASURED, "source = ?", missing)

    def _facts(self) -> dict[str, object]:
        return {"given": self.given, "facts": self.facts, "data": self.data}

    def _set_facts(self, facts: Mapping[str, Any]) -> None:
        self.given: dict[str, Any] = facts["given"]
        self.facts: dict[str, object] = facts["facts"]
        self.data: dict[str, Any] | None = facts["data"]

    def _continue(self) -> None:
        self._update_meta(self._facts())  # there may be more sources now

    def _config_file(self) -> dict[str, object]:
        return self.config | {"given": self.given, "data": self.data}

    def _check_same(self, stored: Mapping[str, Any]) -> None:
        """Refuse another configuration, naming what differs; there may be other sources than those measured so far."""
        sources = self.config["sources"]
        measured = {name: config for name, config in stored["sources"].items() if name in self.measured}
        if missing := [name for name in measured if name not in sources]:
            raise RunFolderError(
                f"{', '.join(missing)} of the ranking in {self.path} {'is' if len(missing) == 1 else 'are'} not among "
                "the sources given. Give all of its sources, and more if need be, or choose another run folder; where "
                "the ranking is used, weights by name leave sources out."
            )
        same = {name: sources[name] for name in measured}
        if lines := differences({**stored, "sources": measured}, self.config | {"sources": same}):
            all_at_once = (
                ""
                if stored["measures"] == self.config["measures"]
                else "All measures of a source are computed together. "
            )
            raise RunFolderError(
                f"{self.path} holds a ranking of another configuration: {'; '.join(lines)}. {all_at_once}Choose "
                "another run folder."
            )


def _measured(values: Mapping[str, Any]) -> Measured:
    each = {key: tuple(values[key]) for key in ("values", "chances", "similarities")}
    return Measured(**each, reason=values["reason"])
