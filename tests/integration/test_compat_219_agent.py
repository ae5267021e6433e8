"""Senders of the real py-servicebus 2.19 against our agents (rows 1 to 3 of the interoperability matrix)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from agents import Agent
from envelopes import SECRET
from old219 import OldAgent, OldSender
from old_services import VALUES
from probe import Probe
from waiting import wait_until

from servicebus.compat.envelope import OldEvent, encode_event
from servicebus.compat.tokens import DailyTokens
from servicebus.testing import Broker

pytestmark = [pytest.mark.compat, pytest.mark.brokers(count=1)]

UNACKNOWLEDGED = (
    '{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"NODE-01">>)), '
    "[{messages_unacknowledged, Count}] = rabbit_amqqueue:info(Queue, [messages_unacknowledged]), Count."
)
"""By rabbitmqctl it takes half a minute on a busy machine."""

CALL_S = 60
"""What a call may take before it ends as timed out, as the 300 s of 2.19's default."""


@pytest.fixture
def agent(brokers: list[Broker], new_agent: Callable[..., Agent]) -> Agent:
    return new_agent(brokers[0])


@pytest.fixture
def sender(agent: Agent, brokers: list[Broker], old_sender: Callable[..., OldSender]) -> OldSender:
    return old_sender(brokers[0])


@pytest.fixture
def probe(brokers: list[Broker], make_probe: Callable[..., Probe]) -> Probe:
    return make_probe(brokers[0])


def token() -> str:
    return DailyTokens([SECRET]).make(time.time())


def wait_for_old(probe: Probe, agent: OldAgent) -> None:
    wait_until(lambda: probe.consumers(agent.node), 15, agent.log)


def test_every_kind_of_result_reaches_an_old_caller_as_from_an_old_agent(
    sender: OldSender, brokers: list[Broker], old_agent: Callable[..., OldAgent], probe: Probe
) -> None:
    """Both agents run the same service; what the old Sender gets of them must be equal character by character."""
    reference = old_agent(brokers[0], node_name="OLD")
    wait_for_old(probe, reference)
    for name in VALUES:
        ours = sender.call("NODE-01.test.value", name, CALL_S)
        theirs = sender.call("OLD.test.value", name, CALL_S)
        assert ours[1] == theirs[1], name
        assert isinstance(ours[1], str)


def test_a_service_and_its_caller_see_what_they_saw_with_2_19(sender: OldSender) -> None:
    """But for the one that never answers: 2.19 lets its caller wait for the whole timeout."""
    assert sender.call("NODE-01.math.add", [1, 2], CALL_S) == ["1", "3"]
    assert sender.call("NODE-01.test.fields", None, CALL_S) == ["2", "2 test fields 1"]
    assert sender.call("NODE-01.test.twice", None, CALL_S) == ["3", "first"]
    assert sender.call("NODE-01.test.silent", None, CALL_S) == ["4", "None"]


def test_the_end_of_cdata_in_a_result_reaches_an_old_caller(agent: Agent, probe: Probe, sender: OldSender) -> None:
    """An old Sender writes it so that it is no XML; the agent reads that, and writes two sections, which 2.19 reads."""
    escaped = OldEvent("1", token(), "test", "echo", b'"a]]\\u003eb"')
    reply = probe.ask("NODE-01", encode_event(escaped))
    assert reply is not None
    assert b"a]]]]><![CDATA[>b" in reply
    assert sender.call("NODE-01.test.echo", "a]]>b", CALL_S)[1] == "a]]>b"


def test_messages_and_pings_arrive_over_both_kinds_of_routing(
    agent: Agent, brokers: list[Broker], old_sender: Callable[..., OldSender]
) -> None:
    senders = [old_sender(brokers[0], smart_route=smart, hosts=[brokers[0].host] * 2) for smart in (True, False)]
    for sender in senders:
        assert sender.ping("NODE-01") is True
        assert sender.ping_all("NODE-01") == [2, 2]
        sender.send("NODE-01.audit.record", "one")
        assert sender.call("NODE-01.math.add", ["4", 5], CALL_S)[1] == "9"
    wait_until(lambda: agent.noted("recorded") == ["one"] * 2, what=lambda: str(agent.noted("recorded")))


def test_failures_are_answered_at_once(
    sender: OldSender, brokers: list[Broker], old_sender: Callable[..., OldSender]
) -> None:
    """2.19 answers the first two alike, and leaves the caller of a service that raised alone for 300 s."""
    stranger = old_sender(brokers[0], secret_token="another")
    sender.ping("NODE-01")
    stranger.ping("NODE-01")
    assert sender.call("NODE-01.test.nobody", None, CALL_S)[1] == "Cannot Find RPC Service: test.nobody"
    assert sender.call("NODE-01.audit.record", None, CALL_S)[1] == "Cannot Find RPC Service: audit.record"
    assert stranger.call("NODE-01.math.add", [1, 2], CALL_S)[1] == "Token not valid!"
    assert sender.call("NODE-01.test.raises", 7, CALL_S)[1] == "Service Error: ValueError: no good: 7"


def test_errors_that_2_19_does_not_tell_can_be_left_untold(
    brokers: list[Broker], new_agent: Callable[..., Agent], old_sender: Callable[..., OldSender]
) -> None:
    """For old callers who would take the text of an error for a result; and others may prefer JSON."""
    new_agent(brokers[0], compat_in_band_errors=False, compat_reply="json")
    sender = old_sender(brokers[0])
    with pytest.raises(Exception, match="Timeout"):
        sender.call("NODE-01.test.raises", 7, 1)
    assert sender.call("NODE-01.test.nobody", None, CALL_S)[1] == "Cannot Find RPC Service: test.nobody"
    assert sender.call("NODE-01.test.echo", {"a": [1, None]}, CALL_S)[1] == '{"a":[1,null]}'


def test_pings_are_answered_and_calls_wait_while_a_service_is_full(
    brokers: list[Broker], new_agent: Callable[..., Agent], old_sender: Callable[..., OldSender], probe: Probe
) -> None:
    """A full queue makes a node of 2.19 deaf. Told "busy", an old caller would take it for its result."""
    agent = new_agent(brokers[0], queue_len=1)
    senders = [old_sender(brokers[0], smart_route=False) for _ in range(4)]
    for sender in senders:
        assert sender.ping("NODE-01") is True
    for number, sender in enumerate(senders[:3]):
        sender.process.stdin.write(b'["call", ["NODE-01.test.gated", %d, 60]]\n' % number)  # type: ignore[union-attr]
    wait_until(lambda: agent.noted("started"))
    assert senders[3].ping("NODE-01") is True
    assert senders[3].call("NODE-01.math.add", [1, 2], CALL_S)[1] == "3"
    assert len(agent.noted("started")) == 1, "it did not wait for the service that is full"
    agent.open_gate()
    answers = sorted(sender.process.stdout.readline() for sender in senders[:3])  # type: ignore[union-attr]
    assert answers == [b'{"value": ["1", "%d"]}\n' % number for number in range(3)]


def test_more_calls_than_may_wait_are_told_so_at_once(
    brokers: list[Broker], new_agent: Callable[..., Agent], old_sender: Callable[..., OldSender]
) -> None:
    """The subscription holds back as many as ``prefetch``, here one besides the one that runs."""
    agent = new_agent(brokers[0], prefetch=1)
    senders = [old_sender(brokers[0], smart_route=False) for _ in range(3)]
    for sender in senders:
        assert sender.ping("NODE-01") is True
    for number, sender in enumerate(senders[:2]):
        sender.process.stdin.write(b'["call", ["NODE-01.test.gated", %d, 100]]\n' % number)  # type: ignore[union-attr]
    # One runs, and one is held: both are unacknowledged.
    wait_until(lambda: brokers[0].evaluate(UNACKNOWLEDGED) == "2", 60)
    answer = senders[2].call("NODE-01.test.gated", 2, CALL_S)[1]
    assert answer == "Service Error: busy: the inbox of test.gated is full"
    (agent.notes / "gate").touch()
    for sender in senders[:2]:
        assert b'"value"' in sender.process.stdout.readline()  # type: ignore[union-attr]


def test_messages_are_deferred_while_their_service_is_full_and_are_all_handled(
    brokers: list[Broker], new_agent: Callable[..., Agent], probe: Probe
) -> None:
    """They wait in the node's own queue of messages, so they no longer stand in front of calls and pings."""
    agent = new_agent(brokers[0], queue_len=1)
    for number in range(20):
        probe.publish("NODE-01", encode_event(OldEvent(str(number), token(), "audit", "record", b"%d" % number)))
    wait_until(lambda: len(agent.noted("recorded")) >= 20, 20, lambda: f"{agent.noted('recorded')}\n{agent.log()}")
    assert sorted(map(int, agent.noted("recorded"))) == list(range(20))


def test_a_message_that_cannot_be_handled_stands_in_the_dead_letters(agent: Agent, probe: Probe) -> None:
    """2.19 loses all of these."""
    good = OldEvent("1", token(), "audit", "nobody", b"1")
    for body in (b"garbage", encode_event(good), encode_event(OldEvent("2", "0" * 40, "audit", "record", b"1"))):
        probe.publish("NODE-01", body)
    wait_until(lambda: probe.depth("NODE-01.dead") == 3, what=agent.log)
    reasons = sorted(str(headers["x-servicebus-reason"]) for _, headers in probe.take_all("NODE-01.dead"))
    assert reasons == ["malformed", "signature", "unknown-service"]
    assert agent.noted("recorded") == []


def test_an_agent_writes_to_no_queue_but_the_senders_own(agent: Agent, probe: Probe) -> None:
    """An agent of 2.19 publishes to whatever queue the request names: a stranger's lever on every other node."""
    probe.declare("victim")
    call = encode_event(OldEvent("1", token(), "test", "sleep", b'[0, "x"]'))
    for body in (call, b"PING", b"garbage"):
        probe.publish("NODE-01", body, reply_to="victim", correlation_id="c")
    wait_until(lambda: agent.counters().get("refused.malformed") == 2, what=lambda: str(agent.counters()))
    assert probe.depth("victim") == 0
    assert agent.noted("started") == [], "a call whose answer goes astray is not executed either"


def test_calls_that_arrive_while_the_agent_stops_are_left_to_the_next(
    agent: Agent, sender: OldSender, probe: Probe, new_agent: Callable[..., Agent], brokers: list[Broker]
) -> None:
    """An old caller would take "stopping" for its result; the queue is durable, so the call can wait."""
    sender.ping("NODE-01")
    assert agent.stop() == 0
    sender.process.stdin.write(b'["call", ["NODE-01.math.add", [1, 2], 20]]\n')  # type: ignore[union-attr]
    wait_until(lambda: probe.depth("NODE-01"))
    new_agent(brokers[0])
    assert sender.process.stdout.readline() == b'{"value": ["1", "3"]}\n'  # type: ignore[union-attr]


def test_the_legacy_queue_is_there_again_after_the_broker_was_restarted(
    agent: Agent, brokers: list[Broker], old_sender: Callable[..., OldSender]
) -> None:
    """The old exchange is not durable: it is gone with the broker, and so is the binding."""
    brokers[0].kill()
    wait_until(lambda: agent.worker().get("state") != "consuming")
    brokers[0].start()
    agent.wait_consuming()
    assert old_sender(brokers[0]).call("NODE-01.math.add", [1, 2], CALL_S)[1] == "3"


def test_without_the_key_no_old_sender_is_served(
    brokers: list[Broker], new_agent: Callable[..., Agent], probe: Probe
) -> None:
    new_agent(brokers[0], compat=False)
    assert probe.depth("NODE-01") is None


@pytest.mark.parametrize("first", ["old", "new"])
def test_old_and_new_agents_of_one_node_share_its_calls_whichever_is_first(
    first: str,
    brokers: list[Broker],
    new_agent: Callable[..., Agent],
    old_agent: Callable[..., OldAgent],
    old_sender: Callable[..., OldSender],
    probe: Probe,
) -> None:
    """Row 8: both declare the same exchange and queue, so neither is refused by the broker (406)."""
    if first == "new":
        new = new_agent(brokers[0])
    old = old_agent(brokers[0])
    wait_until(lambda: probe.consumers("NODE-01") == (2 if first == "new" else 1), 15, old.log)
    if first == "old":
        new = new_agent(brokers[0])
    sender = old_sender(brokers[0], smart_route=False)
    answered = {int(sender.call("NODE-01.test.whoami", None, CALL_S)[1]) for _ in range(8)}
    assert answered == {*old.child_pids(), *new.worker_pids()}
    for log in (old.log(), new.log()):
        assert "PRECONDITION_FAILED" not in log
