"""Options of the commands that list, show or convert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .base import POSITIONAL
from .shared import CodeOptions, ProgressOptions


@dataclass(frozen=True)
class ShowOptions(CodeOptions):
    """Show what a run folder holds: a search, a training, a sweep, a shortlist, a ranking of sources, or a pipeline.

    Args:
        run: The run folder, of a finished job or of one that goes on.
        best: Number of architectures of a search to list.
    """

    run: str
    best: int = 10


@dataclass(frozen=True)
class ListSpacesOptions(CodeOptions):
    """List the search spaces, or the decisions and options of one or several.

    Args:
        name: The space to show, also as module:name, file.py:name or FILE.yaml, or several: '[timm/mobilenetv3,
            timm/vit]'; without it, all are listed.
    """

    name: Sequence[str] | str | None = field(default=None, metadata=POSITIONAL)


@dataclass(frozen=True)
class ListProxiesOptions(CodeOptions):
    """List the proxies: whether they need a teacher, what they read of a network, and what they measure.

    Args:
        pattern: The names to list, such as "zen*"; without it, all are listed. A whole name also shows
            its formula and paper.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)


@dataclass(frozen=True)
class ListDistillersOptions(CodeOptions):
    """List the distillers: what they read of a network, their customary weights, and what they are.

    Args:
        pattern: The names to list, such as "*kd"; without it, all are listed. A whole name also shows
            its loss, options and paper.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)


@dataclass(frozen=True)
class ListMeasuresOptions(CodeOptions):
    """List the measures of how near a source is: what they need, and what they measure.

    Args:
        pattern: The names to list, such as "*score"; without it, all are listed. A whole name also shows
            its formula and paper.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)


@dataclass(frozen=True)
class ListAlgorithmsOptions(CodeOptions):
    """List the algorithms of a search, with the options of one that is named.

    Args:
        pattern: The names to list, such as "*evol*"; without it, all are listed. A whole name also shows
            its options and paper.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)


@dataclass(frozen=True)
class ImportOptions(ProgressOptions):
    """Turn an official benchmark file into a table that `diswot compare` reads.

    Args:
        kind: nasbench101, nasbench201, nasbench_macro, nats_bench or suite_zero.
        path: The official file, or folder for NATS-Bench.
        out: The new table, .csv or .csv.gz.
        trust: The makers of the file are trusted: the official files of NAS-Bench-201 and NATS-Bench are pickles, which
            can run any code when they are read.
    """

    kind: str
    path: str
    out: str
    trust: bool = False
