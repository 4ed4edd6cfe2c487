"""Seeds that are the same everywhere, and generators that are given back."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diswot_search.runtime.seeding import isolated_random_state, stable_seed
from diswot_search.testing.randomness import random_state

parts = st.lists(st.integers(0, 2**63) | st.text(max_size=8), max_size=4).map(tuple)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(first=parts, second=parts)
def test_seeds_tell_parts_apart_and_fit_every_generator(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    assert (stable_seed(*first) == stable_seed(*second)) == (first == second)
    assert 0 <= stable_seed(*first) < 2**63


def test_where_a_part_ends_matters() -> None:
    assert len({stable_seed("ab", "c"), stable_seed("a", "bc"), stable_seed("abc"), stable_seed("c", "ab")}) == 4
    assert stable_seed(1) != stable_seed("1")


def test_seeds_are_the_same_in_every_process() -> None:
    digest = hashlib.sha256(b'[3, "resnet", "\\u00e9"]').digest()
    expected = int.from_bytes(digest[:8], "big") // 2
    # Written down as well, since every stored score depends on it.
    assert stable_seed(3, "resnet", "é") == expected == 7333170771821416654


def test_the_seed_alone_decides_what_is_drawn() -> None:
    with isolated_random_state(7):
        first = draw()
    draw()
    with isolated_random_state(7):
        assert draw() == first
    with isolated_random_state(8):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_large_seeds_serve_all_generators() -> None:
    with isolated_random_state(2**63 - 1):
        assert len(set(draw())) == 3


def test_generators_are_given_back() -> None:
    before = random_state()
    with isolated_random_state(0):
        draw()
    assert random_state() == before


def test_generators_are_given_back_after_an_error() -> None:
    before = random_state()
    with pytest.raises(ZeroDivisionError), isolated_random_state(0):
        _ = draw(), 1 / 0
    assert random_state() == before


def test_blocks_nest() -> None:
    with isolated_random_state(1):
        expected = draw(), draw()
    with isolated_random_state(1):
        first = draw()
        with isolated_random_state(2):
            draw()
        assert (first, draw()) == expected


def test_no_accelerator_is_seeded_or_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study on the CPU costs no GPU memory, and those who use the GPU beside it keep their random numbers."""

    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("touched")

    for name in ("manual_seed_all", "get_rng_state", "set_rng_state", "init"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.mps, "manual_seed", touched)
    with isolated_random_state(0):
        draw()
