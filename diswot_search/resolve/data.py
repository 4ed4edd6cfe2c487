"""From the data that a user names to splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..checks import check_options
from ..data.labelled import Labels
from ..data.splits import Splits, create_splits
from ..options.base import keywords, options_in
from ..options.data import DATA_SET_NAMES, CreateSplitsOptions


def as_splits(
    dataset: str | os.PathLike[str] | Splits,
    options: Mapping[str, Any] | None = None,
    *,
    labels: Labels = None,
    labels_per_class: int | None = None,
) -> Splits:
    """Resolve a data set: return splits as they are, or open a name with `create_splits`.

    Args:
        dataset: Name of a data set, path of a folder of images, or splits.
        options: Keyword arguments of `create_splits`; only allowed with a name.
        labels: The labelled subset, in one of the forms of `create_splits`. Splits keep their own labelled subset
            unless this or `labels_per_class` is given.
        labels_per_class: Number of labelled images of each class; give this or `labels`.

    Raises:
        TypeError: The data set is neither a name nor splits.
        ValueError: Options are given with splits, or both the options and the arguments request a labelled subset.
            `DataError`, raised if the data set cannot be opened, is a `ValueError` too.

    Example:
        >>> len(as_splits("digits", {"train_limit": 100}).train)
        100
    """
    label_arguments = {"labels": labels, "labels_per_class": labels_per_class}
    label_options: dict[str, Any] = {key: value for key, value in label_arguments.items() if value is not None}
    if isinstance(dataset, str | os.PathLike):
        options = dict(options or {})
        with options_in("data_options", DATA_SET_NAMES):
            check_options("data set", options, keywords(CreateSplitsOptions))
        duplicates = [key for key in label_arguments if options.get(key) is not None]
        if label_options and duplicates:
            raise ValueError(
                f"data_options set {duplicates[0]}, and {next(iter(label_options))} is given as well; give only one."
            )
        with options_in("data_options", DATA_SET_NAMES):
            return create_splits(dataset, **options | label_options)
    if not isinstance(dataset, Splits):
        raise TypeError(
            f"The data set is a {type(dataset).__name__}; it must be a name that create_splits knows, a path, or "
            "splits, such as those that Splits.from_arrays makes from images and labels."
        )
    if options:
        raise ValueError("The data set is given as splits; data_options cannot be set.")
    return dataset.with_labels(**label_options) if label_options else dataset
