"""Labelled subsets: chosen by share, number or indices, and the errors for requests that cannot be met."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diswot_search.data.division import division
from diswot_search.data.errors import DataError
from diswot_search.data.image_sets import ResidentSet, StreamedSet
from diswot_search.data.splits import Splits, create_splits
from diswot_search.resolve.data import as_splits
from diswot_search.runtime.configuration import differences
from diswot_search.runtime.files import as_json
from diswot_search.testing.randomness import random_state
from search_spaces.option_types import OptionTypeError

from .helpers import SEEDS, SKEWED, count_decoded, counts, filled, numbers, save, write_images

HELD = (22, 43, 7)
"""Number of images of each class of SKEWED that remain to train on."""


def labelled(splits: Splits) -> list[int]:
    """Places of the labelled images; all places if `splits.labelled` is None."""
    return list(range(len(splits.train))) if splits.labelled is None else splits.labelled.tolist()


def labelled_counts(splits: Splits) -> list[int]:
    """Number of labelled images of each class."""
    return torch.bincount(splits.train.labels[labelled(splits)], minlength=splits.num_classes).tolist()


def labelled_numbers(splits: Splits) -> list[int]:
    """Numbers in the labelled images of `filled` or `write_images`, which are their indices on disk."""
    train_numbers = numbers(splits.train)
    return [train_numbers[place] for place in labelled(splits)]


# By share and by number


@given(SEEDS, st.floats(0.1, 100))
@settings(max_examples=50)
def test_a_share_is_of_each_class(seed: int, percent: float) -> None:
    splits = Splits.from_arrays(SKEWED, labels=f"{percent!r}%", seed=seed)
    assert labelled_counts(splits) == [max(1, round(percent / 100 * held)) for held in HELD]
    places = labelled(splits)
    assert places == sorted(set(places))
    assert splits.labelled is None or splits.labelled.dtype == torch.int64


@given(SEEDS, st.integers(1, 7))
@settings(max_examples=20)
def test_so_many_of_each_class(seed: int, each: int) -> None:
    assert labelled_counts(Splits.from_arrays(SKEWED, labels_per_class=each, seed=seed)) == [each] * 3


@given(SEEDS, st.integers(3, sum(HELD)))
@settings(max_examples=50)
def test_a_number_is_spread_as_evenly_as_there_are_images(seed: int, count: int) -> None:
    class_counts = labelled_counts(Splits.from_arrays(SKEWED, labels=count, seed=seed))
    assert sum(class_counts) == count
    unfilled = [n for n, available in zip(class_counts, HELD, strict=True) if n < available]
    assert not unfilled or max(class_counts) - min(unfilled) <= 1


@pytest.mark.parametrize(
    ("key", "requests"),
    [
        ("labels", ["1%", "4%", "12.5%", "60%", "100%"]),
        ("labels", [3, 4, 9, 10, 40, 72]),
        ("labels_per_class", [1, 2, 5, 7]),
    ],
)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_a_smaller_request_is_part_of_a_larger_one(key: str, requests: list[Any], seed: int) -> None:
    splits = Splits.from_arrays(SKEWED, seed=seed)
    chosen = [set(labelled(splits.with_labels(**{key: request}))) for request in requests]
    assert all(small < large for small, large in pairwise(chosen))


@given(SEEDS, st.integers(1, 7))
@settings(max_examples=10)
def test_ways_to_ask_for_the_same_images(seed: int, each: int) -> None:
    splits = Splits.from_arrays(filled([0, 1, 2, 3] * 10), seed=seed)
    held = len(splits.train) // 4
    by_class = labelled(splits.with_labels(labels_per_class=each))
    assert by_class == labelled(splits.with_labels(4 * each))
    assert by_class == labelled(splits.with_labels(f" {4 * each}"))
    assert by_class == labelled(splits.with_labels(f"{100 * each / held} %"))


@given(SEEDS, SEEDS, st.integers(1, 6))
@settings(max_examples=20)
def test_what_is_labelled_stays_so_when_other_images_are_left_out(seed: int, label_seed: int, each: int) -> None:
    options: dict[str, Any] = {"seed": seed, "label_seed": label_seed, "labels_per_class": each}
    whole = Splits.from_arrays(SKEWED, **options)
    assert labelled_numbers(whole) == whole.labelled_indices().tolist()
    for change in ({"train_limit": 24}, {"val_share": 0.3}, {"train_limit": 20, "val_share": 0.3}):
        less = Splits.from_arrays(SKEWED, **options, **change)
        assert set(numbers(less.train)) < set(numbers(whole.train))
        assert set(whole.labelled_indices()) & set(numbers(less.train)) <= set(less.labelled_indices())
        assert labelled_counts(less) == [each] * 3


@given(SEEDS, SEEDS)
@settings(max_examples=20)
def test_the_label_seed_alone_decides(seed: int, other: int) -> None:
    options: dict[str, Any] = {"labels_per_class": 5, "seed": 3}
    first, again, second = (Splits.from_arrays(SKEWED, label_seed=s, **options) for s in (seed, seed, other))
    assert first.config() == again.config()
    assert labelled(first) == labelled(again)
    assert (first.config() == second.config()) == (seed == other)
    assert first.fingerprint == second.fingerprint
    assert (
        Splits.from_arrays(SKEWED, **options).config() == Splits.from_arrays(SKEWED, label_seed=3, **options).config()
    )


@pytest.mark.parametrize("request_", [{"labels": "10%"}, {"labels": 7}, {"labels_per_class": 2}])
def test_which_images_are_labelled_is_chance(request_: dict[str, Any]) -> None:
    splits = Splits.from_arrays(SKEWED)
    before = random_state()
    chosen = {place for seed in range(200) for place in labelled(splits.with_labels(**request_, label_seed=seed))}
    assert chosen == set(range(len(splits.train)))
    assert random_state() == before


def test_other_processes_and_versions_choose_the_same_images() -> None:
    """A seed must always choose the same images: runs are continued, and their accuracies compared."""
    splits = Splits.from_arrays(SKEWED, seed=5)
    assert splits.with_labels("10%").labelled_indices().tolist() == [8, 15, 40, 48, 56, 89, 91]
    assert splits.with_labels(7).labelled_indices().tolist() == [8, 15, 29, 40, 48, 91, 94]
    assert splits.with_labels(labels_per_class=2, label_seed=6).labelled_indices().tolist() == [9, 17, 70, 75, 93, 99]


def test_images_without_labels_stay_where_they_are() -> None:
    splits = Splits.from_arrays(SKEWED)
    some = splits.with_labels("4.5%")
    assert some.train is splits.train
    assert counts(some.train, 3) == list(HELD)
    assert labelled_counts(some) == [1, 2, 1]  # of .99, 1.9 and .3
    assert labelled(some.with_labels()) == labelled(splits)


# By indices


def sequences(indices: np.ndarray, folder: Path) -> dict[str, Any]:
    """The same indices in every accepted form."""
    text, array = folder / "labels.txt", folder / "labels.npy"
    text.write_text("\ufeff# of the annotators\r\n\r\n" + "\r\n".join(f"  {i} # cat" for i in indices), "utf-8")
    np.save(array, indices.astype(np.uint16))
    return {
        "list": indices.tolist(),
        "array": indices[::-1].astype(np.int32),
        "tensor": torch.from_numpy(indices),
        "path": text,
        "text": str(text),
        "npy": str(array),
    }


@pytest.mark.parametrize(
    "options", [{}, {"train_limit": 30}, {"val": True}, {"test": True}, {"val": True, "test": True}]
)
def test_indices_count_the_training_part_as_it_was_given(options: dict[str, Any], tmp_path: Path) -> None:
    others = {part: filled([0, 1, 2], 200 + 10 * i) for i, part in enumerate(("val", "test")) if options.get(part)}
    given_options = {key: value for key, value in options.items() if key not in others} | others
    splits = Splits.from_arrays(SKEWED, seed=4, **given_options)
    assert splits.labelled_indices().tolist() == numbers(splits.train)
    chosen = np.array(numbers(splits.train)[::3])
    for way, indices in sequences(chosen, tmp_path).items():
        some = splits.with_labels(indices)
        assert labelled_numbers(some) == chosen.tolist(), way
        assert some.labelled_indices().tolist() == chosen.tolist(), way
        assert some.config() == Splits.from_arrays(SKEWED, seed=4, labels=indices, **given_options).config(), way


@pytest.mark.parametrize("resident_limit", [2**31, 0])
@pytest.mark.parametrize("options", [{}, {"train_limit": 12}, {"val_split": "val"}])
def test_indices_of_files_on_disk(resident_limit: int, options: dict[str, Any], tmp_path: Path) -> None:
    write_images(tmp_path / "train", each=20)
    if options.get("val_split"):
        write_images(tmp_path / "val", each=3, first=100)
    options_on_disk: dict[str, Any] = {
        "root": tmp_path,
        "image_size": 4,
        "resident_limit": resident_limit,
        "workers": 0,
        **options,
    }
    name = "folder" if options.get("val_split") else "folder/train"
    splits = create_splits(name, labels_per_class=3, **options_on_disk)
    assert type(splits.train) is (ResidentSet if resident_limit else StreamedSet)
    assert labelled_numbers(splits) == splits.labelled_indices().tolist()
    assert labelled_counts(splits) == [3, 3]
    (tmp_path / "labels.txt").write_text(splits.labels_file())
    again = create_splits(name, labels=tmp_path / "labels.txt", **options_on_disk)
    assert labelled(again) == labelled(splits)
    assert again.config()["labels"]["sha256"] == splits.config()["labels"]["sha256"]
    assert again.with_labels(labels_per_class=3).config() == splits.config()


@given(SEEDS, st.sampled_from(["4%", "50%", 5, 40, None]), st.sampled_from([None, 50]))
@settings(max_examples=20)
def test_the_file_that_is_written_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, seed: int, request_: Any, train_limit: int | None
) -> None:
    splits = Splits.from_arrays(SKEWED, seed=seed, train_limit=train_limit, labels=request_)
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text(splits.labels_file())
    again = Splits.from_arrays(SKEWED, seed=seed, train_limit=train_limit, labels=str(path))
    assert labelled(again) == labelled(splits)
    assert again.labels_file() == splits.labels_file()
    if request_ is None:
        assert again.config() == splits.config()
    else:
        assert differences(splits.config(), again.config(), ignore=("labels.request", "labels.seed")) == []


def test_classes_that_nobody_labelled_are_named(tmp_path: Path) -> None:
    splits = create_splits("folder", root=write_images(tmp_path, ("ant", "bee", "cat", "dog")), image_size=4)
    train_numbers = np.array(numbers(splits.train))
    with pytest.warns(UserWarning, match="2 of the 4 classes of .* have no labelled image: bee, dog"):
        some = splits.with_labels(train_numbers[train_numbers % 20 < 10])
    assert labelled_counts(some) == [7, 0, 7, 0]
    with pytest.warns(UserWarning, match="1 of the 3 classes of .* have no labelled image: 2"):
        Splits.from_arrays((SKEWED[0], SKEWED[1]), labels=numbers(Splits.from_arrays(SKEWED).train)[:60])


def test_splits_of_another_make_are_counted_as_they_are() -> None:
    splits = replace(Splits.from_arrays(SKEWED, seed=4), numbering=None, source={})
    assert splits.labelled_indices().tolist() == list(range(72))
    some = splits.with_labels(splits.with_labels(labels_per_class=3).labelled_indices())
    assert labelled(some) == some.labelled_indices().tolist()
    assert labelled_counts(some) == [3, 3, 3]
    assert some.config()["labels"]["count"] == 9
    with pytest.raises(DataError, match="between 0 and 71"):
        splits.with_labels([0, 72])


# Configuration


def test_config_tells_the_labels_and_nothing_else_changes() -> None:
    whole = Splits.from_arrays(SKEWED)
    assert whole.config()["labels"] is None
    before = {key: value for key, value in whole.config().items() if key != "labels"}  # as older versions stored it
    assert differences(before, whole.config()) == []
    for request, stored, seed in (
        ({"labels": "4%"}, "4%", 0),
        ({"labels": "4.50 %", "label_seed": 7}, "4.5%", 7),
        ({"labels": 50}, 50, 0),
        ({"labels": "50"}, 50, 0),
        ({"labels_per_class": 5}, "5 per class", 0),
        ({"labels": whole.labelled_indices()[::2], "label_seed": 7}, "indices", None),
    ):
        some = Splits.from_arrays(SKEWED, **request)
        config = some.config()
        assert as_json(config) == config
        indices = "\n".join(map(str, some.labelled_indices().tolist()))
        entry = {key: value for key, value in config["labels"].items() if key != "sha256"}
        assert entry == {"request": stored, "seed": seed, "count": len(indices.split())}
        assert {key: value for key, value in config.items() if key != "labels"} == before
        assert division(config) == division(before)
        assert differences(before, config)[0].startswith("labels.request is not set there")
        written = np.array([int(line) for line in indices.split()], dtype="<i8").tobytes()
        assert config["labels"]["sha256"] == hashlib.sha256(written).hexdigest()
    assert json.dumps(Splits.from_arrays(SKEWED, labels=50).config()) == json.dumps(whole.with_labels("50").config())


@pytest.mark.parametrize("request_", [{"labels": "100%"}, {"labels": sum(HELD)}, {"labels": "99.9%"}, {"labels": None}])
def test_all_labels_are_no_labelled_subset(request_: dict[str, Any]) -> None:
    splits = Splits.from_arrays(SKEWED, **request_)
    assert splits.labelled is None
    assert splits.config() == Splits.from_arrays(SKEWED).config()
    assert splits.with_labels(splits.labelled_indices()).labelled is None
    assert splits.with_labels(5).with_labels(**request_).config() == splits.config()


# As splits or by name


def test_as_splits_merges_labels() -> None:
    whole, some = create_splits(seed=2), create_splits(seed=2, labels="4%")
    assert as_splits(some) is some
    for splits in (
        as_splits("digits", {"seed": 2}, labels="4%"),
        as_splits("digits", {"seed": 2, "labels": "4%"}),
        as_splits(whole, labels="4%"),
        as_splits(whole.with_labels(200), labels="4%"),
    ):
        assert splits.config() == some.config()
        assert labelled(splits) == labelled(some)
    by_class = as_splits("digits", {"label_seed": 9}, labels_per_class=3)
    assert by_class.config() == create_splits(label_seed=9, labels_per_class=3).config()
    assert by_class.config() == create_splits().with_labels(labels_per_class=3, label_seed=9).config()
    with pytest.raises(ValueError, match="data_options set labels, and labels_per_class is given as well; give"):
        as_splits("digits", {"labels": "4%"}, labels_per_class=3)
    with pytest.raises(ValueError, match="data_options cannot be set"):
        as_splits(whole, {"seed": 2}, labels="4%")


# Overlap with the test images


def copied(images: int, of: int = 60) -> Callable[[], Splits]:
    """Splits with `images` labelled images among the test images; the first `of` training images are labelled."""
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (2, 400, 4, 4), dtype=np.uint8)
    test[:images] = train[:images]
    labels = np.arange(400) % 2
    return lambda: Splits.from_arrays((train, labels), test=(test, labels), val=(test, labels), labels=range(of))


@pytest.mark.parametrize(
    ("images", "of", "refused"), [(0, 60, False), (1, 2, False), (2, 60, True), (3, 300, False), (4, 300, True)]
)
def test_labelled_images_are_not_the_test_images_again(images: int, of: int, refused: bool) -> None:
    """More than 1% and at least two are refused, because established data sets contain a few duplicates."""
    make = copied(images, of)
    if not refused:
        assert len(labelled(make())) == of
        return
    with pytest.raises(DataError, match=f"{images} of the {of} labelled images .* among the test .* indices are 0, 1"):
        make()


def test_unlabelled_images_may_be_the_test_images_again() -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (400, 4, 4), dtype=np.uint8), np.arange(400) % 2
    again = Splits.from_arrays(
        (images, labels), test=(images[200:], labels[200:]), val=(images[:50], labels[:50]), labels=range(100)
    )
    assert len(labelled(again)) == 100
    with pytest.raises(DataError, match=r"Training and test images overlap: 200 of the 400 training images"):
        again.with_labels()
    with pytest.raises(DataError, match=r"Labelled and test images overlap: 50 of the 100 .* and 40 more"):
        again.with_labels(range(150, 250))


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize(
    ("images", "of_test", "refused"), [(1, 10, False), (2, 10, True), (4, 400, False), (5, 400, True), (400, 400, True)]
)
def test_training_images_are_not_the_test_images_again(images: int, of_test: int, refused: bool, side: int) -> None:
    """More than 1% of either set is refused if all have labels; 5 x 5 bytes are not divisible by 8."""
    train, test = np.random.default_rng(0).integers(0, 256, (2, 400, side, side), dtype=np.uint8)
    test[:images] = train[400 - images :][::-1]
    labels = np.arange(400) % 2
    parts: dict[str, Any] = {"train": (train, labels), "test": (test[:of_test], labels[:of_test])}
    if not refused:
        assert Splits.from_arrays(**parts, val=(test, labels)).labelled is None
        return
    indices = ", ".join(map(str, range(400 - images, 400)[:10]))
    message = f"overlap: {images} of the 400 training images of .* occur bit for bit among the test images.* {indices}"
    with pytest.raises(DataError, match=message):
        Splits.from_arrays(**parts, val=(test, labels))


def test_a_set_that_has_images_twice_may_be_divided() -> None:
    """Duplicates within the data set are accepted, but a labelled subset must not contain test images."""
    images, labels = np.zeros((60, 4, 4), dtype=np.uint8), np.arange(60) % 2
    assert Splits.from_arrays((images, labels), mean=0.5, std=0.5).labelled is None
    with pytest.raises(DataError, match="Labelled and test images overlap: 10 of the 10 labelled"):
        Splits.from_arrays((images, labels), mean=0.5, std=0.5, labels=10)


# A probe of labelled images


@given(SEEDS, SEEDS, st.integers(2, 30))
@settings(max_examples=20)
def test_a_probe_has_labelled_training_images_alone(seed: int, drawn: int, images: int) -> None:
    """The probe is spread evenly over the classes and normalised like the data."""
    splits = Splits.from_arrays(SKEWED, seed=seed, labels=30)
    before = random_state()
    probe = splits.probe(images, drawn)
    assert random_state() == before
    restored = (probe.images * torch.tensor(splits.std)[:, None, None] + torch.tensor(splits.mean)[:, None, None]) * 255
    label_of = dict(zip(labelled_numbers(splits), splits.train.labels[splits.labelled].tolist(), strict=True))
    drawn_numbers = restored[:, 0, 0, 0].round().int().tolist()
    assert [label_of[number] for number in drawn_numbers] == probe.labels.tolist()
    assert len(set(drawn_numbers)) == images
    available = labelled_counts(splits)
    drawn_of = torch.bincount(probe.labels, minlength=3).tolist()
    most = max(drawn_of)
    assert all(have >= most - 1 or have == available[label] for label, have in enumerate(drawn_of))
    assert splits.probe(images, drawn).fingerprint == probe.fingerprint
    assert (probe.num_classes, probe.name) == (splits.num_classes, splits.name)


def test_a_probe_may_be_normalised_otherwise_and_is_of_no_more_images_than_have_labels() -> None:
    splits = Splits.from_arrays(SKEWED)
    white = splits.probe(40, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    assert set(white.images[:, 0, 0, 0].round().int().tolist()) <= set(numbers(splits.train))
    assert splits.probe(40, 1).fingerprint != splits.probe(40).fingerprint
    with pytest.raises(DataError, match=r"there are only 72 training images\."):
        splits.probe(73)
    with pytest.raises(DataError, match=r"The probe needs 21 images, but .* 20 training images that have labels"):
        splits.with_labels(20).probe(21)


# Bad requests


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"labels": "4%", "labels_per_class": 2}, r"labels \('4%'\) and labels_per_class \(2\) are both given"),
        ({"labels": "0%"}, "'0%'; a share must be above 0% and at most 100%"),
        ({"labels": "-4%"}, "'-4%'; a share must be"),
        ({"labels": "100.5%"}, "'100.5%'; a share must be"),
        ({"labels": "nan%"}, "'nan%'; a share must be"),
        ({"labels": "four%"}, "'four%'; it may be a share such as '4%', a whole number .* a file of indices"),
        ({"labels": "%"}, "'%'; it may be a share"),
        ({"labels": ""}, "labels is '.', which is not a file. It may be a share"),
        ({"labels": "0.04"}, "'0.04', which does not exist. It may be a share such as '4%'"),
        ({"labels": "no/labels.txt"}, "which does not exist. It may be"),
        ({"labels": "."}, "labels is '.', which is not a file"),
        ({"labels": 0}, "labels is 0; a number of images must be at least 1"),
        ({"labels": "-3"}, "labels is -3; a number of images must be"),
        ({"labels": 2}, "labels is 2; with 3 classes and 72 images .* it must lie between 3 and 72"),
        ({"labels": 73}, "labels is 73; .* between 3 and 72"),
        ({"labels": True}, "labels is True; labels may be"),
        ({"labels": 0.04}, "labels is 0.04; labels may be a share such as '4%'"),
        ({"labels": []}, r"labels is \[\]; no image would have a label"),
        ({"labels": ["1", "2"]}, r"labels is \['1', '2'\]; labels may be"),
        ({"labels": [[1], [2, 3]]}, "labels may be"),
        ({"labels": [[1, 2]]}, "labels may be"),
        ({"labels": [1.5, 2]}, "labels may be"),
        ({"labels": np.ones(72, bool)}, "labels may be"),
        (
            {"labels": torch.tensor([5])},
            "All 1 labelled images .* are of class 0; at least two classes must have labelled images",
        ),
        ({"labels_per_class": 0}, "labels_per_class is 0; it must be a whole number of at least 1"),
        ({"labels_per_class": 2.0}, "labels_per_class is 2.0; it must be a whole number"),
        ({"labels_per_class": 8}, r"labels_per_class is 8; .* has fewer images to train on in the classes 2 \(7\)"),
        ({"labels": [3, 100, -1]}, "have the indices 100, -1; .* has 100 images, .* between 0 and 99"),
        ({"labels": 4, "label_seed": -1}, "label_seed is -1; it must be a whole number of at least 0"),
        ({"label_seed": 0.5}, "label_seed is 0.5"),
    ],
)
def test_bad_requests_are_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, OptionTypeError), match=message):
        Splits.from_arrays(SKEWED, **request_)
    if "label_seed" not in request_:
        with pytest.raises(DataError, match=message):
            Splits.from_arrays(SKEWED).with_labels(**request_)


def test_indices_of_images_that_are_not_trained_on_are_refused() -> None:
    splits = Splits.from_arrays(SKEWED, train_limit=60)
    train, val, test = map(numbers, (splits.train, splits.val, splits.test))
    left_out = sorted(set(range(100)) - {*train, *val, *test})
    with pytest.raises(DataError, match=f"given more than once: {train[3]}, {train[5]}\\."):
        splits.with_labels([*train[:10], train[5], train[3], train[3]])
    with pytest.raises(DataError, match=f"overlap with the validation images.*: {val[0]}, {val[1]}. .*val_split"):
        splits.with_labels([*train, *val[:2]])
    with pytest.raises(DataError, match=f"overlap with the test images.*: {test[0]}. .* give a test_split"):
        splits.with_labels([*train, test[0]])
    with pytest.raises(DataError, match=f"train_limit omits 12 of the labelled images: {left_out[0]}, .* and 2 more"):
        splits.with_labels([*train, *left_out])
    with pytest.raises(DataError, match=r"All 15 labelled images of .* are of class 0"):
        splits.with_labels(train[:15])
    with pytest.raises(DataError, match="label_seed is -1"):
        splits.with_labels("4%", label_seed=-1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a.txt' holds \[\]; no image would have a label"),
        ("a.txt", b"# none\n\n", "no image would have a label"),
        ("a.txt", b"1\ntwo # 2\n", "a.txt': line 2 is 'two # 2'; it must be one whole number"),
        ("a.txt", b"1 2\n", "line 1 is '1 2'"),
        ("a.txt", b"index\n1\n", "line 1 is 'index'"),
        ("a.txt", b"\x89PNG\xff\xfe", "Cannot read indices of labelled images from .*a.txt"),
        ("a.txt", b"99999999999999999999\n", "labels may be"),
        ("a.npy", b"1\n2\n", "Cannot read indices of labelled images from .*a.npy"),
        ("a.npy", b"", "Cannot read indices of labelled images from .*a.npy"),
        ("a.npy", np.array([0.5, 1]), r"a.npy' holds array\(\[0.5, 1. \]\); labels may be"),
        ("a.npy", np.eye(3, dtype=int), "labels may be"),
        ("a.npy", np.array([{}, 1], dtype=object), "Cannot read .* allow_pickle"),
    ],
)
def test_bad_files_are_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        Splits.from_arrays(SKEWED, labels=tmp_path / name)


def test_a_file_that_is_not_there_may_be_another(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1\n")
    (tmp_path / "lables.txt.d").mkdir()
    with pytest.raises(DataError, match=r"which does not exist. Did you mean '.*labels.txt'\? It may be a share"):
        create_splits(labels=str(tmp_path / "lables.txt"))


def test_requests_are_refused_before_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images")
    decoded = count_decoded(monkeypatch)
    for request in ({"labels_per_class": 9}, {"labels": [0, 1]}, {"labels": 1}):
        with pytest.raises(DataError, match=r"labels_per_class is 9|of class 0|overlap|labels is 1"):
            create_splits("folder/images", root=tmp_path, image_size=4, **request)
    with pytest.raises(DataError, match="which does not exist"):
        create_splits("folder/neither", root=tmp_path, labels="labels.txt")
    assert decoded == []


# Real data sets


def test_real_archives(shared_data: Path) -> None:
    for name, each in (("mnist.npz", 36), ("usps.npz", 21)):
        splits = create_splits(name, root=shared_data, labels="4%")
        assert splits.labelled is not None
        assert min(labelled_counts(splits)) > 0
        share = len(splits.labelled) / len(splits.train)
        assert share == pytest.approx(0.04, abs=10 * 0.5 / len(splits.train))  # rounded in each of ten classes
        assert max(labelled_counts(create_splits(name, root=shared_data, labels=10 * each))) == each


def test_archives_are_counted_by_their_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", train=filled([0, 1] * 20), test=filled([0, 1] * 4, 100))
    splits = create_splits(path, labels_per_class=4)
    assert labelled_numbers(splits) == splits.labelled_indices().tolist()
    assert splits.labels_file().startswith("# The 8 labelled images of split 'train' of")
