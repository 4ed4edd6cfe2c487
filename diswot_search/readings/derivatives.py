"""Readings that are derivatives: of the loss, of the logits and of blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.probe import Probe
from ..functional import similarities
from ..networks.contract import ReadingError
from ..networks.forward import run_forward
from ..runtime.seeding import stable_seed
from .activations import ActivationReadings
from .fisher import FISHER_SAMPLES, fisher_information
from .modes import ConstantStatistics
from .passes import Pass
from .recording import LayerCall, MapRecord, Recorder
from .tangent import Products, tangent_kernel
from .timing import reading


class Derivatives(ActivationReadings):
    """Derivatives of a network, which stays as it is."""

    @reading("graph")
    def gradients(self) -> list[Tensor]:
        """Gradient of the mean cross entropy with respect to the weight of each of `layers`; zero where unused.

        Each has the shape of its weight.

        Raises:
            ReadingError: The probe has labels that the network has no class for.
        """
        return [gradient.detach() for gradient in self.backward_pass[0]]

    @reading
    def half_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The `gradients` on the first and on the second half of the batch, each in a pass of its own.

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
        half = Derivatives(
            lambda: self.model,
            probe,
            device=self.device,
            precision=self.precision,
            trained=self.trained,
            needs=("gradients",),
        )
        return half.gradients

    @reading("graph", "layers")
    def sensitivities(self) -> list[Tensor]:
        """Sums over positions of output x gradient of the mean cross entropy, for each call of a layer, (B, C)."""
        sums = self.backward_pass[1]
        if sums is None:
            _, sums = self._differentiate(self._pass_for("sensitivities"))
        return sums or []

    @reading("graph", "twice")
    def hessian_gradients(self) -> list[Tensor]:
        """Hessian of the mean cross entropy times its gradient, both with respect to the weights of `layers`.

        Each has the shape of its weight.
        """
        gradients, _ = self.backward_pass
        if not any(gradient.requires_grad for gradient in gradients):
            gradients, _ = self._differentiate(self._pass_for("hessian_gradients"))
        product = sum((gradient.detach() * gradient).sum() for gradient in gradients)
        return self._grad(product, self._weights)

    @reading("graph", "images")
    def input_jacobian(self) -> Tensor:
        """Gradient of the sum of all logits with respect to the images, one row per sample, (B, inputs)."""
        taken = self._pass_for("input_jacobian")
        (jacobian,) = self._grad(taken.logits.sum(), [taken.images])
        return jacobian.flatten(1)

    @reading("graph", "blocks")
    def block_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """For each block, a random gradient of its output and what it becomes at the block before, or at the stem.

        The random gradients are Rademacher (-1 or 1 with equal odds), the same for the same shape. Both are (B, C, P).
        Blocks that run in parallel to the one before are left out, and so are blocks that reduce tokens to one.
        """
        steps = self._through_blocks("block_gradients")
        return [(sent.rows, arrived.rows) for _, _, sent, arrived in steps]

    @reading("graph", "blocks")
    def block_gains(self) -> list[float | None]:
        """The gain of a random gradient on its way back through each block that has `block_gradients`.

        It is `functional.mean_jacobian_gain` times the root mean square of the block's input over that of its output,
        so that neither scale counts. It is None if the input's grid is not a whole multiple of the output's.
        """
        gains: list[float | None] = []
        scales: dict[int, float] = {}  # a block's output is the next one's input
        for before, after, sent, arrived in self._through_blocks("block_gains"):
            rows = sent.rows
            back = similarities.unshuffled(arrived.rows, rows.shape[2])
            for record in (before, after):
                if id(record) not in scales:
                    scales[id(record)] = float(record.raw.detach().float().square().mean().sqrt())
            scale = scales[id(before)] / scales[id(after)] if scales[id(after)] else 0.0
            gains.append(None if back is None else similarities.mean_jacobian_gain(rows, back) * scale)
        return gains

    def _through_blocks(self, name: str) -> Iterator[tuple[MapRecord, MapRecord, MapRecord, MapRecord]]:
        """Each block's input and output, random signs in the output's shape, and what they become at the input."""
        logits = self._pass_for(name).logits
        for start, end in itertools.pairwise(self._chain(name)):
            before, after = start.raw, end.raw
            if before.ndim == after.ndim == 3 and after.shape[1] == 1 < before.shape[1]:
                continue
            draw = _draw_signs if after.numel() <= _MAX_KEPT_SIGNS else _draw_signs.__wrapped__
            signs = torch.empty_like(after, requires_grad=False)  # in the output's memory order
            signs.copy_(draw(after.shape))
            connected = before.requires_grad  # otherwise it is a constant, which no gradient reaches
            arrived = self._grad(after, [before], signs)[0] if connected else torch.zeros_like(before)
            is_zero = not (arrived[0].any() or arrived.any())  # one sample is mostly enough to tell
            if connected and is_zero and self._leads_to(before, logits) and not self._leads_to(before, after):
                continue
            yield start, end, MapRecord(signs, end.layout), MapRecord(arrived, start.layout)

    @reading
    def fisher_information(self) -> Tensor:
        """Fisher information about the first weight of each layer, (layers run, layers run), over the first images.

        This takes a forward pass, in which the statistics of batch normalisation are constants so that samples do not
        depend on each other, and at most ten backward passes; see `fisher.fisher_information`.
        """
        images = self.images[:FISHER_SAMPLES].detach().requires_grad_()
        notes = Recorder(frozenset({"layers"}), images)
        with torch.enable_grad(), ConstantStatistics(), self._run_mode(), notes.recording(self.model):
            logits = run_forward(self.model, images.clone()).logits
        return fisher_information(logits, notes.layers)

    @reading
    def ntk(self) -> Tensor:
        """Neural tangent kernel: inner products of the samples' gradients of their summed logits, (B, B).

        Gradients are those of all weights of convolutions and linear maps. This takes a forward and a backward pass, in
        which the statistics of batch normalisation are constants so that samples do not depend on each other.

        Raises:
            ReadingError: The network has no such layer, or a transposed convolution.
        """
        images, products = self.images.detach().requires_grad_(), Products()
        with torch.enable_grad(), ConstantStatistics(), products, self._run_mode():
            logits = run_forward(self.model, images.clone()).logits
        return tangent_kernel(logits, products.calls)

    @reading
    def backward_pass(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """Gradients of the weights and, if the forward pass recorded the layers, `sensitivities`."""
        return self._differentiate(self._pass_for("gradients"))

    def _differentiate(self, taken: Pass) -> tuple[list[Tensor], list[Tensor] | None]:
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

    def _leads_to(self, before: Tensor, after: Tensor) -> bool:
        """Whether a tensor was computed from another one."""
        if not after.requires_grad:
            return False
        with self._differentiable(), torch.enable_grad():
            gradients = torch.autograd.grad(after.sum(), [before], retain_graph=True, allow_unused=True)
        return gradients[0] is not None

    def _grad(self, output: Any, inputs: list[Tensor], seed: Tensor | None = None, again: bool = False) -> list[Tensor]:
        """Gradients; zero for an input that the output does not depend on. The graph is kept for the next ones."""
        if not output.requires_grad:
            return [torch.zeros_like(one) for one in inputs]
        with self._differentiable():
            gradients = torch.autograd.grad(
                output, inputs, seed, retain_graph=True, create_graph=again, materialize_grads=True
            )
        return list(gradients)


_MAX_KEPT_SIGNS = 2**21
"""The number of signs, of one byte each, above which they are drawn anew every time."""


@lru_cache(maxsize=32)
def _draw_signs(shape: torch.Size) -> Tensor:
    """Random signs, always the same ones for a shape. To draw them takes as long as to differentiate a block."""
    generator = torch.Generator().manual_seed(stable_seed("Rademacher", *shape))
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1


def _summing(sums: dict[int, Tensor], index: int, call: LayerCall) -> Callable[[Tensor], None]:
    def take(gradient: Tensor) -> None:
        sums[index] = _sum_over_positions(call.output.detach().float() * gradient.detach().float(), call)

    return take


def _sum_over_positions(values: Tensor, call: LayerCall) -> Tensor:
    """Sums over positions, (B, C): a linear layer has its channels last, a convolution after the samples."""
    values = values.transpose(1, -1) if isinstance(call.layer, nn.Linear) else values
    return values.flatten(2).sum(2) if values.ndim > 2 else values
