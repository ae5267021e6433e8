"""What a Sender makes of the chunks of log records that come: what is missing, what comes twice, what is no chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from virtual_bus import SECRET, VirtualBus, virtual_bus

from servicebus._discovering import begin_tail, tail_logs
from servicebus.client.tails import LogTail
from servicebus.errors import AddressError, EnvelopeError
from servicebus.protocol.tail import (
    TailedRecord,
    TailHead,
    TailQuestion,
    as_row,
    read_row,
    read_tail_items,
    read_tail_question,
    tail_of,
    write_tail_head,
    write_tail_record,
)
from servicebus.transport.interface import Delivery, Flaw
from servicebus.wire.jsontext import encode_json
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import Chunk, items_id, write_chunk

TAIL = "0123456789abcdef"
HEAD = TailHead("NODE-01", "shop-1", "worker mq-a", 4711, "s1", 0)
RECORD = TailedRecord(1.5, 30, "WARNING", "shop", "MainThread", "text", service="math.add", request_id="x-1")
NOBODY: Any = None


def tail() -> LogTail:
    return LogTail(TailQuestion(TAIL, "*"))


def heard(to: LogTail, first: int, count: int, head: TailHead = HEAD, broker: str = "mq-a") -> list[Any]:
    """What is taken after such a chunk: texts, and how many are missing."""
    records = [RECORD._replace(message=f"{number}") for number in range(first, first + count)]
    to.heard(broker, head, first, records, 1.0)
    return [each.left_out if each.record is None else each.record.message for each in to.take(0)]


# -- what comes --------------------------------------------------------------------------------------------------------


def test_records_come_in_their_order_with_where_they_come_from() -> None:
    to = tail()
    assert heard(to, 0, 2) == ["0", "1"] and heard(to, 2, 1) == ["2"]
    to.heard("mq-a", HEAD, 3, [RECORD, RECORD._replace(process="master", pid=815)], 1.0)
    first, second = to.take(0)
    assert first[:5] == ("NODE-01", "shop-1", "mq-a", "worker mq-a", 4711)
    assert second[:5] == ("NODE-01", "shop-1", "mq-a", "master", 815)
    assert to.workers == 1 and list(to.nodes) == ["NODE-01"]


def test_a_chunk_that_comes_again_is_dropped() -> None:
    to = tail()
    assert heard(to, 0, 2) == ["0", "1"] and heard(to, 2, 2) == ["2", "3"]
    assert heard(to, 0, 2) == heard(to, 2, 2) == []
    assert heard(to, 4, 1) == ["4"]


def test_a_chunk_that_is_lost_and_what_its_node_left_out_are_counted() -> None:
    to = tail()
    assert heard(to, 0, 2) == ["0", "1"]
    assert heard(to, 5, 1) == [3, "5"], "lost on their way"
    assert heard(to, 6, 0, HEAD._replace(left_out=4)) == [4]
    assert heard(to, 6, 1, HEAD._replace(left_out=4)) == ["6"], "told once"
    assert heard(to, 8, 1, HEAD._replace(left_out=6)) == [3, "8"]


def test_workers_count_by_themselves_and_anew_in_a_new_session() -> None:
    to = tail()
    assert heard(to, 0, 1) == ["0"]
    assert heard(to, 0, 1, HEAD._replace(pid=4712)) == ["0"]
    assert heard(to, 0, 1, broker="mq-b") == ["0"]
    assert heard(to, 0, 1, HEAD._replace(session="s2")) == ["0"]
    assert to.workers == 4
    to.forget(62.0)
    assert to.workers == 0


def test_what_is_not_taken_is_bounded_and_counted() -> None:
    to = tail()
    to.heard("mq-a", HEAD, 0, [RECORD] * 20_000, 1.0)
    to.heard("mq-a", HEAD, 20_000, [RECORD] * 5, 1.0)
    left_out, *taken = to.take(0)
    assert left_out.left_out == 5 and left_out.node == "" and len(taken) == 20_000
    assert to.take(0) == []


def test_refusals_are_kept_once_and_not_without_end() -> None:
    to = tail()
    for number in range(1000):
        to.refused(f"no {number % 500}")
    assert len(to.refusals) == 100


def test_who_waits_is_woken_by_its_end() -> None:
    to = tail()
    to.end()
    assert to.take(30) == [] and to.has_ended


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_question_is_read_as_it_was_written() -> None:
    for question in (
        TailQuestion(TAIL, "NODE-*", 30, "math.*", "0123456789abcdef-1"),
        tail_of(TAIL, "N", 0),
    ):
        assert read_tail_question(encode_json(question.to_json())) == question
    longest = TailQuestion(TAIL, "*", lease_s=1e9)
    assert read_tail_question(encode_json(longest.to_json())).lease_s == 60
    with pytest.raises(AddressError):
        tail_of(TAIL, "a.b", 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"tail": "x"}, {"tail": 1}, {"nodes": 1}, {"level": "30"}, {"level": True}, {"lease": 0}, {"lease": "1"},
        {"service": 1}, {"request": "x" * 301}, {"lease": None},
    ],
)  # fmt: skip
def test_a_question_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="malformed"):
        read_tail_question(encode_json({**TailQuestion(TAIL, "*").to_json(), **changed}))


def test_items_are_read_as_they_were_written() -> None:
    rows = [RECORD, RECORD._replace(message="\ud800\x00", process="master", pid=1, caller="shop", span_id="a" * 16)]
    text = b"[%s]" % b",".join([write_tail_head(HEAD), *map(write_tail_record, rows)])
    assert read_tail_items(text) == (HEAD, rows)


@pytest.mark.parametrize(
    "items",
    [
        None, [], [1], [{}], [{**HEAD._asdict(), "pid": "1"}], [HEAD._asdict(), 1], [HEAD._asdict(), []],
        [HEAD._asdict(), [*as_row(RECORD)[:6], 1]], [HEAD._asdict(), [*as_row(RECORD)[:6], {"service": 1}]],
        [HEAD._asdict(), [*as_row(RECORD)[:6], {"pid": "1"}]], [HEAD._asdict(), ["now", *as_row(RECORD)[1:]]],
    ],
)  # fmt: skip
def test_items_that_are_none_are_refused(items: Any) -> None:
    with pytest.raises(EnvelopeError, match="malformed"):
        read_tail_items(encode_json(items))


def test_a_row_says_only_what_is_known() -> None:
    assert as_row(RECORD)[6] == {"service": "math.add", "request_id": "x-1"}
    assert read_row([*as_row(RECORD), "of a later version"]) == RECORD


# -- over the bus ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Any:
    with virtual_bus(monkeypatch) as bus:
        yield bus


def requests(bus: VirtualBus) -> dict[str, Any]:
    return bus.engine.discoveries.tails._asked


def test_all_are_asked_again_and_again_each_time_by_a_request_of_its_own(bus: VirtualBus) -> None:
    bus.node()
    with tail_logs(bus.sender, "*") as to:
        bus.time.advance(1)
        first = set(requests(bus))
        assert len(first) == 2, "one over each broker"
        for _ in range(20):
            bus.time.advance(3)
            to.take(0)
        later = requests(bus)
        assert not first & set(later) and len(later) <= 16
    bus.time.settle()
    assert not requests(bus)


def test_a_broker_that_comes_back_is_asked_at_once(bus: VirtualBus) -> None:
    bus.node()
    with tail_logs(bus.sender, "*") as to:
        bus.time.advance(1)
        bus.brokers[0].refuse()
        bus.brokers[0].drop()
        bus.time.advance(3.5)
        assert list(to.problems) == ["mq-a:5672"]
        bus.brokers[0].accept()
        bus.time.until(lambda: bus.links[0].is_up)
        assert not to.problems


def chunk_for(wire_id: str, token: str, items: bytes, secret: str = SECRET) -> bytes:
    return write_chunk(Keyring([secret]), token, Chunk(wire_id, 1, 0, 1, "-", False, items))


def test_what_is_not_signed_for_this_request_is_not_believed(bus: VirtualBus) -> None:
    bus.node()
    to = begin_tail(bus.sender, "*")
    bus.time.advance(1)
    (wire_id, asked), (other_id, other) = requests(bus).items()
    good = b"[%s,%s]" % (write_tail_head(HEAD), write_tail_record(RECORD))
    bodies = {
        "another secret": chunk_for(wire_id, asked.token, good, "of a stranger"),
        "another request": chunk_for(other_id, other.token, good),
        "no chunk": b"<chunk",
        "no items": chunk_for(wire_id, asked.token, b"[]"),
    }
    tails = bus.engine.discoveries.tails
    for what, body in bodies.items():
        before = tails.unverified
        assert tails.answered(asked.link, Delivery(NOBODY, 1, body, correlation_id=items_id(wire_id)), 1.0), what
        assert tails.unverified == before + 1, what
    right = chunk_for(wire_id, asked.token, good)
    delivery = Delivery(NOBODY, 1, right, correlation_id=items_id(wire_id))
    assert tails.answered(other.link, delivery, 1.0) and tails.unverified == 5, "over another broker"
    flawed = delivery._replace(flaw=Flaw("unreadable", "bad header"))
    assert tails.answered(asked.link, flawed, 1.0) and tails.unverified == 6
    assert not tails.answered(asked.link, delivery._replace(correlation_id="0123456789abcdef-7/items"), 1.0)
    assert to.take(0) == []
    assert tails.answered(asked.link, delivery, 1.0) and tails.unverified == 6 == bus.engine.discoveries.unverified
    assert [each.record for each in to.take(0)] == [RECORD]


def test_a_request_that_comes_back_is_no_problem(bus: VirtualBus) -> None:
    with tail_logs(bus.sender, "*") as to:
        bus.time.advance(2)
        assert not to.problems and not to.nodes


def test_a_question_is_that_of_the_vectors(bus: VirtualBus) -> None:
    cases = json.loads((Path(__file__).parents[1] / "data" / "wire" / "events.json").read_text())
    vector = next(each for each in cases if each["name"] == "tail")
    question = tail_of("63a1f0c2b4d5e6f7", "NODE-*", 30, "shop.*")
    assert encode_json(question.to_json()).decode() == vector["params"]
    assert read_tail_question(vector["params"].encode()) == question
    _, outgoing = bus.engine.newest.encode_tail(vector["id"], question)
    assert outgoing.routing_key == "*.discover" and b"<service>tail</service>" in outgoing.body
