"""The page of a run: what is on it, that names stay text, and that nothing else is loaded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import diswot_search as ds
from diswot_search import RunFolderError, Study
from diswot_search.cli import main
from diswot_search.reports.page.blocks import Code, Grid, Page, Section
from diswot_search.reports.page.render import as_script, to_html, to_json, to_markdown
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
