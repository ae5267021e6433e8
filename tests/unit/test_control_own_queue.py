"""What comes in a worker's own queue: what all nodes are asked is answered there alone, once, and to nobody else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from virtual_bus import NODE, SECRET, Node, VirtualBus, configuration, virtual_bus

from servicebus import __version__
from servicebus.protocol.callers import keyring_of
from servicebus.protocol.discovery import Answer, Question, ask_for
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.control import ControlRequests
from servicebus.transport.interface import Delivery
from servicebus.wire.address import DISCOVERY_KEY
from servicebus.wire.envelope import CALL, CONTROL, DIRECT_REPLY_TO, Kind
from servicebus.wire.jsontext import encode_json
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import write_event

CONFIG = configuration("mq")
WIRE_ID = "0123456789abcdef-1"
REPLY_TO = f"{DIRECT_REPLY_TO}.g1h2"
NOBODY: Any = None
"""The node does not ask which channel it is."""


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Any:
    with virtual_bus(monkeypatch, hosts=1) as bus:
        yield Node(bus)


def protocol(secret: str = SECRET) -> ProtocolV2:
    return ProtocolV2(CONFIG, Keyring([secret]))


def asked(question: Question, wire_id: str = WIRE_ID, secret: str = SECRET) -> tuple[str, Delivery]:
    """What a Sender publishes, as a worker gets it, and its token."""
    token, outgoing = protocol(secret).encode_discovery(wire_id, 2.0, question)
    assert outgoing.routing_key == DISCOVERY_KEY
    return token, Delivery(NOBODY, 1, outgoing.body, correlation_id=wire_id, reply_to=REPLY_TO)


def event(node: str, service: str, params: bytes = b"{}", kind: Kind = CONTROL) -> Delivery:
    """Any event, well signed."""
    fields = (WIRE_ID, node, "servicebus", service, kind, int(time.time() * 1000), 2000, DIRECT_REPLY_TO, params)
    body = write_event(*fields, Keyring([SECRET]).sign_event(*fields))
    return Delivery(NOBODY, 1, body, correlation_id=WIRE_ID, reply_to=REPLY_TO)


def test_it_answers_what_all_nodes_are_asked(node: Node) -> None:
    token, delivery = asked(Question("*", "test.echo", True))
    answer = node.control.hear(delivery)
    assert answer is not None and answer[1] == REPLY_TO
    told = protocol().decode_discovery(WIRE_ID, token, answer[0])
    assert told == Answer(NODE, True, (("call", "test.echo"),))


def test_an_operator_is_told_what_differs_between_nodes(node: Node) -> None:
    token, delivery = asked(Question("*", asks_about=True))
    answer = node.control.hear(delivery)
    assert answer is not None
    about = protocol().decode_discovery(WIRE_ID, token, answer[0]).about
    assert about is not None and abs(about["time"] - time.time()) < 60
    assert about["keys"] == [Keyring([SECRET]).key_id] and about["encryption"] == []
    assert about["version"] == __version__
    assert about["worker"]["pid"] == os.getpid() and about["worker"]["counters"]["discoveries"] == 1
    plain = asked(Question("*"), WIRE_ID[:-1] + "2")
    told = node.control.hear(plain[1])
    assert told is not None
    assert protocol().decode_discovery(WIRE_ID[:-1] + "2", plain[0], told[0]).about is None


def test_a_caller_with_a_key_of_its_own_is_told_none_of_it(node: Node) -> None:
    key = "the key of shop alone"
    config = configuration("mq", callers={"shop": {"key": key, "allow": "*"}})
    keyring = keyring_of(config)
    control = ControlRequests(config, keyring, ProtocolV2(config, keyring), node.dispatcher)
    token, delivery = asked(Question("*", asks_about=True), secret=key)
    answer = control.hear(delivery)
    assert answer is not None
    assert protocol(key).decode_discovery(WIRE_ID, token, answer[0]) == Answer(NODE)


def test_a_discovery_is_answered_once(node: Node) -> None:
    _, delivery = asked(ask_for("*"))
    assert node.control.hear(delivery) is not None
    for _ in range(3):
        assert node.control.hear(delivery) is None
    assert node.dispatcher.counters["refused.replayed"] == 3
    _, other = asked(ask_for("*"), "0123456789abcdef-2")
    assert node.control.hear(other) is not None


def test_the_ids_that_it_remembers_are_bounded(node: Node) -> None:
    for number in range(1, 3000):
        node.control.hear(asked(ask_for("OTHER"), f"0123456789abcdef-{number}")[1])
    remembered = node.control._discoveries
    assert sum(f"0123456789abcdef-{number}" in remembered for number in range(1, 3000)) == 1024
    assert node.control.hear(asked(ask_for("*"), "0123456789abcdef-2999")[1]) is None, "the latest"


def test_a_stranger_is_not_told_which_node_this_is(node: Node) -> None:
    """Not even that its signature is wrong: all nodes would tell it at once."""
    _, delivery = asked(ask_for("*"), secret="of a stranger")
    assert node.control.hear(delivery) is None
    assert node.dispatcher.counters["refused.signature"] == 1


def test_an_old_one_is_refused(node: Node) -> None:
    _, delivery = asked(ask_for("*"))
    node.bus.time.advance(2.0 + CONFIG.clock_skew + 1)
    assert node.control.hear(delivery) is None and node.dispatcher.counters["refused.stale"] == 1


@pytest.mark.parametrize("params", [b"null", b"{}", b'{"nodes": 1}', b"[", b'{"nodes": "*", "nodes": []}'])
def test_params_that_ask_nothing_are_refused(node: Node, params: bytes) -> None:
    assert node.control.hear(event("*", "discover", params)) is None
    assert sum(node.dispatcher.counters.values()) == 1


def test_in_the_queue_for_control_it_is_for_another_node(node: Node) -> None:
    _, delivery = asked(ask_for("*"))
    assert node.control.answer(delivery) is None
    assert node.dispatcher.counters["refused.wrong-node"] == 1


@pytest.mark.parametrize("service", ["ping", "describe", "offers", "other"])
@pytest.mark.parametrize("name", ["*", NODE])
def test_nothing_else_is_answered_there(node: Node, service: str, name: str) -> None:
    assert node.control.hear(event(name, service, b"null")) is None
    assert node.dispatcher.counters["refused.wrong-queue"] == 1


def test_a_call_of_all_nodes_is_none(node: Node) -> None:
    assert node.control.hear(event("*", "discover", kind=CALL)) is None
    assert node.dispatcher.counters["refused.wrong-queue"] == 1


def test_a_cancellation_is_heard_there_as_ever(node: Node) -> None:
    outgoing, _ = protocol().encode_cancel(NODE, "0123456789abcdef-7", WIRE_ID) or NOBODY
    assert node.control.hear(Delivery(NOBODY, 1, outgoing.body, reply_to=REPLY_TO)) is None
    assert node.cancelled == ["0123456789abcdef-7"]


def test_a_list_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with virtual_bus(monkeypatch, hosts=1, max_envelope_bytes=2000) as bus:
        node = Node(bus)
        node.services |= {(CALL, f"test.number-{number}"): None for number in range(200)}
        assert node.control.hear(asked(Question("*", lists_services=True))[1]) is None
        assert node.dispatcher.counters["refused.oversized"] == 1


def test_answers_go_to_direct_reply_to_alone(node: Node) -> None:
    _, delivery = asked(ask_for("*"))
    answer = node.control.hear(delivery._replace(reply_to="NODE-02.messages"))
    assert answer is not None and answer[1] == "", "nowhere"
    assert isinstance(node.control, ControlRequests) and isinstance(node.bus, VirtualBus)


def test_question_and_answer_are_those_of_the_vectors(node: Node) -> None:
    def vector(file: str, name: str) -> Any:
        data = json.loads((Path(__file__).parents[1] / "data" / "wire" / file).read_text())
        return next(each for each in data if each["name"] == name)

    question, answer = vector("events.json", "discovery"), vector("responses.json", "answer to a discovery")
    asked = Question("NODE-*", "math.add", True)
    assert encode_json(asked.to_json()).decode() == question["params"]
    services = ("call", "math.add"), ("message", "audit.record")
    assert encode_json(Answer(NODE, True, services).to_json(asked)).decode() == answer["message"]
    sender = ProtocolV2(CONFIG, Keyring([question["secret"]]))
    told = sender.decode_discovery(question["id"], question["token"], answer["body"].encode())
    assert told == Answer(NODE, True, services)
