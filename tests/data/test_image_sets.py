"""Batches of images: random changes against naive loops, independence of start and share, streamed against resident."""

from __future__ import annotations

import pickle
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diswot_search.data.augmentation import Augmentation
from diswot_search.data.datasets import open_data_set
from diswot_search.data.errors import DataError
from diswot_search.data.image_sets import Images, ImageSet, ResidentSet, StreamedSet
from diswot_search.testing.randomness import random_state

CPU = torch.device("cpu")
SEEDS = st.integers(0, 10_000)


def resident(count: int = 40, channels: int = 3, height: int = 9, width: int = 7, workers: int = 0) -> ResidentSet:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8))
    return ResidentSet(images, torch.arange(count) % 5, workers=workers)


RESIDENT = resident()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty noisy images of five classes and of different sizes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(40):
        path = root / f"{i % 5}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10 + i % 3, 12, 3), dtype=np.uint8)).save(path)
    return root


def streamed(root: Path, workers: int = 0, image_size: int | None = 8) -> StreamedSet:
    data = open_data_set("folder", root, "train", download=False)
    return StreamedSet(data, np.arange(len(data.labels)), image_size, workers)


def in_memory(images: StreamedSet) -> ResidentSet:
    """The images of a streamed set, in memory."""
    batch = take(images, augment=None)[0]
    return ResidentSet(batch.images.mul(255).round().byte(), images.labels)


def take(images: ImageSet, order: Tensor | None = None, batch_size: int | None = None, **options: Any) -> list[Images]:
    order = torch.arange(len(images)) if order is None else order
    arguments: dict[str, Any] = {"device": CPU, "augment": Augmentation(), "seed": 0} | options
    return list(images.batches(order, batch_size or len(order), **arguments))


def assert_same(first: list[Images], second: list[Images]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for tensor, expected in zip(one, other, strict=True):
            assert torch.equal(tensor, expected)


# Random changes


def changed_naively(image: np.ndarray, augment: Augmentation, drawn: list[int]) -> np.ndarray:
    """Pad, crop, mirror and erase one image C x H x W."""
    top, left, flipped, first_row, end_row, first_column, end_column, *colour = drawn
    _, height, width = image.shape
    border = augment.padding if augment.kind == "crop_flip" else 0
    padded = np.pad(image, ((0, 0), (border, border), (border, border)))
    image = padded[:, top + border : top + border + height, left + border : left + border + width]
    image = image[:, :, ::-1].copy() if flipped else image.copy()
    for channel in range(len(image)):
        image[channel, first_row:end_row, first_column:end_column] = colour[channel]
    return image


@given(SEEDS, st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
@settings(max_examples=30)
def test_batches_are_those_of_a_loop_over_images(
    seed: int, padding: int, flip: float, erase: float, grey: bool
) -> None:
    images = resident(channels=1 if grey else 3)
    augment = Augmentation(padding=padding, flip=flip, erase=erase)
    batch = take(images, augment=augment, seed=seed)[0]
    drawn = augment.draw(seed, 0, 0, len(images), 9, 7).tolist()
    assert batch.images.shape == (40, 3, 9, 7)
    assert batch.images.dtype == torch.float32
    for result, image, values in zip(batch.images, images.images.numpy(), drawn, strict=True):
        expected = torch.from_numpy(changed_naively(image, augment, values)).float() / 255
        assert torch.equal(result, expected.expand(3, -1, -1))


def test_what_is_drawn_has_its_distribution() -> None:
    count, height, width = 20_000, 32, 24
    augment = Augmentation(padding=2, flip=0.3, erase=0.6)
    top, left, flipped, first_row, end_row, first_column, end_column, *colour = augment.draw(
        3, 1, 0, count, height, width
    ).T.numpy()
    # Five standard deviations of a share estimated from 20,000 draws are below 0.018.
    for corner in (top, left):
        assert np.bincount(corner + 2).tolist() == pytest.approx([count / 5] * 5, abs=0.018 * count)
    assert flipped.mean() == pytest.approx(0.3, abs=0.018)
    assert np.unique(flipped).tolist() == [0, 1]
    area = (end_row - first_row) * (end_column - first_column)
    erased = area > 0
    assert erased.mean() == pytest.approx(0.6, abs=0.018)
    assert min(first_row.min(), first_column.min()) == 0
    assert end_row[erased].max() == height
    assert end_column[erased].max() == width
    # Sides are whole numbers, so small areas are off by a tenth or more.
    assert 0.015 * height * width < area[erased].min() < 0.025 * height * width
    assert 0.32 * height * width < area.max() < 0.36 * height * width
    assert np.bincount(np.concatenate(colour), minlength=256).min() > 0
    assert max(map(np.max, colour)) == 255


def test_each_image_has_chances_of_its_own() -> None:
    drawn = Augmentation(erase=1.0).draw(0, 0, 0, 1000, 32, 32).double()
    correlation = torch.corrcoef(drawn.T[[0, 1, 2, 7, 8, 9]])
    # Five standard deviations of a correlation of 1,000 independent pairs.
    assert (correlation - torch.eye(6)).abs().max() < 5 / 1000**0.5
    assert (drawn[1:] == drawn[:-1]).all(dim=1).sum() == 0


def test_no_augmentation_leaves_images_as_they_are() -> None:
    plain = take(RESIDENT, augment=None)
    assert torch.equal(plain[0].images, RESIDENT.images.float() / 255)
    assert torch.equal(plain[0].labels, RESIDENT.labels)
    assert torch.equal(plain[0].indices, torch.arange(40))
    assert_same(take(RESIDENT, augment=Augmentation("none")), plain)
    assert_same(take(RESIDENT, augment=Augmentation(padding=0, flip=0.0)), plain)
    whole = Augmentation("random_resized_crop", flip=0.0, scale=(1.0, 1.0), ratio=(7 / 9, 7 / 9))
    assert_same(take(RESIDENT, augment=whole), plain)


# Independence of start and share


@given(
    order=st.lists(st.integers(0, 39), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    world=st.integers(1, 4),
    start=st.integers(0, 70),
    seed=SEEDS,
)
@settings(max_examples=80)
def test_any_start_and_share_gives_the_same_images(
    order: list[int], batch_size: int, world: int, start: int, seed: int
) -> None:
    world = min(world, batch_size)
    places = torch.tensor(order)
    options: dict[str, Any] = {"augment": Augmentation(erase=0.5), "seed": seed}
    whole = take(RESIDENT, places, batch_size, **options)
    assert torch.equal(torch.cat([batch.indices for batch in whole]), places)
    assert [len(batch.images) for batch in whole[:-1]] == [batch_size] * (len(whole) - 1)
    assert_same(take(RESIDENT, places, batch_size, start=start, **options), whole[start:])
    shares = [take(RESIDENT, places, batch_size, start=start, rank=r, world=world, **options) for r in range(world)]
    for batch, *parts in zip(whole[start:], *shares, strict=True):
        assert [len(part.labels) for part in parts] == [
            len(s) for s in np.array_split(np.arange(len(batch.labels)), world)
        ]
        for tensor, *pieces in zip(batch, *parts, strict=True):
            assert torch.equal(torch.cat(pieces), tensor)


def test_seed_and_batch_decide() -> None:
    order = torch.zeros(20, dtype=torch.int64)
    first, second = take(RESIDENT, order, 10)
    other, _ = take(RESIDENT, order, 10, seed=1)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation("random_resized_crop", color_jitter=0.4, erase=0.3),
        Augmentation(auto_augment="rand-m9-mstd0.5", padding=1),
        Augmentation("random_resized_crop", auto_augment="augmix-m5-w2"),
    ],
)
def test_what_timm_draws_is_decided_alike(folder: Path, augment: Augmentation) -> None:
    images = streamed(folder)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:22]
    before = random_state()
    whole = take(images, order, 10, augment=augment)
    assert random_state() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert_same(take(images, order, 10, augment=augment, start=1), whole[1:])
    shares = [take(images, order, 10, augment=augment, rank=rank, world=3) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    plain = take(images, order, 10, augment=None)
    assert not torch.equal(whole[0].images, plain[0].images)
    assert torch.equal(whole[0].labels, plain[0].labels)
    again = take(images, torch.zeros(2, dtype=torch.int64), augment=augment)[0].images
    assert not torch.equal(again[0], again[1])


def test_global_random_state_is_left_alone() -> None:
    before = random_state()
    take(RESIDENT, batch_size=8, augment=Augmentation(erase=0.5))
    assert random_state() == before


# Streamed sets


@pytest.mark.parametrize("augment", [None, Augmentation(padding=2, erase=0.5), Augmentation(auto_augment="original")])
def test_a_streamed_set_gives_what_a_resident_one_gives(folder: Path, augment: Augmentation | None) -> None:
    images = streamed(folder)
    order = torch.arange(40).flip(0)
    assert_same(take(images, order, 16, augment=augment), take(in_memory(images), order, 16, augment=augment))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12's, of fork
def test_worker_processes_change_nothing_but_the_time(folder: Path) -> None:
    augment = Augmentation("random_resized_crop", color_jitter=0.4)
    before = random_state()
    by_workers = take(streamed(folder, workers=2), None, 9, augment=augment)
    assert random_state() == before
    alone = streamed(folder)
    assert_same(by_workers, take(alone, None, 9, augment=augment))
    small = in_memory(alone)
    small.workers = 2
    assert_same(take(small, None, 9, augment=augment), take(in_memory(alone), None, 9, augment=augment))


def test_resizing_crops_take_the_whole_image_not_its_middle(folder: Path) -> None:
    images = streamed(folder, image_size=10)
    whole = Augmentation("random_resized_crop", flip=0.0, scale=(1.0, 1.0), ratio=(1.2, 1.2))
    result = take(images, torch.tensor([0]), augment=whole)[0].images[0]
    with Image.open(folder / "0" / "00.png") as file:
        assert file.size == (12, 10)
        expected = np.array(file.resize((10, 10), Image.Resampling.BICUBIC))
    assert torch.equal(result, torch.from_numpy(expected).permute(2, 0, 1).float() / 255)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"no picture", b""])
def test_an_unreadable_image_is_named_and_not_replaced(tmp_path: Path, workers: int, content: bytes) -> None:
    for i in range(12):
        path = tmp_path / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    images = streamed(tmp_path, workers, image_size=None)
    (tmp_path / "a" / "04.png").write_bytes(content)  # the third in the set
    batches = images.batches(torch.arange(12), 2, device=CPU, augment=None, seed=0)
    with pytest.raises(DataError, match=r"^Cannot read '.*/a/04\.png' of split 'train' of 'folder'[^\n]*$"):
        list(batches)
    assert len(take(images, None, 2, augment=None, start=2)) == 4


def test_a_cut_off_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a" / "0.png"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    by_timm = streamed(tmp_path)
    by_torchvision = StreamedSet(open_data_set("torch/folder", tmp_path, "train", download=False), np.arange(1), 8)
    by_torchvision.workers = 0
    path.write_bytes(path.read_bytes()[:300])
    for images in (by_timm, by_torchvision):
        with pytest.raises(DataError, match=r"Cannot read '.*/a/0\.png' .*truncated"):
            take(images)


def test_images_of_different_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"differ in size: 3 x 10 x 12 and 3 x 12 x 12 .*; give image_size"):
        take(streamed(folder, image_size=None), None, 5)


@pytest.mark.faults
def test_sets_travel_to_other_processes(folder: Path) -> None:
    for images in (RESIDENT, streamed(folder)):
        assert_same(take(pickle.loads(pickle.dumps(images))), take(images))


def test_fingerprints_tell_sets_apart(folder: Path) -> None:
    other = resident()
    assert other.fingerprint() == RESIDENT.fingerprint()
    other.images[3, 0, 0, 0] ^= 1
    assert other.fingerprint() != RESIDENT.fingerprint()
    relabelled = ResidentSet(RESIDENT.images, RESIDENT.labels.flip(0))
    assert relabelled.fingerprint() != RESIDENT.fingerprint()
    data = open_data_set("folder", folder, "train", download=False)
    whole = StreamedSet(data, np.arange(40), 8)
    assert whole.fingerprint() == streamed(folder).fingerprint()
    others = (StreamedSet(data, np.arange(39), 8), StreamedSet(data, np.arange(40)[::-1], 8), streamed(folder, 0, 9))
    assert len({images.fingerprint() for images in (whole, *others)}) == 4


@pytest.mark.parametrize("name", ["folder", "torch/folder"])
def test_fingerprints_of_streamed_sets_are_of_the_names_of_files(name: str, folder: Path, tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str:
        return StreamedSet(open_data_set(name, root, "train", download=False), np.arange(40), 8).fingerprint()

    moved = shutil.copytree(folder, tmp_path / "moved")
    assert fingerprint(moved) == fingerprint(folder)
    (moved / "0" / "00.png").rename(moved / "0" / "000.png")
    assert fingerprint(moved) != fingerprint(folder)


def test_a_long_order_takes_no_memory_for_each_image(folder: Path) -> None:
    images, order = streamed(folder), torch.arange(40).repeat(5000)
    tracemalloc.start()
    try:
        next(images.batches(order, 50, device=CPU, augment=None, seed=0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(order)  # an integer object takes 28 bytes and more, and a place in a list 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_on_the_cpu(folder: Path, workers: int) -> None:
    augment = Augmentation(padding=2, erase=0.5)
    for images in (RESIDENT, streamed(folder, workers)):
        for _ in range(2):
            on_gpu = take(images, None, 16, augment=augment, device=torch.device("cuda"))
            assert {tensor.device.type for batch in on_gpu for tensor in batch} == {"cuda"}
            moved = [Images(*(tensor.cpu() for tensor in batch)) for batch in on_gpu]
            for one, other in zip(moved, take(images, None, 16, augment=augment), strict=True):
                # The last bit of a division may be rounded differently on the GPU.
                torch.testing.assert_close(one.images, other.images, rtol=1e-6, atol=0)
                assert torch.equal(one.labels, other.labels)
                assert torch.equal(one.indices, other.indices)


# Bad requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "crop"}, "Unknown augmentation 'crop'. Known: crop_flip, random_resized_crop, none"),
        ({"padding": -1}, "padding is -1"),
        ({"flip": 1.5}, "flip is 1.5; it must be a probability"),
        ({"erase": float("nan")}, "erase is nan"),
        ({"color_jitter": -0.1}, "color_jitter is -0.1"),
        ({"scale": (0.5, 1.2)}, r"scale is \(0.5, 1.2\); .* at most 1"),
        ({"scale": (0.0, 1.0)}, "above 0"),
        ({"ratio": (2.0, 1.0)}, "the smaller one first"),
        ({"ratio": (1.0, float("inf"))}, "two numbers above 0"),
        ({"kind": "none", "erase": 0.5}, "'none' changes nothing"),
        ({"auto_augment": "rnad-m9"}, "auto_augment is 'rnad-m9', which timm does not accept"),
        ({"auto_augment": "rand-q9"}, "auto_augment is 'rand-q9'"),
    ],
)
def test_impossible_augmentations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 3, "world": 4}, "batch_size is 3; it must be a whole number of at least 4"),
        ({"world": 0}, "world is 0"),
        ({"rank": 2, "world": 2}, "rank is 2; with 2 processes it must lie between 0 and 1"),
        ({"start": -1}, "start is -1"),
        ({"order": torch.tensor([0, 40])}, "places between 0 and 39"),
        ({"order": torch.tensor([-1])}, "places between 0 and 39"),
        ({"order": torch.tensor([0.0])}, "order is torch.float32 .* it must be one-dimensional, int64"),
    ],
)
def test_impossible_batches_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    usual = {"order": torch.arange(40), "batch_size": 8, "device": CPU, "augment": None, "seed": 0}
    arguments: dict[str, Any] = usual | options
    with pytest.raises(DataError, match=message):
        RESIDENT.batches(**arguments)


def test_an_empty_order_gives_no_batches() -> None:
    assert take(RESIDENT, torch.empty(0, dtype=torch.int64), 4) == []


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (RESIDENT.images.float(), RESIDENT.labels, "are torch.float32 .* must be uint8"),
        (RESIDENT.images[:, :2], RESIDENT.labels, r"shape \(40, 2, 9, 7\)"),
        (RESIDENT.images[:0], RESIDENT.labels[:0], r"shape \(0, 3, 9, 7\)"),
        (RESIDENT.images, RESIDENT.labels[:39], r"Labels of images are torch.int64 with the shape \(39,\)"),
        (RESIDENT.images, RESIDENT.labels.int(), "Labels of images are torch.int32"),
    ],
)
def test_bad_tensors_are_refused(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ResidentSet(images, labels)
