"""Attempts of one call: each signed by itself, with one end; and whose verdicts are believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.client.answers import Answers
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, CallTimeout, EnvelopeError, RemoteError
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery
from servicebus.wire.address import Address
from servicebus.wire.envelope import Envelope, Kind, Reply
from servicebus.wire.fault import EXPIRED, NOT_RUN, Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, encode_reply

KEYS = Keyring(["secret token"])
PROTOCOL = ProtocolV2(Configuration({"hosts": ["mq-a"], "secret_token": "secret token"}), KEYS)
NOBODY: Any = None


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    """Both clocks stand still, so that dates can be compared to the millisecond."""
    with virtual_time(monkeypatch) as time:
        yield time


class Link:
    newest = PROTOCOL

    class host:  # noqa: N801
        name = "mq-a:5672"


class Path:
    protocol = PROTOCOL

    def __init__(self, link: Any):
        self.link = link
        self.shift_ms = 0
        self.answered = 0
        self.outstanding: dict[str, PendingRequest] = {}
        self.clock: Any = self

    def heard(self, now: float) -> None:
        pass


class RequestScheduler:
    """Notes what is to be sent again."""

    def __init__(self) -> None:
        self.again: list[str] = []

    def route(self, request: PendingRequest, now: float) -> None:
        self.again.append("route")

    def pause(self, request: PendingRequest, busy: Exception) -> None:
        self.again.append("pause")

    def take_back(self, request: PendingRequest, link: Any, why: str, now: float) -> None:
        self.again.append("take back")


class Call:
    """One call as the engine has it, with what was published of it."""

    def __init__(self, timeout_s: float = 30.0) -> None:
        wire_id, address = "0123456789abcdef-1", Address.parse("NODE-01.math.add")
        self.request = PendingRequest(1, wire_id, address, Kind.CALL, b"[1,2]", timeout_s=timeout_s)
        self.request.protocol = PROTOCOL
        self.published: list[Envelope] = []
        self.scheduler = RequestScheduler()
        self.pending = PendingRequests()
        self.answers = Answers(self.pending, self.scheduler, NOBODY, NOBODY, NOBODY, 60.0)  # type: ignore[arg-type]

    def publish(self, path: Any) -> Envelope:
        """As a Link does it."""
        request = self.request
        if request.path is not None:
            request.lost(request.path.link)
        request.travels(path, 0.0)
        self.published.append(decode_envelope(PROTOCOL.encode_request(request).body, 10_000))
        self.pending.in_flight[request.id] = request
        return self.published[-1]

    def reply(self, link: Any, attempt: int, fault: Fault | None = None) -> None:
        status, message = ("ok", b"3") if fault is None else ("fault", b"")
        asked = self.published[attempt - 1]
        token = KEYS.sign_reply(asked.token, asked.id, status, message, fault)
        body = encode_reply(Reply(asked.id, token, status, message, fault, attempt))
        self.answers.replied(link, Delivery(NOBODY, 1, body, correlation_id=asked.id))


def test_each_attempt_is_signed_by_itself_and_all_end_together() -> None:
    call, path = Call(), Path(Link())
    sent = [call.publish(path) for _ in range(4)]
    assert [each.attempt for each in sent] == [1, 2, 3, 4]
    assert len({each.token for each in sent}) == 4
    assert len({each.id for each in sent}) == 1
    assert len({each.sent_ms + each.ttl_ms for each in sent}) == 1
    for each in sent:
        KEYS.verify_envelope(each)


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_a_result_is_believed_for_any_attempt(attempt: int) -> None:
    call, links = Call(), [Link(), Link(), Link()]
    for link in links:
        call.publish(Path(link))
    call.reply(links[0], attempt)
    assert call.request.wait() == (1, 3)


def test_an_error_of_the_service_is_believed_for_any_attempt() -> None:
    call, links = Call(), [Link(), Link()]
    for link in links:
        call.publish(Path(link))
    call.reply(links[0], 1, Fault("ValueError", "no good"))
    with pytest.raises(RemoteError):
        call.request.wait()


@pytest.mark.parametrize("type", sorted(NOT_RUN))
@pytest.mark.parametrize(
    ("link", "attempt"), [(0, 1), (1, 1), (0, 2)], ids=["old", "old over this link", "over another"]
)
def test_a_refusal_is_believed_for_the_attempt_on_its_way_alone(type: str, link: int, attempt: int) -> None:
    call, links = Call(), [Link(), Link()]
    for each in links:
        call.publish(Path(each))
    call.reply(links[link], attempt, Fault(type, "not here"))
    assert not call.request.is_done
    assert (call.scheduler.again, call.answers.late) == ([], 1)
    call.reply(links[1], 2, Fault("refused", "bad-json: true of this one"))
    with pytest.raises(CallInterrupted, match="bad-json"):  # the first one may have run
        call.request.wait()


@pytest.mark.parametrize("attempt", [0, 3, 999_999_999])
def test_a_reply_to_an_attempt_that_was_never_made_is_not_believed(attempt: int) -> None:
    call, link = Call(), Link()
    for _ in range(2):
        call.publish(Path(link))
    call.request.attempt = 2
    with pytest.raises(EnvelopeError):
        call.request.token_of(attempt)


def test_a_refusal_says_nothing_about_the_attempts_before() -> None:
    call, path = Call(), Path(Link())
    call.publish(path)  # lost with its path
    call.publish(path)
    call.request.not_run()
    assert call.request.maybe_ran
    call.request.not_run()
    assert not call.request.maybe_ran


@pytest.mark.parametrize("apart_s", [-20, 20])
def test_a_call_that_is_late_by_the_nodes_clock_is_dated_by_it(apart_s: int) -> None:
    call, path = Call(timeout_s=5.0), Path(Link())
    first = call.publish(path)
    told_ms = call.request.clock_ms() + apart_s * 1000
    call.reply(path.link, 1, Fault(EXPIRED, "late", clock_ms=told_ms))
    assert call.scheduler.again == ["route"]
    second = call.publish(path)
    assert second.sent_ms == told_ms
    assert second.sent_ms + second.ttl_ms == first.sent_ms + first.ttl_ms + apart_s * 1000


@pytest.mark.parametrize("clock_ms", [None, 0, 10**15 - 1], ids=["none", "long ago", "far ahead"])
def test_a_clock_that_is_too_far_off_ends_the_call(clock_ms: int | None) -> None:
    """It would be good for longer than the node remembers its first attempt."""
    call, path = Call(), Path(Link())
    call.publish(path)
    call.reply(path.link, 1, Fault(EXPIRED, "late", clock_ms=clock_ms))
    with pytest.raises(CallTimeout):
        call.request.wait()
    assert path.shift_ms == 0


def test_a_node_that_says_late_again_and_again_ends_the_call() -> None:
    call, path = Call(), Path(Link())
    for number in range(1, 10):
        call.publish(path)
        told_ms = call.request.clock_ms() + number * 1000
        call.reply(path.link, number, Fault(EXPIRED, "late", clock_ms=told_ms))
        if call.request.is_done:
            break
    assert number == 4


def test_a_flood_of_bogus_replies_costs_neither_memory_nor_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Each says something else; for the caller the first is kept, and others that failed are not pushed out."""
    call, path = Call(), Path(Link())
    asked = call.publish(path)
    call.request.tried("mq-b:5672", "was away")
    for number in range(3000):
        body = encode_reply(Reply(asked.id, f"{number:08x}:{'0' * 64}", "ok", b"666"))
        call.answers.replied(path.link, Delivery(NOBODY, 1, body, correlation_id=asked.id))
    assert call.answers.unverified == 3000
    assert [host for host, _ in call.request.attempts] == ["mq-b:5672", "mq-a:5672"]
    assert "no key with the id '00000000'" in call.request.attempts[1][1]
    assert len(caplog.records) < 300
    call.reply(path.link, 1)
    assert call.request.wait() == (1, 3)


def test_what_was_tried_is_told_up_to_a_bound() -> None:
    call = Call()
    for number in range(1000):
        call.request.tried("mq-a:5672", f"failed in way {number}")
    assert len(call.request.attempts) == 16
    assert call.request.attempts[-1][1] == "failed in way 999"
