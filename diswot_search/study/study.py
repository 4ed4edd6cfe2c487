"""A search in progress or finished: its configuration, every record, the winner, and the folder they live in."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from search_spaces.plugins import UntrustedCodeError
from search_spaces.recipes import recipe_of, space_from_recipe
from search_spaces.space import Architecture, SearchSpace

from ..proxies.aggregate import elementary_proxies
from ..proxies.registry import get_proxy
from ..proxies.ties import describe_ties
from ..runtime.checksums import row_checksum
from ..runtime.configuration import config_sha256, differences, versions
from ..runtime.files import RunFolderError, as_json, csv_line
from ..runtime.run_folder import RunFolder
from ..runtime.store import SECONDS_UNTIL_STORED, Layout, Table, as_real
from ..runtime.typed_json import decode_stored, encode
from .cost_kinds import COSTS, StoredCost
from .evaluator import uses_teacher
from .finalists import Finalist
from .records import Record

MEASURES = tuple(COSTS)
"""Costs that a score can be weighed against on a Pareto front; less is better."""


_COST_COLUMNS = {kind.name: "REAL" if kind.unit else "INTEGER" for kind in COSTS.values()}


_RECORDS = Table(
    "records",
    {
        "index": "INTEGER PRIMARY KEY",
        "architecture": "TEXT NOT NULL",
        "canonical": "TEXT NOT NULL UNIQUE",
        **_COST_COLUMNS,
        "status": "TEXT NOT NULL",
        "reason": "TEXT",
        "score": "REAL",
        "score_std": "REAL",
        "parts": "TEXT NOT NULL",
        "seconds": "REAL NOT NULL",
        "worker": "TEXT",
        "finished": "INTEGER",
    },
    rowid=True,
    apart=("score",),  # an aggregate scores all records anew after every evaluation
    counted=True,
)


_COSTS = Table(
    "costs",
    {
        "architecture": "TEXT PRIMARY KEY",
        **_COST_COLUMNS,
        "failure": "TEXT",
        "details": "TEXT NOT NULL",
    },
)


_ASKS = Table("asks", {"index": "INTEGER PRIMARY KEY", "told": "INTEGER NOT NULL"}, rowid=True)
"""The number of records that the algorithm of an asynchronous search knew when it proposed each architecture."""


_FIELDS = tuple(_RECORDS.columns)
"""The fields of `Record`, in the order of the table."""


_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)


_COST_FIELDS = ", ".join(_COSTS.columns)


_PAGE = 256

_SHORTLIST = "shortlist"
"""Key of the finalists of the last shortlist in the store."""


class NoScoreError(RuntimeError):
    """A search without a winner, because no architecture could be scored."""


@dataclass(frozen=True)
class Candidate:
    """A scored architecture with the space that builds it.

    Attributes:
        record: Its record.
        study: The study that it belongs to.
    """

    record: Record
    study: Study = field(repr=False)

    @property
    def architecture(self) -> Architecture:
        """The architecture as a value of its space."""
        return self.study.space.parse(self.record.architecture)

    @property
    def score(self) -> float:
        """Mean score; higher is better."""
        assert self.record.score is not None
        return self.record.score

    @property
    def params(self) -> int:
        """Trainable parameters."""
        assert self.record.params is not None
        return self.record.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        assert self.record.macs is not None
        return self.record.macs

    @property
    def latency_ms(self) -> float | None:
        """Latency where the student ships, where the study measured it."""
        return self.record.latency_ms

    @property
    def memory_mb(self) -> float | None:
        """Memory of weights and activations, where the study counted it."""
        return self.record.memory_mb

    @property
    def size_mb(self) -> float | None:
        """Size of the weights, where the study counted it."""
        return self.record.size_mb

    @property
    def parts(self) -> dict[str, float]:
        """Mean value of each term of the score, by name."""
        return self.record.parts

    def build(self) -> nn.Module:
        """The network, untrained, its weights drawn from torch's global generator."""
        return self.study.space.build(self.architecture)


class Study(RunFolder):
    """Every evaluation of one search, in memory or in a run folder that outlives the process.

    A run folder holds `study.sqlite` (the truth), `config.json`, and, written when the search ends or is
    interrupted, `result.json`, `architectures.csv`, `curves/` for TensorBoard and pictures. It belongs to
    one configuration and to one set of versions of torch, timm and this package; only `evaluations` may be raised,
    which continues the study.

    Args:
        config: All that decides the result, as JSON values.
        out: The run folder; None keeps the study in memory.
        space: The space of the architectures; by default made anew from `config["space"]`.

    Raises:
        RunFolderError: Another process works on the folder, it holds something else or a study of another
            configuration, its store is damaged, or its disk is full.
    """

    LAYOUT = Layout("search", "study.sqlite", version=4, tables=(_RECORDS, _COSTS, _ASKS))
    FACTS = ("recipe",)

    def __init__(
        self,
        config: Mapping[str, object],
        *,
        out: str | os.PathLike[str] | None = None,
        space: SearchSpace | None = None,
    ) -> None:
        self._space = space
        self._recipe: dict[str, object] | None = json.loads(recipe_of(space))
        super().__init__(config, out)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, space: SearchSpace | None = None) -> Study:
        """Open the study of a run folder to read it, finished or not, also while a search writes it.

        Args:
            path: The run folder.
            space: The space of the architectures, for a space that is not registered by name.

        Raises:
            RunFolderError: The folder has no study, it is damaged, or `space` is not the one that was searched.
        """
        study = cls.peek(path)
        study._space = space
        if space is not None:
            _check_space(Path(path), study.config["space"], as_json(space.config()))
        return study

    # -- what a user reads ----------------------------------------------------------------------

    @property
    def space(self) -> SearchSpace:
        """The space that the architectures belong to.

        Raises:
            RunFolderError: The space was not made by `create_space`, or has changed; pass it to `Study.load`.
        """
        if self._space is None:
            try:
                space = space_from_recipe(self._recipe)
            except UntrustedCodeError as error:
                raise RunFolderError(str(error)) from error
            if space is None or as_json(space.config()) != self.config["space"]:
                raise RunFolderError(
                    f"The space of the study in {self.path} cannot be made by name; import the code that registers it "
                    "(--import), or give it to Study.load as `space`."
                )
            self._space = space
        return self._space

    @property
    def records(self) -> Iterator[Record]:
        """All records in the order of asking, read from the store as they are used."""
        start = 0
        query = f'SELECT {_COLUMNS} FROM records WHERE "index" >= ? ORDER BY "index" LIMIT {_PAGE}'
        while page := [_to_record(row) for row in self._read(query, start)]:
            yield from page
            start = page[-1].index + 1

    def __len__(self) -> int:
        """Number of evaluations, failed ones included."""
        return int(self._read("SELECT count(*) FROM records")[0][0])

    @property
    def winner(self) -> Candidate:
        """The highest score; among equals the one with fewest parameters, then the one asked first.

        Raises:
            NoScoreError: No architecture has a score.
        """
        best = self.best(1)
        if not best:
            raise NoScoreError(f"No architecture of this study has a score: {self.failure_summary()}.")
        return best[0]

    def best(self, n: int = 10) -> list[Candidate]:
        """The `n` best, the winner first."""
        query = f"SELECT {_COLUMNS} FROM records WHERE status = 'ok' ORDER BY score DESC, params, \"index\" LIMIT ?"
        return [Candidate(_to_record(row), self) for row in self._read(query, n)]

    @property
    def objectives(self) -> tuple[str, ...]:
        """Costs that the score is weighed against: the algorithm's other objectives, or else the parameters."""
        chosen = self.config.get("algorithm", {}).get("options", {}).get("objectives", ())
        return tuple(measure for measure in MEASURES if measure in chosen) or ("params",)

    @property
    def teachers(self) -> list[tuple[str, float]]:
        """Name and weight of each teacher that scores compare with, the heaviest first; a single one has weight 1."""
        teacher = self.config.get("teacher")
        if teacher is None:
            return []
        return [(one["name"], one["weight"]) for one in teacher.get("teachers", [{**teacher, "weight": 1.0}])]

    @property
    def ignores_teacher(self) -> bool:
        """Whether there is a teacher that the score certainly does not use."""
        try:
            proxy = get_proxy(self.config["proxy"])
        except (KeyError, ValueError):  # a function of the user's
            return False
        return bool(self.teachers) and not any(map(uses_teacher, elementary_proxies(proxy)))

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front of the score against the study's `objectives`, the smallest first."""
        return self.pareto_front(*self.objectives)

    def pareto_front(self, *measures: str) -> list[Candidate]:
        """All candidates that no other equals or beats in the score and in every measure, the smallest first.

        Args:
            measures: Names of `COSTS`, such as "params", "macs" and "latency_ms".

        Raises:
            ValueError: There is no measure, or an unknown one.
        """
        if not measures or not set(measures) <= set(MEASURES):
            raise ValueError(f"measures are {', '.join(measures) or 'missing'}; allowed: {', '.join(MEASURES)}.")
        measured = " AND ".join(f"{measure} IS NOT NULL" for measure in measures)
        first, *others = measures
        order = ", ".join([first, "score DESC", *others, '"index"'])
        query = f"SELECT {_COLUMNS} FROM records WHERE status = 'ok' AND {measured} ORDER BY {order}"
        front: list[Candidate] = []
        with self.errors():
            # In this order nothing is beaten by what comes after it.
            for row in self._store.execute(query):
                candidate = Candidate(_to_record(row), self)
                if not any(_covers(other, candidate, measures) for other in front):
                    front.append(candidate)
        return front

    @property
    def failures(self) -> dict[str, int]:
        """How many evaluations failed, by reason, the most frequent first."""
        query = "SELECT reason, count(*) FROM records WHERE status != 'ok' GROUP BY reason ORDER BY 2 DESC, 1"
        return {str(reason): count for reason, count in self._read(query)}

    @property
    def ties(self) -> dict[str, str]:
        """The value that many candidates share, by score or component, with their number; see `proxies.ties`.

        The score of an aggregate is a rank, so that only its components count. Scores that differ are left out.
        """
        name, columns = str(self.config.get("proxy", "score")), dict[str, list[float]]()
        for record in self.records:
            if record.status != "ok" or record.score is None:
                continue
            own = {} if record.score_std is None else {name: record.score}  # an aggregate has no deviation
            for column, value in (own | record.parts).items():
                columns.setdefault(column, []).append(value)
        described = {column: describe_ties(values, "candidates") for column, values in columns.items()}
        return {column: text for column, text in described.items() if text is not None}

    @property
    def workers(self) -> dict[str, int]:
        """Number of records of each worker, by its name; without those of the process of the search itself."""
        query = 'SELECT worker, count(*) FROM records WHERE worker IS NOT NULL GROUP BY worker ORDER BY min("index")'
        return {str(worker): count for worker, count in self._read(query)}

    def failure_summary(self, limit: int = 3) -> str:
        """The most frequent reasons of failure in one line."""
        failures = self.failures
        if not failures:
            return f"{len(self)} evaluations"
        most = "; ".join(f"{count} x {reason}" for reason, count in list(failures.items())[:limit])
        return f"{sum(failures.values())} of {len(self)} evaluations failed ({most})"

    @property
    def finalists(self) -> tuple[Finalist, ...]:
        """The finalists of the last shortlist of this study, with the accuracies that they reached; empty without one.

        Raises:
            RunFolderError: They are damaged.
        """
        store = (self.path or Path("memory")) / self.LAYOUT.store
        stored = (self.recall(_SHORTLIST) or {}).get("finalists", ())
        return tuple(decode_stored(Finalist, one, store, "run the shortlist again in a new folder") for one in stored)

    @property
    def shortlist(self) -> str | None:
        """The run folder of the last shortlist of this study; None without one."""
        return (self.recall(_SHORTLIST) or {}).get("path")

    def record_finalists(
        self,
        finalists: Sequence[Finalist],
        shortlist: str | os.PathLike[str],
        pictures: Mapping[str, bytes] | None = None,
    ) -> None:
        """Store the finalists of a shortlist in the run folder, in the place of earlier ones.

        Args:
            finalists: The finalists with their trials.
            shortlist: The run folder of the shortlist.
            pictures: Content of their pictures by name of the file.

        Raises:
            RunFolderError: Another process works on the run folder, or it cannot be written.
        """
        assert self.path is not None
        stored = {"path": os.fspath(shortlist), "finalists": [encode(finalist) for finalist in finalists]}
        self.amend(self.path, {_SHORTLIST: stored}, pictures or {})

    # -- what a search writes -------------------------------------------------------------------

    def record(self, index: int) -> Record | None:
        """The record of this place in the order of asking, if there is one."""
        rows = self._read(f'SELECT {_COLUMNS} FROM records WHERE "index" = ?', index)
        return _to_record(rows[0]) if rows else None

    def add(self, records: Sequence[Record], *, rescored: Mapping[int, float] | None = None) -> None:
        """Store records, all or none.

        Args:
            records: The new records.
            rescored: Scores by index that replace those of earlier records, since an aggregate ranks all anew.

        Raises:
            ValueError: A record says "ok" without a finite score, or its function was evaluated before.
            RunFolderError: The store cannot be written.
        """
        for record in records:
            if record.status == "ok" and (record.score is None or not math.isfinite(record.score)):
                raise ValueError(f"{record.architecture} is recorded as ok with the score {record.score}.")
        rows = [_to_row(record) for record in records]
        changes = ((score, row_checksum((index, as_real(score))), index) for index, score in (rescored or {}).items())
        try:
            with self._change():
                self._insert(_RECORDS, rows)
                self._store.executemany('UPDATE records SET score = ?, score_checksum = ? WHERE "index" = ?', changes)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"An architecture or its equal was evaluated before: {error}.") from None

    @property
    def asks(self) -> dict[int, int]:
        """The number of records that the algorithm of an asynchronous search knew at each proposal, by index."""
        return dict(self._read('SELECT "index", told FROM asks ORDER BY "index"'))

    def add_ask(self, index: int, told: int) -> None:
        """Store when an architecture was proposed, which `asks` gives; committed with the next record."""
        with self.errors():
            self._insert(_ASKS, [(index, told)])

    def cost(self, architecture: str) -> StoredCost | None:
        """The stored cost of an architecture; None if no cost is stored."""
        rows = self._read(f"SELECT {_COST_FIELDS} FROM costs WHERE architecture = ?", architecture)
        return _to_cost(rows[0]) if rows else None

    @property
    def costs(self) -> Iterator[StoredCost]:
        """The costs of all architectures that were tried, within the budget or not, in no order."""
        return map(_to_cost, self._read(f"SELECT {_COST_FIELDS} FROM costs"))

    def add_cost(self, architecture: str, cost: StoredCost) -> None:
        """Store a cost.

        A measured one is committed at once, since measuring it again would give another value. Counted ones are
        committed together, with the next record or after `SECONDS_UNTIL_STORED`.
        """
        row = (architecture, *cost.costs().values(), cost.failure, json.dumps(dict(cost.details)))
        with self.errors():
            self._delete(_COSTS, "architecture = ?", [(architecture,)])
            self._insert(_COSTS, [row])
        if cost.details or time.monotonic() - self._committed_at > SECONDS_UNTIL_STORED:
            self.settle()

    def add_costs_of(self, other: Study) -> None:
        """Store the costs of another study."""
        costs = other._read(f"SELECT {_COST_FIELDS} FROM costs")
        with self.errors(), self._store:
            self._delete(_COSTS, "architecture = ?", [(architecture,) for architecture, *_ in costs])
            self._insert(_COSTS, costs)

    def finish(
        self, status: str, timing: Mapping[str, object] | None = None, *, pictures: Mapping[str, bytes] | None = None
    ) -> None:
        """Write `architectures.csv`, the pictures and `result.json`, and set the status when all of them exist.

        Args:
            status: "complete" or "interrupted".
            timing: Device, threads, batch and precision of the measured times, as JSON values.
            pictures: Content of the pictures by name of the file.
        """
        files = {"architectures.csv", "result.json", *(pictures or {})}
        if self.path is not None:
            self.write("architectures.csv", self._csv())
            for name, picture in (pictures or {}).items():
                self.write(name, picture)
            self.write_json("result.json", self._result(status, timing or {}))
        self.end(status, files)

    def __repr__(self) -> str:
        return f"<Study {self.path or 'in memory'}: {len(self)} evaluations, {self.status}>"

    # -- the store ------------------------------------------------------------------------------

    def _facts(self) -> dict[str, object]:
        return {"recipe": self._recipe}

    def _set_facts(self, facts: Mapping[str, Any]) -> None:
        self._recipe = facts["recipe"]

    def _check_same(self, stored: Mapping[str, object]) -> None:
        """Refuse another configuration, naming what differs; the number of evaluations may be raised."""
        if lines := differences(stored, self.config, ignore=("evaluations",)):
            raise RunFolderError(
                f"{self.path} holds a study of another configuration: {'; '.join(lines)}. Choose another run folder."
            )
        if self.config["evaluations"] < len(self):
            raise RunFolderError(
                f"{self.path} has {len(self)} evaluations already; {self.config['evaluations']} are asked for. "
                "They may be raised, not lowered."
            )

    # -- the files ------------------------------------------------------------------------------

    def _csv(self) -> Iterator[str]:
        parts = sorted({name for record in self.records for name in record.parts})
        names = [name for name in _FIELDS if name != "parts"]
        yield csv_line([*names, *(f"part_{name}" for name in parts)])
        for record in self.records:
            values = _values(record)
            yield csv_line([*(values[name] for name in names), *(record.parts.get(name) for name in parts)])

    def _result(self, status: str, timing: Mapping[str, object]) -> dict[str, object]:
        best = [_values(candidate.record) for candidate in self.best(10)]
        failures = self.failures
        total, failed = len(self), sum(failures.values())
        seconds = self._read("SELECT coalesce(sum(seconds), 0) FROM records")[0][0]
        return {
            "status": status,
            "winner": best[0] if best else None,
            "best": best,
            "front": [candidate.record.index for candidate in self.front],
            "proxy": self.config.get("proxy"),
            "teachers": [{"name": name, "weight": weight} for name, weight in self.teachers],
            "ignores_teacher": self.ignores_teacher,
            "evaluations": {"all": total, "ok": total - failed, "failed": failed, "failures": failures},
            "ties": self.ties,
            "timing": {"seconds": seconds, "covers": "building and scoring of all evaluations", **timing},
            "config_sha256": config_sha256(self.config),
            "versions": versions(),
        }


def _check_space(path: Path, stored: dict[str, object], space: dict[str, object]) -> None:
    """Refuse another space than the one that was searched, naming what differs."""
    lines = differences(stored, space)
    if lines:
        raise RunFolderError(f"{path} holds a study of another space: {'; '.join(lines[:5])}.")


def _covers(one: Candidate, other: Candidate, measures: Sequence[str]) -> bool:
    """Whether one candidate is at least as good as another in the score and in every measure."""
    return one.score >= other.score and all(getattr(one, m) <= getattr(other, m) for m in measures)


def _to_record(row: Sequence[Any]) -> Record:
    values = dict(zip(_FIELDS, row, strict=True))
    return Record(**values | {"parts": json.loads(values["parts"])})


def _to_cost(row: Sequence[Any]) -> StoredCost:
    _, *costs, failure, details = row
    return StoredCost(**dict(zip(COSTS, costs, strict=True)), failure=failure, details=json.loads(details))


def _to_row(record: Record) -> tuple[object, ...]:
    return tuple((_values(record) | {"parts": json.dumps(record.parts)}).values())


def _values(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in _FIELDS}
