"""The table of what a job reads, and its file in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from diswot_search.cli import main
from diswot_search.data.description import describe_probe, describe_splits
from diswot_search.data.probe import create_probe
from diswot_search.data.splits import Splits, create_splits
from diswot_search.reports.data import data_json, data_report, read_descriptions
from diswot_search.runtime.files import RunFolderError

from ..data.helpers import write_images


def text_of(items: object) -> str:
    console = Console(width=200, record=True, highlight=False)
    for item in items:  # type: ignore[attr-defined]
        console.print(item, markup=False)
    return console.export_text()


def photos(folder: Path) -> Path:
    write_images(folder / "Training", ("cat", "dog"))
    write_images(folder / "Testing", ("cat", "dog"), each=3, first=100)
    Image.new("L", (9, 9)).save(folder / "Training/cat/grey.png")
    (folder / "Training/.DS_Store").touch()
    (folder / "Training/dog/list.txt").write_text("a list of the pictures")
    return folder


def test_the_table_has_all_counts(tmp_path: Path) -> None:
    splits = create_splits(photos(tmp_path), image_size=4, labels_per_class=2)
    text = text_of(data_report([describe_splits(splits)]))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["cat", "10", "1", "3"],
        ["dog", "9", "1", "3"],
        ["2 classes", "19", "2", "6"],
        ["with labels", "4", "all", "all"],
    ]
    assert (
        f"{tmp_path}/Training: 21 images; 4 x 6: 10, 5 x 6: 10, 9 x 9: 1; 3 channels (RGB): 20, 1 channel (grey): 1"
        in text
    )
    assert "8 bits; PNG" in text
    assert "hidden files: 1 (.DS_Store)" in text
    assert ".txt: 1 (dog/list.txt)" in text
    assert "as 3 x 4 x 4" in text


def test_many_classes_and_sizes_are_summed_up() -> None:
    images = np.zeros((60, 4, 4), np.uint8)
    images[:] = np.arange(60, dtype=np.uint8)[:, None, None]
    splits = Splits.from_arrays((images, np.arange(60) % 30), test=(images[:30] + 100, np.arange(30)), val_share=0.5)
    text = text_of(data_report([describe_splits(splits)]))
    assert "11 more, each" in text
    assert "1 to 1" in text
    assert "30 classes" in text


def test_probes_of_one_data_set_are_shown_once() -> None:
    probes = [describe_probe(create_probe("digits", batch_size=20, seed=seed)) for seed in range(3)]
    assert text_of(data_report(probes)).count("data: digits") == 1
    stored = json.loads(data_json(probes))["data"]
    assert [entry["parts"]["probe"]["images"] for entry in stored] == [20, 20, 20]


def test_a_training_shows_what_it_reads_first_and_stores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    size = "--data_options.image_size 16 --epochs 1 --batch_size 4 --device cpu --out run"
    assert main(["train", "--model", "cifar_resnet20", "--dataset", "photos", *size.split()]) == 0
    shown = capsys.readouterr().out
    assert 0 <= shown.index("data: photos") < shown.index("cifar_resnet20 alone")
    (stored,) = json.loads(Path("run/data.json").read_text())["data"]
    assert stored["classes"] == ["cat", "dog"]
    assert stored["parts"]["test"]["by_class"] == [3, 3]
    assert [entry["place"] for entry in stored["found"]] == ["photos/Training", "photos/Testing"]
    assert {entry["reason"] for entry in stored["found"][0]["skipped"]} == {
        "hidden files",
        "files that are no image that Pillow reads, .txt",
    }


@pytest.mark.filterwarnings("default")
def test_a_run_among_the_images_is_warned_of_and_left_out_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_images(tmp_path / "photos", ("cat", "dog")))
    size = "--data_options.image_size 16 --epochs 1 --batch_size 4 --device cpu --model cifar_resnet20"
    assert main(["train", "--dataset", "../photos", *size.split()]) == 0
    assert "'runs/train' lies among the images in '../photos'" in capsys.readouterr().err
    assert list(Path("runs/train").glob("*.png"))
    assert main(["train", "--dataset", "../photos", *size.split(), "--out", "runs/next"]) == 0
    assert "'runs/next' lies among the images in '../photos'" in capsys.readouterr().err
    assert main(["train", "--dataset", ".", *size.split(), "--out", "../run"]) == 0
    shown = capsys.readouterr()
    assert "lies among" not in shown.err
    assert "folders of runs: 1 (runs)" in shown.out
    assert json.loads(Path("../run/data.json").read_text())["data"][0]["classes"] == ["cat", "dog"]


@pytest.mark.filterwarnings("default")
def test_a_class_that_a_split_lacks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos/train", ("bee", "cat", "dog"))
    write_images(tmp_path / "photos/test", ("bee", "dog"), first=100)
    size = "--data_options.image_size 16 --epochs 1 --batch_size 4 --device cpu --out run"
    assert main(["train", "--model", "cifar_resnet20", "--dataset", "photos", *size.split()]) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("no images of 1 of the 3 classes: 'cat'") == 1
    assert main(["show", "run"]) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("no images of 1 of the 3 classes: 'cat'") == 1


def test_a_search_says_what_its_probe_is_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    line = "search --probe ./photos --probe_options.image_size 16 --space_options.channels 4 --space_options.cells 1"
    rest = "--batch_size 8 --device cpu --evaluations 2 --algorithm random --out run"
    assert main([*line.split(), *rest.split()]) == 0
    assert "photos/Training: 21 images; measured: 8" in capsys.readouterr().out
    assert json.loads(Path("run/data.json").read_text())["data"][0]["parts"]["probe"]["by_class"] == [4, 4]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --dataset one", "of one class, 'cat'; at least two classes are needed"),
        ("train --dataset photos/Training/cat", "lie in the folder itself"),
        ("train --dataset ./phtos", "does not exist. Did you mean 'photos'"),
        ("train --dataset photos --data_options.test_split Validation", "Unknown split in 'photos': 'Validation'"),
        ("train --dataset photos --data_options.grey_range 5", "grey_range is 5; it must be a list of numbers"),
        ("search --probe ../none", "does not exist"),
        ("run --dataset one", "of one class, 'cat'"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    write_images(tmp_path / "one", ("cat",))
    assert main([*command.split(), "--out", "run"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == "" or "as far as it was read" in shown.out
    assert not Path("run").exists()


def test_the_stored_description_is_read_back(tmp_path: Path) -> None:
    descriptions = [describe_splits(create_splits(photos(tmp_path), image_size=4))]
    assert read_descriptions(tmp_path) == []
    (tmp_path / "data.json").write_text(data_json(descriptions))
    assert read_descriptions(tmp_path) == descriptions
    older = json.dumps(json.loads(data_json(descriptions))["data"])  # without a checksum
    (tmp_path / "data.json").write_text(older)
    assert read_descriptions(tmp_path) == descriptions
    text = data_json(descriptions)
    for damaged in (text[:-200], text.replace('"images": ', '"images": 1', 1), older[:-9], '{"data": []}', "[3]", "\0"):
        (tmp_path / "data.json").write_text(damaged)
        with pytest.raises(RunFolderError, match=r"data\.json is damaged"):
            read_descriptions(tmp_path)


def test_a_run_is_shown_although_the_description_of_its_data_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    line = "search --probe ./photos --probe_options.image_size 16 --space_options.channels 4 --space_options.cells 1"
    rest = "--batch_size 8 --device cpu --evaluations 2 --algorithm random --out run"
    assert main([*line.split(), *rest.split()]) == 0
    capsys.readouterr()
    assert main(["show", "run"]) == 0
    data, best = capsys.readouterr().out.split("nasbench201", 1)
    assert "photos/Training: 21 images" in data
    path = Path("run/data.json")
    path.write_bytes(path.read_bytes().replace(b"photos", b"phot\xffs", 1))
    assert main(["show", "run"]) == 0
    note, same = capsys.readouterr().out.split("nasbench201", 1)
    assert "data: not shown. run/data.json is damaged. The same command writes it again." in " ".join(note.split())
    assert same == best
