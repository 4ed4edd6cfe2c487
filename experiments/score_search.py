"""What was tried on the way to the default score: statistics of random networks, alone, in sums, and added to the sum.

Statistics of 400 distinct connected cells of NAS-Bench-201 on CIFAR-10 images, and of the 64 CIFAR ResNets of S0 on
CIFAR-100 images, are measured first, one line of JSON each, and kept in --runs: an interrupted run goes on, and any
number of processes can share the work (--part 1/2, --part 2/2, then once without). The report is made from these lines.

The cells are in a seeded random order; those at even places are half A, by which everything is ordered, the others half
B, which says how much of that is chance. S0 says what is true of these cells alone.

    python experiments/score_search.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import itertools
import json
import math
import operator
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

import diswot_search as ds
import search_spaces
from diswot_search.comparison.statistics import best_decile, bootstrap_correlations, draw_resamples, percentile_interval
from diswot_search.functional import similarities

CHOSEN = ("log_params", "position_entropy", "layer_entropy", "channel_entropy", "gradient_flow")
"""The terms of the default score, proxies of the library. After a change of one: --groups default --anew."""

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
"""Terms of which all sums of two to four are tried: of each group those that are nats, or near."""

TEACHERS = ("cifar_resnet110", "cifar_wrn_40_2", "resnet18")
TEACHER_SEEDS = (0, 1)
SUBSAMPLE_IMAGES = 16
"""Images that statistics of positions are of, as those of the default score are."""
DRAWS = {"first": (0, 0), "other weights": (1, 0), "other images": (0, 1)}
"""Seeds of weights and images. Halves A and B are of the first; the others show what of a score is chance."""

RESULTS = Path(__file__).parent / "results"
Values = dict[str, float]
Key = tuple[str, str, str]
"""Architecture, set and draw."""
Line = dict[str, Any]
"""What is known of a key: values by group and name, processor seconds by group, and why a group failed."""
Column = NDArray[np.float64]
Terms = Sequence[tuple[float, str]]
"""Weights and names of statistics."""
Row = Sequence[str | float]
Tried = tuple[tuple[str, ...], float, float, float]
"""Terms of a sum, Spearman on A and on B, Kendall on S0."""

# -- statistics, higher is better as far as that is known ---------------------------------------
#
# Each group takes the readings of all 64 images, for what a forward pass gives, and of the first 32, for gradients.


def value(name: str, student: ds.Readings, teacher: ds.Readings | None = None) -> float:
    """The value of a proxy of the library; NaN where it has none."""
    proxy = ds.get_proxy(name)
    assert isinstance(proxy, ds.Proxy)
    try:
        return proxy(student, teacher)
    except (RuntimeError, ValueError):
        return math.nan


def log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def entropy(parts: Tensor) -> float:
    """Of the shares of parts in their sum, in nats."""
    shares = parts.double() / parts.double().sum()
    return float(similarities.entropy(shares))


def collision_entropy(parts: Tensor) -> float:
    """Renyi's entropy of order 2 of the shares, which looks at the large ones more."""
    shares = parts.double() / parts.double().sum()
    return -log(float(shares.square().sum()))


def size(student: ds.Readings, part: ds.Readings) -> Values:
    return {
        "log_params": math.log(student.cost.params),
        "log_macs": math.log(student.cost.macs),
        "log_layers": math.log(len(student.layers)),
        "log_neurons": math.log(student.neurons),
        "log_l2_norm": log(value("l2_norm", student)),
        "synflow": value("synflow", student),
    }


def layers(student: ds.Readings, part: ds.Readings) -> Values:
    """How evenly layers, filters and weights share in the loss: |W g| and its like."""
    weights = [layer.weight.detach() for layer in part.layers]  # type: ignore[operator]
    gradients, (first, second) = part.gradients, part.half_gradients
    saliency = [(w * g).abs() for w, g in zip(weights, gradients, strict=True)]
    by_layer = torch.stack([one.sum() for one in saliency])
    steadiness = torch.stack([_steadiness(a, b) for a, b in zip(first, second, strict=True)])
    return {
        "saliency_entropy": entropy(by_layer),
        "saliency_evenness": entropy(by_layer) - math.log(len(weights)),
        "saliency_collision_entropy": collision_entropy(by_layer),
        "gradient_entropy": entropy(torch.stack([g.square().sum() for g in gradients])),
        "norm_entropy": entropy(torch.stack([w.norm() * g.norm() for w, g in zip(weights, gradients, strict=True)])),
        "filter_entropy": entropy(torch.cat([one.flatten(1).sum(1) for one in saliency])),
        "input_entropy": entropy(torch.cat([one.transpose(0, 1).flatten(1).sum(1) for one in saliency])),
        "weight_entropy": entropy(torch.cat([one.flatten() for one in saliency])),
        "log_snip": log(float(by_layer.sum())),
        "mean_log_snip": float(by_layer.log().mean()),
        "log_grad_norm": log(value("grad_norm", part)),
        "zico": value("zico", part),
        "log_zico": log(float(steadiness.sum())),
        "zico_entropy": entropy(steadiness),
        "gradient_agreement": float(
            torch.stack(
                [F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in zip(first, second, strict=True)]
            ).mean()
        ),
    }


def _steadiness(first: Tensor, second: Tensor) -> Tensor:
    """Sum over weights of mean magnitude over deviation of two gradients, as in ZiCo."""
    differ = first != second
    return ((first.abs() + second.abs()) / (first - second).abs())[differ].sum()


def channels(student: ds.Readings, part: ds.Readings) -> Values:
    """Over how many directions the channels of a map spread."""
    entropies, stages = student.block_entropies, student.stage_features
    spectra = [similarities.channel_spectrum(stage) for stage in stages]
    widths = [block.shape[1] for block in student.block_features]
    pooled = student.pooled - student.pooled.mean(0)
    return {
        "stage_entropy": statistics.fmean(similarities.channel_entropies(stages)),
        "expressivity": math.fsum(entropies),
        "log_expressivity": log(math.fsum(entropies)),
        "block_entropy": statistics.fmean(entropies),
        "first_block_entropy": entropies[0],
        "least_block_entropy": min(entropies),
        "last_block_entropy": entropies[-1],
        "channel_fill": statistics.fmean(map(operator.sub, entropies[-len(widths) :], np.log(widths))),
        "progressivity": value("progressivity", student),
        "block_spectrum": statistics.fmean(
            entropy(similarities.channel_spectrum(block)) for block in student.block_features
        ),
        "stage_spectrum": statistics.fmean(entropy(spectrum) for spectrum in spectra),
        "stage_collision_entropy": statistics.fmean(collision_entropy(spectrum) for spectrum in spectra),
        "feature_spectrum": entropy(student.channel_spectrum),
        "pooled_entropy": entropy(torch.linalg.svdvals(pooled.double()).square()),
    }


def positions(student: ds.Readings, part: ds.Readings) -> Values:
    """Over how many patterns of positions a map spreads: how finely places are still told apart."""
    blocks = [block[:SUBSAMPLE_IMAGES] for block in student.block_features]
    last = student.features[:SUBSAMPLE_IMAGES]
    centred = [maps - maps.mean((0, 2), keepdim=True) for maps in (last, *blocks)]
    waves = [entropy(power(maps)) for maps in blocks]
    return {
        "last_position_entropy": entropy(similarities.position_spectrum(last)),
        "stage_position_entropy": statistics.fmean(
            entropy(similarities.position_spectrum(maps)) for maps in blocks if maps.shape[2] == last.shape[2]
        ),
        "position_collision_entropy": collision_entropy(similarities.position_spectrum(last)),
        "centred_position_entropy": entropy(similarities.position_spectrum(centred[0])),
        "wave_entropy": waves[-1],
        "mean_wave_entropy": statistics.fmean(waves),
        "least_wave_entropy": min(waves),
        "centred_wave_entropy": entropy(power(centred[0])),
        "mean_centred_wave_entropy": statistics.fmean(entropy(power(maps)) for maps in centred[1:]),
    }


def power(maps: Tensor) -> Tensor:
    """Energy by spatial frequency, over samples and channels, of square maps (B, C, P)."""
    side = math.isqrt(maps.shape[2])
    return torch.fft.fft2(maps.unflatten(2, (side, side)).double()).abs().square().sum((0, 1)).flatten()


def samples(student: ds.Readings, part: ds.Readings) -> Values:
    """How far apart the samples are: entropy of the spectrum of their centred Gram matrix, and cosines."""
    blocks = student.block_features
    entropies = [entropy(similarities.spectrum(centred_gram(block))) for block in blocks]
    correlations = [_off_diagonal(similarities.cosines(centred_gram(block))).square().mean() for block in blocks]
    return {
        "sample_entropy": statistics.fmean(entropies),
        "least_sample_entropy": min(entropies),
        "last_sample_entropy": entropies[-1],
        "growth_of_sample_entropy": entropies[-1] - entropies[0],
        "feature_sample_entropy": entropy(similarities.spectrum(centred_gram(student.features))),
        "sample_correlation": -float(torch.stack(correlations).mean()),
        "feature_cosine": -float(_off_diagonal(student.sample_cosines).mean()),
        "class_cosine": -float(_off_diagonal(student.class_cosines).mean()),
    }


def centred_gram(maps: Tensor) -> Tensor:
    """Inner products of samples less their mean, (B, B)."""
    return similarities.sample_gram(maps - maps.mean(0))


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def codes(student: ds.Readings, part: ds.Readings) -> Values:
    """How well signs tell samples apart: of all neurons, and of what each block gives to the next."""
    count = len(student.images)
    agreements = [_agreement(block) for block in student.block_features]
    # Two samples of one code in one block are not to decide the score.
    volumes = [float(similarities.log_determinant(one + 1e-6 * torch.eye(count))) / count for one in agreements]
    distances = [1 - float(_off_diagonal(one).mean()) for one in agreements]
    return {
        "nwot": value("nwot", student) / count,
        "nwot_of_a_neuron": value("nwot", student) / count - math.log(student.neurons),
        "block_codes": statistics.fmean(volumes),
        "least_block_codes": min(volumes),
        "last_block_codes": volumes[-1],
        "code_distance": statistics.fmean(distances),
        "sum_of_code_distances": log(math.fsum(distances)),
        "log_swap": log(value("swap", student)),
        "linear_regions": value("linear_regions", student),
        "meco": value("meco", student),
        "log_meco": log(value("meco", student)),
    }


def _agreement(maps: Tensor) -> Tensor:
    """Share of positions and channels at which two samples have one sign, (B, B)."""
    signs = (maps > 0).flatten(1).float() * 2 - 1
    return (1 + signs @ signs.T / signs.shape[1]) / 2


def gradients(student: ds.Readings, part: ds.Readings) -> Values:
    """What blocks do to a random gradient on its way back, and how images are told apart by theirs."""
    pairs = [(sent, similarities.unshuffled(arrived, sent.shape[2])) for sent, arrived in part.block_gradients]
    gains = np.log([max(similarities.mean_jacobian_gain(s, a), 1e-3) for s, a in pairs if a is not None])
    norms = np.log([max(float(a.norm() / s.norm()), 1e-3) for s, a in part.block_gradients])
    jacobian = torch.linalg.eigvalsh(similarities.correlations(part.input_jacobian)).clamp_min(0) + 1e-3
    return {
        "trainability": value("trainability", part),
        "gain_flow": float(np.minimum(gains, 0).mean()),
        "gain": float(gains.mean()),
        "gain_distance": -float(np.abs(gains).mean()),
        "gain_deviation": -float(np.sqrt(np.square(gains).mean())),
        "total_gain_distance": -float(np.abs(gains).sum()),
        "norm_flow": float(np.minimum(norms, 0).mean()),
        "norm": float(norms.mean()),
        "norm_distance": -float(np.abs(norms).mean()),
        "norm_evenness": -float(norms.std()),
        "jacov": value("jacov", part),
        "jacobian_volume": float(jacobian.log().mean()),
        "epe_nas": value("epe_nas", part),
        "small_logits": -log(float(student.logits.std(0).mean())),
    }


def fisher(student: ds.Readings, part: ds.Readings) -> Values:
    """Spectrum of the information about one weight of each layer."""
    information = student.fisher_information
    return {
        "vkdnw": value("vkdnw", student),
        "fisher_entropy": entropy(similarities.spectrum(information)),
        "fisher_diagonal_entropy": entropy(information.diagonal()),
        "log_fisher_trace": log(float(information.diagonal().sum())),
    }


def default(student: ds.Readings, part: ds.Readings) -> Values:
    """The terms of the default score, which take the images that they need."""
    return {name: value(name, student) for name in CHOSEN}


def passes(student: ds.Readings, part: ds.Readings) -> Values:
    """Nothing: the passes that most groups share, so that none of them is charged for them."""
    _ = student.forward_pass, part.gradients, part.block_gradients
    return {}


Group = Callable[[ds.Readings, ds.Readings], Values]
GROUPS: dict[str, Group] = {
    group.__name__: group
    for group in (default, passes, size, layers, channels, positions, samples, codes, gradients, fisher)
}

# -- likeness to a teacher, and to what needs none ----------------------------------------------

Grams = list[Tensor]


def references(probe: ds.Probe, teachers: Mapping[str, ds.Readings]) -> dict[str, Grams]:
    """Centred Gram matrices of the samples, by stage: of teachers, and for control of pixels, labels and noise."""
    found = {name: stage_grams(teacher) for name, teacher in teachers.items()}
    images = probe.images
    noise = torch.randn(len(images), 4096, generator=torch.Generator().manual_seed(0))
    controls = {
        "pixels": images,
        "coarse pixels": F.avg_pool2d(images, 4),
        "fine pixels": images - F.interpolate(F.avg_pool2d(images, 4), scale_factor=4),
        "labels": F.one_hot(probe.labels).float(),
        "noise": noise,
    }
    return found | {name: [centred_gram(of)] * 9 for name, of in controls.items()}


def stage_grams(readings: ds.Readings) -> Grams:
    return [centred_gram(maps) for maps in (*readings.stage_features, readings.features)]


def likeness(student: ds.Readings, teachers: Mapping[str, ds.Readings], others: Mapping[str, Grams]) -> Values:
    """Linear CKA by stage, counted from the last, which centres both sides; and DisWOT's terms."""
    found: Values = {}
    own = stage_grams(student)
    for name, grams in others.items():
        alike = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(own[::-1], grams[::-1], strict=False)]
        found[f"last_cka {name}"] = alike[0]
        found[f"mean_cka {name}"] = statistics.fmean(alike)
        found[f"log_cka {name}"] = statistics.fmean(log(max(one, 1e-3)) for one in alike)
    for kind in ("last_cka", "mean_cka", "log_cka"):
        found[f"{kind} all teachers"] = statistics.fmean(found[f"{kind} {name}"] for name in teachers)
    for name, teacher in teachers.items():
        for proxy in ("semantic", "relation", "channel_relation", "at"):
            found[f"{proxy} {name}"] = value(proxy, student, teacher)
    return found


# -- measuring ----------------------------------------------------------------------------------

FORWARD_NEEDS = ("block_entropies", "block_features", "stage_features", "code_gram", "sign_patterns", "leaf_maps")
BACKWARD_NEEDS = ("gradients", "block_gradients", "input_jacobian")


def choose(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Architectures and known accuracies: distinct connected cells in a seeded order, and S0."""
    cells = search_spaces.create_space("nasbench201", num_classes=10)
    distinct = sorted({str(cells.canonical(cell)) for cell in cells})
    random.Random(0).shuffle(distinct)
    connected = (text for text in distinct if cells.is_trainable(cells.parse(text)))
    trained = ds.read_table(args.tables / "nasbench201.csv.gz", "cifar10_test_accuracy")
    distilled = ds.read_table(args.tables / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    return {"cells": dict(trained.select(itertools.islice(connected, args.cells))), "s0": dict(distilled)}


def plan(args: argparse.Namespace, accuracies: Mapping[str, Mapping[str, float]]) -> list[Key]:
    """What is to be measured."""
    first = [(text, name, "first") for name, known in accuracies.items() for text in known]
    again = list(accuracies["cells"])[: args.again]
    return first + [(text, "cells", draw) for draw in list(DRAWS)[1:] for text in again]


class Bench:
    """All that the networks of one set are read with in one draw."""

    def __init__(self, name: str, draw: str, args: argparse.Namespace) -> None:
        self.seed, images = DRAWS[draw]
        space, data = {"cells": ("nasbench201", args.cifar10), "s0": ("cifar_resnet_s0", args.cifar100)}[name]
        probe = ds.create_probe(str(data), batch_size=64, seed=images)
        self.space = search_spaces.create_space(space, num_classes=probe.num_classes)
        first = ds.Probe.from_tensors(probe.images[:32], probe.labels[:32], probe.num_classes)
        self.evaluator = ds.Evaluator(self.space, None, (probe, first), "params", device="cpu")
        self.teachers = {
            f"{teacher} {seed}": ds.read_network(ds.create_teacher(teacher, num_classes=probe.num_classes), probe, seed)
            for teacher in TEACHERS
            for seed in TEACHER_SEEDS
        }
        self.references = references(probe, self.teachers)

    def measure(self, text: str, names: Sequence[str]) -> Line:
        """Statistics by group and name, processor seconds by group, and why a group has none."""
        student, part = (
            self.evaluator.read_student(self.space.parse(text), self.seed, index, needs)
            for index, needs in enumerate((FORWARD_NEEDS, BACKWARD_NEEDS))
        )
        groups = GROUPS | {"teacher": lambda student, _: likeness(student, self.teachers, self.references)}
        found: Line = {"values": {}, "seconds": {}, "failed": {}}
        for name in names:
            started = time.process_time()
            try:
                found["values"][name] = groups[name](student, part)
            except Exception as error:  # a network may fail in any way
                found["failed"][name] = repr(error)
            found["seconds"][name] = time.process_time() - started
        return found


def measure(args: argparse.Namespace, work: Sequence[Key]) -> None:
    """Measure what of this process's part no line holds yet."""
    index, parts = (int(number) for number in args.part.split("/"))
    lines = read_lines(args.runs)
    benches: dict[tuple[str, str], Bench] = {}
    with (args.runs / f"statistics-{index}-{parts}.jsonl").open("a") as file:
        for key in work[index - 1 :: parts]:
            text, name, draw = key
            known = {} if args.anew or key not in lines else lines[key]["seconds"]
            missing = [group for group in args.groups if group not in known]
            if not missing:
                continue
            if (name, draw) not in benches:
                benches = {(name, draw): Bench(name, draw, args)}
            line = {"key": key} | benches[name, draw].measure(text, missing)
            file.write("\n" + json.dumps(line))  # a line that a kill cut off does not spoil the next
            file.flush()


def read_lines(folder: Path) -> dict[Key, Line]:
    """What is known of each key, from the lines of all processes; one that a kill cut off is left out."""
    found: dict[Key, Line] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            known = found.setdefault(tuple(line["key"]), {"values": {}, "seconds": {}, "failed": {}})
            for part in known:
                known[part] |= line[part]
    return found


# -- judging ------------------------------------------------------------------------------------


class Pool:
    """Architectures with known accuracies, and their statistics as they are and as log ranks.

    Args:
        lines: Of each architecture.
        accuracies: Likewise.
    """

    def __init__(self, lines: Sequence[Line], accuracies: Sequence[float]) -> None:
        by_name = [{name: x for group in line["values"].values() for name, x in group.items()} for line in lines]
        names = dict.fromkeys(itertools.chain.from_iterable(by_name))
        self.natural = {name: np.array([one.get(name, math.nan) for one in by_name]) for name in names}
        self.ranks = {name: log_ranks(column) for name, column in self.natural.items()}
        self.accuracies = np.array(accuracies)
        self.params = np.exp(self.natural["log_params"])
        self.best = best_decile(self.accuracies)

    def sum(self, terms: Terms, kind: str = "natural") -> Column:
        """NaN, which ranks last, where a statistic is missing."""
        columns = {"natural": self.natural, "ranks": self.ranks}[kind]
        return np.sum([weight * columns[name] for weight, name in terms], axis=0)

    def correlate(self, scores: Sequence[Column]) -> list[float]:
        """Spearman of many scores at once."""
        ranks = rankdata(np.nan_to_num(np.stack(scores), nan=-np.inf, neginf=-np.inf), axis=1)
        return np.corrcoef(rankdata(self.accuracies), ranks)[0, 1:].tolist()

    def judge(self, scores: Column) -> list[float]:
        """As `OF_CELLS` names it."""
        return [
            ds.spearman(scores, self.accuracies),
            ds.partial_spearman(scores, self.accuracies, self.params),
            ds.spearman(scores[self.best], self.accuracies[self.best]),
            ds.regret_at_budget(scores, self.accuracies, self.params),
        ]

    def judge_few(self, scores: Column) -> list[float]:
        """As `OF_S0` names it: what 64 networks can tell."""
        agreement, _ = ds.size_matched_agreement(scores, self.accuracies, self.params)
        regret = ds.regret_at_budget(scores, self.accuracies, self.params)
        return [ds.kendall(scores, self.accuracies), regret, agreement]


OF_CELLS = ("Spearman", "given params", "best tenth", "regret")
OF_S0 = ("Kendall", "regret", "same size")
COLUMNS = (*(f"{half}: {what}" for half in "AB" for what in OF_CELLS), *(f"S0: {what}" for what in OF_S0))


def log_ranks(column: Column) -> Column:
    """Log of the rank as a share of the pool; a missing value is the worst."""
    return np.log(rankdata(np.where(np.isnan(column), -np.inf, column)) / len(column))


def plain(names: Iterable[str]) -> Terms:
    return [(1.0, name) for name in names]


class Judges:
    """Half A, where sums are chosen, and those that confirm: half B and S0. All that they judge is kept in `rows`."""

    def __init__(self, a: Pool, b: Pool, s0: Pool) -> None:
        self.a, self.b, self.s0 = a, b, s0
        self.rows: list[tuple[str, str, list[float]]] = []

    def judge(self, what: str, label: str, terms: Terms) -> list[float]:
        """`values`, which are noted down."""
        values = self.values(terms)
        self.rows.append((what, label, values))
        return values

    def values(self, terms: Terms, kind: str = "natural") -> list[float]:
        """As `COLUMNS` names them."""
        a, b, s0 = (pool.sum(terms, kind) for pool in (self.a, self.b, self.s0))
        return [*self.a.judge(a), *self.b.judge(b), *self.s0.judge_few(s0)]

    def beyond(self, name: str) -> list[float]:
        """What a statistic says of accuracy beyond the chosen sum, and beyond it and pixels: on A, B, A and B."""
        return [
            partial(pool.natural[name], pool.accuracies, [pool.sum(plain(CHOSEN)), *(pool.natural[x] for x in more)])
            for more in ((), (PIXELS,))
            for pool in (self.a, self.b)
        ]

    def try_sums(self, kind: str) -> list[Tried]:
        """All sums of two to four terms, the best on A first."""
        known = [name for name in SUMMED if name in self.a.natural]
        sums = [names for count in (2, 3, 4) for names in itertools.combinations(known, count)]
        on_a, on_b = (pool.correlate([pool.sum(plain(names), kind) for names in sums]) for pool in (self.a, self.b))
        on_s0 = [ds.kendall(self.s0.sum(plain(names), kind), self.s0.accuracies) for names in sums]
        tried = sorted(zip(sums, on_a, on_b, on_s0, strict=True), key=lambda one: -one[1])
        what = {"natural": "sum", "ranks": "sum of log ranks"}[kind]
        blank = [math.nan] * (len(OF_CELLS) - 1)
        self.rows += [(what, " + ".join(names), [a, *blank, b, *blank, s0]) for names, a, b, s0 in tried]
        return tried


PIXELS = "mean_cka pixels"
"""Likeness to the images themselves, which a teacher has to add something to."""


def partial(scores: Column, accuracies: Column, given: Sequence[Column]) -> float:
    """Correlation of the ranks of scores and accuracies, with the ranks of others regressed out of both."""
    others = np.column_stack([np.ones(len(scores)), *map(rankdata, given)])
    ranks = np.column_stack([rankdata(np.nan_to_num(scores, nan=-np.inf)), rankdata(accuracies)])
    residuals = ranks - others @ np.linalg.lstsq(others, ranks, rcond=None)[0]
    if np.ptp(residuals[:, 0]) < 1e-6 * len(scores):  # the others say it all
        return 0.0
    return float(np.corrcoef(residuals.T)[0, 1])


def changes() -> dict[str, Terms]:
    """The chosen sum with one thing changed."""
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
    found: dict[str, Terms] = {"the chosen sum": chosen}
    found |= {f"without {name}": [term for term in chosen if term[1] != name] for name in CHOSEN}
    for factor in (2.0, 0.5):
        found |= {f"{factor:g} {name}": [(factor if n == name else 1.0, n) for n in CHOSEN] for name in CHOSEN}
    return found | {
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


# -- the report ---------------------------------------------------------------------------------


def table(titles: Sequence[str], rows: Iterable[Row]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    lines += ["| " + " | ".join(map(as_text, titles, row)) + " |" for row in rows]
    return [*lines, ""]


def as_text(title: str, cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return ""
    return f"{cell:.2f}" if "regret" in title else f"{cell:+.3f}"


def describe_sums(judges: Judges, kind: str) -> list[str]:
    """How many were tried, how they did, and the best on A: of all, and of those that know S0 as well as size does."""
    tried = judges.try_sums(kind)
    of_size = ds.kendall(judges.s0.params, judges.s0.accuracies)
    lines = []
    for which, sums in (("All", tried), ("As good as parameters on S0", [one for one in tried if one[3] >= of_size])):
        lines += [f"### {which}: {len(sums):,}", "", *describe_best(judges, kind, sums), ""] if sums else []
    return lines


def describe_best(judges: Judges, kind: str, tried: Sequence[Tried]) -> list[str]:
    on_a, on_b = np.array([one[1:3] for one in tried]).T
    quantiles = ", ".join(f"{np.quantile(on_a, share):.3f}" for share in (0.05, 0.25, 0.5, 0.75, 0.95))
    default = [pool.correlate([pool.sum(plain(CHOSEN), kind)])[0] for pool in (judges.a, judges.b)]
    places = [1 + int((known > of_default).sum()) for known, of_default in zip((on_a, on_b), default, strict=True)]
    best: list[Row] = [(" + ".join(names), *judges.values(plain(names), kind)) for names, *_ in tried[:15]]
    return [
        f"Spearman on A: quantiles 5, 25, 50, 75 and 95 % {quantiles}, best {on_a[0]:.3f}. Mean of the best 15: "
        f"{on_a[:15].mean():.3f} on A, {on_b[:15].mean():.3f} on B. Rank correlation, over all these sums, of Spearman "
        f"on A and on B: {ds.spearman(on_a, on_b):.3f}.",
        f"The default's {len(CHOSEN)} terms have {default[0]:.3f} and {default[1]:.3f}: among these they would be "
        f"number {places[0]} on A, {places[1]} on B.",
        "",
        *table(("sum", *COLUMNS), best),
    ]


def describe_draws(lines: Mapping[Key, Line], accuracies: Mapping[str, float], count: int) -> list[str]:
    """How much of a statistic is chance: rank correlation of two draws, and what each draw is worth."""
    cells = [text for text in accuracies if all((text, "cells", draw) in lines for draw in DRAWS)][:count]
    pools = [Pool([lines[text, "cells", draw] for text in cells], [accuracies[t] for t in cells]) for draw in DRAWS]
    kept = {"**the chosen sum**": CHOSEN} | {name: (name,) for name in dict.fromkeys((*CHOSEN, *SUMMED))}
    rows: list[Row] = []
    for label, names in kept.items():
        if any(name not in pool.natural for name in names for pool in pools):
            continue
        first, *others = (pool.sum(plain(names)) for pool in pools)
        alone = [ds.spearman(scores, pools[0].accuracies) for scores in (first, *others)]
        mean = ds.spearman(np.mean([first, *others], axis=0), pools[0].accuracies)
        rows.append((label, *(ds.spearman(first, other) for other in others), *alone, mean))
    titles = ("statistic", "first and other weights", "first and other images", *DRAWS, "mean of the three")
    return [
        "## How much is chance",
        "",
        f"Rank correlation of two draws of the same {len(cells)} cells, Spearman with the accuracy in each draw, and "
        "of the mean.",
        "",
        *table(titles, rows),
    ]


def compare_on_cells(judges: Judges, best: Sequence[str]) -> str:
    """Intervals of the chosen sum, and whether the best on A is better on B."""
    parts = []
    for label, pool in (("A", judges.a), ("B", judges.b)):
        scores = np.stack([pool.sum(plain(names)) for names in (CHOSEN, best)])
        counts = draw_resamples(len(pool.accuracies), 1000, 0)
        chosen, other = bootstrap_correlations(scores, pool.accuracies, pool.params, counts)["spearman"]
        intervals = [" to ".join(f"{end:+.3f}" for end in percentile_interval(x)) for x in (chosen, other - chosen)]
        parts.append(f"on {label} {intervals[0]}, and the best sum on A has {intervals[1]} more")
    return f"95 % intervals over cells of the chosen sum's Spearman: {'; '.join(parts)}."


def describe_work(args: argparse.Namespace, lines: Sequence[Line]) -> list[str]:
    """On what, and at which cost, of the lines of all cells."""
    seconds = {group: statistics.median(line["seconds"][group] for line in lines) for group in lines[0]["seconds"]}
    untried = [group for group in GROUPS if group not in seconds]
    failed = sorted({f"{group} ({why})" for line in lines for group, why in line["failed"].items()})
    return [
        "# What was tried on the way to the default score",
        "",
        "`python experiments/score_search.py --tables TABLES --cifar10 data/cifar10.npz --cifar100 data/cifar100.npz "
        f"--cells {args.cells} --again {args.again}`, batch 64 of training images (gradients: the first 32), CPU "
        f"float32, torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} thread(s) "
        f"of {os.cpu_count()} cores.",
        "",
        f"{len(lines)} distinct connected cells of NAS-Bench-201, test accuracy on CIFAR-10. Those at even places of "
        "a seeded order are half A, by which all tables are ordered, the others half B. S0: 64 CIFAR ResNets, accuracy "
        "on CIFAR-100 when distilled from ResNet-110. One draw of weights and images.",
        "",
        "*Regret*: points of accuracy lost by picking with the score, mean over ten parameter budgets. *Given params*: "
        "Spearman with the ranks of the parameter count regressed out. *Best tenth*: Spearman among the most accurate "
        "tenth. *Same size*: agreement in sign on pairs within 15 % of each other's parameters, -1 to 1. Nothing is "
        "fitted: all terms of a sum have weight one, unless its label says otherwise.",
        "",
        f"Processor time of a cell, median: {', '.join(f'{g} {1000 * time_:.0f} ms' for g, time_ in seconds.items())}. "
        f"Not tried, for their cost: {', '.join(['ntk', 'grasp', 'zen', *untried])}. Groups that failed on a "
        f"cell: {'; '.join(failed) or 'none'}.",
        "",
    ]


def report(args: argparse.Namespace, accuracies: Mapping[str, Mapping[str, float]], lines: Mapping[Key, Line]) -> None:
    """Both result files."""

    def pool(name: str, texts: Sequence[str]) -> Pool:
        return Pool([lines[text, name, "first"] for text in texts], [accuracies[name][text] for text in texts])

    cells = list(accuracies["cells"])
    judges = Judges(pool("cells", cells[::2]), pool("cells", cells[1::2]), pool("s0", list(accuracies["s0"])))
    changed: list[Row] = [(label, *judges.judge("changed", label, terms)) for label, terms in changes().items()]
    sums = {kind: describe_sums(judges, kind) for kind in ("natural", "ranks")}
    best = max((row for row in judges.rows if row[0] == "sum"), key=lambda row: row[2][0])[1].split(" + ")
    alone: list[str] = []
    added: list[str] = []
    for group, values in lines[cells[0], "cells", "first"]["values"].items():
        rows: list[Row] = [(name, *judges.judge("alone", name, plain([name]))) for name in values]
        more: list[Row] = [
            (name, *judges.beyond(name), *judges.judge("added", f"sum + {name}", plain([*CHOSEN, name])))
            for name in values
            if name not in CHOSEN
        ]
        if rows:
            alone += [f"### {group}", "", *table(("statistic", *COLUMNS), sorted(rows, key=on_a))]
        if more:
            given = (f"{half}: given {what}" for what in ("the sum", "sum and pixels") for half in "AB")
            titles = ("statistic", *given, *COLUMNS)
            added += [f"### {group}", "", *table(titles, sorted(more, key=on_a))]
    text = [
        *describe_work(args, [lines[cell, "cells", "first"] for cell in cells]),
        f"The default score is the sum of {', '.join(CHOSEN)}. {compare_on_cells(judges, best)} In all, "
        f"{len(judges.rows):,} scores were tried; each is a row of score_search.csv.gz.",
        "",
        "## The chosen sum, and one thing changed",
        "",
        *table(("sum", *COLUMNS), changed),
        "## Sums of two to four statistics, as they are",
        "",
        f"Of {', '.join(name for name in SUMMED if name in judges.a.natural)}.",
        "",
        *sums["natural"],
        "## The same sums, of the logs of ranks among the cells of a half",
        "",
        *sums["ranks"],
        "## Every statistic alone",
        "",
        *alone,
        "## Every statistic added to the chosen sum",
        "",
        "*Given the sum*: Spearman with the ranks of the sum regressed out; *given sum and pixels*: with those of "
        f"`{PIXELS}` as well, which needs no teacher. The number behind a random teacher is its seed; pixels, labels "
        "and noise take a teacher's place for control.",
        "",
        *added,
        *(describe_draws(lines, accuracies["cells"], args.again) if args.again else ()),
    ]
    (RESULTS / "score_search.md").write_text("\n".join(text).rstrip() + "\n")
    with (
        (RESULTS / "score_search.csv.gz").open("wb") as packed,
        gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as unpacked,
        io.TextIOWrapper(unpacked, newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tried as", "score", *COLUMNS))
        for what, label, judged in judges.rows:
            writer.writerow((what, label, *("" if math.isnan(one) else f"{one:.3f}" for one in judged)))


def on_a(row: Row) -> float:
    """Sorts by Spearman on A, the best first, constants last."""
    spearman = float(row[-len(COLUMNS)])
    return math.inf if math.isnan(spearman) else -spearman


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the two accuracy tables")
    parser.add_argument("--cifar10", type=Path, required=True, help="npz file with CIFAR-10's training images")
    parser.add_argument("--cifar100", type=Path, required=True, help="npz file with CIFAR-100's training images")
    parser.add_argument("--runs", type=Path, default=Path("runs/score_search"))
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--again", type=int, default=100, help="cells that are measured with other weights and images")
    parser.add_argument("--groups", nargs="+", default=[*GROUPS, "teacher"], help="what to measure; the rest later")
    parser.add_argument("--anew", action="store_true", help="measure these groups again; the last line counts")
    parser.add_argument("--part", default="1/1", help="the share of the work that this process does, as 1/2")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    accuracies = choose(args)
    work = plan(args, accuracies)
    measure(args, work)
    lines = read_lines(args.runs)
    if all(key in lines for key in work):
        report(args, accuracies, lines)


if __name__ == "__main__":
    main()
