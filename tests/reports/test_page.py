"""The page of a run: what is on it, that names stay text, and that nothing else is loaded."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import diswot_search as ds
from diswot_search import RunFolderError, Study
from diswot_search.cli import main
from diswot_search.reports.page.blocks import Code, Grid, Page, Section
from diswot_search.reports.page.render import as_script, to_html, to_json, to_markdown
from diswot_search.reports.page.sweep import sweep_page
from diswot_search.training.seeds import paired_difference
from search_spaces import create_space

from .test_study import make_study

EVIL = "</script><script>alert(1)</script>"
SPACE = create_space("cifar_resnet_s0")


class Reader(HTMLParser):
    """Counts elements, and collects what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def stored_study(path: Path) -> Study:
    memory = make_study(proxy="nwot", budget={}, evaluations=6)
    config = memory.config | {"algorithm": {"name": "random", "options": {}}}
    study = Study(config, out=path, space=SPACE)
    study.start()
    study.add(list(memory.records))
    study.finish("complete")
    study.release()
    return study


def test_the_page_of_a_search_has_its_picture_and_loads_nothing(tmp_path: Path) -> None:
    stored_study(tmp_path / "run")
    made = ds.report(tmp_path / "run")
    assert made.path == tmp_path / "run" / "report.html"
    assert made.path.read_text() == made.content
    reader = Reader(made.content)
    assert all(place.startswith(("#", "data:image/png")) for place in reader.loaded)
    assert not re.search(r"(https?:)?//\w+\.\w", made.content.replace("http://www.w3.org/2000/svg", ""))  # a mere name
    assert reader.tags.count("h1") == 1
    assert "svg" in reader.tags
    assert "default-src &#39;none&#39;" in made.content
    assert "1-1-7" in made.content  # the winner


def test_the_picture_and_the_table_have_the_same_candidates(tmp_path: Path) -> None:
    stored_study(tmp_path)
    content = ds.report(str(tmp_path), out=tmp_path / "page.html").content
    blocks = re.findall(r'<script type="application/json" id="(p\d+)-points">(.*?)</script>', content)
    points = json.loads(blocks[0][1])
    assert len(points["x"]) == len(points["rows"]) == 5  # one of six has failed
    assert f'<table id="{points["grid"]}"' in content


def test_names_stay_text_in_every_form() -> None:
    grid = Grid(heads=(EVIL,), rows=((EVIL,), ("b",)), title=EVIL, notes=(EVIL,), shown=1)
    hidden = Grid(heads=("a",), rows=(("b",), (EVIL,)), shown=1)
    section = Section(title=EVIL, blocks=[EVIL, grid, hidden, Code(text=EVIL, title=EVIL)])
    page = Page(kind=EVIL, title=EVIL, verdict=EVIL, facts={EVIL: EVIL}, sections=[section], path=EVIL, data=EVIL)
    html = to_html(page)
    assert "alert(1)</script>" not in html
    assert Reader(html).tags.count("script") == 3  # the rows of two tables, and the page's own
    assert "<script>" not in to_markdown(page).replace("\\<script\\>", "").replace(f"```text\n{EVIL}\n```", "")
    assert json.loads(to_json(page))["title"] == EVIL


def test_json_in_a_page_reads_back() -> None:
    value = {"a": EVIL + "&\u2028", "b": [1.5, None]}
    assert not set("<>&\u2028") & set(as_script(value))
    assert json.loads(as_script(value)) == value


def test_the_forms_of_text_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_study(tmp_path)
    assert main(["report", str(tmp_path), "--format", "md"]) == 0
    assert capsys.readouterr().out.startswith("# cifar")
    assert main(["report", str(tmp_path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["evaluations"] == 6
    assert not (tmp_path / "report.html").exists()


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    for name in ("a", "b"):
        stored_study(tmp_path / name)
    made = ds.report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both.html")
    assert made.content.count("<svg") >= 4
    assert "2 searches side by side" in made.content


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    stored_study(run)
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "none")], "There is no run folder"),
        ([str(tmp_path / "empty")], "is no run folder of a search"),
        ([str(run), "--format", "pdf"], "pdf"),
        ([str(run), "--out", str(tmp_path / "no" / "page.html")], "There is no folder"),
        ([str(run), "--out", str(tmp_path)], "is a folder"),
        ([str(run), "--out", "/dev/null/page.html"], "There is no folder /dev/null to write page.html into"),
        ([str(run), "--format", "md", "--watch"], "need a file"),
        ([str(run), "--watch_seconds", "0"], "must be above 0"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    (run / "study.sqlite").write_bytes(b"SQLite format 3\0" + bytes(100))
    assert main(["report", str(run)]) == 2
    assert not (run / "report.html").exists()


def test_runs_of_several_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diswot_search.jobs import report_pages

    monkeypatch.setattr(report_pages, "kind_of_run", {"a": "search", "b": "training"}.__getitem__)
    with pytest.raises(RunFolderError, match=r"several kinds: a \(search\), b \(training\)"):
        report_pages.page_of(["a", "b"])


# -- the other kinds of run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of small real runs, by kind."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"dataset": "digits", "data_options": {"image_size": 8, "train_limit": 100}, "batch_size": 20}
    network = {"student": "cifar_resnet", "student_options": {"arch": "1x4-1x4-1x8"}}
    ds.sweep(**network, **options, grid={"seed": [0, 1]}, epochs=1, out=folder / "sweep", quiet=True)
    source = folder / "sweep" / "seed=0"
    data = ds.create_splits("digits", image_size=8, labels_per_class=3, seed=1)
    ds.rank_sources({"mine": source}, data, out=folder / "ranking", quiet=True)
    compared = {"1-1-1": 50.0, "1-1-3": 60.0, "3-1-1": 55.0, "3-3-3": 70.0}
    probe = ds.create_probe("noise", num_classes=10, batch_size=4, image_size=8)
    space = create_space("cifar_resnet_s0", num_classes=10, input_size=(3, 8, 8))
    ds.compare(space, ["nwot", "params"], compared, probe, out=folder / "comparison", quiet=True)
    return {"sweep": folder / "sweep", "ranking": folder / "ranking", "comparison": folder / "comparison"}


def test_equal_differences_of_a_sweep_have_no_interval_on_its_page(runs: dict[str, Path]) -> None:
    summary = ds.tabulate([str(runs["sweep"])]).summary
    (row,) = summary.rows
    best = replace(row, difference=paired_difference([52.0, 47.0], [50.0, 45.0]))
    page = sweep_page(runs["sweep"], replace(summary, rows=(best,)), {})
    assert "+2.00 points (no interval) over 2 pairs against the baseline" in to_html(page)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sweep", ["A sweep of 2 trainings", "Seconds are those"]),
        ("ranking", ["1 source for digits", "is the nearest to digits by parc"]),
        ("comparison", ["orders 4 architectures best", "Regret over budgets", "Correlations with their intervals"]),
    ],
)
def test_other_runs_have_a_page_in_every_form(kind: str, words: list[str], runs: dict[str, Path]) -> None:
    made = ds.report(runs[kind])
    assert made.is_final
    assert [word for word in words if word not in made.content] == []
    assert "<svg" in made.content
    assert words[0] in ds.report(runs[kind], format="md").content
    assert json.loads(ds.report(runs[kind], format="json").content)


def test_a_search_that_goes_on_has_a_page_that_says_so(tmp_path: Path) -> None:
    memory = make_study(proxy="nwot", budget={}, evaluations=6)
    study = Study(memory.config | {"algorithm": {"name": "random", "options": {}}}, out=tmp_path / "run", space=SPACE)
    study.start()
    study.add(list(memory.records)[:3])
    made = ds.report(tmp_path / "run")
    assert not made.is_final
    assert "3 candidates" in made.content
    study.release()


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_study(tmp_path / "run")
    (store,) = (tmp_path / "run").glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(RunFolderError, match="has format 999; this version reads"):
        ds.report(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "has format 999" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_page_is_written_anew_until_its_run_ends(tmp_path: Path) -> None:
    memory = make_study(proxy="nwot", budget={}, evaluations=6)
    study = Study(memory.config | {"algorithm": {"name": "random", "options": {}}}, out=tmp_path, space=SPACE)
    study.start()
    study.add(list(memory.records)[:3])
    command = [sys.executable, "-m", "diswot_search", "report", str(tmp_path), "--watch", "--watch_seconds", "0.1"]
    page = tmp_path / "report.html"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            while not page.exists() and watcher.poll() is None:
                time.sleep(0.05)
            assert 'http-equiv="refresh"' in page.read_text()
            study.add(list(memory.records)[3:])
            study.finish("complete")
            study.release()
            out, _ = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
    assert (watcher.returncode, out) == (0, f"report: {page}\n")
    assert 'http-equiv="refresh"' not in page.read_text()
    assert "6 candidates" in page.read_text()
