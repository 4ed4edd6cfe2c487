"""Random search, evolution, ageing evolution, NSGA-II and exhaustive search, as ask and tell; algorithms by name."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, TypedDict

from deap import base, tools

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, UnknownNameError, near_names, unknown_name_message
from search_spaces.space import Architecture, SearchSpace

from .algorithm import MAX_EXHAUSTIVE, REFUSALS_PER_MUTATION, Algorithm, check_integer, check_probability, global_random
from .cost_kinds import COSTS
from .halving import SuccessiveHalving

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .records import Record


OBJECTIVES = {"score": 1.0, **dict.fromkeys(COSTS, -1.0)}
"""Fields of a record that can be objectives, with DEAP's weight: 1 is maximised, -1 minimised."""


class CommonOptions(TypedDict, total=False):
    """Arguments of `Algorithm` that every algorithm passes on."""

    seed: int
    feasible: Callable[[Architecture], bool] | None
    start: Architecture | None


_FIRST, _LARGEST = 16, 1024


def _growing(asked: int) -> int:
    """Batch size of an algorithm that does not learn: at the end of each batch, workers wait for the last candidate."""
    return max(_FIRST, min(asked, _LARGEST))


class RandomSearch(Algorithm):
    """Random: architectures drawn evenly, without replacement."""

    def suggest(self, attempt: int) -> Architecture:
        return self.draw()

    @property
    def batch_size(self) -> int:
        return _growing(len(self._asked))


class ExhaustiveSearch(Algorithm):
    """Exhaustive: every architecture in the order of the space, one of each canonical form.

    Args:
        space: The search space.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: The space has more than ten million architectures.
    """

    def __init__(self, space: SearchSpace, **common: Unpack[CommonOptions]) -> None:
        if space.size > MAX_EXHAUSTIVE:
            raise ValueError(
                f"{space.name} has {space.size:,} architectures; exhaustive takes at most {MAX_EXHAUSTIVE:,}."
            )
        super().__init__(space, **common)
        self._all = iter(space)

    def suggest(self, attempt: int) -> Architecture | None:
        return next((architecture for architecture in self._all if self.form(architecture) is not None), None)

    @property
    def batch_size(self) -> int:
        return _growing(len(self._asked))


class Fitness(base.Fitness):
    """Values of the objectives with DEAP's weights. They belong to the object, so one class serves all objectives."""

    def __init__(self, values: Sequence[float], weights: Sequence[float]) -> None:
        self.weights = tuple(weights)
        super().__init__(tuple(values))


@dataclass(eq=False)
class Individual:
    """An evaluated architecture as DEAP's operators see it."""

    architecture: Architecture
    fitness: Fitness


class PopulationSearch(Algorithm):
    """A population of evaluated architectures whose children are suggested.

    A subclass registers two functions in its toolbox: `select` (individuals, k -> parents) and `survive` (individuals,
    oldest first -> survivors). Both may draw from the global `random`, as DEAP's operators do.

    Args:
        space: The search space.
        population: Number of evenly drawn architectures at the start, and the largest number of individuals kept.
        crossover: Probability that a child has two parents rather than one.
        offspring: Number of children of one generation.
        objectives: Fields of a record that make an individual's fitness.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int,
        crossover: float,
        offspring: int,
        objectives: Sequence[str] = ("score",),
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(space, **common)
        self.population = check_integer("population", population, 2)
        self.crossover = check_probability("crossover", crossover)
        self.offspring = check_integer("offspring", offspring, 1)
        self.objectives = tuple(objectives)
        self.individuals: list[Individual] = []
        self.toolbox = base.Toolbox()
        self.toolbox.register("mate", space.crossover, rng=self.rng)
        self.toolbox.register("mutate", space.mutate, rng=self.rng)

    @property
    def batch_size(self) -> int:
        missing = self.population - len(self._asked)
        return missing if missing > 0 else self.offspring

    def suggest(self, attempt: int) -> Architecture | None:
        if len(self._asked) < self.population or not self.individuals:
            return self.draw()
        with global_random(self.rng):
            first, second = self.toolbox.select(self.individuals, k=2)
        child = first.architecture
        if self.rng.random() < self.crossover:
            child = self.toolbox.mate(child, second.architecture)
        for _ in range(1 + attempt // REFUSALS_PER_MUTATION):
            child = self.toolbox.mutate(child)
        return child

    def learn(self, evaluated: Sequence[tuple[Architecture, Record]]) -> None:
        children = [Individual(architecture, self._fitness(record)) for architecture, record in evaluated]
        with global_random(self.rng):
            self.individuals = list(self.toolbox.survive(self.individuals + children))

    def forget(self) -> None:
        self.individuals = []

    def _fitness(self, record: Record) -> Fitness:
        values = [getattr(record, objective) for objective in self.objectives]
        if None in values:
            missing = self.objectives[values.index(None)]
            raise ValueError(f"{record.architecture!r} was told without a value of {missing}, which is an objective.")
        return Fitness(values, [OBJECTIVES[objective] for objective in self.objectives])


class Evolution(PopulationSearch):
    """Evolution of the best: tournaments among the best architectures so far, crossover, mutation.

    Source: Dong et al., CVPR 2023. The defaults are the released population and tournament. Unlike the released code,
    parents come from the best individuals, and every child is within the budget.

    Args:
        space: The search space.
        population: Number of evenly drawn architectures at the start, and of the best that are kept.
        tournament: Number of individuals in a tournament, the best of which becomes a parent.
        crossover: Probability that a child has two parents rather than one.
        offspring: Number of children of one generation.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 36,
        tournament: int = 8,
        crossover: float = 0.5,
        offspring: int = 4,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(space, population=population, crossover=crossover, offspring=offspring, **common)
        self.tournament = check_integer("tournament", tournament, 1, ("population", population))
        self.toolbox.register("select", tools.selTournament, tournsize=tournament)
        self.toolbox.register("survive", tools.selBest, k=population)


class AgeingEvolution(PopulationSearch):
    """Ageing evolution: the best of a sample is mutated, and the oldest individual dies, however good it is.

    Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019.

    Args:
        space: The search space.
        population: Number of evenly drawn architectures at the start, and of the youngest that are kept.
        sample: Number of individuals drawn for a child, the best of which becomes its parent.
        offspring: Number of children of one generation.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 36,
        sample: int = 8,
        offspring: int = 4,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(space, population=population, crossover=0.0, offspring=offspring, **common)
        self.sample = check_integer("sample", sample, 1, ("population", population))
        self.toolbox.register("select", tools.selTournament, tournsize=sample)
        self.toolbox.register("survive", operator.itemgetter(slice(-population, None)))


class NSGA2(PopulationSearch):
    """NSGA-II: the whole Pareto front of score against parameters, multiply-accumulates, latency, memory or size.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.

    Args:
        space: The search space.
        population: Number of evenly drawn architectures at the start, of survivors, and of children of one generation.
        crossover: Probability that a child has two parents rather than one.
        objectives: "score" and at least one of "params", "macs", "latency_ms", "memory_mb" and "size_mb".
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: A number is out of range, or the objectives are not as above.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 20,
        crossover: float = 0.5,
        objectives: Sequence[str] = ("score", "params"),
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            space,
            population=population,
            crossover=crossover,
            offspring=population,
            objectives=_objectives(objectives),
            **common,
        )
        self.toolbox.register("select", _crowded_tournament)
        self.toolbox.register("survive", _nondominated, k=population)


def _crowded_tournament(individuals: list[Individual], k: int) -> list[Individual]:
    """Up to four parents, each the better of two. DEAP's operator needs at least four individuals to choose from."""
    if len(individuals) < 4:
        return tools.selRandom(individuals, k)
    return tools.selTournamentDCD(individuals, 4)[:k]


def _nondominated(individuals: list[Individual], k: int) -> list[Individual]:
    """The best fronts. DEAP's pairwise sort suits one generation but is too slow for everything ever scored."""
    return tools.selNSGA2(individuals, k, nd="standard" if len(individuals) <= 2 * k else "log")


def _objectives(names: Sequence[str]) -> Sequence[str]:
    are_fields = not isinstance(names, str) and all(name in OBJECTIVES for name in names)
    if not are_fields or "score" not in names or len(names) < 2 or len(set(names)) < len(names):
        others = ", ".join(repr(name) for name in OBJECTIVES if name != "score")
        raise ValueError(f"objectives is {names!r}; it must be 'score' and at least one of {others}, each once.")
    return names


# -- by name ------------------------------------------------------------------------------------


def _adopt(name: str, value: object) -> type[Algorithm]:
    """The algorithm that a user's own code has under a name."""
    if isinstance(value, type) and issubclass(value, Algorithm) and not inspect.isabstract(value):
        return value
    raise OwnCodeError(f"{name} is no algorithm; it must be a class that inherits from Algorithm and has `suggest`.")


_algorithms: Registry[type[Algorithm]] = Registry("algorithm", _adopt)

_algorithms.register("evolution", Evolution)
_algorithms.register("ageing", AgeingEvolution)
_algorithms.register("nsga2", NSGA2)
_algorithms.register("random", RandomSearch)
_algorithms.register("exhaustive", ExhaustiveSearch)
_algorithms.register("halving", SuccessiveHalving)


def get_algorithm(name: str) -> type[Algorithm]:
    """The class of an algorithm: of a registered name, or of `module:name` or `file.py:name`.

    Raises:
        UnknownNameError: There is no such algorithm; the message names those that come near.
    """
    return _algorithms[name]


def list_algorithms(pattern: str = "*") -> list[str]:
    """Names of the algorithms that match a shell pattern, in order of registration.

    Raises:
        UnknownNameError: No name matches; the message lists near names.

    Example:
        >>> "random" in list_algorithms()
        True
    """
    names = [name for name in _algorithms if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError(unknown_name_message("algorithm", pattern, _algorithms))
    return names


def register_algorithm(name: str, algorithm: type[Algorithm]) -> None:
    """Make an algorithm known by name. The keyword arguments of its constructor become its options.

    Args:
        name: The new name.
        algorithm: A subclass of `Algorithm`, which shows an example.

    Raises:
        ValueError: The name is taken.
    """
    _algorithms.register(name, algorithm)


def create_algorithm(
    name: str,
    space: SearchSpace,
    *,
    seed: int = 0,
    feasible: Callable[[Architecture], bool] | None = None,
    start: Architecture | None = None,
    **options: object,
) -> Algorithm:
    """Make an algorithm by name.

    Args:
        name: One of `list_algorithms()`, or a class of your own as `module:name` or `file.py:name`.
        space: The search space.
        seed: Seed of all random choices.
        feasible: Whether an architecture is within the budget; by default all are.
        start: A feasible architecture, for a space in which even draws rarely find one.
        options: Options of the algorithm, which its class documents.

    Returns:
        The algorithm, ready to `ask`.

    Raises:
        UnknownNameError: There is no such algorithm; the message names those that come near.
        ValueError: The algorithm has no such option, or the value of an option is not allowed.

    Example:
        >>> from diswot_search.study.algorithms import create_algorithm
        >>> from search_spaces import create_space
        >>> create_algorithm("evolution", create_space("cifar_resnet_s0"), population=20).population
        20
    """
    algorithm = _algorithms[name]
    allowed = option_names(algorithm)
    for option in options:
        if option not in allowed:
            near = near_names(option, allowed)
            hint = f"near: {', '.join(near)}; " if near else ""
            raise ValueError(
                f"The algorithm {name!r} has no option {option!r}; {hint}allowed: {', '.join(allowed) or 'none'}."
            )
    return algorithm(space, seed=seed, feasible=feasible, start=start, **options)


def option_names(algorithm: type[Algorithm]) -> list[str]:
    """Names of the options of an algorithm, without those that all algorithms share."""
    common = inspect.signature(Algorithm).parameters
    parameters = inspect.signature(algorithm).parameters.values()
    return [p.name for p in parameters if p.name not in common and p.kind is not p.VAR_KEYWORD]
