"""Every page of the console in a real browser, over a drawn fleet: for those who do not see, too, and on a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from drilled import CONFIG
from fleet_looks import BROKERS, drawn, look
from playwright.sync_api import Browser
from waiting import wait_until
from web_browser import PHONE, WIDE, WatchedPage, chromium, served
from web_clients import DrawnWatch, client_of

from servicebus import Services
from servicebus.fleet.view import Change
from servicebus.testing import bus
from servicebus.web.access import OpenAccess
from servicebus.web.app import Console, make_app
from servicebus.web.charts import NodeRates
from servicebus.web.drill import DrillJobs
from servicebus.web.history import ConsoleHistory
from servicebus.web.users import Role

VIEW = drawn(
    look({"NODE-01": BROKERS, "NODE-2": ("mq-a",)}, services={"NODE-01": (("call", "math.add"),)}),
    look({"NODE-01": ("mq-b",)}, {"mq-a": "refused"}),
)
PAGES = (
    "/",
    "/services",
    "/node/NODE-01",
    "/node/NODE-01/rates",
    "/service/NODE-01/math.add",
    "/dead",
    "/dead/NODE-01",
    "/timeline",
    "/timeline/failovers",
    "/forecast?lost=mq-b",
    "/what/0123456789abcdef-1",
    "/drill?broker=mq-b",
)
math = Services("math")


@math.rpc
def add(a: int, b: int = 0) -> int:
    """The sum of two numbers."""
    return a + b


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    counts = SimpleNamespace(
        counts={"NODE-01": {"mq-a": 3}}, problems={}, latest={}, at=1e9, is_known=True, refresh=lambda _nodes: None
    )
    jobs = SimpleNamespace(jobs=lambda _node: [], found=lambda _node: None)
    rates = NodeRates()
    rates.series.add("NODE-01", {"calls/s": 12.0, "messages/s": 3.0, "median": 2.0}, time.time())
    searches = SimpleNamespace(of=lambda _id: None)
    path = Path(tmp_path_factory.mktemp("console"), "history")
    with bus(math) as world, closing(ConsoleHistory(path)) as history:
        history.add([Change(1e9, "node lost", "NODE-2", "", "it answers over no broker")])
        make, drills = lambda: nullcontext(world.sender), DrillJobs(CONFIG)
        parts: tuple[Any, ...] = world.sender, make, jobs, counts, searches, rates, history, drills
        app = make_app(Console(DrawnWatch(VIEW), *parts), OpenAccess(Role.OPERATE))  # type: ignore[arg-type]
        with served(app) as url:
            yield url


def test_the_pages_here_are_all_that_there_are() -> None:
    """But the log, which needs real agents, and those of one dead letter: tests/integration/test_console.py."""
    with client_of(VIEW) as client:
        routes = [each for each in client.app.routes if "GET" in (getattr(each, "methods", None) or ())]  # type: ignore[attr-defined]
        unseen = {each.path for each in routes if not any(each.path_regex.match(urlsplit(page).path) for page in PAGES)}
    assert unseen == {"/node/{node}/log", "/dead/{node}/{id}", "/login"}


@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_every_page_is_for_everyone(browser: Browser, url: str, viewport: Any, scheme: Any) -> None:
    with closing(browser.new_context(viewport=viewport, color_scheme=scheme)) as context:
        page = context.new_page()
        watched = WatchedPage(page, url)
        for path in PAGES:
            page.goto(url + path)
            assert watched.violations() == [], path
            assert not watched.is_too_wide(), path
        assert watched.problems == [], "nothing is refused by the policy, asked for elsewhere, or missing"


def test_charts_show_the_time_of_the_console_and_not_of_the_browser(browser: Browser, url: str) -> None:
    with closing(browser.new_context(viewport=WIDE, timezone_id="Asia/Kathmandu")) as context:
        page = context.new_page()
        page.goto(f"{url}/timeline")
        box = page.locator("#charts .u-over").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20)
        told = page.locator("#charts .u-legend .u-value").first
        wait_until(lambda: told.inner_text() != "--", 30)
        shown = time.mktime(time.strptime(told.inner_text(), "%Y-%m-%d %H:%M"))
        assert abs(time.time() - shown) < 1800, "the last step of 10 minutes"


def test_a_service_is_called_by_keyboard(browser: Browser, url: str) -> None:
    with closing(browser.new_context(viewport=PHONE)) as context:
        page = context.new_page()
        watched = WatchedPage(page, url)
        page.goto(f"{url}/services")
        page.keyboard.press("/")
        page.keyboard.type("add")
        page.keyboard.press("Enter")
        page.wait_for_url("**/services?q=add")
        page.get_by_role("link", name="math.add").focus()
        page.keyboard.press("Enter")
        page.get_by_label("a (required)").fill("2")
        page.keyboard.press("Enter")
        page.locator("#answer pre").wait_for()
        assert page.locator("#answer pre").inner_text() == "2"
        assert watched.violations() == [] and not watched.is_too_wide() and watched.problems == []
