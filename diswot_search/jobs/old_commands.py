"""Commands whose options are not made from option classes yet."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from ..options.search import DEFAULT_PROXY
from ..reports.terminal import show as _print


def distill_command(
    student: str = "runs/search",
    teacher: str | None = None,
    dataset: str = "digits",
    sources: dict[str, Any] | list[Any] | str | None = None,
    weighting: dict[str, float] | str = "weighted",
    measure: str | None = None,
    power: float = 10.0,
    lam: float = 0.8,
    source_view: str = "fixed",
    labels: int | str | None = None,
    labels_per_class: int | None = None,
    unlabelled_batch_size: int | None = None,
    distiller: dict[str, Any] | list[str] | str | None = None,
    ce_weight: float | None = None,
    recipe: str = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str = "runs/distill",
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
    space: str | None = None,
    space_options: dict[str, Any] | None = None,
    student_options: dict[str, Any] | None = None,
    teacher_checkpoint: str | None = None,
    teacher_pretrained: bool = False,
    teacher_options: dict[str, Any] | None = None,
    data_options: dict[str, Any] | None = None,
    recipe_options: dict[str, Any] | None = None,
) -> None:
    """Train a student under a teacher, or under sources: models of related tasks.

    Stopped at any moment, the same command continues. The run folder's config.yaml holds all options: `diswot distill
    --config RUN/config.yaml` runs it again. With `accelerate launch` or `torchrun` before it, all processes train one
    student.

    Args:
        student: Whom to train: the run folder of a search, whose winner is meant, a timm name, an architecture of the
            space, or the folder of a trained student.
        teacher: Whom to learn from: the run folder of a training, or all that a student may be; without sources
            runs/train.
        dataset: The data: digits, PATH.npz, torch/cifar100, folder/PATH, ...
        sources: Models of other tasks to learn from in place of a teacher: the run folder of `diswot sources`, or such
            as '[runs/mnist, resnet18, {model: cifar_resnet20, checkpoint: FILE, num_classes: 10}]', or a mapping of
            names to these.
        weighting: How much each source counts: weighted by similarity, nearest only, uniform, or a mapping of names to
            weights.
        measure: What similarity is measured by; `diswot measures` lists the names. By default the first of a ranking,
            else parc.
        power: Weights are similarities to this power, as shares of their sum.
        lam: Lambda, the factor of the labelled images' cross entropy; that of the sources is 1 - lambda.
        source_view: fixed, in which sources predict each image once, or augmented, in which they predict what the
            student sees.
        labels: Which training images have labels: a share such as 4%, how many, or a file of their indices.
        labels_per_class: How many of each class have labels.
        unlabelled_batch_size: Images beside the labelled ones of a step for the sources to teach on; by default as many
            as batch_size.
        distiller: What is learnt from the teacher, kd unless said otherwise: names that `diswot distillers` lists, as
            in kd+diswot, kd+2*diswot with a weight, or a mapping of names to weights or to mappings of weight and
            options.
        ce_weight: Factor of the cross entropy; by default the customary one of the distillers.
        recipe: How to train: cifar, imagenet or finetune.
        epochs: Epochs, if not the recipe's; its schedule is scaled to them.
        batch_size: Images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        rule: Which weights are shipped and tested: best on validation images, or last.
        seed: Decides the initial weights, the order of the images and the augmentation.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
        progress: Show a bar where standard error is a terminal.
        space: The space of an architecture; `diswot spaces` lists the names.
        space_options: Options of the space, such as --space_options.channels 8.
        student_options: Options of the student's model.
        teacher_checkpoint: Trained weights of the teacher.
        teacher_pretrained: Let timm fetch its pretrained weights of the teacher.
        teacher_options: Options of the teacher's model.
        data_options: Options of the data, such as --data_options.root data.
        recipe_options: Other options of the recipe, such as --recipe_options.precision bf16.
    """
    config = dict(locals())
    from ..jobs.train import distillation_options

    names = ("student", "teacher", "sources", "weighting", "measure", "power", "lam", "source_view")
    asked = {name: config[name] for name in (*names, "distiller", "ce_weight")}
    if teacher is None and sources is None:
        asked["teacher"] = "runs/train"
    of_teacher = _teacher_options(teacher_checkpoint, teacher_pretrained, teacher_options)
    _train(config, student_options=student_options, teacher_options=of_teacher, **distillation_options(asked))


def train_command(
    model: str = "cifar_resnet56",
    dataset: str = "digits",
    labels: int | str | None = None,
    labels_per_class: int | None = None,
    unlabelled: str | None = None,
    unlabelled_options: dict[str, Any] | None = None,
    unlabelled_batch_size: int | None = None,
    recipe: str = "cifar",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    rule: str = "best",
    seed: int = 0,
    out: str = "runs/train",
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
    space: str | None = None,
    space_options: dict[str, Any] | None = None,
    model_options: dict[str, Any] | None = None,
    data_options: dict[str, Any] | None = None,
    recipe_options: dict[str, Any] | None = None,
) -> None:
    """Train a network on labels alone: a teacher, or a student to compare with.

    Stopped at any moment, the same command continues. The run folder's config.yaml holds all options: `diswot train
    --config RUN/config.yaml` runs it again. With `accelerate launch` or `torchrun` before it, all processes train one
    network.

    Args:
        model: Whom to train: a timm name, the CIFAR ResNets included, the run folder of a search, whose winner is
            meant, or an architecture of the space; with --model_options.new_classifier true the run folder of a
            training on other classes, to go on from.
        dataset: The data: digits, PATH.npz, torch/cifar100, folder/PATH, ...
        labels: Which training images have labels: a share such as 4%, how many, or a file of their indices.
        labels_per_class: How many of each class have labels.
        unlabelled: What is learnt from images without labels: fixmatch, or nothing.
        unlabelled_options: Options of that, such as --unlabelled_options.threshold 0.9.
        unlabelled_batch_size: Images of a step that it looks at; by default seven times batch_size.
        recipe: How to train: cifar, imagenet or finetune.
        epochs: Epochs, if not the recipe's; its schedule is scaled to them.
        batch_size: Images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        rule: Which weights are shipped and tested: best on validation images, or last.
        seed: Decides the initial weights, the order of the images and the augmentation.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
        progress: Show a bar where standard error is a terminal.
        space: The space of an architecture; `diswot spaces` lists the names.
        space_options: Options of the space, such as --space_options.channels 8.
        model_options: Options of the model, such as --model_options.pretrained true.
        data_options: Options of the data, such as --data_options.root data.
        recipe_options: Other options of the recipe, such as --recipe_options.precision bf16.
    """
    config = dict(locals())
    from ..jobs.supervision import unlabelled_objective

    _train(
        config,
        student=model,
        student_options=model_options,
        teacher=None,
        teacher_options=None,
        terms=(),
        ce_weight=None,
        lesson=unlabelled_objective(unlabelled, unlabelled_options),
    )


def run_command(
    dataset: str = "digits",
    teacher: str | None = None,
    sources: dict[str, Any] | list[Any] | str | None = None,
    weighting: dict[str, float] | str = "weighted",
    measure: str | None = None,
    power: float = 10.0,
    lam: float = 0.8,
    source_view: str = "fixed",
    labels: int | str | None = None,
    labels_per_class: int | None = None,
    unlabelled_batch_size: int | None = None,
    space: str = "nasbench201",
    distiller: dict[str, Any] | list[str] | str | None = None,
    max_params: float | None = None,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    latency_batch_size: int = 1,
    evaluations: int | None = None,
    proxy: str = DEFAULT_PROXY,
    algorithm: str = "evolution",
    probe_size: int | None = None,
    draws: int = 1,
    search_teacher: str = "random",
    recipe: str = "cifar",
    epochs: int | None = None,
    teacher_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    ce_weight: float | None = None,
    compare: bool = True,
    rule: str = "best",
    seed: int = 0,
    out: str = "runs/run",
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: bool = True,
    space_options: dict[str, Any] | None = None,
    teacher_checkpoint: str | None = None,
    teacher_pretrained: bool = False,
    teacher_options: dict[str, Any] | None = None,
    algorithm_options: dict[str, Any] | None = None,
    data_options: dict[str, Any] | None = None,
    teacher_data_options: dict[str, Any] | None = None,
    recipe_options: dict[str, Any] | None = None,
    teacher_recipe_options: dict[str, Any] | None = None,
) -> None:
    """Train a teacher or rank sources, search their student, distil it, and train it alone to compare.

    Stopped at any moment, the same command continues; what is done is skipped. The run folder has a folder for each
    stage, report.md, and config.yaml with all options: `diswot run --config RUN/config.yaml` runs it again.

    Args:
        dataset: The data: digits, PATH.npz, torch/cifar100, folder/PATH, ...
        teacher: Whom to learn from: a timm name, the CIFAR ResNets included, trained first unless it has trained
            weights, or the run folder of a training; without sources cifar_resnet56.
        sources: Models of other tasks to learn from in place of a teacher, ranked first: such as '[runs/mnist,
            resnet18, {model: cifar_resnet20, checkpoint: FILE, num_classes: 10}]', or a mapping of names to these; or
            the run folder of `diswot sources`.
        weighting: How much each source counts, in the distillation and where the proxy compares with them: weighted by
            similarity, nearest only, uniform, or a mapping of names to weights.
        measure: What similarity is measured by; `diswot measures` lists the names.
        power: Weights are similarities to this power, as shares of their sum.
        lam: Lambda, the factor of the labelled images' cross entropy; that of the sources is 1 - lambda.
        source_view: fixed, in which sources predict each image once, or augmented, in which they predict what the
            student sees.
        labels: Which training images have labels, in all stages: a share such as 4%, how many, or a file of their
            indices. For a teacher --teacher_data_options.labels may say otherwise.
        labels_per_class: How many of each class have labels.
        unlabelled_batch_size: Images beside the labelled ones of a step for the sources to teach on; by default as many
            as batch_size.
        space: Where to search; `diswot spaces` lists the names.
        distiller: What is learnt from the teacher, kd unless said otherwise: names that `diswot distillers` lists, as
            in kd+diswot, kd+2*diswot with a weight, or a mapping of names to weights or to mappings of weight and
            options.
        max_params: Budget: trainable parameters.
        max_macs: Budget: multiply-accumulates of one image.
        max_latency_ms: Budget: median milliseconds of one forward pass on the device.
        latency_batch_size: Images in that pass.
        evaluations: Architectures to score at most; by default 1000, for exhaustive all.
        proxy: The score: a name that `diswot proxies` lists, such as diswot, which compares with the teacher, or an
            aggregate such as "log_rank(nwot, macs)". By default how much of a network there is and how much of it can
            be used, whoever the teacher is.
        algorithm: evolution, ageing, nsga2, random or exhaustive.
        probe_size: Training images with labels that candidates are scored on; by default 64, or all if they are fewer.
        draws: Weight draws that each score is averaged over.
        search_teacher: Where the proxy compares with the teacher, that is its architecture with random weights, or the
            trained one.
        recipe: How to train: cifar, imagenet or finetune.
        epochs: Epochs, if not the recipe's; its schedule is scaled to them.
        teacher_epochs: Epochs of the teacher, if not those of the student.
        batch_size: Images in a step, if not the recipe's.
        lr: Learning rate, if not the recipe's.
        ce_weight: Factor of the cross entropy beside the distillers; by default their customary one.
        compare: Train the student alone as well.
        rule: Which weights are shipped and tested: best on validation images, or last.
        seed: Decides all that is random but how the data is divided, which --data_options.seed decides.
        out: The run folder.
        device: auto, cpu, cuda or mps.
        checkpoint_minutes: Minutes after which the state is stored within an epoch; at its end it always is.
        progress: Show bars where standard error is a terminal.
        space_options: Options of the space, such as --space_options.channels 8.
        teacher_checkpoint: Trained weights of the teacher.
        teacher_pretrained: Let timm fetch its pretrained weights of the teacher.
        teacher_options: Options of the teacher's model.
        algorithm_options: Options of the algorithm, such as --algorithm_options.population 50.
        data_options: Options of the data, such as --data_options.root data.
        teacher_data_options: Those that are others for the teacher, such as --teacher_data_options.train_limit null
            where the student sees a part of the images only.
        recipe_options: Other options of the recipe, such as --recipe_options.precision bf16.
        teacher_recipe_options: Options of the recipe that are others for the teacher.
    """
    config = dict(locals())
    from ..jobs.pipeline import Pipeline
    from ..reports.training import compare_trainings
    from ..study.budget import Budget

    _check_data_options({**(data_options or {}), **(teacher_data_options or {})})
    options = dict(config)
    limits = [options.pop(name) for name in ("max_params", "max_macs", "max_latency_ms", "latency_batch_size")]
    options["teacher_options"] = _teacher_options(
        options.pop("teacher_checkpoint"), options.pop("teacher_pretrained"), teacher_options
    )
    pipeline = Pipeline(**options, budget=Budget(*limits))
    result = pipeline.run(announce=partial(_announce, pipeline), files={"config.yaml": _to_yaml(config)})
    _print(compare_trainings(result.compared()), f"run folder: {result.path}")


def export_command(
    run: str,
    format: str = "onnx",
    out: str | None = None,
    dataset: str | None = None,
    batch_size: int | None = None,
    normalise: bool = False,
    opset: int = 18,
    calibration: int = 512,
    seed: int = 0,
    data_options: dict[str, Any] | None = None,
) -> None:
    """Write a trained student as ONNX, as a program of torch.export, or as ONNX in int8, and check it.

    Args:
        run: The run folder of a training, or the folder or file of a student.
        format: onnx, torch or int8.
        out: The file; by default beside the student's weights.
        dataset: The data whose test images the accuracy is taken on; int8 needs it to be calibrated. That which the
            student was trained on is divided as it was then.
        batch_size: Images of a batch; by default any number.
        normalise: Let the file normalise its images, which are then between 0 and 1.
        opset: Version of ONNX's operators.
        calibration: Training images that the ranges of int8 are taken from.
        seed: Draws these images.
        data_options: Options of the data, such as --data_options.root data.
    """
    from ..compression.export import export

    _check_data_options(data_options)
    report = export(
        run,
        format,
        out,
        dataset=dataset,
        data_options=data_options,
        normalise=normalise,
        batch_size=batch_size,
        opset=opset,
        calibration=calibration,
        seed=seed,
    )
    _print(str(report))


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
    from ..runtime.run_folder import kind_of

    shown = {"training": _show_training, "ranking of sources": _show_ranking, "pipeline": _show_pipeline}
    shown.get(kind_of(run) or "", _show_study)(run, best)


def _show_study(run: str, best: int) -> None:
    from ..reports.study import describe_study, explain_winner, format_front, format_parts, format_table
    from ..study.study import Study

    study = Study.load(run)
    front = [format_front(study)] if study.config["algorithm"]["name"] == "nsga2" else []
    tables = (format_table(study, best), *format_parts(study, best), *front)
    _print(*tables, *describe_study(study), *explain_winner(study))


def _show_training(run: str, best: int) -> None:
    from ..reports.training import describe_training, format_training
    from ..training.folder import read_training

    result = read_training(run)
    _print(format_training(result), *describe_training(result, run))


def _show_ranking(run: str, best: int) -> None:
    from ..jobs.rank_sources import load_ranking
    from ..reports.sources import describe_ranking, format_ranking

    ranking = load_ranking(run, unfinished=True)
    _print(format_ranking(ranking), *describe_ranking(ranking))


def _show_pipeline(run: str, best: int) -> None:
    """The stages that have begun."""
    from ..jobs.pipeline import SEARCH, read_ranking, read_trainings
    from ..reports.sources import format_ranking
    from ..reports.training import compare_trainings
    from ..study.study import Study

    if ranked := read_ranking(run):
        _print(format_ranking(*ranked))
    if Study.exists(search := os.path.join(run, SEARCH)):
        _show_study(search, best)
    if trainings := read_trainings(run):
        _print(compare_trainings(trainings))
    _print(f"run folder: {run}")


def _train(config: dict[str, Any], **more: Any) -> None:
    """Train as the options of `train` or `distill` say, and show what came of it."""
    from ..jobs.train import TrainingRun
    from ..reports.training import describe_training, format_training

    shared = ("dataset", "recipe", "epochs", "batch_size", "lr", "rule", "seed", "out", "device", "checkpoint_minutes")
    of_labels = ("labels", "labels_per_class", "unlabelled_batch_size")
    _check_data_options(config["data_options"])
    run = TrainingRun(
        space=_make_space(config),
        **{name: config[name] for name in (*shared, *of_labels, "progress", "data_options", "recipe_options")},
        **more,
    )
    training = run.run(files={"config.yaml": _to_yaml(config)})
    if run.accelerator.is_main_process:
        _print(format_training(training.result), *describe_training(training.result, training.path))


def _make_space(config: dict[str, Any]) -> Any:
    """The space of an architecture, if one is named."""
    from search_spaces.recipes import create_space

    if config["space"] is not None:
        return create_space(config["space"], **config["space_options"] or {})
    if config["space_options"]:
        raise ValueError("space_options are given, but no space.")
    return None


def _teacher_options(checkpoint: str | None, pretrained: bool, options: dict[str, Any] | None) -> dict[str, Any]:
    given = {"checkpoint": checkpoint, "pretrained": pretrained}
    return {name: value for name, value in given.items() if value} | (options or {})


def _announce(pipeline: Any, stage: str, result: Any) -> None:
    """Show what a stage of a pipeline gave."""
    from ..jobs.pipeline import SEARCH, SOURCES
    from ..reports.sources import format_ranking
    from ..reports.study import describe_study, format_parts, format_table
    from ..reports.training import format_training

    if stage == SOURCES:
        _print(format_ranking(result, pipeline.weights(result)))
    elif stage == SEARCH:
        _print(format_table(result), *format_parts(result), *describe_study(result))
    else:
        _print(format_training(result.result))


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
