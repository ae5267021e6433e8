"""The log of a node in the console: what a page is sent, and what is kept for how long."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from fleet_looks import drawn, look
from starlette.testclient import TestClient
from web_clients import client_of

from servicebus.testing import MemoryBus, bus
from servicebus.web.logs import MOST_ROWS, NodeLogs

LOG = logging.getLogger("shop.orders")
NODE = "NODE-01"
FRAGMENT = {"hx-request": "true"}
VIEW = drawn(look({NODE: ("mq-1",)}), brokers=("mq-1",))


@pytest.fixture
def world() -> Iterator[MemoryBus]:
    with bus({}, brokers=1) as world:
        yield world


@pytest.fixture
def client(world: MemoryBus, caplog: pytest.LogCaptureFixture) -> Iterator[TestClient]:
    caplog.set_level(logging.WARNING, "httpx2")  # its client is in the process of the node, and logs each request
    with client_of(VIEW, sender=world.sender) as client:
        yield client


class Shown:
    """What a page shows of the log, as a browser would put it together."""

    def __init__(self, world: MemoryBus, client: TestClient, query: str = ""):
        self.world, self.client = world, client
        self.address = f"/node/{NODE}/log{query}"
        self.lines: list[str] = []
        self.state = ""

    def look(self) -> int:
        """Ask for what has come; the status."""
        with self.world._driver.time_stands_still():
            answer = self.client.get(self.address, headers=FRAGMENT)
        self.world.advance(0.5)
        if answer.status_code == 200:
            found = re.search(r'hx-get="([^"]+)"', answer.text)
            state = re.search(r'role="status"[^>]*>([^<]*)<', answer.text)
            assert found is not None and state is not None
            self.address, self.state = found[1].replace("&amp;", "&"), state[1]
            self.lines += re.findall(r'<p class="record[^"]*">(.*?)</p>', answer.text, re.DOTALL)
        return answer.status_code

    def has(self, text: str) -> int:
        return sum(text in line for line in self.lines)


def test_the_page_of_a_node_asks_for_its_log(client: TestClient) -> None:
    text = client.get(f"/node/{NODE}").text
    assert 'id="log" class="log" role="log"' in text and f'hx-get="/node/{NODE}/log?level=INFO"' in text
    assert "<option selected>INFO</option>" in text
    assert "<option selected>ERROR</option>" in client.get(f"/node/{NODE}?level=error").text
    assert "<option selected>INFO</option>" in client.get(f"/node/{NODE}?level=x").text


def test_what_comes_is_shown_once_and_escaped(world: MemoryBus, client: TestClient) -> None:
    shown = Shown(world, client)
    assert shown.look() == 200 and shown.state == "No worker of it has answered yet."
    assert shown.look() == 200 and shown.state == ""
    LOG.warning("no such <b>sku</b> \u202e")
    world.advance(0.5)
    assert shown.look() == 200
    assert shown.look() == 204, "nothing new"
    LOG.error("second")
    world.advance(0.5)
    assert shown.look() == 200
    (first,) = [line for line in shown.lines if "sku" in line]
    assert "no such &lt;b&gt;sku&lt;/b&gt; \\u202e" in first and "<strong>WARNING</strong>" in first
    assert "worker mq-1[" in first and shown.has("second") == 1


def test_what_comes_together_is_shown_by_its_time(world: MemoryBus, client: TestClient) -> None:
    """Over two brokers the end of an outage overtakes its begin."""
    shown = Shown(world, client)
    shown.look()
    shown.look()
    later = LOG.makeRecord(LOG.name, logging.WARNING, __file__, 1, "made later", (), None)
    later.created += 10
    LOG.handle(later)
    LOG.warning("made earlier")
    world.advance(0.5)
    shown.look()
    assert ["earlier" in line for line in shown.lines if "made" in line] == [True, False]


def test_a_level_is_chosen_and_each_has_a_log_of_its_own(world: MemoryBus, client: TestClient) -> None:
    low, high = Shown(world, client), Shown(world, client, "?level=ERROR")
    for each in (low, high):
        each.look()
    LOG.warning("a warning")
    LOG.error("an error")
    world.advance(0.5)
    for each in (low, high):
        each.look()
    assert (low.has("a warning"), low.has("an error")) == (1, 1)
    assert (high.has("a warning"), high.has("an error")) == (0, 1)


def test_a_second_page_begins_with_what_was_shown_and_rows_are_bounded(world: MemoryBus, client: TestClient) -> None:
    shown = Shown(world, client)
    shown.look()
    for number in range(MOST_ROWS + 100):
        LOG.warning("line %d.", number)
    world.advance(2)
    shown.look()
    assert len(shown.lines) == MOST_ROWS and shown.has("line 0.") == 0
    second = Shown(world, client)
    second.look()
    assert second.lines == shown.lines


def test_a_log_that_no_page_asks_for_is_tailed_no_more(world: MemoryBus, client: TestClient) -> None:
    tails = world.node._workers[0].control.tails
    assert tails is not None
    shown = Shown(world, client)
    shown.look()
    assert len(tails) == 1
    world.advance(60)
    assert len(tails) == 0
    shown.look()
    LOG.warning("it begins again")
    world.advance(0.5)
    shown.look()
    assert len(tails) == 1 and shown.has("it begins again") == 1


def test_so_many_logs_are_tailed_at_a_time(world: MemoryBus) -> None:
    logs = NodeLogs(world.sender)
    for number in range(20):
        logs.look(f"NODE-{number}", "INFO", 0)
    assert len(logs._logs) == 8 and ("NODE-19", "INFO") in logs._logs
    world.advance(0.5)
    assert len(world.sender._current().engine.discoveries.tails._open) == 8


def test_why_nothing_comes_is_said(world: MemoryBus) -> None:
    (broker,) = world.brokers
    with client_of(VIEW, sender=world.sender) as client:
        shown = Shown(world, client)
        for _ in range(2):
            shown.look()
        broker.stop()
        world.advance(5)
        shown.look()
        assert shown.state.startswith("Nothing comes over mq-1: ")


def test_a_caller_without_the_right_sees_why() -> None:
    shop = {"key": "the key of shop, a long one", "allow": "*"}
    with (
        bus({}, brokers=1, callers={"shop": shop}) as world,
        client_of(VIEW, sender=world.make_sender(caller="shop")) as client,
    ):
        shown = Shown(world, client)
        for _ in range(2):
            shown.look()
        assert "permission-denied: caller &#39;shop&#39; may not see the log records of NODE-01" in shown.state


def test_a_name_is_no_pattern_and_an_impossible_one_is_not_found(world: MemoryBus, client: TestClient) -> None:
    shown = Shown(world, client)
    shown.address = "/node/NODE-*/log"
    for _ in range(3):
        shown.look()
    assert shown.state == "No worker of it has answered yet."
    assert client.get("/node/a.b/log", headers=FRAGMENT).status_code == 404


def test_by_itself_it_leads_to_the_page_of_the_node(client: TestClient) -> None:
    answer = client.get(f"/node/{NODE}/log?level=ERROR")
    assert answer.status_code == 303 and answer.headers["location"] == f"/node/{NODE}?level=ERROR#log"
