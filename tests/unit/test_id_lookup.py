"""IdLookup: a node finds a request under whatever its journal may know it by, and tells callers of their own alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from servicebus.configuration import Configuration
from servicebus.runtime.id_lookup import IdLookup
from servicebus.runtime.journal import IdRecord, IdState
from servicebus.wire.envelope import FAULT, OK, Kind, Reply, callers_id
from servicebus.wire.events import event_key, event_queue, run_id
from servicebus.wire.fault import EXPIRED, Fault
from servicebus.wire.stamps import requeued_id
from servicebus.wire.xmlcodec import encode_reply

ID = "0123456789abcdef-17"
RUNNING = IdRecord(IdState.RUNNING, 1)
SUBSCRIPTION = "news.all"
QUEUE = event_queue("NODE-01", SUBSCRIPTION)
TOLD = {"state": "running", "attempts": 1}


class Node:
    def __init__(self) -> None:
        config = {"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"}
        callers = {name: {"key": f"a key of the caller {name}"} for name in ("shop", "mail")}
        self.known: dict[str, IdRecord] = {}
        self.asked: list[str] = []
        services = {(Kind.CALL, "math.add"): None, (Kind.MESSAGE, event_key(SUBSCRIPTION)): None}
        dispatcher = SimpleNamespace(services=services, look_up=self.look_up)
        self.lookup = IdLookup(Configuration({**config, "callers": callers}), cast(Any, dispatcher))

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        self.asked += ids
        return [self.known.get(id) for id in ids]

    def told(self, caller: str = "") -> list[dict[str, Any]]:
        found = self.lookup.known([ID, "ffffffffffffffff-1"], caller)
        assert set(found) <= {ID}
        return found.get(ID, [])


@pytest.fixture
def node() -> Node:
    return Node()


def test_what_nobody_knows_is_left_out(node: Node) -> None:
    assert node.told() == []


@pytest.mark.parametrize(
    ("known_as", "more"),
    [
        (ID, {}),
        (callers_id(ID, "mail"), {"caller": "mail"}),
        (run_id(ID, QUEUE), {"subscription": SUBSCRIPTION}),
        (run_id(callers_id(ID, "shop"), QUEUE), {"subscription": SUBSCRIPTION, "caller": "shop"}),
        (requeued_id(ID, ""), {"requeued": 1}),
        (requeued_id(ID, requeued_id(ID, "")), {"requeued": 2}),
        (requeued_id(callers_id(ID, "shop"), ""), {"requeued": 1, "caller": "shop"}),
        (requeued_id(ID, "", QUEUE), {"requeued": 1, "subscription": SUBSCRIPTION}),
    ],
)
def test_a_request_is_found_under_each_id_that_the_journal_may_have_for_it(
    node: Node, known_as: str, more: dict[str, Any]
) -> None:
    node.known[known_as] = RUNNING
    assert node.told() == [{**TOLD, **more, **({} if known_as == ID else {"as": known_as})}]


def test_an_event_has_a_run_for_each_subscription(node: Node) -> None:
    node.known = {run_id(ID, QUEUE): RUNNING, ID: IdRecord(IdState.FINISHED)}
    assert [each["state"] for each in node.told()] == ["finished", "running"]


def test_a_caller_is_told_of_its_own_requests_alone(node: Node) -> None:
    node.known = {ID: RUNNING, callers_id(ID, "mail"): RUNNING}
    assert node.told("shop") == []
    assert node.told("mail") == [{**TOLD, "caller": "mail", "as": callers_id(ID, "mail")}]
    assert ID not in node.asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (encode_reply(Reply(ID, "e8e26184:" + "0" * 64, OK, b'"a result"')), "ok"),
        (encode_reply(Reply(ID, "e8e26184:" + "0" * 64, FAULT, b"", Fault("ValueError", "a secret"))), "ValueError"),
        (encode_reply(Reply(ID, "e8e26184:" + "0" * 64, FAULT, b"", Fault(EXPIRED, ""))), EXPIRED),
        (b"of version 1", "stored"),
    ],
)
def test_of_an_answer_it_tells_the_kind_and_nothing_else(node: Node, answer: bytes, told: str) -> None:
    node.known[ID] = IdRecord(IdState.FINISHED, answer=answer)
    assert node.told() == [{"state": "finished", "answer": told}]
