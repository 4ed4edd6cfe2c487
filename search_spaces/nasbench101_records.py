"""The official files of NAS-Bench-101, read without TensorFlow.

A file is a sequence of records: a length and its checksum, a content and its checksum. Each content is a JSON list: key
of the cell, epochs, matrix, operations, and metrics of one training, which are a protocol buffer in base64.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from .nasbench101 import NASBench101Space

DISTINCT_CELLS = 423_624
"""Cells of the benchmark; the official files have three trainings of each for each number of epochs."""


FULL_EPOCHS = 108
"""Epochs of the full training; `nasbench_full.tfrecord` has those of 4, 12 and 36 besides."""


_MAX_RECORD_BYTES = 1 << 20  # records of the official files have a few hundred


class Accuracies(NamedTuple):
    """Accuracies of one network, as shares of 1."""

    train: float
    valid: float
    test: float


@dataclass(frozen=True)
class Metrics:
    """Measurements of one training.

    Attributes:
        evaluations: Accuracies before the training, half-way, and at its end.
        parameters: Trainable parameters.
    """

    evaluations: list[Accuracies]
    parameters: int


# -- records ------------------------------------------------------------------------------------


def _remainders() -> list[int]:
    """The remainder of each byte by the polynomial of CRC-32C (Castagnoli), bits reversed."""
    remainders = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        remainders.append(value)
    return remainders


_REMAINDERS = _remainders()


def masked_crc32c(content: bytes) -> int:
    """The checksum of records: CRC-32C, rotated, plus a constant.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ _REMAINDERS[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """The content of each record of a file, one at a time, after its checksums are verified.

    Raises:
        ValueError: A record is damaged or cut off; the message says which, and at what byte.
    """
    position = number = 0
    while head := file.read(12):
        where = f"record {number:,} at byte {position:,}"
        if len(head) < 12:
            raise ValueError(f"{where} is cut off")
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            raise ValueError(f"the length of {where} does not have its checksum")
        if length > _MAX_RECORD_BYTES:
            raise ValueError(f"{where} has {length:,} bytes; at most {_MAX_RECORD_BYTES:,} are read")
        body = file.read(length + 4)
        if len(body) < length + 4:
            raise ValueError(f"{where} is cut off")
        if masked_crc32c(body[:length]) != int.from_bytes(body[length:], "little"):
            raise ValueError(f"the content of {where} does not have its checksum")
        yield body[:length]
        position, number = position + len(head) + len(body), number + 1


# -- metrics ------------------------------------------------------------------------------------


def read_metrics(content: bytes) -> Metrics:
    """Decode the benchmark's message of metrics.

    Args:
        content: A protocol buffer: three messages in field 1, with accuracies on training, validation and test images
            in fields 3 to 5, and the number of parameters in field 2.

    Raises:
        ValueError: The message is cut off, or lacks one of these.
    """
    evaluations, parameters = [], None
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            doubles = {place: one for place, one in _fields(value) if isinstance(one, float)}
            evaluations.append(Accuracies(*(doubles.get(place, math.nan) for place in (3, 4, 5))))
        elif number == 2 and isinstance(value, int):
            parameters = value
    if parameters is None or len(evaluations) != 3:
        raise ValueError(f"its metrics have {len(evaluations)} of 3 evaluations and {parameters} parameters")
    if not all(0 <= accuracy <= 1 for accuracy in evaluations[-1]):
        raise ValueError(f"the last evaluation is {evaluations[-1]}; accuracies are from 0 to 1")
    return Metrics(evaluations, parameters)


def _fields(content: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field of a message: a whole number, a number, or bytes."""
    position = 0
    while position < len(content):
        key, position = _whole_number(content, position)
        kind = key & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError(f"its metrics have a field of the unknown type {kind}")
        if kind == 0:
            value, position = _whole_number(content, position)
            yield key >> 3, value
            continue
        length, position = _whole_number(content, position) if kind == 2 else (8 if kind == 1 else 4, position)
        part, position = content[position : position + length], position + length
        if len(part) < length:
            raise ValueError("its metrics are cut off")
        yield key >> 3, part if kind == 2 else float(struct.unpack("<d" if kind == 1 else "<f", part)[0])


def _whole_number(content: bytes, position: int) -> tuple[int, int]:
    """A whole number, seven bits in each byte, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError("its metrics are cut off")
        byte, position = content[position], position + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return number, position


# -- cells --------------------------------------------------------------------------------------


@dataclass
class _Measured:
    """One cell: its text, its parameters, and by epochs the accuracies of each training."""

    architecture: str
    parameters: int
    trainings: dict[int, list[Accuracies]] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """Means over the trainings in percent; of the short trainings the validation accuracy alone."""
        row: dict[str, object] = {"architecture": self.architecture}
        for epochs, trainings in sorted(self.trainings.items(), reverse=True):
            is_full = epochs == FULL_EPOCHS
            for name in ("valid", "test", "train") if is_full else ("valid",):
                values = [getattr(training, name) for training in trainings]
                suffix = "" if is_full else f"_{epochs}ep"
                row[f"cifar10_{name}_accuracy{suffix}"] = round(100 * math.fsum(values) / len(values), 6)
        return row | {"cifar10_mparams": self.parameters / 1e6}


def read_rows(file: BinaryIO, advance: Callable[[], None]) -> list[dict[str, object]]:
    """The rows of a table from an official file, cells in the order in which they come first.

    Args:
        file: The file, open at its begin; one record at a time is in memory.
        advance: Called at each new cell.

    Raises:
        ValueError: A record is damaged, or is none of the benchmark; the message says which.
    """
    space = NASBench101Space()
    cells: dict[str, _Measured] = {}
    for number, record in enumerate(read_records(file)):
        try:
            key, epochs, bits, operations, text = json.loads(record)
            metrics = read_metrics(base64.b64decode(text, validate=True))
            if key not in cells:
                size = math.isqrt(len(bits))
                matrix = [[int(bit) for bit in bits[row * size : (row + 1) * size]] for row in range(size)]
                architecture = str(space.from_matrix(matrix, operations.split(",")))
                cells[key] = _Measured(architecture, metrics.parameters)
                advance()
            cells[key].trainings.setdefault(int(epochs), []).append(metrics.evaluations[-1])
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"record {number:,} is none of the benchmark: {error}") from error
    return [cell.row() for cell in cells.values()]
