"""The pass that lets a dead letter in again: signed, good for one burial, and fresh from when it was made.

The letter itself stays as it was sent, so its id is one that the node has done with, and its token may be too old. The
pass is what the journal knows it by instead: whoever requeues the same letter twice, because he was killed in between,
makes the same id, and it is run once.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from servicebus.errors import EnvelopeError
from servicebus.wire.envelope import make_id
from servicebus.wire.signing import Keyring

_DOMAIN = b"servicebus/2 requeue"


class Pass(NamedTuple):
    """What a valid pass says."""

    id: str
    """What the journal knows this letter by."""
    made_ms: int
    """Unix milliseconds."""


def make_pass(keyring: Keyring, letter_id: str, burial: str, now_ms: int) -> str:
    """The header of a letter that goes back.

    Args:
        burial: what tells this burial of the letter from an earlier one.
    """
    id = make_id(hashlib.sha256(f"{letter_id}\0{burial}".encode()).hexdigest()[:16], 1)
    return f"{id} {now_ms} {keyring.sign_bytes(_DOMAIN, letter_id.encode(), id.encode(), str(now_ms).encode())}"


def read_pass(keyring: Keyring, letter_id: str, header: object) -> Pass | None:
    """What *header* allows; None if there is none, or nobody who has the secret made it for this letter."""
    parts = header.split(" ") if isinstance(header, str) else []
    if len(parts) != 3:
        return None
    id, made, token = parts
    try:
        keyring.verify_bytes(token, _DOMAIN, letter_id.encode(), id.encode(), made.encode())
    except EnvelopeError:
        return None
    return Pass(id, int(made))
