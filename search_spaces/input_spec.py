"""The input of a network: images of a size or sequences of tokens, with an example batch, a check and a mask."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from .registry import near_names, unknown_name_message


class InputSpecError(ValueError):
    """An input spec with impossible numbers, or a batch that does not fit its spec."""


@dataclass(frozen=True)
class InputSpec(ABC):
    """The input of a network; a frozen dataclass of plain values, so that it pickles and compares by value.

    A spec of another modality inherits from this class, names its `kind`, and is entered in `INPUT_SPECS`.
    """

    kind: ClassVar[str]
    """The name of this kind of input in files."""

    @abstractmethod
    def example(self, batch_size: int = 1, *, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """A random batch that fits this spec. Torch's global generator is neither used nor changed.

        Args:
            batch_size: Number of samples.
            seed: Seed of the values; equal seeds give equal batches on every device.
            device: Device of the batch; values are drawn on the CPU and then moved.
        """

    @abstractmethod
    def check(self, batch: Tensor) -> None:
        """Check the type, shape and values of a batch.

        Raises:
            InputSpecError: The batch does not fit; the message names what it has and what is expected.
        """

    @abstractmethod
    def mask(self, batch: Tensor) -> Tensor | None:
        """Which positions of a batch carry content.

        Returns:
            True at content and False at padding, in the shape of the batch's positions; None without any padding.
        """

    @abstractmethod
    def describe(self) -> str:
        """The input in words, for a model card."""

    def to_json(self) -> dict[str, object]:
        """The spec as JSON values, which `input_spec_from_json` reads back."""
        return {"kind": self.kind, **asdict(self)}

    def _check_numbers(self, **lowest: int) -> None:
        """Check that fields are whole numbers that are not below the lowest allowed; store them as `int`."""
        for name, least in lowest.items():
            value = getattr(self, name)
            number = _whole(value)
            if number is None or number < least:
                raise InputSpecError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class ImageSpec(InputSpec):
    """Images of one size, batched as floating-point tensors (B, channels, height, width).

    Args:
        channels: Channels of an image, 3 for colour.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        InputSpecError: A number is not a whole number of at least 1.

    Example:
        >>> spec = ImageSpec(3, 32, 32)
        >>> spec.example(2).shape
        torch.Size([2, 3, 32, 32])
        >>> spec.describe()
        'images, 3 x 32 x 32 (channels x height x width)'
    """

    kind: ClassVar[str] = "image"

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        self._check_numbers(channels=1, height=1, width=1)

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    def example(self, batch_size: int = 1, *, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal values (batch_size, channels, height, width), of torch's default type."""
        return torch.randn(batch_size, *self.size, generator=_generator(seed), device="cpu").to(device)

    def check(self, batch: Tensor) -> None:
        """Check that a batch is a floating-point tensor (B, channels, height, width) with at least one image.

        Raises:
            InputSpecError: It is not.
        """
        expected = f"floating-point images (batch, {self.channels}, {self.height}, {self.width})"
        _check_tensor(batch, expected, is_type=batch.is_floating_point() if isinstance(batch, Tensor) else False)
        if batch.ndim != 4 or len(batch) == 0 or tuple(batch.shape[1:]) != self.size:
            raise InputSpecError(f"The batch has the shape {tuple(batch.shape)}; expected {expected}.")

    def mask(self, batch: Tensor) -> None:
        """None: all pixels are content."""

    def describe(self) -> str:
        return f"images, {self.channels} x {self.height} x {self.width} (channels x height x width)"


@dataclass(frozen=True)
class TokenSpec(InputSpec):
    """Sequences of tokens, batched as integer tensors (B, L) with L of at most `length`, short ones padded.

    Args:
        length: Tokens of the longest sequence.
        vocabulary: Number of different tokens; tokens are numbers from 0 to `vocabulary` - 1.
        pad: The token that fills short sequences.

    Raises:
        InputSpecError: `length` is below 1, `vocabulary` below 2, or `pad` is not a token of the vocabulary.

    Example:
        >>> spec = TokenSpec(length=4, vocabulary=100, pad=0)
        >>> spec.mask(torch.tensor([[5, 7, 9, 0]]))
        tensor([[ True,  True,  True, False]])
        >>> spec.describe()
        'token sequences, at most 4 tokens of a vocabulary of 100, padded with token 0'
    """

    kind: ClassVar[str] = "tokens"

    length: int
    vocabulary: int
    pad: int

    def __post_init__(self) -> None:
        self._check_numbers(length=1, vocabulary=2, pad=0)
        if self.pad >= self.vocabulary:
            raise InputSpecError(
                f"pad is {self.pad}; it must be a token of the vocabulary, from 0 to {self.vocabulary - 1}."
            )

    def example(self, batch_size: int = 1, *, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Tokens (batch_size, length) as int64: the first sequence is full, each other one has a random length."""
        generator = _generator(seed)
        shape = (batch_size, self.length)
        tokens = torch.randint(self.vocabulary - 1, shape, generator=generator, device="cpu")
        tokens += tokens >= self.pad  # all tokens but the padding, evenly
        lengths = torch.randint(1, self.length + 1, (batch_size, 1), generator=generator, device="cpu")
        lengths[:1] = self.length
        is_padding = torch.arange(self.length, device="cpu") >= lengths
        return tokens.masked_fill(is_padding, self.pad).to(device)

    def check(self, batch: Tensor) -> None:
        """Check that a batch is an integer tensor (B, L) of known tokens, none of its sequences all padding.

        On the `meta` device, where there are no values, only type and shape are checked.

        Raises:
            InputSpecError: It is not.
        """
        expected = f"int32 or int64 tokens (batch, length), length from 1 to {self.length}"
        is_type = isinstance(batch, Tensor) and batch.dtype in (torch.int32, torch.int64)
        _check_tensor(batch, expected, is_type=is_type)
        if batch.ndim != 2 or len(batch) == 0 or not 1 <= batch.shape[1] <= self.length:
            raise InputSpecError(f"The batch has the shape {tuple(batch.shape)}; expected {expected}.")
        if batch.is_meta:
            return
        low, high = int(batch.min()), int(batch.max())
        if low < 0 or high >= self.vocabulary:
            wrong = low if low < 0 else high
            raise InputSpecError(
                f"The batch has the token {wrong}; tokens of this vocabulary are 0 to {self.vocabulary - 1}."
            )
        empty = (~self.mask(batch).any(1)).nonzero().flatten().tolist()
        if empty:
            raise InputSpecError(
                f"{len(empty)} of {len(batch)} sequences are all padding (token {self.pad}), the first at index "
                f"{empty[0]}."
            )

    def mask(self, batch: Tensor) -> Tensor:
        """The attention mask of tokens (B, L): bool (B, L), False at padding."""
        return batch != self.pad

    def describe(self) -> str:
        return (
            f"token sequences, at most {self.length} tokens of a vocabulary of {self.vocabulary}, "
            f"padded with token {self.pad}"
        )


INPUT_SPECS: dict[str, type[InputSpec]] = {spec.kind: spec for spec in (ImageSpec, TokenSpec)}
"""Kinds of input by their names in files."""


def input_spec_from_json(stored: Mapping[str, Any]) -> InputSpec:
    """Read a spec from the JSON values that `InputSpec.to_json` wrote.

    Args:
        stored: A mapping with `kind` and the fields of that kind.

    Raises:
        InputSpecError: The kind is unknown, a field is missing or unknown, or a number is not possible.

    Example:
        >>> input_spec_from_json({"kind": "image", "channels": 3, "height": 32, "width": 32})
        ImageSpec(channels=3, height=32, width=32)
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("kind"), str):
        raise InputSpecError(f"An input spec is a mapping with a kind ({', '.join(INPUT_SPECS)}), not {stored!r}.")
    kind = stored["kind"]
    if kind not in INPUT_SPECS:
        raise InputSpecError(unknown_name_message("kind of input", kind, INPUT_SPECS))
    values = {name: value for name, value in stored.items() if name != "kind"}
    names = [field.name for field in fields(INPUT_SPECS[kind])]
    for name in values:
        if name not in names:
            near = near_names(str(name), names) or names
            raise InputSpecError(f"An input spec of the kind {kind!r} has no {name!r}; near: {', '.join(near)}.")
    missing = [name for name in names if name not in values]
    if missing:
        raise InputSpecError(
            f"An input spec of the kind {kind!r} needs {', '.join(names)}; there is no {', '.join(missing)}."
        )
    return INPUT_SPECS[kind](**values)


def as_input_spec(value: InputSpec | Sequence[int]) -> InputSpec:
    """A spec as it is, or the `ImageSpec` of (channels, height, width).

    Raises:
        InputSpecError: There are not three whole numbers of at least 1.
    """
    return value if isinstance(value, InputSpec) else image_spec(value)


def image_spec(input_size: Sequence[int]) -> ImageSpec:
    """The spec of images of this size.

    Args:
        input_size: Channels, height and width.

    Raises:
        InputSpecError: There are not three whole numbers of at least 1.
    """
    try:
        channels, height, width = input_size
        return ImageSpec(channels, height, width)
    except (TypeError, ValueError):
        raise InputSpecError(
            f"input_size is {input_size!r}; it must be (channels, height, width), whole numbers of at least 1."
        ) from None


def _whole(value: object) -> int | None:
    """The value as `int`; None if it is not a whole number."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def _check_tensor(batch: object, expected: str, *, is_type: bool) -> None:
    if not isinstance(batch, Tensor):
        raise InputSpecError(f"The batch is of type {type(batch).__name__}; expected a tensor of {expected}.")
    if not is_type:
        raise InputSpecError(f"The batch has the type {batch.dtype}; expected {expected}.")
