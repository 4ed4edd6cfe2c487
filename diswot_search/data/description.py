"""What a job reads: images by split and class, and what was found when the data was opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .data_set import DataSet
from .inventory import Inventory
from .probe import Probe
from .splits import Splits


@dataclass(frozen=True)
class PartDescription:
    """The images of one part.

    Attributes:
        name: "train", "val", "test" or "probe".
        origin: The split on disk, or how the part was split off.
        images: Number of images.
        by_class: Number of images of each class.
        labelled: Number of images whose labels are used; None for all.
    """

    name: str
    origin: str
    images: int
    by_class: tuple[int, ...]
    labelled: int | None = None


@dataclass(frozen=True)
class DataDescription:
    """The data of a job. Make one with `describe_splits` or `describe_probe`.

    Attributes:
        name: Name of the data set.
        classes: Names of the classes; their numbers if they have no names.
        input_size: Channels, height and width of an image as networks get it; None if images are not read yet.
        parts: The parts that are used.
        found: What was found in each split that was opened.
        notes: What was changed or is missing.
    """

    name: str
    classes: tuple[str, ...]
    input_size: tuple[int, int, int] | None
    parts: tuple[PartDescription, ...]
    found: tuple[Inventory, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The description as JSON values."""
        parts = {
            part.name: {
                "origin": part.origin,
                "images": part.images,
                "by_class": list(part.by_class),
                "labelled": part.labelled,
            }
            for part in self.parts
        }
        return {
            "name": self.name,
            "classes": list(self.classes),
            "input_size": list(self.input_size or ()),
            "parts": parts,
            "found": [inventory.to_json() for inventory in self.found],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataDescription:
        """The description that `to_json` gave as these values."""
        channels, height, width = values["input_size"]
        return cls(
            name=values["name"],
            classes=tuple(values["classes"]),
            input_size=(channels, height, width),
            parts=tuple(
                PartDescription(name, part["origin"], part["images"], tuple(part["by_class"]), part["labelled"])
                for name, part in values["parts"].items()
            ),
            found=tuple(map(Inventory.from_json, values["found"])),
            notes=tuple(values["notes"]),
        )


def describe_splits(splits: Splits) -> DataDescription:
    """What there is to train, validate and test on.

    Example:
        >>> description = describe_splits(create_splits("digits"))
        >>> [(part.name, part.images) for part in description.parts]
        [('train', 1295), ('val', 143), ('test', 359)]
    """
    parts = []
    for name, images in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        split, share = splits.source.get(f"{name}_split"), splits.source.get(f"{name}_share")
        origin = f"split {split!r}" if split else f"{share:g} of the training images" if share else "given"
        labelled = None if name != "train" or splits.labelled is None else len(splits.labelled)
        counts = torch.bincount(images.labels, minlength=splits.num_classes).tolist()
        parts.append(PartDescription(name, origin, len(images), tuple(counts), labelled))
    classes = splits.classes or tuple(map(str, range(splits.num_classes)))
    return DataDescription(splits.name, classes, splits.input_size, tuple(parts), splits.inventories, splits.notes)


def describe_opened(name: str, opened: Sequence[DataSet]) -> DataDescription:
    """What was found in the splits of a data set that were opened, before they are divided.

    Args:
        name: Name of the data set.
        opened: The splits.
    """
    named = [data.classes or tuple(map(str, range(data.num_classes))) for data in opened]
    classes = tuple(dict.fromkeys(each for names in named for each in names))
    parts = []
    for data, names in zip(opened, named, strict=True):
        counts = dict(zip(names, np.bincount(data.labels, minlength=len(names)).tolist(), strict=False))
        by_class = tuple(counts.get(each, 0) for each in classes)
        parts.append(PartDescription(data.title.partition(" of ")[0], "", len(data.labels), by_class))
    return DataDescription(
        name, classes, None, tuple(parts), tuple(data.inventory for data in opened if data.inventory)
    )


def describe_probe(probe: Probe) -> DataDescription:
    """The data that a probe was drawn from.

    Example:
        >>> describe_probe(create_probe("digits", batch_size=20)).parts[0].by_class
        (2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
    """
    counts = torch.bincount(probe.labels, minlength=probe.num_classes).tolist()
    split = probe.origin.get("split")
    part = PartDescription("probe", f"split {split!r}" if split else "given", len(probe.labels), tuple(counts))
    classes = probe.classes if len(probe.classes) == probe.num_classes else tuple(map(str, range(probe.num_classes)))
    found = () if probe.inventory is None else (probe.inventory,)
    return DataDescription(probe.name, classes, probe.input_size, (part,), found)
