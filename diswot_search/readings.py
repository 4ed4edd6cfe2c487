"""Readings: what is read off one network on one probe, each pass run once, on first use.

Any model under timm's contract (`forward_features`, `forward_head`, `get_classifier`) is read through it, in NCHW,
NHWC and token layouts alike. Any other `nn.Module` is read through hooks: its classifier is the last linear layer
that makes its output, its features are the last output before that with more than one position.

Shapes: B samples, N classes, C channels, P positions (height x width, or tokens), D inputs of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from search_spaces import Cost
from search_spaces.cost import count_cost

from . import functional
from .data import Probe


class ReadingError(RuntimeError):
    """A network that cannot be read: its output, features or classifier are not as they must be."""


@dataclass(frozen=True)
class Precision:
    """How a network is run: memory layout and number format. What is read off it is float32 in any case.

    Attributes:
        channels_last: Keep feature maps in NHWC memory order: the same numbers up to rounding, sooner on most devices.
        bf16: Run under bfloat16 autocast.
    """

    channels_last: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class _Call:
    """One call of a linear layer: its weight, its input and its output."""

    weight: nn.Parameter
    inputs: Tensor
    output: Tensor


@dataclass(frozen=True)
class _Forward:
    raw: Any
    features: Tensor
    logits: Tensor
    calls: tuple[_Call, ...]


class Readings:
    """What is read off one network on one probe.

    Args:
        make: Makes the network; called on first use, so that nothing is built for what needs no network.
        probe: The batch.
        device: Where the network runs.
        precision: Memory layout and number format.
        trained: Normalise with the running statistics of training. Otherwise, as fits random weights, batch
            normalisation takes the statistics of the batch. Dropout and its like are off in both cases.
        cost: Gives the network's cost; by default it is counted.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        probe: Probe,
        *,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
        trained: bool = False,
        cost: Callable[[], Cost] | None = None,
    ) -> None:
        self._make = make
        self._cost = cost
        self.probe = probe
        self.device = torch.device(device)
        self.precision = precision or Precision()
        self.trained = trained

    @cached_property
    def model(self) -> nn.Module:
        """The network, on the device."""
        model = self._make().to(self.device)
        return model.to(memory_format=torch.channels_last) if self.precision.channels_last else model

    @cached_property
    def cost(self) -> Cost:
        """Parameters and multiply-accumulates."""
        return self._cost() if self._cost else count_cost(self.model, self.probe.input_size)

    @cached_property
    def images(self) -> Tensor:
        """The probe's images on the device, (B, channels, H, W)."""
        images = self.probe.images.to(self.device)
        return images.contiguous(memory_format=torch.channels_last) if self.precision.channels_last else images

    @cached_property
    def labels(self) -> Tensor:
        """The probe's labels on the device, (B,)."""
        return self.probe.labels.to(self.device)

    @cached_property
    def _forward(self) -> _Forward:
        run = _forward_timm if has_timm_contract(self.model) else _forward_hooked
        with torch.no_grad(), self._run_mode():
            forward = run(self.model, self.images)
        if not bool(torch.isfinite(forward.logits).all() & torch.isfinite(forward.features).all()):
            raise ReadingError("the activations are not finite (NaN or infinity)")
        return forward

    @contextmanager
    def _run_mode(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model, batch_statistics=not self.trained))
            if self.precision.bf16:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            yield

    # -- the pass -------------------------------------------------------------------------------

    @property
    def features(self) -> Tensor:
        """The last feature map before pooling, (B, C, P)."""
        return self._forward.features

    @property
    def logits(self) -> Tensor:
        """Class scores, (B, N)."""
        return self._forward.logits

    @cached_property
    def pooled(self) -> Tensor:
        """The input of the classifier, (B, D); inputs of several averaged classifiers stand side by side."""
        return torch.cat([call.inputs for call in self._forward.calls], 1) / len(self._forward.calls)

    @cached_property
    def classifier_weight(self) -> Tensor:
        """The classifier's weight, (N, D), such that logits = pooled @ weight^T + bias for a linear head."""
        weights = [call.weight.detach().float().flatten(1) for call in self._forward.calls]
        return torch.cat(weights, 1)

    @cached_property
    def has_linear_head(self) -> bool:
        """Whether the logits are a linear function of `pooled` (an average of several such ones included)."""
        return _close(torch.stack([call.output for call in self._forward.calls]).mean(0), self.logits)

    @cached_property
    def has_mean_pooling(self) -> bool:
        """Whether `pooled` is the plain mean of `features` over positions."""
        means = self.features.mean(2)
        return means.shape == self.pooled.shape and _close(means, self.pooled)

    # -- what follows from it -------------------------------------------------------------------

    @cached_property
    def label_gradient(self) -> Tensor:
        """Gradient of the cross entropy with respect to the classifier's weight, (N, D).

        A closed form for linear heads; for any other the head alone is differentiated.

        Raises:
            ReadingError: The probe has labels that the network has no class for.
        """
        classes = self.logits.shape[1]
        if int(self.labels.max()) >= classes:
            raise ReadingError(f"labels go up to {int(self.labels.max())}, but the network has {classes} classes")
        if self.has_linear_head:
            return functional.label_gradient(self.logits, self.labels, self.pooled)
        weight = self._forward.calls[0].weight
        required = weight.requires_grad
        weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = F.cross_entropy(self._rerun_head(self._forward.raw), self.labels)
            (gradient,) = torch.autograd.grad(loss, weight)
        finally:
            weight.requires_grad_(required)
        return gradient.float().flatten(1)

    @cached_property
    def class_map_gram(self) -> Tensor:
        """Gram matrix of the class activation maps, summed over samples and positions, (N, N).

        CAM by a closed form where the network ends in mean pooling and a linear layer. For any other head, Grad-CAM
        through the head alone, one backward pass of the head for each class.
        """
        if self.has_linear_head and self.has_mean_pooling:
            return functional.class_gram_of_maps(self.features, self.classifier_weight)
        raw = self._forward.raw
        if not isinstance(raw, Tensor):
            raise ReadingError("class maps need one feature map; this network gives several, or none of its own")
        leaf = raw.detach().requires_grad_(True)
        with torch.enable_grad(), _ConstantStatistics():
            logits = self._rerun_head(leaf)
        maps = []
        for index in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), leaf, retain_graph=True)
            weights = _channels_first(gradient, self.model).float().sum(2, keepdim=True)
            maps.append((weights * self.features).sum(1).flatten())
        stacked = torch.stack(maps)
        return stacked @ stacked.T

    def _rerun_head(self, raw: Any) -> Tensor:
        if not has_timm_contract(self.model):
            raise ReadingError("the head of a module without `forward_head` cannot be differentiated alone")
        model: Any = self.model
        with self._run_mode():
            return model.forward_head(raw).float()

    @cached_property
    def sample_gram(self) -> Tensor:
        """Inner products of the samples' flattened features, (B, B)."""
        return functional.sample_gram(self.features)

    @cached_property
    def channel_gram(self) -> Tensor:
        """Inner products of each sample's channels, (B, C, C)."""
        return functional.channel_gram(self.features)

    @cached_property
    def sample_cosines(self) -> Tensor:
        """Cosine similarities of the samples' flattened features, (B, B)."""
        return functional.cosines(self.sample_gram)

    @cached_property
    def class_cosines(self) -> Tensor:
        """Cosine similarities of the mean pooled features of the classes in the probe, (classes, classes).

        Raises:
            ReadingError: The probe has one class only.
        """
        prototypes = functional.class_prototypes(self.pooled, self.labels)
        if len(prototypes) < 2:
            raise ReadingError("the probe has samples of one class only, so classes cannot be compared")
        return functional.cosines(functional.sample_gram(prototypes))

    @cached_property
    def channel_spectrum(self) -> Tensor:
        """Eigenvalues of the channels' second moment as shares of their sum, largest first, (min(C, B P),)."""
        return functional.channel_spectrum(self.features)


def has_timm_contract(model: nn.Module) -> bool:
    """Whether the model has timm's calls for features, head and classifier."""
    return all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head", "get_classifier"))


class _ConstantStatistics(TorchFunctionMode):
    """Batch normalisation takes the statistics of the batch as constants, so that a sample's gradient is its own.

    Otherwise a sum over the samples behind it has no gradient, since normalisation fixes that sum.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        normalise = _normalise_by_constants if func is F.batch_norm else func
        return normalise(*args, **(kwargs or {}))


def _normalise_by_constants(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training:
        others = [dimension for dimension in range(x.ndim) if dimension != 1]
        running_var, running_mean = torch.var_mean(x.detach().float(), others, correction=0)
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


@contextmanager
def evaluation_mode(model: nn.Module, *, batch_statistics: bool) -> Iterator[None]:
    """Evaluation mode for the block; modes and running statistics are left as they were.

    Args:
        model: The network.
        batch_statistics: Batch normalisation takes the statistics of the batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    tracked = []
    model.eval()
    if batch_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                tracked.append((module, module.track_running_stats))
                module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for batch_norm, tracks in tracked:
            batch_norm.track_running_stats = tracks
        for module, training in modes:
            module.training = training


def _forward_timm(model: Any, images: Tensor) -> _Forward:
    raw = model.forward_features(images)
    head = model.get_classifier()
    # A head may be one layer, several averaged ones in a tuple, or a module that holds them.
    parts = head if isinstance(head, tuple | list) else (head,)
    layers = [m for part in parts if isinstance(part, nn.Module) for m in part.modules() if _is_linear(m)]
    with _recorded(layers) as calls:
        logits = model.forward_head(raw)
    calls = _calls_for(logits, calls)
    if not calls:
        raise ReadingError(f"no linear classifier was run in the head of {type(model).__name__}")
    pooled = torch.cat([call.inputs for call in calls], 1)
    features = _channels_first(raw, model) if isinstance(raw, Tensor) else pooled.unsqueeze(2)
    return _Forward(raw, features.float(), logits.float(), tuple(calls))


def _forward_hooked(model: nn.Module, images: Tensor) -> _Forward:
    maps: list[Tensor] = []

    def keep_map(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(images):
            positions = output.shape[1] if output.ndim == 3 else output.shape[2] * output.shape[3]
            if positions > 1:
                maps[:] = [output]

    with ExitStack() as stack:
        for module in model.modules():
            if module is not model:
                handle = module.register_forward_hook(keep_map)
                stack.callback(handle.remove)
        calls = stack.enter_context(_recorded([m for m in model.modules() if _is_linear(m)]))
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ReadingError(f"{type(model).__name__} must give logits (batch, classes), got {_describe(logits)}")
    last = _calls_for(logits, calls)[-1:]
    if not last:
        raise ReadingError(f"{type(model).__name__} has no linear layer that makes its {logits.shape[1]} class scores")
    pooled = last[0].inputs
    features = _flatten_positions(maps[0], pooled.shape[1]) if maps else pooled.unsqueeze(2)
    return _Forward(None, features.float(), logits.float(), tuple(last))


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[_Call]]:
    """Collect the calls of these layers, in the order in which they are run."""
    calls: list[_Call] = []

    def record(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(layer.weight, inputs[0].float(), output.float()))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _calls_for(logits: Tensor, calls: list[_Call]) -> list[_Call]:
    """The calls that give one row of class scores for each sample, as (B, D) to (B, N).

    Of a layer that is run on many tokens, as behind attention pooling, the token whose scores are the logits counts.
    """
    found = []
    for call in calls:
        # Flat, so that a 1x1 convolution on one position looks like the linear layer that it is.
        if call.output.flatten(1).shape == logits.shape:
            found.append(_Call(call.weight, call.inputs.flatten(1), call.output.flatten(1)))
        elif call.output.ndim == 3 and call.output.shape[::2] == logits.shape:
            tokens = range(call.output.shape[1])
            token = next((t for t in tokens if torch.equal(call.output[:, t], logits.float())), None)
            if token is not None:
                found.append(_Call(call.weight, call.inputs[:, token], call.output[:, token]))
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def _channels_first(raw: Tensor, model: Any) -> Tensor:
    """A feature map of a timm model as (B, C, P)."""
    if raw.ndim == 4 and str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        return raw.flatten(1, 2).transpose(1, 2)
    return _flatten_positions(raw, model.num_features)


def _flatten_positions(raw: Tensor, width: int) -> Tensor:
    """(B, C), (B, tokens, C), (B, C, H, W) or (B, H, W, C) as (B, C, P); `width` tells the layouts apart."""
    if raw.ndim == 2:
        return raw.unsqueeze(2)
    if raw.ndim == 3:
        channels_first = raw.shape[1] == width != raw.shape[2]
        return raw if channels_first else raw.transpose(1, 2)
    if raw.ndim == 4:
        channels_last = raw.shape[3] == width != raw.shape[1]
        return raw.flatten(1, 2).transpose(1, 2) if channels_last else raw.flatten(2)
    raise ReadingError(f"features must have 2 to 4 dimensions, got {tuple(raw.shape)}")


def _close(first: Tensor, second: Tensor) -> bool:
    """Equal up to the rounding of the formats that networks run in."""
    scale = second.abs().max().clamp_min(torch.finfo(second.dtype).tiny)
    return bool((first - second).abs().max() <= 1e-2 * scale)


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
