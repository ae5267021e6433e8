"""The console as operators use it: a real browser, a real console, real agents on real brokers, under load."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from consoles import OPERATOR, VIEWER, RunningConsole, log_in
from playwright.sync_api import Browser, BrowserContext, Locator, Page
from waiting import Stopwatch, wait_until
from web_browser import WIDE, WatchedPage, chromium

from servicebus.sender import Sender

if TYPE_CHECKING:
    from agents import Agent

    from servicebus.testing import Broker

pytestmark = pytest.mark.timeout(400)  # a browser, two brokers and three agents, on a busy machine

SERVICES = [{"group": "console_services:group"}]
RESTOCKED = "NODE-01.shop.restocked"


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
    return start_agent(brokers, services=SERVICES).wait_consuming(timeout_s=60)


@pytest.fixture
def console(agent: Agent, brokers: list[Broker], tmp_path: Path) -> Iterator[RunningConsole]:
    with closing(RunningConsole(tmp_path, brokers)) as console:
        yield console


Shoot = Callable[..., None]


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Shoot:
    """Keep a picture of a page, with a part of it, if pytest is asked for it: ``shoot(page, "overview")``."""
    folder = request.config.getoption("screenshots")

    def shoot(page: Page, name: str, part: str = "main") -> None:
        if folder is None:
            return
        before = page.viewport_size or WIDE
        page.set_viewport_size({"width": 1000, "height": 700})
        page.mouse.move(0, 0)
        page.locator(part).evaluate("part => part.scrollIntoView({block: 'nearest'})")
        page.screenshot(path=folder / f"{name}.png", animations="disabled")
        page.set_viewport_size(before)

    return shoot


def name_of(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


def card(page: Page, broker: Broker, state: str) -> Locator:
    """Of the overview: the card of *broker*, if it says *state*."""
    return page.locator("#fleet .cards li", has_text=name_of(broker)).locator(".state", has_text=state)


def kinds(page: Page, url: str, which: str = "", node: str = "") -> list[str]:
    """What the timeline shows, the latest first."""
    page.goto(f"{url}/timeline?kind={which}&node={node}")
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
    start_agent(brokers[:1], services=SERVICES, node_name="NODE-02").wait_consuming(timeout_s=60)
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


def test_an_operator_calls_a_service_and_mends_dead_letters(
    agent: Agent, console: RunningConsole, context: BrowserContext, make_sender: Callable[..., Sender], shoot: Shoot
) -> None:
    sender = make_sender(agent.configuration())
    for sku in ("s-1", "s-2", "bad"):
        sender.send(RESTOCKED, {"sku": sku})
    watched = log_in(context, console, OPERATOR)
    page = watched.page
    page.get_by_role("link", name="Services", exact=True).click()
    page.get_by_role("link", name="shop.price").click()
    page.get_by_label("sku (required)").fill("s-1")
    page.get_by_label("count").fill("4")
    page.get_by_role("button", name="Call").click()
    page.locator("#answer .good").wait_for()
    assert page.get_by_label("Result", exact=True).inner_text() == "6.0"
    assert page.locator("#answer tbody tr").count() >= 1, "its way"
    assert agent.noted("priced") == ["s-1"] and watched.violations() == []
    shoot(page, "service", "#answer")

    page.get_by_role("link", name="Dead letters").click()
    page.get_by_text("3 dead letters of 1 of 1 node").wait_for()
    page.get_by_role("link", name="NODE-01").click()
    page.get_by_role("button", name="Look at them").click()
    group = page.get_by_role("region", name="shop.restocked: LookupError")
    group.get_by_text("3 dead letters").wait_for()
    shoot(page, "dead-letters")
    (agent.notes / "mended").touch()
    _edit(page, group, "no article bad", '{"sku": "s-3"}')
    wait_until(lambda: agent.noted("restocked") == ["s-3"], 30)
    group.get_by_text("2 dead letters").wait_for()
    assert watched.violations() == []
    _search(page, group, "no article s-2")
    assert watched.violations() == []
    page.get_by_role("link", name="show the dead letter").click()
    page.get_by_role("button", name="Requeue").click()
    group.get_by_text("1 dead letter,").wait_for()
    wait_until(lambda: agent.noted("restocked") == ["s-3", "s-2"], 30)
    group.get_by_role("button", name="Requeue").click()
    page.get_by_text("There are none.").wait_for()
    wait_until(lambda: agent.noted("restocked") == ["s-3", "s-2", "s-1"], 30)

    sender.send(RESTOCKED, {"sku": "bad"})
    wait_until(lambda: len(agent.log_lines("no article bad")) >= 2, 30)
    page.get_by_role("button", name="Look again").click()
    group.get_by_role("button", name="Requeue").click()
    page.get_by_text("stopped: 1 of the last 1 failed again").wait_for()
    group.get_by_label("for good").check()
    group.get_by_role("button", name="Drop").click()
    page.get_by_text("There are none.").wait_for()
    assert agent.noted("restocked") == ["s-3", "s-2", "s-1"]
    assert kinds(page, console.url, "user").count("user") == 6
    check(watched, console.url, "/dead", "/dead/NODE-01", "/service/NODE-01/shop.price", "/timeline?kind=user")


def _open(page: Page, group: Locator, detail: str) -> None:
    """The page of the dead letter that says *detail*."""
    group.get_by_text("Some of them").click()
    group.get_by_role("listitem").filter(has_text=detail).get_by_role("link").click()
    page.get_by_role("heading", name="shop.restocked: LookupError").wait_for()


def _search(page: Page, group: Locator, detail: str) -> None:
    """What became of the dead letter that says *detail*, by its id."""
    group.get_by_text("Some of them").click()
    found = group.get_by_role("listitem").filter(has_text=detail).get_by_role("link")
    page.get_by_label("Id of a call or message").fill(found.inner_text())
    page.get_by_role("button", name="Search").click()
    page.locator("#found strong", has_text="dead-lettered").wait_for()


def _edit(page: Page, group: Locator, detail: str, params: str) -> None:
    _open(page, group, detail)
    assert "console_services.py" in page.get_by_label("Traceback").inner_text()
    page.get_by_label("Params as JSON").fill(params)
    page.get_by_role("button", name="Send and drop").click()


def test_viewers_and_forged_requests_change_nothing(
    brokers: list[Broker],
    agent: Agent,
    console: RunningConsole,
    browser: Browser,
    context: BrowserContext,
    make_sender: Callable[..., Sender],
) -> None:
    make_sender(agent.configuration()).send(RESTOCKED, {"sku": "bad"})
    agent.wait_log("no article bad")
    operator = log_in(context, console, OPERATOR)
    with closing(browser.new_context(viewport=WIDE)) as other:
        viewer = log_in(other, console, VIEWER)
        viewers_token = _form_token(viewer.page)
        drop = {"node": "NODE-01", "all": "1", "sure": "1"}
        call = {"node": "NODE-01", "service": "shop.price", "p.sku": "forged", "p.count": "1"}
        edit = {"node": "NODE-01", "id": "0123456789abcdef-1", "params": "1"}
        drill = {"broker": name_of(brokers[0]), "for": "5", "sure": "1"}
        forms = {"/dead/drop": drop, "/dead/requeue": drop, "/call": call, "/dead/edit": edit, "/drill/start": drill}
        for path, form in {**forms, "/drill/stop": {}, "/dead/stop": {"node": "NODE-01"}}.items():
            status, text = _post(other, console.url, path, form_token=viewers_token, **form)
            assert (status, "your role is view" in text) == (403, True), path
            assert _post(context, console.url, path, **form)[0] == 403, "without a token"
            assert _post(context, console.url, path, form_token=viewers_token, **form)[0] == 403, "that of another"
            token = _form_token(operator.page)
            status, text = _post(context, console.url, path, "http://evil.example", form_token=token, **form)
            assert (status, "another site" in text) == (403, True), path
        viewer.page.goto(f"{console.url}/service/NODE-01/shop.price")
        assert viewer.page.get_by_role("button", name="Call").count() == 0
    attack = {**call, "form_token": token}
    assert _attack(context, console.url, "http://evil.example", attack) == 401, "the cookie is not sent"
    assert _attack(context, console.url, "http://127.0.0.1:9999", attack) == 403, "another program of this machine"
    operator.page.goto(console.url + "/dead")
    operator.page.get_by_text("1 dead letter of 1 of 1 node").wait_for()
    assert kinds(operator.page, console.url, "user") == [] and agent.noted("priced") == []
    status, text = _post(context, console.url, "/call", form_token=token, **call)
    assert (status, agent.noted("priced")) == (200, ["forged"]), "it was the form that was refused, not what it wants"
    assert operator.problems == [] and viewer.problems == []


def _form_token(page: Page) -> str:
    return page.locator("header input[name=form_token]").first.get_attribute("value") or ""


def _post(context: BrowserContext, url: str, path: str, origin: str = "", **form: Any) -> tuple[int, str]:
    """What is answered to a form with the cookies of *context*."""
    answer = context.request.post(url + path, form=form, headers={"Origin": origin or url}, max_redirects=0)
    return answer.status, answer.text()


def _attack(context: BrowserContext, url: str, site: str, form: dict[str, str]) -> int:
    """A page of *site* sends the form by the browser that is logged in: the status of the answer."""
    fields = "".join(f'<input name="{name}" value="{value}">' for name, value in form.items())
    body = f'<form method="post" action="{url}/call">{fields}</form><script>document.forms[0].submit()</script>'
    with closing(context.new_page()) as page:
        page.route(f"{site}/**", lambda route: route.fulfill(body=body, content_type="text/html"))
        with page.expect_response(url + "/call") as answered:
            page.goto(f"{site}/")
        return answered.value.status


def test_a_node_shows_its_log_as_it_comes(
    brokers: list[Broker],
    start_agent: Callable[..., Agent],
    context: BrowserContext,
    make_sender: Callable[..., Sender],
    tmp_path: Path,
) -> None:
    log = {"kind": "rpc", "category": "test", "name": "log", "target": "sample_services:Log"}
    agent = start_agent(brokers, services=[*SERVICES, log]).wait_consuming(timeout_s=60)
    sender = make_sender(agent.configuration())
    with closing(RunningConsole(tmp_path, brokers)) as console:
        watched = log_in(context, console, VIEWER)
        page = watched.page
        page.get_by_role("link", name="NODE-01").click()
        lines = page.locator("#log .record")

        def is_shown(text: str) -> bool:
            sender.call("NODE-01.test.log", text, timeout=60)
            return lines.filter(has_text=text).count() > 0

        wait_until(lambda: is_shown("<b>it begins</b>"), 60)
        assert page.locator("#log b").count() == 0, "it is text"
        assert lines.filter(has_text="it begins").filter(has_text="WARNING").count() > 0
        assert watched.violations() == [] and not watched.is_too_wide()
        page.get_by_role("button", name="Pause").click()
        sender.call("NODE-01.test.log", "while paused", timeout=60)
        with page.expect_response(lambda answer: "/log" in answer.url and "while paused" in answer.text()):
            pass
        assert lines.filter(has_text="while paused").count() == 0
        page.get_by_role("button", name="Pause").click()
        lines.filter(has_text="while paused").wait_for()
        page.get_by_label("Level").select_option("ERROR")
        page.get_by_role("button", name="Show").last.click()
        page.wait_for_url("**/node/NODE-01?level=ERROR")
        assert lines.filter(has_text="it begins").count() == 0
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        assert watched.violations() == [] and not watched.is_too_wide() and watched.problems == []
        page.goto(f"{console.url}/node/NODE-01")
        page.wait_for_url("**/login?next=/node/NODE-01")


def test_the_history_survives_the_console(
    brokers: list[Broker],
    agent: Agent,
    console: RunningConsole,
    start_agent: Callable[..., Agent],
    context: BrowserContext,
) -> None:
    gone = start_agent(brokers, services=SERVICES, node_name="NODE-02").wait_consuming(timeout_s=60)
    page = log_in(context, console, VIEWER).page
    for node in ("NODE-01", "NODE-02"):
        page.locator(f"#o-{node}").wait_for()
    for node in ("NODE-01", "NODE-02"):
        assert kinds(page, console.url, "node", node) == ["node new"]
    page.goto("about:blank")
    assert console.end(signal.SIGTERM) == 0, console.log()
    gone.stop()
    console.start()
    page = log_in(context, console, VIEWER).page
    page.get_by_text("1 node over none").wait_for()
    assert kinds(page, console.url, "node", "NODE-02") == ["node lost", "node new"]
    page.goto("about:blank")
    assert console.end(signal.SIGKILL) == -signal.SIGKILL
    console.start()
    watched = log_in(context, console, VIEWER)
    watched.page.get_by_text("1 node over none").wait_for()
    assert kinds(watched.page, console.url, "node", "NODE-02") == ["node lost", "node new"]
    assert kinds(watched.page, console.url, "node", "NODE-01") == ["node new"], "what is known already is not new"
    assert watched.problems == []
