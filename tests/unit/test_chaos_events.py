"""The events of the rig: what its checker finds, and what its programs tell."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pika
import pytest
from envelopes import SECRET, new_id, signed
from histories import Made

from servicebus.client.future import Receipt
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable
from servicebus.service import ServiceBus
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.events import matches
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, write_dead_letter_stamp
from servicebus.wire.xmlcodec import encode_json, write_event
from tests.chaos import dead_letters, services
from tests.chaos.event_load import EventLoad
from tests.chaos.history import History, files, read_file, told_op
from tests.chaos.report import tables
from tests.chaos.subscribers import EVENTS, PATTERNS, TOLD, subscribers
from tests.chaos.tally import tally

A, B = "N.a.b", "N.c.d"


def confirmed() -> Made:
    return Made().at(1).event(7, A, B).at(2).confirmed(7).at(3)


class TestEachSubscriptionOnce:
    def test_an_event_that_each_has_executed_is_fine(self) -> None:
        result = confirmed().executed(7, subscriber=A).executed(7, subscriber=B).result()
        assert result.is_clean and result.findings["I12"].checked == 2

    def test_a_subscription_that_did_not_get_it_is_named(self) -> None:
        result = confirmed().executed(7, subscriber=A).result()
        (offence,) = result.findings["I12"].offences
        assert B in offence.text and [finding.name for finding in result.broken] == ["I12"]

    def test_it_may_be_a_dead_letter_of_one(self) -> None:
        made = confirmed().executed(7, subscriber=A)
        made.started(7, subscriber=B).finished(7, subscriber=B, verdict="failed")
        assert made.broken() == {"I12"}
        assert made.dead(7, subscriber=A).broken() == {"I12"}
        assert confirmed().executed(7, subscriber=A).dead(7, subscriber=B).broken() == set()

    def test_one_of_the_outbox_must_arrive_too(self) -> None:
        assert Made().at(1).event(7, A).at(2).confirmed(7, outbox=True).broken() == {"I12"}

    def test_one_that_was_refused_may_have_reached_some(self) -> None:
        made = Made().at(1).event(7, A, B)
        made.at(2).write("sender", "refused", op=7, error="SendRefused")
        assert made.executed(7, subscriber=A).broken() == set()

    def test_one_that_no_broker_has_must_not_be_executed(self) -> None:
        made = Made().at(1).event(7, A)
        made.at(2).write("sender", "refused", op=7, error="NoBrokerAvailable")
        assert made.broken() == set()
        assert made.executed(7, subscriber=A).broken() == {"I11"}

    def test_twice_is_found(self) -> None:
        made = confirmed().executed(7, subscriber=A).executed(7, subscriber=B)
        assert made.at(9).executed(7, 2, "other", subscriber=A).ends("worker", "other").broken() == {"I12"}

    def test_another_try_after_a_kill_is_told_apart(self) -> None:
        made = confirmed().executed(7, subscriber=A).executed(7, subscriber=B)
        assert made.at(9).executed(7, 2, "other", subscriber=A).ends("other").broken() == set()

    def test_executed_and_dead_is_found(self) -> None:
        made = confirmed().executed(7, subscriber=A).executed(7, subscriber=B).dead(7, subscriber=A)
        assert made.ends("worker").broken() == {"I12"}

    def test_one_that_an_operator_has_sent_back_may_run_again(self) -> None:
        made = confirmed().executed(7, subscriber=B).started(7, subscriber=A)
        made.finished(7, subscriber=A, verdict="failed").at(4).write("operator", "requeued", op=7, subscriber=A)
        assert made.at(5).executed(7, subscriber=A).ends("worker").broken() == set()

    def test_who_has_not_subscribed_gets_nothing(self) -> None:
        made = confirmed().executed(7, subscriber=A).executed(7, subscriber=B)
        assert made.executed(7, subscriber="N.x.y").broken() == {"I12"}

    def test_an_event_of_nobody_is_found(self) -> None:
        assert Made().executed(7, subscriber=A).broken() == {"I12"}

    def test_that_nobody_subscribes_is_not_true(self) -> None:
        assert Made().at(1).event(7, A).at(2).confirmed(7, unheard=True).broken() == {"I12"}

    def test_a_publish_that_does_not_end_is_found(self) -> None:
        assert Made().event(7, A).broken() == {"I4"}


class TestPublishedByServices:
    def told(self, verdict: str = "done") -> Made:
        made = Made().at(1).message(5).confirmed(5).at(2).started(5)
        made.published(71, 5, A).published(72, 5, A)
        return made.at(3).finished(5, verdict=verdict)

    def test_they_go_out_when_it_has_succeeded(self) -> None:
        made = self.told()
        assert made.executed(71, subscriber=A).executed(72, subscriber=A).ends("worker").broken() == set()
        assert self.told().ends("worker").broken() == {"I12"}

    def test_they_do_not_when_it_has_failed(self) -> None:
        made = self.told("failed").dead(5)
        assert made.broken() == set()
        assert made.executed(71, subscriber=A).broken() == {"I12"}

    def test_of_one_that_was_killed_all_or_none(self) -> None:
        """The worker has no later record than that of its success."""
        made = self.told()
        assert made.broken() == set()
        assert made.executed(71, 1, "other", subscriber=A).broken() == {"I12"}
        assert made.executed(72, 1, "other", subscriber=A).broken() == set()


def test_the_table_counts_events() -> None:
    made = confirmed().executed(7, subscriber=A).dead(7, subscriber=B).published(71, 7)
    found = tally("servicebus", made.result())
    assert found.events["published by senders"] == found.events["published by services"] == 1
    assert (found.events["to be executed"], found.events["executed"], found.events["dead letters"]) == (2, 1, 1)
    assert "published by senders" in tables([found])


@pytest.mark.parametrize("event", [*EVENTS, TOLD])
def test_those_who_are_to_get_an_event_are_those_whose_patterns_match(event: str) -> None:
    assert subscribers(event, ["N"]) == [f"N.{name}" for name, pattern in PATTERNS.items() if matches(pattern, event)]


def test_an_agent_of_the_rig_registers_the_subscribers(tmp_path: Path) -> None:
    bus = ServiceBus(Configuration({"hosts": ["mq"], "node_name": "N", "secret_token": "secret"}))
    services.add_services(bus, History(tmp_path, "worker"), "N", ["N"])
    found = {service.key: service.events for service in bus._services.values() if service.events}
    assert found == {name: (pattern,) for name, pattern in PATTERNS.items()}


class Publishing:
    """A Sender whose brokers have gone now and then."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int]] = []

    def publish(self, event: str, params: dict[str, Any], **_options: Any) -> Receipt:
        self.published.append((event, params["op"]))
        if len(self.published) % 3 == 0:
            raise NoBrokerAvailable("no broker", [])
        receipt = Receipt(1)
        receipt.subscribers = len(self.published) % 3 == 1
        return receipt


def test_a_sender_tells_the_history_of_each_event(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    sender: Any = Publishing()
    load = EventLoad(History(tmp_path, "sender"), 1, ["N"], itertools.count(1), counts)
    load.publish(sender, sender, range(9), random.Random(1))
    told = [record for path in files(tmp_path) for record in read_file(path)]
    assert [(r["target"], r["op"]) for r in told if r["what"] == "invoked"] == sender.published
    assert [r.get("unheard", False) for r in told if r["what"] == "confirmed"] == [False, True] * 3
    assert [r["error"] for r in told if r["what"] == "refused"] == ["NoBrokerAvailable"] * 3
    assert counts["events"] == 9 and counts["events confirmed"] == 6


def test_the_events_of_a_service_have_numbers_of_their_own() -> None:
    ops = {told_op(op, index) for op in (100_000_001, 100_000_002) for index in (1, 2)}
    assert len(ops) == 4 and all(100_000_002 < op < 200_000_000 for op in ops)


def event(op: int) -> bytes:
    keyring = Keyring([SECRET])
    fields = (new_id(), "", "", TOLD, Kind.EVENT, 1, 0, "", encode_json({"op": op}))
    return write_event(*fields, keyring.sign_event(*fields))


@pytest.mark.parametrize(
    ("queue", "reason", "is_event", "counted"),
    [
        ("N.events.news.all", "Failure", True, "Failure"),
        ("N.events.news.all", "not-subscribed", True, "misdirected"),
        ("N.events.news.flaky", "Failure", True, "not signed by a worker"),
        ("", "Failure", True, "not signed by a worker"),
        ("N.events.news.all", "Failure", False, "misdirected"),
    ],
)
def test_a_dead_event_is_told_with_its_subscriber(
    queue: str, reason: str, is_event: bool, counted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = event(7) if is_event else signed("OTHER.jobs.record", {"op": 7}, kind=Kind.MESSAGE)
    stamp = write_dead_letter_stamp(Keyring([SECRET]), body, reason, DeadLetterStamp(1, 1, 3, 9, ""), queue)
    marks = {headers.REASON: reason, headers.DEAD_LETTER: stamp, headers.SUBSCRIPTION: "news.all"}
    properties = pika.BasicProperties(headers=marks)
    monkeypatch.setattr(dead_letters, "_taken", lambda *_: iter([(properties, body)]))
    broker: Any = None
    assert dead_letters.take_dead_letters(broker, "N", Keyring([SECRET]), History(tmp_path, "rig")) == {counted: 1}
    told = [record for path in files(tmp_path) for record in read_file(path) if record["what"] == "dead"]
    assert [(r["op"], r["subscriber"]) for r in told] == ([(7, "N.news.all")] if counted == reason else [])
