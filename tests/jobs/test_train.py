"""Training: what it checks first, that its numbers are those of the textbook, and that nothing stops it from ending so.

Wherever bit-identity is claimed the tolerance is none; where sums are taken in another order, as over parts of a batch
or over processes, single precision differs by some 1e-7 of a value at each step, and steps multiply that.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.data.errors import DataError
from diswot_search.data.image_sets import ImageSet, ResidentSet, StreamedSet
from diswot_search.data.splits import Splits, create_splits
from diswot_search.distillation.base import Batch, Distiller, DistillerError, Setting, register_distiller
from diswot_search.jobs.rank_sources import rank_sources
from diswot_search.jobs.train import distill, train
from diswot_search.networks.features import Features
from diswot_search.networks.saved import load_student, read_card
from diswot_search.runtime.files import RunFolderError
from diswot_search.training.checkpoint import BEST, LAST, read_checkpoint
from diswot_search.training.folder import TrainingFolder
from diswot_search.training.recipe import RecipeError, create_recipe
from diswot_search.training.result import EpochRow, Training, TrainingResult
from diswot_search.training.task import DistillationTask, StepLosses
from diswot_search.training.trainer import DivergenceError
from search_spaces.registry import UnknownNameError

from ..killing import killed_when

CLASSES = 4
STUDENT = {"student": "cifar_resnet", "student_options": {"arch": "1x8-1x8-1x16", "drop_rate": 0.1}}
TEACHER = {"teacher": "cifar_resnet", "teacher_options": {"arch": "1x8-1x16-1x16"}}
HARD = {
    "distiller": {"kd": None, "fitnet": {"weight": 1.0}, "crd": {"width": 8, "negatives": 16}, "observed": None},
    "recipe_options": {
        "accumulate": 2,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema": 0.5,
        "precision": "bf16",
        "label_smoothing": 0.1,
        "clip_grad": 5.0,
    },
}
"""All that has a state or draws at random, at once."""

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


class Observed(Distiller):
    """The mean square of what logits differ by, which tests look at, and change."""

    hook: ClassVar[Callable[[Tensor, Batch], Tensor] | None] = None

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        loss = (self.scale * student.logits - teacher.logits).square().mean()
        return loss if Observed.hook is None else Observed.hook(loss, batch)


register_distiller("observed", Observed)


@pytest.fixture(autouse=True)
def _no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Observed, "hook", None)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """With another number of threads, as another process may have, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_splits(train_images: int = 48, classes: int = CLASSES, seed: int = 0, **options: Any) -> Splits:
    """Noisy pictures of 16 x 16, a pattern for each class."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(60, 196, (classes, 16, 16, 3))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        noise = generator.integers(-60, 60, (count, 16, 16, 3))
        return (patterns[labels] + noise).astype(np.uint8), labels

    return Splits.from_arrays(draw(train_images), draw(24), draw(40), **options)


SPLITS = make_splits()


class Plain(nn.Module):
    """A network without batch statistics, unknown to timm."""

    def __init__(self, classes: int = CLASSES, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.act = nn.GELU()
        self.body = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(self.act(self.stem(x)))).mean((2, 3)))


def make_plain(seed: int = 0, **options: Any) -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Plain(**options)


def run(out: Path | None = None, **changes: Any) -> Training:
    """A distillation of three epochs of three steps."""
    defaults: dict[str, Any] = {"dataset": SPLITS, "epochs": 3, "batch_size": 16, "device": "cpu", "progress": False}
    return distill(**{**STUDENT, **TEACHER, **defaults, "out": out, **changes})


def run_alone(model: Any = None, out: Path | None = None, **changes: Any) -> Training:
    defaults: dict[str, Any] = {"dataset": SPLITS, "epochs": 1, "batch_size": 16, "device": "cpu", "progress": False}
    return train(**{"model": model or make_plain(), **defaults, "out": out, **changes})


def without_measured(table: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in table]


def without_times(rows: Sequence[EpochRow]) -> list[EpochRow]:
    return [replace(row, seconds=0.0, images_per_second=0.0) for row in rows]


def lasting(result: TrainingResult) -> TrainingResult:
    """All of a result that is not measured time."""
    timeless = replace(result.student, latency_ms=None, latency_median_ms=None, latency_instability=None)
    return replace(result, timing=None, student=timeless)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student" / "student.safetensors")


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def curves_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "curves"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "second" not in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def table_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def assert_same(folder: Path, other: Path) -> None:
    """Two run folders hold the same, but for times."""
    assert same_weights(weights_of(folder), weights_of(other))
    for name in (LAST, BEST):
        checkpoint, like = read_checkpoint(folder / name), read_checkpoint(other / name)
        assert checkpoint is not None
        assert like is not None
        assert same_weights(checkpoint.tensors, like.tensors)
        assert checkpoint.values.get("optimizer") == like.values.get("optimizer")
    assert without_measured(table_of(folder)) == without_measured(table_of(other))
    results = [json.loads((path / "result.json").read_text()) for path in (folder, other)]
    assert lasting(TrainingResult.from_json(results[0])) == lasting(TrainingResult.from_json(results[1]))
    assert curves_in(folder) == curves_in(other)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())


# -- killed, and gone on --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have everything imported, from a server that never ran anything else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diswot_search.jobs.train", "torch.utils.tensorboard", "matplotlib.figure"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    run(out, **HARD)
    return out


def train_in_child(out: str, minutes: float) -> None:
    torch.set_num_threads(1)
    try:
        run(Path(out), **HARD, checkpoint_minutes=minutes)
    except KeyboardInterrupt:
        os._exit(130)


def train_until(out: str, name: str, count: int, after: bool) -> None:
    """Train, and be killed before or after a file of this name, or a row, is written the `count`th time."""
    written = 0

    def killing(method: Callable[..., None]) -> Callable[..., None]:
        def write(self: TrainingFolder, *args: Any) -> None:
            nonlocal written
            here = name == (args[0] if isinstance(args[0], str) else "row")
            written += here
            if not after and here and written == count:
                os.kill(os.getpid(), signal.SIGKILL)
            method(self, *args)
            if after and here and written == count:
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    for method in ("write", "add_row"):
        setattr(TrainingFolder, method, killing(getattr(TrainingFolder, method)))
    train_in_child(out, 10.0)


def step_in(out: Path) -> int:
    last = read_checkpoint(out / LAST)
    return 0 if last is None else int(last.values["progress"]["step"])


def has_step(out: Path, step: int) -> bool:
    return step_in(out) >= step


@pytest.mark.faults
@posix
def test_killed_at_random_steps_a_training_ends_as_one_that_was_not(
    processes: Any, whole: Path, tmp_path: Path
) -> None:
    out, reached = tmp_path / "run", []
    for target in (1, 4, 7):
        arguments = (partial(has_step, out, target), target, train_in_child, str(out), 1e-9)
        process = processes.Process(target=killed_when, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(step_in(out))
    assert reached == sorted(reached)
    assert {step % 3 for step in reached} - {0}  # in the midst of an epoch
    run(out, **HARD)
    assert_same(out, whole)


@pytest.mark.faults
@posix
@pytest.mark.parametrize(
    "kills",
    [
        [("row", 1, True), (LAST, 1, True), (BEST, 1, False), (LAST, 1, False), ("metrics.csv", 1, False)],
        [("row", 3, False), (LAST, 1, True), ("loss.png", 1, True), ("result.json", 1, False)],
        [("metrics.csv", 2, True), ("result.json", 1, True)],
    ],
)
def test_killed_between_two_files_a_training_ends_as_one_that_was_not(
    processes: Any, whole: Path, tmp_path: Path, kills: list[tuple[str, int, bool]]
) -> None:
    out = tmp_path / "run"
    for kill in kills:
        process = processes.Process(target=train_until, args=(str(out), *kill))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, kill
    run(out, **HARD)
    assert_same(out, whole)


@posix
@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGINT, 2), (signal.SIGINT, 6), (signal.SIGINT, 9), (signal.SIGTERM, 6)]
)
def test_a_signal_lets_the_step_finish_and_the_training_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, at: int
) -> None:
    calls = []

    def interrupt(loss: Tensor, batch: Batch) -> Tensor:
        calls.append(0)
        if len(calls) == 2 * at:  # after that of the dry run, in the first of the step's two parts
            signal.raise_signal(number)
        return loss

    out, before = tmp_path / "run", signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Observed, "hook", staticmethod(interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(out, **HARD)
    assert signal.getsignal(number) is before
    assert step_in(out) == at
    assert not (out / "result.json").exists()
    run(out, **HARD)
    assert_same(out, whole)


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupt(loss: Tensor, batch: Batch) -> Tensor:
        calls.append(0)
        if len(calls) == 1:  # the dry run
            return loss
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return pytest.fail("went on")

    monkeypatch.setattr(Observed, "hook", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", distiller="observed")
    assert step_in(tmp_path / "run") == 0


# -- several processes ----------------------------------------------------------------------------


def plain_pair(**changes: Any) -> dict[str, Any]:
    """A distillation with connectors of networks whose output for an image does not depend on the others."""
    return {
        "student": make_plain(),
        "student_options": None,
        "teacher": make_plain(1),
        "teacher_options": None,
        "distiller": "kd+observed",
        "recipe_options": {"accumulate": 2, "ema": 0.5},
        "lr": 0.02,
        **changes,
    }


FEW = SPLITS.with_labels(labels_per_class=3)


def rank_bank(folder: Path) -> None:
    """A ranking of two sources, of which only files say what they are, in a run folder beside that of a training."""
    options = {"model": "cifar_resnet", "arch": "1x8"}
    bank = {}
    for name, classes in (("near", 3), ("far", 5)):
        with torch.random.fork_rng():
            torch.manual_seed(classes)
            model = timm.create_model("cifar_resnet", arch="1x8", num_classes=classes)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        bank[name] = {**options, "checkpoint": folder / f"{name}.safetensors", "num_classes": classes}
    rank_sources(bank, FEW, images=12, image_draws=2, out=folder / "ranking", device="cpu", progress=False)


def learn_from_sources(out: Path, view: str) -> Training:
    return run(
        out,
        student=make_plain(),
        student_options=None,
        teacher=None,
        teacher_options=None,
        dataset=FEW,
        sources=out.parent / "ranking",
        weighting="uniform",
        lam=0.3,
        source_view=view,
        unlabelled_batch_size=24,
        recipe_options={"accumulate": 2, "ema": 0.5},
        lr=0.02,
    )


def learn_by_fixmatch(out: Path) -> Training:
    return run_alone(
        out=out,
        epochs=3,
        dataset=FEW,
        unlabelled="fixmatch",
        unlabelled_options={"threshold": 0.305},
        unlabelled_batch_size=24,
        recipe_options={"accumulate": 2, "ema": 0.5},
        lr=0.02,
    )


PAIRS: dict[str, Callable[[Path], Training]] = {
    "plain": lambda out: run(out, **plain_pair()),
    "hard": lambda out: run(out, **HARD),
    "sources": lambda out: learn_from_sources(out, "fixed"),
    "augmented": lambda out: learn_from_sources(out, "augmented"),
    "fixmatch": learn_by_fixmatch,
}


def train_as_rank(rank: int, port: int, out: str, pair: str, interrupted: bool) -> None:
    """What a launcher starts: one of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    calls: list[int] = []
    forward = DistillationTask.forward

    def interrupt(self: DistillationTask, *args: Any) -> StepLosses:
        calls.append(0)
        if interrupted and rank == 1 and len(calls) == 9:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # as a launcher does that passes on what the terminal sent to all
        return forward(self, *args)

    DistillationTask.forward = interrupt
    with pytest.raises(ValueError, match="Several processes need a run folder"):
        run()
    try:
        training = PAIRS[pair](Path(out))
    except KeyboardInterrupt:
        os._exit(130)
    assert training.result.to_json() == json.loads((Path(out) / "result.json").read_text())
    assert [row.epoch for row in training.rows] == [1, 2, 3]
    assert training.result.timing.processes == 2
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launch(processes: Any, out: Path, pair: str, interrupted: bool = False) -> None:
    """Start two processes with what torchrun and `accelerate launch` tell theirs."""
    port = free_port()
    ranks = [processes.Process(target=train_as_rank, args=(r, port, str(out), pair, interrupted)) for r in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(1200)  # a deadlock ends; a machine that is busy does not matter
        process.kill()
        process.join()
    assert [process.exitcode for process in ranks] == [130 if interrupted else 0] * 2
    assert (out / "result.json").exists() != interrupted


def losses_of(folder: Path) -> list[list[float]]:
    return [[float(row[name]) for name in row if "loss" in name] for row in table_of(folder)]


def assert_close(folder: Path, other: Path) -> None:
    """Only the order of sums differs."""
    np.testing.assert_allclose(losses_of(folder), losses_of(other), rtol=1e-5)
    one, two = weights_of(folder), weights_of(other)
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6) for name in one)


@pytest.mark.faults
@posix
def test_two_processes_learn_what_one_does(processes: Any, tmp_path: Path) -> None:
    launch(processes, tmp_path / "two", "plain")
    PAIRS["plain"](tmp_path / "one")
    assert_close(tmp_path / "two", tmp_path / "one")
    # Interrupted in one process, both store their state and go on as if nothing had been.
    launch(processes, tmp_path / "resumed", "plain", interrupted=True)
    launch(processes, tmp_path / "resumed", "plain")
    assert_same(tmp_path / "resumed", tmp_path / "two")


@pytest.mark.faults
@posix
@pytest.mark.parametrize("pair", ["sources", "augmented", "fixmatch"])
def test_two_processes_learn_from_unlabelled_images_what_one_does(processes: Any, tmp_path: Path, pair: str) -> None:
    for place in (tmp_path, tmp_path / "apart"):  # neither learns what the other predicted
        place.mkdir(exist_ok=True)
        rank_bank(place)
    launch(processes, tmp_path / "two", pair)
    PAIRS[pair](tmp_path / "apart" / "one")
    assert_close(tmp_path / "two", tmp_path / "apart" / "one")
    if pair == "sources":
        launch(processes, tmp_path / "resumed", pair, interrupted=True)
        launch(processes, tmp_path / "resumed", pair)
        assert_same(tmp_path / "resumed", tmp_path / "two")


@pytest.mark.faults
@posix
def test_two_processes_go_on_with_memories_averages_and_batch_statistics(processes: Any, tmp_path: Path) -> None:
    launch(processes, tmp_path / "two", "hard")
    launch(processes, tmp_path / "resumed", "hard", interrupted=True)
    launch(processes, tmp_path / "resumed", "hard")
    assert_same(tmp_path / "resumed", tmp_path / "two")


# -- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_it_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    calls = []

    def breaking(loss: Tensor, batch: Batch) -> Tensor:
        calls.append(0)
        return loss * value if len(calls) == 1 + 6 else loss  # the first is the dry run

    monkeypatch.setattr(Observed, "hook", staticmethod(breaking))
    with pytest.raises(DivergenceError) as raised:
        run(tmp_path / "run", distiller="kd+observed", checkpoint_minutes=1e-9)
    message = str(raised.value)
    assert "at step 6 (epoch 2)" in message
    assert f"observed {value:g}" in message
    assert "ce 0." in message
    assert f"{tmp_path / 'run' / LAST}, of step 5" in message
    assert_numbers(tmp_path / "run", step=5)


def test_gradients_that_are_no_numbers_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def breaking(loss: Tensor, batch: Batch) -> Tensor:
        calls.append(0)
        return loss + (0 * loss).sqrt() if len(calls) == 1 + 6 else loss  # 0, whose slope is infinite

    monkeypatch.setattr(Observed, "hook", staticmethod(breaking))
    with pytest.raises(DivergenceError, match=r"at step 6 \(epoch 2\): .* is not a number.* of step 3"):
        run(tmp_path / "run", distiller="kd+observed")
    assert_numbers(tmp_path / "run", step=3)


def assert_numbers(folder: Path, step: int) -> None:
    last = read_checkpoint(folder / LAST)
    assert last is not None
    assert last.values["progress"]["step"] == step
    assert all(tensor.isfinite().all() for tensor in last.tensors.values())
    assert len(table_of(folder)) == 1
    assert not (folder / "result.json").exists()


def test_a_learning_rate_that_is_too_high_diverges_without_a_checkpoint() -> None:
    with pytest.raises(DivergenceError, match=r"\(ce .*There is no checkpoint before it.*lower lr \(it is 1e\+30\)"):
        run_alone(lr=1e30)


# -- numbers of the textbook ----------------------------------------------------------------------


def plain_options(**changes: Any) -> dict[str, Any]:
    return {"flip": 0.0, "padding": 0, "schedule": "constant", "channels_last": False, **changes}


def final(model: nn.Module | None = None, **changes: Any) -> dict[str, Tensor]:
    """Weights after an epoch of three steps."""
    options = plain_options(**changes.pop("recipe_options", {}))
    return run_alone(model, rule="last", recipe_options=options, **changes).student.state_dict()


def close(first: dict[str, Tensor], second: dict[str, Tensor], rtol: float, atol: float = 0.0) -> bool:
    return all(torch.allclose(first[name], second[name], rtol, atol) for name in first)


def loop_by_hand(smoothing: float, clip: float | None, decay: float | None) -> dict[str, Tensor]:
    """Three steps of SGD with momentum on all images in the order of the training, in double precision."""
    from diswot_search.runtime.seeding import stable_seed

    model = make_plain().double()
    average = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (SPLITS.mean, SPLITS.std))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(stable_seed(0, "order", 0)))
    images = SPLITS.train
    assert isinstance(images, ResidentSet)
    for step, places in enumerate(order.split(16)):
        logits = model((images.images[places].double() / 255 - mean) / std)
        truth = F.one_hot(images.labels[places], CLASSES) * (1 - smoothing) + smoothing / CLASSES
        optimizer.zero_grad()
        (-(truth * logits.log_softmax(1)).sum(1)).mean().backward()
        if clip is not None:
            norm = torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum().sqrt()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad *= min(1.0, clip / float(norm))
        optimizer.step()
        with torch.no_grad():
            for own, new in zip(average.parameters(), model.parameters(), strict=True):
                own.copy_(new if decay is None or step < 2 else decay * own + (1 - decay) * new)
    return {name: tensor.float() for name, tensor in average.state_dict().items()}


@pytest.mark.parametrize(("smoothing", "clip", "decay"), [(0.0, None, None), (0.2, None, 0.7), (0.0, 0.01, None)])
@pytest.mark.parametrize("parts", [1, 4])
def test_a_step_is_that_of_a_loop_by_hand(
    smoothing: float, clip: float | None, decay: float | None, parts: int
) -> None:
    options = {"label_smoothing": smoothing, "clip_grad": clip, "ema": decay, "accumulate": parts}
    # Three steps in single precision against double.
    assert close(final(recipe_options=options), loop_by_hand(smoothing, clip, decay), rtol=1e-4, atol=1e-6)


def test_memory_order_and_precision_change_the_rounding_alone() -> None:
    start, plain = make_plain().state_dict(), final()
    assert close(final(recipe_options={"channels_last": True}), plain, rtol=1e-4, atol=1e-6)
    half = final(recipe_options={"precision": "bf16"})
    assert not close(half, plain, rtol=1e-6)
    for name, tensor in plain.items():  # bfloat16 has 8 bits: 0.4 % in every operation
        assert (half[name] - tensor).norm() < 0.1 * (tensor - start[name]).norm()
    with pytest.raises(RecipeError, match="fp16 needs a CUDA device, the device is cpu"):
        run_alone(recipe_options={"precision": "fp16"})
    assert same_weights(final(), plain)  # the precision of an earlier training is no matter


def test_a_weight_that_warms_up_starts_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Observed, "hook", staticmethod(lambda loss, batch: loss * 0 + 6.0))
    monkeypatch.setattr(Observed, "warmup", 0.5)
    rows = run(distiller="3*observed").rows
    # Steps 0 to 8 of 9, the weight full from the middle of the training on.
    expected = [18 * sum(min(1.0, step / 4.5) for step in steps) / 3 for steps in ((0, 1, 2), (3, 4, 5), (6, 7, 8))]
    assert [row.terms["observed"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert [row.loss for row in rows] == pytest.approx([sum(row.terms.values()) for row in rows], rel=1e-6)


def test_mixed_images_have_the_class_with_the_larger_share(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []

    def look(loss: Tensor, batch: Batch) -> Tensor:
        seen.append(batch)
        return loss

    monkeypatch.setattr(Observed, "hook", staticmethod(look))
    run(distiller="observed", recipe_options={"mixup": 1.0}, epochs=1)
    assert len(seen) == 1 + 3
    shares = set()
    for batch in seen[1:]:  # without that of the dry run
        assert batch.targets is not None
        assert torch.allclose(batch.targets.sum(1), torch.ones(16))
        assert torch.equal(batch.targets.argmax(1), batch.labels)
        shares.add(float(batch.targets[batch.targets > 0].min()))
    assert len(shares) == 3  # drawn anew in each step


def test_a_schedule_is_followed_from_step_to_step() -> None:
    rows = run_alone(epochs=4, lr=0.2, recipe_options={"schedule": "cosine", "optimizer": "adamw"}).rows
    last_steps = [2, 5, 8, 11]
    assert [row.lr for row in rows] == pytest.approx([0.1 * (1 + math.cos(math.pi * s / 12)) for s in last_steps])


# -- teachers -------------------------------------------------------------------------------------


class Remembering(Plain):
    """Keeps the images that it was given, and counts its training passes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        Remembering.seen.append((self.training, torch.is_inference_mode_enabled(), x))
        return super().forward(self.norm(x))

    seen: ClassVar[list[tuple[bool, bool, Tensor]]] = []


def test_a_teacher_is_only_looked_at_and_in_its_own_normalisation() -> None:
    from dataclasses import replace

    from diswot_search.networks.preprocessing import Preprocessing
    from diswot_search.networks.recipes import FactoryRecipe
    from diswot_search.resolve.networks import as_network

    module = Remembering()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = as_network(module.eval(), num_classes=CLASSES)
    built = network.build()
    images = Preprocessing(mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 2.0))
    own = replace(network, preprocessing=images, recipe=FactoryRecipe(lambda: built))
    Remembering.seen.clear()
    options = {"flip": 0.0, "padding": 0}
    training = run(teacher=own, teacher_options=None, epochs=1, recipe_options=options)
    assert not any(training_mode for training_mode, _, _ in Remembering.seen)
    assert same_weights(built.state_dict(), before)

    given = torch.cat([x for _, inference, x in Remembering.seen if inference][3:])  # without the dry run
    images = SPLITS.train
    assert isinstance(images, ResidentSet)
    pixels = images.images.float() / 255
    expected = (pixels - torch.tensor((0.0, 0.5, 0.25)).view(3, 1, 1)) / torch.tensor((1.0, 0.5, 2.0)).view(3, 1, 1)
    assert torch.allclose(given[40:].sum(0), expected.sum(0), atol=1e-3)  # all images once, in some order
    assert len(given) == 40 + 48  # each test image once, before
    assert training.result.teacher.name == "Remembering"
    assert sum(p.numel() for p in training.student.parameters()) == training.result.student.params


def test_a_teacher_may_be_a_run_folder_a_file_a_name_or_a_module(tmp_path: Path) -> None:
    taught = run_alone("cifar_resnet", tmp_path / "teacher", model_options={"arch": "1x8"})
    state = tmp_path / "teacher" / "student" / "student.safetensors"
    named = {"teacher": "cifar_resnet", "teacher_options": {"arch": "1x8", "checkpoint": state}}
    sources: list[dict[str, Any]] = [
        {"teacher": tmp_path / "teacher", "teacher_options": None},
        {"teacher": str(state), "teacher_options": None},
        named,
        {"teacher": taught.student, "teacher_options": None},
    ]
    results = [run(**source, epochs=1) for source in sources]
    for training in results:
        assert training.result.teacher.accuracy == taught.accuracy
        assert training.result.teacher.trained
        assert same_weights(training.student.state_dict(), results[0].student.state_dict())
    assert not run(epochs=1).result.teacher.trained


def test_a_teacher_that_may_know_the_test_images_is_refused(tmp_path: Path) -> None:
    def divide(**options: Any) -> Splits:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (100, 16, 16, 3)).astype(np.uint8)
        return Splits.from_arrays((images, np.arange(100) % CLASSES), **{"name": "own", **options})

    run_alone("cifar_resnet", tmp_path / "teacher", model_options={"arch": "1x8"}, dataset=divide())
    state = tmp_path / "teacher" / "student" / "student.safetensors"
    sources: list[dict[str, Any]] = [
        {"teacher": tmp_path / "teacher", "teacher_options": None},
        {"teacher_options": {"arch": "1x8", "checkpoint": state}},
        {**TEACHER, "student": tmp_path / "teacher", "student_options": None},
    ]
    for source in sources:
        for changes, match in (
            ({"seed": 1}, "divided otherwise.*: seed is 0 there, 1 here"),
            ({"test_share": 0.3}, "test_share is 0.2 there, 0.3 here"),
            ({"val_share": 0.3}, "val_share is 0.1 there, 0.3 here"),
        ):
            with pytest.raises(ValueError, match=match):
                run(tmp_path / "run", **source, dataset=divide(**changes))
    assert not (tmp_path / "run").exists()
    for changes in ({"train_limit": 16}, {"name": "others", "seed": 1}):  # the same val and test; other images
        run(**sources[0], dataset=divide(**changes), epochs=1)


# -- what is shipped ------------------------------------------------------------------------------


def accuracy_of(model: nn.Module, images: ImageSet = SPLITS.test) -> float:
    assert isinstance(images, ResidentSet)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPLITS.mean, SPLITS.std))
    with torch.no_grad():
        found = model.eval()((images.images.float() / 255 - mean) / std).argmax(1)
    return 100 * (found == images.labels).double().mean().item()


@pytest.mark.parametrize("rule", ["best", "last"])
def test_what_is_shipped_is_what_was_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    read: list[int] = []
    batches = ImageSet.batches

    def counting(self: ImageSet, order: Tensor, *args: Any, **options: Any) -> Any:
        if self is SPLITS.test:
            read.extend(order.tolist())
        return batches(self, order, *args, **options)

    monkeypatch.setattr(ImageSet, "batches", counting)
    out = tmp_path / "run"
    options = {"distiller": "kd+fitnet", "recipe_options": {"ema": 0.5, "precision": "bf16"}, "lr": 0.01, "epochs": 5}
    training = run(out, rule=rule, **options)
    assert sorted(read) == sorted(2 * list(range(len(SPLITS.test))))  # each once by the teacher and by the student
    result = json.loads((out / "result.json").read_text())
    assert result == training.result.to_json()
    rows = training.rows
    first_best = max(rows, key=lambda row: row.val_accuracy)
    measures = ("epoch", "val_accuracy", "val_loss", "val_balanced_accuracy", "val_macro_f1")
    for name, row in (("best", first_best), ("last", rows[-1])):
        assert result[name] == {measure: getattr(row, measure) for measure in measures}
    assert (result["rule"], result["test"]["epoch"]) == (rule, result[rule]["epoch"])
    loaded = load_student(out)
    assert accuracy_of(loaded) == accuracy_of(training.student) == pytest.approx(training.accuracy, abs=1e-9)
    assert same_weights(loaded.state_dict(), training.student.state_dict())
    assert not any("combination" in name or "distiller" in name for name in weights_of(out))
    card = read_card(out)
    assert (card.mean, card.std) == (SPLITS.mean, SPLITS.std)
    state = out / "student" / "student.safetensors"
    built = timm.create_model("cifar_resnet", arch="1x8-1x8-1x16", num_classes=CLASSES, checkpoint_path=str(state))
    assert same_weights(built.state_dict(), loaded.state_dict())
    local = timm.create_model(f"local-dir:{out / 'student'}", pretrained=True)
    assert same_weights(local.state_dict(), loaded.state_dict())
    for module in training.student.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.requires_grad for parameter in training.student.parameters())
    # Again: nothing is trained or tested.
    monkeypatch.setattr(ImageSet, "batches", lambda self, order, *a, **o: _first_only(batches, self, order, *a, **o))
    again = run(out, rule=rule, **options)
    assert (again.result, again.rows) == (training.result, training.rows)
    assert same_weights(again.student.state_dict(), training.student.state_dict())


def _first_only(batches: Any, images: ImageSet, order: Tensor, *args: Any, **options: Any) -> Any:
    assert len(order) <= 2, "images were read beyond those that show what fits"
    return batches(images, order, *args, **options)


def test_in_memory_is_as_in_a_folder_and_leaves_the_caller_as_it_was(tmp_path: Path) -> None:
    module = make_plain()
    before = copy.deepcopy(module.state_dict())
    options: dict[str, Any] = {"student": module, "student_options": None, "distiller": "kd+observed", "epochs": 2}
    of_torch, others = torch.get_rng_state(), (random.getstate(), str(np.random.get_state()))
    memory = run(**options)
    stored = run(tmp_path / "run", **options, progress=True, checkpoint_minutes=1e-9)
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert (random.getstate(), str(np.random.get_state())) == others
    assert same_weights(module.state_dict(), before)
    assert lasting(memory.result) == lasting(stored.result)
    assert without_times(memory.rows) == without_times(stored.rows)
    assert same_weights(memory.student.state_dict(), stored.student.state_dict())
    assert memory.path is None
    assert stored.path == tmp_path / "run"
    assert not same_weights(run(**options, seed=1).student.state_dict(), memory.student.state_dict())


def test_a_network_learns() -> None:
    training = run_alone("cifar_resnet", model_options={"arch": "1x8-1x8"}, epochs=12, recipe_options=plain_options())
    assert training.accuracy > 60  # by chance 25
    assert repr(training).startswith("Training(")
    assert f"test accuracy {training.accuracy:.2f} %" in repr(training)
    assert "\n" not in repr(training)


# -- bad input ------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"teacher": make_plain(classes=7), "teacher_options": None}, ValueError, "teacher Plain is for 7 classes, .* 4"),
    ({"student": make_plain(classes=7), "student_options": None}, ValueError, "student Plain is for 7 classes, .* 4"),
    ({"student": nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "student_options": None, "distiller": "ofd"},
     DistillerError, "reads .*, which the student Sequential does not have"),
    ({"distiller": "kdd"}, UnknownNameError, "kd"),
    ({"student": "cifar_resnett20", "student_options": None}, UnknownNameError, "cifar_resnet20"),
    ({"recipe": "cifa"}, UnknownNameError, "cifar"),
    ({"recipe_options": {"momentun": 0.9}}, RecipeError, "momentum"),
    ({"recipe_options": {"optimizer": "adamww"}}, RecipeError, "adamw"),
    ({"dataset": "digitz"}, DataError, "digits"),
    ({"distiller": "-1*kd"}, DistillerError, "at least 0"),
    ({"distiller": {"kd": math.nan}}, DistillerError, "nan"),
    ({"ce_weight": -0.5}, DistillerError, "ce_weight is -0.5"),
    ({"ce_weight": math.nan}, DistillerError, "ce_weight is nan"),
    ({"batch_size": 49}, RecipeError, r"only 48 images to train on, \d+ to validate and \d+"),
    ({"batch_size": 15, "recipe_options": {"mixup": 0.2}}, RecipeError, "mixed in pairs"),
    ({"batch_size": 16, "recipe_options": {"accumulate": 3}}, RecipeError, "3 equal parts"),
    ({"lr": math.nan}, RecipeError, "lr is nan"),
    ({"lr": -1.0}, RecipeError, "lr is -1"),
    ({"epochs": 0}, RecipeError, "epochs is 0"),
    ({"rule": "first"}, ValueError, "rule is 'first'"),
    ({"device": "gpu"}, ValueError, "gpu"),
    ({"seed": -1}, ValueError, "seed"),
    ({"checkpoint_minutes": 0}, ValueError, "checkpoint_minutes is 0"),
    ({"data_options": {"root": "x"}}, ValueError, "data_options cannot be set"),
    ({"dataset": (torch.zeros(4, 3, 8, 8), torch.zeros(4))}, TypeError, "dataset is a tuple; it must be Splits or"),
    ({"student_options": {"num_classes": 7}}, ValueError, "num_classes of the student comes from the data"),
    ({"teacher_options": {"image_size": 8}}, ValueError, "image_size of the teacher comes from the data"),
    ({"teacher_options": {"role": "x"}}, ValueError, "role is no option of the teacher"),
    ({"teacher": "no/such/folder", "teacher_options": None}, FileNotFoundError, "neither a file nor a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "match"), BAD, ids=[match for _, _, match in BAD])
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file(make_plain().state_dict(), tmp_path / "other.safetensors")
    options = {"arch": "1x8", "checkpoint": tmp_path / "other.safetensors"}
    with pytest.raises(ValueError, match="do not fit CifarResNet"):
        run(tmp_path / "run", teacher_options=options)
    assert not (tmp_path / "run").exists()


def test_empty_and_corrupt_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"broken\.npz"):
        run(tmp_path / "run", dataset=str(tmp_path / "broken.npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        run(tmp_path / "run", dataset="folder", data_options={"root": tmp_path / "empty"})
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_for_one_training(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_alone(out=out)
    expected = r"lr is 0.05 there, 0.1 here.*seed is 0 there, 3 here"
    with pytest.raises(RunFolderError, match=expected):
        run_alone(out=out, lr=0.1, seed=3)
    with pytest.raises(RunFolderError, match=r"data.*fingerprint is"):
        run_alone(out=out, dataset=make_splits(seed=1))
    run_alone(out=out, checkpoint_minutes=3.0, progress=True)  # which change nothing
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "study.sqlite").touch()
    with pytest.raises(RunFolderError, match="is the run folder of a search"):
        run_alone(out=tmp_path / "search")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        run_alone(out=tmp_path / "file")
    with pytest.raises(RunFolderError, match="Cannot use"):
        run_alone(out=tmp_path / "file" / "below")


def test_two_processes_do_not_work_on_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(loss: Tensor, batch: Batch) -> Tensor:
        if not (tmp_path / "run").exists():  # the dry run
            return loss
        Observed.hook = None
        with pytest.raises(RunFolderError, match="Another process works on"):
            run(tmp_path / "run", distiller="observed")
        return loss

    monkeypatch.setattr(Observed, "hook", staticmethod(second))
    run(tmp_path / "run", distiller="observed", epochs=3)
    assert Observed.hook is None


def test_what_is_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"

    def stop(loss: Tensor, batch: Batch) -> Tensor:
        if out.exists():  # else this is the dry run
            signal.raise_signal(signal.SIGINT)
        return loss

    options = {"distiller": "observed", "epochs": 2}
    with monkeypatch.context() as patch:
        patch.setattr(Observed, "hook", staticmethod(stop))
        with pytest.raises(KeyboardInterrupt):
            run(out, **options)
    content = (out / LAST).read_bytes()
    (out / LAST).write_bytes(content[:-7])
    with pytest.raises(RunFolderError, match=r"last.safetensors is damaged"):
        run(out, **options)
    run(tmp_path / "other", distiller="observed", student_options={"arch": "1x4"}, epochs=1)
    (out / LAST).write_bytes((tmp_path / "other" / LAST).read_bytes())
    with pytest.raises(RunFolderError, match=r"last.safetensors does not fit this training"):
        run(out, **options)
    (out / LAST).write_bytes(content)
    monkeypatch.setattr(TrainingFolder, "write", _losing_best(TrainingFolder.write))
    with pytest.raises(RunFolderError, match=r"best.safetensors is missing"):
        run(out, **options)


def _losing_best(write: Callable[..., None]) -> Callable[..., None]:
    return lambda self, name, content: None if name == BEST else write(self, name, content)


def test_recipes_are_known_by_name_and_scaled() -> None:
    """Twelve steps, of which rows tell the rates of 2, 5, 8 and 11."""
    multistep = [0.05, 0.05, 0.005, 5e-5]  # lower from 5/8, 3/4 and 7/8 of them on
    cosine = [1.5e-4 * (1 + math.cos(math.pi * step / 12)) for step in (2, 5, 8, 11)]
    for name, expected in (("cifar", multistep), ("finetune", cosine)):
        rows = run_alone(recipe=create_recipe(name, flip=0.5), epochs=4).rows
        assert [row.lr for row in rows] == pytest.approx(expected)


# -- other data, and compiled ---------------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", ["streamed", "augmented by workers"])
def test_a_training_on_data_that_workers_make_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data, recipe = make_splits(workers=1), {"auto_augment": "rand-m5-n1"}
    if kind == "streamed":
        limits = {"resident_limit": 0, "image_size": 16, "train_limit": 48, "test_share": 0.02, "val_share": 0.02}
        data, recipe = create_splits("digits", workers=1, **limits), {"padding": 2}
    assert isinstance(data.train, StreamedSet if kind == "streamed" else ResidentSet)
    options = {"dataset": data, "distiller": "kd+observed", "epochs": 2, "recipe_options": recipe}
    run(tmp_path / "whole", **options)
    calls = []

    def interrupt(loss: Tensor, batch: Batch) -> Tensor:
        calls.append(0)
        if len(calls) == 1 + 4:  # the first is the dry run
            signal.raise_signal(signal.SIGINT)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Observed, "hook", staticmethod(interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", **options)
    assert step_in(tmp_path / "run") == 4
    run(tmp_path / "run", **options)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_compiled_networks_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compile, compiled = torch.compile, []

    def traced(function: Any) -> Any:
        compiled.append(function)
        return compile(function, backend="aot_eager")  # all but the C++ compiler

    monkeypatch.setattr(torch, "compile", traced)
    options = plain_pair(distiller="kd+fitnet", epochs=1)
    plain, made = run(**options), run(**options | {"recipe_options": {"compile": True, **options["recipe_options"]}})
    assert len(compiled) == 2
    first, second = plain.student.state_dict(), made.student.state_dict()
    assert first.keys() == second.keys()
    assert close(first, second, rtol=1e-4, atol=1e-6)  # only the rounding differs
