"""Data sets that timm or torchvision read: torchvision's sets, and streams."""

from __future__ import annotations

import inspect
import itertools
import operator
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from .data_set import DataSet, ListReader, OpenRequest, Whole, imagenet_statistics, known_statistics
from .errors import DataError, unknown_data
from .images import square
from .inventory import Inventory, inventory_of_arrays
from .pictures import DeepGreyError, GreyRange, rgb_pixels
from .split_names import EVAL_SPLITS, TRAIN_SPLITS

UNLABELLED_LIMIT = 4096
"""Number of samples read for their labels when a data set cannot give a label without decoding its image."""


_MEASURED = 16
"""Number of evenly spaced images that are decoded for their sizes."""


_TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")


_TIMM_TORCH_NAMES = (*_TRAIN_AND_TEST, "imagenet", "places365", "inaturalist", "inat", "image_folder", "folder")
"""Names that `timm.data.create_dataset` accepts after `torch/`."""


# Opening: data sets that timm or torchvision reads


def open_with_timm(name: str, root: Path | None, split: str, title: str, request: OpenRequest) -> DataSet:
    reader: Callable[[np.ndarray], list[np.ndarray]]
    files, complete, whole = None, True, request.whole
    with _naming(title):
        dataset = _create_dataset(name, root, split, request.download)
        stream = isinstance(dataset, IterableDataset)
        if stream and whole is not None:
            images, labels = _read_stream(dataset, whole, title, request.grey_range)
            reader = ListReader(images)
        else:
            limit = None if whole else UNLABELLED_LIMIT
            positions, labels, complete = (_labels_of_stream if stream else _labels_of)(dataset, limit, title)
            reader = _Reader(dataset, positions, labels, title, request.grey_range)
            files = reader.files if _has_files(dataset) else None
    statistics = known_statistics(name) or imagenet_statistics()
    classes = _class_names(dataset)
    count = len(classes) if classes else int(labels.max(initial=-1)) + 1
    inventory = _measured(title, reader, len(labels)) if whole else None
    return DataSet(title, labels, reader, count, statistics, complete, classes, stream, files, inventory)


def _measured(title: str, reader: Callable[[np.ndarray], list[np.ndarray]], count: int) -> Inventory:
    """What a few images of the data set show; those of a stream are resized already."""
    chosen = np.unique(np.linspace(0, count - 1, _MEASURED).round().astype(int)) if count else np.arange(0)
    return inventory_of_arrays(title, count, reader(chosen) if count else (), "decoded")


def _labels_of_stream(dataset: Any, limit: int | None, title: str) -> tuple[np.ndarray, np.ndarray, bool]:
    labels = np.array([_as_label(row[1], title) for row in itertools.islice(dataset, limit)], int)
    return np.arange(len(labels)), labels, limit is None or len(labels) < limit


def _read_stream(
    dataset: Any, whole: Whole, title: str, grey_range: GreyRange | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """All images of a stream, each resized as it is read, and their labels."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for image, label, *_ in dataset:
        pixels = square(_as_rgb(image, title, grey_range), whole.image_size).permute(1, 2, 0).contiguous().numpy()
        if (len(images) + 1) * pixels.nbytes > whole.limit:
            raise no_random_access(title)
        images.append(pixels)
        labels.append(_as_label(label, title))
    return images, np.array(labels, int)


def no_random_access(title: str) -> DataError:
    """The error for a stream whose images exceed the memory limit."""
    return DataError(
        f"{title} has no random access, so its images must be held in memory, but they exceed resident_limit; "
        "give a smaller image_size or a larger resident_limit."
    )


def _labels_of(dataset: Any, limit: int | None, title: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions of the samples whose labels were read, these labels, and whether the samples are all of them."""
    size = len(dataset)
    labels = _labels_without_images(dataset)
    if labels is not None:
        return np.arange(size), labels, True
    count = size if limit is None else min(size, limit)
    positions = np.linspace(0, size - 1, count).round().astype(int)
    labels = np.array([_as_label(_named_row(dataset, i, title)[1], title) for i in positions.tolist()], int)
    return positions, labels, count == size


@dataclass(frozen=True)
class _Reader:
    """Reads images of a timm or torchvision data set; `labels` are those of the samples at `positions`."""

    dataset: Any
    positions: np.ndarray
    labels: np.ndarray
    title: str
    grey_range: GreyRange | None

    def __call__(self, chosen: np.ndarray) -> list[np.ndarray]:
        with _naming(self.title):
            rows = _rows(self.dataset, self.positions[chosen].tolist(), self.title)
            if [_as_label(label, self.title) for _, label in rows] != self.labels[chosen].tolist():
                raise DataError(f"Labels of {self.title} changed between two reads.")
            return [_as_rgb(image, self.title, self.grey_range) for image, _ in rows]

    def files(self, chosen: np.ndarray) -> list[str]:
        """File names of the images, relative to the folder of the data set."""
        positions = self.positions[chosen].tolist()
        if hasattr(self.dataset, "reader"):
            return [str(self.dataset.filename(position)) for position in positions]
        samples = _samples_of(self.dataset)
        return [os.path.relpath(samples[position][0], self.dataset.root) for position in positions]


@contextmanager
def _naming(title: str | Callable[[], str]) -> Iterator[None]:
    """Turn an error of timm, torchvision or Pillow into a `DataError` that names the data set."""
    try:
        yield
    except DataError:
        raise
    except (
        *(AssertionError, ImportError, LookupError, OSError, RuntimeError),
        *(TypeError, ValueError, EOFError, tarfile.TarError),
    ) as error:
        title = title() if callable(title) else title
        raise DataError(f"Cannot read {title}: {str(error) or type(error).__name__}") from error


def _create_dataset(name: str, root: Path | None, split: str, download: bool) -> object:
    """The data set object of timm or torchvision."""
    import timm.data

    prefix, _, rest = name.partition("/")
    if prefix == "torch":
        return _create_torch(rest.lower(), root, split, download)
    if prefix in ("hfds", "hfids", "tfds", "wds") and rest:
        folder_name = None if root is None else str(root)
        return timm.data.create_dataset(name, root=folder_name, split=split, download=download)
    names = ("digits", "noise", "PATH.npz", "folder", "folder/PATH", "hfds/NAME", "hfids/NAME", "tfds/NAME", "wds/NAME")
    of_torch = (f"torch/{n}" for n in _TIMM_TORCH_NAMES)
    path = (root or Path()) / name
    if path.is_file():
        raise DataError(
            f"The data set {name!r} is a file of another kind; data is a folder of images, a .tar file of them, a .npz "
            "file of arrays, or the name of a data set."
        )
    unknown = unknown_data("data set", name, (*names, *of_torch, *_near_neighbours(path)))
    raise DataError(f"{unknown} There is no folder {str(path)!r}.")


def existing(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"The data set {name!r} needs root, the folder that contains it.")
    if not root.exists():
        near = [repr(str(root.with_name(neighbour))) for neighbour in _near_neighbours(root)]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise DataError(f"The folder {str(root)!r} of the data set {name!r} does not exist.{hint}")
    return root


def _near_neighbours(path: Path) -> list[str]:
    """Names of data in the folder of a path that is not there, which are spelt much like it."""
    from search_spaces.registry import near_names

    try:
        entries = [entry for entry in path.parent.iterdir() if entry.suffix in (".tar", ".npz") or entry.is_dir()]
    except OSError:
        return []
    return near_names(path.name, [entry.name for entry in entries])


def _create_torch(name: str, root: Path | None, split: str, download: bool) -> object:
    import timm.data

    if name in _TIMM_TORCH_NAMES:
        if name in _TRAIN_AND_TEST:
            _is_training(split)
        root = root if download and root else existing(root, f"torch/{name}")
        return timm.data.create_dataset(f"torch/{name}", root=str(root), split=split, download=download)
    classes = _torchvision_classes()
    if name not in classes:
        names = (*_TIMM_TORCH_NAMES, *classes)
        raise unknown_data("data set", f"torch/{name}", (f"torch/{n}" for n in names))
    return _create_torchvision(classes[name], name, root, split, download)


def _is_training(split: str) -> bool:
    splits = (*TRAIN_SPLITS, "test", *EVAL_SPLITS)
    if split not in splits:
        raise unknown_data("split", split, splits)
    return split in TRAIN_SPLITS


def _torchvision_classes() -> dict[str, Callable[..., object]]:
    """Data sets of torchvision by class name in lower case, except those that timm names."""
    from torchvision import datasets

    taken = {name.replace("_", "") for name in _TIMM_TORCH_NAMES}
    members = {name.lower(): getattr(datasets, name) for name in datasets.__all__}
    return {name: cls for name, cls in members.items() if inspect.isclass(cls) and name not in taken}


def splits_of_torch(name: str) -> tuple[str, ...] | None:
    """The splits of a torchvision data set; None if only its class knows them."""
    if name in _TIMM_TORCH_NAMES:
        return ("train", "test") if name in _TRAIN_AND_TEST else ("train", "val")
    accepted = inspect.signature(_torchvision_classes()[name]).parameters
    if "split" in accepted:
        return None
    return ("train", "test") if "train" in accepted else ("train",)


def _create_torchvision(cls: Callable[..., object], name: str, root: Path | None, split: str, download: bool) -> object:
    """Call a torchvision class with the arguments that its signature accepts."""
    accepted = inspect.signature(cls).parameters
    options: dict[str, object] = {}
    if "root" in accepted:
        options["root"] = str(root if download and root else existing(root, f"torch/{name}"))
    if "download" in accepted:
        options["download"] = download
    if "split" in accepted:
        options["split"] = split
    elif "train" in accepted:
        options["train"] = _is_training(split)
    elif split != "train":
        raise DataError(f"Unknown split {split!r} of 'torch/{name}'; it has only 'train'.")
    return cls(**options)


# Rows of an opened timm or torchvision data set


def _labels_without_images(dataset: Any) -> np.ndarray | None:
    """(N,) int64 labels of all samples, or None if the data set cannot give them without decoding images."""
    for candidate in _label_candidates(getattr(dataset, "reader", dataset)):
        try:
            labels = np.asarray(candidate)
        except ValueError:  # a ragged list holds annotations, not labels
            continue
        if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    return None


def _label_candidates(owner: Any) -> Iterator[object]:
    """The attributes in which torchvision data sets and timm readers keep labels."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(owner, attribute):
            yield getattr(owner, attribute)
    for attribute in ("samples", "_samples"):
        if hasattr(owner, attribute):
            yield [sample[-1] for sample in getattr(owner, attribute)]
    if hasattr(owner, "label_key"):  # a Hugging Face data set: reading one column decodes no image
        yield list(owner.dataset[owner.label_key])


def _class_names(dataset: object) -> tuple[str, ...] | None:
    reader = getattr(dataset, "reader", None)
    for owner, attribute in ((dataset, "classes"), (reader, "class_to_idx"), (reader, "class_name_to_idx")):
        names = getattr(owner, attribute, None)
        if names:
            return tuple(map(str, names))
    return None


def _rows(dataset: object, positions: list[int], title: str) -> list[tuple[object, object]]:
    """Image and label at each of the positions."""
    if not isinstance(dataset, IterableDataset):
        return [_named_row(dataset, i, title) for i in positions]
    distinct = set(positions)
    stream = enumerate(itertools.islice(dataset, max(positions) + 1))
    rows = {i: (row[0], row[1]) for i, row in stream if i in distinct}
    if len(rows) < len(distinct):
        raise EOFError("the stream is shorter than it was when its labels were read")
    return [rows[i] for i in positions]


def _named_row(dataset: object, position: int, title: str) -> tuple[object, object]:
    """The decoded image and the label of a sample; an error names the file."""
    from PIL import Image

    with _naming(lambda: f"{_file_of(dataset, position)} of {title}"):
        try:
            image, label = _row(dataset, position)
            if isinstance(image, Image.Image):
                image.load()
        except (SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises these for broken files as well
            raise OSError(str(error)) from error
        return image, label


def _file_of(dataset: Any, position: int) -> str:
    """The file of a sample, or its position if it has no file, for a message."""
    if hasattr(dataset, "reader"):
        file = dataset.filename(position, absolute=True)
    else:
        samples = _samples_of(dataset)
        file = samples[position][0] if isinstance(samples, list) else None
    return repr(str(file)) if isinstance(file, str | PurePath) else f"image {position}"


def _samples_of(dataset: object) -> Any:
    return getattr(dataset, "samples", getattr(dataset, "_samples", None))


def _has_files(dataset: object) -> bool:
    """Whether each image is a file whose name is known without reading it."""
    samples = _samples_of(getattr(dataset, "reader", dataset))
    if hasattr(dataset, "reader"):
        return samples is not None
    return isinstance(samples, list) and bool(samples) and isinstance(samples[0][0], str | PurePath)


def _row(dataset: Any, position: int) -> tuple[object, object]:
    from PIL import Image

    if not hasattr(dataset, "reader"):
        image, label = dataset[position][:2]
        return image, label
    # This bypasses timm's own indexing, which replaces an image that it cannot decode by the next one.
    file, label = dataset.reader[position][:2]
    with file:
        image = Image.open(file)
        image.load()
        return image, label


def _as_label(label: Any, title: str) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise DataError(f"Labels of {title} are {type(label).__name__}; they must be integers.") from None


def _as_rgb(image: object, title: str, grey_range: GreyRange | None) -> np.ndarray:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise DataError(f"Samples of {title} are {type(image).__name__}; they must be images.")
    try:
        return rgb_pixels(image, grey_range)
    except DeepGreyError as error:
        raise DataError(f"Cannot read an image of {title}: {error}.") from error
