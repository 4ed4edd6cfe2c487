"""Options of data: of a probe, and of the splits that a network is trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from .base import DATA_NAME, PYTHON_ONLY, Options, keywords
from .shared import LabelOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray | Tensor

RESIDENT_LIMIT = 2**31
"""Default size in bytes of the images that are held in memory."""


@dataclass(frozen=True, kw_only=True)
class RootOptions(Options):
    """Where a data set lies.

    Args:
        root: Folder of the data set, if it has one.
    """

    root: str | os.PathLike[str] | None = None


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Which part of a data set is used.

    Args:
        split: Split to draw from. Of a folder: the sub-folder of that name, or of a synonym, in any case (train is also
            Training); or "." for the folder itself, whose sub-folders are classes whatever their names.
    """

    split: str = "train"


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(Options):
    """Whether a data set is downloaded.

    Args:
        download: Let torchvision (or timm's reader) download missing files.
    """

    download: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """How images are sized and normalised.

    Args:
        image_size: Side in pixels of the square that each image is centre-cropped and resized (bicubic) to. By default
            images keep their size; digits and noise are 32 x 32.
        seed: Seed that chooses images.
        num_classes: Number of classes, if the data set has more than its labels show.
        mean: Mean of each channel on a scale from 0 to 1; needs std as well. The default depends on the name: known
            values for CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and digits; ImageNet's values for data that timm or
            torchvision reads; otherwise the values of the images that are drawn or trained on. The configuration of a
            probe or of splits records which, as "statistics".
        std: Standard deviation of each channel on the same scale.
    """

    image_size: int | None = None
    seed: int = 0
    num_classes: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class GreyOptions(Options):
    """How images with more grey values than a byte are read.

    Args:
        grey_range: The two values of 16- and 32-bit grey images that become black and white, such as [0, 4095]; values
            outside are cut. Without it such images are refused, with the range that they have.
    """

    grey_range: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeDrawOptions(ImageOptions, GreyOptions, DownloadOptions, SplitOptions, RootOptions):
    """How a probe is drawn.

    Args:
        batch_size: Number of images to draw, at least 2.
        balanced: Draw the same number of images from every class, to within one. A batch smaller than the number of
            classes gets one image from each of batch_size classes. Otherwise images are drawn uniformly.
    """

    batch_size: int = 64
    balanced: bool = True


@dataclass(frozen=True)
class _DataSetName(Options):
    """The name of a data set.

    Args:
        name: Name of the data set, or the path of a folder of images.
    """

    name: str | os.PathLike[str] = field(default="digits", metadata=DATA_NAME)


@dataclass(frozen=True)
class CreateProbeOptions(ProbeDrawOptions, _DataSetName):
    """Draw a probe from a data set. Global random state is neither used nor changed.

    Names:
        `digits`: scikit-learn's 1,797 handwritten digits as RGB images. They are part of the installation and have
            one split, `train`.
        `PATH.npz`: an archive with the members `train_images` and `train_labels` (or `test_...`, depending on
            `split`). Images are uint8, N x H x W or N x H x W x C with 1 or 3 channels. A relative path starts at
            `root`.
        `noise`: standard normal pixels; needs `num_classes`.
        `torch/NAME`: a data set of torchvision, by timm's name (`torch/cifar100`) or by its class name in lower
            case (`torch/svhn`).
        `folder/PATH`, or a path such as `/data/photos`, `../photos`, `photos` or `Path("photos")`: a folder or tar file
            of images; `folder` is the folder `root`. The first level is the class, and deeper levels are read into it.
            Folders for splits, such as Training and Testing, may stand above these. Every format that Pillow reads is
            read; hidden files and folders are left out, as are images that cannot be read, with a warning. Folders that
            look like splits but cannot be taken for them are refused, unless `split` says what they are.
        `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/NAME`: a data set as timm reads it.

    If a data set cannot give labels without decoding images, the probe is drawn from at most `UNLABELLED_LIMIT`
    samples: the first ones of a stream, or evenly spaced ones of a data set with random access.
    """


@dataclass(frozen=True)
class CreateProbesOptions(ProbeDrawOptions, _DataSetName):
    """Draw several probes with the seeds `seed`, `seed + 1`, ... while opening the data set only once.

    Args:
        count: Number of probes to draw, at least 1.
    """

    count: int = 1


@dataclass(frozen=True, kw_only=True)
class DivisionOptions(LabelOptions, ImageOptions):
    """How images are divided into those to train, to validate and to test on.

    Args:
        seed: Seed that chooses the images to split off or to omit.
        val_share: Share of the training images to validate on, between 0 and 1, if there is no validation split.
        test_share: Share of the training images to test on, between 0 and 1, if there is no test split.
        train_limit: Number of images to train on, spread over the classes as evenly as their sizes allow. Validation
            and test images stay the same, and a larger limit contains the images of a smaller one.
        labels: The labelled subset of the training images; by default all of them. It may be a share such as "4%" of
            each class, rounded, but at least one image; a total number of images, spread over the classes as evenly as
            their sizes allow; indices; or a file of indices: .npy, or text with one index on each line, where # begins
            a comment. Indices start at 0 and count the images of the training part on disk, before validation images,
            test images or a train_limit are taken out.
        label_seed: Seed that chooses the labelled images; by default seed. A larger request contains the images of a
            smaller one.
    """

    val_share: float = 0.1
    test_share: float = 0.2
    train_limit: int | None = None
    label_seed: int | None = None


@dataclass(frozen=True)
class CreateSplitsOptions(DivisionOptions, GreyOptions, DownloadOptions, RootOptions, _DataSetName):
    """Open a data set to train on, with validation and test images. Global random state is neither used nor changed.

    Parts that the data set lacks are split off its training images, with the same share of each class: first the test
    images, then the validation images from the rest. If the data set has only one other split, it is the test split.
    Of `val` and `evaluation` (`eval`) without `test`, `val` validates and `evaluation` tests.

    Args:
        name: Name of the data set: one of those that `create_probe` lists, except `noise`.
        train_split: Split to train on. Splits of a folder are its sub-folders of that name, or of a synonym, in any
            case (train is also Training); "." is the folder itself, whose sub-folders are classes whatever their names.
        val_split: Split to validate on; by default that of the data set, if it has one apart from the test split.
        test_split: Split to test on; by default that of the data set.
        resident_limit: Largest size in bytes of the images of all parts that are held in memory; larger data sets are
            streamed from disk.
        workers: Number of processes that read streamed images, or augment images one at a time. By default one less
            than the processor cores, but at least 1 and at most 8.
    """

    _: KW_ONLY
    train_split: str = "train"
    val_split: str | None = None
    test_split: str | None = None
    resident_limit: int = RESIDENT_LIMIT
    workers: int | None = None


DATA_SET_NAMES = tuple(name for name in keywords(CreateSplitsOptions) if name not in keywords(LabelOptions))
"""The options that are typed in data_options; those of the labelled subset are options of the jobs as well."""

PROBE_NAMES = tuple(name for name in keywords(ProbeDrawOptions) if name not in ("batch_size", "seed"))
"""The options that are typed in probe_options; the others are options of the jobs as well."""


@dataclass(frozen=True)
class ArraySplitsOptions(DivisionOptions):
    """Make splits from arrays or tensors of images and labels.

    Args:
        train: Pair of images and labels. Images are uint8: arrays (N, H, W) or (N, H, W, 1 or 3), or tensors (N, H, W)
            or (N, 1 or 3, H, W). Labels are (N,) integers.
        val: Validation images and labels, in the same form; by default split off `train`.
        test: Test images and labels, in the same form; by default split off `train`.
        name: Name of the data set in records.
        mirrored: Whether an image keeps its meaning when left and right are exchanged.
        workers: Number of processes that augment images one at a time.
    """

    train: tuple[Array, Array] = field(metadata=PYTHON_ONLY)
    val: tuple[Array, Array] | None = field(default=None, metadata=PYTHON_ONLY)
    test: tuple[Array, Array] | None = field(default=None, metadata=PYTHON_ONLY)
    _: KW_ONLY
    name: str = "arrays"
    mirrored: bool = True
    workers: int = 0
