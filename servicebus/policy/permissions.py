"""Permissions: what each caller with a key of its own may do. The one table of rules, and the one place that decides.

A caller may call, and send messages to, the addresses that a pattern of its ``allow`` fits and none of its ``deny``; it
may publish the events that a pattern of its ``publish`` fits. What no pattern fits it may not. Peers that sign with a
secret of the bus are not asked.

In the patterns of addresses ``*`` stands for any characters of one name and ``?`` for one of them; ``*`` alone stands
for all addresses. In those of events ``*`` stands for one word and ``#`` for any number, as in subscriptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Decision", "Permissions", "Rules"]

EVERYTHING = "*"
NODES_OWN = "servicebus"
"""The category of what a node answers itself."""
_REMEMBERED = 4096
_IN_NAMES = {"*": "[^.]*", "?": "[^.]"}
_WORDS = {"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}


class Rules(NamedTuple):
    """What one caller may do."""

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    publish: Sequence[str] = ()


class Decision(NamedTuple):
    """Whether a caller may do something, and by which rule."""

    is_allowed: bool
    rule: str
    """The key of the configuration, and the pattern that fits, if there is one."""


class Permissions:
    """Of all callers, by their names. For any thread."""

    def __init__(self, callers: Mapping[str, Rules]):
        self._callers = {name: _CallerRules(name, rules) for name, rules in callers.items()}
        self._decided = lru_cache(_REMEMBERED)(self._decide)

    def __repr__(self) -> str:
        return f"<Permissions of {', '.join(self._callers) or 'no callers'}>"

    def decide(self, caller: str, target: str, *, is_event: bool = False) -> Decision:
        """Whether *caller* may call, or send messages to, the address *target*, or publish the event of that name."""
        return self._decided(caller, target, is_event)

    def decide_by_name(self, caller: str, address: str) -> Decision:
        """Whether *caller* may have what a node tells of itself: by a pattern of ``allow`` that names its category.

        A ``*`` in place of the category does not stand for that: what is meant for services gives none of it away.
        """
        rules = self._callers.get(caller)
        return self._decide(caller, address, False) if rules is None else rules.about_node(address)

    def _decide(self, caller: str, target: str, is_event: bool) -> Decision:
        rules = self._callers.get(caller)
        if rules is None:
            return Decision(False, f"callers, which has no {caller!r}")
        return rules.about_event(target) if is_event else rules.about(target)


class _Patterns:
    def __init__(self, key: str, patterns: Sequence[str], regex: Callable[[str], str]):
        self._key = key
        self._compiled = [(pattern, re.compile(regex(pattern))) for pattern in patterns]

    def fitting(self, text: str) -> str:
        """The first pattern that fits *text*, with its key; "" if none does."""
        return next((f"{self._key} {given!r}" for given, compiled in self._compiled if compiled.fullmatch(text)), "")

    def allow(self, text: str) -> Decision:
        fitting = self.fitting(text)
        return Decision(bool(fitting), fitting or f"{self._key}, of which no pattern fits")


class _CallerRules:
    def __init__(self, name: str, rules: Rules):
        self._allow = _Patterns(f"callers.{name}.allow", rules.allow, _address_regex)
        category = [each for each in rules.allow if each.split(".")[1:2] == [NODES_OWN]]
        self._allow_by_name = _Patterns(f"callers.{name}.allow", category, _address_regex)
        self._deny = _Patterns(f"callers.{name}.deny", rules.deny, _address_regex)
        self._publish = _Patterns(f"callers.{name}.publish", rules.publish, _event_regex)

    def about(self, address: str) -> Decision:
        denied = self._deny.fitting(address)
        return Decision(False, denied) if denied else self._allow.allow(address)

    def about_node(self, address: str) -> Decision:
        denied = self._deny.fitting(address)
        return Decision(False, denied) if denied else self._allow_by_name.allow(address)

    def about_event(self, name: str) -> Decision:
        return self._publish.allow(f"{name}.")


def _address_regex(pattern: str) -> str:
    if pattern == EVERYTHING:
        return r"[\s\S]*"
    return "".join(_IN_NAMES.get(char) or re.escape(char) for char in pattern)


def _event_regex(pattern: str) -> str:
    """Of the name with a dot behind it, so that each word has one."""
    return "".join(_WORDS.get(word) or rf"{re.escape(word)}\." for word in pattern.split("."))
