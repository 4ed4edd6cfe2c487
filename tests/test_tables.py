"""Accuracy tables: real ones, and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from search_spaces import create_space, read_table


def test_the_nasbench201_table_has_every_cell(shared_data: Path) -> None:
    table = read_table(shared_data / "nasbench201.csv.gz", "cifar100_test_accuracy")
    space = create_space("nasbench201")
    assert set(table) == {str(a) for a in space}
    assert max(table.values()) == pytest.approx(73.51, abs=0.005)  # the published ceiling
    architecture = space.parse(
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    )
    assert table[architecture] == table[str(architecture)] == 52.913333


def test_the_s0_table_has_every_network(shared_data: Path) -> None:
    table = read_table(shared_data / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    space = create_space("cifar_resnet_s0")
    assert set(table) == {str(a) for a in space}
    assert max(table, key=table.__getitem__) == "5-5-7"
    assert (min(table.values()), max(table.values())) == (61.87, 74.86)


TABLE = "index,arch,accuracy\n0,a,1.5\n1,b,-2e1\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_plain_and_compressed_files_read_alike(tmp_path: Path) -> None:
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(TABLE.encode()))
    plain = read_table(write(tmp_path, TABLE), "accuracy")
    assert dict(plain) == dict(read_table(str(packed), "accuracy")) == {"a": 1.5, "b": -20.0}
    assert plain.column == "accuracy"


def test_another_architecture_column(tmp_path: Path) -> None:
    assert dict(read_table(write(tmp_path, TABLE), "accuracy", architecture_column="index")) == {"0": 1.5, "1": -20.0}


def test_an_architecture_that_is_not_there(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, TABLE), "accuracy")
    assert "c" not in table
    assert table.get("c") is None
    with pytest.raises(KeyError, match=r"c is not among the 2 architectures of .*table\.csv"):
        table["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column architecture or arch or depths"),
        ("cell,accuracy\na,1\n", "no column architecture or arch or depths"),
        ("arch,acuracy\na,1\n", "Unknown column 'accuracy'. Did you mean 'acuracy'"),
        ("arch,accuracy\na,1\nb,\n", "line 3: arch 'b' and accuracy '' are no pair"),
        ("arch,accuracy\na\n", "line 2: arch 'a' and accuracy None are no pair"),
        ("arch,accuracy\na,high\n", "line 2: arch 'a' and accuracy 'high' are no pair"),
        ("arch,accuracy\na,nan\n", "line 2: arch 'a' and accuracy 'nan' are no pair"),
        ("arch,accuracy\n,1\n", "line 2: arch '' and accuracy '1' are no pair"),
        ("arch,accuracy\na,1\na,2\n", "line 3: a is there twice"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"table.csv.*{message}"):
        read_table(write(tmp_path, text), "accuracy")


def test_a_missing_file_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table .*absent\.csv"):
        read_table(tmp_path / "absent.csv", "accuracy")
    whole = gzip.compress(TABLE.encode())
    for name, content in {"a.gz": b"plain text", "b.gz": whole[:-4], "c.csv": b"arch,accuracy\n\xff\xfe,1\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table"):
            read_table(tmp_path / name, "accuracy")
