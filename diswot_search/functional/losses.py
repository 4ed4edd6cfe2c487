"""Losses of distillation as pure functions of tensors; proxies and distillers share them."""

from __future__ import annotations

import math

import torch
from scipy.special import hyp0f1
from torch import Tensor
from torch.nn import functional as F

from .shapes import check_logits, check_shapes, match_positions
from .similarities import channel_gram, class_gram_of_maps, cosines_of_rows, exact, row_normalise, sample_gram

# -- predictions --------------------------------------------------------------------------------


def kd_standardised_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Distill logits that are standardised per sample: centred, and divided by their standard deviation.

    The standard deviation has N - 1 degrees of freedom. A sample whose logits are all equal counts as zeros and has no
    gradient.

    Args:
        student: The student's logits (B, N).
        teacher: The teacher's logits (B, N).
        temperature: The divisor of standardised logits.

    Raises:
        ValueError: The logits have different shapes or fewer than two classes.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
        >>> round(float(kd_standardised_loss(5 * logits + 1, logits)), 6) + 0.0
        0.0
    """
    check_logits("kd_standardised", student, teacher)
    scale = math.sqrt(student.shape[1] - 1)
    first, second = (scale * _centred_units(logits) for logits in (student, teacher))
    return kd_loss(first, second, temperature)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled distillation: T^2 times a divergence of the label against the rest and one within the rest.

    Args:
        student: The student's logits (B, N).
        teacher: The teacher's logits (B, N).
        labels: Class indices (B,).
        alpha: The weight of the divergence between the label and all other classes together.
        beta: The weight of the divergence among the other classes. Values of 1 to 8 are customary, 2 for ResNet-20
            under ResNet-56.
        temperature: The divisor of logits, T.

    Raises:
        ValueError: The logits have different shapes or fewer than two classes.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
        >>> round(float(dkd_loss(logits.flip(0), logits, torch.tensor([0, 2]))), 3)
        6.087
    """
    check_logits("dkd", student, teacher)
    (target, rest), (teacher_target, teacher_rest) = (
        _split_by_label(logits / temperature, labels) for logits in (student, teacher)
    )
    divergence = alpha * _divergence(target, teacher_target) + beta * _divergence(rest, teacher_rest)
    return temperature**2 * divergence


def _split_by_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return log probabilities (B, 2) of label and rest, and (B, N - 1) of the other classes among themselves."""
    labels = labels[:, None]
    indices = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, indices + (indices >= labels))
    label_and_rest = torch.cat([logits.gather(1, labels), others.logsumexp(1, keepdim=True)], 1)
    return label_and_rest.log_softmax(1), others.log_softmax(1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence KL(q || p) of log probabilities (B, K), mean over samples."""
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """Correlation of softened predictions: T^2 times 1 - Pearson's correlation, per sample and per class.

    A sample or class without variance, up to rounding, has correlation 0 and no gradient. This holds for every class in
    a batch of one.

    Args:
        student: The student's logits (B, N).
        teacher: The teacher's logits (B, N).
        beta: The weight of the correlations over classes, mean over samples.
        gamma: The weight of the correlations over samples, mean over classes.
        temperature: The divisor of logits, T.

    Raises:
        ValueError: The logits have different shapes or fewer than two classes.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
        >>> round(float(dist_loss(logits.flip(0), logits)), 3)
        53.015
    """
    check_logits("dist", student, teacher)
    p, q = ((logits / temperature).softmax(1) for logits in (student, teacher))
    return temperature**2 * (beta * _decorrelation(p, q) + gamma * _decorrelation(p.T, q.T))


def _decorrelation(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 - the mean of Pearson's correlations between paired rows (R, K)."""
    return 1 - (_centred_units(first) * _centred_units(second)).sum(1).mean()


def _centred_units(rows: Tensor) -> Tensor:
    """Centre rows (R, K) and scale them to norm one; rows constant up to rounding become zeros without gradient."""
    centred = rows - rows.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    constant = norms <= 10 * torch.finfo(rows.dtype).eps * rows.norm(dim=1, keepdim=True)
    return (centred / norms.masked_fill(constant, 1)).masked_fill(constant, 0)


# -- feature maps -------------------------------------------------------------------------------


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hints: mean squared difference of features.

    Args:
        student: The student's features, of any shape, brought to the teacher's shape by a connector.
        teacher: The teacher's features, of the same shape.

    Raises:
        ValueError: The shapes differ.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.

    Example:
        >>> float(fitnet_loss(torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)))
        1.0
    """
    check_shapes("fitnet", "features of one shape", student, teacher)
    return F.mse_loss(student, teacher)


def vid_loss(student: Tensor, teacher: Tensor, raw_variance: Tensor, eps: float = 1e-5) -> Tensor:
    """Variational information: negative log likelihood of the teacher's features, without the constant log(2 pi) / 2.

    The likelihood is a Gaussian around the student's features with one variance per channel. The loss is the mean over
    all entries. If student and teacher are equal, it is half the mean log variance, which can be negative.

    Args:
        student: The student's features (B, C, ...), brought to the teacher's shape by a connector.
        teacher: The teacher's features (B, C, ...).
        raw_variance: Learnt parameters (C,); the variance is softplus(raw_variance) + eps.
        eps: The smallest variance.

    Raises:
        ValueError: The shapes differ, or there is not one variance per channel.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019.

    Example:
        >>> features = torch.zeros(2, 4, 8, 8)
        >>> round(float(vid_loss(features, features + 1, raw_variance=torch.zeros(4))), 3)
        0.538
    """
    check_shapes("vid", "features of one shape", student, teacher)
    variance = _by_channel("vid", "variances", F.softplus(raw_variance) + eps, teacher)
    return 0.5 * ((student - teacher).square() / variance + variance.log()).mean()


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Overhaul: partial squared distance to the teacher's margin ReLU, sum over a sample, mean over samples.

    Teacher features below the margin are raised to it. If the result is not positive, student features below it add
    nothing to the loss.

    Args:
        student: The student's features before the activation (B, C, ...), brought to the teacher's shape by a
            connector.
        teacher: The teacher's features before the activation (B, C, ...).
        margin: The margins (C,), at most 0; see `ofd_margin`.

    Raises:
        ValueError: The shapes differ, or there is not one margin per channel.

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.

    Example:
        >>> maps = torch.ones(2, 4, 8, 8)
        >>> float(ofd_loss(maps, 2 * maps, margin=torch.zeros(4)))
        256.0
    """
    check_shapes("ofd", "features of one shape", student, teacher)
    target = teacher.maximum(_by_channel("ofd", "margins", margin, teacher))
    difference = student - target
    return torch.where(target > 0, difference, difference.relu()).square().flatten(1).sum(1).mean()


def ofd_margin(mean: Tensor, std: Tensor) -> Tensor:
    """Compute the expectation of each channel's Gaussian, given that it is negative; its limit for zero deviation.

    With z = mean / std the expectation is mean - std phi(z) / Phi(-z). The quotient is computed with the scaled
    complementary error function, which is stable for channels that are hardly ever negative.

    Args:
        mean: The means (C,) of the features before the activation: the bias of the batch normalisation there.
        std: The standard deviations (C,) of these features: the absolute weight of the batch normalisation.

    Returns:
        The margins (C,), at most 0.

    Example:
        >>> ofd_margin(torch.tensor([0.0]), torch.tensor([1.0]))  # -sqrt(2 / pi)
        tensor([-0.7979])

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
    """
    centre, spread = exact(mean), exact(std)
    ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(centre / spread / math.sqrt(2))
    margin = torch.where(spread > 0, centre - spread * ratio, centre).clamp_max(0)
    return margin.to(mean)


def reviewkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context: weighted mean of squared differences between maps and between their pooled pyramids.

    The maps have weight 1. Their averages on grids of 4 x 4, 2 x 2 and 1 x 1 each have half the weight of the level
    before. Grids that are not smaller than the maps are left out.

    Args:
        student: A stage of the student (B, C, H, W), fused with the later stages and brought to the teacher's shape.
        teacher: A stage of the teacher (B, C, H, W).

    Raises:
        ValueError: The shapes differ.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021.

    Example:
        >>> maps = torch.zeros(2, 4, 8, 8)
        >>> float(reviewkd_loss(maps, maps + 1))
        1.0
    """
    check_shapes("reviewkd", "maps of one shape", student, teacher)
    difference = student - teacher  # pooling is linear
    height, width = difference.shape[2:]
    levels = [difference]
    levels += [F.adaptive_avg_pool2d(difference, side) for side in (4, 2, 1) if side < max(height, width)]
    weights = [0.5**level for level in range(len(levels))]
    terms = [weight * level.square().mean() for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def _by_channel(loss: str, what: str, values: Tensor, maps: Tensor) -> Tensor:
    """Reshape values (C,) so that they broadcast over maps (B, C, ...)."""
    if values.shape != maps.shape[1:2]:
        raise ValueError(f"{loss} needs {maps.shape[1]} {what}, one per channel, got {tuple(values.shape)}")
    return values.view(-1, *[1] * (maps.dim() - 2))


# -- embeddings ---------------------------------------------------------------------------------


def cc_embedded_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence as in published code: products of absolute differences of neighbouring samples.

    The loss is the mean, over neighbours in the batch, of the inner product of their absolute differences between
    student and teacher. The customary weight 0.02 belongs to this loss; `functional.cc_loss` compares kernels as the
    paper does. The loss is 0 for a batch of one.

    Args:
        student: The student's embeddings (B, E).
        teacher: The teacher's embeddings (B, E).

    Raises:
        ValueError: The shapes differ.

    Source: the code of Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, as published
    with Tian et al., ICLR 2020.

    Example:
        >>> float(cc_embedded_loss(torch.zeros(3, 8), torch.ones(3, 8)))
        8.0
    """
    check_shapes("cc", "embeddings of one width", student, teacher)
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def contrastive_loss(cosines: Tensor, *, width: int, temperature: float = 0.07) -> Tensor:
    """Contrastive distillation, one direction: noise-contrastive estimation of which candidate is the same sample.

    A candidate with cosine c is the sample itself with odds exp(c / T) / (K m). Here m is the mean of exp(c / T) over
    random directions, 0F1(E / 2; 1 / (4 T^2)), which an estimate from memories that are still random approximates. The
    loss is summed over candidates, and its mean is taken over samples. It is close to 0 if the positive is at 1 and
    all negatives are at -1.

    Args:
        cosines: Cosines (B, 1 + K) of a sample's embedding with its own entry in the other network's memory, in the
            first column, and with K negatives.
        width: The number of dimensions of the embeddings, E.
        temperature: The divisor of cosines, T.

    Raises:
        ValueError: There is no negative, or the temperature is so small that exp(1 / T) overflows.

    Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020; Wu et al., CVPR 2018 (memory).

    Example:
        >>> round(float(contrastive_loss(torch.tensor([[1.0, -1.0, -1.0]]), width=128)), 3)
        0.0
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
    """Squared distance between the Gram matrices of class activation maps, each scaled to norm one.

    This is the square of the proxy `semantic_paper`. It is 2 - 2 cos of the angle between the matrices, and thus
    between 0 and 2 for every width, number of classes and size of the maps.

    Args:
        student: The student's last feature map (B, C, P).
        student_weight: The weight (N, C) of the student's classifier.
        teacher: The teacher's last feature map (B, C', P').
        teacher_weight: The weight (N, C') of the teacher's classifier.

    Raises:
        ValueError: The numbers of classes differ.

    Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023 (M_s).

    Example:
        >>> maps, weight = torch.rand(4, 8, 16), torch.rand(10, 8)
        >>> round(float(semantic_loss(maps, weight, 3 * maps, weight)), 4)
        0.0
    """
    first, second = (
        class_gram_of_maps(student, student_weight),
        class_gram_of_maps(teacher, teacher_weight),
    )
    check_shapes("the semantic term", "as many classes", first, second)
    return _gram_distance(first, second)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between the Gram matrices of samples, each scaled to norm one.

    This is the square of the proxy `relation_paper`. It is 2 - 2 cos of the angle between the matrices, and thus
    between 0 and 2 for every width and batch. The cosine is the linear CKA without centring.

    Args:
        student: The student's features (B, ...).
        teacher: The teacher's features (B, ...).

    Raises:
        ValueError: The numbers of samples differ.

    Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023 (M_r).

    Example:
        >>> features = torch.rand(4, 64)
        >>> round(float(relation_loss(features, 3 * features)), 4)
        0.0
    """
    first, second = sample_gram(student), sample_gram(teacher)
    check_shapes("the relation term", "as many samples", first, second)
    return _gram_distance(first, second)


def _gram_distance(first: Tensor, second: Tensor) -> Tensor:
    # Each matrix is normalised as a single row: the gradient of `row_normalise` stays finite at zero.
    return (row_normalise(first.flatten()) - row_normalise(second.flatten())).square().sum()


# -- distillation losses ------------------------------------------------------------------------
#
# Each compares a student with a teacher, is differentiable, has no weights of its own, and is zero for equal networks.


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation: T^2 times the Kullback-Leibler divergence of softened predictions, mean over samples.

    Args:
        student: Logits, (B, N).
        teacher: Logits, (B, N).
        temperature: The number T by which logits are divided.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: The logits have different shapes.

    Example:
        >>> import torch
        >>> from diswot_search.functional.losses import kd_loss
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> float(kd_loss(logits, logits))
        0.0

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """
    check_shapes("kd", "logits of the same classes", student, teacher)
    log_p, log_q = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: mean squared difference of attention maps of norm one.

    The attention map is the mean over channels of the squared features.

    Args:
        student: Features of one stage, (B, C, P).
        teacher: Features of one stage, (B, C', P'); see `match_positions`.

    Raises:
        ValueError: The positions cannot be matched.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017.

    Example:
        >>> float(at_loss(torch.ones(1, 2, 4), 3 * torch.ones(1, 5, 4)))
        0.0
    """
    first, second = match_positions(*(maps.square().mean(1, keepdim=True) for maps in (student, teacher)))
    return (row_normalise(first) - row_normalise(second)).square().mean()


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation: mean squared difference of the samples' row-normalised Gram matrices.

    Args:
        student: Features, (B, ...).
        teacher: Features, (B, ...), of any shape after the first dimension.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.

    Example:
        >>> float(sp_loss(torch.eye(2), torch.eye(2).flip(0)))
        0.0
    """
    return (row_normalise(sample_gram(student)) - row_normalise(sample_gram(teacher))).square().mean()


def cc_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4) -> Tensor:
    """Correlation congruence: mean squared difference of the samples' kernel matrices.

    The kernel is the Gaussian `exp(-gamma |x - y|^2)` of features of norm one, approximated by its Taylor polynomial of
    degree 2 in their cosine.

    Args:
        student: Pooled features, (B, D).
        teacher: Pooled features, (B, D').
        gamma: Inverse width of the kernel.

    Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.

    Example:
        >>> float(cc_loss(torch.eye(2), torch.eye(2).flip(0)))
        0.0
    """
    first, second = (2 * gamma * cosines_of_rows(features) for features in (student, teacher))
    difference = (first + first.square() / 2) - (second + second.square() / 2)
    return (math.exp(-2 * gamma) * difference).square().mean()


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational distillation: smooth L1 distance of the samples' relative distances and of the angles in triplets.

    Distances are divided by their mean. The two parts are averaged over pairs and triplets of samples and then added.

    Args:
        student: Pooled features, (B, D).
        teacher: Pooled features, (B, D').
        distance_weight: Weight of the part of the B x B distances.
        angle_weight: Weight of the part of the B x B x B cosines of angles.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019.

    Example:
        >>> rows = torch.eye(3)
        >>> float(rkd_loss(rows, 2 * rows)) < 1e-6
        True
    """
    distances = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
    angles = F.smooth_l1_loss(_angles(student), _angles(teacher))
    return distance_weight * distances + angle_weight * angles


def _relative_distances(features: Tensor) -> Tensor:
    """Distances of samples over the mean of the non-zero ones, (B, B). They are zero if all samples coincide."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / mean.clamp_min(torch.finfo(distances.dtype).tiny)


def _angles(features: Tensor) -> Tensor:
    """Cosine of the angle at sample i between samples j and k, (B, B, B), or zero if i coincides with j or k."""
    directions = row_normalise(features - features[:, None])
    return directions @ directions.transpose(1, 2)


def pkt_loss(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """Probabilistic transfer: divergence of the samples' cosines as probabilities, mean over the B x B terms.

    A cosine c is mapped to (c + 1) / 2, and each row is scaled to sum to one.

    Args:
        student: Pooled features, (B, D).
        teacher: Pooled features, (B, D').
        eps: Number added to probabilities in the logarithm.

    Source: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018.
    """
    p, q = (F.normalize(1 + cosines_of_rows(features), p=1, dim=1) for features in (student, teacher))
    return (q * ((q + eps).log() - (p + eps).log())).mean()


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Neuron selectivity transfer: squared maximum mean discrepancy of the channels' maps, mean over samples.

    Maps are scaled to norm one, and the kernel is (x . y)^2. The discrepancy is then the squared distance of the mean
    outer products of maps, P x P, whatever the number of channels. Where there are more positions than channels, the
    means of the kernel itself cost less and give the same. They nearly cancel for maps that are near each other, so
    they are used in double precision alone.

    Args:
        student: Feature maps, (B, C, P).
        teacher: Feature maps, (B, C', P'); see `match_positions`.

    Raises:
        ValueError: The positions cannot be matched.

    Source: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017.
    """
    first, second = (row_normalise(maps) for maps in match_positions(student, teacher))
    if first.dtype == torch.float64 and first.shape[1] + second.shape[1] < first.shape[2]:
        within = _mean_kernel(first, first) + _mean_kernel(second, second)
        return (within - 2 * _mean_kernel(first, second)).mean()
    products = [maps.transpose(1, 2) @ maps / maps.shape[1] for maps in (first, second)]
    return (products[0] - products[1]).square().sum((1, 2)).mean()


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """The mean of (x . y)^2 over the pairs of maps of each sample, (B,)."""
    return (first @ second.transpose(1, 2)).square().mean((1, 2))


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Inter-channel correlation: squared difference of each sample's row-normalised channel Gram, over C B.

    Channels are compared by their index, so their order matters.

    Args:
        student: Feature maps, (B, C, P).
        teacher: Feature maps, (B, C, P').

    Raises:
        ValueError: The numbers of channels differ.

    Source: Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation", ICCV 2021.
    """
    first, second = (row_normalise(channel_gram(maps)) for maps in (student, teacher))
    check_shapes("ickd", "as many channels", first, second)
    return (first - second).square().sum() / (first.shape[0] * first.shape[1])
