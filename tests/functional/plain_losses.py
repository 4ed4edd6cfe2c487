"""Distillation losses written out for one pair of samples, channels or stages at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax

Array = np.ndarray
NAMES = ("kd", "at", "sp", "cc", "rkd", "pkt", "nst", "ickd")


def smooth_l1(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def plain_kd(s: Array, t: Array) -> float:
    p = softmax(t / 4, axis=1)
    return 16 * float(
        np.mean([row @ (np.log(row) - log) for row, log in zip(p, log_softmax(s / 4, axis=1), strict=True)])
    )


def plain_at(s: Array, t: Array) -> float:
    def attention(maps: Array) -> Array:
        values = np.stack([sum(channel**2 for channel in sample) for sample in maps])
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return float(np.mean((attention(s) - attention(t)) ** 2))


def plain_sp(s: Array, t: Array) -> float:
    def likeness(maps: Array) -> Array:
        gram = np.array([[np.vdot(a, b) for b in maps] for a in maps])
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    return float(np.linalg.norm(likeness(s) - likeness(t)) ** 2 / len(s) ** 2)


def unit(row: Array) -> Array:
    return row / np.linalg.norm(row)


def plain_cc(s: Array, t: Array) -> float:
    def kernel(a: Array, b: Array) -> float:
        exponent = 2 * 0.4 * float(unit(a) @ unit(b))
        return float(np.exp(-2 * 0.4) * (1 + exponent + exponent**2 / 2))

    pairs = [(i, j) for i in range(len(s)) for j in range(len(s))]
    return sum((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in pairs) / len(s) ** 2


def plain_rkd(s: Array, t: Array) -> float:
    def distances(rows: Array) -> Array:
        distances = cdist(rows, rows)
        return distances / distances[distances > 0].mean()

    def angle(rows: Array, i: int, j: int, k: int) -> float:
        return 0.0 if i in (j, k) else float(unit(rows[j] - rows[i]) @ unit(rows[k] - rows[i]))

    samples = range(len(s))
    distance = np.mean([smooth_l1(d) for d in (distances(s) - distances(t)).flat])
    triplets = [(i, j, k) for i in samples for j in samples for k in samples]
    return float(25 * distance + 50 * np.mean([smooth_l1(angle(s, *ijk) - angle(t, *ijk)) for ijk in triplets]))


def plain_pkt(s: Array, t: Array) -> float:
    def odds(rows: Array) -> Array:
        cosines = np.array([[unit(a) @ unit(b) for b in rows] for a in rows])
        return (cosines + 1) / (cosines + 1).sum(1, keepdims=True)

    p, q = odds(s), odds(t)
    return float(np.mean(q * np.log((q + 1e-7) / (p + 1e-7))))


def plain_nst(s: Array, t: Array) -> float:
    def mean_kernel(first: Array, second: Array) -> float:
        return float(np.mean([[(unit(a) @ unit(b)) ** 2 for b in second] for a in first]))

    return float(
        np.mean([mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b) for a, b in zip(s, t, strict=True)])
    )


def plain_ickd(s: Array, t: Array) -> float:
    def correlations(sample: Array) -> Array:
        gram = np.array([[a @ b for b in sample] for a in sample])
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    total = sum(np.linalg.norm(correlations(a) - correlations(b)) ** 2 for a, b in zip(s, t, strict=True))
    return float(total / (s.shape[0] * s.shape[1]))


PLAIN: dict[str, Callable[[Array, Array], float]] = {name: globals()[f"plain_{name}"] for name in NAMES}
OF_MAPS = ("at", "sp", "nst", "ickd")
