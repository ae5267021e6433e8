"""What the broker says when a queue is not what it was declared as, or out of reach, taken apart.

RabbitMQ writes (the same from 3.8 to 4.x): ``PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue
'NODE.messages' in vhost '/': received the value 'quorum' of type 'longstr' but current is none``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Conflict", "queue_conflict", "stranded_queue"]

_CONFLICT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for queue '(?P<queue>.+?)' in vhost '.*?': "
    r"received (?P<wanted>.+?) but current is (?P<current>.+)$",
    re.DOTALL,
)
_VALUE = re.compile(r"the value '(\w+)'")
_STRANDED = re.compile(r"home node '[^']*' of durable queue '(.+?)' in vhost '.*' is down or inaccessible", re.DOTALL)


class Conflict(NamedTuple):
    """A queue that exists with another type than it was declared with, or with other arguments."""

    queue: str
    wanted: str
    current: str
    """The type that was declared, and that of the queue; both empty if it is another argument that differs."""


def queue_conflict(reply_text: str) -> Conflict | None:
    """The conflict that a 406 tells of; None if it is not about a queue's arguments."""
    found = _CONFLICT.search(reply_text)
    if found is None:
        return None
    if found["argument"] != "x-queue-type":
        return Conflict(found["queue"], "", "")
    return Conflict(found["queue"], _type_in(found["wanted"]), _type_in(found["current"]))


def stranded_queue(reply_text: str) -> str | None:
    """The durable classic queue whose member of the cluster is away; None if a 404 is about something else."""
    found = _STRANDED.search(reply_text)
    return found and found[1]


def _type_in(text: str) -> str:
    # A classic queue is most often declared without a type: "none".
    found = _VALUE.search(text)
    return found[1] if found else "classic"
