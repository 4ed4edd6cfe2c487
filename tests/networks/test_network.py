"""Teachers from every source, their weights, and arguments that make no teacher."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from diswot_search.data.probe import Probe
from diswot_search.networks.network import Network, TeacherBank, create_teacher
from diswot_search.readings.network import read_network
from diswot_search.testing.randomness import random_state
from search_spaces import ArchitectureError, UnknownNameError, create_space

from ..trained_weights import as_trained

IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"


@pytest.fixture
def probe() -> Probe:
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Probe.from_tensors(images, torch.arange(6) % 3, num_classes=10)


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def small(**options: Any) -> Network:
    return create_teacher("cifar_resnet", arch="1x4-1x8", **options)


# -- sources ------------------------------------------------------------------------------------


def from_architecture() -> Network:
    space = create_space("nasbench201", num_classes=10, cells=1)
    return create_teacher(space.parse(CELL), space=space)


def from_text() -> Network:
    return create_teacher(CELL, space=create_space("nasbench201", num_classes=10, cells=1))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


SOURCES: dict[str, tuple[Callable[[], Network], str, bool]] = {
    "timm": (
        lambda: create_teacher("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=1),
        "VisionTransformer",
        False,
    ),
    "ours": (lambda: create_teacher("cifar_resnet20"), "CifarResNet", False),
    "architecture": (from_architecture, "NASBench201Network", False),
    "text": (from_text, "NASBench201Network", False),
    "random module": (lambda: create_teacher(linear()), "Sequential", False),
    "trained module": (lambda: create_teacher(as_trained(linear())), "Sequential", True),
    "module that is said to be trained": (lambda: create_teacher(linear(), trained=True), "Sequential", True),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_teacher_of_every_source_is_read(source: str, probe: Probe) -> None:
    create, kind, trained = SOURCES[source]
    teacher = create()
    assert type(teacher.build()).__name__.startswith(kind)
    assert teacher.trained == trained
    readings = read_network(teacher, probe)
    assert readings.logits.shape == (6, 10)
    assert readings.trained == trained
    config = teacher.config()
    assert json.loads(json.dumps(config)) == config
    assert config == create().config() or "module" in source  # modules differ in their random weights


def test_an_architecture_and_its_text_are_the_same_teacher() -> None:
    first, second = from_architecture(), from_text()
    assert first.config() == second.config()
    assert torch.equal(weights(first.build(3)), weights(second.build(3)))


def test_configs_tell_teachers_apart() -> None:
    teachers = [
        small(),
        small(num_classes=7),
        small(in_chans=1),
        create_teacher("cifar_resnet20"),
        from_text(),
        create_teacher(CELL, space=create_space("nasbench201", num_classes=10, cells=2)),
        create_teacher(small().build(0)),
        create_teacher(small().build(1)),
        create_teacher(small().build(1), trained=True),
    ]
    configs = [json.dumps(teacher.config(), sort_keys=True) for teacher in teachers]
    assert len(set(configs)) == len(configs)


def test_options_reach_the_network(probe: Probe) -> None:
    assert read_network(small(num_classes=7), probe).logits.shape == (6, 7)
    assert next(small(in_chans=1).build().parameters()).shape[1] == 1


# -- random weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("create", [small, from_text])
def test_random_weights_are_decided_by_the_seed_alone(create: Callable[[], Network]) -> None:
    first = weights(create().build(seed=5))
    torch.manual_seed(123)
    state = random_state()
    assert torch.equal(weights(create().build(seed=5)), first)
    assert random_state() == state
    assert not torch.equal(weights(create().build(seed=6)), first)


def test_random_teachers_normalise_by_the_batch(probe: Probe) -> None:
    teacher = small()
    model = teacher.build(0)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    torch.testing.assert_close(
        read_network(teacher, probe, 0).logits, model(probe.images).detach(), rtol=1e-4, atol=1e-5
    )


# -- modules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_module_is_read_by_its_weights_and_left_alone(training: bool, trained: bool, probe: Probe) -> None:
    module = as_trained(small().build(0)) if trained else small().build(0)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    expected = module.train(not trained)(probe.images).detach()  # running statistics if it is trained, else the batch's
    module.load_state_dict(before)
    module.train(training)
    with nullcontext() if trained != training else pytest.warns(UserWarning, match="comes in .* mode; it is taken as"):
        teacher = create_teacher(module)
    assert teacher.trained == trained
    assert create_teacher(module, trained=not trained).trained != trained
    readings = read_network(teacher, probe)
    # Images and maps may lie in another order in memory, which changes the order of sums: 1e-4.
    torch.testing.assert_close(readings.logits, expected, rtol=1e-4, atol=1e-4)
    assert all(m.training == training for m in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(not m._forward_hooks for m in module.modules())
    assert readings.model is not module


def test_modules_of_equal_weights_and_other_layers_are_other_teachers() -> None:
    plain = as_trained(linear())
    rectified = nn.Sequential(*plain, nn.ReLU()).eval()
    first, second = create_teacher(plain).config(), create_teacher(rectified).config()
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["structure_sha256"] != second["structure_sha256"]
    assert {**first, "structure_sha256": ""} == {**second, "structure_sha256": ""}
    assert create_teacher(copy.deepcopy(plain)).config() == first
    TeacherBank((create_teacher(plain), create_teacher(rectified)), (0.5, 0.5))


class Tagged(nn.Module):
    """A module that is listed with a place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.tag = object()

    def extra_repr(self) -> str:
        return f"tag={self.tag!r}"


def test_the_structure_of_a_module_is_the_same_in_each_process() -> None:
    first, second = Tagged(), Tagged()
    assert repr(first) != repr(second)
    assert create_teacher(first, trained=True).config() == create_teacher(second, trained=True).config()


def test_a_module_whose_weights_or_layers_changed_is_refused_until_it_is_given_again() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    teacher = create_teacher(module)
    built, config = weights(teacher.build()), teacher.config()
    with torch.no_grad():
        module[1].bias[3] += 1e-3
    with pytest.raises(ValueError, match=r"The weights of the module Sequential changed after it was given; .*again"):
        teacher.build()
    assert teacher.config() == config
    again = create_teacher(module)
    assert again.config() != config
    assert not torch.equal(weights(again.build()), built)
    module.append(nn.ReLU())
    with pytest.raises(ValueError, match="The layers of the module Sequential changed after it was given"):
        again.build()


def test_a_built_copy_may_change() -> None:
    teacher = create_teacher(linear())
    built = teacher.build()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
    assert not torch.equal(weights(teacher.build()), weights(built))


def test_the_weights_of_a_module_do_not_depend_on_the_seed() -> None:
    teacher = create_teacher(small().build(0))
    assert torch.equal(weights(teacher.build(1)), weights(teacher.build(2)))


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher.pth", "teacher.safetensors"])
@pytest.mark.parametrize("create", [small, from_text])
def test_a_checkpoint_is_loaded_and_read_with_its_statistics(
    create: Callable[..., Network], name: str, probe: Probe, tmp_path: Path
) -> None:
    trained = create().build(seed=9)
    trained.train()(probe.images)
    state, path = trained.state_dict(), tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)

    if create is small:
        teacher = small(checkpoint=path)
    else:
        teacher = create_teacher(CELL, space=create_space("nasbench201", num_classes=10, cells=1), checkpoint=str(path))
    assert teacher.trained
    assert torch.equal(weights(teacher.build(1)), weights(trained))
    expected = trained.eval()(probe.images).detach()
    torch.testing.assert_close(read_network(teacher, probe).logits, expected, rtol=1e-4, atol=1e-4)
    assert teacher.config() != create().config()


def test_another_checkpoint_is_another_teacher(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    configs = []
    for seed in (1, 2, 1):
        torch.save(small().build(seed).state_dict(), path)
        configs.append(small(checkpoint=path).config())
    assert configs[0] == configs[2] != configs[1]


def test_published_weights_are_read_with_their_statistics(shared_data: Path) -> None:
    packed = np.load(shared_data / "cifar10-12k.webp.npz")
    stream, offsets, labels = packed["test_webp"].tobytes(), packed["test_offsets"], packed["test_labels"]
    chosen = range(0, len(labels), 20)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(stream[offsets[i] : offsets[i + 1]]))) for i in chosen])
    images = (pixels.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    probe = Probe.from_tensors(torch.from_numpy(images.transpose(0, 3, 1, 2)), torch.from_numpy(labels[::20]), 10)

    (path,) = shared_data.glob("weights/cifar10_resnet20-*.th")
    teacher = create_teacher("cifar_resnet20", shortcut="identity", checkpoint=path)
    logits = read_network(teacher, probe).logits
    accuracy = float((logits.argmax(1) == probe.labels).float().mean())
    # Published: 91.73 % of all 10,000 test images. Over these 100 one standard deviation is 2.8 %; three are allowed.
    assert accuracy == pytest.approx(0.9173, abs=0.083)
    with torch.no_grad():
        torch.testing.assert_close(logits, teacher.build().eval()(probe.images), rtol=1e-4, atol=1e-3)


# -- what makes no teacher ----------------------------------------------------------------------


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown teacher 'cifar_resnet57'\. Did you mean .*'cifar_resnet56'"):
        create_teacher("cifar_resnet57")


def test_a_checkpoint_must_be_there_and_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*absent\.pth"):
        small(checkpoint=tmp_path / "absent.pth")
    torch.save(small(num_classes=7).build().state_dict(), tmp_path / "other.pth")
    teacher = small(checkpoint=tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth do not fit CifarResNet.*fc\.weight \(7, 8\) instead of \(10, 8\)"
    ):
        teacher.build()


def space() -> Any:
    return create_space("nasbench201", num_classes=10)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: create_teacher(space().parse(CELL)), "needs `space`"),
        (lambda: create_teacher(CELL, space=space(), num_classes=7), "takes its 10 classes"),
        (lambda: create_teacher(CELL, space=space(), pretrained=True), "pretrained"),
        (lambda: create_teacher(CELL, space=space(), drop_rate=0.1), "options cannot be set"),
        (lambda: create_teacher(nn.Linear(2, 2), num_classes=2), "no other argument"),
        (lambda: create_teacher(nn.Linear(2, 2), space=space()), "no other argument"),
        (lambda: create_teacher(nn.Linear(2, 2), checkpoint="x.pth"), "no other argument"),
        (
            lambda: create_teacher("resnet18", checkpoint="x.pth", pretrained=True),
            "from one place",
        ),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(create: Callable[[], Network], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create()


@pytest.mark.parametrize("text", ["5-5-5", CELL.replace("none", "some")])
def test_a_text_of_another_space_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="is no architecture of nasbench201"):
        create_teacher(text, space=space())


def test_an_architecture_of_another_space_is_refused() -> None:
    resnets = create_space("cifar_resnet_s0")
    with pytest.raises(ArchitectureError, match="'1-1-1' is no architecture of nasbench201"):
        create_teacher(next(iter(resnets)), space=space())


def test_the_classes_of_the_space_may_be_repeated() -> None:
    assert create_teacher(CELL, space=space(), num_classes=10).config() == create_teacher(CELL, space=space()).config()


def test_timms_own_default_number_of_classes_stands_where_none_is_given() -> None:
    assert create_teacher("resnet10t").build().num_classes == timm.create_model("resnet10t").num_classes == 1000


# -- teachers that see the probe in another form ------------------------------------------------


def halved(probe: Probe) -> Probe:
    return Probe.from_tensors(probe.images[:, :, ::2, ::2] / 2, probe.labels, probe.num_classes)


def test_a_converted_teacher_is_read_on_what_the_probe_is_converted_to(probe: Probe) -> None:
    plain = small()
    teacher = replace(plain, settings={"conversion": "halved"}, conversion=halved)
    readings = read_network(teacher, probe, 3)
    assert readings.probe.input_size == (3, 16, 16)
    assert torch.equal(readings.logits, read_network(plain, halved(probe), 3).logits)
    assert torch.equal(readings.features, read_network(plain, halved(probe), 3).features)
    assert teacher.config() == {**plain.config(), "conversion": "halved"}
    assert teacher.config()["name"] == plain.name


@pytest.mark.parametrize(
    "convert",
    [
        lambda probe: Probe.from_tensors(probe.images[1:], probe.labels[1:], probe.num_classes),
        lambda probe: Probe.from_tensors(probe.images, probe.labels.flip(0), probe.num_classes),
    ],
)
def test_a_conversion_leaves_the_labels_alone(convert: Callable[[Probe], Probe], probe: Probe) -> None:
    teacher = replace(small(), name="other", conversion=convert)
    with pytest.raises(ValueError, match="'other' converts a probe to one with other labels"):
        read_network(teacher, probe)


# -- banks --------------------------------------------------------------------------------------


def wide() -> Network:
    return create_teacher("cifar_resnet", arch="1x8-1x16")


def test_a_bank_is_told_by_its_teachers_and_weights_alone() -> None:
    first, second, third = small(), wide(), create_teacher(as_trained(linear()))
    bank = TeacherBank((first, second, third), (0.25, 0.75, 0.0))
    assert (bank.teachers, bank.weights) == ((first, second), (0.25, 0.75))
    assert bank.name == "0.75 cifar_resnet + 0.25 cifar_resnet"
    assert not bank.trained
    config = bank.config()
    assert json.loads(json.dumps(config)) == config
    assert [one.pop("weight") for one in config["teachers"]] == [0.75, 0.25]
    assert config["teachers"] == [second.config(), first.config()]
    assert TeacherBank((second, first), (0.75, 0.25)).config() == bank.config()
    assert TeacherBank((first, second), (0.75, 0.25)).config() != bank.config()
    numbers = np.array([0.25, 0.75])
    assert json.dumps(TeacherBank((first, second), tuple(numbers)).config()) == json.dumps(bank.config())


def test_a_bank_of_trained_teachers_is_trained() -> None:
    trained = create_teacher(as_trained(linear()))
    assert TeacherBank((trained, small()), (1.0, 0.0)).trained
    assert not TeacherBank((trained, small()), (0.5, 0.5)).trained


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "one weight for each teacher; 2 and 1 are given"),
        ((0.5, 0.4), r"are 0\.5, 0\.4; they must sum to 1"),
        ((0.0, 0.0), r"are 0, 0; they must sum to 1"),
        ((1.5, -0.5), r"are 1\.5, -0\.5; they must be finite and not negative"),
        ((float("nan"), 1.0), "nan, 1; they must be finite"),
        ((float("inf"), 0.0), "inf, 0; they must be finite"),
    ],
)
def test_weights_that_make_no_bank_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherBank((small(), wide()), weights)


def test_a_bank_has_teachers_and_none_of_them_twice() -> None:
    with pytest.raises(ValueError, match="weights of a bank are missing"):
        TeacherBank((), ())
    with pytest.raises(ValueError, match="'cifar_resnet' is there twice"):
        TeacherBank((small(), small()), (0.5, 0.5))
    assert TeacherBank((small(), small()), (0.0, 1.0)).name == "cifar_resnet"


def test_factories_of_one_function_with_other_arguments_are_other_networks() -> None:
    def config(width: int) -> dict[str, Any]:
        return Network.from_factory("tiny", partial(nn.Linear, width, out_features=2)).config()

    assert config(4) == config(4)
    assert config(4) != config(5)


# -- functions that make networks ---------------------------------------------------------------


def factory(function: Callable[[], nn.Module]) -> dict[str, Any]:
    return Network.from_factory("mine", function).config()


def with_activation(activation: Callable[[], nn.Module], width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3, width), activation())


def test_two_lambdas_are_two_networks() -> None:
    first, second = lambda: nn.Linear(4, 2), lambda: nn.Linear(4, 3)
    assert factory(first) == factory(first) != factory(second)
    enclosing = [lambda width=width: nn.Linear(width, 2) for width in (4, 5)]
    assert factory(enclosing[0]) != factory(enclosing[1])


def test_arguments_of_a_factory_tell_it_from_others() -> None:
    functions = [
        partial(with_activation, nn.ReLU),
        partial(with_activation, nn.GELU),
        partial(with_activation, nn.ReLU, 8),
        partial(with_activation, nn.ReLU, width=8),
        partial(with_activation, lambda: nn.ReLU()),
        partial(with_activation, lambda: nn.ELU()),
        partial(with_activation, partial(nn.ELU, 0.5)),
        partial(with_activation, partial(nn.ELU, 0.25)),
    ]
    configs = [json.dumps(factory(function), sort_keys=True) for function in functions]
    assert len(set(configs)) == len(configs)
    assert [json.dumps(factory(function), sort_keys=True) for function in functions] == configs
    assert factory(functions[3])["arguments"] == {"0": "ReLU", "width": "8"}


FACTORIES = """
from functools import partial
from torch import nn

def make(activation=None, tags=()):
    return nn.Sequential(nn.Linear({inputs}, 2), (activation or nn.ReLU)())

def steep():
    return nn.ELU(2.0)

made = partial(make, steep, tags={{"u", "v", "w"}})
"""
SHOW = """
import json, first
from diswot_search.networks.network import Network
print(json.dumps(Network.from_factory("mine", first.made).config()))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, inputs in (("first", 3), ("second", 4)):
        (tmp_path / f"{name}.py").write_text(FACTORIES.format(inputs=inputs))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("factories")
def test_functions_of_one_name_in_two_modules_are_two_networks() -> None:
    first, second = importlib.import_module("first"), importlib.import_module("second")
    assert factory(first.make)["factory"] == factory(second.make)["factory"] == "make"
    assert factory(first.make) != factory(second.make)


@pytest.mark.faults
def test_a_factory_with_a_function_as_its_argument_is_the_same_in_another_process(factories: Path) -> None:
    here = factory(importlib.import_module("first").made)
    there = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=factories,
        env=os.environ | {"PYTHONHASHSEED": "1"},  # sets have another order
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(there.stdout) == here


class Settings:
    """An object whose content cannot be seen."""


def with_settings(settings: Settings) -> nn.Module:
    return nn.Linear(2, 2)


def test_an_object_in_a_factory_is_the_same_wherever_its_network_is_sent_and_another_elsewhere() -> None:
    function = partial(with_settings, Settings())
    network = Network.from_factory("mine", function)
    assert network.config() == network.config() == pickle.loads(pickle.dumps(network)).config()
    assert network.config() == replace(network, trained=False).config()
    assert network.config() != factory(function)
