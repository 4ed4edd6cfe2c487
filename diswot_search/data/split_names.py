"""Names of splits: the words for them, in any case, and folders that look like splits."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN_SPLITS = ("train", "training")
"""Synonyms for the training split."""

VALIDATION_SPLITS = ("val", "valid", "validation")
"""Names of the validation split, whatever other splits there are."""

EVALUATION_SPLITS = ("eval", "evaluation")
"""Names of the validation split; of the test split, if there are a validation split by another name and no test."""

EVAL_SPLITS = (*VALIDATION_SPLITS, *EVALUATION_SPLITS)
"""Synonyms for the validation split."""

TEST_SPLITS = ("test", "testing")
"""Synonyms for the test split."""

FOLDER_SPLITS = (*TRAIN_SPLITS, *EVAL_SPLITS, *TEST_SPLITS)
"""Names that make a folder a split, in any case."""

WHOLE_FOLDER = "."
"""The split that is the whole folder, whose sub-folders are classes whatever their names."""

_GROUPS = (TRAIN_SPLITS, EVAL_SPLITS, TEST_SPLITS)

_OTHER_WORDS = (("trn",), ("dev",), ("tst", "holdout"))
"""Words for the splits that make a folder look like one, but are no names that are read as splits."""

_THINGS = "data|dataset|set|images?|imgs?|pics|pictures|photos|files|folder|dir|samples|split|part"

_WORDS = tuple(
    re.compile(f"({_THINGS})?({'|'.join((*group, *others))})({_THINGS})?")
    for group, others in zip(_GROUPS, _OTHER_WORDS, strict=True)
)
"""The words of each kind of split within a longer name; "traindata" is one word."""

_FOLD = re.compile(r"(k?folds?|splits?|cv|partition|subset)[ _-]*[0-9]+")


def synonyms(split: str) -> tuple[str, ...]:
    """A split's name in lower case, and the other names of the same split, the nearest first.

    Example:
        >>> synonyms("Training")
        ('training', 'train')
        >>> synonyms("eval")
        ('eval', 'evaluation', 'val', 'valid', 'validation')
    """
    name = split.lower()
    group = next((group for group in _GROUPS if name in group), ())
    others = [other for other in group if other != name]
    return (name, *sorted(others, key=lambda other: _is_evaluation(other) != _is_evaluation(name)))


def same_split(first: str, second: str | None, names: Iterable[str] | None = None) -> bool:
    """Whether two names may stand for the same images: folders and torchvision treat some names as synonyms.

    Args:
        first: A name.
        second: The other name; None is no split.
        names: The splits of the data set, if they are known.
    """
    if second is None or first == second:
        return second is not None
    if _is_evaluation(first) != _is_evaluation(second) and has_evaluation_apart(names):
        return False
    return second.lower() in synonyms(first)


def has_evaluation_apart(names: Iterable[str] | None) -> bool:
    """Whether a data set with these splits has `eval` or `evaluation` next to a validation split by another name."""
    known = {name.lower() for name in names or ()}
    return not known.isdisjoint(VALIDATION_SPLITS) and not known.isdisjoint(EVALUATION_SPLITS)


def tests_on_evaluation(names: Iterable[str] | None) -> bool:
    """Whether the evaluation split of a data set with these splits is its test split.

    Example:
        >>> tests_on_evaluation(["train", "valid", "evaluation"])
        True
        >>> tests_on_evaluation(["train", "valid", "evaluation", "test"])
        False
    """
    names = list(names or ())
    return has_evaluation_apart(names) and not {name.lower() for name in names} & set(TEST_SPLITS)


def _is_evaluation(name: str) -> bool:
    return name.lower() in EVALUATION_SPLITS


def is_split_name(name: str) -> bool:
    """Whether a folder of this name is a split."""
    return name.lower() in FOLDER_SPLITS


def lookalikes(names: Iterable[str]) -> list[str]:
    """The names that look like splits, if there are a training split and another one among them.

    Example:
        >>> lookalikes(["seg_train", "seg_test", "seg_pred"])
        ['seg_train', 'seg_test']
        >>> lookalikes(["traindata", "testdata"])
        ['traindata', 'testdata']
        >>> lookalikes(["crash test", "no test"])
        []
    """
    kinds = {name: kind for name in names if (kind := _kind(name)) is not None}
    return list(kinds) if 0 in kinds.values() and len(set(kinds.values())) > 1 else []


def folds(names: Iterable[str]) -> list[str]:
    """The names of folds of a cross-validation, if there are several.

    Example:
        >>> folds(["fold1", "Fold_2", "extra"])
        ['fold1', 'Fold_2']
    """
    numbered = [name for name in names if _FOLD.fullmatch(name.lower())]
    return numbered if len(numbered) > 1 else []


def resembles_split(name: str) -> bool:
    """Whether a word of the name is one for a split."""
    return _kind(name) is not None


def _kind(name: str) -> int | None:
    """The number of the group that a word of the name belongs to."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return next((number for number, group in enumerate(_WORDS) if any(map(group.fullmatch, words))), None)
