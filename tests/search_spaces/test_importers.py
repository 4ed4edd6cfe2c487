"""Importers of official benchmark files, on small files made with the benchmarks' own classes."""

from __future__ import annotations

import bz2
import json
import os
import pickle
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import nas_201_api
import nats_bench
import numpy as np
import pytest
import torch
from nats_bench.api_utils import pickle_save

from search_spaces import UnknownNameError, create_space, read_table
from search_spaces.importers import IMPORTERS, import_nasbench201, import_nats_bench, import_suite_zero, import_table
from search_spaces.tables import list_columns

from .test_nasbench101_records import NASBENCH101_CELLS, record, write_records

CELLS = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|",
)
SPLITS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def accuracy(index: int, dataset: str, split: str, seed: int, epoch: int) -> float:
    """A number that no other architecture, data set, split, seed and epoch has."""
    split_number = ("train", "x-valid", "x-test", "ori-test").index(split)
    return index + list(SPLITS).index(dataset) / 10 + split_number / 100 + seed / 1e6 + epoch / 1e7


def run(api: ModuleType, index: int, dataset: str, seed: int, epochs: int) -> Any:
    """One training run, recorded as the benchmarks' authors do: per epoch, with times that are set afterwards."""

    def numbers(split: str) -> dict[Any, float]:
        return {epoch: accuracy(index, dataset, split, seed, epoch) for epoch in range(epochs)}

    config = {"channel": 16, "num_cells": 5, "arch_str": CELLS[index % 3], "class_num": 10}
    params = np.float64(0.25 + index)  # a NumPy number, as the authors' counter returns
    result = api.ResultsCount(dataset, None, numbers("train"), {}, params, 10.5 + index, config, seed, epochs, None)
    result.update_train_info(numbers("train"), numbers("train"), numbers("train"), None)
    result.reset_pseudo_train_times(1.5)
    by_key = {f"{split}@{epoch}": value for split in SPLITS[dataset] for epoch, value in numbers(split).items()}
    result.update_eval(by_key, dict(by_key), dict(by_key))
    for split in SPLITS[dataset]:
        result.reset_pseudo_eval_times(split, 0.5)
    return result


def state(api: ModuleType, index: int, seeds: tuple[int, ...], epochs: int, text: str | None = None) -> dict[str, Any]:
    """All runs of one architecture with one training recipe."""
    results = api.ArchResults(index, text or CELLS[index % 3])
    for dataset in SPLITS:
        for seed in seeds:
            results.update(dataset, seed, run(api, index, dataset, seed, epochs))
    return dict(results.state_dict())


def expected(index: int, dataset: str, split: str, seeds: tuple[int, ...], epoch: int) -> float:
    return sum(accuracy(index, dataset, split, seed, epoch) for seed in seeds) / len(seeds)


SEEDS = ((777,), (777, 888), (777, 888, 999))
"""Architectures of the benchmark have one to three seeds."""


def check_topology(table: Path, epochs: int) -> None:
    """The table of the three cells holds what `state` was given."""
    wanted = {
        "cifar10_test_accuracy": ("cifar10", "ori-test"),
        "cifar100_valid_accuracy": ("cifar100", "x-valid"),
        "cifar100_test_accuracy": ("cifar100", "x-test"),
        "imagenet16_120_valid_accuracy": ("ImageNet16-120", "x-valid"),
        "imagenet16_120_test_accuracy": ("ImageNet16-120", "x-test"),
        "cifar10_valid_accuracy": ("cifar10-valid", "x-valid"),
        "cifar10valid_test_accuracy": ("cifar10-valid", "ori-test"),
        "cifar10valid_train_accuracy": ("cifar10-valid", "train"),
        "cifar10_train_accuracy": ("cifar10", "train"),
        "cifar100_train_accuracy": ("cifar100", "train"),
        "imagenet16_120_train_accuracy": ("ImageNet16-120", "train"),
    }
    short = {f"{d}_valid_accuracy_12ep" for d in ("cifar10", "cifar100", "imagenet16_120")}
    costs = {f"{d}_{c}" for d in ("cifar10", "cifar100", "imagenet16_120") for c in ("mmacs", "mparams")}
    assert set(list_columns(table)) == set(wanted) | short | costs
    for column, (dataset, split) in wanted.items():
        values = [expected(i, dataset, split, SEEDS[i], epochs - 1) for i in range(3)]
        assert read_table(table, column) == pytest.approx(dict(zip(CELLS, values, strict=True)), abs=1e-6)
    for name, dataset in (("cifar10", "cifar10-valid"), ("cifar100", "cifar100"), ("imagenet16_120", "ImageNet16-120")):
        values = [expected(i, dataset, "x-valid", (111,), 11) for i in range(3)]
        assert list(read_table(table, f"{name}_valid_accuracy_12ep").values()) == pytest.approx(values, abs=1e-6)
    assert list(read_table(table, "cifar100_mmacs").values()) == [10.5, 11.5, 12.5]
    assert list(read_table(table, "imagenet16_120_mparams").values()) == [0.25, 1.25, 2.25]
    assert len(read_table(table, "cifar10_test_accuracy").check(create_space("nasbench201"))) == 3


# -- NAS-Bench-201 ------------------------------------------------------------------------------


def nasbench201_content(count: int = 3, epochs: int = 20) -> dict[str, Any]:
    entries = {
        i: {"full": state(nas_201_api, i, SEEDS[i % 3], epochs), "less": state(nas_201_api, i, (111,), 12)}
        for i in reversed(range(count))  # the file's order is not that of the numbers
    }
    return {
        "meta_archs": [CELLS[i % 3] for i in range(count)],
        "total_archs": count,
        "arch2infos": entries,
        "evaluated_indexes": list(range(count)),
    }


@pytest.fixture(scope="module")
def nasbench201_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nasbench201") / "NAS-Bench-201-v1_1-096897.pth"
    torch.save(nasbench201_content(), path, _use_new_zipfile_serialization=False)
    return path


def test_nasbench201(nasbench201_file: Path, tmp_path: Path) -> None:
    assert import_nasbench201(nasbench201_file, tmp_path / "table.csv.gz", trust=True) == 3
    check_topology(tmp_path / "table.csv.gz", epochs=20)
    assert list(read_table(tmp_path / "table.csv.gz", "cifar10_mmacs")) == list(CELLS)  # the benchmark's order


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("mapping", [dict, OrderedDict])
def test_nasbench201_saved_in_other_ways(tmp_path: Path, zipped: bool, protocol: int, mapping: type) -> None:
    content = nasbench201_content()
    content["arch2infos"] = mapping({i: mapping(entry) for i, entry in content["arch2infos"].items()})
    path = tmp_path / "file.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    import_nasbench201(path, tmp_path / "table.csv", trust=True)
    check_topology(tmp_path / "table.csv", epochs=20)


def test_version_1_0_of_nasbench201_lacks_short_trainings(tmp_path: Path) -> None:
    content = nasbench201_content()
    for entry in content["arch2infos"].values():
        less = entry["less"]
        less["dataset_seed"] = {"cifar10-valid": less["dataset_seed"]["cifar10-valid"]}
    torch.save(content, tmp_path / "file.pth")
    import_nasbench201(tmp_path / "file.pth", tmp_path / "table.csv", trust=True)
    assert [c for c in list_columns(tmp_path / "table.csv") if c.endswith("12ep")] == ["cifar10_valid_accuracy_12ep"]


def test_architectures_of_nasbench201_that_share_numbers_are_an_error(tmp_path: Path) -> None:
    """The official file has none; what was forgotten with one must not come back empty with another."""
    content = nasbench201_content()
    entries = content["arch2infos"]
    entries[0]["full"]["all_results"] = entries[1]["full"]["all_results"]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"cannot be read as a NAS-Bench-201 file.*Memo value not found"):
        import_nasbench201(tmp_path / "file.pth", tmp_path / "table.csv", trust=True)


def peak_memory(function: Any) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file_of_nasbench201(tmp_path: Path) -> None:
    peaks, whole = {}, {}
    for count in (3, 12):
        path, out = tmp_path / f"{count}.pth", tmp_path / f"{count}.csv"
        content = nasbench201_content(count, epochs=100)
        for i, entry in content["arch2infos"].items():
            entry["full"]["arch_str"] = f"cell{i}"
        torch.save(content, path, _use_new_zipfile_serialization=False)
        del content
        peaks[count] = peak_memory(lambda path=path, out=out: import_nasbench201(path, out, trust=True))
        # What reading it at once takes; the file is the test's own, and holds more than plain weights.
        whole[count] = peak_memory(lambda path=path: torch.load(path, weights_only=False))
    assert whole[12] > 3.5 * whole[3]
    assert peaks[12] - peaks[3] < 0.05 * (whole[12] - whole[3])


# -- NATS-Bench ---------------------------------------------------------------------------------


def nats_folder(folder: Path, texts: tuple[str, ...], recipes: dict[str, int]) -> Path:
    """A folder of NATS-Bench with these architectures and epochs by recipe."""
    folder.mkdir()
    meta = {"meta_archs": list(texts), "total_archs": len(texts), "arch2infos": None, "evaluated_indexes": set()}
    pickle_save(meta, str(folder / "meta.pickle"))
    for i, text in enumerate(texts):
        states = OrderedDict(
            (recipe, state(nats_bench, i, (111,) if recipe == "12" else SEEDS[i], epochs, text))
            for recipe, epochs in recipes.items()
        )
        pickle_save(states, str(folder / f"{i:06d}.pickle"))
    return folder


@pytest.fixture(scope="module")
def topology_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nats") / "NATS-tss-v1_0-3ffb9-simple"
    return nats_folder(folder, CELLS, {"12": 12, "200": 20})


def test_nats_bench_topology(topology_folder: Path, tmp_path: Path) -> None:
    assert import_nats_bench(topology_folder, tmp_path / "table.csv", trust=True) == 3
    check_topology(tmp_path / "table.csv", epochs=20)


def test_nats_bench_size(tmp_path: Path) -> None:
    texts = ("64:64:64:64:64", "8:16:24:32:40")
    folder = nats_folder(tmp_path / "NATS-sss-v1_0-50262-simple", texts, {"01": 1, "12": 12, "90": 15})
    assert import_nats_bench(folder, tmp_path / "table.csv", trust=True) == 2
    values = [expected(i, "cifar100", "x-test", SEEDS[i], 14) for i in range(2)]
    table = read_table(tmp_path / "table.csv", "cifar100_test_accuracy")
    assert table == pytest.approx(dict(zip(texts, values, strict=True)), abs=1e-6)
    assert [str(architecture) for architecture in table.check(create_space("nats_bench_size"))] == list(texts)


def test_nats_bench_holds_one_architecture_at_a_time(topology_folder: Path, tmp_path: Path) -> None:
    texts = tuple(f"|cell{i}|" for i in range(12))
    folder = tmp_path / "folder"
    nats_folder(folder, texts[:3], {"12": 12, "200": 20})
    meta = {"meta_archs": list(texts), "total_archs": 12, "arch2infos": None, "evaluated_indexes": set()}
    (folder / "meta.pickle.pbz2").unlink()
    pickle_save(meta, str(folder / "meta.pickle"))
    for i in range(3, 12):
        (folder / f"{i:06d}.pickle.pbz2").write_bytes((folder / "000002.pickle.pbz2").read_bytes())
    three = peak_memory(lambda: import_nats_bench(topology_folder, tmp_path / "3.csv", trust=True))
    twelve = peak_memory(lambda: import_nats_bench(folder, tmp_path / "12.csv", trust=True))
    assert twelve < 1.5 * three


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"meta.pickle.pbz2": None}, "is no folder of NATS-Bench: it has no meta"),
        ({"meta.pickle.pbz2": b"text"}, r"meta\.pickle\.pbz2 cannot be read as NATS-Bench's list.*OSError"),
        ({"meta.pickle.pbz2": bz2.compress(pickle.dumps(["x"]))}, r"meta\.pickle\.pbz2 cannot be read as"),
        ({"000001.pickle.pbz2": None, "000002.pickle.pbz2": None}, r"2 of 3 files are missing, first 000001\.pickle"),
        ({"000001.pickle.pbz2": b""}, r"000001\.pickle\.pbz2 cannot be read as a file of NATS-Bench.*EOFError"),
        ({"000001.pickle.pbz2": -100}, r"000001\.pickle\.pbz2 cannot be read as a file of NATS-Bench.*EOFError"),
        ({"000001.pickle.pbz2": bz2.compress(pickle.dumps({}))}, r"000001\.pickle\.pbz2 .*KeyError: '200'"),
    ],
)
def test_a_damaged_folder_of_nats_bench(
    topology_folder: Path, tmp_path: Path, damage: dict[str, bytes | int | None], message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in topology_folder.iterdir():
        content = damage.get(file.name, file.read_bytes())
        if isinstance(content, int):
            content = file.read_bytes()[:content]
        if content is not None:
            (folder / file.name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_nats_bench(folder, tmp_path / "table.csv", trust=True)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# -- NAS-Bench-Suite-Zero -----------------------------------------------------------------------


def entry(score: float, **more: Any) -> dict[str, Any]:
    return {
        "nwot": {"score": score, "time": 0.5},
        "jacov": {"score": -score, "time": 0.25},
        "id": 7,
        "val_accuracy": 90 + score,
        **more,
    }


SUITE = {
    "cifar10": {
        "(4, 0, 3, 1, 4, 3)": entry(1.0),
        "(2, 2, 2, 2, 2, 2)": entry(2.0, zen={"score": float("nan"), "time": 1}),
    },
    "ImageNet16-120": {"(4, 0, 3, 1, 4, 3)": entry(3.0)},
}


def write_suite(folder: Path, content: Any) -> Path:
    path = folder / "zc_nasbench201.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_suite_zero(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert import_suite_zero(write_suite(tmp_path, SUITE), out) == 3
    first = "|avg_pool_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_1x1~2|"
    second = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    assert list_columns(out) == ["val_accuracy", "nwot", "jacov"]
    assert dict(read_table(out, where={"dataset": "cifar10"})) == {first: 91.0, second: 92.0}
    assert dict(read_table(out, "jacov", where={"dataset": "ImageNet16-120"})) == {first: -3.0}


def test_each_index_of_suite_zero_stands_for_one_edge(tmp_path: Path) -> None:
    """NASLib counts edges by their source, the benchmark's string by their target."""
    edges = {0: (1, 0), 1: (2, 0), 2: (3, 0), 3: (2, 1), 4: (3, 1), 5: (3, 2)}
    keys = {position: str(tuple(2 if i == position else 1 for i in range(6))) for position in edges}
    out = tmp_path / "table.csv"
    import_suite_zero(write_suite(tmp_path, {"cifar10": {key: entry(p) for p, key in keys.items()}}), out)
    space = create_space("nasbench201")
    for architecture, position in zip(read_table(out, "nwot").check(space), edges, strict=True):
        choices = dict(zip(space.decisions, architecture.choices, strict=True))
        target, source = edges[position]
        assert [name for name, op in choices.items() if op == "nor_conv_3x3"] == [f"node{target}_from_node{source}"]
        assert list(choices.values()).count("none") == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as a NAS-Bench-Suite-Zero JSON.*JSONDecodeError"),
        (json.dumps(SUITE)[:-20], "cannot be read as a NAS-Bench-Suite-Zero JSON.*JSONDecodeError"),
        ("[1, 2]", "cannot be read as a NAS-Bench-Suite-Zero JSON"),
        ({"cifar10": [1]}, "cannot be read as a NAS-Bench-Suite-Zero JSON"),
        ({"cifar10": {"(4, 0, 3)": entry(1)}}, r"'\(4, 0, 3\)' is no cell of NAS-Bench-201"),
        ({"cifar10": {"(4, 0, 3, 1, 4, 5)": entry(1)}}, r"'\(4, 0, 3, 1, 4, 5\)' is no cell of NAS-Bench-201"),
        ({"cifar10": {"((1, 2), (3, 4))": entry(1)}}, "cannot be read as a NAS-Bench-Suite-Zero JSON.*ValueError"),
        ({"cifar10": {"(4, 0, 3, 1, 4, 3)": {"nwot": {"score": 1}}}}, "KeyError: 'val_accuracy'"),
        ({"cifar10": {"(4, 0, 3, 1, 4, 3)": entry(1, zen="high")}}, "could not convert string to float: 'high'"),
        ({"jigsaw": {"(3, 0, 3, 1, 2, 3)": entry(1)}}, r"is of TransNAS-Bench-101 \(jigsaw\)"),
        ({}, "holds no architectures"),
    ],
)
def test_what_is_no_suite_zero(tmp_path: Path, content: Any, message: str) -> None:
    path = write_suite(tmp_path, content)
    with pytest.raises(ValueError, match=f"zc_nasbench201.json .*{message}"):
        import_suite_zero(path, tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == [path]


# -- NAS-Bench-Macro ----------------------------------------------------------------------------

MACRO: dict[str, Any] = {
    text: {"test_acc": [accuracy, accuracy + 1, accuracy + 5], "mean_acc": 0, "std": 0, "params": 10**6, "flops": 7}
    for text, accuracy in {"00000000": 80.0, "21002210": 91.5, "22222222": 90.0}.items()
}


def write_macro(folder: Path, content: Any) -> Path:
    path = folder / "nas-bench-macro_cifar10.json"
    path.write_text(json.dumps(content))
    return path


def test_nasbench_macro(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert import_table("nasbench_macro", write_macro(tmp_path, MACRO), out) == 3
    table = read_table(out)
    assert dict(table) == {"00000000": 82.0, "21002210": 93.5, "22222222": 92.0}
    assert [str(architecture) for architecture in table.check(create_space("nasbench_macro"))] == list(MACRO)
    assert dict(read_table(out, "cifar10_mparams")) == dict.fromkeys(MACRO, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "cannot be read as a NAS-Bench-Macro JSON"),
        ({"00000003": MACRO["00000000"]}, "an architecture is 8 digits from 0 to 2"),
        ({"00000000": {"test_acc": []}}, "ZeroDivisionError"),
        ({"00000000": {"mean_acc": 90.0}}, "KeyError: 'test_acc'"),
        ({}, "holds no architectures"),
    ],
)
def test_what_is_no_nasbench_macro(tmp_path: Path, content: Any, message: str) -> None:
    path = write_macro(tmp_path, content)
    with pytest.raises(ValueError, match=f"nas-bench-macro_cifar10.json .*{message}"):
        import_table("nasbench_macro", path, tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == [path]


# -- what all importers refuse ------------------------------------------------------------------


class Evil:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["nasbench201", "nats_bench"])
def test_a_pickle_is_not_touched_without_trust(tmp_path: Path, kind: str) -> None:
    path, made, out = tmp_path / "benchmark", tmp_path / "made", tmp_path / "table.csv"
    if kind == "nats_bench":
        path.mkdir()
        pickle_save(Evil(made), str(path / "meta.pickle"))
    else:
        torch.save(Evil(made), path)
    with pytest.raises(
        PermissionError, match=r"benchmark is a pickle.*can run any code.*trust=True in Python, --trust true on"
    ):
        import_table(kind, path, out)
    assert not made.exists()
    with pytest.raises(ValueError, match="cannot be read as"):
        import_table(kind, path, out, trust=True)
    assert made.exists()
    assert not out.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no zip", b"plain text", pickle.dumps({"a": 1})],
    ids=["empty", "zip", "text", "pickle"],
)
def test_what_is_no_file_of_torch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth cannot be read as a NAS-Bench-201 file; it is of another kind"):
        import_nasbench201(path, tmp_path / "table.csv", trust=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2)}, [1, 2], {"evaluated_indexes": []}, {"evaluated_indexes": [1]}]
)
def test_a_file_of_torch_that_is_no_nasbench201(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth (cannot be read as a NAS-Bench-201 file|is damaged: it holds 0)"):
        import_nasbench201(tmp_path / "file.pth", tmp_path / "table.csv", trust=True)
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_nasbench201(nasbench201_file: Path, tmp_path: Path, share: float) -> None:
    content = nasbench201_file.read_bytes()
    path = tmp_path / "file.pth"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"file\.pth cannot be read as a NAS-Bench-201 file; .* damaged"):
        import_nasbench201(path, tmp_path / "table.csv", trust=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_nasbench201_without_all_that_it_names(tmp_path: Path) -> None:
    content = nasbench201_content()
    del content["arch2infos"][1]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="is damaged: it holds 2 of the 3 architectures that it names"):
        import_nasbench201(tmp_path / "file.pth", tmp_path / "table.csv", trust=True)


@pytest.mark.parametrize("kind", IMPORTERS)
def test_paths_that_do_not_fit(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no (file|folder) .*absent"):
        import_table(kind, tmp_path / "absent", tmp_path / "table.csv", trust=True)
    file = tmp_path / "file"
    file.write_text("{}")
    wrong, right = (file, tmp_path) if kind == "nats_bench" else (tmp_path, file)
    with pytest.raises(ValueError, match=r"is no (file|folder)"):
        import_table(kind, wrong, tmp_path / "table.csv", trust=True)
    with pytest.raises(ValueError, match=r"ends in \.csv or \.csv\.gz"):
        import_table(kind, right, tmp_path / "table.txt", trust=True)
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        import_table(kind, right, tmp_path / "table.csv", trust=True)
    assert (tmp_path / "table.csv").read_text() == "mine"


@pytest.mark.parametrize(("kind", "package"), [("nasbench201", "nas_201_api"), ("nats_bench", "nats_bench")])
def test_a_package_that_is_not_installed(
    kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nasbench201_file: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path if kind == "nats_bench" else nasbench201_file
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is needed.*pip install 'diswot-search\[benchmarks\]'"):
        import_table(kind, path, tmp_path / "table.csv", trust=True)


def test_kinds_by_name(tmp_path: Path, nasbench201_file: Path, topology_folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown kind of .* 'nats-bench'\. Did you mean 'nats_bench'"):
        import_table("nats-bench", topology_folder, tmp_path / "table.csv")
    suite, records = write_suite(tmp_path, SUITE), tmp_path / "records"
    write_records(records, [record(cell, 108, index / 10) for index, cell in enumerate(NASBENCH101_CELLS)])
    paths = {
        "nasbench101": records,
        "nasbench201": nasbench201_file,
        "nasbench_macro": write_macro(tmp_path, MACRO),
        "nats_bench": topology_folder,
        "suite_zero": suite,
    }
    assert paths.keys() == IMPORTERS.keys()
    for kind, path in paths.items():
        assert import_table(kind, path, tmp_path / f"{kind}.csv", trust=kind in ("nasbench201", "nats_bench")) == 3
    assert (tmp_path / "nasbench201.csv").read_text() == (tmp_path / "nats_bench.csv").read_text()


def test_progress_is_shown_in_a_terminal_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_suite(tmp_path, SUITE)
    import_suite_zero(suite, tmp_path / "silent.csv")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    import_suite_zero(suite, tmp_path / "unwanted.csv", progress=False)
    assert capfd.readouterr() == ("", "")
    import_suite_zero(suite, tmp_path / "shown.csv")
    assert "3/3" in capfd.readouterr().err
