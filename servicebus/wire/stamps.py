"""Stamps: what stands beside a stored message in its headers, signed together with the exact bytes of its body.

A broker lets every client with permission to publish write any header. So what decides something is written as a stamp:
values separated by spaces, and a token over them and the SHA-256 of the body. What does not verify counts as absent.

``wait``   of a message in a delay queue: when it is due, and which attempts have failed.
``letter`` of a dead letter: a worker of the node has buried it, why, when, and after how many attempts.
``pass``   of a dead letter that was sent back: it is known to the journal by the id of the pass, and fresh from when
           the pass was made; its own id is one that the node has done with, and its own token may be too old, or made
           with a secret that is retired. The pass vouches for these bytes instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from servicebus.errors import EnvelopeError
from servicebus.wire import headers
from servicebus.wire.envelope import make_id
from servicebus.wire.signing import Keyring

__all__ = [
    "UNSTAMPED",
    "LetterStamp",
    "Pass",
    "Stamps",
    "WaitStamp",
    "make_pass",
    "read_letter_stamp",
    "read_stamps",
    "write_letter_stamp",
    "write_wait",
]

_WAIT = b"servicebus/2 wait"
_LETTER = b"servicebus/2 dead letter"
_PASS = b"servicebus/2 requeue"


class WaitStamp(NamedTuple):
    """What a worker says of a message that it put into a delay queue."""

    due_ms: int = 0
    """Unix milliseconds before which it is not run; 0 if nothing says so."""
    attempts: int = 0
    """How often it was run, on any machine, and failed."""
    first: int = 0
    """Unix seconds of the first attempt that failed; 0 if there was none."""


class Pass(NamedTuple):
    """A valid pass."""

    id: str
    """What the journal knows this letter by."""
    made_ms: int
    """Unix milliseconds."""
    header: str
    """As it was written; copies keep it."""


class Stamps(NamedTuple):
    """What is believed of a message's headers."""

    passed: Pass | None = None
    wait: WaitStamp = WaitStamp()


UNSTAMPED = Stamps()


class LetterStamp(NamedTuple):
    """What a worker says of a message that it put among the dead letters."""

    time: int
    """Unix seconds of the burial."""
    first: int
    """Unix seconds of the first attempt that failed; 0 if there was none."""
    attempts: int
    known_until: int
    """Unix seconds until which the node knows whether the message has been executed since. 0: it did not even know
    before, as the message was refused before the journal could be asked, or for its age."""
    former: str
    """The id of the pass with which it had been sent back before; empty if it had not."""


def write_wait(keyring: Keyring, body: bytes, passed: Pass | None, wait: WaitStamp) -> str:
    """The header of a message in a delay queue."""
    return _write(keyring, _WAIT, body, (passed.id if passed is not None else "",), tuple(map(str, wait)))


def read_stamps(keyring: Keyring, body: bytes, marks: Mapping[str, Any] | None) -> Stamps:
    """What the headers *marks* of a message say, as far as it is signed."""
    if not marks or not (headers.REQUEUED in marks or headers.WAIT in marks):
        return UNSTAMPED
    passed = read_pass(keyring, body, marks.get(headers.REQUEUED))
    bound = (passed.id if passed is not None else "",)
    values = _read(keyring, _WAIT, body, bound, marks.get(headers.WAIT), len(WaitStamp._fields))
    return Stamps(passed, WaitStamp(*map(int, values)) if values else WaitStamp())


def write_letter_stamp(keyring: Keyring, body: bytes, reason: str, stamp: LetterStamp) -> str:
    """The header of a dead letter."""
    return _write(keyring, _LETTER, body, (reason,), tuple(map(str, stamp)))


def read_letter_stamp(keyring: Keyring, body: bytes, reason: str, header: object) -> LetterStamp | None:
    """What a worker said of this letter; None if no worker has signed it."""
    values = _read(keyring, _LETTER, body, (reason,), header, len(LetterStamp._fields))
    if not values:
        return None
    *numbers, former = values
    time, first, attempts, known_until = map(int, numbers)
    return LetterStamp(time, first, attempts, known_until, former)


def make_pass(keyring: Keyring, letter_id: str, body: bytes, former: str, now_ms: int) -> str:
    """The header of a letter that goes back.

    Args:
        former: of its ``LetterStamp``. Two letters of one burial get one id, so that they are run once: neither the
            time nor the attempts count, because a worker that dies before its journal knows of the letter is followed
            by one that writes a second letter.
    """
    id = make_id(hashlib.sha256(f"{letter_id}\0{former}".encode()).hexdigest()[:16], 1)
    return _write(keyring, _PASS, body, (), (id, str(now_ms)))


def read_pass(keyring: Keyring, body: bytes, header: object) -> Pass | None:
    """The pass that *header* is; None if it is none, or not made for these bytes with a secret of ours."""
    values = _read(keyring, _PASS, body, (), header, 2)
    return Pass(values[0], int(values[1]), str(header)) if values else None


def _write(keyring: Keyring, domain: bytes, body: bytes, bound: tuple[str, ...], values: tuple[str, ...]) -> str:
    return " ".join((*values, keyring.sign_bytes(domain, *_parts(body, bound, values))))


def _read(
    keyring: Keyring, domain: bytes, body: bytes, bound: tuple[str, ...], header: object, count: int
) -> list[str] | None:
    if not isinstance(header, str):
        return None
    *values, token = header.split(" ", count + 1)
    if len(values) != count:
        return None
    try:
        keyring.verify_bytes(token, domain, *_parts(body, bound, tuple(values)))
    except EnvelopeError:
        return None
    return values


def _parts(body: bytes, bound: tuple[str, ...], values: tuple[str, ...]) -> list[bytes]:
    texts = (text.encode("utf-8", "surrogatepass") for text in (*bound, *values))
    return [hashlib.sha256(body).digest(), *texts]
