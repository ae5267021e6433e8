"""Answers: what a caller is told of a call that was not run."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from servicebus.client.answers import Answers
from servicebus.client.hosts import HostSelector
from servicebus.client.losses import Losses
from servicebus.client.nodes import Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.client.request_errors import (
    TooLargeForSome,
    defect,
    not_kept,
    out_of_paths,
    out_of_time,
    refused_again,
)
from servicebus.client.scheduler import RequestScheduler
from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    EnvelopeError,
    OutboxUnavailable,
    SendRefused,
    SendUnconfirmed,
    ServiceBusError,
    ServiceBusy,
    UnknownService,
)
from servicebus.policy.denials import Denials
from servicebus.policy.liveness import PingClock
from servicebus.policy.paths import Health
from servicebus.policy.size_limit import SizeLimit
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import EXPIRED, REFUSED, UNKNOWN_SERVICE, Fault


@pytest.mark.parametrize(
    ("is_lost", "refusals", "told"),
    [(False, 0, CallTimeout), (False, 3, ServiceBusy), (True, 3, CallTimeout)],
    ids=["on its way for too long", "refused until its deadline", "refused after it may have run"],
)
def test_a_last_attempt_that_comes_too_late(is_lost: bool, refusals: int, told: type[ServiceBusError]) -> None:
    """A service that was busy to the end is what the caller has to know, if the call has certainly not run."""
    nobody: Any = None
    request = PendingRequest(1, "x-1", Address.parse("N.test.it"), Kind.CALL, b"", timeout_s=0.0)
    if is_lost:
        request.published()  # and its path died
    for _ in range(refusals):
        request.published()
        request.not_run()
    request.refusals, request.refused_with = refusals, "the database is away"
    request.published()
    answers = Answers(PendingRequests(), nobody, nobody, nobody, nobody, nobody)
    answers._faulted(request, Fault(EXPIRED, "the deadline passed"), 0, nobody)
    with pytest.raises(told) as caught:
        request.wait()
    assert ("the database is away" in str(caught.value)) is (told is ServiceBusy)


class FakeLink:
    """Connected and usable; remembers what was published."""

    is_usable = is_up = True
    state = failure = None

    def __init__(self, name: str):
        self.host: Any = SimpleNamespace(name=name)
        self.health = Health()
        self.size_limit = SizeLimit()
        self.denials = Denials()
        self.losses = Losses()
        self.paths: dict[str, Path] = {}
        self.newest: Any = None
        self.published: list[PendingRequest] = []

    def watch(self, node: str) -> None:
        pass

    def path(self, node: str, now: float) -> Path:
        link: Any = self
        return self.paths.setdefault(node, Path(link, node, PingClock(1, 1, now)))

    def describe(self) -> str:
        return "away"

    def denies(self, request: PendingRequest, now: float) -> str:
        return self.denials.why(now, is_delayed=False)

    def refuses(self, request: PendingRequest, now: float) -> bool:
        return self.size_limit.refuses(request.size, now) is not None

    def publish(self, request: PendingRequest, now: float) -> None:
        request.travels(self.path(request.address.node, now), now)
        if request.kind is Kind.MESSAGE:
            request.published()
        self.published.append(request)


def two_links() -> tuple[Any, Any, PendingRequests, RequestScheduler, Answers]:
    links: Any = [FakeLink("mq-a"), FakeLink("mq-b")]
    nothing: Any = SimpleNamespace(connect_more=lambda reverse: None)
    config: Any = SimpleNamespace(path_wait=10.0)
    pending = PendingRequests()
    scheduler = RequestScheduler(nothing, config, links, pending, HostSelector(links, 10.0), nothing, nothing, nothing)
    return *links, pending, scheduler, Answers(pending, scheduler, nothing, nothing, nothing, nothing)


def test_a_message_that_a_broker_refuses_goes_to_the_next_and_is_said_not_to_be_stored() -> None:
    first, second, pending, scheduler, answers = two_links()
    request = PendingRequest(1, "x-1", Address.parse("N.test.it"), Kind.MESSAGE, b"", timeout_s=5.0)
    scheduler.begin(request, time.monotonic())
    answers.confirmed(first, request, is_ack=False)
    assert (first.published, second.published) == ([request], [request])  # the same id, at once
    answers.confirmed(second, request, is_ack=False)
    assert list(pending.waiting) == ["x-1"]
    assert not request.maybe_ran
    told = out_of_time(request, [first, second], time.monotonic())
    assert type(told) is SendRefused
    assert "mq-a refused the message (nack)" in str(told)
    assert "it is not stored" in str(told)


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
def test_what_is_too_large_for_one_broker_goes_to_the_next_and_for_all_is_refused_at_once(kind: Kind) -> None:
    first, second, _, scheduler, _ = two_links()

    def begin(size: int) -> PendingRequest:
        request = PendingRequest(1, "x-1", Address.parse("N.test.it"), kind, b"x" * size, timeout_s=5.0)
        scheduler.begin(request, time.monotonic())
        return request

    first.size_limit.learn(100_000, time.monotonic())
    begin(100_001)
    begin(100_000)
    assert [[it.size for it in link.published] for link in (first, second)] == [[100_000], [100_001]]
    second.size_limit.learn(200_000, time.monotonic())
    with pytest.raises(EnvelopeError, match="oversized: 200001 bytes, where mq-a takes 100000, mq-b takes 200000"):
        begin(200_001).wait()


def test_a_message_is_taken_back_once_where_its_size_is_known_to_be_refused_meanwhile() -> None:
    first, second, _, scheduler, answers = two_links()
    request = PendingRequest(1, "x-1", Address.parse("N.test.it"), Kind.MESSAGE, b"x" * 100, timeout_s=5.0)
    scheduler.begin(request, time.monotonic())
    first.size_limit.learn(10, time.monotonic())
    answers.confirmed(first, request, is_ack=False)
    assert second.published == [request] and request.maybe_ran  # the second broker may have it


def test_what_the_outbox_delivers_is_too_large_only_when_every_broker_has_said_so() -> None:
    first, second, _, scheduler, _ = two_links()

    def deliver() -> PendingRequest:
        body, options = b"x" * 100_001, MessageOptions(row=7)
        request = PendingRequest(
            1, "x-1", Address.parse("N.test.it"), Kind.MESSAGE, b"", body=body, timeout_s=5.0, options=options
        )
        scheduler.begin(request, time.monotonic())
        return request

    first.size_limit.learn(100_000, time.monotonic())
    second.is_usable = False
    with pytest.raises(TooLargeForSome):
        deliver().wait()
    second.size_limit.learn(100_000, time.monotonic())
    with pytest.raises(EnvelopeError, match="oversized"):
        deliver().wait()


# -- what an error says of the request ---------------------------------------------------------------------------------

DONE_TO_IT: dict[str, list[str]] = {
    "waited": [],
    "came back": ["published", "not run"],
    "was lost": ["published"],
    "came back and was lost": ["published", "not run", "published"],
    "was lost and came back": ["published", "published", "not run"],
}
CLAIMS = ("nothing was sent", "it did not run", "it is not stored")


@pytest.mark.parametrize("history", DONE_TO_IT.values(), ids=DONE_TO_IT)
@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE, Kind.CONTROL])
@pytest.mark.parametrize("is_up", [True, False])
def test_what_an_error_claims_of_a_request_is_true(kind: Kind, history: list[str], is_up: bool) -> None:
    """Whichever way a request ends that none of its attempts has answered."""
    link = FakeLink("mq-a")
    link.is_usable = is_up
    links: Any = [link]

    def make() -> PendingRequest:
        request = PendingRequest(1, "x-1", Address.parse("N.test.it"), kind, b"", timeout_s=5.0)
        for step in history:
            if step == "published":
                link.publish(request, time.monotonic())
                request.lost(links[0])
            else:
                request.not_run()
        return request

    may_have = history.count("published") > history.count("not run")
    refusal = CallRefused("N.test.it", "permission-denied", "no")
    ends: list[Any] = [
        out_of_paths(make(), links),
        out_of_time(make(), links, time.monotonic()),
        defect(make(), KeyError("x")),
        refused_again(make(), refusal),
    ]
    if kind is Kind.MESSAGE:
        ends.append(not_kept(out_of_paths(make(), links), OutboxUnavailable("/o", "is full")))
    for error in ends:
        claims = [claim for claim in CLAIMS if claim in str(error)]
        assert not (history and "nothing was sent" in claims), error
        if may_have and kind is not Kind.CONTROL:
            assert not claims, error
            assert isinstance(error, (CallInterrupted, SendUnconfirmed, CallTimeout)), error
        if kind is Kind.MESSAGE:
            assert "it did not run" not in claims
        if kind is Kind.CALL:
            assert "it is not stored" not in claims
    assert (refused_again(make(), refusal) is refusal) is (not may_have or kind is Kind.CONTROL)


@pytest.mark.parametrize("fault", [Fault(REFUSED, "permission-denied: no"), Fault(UNKNOWN_SERVICE, "none")])
def test_a_refusal_of_one_attempt_says_nothing_of_another_that_was_lost(fault: Fault) -> None:
    nobody: Any = None
    request = PendingRequest(1, "x-1", Address.parse("N.test.it"), Kind.CALL, b"", timeout_s=5.0)
    request.published()  # and its path died
    request.published()
    Answers(PendingRequests(), nobody, nobody, nobody, nobody, nobody)._faulted(request, fault, 0, nobody)
    with pytest.raises(CallInterrupted, match="an attempt may have run, and the next one did not") as caught:
        request.wait()
    assert isinstance(caught.value.__cause__, (CallRefused, UnknownService))
