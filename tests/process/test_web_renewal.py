"""How pages of the console renew themselves: what is in use stays, and what is not answered any more is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from fleet_looks import BROKERS, drawn, look
from playwright.sync_api import Browser, Page, Response
from waiting import wait_until
from web_browser import PHONE, WatchedPage, chromium, served
from web_clients import DrawnWatch

from servicebus import Services
from servicebus.testing import bus
from servicebus.web.access import OpenAccess
from servicebus.web.app import Console, make_app
from servicebus.web.history import ConsoleHistory
from servicebus.web.users import Role

VIEW = drawn(look({"NODE-01": BROKERS}, services={"NODE-01": (("call", "math.add"),)}))
math = Services("math")


@math.rpc
def add(a: int, b: int = 0) -> int:
    """The sum of two numbers."""
    return a + b


class Desk(NamedTuple):
    """A console whose fleet is drawn, and a page of it."""

    page: Page
    url: str
    watch: DrawnWatch
    history: ConsoleHistory
    server: ExitStack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def desk(browser: Browser, tmp_path: Path) -> Iterator[Desk]:
    with (
        bus(math) as world,
        closing(ConsoleHistory(tmp_path / "history")) as history,
        closing(browser.new_context(viewport=PHONE)) as context,
        ExitStack() as server,
    ):
        watch, none = DrawnWatch(VIEW), SimpleNamespace(last=None)
        parts: tuple[Any, ...] = world.sender, none, none, none, none, none, history, none
        app = make_app(Console(watch, *parts), OpenAccess(Role.OPERATE))  # type: ignore[arg-type]
        url = server.enter_context(served(app))
        yield Desk(context.new_page(), url, watch, history, server)


def is_marked(page: Page) -> bool:
    """Whether the part that renews itself is the one that was marked."""
    return bool(page.evaluate("document.getElementById('services').marked === true"))


def renewed(answer: Response) -> bool:
    return "/services?" in answer.url and answer.status == 200


def test_what_is_selected_stays_and_what_was_moved_comes_back(desk: Desk) -> None:
    page = desk.page
    page.goto(f"{desk.url}/services")
    page.evaluate("document.getElementById('services').marked = true")
    page.evaluate("document.querySelector('.scroll').scrollLeft = 60")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#services tbody th'))")
    for number in ("2", "3"):
        with page.expect_response(renewed):
            desk.watch.loads = number
    assert is_marked(page) and page.evaluate("getSelection().toString()") == "math.add"
    page.evaluate("getSelection().removeAllRanges()")
    wait_until(lambda: not is_marked(page), 30)
    assert page.evaluate("document.querySelector('.scroll').scrollLeft") == 60


def test_a_page_says_that_it_is_not_answered_any_more(desk: Desk) -> None:
    page = desk.page
    watched = WatchedPage(page, desk.url)
    page.goto(f"{desk.url}/timeline")
    assert not page.get_by_role("alert").is_visible()
    desk.history.close()
    page.get_by_role("alert").get_by_text("answers with the error 500").wait_for()
    assert watched.violations() == []
    desk.server.close()
    page.get_by_role("alert").get_by_text("does not answer").wait_for()


def test_a_call_that_is_refused_says_why(desk: Desk) -> None:
    page = desk.page
    page.goto(f"{desk.url}/service/NODE-01/math.add")
    page.get_by_label("a (required)").fill("2")
    page.evaluate("document.querySelector('.fields [name=form_token]').value = 'of a console that was restarted'")
    page.get_by_role("button", name="Call").click()
    page.locator("#answer").get_by_text("This page is out of date").wait_for()
    page.evaluate("document.querySelector('.fields [name=service]').value = 'math.gone'")
    page.evaluate(
        "document.querySelector('.fields [name=form_token]').value = document.querySelector('header input').value"
    )
    page.get_by_role("button", name="Call").click()
    page.locator("#answer").get_by_text("NODE-01 has no service math.gone").wait_for()
