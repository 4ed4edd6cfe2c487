"""The forward passes of one network on one probe, and the readings that they give directly."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search_spaces.cost import Cost, count_cost
from search_spaces.fixed_sizes import sizes_named
from search_spaces.registry import UnknownNameError, unknown_name_message

from ..data.probe import Probe
from ..networks.blocks import weighted_layers
from ..networks.contract import ReadingError, has_timm_contract
from ..networks.forward import Forward, run_forward
from ..networks.layouts import FeatureMap
from ..networks.memory_format import to_channels_last
from .modes import TwiceDifferentiable, run_mode
from .recording import Recorder
from .timing import Timed, reading, readings_of


@dataclass(frozen=True)
class Precision:
    """Memory layout and number format in which a network is run. Readings are in single precision in any case.

    Attributes:
        channels_last: Keep feature maps in NHWC memory order. Numbers are equal up to rounding, and most devices are
            faster. Layers in which torch would write over foreign memory keep the plain order; see
            `networks.memory_format`.
        bf16: Run under bfloat16 autocast.

    Example:
        >>> Precision()
        Precision(channels_last=True, bf16=False)
    """

    channels_last: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        kinds: The records that it made, and "graph", "twice" or "images" if they apply.
        forward: Its results without a graph.
        notes: Its records.
        images: The images that were run.
        logits: Logits (B, N), with a graph if there is one.
    """

    kinds: frozenset[str]
    forward: Forward
    notes: Recorder
    images: Tensor
    logits: Tensor


class Passes(Timed):
    """The forward passes of one network on one probe; see `Readings` for the arguments."""

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
        self.check_needs(needs)
        self._make = make
        self._cost = cost
        self.probe = probe
        self.device = torch.device(device)
        self.precision = precision or Precision()
        self.trained = trained
        self.needs = frozenset(needs)
        self._announced = frozenset[str]().union(*(readings_of(type(self))[name].kinds for name in needs))

    @classmethod
    def check_needs(cls, needs: Collection[str]) -> None:
        """Check that names are those of readings.

        Raises:
            UnknownNameError: A name is not; the message lists near names.
        """
        for name in needs:
            if name not in readings_of(cls):
                raise UnknownNameError(unknown_name_message("reading", name, readings_of(cls)))

    @reading
    def model(self) -> nn.Module:
        """The network, on the device."""
        model = self._make()
        if any(tensor.device != self.device for tensor in (*model.parameters(), *model.buffers())):
            model = model.to(self.device)
        return to_channels_last(model) if self.precision.channels_last else model

    @reading
    def cost(self) -> Cost:
        """Parameters and multiply-accumulates."""
        return self._cost() if self._cost else count_cost(self.model, self.probe.input_size)

    @reading(controlled=True)
    def images(self) -> Tensor:
        """The probe's images on the device, (B, channels, H, W)."""
        images = self.probe.images.to(self.device)
        return images.contiguous(memory_format=torch.channels_last) if self.precision.channels_last else images

    @reading(controlled=True)
    def labels(self) -> Tensor:
        """The probe's labels on the device, (B,)."""
        return self.probe.labels.to(self.device)

    # -- the forward pass -----------------------------------------------------------------------

    @reading(controlled=True)
    def forward_pass(self) -> Pass:
        """The one forward pass, with the records for all readings in `needs`."""
        return self._run(self._announced)

    def _run(self, kinds: frozenset[str]) -> Pass:
        model = self.model
        images = self.images.detach().requires_grad_("images" in kinds)
        notes = Recorder(kinds - {"graph", "twice", "images"}, images)
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled("graph" in kinds))
            stack.enter_context(self._differentiable(kinds))
            stack.enter_context(self._run_mode())
            if "twice" in kinds:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # no other attention can be differentiated twice
                stack.enter_context(TwiceDifferentiable())
            stack.enter_context(notes.recording(model))
            stack.enter_context(sizes_named(model, images.shape, but=ReadingError))
            network_input = images.clone()
            result = run_forward(model, network_input, features_made=notes.mark_features)
        if notes.entry is not None and notes.entry.raw is network_input:
            notes.entry = None
        for kind, seconds in notes.seconds.items():
            self._charge(kind, seconds)
        return Pass(kinds, result.detached(), notes, images, result.logits)

    def _pass_for(self, name: str) -> Pass:
        """A forward pass with the records for this reading."""
        return self._pass_with(readings_of(type(self))[name].kinds)

    def _pass_with(self, kinds: frozenset[str]) -> Pass:
        """The common pass if it made these records, otherwise a pass for them alone.

        The common pass may fail because of the records for one reading. Other readings then take passes of their own.
        """
        try:
            if kinds <= self.forward_pass.kinds:
                return self.forward_pass
        except ReadingError:  # the network cannot be read, whatever is recorded
            raise
        except Exception as error:
            if kinds == self._announced:
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the records, perhaps all memory
        return self._take(f"forward_pass({', '.join(sorted(kinds))})", lambda readings: readings._run(kinds))

    def _rerun_head(self, raw: object) -> Tensor:
        """Logits (B, N) of the head alone for features in the form of `Forward.raw`."""
        model = self.model
        if not has_timm_contract(model):
            raise ReadingError("the head of a module without `forward_head` cannot be differentiated alone")
        with self._run_mode():
            return model.forward_head(raw).float()

    def _run_mode(self) -> AbstractContextManager[None]:
        autocast = self.device if self.precision.bf16 else None
        return run_mode(self.model, trained=self.trained, autocast=autocast)

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
    def feature_map(self) -> FeatureMap:
        """The last feature map before pooling on its grid, with values (B, C, H, W) in single precision.

        The grid has P = H x W positions; class tokens do not count. A sequence without a grid has W = 1.
        """
        return self._forward.features

    @property
    def features(self) -> Tensor:
        """The last feature map before pooling, (B, C, P); class tokens are no positions."""
        return self._forward.features.rows

    @property
    def logits(self) -> Tensor:
        """Logits in single precision, (B, N)."""
        return self._forward.logits

    @reading
    def layers(self) -> list[nn.Module]:
        """Convolutions and linear layers, in the order of the model's modules."""
        return weighted_layers(self.model)

    @property
    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @contextmanager
    def _differentiable(self, kinds: Collection[str] = ("graph",)) -> Iterator[None]:
        """Let autograd differentiate for every layer's weight, frozen ones too, if there is to be a graph."""
        frozen = [weight for weight in self._weights if not weight.requires_grad] if "graph" in kinds else []
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
