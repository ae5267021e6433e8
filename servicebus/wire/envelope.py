"""What travels: requests (calls, messages, control) and replies, as frozen values. No XML and no keys here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from servicebus.wire.fault import Fault

__all__ = [
    "CALL",
    "CONTROL",
    "DIRECT_REPLY_TO",
    "EVENT",
    "FAULT",
    "MESSAGE",
    "OK",
    "VERSION",
    "Envelope",
    "EnvelopeDraft",
    "Kind",
    "Reply",
    "ReplyDraft",
    "callers_id",
    "make_id",
]

VERSION = "2"
OK = "ok"
FAULT = "fault"

DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"
"""What a caller signs as its reply address: the broker turns the AMQP property into a longer, unguessable one."""


class Kind(str, Enum):
    """What the receiver does with an envelope."""

    CALL = "call"
    MESSAGE = "message"
    CONTROL = "control"
    EVENT = "event"
    """A message to all who have subscribed to its name. It has no node and no category; its service is its name."""


CALL, MESSAGE, CONTROL, EVENT = Kind
"""For what is asked of every request: a member takes four times as long to look up in its class before Python 3.12."""

More = tuple[int, int, str, str, str]
"""attempt, due_ms, contract, context and stream of an ``Envelope``, together: they say something in few of them."""
FIRST_AND_PLAIN: More = (1, 0, "", "", "")
"""Of nearly all envelopes: a first attempt, and nothing else."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One request. ``params`` is JSON text, UTF-8, byte for byte as on the wire; ``token`` is "" until signed."""

    id: str
    """``<incarnation>-<count>``: 16 lower-case hex digits that name one life of a Sender, and its count from 1."""
    node: str
    category: str
    service: str
    kind: Kind
    sent_ms: int
    """Unix time in milliseconds, by the sender's clock."""
    ttl_ms: int
    """How long after ``sent_ms`` the request is worth anything."""
    reply: str
    """Where the answer goes: ``DIRECT_REPLY_TO``, or "" if no answer is expected."""
    params: bytes
    token: str = ""
    attempt: int = 1
    """How often its Sender has published a call, this time included: each time is signed by itself, under one id."""
    due_ms: int = 0
    """Unix milliseconds before which a delayed message is not executed; 0 for everything else."""
    contract: str = ""
    """The hash of the contract that the caller was built against; "" if it knows none."""
    context: str = field(default="", repr=False)
    """JSON text of the pairs that travel with it (``servicebus._context``), as on the wire; "" if there are none."""
    stream: str = ""
    """The terms on which a call asks for a stream (``servicebus.wire.streams``), as on the wire; "" for no stream."""

    @property
    def incarnation(self) -> str:
        """The life of the Sender that made this envelope."""
        return self.id.partition("-")[0]

    @property
    def count(self) -> int:
        """The Sender's own count, from 1: what ``call()`` and ``send()`` return as event id."""
        return int(self.id.partition("-")[2])

    @property
    def more(self) -> More:
        """What most have as ``FIRST_AND_PLAIN``."""
        return self.attempt, self.due_ms, self.contract, self.context, self.stream

    @property
    def address(self) -> str:
        """``NODE.category.name``; of an event its name."""
        return self.service if self.kind is EVENT else f"{self.node}.{self.category}.{self.service}"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the envelope of the same ``id``: ``message`` (JSON text, UTF-8) if ok, else ``fault``."""

    id: str
    token: str
    status: str
    message: bytes
    fault: Fault | None = None
    attempt: int = 1
    """Which attempt of the request it answers."""


# A frozen dataclass of ten fields takes 1.1 us to make, as each field goes through object.__setattr__; one that is not
# frozen takes 0.2. Both have the same slots, so the codec makes a draft and sets its class.
EnvelopeDraft: Any = make_dataclass("EnvelopeDraft", [(each.name, Any) for each in fields(Envelope)], slots=True)
ReplyDraft: Any = make_dataclass("ReplyDraft", [(each.name, Any) for each in fields(Reply)], slots=True)


def make_id(incarnation: str, count: int) -> str:
    """Join a Sender's incarnation (16 lower-case hex digits) and its count (from 1) to a wire id."""
    return f"{incarnation}-{count}"


def callers_id(id: str, caller: str) -> str:
    """By which a node knows the request *id* of a *caller* with a key of its own.

    So that no caller can have the answer to another's request, end it, or be refused for it, by choosing its id.
    """
    incarnation, _, count = id.partition("-")
    return f"{_callers_incarnation(incarnation, caller)}-{count}"


@lru_cache(maxsize=4096)
def _callers_incarnation(incarnation: str, caller: str) -> str:
    return hashlib.sha256(f"{incarnation}\0caller\0{caller}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
