"""The noun `network`: a student, teacher or source, with its weights and preprocessing."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from search_spaces.registry import UnknownNameError, unknown_name_message
from search_spaces.space import Architecture, SearchSpace
from search_spaces.weights import load_checkpoint

from ..data.probe import Probe
from ..readings.core import Readings
from ..readings.passes import Precision
from ..runtime.seeding import isolated_random_state, stable_seed
from .saved import ModelCard


@dataclass(frozen=True)
class Teacher:
    """What students are compared with.

    Attributes:
        name: What it is called in tables and files.
        make: Makes the network. Random weights are drawn from the global generators, which `build` seeds.
        trained: Its weights are trained or given: they do not depend on a seed, and batch normalisation uses
            its running statistics.
        settings: All that tells it from another teacher, as JSON values.
    """

    name: str
    make: Callable[[], nn.Module]
    trained: bool
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """The network; random weights are a function of the seed and the teacher's name alone.

        Raises:
            ValueError: The checkpoint does not fit the network.
        """
        with isolated_random_state(stable_seed(seed, self.name)):
            return self.make()

    def read(self, probe: Probe, seed: int = 0, *, device: str = "cpu", precision: Precision | None = None) -> Readings:
        """Its readings on a probe."""
        return Readings(lambda: self.build(seed), probe, device=device, precision=precision, trained=self.trained)

    def config(self) -> dict[str, Any]:
        """All that tells it from another teacher, as JSON values."""
        return {"name": self.name, "trained": self.trained} | self.settings


@dataclass(frozen=True, kw_only=True)
class ConvertedTeacher(Teacher):
    """A teacher that sees a probe's images in another form: of another size, normalised in another way.

    Attributes:
        convert: Makes of a probe the one that the teacher reads, of as many images with the same labels. What it does
            is for `settings` to say, for nothing else tells it from another conversion.
    """

    convert: Callable[[Probe], Probe]

    def read(self, probe: Probe, seed: int = 0, *, device: str = "cpu", precision: Precision | None = None) -> Readings:
        """Its readings on what the probe is converted to.

        Raises:
            ValueError: The conversion changes the labels, or does not take such a probe.
        """
        converted = self.convert(probe)
        if not torch.equal(converted.labels, probe.labels):
            raise ValueError(f"The teacher {self.name!r} converts a probe to one with other labels.")
        return super().read(converted, seed, device=device, precision=precision)


@dataclass(frozen=True)
class TeacherBank:
    """Several teachers with weights: what is said of a student against a bank is the weighted mean over them.

    A bank of one teacher is in all respects that teacher.

    Attributes:
        teachers: The teachers; those of weight zero are left out.
        weights: A positive share of each; they sum to 1.

    Raises:
        ValueError: Weights that are not one for each teacher, are negative, not finite or do not sum to 1 (within
            1e-9), or a teacher that is there twice.
    """

    teachers: tuple[Teacher, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        teachers, weights = tuple(self.teachers), tuple(map(float, self.weights))
        if len(teachers) != len(weights):
            raise ValueError(f"A bank needs one weight for each teacher; {len(teachers)} and {len(weights)} are given.")
        shown = ", ".join(f"{weight:.10g}" for weight in weights)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"The weights of a bank are {shown}; they must be finite and not negative.")
        if not math.isclose(math.fsum(weights), 1, rel_tol=1e-9):
            raise ValueError(f"The weights of a bank are {shown or 'missing'}; they must sum to 1.")
        kept = [(teacher, weight) for teacher, weight in zip(teachers, weights, strict=True) if weight]
        configs = [teacher.config() for teacher, _ in kept]
        twice = next((config["name"] for config in configs if configs.count(config) > 1), None)
        if twice is not None:
            raise ValueError(f"The teacher {twice!r} is there twice.")
        object.__setattr__(self, "teachers", tuple(teacher for teacher, _ in kept))
        object.__setattr__(self, "weights", tuple(weight for _, weight in kept))

    @property
    def name(self) -> str:
        """What it is called in tables and files: its teachers with their weights, the largest first."""
        if len(self.teachers) == 1:
            return self.teachers[0].name
        return " + ".join(f"{weight:.3g} {teacher.name}" for teacher, weight in self._by_weight())

    @property
    def trained(self) -> bool:
        """Whether all of its teachers are trained."""
        return all(teacher.trained for teacher in self.teachers)

    def config(self) -> dict[str, Any]:
        """All that tells it from another teacher or bank, as JSON values; of one teacher, the teacher's own."""
        if len(self.teachers) == 1:
            return self.teachers[0].config()
        members = [{"weight": weight, **teacher.config()} for teacher, weight in self._by_weight()]
        return {"name": self.name, "trained": self.trained, "teachers": members}

    def _by_weight(self) -> list[tuple[Teacher, float]]:
        """The largest weight first: in which order they were given decides nothing."""
        weighted = zip(self.teachers, self.weights, strict=True)
        return sorted(weighted, key=lambda pair: (-pair[1], pair[0].name))


def create_teacher(
    source: str | Architecture | nn.Module,
    *,
    num_classes: int | None = None,
    space: SearchSpace | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    **options: Any,
) -> Teacher:
    """Make a teacher.

    Args:
        source: A timm name (the CIFAR ResNets of this package are among them), an architecture of `space`, or a
            module. A module is read as it stands: in training mode with batch statistics, in evaluation mode with
            its running ones.
        num_classes: Classes of its classifier; by default those of the timm model, the space or the module.
        space: The space that an architecture, or its text, belongs to.
        checkpoint: Trained weights to load: a .safetensors file or a state dict saved by torch.
        pretrained: Let timm fetch its pretrained weights.
        options: Passed on to `timm.create_model`.

    Raises:
        UnknownNameError: No timm model has this name; near names are given.
        ArchitectureError: The text is no architecture of `space`.
        ValueError: The arguments contradict each other. Whether the checkpoint fits shows when the network is built.
        FileNotFoundError: There is no such checkpoint.
    """
    settings: dict[str, Any] = {"num_classes": num_classes, **options}
    if isinstance(source, nn.Module):
        return _module_teacher(source, num_classes, space, checkpoint, pretrained, options)
    if pretrained and checkpoint is not None:
        raise ValueError("A teacher takes its weights from one place: either `pretrained` or `checkpoint`, not both.")
    if isinstance(source, Architecture) or space is not None:
        if space is None:
            raise ValueError("A teacher given as an architecture needs `space`, the space that it belongs to.")
        if pretrained or options or num_classes not in (None, space.num_classes):
            raise ValueError(
                f"A teacher from the space {space.name!r} takes its {space.num_classes} classes and all else from the "
                "space; num_classes, pretrained and model options cannot be set."
            )
        architecture = space.parse(str(source))
        settings = {"space": space.config()}
        name, make = f"{space.name}:{architecture}", lambda: space.build(architecture)
    else:
        name = source
        if not timm.is_model(name):
            raise UnknownNameError(unknown_name_message("teacher", name, timm.list_models()))
        if num_classes is not None:
            options["num_classes"] = num_classes
        if pretrained:
            settings["pretrained"] = True

        def make() -> nn.Module:
            return timm.create_model(name, pretrained=pretrained, **options)

    if checkpoint is None:
        return Teacher(name, make, trained=pretrained, settings=settings)
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    settings["checkpoint_sha256"] = file_sha256(path)

    def make_trained() -> nn.Module:
        model = make()
        load_checkpoint(model, path)
        return model

    return Teacher(name, make_trained, trained=True, settings=settings)


def file_sha256(path: Path) -> str:
    """SHA-256 in hex of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _module_teacher(
    module: nn.Module,
    num_classes: int | None,
    space: SearchSpace | None,
    checkpoint: str | Path | None,
    pretrained: bool,
    options: dict[str, Any],
) -> Teacher:
    if num_classes is not None or space is not None or checkpoint is not None or pretrained or options:
        raise ValueError("A teacher given as a module is taken as it is; no other argument can be set.")
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(key.encode() + raw.numpy().tobytes())
    settings = {"module": type(module).__qualname__, "weights_sha256": digest.hexdigest(), "training": module.training}
    # A copy, taken once per study, so that moving it to a device leaves the caller's module where it is.
    return Teacher(type(module).__name__, lambda: copy.deepcopy(module), trained=not module.training, settings=settings)


@dataclass(frozen=True, kw_only=True)
class Network(Teacher):
    """A teacher or student with all that is needed to train it and to write it down.

    Attributes:
        num_classes: Classes that it tells apart.
        timm: Name and arguments with which `timm.create_model` builds it; None where there are none.
        space: Recipe, configuration and architecture of the space that builds it; None where none does.
        mean: Mean of each channel that its weights were trained with; None leaves it to the data.
        std: Standard deviation of each channel, likewise.
        trained_on: The data that its weights were trained on, as `Splits.config()` says it; None where nothing does.
    """

    num_classes: int
    timm: tuple[str, dict[str, Any]] | None = None
    space: dict[str, Any] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trained_on: dict[str, Any] | None = None

    def card(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], **more: Any
    ) -> ModelCard:
        """What to write beside its weights once they are trained.

        Args:
            input_size: Channels, height and width of the images that it was trained on.
            mean: What it was trained with.
            std: What it was trained with.
            more: Other attributes of the card.
        """
        return ModelCard(self.name, self.num_classes, input_size, mean, std, timm=self.timm, space=self.space, **more)
