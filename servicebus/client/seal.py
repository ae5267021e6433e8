"""seal(): one request, signed and written."""

from __future__ import annotations

import time

from servicebus.wire.address import Address
from servicebus.wire.envelope import DIRECT_REPLY_TO, Kind, build_envelope
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_envelope


def seal(
    keyring: Keyring, wire_id: str, address: Address, kind: Kind, timeout_s: float, params: bytes
) -> tuple[str, bytes]:
    """The token and the bytes of a request that is sent now; *params* is JSON text. For any thread.

    Raises:
        EnvelopeError: ``unencodable``; nothing was sent.
    """
    envelope = build_envelope(
        wire_id,
        address.node,
        address.category,
        address.name,
        kind,
        sent_ms=int(time.time() * 1000),
        ttl_ms=max(1, int(timeout_s * 1000)),
        reply="" if kind is Kind.MESSAGE else DIRECT_REPLY_TO,
        params=params,
    )
    token = keyring.sign_envelope(envelope)
    return token, encode_envelope(envelope, token)
