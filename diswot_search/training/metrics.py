"""Metrics of a trained classifier: accuracy overall and by class, F1, likelihood, calibration, agreement."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
"""Number of equally wide confidence bins of the calibration error; as in Guo et al., ICML 2017."""


@dataclass(frozen=True)
class ConfidenceBin:
    """The samples whose largest probability lies in an interval.

    Attributes:
        samples: The number of samples.
        confidence: The mean of their largest probability, in percent; None without samples.
        accuracy: The share that is classified correctly, in percent; None without samples.
    """

    samples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Metrics:
    """The metrics of a network on a set of samples.

    Attributes:
        accuracy: The share of samples whose class has the largest logit, in percent.
        top5: The share of samples whose class is among the five largest logits, in percent; None for fewer than five
            classes.
        nll: The mean negative log-likelihood of the true class, in nats: the cross entropy.
        calibration_error: The expected calibration error in percent: the mean distance between confidence, which is
            the largest probability, and accuracy over the confidence bins, weighted by their numbers of samples.
        samples: The number of samples.
        agreement: The share of samples that the teacher assigns to the same class, in percent; None without a teacher.
        divergence: The mean Kullback-Leibler divergence KL(teacher || student) of probabilities, in nats; None without
            a teacher.
        bins: Confidence bins of equal width from 0 to 1, in rising order. A bin includes its upper but not its lower
            end.
        class_accuracy: The share of each class's samples that is classified correctly, in percent; None for a class
            without samples.
        balanced_accuracy: The mean of the classes' accuracies, in percent, without classes that have no samples: each
            class counts alike, however many samples it has.
        macro_f1: The mean over classes of F1, the harmonic mean of precision and recall, in percent. F1 is 0 for a
            class that is never predicted correctly; classes that neither occur nor are predicted are left out. Both
            definitions are those of scikit-learn.
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
    balanced_accuracy: float | None = None
    macro_f1: float | None = None


class MetricSums:
    """Sums over batches from which metrics are computed, in double precision and without waiting for the device.

    All sums are in one tensor. Add `sums` over processes for the metrics of all their samples, or store it and copy it
    back to continue later. Invalid logits and labels are counted, and reported by `metrics`.

    Args:
        num_classes: The number of classes, N.
        device: The device of the sums; the CPU is used for devices without double precision.
        bins: The number of confidence bins.

    Attributes:
        sums: The sums (9 + 3 * bins + 3 * N,) in double precision.

    Raises:
        ValueError: `num_classes` or `bins` is below 1.

    Example:
        >>> sums = MetricSums(num_classes=2)
        >>> sums.add(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1]))
        >>> sums.add(torch.tensor([[0.0, 5.0]]), torch.tensor([1]))
        >>> sums.metrics().accuracy
        75.0
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", *, bins: int = BINS) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1.")
        if bins < 1:
            raise ValueError(f"bins is {bins}; it must be at least 1.")
        self._classes, self._bins = num_classes, bins
        self._sizes = (len(_TOTALS), 3 * bins, 3 * num_classes)
        self.sums = torch.zeros(sum(self._sizes), dtype=torch.float64, device=_place(torch.device(device)))

    def add(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: The network's logits (B, N).
            labels: Class indices (B,).
            teacher_logits: The teacher's logits (B, N), for the agreement and the divergence.

        Raises:
            ValueError: The shapes do not fit each other or the number of classes.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"Logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; they must be (samples, classes) "
                "and (samples,)."
            )
        if logits.shape[1] != self._classes:
            raise ValueError(f"The logits are of {logits.shape[1]} classes; {self._classes} are evaluated.")
        device = self.sums.device
        logits, labels = logits.detach().to(device, torch.float64), labels.to(device, torch.int64)
        indices = labels.clamp(0, self._classes - 1)  # an invalid index would end the process on some devices
        ranks = _ranks(logits, indices)
        totals = {
            "samples": torch.ones_like(ranks),
            "unknown": labels != indices,
            "unusable": _unusable(logits),
            "right": ranks < 1,
            "right5": ranks < 5,
            "nll": F.cross_entropy(logits, indices, reduction="none"),
        }
        if teacher_logits is not None:
            if teacher_logits.shape != logits.shape:
                raise ValueError(
                    f"Logits of the student are {tuple(logits.shape)} and of the teacher "
                    f"{tuple(teacher_logits.shape)}; their shapes must be equal."
                )
            teacher = teacher_logits.detach().to(device, torch.float64)
            totals["compared"] = totals["samples"]
            totals["unusable"] = totals["unusable"] | _unusable(teacher)
            totals["agreeing"] = logits.argmax(1) == teacher.argmax(1)
            totals["divergence"] = _divergences(logits, teacher)
        zero = torch.zeros_like(self.sums[0])
        sums = [totals[name].to(torch.float64).sum() if name in totals else zero for name in _TOTALS]
        bins, classes = _bin_sums(logits, indices, self._bins), _class_sums(logits, indices, self._classes)
        self.sums += torch.cat([torch.stack(sums), bins.flatten(), classes.flatten()])

    def metrics(self) -> Metrics:
        """Compute the metrics of all samples so far.

        Raises:
            ValueError: No samples were added, some logits were not numbers, or some labels were not class indices.
        """
        total_sums, bin_sums, class_sums = self.sums.cpu().split(self._sizes)
        totals = dict(zip(_TOTALS, total_sums.tolist(), strict=True))
        bins, classes = bin_sums.view(3, self._bins), class_sums.view(3, self._classes)
        samples, compared = totals["samples"], totals["compared"]
        by_class = classes.T.tolist()
        if not samples:
            raise ValueError("There are no samples to evaluate.")
        if totals["unusable"]:
            raise ValueError(
                f"The logits of {totals['unusable']:,.0f} of {samples:,.0f} samples are not numbers; the network "
                "may have diverged."
            )
        if totals["unknown"]:
            raise ValueError(
                f"{int(totals['unknown'])} labels are not from 0 to {self._classes - 1}; labels must be class indices."
            )
        return Metrics(
            accuracy=100 * totals["right"] / samples,
            top5=100 * totals["right5"] / samples if self._classes >= 5 else None,
            nll=totals["nll"] / samples,
            calibration_error=100 * _calibration_error(bins),
            samples=int(samples),
            agreement=100 * totals["agreeing"] / compared if compared else None,
            divergence=totals["divergence"] / compared if compared else None,
            bins=tuple(_confidence_bin(*column) for column in bins.T.tolist()),
            class_accuracy=tuple(100 * right / count if count else None for count, right, _ in by_class),
            balanced_accuracy=100 * fmean(right / count for count, right, _ in by_class if count),
            macro_f1=100
            * fmean(2 * right / (count + predicted) for count, right, predicted in by_class if count + predicted),
        )


_TOTALS = ("samples", "unknown", "unusable", "right", "right5", "nll", "compared", "agreeing", "divergence")
"""The summed quantities in the order of the tensor. The sums of bins and those of classes follow them."""


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the classes (B,) that rank before the true one; equal logits rank by class, so that ranks are unique."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def _divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) of each sample; a class to which the teacher gives probability 0 adds nothing."""
    target = teacher.softmax(1)
    terms = target * (teacher.log_softmax(1) - student.log_softmax(1))
    return torch.where(target > 0, terms, 0.0).sum(1)


def _bin_sums(logits: Tensor, labels: Tensor, bins: int) -> Tensor:
    """Return number of samples, sum of confidences and number of correct samples of each bin, (3, bins)."""
    confidence, right = logits.softmax(1).amax(1), logits.argmax(1) == labels
    inner_edges = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    membership = F.one_hot(torch.bucketize(confidence, inner_edges), bins).to(torch.float64)
    values = torch.stack([torch.ones_like(confidence), confidence, right.to(torch.float64)])
    return values @ membership  # unlike scattered sums, this adds in the same order on every device


def _class_sums(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return numbers of samples, of correct samples, and of predictions of each class, (3, N)."""
    predicted = F.one_hot(logits.argmax(1), classes).to(torch.float64)
    actual = F.one_hot(labels, classes).to(torch.float64)
    return torch.stack([actual.sum(0), (actual * predicted).sum(0), predicted.sum(0)])


def _calibration_error(bin_sums: Tensor) -> float:
    samples, confidence, right = bin_sums
    return float((confidence - right).abs().sum() / samples.sum())


def _confidence_bin(samples: float, confidence: float, right: float) -> ConfidenceBin:
    if not samples:
        return ConfidenceBin(0, None, None)
    return ConfidenceBin(int(samples), 100 * confidence / samples, 100 * right / samples)


def _unusable(logits: Tensor) -> Tensor:
    """Mark the samples (B,) whose logits give no probabilities."""
    return logits.log_softmax(1).isnan().any(1)


def _place(device: torch.device) -> torch.device:
    """Return a device that has double precision."""
    return torch.device("cpu") if device.type == "mps" else device
