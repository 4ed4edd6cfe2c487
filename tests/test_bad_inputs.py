"""Bad and odd input by kind: one line that says what is wrong, exit code 2, and no file left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

import diswot_search as ds
from diswot_search import checks
from diswot_search.cli import main
from diswot_search.comparison.results import check_resamples
from diswot_search.data.splits import create_splits
from diswot_search.networks.saved import ModelCard, load_student, save_student
from diswot_search.options.data import CreateSplitsOptions
from diswot_search.reports.event_file import EventFile
from search_spaces import create_space
from search_spaces.option_types import OptionTypeError, check_types
from search_spaces.stored_options import UnsafeOptionError
from search_spaces.timm_models import create_timm_model
from search_spaces.timm_space import TimmSpace
from search_spaces.yaml_files import YamlError, load_yaml

SEARCH = "search --space cifar_resnet_s0 --batch_size 8 --probe_options.image_size 8 --evaluations 2 --progress false "
DISWOT = SEARCH + "--proxy diswot --teacher resnet10t "
TRAIN = "train --model cifar_resnet20 --progress false "
DISTILL = "distill --student cifar_resnet20 --teacher cifar_resnet20 --progress false "
SOURCES = "sources --progress false --sources "
NB201 = "search --space nasbench201 --batch_size 8 --progress false "
DIGITS = "9" * 40
NAME = "x" * 3000

LINES: dict[str, list[tuple[str, str]]] = {
    "a name that the job sets": [
        (SEARCH + "--algorithm_options.seed 3", "algorithm_options cannot set 'seed': it is set by the option seed"),
        (SEARCH + "--algorithm_options.space x", "algorithm_options cannot set 'space': it is set by the option space"),
        (SEARCH + "--algorithm_options.feasible x", "cannot set 'feasible': it is set by the budget"),
        (SEARCH + "--space_options.name x", "space_options cannot set 'name': it is set by the option space"),
        (TRAIN + "--space cifar_resnet_s0 --space_options.name x", "space_options cannot set 'name'"),
        (DISWOT + "--teacher_options.source x", "teacher_options cannot set 'source': it is set by the option teacher"),
        (DISWOT + "--teacher_options.space x", "teacher_options cannot set 'space': it is set by the option space"),
        (SEARCH + "--probe_options.name x", "A probe has no option 'name'"),
        (TRAIN + "--data_options.name x", "A data set has no option 'name'"),
        (TRAIN + "--model_options.source x", "source is no option of the student"),
        (SOURCES + "'{a: {model: resnet18, name: x}}'", "timm's model resnet18 has no option 'name'"),
        (SOURCES + "'{a: {model: resnet18, role: x}}'", "timm's model resnet18 has no option 'role'"),
    ],
    "a name that is no text": [
        (SEARCH + "--algorithm_options '{1: 2}'", "algorithm_options has the name 1; names of options are texts"),
        (SEARCH + "--space_options '{1: 2}'", "space_options has the name 1"),
        (SEARCH + "--probe_options '{3: 4}'", "probe_options has the name 3"),
        (DISWOT + "--teacher_options '{1: 2}'", "teacher_options has the name 1"),
        (TRAIN + "--data_options '{1: 2}'", "data_options has the name 1"),
        (TRAIN + "--recipe_options '{true: 2}'", "recipe_options has the name True"),
        (TRAIN + "--model_options '{1: 2}'", "model_options has the name 1"),
        (SOURCES + "'{1: resnet18}'", "sources has the name 1"),
        ("export nothing --data_options '{1: 2}'", "data_options has the name 1"),
        (SEARCH + "--budget '{1: 2}'", "budget has the name 1"),
    ],
    "a value of another type": [
        (TRAIN + "--data_options.val_share abc", "val_share is 'abc'; it must be a number"),
        (TRAIN + "--data_options.root 3", "root is 3; it must be a text"),
        (TRAIN + "--data_options.workers 1.5", "workers is 1.5; it must be a whole number"),
        (TRAIN + "--recipe_options.optimizer 3", "Unknown optimizer 3"),
        (TRAIN + "--recipe_options.lr abc", "lr is 'abc'; it must be a number"),
        (SEARCH + "--probe_options.balanced maybe", "balanced is 'maybe'; it must be true or false"),
        (SEARCH + "--probe_options.download 1", "download is 1; it must be true or false"),
        (SEARCH + "--probe_options.root 3", "root is 3; it must be a text"),
        (SEARCH + "--algorithm_options.population abc", "population is 'abc'; it must be an integer"),
        (NB201 + "--space_options.channels 1.5", "channels is 1.5; it must be a whole number"),
        (NB201 + "--space_options.input_size 8", "input_size is 8; it must be 3 whole numbers"),
        (SEARCH + "--space cifar_resnet --space_options.block 3", "block is 3; it must be a text"),
        (
            SEARCH + "--space timm/zoo --space_options.pattern '[1, 2]'",
            "pattern is [1, 2]; it must be a text or",
        ),
        (DISWOT + "--teacher_options.checkpoint 3", "Of the teacher checkpoint is 3; it must be a text"),
        (
            DISWOT + "--teacher_options.pretrained maybe",
            "pretrained is 'maybe'; it must be true or false",
        ),
        (SOURCES + "'{a: {model: 5}}'", "A source cannot be made of int"),
        (SOURCES + "'{a: {model: resnet18, checkpoint: 5}}'", "Of a source checkpoint is 5; it must be a text"),
        (SOURCES + "'{a: {model: 1-1-1, space: 3}}'", "Of a source space is 3"),
        (SOURCES + "'{a: {model: resnet18, mean: abc, std: 1}}'", "mean of the source"),
        (SEARCH + "--budget.max_params abc", "max_params is 'abc'; it must be a positive, finite number"),
        (DISTILL + "--distiller '{kd: abc}'", "the weight of kd is 'abc'"),
    ],
    "a size beyond the memory": [
        (
            SEARCH + "--probe_options.image_size 20000",
            "images of 20000 x 20000 pixels (--probe_options.image_size) would take 38.4",
        ),
        (SEARCH + "--probe noise --probe_options.num_classes 3 --probe_options.image_size 200000", "3,840 GB"),
        (TRAIN + "--data_options.image_size 200000", "200000 pixels (--data_options.image_size) would take 480 GB"),
        (NB201 + "--space_options.channels 100000000", "The networks of nasbench201 are too large"),
        (NB201 + "--space_options.cells 100000000", "cells is 100000000; a network of this space has at most 1,000"),
        (SEARCH + "--space cifar_resnet --space_options.widths '[100000000, 1, 1]'", "are too large"),
        (SEARCH + "--space cifar_resnet --space_options.depths '[[100000000], [1], [1]]'", "are too large"),
        (TRAIN + "--model cifar_resnet --model_options.arch 100000000x1", "is not a CIFAR ResNet"),
    ],
    "more threads or processes than cores": [
        (SEARCH + "--max_latency_ms 9 --latency_threads 100000000", "latency_threads is 100000000; this machine has"),
        (SEARCH + "--latency_threads 5000", "latency_threads is 5000; this machine has"),
        (TRAIN + "--data_options.workers 100000", "workers is 100000; this machine has"),
    ],
    "a number beyond what is made of it": [
        (
            SEARCH + "--max_latency_ms 9 --latency_batch_size 1000000000",
            "A batch of 1,000,000,000 samples (latency_batch_size) would take",
        ),
        (SEARCH + "--probes 1000000000", "x 8 images of 8 x 8 pixels"),
        (SEARCH.replace("--probe_options.image_size 8 ", "") + "--probes 1000000000", "1,000,000,000 probes of 8"),
        (SEARCH + "--probe_options.num_classes 1000000000", "num_classes is 1000000000; it must be a whole number"),
        (TRAIN + "--recipe_options.padding 1000000000", "padding is 1000000000; it must be a whole number"),
    ],
    "a number of 40 digits": [
        (
            SEARCH + f"--seed {DIGITS}",
            "seed is a number of about 40 digits; whole numbers to 9,223,372,036",
        ),
        (SEARCH + f"--probes {DIGITS}", "probes is a number of about 40 digits"),
        (SEARCH + f"--weight_draws {DIGITS}", "weight_draws is a number of about 40 digits"),
        (SEARCH + f"--algorithm_options.population {DIGITS}", "population is"),
        (NB201 + f"--space_options.channels {DIGITS}", "channels is a number of about 40 digits"),
        (SEARCH + f"--probe_options.image_size {DIGITS}", "image_size is a number of about 40 digits"),
        (TRAIN + f"--epochs {DIGITS}", "epochs is a number of about 40 digits"),
        (f"show somewhere --best {DIGITS}", "best is a number of about 40 digits"),
    ],
    "an option that can load files or code": [
        (DISWOT + "--teacher_options.checkpoint_path x.pth", "the option 'checkpoint_path' can load files or code"),
        (DISWOT + "--teacher_options '{pretrained_cfg: {file: x.pth}}'", "'pretrained_cfg' can load files or code"),
        (DISWOT + "--teacher_options.scriptable true", "'scriptable' can load files or code"),
        (TRAIN + "--model_options.checkpoint_path x.pth", "'checkpoint_path' can load files or code"),
        (TRAIN + "--model local-dir:x", "The student 'local-dir:x' is no timm model"),
        (TRAIN + "--model hf-hub:x/y", "The student hf-hub:x/y is neither a file nor a folder"),
        (SOURCES + "'{a: {model: resnet18, checkpoint_path: x.pth}}'", "'checkpoint_path' can load files or code"),
        (SOURCES + "'{a: {model: resnet18, pretrained_cfg_overlay: {file: x.pth}}}'", "can load files or code"),
        (TRAIN + "--model_options.bogus 2", "timm's model cifar_resnet20 has no option 'bogus'"),
        (
            DISTILL + "--teacher_options.maen .5",
            "timm's model cifar_resnet20 has no option 'maen'. Did you mean 'mean'",
        ),
        (
            SOURCES + "'{a: {model: resnet18, maen: .5}}'",
            "timm's model resnet18 has no option 'maen'. Did you mean 'mean'",
        ),
        (DISWOT + "--teacher_options.chekpoint x.pth", "no option 'chekpoint'. Did you mean 'checkpoint'"),
    ],
    "a home folder of nobody": [
        (SEARCH + f"{option} ~nouser/x", "'~nouser/x' begins with ~nouser, but the home folder that this means cannot")
        for option in ("--probe", "--probe folder --probe_options.root")
    ]
    + [
        (TRAIN + "--dataset ~nouser/x", "begins with ~nouser, but the home folder"),
        (TRAIN + "--dataset ~nouser/x.npz", "begins with ~nouser, but the home folder"),
        (TRAIN + "--dataset folder/~nouser/x", "begins with ~nouser, but the home folder"),
        (TRAIN + "--data_options.root ~nouser/x", "begins with ~nouser, but the home folder"),
        (TRAIN + "--model ~nouser/x.py", "begins with ~nouser, but the home folder"),
        (SEARCH + "--space ~nouser/x.py:A", "begins with ~nouser, but the home folder"),
        (TRAIN + "--import ~nouser/x.py", "begins with ~nouser, but the home folder"),
        (TRAIN + "--model ~nouser/x.pth", "neither a file nor a folder"),
    ],
    "a name of 3,000 characters": [
        (SEARCH + f"--space {NAME}", "Unknown search space 'xxx"),
        (SEARCH + f"--proxy {NAME}", "Unknown proxy 'xxx"),
        (DISWOT + f"--teacher {NAME}", "The teacher 'xxx"),
        (SEARCH + f"--algorithm {NAME}", "Unknown algorithm 'xxx"),
        (SEARCH + f"--device {NAME}", "Unknown device 'xxx"),
        (SEARCH + f"--out {NAME}", "File name too long"),
        (SEARCH + f"--probe {NAME}", "File name too long"),
        (TRAIN + f"--recipe {NAME}", "Unknown recipe 'xxx"),
        (DISTILL + f"--distiller {NAME}", "Unknown distiller 'xxx"),
        (f"show {NAME}", "There is no run folder xxx"),
    ],
}
"""Command lines by kind, with a part of the message of each."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "memory_size", lambda: 25 * 10**9)


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that is refused; it is one line and leaves nothing."""
    before = sorted(Path().iterdir())
    assert main(shlex.split(line)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("diswot: error: ")
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 2200
    assert sorted(Path().iterdir()) == before
    return shown.err


@pytest.mark.parametrize(
    ("line", "message"),
    [pytest.param(*case, id=f"{kind}-{place}") for kind, cases in LINES.items() for place, case in enumerate(cases)],
)
def test_bad_input_is_one_line_and_leaves_nothing(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(line, capsys)
    assert message in error
    assert "x" * 300 not in error


# -- options as they are typed, and the problems of a folder ------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRAIN + "--data_options.val_share 2", "error: --data_options.val_share is 2; it must"),
        (TRAIN + "--data_options.train_limit 0", "error: --data_options.train_limit is 0; it must"),
        (TRAIN + "--data_options.image_size 200000", "pixels (--data_options.image_size) would take"),
        (TRAIN + "--recipe_options.momentum 3", "error: --recipe_options.momentum is 3; it must"),
        (TRAIN + "--recipe_options.lr abc", "error: lr is 'abc'; it must"),
        (SEARCH + "--probe_options.num_classes 0", "error: --probe_options.num_classes is 0; it must"),
        (SEARCH + "--batch_size 5000", "error: batch_size is 5000, but"),
        (SEARCH + "--algorithm_options.population abc", "--algorithm_options.population is 'abc'; it must"),
        (NB201 + "--space_options.channels 1.5", "--space_options.channels is 1.5; it must"),
        (
            "run --out run --progress false --teacher_data_options.val_share 2",
            "error: --teacher_data_options.val_share is 2; it must",
        ),
    ],
)
def test_options_are_named_as_they_are_typed(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def photos(names: str = "abcd", splits: tuple[str, ...] = ("train", "test")) -> None:
    """Pictures of 16-bit grey in two sizes, in two classes of two splits."""
    for split in splits:
        for label in ("cat", "dog"):
            folder = Path("photos", split, label)
            folder.mkdir(parents=True)
            for place, name in enumerate(names):
                grey = np.full((8 + place % 2, 8), 300, np.uint16)
                grey[0, 0] = 4095
                Image.fromarray(grey).save(folder / f"{name}.png")


def test_problems_of_a_folder_come_together_after_what_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    for command in (TRAIN, "run --out run --progress false "):
        assert main(shlex.split(command + "--dataset photos")) == 2
        shown = capsys.readouterr()
        assert shown.out.startswith("data: photos, as far as it was read\n")
        assert "│ cat" in shown.out
        assert "photos/test: 8 images; 8 x 8: 4, 9 x 8: 4; 1 channel (grey); 16 bits; PNG" in shown.out
        assert shown.err.startswith("diswot: error: 3 problems: (1) 'photos/train': 8 images with 16- or 32-bit grey")
        assert "--data_options.grey_range '[300, 4095]', or [0, 65535] for all of 16 bits" in shown.err
        assert "(2) 'photos/test': 8 images" in shown.err
        assert (
            "(3) Images differ in size: 8 x 8, 9 x 8 (height x width); give --data_options.image_size to" in shown.err
        )
    assert [path.name for path in Path().iterdir()] == ["photos"]
    with pytest.raises(ValueError, match=r"grey_range=\[300, 4095\].*; give image_size to resize them"):
        create_splits("photos")
    assert main(shlex.split(TRAIN + "--dataset photos --data_options.grey_range '[0, 4095]'")) == 2
    shown = capsys.readouterr()
    assert "as far as it was read" in shown.out
    assert "; give --data_options.image_size to resize them" in shown.err
    assert main(shlex.split("search --space cifar_resnet_s0 --batch_size 8 --probe photos --progress false")) == 2
    shown = capsys.readouterr()
    assert "probe" not in shown.out
    assert "as far as it was read" in shown.out
    assert "--probe_options.grey_range '[300, 4095]'" in shown.err


def test_a_lack_of_images_and_a_lack_of_options_come_together() -> None:
    photos("a", splits=("train",))
    (Path("photos/train/dog") / "bad.png").write_text("no picture")
    with pytest.raises(
        ValueError, match=r"2 problems: \(1\) .* grey_range=\[300, 4095\].* \(2\) .* too few images to split"
    ):
        create_splits("photos")
    Path("photos/train/dog/a.png").unlink()
    with pytest.raises(ValueError, match=r"2 problems: \(1\) .* grey_range.* \(2\) No image of the class 'dog' in"):
        create_splits("photos")


# -- files that are something else --------------------------------------------------------------

OWN = """
from timm.models.resnet import BasicBlock, ResNet

def network(num_classes=10, in_chans=3):
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=num_classes, in_chans=in_chans)

class _Hidden: ...
"""
HINT = "Something in a file of your own is written own.py:NAME; it defines own.py:network.\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (DISTILL + "--teacher own.py --teacher_checkpoint own.pt", "The teacher 'own.py' names a file of code. "),
        (DISTILL + "--student own.py", "The student 'own.py' names a file of code. "),
        (TRAIN + "--model own.py", "The student 'own.py' names a file of code. "),
        (DISTILL + "--distiller own.py", "Unknown distiller 'own.py'. "),
        (SOURCES + "'[own.py]'", "The source 'own.py' names a file of code. "),
        (SOURCES + "'{a: {model: own.py, checkpoint: own.pt}}'", "The source 'own.py' names a file of code. "),
        (SEARCH + "--proxy diswot --teacher own.py", "Unknown teacher 'own.py'. "),
        (SEARCH + "--proxy own.py", "Unknown proxy 'own.py'. "),
        (SEARCH + "--algorithm own.py", "Unknown algorithm 'own.py'. "),
        ("search --space own.py", "Unknown search space 'own.py'. "),
    ],
)
def test_a_file_of_code_without_a_name_in_it(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(OWN)
    Path("own.pt").touch()
    assert message + HINT in refused(line, capsys)


def test_names_in_a_file_are_told_without_running_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("raise SystemExit\nclass A: ...\ndef b(): ...\n")
    assert "it defines own.py:A, own.py:b.\n" in refused(TRAIN + "--model own.py", capsys)
    Path("own.py").write_text("def :")
    assert "own.py:NAME.\n" in refused(TRAIN + "--model own.py", capsys)
    assert "there is no file other.py.\n" in refused(TRAIN + "--model other.py", capsys)


@pytest.mark.parametrize(
    ("line", "role", "option"),
    [
        (DISTILL + "--teacher own.pt", "teacher", "--teacher_checkpoint"),
        (DISTILL + "--teacher own.pt --teacher_checkpoint own.pt", "teacher", "--teacher_checkpoint"),
        (DISTILL + "--student own.pt", "student", "the option checkpoint"),
        (TRAIN + "--model own.pt", "student", "the option checkpoint"),
    ],
)
def test_weights_without_their_network_name_the_way(
    line: str, role: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, "own.pt")
    error = refused(line, capsys)
    assert f"The {role} own.pt is a file without a config.json that says which network its weights are of" in error
    assert f"by a timm name or as file.py:NAME, and own.pt as its weights: {option}.\n" in error


def test_a_student_without_its_card_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({}, "own.pt")
    assert "There is no config.json for own.pt; weights alone" in refused("export own.pt", capsys)


@pytest.mark.parametrize(
    ("line", "role"),
    [
        (DISTILL + "--teacher_checkpoint none.pt", "teacher"),
        (DISTILL + "--teacher own.py:network --teacher_checkpoint none.pt", "teacher"),
        (DISTILL + "--student_options.checkpoint none.pt", "student"),
        (SOURCES + "'[{model: resnet10t, checkpoint: none.pt}]'", "source"),
        (SOURCES + "'[{model: own.py:network, checkpoint: none.pt}]'", "source"),
    ],
)
def test_a_missing_checkpoint_is_a_missing_file(line: str, role: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(OWN)
    Path("__pycache__").mkdir()
    assert f"There is no file none.pt for the checkpoint of the {role}.\n" in refused(line, capsys)


@pytest.mark.parametrize("option", [SEARCH + "--probe", TRAIN + "--dataset"])
def test_what_is_no_data_is_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("own.pt", "ten.pt"):
        torch.save({}, name)
    Path("tens").mkdir()
    assert "The data set 'own.pt' is a file of another kind; data is a folder" in refused(f"{option} own.pt", capsys)
    error = refused(f"{option} ten", capsys)
    assert "Unknown data set 'ten'. Did you mean 'tens'" in error
    assert "ten.pt" not in error
    assert error.endswith("There is no folder 'ten'.\n")
    assert "There is no folder 'nofolder'.\n" in refused(f"{option} nofolder", capsys)


def test_a_search_without_scores_yet_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("diswot_search.study.evaluator.Evaluator.evaluate", interrupted)
        assert main(shlex.split(SEARCH + "--out run")) == 130
    capsys.readouterr()
    assert main(["show", "run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nothing is scored yet: 0 evaluations. The same command as before continues the search." in shown
    assert main(shlex.split(SEARCH + "--out run")) == 0
    assert main(["show", "run"]) == 0
    assert "Best 2 of 2 evaluations" in capsys.readouterr().out


def test_the_card_of_a_student_is_public() -> None:
    model = ds.create_teacher("cifar_resnet20", num_classes=3).build(seed=0)
    card = ds.ModelCard("cifar_resnet20", 3, (3, 32, 32), (0.5,) * 3, (0.5,) * 3, timm=("cifar_resnet20", {}))
    ds.save_student(model, card, "student")
    assert ds.read_card("student").num_classes == 3


# -- YAML ---------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * [f'*{old}'])}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)

YAML: list[tuple[str, str]] = [
    ("space: " + "[" * 20_000 + "]" * 20_000, "nest"),
    ("\n".join("  " * depth + "a:" for depth in range(500)), "nested more than 50 deep"),
    (BOMB + "space: *j\n", "stands for more than 1,000,000 values"),
    ("space_options: &x\n  a: *x\n" + "# " + "-" * 100, "the alias *x stands for a value that it is part of"),
    ("space: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ("? [a, b]\n: c\n", "unhashable key"),
    ("seed: " + "9" * 5000, "cannot be read"),
    ("- 2\n", ""),
]
"""Texts of files, with a part of the message."""


@pytest.mark.parametrize(("text", "message"), YAML)
@pytest.mark.parametrize("option", ["config", "space"])
def test_a_yaml_file_is_read_within_limits(
    option: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    assert message in refused(f"search --{option} bad.yaml --batch_size 8", capsys)


@pytest.mark.parametrize("option", ["config", "space"])
def test_a_file_that_is_no_text_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_bytes(bytes(range(256)))
    assert "decode byte" in refused(f"search --{option} bad.yaml", capsys)


@pytest.mark.parametrize("text", ["", "1: 2\n"])
def test_a_file_of_a_space_needs_its_names(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(text)
    assert "bad.yaml" in refused("search --space bad.yaml", capsys)


def test_deep_values_on_the_command_line_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    nested = "{a: " * 300 + "1" + "}" * 300
    assert "algorithm_options" in refused(f"search --algorithm_options '{nested}'", capsys)


def test_aliases_within_the_limits_are_read() -> None:
    assert load_yaml("a: &a [1, 2]\nb: [*a, *a]\n") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    with pytest.raises(YamlError, match="characters"):
        load_yaml("#" * 20_000_001)


# -- the cards of students ----------------------------------------------------------------------


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


def crafted(change: Callable[[dict[str, Any]], None] | str) -> Path:
    """A student as another program might write it, without checksums, whose card is changed."""
    model = timm.create_model("cifar_resnet", arch="1x4-1x8", num_classes=10)
    arguments = {"arch": "1x4-1x8", "num_classes": 10}
    card = ModelCard("s", 10, (3, 32, 32), (0.5,) * 3, (0.5,) * 3, timm=("cifar_resnet", arguments))
    weights = save_student(model, card, "student")
    config = json.loads(Path("student/config.json").read_text())
    if isinstance(change, str):
        Path("student/config.json").write_text(change)
    else:
        change(config["diswot"])
        Path("student/config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    return weights


def card_with(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda card: card.update(values)


SPACE = {"recipe": {"name": "nasbench201"}, "config": {}, "architecture": "x"}

CARDS: list[tuple[Callable[[dict[str, Any]], None] | str, str]] = [
    (card_with(timm=["resnet18", {"checkpoint_path": "trap.pth"}]), "'checkpoint_path' can load files or code"),
    (card_with(timm=["resnet18", {"pretrained_cfg": {"file": "trap.pth"}}]), "'pretrained_cfg' can load files or code"),
    (card_with(timm=["resnet18", {"pretrained": True}]), "'pretrained' can load files or code"),
    (card_with(timm=["resnet18", {"block_args": {"cache_dir": "x"}}]), "'cache_dir' can load files or code"),
    (card_with(timm=["local-dir:.", {}]), "Unknown timm model 'local-dir:.'"),
    (card_with(timm=["hf-hub:x/y", {}]), "Unknown timm model 'hf-hub:x/y'"),
    (card_with(timm=["resnet18", {"bogus": 1}]), "timm's model resnet18 has no option 'bogus'"),
    (card_with(timm=["resnet18", {"num_classes": "abc"}]), "s cannot be built"),
    (card_with(timm=["cifar_resnet", {"arch": "100000000x1"}]), "is not a CIFAR ResNet"),
    (card_with(timm=["resnet18", [1]]), "options must be a mapping"),
    (card_with(timm=5), "timm is 5"),
    (card_with(timm=["resnet18"]), "timm is ('resnet18',); it must be 2 values"),
    (card_with(timm=[5, {}]), "timm is (5, {})"),
    (card_with(timm=None, space=5), "space is 5"),
    (card_with(timm=None, space={}), "space lacks architecture, config, recipe"),
    (card_with(timm=None, space={**SPACE, "recipe": 5}), "In space recipe is 5"),
    (card_with(timm=None, space={**SPACE, "architecture": 5}), "In space architecture is 5; it must be a text"),
    (card_with(name=5), "name is 5; it must be a text"),
    (card_with(num_classes="abc"), "num_classes is 'abc'; it must be a whole number"),
    (card_with(num_classes=10**40), "num_classes is a number of about 40 digits"),
    (card_with(num_classes=-1), "num_classes is -1"),
    (card_with(input_size=[3, 10**9, 10**9]), "An image of this input_size would take"),
    (card_with(input_size=[3, 1.5, 1.5]), "input_size is (3, 1.5, 1.5); it must be 3 whole numbers"),
    (card_with(input_size=None), "input_size is None"),
    (card_with(mean=["a", "b", "c"]), "mean is ('a', 'b', 'c'); it must be a list of numbers"),
    (card_with(labels=[{"a": 1}] * 10), "it must be a list of texts"),
    (card_with(made_of=5), "made_of is 5"),
    (card_with(made_of={"data": {"name": 5}}), "In data name is 5; it must be a text"),
    (card_with(crop_pct="x"), "crop_pct is 'x'; it must be a number"),
    ("[" * 100_000, "recursion"),
    ('{"diswot": {"num_classes": ' + "9" * 5000 + "}}", "is damaged"),
    ("\0", "is damaged"),
]
"""Changes of a card, or whole files, with a part of the message of each."""


@pytest.mark.parametrize(("change", "message"), CARDS)
def test_a_crafted_card_is_refused(
    change: Callable[[dict[str, Any]], None] | str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = Path("mark").absolute()
    Path("trap.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    crafted(change)
    assert message in refused("export student", capsys)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_student("student")
    assert not mark.exists()


def test_an_untouched_card_of_another_program_is_read() -> None:
    crafted(card_with())
    assert isinstance(load_student("student"), nn.Module)


# -- what reaches timm --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "trap.pth"),
        ("pretrained_cfg", {"file": "trap.pth", "url": ""}),
        ("pretrained_cfg_overlay", {"file": "trap.pth"}),
        ("cache_dir", "."),
        ("pretrained_strict", False),
        ("features_only", True),
        ("model_cfg", {}),
    ],
)
def test_no_option_makes_timm_load_whoever_gives_it(name: str, value: object) -> None:
    mark = Path("mark").absolute()
    Path("trap.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    attempts: list[Callable[[], object]] = [
        lambda: ds.create_teacher("resnet10t", **{name: value}),
        lambda: ds.as_network("resnet10t", num_classes=3, **{name: value}),
        lambda: ds.as_sources([{"model": "resnet10t", name: value}]),
        lambda: create_timm_model("resnet10t", {name: value}),
        lambda: TimmSpace("own", "resnet10t", {"stem_width": [16]}, fixed={name: value}),
    ]
    for attempt in attempts[:4]:
        with pytest.raises(UnsafeOptionError, match=f"option '{name}' can load files or code"):
            attempt()
    with pytest.raises(ValueError, match=name):
        attempts[4]()
    assert not mark.exists()


def test_a_trap_is_not_unpickled_as_a_checkpoint() -> None:
    mark = Path("mark").absolute()
    Path("trap.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    teacher = ds.create_teacher("resnet10t", checkpoint="trap.pth")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        teacher.build(seed=0)
    assert not mark.exists()


def test_options_that_a_constructor_takes_reach_it() -> None:
    network = ds.create_teacher("resnet10t", num_classes=3, drop_rate=0.25, act_layer=nn.SiLU)
    model: Any = network.build(seed=0)
    assert (model.num_classes, model.drop_rate) == (3, 0.25)
    assert isinstance(create_timm_model("mobilenetv3_small_050", {"bn_eps": 0.01}), nn.Module)


# -- the same from Python -----------------------------------------------------------------------

CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: ds.search(3), "space is 3; it must be a SearchSpace or a text"),
    (lambda: ds.search("nasbench201", seed="a"), "seed is 'a'; it must be a whole number"),
    (lambda: ds.search("nasbench201", evaluations=10**40), "evaluations is a number of about 40 digits"),
    (lambda: ds.search("nasbench201", space_options={1: 2}), "space_options has the name 1"),
    (lambda: ds.search("nasbench201", algorithm_options={"seed": 3}), "algorithm_options cannot set 'seed'"),
    (lambda: ds.train("cifar_resnet20", epochs=1.5), "epochs is 1.5; it must be a whole number"),
    (lambda: ds.create_probe("digits", balanced="maybe"), "balanced is 'maybe'; it must be true or false"),
    (lambda: ds.create_probe("digits", image_size=20000), "would take 307 GB"),
    (lambda: create_splits("digits", val_share="abc"), "val_share is 'abc'; it must be a number"),
    (lambda: create_space("nasbench201", channels=1.5), "channels is 1.5; it must be a whole number"),
    (lambda: create_space("nasbench201", chanels=8), "no option 'chanels'; did you mean 'channels'"),
    (lambda: ds.Budget(max_parms=1), "Budget has no option 'max_parms'; did you mean 'max_params'"),  # type: ignore[call-arg]
    (lambda: ds.Recipe(epoch=1), "Recipe has no option 'epoch'; did you mean 'epochs'"),  # type: ignore[call-arg]
    (lambda: ds.create_teacher("resnet10t", checkpoint=3), "checkpoint is 3; it must be a text"),  # type: ignore[arg-type]
    (lambda: ds.as_sources({"a": {"model": 5}}), "A source cannot be made of int"),
    (
        lambda: ds.measure_latency(nn.Flatten(), (3, 8, 8), threads=10**6, runtime="eager"),
        "threads is 1000000; this machine has",
    ),
    (
        lambda: ds.measure_latency(nn.Flatten(), (3, 8, 8), batch_size=10**9, runtime="eager"),
        "A batch of 1,000,000,000 samples (batch_size) would take 768 GB",
    ),
    (
        lambda: ds.Splits.from_arrays((np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2), workers=10**6),
        "workers is 1000000; this machine has",
    ),
    (lambda: check_resamples(10**9, 100), "1,000,000,000 resamples of 100 architectures (bootstrap) would take 400 GB"),
    (lambda: ds.search("nasbench201", sed=1), "search has no option 'sed'; did you mean 'seed'"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_the_same_kinds_are_refused_from_python(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


def test_types_are_those_of_the_annotations() -> None:
    annotations: dict[str, object] = {"a": "int | None", "b": "Sequence[float]", "c": bool, "d": "Mapping[str, int]"}
    check_types({"a": None, "b": (1, 2.5), "c": True, "d": {"x": 1}, "unknown": object()}, annotations)
    for wrong in ({"a": True}, {"a": 2**63}, {"b": [1, "x"]}, {"b": 1.0}, {"c": 1}, {"d": {"x": "y"}}, {"c": None}):
        with pytest.raises(OptionTypeError, match=f"^{next(iter(wrong))} is "):
            check_types(wrong, annotations)
    with pytest.raises(OptionTypeError, match=r"val_share is '0\.1'; it must be a number"):
        CreateSplitsOptions("digits", val_share="0.1")  # type: ignore[arg-type]


# -- the machine --------------------------------------------------------------------------------


class Dying(Dataset[int]):
    """Ends the process that reads it, as a lack of memory does."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_data_worker_is_a_failure_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(options: object) -> object:
        return list(DataLoader(Dying(), num_workers=1))

    monkeypatch.setattr("diswot_search.jobs.listing.show", read)
    error = refused("show somewhere", capsys)
    assert "A worker process died" in error
    assert "run the same again to continue, or with fewer workers" in error


def test_curves_on_a_full_disk_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = EventFile(Path("curves"))
    curves.add("loss", 1.0, 0)

    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(curves._file, "write", full)
    with pytest.raises(ds.RunFolderError, match="The disk of curves is full"):
        curves.add("loss", 1.0, 1)
    curves.close()


def test_the_largest_number_of_best_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(SEARCH + "--out run")) == 0
    capsys.readouterr()
    assert main(["show", "run", "--best", str(2**63 - 1)]) == 0
    assert "Best 2 of 2 evaluations" in capsys.readouterr().out


def test_a_search_in_memory_without_scores_names_no_folder() -> None:
    def failing(student: ds.Readings, teacher: ds.Readings | None) -> float:
        raise ValueError("no score")

    probe = ds.Probe.from_tensors(torch.rand(4, 3, 8, 8), torch.arange(4))
    with pytest.raises(ds.NoScoreError, match="No architecture of this study has a score: 3 of 3") as caught:
        ds.search(
            create_space("cifar_resnet_s0", num_classes=4, input_size=(3, 8, 8)),
            None,
            probe,
            proxy=failing,
            evaluations=3,
        )
    assert not isinstance(caught.value, ds.RunFolderError)


@pytest.mark.parametrize("has_folder", [False, True])
def test_an_interruption_says_what_is_stored_only_where_it_is(
    has_folder: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(job: object) -> None:
        raise KeyboardInterrupt

    if has_folder:
        Path("run").mkdir()
    monkeypatch.setattr("diswot_search.jobs.search.SearchJob.complete", interrupted)
    assert main(shlex.split(SEARCH + "--out run")) == 130
    stored = "; what was done is stored, and the same command continues" if has_folder else ""
    assert capsys.readouterr().err == f"diswot: interrupted{stored}.\n"


@pytest.mark.parametrize("module", ["diswot_search.cli", "jsonargparse", "diswot_search.options.search", "torch"])
def test_ctrl_c_while_the_program_is_loaded_is_130(module: str) -> None:
    """The signal comes when a module begins to be imported."""
    code = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["diswot", "search", "--evaluations", "1"]
from diswot_search.__main__ import main
sys.exit(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (130, "diswot: interrupted.\n")
    assert not list(Path().iterdir())


# -- files that are not there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --space none.yaml", "error: There is no file none.yaml.\n"),
        ("spaces none.yaml", "error: There is no file none.yaml.\n"),
        ("search --space '[cifar_resnet_s0, none.yaml]'", "error: There is no file none.yaml.\n"),
        ("train --space none.yaml --model 1-1-1", "error: There is no file none.yaml.\n"),
        ("sources --sources '{a: {model: 1-1-1, space: none.yaml}}'", "There is no file none.yaml.\n"),
    ],
)
def test_a_missing_file_is_said_without_the_number_of_an_error(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(line, capsys)


def test_a_missing_file_is_said_with_what_comes_near(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("{}")
    assert "There is no file min.yaml. Did you mean 'mine.yaml'?" in refused("search --space min.yaml", capsys)
    Path("folder.yaml").mkdir()
    assert "error: Is a directory: folder.yaml\n" in refused("search --space folder.yaml", capsys)


def test_several_spaces_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", "[cifar_resnet_s0, nasbench201]"]) == 0
    shown = capsys.readouterr().out
    assert "cifar_resnet_s0: 64 architectures" in shown
    assert "nasbench201: 15,625 architectures" in shown
    assert "nope" in refused("spaces '[nope, nasbench201]'", capsys)
    assert "is given twice" in refused("spaces '[nasbench201, nasbench201]'", capsys)
