"""Networks travel as recipes: pickled, and in a process of its own, each builds the same weights and scores."""

from __future__ import annotations

import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search.data.splits import Splits
from diswot_search.networks.network import Network, TeacherBank
from diswot_search.networks.recipes import WithoutClassifier
from diswot_search.networks.saved import save_student
from diswot_search.readings.network import read_network
from diswot_search.resolve.networks import as_network
from diswot_search.resolve.sources import as_sources
from diswot_search.runtime.seeding import isolated_random_state
from diswot_search.sources.frozen import source_teacher
from diswot_search.study.evaluator import Evaluator
from search_spaces import SearchSpace, create_space

from ..trained_weights import as_trained

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
CLASSES = 4


class Files:
    """What networks are read from: a student on disk, bare weights, and the run folder of a search."""

    def __init__(self, path: Path) -> None:
        self.path = path
        network = named()
        model = network.build(3)
        model(make_probe().images)  # moves the running statistics away from their start
        save_student(model, network.card((3, 16, 16), (0.5,) * 3, (0.25,) * 3), path / "student")
        torch.save(model.state_dict(), path / "bare.pth")
        proxy = {"proxy": "params", "algorithm": "random", "evaluations": 2, "progress": False}
        ds.search(make_space(), None, make_probe(), out=path / "search", **proxy)  # type: ignore[arg-type]


def make_space() -> SearchSpace:
    return create_space("nasbench201", num_classes=CLASSES, input_size=(3, 16, 16), channels=4, cells=1)


def make_probe() -> ds.Probe:
    return ds.create_probe("noise", batch_size=8, image_size=16, num_classes=CLASSES)


def make_splits() -> Splits:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return Splits.from_arrays((pixels, np.arange(40) % CLASSES), name="target")


def named(**options: object) -> Network:
    return as_network("cifar_resnet", num_classes=CLASSES, arch="1x4-1x8", **options)  # type: ignore[arg-type]


def make_module() -> nn.Module:
    with isolated_random_state(5):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)
        )


def make_source(files: Files) -> Network:
    return as_sources({"mine": {"model": files.path / "student", "input_size": (3, 24, 24)}})[0]


KINDS: dict[str, Callable[[Files], Network]] = {
    "timm name": lambda files: as_network("vit_tiny_patch16_224", num_classes=CLASSES, image_size=(16, 16), depth=1),
    "name of ours": lambda files: named(),
    "architecture of a space": lambda files: as_network(CELL, space=make_space(), num_classes=CLASSES),
    "architecture of timm": lambda files: as_network(
        next(iter(create_space("timm/resnet_32", num_classes=CLASSES))),
        space=create_space("timm/resnet_32", num_classes=CLASSES),
        num_classes=CLASSES,
    ),
    "run folder of a search": lambda files: as_network(files.path / "search", num_classes=CLASSES),
    "student on disk": lambda files: as_network(files.path / "student", num_classes=CLASSES),
    "checkpoint": lambda files: named(checkpoint=files.path / "bare.pth"),
    "checkpoint with a card": lambda files: named(checkpoint=files.path / "student"),
    "module": lambda files: as_network(make_module(), num_classes=CLASSES),
    "module in evaluation mode": lambda files: as_network(as_trained(make_module()), num_classes=CLASSES),
    "function": lambda files: Network.from_factory("mine", make_module, num_classes=CLASSES),
    "new classifier": lambda files: as_network(files.path / "student", num_classes=CLASSES, new_classifier=True),
    "new classifier on bare weights": lambda files: named(checkpoint=files.path / "bare.pth", new_classifier=True),
    "created teacher": lambda files: ds.create_teacher("cifar_resnet20", num_classes=CLASSES),
    "source": make_source,
    "source as a teacher": lambda files: source_teacher(make_source(files), make_splits()),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process that was started anew, which has nothing but what it is sent."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def again(network: Network) -> Network:
    return pickle.loads(pickle.dumps(network))


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_network_is_the_same_network(kind: str, files: Files) -> None:
    network = KINDS[kind](files)
    state = torch.get_rng_state()
    copy = again(network)
    assert same(copy.build(2), network.build(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert copy.config() == network.config()
    names = ("name", "trained", "num_classes", "preprocessing", "input_spec", "trained_on", "timm", "space")
    for name in names:
        assert getattr(copy, name) == getattr(network, name)
    assert type(copy.recipe) is type(network.recipe)
    probe = make_probe()
    assert torch.equal(read_network(copy, probe, 1).logits, read_network(network, probe, 1).logits)


def test_features_alone_pickle_too(files: Files) -> None:
    (source,) = as_sources([{"model": files.path / "student", "num_classes": 0}])
    assert isinstance(source.recipe, WithoutClassifier)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(source).build().eval()(images), source.build().eval()(images))


def scores_of(evaluator: Evaluator, texts: list[str]) -> list[tuple[float | None, dict[str, float]]]:
    evaluations = evaluator.evaluate([evaluator.space.parse(text) for text in texts])
    assert all(evaluation.status == "ok" for evaluation in evaluations), [one.reason for one in evaluations]
    return [(evaluation.score, dict(evaluation.parts)) for evaluation in evaluations]


def make_evaluator(teacher: Network | TeacherBank) -> Evaluator:
    return Evaluator(make_space(), teacher, make_probe(), "diswot", seeds=(1, 2), device="cpu")


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluator_gives_the_same_scores_in_another_process(
    kind: str, files: Files, process: ProcessPoolExecutor
) -> None:
    evaluator = make_evaluator(KINDS[kind](files))
    waiting = process.submit(scores_of, evaluator, [CELL])
    expected = scores_of(evaluator, [CELL])
    assert waiting.result() == expected


def test_a_bank_of_teachers_goes_to_another_process(files: Files, process: ProcessPoolExecutor) -> None:
    teachers = tuple(KINDS[kind](files) for kind in ("student on disk", "source as a teacher", "module"))
    evaluator = make_evaluator(TeacherBank(teachers, (0.5, 0.25, 0.25)))
    expected = scores_of(evaluator, [CELL])
    assert process.submit(scores_of, evaluator, [CELL]).result() == expected  # pickled after it was used, too


def test_a_network_is_a_value_and_holds_no_weights_of_files(files: Files) -> None:
    weights = (files.path / "student" / "student.safetensors").stat().st_size
    for kind in ("student on disk", "checkpoint", "source as a teacher"):
        assert len(pickle.dumps(KINDS[kind](files))) < weights / 2
    assert KINDS["student on disk"](files) == KINDS["student on disk"](files)


def test_weights_that_were_replaced_in_between_are_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    networks = [KINDS[kind](files) for kind in ("student on disk", "checkpoint", "new classifier on bare weights")]
    other = named().build(9)
    save_student(other, named().card((3, 16, 16), (0.5,) * 3, (0.25,) * 3), tmp_path / "student")
    torch.save(other.state_dict(), tmp_path / "bare.pth")
    for network in networks:
        with pytest.raises(ValueError, match="changed after they were first read here; start again to use the new"):
            network.build()
    (tmp_path / "bare.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"bare\.pth are not there any more"):
        networks[1].build()


def test_paths_do_not_depend_on_where_a_process_runs(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.path)
    networks = [as_network("student", num_classes=CLASSES), named(checkpoint="bare.pth")]
    monkeypatch.chdir(tmp_path)
    for network in networks:
        assert network.build().state_dict()


def test_as_sources_of_sources_are_the_same_sources(files: Files) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = as_sources([files.path / "student", as_trained(make_module())])
        assert as_sources(first) == first
        assert [again(source).config() for source in first] == [source.config() for source in first]
