"""seal(): one request, signed and written; and once more for each later attempt of a call."""

from __future__ import annotations

import time

from servicebus.wire.address import Address
from servicebus.wire.envelope import DIRECT_REPLY_TO, MESSAGE, Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, write_event


def seal(
    keyring: Keyring, wire_id: str, address: Address, kind: Kind, timeout_s: float, params: bytes, due_ms: int = 0
) -> tuple[str, bytes]:
    """The token and the bytes of a request that is sent now; *params* is JSON text. For any thread.

    Args:
        due_ms: Unix milliseconds before which a message is not executed; 0 for at once.

    Raises:
        EnvelopeError: ``unencodable``; nothing was sent.
    """
    node, category, name = address.node, address.category, address.name
    sent_ms, ttl_ms = int(time.time() * 1000), max(1, int(timeout_s * 1000))
    reply = "" if kind is MESSAGE else DIRECT_REPLY_TO
    token = keyring.sign_event(wire_id, node, category, name, kind, sent_ms, ttl_ms, reply, params, 1, due_ms)
    return token, write_event(wire_id, node, category, name, kind, sent_ms, ttl_ms, reply, params, token, 1, due_ms)


def seal_again(keyring: Keyring, body: bytes, attempt: int, deadline: float, shift_ms: int) -> tuple[str, bytes]:
    """The same for a later attempt of a call whose first is *body*, sent now, *shift_ms* ahead of our clock.

    It ends when the first does, whatever was done to our clock since then: were it good for longer, the node might have
    forgotten the id before.

    Args:
        deadline: of the call, by ``time.monotonic()``.
    """
    e = decode_envelope(body, len(body))
    ttl_ms = max(1, _remaining_ms(deadline))
    sent_ms = max(0, e.sent_ms + e.ttl_ms - ttl_ms + shift_ms)
    names = (e.id, e.node, e.category, e.service, e.kind, sent_ms, ttl_ms, e.reply, e.params)
    token = keyring.sign_event(*names, attempt)
    return token, write_event(*names, token, attempt)


def our_clock_ms(body: bytes, deadline: float) -> int:
    """Now, by the clock that the call *body* was dated with."""
    e = decode_envelope(body, len(body))
    return e.sent_ms + e.ttl_ms - _remaining_ms(deadline)


def _remaining_ms(deadline: float) -> int:
    return int((deadline - time.monotonic()) * 1000)
