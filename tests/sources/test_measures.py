"""Every built-in measure of transferability passes the contract that a user's own inherits."""

from __future__ import annotations

import pytest

from diswot_search.sources.transferability import Measure, get_measure, list_measures
from diswot_search.testing.measures import MeasureContract


class TestMeasures(MeasureContract):
    @pytest.fixture(params=[name for name in list_measures() if name != "logistic"])
    def measure(self, request: pytest.FixtureRequest) -> Measure:
        return get_measure(request.param)


class TestLogistic(MeasureContract):
    any_order = False

    def create(self) -> str:
        return "logistic"
