"""How a queue of other programs is declared and consumed, and what of it touches the node. The rest: tests/contract."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

import pytest

import servicebus.testing
from servicebus._plain import MessageProperties, PlainQueue
from servicebus.client.plain_client import PlainClient
from servicebus.client.plain_link import PlainJob, PlainLink
from servicebus.client.plain_sending import PlainPublisher
from servicebus.configuration import Configuration
from servicebus.errors import (
    CallInterrupted,
    ConfigurationError,
    NoBrokerAvailable,
    RemoteError,
    SendRefused,
    SendUnconfirmed,
)
from servicebus.protocol.plain import PlainProtocol
from servicebus.runtime.plain_hosts import PlainHosts
from servicebus.service import ServiceBus
from servicebus.transport.interface import Delivery
from servicebus.transport.plain_script import plain_script
from servicebus.typed import Services
from servicebus.wire.signing import Keyring

CONFIG: dict[str, Any] = {"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"}
OTHERS = [{"name": "legacy", "host": "legacy"}]


def asked(queue: PlainQueue) -> list[str]:
    """What the broker is asked for, in order."""

    class Channel:
        def __getattr__(self, name: str) -> Any:
            return lambda *_what, **_how: found.append(name)

    channel: Any = Channel()
    found: list[str] = []
    script = plain_script(queue, 10, lambda _: None, lambda _: None)
    try:
        step = next(script)
        while True:
            step(channel, lambda _: None)
            step = script.send("tag")
    except StopIteration:
        return found


@pytest.mark.parametrize(
    ("queue", "wanted"),
    [
        (PlainQueue("q"), ["declare_queue"]),
        (PlainQueue("q", "x", ("a", "b")), ["declare_exchange", "declare_queue", "bind_queue", "bind_queue"]),
        (PlainQueue("q", "x", (), "fanout"), ["declare_exchange", "declare_queue", "bind_queue"]),
        (PlainQueue("q", "x", ("a",), passive=True), []),
    ],
    ids=str,
)
def test_what_is_declared(queue: PlainQueue, wanted: list[str]) -> None:
    assert asked(queue) == [*wanted, "set_prefetch", "consume"]


def test_a_queue_of_another_broker_is_consumed_and_fails_into_the_nodes_own_dead_letters() -> None:
    others = Services("others")

    @others.consume("old.work", host="legacy", retry=(1,))
    def work(body: bytes) -> None:
        raise ValueError(body.decode())

    with servicebus.testing.bus(others, connections=OTHERS) as bus:
        bus.sender.publisher_to("", "old.work", host="legacy").publish(b"a body")
        bus.advance(3)
        assert [entry.what for entry in bus.history] == ["retried", "dead-lettered"]
        assert sum(broker.queues.get("NODE-01.dead", 0) for broker in bus.brokers) == 1
        legacy = bus._network["legacy:5672"]
        assert list(legacy.queues) == ["old.work"] and not legacy.queues["old.work"].ready


def test_a_broker_of_others_that_is_down_touches_nothing_else() -> None:
    others = Services("others")

    @others.consume("old.work", host="legacy")
    def work(body: bytes) -> None: ...

    @others.rpc
    def add(a: int, b: int) -> int:
        return a + b

    with servicebus.testing.bus(others, connections=OTHERS) as bus:
        bus._order(bus._network["legacy:5672"].refuse)
        bus._order(bus._network["legacy:5672"].drop)
        bus.advance(30)
        assert bus.sender.call("NODE-01.others.add", [1, 2])[1] == 3 and set(bus.node.states) == {"consuming"}
        with pytest.raises(NoBrokerAvailable, match="legacy"):
            bus.sender.publisher_to("", "old.work", host="legacy").publish(b"x", timeout=5)


def test_a_result_that_is_too_large_for_its_broker_is_told_to_the_caller() -> None:
    """It cost the connection of the queue, and its caller waited to its deadline."""
    others = Services("others")

    @others.consume("old.work", host="legacy")
    def work(size: int) -> str:
        return "x" * size

    with servicebus.testing.bus(others, connections=OTHERS) as bus:
        legacy = bus._network["legacy:5672"]
        bus._order(partial(setattr, legacy, "max_message_size", 100_000))
        bus.advance(1)
        before = legacy.connects
        sizes = [10, 90_000, 200_000, 110_000, 20]
        replies = [bus.sender.request_async("", "old.work", size, host="legacy", timeout=30) for size in sizes]
        for size, reply in zip(sizes, replies, strict=True):
            if size < 100_000:
                assert reply.result().text == "x" * size
            else:
                with pytest.raises(RemoteError, match="max_message_size"):
                    reply.result()
        assert legacy.connects == before + 1, "that of the Sender"


def test_a_queue_that_is_not_there_is_asked_for_again() -> None:
    others = Services("others")

    @others.consume("theirs", passive=True)
    def work(body: bytes) -> None: ...

    with servicebus.testing.bus(others, brokers=1) as bus:
        bus.advance(5)
        worker = bus.node._workers[0]
        assert "theirs" in worker.snapshot()["problems"][0] and not worker.snapshot()["healthy"]
        with pytest.raises(SendRefused):
            bus.sender.publisher_to("", "theirs").publish(b"x")
        assert isinstance(worker.consumer.plain, PlainHosts)


def test_a_consumer_that_the_broker_has_forgotten_is_missed() -> None:
    """It consumed nothing from then on, and said that it was well."""
    others = Services("others")

    @others.consume("theirs", host="mq-1")
    def work(body: bytes) -> None: ...

    with servicebus.testing.bus(others, brokers=2) as bus:
        bus.advance(1)
        bus._order(bus._network["mq-1:5672"].queues["theirs"].consumers.clear)
        bus.sender.publisher_to("", "theirs").publish(b"x")
        bus.advance(5)
        assert not bus.history.only("executed")
        bus.advance(10)
        assert [entry.target for entry in bus.history.only("executed")] == ["plain others.work"]


@pytest.mark.parametrize("is_known_elsewhere", [False, True], ids=["refused", "away"])
def test_what_a_lost_broker_may_have_is_not_said_to_be_refused(is_known_elsewhere: bool) -> None:
    """It said so once the next broker had refused it, or was away; and the first one had it."""
    others = Services("others")

    @others.consume("theirs", host="mq-1")
    def work(body: bytes) -> None: ...

    with servicebus.testing.bus(others, brokers=2) as bus:
        publisher = bus.sender.publisher_to("", "theirs")
        publisher.publish(b"first")
        first, second = bus._network["mq-1:5672"], bus._network["mq-2:5672"]
        bus._order(partial(setattr, first, "holds_confirms", True))
        published = publisher.publish_async(b"second", timeout=5)
        bus.advance(0.1)
        if is_known_elsewhere:
            bus._order(second.stop)
        bus._order(first.stop)
        bus.advance(6)
        with pytest.raises(SendUnconfirmed):
            published.result(0)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": "q", "routing_key": "k"}, "needs an exchange"),
        ({"queue": "q", "exchange": "x"}, "needs a routing key"),
        ({"queue": "q", "prefetch": 0}, "prefetch"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(how: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Services("others").consume(**how)


def test_a_host_or_publisher_that_there_is_not_is_refused() -> None:
    others = Services("others")

    @others.consume("q", host="nowhere")
    def work(body: bytes) -> None: ...

    with pytest.raises(ConfigurationError, match="its host must be"):
        ServiceBus(Configuration(CONFIG)).include(others)
    second = Services("others")

    @second.consume("q")
    def publishes(body: bytes, letters: PlainPublisher) -> None: ...

    with pytest.raises(ConfigurationError, match="letters"):
        ServiceBus(Configuration(CONFIG)).include(second)
    bus = ServiceBus(Configuration(CONFIG))
    bus.add_publisher("letters", "x", "k")
    bus.include(second)
    with pytest.raises(ConfigurationError, match="already"):
        bus.add_publisher("letters")


def test_messages_without_an_id_have_different_ones_in_each_worker() -> None:
    """Forks of one process gave their first ones the same: the journal took one for a double, and it was lost."""
    config, keyring, channel = Configuration(CONFIG), Keyring(["a secret of the test"]), cast(Any, None)
    protocols = [PlainProtocol(config, keyring, "others.work", PlainQueue("q")) for _ in range(2)]
    ids = [protocol.decode_request(Delivery(channel, 1, b"x")).id for protocol in protocols for _ in range(2)]
    assert len(set(ids)) == 4


def test_other_programs_are_no_part_of_the_description() -> None:
    others = Services("others")

    @others.consume("q")
    def work(body: bytes) -> None: ...

    bus = ServiceBus(Configuration(CONFIG))
    bus.include(others)
    assert not list(bus.contract()) and not list(others.contract())
    assert {PlainClient, PlainLink, PlainProtocol}


class ByHand:
    """A loop whose callbacks run at once, and a link that only remembers what it was given."""

    def __init__(self, *_: Any) -> None:
        self.is_up = True
        self.later: list[Any] = []

    def post(self, callback: Any) -> None:
        callback()

    def call_later(self, _seconds: float, callback: Any) -> None:
        self.later.append(callback)

    def take(self, job: PlainJob) -> None:
        job.was_published = True

    def close(self) -> None: ...
    def drop(self, job: PlainJob) -> None: ...
    def look(self, now: float) -> None: ...


@pytest.mark.parametrize(
    ("is_request", "then", "told"),
    [
        (False, ["lost"], SendUnconfirmed),
        (False, ["lost", "refused"], SendUnconfirmed),
        (False, ["refused", "refused"], SendRefused),
        (False, ["refused"], SendUnconfirmed),  # it is on its way over the second one
        (True, ["lost", "refused"], CallInterrupted),
        (True, ["refused", "refused"], SendRefused),
    ],
)
@pytest.mark.parametrize("end", ["the deadline", "close"])
def test_what_may_be_with_a_broker_is_not_said_to_be_nowhere(
    monkeypatch: pytest.MonkeyPatch, is_request: bool, then: list[str], told: type[Exception], end: str
) -> None:
    """A publish over a link that was lost may have arrived, whatever the next broker makes of it."""
    monkeypatch.setattr("servicebus.client.plain_client.PlainLink", ByHand)
    loop: Any = ByHand()
    client = PlainClient(loop, Configuration(CONFIG | {"hosts": ["mq-a", "mq-b"]}), loop)
    hosts = ["mq-a:5672", "mq-b:5672"]
    job = PlainJob(
        "x", "k", b"", MessageProperties(), time.monotonic() - 1, Future(), hosts, is_request=is_request, resend=True
    )
    client.submit(job)
    for what, host in zip(then, hosts, strict=False):
        if what == "refused":
            job.was_published = False  # as its link says before
        getattr(client, what)(job, host, "said no")
    if end == "close":
        client.close()
    for callback in loop.later:
        callback()
    assert type(job.future.exception(0)) is told
