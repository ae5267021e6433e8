"""Dead letters in the console: looked at, shown, sent back, changed and dropped, on a broker in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from envelopes import SECRET, dead_letter_headers, signed
from fleet_looks import drawn, look
from starlette.testclient import TestClient
from waiting import wait_until
from web_clients import client_of

from servicebus.configuration import BrokerHost, Configuration
from servicebus.operations import session as sessions
from servicebus.transport.memory import MemoryBroker
from servicebus.web.access import OpenAccess
from servicebus.web.dead_jobs import DeadCounts, DeadLetterJobs
from servicebus.web.guard import COOKIE
from servicebus.web.users import Role
from servicebus.wire.envelope import Kind

LOST = "mq-b:5672"
DEAD, MESSAGES = "NODE-01.dead", "NODE-01.messages"
A = '"<a>"'
GROUP: dict[str, Any] = {"service": "audit.record", "reason": "ValueError"}


class Sent:
    """In the place of a Sender: what it was asked to send."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []

    def send(self, target: str, params: Any, timeout: float) -> None:
        self.messages.append((target, params))


class Desk:
    """The pages of a node's dead letters, and its broker."""

    def __init__(self, broker: MemoryBroker, config: Configuration, client: TestClient, access: OpenAccess):
        self.broker, self.config, self.client, self.access = broker, config, client, access
        self.jobs, self.sent = DeadLetterJobs(config), Sent()
        self.both = Configuration({"hosts": ["mq-a", LOST], "secret_token": SECRET, "node_name": "NODE-01"})
        """With a broker that is down."""

    def add(self, *params: Any, reason: str = "ValueError", **how: Any) -> None:
        opened = sessions.open_session(self.config.hosts[0], self.config)
        with opened as session, session.channel(confirms=True) as channel:
            for queue in (DEAD, MESSAGES):
                channel.declare(queue, durable=True)
            for each in params:
                body = signed("NODE-01.audit.record", each, kind=Kind.MESSAGE)
                channel.publish_confirmed("", DEAD, body, headers=dead_letter_headers(body, reason, **how))

    def depths(self) -> tuple[int, int]:
        """Messages among the dead letters, and in the queue of the node."""
        with sessions.open_session(self.config.hosts[0], self.config) as session:
            found = [session.facts(queue) for queue in (DEAD, MESSAGES)]
        dead, waiting = (0 if each is None else each.ready for each in found)
        return dead, waiting

    def begin(self, what: str, status: int = 303, /, **fields: str) -> str:
        """Do it, and wait for nothing."""
        token = self.access.form_token(self.client.cookies[COOKIE], "")
        answer = self.client.post(f"/dead/{what}", data={"form_token": token, "node": "NODE-01", **fields})
        assert answer.status_code == status, answer.text
        return str(answer.text)

    def page(self) -> str:
        """That of the node."""
        return str(self.client.get("/dead/NODE-01").text)

    def post(self, what: str, status: int = 303, /, **fields: str) -> str:
        """Do it, and wait until it is done: the page of the node then, or why it was refused."""
        told = self.begin(what, status, **fields)
        wait_until(lambda: all(job.ended_at is not None for job in self.jobs.jobs("NODE-01")), timeout_s=30)
        return self.page() if status == 303 else told

    def id_of(self, params: str) -> str:
        found = self.jobs.found("NODE-01")
        assert found is not None
        return next(id for id, each in found.kept.items() if each.dead_letter.params.decode() == params)


@pytest.fixture(params=[Role.OPERATE])
def desk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    broker, open_session = MemoryBroker(), sessions.open_session
    config = Configuration({"hosts": ["mq-a"], "secret_token": SECRET, "node_name": "NODE-01"})

    lost = MemoryBroker()
    lost.refuse()

    def opened(host: BrokerHost, config: Configuration, **how: Any) -> Any:
        connect = lost.connect if host.name == LOST else broker.connect
        return open_session(host, config, **{**how, "connect": connect})

    monkeypatch.setattr(sessions, "open_session", opened)
    access, counts = OpenAccess(request.param), DeadCounts(config)
    made = Desk(broker, config, None, access)  # type: ignore[arg-type]
    view = drawn(look({"NODE-01": ("mq-a:5672",)}), brokers=("mq-a:5672",))
    with client_of(view, access, sender=made.sent, dead_jobs=made.jobs, dead_counts=counts) as client:
        made.client = client
        client.get("/")
        yield made


def test_nodes_are_counted_without_a_look(desk: Desk) -> None:
    desk.add(1, 2)
    wait_until(lambda: "2 dead letters of 1 of 1 node" in desk.client.get("/dead").text, timeout_s=30)
    assert "Counted <time" in desk.client.get("/dead").text, "how old it is"
    assert "Look at them" in desk.client.get("/dead/NODE-01").text and desk.jobs.jobs("NODE-01") == []


def test_they_are_shown_in_groups_and_one_in_full(desk: Desk) -> None:
    desk.add("<a>", "b", detail="no such <thing>", trace="Traceback\n  the line\n")
    desk.add("c", reason="unknown-service")
    text = desk.post("look")
    assert "audit.record: ValueError" in text and "audit.record: unknown-service" in text
    assert desk.depths() == (3, 0), "looking takes none"
    shown = desk.client.get(f"/dead/NODE-01/{desk.id_of(A)}").text
    assert "&lt;a&gt;" in shown and "<a>" not in shown and "Send and drop" in shown
    assert desk.client.get("/dead/NODE-01/0123456789abcdef-7").status_code == 404
    fragment = {"HX-Request": "true"}
    seen = f"{desk.jobs.found('NODE-01').at:.3f} 1 "  # type: ignore[union-attr]
    assert desk.client.get("/dead/NODE-01", params={"seen": seen}, headers=fragment).status_code == 204


def test_each_group_shows_its_own_some_of_them(desk: Desk) -> None:
    desk.add("a", "b")
    desk.add("c", reason="KeyError")
    desk.post("look")
    found = desk.jobs.found("NODE-01")
    assert found is not None
    shown = {group.reason: [each.dead_letter.params for each in found.of_group(group)] for group in found.groups}
    assert shown == {"ValueError": [b'"a"', b'"b"'], "KeyError": [b'"c"']}
    assert found.of_group(found.groups[0]._replace(reason="none")) == ()


def test_a_group_is_sent_back_and_the_others_stay(desk: Desk) -> None:
    desk.add("a", "b")
    desk.add("c", reason="[KeyError]*")
    assert "2 went back" in desk.post("requeue", **GROUP) and desk.depths() == (1, 2)
    assert "requeue dead letters: audit.record: ValueError" in desk.client.get("/timeline").text
    text = desk.post("requeue", service="audit.record", reason="[KeyError]*")
    assert "1 went back" in text and desk.depths() == (0, 3), "what looks like a pattern is a name"


def _hidden(text: str, what: str) -> list[dict[str, str]]:
    """What each form of the page that does *what* sends without its visitor's doing."""
    forms = re.findall(rf'<form method="post" action="/dead/{what}".*?</form>', text, re.DOTALL)
    return [dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', each)) for each in forms]


@pytest.mark.parametrize("what", ["requeue", "drop"])
def test_a_group_is_what_the_page_has_shown_of_it(desk: Desk, what: str) -> None:
    desk.add("a")
    desk.add("old", age_s=200_000)
    text = desk.post("look")
    assert "the node cannot know whether they ran since" in text
    good = next(each for each in _hidden(text, what) if each["status"] == "good")
    desk.add("later", age_s=0)
    text = desk.post(what, **{**good, "sure": "1"})
    assert "1 dropped" in text or "1 went back" in text
    found = desk.jobs.found("NODE-01")
    assert found is not None
    assert {each.dead_letter.params for each in found.kept.values()} == {b'"old"', b'"later"'}


def test_all_are_those_that_the_page_has_shown(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", reason="KeyError")
    *_, everything = _hidden(desk.post("look"), "requeue")
    assert everything["all"] == "1"
    desk.add("later", age_s=0)
    assert "2 went back" in desk.post("requeue", **everything) and desk.depths() == (1, 2)


@pytest.mark.parametrize("how", [{"rate": "36/h"}, {"growing": "1"}])
def test_what_runs_is_stopped(desk: Desk, how: dict[str, str]) -> None:
    """One goes back at once; the next one is due after 100 s, or when a worker has taken the first."""
    desk.add("a", "b", "c")
    desk.begin("requeue", **GROUP, **how)
    wait_until(lambda: desk.depths()[1] == 1, timeout_s=30)
    assert 'action="/dead/stop"' in desk.page()
    assert "1 went back; stopped" in desk.post("stop")
    assert desk.depths() == (2, 1)
    assert "2 dead letters, from" in desk.page(), "those that are left"
    assert "stop: requeue audit.record: ValueError" in desk.client.get("/timeline").text
    desk.post("stop")  # of what has ended already


def test_a_look_that_is_stopped_shows_nothing(desk: Desk) -> None:
    desk.add("a", "b")
    desk.broker.freeze()
    desk.begin("look")
    desk.begin("stop")
    assert "Stopping: look" in desk.page()
    desk.broker.thaw()
    wait_until(lambda: "stopped" in desk.page(), timeout_s=30)
    assert desk.jobs.found("NODE-01") is None and desk.depths() == (2, 0)


def test_stale_ones_go_back_only_if_one_says_so(desk: Desk) -> None:
    desk.add("old", age_s=200_000)
    assert "1 stay" in desk.post("requeue", **GROUP) and desk.depths() == (1, 0)
    assert "1 went back" in desk.post("requeue", **GROUP, reseal="1") and desk.depths() == (0, 1)


def test_one_is_sent_with_other_params_and_dropped_then(desk: Desk) -> None:
    desk.add("a", "b")
    desk.post("look")
    id = desk.id_of('"a"')
    assert "Nothing was sent" in desk.post("edit", 400, id=id, params="{") and desk.depths() == (2, 0)
    desk.post("edit", id=id, params='{"mended": true}')
    assert desk.sent.messages == [("NODE-01.audit.record", {"mended": True})] and desk.depths() == (1, 0)


def test_they_are_dropped_only_if_one_is_sure_and_says_which(desk: Desk) -> None:
    desk.add("a", "b")
    desk.post("look")
    assert "are sure" in desk.post("drop", 400, **GROUP)
    assert "which dead letters" in desk.post("drop", 400, sure="1")
    assert desk.depths() == (2, 0)
    desk.post("drop", id=desk.id_of('"a"'), sure="1")
    assert desk.depths() == (1, 0)
    assert "There are none." in desk.post("drop", all="1", sure="1") and desk.depths() == (0, 0)


def test_a_broker_that_is_down_is_named(desk: Desk) -> None:
    """And what it holds is not said to be gone."""
    desk.add("a", "b")
    wait_until(lambda: "2 dead letters of 1 of 1 node." in desk.client.get("/dead").text, timeout_s=30)
    desk.broker.refuse("refused", "no entry")
    text = desk.post("look")
    assert "mq-a:5672 could not be asked: no entry" in text and "No broker could be asked." in text
    wait_until(lambda: "no entry" in desk.client.get("/dead").text, timeout_s=30)
    text = desk.client.get("/dead").text
    assert "mq-a:5672 could not be asked: no entry. When it was asked last it had 2 dead letters" in text
    assert "No broker could be asked." in text


def test_what_the_others_have_is_said_without_one_that_is_down(desk: Desk) -> None:
    desk.add("a")
    desk.jobs, counts = DeadLetterJobs(desk.both), DeadCounts(desk.both)
    view = drawn(look({"NODE-01": ("mq-a:5672",)}), brokers=("mq-a:5672", LOST))
    with client_of(view, desk.access, dead_jobs=desk.jobs, dead_counts=counts) as client:
        desk.client = client
        client.get("/")
        whole = "1 dead letter of 1 of 1 node on the other brokers."
        wait_until(lambda: whole in client.get("/dead").text, timeout_s=30)
        desk.post("requeue", all="1")
        assert "There are none on the other brokers." in desk.page()


def test_growing_batches_do_not_begin_where_a_broker_is_lost(desk: Desk) -> None:
    """They would stop after the first of them: a broker that is lost on the way does that."""
    desk.add("a")
    desk.jobs = DeadLetterJobs(desk.both)
    lost = look({"NODE-01": ("mq-a:5672",)}, {LOST: "refused"})
    view = drawn(lost, brokers=("mq-a:5672", LOST))
    with client_of(view, desk.access, dead_jobs=desk.jobs) as client:
        desk.client = client
        client.get("/")
        desk.begin("requeue", all="1", growing="1")
        wait_until(lambda: desk.depths() == (0, 1), timeout_s=30)
        desk.broker.forget_queue(MESSAGES)  # a worker has taken it
        wait_until(lambda: f"1 went back; not on {LOST}, which is lost" in desk.page(), timeout_s=30)
        assert "stopped" not in desk.page()


@pytest.mark.parametrize("name", ["a b", "x" * 300, "%2e%2e"])
def test_what_is_no_node_has_no_page(desk: Desk, name: str) -> None:
    assert desk.client.get(f"/dead/{name}").status_code == 404


@pytest.mark.parametrize("desk", [Role.VIEW], indirect=True)
def test_a_viewer_looks_and_does_nothing_else(desk: Desk) -> None:
    desk.add("a")
    text = desk.post("look")
    assert "audit.record: ValueError" in text and "/dead/requeue" not in text and "/dead/drop" not in text
    for what in ("requeue", "drop", "edit", "stop"):
        assert "your role is view" in desk.post(what, 403, **GROUP, sure="1")
    assert desk.depths() == (1, 0)
