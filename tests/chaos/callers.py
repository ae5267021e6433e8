"""The named callers of the rig: their rules, what each may do, and their keys, which are changed during a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CHANGING", "FLEET", "RULES", "WISHES", "CallerKeys", "Wish", "caller_number", "signs_as"]

FLEET = "fleet"
"""As which every second Sender process signs. Its key stays."""
RULES: dict[str, dict[str, Any]] = {
    FLEET: {"allow": "*", "deny": ["*.*.vault"], "publish": ["#"]},
    "shop": {"allow": ["*.work.*", "*.jobs.*"], "deny": ["*.*.vault"], "publish": ["chaos.plain"]},
    "books": {"allow": ["NODE-1.work.*", "*.jobs.record"], "publish": ["*.told", "none.#"]},
}
CHANGING = ("shop", "books")
"""Programs of their own, which are given other keys."""


@dataclass(frozen=True)
class Wish:
    """Something that a caller does."""

    kind: str
    """``call``, ``message`` or ``event``."""
    target: str
    """``category.name`` of a service, or the name of an event."""
    may: Sequence[str] | None
    """The nodes at which it may do that; None for all of them."""


WISHES: dict[str, Sequence[Wish]] = {
    "shop": (
        Wish("call", "work.echo", None),
        Wish("call", "work.vault", ()),
        Wish("message", "jobs.flaky", None),
        Wish("message", "jobs.vault", ()),
        Wish("event", "chaos.plain", None),
        Wish("event", "chaos.flaky", ()),
    ),
    "books": (
        Wish("call", "work.echo", ("NODE-1",)),
        Wish("message", "jobs.record", None),
        Wish("message", "jobs.flaky", ()),
        Wish("event", "chaos.plain", ()),
    ),
}
"""Written down by hand, and not asked of the code that is tested."""


def caller_number(name: str) -> int:
    """By which the ops of that caller's program are known; no Sender process has it."""
    return 901 + CHANGING.index(name)


@dataclass
class CallerKeys:
    """Which keys the agents know of each caller, the newest first, and all that there ever were."""

    known: dict[str, list[str]] = field(default_factory=lambda: {name: [_key(name, 1)] for name in RULES})
    ever: list[str] = field(default_factory=lambda: [_key(name, 1) for name in RULES])

    def section(self) -> dict[str, Any]:
        """``callers:`` of an agent."""
        return {name: {**rules, "key": list(self.known[name])} for name, rules in RULES.items()}

    def add(self, name: str, in_use: str) -> str:
        """A further key of that caller, beside the one that it uses; what it had before that is not good any more."""
        key = _key(name, len(self.ever))
        self.known[name] = [key, in_use]
        self.ever.append(key)
        return key


def _key(name: str, number: int) -> str:
    return hashlib.sha256(f"key {number} of {name}".encode()).hexdigest()


def signs_as(configuration: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """The *configuration* of a Sender that is the caller *name*."""
    return {**configuration, "caller": name, "secret_token": key}
