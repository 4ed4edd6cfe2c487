"""One reader: what is a loss of proxies and of distillers gives one number for two networks, whoever reads them.

Proxies read through `Readings`, distillers through `FeatureReader`. Both see the same weights and images in evaluation
mode. A proxy computes its loss in double precision, and features are read in single precision: 1e-6, relative to
losses of more than 1.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.data.probe import Probe, create_probe
from diswot_search.distillation.base import Batch, Setting
from diswot_search.distillation.connectors import common_grid, common_stages
from diswot_search.distillation.distillers import AT, KD, NST, PKT, RKD, SP, DisWOTRelation, DisWOTSemantic
from diswot_search.functional import losses, similarities
from diswot_search.functional.shapes import match_in_rows
from diswot_search.networks.contract import ReadingError
from diswot_search.networks.features import READABLE, FeatureReader, Features, embed_classifier
from diswot_search.networks.forward import run_forward
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision

CLASSES = 5
TRANSFORMER = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
PIT = {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (2, 4, 8)}
SWIN = {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24, "window_size": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet10t": {"channels": (16, 16, 24, 32)},
    "cifar_resnet": {"arch": "1-1-1"},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 2, 2)},
    "vit_tiny_patch16_224": TRANSFORMER,
    "vit_base_patch16_gap_224": TRANSFORMER,  # no class token
    "vit_base_patch16_siglip_224": TRANSFORMER,  # attention as pooling
    "deit_tiny_distilled_patch16_224": TRANSFORMER,  # two tokens, two classifiers
    "beit_base_patch16_224": TRANSFORMER,
    "cait_xxs24_224": TRANSFORMER,  # the class token joins behind the stages
    "swin_tiny_patch4_window7_224": SWIN,
    "pit_ti_224": PIT,  # its features are the class token
    "mixer_s32_224": {"img_size": 64},
    "coat_lite_tiny": {"img_size": 64},
    "levit_128s": {"img_size": 64},
    "mobilevit_xxs": {},
    "coatnet_pico_rw_224": {"img_size": 64},
    "crossvit_tiny_240": {"img_size": 120, "depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))},  # several maps
    "resnet50_clip": {},  # attention as pooling, on a map
}
SIZES = {"crossvit_tiny_240": 120}
TEACHERS = ("resnet10t", "deit_tiny_distilled_patch16_224")


def make(name: str) -> Any:
    torch.manual_seed(sum(map(ord, name)))
    model = timm.create_model(name, num_classes=CLASSES, **FAMILIES[name])
    for module in model.modules():  # some classifiers begin at zero
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == CLASSES:
            nn.init.normal_(module.weight, std=0.1)
    return model.eval()


def probe_of(size: int) -> Probe:
    return create_probe("noise", num_classes=CLASSES, batch_size=6, image_size=size, seed=1)


@cache
def read(name: str) -> tuple[Readings, Features, Setting]:
    """A network as proxies and as distillers read it, and its shapes as a setting of its own."""
    model, probe = make(name), probe_of(SIZES.get(name, 64))
    readings = Readings(
        lambda: model, probe, trained=True, precision=Precision(channels_last=False), needs=("stage_maps",)
    )
    reader = FeatureReader(model, probe.images[:2], name)
    reader.want(READABLE)
    with torch.no_grad():
        features = reader.read(probe.images)
    reader.release()
    return readings, features, Setting(reader.shapes, reader.shapes, probe.labels)


def exact(features: Features) -> Features:
    """Features in double precision, as proxies compute with them."""
    return Features(
        features.logits.double(),
        *(None if each is None else each.double() for each in (features.pooled, features.weight, features.features)),
        tuple(stage.double() for stage in features.stages),
        tuple(stage.double() for stage in features.preactivations),
    )


def by_proxy(name: str, student: Readings, teacher: Readings) -> float | None:
    proxy: Any = get_proxy(name)
    try:
        return -proxy(student, teacher)
    except ReadingError:
        return None


@pytest.mark.parametrize("name", FAMILIES)
def test_both_read_the_same(name: str) -> None:
    readings, features, _ = read(name)
    assert features.features is not None
    assert features.pooled is not None
    assert features.weight is not None
    pairs = [(readings.logits, features.logits), (readings.feature_map.values, features.features)]
    pairs += [(readings.pooled, features.pooled), (readings.classifier_weight, features.weight)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    stages = [] if not features.stages else readings.stage_maps
    assert len(stages) == len(features.stages)
    for stage, values in zip(stages, features.stages, strict=True):
        torch.testing.assert_close(stage.values, values, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("teacher_name", TEACHERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_loss_gives_the_proxy_and_the_distiller_one_number(name: str, teacher_name: str) -> None:
    (student, first, one), (teacher, second, other) = read(name), read(teacher_name)
    first, second = exact(first), exact(second)
    setting = Setting(one.student, other.student, one.labels)
    batch = Batch(torch.zeros(6, 3, 64, 64), one.labels, torch.arange(6))
    pooled = (first.pooled, second.pooled)
    expected: dict[str, Any] = {
        "kd": KD(setting)(first, second, batch),
        "rkd": RKD(setting)(first, second, batch),
        "pkt": PKT(setting)(first, second, batch),
        "cc": losses.cc_loss(*pooled),  # type: ignore[arg-type]  # the distiller's embeddings are learnt
        "sp": SP(setting)(first, second, batch),
    }
    if any(math.prod(common_grid(setting, stage)) > 1 for stage in common_stages(setting)):
        for loss, patterns in (("at", AT(setting)), ("nst", NST(setting))):
            expected[loss] = patterns(first, second, batch) / len(patterns.stages)  # the proxy takes the mean
    if first.stages[-1].shape[1] == second.stages[-1].shape[1]:  # else the distiller needs a connector
        expected["ickd"] = losses.ickd_loss(*match_in_rows(first.stages[-1], second.stages[-1]))
    for loss, value in expected.items():
        assert by_proxy(loss, student, teacher) == pytest.approx(float(value), rel=1e-6, abs=1e-6), loss
    assert {loss for loss in ("at", "nst") if by_proxy(loss, student, teacher) is not None} <= set(expected)
    # The proxy of DisWOT's relation is the root of the distiller's, and that of its classes has Grad-CAM for heads that
    # are not linear in the mean.
    relation = DisWOTRelation(setting)(first, second, batch)
    assert by_proxy("relation_paper", student, teacher) == pytest.approx(float(relation) ** 0.5, rel=1e-4, abs=1e-4)
    semantic = DisWOTSemantic(setting)(first, second, batch)
    if all(each.has_mean_pooling and each.has_linear_head for each in (student, teacher)):
        assert by_proxy("semantic_paper", student, teacher) == pytest.approx(float(semantic) ** 0.5, abs=1e-4)
    mapped = [(each.features.double(), each.classifier_weight.double()) for each in (student, teacher)]
    if all(values.shape[1] == weight.shape[1] for values, weight in mapped):
        same = losses.semantic_loss(*mapped[0], *mapped[1])
        assert float(same) == pytest.approx(float(semantic), rel=1e-6, abs=1e-6)


def test_class_tokens_are_no_positions() -> None:
    vit, deit, cait = (read(name) for name in ("vit_tiny_patch16_224", *TEACHERS[1:], "cait_xxs24_224"))
    for readings, features, setting in (vit, deit, cait):
        assert readings.feature_map.values.shape[1:] == setting.student.features == (48, 4, 4)
        assert [tuple(stage.values.shape[1:]) for stage in readings.stage_maps] == [(48, 4, 4)]
        assert setting.student.stages == ((48, 4, 4),)
        assert features.features is not None
    for proxy in ("at", "nst"):
        assert (by_proxy(proxy, vit[0], deit[0]) or 0) > 0


# -- text ---------------------------------------------------------------------------------------


class TextClassifier(nn.Module):
    """Token ids (B, L) to logits, by blocks on tokens (B, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.embedding(ids)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(tokens.mean(1))


def test_text_is_read_as_tokens_with_a_mask() -> None:
    torch.manual_seed(0)
    model, ids = TextClassifier(), torch.randint(0, 11, (4, 7))
    mask = torch.arange(7) < torch.tensor([7, 5, 3, 1])[:, None]
    reader = FeatureReader(model, ids)
    assert reader.shapes.features == (8, 7, 1)
    assert reader.shapes.stages == ((8, 7, 1),)
    reader.want(READABLE)
    with torch.no_grad():
        features, forward = reader.read(ids, mask), run_forward(model, ids, mask=mask)
    stage = features.as_map(features.stages[0])
    assert stage.tokens.shape == (4, 7, 8)
    assert not stage.tokens[~mask].any()
    assert torch.equal(stage.tokens[mask], features.stages[0].squeeze(3).transpose(1, 2)[mask])
    assert torch.allclose(stage.mean()[2], features.stages[0][2, :, :3, 0].mean(1))
    for one, other in ((forward.features, features.as_map(features.features)),):  # type: ignore[arg-type]
        assert torch.equal(one.rows, other.rows)
    first, rest = features.split(1)
    assert first.mask is not None
    assert rest.mask is not None
    assert torch.equal(torch.cat([first.mask, rest.mask]), mask)
    # Padding does not count: other ids in it change no similarity of samples.
    gram = similarities.sample_gram(forward.features.rows)
    with torch.no_grad():
        other = run_forward(model, torch.where(mask, ids, 3), mask=mask)
    torch.testing.assert_close(similarities.sample_gram(other.features.rows), gram)
    pair = match_in_rows(stage.values, stage.values)
    assert pair[0].shape == (4, 8, 7)


def test_sources_are_embedded_by_the_same_reader() -> None:
    for name in ("resnet10t", "deit_tiny_distilled_patch16_224", "resnet50_clip"):
        readings, features, _ = read(name)
        model = readings.model
        with torch.no_grad():
            embeddings, logits = embed_classifier(model, probe_of(64).images[:2], name)(probe_of(64).images)
        assert features.pooled is not None
        torch.testing.assert_close(embeddings, features.pooled)
        torch.testing.assert_close(embeddings, readings.pooled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, features.logits)
