"""The drill page of the console: who may begin one, what is refused, what is shown, and what the timeline says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from drilled import CONFIG, MARK, AnsweredSender, ObedientNode, sessions_with
from fleet_looks import drawn, look
from starlette.testclient import TestClient
from waiting import wait_until
from web_clients import client_of

from servicebus.transport.memory import MemoryBroker
from servicebus.web import drill as drills
from servicebus.web.access import OpenAccess
from servicebus.web.drill import DrillJobs
from servicebus.web.guard import COOKIE
from servicebus.web.users import Role

HOSTS = tuple(host.name for host in CONFIG.hosts)
MQ_A = HOSTS[0]
VIEW = drawn(look({"N": HOSTS}, services={"N": (("call", "math.add"),)}), brokers=HOSTS)
ALONE = drawn(look({"N": (MQ_A,)}, services={"N": (("call", "math.add"),)}), brokers=HOSTS)


class Desk:
    """The page, and the broker."""

    def __init__(self, client: TestClient, access: OpenAccess, jobs: DrillJobs):
        self.client, self.access, self.jobs = client, access, jobs

    def post(self, what: str, **fields: str) -> tuple[int, str]:
        token = self.access.form_token(self.client.cookies[COOKIE], "")
        answer = self.client.post(f"/drill/{what}", data={"form_token": token, **fields})
        return answer.status_code, answer.text

    def timeline(self) -> str:
        return str(self.client.get("/timeline").text)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def make_desk(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setattr(drills, "_AROUND_S", 0.05)
    with ExitStack() as stack:
        opened = stack.enter_context(sessions_with(broker))
        stack.callback(ObedientNode(broker, opened).close)

        def make(view: object = VIEW, role: Role = Role.OPERATE) -> Desk:
            jobs = DrillJobs(CONFIG, AnsweredSender)  # type: ignore[arg-type]
            stack.callback(jobs.close)
            access = OpenAccess(role)
            client = stack.enter_context(client_of(view, access, drills=jobs))  # type: ignore[arg-type]
            client.get("/")
            return Desk(client, access, jobs)

        yield make


def ended(desk: Desk) -> bool:
    return desk.jobs.last is not None and desk.jobs.last.ended_at is not None


def test_one_is_begun_shown_and_reported(broker: MemoryBroker, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    assert "would answer without mq-a:5672" in desk.client.get("/drill", params={"broker": MQ_A}).text
    assert desk.post("start", broker=MQ_A, sure="1", **{"for": "0.3"})[0] == 303
    wait_until(lambda: ended(desk), 30)
    assert MARK not in broker.queues
    text = desk.client.get("/drill").text
    assert "requests failed; all workers are back" in text and "Left after" in text and "Stop, and" not in text
    told = desk.timeline()
    assert "drill mq-a:5672 for 0.3 s" in told and "the drill of mq-a:5672 has ended: 0 of " in told


def test_one_that_runs_is_stopped(broker: MemoryBroker, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.post("start", broker=MQ_A, sure="1", **{"for": "600"})
    wait_until(lambda: "is taken out for 600 s" in desk.client.get("/drill").text and MARK in broker.queues)
    text = desk.client.get("/drill").text
    assert "Stop, and take it back" in text and "Begin one" not in text
    assert desk.client.get("/drill", params={"seen": ""}, headers={"HX-Request": "true"}).status_code == 200
    status, why = desk.post("start", broker=HOSTS[1], sure="1", **{"for": "1"})
    assert status == 409 and "A drill runs" in why
    assert desk.post("stop")[0] == 303
    wait_until(lambda: ended(desk), 30)
    assert MARK not in broker.queues and "stopped early" in desk.client.get("/drill").text
    seen = desk.client.get("/drill").text.split("seen=")[1].split("&")[0]
    unchanged = desk.client.get(f"/drill?seen={seen}", headers={"HX-Request": "true"})
    assert unchanged.status_code == 204


def test_what_would_be_lost_is_said_and_wants_a_word(broker: MemoryBroker, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(ALONE)
    text = desk.client.get("/drill", params={"broker": MQ_A}).text
    assert "N answers over mq-a:5672 alone" in text and 'name="force"' in text
    status, why = desk.post("start", broker=MQ_A, sure="1", **{"for": "1"})
    assert status == 409 and "no node would have math.add" in why and desk.jobs.last is None
    assert desk.post("start", broker=MQ_A, sure="1", force="1", **{"for": "0.1"})[0] == 303


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"broker": "mq-z", "sure": "1", "for": "1"}, 404),
        ({"broker": MQ_A, "for": "1"}, 400),
        ({"broker": MQ_A, "sure": "1", "for": "0"}, 400),
        ({"broker": MQ_A, "sure": "1", "for": "nan"}, 400),
        ({"broker": MQ_A, "sure": "1", "for": "3601"}, 400),
        ({"broker": MQ_A, "sure": "1", "for": "soon"}, 400),
    ],
)
def test_what_cannot_be_meant_is_refused(make_desk: Callable[..., Desk], fields: dict[str, str], status: int) -> None:
    desk = make_desk()
    assert desk.post("start", **fields)[0] == status
    assert desk.jobs.last is None and "drill" not in desk.timeline().split("<main")[1]


def test_viewers_look_alone(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(role=Role.VIEW)
    text = desk.client.get("/drill", params={"broker": MQ_A}).text
    assert "Your role is view" in text and "/drill/start" not in text
    assert desk.post("start", broker=MQ_A, sure="1", **{"for": "1"})[0] == 403
    assert desk.post("stop")[0] == 403 and desk.jobs.last is None


def test_what_has_kept_it_from_beginning_is_shown(broker: MemoryBroker, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    broker.refuse("refused", "connection refused <b>")
    desk.post("start", broker=MQ_A, sure="1", **{"for": "1"})
    wait_until(lambda: ended(desk), 30)
    assert "connection refused &lt;b&gt;" in desk.client.get("/drill").text
    desk.jobs.stop()
