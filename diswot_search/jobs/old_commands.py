"""Commands whose options are not made from option classes yet."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from ..options.search import DEFAULT_PROXY
from ..reports.terminal import show as _print


def compare_command(
    space: str = "nasbench201",
    table: str | None = None,
    column: str | None = None,
    where: dict[str, str] | None = None,
    skip_missing: bool = False,
    proxies: list[str] | str = DEFAULT_PROXY,
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
    from search_spaces.tables import read_table

    from ..jobs.compare import ComparisonRun
    from ..readings.passes import Precision
    from ..reports.comparison import format_comparison
    from ..resolve.searches import as_teacher

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


def sources_command(
    sources: list[str | dict[str, Any]] | dict[str, str | dict[str, Any]] | str | None = None,
    dataset: str = "digits",
    measures: list[str] | str = "parc",
    labels: int | str | list[int] | None = None,
    labels_per_class: int | None = None,
    images: int = 500,
    draws: int = 5,
    reference: str | None = None,
    seed: int = 0,
    out: str = "runs/sources",
    device: str = "auto",
    progress: bool = True,
    data_options: dict[str, Any] | None = None,
) -> None:
    """Rank models of other tasks by how near they are to a data set, without training.

    Stopped at any moment, the same command continues. The run folder stands for the ranked sources in other commands:
    `diswot distill --sources RUN`, `diswot search --teacher RUN`. Its config.yaml holds all options: `diswot sources
    --config RUN/config.yaml` runs it again.

    Args:
        sources: The models, such as '[runs/mnist, resnet18, {model: cifar_resnet20, shortcut: identity, checkpoint:
            x.th, num_classes: 10, mean: [.485, .456, .406], std: [.229, .224, .225]}]': run folders of trainings,
            students, timm names, or mappings with model, checkpoint, pretrained, num_classes, mean, std, input_size and
            options of the model; or a mapping of names to these.
        dataset: The target: digits, PATH.npz, torch/cifar100, folder/PATH, ...
        measures: What to measure, such as '[parc, knn]', the first of which orders the sources, or all; `diswot
            measures` lists the names.
        labels: Which training images have labels: a share such as 4%, a whole number, or a file of indices.
        labels_per_class: How many training images of each class have labels.
        images: Labelled images of a draw.
        draws: Draws, over which mean and spread are taken.
        reference: What rsa compares with: a model of the target, or one that is known to suit it.
        seed: Draws the images.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        progress: Show a bar where standard error is a terminal.
        data_options: Options of the data, such as --data_options.root data.
    """
    config = dict(locals())
    if sources is None:
        raise ValueError("Which sources? --sources '[runs/mnist, resnet18]' names trained models of other tasks.")
    from ..jobs.rank_sources import RankingRun
    from ..reports.sources import describe_ranking, format_ranking

    _check_data_options(data_options)
    ranking = RankingRun(**config).run(files={"config.yaml": _to_yaml(config)})
    _print(format_ranking(ranking), *describe_ranking(ranking))


def distillers_command(pattern: str = "*") -> None:
    """List the distillers: what they read of a network, their customary weights, and what they are.

    Args:
        pattern: Which ones, such as "*kd*".
    """
    from ..reports.training import format_distillers

    _print(format_distillers(pattern))


def measures_command(pattern: str = "*") -> None:
    """List the measures of how near a source is: what they need, and what they measure.

    Args:
        pattern: Which ones, such as "*score".
    """
    from ..reports.sources import format_measures

    _print(format_measures(pattern))


def proxies_command(pattern: str = "*") -> None:
    """List the proxies: whether they need a teacher, what they read of a network, and what they measure.

    Args:
        pattern: Which ones, such as "zen*".
    """
    from ..reports.study import format_proxies

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
    from ..reports.study import format_space, format_spaces

    _print(format_spaces() if name is None else format_space(name))


def show_command(run: str, best: int = 10) -> None:
    """Show what a run folder holds: a search, a training, a ranking of sources, or a pipeline.

    Args:
        run: The run folder, of what is finished or goes on.
        best: How many architectures of a search to list.
    """
    if best < 1:
        raise ValueError(f"best is {best}; it must be at least 1.")
    from ..comparison.store import ScoreStore  # noqa: F401 - so that its folders are known
    from ..resolve.folders import kind_of
    from ..runtime.run_folder import RunFolderError

    shown = {
        "search": _show_study,
        "comparison": _show_comparison,
        "training": _show_training,
        "ranking of sources": _show_ranking,
        "pipeline": _show_pipeline,
    }
    if not os.path.exists(run):
        raise RunFolderError(f"There is no run folder {run}.")
    kind = kind_of(run)
    if kind not in shown:
        *kinds, last = shown
        raise RunFolderError(f"{run} is no run folder of a {', '.join(kinds)} or {last}: it has none of their stores.")
    shown[kind](run, best)


def _show_study(run: str, best: int) -> None:
    from ..reports.study import describe_study, explain_winner, format_front, format_parts, format_table
    from ..study.study import Study

    study = Study.load(run)
    front = [format_front(study)] if study.config["algorithm"]["name"] == "nsga2" else []
    tables = (format_table(study, best), *format_parts(study, best), *front)
    _print(*tables, *describe_study(study), *explain_winner(study))


def _show_comparison(run: str, best: int) -> None:
    from ..runtime.run_folder import RunFolderError

    raise RunFolderError(f"{run} is the run folder of a comparison; its table is in comparison.md.")


def _show_training(run: str, best: int) -> None:
    from ..reports.training import describe_training, format_training
    from ..training.result import read_result

    result = read_result(run)
    _print(format_training(result), *describe_training(result, run))


def _show_ranking(run: str, best: int) -> None:
    from ..jobs.rank_sources import load_ranking
    from ..reports.sources import describe_ranking, format_ranking

    ranking = load_ranking(run, unfinished=True)
    _print(format_ranking(ranking), *describe_ranking(ranking))


def _show_pipeline(run: str, best: int) -> None:
    """The stages that have begun."""
    from ..jobs.pipeline_results import SEARCH, read_ranking, read_trainings
    from ..reports.sources import format_ranking
    from ..reports.training import compare_trainings
    from ..study.study import Study

    if ranked := read_ranking(run):
        _print(format_ranking(*ranked))
    if Study.has_begun(search := os.path.join(run, SEARCH)):
        _show_study(search, best)
    if trainings := read_trainings(run):
        _print(compare_trainings(trainings))
    _print(f"run folder: {run}")


def _make_subjects(config: dict[str, Any], count: int) -> tuple[Any, Any, Any]:
    """The space, the teacher and `count` probes of a command's options."""
    from ..data.probe import create_probes
    from ..resolve.searches import as_space, as_teacher
    from ..runtime.run_folder import kind_of

    if "weighting" in config and config["teacher"] is not None and kind_of(config["teacher"]) == "ranking of sources":
        return _make_ranked_subjects(config, count)
    if given := [name for name in _OF_RANKINGS if config.get(name) is not None]:
        raise ValueError(f"The teacher is no ranking of sources; {', '.join(given)} cannot be set.")
    batch_size = 64 if config["batch_size"] is None else config["batch_size"]
    of_probe = {"batch_size": batch_size, "seed": config["seed"]} | (config["probe_options"] or {})
    _check_options("probe", create_probes, of_probe)
    probes = create_probes("digits" if config["probe"] is None else config["probe"], count, **of_probe)
    space = as_space(config["space"], probes[0], **config["space_options"] or {})
    of_none = [name for name in ("teacher_checkpoint", "teacher_options") if config[name]]
    if config["teacher"] is None and of_none:
        raise ValueError(f"There is no teacher; {', '.join(of_none)} cannot be set without one.")
    of_teacher = {"checkpoint": config["teacher_checkpoint"]} if config["teacher_checkpoint"] else {}
    teacher = as_teacher(config["teacher"], space, probes[0], **of_teacher, **config["teacher_options"] or {})
    return space, teacher, probes


_OF_RANKINGS = ("weighting", "measure", "power", "labels", "labels_per_class", "data_options")
"""Options of a search that are of a ranking of sources."""


def _make_ranked_subjects(config: dict[str, Any], count: int) -> tuple[Any, Any, Any]:
    """The same, where the teachers are the sources of a ranking: probes are of images that have labels for it."""
    from ..checks import check_whole
    from ..jobs.rank_sources import load_ranking
    from ..resolve.data import as_splits
    from ..resolve.searches import as_space

    of_others = ("teacher_checkpoint", "teacher_options", "probe_options")
    if given := [name for name in of_others if config[name]]:
        raise ValueError(
            f"The teacher is a ranking of sources; {', '.join(given)} cannot be set. Options of its data, where it is "
            "given anew, are data_options."
        )
    check_whole("probes", count, least=1)
    ranking = load_ranking(config["teacher"])
    labels = {name: config[name] for name in ("labels", "labels_per_class")}
    if config["probe"] is None and config["data_options"] is None and not any(labels.values()):
        splits = ranking.target
    else:
        _check_data_options(config["data_options"])
        name = config["probe"] or (ranking.data or {}).get("name") or "digits"
        splits = as_splits(name, config["data_options"], **labels)
        ranking.check_target(splits.name, splits.num_classes)
    chosen = {name: config[name] for name in ("weighting", "power", "measure") if config[name] is not None}
    bank = ranking.teachers(splits, **chosen)
    labelled = len(splits.train) if splits.labelled is None else len(splits.labelled)
    images = min(64, labelled) if config["batch_size"] is None else config["batch_size"]
    probes = [splits.probe(images, config["seed"] + number) for number in range(count)]
    return as_space(config["space"], probes[0], **config["space_options"] or {}), bank, probes


def _check_data_options(options: dict[str, Any] | None) -> None:
    from ..data.splits import create_splits

    _check_options("data set", create_splits, options or {})


def _check_options(what: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    allowed = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in allowed:
            from search_spaces.registry import near_names

            near = near_names(option, allowed)
            hint = f"did you mean {' or '.join(map(repr, near))}? Allowed" if near else "allowed"
            raise ValueError(f"A {what} has no option {option!r}; {hint}: {', '.join(allowed)}.")


def _to_yaml(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
