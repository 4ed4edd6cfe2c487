"""The importer of NAS-Bench-101, on files that TensorBoard's writer and the protobuf package made."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as crc_of_tensorboard
from tensorboard.summary.writer.record_writer import RecordWriter

from search_spaces import create_space, read_table
from search_spaces.importers import import_nasbench101
from search_spaces.nasbench101_records import masked_crc32c, read_metrics
from search_spaces.tables import list_columns

INNER = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
NASBENCH101_CELLS = (
    ("0100", "input,output"),
    ("010001000", f"input,{INNER[2]},output"),
    ("0110001000010000", f"input,{INNER[0]},{INNER[1]},output"),
)
TEXTS = ("output~0", "maxpool3x3~0|output~1", "conv3x3~0|conv1x1~0~1|output~2")


def message_type() -> Any:
    """The benchmark's published message, made from its description at run time."""
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="nasbench", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    metrics, evaluation = file.message_type.add(name="ModelMetrics"), file.message_type.add(name="EvaluationData")
    metrics.field.add(
        name="evaluation_data",
        number=1,
        label=field.LABEL_REPEATED,
        type=field.TYPE_MESSAGE,
        type_name="EvaluationData",
    )
    metrics.field.add(name="trainable_parameters", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_INT32)
    metrics.field.add(name="total_time", number=3, label=field.LABEL_OPTIONAL, type=field.TYPE_DOUBLE)
    names = ("current_epoch", "training_time", "train_accuracy", "validation_accuracy", "test_accuracy")
    for number, name in enumerate(names, start=1):
        evaluation.field.add(name=name, number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_DOUBLE)
    evaluation.field.add(name="checkpoint_path", number=6, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


def metrics(accuracy: float, evaluations: int = 3, parameters: int = 2_694_282) -> bytes:
    message = message_type()(trainable_parameters=parameters, total_time=1234.5)
    for moment in range(evaluations):
        share = accuracy * moment / 2
        message.evaluation_data.add(
            current_epoch=54.0 * moment,
            training_time=600.0 * moment,
            train_accuracy=share + 0.02,
            validation_accuracy=share,
            test_accuracy=share + 0.01,
            checkpoint_path="model.ckpt-" + "7" * 200,
        )
    return bytes(message.SerializeToString())


def record(cell: tuple[str, str], epochs: int, accuracy: float) -> bytes:
    bits, operations = cell
    text = base64.b64encode(metrics(accuracy)).decode()
    return json.dumps([f"key of {bits} {operations}", epochs, bits, operations, text]).encode()


def write_records(path: Path, records: list[bytes]) -> Path:
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for content in records:
            writer.write(content)
    return path


def official(path: Path, epochs: tuple[int, ...] = (108,), repeats: int = 3) -> Path:
    return write_records(
        path,
        [
            record(cell, count, (index + 1) / 10 + repeat / 100 + count / 10_000)
            for count in epochs
            for index, cell in enumerate(NASBENCH101_CELLS)
            for repeat in range(repeats)
        ],
    )


def test_the_file_of_108_epochs(tmp_path: Path) -> None:
    out = tmp_path / "table.csv.gz"
    assert import_nasbench101(official(tmp_path / "nasbench_only108.tfrecord"), out, progress=False) == 3
    assert list_columns(out) == [
        *(f"cifar10_{split}_accuracy" for split in ("valid", "test", "train")),
        "cifar10_mparams",
    ]
    for split, more in {"valid": 0, "test": 1, "train": 2}.items():
        table = read_table(out, f"cifar10_{split}_accuracy")
        assert dict(table) == pytest.approx({text: 10 * (i + 1) + 2.08 + more for i, text in enumerate(TEXTS)})
    assert [str(architecture) for architecture in table.check(create_space("nasbench101"))] == list(TEXTS)
    assert set(read_table(out, "cifar10_mparams").values()) == {2.694282}


def test_the_full_file(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert import_nasbench101(official(tmp_path / "nasbench_full.tfrecord", (4, 12, 36, 108)), out) == 3
    short = [f"cifar10_valid_accuracy_{epochs}ep" for epochs in (36, 12, 4)]
    assert list_columns(out)[3:] == [*short, "cifar10_mparams"]
    assert list(read_table(out, short[1]).values()) == pytest.approx([11.12, 21.12, 31.12])


def test_checksums_are_those_of_tensorboard() -> None:
    for content in (b"", b"123456789", bytes(range(256)) * 3):
        assert masked_crc32c(content) == crc_of_tensorboard(content)


def test_metrics_are_those_of_protobuf() -> None:
    read = read_metrics(metrics(0.5, parameters=40_553_738))
    assert read.parameters == 40_553_738
    assert [tuple(one) for one in read.evaluations] == [(0.02, 0.0, 0.01), (0.27, 0.25, 0.26), (0.52, 0.5, 0.51)]


def with_metrics(content: bytes) -> bytes:
    bits, operations = NASBENCH101_CELLS[0]
    return json.dumps(["key", 108, bits, operations, base64.b64encode(content).decode()]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "record 1 is none of the benchmark: not enough values"),
        (b"no JSON", "record 1 is none of the benchmark: Expecting value"),
        (b'["key", 108, "0100", "input,output", "?"]', "record 1 is none of the benchmark"),
        (b'["key", 108, "0100", "input,output", null]', "record 1 is none of the benchmark"),
        (with_metrics(metrics(0.5, evaluations=2)), "its metrics have 2 of 3 evaluations and 2694282 parameters"),
        (with_metrics(metrics(0.5)[:-3]), "its metrics are cut off"),
        (with_metrics(b"\x0b"), "a field of the unknown type 3"),
        (with_metrics(metrics(50.0)), "accuracies are from 0 to 1"),
        (record(("0000", "input,output"), 108, 0.5), "no path leads from the input to the output"),
        (record(("010001000", "input,conv5x5,output"), 108, 0.5), "'conv5x5' is no choice of 'node1_operation'"),
        (record(("01000", "input,output"), 108, 0.5).replace(b"01000", b"01"), "has 2 to 7 vertices"),
    ],
)
def test_what_is_no_record_of_the_benchmark(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_records(tmp_path / "file", [record(NASBENCH101_CELLS[1], 108, 0.5), content])
    with pytest.raises(ValueError, match="file cannot be read as a NAS-Bench-101 TFRecord") as caught:
        import_nasbench101(path, tmp_path / "table.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "record 8 at byte .* is cut off"),
        (lambda content: content[:5], "record 0 at byte 0 is cut off"),
        (
            lambda content: content[:40] + b"?" + content[41:],
            "the content of record 0 at byte 0 does not have its",
        ),
        (lambda content: b"\1" + content[1:], "the length of record 0 at byte 0 does not have its checksum"),
        (lambda content: b"plain text that is no record", "the length of record 0 at byte 0 does not have its"),
        (lambda content: b"", "holds no architectures"),
    ],
)
def test_a_damaged_file(tmp_path: Path, change: Any, message: str) -> None:
    path = official(tmp_path / "file")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"file .*{message}"):
        import_nasbench101(path, tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == [path]


def test_a_length_is_not_believed(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 40)
    path = tmp_path / "file"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"x")
    with pytest.raises(ValueError, match="record 0 at byte 0 has 1,099,511,627,776 bytes; at most 1,048,576 are read"):
        import_nasbench101(path, tmp_path / "table.csv")
