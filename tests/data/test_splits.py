"""Splits: the images to train, validate and test on, missing parts that are split off, and errors for bad data."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diswot_search.data.errors import DataError
from diswot_search.data.image_sets import ResidentSet, StreamedSet
from diswot_search.data.probe import create_probe
from diswot_search.data.splits import Splits, create_splits
from diswot_search.testing.randomness import random_state

from .helpers import SEEDS, SKEWED, count_decoded, counts, filled, numbers, pixels, save, write_images

# Parts split off the training images


@given(SEEDS, st.floats(0.02, 0.5), st.floats(0.02, 0.5))
@settings(max_examples=40)
def test_parts_are_disjoint_complete_and_stratified(seed: int, val_share: float, test_share: float) -> None:
    splits = Splits.from_arrays(SKEWED, seed=seed, val_share=val_share, test_share=test_share)
    train, val, test = map(numbers, (splits.train, splits.val, splits.test))
    assert sorted(train + val + test) == list(range(100))
    for part in (splits.train, splits.val, splits.test):
        assert torch.equal(part.labels, torch.from_numpy(SKEWED[1])[numbers(part)])
    for label, held in enumerate((30, 60, 10)):
        tested = max(1, round(test_share * held))
        validated = max(1, round(val_share * (held - tested)))
        assert counts(splits.test, 3)[label] == tested
        assert counts(splits.val, 3)[label] == validated
        assert counts(splits.train, 3)[label] == held - tested - validated


@given(SEEDS, SEEDS)
@settings(max_examples=15)
def test_the_seed_alone_decides(seed: int, other: int) -> None:
    first, again, second = (Splits.from_arrays(SKEWED, seed=s) for s in (seed, seed, other))
    assert first.config() == again.config()
    assert first.fingerprint == again.fingerprint
    assert (numbers(first.val) == numbers(second.val)) == (seed == other)


def test_the_images_split_off_are_random() -> None:
    chosen = {n for seed in range(200) for n in numbers(Splits.from_arrays(SKEWED, seed=seed).val)}
    assert chosen == set(range(100))


@given(SEEDS, st.integers(3, 72))
@settings(max_examples=40)
def test_a_limit_takes_as_many_of_each_class_as_there_are(seed: int, limit: int) -> None:
    whole = Splits.from_arrays(SKEWED, seed=seed)
    assert counts(whole.train, 3) == [22, 43, 7]
    some = Splits.from_arrays(SKEWED, seed=seed, train_limit=limit)
    assert len(some.train) == limit
    assert (numbers(some.val), numbers(some.test)) == (numbers(whole.val), numbers(whole.test))
    assert set(numbers(some.train)) <= set(numbers(whole.train))
    class_counts = counts(some.train, 3)
    unfilled = [n for n, held in zip(class_counts, [22, 43, 7], strict=True) if n < held]
    if unfilled:
        assert max(class_counts) - min(unfilled) <= 1
    if limit > 3:
        assert set(numbers(Splits.from_arrays(SKEWED, seed=seed, train_limit=limit - 1).train)) < set(
            numbers(some.train)
        )


def test_digits_are_cut_into_three() -> None:
    before = random_state()
    splits = create_splits()
    assert random_state() == before
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1295, 143, 359)
    assert (splits.num_classes, splits.input_size, splits.mirrored) == (10, (3, 32, 32), False)
    assert (splits.mean, splits.std) == ((0.3053,) * 3, (0.3759,) * 3)
    for part, share in ((splits.train, 0.72), (splits.val, 0.08), (splits.test, 0.2)):
        assert counts(part, 10) == pytest.approx([179.7 * share] * 10, abs=6)  # there are 174 to 183 of each
        assert pixels(part).shape[1:] == (3, 32, 32)
    together = torch.cat([pixels(part)[:, 0] for part in (splits.train, splits.val, splits.test)])
    expected = create_probe(batch_size=1797, balanced=False, mean=0.0, std=1.0).images[:, 0].mul(255).round().byte()
    assert sorted(map(bytes, together.flatten(1).numpy())) == sorted(map(bytes, expected.flatten(1).numpy()))


# Splits of the data set


ONE, TWO, THREE = filled([0, 1] * 20), filled([0, 1] * 4, 100), filled([0, 1] * 3, 200)


@pytest.mark.parametrize(
    ("present", "options", "expected"),
    [
        ({"train": ONE}, {}, ("train", None, None)),
        ({"train": ONE, "test": TWO}, {}, ("train", None, "test")),
        ({"train": ONE, "validation": TWO}, {}, ("train", None, "validation")),
        ({"train": ONE, "val": THREE, "test": TWO}, {}, ("train", "val", "test")),
        ({"train": ONE, "valid": TWO}, {"val_split": "valid"}, ("train", "valid", None)),
        ({"train": ONE, "test": TWO}, {"val_split": "test"}, ("train", "test", None)),
        (
            {"big": ONE, "extra": TWO, "test": THREE},
            {"train_split": "big", "val_split": "extra"},
            ("big", "extra", "test"),
        ),
        ({"train": ONE, "val": TWO, "held": THREE}, {"test_split": "held"}, ("train", "val", "held")),
    ],
)
def test_splits_of_an_archive(tmp_path: Path, present: Any, options: Any, expected: tuple[str | None, ...]) -> None:
    splits = create_splits(save(tmp_path / "set.npz", **present), **options)
    for part, split in zip(("val", "test"), expected[1:], strict=True):
        part_numbers = numbers(getattr(splits, part))
        if split is None:
            assert set(part_numbers) < set(range(40))
            assert not set(part_numbers) & set(numbers(splits.train))
        else:
            assert part_numbers == present[split][0][:, 0, 0].tolist()
    assert tuple(splits.source[f"{part}_split"] for part in ("train", "val", "test")) == expected
    assert (splits.source["val_share"] is None) == (expected[1] is not None)
    assert (splits.source["test_share"] is None) == (expected[2] is not None)


@pytest.mark.parametrize("resident_limit", [2**31, 0])
def test_splits_of_folders(tmp_path: Path, resident_limit: int) -> None:
    options: dict[str, Any] = {"root": tmp_path, "image_size": 4, "resident_limit": resident_limit, "workers": 0}
    write_images(tmp_path / "train", each=20)
    write_images(tmp_path / "val", each=3, first=100)
    splits = create_splits("folder", **options)
    assert type(splits.train) is (ResidentSet if resident_limit else StreamedSet)
    assert (splits.num_classes, splits.input_size, splits.mirrored) == (2, (3, 4, 4), True)
    assert splits.source["statistics"] == "imagenet"
    assert numbers(splits.test) == list(range(100, 106))
    assert sorted(numbers(splits.train) + numbers(splits.val)) == list(range(40))
    assert counts(splits.val, 2) == [2, 2]
    write_images(tmp_path / "test", each=2, first=200)
    splits = create_splits("torch/image_folder", **options)
    assert [numbers(part)[0] for part in (splits.val, splits.test)] == [100, 200]
    assert len(splits.train) == 40
    with pytest.raises(DataError, match="Unknown split 'test'; the data set has only 'train'"):
        create_splits("folder/train", test_split="test", **options)
    alone = create_splits("folder/train", **options)
    assert sorted(n for part in (alone.train, alone.val, alone.test) for n in numbers(part)) == list(range(40))


def test_streamed_and_resident_splits_are_the_same_images(tmp_path: Path) -> None:
    options: dict[str, Any] = {"root": write_images(tmp_path), "image_size": 5, "workers": 0, "train_limit": 9}
    resident, streamed = (create_splits("folder", resident_limit=limit, **options) for limit in (15 * 75, 15 * 75 - 1))
    assert isinstance(streamed.test, StreamedSet)
    for part in ("train", "val", "test"):
        assert torch.equal(pixels(getattr(resident, part)), pixels(getattr(streamed, part)))
        assert torch.equal(getattr(resident, part).labels, getattr(streamed, part).labels)


def test_labels_of_streamed_images_are_known_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    decoded = count_decoded(monkeypatch)
    splits = create_splits("folder", root=tmp_path, image_size=4, resident_limit=0, workers=0)
    assert len(decoded) <= 4  # to learn the number of channels
    assert [n // 10 for n in numbers(splits.train)] == splits.train.labels.tolist()
    assert len(decoded) > 14


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12's, of fork
def test_worker_processes_read_a_tar_file_each_for_itself(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", each=30)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, arcname=".")
    splits = create_splits("folder/images.tar", root=tmp_path, image_size=4, resident_limit=0, workers=2)
    order = torch.arange(len(splits.train)).repeat(3)
    batches = list(splits.train.batches(order, 4, device=torch.device("cpu"), augment=None, seed=0))
    images = torch.cat([batch.images for batch in batches]).mul(255).round()[:, 0, 0, 0].long()
    assert torch.equal(images // 30, torch.cat([batch.labels for batch in batches]))
    assert images[: len(splits.train)].unique().numel() == len(splits.train)


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("torch/cifar10", {"val_split": "val"}),  # every name except those of the training split means the test images
        ("torch/cifar10", {"val_split": "val", "test_split": "test"}),
        ("torch/cifar10", {"test_split": "training"}),
        ("torch/cifar10", {"train_split": "val"}),
        ("folder", {"val_split": "val", "test_split": "validation"}),
        ("folder", {"test_split": "training"}),
        ("folder/train", {"train_split": "val", "test_split": "training"}),
    ],
)
def test_no_part_has_the_images_of_another_by_another_name(
    name: str, requested: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm.data
    from torchvision.datasets import ImageFolder

    write_images(tmp_path / "train", each=20)
    write_images(tmp_path / "val", first=100)

    def cifar10(_: str, root: str, split: str, **options: Any) -> ImageFolder:
        return ImageFolder(f"{root}/{'train' if split in ('train', 'training') else 'val'}")

    if name == "torch/cifar10":
        monkeypatch.setattr(timm.data, "create_dataset", cifar10)
    with pytest.raises(DataError, match=r"is used twice|Unknown split"):
        create_splits(name, root=tmp_path, image_size=4, **requested)
    if name != "folder/train":
        splits = create_splits(name, root=tmp_path, image_size=4)
        assert numbers(splits.test) == list(range(100, 120))
        assert sorted(numbers(splits.train) + numbers(splits.val)) == list(range(40))


def test_class_names_are_stored(tmp_path: Path) -> None:
    splits = create_splits("folder", root=write_images(tmp_path, ("cat", "dog")), image_size=4)
    assert splits.classes == ("cat", "dog")
    assert "classes" not in splits.config()  # the order of the labels implies them
    assert Splits.from_arrays(SKEWED).classes == ()


def test_workers_are_as_many_as_there_are_cores_to_spare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_images(tmp_path)
    for cores, workers in ((1, 1), (2, 1), (6, 5), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        splits = create_splits("folder", root=tmp_path, image_size=4, resident_limit=0)
        assert isinstance(splits.train, StreamedSet)
        assert splits.train.workers == workers


def test_splits_that_only_a_library_knows(tmp_path: Path) -> None:
    """torchvision's Rendered SST-2 has train, val and test; its Country211 train, valid and test."""
    for split, first in (("train", 0), ("valid", 100), ("test", 200)):
        write_images(tmp_path / "rendered-sst2" / split, ("negative", "positive"), first=first)
        write_images(tmp_path / "country211" / split, first=first)
    for name, val in (("torch/renderedsst2", "val"), ("torch/country211", "valid")):
        splits = create_splits(name, root=tmp_path, image_size=4)
        assert [numbers(part)[0] for part in (splits.train, splits.val, splits.test)] == [0, 100, 200]
        assert splits.source["val_split"] == val
    with pytest.raises(DataError, match="Cannot read split 'tain'"):
        create_splits("torch/country211", root=tmp_path, image_size=4, train_split="tain")
    write_images(tmp_path / "eurosat" / "2750")
    only = create_splits("torch/eurosat", root=tmp_path, image_size=4)
    assert (only.source["val_split"], only.source["test_split"]) == (None, None)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], list[int]]:
    """Make the training split of `wds/any` a stream of grey images with the labels passed to it; i fills image i.

    The list that it returns collects the number of each decoded image.
    """
    import timm.data

    class Reader:
        def __init__(self, labels: list[int]) -> None:
            self.labels = labels

        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            for i, label in enumerate(self.labels):
                decoded.append(i)
                yield Image.new("L", (6, 4), i), label

    decoded: list[int] = []

    def serve(labels: list[int]) -> list[int]:
        opened = timm.data.IterableImageDataset(None, reader=Reader(labels))
        monkeypatch.setattr(timm.data, "create_dataset", lambda *_, **__: opened)
        return decoded

    return serve


def test_a_stream_is_read_once_and_held_in_memory(
    stream: Callable[[list[int]], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diswot_search.data.with_timm.UNLABELLED_LIMIT", 12)
    decoded = stream([0, 1] * 20)
    splits = create_splits("wds/any", image_size=4)
    assert decoded == list(range(40))
    assert splits.input_size == (3, 4, 4)
    assert sorted(n for part in (splits.train, splits.val, splits.test) for n in numbers(part)) == list(range(40))
    assert [n % 2 for n in numbers(splits.train)] == splits.train.labels.tolist()
    with pytest.raises(DataError, match=r"no random access.* give a smaller image_size or a larger resident_limit"):
        create_splits("wds/any", image_size=4, resident_limit=40 * 48 - 1)
    decoded.clear()
    with pytest.raises(DataError, match="no random access"):
        create_splits("wds/any", image_size=4, resident_limit=5 * 48)
    assert decoded == list(range(6))  # reading stops as soon as the limit is exceeded


# User arrays


def test_user_arrays_and_tensors() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 5, 7, 3), dtype=np.uint8)
    labels = np.arange(30) % 3
    pair = (torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).to(torch.int32))
    options: dict[str, Any] = {"val": (images[:3], labels[:3]), "test": (255 - images[:6], labels[:6])}
    from_arrays, from_tensors = (Splits.from_arrays(train, **options) for train in ((images, labels), pair))
    assert from_arrays.config() == from_tensors.config()
    assert torch.equal(pixels(from_arrays.train), pair[0])
    assert (from_arrays.name, from_arrays.mirrored, from_arrays.input_size) == ("arrays", True, (3, 5, 7))
    assert len(from_arrays.test) == 6
    resized = Splits.from_arrays((images, labels), image_size=4, mirrored=False, name="mine")
    assert (resized.name, resized.mirrored, resized.input_size) == ("mine", False, (3, 4, 4))
    column = Splits.from_arrays((images, labels[:, None]))
    assert counts(column.train, 3) == [7, 7, 7]


def test_statistics_are_those_of_training_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pair = (rng.integers(0, 200, (3000, 4, 5, 3), dtype=np.uint8), np.arange(3000) % 3)
    splits = Splits.from_arrays(pair, train_limit=1500)
    scaled = pixels(splits.train).double() / 255
    assert splits.source["statistics"] == "train"
    # Statistics are rounded to six digits.
    assert splits.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert splits.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    path = save(tmp_path / "mine.npz", train=pair)
    streamed = create_splits(path, resident_limit=0, workers=0)
    assert streamed.mean == pytest.approx((pair[0] / 255).mean((0, 1, 2)).tolist(), abs=0.005)
    custom = create_splits(path, mean=0.5, std=(0.1, 0.2, 0.3))
    assert (custom.mean, custom.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert create_splits(save(tmp_path / "cifar10-mine.npz", train=pair)).source["statistics"] == "cifar10"


def test_config_is_json_and_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    splits = create_splits(save(tmp_path / "a.npz", train=ONE, test=TWO), train_limit=20)
    config = json.loads(json.dumps(splits.config()))
    assert config == splits.config()
    assert config["samples"] == {"train": 20, "val": 4, "test": 8}
    assert config["fingerprint"] == splits.fingerprint
    expected = {"train_limit": 20, "seed": 0, "val_share": 0.1, "test_share": None, "num_classes": 2}
    assert expected.items() <= config.items()
    copy = create_splits(save(tmp_path / "b.npz", train=ONE, test=TWO), train_limit=20)
    assert copy.fingerprint == splits.fingerprint
    changed = (ONE[0], 1 - ONE[1])
    others = [
        create_splits(save(tmp_path / "c.npz", train=changed, test=TWO), train_limit=20),
        create_splits(save(tmp_path / "d.npz", train=ONE, test=THREE), train_limit=20),
        create_splits(str(tmp_path / "a.npz"), train_limit=20, image_size=5),
        create_splits(str(tmp_path / "a.npz"), train_limit=20, seed=1),
        create_splits(str(tmp_path / "a.npz")),
    ]
    assert len({other.fingerprint for other in others} | {splits.fingerprint}) == 6


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("mnist", False), ("usps-small", False), ("svhn_32", False), ("fashion_mnist", True), ("cifar10", True)],
)
def test_some_data_sets_are_not_mirrored(tmp_path: Path, name: str, mirrored: bool) -> None:
    assert create_splits(save(tmp_path / f"{name}.npz", train=ONE)).mirrored is mirrored


# Bad data and bad requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digit"}, "Unknown data set 'digit'. Did you mean 'digits'?"),
        ({"name": "noise"}, "'noise' cannot be learnt"),
        ({"name": "no/such.npz"}, "The file .* does not exist"),
        ({"name": "torch/cifar1000", "root": "."}, "Did you mean 'torch/cifar100'"),
        ({"train_split": "trian"}, "Unknown split 'trian' of 'digits'"),
        ({"test_split": "test"}, "Unknown split 'test'; the data set has only 'train'"),
        ({"test_split": "train"}, "'train' is used twice"),
        ({"val_share": 0.0}, "val_share is 0.0; it must lie between 0 and 1"),
        ({"val_share": 1.0}, "val_share is 1.0"),
        ({"test_share": -0.1}, "test_share is -0.1"),
        ({"test_share": float("nan")}, "test_share is nan"),
        ({"val_share": 0.999}, r"too few images to split off val_share=0.999 .* classes 0 \(142\)"),
        ({"train_limit": 1296}, "train_limit is 1296; .* it must lie between 10 and 1295"),
        ({"train_limit": 9}, "train_limit is 9; with 10 classes"),
        ({"train_limit": 0}, "train_limit is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 0}, "image_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"resident_limit": -1}, "resident_limit is -1"),
        ({"num_classes": 9}, "run from 0 to 9; with 9 classes they must lie between 0 and 8"),
        ({"num_classes": 12}, "has no images of 2 of its 12 classes: 10, 11"),
        ({"mean": 0.5}, "give both or neither"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        create_splits(**options)


RGB = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": (RGB[:0], LABELS[:0])}, "split 'train' .* has no images"),
        ({"train": (RGB, LABELS), "test": (RGB[:0], LABELS[:0])}, "split 'test' .* has no images"),
        ({"train": (RGB, LABELS), "val": (RGB[:0], LABELS[:0]), "test": (RGB, LABELS)}, "split 'val' .* has no images"),
        ({"train": (RGB, LABELS * 2)}, "has no images of 3 of its 7 classes: 1, 3, 5"),
        ({"train": (RGB, LABELS - 1)}, "run from -1 to 2"),
        ({"train": (RGB, LABELS), "test": (RGB, LABELS + 1)}, "has 4 classes, but .*'test'.* has 5.* give num_classes"),
        ({"train": (RGB, LABELS), "test": (RGB[:3], LABELS[:3])}, "has 4 classes, but .*'test'.* has 3"),
        ({"train": (RGB, LABELS), "test": (RGB[:, :5], LABELS)}, "differ in size: .* give image_size"),
        ({"train": (RGB, LABELS), "test": (RGB[..., 0], LABELS)}, "differ in size"),
        ({"train": (RGB[:5], LABELS[:5])}, r"too few images to split off test_share=0.2 .* classes 1 \(1\), 2 \(1\)"),
        ({"train": (RGB[:8], LABELS[:8])}, r"too few images to split off val_share=0.1 .* classes 0 \(1\)"),
        ({"train": (RGB / 255, LABELS)}, "are float64; they must be uint8"),
        ({"train": (RGB, LABELS * 0.5)}, "Labels of .* are float64"),
        ({"train": (RGB, LABELS[:9])}, "for each of the 20 images"),
        ({"train": (np.zeros_like(RGB), LABELS)}, "A channel is constant over all images of"),
    ],
)
def test_bad_data_is_refused(tmp_path: Path, splits: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        create_splits(save(tmp_path / "bad.npz", **splits))
    with pytest.raises(DataError, match=message):
        Splits.from_arrays(**splits)


def test_num_classes_may_be_given() -> None:
    splits = Splits.from_arrays((RGB, LABELS), test=(255 - RGB[:3], LABELS[:3]), num_classes=4)
    assert (splits.num_classes, len(splits.test)) == (4, 3)


def test_corrupt_archives_are_refused(tmp_path: Path) -> None:
    content = Path(save(tmp_path / "good.npz", train=(RGB, LABELS))).read_bytes()
    for name, damaged in (
        ("empty", b""),
        ("cut", content[:1000]),
        ("flipped", content[:500] + b"x" * 9 + content[509:]),
    ):
        (tmp_path / f"{name}.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=f"Cannot read .*{name}.npz"):
            create_splits(str(tmp_path / f"{name}.npz"))


def test_folders_with_other_classes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "abc")
    write_images(tmp_path / "val", "ac", first=100)
    with pytest.warns(UserWarning, match="'val' of .* has no images of 1 of the 3 classes: 'b'"):
        splits = create_splits("folder", root=tmp_path, image_size=4)
    assert counts(splits.test, 3) == [10, 0, 10]
    write_images(tmp_path / "val", "d")
    with pytest.raises(DataError, match=r"'val' of .* has classes that .*'train' .* does not have: 'd'; that"):
        create_splits("folder", root=tmp_path, image_size=4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Found 0 images"):
        create_splits("folder/empty", root=tmp_path)


@pytest.mark.parametrize("resident_limit", [2**31, 0])
def test_images_of_different_sizes_need_a_size(tmp_path: Path, resident_limit: int) -> None:
    options: dict[str, Any] = {"root": write_images(tmp_path), "resident_limit": resident_limit, "workers": 0}
    with pytest.raises(DataError, match=r"differ in size.*give image_size"):
        numbers(create_splits("folder", **options).train)
    archive = save(tmp_path / "two.npz", train=(RGB, LABELS), test=(RGB[:, :5], LABELS))
    with pytest.raises(DataError, match=r"differ in size: 3 x 6 x 6 and 3 x 5 x 6 .*; give image_size"):
        create_splits(archive, resident_limit=resident_limit)


# Real data sets


@pytest.mark.parametrize(
    ("name", "side", "samples", "mirrored"),
    [("mnist.npz", 28, None, False), ("usps.npz", 16, (6564, 727, 2007), False), ("fashion_mnist.npz", 28, None, True)],
)
def test_real_archives(shared_data: Path, name: str, side: int, samples: Any, mirrored: bool) -> None:
    splits = create_splits(name, root=shared_data)
    assert (splits.num_classes, splits.input_size, splits.mirrored) == (10, (3, side, side), mirrored)
    assert splits.source["test_split"] == "test"
    assert samples in (None, tuple(splits.source["samples"].values()))
    assert min(counts(splits.val, 10)) > 0
