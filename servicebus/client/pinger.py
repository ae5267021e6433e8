"""Pinger: signed pings over a path, and the pongs that prove the node behind it alive."""

from __future__ import annotations

import itertools
import os

from servicebus.client.path import Path
from servicebus.client.seal import seal
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.wire.address import Address, control_queue
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_reply

_REMEMBERED_PINGS = 4096


class Pinger:
    """Belongs to the engine's thread. Pings have ids of their own, so that event ids count calls only."""

    def __init__(self, config: Configuration, keyring: Keyring):
        self._config = config
        self._keyring = keyring
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)
        self._pending: dict[str, tuple[Path, str]] = {}

    def __repr__(self) -> str:
        return f"<Pinger pending={len(self._pending)}>"

    @property
    def is_waiting(self) -> bool:
        return bool(self._pending)

    def ping(self, path: Path, now: float) -> None:
        timeout_s = self._config.path_ping_timeout
        wire_id = make_id(self._incarnation, next(self._count))
        address = Address(path.node, "servicebus", "ping")
        token, body = seal(self._keyring, wire_id, address, Kind.CONTROL, timeout_s, b"null")
        while len(self._pending) >= _REMEMBERED_PINGS:
            self._pending.pop(next(iter(self._pending)))
        self._pending[wire_id] = (path, token)
        if path.clock.pinged_at is None:  # the time to answer runs from the first of several pings
            path.link_bytes_at_ping = path.link.bytes_received
            path.clock.pinged(now)
        path.link.publish_control(control_queue(path.node), wire_id, body, int(timeout_s * 1000))

    def knows(self, wire_id: str) -> bool:
        return wire_id in self._pending

    def answered(self, wire_id: str, body: bytes) -> Path | None:
        """The path that a pong to *wire_id* speaks for; None if it cannot be believed."""
        path, token = self._pending[wire_id]
        try:
            reply = decode_reply(body, self._config.max_envelope_bytes)
            self._keyring.verify_reply(reply, token)
        except EnvelopeError as error:
            path.doubt = f"answered a ping, but cannot be believed ({error})"
            return None
        if reply.id != wire_id or reply.fault is not None:
            path.doubt = f"answered a ping with {reply.fault or 'the id of another'}"
            return None
        del self._pending[wire_id]
        return path

    def returned(self, wire_id: str) -> Path | None:
        """The path whose ping *wire_id* came back unroutable; None if that was no ping."""
        pending = self._pending.pop(wire_id, None)
        return pending[0] if pending is not None else None
