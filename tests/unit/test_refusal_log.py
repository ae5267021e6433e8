"""RefusalLog: every refusal is counted; a Sender with another secret gets a line a minute, with what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.errors import EnvelopeError
from servicebus.runtime.refusal_log import RefusalLog
from servicebus.wire.envelope import CALL, MESSAGE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as clock:
        yield clock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_refusals_are_counted_by_their_reasons() -> None:
    counters: Counter[str] = Counter()
    log = RefusalLog(counters, "mq-a")
    for kind, reason in ((CALL, "signature"), (MESSAGE, "signature"), (CALL, "stale")):
        log.refused(kind, EnvelopeError(reason))
    assert counters == {"refused.signature": 2, "refused.stale": 1}


def test_a_wrong_secret_is_told_once_a_minute_with_what_to_do(
    clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    log = RefusalLog(Counter(), "mq-a")
    for _ in range(59):
        log.refused(CALL, EnvelopeError("signature", "no key has signed it"))
        clock.advance(1)
    (line,) = lines(caplog)
    assert "call refused: signature: no key has signed it; compare secret_token" in line
    clock.advance(2)
    log.refused(CALL, EnvelopeError("signature", "no key has signed it"))
    assert "call refused" in lines(caplog)[0]


def test_other_reasons_are_told_as_they_are(clock: VirtualTime, caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog(Counter(), "mq-a")
    log.refused(CALL, EnvelopeError("signature"))
    log.refused(MESSAGE, EnvelopeError("stale", "it is an hour old"))
    _, line = lines(caplog)
    assert "message refused: stale: it is an hour old" in line and "secret_token" not in line
