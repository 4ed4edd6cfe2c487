"""Options are declared once: Python, the command line, help, YAML and config.yaml are made from one class."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

import diswot_search as ds
from diswot_search import cli
from diswot_search.checks import check_whole
from diswot_search.jobs.job import Job
from diswot_search.jobs.train import TrainJob
from diswot_search.options.base import Options, changed, from_options, options_of, to_yaml, written_type
from diswot_search.options.search import SearchOptions
from diswot_search.options.shared import RunOptions
from diswot_search.options.training import TrainOptions
from diswot_search.resolve.searches import as_budget

FUNCTIONS = {
    "search": ds.search,
    "compare": ds.compare,
    "train": ds.train,
    "distill": ds.distill,
    "sweep": ds.sweep,
    "shortlist": ds.shortlist,
    "table": ds.tabulate,
    "sources": ds.rank_sources,
    "run": ds.run,
    "export": ds.export,
}
"""The public function of each command that is a job."""

REQUIRED = {
    "export": ["STUDENT"],
    "show": ["RUN"],
    "report": ["RUN"],
    "table": ["RUN"],
    "import": ["KIND", "PATH", "OUT"],
}
"""Arguments without which a command is refused."""


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    name, options = cli._parse([command, *REQUIRED.get(command, []), *arguments])
    assert name == command
    return options


# -- Python and the command line ----------------------------------------------------------------


def test_every_command_that_has_a_run_folder_is_a_public_function() -> None:
    with_folders = {name for name, command in cli.COMMANDS.items() if command.options.OUT}
    assert with_folders | {"export", "table"} == set(FUNCTIONS)


@pytest.mark.parametrize("command", FUNCTIONS)
def test_python_and_the_command_line_offer_the_same_options_with_the_same_defaults(command: str) -> None:
    parameters = inspect.signature(FUNCTIONS[command]).parameters
    of_command_line = parsed(command)
    assert list(of_command_line) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty:
            value = of_command_line[name]
            assert value in REQUIRED[command] or value == REQUIRED[command]
        elif name == "out" and cli.COMMANDS[command].options.OUT:  # the one difference: Python may stay in memory
            assert parameter.default is None
            assert of_command_line[name] == cli.COMMANDS[command].options.OUT
        else:
            assert of_command_line[name] == parameter.default, name
            assert type(of_command_line[name]) is type(parameter.default)


@pytest.mark.parametrize("command", FUNCTIONS)
def test_docstrings_and_help_describe_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([command, "--help"])
    shown = "".join(capsys.readouterr().out.split())
    docstring = FUNCTIONS[command].__doc__ or ""
    for option in options_of(cli.COMMANDS[command].options).values():
        assert f"\n    {option.name}: {option.text}\n" in docstring
        assert "".join(option.text.split()) in shown
    assert "Raises:\n" in docstring
    assert docstring.count("Args:\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_yaml_holds_all_options_and_is_read_back(command: str, tmp_path: Path) -> None:
    options = parsed(command)
    text = to_yaml(cli.COMMANDS[command].options(**options))
    assert yaml.safe_load(text) == options
    (tmp_path / "config.yaml").write_text(text)
    assert parsed(command, "--config", str(tmp_path / "config.yaml")) == options


def test_options_of_data_are_those_of_probes_and_splits() -> None:
    for function in (ds.create_probe, ds.create_probes, ds.create_splits):
        names = list(inspect.signature(function).parameters)
        assert names[0] == "name"
        assert {"root", "download", "image_size", "seed", "mean", "std"} < set(names)
        assert all(f"\n    {name}: " in (function.__doc__ or "") for name in names)


# -- a name that is wrong -----------------------------------------------------------------------


def test_the_old_spelling_of_draws_is_refused_with_the_new_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for function, new in ((ds.search, "weight_draws"), (ds.run, "weight_draws"), (ds.rank_sources, "image_draws")):
        with pytest.raises(TypeError, match=f"has no option 'draws'; did you mean '{new}'"):
            function(draws=2)  # type: ignore[operator]
    assert cli.main(["compare", "--draws", "2"]) == 2
    assert "Did you mean --weight_draws" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("draws: 2\n")
    assert cli.main(["sources", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "Did you mean image_draws" in capsys.readouterr().err


def test_a_budget_is_given_in_one_way() -> None:
    assert as_budget(SearchOptions(max_params=3e4)) == as_budget(SearchOptions(budget={"max_params": 3e4}))
    assert as_budget(SearchOptions(budget=ds.Budget(max_macs=5))) == ds.Budget(max_macs=5)
    assert as_budget(SearchOptions()).is_empty
    with pytest.raises(ValueError, match="given as a whole; max_params, latency_batch_size cannot be set"):
        as_budget(SearchOptions(budget=ds.Budget(), max_params=1.0, latency_batch_size=2))
    with pytest.raises(ValueError, match="must be a Budget"):
        as_budget(SearchOptions(budget=3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="A budget has no 'params'"):
        as_budget(SearchOptions(budget={"params": 3}))


# -- what the command line can write ------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ("SearchSpace | str", str),
        ("str | os.PathLike[str] | None", str | None),
        ("str | Mapping[str, float]", dict[str, float] | str),
        ("str | Measure | Sequence[str | Measure]", list[str] | str),
        ("Mapping[str, Any] | None", dict[str, Any] | None),
        ("Mapping[str, str | Mapping[str, Any]] | None", dict[str, dict[str, Any] | str] | None),
        ("np.ndarray | Iterable[int | Tensor] | str | int", list[int] | int | str),
        ("Sequence[Probe] | None", type(None)),
        ("Literal['a', 'b']", None),
    ],
)
def test_a_type_is_cut_to_what_can_be_written_as_text(annotation: str, kind: Any) -> None:
    if kind is None:
        assert written_type(annotation).__args__ == ("a", "b")
    else:
        assert written_type(annotation) == kind


def test_values_that_only_python_has_are_named_in_the_yaml() -> None:
    space = ds.create_space("nasbench201")
    architecture = next(iter(space))
    options = SearchOptions(space, architecture, ds.create_probe(batch_size=4), budget=ds.Budget(max_params=7.0))
    values = yaml.safe_load(to_yaml(replace(options, out=Path("runs/x"), algorithm_options={"population": (1, 2)})))
    assert values["space"] == "<NASBench201Space that was given in Python>"
    assert values["probe"] == "<Probe that was given in Python>"
    assert space.parse(values["teacher"]) == architecture
    assert values["budget"]["max_params"] == 7.0
    assert (values["out"], values["algorithm_options"]) == ("runs/x", {"population": [1, 2]})


def test_values_of_derived_types_are_written_as_their_base_types() -> None:
    class Text(str):
        def __str__(self) -> str:
            return "other"

    class Level(IntEnum):
        HIGH = 3

    derived = {"float": np.float64(0.5), "single": np.float32(0.25), "int": Level.HIGH, "int64": np.int64(7)}
    options = {**derived, "text": Text("fir"), "numpy text": np.str_("oak"), "flag": True, "list": [np.float64(2.0)]}
    values = yaml.safe_load(to_yaml(SearchOptions("nasbench201", algorithm_options=options)))
    assert values["algorithm_options"] == {
        "float": 0.5, "single": 0.25, "int": 3, "int64": 7, "text": "fir", "numpy text": "oak", "flag": True,
        "list": [2.0],
    }  # fmt: skip
    assert values["algorithm_options"]["flag"] is True


def test_an_option_without_a_description_or_a_written_form_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent(Options):
        """Do a thing."""

        size: int = 3

    with pytest.raises(TypeError, match="size of Silent has no description"):
        options_of(Silent)

    @dataclass(frozen=True)
    class Unwritten(Options):
        """Do a thing.

        Args:
            probe: A probe.
        """

        probe: Sequence[ds.Probe] | None = None

    with pytest.raises(TypeError, match="No value of the option probe of Unwritten can be written"):
        options_of(Unwritten)


def test_what_differs_from_its_default_is_changed() -> None:
    options = SearchOptions(power=10.0, weighting={"a": 1.0}, evaluations=0)
    assert changed(options, "power", "weighting", "evaluations", "measure") == ["weighting", "evaluations"]


# -- a job of its own ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ColourOptions(Options):
    """A group that jobs share.

    Args:
        colour: Colour of the
            picture.
    """

    colour: str = "green"


@dataclass(frozen=True)
class PaintOptions(RunOptions, ColourOptions):
    """Paint a picture.

    More about it.

    Args:
        subject: What is painted.
        sizes: Sizes by name.
    """

    OUT: ClassVar[str | None] = "runs/paint"

    subject: str = "apple"
    _: KW_ONLY
    sizes: Mapping[str, float] | None = None


class Folder:
    """A run folder that keeps what it is told."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.is_held = True
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str) -> None:
        assert self.path is not None
        (self.path / name).write_text(content)

    def release(self) -> None:
        self.is_held = False


class Paint(Job[PaintOptions, str]):
    """The job of `paint`; it notes the order of what is called."""

    def check(self) -> None:
        self.calls = ["check"]
        if self.options.subject == "nothing":
            raise ValueError("subject is 'nothing'.")

    def open(self) -> Folder:
        self.calls.append("open")
        self.folder = Folder(None if self.options.out is None else Path(self.options.out))
        return self.folder

    def run(self) -> str:
        self.calls.append("run")
        self.folder.release()
        self.show("painting")
        return f"{self.options.colour} {self.options.subject}"

    def report(self, result: str) -> Iterable[str]:
        return [result]


@from_options(PaintOptions)
def paint(options: PaintOptions) -> str:
    """
    Returns:
        The picture.
    """
    return Paint(options).complete()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "paint", cli.Command(PaintOptions, f"{__name__}:Paint"))
    return "paint"


def test_an_option_of_one_class_appears_everywhere(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert list(inspect.signature(paint).parameters) == [
        "subject", "colour", "imports", "seed", "out", "device", "progress", "quiet", "sizes",
    ]  # fmt: skip
    assert inspect.signature(paint).parameters["colour"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(paint).return_annotation == "str"
    assert (paint.__doc__ or "").startswith(
        "Paint a picture.\n\nMore about it.\n\nArgs:\n    subject: What is painted."
    )
    assert "\n    colour: Colour of the picture.\n" in (paint.__doc__ or "")
    assert (paint.__doc__ or "").endswith("Returns:\n    The picture.")
    assert paint("pear", colour="red") == "red pear"
    assert not list(tmp_path.iterdir())  # kept in memory
    with pytest.raises(TypeError, match="paint has no option 'color'; did you mean 'colour'"):
        paint(color="red")  # type: ignore[call-arg]
    assert cli.main([command, "--colour", "blue", "--sizes.a", "2"]) == 0
    assert capsys.readouterr().out == "painting\nblue apple\n"
    written = yaml.safe_load(Path("runs/paint/config.yaml").read_text())
    assert written == {
        "subject": "apple", "colour": "blue", "imports": None, "seed": 0, "out": "runs/paint", "device": "auto",
        "progress": True, "quiet": False, "sizes": {"a": 2.0},
    }  # fmt: skip
    assert cli.main([command, "--config", "runs/paint/config.yaml", "--out", "again"]) == 0
    assert yaml.safe_load(Path("again/config.yaml").read_text()) == written | {"out": "again"}


def test_a_job_is_checked_opened_and_run_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Paint(PaintOptions(out=tmp_path / "run"))
    assert job.complete() == "green apple"
    assert job.calls == ["check", "open", "run"]
    refused = Paint(PaintOptions("nothing", out=tmp_path / "other"))
    with pytest.raises(ValueError, match="subject is 'nothing'"):
        refused.complete()
    assert refused.calls == ["check"]
    assert not (tmp_path / "other").exists()

    def full(self: Folder, name: str, content: str) -> None:
        raise OSError("full")

    monkeypatch.setattr(Folder, "write", full)
    unwritten = Paint(PaintOptions(out=tmp_path / "run"))
    with pytest.raises(OSError, match="full"):
        unwritten.complete()
    assert not unwritten.folder.is_held


def test_options_that_yaml_cannot_express_are_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(options: Options) -> str:
        raise yaml.YAMLError("cannot represent an object")

    monkeypatch.setattr("diswot_search.jobs.job.to_yaml", fail)
    unwritten = Paint(PaintOptions(out=tmp_path / "run"))
    with pytest.raises(yaml.YAMLError, match="cannot represent"):
        unwritten.complete()
    assert unwritten.calls == ["check"]
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class PatientOptions(TrainOptions):
    """Train a network, with one option more.

    Args:
        patience: Number of epochs to wait for progress.
    """

    _: KW_ONLY
    patience: int = 3


class PatientJob(TrainJob):
    """The job of these options, which alone uses the new one."""

    def check(self) -> None:
        check_whole("patience", self.options.patience, least=1)
        super().check()


def test_a_new_training_option_is_one_field_of_one_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command(PatientOptions, f"{__name__}:PatientJob"))

    @from_options(PatientOptions)
    def train(options: PatientOptions) -> ds.Training:
        return PatientJob(options).complete()

    assert inspect.signature(train).parameters["patience"].default == 3
    assert "\n    patience: Number of epochs to wait for progress." in (train.__doc__ or "")
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["train", "--help"])
    assert "Number of epochs to wait for progress." in capsys.readouterr().out
    tiny = ["--model_options.arch", "1x4", "--data_options.train_limit", "40", "--data_options.image_size", "8"]
    line = [
        "train",
        "--model",
        "cifar_resnet",
        *tiny,
        "--epochs",
        "1",
        "--batch_size",
        "20",
        "--device",
        "cpu",
        "--out",
        "run",
    ]
    assert cli.main([*line, "--patience", "0"]) == 2
    assert "patience" in capsys.readouterr().err
    assert cli.main([*line, "--patience", "5"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["patience"] == 5
    data = {"train_limit": 40, "image_size": 8}
    short = train("cifar_resnet", model_options={"arch": "1x4"}, data_options=data, epochs=1, batch_size=20, patience=2)
    assert short.path is None
