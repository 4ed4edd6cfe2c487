"""A trained student on disk: its weights as safetensors, and what is needed to build it again, as timm reads it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from search_spaces.option_types import check_types
from search_spaces.plugins import is_code, stored_code
from search_spaces.searched import searched_network, stored_space
from search_spaces.stored_options import check_own_arguments, check_stored_options
from search_spaces.timm_models import create_timm_model
from search_spaces.weights import load_checkpoint

from ..checks import WORKING_SHARE, check_memory, check_whole
from ..runtime.checksums import CHECKSUM, ChecksumError, fill_checksum, verify_file
from ..runtime.failures import stop_if_machine_failed
from ..runtime.files import write_atomically
from ..runtime.seeding import isolated_random_state
from .own_code import build_own
from .sizes import check_weights_fit

WEIGHTS = "student.safetensors"
CONFIG = "config.json"

FOLDER = "student"
"""The folder of the student in the run folder of its training, which has a config.json of its own."""

DISTILLATION = "distilled"
"""The folder of the student's training in the run folder of a pipeline."""

SHORTLIST = "shortlist"
"""The folder of the shortlist in the run folder of a pipeline; it has the folder of the proven student in it."""

_CARD = "diswot"
"""The key of the card in config.json, and of the checksums in the file of weights."""

_CARD_HASH, _CONFIG_HASH = "card_sha256", "config_sha256"
_OTHER_METADATA = {_CARD_HASH, "format"}
"""Metadata of files without a checksum: those of version 0.1.0 and of other programs."""

_REPAIR = (
    "Nothing was read from it. If it lies in the run folder of a training, delete the folder of the student and run "
    "the same training again, which makes it anew from best.safetensors; else take it from a copy."
)


_SPACE = {"recipe": "dict[str, Any] | None", "config": "dict[str, Any]", "architecture": "str"}
_DATA = {"name": "str"}
"""Types of the values of a card that are mappings."""


@dataclass(frozen=True)
class ModelCard:
    """A description of a trained student, with which it is built again.

    Attributes:
        name: The name in tables and files.
        num_classes: Number of classes.
        input_size: Channels, height and width of one image.
        mean: Mean of each channel that is subtracted from images, as a share of the full scale.
        std: Standard deviation of each channel that images are divided by.
        timm: Name and arguments with which `timm.create_model` builds the network; None if timm does not.
        space: Recipe, configuration and architecture of the search space that builds it; None if none does.
        labels: Names of the classes, in order; empty if they have none.
        params: Trainable parameters.
        macs: Multiply-accumulates of one image.
        interpolation: How images of another size are resized.
        crop_pct: Share of a resized image's side that is kept.
        own: Name and arguments of the user's own code that builds it; None if none does.
        made_of: Its history as JSON values: run, teacher, accuracy, and as "data" the `Splits.config()`.

    Raises:
        ValueError: A value has another type, an image of this size does not fit into memory, or sizes, statistics and
            labels do not agree with each other.
    """

    name: str
    num_classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    timm: tuple[str, dict[str, Any]] | None = None
    space: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()
    params: int | None = None
    macs: int | None = None
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    made_of: dict[str, object] = field(default_factory=dict)
    own: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        types = {name: field.type for name, field in type(self).__dataclass_fields__.items()}
        check_types(vars(self), types, f"{self.name}: ")
        check_whole("num_classes", self.num_classes, least=0)
        for side in self.input_size:
            check_whole("a part of input_size", side, least=1)
        check_memory("An image of this input_size", 4 * math.prod(self.input_size), share=WORKING_SHARE)
        for name, value, parts in (("space", self.space, _SPACE), ("data", self.made_of.get("data"), _DATA)):
            if isinstance(value, Mapping):
                check_types({key: value[key] for key in parts if key in value}, parts, f"In {name} ")
        if self.space is not None and _SPACE.keys() - self.space.keys():
            raise ValueError(f"space lacks {', '.join(sorted(_SPACE.keys() - self.space.keys()))}.")
        channels = len(self.mean)
        if len(self.input_size) != 3 or {channels, len(self.std)} != {self.input_size[0]}:
            raise ValueError(
                f"{self.name}: input_size is {tuple(self.input_size)}, with {channels} means and {len(self.std)} "
                "standard deviations; it must be (channels, height, width) with one of each per channel."
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < std < math.inf for std in self.std):
            raise ValueError(
                f"{self.name}: mean is {self.mean} and std is {self.std}; they must be finite, std above 0."
            )
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(f"{self.name}: there are {len(self.labels)} labels for {self.num_classes} classes.")

    def build(self) -> nn.Module:
        """The network with random weights, drawn from torch's global generator.

        Raises:
            UnknownNameError: timm has no such model.
            UntrustedCodeError: Code of the user's own builds it, which was not named in this process.
            OwnCodeError: That code fails, or makes no module.
            ValueError: Neither timm nor a search space can build the network.
        """
        if self.timm is not None:
            name, arguments = self.timm
            try:
                check_weights_fit(lambda: create_timm_model(name, arguments), arguments, self.name)
                return create_timm_model(name, arguments)
            except ValueError:
                raise
            except Exception as error:  # a constructor may fail in any way over arguments that it does not check
                stop_if_machine_failed(error, f"in {self.name}")
                raise ValueError(f"{self.name} cannot be built: {error}") from error
        if self.own is not None:
            factory = stored_code(self.own["name"], f"The network {self.name}")
            own_name, arguments = self.own["name"], self.own["arguments"]
            check_weights_fit(lambda: build_own(factory, own_name, arguments), arguments, self.name)
            return build_own(factory, own_name, arguments)
        if self.space is None:
            raise ValueError(f"{self.name} is a module of its own; load its weights by load_student(path, model=...).")
        space = stored_space(self.space, self.name)
        return space.build(space.parse(self.space["architecture"]))


def save_student(model: nn.Module, card: ModelCard, folder: str | os.PathLike[str]) -> Path:
    """Write `student.safetensors` and `config.json`, each whole or not at all.

    The file of weights holds checksums of its content, of the card and of the whole config.json. Damage is noticed when
    it is read, and the weights of one student are not taken for another's.

    `load_student` reads the folder. timm reads it as well, if the card has a timm name or the recipe of a space: from
    version 1.0.16 on by `timm.create_model("local-dir:FOLDER", pretrained=True)`, after `import search_spaces` for the
    networks and spaces of this package. With a timm name, any version reads it by
    `timm.create_model(name, checkpoint_path=".../student.safetensors", **arguments)`.

    Args:
        model: The trained network.
        card: Its description.
        folder: The folder to write; it is created if needed.

    Returns:
        The path of the file of weights.

    Raises:
        ValueError: The card cannot be written as JSON.
        OSError: The folder cannot be written.
    """
    try:
        config = _timm_config(model, card)
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"The card of {card.name} cannot be written as JSON: {error}.") from error
    # Copies: a safetensors file knows neither shared memory nor memory formats.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # One entry only: several would be written in any order, and equal students would differ as files.
    hashes = {_CARD_HASH: _sha256(config[_CARD]), _CONFIG_HASH: _sha256(json.loads(text))}
    checksums = json.dumps(hashes | {"checksum": CHECKSUM})
    write_atomically(folder / WEIGHTS, fill_checksum(save(state, {_CARD: checksums})))
    write_atomically(folder / CONFIG, text)
    return folder / WEIGHTS


def _sha256(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _timm_config(model: nn.Module, card: ModelCard) -> dict[str, Any]:
    """The configuration as timm reads it, with the card under a key of its own."""
    entry_point, arguments = card.timm or (card.name, {})
    if card.timm is None and card.space is not None and card.space["recipe"]:
        entry_point, arguments = searched_network.__name__, {"space": card.space}
    config: dict[str, object] = {"architecture": entry_point}
    config["num_classes"] = card.num_classes
    if isinstance(num_features := getattr(model, "num_features", None), int):
        config["num_features"] = num_features
    if card.labels:
        config["label_names"] = list(card.labels)
    if arguments:
        config["model_args"] = arguments
    built_with = getattr(model, "pretrained_cfg", None) or {}
    config["pretrained_cfg"] = {
        "num_classes": card.num_classes,
        "input_size": list(card.input_size),
        "fixed_input_size": bool(built_with.get("fixed_input_size", False)),
        "pool_size": None,
        "mean": list(card.mean),
        "std": list(card.std),
        "interpolation": card.interpolation,
        "crop_pct": card.crop_pct,
        "first_conv": built_with.get("first_conv") or _first_conv(model),
        "classifier": built_with.get("classifier") or _classifier(model),
    }
    described = asdict(card)
    if card.own is None:  # as in files of versions that do not know it
        del described["own"]
    return config | {_CARD: described}


def _first_conv(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def _classifier(model: nn.Module) -> str | None:
    if not hasattr(model, "get_classifier"):
        return None
    classifier = cast(Any, model).get_classifier()
    return next((name for name, module in model.named_modules() if module is classifier), None)


def own_code_of(path: str | os.PathLike[str]) -> list[str]:
    """The user's own code that has to be named before a student is loaded, as its config.json says; mostly none."""
    try:
        card = json.loads(find_student(path).with_name(CONFIG).read_text())[_CARD]
        recipe = (card.get("space") or {}).get("recipe") or {}
        names = [(card.get("own") or {}).get("name"), recipe.get("name")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):  # loading says what is wrong
        return []
    return [str(name) for name in names if is_code(name)]


def find_student(path: str | os.PathLike[str]) -> Path:
    """The path of a student's file of weights.

    Args:
        path: The run folder of a training, of a shortlist (its proven student) or of a pipeline (its distilled
            student), the folder of a student, or the file itself.

    Raises:
        FileNotFoundError: There is no such student.
    """
    path = Path(path)
    places = (path / folder for folder in (FOLDER, f"{DISTILLATION}/{FOLDER}", f"{SHORTLIST}/{FOLDER}"))
    for file in (path, path / WEIGHTS, *(place / WEIGHTS for place in places)):
        if file.is_file():
            return file
    reason = (
        "there is no such file or folder" if not path.exists() else f"it has neither {WEIGHTS} nor {FOLDER}/{WEIGHTS}"
    )
    raise FileNotFoundError(f"No trained student at {path}: {reason}.")


def find_weights(checkpoint: str | os.PathLike[str], role: str) -> Path:
    """The path of the trained weights that a user gives for a network: any file of them, or the folder of a student.

    Args:
        checkpoint: A file, or a folder as for `find_student`.
        role: "student", "teacher" or "source", for messages.

    Raises:
        FileNotFoundError: There is no such file or folder, or the folder has no student.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} for the checkpoint of the {role}.")
    return find_student(path)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """The description of a student.

    Args:
        path: The file or folder of the student; see `load_student`.

    Raises:
        FileNotFoundError: There is no student, or there is no config.json next to its weights.
        ValueError: The weights or the config.json are damaged; the config.json was not written by `save_student`, or
            belongs to other weights; or it hands timm an option that can load files or code (`UnsafeOptionError`).
    """
    weights = find_student(path)
    check_weights(weights)
    return _read_card(weights)


def _read_card(weights: Path) -> ModelCard:
    file = weights.with_name(CONFIG)
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file} for {weights}; weights alone do not say what they are.")
    try:
        stored = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    hashes = _stored_hashes(weights)
    if not isinstance(stored, Mapping) or not isinstance(card := stored.get(_CARD), Mapping):
        reason = "it is not the configuration of a student that was saved here"
        raise _damaged(file, reason) if hashes else ValueError(f"{file} cannot be used: {reason}.")
    if hashes.get(_CARD_HASH) not in (None, _sha256(card)):
        raise ValueError(
            f"{file} is not of the weights in {weights}: one of them was replaced or damaged, or the writing of "
            "both was interrupted. Save the student again."
        )
    if hashes.get(_CONFIG_HASH) not in (None, _sha256(stored)):
        raise _damaged(file, "the part that timm reads does not match its checksum")
    if isinstance(built_by := card.get("timm"), list) and len(built_by) == 2:
        check_stored_options(built_by[1], f"{file}: the arguments of {built_by[0]!r}")
    if (own := card.get("own")) is not None:
        if not isinstance(own, Mapping) or set(own) != {"name", "arguments"} or not isinstance(own["name"], str):
            raise ValueError(f"{file} cannot be used: its own code is {own!r}, not a name with arguments.")
        check_own_arguments(own["arguments"], f"{file}: the arguments of {own['name']!r}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in card.items()
        if key in ModelCard.__dataclass_fields__
    }
    try:
        return ModelCard(**values)
    except (TypeError, ValueError) as error:
        raise _damaged(file, str(error)) from error


def _stored_hashes(weights: Path) -> Mapping[str, str]:
    """The hashes of the card and of config.json that weights were saved with; empty for weights that hold none.

    Version 0.1.0 stored the hash of the card alone.
    """
    try:
        with safe_open(weights, "pt") as file:
            metadata = file.metadata() or {}
        hashes = json.loads(metadata[_CARD]) if _CARD in metadata else metadata
    except (OSError, SafetensorError, ValueError):  # not safetensors, or damaged; loading says more
        return {}
    return {key: hashes[key] for key in (_CARD_HASH, _CONFIG_HASH) if key in hashes}


def check_weights(path: Path) -> None:
    """Check a file of weights against the checksum that `save_student` wrote into it.

    Files without a checksum, such as those of other programs, pass.

    Raises:
        ValueError: A file of a student is damaged; the message says what repairs it.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        if path.name == WEIGHTS:
            raise _damaged(path, f"it cannot be read: {error}") from error
        return
    if _CARD not in metadata and (path.name != WEIGHTS or not metadata.keys() - _OTHER_METADATA):
        return
    try:
        verify_file(path)
    except ChecksumError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged: {reason.rstrip('.')}. {_REPAIR}")


def load_weights(model: nn.Module, path: Path, *, without: Collection[str] = ()) -> None:
    """Load trained weights, whose checksum is verified first; if they do not fit, the network stays as it was.

    Args:
        model: The network, which is changed in place.
        path: The file, as for `search_spaces.weights.load_checkpoint`, which runs no code from it.
        without: Names of modules that keep their present weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or its tensors do not fit the network.
    """
    if path.is_file():
        check_weights(path)
    load_checkpoint(model, path, without=without)


def load_student(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """A trained student, in evaluation mode on the CPU. The global random state is left as it was.

    Args:
        path: The run folder of its training or pipeline, its `student/` folder, or the .safetensors file in it.
        model: The network to load the weights into, for a module that neither timm nor a search space builds.

    Raises:
        FileNotFoundError: There is no student.
        ValueError: The weights are damaged or do not fit the network, or the network cannot be built.

    Example:
        A training writes its student into its run folder:

            student = load_student("runs/distilled")
            logits = student(images)  # normalised by the mean and std of `read_card("runs/distilled")`
    """
    weights = find_student(path)
    check_weights(weights)  # first, so that damage to hashes within it is not blamed on config.json
    if model is None:
        with isolated_random_state(0):
            model = _read_card(weights).build()
    load_checkpoint(model, weights)
    return model.eval()
