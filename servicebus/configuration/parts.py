"""The sections ``services:`` and ``logging:``, and the key ``journal``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from servicebus.configuration import checks
from servicebus.configuration.bridges import QUEUE_OPTIONS
from servicebus.configuration.section import Section, show
from servicebus.configuration.values import LoggingSettings, MetricsSettings, Secret, ServiceEntry

_BOTH_KINDS = {
    "threads": checks.whole(1, 1024),
    "lock": checks.text,
    "concurrency": checks.one_of("node"),
    "singleton": checks.flag,
    "priority": checks.whole(0, 9),
}
_OURS = {"encrypted": checks.flag}
SERVICE_OPTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "rpc": {**_BOTH_KINDS, **_OURS, "idempotent": checks.flag, "resumable": checks.flag},
    "message": {**_BOTH_KINDS, **_OURS, "retry": checks.retry_schedule},
    "consume": {**_BOTH_KINDS, "retry": checks.retry_schedule, **QUEUE_OPTIONS},
}
"""Of each kind; what ``ServiceBus.add_rpc_service()``, ``add_message_service()`` and ``Services.consume()`` take."""
_OF_ONE = ("kind", "category", "name", *_BOTH_KINDS, *_OURS, "idempotent", "resumable", "retry", *QUEUE_OPTIONS)
_FORMS: tuple[Literal["target", "function", "group", "entry_point"], ...] = (
    "target",
    "function",
    "group",
    "entry_point",
)
SERVICE_KEYS = (*_OF_ONE, *_FORMS)
LOGGING_KEYS = ("server", "host", "port", "file", "level", "rotate", "keep", "secret", "request_ids")
ROTATE_KEYS = ("when", "max_bytes")
METRICS_KEYS = ("host", "port")

_level = checks.one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", fold=str.upper)


def read_services(section: Section) -> tuple[ServiceEntry, ...]:
    """All entries of ``services:``, in their order."""
    found: dict[tuple[str, str, str], ServiceEntry] = {}
    for at, value in section.items("services"):
        entry = _read_service(Section(value, SERVICE_KEYS, section.where, at))
        identity = (entry.kind, entry.category, entry.name or entry.target)
        if identity in found and not entry.name:
            section.where.fail(at, f"{show(at)} names the same group a second time")
        if identity in found:
            section.where.fail(at, f"{show(at)} is {entry.kind} service {entry.category}.{entry.name} a second time")
        found[identity] = entry
    return tuple(found.values())


def _read_service(section: Section) -> ServiceEntry:
    given = [form for form in _FORMS if form in section]
    if len(given) > 1:
        section.where.fail(section.at, f"{show(section.at)} takes one of {' and '.join(given)}, not both")
    form = given[0] if given else "target"
    if form in ("group", "entry_point"):
        return _read_group(section, form)
    kind: Literal["rpc", "message", "consume"] = section.require("kind", checks.one_of("rpc", "message", "consume"))
    if kind == "consume":
        section.require("queue", checks.short_name)
        if form != "function":
            section.where.fail(section.at, f"{show(section.at)} consumes, so it takes a function, no {form}")
    return ServiceEntry(
        kind=kind,
        category=section.require("category", checks.name),
        name=section.require("name", checks.name),
        target=section.require(form, _class_path if form == "target" else checks.import_path),
        options=_read_options(section, kind),
        line=section.where.line(section.at),
        form=form,
    )


def _read_group(section: Section, form: Literal["group", "entry_point"]) -> ServiceEntry:
    for key in _OF_ONE:
        if key in section:
            at = (*section.at, key)
            section.where.fail(at, f"{show(at)} does not go with {form}: a group says itself what it serves")
    target = section.require(form, checks.import_path if form == "group" else checks.text)
    return ServiceEntry("", "", "", target, line=section.where.line(section.at), form=form)


def _read_options(section: Section, kind: str) -> dict[str, Any]:
    for other, options in SERVICE_OPTIONS.items():
        for key in options:
            if key in section and key not in SERVICE_OPTIONS[kind]:
                at = (*section.at, key)
                section.where.fail(at, f"{show(at)} is for a service of kind {other}; this one is of kind {kind}")
    found = {key: section.checked(key, check) for key, check in SERVICE_OPTIONS[kind].items() if key in section}
    if sum(("lock" in found, "concurrency" in found, bool(found.get("singleton")))) > 1:
        section.where.fail(section.at, f"{show(section.at)} takes one of lock, concurrency and singleton, not two")
    return found


def _class_path(value: Any) -> str:
    return checks.import_path(value, "package.module:Class")


def read_logging(section: Section, secrets: tuple[Secret, ...]) -> LoggingSettings:
    """The mapping ``logging:``, or what holds without one. *secrets* are the bus's: the default of ``secret``."""
    given = section.section("logging", LOGGING_KEYS)
    if given is None:
        return LoggingSettings(secrets=secrets)
    when, max_bytes = _read_rotate(given)
    found = LoggingSettings(
        configured=True,
        start_server=given.take("server", checks.flag, False),
        host=given.take("host", checks.text, "127.0.0.1"),
        port=given.take("port", checks.whole(1, 65535), 5500),
        file=given.path("file", checks.text),
        level=given.take("level", _level, "INFO"),
        rotate_when="midnight" if when else None,
        rotate_max_bytes=max_bytes,
        keep=given.take("keep", checks.whole(0, 100_000), 15),
        secrets=given.take("secret", checks.secrets, secrets),
        request_ids=given.take("request_ids", checks.flag, False),
    )
    if found.start_server and found.file is None:
        given.where.fail((*given.at, "server"), "logging.server is true, so logging.file must say which file to write")
    return found


def _read_rotate(section: Section) -> tuple[bool, int | None]:
    """Whether the file is rotated at midnight, and at which size."""
    given = section.section("rotate", ROTATE_KEYS)
    if given is None:
        return True, None
    max_bytes = given.take("max_bytes", checks.whole(4096, 1 << 40), None)
    if max_bytes is not None and "when" in given:
        given.where.fail(given.at, "logging.rotate takes one of when and max_bytes, not both")
    given.take("when", checks.one_of("midnight"), "midnight")
    return max_bytes is None, max_bytes


def read_metrics(section: Section) -> MetricsSettings | None:
    """The mapping ``metrics:``; None without one. All that it says may be left to the defaults: ``metrics: {}``."""
    given = section.section("metrics", METRICS_KEYS)
    if given is None:
        return None
    default = MetricsSettings()
    host = given.take("host", checks.text, default.host)
    return MetricsSettings(host, given.take("port", checks.whole(1, 65535), default.port))


def read_journal(section: Section) -> Secret | None:
    """Where the journal is kept."""
    given = section.take("journal", checks.text, None)
    if given is None or given == "memory" or "://" in given:
        return None if given is None else Secret(given)
    found = section.path("journal", checks.text)
    return None if found is None else Secret(found)
