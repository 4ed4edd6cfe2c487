"""What text, modules, studies and folders stand for as students and teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import diswot_search as ds
from diswot_search.networks.network import Network
from diswot_search.networks.preprocessing import Preprocessing
from diswot_search.networks.saved import ModelCard, save_student
from diswot_search.resolve.networks import as_network
from diswot_search.runtime.files import RunFolderError
from search_spaces import Architecture, ArchitectureError, SearchSpace, UnknownNameError, create_space

from ..trained_weights import as_trained

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return create_space("nasbench201", num_classes=7, channels=4, cells=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace) -> Path:
    """The run folder of a search among networks of 7 classes."""
    out = tmp_path_factory.mktemp("runs") / "search"
    probe = ds.create_probe("noise", batch_size=7, num_classes=7)
    ds.search(space, None, probe, proxy="params", algorithm="random", evaluations=3, seed=0, out=out, progress=False)
    return out


def small(**options: Any) -> Network:
    return as_network("cifar_resnet", num_classes=7, arch="1x4-1x8-1x8", **options)


def saved(folder: Path) -> nn.Module:
    """A student in `folder`."""
    network = small()
    model = as_trained(network.build(3))
    save_student(model, network.card((3, 32, 32), MEAN, STD), folder)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -- what a source stands for -------------------------------------------------------------------


def test_a_timm_name_is_made_for_the_data() -> None:
    network = as_network("vit_tiny_patch16_224", num_classes=5, in_chans=1, image_size=(32, 32), depth=1)
    assert network.build()(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    arguments = {"num_classes": 5, "in_chans": 1, "img_size": [32, 32], "depth": 1}
    assert network.timm == ("vit_tiny_patch16_224", arguments)
    assert not network.trained
    assert (network.mean, network.std) == (None, None)


def test_weights_are_a_function_of_the_seed_and_the_name_alone() -> None:
    state = torch.get_rng_state()
    assert same(small().build(1), small().build(1))
    assert not same(small().build(1), small().build(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("as_text", [True, False])
def test_an_architecture_of_a_space_is_made_by_it(space: SearchSpace, as_text: bool) -> None:
    source: str | Architecture = CELL if as_text else space.parse(CELL)
    network = as_network(source, space=space, num_classes=7)
    assert network.timm == space.timm_model(space.parse(CELL))
    assert network.build()(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_a_space_for_other_images_is_made_again_for_those_of_the_data(space: SearchSpace) -> None:
    network = as_network(CELL, space=space, num_classes=4, in_chans=1, image_size=(8, 8))
    assert network.build()(torch.randn(2, 1, 8, 8)).shape == (2, 4)
    assert network.timm is not None
    assert network.timm[1]["channels"] == 4
    by_name = as_network("1-1-1", space="cifar_resnet_s0", num_classes=4, in_chans=1)
    assert by_name.build()(torch.randn(2, 1, 8, 8)).shape == (2, 4)


def test_the_run_folder_of_a_search_stands_for_its_winner(run: Path) -> None:
    study = ds.Study.load(run)
    expected = as_network(study.winner.architecture, space=study.space, num_classes=7).config()
    for source in (run, str(run), study, study.winner):
        network = as_network(source, num_classes=7)
        assert network.config() == expected
        assert not network.trained
    assert as_network(run, num_classes=3).build()(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert as_network(study.best(2)[1], num_classes=7).config() != expected


def test_a_folder_or_file_of_a_student_stands_for_it_with_its_weights(tmp_path: Path) -> None:
    model = saved(tmp_path / "run" / "student")
    for path in ("run", "run/student", "run/student/student.safetensors"):
        network = as_network(str(tmp_path / path), num_classes=7, role="teacher")
        assert network.trained
        assert (network.mean, network.std) == (MEAN, STD)
        assert same(network.build(1), model)
        assert network.timm == small().timm
    assert len(network.config()["checkpoint_sha256"]) == 64


def test_the_run_folder_of_a_pipeline_stands_for_its_distilled_student(tmp_path: Path) -> None:
    (tmp_path / "pipeline.sqlite").touch()
    with pytest.raises(FileNotFoundError, match="run folder of a pipeline without a finished student"):
        as_network(str(tmp_path), num_classes=7)
    model = saved(tmp_path / "distilled" / "student")
    assert same(as_network(str(tmp_path), num_classes=7, role="teacher").build(1), model)
    assert same(ds.load_student(tmp_path), model)


def test_a_checkpoint_brings_its_normalisation_where_a_card_says_it(tmp_path: Path) -> None:
    model = saved(tmp_path / "student")
    with_card = small(checkpoint=tmp_path)
    assert (with_card.mean, with_card.std, with_card.trained) == (MEAN, STD, True)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    without = small(checkpoint=tmp_path / "x.pth")
    assert (without.mean, without.std, without.trained) == (None, None, True)
    assert same(with_card.build(), model)
    assert same(without.build(), model)


def test_a_module_stands_for_itself_and_stays_where_it_is() -> None:
    module = small().build(5)
    network = as_network(module, num_classes=7)
    built = network.build()
    assert same(built, module)
    assert built is not module
    assert network.timm is None


def test_networks_and_teachers_are_taken_as_they_are() -> None:
    network = small()
    assert as_network(network, num_classes=7) is network
    teacher = ds.create_teacher("cifar_resnet", num_classes=7, arch="1x4-1x8-1x8")
    assert as_network(teacher, num_classes=7, role="teacher").config() == teacher.config()


def test_a_card_of_a_network_builds_the_network() -> None:
    network = small()
    card = network.card((3, 32, 32), MEAN, STD, params=3)
    assert isinstance(card, ModelCard)
    assert card.params == 3
    assert card.build().state_dict().keys() == network.build().state_dict().keys()


# -- a new classifier on a trained body ---------------------------------------------------------


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}


def check_new(network: Network, trained: nn.Module, num_classes: int, folder: Path | None) -> None:
    """A network with the body of a trained one; what is saved of it in `folder` loads again."""
    model = network.build(1)
    assert network.num_classes == num_classes
    assert network.trained
    assert len(model.state_dict()["fc.weight"]) == num_classes
    assert all(torch.equal(value, body(trained)[key]) for key, value in body(model).items())
    assert same(network.build(1), model)
    assert not same(network.build(2), model)
    if folder is not None:
        save_student(model, network.card((3, 32, 32), network.mean or MEAN, network.std or STD), folder)
        assert same(ds.load_student(folder), model)


def saved_in_space(space: SearchSpace, folder: Path, timm: bool = True) -> nn.Module:
    """A student of 7 classes that the space builds, of whose card the space alone is known where not `timm`."""
    network = as_network(CELL, space=space, num_classes=7)
    model = network.build(3).eval()
    card = network.card((3, 32, 32), MEAN, STD)
    save_student(model, card if timm else replace(card, timm=None), folder)
    return model


@pytest.mark.parametrize("form", ["run", "run/student", "run/student/student.safetensors"])
def test_a_trained_student_gets_a_new_classifier(tmp_path: Path, form: str) -> None:
    trained = saved(tmp_path / "run" / "student")
    network = as_network(tmp_path / form, num_classes=4, new_classifier=True)
    check_new(network, trained, 4, tmp_path / "new")
    assert (network.mean, network.std) == (MEAN, STD)
    assert network.timm == ("cifar_resnet", {"num_classes": 4, "arch": "1x4-1x8-1x8"})
    with pytest.raises(ValueError, match="is for 7 classes, but the data has 4"):
        as_network(tmp_path / form, num_classes=4)


def test_it_gets_a_new_classifier_where_the_classes_are_as_many_too(tmp_path: Path) -> None:
    trained = saved(tmp_path)
    network = as_network(tmp_path, num_classes=7, new_classifier=True)
    check_new(network, trained, 7, tmp_path / "new")
    assert not torch.equal(network.build().state_dict()["fc.weight"], trained.state_dict()["fc.weight"])
    assert network.config() != as_network(tmp_path, num_classes=7).config()


@pytest.mark.parametrize("timm", [True, False])
def test_a_student_of_a_space_gets_a_new_classifier(space: SearchSpace, tmp_path: Path, timm: bool) -> None:
    trained = saved_in_space(space, tmp_path / "old", timm)
    network = as_network(tmp_path / "old", num_classes=4, new_classifier=True)
    check_new(network, trained, 4, tmp_path / "new")
    by_checkpoint = as_network(CELL, space=space, num_classes=4, checkpoint=tmp_path / "old", new_classifier=True)
    check_new(by_checkpoint, trained, 4, tmp_path / "other")
    assert (by_checkpoint.mean, by_checkpoint.space) == (MEAN, network.space)


@pytest.mark.parametrize("name", ["student.safetensors", "bare.pth"])
def test_a_checkpoint_gives_the_body_with_and_without_a_card(tmp_path: Path, name: str) -> None:
    trained = saved(tmp_path)
    torch.save(trained.state_dict(), tmp_path / "bare.pth")
    network = as_network(
        "cifar_resnet", arch="1x4-1x8-1x8", num_classes=4, checkpoint=tmp_path / name, new_classifier=True
    )
    check_new(network, trained, 4, tmp_path / "new")
    assert network.mean == (None if name == "bare.pth" else MEAN)


def test_modules_networks_and_teachers_that_are_trained_get_a_new_classifier(tmp_path: Path) -> None:
    trained = saved(tmp_path / "old")
    torch.save(trained.state_dict(), tmp_path / "bare.pth")
    check_new(as_network(trained, num_classes=4, new_classifier=True), trained, 4, None)
    assert len(trained.state_dict()["fc.weight"]) == 7
    for given in (
        as_network(tmp_path / "old", num_classes=7),
        ds.create_teacher("cifar_resnet", arch="1x4-1x8-1x8", num_classes=7, checkpoint=tmp_path / "bare.pth"),
    ):
        network = as_network(given, num_classes=4, new_classifier=True)
        check_new(network, trained, 4, tmp_path / "new" if isinstance(given, Network) else None)


def test_pretrained_weights_of_timm_have_a_new_classifier_as_it_is(tmp_path: Path) -> None:
    plain = as_network("resnet18", num_classes=9, pretrained=True)
    assert as_network("resnet18", num_classes=9, pretrained=True, new_classifier=True).config() == plain.config()


def test_what_has_no_weights_to_keep_or_is_no_student_gets_no_new_classifier(run: Path, tmp_path: Path) -> None:
    for source in ("resnet18", run, small(), ds.create_teacher("cifar_resnet20", num_classes=7)):
        with pytest.raises(ValueError, match="has no trained weights to keep, so new_classifier cannot be set"):
            as_network(source, num_classes=4, new_classifier=True)
    saved(tmp_path)
    with pytest.raises(ValueError, match="new_classifier is for students; a teacher with a random classifier"):
        as_network(tmp_path, num_classes=4, role="teacher", new_classifier=True)
    with pytest.raises(FileNotFoundError, match="is neither a file nor a folder"):
        as_network("runs/absent", num_classes=4, new_classifier=True)
    network = as_network(nn.Flatten(), num_classes=4, new_classifier=True)
    with pytest.raises(ValueError, match="Flatten does not end in a linear layer"):
        network.build()


def test_a_body_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save(small().build().state_dict(), tmp_path / "bare.pth")
    network = as_network(
        "cifar_resnet", arch="1x4-1x8-2x8", num_classes=4, checkpoint=tmp_path / "bare.pth", new_classifier=True
    )
    with pytest.raises(ValueError, match=r"do not fit CifarResNet. Tensors missing: layer3\.1\.conv1\.weight"):
        network.build()
    saved(tmp_path)
    with pytest.raises(ValueError, match="is for 3 channels, but the data has 1 channels"):
        as_network(tmp_path, num_classes=4, in_chans=1, new_classifier=True)


# -- what is refused ----------------------------------------------------------------------------


def test_text_that_is_nothing_is_answered_with_near_names(space: SearchSpace) -> None:
    with pytest.raises(UnknownNameError, match=r"student 'cifar_resnet57' is no timm model.*'cifar_resnet56'"):
        as_network("cifar_resnet57", num_classes=7)
    with pytest.raises(UnknownNameError, match=r"\. Did you mean 'resnet18'\?"):
        as_network("timm/resnet18", num_classes=10)
    with pytest.raises(UnknownNameError, match=r"give '1-1-1' as the student and 'cifar_resnet_s0' as the space"):
        as_network("cifar_resnet_s0:1-1-1", num_classes=10)
    with pytest.raises(UnknownNameError, match=r"nor an architecture of nasbench201\. Did you mean"):
        as_network("cifar_resnet57", num_classes=7, space=space)
    with pytest.raises(ArchitectureError, match="is no architecture of nasbench201"):
        as_network(CELL.replace("none", "some"), num_classes=7, space=space)
    with pytest.raises(FileNotFoundError, match=r"teacher runs/absent is neither a file nor a folder"):
        as_network("runs/absent", num_classes=7, role="teacher")


def test_folders_without_a_network_are_told_from_each_other(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no network"):
        as_network(str(tmp_path), num_classes=7)
    (tmp_path / "training.sqlite").touch()
    with pytest.raises(FileNotFoundError, match="run folder of a training without a finished student"):
        as_network(str(tmp_path), num_classes=7)
    (tmp_path / "study.sqlite").write_text("x" * 100)
    with pytest.raises(RunFolderError, match="damaged"):
        as_network(str(tmp_path), num_classes=7)


def test_a_trained_network_of_other_classes_or_channels_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"is for 3 channels, but the data has 1 channels"):
        as_network(tmp_path, num_classes=7, in_chans=1)
    with pytest.raises(ValueError, match=r"student checkpoint .* is for 7 classes"):
        as_network("cifar_resnet", arch="1x4-1x8-1x8", num_classes=9, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"student CifarResNet is for 7 classes"):
        as_network(small().build(), num_classes=9)


def test_a_trained_teacher_may_have_other_classes_and_images(tmp_path: Path) -> None:
    """Images are converted to those that its weights were trained on, as for a source."""
    trained = saved(tmp_path)
    for teacher in (
        as_network(tmp_path, num_classes=10, in_chans=1, image_size=(16, 16), role="teacher"),
        as_network("cifar_resnet", arch="1x4-1x8-1x8", num_classes=10, checkpoint=tmp_path, role="teacher", in_chans=1),
    ):
        assert (teacher.num_classes, teacher.channels, teacher.mean) == (7, 3, MEAN)
        assert same(teacher.build(), trained)
    assert as_network(tmp_path, num_classes=10, image_size=(16, 16), role="teacher").preprocessing.size == (32, 32)
    assert as_network(tmp_path, num_classes=10, image_size=(32, 32), role="teacher").preprocessing.size is None
    pretrained = as_network("resnet18", num_classes=9, image_size=(32, 32), role="teacher", pretrained=True)
    assert (pretrained.num_classes, pretrained.input_size) == (1000, (3, 224, 224))
    module = as_network(trained, num_classes=10, in_chans=1, image_size=(32, 32), role="teacher")
    assert (module.num_classes, module.channels, module.trained) == (7, 3, True)
    described = as_network(
        trained, num_classes=7, role="teacher", mean=0.5, std=[0.2, 0.3, 0.4], input_size=[3, 24, 24], trained=True
    )
    assert described.preprocessing == Preprocessing(3, (24, 24), (0.5, 0.5, 0.5), (0.2, 0.3, 0.4))


def test_a_teachers_file_of_other_classes_tells_them_itself(tmp_path: Path) -> None:
    model = small().build()
    torch.save({"net": model.state_dict(), "acc": np.float64(91.0)}, tmp_path / "seven.pth")
    options: dict[str, Any] = {"arch": "1x4-1x8-1x8", "checkpoint": tmp_path / "seven.pth"}
    teacher = as_network("cifar_resnet", num_classes=4, role="teacher", **options)
    assert (teacher.num_classes, teacher.trained) == (7, True)
    assert same(teacher.build(), model)


def test_whether_a_name_is_trained_is_not_for_the_user_to_say(tmp_path: Path) -> None:
    saved(tmp_path)
    for source in ("resnet18", tmp_path):
        with pytest.raises(ValueError, match="trained is for a module, whose weights may be either"):
            as_network(source, num_classes=7, role="teacher", trained=True)
    with pytest.raises(ValueError, match="trained is 'yes'; it must be true or false"):
        as_network(small().build(), num_classes=7, role="teacher", trained="yes")


def test_a_teacher_or_network_as_given_is_held_to_the_data(space: SearchSpace) -> None:
    teacher = ds.create_teacher("cifar_resnet20", num_classes=100)
    with pytest.raises(ValueError, match=r"cifar_resnet20 is for 100 classes, but the data has 10 classes"):
        as_network(teacher, num_classes=10)
    of_space = ds.create_teacher(space.parse(CELL), space=space)
    with pytest.raises(ValueError, match=r"is for 7 classes, but the data has 10 classes"):
        as_network(of_space, num_classes=10)
    assert as_network(of_space, num_classes=7).name == of_space.name
    timm_space = create_space("timm/resnet_32", num_classes=7)
    for network in (small(), as_network(next(iter(timm_space)), space=timm_space, num_classes=7)):
        with pytest.raises(ValueError, match=r"is for 3 channels, but the data has 1 channels"):
            as_network(network, num_classes=7, in_chans=1)


def test_a_trained_network_that_is_bound_to_a_size_is_held_to_it(tmp_path: Path) -> None:
    vit = as_network("vit_tiny_patch16_224", num_classes=7, image_size=(32, 32), depth=1, embed_dim=12, num_heads=1)
    save_student(vit.build(), vit.card((3, 32, 32), MEAN, STD), tmp_path / "vit")
    assert as_network(tmp_path / "vit", num_classes=7, image_size=(32, 32)).trained
    with pytest.raises(ValueError, match=r"student .*vit was trained on images of 32 x 32 and does not .* 64 x 64: "):
        as_network(tmp_path / "vit", num_classes=7, image_size=(64, 64))
    saved(tmp_path / "resnet")
    assert as_network(tmp_path / "resnet", num_classes=7, image_size=(64, 64)).trained


def test_a_tag_of_weights_that_are_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UnknownNameError, match=r"teacher 'resnet18\.a1_in2k'.*'resnet18\.a1_in1k'"):
        as_network("resnet18.a1_in2k", num_classes=7, role="teacher")
    assert as_network("resnet18.a1_in1k", num_classes=7).timm == ("resnet18", {"num_classes": 7})


def test_a_configuration_is_taken_for_the_students_weights_alone(tmp_path: Path) -> None:
    model = saved(tmp_path)
    torch.save(model.state_dict(), tmp_path / "other.pth")
    beside = small(checkpoint=tmp_path / "other.pth")
    assert (beside.mean, beside.std) == (None, None)
    assert small(checkpoint=tmp_path / "student.safetensors").mean == MEAN


def test_a_student_may_start_from_pretrained_weights_of_other_classes() -> None:
    network = as_network("resnet18", num_classes=9, pretrained=True)
    assert network.trained
    assert network.mean == (0.485, 0.456, 0.406)
    assert network.timm == ("resnet18", {"num_classes": 9})


def test_a_space_that_cannot_be_made_again_must_fit() -> None:
    spaces = create_space("cifar_resnet_s0", num_classes=7)
    spaces.recipe = None
    assert as_network("1-1-1", space=spaces, num_classes=7, image_size=(8, 8)).num_classes == 7
    with pytest.raises(ValueError, match=r"is for 7 classes and 3 channels, the data has 9 and 3"):
        as_network("1-1-1", space=spaces, num_classes=9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: as_network(s.parse(CELL), num_classes=7), "give the space"),
        (lambda s: as_network(CELL, space=s, num_classes=7, pretrained=True), "pretrained"),
        (lambda s: as_network(nn.Linear(2, 2), num_classes=7, space=s), "an object, not a name"),
        (lambda s: as_network(nn.Linear(2, 2), num_classes=7, drop_rate=0.1), "an object, not a name"),
        (lambda s: as_network("", num_classes=7), "student is an empty text"),
        (lambda s: small(pretrained=True), "no pretrained weights"),
        (lambda s: as_network("resnet18", num_classes=7, pretrained=True, checkpoint=__file__), "one place"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    call: Callable[[SearchSpace], Network], message: str, space: SearchSpace
) -> None:
    with pytest.raises(ValueError, match=message):
        call(space)


def test_a_student_with_weights_takes_no_others(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match="has trained weights; checkpoint cannot be set"):
        as_network(tmp_path, num_classes=7, checkpoint=tmp_path)


def test_what_can_be_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be made of int"):
        as_network(3, num_classes=7)  # type: ignore[arg-type]


def test_the_same_network_has_the_same_configuration() -> None:
    assert small().config() == small().config()
    assert small().config() != small(drop_rate=0.1).config()
    assert replace(small(), trained=True).config() != small().config()


@pytest.mark.parametrize("given", ["maybe", "false", 1, None])
def test_a_new_classifier_is_wanted_or_not(given: Any) -> None:
    with pytest.raises(ValueError, match=f"new_classifier of the student is {given!r}; it must be true or false"):
        as_network("resnet18", num_classes=4, new_classifier=given)


def test_a_teacher_is_made_for_the_images_that_it_is_said_to_take(tmp_path: Path) -> None:
    model = as_network("vit_tiny_patch16_224", num_classes=5, in_chans=1, image_size=(48, 48), depth=1).build()
    torch.save(model.state_dict(), tmp_path / "grey.pt")
    teacher = as_network(
        "vit_tiny_patch16_224",
        num_classes=5,
        image_size=(32, 32),
        role="teacher",
        checkpoint=tmp_path / "grey.pt",
        input_size=[1, 48, 48],
        depth=1,
    )
    assert teacher.input_size == (1, 48, 48)
    assert same(teacher.build(), model)
    with pytest.raises(ValueError, match=r"input_size of the teacher resnet18 is 32; it must be channels, height"):
        as_network("resnet18", num_classes=5, role="teacher", input_size=32)
