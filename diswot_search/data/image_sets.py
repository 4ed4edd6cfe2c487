"""Sets of images in memory or on disk, and batches of them whose augmentation a seed determines."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import check_whole
from ..runtime.seeding import isolated_random_state, stable_seed
from .augmentation import Augmentation
from .data_set import DataSet
from .errors import DataError
from .images import check_size, square


class Images(NamedTuple):
    """A batch of images on one device, not normalised.

    Attributes:
        images: (B, 3, H, W) float32, between 0 and 1.
        labels: (B,) int64 class indices.
        indices: (B,) int64 places in the set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class _Part(NamedTuple):
    """One process's share of a batch.

    Attributes:
        number: Number of the batch.
        start: Position in the order where the batch starts.
        first: First image of the share, counted within the batch.
        last: End of the share within the batch, exclusive.
    """

    number: int
    start: int
    first: int
    last: int


class ImageSet(ABC):
    """Images of one size with their labels, read in batches.

    Attributes:
        title: Description of the set in messages.
        labels: (N,) int64 class indices, on the CPU.
        input_size: (3, H, W), the channels, height and width of every image in pixels.
    """

    title: str
    labels: Tensor
    input_size: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        *,
        device: torch.device,
        augment: Augmentation | None,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Images]:
        """Read the images at these places in batches, or one process's share of each batch.

        The random changes of an image depend only on the seed, the number of its batch and its place in that batch;
        they do not depend on `start`, `rank` or `world`. Global random state is neither used nor changed.

        Args:
            order: (M,) int64 places in the set; a place may occur more than once.
            batch_size: Number of images in a batch over all processes, at least `world`; the last batch may be
                smaller.
            device: Device of the batches.
            augment: Random changes of the images; None for none.
            seed: Seed of the random changes.
            start: Number of the first batch, from 0.
            rank: Number of this process, from 0.
            world: Number of processes that share each batch. Each process gets a contiguous part; if the batch is
                not divisible, the first ones get one image more. A small last batch may leave some without images.

        Returns:
            An iterator over batches, from number `start` on.

        Raises:
            DataError: An argument is out of range (raised at once), or an image cannot be read (raised while
                iterating).

        Example:
            >>> images = ResidentSet(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5))
            >>> batches = images.batches(torch.arange(5), 2, device=torch.device("cpu"), augment=None, seed=0)
            >>> [batch.indices.tolist() for batch in batches]
            [[0, 1], [2, 3], [4]]
        """
        check_whole("world", world, least=1, error=DataError)
        check_whole("batch_size", batch_size, least=world, error=DataError)
        check_whole("start", start, least=0, error=DataError)
        if not 0 <= rank < world:
            raise DataError(f"rank is {rank}; with {world} processes it must lie between 0 and {world - 1}.")
        if order.ndim != 1 or order.dtype != torch.int64 or (len(order) and not self._has(order)):
            raise DataError(
                f"order is {_described(order)}; it must be one-dimensional, int64, with places between 0 and "
                f"{len(self) - 1} of {self.title}."
            )
        parts = [_part(number, len(order), batch_size, rank, world) for number in _numbers(order, batch_size, start)]
        return self._batches(order, parts, device, None if augment and augment.kind == "none" else augment, seed)

    def _has(self, order: Tensor) -> bool:
        return int(order.min()) >= 0 and int(order.max()) < len(self)

    def _batches(
        self, order: Tensor, parts: list[_Part], device: torch.device, augment: Augmentation | None, seed: int
    ) -> Iterator[Images]:
        labels, places = self.labels.to(device), order.to(device)
        height, width = self.input_size[1:]
        pixels = self._pixels(order, parts, device, augment, seed)
        for part, images in zip(parts, pixels, strict=True):
            if augment is not None:
                drawn = augment.draw(seed, part.number, part.first, part.last, height, width)
                images = augment.apply(images, drawn.to(device, non_blocking=True))
            indices = places[part.start + part.first : part.start + part.last]
            yield Images(images.expand(-1, 3, -1, -1).contiguous(), labels[indices], indices)

    @abstractmethod
    def _pixels(
        self, order: Tensor, parts: list[_Part], device: torch.device, augment: Augmentation | None, seed: int
    ) -> Iterator[Tensor]:
        """The images of each part before crops, flips and erasing: (B, 1 or 3, H, W) float32, between 0 and 1."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 in hex of the content of the set; equal for equal sets."""


def _numbers(order: Tensor, batch_size: int, start: int) -> range:
    return range(start, -(-len(order) // batch_size))


def _part(number: int, total: int, batch_size: int, rank: int, world: int) -> _Part:
    start = number * batch_size
    each, extra = divmod(min(batch_size, total - start), world)
    first = rank * each + min(rank, extra)
    return _Part(number, start, first, first + each + (rank < extra))


class ResidentSet(ImageSet):
    """Images held in memory, with a copy on each device that batches were read on.

    Args:
        images: (N, 1 or 3, H, W) uint8.
        labels: (N,) int64 class indices.
        title: Description of the set in messages.
        workers: Number of processes that apply augmentations to one image at a time.

    Raises:
        DataError: A tensor has the wrong shape or dtype, or there are no images.

    Example:
        >>> images = ResidentSet(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> len(images), images.input_size
        (5, (3, 8, 8))
    """

    def __init__(self, images: Tensor, labels: Tensor, title: str = "images", workers: int = 0) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
            raise DataError(f"Images of {title} are {_described(images)}; they must be uint8, N x (1 or 3) x H x W.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"Labels of {title} are {_described(labels)}; they must be {len(images)} int64 values.")
        self.images = images.cpu()
        self.labels = labels.cpu()
        self.title = title
        self.input_size = (3, images.shape[2], images.shape[3])
        self.workers = workers
        self._copies = {self.images.device: self.images}

    def _pixels(
        self, order: Tensor, parts: list[_Part], device: torch.device, augment: Augmentation | None, seed: int
    ) -> Iterator[Tensor]:
        if augment is not None and augment.by_image:
            items = _Items(self._read, None, self.input_size, self.title, order, parts, augment, seed)
            yield from _load(items, parts, device, self.workers)
            return
        if device not in self._copies:
            self._copies[device] = self.images.to(device)
        images, order = self._copies[device], order.to(device)
        for part in parts:
            yield images[order[part.start + part.first : part.start + part.last]].float().div_(255)

    def _read(self, place: int) -> np.ndarray:
        return self.images[place].permute(1, 2, 0).numpy()

    def __getstate__(self) -> dict[str, object]:
        # Worker processes need only the images on the CPU.
        return self.__dict__ | {"_copies": {self.images.device: self.images}}

    def fingerprint(self) -> str:
        """SHA-256 in hex of the pixels and the labels."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} with the shape {tuple(tensor.shape)}"


class StreamedSet(ImageSet):
    """Images that worker processes read from disk when they are needed.

    Args:
        data: Data set that contains the images.
        places: (N,) indices of the images in the data set.
        image_size: Side in pixels of the square that images are centre-cropped and resized to. None keeps their
            size, which must then be the same for all of them.
        workers: Number of worker processes; with 0, this process reads the images.

    Raises:
        DataError: The first image cannot be read.
    """

    def __init__(self, data: DataSet, places: np.ndarray, image_size: int | None = None, workers: int = 2) -> None:
        self.data = data
        self.places = places
        self.image_size = image_size
        self.workers = workers
        self.labels = torch.from_numpy(data.labels[places])
        self.title = data.title
        height, width = square(data.read(places[:1])[0], image_size).shape[1:]
        self.input_size = (3, height, width)

    def _pixels(
        self, order: Tensor, parts: list[_Part], device: torch.device, augment: Augmentation | None, seed: int
    ) -> Iterator[Tensor]:
        items = _Items(self._read, self.image_size, self.input_size, self.title, order, parts, augment, seed)
        return _load(items, parts, device, self.workers)

    def _read(self, place: int) -> np.ndarray:
        return self.data.read(self.places[place : place + 1])[0]

    def fingerprint(self) -> str:
        """SHA-256 in hex of the samples' indices, labels and file names; no image is read."""
        digest = hashlib.sha256(json.dumps([len(self), self.image_size]).encode())
        digest.update(self.places.tobytes())
        if self.data.files is not None:
            digest.update("\0".join(self.data.files(self.places)).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


class _Items(Dataset[tuple[object, int]]):
    """The items that the loader reads: one process's images in order, each with its place in the set.

    timm's loader sets `transform`. It is ignored here, because it does not support a seed for each image.
    """

    transform: object = None

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        image_size: int | None,
        input_size: tuple[int, int, int],
        title: str,
        order: Tensor,
        parts: list[_Part],
        augment: Augmentation | None,
        seed: int,
    ) -> None:
        self.read = read
        self.image_size = image_size
        self.input_size = input_size
        self.title = title
        self.seed = seed
        self.order = order.numpy()  # items are resolved when they are read, because there may be millions of them
        self.parts = parts
        self.ends = np.cumsum([part.last - part.first for part in parts])
        self.resized = augment is not None and augment.kind == "random_resized_crop"
        self.change = augment.transform(*input_size[1:]) if augment and augment.by_image else None

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.parts else 0

    def __getitem__(self, item: int) -> tuple[object, int]:
        number = int(np.searchsorted(self.ends, item, side="right"))
        part = self.parts[number]
        place_in_batch = part.last - (int(self.ends[number]) - item)
        place = int(self.order[part.start + place_in_batch])
        image = self.read(place)
        if not self.resized:
            image = self._checked(square(image, self.image_size)).permute(1, 2, 0).numpy()
        if self.change is None:
            return torch.from_numpy(image).permute(2, 0, 1).expand(3, -1, -1), place
        from PIL import Image

        pixels = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
        with isolated_random_state(stable_seed(self.seed, part.number, place_in_batch)):
            return self.change(pixels), place

    def _checked(self, pixels: Tensor) -> Tensor:
        check_size((3, *pixels.shape[1:]), self.input_size, self.title)
        return pixels


def _load(items: _Items, parts: list[_Part], device: torch.device, workers: int) -> Iterator[Tensor]:
    """The images of each part, which timm's loader reads and moves to the device."""
    from timm.data import create_loader

    sizes = [part.last - part.first for part in parts]
    dataset: Any = items  # timm declares its own class, but accepts any data set with a length and a transform
    loader = create_loader(
        dataset,
        input_size=items.input_size,
        batch_size=max([1, *sizes]),  # all parts have the same size, except that the last one may be smaller
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=workers if items else 0,
        persistent_workers=False,
        pin_memory=device.type == "cuda",
        device=device,
    )
    loader.loader.generator = torch.Generator()  # otherwise the loader draws from the global generator
    if device.type == "cuda" and hasattr(loader, "stream"):
        loader.stream = _side_stream(device)
    loaded = iter(loader)
    for size in sizes:
        yield _next(loaded) if size else torch.empty(0, *items.input_size, device=device)


@cache
def _side_stream(device: torch.device) -> object:
    """The CUDA stream on which all loaders copy to a device; a stream per loader would each cache memory of its own."""
    return torch.cuda.Stream(device)


def _next(loaded: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """The next batch; an error in a worker process becomes a `DataError` with its original message."""
    try:
        return next(loaded)[0]
    except DataError as error:
        # The text of an error from a worker process is its whole traceback, which ends with the message.
        raise DataError(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
