"""Bad input over a real broker: refused with its reason, counted, and never the end of a worker.

One agent serves them all; whatever a test puts into its queues, a good call right afterwards succeeds.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from agents import Agent
from envelopes import SECRET, envelope, signed
from probe import Probe
from waiting import wait_until
from wire_forms import encode_envelope

from servicebus.errors import CallTimeout, EnvelopeError, ServiceBusError
from servicebus.operations.dead_letters import DeadLetters, Found
from servicebus.operations.filters import Filter
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from servicebus.wire.envelope import Kind, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, decode_reply, encode_reply

MAX_BYTES = 100_000
QUEUES = {Kind.CALL: "NODE-01.rpc", Kind.MESSAGE: "NODE-01.messages", Kind.CONTROL: "NODE-01.control"}
TARGETS = {
    Kind.CALL: "NODE-01.math.add",
    Kind.MESSAGE: "NODE-01.audit.record",
    Kind.CONTROL: "NODE-01.servicebus.ping",
}


class Bus:
    """The agent, a Sender with the right secret, and a probe of its broker."""

    def __init__(self, agent: Agent, sender: Sender, probe: Probe):
        self.agent, self.sender, self.probe = agent, sender, probe
        self.expected: Counter[str] = Counter()
        self.strangers = False
        """Somebody with another secret called and pinged, an unknown number of times."""

    def expect(self, reason: str, times: int = 1) -> None:
        """The last test looks whether it was counted: counters come with each heartbeat, too slow for every test."""
        self.expected[f"refused.{reason}"] += times

    def put(self, kind: Kind, body: bytes) -> None:
        self.probe.publish(QUEUES[kind], body, reply_to=None)

    def dead(self) -> list[tuple[bytes, Any]]:
        """What stands in the dead letters now; they are empty afterwards."""
        wait_until(lambda: self.probe.depth("NODE-01.dead"), 5, "a dead letter")
        return self.probe.take_all("NODE-01.dead")

    def still_serves(self) -> None:
        assert self.sender.call("NODE-01.math.add", [20, 22], timeout=5)[1] == 42
        assert self.sender.ping("NODE-01")
        assert self.agent.worker()["restarts"] == 0


@pytest.fixture(scope="module")
def bus(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    (broker,) = broker_pool.heal(1)
    folder: Path = tmp_path_factory.mktemp("agent")
    agent = Agent(folder, [broker], max_envelope_bytes=MAX_BYTES, clock_skew=2)
    try:
        agent.wait_consuming()
        with Sender(agent.configuration(max_envelope_bytes=10 * MAX_BYTES)) as sender:
            yield Bus(agent, sender, Probe(broker))
    finally:
        agent.close()


def altered(kind: Kind, old: bytes, new: bytes) -> bytes:
    """A good envelope with a piece of it replaced."""
    body = signed(TARGETS[kind], [1, 2], kind=kind)
    assert old in body
    return body.replace(old, new)


def deep_xml(kind: Kind) -> bytes:
    return altered(kind, b"<category>", b"<category>" + b"<a>" * 5000 + b"</a>" * 5000)


DTD = b'<!DOCTYPE event [<!ENTITY e "expanded">]>'
BOMB = (
    b'<!DOCTYPE event [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "&%c;&%c;&%c;&%c;">' % (n, n - 1, n - 1, n - 1, n - 1) for n in range(98, 120))
    + b"]>"
)

REFUSALS: dict[str, tuple[str, Callable[[Kind], bytes]]] = {
    "no XML at all": ("malformed", lambda kind: b"\x00\x01 this is no envelope \xff"),
    "nothing": ("malformed", lambda kind: b""),
    "a pickle": ("malformed", lambda kind: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system"),
    "cut short": ("malformed", lambda kind: signed(TARGETS[kind], [1, 2], kind=kind)[:-20]),
    "an element too many": ("malformed", lambda kind: altered(kind, b"<params>", b"<x>1</x><params>")),
    "an unknown version": ("malformed", lambda kind: altered(kind, b'version="2"', b'version="3"')),
    "too large": ("oversized", lambda kind: signed(TARGETS[kind], "x" * MAX_BYTES, kind=kind)),
    "XML too deep": ("too-deep", deep_xml),
    "a document type": ("dtd", lambda kind: altered(kind, b"<event", DTD + b"<event")),
    "an entity": (
        "dtd",
        lambda kind: altered(kind, b"<event", DTD + b"<event").replace(b"<category>", b"<category>&e;"),
    ),
    "a bomb of entities": (
        "dtd",
        lambda kind: altered(kind, b"<event", BOMB + b"<event").replace(b"<category>", b"<category>&w;"),
    ),
    "an entity of a file": (
        "dtd",
        lambda kind: altered(kind, b"<event", b'<!DOCTYPE event [<!ENTITY e SYSTEM "file:///etc/passwd">]><event'),
    ),
    "an entity that nobody declared": ("malformed", lambda kind: altered(kind, b"<category>", b"<category>&e;")),
    "another secret": ("signature", lambda kind: signed(TARGETS[kind], [1, 2], kind=kind, secret="guessed")),
    "no token": ("signature", lambda kind: encode_envelope(envelope(TARGETS[kind], [1, 2], kind=kind), "")),
    "params changed on the way": ("signature", lambda kind: altered(kind, b"[1,2]", b"[1,3]")),
    "life prolonged on the way": ("signature", lambda kind: altered(kind, b'ttl="30000"', b'ttl="99000"')),
    "too old": ("stale", lambda kind: signed(TARGETS[kind], [1, 2], kind=kind, sent_s_ago=90_000, ttl_s=5)),
    "from the future": ("stale", lambda kind: signed(TARGETS[kind], [1, 2], kind=kind, sent_s_ago=-30)),
    "another node": ("wrong-node", lambda kind: signed(f"NODE-02{TARGETS[kind][7:]}", [1, 2], kind=kind)),
}


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize("what", REFUSALS)
def test_bad_input_is_refused_with_its_reason_and_counted(bus: Bus, kind: Kind, what: str) -> None:
    reason, make = REFUSALS[what]
    recorded = bus.agent.noted("recorded")
    body = make(kind)
    bus.put(kind, body)
    bus.still_serves()
    if kind is Kind.MESSAGE:
        ((dead, headers),) = bus.dead()
        assert headers["x-servicebus-reason"] == reason
        assert headers["x-servicebus-detail"]
        assert dead == body, "as it came, so that it can be looked at and sent again"
    bus.expect(reason)
    assert bus.agent.noted("recorded") == recorded
    assert not bus.probe.depth(QUEUES[kind])


class RawProperties(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties whose bytes are written by hand, as no decent client would."""

    def __init__(self, flags: int, raw: bytes):
        super().__init__()
        self._raw = flags.to_bytes(2, "big") + raw

    def encode(self) -> list[bytes]:
        return [self._raw]


def raw_headers(table: bytes) -> RawProperties:
    return RawProperties(0x2000, struct.pack(">I", len(table)) + table)


UNREADABLE = {
    "a time in milliseconds": raw_headers(b"\x07sent-atT" + struct.pack(">Q", 1795900000000)),
    "a correlation id that is no text": RawProperties(0x0400, b"\x02\xff\xfe"),
    "a header name that is no text": raw_headers(b"\x01\xffV"),
}


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize("what", UNREADABLE)
def test_properties_that_cannot_be_read_cost_that_delivery_alone(bus: Bus, kind: Kind, what: str) -> None:
    body = signed(TARGETS[kind], [1, 2], kind=kind)
    with bus.probe.channel() as channel:
        channel.basic_publish("", QUEUES[kind], body, UNREADABLE[what])
    bus.still_serves()
    if kind is Kind.MESSAGE:
        ((dead, headers),) = bus.dead()
        assert headers["x-servicebus-reason"] == "unreadable"
        assert "SHA-256" in headers["x-servicebus-detail"]
        assert dead == body
    bus.expect("unreadable")


def test_a_body_that_is_far_too_long_is_dead_lettered_as_its_beginning_and_digest(bus: Bus) -> None:
    body = b"x" * 3_000_000
    bus.put(Kind.CALL, body)
    bus.put(Kind.MESSAGE, body)
    bus.still_serves()
    ((dead, headers),) = bus.dead()
    assert headers["x-servicebus-reason"] == "oversized"
    assert f"SHA-256 {hashlib.sha256(body).hexdigest()}" in headers["x-servicebus-detail"]
    assert body.startswith(dead)
    assert 0 < len(dead) < 100_000
    bus.expect("oversized", times=2)


def test_dead_letters_that_a_stranger_made_unreadable_stop_no_command(bus: Bus) -> None:
    with bus.probe.channel() as channel:
        for properties in UNREADABLE.values():
            channel.basic_publish("", "NODE-01.dead", b"x", properties)
        channel.basic_publish("", "NODE-01.dead", b"x" * 3_000_000)
    config = bus.agent.configuration(max_envelope_bytes=MAX_BYTES)
    letters = DeadLetters(config, "NODE-01", config.hosts)
    problems: list[str] = []

    def see(found: Found) -> bool:
        problems.append(found.why)
        return True

    (report,) = letters.look(Filter(), see)
    assert (report.error, report.done) == (None, 4)
    assert sum(why.startswith("unreadable: ") for why in problems) == 3
    assert sum(why.startswith("oversized: 3000000 bytes") for why in problems) == 1
    (report,) = letters.requeue(Filter(), reseal=True)
    assert (report.error, report.done, report.left) == (None, 0, 4), "what would go back is not what stands there"
    (report,) = letters.drop(Filter())
    assert (report.error, report.done, report.left) == (None, 4, 0)


BAD_PARAMS: dict[str, tuple[str, bytes]] = {
    "no JSON": ("bad-json", b'{"a": }'),
    "NaN": ("bad-json", b"[NaN]"),
    "two values": ("bad-json", b"1 2"),
    "no UTF-8": ("bad-json", b'"\xff"'),
    "JSON too deep": ("too-deep", b"[" * 20_000 + b"]" * 20_000),
    "a number without end": ("bad-json", b"1" * 50_000),
}


@pytest.mark.parametrize("what", BAD_PARAMS)
def test_params_that_are_no_json_are_refused_although_they_are_signed(bus: Bus, what: str) -> None:
    reason, raw = BAD_PARAMS[what]
    call = signed(TARGETS[Kind.CALL], raw_params=raw)
    reply = told(bus, call)
    assert (reply.type, reply.text.partition(":")[0]) == ("refused", reason)
    bus.expect(reason)
    bus.put(Kind.MESSAGE, signed(TARGETS[Kind.MESSAGE], raw_params=raw, kind=Kind.MESSAGE))
    ((_, headers),) = bus.dead()
    assert headers["x-servicebus-reason"] == reason
    bus.expect(reason)
    bus.still_serves()


def told(bus: Bus, call: bytes, secret: str = SECRET) -> Fault:
    """The verified fault that the node answers to *call*."""
    answer = bus.probe.ask(QUEUES[Kind.CALL], call)
    assert answer is not None, "no answer"
    reply = decode_reply(answer, MAX_BYTES)
    Keyring([secret]).verify_reply(reply, decode_envelope(call, MAX_BYTES).token)
    assert reply.fault is not None
    return reply.fault


class TestWhatCallersAreTold:
    @pytest.mark.parametrize("what", ["too old", "from the future"])
    def test_a_caller_with_the_secret_is_told_why_it_was_refused(self, bus: Bus, what: str) -> None:
        reason, make = REFUSALS[what]
        bus.expect(reason)
        fault = told(bus, make(Kind.CALL))
        assert (fault.type, fault.text.partition(":")[0]) == ("refused", reason)

    def test_a_stale_call_is_told_how_far_the_clocks_are_apart(self, bus: Bus) -> None:
        bus.expect("stale")
        fault = told(bus, signed("NODE-01.math.add", [1], sent_s_ago=-30))
        assert "the clocks are " in fault.text
        assert " s apart" in fault.text

    def test_a_stranger_gets_nothing_that_is_signed_with_our_secret(self, bus: Bus) -> None:
        bus.expect("signature")
        call = signed("NODE-01.math.add", [1], secret="guessed")
        answer = bus.probe.ask(QUEUES[Kind.CALL], call, timeout_s=1)
        if answer is not None:
            with pytest.raises(EnvelopeError):
                Keyring([SECRET]).verify_reply(decode_reply(answer, MAX_BYTES), decode_envelope(call, MAX_BYTES).token)

    def test_a_sender_with_another_secret_ends_with_an_error_that_names_the_cause(self, bus: Bus) -> None:
        """Not with its time limit: test_watch says how long unbelievable answers are enough. It is connected before,
        since a call that waits for its first connection is not given longer than path_wait."""
        config = bus.agent.configuration(secret_token="guessed", path_wait=0.2, path_ping_timeout=5)
        with Sender(config) as stranger:
            wait_until(lambda: stranger.ping_all("NODE-01", timeout=0.2) == (0, 1))
            with pytest.raises(ServiceBusError, match=r"secret|signature|believed") as caught:
                stranger.call("NODE-01.math.add", [1, 2], timeout=20)
            assert not isinstance(caught.value, CallTimeout)
            assert not stranger.ping("NODE-01", timeout=1)
        bus.strangers = True
        bus.still_serves()

    def test_an_unknown_service_is_told_and_a_message_to_one_is_a_dead_letter(self, bus: Bus) -> None:
        assert told(bus, signed("NODE-01.math.divide", [1])).type == "unknown-service"
        bus.expect("unknown-service")
        bus.sender.send("NODE-01.audit.nobody", "x")
        ((_, headers),) = bus.dead()
        assert headers["x-servicebus-reason"] == "unknown-service"
        assert "audit.nobody" in headers["x-servicebus-detail"]
        bus.expect("unknown-service")

    def test_a_sender_refuses_what_the_node_would_refuse_before_it_sends_anything(self, bus: Bus) -> None:
        with Sender(bus.agent.configuration()) as sender:
            with pytest.raises(EnvelopeError, match="oversized"):
                sender.call("NODE-01.math.add", "x" * MAX_BYTES)
            with pytest.raises(EnvelopeError, match="unencodable"):
                sender.send("NODE-01.audit.record", {1, 2})
            with pytest.raises(EnvelopeError, match="too-deep"):
                nested: list[Any] = []
                for _ in range(5000):
                    nested = [nested]
                sender.call("NODE-01.math.add", nested)
        bus.still_serves()


class TestReplays:
    def test_a_replayed_call_runs_once_and_is_counted(self, bus: Bus) -> None:
        call = signed("NODE-01.test.sleep", [0, "replayed-call"])
        first = bus.probe.ask(QUEUES[Kind.CALL], call)
        assert bus.probe.ask(QUEUES[Kind.CALL], call) == first
        bus.expect("replayed")
        assert bus.agent.noted("started").count("replayed-call") == 1

    def test_a_replayed_message_is_handled_once_and_counted(self, bus: Bus) -> None:
        message = signed("NODE-01.audit.record", "replayed-message", kind=Kind.MESSAGE)
        bus.put(Kind.MESSAGE, message)
        wait_until(lambda: "replayed-message" in bus.agent.noted("recorded"))
        bus.put(Kind.MESSAGE, message)
        bus.expect("replayed")
        assert bus.agent.noted("recorded").count("replayed-message") == 1
        assert bus.probe.depth("NODE-01.messages") == 0

    def test_a_call_in_the_messages_queue_and_the_reverse_are_refused(self, bus: Bus) -> None:
        for kind, other in ((Kind.CALL, Kind.MESSAGE), (Kind.MESSAGE, Kind.CALL)):
            bus.put(other, signed(TARGETS[kind], [1, 2], kind=kind))
            bus.expect("wrong-queue")
        ((_, headers),) = bus.dead()
        assert headers["x-servicebus-reason"] == "wrong-queue"
        bus.still_serves()

    def test_an_unknown_control_command_is_refused(self, bus: Bus) -> None:
        bus.put(Kind.CONTROL, signed("NODE-01.servicebus.halt", kind=Kind.CONTROL))
        bus.expect("unknown-service")
        bus.still_serves()


class Impostor:
    """An agent of node FORGED that answers every call with the replies that *forge* makes of it, one after another."""

    def __init__(self, broker: Broker, forge: Callable[[bytes], list[bytes]]):
        self._forge = forge
        self._connection = pika.BlockingConnection(pika.ConnectionParameters(broker.host, broker.port, heartbeat=0))
        self._channel = self._connection.channel()
        self._channel.exchange_declare("servicebus", "direct", durable=True)
        for queue in ("FORGED.rpc", "FORGED.control"):
            self._channel.queue_declare(queue, exclusive=True)
            self._channel.queue_bind(queue, "servicebus", queue)
            self._channel.basic_consume(queue, self._answer, auto_ack=True)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _answer(self, channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        about = pika.BasicProperties(correlation_id=properties.correlation_id)
        for reply in self._forge(body):
            channel.basic_publish("", properties.reply_to, reply, about)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._connection.process_data_events(0.05)
        self._connection.close()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(10)


def signed_reply(request: bytes, message: bytes, *, secret: str = SECRET, id: str = "", token: str = "") -> bytes:
    """A reply to *request*; *id* and *token* of another one where they are given."""
    asked = decode_envelope(request, MAX_BYTES)
    reply_id = id or asked.id
    signature = Keyring([secret]).sign_reply(token or asked.token, reply_id, "ok", message, None)
    return encode_reply(Reply(reply_id, signature, "ok", message))


OTHER = signed("FORGED.math.add", [1, 2])
FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "no reply at all": lambda request: b"<response>",
    "a document type": lambda request: DTD + signed_reply(request, b"666"),
    "signed with another secret": lambda request: signed_reply(request, b"666", secret="guessed"),
    "the reply to another request": lambda request: signed_reply(OTHER, b"666"),
    "another's reply under this id": lambda request: signed_reply(
        request, b"666", token=decode_envelope(OTHER, MAX_BYTES).token
    ),
    "this token under another id": lambda request: signed_reply(request, b"666", id="0123456789abcdef-1"),
    "a result changed on the way": lambda request: signed_reply(request, b"3").replace(b"[CDATA[3]", b"[CDATA[666]"),
    "the request itself": lambda request: request,
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_reply_is_ignored_and_counted_and_the_true_one_is_still_taken(
    bus: Bus, broker_pool: BrokerPool, what: str
) -> None:
    """P9: nobody without the secret gets a reply believed."""
    (broker,) = broker_pool.take(1)
    impostor = Impostor(broker, lambda request: [FORGERIES[what](request), signed_reply(request, b"3")])
    try:
        with Sender(bus.agent.configuration()) as sender:
            assert sender.call("FORGED.math.add", [1, 2], timeout=5)[1] == 3
            assert sender.status()["unverified_replies"] == 1
    finally:
        impostor.close()


def test_a_refusal_signed_by_nobody_does_not_end_a_call(bus: Bus, broker_pool: BrokerPool) -> None:
    """Whoever can publish could otherwise end every call of the bus by saying that it was refused."""
    (broker,) = broker_pool.take(1)

    def forge(request: bytes) -> list[bytes]:
        asked = decode_envelope(request, MAX_BYTES)
        fault = Fault("refused", "signature: go away")
        return [encode_reply(Reply(asked.id, "unsigned", "fault", b"", fault)), signed_reply(request, b"3")]

    impostor = Impostor(broker, forge)
    try:
        with Sender(bus.agent.configuration()) as sender:
            assert sender.call("FORGED.math.add", [1, 2], timeout=5)[1] == 3
    finally:
        impostor.close()


def test_a_replayed_reply_of_an_earlier_call_is_not_taken_for_the_next_ones(bus: Bus, broker_pool: BrokerPool) -> None:
    (broker,) = broker_pool.take(1)
    seen: list[bytes] = []

    def forge(request: bytes) -> list[bytes]:
        fresh = signed_reply(request, b"%d" % len(seen))
        seen.append(fresh)
        return [*seen[:-1], fresh]

    impostor = Impostor(broker, forge)
    try:
        with Sender(bus.agent.configuration()) as sender:
            assert [sender.call("FORGED.math.add", [n], timeout=5)[1] for n in range(4)] == [0, 1, 2, 3]
            assert sender.status()["unverified_replies"] == 0 + 1 + 2 + 3
    finally:
        impostor.close()


def test_a_flood_of_garbage_does_not_delay_good_calls_for_long(bus: Bus) -> None:
    bus.expect("malformed", 5000)
    with bus.probe.channel() as channel:
        for _ in range(5000):
            channel.basic_publish("", QUEUES[Kind.CALL], b"garbage" * 20)
    bus.still_serves()
    assert len(bus.agent.log_lines("refused: malformed")) < 200


def test_every_refusal_was_counted_and_nothing_else(bus: Bus) -> None:
    """The last of this file: what the tests before expected, and no more."""

    def is_as_expected() -> bool:
        counted = {name: count for name, count in bus.agent.counters().items() if name.startswith("refused.")}
        extra = counted.get("refused.signature", 0) - bus.expected["refused.signature"]
        if bus.strangers and extra > 0:
            counted["refused.signature"] -= extra
        return counted == bus.expected

    wait_until(is_as_expected, 5, lambda: f"counted {bus.agent.counters()}, expected {bus.expected}")
    bus.still_serves()
