"""How score_search.py judges a score: against accuracies on two halves of the cells and on S0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from _score_statistics import CHOSEN
from numpy.typing import NDArray
from scipy.stats import rankdata

import diswot_search as ds

SUMMED = (
    *("log_params", "log_macs", "log_layers", "log_neurons"),
    *("layer_entropy", "filter_entropy", "weight_entropy", "zico_entropy", "log_snip"),
    *("channel_entropy", "block_spectrum", "stage_spectrum", "last_block_entropy"),
    *("position_entropy", "mean_wave_entropy"),
    *("sample_entropy", "least_sample_entropy"),
    *("nwot_of_a_neuron", "block_codes", "log_meco"),
    *("gradient_flow", "trainability", "gain_distance", "jacobian_volume"),
    *("fisher_entropy", "log_cka resnet18 0", "log_cka pixels"),
)
"""The terms of which all sums of two to four are tried: those of each group that are nats, or near."""


Line = dict[str, Any]
"""The measurements of a network: values by group and name, processor seconds by group, and why a group failed."""
Column = NDArray[np.float64]
Terms = Sequence[tuple[float, str]]
"""Weights and names of statistics."""
Tried = tuple[tuple[str, ...], float, float, float]
"""The terms of a sum, Spearman on A and on B, Kendall on S0."""


class Pool:
    """Architectures with known accuracies, and their statistics as they are and as log ranks.

    Args:
        lines: The measurements of each architecture.
        accuracies: The accuracy of each architecture.
    """

    def __init__(self, lines: Sequence[Line], accuracies: Sequence[float]) -> None:
        by_name = [{name: x for group in line["values"].values() for name, x in group.items()} for line in lines]
        names = dict.fromkeys(itertools.chain.from_iterable(by_name))
        self.natural = {name: np.array([one.get(name, math.nan) for one in by_name]) for name in names}
        self.ranks = {name: log_ranks(column) for name, column in self.natural.items()}
        self.accuracies = np.array(accuracies)
        self.params = np.exp(self.natural["log_params"])
        self.best = ds.best_decile(self.accuracies)

    def sum(self, terms: Terms, kind: str = "natural") -> Column:
        """Sum statistics; the sum is NaN, which ranks last, if one is missing."""
        columns = {"natural": self.natural, "ranks": self.ranks}[kind]
        return np.sum([weight * columns[name] for weight, name in terms], axis=0)

    def correlate(self, scores: Sequence[Column]) -> list[float]:
        """Return Spearman of many scores at once."""
        ranks = rankdata(np.nan_to_num(np.stack(scores), nan=-np.inf, neginf=-np.inf), axis=1)
        return np.corrcoef(rankdata(self.accuracies), ranks)[0, 1:].tolist()

    def judge(self, scores: Column) -> list[float]:
        """Return the judgements that `OF_CELLS` names."""
        return [
            ds.spearman(scores, self.accuracies),
            ds.partial_spearman(scores, self.accuracies, self.params),
            ds.spearman(scores[self.best], self.accuracies[self.best]),
            ds.regret_at_budget(scores, self.accuracies, self.params),
        ]

    def judge_few(self, scores: Column) -> list[float]:
        """Return the judgements that `OF_S0` names; 64 networks allow no more."""
        agreement, _ = ds.size_matched_agreement(scores, self.accuracies, self.params)
        regret = ds.regret_at_budget(scores, self.accuracies, self.params)
        return [ds.kendall(scores, self.accuracies), regret, agreement]


OF_CELLS = ("Spearman", "given params", "best tenth", "regret")
OF_S0 = ("Kendall", "regret", "same size")
COLUMNS = (*(f"{half}: {what}" for half in "AB" for what in OF_CELLS), *(f"S0: {what}" for what in OF_S0))


def log_ranks(column: Column) -> Column:
    """Return the log of the rank as a share of the pool; a missing value is the worst."""
    return np.log(rankdata(np.where(np.isnan(column), -np.inf, column)) / len(column))


def plain(names: Iterable[str]) -> Terms:
    return [(1.0, name) for name in names]


class Judges:
    """Half A, where sums are chosen, and half B and S0, which confirm. `rows` holds all judgements."""

    def __init__(self, a: Pool, b: Pool, s0: Pool) -> None:
        self.a, self.b, self.s0 = a, b, s0
        self.rows: list[tuple[str, str, list[float]]] = []

    def judge(self, what: str, label: str, terms: Terms) -> list[float]:
        """Return the judgements that `COLUMNS` names, and add them to `rows`."""
        values = self.values(terms)
        self.rows.append((what, label, values))
        return values

    def values(self, terms: Terms, kind: str = "natural") -> list[float]:
        """Return the judgements that `COLUMNS` names."""
        a, b, s0 = (pool.sum(terms, kind) for pool in (self.a, self.b, self.s0))
        return [*self.a.judge(a), *self.b.judge(b), *self.s0.judge_few(s0)]

    def beyond(self, name: str) -> list[float]:
        """Return the partial correlation of a statistic given the chosen sum, on A and B, and given pixels as well."""
        return [
            partial(pool.natural[name], pool.accuracies, [pool.sum(plain(CHOSEN)), *(pool.natural[x] for x in more)])
            for more in ((), (PIXELS,))
            for pool in (self.a, self.b)
        ]

    def try_sums(self, kind: str) -> list[Tried]:
        """Judge all sums of two to four terms; the best on A come first."""
        names_measured = [name for name in SUMMED if name in self.a.natural]
        sums = [names for count in (2, 3, 4) for names in itertools.combinations(names_measured, count)]
        on_a, on_b = (pool.correlate([pool.sum(plain(names), kind) for names in sums]) for pool in (self.a, self.b))
        on_s0 = [ds.kendall(self.s0.sum(plain(names), kind), self.s0.accuracies) for names in sums]
        tried = sorted(zip(sums, on_a, on_b, on_s0, strict=True), key=lambda one: -one[1])
        what = {"natural": "sum", "ranks": "sum of log ranks"}[kind]
        blank = [math.nan] * (len(OF_CELLS) - 1)
        self.rows += [(what, " + ".join(names), [a, *blank, b, *blank, s0]) for names, a, b, s0 in tried]
        return tried


PIXELS = "mean_cka pixels"
"""The likeness to the images themselves; a teacher has to add something to it."""


def partial(scores: Column, accuracies: Column, given: Sequence[Column]) -> float:
    """Return the correlation of the ranks of scores and accuracies, with the ranks of others regressed out."""
    others = np.column_stack([np.ones(len(scores)), *map(rankdata, given)])
    ranks = np.column_stack([rankdata(np.nan_to_num(scores, nan=-np.inf)), rankdata(accuracies)])
    residuals = ranks - others @ np.linalg.lstsq(others, ranks, rcond=None)[0]
    if np.ptp(residuals[:, 0]) < 1e-6 * len(scores):  # the others explain the scores completely
        return 0.0
    return float(np.corrcoef(residuals.T)[0, 1])


def changes() -> dict[str, Terms]:
    """Return the chosen sum with one term changed, by label."""
    chosen = plain(CHOSEN)
    rest = [term for term in chosen if term[1] != "log_params"]
    apart = [name for name in CHOSEN if name != "channel_entropy"]
    placeless = plain([name for name in CHOSEN if name != "position_entropy"])
    of_places = (
        "last_position_entropy",
        "stage_position_entropy",
        "position_collision_entropy",
        "centred_position_entropy",
        "wave_entropy",
        "mean_wave_entropy",
    )
    sums: dict[str, Terms] = {"the chosen sum": chosen}
    sums |= {f"without {name}": [term for term in chosen if term[1] != name] for name in CHOSEN}
    for factor in (2.0, 0.5):
        sums |= {f"{factor:g} {name}": [(factor if n == name else 1.0, n) for n in CHOSEN] for name in CHOSEN}
    return sums | {
        "log_macs for log_params": [(1.0, "log_macs"), *rest],
        "half of log_params, half of log_macs": [(0.5, "log_params"), (0.5, "log_macs"), *rest],
        "log_neurons for log_params": [(1.0, "log_neurons"), *rest],
        "log_layers for log_params": [(1.0, "log_layers"), *rest],
        "block_spectrum for channel_entropy": plain([*apart, "block_spectrum"]),
        "filter_entropy for layer_entropy and channel_entropy": plain(
            [n for n in (*apart, "filter_entropy") if n != "layer_entropy"]
        ),
        **{f"half of {name} for position_entropy": [*placeless, (0.5, name)] for name in of_places},
        **{f"{name} for position_entropy": [*placeless, (1.0, name)] for name in of_places},
        "per parameter": [(-1.0, "log_params"), *rest],
    }
