"""Paths to agents of py-servicebus 2.x: how a Sender finds out which of them need version 1 of the protocol.

Every path uses the newest version until a pong shows otherwise, and only a pong does: the queue of an agent of 2.x
outlives it, so that a call which is merely accepted there could wait for an agent that never comes, or be run long
after the caller has gone. A new agent with ``compat`` answers in both versions. So the last ping is one of the newest
version: only if that comes back is version 1 used.
"""

from __future__ import annotations

from servicebus.client.nodes import SPARE_AFTER_S, Path
from servicebus.client.watch import Finding, Ping, Pinger
from servicebus.configuration import Configuration
from servicebus.policy.paths import Health
from servicebus.protocol.discovery import Answer
from servicebus.protocol.interface import OutgoingRequest, SenderProtocol
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.loggers import get_logger
from servicebus.wire.envelope import Reply
from servicebus.wire.signing import Keyring

LOG = get_logger(__name__)

_UPGRADED_AFTER_S = 5.0
"""How often an agent of 2.x that is in use is asked whether it has been replaced by a new one."""

MOST_HEARD = 100_000
"""So many nodes that were heard in version 2 are remembered: 10 MB of names."""

_CONFIRM = "confirm"
_UPGRADE = "upgrade"


class TrackingProtocolV2(ProtocolV2):
    """Remembers which nodes have been heard in version 2, over any broker.

    They are never forgotten: a node would be open to a downgrade again. So once there is no room for more, all others
    count as heard, too.
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

    def decode_discovery(self, wire_id: str, token: str, body: bytes) -> Answer:
        answer = super().decode_discovery(wire_id, token, body)
        self.heard(answer.node)
        return answer

    def decode_reply(self, request: OutgoingRequest, body: bytes) -> Reply:
        reply = super().decode_reply(request, body)
        node = request.address.node
        if node not in self._heard:
            self.heard(node)
        return reply


class CompatPinger(Pinger):
    """A Pinger that finds out which of two versions each node speaks, and sets it on its paths.

    A broker can let a node seem to be of version 1, whose tokens are good for forging. So a node that was heard in
    version 2 is not spoken to in version 1 any more, unless the configuration names it (``compat_nodes``).
    """

    def __init__(self, config: Configuration, newest: TrackingProtocolV2, old: SenderProtocol):
        super().__init__(config)
        self._newest = newest
        self._old = old
        self._named = config.compat_nodes

    def _may_be_old(self, node: str) -> bool:
        return not self._newest.has_heard(node) if self._named is None else node in self._named

    def ping(self, path: Path, now: float) -> None:
        self._send(path, path.protocol if path.health.is_healthy else self._newest, now)

    def look_further(self, path: Path, now: float) -> bool:
        if not self._may_be_old(path.node):
            return False
        self._send(path, self._old, now, is_timed=not path.health.is_healthy)
        return True

    def look_around(self, path: Path, now: float) -> None:
        if path.protocol is self._old and now >= path.probe_at and now - path.used_at < SPARE_AFTER_S:
            path.probe_at = now + _UPGRADED_AFTER_S
            self._send(path, self._newest, now, why=_UPGRADE, is_timed=False)

    def _ponged(self, ping: Ping, now: float) -> Finding | None:
        path = ping.path
        if ping.protocol is self._newest:
            self._newest.heard(path.node)
            return self._learned(path, self._newest)
        if not self._may_be_old(path.node):
            return None
        if path.protocol is self._old and path.health.is_healthy:
            return Finding(path, is_alive=True)
        self._send(path, self._newest, now, why=_CONFIRM)
        return None

    def _came_back(self, ping: Ping, now: float) -> Finding | None:
        path = ping.path
        if ping.why == _CONFIRM and self._may_be_old(path.node):
            return self._learned(path, self._old)
        if ping.why == _UPGRADE or (ping.protocol is not path.protocol and path.health.is_healthy):
            return None  # the node uses the version of the path, not this one
        if ping.protocol is self._newest and not ping.why and self._may_be_old(path.node):
            self._send(path, self._old, now)
        return Finding(path, is_alive=False)

    def _learned(self, path: Path, protocol: SenderProtocol) -> Finding:
        is_news = path.protocol is not protocol
        if is_news:
            path.protocol = protocol
            path.lacks_queue_until = 0.0
            path.health = Health()  # what failed was the version, not the path
            path.probe_at = 0.0
        return Finding(path, is_alive=True, is_news=is_news)
