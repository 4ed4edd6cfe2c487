"""The contract of search algorithms."""

from __future__ import annotations

import contextlib
import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from search_spaces.option_types import LARGEST_NUMBER
from search_spaces.space import Architecture, SearchSpace

from .records import Record, Score

MAX_SUGGESTIONS = 100
"""Suggestions that are tried for one proposal before random draws take over, and after those an enumeration."""


REFUSALS_PER_MUTATION = 10
"""Refused children of a population after which the next ones are mutated once more."""


MAX_ENUMERATED = 20_000
"""Size of the largest space whose remainder is enumerated when draws find nothing new."""


MAX_EXHAUSTIVE = 10_000_000
"""Size of the largest space that `exhaustive` accepts."""


class Algorithm(ABC):
    """Proposes the architectures to evaluate next.

    A new algorithm defines `suggest`, and also `learn` and `forget` if it learns from scores. An architecture is
    proposed in its canonical form if that is feasible, and as suggested otherwise.

    Args:
        space: The search space.
        seed: Seed of all random choices.
        feasible: Whether an architecture is within the budget; by default all are. It must be a pure function.
        start: A feasible architecture. A random walk from it finds feasible architectures when even draws rarely do.

    Attributes:
        budget: Share of a whole evaluation that the last proposals are to get; 1 but for algorithms that have budgets.
        patience: Number of architectures over the budget in a row after which the next such ones are repaired: brought
            to the budget by choices of `start`. None, the default, refuses them and walks from `start` instead; that
            draws evenly, but asks about many architectures. It is set where the budget takes long to check.

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

    has_budgets: ClassVar[bool] = False
    """Whether it proposes architectures again, to be evaluated with a larger `budget`."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        feasible: Callable[[Architecture], bool] | None = None,
        start: Architecture | None = None,
    ) -> None:
        self.space = space
        self.budget = 1.0
        self.rng = random.Random(seed)
        # A walk asks twice about the same architecture, and counting its cost takes time.
        self._feasible = functools.lru_cache(maxsize=1024)(feasible or (lambda architecture: True))
        if start is not None and not self._feasible(start):
            raise ValueError(f"start is {str(start)!r}, which is not feasible; it must be within the budget.")
        self.patience: int | None = None
        self._start = self._position = start
        self._misses = 0
        self._asked: set[tuple[object, ...]] = set()
        self._pending: dict[str, Architecture] = {}
        self._told: dict[str, Architecture] = {}  # used only if scores are relative
        self._rest: list[int] | None = None
        self._scores_told = 0

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

    def ask(self, most: int | None = None) -> list[Architecture]:
        """Propose architectures to evaluate.

        Args:
            most: Largest number of them; by default `batch_size`.

        Returns:
            `batch_size` architectures, or fewer if nothing else is left or fewer are wanted. An empty list means that
            the space is exhausted or, for a space too large to enumerate, that many draws gave nothing new.
        """
        proposals: list[Architecture] = []
        for _ in range(self.batch_size if most is None else min(most, self.batch_size)):
            proposal = self._propose()
            if proposal is None:
                break
            proposals.append(proposal)
            self._pending[str(proposal)] = proposal
        return proposals

    def tell(self, records: Sequence[Record] | Sequence[Score], *, scored: Iterable[Record] | None = None) -> None:
        """Learn from the scores of proposed architectures. A failed one only ceases to be pending.

        Args:
            records: The new records, in the order of asking; or scores as `Evaluator.evaluate` gives them, which belong
                to the architectures that have waited longest. An algorithm that learns gets the architectures' own
                parameters and multiply-accumulates with them, but no latency.
            scored: All records with a score so far, the new ones included, in the order of asking, each with its
                current score. They are given if scores are relative to each other, and replace everything learned.

        Raises:
            ValueError: A record belongs to an architecture that was not proposed, or was told before; there are more
                scores than architectures that wait; or a score is that of an aggregate, which ranks many together.

        Example:
            >>> import diswot_search as ds
            >>> space = ds.create_space("nasbench201", channels=4, cells=1)
            >>> evaluator = ds.Evaluator(space, None, ds.create_probe("digits", batch_size=4), "params", device="cpu")
            >>> algorithm = ds.create_algorithm("random", space)
            >>> algorithm.tell(evaluator.evaluate(algorithm.ask()))
        """
        evaluated = []
        for record in self._as_records(records):
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

    def _as_records(self, told: Sequence[Record] | Sequence[Score]) -> Iterator[Record]:
        """The records, those of plain scores made for the architectures that have waited longest."""
        waiting = list(self._pending.values())
        scores = [one for one in told if not isinstance(one, Record)]
        if len(scores) > len(waiting):
            raise ValueError(f"{len(scores)} scores were told, but {len(waiting)} proposals wait for one.")
        if any(score.status == "ok" and score.score is None for score in scores):
            raise ValueError(
                "A score of an aggregate has no value of its own; tell records, and all that are `scored`."
            )
        proposals = iter(waiting)
        for one in told:
            if isinstance(one, Record):
                yield one
                continue
            architecture = next(proposals)
            cost = self.space.cost(architecture) if self._learns and one.status == "ok" else None
            self._scores_told += 1
            yield Record(
                **vars(one),
                index=self._scores_told - 1,
                architecture=str(architecture),
                canonical=str(self.space.canonical(architecture)),
                params=cost.params if cost else None,
                macs=cost.macs if cost else None,
            )

    # -- proposals ------------------------------------------------------------------------------

    def draw(self) -> Architecture:
        """Draw an architecture evenly from the space, or from its feasible part if even draws rarely hit that.

        The feasible part is sampled by a walk that stays in place when the next step is infeasible. In the long run it
        visits all feasible architectures in its reach equally often, because a mutation is as likely as its reverse.
        """
        if self._start is not None and self.patience is not None and self._misses >= self.patience:
            return self._repaired(self.space.sample(self.rng))
        if self._misses < MAX_SUGGESTIONS or self._position is None:
            architecture = self.space.sample(self.rng)
            self._misses = 0 if self._feasible(architecture) else self._misses + 1
            return architecture
        for _ in range(2 * len(self.space.decisions)):
            step = self.space.mutate(self._position, self.rng)
            if self._feasible(step):
                self._position = step
        return self._position

    def _repaired(self, architecture: Architecture) -> Architecture:
        """The architecture if it is within the budget, or else one between it and `start` that just is.

        As few as possible of its choices, in random order, become those of `start`; how many is found by halving.
        """
        assert self._start is not None
        if self._is_asked(architecture) or self._feasible(architecture):
            return architecture
        repaired, choices = self._start, self._start.choices
        differing = [place for place, choice in enumerate(choices) if choice != architecture.choices[place]]
        self.rng.shuffle(differing)
        over, within = 0, len(differing)
        while within - over > 1:
            middle = (over + within) // 2
            changed = set(differing[:middle])
            mixed = [choices[k] if k in changed else choice for k, choice in enumerate(architecture.choices)]
            candidate = self.space.architecture(mixed) if self.space.violation(mixed) is None else None
            if candidate is not None and self._feasible(candidate):
                repaired, within = candidate, middle
            else:
                over = middle
        return repaired

    def _is_asked(self, architecture: Architecture) -> bool:
        return self.space.canonical(architecture).choices in self._asked

    def form(self, architecture: Architecture) -> Architecture | None:
        """The form in which an architecture may be proposed, or None if it may not be proposed."""
        canonical = self.space.canonical(architecture)
        if canonical.choices in self._asked or not self.space.is_trainable(architecture):
            return None
        return next((form for form in (canonical, architecture) if self._feasible(form)), None)

    def _propose(self) -> Architecture | None:
        for attempt in range(MAX_SUGGESTIONS):
            suggestion = self.suggest(attempt)
            if suggestion is None:
                return None
            if self._start is not None and self.patience is not None and attempt >= self.patience:
                suggestion = self._repaired(suggestion)
            if (proposal := self._admit(suggestion)) is not None:
                return proposal
        for _ in range(MAX_SUGGESTIONS):
            if (proposal := self._admit(self.draw())) is not None:
                return proposal
        return self._next_of_rest()

    def _next_of_rest(self) -> Architecture | None:
        """The next new architecture of the whole space, in random order."""
        if self._rest is None:
            self._rest = list(range(self.space.size if self.space.size <= MAX_ENUMERATED else 0))
            self.rng.shuffle(self._rest)
        while self._rest:
            if (proposal := self._admit(self.space.at(self._rest.pop()))) is not None:
                return proposal
        return None

    def _admit(self, architecture: Architecture) -> Architecture | None:
        """The form to propose, which is remembered as proposed, or None."""
        form = self.form(architecture)
        if form is not None:
            self._asked.add(self.space.canonical(form).choices)
            self._position = self._position or form
        return form


@contextlib.contextmanager
def global_random(rng: random.Random) -> Iterator[None]:
    """Make DEAP, which draws from the global `random`, draw from `rng`, and restore the global state."""
    saved = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(saved)


# -- options ------------------------------------------------------------------------------------


def check_integer(name: str, value: int, least: int, most: tuple[str, int] | None = None) -> int:
    limit = f" and at most {most[0]}, which is {most[1]}" if most else ""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not least <= value <= LARGEST_NUMBER
        or (most and value > most[1])
    ):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}{limit}.")
    return value


def check_probability(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must be a probability from 0 to 1.")
    return value
