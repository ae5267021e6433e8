"""A broker's owner without the secret copies, holds and replays calls: what proves nothing ends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pika
import pytest
from agents import Agent
from envelopes import SECRET
from probe import Probe
from waiting import wait_until

from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, decode_reply, write_answer

MAX_BYTES = 100_000
DIRECT = "amq.rabbitmq.reply-to"


class Owner:
    """Has the calls to NODE-01 come to a queue of its own, and decides what the node and the caller get to see."""

    def __init__(self, broker: Broker):
        self._connection = pika.BlockingConnection(Probe(broker)._parameters)
        self._channel = self._connection.channel()
        self._replies: list[bytes] = []
        self._channel.queue_declare("owner", exclusive=True)
        self._channel.queue_bind("owner", "servicebus", "NODE-01.rpc")
        self._channel.queue_unbind("NODE-01.rpc", "servicebus", "NODE-01.rpc")
        self._channel.basic_consume(DIRECT, lambda *args: self._replies.append(args[3]), auto_ack=True)

    def catch(self) -> tuple[Any, bytes]:
        """The next call: its properties and body."""
        found: list[tuple[Any, bytes]] = []

        def has_come() -> bool:
            _, properties, body = self._channel.basic_get("owner", auto_ack=True)
            if body is not None:
                found.append((properties, body))
            return bool(found)

        wait_until(has_come, 10, "a call")
        return found[0]

    def put(self, queue: str, call: tuple[Any, bytes]) -> None:
        """Into *queue*, for the caller to be answered."""
        properties, body = call
        self._publish(queue, body, properties, properties.reply_to)

    def ask(self, queue: str, call: tuple[Any, bytes], timeout_s: float = 5.0, **extra: Any) -> bytes | None:
        """What the node answers, had from it without the caller's knowledge."""
        self._replies.clear()
        self._publish(queue, call[1], call[0], DIRECT, **extra)
        deadline = time.monotonic() + timeout_s
        while not self._replies and time.monotonic() < deadline:
            self._connection.process_data_events(0.05)
        return self._replies[0] if self._replies else None

    def tell(self, call: tuple[Any, bytes], reply: bytes) -> None:
        """The caller gets *reply*."""
        self._publish(call[0].reply_to, reply, call[0], None)

    def _publish(self, queue: str, body: bytes, properties: Any, reply_to: str | None, **extra: Any) -> None:
        about = pika.BasicProperties(reply_to=reply_to, correlation_id=properties.correlation_id, **extra)
        self._channel.basic_publish("", queue, body, about)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def agents(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agent]]:
    brokers = broker_pool.heal(1)
    made: list[Agent] = []
    try:
        for node in ("NODE-01", "NODE-02"):
            folder: Path = tmp_path_factory.mktemp(node)
            made.append(Agent(folder, brokers, node_name=node))
        yield [agent.wait_consuming() for agent in made]
    finally:
        for agent in made:
            agent.close()


@pytest.fixture
def sender(agents: list[Agent]) -> Iterator[Sender]:
    with Sender(agents[0].configuration()) as sender:
        sender.call("NODE-01.math.add", [1, 2])
        yield sender


@pytest.fixture
def owner(agents: list[Agent], sender: Sender, broker_pool: BrokerPool) -> Iterator[Owner]:
    (broker,) = broker_pool.take(1)
    owner = Owner(broker)
    yield owner
    owner.close()
    with Probe(broker).channel() as channel:
        channel.queue_bind("NODE-01.rpc", "servicebus", "NODE-01.rpc")


def calling(sender: Sender, label: str, timeout: float = 20.0) -> Future[Any]:
    return sender.call_async("NODE-01.test.sleep", [0.3, label], timeout=timeout)


@pytest.mark.parametrize("queue", ["NODE-01.control", "NODE-02.rpc", "NODE-02.control", "NODE-01.messages"])
def test_a_call_that_is_copied_elsewhere_ends_where_it_runs(
    agents: list[Agent], sender: Sender, owner: Owner, queue: str
) -> None:
    """No queue but its own answers it, before the original or after it."""
    future = calling(sender, queue)
    call = owner.catch()
    assert owner.ask(queue, call, timeout_s=0.5) is None
    owner.put(queue, call)
    owner.put("NODE-01.rpc", call)
    owner.put(queue, call)
    assert future.result(20)[1] == queue
    assert agents[0].noted("finished").count(queue) == 1
    assert queue not in agents[1].noted("finished")


def answered(owner: Owner, call: tuple[Any, bytes]) -> bytes:
    reply = owner.ask("NODE-01.rpc", call)
    assert reply is not None
    Keyring([SECRET]).verify_reply(decode_reply(reply, MAX_BYTES), decode_envelope(call[1], MAX_BYTES).token)
    return reply


def test_an_old_refusal_that_is_played_again_does_not_end_a_later_attempt(sender: Sender, owner: Owner) -> None:
    """Signed, and for this very call; but what it says, it says of the first attempt."""
    future = sender.call_async("NODE-01.test.declines", timeout=20)
    first = owner.catch()
    busy = answered(owner, first)
    owner.tell(first, busy)
    second = owner.catch()
    one, two = (decode_envelope(body, MAX_BYTES) for _, body in (first, second))
    assert (one.id, one.attempt + 1) == (two.id, two.attempt)
    assert one.token != two.token
    assert two.sent_ms + two.ttl_ms == one.sent_ms + one.ttl_ms, "it ends when the first does"
    late = sender.status()["late_replies"]
    owner.tell(second, busy)
    wait_until(lambda: sender.status()["late_replies"] > late, 10, "the old verdict was looked at")
    # It travels still, so the result of the first attempt is believed: a result is one of the call.
    token = Keyring([SECRET]).sign_reply(one.token, one.id, "ok", b'"late"', None)
    owner.tell(second, write_answer(one.id, token, b'"late"'))
    assert future.result(10)[1] == "late"


@pytest.mark.parametrize("headers", [{}, {"x-servicebus-fresh": 1}], ids=["plain", "with a header"])
def test_a_call_that_is_held_does_not_run_after_its_deadline(
    agents: list[Agent], sender: Sender, owner: Owner, headers: dict[str, Any]
) -> None:
    label = f"held {headers}"
    future = calling(sender, label, timeout=0.5)
    call = owner.catch()
    with pytest.raises(TimeoutError):
        future.result(10)
    reply = owner.ask("NODE-01.rpc", call, headers=headers)
    assert reply is not None
    fault = decode_reply(reply, MAX_BYTES).fault
    assert fault is not None
    assert fault.type == "expired"
    assert fault.clock_ms is not None
    assert abs(fault.clock_ms - time.time() * 1000) < 10_000
    assert label not in agents[0].noted("started")
