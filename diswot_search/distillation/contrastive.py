"""Contrastive distillation: a sample is recognised among many in the memory of the other network's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from .base import Batch, Distiller, DistillerError, Features, Setting, check_number
from .connectors import UnitProjection, check_count, pooled_widths, required
from .losses import contrastive_loss


class CRD(Distiller):
    """Embeddings of both networks that agree on a sample and differ between classes; Tian et al., ICLR 2020.

    Each network's embedding of a sample is to be told, by its cosine with what the memory holds of the other network,
    as the one of the same sample among those of other classes, which are drawn evenly. The memories are buffers: a
    unit vector for each training sample and network. They are indexed by `Batch.indices`, of mixed images too, and the
    class of a sample is that in `Setting.labels`. Samples whose class is hidden are never drawn: as no batch has them,
    what the memories hold of them would stay random. In evaluation mode the memories are left as they are.

    Under several processes all of them enter all embeddings of the step, so that their memories, which start alike,
    stay equal.

    Args:
        setting: What it is made for.
        width: Of the embeddings.
        negatives: How many embeddings of other classes are drawn for a sample; at most as many as have a label.
        temperature: By which cosines are divided.
        momentum: Share of the memory that an update keeps.

    Raises:
        DistillerError: An option is not what it may be, or all training samples with a label are of one class.
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
        self.momentum = check_number("momentum", momentum, at_least=0)
        if self.momentum >= 1:
            raise DistillerError(f"momentum is {momentum!r}; it must be below 1, or the memory never changes.")
        self.width = check_count("width", width)
        self.temperature = check_number("temperature", temperature, at_least=0.01)
        self.student_projection, self.teacher_projection = (
            UnitProjection(pooled, self.width) for pooled in pooled_widths(setting)
        )
        labels = setting.labels
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, F.normalize(torch.randn(len(labels), width), dim=1))
        self.draw = OtherClasses(labels, setting.student.classes)
        self.negatives = min(check_count("negatives", negatives), self.draw.fewest)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The loss, with negatives from torch's global generator; then the memories move towards the embeddings."""
        embeddings = (
            self.student_projection(required(student.pooled)),
            self.teacher_projection(required(teacher.pooled)),
        )
        memories = self.teacher_memory, self.student_memory
        places = torch.cat([batch.indices[:, None], self.draw(batch.indices, self.negatives)], 1)
        losses = [
            # The product with the whole memory is far smaller than a copy of what is drawn, and the memory changes
            # before the product is differentiated.
            contrastive_loss(
                (embedding @ memory.clone().T).gather(1, places), width=self.width, temperature=self.temperature
            )
            for embedding, memory in zip(embeddings, memories, strict=True)
        ]
        if self.training:
            self._remember(batch.indices, *embeddings)
        return losses[0] + losses[1]

    @torch.no_grad()
    def _remember(self, indices: Tensor, student: Tensor, teacher: Tensor) -> None:
        indices, student, teacher = (gather_processes(values) for values in (indices, student, teacher))
        for memory, new in ((self.student_memory, student), (self.teacher_memory, teacher)):
            kept = memory[indices]
            memory[indices] = F.normalize(torch.lerp(new, kept, self.momentum), dim=1)


class OtherClasses(nn.Module):
    """Draws training samples that are known to be of other classes, each as likely as any other.

    Args:
        labels: Class of each training sample.
        classes: How many classes there are; labels from this number on mean that the class is hidden.

    Attributes:
        fewest: The least number of samples that are of another class than some sample, both known.

    Raises:
        DistillerError: There are no two samples whose classes are known and differ.
    """

    order: Tensor
    first: Tensor
    count: Tensor
    groups: Tensor

    def __init__(self, labels: Tensor, classes: int) -> None:
        super().__init__()
        found, groups, count = labels.unique(return_inverse=True, return_counts=True)
        count[found >= classes] = 0  # whoever is of a hidden class is drawn for nobody
        known = int(count.sum())
        if (count > 0).sum() < 2:
            raise DistillerError(
                f"crd draws samples of other classes, so it needs labelled training samples of at least 2 classes; "
                f"there are {known} labelled samples, of {int((count > 0).sum())}."
            )
        # Hidden classes come last.
        tables = {"order": groups.argsort(stable=True)[:known], "first": count.cumsum(0) - count, "count": count}
        for name, table in {**tables, "groups": groups}.items():
            self.register_buffer(name, table, persistent=False)
        self.fewest = known - int(count.max())

    def forward(self, indices: Tensor, number: int) -> Tensor:
        """So many places for each of the samples (B,), (B, number), with repetition."""
        group = self.groups[indices]
        first, own = self.first[group, None], self.count[group, None]
        # Ordered by class, the others are those before the first of the own class and those after its last.
        drawn = torch.randint(2**62, (len(indices), number), device=indices.device) % (len(self.order) - own)
        return self.order[torch.where(drawn < first, drawn, drawn + own)]


def gather_processes(values: Tensor) -> Tensor:
    """The rows of all processes, as many of each, in order of their ranks; as they are where there is one process."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
