"""Folders of a user's pictures: classes, splits, links, names, and what is left out."""

from __future__ import annotations

import os
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diswot_search.data.datasets import split_names
from diswot_search.data.errors import DataError
from diswot_search.data.inventory import Skipped
from diswot_search.data.probe import create_probe
from diswot_search.data.splits import Splits, create_splits

from .helpers import counts, numbers, write_images


def read(path: str | Path, **options: Any) -> Splits:
    return create_splits(path, image_size=4, workers=0, **options)


def all_numbers(splits: Splits) -> list[int]:
    return sorted(number for part in (splits.train, splits.val, splits.test) for number in numbers(part))


def skipped(splits: Splits) -> dict[str, Skipped]:
    return {entry.reason: entry for inventory in splits.inventories for entry in inventory.skipped}


# Classes


def test_the_first_level_is_the_class_and_deeper_levels_are_read_into_it(tmp_path: Path) -> None:
    write_images(tmp_path / "benign", ("images", "masks"), each=10)
    write_images(tmp_path / "malignant", ("images", "masks"), each=10, first=20)
    splits = read(tmp_path)
    assert splits.classes == ("benign", "malignant")
    assert all_numbers(splits) == list(range(40))
    assert [number // 20 for number in numbers(splits.train)] == splits.train.labels.tolist()
    probe = create_probe(tmp_path, batch_size=10, image_size=4)
    assert probe.classes == ("benign", "malignant")


def test_a_tar_file_has_the_classes_and_splits_of_its_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "photos/Training/cat/deep", ("x", "y"), each=5)
    write_images(tmp_path / "photos/Training", ("dog",), each=10, first=10)
    write_images(tmp_path / "photos/Testing", ("cat", "dog"), each=2, first=100)
    write_images(tmp_path / "photos/Training/cat", (".cache",), each=3, first=200)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    folder, archived = read(tmp_path / "photos"), read(tmp_path / "photos.tar")
    for part in ("train", "val", "test"):
        assert numbers(getattr(archived, part)) == numbers(getattr(folder, part))
    assert archived.classes == folder.classes == ("cat", "dog")
    assert "the folder 'photos' of the tar file is read" in archived.inventories[0].notes
    assert skipped(archived)["hidden files"].count == 3
    assert skipped(folder)["hidden folders"].count == 1


def test_tar_files_within_a_tar_file_are_classes(tmp_path: Path) -> None:
    for name, first in (("n01", 0), ("n02", 10)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(write_images(tmp_path / name, ("x",), first=first) / "x", ".")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name in ("n01.tar", "n02.tar"):
            archive.add(tmp_path / name, name)
    splits = read(tmp_path / "train.tar", resident_limit=0)
    assert splits.classes == ("n01", "n02")
    assert [number // 10 for number in numbers(splits.train)] == splits.train.labels.tolist()


def test_a_compressed_or_cut_tar_file_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(write_images(tmp_path / "images"), ".")
    (tmp_path / "text.tar").write_text("no tar file")
    for name in ("packed.tar", "text.tar"):
        with pytest.raises(DataError, match=f"Cannot read .*{name}.* must be a tar file without compression"):
            read(tmp_path / name)


def test_classes_are_in_one_order_however_they_are_spelt(tmp_path: Path) -> None:
    write_images(tmp_path, ("b10", "b2", "A", "a"))
    assert read(tmp_path).classes == ("A", "a", "b2", "b10")
    assert create_splits("torch/image_folder", root=tmp_path, image_size=4).classes == ("A", "a", "b10", "b2")


def one_class(folder: Path) -> str:
    write_images(folder, ("only",))
    return "are of one class, 'only'; at least two classes are needed"


def one_folder_of_classes(folder: Path) -> str:
    write_images(folder / "photos", ("cat", "dog"))
    return f"at least two .*its sub-folders, cat, dog, give '{folder}/photos'"


def no_class_folders(folder: Path) -> str:
    write_images(folder, ("",))
    return r"The images \(10\) of .* lie in the folder itself"


def a_class_named_train(folder: Path) -> str:
    write_images(folder, ("train", "bus"))
    return r"give train_split='\.'"


def only_text(folder: Path) -> str:
    (folder / "a").mkdir()
    (folder / "a/notes.txt").write_text("no picture at all")
    return r"Found 0 images in .*Left out: .*\.txt: 1 \(a/notes.txt\)"


def nothing(folder: Path) -> str:
    return "Found 0 images"


def a_class_of_other_formats(folder: Path) -> str:
    write_images(folder, "ab")
    (folder / "c").mkdir()
    (folder / "c/1.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    return r"No image of the class 'c' .* can be read: 1 \.heic"


def a_broken_class(folder: Path) -> str:
    write_images(folder, "abc")
    for path in (folder / "b").iterdir():
        path.write_bytes(b"no picture")
    return r"No image of the class 'b' .* can be read: b/010.png \(it is no picture\)"


def a_link_to_the_parent(folder: Path) -> str:
    write_images(folder / "photos", "ab")
    (folder / "photos/a/up").symlink_to("..")
    return "The link 'a/up' in .* leads back to a folder that contains it"


def a_link_above_the_folder(folder: Path) -> str:
    write_images(folder / "photos", "ab")
    (folder / "photos/a/up").symlink_to(folder)
    return "The link 'a/up' in .* leads back"


def a_link_to_itself(folder: Path) -> str:
    write_images(folder / "photos", "ab")
    (folder / "photos/a/self").symlink_to("self")
    return "The link 'a/self' in .* leads back"


def one_file_in_two_classes(folder: Path) -> str:
    write_images(folder / "photos", "ab")
    (folder / "photos/c").symlink_to("b")
    return "'b/010.png' and 'c/010.png' of .* are the same file, by a link, in two classes"


def a_class_of_one_image(folder: Path) -> str:
    write_images(folder, "ab")
    write_images(folder, ("rare",), each=1)
    return r"classes 'rare' \(1\)\. A class of one image cannot be divided: add images of 'rare', or remove"


def splits_by_other_names(folder: Path) -> str:
    write_images(folder / "photos/seg_train", "ab")
    write_images(folder / "photos/seg_test", "ab", first=100)
    return r"look like splits: seg_test, seg_train\. Name them by .* train_split='seg_train'.*, give train_split='\.'"


def splits_without_separators(folder: Path) -> str:
    write_images(folder / "photos/traindata", "ab")
    write_images(folder / "photos/testdata", "ab", first=100)
    return r"look like splits: testdata, traindata\. Name them by .* train_split='traindata'"


def folds(folder: Path) -> str:
    for number in (1, 2, 3):
        write_images(folder / f"photos/fold{number}", ("cat", "dog"), first=20 * number)
    return (
        r"look like folds of a cross-validation: fold1, fold2, fold3\. Name .* train_split='fold1'.* train_split='\.'"
    )


def splits_within_classes(folder: Path) -> str:
    write_images(folder / "cat", ("train", "test"))
    write_images(folder / "dog", ("train", "test"), first=20)
    return (
        r"look like splits: cat/test, .*, dog/train\. If each .*, put the splits above the classes, as in train/cat"
        r".* give train_split='\.' \(split='\.' for a probe\)"
    )


def splits_of_one_folder_of_two(folder: Path) -> str:
    write_images(folder / "archive/train", ("cat", "dog"))
    write_images(folder / "archive/test", ("cat", "dog"), first=20)
    write_images(folder, ("extra",), first=40)
    return f"look like splits: archive/test, archive/train\\. If they divide all images, give '{folder}/archive'\\."


def splits_deep_within_a_class(folder: Path) -> str:
    write_images(folder, ("cat", "dog"))
    write_images(folder / "cat/2020", ("Training_images", "validation"), first=20)
    return "look like splits: cat/2020/Training_images, cat/2020/validation"


def splits_but_for_case(folder: Path) -> str:
    write_images(folder / "photos/TRAIN", "ab")
    write_images(folder / "photos/Train", "ab")
    return "have the same name but for case: TRAIN, Train"


def a_test_image_in_training(folder: Path) -> str:
    write_images(folder / "photos/train", "ab")
    write_images(folder / "photos/test", "ab", each=3, first=100)
    os.link(folder / "photos/test/a/000.png", folder / "photos/train/a/more.png")
    return r"used twice: 1 files, such as 'a/more\.png', are in both split 'train' .* and split 'test'"


def classes_that_training_lacks(folder: Path) -> str:
    write_images(folder / "photos/train", ("cat", "dog"))
    write_images(folder / "photos/test", ("cats", "dog"), first=100)
    return "'test' of .* has classes that .* does not have: 'cats'; that has 'cat', 'dog'"


@pytest.mark.parametrize(
    "make",
    [
        one_class,
        one_folder_of_classes,
        no_class_folders,
        a_class_named_train,
        only_text,
        nothing,
        a_class_of_other_formats,
        a_broken_class,
        a_link_to_the_parent,
        a_link_above_the_folder,
        a_link_to_itself,
        one_file_in_two_classes,
        a_class_of_one_image,
        splits_by_other_names,
        splits_without_separators,
        folds,
        splits_within_classes,
        splits_of_one_folder_of_two,
        splits_deep_within_a_class,
        splits_but_for_case,
        a_test_image_in_training,
        classes_that_training_lacks,
    ],
)
def test_folders_without_right_classes_are_refused(tmp_path: Path, make: Callable[[Path], str]) -> None:
    message = make(tmp_path)
    if (tmp_path / "photos/TRAIN").exists() and (tmp_path / "photos/TRAIN").samefile(tmp_path / "photos/Train"):
        pytest.skip("this file system does not tell upper from lower case")
    folder = tmp_path / "photos" if "photos'" not in message and (tmp_path / "photos").exists() else tmp_path
    with pytest.raises(DataError, match=message):
        read(folder)
    if "look like" in message:
        with pytest.raises(DataError, match=message):
            create_probe(folder, batch_size=4, image_size=4)


# Splits


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("Training", "Testing"), ("Training", None, "Testing")),
        (("TRAIN", "Val", "Test"), ("TRAIN", "Val", "Test")),
        (("train", "valid", "testing"), ("train", "valid", "testing")),
        (("Train", "Validation"), ("Train", None, "Validation")),
        (("training", "evaluation", "test"), ("training", "evaluation", "test")),
    ],
)
def test_splits_are_found_in_any_case(
    tmp_path: Path, folders: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    firsts = {}
    for place, folder in enumerate(folders):
        write_images(tmp_path / folder, "ab", first=60 * place)
        firsts[folder] = 60 * place
    write_images(tmp_path / "docs", ("figures",), first=240)
    splits = read(tmp_path)
    for part, folder in zip(("val", "test"), expected[1:], strict=True):
        if folder is not None:
            assert numbers(getattr(splits, part)) == list(range(firsts[folder], firsts[folder] + 20))
    if all(expected):
        assert numbers(splits.train) == list(range(20))
    else:
        assert sorted(numbers(splits.train) + numbers(splits.val)) == list(range(20))
    assert "folders next to the splits are not read: docs" in splits.inventories[0].notes
    assert len(create_probe(tmp_path, split="train", batch_size=20, image_size=4).labels) == 20


def test_splits_may_be_named(tmp_path: Path) -> None:
    write_images(tmp_path / "seg_train/seg_train", "ab")
    write_images(tmp_path / "seg_test/seg_test", "ab", each=3, first=100)
    splits = read(tmp_path, train_split="seg_train/seg_train", test_split="seg_test/seg_test")
    assert numbers(splits.test) == list(range(100, 106))
    assert sorted(numbers(splits.train) + numbers(splits.val)) == list(range(20))
    with pytest.raises(DataError, match=r"used twice: of the folders .*, one contains the other"):
        read(tmp_path, train_split=".", test_split="seg_test/seg_test")
    assert read(tmp_path, train_split=".").classes == ("seg_test", "seg_train")
    with pytest.warns(UserWarning, match="look like splits, but are not read: seg_test"):
        read(tmp_path, train_split="seg_train/seg_train")


def test_splits_within_classes_are_read_together_where_that_is_asked_for_and_it_is_said(tmp_path: Path) -> None:
    write_images(tmp_path / "photos/cat", ("train", "test"))
    write_images(tmp_path / "photos/dog", ("train", "test"), first=20)
    note = "folders within classes look like splits and are read together: cat/test, cat/train, dog/test, dog/train"
    splits = read(tmp_path / "photos", train_split=".")
    assert (splits.classes, all_numbers(splits)) == (("cat", "dog"), list(range(40)))
    assert note in splits.inventories[0].notes
    probe = create_probe(tmp_path / "photos", split=".", batch_size=4, image_size=4)
    assert probe.inventory is not None
    assert note in probe.inventory.notes
    (tmp_path / "photos").rename(tmp_path / "train")
    with pytest.warns(UserWarning, match=note):
        read(tmp_path)


def test_a_folder_next_to_the_splits_that_looks_like_one_is_said_to_be_unread(tmp_path: Path) -> None:
    for place, folder in enumerate(("train", "test_images", "docs")):
        write_images(tmp_path / folder, "ab", first=40 * place)
    with pytest.warns(UserWarning, match="look like splits, but are not read: test_images"):
        read(tmp_path)
    splits = read(tmp_path, test_split="test_images")  # without a warning
    assert numbers(splits.test) == list(range(40, 60))


def test_classes_named_like_a_split_are_told_from_splits_by_an_option(tmp_path: Path) -> None:
    write_images(tmp_path, ("test", "control"))
    for create in (read, create_probe):
        with pytest.raises(DataError, match=r"Known: test\. If these folders are classes, give train_split='\.'"):
            create(tmp_path)
    assert read(tmp_path, train_split=".").classes == ("control", "test")


def test_folders_named_like_splits_may_be_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ("bus", "test", "train"))
    assert read(tmp_path, train_split=".").classes == ("bus", "test", "train")
    assert create_probe(tmp_path, split=".", batch_size=9, image_size=4).num_classes == 3


def test_a_second_validation_folder_is_said_to_be_unread(tmp_path: Path) -> None:
    for place, folder in enumerate(("train", "val", "valid", "test")):
        write_images(tmp_path / folder, "ab", first=50 * place)
    with pytest.warns(UserWarning, match="look like splits, but are not read: valid"):
        splits = read(tmp_path)
    assert numbers(splits.val) == list(range(50, 70))


@pytest.mark.parametrize(
    ("folders", "val", "test"),
    [
        (("TRAIN", "valid", "Evaluation"), "valid", "Evaluation"),
        (("train", "Val", "eval"), "Val", "eval"),
        (("train", "val", "evaluation", "Test"), "val", "Test"),
    ],
)
def test_evaluation_next_to_a_validation_folder_is_the_test_split_unless_there_is_one(
    tmp_path: Path, folders: tuple[str, ...], val: str, test: str
) -> None:
    for place, folder in enumerate(folders):
        write_images(tmp_path / folder, "ab", first=60 * place)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Folders of .* look like splits, but are not read: evaluation")
        splits = read(tmp_path)
    assert numbers(splits.train) == list(range(20))
    for part, folder in (("val", val), ("test", test)):
        first = 60 * folders.index(folder)
        assert numbers(getattr(splits, part)) == list(range(first, first + 20))
    said = [f"no split is named test: {val.lower()!r} validates, and {test.lower()!r} tests"]
    assert list(splits.notes) == (said if "Test" not in folders else [])


def test_validation_and_evaluation_may_both_be_named(tmp_path: Path) -> None:
    for place, folder in enumerate(("train", "valid", "Evaluation")):
        write_images(tmp_path / folder, "ab", first=60 * place)
    for test_split in ("Evaluation", "evaluation", "eval"):
        splits = read(tmp_path, val_split="valid", test_split=test_split)
        assert (numbers(splits.val)[0], numbers(splits.test)[0]) == (60, 120)
    assert numbers(read(tmp_path, test_split="eval").val)[0] == 60
    assert numbers(read(tmp_path, val_split="valid").test)[0] == 120
    for names in ({"val_split": "eval", "test_split": "evaluation"}, {"val_split": "val", "test_split": "valid"}):
        with pytest.raises(DataError, match="used twice"):
            read(tmp_path, **names)


def test_the_link_of_a_split_to_another_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "ab")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(DataError, match="used twice"):
        read(tmp_path)


def test_classes_are_matched_by_name_where_a_split_lacks_one(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "abc")
    write_images(tmp_path / "test", "bc", first=100)
    with pytest.warns(UserWarning, match="'test' of .* has no images of 1 of the 3 classes: 'a'"):
        splits = read(tmp_path)
    assert counts(splits.test, 3) == [0, 10, 10]
    assert [1 + (number - 100) // 10 for number in numbers(splits.test)] == splits.test.labels.tolist()
    assert len(splits.notes) == 1


# What is left out


def test_hidden_and_broken_files_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog", ".ipynb_checkpoints", ".Trash-0", "__MACOSX"))
    write_images(tmp_path / "cat", ("@eaDir",))
    shutil.copy(tmp_path / "cat/000.png", tmp_path / "cat/._000.png")
    (tmp_path / "cat/empty.jpg").touch()
    (tmp_path / "cat/page.jpg").write_text("<html>not found</html>")
    content = (tmp_path / "dog/010.png").read_bytes()
    (tmp_path / "dog/cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "dog/notes.txt").write_text("a note about dogs")
    (tmp_path / "dog/gone.png").symlink_to("nothing.png")
    (tmp_path / "logs").mkdir()
    shutil.copy(tmp_path / "cat/000.png", tmp_path / "loose.png")
    with pytest.warns(UserWarning, match=r"3 images cannot be read and are left out: .*the file is empty"):
        splits = read(tmp_path)
    assert splits.classes == ("cat", "dog")
    assert all_numbers(splits) == list(range(20))
    assert {reason: entry.count for reason, entry in skipped(splits).items()} == {
        "hidden folders": 4,
        "hidden files": 1,
        "images that cannot be read": 3,
        "files that are no image that Pillow reads, .txt": 1,
        "broken links": 1,
        "folders without images": 1,
        "images outside the class folders": 1,
    }
    assert "cat/page.jpg: it is no picture" in skipped(splits)["images that cannot be read"].examples


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("headers", [0, 100])
def test_probes_leave_out_images_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: int
) -> None:
    write_images(tmp_path)
    before = {seed: create_probe(tmp_path, batch_size=4, image_size=4, seed=seed).images for seed in range(4)}
    cut(tmp_path / "a/000.png")
    (tmp_path / "b/010.png").write_text("no picture at all")
    (tmp_path / "a/001.png").write_bytes(spoilt(tmp_path / "a/001.png"))
    monkeypatch.setattr("diswot_search.data.folders.MAX_HEADERS_OF_PROBE", headers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe = create_probe(tmp_path, batch_size=16, image_size=4, mean=0.0, std=1.0)
    said = " ".join(str(each.message) for each in caught)
    assert all(f"{name} (" in said for name in ("a/000.png", "a/001.png", "b/010.png"))
    drawn = probe.images[:, 0, 0, 0].mul(255).round().int().tolist()
    assert len(set(drawn)) == 16
    assert not {0, 1, 10} & set(drawn)
    assert [number // 10 for number in drawn] == probe.labels.tolist()
    assert probe.inventory is not None
    assert {entry.reason: entry.count for entry in probe.inventory.skipped} == {"images that cannot be read": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, images in before.items():
            again = create_probe(tmp_path, batch_size=4, image_size=4, seed=seed)
            assert again.inventory is not None
            assert again.images.equal(images) or again.inventory.skipped  # as it was, if all its images can be read
        with pytest.raises(DataError, match=r"has only 17 images|too few images"):
            create_probe(tmp_path, batch_size=18, image_size=4)


def spoilt(path: Path) -> bytes:
    """A PNG whose header and end are in order, but whose pixels are damaged."""
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 6
    content[start : start + 6] = b"\xff" * 6
    return bytes(content)


@pytest.mark.parametrize("headers", [3, 5_000])
def test_splits_leave_out_images_whose_pixels_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: int
) -> None:
    write_images(tmp_path)
    (tmp_path / "b/010.png").write_text("no picture at all")
    for name in ("a/001.png", "b/015.png"):
        (tmp_path / name).write_bytes(spoilt(tmp_path / name))
    monkeypatch.setattr("diswot_search.data.folders.MAX_HEADERS", headers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = read(tmp_path)
    said = " ".join(str(each.message) for each in caught)
    assert all(f"{name} (" in said for name in ("a/001.png", "b/010.png", "b/015.png"))
    assert all_numbers(splits) == sorted({*range(20)} - {1, 10, 15})
    assert skipped(splits)["images that cannot be read"].count == 3


def test_one_image_that_cannot_be_read_is_said_in_the_singular(tmp_path: Path) -> None:
    write_images(tmp_path)
    cut(tmp_path / "a/000.png")
    with pytest.warns(UserWarning, match=r"1 image cannot be read and is left out: a/000\.png \("):
        read(tmp_path)


def write_run(folder: Path, *files: str) -> None:
    """A folder with these empty files and ten pictures."""
    write_images(folder.parent, (folder.name,), first=200)
    for name in files:
        (folder / name).touch()


@pytest.mark.parametrize("in_tar", [False, True])
def test_run_folders_are_no_classes(tmp_path: Path, in_tar: bool) -> None:
    folder = write_images(tmp_path / "photos")
    write_run(folder / "runs/all", "config.json", "lock", "pipeline.sqlite")
    write_run(folder / "runs/all/student", "config.json", "lock", "training.sqlite")
    write_run(folder / "runs/old", "config.json", "study.sqlite")
    write_run(folder / "deep/er/compare", "config.yaml", "lock", "scores.sqlite")
    write_run(folder / "train", "config.json", "lock")
    write_run(folder / "a/run", "config.json", "lock")
    if in_tar:
        with tarfile.open(tmp_path / "photos.tar", "w") as archive:
            archive.add(folder, "photos")
    splits = read(tmp_path / "photos.tar" if in_tar else folder)
    assert splits.classes == ("a", "b")
    assert all_numbers(splits) == list(range(20))
    counted = {reason: entry.count for reason, entry in skipped(splits).items()}
    # A tar file lists files: ten pictures and the others of each of the six runs.
    assert counted == (
        {"files in folders of runs": 6 * 10 + 3 + 3 + 2 + 3 + 2 + 2} if in_tar else {"folders of runs": 4}
    )


def test_folders_that_hold_other_things_than_runs_are_classes(tmp_path: Path) -> None:
    write_run(tmp_path / "configured", "config.json")
    write_run(tmp_path / "locked", "lock")
    write_run(tmp_path / "both/run", "config.json", "lock")
    write_images(tmp_path / "both", ("own",), first=100)
    splits = read(tmp_path, test_share=0.1)
    assert splits.classes == ("both", "configured", "locked")
    assert skipped(splits)["folders of runs"].examples == ("both/run",)
    assert sum(number < 200 for number in all_numbers(splits)) == 10


def test_images_that_a_class_has_in_other_formats_are_said_to_be_left_out(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "a/photo.dng").write_bytes(b"raw pixels of a camera")
    with pytest.warns(UserWarning, match=r"formats that Pillow does not read are left out: 1 \.dng"):
        read(tmp_path)


def test_the_same_file_counts_once(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", "ab")
    os.link(tmp_path / "photos/a/000.png", tmp_path / "photos/a/again.png")
    (tmp_path / "photos/a/link.png").symlink_to("001.png")
    (tmp_path / "photos/b/all").symlink_to("../b2")
    write_images(tmp_path / "photos", (".b2",), first=20)
    (tmp_path / "photos/.b2").rename(tmp_path / "b2")
    (tmp_path / "photos/b/all").unlink()
    (tmp_path / "photos/b/all").symlink_to(tmp_path / "b2")
    with pytest.warns(UserWarning, match="2 links to a file that is read already"):
        splits = read(tmp_path / "photos")
    assert all_numbers(splits) == list(range(30))  # a link to another folder is followed
    assert skipped(splits)["links to a file that is read already"].count == 2


def test_a_class_folder_whose_name_is_no_utf8_is_shown_escaped(tmp_path: Path) -> None:
    write_images(tmp_path, ("tea", "water"))
    try:
        os.rename(os.fsencode(tmp_path / "water"), os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    for limit in (2**31, 0):
        splits = read(tmp_path, resident_limit=limit)
        assert splits.classes == (r"caf\xe9", "tea")
        assert all_numbers(splits) == list(range(20))
        "".join(splits.classes).encode()
    with pytest.raises(DataError, match=r"classes 'caf\\xe9' \(10\)") as error:
        read(tmp_path, test_share=0.99)
    str(error.value).encode()


# Names


def test_a_folder_may_be_given_by_its_path_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "photos")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    names: list[str | Path] = [str(tmp_path / "photos"), f"{tmp_path}/photos/", "../photos", Path("../photos")]
    names += [tmp_path / "photos", "~/photos", "folder/../photos", f"folder/{tmp_path}/photos"]
    fingerprints = {read(name).fingerprint for name in names}
    probes = {create_probe(name, batch_size=8, image_size=4).fingerprint for name in names}
    monkeypatch.chdir(tmp_path)
    fingerprints |= {read(name).fingerprint for name in ("photos", "./photos", Path("photos"))}
    fingerprints.add(read("photos", root=tmp_path).fingerprint)
    assert len(fingerprints) == len(probes) == 1
    assert split_names("photos", tmp_path) == ("train",)
    write_images(tmp_path / "digits")
    assert read(Path("digits")).num_classes == 2
    assert read("digits").num_classes == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "The folder '/no/such/folder' .* does not exist"),
        ("./photo", "does not exist. Did you mean 'photos'"),
        ("../none", "does not exist"),
        (Path("photo"), "does not exist. Did you mean 'photos'"),
        ("photo", "Unknown data set 'photo'. Did you mean 'photos'"),
        ("folder/photo", "does not exist. Did you mean 'photos'"),
        ("folder", "needs root"),
    ],
)
def test_folders_that_do_not_exist_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | Path, message: str
) -> None:
    write_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for create in (create_splits, create_probe):
        with pytest.raises(DataError, match=message):
            create(name)


# Labels of arrays


@pytest.mark.parametrize("num_classes", [None, 4])
def test_labels_from_1_are_shifted_with_a_notice(tmp_path: Path, num_classes: int | None) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(60) % 4
    pair, test = (images, labels + 1), (255 - images[:8], labels[:8] + 1)
    with pytest.warns(UserWarning, match="start at 1, .*: labels 1 to 4 are read as 0 to 3"):
        splits = Splits.from_arrays(pair, test=test, num_classes=num_classes)
    expected = Splits.from_arrays((images, labels), test=(test[0], test[1] - 1))
    assert splits.fingerprint == expected.fingerprint
    np.savez(tmp_path / "one.npz", train_images=images, train_labels=labels + 1)
    np.savez(tmp_path / "zero.npz", train_images=images, train_labels=labels)
    with pytest.warns(UserWarning, match="start at 1"):
        probe = create_probe(str(tmp_path / "one.npz"), batch_size=8, num_classes=num_classes)
    assert probe.fingerprint == create_probe(str(tmp_path / "zero.npz"), batch_size=8).fingerprint
    with pytest.raises(DataError, match="no images of 1 of its 5 classes: 0"):
        Splits.from_arrays(pair, test=test, num_classes=5)


def test_the_missing_class_of_arrays_is_named() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    pair, test = (images, np.arange(40) % 4), (255 - images[:6], np.arange(6) % 3)
    with pytest.raises(DataError, match=r"no images of the classes 3\. If the same .*, give num_classes=4"):
        Splits.from_arrays(pair, test=test)
    assert Splits.from_arrays(pair, test=test, num_classes=4).notes[0].endswith("no images of 1 of the 4 classes: 3")
    with pytest.raises(DataError, match="of one class, 0; at least two"):
        Splits.from_arrays((images, np.zeros(40, int)))


# What was found


def test_the_inventory_says_what_was_read(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "ab")
    write_images(tmp_path / "test", "ab", each=2, first=100)
    Image.new("L", (30, 20), 5).save(tmp_path / "train/a/grey.webp")
    train, test = read(tmp_path).inventories
    assert (train.place, train.images, train.measured) == (str(tmp_path / "train"), 21, 21)
    assert train.sizes == {"4 x 6": 10, "5 x 6": 10, "20 x 30": 1}
    assert train.modes == {"RGB": 21}  # WebP has no grey
    assert train.bits == {"8": 21}
    assert train.formats == {"PNG": 20, "WEBP": 1}
    assert (test.images, test.skipped, test.notes) == (4, (), ())
    assert create_splits("digits").inventories[0].sizes == {"8 x 8": 1797}
