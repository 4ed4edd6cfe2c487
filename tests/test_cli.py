"""The command line: what it prints, what it leaves behind, and what it answers."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

import diswot_search as ds
from diswot_search import Study
from diswot_search.cli import main
from diswot_search.proxies import registry
from diswot_search.reports import details
from search_spaces import CifarResNetSpace

SMALL = (
    "search --space_options.channels 4 --space_options.cells 1 --teacher cifar_resnet20 --batch_size 8 --device cpu "
    "--max_params 0.012e6 --evaluations 8 --algorithm random --out run"
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(line: str) -> int:
    return main(shlex.split(line))


def read_config(folder: str = "run") -> dict:
    return yaml.safe_load((Path(folder) / "config.yaml").read_text())


def test_a_search_prints_the_best_and_leaves_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SMALL) == 0
    shown = capsys.readouterr()
    study = Study.load("run")
    for candidate in study.best(5):
        assert candidate.record.architecture in shown.out
        assert f"{candidate.score:.5g}" in shown.out
    assert "Best 5 of 8 evaluations" in shown.out
    assert "Parts of effective_capacity" in shown.out
    assert f"{study.winner.parts['layer_entropy']:.5g}" in shown.out
    assert "score: effective_capacity, which does not look at the teacher (cifar_resnet20)\n" in shown.out
    assert "Logs, which add up to the score." in shown.out
    assert "images: digits\n" in shown.out
    assert "budget: max_params 12,000" in shown.out
    assert "run folder: run" in shown.out
    begun, done = shown.err.splitlines()  # standard error is no terminal here
    assert begun == "searching  8 candidates to score"
    assert done.startswith("searching  8 of 8 candidates scored  best ")
    names = {path.name for path in Path("run").iterdir()}
    assert names == {
        "architectures.csv", "config.json", "config.yaml", "curves", "data.json", "front.png", "lock", "progress.png",
        "result.json", "study.sqlite",
    }  # fmt: skip


def test_a_run_can_be_done_again_from_the_config_that_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SMALL) == 0
    config = read_config()
    assert config["max_params"] == 12000
    assert config["space_options"] == {"channels": 4, "cells": 1}
    first = capsys.readouterr().out
    assert run("search --config run/config.yaml") == 0
    assert capsys.readouterr().out == first
    assert run("search --config run/config.yaml --out again") == 0
    assert read_config("again") == config | {"out": "again"}
    assert [r.score for r in Study.load("again").records] == [r.score for r in Study.load("run").records]
    assert run("search --config run/config.yaml --evaluations 11") == 0
    assert len(Study.load("run")) == 11
    assert read_config()["evaluations"] == 11


def test_print_config_gives_a_file_that_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(f"{SMALL} --print_config")
    assert end.value.code == 0
    Path("c.yaml").write_text(capsys.readouterr().out)
    assert run("search --config c.yaml") == 0
    assert read_config() == yaml.safe_load(Path("c.yaml").read_text())


def test_show_says_how_to_build_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    run(SMALL)
    capsys.readouterr()
    assert run("show run --best 2") == 0
    shown = capsys.readouterr().out
    assert "Best 2 of 8 evaluations" in shown
    assert "status: complete, 8 evaluations" in shown
    lines = [line for line in shown.splitlines() if "model = " in line]
    assert len(lines) == 2
    winner = Study.load("run").winner
    for line in lines:
        names: dict = {}
        exec(line.strip(), names)
        assert sum(p.numel() for p in names["model"].parameters()) == winner.params


def test_show_knows_studies_of_spaces_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    space = CifarResNetSpace(depths=[(1, 2), (1,), (1,)], widths=[(4,), (4,), (4,)], name="mine")
    ds.search(space, "cifar_resnet20", ds.create_probe(batch_size=8), evaluations=2, out="run")
    assert run("show run") == 0
    shown = capsys.readouterr().out
    assert "Best 2 of 2 evaluations" in shown
    assert "give it to Study.load as `space`" in shown


def test_a_search_needs_no_teacher_unless_its_score_does(capsys: pytest.CaptureFixture[str]) -> None:
    line = SMALL.replace("--teacher cifar_resnet20 ", "")
    assert run(line) == 0
    assert "teacher" not in capsys.readouterr().out
    assert (read_config()["teacher"], read_config()["proxy"]) == (None, "effective_capacity")
    assert run("show run --best 2") == 0
    shown = capsys.readouterr().out
    for candidate in Study.load("run").best(2):
        for name, value in candidate.parts.items():
            assert name in shown
            assert f"{value:.5g}" in shown


def test_spaces_lists_all_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("spaces") == 0
    shown = capsys.readouterr().out
    assert "15,625" in shown
    assert "73.31 k to 1.532 M" in shown
    assert "cifar_resnet_s0" in shown
    assert run("spaces cifar_resnet_s0") == 0
    shown = capsys.readouterr().out
    assert "64 architectures" in shown
    assert "1, 3, 5, 7" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "No command is given. Commands: search, show, "),
        ("serch", "Unknown command 'serch'. Did you mean 'search'"),
        ("qqqq", "Unknown command 'qqqq'. Known: algorithms, compare, "),
        ("--evaluatons 3", "No command has the option --evaluatons. Did you mean --evaluations, after a command?"),
        ("--evaluations 3 search", "--evaluations stands before the command; write it after one that takes it: search"),
        ("--config x.yaml search", "--config stands before the command"),
        ("--search", "Unknown command '--search'. Did you mean 'search'"),
        ("--versoin", "There is no option --versoin without a command. Did you mean --version?"),
        ("-x", "No command has the option -x."),
        ("search --imprt x", "arguments: --imprt x. Did you mean --import"),
        ("search --quite", "arguments: --quite. Did you mean --quiet"),
        ("search --quiet maybe", "quiet is 'maybe'; it must be true or false."),
        ("search --import none.py", "There is no file none.py."),
        ("search --import none", "There is no module none."),
        ("search --import 'a b'", "'a b' names no code; give a module, a file ending in .py"),
        ("search --space none.py:Space", "There is no file none.py."),
        ("search --space '[nasbench201, nasbench21]'", "Unknown search space 'nasbench21'. Did you mean 'nasbench201'"),
        ("search --space '[nasbench201, nasbench201]'", "The search space nasbench201 is given twice."),
        ("search --space '[]'", "[] names no search space"),
        ("algorithms evolutio", "Unknown algorithm 'evolutio'. Did you mean 'evolution'"),
        ("search --evaluation_s 3", "arguments: --evaluation_s 3"),
        ("search --evaluations many", "evaluations is 'many'; it must be a whole number."),
        ("search --bf16 maybe", "bf16 is 'maybe'; it must be true or false."),
        ("search --evaluations 0", "evaluations is 0"),
        ("search --config none.yaml", "none.yaml"),
        ("search --space nasbench21", "Unknown search space 'nasbench21'. Did you mean 'nasbench201'"),
        (
            "search --space_options.chanels 3",
            "there is no option 'chanels'; did you mean 'channels' or 'cells'?",
        ),
        ("search --space_options.num_classes 3", "has 10 classes, but the networks of 'nasbench201' have 3"),
        ("search --teacher resnet-18", "Unknown teacher 'resnet-18'. Did you mean 'resnet18'"),
        ("search --teacher '|nor_conv_9x9~0|'", "is no architecture of nasbench201: a cell has 3 nodes"),
        ("search --teacher cifar_resnet20 --teacher_checkpoint none.pt", "There is no checkpoint none.pt"),
        ("search --teacher_checkpoint none.pt", "There is no teacher; teacher_checkpoint cannot be set without one."),
        ("search --proxy diswot", "'diswot' compares with a teacher; none was given. Name a teacher, such as"),
        ("search --proxy diswott", "Unknown proxy 'diswott'. Did you mean 'diswot'"),
        ("search --probe digitz", "Unknown data set 'digitz'. Did you mean 'digits'"),
        ("search --probe none.npz", "none.npz"),
        ("search --probe_options.rot x", "A probe has no option 'rot'; did you mean 'root'? Allowed: root, split"),
        ("search --batch_size 9999", "batch_size is 9999, but 'digits' has only 1797 images"),
        ("search --algorithm evolutio", "Unknown algorithm 'evolutio'. Did you mean 'evolution'"),
        ("search --algorithm_options.size 3", "The algorithm 'evolution' has no option 'size'"),
        ("search --max_params 1e3", "the smallest cost of the space is 73,306 params"),
        ("search --max_params -1", "max_params is -1.0; it must be a positive"),
        ("search --device gpu", "Unknown device 'gpu'"),
        ("show none", "There is no run folder none."),
        ("spaces nasbench", "Unknown search space 'nasbench'. Did you mean 'nasbench201'"),
        ("compare", "Which table? --table names a CSV file"),
        ("compare --table none.csv", "There is no table none.csv"),
        ("compare --tables none.csv", "arguments: --tables none.csv"),
        ("proxies synflo", "Unknown proxy 'synflo'. Did you mean 'synflow'"),
        (
            "import nasbench21 file.pth table.csv",
            "Unknown kind of benchmark file 'nasbench21'. Did you mean 'nasbench201'",
        ),
        ("import nasbench201 file.pth", "arguments are required: import.out"),
        ("train --model resnet-18", "The student 'resnet-18' is no timm model"),
        ("train --model_options.foo 3", "has no option 'foo'"),
        ("train --space_options.channels 3", "space_options are given, but no space"),
        ("train --epochs 0", "epochs is 0"),
        ("train --epochs two", "epochs is 'two'; it must be a whole number."),
        ("train --epochs", "argument --epochs: expected one argument\n"),
        ("train --epochs --lr 1", "argument --epochs: expected one argument\n"),
        ("train --epoch 3", "arguments: --epoch 3. Did you mean --epochs"),
        ("train --modle=cifar_resnet20", "arguments: --modle=cifar_resnet20. Did you mean --model"),
        ("train --qqqq 3", "arguments: --qqqq 3\n"),
        ("train --data_options 3", "data_options is '3'; it must be a mapping of names to values."),
        ("train --data_options.train_limt 3", "no option 'train_limt'; did you mean 'train_limit'"),
        ("train --lr abc", "lr is 'abc'; it must be a number."),
        ("train --recipe cifarr", "Unknown recipe 'cifarr'. Did you mean 'cifar'"),
        ("train --recipe_options.precision fp64", "Unknown precision 'fp64'"),
        ("train --dataset digitz", "Unknown data set 'digitz'. Did you mean 'digits'"),
        ("train --data_options.rot x", "A data set has no option 'rot'; did you mean 'root'? Allowed: root, download"),
        ("train --rule worst", "rule is 'worst'"),
        ("train --device gpu", "Unknown device 'gpu'"),
        ("train --checkpoint_minutes 0", "checkpoint_minutes is 0"),
        ("distill", "The student runs/search is neither a file nor a folder"),
        ("distill --student cifar_resnet20", "The default, runs/train, does not exist"),
        ("distill --distiller kd+diswott", "Unknown distiller 'diswott'. Did you mean 'diswot'"),
        ("distill --distiller kd+-1*at", "the weight of at is -1.0"),
        ("distill --distiller.kd -1", "the weight of kd is -1"),
        ("distill --distiller '-1*kd'", "expected one argument; write --distiller=-1*kd"),
        ("distill --distiller=-1*kd", "the weight of kd is -1"),
        ("distill --ce_weight nan", "ce_weight is 'nan'; it must be a number."),
        ("distill --student cifar_resnet20 --teacher resnet18 --teacher_pretrained true", "has 1000. Three ways"),
        ("distill --student cifar_resnet20 --teacher resnet18 --teacher_checkpoint none.pt", "none.pt"),
        ("distill --student cifar_resnet20 --teacher cifar_resnet20 --ce_weight -1", "ce_weight is -1.0"),
        ("sources", "Which sources? --sources '[runs/mnist, resnet18]' names"),
        ("sources --sources '[none]'", "The source 'none' is no timm model, run folder or file"),
        ("sources --sources '[resnet-18]'", "Did you mean 'resnet18'"),
        ("sources --sources none", "The source 'none' is no timm model, run folder or file"),
        (
            "search --power 3 --labels-per-class 2",
            "The teacher is no ranking of sources; power, labels_per_class cannot",
        ),
        ("measures parcc", "Unknown measure 'parcc'. Did you mean 'parc'"),
        ("sources --sources '[resnet18]' --measures parcc", "Unknown measure 'parcc'. Did you mean 'parc'"),
        ("sources --sources '[resnet18]' --measure knn", "arguments: --measure knn. Did you mean --measures"),
        ("sources --sources '[resnet18]' --labels 0%", "0%"),
        ("sources --sources '[resnet18]' --image_draws 0", "draws is 0"),
        ("run --max_params 1e3", "the smallest cost of the space is 73,306 params"),
        ("run --distiller kdd", "Unknown distiller 'kdd'. Did you mean 'kd'"),
        ("run --teacher_epochs 0", "epochs is 0"),
        ("run --data_options.rot x", "A data set has no option 'rot'; did you mean 'root'? Allowed: root, download"),
        ("export none", "No trained student at none"),
        ("export none --format onx", "Unknown format 'onx'. Did you mean 'onnx'"),
        ("export", "arguments are required: export.student"),
        ("distillers fitnett", "Unknown distiller 'fitnett'. Did you mean 'fitnet'"),
    ],
)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing(
    line: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(line) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("diswot: error: ")
    assert shown.err.count("\n") == 1
    assert not shown.out or "as far as it was read" in shown.out  # the table of what was read goes before
    assert not list(tmp_path.iterdir())


def test_a_config_of_another_command_is_told_whose_it_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("student: cifar_resnet20\nepochs: 3\n")
    assert run("train --config c.yaml") == 2
    assert "does not accept option 'student'; taken by: distill, sweep, export\n" in capsys.readouterr().err


def test_a_folder_that_is_given_as_a_data_set_is_read_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("imgs").mkdir()
    assert run("train --dataset imgs") == 2
    assert "Found 0 images in sub-folders of 'imgs'" in capsys.readouterr().err


def test_a_run_folder_of_another_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run(SMALL)
    before = {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    assert run(f"{SMALL} --proxy relation") == 2
    assert 'proxy is "effective_capacity" there, "relation" here' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before


def test_a_teacher_may_be_an_architecture_of_the_space() -> None:
    cell = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_3x3~2|"
    assert run(f"{SMALL} --teacher '{cell}'") == 0
    assert json.loads(Path("run/config.json").read_text())["teacher"]["name"] == f"nasbench201:{cell}"


def test_an_interrupted_command_says_that_it_can_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diswot_search.study.evaluator import Evaluator

    evaluate = Evaluator.evaluate

    def interrupted(self: Evaluator, architecture):
        if len(Study.load("run")) == 3:
            raise KeyboardInterrupt
        return evaluate(self, architecture)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        assert run(SMALL) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert Study.load("run").status == "interrupted"
    assert run(SMALL) == 0
    assert len(Study.load("run")) == 8


def test_the_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "diswot_search", "search", "--evaluations", "x"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("diswot: error: ")


def test_show_lists_the_front_of_nsga2_and_the_spread_of_several_draws(capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{SMALL} --algorithm nsga2 --algorithm_options.population 4 --weight_draws 2")
    assert "±" in capsys.readouterr().out
    assert run("show run") == 0
    assert "Pareto front of score against params" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search --space_options.channels abc", "channels is 'abc'; it must be a whole number"),
        ("search --teacher cifar_resnet20 --teacher_options.foo 3", "has no option 'foo'"),
        ("show run --best 0", "at least 1"),
    ],
)
def test_wrong_types_and_options_are_named(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(SMALL)
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


# -- comparisons --------------------------------------------------------------------------------

CELLS = [
    f"|{first}~0|+|none~0|{second}~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    for first in ("nor_conv_3x3", "avg_pool_3x3")
    for second in ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
]
COMPARE = (
    "compare --space_options.channels 4 --space_options.cells 1 --table ../known.csv --column accuracy "
    "--proxies '[l2_norm, \"log_rank(l2_norm, macs)\"]' --teacher cifar_resnet20 --batch_size 8 --device cpu "
    "--bootstrap 10 --out run"
)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of six cells in the folder above; pictures, which take long, are not drawn."""
    monkeypatch.setattr(importlib.import_module("diswot_search.jobs.compare"), "COMPARISON_PICTURES", {})
    table = tmp_path / "known.csv"
    lines = [f"{cell},{data},{60 + i}\n" for data in ("a", "b") for i, cell in enumerate(CELLS)]
    table.write_text("architecture,dataset,accuracy\n" + "".join(lines))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return table


def test_a_comparison_prints_its_table_and_leaves_a_run_folder(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{COMPARE} --where.dataset a --sample 5 --weight_draws 2 --fresh_probes true") == 0
    shown = capsys.readouterr()
    assert "log_rank(l2_norm, macs)" in shown.out
    assert "5 architectures" in shown.out
    assert "run folder: run" in shown.out
    assert shown.err == ""
    config = json.loads(Path("run/config.json").read_text())
    assert len({probe["fingerprint"] for probe in config["probes"]}) == 2
    assert {path.name for path in Path("run").iterdir()} == {
        "comparison.csv", "comparison.json", "comparison.md", "config.json", "config.yaml", "data.json", "lock",
        "scores.csv", "scores.sqlite",
    }  # fmt: skip


def test_a_comparison_can_be_done_again_from_the_config_that_it_wrote(
    known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{COMPARE} --where.dataset b") == 0
    first = capsys.readouterr().out
    assert read_config()["proxies"] == ["l2_norm", "log_rank(l2_norm, macs)"]
    scores = Path("run/scores.csv").read_bytes()
    assert run("compare --config run/config.yaml") == 0
    assert capsys.readouterr().out == first
    assert run("compare --config run/config.yaml --out again") == 0
    assert Path("again/scores.csv").read_bytes() == scores
    assert read_config("again") == read_config() | {"out": "again"}
    some = shlex.quote(json.dumps(CELLS[:4]))
    assert run(f"compare --config run/config.yaml --proxies semantic --controls true --architectures {some}") == 0
    assert "other teacher: cifar_wrn_40_1" in capsys.readouterr().out
    assert len(Path("run/scores.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "is there twice; the two differ in dataset"),
        ("--where.dataset c", "Unknown dataset 'c'"),
        ("--where.dataset a --column acuracy", "Unknown column 'acuracy'. Did you mean 'accuracy'"),
        ("--where.dataset a --proxies synflo", "Unknown proxy 'synflo'. Did you mean 'synflow'"),
        ("--where.dataset a --proxies '[log_rank(l2_norm, macs)]'", "'log_rank(l2_norm' is no aggregate"),
        ("--where.dataset a --proxies diswot --teacher null", "No teacher for 'diswot': pass"),
        ("--where.dataset a --controls true", "none of these does: 'l2_norm'"),
        ("--where.dataset a --sample 7", "sample is 7, but ../known.csv (dataset=a) has 6 architectures to compare"),
        (
            "--where.dataset a --space cifar_resnet --space_options null",
            "6 of the 6 architectures of",
        ),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_in_one_line(
    known: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{COMPARE} {arguments}") == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_a_comparison_that_runs_out_of_memory_says_what_to_do(
    known: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(student: ds.Readings, teacher: ds.Readings | None) -> float:
        raise MemoryError

    monkeypatch.setattr(registry._PROXIES, "_entries", dict(registry._PROXIES._entries))
    registry.register_proxy("hungry", hungry)
    assert run(f"{COMPARE} --where.dataset a --proxies hungry --bins 2 --retry_failed true") == 2
    shown = capsys.readouterr().err
    assert "Out of memory in the proxy 'hungry'" in shown
    assert shown.count("\n") == 1
    assert (read_config()["bins"], read_config()["retry_failed"]) == (2, True)


def test_an_interrupted_comparison_says_that_it_can_go_on(
    known: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diswot_search.comparison.store import ScoreStore

    add, stored = ScoreStore.add, []

    def interrupted(self: ScoreStore, seed: int, scores: dict, *others: object) -> None:
        add(self, seed, scores, *others)
        stored.append(len(scores))
        if len(stored) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "add", interrupted)
        assert run(f"{COMPARE} --where.dataset a") == 130
    shown = capsys.readouterr().err
    assert "the same command continues" in shown
    assert shown.count("stopping") <= 1
    assert stored == [6, 1, 1]  # all costs, and two architectures
    assert run(f"{COMPARE} --where.dataset a") == 0


def test_proxies_lists_what_each_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("proxies") == 0
    shown = capsys.readouterr().out
    for name in ds.list_proxies():
        assert f" {name} " in shown
    assert "A search uses effective_capacity by default" in shown
    assert run("proxies s*p*") == 0
    shown = capsys.readouterr().out
    assert "A search uses" not in shown
    assert " snip " in shown
    assert " swap " in shown
    assert "synflow" not in shown
    assert "diswot" not in shown


@pytest.mark.parametrize("command", ["search", "compare"])
def test_help_says_where_the_names_of_proxies_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        run(f"{command} --help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "`diswot proxies` lists" in shown
    assert "log_rank(nwot, macs)" in shown


def test_an_import_hands_on_what_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from search_spaces import importers

    given: list = []

    def fake(path: str, out: str, **options: bool) -> int:
        given.append((path, out, options))
        return 15625

    monkeypatch.setitem(importers.IMPORTERS, "nasbench201", fake)
    assert run("import nasbench201 official.pth table.csv.gz --trust true") == 0
    assert given == [("official.pth", "table.csv.gz", {"trust": True, "progress": True})]
    assert capsys.readouterr().out == "15,625 rows: table.csv.gz\n"


# -- trainings ----------------------------------------------------------------------------------

QUICK = "--data_options.image_size 8 --data_options.train_limit 40 --batch_size 20 --epochs 2 --device cpu"
TRAIN = f"train --model cifar_resnet --model_options.arch 1x4-1x4-1x8 {QUICK} --out teacher"
CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
DISTILL = (
    f"distill --student '{CELL}' --space nasbench201 --space_options.channels 4 --space_options.cells 1 "
    f"--teacher teacher {QUICK} --out run"
)
RUN = (
    "run --teacher cifar_resnet --teacher_options.arch 1x4-1x4-1x8 --space_options.channels 4 --space_options.cells 1 "
    f"--max_params 0.012e6 --evaluations 3 --algorithm random --probe_size 8 --finalists 0 {QUICK} --out run"
)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and are tested with what draws them."""
    from diswot_search.jobs import training_run as training

    monkeypatch.setattr(training, "plot_training", lambda rows, result: {})
    monkeypatch.setattr(importlib.import_module("diswot_search.jobs.search"), "PICTURES", {})


@pytest.mark.usefixtures("no_pictures")
def test_a_teacher_is_trained_and_a_student_distilled(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TRAIN) == 0
    shown = capsys.readouterr()
    assert "cifar_resnet alone: 2 epochs" in shown.out
    assert "run folder: teacher" in shown.out
    lines = shown.err.splitlines()  # standard error is no terminal here
    assert [line.split("  ")[:2] for line in lines] == [["training", "epoch 1/2"], ["training", "epoch 2/2"]]
    assert "images/s" in lines[0]
    assert run(f"{TRAIN} --out again --quiet") == 0
    assert capsys.readouterr().err == ""
    assert read_config("again")["quiet"] is True
    assert run(f"{DISTILL} --distiller kd+2*at --teacher_options null") == 0
    shown = capsys.readouterr().out
    assert "0.1 cross entropy + 0.9 kd + 2 at" in shown
    result = json.loads(Path("run/result.json").read_text())
    assert f"{result['test']['accuracy']:.2f} % of 359 images" in shown
    assert ds.load_student("run").num_classes == 10


@pytest.mark.usefixtures("no_pictures")
def test_a_training_can_be_done_again_from_the_config_that_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TRAIN) == 0
    assert run(f"{DISTILL} --distiller.kd null --distiller.fitnet 50.0 --ce_weight 0.5") == 0
    assert read_config()["distiller"] == {"kd": None, "fitnet": 50.0}
    assert read_config()["data_options"] == {"image_size": 8, "train_limit": 40}
    capsys.readouterr()
    weights = Path("run/student/student.safetensors").read_bytes()
    assert run("distill --config run/config.yaml --out again") == 0
    assert "0.5 cross entropy + 0.9 kd + 50 fitnet" in capsys.readouterr().out
    assert read_config("again") == read_config() | {"out": "again"}
    assert Path("again/student/student.safetensors").read_bytes() == weights
    before = Path("again/result.json").read_bytes()
    assert run("distill --config again/config.yaml") == 0  # it is done: nothing is trained
    assert Path("again/result.json").read_bytes() == before
    assert run("distill --config again/config.yaml --ce_weight 0.6") == 2
    assert "ce_weight is 0.5 there, 0.6 here" in capsys.readouterr().err
    assert read_config("again")["ce_weight"] == 0.5


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_training_is_shown_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diswot_search.training.folder import TrainingFolder

    assert run("show .") == 2
    assert (
        "is no run folder of a search, comparison, training, ranking of sources, pipeline, sweep or shortlist"
        in capsys.readouterr().err
    )
    add = TrainingFolder.add_row

    def add_and_interrupt(self: TrainingFolder, row: dict) -> None:
        add(self, row)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "add_row", add_and_interrupt)
        assert run(TRAIN) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert run("show teacher") == 0
    shown = capsys.readouterr().out
    assert "interrupted or running: 1 of 2 epochs done, 2 steps; the same command continues" in shown
    assert "load_student" not in shown
    assert "cifar_resnet alone" in shown
    assert run(TRAIN) == 0
    trained = capsys.readouterr().out
    assert run("show teacher") == 0
    announced = "student cifar_resnet: 4 steps, 2 epochs of 2 (40 images in batches of 20)\n"
    assert announced in trained
    assert capsys.readouterr().out == trained.replace(announced, "")


def test_a_training_that_diverges_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{TRAIN} --lr 1e30") == 2
    shown = capsys.readouterr().err
    assert "diverged at step" in shown
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("no_pictures")
def test_a_pipeline_shows_its_stages_and_leaves_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{RUN} --distiller kd+diswot") == 0
    shown = capsys.readouterr().out
    for part in ("cifar_resnet alone", "Best 3 of 3 evaluations", "under cifar_resnet", "student alone", "distilled"):
        assert part in shown
    assert "run folder: run" in shown
    result = json.loads(Path("run/result.json").read_text())
    assert f"({result['difference']:+.2f})" in shown
    config = read_config()
    assert (config["max_params"], config["distiller"], config["teacher_options"]["arch"]) == (
        12000, "kd+diswot", "1x4-1x4-1x8",
    )  # fmt: skip
    assert run("run --config run/config.yaml") == 0
    assert capsys.readouterr().out == shown
    assert run("show run") == 0
    seen = capsys.readouterr().out
    assert "to build the winner in Python" in seen
    assert f"({result['difference']:+.2f})" in seen


@pytest.mark.usefixtures("no_pictures")
def test_a_student_is_exported_and_its_loss_of_accuracy_told(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert run(TRAIN) == 0
    capsys.readouterr()
    assert run("export teacher --dataset digits --normalise true") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("teacher/student/student.onnx: ")
    accuracy = json.loads(Path("teacher/result.json").read_text())["test"]["accuracy"]
    assert f"{accuracy:.2f} % in float32" in shown  # of the same test images
    assert run("export teacher --format torch --out model.pt2") == 0
    assert Path("model.pt2").is_file()
    assert run("export teacher --format int8") == 2
    assert "int8 is calibrated on training images" in capsys.readouterr().err


# -- rankings of sources ------------------------------------------------------------------------

SOURCES = (
    "sources --sources '[first, {model: second}]' --data_options.image_size 8 --labels_per_class 10 --images 60 "
    "--image_draws 2 --device cpu --out ranking"
)


@pytest.fixture
def two_sources(no_pictures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two networks that are trained on a few digits."""
    from diswot_search.jobs import rank_sources as source_ranking

    monkeypatch.setattr(source_ranking, "to_png", lambda figure: b"")
    assert run(f"{TRAIN} --epochs 1 --out first") == 0
    assert run(f"{TRAIN} --epochs 1 --seed 1 --out second") == 0
    capsys.readouterr()


@pytest.mark.usefixtures("two_sources")
def test_sources_are_ranked_shown_and_stand_for_the_teacher_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{SOURCES} --measures '[parc, knn]'") == 0
    ranked = capsys.readouterr()
    assert ranked.err == ""
    assert "Sources for digits by parc: 2 draws of 60 labelled images" in ranked.out
    result = json.loads(Path("ranking/result.json").read_text())
    assert {source["name"] for source in result["sources"]} == {"first", "second"}
    for source in result["sources"]:
        line = next(line for line in ranked.out.splitlines() if f" {source['name']} " in line)
        assert f"{source['measures']['parc']['mean']:.4g} ± " in line
        assert f"{source['weight']:.3f}" in line
    assert "run folder: ranking" in ranked.out
    of_data = "--dataset digits --data_options.image_size 8 --labels ranking/labels.txt"
    assert "next: diswot search --teacher ranking --proxy diswot  # finds" in ranked.out
    assert f"then: diswot distill {of_data} --sources ranking  # teaches" in ranked.out
    assert {path.name for path in Path("ranking").iterdir()} == {
        "config.json", "config.yaml", "data.json", "labels.txt", "lock", "ranking.png", "result.json", "sources.csv",
        "sources.sqlite",
    }  # fmt: skip
    assert run("show ranking") == 0
    assert capsys.readouterr().out == ranked.out
    assert run("sources --config ranking/config.yaml") == 0
    assert capsys.readouterr().out == ranked.out
    assert run("sources --config ranking/config.yaml --image_draws 3") == 2
    assert "draws is 2 there, 3 here" in capsys.readouterr().err
    fitted = SMALL.replace("--teacher cifar_resnet20", "--teacher ranking")
    assert run(fitted) == 0
    capsys.readouterr()
    weights = {source["name"]: source["weight"] for source in result["sources"]}
    stored = json.loads(Path("run/config.json").read_text())["teacher"]
    assert {one["name"]: one["weight"] for one in stored["teachers"]} == pytest.approx(weights)
    target = ds.load_ranking("ranking").target
    probe = json.loads(Path("run/config.json").read_text())["probes"][0]
    assert probe["fingerprint"] == target.probe(8).fingerprint  # of labelled training images alone
    assert run(f"{fitted} --weighting nearest --measure knn --evaluations 1 --out by_knn") == 0
    nearest = ds.load_ranking("ranking").order("knn")[0]
    assert json.loads(Path("by_knn/config.json").read_text())["teacher"]["name"] == nearest
    again = "--probe digits --data-options.image_size 8 --labels-per-class 10"
    assert run(f"{fitted} {again} --evaluations 1 --out again") == 0
    assert json.loads(Path("again/config.json").read_text())["probes"][0]["fingerprint"] == probe["fingerprint"]
    assert run(f"{fitted} --weighting.first 1 --evaluations 1 --out other") == 0
    assert json.loads(Path("other/config.json").read_text())["teacher"]["name"] == "first"
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez("other.npz", train_images=images, train_labels=np.arange(40) % 4)
    capsys.readouterr()
    for more, message in [
        ("--weighting nearst", "'nearst'. Did you mean 'nearest'"),
        ("--power=-1", "power is -1.0"),
        ("--measure leep", "Unknown measure of this ranking 'leep'"),
        ("--teacher_checkpoint x.pt --probe_options.seed 1", "teacher_checkpoint, probe_options cannot be set"),
        ("--probe other.npz", "ranked for digits with 10 classes, but the data is other.npz with 4"),
        ("--batch_size 101", "The probe needs 101 images, but there are only 100 training images that have labels"),
    ]:
        assert run(f"{fitted} {more} --out third") == 2
        assert message in capsys.readouterr().err
    assert not Path("third").exists()


@pytest.mark.usefixtures("two_sources")
def test_an_interrupted_ranking_says_that_it_can_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diswot_search.sources.folder import RankingFolder

    add = RankingFolder.add

    def add_and_interrupt(self: RankingFolder, *args) -> None:
        add(self, *args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RankingFolder, "add", add_and_interrupt)
        assert run(SOURCES) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert run("show ranking") == 0
    shown = capsys.readouterr().out
    assert "not finished: 1 of 2 sources are measured" in shown
    assert " first " in shown
    assert " second " not in shown
    assert run(SOURCES) == 0


@pytest.mark.usefixtures("two_sources")
def test_warnings_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        shown_before = warnings.showwarning
        assert run(SOURCES.replace("{model: second}", "{model: cifar_resnet20, num_classes: 10}")) == 0
        assert warnings.showwarning is shown_before
    shown = capsys.readouterr().err
    assert shown.startswith("diswot: warning: The source cifar_resnet20 has random weights")
    assert shown.count("\n") == 1


def test_dashes_part_the_words_of_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    """But not those of a user's own names, nor of a value."""
    assert run("train --data-options.image_size=8 --labels-per-class 0 --out a-b") == 2
    assert "labels_per_class is 0" in capsys.readouterr().err
    assert run("search --teacher no-such --space-options.channels 4 --weighting.a-b 2") == 2
    assert "The teacher is no ranking of sources; weighting cannot" in capsys.readouterr().err
    assert run("train --modle-options 3") == 2
    assert "Did you mean --model_options" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        run("--version")
    assert capsys.readouterr().out == f"diswot {ds.__version__}\n"


def test_a_switch_needs_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (f"{SMALL} --quiet --bf16 false", f"{SMALL} --bf16=false --quiet"):
        assert run(line) == 0
        assert read_config()["quiet"] is True
        assert capsys.readouterr().err == ""


def test_algorithms_lists_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("algorithms") == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in ds.list_algorithms())
    assert "population, tournament, crossover, offspring" in shown


def test_measures_lists_what_each_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measures") == 0
    shown = capsys.readouterr().out
    assert " parc " in shown
    assert " leep " in shown
    assert run("measures *score") == 0
    shown = capsys.readouterr().out
    assert " h_score " in shown
    assert " parc " not in shown


def test_distillers_lists_what_each_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("distillers") == 0
    shown = capsys.readouterr().out
    for name in ds.list_distillers():
        assert f" {name} " in shown
    assert run("distillers *kd") == 0
    shown = capsys.readouterr().out
    assert " dkd " in shown
    assert " fitnet " not in shown


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("distillers dkd", ["Decoupled Knowledge Distillation", "CVPR 2022", "alpha", "8.0", "The divisor of logits"]),
        ("proxies nwot", ["Log determinant", "Mellor et al.", "ICML 2021", "It needs no teacher.", "code_gram"]),
        (
            "proxies diswot",
            ["CVPR 2023", "semantic, relation, channel_relation", "compares the student with a teacher"],
        ),
        ("proxies az_nas", ["log_rank of expressivity", "CVPR 2024"]),
        ("measures leep", ["sum_z P(y given z)", "Nguyen et al.", "ICML 2020"]),
        ("algorithms nsga2", ["Deb et al.", "objectives", "('score', 'params')"]),
        ("algorithms random", ["It has no options."]),
        ("spaces nasbench201", ["node1_from_node0", "ICLR 2020", "--space_options.OPTION VALUE", "Cells N of each"]),
        ("spaces timm/vit", ["patch_size", "Dosovitskiy et al.", "Number of classes of the networks."]),
    ],
)
def test_a_whole_name_shows_formula_paper_and_options(
    line: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in parts:
        assert part in shown


def test_all_that_comes_from_a_paper_names_it() -> None:
    ours = {"params", "macs", "effective_capacity", "knn", "logistic", "random", "exhaustive", "timm/zoo"}
    for name in ("effective_capacity", "unit_capacity"):
        ours |= {name, *(component.name for component in ds.get_proxy(name).components)}
    distillers = [name for name in ds.list_distillers() if not ds.get_distiller(name).__module__.startswith("tests")]
    for names, describe in (
        (distillers, details.describe_distiller),
        ([*ds.list_proxies(), *ds.list_aggregates()], details.describe_proxy),
        (ds.list_measures(), details.describe_measure),
        (ds.list_algorithms(), details.describe_algorithm),
        (ds.list_spaces(), details.describe_options_of_space),
    ):
        for name in names:
            text = " ".join(line for line in describe(name) if isinstance(line, str))
            assert re.search(r"(19|20)\d\d", text) or name in ours, name


@pytest.mark.faults
@pytest.mark.usefixtures("no_pictures")
def test_only_the_main_process_of_several_speaks(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "diswot_search", *shlex.split(TRAIN)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("run folder: teacher") == 1
    assert json.loads(Path("teacher/result.json").read_text())["timing"]["processes"] == 2
