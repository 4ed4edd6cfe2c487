"""Readings: what is read off one network on one probe, each pass run once, on first use.

Any model under timm's contract (`forward_features`, `forward_head`, `get_classifier`) is read through it, in NCHW,
NHWC and token layouts alike. Any other `nn.Module` is read through hooks: its classifier is the last linear layer
that makes its output, its features are the last output before that with more than one position.

Shapes: B samples, N classes, C channels, P positions (height x width, or tokens), D inputs of the classifier.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from search_spaces import Cost
from search_spaces.cost import count_cost
from search_spaces.registry import UnknownNameError, unknown_name_message

from .. import functional
from ..data import Probe
from ..seeding import stable_seed
from .fisher import FISHER_SAMPLES, fisher_information
from .forward import (
    ConstantStatistics,
    Forward,
    ReadingError,
    TwiceDifferentiable,
    channels_first,
    close,
    evaluation_mode,
    has_timm_contract,
    mean_pooled,
    run_forward,
)
from .recording import LayerCall, Recorder, weighted_layers
from .tangent import Products, tangent_kernel
from .timing import T, Timed, reading

RECORDED: dict[str, frozenset[str]] = {
    "gradients": frozenset({"graph"}),
    "hessian_gradients": frozenset({"graph", "twice"}),
    "sensitivities": frozenset({"graph", "layers"}),
    "input_jacobian": frozenset({"graph", "images"}),
    "code_gram": frozenset({"code_gram"}),
    "sign_patterns": frozenset({"sign_patterns"}),
    "block_features": frozenset({"blocks"}),
    "block_gradients": frozenset({"graph", "blocks"}),
    "block_entropies": frozenset({"blocks"}),
    "stage_features": frozenset({"blocks"}),
    "leaf_maps": frozenset({"leaves"}),
}
"""What the forward pass must note down for a reading to be taken from it. All others need the plain pass or none."""


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
class _Pass:
    """A forward pass: its values, what was noted down, and, where there is one, the graph behind it."""

    kinds: frozenset[str]
    forward: Forward
    notes: Recorder
    images: Tensor
    logits: Tensor


class Readings(Timed):
    """What is read off one network on one probe.

    Args:
        make: Makes the network; called on first use, so that nothing is built for what needs no network.
        probe: The batch.
        device: Where the network runs.
        precision: Memory layout and number format.
        trained: Normalise with the running statistics of training. Otherwise, as fits random weights, batch
            normalisation takes the statistics of the batch. Dropout and its like are off in both cases.
        cost: Gives the network's cost; by default it is counted.
        needs: Names of readings that will be taken, so that one forward pass notes down what all of them are made
            from. Any other reading can be taken too, at the price of a forward pass of its own.

    Raises:
        UnknownNameError: `needs` has a name that is no reading.
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
        needs: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_needs(needs)
        self._make = make
        self._cost = cost
        self.probe = probe
        self.device = torch.device(device)
        self.precision = precision or Precision()
        self.trained = trained
        self.needs = frozenset(needs)
        self._announced = frozenset[str]().union(*(RECORDED.get(name, frozenset()) for name in self.needs))

    @reading
    def model(self) -> nn.Module:
        """The network, on the device."""
        model = self._make().to(self.device)
        return model.to(memory_format=torch.channels_last) if self.precision.channels_last else model

    @reading
    def cost(self) -> Cost:
        """Parameters and multiply-accumulates."""
        return self._cost() if self._cost else count_cost(self.model, self.probe.input_size)

    @reading
    def images(self) -> Tensor:
        """The probe's images on the device, (B, channels, H, W)."""
        images = self.probe.images.to(self.device)
        return images.contiguous(memory_format=torch.channels_last) if self.precision.channels_last else images

    @reading
    def labels(self) -> Tensor:
        """The probe's labels on the device, (B,)."""
        return self.probe.labels.to(self.device)

    # -- the forward pass -----------------------------------------------------------------------

    @reading
    def forward_pass(self) -> _Pass:
        """The one forward pass, which notes down what the readings in `needs` are made from."""
        return self._run(self._announced)

    def _run(self, kinds: frozenset[str]) -> _Pass:
        images = self.images.detach().requires_grad_("images" in kinds)
        notes = Recorder(kinds - {"graph", "twice", "images"}, len(images))
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled("graph" in kinds))
            stack.enter_context(self._differentiable(kinds))
            stack.enter_context(self._run_mode())
            if "twice" in kinds:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # no other attention can be differentiated twice
                stack.enter_context(TwiceDifferentiable())
            stack.enter_context(notes.recording(self.model))
            given = images.clone()
            result = run_forward(self.model, given)
        if notes.entry is given:
            notes.entry = None
        for kind, seconds in notes.seconds.items():
            self._charge(kind, seconds)
        return _Pass(kinds, result.detached(), notes, images, result.logits)

    def _pass_for(self, name: str) -> _Pass:
        """A forward pass that noted down what this reading is made from."""
        return self._pass_with(RECORDED[name])

    def _pass_with(self, kinds: frozenset[str]) -> _Pass:
        """The pass of all where it noted down these kinds, otherwise one for them alone.

        Should the pass of all fail, that may be for what one reading needs, and is no reason for others to fail.
        """
        try:
            if kinds <= self.forward_pass.kinds:
                return self.forward_pass
        except ReadingError:  # the network cannot be read, whatever is noted down
            raise
        except Exception as error:
            if kinds == self._announced:
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was noted down, perhaps all memory
        return self._take(f"forward_pass({', '.join(sorted(kinds))})", lambda readings: readings._run(kinds))

    @contextmanager
    def _run_mode(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model, batch_statistics=not self.trained))
            if self.precision.bf16:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            yield

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _check_labels(self) -> None:
        classes = self.logits.shape[1]
        if int(self.labels.max()) >= classes:
            raise ReadingError(f"labels go up to {int(self.labels.max())}, but the network has {classes} classes")

    @property
    def _forward(self) -> Forward:
        return self._pass_with(frozenset()).forward

    @property
    def features(self) -> Tensor:
        """The last feature map before pooling, (B, C, P)."""
        return self._forward.features

    @property
    def logits(self) -> Tensor:
        """Class scores, (B, N)."""
        return self._forward.logits

    @reading
    def pooled(self) -> Tensor:
        """The input of the classifier, (B, D); inputs of several averaged classifiers stand side by side."""
        return torch.cat([call.inputs for call in self._forward.calls], 1) / len(self._forward.calls)

    @reading
    def classifier_weight(self) -> Tensor:
        """The classifier's weight, (N, D), such that logits = pooled @ weight^T + bias for a linear head."""
        weights = [call.weight.detach().float().flatten(1) for call in self._forward.calls]
        return torch.cat(weights, 1)

    @reading
    def has_linear_head(self) -> bool:
        """Whether the logits are a linear function of `pooled` (an average of several such ones included)."""
        return close(torch.stack([call.output for call in self._forward.calls]).mean(0), self.logits)

    @reading
    def has_mean_pooling(self) -> bool:
        """Whether `pooled` is the plain mean of `features` over positions."""
        return mean_pooled(self.features, self.pooled)

    # -- what follows from it -------------------------------------------------------------------

    @reading
    def label_gradient(self) -> Tensor:
        """Gradient of the cross entropy with respect to the classifier's weight, (N, D).

        A closed form for linear heads; for any other the head alone is differentiated.

        Raises:
            ReadingError: The probe has labels that the network has no class for.
        """
        self._check_labels()
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

    @reading
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
        with torch.enable_grad(), ConstantStatistics():
            logits = self._rerun_head(leaf)
        maps = []
        for index in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), leaf, retain_graph=True)
            weights = channels_first(gradient, self.model).float().sum(2, keepdim=True)
            maps.append((weights * self.features).sum(1).flatten())
        stacked = torch.stack(maps)
        return stacked @ stacked.T

    def _rerun_head(self, raw: Any) -> Tensor:
        if not has_timm_contract(self.model):
            raise ReadingError("the head of a module without `forward_head` cannot be differentiated alone")
        model: Any = self.model
        with self._run_mode():
            return model.forward_head(raw).float()

    @reading
    def sample_gram(self) -> Tensor:
        """Inner products of the samples' flattened features, (B, B)."""
        return functional.sample_gram(self.features)

    @reading
    def channel_gram(self) -> Tensor:
        """Inner products of each sample's channels, (B, C, C)."""
        return functional.channel_gram(self.features)

    @reading
    def sample_cosines(self) -> Tensor:
        """Cosine similarities of the samples' flattened features, (B, B)."""
        return functional.cosines(self.sample_gram)

    @reading
    def class_cosines(self) -> Tensor:
        """Cosine similarities of the mean pooled features of the classes in the probe, (classes, classes).

        Raises:
            ReadingError: The probe has one class only.
        """
        prototypes = functional.class_prototypes(self.pooled, self.labels)
        if len(prototypes) < 2:
            raise ReadingError("the probe has samples of one class only, so classes cannot be compared")
        return functional.cosines(functional.sample_gram(prototypes))

    @reading
    def channel_spectrum(self) -> Tensor:
        """Eigenvalues of the channels' second moment as shares of their sum, largest first, (min(C, B P),)."""
        return functional.channel_spectrum(self.features)

    # -- layers and blocks ----------------------------------------------------------------------

    @reading
    def layers(self) -> list[nn.Module]:
        """Convolutions and linear layers, in the order in which the model names them."""
        return weighted_layers(self.model)

    @reading
    def block_features(self) -> list[Tensor]:
        """The output of each block in the order of running, each (B, C, P); see `find_blocks` for what a block is."""
        return [self._as_map(block.detach()) for block in self._pass_for("block_features").notes.blocks]

    @reading
    def block_entropies(self) -> list[float]:
        """Entropy of the spectrum of each block's channel covariance, in nats; see `functional.channel_entropies`.

        What the stem gives the first block counts as the output of a block.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        maps = [self._as_map(map_.detach()) for map_ in self._chain("block_entropies")]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        return functional.channel_entropies(maps)

    def _chain(self, name: str) -> list[Tensor]:
        """What the first block was given, unless these are the images, and the output of each block."""
        notes = self._pass_for(name).notes
        return notes.blocks if notes.entry is None else [notes.entry, *notes.blocks]

    @reading
    def stage_features(self) -> list[Tensor]:
        """The last output of a block at each number of positions, in the order of running, each (B, C, P).

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        maps = [self._as_map(block.detach()) for block in self._pass_for("stage_features").notes.blocks]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        following = [after.shape[2] for after in maps[1:]] + [None]
        return [map_ for map_, after in zip(maps, following, strict=True) if map_.shape[2] != after]

    @reading
    def leaf_maps(self) -> list[Tensor]:
        """What each innermost module gave for the first sample, where that has positions, each (C, P)."""
        return [self._as_map(leaf[None])[0] for leaf in self._pass_for("leaf_maps").notes.leaves]

    def _as_map(self, raw: Tensor) -> Tensor:
        """A feature map of this network as (B, C, P)."""
        if raw.ndim == 3:
            return raw.float().transpose(1, 2)
        last = str(getattr(self.model, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return (raw.flatten(1, 2).transpose(1, 2) if last else raw.flatten(2)).float()

    # -- activation codes -----------------------------------------------------------------------

    @reading
    def code_gram(self) -> Tensor:
        """How many neurons agree on each pair of samples, on in both or off in both, (B, B) in float64.

        A neuron is an input of an activation function; it is on where that input is above zero.

        Raises:
            ReadingError: The network has no activation function.
        """
        gram = self._pass_for("code_gram").notes.code_gram
        if gram is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return gram

    @reading
    def neurons(self) -> int:
        """Neurons that `code_gram` is counted over."""
        return self._pass_for("code_gram").notes.neurons

    @reading
    def sign_patterns(self) -> int:
        """Number of distinct patterns that neurons show over the first 16 samples, on or off on each.

        Raises:
            ReadingError: The network has no activation function.
        """
        patterns = self._pass_for("sign_patterns").notes.patterns
        if patterns is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return int(patterns.sum())

    # -- derivatives ----------------------------------------------------------------------------

    @reading
    def gradients(self) -> list[Tensor]:
        """Gradient of the mean cross entropy with respect to the weight of each of `layers`; zero where unused.

        Raises:
            ReadingError: The probe has labels that the network has no class for.
        """
        return [gradient.detach() for gradient in self.backward_pass[0]]

    @reading
    def half_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """`gradients` on the first half of the batch and on the second one, each in a pass of its own.

        Raises:
            ReadingError: There are fewer than four images.
        """
        count = len(self.probe.labels)
        if count < 4:
            raise ReadingError(f"halves of a batch need two images each, and this batch has {count}")
        first, second = (self._gradients_on(half) for half in (slice(count // 2), slice(count // 2, count)))
        return first, second

    def _gradients_on(self, part: slice) -> list[Tensor]:
        probe = Probe.from_tensors(self.probe.images[part], self.probe.labels[part], self.probe.num_classes)
        half = Readings(
            lambda: self.model,
            probe,
            device=self.device,
            precision=self.precision,
            trained=self.trained,
            needs=("gradients",),
        )
        return half.gradients

    @reading
    def sensitivities(self) -> list[Tensor]:
        """Sum over positions of output x gradient of the mean cross entropy, of each call of a layer, (B, C)."""
        sums = self.backward_pass[1]
        if sums is None:
            _, sums = self._differentiate(self._pass_for("sensitivities"))
        return sums or []

    @reading
    def hessian_gradients(self) -> list[Tensor]:
        """Hessian of the mean cross entropy times its gradient, both with respect to the weights of `layers`."""
        gradients, _ = self.backward_pass
        if not any(gradient.requires_grad for gradient in gradients):
            gradients, _ = self._differentiate(self._pass_for("hessian_gradients"))
        product = sum((gradient.detach() * gradient).sum() for gradient in gradients)
        return self._grad(product, self._weights)

    @reading
    def input_jacobian(self) -> Tensor:
        """Gradient of the sum of all logits with respect to the images, one row per sample, (B, inputs)."""
        taken = self._pass_for("input_jacobian")
        (jacobian,) = self._grad(taken.logits.sum(), [taken.images])
        return jacobian.flatten(1)

    @reading
    def block_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Of each block, a random gradient of its output and what it becomes at the block before, or at the stem.

        The random gradients are Rademacher (-1 or 1, evenly), the same for the same shape; both are (B, C, P).
        """
        pairs = []
        for before, after in itertools.pairwise(self._chain("block_gradients")):
            generator = torch.Generator().manual_seed(stable_seed("Rademacher", *after.shape))
            signs = torch.randint(0, 2, after.shape, generator=generator).to(after) * 2 - 1
            connected = before.requires_grad  # or it is a constant, which nothing arrives at
            arrived = self._grad(after, [before], signs)[0] if connected else torch.zeros_like(before)
            pairs.append((self._as_map(signs), self._as_map(arrived)))
        return pairs

    @reading
    def fisher_information(self) -> Tensor:
        """Fisher information about the first weight of each layer, (layers run, layers run), over the first images.

        A forward pass of its own, in which the statistics of batch normalisation are constants, so that samples do
        not depend on each other, and at most ten backward passes; see `fisher.fisher_information`.
        """
        images = self.images[:FISHER_SAMPLES].detach().requires_grad_()
        notes = Recorder(frozenset({"layers"}), len(images))
        with torch.enable_grad(), ConstantStatistics(), self._run_mode(), notes.recording(self.model):
            logits = run_forward(self.model, images.clone()).logits
        return fisher_information(logits, notes.layers)

    @reading
    def ntk(self) -> Tensor:
        """Neural tangent kernel: inner products of the samples' gradients of their summed logits, (B, B).

        Gradients are those of all weights of convolutions and linear maps. A forward and a backward pass of its own,
        in which the statistics of batch normalisation are constants, so that samples do not depend on each other.

        Raises:
            ReadingError: There is no such layer, or it is a transposed convolution.
        """
        images, products = self.images.detach().requires_grad_(), Products()
        with torch.enable_grad(), ConstantStatistics(), products, self._run_mode():
            logits = run_forward(self.model, images.clone()).logits
        return tangent_kernel(logits, products.calls)

    @reading
    def backward_pass(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """Gradients of the weights and, where the forward pass noted down the layers, `sensitivities`."""
        return self._differentiate(self._pass_for("gradients"))

    def _differentiate(self, taken: _Pass) -> tuple[list[Tensor], list[Tensor] | None]:
        self._check_labels()
        with torch.enable_grad():
            loss = F.cross_entropy(taken.logits, self.labels)
        sums: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for index, call in enumerate(taken.notes.layers):
                if call.output.requires_grad:
                    stack.callback(call.output.register_hook(_summing(sums, index, call)).remove)
            gradients = self._grad(loss, self._weights, again="twice" in taken.kinds)
        for index, call in enumerate(taken.notes.layers):
            if index not in sums:  # no gradient came by
                sums[index] = torch.zeros_like(_sum_over_positions(call.output.detach().float(), call))
        return gradients, [sums[index] for index in sorted(sums)] if "layers" in taken.kinds else None

    @property
    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @contextmanager
    def _differentiable(self, kinds: Collection[str] = ("graph",)) -> Iterator[None]:
        """Every layer's weight may be differentiated for, frozen ones too, if there is to be a graph at all."""
        frozen = [weight for weight in self._weights if not weight.requires_grad] if "graph" in kinds else []
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)

    def _grad(self, output: Any, inputs: list[Tensor], seed: Tensor | None = None, again: bool = False) -> list[Tensor]:
        """Gradients, zero where the output does not depend on an input; the graph is kept for the next ones."""
        if not output.requires_grad:
            return [torch.zeros_like(one) for one in inputs]
        with self._differentiable():
            found = torch.autograd.grad(
                output, inputs, seed, retain_graph=True, create_graph=again, materialize_grads=True
            )
        return list(found)

    # -- controls -------------------------------------------------------------------------------

    def shuffled(self, seed: int = 0) -> Readings:
        """The same readings with the samples of every activation in another order; the labels stay where they are."""
        generator = torch.Generator().manual_seed(stable_seed("shuffled", seed))
        order = torch.randperm(len(self.probe.labels), generator=generator).to(self.device)
        return _Altered(self, lambda forward: forward.mapped(lambda values: values[order]), lambda map_: map_[order])

    def replaced_by_noise(self, seed: int = 0) -> Readings:
        """Readings of the same shapes with standard normal noise in place of every feature map."""
        generator = torch.Generator().manual_seed(stable_seed("noise", seed))

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        return _Altered(self, lambda forward: forward.from_features(noise), noise)


_ACTIVATIONS_ALONE = "altered readings are activations alone: they have neither codes nor derivatives"


class _Altered(Readings):
    """Readings whose activations are made from those of another network."""

    def __init__(
        self, original: Readings, forward: Callable[[Forward], Forward], map_: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(
            lambda: original.model,
            original.probe,
            device=original.device,
            precision=original.precision,
            trained=original.trained,
            cost=lambda: original.cost,
        )
        self._original = original
        self._change_forward = forward
        self._change_map = map_

    def _take(self, name: str, function: Callable[[Any], T]) -> T:
        if name in ("half_gradients", "ntk", "fisher_information"):  # these run the network itself
            raise ReadingError(_ACTIVATIONS_ALONE)
        return super()._take(name, function)

    def _run(self, kinds: frozenset[str]) -> _Pass:
        if not kinds <= {"blocks"}:
            raise ReadingError(_ACTIVATIONS_ALONE)
        taken = self._original._pass_with(kinds)
        notes = Recorder(kinds, taken.notes.samples)
        notes.blocks = [self._change_map(block.detach()) for block in taken.notes.blocks]
        forward = self._change_forward(taken.forward)
        return _Pass(kinds, forward, notes, taken.images, forward.logits)


def _summing(sums: dict[int, Tensor], index: int, call: LayerCall) -> Callable[[Tensor], None]:
    def take(gradient: Tensor) -> None:
        sums[index] = _sum_over_positions(call.output.detach().float() * gradient.detach().float(), call)

    return take


def _sum_over_positions(values: Tensor, call: LayerCall) -> Tensor:
    """Values of a layer's output as (B, C): a linear layer has its channels last, a convolution behind the samples."""
    values = values.transpose(1, -1) if isinstance(call.layer, nn.Linear) else values
    return values.flatten(2).sum(2) if values.ndim > 2 else values


_READINGS = [name for name in dir(Readings) if isinstance(getattr(Readings, name), reading)]


def check_needs(needs: Collection[str]) -> None:
    """Refuse names that are no readings.

    Raises:
        UnknownNameError: One of them is none; near names are given.
    """
    for name in needs:
        if name not in _READINGS:
            raise UnknownNameError(unknown_name_message("reading", name, _READINGS))
