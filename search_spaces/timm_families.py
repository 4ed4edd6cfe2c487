"""Spaces over timm's own model classes: decisions that set arguments of a constructor, and the built-in families."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.models import model_entrypoint
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from .registry import UnknownNameError, near_names
from .space import Architecture, Choice, SearchSpace

Make = Callable[..., nn.Module]
Assignments = dict[str, Any]
"""Values by argument path: `depth`, or `depths.0` for the first entry of the list `depths`."""

_RESERVED = {
    "num_classes": "is an option of the space",
    "in_chans": "follows the space's input_size",
    "img_size": "follows the space's input_size",
    "pretrained": "does not apply: the networks of a space have random weights",
    "pretrained_cfg": "does not apply: the networks of a space have random weights",
    "checkpoint_path": "does not apply: the networks of a space have random weights",
    "features_only": "does not apply: the networks of a space are classifiers",
}


class TimmSpace(SearchSpace):
    """Architectures of one timm entry point or class, each decision setting arguments of its constructor.

    The choices of a decision are a list or a mapping:

    - `{"depth": [6, 9, 12]}`: each choice is the value of the argument `depth`;
    - `{"depths.0": [2, 3]}`: the value of the first entry of the list `depths`; its other entries come from `fixed` or
      from decisions of their own. `block_args.attn_layer` reaches into a dictionary in the same way;
    - `{"depths": [[2, 2, 6, 2], [3, 3, 9, 3]]}`: a list as value; the choice is then its text, `2-2-6-2`;
    - `{"size": {"tiny": {"embed_dim": 192, "num_heads": 3}, "small": {"embed_dim": 384, "num_heads": 6}}}`: each
      choice is a name for the arguments that it sets. A name for a single value sets the argument of the decision.

    Text form: `decision=choice,decision=choice`.

    Args:
        name: The name that the space is known by.
        model: A name that `timm.list_models()` knows, or a class or function that makes a network and takes
            `num_classes` and `in_chans`, and `img_size` where the network depends on it.
        decisions: Choices of each decision, as above.
        fixed: Arguments that are the same in every network, by path.
        attributes: What is set on the network once it is built, by path of module and attribute; it changes what no
            argument does, as in `{"conv1.stride": 1}`. A number stands for a tuple of itself where there was one.
        num_classes: Classes that the networks tell apart.
        input_size: Channels, height and width of one image.

    Raises:
        UnknownNameError: timm has no such model.
        ValueError: A decision or an argument that cannot be: no choices, a choice twice, an argument that two decisions
            set, a list index that skips one, an argument that the space sets itself.
    """

    def __init__(
        self,
        name: str,
        model: str | Make,
        decisions: Mapping[str, Sequence[Any] | Mapping[Any, Any]],
        *,
        fixed: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        num_classes: int = 1000,
        input_size: tuple[int, int, int] = (3, 224, 224),
    ) -> None:
        options = {d: list(_read_choices(name, d, c)) for d, c in decisions.items()}
        super().__init__(
            name,
            {d: [choice for choice, _ in pairs] for d, pairs in options.items()},
            num_classes=num_classes,
            input_size=input_size,
        )
        self.model = model
        self.fixed = dict(fixed or {})
        self.attributes = dict(attributes or {})
        self._options = {d: {str(choice): sets for choice, sets in pairs} for d, pairs in options.items()}
        self._make = entry_point(model) if isinstance(model, str) else model
        self._description = {
            "model": _as_json("model", model),
            "arguments": _as_json("a choice", self._options),
            "fixed": _as_json("fixed", self.fixed),
            "attributes": _as_json("attributes", self.attributes),
        }
        self._check_arguments()

    def arguments(self, architecture: Architecture) -> dict[str, Any]:
        """The arguments that make this architecture, less `num_classes`, `in_chans` and `img_size`."""
        arguments: dict[str, Any] = {}
        for path, value in self.fixed.items():
            _assign(arguments, path, path.split("."), value)
        for sets, choice in zip(self._options.values(), architecture.choices, strict=True):
            for path, value in sets[str(choice)].items():
                _assign(arguments, path, path.split("."), value)
        return arguments

    def build(self, architecture: Architecture) -> nn.Module:
        """Make the network, with weights drawn from torch's global generator.

        Raises:
            TypeError: The model does not take these arguments.
            ValueError: The network has no such attribute.
        """
        return self._build(architecture)[0]

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, Any]] | None:
        """Name and arguments with which `timm.create_model` builds it.

        None where the space has a class or function for a model, sets attributes, or sets an argument to nothing or to
        what is no text, number or list: `timm.create_model` drops the former, and a file cannot hold the latter.
        """
        if not isinstance(self.model, str) or self.attributes:
            return None
        with torch.random.fork_rng(devices=[]):
            arguments = self._build(architecture)[1]
        if any(value is None or _as_json(key, value) != value for key, value in arguments.items()):
            return None
        return self.model, arguments

    def _build(self, architecture: Architecture) -> tuple[nn.Module, dict[str, Any]]:
        arguments = self.arguments(architecture)
        try:
            network, arguments = make_network(self._make, self.num_classes, self.input_size, arguments)
        except TypeError as error:
            given = ", ".join(arguments)
            raise TypeError(f"{self._description['model']} does not take the arguments {given}: {error}") from error
        for path, value in self.attributes.items():
            _set_attribute(network, path, value)
        return network, arguments

    def config(self) -> dict[str, Any]:
        return super().config() | self._description

    def _check_arguments(self) -> None:
        """Refuse arguments that the space sets itself, that are set twice, or that cannot be put together."""
        setters: dict[str, str] = dict.fromkeys(self.fixed, "fixed")
        for decision, choices in self._options.items():
            for path in {path: None for sets in choices.values() for path in sets}:
                for other, setter in setters.items():
                    inside = other.startswith(f"{path}.") or (path.startswith(f"{other}.") and setter != "fixed")
                    if setter != decision and (path == other or inside):
                        raise ValueError(f"{self.name}: {path!r} of {decision!r} is set by {setter!r} too.")
                setters[path] = decision
        for argument in (path.split(".")[0] for path in setters):
            if argument in _RESERVED:
                raise ValueError(f"{self.name}: the argument {argument!r} {_RESERVED[argument]}.")
        first = self.architecture([choices[0] for choices in self.decisions.values()])
        for architecture in (first, *self.neighbours(first)):
            self.arguments(architecture)

    # -- from files -----------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **options: Any) -> TimmSpace:
        """Make a space from its arguments as one mapping, as a file holds them.

        Args:
            mapping: The constructor's arguments by name.
            options: `num_classes`, `input_size` and the like, which win over those of the mapping.

        Raises:
            ValueError: An argument is missing or unknown.
        """
        given = {**mapping, **options}
        known = ("name", "model", "decisions", "fixed", "attributes", "num_classes", "input_size")
        for key in given:
            if key not in known:
                near = near_names(str(key), known) or known
                raise ValueError(f"A timm space has no {key!r}; near: {', '.join(near)}.")
        missing = [key for key in known[:3] if key not in given]
        if missing:
            raise ValueError(f"A timm space needs {', '.join(known[:3])}; there is no {', '.join(missing)}.")
        for key in ("decisions", "fixed", "attributes"):
            if not isinstance(given.get(key, {}), Mapping):
                raise ValueError(f"{key!r} of a timm space must be a mapping, not {given[key]!r}.")
        return cls(**given)

    @classmethod
    def from_yaml(cls, path: str | Path, **options: Any) -> TimmSpace:
        """Make a space from a YAML file that holds the constructor's arguments; `name` is the file's unless given.

        Args:
            path: The file.
            options: `num_classes` and `input_size`, which win over those of the file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no YAML, or holds no space.
        """
        path = Path(path)
        try:
            mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML file: {error}") from None
        if not isinstance(mapping, dict):
            raise ValueError(f"{path} holds no mapping of model, decisions and so on, but {mapping!r}.")
        try:
            return cls.from_mapping({"name": path.stem, **mapping}, **options)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None


def load_space(path: str | Path, **options: Any) -> TimmSpace:
    """The space in a YAML file; see `TimmSpace.from_yaml`."""
    return TimmSpace.from_yaml(path, **options)


# -- making networks ----------------------------------------------------------------------------


def entry_point(name: str) -> Make:
    """timm's function that makes the model of this name.

    Raises:
        UnknownNameError: timm has no such model; the message says what comes near.
    """
    if not timm.is_model(name):
        raise UnknownNameError(f"Unknown timm model {name!r}. {near_models(name)}")
    return model_entrypoint(name)


def near_models(name: str) -> str:
    """A sentence for a message: which of timm's names come near this one."""
    near = near_names(name, timm.list_models())
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() has all names."


def make_network(
    make: Make, num_classes: int, input_size: tuple[int, int, int], arguments: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Call timm's or another constructor for images of a size, which is told to it where it wants to know.

    Args:
        make: Takes `num_classes`, `in_chans` and the arguments by name, and may take `img_size`.
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.
        arguments: The others.

    Returns:
        The network, and all arguments that made it.
    """
    channels, height, width = input_size
    without = {"num_classes": num_classes, "in_chans": channels, **arguments}
    sized = {**without, "img_size": height if height == width else [height, width]}
    try:
        # timm does not say which models take img_size: most entry points show no more than **kwargs.
        return make(**sized), sized
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return make(**without), without


# -- reading and applying choices ---------------------------------------------------------------


def _read_choices(space: str, decision: str, choices: Any) -> Iterator[tuple[Choice, Assignments]]:
    """Each choice of a decision with the arguments that it sets."""
    if not isinstance(decision, str) or not decision or any(c in decision for c in ",= "):
        raise ValueError(f"{space}: a decision cannot be called {decision!r}: no comma, equals sign or space.")
    if isinstance(choices, str) or not isinstance(choices, Sequence | Mapping):
        raise ValueError(f"{space}: {decision!r} needs a list or a mapping of choices, not {choices!r}.")
    pairs = choices.items() if isinstance(choices, Mapping) else ((_choice_of(value), value) for value in choices)
    for choice, value in pairs:
        if not isinstance(choice, Choice):
            raise ValueError(f"{space}: {choice!r} of {decision!r} is no text or number; name it: {{name: value}}.")
        if "," in str(choice) or str(choice) != str(choice).strip():
            raise ValueError(f"{space}: the choice {choice!r} of {decision!r} has a comma or a space at its end.")
        yield choice, dict(value) if isinstance(value, Mapping) else {decision: value}


def _choice_of(value: Any) -> Any:
    """A list as the text of its entries, `2-2-6-2`; all else as it is."""
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value


def _assign(node: Any, path: str, keys: list[str], value: Any) -> None:
    """Set the value at the end of `keys` in nested dictionaries and lists, which grow as needed."""
    key: Any = keys[0]
    if isinstance(node, list):
        if not key.isdigit() or int(key) > len(node):
            raise ValueError(f"{path!r} does not fit: {key!r} is no index into a list of {len(node)} entries.")
        key = int(key)
        if key == len(node):
            node.append(None)
    elif not isinstance(node, dict):
        raise ValueError(f"{path!r} does not fit: {key!r} is asked of {node!r}, which is no list or mapping.")
    if len(keys) == 1:
        node[key] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        return
    if (node[key] if isinstance(node, list) else node.get(key)) is None:
        node[key] = [] if keys[1].isdigit() else {}
    _assign(node[key], path, keys[1:], value)


def _set_attribute(network: nn.Module, path: str, value: Any) -> None:
    owner, _, attribute = path.rpartition(".")
    try:
        module = network.get_submodule(owner)
        present = getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(f"{type(network).__name__} has no attribute {path!r}: {error}") from None
    if isinstance(present, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,) * len(present)
    setattr(module, attribute, value)


def _as_json(where: str, value: Any) -> Any:
    """The value as JSON, classes and functions by their names.

    Raises:
        ValueError: The value has no name that is the same in every process.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(where, entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _as_json(f"{where}: {key!r}", entry) for key, entry in value.items()}
    if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise ValueError(f"{where} is {value!r}; give text, numbers, lists, mappings, or a class or function.")


# -- the built-in families ----------------------------------------------------------------------
#
# A score at initialisation can only see what the weights let through: residual branches that start at zero (the last
# normalisation of timm's ResNets and RegNets) or near it (ConvNeXt's layer scale) would hide depth and kernels from it.
# Such starts are switched off in all families.

Size = tuple[int, int, int]


def _widths(*bases: int) -> dict[str, list[int]]:
    """Four stages, each twice as wide as the one before, named by the first."""
    return {f"w{base}": [base, 2 * base, 4 * base, 8 * base] for base in bases}


def resnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """ResNets for 224x224: 6,144 of 1.5 to 78 M params, by block, width and depths."""
    return TimmSpace(
        "timm/resnet",
        ResNet,
        {
            "block": {"basic": BasicBlock, "bottleneck": Bottleneck},
            "channels": _widths(32, 48, 64, 80),
            "layers.0": [1, 2, 3, 4],
            "layers.1": [1, 2, 3, 4, 6, 8],
            "layers.2": [1, 2, 4, 6, 9, 12, 18, 23],
            "layers.3": [1, 2, 3, 4],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
    )


def resnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """ResNets for 32x32: 2,560 of 0.32 to 26 M params, by block, width and depths."""
    return TimmSpace(
        "timm/resnet_32",
        _small_image_resnet,
        {
            "block": {"basic": BasicBlock, "bottleneck": Bottleneck},
            "channels": _widths(16, 24, 32, 48, 64),
            "layers.0": [1, 2, 3, 4],
            "layers.1": [1, 2, 3, 4],
            "layers.2": [1, 2, 3, 4],
            "layers.3": [1, 2, 3, 4],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
    )


def _small_image_resnet(**arguments: Any) -> nn.Module:
    """timm's ResNet with the stem that is customary for CIFAR: 3x3, stride 1, no pooling."""
    network: Any = ResNet(**arguments)
    stem = network.conv1
    network.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _per_stage(decision: str, stages: int, choices: Sequence[Choice]) -> dict[str, Sequence[Choice]]:
    return {f"{decision}.{stage}": choices for stage in range(stages)}


_MBCONV = {**_per_stage("depth", 5, [2, 3, 4]), **_per_stage("kernel", 5, [3, 5, 7])}
_MOBILENETV3 = {"width": [0.5, 0.75, 1.0, 1.25], **_MBCONV, **_per_stage("expansion", 5, [3, 4, 6])}
_EFFICIENTNET = {"width": [0.5, 0.75, 1.0, 1.25], **_MBCONV, **_per_stage("expansion", 5, [4, 6])}


def mobilenetv3(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """MobileNetV3s for 224x224: 57,395,628 of 2.1 to 11 M params, by width, depths, kernels and expansions."""
    return TimmSpace(
        "timm/mobilenetv3",
        _mobilenetv3,
        _MOBILENETV3,
        fixed={"strides": [2, 2, 2, 1, 2]},
        num_classes=num_classes,
        input_size=input_size,
    )


def mobilenetv3_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """MobileNetV3s for 32x32: 57,395,628 of 0.87 to 9.7 M params, by width, depths, kernels and expansions."""
    return TimmSpace(
        "timm/mobilenetv3_32",
        _mobilenetv3,
        _MOBILENETV3,
        fixed={"strides": [1, 2, 2, 1, 2]},
        attributes={"conv_stem.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
    )


def efficientnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """EfficientNets for 224x224: 7,558,272 of 1.2 to 8.9 M params, by width, depths, kernels and expansions."""
    return TimmSpace(
        "timm/efficientnet",
        _efficientnet,
        _EFFICIENTNET,
        fixed={"strides": [2, 2, 2, 1, 2]},
        num_classes=num_classes,
        input_size=input_size,
    )


def efficientnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """EfficientNets for 32x32: 7,558,272 of 0.53 to 7.3 M params, by width, depths, kernels and expansions."""
    return TimmSpace(
        "timm/efficientnet_32",
        _efficientnet,
        _EFFICIENTNET,
        fixed={"strides": [1, 2, 2, 1, 2]},
        attributes={"conv_stem.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
    )


def _inverted_residuals(
    channels: Sequence[int],
    tails: Sequence[str],
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
) -> list[list[str]]:
    """Stages of inverted residual blocks in timm's block notation; `tails` are the options of each stage."""
    stages = zip(channels, tails, depth, kernel, expansion, strides, strict=True)
    return [[f"ir_r{d}_k{k}_s{s}_e{e}_c{c}{tail}"] for c, tail, d, k, e, s in stages]


def _mobilenetv3(
    *,
    width: float,
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
    **arguments: Any,
) -> nn.Module:
    """MobileNetV3-Large with other depths, kernels and expansions. Source: Howard et al., ICCV 2019, table 1."""
    tails = ("_nre", "_se0.25_nre", "", "_se0.25", "_se0.25")
    body = _inverted_residuals((24, 40, 80, 112, 160), tails, depth, kernel, expansion, strides)
    return MobileNetV3(
        decode_arch_def([["ds_r1_k3_s1_e1_c16_nre"], *body, ["cn_r1_k1_s1_c960"]]),
        num_features=1280,
        stem_size=16,
        round_chs_fn=functools.partial(round_channels, multiplier=width),
        act_layer=nn.Hardswish,
        se_layer=functools.partial(
            SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
        ),
        **arguments,
    )


def _efficientnet(
    *,
    width: float,
    depth: Sequence[int],
    kernel: Sequence[int],
    expansion: Sequence[int],
    strides: Sequence[int],
    **arguments: Any,
) -> nn.Module:
    """EfficientNet-B0 with other depths, kernels and expansions. Source: Tan and Le, ICML 2019, table 1."""
    body = _inverted_residuals((24, 40, 80, 112, 192), ("_se0.25",) * 5, depth, kernel, expansion, strides)
    round_width = functools.partial(round_channels, multiplier=width)
    return EfficientNet(
        decode_arch_def([["ds_r1_k3_s1_e1_c16_se0.25"], *body, ["ir_r1_k3_s1_e6_c320_se0.25"]]),
        num_features=round_width(1280),
        round_chs_fn=round_width,
        act_layer=nn.SiLU,
        **arguments,
    )


def regnet(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """RegNets X and Y for 224x224: 840 of 0.7 to 82 M params, by first width, growth, depth and group size."""
    return TimmSpace(
        "timm/regnet",
        _regnet,
        {
            "w0": [24, 32, 48, 64, 80],
            "wm": [2.0, 2.25, 2.5, 2.75],
            "depth": [12, 14, 16, 18, 20, 22, 24],
            "group_size": [8, 16, 24],
            "se_ratio": [0.0, 0.25],
        },
        fixed={"zero_init_last": False},
        num_classes=num_classes,
        input_size=input_size,
    )


def regnet_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """RegNets X and Y for 32x32: 432 of 0.2 to 14 M params, by first width, growth, depth and group size."""
    return TimmSpace(
        "timm/regnet_32",
        _regnet,
        {
            "w0": [16, 24, 32, 48],
            "wm": [2.0, 2.25, 2.5],
            "depth": [10, 12, 14, 16, 18, 20],
            "group_size": [4, 8, 16],
            "se_ratio": [0.0, 0.25],
        },
        fixed={"zero_init_last": False},
        attributes={"stem.conv.stride": 1, "s1.b1.conv2.conv.stride": 1, "s1.b1.downsample.conv.stride": 1},
        num_classes=num_classes,
        input_size=input_size,
    )


def _regnet(*, w0: int, wm: float, depth: int, **arguments: Any) -> nn.Module:
    """A RegNet whose block widths grow in a line from `w0` to `w0 * wm**3`, quantised to four stages.

    Of the rules in Radosavovic et al., CVPR 2020, section 3.3, the slope is not free here: any other number of stages
    than four is none that timm builds.
    """
    slope = w0 * (wm**3 - 1) / (depth - 1)
    return entry_point("regnety_002")(w0=w0, wa=slope, wm=wm, depth=depth, **arguments)


def convnext(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """ConvNeXts V1 and V2 for 224x224: 131,220 of 1.3 to 29 M params, by width, depths and kernels."""
    return TimmSpace(
        "timm/convnext",
        "convnext_atto",
        {
            "dims": _widths(32, 40, 48, 64, 80, 96),
            "depths.0": [1, 2, 3],
            "depths.1": [1, 2, 3],
            "depths.2": [2, 4, 6, 8, 9],
            "depths.3": [1, 2, 3],
            **_per_stage("kernel_sizes", 4, [3, 5, 7]),
            "use_grn": [False, True],
        },
        fixed={"ls_init_value": 1.0},
        num_classes=num_classes,
        input_size=input_size,
    )


def convnext_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """ConvNeXts V1 and V2 for 32x32: 87,480 of 0.22 to 6.2 M params, by width, depths and kernels."""
    return TimmSpace(
        "timm/convnext_32",
        "convnext_atto",
        {
            "dims": _widths(16, 24, 32, 40, 48),
            "depths.0": [1, 2, 3],
            "depths.1": [1, 2, 3],
            "depths.2": [1, 2, 4, 6],
            "depths.3": [1, 2, 3],
            **_per_stage("kernel_sizes", 4, [3, 5, 7]),
            "use_grn": [False, True],
        },
        fixed={"ls_init_value": 1.0, "patch_size": 1},
        num_classes=num_classes,
        input_size=input_size,
    )


def _vit_widths(*heads: int) -> dict[int, Assignments]:
    """Widths by number of heads of 64 channels."""
    return {h: {"num_heads": h, "embed_dim": 64 * h} for h in heads}


_VIT_POOL = {"token": {"global_pool": "token"}, "avg": {"global_pool": "avg", "class_token": False}}


def vit(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """Vision transformers for 224x224: 1,872 of 0.77 to 53 M params, by patch, heads, depth, MLP ratio and pooling."""
    return TimmSpace(
        "timm/vit",
        "vit_tiny_patch16_224",
        {
            "patch_size": [14, 16, 28, 32],
            "heads": _vit_widths(2, 3, 4, 5, 6, 8),
            "depth": list(range(4, 17)),
            "mlp_ratio": [2, 3, 4],
            "pool": _VIT_POOL,
        },
        num_classes=num_classes,
        input_size=input_size,
    )


def vit_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """Vision transformers for 32x32: 704 of 0.059 to 9.5 M params, by patch, heads, depth, MLP ratio and pooling."""
    return TimmSpace(
        "timm/vit_32",
        "vit_tiny_patch16_224",
        {
            "patch_size": [4, 8],
            "heads": _vit_widths(1, 2, 3, 4),
            "depth": list(range(2, 13)),
            "mlp_ratio": [1, 2, 3, 4],
            "pool": _VIT_POOL,
        },
        num_classes=num_classes,
        input_size=input_size,
    )


def _pit_heads(*first: int) -> dict[str, list[int]]:
    """Heads of the three stages, doubling, named by the first."""
    return {f"h{h}": [h, 2 * h, 4 * h] for h in first}


def pit(num_classes: int = 1000, input_size: Size = (3, 224, 224)) -> TimmSpace:
    """Pooling vision transformers for 224x224: 1,296 of 2 to 105 M params, by widths, heads, MLP ratio and depths."""
    return TimmSpace(
        "timm/pit",
        "pit_ti_224",
        {
            "base_dims": {d: [d, d, d] for d in (32, 48, 64)},
            "heads": _pit_heads(2, 3, 4),
            "mlp_ratio": [2, 3, 4],
            "depth.0": [1, 2, 3],
            "depth.1": [4, 5, 6, 8],
            "depth.2": [2, 3, 4, 6],
        },
        num_classes=num_classes,
        input_size=input_size,
    )


def pit_32(num_classes: int = 10, input_size: Size = (3, 32, 32)) -> TimmSpace:
    """Pooling vision transformers for 32x32: 2,880 of 0.042 to 23 M params, by widths, heads, MLP ratio and depths."""
    return TimmSpace(
        "timm/pit_32",
        "pit_ti_224",
        {
            "base_dims": {d: [d, d, d] for d in (16, 24, 32, 48)},
            "heads": _pit_heads(1, 2, 3),
            "mlp_ratio": [1, 2, 3, 4],
            "depth.0": [1, 2, 3],
            "depth.1": [1, 2, 3, 4, 6],
            "depth.2": [1, 2, 3, 4],
        },
        fixed={"patch_size": 4, "stride": 2},
        num_classes=num_classes,
        input_size=input_size,
    )


TIMM_FAMILIES: dict[str, Callable[..., TimmSpace]] = {
    "timm/resnet": resnet,
    "timm/resnet_32": resnet_32,
    "timm/mobilenetv3": mobilenetv3,
    "timm/mobilenetv3_32": mobilenetv3_32,
    "timm/efficientnet": efficientnet,
    "timm/efficientnet_32": efficientnet_32,
    "timm/regnet": regnet,
    "timm/regnet_32": regnet_32,
    "timm/convnext": convnext,
    "timm/convnext_32": convnext_32,
    "timm/vit": vit,
    "timm/vit_32": vit_32,
    "timm/pit": pit,
    "timm/pit_32": pit_32,
}
"""The built-in families by name; those that end in `_32` are for images of about 32x32."""
