"""ManagementApi: RabbitMQ's management API over HTTP, with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, unquote

from servicebus.configuration import BrokerHost, Secret
from servicebus.errors import ConfigurationError, ConnectFailed
from servicebus.wire.printable import printable

__all__ = ["ManagementApi", "ManagementFailed", "path_of"]

_PORTS = {"http": 15672, "https": 15671}
ANSWER_S = 5.0
"""How long an answer may take; longer lists take longer."""
_MOST_BYTES = 64 * 1024 * 1024
_SHOWN = 200


class ManagementFailed(ConnectFailed):
    """Raised when the management API cannot be asked, or refuses; ``status`` is that of HTTP, 0 if there was none."""

    def __init__(self, place: str, reason: str, status: int = 0):
        kind = "credentials" if status in (401, 403) else "unreachable"
        super().__init__(place, f"management API: {reason}", kind=kind)
        self.status = status


def path_of(*parts: str) -> str:
    """A path of the API, each part escaped: a virtual host may be ``/``."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


class ManagementApi:
    """Of one broker; by the user in *url*, or else by the one of the bus. One request at a time."""

    def __init__(self, host: BrokerHost, url: Secret, timeout_s: float = ANSWER_S):
        scheme, _, rest = url.reveal().partition("://")
        credentials, _, place = rest.partition("/")[0].rpartition("@")
        prefix = rest.partition("/")[2].rstrip("/")
        user, colon, password = (unquote(part) for part in credentials.partition(":"))
        self.place = host.name
        self.user = user or host.user
        self._prefix = f"/{prefix}" if prefix else ""
        self._secret = Secret(password) if colon else host.password
        self._host, self._port = _host_and_port(place, _PORTS[scheme.lower()])
        self._is_tls = scheme.lower() == "https"
        self._broker = host
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<ManagementApi of {self.place} as {self.user}>"

    def get(self, path: str) -> Any:
        """What it answers. Raises ManagementFailed."""
        return self._ask("GET", path)

    def find(self, path: str) -> Any:
        """The same, and None if there is no such thing."""
        try:
            return self._ask("GET", path)
        except ManagementFailed as failed:
            if failed.status == 404:
                return None
            raise

    def put(self, path: str, value: Mapping[str, Any]) -> None:
        """Make or change something. Raises ManagementFailed."""
        self._ask("PUT", path, value)

    def _ask(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> Any:
        plain = f"{self.user}:{self._secret.reveal()}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(plain).decode()}", "Content-Type": "application/json"}
        body = None if value is None else json.dumps(value)
        connection = self._connection()
        try:
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            text = response.read(_MOST_BYTES)
        except TimeoutError:
            raise ManagementFailed(
                self.place, f"{self._host}:{self._port} did not answer {path} within {self.timeout_s:g} s"
            ) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ManagementFailed(self.place, printable(f"{self._host}:{self._port}: {reason}")) from None
        finally:
            connection.close()
        if response.status >= 300:
            raise ManagementFailed(self.place, self._refusal(response.status, text), response.status)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise ManagementFailed(self.place, f"{self._host}:{self._port} answers something else than JSON") from None

    def _connection(self) -> HTTPConnection:
        if not self._is_tls:
            return HTTPConnection(self._host, self._port, timeout=self.timeout_s)
        tls = self._broker.tls
        try:
            context = ssl.create_default_context(cafile=tls.ca)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"host {self.place}: tls.ca cannot be used: {error}", key="tls.ca") from error
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return HTTPSConnection(self._host, self._port, timeout=self.timeout_s, context=context)

    def _refusal(self, status: int, text: bytes) -> str:
        if status == 401:
            return f"user {self.user!r} is refused: it needs a tag (management or monitoring) and the right password"
        return printable(f"HTTP {status}: {text[:_SHOWN].decode('utf-8', 'replace')}")


def _host_and_port(place: str, default: int) -> tuple[str, int]:
    if place.startswith("["):
        literal, _, tail = place[1:].partition("]")
        return literal, int(tail[1:]) if tail else default
    host, colon, port = place.partition(":")
    return host, int(port) if colon else default
