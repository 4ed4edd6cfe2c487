"""Statistics of a random network that score_search.py tries: higher is better as far as that is known.

Each group of statistics takes the readings of all 64 images, for the forward pass, and of the first 32, for gradients.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Mapping

import numpy as np
import torch
from _common import value_of
from torch import Tensor
from torch.nn import functional as F

import diswot_search as ds
from diswot_search import similarities

CHOSEN = ("log_params", "position_entropy", "layer_entropy", "channel_entropy", "gradient_flow")
"""The terms of the default score, proxies of the library. After a change of one: --groups default --anew."""

SUBSAMPLE_IMAGES = 16
"""The number of images for statistics of positions, as in the default score."""

Values = dict[str, float]


def log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def entropy(parts: Tensor) -> float:
    """Return the entropy of the shares of parts in their sum, in nats."""
    shares = parts.double() / parts.double().sum()
    return float(similarities.entropy(shares))


def collision_entropy(parts: Tensor) -> float:
    """Return Renyi's entropy of order 2 of the shares, which depends more on the large ones."""
    shares = parts.double() / parts.double().sum()
    return -log(float(shares.square().sum()))


def size(student: ds.Readings, part: ds.Readings) -> Values:
    return {
        "log_params": math.log(student.cost.params),
        "log_macs": math.log(student.cost.macs),
        "log_layers": math.log(len(student.layers)),
        "log_neurons": math.log(student.neurons),
        "log_l2_norm": log(value_of("l2_norm", student)),
        "synflow": value_of("synflow", student),
    }


def layers(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure how evenly layers, filters and weights share in the loss: |W g| and similar statistics."""
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
        "log_grad_norm": log(value_of("grad_norm", part)),
        "zico": value_of("zico", part),
        "log_zico": log(float(steadiness.sum())),
        "zico_entropy": entropy(steadiness),
        "gradient_agreement": float(
            torch.stack(
                [F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in zip(first, second, strict=True)]
            ).mean()
        ),
    }


def _steadiness(first: Tensor, second: Tensor) -> Tensor:
    """Sum the ratio of mean magnitude to deviation of two gradients over weights, as in ZiCo."""
    differ = first != second
    return ((first.abs() + second.abs()) / (first - second).abs())[differ].sum()


def channels(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure over how many directions the channels of a map spread."""
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
        "progressivity": value_of("progressivity", student),
        "block_spectrum": statistics.fmean(
            entropy(similarities.channel_spectrum(block)) for block in student.block_features
        ),
        "stage_spectrum": statistics.fmean(entropy(spectrum) for spectrum in spectra),
        "stage_collision_entropy": statistics.fmean(collision_entropy(spectrum) for spectrum in spectra),
        "feature_spectrum": entropy(student.channel_spectrum),
        "pooled_entropy": entropy(torch.linalg.svdvals(pooled.double()).square()),
    }


def positions(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure over how many patterns of positions a map spreads: how finely it tells positions apart."""
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
    """Return the energy by spatial frequency, over samples and channels, of square maps (B, C, P)."""
    side = math.isqrt(maps.shape[2])
    return torch.fft.fft2(maps.unflatten(2, (side, side)).double()).abs().square().sum((0, 1)).flatten()


def samples(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure how far apart the samples are: entropy of the spectrum of their centred Gram matrix, and cosines."""
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
    """Return the inner products of samples less their mean, (B, B)."""
    return similarities.sample_gram(maps - maps.mean(0))


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def codes(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure how well signs tell samples apart: those of all neurons, and of the output of each block."""
    count = len(student.images)
    agreements = [_agreement(block) for block in student.block_features]
    # Without the small diagonal, two samples of one code in one block would decide the score.
    volumes = [float(similarities.log_determinant(one + 1e-6 * torch.eye(count))) / count for one in agreements]
    distances = [1 - float(_off_diagonal(one).mean()) for one in agreements]
    return {
        "nwot": value_of("nwot", student) / count,
        "nwot_of_a_neuron": value_of("nwot", student) / count - math.log(student.neurons),
        "block_codes": statistics.fmean(volumes),
        "least_block_codes": min(volumes),
        "last_block_codes": volumes[-1],
        "code_distance": statistics.fmean(distances),
        "sum_of_code_distances": log(math.fsum(distances)),
        "log_swap": log(value_of("swap", student)),
        "linear_regions": value_of("linear_regions", student),
        "meco": value_of("meco", student),
        "log_meco": log(value_of("meco", student)),
    }


def _agreement(maps: Tensor) -> Tensor:
    """Return the share of positions and channels at which two samples have one sign, (B, B)."""
    signs = (maps > 0).flatten(1).float() * 2 - 1
    return (1 + signs @ signs.T / signs.shape[1]) / 2


def gradients(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure how blocks change a random gradient on its way back, and how well gradients tell images apart."""
    pairs = [(sent, similarities.unshuffled(arrived, sent.shape[2])) for sent, arrived in part.block_gradients]
    gains = np.log([max(similarities.mean_jacobian_gain(s, a), 1e-3) for s, a in pairs if a is not None])
    norms = np.log([max(float(a.norm() / s.norm()), 1e-3) for s, a in part.block_gradients])
    jacobian = torch.linalg.eigvalsh(similarities.correlations(part.input_jacobian)).clamp_min(0) + 1e-3
    return {
        "trainability": value_of("trainability", part),
        "gain_flow": float(np.minimum(gains, 0).mean()),
        "gain": float(gains.mean()),
        "gain_distance": -float(np.abs(gains).mean()),
        "gain_deviation": -float(np.sqrt(np.square(gains).mean())),
        "total_gain_distance": -float(np.abs(gains).sum()),
        "norm_flow": float(np.minimum(norms, 0).mean()),
        "norm": float(norms.mean()),
        "norm_distance": -float(np.abs(norms).mean()),
        "norm_evenness": -float(norms.std()),
        "jacov": value_of("jacov", part),
        "jacobian_volume": float(jacobian.log().mean()),
        "epe_nas": value_of("epe_nas", part),
        "small_logits": -log(float(student.logits.std(0).mean())),
    }


def fisher(student: ds.Readings, part: ds.Readings) -> Values:
    """Measure the spectrum of the information about one weight of each layer."""
    information = student.fisher_information
    return {
        "vkdnw": value_of("vkdnw", student),
        "fisher_entropy": entropy(similarities.spectrum(information)),
        "fisher_diagonal_entropy": entropy(information.diagonal()),
        "log_fisher_trace": log(float(information.diagonal().sum())),
    }


def default(student: ds.Readings, part: ds.Readings) -> Values:
    """Return the terms of the default score, which take the images that they need."""
    return {name: value_of(name, student) for name in CHOSEN}


def passes(student: ds.Readings, part: ds.Readings) -> Values:
    """Run the passes that most groups share, so that no group is charged for them; there is no statistic."""
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
    """Return centred Gram matrices of the samples by stage: of teachers, and as controls of pixels, labels, noise."""
    grams = {name: stage_grams(teacher) for name, teacher in teachers.items()}
    images = probe.images
    noise = torch.randn(len(images), 4096, generator=torch.Generator().manual_seed(0))
    controls = {
        "pixels": images,
        "coarse pixels": F.avg_pool2d(images, 4),
        "fine pixels": images - F.interpolate(F.avg_pool2d(images, 4), scale_factor=4),
        "labels": F.one_hot(probe.labels).float(),
        "noise": noise,
    }
    return grams | {name: [centred_gram(control)] * 9 for name, control in controls.items()}


def stage_grams(readings: ds.Readings) -> Grams:
    return [centred_gram(maps) for maps in (*readings.stage_features, readings.features)]


def likeness(student: ds.Readings, teachers: Mapping[str, ds.Readings], others: Mapping[str, Grams]) -> Values:
    """Return linear CKA by stage, counted from the last, which centres both sides; and DisWOT's terms."""
    values: Values = {}
    own = stage_grams(student)
    for name, grams in others.items():
        alike = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(own[::-1], grams[::-1], strict=False)]
        values[f"last_cka {name}"] = alike[0]
        values[f"mean_cka {name}"] = statistics.fmean(alike)
        values[f"log_cka {name}"] = statistics.fmean(log(max(one, 1e-3)) for one in alike)
    for kind in ("last_cka", "mean_cka", "log_cka"):
        values[f"{kind} all teachers"] = statistics.fmean(values[f"{kind} {name}"] for name in teachers)
    for name, teacher in teachers.items():
        for proxy in ("semantic", "relation", "channel_relation", "at"):
            values[f"{proxy} {name}"] = value_of(proxy, student, teacher)
    return values
