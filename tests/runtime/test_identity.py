"""Fingerprints of functions: what is in them. The tests of proxies say which values tell functions apart."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from diswot_search.runtime.identity import belongs_here, fingerprint


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


def holding(value: object) -> Callable[[], object]:
    return lambda: value


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (Path("a"), Path("b")),
        (Path("a"), "a"),
        (Size.SMALL, Size.LARGE),
        (Size.SMALL, 1),
        (logging.getLogger("a"), logging.getLogger("b")),
    ],
)
def test_functions_are_known_by_paths_members_of_enumerations_and_loggers(value: object, other: object) -> None:
    assert fingerprint(holding(value)) == fingerprint(holding(value)) != fingerprint(holding(other))


def test_only_functions_of_the_package_belong_to_it() -> None:
    assert belongs_here(fingerprint, "fingerprint")
    assert not belongs_here(fingerprint, "another")
    assert not belongs_here(holding, "holding")
