"""Input specs: example batches, checks, masks, descriptions, and the way to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces import Cost, InputSpec, count_cost, create_space, list_spaces
from search_spaces.input_spec import (
    INPUT_SPECS,
    ImageSpec,
    InputSpecError,
    TokenSpec,
    as_input_spec,
    image_spec,
    input_spec_from_json,
)

IMAGES = ImageSpec(3, 8, 12)
TOKENS = TokenSpec(length=6, vocabulary=10, pad=3)

images = st.builds(ImageSpec, st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))
tokens = st.integers(2, 60).flatmap(
    lambda size: st.builds(TokenSpec, st.integers(1, 30), st.just(size), st.integers(0, size - 1))
)
specs = images | tokens


@given(spec=specs)
def test_a_spec_is_a_value(spec: InputSpec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(pickle.loads(pickle.dumps(spec))) == hash(spec)
    assert input_spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert INPUT_SPECS[spec.to_json()["kind"]] is type(spec)
    for field in dataclasses.fields(spec):
        assert str(getattr(spec, field.name)) in spec.describe()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(spec, field.name, 1)


@given(spec=specs, batch_size=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_an_example_fits_its_spec_and_is_seeded(spec: InputSpec, batch_size: int, seed: int) -> None:
    state = torch.get_rng_state()
    batch = spec.example(batch_size, seed=seed)
    assert torch.equal(state, torch.get_rng_state())
    spec.check(batch)
    assert len(batch) == batch_size
    assert torch.equal(batch, spec.example(batch_size, seed=seed))


@pytest.mark.parametrize("spec", [IMAGES, TOKENS])
def test_examples_differ_by_seed_and_go_to_a_device(spec: InputSpec) -> None:
    assert not torch.equal(spec.example(4, seed=1), spec.example(4, seed=2))
    batch = spec.example(2, device="meta")
    assert batch.is_meta
    assert batch.shape == spec.example(2).shape
    spec.check(batch)


def test_examples_of_images_have_torchs_default_type() -> None:
    assert IMAGES.example().dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert IMAGES.example().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_images_have_no_mask() -> None:
    assert IMAGES.size == (3, 8, 12)
    assert IMAGES.mask(IMAGES.example()) is None  # type: ignore[func-returns-value]


@given(spec=tokens, seed=st.integers(0, 1000))
def test_examples_of_tokens_are_padded_at_the_end(spec: TokenSpec, seed: int) -> None:
    mask = spec.mask(spec.example(5, seed=seed))
    assert mask.dtype == torch.bool
    assert mask[0].all()
    assert mask[:, 0].all()
    assert torch.equal(mask, mask.cummin(1).values)


def test_examples_of_tokens_cover_the_vocabulary() -> None:
    batch = TokenSpec(length=500, vocabulary=7, pad=3).example()
    assert batch.unique().tolist() == [0, 1, 2, 4, 5, 6]
    assert batch.dtype == torch.int64


def test_the_mask_of_tokens_is_false_at_padding() -> None:
    assert TOKENS.mask(torch.tensor([[1, 3, 5], [3, 3, 0]])).tolist() == [[True, False, True], [False, False, True]]


# -- batches that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "batch", "message"),
    [
        (IMAGES, [[0.0]], "is of type list; expected a tensor of floating-point images (batch, 3, 8, 12)"),
        (IMAGES, torch.zeros(2, 3, 8, 12, dtype=torch.uint8), "has the type torch.uint8; expected floating-point"),
        (IMAGES, torch.zeros(3, 8, 12), "has the shape (3, 8, 12); expected floating-point images (batch, 3, 8, 12)"),
        (IMAGES, torch.zeros(2, 1, 8, 12), "has the shape (2, 1, 8, 12)"),
        (IMAGES, torch.zeros(2, 3, 12, 8), "has the shape (2, 3, 12, 8)"),
        (IMAGES, torch.zeros(0, 3, 8, 12), "has the shape (0, 3, 8, 12)"),
        (TOKENS, np.zeros((1, 2)), "is of type ndarray; expected a tensor of int32 or int64 tokens"),
        (TOKENS, torch.zeros(1, 2), "has the type torch.float32; expected int32 or int64 tokens (batch, length)"),
        (TOKENS, torch.zeros(6, dtype=torch.int64), "has the shape (6,); expected int32 or int64 tokens"),
        (TOKENS, torch.zeros(1, 7, dtype=torch.int64), "has the shape (1, 7); expected .* length from 1 to 6"),
        (TOKENS, torch.zeros(0, 3, dtype=torch.int64), "has the shape (0, 3)"),
        (TOKENS, torch.zeros(1, 0, dtype=torch.int64), "has the shape (1, 0)"),
        (TOKENS, torch.tensor([[1, 10]]), "has the token 10; tokens of this vocabulary are 0 to 9"),
        (TOKENS, torch.tensor([[1, -1]]), "has the token -1; tokens of this vocabulary are 0 to 9"),
        (TOKENS, torch.tensor([[1], [3], [3]]), "2 of 3 sequences are all padding (token 3), the first at index 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(spec: InputSpec, batch: Any, message: str) -> None:
    parts = [re.escape(part) for part in message.split(" .* ")]
    with pytest.raises(InputSpecError, match=" .* ".join(parts)):
        spec.check(batch)


def test_shorter_sequences_and_small_integers_fit() -> None:
    TOKENS.check(torch.tensor([[1, 2], [4, 3]], dtype=torch.int32))
    IMAGES.check(IMAGES.example().half())


# -- specs that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageSpec(0, 8, 8), "channels is 0; it must be a whole number of at least 1"),
        (lambda: ImageSpec(3, 8.5, 8), "height is 8.5"),  # type: ignore[arg-type]
        (lambda: ImageSpec(3, 8, True), "width is True"),
        (lambda: ImageSpec(3, 8, "8"), "width is '8'"),  # type: ignore[arg-type]
        (lambda: TokenSpec(0, 10, 0), "length is 0"),
        (lambda: TokenSpec(5, 1, 0), "vocabulary is 1; it must be a whole number of at least 2"),
        (lambda: TokenSpec(5, 10, -1), "pad is -1"),
        (lambda: TokenSpec(5, 10, 10), "pad is 10; it must be a token of the vocabulary, from 0 to 9"),
        (lambda: image_spec((3, 8)), "input_size is (3, 8); it must be (channels, height, width)"),
        (lambda: image_spec((3, 8, 0)), "input_size is (3, 8, 0); it must be (channels, height, width)"),
        (lambda: image_spec(8), "input_size is 8; it must be"),  # type: ignore[arg-type]
        (lambda: input_spec_from_json([3, 8, 8]), "is a mapping with a kind (image, tokens), not [3, 8, 8]"),  # type: ignore[arg-type]
        (lambda: input_spec_from_json({"channels": 3}), "is a mapping with a kind (image, tokens)"),
        (lambda: input_spec_from_json({"kind": "images"}), "Unknown kind of input 'images'. Did you mean 'image'"),
        (lambda: input_spec_from_json({"kind": "image", "chanels": 3}), "'image' has no 'chanels'; near: channels"),
        (lambda: input_spec_from_json({"kind": "image", "channels": 3}), "there is no height, width"),
        (lambda: input_spec_from_json({"kind": "tokens", "length": 5, "vocabulary": 9, "pad": 9}), "pad is 9"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputSpecError, match=re.escape(message)):
        make()


def test_numbers_of_numpy_are_stored_as_whole_numbers() -> None:
    spec = image_spec(np.array([3, 8, 12]))  # type: ignore[arg-type]
    assert spec == IMAGES
    assert json.loads(json.dumps(spec.to_json())) == {"kind": "image", "channels": 3, "height": 8, "width": 12}
    assert as_input_spec(spec) is spec
    assert as_input_spec((3, 8, 12)) == spec


# -- spaces and costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_spaces())
def test_every_space_has_the_spec_of_its_images(name: str) -> None:
    space = create_space(name, input_size=(1, 48, 32))
    assert space.input_spec == ImageSpec(1, 48, 32)
    assert space.input_size == (1, 48, 32)


class Embedded(nn.Module):
    """A network on tokens: an embedding and a classifier of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embedding(x))


def test_the_cost_of_a_network_on_tokens() -> None:
    assert count_cost(Embedded(), TOKENS) == Cost(params=10 * 4 + 4 * 2 + 2, macs=6 * 4 * 2)
    assert count_cost(Embedded().to("meta"), TOKENS) == count_cost(Embedded(), TOKENS)


def test_the_cost_of_a_network_is_that_of_the_spec_of_its_images() -> None:
    network = nn.Conv2d(3, 4, 3)
    assert count_cost(network, (3, 8, 12)) == count_cost(network, IMAGES) == Cost(4 * 27 + 4, 27 * 4 * 6 * 10)
