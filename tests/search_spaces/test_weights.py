"""Trained weights from files: what fits is loaded, what does not leaves the model as it was."""

from __future__ import annotations

import argparse
import collections
import datetime
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import nn

from search_spaces import load_checkpoint
from search_spaces.weights import classes_in_file


def small_resnet(seed: int, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("cifar_resnet", arch="1x4-1x8", **options)


def equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


BESIDE = {
    "epoch": np.int64(3),
    "acc": np.float64(0.93),
    "best": np.float32(0.5),
    "confusion": np.eye(3),
    "args": argparse.Namespace(lr=0.1, out=Path("runs")),
    "seen": collections.defaultdict(list, {"cat": [1]}),
    "saved_at": datetime.datetime(2024, 5, 1),
}
"""Values that training scripts store beside weights."""

WRAPPINGS = {
    "bare.pth": lambda state: state,
    "beside.pth": lambda state: state | BESIDE,
    "wrapped.th": lambda state: {"state_dict": state, "epoch": 3},
    "net.pth": lambda state: {"net": state, "acc": 93.1, "epoch": 3},
    "model.pt": lambda state: {"model": state, **BESIDE},
    "model_state_dict.pt": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": OPTIMISER},
    "own_key.pt": lambda state: {"best_student": state, **BESIDE},
    "parallel_net.pt": lambda state: {"net": {f"module.{k}": v for k, v in state.items()}, "acc": np.float32(9)},
    "compiled.pt": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "owned.ckpt": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, **BESIDE},
    "parallel.pt": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "twice.pt": lambda state: {"checkpoint": {"net": state, "epoch": 3}, "optimizer": OPTIMISER},
    "averaged.pt": lambda state: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in state.items()}},
    "averaged_ema.pt": lambda state: {
        "model": {k: torch.zeros_like(v) for k, v in state.items()},
        "model_ema": {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in state.items()}},
    },
    "other_names.th": lambda state: {k.replace("fc.", "linear."): v for k, v in state.items()},
}


OPTIMISER = torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict()


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_customary_form_is_read(tmp_path: Path, name: str) -> None:
    source, model = small_resnet(1), small_resnet(2)
    torch.save(WRAPPINGS[name](source.state_dict()), tmp_path / name)
    load_checkpoint(model, tmp_path / name)
    assert equal_states(model.state_dict(), source.state_dict())


def test_safetensors_are_read_into_any_model(tmp_path: Path) -> None:
    source, model = (timm.create_model("test_vit", num_classes=3) for _ in range(2))
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    load_checkpoint(model, str(tmp_path / "vit.safetensors"))
    assert equal_states(model.state_dict(), source.state_dict())


def test_files_without_batch_counters_are_read(tmp_path: Path) -> None:
    source, model = small_resnet(1), small_resnet(2)
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    load_checkpoint(model, tmp_path / "old.pth")
    assert equal_states(model.state_dict(), source.state_dict())


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path: Path) -> None:
    state = small_resnet(1, num_classes=7).state_dict()
    state["extra.weight"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "other.pth")
    model = small_resnet(2)
    before = copied(model)
    with pytest.raises(ValueError, match=r"other\.pth do not fit CifarResNet") as caught:
        load_checkpoint(model, tmp_path / "other.pth")
    message = str(caught.value)
    assert "missing: conv1.weight" in message
    assert "unexpected: extra.weight" in message
    assert "of another shape: fc.weight (7, 8) instead of (10, 8), fc.bias (7,) instead of (10,)" in message
    assert equal_states(model.state_dict(), before)


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.zeros(1) for i in range(20)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="unexpected: w0, w1, w2, w3, w4, w5 and 14 more"):
        load_checkpoint(small_resnet(0), tmp_path / "w.pth")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm-was-done"),)


def test_files_that_would_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, "harmful.pth")
    Path("pickled.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    for name in ("harmful.pth", "pickled.pth"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict"):
            load_checkpoint(small_resnet(0), name)
    assert not Path("harm-was-done").exists()


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth", "empty.pth"])
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"no weights in here")
    with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict"):
        load_checkpoint(small_resnet(0), tmp_path / name)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth cannot be read as a state dict"):
        load_checkpoint(small_resnet(0), tmp_path / "list.pth")
    torch.save({"history": [1, 2], "epoch": 3}, tmp_path / "history.pth")
    with pytest.raises(
        ValueError, match=r"history\.pth cannot be read as a state dict: it holds history, epoch\. Save"
    ):
        load_checkpoint(small_resnet(0), tmp_path / "history.pth")
    torch.save(small_resnet(1), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"asks for code \(.*CifarResNet\).*save model\.state_dict\(\) instead"):
        load_checkpoint(small_resnet(0), tmp_path / "whole.pth")
    torch.save(small_resnet(1).state_dict(), tmp_path / "newer.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="another pickle protocol"):
        load_checkpoint(small_resnet(0), tmp_path / "newer.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pt", b"nope", "it is no file that torch.save or safetensors wrote"),
        ("README.md", b"# A title", "it is no file that torch.save or safetensors wrote"),
        ("empty.pth", b"", "it is no file that torch.save or safetensors wrote"),
        ("text.safetensors", b"nope, nor this", "it is no file that safetensors wrote"),
        ("renamed.pt", save({"a": torch.zeros(1)}), "it is a file of safetensors; give it a name that ends in .saf"),
        ("cut.pt", b"\x80\x02", "it ends too early"),
    ],
)
def test_files_of_no_weights_are_told_from_those_of_another_protocol(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict: {message}"):
        load_checkpoint(small_resnet(0), tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 1, 4])
@pytest.mark.parametrize("zipped", [False, True])
def test_another_protocol_is_told(tmp_path: Path, protocol: int, zipped: bool) -> None:
    torch.save(
        small_resnet(1).state_dict(),
        tmp_path / "other.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match="it was saved with another pickle protocol"):
        load_checkpoint(small_resnet(0), tmp_path / "other.pt")


def test_averaged_models_of_torch_are_read(tmp_path: Path) -> None:
    source, model = small_resnet(1), small_resnet(2)
    averaged = torch.optim.swa_utils.AveragedModel(source)
    averaged.update_parameters(small_resnet(3))
    averaged.update_parameters(source)
    torch.save(averaged.state_dict(), tmp_path / "averaged.pt")
    load_checkpoint(model, tmp_path / "averaged.pt")
    assert equal_states(model.state_dict(), averaged.module.state_dict())


def test_a_state_dict_written_by_pickle_says_so_with_the_way_out(tmp_path: Path) -> None:
    for protocol in (2, 4, 5):
        (tmp_path / "own.pkl").write_bytes(pickle.dumps(small_resnet(1).state_dict(), protocol))
        with pytest.raises(
            ValueError, match=r"own\.pkl .*: it was written by pickle, .*by torch\.save\(state_dict, PATH"
        ):
            load_checkpoint(small_resnet(0), tmp_path / "own.pkl")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda weight: weight.to_sparse(), "sparse or nested"),
        (lambda weight: weight.to("meta"), "on the meta device, without values"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "quantised"),
    ],
)
def test_tensors_that_are_no_plain_weights_are_named(tmp_path: Path, change: Any, kind: str) -> None:
    state = small_resnet(1).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state["fc.weight"] = change(state["fc.weight"])
        torch.save(state, tmp_path / "odd.pt")
        model = small_resnet(2)
        before = copied(model)
        with pytest.raises(ValueError, match=rf"odd\.pt cannot be .*: it holds tensors .* fc\.weight \({kind}\)\.$"):
            load_checkpoint(model, tmp_path / "odd.pt")
    assert equal_states(model.state_dict(), before)


@pytest.mark.parametrize("name", ["zip.pt", "old.pt", "new.safetensors"])
def test_damaged_files_are_one_sentence_with_their_name(tmp_path: Path, name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=name == "zip.pt")
    content, generator = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 3, 10))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_checkpoint(model, path)
            except ValueError as error:
                text = str(error)
                assert type(error) is ValueError  # noqa: PT017 - some damage only changes values
                assert text.startswith(("The weights in ", str(path)))
                assert name in text
                assert "\n" not in text
                refused += 1
    assert refused > 50


def test_several_state_dicts_under_unknown_keys_are_refused(tmp_path: Path) -> None:
    state = small_resnet(1).state_dict()
    torch.save({"first": state, "second": state}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match="it holds first, second"):
        load_checkpoint(small_resnet(0), tmp_path / "two.pth")


def test_code_among_values_beside_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net": small_resnet(1).state_dict(), "acc": Harmful()}, "harmful.pth")
    with pytest.raises(ValueError, match="it asks for code"):
        load_checkpoint(small_resnet(0), "harmful.pth")
    assert not Path("harm-was-done").exists()


def test_classes_are_counted_in_a_file_of_another_classifier(tmp_path: Path) -> None:
    torch.save({"net": small_resnet(1, num_classes=7).state_dict()}, tmp_path / "seven.pth")
    assert classes_in_file(tmp_path / "seven.pth", small_resnet(0), ("fc",)) == 7
    assert classes_in_file(tmp_path / "seven.pth", small_resnet(0), ("head",)) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.pth"):
        load_checkpoint(small_resnet(0), tmp_path / "absent.pth")


def test_archives_of_other_programs_are_named(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), tmp_path / "program.pt")
    np.savez(tmp_path / "arrays.npz", weight=np.eye(2), bias=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("model/notes.txt", "x")
    for name, reason in (
        ("program.pt", "it is a program of TorchScript, which is not run; save the state_dict"),
        ("arrays.npz", "it is an archive of NumPy's arrays; save the weights by torch.save"),
        ("other.zip", "it is a zip archive of other files"),
    ):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a state dict: {reason}"):
            load_checkpoint(model, tmp_path / name)
