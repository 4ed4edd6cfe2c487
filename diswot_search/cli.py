"""The command line: it parses options, calls a job, and prints its report. No decision is made here.

What is heavy is imported when a command runs, so that `diswot --help` is quick.
"""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import re
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, get_loader, set_loader
from yaml import YAMLError

from .options.base import Options, as_typed, near_options, only_in_python, options_of, summary
from .options.compare import CompareOptions
from .options.export import ExportOptions
from .options.lists import (
    ImportOptions,
    ListAlgorithmsOptions,
    ListDistillersOptions,
    ListMeasuresOptions,
    ListProxiesOptions,
    ListSpacesOptions,
    ShowOptions,
)
from .options.pipeline import PipelineOptions
from .options.report import ReportOptions
from .options.search import SearchOptions
from .options.shortlist import ShortlistOptions
from .options.sources import RankSourcesOptions
from .options.sweep import SweepOptions, TabulateOptions
from .options.training import DistillOptions, TrainOptions
from .reports.terminal import show
from .runtime.interruption import Interruption

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
"""Exit statuses of the command line."""


@dataclass(frozen=True)
class Command:
    """A command: its options, and where to find what is done with them.

    Attributes:
        options: The class of its options.
        action: "module:name" of a job, or of a function of the options that gives what is to be printed.
    """

    options: type[Options]
    action: str

    def __call__(self, values: dict[str, object]) -> None:
        """Run the job with these options, and print its report."""
        action = pkgutil.resolve_name(self.action)
        options = self.options(**values)
        options.prepare()
        if isinstance(action, type):
            job = action(options, show)
            result = job.complete()
            show(*job.report(result))
            job.check_result(result)
        else:
            show(*action(options))


COMMANDS: dict[str, Command] = {
    "search": Command(SearchOptions, "diswot_search.jobs.search:SearchJob"),
    "show": Command(ShowOptions, "diswot_search.jobs.listing:show"),
    "report": Command(ReportOptions, "diswot_search.jobs.report:report_lines"),
    "compare": Command(CompareOptions, "diswot_search.jobs.compare:ComparisonRun"),
    "train": Command(TrainOptions, "diswot_search.jobs.train:TrainJob"),
    "distill": Command(DistillOptions, "diswot_search.jobs.train:DistillJob"),
    "shortlist": Command(ShortlistOptions, "diswot_search.jobs.shortlist:ShortlistJob"),
    "sweep": Command(SweepOptions, "diswot_search.jobs.sweep:SweepJob"),
    "table": Command(TabulateOptions, "diswot_search.jobs.training_table:table"),
    "sources": Command(RankSourcesOptions, "diswot_search.jobs.rank_sources:RankingRun"),
    "run": Command(PipelineOptions, "diswot_search.jobs.pipeline:PipelineJob"),
    "export": Command(ExportOptions, "diswot_search.compression.export:export_lines"),
    "spaces": Command(ListSpacesOptions, "diswot_search.jobs.listing:spaces"),
    "proxies": Command(ListProxiesOptions, "diswot_search.jobs.listing:proxies"),
    "distillers": Command(ListDistillersOptions, "diswot_search.jobs.listing:distillers"),
    "measures": Command(ListMeasuresOptions, "diswot_search.jobs.listing:measures"),
    "algorithms": Command(ListAlgorithmsOptions, "diswot_search.jobs.listing:algorithms"),
    "import": Command(ImportOptions, "diswot_search.jobs.listing:import_file"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line after the program's name; by default that of this process.

    Returns:
        0 done, 2 bad input (one line on standard error says what), 130 interrupted with the state saved.
    """
    # Two threads on busy cores wait for each other by spinning, many times longer than they compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(map(_underscored, sys.argv[1:] if arguments is None else arguments))
    out: object = None
    try:
        if message := _check_command(arguments):
            return _refuse(message)
        arguments = list(_written_out(arguments))
        with _termination_as_interrupt():
            command, options = _parse(arguments)
            out = options.get("out") if COMMANDS[command].options.OUT else None
            if names := only_in_python(options):
                return _refuse(
                    f"The values of {', '.join(names)} were given in Python; they cannot be read from a file. Give "
                    "them anew, or run a stage of a pipeline by the config.yaml of the pipeline."
                )
            with _warnings_in_a_line(), _signals_answered(is_quiet=bool(options.get("quiet"))):
                COMMANDS[command](options)
    except ArgumentError as error:
        return _refuse(_explain(str(error), arguments))
    except KeyboardInterrupt:
        is_stored = isinstance(out, str) and os.path.isdir(out)
        _complain(f"interrupted{'; what was done is stored, and the same command continues' if is_stored else ''}.")
        return INTERRUPTED
    except Exception as error:
        if (message := _explanation(error)) is None:
            raise
        return _refuse(message)
    return DONE


def _underscored(argument: str) -> str:
    """The option with underscores instead of dashes; the text after a dot or "=" is left alone."""
    option = re.match(r"--[\w-]+", argument)
    return argument if option is None else f"--{option[0][2:].replace('-', '_')}{argument[option.end() :]}"


def _check_command(arguments: Sequence[str]) -> str | None:
    """Why a line does not begin with a command; None if it does, or asks what there is."""
    first = arguments[0] if arguments else ""
    if first in COMMANDS or first in ("-h", "--help", "--version"):
        return None
    if not first:
        return f"No command is given. Commands: {', '.join(COMMANDS)}; `diswot --help` describes them."
    name = first.lstrip("-").partition("=")[0]
    names_of = {command: {"config", *options_of(entry.options)} for command, entry in COMMANDS.items()}
    taken_by = [command for command, names in names_of.items() if name in names]
    from search_spaces.registry import near_names, unknown_name_message

    if not first.startswith("-") or (name in COMMANDS and not taken_by):
        return unknown_name_message("command", first, COMMANDS)
    if taken_by:
        return f"{first} stands before the command; write it after one that takes it: {', '.join(taken_by)}."
    if general := near_names(name, ["version", "help"]):
        return f"There is no option {first} without a command. Did you mean --{general[0]}?"
    near = near_options(name, list(dict.fromkeys(option for names in names_of.values() for option in sorted(names))))
    hint = f" Did you mean --{near[0]}, after a command?" if near else ""
    return f"No command has the option {first}.{hint} Commands: {', '.join(COMMANDS)}."


def _written_out(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments with what may be left out: "true" after a switch, and "+" after an option given several times."""
    command = COMMANDS.get(arguments[0])
    options = options_of(command.options).values() if command else ()
    switches = {f"--{name}" for option in options if option.kind is bool for name in option.names}
    repeatable = {f"--{alias}": option.name for option in options for alias in option.aliases}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name, equals, value = argument.partition("=")
        if argument in switches and following.startswith("--"):
            yield f"{argument}=true"
        elif name in repeatable:
            yield f"--{repeatable[name]}+{equals}{value}"
        else:
            yield argument


def _explanation(error: Exception) -> str | None:
    """The message for the user: of bad input, of an error class of this program, or of a machine that failed.

    Returns:
        The message; None for an error of the program itself.
    """
    ours = type(error).__module__.partition(".")[0] in ("diswot_search", "search_spaces")
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"  # without the number of the system's error
    if ours or isinstance(error, ValueError | OSError | ImportError | MemoryError):
        return as_typed(error) or type(error).__name__
    from .runtime.failures import MachineError, stop_if_machine_failed  # loads torch

    try:
        stop_if_machine_failed(error, "in this command")
    except MachineError as failure:
        return str(failure)
    return None


_LONGEST_WORD = 250
"""Length in characters of the longest word of a message, such as a path."""

_LONGEST_MESSAGE = 2000
"""Length in characters of the longest message."""


def _refuse(message: str) -> int:
    from search_spaces.registry import shortened  # loads timm

    words = " ".join(shortened(word, _LONGEST_WORD) for word in message.split())
    cut = f" ... ({len(words) - _LONGEST_MESSAGE:,} more characters)" if len(words) > _LONGEST_MESSAGE else ""
    _complain(f"error: {words[:_LONGEST_MESSAGE]}{cut}")
    return BAD_INPUT


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping of names to values",
}
"""The parser's types in the words of messages."""


def _explain(message: str, arguments: Sequence[str]) -> str:
    """The parser's message in shorter words, with a hint if there is one."""
    if match := re.match(r'Parser key "(.+?)":.*?(?:Given value|Got value): (.*)', message, re.DOTALL):
        kinds = dict.fromkeys(
            _KINDS[kind] for kind in re.findall(r"Expected a <class '(\w+)'>", message) if kind in _KINDS
        )
        return f"{match[1]} is {match[2]!r}; it must be {' or '.join(kinds)}." if kinds else message
    if match := re.match(r"argument --(\w+).*: expected one argument", message):
        option = f"--{match[1]}"
        value = next((after for before, after in pairwise(arguments) if before == option), "")
        return f"{message}; write {option}={value}" if value.startswith("-") and value[1:2] != "-" else message
    if match := re.match(r"Subcommand '\w+' does not accept option '(\w+)'", message):
        if others := [name for name in COMMANDS if match[1] in options_of(COMMANDS[name].options)]:
            return f"{message}; taken by: {', '.join(others)}"
        near = near_options(match[1], options_of(COMMANDS[arguments[0]].options))
        return f"{message}. Did you mean {' or '.join(near)}?" if near else message
    if message.startswith("unrecognized arguments: --"):
        nearest = _near_options(message.split()[2], arguments)
        return f"{message}. Did you mean {nearest}?" if nearest else message
    return message


def _near_options(option: str, arguments: Sequence[str]) -> str:
    """Options of the command that this one may have been meant to be."""
    name = option.lstrip("-").partition("=")[0]
    options = options_of(COMMANDS[arguments[0]].options).values()
    names = [name for option in options for name in option.names]
    return " or ".join(f"--{near}" for near in near_options(name, names))


@contextmanager
def _signals_answered(*, is_quiet: bool) -> Iterator[None]:
    """In this block, the first signal is answered by a line, since work at hand may need some seconds to end."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    Interruption.notice = "" if is_quiet or not is_first else "diswot: stopping, once the work at hand has ended."
    try:
        yield
    finally:
        Interruption.notice = ""


def _complain(what: str) -> None:
    """One line on standard error, from the first of the processes that a launcher started on this machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"diswot: {what}\n")


def _parse(arguments: Sequence[str]) -> tuple[str, dict[str, object]]:
    """The command's name and its options by name."""
    parser = ArgumentParser(
        prog="diswot",
        description="Find the student for a teacher without training.",
        exit_on_error=False,
        allow_abbrev=False,
        version=importlib.metadata.version("diswot-search"),
    )
    set_loader("yaml", _load_yaml(get_loader("yaml")), (YAMLError,))
    commands = parser.add_subcommands(dest="command", required=True)
    for name, entry in COMMANDS.items():
        commands.add_subcommand(name, _parser_of(entry), help=summary(entry.options))
    try:
        parsed = parser.parse_args(arguments)
    except (UnicodeError, RecursionError, MemoryError) as error:  # jsonargparse reads files and values
        raise ArgumentError(None, f"the arguments cannot be read: {error}") from error
    options = parsed[parsed.command].as_dict()
    del options["config"]
    return parsed.command, options


_SHORT = 100
"""Texts below this length cannot exceed the limits of YAML."""


def _load_yaml(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """The parser's reader of YAML, within our limits."""
    if hasattr(load, "limited"):
        return load

    def load_within_limits(text: str) -> Any:
        if len(text) < _SHORT:
            return load(text)
        from search_spaces.yaml_files import load_yaml  # loads timm, which help does not need

        return load_yaml(text, load)

    load_within_limits.limited = True  # type: ignore[attr-defined]
    return load_within_limits


def _parser_of(entry: Command) -> ArgumentParser:
    """The parser of one command."""
    parser = ArgumentParser(description=summary(entry.options), exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with options.")
    for option in options_of(entry.options).values():
        default = entry.options.OUT if option.name == "out" and entry.options.OUT else option.default
        if not option.is_positional:
            names = [f"--{name}" for name in option.names]
            parser.add_argument(*names, type=option.kind, default=default, help=option.text)
        elif option.takes_several:
            parser.add_argument(option.name, nargs="+", type=str, help=option.text)
        elif option.is_required:
            parser.add_argument(option.name, type=option.kind, help=option.text)
        else:
            parser.add_argument(option.name, nargs="?", type=option.kind, default=default, help=option.text)
    return parser


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Answer SIGTERM as Ctrl-C is answered, so that the state is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Show each warning as one line, without the place in the code that raised it."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_a_line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is UserWarning:
                _complain(f"warning: {message}")
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_in_a_line
        yield
