"""Probes: the images drawn, their normalisation, and the errors for bad input."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import tarfile
import warnings
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
from diswot_search.data.probe import Probe, create_probe, create_probes
from diswot_search.testing.randomness import random_state
from search_spaces.option_types import OptionTypeError

SEEDS = st.integers(0, 10_000)


def raw(name: str, **options: Any) -> Probe:
    """A probe whose pixels stay between 0 and 1."""
    return create_probe(name, mean=0.0, std=1.0, **options)


def counts(probe: Probe) -> list[int]:
    return torch.bincount(probe.labels, minlength=probe.num_classes).tolist()


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 90 grey 4 x 4 images, each filled with its own index; class = index mod 6, test mod 3."""
    index = np.arange(90, dtype=np.uint8)
    images = np.broadcast_to(index[:, None, None], (90, 4, 4))
    path = tmp_path_factory.mktemp("numbered") / "numbered.npz"
    np.savez(path, train_images=images, train_labels=index % 6, test_images=images, test_labels=index % 3)
    return path


def save(path: Path, **members: Any) -> str:
    """An archive of 20 random RGB images of 4 classes; `members` replace its own."""
    rng = np.random.default_rng(0)
    own = {"train_images": rng.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8), "train_labels": np.arange(20) % 4}
    merged: dict[str, Any] = {**own, **members}
    np.savez(path, **merged)
    return str(path)


# Drawing


@given(SEEDS, SEEDS, st.booleans())
@settings(max_examples=15)
def test_the_seed_alone_decides_the_probe(seed: int, other: int, balanced: bool) -> None:
    first, again, second = (create_probe(seed=s, balanced=balanced) for s in (seed, seed, other))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert first.fingerprint == again.fingerprint
    assert (first.fingerprint == second.fingerprint) == (seed == other)
    assert torch.equal(first.images, second.images) == (seed == other)


@given(SEEDS, st.integers(2, 90), st.booleans())
@settings(max_examples=40)
def test_images_are_distinct_and_keep_their_labels(numbered: Path, seed: int, batch_size: int, balanced: bool) -> None:
    probe = raw(str(numbered), seed=seed, batch_size=batch_size, balanced=balanced)
    indices = (probe.images * 255).round().to(torch.int64)[:, 0, 0, 0]
    assert probe.images.shape == (batch_size, 3, 4, 4)
    assert len(indices.unique()) == batch_size
    assert torch.equal(indices % 6, probe.labels)
    if balanced:
        assert max(counts(probe)) - min(counts(probe)) <= 1


def test_classes_and_order_are_random(numbered: Path) -> None:
    probes = create_probes(str(numbered), 40, batch_size=4)
    assert set(torch.cat([p.labels for p in probes]).tolist()) == set(range(6))
    assert any(p.labels.tolist() != sorted(p.labels.tolist()) for p in probes)
    assert len({tuple(sorted(p.labels.tolist())) for p in probes}) > 1


def test_unbalanced_draws_follow_the_data(tmp_path: Path) -> None:
    path = save(tmp_path / "skewed.npz", train_labels=np.array([0] * 18 + [1] * 2))
    assert counts(create_probe(path, batch_size=20, balanced=False)) == [18, 2]
    with pytest.raises(DataError, match=r"too few images for a balanced batch of 8 in the classes 1 \(2 of 4\)"):
        create_probe(path, batch_size=8)


@pytest.mark.parametrize("options", [{"name": "digits"}, {"name": "noise", "num_classes": 5, "balanced": False}])
def test_global_random_state_is_left_alone(options: dict[str, Any]) -> None:
    before = random_state()
    probe = create_probe(**options)
    assert random_state() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert create_probe(**options).fingerprint == probe.fingerprint


def test_several_probes_are_those_of_successive_seeds() -> None:
    probes = create_probes("digits", 3, seed=5, batch_size=20)
    assert [p.fingerprint for p in probes] == [create_probe(seed=s, batch_size=20).fingerprint for s in (5, 6, 7)]
    assert [p.origin["seed"] for p in probes] == [5, 6, 7]


# Normalisation


def test_digits_are_whole_and_known() -> None:
    probe = create_probe()
    assert probe.input_size == (3, 32, 32)
    assert probe.images.dtype == torch.float32
    assert probe.labels.dtype == torch.int64
    assert probe.num_classes == 10
    assert sorted(counts(probe)) == [6] * 6 + [7] * 4
    pixels = raw("digits", image_size=8, batch_size=1797, balanced=False).images
    assert pixels.mean().item() == pytest.approx(probe.origin["mean"][0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(probe.origin["std"][0], abs=1e-4)


def test_a_study_knows_its_digits_again_after_an_upgrade() -> None:
    assert create_probe().fingerprint == "592bb2370a317189c0c0dc46317098521c2407fb43838579c9fc10eed3a26451"


def test_resizing_agrees_with_pillow(tmp_path: Path) -> None:
    # The contrast is low, because Pillow clips between its two passes.
    images = np.random.default_rng(1).integers(90, 160, (2, 9, 9, 3), dtype=np.uint8)
    path = save(tmp_path / "a.npz", train_images=images, train_labels=np.array([0, 1]))
    for size in (5, 9, 16):
        probe = raw(path, batch_size=2, image_size=size)
        for image, label in zip(probe.images, probe.labels, strict=True):
            by_pillow = Image.fromarray(images[label]).resize((size, size), Image.Resampling.BICUBIC)
            expected = torch.from_numpy(np.array(by_pillow)).permute(2, 0, 1) / 255
            assert (image - expected).abs().max() < 2 / 255


def test_a_wide_image_loses_its_sides(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 8, 3), dtype=np.uint8)
    images[:, :, 2:6] = 255
    path = save(tmp_path / "wide.npz", train_images=images, train_labels=np.array([0, 1]))
    assert raw(path, batch_size=2, image_size=4).images.eq(1).all()
    assert raw(path, batch_size=2).input_size == (3, 4, 8)


def test_statistics_are_the_users_or_those_of_the_data_set_or_the_probe(tmp_path: Path) -> None:
    cifar, other = save(tmp_path / "cifar10-small.npz"), save(tmp_path / "mine.npz")
    options: dict[str, Any] = {"batch_size": 12}
    assert create_probe(cifar, **options).origin["statistics"] == "cifar10"
    own = create_probe(other, **options)
    assert own.origin["statistics"] == "probe"
    std, mean = torch.std_mean(own.images, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-4, rtol=0)
    custom = create_probe(cifar, mean=0.5, std=(0.1, 0.2, 0.4), **options)
    assert custom.origin["statistics"] == "given"
    expected = (raw(cifar, **options).images - 0.5) / torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(custom.images, expected)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first, copy = save(tmp_path / "mine.npz"), save(tmp_path / "copy.npz")
    options: dict[str, Any] = {"batch_size": 8, "image_size": 6}
    fingerprint = create_probe(first, **options).fingerprint
    assert create_probe(copy, **options).fingerprint == fingerprint
    changed: list[dict[str, Any]] = [
        {"image_size": 8},
        {"mean": 0.5, "std": 0.5},
        {"num_classes": 5, "balanced": False},
        {"batch_size": 9},
    ]
    others = {create_probe(first, **(options | change)).fingerprint for change in changed}
    assert len(others | {fingerprint}) == 1 + len(changed)


def test_config_is_json_and_complete() -> None:
    probe = create_probe(batch_size=20, seed=3, balanced=False)
    config = json.loads(json.dumps(probe.config()))
    assert config == probe.config()
    assert config["fingerprint"] == probe.fingerprint
    assert config["input_size"] == [3, 32, 32]
    expected = {"name": "digits", "split": "train", "batch_size": 20, "seed": 3, "balanced": False, "image_size": 32}
    assert expected.items() <= config.items()


# Noise and user tensors


def test_noise_is_standard_normal_with_even_labels() -> None:
    probe = create_probe("noise", num_classes=10, batch_size=64, image_size=16)
    assert probe.input_size == (3, 16, 16)
    assert abs(probe.images.mean()) < 0.02
    assert abs(probe.images.std() - 1) < 0.02
    assert sorted(counts(probe)) == [6] * 6 + [7] * 4
    assert create_probe("noise", num_classes=10, seed=1, image_size=16).fingerprint != probe.fingerprint
    few = create_probe("noise", num_classes=100, batch_size=8)
    assert len(few.labels.unique()) == 8


def test_user_tensors_become_a_probe() -> None:
    images, labels = torch.randn(4, 1, 5, 7, dtype=torch.float64), torch.tensor([0, 3, 1, 1], dtype=torch.int32)
    probe = Probe.from_tensors(images, labels, name="mine")
    assert (probe.num_classes, probe.name, probe.input_size) == (4, "mine", (1, 5, 7))
    assert (probe.images.dtype, probe.labels.dtype) == (torch.float32, torch.int64)
    assert Probe.from_tensors(images, labels, 9).num_classes == 9
    assert Probe.from_tensors(images, labels).fingerprint == probe.fingerprint
    assert Probe.from_tensors(images + 1, labels).fingerprint != probe.fingerprint
    json.dumps(probe.config())
    copy = probe.images.clone()
    images.zero_()
    assert torch.equal(probe.images, copy)


IMAGES, LABELS = torch.zeros(4, 3, 2, 2), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("images", "labels", "num_classes", "message"),
    [
        (IMAGES[0], LABELS, None, r"shape \(3, 2, 2\); it must be \(batch, channels, height, width\)"),
        (IMAGES[:, :0], LABELS, None, r"shape \(4, 0, 2, 2\)"),
        (IMAGES.byte(), LABELS, None, "are torch.uint8; they must be floating point"),
        (IMAGES[:1], LABELS[:1], None, "The batch size of 'tensors' is 1; .* at least 2"),
        (IMAGES.index_fill(0, torch.tensor([2]), torch.nan), LABELS, None, "are NaN or infinite in 1 images: 2"),
        (IMAGES + torch.inf, LABELS, None, "are NaN or infinite in 4 images: 0, 1, 2, 3"),
        (IMAGES, LABELS[:3], None, r"Labels of 'tensors' are torch.int64 with the shape \(3,\)"),
        (IMAGES, LABELS.float(), None, "Labels of 'tensors' are torch.float32"),
        (IMAGES, LABELS, 2, "run from 0 to 2; with 2 classes they must lie between 0 and 1"),
        (IMAGES, LABELS - 1, None, "run from -1 to 1"),
        (IMAGES, LABELS, 0, "num_classes is 0"),
    ],
)
def test_bad_tensors_are_refused(images: Any, labels: Any, num_classes: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Probe.from_tensors(images, labels, num_classes)


def test_a_probe_cannot_be_made_invalid() -> None:
    with pytest.raises(DataError, match="run from 0 to 9; with 3 classes"):
        dataclasses.replace(create_probe(), num_classes=3)


# Bad requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digit"}, "Unknown data set 'digit'. Did you mean 'digits'?"),
        ({"name": "torch/cifar1000", "root": "."}, "Did you mean 'torch/cifar100'"),
        ({"name": "tourch/cifar10"}, "Did you mean 'torch/cifar10'"),
        ({"name": "hfds/"}, "Unknown data set 'hfds/'"),
        ({"name": "torch/cifar10"}, "'torch/cifar10' needs root"),
        ({"name": "torch/svhn"}, "'torch/svhn' needs root"),
        ({"name": "torch/cifar10", "root": "no/such"}, "folder 'no/such' .* does not exist"),
        ({"name": "folder"}, "'folder' needs root"),
        ({"name": ""}, "'folder' needs root"),
        ({"name": "folder/no/such"}, "does not exist"),
        ({"split": "test"}, "Unknown split 'test' of 'digits'"),
        ({"name": "noise"}, "give num_classes"),
        ({"name": "noise", "num_classes": 3, "mean": 0.0, "std": 1.0}, "do not apply"),
        ({"batch_size": 1}, "batch_size is 1; it must be a whole number of at least 2"),
        ({"batch_size": 8.0}, "batch_size is 8.0"),
        ({"batch_size": 1798}, "batch_size is 1798, but 'digits' has only 1797 images"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 9}, "run from 0 to 9; with 9 classes they must lie between 0 and 8"),
        ({"num_classes": 12}, "no images of 2 of its 12 classes: 10, 11"),
        ({"num_classes": 60}, "classes: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 40 more"),
        ({"mean": 0.5}, "give both or neither"),
        ({"mean": (0.1, 0.2), "std": 1.0}, "one or three finite numbers"),
        ({"mean": 0.5, "std": 0.0}, "std is 0.0; .* above 0"),
        ({"mean": float("nan"), "std": 1.0}, "mean is nan"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, OptionTypeError), match=message):
        create_probe(**options)


def test_a_count_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match="count is 0"):
        create_probes("digits", 0)


RANDOM = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"train_images": RANDOM[:, :, 0, 0]}, r"shape \(20, 6\)"),
        ({"train_images": RANDOM[..., :2]}, r"shape \(20, 6, 6, 2\); .* \(1 or 3\)"),
        ({"train_images": RANDOM.astype(np.float32)}, "are float32; they must be uint8"),
        ({"train_images": np.full(RANDOM.shape, np.nan)}, "float64 with NaN or infinite values"),
        ({"train_images": RANDOM.astype(object)}, "Object arrays cannot be loaded"),
        ({"train_images": RANDOM[:19]}, r"int64 with the shape \(20,\); .* 19 images"),
        ({"train_images": RANDOM[:0], "train_labels": np.arange(0)}, "has only 0 images"),
        ({"train_images": np.zeros_like(RANDOM)}, "A channel is constant over all drawn images of"),
        ({"train_labels": np.arange(20) % 4 - 1}, "run from -1 to 2"),
        ({"train_labels": np.arange(20) * 0.5}, "Labels of .* are float64"),
        ({"train_labels": np.arange(20) % 4 * 2}, "no images of 3 of its 7 classes: 1, 3, 5"),
    ],
)
def test_bad_archives_are_refused(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        create_probe(save(tmp_path / "bad.npz", **members), batch_size=8)


def test_files_that_are_not_archives_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.npz")
    for name, content in (("empty", b""), ("text", b"PK is no zip"), ("cut", Path(good).read_bytes()[:1000])):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(DataError, match=f"Cannot read .*{name}.npz") as error:
            create_probe(f"{name}.npz", root=tmp_path)
        assert "pickle" not in str(error.value)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(DataError, match=r"it has no members\. Its splits: none"):
        create_probe("empty.npz", root=tmp_path)
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, RANDOM)
    with pytest.raises(DataError, match="single array"):
        create_probe("single.npz", root=tmp_path)


def test_missing_files_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its folder has no other .npz file"):
        create_probe("goood.npz", root=tmp_path)
    save(tmp_path / "good.npz", test_images=RANDOM)
    with pytest.raises(DataError, match=r"Did you mean '.*good.npz'"):
        create_probe("goood.npz", root=tmp_path)
    with pytest.raises(DataError, match=r"'test_labels' are needed, but it has .*test_images.* Its splits: train\."):
        create_probe("good.npz", root=tmp_path, split="test")


def test_labels_in_a_column_and_other_splits(tmp_path: Path, numbered: Path) -> None:
    path = save(tmp_path / "keras.npz", train_labels=(np.arange(20) % 4)[:, None])
    assert counts(create_probe(path, batch_size=8)) == [2, 2, 2, 2]
    assert create_probe(str(numbered), split="test", batch_size=9).num_classes == 3


# timm and torchvision


def write_images(folder: Path, classes: str = "abc", each: int = 4, suffix: str = "png") -> Path:
    """Write one sub-folder per class; pixels encode the class (red) and the image (green)."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.zeros((8 + i, 10, 3), dtype=np.uint8) + np.array([80 * label, 60 * i, 0], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.{suffix}")
    return folder


def assert_true_to_folder(probe: Probe, num_classes: int = 3) -> None:
    """Check that labels fit their images and that all images differ."""
    red, green = (probe.images[:, :2, 3, 3] * 255).round().T
    assert torch.equal(red, 80.0 * probe.labels)
    assert len(set(zip(red.tolist(), green.tolist(), strict=True))) == len(probe.labels)
    assert probe.num_classes == num_classes


def test_image_folders_by_timm_and_torchvision(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", classes="ab")
    before = random_state()
    options: dict[str, Any] = {"batch_size": 6, "image_size": 6}
    probes = [
        raw("folder", root=tmp_path, **options),
        raw("", root=tmp_path, **options),
        raw("folder/train", root=tmp_path, **options),
        raw(f"folder/{tmp_path}", split="training", **options),
        raw("torch/image_folder", root=tmp_path, **options),
    ]
    for probe in probes:
        assert_true_to_folder(probe)
        assert counts(probe) == [2, 2, 2]
    assert len({p.fingerprint for p in probes}) == 1
    assert random_state() == before
    assert_true_to_folder(raw("folder", root=tmp_path, split="validation", **options), num_classes=2)
    assert create_probe("folder", root=tmp_path, **options).origin["statistics"] == "imagenet"
    with pytest.raises(DataError, match=r"differ in size: .*; give image_size"):
        create_probe("folder", root=tmp_path, batch_size=6)
    with pytest.raises(DataError, match=r"'vall'. Did you mean 'val'"):
        create_probe("folder", root=tmp_path, split="vall", **options)
    with pytest.raises(DataError, match=r"'test'. Known: train, val"):
        create_probe("folder", root=tmp_path, split="test", **options)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves the tar file open
def test_a_tar_file_of_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, arcname=".")
    assert_true_to_folder(raw("folder/images.tar", root=tmp_path, batch_size=6, image_size=6))
    (tmp_path / "images.zip").touch()
    with pytest.raises(DataError, match=r"is a file; it must be a folder of images, or a .tar file"):
        create_probe("folder/images.zip", root=tmp_path)
    with pytest.raises(DataError, match="Did you mean 'train'"):
        create_probe("folder/images.tar", root=tmp_path, split="tain")


def test_only_the_chosen_images_are_decoded(tmp_path: Path) -> None:
    (write_images(tmp_path / "images") / "b" / "2.png").write_bytes(b"no picture")
    outcomes = set()
    for seed in range(12):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            probe = raw("folder/images", root=tmp_path, seed=seed, batch_size=6, image_size=6)
        assert_true_to_folder(probe)
        outcomes.add(" ".join(str(each.message).partition("': ")[2] for each in caught))
    left_out = "1 image cannot be read and is left out: b/2.png (it is no picture)."
    assert outcomes == {"", left_out}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Found 0 images"):
        create_probe("folder", root=tmp_path)


def write_idx(path: Path, array: np.ndarray, kind: int) -> None:
    """The format of MNIST's files: a type code, the shape, then big-endian values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


def test_mnist_of_torchvision(tmp_path: Path) -> None:
    index = np.arange(40, dtype=np.uint8)
    images = np.broadcast_to(index[:, None, None], (40, 28, 28))
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", images, kind=8)
        write_idx(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", index % 10, kind=8)
    for split in ("train", "test"):
        probe = raw("torch/mnist", root=tmp_path, split=split, batch_size=20)
        assert torch.equal((probe.images[:, 0, 0, 0] * 255).round().long() % 10, probe.labels)
        assert counts(probe) == [2] * 10
    assert create_probe("torch/mnist", root=tmp_path, batch_size=20).origin["statistics"] == "mnist"
    with pytest.raises(DataError, match=r"Unknown split 'tset'. Did you mean 'test'"):
        create_probe("torch/mnist", root=tmp_path, split="tset")
    with pytest.raises(DataError, match=r"Cannot read .*'torch/kmnist'.* download=True"):
        create_probe("torch/kmnist", root=tmp_path)


@pytest.mark.parametrize("limit", [40, 25])
def test_labels_that_only_come_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """QMNIST stores eight values for each image; one of them is the label."""
    index = np.arange(40)
    images = np.broadcast_to(index.astype(np.uint8)[:, None, None], (40, 28, 28))
    write_idx(tmp_path / "QMNIST/raw/qmnist-train-images-idx3-ubyte", images, kind=8)
    write_idx(tmp_path / "QMNIST/raw/qmnist-train-labels-idx2-int", np.stack([index // 4] * 8, 1, dtype="i4"), kind=12)
    monkeypatch.setattr("diswot_search.data.with_timm.UNLABELLED_LIMIT", limit)
    probe = raw("torch/qmnist", root=tmp_path, batch_size=20)
    assert torch.equal((probe.images[:, 0, 0, 0] * 255).round().long() // 4, probe.labels)
    assert counts(probe) == [2] * 10


def test_any_image_classes_of_torchvision(tmp_path: Path) -> None:
    write_images(tmp_path / "eurosat" / "2750", suffix="png")
    options: dict[str, Any] = {"root": tmp_path, "batch_size": 6, "image_size": 6}
    assert_true_to_folder(raw("torch/eurosat", **options))
    with pytest.raises(DataError, match="Unknown split 'test' of 'torch/eurosat'"):
        create_probe("torch/eurosat", split="test", **options)
    with pytest.raises(DataError, match=r"Cannot read .*'torch/svhn'.* Valid values are"):
        create_probe("torch/svhn", split="tain", **options)
    with pytest.raises(DataError, match=r"Cannot read .*'torch/phototour'"):
        create_probe("torch/phototour", **options)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Make `wds/any` a stream of grey images with the labels passed to it; image i is filled with i."""
    import timm.data

    class Reader:
        def __init__(self, labels: list[int]) -> None:
            self.labels = labels

        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            return ((Image.new("L", (4, 4), i), label) for i, label in enumerate(self.labels))

    def serve(labels: list[int]) -> None:
        opened = timm.data.IterableImageDataset(None, reader=Reader(labels))
        monkeypatch.setattr(timm.data, "create_dataset", lambda *_, **__: opened)

    return serve


def test_a_stream_is_read_up_to_a_limit(stream: Callable[[list[int]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diswot_search.data.with_timm.UNLABELLED_LIMIT", 12)
    stream([i % 4 for i in range(12)] + [4] * 20)
    probe = raw("wds/any", batch_size=8)
    assert torch.equal((probe.images[:, 0, 0, 0] * 255).round().long() % 4, probe.labels)
    assert counts(probe) == [2] * 4
    with pytest.raises(DataError, match="has only 12 images"):
        create_probe("wds/any", batch_size=13)
    with pytest.raises(DataError, match="no images of 1 of its 5 classes: 4"):
        create_probe("wds/any", num_classes=5, batch_size=8)
    assert sorted(raw("wds/any", num_classes=5, batch_size=4).labels.tolist()) == [0, 1, 2, 3]


def test_a_short_stream_is_known_in_full(stream: Callable[[list[int]], None]) -> None:
    stream([0, 1, 3] * 4)
    with pytest.raises(DataError, match="no images of 1 of its 4 classes: 2"):
        create_probe("wds/any", batch_size=3)
    stream([0, 1, None] * 4)  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"Labels of .* are NoneType; they must be integers"):
        create_probe("wds/any", batch_size=3)


def test_a_stream_that_changes_is_refused(stream: Callable[[list[int]], None]) -> None:
    class Changing(list[int]):
        """Each pass reads the next of several lists."""

        def __init__(self, *passes: list[int]) -> None:
            self.passes = iter(passes)

        def __iter__(self) -> Iterator[int]:
            return iter(next(self.passes))

    stream(Changing([0, 1] * 6, [1, 0] * 6))
    with pytest.raises(DataError, match=r"Labels of .* changed between two reads"):
        create_probe("wds/any", batch_size=12)
    stream(Changing([0, 1] * 6, [0, 1] * 5))
    with pytest.raises(DataError, match="the stream is shorter than it was"):
        create_probe("wds/any", batch_size=12)


# Real data sets, and the imports that they need


@pytest.mark.parametrize(("name", "side", "statistics"), [("mnist.npz", 28, "mnist"), ("usps.npz", 16, "probe")])
def test_real_archives(shared_data: Path, name: str, side: int, statistics: str) -> None:
    for split in ("train", "test"):
        probe = create_probe(name, root=shared_data, split=split, batch_size=100)
        assert probe.input_size == (3, side, side)
        assert counts(probe) == [10] * 10
        assert probe.origin["statistics"] == statistics
        assert abs(probe.images.mean()) < 0.1
        assert abs(probe.images.std() - 1) < 0.1
    assert create_probe(name, root=shared_data, image_size=32).input_size == (3, 32, 32)
