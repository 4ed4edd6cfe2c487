"""The built-in distillers: each is a loss with the connectors that it needs.

Weights are the customary ones of the papers and of their code for CIFAR-100. Stages of student and teacher are paired
from the last. If the grids of a pair differ, its maps are averaged to the smaller height and width.

Distillers that relate samples to each other (`sp`, `rkd`, `pkt`, `cc`, `dist` and `diswot` with its terms) see the
samples of one part of a batch. With `accumulate`, or with several processes, a part has fewer samples, and the loss has
another value. Batch normalisation in connectors depends on the parts in the same way, as does that in the student.

To add a distiller:

    class LastStage(Distiller):
        "Squared difference of the last stages."
        reads = ("stages",)
        weight = 10.0

        def __init__(self, setting):
            super().__init__(setting)
            self.connector = nn.Conv2d(setting.student.stages[-1][0], setting.teacher.stages[-1][0], 1)

        def forward(self, student, teacher, batch):
            first, second = match_grids(self.connector(student.stages[-1]), teacher.stages[-1])
            return (first - second).square().mean()

    register_distiller("last_stage", LastStage)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import check_number
from ..functional import losses
from ..functional.shapes import match_grids, match_in_rows
from ..networks.features import Features
from .base import Batch, Distiller, DistillerError, Setting, check_classes, register_distiller
from .connectors import (
    AttentionFusion,
    check_count,
    check_stage,
    check_stages,
    conv_connector,
    patterned_stages,
    pooled_widths,
    required,
)
from .crd import CRD

# -- predictions --------------------------------------------------------------------------------


class KD(Distiller):
    """Predictions softened by a temperature; Hinton et al., 2015.

    Args:
        setting: The networks and training labels.
        temperature: The divisor of logits, above 0.
    """

    weight = 0.9
    ce_weight = 0.1

    def __init__(self, setting: Setting, temperature: float = 4.0) -> None:
        super().__init__(setting)
        self.temperature = check_number("temperature", temperature, above=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.kd_loss(student.logits, teacher.logits, self.temperature)


class StandardisedKD(Distiller):
    """Softened predictions from logits that are standardised per sample; Sun et al., CVPR 2024.

    Args:
        setting: The networks and training labels.
        temperature: The divisor of standardised logits, above 0.
    """

    weight = 9.0
    ce_weight = 0.1

    def __init__(self, setting: Setting, temperature: float = 2.0) -> None:
        super().__init__(setting)
        self.temperature = check_number("temperature", temperature, above=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.kd_standardised_loss(student.logits, teacher.logits, self.temperature)


class DKD(Distiller):
    """The label's probability and, separately, those of the other classes; Zhao et al., CVPR 2022.

    The label of a mixed image is the class with the largest share.

    Args:
        setting: The networks and training labels.
        alpha: The weight of the label's probability against the rest.
        beta: The weight of the other classes' probabilities among themselves. Values of 1 to 8 are customary, 2 for
            ResNet-20 under ResNet-56.
        temperature: The divisor of logits, above 0.
    """

    warmup = 20 / 240

    def __init__(self, setting: Setting, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__(setting)
        self.alpha = check_number("alpha", alpha, at_least=0, error=DistillerError)
        self.beta = check_number("beta", beta, at_least=0, error=DistillerError)
        self.temperature = check_number("temperature", temperature, above=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.dkd_loss(student.logits, teacher.logits, batch.labels, self.alpha, self.beta, self.temperature)


class DIST(Distiller):
    """Correlation of predictions, within samples and within classes; Huang et al., NeurIPS 2022.

    The correlation within classes relates the samples of one part of a batch; see the module's docstring.

    Args:
        setting: The networks and training labels.
        beta: The weight of the correlations within samples.
        gamma: The weight of the correlations within classes.
        temperature: The divisor of logits, above 0.
    """

    weight = 2.0

    def __init__(self, setting: Setting, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__(setting)
        self.beta = check_number("beta", beta, at_least=0, error=DistillerError)
        self.gamma = check_number("gamma", gamma, at_least=0, error=DistillerError)
        self.temperature = check_number("temperature", temperature, above=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.dist_loss(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)


# -- feature maps -------------------------------------------------------------------------------


class FitNet(Distiller):
    """Features of one stage, through a connector; Romero et al., ICLR 2015.

    The connector is a convolution with batch normalisation. It has no ReLU, since many networks have negative features.

    Args:
        setting: The networks and training labels.
        stage: The stage, counted from the last, which is -1; None for the middle one of the common stages.
    """

    reads = ("stages",)
    weight = 100.0

    def __init__(self, setting: Setting, stage: int | None = None) -> None:
        super().__init__(setting)
        common = check_stages(setting, None)
        self.stage = common[len(common) // 2] if stage is None else check_stage(setting, stage)
        self.connector = _to_teacher(setting, self.stage)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        hint = self.connector(student.stages[self.stage])
        return losses.fitnet_loss(*match_grids(hint, teacher.stages[self.stage]))


class AT(Distiller):
    """Attention maps of several stages: where features are large; Zagoruyko and Komodakis, ICLR 2017.

    Stages with a single position are left out: their attention is always 1.

    Args:
        setting: The networks and training labels.
        stages: Stages counted from the last, such as [-2, -1]; None for all stages that both networks have.
    """

    reads = ("stages",)
    weight = 1000.0

    def __init__(self, setting: Setting, stages: Sequence[int] | None = None) -> None:
        super().__init__(setting)
        self.stages = patterned_stages(setting, check_stages(setting, stages))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = [match_in_rows(student.stages[stage], teacher.stages[stage]) for stage in self.stages]
        return torch.stack([losses.at_loss(*pair) for pair in pairs]).sum()


class VID(Distiller):
    """Likelihood of the teacher's features under a Gaussian around the student's; Ahn et al., CVPR 2019.

    A connector computes the mean. One variance per channel is learnt.

    Args:
        setting: The networks and training labels.
        stages: Stages counted from the last, such as [-2, -1]; None for all stages that both networks have.
        initial_variance: The variance of every channel before training, above 0.
    """

    reads = ("stages",)

    def __init__(self, setting: Setting, stages: Sequence[int] | None = None, initial_variance: float = 5.0) -> None:
        super().__init__(setting)
        self.stages = check_stages(setting, stages)
        variance = check_number("initial_variance", initial_variance, above=0, error=DistillerError)
        raw = variance + math.log(-math.expm1(-variance))  # the inverse of softplus, which keeps variances positive
        self.means = nn.ModuleList(_mean_of_teacher(setting, stage) for stage in self.stages)
        widths = [setting.teacher.stages[stage][0] for stage in self.stages]
        self.raw_variances = nn.ParameterList(torch.full((width,), raw) for width in widths)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        terms = []
        for stage, mean, raw_variance in zip(self.stages, self.means, self.raw_variances, strict=True):
            pair = match_grids(mean(student.stages[stage]), teacher.stages[stage])
            terms.append(losses.vid_loss(*pair, raw_variance))
        return torch.stack(terms).sum()


class OFD(Distiller):
    """Features before activations, compared as far as the activation lets them pass; Heo et al., ICCV 2019.

    Teacher features below a channel's margin are raised to it. The margin is the channel's mean negative response,
    derived from the batch normalisation before the activation, or taken from the batch if there is none. Each stage
    has half the weight of the following one.

    Args:
        setting: The networks and training labels.
        stages: Stages counted from the last, such as [-2, -1]; None for all stages that both networks have.
    """

    reads = ("preactivations",)
    weight = 1e-3

    def __init__(self, setting: Setting, stages: Sequence[int] | None = None) -> None:
        super().__init__(setting)
        self.stages = check_stages(setting, stages)
        self.connectors = nn.ModuleList(_to_teacher(setting, stage) for stage in self.stages)
        norms = setting.norms or (None,) * len(setting.teacher.stages)
        self.margins = nn.ModuleList(_Margin(norms[stage]) for stage in self.stages)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        terms = []
        for stage, connector, margin in zip(self.stages, self.connectors, self.margins, strict=True):
            pair = match_grids(connector(student.preactivations[stage]), teacher.preactivations[stage])
            terms.append(losses.ofd_loss(*pair, margin(pair[1])) * 2.0 ** (stage + 1))
        return torch.stack(terms).sum()


class _Margin(nn.Module):
    """The margins (C,) of a teacher stage; see `OFD`."""

    value: Tensor | None

    def __init__(self, norm: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("value", None if norm is None else losses.ofd_margin(*norm), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        if self.value is not None:
            return self.value
        negative = maps < 0
        return (maps * negative).sum((0, 2, 3)) / negative.sum((0, 2, 3)).clamp_min(1)


class ReviewKD(Distiller):
    """Features before activations at several scales, each stage fused with the later ones; Chen et al., CVPR 2021.

    The fusion starts from the pooled features and goes from the last stage to the first.

    Args:
        setting: The networks and training labels.
        stages: Stages counted from the last, such as [-2, -1]; None for all stages that both networks have.
        width: Number of channels passed on from a stage to the earlier one. None for the width of the student's widest
            stage or of its pooled features, at most 512.
    """

    reads = ("pooled", "preactivations")
    warmup = 20 / 240

    def __init__(self, setting: Setting, stages: Sequence[int] | None = None, width: int | None = None) -> None:
        super().__init__(setting)
        self.stages = check_stages(setting, stages)[::-1]
        channels = [pooled_widths(setting)]
        channels += [(setting.student.stages[stage][0], setting.teacher.stages[stage][0]) for stage in self.stages]
        widest = max(student_channels for student_channels, _ in channels)
        width = min(512, widest) if width is None else check_count("width", width)
        self.fusions = nn.ModuleList(
            AttentionFusion(student_channels, width, teacher_channels, last=index == 0)
            for index, (student_channels, teacher_channels) in enumerate(channels)
        )

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        terms, later = [], None
        for fusion, level, target in zip(self.fusions, self._levels(student), self._levels(teacher), strict=True):
            fused, later = fusion(level, later)
            terms.append(losses.reviewkd_loss(*match_grids(fused, target)))
        return torch.stack(terms).sum()

    def _levels(self, features: Features) -> list[Tensor]:
        pooled = required(features.pooled)[:, :, None, None]
        return [pooled, *(features.preactivations[stage] for stage in self.stages)]


class ICKD(Distiller):
    """Correlations between the channels of a stage in each sample, through a connector; Liu et al., ICCV 2021.

    Args:
        setting: The networks and training labels.
        stage: The stage, counted from the last, which is -1.
    """

    reads = ("stages",)
    weight = 2.5

    def __init__(self, setting: Setting, stage: int = -1) -> None:
        super().__init__(setting)
        self.stage = check_stage(setting, stage)
        self.connector = _to_teacher(setting, self.stage)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.ickd_loss(*match_in_rows(self.connector(student.stages[self.stage]), teacher.stages[self.stage]))


class NST(Distiller):
    """The distribution of the channels' maps at several stages; Huang and Wang, 2017.

    Stages with a single position are left out: their maps are equal up to sign.

    Args:
        setting: The networks and training labels.
        stages: Stages counted from the last, such as [-2, -1]; None for all stages that both networks have.
    """

    reads = ("stages",)
    weight = 50.0

    def __init__(self, setting: Setting, stages: Sequence[int] | None = None) -> None:
        super().__init__(setting)
        self.stages = patterned_stages(setting, check_stages(setting, stages))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = [match_in_rows(student.stages[stage], teacher.stages[stage]) for stage in self.stages]
        return torch.stack([losses.nst_loss(*pair) for pair in pairs]).sum()


def _to_teacher(setting: Setting, stage: int) -> nn.Module:
    """Create a connector from the student's channels of a stage to the teacher's."""
    return conv_connector(setting.student.stages[stage][0], setting.teacher.stages[stage][0])


def _mean_of_teacher(setting: Setting, stage: int) -> nn.Module:
    """Create a network of three layers from the student's channels of a stage to the teacher's."""
    channels, out_channels = setting.student.stages[stage][0], setting.teacher.stages[stage][0]
    convs = [nn.Conv2d(width, out_channels, 1, bias=False) for width in (channels, out_channels, out_channels)]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


# -- relations between samples ------------------------------------------------------------------
#
# These relate the samples of one part of a batch; see the module's docstring.


class SP(Distiller):
    """Similarities of samples at a stage, as inner products; Tung and Mori, ICCV 2019.

    Args:
        setting: The networks and training labels.
        stage: The stage, counted from the last, which is -1.
    """

    reads = ("stages",)
    weight = 3000.0

    def __init__(self, setting: Setting, stage: int = -1) -> None:
        super().__init__(setting)
        self.stage = check_stage(setting, stage)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.sp_loss(student.stages[self.stage], teacher.stages[self.stage])


class CC(Distiller):
    """Differences between samples in linear embeddings of pooled features; Peng et al., ICCV 2019.

    The embeddings of both networks are learnt.

    Args:
        setting: The networks and training labels.
        width: Number of dimensions of the embeddings.
    """

    reads = ("pooled",)
    weight = 0.02

    def __init__(self, setting: Setting, width: int = 128) -> None:
        super().__init__(setting)
        check_count("width", width)
        self.student_embedding, self.teacher_embedding = (nn.Linear(pooled, width) for pooled in pooled_widths(setting))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        first = self.student_embedding(required(student.pooled))
        return losses.cc_embedded_loss(first, self.teacher_embedding(required(teacher.pooled)))


class RKD(Distiller):
    """Distances and angles between samples in pooled features; Park et al., CVPR 2019.

    Args:
        setting: The networks and training labels.
        distance_weight: The weight of the distances, at least 0.
        angle_weight: The weight of the angles, at least 0.
    """

    reads = ("pooled",)

    def __init__(self, setting: Setting, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__(setting)
        self.distance_weight = check_number("distance_weight", distance_weight, at_least=0, error=DistillerError)
        self.angle_weight = check_number("angle_weight", angle_weight, at_least=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pair = required(student.pooled), required(teacher.pooled)
        return losses.rkd_loss(*pair, self.distance_weight, self.angle_weight)


class PKT(Distiller):
    """Similarities of samples in pooled features, as probabilities from cosines; Passalis and Tefas, ECCV 2018."""

    reads = ("pooled",)
    weight = 30000.0

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.pkt_loss(required(student.pooled), required(teacher.pooled))


# -- DisWOT -------------------------------------------------------------------------------------
#
# The paper gives no weights for training. With these, each term's gradient is about as large as that of `kd` when
# training begins (1.1 to 1.4 times for ResNet-20 under a trained ResNet-56 on CIFAR-10, batches of 64).


class DisWOTSemantic(Distiller):
    """Overlap of the classes' activation maps over the batch; Dong et al., CVPR 2023."""

    reads = ("pooled", "features")
    weight = 2.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        check_classes(setting, type(self).__name__)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.semantic_loss(*_maps_and_weights(student, teacher))


class DisWOTRelation(Distiller):
    """Similarities of samples in the last feature map, as inner products; Dong et al., CVPR 2023."""

    reads = ("features",)
    weight = 4.0

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return losses.relation_loss(required(student.features), required(teacher.features))


class DisWOT(Distiller):
    """DisWOT's semantic and relation terms on trained networks; Dong et al., CVPR 2023.

    Args:
        setting: The networks and training labels.
        semantic: The weight of the semantic term, which is between 0 and 2.
        relation: The weight of the relation term, which is between 0 and 2.
    """

    reads = ("pooled", "features")
    weight = 2.0

    def __init__(self, setting: Setting, semantic: float = 1.0, relation: float = 2.0) -> None:
        super().__init__(setting)
        check_classes(setting, type(self).__name__)
        self.semantic = check_number("semantic", semantic, at_least=0, error=DistillerError)
        self.relation = check_number("relation", relation, at_least=0, error=DistillerError)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        semantic = losses.semantic_loss(*_maps_and_weights(student, teacher))
        relation = losses.relation_loss(required(student.features), required(teacher.features))
        return self.semantic * semantic + self.relation * relation


def _maps_and_weights(student: Features, teacher: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the last map (B, C, P) and the classifier's weight (N, C) of the student, then those of the teacher.

    A classifier has no class activation maps if layers lie between the last map and it. If this holds for either
    network, the pooled features of both are used as maps with one position.
    """
    networks = [(required(each.features), required(each.pooled), required(each.weight)) for each in (student, teacher)]
    has_maps = all(features.shape[1] == weight.shape[1] for features, _, weight in networks)
    pairs = [(features.flatten(2) if has_maps else pooled[:, :, None], weight) for features, pooled, weight in networks]
    return *pairs[0], *pairs[1]


BUILT_IN: dict[str, type[Distiller]] = {
    "kd": KD,
    "kd_standardised": StandardisedKD,
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "cc": CC,
    "rkd": RKD,
    "pkt": PKT,
    "vid": VID,
    "crd": CRD,
    "ofd": OFD,
    "reviewkd": ReviewKD,
    "dkd": DKD,
    "dist": DIST,
    "ickd": ICKD,
    "nst": NST,
    "diswot": DisWOT,
    "diswot_relation": DisWOTRelation,
    "diswot_semantic": DisWOTSemantic,
}


for _name, _distiller in BUILT_IN.items():
    register_distiller(_name, _distiller)
