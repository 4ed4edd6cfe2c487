"""Architectures in, scored records out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """What scoring one architecture gave.

    Attributes:
        status: "ok", or "failed" with a `reason` and no score.
        reason: Why it failed.
        score: Mean over weight seeds and probes; higher is better.
        score_std: Standard deviation over them, 0 for one.
        parts: Mean value of each term of the score, by name.
        seconds: Time of building and scoring.
    """

    status: str
    reason: str | None = None
    score: float | None = None
    score_std: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Record:
    """One evaluated architecture of a study.

    Attributes:
        index: Order of asking, from 0.
        architecture: Text form.
        canonical: Text form of the architecture that stands for all with the same function.
        params: Trainable parameters.
        macs: Multiply-accumulates of one image.
        latency_ms: Median latency, where the study measures it.
        status, reason, score, score_std, parts, seconds: See `Evaluation`.
    """

    index: int
    architecture: str
    canonical: str
    params: int
    macs: int
    latency_ms: float | None = None
    status: str = "ok"
    reason: str | None = None
    score: float | None = None
    score_std: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
