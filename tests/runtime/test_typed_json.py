"""Dataclasses and JSON: that values come back as they were, and that a wrong or missing key is named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diswot_search.runtime.files import RunFolderError
from diswot_search.runtime.typed_json import JsonError, beside, decode, decode_stored, encode


@dataclass(frozen=True)
class Part:
    size: int
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    is_new: bool = False
    rate: float = 0.5
    parts: tuple[Part, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    rule: str | Mapping[str, float] = "all"
    losses: Mapping[str, float] = beside("loss/")
    notes: Mapping[str, float] = beside()


WHOLE = Whole(
    name="a",
    is_new=True,
    rate=2.0,
    parts=(Part(1, 0.25), Part(2)),
    counts={"x": 3},
    rule={"b": 1.0},
    losses={"ce": 0.5},
    notes={"confident": 60.0},
)


def test_what_is_written_is_read() -> None:
    values = encode(WHOLE)
    assert values == {
        "name": "a",
        "is_new": True,
        "rate": 2.0,
        "parts": [{"size": 1, "share": 0.25}, {"size": 2, "share": None}],
        "counts": {"x": 3},
        "rule": {"b": 1.0},
        "loss/ce": 0.5,
        "confident": 60.0,
    }
    assert decode(Whole, json.loads(json.dumps(values))) == WHOLE
    assert decode(Whole, {"name": "a"}) == Whole(name="a")


def test_numbers_that_are_not_finite_are_null_and_read_as_nan_where_a_number_is_required() -> None:
    values = encode(Whole(name="a", rate=math.inf, parts=(Part(1, math.nan),)))
    assert json.dumps(values, allow_nan=False)
    read = decode(Whole, values)
    assert math.isnan(read.rate)
    assert read.parts == (Part(1, None),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name is missing"),
        ({"name": 3}, "name is 3; it must be a text"),
        ({"name": "a", "is_new": 1}, "is_new is 1; it must be true or false"),
        ({"name": "a", "rate": True}, "rate is True; it must be a number"),
        ({"name": "a", "parts": {}}, r"parts is \{\}; it must be a list"),
        ({"name": "a", "parts": [{"size": 1}, {}]}, r"parts\.1\.size is missing"),
        ({"name": "a", "parts": [{"size": 1.5}]}, r"parts\.0\.size is 1\.5; it must be a whole number"),
        ({"name": "a", "counts": {"x": "many"}}, r"counts\.x is 'many'; it must be a whole number"),
        ({"name": "a", "rule": 7}, "rule is 7; it must be a text"),
        ({"name": "a", "loss/ce": "low"}, "loss/ce is 'low'; it must be a number"),
        ([], r"the value is \[\]; it must be an object"),
    ],
)
def test_a_wrong_or_missing_key_is_named(values: Any, message: str) -> None:
    with pytest.raises(JsonError, match=f"^{message}"):
        decode(Whole, values)
    with pytest.raises(RunFolderError, match=f"^run/result.json is damaged: {message}.*; delete it[.]$"):
        decode_stored(Whole, values, Path("run/result.json"), "delete it")
