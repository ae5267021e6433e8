"""The contract of channels: questions, refusals and their ends."""

from __future__ import annotations

from typing import Any

import pytest
from transport_rigs import LARGEST_MESSAGE, Peer, Rig

from servicebus._plain import MessageProperties
from servicebus.errors import ConnectFailed, MessageTooLarge, QueueConflict, QueueStranded
from servicebus.transport.interface import Asked, Origin, Script
from servicebus.transport.properties import read_all, write_all
from servicebus.transport.steps import (
    bind_queue,
    cancel_consumer,
    consume,
    declare_exchange,
    declare_queue,
    delete_queue,
    get_message,
    unbind_queue,
)

QUEUE = "contract.work"


def nothing(_: Any) -> None:
    return None


def test_one_is_open_until_it_is_closed_and_then_has_no_effect(rig: Rig, peer: Peer) -> None:
    line = peer.channel()
    assert line.open_channel.is_open
    assert line.open_channel.frame_max == 0 or line.open_channel.frame_max >= 4096
    line.open_channel.close()
    assert not line.open_channel.is_open and line.failure is None
    line.open_channel.close()
    rig.until(lambda: line.failure)
    assert line.failure is not None and not line.failure.reply_code
    assert line.publish(QUEUE, "x") == [0]
    line.open_channel.ack(1)
    line.open_channel.reject(2, requeue=True)
    line.open_channel.cancel("nobody")
    line.open_channel.run(_ for _ in ())
    assert peer.channel().ask(declare_queue(QUEUE, durable=True)) == [(QUEUE, 0, 0)]


def test_a_script_that_its_channel_outlives_ends_and_one_that_it_does_not_is_closed(rig: Rig, peer: Peer) -> None:
    line, ends = peer.channel(), list[str]()

    def script() -> Script:
        try:
            yield declare_queue(QUEUE, durable=True)
            yield declare_queue("contract.missing", passive=True)
        finally:
            ends.append("closed")

    line.open_channel.run(script(), lambda: ends.append("done"))
    assert ends == []
    rig.until(lambda: line.failure)
    assert ends == ["closed"]


def test_the_queue_that_is_asked_about_is_known_until_the_answer(rig: Rig, peer: Peer) -> None:
    line, answers = peer.channel(), list[Any]()
    channel = line.open_channel
    channel.declare_queue(QUEUE, answers.append, durable=True)
    assert channel.asked == Asked(QUEUE, is_declaration=True)
    rig.until(lambda: answers)
    assert answers == [(QUEUE, 0, 0)]
    assert channel.asked is None
    channel.delete_queue(QUEUE, answers.append)
    assert channel.asked == Asked(QUEUE, is_declaration=False)
    rig.until(lambda: len(answers) == 2)
    assert (answers[1], channel.asked) == (0, None)


def test_a_queue_without_a_name_gets_one(peer: Peer) -> None:
    line = peer.channel()
    (first, *_), (second, *_) = line.ask(declare_queue(exclusive=True), declare_queue(exclusive=True))
    assert first and second and first != second


def test_a_queue_that_is_not_there_closes_the_channel_and_no_other(peer: Peer) -> None:
    other = peer.channel()
    assert peer.channel().refused(declare_queue("contract.missing", passive=True)).reply_code == 404
    assert peer.channel().refused(consume("contract.missing", nothing)).reply_code == 404
    assert peer.channel().refused(get_message("contract.missing")).reply_code == 404
    assert peer.channel().refused(declare_exchange("contract.missing", passive=True)).reply_code == 404
    other.sync()
    assert other.open_channel.is_open


def test_what_follows_a_refusal_on_its_channel_is_not_done(peer: Peer) -> None:
    line = peer.channel()
    line.open_channel.declare_queue("contract.missing", nothing, passive=True)
    line.publish(QUEUE, "ignored")
    peer.channel().ask(declare_queue(QUEUE, durable=True))
    line.rig.until(lambda: line.failure)
    assert peer.channel().ask(declare_queue(QUEUE, durable=True)) == [(QUEUE, 0, 0)]


@pytest.mark.parametrize("other", [{"auto_delete": True}, {"arguments": {"x-max-length": 5}}, {"arguments": {}}])
def test_a_queue_of_another_form_is_a_conflict(peer: Peer, other: dict[str, Any]) -> None:
    peer.channel().ask(declare_queue(QUEUE, durable=True, arguments={"x-max-length": 7}))
    how = {"durable": True, "arguments": {"x-max-length": 7}, **other}
    error = peer.channel().refused(declare_queue(QUEUE, **how))
    assert isinstance(error, QueueConflict)
    assert (error.queue, error.reply_code) == (QUEUE, 406)
    assert peer.channel().ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 0, 0)], "a passive one takes any"


def test_an_exchange_of_another_form_is_refused(peer: Peer) -> None:
    peer.channel().ask(declare_exchange("contract", durable=True), declare_exchange("contract", durable=True))
    error = peer.channel().refused(declare_exchange("contract", durable=False))
    assert isinstance(error, ConnectFailed)
    assert (error.kind, error.reply_code) == ("topology", 406)


def test_whether_an_exchange_is_there_can_be_asked_without_its_form(peer: Peer) -> None:
    line = peer.channel()
    line.ask(declare_exchange("contract.form"))
    assert len(line.ask(declare_exchange("contract.form", durable=False, passive=True))) == 1


def test_what_was_not_to_be_answered_is_refused_all_the_same(peer: Peer) -> None:
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True))
    line.open_channel.bind_queue(QUEUE, "contract.missing", QUEUE)
    line.rig.until(lambda: line.failure)
    assert line.failure is not None and line.failure.reply_code == 404
    assert not isinstance(line.failure, QueueStranded), "it is about another question"


def test_an_exclusive_queue_is_one_connections_alone_and_goes_with_it(rig: Rig, peer: Peer) -> None:
    owner = Peer(rig).opened()
    ((name, *_),) = owner.channel().ask(declare_queue(exclusive=True))
    assert peer.channel().refused(declare_queue(name, passive=True)).reply_code == 405
    owner.connection.close()
    rig.until(lambda: owner.loss)
    assert peer.channel().refused(declare_queue(name, passive=True)).reply_code == 404


def test_an_exclusive_consumer_is_alone(peer: Peer) -> None:
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, nothing, exclusive=True))
    assert peer.channel().refused(consume(QUEUE, nothing)).reply_code == 403


def test_an_auto_delete_queue_goes_with_its_last_consumer(peer: Peer) -> None:
    line, other = peer.channel(), peer.channel()
    line.ask(declare_queue(QUEUE, durable=True, auto_delete=True))
    (first,) = line.ask(consume(QUEUE, nothing))
    other.ask(consume(QUEUE, nothing))
    line.ask(cancel_consumer(first))
    assert line.ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 0, 1)]
    other.open_channel.close()
    line.rig.until(lambda: other.failure)
    assert peer.channel().refused(declare_queue(QUEUE, passive=True)).reply_code == 404


def test_a_queue_that_nobody_uses_expires(peer: Peer) -> None:
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True, arguments={"x-expires": 300}))
    (tag,) = line.ask(consume(QUEUE, nothing))
    peer.channel().pass_time(600)
    assert line.ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 0, 1)]
    line.ask(cancel_consumer(tag))
    peer.channel().pass_time(600)
    assert peer.channel().refused(declare_queue(QUEUE, passive=True)).reply_code == 404


def test_a_queue_is_deleted_with_its_messages_or_only_if_it_has_none(peer: Peer) -> None:
    line = peer.channel(confirms=True)
    line.ask(declare_queue(QUEUE, durable=True))
    line.publish(QUEUE, "a", "b")
    line.outcomes(2)
    assert peer.channel().refused(delete_queue(QUEUE, if_empty=True)).reply_code == 406
    line.ask(consume(QUEUE, line.got.append))
    assert peer.channel().refused(delete_queue(QUEUE, if_unused=True)).reply_code == 406
    other = peer.channel()
    other.ask(declare_queue("contract.other", durable=True))
    other.publish("contract.other", "c")
    other.sync()
    assert peer.channel().ask(delete_queue("contract.other"), delete_queue("contract.other")) == [1, 0]


def test_what_is_bound_gets_what_is_published_until_it_is_unbound(peer: Peer) -> None:
    line = peer.channel(confirms=True)
    line.ask(declare_exchange("contract"), declare_queue(QUEUE, durable=True), bind_queue(QUEUE, "contract", "key"))
    line.publish("key", "a", exchange="contract")
    line.publish("other", "b", exchange="contract", mandatory=False)
    line.outcomes(2)
    assert line.ask(declare_queue(QUEUE, passive=True)) == [(QUEUE, 1, 0)]
    line.ask(unbind_queue(QUEUE, "contract", "key"), unbind_queue(QUEUE, "contract", "key"))
    line.publish("key", "c", exchange="contract")
    line.outcomes(3)
    assert [returned.body for returned in line.returned] == [b"c"]


def test_an_exchange_that_is_not_there_closes_the_channel(peer: Peer) -> None:
    line = peer.channel(confirms=True)
    line.publish("key", "a", exchange="contract.missing")
    line.rig.until(lambda: line.failure)
    assert line.failure is not None and line.failure.reply_code == 404


def test_a_message_that_is_too_large_closes_the_channel_and_says_the_limit(peer: Peer) -> None:
    line = peer.channel(confirms=True)
    line.publish(QUEUE, "x" * LARGEST_MESSAGE, mandatory=False)
    assert line.outcomes(1) == {1: True}
    line.publish(QUEUE, "x" * (LARGEST_MESSAGE + 1))
    line.rig.until(lambda: line.failure)
    assert isinstance(line.failure, MessageTooLarge)
    assert (line.failure.size, line.failure.limit) == (LARGEST_MESSAGE + 1, LARGEST_MESSAGE)


def test_a_delivery_that_is_acknowledged_twice_closes_the_channel(peer: Peer) -> None:
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True))
    line.open_channel.reject(7, requeue=True)
    line.rig.until(lambda: line.failure)
    assert line.failure is not None and line.failure.reply_code == 406


def test_what_is_consumed_whole_has_all_that_its_publisher_wrote(rig: Rig, peer: Peer) -> None:
    line = peer.channel()
    written = write_all(
        MessageProperties("text/plain", headers={"a": 1}, delivery_mode=2, priority=3, message_id="m", type="t")
    )
    line.ask(
        declare_exchange("contract.topic", kind="topic"),
        declare_queue(QUEUE, durable=True),
        bind_queue(QUEUE, "contract.topic", "#"),
        consume(QUEUE, line.got.append, whole=True),
    )
    line.publish("a.key", "body", exchange="contract.topic", properties=written)
    line.publish("a.key", "x" * 200_000, exchange="contract.topic", message_id="large")
    rig.until(lambda: len(line.got) == 2)
    first, second = line.got
    assert first.origin == Origin("contract.topic", "a.key", *written)
    assert (first.message_id, dict(first.headers or {})) == ("m", {"a": 1})
    assert second.origin is not None and read_all(*second.origin[2:]).message_id == "large"
    for delivery in line.got:
        line.open_channel.ack(delivery.tag)
    line.publish(QUEUE, "again", properties=first.origin[2:])
    rig.until(lambda: len(line.got) == 3)
    assert line.got[2].origin == Origin("", QUEUE, *written)


@pytest.mark.parametrize("kind", ["fanout", "direct", "topic"])
def test_exchanges_of_all_kinds_route(peer: Peer, kind: Any) -> None:
    line = peer.channel()
    name = f"contract.kind.{kind}"
    line.ask(declare_exchange(name, kind=kind), declare_queue(QUEUE, durable=True), bind_queue(QUEUE, name, "key"))
    line.publish("key", "one", exchange=name)
    line.publish("other", "two", exchange=name)
    line.sync()
    assert line.ask(declare_queue(QUEUE, durable=True)) == [(QUEUE, 2 if kind == "fanout" else 1, 0)]


def test_what_a_callback_raises_costs_nothing_else(rig: Rig, peer: Peer) -> None:
    line, got = peer.channel(), list[bytes]()

    def odd(delivery: Any) -> None:
        got.append(delivery.body)
        if delivery.body == b"b":
            raise OverflowError("of the test")

    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, odd, no_ack=True))
    line.publish(QUEUE, "a", "b", "c")
    rig.until(lambda: len(got) == 3)
    assert rig.loop.failures.count == 1
    rig.loop.failures.count = 0
