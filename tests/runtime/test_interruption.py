"""Signals: the first is remembered and answered by a line, the second one ends at once."""

from __future__ import annotations

import signal

import pytest

from diswot_search.runtime.interruption import Interruption

pytestmark = pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="signals are raised")


def test_the_first_signal_is_answered_where_a_notice_is_set(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for notice, expected in (("", ""), ("stopping", "stopping\n")):
        monkeypatch.setattr(Interruption, "notice", notice)
        interruption = Interruption(grace=60.0)
        with interruption.postponed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)  # within the grace it is the same one
        assert interruption.asked
        assert capfd.readouterr().err == expected


def test_the_second_signal_ends_at_once() -> None:
    interruption = Interruption()
    with interruption.postponed():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
