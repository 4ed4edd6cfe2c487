"""A space over one of timm's model classes: decisions that set arguments of its constructor."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .cost import Cost
from .input_spec import image_spec
from .option_types import check_types, shown
from .registry import near_names
from .space import Architecture, Choice, SearchSpace
from .stored_options import check_model_options, check_sizes, check_stored_options
from .timm_costs import ClosedForm
from .timm_models import Make, entry_point, make_network
from .yaml_files import read_yaml

Assignments = dict[str, object]
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
        name: Name of the space.
        model: A name that `timm.list_models()` knows, or a class or function that makes a network and takes
            `num_classes` and `in_chans`, and `img_size` if the network depends on it.
        decisions: Choices of each decision, as above.
        fixed: Arguments that are the same in every network, by path.
        attributes: Values that are set on the built network, by path of module and attribute, for changes that no
            argument makes: `{"conv1.stride": 1}`. If the present value is a tuple, a number is repeated to its length.
        num_classes: Number of classes of the networks.
        input_size: Channels, height and width of one image.
        closed_form: Computes the cost from the constructor's arguments, as `timm_costs` does for the built-in families;
            by default a network is built without weights and counted.

    Raises:
        UnknownNameError: timm has no such model.
        ValueError: A decision has no choices or a choice twice, two decisions set one argument, a list index skips an
            entry, or an argument is one that the space sets itself.

    Example:
        >>> space = TimmSpace("mine", "convnext_atto", {"depths.0": [1, 2]}, fixed={"depths": [1, 1, 2, 1]})
        >>> [space.arguments(architecture) for architecture in space]
        [{'depths': [1, 1, 2, 1]}, {'depths': [2, 1, 2, 1]}]
    """

    def __init__(
        self,
        name: str,
        model: str | Make,
        decisions: Mapping[str, Sequence[object] | Mapping[Any, object]],
        *,
        fixed: Mapping[str, object] | None = None,
        attributes: Mapping[str, object] | None = None,
        num_classes: int = 1000,
        input_size: tuple[int, int, int] = (3, 224, 224),
        closed_form: ClosedForm | None = None,
    ) -> None:
        options = {d: list(_read_choices(name, d, c)) for d, c in decisions.items()}
        super().__init__(
            name,
            {d: [choice for choice, _ in pairs] for d, pairs in options.items()},
            num_classes=num_classes,
            input_size=input_size,
        )
        self.model = model
        self.closed_form = closed_form
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

    def arguments(self, architecture: Architecture) -> dict[str, object]:
        """The constructor's arguments for an architecture, without `num_classes`, `in_chans` and `img_size`."""
        arguments: dict[str, object] = {}
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

    @property
    def has_closed_cost(self) -> bool:
        return self.closed_form is not None

    def cost(self, architecture: Architecture) -> Cost:
        if self.closed_form is None:
            return super().cost(architecture)
        return self.closed_form(self.arguments(architecture), self.num_classes, image_spec(self.input_size).size)

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]] | None:
        """Name and arguments with which `timm.create_model` builds the network.

        None if the model is a class or function, if the space sets attributes, or if an argument is None, which
        `timm.create_model` drops, or a value that a file cannot hold.
        """
        if not isinstance(self.model, str) or self.attributes:
            return None
        with torch.random.fork_rng(devices=[]):
            arguments = self._build(architecture)[1]
        if any(value is None or _as_json(key, value) != value for key, value in arguments.items()):
            return None
        return self.model, arguments

    def _build(self, architecture: Architecture) -> tuple[nn.Module, dict[str, object]]:
        arguments = self.arguments(architecture)
        try:
            network, arguments = make_network(self._make, self.num_classes, image_spec(self.input_size), arguments)
        except TypeError as error:
            names = ", ".join(arguments)
            raise TypeError(f"{self._description['model']} does not take the arguments {names}: {error}") from error
        for path, value in self.attributes.items():
            _set_attribute(network, path, value)
        return network, arguments

    def config(self) -> dict[str, object]:
        return super().config() | self._description

    def _check_arguments(self) -> None:
        """Refuse arguments that the space sets itself, that are set twice, or whose paths do not fit together."""
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
            check_sizes(self.arguments(architecture), self.name)
        if isinstance(self.model, str):
            check_model_options(self.model, dict.fromkeys(setters), self.name)
            check_model_options(
                self.model, {path.split(".")[0]: value for path, value in self.fixed.items()}, self.name
            )

    # -- from files -----------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **options: object) -> TimmSpace:
        """Make a space from a mapping of the constructor's arguments.

        Args:
            mapping: The constructor's arguments by name.
            options: Arguments that replace those of the mapping, such as `num_classes`.

        Raises:
            ValueError: An argument is missing or unknown.
        """
        arguments = {**mapping, **options}
        allowed = ("name", "model", "decisions", "fixed", "attributes", "num_classes", "input_size")
        for key in arguments:
            if key not in allowed:
                near = near_names(str(key), allowed) or allowed
                raise ValueError(f"A timm space has no {key!r}; near: {', '.join(near)}.")
        missing = [key for key in allowed[:3] if key not in arguments]
        if missing:
            raise ValueError(f"A timm space needs {', '.join(allowed[:3])}; there is no {', '.join(missing)}.")
        for key in ("decisions", "fixed", "attributes"):
            if not isinstance(arguments.get(key, {}), Mapping):
                raise ValueError(f"{key!r} of a timm space must be a mapping, not {shown(arguments[key])}.")
        check_types({"name": arguments["name"], "model": arguments["model"]}, {"name": "str", "model": "str | Make"})
        return cls(**arguments)

    @classmethod
    def from_yaml(cls, path: str | Path, **options: object) -> TimmSpace:
        """Make a space from a YAML file that holds the constructor's arguments; `name` defaults to the file's.

        Args:
            path: The file.
            options: Arguments that replace those of the file, such as `num_classes`.

        Raises:
            FileNotFoundError: There is no such file.
            UnsafeOptionError: The file sets an option that can load files or code, or one that is no plain value.
            ValueError: The file is not YAML, or does not describe a space.
        """
        path = Path(path)
        mapping = read_yaml(path)
        if not isinstance(mapping, dict):
            raise ValueError(f"{path} holds no mapping of model, decisions and so on, but {shown(mapping)}.")
        check_stored_options(mapping, str(path))
        try:
            return cls.from_mapping({"name": path.stem, **mapping}, **options)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None


def load_space(path: str | Path, **options: object) -> TimmSpace:
    """The space in a YAML file; see `TimmSpace.from_yaml`."""
    return TimmSpace.from_yaml(path, **options)


# -- reading and applying choices ---------------------------------------------------------------


def _read_choices(space: str, decision: str, choices: object) -> Iterator[tuple[Choice, Assignments]]:
    """Each choice of a decision with the arguments that it sets."""
    if not isinstance(decision, str) or not decision or any(c in decision for c in ",= "):
        raise ValueError(f"{space}: a decision cannot be called {decision!r}: no comma, equals sign or space.")
    if isinstance(choices, str) or not isinstance(choices, Sequence | Mapping):
        raise ValueError(f"{space}: {decision!r} needs a list or a mapping of choices, not {choices!r}.")
    pairs = choices.items() if isinstance(choices, Mapping) else ((_choice_of(value), value) for value in choices)
    for choice, value in pairs:
        if not isinstance(choice, Choice):
            raise ValueError(f"{space}: {choice!r} of {decision!r} is not text or a number; name it: {{name: value}}.")
        if "," in str(choice) or str(choice) != str(choice).strip():
            raise ValueError(f"{space}: the choice {choice!r} of {decision!r} has a comma or a space at its end.")
        yield choice, dict(value) if isinstance(value, Mapping) else {decision: value}


def _choice_of(value: object) -> object:
    """A list as the text of its entries, `2-2-6-2`; any other value as it is."""
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value


def _assign(node: object, path: str, keys: list[str], value: object) -> None:
    """Set the value at the end of `keys` in nested dictionaries and lists, which grow as needed."""
    key: Any = keys[0]
    if isinstance(node, list):
        if not key.isdigit() or int(key) > len(node):
            raise ValueError(f"{path!r} does not fit: {key!r} is not an index into a list of {len(node)} entries.")
        key = int(key)
        if key == len(node):
            node.append(None)
    elif not isinstance(node, dict):
        raise ValueError(f"{path!r} does not fit: {key!r} is asked of {node!r}, which is not a list or mapping.")
    if len(keys) == 1:
        node[key] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        return
    if (node[key] if isinstance(node, list) else node.get(key)) is None:
        node[key] = [] if keys[1].isdigit() else {}
    _assign(node[key], path, keys[1:], value)


def _set_attribute(network: nn.Module, path: str, value: object) -> None:
    """Set an attribute of a module inside the network; the attribute must be there."""
    owner, _, attribute = path.rpartition(".")
    try:
        module = network.get_submodule(owner)
        current = getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(f"{type(network).__name__} has no attribute {path!r}: {error}") from None
    if isinstance(current, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,) * len(current)
    setattr(module, attribute, value)


def _as_json(where: str, value: object) -> object:
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
