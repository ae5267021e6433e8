"""Search by id in the console: begun by a form, shown when it has ended, and bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fleet_looks import drawn, look
from starlette.testclient import TestClient
from test_what import CONFIG, ID, OTHER, answers, dead_letter, has
from waiting import wait_until
from web_clients import client_of, token_in

from servicebus.operations.id_places import BrokerPlaces, Waiting
from servicebus.protocol.discovery import Answer
from servicebus.web.dead_jobs import DeadLetterJobs
from servicebus.web.what import IdSearches


@pytest.fixture
def client() -> Iterator[TestClient]:
    jobs = DeadLetterJobs(CONFIG)
    searches = IdSearches(CONFIG, None, jobs)  # type: ignore[arg-type]
    with client_of(drawn(look({"NODE-01": ("mq-a",)})), dead_jobs=jobs, searches=searches) as client:
        yield client


def search(client: TestClient, id: str = ID, status: int = 303) -> str:
    """Search, and wait until it has ended: the page then, or why it was refused."""
    token = token_in(client.get("/").text)
    answer = client.post("/what", data={"form_token": token, "id": f" {id} "})
    assert answer.status_code == status, answer.text
    if status != 303:
        return str(answer.text)
    assert answer.headers["location"] == f"/what/{id}"
    return wait_until(lambda: (text := str(client.get(f"/what/{id}").text)) * ("Searching." not in text), 30)


def test_a_viewer_finds_runs_and_dead_letters(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    asked = answers(monkeypatch, Answer("N-2", known={ID: [{"state": "finished", "answer": "<b>"}]}))
    looked = has(monkeypatch, BrokerPlaces("mq-a:5672", dead_letters=[dead_letter()]), BrokerPlaces("mq-b:5672"))
    text = search(client)
    assert "<strong>several</strong>" in text and "answered with the error &lt;b&gt;" in text
    assert "Not asked: NODE-01: no answer within 2 s" in text, "the console knows of it"
    assert asked[0][:2] == ([ID], ("NODE-01",)) and looked == [(["N-2", "NODE-01"], [ID])]
    assert f'href="/dead/NODE-01/{ID}"' in text and "no \\x1b[31m good" in text
    shown = client.get(f"/dead/NODE-01/{ID}").text
    assert "audit.note: ValueError" in shown and "/dead/drop" not in shown


def test_what_is_not_found_says_what_it_may_be(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    answers(monkeypatch)
    has(monkeypatch, BrokerPlaces("mq-a:5672", waiting=[Waiting("N.messages", 12)]))
    text = search(client)
    assert "<strong>unknown</strong>" in text and "mq-a:5672: 12 in N.messages" in text and "token_max_age" in text


@pytest.mark.parametrize("id", ["", "17", "../x", "0123456789abcdef-0", f"{ID} {ID}"])
def test_what_is_no_id_is_refused(client: TestClient, id: str) -> None:
    assert "This is no id: an id is the 16 digits" in search(client, id, 400)


def test_a_link_begins_no_search(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    asked = answers(monkeypatch)
    text = client.get(f"/what/{ID}").text
    assert ">Search</button>" in text and "Searching." not in text and asked == []
    assert client.get("/what/17").status_code == 404
    token = token_in(text)
    assert client.post("/what", data={"form_token": token[::-1], "id": ID}).status_code == 403 and asked == []


def test_a_search_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    monkeypatch.setattr("servicebus._id_search.survey_ids", lambda *_: 1 / 0)
    assert "unexpected ZeroDivisionError" in search(client)


def test_few_searches_run_at_once_and_each_once(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    go = threading.Event()
    begun: list[str] = []

    def look_slowly(_config: Any, _nodes: Any, ids: Sequence[str], tell: Callable[..., None], **_: Any) -> Any:
        begun.extend(ids)
        tell("mq-a", 300, 1000)
        assert go.wait(30)
        return []

    answers(monkeypatch)
    monkeypatch.setattr("servicebus._id_search.look_on_brokers", look_slowly)
    token = token_in(client.get("/").text)
    ids = [ID, ID, OTHER, "0123456789abcdef-19", "0123456789abcdef-20"]
    found = [client.post("/what", data={"form_token": token, "id": id}).status_code for id in ids]
    assert found == [303, 303, 303, 303, 503]
    wait_until(lambda: len(begun) == 3, 30)
    assert "mq-a: 300 of 1000 dead letters looked at" in client.get(f"/what/{ID}").text
    same = {"seen": "mq-a: 300 of 1000 dead letters looked at"}
    assert client.get(f"/what/{ID}", params=same, headers={"HX-Request": "true"}).status_code == 204
    go.set()
    wait_until(lambda: "<strong>unknown</strong>" in client.get(f"/what/{ID}").text, 30)
