"""Code of a user's own on the command line and in Python: wherever a name is taken, from config.yaml, and again."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import diswot_search as ds
from diswot_search.cli import main
from diswot_search.distillation import base
from diswot_search.jobs import training_run
from diswot_search.networks.saved import read_card
from diswot_search.proxies import registry
from diswot_search.sources import transferability
from diswot_search.study import algorithms
from search_spaces import plugins, recipes

CODE = '''
import torch
from torch import nn
from timm.models.resnet import BasicBlock, ResNet

import diswot_search as ds
from search_spaces import SearchSpace


class Narrow(SearchSpace):
    """ResNets of few channels."""

    def __init__(self, num_classes=10, input_size=(3, 32, 32), widths=(4, 8)):
        decisions = {"width": list(widths), "depth": [1, 2]}
        super().__init__("narrow", decisions, num_classes=num_classes, input_size=input_size)

    def build(self, architecture):
        width, depth = architecture.choices
        options = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return ResNet(BasicBlock, (depth, 1, 1, 1), channels=(width,) * 4, stem_width=width, **options)


def make_net(num_classes, in_chans=3, width=8):
    body = nn.Conv2d(in_chans, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(width, num_classes))


def trained_net(num_classes=10):
    network = make_net(num_classes)
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network


made = trained_net().eval()
number = 3


def broken_net(num_classes):
    raise KeyError("weights")


def no_net(num_classes):
    return 3


def broken_space(num_classes, input_size):
    raise KeyError("which")


def spread(student, teacher=None):
    """Standard deviation of the logits."""
    return float(student.logits.std())


class Huber(ds.Distiller):
    """The smooth L1 distance of the logits."""

    def __init__(self, setting, beta=1.0):
        super().__init__(setting)
        self.beta = beta

    def forward(self, student, teacher, batch):
        return nn.functional.smooth_l1_loss(student.logits, teacher.logits, beta=self.beta)


class Draw(ds.Algorithm):
    """Architectures drawn evenly."""

    def suggest(self, attempt):
        return self.draw()


def deviation(evidence):
    """Standard deviation of the features."""
    return float(evidence.features.std())


gentle = ds.create_recipe("cifar", epochs=1, lr=0.01)

ds.register_space("registered_narrow", Narrow)
ds.register_proxy("registered_spread", spread)
ds.register_distiller("registered_huber", Huber)
ds.register_algorithm("registered_draw", Draw)
ds.register_measure("registered_deviation", deviation)
'''

DATA = "--data_options.image_size 8 --data_options.train_limit 40 --batch_size 20 --epochs 1 --device cpu --quiet"
SEARCH = "search --batch_size 4 --evaluations 3 --device cpu --quiet"


REGISTRIES = [base._DISTILLERS, registry._PROXIES, transferability.MEASURES, algorithms._algorithms, recipes._SPACES]


@pytest.fixture(autouse=True)
def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with own.py in it; what the file registers is forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(training_run, "plot_training", lambda rows, result: {})
    monkeypatch.setattr(importlib.import_module("diswot_search.jobs.search"), "PICTURES", {})
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CODE)
    forget()
    yield
    forget()


def forget() -> None:
    """Forget what was loaded, as a new process has not loaded it."""
    plugins._named.clear()
    sys.modules.pop("own", None)
    for one in REGISTRIES:
        one._adopted.clear()
        for name in [name for name in one._entries if name.startswith("registered_")]:
            del one._entries[name]


def run(line: str) -> int:
    return main(shlex.split(line))


def test_all_kinds_are_named_in_a_file_and_work_again_from_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{SEARCH} --space own.py:Narrow --proxy own.py:spread --algorithm own:Draw --out run"
    assert run(line) == 0
    first = capsys.readouterr().out
    assert "width=" in first
    forget()
    assert run("search --config run/config.yaml") == 0
    assert capsys.readouterr().out == first
    assert run("search --config run/config.yaml --evaluations 4") == 0
    assert len(ds.Study.load("run")) == 4
    assert (
        run(f"{SEARCH} --space own.py:Narrow --space_options.widths [6] --proxy 'log_rank(own.py:spread, macs)'") == 0
    )


def test_a_run_of_own_code_is_shown_without_it_and_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{SEARCH} --space own.py:Narrow --out run") == 0
    forget()
    capsys.readouterr()
    assert run("show run") == 0
    shown = capsys.readouterr().out
    assert "Best 3 of 3 evaluations" in shown
    assert "That code does not run because a file names it" in shown
    assert "own" not in sys.modules
    assert run("show run --import own.py:Narrow") == 0
    assert "winner.build()" in capsys.readouterr().out


def test_teacher_student_and_distiller_are_named_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(f"train --model own.py:make_net --model_options.width 6 {DATA} --recipe own.py:gentle --out teacher") == 0
    )
    assert "diswot_search.import_code('own.py:make_net'); model = " in capsys.readouterr().out
    weights = "--teacher own.py:make_net --teacher_options.width 6 --teacher_checkpoint teacher"
    line = f"distill {weights} --student own.py:make_net --distiller '{{kd: 1, own.py:Huber: {{beta: 2}}}}' {DATA}"
    assert run(f"{line} --out run") == 0
    assert "own.py:Huber" in capsys.readouterr().out
    forget()
    assert run(f"distill --config run/config.yaml --epochs 2 {DATA.replace('--epochs 1', '')} --out longer") == 0
    forget()
    with pytest.raises(ValueError, match=r"The network own\.py:make_net is made by own\.py:make_net\. That code does"):
        ds.load_student("run")
    ds.import_code("own.py:make_net")
    student = ds.load_student("run")
    assert isinstance(student[0], nn.Conv2d)  # type: ignore[index]
    assert read_card("run").own == {"name": "own.py:make_net", "arguments": {"num_classes": 10, "in_chans": 3}}
    assert run(f"distill --teacher teacher --student run {DATA} --import own.py:make_net --out next") == 0
    assert run("show next") == 0


def test_the_weights_of_own_code_may_be_of_other_classes(capsys: pytest.CaptureFixture[str]) -> None:
    network = trained_five_classes()
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"net": weights, "acc": 91.5, "epoch": 3}, "five.pt")
    line = f"distill --teacher own.py:make_net --teacher_checkpoint five.pt --student cifar_resnet20 {DATA} --out run"
    assert run(line) == 2
    assert "has 5. Three ways: teacher_classes='adapt'" in capsys.readouterr().err
    assert not Path("run").exists()
    assert run(f"{line} --teacher_classes adapt") == 0


def trained_five_classes() -> nn.Module:
    """The network of `make_net` for five classes, with weights that are no initialisation."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for parameter in network.parameters():
        parameter.data.normal_()
    return network


def test_a_space_that_fails_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    Path("failing.py").write_text(
        "import diswot_search as ds\n"
        "def make(num_classes=10, input_size=(3, 32, 32)):\n    raise KeyError('which file?')\n"
        "ds.register_space('registered_failing', make)\n"
    )
    assert run("spaces --import failing.py") == 0
    shown = capsys.readouterr().out
    assert " registered_failing " in shown
    assert "cannot be made: KeyError" in shown
    assert " nasbench201 " in shown
    sys.modules.pop("failing")


BARE = """
import diswot_search as ds
from search_spaces import TimmSpace

class Bare(TimmSpace):
    def __init__(self, num_classes=10, input_size=(3, 32, 32)):
        decisions = {"stem_width": [16, 32]}
        super().__init__("bare", "resnet10t", decisions, num_classes=num_classes, input_size=input_size)

class BareDistiller(ds.Distiller):
    def forward(self, student, teacher, batch):
        return student.logits.sum()

ds.register_space("registered_bare", Bare)
ds.register_distiller("registered_bare", BareDistiller)
"""


def test_the_docstring_of_a_base_class_is_not_that_of_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.py").write_text(BARE)
    assert run("spaces bare.py:Bare") == 0
    shown = capsys.readouterr().out
    assert "bare.py:Bare: it has no docstring that describes it\nIts options" in shown
    assert "Architectures of one timm" not in shown
    for command in ("spaces", "distillers"):
        assert run(f"{command} --import bare.py") == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "registered_bare" in line]
        assert not re.search(r"[a-z]{3} [a-z]{2,}", line)  # no sentence of the base class
    sys.modules.pop("bare")


def test_code_that_loads_its_own_weights_is_trained() -> None:
    teachers = {name: ds.create_teacher(f"own.py:{name}") for name in ("trained_net", "made")}
    assert [teacher.trained for teacher in teachers.values()] == [True, True]
    assert not ds.create_teacher("own.py:make_net", num_classes=10).trained
    weights = [nn.utils.parameters_to_vector(t.build(seed).parameters()) for seed, t in enumerate(teachers.values())]
    assert torch.equal(*weights)
    as_given = ds.as_network("own.py:trained_net", num_classes=10, image_size=(8, 8), role="teacher")
    assert (as_given.name, as_given.num_classes, as_given.trained) == ("own.py:trained_net", 10, True)
    random = ds.as_network("own.py:make_net", num_classes=3, in_chans=1)
    assert random.build(0)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert not torch.equal(random.build(0)[0].weight, random.build(1)[0].weight)  # type: ignore[index]


def test_sources_and_measures_are_named_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    line = "sources --sources '{a: own.py:trained_net, b: {model: own.py:trained_net, num_classes: 4}}' "
    line += "--measures '[own.py:deviation, parc]' --images 20 --image_draws 1 --device cpu --quiet --out ranking"
    assert run(line) == 0
    shown = capsys.readouterr()
    assert "Sources for digits by own.py:deviation" in shown.out
    forget()
    assert run("show ranking") == 0


@pytest.mark.parametrize("form", ["own.py", "own"])
def test_what_is_imported_is_listed_and_known_by_name(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, name in (
        ("spaces", "narrow"), ("proxies", "spread"), ("distillers", "huber"), ("algorithms", "draw"),
        ("measures", "deviation"),
    ):  # fmt: skip
        assert run(f"{command} --import {form}") == 0
        assert f" registered_{name} " in capsys.readouterr().out
    line = f"{SEARCH} --space registered_narrow --proxy registered_spread --algorithm registered_draw"
    Path("empty.py").touch()
    assert run(f"{line} --import {form} --import empty.py --out run") == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["imports"] == [form, "empty.py"]
    assert run("search --config run/config.yaml --evaluations 4") == 0
    study = ds.search("registered_narrow", proxy="registered_spread", evaluations=2, batch_size=4, imports=form)
    assert len(study) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --space own.py:spread", "Search space 'own.py:spread'"),
        ("search --space own.py:broken_space", "cannot be made: KeyError: 'which' (own.py, line 49)."),
        ("search --space own.py:number", "own.py:number is a int; a search space is a class or function"),
        ("search --proxy own.py:Narrow", "own.py:Narrow is the class Narrow; a proxy is a function"),
        ("search --algorithm own.py:Narrow", "own.py:Narrow is no algorithm"),
        ("search --algorithm own.py:Draw --algorithm_options.size 3", "'own.py:Draw' has no option 'size'"),
        ("search --teacher own.py:number", "own.py:number is a int; a network is named by a class or function"),
        ("search --space own.py:Narrw", "own.py has no 'Narrw'. Did you mean 'Narrow'"),
        (f"train {DATA} --model own.py:no_net", "own.py:no_net makes a int; it must make a torch.nn.Module"),
        (f"train {DATA} --model own.py:broken_net", "own.py:broken_net fails with {'num_classes': 10}: KeyError"),
        (f"train {DATA} --model own.py:make_net --model_options.wdth 3", "takes no wdth; did you mean 'width'"),
        (f"train {DATA} --model own.py:made --model_options.width 3", "made already; width cannot be set"),
        (f"train {DATA} --recipe own.py:spread", "own.py:spread is a function; it must be a Recipe"),
        (
            f"distill {DATA} --student cifar_resnet20 --teacher resnet10t --distiller own.py:spread",
            "is not a distiller",
        ),
        ("sources --sources [cifar_resnet20] --measures own.py:Draw", "own.py:Draw is no measure"),
        ("sources --sources [own.py:number]", "own.py:number is a int"),
    ],
)
def test_code_of_another_kind_is_an_error_of_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("runs").exists()


def test_code_may_be_said_to_be_trained_or_random(capsys: pytest.CaptureFixture[str]) -> None:
    for name, told in (("make_net", True), ("trained_net", False), ("made", False)):
        assert ds.create_teacher(f"own.py:{name}", num_classes=10, trained=told).trained is told
        network = ds.as_network(f"own.py:{name}", num_classes=10, image_size=(8, 8), role="teacher", trained=told)
        assert network.trained is told
        (source,) = ds.as_sources([{"model": f"own.py:{name}", "num_classes": 10, "trained": True}])
        assert source.trained
    teach = f"distill {DATA} --student cifar_resnet20 --out run --teacher own.py:make_net --teacher_options.trained "
    assert run(f"{teach} true") == 0
    assert "random weights" not in capsys.readouterr().err
    assert run(f"{teach} maybe") == 2
    assert "trained is 'maybe'; it must be true or false." in capsys.readouterr().err
    torch.save({}, "weights.pt")
    assert run(f"{teach} false --teacher_checkpoint weights.pt") == 2
    assert "has a checkpoint, so that trained cannot be false." in capsys.readouterr().err


GREY = """
from own import make_net

def grey(num_classes=10):
    return make_net(num_classes, 1)
"""


@pytest.mark.parametrize("name", ["grey.py:grey", "own.py:make_net"])
def test_code_of_one_channel_gets_grey_images(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("grey.py").write_text(GREY)
    torch.save(ds.as_network(name, num_classes=10, in_chans=1).build(3).state_dict(), "grey.pt")
    takes_channels = name.startswith("own")
    line = f"distill {DATA} --student {name} --student_options.in_chans 1 --out run "
    line += f"--teacher {name} --teacher_checkpoint grey.pt --teacher_options.mean 0.5 --teacher_options.std 0.25 "
    assert run(line + "--teacher_options.input_size [1,8,8]" * takes_channels) == 0
    assert read_card("run").input_size == (1, 8, 8)
    capsys.readouterr()
    assert run(f"train {DATA} --model {name}" + " --model_options.in_chans 2" * takes_channels) == 2
    reason = "images of 2 channels" if takes_channels else "With in_chans 1 among its options it gets their images"
    assert reason in capsys.readouterr().err
    sys.modules.pop("grey", None)
