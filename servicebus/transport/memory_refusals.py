"""What a broker in memory refuses, in RabbitMQ's codes and words."""

from __future__ import annotations

__all__ = ["Refusal", "locked", "not_found"]


class Refusal(Exception):
    """Raised when the broker closes a channel instead of an answer."""

    def __init__(self, code: int, text: str):
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def not_found(kind: str, name: str) -> Refusal:
    return Refusal(404, f"NOT_FOUND - no {kind} '{name}' in vhost '/'")


def locked(queue: str) -> Refusal:
    return Refusal(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'")
