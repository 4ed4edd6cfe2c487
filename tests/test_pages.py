"""Every block of code that README.md, CONTRIBUTING.md and docs/ show runs, page by page, in a folder of its own.

A page's blocks run in their order, as a reader would type them:

* ```` ```python ````: one script for the page. A block whose first line is a comment with the name of a file, as in
  `# my_code.py`, is written to that file instead.
* ```` ```sh ````: lines that begin with `diswot` run in this process. Those of other programs are looked at only.
* ```` ```yaml ````: written to the file that its first line names.

A page that goes on from another one says so in a comment of its own, `<!-- begins with: start -->`: it begins with the
run folders that the other page left. Nothing is changed in what runs, but for the few numbers of `SMALLER`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from diswot_search import cli

from .source_tree import ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted(DOCS.glob("*.md")) if "```" in path.read_text()),
]
NOT_RUN = ("accelerate", "cd", "docker", "git", "make", "pip", "ray", "source", "torchrun")
"""Programs whose lines are shown, and cannot run in a test: they install, or need several machines."""

LARGEST = {"epochs": 1, "evaluations": 6, "teacher_epochs": 1, "sample": 6}
"""The pages show numbers that are meant for real work. A test takes these instead, and the rest as it is shown."""

_NUMBER = re.compile(r"\b(?P<name>" + "|".join(LARGEST) + r")(?P<sign>=|: | )(?P<number>\d+)\b")
_BLOCK = re.compile(
    r"^ *(?P<fence>```+) *(?P<language>[\w{}-]*)\n(?P<text>.*?)^ *(?P=fence)$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# (?P<name>\w+\.(py|yaml))\n")
_BEGIN = re.compile(r"<!-- begins with: (?P<page>\w+) -->")
LANGUAGES = {"python", "sh", "yaml", "text", "{toctree}", "{eval-rst}", "{include}"}


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of a page."""
    return [(block["language"], block["text"]) for block in _BLOCK.finditer(page.read_text())]


def commands_of(text: str) -> list[list[str]]:
    """The commands of a block, whose lines may go on after a backslash or within quotes, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _smaller(found: re.Match[str]) -> int:
    return min(int(found["number"]), LARGEST[found["name"]])


def run_page(page: Path, folder: Path) -> str:
    """Run a page's blocks in a folder, which is the current one; gives what they printed."""
    text = _NUMBER.sub(lambda found: f"{found['name']}{found['sign']}{_smaller(found)}", page.read_text())
    names: dict[str, object] = {"__name__": "page"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for number, block in enumerate(_BLOCK.finditer(text)):
            code = block["text"]
            if block["language"] in ("python", "yaml") and (named := _FILE.match(code)):
                (folder / named["name"]).write_text(code)
            elif block["language"] == "python":
                script = folder / f"block_{number}.py"  # own code is told by its source, which must be readable
                script.write_text(code)
                exec(compile(code, str(script), "exec"), names)
            elif block["language"] == "sh":
                for words in commands_of(code):
                    if words[0] == "diswot":
                        printed.write(f"$ {shlex.join(words)}\n")
                        assert cli.main(words[1:]) == 0, printed.getvalue()[-3000:]
                    else:
                        assert words[0] in NOT_RUN, words
    return printed.getvalue()


def write_data(folder: Path, size: int = 8) -> None:
    """What the pages take a reader to have: `data.npz`, and `photos/`, a folder of images of three classes."""
    images, labels = (np.asarray(values) for values in load_digits(return_X_y=True))
    pixels = (images.reshape(-1, size, size, 1) * 255 / 16).astype(np.uint8)
    named = {"train": slice(0, 200), "test": slice(200, 300)}
    arrays = {f"{split}_images": pixels[part] for split, part in named.items()}
    np.savez(folder / "data.npz", **arrays, **{f"{split}_labels": labels[part] for split, part in named.items()})
    for split, part in {"train": slice(0, 330), "test": slice(330, 400)}.items():
        for number, (image, label) in enumerate(zip(pixels[part], labels[part], strict=True)):
            if label < 3:
                path = folder / "photos" / split / ("ants", "bees", "wasps")[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[..., 0]).convert("RGB").resize((32, 32)).save(path)


@pytest.fixture(scope="session")
def finished_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of pages that ran already, by name."""
    return {}


def _begin(page: Path, folder: Path, finished: dict[str, Path]) -> None:
    """Put into a page's folder what the pages before it left, and run those first if need be."""
    if begins := _BEGIN.search(page.read_text()):
        before = next(path for path in PAGES if path.stem == begins["page"])
        if before.stem not in finished:
            earlier = folder.parent / f"{folder.name}_before"
            earlier.mkdir()
            _run(before, earlier, finished)
        shutil.copytree(finished[before.stem], folder, dirs_exist_ok=True)


def _run(page: Path, folder: Path, finished: dict[str, Path]) -> str:
    _begin(page, folder, finished)
    here = os.getcwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as for a script that lies there
    try:
        write_data(folder)
        printed = run_page(page, folder)
    finally:
        os.chdir(here)
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
    finished[page.stem] = folder
    return printed


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, finished_pages: dict[str, Path]) -> None:
    print(_run(page, tmp_path, finished_pages))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_block_says_its_language(page: Path) -> None:
    assert {language for language, _ in blocks_of(page)} <= LANGUAGES
