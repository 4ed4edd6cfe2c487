"""What a study or a comparison keeps of each architecture."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """What scoring one architecture gave.

    Attributes:
        status: "ok", or "failed" with a `reason` and no score.
        reason: Why it failed.
        score: Mean over weight seeds and probes; higher is better. An aggregate gives none to an architecture by
            itself; in the records of a study its score is relative to all that the study has scored.
        score_std: Standard deviation over seeds and probes, 0 for one; None for aggregates.
        parts: Mean value of each term of the score or member of the aggregate, by name.
        seconds: Time of building and scoring.
    """

    status: str
    reason: str | None = None
    score: float | None = None
    score_std: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Record(Evaluation):
    """One evaluated architecture of a study: its place, its cost and its evaluation.

    Attributes:
        index: Order of asking, from 0.
        architecture: Text form.
        canonical: Text form of the architecture that stands for all with the same function.
        params: Trainable parameters; None where a failed one could not be counted.
        macs: Multiply-accumulates of one image; None likewise.
        latency_ms: Median latency, where the study measures it.
    """

    index: int = field(kw_only=True)
    architecture: str = field(kw_only=True)
    canonical: str = field(kw_only=True)
    params: int | None = field(kw_only=True)
    macs: int | None = field(kw_only=True)
    latency_ms: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class NewScore:
    """The score of one proxy on one architecture with one draw of weights.

    Attributes:
        score: The score; None where it failed.
        reason: Reason for the failure; None for a score.
        seconds: Seconds for building the network, the passes that the proxy uses and its own work, computed together
            with all other requested proxies.
        passes: Names of the readings that the seconds include.
    """

    score: float | None
    reason: str | None
    seconds: float
    passes: tuple[str, ...]
