"""Records of scored architectures in a study or a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cost_kinds import CostValues


@dataclass(frozen=True)
class Score:
    """The score of one architecture, or the reason why it has none.

    Attributes:
        status: "ok", or "failed" with a `reason` and no score.
        reason: Reason for the failure; None for "ok".
        score: Mean over weight seeds and probes; higher is better. An aggregate scores no single architecture; in the
            records of a study, its scores are relative to all architectures scored so far.
        score_std: Standard deviation over seeds and probes, 0 for a single one; None for aggregates.
        parts: Mean value of each component of the proxy or the aggregate, by name.
        seconds: Seconds for building and scoring, without the teachers' readings.

    Example:
        >>> Score("failed", reason="no memory").score is None
        True
    """

    status: str
    reason: str | None = None
    score: float | None = None
    score_std: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Record(Score, CostValues):
    """One scored architecture of a study, with its place and its costs, of which None are those that it has not.

    Attributes:
        index: Number of the proposal, from 0.
        architecture: The architecture as text.
        canonical: The canonical architecture with the same function, as text.
        worker: Name of the worker that scored it; None for the process of the search itself.
        finished: Place in the order in which an asynchronous search finished its candidates, from 0; else None.
    """

    index: int = field(kw_only=True)
    architecture: str = field(kw_only=True)
    canonical: str = field(kw_only=True)
    worker: str | None = field(default=None, kw_only=True)
    finished: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class NewScore:
    """The score of one proxy on one architecture with one draw of weights.

    Attributes:
        score: The score; None if scoring failed.
        reason: Reason for the failure; None for a score.
        seconds: Seconds for building the network, the passes that the proxy uses and its own work, computed together
            with all other requested proxies.
        passes: Names of the readings that the seconds include.
    """

    score: float | None
    reason: str | None
    seconds: float
    passes: tuple[str, ...]
