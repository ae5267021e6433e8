"""The HTTP server of an agent, by real requests on loopback; it is served by the test, as by the master's loop."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.observability import http_listener
from servicebus.observability.health import document_of
from servicebus.observability.http_listener import HttpListener, HttpPage, PageRequest
from servicebus.runtime.inherited import readable
from servicebus.runtime.listeners import Listeners
from servicebus.testing.ports import free_ports

Answering = Callable[[PageRequest], "HttpPage | None"]


def pages(question: PageRequest) -> HttpPage | None:
    if question.path == "/broken":
        raise ValueError("a defect")
    if question.path == "/large":
        return HttpPage(b"x" * 4_000_000)
    text = f"{question.query} {question.headers.get('accept', '')}".encode()
    return HttpPage(text) if question.path == "/page" else None


@contextmanager
def served(answer: Answering = pages, port: int = 0) -> Iterator[HttpListener]:
    """One that is looked after, as the master does, in another thread."""
    listener, is_over = HttpListener("127.0.0.1", port, answer), threading.Event()
    listener.open()

    def look_after() -> None:
        while not is_over.is_set():
            for source in listener.watched():
                if readable([source.fileno()], 0.05):
                    listener.serve(source)

    thread = threading.Thread(target=look_after)
    thread.start()
    try:
        yield listener
    finally:
        is_over.set()
        thread.join()
        listener.close()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def test_a_page_is_answered() -> None:
    with served() as listener:
        assert ask(listener.port, "/page?broker=mq-a", Accept="text/plain") == (200, b"broker=mq-a text/plain")
        assert ask(listener.port, "/page", "HEAD") == (200, b"")
        assert ask(listener.port, "/other")[0] == 404
        assert ask(listener.port, "/page", "POST")[0] == 405


def test_a_page_that_cannot_be_made_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with served() as listener:
        assert ask(listener.port, "/broken")[0] == 500
        assert ask(listener.port, "/page")[0] == 200
    assert "no answer to /broken" in caplog.text


def test_a_page_that_does_not_fit_into_the_socket_is_sent_in_pieces() -> None:
    with served() as listener:
        assert len(ask(listener.port, "/large")[1]) == 4_000_000


def test_slow_and_greedy_clients_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "_CLIENT_S", 0.2)
    with served() as listener:
        address = "127.0.0.1", listener.port
        with socket.create_connection(address) as silent, socket.create_connection(address) as greedy:
            greedy.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000)
            assert ask(listener.port, "/page")[0] == 200  # others are served meanwhile
            for each in (silent, greedy):
                each.settimeout(10)
                with suppress(ConnectionResetError):
                    while each.recv(1000):
                        pass
        wait_until(lambda: not listener._clients, 10, lambda: f"{listener} has clients")


def test_so_many_clients_and_no_more() -> None:
    with served() as listener:
        held = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(40)]
        wait_until(lambda: len(listener._clients) == 32, 10, lambda: f"{listener}")
        for each in held:
            each.close()
        assert ask(listener.port, "/page")[0] == 200


def test_a_port_that_is_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(http_listener, "_OPEN_AGAIN_S", 0.05)
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with served(port=port) as listener:
            wait_until(lambda: "no metrics on 127.0.0.1" in caplog.text, 10, lambda: "said")
            other.close()
            wait_until(lambda: listener._listener is not None, 10, lambda: "listening")
            assert ask(port, "/page")[0] == 200
    assert caplog.text.count("no metrics on") == 1


def test_the_master_serves_it_beside_its_status_socket(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    settings = {"hosts": ["mq-a"], "secret_token": "s" * 20, "metrics": {"port": port}, "node_name": "N"}
    config = Configuration({**settings, "status_socket": str(tmp_path / "status")})
    document = document_of("N", [], is_stopping=False)
    listeners = Listeners(config, lambda: document, list)
    listeners.open()
    try:
        with socket.create_connection(("127.0.0.1", port)) as web, socket.socket(socket.AF_UNIX) as status:
            web.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            status.connect(str(tmp_path / "status"))
            wait_until(lambda: _look_after(listeners), 10, lambda: "nothing more to do")
            assert web.recv(100_000).endswith(b"live\n")
            assert json.loads(status.recv(100_000)) == document
    finally:
        listeners.close()
    assert listeners.watched() == [] and not (tmp_path / "status").exists()


def _look_after(listeners: Listeners) -> bool:
    """As the master's loop; whether there was nothing to do."""
    sources = {source.fileno(): source for source in listeners.watched()}
    ready = readable(sources, 0.2)
    for number in ready:
        listeners.serve(sources[number])
    return not ready


def test_a_forked_child_lets_go_of_it() -> None:
    with served() as listener:
        with socket.create_connection(("127.0.0.1", listener.port)):
            wait_until(lambda: listener._clients, 10, lambda: "accepted")
            pid = os.fork()
            if pid == 0:
                listener.forget()
                os._exit(len(listener._clients) + len(listener.watched()))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert ask(listener.port, "/page")[0] == 200
