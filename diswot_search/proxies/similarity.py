"""DisWOT's proxies: how similar an untrained student and a teacher are in semantics and in relations.

There are three terms, each in three variants, and a combination of each variant.

* `..._paper` is the formula of the paper, and `..._readme` is the one in the README of the official code. Both need
  student and teacher to have the same classes or the same width, and raise a `ReadingError` otherwise.
* The variant without a suffix is ours. It is defined for any two networks and does not depend on the order of channels.
  Every term is a similarity that is 1 for equal structure, so that no term dominates the mean.

All raise a `ValueError` if there is no teacher.

Source: Dong, Li and Wei, "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023.
"""

from __future__ import annotations

from torch import Tensor

from ..functional import similarities
from ..networks.contract import ReadingError
from ..readings.core import Readings

# -- ours: any pair of networks -----------------------------------------------------------------


def semantic(student: Readings, teacher: Readings | None = None) -> float:
    """Similarity of the classes' cosines: 1 minus the RMS difference.

    Each class is represented by the mean pooled feature of its samples. That is the class's part of the classifier's
    label gradient as long as predictions are uniform.
    """
    return _similarity(student.class_cosines, require_teacher(teacher).class_cosines)


def relation(student: Readings, teacher: Readings | None = None) -> float:
    """Similarity of the samples' cosines, over whole feature maps: 1 minus the RMS difference."""
    return _similarity(student.sample_cosines, require_teacher(teacher).sample_cosines)


def channel_relation(student: Readings, teacher: Readings | None = None) -> float:
    """Similarity of the channels' spectra: 1 minus the Hellinger distance.

    A spectrum holds the eigenvalues of the channels' second moment over samples and positions, as shares of their sum.
    It tells how the energy of the feature map spreads over independent directions.
    """
    return 1 - float(
        similarities.hellinger_distance(student.channel_spectrum, require_teacher(teacher).channel_spectrum)
    )


def diswot(student: Readings, teacher: Readings | None = None) -> float:
    """Mean of `semantic`, `relation` and `channel_relation`; 1 for equal structure."""
    return (semantic(student, teacher) + relation(student, teacher) + channel_relation(student, teacher)) / 3


# -- the paper's formulas -----------------------------------------------------------------------


def semantic_paper(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the distance of the Frobenius-normalised class Gram matrices of the class activation maps (M_s)."""
    return _frobenius_similarity(student.class_map_gram, require_teacher(teacher).class_map_gram, "classes", "semantic")


def relation_paper(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the distance of the Frobenius-normalised sample Gram matrices of the feature maps (M_r)."""
    return _frobenius_similarity(student.sample_gram, require_teacher(teacher).sample_gram, "samples", "relation")


def channel_relation_paper(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the distance of each sample's Frobenius-normalised channel Gram matrices, averaged over samples."""
    first, second = student.channel_gram, require_teacher(teacher).channel_gram
    _check_same(first, second, "channels", "channel_relation")
    difference = similarities.frobenius_normalise(first) - similarities.frobenius_normalise(second)
    return -float(difference.flatten(1).norm(dim=1).mean())


def diswot_paper(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of `semantic_paper` and `relation_paper`, unweighted."""
    return semantic_paper(student, teacher) + relation_paper(student, teacher)


# -- the README of the official code ------------------------------------------------------------


def semantic_readme(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the mean squared difference of the classes' row-normalised outer products of label gradients.

    The score depends on the order of channels, although that order has no meaning in a random network.
    """
    teacher = require_teacher(teacher)
    _check_same(student.classifier_weight, teacher.classifier_weight, "classes and classifier inputs", "semantic")
    return -float(similarities.outer_product_distance(student.label_gradient, teacher.label_gradient))


def relation_readme(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the mean squared difference of the row-normalised sample Gram matrices."""
    return _row_similarity(student.sample_gram, require_teacher(teacher).sample_gram, "samples", "relation")


def channel_relation_readme(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the mean squared difference of each sample's row-normalised channel Gram matrix.

    The released experiments compute it for the first sample only and call it the relation term.
    """
    return _row_similarity(student.channel_gram, require_teacher(teacher).channel_gram, "channels", "channel_relation")


def diswot_readme(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of `semantic_readme` and `relation_readme`, unweighted."""
    return semantic_readme(student, teacher) + relation_readme(student, teacher)


# -- shared -------------------------------------------------------------------------------------


def require_teacher(teacher: Readings | None) -> Readings:
    """The teacher's readings.

    Raises:
        ValueError: There is no teacher.
    """
    if teacher is None:
        raise ValueError("This proxy compares with a teacher; none was given.")
    return teacher


def _similarity(first: Tensor, second: Tensor) -> float:
    return 1 - float(similarities.root_mean_square(first - second))


def _frobenius_similarity(first: Tensor, second: Tensor, what: str, term: str) -> float:
    _check_same(first, second, what, term)
    return -float((similarities.frobenius_normalise(first) - similarities.frobenius_normalise(second)).norm())


def _row_similarity(first: Tensor, second: Tensor, what: str, term: str) -> float:
    _check_same(first, second, what, term)
    return -float((similarities.row_normalise(first) - similarities.row_normalise(second)).square().mean())


def _check_same(first: Tensor, second: Tensor, what: str, term: str) -> None:
    if first.shape != second.shape:
        raise ReadingError(
            f"this form of {term!r} needs as many {what} in student and teacher, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}; the proxy {term!r} without a suffix is defined for any pair"
        )
