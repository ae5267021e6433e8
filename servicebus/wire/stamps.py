"""Stamps: signed headers of stored messages, each bound to the exact bytes of the body.

A broker lets every client with permission to publish write any header. So a header that decides something is a stamp:
values separated by spaces, and a token over them and the SHA-256 of the body. One that does not verify is ignored.
The stamps of an event are bound to the queue of the subscription, too: each subscription has its own attempts and dead
letters, and those of one mean nothing in another.

Wait stamp:        of a message in a delay queue: when it is due, and which attempts have failed.
Dead-letter stamp: a worker of the node has dead-lettered it: why, when, and after how many attempts.
Requeue ticket:    of a dead letter that was sent back. The journal knows it by the id of the ticket, and it is fresh
                   from when the ticket was made: the journal is done with the message's own id, and its own token may
                   be too old, or made with a retired secret. The ticket vouches for the bytes instead.
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
    "DeadLetterStamp",
    "RequeueTicket",
    "Stamps",
    "WaitStamp",
    "make_requeue_ticket",
    "read_dead_letter_stamp",
    "read_stamps",
    "requeued_id",
    "write_dead_letter_stamp",
    "write_wait",
]

_WAIT = b"servicebus/2 wait"
_DEAD_LETTER = b"servicebus/2 dead letter"
_TICKET = b"servicebus/2 requeue"


class WaitStamp(NamedTuple):
    """The state of a message that a worker put into a delay queue."""

    due_ms: int = 0
    """Unix milliseconds before which it is not run; 0 for at once."""
    attempts: int = 0
    """How often it was run, on any machine, and failed."""
    first: int = 0
    """Unix seconds of the first attempt that failed; 0 if there was none."""


class RequeueTicket(NamedTuple):
    """A valid one."""

    id: str
    """The id by which the journal knows the requeued message."""
    made_ms: int
    """Unix milliseconds."""
    header: str
    """As it was written; copies keep it."""


class Stamps(NamedTuple):
    """The verified headers of a message."""

    ticket: RequeueTicket | None = None
    wait: WaitStamp = WaitStamp()


UNSTAMPED = Stamps()


class DeadLetterStamp(NamedTuple):
    """When and how a worker dead-lettered a message."""

    time: int
    """Unix seconds at which it was dead-lettered."""
    first: int
    """Unix seconds of the first attempt that failed; 0 if there was none."""
    attempts: int
    known_until: int
    """Unix seconds until which the journal knows whether the message has been executed since. 0: it did not know before
    either, as the message was refused before the journal could be asked, or for its age."""
    former: str
    """The id of the ticket with which it had been sent back before; empty if it had not."""


def write_wait(keyring: Keyring, body: bytes, ticket: RequeueTicket | None, wait: WaitStamp, queue: str = "") -> str:
    """The header of a message in a delay queue; of an event with the *queue* of its subscription."""
    bound = (ticket.id if ticket is not None else "", *_of(queue))
    return _write(keyring, _WAIT, body, bound, tuple(map(str, wait)))


def read_stamps(keyring: Keyring, body: bytes, marks: Mapping[str, Any] | None, queue: str = "") -> Stamps:
    """The stamps among the headers *marks* that verify; of an event those of the subscription that has *queue*."""
    if not marks or not (headers.REQUEUED in marks or headers.WAIT in marks):
        return UNSTAMPED
    ticket = read_requeue_ticket(keyring, body, marks.get(headers.REQUEUED), queue)
    bound = (ticket.id if ticket is not None else "", *_of(queue))
    values = _read(keyring, _WAIT, body, bound, marks.get(headers.WAIT), len(WaitStamp._fields))
    return Stamps(ticket, WaitStamp(*map(int, values)) if values else WaitStamp())


def write_dead_letter_stamp(keyring: Keyring, body: bytes, reason: str, stamp: DeadLetterStamp, queue: str = "") -> str:
    """The header of a dead letter; of an event with the *queue* of its subscription."""
    return _write(keyring, _DEAD_LETTER, body, (reason, *_of(queue)), tuple(map(str, stamp)))


def read_dead_letter_stamp(
    keyring: Keyring, body: bytes, reason: str, header: object, queue: str = ""
) -> DeadLetterStamp | None:
    """The stamp in *header*; None if it does not verify."""
    values = _read(keyring, _DEAD_LETTER, body, (reason, *_of(queue)), header, len(DeadLetterStamp._fields))
    if not values:
        return None
    *numbers, former = values
    time, first, attempts, known_until = map(int, numbers)
    return DeadLetterStamp(time, first, attempts, known_until, former)


def make_requeue_ticket(
    keyring: Keyring, letter_id: str, body: bytes, former: str, now_ms: int, queue: str = ""
) -> str:
    """The header of a dead letter that goes back; of an event, into *queue*.

    Args:
        former: of its ``DeadLetterStamp``. Two copies of one dead letter get one id, so that they are run once: neither
            the time nor the attempts count, because a worker that dies before its journal knows of the first copy is
            followed by one that writes a second.
    """
    return _write(keyring, _TICKET, body, _of(queue), (requeued_id(letter_id, former, queue), str(now_ms)))


def requeued_id(letter_id: str, former: str, queue: str = "") -> str:
    """By which the journal knows the run of a dead letter that was sent back; arguments as of the ticket."""
    text = "\0".join((letter_id, former, *_of(queue)))
    return make_id(hashlib.sha256(text.encode()).hexdigest()[:16], 1)


def read_requeue_ticket(keyring: Keyring, body: bytes, header: object, queue: str = "") -> RequeueTicket | None:
    """The ticket in *header*; None if it does not verify for these bytes."""
    values = _read(keyring, _TICKET, body, _of(queue), header, 2)
    return RequeueTicket(values[0], int(values[1]), str(header)) if values else None


def _of(queue: str) -> tuple[str, ...]:
    """One part more than a message has, so that neither's stamp can be taken for the other's."""
    return (queue,) if queue else ()


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
