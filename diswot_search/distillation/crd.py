"""Contrastive distillation: a sample is recognised among many by the other network's stored embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ..checks import check_number
from ..functional.losses import contrastive_loss
from ..networks.features import Features
from .base import Batch, Distiller, DistillerError, Setting
from .connectors import UnitProjection, check_count, pooled_widths, required


class CRD(Distiller):
    """Embeddings of both networks that agree on a sample and differ between classes; Tian et al., ICLR 2020.

    A memory stores one unit vector for each training sample and network. A network's embedding of a sample has to be
    recognised, by its cosines with the other network's memory, among samples that are drawn evenly from other classes.
    The memories are indexed by `Batch.indices`, for mixed images too; a sample's class is its entry in
    `Setting.labels`. Samples of hidden classes are never drawn: no batch has them, so their entries would stay random.
    The memories do not change in evaluation mode.

    With several processes, each process writes the embeddings of all processes. Their memories start alike and so
    stay equal.

    Args:
        setting: The networks and training labels that the distiller is created for.
        width: Number of dimensions of the embeddings.
        negatives: Number of samples of other classes drawn for each sample. Smaller if a class leaves fewer labelled
            samples than that.
        temperature: The divisor of cosines, at least 0.01.
        momentum: The share of a memory entry that an update keeps; at least 0 and below 1.

    Raises:
        DistillerError: An option is out of its range, or all labelled training samples are of one class.
    """

    reads = ("pooled",)
    weight = 0.8
    own_buffers = ("student_memory", "teacher_memory", "draw.order", "draw.first", "draw.count", "draw.groups")

    student_memory: Tensor
    teacher_memory: Tensor

    def __init__(
        self,
        setting: Setting,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(setting)
        self.momentum = check_number("momentum", momentum, at_least=0, error=DistillerError)
        if self.momentum >= 1:
            raise DistillerError(f"momentum is {momentum!r}; it must be below 1, or the memory never changes.")
        self.width = check_count("width", width)
        self.temperature = check_number("temperature", temperature, at_least=0.01, error=DistillerError)
        self.student_projection, self.teacher_projection = (
            UnitProjection(pooled, self.width) for pooled in pooled_widths(setting)
        )
        labels = setting.labels
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, F.normalize(torch.randn(len(labels), width), dim=1))
        self.draw = OtherClasses(labels, setting.student.classes)
        self.negatives = min(check_count("negatives", negatives), self.draw.fewest)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Compute the loss with negatives from torch's global generator, then move the memories to the embeddings."""
        embeddings = (
            self.student_projection(required(student.pooled)),
            self.teacher_projection(required(teacher.pooled)),
        )
        memories = self.teacher_memory, self.student_memory
        places = torch.cat([batch.indices[:, None], self.draw(batch.indices, self.negatives)], 1)
        losses = [
            # The product with the whole memory is far smaller than a copy of the drawn rows. The memory is cloned
            # because it changes before the product is differentiated.
            contrastive_loss(
                (embedding @ memory.clone().T).gather(1, places), width=self.width, temperature=self.temperature
            )
            for embedding, memory in zip(embeddings, memories, strict=True)
        ]
        if self.training:
            self._update_memories(batch.indices, *embeddings)
        return losses[0] + losses[1]

    @torch.no_grad()
    def _update_memories(self, indices: Tensor, student: Tensor, teacher: Tensor) -> None:
        indices, student, teacher = (gather_processes(values) for values in (indices, student, teacher))
        for memory, embeddings in ((self.student_memory, student), (self.teacher_memory, teacher)):
            memory[indices] = F.normalize(torch.lerp(embeddings, memory[indices], self.momentum), dim=1)


class OtherClasses(nn.Module):
    """Draws labelled training samples of other classes, each with the same probability.

    Args:
        labels: The class of each training sample, (samples,).
        classes: The number of classes. A label of this number or above stands for a hidden class.

    Attributes:
        fewest: The smallest number of candidates that any labelled sample has.

    Raises:
        DistillerError: The labelled samples are not of at least two classes.
    """

    order: Tensor
    first: Tensor
    count: Tensor
    groups: Tensor

    def __init__(self, labels: Tensor, classes: int) -> None:
        super().__init__()
        values, groups, count = labels.unique(return_inverse=True, return_counts=True)
        count[values >= classes] = 0  # so that samples of hidden classes are never drawn
        labelled, labelled_classes = int(count.sum()), int((count > 0).sum())
        if labelled_classes < 2:
            raise DistillerError(
                f"crd draws samples of other classes, so it needs labelled training samples of at least 2 classes; "
                f"there are {labelled} labelled samples, of {labelled_classes}."
            )
        # Hidden classes have the largest values, so their samples are at the end of the order and are cut off.
        order = groups.argsort(stable=True)[:labelled]
        tables = {"order": order, "first": count.cumsum(0) - count, "count": count, "groups": groups}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.fewest = labelled - int(count.max())

    def forward(self, indices: Tensor, number: int) -> Tensor:
        """Draw positions (B, number) of samples of other classes for the samples at `indices` (B,), with repetition."""
        group = self.groups[indices]
        first, own = self.first[group, None], self.count[group, None]
        # In the order by class, the candidates lie before the first and after the last sample of the own class.
        drawn = torch.randint(2**62, (len(indices), number), device=indices.device) % (len(self.order) - own)
        return self.order[torch.where(drawn < first, drawn, drawn + own)]


def gather_processes(values: Tensor) -> Tensor:
    """Join the rows of all processes in order of rank; each process must give as many rows."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
