"""Readings of timm's families and of foreign modules, against autograd through the whole network.

Both sides run the same network on the same images in single precision, so what they share is equal but for the order
of sums: 1e-4 of the largest value. Features and logits come from the same calls: 1e-5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diswot_search.data.probe import create_probe
from diswot_search.networks.contract import ReadingError, evaluation_mode
from diswot_search.proxies.registry import get_proxy, list_proxies
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision
from diswot_search.testing.randomness import random_state
from search_spaces import Cost

from .helpers import (
    CLASSES,
    SAMPLES,
    assert_close,
    assert_same,
    everything_about,
    make_probe,
    read,
    small_mobilenet,
    small_volo,
)

# -- timm ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A timm model, made small, and what is known of its features and head from its source.

    Attributes:
        name: timm's name.
        layout: What `forward_features` gives: "nchw", "nhwc", "tokens", or "list" of several branches.
        mean: Its classifier sees the plain mean over positions.
        size: Side of the images.
        options: Passed to `timm.create_model`.
        linear: Its logits are a linear function of the classifier's inputs.
        prefix: Its class tokens, which come before the positions.
    """

    name: str
    layout: str
    mean: bool
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    linear: bool = True
    prefix: int = 0


SIZED = {"img_size": 64}
SHALLOW = {"img_size": 64, "depth": 2}
WINDOWS = {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24, "window_size": 4}
NARROW = {"embed_dim": 48, "num_heads": 3}
CONVOLUTIONAL = [
    Case("resnet10t", "nchw", mean=True),
    Case("resnetv2_50", "nchw", mean=True, options={"layers": (1, 1, 1, 1)}),  # a 1x1 convolution as classifier
    Case("regnety_002", "nchw", mean=True),
    Case("densenet121", "nchw", mean=True, options={"growth_rate": 8}),
    Case("vgg11", "nchw", mean=False, options={"mlp_ratio": 0.02}),  # two layers between map and classifier
    Case("repvgg_a0", "nchw", mean=True),
    Case("test_nfnet", "nchw", mean=True),
    Case("dla46_c", "nchw", mean=True),  # a 1x1 convolution as classifier
    Case("efficientnet_b0", "nchw", mean=True),
    Case("mobilenetv3_small_050", "nchw", mean=False),  # a layer between pooling and classifier
    Case("ghostnet_050", "nchw", mean=False),  # likewise
    Case("hgnetv2_b0", "nchw", mean=False),  # likewise
    Case("convnext_atto", "nchw", mean=False),  # normalised after pooling
    Case("inception_next_atto", "nchw", mean=False),  # an MLP as head
    Case("mambaout_femto", "nhwc", mean=False),  # likewise
    Case("repvit_m0_9", "nchw", mean=False),  # two batch-normalised classifiers, averaged
]
ATTENTION = [
    Case("vit_tiny_patch16_224", "tokens", mean=False, options=SHALLOW, prefix=1),
    Case(
        "deit_tiny_distilled_patch16_224", "tokens", mean=False, options=SHALLOW, prefix=2
    ),  # two tokens, two classifiers
    Case("beit_base_patch16_224", "tokens", mean=False, options=SHALLOW | NARROW, prefix=1),  # normalised after pooling
    Case("eva02_tiny_patch14_224", "tokens", mean=False, size=56, options={"img_size": 56, "depth": 2}, prefix=1),
    Case("vit_base_patch16_siglip_224", "tokens", mean=False, options=SHALLOW | NARROW),  # attention as pooling
    # As many channels as rows and columns, so that the shape does not tell the layout.
    Case("swin_tiny_patch4_window7_224", "nhwc", mean=True, options=WINDOWS | {"num_heads": (1, 2), "embed_dim": 4}),
    Case("swinv2_tiny_window8_256", "nhwc", mean=True, options=WINDOWS),
    Case("pit_ti_224", "tokens", mean=True, options=SIZED),  # gives one token only
    Case("pit_ti_distilled_224", "tokens", mean=False, options=SIZED),
    Case("cait_xxs24_224", "tokens", mean=False, options=SHALLOW, prefix=1),
    Case("xcit_nano_12_p16_224", "tokens", mean=False, options=SIZED, prefix=1),
    Case("tnt_s_patch16_224", "tokens", mean=False, options=SHALLOW, prefix=1),
    Case("convit_tiny", "tokens", mean=False, options=SIZED, prefix=1),
    Case("coat_lite_tiny", "tokens", mean=False, options=SIZED, prefix=1),
    Case("crossvit_tiny_240", "list", mean=False, size=120, options={"img_size": 120}),  # two branches
    Case("twins_pcpvt_small", "tokens", mean=True, options={"img_size": 64, "depths": (1, 1, 1, 1)}),
    Case("pvt_v2_b0", "nchw", mean=True),
]
MLP = [
    Case("mixer_s32_224", "tokens", mean=True, options=SIZED),
    Case("gmlp_ti16_224", "tokens", mean=True, options=SIZED),
    Case("resmlp_12_224", "tokens", mean=True, options=SIZED),
    Case("sequencer2d_s", "nhwc", mean=True, options={"img_size": 64, "layers": (1, 1, 1, 1)}),
]
HYBRID = [
    Case("coatnet_pico_rw_224", "nchw", mean=True, options=SIZED),
    Case("maxvit_pico_rw_256", "nchw", mean=True, options=SIZED),
    Case("mobilevit_xxs", "nchw", mean=True),
    Case("levit_128s", "tokens", mean=False, size=128, options={"img_size": 128}),  # batch-normalised classifiers
    Case("efficientvit_m0", "nchw", mean=False, size=128, options={"img_size": 128}),  # likewise
    Case("edgenext_xx_small", "nchw", mean=False),
    Case("visformer_tiny", "nchw", mean=True, options=SIZED),
    Case("poolformerv2_s12", "nchw", mean=False),
    Case("fastvit_t8", "nchw", mean=True),
    Case(
        "volo_d1_224", "tokens", mean=False, options=SIZED, linear=False, prefix=1
    ),  # adds the maximum over all tokens' scores
]
CASES = CONVOLUTIONAL + ATTENTION + MLP + HYBRID
BY_NAME = {case.name: case for case in CASES}


def classifiers(model: Any) -> list[Any]:
    """The layers that give class scores, as timm's `get_classifier` holds them."""
    head = model.get_classifier()
    parts = head if isinstance(head, tuple | list) else [head]
    layers = [m for part in parts for m in part.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [layer for layer in layers if layer.weight.shape[0] == CLASSES]


def create(case: Case) -> Any:
    """The model with random weights, those of its classifier too: some families start them at zero."""
    torch.manual_seed(1)
    model = timm.create_model(case.name, num_classes=CLASSES, **case.options)
    for layer in classifiers(model):
        nn.init.normal_(layer.weight, std=0.1)
    return model


def with_batch_statistics(model: nn.Module) -> Any:
    """The mode of random weights: evaluation, but for batch normalisation."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return model


def positions_last(value: Tensor, layout: str) -> Tensor:
    """As (samples, channels, positions)."""
    if layout == "nchw":
        return value.flatten(2)
    return value.flatten(1, -2).transpose(1, 2)


def grad_cam_gram(model: Any, raw: Tensor, layout: str, prefix: int = 0) -> Tensor:
    """Gram matrix of Grad-CAM without its ReLU: channel weights summed over all tokens, maps without class tokens."""
    freeze_statistics(model, raw)
    raw = raw.detach().requires_grad_()
    logits = model.forward_head(raw)
    maps = []
    for index in range(CLASSES):
        (gradient,) = torch.autograd.grad(logits[:, index].sum(), raw, retain_graph=True)
        weights = positions_last(gradient, layout).sum(2, keepdim=True)
        maps.append((weights * positions_last(raw.detach(), layout)[:, :, prefix:]).sum(1).flatten())
    stacked = torch.stack(maps)
    return stacked @ stacked.T


def freeze_statistics(model: Any, raw: Tensor) -> None:
    """Batch normalisation in the head keeps this batch's statistics as constants: a class map is one sample's own."""

    def freeze(module: Any, inputs: tuple[Tensor, ...]) -> None:
        others = [d for d in range(inputs[0].ndim) if d != 1]
        module.running_var, module.running_mean = torch.var_mean(inputs[0].detach(), others, correction=0)
        module.eval()

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(freeze) for norm in norms]
    with torch.no_grad():
        model.forward_head(raw)
    for handle in handles:
        handle.remove()


def test_attention_pooling_is_read_at_the_token_that_is_the_output() -> None:
    torch.manual_seed(1)
    model = timm.create_model("resnet50_clip", num_classes=CLASSES)
    readings = Readings(lambda: model, create_probe("noise", num_classes=CLASSES, batch_size=2, image_size=64))
    with torch.no_grad(), evaluation_mode(model, batch_statistics=True):
        expected = model(readings.images)
    assert torch.equal(readings.logits, expected)
    assert readings.has_linear_head
    assert readings.pooled.shape == (2, 2048)


def test_the_models_are_of_many_families() -> None:
    files = {timm.model_entrypoint(case.name).__module__ for case in CASES}
    assert len(files) >= 24
    assert all(len(group) >= 4 for group in (CONVOLUTIONAL, ATTENTION, MLP, HYBRID))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_timm_model_is_read_as_it_runs(case: Case) -> None:
    probe = make_probe(case.size)
    readings = read(create(case), probe)

    model = with_batch_statistics(create(case))
    raw = model.forward_features(probe.images)
    logits = model.forward_head(raw)
    with torch.no_grad():
        assert_close(readings.logits, model(probe.images), tolerance=1e-5)
    assert readings.logits.shape == (SAMPLES, CLASSES)
    assert readings.features.shape[:2] == (SAMPLES, model.num_features)
    for value in (readings.features, readings.logits, readings.pooled, readings.classifier_weight):
        assert value.dtype == torch.float32
        assert not value.requires_grad
        assert bool(value.isfinite().all())
    if case.layout != "list":
        expected = positions_last(raw.detach(), case.layout)[:, :, case.prefix :]
        assert_close(readings.features, expected, tolerance=1e-5)
        assert readings.feature_map.rows.equal(readings.features)
        assert readings.feature_map.tokens.equal(readings.features.transpose(1, 2))

    assert readings.has_linear_head == case.linear
    assert readings.has_mean_pooling == case.mean
    layers = classifiers(model) if case.linear else classifiers(model)[:1]
    assert readings.classifier_weight.shape == (CLASSES, readings.pooled.shape[1])
    if case.linear:
        bias = torch.stack([layer.bias for layer in layers]).mean(0).detach()
        assert_close(readings.pooled @ readings.classifier_weight.T + bias, readings.logits)

    gradients = torch.autograd.grad(cross_entropy(logits, probe.labels), [layer.weight for layer in layers])
    assert_close(readings.label_gradient, torch.cat([gradient.flatten(1) for gradient in gradients], 1))

    if case.layout == "list":
        with pytest.raises(ReadingError, match="one feature map"):
            _ = readings.class_map_gram
    else:
        assert_close(readings.class_map_gram, grad_cam_gram(model, raw, case.layout, case.prefix))


class Bounded(nn.Module):
    """A network under timm's contract whose logits are bounded, as some recent heads are."""

    network: Any

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("cifar_resnet", arch="1x4-1x8", num_classes=CLASSES)
        self.num_features = 8
        nn.init.normal_(self.network.fc.weight, std=3)

    def get_classifier(self) -> nn.Module:
        return self.network.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return self.network.forward_features(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return 2 * self.network.forward_head(x).tanh()


def test_a_head_that_is_not_linear_is_differentiated_alone() -> None:
    model, probe = Bounded(), make_probe()
    readings = read(model, probe)
    assert not readings.has_linear_head
    passes: list[int] = []
    model.network.conv1.register_forward_hook(lambda *_: passes.append(1))
    gradient, gram = readings.label_gradient, readings.class_map_gram
    assert passes == []  # only the head ran again

    model = with_batch_statistics(copy.deepcopy(model))
    raw = model.forward_features(probe.images)
    logits = model.forward_head(raw)
    assert_close(readings.logits, logits.detach(), tolerance=1e-5)
    (expected,) = torch.autograd.grad(cross_entropy(logits, probe.labels), [model.network.fc.weight])
    assert_close(gradient, expected)
    assert_close(gram, grad_cam_gram(model, raw, "nchw"))


# -- foreign modules ----------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block whose rectifications are functions, not modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm(self.conv(x)).relu()).relu()


class FunctionalResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.blocks = nn.ModuleList(Block(8) for _ in range(2))
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((2, 3)))


def small_cnn() -> nn.Sequential:
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def small_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def torchvision_vit() -> nn.Module:
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=CLASSES
    )
    nn.init.normal_(vit.heads.head.weight, std=0.1)  # torchvision starts it at zero
    return vit


def last_map(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What a layer gives out."""
    given: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: given.append(output.clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return given[-1]


FOREIGN: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(num_classes=CLASSES),
        lambda m: m.layer4,
        lambda m: m.fc,
        True,
    ),
    "torchvision vit": (torchvision_vit, lambda m: m.encoder, lambda m: m.heads.head, False),
    "sequential": (small_cnn, lambda m: m[4], lambda m: m[7], True),
    "functional": (FunctionalResNet, lambda m: m.blocks[1], lambda m: m.classifier, True),
}
"""How to make it, its last map's layer, its classifier, and whether it ends in mean pooling."""


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_module_is_read_as_it_runs(name: str) -> None:
    make, map_layer, classifier, mean = FOREIGN[name]
    probe = make_probe(64 if "resnet18" in name else 32)
    model = make()
    readings = read(model, probe)

    model = with_batch_statistics(copy.deepcopy(model))
    raw = last_map(model, map_layer(model), probe.images)
    logits = model(probe.images)
    assert_close(readings.logits, logits.detach(), tolerance=1e-5)
    assert_close(readings.features, raw.flatten(2) if raw.ndim == 4 else raw.transpose(1, 2)[:, :, 1:], tolerance=1e-5)
    assert readings.has_linear_head
    assert readings.has_mean_pooling == mean
    (expected,) = torch.autograd.grad(cross_entropy(logits, probe.labels), [classifier(model).weight])
    assert_close(readings.label_gradient, expected)
    if mean:
        maps = torch.einsum("nc,bcp->nbp", classifier(model).weight.detach(), raw.flatten(2)).flatten(1)
        assert_close(readings.class_map_gram, maps @ maps.T)
    else:
        with pytest.raises(ReadingError, match="one feature map"):
            _ = readings.class_map_gram


def test_a_network_without_maps_has_its_classifiers_inputs_as_features() -> None:
    model = small_mlp()
    readings = read(model, make_probe())
    assert torch.equal(readings.features, readings.pooled.unsqueeze(2))
    assert torch.equal(readings.pooled, model[:3](make_probe().images))


class PairOfOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn = small_cnn()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cnn(x), x


def without_classifier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def scores_made_otherwise() -> nn.Module:
    return nn.Sequential(small_cnn(), nn.Unflatten(1, (1, CLASSES)), nn.Conv1d(1, 2, 1), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (PairOfOutputs, r"PairOfOutputs must give logits \(batch, classes\), got tuple"),
        (lambda: small_cnn()[:5], r"must give logits \(batch, classes\), got shape \(4, 8, 7, 7\)"),
        (without_classifier, "Sequential has no linear layer that makes its 5 class scores"),
        (scores_made_otherwise, "Sequential has no linear layer that makes its 10 class scores"),
        (lambda: timm.create_model("resnet10t", num_classes=0), "no linear classifier was run in the head of ResNet"),
    ],
)
def test_modules_that_cannot_be_read_say_why(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ReadingError, match=message):
        _ = read(make(), make_probe()).logits


def test_a_foreign_head_that_is_not_linear_is_not_differentiated() -> None:
    readings = read(nn.Sequential(small_cnn(), nn.Tanh()), make_probe())
    assert not readings.has_linear_head
    with pytest.raises(ReadingError, match="forward_head"):
        _ = readings.label_gradient


# -- what reading leaves alone ------------------------------------------------------------------


class Mixed(nn.Module):
    """Convolution, batch normalisation and dropout, with a part frozen and a part in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = small_cnn()
        self.cnn.insert(5, nn.Dropout(0.9))
        self.cnn[1].eval()
        self.cnn[0].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn(x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("make", [Mixed, small_volo, small_mobilenet])
def test_reading_leaves_the_network_and_random_state_alone(make: Callable[[], nn.Module], trained: bool) -> None:
    model, probe = make(), make_probe()
    before = everything_about(model)
    state = random_state()
    readings = read(model, probe, trained=trained)
    _ = readings.label_gradient, readings.class_map_gram, readings.cost
    for name in list_proxies():
        with suppress(ReadingError, ValueError):  # not all are defined for every network and four images
            get_proxy(name)(readings, readings)
    assert random_state() == state
    assert_same(before, everything_about(model))
    assert torch.is_grad_enabled()


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this layer fails")


def test_a_network_that_fails_is_left_alone_too() -> None:
    model = nn.Sequential(small_cnn(), Failing())
    before = everything_about(model)
    with pytest.raises(RuntimeError, match="this layer fails"):
        _ = read(model, make_probe()).logits
    assert_same(before, everything_about(model))


def test_random_networks_normalise_by_the_batch_and_trained_ones_by_their_statistics() -> None:
    model: Any = small_cnn()
    norm, probe = model[1], make_probe()
    norm.running_mean.fill_(0.7)
    norm.running_var.fill_(4.0)
    before = model[0](probe.images)
    variance, mean = torch.var_mean(before, (0, 2, 3), correction=0, keepdim=True)
    by_batch = (before - mean) / (variance + norm.eps).sqrt()
    by_statistics = (before - 0.7) / np.sqrt(4 + norm.eps)
    for trained, normalised in ((False, by_batch), (True, by_statistics)):
        for mode in (True, False):
            expected = model[2:](normalised).detach()
            assert_close(read(model.train(mode), probe, trained=trained).logits, expected)


def test_dropout_is_off() -> None:
    model, probe = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, CLASSES)), make_probe()
    assert torch.equal(read(model.train(), probe).pooled, probe.images.flatten(1))


# -- how often, when, and in which numbers ------------------------------------------------------


def test_nothing_is_built_for_what_needs_no_network() -> None:
    def make() -> nn.Module:
        raise AssertionError("built")

    readings = Readings(make, make_probe(), cost=lambda: Cost(3, 4))
    assert get_proxy("params")(readings) == 3
    assert get_proxy("macs")(readings) == 4


def test_one_build_and_one_forward_serve_all_that_compare_with_a_teacher() -> None:
    built: list[Any] = []
    calls: list[int] = []

    def make() -> nn.Module:
        built.append(timm.create_model("resnet10t", num_classes=CLASSES))
        built[-1].conv1.register_forward_hook(lambda *_: calls.append(1))
        return built[-1]

    student = Readings(make, make_probe(64), cost=lambda: Cost(3, 4))
    assert not built
    teacher = read(timm.create_model("resnet10t", num_classes=CLASSES), make_probe(64))
    for proxy in map(get_proxy, list_proxies()):
        if proxy.needs_teacher and not proxy.needs:
            with suppress(ReadingError):
                proxy(student, teacher)
    assert (len(built), len(calls)) == (1, 1)


def test_costs_are_counted_where_they_are_not_given() -> None:
    readings = read(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES)), make_probe())
    assert readings.cost == Cost(3 * 32 * 32 * CLASSES + CLASSES, 3 * 32 * 32 * CLASSES)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s"])
def test_other_formats_give_about_the_same_readings_in_single_precision(name: str) -> None:
    case = BY_NAME[name]
    model, probe = create(case), make_probe(case.size, labels=(0, 1, 4, 1) * 2)
    expected = read(model, probe)
    # bfloat16 keeps 8 bits, so one rounding is 4e-3; over the layers of these networks some tens of them add up.
    for precision, tolerance in ((Precision(channels_last=True), 1e-4), (Precision(bf16=True), 0.2)):
        readings = read(copy.deepcopy(model), probe, precision=precision)
        for what in ("features", "logits", "label_gradient", "class_map_gram", "sample_cosines", "class_cosines"):
            assert getattr(readings, what).dtype == torch.float32
            assert_close(getattr(readings, what), getattr(expected, what), tolerance)
        assert readings.has_linear_head


# -- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_an_error(value: float) -> None:
    model: Any = small_cnn()
    nn.init.constant_(model[3].bias, value)
    with pytest.raises(ReadingError, match="not finite"):
        _ = read(model, make_probe()).features


def test_labels_that_the_network_has_no_class_for_are_an_error() -> None:
    readings = read(small_cnn(), make_probe(labels=(0, 1, 7, 1), num_classes=8))
    assert readings.logits.shape == (4, CLASSES)
    with pytest.raises(ReadingError, match="labels go up to 7, but the network has 5 classes"):
        _ = readings.label_gradient


def test_one_class_cannot_be_compared() -> None:
    readings = read(small_cnn(), make_probe(labels=(2, 2, 2)))
    with pytest.raises(ReadingError, match="one class only"):
        _ = readings.class_cosines
    assert readings.sample_cosines.shape == (3, 3)
