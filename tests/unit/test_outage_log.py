"""OutageLog: a cause is told once, and not at every attempt to connect."""

from __future__ import annotations

import logging
import time

import pytest

from servicebus.runtime.outage_log import OutageLog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_cause_is_told_once_in_a_while(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told = OutageLog()
    for clock[0] in (0.0, 1.0, 299.0, 301.0, 302.0):
        told.tell("mq-a:5672", "connection refused", "closed")
    line = "mq-a:5672: connection refused; reconnecting"
    assert caplog.messages == [line, f"{line} (2 more since the last line)"]


def test_each_cause_is_told_and_again_after_its_end(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told = OutageLog()
    for end in ("queue is of another type", "", ""):
        told.tell("mq-a:5672", "refused", "closed")
        told.tell("mq-a:5672", "queue is of another type", "topology")
        told.end(end)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "WARNING", "WARNING", "ERROR"]


def test_names_that_the_broker_makes_and_counts_are_no_other_cause(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    told = OutageLog()
    told.tell("mq-a:5672", "access to queue 'amq.gen-AbqxMXUjQevT4eUEau4wNA' refused", "topology")
    told.tell("mq-a:5672", "access to queue 'amq.gen-IbAoJdp4Qrc0dyB-hnaxw' refused", "topology")
    told.tell("mq-a:5672", "limit (10) is reached by 11", "limits")
    told.tell("mq-a:5672", "limit (10) is reached by 12", "limits")
    told.tell("mq-a:5672", "access to queue 'N.rpc' refused", "topology")
    assert [message.split()[1] for message in caplog.messages] == ["access", "limit", "access"]


@pytest.mark.parametrize("kind", ["credentials", "topology", "tls", "limits"])
def test_what_no_waiting_mends_is_an_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    OutageLog().tell("mq-a:5672", "no", kind)
    assert caplog.record_tuples == [
        ("servicebus.runtime.outage_log", logging.ERROR, "mq-a:5672: no; trying again, the other hosts are served")
    ]
