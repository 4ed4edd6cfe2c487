"""Accuracy tables: real ones, written ones, and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import ArchitectureError, create_space, read_table
from search_spaces.tables import list_columns, table_of, write_table


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


def test_the_table_of_published_scores_is_read_one_data_set_at_a_time(shared_data: Path) -> None:
    path = shared_data / "nasbench201_proxies.csv.gz"
    columns = list_columns(path)
    assert columns[:3] == ["valid_accuracy_200ep", "flops", "params"]
    assert "dataset" not in columns
    with pytest.raises(ValueError, match=r"is there twice; the two differ in dataset.*where={'dataset': 'cifar10'}"):
        read_table(path)
    space = create_space("nasbench201")
    both = [read_table(path, where={"dataset": dataset}) for dataset in ("cifar10", "cifar100")]
    assert both[0].column == "valid_accuracy_200ep"  # the only accuracy is what is meant
    assert [str(a) for a in both[0].check(space)] == list(both[0])
    shared = set(both[0]) & set(both[1])
    assert len(shared) > 700
    assert all(both[0][a] != both[1][a] for a in shared)
    params = read_table(path, "params", where={"dataset": "cifar10"})
    assert all(params[a] == pytest.approx(space.cost(space.parse(a)).params / 1e6, abs=1e-6) for a in params)
    with pytest.raises(ValueError, match=r"no finite number in column nwot, but -inf; skip_missing leaves"):
        read_table(path, "nwot", where={"dataset": "cifar10"})
    assert 700 < len(read_table(path, "nwot", where={"dataset": "cifar10"}, skip_missing=True)) < len(params)


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
        (
            "arch,accuracy\na,1\nb,\n",
            r"line 3: b has no number in column accuracy; skip_missing leaves",
        ),
        (
            "arch,accuracy\na\n",
            r"line 2: a has no number in column accuracy; skip_missing leaves",
        ),
        ("arch,accuracy\na,high\n", r"line 2: a has no number in column accuracy, but 'high'\.$"),
        ("arch,accuracy\na,nan\n", "line 2: a has no finite number in column accuracy, but nan; skip_missing"),
        ("arch,accuracy\n,1\n", "line 2 has nothing in column arch"),
        ("arch,accuracy\na,1\na,2\n", r"line 3: a is there twice\.$"),
        ("arch,accuracy,set\na,1,x\na,2,x\n", r"line 3: a is there twice\.$"),
        ("arch,accuracy,set\na,1,x\na,2,y\n", "line 3: a is there twice; the two differ in set.*{'set': 'x'}"),
        ("arch,accuracy\na,1,2\n", "line 2 has more cells than the header has columns"),
        ("arch,accuracy,accuracy\na,1,2\n", "has two columns 'accuracy'"),
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


# -- which column, and which rows ---------------------------------------------------------------


def test_the_columns_of_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "set,arch,accuracy,late,note\nx,a,1.5,,\ny,b,nan,-inf,\n")
    assert list_columns(path) == ["accuracy", "late"]
    assert list_columns(path, architecture_column="accuracy") == ["late"]


@pytest.mark.parametrize(
    ("header", "column"),
    [("arch,score", "score"), ("arch,params,accuracy", "accuracy"), ("arch,index,test_accuracy", "test_accuracy")],
)
def test_a_column_need_not_be_named_where_there_is_no_choice(tmp_path: Path, header: str, column: str) -> None:
    assert read_table(write(tmp_path, f"{header}\na{',1' * header.count(',')}\n")).column == column


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch,params,macs\na,1,2\n", "several columns of numbers; name one: params, macs"),
        ("arch,a_accuracy,b_accuracy\na,1,2\n", r"several columns of numbers; name one: a_accuracy, b_accuracy\.$"),
        (
            "arch,index,a_accuracy,mmacs,b_accuracy\na,0,1,5,2\n",
            r"several columns of numbers; name one: a_accuracy, b_accuracy, and 2 others\.$",
        ),
        ("arch,note\na,good\n", "no column of numbers"),
        ("arch,accuracy\n", "no column of numbers"),
    ],
)
def test_a_column_must_be_named_where_there_is_a_choice(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"table.csv has {message}"):
        read_table(write(tmp_path, text))


SETS = "set,run,arch,accuracy\nx,1,a,1\nx,2,a,2\ny,1,a,3\ny,1,b,4\n"


def test_rows_are_chosen_by_the_values_of_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path, SETS)
    assert dict(read_table(path, "accuracy", where={"set": "y"})) == {"a": 3.0, "b": 4.0}
    assert dict(read_table(path, "accuracy", where={"set": "x", "run": "2"})) == {"a": 2.0}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"sett": "x"}, "Unknown column 'sett'. Did you mean 'set'"),
        ({"set": "z"}, "Unknown set 'z'. Known: x, y"),
        ({"set": "y", "run": "2"}, "Unknown run '2'. Known: 1"),
        ({"set": "x"}, "line 3: a is there twice"),
    ],
)
def test_rows_that_are_not_there(tmp_path: Path, where: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"table.csv.*{message}"):
        read_table(write(tmp_path, SETS), "accuracy", where=where)


def test_missing_numbers_can_be_skipped_but_not_words(tmp_path: Path) -> None:
    path = write(tmp_path, "arch,accuracy,late\na,1,\nb,nan,2\nc,-inf,bad\nd,3,3\n")
    assert dict(read_table(path, "accuracy", skip_missing=True)) == {"a": 1.0, "d": 3.0}
    with pytest.raises(ValueError, match="line 4: c has no number in column late, but 'bad'"):
        read_table(path, "late", skip_missing=True)


def test_a_file_from_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + TABLE.replace("index,", "").replace("0,", "").replace("1,b", "b").encode("utf-8")
    )
    assert dict(read_table(path)) == {"a": 1.5, "b": -20.0}


# -- architectures of a space -------------------------------------------------------------------


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    space = create_space("cifar_resnet_s0")
    good = read_table(write(tmp_path, "arch,accuracy\n1-3-5,1\n7-7-7,2\n"))
    assert good.check(space) == [space.parse("1-3-5"), space.parse("7-7-7")]
    bad = read_table(write(tmp_path, "arch,accuracy\n1-3-5,1\n1-2-3,2\nx,3\n"))
    with pytest.raises(
        ArchitectureError, match=r"2 of the 3 .*table\.csv are not of .*s0; the first: '1-2-3'.*Example: 1-1-1"
    ):
        bad.check(space)


def test_a_table_must_write_architectures_as_the_space_does(tmp_path: Path) -> None:
    space = create_space("nasbench201")
    text = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    table = read_table(write(tmp_path, f"arch,accuracy\n {text},1\n"))
    with pytest.raises(ArchitectureError, match=r"1 of the 1 .* ' \|none.*' must be written '\|none"):
        table.check(space)


def test_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    space = create_space("cifar_resnet_s0")
    table = read_table(write(tmp_path, "arch,accuracy\n1-3-5,1\n7-7-7,2\n5-5-5,3\n"))
    part = table.select([space.parse("5-5-5"), "1-3-5"])
    assert list(part.items()) == [("5-5-5", 3.0), ("1-3-5", 1.0)]
    assert (part.name, part.column) == (table.name, table.column)
    with pytest.raises(
        ValueError, match=r"5 of the 6 .* not among the 3 of .*table\.csv: 1-1-1, 1-1-3, 1-1-5 and 2 more"
    ):
        table.select(["1-1-1", "1-1-3", "1-1-5", "7-7-7", "1-1-7", "3-1-1"])


# -- writing ------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)


@given(st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, accuracies: dict[str, float]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows = [{"architecture": a, "accuracy": v} for a, v in accuracies.items()]
    for name in ("table.csv", "table.csv.gz", "new/folder/table.csv"):
        assert dict(read_table(write_table(folder / name, rows))) == accuracies


def test_rows_without_a_cell(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"arch": "a", "x": 1.0},
        {"arch": "b", "y": 2.0, "x": float("nan")},
        {"arch": "c", "x": None},
    ]
    assert write_table(tmp_path / "t.csv", rows).read_text() == "arch,x,y\na,1.0,\nb,,2.0\nc,,\n"


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    rows = [{"arch": "a", "x": 1.0}]
    first, second = (write_table(tmp_path / name, rows).read_bytes() for name in ("first.csv.gz", "second.csv.gz"))
    assert first == second
    assert first[4:8] == bytes(4)  # the time of a gzip file's header


def test_what_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"there\.csv is there already"):
        write_table(tmp_path / "there.csv", [{"arch": "a"}])
    with pytest.raises(ValueError, match=r"ends in \.csv or \.csv\.gz; got .*table\.txt"):
        write_table(tmp_path / "table.txt", [{"arch": "a"}])
    with pytest.raises(ValueError, match=r"needs rows with a column architecture or arch or depths; got \['x'\]"):
        write_table(tmp_path / "table.csv", [{"x": 1}])
    assert [p.name for p in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("search_spaces.tables.os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_table(tmp_path / "table.csv", [{"arch": "a"}])
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_some_rows_says_which(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("arch,dataset,accuracy\na,one,1\na,two,2\n")
    assert read_table(path, where={"dataset": "one"}).name == f"{path} (dataset=one)"
    assert dict(read_table(path, where={"dataset": "two"})) == {"a": 2.0}


# -- tables in memory ---------------------------------------------------------------------------


class Frame:
    """What a pandas.DataFrame has of a table."""

    def __init__(self, columns: dict[str, list[Any]], index: list[Any] | None = None) -> None:
        self.columns = list(columns)
        self.index = list(range(len(next(iter(columns.values()))))) if index is None else index
        self._cells = columns

    def __getitem__(self, column: str) -> list[Any]:
        return self._cells[column]


CELLS = {"arch": ["a", "b", "c"], "accuracy": [70.5, 71, None], "set": ["x", "x", "y"], "flops": [1, 2, 3]}
INDEXED = {name: cells for name, cells in CELLS.items() if name != "arch"}


@pytest.mark.parametrize(
    "values",
    [
        CELLS,
        Frame(CELLS),
        Frame(INDEXED, ["a", "b", "c"]),
        {name: dict(zip("012", cells, strict=True)) for name, cells in CELLS.items()},
        {name: dict(zip("abc", cells, strict=True)) for name, cells in INDEXED.items()},
    ],
)
def test_columns_in_memory_are_read_as_those_of_a_file(values: Any) -> None:
    table = table_of(values, "accuracy", where={"set": "x"})
    assert (table.name, table.column, dict(table)) == ("table (set=x)", "accuracy", {"a": 70.5, "b": 71.0})
    assert dict(table_of(values, "accuracy", skip_missing=True)) == dict(table)
    with pytest.raises(ValueError, match="table, line 3: c has no number in column accuracy"):
        table_of(values, "accuracy")


def test_a_mapping_of_numbers_is_a_table() -> None:
    table = table_of({"1-1-1": 70.5, "1-1-3": 71})
    assert (table.column, dict(table)) == ("accuracy", {"1-1-1": 70.5, "1-1-3": 71.0})
    assert table_of({"a": 1.0}, "top1").column == "top1"
    assert dict(table_of(Frame({"net": ["a"], "top1": [3.0]}), architecture_column="net")) == {"a": 3.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": "good"}, "line 1: a has no number in column accuracy, but 'good'"),
        ({"arch": ["a", "b"], "accuracy": [1.0]}, "different numbers of cells: arch 2, accuracy 1"),
        ({"net": ["a"], "accuracy": [1.0]}, "table has no column architecture or arch or depths; name its"),
        ([1.0, 2.0], "The table is a list; it must be a file, a mapping or a pandas.DataFrame"),
        ({"arch": ["a", "a"], "accuracy": [1.0, 2.0]}, "line 2: a is there twice"),
    ],
)
def test_bad_values_in_memory_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_of(values)


def test_a_frame_of_pandas_is_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(CELLS)
    for values in (frame, frame.set_index("arch"), frame.to_dict(), frame.set_index("arch").to_dict()):
        assert dict(table_of(values, "accuracy", skip_missing=True)) == {"a": 70.5, "b": 71.0}
    assert dict(table_of(frame.set_index("arch")["flops"])) == {"a": 1.0, "b": 2.0, "c": 3.0}
