"""Search algorithms as ask and tell: evolution, ageing evolution, NSGA-II, random and exhaustive.

An algorithm proposes architectures (`ask`) and learns from their records (`tell`). It proposes only feasible and
trainable architectures, and none whose canonical form it has proposed before. With the same seed and the same records
it makes the same proposals, so a study resumes by replaying its records. If scores are relative to the other scored
architectures, as with an aggregate, the algorithm learns anew from all records each time.

Example:
    >>> from diswot_search.evolution import create_algorithm
    >>> from search_spaces import create_space
    >>> algorithm = create_algorithm("random", create_space("cifar_resnet_s0"), seed=0)
    >>> len(algorithm.ask())
    16
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deap import base, tools

from search_spaces import Architecture, SearchSpace
from search_spaces.registry import Registry, near_names

if TYPE_CHECKING:
    from .evaluation import Record

_MAX_SUGGESTIONS = 100
"""Suggestions that are tried for one proposal before random draws take over, and after those an enumeration."""
_REFUSALS_PER_MUTATION = 10
"""Refused children of a population after which the next ones are mutated once more."""
_MAX_ENUMERATED = 20_000
"""Size of the largest space whose remainder is enumerated when draws find nothing new."""
_MAX_EXHAUSTIVE = 10_000_000
"""Size of the largest space that `exhaustive` accepts."""
OBJECTIVES = {"score": 1.0, "params": -1.0, "macs": -1.0, "latency_ms": -1.0}
"""Fields of a record that can be objectives, with DEAP's weight: 1 is maximised, -1 minimised."""


class Algorithm(ABC):
    """Proposes the architectures to evaluate next.

    A new algorithm defines `suggest`, and also `learn` and `forget` if it learns from scores. An architecture is
    proposed in its canonical form if that is feasible, and as suggested otherwise.

    Args:
        space: The search space.
        seed: Seed of all random choices.
        feasible: Whether an architecture is within the budget; by default all are. It must be a pure function.
        start: A feasible architecture. A random walk from it finds feasible architectures when even draws rarely do.

    Raises:
        ValueError: `start` is not feasible.

    Example:
        An algorithm of your own, known by name after registration::

            class Backwards(ds.Algorithm):
                def __init__(self, space, **common):
                    super().__init__(space, **common)
                    self._remaining = reversed(list(space))

                def suggest(self, attempt):
                    return next(self._remaining, None)

            ds.register_algorithm("backwards", Backwards)
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        feasible: Callable[[Architecture], bool] | None = None,
        start: Architecture | None = None,
    ) -> None:
        self.space = space
        self.rng = random.Random(seed)
        # A walk asks twice about the same architecture, and counting its cost takes time.
        self._feasible = functools.lru_cache(maxsize=1024)(feasible or (lambda architecture: True))
        if start is not None and not self._feasible(start):
            raise ValueError(f"start is {str(start)!r}, which is not feasible; it must be within the budget.")
        self._position = start
        self._misses = 0
        self._asked: set[tuple[object, ...]] = set()
        self._pending: dict[str, Architecture] = {}
        self._told: dict[str, Architecture] = {}  # used only if scores are relative
        self._rest: list[int] | None = None

    # -- what an algorithm defines --------------------------------------------------------------

    @abstractmethod
    def suggest(self, attempt: int) -> Architecture | None:
        """Suggest an architecture to propose.

        A suggestion that is infeasible, untrainable or not new is refused, and another one is asked for.

        Args:
            attempt: Number of suggestions refused in a row before this one. The higher it is, the more random the
                suggestion should be.

        Returns:
            The architecture, or None if there are no more.
        """

    def learn(self, evaluated: Sequence[tuple[Architecture, Record]]) -> None:  # noqa: B027 - optional
        """Learn from evaluated architectures and their records, in the order of asking, without failed ones."""

    def forget(self) -> None:
        """Drop everything that `learn` has learned, because the scores of an aggregate change with each new record.

        Raises:
            ValueError: The algorithm defines `learn` but not this method.
        """
        if self._learns:
            raise ValueError(
                f"{type(self).__name__} defines `learn` but not `forget`, so it cannot follow an aggregate, whose "
                "scores change with everything that is scored."
            )

    @property
    def _learns(self) -> bool:
        return type(self).learn is not Algorithm.learn

    @property
    def batch_size(self) -> int:
        """Number of architectures that the next `ask` proposes."""
        return 1

    # -- ask and tell ---------------------------------------------------------------------------

    def ask(self) -> list[Architecture]:
        """Propose architectures to evaluate.

        Returns:
            `batch_size` architectures, or fewer if nothing else is left. An empty list means that the space is
            exhausted or, for a space too large to enumerate, that many draws gave nothing new.
        """
        proposals: list[Architecture] = []
        for _ in range(self.batch_size):
            proposal = self._propose()
            if proposal is None:
                break
            proposals.append(proposal)
            self._pending[str(proposal)] = proposal
        return proposals

    def tell(self, records: Sequence[Record], *, scored: Iterable[Record] | None = None) -> None:
        """Learn from the records of proposed architectures. A failed one only ceases to be pending.

        Args:
            records: The new records, in the order of asking.
            scored: All records with a score so far, the new ones included, in the order of asking, each with its
                current score. They are given if scores are relative to each other, and replace everything learned.

        Raises:
            ValueError: A record belongs to an architecture that was not proposed, or was told before.
        """
        evaluated = []
        for record in records:
            architecture = self._pending.pop(record.architecture, None)
            if architecture is None:
                raise ValueError(f"{record.architecture!r} was told, but no proposal of it waits for a record.")
            if record.status == "ok":
                evaluated.append((architecture, record))
        if not evaluated or not self._learns:
            return
        if scored is not None:
            self._told |= {record.architecture: architecture for architecture, record in evaluated}
            evaluated = [(self._told[record.architecture], record) for record in scored]
            self.forget()
        self.learn(evaluated)

    # -- proposals ------------------------------------------------------------------------------

    def draw(self) -> Architecture:
        """Draw an architecture evenly from the space, or from its feasible part if even draws rarely hit that.

        The feasible part is sampled by a walk that stays in place when the next step is infeasible. In the long run it
        visits all feasible architectures in its reach equally often, because a mutation is as likely as its reverse.
        """
        if self._misses < _MAX_SUGGESTIONS or self._position is None:
            architecture = self.space.sample(self.rng)
            self._misses = 0 if self._feasible(architecture) else self._misses + 1
            return architecture
        for _ in range(2 * len(self.space.decisions)):
            step = self.space.mutate(self._position, self.rng)
            if self._feasible(step):
                self._position = step
        return self._position

    def form(self, architecture: Architecture) -> Architecture | None:
        """The form in which an architecture may be proposed, or None if it may not be proposed."""
        canonical = self.space.canonical(architecture)
        if canonical.choices in self._asked or not self.space.is_trainable(architecture):
            return None
        return next((form for form in (canonical, architecture) if self._feasible(form)), None)

    def _propose(self) -> Architecture | None:
        for attempt in range(_MAX_SUGGESTIONS):
            suggestion = self.suggest(attempt)
            if suggestion is None:
                return None
            if (proposal := self._admit(suggestion)) is not None:
                return proposal
        for _ in range(_MAX_SUGGESTIONS):
            if (proposal := self._admit(self.draw())) is not None:
                return proposal
        return self._next_of_rest()

    def _next_of_rest(self) -> Architecture | None:
        """The next new architecture of the whole space, in random order."""
        if self._rest is None:
            self._rest = list(range(self.space.size if self.space.size <= _MAX_ENUMERATED else 0))
            self.rng.shuffle(self._rest)
        while self._rest:
            if (proposal := self._admit(_architecture_at(self.space, self._rest.pop()))) is not None:
                return proposal
        return None

    def _admit(self, architecture: Architecture) -> Architecture | None:
        """The form to propose, which is remembered as proposed, or None."""
        form = self.form(architecture)
        if form is not None:
            self._asked.add(self.space.canonical(form).choices)
            self._position = self._position or form
        return form


def _architecture_at(space: SearchSpace, index: int) -> Architecture:
    """The architecture at an index of the space's order."""
    choices = []
    for allowed in reversed(space.decisions.values()):
        index, position = divmod(index, len(allowed))
        choices.append(allowed[position])
    return space.architecture(choices[::-1])


class RandomSearch(Algorithm):
    """Random: architectures drawn evenly, without replacement."""

    def suggest(self, attempt: int) -> Architecture:
        return self.draw()

    @property
    def batch_size(self) -> int:
        return 16


class ExhaustiveSearch(Algorithm):
    """Exhaustive: every architecture in the order of the space, one of each canonical form.

    Args:
        space: The search space.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: The space has more than ten million architectures.
    """

    def __init__(self, space: SearchSpace, **common: Any) -> None:
        if space.size > _MAX_EXHAUSTIVE:
            raise ValueError(
                f"{space.name} has {space.size:,} architectures; exhaustive takes at most {_MAX_EXHAUSTIVE:,}."
            )
        super().__init__(space, **common)
        self._all = iter(space)

    def suggest(self, attempt: int) -> Architecture | None:
        return next((architecture for architecture in self._all if self.form(architecture) is not None), None)

    @property
    def batch_size(self) -> int:
        return 16


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
        **common: Any,
    ) -> None:
        super().__init__(space, **common)
        self.population = _integer("population", population, 2)
        self.crossover = _probability("crossover", crossover)
        self.offspring = _integer("offspring", offspring, 1)
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
        with _global_random(self.rng):
            first, second = self.toolbox.select(self.individuals, k=2)
        child = first.architecture
        if self.rng.random() < self.crossover:
            child = self.toolbox.mate(child, second.architecture)
        for _ in range(1 + attempt // _REFUSALS_PER_MUTATION):
            child = self.toolbox.mutate(child)
        return child

    def learn(self, evaluated: Sequence[tuple[Architecture, Record]]) -> None:
        children = [Individual(architecture, self._fitness(record)) for architecture, record in evaluated]
        with _global_random(self.rng):
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
        **common: Any,
    ) -> None:
        super().__init__(space, population=population, crossover=crossover, offspring=offspring, **common)
        self.tournament = _integer("tournament", tournament, 1, ("population", population))
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
        self, space: SearchSpace, *, population: int = 36, sample: int = 8, offspring: int = 4, **common: Any
    ) -> None:
        super().__init__(space, population=population, crossover=0.0, offspring=offspring, **common)
        self.sample = _integer("sample", sample, 1, ("population", population))
        self.toolbox.register("select", tools.selTournament, tournsize=sample)
        self.toolbox.register("survive", operator.itemgetter(slice(-population, None)))


class NSGA2(PopulationSearch):
    """NSGA-II: the whole Pareto front of score against parameters, multiply-accumulates or latency.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.

    Args:
        space: The search space.
        population: Number of evenly drawn architectures at the start, of survivors, and of children of one generation.
        crossover: Probability that a child has two parents rather than one.
        objectives: "score" and at least one of "params", "macs" and "latency_ms".
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
        **common: Any,
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


@contextlib.contextmanager
def _global_random(rng: random.Random) -> Iterator[None]:
    """Make DEAP, which draws from the global `random`, draw from `rng`, and restore the global state."""
    saved = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(saved)


# -- options ------------------------------------------------------------------------------------


def _integer(name: str, value: int, least: int, most: tuple[str, int] | None = None) -> int:
    limit = f" and at most {most[0]}, which is {most[1]}" if most else ""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most and value > most[1]):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}{limit}.")
    return value


def _probability(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must be a probability from 0 to 1.")
    return value


def _objectives(names: Sequence[str]) -> Sequence[str]:
    are_fields = not isinstance(names, str) and all(name in OBJECTIVES for name in names)
    if not are_fields or "score" not in names or len(names) < 2 or len(set(names)) < len(names):
        others = ", ".join(repr(name) for name in OBJECTIVES if name != "score")
        raise ValueError(f"objectives is {names!r}; it must be 'score' and at least one of {others}, each once.")
    return names


# -- by name ------------------------------------------------------------------------------------

_algorithms: Registry[type[Algorithm]] = Registry("algorithm")
_algorithms.register("evolution", Evolution)
_algorithms.register("ageing", AgeingEvolution)
_algorithms.register("nsga2", NSGA2)
_algorithms.register("random", RandomSearch)
_algorithms.register("exhaustive", ExhaustiveSearch)


def list_algorithms() -> list[str]:
    """Names of the algorithms that `create_algorithm` can make, in order of registration."""
    return list(_algorithms)


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
    **options: Any,
) -> Algorithm:
    """Make an algorithm by name.

    Args:
        name: One of `list_algorithms()`.
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
        >>> from diswot_search.evolution import create_algorithm
        >>> from search_spaces import create_space
        >>> create_algorithm("evolution", create_space("cifar_resnet_s0"), population=20).population
        20
    """
    algorithm = _algorithms[name]
    allowed = _option_names(algorithm)
    for option in options:
        if option not in allowed:
            near = near_names(option, allowed)
            hint = f"near: {', '.join(near)}; " if near else ""
            raise ValueError(
                f"The algorithm {name!r} has no option {option!r}; {hint}allowed: {', '.join(allowed) or 'none'}."
            )
    return algorithm(space, seed=seed, feasible=feasible, start=start, **options)


def _option_names(algorithm: type[Algorithm]) -> list[str]:
    common = inspect.signature(Algorithm).parameters
    parameters = inspect.signature(algorithm).parameters.values()
    return [p.name for p in parameters if p.name not in common and p.kind is not p.VAR_KEYWORD]
