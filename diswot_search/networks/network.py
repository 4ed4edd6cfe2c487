"""The noun `network`: student, teacher and source are roles of one value, which pickles and is built on demand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from search_spaces.input_spec import InputSpec
from search_spaces.option_types import check_types
from search_spaces.plugins import is_code, load_code
from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.space import Architecture, SearchSpace
from search_spaces.stored_options import check_model_options

from ..data.probe import Probe
from ..runtime.seeding import isolated_random_state, stable_seed
from .own_code import DATA_ARGUMENTS
from .preprocessing import Preprocessing
from .recipes import (
    Config,
    FactoryRecipe,
    ModuleRecipe,
    OwnRecipe,
    Recipe,
    SpaceRecipe,
    TimmModel,
    TimmRecipe,
    WeightsFile,
    WithWeights,
)
from .saved import ModelCard, check_weights
from .sizes import check_weights_fit
from .soundness import check_finite_weights
from .trained import judge_weights


@dataclass(frozen=True)
class Network:
    """A student, teacher or source: how it is built, with which weights, and what it takes.

    A network is a value: it holds a recipe instead of a module, so that it can be sent to another process, which builds
    the same weights. Make one with `as_network`, `as_sources`, `create_teacher` or
    `Network.from_factory`.

    Attributes:
        name: The name in tables and files. Random weights depend on it and on a seed.
        recipe: How the network is built.
        trained: The weights are trained, and do not depend on a seed; batch normalisation uses its running statistics.
        num_classes: Number of classes; 0 for a network that returns features, None if it is not known yet.
        preprocessing: The form of images that the network needs.
        input_spec: The input that the network was built or trained for; None if it is not known.
        trained_on: The data that its weights were trained on, as `Splits.config()`; None if it is not known.
        settings: Anything else that distinguishes the network from another, as JSON values.
        conversion: Converts a probe to the input of the network; sample count and labels are unchanged. None if the
            network reads probes as they are. It must be described in `settings`.
    """

    name: str
    recipe: Recipe
    trained: bool = False
    num_classes: int | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    input_spec: InputSpec | None = None
    trained_on: Config | None = None
    settings: Config = field(default_factory=dict)
    conversion: Callable[[Probe], Probe] | None = None

    @classmethod
    def from_factory(
        cls, name: str, function: Callable[[], nn.Module], *, num_classes: int | None = None, trained: bool = False
    ) -> Network:
        """A network that a function makes; it pickles if the function does, as functions of a module do.

        Args:
            name: The name in tables and files.
            function: Makes the network; random weights are drawn from torch's global generator, which `build` seeds.
            num_classes: Number of classes.
            trained: Whether the network has trained weights.

        Example:
            >>> from functools import partial
            >>> from torch import nn
            >>> Network.from_factory("tiny", partial(nn.Linear, 4, 2)).build(seed=1)
            Linear(in_features=4, out_features=2, bias=True)
        """
        return cls(name, FactoryRecipe(function), trained, num_classes)

    def build(self, seed: int = 0) -> nn.Module:
        """The network; random weights are a function of the seed and the name alone.

        The global random state is left as it was.

        Args:
            seed: Seed of random weights.

        Raises:
            ValueError: The weights are damaged, were replaced, or do not fit the network.
        """
        with isolated_random_state(stable_seed(seed, self.name)):
            return self.recipe.build()

    def config(self) -> Config:
        """Everything that distinguishes this network from another, as JSON values."""
        return {"name": self.name, "trained": self.trained} | self.recipe.config() | self.settings

    def convert(self, probe: Probe) -> Probe:
        """The probe as the network reads it.

        Raises:
            ValueError: The conversion changes the labels, or does not take this probe.
        """
        if self.conversion is None:
            return probe
        converted = self.conversion(probe)
        if not torch.equal(converted.labels, probe.labels):
            raise ValueError(f"The network {self.name!r} converts a probe to one with other labels.")
        return converted

    @property
    def timm(self) -> TimmModel | None:
        """Name and arguments with which `timm.create_model` builds the network; None if timm does not."""
        return self.recipe.timm

    @property
    def space(self) -> Config | None:
        """Recipe, configuration and architecture of the search space that builds it; None if none does."""
        return self.recipe.space

    @property
    def weights(self) -> str:
        """Where trained weights come from, as a phrase; empty if only the code that makes the network knows."""
        return self.recipe.weights

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of each channel that the weights were trained with; None leaves it to the data."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation of each channel that the weights were trained with; None leaves it to the data."""
        return self.preprocessing.std

    @property
    def channels(self) -> int | None:
        """Number of channels of its images; None if unknown."""
        return self.preprocessing.channels

    @property
    def input_size(self) -> tuple[int, int, int] | None:
        """Channels, height and width that images are converted to; None leaves them to the data."""
        channels, size = self.preprocessing.channels, self.preprocessing.size
        return None if channels is None or size is None else (channels, *size)

    @property
    def classifier(self) -> bool:
        """Whether the network returns logits of classes; otherwise it returns features."""
        return self.num_classes != 0

    def card(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], **more: Any
    ) -> ModelCard:
        """The card to save with the trained weights.

        Args:
            input_size: Channels, height and width of the images that the network was trained on.
            mean: Mean of each channel that it was trained with.
            std: Standard deviation of each channel that it was trained with.
            more: Other attributes of the card.
        """
        assert self.num_classes is not None
        built_by: dict[str, Any] = {"timm": self.timm, "space": self.space, "own": self.recipe.own}
        return ModelCard(self.name, self.num_classes, input_size, mean, std, **built_by, **more)


@dataclass(frozen=True)
class TeacherBank:
    """Several teachers with weights: a score against a bank is the weighted mean of those against its teachers.

    A bank of one teacher behaves like that teacher in every respect.

    Attributes:
        teachers: The teachers; those of weight zero are left out.
        weights: A positive share for each teacher; they sum to 1.

    Raises:
        ValueError: There is not one weight for each teacher; a weight is negative or not finite; the weights do not sum
            to 1 (within 1e-9); or a teacher is given twice.
    """

    teachers: tuple[Network, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        teachers, weights = tuple(self.teachers), tuple(map(float, self.weights))
        if len(teachers) != len(weights):
            raise ValueError(f"A bank needs one weight for each teacher; {len(teachers)} and {len(weights)} are given.")
        listed = ", ".join(f"{weight:.10g}" for weight in weights)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"The weights of a bank are {listed}; they must be finite and not negative.")
        if not math.isclose(math.fsum(weights), 1, rel_tol=1e-9):
            raise ValueError(f"The weights of a bank are {listed or 'missing'}; they must sum to 1.")
        weighted = [(teacher, weight) for teacher, weight in zip(teachers, weights, strict=True) if weight]
        configs = [teacher.config() for teacher, _ in weighted]
        twice = next((config["name"] for config in configs if configs.count(config) > 1), None)
        if twice is not None:
            raise ValueError(f"The teacher {twice!r} is there twice.")
        object.__setattr__(self, "teachers", tuple(teacher for teacher, _ in weighted))
        object.__setattr__(self, "weights", tuple(weight for _, weight in weighted))

    @property
    def name(self) -> str:
        """The name in tables and files: all teachers with their weights, the largest weight first."""
        if len(self.teachers) == 1:
            return self.teachers[0].name
        return " + ".join(f"{weight:.3g} {teacher.name}" for teacher, weight in self._by_weight())

    @property
    def trained(self) -> bool:
        """Whether all teachers are trained."""
        return all(teacher.trained for teacher in self.teachers)

    def config(self) -> Config:
        """Everything that distinguishes this bank from another teacher or bank, as JSON values.

        The configuration of a bank of one teacher is that of the teacher.
        """
        if len(self.teachers) == 1:
            return self.teachers[0].config()
        members = [{"weight": weight, **teacher.config()} for teacher, weight in self._by_weight()]
        return {"name": self.name, "trained": self.trained, "teachers": members}

    def _by_weight(self) -> list[tuple[Network, float]]:
        """Teachers and weights, the largest weight first; the order in which they were given does not matter."""
        weighted = zip(self.teachers, self.weights, strict=True)
        return sorted(weighted, key=lambda pair: (-pair[1], pair[0].name))


WEIGHTS_TYPES = {"checkpoint": "str | os.PathLike[str] | None", "pretrained": "bool"}
"""Types of the options that say where the weights of a network come from."""


def create_teacher(
    source: str | Architecture | nn.Module,
    *,
    num_classes: int | None = None,
    space: SearchSpace | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    trained: bool | None = None,
    **options: Any,
) -> Network:
    """Make a network to compare students with.

    Args:
        source: A timm name (the CIFAR ResNets of this package are among them), an architecture of `space`, a class or
            function of your own as `module:name` or `file.py:name`, which gets `num_classes` if it takes that, or a
            module. Batch normalisation uses its running statistics in a module that is trained, those of the batch in
            any other, in whatever mode it comes.
        num_classes: Number of classes; by default that of the timm model, the space or the module.
        space: The space that an architecture, or its text, belongs to.
        checkpoint: Trained weights to load: a .safetensors file or a state dict saved by torch.
        pretrained: Let timm fetch its pretrained weights.
        trained: Whether the weights of a module, or of code of your own, are trained. By default those of a module
            tell, see `judge_weights`; code without a checkpoint has trained weights if it gives the same ones twice and
            they are no initialisation.
        options: Options of `timm.create_model`, or arguments of your own code.

    Warns:
        UserWarning: The weights of a module tell otherwise than its mode, or do not tell.

    Raises:
        UnknownNameError: No timm model has this name; near names are given.
        OwnCodeError: Code of your own cannot be loaded, or makes no network.
        ArchitectureError: The text is not an architecture of `space`.
        ValueError: The arguments contradict each other, or the checkpoint is damaged. Whether it fits shows when the
            network is built.
        FileNotFoundError: There is no such checkpoint.

    Example:
        >>> create_teacher("cifar_resnet20", num_classes=100).name
        'cifar_resnet20'
    """
    check_types({"checkpoint": checkpoint, "pretrained": pretrained}, WEIGHTS_TYPES, "Of the teacher ")
    if isinstance(source, nn.Module):
        if num_classes is not None or space is not None or checkpoint is not None or pretrained or options:
            raise ValueError(
                "A teacher given as a module is taken as it is; no other argument than `trained` can be set."
            )
        if trained is None:
            warn_of_mode(source, "teacher")
        return from_module(source, trained)
    check_trained(trained, source, "teacher", has_weights=checkpoint is not None)
    if pretrained and checkpoint is not None:
        raise ValueError("A teacher takes its weights from one place: either `pretrained` or `checkpoint`, not both.")
    weights = None if checkpoint is None else checkpoint_file(checkpoint)
    if isinstance(source, Architecture) or space is not None:
        if space is None:
            raise ValueError("A teacher given as an architecture needs `space`, the space that it belongs to.")
        if pretrained or options or num_classes not in (None, space.num_classes):
            raise ValueError(
                f"A teacher from the space {space.name!r} takes its {space.num_classes} classes and all else from the "
                "space; num_classes, pretrained and model options cannot be set."
            )
        return _from_space(space.parse(str(source)), space, weights)
    if num_classes is not None:
        options["num_classes"] = num_classes
    if is_code(source):
        network = _from_code(source, options | ({"pretrained": True} if pretrained else {}), weights)
        return network if trained is None else replace(network, trained=trained)
    return _from_timm(source, options, pretrained, weights)


def check_trained(trained: object, source: object, role: str, *, has_weights: bool) -> None:
    """Check whether a network that is no module may be said to be trained or random.

    Args:
        trained: What is said; None for nothing.
        source: How the network is given.
        role: "student", "teacher" or "source", for messages.
        has_weights: Whether a file of trained weights is given.

    Raises:
        ValueError: It is neither true nor false, it is said of a network that is no code of the user's own, or it
            contradicts the file.
    """
    if trained is None:
        return
    if not is_code(source):
        raise ValueError(
            f"trained is for a module, whose weights may be either; a {role} given by name is trained with a "
            "checkpoint or pretrained weights, and random without."
        )
    if not isinstance(trained, bool):
        raise ValueError(f"trained is {trained!r}; it must be true or false.")
    if has_weights and not trained:
        raise ValueError(f"The {role} {source} has a checkpoint, so that trained cannot be false.")


def _from_space(architecture: Architecture, space: SearchSpace, weights: WeightsFile | None) -> Network:
    space, architecture = space.member(architecture)
    recipe: Recipe = SpaceRecipe(space, architecture)
    return Network(
        f"{space.name}:{architecture}",
        recipe if weights is None else WithWeights(recipe, weights),
        trained=weights is not None,
        num_classes=space.num_classes,
        preprocessing=Preprocessing(channels=space.input_size[0]),
        input_spec=space.input_spec,
    )


def _from_timm(name: str, arguments: Config, pretrained: bool, weights: WeightsFile | None) -> Network:
    if not timm.is_model(name):
        raise UnknownNameError(unknown_name_message("teacher", name, timm.list_models()))
    check_model_options(name, arguments, f"The network {name}")
    check_weights_fit(TimmRecipe(name, arguments).build, arguments, f"The network {name}")
    recipe: Recipe = TimmRecipe(name, arguments, pretrained)
    return Network(
        name,
        recipe if weights is None else WithWeights(recipe, weights),
        trained=pretrained or weights is not None,
        num_classes=arguments.get("num_classes"),
        preprocessing=Preprocessing(channels=arguments.get("in_chans", 3)),
    )


def _from_code(name: str, arguments: Config, weights: WeightsFile | None) -> Network:
    """The network that code of the user's own makes.

    Without a file of weights it counts as trained if two draws of random weights give the same weights, and these are
    no initialisation: the code has loaded them. Code that sets a seed of its own gives the same random ones twice.
    """
    source, _, own_name = name.rpartition(":")
    short = f"{Path(source).name}:{own_name}"
    value = load_code(name)
    if isinstance(value, nn.Module):
        return _from_own_module(short, value, arguments, weights)
    own = OwnRecipe.of(name, arguments)
    recipe: Recipe = own
    classes, channels = (own.arguments.get(key) for key in ("num_classes", "in_chans"))
    with isolated_random_state(0):
        model = recipe.build()
    declared = getattr(model, "num_classes", None)
    if isinstance(declared, int):
        classes = declared
    first = next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), channels)
    if first != channels and first in (1, 3):  # code may ignore what it is told
        channels = None
    trained = weights is not None
    if not trained and judge_weights(model).trained:
        with isolated_random_state(1):
            trained = _have_equal_weights(model, recipe.build())
    return Network(
        short,
        recipe if weights is None else WithWeights(recipe, weights),
        trained=trained,
        num_classes=classes,
        preprocessing=Preprocessing(channels=channels),
    )


def _from_own_module(name: str, module: nn.Module, arguments: Config, weights: WeightsFile | None) -> Network:
    """The network of a module that code of the user's own has made already."""
    if options := [key for key in arguments if key not in DATA_ARGUMENTS]:
        raise ValueError(f"{name} is a module that is made already; {', '.join(options)} cannot be set.")
    network = replace(from_module(module), name=name)
    if weights is None:
        return network
    return replace(network, recipe=WithWeights(network.recipe, weights), trained=True)


def _have_equal_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same parameters, and any at all."""
    weights, others = dict(first.named_parameters()), dict(second.named_parameters())
    return (
        bool(weights)
        and weights.keys() == others.keys()
        and all(weights[key].shape == others[key].shape and torch.equal(weights[key], others[key]) for key in weights)
    )


def checkpoint_file(path: str | Path) -> WeightsFile:
    """A file of trained weights, whose checksum is verified.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a damaged file of a student.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    check_weights(path)
    return WeightsFile.at(path)


def from_module(module: nn.Module, trained: bool | None = None) -> Network:
    """The network that a module is.

    Args:
        module: The module.
        trained: Whether its weights are trained; by default they tell.

    Raises:
        ValueError: Weights are NaN or infinite, or `trained` is no truth value.
    """
    if trained is not None and not isinstance(trained, bool):
        raise ValueError(f"trained is {trained!r}; it must be true or false.")
    check_finite_weights(module, f"The module {type(module).__name__}")
    classes = getattr(module, "num_classes", None)
    return Network(
        type(module).__name__,
        ModuleRecipe.of(module),
        trained=judge_weights(module).trained if trained is None else trained,
        num_classes=classes if isinstance(classes, int) else None,
    )


def warn_of_mode(module: nn.Module, role: str) -> None:
    """Say what a module is taken for where its mode could suggest the opposite.

    Args:
        module: The module.
        role: "teacher" or "source".
    """
    verdict = judge_weights(module)
    if verdict.trained != module.training:
        return
    mode, taken = ("training", "trained") if verdict.trained else ("evaluation", "random")
    warnings.warn(
        f"The {role} {type(module).__name__} comes in {mode} mode; it is taken as {taken}, since {verdict.reason}. "
        f"If that is wrong, say so: trained={not verdict.trained}.",
        stacklevel=4,
    )
