"""The contract of messages: publishing, delivering, settling, expiring."""

from __future__ import annotations

from typing import Any

import pytest
from transport_rigs import Line, Peer, Rig

from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.steps import (
    cancel_consumer,
    consume,
    declare_queue,
    delete_queue,
    get_message,
    save_acks,
    set_prefetch,
)
from servicebus.transport.tables import Unreadable
from servicebus.wire.envelope import DIRECT_REPLY_TO

QUEUE = "contract.work"
DEAD = "contract.dead"


@pytest.fixture
def line(peer: Peer) -> Line:
    """A channel in confirm mode, and a queue."""
    line = peer.channel(confirms=True)
    line.ask(declare_queue(QUEUE, durable=True))
    return line


def left(line: Line, queue: str = QUEUE) -> int:
    """Messages that nobody holds."""
    ((_, messages, _),) = line.ask(declare_queue(queue, passive=True))
    return int(messages)


# -- publishing ----------------------------------------------------------------------------------------------------


def test_every_publish_is_confirmed_by_its_number(line: Line) -> None:
    assert line.publish(QUEUE, *"abcdefgh", persistent=True) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert line.outcomes(8) == dict.fromkeys(range(1, 9), True)
    assert line.publish(QUEUE, "i") == [9]
    assert line.outcomes(9)[9]
    assert left(line) == 9


def test_what_no_queue_takes_comes_back_before_its_confirm(line: Line) -> None:
    line.publish("contract.nowhere", "lost", message_id="m1", correlation_id="c1")
    line.outcomes(1)
    returned, confirm = line.events
    assert isinstance(returned, Returned)
    about = (returned.exchange, returned.routing_key, returned.message_id, returned.correlation_id, returned.body)
    assert about == ("", "contract.nowhere", "m1", "c1", b"lost")
    assert "NO_ROUTE" in returned.reason
    assert confirm == (1, False, True)


def test_what_need_not_be_routed_is_confirmed_and_gone(line: Line) -> None:
    line.publish("contract.nowhere", "lost", mandatory=False)
    assert line.outcomes(1) == {1: True}
    assert line.returned == []


def test_a_full_queue_refuses_and_takes_again_when_it_has_room(line: Line) -> None:
    full = {"x-max-length": 2, "x-overflow": "reject-publish"}
    line.ask(declare_queue("contract.full", durable=True, arguments=full))
    for number in range(1, 5):
        line.publish("contract.full", str(number))
        line.outcomes(number)
    refused = [number for number, is_ack in line.outcomes(4).items() if not is_ack]
    assert refused and refused[-1] == 4 and 1 not in refused
    assert line.returned == []
    (delivery,) = line.ask(get_message("contract.full"))
    line.open_channel.ack(delivery.tag)
    line.rig.until(lambda: left(line, "contract.full") < 2)
    line.publish("contract.full", "again")
    assert line.outcomes(5)[5]


def test_of_another_full_queue_the_oldest_goes(line: Line) -> None:
    line.ask(declare_queue("contract.short", durable=True, arguments={"x-max-length": 2}))
    line.publish("contract.short", "a", "b", "c")
    assert line.outcomes(3) == {1: True, 2: True, 3: True}
    line.ask(consume("contract.short", line.got.append))
    assert line.bodies(2) == ["b", "c"]


def test_properties_arrive(line: Line) -> None:
    headers = {"text": "täxt", "number": 7, "yes": True, "table": {"list": [1, "two"]}}
    line.ask(consume(QUEUE, line.got.append))
    line.publish(QUEUE, "all", correlation_id="c", reply_to="r", message_id="m", headers=headers)
    line.publish(QUEUE, "none")
    assert line.bodies(2) == ["all", "none"]
    first, second = line.got
    assert (first.correlation_id, first.reply_to, first.message_id, first.headers) == ("c", "r", "m", headers)
    assert (second.correlation_id, second.reply_to, second.message_id, second.headers) == (None, None, None, None)
    assert first.channel is line.open_channel
    assert first.flaw is None
    assert first.tag < second.tag


def test_what_cannot_be_encoded_raises_and_is_not_counted(line: Line) -> None:
    with pytest.raises(Unreadable, match="object"):
        line.publish(QUEUE, "odd", headers={"x": object()})
    assert line.publish(QUEUE, "next") == [1]
    assert line.outcomes(1) == {1: True}


def test_of_a_body_that_is_too_long_the_beginning_comes_with_its_flaw(rig: Rig) -> None:
    peer = Peer(rig, most_bytes=1000).opened()
    line = peer.channel()
    line.ask(declare_queue(QUEUE, durable=True), consume(QUEUE, line.got.append))
    line.publish(QUEUE, "x" * 5000)
    line.bodies(1)
    assert line.got[0].flaw is None, "up to a megabyte all is kept"
    peer.connection.abort("done")


# -- delivering ----------------------------------------------------------------------------------------------------


def test_deliveries_come_in_order_and_no_more_than_the_window(peer: Peer, line: Line) -> None:
    line.publish(QUEUE, *"abcd")
    line.outcomes(4)
    consumer = peer.channel()
    consumer.ask(set_prefetch(2), consume(QUEUE, consumer.got.append))
    assert consumer.bodies(2) == ["a", "b"]
    consumer.sync()
    assert consumer.bodies(2) == ["a", "b"]
    consumer.open_channel.ack(consumer.got[1].tag)
    assert consumer.bodies(3) == ["a", "b", "c"]
    consumer.open_channel.ack(consumer.got[0].tag)
    assert consumer.bodies(4) == ["a", "b", "c", "d"]


def test_consumers_are_served_round_robin(peer: Peer, line: Line) -> None:
    first, second = peer.channel(), peer.channel()
    for each in (first, second):
        each.ask(set_prefetch(2), consume(QUEUE, each.got.append))
    line.publish(QUEUE, *"abcd")
    assert sorted([first.bodies(2), second.bodies(2)]) == [["a", "c"], ["b", "d"]]


def test_what_is_delivered_without_acks_is_gone(peer: Peer, line: Line) -> None:
    consumer = peer.channel()
    consumer.ask(set_prefetch(1), consume(QUEUE, consumer.got.append, no_ack=True))
    line.publish(QUEUE, *"abc")
    assert consumer.bodies(3) == ["a", "b", "c"]
    consumer.open_channel.close()
    consumer.rig.until(lambda: consumer.failure)
    assert left(line) == 0


def test_acks_that_may_wait_arrive(peer: Peer, line: Line) -> None:
    consumer = peer.channel()
    consumer.ask(save_acks(8), consume(QUEUE, consumer.got.append))
    line.publish(QUEUE, *"abc")
    consumer.bodies(3)
    for delivery in (consumer.got[2], consumer.got[0]):
        consumer.open_channel.ack(delivery.tag)
    consumer.open_channel.close()
    consumer.rig.until(lambda: consumer.failure)
    (delivery,) = line.ask(get_message(QUEUE))
    assert delivery.body == b"b"
    assert line.ask(get_message(QUEUE)) == [None]


def test_what_is_requeued_comes_again_before_what_follows(peer: Peer, line: Line) -> None:
    line.publish(QUEUE, *"abcd")
    line.outcomes(4)
    consumer = peer.channel()
    consumer.ask(set_prefetch(2), consume(QUEUE, consumer.got.append))
    consumer.bodies(2)
    consumer.open_channel.reject(consumer.got[0].tag, requeue=True)
    assert consumer.bodies(3) == ["a", "b", "a"]
    assert [delivery.redelivered for delivery in consumer.got] == [False, False, True]


def test_what_a_closed_channel_held_goes_back_to_its_place(peer: Peer, line: Line) -> None:
    line.publish(QUEUE, *"abcd")
    line.outcomes(4)
    consumer = peer.channel()
    consumer.ask(set_prefetch(2), consume(QUEUE, consumer.got.append))
    consumer.bodies(2)
    consumer.open_channel.close()
    consumer.rig.until(lambda: consumer.failure)
    line.ask(consume(QUEUE, line.got.append))
    assert line.bodies(4) == ["a", "b", "c", "d"]
    assert [delivery.redelivered for delivery in line.got] == [True, True, False, False]


def test_what_a_closed_channel_held_goes_to_a_consumer_that_waits(peer: Peer, line: Line) -> None:
    first, second = peer.channel(), peer.channel()
    first.ask(set_prefetch(1), consume(QUEUE, first.got.append))
    line.publish(QUEUE, "a")
    first.bodies(1)
    second.ask(set_prefetch(1), consume(QUEUE, second.got.append))
    first.open_channel.close()
    assert second.bodies(1) == ["a"]


def test_a_cancelled_consumer_gets_nothing_more_and_may_settle_what_it_has(peer: Peer, line: Line) -> None:
    line.publish(QUEUE, *"abc")
    line.outcomes(3)
    consumer = peer.channel()
    _, tag = consumer.ask(set_prefetch(2), consume(QUEUE, consumer.got.append))
    consumer.bodies(2)
    consumer.ask(cancel_consumer(tag))
    for delivery in consumer.got:
        consumer.open_channel.ack(delivery.tag)
    consumer.sync()
    assert consumer.bodies(0) == ["a", "b"]
    assert left(line) == 1


def test_a_cancel_without_an_answer_takes_effect(peer: Peer, line: Line) -> None:
    consumer = peer.channel()
    (tag,) = consumer.ask(consume(QUEUE, consumer.got.append))
    consumer.open_channel.cancel(tag)
    consumer.sync()
    line.publish(QUEUE, "a")
    line.outcomes(1)
    assert left(line) == 1


def test_messages_are_taken_one_by_one(line: Line) -> None:
    line.publish(QUEUE, "a", message_id="m", headers={"x": 1})
    line.outcomes(1)
    (delivery,) = line.ask(get_message(QUEUE))
    assert isinstance(delivery, Delivery)
    assert (delivery.body, delivery.message_id, delivery.headers) == (b"a", "m", {"x": 1})
    assert line.ask(get_message(QUEUE)) == [None]
    line.open_channel.reject(delivery.tag, requeue=True)
    (again,) = line.ask(get_message(QUEUE))
    line.open_channel.ack(again.tag)
    assert left(line) == 0


def test_a_consumer_whose_queue_is_deleted_is_told_so(peer: Peer, line: Line) -> None:
    consumer = peer.channel()
    consumer.ask(consume(QUEUE, consumer.got.append))
    line.ask(delete_queue(QUEUE))
    line.rig.until(lambda: consumer.failure)
    assert f"cancelled the consumer of queue {QUEUE}, which was deleted" in str(consumer.failure)


# -- dying ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(line: Line) -> Line:
    """*line*, and a queue whose dead letters go to another."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    line.ask(delete_queue(QUEUE), declare_queue(QUEUE, durable=True, arguments=arguments))
    line.ask(declare_queue(DEAD, durable=True), consume(DEAD, line.got.append))
    return line


def deaths(delivery: Delivery) -> list[tuple[Any, Any]]:
    return [(death["reason"], death["queue"]) for death in (delivery.headers or {})["x-death"]]


def test_what_expires_goes_where_dead_letters_go(mortal: Line) -> None:
    mortal.publish(QUEUE, "short", expiration_ms=50, message_id="m", headers={"mine": 1})
    assert mortal.bodies(1) == ["short"]
    (letter,) = mortal.got
    assert letter.message_id == "m"
    assert (letter.headers or {})["mine"] == 1
    assert deaths(letter) == [("expired", QUEUE)]


def test_of_two_times_to_live_the_shorter_one_counts(line: Line) -> None:
    arguments = {"x-message-ttl": 60, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    line.ask(delete_queue(QUEUE), declare_queue(QUEUE, durable=True, arguments=arguments))
    line.ask(declare_queue(DEAD, durable=True), consume(DEAD, line.got.append, no_ack=True))
    line.publish(QUEUE, "by its queue", expiration_ms=600_000)
    assert line.bodies(1) == ["by its queue"]


def test_a_message_expires_when_those_before_it_have_left(mortal: Line) -> None:
    mortal.publish(QUEUE, "long", expiration_ms=300)
    mortal.publish(QUEUE, "short", expiration_ms=50)
    assert mortal.bodies(2) == ["long", "short"]


def test_what_comes_back_to_its_queue_expires_there(peer: Peer, mortal: Line) -> None:
    consumer = peer.channel()
    _, tag = consumer.ask(set_prefetch(1), consume(QUEUE, consumer.got.append))
    mortal.publish(QUEUE, "a", expiration_ms=300)
    consumer.bodies(1)
    consumer.ask(cancel_consumer(tag))
    consumer.open_channel.reject(consumer.got[0].tag, requeue=True)
    assert mortal.bodies(1) == ["a"]
    assert deaths(mortal.got[0]) == [("expired", QUEUE)]


def test_what_is_rejected_goes_there_too(peer: Peer, mortal: Line) -> None:
    mortal.publish(QUEUE, "bad")
    consumer = peer.channel()
    consumer.ask(consume(QUEUE, consumer.got.append))
    consumer.bodies(1)
    consumer.open_channel.reject(consumer.got[0].tag, requeue=False)
    assert mortal.bodies(1) == ["bad"]
    assert deaths(mortal.got[0]) == [("rejected", QUEUE)]


def test_dead_letters_to_an_exchange_that_is_not_there_are_gone(peer: Peer, line: Line) -> None:
    arguments = {"x-dead-letter-exchange": "contract.missing"}
    line.ask(delete_queue(QUEUE), declare_queue(QUEUE, durable=True, arguments=arguments))
    line.publish(QUEUE, "bad")
    consumer = peer.channel()
    consumer.ask(consume(QUEUE, consumer.got.append))
    consumer.bodies(1)
    consumer.open_channel.reject(consumer.got[0].tag, requeue=False)
    consumer.sync()
    assert consumer.failure is None and consumer.open_channel.is_open


# -- direct replies ------------------------------------------------------------------------------------------------


def test_a_direct_reply_finds_its_caller(peer: Peer, line: Line) -> None:
    caller, node = peer.channel(), peer.channel()
    caller.ask(consume(DIRECT_REPLY_TO, caller.got.append, no_ack=True))
    node.ask(consume(QUEUE, node.got.append))
    caller.publish(QUEUE, "question", correlation_id="c", reply_to=DIRECT_REPLY_TO)
    node.bodies(1)
    address = node.got[0].reply_to
    assert address is not None and address.startswith(f"{DIRECT_REPLY_TO}.")
    node.publish(address, "answer", correlation_id="c", mandatory=False)
    assert caller.bodies(1) == ["answer"]
    assert caller.got[0].correlation_id == "c"
    assert caller.events == []


def test_a_direct_reply_to_a_caller_that_is_gone_is_dropped(rig: Rig, line: Line) -> None:
    caller = Peer(rig).opened()
    asks = caller.channel()
    asks.ask(consume(DIRECT_REPLY_TO, asks.got.append, no_ack=True))
    asks.publish(QUEUE, "question", reply_to=DIRECT_REPLY_TO)
    line.ask(consume(QUEUE, line.got.append))
    line.bodies(1)
    caller.connection.close()
    rig.until(lambda: caller.loss)
    line.publish(line.got[0].reply_to or "", "answer", mandatory=False)
    assert line.outcomes(1) == {1: True}
    assert line.open_channel.is_open


def test_who_does_not_listen_for_direct_replies_cannot_ask_for_one(peer: Peer, line: Line) -> None:
    caller = peer.channel()
    caller.publish(QUEUE, "question", reply_to=DIRECT_REPLY_TO)
    line.rig.until(lambda: caller.failure)
    assert caller.failure is not None and caller.failure.reply_code == 406


def test_direct_replies_are_not_acknowledged(peer: Peer) -> None:
    caller = peer.channel()
    error = caller.refused(consume(DIRECT_REPLY_TO, caller.got.append))
    assert error.reply_code == 406
