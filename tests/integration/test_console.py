"""The console as operators use it: a real browser, a real console, real agents on real brokers, under load."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from consoles import VIEWER, RunningConsole, log_in
from playwright.sync_api import Browser, BrowserContext, Locator, Page
from waiting import Stopwatch, wait_until
from web_browser import WIDE, WatchedPage, chromium

from servicebus.sender import Sender

if TYPE_CHECKING:
    from agents import Agent

    from servicebus.testing import Broker

pytestmark = pytest.mark.timeout(400)  # a browser, two brokers and three agents, on a busy machine

SERVICES = [{"group": "console_services:group"}]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with closing(browser.new_context(viewport=WIDE)) as context:
        yield context


@pytest.fixture
def agent(brokers: list[Broker], start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(brokers, services=SERVICES).wait_consuming()


@pytest.fixture
def console(agent: Agent, brokers: list[Broker], tmp_path: Path) -> Iterator[RunningConsole]:
    with closing(RunningConsole(tmp_path, brokers)) as console:
        yield console


Shoot = Callable[[Page, str], None]


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Shoot:
    """Keep a picture of what the page shows, if pytest is asked for it: ``shoot(page, "overview")``."""
    folder = request.config.getoption("screenshots")

    def shoot(page: Page, name: str) -> None:
        if folder is not None:
            page.mouse.move(0, 0)
            page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return shoot


def name_of(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


def card(page: Page, broker: Broker, state: str) -> Locator:
    """Of the overview: the card of *broker*, if it says *state*."""
    return page.locator("#fleet .cards li", has_text=name_of(broker)).locator(".state", has_text=state)


def kinds(page: Page, url: str, which: str = "") -> list[str]:
    """What the timeline shows, the latest first."""
    page.goto(f"{url}/timeline?kind={which}")
    return page.locator("#timeline tbody tr td:nth-child(2)").all_inner_texts()


def check(watched: WatchedPage, url: str, *paths: str) -> None:
    """Axe, the policy and the console of the browser find nothing on these pages."""
    for path in paths:
        watched.page.goto(url + path)
        assert watched.violations() == [], path
        assert not watched.is_too_wide(), path
    assert watched.problems == []


class CallLoad:
    """Calls one after the other, from a thread, until it is left."""

    def __init__(self, sender: Sender):
        self.answered = 0
        self.errors: list[Exception] = []
        self._sender, self._is_over = sender, threading.Event()

    @contextmanager
    def running(self) -> Iterator[CallLoad]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join(60)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                assert self._sender.call("NODE-01.shop.price", {"sku": "a", "count": 2}, timeout=30)[1] == 3.0
                self.answered += 1
            except Exception as error:
                self.errors.append(error)

    def wait_more(self, count: int = 20) -> None:
        """Until *count* more calls were answered."""
        enough = self.answered + count
        wait_until(lambda: self.answered >= enough, 60, lambda: f"{self.answered} of {enough}; {self.errors[:3]}")


def test_a_killed_broker_is_seen_and_seen_to_be_back_while_calls_run(
    brokers: list[Broker],
    agent: Agent,
    console: RunningConsole,
    start_agent: Callable[..., Agent],
    context: BrowserContext,
    make_sender: Callable[..., Sender],
    shoot: Shoot,
) -> None:
    start_agent(brokers[:1], services=SERVICES, node_name="NODE-02").wait_consuming()
    watched = log_in(context, console, VIEWER)
    page, (first, second) = watched.page, brokers
    row, other = (page.locator("#fleet tr", has=page.locator(f"#o-{node}")) for node in ("NODE-01", "NODE-02"))
    row.get_by_text("answers").nth(1).wait_for()
    other.get_by_text("never seen").wait_for()
    with CallLoad(make_sender(agent.configuration())).running() as load:
        load.wait_more()
        first.kill()
        since = Stopwatch()
        card(page, first, "lost").wait_for()
        sys.stdout.write(f"a broker killed by SIGKILL is shown as lost after {since.elapsed_s:.2f} s\n")
        assert card(page, second, "reachable").is_visible()
        row.get_by_text("broker lost").wait_for()
        assert row.get_by_text("answers").count() == 1
        page.get_by_text("1 node over none").wait_for()
        load.wait_more()
        shoot(page, "overview")
        assert watched.violations() == []
        first.start()
        card(page, first, "reachable").wait_for()
        row.get_by_text("answers").nth(1).wait_for()
        other.get_by_text("answers").wait_for()
        load.wait_more()
        page.goto(f"{console.url}/node/NODE-01")
        page.locator("#charts canvas").first.wait_for()
        shoot(page, "node")
    assert load.errors == []
    assert kinds(page, console.url, "broker") == ["broker back", "broker lost"]
    assert {"node lost", "node back"} <= set(kinds(page, console.url))
    page.locator("#charts canvas").first.wait_for()
    shoot(page, "timeline")
    paths = "/", "/services", "/node/NODE-01", "/timeline", f"/forecast?lost={name_of(first)}"
    check(watched, console.url, *paths)


def test_the_history_survives_the_console(
    brokers: list[Broker],
    agent: Agent,
    console: RunningConsole,
    start_agent: Callable[..., Agent],
    context: BrowserContext,
) -> None:
    gone = start_agent(brokers, services=SERVICES, node_name="NODE-02").wait_consuming()
    page = log_in(context, console, VIEWER).page
    for node in ("NODE-01", "NODE-02"):
        page.locator(f"#o-{node}").wait_for()
    known = ["node new", "node new"]
    assert kinds(page, console.url, "node") == known
    page.goto("about:blank")
    assert console.end(signal.SIGTERM) == 0, console.log()
    gone.stop()
    console.start()
    page = log_in(context, console, VIEWER).page
    page.get_by_text("1 node over none").wait_for()
    known = ["node lost", *known]
    assert kinds(page, console.url, "node") == known
    page.goto("about:blank")
    assert console.end(signal.SIGKILL) == -signal.SIGKILL
    console.start()
    watched = log_in(context, console, VIEWER)
    watched.page.get_by_text("1 node over none").wait_for()
    assert kinds(watched.page, console.url, "node") == known, "and what is known already is not new"
    assert watched.problems == []
