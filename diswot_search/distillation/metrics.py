"""How well a trained network classifies: accuracy, by class too, likelihood, calibration, agreement with a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
"""Confidence bins of equal width of the calibration error; Source: Guo et al., ICML 2017."""


@dataclass(frozen=True)
class ConfidenceBin:
    """The samples whose largest probability is within an interval.

    Attributes:
        samples: How many they are.
        confidence: Mean of their largest probability, in percent; None without samples.
        accuracy: Share that is classified right, in percent; None without samples.
    """

    samples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies a set of samples.

    Attributes:
        accuracy: Share of samples whose class has the largest logit, in percent.
        top5: Share of samples whose class is among the five largest logits, in percent; None for fewer classes.
        nll: Mean negative log-likelihood of the true class, in nats: the cross entropy.
        calibration_error: Expected calibration error in percent: the mean distance between confidence, the largest
            probability, and accuracy over bins of confidence, weighted by their samples.
        samples: Number of samples.
        agreement: Share of samples that the teacher puts into the same class, in percent; None without a teacher.
        divergence: Mean Kullback-Leibler divergence KL(teacher || student) of probabilities, in nats; None likewise.
        bins: By rising confidence, of equal width from 0 to 1; the upper end belongs to a bin, the lower one does not.
        class_accuracy: Of each class the share of its samples that is classified right, in percent; None without any.
    """

    accuracy: float
    top5: float | None
    nll: float
    calibration_error: float
    samples: int
    agreement: float | None = None
    divergence: float | None = None
    bins: tuple[ConfidenceBin, ...] = ()
    class_accuracy: tuple[float | None, ...] = ()


class MetricSums:
    """An evaluation that adds up over batches, in double precision and without waiting for the device.

    All is in one tensor: add `sums` up over processes to evaluate what all of them saw, or store it and copy it back
    to go on later. What cannot be evaluated is told at the end.

    Args:
        num_classes: N.
        device: Where the sums are; for a device without double precision they are on the CPU.
        bins: Number of confidence bins.

    Attributes:
        sums: (9 + 3 * bins + 2 * N,) in double precision.

    Raises:
        ValueError: There are no classes or no bins.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", *, bins: int = BINS) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1.")
        if bins < 1:
            raise ValueError(f"bins is {bins}; it must be at least 1.")
        self._classes, self._bins = num_classes, bins
        self._sizes = (len(_TOTALS), 3 * bins, 2 * num_classes)
        self.sums = torch.zeros(sum(self._sizes), dtype=torch.float64, device=_place(torch.device(device)))

    def add(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: (B, N).
            labels: B class indices.
            teacher_logits: (B, N), to be compared with.

        Raises:
            ValueError: A shape that does not fit.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"Logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; (samples, classes) and (samples,) "
                "are needed."
            )
        if logits.shape[1] != self._classes:
            raise ValueError(f"The logits are of {logits.shape[1]} classes; {self._classes} are evaluated.")
        place = self.sums.device
        logits, labels = logits.detach().to(place, torch.float64), labels.to(place, torch.int64)
        known = labels.clamp(0, self._classes - 1)  # another index would end the process on some devices
        ranks = _ranks(logits, known)
        totals = {
            "samples": torch.ones_like(ranks),
            "unknown": labels != known,
            "unusable": _unusable(logits),
            "right": ranks < 1,
            "right5": ranks < 5,
            "nll": F.cross_entropy(logits, known, reduction="none"),
        }
        if teacher_logits is not None:
            if teacher_logits.shape != logits.shape:
                raise ValueError(
                    f"Logits of the student are {tuple(logits.shape)} and of the teacher "
                    f"{tuple(teacher_logits.shape)}; both must be (samples, classes) alike."
                )
            teacher = teacher_logits.detach().to(place, torch.float64)
            totals["compared"] = totals["samples"]
            totals["unusable"] = totals["unusable"] | _unusable(teacher)
            totals["agreeing"] = logits.argmax(1) == teacher.argmax(1)
            totals["divergence"] = _divergences(logits, teacher)
        nothing = torch.zeros_like(self.sums[0])
        batch = [totals[name].to(torch.float64).sum() if name in totals else nothing for name in _TOTALS]
        of_bins, of_classes = _bin_sums(logits, known, self._bins), _class_sums(ranks < 1, known, self._classes)
        self.sums += torch.cat([torch.stack(batch), of_bins.flatten(), of_classes.flatten()])

    def evaluation(self) -> Evaluation:
        """What the sums say.

        Raises:
            ValueError: Nothing was added, or some logits were not numbers, or some labels no classes.
        """
        first, of_bins, of_classes = self.sums.cpu().split(self._sizes)
        totals = dict(zip(_TOTALS, first.tolist(), strict=True))
        bins, classes = of_bins.view(3, self._bins), of_classes.view(2, self._classes)
        samples, compared = totals["samples"], totals["compared"]
        if not samples:
            raise ValueError("There are no samples to evaluate.")
        if totals["unusable"]:
            raise ValueError(
                f"The logits of {totals['unusable']:,.0f} of {samples:,.0f} samples are not numbers; a network may "
                "have diverged."
            )
        if totals["unknown"]:
            raise ValueError(f"{int(totals['unknown'])} labels are not from 0 to {self._classes - 1}.")
        return Evaluation(
            accuracy=100 * totals["right"] / samples,
            top5=100 * totals["right5"] / samples if self._classes >= 5 else None,
            nll=totals["nll"] / samples,
            calibration_error=100 * _calibration_error(bins),
            samples=int(samples),
            agreement=100 * totals["agreeing"] / compared if compared else None,
            divergence=totals["divergence"] / compared if compared else None,
            bins=tuple(_confidence_bin(*column) for column in bins.T.tolist()),
            class_accuracy=tuple(100 * right / held if held else None for held, right in classes.T.tolist()),
        )


_TOTALS = ("samples", "unknown", "unusable", "right", "right5", "nll", "compared", "agreeing", "divergence")
"""What is summed, in the order of the tensor; the sums of the confidence bins and then of the classes follow."""


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one, (B,), so that equal logits never make more than k classes right."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def _divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each sample; a class that the teacher rules out adds nothing."""
    target = teacher.softmax(1)
    terms = target * (teacher.log_softmax(1) - student.log_softmax(1))
    return torch.where(target > 0, terms, 0.0).sum(1)


def _bin_sums(logits: Tensor, labels: Tensor, bins: int) -> Tensor:
    """Samples, sum of confidences and samples classified right of each bin, (3, bins)."""
    confidence, right = logits.softmax(1).amax(1), logits.argmax(1) == labels
    inner_edges = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    member = F.one_hot(torch.bucketize(confidence, inner_edges), bins).to(torch.float64)
    values = torch.stack([torch.ones_like(confidence), confidence, right.to(torch.float64)])
    return values @ member  # of the same order on every device, unlike scattered sums


def _class_sums(right: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Samples and samples classified right of each class, (2, N)."""
    member = F.one_hot(labels, classes).to(torch.float64)
    return torch.stack([torch.ones_like(right), right]).to(torch.float64) @ member


def _calibration_error(bin_sums: Tensor) -> float:
    samples, confidence, right = bin_sums
    return float((confidence - right).abs().sum() / samples.sum())


def _confidence_bin(samples: float, confidence: float, right: float) -> ConfidenceBin:
    if not samples:
        return ConfidenceBin(0, None, None)
    return ConfidenceBin(int(samples), 100 * confidence / samples, 100 * right / samples)


def _unusable(logits: Tensor) -> Tensor:
    """Which samples have no probabilities, (B,)."""
    return logits.log_softmax(1).isnan().any(1)


def _place(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device
