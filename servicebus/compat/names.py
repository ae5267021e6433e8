"""What py-servicebus 2.x calls its entities, and the four bytes of its ping."""

from __future__ import annotations

__all__ = ["PING", "PONG", "is_own_queue", "node_queue"]

PING = b"PING"
PONG = b"PONG"

# Server-named queues, and the addresses of direct reply-to: neither can be guessed, or be the queue of a node.
_OWN_QUEUES = ("amq.gen-", "amq.rabbitmq.reply-to.")


def node_queue(node: str) -> str:
    """The one queue of a node, for calls, messages and pings; also its routing key."""
    return node


def is_own_queue(reply_to: str) -> bool:
    """Whether *reply_to* can only be a queue that the sender made for itself.

    The agents of 2.x answer to whatever queue a request names, so that a stranger can have them write to any.
    """
    return reply_to.startswith(_OWN_QUEUES)
