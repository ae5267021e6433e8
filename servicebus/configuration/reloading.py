"""Reloading: which settings a running agent takes over when its file is read again, and what has changed in them.

An agent replaces its workers one after another by others that have the new configuration. What the master does once,
before it forks, needs a restart: until then the agent keeps the former value, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from servicebus.configuration.keys import ALL_KEYS, KEYS
from servicebus.configuration.settings import Configuration
from servicebus.configuration.values import Secret, ServiceEntry

__all__ = ["APPLIED", "NEEDS_RESTART", "Reloaded", "SettingChange", "changes", "reloaded"]

NEEDS_RESTART: Mapping[str, str] = {
    "node_name": "its queues and its journal are called by it",
    "journal": "workers with two journals would run a request twice",
    "services": "classes and functions are imported once, before the workers are forked; but see TUNED",
    "middleware": "as services",
    "bridges": "servicebus bridge reads it, and no agent does",
    "status_socket": "commands find the agent by it",
}
"""Why the former value holds until the agent is started again."""

TUNED = frozenset({"threads", "retry", "priority"})
"""Options of services that are applied all the same, where nothing else of ``services`` has changed."""

APPLIED = (
    # Of each worker.
    *("hosts", "connections", "port", "ssl_port", "user", "password", "virtual_host", "use_ssl", "tls"),
    *("exchange_name", "queue_type", "priorities", "publishers"),
    *("secret_token", "caller", "callers", "encryption"),
    *("socket_timeout", "heartbeat_interval", "connect_stagger", "watcher_interval", "watcher_timeout", "fast_path"),
    *("prefetch", "workers_per_host", "queue_len", "fault_traces", "retry_schedule"),
    *("reply_keep", "journal_max_entries", "journal_max_answer_bytes"),
    *("token_max_age", "clock_skew", "max_envelope_bytes"),
    *("compat", "compat_nodes", "compat_exchange_name", "compat_reply", "compat_result", "compat_time_zone"),
    "compat_in_band_errors",
    # Of the Sender that its services share.
    *("call_timeout", "send_timeout", "failback_after", "path_wait", "path_ping_after", "path_ping_timeout"),
    *("outbox_max_messages", "outbox_max_bytes"),
    # Of the master.
    *("drain_timeout", "metrics", "logging"),
    # Of workers and their Sender.
    "traces",
)
"""What holds from a reload on."""


class SettingChange(NamedTuple):
    """One setting that is another now; *what* never shows a secret."""

    key: str
    what: str


class Reloaded(NamedTuple):
    """What becomes of a configuration that was read again."""

    configuration: Configuration
    """The new one, with the former values of what needs a restart."""
    changed: list[SettingChange]
    needs_restart: list[SettingChange]


def reloaded(running: Configuration, given: Configuration) -> Reloaded:
    """What an agent that runs with *running* makes of *given*."""
    pending = [
        change
        for change in changes(running, given)
        if change.key in NEEDS_RESTART and not (change.key == "services" and _is_tuned(running, given))
    ]
    kept = {_attribute(change.key): getattr(running, _attribute(change.key)) for change in pending}
    if "node_name" in kept:
        kept["names_node"] = running.names_node
    found = given.replaced(**kept)
    return Reloaded(found, changes(running, found), pending)


def changes(former: Configuration, present: Configuration) -> list[SettingChange]:
    """The settings that differ."""
    pairs = ((key, getattr(former, _attribute(key)), getattr(present, _attribute(key))) for key in ALL_KEYS)
    return [SettingChange(key, _difference(before, after)) for key, before, after in pairs if before != after]


def _is_tuned(running: Configuration, given: Configuration) -> bool:
    """The services are the same, but for TUNED."""

    def rest(services: Iterable[ServiceEntry]) -> list[ServiceEntry]:
        return [replace(each, options=_untuned(each)) for each in services]

    return rest(running.services) == rest(given.services)


def _untuned(entry: ServiceEntry) -> dict[str, Any]:
    tuned = TUNED if entry.kind in ("rpc", "message") else ()  # a group says itself how it is run
    return {name: value for name, value in entry.options.items() if name not in tuned}


def _attribute(key: str) -> str:
    return (KEYS[key].attribute or key) if key in KEYS else key


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, Secret) or isinstance(after, Secret):
        return "changed"
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return _names(before, after)
    if _is_plain(before) and _is_plain(after):
        return f"{_shown(after)}, was {_shown(before)}"
    if before is None or after is None:
        return "added" if before is None else "removed"
    if is_dataclass(before) and is_dataclass(after):
        names = [field.name for field in fields(before)]
        pairs = ((name, getattr(before, name), getattr(after, name)) for name in names)
        return ", ".join(f"{name}: {_difference(one, other)}" for name, one, other in pairs if one != other)
    named = _by_name(before), _by_name(after)
    return _names(*named) if all(named) else "changed"


def _names(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    said = [f"{name} added" for name in after if name not in before]
    said += [f"{name} removed" for name in before if name not in after]
    said += [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    return ", ".join(said) or "in another order"


def _by_name(values: Iterable[Any]) -> dict[str, Any]:
    """Brokers and services by what they are called; nothing if the values have no names."""
    return {str(name): each for each in values if (name := _name_of(each))}


def _name_of(value: Any) -> str:
    name = getattr(value, "name", "")
    category = getattr(value, "category", "")
    return f"{category}.{name}" if category else name or getattr(value, "target", "")


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
