"""The drill page in a real browser; in a file of its own, since a bus in memory stops the clock that a drill needs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drilled import CONFIG, MARK, AnsweredSender, ObedientNode, sessions_with
from fleet_looks import drawn, look
from web_browser import PHONE, WatchedPage, chromium, served
from web_clients import DrawnWatch

from servicebus.transport.memory import MemoryBroker
from servicebus.web.access import OpenAccess
from servicebus.web.app import Console, make_app
from servicebus.web.drill import DrillJobs
from servicebus.web.history import ConsoleHistory
from servicebus.web.users import Role


def test_a_drill_is_begun_watched_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.web.drill._AROUND_S", 1.0)
    hosts = tuple(host.name for host in CONFIG.hosts)
    view = drawn(look({"N": hosts}), brokers=hosts)
    broker, none = MemoryBroker(), SimpleNamespace()
    with (
        chromium() as browser,
        sessions_with(broker) as opened,
        closing(ObedientNode(broker, opened)),
        closing(ConsoleHistory(tmp_path / "history")) as history,
        closing(DrillJobs(CONFIG, AnsweredSender)) as drills,  # type: ignore[arg-type]
        closing(browser.new_context(viewport=PHONE)) as context,
    ):
        parts: tuple[Any, ...] = none, none, none, none, none, none, history, drills
        app = make_app(Console(DrawnWatch(view), *parts), OpenAccess(Role.OPERATE))  # type: ignore[arg-type]
        with served(app) as url:
            page = context.new_page()
            watched = WatchedPage(page, url)
            page.goto(f"{url}/forecast?lost={hosts[0]}")
            page.get_by_role("link", name="Take it out for a while").click()
            page.get_by_label("Seconds").fill("1")
            page.get_by_label("out of service now").check()
            assert watched.violations() == []
            page.get_by_role("button", name="Begin").click()
            page.get_by_role("button", name="Stop, and take it back").wait_for()
            assert watched.violations() == [] and not watched.is_too_wide()
            page.get_by_text("all workers are back").wait_for(timeout=90_000)  # the page renews itself
            page.get_by_role("heading", name="Begin one").wait_for()
            assert watched.violations() == [] and not watched.is_too_wide() and watched.problems == []
    assert MARK not in broker.queues
