"""Learning from unlabelled images: from sources, weighted, and by FixMatch, in the trainer that all methods share.

Wherever bit-identity is claimed the tolerance is none. Sources' predictions are kept in half precision, which is exact
to 2^-11 of a probability, so what they lead to is compared with a relative tolerance of 1e-3.
"""

from __future__ import annotations

import copy
import io
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from diswot_search.data.augmentation import Augmentation
from diswot_search.data.image_sets import ImageSet
from diswot_search.data.splits import Splits
from diswot_search.jobs import supervision as lessons
from diswot_search.jobs.rank_sources import rank_sources
from diswot_search.jobs.train import distill, train
from diswot_search.networks.features import Features, Shapes
from diswot_search.reports.training import format_training
from diswot_search.runtime.files import RunFolderError
from diswot_search.sources.frozen import FrozenSource
from diswot_search.sources.ranking import SourceRanking
from diswot_search.training.checkpoint import read_checkpoint
from diswot_search.training.result import EpochRow, Training
from diswot_search.training.trainer import Trainer
from diswot_search.training.unlabelled import FixMatch, SourceDistillation, UnlabelledError, Views, WeightedSource
from search_spaces.registry import UnknownNameError

from ..trained_weights import as_trained

CLASSES = 4


class Plain(nn.Module):
    """A small network without batch statistics."""

    def __init__(self, classes: int = CLASSES, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.body = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(F.relu(self.stem(x)))).mean((2, 3)))


class Normed(Plain):
    """One with batch statistics and dropout."""

    def __init__(self, classes: int = CLASSES, width: int = 8) -> None:
        super().__init__(classes, width)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(F.relu(self.norm(self.body(F.relu(self.stem(x))))).mean((2, 3))))


def make(kind: type[Plain] = Plain, seed: int = 0, classes: int = CLASSES) -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(classes)


def make_splits(images: int = 48, classes: int = CLASSES, seed: int = 0, **options: Any) -> Splits:
    """Noisy pictures of 16 x 16, a pattern for each class."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(60, 196, (classes, 16, 16, 3))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        return (patterns[labels] + generator.integers(-60, 60, (count, 16, 16, 3))).astype(np.uint8), labels

    return Splits.from_arrays(draw(images), draw(24), draw(40), **options)


SPLITS = make_splits()
FEW = SPLITS.with_labels(labels_per_class=3)


def source(seed: int, classes: int = 3) -> nn.Module:
    return as_trained(make(seed=seed, classes=classes))


NEAR, FAR, OTHER = source(11), source(12, 5), source(13, 2)
BANK = {"near": NEAR, "far": FAR, "other": OTHER}
BY_HAND = {"near": 0.6, "far": 0.3, "other": 0.1}


def run(student: nn.Module | None = None, out: Path | None = None, **changes: Any) -> Training:
    defaults: dict[str, Any] = {"dataset": FEW, "epochs": 2, "batch_size": 12, "device": "cpu", "progress": False}
    defaults |= {"sources": BANK, "weighting": BY_HAND, "rule": "last", "unlabelled_batch_size": 16}
    return distill(student or make(Normed), **{**defaults, "out": out, **changes})


def run_alone(student: nn.Module | None = None, out: Path | None = None, **changes: Any) -> Training:
    defaults: dict[str, Any] = {"dataset": FEW, "epochs": 2, "batch_size": 12, "device": "cpu", "progress": False}
    return train(student or make(Normed), **{**defaults, "rule": "last", "out": out, **changes})


def weights_of(training: Training) -> dict[str, Tensor]:
    return training.student.state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_times(training: Training) -> list[EpochRow]:
    return [replace(row, seconds=0.0, images_per_second=0.0) for row in training.rows]


class _Stopped(Exception):
    pass


def stop(*_: Any) -> None:
    raise _Stopped


# -- the loss -------------------------------------------------------------------------------------


def shapes(pooled: int | None = 6) -> Shapes:
    return Shapes("student", CLASSES, pooled, None, ())


def predictor(logits: Tensor) -> Any:
    """Loads what gives these logits, whatever it sees."""
    return lambda: lambda images: logits[: len(images)]


def test_the_loss_is_the_weighted_cross_entropy_with_each_source() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(7, classes, generator=generator) for classes in (3, 5)]
    pooled = torch.randn(7, 6, generator=generator)
    sources = [
        WeightedSource(f"s{i}", t.shape[1], w, predictor(t))
        for i, (t, w) in enumerate(zip(tables, (0.7, 0.3), strict=True))
    ]
    loss = SourceDistillation(shapes(), sources, lam=0.25, view="augmented", seed=1)
    loss.prepare(FEW.train, Accelerator(cpu=True))
    student = Features(torch.zeros(7, CLASSES), pooled=pooled)

    found, notes = loss(student, Views(torch.zeros(1, 7, 3, 4, 4), torch.arange(7)))

    assert notes == {}
    assert list(found) == ["source s0", "source s1"]
    for weight, table, head, value in zip((0.7, 0.3), tables, loss.heads, found.values(), strict=True):
        expected = 0.0
        for row, target in zip(pooled.double(), table.double(), strict=True):
            logits = head.weight.detach().double() @ row + head.bias.detach().double()
            share = target.exp() / target.exp().sum()
            expected -= float((share * (logits - logits.exp().sum().log())).sum()) / 7
        assert value.item() == pytest.approx(0.75 * weight * expected, rel=1e-5)  # single precision
    sum(found.values()).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in loss.heads)


def test_heads_start_by_their_source_alone() -> None:
    def heads(*names: str) -> dict[str, Tensor]:
        sources = [WeightedSource(name, 3, 1 / len(names), predictor(torch.zeros(1, 3))) for name in names]
        made = SourceDistillation(shapes(), sources, lam=0.8, view="fixed", seed=4)
        return {source.name: head.weight for source, head in zip(made.sources, made.heads, strict=True)}

    alone, together = heads("b"), heads("a", "b", "c")
    assert torch.equal(alone["b"], together["b"])
    assert not torch.equal(together["a"], together["b"])


def test_a_student_without_a_linear_classifier_cannot_share_features() -> None:
    source = WeightedSource("a", 3, 1.0, predictor(torch.zeros(1, 3)))
    with pytest.raises(UnlabelledError, match="does not end in a linear classifier"):
        SourceDistillation(shapes(None), [source], lam=0.8, view="fixed")


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_fixmatch_learns_what_it_is_sure_of(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weak, strong = torch.randn(2, 50, CLASSES, generator=generator) * 2
    strong.requires_grad_()
    loss = FixMatch(threshold, weight=0.5)
    views = Views(torch.zeros(2, 50, 3, 4, 4), torch.arange(50))

    found, notes = loss(Features(torch.cat([weak, strong])), views)

    expected, sure = 0.0, 0
    for one, other in zip(weak.double(), strong.detach().double(), strict=True):
        shares = one.exp() / one.exp().sum()
        if float(shares.max()) >= threshold:
            sure += 1
            expected -= float((other - other.exp().sum().log())[int(shares.argmax())]) / 50
    assert found["fixmatch"].item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert float(notes["confident"]) == pytest.approx(100 * sure / 50)
    assert (sure == 50) == (threshold == 0.0)


def test_fixmatch_changes_strong_views_more() -> None:
    weak, strong = FixMatch().augmentations(Augmentation(padding=2))
    assert weak == Augmentation(padding=2)
    assert strong.by_image
    assert strong.erase == 1.0
    _, without_moves = FixMatch().augmentations(Augmentation(kind="none"))
    assert (without_moves.padding, without_moves.flip) == (0, 0.0)


# -- properties of the weights --------------------------------------------------------------------


def test_lambda_of_one_is_plain_training_bit_for_bit() -> None:
    alone, taught = run_alone(), run(lam=1.0, weighting="weighted")
    assert same(weights_of(alone), weights_of(taught))
    assert without_times(alone) == without_times(taught)


def test_a_source_of_zero_weight_changes_nothing() -> None:
    without = run(sources={"near": NEAR, "far": FAR}, weighting={"near": 0.6, "far": 0.4})
    with_it = run(weighting={"near": 0.6, "far": 0.4, "other": 0.0})
    assert same(weights_of(without), weights_of(with_it))
    assert without_times(without) == without_times(with_it)
    assert with_it.result.sources.models[2].weight == 0


def test_one_source_is_the_nearest() -> None:
    trainings = [run(sources={"near": NEAR}, weighting=w) for w in ("weighted", "nearest", "uniform", {"near": 2.0})]
    assert all(same(weights_of(trainings[0]), weights_of(other)) for other in trainings[1:])


def test_power_goes_from_uniform_to_nearest() -> None:
    def weights(**changes: Any) -> dict[str, float]:
        result = run(epochs=1, **changes).result.sources
        return {model.name: model.weight for model in result.models}

    known = run(epochs=1, weighting="weighted").result.sources.models
    positive = [model.name for model in known if model.similarity > 0]
    nearest = max(known, key=lambda model: model.similarity).name
    assert len(positive) >= 2  # else the following says little
    uniform = weights(weighting="weighted", power=0.0)
    assert [name for name, weight in uniform.items() if weight == pytest.approx(1 / len(positive))] == positive
    for weighting, power in (("weighted", math.inf), ("nearest", 10.0)):
        assert weights(weighting=weighting, power=power)[nearest] == 1
    assert sum(weights(weighting="weighted", power=2.0).values()) == pytest.approx(1)


def test_the_order_of_sources_decides_nothing_but_rounding() -> None:
    """The losses are added up in another order."""
    turned = run(make(), sources=dict(reversed(BANK.items())))
    for name, value in weights_of(run(make())).items():
        torch.testing.assert_close(weights_of(turned)[name], value, rtol=1e-4, atol=1e-6)


def test_sources_that_are_not_near_leave_plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    far = {"near": (-3.0, 1.0), "far": (math.nan, math.nan), "other": (0.0, 0.0)}
    found = SimpleNamespace(
        similarities=lambda _: {name: near for name, (near, _) in far.items()},
        spreads=lambda _: {name: spread for name, (_, spread) in far.items()},
    )
    monkeypatch.setattr(lessons, "rank_sources", lambda *_, **__: found)
    with pytest.warns(UserWarning, match="No source is near the target: by parc"):
        taught = run(weighting="weighted")
    assert same(weights_of(run_alone()), weights_of(taught))
    assert "none that can teach has a similarity above 0" in taught.result.sources.fallback
    assert [model.weight for model in taught.result.sources.models] == [0, 0, 0]


# -- training -------------------------------------------------------------------------------------


def train_by_hand(student: Plain, lam: float, weights: dict[str, float], rounds: int, lr: float) -> Plain:
    """Full batches of all images, as they are, by the formula in double precision."""
    images, labels = SPLITS.train.batches(
        torch.arange(len(SPLITS.train)), 48, device=torch.device("cpu"), augment=None, seed=0
    ).__next__()[:2]
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (SPLITS.mean, SPLITS.std))
    images = ((images - mean) / std).double()
    known = {name: BANK[name].double()(images).detach().softmax(1) for name in weights}
    for model in BANK.values():
        model.float()
    student = copy.deepcopy(student).double()
    heads = {}
    for name in weights:
        made = SourceDistillation(
            shapes(8),
            [WeightedSource(name, known[name].shape[1], 1.0, predictor(known[name]))],
            lam=0.8,
            view="fixed",
            seed=0,
        )
        heads[name] = made.heads[0].double()
    chosen = torch.as_tensor(FEW.labelled)
    parameters = [*student.parameters(), *(p for head in heads.values() for p in head.parameters())]
    for _ in range(rounds):
        pooled = F.relu(student.body(F.relu(student.stem(images)))).mean((2, 3))
        loss = lam * F.cross_entropy(student.head(pooled[chosen]), labels[chosen])
        for name, weight in weights.items():
            loss = loss + (1 - lam) * weight * F.cross_entropy(heads[name](pooled), known[name])
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= lr * slope
    return student


@pytest.mark.parametrize("view", ["fixed", "augmented"])
def test_training_is_that_of_the_formula(view: str) -> None:
    """With whole sets as batches and no augmentation: tolerance for single precision, and for half in predictions."""
    recipe = {"momentum": 0.0, "weight_decay": 0.0, "kind": "none", "schedule": "constant", "channels_last": False}
    taught = run(
        make(),
        lam=0.3,
        epochs=2,
        batch_size=12,
        unlabelled_batch_size=48,
        lr=0.5,
        source_view=view,
        recipe_options={**recipe, "flip": 0.0},
    )
    expected = train_by_hand(make(), 0.3, BY_HAND, rounds=8, lr=0.5).float().state_dict()
    for name, value in weights_of(taught).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_the_labels_of_unlabelled_images_are_never_seen() -> None:
    """Whatever they are, and whatever is learnt from these images, the student is the same."""
    hidden = np.setdiff1d(np.arange(48), FEW.labelled)
    lied = copy.deepcopy(FEW)
    lied.train.labels[hidden] = (lied.train.labels[hidden] + 1) % CLASSES
    fixmatch = {"unlabelled": "fixmatch", "unlabelled_options": {"threshold": 0.2}}
    for how, options in ((run, {}), (run_alone, {}), (run_alone, fixmatch)):
        honest, other = how(dataset=FEW, **options), how(dataset=lied, **options)
        assert same(weights_of(honest), weights_of(other))
        assert not same(weights_of(honest), make(Normed).state_dict())


def test_distillers_see_labelled_images_alone() -> None:
    seen: set[int] = set()
    teacher = as_trained(make(seed=5))
    batches = ImageSet.batches

    def watched(self: ImageSet, order: Tensor, *args: Any, **options: Any) -> Any:
        if options.get("augment") is not None and len(order) > 2:  # two serve as an example of their shape
            seen.update(order.tolist())
        return batches(self, order, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSet, "batches", watched)
        distill(make(), teacher, FEW, epochs=1, batch_size=12, device="cpu", progress=False, distiller="kd+crd")
    assert seen == set(FEW.labelled.tolist())


def test_all_labelled_images_serve_for_both_losses() -> None:
    taught = run(dataset=SPLITS, unlabelled_batch_size=None)
    assert taught.result.labels is None
    assert taught.rows[0].terms["source near"] > 0
    apart = run(dataset=SPLITS, unlabelled_batch_size=12)
    assert not same(weights_of(taught), weights_of(apart))


def test_methods_take_equally_many_steps() -> None:
    steps = {training.result.steps for training in (run(), run_alone(), run_alone(unlabelled="fixmatch"))}
    assert steps == {2 * (48 // 12)}


def test_what_is_shipped_has_no_extra_heads(tmp_path: Path) -> None:
    taught = run(out=tmp_path / "run")
    stored = load_file(tmp_path / "run" / "student" / "student.safetensors")
    assert stored.keys() == make(Normed).state_dict().keys()
    last = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert last is not None
    assert sum("heads" in name and "weight" in name and name.startswith("task/") for name in last.tensors) == 3
    assert taught.student.head.weight.shape == (CLASSES, 8)
    labelled = (tmp_path / "run" / "labels.txt").read_text().split("\n")
    assert sorted(int(line) for line in labelled if line and not line.startswith("#")) == FEW.labelled.tolist()


def test_what_is_said_of_it(tmp_path: Path) -> None:
    taught = run(out=tmp_path / "run", weighting="weighted", lam=0.6)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["labels"] == {"labelled": 12, "images": 48, "validation": 24, "classes": CLASSES}
    said = result["sources"]
    assert (said["weighting"], said["measure"], said["power"], said["lam"]) == ("weighted", "parc", 10.0, 0.6)
    assert sum(model["weight"] for model in said["models"]) == pytest.approx(1)
    for model in said["models"]:
        if model["weight"]:
            row = taught.rows[-1].terms[f"source {model['name']}"]
            assert row == pytest.approx(0.4 * model["weight"] * model["loss"])
        else:
            assert model["loss"] is None
    assert (tmp_path / "run" / "weights.png").is_file()
    assert (tmp_path / "run" / "classes.png").is_file()


def only_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sources be run no more than to see whether they fit."""
    logits = FrozenSource.logits

    def checked(self: FrozenSource, images: Tensor) -> Tensor:
        assert len(images) <= 16, "predicted again"  # a step of the dry run
        return logits(self, images)

    monkeypatch.setattr(FrozenSource, "logits", checked)


def ranked(tmp_path: Path, **options: Any) -> SourceRanking:
    return rank_sources(BANK, FEW, out=tmp_path / "ranking", device="cpu", progress=False, **options)


def test_predictions_are_kept_beside_the_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = ranked(tmp_path)
    first = run(sources=ranking, weighting="uniform")
    files = sorted((tmp_path / "ranking" / "predictions").iterdir())
    assert len(files) == len(BANK)
    with monkeypatch.context() as patch:
        only_tried(patch)
        again = run(sources=ranking, weighting="uniform", dataset=make_splits().with_labels(labels_per_class=3))
        assert same(weights_of(first), weights_of(again))  # of equal images, wherever they lie
        with pytest.raises(AssertionError, match="predicted again"):
            run(sources=ranking, weighting="uniform", dataset=make_splits(seed=1).with_labels(labels_per_class=3))
    run(sources=ranking, weighting="uniform", dataset=make_splits(seed=1).with_labels(labels_per_class=3))
    assert len(list((tmp_path / "ranking" / "predictions").iterdir())) == 2 * len(BANK)


@pytest.mark.parametrize(
    "content", [b"nothing", save({"probabilities": torch.ones(2, 3)}), save({"other": torch.ones(2)})]
)
def test_damaged_predictions_are_told(tmp_path: Path, content: bytes) -> None:
    ranking = ranked(tmp_path)
    run(sources=ranking, weighting="uniform", epochs=1)
    file = sorted((tmp_path / "ranking" / "predictions").iterdir())[0]
    file.write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{file.name} .*remove it, and it is made again"):
        run(sources=ranking, weighting="uniform", epochs=1)


def test_predictions_of_a_run_are_kept_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop)
        with pytest.raises(_Stopped):
            run(out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "predictions").iterdir())) == len(BANK)
    only_tried(monkeypatch)
    run(out=tmp_path / "run")
    assert not (tmp_path / "run" / "predictions").exists()


def test_a_folder_that_cannot_be_written_costs_the_predictions_only(tmp_path: Path) -> None:
    ranking = ranked(tmp_path)
    (tmp_path / "ranking" / "predictions").write_text("in the way")
    with pytest.warns(UserWarning, match="Predictions cannot be kept in"):
        taught = run(sources=ranking, weighting=BY_HAND)
    assert same(weights_of(taught), weights_of(run()))


@pytest.mark.parametrize("kept", [False, True])
def test_a_source_that_gives_no_numbers_is_named(tmp_path: Path, kept: bool) -> None:
    class Broken(Plain):
        """Its weights are numbers, and so is what it gives for the few images that show whether it fits."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (math.nan if len(x) > 16 else 1)

    broken = as_trained(make(Broken, seed=5))
    bank = {"near": NEAR, "broken": broken}
    with pytest.raises(UnlabelledError, match="source 'broken' gives no probabilities for 48 of 48 images"):
        run(sources=bank, weighting="uniform", out=tmp_path / "run" if kept else None)


# -- a ranking that is given ----------------------------------------------------------------------


def test_a_ranking_says_what_it_was_measured_by(tmp_path: Path) -> None:
    ranking = ranked(tmp_path, measures=["cka", "parc"])
    for weighting, measure in (("uniform", "cka"), (BY_HAND, "cka"), ("weighted", "cka")):
        said = run(sources=ranking, weighting=weighting, epochs=1).result.sources
        assert said.measure == measure
        assert [model.similarity for model in said.models] == list(ranking.similarities(measure).values())
    said = run(sources=ranking, weighting="weighted", measure="parc", epochs=1).result.sources
    assert [model.similarity for model in said.models] == list(ranking.similarities("parc").values())
    alone = run(weighting="uniform", epochs=1).result.sources
    assert alone.measure is None


def test_a_ranking_of_other_data_is_refused() -> None:
    other = make_splits(classes=3)
    ranking = rank_sources(BANK, other, device="cpu", progress=False)
    with pytest.raises(ValueError, match="rank them for it"):
        run(sources=ranking)
    divided = make_splits(val_share=0.3)
    assert divided.source["val_share"] is None  # both parts are given, so that nothing is drawn
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (80, 16, 16, 3), dtype=np.uint8), np.arange(80) % CLASSES
    first, second = (Splits.from_arrays((images, labels), seed=seed) for seed in (0, 1))
    ranking = rank_sources(BANK, first, device="cpu", progress=False)
    with pytest.raises(ValueError, match="divided otherwise"):
        run(sources=ranking, dataset=second)


def test_a_ranking_with_other_labels_is_told() -> None:
    ranking = rank_sources(BANK, SPLITS, device="cpu", progress=False)
    with pytest.warns(UserWarning, match="ranked by other labels of arrays"):
        run(sources=ranking, epochs=1)


def test_untrained_sources_and_those_without_a_classifier_teach_nothing() -> None:
    bank = {"near": NEAR, "random": "cifar_resnet20", "features": {"model": "cifar_resnet32", "num_classes": 0}}
    with pytest.warns(UserWarning, match="nothing") as told:
        models = run(sources=bank, weighting="weighted", epochs=1).result.sources.models
    said = [str(warning.message) for warning in told]
    assert any("random has random weights, so that it teaches nothing" in text for text in said)
    assert any("features has no classifier, so that it teaches nothing" in text for text in said)
    assert {model.name: model.weight for model in models} == {"near": 1, "random": 0, "features": 0}


def test_a_bank_of_random_networks_leaves_plain_training() -> None:
    with pytest.warns(UserWarning, match="random weights|No source can teach"):
        taught = run(sources=["cifar_resnet20"], weighting="weighted", epochs=1)
    assert taught.result.sources.fallback == "No source can teach: none has trained weights and a classifier"


def test_an_infinite_power_is_said(tmp_path: Path) -> None:
    taught = run(out=tmp_path / "run", weighting="weighted", power=math.inf, epochs=1)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["sources"]["power"] == "inf"
    console = Console(width=200, file=io.StringIO())
    console.print(format_training(taught.result))
    assert "power inf" in console.file.getvalue()


def test_lambda_of_zero_is_told() -> None:
    with pytest.warns(UserWarning, match="lam is 0"):
        run(lam=0, epochs=1)


# -- stopped and continued ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sources", "augmented", "fixmatch"])
def test_a_training_that_stops_goes_on_as_if_it_had_not(tmp_path: Path, how: str, monkeypatch: Any) -> None:
    hard = {"recipe_options": {"ema": 0.5, "mixup": 0.2, "accumulate": 2, "precision": "bf16"}, "epochs": 3}
    options: dict[str, Any] = {"weighting": "weighted", "source_view": "augmented" if how == "augmented" else "fixed"}

    def go(out: Path) -> Training:
        if how == "fixmatch":
            return run_alone(
                out=out, unlabelled="fixmatch", unlabelled_options={"threshold": 0.3}, unlabelled_batch_size=24, **hard
            )
        return run(out=out, **options, **hard)

    whole = go(tmp_path / "whole")
    step = Trainer._step
    with monkeypatch.context() as patch:

        def fails(self: Trainer, number: int, parts: Any) -> Tensor:
            if number == 6:
                raise _Stopped
            return step(self, number, parts)

        patch.setattr(Trainer, "_step", fails)
        with pytest.raises(_Stopped):
            go(tmp_path / "stopped")
    with monkeypatch.context() as patch:  # what is known of the sources stays, whatever they would be measured now
        patch.setattr(lessons, "rank_sources", lambda *_, **__: pytest.fail("measured again"))
        resumed = go(tmp_path / "stopped")
    assert same(weights_of(whole), weights_of(resumed))
    assert without_times(whole) == without_times(resumed)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run(out=tmp_path / "run")
    for change in ({"lam": 0.5}, {"source_view": "augmented"}, {"weighting": "uniform"}, {"unlabelled_batch_size": 8}):
        with pytest.raises(RunFolderError, match="another configuration"):
            run(out=tmp_path / "run", **change)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": 1.5}, "lam is 1.5; it must be a number between 0 and 1"),
        ({"lam": -0.1}, "lam is -0.1"),
        ({"lam": math.nan}, "lam is nan"),
        ({"power": -1.0}, "power is -1.0; it must be a number at least 0"),
        ({"unlabelled_batch_size": 0}, "unlabelled_batch_size is 0"),
        ({"unlabelled_batch_size": 15, "recipe_options": {"accumulate": 2}}, "choose one that 2 divides"),
        ({"weighting": {"nearr": 1.0}}, "near"),
        ({"weighting": {"near": -1.0}}, "-1"),
        ({"teacher": make(seed=3)}, "teacher cannot be combined with them"),
        ({"distiller": "kd"}, "distiller cannot be combined with them"),
        ({"ce_weight": 1.0}, "ce_weight cannot be combined with them"),
        ({"sources": []}, "no sources"),
        ({"sources": {"a": NEAR, "b": NEAR}}, "'?a'? and '?b'?|twice"),
        ({"sources": None, "weighting": "weighted"}, "No teacher: pass `teacher=` or `sources=`"),
        ({"sources": None, "teacher": make(seed=3)}, "weighting: options of sources, but there are none"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(out=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "name"), [({"weighting": "wieghted"}, "weighted"), ({"source_view": "fix"}, "fixed")]
)
def test_unknown_names_are_answered_with_near_ones(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        run(**changes)
    with pytest.raises(UnknownNameError, match="parc"):
        run(measure="park")


def test_fixmatch_options_are_checked() -> None:
    with pytest.raises(UnlabelledError, match="threshold is 2"):
        run_alone(unlabelled="fixmatch", unlabelled_options={"threshold": 2})
    with pytest.raises(UnlabelledError, match="threshold"):
        run_alone(unlabelled="fixmatch", unlabelled_options={"treshold": 0.9})
    with pytest.raises(UnlabelledError, match="fixmatch"):
        run_alone(unlabelled="fixmach")
    with pytest.raises(UnlabelledError, match="unlabelled_options are given"):
        run_alone(unlabelled_options={"threshold": 0.9})
    with pytest.raises(ValueError, match="unlabelled_batch_size is given"):
        run_alone(unlabelled_batch_size=8)


def test_a_source_without_a_classifier_cannot_teach() -> None:
    bank = {"near": NEAR, "features": {"model": "cifar_resnet20", "num_classes": 0}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnlabelledError, match="'features' has no classifier, so that it predicts nothing"):
            run(sources=bank, weighting="uniform")
        assert run(sources=bank, weighting={"near": 1.0}, epochs=1).accuracy >= 0
