"""Every plain key of the top level, with its check and its default; the other keys are in SECTION_KEYS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servicebus.configuration import checks


@dataclass(frozen=True)
class Key:
    """How one key is checked, and what holds where it is not given."""

    check: Callable[[Any], Any]
    default: Any
    attribute: str | None = None
    """The attribute of Configuration, where it is not named like the key."""
    former: str | None = None
    """The key's former name, which is still read, with a warning."""


_port = checks.whole(1, 65535)
_time = checks.seconds()

KEYS: dict[str, Key] = {
    # Brokers: what holds for every host that says nothing else.
    "port": Key(_port, 5672),
    "ssl_port": Key(_port, 5671),
    "user": Key(checks.text, None),
    "password": Key(checks.secret, None),
    "virtual_host": Key(checks.short_name, "/"),
    "exchange_name": Key(checks.short_name, "servicebus"),
    "queue_type": Key(checks.one_of("classic", "quorum"), "classic", "message_queue_type"),
    "priorities": Key(checks.flag, False),
    # Connections.
    "socket_timeout": Key(_time, 5.0),
    "heartbeat_interval": Key(checks.whole(1, 65535), 5),
    "connect_stagger": Key(checks.seconds(zero=True), 0.25),
    "watcher_interval": Key(_time, 2.0),
    "watcher_timeout": Key(_time, 4.0),
    "fast_path": Key(checks.flag, True, former="fast_lane"),
    # The agent.
    "prefetch": Key(checks.whole(1, 65535), 512),
    "workers_per_host": Key(checks.whole(1, 256), 1),
    "queue_len": Key(checks.whole(1, 1_000_000), None),
    "drain_timeout": Key(checks.seconds(zero=True), 30.0),
    "fault_traces": Key(checks.flag, False),
    "middleware": Key(checks.import_paths, ()),
    "retry_schedule": Key(checks.retry_schedule, (1.0, 5.0, 30.0, 120.0, 600.0), former="retry_ladder"),
    # The journal.
    "reply_keep": Key(checks.seconds(zero=True), 3600.0),
    "journal_max_entries": Key(checks.whole(1000, 1_000_000_000), 250_000),
    "journal_max_answer_bytes": Key(checks.whole(0, 1 << 40), 64 * 1024 * 1024),
    # The Sender.
    "call_timeout": Key(_time, 300.0),
    "send_timeout": Key(_time, 30.0),
    "failback_after": Key(checks.seconds(zero=True), 30.0),
    "path_wait": Key(checks.seconds(zero=True), 3.0, former="away_grace"),
    "path_ping_after": Key(_time, 0.3),
    "path_ping_timeout": Key(_time, 1.7),
    "outbox_max_messages": Key(checks.whole(1, 1_000_000_000), 100_000),
    "outbox_max_bytes": Key(checks.whole(1024, 1 << 40), 256 * 1024 * 1024),
    # What is told.
    "traces": Key(checks.part, False),
    # What is accepted.
    "token_max_age": Key(_time, 86400.0),
    "clock_skew": Key(checks.seconds(zero=True), 60.0),
    "max_envelope_bytes": Key(checks.whole(1024, 512 * 1024 * 1024), 8 * 1024 * 1024),
    # py-servicebus 2.x beside us.
    "compat": Key(checks.flag, False),
    "compat_nodes": Key(checks.names, None),
    "compat_exchange_name": Key(checks.short_name, "py-servicebus"),
    "compat_reply": Key(checks.one_of("str", "json"), "str"),
    "compat_result": Key(checks.one_of("text", "value"), "text"),
    "compat_time_zone": Key(checks.time_zone, None),
    "compat_in_band_errors": Key(checks.flag, True),
}

SECTION_KEYS = (
    "hosts",
    "connections",
    "publishers",
    "bridges",
    "secret_token",
    "caller",
    "callers",
    "encryption",
    "node_name",
    "use_ssl",
    "tls",
    "status_socket",
    "metrics",
    "journal",
    "services",
    "logging",
)
"""Keys that ``settings`` reads itself: required, depending on the machine or on other keys, or holding many values."""

ALL_KEYS = (*KEYS, *SECTION_KEYS)
FORMER_KEYS = tuple(key.former for key in KEYS.values() if key.former is not None)
