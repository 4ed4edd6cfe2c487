"""Search algorithms as ask and tell: evolution, ageing evolution, NSGA-II, random and exhaustive.

An algorithm proposes architectures (`ask`) and learns from their records (`tell`). It proposes only what is
feasible and trainable, and nothing whose canonical form it proposed before. With the same seed and the same
records told it proposes the same, so a study resumes by replaying its records. Where scores are relative to what else
was scored, it learns anew from all records whenever it is told of some.
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

RETRIES = 100
"""Suggestions that one proposal tries before it turns to a blinder way."""
PATIENCE = 10
"""Refused children of a population after which the next ones are mutated once more."""
ENUMERABLE = 20_000
"""Architectures of the largest space whose remainder is enumerated when draws find nothing new."""
EXHAUSTIBLE = 10_000_000
"""Architectures of the largest space that `exhaustive` takes."""
OBJECTIVES = {"score": 1.0, "params": -1.0, "macs": -1.0, "latency_ms": -1.0}
"""Fields of a record that can be objectives, with DEAP's weight: 1 is maximised, -1 minimised."""


class Algorithm(ABC):
    """Proposes what to evaluate next. A new algorithm defines `suggest`, and `learn` and `forget` if it learns.

    Architectures are proposed in their canonical form where that is feasible, else as suggested.

    Args:
        space: Where to search.
        seed: Seed of all that is random.
        feasible: Whether an architecture is within the budget; by default all are. It must always answer the same.
        start: A feasible architecture, from which the feasible ones are explored where drawing evenly seldom hits one.

    Raises:
        ValueError: `start` is not feasible.
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
        # Walks ask twice about the same architecture, and a counted cost is not cheap.
        self._feasible = functools.lru_cache(maxsize=1024)(feasible or (lambda architecture: True))
        if start is not None and not self._feasible(start):
            raise ValueError(f"start is {str(start)!r}, which is not feasible.")
        self._position = start
        self._misses = 0
        self._asked: set[tuple[object, ...]] = set()
        self._pending: dict[str, Architecture] = {}
        self._told: dict[str, Architecture] = {}  # only where scores are relative
        self._rest: list[int] | None = None

    # -- what an algorithm defines --------------------------------------------------------------

    @abstractmethod
    def suggest(self, attempt: int) -> Architecture | None:
        """An architecture that may be worth proposing, or None where there are no more.

        What is infeasible, untrainable or known is refused, and another one asked for.

        Args:
            attempt: Suggestions refused in a row before this one; the more, the more random it should be.
        """

    def learn(self, evaluated: Sequence[tuple[Architecture, Record]]) -> None:  # noqa: B027 - some learn nothing
        """Take in evaluated architectures, in the order of asking; failed ones are not among them."""

    def forget(self) -> None:
        """Drop all that `learn` took in: the scores of an aggregate change, and are learned anew.

        Raises:
            ValueError: The algorithm learns and does not define this.
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
        """Architectures that the next `ask` proposes."""
        return 1

    # -- ask and tell ---------------------------------------------------------------------------

    def ask(self) -> list[Architecture]:
        """Propose architectures to evaluate.

        Returns:
            As many as suit the algorithm, fewer where nothing else is left. None at all means that the space is
            exhausted, or, for a space too large to enumerate, that many draws gave nothing new.
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
        """Learn from records, in the order of asking; failed ones are only noted as done.

        Args:
            records: What is new.
            scored: Where scores are relative to what else was scored: all that has a score so far, the new ones
                included, in the order of asking, each with its score of now. They replace all that was learned.

        Raises:
            ValueError: A record of an architecture that was not asked, or was told before.
        """
        evaluated = []
        for record in records:
            architecture = self._pending.pop(record.architecture, None)
            if architecture is None:
                raise ValueError(f"{record.architecture!r} was told but is not among those asked and not yet told.")
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
        """An architecture drawn evenly from the space, or from its feasible part where that is rare.

        A walk that stays where the next step is infeasible visits all feasible architectures that it can
        reach equally often in the long run, because a mutation is as likely as its reverse.
        """
        if self._misses < RETRIES or self._position is None:
            architecture = self.space.sample(self.rng)
            self._misses = 0 if self._feasible(architecture) else self._misses + 1
            return architecture
        for _ in range(2 * len(self.space.decisions)):
            step = self.space.mutate(self._position, self.rng)
            if self._feasible(step):
                self._position = step
        return self._position

    def form(self, architecture: Architecture) -> Architecture | None:
        """The form in which an architecture may be proposed; None if it may not."""
        canonical = self.space.canonical(architecture)
        if canonical.choices in self._asked or not self.space.is_trainable(architecture):
            return None
        return next((form for form in (canonical, architecture) if self._feasible(form)), None)

    def _propose(self) -> Architecture | None:
        for attempt in range(RETRIES):
            suggestion = self.suggest(attempt)
            if suggestion is None:
                return None
            if (found := self._admit(suggestion)) is not None:
                return found
        for _ in range(RETRIES):
            if (found := self._admit(self.draw())) is not None:
                return found
        return self._next_of_rest()

    def _next_of_rest(self) -> Architecture | None:
        """The next new one of the whole space in random order."""
        if self._rest is None:
            self._rest = list(range(self.space.size if self.space.size <= ENUMERABLE else 0))
            self.rng.shuffle(self._rest)
        while self._rest:
            if (found := self._admit(_architecture_at(self.space, self._rest.pop()))) is not None:
                return found
        return None

    def _admit(self, architecture: Architecture) -> Architecture | None:
        """The form to propose, noted as asked."""
        form = self.form(architecture)
        if form is not None:
            self._asked.add(self.space.canonical(form).choices)
            self._position = self._position or form
        return form


def _architecture_at(space: SearchSpace, index: int) -> Architecture:
    """The architecture at a place of the space's order."""
    choices = []
    for allowed in reversed(space.decisions.values()):
        index, place = divmod(index, len(allowed))
        choices.append(allowed[place])
    return space.architecture(choices[::-1])


class RandomSearch(Algorithm):
    """Random: architectures drawn evenly, without replacement."""

    def suggest(self, attempt: int) -> Architecture:
        return self.draw()

    @property
    def batch_size(self) -> int:
        return 16


class ExhaustiveSearch(Algorithm):
    """Exhaustive: every architecture in the order of the space; of those that are equal, one.

    Raises:
        ValueError: The space is too large for that.
    """

    def __init__(self, space: SearchSpace, **common: Any) -> None:
        if space.size > EXHAUSTIBLE:
            raise ValueError(
                f"{space.name} has {space.size:,} architectures; exhaustive takes spaces of at most {EXHAUSTIBLE:,}."
            )
        super().__init__(space, **common)
        self._all = iter(space)

    def suggest(self, attempt: int) -> Architecture | None:
        return next((architecture for architecture in self._all if self.form(architecture) is not None), None)

    @property
    def batch_size(self) -> int:
        return 16


class Fitness(base.Fitness):
    """Values of the objectives with DEAP's weights, here of the object: no class per set of objectives."""

    def __init__(self, values: Sequence[float], weights: Sequence[float]) -> None:
        self.weights = tuple(weights)
        super().__init__(tuple(values))


@dataclass(eq=False)
class Individual:
    """An evaluated architecture as DEAP's operators see it."""

    architecture: Architecture
    fitness: Fitness


class PopulationSearch(Algorithm):
    """A population of evaluated architectures, whose children are suggested.

    A subclass registers in its toolbox `select` (individuals, k -> parents) and `survive` (individuals, oldest
    first -> those that stay), both of which may draw from the global `random` as DEAP's operators do.

    Args:
        space: Where to search.
        population: Evenly drawn architectures at the start, and the most that are kept.
        crossover: Probability that a child has two parents rather than one.
        offspring: Children of one generation.
        objectives: Fields of a record that make an individual's fitness.
        common: See `Algorithm`.
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
        for _ in range(1 + attempt // PATIENCE):
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
            raise ValueError(f"{record.architecture!r} was told without {missing}, which is an objective.")
        return Fitness(values, [OBJECTIVES[objective] for objective in self.objectives])


class Evolution(PopulationSearch):
    """Evolution of the best: tournaments among the best architectures so far, crossover, mutation.

    Source: Dong et al., CVPR 2023, whose released population and tournament are the defaults; parents are taken
    from the best, and the budget binds every child.

    Args:
        space: Where to search.
        population: Evenly drawn architectures at the start, and the best that are kept.
        tournament: Individuals drawn for a tournament, whose best becomes a parent.
        crossover: Probability that a child has two parents rather than one.
        offspring: Children of one generation.
        common: See `Algorithm`.
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
    """Ageing evolution: the best of a sample is mutated, and the oldest dies, however good.

    Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019.

    Args:
        space: Where to search.
        population: Evenly drawn architectures at the start, and the youngest that are kept.
        sample: Individuals drawn for a child, whose best becomes its parent.
        offspring: Children of one generation.
        common: See `Algorithm`.
    """

    def __init__(
        self, space: SearchSpace, *, population: int = 36, sample: int = 8, offspring: int = 4, **common: Any
    ) -> None:
        super().__init__(space, population=population, crossover=0.0, offspring=offspring, **common)
        self.sample = _integer("sample", sample, 1, ("population", population))
        self.toolbox.register("select", tools.selTournament, tournsize=sample)
        self.toolbox.register("survive", operator.itemgetter(slice(-population, None)))


class NSGA2(PopulationSearch):
    """NSGA-II: score against size, work or latency, for the whole Pareto front.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.

    Args:
        space: Where to search.
        population: Evenly drawn architectures at the start, those kept, and children of one generation.
        crossover: Probability that a child has two parents rather than one.
        objectives: "score" and at least one of "params", "macs" and "latency_ms".
        common: See `Algorithm`.
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
    """Up to four parents, each the better of two; DEAP's operator needs four individuals to choose among."""
    if len(individuals) < 4:
        return tools.selRandom(individuals, k)
    return tools.selTournamentDCD(individuals, 4)[:k]


def _nondominated(individuals: list[Individual], k: int) -> list[Individual]:
    """The best fronts. A generation is sorted pair by pair; all that was ever scored would take too long so."""
    return tools.selNSGA2(individuals, k, nd="standard" if len(individuals) <= 2 * k else "log")


@contextlib.contextmanager
def _global_random(rng: random.Random) -> Iterator[None]:
    """Let DEAP, which draws from the global `random`, draw from `rng`; the global state is put back."""
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
    known = not isinstance(names, str) and all(name in OBJECTIVES for name in names)
    if not known or "score" not in names or len(names) < 2 or len(set(names)) < len(names):
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
    """Names that `create_algorithm` knows."""
    return list(_algorithms)


def register_algorithm(name: str, algorithm: type[Algorithm]) -> None:
    """Make an algorithm known by name; the keyword arguments of its constructor become its options.

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
        name: One of `list_algorithms`.
        space: Where to search.
        seed: Seed of all that is random.
        feasible: See `Algorithm`.
        start: See `Algorithm`.
        options: The algorithm's own, see its class.

    Raises:
        UnknownNameError: There is no such algorithm.
        ValueError: The algorithm has no such option, or the option no such value.
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
