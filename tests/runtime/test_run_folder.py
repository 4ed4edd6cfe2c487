"""Run folders of every kind: killed at any moment, damaged in any place, of another version, read while written."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diswot_search import Record, Study
from diswot_search.comparison.store import ScoreStore
from diswot_search.resolve.folders import PipelineFolder, kind_of
from diswot_search.runtime import run_folder
from diswot_search.runtime.checksums import CHECKSUM, ChecksumError, fill_checksum, verify_checksum, verify_file
from diswot_search.runtime.configuration import canonical, config_sha256, differences
from diswot_search.runtime.files import RunFolderError, read_json
from diswot_search.runtime.run_folder import RunFolder
from diswot_search.sources.folder import RankingFolder
from diswot_search.sources.ranking import Measured
from diswot_search.study.cost_kinds import StoredCost
from diswot_search.study.records import NewScore
from diswot_search.training.folder import TrainingFolder

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kind:
    """A kind of run folder.

    Attributes:
        make: Opens a folder to write it, with the configuration that all tests use.
        fill: Adds some records.
        read: Reads all records.
        bits: A value that the store holds, as it lies in the file.
        rows: Statement that removes a record; None where a reader does not know how many there should be.
    """

    make: Callable[[Path], RunFolder]
    fill: Callable[[Any], None]
    read: Callable[[Any], Any]
    bits: bytes
    rows: str | None


def fill_study(study: Study) -> None:
    for place, score in enumerate((1.0, 14.3, 3.0)):
        study.add_cost(str(place), StoredCost(params=1, macs=2))
        values: dict[str, Any] = {"index": place, "architecture": str(place), "canonical": str(place)}
        study.add([Record("ok", score=score, parts={"part": score}, params=1, macs=2, **values)])


def fill_scores(store: ScoreStore) -> None:
    series = store.series("p", {"space": "s"})
    for text, score in (("a", 1.0), ("b", 14.3)):
        store.add(0, {text: {series: NewScore(score, None, 0.5, ("model",))}}, "cpu")


def read_scores(store: ScoreStore) -> Any:
    return store.select(["a", "b"]).scores(store.series("p", {"space": "s"}), 0)


def fill_training(folder: TrainingFolder) -> None:
    folder.remember("memory", {"kept": 0.5})
    for epoch in (1, 2):
        folder.add_row({"epoch": epoch, "loss": 0.140625})


def fill_ranking(folder: RankingFolder) -> None:
    for name in ("near", "far"):
        folder.add(name, {"parc": Measured((0.140625,), (0.0,), (0.25,))}, 0.5)


def make_ranking(out: Path) -> RankingFolder:
    config = {"sources": {"near": {"n": 1}, "far": {"n": 2}}, "measures": ["parc"], "seed": 7}
    return RankingFolder(config, {"near": "a", "far": "b"}, {"images": [4]}, None, out)


STUDY = {"space": {"name": "s"}, "evaluations": 3, "seed": 7}

KINDS = {
    "search": Kind(
        lambda out: Study(STUDY, out=out),
        fill_study,
        lambda study: list(study.records),
        struct.pack(">d", 14.3),
        'DELETE FROM records WHERE "index" = 2',
    ),
    "comparison": Kind(ScoreStore, fill_scores, read_scores, struct.pack(">d", 14.3), None),
    "training": Kind(
        lambda out: TrainingFolder({"seed": 7}, out),
        fill_training,
        lambda folder: (folder.rows, folder.recall("memory")),
        b"0.140625",
        "DELETE FROM epochs WHERE epoch = 2",
    ),
    "ranking of sources": Kind(
        make_ranking,
        fill_ranking,
        lambda folder: (folder.measured, folder.given, folder.facts, folder.data),
        b"0.140625",
        "DELETE FROM measured WHERE source = 'far'",
    ),
    "pipeline": Kind(
        lambda out: PipelineFolder({"seed": 7}, out),
        lambda folder: folder.end("complete", ["report.md"]),
        lambda folder: (folder.config, folder.status),
        b"report.md",
        "DELETE FROM meta WHERE key = 'config'",
    ),
}

TYPES: dict[str, type[RunFolder]] = {
    "search": Study,
    "comparison": ScoreStore,
    "training": TrainingFolder,
    "ranking of sources": RankingFolder,
    "pipeline": PipelineFolder,
}


every_kind = pytest.mark.parametrize("name", KINDS)


def filled(name: str, path: Path) -> Any:
    """Make a folder with records, and return what is in it."""
    kind = KINDS[name]
    folder = kind.make(path)
    kind.fill(folder)
    content = kind.read(folder)
    folder.release()
    return content


def store_of(path: Path) -> Path:
    (store,) = path.glob("*.sqlite")
    return store


def files_in(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def assert_refused(name: str, path: Path, message: str) -> None:
    """Neither who writes nor who reads is given the folder, and nothing in it changes."""
    kind = KINDS[name]
    before = files_in(path)

    def write() -> None:
        folder = kind.make(path)
        try:
            kind.read(folder)
        finally:
            folder.release()

    def read() -> None:
        kind.read(TYPES[name].peek(path))

    for use in (write, read) if name != "comparison" else (write,):
        with pytest.raises(RunFolderError, match=message):
            use()
    after = {file: content for file, content in files_in(path).items() if file in before}
    assert after == before


# -- killed -------------------------------------------------------------------------------------


LEFT = {
    "the lock": ("lock",),
    "the lock and its journal": ("lock", "lock-journal"),
    "the lock in another mode": ("lock", "lock-wal", "lock-shm"),
    "an empty store": ("lock", "STORE"),
    "an empty store and its journal": ("lock", "lock-journal", "STORE", "STORE-journal"),
    "an empty store in another mode": ("lock", "STORE", "STORE-wal", "STORE-shm"),
    "the journal of a store alone": ("lock", "STORE-journal"),
}
"""Files that a killed process leaves before its store has begun."""


@every_kind
@pytest.mark.parametrize("left", LEFT)
def test_a_folder_whose_process_was_killed_before_its_store_began_is_ours(name: str, left: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    store = TYPES[name].LAYOUT.store
    for file in LEFT[left]:
        (path / file.replace("STORE", store)).touch()
    assert not TYPES[name].has_begun(path)
    expected = filled(name, tmp_path / "whole")
    assert filled(name, path) == expected


class Small(RunFolder):
    """A kind of folder that imports nothing heavy, for processes that are killed."""

    LAYOUT = run_folder.Layout(
        "test of kills",
        "small.sqlite",
        version=1,
        tables=(run_folder.Table("points", {"place": "INTEGER PRIMARY KEY", "value": "REAL"}, counted=True),),
    )

    def add(self, place: int, value: float) -> None:
        with self.errors(), self._store:
            self._insert(self.LAYOUT.tables[0], [(place, value)])

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM points")[0][0])


KILLED = """
import os, signal, sys
from pathlib import Path
from diswot_search.runtime import run_folder
from diswot_search.runtime.run_folder import RunFolder, Layout, Table

class Small(RunFolder):
    LAYOUT = Layout("test of kills", "small.sqlite", version=1, tables=(
        Table("points", {"place": "INTEGER PRIMARY KEY", "value": "REAL"}, counted=True),))

limit, calls = int(sys.argv[2]), 0

def count(frame, event, argument):
    global calls
    if event == "c_call":
        calls += 1
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(count)
folder = Small({"seed": 7}, Path(sys.argv[1]))
for place in range(3):
    with folder.errors(), folder._store:
        folder._insert(folder.LAYOUT.tables[0], [(place, 0.5)])
folder.end("complete")
sys.setprofile(None)
print(calls)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_at_any_call_a_folder_goes_on(tmp_path: Path) -> None:
    def start(path: Path, limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(path), str(limit)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})

    whole = start(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    calls = int(whole.stdout)
    begun = 0
    limits = range(calls - 300, calls, 20)  # from before the store has its tables to the end
    for limit in limits:
        path = tmp_path / str(limit)
        killed = start(path, limit)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        begun += path.exists() and Small.has_begun(path)
        folder = Small({"seed": 7}, path)
        for place in range(len(folder), 3):
            folder.add(place, 0.5)
        folder.end("complete")
        folder.release()
        assert len(Small.peek(path)) == 3
    assert 0 < begun < len(limits)


# -- damaged ------------------------------------------------------------------------------------


@every_kind
def test_a_flipped_bit_of_a_stored_value_is_named(name: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    store = store_of(tmp_path / "run")
    content = bytearray(store.read_bytes())
    at = content.find(KINDS[name].bits)
    assert at > 0
    content[at + 1] ^= 0b1000
    store.write_bytes(content)
    assert_refused(name, tmp_path / "run", rf"damaged \({store.name}: .* does not match its checksum\); nothing was")


@pytest.mark.parametrize(
    "value",
    [
        0,
        -0.0,
        0.1 + 0.2,
        2**53 + 1,
        2**62,
        2.0**63,
        1e300,
        -5e-324,
        float("inf"),
        float("nan"),
        True,
        np.float64(0.1),
        None,
    ],
)
def test_every_number_that_is_stored_matches_its_checksum(value: Any, tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "run")
    series = store.series("p", {"space": "s"})
    store.add(0, {"a": {series: NewScore(value, None, 1, ("model",))}}, "cpu")
    stored = store.select(["a"]).scores(series, 0)["a"].score
    store.release()
    assert ScoreStore(tmp_path / "run").select(["a"]).scores(series, 0)["a"].score == stored
    study = Study(STUDY, out=tmp_path / "study")
    study.add_cost("a", StoredCost(params=value, macs=value, latency_ms=value))  # type: ignore[arg-type]
    if value is not None and math.isfinite(value):
        study.add([Record("ok", score=value, index=0, architecture="a", canonical="a", params=value, macs=7)])
        study.add([], rescored={0: value})
        assert study.winner.score == value or value == 2**53 + 1
    study.release()
    Study(STUDY, out=tmp_path / "study").release()


@every_kind
def test_a_store_without_its_last_bytes_is_damaged(name: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    store = store_of(tmp_path / "run")
    store.write_bytes(store.read_bytes()[:-8])
    assert_refused(name, tmp_path / "run", rf"is damaged \(.*{store.name}.*\); nothing was changed")


@every_kind
def test_a_record_that_is_lost_is_missed(name: str, tmp_path: Path) -> None:
    if (statement := KINDS[name].rows) is None:
        pytest.skip("scores that are not there are computed")
    filled(name, tmp_path / "run")
    store = store_of(tmp_path / "run")
    with closing(sqlite3.connect(store)) as opened, opened:
        opened.execute(statement)
    assert_refused(name, tmp_path / "run", rf"is damaged \({store.name}: (there are|config is missing)")


@every_kind
def test_a_changed_status_version_or_configuration_is_named(name: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    whole = store_of(tmp_path / "run").read_bytes()
    for key, value in (("status", '"complet"'), ("versions", '{"torch": "1.0"}'), ("config", '{"seed": 8}')):
        store_of(tmp_path / "run").write_bytes(whole)
        with closing(sqlite3.connect(store_of(tmp_path / "run"))) as opened, opened:
            opened.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
        assert_refused(name, tmp_path / "run", f"row '{key}' of meta does not match its checksum")


@pytest.mark.parametrize("name", ["search", "training", "ranking of sources", "pipeline"])
def test_a_store_that_was_deleted_is_missed(name: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    store_of(tmp_path / "run").unlink()
    with pytest.raises(RunFolderError, match=rf"is damaged \({TYPES[name].LAYOUT.store} is missing\)"):
        KINDS[name].make(tmp_path / "run")


# -- of another version, kind or configuration --------------------------------------------------


@every_kind
def test_results_of_other_versions_are_not_mixed_and_can_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = filled(name, tmp_path / "run")
    now = run_folder.score_versions()
    monkeypatch.setattr(run_folder, "score_versions", lambda: now | {"torch": "9.9", "timm": "8.8"})
    kind = KINDS[name]
    if name == "comparison":  # whose scores say themselves of which versions they are
        assert kind.read(kind.make(tmp_path / "run")) == expected
        return
    before = files_in(tmp_path / "run")
    old = rf"torch {now['torch']} and timm {now['timm']}".replace("+", r"\+")
    message = rf"was begun under {old}, but torch 9\.9 and timm 8\.8 is installed, .* choose a new run folder"
    with pytest.raises(RunFolderError, match=message):
        kind.make(tmp_path / "run")
    assert kind.read(TYPES[name].peek(tmp_path / "run")) == expected
    assert files_in(tmp_path / "run") == before


@every_kind
def test_a_folder_of_an_earlier_format_is_said_to_be_one(name: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    layout = TYPES[name].LAYOUT
    with closing(sqlite3.connect(store_of(tmp_path / "run"))) as store:
        store.execute(f"PRAGMA user_version = {layout.version - 1}")
    message = (
        rf"has format {layout.version - 1}; this version reads {layout.version}\. An earlier version of diswot-search "
        "wrote it; use that version for it, or choose a new folder"
    )
    assert_refused(name, tmp_path / "run", message)


@every_kind
@pytest.mark.parametrize("state", ["whole", "empty", "damaged"])
def test_a_folder_is_of_one_kind_and_refused_by_all_others(name: str, state: str, tmp_path: Path) -> None:
    filled(name, tmp_path / "run")
    store = store_of(tmp_path / "run")
    if state == "empty":
        for file in (tmp_path / "run").glob("*.json"):
            file.unlink()
        store.write_bytes(b"")
    elif state == "damaged":
        store.write_bytes(b"no database at all" * 100)
    assert kind_of(tmp_path / "run") == name
    for other, kind in KINDS.items():
        if other != name:
            with pytest.raises(RunFolderError, match=f"is the run folder of a {name}"):
                kind.make(tmp_path / "run")
            with pytest.raises(RunFolderError, match=f"is the run folder of a {name}, not of a {other}"):
                TYPES[other].peek(tmp_path / "run")


def test_a_kind_that_is_not_imported_is_read_from_the_store(tmp_path: Path) -> None:
    filled("training", tmp_path / "run")
    code = f"from diswot_search.runtime.run_folder import kind_of; print(kind_of({str(tmp_path / 'run')!r}))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "training"


def test_a_store_of_another_program_is_no_run_folder(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as store, store:
        store.execute("CREATE TABLE meta (key, value)")
        store.execute("INSERT INTO meta VALUES ('kind', '\"search\"')")
    assert kind_of(tmp_path) is None
    with pytest.raises(RunFolderError, match=r"is no run folder: it holds other\.sqlite"):
        Study(STUDY, out=tmp_path)


@every_kind
def test_a_folder_can_be_read_while_it_is_written(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    writer = kind.make(tmp_path / "run")
    reader = TYPES[name].peek(tmp_path / "run")
    kind.fill(writer)
    if name != "comparison":
        assert kind.read(reader) == kind.read(writer)
    assert reader.status == writer.status
    with pytest.raises(RunFolderError, match="readonly"):
        reader.start()
    writer.release()


@every_kind
def test_files_that_a_finished_job_wrote_are_missed(name: str, tmp_path: Path) -> None:
    folder = KINDS[name].make(tmp_path / "run")
    folder.write("table.csv", "a")
    folder.write("picture.png", b"b")
    folder.end("complete", ["table.csv", "picture.png"])
    assert folder.missing_files() == []
    (tmp_path / "run" / "picture.png").unlink()
    assert folder.missing_files() == ["picture.png"]
    folder.release()


# -- configurations, files, checksums -----------------------------------------------------------


def test_equal_numbers_are_one_configuration_however_they_are_written(tmp_path: Path) -> None:
    whole, with_point = ({**STUDY, "budget": {"max_params": number}} for number in (30000, 30000.0))
    assert config_sha256(whole) == config_sha256(with_point)
    assert differences(whole, with_point) == []
    assert config_sha256(whole) != config_sha256({**STUDY, "budget": {"max_params": 30000.5}})
    Study(whole, out=tmp_path / "run").release()
    Study(with_point, out=tmp_path / "run").release()
    assert differences({"flag": True}, {"flag": 1}) == ["flag is true there, 1 here"]
    huge = {"large": 1e300, "below": -0.0, "nested": [{"one": 1.0}], "none": None, "text": "1.0"}
    assert canonical(huge) == huge
    assert isinstance(canonical(huge)["large"], float)
    assert repr(canonical(huge)["nested"]) == "[{'one': 1}]"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"status": "compl', "Unterminated string"),
        ("", "Expecting value"),
        ("[]", "it holds a list, not an object"),
        ("{}", "it lacks status"),
        ("\xff\xfe", "Expecting value|codec"),
        (None, "is missing"),
    ],
)
def test_a_damaged_json_file_is_named_with_its_repair(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=r"result\.json is (damaged|missing).*") as raised:
        read_json(path, keys=["status"], repair="Delete it and run the same again.")
    assert raised.match(reason)
    assert str(raised.value).endswith("Delete it and run the same again.")
    path.write_text('{"status": "complete"}')
    assert read_json(path, keys=["status"], repair="") == {"status": "complete"}


@pytest.mark.parametrize("size", [0, 10, 1 << 17])
def test_every_flipped_bit_of_a_file_shows(tmp_path: Path, size: int) -> None:
    content = fill_checksum(b"head " + CHECKSUM.encode() + b" tail" + bytes(size))
    verify_checksum(content)
    path = tmp_path / "file"
    path.write_bytes(content)
    verify_file(path)
    for at in {*range(min(len(content), 100)), len(content) - 1}:
        flipped = bytearray(content)
        flipped[at] ^= 0b100
        with pytest.raises(ChecksumError):
            verify_checksum(bytes(flipped))
        path.write_bytes(flipped)
        with pytest.raises(ChecksumError):
            verify_file(path)
    with pytest.raises(ChecksumError):
        verify_checksum(content[:-1] if size else content + b"x")


def test_a_copied_folder_is_as_good_as_the_first(tmp_path: Path) -> None:
    expected = filled("search", tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert KINDS["search"].read(KINDS["search"].make(tmp_path / "copy")) == expected
