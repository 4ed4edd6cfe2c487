"""Names of splits: the words for them, in any case, and folders that look like splits."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN_SPLITS = ("train", "training")
"""Synonyms for the training split."""

EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
"""Synonyms for the validation split."""

TEST_SPLITS = ("test", "testing")
"""Synonyms for the test split."""

FOLDER_SPLITS = (*TRAIN_SPLITS, *EVAL_SPLITS, *TEST_SPLITS)
"""Names that make a folder a split, in any case."""

WHOLE_FOLDER = "."
"""The split that is the whole folder, whose sub-folders are classes whatever their names."""

_GROUPS = (TRAIN_SPLITS, EVAL_SPLITS, TEST_SPLITS)

_WORDS = tuple({*group, *(f"{name}set" for name in group)} for group in _GROUPS)
"""The words of each kind of split within a longer name."""


def synonyms(split: str) -> tuple[str, ...]:
    """A split's name in lower case, and the other names of the same split.

    Example:
        >>> synonyms("Training")
        ('training', 'train')
    """
    name = split.lower()
    group = next((group for group in _GROUPS if name in group), ())
    return (name, *(other for other in group if other != name))


def same_split(first: str, second: str | None) -> bool:
    """Whether two names may stand for the same images: folders and torchvision treat some names as synonyms."""
    return second is not None and (first == second or second.lower() in synonyms(first))


def is_split_name(name: str) -> bool:
    """Whether a folder of this name is a split."""
    return name.lower() in FOLDER_SPLITS


def lookalikes(names: Iterable[str]) -> list[str]:
    """The names that look like splits, if there are a training split and another one among them.

    Example:
        >>> lookalikes(["seg_train", "seg_test", "seg_pred"])
        ['seg_train', 'seg_test']
        >>> lookalikes(["crash test", "no test"])
        []
    """
    kinds = {name: kind for name in names if (kind := _kind(name)) is not None}
    return list(kinds) if 0 in kinds.values() and len(set(kinds.values())) > 1 else []


def _kind(name: str) -> int | None:
    """The number of the group that a word of the name belongs to."""
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    return next((number for number, group in enumerate(_WORDS) if words & group), None)
