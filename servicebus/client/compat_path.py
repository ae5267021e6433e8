"""Paths to agents of py-servicebus 2.x: version 1 as a Sender speaks it, and how it finds out where to.

Every path speaks the newest version until it is known better, and only a pong makes it known: the queue of an agent of
2.x outlives it, so that a call which is merely accepted there could wait for an agent that never comes, or be run long
after the caller has gone. A new agent with ``compat`` answers in both versions, therefore the last word is a ping of
the newest version: only if that comes back is version 1 spoken.
"""

from __future__ import annotations

import time
from typing import Any
from zoneinfo import ZoneInfo

from servicebus.client.hosts import SPARE_AFTER_S
from servicebus.client.path import Path
from servicebus.client.request import Request
from servicebus.client.version import Exchange, OutgoingPublish, Pong, Version, Version2
from servicebus.client.watch import Finding, Ping, Pinger
from servicebus.compat.envelope import OldEvent, decode_reply, encode_event
from servicebus.compat.names import PING, PONG, node_queue
from servicebus.compat.texts import fault_from_text, result_from_text
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.paths import Trust
from servicebus.transport.loggers import get_logger
from servicebus.wire.envelope import FAULT, OK, Kind, Reply
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope

LOG = get_logger(__name__)

_UPGRADED_AFTER_S = 5.0
"""How often an agent of 2.x that is in use is asked whether it has been replaced by a new one."""

MOST_HEARD = 100_000
"""So many nodes that were heard in version 2 are remembered: 10 MB of names."""

_CONFIRM = "confirm"
_UPGRADE = "upgrade"


class Version1:
    """Events and texts. Nothing is signed: a reply is believed because it came to an address of ours."""

    def __init__(self, config: Configuration):
        self.exchange = Exchange(config.compat_exchange_name, is_durable=False)
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._tokens = DailyTokens(config.secrets, zone)
        self._max_bytes = config.max_envelope_bytes
        self._has_in_band_errors = config.compat_in_band_errors
        self._gives_values = config.compat_result == "value"

    def __repr__(self) -> str:
        return "<Version1>"

    def outgoing(self, request: Request) -> OutgoingPublish:
        """Raises EnvelopeError: version 1 cannot say it."""
        if request.due_ms is not None and request.due_ms > time.time() * 1000:
            raise EnvelopeError("unencodable", f"node {request.address.node} is of version 2.x, which knows no delay")
        body = PING if request.kind is Kind.CONTROL else self._event(request)
        return OutgoingPublish(self.exchange.name, node_queue(request.address.node), body)

    def read(self, request: Request, body: bytes) -> Reply:
        if request.kind is Kind.CONTROL:
            self.read_pong(request.id, "", body)
            return Reply(request.id, "", OK, body)
        text = decode_reply(body, self._max_bytes).text
        fault = None
        if self._has_in_band_errors:
            fault = fault_from_text(text, request.address.category, request.address.name)
        if fault is not None:
            return Reply(request.id, "", FAULT, b"", fault, request.sent_as)
        return Reply(request.id, "", OK, text.encode())

    def value(self, message: bytes) -> Any:
        text = message.decode()
        return result_from_text(text) if self._gives_values else text

    def ping(self, node: str, wire_id: str, timeout_s: float) -> tuple[str, OutgoingPublish]:
        return "", OutgoingPublish(self.exchange.name, node_queue(node), PING)

    def read_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        if body != PONG:
            raise EnvelopeError("malformed", f"{body[:20]!r} is no pong")
        return Pong(takes_calls=True)

    def cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        return None

    def _event(self, request: Request) -> bytes:
        # The request was sealed in version 2; its params are taken from there, for the few that go to old agents.
        params = decode_envelope(request.body, len(request.body)).params
        token = self._tokens.make(time.time())
        address = request.address
        return encode_event(OldEvent(str(request.event_id), token, address.category, address.name, params))


class RememberingVersion2(Version2):
    """Notes which nodes have been heard in version 2, over whichever broker.

    That is never forgotten: a node would be open to a downgrade again. So once there are as many as is room for, all
    others count as heard, too.
    """

    def __init__(self, config: Configuration, keyring: Keyring):
        super().__init__(config, keyring)
        self._heard: set[str] = set()

    def has_heard(self, node: str) -> bool:
        """Whether *node* has been heard in version 2, as far as is known for certain."""
        return node in self._heard or len(self._heard) >= MOST_HEARD

    def heard(self, node: str) -> None:
        if self.has_heard(node):
            return
        self._heard.add(node)
        if len(self._heard) == MOST_HEARD:
            LOG.warning("%d nodes heard: no other is spoken to in version 1 unless in compat_nodes", MOST_HEARD)

    def read(self, request: Request, body: bytes) -> Reply:
        reply = super().read(request, body)
        node = request.address.node
        if node not in self._heard:
            self.heard(node)
        return reply


class CompatPinger(Pinger):
    """A Pinger that knows two versions, and gives each path the one that its node speaks.

    A broker can let a node seem to be of version 1, whose tokens are good for forging. So a node that was heard in
    version 2 is not spoken to in version 1 any more, unless the configuration names it (``compat_nodes``).
    """

    def __init__(self, config: Configuration, newest: RememberingVersion2, old: Version):
        super().__init__(config)
        self._newest = newest
        self._old = old
        self._named = config.compat_nodes

    def _may_be_old(self, node: str) -> bool:
        return not self._newest.has_heard(node) if self._named is None else node in self._named

    def ping(self, path: Path, now: float) -> None:
        self._send(path, path.version if path.trust.is_healthy else self._newest, now)

    def look_further(self, path: Path, now: float) -> bool:
        if not self._may_be_old(path.node):
            return False
        self._send(path, self._old, now, is_timed=not path.trust.is_healthy)
        return True

    def look_around(self, path: Path, now: float) -> None:
        if path.version is self._old and now >= path.probe_at and now - path.used_at < SPARE_AFTER_S:
            path.probe_at = now + _UPGRADED_AFTER_S
            self._send(path, self._newest, now, why=_UPGRADE, is_timed=False)

    def _ponged(self, ping: Ping, now: float) -> Finding | None:
        path = ping.path
        if ping.version is self._newest:
            self._newest.heard(path.node)
            return self._learned(path, self._newest)
        if not self._may_be_old(path.node):
            return None
        if path.version is self._old and path.trust.is_healthy:
            return Finding(path, is_alive=True)
        self._send(path, self._newest, now, why=_CONFIRM)
        return None

    def _came_back(self, ping: Ping, now: float) -> Finding | None:
        path = ping.path
        if ping.why == _CONFIRM and self._may_be_old(path.node):
            return self._learned(path, self._old)
        if ping.why == _UPGRADE or (ping.version is not path.version and path.trust.is_healthy):
            return None  # what the path speaks, it does not speak in this version
        if ping.version is self._newest and not ping.why and self._may_be_old(path.node):
            self._send(path, self._old, now)
        return Finding(path, is_alive=False)

    def _learned(self, path: Path, version: Version) -> Finding:
        is_news = path.version is not version
        if is_news:
            path.version = version
            path.lacks_queue_until = 0.0
            path.trust = Trust()  # what failed was the version, not the path
            path.probe_at = 0.0
        return Finding(path, is_alive=True, is_news=is_news)
