"""RateLimitedLog: a flood is a few lines, and the first line after it says how many were left out."""

from __future__ import annotations

import logging
import time

import pytest

from servicebus.transport.ratelimitedlog import RateLimitedLog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def limited(name: str = "", **limits: float) -> RateLimitedLog:
    return RateLimitedLog(logging.getLogger("test"), name, **limits)  # type: ignore[arg-type]


def test_a_flood_of_one_cause_is_a_few_lines_and_another_cause_has_its_own(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = limited("mq-a", period_s=10.0, burst=2)
    assert [log.warning(f"line {number}", "one") for number in range(5)] == [True, True, False, False, False]
    assert log.log(logging.ERROR, "other", "two")
    clock[0] += 10
    assert log.warning("again", "one")
    clock[0] += 10
    assert log.warning("and again", "one")
    assert caplog.messages == [
        "mq-a: line 0",
        "mq-a: line 1",
        "mq-a: other",
        "mq-a: again (3 more since the last line)",
        "mq-a: and again",
    ]


def test_a_cause_that_is_over_is_logged_at_once_when_it_comes_again(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = limited(burst=1)
    for keep in ((), ("kept",), ()):
        log.warning("gone", "gone")
        log.warning("kept", "kept")
        log.forget(keep)
    assert caplog.messages == ["gone", "kept", "gone", "kept", "gone"]


def test_a_stranger_who_chooses_the_cause_fills_no_memory(clock: list[float]) -> None:
    log = limited(burst=1)
    for number in range(10_000):
        log.warning("text", str(number))
    assert len(log._causes) <= 256


def test_a_line_is_one_line_and_a_traceback_follows_it(caplog: pytest.LogCaptureFixture) -> None:
    log = limited()
    try:
        raise RuntimeError("why")
    except RuntimeError as error:
        log.log(logging.ERROR, "a\nb\x1b", error=error)
    assert caplog.messages == ["a\\nb\\x1b"]
    assert "RuntimeError: why" in caplog.text
