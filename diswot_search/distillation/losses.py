"""Distillation losses beyond those of `functional`, which serve as proxies too: pure functions without parameters.

Each is of a student and a teacher and differentiable; what is learnt beside the student, such as a connector or a
variance, is an argument. Numbers are scaled as in the papers' code, so that customary weights hold.

Shapes: B samples, N classes, C channels, P positions, D features, E dimensions of an embedding, K negatives.
"""

from __future__ import annotations

import math

import torch
from scipy.special import hyp0f1
from torch import Tensor
from torch.nn import functional as F

from .. import functional as fn

# -- predictions --------------------------------------------------------------------------------


def kd_standardised_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Knowledge distillation of each sample's standardised logits: less their mean, over their standard deviation.

    The standard deviation is that of a sample, with N - 1 degrees of freedom. Logits that are all the same have
    none: they count as zeros, and there is no gradient to them.

    Args:
        student: Logits (B, N).
        teacher: Logits (B, N).
        temperature: By which standardised logits are divided.

    Raises:
        ValueError: The logits are of different shapes, or of fewer than two classes.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024.
    """
    _check_logits("kd_standardised", student, teacher)
    scale = math.sqrt(student.shape[1] - 1)
    first, second = (scale * _centred_units(logits) for logits in (student, teacher))
    return fn.kd_loss(first, second, temperature)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled distillation: T^2 times two divergences, of the label against the rest and within the rest.

    Args:
        student: Logits (B, N).
        teacher: Logits (B, N).
        labels: (B,) class indices.
        alpha: Weight of the divergence of the two shares, that of the label and that of all others.
        beta: Weight of the divergence among the other classes; 1 to 8 is customary, 2 for ResNet-20 under ResNet-56.
        temperature: T, by which logits are divided.

    Raises:
        ValueError: The logits are of different shapes, or of fewer than two classes.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """
    _check_logits("dkd", student, teacher)
    (target, rest), (teacher_target, teacher_rest) = (
        _split_by_label(logits / temperature, labels) for logits in (student, teacher)
    )
    parts = alpha * _divergence(target, teacher_target) + beta * _divergence(rest, teacher_rest)
    return temperature**2 * parts


def _split_by_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log shares of the label and of all others (B, 2), and of the others among themselves (B, N - 1)."""
    labels = labels[:, None]
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, places + (places >= labels))
    both = torch.cat([logits.gather(1, labels), others.logsumexp(1, keepdim=True)], 1)
    return both.log_softmax(1), others.log_softmax(1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of p from q, of log shares (B, K); mean over samples."""
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """Correlation of softened predictions: T^2 times 1 - Pearson's, of each sample and of each class in the batch.

    What does not vary up to rounding is correlated with nothing, without gradient: so is every class in a batch of one.

    Args:
        student: Logits (B, N).
        teacher: Logits (B, N).
        beta: Weight of the mean over samples, of correlations over classes.
        gamma: Weight of the mean over classes, of correlations over samples.
        temperature: T, by which logits are divided.

    Raises:
        ValueError: The logits are of different shapes, or of fewer than two classes.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
    """
    _check_logits("dist", student, teacher)
    p, q = ((logits / temperature).softmax(1) for logits in (student, teacher))
    return temperature**2 * (beta * _decorrelation(p, q) + gamma * _decorrelation(p.T, q.T))


def _decorrelation(first: Tensor, second: Tensor) -> Tensor:
    """1 - the mean of Pearson's correlations of rows (R, K), pair by pair."""
    return 1 - (_centred_units(first) * _centred_units(second)).sum(1).mean()


def _centred_units(rows: Tensor) -> Tensor:
    """Rows (R, K) less their mean, of norm one; zero and without gradient where a row is constant up to rounding."""
    centred = rows - rows.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    constant = norms <= 10 * torch.finfo(rows.dtype).eps * rows.norm(dim=1, keepdim=True)
    return (centred / norms.masked_fill(constant, 1)).masked_fill(constant, 0)


def _check_logits(loss: str, student: Tensor, teacher: Tensor) -> None:
    fn.check_shapes(loss, "logits of the same classes", student, teacher)
    if student.shape[1] < 2:
        raise ValueError(f"{loss} compares classes with each other, so it needs at least two; got {student.shape[1]}")


# -- feature maps -------------------------------------------------------------------------------


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hints: mean squared difference of features.

    Args:
        student: Features that a connector has brought to the teacher's shape.
        teacher: Features.

    Raises:
        ValueError: The shapes differ.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
    """
    fn.check_shapes("fitnet", "features of one shape", student, teacher)
    return F.mse_loss(student, teacher)


def vid_loss(student: Tensor, teacher: Tensor, raw_variance: Tensor, eps: float = 1e-5) -> Tensor:
    """Variational information: negative log likelihood of the teacher's features, without the constant log(2 pi) / 2.

    They are Gaussian around the student's, with a variance per channel; mean over all entries. For a student that
    equals its teacher it is half the mean log variance, which may be negative.

    Args:
        student: Features (B, C, ...), brought to the teacher's shape by a connector.
        teacher: Features (B, C, ...).
        raw_variance: (C,), learnt; the variance is softplus(raw_variance) + eps.
        eps: The smallest variance.

    Raises:
        ValueError: The shapes differ, or there is not one variance per channel.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019.
    """
    fn.check_shapes("vid", "features of one shape", student, teacher)
    variance = _by_channel("vid", "variances", F.softplus(raw_variance) + eps, teacher)
    return 0.5 * ((student - teacher).square() / variance + variance.log()).mean()


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Overhaul: partial squared distance to the teacher's margin ReLU, sum over a sample, mean over samples.

    The teacher counts as no less than the margin. Where it is not positive, a student below it costs nothing.

    Args:
        student: Features before the activation (B, C, ...), brought to the teacher's shape by a connector.
        teacher: Features before the activation (B, C, ...).
        margin: (C,), at most 0; see `ofd_margin`.

    Raises:
        ValueError: The shapes differ, or there is not one margin per channel.

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
    """
    fn.check_shapes("ofd", "features of one shape", student, teacher)
    target = teacher.maximum(_by_channel("ofd", "margins", margin, teacher))
    difference = student - target
    return torch.where(target > 0, difference, difference.relu()).square().flatten(1).sum(1).mean()


def ofd_margin(mean: Tensor, std: Tensor) -> Tensor:
    """Expectation of a Gaussian where it is negative, by channel; its limit where there is no spread.

    With z = mean / std it is mean - std phi(z) / Phi(-z). The quotient is taken from the scaled complementary error
    function, so that it holds for channels that are hardly ever negative.

    Args:
        mean: (C,), of the features before the activation: the bias of the batch normalisation there.
        std: (C,), of the same: the absolute weight of the batch normalisation.

    Returns:
        (C,), at most 0.

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
    """
    centre, spread = fn.exact(mean), fn.exact(std)
    ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(centre / spread / math.sqrt(2))
    margin = torch.where(spread > 0, centre - spread * ratio, centre).clamp_max(0)
    return margin.to(mean)


def reviewkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context: weighted mean of the squared differences of maps and of their pooled pyramid.

    Maps have the weight 1, their averages on grids of 4 x 4, 2 x 2 and 1 x 1 half the weight of the level before; a
    grid that is not smaller than the maps is left out.

    Args:
        student: One stage (B, C, H, W), fused with the later ones and brought to the teacher's shape.
        teacher: One stage (B, C, H, W).

    Raises:
        ValueError: The shapes differ.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021.
    """
    fn.check_shapes("reviewkd", "maps of one shape", student, teacher)
    difference = student - teacher  # pooling is linear
    height, width = difference.shape[2:]
    levels = [difference]
    levels += [F.adaptive_avg_pool2d(difference, side) for side in (4, 2, 1) if side < max(height, width)]
    weights = [0.5**place for place in range(len(levels))]
    terms = [weight * level.square().mean() for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def _by_channel(loss: str, what: str, values: Tensor, maps: Tensor) -> Tensor:
    """Values (C,) in a shape that applies to maps (B, C, ...)."""
    if values.shape != maps.shape[1:2]:
        raise ValueError(f"{loss} needs {maps.shape[1]} {what}, one per channel, got {tuple(values.shape)}")
    return values.view(-1, *[1] * (maps.dim() - 2))


# -- embeddings ---------------------------------------------------------------------------------


def cc_embedded_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation of what a sample and the next one in the batch lack: inner product of absolute differences, mean.

    This is what the customary weight .02 belongs to; `functional.cc_loss` is the paper's comparison of kernels. It is
    0 for a batch of one.

    Args:
        student: Embeddings (B, E).
        teacher: Embeddings (B, E).

    Raises:
        ValueError: The shapes differ.

    Source: the code of Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, as published
    with Tian et al., ICLR 2020.
    """
    fn.check_shapes("cc", "embeddings of one width", student, teacher)
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def contrastive_loss(cosines: Tensor, *, width: int, temperature: float = 0.07) -> Tensor:
    """Contrastive distillation, one direction: noise-contrastive estimation of which candidate is the same sample.

    A candidate with cosine c is the sample itself with odds exp(c / T) / (K m), where m is the mean of exp(c / T) over
    random directions. It is known in closed form, 0F1(E / 2; 1 / (4 T^2)), and is what an estimate on memories that
    are still random comes to. Sum over candidates, mean over samples; the least value for a positive at 1 and negatives
    at -1 is near 0.

    Args:
        cosines: (B, 1 + K), of a sample's embedding with its own in the other network's memory, and with K others.
        width: E, of the embeddings.
        temperature: T.

    Raises:
        ValueError: There is no negative, or the temperature is so small that exp(1 / T) overflows.

    Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020; Wu et al., CVPR 2018 (memory).
    """
    negatives = cosines.shape[1] - 1
    if negatives < 1:
        raise ValueError(f"the contrastive loss needs a positive and at least one negative, got {tuple(cosines.shape)}")
    mean = float(hyp0f1(width / 2, 1 / (4 * temperature**2)))
    if not math.isfinite(mean):
        raise ValueError(f"a temperature of {temperature} is too small: exp(1 / {temperature}) overflows")
    odds = cosines / temperature - math.log(negatives * mean)
    return (F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)).mean()


# -- DisWOT's terms on trained networks ---------------------------------------------------------


def semantic_loss(student: Tensor, student_weight: Tensor, teacher: Tensor, teacher_weight: Tensor) -> Tensor:
    """Squared distance of the Gram matrices of the classes' activation maps, each of norm one.

    It is the square of what the proxy `semantic_paper` computes. It is between 0 and 2 for any width, number of
    classes and size of the maps, as 2 - 2 cos of the angle between the two matrices.

    Args:
        student: The last feature map (B, C, P).
        student_weight: The classifier's weight (N, C).
        teacher: The last feature map (B, C', P').
        teacher_weight: The classifier's weight (N, C').

    Raises:
        ValueError: The numbers of classes differ.

    Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023 (M_s).
    """
    first, second = fn.class_gram_of_maps(student, student_weight), fn.class_gram_of_maps(teacher, teacher_weight)
    fn.check_shapes("the semantic term", "as many classes", first, second)
    return _gram_distance(first, second)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the Gram matrices of the samples' features, each of norm one.

    It is the square of what the proxy `relation_paper` computes. It is between 0 and 2 for any width and batch, as
    2 - 2 cos of the angle between the two matrices, their linear CKA without centring.

    Args:
        student: Features (B, ...).
        teacher: Features (B, ...).

    Raises:
        ValueError: The numbers of samples differ.

    Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023 (M_r).
    """
    first, second = fn.sample_gram(student), fn.sample_gram(teacher)
    fn.check_shapes("the relation term", "as many samples", first, second)
    return _gram_distance(first, second)


def _gram_distance(first: Tensor, second: Tensor) -> Tensor:
    # As one row, since the gradient of its normalisation stays finite at zero.
    return (fn.row_normalise(first.flatten()) - fn.row_normalise(second.flatten())).square().sum()
