"""The run folder: what it stores, whom it lets in, and what it says when it cannot be used."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diswot_search import NoScoreError, Record, RunFolderError, Study
from diswot_search.runtime.files import write_atomically
from diswot_search.study.cost_kinds import StoredCost
from search_spaces import NASBench201Space, SearchSpace, create_space

SPACE = create_space("cifar_resnet_s0")
ARCHITECTURES = list(SPACE)


def config_of(space: SearchSpace = SPACE, **changes: Any) -> dict[str, Any]:
    return {"space": space.config(), "proxy": "diswot", "evaluations": 64, "budget": {"max_params": None}} | changes


def record(place: int, score: float | None = 0.0, **changes: Any) -> Record:
    """The record of the place-th architecture of the space; one without a score is failed."""
    text = str(ARCHITECTURES[place])
    values: dict[str, Any] = {
        "status": "ok",
        "params": 1000 + place,
        "macs": 5000,
        "score": score,
        "score_std": 0.0,
        "seconds": 0.5,
    }
    if score is None:
        values |= {"status": "failed", "reason": "RuntimeError: no", "score_std": None}
    return Record(**values | {"index": place, "architecture": text, "canonical": text} | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- what is stored -----------------------------------------------------------------------------


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.builds(
            dict,
            score=st.one_of(st.none(), finite),
            parts=st.dictionaries(st.text(max_size=5), finite, max_size=3),
            params=st.integers(0, 2**62),
            latency_ms=st.one_of(st.none(), finite),
            seconds=finite,
        ),
        max_size=20,
    )
)
@settings(max_examples=30)
def test_records_come_back_bit_for_bit_in_the_order_of_asking(values: list[dict[str, Any]]) -> None:
    study = Study(config_of())
    records = [record(i, **v) for i, v in enumerate(values)]
    study.add(list(reversed(records)))
    assert list(study.records) == records
    assert [study.record(i) for i in range(len(records))] == records
    assert study.record(len(records)) is None
    assert len(study) == len(records)


def test_many_records_come_back_page_by_page() -> None:
    study = Study(config_of())
    records = [record(0, float(i), index=i, architecture=str(i), canonical=str(i)) for i in range(600)]
    study.add(records)
    assert list(study.records) == records


def test_the_store_outlives_the_study(folder: Path) -> None:
    study = Study(config_of(), out=folder, space=SPACE)
    study.add([record(0), record(1, None)])
    study.add_cost("1-1-1", StoredCost(params=7, macs=8, latency_ms=1.25, details={"latency_ms": {"spread": 0.0}}))
    study.release()
    again = Study(config_of(), out=folder)
    assert list(again.records) == [record(0), record(1, None)]
    assert again.cost("1-1-1") == StoredCost(params=7, macs=8, latency_ms=1.25, details={"latency_ms": {"spread": 0.0}})
    assert again.cost("1-1-3") is None


def test_counted_costs_are_stored_while_others_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diswot_search.study.study.SECONDS_UNTIL_STORED", -1.0)
    study = Study(config_of(), out=folder)
    for place, architecture in enumerate(map(str, ARCHITECTURES[:3])):
        study.add_cost(architecture, StoredCost(params=place, macs=8))
        assert Study.load(folder).cost(architecture) == StoredCost(params=place, macs=8)


def test_a_measured_cost_is_stored_at_once_and_a_counted_one_with_the_next_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diswot_search.study.study.SECONDS_UNTIL_STORED", math.inf)
    study = Study(config_of(), out=folder)
    study.add_cost("1-1-1", StoredCost(params=7, macs=8))
    reader = Study.load(folder)
    assert reader.cost("1-1-1") is None
    study.add_cost("1-1-3", StoredCost(params=7, macs=8, latency_ms=1.5, details={"latency_ms": {"spread": 0.0}}))
    assert reader.cost("1-1-3") == StoredCost(params=7, macs=8, latency_ms=1.5, details={"latency_ms": {"spread": 0.0}})


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_record_that_is_ok_has_a_finite_score(score: float | None) -> None:
    study = Study(config_of())
    with pytest.raises(ValueError, match="recorded as ok with the score"):
        study.add([record(0), replace(record(1), score=score)])
    assert len(study) == 0


def test_records_and_the_scores_that_they_change_are_stored_together(folder: Path) -> None:
    study = Study(config_of(), out=folder)
    study.add([record(0, 5.0), record(1, None)])
    study.add([record(2, 1.0)], rescored={0: -1.0, 2: 1.0})
    assert [r.score for r in Study.load(folder).records] == [-1.0, None, 1.0]
    assert study.winner.record.index == 2
    with pytest.raises(ValueError, match="evaluated before"):
        study.add([record(3, 2.0), record(0, 3.0, index=4)], rescored={0: 7.0, 2: 0.0})
    assert [r.score for r in Study.load(folder).records] == [-1.0, None, 1.0]


def test_no_function_is_stored_twice() -> None:
    study = Study(config_of())
    study.add([record(0)])
    with pytest.raises(ValueError, match="evaluated before"):
        study.add([record(1), record(2, canonical=str(ARCHITECTURES[0]))])
    assert len(study) == 1


# -- winner, front, failures --------------------------------------------------------------------


def test_the_winner_has_the_highest_score_then_fewest_parameters_then_was_asked_first() -> None:
    study = Study(config_of(), space=SPACE)
    study.add([record(0, 1.0), record(1, 3.0, params=9), record(2, 3.0, params=7), record(3, 3.0, params=7)])
    study.add([record(4, None)])
    assert [c.record.index for c in study.best(3)] == [2, 3, 1]
    winner = study.winner
    assert (winner.score, winner.params, winner.macs, winner.latency_ms, winner.parts) == (3.0, 7, 5000, None, {})
    assert winner.architecture == ARCHITECTURES[2]
    assert sum(p.numel() for p in winner.build().parameters()) == SPACE.cost(ARCHITECTURES[2]).params


def test_a_study_without_scores_says_why_it_has_no_winner() -> None:
    study = Study(config_of())
    study.add([record(0, None), record(1, None), record(2, None, reason="ValueError: odd")])
    assert study.failures == {"RuntimeError: no": 2, "ValueError: odd": 1}
    with pytest.raises(NoScoreError, match=r"3 of 3 evaluations failed \(2 x RuntimeError: no; 1 x ValueError: odd\)"):
        _ = study.winner


points = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


@given(st.lists(points, max_size=25))
def test_the_front_is_what_nothing_else_beats(values: list[tuple[int, int, int]]) -> None:
    study = Study(config_of())
    study.add([record(i, float(s), params=p, macs=m) for i, (s, p, m) in enumerate(values)])

    def beaten(point: tuple[int, int, int]) -> bool:
        s, p, m = point
        return any(o != point and o[0] >= s and o[1] <= p and o[2] <= m for o in values)

    front = [(c.score, c.params, c.macs) for c in study.pareto_front("params", "macs")]
    assert len(set(front)) == len(front)
    assert set(front) == {point for point in values if not beaten(point)}
    by_params = [(c.params, c.score) for c in study.front]
    assert by_params == sorted(by_params)


def test_the_front_is_against_the_objectives_of_the_algorithm() -> None:
    study = Study(config_of(algorithm={"name": "nsga2", "options": {"objectives": ["latency_ms", "score"]}}))
    study.add([record(0, 1.0, latency_ms=2.0), record(1, 2.0, latency_ms=3.0), record(2, 9.0)])
    assert study.objectives == ("latency_ms",)
    assert [c.record.index for c in study.front] == [0, 1]
    with pytest.raises(ValueError, match="allowed: params, macs, latency_ms"):
        study.pareto_front("speed")


# -- files --------------------------------------------------------------------------------------


def test_the_result_files_say_all(folder: Path) -> None:
    study = Study(config_of(), out=folder, space=SPACE)
    study.add([record(0, 1.0, parts={"semantic": math.nan}), record(1, None), record(2, 2.0, parts={"size": 3.0})])
    study.finish("complete", {"device": "cpu", "batch_size": 8})
    result = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["status"] == study.status == "complete"
    assert result["winner"]["architecture"] == str(ARCHITECTURES[2])
    assert [r["index"] for r in result["best"]] == [2, 0]
    assert result["best"][1]["parts"] == {"semantic": None}
    failures = {"RuntimeError: no": 1}
    assert result["evaluations"] == {"all": 3, "ok": 2, "failed": 1, "failures": failures}
    assert result["timing"] == {
        "seconds": 1.5, "covers": "building and scoring of all evaluations", "device": "cpu", "batch_size": 8,
    }  # fmt: skip
    assert set(result["versions"]) == {"python", "diswot-search", "torch", "timm"}
    with (folder / "architectures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == [str(a) for a in ARCHITECTURES[:3]]
    assert [row["score"] for row in rows] == ["1.0", "", "2.0"]
    assert [row["part_size"] for row in rows] == ["", "", "3.0"]
    assert json.loads((folder / "config.json").read_text()) == config_of()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def pieces():
        yield "new"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, pieces())
    assert files_in(tmp_path) == {"result.json": b"old"}
    write_atomically(path, ["n", "ew"])
    assert files_in(tmp_path) == {"result.json": b"new"}


def test_a_study_in_memory_has_no_files() -> None:
    study = Study(config_of())
    study.add([record(0)])
    study.finish("complete")
    assert study.path is None
    with pytest.raises(RunFolderError, match="kept in memory"):
        study.write("x", "y")


# -- reading a folder ---------------------------------------------------------------------------


def test_a_study_can_be_read_while_another_process_writes_it(folder: Path) -> None:
    writer = Study(config_of(), out=folder, space=SPACE)
    writer.add([record(0)])
    reader = Study.load(folder)
    assert reader.status == "running"
    writer.add([record(1, 5.0)])
    assert reader.winner.record.index == 1
    with pytest.raises(RunFolderError, match="readonly"):
        reader.add([record(2)])


def test_a_loaded_study_builds_its_winner_with_the_options_of_the_space(folder: Path) -> None:
    space = create_space("nasbench201", channels=4, cells=1, num_classes=3)
    text = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
    text = str(space.parse(text.replace("none~1|+", "skip_connect~1|+")))
    study = Study(config_of(space), out=folder, space=space)
    study.add([record(0, architecture=text, canonical=text)])
    study.release()
    network = Study.load(folder).winner.build()
    assert sum(p.numel() for p in network.parameters()) == space.cost(space.parse(text)).params


def test_a_space_that_has_no_name_is_given_to_load(folder: Path) -> None:
    space = NASBench201Space(channels=4)
    Study(config_of(space), out=folder, space=space).release()
    with pytest.raises(RunFolderError, match=r"give it to Study.load as `space`"):
        _ = Study.load(folder).space
    assert Study.load(folder, space=space).space is space


def test_a_space_that_was_not_searched_is_refused_by_load(folder: Path) -> None:
    space = NASBench201Space(channels=4)
    Study(config_of(space), out=folder, space=space).release()
    with pytest.raises(RunFolderError, match=r"another space: .*channels is 4 there, 8 here"):
        Study.load(folder, space=NASBench201Space(channels=8))


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_what_is_no_run_folder_is_not_loaded(tmp_path: Path, make) -> None:
    make(tmp_path / "other")
    with pytest.raises(RunFolderError, match="is no run folder"):
        Study.load(tmp_path / "other")


# -- folders that cannot be used ----------------------------------------------------------------


def test_a_second_study_on_the_folder_stops_at_once(folder: Path) -> None:
    first = Study(config_of(), out=folder)
    before = files_in(folder)
    with pytest.raises(RunFolderError, match=r"Another process works on .*one"):
        Study(config_of(), out=folder)
    assert files_in(folder) == before
    first.release()
    Study(config_of(), out=folder).release()


def test_a_study_that_is_dropped_lets_go_of_the_folder(folder: Path) -> None:
    Study(config_of(), out=folder)
    Study(config_of(), out=folder)


def test_another_configuration_is_refused_and_what_differs_is_named(folder: Path) -> None:
    probes = [{"name": "digits", "seed": 0}]
    Study(config_of(probes=probes, seed=1), out=folder).release()
    before = files_in(folder)
    other = config_of(probes=[{"name": "digits", "seed": 4}], budget={"max_params": 5.0}, draws=2)
    with pytest.raises(RunFolderError) as raised:
        Study(other, out=folder)
    for part in (
        "probes.0.seed is 0 there, 4 here",
        "budget.max_params is null there, 5.0 here",
        "seed is 1 there, not set here",
        "draws is not set there, 2 here",
    ):
        assert part in str(raised.value)
    assert "name" not in str(raised.value)
    assert files_in(folder) == before


def test_evaluations_may_be_raised_but_not_below_what_is_there(folder: Path) -> None:
    first = Study(config_of(evaluations=2), out=folder)
    first.add([record(0), record(1)])
    first.release()
    more = Study(config_of(evaluations=9), out=folder)
    assert len(more) == 2
    more.release()
    assert Study.load(folder).config["evaluations"] == 9
    assert json.loads((folder / "config.json").read_text())["evaluations"] == 9
    with pytest.raises(RunFolderError, match="has 2 evaluations already; 1 are asked for"):
        Study(config_of(evaluations=1), out=folder)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", "a", "b", "c"):
        (tmp_path / name).write_text("mine")
    before = files_in(tmp_path)
    with pytest.raises(RunFolderError, match="is no run folder: it holds a, b, c and more"):
        Study(config_of(), out=tmp_path)
    assert files_in(tmp_path) == before
    with pytest.raises(RunFolderError, match="is a file"):
        Study(config_of(), out=tmp_path / "a")


def damage_header(store: Path) -> None:
    store.write_bytes(b"no database at all" * 100)


def damage_middle(store: Path) -> None:
    content = bytearray(store.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    store.write_bytes(content)


def truncate(store: Path) -> None:
    store.write_bytes(store.read_bytes()[:6000])


def empty(store: Path) -> None:
    store.write_bytes(b"")


def remove(store: Path) -> None:
    store.unlink()


@pytest.mark.parametrize("damage", [damage_header, damage_middle, truncate, empty, remove])
def test_a_damaged_store_is_said_to_be_and_nothing_is_changed(folder: Path, damage) -> None:
    study = Study(config_of(), out=folder)
    study.add([record(i) for i in range(40)])
    study.release()
    damage(folder / "study.sqlite")
    before = files_in(folder)
    with pytest.raises(RunFolderError, match=r"is damaged \(.*nothing was changed"):
        Study(config_of(), out=folder)
    with pytest.raises(RunFolderError, match=r"is damaged|is no run folder"):
        Study.load(folder)
    assert files_in(folder) == before


def test_a_store_of_another_format_is_refused(folder: Path) -> None:
    Study(config_of(), out=folder).release()
    store = sqlite3.connect(folder / "study.sqlite")
    store.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(RunFolderError, match="has format 99; this version reads 4"):
        Study(config_of(), out=folder)


def test_a_store_that_was_killed_before_it_began_is_begun(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "study.sqlite").touch()
    with pytest.raises(RunFolderError, match="stopped before it began"):
        Study.load(folder)
    assert len(Study(config_of(), out=folder)) == 0


def test_a_full_disk_loses_nothing_that_was_stored(folder: Path) -> None:
    study = Study(config_of(), out=folder)
    study.add([record(0)])
    pages = study._store.execute("PRAGMA page_count").fetchone()[0]
    study._store.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RunFolderError, match=r"The disk of .* is full. What was stored is safe"):
        study.add([record(i, parts={"x" * 1000: 1.0}) for i in range(1, 64)])
    study.release()
    again = Study(config_of(), out=folder)
    assert list(again.records) == [record(0)]
    again.add([record(1)])


def test_a_full_disk_leaves_the_files_that_were_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(config_of(), out=folder)
    study.write("result.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="is full"):
        study.write("result.json", "new")
    assert (folder / "result.json").read_text() == "old"
    assert not list(folder.glob("*.tmp"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_to_be(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        Study(config_of(), out=tmp_path / "run")


def test_gathered_records_are_committed_together_and_all_or_none_of_a_change(folder: Path) -> None:
    study, reader = Study(config_of(), out=folder), None
    study._commit_seconds = math.inf  # as if the disk took forever
    with study.gathering():
        study.add([record(0)])
        study._committed_at = time.monotonic()
        study.add([record(1)])
        with pytest.raises(ValueError, match="evaluated before"):
            study.add([record(2), record(1)])
        reader = Study.load(folder)
        assert [one.index for one in reader.records] == [0]
        assert [one.index for one in study.records] == [0, 1]
        study.settle()
        assert [one.index for one in reader.records] == [0, 1]
        study.add([record(2)])
    assert [one.index for one in reader.records] == [0, 1, 2]
    study.add([record(3)])
    assert [one.index for one in reader.records] == [0, 1, 2, 3]
