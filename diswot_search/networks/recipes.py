"""Recipes: how a network is built again, as values that another process can be given."""

from __future__ import annotations

import copy
import hashlib
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.recipes import space_from_recipe
from search_spaces.space import Architecture, SearchSpace
from search_spaces.stored_options import loads_weights, storable_arguments
from search_spaces.timm_models import create_timm_model

from ..runtime.checksums import file_sha256
from ..runtime.files import as_json
from ..runtime.identity import fingerprint
from .classifiers import classifier_names, remove_classifier, replace_classifier, select_classes
from .own_code import accepted_arguments, build_own, factory_of_network
from .saved import ModelCard, load_student, load_weights

Config = dict[str, Any]
"""JSON values by name."""

TimmModel = tuple[str, Config]
"""Name and arguments with which `timm.create_model` builds a network."""


class Recipe(ABC):
    """How a network is built; a frozen dataclass of values, so that it pickles.

    A recipe runs no code that a file brings: weights are read as tensors, and what is built comes from Python.
    """

    @abstractmethod
    def build(self) -> nn.Module:
        """The network; random weights are drawn from torch's global generator."""

    @abstractmethod
    def config(self) -> Config:
        """Everything that distinguishes what is built from another network, as JSON values."""

    @property
    def timm(self) -> TimmModel | None:
        """Name and arguments with which timm builds the network; None if timm does not."""
        return None

    @property
    def space(self) -> Config | None:
        """Recipe, configuration and architecture of the search space that builds the network; None if none does."""
        return None

    @property
    def own(self) -> Config | None:
        """Name and arguments of the user's own code that makes the network; None if none does."""
        return None

    @property
    def weights(self) -> str:
        """Where trained weights come from, as a phrase; empty if only the code that makes the network knows."""
        return ""


# -- what a network starts from -----------------------------------------------------------------


@dataclass(frozen=True)
class TimmRecipe(Recipe):
    """A model that timm builds.

    Attributes:
        name: timm's name of the model, with or without the tag of pretrained weights.
        arguments: Arguments of `timm.create_model`.
        pretrained: Load timm's pretrained weights.
    """

    name: str
    arguments: Config = field(default_factory=dict)
    pretrained: bool = False

    def build(self) -> nn.Module:
        return create_timm_model(self.name, self.arguments, pretrained=self.pretrained)

    def config(self) -> Config:
        pretrained = {"pretrained": True} if self.pretrained else {}
        return {"num_classes": None, **self.arguments, **pretrained}

    @property
    def timm(self) -> TimmModel:
        return self.name.partition(".")[0], self.arguments

    @property
    def weights(self) -> str:
        return "timm's pretrained weights" if self.pretrained else ""


@dataclass(frozen=True)
class SpaceRecipe(Recipe):
    """An architecture of a search space. A space pickles as a whole, with its own recipe if it has one."""

    search_space: SearchSpace
    architecture: Architecture

    def build(self) -> nn.Module:
        return self.search_space.build(self.architecture)

    def config(self) -> Config:
        return {"space": self.search_space.config()}

    @property
    def timm(self) -> TimmModel | None:
        return self.search_space.timm_model(self.architecture)

    @property
    def space(self) -> Config:
        space = self.search_space
        return {"recipe": space.recipe, "config": as_json(space.config()), "architecture": str(self.architecture)}


def _without_addresses(text: str) -> str:
    """A text without places in memory, which are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _short(value: object) -> str:
    """A plain value, or the name of a function, class or kind of object: a text that is the same in each process."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(key.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def _structure_sha256(module: nn.Module) -> str:
    return hashlib.sha256(_without_addresses(repr(module)).encode()).hexdigest()


@dataclass(frozen=True)
class ModuleRecipe(Recipe):
    """A module as it is; it pickles by value.

    Attributes:
        module: The module. Each build gives a copy, so that moving it to a device leaves the caller's where it is.
        sha256: Hash of its weights; see `ModuleRecipe.of`.
        structure_sha256: Hash of the text that lists its layers and their settings. It tells modules of equal weights
            apart, such as those that differ in a ReLU.
    """

    module: nn.Module = field(repr=False)
    sha256: str
    structure_sha256: str

    @classmethod
    def of(cls, module: nn.Module) -> ModuleRecipe:
        """The recipe of a module with its present weights."""
        return cls(module, _weights_sha256(module), _structure_sha256(module))

    def build(self) -> nn.Module:
        """A copy of the module.

        Raises:
            ValueError: The weights or layers of the module changed since the recipe was made.
        """
        weights, structure = _weights_sha256(self.module), _structure_sha256(self.module)
        changed = "weights" if weights != self.sha256 else "layers"
        if (weights, structure) != (self.sha256, self.structure_sha256):
            raise ValueError(
                f"The {changed} of the module {type(self.module).__qualname__} changed after it was given; results "
                "would be recorded under those that it had. Give the module again, or a copy.deepcopy of it before "
                "it is changed."
            )
        return copy.deepcopy(self.module)

    def config(self) -> Config:
        return {
            "module": type(self.module).__qualname__,
            "weights_sha256": self.sha256,
            "structure_sha256": self.structure_sha256,
        }

    @property
    def weights(self) -> str:
        return "those of the module"


@dataclass(frozen=True)
class FactoryRecipe(Recipe):
    """A function without arguments that makes the network; it pickles if the function does.

    Attributes:
        function: Makes the network.
        fingerprint: Where the function comes from, with a hash of everything visible that it computes with, arguments
            of a `functools.partial` included. It is taken when the recipe is made and travels with it. A function that
            holds an object whose content cannot be seen has a new fingerprint in each recipe.
    """

    function: Callable[[], nn.Module]
    fingerprint: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(self.function))

    def build(self) -> nn.Module:
        return self.function()

    def config(self) -> Config:
        function, arguments = self.function, {}
        if isinstance(function, partial):
            values = [*enumerate(function.args), *function.keywords.items()]
            arguments = {str(name): _short(value) for name, value in values}
            function = function.func
        factory = {"factory": getattr(function, "__qualname__", type(function).__qualname__)}
        return factory | ({"arguments": arguments} if arguments else {}) | {"fingerprint": self.fingerprint}


@dataclass(frozen=True)
class OwnRecipe(Recipe):
    """A network that code of the user's own makes.

    Attributes:
        name: The class or function, as `module:name` or `file.py:name`.
        arguments: Its arguments by name, as plain values.
        fingerprint: Where the code comes from, with a hash of what it computes with, as of a `FactoryRecipe`.
    """

    name: str
    arguments: Config = field(default_factory=dict)
    fingerprint: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(factory_of_network(self.name)))

    @classmethod
    def of(cls, name: str, arguments: Config) -> OwnRecipe:
        """The recipe without the arguments that follow from the data and that the code does not take.

        Raises:
            OwnCodeError, ValueError: See `accepted_arguments`.
        """
        return cls(name, accepted_arguments(name, arguments))

    def build(self) -> nn.Module:
        """The network.

        Raises:
            OwnCodeError: The code fails, or makes no module.
        """
        return build_own(factory_of_network(self.name), self.name, self.arguments)

    def config(self) -> Config:
        return {"own": self.name, "arguments": self.arguments, "fingerprint": self.fingerprint}

    @property
    def own(self) -> Config:
        """Name and arguments that a card may hold; a network that is built again gets its weights from its own file.

        Warns:
            UserWarning: An argument that is no source of weights is left out, as `storable_arguments` does.
        """
        arguments = storable_arguments(self.arguments)
        if lost := [key for key in self.arguments if key not in arguments and not loads_weights(key)]:
            warnings.warn(
                f"The card of a student made by {self.name} does not hold its argument {', '.join(lost)}: a stored "
                "argument is a number, true, false or a plain word, and names no file. If the network depends on it, "
                "load the student by load_student(path, model=...).",
                stacklevel=2,
            )
        return {"name": self.name, "arguments": arguments}


@dataclass(frozen=True)
class CardRecipe(Recipe):
    """The network that a card describes, without its trained weights."""

    card: ModelCard

    def build(self) -> nn.Module:
        return self.card.build()

    def config(self) -> Config:
        return {"timm": self.card.timm, "space": self.card.space}

    @property
    def timm(self) -> TimmModel | None:
        return self.card.timm

    @property
    def space(self) -> Config | None:
        return self.card.space

    @property
    def own(self) -> Config | None:
        return self.card.own


@dataclass(frozen=True)
class WeightsFile:
    """A file of trained weights, known by its content.

    Attributes:
        path: The absolute path.
        sha256: Hash of the file, which is checked each time that weights are loaded from it.
    """

    path: Path
    sha256: str

    @classmethod
    def at(cls, path: Path) -> WeightsFile:
        """The file as it is now."""
        return cls(path.absolute(), file_sha256(path))

    def check(self) -> None:
        """Refuse a file that is another one by now.

        Raises:
            FileNotFoundError: The file is not there any more.
            ValueError: It was replaced or changed.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"The weights {self.path} are not there any more.")
        if file_sha256(self.path) != self.sha256:
            raise ValueError(
                f"The weights in {self.path} changed after they were first read here; start again to use the new ones."
            )


@dataclass(frozen=True)
class StudentRecipe(Recipe):
    """A trained student on disk, as `save_student` wrote it."""

    card: ModelCard
    file: WeightsFile

    def build(self) -> nn.Module:
        self.file.check()
        return load_student(self.file.path)

    def config(self) -> Config:
        return {"student": self.card.name, "checkpoint_sha256": self.file.sha256}

    @property
    def timm(self) -> TimmModel | None:
        return self.card.timm

    @property
    def space(self) -> Config | None:
        return self.card.space

    @property
    def own(self) -> Config | None:
        return self.card.own

    @property
    def weights(self) -> str:
        return str(self.file.path)


# -- what is changed of it ----------------------------------------------------------------------


@dataclass(frozen=True)
class ChangedRecipe(Recipe):
    """A network that is built by another recipe and then changed."""

    recipe: Recipe

    def config(self) -> Config:
        return self.recipe.config()

    @property
    def timm(self) -> TimmModel | None:
        return self.recipe.timm

    @property
    def space(self) -> Config | None:
        return self.recipe.space

    @property
    def own(self) -> Config | None:
        return self.recipe.own

    @property
    def weights(self) -> str:
        return self.recipe.weights


@dataclass(frozen=True)
class WithWeights(ChangedRecipe):
    """A network with the weights of a file."""

    file: WeightsFile

    def build(self) -> nn.Module:
        model = self.recipe.build()
        self.file.check()
        load_weights(model, self.file.path)
        return model

    def config(self) -> Config:
        return {**self.recipe.config(), "checkpoint_sha256": self.file.sha256}

    @property
    def weights(self) -> str:
        return str(self.file.path)


@dataclass(frozen=True)
class WithBody(ChangedRecipe):
    """A network with the weights of a file except those of its classifier, which stay random.

    Attributes:
        file: The weights, of a network for any number of classes.
        num_classes: Classes of the network.
    """

    file: WeightsFile
    num_classes: int

    def build(self) -> nn.Module:
        model = self.recipe.build()
        self.file.check()
        load_weights(model, self.file.path, without=classifier_names(model))
        return model

    def config(self) -> Config:
        new = {"checkpoint_sha256": self.file.sha256, "new_classifier": self.num_classes}
        return {**self.recipe.config(), **new}

    @property
    def weights(self) -> str:
        return str(self.file.path)


@dataclass(frozen=True)
class WithNewClassifier(ChangedRecipe):
    """A network whose classifier is replaced by a random one for `num_classes` classes."""

    num_classes: int

    def build(self) -> nn.Module:
        return replace_classifier(self.recipe.build(), self.num_classes)

    def config(self) -> Config:
        return {**self.recipe.config(), "new_classifier": self.num_classes}

    @property
    def own(self) -> Config | None:
        built_by = self.recipe.own
        if built_by is None or "num_classes" not in built_by["arguments"]:
            return None
        return {**built_by, "arguments": {**built_by["arguments"], "num_classes": self.num_classes}}

    @property
    def timm(self) -> TimmModel | None:
        if (built_by := self.recipe.timm) is None:
            return None
        name, arguments = built_by
        return name, {**arguments, "num_classes": self.num_classes}

    @property
    def space(self) -> Config | None:
        if (built_by := self.recipe.space) is None:
            return None
        recipe = built_by["recipe"] and {**built_by["recipe"], "num_classes": self.num_classes}
        space = space_from_recipe(recipe)
        config = {**built_by["config"], "num_classes": self.num_classes} if space is None else as_json(space.config())
        return {**built_by, "recipe": recipe, "config": config}


@dataclass(frozen=True)
class WithFittedClassifier(WithNewClassifier):
    """A trained network for other classes, whose new classifier is fitted before it teaches.

    It is fitted by logistic regression on the network's features of the labelled images of a training.

    Attributes:
        classifier: The fitted parameters of the classifier by their names in the state dict; None as long as they are
            not fitted, which leaves the classifier random.
    """

    classifier: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)

    def build(self) -> nn.Module:
        model = super().build()
        if self.classifier is not None:
            model.load_state_dict(self.classifier, strict=False)
        return model

    def config(self) -> Config:
        return {**super().config(), "classifier": "logistic regression"}


@dataclass(frozen=True)
class WithClasses(ChangedRecipe):
    """A network with some of its classes, in another order.

    Attributes:
        classes: For each class of the data, the class of the network that stands for it.
    """

    classes: tuple[int, ...]

    def build(self) -> nn.Module:
        return select_classes(self.recipe.build(), self.classes)

    def config(self) -> Config:
        return {**self.recipe.config(), "classes": list(self.classes)}


@dataclass(frozen=True)
class WithoutClassifier(ChangedRecipe):
    """A network that returns the input of its classifier. Its `config` is that of the whole network."""

    def build(self) -> nn.Module:
        return remove_classifier(self.recipe.build())
