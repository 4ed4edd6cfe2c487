"""The forward passes of one network on one probe, and what is read off them as it stands."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search_spaces.cost import Cost, count_cost
from search_spaces.registry import UnknownNameError, unknown_name_message

from ..data.probe import Probe
from ..networks.blocks import weighted_layers
from ..networks.contract import ReadingError, evaluation_mode
from .forward import Forward, TwiceDifferentiable, run_forward
from .recording import Recorder
from .timing import Timed, reading, readings_of


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
class Pass:
    """A forward pass: its values, what was noted down, and, where there is one, the graph behind it."""

    kinds: frozenset[str]
    forward: Forward
    notes: Recorder
    images: Tensor
    logits: Tensor


class Passes(Timed):
    """One network, one probe, and what a forward pass gives; see `Readings` for the arguments."""

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
        """Refuse names that are no readings.

        Raises:
            UnknownNameError: One of them is none; near names are given.
        """
        for name in needs:
            if name not in readings_of(cls):
                raise UnknownNameError(unknown_name_message("reading", name, readings_of(cls)))

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
    def forward_pass(self) -> Pass:
        """The one forward pass, which notes down what the readings in `needs` are made from."""
        return self._run(self._announced)

    def _run(self, kinds: frozenset[str]) -> Pass:
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
        return Pass(kinds, result.detached(), notes, images, result.logits)

    def _pass_for(self, name: str) -> Pass:
        """A forward pass that noted down what this reading is made from."""
        return self._pass_with(readings_of(type(self))[name].kinds)

    def _pass_with(self, kinds: frozenset[str]) -> Pass:
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
    def layers(self) -> list[nn.Module]:
        """Convolutions and linear layers, in the order in which the model names them."""
        return weighted_layers(self.model)

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
