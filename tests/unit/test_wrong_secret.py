"""A Sender with another secret than its node: one outcome, which no stranger can have for one with the right secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from virtual_bus import NODE, SECRET, Node, VirtualBus, virtual_bus

from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.client.session import submit
from servicebus.errors import CallInterrupted, CallRefused, CallTimeout
from servicebus.protocol.control_requests import UNSIGNED
from servicebus.sender import Sender
from servicebus.transport.interface import Delivery
from servicebus.wire.address import Address
from servicebus.wire.envelope import CONTROL, FAULT, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_reply


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch) as bus:
        yield bus


def silence(_incoming: Any) -> None:
    return None


def call(sender: Sender, timeout: float) -> Future[Any]:
    return sender.call_async(f"{NODE}.test.echo", "p", timeout)


def ask(name: str) -> Callable[[Sender, float], Future[Any]]:
    def control(sender: Sender, timeout: float) -> Future[Any]:
        params = ["message", "test.note"] if name == "offers" else None
        asked: Future[Any] = submit(*sender._make(Address(NODE, "servicebus", name), CONTROL, params, timeout))
        return asked

    return control


ASKED = {"call": call, "ping": ask("ping"), "offers": ask("offers"), "describe": ask("describe")}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("timeout", [0.3, 0.8, 1.9, 2.5, 3.0, 4.5, 10.0, 300.0])
def test_it_ends_in_one_way_whatever_is_asked_and_for_how_long(bus: VirtualBus, what: str, timeout: float) -> None:
    bus.node(secret="another one")
    began = bus.time.now
    error = bus.error(ASKED[what](bus.sender, timeout))
    assert exit_code_of(error) is ExitCode.REFUSED
    assert "do both sides have the same secret?" in str(error)
    assert bus.time.now - began < 8
    if timeout > 1:
        assert isinstance(error, CallRefused)
        assert error.reason == "signature"
        assert "secret_token" in error.detail
        assert NODE in error.detail
        assert Keyring([SECRET]).key_id in error.detail


def test_a_call_that_is_not_sent_twice_ends_alike(bus: VirtualBus) -> None:
    bus.node(secret="another one")
    assert isinstance(bus.error(bus.call(timeout=30.0, resend=False)), CallRefused)


def test_so_does_one_whose_node_is_known_to_refuse(bus: VirtualBus) -> None:
    bus.node(secret="another one")
    assert isinstance(bus.error(bus.call()), CallRefused)
    assert isinstance(bus.error(bus.call()), CallRefused)


def test_and_one_over_the_only_broker_that_is_there(bus: VirtualBus) -> None:
    bus.node(secret="another one")
    bus.brokers[1].stop()
    assert isinstance(bus.error(bus.call()), CallRefused)


def test_the_agent_that_was_corrected_is_found(bus: VirtualBus) -> None:
    wrong = bus.node(secret="another one")
    assert isinstance(bus.error(bus.call()), CallRefused)
    for broker in bus.brokers:
        wrong.stop(broker)
    bus.node()
    assert bus.result(bus.call()) == '"p"'


def test_the_agent_says_so_in_one_line(bus: VirtualBus, caplog: pytest.LogCaptureFixture) -> None:
    node = bus.node(bus.brokers[0], secret="another one")
    for _ in range(3):
        bus.error(bus.call(timeout=8.0))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("servicebus.runtime")]
    assert node.dispatcher.counters["refused.signature"] > 10
    assert len(lines) == 1
    for part in (Keyring([SECRET]).key_id, Keyring(["another one"]).key_id, "secret_token"):
        assert part in lines[0]


# -- what a stranger makes of it ---------------------------------------------------------------------------------------


def refuse(channel: Any, delivery: Delivery) -> None:
    body = encode_reply(Reply(delivery.correlation_id or "", UNSIGNED, FAULT, b"", Fault("refused", "signature: no")))
    channel.publish("", delivery.reply_to, body, correlation_id=delivery.correlation_id, mandatory=False)


def beset(node: Node, *, answers_pings: bool = True) -> Node:
    """A stranger sees what *node* is sent, and is faster with an unsigned refusal."""
    on_call, on_control = node.on_call, node.on_control

    def call(broker: Any, channel: Any, delivery: Delivery) -> None:
        refuse(channel, delivery)
        on_call(broker, channel, delivery)

    def control(channel: Any, delivery: Delivery) -> None:
        refuse(channel, delivery)
        if answers_pings:
            on_control(channel, delivery)

    node.on_call, node.on_control = call, control  # type: ignore[method-assign]
    return node


def test_an_unsigned_refusal_does_not_end_the_call_of_a_right_sender(bus: VirtualBus) -> None:
    node = beset(bus.node())
    answers: list[Any] = [None, "late"]
    node.answer = lambda _incoming: answers.pop(0)
    slow = bus.call(timeout=60.0)
    bus.time.advance(30)
    assert not slow.done()
    assert len(node.calls) == 1, "the path lives: nothing is sent again"
    assert bus.result(bus.call()) == "late"
    error = bus.error(slow)
    assert type(error) is CallTimeout
    assert exit_code_of(error) is ExitCode.TIMEOUT


def test_nor_does_it_name_the_end_once_the_node_was_heard(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call())
    node.answer = silence
    beset(node, answers_pings=False)
    assert type(bus.error(bus.call())) is CallInterrupted


def test_nor_while_another_attempt_may_have_run(bus: VirtualBus) -> None:
    silent, other = bus.node(bus.brokers[0]), bus.node(bus.brokers[1], secret="another one")
    silent.answer, silent.answers_pings = silence, False
    assert type(bus.error(bus.call())) is CallInterrupted
    assert other.dispatcher.counters["refused.signature"]


def test_it_hastens_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is as dead as any whose pings get no signed answer; what is not signed makes it no deader."""
    took = []
    for is_beset in (True, False):
        with virtual_bus(monkeypatch) as bus:
            node = bus.node()
            node.answer, node.answers_pings = silence, False
            if is_beset:
                beset(node, answers_pings=False)
            began = bus.time.now
            assert isinstance(bus.error(bus.call()), CallRefused if is_beset else CallInterrupted)
            took.append(round(bus.time.now - began, 2))
    assert took[0] == took[1]
