"""Measuring of sources on the same labelled images, one source at a time, in any process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from ..data.image_sets import ResidentSet
from ..data.splits import Splits
from ..networks.network import Network
from ..runtime.executors.base import Placement
from ..runtime.failures import failure_reason, stop_if_machine_failed
from .evidence import Evidence, TransferabilityError
from .frozen import FrozenSource, load_source
from .ranking import Measured, RankingError
from .transferability import Measure

BATCH_SIZE = 125
"""Images that a source is run on at a time."""


class SourceMeasurer:
    """Measures sources by their names; also the program of a ranking, which pickles without the rest of the data.

    Args:
        splits: The data, of which a pickled copy has the measured images alone.
        sources: The sources.
        reference: The reference model of measures that need one.
        measures: The measures.
        images: The images of all draws.
        labels: Their labels, (N,).
        draws: Places of the images of each draw.
        device: The device to run sources on.
    """

    def __init__(
        self,
        splits: Splits,
        sources: Sequence[Network],
        reference: Network | None,
        measures: Sequence[Measure],
        images: ResidentSet,
        labels: NDArray[np.int64],
        draws: Sequence[NDArray[np.int64]],
        device: torch.device,
    ) -> None:
        self.splits = splits
        self.reference = reference
        self.measures = tuple(measures)
        self.images = images
        self.labels = labels
        self.draws = list(draws)
        self.device = device
        self._sources = {source.name: source for source in sources}
        self._loaded: FrozenSource | None = None

    def __getstate__(self) -> dict[str, object]:
        state = {name: value for name, value in vars(self).items() if name not in ("reference_features", "_blas")}
        images = replace(self.splits, train=self.images, val=self.images, test=self.images)
        return state | {"splits": images, "_loaded": None}

    def __call__(self, placement: Placement) -> Callable[[str], tuple[dict[str, Measured], float]]:
        if placement.device is not None:
            self.device, self._loaded = torch.device(placement.device), None
        return self.measure

    @cached_property
    def _blas(self) -> ThreadpoolController:
        return ThreadpoolController().select(user_api="blas")

    def measure(self, name: str) -> tuple[dict[str, Measured], float]:
        """The values of all measures, and the seconds that they took."""
        started = time.perf_counter()
        return self._measure(self._sources[name]), time.perf_counter() - started

    @cached_property
    def reference_features(self) -> NDArray[np.float32] | None:
        """The features of the reference model for all images, (N, C); None without a reference."""
        if self.reference is None:
            return None
        try:
            features, _ = self._run(self._take(self.reference))
        except Exception as error:
            stop_if_machine_failed(error, f"in the reference {self.reference.name!r}")
            raise
        try:
            for draw in self.draws:
                Evidence(features[draw], self.labels[draw]).check("features")
        except TransferabilityError as error:
            raise RankingError(f"The reference {self.reference.name} cannot be compared with. {error}") from error
        return features

    def _measure(self, source: Network) -> dict[str, Measured]:
        """The values of all measures for a source, or the reasons why there are none."""
        reference = self.reference_features
        network = self._take(source)
        try:
            evidence = self._evidence(network, reference)
        except Exception as error:  # a network may fail in any way
            reason = failure_reason(error, f"in the source {source.name!r}")
            return {measure.name: Measured(reason=reason) for measure in self.measures}
        del network  # its memory is free before the measures need some
        # The matrices are small: threads within them gain little, and wait long for each other on busy cores.
        with self._blas.limit(limits=1), ThreadPoolExecutor(min(len(evidence), torch.get_num_threads())) as pool:
            return {measure.name: _apply(measure, evidence, pool) for measure in self.measures}

    def _evidence(self, network: FrozenSource, reference: NDArray[np.float32] | None) -> list[Evidence]:
        """The features and probabilities of a source for the images of each draw."""
        features, probabilities = self._run(network)
        return [
            Evidence(
                features[draw],
                self.labels[draw],
                None if probabilities is None else probabilities[draw],
                None if reference is None else reference[draw],
            )
            for draw in self.draws
        ]

    def _run(self, network: FrozenSource) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """Features and class probabilities of all images, from one run over them."""
        features: list[Tensor] = []
        logits: list[Tensor] = []
        order = torch.arange(len(self.images))
        for batch in self.images.batches(order, BATCH_SIZE, device=self.device, augment=None, seed=0):
            reading = network(batch.images)
            features.append(reading.features.cpu())
            if reading.logits is not None:
                logits.append(reading.logits.cpu())
        probabilities = torch.cat(logits).double().softmax(1).numpy() if logits else None
        return torch.cat(features).numpy(), probabilities

    def load(self, source: Network) -> FrozenSource:
        """The source on the device; it is loaded unless it is the last one that was loaded."""
        if self._loaded is None or self._loaded.source is not source:
            try:
                self._loaded = load_source(source, self.splits, self.device)
            except Exception as error:
                stop_if_machine_failed(error, f"in the source {source.name!r}")
                raise
        return self._loaded

    def _take(self, source: Network) -> FrozenSource:
        """The source on the device. Only the caller refers to it, so its memory is free after the last use."""
        network = self.load(source)
        self._loaded = None
        return network


def _apply(measure: Measure, evidence: Sequence[Evidence], pool: Executor) -> Measured:
    """A measure on all draws at once. If it fails on one of them, it has no mean."""
    try:
        values = tuple(pool.map(measure, evidence))
        chances = tuple(pool.map(measure.chance, evidence))
    except TransferabilityError as error:
        return Measured(reason=str(error))
    except Exception as error:  # a measure may be a function of the user's
        return Measured(reason=failure_reason(error, f"in the measure {measure.name!r}"))
    return Measured(values, chances, tuple(map(measure.similarity, values, chances)))
