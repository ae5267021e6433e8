"""The section ``callers:`` and the key ``caller``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from servicebus.configuration import checks
from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.section import Section, show
from servicebus.configuration.values import CallerEntry, Secret

__all__ = ["CALLER_KEYS", "addresses", "events", "read_caller", "read_callers"]

CALLER_KEYS = ("key", "allow", "deny", "publish")
_ADDRESS = re.compile(r"\*|[^.\s]+\.[^.\s]+\.[^.\s]+")
_EVENT = re.compile(r"(?:[*#]|[^.\s*#]+)(?:\.(?:[*#]|[^.\s*#]+))*")


def read_callers(section: Section, bus: tuple[Secret, ...]) -> dict[str, CallerEntry]:
    """The mapping ``callers:`` by its names; none without it. *bus* are the secrets that no caller may have."""
    found: dict[str, CallerEntry] = {}
    owners = dict.fromkeys(bus, "secret_token")
    for at, given, value in section.entries("callers"):
        name, one = _read_name(section, given, value), Section(value, CALLER_KEYS, section.where, at)
        found[name] = entry = CallerEntry(
            name,
            one.require("key", checks.secrets),
            one.take("allow", addresses, ()),
            one.take("deny", addresses, ()),
            one.take("publish", events, ()),
        )
        for key in entry.keys:
            if owners.setdefault(key, show(at)) != show(at):
                section.where.fail((*at, "key"), f"{show(at)}.key is that of {owners[key]} already")
    return found


def _read_name(section: Section, given: Any, value: Any) -> str:
    """A name is shown in errors only where a mapping stands behind it: else it may be a key in its place."""
    if not isinstance(value, Mapping):
        section.where.fail(("callers",), f"callers must have a mapping with {', '.join(CALLER_KEYS)} for each name")
    try:
        return checks.name(given)
    except Unacceptable as problem:
        section.where.fail(("callers",), f"a name in callers {problem}")


def read_caller(section: Section, callers: Mapping[str, CallerEntry]) -> str | None:
    """As which caller Senders sign."""
    name = section.take("caller", checks.name, None)
    if name is not None and callers and name not in callers:
        section.where.fail(("caller",), "caller is none of those in callers")
    return name


def addresses(value: Any) -> tuple[str, ...]:
    """Patterns of addresses."""
    return _patterns(value, _ADDRESS, 'of addresses such as "*.math.*", or "*" for all')


def events(value: Any) -> tuple[str, ...]:
    """Patterns of events."""
    return _patterns(value, _EVENT, 'of events such as "orders.*" or "#"')


def _patterns(value: Any, form: re.Pattern[str], wanted: str) -> tuple[str, ...]:
    found = checks.listed(value, f"must be a list of patterns {wanted}")
    if not all(isinstance(each, str) and form.fullmatch(each) for each in found):
        raise Unacceptable(f"must be patterns {wanted}")
    return tuple(found)
