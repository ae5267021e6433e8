"""The client of the management API: how it asks, and what it says where it is refused; no secret in any of it."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.configuration import BrokerHost, Secret
from servicebus.operations.doctor.facts import BrokerFacts
from servicebus.operations.doctor.management import ManagementApi, ManagementFailed, path_of
from servicebus.operations.doctor.management_facts import look_managed

PASSWORD = "p@ss:word"


class Api(BaseHTTPRequestHandler):
    """Answers what the test has put into ``answers``, by path; 404 for the rest."""

    answers: dict[str, tuple[int, bytes]]
    asked: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        status, answer = self.answers.get(self.path.partition("?")[0], (404, b'{"error":"Object Not Found"}'))
        if body:
            self.asked.append(("BODY", body.decode(), ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    Api.answers, Api.asked = {}, []
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def api_of(server: Any, credentials: str = "admin:p%40ss%3Aword@", prefix: str = "") -> ManagementApi:
    host = BrokerHost("mq-a", "127.0.0.1", 5672, user="bus", password=Secret("of the bus"), virtual_host="/")
    return ManagementApi(host, Secret(f"http://{credentials}127.0.0.1:{server.server_port}{prefix}"), 10.0)


def test_it_asks_as_the_user_of_the_url_or_of_the_bus(server: Any) -> None:
    Api.answers["/api/overview"] = 200, b'{"rabbitmq_version": "4.0.5"}'
    assert api_of(server).get("/api/overview") == {"rabbitmq_version": "4.0.5"}
    api_of(server, "").get("/api/overview")
    users = [base64.b64decode(header.removeprefix("Basic ")).decode() for _, _, header in Api.asked]
    assert users == [f"admin:{PASSWORD}", "bus:of the bus"]


def test_names_are_escaped_and_a_prefix_stays(server: Any) -> None:
    Api.answers["/mq/api/vhosts/%2F"] = 204, b""
    assert api_of(server, prefix="/mq/").get(path_of("vhosts", "/")) is None
    api_of(server, prefix="/mq").put(path_of("vhosts", "/"), {"a": 1})
    assert Api.asked[-1] == ("BODY", json.dumps({"a": 1}), "")


def test_what_is_not_there_is_found_out_or_an_error(server: Any) -> None:
    assert api_of(server).find("/api/vhosts/x") is None
    with pytest.raises(ManagementFailed, match="404") as caught:
        api_of(server).get("/api/vhosts/x")
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("status", "text", "words"), [(401, b"{}", "tag"), (500, b"broken \x1b[31m", "HTTP 500"), (200, b"<html>", "JSON")]
)
def test_a_refusal_says_why_and_shows_no_secret(server: Any, status: int, text: bytes, words: str) -> None:
    Api.answers["/api/overview"] = status, text
    with pytest.raises(ManagementFailed, match=words) as caught:
        api_of(server).get("/api/overview")
    assert str(caught.value).startswith("mq-a: management API: ") and "\x1b" not in str(caught.value)
    assert PASSWORD not in repr(caught.value) + str(caught.value) + repr(api_of(server))
    assert exit_code_of(caught.value) is (ExitCode.REFUSED if status == 401 else ExitCode.UNAVAILABLE)


def test_one_that_is_not_there_costs_the_facts_and_nothing_else(server: Any) -> None:
    host = BrokerHost("mq-a", "127.0.0.1", 5672)
    facts = BrokerFacts(host)
    look_managed(facts, ManagementApi(host, Secret("http://127.0.0.1:1"), 2.0), ("servicebus",))
    assert facts.managed is None and "127.0.0.1:1" in facts.unmanaged


def test_what_the_user_may_not_see_is_noted_and_the_rest_is_there(server: Any) -> None:
    Api.answers |= {
        "/api/overview": (200, b"{}"),
        "/api/nodes": (200, b'[{"name": "rabbit@a"}]'),
        "/api/permissions/%2F/bus": (401, b"{}"),
        "/api/users/bus": (200, b'{"tags": "monitoring,policymaker"}'),
        "/api/policies/%2F": (200, b"[]"),
        "/api/exchanges/%2F/servicebus/bindings/source": (200, b'[{"source": "servicebus"}]'),
        "/api/queues/%2F": (200, b'[{"name": "q"}]'),
        "/api/vhost-limits/%2F": (200, b'[{"vhost": "/", "value": {"max-queues": 5}}]'),
    }
    facts = BrokerFacts(BrokerHost("mq-a", "127.0.0.1", 5672, user="bus"))
    look_managed(facts, api_of(server), ("servicebus", "servicebus.events"))
    found = facts.managed
    assert found is not None and found.permissions is None and "tag" in found.problems["permissions"]
    assert found.tags == ["monitoring", "policymaker"] and found.queues == {"q": {"name": "q"}}
    assert found.bindings == [{"source": "servicebus"}] and found.limits == {"max-queues": 5}
    assert "operator policies" in found.problems


def test_one_that_does_not_answer_in_time_is_named_with_what_was_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        api = ManagementApi(BrokerHost("mq-a", "127.0.0.1", 5672), Secret(f"http://127.0.0.1:{port}"), timeout_s=0.05)
        with pytest.raises(ManagementFailed) as caught:
            api.get("/api/queues/%2F")
    assert caught.value.reason == f"management API: 127.0.0.1:{port} did not answer /api/queues/%2F within 0.05 s"
