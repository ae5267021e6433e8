"""seal(): one request, signed and written."""

from __future__ import annotations

import time

from servicebus.wire.address import Address
from servicebus.wire.envelope import DIRECT_REPLY_TO, Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import write_event


def seal(
    keyring: Keyring, wire_id: str, address: Address, kind: Kind, timeout_s: float, params: bytes
) -> tuple[str, bytes]:
    """The token and the bytes of a request that is sent now; *params* is JSON text. For any thread.

    Raises:
        EnvelopeError: ``unencodable``; nothing was sent.
    """
    node, category, name = address.node, address.category, address.name
    sent_ms, ttl_ms = int(time.time() * 1000), max(1, int(timeout_s * 1000))
    reply = "" if kind is Kind.MESSAGE else DIRECT_REPLY_TO
    token = keyring.sign_event(wire_id, node, category, name, kind, sent_ms, ttl_ms, reply, params)
    return token, write_event(wire_id, node, category, name, kind, sent_ms, ttl_ms, reply, params, token)
