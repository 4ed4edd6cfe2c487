"""Suites that every part of a kind passes, ours or a user's: inherit one, say how to make the part, run pytest."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import math
import pickle
import random
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from search_spaces.cost import Cost, count_cost
from search_spaces.recipes import create_space
from search_spaces.space import Architecture, ArchitectureError, SearchSpace

from ..data.probe import Probe
from ..distillation.base import Batch, Distiller, DistillerError, Setting
from ..networks.contract import ReadingError
from ..networks.features import READABLE, Features, Shapes
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy
from ..readings.core import Readings
from ..study.algorithm import Algorithm
from ..study.records import Record


def decisions_apart(first: Architecture, second: Architecture) -> int:
    """Number of decisions in which two architectures differ."""
    return sum(a != b for a, b in zip(first.choices, second.choices, strict=True))


def random_state() -> tuple[Any, ...]:
    """What the global generators would draw next, as something to compare."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()


class SearchSpaceContract:
    """What every search space promises.

    class TestMySpace(SearchSpaceContract):
        def create(self, **options):
            return MySpace(**options)
    """

    samples: ClassVar[int] = 20
    """Architectures that are drawn for the tests that build nothing."""
    builds: ClassVar[int] = 3
    """How many of them are built where a test needs networks."""
    changes: ClassVar[tuple[dict[str, Any], ...]] = ({"num_classes": 7}, {"input_size": (1, 32, 32)})
    """Options that each make another space than `create()` does."""

    def create(self, **options: Any) -> SearchSpace:
        """Make the space with these options, others at their defaults."""
        raise NotImplementedError

    def count(self, network: nn.Module, space: SearchSpace) -> Cost:
        """Count a built network; override it where the space's multiply-accumulates follow another convention."""
        return count_cost(network, space.input_size)

    @pytest.fixture
    def space(self) -> SearchSpace:
        return self.create()

    @pytest.fixture
    def sampled(self, space: SearchSpace) -> list[Architecture]:
        rng = random.Random(0)
        return [space.sample(rng) for _ in range(self.samples)]

    # -- choices --------------------------------------------------------------------------------

    def test_sampling_is_seeded_and_stays_in_the_space(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        rng = random.Random(0)
        assert [space.sample(rng) for _ in range(self.samples)] == sampled
        assert all(architecture in space for architecture in sampled)
        assert len(set(sampled)) > 1 or space.size == 1

    def test_mutation_changes_one_decision(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        expected = int(any(len(choices) > 1 for choices in space.decisions.values()))
        for seed, architecture in enumerate(sampled):
            mutant = space.mutate(architecture, random.Random(seed))
            assert mutant in space
            assert decisions_apart(architecture, mutant) == expected
            assert mutant == space.mutate(architecture, random.Random(seed))

    def test_crossover_takes_every_choice_from_a_parent(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for seed, (first, second) in enumerate(itertools.pairwise(sampled)):
            child = space.crossover(first, second, random.Random(seed))
            assert child in space
            assert all(c in pair for c, *pair in zip(child.choices, first.choices, second.choices, strict=True))
            assert child == space.crossover(first, second, random.Random(seed))

    def test_neighbours_are_all_one_decision_away(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled[: self.builds]:
            neighbours = list(space.neighbours(architecture))
            assert all(n in space and decisions_apart(architecture, n) == 1 for n in neighbours)
            assert len(set(neighbours)) == len(neighbours) == sum(len(c) - 1 for c in space.decisions.values())

    def test_iteration_gives_each_architecture_once(self, space: SearchSpace) -> None:
        expected = min(space.size, 20_000)
        listed = list(itertools.islice(space, expected + 1 if expected == space.size else expected))
        assert len(listed) == len(set(listed)) == expected
        assert all(architecture in space for architecture in listed)

    def test_choices_by_order_and_by_name_agree(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            by_name = dict(zip(space.decisions, architecture.choices, strict=True))
            assert space.architecture(by_name) == space.architecture(architecture.choices) == architecture

    def test_wrong_choices_are_refused(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        choices = sampled[0].choices
        for wrong in (choices[:-1], (*choices, choices[-1]), ("?", *choices[1:])):
            with pytest.raises(ArchitectureError, match=re.escape(space.name)):
                space.architecture(wrong)

    # -- text -----------------------------------------------------------------------------------

    def test_text_reads_back(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            again = space.parse(str(architecture))
            assert again == architecture
            assert str(again) == str(architecture)
        assert len({str(a) for a in sampled}) == len(set(sampled))

    def test_malformed_text_is_refused_by_name(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        text = str(sampled[0])
        for malformed in ("", "?", f"{text}?", f"{text}{text}"):
            with pytest.raises(ArchitectureError, match=re.escape(space.name)):
                space.parse(malformed)

    def test_architectures_are_values(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            copy = pickle.loads(pickle.dumps(architecture))
            assert copy == architecture
            assert hash(copy) == hash(architecture)
            assert str(copy) == str(architecture)
            assert {architecture: 1}[space.parse(str(architecture))] == 1

    # -- function and cost ----------------------------------------------------------------------

    def test_canonical_form_stands_for_itself(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            canonical = space.canonical(architecture)
            assert canonical in space
            assert space.canonical(canonical) == canonical
            assert space.is_trainable(canonical) == space.is_trainable(architecture)

    def test_cost_is_that_of_the_network(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        for architecture in sampled[: self.builds]:
            state = torch.get_rng_state()
            cost = space.cost(architecture)
            assert torch.equal(state, torch.get_rng_state())
            assert cost.params > 0
            assert cost.macs > 0
            assert cost == self.count(space.build(architecture), space)

    def test_weights_come_from_torchs_generator(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        def weights(seed: int) -> torch.Tensor:
            torch.manual_seed(seed)
            return nn.utils.parameters_to_vector(space.build(sampled[0]).parameters())

        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))

    def test_networks_follow_timms_contract(self, space: SearchSpace, sampled: list[Architecture]) -> None:
        images = torch.randn(2, *space.input_size)
        for architecture in sampled[: self.builds]:
            network: Any = space.build(architecture).eval()
            with torch.no_grad():
                logits = network(images)
                features = network.forward_features(images)
                pooled = network.forward_head(features, pre_logits=True)
                assert logits.shape == (2, space.num_classes)
                assert torch.equal(logits, network.forward_head(features))
                assert pooled.shape == (2, network.head_hidden_size)
                assert network.num_classes == space.num_classes
                assert network.get_classifier().out_features == space.num_classes
                network.reset_classifier(5)
                assert network(images).shape == (2, 5)
                network.reset_classifier(0)
                torch.testing.assert_close(network(images), pooled)

    # -- options --------------------------------------------------------------------------------

    def test_config_tells_spaces_apart(self, space: SearchSpace) -> None:
        configs = [space.config(), *(self.create(**change).config() for change in self.changes)]
        assert self.create().config() == configs[0]
        assert all(json.loads(json.dumps(config)) == config for config in configs)
        assert all(a != b for a, b in itertools.combinations(configs, 2))

    @pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"input_size": (3, 32)}, {"input_size": (3, 0, 32)}])
    def test_sizes_that_are_none_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            self.create(**wrong)


Score = Callable[[Architecture], "float | None"]


def records_of(
    space: SearchSpace, architectures: list[Architecture], score: Score, first_index: int = 0
) -> list[Record]:
    """Records as a study would keep them; a score of None stands for a failed evaluation."""
    records = []
    for index, architecture in enumerate(architectures, start=first_index):
        cost, value = space.cost(architecture), score(architecture)
        records.append(
            Record(
                status="failed" if value is None else "ok",
                reason="made to fail" if value is None else None,
                score=value,
                index=index,
                architecture=str(architecture),
                canonical=str(space.canonical(architecture)),
                params=cost.params,
                macs=cost.macs,
                latency_ms=cost.macs / 1e6,
            )
        )
    return records


def run_algorithm(algorithm: Algorithm, score: Score, evaluations: int) -> list[Architecture]:
    """Ask and tell until enough is evaluated or nothing is left; what was asked, in order."""
    asked: list[Architecture] = []
    while len(asked) < evaluations and (batch := algorithm.ask()):
        algorithm.tell(records_of(algorithm.space, batch, score, len(asked)))
        asked += batch
    return asked


class AlgorithmContract:
    """What every search algorithm promises.

    class TestMyAlgorithm(AlgorithmContract):
        def create(self, space, **common):
            return MyAlgorithm(space, **common)
    """

    seeded: ClassVar[bool] = True
    """Whether another seed leads to another search."""
    learns: ClassVar[bool] = True
    """Whether scores guide it."""
    limit: ClassVar[float] = 0.3e6
    """Parameters that the budget allows where there is one: about two thirds of NAS-Bench-201."""

    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        """Make the algorithm; `common` are `seed`, `feasible` and `start`."""
        raise NotImplementedError

    @pytest.fixture
    def cells(self) -> SearchSpace:
        """15,625 architectures, many of them equal or untrainable."""
        return create_space("nasbench201")

    @pytest.fixture
    def resnets(self) -> SearchSpace:
        """64 architectures, all different."""
        return create_space("cifar_resnet_s0")

    def within(self, space: SearchSpace, limit: float) -> Callable[[Architecture], bool]:
        return lambda architecture: space.cost(architecture).params <= limit

    @staticmethod
    def uneven(architecture: Architecture) -> float | None:
        """A score that falls in no order, with a failure every now and then."""
        value = random.Random(str(architecture)).random()
        return None if value < 0.2 else value

    @staticmethod
    def opposite(architecture: Architecture) -> float | None:
        """The score that falls in the opposite order, with the same failures."""
        value = AlgorithmContract.uneven(architecture)
        return None if value is None else -value

    def test_same_seed_and_scores_same_search(self, cells: SearchSpace) -> None:
        searches = []
        for global_seed in (1, 2):
            random.seed(global_seed)
            algorithm = self.create(cells, seed=3, feasible=self.within(cells, self.limit))
            searches.append(run_algorithm(algorithm, self.uneven, 120))
        assert searches[0] == searches[1]

    def test_another_seed_another_search(self, cells: SearchSpace) -> None:
        first, second = (run_algorithm(self.create(cells, seed=seed), self.uneven, 50) for seed in (0, 1))
        assert (first != second) == self.seeded

    def test_scores_guide_what_is_asked(self, cells: SearchSpace) -> None:
        scores = (self.uneven, self.opposite)
        first, second = (run_algorithm(self.create(cells, seed=0), score, 120) for score in scores)
        assert (first != second) == self.learns

    def test_global_random_states_are_left_alone(self, cells: SearchSpace) -> None:
        random.seed(5)
        np.random.seed(5)
        run_algorithm(self.create(cells, seed=3), self.uneven, 120)
        observed = random.random(), np.random.rand(), torch.rand(1)
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(0)
        assert observed == (random.random(), np.random.rand(), torch.rand(1))

    def test_asks_only_what_is_new_trainable_and_within_the_budget(self, cells: SearchSpace) -> None:
        feasible = self.within(cells, self.limit)
        asked = run_algorithm(self.create(cells, seed=0, feasible=feasible), self.uneven, 300)
        assert len(asked) >= 300
        assert len({cells.canonical(architecture) for architecture in asked}) == len(asked)
        assert all(architecture in cells and feasible(architecture) for architecture in asked)
        assert all(cells.is_trainable(architecture) for architecture in asked)

    def test_goes_on_when_everything_fails(self, cells: SearchSpace) -> None:
        asked = run_algorithm(self.create(cells, seed=0), lambda architecture: None, 120)
        assert len({cells.canonical(architecture) for architecture in asked}) == len(asked) >= 120

    def test_small_space_is_searched_wholly(self, resnets: SearchSpace) -> None:
        algorithm = self.create(resnets, seed=0)
        asked = run_algorithm(algorithm, self.uneven, 10 * resnets.size)
        assert sorted(map(str, asked)) == sorted(map(str, resnets))
        assert algorithm.ask() == []

    def test_what_the_budget_leaves_is_searched_wholly(self, cells: SearchSpace) -> None:
        feasible = self.within(cells, cells.cost(cells.architecture(["none"] * 6)).params)
        allowed = {cells.canonical(a) for a in cells if feasible(a) and cells.is_trainable(a)}
        asked = run_algorithm(self.create(cells, seed=0, feasible=feasible), self.uneven, 10 * len(allowed))
        assert {cells.canonical(architecture) for architecture in asked} == allowed
        assert len(asked) == len(allowed)

    def test_budget_that_nothing_meets_asks_nothing(self, resnets: SearchSpace) -> None:
        assert self.create(resnets, seed=0, feasible=lambda architecture: False).ask() == []

    def test_finds_the_optimum_of_an_easy_objective(self, cells: SearchSpace) -> None:
        if not self.learns:
            pytest.skip("scores do not guide it")
        target = cells.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")

        def matches(architecture: Architecture) -> float:
            return sum(a == b for a, b in zip(architecture.choices, target.choices, strict=True))

        best = max(matches(cells.canonical(architecture)) for architecture in cells)
        found = 0
        for seed in range(6):
            asked = run_algorithm(self.create(cells, seed=seed), matches, 300)
            found += any(matches(architecture) == best for architecture in asked)
        assert found >= 5  # by chance, 300 of 4,929 distinct cells hold the one optimum in 6 % of searches

    def test_scores_that_change_are_learned_anew(self, cells: SearchSpace) -> None:
        searches = []
        for before in (self.uneven, self.opposite):
            algorithm = self.create(cells, seed=0)
            first, second = algorithm.ask(), algorithm.ask()
            records = records_of(cells, first, before)
            algorithm.tell(records, scored=[record for record in records if record.status == "ok"])
            records = records_of(cells, first + second, self.uneven)
            algorithm.tell(records[len(first) :], scored=[record for record in records if record.status == "ok"])
            searches.append([algorithm.ask() for _ in range(20)])
        assert searches[0] == searches[1]

    def test_record_of_what_was_not_asked_is_refused(self, resnets: SearchSpace) -> None:
        algorithm = self.create(resnets, seed=0)
        records = records_of(resnets, algorithm.ask(), self.uneven)
        algorithm.tell(records)
        with pytest.raises(ValueError, match=re.escape(records[0].architecture)):
            algorithm.tell(records[:1])

    def test_start_outside_the_budget_is_refused(self, resnets: SearchSpace) -> None:
        start = next(iter(resnets))
        with pytest.raises(ValueError, match=re.escape(str(start))):
            self.create(resnets, seed=0, feasible=lambda architecture: architecture != start, start=start)


class ProxyContract:
    """What every proxy promises.

    class TestMyProxy(ProxyContract):
        def create(self):
            return my_proxy
    """

    any_pair: ClassVar[bool] = True
    """Whether it is defined for networks of any two widths, layouts and class counts; if not, it says so."""

    def create(self) -> str | Proxy | ProxyFunction:
        """The proxy: its function, or the name that it is registered under."""
        raise NotImplementedError

    @pytest.fixture
    def proxy(self) -> Proxy:
        proxy = get_proxy(self.create())
        assert isinstance(proxy, Proxy), "an aggregate is no proxy of one network"
        return proxy

    @pytest.fixture
    def probe(self) -> Probe:
        """Noise with every class in it."""
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return Probe.from_tensors(images, torch.arange(12) % 5, num_classes=5)

    @staticmethod
    def read(probe: Probe, name: str, **options: Any) -> Readings:
        """The readings of a timm model, its weights drawn from a seed."""
        torch.manual_seed(1)
        model = timm.create_model(name, **{"num_classes": probe.num_classes} | options)
        return Readings(lambda: model, probe)

    def students(self, probe: Probe) -> list[Readings]:
        """Networks that agree with the teacher in classes, width and size of the last map."""
        cells = [
            "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|",
            "|skip_connect~0|+|avg_pool_3x3~0|none~1|+|nor_conv_1x1~0|skip_connect~1|none~2|",
        ]
        students = [self.read(probe, "nasbench201", arch=cell, cells=1) for cell in cells]
        return [*students, self.read(probe, "cifar_resnet", arch="1-1-2")]

    def teacher(self, probe: Probe) -> Readings:
        return self.read(probe, "cifar_resnet20")

    def test_says_in_a_line_what_it_measures(self, proxy: Proxy) -> None:
        assert proxy.name
        assert proxy.summary.strip()

    def test_gives_finite_numbers_that_tell_networks_apart(self, proxy: Proxy, probe: Probe) -> None:
        scores = [proxy(student, self.teacher(probe)) for student in self.students(probe)]
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert len(set(scores)) == len(scores)

    def test_scores_do_not_depend_on_what_was_scored_before(self, proxy: Proxy, probe: Probe) -> None:
        teacher = self.teacher(probe)
        scores = [proxy(student, teacher) for student in self.students(probe)]
        backwards = [proxy(student, self.teacher(probe)) for student in reversed(self.students(probe))]
        assert scores == backwards[::-1]

    def test_leaves_networks_and_random_state_alone(self, proxy: Proxy, probe: Probe) -> None:
        student, teacher = self.students(probe)[0], self.teacher(probe)
        models = [student.model.train(), teacher.model.eval()]
        weights = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
        state = random_state()
        proxy(student, teacher)
        assert random_state() == state
        for model, before, training in zip(models, weights, (True, False), strict=True):
            assert all(module.training == training for module in model.modules())
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert all(p.grad is None and p.requires_grad for p in model.parameters())

    def test_asks_for_the_teacher_that_it_needs(self, proxy: Proxy, probe: Probe) -> None:
        student = self.students(probe)[0]
        if proxy.needs_teacher:
            with pytest.raises(ValueError, match=re.escape(proxy.name)):
                proxy(student)
        else:
            assert proxy(student) == proxy(student, self.teacher(probe))

    def test_compares_any_pair_or_says_why_not(self, proxy: Proxy, probe: Probe) -> None:
        first = self.students(probe)[0]
        second = self.read(probe, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=12)
        for student, teacher in ((first, second), (second, first)):
            if self.any_pair:
                assert math.isfinite(proxy(student, teacher))
            else:
                with pytest.raises(ReadingError, match=r"\w+ \w+"):
                    proxy(student, teacher)


def shapes_of(name: str, *stages: tuple[int, int, int], pooled: int | None = None, classes: int = 5) -> Shapes:
    """Shapes of a network with these stages, whose classifier works on the channels of the last one by default."""
    return Shapes(name, classes, pooled or stages[-1][0], stages[-1], stages)


def features_of(shapes: Shapes, reads: tuple[str, ...], batch: int, seed: int, *, learns: bool = False) -> Features:
    """Random features of a network, of them what is read and no more; as leaves that learn, or without a graph."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    before = [draw(batch, *shape) for shape in shapes.stages]
    weight = draw(shapes.classes, shapes.pooled or 1)
    pooled = draw(batch, shapes.pooled or 1).abs()

    def read(name: str, tensor: Tensor) -> Any:
        return tensor.clone().requires_grad_(learns) if name in reads else None

    return Features(
        logits=(pooled @ weight.T).requires_grad_(learns),
        pooled=read("pooled", pooled),
        weight=read("pooled", weight),
        features=read("features", before[-1].relu()),
        stages=tuple(read("stages", maps.relu()) for maps in before) if "stages" in reads else (),
        preactivations=tuple(read("preactivations", maps) for maps in before) if "preactivations" in reads else (),
    )


def tensors_of(features: Features) -> dict[str, list[Tensor]]:
    """The tensors behind each name that a distiller can read; with the pooled features goes the weight."""
    found: dict[str, list[Tensor | None]] = {
        "logits": [features.logits],
        "pooled": [features.pooled, features.weight],
        "features": [features.features],
        "stages": [*features.stages],
        "preactivations": [*features.preactivations],
    }
    return {name: [tensor for tensor in tensors if tensor is not None] for name, tensors in found.items()}


def watched(features: Features, taken: set[str]) -> Features:
    """The same features, which note what is taken of them; the weight goes with the pooled features."""
    names = {name: name for name in READABLE} | {"weight": "pooled"}

    class Watched(Features):
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                taken.add(names[name])
            return super().__getattribute__(name)

    return Watched(**vars(features))


class DistillerContract:
    """What every distiller promises.

    class TestMyDistiller(DistillerContract):
        def create(self, setting, **options):
            return MyDistiller(setting, **options)
    """

    minimum: ClassVar[float | None] = None
    """The loss of a student that equals its teacher; None where a connector stands between them."""
    wrong_options: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Values that its options refuse."""
    pairs: ClassVar[dict[str, tuple[Shapes, Shapes]]] = {
        "equal": (shapes_of("net", (4, 8, 8), (6, 4, 4)), shapes_of("net", (4, 8, 8), (6, 4, 4))),
        "wider": (shapes_of("thin", (4, 8, 8), (6, 4, 4)), shapes_of("wide", (7, 8, 8), (9, 4, 4))),
        "coarser": (shapes_of("fine", (4, 8, 8), (6, 4, 4)), shapes_of("coarse", (4, 4, 4), (6, 2, 2))),
        "finer": (shapes_of("coarse", (4, 6, 4), (6, 3, 2)), shapes_of("fine", (4, 8, 8), (6, 4, 4))),
        "deeper": (
            shapes_of("short", (4, 8, 8), (6, 4, 4)),
            shapes_of("long", (3, 16, 16), (4, 8, 8), (6, 4, 4), (8, 1, 1)),
        ),
        "head": (shapes_of("plain", (4, 8, 8), (6, 4, 4)), shapes_of("head", (4, 8, 8), (6, 4, 4), pooled=10)),
        "tokens": (shapes_of("column", (8, 10, 1)), shapes_of("cnn", (4, 8, 8), (6, 4, 4))),
        "one_stage": (shapes_of("cnn", (4, 8, 8), (6, 4, 4)), shapes_of("grid", (8, 4, 4))),
    }
    """Students and teachers that it works for."""

    def create(self, setting: Setting, **options: Any) -> Distiller:
        """Make the distiller with these options, others at their defaults."""
        raise NotImplementedError

    @pytest.fixture(params=["equal", "wider", "coarser", "finer", "deeper", "head", "tokens", "one_stage"])
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        return self.setting_of(request.param)

    def setting_of(self, pair: str) -> Setting:
        if pair not in self.pairs:
            pytest.skip(f"not for {pair}")
        student, teacher = self.pairs[pair]
        return Setting(student, teacher, labels=torch.arange(40) % 5)

    @staticmethod
    def batch(size: int, *, mixed: bool = False, start: int = 0) -> Batch:
        """The training samples from `start` on."""
        indices = torch.arange(start, start + size)
        targets = torch.full((size, 5), 0.2) if mixed else None
        return Batch(torch.rand(size, 3, 8, 8), indices % 5, indices, targets)

    @staticmethod
    def loss(distiller: Distiller, batch: Batch, seed: int = 1) -> Tensor:
        """The loss of random features, with torch's generator at a seed."""
        shapes, size = distiller.setting, len(batch.labels)
        student = features_of(shapes.student, distiller.reads, size, seed, learns=True)
        teacher = features_of(shapes.teacher, distiller.reads, size, seed + 1)
        torch.manual_seed(seed)
        return distiller(student, teacher, batch)

    # -- the loss -------------------------------------------------------------------------------

    def test_loss_is_a_finite_number_in_single_precision(self, setting: Setting) -> None:
        for size, mixed in ((1, False), (2, False), (8, False), (8, True)):
            loss = self.loss(self.create(setting), self.batch(size, mixed=mixed))
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert loss.requires_grad

    def test_same_state_and_seed_same_loss(self) -> None:
        first = self.create(self.setting_of("wider"))
        second = copy.deepcopy(first)
        assert torch.equal(self.loss(first, self.batch(8)), self.loss(second, self.batch(8)))

    def test_features_tell_losses_apart(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        losses = {float(self.loss(distiller, self.batch(8), seed).detach()) for seed in (1, 2, 3)}
        assert len(losses) == 3

    def test_student_that_equals_its_teacher_costs_least(self) -> None:
        if self.minimum is None:
            pytest.skip("a connector stands between student and teacher")
        distiller = self.create(self.setting_of("equal"))
        features = features_of(distiller.setting.student, distiller.reads, 8, seed=1)
        least = float(distiller(features, features, self.batch(8)))
        others = [float(self.loss(distiller, self.batch(8), seed).detach()) for seed in range(5)]
        # Rounding in single precision, against what students cost that have nothing to do with their teacher.
        assert least == pytest.approx(self.minimum, abs=1e-4 * (min(others) - self.minimum))

    # -- what learns ----------------------------------------------------------------------------

    def test_student_and_connectors_get_gradients(self, setting: Setting) -> None:
        distiller = self.create(setting)
        assert self.reached(distiller)
        for name, parameter in distiller.named_parameters():
            assert parameter.grad is not None, f"{name} is not used"
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), f"none reaches {name}"

    def test_all_that_is_read_is_learnt_from(self) -> None:
        made = [self.create(self.setting_of(pair)) for pair in self.pairs]
        assert set.union(*map(self.reached, made)) == set(made[0].reads)

    def test_says_all_that_it_reads(self) -> None:
        distiller = self.create(self.setting_of("wider"))
        taken: set[str] = set()
        student, teacher = (
            watched(features_of(shapes, READABLE, 8, seed=1), taken)
            for shapes in (distiller.setting.student, distiller.setting.teacher)
        )
        distiller(student, teacher, self.batch(8))
        unsaid = sorted(taken.difference(distiller.reads))
        assert not unsaid, f"{type(distiller).__name__} reads {', '.join(unsaid)} without saying so in `reads`"

    def test_learning_lowers_the_loss(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        student = features_of(distiller.setting.student, distiller.reads, 8, seed=1, learns=True)
        teacher = features_of(distiller.setting.teacher, distiller.reads, 8, seed=2)
        leaves = [tensor for tensors in tensors_of(student).values() for tensor in tensors]
        optimizer = torch.optim.Adam([*leaves, *distiller.parameters()], lr=0.01)
        losses = []
        for _ in range(20):
            torch.manual_seed(3)
            optimizer.zero_grad()
            losses.append(distiller(student, teacher, self.batch(8)))
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0]

    def reached(self, distiller: Distiller) -> set[str]:
        """What of the student's features the gradient reaches; the teacher's are left as they are."""
        student = features_of(distiller.setting.student, distiller.reads, 8, seed=1, learns=True)
        teacher = features_of(distiller.setting.teacher, distiller.reads, 8, seed=2)
        before = copy.deepcopy(teacher)
        distiller(student, teacher, self.batch(8)).backward()
        for name, tensors in tensors_of(teacher).items():
            assert all(torch.equal(*pair) for pair in zip(tensors, tensors_of(before)[name], strict=True))
        found = {name: [t.grad for t in tensors if t.grad is not None] for name, tensors in tensors_of(student).items()}
        assert all(gradient.isfinite().all() for gradients in found.values() for gradient in gradients)
        return {name for name, gradients in found.items() if any(gradient.any() for gradient in gradients)}

    def test_stored_state_goes_on_as_the_original(self) -> None:
        setting = self.setting_of("wider")
        first, second = self.create(setting), self.create(setting)
        optimizer = torch.optim.SGD([*first.parameters(), nn.Parameter(torch.zeros(1))], lr=1e-3)
        self.loss(first, self.batch(8)).backward()
        optimizer.step()
        assert second.load_state_dict(copy.deepcopy(first.state_dict())) == ([], [])
        for mode in (True, False):
            later = self.batch(8, start=4)
            assert torch.equal(
                self.loss(first.train(mode), later, seed=5), self.loss(second.train(mode), later, seed=5)
            )

    def test_evaluation_mode_changes_no_state(self) -> None:
        distiller = self.create(self.setting_of("wider")).eval()
        before = copy.deepcopy(distiller.state_dict())
        self.loss(distiller, self.batch(8))
        assert all(torch.equal(tensor, before[name]) for name, tensor in distiller.state_dict().items())

    def test_draws_from_torchs_generator_alone(self) -> None:
        setting = self.setting_of("wider")
        state = random_state()
        torch.manual_seed(1)
        first = self.create(setting)
        self.loss(first, self.batch(8))
        assert random_state()[:-1] == state[:-1]
        torch.manual_seed(1)
        second = self.create(setting)
        after = random_state()
        second.load_state_dict(second.state_dict())
        second.eval().train()
        assert random_state() == after
        self.loss(second, self.batch(8))
        assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in second.state_dict().items())

    # -- what it is made for --------------------------------------------------------------------

    def test_says_what_it_is_and_its_customary_numbers(self) -> None:
        made = self.create(self.setting_of("wider"))
        assert set(made.own_buffers) <= {name for name, _ in made.named_buffers()}
        distiller = type(made)
        assert (distiller.__doc__ or "").strip().splitlines()[0]
        assert all(math.isfinite(value) and value >= 0 for value in (distiller.weight, distiller.ce_weight))
        assert 0 <= distiller.warmup < 1
        options = [p for p in inspect.signature(distiller).parameters.values() if p.name != "setting"]
        assert all(json.loads(json.dumps(option.default)) == option.default for option in options)

    def test_wrong_options_are_refused_by_name(self) -> None:
        options = list(inspect.signature(type(self.create(self.setting_of("equal")))).parameters)
        assert [*self.wrong_options] == options[1:], "say what each option refuses"
        for name, values in self.wrong_options.items():
            for value in values:
                with pytest.raises(DistillerError, match=f"{name} is {re.escape(repr(value))}"):
                    self.create(self.setting_of("equal"), **{name: value})

    def test_network_without_what_it_reads_is_refused_by_name(self) -> None:
        good = shapes_of("whole", (4, 8, 8), (6, 4, 4))
        without = {
            "logits": Shapes("broken", 7, good.pooled, good.features, good.stages),
            "pooled": Shapes("broken", 5, None, good.features, good.stages),
            "features": Shapes("broken", 5, good.pooled, None, good.stages),
            "stages": Shapes("broken", 5, good.pooled, good.features, ()),
            "preactivations": Shapes("broken", 5, good.pooled, good.features, ()),
        }
        for name in self.create(self.setting_of("equal")).reads:
            for student, teacher in ((good, without[name]), (without[name], good)):
                with pytest.raises(DistillerError, match="broken"):
                    self.create(Setting(student, teacher, torch.arange(40) % 5))
