"""The overview: which nodes are first, what it says of their problems, and when it renews itself."""

from __future__ import annotations

import re

from fleet_looks import BROKERS, drawn, look
from web_clients import client_of

from servicebus.fleet.load import WorkerLoad
from servicebus.fleet.view import FleetView, Look, WorkerView, seen

HEARD = look({"A": BROKERS, "B": BROKERS, "C": ("mq-b",), "D": BROKERS})
LATER = look({"A": ("mq-b",), "B": ("mq-b",), "D": ("mq-b",)}, {"mq-a": "refused"})
FRAGMENT = {"HX-Request": "true"}


def with_problems(found: Look, node: str, *problems: str) -> Look:
    worker = WorkerView("m-1", 7, 900.0, {}, {}, "mq-b", WorkerLoad(problems=problems))
    return found._replace(workers={node: (worker,)})


def broken() -> FleetView:
    """A broker is lost, C answers over none, and a worker of D says that it cannot do something."""
    return drawn(HEARD, LATER, with_problems(LATER, "D", "<the journal> is full", "no shop.price"))


def rows(text: str) -> list[str]:
    return re.findall(r'id="o-(\w+)"', text)


def test_nodes_that_need_someone_are_first() -> None:
    with client_of(broken()) as client:
        text = client.get("/").text
    assert rows(text) == ["C", "D", "A", "B"], "a broker that is lost is no fault of theirs"
    assert "1 node over none" in text and "1 node with problems" in text
    assert "mq-b: &lt;the journal&gt; is full and 1 more" in text


def test_those_with_problems_are_all_that_have_some() -> None:
    back = look({"A": BROKERS, "B": BROKERS, "D": BROKERS})
    view, _ = seen(drawn(HEARD, LATER, LATER), with_problems(back, "D", "full"), 2000.0)
    with client_of(view) as client:
        assert rows(client.get("/?problems=1").text) == ["C", "D"]
        assert rows(client.get("/?problems=1&q=d").text) == ["D"]


def test_it_renews_itself_when_a_worker_says_that_it_cannot_do_something() -> None:
    before = broken()
    view, changes = seen(before, with_problems(LATER, "D", "another"), 2001.0)
    assert view.revision == before.revision + 1 and not changes
    same, _ = seen(view, with_problems(LATER, "D", "another"), 2002.0)
    assert same.revision == view.revision
    with client_of(view) as client:
        assert client.get(f"/?seen={before.revision}", headers=FRAGMENT).status_code == 200
        assert client.get(f"/?seen={view.revision}", headers=FRAGMENT).status_code == 204


def test_every_page_says_whose_time_it_shows() -> None:
    with client_of(broken()) as client:
        assert re.search(r"the machine of the console \(\S+ [+-]\d{4}\)", client.get("/").text)
