"""A path: since when it owes an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from servicebus.client.nodes import Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.policy.liveness import PingAction, PingClock
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

LINK = cast(Any, SimpleNamespace(newest=None, host=SimpleNamespace(name="mq-a")))


def path(heard_at: float = 100.0) -> Path:
    return Path(LINK, "NODE-01", PingClock(0.5, 1.5, heard_at))


def published(path: Path, at: float) -> PendingRequest:
    """A call that was published on *path*."""
    request = PendingRequest(1, f"id-{at}", Address.parse("NODE-01.math.add"), Kind.CALL, b"", timeout_s=0.2)
    request.path = path
    request.published_at = at
    path.outstanding[request.id] = request
    return request


def test_a_path_that_was_asked_nothing_owes_nothing() -> None:
    assert path().oldest() is None


def test_an_answer_is_owed_since_the_oldest_request() -> None:
    asked = path()
    published(asked, 100.1)
    published(asked, 100.2)
    assert asked.oldest() == 100.1


def test_an_answered_request_is_owed_nothing_any_more() -> None:
    asked = path()
    PendingRequests().finish(published(asked, 100.1))
    assert asked.oldest() is None


def test_a_request_that_was_given_up_is_still_owed_an_answer() -> None:
    """Calls with short limits, one after the other, add up to a silence that is worth a ping."""
    asked = path()
    for at in (100.1, 100.3, 100.5):
        PendingRequests().give_up(published(asked, at))
    assert asked.outstanding == {}
    assert asked.oldest() == 100.1
    assert asked.clock.action(100.7, asked.oldest()) is PingAction.PING


def test_the_oldest_of_those_that_wait_and_those_that_were_given_up_counts() -> None:
    asked = path()
    published(asked, 100.1)
    PendingRequests().give_up(published(asked, 100.2))
    assert asked.oldest() == 100.1


def test_whatever_is_heard_settles_what_was_given_up_before() -> None:
    asked = path()
    PendingRequests().give_up(published(asked, 100.1))
    asked.heard(100.4)
    assert asked.oldest() is None
    PendingRequests().give_up(published(asked, 100.5))
    assert asked.oldest() == 100.5
