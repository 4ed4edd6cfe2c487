"""Budgets: what they admit, and whether a space can meet them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diswot_search.options.search import SearchOptions
from diswot_search.study.budget import Budget, BudgetError, cheapest, check_satisfiable
from diswot_search.study.cost_kinds import COSTS, CostValues
from diswot_search.study.records import Record
from diswot_search.study.study import Candidate
from search_spaces import Architecture, Cost, SearchSpace, create_space

limits = st.none() | st.floats(min_value=1e-3, max_value=1e12)


class PricedSpace(SearchSpace):
    """Every choice of every decision has prices of its own, which add up; nothing to build."""

    def __init__(self, decisions: int, choices: int, seed: int) -> None:
        names = {f"d{i}": range(choices) for i in range(decisions)}
        super().__init__("priced", names, num_classes=2, input_size=(3, 8, 8))
        rng = random.Random(seed)
        self.prices = [[(rng.randint(1, 99), rng.randint(1, 99)) for _ in range(choices)] for _ in range(decisions)]

    def build(self, architecture: Architecture) -> nn.Module:
        raise NotImplementedError

    def cost(self, architecture: Architecture) -> Cost:
        paid = [prices[int(c)] for prices, c in zip(self.prices, architecture.choices, strict=True)]
        return Cost(params=sum(p for p, _ in paid), macs=sum(m for _, m in paid))


# -- limits -------------------------------------------------------------------------------------


@given(params=limits, macs=limits, latency=limits, cost=st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)))
def test_admits_what_is_within_every_limit(
    params: float | None, macs: float | None, latency: float | None, cost: tuple[int, int]
) -> None:
    budget = Budget(max_params=params, max_macs=macs, max_latency_ms=latency)
    cheap = (params is None or cost[0] <= params) and (macs is None or cost[1] <= macs)
    assert budget.admits(Cost(*cost)) == cheap
    assert budget.admits(Cost(*cost), 5.0) == (cheap and (latency is None or latency >= 5.0))
    assert budget.is_empty == (params is macs is latency is None)


def test_a_limit_itself_is_within() -> None:
    budget = Budget(max_params=10, max_macs=20, max_latency_ms=1.5)
    assert budget.admits(Cost(10, 20), 1.5)
    assert not budget.admits(Cost(11, 20), 1.5)
    assert not budget.admits(Cost(10, 21), 1.5)
    assert not budget.admits(Cost(10, 20), 1.6)


@given(params=limits, macs=limits, latency=limits, batch=st.integers(1, 512))
def test_reads_back_from_json(params: float | None, macs: float | None, latency: float | None, batch: int) -> None:
    budget = Budget(max_params=params, max_macs=macs, max_latency_ms=latency, latency_batch_size=batch)
    assert Budget.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


def test_reads_back_from_a_part() -> None:
    assert Budget.from_dict({"max_macs": 3.0}) == Budget(max_macs=3.0)
    assert Budget.from_dict({}).is_empty


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf, True, "1e6"])
@pytest.mark.parametrize("name", [kind.limit for kind in COSTS.values()])
def test_limits_that_are_none_are_refused(name: str, limit: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {limit!r}"):
        Budget(**{name: limit})


@pytest.mark.parametrize("batch", [0, -3, 1.0, True, None])
def test_batches_that_are_none_are_refused(batch: Any) -> None:
    with pytest.raises(ValueError, match=f"latency_batch_size is {batch!r}"):
        Budget(latency_batch_size=batch)


def test_unknown_limit_is_refused_with_those_allowed() -> None:
    with pytest.raises(ValueError, match="'max_flops'; allowed: max_params, max_macs, max_latency_ms, latency_batch"):
        Budget.from_dict({"max_flops": 1.0})


# -- the cheapest architecture ------------------------------------------------------------------


@given(decisions=st.integers(1, 4), choices=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_cheapest_is_exact_where_prices_add_up(decisions: int, choices: int, seed: int) -> None:
    space = PricedSpace(decisions, choices, seed)
    for measure in ("params", "macs"):
        architecture, value = cheapest(space, measure)
        assert value == getattr(space.cost(architecture), measure)
        assert value == min(getattr(space.cost(a), measure) for a in space)


@pytest.mark.parametrize("name", ["nasbench201", "cifar_resnet_s0"])
def test_cheapest_of_real_spaces(name: str) -> None:
    space = create_space(name)
    costs = [space.cost(a) for a in space]
    assert cheapest(space, "params")[1] == min(c.params for c in costs)
    assert cheapest(space, "macs")[1] == min(c.macs for c in costs)


def test_cheapest_asks_little() -> None:
    space = create_space("nasbench201")
    counted: list[Architecture] = []
    cheapest(space, "macs", lambda a: counted.append(a) or space.cost(a))
    assert len(counted) < 100 < space.size


def test_cheapest_leaves_aside_what_costs_infinitely() -> None:
    space = PricedSpace(3, 3, seed=0)
    first = next(iter(space))

    def cost(architecture: Architecture) -> Cost:
        free = architecture.choices[0] != first.choices[0]
        return space.cost(architecture) if free else Cost(math.inf, math.inf)  # type: ignore[arg-type]

    assert cheapest(space, "params", cost)[1] == min(cost(a).params for a in space) < math.inf


def test_cheapest_returns_to_a_decision_that_a_later_one_changes() -> None:
    space = PricedSpace(2, 2, seed=0)
    params = {(0, 0): 5, (0, 1): 4, (1, 0): 6, (1, 1): 1}
    assert cheapest(space, "params", lambda a: Cost(params[a.choices], 0))[0].choices == (1, 1)  # type: ignore[index]


def test_cheapest_by_an_unknown_measure() -> None:
    with pytest.raises(ValueError, match="'latency'; it must be 'params' or 'macs'"):
        cheapest(create_space("cifar_resnet_s0"), "latency")  # type: ignore[arg-type]


# -- can it be met ------------------------------------------------------------------------------


@given(
    decisions=st.integers(1, 4),
    choices=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    limit=st.integers(1, 300),
    measure=st.sampled_from(["max_params", "max_macs"]),
)
def test_one_limit_is_met_exactly_where_it_can_be(
    decisions: int, choices: int, seed: int, limit: int, measure: str
) -> None:
    space = PricedSpace(decisions, choices, seed)
    budget = Budget(**{measure: limit})
    if any(budget.admits(space.cost(a)) for a in space):
        assert budget.admits(space.cost(check_satisfiable(space, budget)))
    else:
        with pytest.raises(BudgetError):
            check_satisfiable(space, budget)


@given(seed=st.integers(0, 10**6), params=st.integers(1, 150), macs=st.integers(1, 150))
def test_two_limits_are_met_exactly_where_small_is_also_quick(seed: int, params: int, macs: int) -> None:
    space = PricedSpace(3, 3, seed)
    space.prices = [list(zip(*map(sorted, zip(*prices, strict=True)), strict=True)) for prices in space.prices]
    for prices in space.prices:
        random.Random(seed).shuffle(prices)
    budget = Budget(max_params=params, max_macs=macs)
    if any(budget.admits(space.cost(a)) for a in space):
        assert budget.admits(space.cost(check_satisfiable(space, budget)))
    else:
        with pytest.raises(BudgetError):
            check_satisfiable(space, budget)


def test_limits_that_pull_apart_are_met_by_a_compromise() -> None:
    space = PricedSpace(1, 3, seed=0)
    space.prices = [[(1, 99), (50, 50), (99, 1)]]
    assert check_satisfiable(space, Budget(max_params=60, max_macs=60)).choices == (1,)


def test_no_limit_is_met_at_once() -> None:
    space = create_space("nasbench201")
    counted: list[Architecture] = []
    check_satisfiable(space, Budget(max_latency_ms=1e-9), lambda a: counted.append(a) or space.cost(a))
    assert len(counted) == 1


def test_error_states_the_smallest_costs() -> None:
    space = create_space("nasbench201")
    costs = [space.cost(a) for a in space]
    with pytest.raises(BudgetError, match=f"within max_params=1,000;.*is {min(c.params for c in costs):,} params"):
        check_satisfiable(space, Budget(max_params=1e3))
    with pytest.raises(BudgetError, match=f"max_macs=1,000;.* params and {min(c.macs for c in costs):,} macs"):
        check_satisfiable(space, Budget(max_params=1e3, max_macs=1e3))


# -- all costs ----------------------------------------------------------------------------------


def test_every_cost_has_a_limit_an_option_and_a_place_in_records() -> None:
    assert set(COSTS) == {field.name for field in fields(CostValues)}
    assert {kind.limit for kind in COSTS.values()} <= {field.name for field in fields(Budget)}
    assert {field.name for field in fields(Budget)} <= {field.name for field in fields(SearchOptions)}
    assert set(COSTS) <= {field.name for field in fields(Record)}
    assert all(hasattr(Candidate, name) for name in COSTS)


@given(limits=st.dictionaries(st.sampled_from(sorted(COSTS)), st.integers(1, 100)), data=st.data())
def test_limits_combine(limits: dict[str, int], data: st.DataObject) -> None:
    values = {name: data.draw(st.one_of(st.none(), st.integers(0, 200)), label=name) for name in COSTS}
    budget = Budget(**{COSTS[name].limit: limit for name, limit in limits.items()})  # type: ignore[arg-type]
    assert budget.limits == limits
    known = {name: value for name, value in values.items() if value is not None}
    kept = all(known[name] <= limit for name, limit in limits.items() if name in known)
    assert budget.admits(CostValues(**values)) == kept  # type: ignore[arg-type]


def test_conditions_of_latency_are_stored_with_it() -> None:
    budget = Budget(max_latency_ms=2, latency_threads=4, latency_batch_size=8, latency_runtime="eager").settled()
    assert budget.describe_latency() == "eager, 4 threads, batch 8"
    assert Budget.from_dict(budget.to_dict()) == budget
    assert {"latency_runtime": "eager", "latency_threads": 4}.items() <= budget.to_dict().items()


def test_a_budget_without_latency_says_nothing_of_runtimes() -> None:
    assert Budget(max_params=5).settled().to_dict() == {
        "max_params": 5,
        "max_macs": None,
        "max_latency_ms": None,
        "latency_batch_size": 1,
    }


def test_without_onnxruntime_a_limit_on_latency_gives_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diswot_search.study.budget.default_runtime", lambda: "eager")
    with pytest.warns(UserWarning, match="onnxruntime is not installed, so latency is that of eager PyTorch"):
        assert Budget(max_latency_ms=1).settled().latency_runtime == "eager"
    assert Budget(max_latency_ms=1, latency_runtime="eager").settled().latency_runtime == "eager"


def test_wrong_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown latency_runtime 'onnx'\. Did you mean 'onnxruntime'"):
        Budget(latency_runtime="onnx")
    with pytest.raises(ValueError, match="latency_threads is 0"):
        Budget(latency_threads=0)
