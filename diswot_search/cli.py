"""The command line, and nothing but it: typed functions whose parameters are the options.

What is heavy is imported inside of functions. jsonargparse looks around to resolve types, so there is no block for type
checkers here, which it would run, and no function that the package exports by the same name, which it would load.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
"""What the command line answers to the shell."""


def search_command(
    space: str = "nasbench201",
    teacher: str | None = "cifar_resnet56",
    probe: str = "digits",
    proxy: str = "diswot",
    algorithm: str = "evolution",
    evaluations: int | None = None,
    max_params: float | None = None,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    latency_batch_size: int = 1,
    batch_size: int = 64,
    probes: int = 1,
    draws: int = 1,
    seed: int = 0,
    out: str = "runs/search",
    device: str = "auto",
    channels_last: bool = True,
    bf16: bool = False,
    progress: bool = True,
    teacher_checkpoint: str | None = None,
    space_options: dict[str, Any] | None = None,
    teacher_options: dict[str, Any] | None = None,
    probe_options: dict[str, Any] | None = None,
    algorithm_options: dict[str, Any] | None = None,
) -> None:
    """Search a space for the best student of a teacher, without training.

    Stopped at any moment, the same command continues; with more evaluations, a finished study is continued. The run
    folder's config.yaml holds all options: `diswot search --config RUN/config.yaml` runs it again.

    Args:
        space: Where to search; `diswot spaces` lists the names.
        teacher: Whom to fit: a timm name, the CIFAR ResNets included, or an architecture of the space; random weights
            unless there is a checkpoint.
        probe: The data set of the batch that scores are computed on: digits, PATH.npz, torch/cifar100, ...
        proxy: The score: a name that `diswot proxies` lists, or an aggregate such as "log_rank(nwot, macs)", which
            ranks all that has been scored.
        algorithm: evolution, ageing, nsga2, random or exhaustive.
        evaluations: Architectures to score at most, those of an earlier run included; by default 1000, for exhaustive
            all.
        max_params: Budget: trainable parameters.
        max_macs: Budget: multiply-accumulates of one image.
        max_latency_ms: Budget: median milliseconds of one forward pass on the device.
        latency_batch_size: Images in that pass.
        batch_size: Images in the probe.
        probes: Probes that each score is averaged over.
        draws: Weight draws that each score is averaged over.
        seed: Decides the algorithm's random choices, the weights and the probe.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        channels_last: Keep feature maps in NHWC memory order.
        bf16: Compute under bfloat16 autocast.
        progress: Show a bar where standard error is a terminal.
        teacher_checkpoint: Trained weights of the teacher.
        space_options: Options of the space, such as --space_options.channels 8.
        teacher_options: Options of the teacher's model.
        probe_options: Options of the probe, such as --probe_options.root data.
        algorithm_options: Options of the algorithm, such as --algorithm_options.population 50.
    """
    config = dict(locals())
    from .budget import Budget
    from .evaluation import Evaluator
    from .readings import Precision
    from .report import describe_study, format_table
    from .search import Search, weight_seeds

    budget = Budget(max_params, max_macs, max_latency_ms, latency_batch_size)
    made_space, made_teacher, made_probes = _make_subjects(config, probes)
    run = Search(
        Evaluator(
            made_space,
            made_teacher,
            made_probes,
            proxy,
            seeds=weight_seeds(seed, draws),
            device=device,
            precision=Precision(channels_last=channels_last, bf16=bf16),
        ),
        algorithm=algorithm,
        algorithm_options=algorithm_options,
        evaluations=evaluations,
        budget=budget,
        seed=seed,
        out=out,
        progress=progress,
    )
    run.study.write("config.yaml", _to_yaml(config))
    study = run.run()
    _print(format_table(study), *describe_study(study))


def compare_command(
    space: str = "nasbench201",
    table: str | None = None,
    column: str | None = None,
    where: dict[str, str] | None = None,
    skip_missing: bool = False,
    proxies: list[str] | str = "diswot",
    teacher: str | None = "cifar_resnet56",
    probe: str = "digits",
    architectures: list[str] | None = None,
    sample: int | None = None,
    controls: bool = False,
    other_teacher: str | None = None,
    other_depth: str | None = None,
    include_untrainable: bool = False,
    canonical: bool = True,
    batch_size: int = 64,
    fresh_probes: bool = False,
    draws: int = 1,
    seed: int = 0,
    bootstrap: int = 1000,
    top_k: int | None = None,
    bins: int = 5,
    retry_failed: bool = False,
    out: str = "runs/compare",
    device: str = "auto",
    channels_last: bool = True,
    bf16: bool = False,
    progress: bool = True,
    teacher_checkpoint: str | None = None,
    space_options: dict[str, Any] | None = None,
    teacher_options: dict[str, Any] | None = None,
    probe_options: dict[str, Any] | None = None,
) -> None:
    """Compare proxies with a table of known accuracies: correlation, regret, cost, with error bars.

    Stopped at any moment, the same command continues. The run folder keeps every score: another command with it
    computes only what is not there yet. Its config.yaml holds all options: `diswot compare --config RUN/config.yaml`
    runs it again.

    Args:
        space: What the table is about; `diswot spaces` lists the names.
        table: Accuracies by architecture, a CSV file; `diswot import` makes one of an official benchmark file.
        column: The column of accuracies; it need not be named where there is one only.
        where: Values that rows must have in other columns, such as --where.dataset cifar10.
        skip_missing: Leave out rows of the table that have no number in the column.
        proxies: What to compare, such as '[nwot, "zen*", "log_rank(nwot, macs)"]'; `diswot proxies` lists the names.
            params and macs are always compared too.
        teacher: Whom to compare with: a timm name, the CIFAR ResNets included, or an architecture of the space; random
            weights unless there is a checkpoint.
        probe: The data set of the batch that scores are computed on: digits, PATH.npz, torch/cifar100, ...
        architectures: Those to compare; by default all of the table.
        sample: How many of them to draw; those of a smaller sample are among those of a larger.
        controls: Repeat the proxies that use the teacher with others, with shuffled readings and with noise.
        other_teacher: The other teacher of the controls; by default cifar_wrn_40_1.
        other_depth: Their teacher of another depth; by default cifar_resnet20, or cifar_resnet110 in its place.
        include_untrainable: Compare architectures whose output does not depend on the input, too.
        canonical: Let architectures that compute the same function share a score, as a search does; otherwise each
            network is scored as it is written.
        batch_size: Images in the probe.
        fresh_probes: Give each draw a batch of its own, so that the spread over draws includes the batch.
        draws: Weight draws.
        seed: Decides the sample, the weights and the probe.
        bootstrap: Resamples of the architectures for confidence intervals; 0 makes none.
        top_k: How many count as the best; by default a tenth.
        bins: Parameter bins, equally filled.
        retry_failed: Compute what failed in an earlier run of the folder anew.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        channels_last: Keep feature maps in NHWC memory order.
        bf16: Compute under bfloat16 autocast.
        progress: Show a bar where standard error is a terminal.
        teacher_checkpoint: Trained weights of the teacher.
        space_options: Options of the space, such as --space_options.channels 8.
        teacher_options: Options of the teacher's model.
        probe_options: Options of the probe, such as --probe_options.root data.
    """
    config = dict(locals())
    if table is None:
        raise ValueError("Which table? --table names a CSV file of accuracies by architecture.")
    from search_spaces import read_table

    from .compare import ComparisonRun
    from .comparison_report import format_comparison
    from .readings import Precision
    from .search import as_teacher

    read = read_table(table, column, where=where, skip_missing=skip_missing)
    made_space, made_teacher, made_probes = _make_subjects(config, draws if fresh_probes else 1)
    run = ComparisonRun(
        made_space,
        proxies,
        read,
        made_probes,
        teacher=made_teacher,
        architectures=architectures,
        sample=sample,
        seed=seed,
        draws=draws,
        controls=controls,
        other_teacher=as_teacher(other_teacher, made_space, made_probes[0]),
        other_depth=as_teacher(other_depth, made_space, made_probes[0]),
        include_untrainable=include_untrainable,
        canonical=canonical,
        bootstrap=bootstrap,
        top_k=top_k,
        bins=bins,
        retry_failed=retry_failed,
        out=out,
        device=device,
        precision=Precision(channels_last=channels_last, bf16=bf16),
        progress=progress,
    )
    run.store.write("config.yaml", _to_yaml(config))
    comparison = run.run()
    _print(format_comparison(comparison.scores, comparison.results), f"run folder: {comparison.path}")


def proxies_command(pattern: str = "*") -> None:
    """List the proxies: whether they need a teacher, what they read of a network, and what they measure.

    Args:
        pattern: Which ones, such as "zen*".
    """
    from .report import format_proxies

    _print(format_proxies(pattern))


def import_command(kind: str, path: str, out: str, trust: bool = False, progress: bool = True) -> None:
    """Turn an official benchmark file into a table that `diswot compare` reads.

    Args:
        kind: nasbench201, nats_bench or suite_zero.
        path: The official file, or folder for NATS-Bench.
        out: The new table, .csv or .csv.gz.
        trust: The makers of the file are trusted: the official files of NAS-Bench-201 and NATS-Bench are pickles, which
            can run any code when they are read.
        progress: Show a bar where standard error is a terminal.
    """
    from search_spaces.importers import import_table

    count = import_table(kind, path, out, trust=trust, progress=progress)
    _print(f"{count:,} rows: {out}")


def spaces_command(name: str | None = None) -> None:
    """List the search spaces, or the decisions of one.

    Args:
        name: The space to show; without it, all are listed.
    """
    from .report import format_space, format_spaces

    _print(format_spaces() if name is None else format_space(name))


def show_command(run: str, best: int = 10) -> None:
    """Show the study of a run folder: the best, the budget, and how to build the winner.

    Args:
        run: The run folder, of a finished search or one that goes on.
        best: How many architectures to list.
    """
    from .report import describe_study, explain_winner, format_front, format_table
    from .study import Study

    study = Study.load(run)
    if best < 1:
        raise ValueError(f"best is {best}; it must be at least 1.")
    front = [format_front(study)] if study.config["algorithm"]["name"] == "nsga2" else []
    _print(format_table(study, best), *front, *describe_study(study), *explain_winner(study))


COMMANDS: dict[str, Callable[..., None]] = {
    "search": search_command,
    "show": show_command,
    "compare": compare_command,
    "spaces": spaces_command,
    "proxies": proxies_command,
    "import": import_command,
}

_RESUMABLE = ("search", "compare")

_POSITIONAL = {
    spaces_command: ("name", "The space to show; without it, all are listed."),
    proxies_command: ("pattern", 'Which ones, such as "zen*"; without it, all are listed.'),
}
"""What may follow a command without its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; by default that of this process.

    Returns:
        0 done, 2 bad input (one line on standard error says what), 130 interrupted with the state saved.
    """
    # Two threads on busy cores wait for each other by spinning, many times longer than they compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command, options = _parse(arguments)
    except ArgumentError as error:
        return _refuse(error)
    try:
        with _termination_as_interrupt():
            from .run_folder import StudyError

            try:
                COMMANDS[command](**options)
            except (ValueError, OSError, ImportError, MemoryError, StudyError) as error:
                return _refuse(error)
    except KeyboardInterrupt:
        stored = "; what was evaluated is stored, and the same command continues" if command in _RESUMABLE else ""
        sys.stderr.write(f"diswot: interrupted{stored}.\n")
        return INTERRUPTED
    return DONE


def _refuse(error: Exception) -> int:
    sys.stderr.write(f"diswot: error: {' '.join(str(error).split())}\n")
    return BAD_INPUT


def _parse(arguments: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    """The command's name and its options by name."""
    parser = ArgumentParser(
        prog="diswot", description="Find the student for a teacher without training.", exit_on_error=False
    )
    commands = parser.add_subcommands(dest="command", required=True)
    for name, function in COMMANDS.items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        command = ArgumentParser(description=summary, exit_on_error=False)
        command.add_argument("--config", action=ActionConfigFile, help="YAML file with options.")
        if function in _POSITIONAL:
            argument, text = _POSITIONAL[function]
            default = inspect.signature(function).parameters[argument].default
            command.add_argument(argument, nargs="?", default=default, help=text)
        else:
            command.add_function_arguments(function, as_group=False, as_positional=True)
        commands.add_subcommand(name, command, help=summary)
    parsed = parser.parse_args(arguments)
    options = parsed[parsed.command].as_dict()
    del options["config"]
    return parsed.command, options


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


def _make_subjects(config: dict[str, Any], count: int) -> tuple[Any, Any, Any]:
    """The space, the teacher and `count` probes of a command's options."""
    from .data import create_probes
    from .search import as_space, as_teacher

    of_probe = {"batch_size": config["batch_size"], "seed": config["seed"]} | (config["probe_options"] or {})
    _check_options("probe", create_probes, of_probe)
    probes = create_probes(config["probe"], count, **of_probe)
    space = as_space(config["space"], probes[0], **config["space_options"] or {})
    of_teacher = {"checkpoint": config["teacher_checkpoint"]} if config["teacher_checkpoint"] else {}
    teacher = as_teacher(config["teacher"], space, probes[0], **of_teacher, **config["teacher_options"] or {})
    return space, teacher, probes


def _check_options(what: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    allowed = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in allowed:
            raise ValueError(f"A {what} has no option {option!r}; allowed: {', '.join(allowed)}.")


def _print(*what: Any) -> None:
    """Print tables and lines to standard output; lines are broken at a terminal's edge only."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    for item in what:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))


def _to_yaml(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
