"""HttpListener: an HTTP server of a few pages for a process that has one thread and must never wait in it.

Its sockets stand in a selector of its own, whose file can be read when one of them has something to do. It answers GET
and HEAD, closes each connection after its answer, and drops a client that is slow, sends too much, or is one too many.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["HttpListener", "HttpPage", "PageRequest"]

_MOST_CLIENTS = 32
_MOST_HEAD_BYTES = 8192
_CLIENT_S = 5.0
_OPEN_AGAIN_S = 5.0
"""While its port is taken, by an agent that is about to end perhaps."""


@dataclass(frozen=True)
class PageRequest:
    """What a client asks for."""

    path: str
    query: str
    headers: Mapping[str, str]
    """By their names in lower case."""


@dataclass(frozen=True)
class HttpPage:
    """A page."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


class HttpListener:
    """Belongs to one thread.

    Args:
        answer: returns the page for a question; None if there is none. What it raises is logged, and answered as 500.
    """

    def __init__(self, host: str, port: int, answer: Callable[[PageRequest], HttpPage | None]):
        self._host = host
        self._port = port
        self._answer = answer
        self._selector: selectors.EpollSelector | None = None
        self._clients: dict[socket.socket, _HttpClient] = {}
        self._listener: socket.socket | None = None
        self._open_at = 0.0
        self.problem = ""
        """Why it does not listen; empty if it does."""

    def __repr__(self) -> str:
        return f"<HttpListener {self._host}:{self._port} {len(self._clients)} clients>"

    @property
    def port(self) -> int:
        """Where it listens; another than was given if that was 0."""
        return self._port if self._listener is None else int(self._listener.getsockname()[1])

    def open(self) -> None:
        """Listen. A port that is taken is logged, and tried again every few seconds."""
        self._selector = selectors.EpollSelector()
        self._listen(time.monotonic())

    def fileno(self) -> int:
        assert self._selector is not None
        return self._selector.fileno()

    def watched(self) -> list[Any]:
        if self._selector is None:
            return []
        now = time.monotonic()
        if self._listener is None and now >= self._open_at:
            self._listen(now)
        for client in [each for each in self._clients.values() if each.drop_at <= now]:
            self._drop(client)
        return [self]

    def serve(self, _source: Any) -> None:
        """Do what can be done now."""
        assert self._selector is not None
        for key, events in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client: _HttpClient = key.data
            try:
                self._go_on(client, events)
            except OSError:
                self._drop(client)

    def forget(self) -> None:
        """In a forked child: close its copies, and touch what the parent listens with no more."""
        if self._selector is not None:
            self._selector.close()  # the parent's set is another's: to take files out of it here would take them there
            self._selector = None
        for each in [*self._clients, *([] if self._listener is None else [self._listener])]:
            each.close()
        self._clients, self._listener = {}, None

    def close(self) -> None:
        self.forget()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _listen(self, now: float) -> None:
        assert self._selector is not None
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._listener = socket.create_server((str(address[0]), int(address[1])), family=family, backlog=64)
        except OSError as error:
            why = error.strerror or str(error)
            if not self.problem:
                LOG.error("no metrics on %s:%d: %s; trying again", self._host, self._port, why)
            self.problem, self._open_at = f"no metrics on {self._host}:{self._port}: {why}", now + _OPEN_AGAIN_S
            return
        self.problem = ""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        LOG.info("metrics and health on http://%s:%d", _shown(self._host), self.port)

    def _accept(self) -> None:
        assert self._listener is not None and self._selector is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= _MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = self._clients[connection] = _HttpClient(connection, time.monotonic() + _CLIENT_S)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _go_on(self, client: _HttpClient, events: int) -> None:
        assert self._selector is not None
        if events & selectors.EVENT_READ and not client.unsent:
            piece = client.connection.recv(_MOST_HEAD_BYTES)
            client.head += piece
            if not piece or len(client.head) > _MOST_HEAD_BYTES:
                self._drop(client)
                return
            if b"\r\n\r\n" in client.head or b"\n\n" in client.head:
                client.unsent = memoryview(self._respond(bytes(client.head)))
                self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        if client.unsent:
            with suppress(BlockingIOError):
                client.unsent = client.unsent[client.connection.send(client.unsent) :]
            if not client.unsent:
                self._drop(client)

    def _drop(self, client: _HttpClient) -> None:
        assert self._selector is not None
        self._clients.pop(client.connection, None)
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        with suppress(OSError):
            client.connection.shutdown(socket.SHUT_WR)
        client.connection.close()

    def _respond(self, head: bytes) -> bytes:
        lines = head.decode("latin-1").splitlines()
        method, _, rest = lines[0].partition(" ") if lines else ("", "", "")
        if method not in ("GET", "HEAD"):
            return _response(HttpPage(b"only GET and HEAD\n", status=HTTPStatus.METHOD_NOT_ALLOWED))
        path, _, query = rest.partition(" ")[0].partition("?")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        try:
            found = self._answer(PageRequest(path, query, headers))
        except Exception:  # a defect of ours: it must not end the master
            LOG.exception("no answer to %s", path)
            found = HttpPage(
                b"this page could not be made: see the agent's log\n", status=HTTPStatus.INTERNAL_SERVER_ERROR
            )
        found = found or HttpPage(b"no such page\n", status=HTTPStatus.NOT_FOUND)
        return _response(found, with_body=method == "GET")


class _HttpClient:
    """A connection, until it is answered."""

    def __init__(self, connection: socket.socket, drop_at: float):
        self.connection, self.drop_at = connection, drop_at
        self.head, self.unsent = bytearray(), memoryview(b"")


def _response(answer: HttpPage, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
