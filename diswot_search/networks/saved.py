"""A trained student on disk: its weights as safetensors, and what is needed to build it again, as timm reads it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from search_spaces.recipes import space_from_recipe
from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.stored_options import check_stored_options
from search_spaces.weights import load_checkpoint

from ..runtime.run_folder import as_json, write_atomically
from ..runtime.seeding import isolated_random_state

WEIGHTS = "student.safetensors"


CONFIG = "config.json"


FOLDER = "student"
"""The folder of the student in the run folder of its training, which has a config.json of its own."""


DISTILLED = "distilled"
"""The folder of the student's training in the run folder of a pipeline."""


_CARD = "diswot"


_CARD_HASH = "card_sha256"


@dataclass(frozen=True)
class ModelCard:
    """What a student is, and how it is built again.

    Attributes:
        name: What it is called in tables and files.
        num_classes: Classes that it tells apart.
        input_size: Channels, height and width of one image.
        mean: Mean of each channel that is taken from its images, as a share of full scale.
        std: Standard deviation of each channel that they are divided by.
        timm: Name and arguments with which `timm.create_model` builds it; None where there are none.
        space: Recipe, configuration and architecture of the search space that builds it; see `in_space`.
        labels: Names of the classes, in order; empty where they have none.
        params: Trainable parameters.
        macs: Multiply-accumulates of one image.
        interpolation: How images of another size are resized.
        crop_pct: Share of a resized image's side that is kept.
        made_of: What it was made of, as JSON values: run, teacher, accuracy, and as "data" the `Splits.config()`.
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
    made_of: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        """The network, untrained, its weights drawn from torch's global generator.

        Raises:
            UnknownNameError: timm has no such model.
            ValueError: Neither timm nor a search space can build it.
        """
        if self.timm is not None:
            name, arguments = self.timm
            if not timm.is_model(name):
                raise UnknownNameError(unknown_name_message("timm model", name, timm.list_models()))
            return timm.create_model(name, **arguments)
        if self.space is None:
            raise ValueError(f"{self.name} is a module of its own; load its weights by load_student(path, model=...).")
        space = space_from_recipe(self.space["recipe"])
        if space is None or as_json(space.config()) != self.space["config"]:
            raise ValueError(
                f"The space of {self.name} cannot be made again by name; build the architecture "
                f"{self.space['architecture']} yourself and load its weights by load_student(path, model=...)."
            )
        return space.build(space.parse(self.space["architecture"]))


def save_student(model: nn.Module, card: ModelCard, folder: str | os.PathLike[str]) -> Path:
    """Write `student.safetensors` and `config.json`, each whole or not at all.

    The weights hold the hash of their card, so that those of one student are not taken for another's.

    `load_student` reads them, and where the card has a timm name, timm (from 1.0.16 on) does, too:
    `timm.create_model("local-dir:FOLDER", pretrained=True)`, after `import search_spaces` for the networks of this
    package. In any version `timm.create_model(name, checkpoint_path=".../student.safetensors", **arguments)` does.

    Args:
        model: The trained network.
        card: What it is.
        folder: Where to; made if need be.

    Returns:
        The file of the weights.

    Raises:
        ValueError: The card cannot be written as JSON.
        OSError: The folder cannot be written.
    """
    try:
        config = _timm_config(model, card)
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"The card of {card.name} cannot be written as JSON: {error}.") from error
    # Copies, for a file of tensors has no names for shared memory, and no memory formats.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # One entry only: several would be written in any order, and equal students would differ as files.
    write_atomically(folder / WEIGHTS, save(state, {_CARD_HASH: _hash(config[_CARD])}))
    write_atomically(folder / CONFIG, text)
    return folder / WEIGHTS


def _hash(card: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def _timm_config(model: nn.Module, card: ModelCard) -> dict[str, Any]:
    """The configuration as timm reads it, with the card under a key of its own."""
    config: dict[str, Any] = {"architecture": card.timm[0] if card.timm else card.name}
    config["num_classes"] = card.num_classes
    if isinstance(num_features := getattr(model, "num_features", None), int):
        config["num_features"] = num_features
    if card.labels:
        config["label_names"] = list(card.labels)
    if card.timm and card.timm[1]:
        config["model_args"] = card.timm[1]
    known = getattr(model, "pretrained_cfg", None) or {}
    config["pretrained_cfg"] = {
        "num_classes": card.num_classes,
        "input_size": list(card.input_size),
        "fixed_input_size": bool(known.get("fixed_input_size", False)),
        "pool_size": None,
        "mean": list(card.mean),
        "std": list(card.std),
        "interpolation": card.interpolation,
        "crop_pct": card.crop_pct,
        "first_conv": known.get("first_conv") or _first_conv(model),
        "classifier": known.get("classifier") or _classifier(model),
    }
    return config | {_CARD: asdict(card)}


def _first_conv(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def _classifier(model: nn.Module) -> str | None:
    if not hasattr(model, "get_classifier"):
        return None
    classifier = cast(Any, model).get_classifier()
    return next((name for name, module in model.named_modules() if module is classifier), None)


def find_student(path: str | os.PathLike[str]) -> Path:
    """The file of a student's weights.

    Args:
        path: The run folder of a training, or of a pipeline, whose distilled student is meant; the folder of a student,
            or the file itself.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    for file in (path, path / WEIGHTS, path / FOLDER / WEIGHTS, path / DISTILLED / FOLDER / WEIGHTS):
        if file.is_file():
            return file
    what = (
        "there is no such file or folder" if not path.exists() else f"it has neither {WEIGHTS} nor {FOLDER}/{WEIGHTS}"
    )
    raise FileNotFoundError(f"No trained student at {path}: {what}.")


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """What a student is.

    Args:
        path: As for `load_student`.

    Raises:
        FileNotFoundError: There is no student, or its weights have no config.json beside them.
        ValueError: The config.json is damaged, not one that `save_student` wrote, or not of these weights. Or it hands
            an option to timm that can load files or code (`UnsafeOptionError`).
    """
    weights = find_student(path)
    file = weights.with_name(CONFIG)
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}; weights alone do not say what they are.")
    try:
        stored = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if not isinstance(stored, Mapping) or not isinstance(card := stored.get(_CARD), Mapping):
        raise ValueError(f"{file} is not the configuration of a student that was saved here.")
    if _card_hash_in(weights) not in (None, _hash(card)):
        raise ValueError(
            f"{file} is not of the weights in {weights}: one of them was replaced, or the writing of both was "
            "interrupted. Save the student again."
        )
    if isinstance(built_by := card.get("timm"), list) and len(built_by) == 2:
        check_stored_options(built_by[1], f"{file}: the arguments of {built_by[0]!r}")
    known = ModelCard.__dataclass_fields__
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in card.items() if key in known
    }
    try:
        return ModelCard(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


def _card_hash_in(weights: Path) -> str | None:
    """The hash of the card that weights were saved with; None where they do not say it."""
    try:
        with safe_open(weights, "pt") as file:
            return (file.metadata() or {}).get(_CARD_HASH)
    except (OSError, SafetensorError):  # no safetensors, or damaged, of which loading says more
        return None


def load_student(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """A trained student, in evaluation mode on the CPU. The global random state is left as it was.

    Args:
        path: The run folder of its training or pipeline, its `student/` folder, or the .safetensors file in it.
        model: The network to load the weights into, for a module that neither timm nor a search space builds.

    Raises:
        FileNotFoundError: There is no student.
        ValueError: The weights do not fit the network, which names the tensors, or the network cannot be built.
    """
    weights = find_student(path)
    if model is None:
        with isolated_random_state(0):
            model = read_card(weights).build()
    load_checkpoint(model, weights)
    return model.eval()
