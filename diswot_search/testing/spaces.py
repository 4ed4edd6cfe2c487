"""The contract of search spaces."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import re
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from search_spaces.cost import Cost, count_cost
from search_spaces.space import Architecture, ArchitectureError, SearchSpace


def decisions_apart(first: Architecture, second: Architecture) -> int:
    """Return the number of decisions in which two architectures differ."""
    return sum(a != b for a, b in zip(first.choices, second.choices, strict=True))


class SearchSpaceContract:
    """The tests that every search space passes.

    Example:
        A file `test_my_space.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.spaces import SearchSpaceContract
        >>> class TestMySpace(SearchSpaceContract):
        ...     def create(self, **options):
        ...         return MySpace(**options)
    """

    samples: ClassVar[int] = 20
    """The number of architectures that are drawn."""
    builds: ClassVar[int] = 3
    """The number of them that are built where a test needs networks."""
    mutates_one_decision: ClassVar[bool] = True
    """Whether a mutation changes one decision; a space where that can be without effect may change more."""
    changes: ClassVar[tuple[dict[str, object], ...]] = ({"num_classes": 7}, {"input_size": (1, 32, 32)})
    """Options that each give a space other than that of `create()`."""

    def create(self, **options: object) -> SearchSpace:
        """Create the space with these options, and the others at their defaults."""
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
        for seed, architecture in enumerate(sampled):
            mutant = space.mutate(architecture, random.Random(seed))
            assert mutant in space
            apart, expected = decisions_apart(architecture, mutant), int(any(space.neighbours(architecture)))
            assert apart == expected if self.mutates_one_decision else apart >= expected
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
            changed = [
                (*architecture.choices[:position], choice, *architecture.choices[position + 1 :])
                for position, choices in enumerate(space.decisions.values())
                for choice in choices
                if choice != architecture.choices[position]
            ]
            expected = [choices for choices in changed if space.violation(choices) is None]
            assert [neighbour.choices for neighbour in neighbours] == expected
            assert len(set(neighbours)) == len(neighbours)

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
            restored = pickle.loads(pickle.dumps(architecture))
            assert restored == architecture
            assert hash(restored) == hash(architecture)
            assert str(restored) == str(architecture)
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
    def test_impossible_sizes_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            self.create(**wrong)
