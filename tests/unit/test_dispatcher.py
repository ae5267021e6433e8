"""Dispatcher, AgentProtocol and real ServiceThreads together: real signed envelopes in, dispositions out. No broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import ANY, Mock, patch

import pytest
from envelopes import SECRET, envelope, new_id, signed, waiting_headers
from waiting import wait_until
from wire_forms import encode_envelope, sign_envelope

from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, JournalUnavailable
from servicebus.protocol.interface import AgentProtocol
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Disposition, Job, Outcome, dead_letter, later_attempt
from servicebus.runtime.journal import IdStatus, Lookup, MemoryJournal
from servicebus.runtime.service_thread import Service, ServiceThread
from servicebus.services import MessageService, Request, Response, Retry, RpcService
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import EventLoop
from servicebus.wire import headers
from servicebus.wire.envelope import Kind, Reply
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import make_requeue_ticket
from servicebus.wire.xmlcodec import decode_envelope, decode_json, decode_reply

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": SECRET, "clock_skew": 2})
KEYRING = Keyring([SECRET])
REPLY_TO = "amq.rabbitmq.reply-to.g1h2"


class Add:
    def on_call(self, request: Request, response: Response) -> None:
        response.send(sum(request.get_params()))


class Gate(RpcService):
    """Answers when the test opens the gate."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.remaining: list[float | None] = []

    def handle(self, request: Request) -> Any:
        self.remaining.append(request.remaining)
        self.entered.release()
        assert self.open.wait(10)
        return request.params


class Decline(Gate):
    """Is busy, as soon as the gate is open."""

    def handle(self, request: Request) -> Any:
        super().handle(request)
        raise Retry(reason="not now")


class Note(MessageService):
    def __init__(self) -> None:
        self.noted: list[Any] = []

    def handle(self, request: Request) -> None:
        if request.params == "boom":
            raise ValueError("boom it was")
        self.noted.append(request.params)


class Odd:
    """Answers with what JSON cannot say, twice, or not at all."""

    def on_call(self, request: Request, response: Response) -> None:
        what = request.get_params()
        if what == "set":
            response.send({1, 2})
        elif what == "twice":
            response.send("first")
            response.send("second")
        elif what == "large":
            response.send("x" * CONFIG.max_envelope_bytes)
        elif what == "exit":
            raise SystemExit(3)
        elif what == "state":
            self.seen = getattr(self, "seen", 0) + 1
            response.send(self.seen)


class Agent:
    """What a worker makes of its services, without its connections."""

    def __init__(self, inbox_size: int = 4, retry_schedule: tuple[float, ...] = ()) -> None:
        self.gate, self.note, self.decline = Gate(), Note(), Decline()
        self.outcomes: list[Outcome] = []
        services = [
            Service(Kind.CALL, "math", "add", Add()),
            Service(Kind.CALL, "test", "gate", self.gate),
            Service(Kind.CALL, "test", "odd", Odd()),
            Service(Kind.CALL, "test", "declines", self.decline),
            Service(Kind.MESSAGE, "audit", "note", self.note),
        ]
        self.threads = [
            ServiceThread(service, inbox_size, self.outcomes.append, lambda: None, with_traces=False)
            for service in services
        ]
        self.protocol = ProtocolV2(CONFIG, KEYRING)
        by_key = {(thread.service.kind, thread.service.key): thread for thread in self.threads}
        self.dispatcher = Dispatcher(EventLoop("test"), by_key, MemoryJournal(), "mq-a:5672", retry_schedule)
        self.tag = 0
        self.channel: Any = Mock()
        for thread in self.threads:
            thread.start()

    def deliver(self, body: bytes, kind: Kind = Kind.CALL, reply_to: str | None = REPLY_TO) -> Disposition | None:
        return admit(self.dispatcher, self.delivery(body, kind, reply_to), self.protocol, kind)

    def deliver_again(self, body: bytes) -> Disposition | None:
        """As after the loss of another worker's connection."""
        delivery = self.delivery(body, Kind.CALL, REPLY_TO)._replace(redelivered=True)
        return admit(self.dispatcher, delivery, self.protocol)

    def receive(self, body: bytes, kind: Kind = Kind.CALL) -> Job | Disposition:
        return self.dispatcher.validate(self.delivery(body, kind, REPLY_TO), 1, self.protocol, kind)

    def delivery(self, body: bytes, kind: Kind, reply_to: str | None, given: dict[str, Any] | None = None) -> Delivery:
        self.tag += 1
        reply_to = reply_to if kind is not Kind.MESSAGE else None
        return Delivery(self.channel, self.tag, body, reply_to=reply_to, headers=given)

    def finished(self) -> Disposition:
        """The disposition of the job that its service left first."""
        wait_until(lambda: self.outcomes, what="no service has finished anything")
        return self.dispatcher.decide([self.outcomes.pop(0)], [])[0]

    def settle(self, body: bytes, kind: Kind = Kind.CALL, given: dict[str, Any] | None = None) -> Disposition:
        delivery = self.delivery(body, kind, REPLY_TO, given)
        return admit(self.dispatcher, delivery, self.protocol, kind) or self.finished()

    def deliver_with(self, body: bytes, given: dict[str, Any]) -> Disposition | None:
        return admit(self.dispatcher, self.delivery(body, Kind.MESSAGE, None, given), self.protocol, Kind.MESSAGE)

    def decide(self, job: Job) -> tuple[list[Disposition], list[Job]]:
        """What is done with *job* at once, and what is held."""
        self.dispatcher.held.clear()
        return self.dispatcher.decide([], [job]), self.dispatcher.held

    def publish(self, disposition: Disposition, epoch: int) -> Callable[[str], None]:
        """Publish the copy that *disposition* asks for; returns what says how the broker answers."""
        publisher = Mock(address_copy=Mock(return_value=("queue", {})))
        self.dispatcher.copies.begin(epoch, publisher)
        self.dispatcher.copies.store(disposition)
        answered: Callable[[str], None] = publisher.store.call_args.args[-1]
        return answered

    def stored(self, disposition: Disposition) -> None:
        """The copy is stored, and the broker has confirmed it."""
        self.publish(disposition, 1)("")
        self.dispatcher.copies.end()

    @property
    def counted(self) -> dict[str, int]:
        return dict(self.dispatcher.counters)

    def stop(self) -> bool:
        self.gate.open.set()
        self.decline.open.set()
        for thread in self.threads:
            thread.stop()
        joined = [thread.join(time.monotonic() + 10) for thread in self.threads]
        return all(joined)


def admit(
    dispatcher: Dispatcher, delivery: Delivery, protocol: AgentProtocol, kind: Kind = Kind.CALL
) -> Disposition | None:
    """What is done with one delivery at once; None if it is in an inbox, or held."""
    validated = dispatcher.validate(delivery, 1, protocol, kind)
    if isinstance(validated, Disposition):
        return validated
    dispositions = dispatcher.decide([], [validated])
    return dispositions[0] if dispositions else None


def attempt_of(address: str, params: Any, id: str, attempt: int) -> bytes:
    request = replace(envelope(address, params, id=id), attempt=attempt)
    return encode_envelope(request, sign_envelope(KEYRING, request))


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    assert agent.stop()


def answer(disposition: Disposition, body: bytes) -> Reply:
    """The verified reply to the request *body*."""
    assert disposition.reply is not None
    reply = decode_reply(disposition.reply, 10_000_000)
    KEYRING.verify_reply(reply, decode_envelope(body, 10_000_000).token)
    return reply


def value(disposition: Disposition, body: bytes) -> Any:
    reply = answer(disposition, body)
    assert reply.fault is None, reply.fault
    return decode_json(reply.message)


def fault(disposition: Disposition, body: bytes) -> tuple[str, str]:
    reply = answer(disposition, body)
    assert reply.fault is not None
    return reply.fault.type, reply.fault.text


class TestCalls:
    def test_a_call_is_run_and_its_reply_belongs_to_it(self, agent: Agent) -> None:
        body = signed("NODE-01.math.add", [1, 2])
        disposition = agent.settle(body)
        assert value(disposition, body) == 3
        assert [(pending.delivery.tag, pending.epoch, pending.reply_to) for pending in disposition.pending] == [
            (1, 1, REPLY_TO)
        ]
        assert agent.counted == {"executed.call": 1}
        assert agent.dispatcher.unfinished == 0

    def test_a_call_whose_cancellation_came_first_is_not_run(self, agent: Agent) -> None:
        """They come by different queues."""
        body, other = signed("NODE-01.test.gate", 1), signed("NODE-01.math.add", [1, 2])
        assert not agent.dispatcher.cancel(decode_envelope(body, 10_000_000).id)
        assert value(agent.settle(other), other) == 3
        disposition = agent.settle(body)
        assert disposition.reply is None and agent.gate.remaining == []
        assert agent.counted == {"executed.call": 1, "cancelled": 1, "cancelled.not-run": 1}
        assert agent.dispatcher.unfinished == 0

    def test_of_cancellations_without_their_calls_only_so_many_are_remembered(self, agent: Agent) -> None:
        body = signed("NODE-01.math.add", [1, 2])
        agent.dispatcher.cancel(decode_envelope(body, 10_000_000).id)
        for number in range(20_000):
            agent.dispatcher.cancel(f"another-{number}")
        assert value(agent.settle(body), body) == 3, "it is run, as if nothing had come"

    def test_which_calls_were_answered_can_be_asked(self, agent: Agent) -> None:
        """Also those that were not run, which the journal does not know."""
        done, running = signed("NODE-01.math.add", [1, 2]), signed("NODE-01.test.gate", 1)
        agent.settle(done)
        assert agent.deliver(running) is None
        ids = [decode_envelope(body, 10_000_000).id for body in (done, running)]
        agent.dispatcher.refused_calls.add("0123456789abcdef-7")
        asked = [*ids, "0123456789abcdef-7", "0123456789abcdef-8"]
        assert agent.dispatcher.answered(asked) == [ids[0], "0123456789abcdef-7"]

    def test_what_the_service_raises_is_the_callers_to_know(self, agent: Agent) -> None:
        body = signed("NODE-01.math.add", "not numbers")
        assert fault(agent.settle(body), body)[0] == "TypeError"
        assert agent.counted == {"failed": 1}

    def test_a_result_that_json_cannot_say_is_an_error_of_the_call_and_named(self, agent: Agent) -> None:
        body = signed("NODE-01.test.odd", "set")
        kind, text = fault(agent.settle(body), body)
        assert (kind, "set" in text) == ("EnvelopeError", True)

    def test_a_result_that_is_too_large_is_an_error_of_the_call(self, agent: Agent) -> None:
        body = signed("NODE-01.test.odd", "large")
        kind, text = fault(agent.settle(body), body)
        assert (kind, "max_envelope_bytes" in text) == ("EnvelopeError", True)

    def test_a_service_that_exits_harms_nobody_but_its_caller(self, agent: Agent) -> None:
        """SystemExit would end the service's thread silently, and every later call would wait for its deadline."""
        body = signed("NODE-01.test.odd", "exit")
        assert fault(agent.settle(body), body)[0] == "SystemExit"
        body = signed("NODE-01.test.odd", "twice")
        assert value(agent.settle(body), body) == "first"

    def test_the_first_answer_counts_and_none_at_all_is_none(self, agent: Agent) -> None:
        body = signed("NODE-01.test.odd", "twice")
        assert value(agent.settle(body), body) == "first"
        body = signed("NODE-01.test.odd", "nothing")
        assert value(agent.settle(body), body) is None

    def test_attributes_that_a_call_sets_do_not_leak_into_the_next(self, agent: Agent) -> None:
        for _ in range(3):
            body = signed("NODE-01.test.odd", "state")
            assert value(agent.settle(body), body) == 1

    def test_a_call_whose_deadline_ticket_in_the_inbox_is_not_run(self, agent: Agent) -> None:
        """P3: no call runs after its deadline."""
        blocker = signed("NODE-01.test.gate", "blocker")
        assert agent.deliver(blocker) is None
        assert agent.gate.entered.acquire(timeout=10)
        late = signed("NODE-01.test.gate", "late", ttl_s=0.05)
        assert agent.deliver(late) is None
        ends = time.monotonic() + 0.05
        wait_until(lambda: time.monotonic() > ends)
        agent.gate.open.set()
        assert value(agent.finished(), blocker) == "blocker"
        assert fault(agent.finished(), late)[0] == "expired"
        assert agent.counted == {"executed.call": 1, "expired": 1}
        assert len(agent.gate.remaining) == 1

    def test_a_service_knows_how_long_its_caller_waits(self, agent: Agent) -> None:
        agent.gate.open.set()
        agent.settle(signed("NODE-01.test.gate", ttl_s=20))
        remaining = agent.gate.remaining[0]
        assert remaining is not None
        assert 19 < remaining <= 20

    def test_replies_go_to_a_direct_reply_address_and_nowhere_else(self, agent: Agent) -> None:
        """Whoever has the secret must still not be able to make an agent write into any queue."""
        for reply_to in (None, "", "NODE-02.messages", "amq.rabbitmq.reply-to"):
            assert agent.deliver(signed("NODE-01.math.add", [1]), reply_to=reply_to) is None
            assert [pending.reply_to for pending in agent.finished().pending] == [""]


class TestRefusals:
    @pytest.mark.parametrize(
        ("reason", "how"),
        [
            ("stale", {"sent_s_ago": 40, "ttl_s": 10}),
            ("stale", {"sent_s_ago": -40}),
            ("bad-json", {"raw_params": b'{"a": }'}),
            ("bad-json", {"raw_params": b""}),
            ("bad-json", {"raw_params": b"\xff"}),
            ("too-deep", {"raw_params": b"[" * 5000 + b"]" * 5000}),
        ],
    )
    def test_a_bad_call_is_refused_with_its_reason_and_counted(
        self, agent: Agent, reason: str, how: dict[str, Any]
    ) -> None:
        body = signed("NODE-01.math.add", **how)
        kind, text = fault(agent.settle(body), body)
        assert (kind, text.partition(":")[0]) == ("refused", reason)
        assert agent.counted == {f"refused.{reason}": 1}

    def test_a_stranger_is_refused_and_gets_nothing_signed(self, agent: Agent) -> None:
        """It may have put another caller's id and token on its forgery, to have a refusal signed for that one."""
        body = signed("NODE-01.math.add", [1], secret="another secret")
        disposition = agent.settle(body)
        assert agent.counted == {"refused.signature": 1}
        assert disposition.reply is not None
        reply = decode_reply(disposition.reply, 10_000)
        assert reply.fault is not None
        assert (reply.fault.type, reply.fault.text.partition(":")[0]) == ("refused", "signature")
        with pytest.raises(EnvelopeError):
            KEYRING.verify_reply(reply, decode_envelope(body, 10_000).token)

    def test_a_call_to_another_node_is_refused(self, agent: Agent) -> None:
        """Not answered: signed, it would end a call that was copied here, and runs where it was sent to."""
        disposition = agent.settle(signed("NODE-02.math.add", [1]))
        assert (disposition.reply, agent.counted) == (None, {"refused.wrong-node": 1})

    def test_a_call_to_an_unknown_service_is_told_so(self, agent: Agent) -> None:
        body = signed("NODE-01.math.divide", [1])
        assert fault(agent.settle(body), body)[0] == "unknown-service"
        assert agent.counted == {"refused.unknown-service": 1}

    def test_a_message_service_cannot_be_called_and_an_rpc_service_gets_no_message(self, agent: Agent) -> None:
        body = signed("NODE-01.audit.note", "x")
        assert fault(agent.settle(body), body)[0] == "unknown-service"
        dead = agent.settle(signed("NODE-01.math.add", [1], kind=Kind.MESSAGE), Kind.MESSAGE)
        assert dead.copy is not None
        assert dead.copy.reason == "unknown-service"

    def test_bytes_that_are_no_envelope_get_no_answer(self, agent: Agent) -> None:
        disposition = agent.deliver(b"<event>garbage")
        assert disposition is not None
        assert (disposition.reply, disposition.copy, len(disposition.pending)) == (None, None, 1)
        assert agent.counted == {"refused.malformed": 1}

    def test_an_envelope_in_the_wrong_queue_is_refused(self, agent: Agent) -> None:
        """A call that was put into the messages queue would otherwise be handled without its deadline."""
        for kind, queue in ((Kind.CALL, Kind.MESSAGE), (Kind.MESSAGE, Kind.CALL), (Kind.CONTROL, Kind.CALL)):
            disposition = agent.deliver(signed("NODE-01.math.add", [1], kind=kind), queue)
            assert disposition is not None
            assert disposition.reply is None
        assert agent.counted == {"refused.wrong-queue": 3}

    @pytest.mark.parametrize(
        ("reason", "how"),
        [
            ("signature", {"secret": "another secret"}),
            ("stale", {"sent_s_ago": 90_000}),
            ("bad-json", {"raw_params": b"{"}),
            ("too-deep", {"raw_params": b"[" * 5000}),
        ],
    )
    def test_a_bad_message_is_dead_lettered_with_its_reason(
        self, agent: Agent, reason: str, how: dict[str, Any]
    ) -> None:
        """What a broker confirmed must not vanish, even if it is only our clock or our secret that is wrong."""
        disposition = agent.settle(signed("NODE-01.audit.note", kind=Kind.MESSAGE, **how), Kind.MESSAGE)
        assert disposition.copy is not None
        assert disposition.copy.reason == reason
        assert agent.counted == {f"refused.{reason}": 1}
        assert agent.note.noted == []

    def test_a_flood_of_refusals_is_counted_whole_and_logged_in_part(
        self, agent: Agent, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            for _ in range(1000):
                agent.deliver(b"garbage")
        assert agent.counted == {"refused.malformed": 1000}
        assert 1 <= len(caplog.records) <= 20


class TestMessages:
    def test_a_message_is_handled_and_then_acked(self, agent: Agent) -> None:
        disposition = agent.settle(signed("NODE-01.audit.note", {"what": "x"}, kind=Kind.MESSAGE), Kind.MESSAGE)
        assert agent.note.noted == [{"what": "x"}]
        assert (disposition.reply, disposition.copy) == (None, None)
        assert agent.counted == {"executed.message": 1}

    def test_a_message_whose_handler_raises_is_dead_lettered_with_the_exception(self, agent: Agent) -> None:
        disposition = agent.settle(signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE), Kind.MESSAGE)
        assert disposition.copy is not None
        assert (disposition.copy.reason, disposition.copy.detail) == ("ValueError", "boom it was")
        assert "raise ValueError" in disposition.copy.trace

    def test_a_failed_message_that_comes_again_before_its_copy_is_stored_waits_for_that(self, agent: Agent) -> None:
        """The connection was lost in between. It is not run again, and acked without a copy it would vanish."""
        body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
        first = agent.settle(body, Kind.MESSAGE)
        again = agent.deliver(body, Kind.MESSAGE)
        assert again is first
        assert [pending.delivery.tag for pending in first.pending] == [1, 2]
        assert agent.counted == {"failed": 1, "joined": 1}
        agent.stored(first)
        replayed = agent.settle(body, Kind.MESSAGE)
        assert replayed.copy is None
        assert agent.counted == {"failed": 1, "joined": 1, "dead": 1, "refused.replayed": 1}

    def test_a_message_that_waited_for_hours_is_still_handled(self, agent: Agent) -> None:
        """Its freshness limit is token_max_age, not its time to live."""
        disposition = agent.settle(
            signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, sent_s_ago=80_000, ttl_s=1), Kind.MESSAGE
        )
        assert disposition.copy is None
        assert agent.note.noted == [1]


class TestFurtherAttempts:
    def test_a_copy_that_comes_before_its_confirm_is_held_and_never_acked_with_its_original(self) -> None:
        """It comes over the consuming connection, its confirm over the other. Joined, both would be acked: lost."""
        agent = Agent(retry_schedule=(1.0,))
        body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
        try:
            first = agent.settle(body, Kind.MESSAGE)
            given = waiting_headers(body, -1, 1)
            copy = agent.dispatcher.validate(
                agent.delivery(body, Kind.MESSAGE, None, given), 1, agent.protocol, Kind.MESSAGE
            )
            assert isinstance(copy, Job)
            assert agent.decide(copy) == ([], [copy])
            assert [pending.delivery.tag for pending in first.pending] == [1]
            agent.stored(first)
            assert agent.decide(copy) == ([], [])
            assert agent.finished().copy is not None
        finally:
            agent.stop()

    def fail(self, agent: Agent, body: bytes) -> Disposition:
        disposition = agent.settle(body, Kind.MESSAGE)
        agent.stored(disposition)
        return disposition

    def test_a_message_that_fails_climbs_the_schedule_and_is_dead_lettered_behind_its_end(self) -> None:
        agent = Agent(retry_schedule=(1, 30))
        try:
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            ends = [self.fail(agent, body) for _ in range(3)]
            assert [end.copy for end in ends[:2]] == [later_attempt(1, 1), later_attempt(30, 2)]
            assert ends[2].copy is not None
            assert (ends[2].copy.reason, ends[2].copy.attempts) == ("ValueError", 3)
            assert agent.counted == {"failed": 3, "delayed": 2, "dead": 1}
        finally:
            assert agent.stop()

    def test_a_dead_letter_comes_again_only_with_a_pass_and_starts_from_the_first_attempt(self) -> None:
        """As it is, it would be a replay: its id is done with."""
        agent = Agent(retry_schedule=(1,))
        try:
            id = new_id()
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE, id=id)
            ends = [self.fail(agent, body) for _ in range(2)]
            assert [end.copy and end.copy.delay_s for end in ends] == [1, 0]
            assert agent.settle(body, Kind.MESSAGE).copy is None
            forged = {headers.REQUEUED: make_requeue_ticket(Keyring(["another secret"]), id, body, "", 1)}
            assert agent.settle(body, Kind.MESSAGE, forged).copy is None
            now_ms = int(time.time() * 1000)
            requeued = {headers.REQUEUED: make_requeue_ticket(KEYRING, id, body, "", now_ms)}
            again = agent.settle(body, Kind.MESSAGE, requeued)
            assert again.copy == later_attempt(1, 1)
        finally:
            assert agent.stop()

    def test_a_requeue_ticket_makes_a_dead_letter_fresh_that_is_too_old_by_itself(self, agent: Agent) -> None:
        id = new_id()
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, id=id, sent_s_ago=200_000)
        old = agent.settle(body, Kind.MESSAGE)
        assert old.copy is not None
        agent.stored(old)
        requeued = {headers.REQUEUED: make_requeue_ticket(KEYRING, id, body, "", int(time.time() * 1000))}
        assert agent.settle(body, Kind.MESSAGE, requeued).copy is None
        assert agent.note.noted == [1]

    def test_a_message_that_was_refused_is_not_run_when_it_is_replayed_at_a_better_moment(self, agent: Agent) -> None:
        """From the future, while a clock was wrong; it stands among the dead letters, and stays there."""
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, sent_s_ago=-40)
        refused = agent.settle(body, Kind.MESSAGE)
        assert refused.copy is not None
        agent.stored(refused)
        better_moment = time.time() + 40
        with patch("time.time", lambda: better_moment):
            assert agent.settle(body, Kind.MESSAGE).copy is None
        assert agent.note.noted == []

    def test_a_refused_message_whose_dead_letter_nobody_confirmed_is_dead_lettered_again(self, agent: Agent) -> None:
        """Run, it would have had its effect and stand among the dead letters."""
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, sent_s_ago=-40)
        assert agent.settle(body, Kind.MESSAGE).copy is not None
        agent.dispatcher.copies.give_up(2)
        better_moment = time.time() + 40
        with patch("time.time", lambda: better_moment):
            again = agent.deliver(body, Kind.MESSAGE)
        assert again is not None
        assert again.copy is not None
        assert again.copy.reason == "refused"
        assert agent.note.noted == []

    def test_a_copy_that_nobody_confirmed_is_given_up_for_whoever_has_the_original_now(self) -> None:
        """Another worker of the node holds it, for as long as the id is ours."""
        agent = Agent(retry_schedule=(1,))
        try:
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            unconfirmed = agent.settle(body, Kind.MESSAGE)
            agent.publish(unconfirmed, 1)
            agent.dispatcher.copies.give_up(1)
            assert agent.deliver(body, Kind.MESSAGE) is unconfirmed
            agent.dispatcher.copies.give_up(2)
            assert agent.settle(body, Kind.MESSAGE).copy == dead_letter("ValueError", "boom it was", ANY, 2)
        finally:
            assert agent.stop()

    def test_a_message_that_should_have_been_dead_lettered_is_not_run_once_more(self) -> None:
        agent = Agent(retry_schedule=(1,))
        try:
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            self.fail(agent, body)
            agent.settle(body, Kind.MESSAGE)
            agent.dispatcher.copies.give_up(2)
            again = agent.deliver(body, Kind.MESSAGE)
            assert again is not None
            assert again.copy == dead_letter("attempts", "it failed 2 times", "", 2)
            assert agent.counted["failed"] == 2
        finally:
            assert agent.stop()

    def test_attempts_on_another_machine_of_the_node_count(self) -> None:
        agent = Agent(retry_schedule=(1, 5, 30))
        try:
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            end = agent.settle(body, Kind.MESSAGE, waiting_headers(body, -1, 2))
            assert end.copy == later_attempt(30, 3)
        finally:
            assert agent.stop()

    @pytest.mark.parametrize("attempts", [2, 2**63 - 1, -1, "9", None])
    def test_attempts_that_no_worker_signed_count_as_none(self, attempts: Any) -> None:
        """A forged count must neither skip an attempt nor disturb the requests beside it."""
        agent = Agent(retry_schedule=(1, 5, 30))
        try:
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            forged = {"x-servicebus-attempts": attempts, headers.WAIT: f"1 {attempts} 1 e8e26184:{'0' * 64}"}
            assert agent.settle(body, Kind.MESSAGE, forged).copy == later_attempt(1, 1)
            body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
            strangers = waiting_headers(body, -1, 2, secret="another secret")
            assert agent.settle(body, Kind.MESSAGE, strangers).copy == later_attempt(1, 1)
        finally:
            assert agent.stop()

    @pytest.mark.parametrize("says", ["envelope", "worker", "both"])
    def test_a_message_that_is_not_due_is_postponed_wherever_it_comes_from(self, agent: Agent, says: str) -> None:
        """A copy of its bytes that was put past the delay queues, with or without its headers, does not run early."""
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, due_s=500 if says != "worker" else 0)
        marks = waiting_headers(body, 1000, 1) if says != "envelope" else {"x-servicebus-due": 1}
        disposition = agent.deliver_with(body, marks)
        assert disposition is not None and disposition.copy is not None
        delay_s, attempts = (500, 0) if says == "envelope" else (1000, 1)
        assert disposition.copy.delay_s == pytest.approx(delay_s, abs=200)
        assert disposition.copy.attempts == attempts
        assert agent.note.noted == []

    def test_a_message_that_is_due_is_run(self, agent: Agent) -> None:
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, due_s=-1)
        assert agent.settle(body, Kind.MESSAGE).copy is None
        assert agent.note.noted == [1]

    def test_a_pass_vouches_for_bytes_whose_own_secret_is_retired_and_for_no_others(self, agent: Agent) -> None:
        id = new_id()
        retired = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, id=id, secret="retired")
        ticket = {headers.REQUEUED: make_requeue_ticket(KEYRING, id, retired, "", int(time.time() * 1000))}
        assert agent.settle(retired, Kind.MESSAGE).copy is not None, "by itself it is refused"
        other = signed("NODE-01.audit.note", 2, kind=Kind.MESSAGE, id=id, secret="retired")
        assert agent.settle(other, Kind.MESSAGE, ticket).copy is not None
        assert agent.settle(retired, Kind.MESSAGE, ticket).copy is None
        assert agent.settle(retired, Kind.MESSAGE, ticket).copy is None, "a replay of bytes and pass"
        assert agent.note.noted == [1]

    def test_a_pass_that_the_journal_may_have_forgotten_is_too_old(self, agent: Agent) -> None:
        id = new_id()
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE, id=id, sent_s_ago=200_000)
        made_ms = int((time.time() - CONFIG.token_max_age - CONFIG.clock_skew - 5) * 1000)
        ticket = {headers.REQUEUED: make_requeue_ticket(KEYRING, id, body, "", made_ms)}
        refused = agent.settle(body, Kind.MESSAGE, ticket)
        assert refused.copy is not None
        assert (refused.copy.reason, refused.copy.is_known_new) == ("stale", False)

    def test_a_message_that_was_running_when_three_workers_died_is_dead_lettered(self, agent: Agent) -> None:
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE)
        with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.NEW, None, 4, 3)]):
            disposition = agent.deliver(body, Kind.MESSAGE)
        assert disposition is not None
        assert disposition.copy is not None
        assert (disposition.copy.reason, disposition.copy.attempts) == ("killed-worker", 3)
        assert agent.note.noted == []

    def test_an_attempt_that_ended_with_its_worker_is_no_failure_of_the_message(self) -> None:
        agent = Agent(retry_schedule=(1,))
        try:
            body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE)
            with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.NEW, None, 3, 1)]):
                assert agent.deliver(body, Kind.MESSAGE) is None
            assert agent.finished().copy is None
            assert agent.note.noted == [1]
        finally:
            assert agent.stop()

    def test_what_cannot_be_begun_is_no_second_dead_letter_beside_the_one_on_its_way(self, agent: Agent) -> None:
        body = signed("NODE-01.audit.note", "boom", kind=Kind.MESSAGE)
        on_its_way = agent.settle(body, Kind.MESSAGE)
        assert on_its_way.copy is not None
        received = agent.receive(body, Kind.MESSAGE)
        assert isinstance(received, Job)
        given_up = agent.dispatcher.give_up(received, OverflowError())
        assert (given_up.pending, given_up.copy) == ([], None)

    def test_a_call_whose_worker_died_with_it_is_interrupted(self, agent: Agent) -> None:
        body = signed("NODE-01.math.add", [1, 2])
        with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.INTERRUPTED, None, 1, 1)]):
            disposition = agent.deliver(body)
        assert disposition is not None
        assert fault(disposition, body)[0] == "interrupted"

    def test_a_call_that_is_delivered_again_is_asked_for_again_and_then_run(self, agent: Agent) -> None:
        """Its caller may know of this attempt that it was not run; only who still waits sends another."""
        id = new_id()
        first, second = (attempt_of("NODE-01.math.add", [1, 2], id, number) for number in (1, 2))
        disposition = agent.deliver_again(first)
        assert disposition is not None
        assert fault(disposition, first)[0] == "busy"
        assert value(agent.settle(second), second) == 3
        answered = agent.deliver_again(first)
        assert answered is not None and answered.reply is not None, "from the journal"
        assert agent.counted == {"redelivered": 1, "executed.call": 1, "refused.replayed": 1}

    def test_a_call_to_an_idempotent_service_that_its_worker_died_of_is_run_again(self, agent: Agent) -> None:
        """It has run, so nothing may say that it has not."""
        body = signed("NODE-01.math.add", [1, 2])
        with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.NEW, None, 2, 1)]):
            assert agent.deliver_again(body) is None
        assert value(agent.finished(), body) == 3

    def test_what_the_journal_had_to_forget_is_refused_and_not_run(self, agent: Agent) -> None:
        """It may have been run: a call is told so, and a message goes to the dead letters."""
        call, message = signed("NODE-01.math.add", [1, 2]), signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE)
        with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.FORGOTTEN, None, 1)]):
            answered, dead = agent.deliver(call), agent.deliver(message, Kind.MESSAGE)
        assert answered is not None
        assert dead is not None
        kind, text = fault(answered, call)[:2]
        assert (kind, text.partition(":")[0]) == ("refused", "forgotten")
        assert dead.copy is not None
        assert (dead.copy.reason, agent.note.noted) == ("forgotten", [])
        assert agent.counted["refused.forgotten"] == 2

    def test_the_journal_is_told_when_a_request_was_signed(self, agent: Agent) -> None:
        journal = agent.dispatcher._journal
        with patch.object(journal, "update", wraps=journal.update) as update:
            assert agent.deliver(signed("NODE-01.math.add", [1, 2], sent_s_ago=3)) is None
        (_ends, (start,), _now) = update.call_args.args
        assert 2.5 < time.time() - start.sent_at < 60

    def test_what_another_worker_runs_is_held_until_its_caller_gives_up(self, agent: Agent) -> None:
        body = signed("NODE-01.math.add", [1, 2], ttl_s=0.1)
        received = agent.receive(body)
        assert isinstance(received, Job)
        with patch.object(MemoryJournal, "begin_many", lambda *_: [Lookup(IdStatus.RUNNING)]):
            assert agent.decide(received) == ([], [received])
            wait_until(lambda: time.monotonic() > (received.deadline or 0))
            ((disposition,), _) = agent.decide(received)
        assert fault(disposition, body)[0] == "expired"

    def test_what_is_decided_once_more_while_it_runs_does_not_join_itself(self, agent: Agent) -> None:
        received = agent.receive(signed("NODE-01.test.gate", 7))
        assert isinstance(received, Job)
        assert agent.decide(received) == agent.decide(received) == ([], [])
        assert received.pending() == [received] and "joined" not in agent.counted
        agent.gate.open.set()
        assert agent.finished().pending == [received]

    def test_a_journal_that_cannot_be_told_changes_nothing(self, agent: Agent) -> None:
        """What is finished is offered again until it is written; only then is anybody answered."""
        body = signed("NODE-01.math.add", [1, 2])
        assert agent.deliver(body) is None
        wait_until(lambda: agent.outcomes)
        with (
            patch.object(MemoryJournal, "finish_many", side_effect=JournalUnavailable("here", "locked")),
            pytest.raises(JournalUnavailable),
        ):
            agent.dispatcher.decide(agent.outcomes, [])
        assert agent.counted == {}
        assert value(agent.finished(), body) == 3

    def test_a_release_that_the_journal_could_not_be_told_is_told_later(self) -> None:
        agent = Agent(inbox_size=0)
        try:
            body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE)
            with patch.object(MemoryJournal, "release_many", side_effect=JournalUnavailable("here", "locked")):
                agent.deliver(body, Kind.MESSAGE)
                assert agent.deliver(body, Kind.MESSAGE) is None
            agent.dispatcher.tick()
            disposition = agent.deliver(body, Kind.MESSAGE)
            assert disposition is not None
            assert disposition.copy is not None and disposition.copy.is_deferred
        finally:
            assert agent.stop()


class TestReplays:
    def test_a_replayed_call_is_not_run_again_and_gets_the_same_answer(self, agent: Agent) -> None:
        agent.gate.open.set()
        body = signed("NODE-01.test.gate", "once")
        first = agent.settle(body)
        second = agent.deliver(body)
        assert second is not None
        assert second.reply == first.reply
        assert len(agent.gate.remaining) == 1
        assert agent.counted == {"executed.call": 1, "refused.replayed": 1}

    def test_a_copy_that_comes_while_the_first_runs_waits_for_its_end(self, agent: Agent) -> None:
        """Redelivered after a reconnect: one run, and both deliveries are answered and acked by it."""
        body = signed("NODE-01.test.gate", "once")
        assert agent.deliver(body) is None
        assert agent.deliver(body) is None
        agent.gate.open.set()
        disposition = agent.finished()
        assert [pending.delivery.tag for pending in disposition.pending] == [1, 2]
        assert len(agent.gate.remaining) == 1
        assert agent.counted == {"joined": 1, "executed.call": 1}

    def test_a_replayed_message_is_acked_without_being_handled(self, agent: Agent) -> None:
        body = signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE)
        agent.settle(body, Kind.MESSAGE)
        again = agent.deliver(body, Kind.MESSAGE)
        assert again is not None
        assert (again.copy, len(again.pending)) == (None, 1)
        assert agent.note.noted == [1]
        assert agent.counted["refused.replayed"] == 1

    def test_one_id_with_other_content_gets_no_answer_that_its_sender_could_take_for_its_own(
        self, agent: Agent
    ) -> None:
        """The stored reply is signed over the first request's token, so it belongs to that one only."""
        id = new_id()
        agent.settle(signed("NODE-01.math.add", [1, 2], id=id))
        other = signed("NODE-01.math.add", [5, 5], id=id)
        disposition = agent.deliver(other)
        assert disposition is not None
        with pytest.raises(EnvelopeError):
            answer(disposition, other)

    @pytest.mark.parametrize(("set_by_s", "is_late"), [(0.0, True), (-1.0, True), (1.0, True), (-1.0, False)])
    def test_our_clock_is_set_while_a_network_holds_a_call_up(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch, set_by_s: float, is_late: bool
    ) -> None:
        true_time = time.time
        body = signed("NODE-01.math.add", [1, 2], sent_s_ago=3.0, ttl_s=2.5 if is_late else 30.0)
        monkeypatch.setattr("servicebus.protocol.v2.time.time", lambda: true_time() + set_by_s)
        received = agent.receive(body)
        assert isinstance(received, Disposition) == is_late
        if isinstance(received, Disposition):
            assert fault(received, body)[0] == "expired"

    def test_a_call_from_the_future_is_not_run_and_its_sender_is_told_the_time(self, agent: Agent) -> None:
        """How long it was on its way cannot be known: to guess would let it, and those after it, run late."""
        body = signed("NODE-01.math.add", [1, 2], sent_s_ago=-1.5)
        early = agent.receive(body)
        assert isinstance(early, Disposition)
        told = answer(early, body).fault
        assert told is not None
        assert told.type == "expired"
        assert told.clock_ms is not None
        assert told.clock_ms == pytest.approx(time.time() * 1000, abs=60_000)
        assert told.clock_ms < decode_envelope(body, 10_000).sent_ms

    @pytest.mark.parametrize("held_s", [0.0, 1.0])
    def test_nothing_is_learnt_of_a_sender_whose_clock_was_ahead(self, agent: Agent, held_s: float) -> None:
        """It has been set right since."""
        agent.receive(signed("NODE-01.math.add", [1, 2], id="0123456789abcdef-1", sent_s_ago=-1.5))
        body = signed("NODE-01.math.add", [1, 2], id="0123456789abcdef-2", sent_s_ago=held_s, ttl_s=1000.0)
        received = agent.receive(body)
        assert isinstance(received, Job)
        remaining_s = received.incoming.remaining_s
        assert remaining_s is not None
        assert 1000.0 - held_s - 1.0 < remaining_s <= 1000.0 - held_s

    def test_a_busy_or_expired_call_may_come_again_under_its_id(self, agent: Agent) -> None:
        full = Agent(inbox_size=1)
        try:
            assert full.deliver(signed("NODE-01.test.gate", 1)) is None
            body = signed("NODE-01.test.gate", 2)
            busy = full.deliver(body)
            assert busy is not None
            assert fault(busy, body)[0] == "busy"
            full.gate.open.set()
            full.finished()
            assert value(full.settle(body), body) == 2
            assert full.counted == {"busy": 1, "executed.call": 2}
        finally:
            assert full.stop()


class TestFullInboxes:
    def test_a_full_inbox_answers_calls_busy_with_a_hint_when_to_come_back(self, agent: Agent) -> None:
        for number in range(4):
            assert agent.deliver(signed("NODE-01.test.gate", number)) is None
        body = signed("NODE-01.test.gate", 4)
        disposition = agent.deliver(body)
        assert disposition is not None
        reply = answer(disposition, body)
        assert reply.fault is not None
        assert reply.fault.type == "busy"
        assert reply.fault.retry_after_ms
        other = signed("NODE-01.math.add", [1, 2])
        assert value(agent.settle(other), other) == 3

    def test_a_full_inbox_defers_messages(self) -> None:
        agent = Agent(inbox_size=0)
        try:
            disposition = agent.deliver(signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE), Kind.MESSAGE)
            assert disposition is not None
            assert disposition.copy == later_attempt(1.0, 0, is_deferred=True)
            assert agent.counted == {"busy": 1}
        finally:
            assert agent.stop()

    def test_a_full_inbox_defers_calls_whose_sender_does_not_know_busy(self) -> None:
        agent = Agent(inbox_size=0)
        try:
            received = agent.receive(signed("NODE-01.math.add", [1, 2]))
            assert isinstance(received, Job)
            received.incoming = replace(received.incoming, is_patient=True)
            (disposition,) = agent.decide(received)[0]
            assert (disposition.copy, disposition.reply) == (later_attempt(1.0, 0, is_deferred=True), None)
            assert agent.counted == {"busy": 0}
        finally:
            assert agent.stop()


class TestStopping:
    def test_new_calls_are_told_that_the_agent_stops_and_accepted_ones_are_answered(self, agent: Agent) -> None:
        accepted = signed("NODE-01.test.gate", "accepted")
        assert agent.deliver(accepted) is None
        agent.dispatcher.is_stopping = True
        late = signed("NODE-01.math.add", [1])
        disposition = agent.deliver(late)
        assert disposition is not None
        assert fault(disposition, late)[0] == "stopping"
        agent.gate.open.set()
        assert value(agent.finished(), accepted) == "accepted"

    def test_a_copy_of_an_accepted_call_still_gets_its_answer_while_stopping(self, agent: Agent) -> None:
        """The Sender lost its connection and asks again: "stopping" would make it run the call elsewhere, twice."""
        body = signed("NODE-01.test.gate", "accepted")
        assert agent.deliver(body) is None
        agent.dispatcher.is_stopping = True
        assert agent.deliver(body) is None
        agent.gate.open.set()
        assert len(agent.finished().pending) == 2
        again = agent.deliver(body)
        assert again is not None
        assert value(again, body) == "accepted"

    def test_messages_that_the_broker_had_sent_already_are_handled(self, agent: Agent) -> None:
        agent.dispatcher.is_stopping = True
        agent.settle(signed("NODE-01.audit.note", 1, kind=Kind.MESSAGE), Kind.MESSAGE)
        assert agent.note.noted == [1]


class Hooked(RpcService):
    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def setup(self) -> None:
        self.log.append(("setup", threading.current_thread().name))

    def handle(self, request: Request) -> Any:
        return threading.current_thread().name

    def teardown(self) -> None:
        self.log.append(("teardown", threading.current_thread().name))


class TestServiceThreads:
    def make(self, service: Any, threads: int = 1, inbox_size: int = 100) -> tuple[ServiceThread, list[Outcome]]:
        outcomes: list[Outcome] = []
        registered = Service(Kind.CALL, "test", "it", service, threads)
        return ServiceThread(registered, inbox_size, outcomes.append, lambda: None, with_traces=False), outcomes

    def test_setup_and_teardown_run_in_the_services_own_thread(self) -> None:
        hooked = Hooked()
        thread, _ = self.make(hooked)
        thread.start()
        thread.stop()
        assert thread.join(time.monotonic() + 10)
        assert hooked.log == [("setup", "svc-test.it-0"), ("teardown", "svc-test.it-0")]

    def test_a_call_to_a_service_whose_setup_fails_is_answered_busy_with_the_reason(self, agent: Agent) -> None:
        class Broken(RpcService):
            def setup(self) -> None:
                raise OSError("no database today")

        thread, _ = self.make(Broken())
        thread.start()
        wait_until(lambda: thread.problem)
        body = signed("NODE-01.test.it")
        dispatcher = Dispatcher(EventLoop("test"), {(Kind.CALL, "test.it"): thread}, MemoryJournal(), "mq-a")
        channel: Any = None
        busy = admit(dispatcher, Delivery(channel, 1, body, reply_to=REPLY_TO), agent.protocol)
        assert busy is not None
        assert fault(busy, body)[0] == "busy"
        assert "setup() of service test.it failed: OSError: no database today" in fault(busy, body)[1]
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    def test_several_threads_run_several_calls_at_once(self, agent: Agent) -> None:
        gate = Gate()
        thread, outcomes = self.make(gate, threads=3)
        dispatcher = Dispatcher(EventLoop("test"), {(Kind.CALL, "test.it"): thread}, MemoryJournal(), "mq-a")
        thread.start()
        channel: Any = None
        for tag in range(6):
            delivery = Delivery(channel, tag, signed("NODE-01.test.it"), reply_to=REPLY_TO)
            assert admit(dispatcher, delivery, agent.protocol) is None
        for _ in range(3):
            assert gate.entered.acquire(timeout=10)
        assert not gate.entered.acquire(blocking=False)
        assert thread.backlog == 6
        gate.open.set()
        wait_until(lambda: len(outcomes) == 6)
        assert thread.backlog == 0
        thread.stop()
        assert thread.join(time.monotonic() + 10)

    def test_a_stop_lets_the_inbox_be_finished_first(self, agent: Agent) -> None:
        thread, outcomes = self.make(Add())
        dispatcher = Dispatcher(EventLoop("test"), {(Kind.CALL, "test.it"): thread}, MemoryJournal(), "mq-a")
        channel: Any = None
        for tag in range(50):
            delivery = Delivery(channel, tag, signed("NODE-01.test.it", [tag]), reply_to=REPLY_TO)
            assert admit(dispatcher, delivery, agent.protocol) is None
        thread.stop()
        thread.start()
        assert thread.join(time.monotonic() + 10)
        assert len(outcomes) == 50

    def test_a_join_with_a_stuck_service_ends_at_its_deadline(self) -> None:
        gate = Gate()
        thread, _ = self.make(gate)
        thread.start()
        agent = Agent()
        dispatcher = Dispatcher(EventLoop("test"), {(Kind.CALL, "test.it"): thread}, MemoryJournal(), "mq-a")
        channel: Any = None
        delivery = Delivery(channel, 1, signed("NODE-01.test.it"), reply_to=REPLY_TO)
        assert admit(dispatcher, delivery, agent.protocol) is None
        thread.stop()
        assert not thread.join(time.monotonic() + 0.05)
        gate.open.set()
        assert thread.join(time.monotonic() + 10)
        assert agent.stop()


def test_the_envelope_helper_makes_what_the_codec_reads() -> None:
    request = envelope("NODE-01.math.add", [1, 2], id="0123456789abcdef-7")
    read = decode_envelope(signed("NODE-01.math.add", [1, 2], id="0123456789abcdef-7"), 10_000)
    assert (read.id, read.node, read.params) == (request.id, request.node, request.params)


def test_a_refusal_is_sent_to_each_attempt_that_joined(agent: Agent) -> None:
    """Its Sender believes it of the attempt that travels only, which may not be the one that was begun."""
    first = envelope("NODE-01.test.declines", id=new_id())
    calls = [replace(first, attempt=number) for number in (1, 2, 3)]
    bodies = [encode_envelope(each, sign_envelope(KEYRING, each)) for each in calls]
    for body in bodies:
        assert agent.deliver(body) is None
    agent.decline.open.set()
    wait_until(lambda: agent.outcomes)
    dispositions = agent.dispatcher.decide([agent.outcomes.pop()], [])
    assert [len(each.pending) for each in dispositions] == [1, 1, 1]
    for number, (disposition, body) in enumerate(zip(dispositions, bodies, strict=True), 1):
        assert fault(disposition, body) == ("busy", "not now")
        assert answer(disposition, body).attempt == number
